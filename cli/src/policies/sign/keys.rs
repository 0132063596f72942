//! Private keys that sign policies, and certificates of them.
//!
//! The only module of the command line that names `openssl`.

use openssl::asn1::Asn1Time;
use openssl::base64;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509Builder, X509NameBuilder};
use thiserror::Error;

/// How long a self-signed certificate says that it is good. Those who pin it do not look.
const CERTIFICATE_DAYS: u32 = 365;

/// The name in a self-signed certificate.
const SUBJECT: &str = "runtime policy signing";

/// Why a key cannot be used.
#[derive(Debug, Error)]
pub(super) enum SigningKeyError {
    /// The library refused.
    #[error("{what} failed")]
    Library {
        /// What was being done.
        what: &'static str,
        /// The library's reason.
        source: ErrorStack,
    },
    /// Not one private key in PEM without a password.
    #[error("not a private key in PEM without a password")]
    NotKey,
    /// RSA, Ed25519, or another curve.
    #[error("not a key on P-256, P-384 or P-521")]
    Kind,
}

fn failed(what: &'static str) -> impl FnOnce(ErrorStack) -> SigningKeyError {
    move |source| SigningKeyError::Library { what, source }
}

/// A private key on P-256, P-384 or P-521.
pub(super) struct SigningKey(PKey<Private>);

impl SigningKey {
    /// A new one on P-256.
    pub(super) fn generate() -> Result<Self, SigningKeyError> {
        let make = || {
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
            PKey::from_ec_key(EcKey::generate(&group)?)
        };
        make().map(Self).map_err(failed("making a key"))
    }

    /// The key in a PEM text: `EC PRIVATE KEY`, as Keylime's tools write it, or `PRIVATE KEY`.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, SigningKeyError> {
        // An empty password, so that the library asks nobody.
        let key = PKey::private_key_from_pem_passphrase(pem, b"");
        let key = key.map_err(|_| SigningKeyError::NotKey)?;
        let curve = key.ec_key().ok().and_then(|ec| ec.group().curve_name());
        match curve {
            Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1) => Ok(Self(key)),
            _ => Err(SigningKeyError::Kind),
        }
    }

    /// The private key as PKCS #8 in PEM.
    pub(super) fn private_pem(&self) -> Result<Vec<u8>, SigningKeyError> {
        let pem = self.0.private_key_to_pem_pkcs8();
        pem.map_err(failed("writing the private key"))
    }

    /// The public key in PEM.
    pub(super) fn public_pem(&self) -> Result<Vec<u8>, SigningKeyError> {
        let pem = self.0.public_key_to_pem();
        pem.map_err(failed("writing the public key"))
    }

    /// ECDSA with SHA-256 in DER.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningKeyError> {
        let sign = || {
            let mut signer = Signer::new(MessageDigest::sha256(), &self.0)?;
            signer.sign_oneshot_to_vec(message)
        };
        sign().map_err(failed("signing"))
    }

    /// A self-signed certificate in PEM, good for signatures from now on.
    pub(super) fn certificate(&self) -> Result<Vec<u8>, SigningKeyError> {
        let make = || {
            let mut name = X509NameBuilder::new()?;
            name.append_entry_by_nid(Nid::COMMONNAME, SUBJECT)?;
            let name = name.build();
            let mut serial = BigNum::new()?;
            serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
            let (serial, begin) = (serial.to_asn1_integer()?, Asn1Time::days_from_now(0)?);
            let end = Asn1Time::days_from_now(CERTIFICATE_DAYS)?;
            let mut builder = X509Builder::new()?;
            builder.set_version(2)?;
            builder.set_serial_number(&serial)?;
            builder.set_subject_name(&name)?;
            builder.set_issuer_name(&name)?;
            builder.set_not_before(&begin)?;
            builder.set_not_after(&end)?;
            builder.set_pubkey(&self.0)?;
            builder.append_extension(BasicConstraints::new().critical().build()?)?;
            let usage = KeyUsage::new().critical().digital_signature().build()?;
            builder.append_extension(usage)?;
            builder.sign(&self.0, MessageDigest::sha256())?;
            builder.build().to_pem()
        };
        make().map_err(failed("making a certificate"))
    }
}

/// The certificate as Keylime puts it into an envelope: its PEM text in base64.
///
/// Source: Keylime, `keylime/dsse/x509.py`, `Verifier.keyid`.
pub(super) fn certificate_keyid(pem: &[u8]) -> String {
    base64::encode_block(pem)
}
