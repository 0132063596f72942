//! What a key in a TPM may do, and whether that is what an attestation or endorsement key must.

use std::fmt;

use thiserror::Error;

use crate::hash::HashAlg;
use crate::tpm::public::{Public, PublicKey, Symmetric};

/// `TPMA_OBJECT`: attribute bits of an object, reserved bits clear.
///
/// Source: TPM 2.0 Part 2, 8.3 `TPMA_OBJECT`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectAttributes(u32);

impl ObjectAttributes {
    /// No attribute.
    pub const NONE: Self = Self(0);
    /// The object can never leave its TPM.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// Saved contexts of the object do not survive a TPM Reset or Restart.
    pub const ST_CLEAR: Self = Self(1 << 2);
    /// The object can never change its parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM made the private part itself.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// Use with the authorisation value is allowed.
    pub const USER_WITH_AUTH: Self = Self(1 << 6);
    /// Administration needs the policy.
    pub const ADMIN_WITH_POLICY: Self = Self(1 << 7);
    /// The object exists for one version of the firmware.
    pub const FIRMWARE_LIMITED: Self = Self(1 << 8);
    /// The object exists for one security version of the firmware.
    pub const SVN_LIMITED: Self = Self(1 << 9);
    /// Dictionary attack protection does not apply.
    pub const NO_DA: Self = Self(1 << 10);
    /// Duplication must be encrypted.
    pub const ENCRYPTED_DUPLICATION: Self = Self(1 << 11);
    /// The key works on data of the TPM's own formats only.
    pub const RESTRICTED: Self = Self(1 << 16);
    /// The private part decrypts.
    pub const DECRYPT: Self = Self(1 << 17);
    /// The private part signs.
    pub const SIGN: Self = Self(1 << 18);
    /// The private part signs X.509 certificates only.
    pub const X509_SIGN: Self = Self(1 << 19);

    /// Every attribute with the specification's name of it.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::FIXED_TPM, "fixedTPM"),
        (Self::ST_CLEAR, "stClear"),
        (Self::FIXED_PARENT, "fixedParent"),
        (Self::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (Self::USER_WITH_AUTH, "userWithAuth"),
        (Self::ADMIN_WITH_POLICY, "adminWithPolicy"),
        (Self::FIRMWARE_LIMITED, "firmwareLimited"),
        (Self::SVN_LIMITED, "svnLimited"),
        (Self::NO_DA, "noDA"),
        (Self::ENCRYPTED_DUPLICATION, "encryptedDuplication"),
        (Self::RESTRICTED, "restricted"),
        (Self::DECRYPT, "decrypt"),
        (Self::SIGN, "sign"),
        (Self::X509_SIGN, "x509sign"),
    ];

    /// The attributes with these bits; else the reserved bits that are set.
    pub(crate) fn new(bits: u32) -> Result<Self, u32> {
        let known = Self::ALL
            .iter()
            .fold(Self::NONE, |all, (one, _)| all.union(*one));
        match bits & !known.0 {
            0 => Ok(Self(bits)),
            reserved => Err(reserved),
        }
    }

    /// The bits, as on the wire.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Attributes of either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Attributes of this that are not in the other.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all attributes of the other are in this.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// `fixedTPM|sign`: the specification's names.
impl fmt::Display for ObjectAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (_, name) in Self::ALL.iter().filter(|(one, _)| self.contains(*one)) {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectAttributes({self})")
    }
}

