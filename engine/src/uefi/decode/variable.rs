//! `UEFI_VARIABLE_DATA`.

use crate::bytes::Reader;
use crate::limits;
use crate::malformed::{Fault, Malformed};

use super::guid::Guid;

/// A variable that firmware measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UefiVariable<'a> {
    /// The vendor whose name space the name belongs to.
    pub vendor: Guid,
    /// The name. Two variables are the same only when vendor and name agree.
    pub name: String,
    /// The value.
    pub data: &'a [u8],
    /// Bytes after the value: old versions of shim log up to six of them.
    pub trailing_bytes: usize,
}

/// More bytes than this after the value are malformed: the padding of a C structure of eight-byte
/// alignment, minus what shim subtracts, and the byte it logs but does not measure.
const TRAILING_BYTES_MAX: usize = 6;

impl<'a> UefiVariable<'a> {
    /// Parses the data of an `EV_EFI_VARIABLE_*` event.
    ///
    /// # Errors
    /// [`Malformed`], also when the name is not UTF-16.
    ///
    /// Source: PFP 1.06, section 10.2.6 "UEFI_VARIABLE_DATA Structure".
    pub fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let fields = fields(data)?;
        let units = fields
            .name
            .chunks_exact(2)
            .filter_map(|unit| unit.try_into().ok().map(u16::from_le_bytes));
        let name: Result<String, _> = char::decode_utf16(units).collect();
        let name = name.map_err(|_| Malformed {
            structure: "UEFI_VARIABLE_DATA",
            field: "UnicodeName",
            offset: 32,
            fault: Fault::Syntax { expected: "UTF-16" },
        })?;
        Ok(Self {
            vendor: fields.vendor,
            name,
            data: fields.value,
            trailing_bytes: fields.trailing_bytes,
        })
    }

    /// Whether this variable says that Secure Boot is on; `None` when it is another variable or
    /// has another value than 0 or 1.
    ///
    /// Source: UEFI 2.10, table 3.1 "Global Variables", SecureBoot.
    pub fn secure_boot_enabled(&self) -> Option<bool> {
        if self.vendor != Guid::GLOBAL_VARIABLE || self.name != "SecureBoot" {
            return None;
        }
        match self.data {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

/// Only the VariableData of a `UEFI_VARIABLE_DATA`.
pub(in crate::uefi) fn variable_data(data: &[u8]) -> Result<&[u8], Malformed> {
    fields(data).map(|fields| fields.value)
}

/// The fields as they stand in the log, the name in UTF-16.
struct Fields<'a> {
    vendor: Guid,
    name: &'a [u8],
    value: &'a [u8],
    trailing_bytes: usize,
}

fn fields(data: &[u8]) -> Result<Fields<'_>, Malformed> {
    let mut reader = Reader::new("UEFI_VARIABLE_DATA", data);
    let vendor = Guid::read(&mut reader, "VariableName")?;
    let before = reader.clone();
    let name_units = usize::try_from(reader.u64_le("UnicodeNameLength")?).unwrap_or(usize::MAX);
    let name_bytes = name_units.saturating_mul(2);
    if name_bytes > limits::UEFI_VARIABLE_NAME_BYTES_MAX {
        let fault = Fault::Length {
            value: name_bytes,
            min: 0,
            max: limits::UEFI_VARIABLE_NAME_BYTES_MAX,
        };
        return Err(before.fault("UnicodeNameLength", fault));
    }
    let value_bytes = usize::try_from(reader.u64_le("VariableDataLength")?).unwrap_or(usize::MAX);
    let name = reader.take("UnicodeName", name_bytes)?;
    let value = reader.take("VariableData", value_bytes)?;
    let trailing_bytes = reader.rest().len();
    if trailing_bytes > TRAILING_BYTES_MAX {
        let bytes = trailing_bytes;
        return Err(reader.fault("end", Fault::Trailing { bytes }));
    }
    Ok(Fields {
        vendor,
        name,
        value,
        trailing_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secure_boot(value: &[u8]) -> Vec<u8> {
        let mut data = hex::decode("61dfe48bca93d211aa0d00e098032b8c").unwrap();
        data.extend(10_u64.to_le_bytes());
        data.extend(u64::try_from(value.len()).unwrap().to_le_bytes());
        data.extend("SecureBoot".encode_utf16().flat_map(u16::to_le_bytes));
        data.extend(value);
        data
    }

    #[test]
    fn e05_secure_boot_is_read_from_vendor_and_name() {
        for (value, expected) in [
            (&[0_u8][..], Some(false)),
            (&[1], Some(true)),
            (&[2], None),
            (&[], None),
            (&[1, 0], None),
        ] {
            let data = secure_boot(value);
            let variable = UefiVariable::parse(&data).unwrap();
            assert_eq!(variable.name, "SecureBoot");
            assert_eq!(variable.secure_boot_enabled(), expected);
        }
        let mut other_vendor = secure_boot(&[1]);
        other_vendor[0] ^= 1;
        let variable = UefiVariable::parse(&other_vendor).unwrap();
        assert_eq!(variable.secure_boot_enabled(), None);
    }

    #[test]
    fn e04_lengths_are_bounded_before_use() {
        let good = secure_boot(&[1]);
        for (at, length) in [(16, u64::MAX), (16, 1 << 63), (24, u64::MAX), (24, 2)] {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&length.to_le_bytes());
            UefiVariable::parse(&bad).unwrap_err();
        }
        let mut padded = good.clone();
        padded.extend([0; 6]);
        assert_eq!(UefiVariable::parse(&padded).unwrap().trailing_bytes, 6);
        padded.push(0);
        UefiVariable::parse(&padded).unwrap_err();
        for end in 0..good.len() {
            UefiVariable::parse(&good[..end]).unwrap_err();
        }
    }
}
