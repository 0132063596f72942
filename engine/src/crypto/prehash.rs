//! Keys that sign files for IMA: signatures over a digest that is already there.

use std::fmt;
use std::sync::Arc;

use openssl::bn::BigNumContext;
use openssl::ec::PointConversionForm;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::md::Md;
use openssl::pkey::{Id, PKey, Public};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::{Padding, Rsa};
use openssl::x509::X509;
use thiserror::Error;

use crate::crypto::key::{KeyError, check_length, spki};
use crate::crypto::pem;
use crate::hash::HashAlg;
use crate::limits;

/// A public key that signs files: RSA of 2048 bits or more, or a point on any named curve.
///
/// # Security
/// That a policy or a keyring of the kernel names the key is for the caller to know. A certificate
/// is a container here: neither its signature nor its dates are checked, as in the kernel, which
/// checked them when it loaded the key.
#[derive(Clone)]
pub struct FileKey(Arc<Inner>);

struct Inner {
    key: PKey<Public>,
    id: u32,
}

/// Why a file signature was not verified. No variant ever means that it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FileSignatureError {
    /// A hash whose signatures we do not verify; MD5 and Streebog among them.
    #[error("file signatures over this hash are not supported")]
    HashNotSupported,
    /// The digest is not one of the hash that is named.
    #[error("{found} bytes are not a digest of {expected}")]
    DigestSize {
        /// Bytes given.
        found: usize,
        /// Bytes of the hash.
        expected: usize,
    },
    /// The key did not make this signature over this digest.
    #[error("the file signature does not match key and digest")]
    Mismatch,
}

