//! EFI_GUID.

use std::fmt;

use crate::bytes::Reader;
use crate::malformed::Malformed;

/// An EFI_GUID, as its sixteen bytes stand in memory.
///
/// Source: UEFI 2.10, appendix A "GUID and Time Formats": the first three fields are
/// little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

impl Guid {
    /// `EFI_GLOBAL_VARIABLE`: SecureBoot, PK, KEK, BootOrder.
    pub const GLOBAL_VARIABLE: Self = Self::new(0x8be4_df61_93ca_11d2_aa0d_00e0_9803_2b8c);
    /// `EFI_IMAGE_SECURITY_DATABASE_GUID`: db, dbx.
    pub const IMAGE_SECURITY_DATABASE: Self = Self::new(0xd719_b2cb_3d3a_4596_a3bc_dad0_0e67_656f);
    /// The variables of shim: MokList, SbatLevel.
    pub const SHIM_LOCK: Self = Self::new(0x605d_ab50_e046_4300_abb6_3dd8_10dd_8b23);
    /// `EFI_CERT_SHA256_GUID`: a signature list of SHA-256 digests of images.
    pub const CERT_SHA256: Self = Self::new(0xc1c4_1626_504c_4092_aca9_41f9_3693_4328);
    /// `EFI_CERT_X509_GUID`: a signature list of X.509 certificates.
    pub const CERT_X509: Self = Self::new(0xa5c0_59a1_94e4_4aa7_87b5_ab15_5c2b_f072);

    /// The GUID whose text form has these hexadecimal digits.
    pub const fn new(text: u128) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = text.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = rest;
        Self([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
    }

    /// The GUID with these bytes in memory.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The GUID of this text; upper-case digits are read too.
    pub fn from_text(text: &str) -> Option<Self> {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut joined = String::with_capacity(32);
        let mut parts = text.split('-');
        for length in [8, 4, 4, 4, 12] {
            let part = parts.next()?;
            if part.len() != length || !digits(part) {
                return None;
            }
            joined.push_str(part);
        }
        if parts.next().is_some() {
            return None;
        }
        u128::from_str_radix(&joined, 16).ok().map(Self::new)
    }

    /// The GUID whose text has the bytes of this one's memory in their order.
    ///
    /// tpm2-tools before 5.2 wrote GUIDs so (keylime#1003), and reference states made with them
    /// hold such texts.
    #[must_use]
    pub const fn swapped(self) -> Self {
        Self::new(u128::from_be_bytes(self.0))
    }

    pub(super) fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, Malformed> {
        reader.array(field).map(Self)
    }
}

/// Lower-case, `8be4df61-93ca-11d2-aa0d-00e098032b8c`.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [d, c, b, a, fi, e, h, g, i, j, rest @ ..] = self.0;
        let high = u32::from_be_bytes([a, b, c, d]);
        let middle = u16::from_be_bytes([e, fi]);
        let low = u16::from_be_bytes([g, h]);
        let clock = u16::from_be_bytes([i, j]);
        write!(f, "{high:08x}-{middle:04x}-{low:04x}-{clock:04x}-")?;
        rest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_memory_order() {
        let guid = Guid::GLOBAL_VARIABLE;
        assert_eq!(guid.to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
        assert_eq!(guid.0[..4], [0x61, 0xdf, 0xe4, 0x8b]);
        assert_eq!(Guid::from_text(&guid.to_string()), Some(guid));
        let swapped = "61dfe48b-ca93-d211-aa0d-00e098032b8c";
        assert_eq!(Guid::from_text(swapped).map(Guid::swapped), Some(guid));
        for text in [
            "",
            "8be4df61-93ca-11d2-aa0d-00e098032b8",
            "+be4df61-93ca-11d2-aa0d-00e098032b8c",
        ] {
            assert_eq!(Guid::from_text(text), None);
        }
    }
}
