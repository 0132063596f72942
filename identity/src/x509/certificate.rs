//! Certificates as they are read.

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::x509::X509;
use rat_engine::crypto::{KeyError, VerifyingKey};

use crate::der::{self, Reader};
use crate::limits;
use crate::x509::fields::{FieldError, Fields};
use crate::x509::{LibraryError, sha256};

/// A certificate that could be read. Nothing about it is verified.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(super) library: X509,
    der: Box<[u8]>,
}

impl Certificate {
    /// Reads exactly one version 3 certificate.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, FieldError> {
        Fields::read(der)?;
        let library = X509::from_der(der).map_err(|_| FieldError::Unreadable)?;
        Ok(Self {
            library,
            der: der.into(),
        })
    }

    /// A certificate that the library has read.
    pub(super) fn of_library(library: X509) -> Result<Self, FieldError> {
        let der = library.to_der().map_err(|_| FieldError::Unreadable)?;
        Fields::of_certificate(&der)?;
        Ok(Self {
            library,
            der: der.into(),
        })
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the DER.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// The fields that the library does not show.
    pub(crate) fn fields(&self) -> Result<Fields<'_>, FieldError> {
        Fields::of_certificate(&self.der)
    }

    /// Whether the subject names itself as the issuer.
    pub(crate) fn is_self_issued(&self) -> bool {
        let (subject, issuer) = (self.library.subject_name(), self.library.issuer_name());
        subject.to_der().ok() == issuer.to_der().ok()
    }

    /// Whether the certificate's own key made its signature.
    pub(crate) fn is_self_signed(&self) -> bool {
        let verified = self
            .library
            .public_key()
            .and_then(|key| self.library.verify(&key));
        self.is_self_issued() && verified.unwrap_or(false)
    }

    /// The key, when it is one that TPMs have.
    pub(crate) fn key(&self) -> Result<VerifyingKey, KeyError> {
        VerifyingKey::from_spki_der(&self.public_key_info().map_err(|_| KeyError::Der)?)
    }

    /// The canonical `SubjectPublicKeyInfo`.
    pub(crate) fn public_key_info(&self) -> Result<Vec<u8>, LibraryError> {
        Ok(self.library.public_key()?.public_key_to_der()?)
    }

    /// First and last moment of validity, in milliseconds since 1970.
    pub(crate) fn validity_unix_ms(&self) -> Option<(u64, u64)> {
        Some((
            unix_ms(self.library.not_before())?,
            unix_ms(self.library.not_after())?,
        ))
    }
}

/// Times before 1970 read as 1970.
fn unix_ms(time: &Asn1TimeRef) -> Option<u64> {
    let elapsed = Asn1Time::from_unix(0).ok()?.diff(time).ok()?;
    let seconds = i64::from(elapsed.days)
        .checked_mul(86_400)?
        .checked_add(i64::from(elapsed.secs))?;
    u64::try_from(seconds.max(0)).ok()?.checked_mul(1000)
}

/// A certificate without the bytes that fill up the NV index it was read from.
///
/// TPMs hand out the whole index: the certificate, then 0x00 or 0xff to its end. Nothing but one
/// such run is taken away, so that nothing else can hide behind a certificate. (N01)
pub(crate) fn without_nv_padding(bytes: &[u8]) -> Result<&[u8], FieldError> {
    if bytes.len() > limits::CERTIFICATE_BYTES_MAX {
        return Err(FieldError::TooLong(bytes.len()));
    }
    let mut reader = Reader::new(bytes);
    let certificate = reader.expect(der::SEQUENCE)?.whole;
    let padding = reader.rest();
    let is_padding =
        padding.iter().all(|byte| *byte == 0) || padding.iter().all(|byte| *byte == 0xff);
    if is_padding {
        Ok(certificate)
    } else {
        Err(der::DerError::Trailing(padding.len()).into())
    }
}
