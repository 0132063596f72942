//! What stands in a certificate or request, read without the library: it hides unknown extensions.

use rat_engine::calendar;
use thiserror::Error;

use crate::der::{self, DerError, Element, Reader};
use crate::limits;

/// `id-ce-subjectAltName`
pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `id-ce-keyUsage`
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// `id-ce-basicConstraints`
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// `id-ce-extKeyUsage`
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const ISSUER_UNIQUE_ID: u8 = 0x81;
const SUBJECT_UNIQUE_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;

/// A certificate whose fields cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FieldError {
    /// Not the DER of its structure.
    #[error("malformed DER: {0}")]
    Der(#[from] DerError),
    /// Not version 3, which alone says what the key may do.
    #[error("not an X.509 version 3 certificate")]
    Version,
    /// The library cannot read it.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// More bytes than one has.
    #[error("{0} bytes are more than a certificate has")]
    TooLong(usize),
}

/// An extension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extension<'a> {
    pub(crate) oid: &'a [u8],
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

/// The fields of a certificate that the library does not show, or only after reading its key.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    validity: Element<'a>,
    /// The `SubjectPublicKeyInfo` as it stands there: what the signature of the CA covers.
    pub(crate) public_key_info: &'a [u8],
    pub(crate) extensions: Vec<Extension<'a>>,
}

/// How a certificate's key may be used, by the bits that decide here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUsage {
    pub(crate) key_encipherment: bool,
    pub(crate) key_agreement: bool,
    pub(crate) key_cert_sign: bool,
}

impl<'a> Fields<'a> {
    /// Reads exactly one version 3 certificate.
    // RFC 5280, 4.1
    pub(crate) fn of_certificate(certificate: &'a [u8]) -> Result<Self, FieldError> {
        let mut outer = Reader::new(certificate);
        let mut parts = outer.expect(der::SEQUENCE)?.inside();
        outer.finish()?;
        let to_be_signed = parts.expect(der::SEQUENCE)?;
        let signature_algorithm = parts.expect(der::SEQUENCE)?.whole;
        parts.expect(3)?;
        parts.finish()?;

        let mut fields = to_be_signed.inside();
        let version = fields.optional(VERSION)?.ok_or(FieldError::Version)?;
        if version.content != [der::INTEGER, 1, 2] {
            return Err(FieldError::Version);
        }
        fields.expect(der::INTEGER)?;
        // The two must agree: only the inner one is signed.
        if fields.expect(der::SEQUENCE)?.whole != signature_algorithm {
            return Err(FieldError::Unreadable);
        }
        fields.expect(der::SEQUENCE)?; // Issuer
        let validity = fields.expect(der::SEQUENCE)?;
        fields.expect(der::SEQUENCE)?; // Subject
        let public_key_info = fields.expect(der::SEQUENCE)?.whole;
        fields.optional(ISSUER_UNIQUE_ID)?;
        fields.optional(SUBJECT_UNIQUE_ID)?;
        let extensions = match fields.optional(EXTENSIONS)? {
            Some(wrapped) => read_extensions(wrapped)?,
            None => Vec::new(),
        };
        fields.finish()?;
        Ok(Self {
            validity,
            public_key_info,
            extensions,
        })
    }

    /// Reads one that somebody sent, which has no more bytes than one has.
    pub(crate) fn read(certificate: &'a [u8]) -> Result<Self, FieldError> {
        if certificate.len() > limits::CERTIFICATE_BYTES_MAX {
            return Err(FieldError::TooLong(certificate.len()));
        }
        Self::of_certificate(certificate)
    }

    /// First and last moment of validity, in milliseconds since 1970.
    // RFC 5280, 4.1.2.5
    pub(crate) fn validity_unix_ms(&self) -> Option<(u64, u64)> {
        let mut times = self.validity.inside();
        let mut time = || unix_ms(times.next().ok()??);
        let (first, last) = (time()?, time()?);
        times.finish().ok()?;
        Some((first, last))
    }

