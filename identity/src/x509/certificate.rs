//! Certificates as they are read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::nid::Nid;
use openssl::x509::{GeneralNameRef, X509};
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

    /// The subject's common name, when there is exactly one.
    pub(crate) fn common_name(&self) -> Option<String> {
        let subject = self.library.subject_name();
        let mut names = subject.entries_by_nid(Nid::COMMONNAME);
        let name = names.next()?.data().to_string().ok()?;
        names.next().is_none().then_some(name)
    }

    /// DNS names and IP addresses among the subject's alternative names.
    pub(crate) fn server_names(&self) -> BTreeSet<String> {
        let names = self.library.subject_alt_names();
        let text = |name: &GeneralNameRef| match (name.dnsname(), name.ipaddress()) {
            (Some(dns), _) => Some(dns.to_owned()),
            (None, Some(bytes)) => address(bytes).map(|address| address.to_string()),
            (None, None) => None,
        };
        names.iter().flatten().filter_map(text).collect()
    }

    /// Whether the key of `issuer` made its signature, and its name is the issuer's.
    pub(crate) fn is_issued_by(&self, issuer: &Self) -> bool {
        let names = (self.library.issuer_name(), issuer.library.subject_name());
        let is_named = names.0.to_der().ok() == names.1.to_der().ok();
        let key = issuer.library.public_key();
        let verified = key.and_then(|key| self.library.verify(&key));
        is_named && verified.unwrap_or(false)
    }

    /// Whether an alternative name of the subject is a URI that begins like this.
    pub(crate) fn has_uri_beginning(&self, prefix: &str) -> bool {
        let names = self.library.subject_alt_names();
        names.is_some_and(|names| {
            let mut uris = names.iter().filter_map(|name| name.uri());
            uris.any(|uri| uri.starts_with(prefix))
        })
    }

    /// First and last moment of validity, in milliseconds since 1970.
    pub(crate) fn validity_unix_ms(&self) -> Option<(u64, u64)> {
        Some((
            unix_ms(self.library.not_before())?,
            unix_ms(self.library.not_after())?,
        ))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
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