impl FileKey {
    /// The key in a PEM block: `PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        match pem::decode(text)? {
            ("PUBLIC KEY", der) => Self::from_spki(&der),
            ("RSA PUBLIC KEY", der) => Self::from_pkcs1(&der),
            ("CERTIFICATE", der) => Self::from_certificate(&der),
            _ => Err(KeyError::Pem),
        }
    }

    /// The key in a DER `SubjectPublicKeyInfo`, X.509 `Certificate` or PKCS #1 `RSAPublicKey`.
    ///
    /// # Errors
    /// [`KeyError`]; [`KeyError::Der`] when it is none of them.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        // No bytes are two of these: after the outer SEQUENCE come SEQUENCE and BIT STRING,
        // two SEQUENCEs, or two INTEGERs.
        [Self::from_spki, Self::from_certificate, Self::from_pkcs1]
            .into_iter()
            .map(|read| read(der))
            .find(|result| !matches!(result, Err(KeyError::Der)))
            .unwrap_or(Err(KeyError::Der))
    }

    /// The key in a measured buffer, if there is one: the kernel measures a key as it was added, a
    /// certificate or bare key in DER; user space adds some in PEM.
    ///
    /// # Errors
    /// [`KeyError`] when the buffer is a key of a kind that verifies no file signature.
    pub fn from_measured(buffer: &[u8]) -> Result<Option<Self>, KeyError> {
        let read = match Self::from_der(buffer) {
            Err(KeyError::Der) => Self::from_pem(buffer),
            other => other,
        };
        match read {
            Ok(key) => Ok(Some(key)),
            Err(KeyError::Der | KeyError::Pem | KeyError::TooLong(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        Self::new(spki(der)?, None)
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        check_length(der)?;
        let key = Rsa::public_key_from_der_pkcs1(der).map_err(|_| KeyError::Der)?;
        if key.public_key_to_der_pkcs1().ok().as_deref() != Some(der) {
            return Err(KeyError::Der);
        }
        Self::new(PKey::from_rsa(key).map_err(|_| KeyError::Library)?, None)
    }

    fn from_certificate(der: &[u8]) -> Result<Self, KeyError> {
        check_length(der)?;
        let certificate = X509::from_der(der).map_err(|_| KeyError::Der)?;
        if certificate.to_der().ok().as_deref() != Some(der) {
            return Err(KeyError::Der);
        }
        let key = certificate.public_key().map_err(|_| KeyError::Type)?;
        let subject_key_id = certificate.subject_key_id().map(|id| id.as_slice());
        Self::new(key, subject_key_id)
    }

    fn new(key: PKey<Public>, subject_key_id: Option<&[u8]>) -> Result<Self, KeyError> {
        let identified = match key.id() {
            Id::RSA => {
                let rsa = key.rsa().map_err(|_| KeyError::Library)?;
                let bits = usize::try_from(key.bits()).unwrap_or(0);
                if !(2048..=limits::FILE_KEY_BITS_MAX).contains(&bits) {
                    return Err(KeyError::RsaSize(bits));
                }
                if !rsa.n().is_bit_set(0) {
                    return Err(KeyError::RsaModulus);
                }
                // 3 is common in signing keys of kernels; 1 and even numbers are no keys.
                if !rsa.e().is_bit_set(0) || !(2..=64).contains(&rsa.e().num_bits()) {
                    return Err(KeyError::RsaExponent);
                }
                rsa.public_key_to_der_pkcs1()
            }
            Id::EC => {
                let ec = key.ec_key().map_err(|_| KeyError::Library)?;
                if ec.group().curve_name().is_none() {
                    return Err(KeyError::Curve);
                }
                ec.check_key().map_err(|_| KeyError::Point)?;
                BigNumContext::new().and_then(|mut context| {
                    let form = PointConversionForm::UNCOMPRESSED;
                    ec.public_key().to_bytes(ec.group(), form, &mut context)
                })
            }
            _ => return Err(KeyError::Type),
        };
        let identified = identified.map_err(|_| KeyError::Library)?;
        // Keyids of signatures of version 2: evmctl takes the end of the certificate's subject
        // key identifier, or of the SHA-1 of the key, which is what makers put there.
        let id = match subject_key_id.and_then(<[u8]>::last_chunk::<4>) {
            Some(end) => u32::from_be_bytes(*end),
            None => {
                let digest = crate::crypto::digest(HashAlg::Sha1, &identified);
                let end = digest.as_bytes().last_chunk::<4>();
                u32::from_be_bytes(*end.ok_or(KeyError::Library)?)
            }
        };
        Ok(Self(Arc::new(Inner { key, id })))
    }

    /// The keyid by which signatures of version 2 name their key.
    ///
    /// Source: ima-evm-utils, `calc_keyid_v2`; Linux, `security/integrity/digsig_asymmetric.c`.
    pub fn key_id(&self) -> u32 {
        self.0.id
    }

    /// The canonical DER `SubjectPublicKeyInfo`, as keyrings of policies hold it.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn spki_der(&self) -> Result<Vec<u8>, KeyError> {
        let der = self.0.key.public_key_to_der();
        der.map_err(|_| KeyError::Library)
    }

    /// Verifies that this key signed the digest: PKCS #1 v1.5, or ECDSA in DER.
    ///
    /// `hash` is the kernel's name of the algorithm that made the digest.
    ///
    /// # Errors
    /// [`FileSignatureError`]; nothing but `Ok` means valid.
    pub fn verify_prehash(
        &self,
        hash: &str,
        digest: &[u8],
        signature: &[u8],
    ) -> Result<(), FileSignatureError> {
        let (md, expected) = match hash {
            "sha1" => (Md::sha1(), MessageDigest::sha1()),
            "sha224" => (Md::sha224(), MessageDigest::sha224()),
            "sha256" => (Md::sha256(), MessageDigest::sha256()),
            "sha384" => (Md::sha384(), MessageDigest::sha384()),
            "sha512" => (Md::sha512(), MessageDigest::sha512()),
            _ => return Err(FileSignatureError::HashNotSupported),
        };
        let (found, expected) = (digest.len(), expected.size());
        if found != expected {
            return Err(FileSignatureError::DigestSize { found, expected });
        }
        let run = || {
            let mut context = PkeyCtx::new(&self.0.key)?;
            context.verify_init()?;
            if self.0.key.id() == Id::RSA {
                context.set_rsa_padding(Padding::PKCS1)?;
            }
            context.set_signature_md(md)?;
            context.verify(digest, signature)
        };
        // The library reports a signature in bad form as an error of its own.
        match run() {
            Ok(true) => Ok(()),
            Ok::<_, ErrorStack>(false) | Err(_) => Err(FileSignatureError::Mismatch),
        }
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileKey({:08x})", self.0.id)
    }
}

#[cfg(test)]
mod tests;