    /// The extension with this identifier.
    pub(crate) fn extension(&self, oid: &[u8]) -> Option<Extension<'a>> {
        self.extensions
            .iter()
            .copied()
            .find(|extension| extension.oid == oid)
    }

    /// Whether the certificate says that its subject is a CA.
    // RFC 5280, 4.2.1.9
    pub(crate) fn is_ca(&self) -> Result<bool, DerError> {
        let Some(extension) = self.extension(BASIC_CONSTRAINTS) else {
            return Ok(false);
        };
        let mut fields = only(extension.value, der::SEQUENCE)?.inside();
        let ca = fields.optional(der::BOOLEAN)?;
        fields.optional(der::INTEGER)?;
        fields.finish()?;
        // CA:FALSE written out is no DER, and common.
        Ok(ca.is_some_and(|ca| ca.content != [0]))
    }

    /// The key usage, if it is said.
    // RFC 5280, 4.2.1.3
    pub(crate) fn key_usage(&self) -> Result<Option<KeyUsage>, DerError> {
        let Some(extension) = self.extension(KEY_USAGE) else {
            return Ok(None);
        };
        // The first byte counts unused bits; the first bit is the highest of the next.
        let bits = only(extension.value, 3)?.content.get(1).copied();
        let bits = bits.unwrap_or(0);
        Ok(Some(KeyUsage {
            key_encipherment: bits & 0x20 != 0,
            key_agreement: bits & 0x08 != 0,
            key_cert_sign: bits & 0x04 != 0,
        }))
    }

    /// Identifiers of the extended key usage, if it is said.
    // RFC 5280, 4.2.1.12
    pub(crate) fn extended_key_usage(&self) -> Result<Option<Vec<&'a [u8]>>, DerError> {
        let Some(extension) = self.extension(EXTENDED_KEY_USAGE) else {
            return Ok(None);
        };
        let mut purposes = only(extension.value, der::SEQUENCE)?.inside();
        let mut oids = Vec::new();
        while !purposes.rest().is_empty() {
            oids.push(purposes.expect(der::OID)?.content);
        }
        Ok(Some(oids))
    }
}

/// The one element that these bytes are.
pub(crate) fn only(bytes: &[u8], tag: u8) -> Result<Element<'_>, DerError> {
    let mut reader = Reader::new(bytes);
    let element = reader.expect(tag)?;
    reader.finish()?;
    Ok(element)
}

/// A time to the second and in UTC, the only form that certificates have; `None` before 1970.
fn unix_ms(time: Element<'_>) -> Option<u64> {
    let text = std::str::from_utf8(time.content).ok()?;
    let digits = text.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = match (time.tag, digits.len()) {
        // Two digits of a year are of the years 1950 to 2049.
        (UTC_TIME, 12) if digits < "50" => format!("20{digits}"),
        (UTC_TIME, 12) => format!("19{digits}"),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let (date, clock) = digits.split_at_checked(8)?;
    let (year, day) = date.split_at_checked(4)?;
    let (month, day) = day.split_at_checked(2)?;
    let (hour, rest) = clock.split_at_checked(2)?;
    let (minute, second) = rest.split_at_checked(2)?;
    calendar::from_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

fn read_extensions(wrapped: Element<'_>) -> Result<Vec<Extension<'_>>, DerError> {
    let mut list = only(wrapped.content, der::SEQUENCE)?.inside();
    let mut extensions: Vec<Extension<'_>> = Vec::new();
    while !list.rest().is_empty() {
        let mut fields = list.expect(der::SEQUENCE)?.inside();
        let oid = fields.expect(der::OID)?.content;
        let critical = fields.optional(der::BOOLEAN)?;
        let value = fields.expect(der::OCTET_STRING)?.content;
        fields.finish()?;
        if extensions.iter().any(|other| other.oid == oid) {
            return Err(DerError::Duplicate);
        }
        extensions.push(Extension {
            oid,
            critical: critical.is_some_and(|critical| critical.content != [0]),
            value,
        });
    }
    Ok(extensions)
}