/// Why a key cannot be an attestation key, or cannot be an endorsement key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyAttributeError {
    /// Attributes that it must have are not set.
    #[error("attributes {0} are missing")]
    Missing(ObjectAttributes),
    /// Attributes that it must not have are set.
    #[error("attributes {0} must not be set")]
    Forbidden(ObjectAttributes),
    /// A signing key without a fixed scheme signs with whatever the sender of the command likes.
    #[error("the key has no fixed signing scheme")]
    SchemeMissing,
    /// The scheme, by its TCG identifier, is not RSASSA, RSAPSS or ECDSA as the key needs.
    #[error("scheme {0:#06x} is not allowed for this key")]
    SchemeNotAllowed(u16),
    /// SHA-1, where the caller did not allow it.
    #[error("{0} uses SHA-1")]
    Sha1(&'static str),
    /// A size of RSA key, or a curve by its TCG identifier, that is not allowed.
    #[error("key size or curve {0} is not allowed")]
    Size(u16),
    /// The public exponent is not 65,537.
    #[error("RSA exponent {0} is not allowed")]
    Exponent(u32),
    /// The hash of the name is not the template's.
    #[error("name algorithm {0} is not that of a default template")]
    NameAlg(HashAlg),
    /// The policy is not the template's.
    #[error("authPolicy is not that of a default template")]
    Policy,
    /// The symmetric algorithm is not the template's; `None` is no algorithm.
    #[error("symmetric algorithm {0:04x?} is not that of a default template")]
    Symmetric(Option<Symmetric>),
    /// The modulus has the fingerprint of weak primes (CVE-2017-15361).
    #[error("the RSA modulus was made by a generator with the ROCA weakness")]
    Roca,
}

const FIXED: ObjectAttributes = ObjectAttributes::FIXED_TPM
    .union(ObjectAttributes::FIXED_PARENT)
    .union(ObjectAttributes::SENSITIVE_DATA_ORIGIN)
    .union(ObjectAttributes::RESTRICTED);

/// Checks that a key is made for attesting and for nothing else (N03, N13).
///
/// It must never leave its TPM, be made there, and sign only what the TPM itself states; its
/// signing scheme must be fixed. `noDA` and `adminWithPolicy` make no difference and are allowed.
/// `allow_sha1` admits SHA-1 as the hash of its scheme and of its Name.
///
/// # Errors
/// [`KeyAttributeError`] with the first fault.
pub fn check_attestation_key(
    public: &Public<'_>,
    allow_sha1: bool,
) -> Result<(), KeyAttributeError> {
    let required = FIXED
        .union(ObjectAttributes::USER_WITH_AUTH)
        .union(ObjectAttributes::SIGN);
    let optional = ObjectAttributes::NO_DA.union(ObjectAttributes::ADMIN_WITH_POLICY);
    check_exactly(public.attributes, required, optional)?;
    if public.symmetric.is_some() {
        // TPM 2.0 Part 2, 12.2.3.4: only restricted decryption keys have one.
        return Err(KeyAttributeError::Symmetric(public.symmetric));
    }
    let scheme = public.scheme.ok_or(KeyAttributeError::SchemeMissing)?;
    let fits = match public.key {
        PublicKey::Rsa { .. } => matches!(scheme.algorithm, 0x0014 | 0x0016),
        PublicKey::Ecc { .. } => scheme.algorithm == 0x0018,
    };
    if !fits {
        return Err(KeyAttributeError::SchemeNotAllowed(scheme.algorithm));
    }
    if !allow_sha1 && scheme.hash == Some(HashAlg::Sha1) {
        return Err(KeyAttributeError::Sha1("signing scheme"));
    }
    if !allow_sha1 && public.name_alg == HashAlg::Sha1 {
        return Err(KeyAttributeError::Sha1("name algorithm"));
    }
    check_key(public)
}

/// Whether the scheme or the Name of a key has SHA-1 as its hash. (Q09)
pub fn rests_on_sha1(public: &Public<'_>) -> bool {
    let scheme_hash = public.scheme.and_then(|scheme| scheme.hash);
    scheme_hash == Some(HashAlg::Sha1) || public.name_alg == HashAlg::Sha1
}

/// Checks that a key was made from one of the default templates of endorsement keys (N02, N13).
///
/// Only for these does the specification promise that the key decrypts credentials and does
/// nothing else. The templates with SM2 are not supported.
///
/// Source: TCG EK Credential Profile 2.5, B.3.3-B.3.4 (L-1, L-2) and B.4 (H-1 to H-4, H-6, H-7).
///
/// # Errors
/// [`KeyAttributeError`] with the first fault.
pub fn check_endorsement_key(public: &Public<'_>) -> Result<(), KeyAttributeError> {
    let required = FIXED
        .union(ObjectAttributes::ADMIN_WITH_POLICY)
        .union(ObjectAttributes::DECRYPT);
    let optional = ObjectAttributes::USER_WITH_AUTH;
    check_exactly(public.attributes, required, optional)?;
    if let Some(scheme) = public.scheme {
        return Err(KeyAttributeError::SchemeNotAllowed(scheme.algorithm));
    }
    check_key(public)?;
    let high = public.attributes.contains(ObjectAttributes::USER_WITH_AUTH);
    let (name_alg, aes_bits) = match public.key {
        PublicKey::Ecc { kdf: Some(kdf), .. } => {
            return Err(KeyAttributeError::SchemeNotAllowed(kdf.algorithm));
        }
        PublicKey::Rsa { key_bits: 2048, .. } | PublicKey::Ecc { curve: 3, .. } => {
            (HashAlg::Sha256, 128)
        }
        PublicKey::Rsa {
            key_bits: 3072 | 4096,
            ..
        }
        | PublicKey::Ecc { curve: 4, .. }
            if high =>
        {
            (HashAlg::Sha384, 256)
        }
        PublicKey::Ecc { curve: 5, .. } if high => (HashAlg::Sha512, 256),
        PublicKey::Rsa { key_bits: size, .. } | PublicKey::Ecc { curve: size, .. } => {
            return Err(KeyAttributeError::Size(size));
        }
    };
    if public.name_alg != name_alg {
        return Err(KeyAttributeError::NameAlg(public.name_alg));
    }
    let aes = Symmetric {
        algorithm: 0x0006,
        key_bits: aes_bits,
        mode: 0x0043,
    };
    if public.symmetric != Some(aes) {
        return Err(KeyAttributeError::Symmetric(public.symmetric));
    }
    if hex::encode(public.auth_policy) != template_policy(high, public.name_alg) {
        return Err(KeyAttributeError::Policy);
    }
    Ok(())
}

fn check_exactly(
    found: ObjectAttributes,
    required: ObjectAttributes,
    optional: ObjectAttributes,
) -> Result<(), KeyAttributeError> {
    let missing = required.difference(found);
    if !missing.is_empty() {
        return Err(KeyAttributeError::Missing(missing));
    }
    let forbidden = found.difference(required.union(optional));
    if !forbidden.is_empty() {
        return Err(KeyAttributeError::Forbidden(forbidden));
    }
    Ok(())
}

fn check_key(public: &Public<'_>) -> Result<(), KeyAttributeError> {
    match public.key {
        PublicKey::Rsa {
            key_bits,
            exponent,
            modulus,
        } => {
            if !matches!(key_bits, 2048 | 3072 | 4096) || modulus.len() != usize::from(key_bits / 8)
            {
                return Err(KeyAttributeError::Size(key_bits));
            }
            if exponent != 65_537 {
                return Err(KeyAttributeError::Exponent(exponent));
            }
            if crate::crypto::has_roca_fingerprint(modulus) {
                return Err(KeyAttributeError::Roca);
            }
            Ok(())
        }
        PublicKey::Ecc { curve, .. } if !matches!(curve, 3..=5) => {
            Err(KeyAttributeError::Size(curve))
        }
        PublicKey::Ecc { .. } => Ok(()),
    }
}

/// `PolicyA` of the low range and `PolicyB` of the high range, in hexadecimal.
// TCG EK Credential Profile 2.5, B.6.2 and B.6.5
fn template_policy(high: bool, name_alg: HashAlg) -> &'static str {
    match (high, name_alg) {
        (false, HashAlg::Sha256) => {
            "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
        }
        (true, HashAlg::Sha256) => {
            "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
        }
        (true, HashAlg::Sha384) => concat!(
            "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4",
            "cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
        ),
        (true, HashAlg::Sha512) => concat!(
            "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4",
            "29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"
        ),
        // No template: nothing equals this.
        _ => "none",
    }
}

#[cfg(test)]
mod tests;
