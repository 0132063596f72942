//! Templates of the measurement list, and the fields of their hashed data.
//!
//! Everything is read from the *template data*: the exact bytes that the kernel hashed into the
//! PCR. The template's name is not among them, so an entry can be relabelled without changing its
//! hash; what each reader here demands of the data (a digest with one or two prefixes, a buffer
//! that hashes to its digest, a signature with its header) is what keeps labels apart.
//!
//! Source: Linux `security/integrity/ima/ima_template.c` and `ima_template_lib.c`.

use std::fmt;

use crate::bytes::Reader;
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::{Fault, Malformed};

/// A template that we replay and judge. Any other is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Template {
    /// `ima`: a SHA-1 digest and a name padded to 256 bytes.
    Ima,
    /// `ima-ng`: `d-ng|n-ng`.
    ImaNg,
    /// `ima-sig`: `d-ng|n-ng|sig`.
    ImaSig,
    /// `ima-buf`: `d-ng|n-ng|buf`.
    ImaBuf,
    /// `ima-ngv2`: `d-ngv2|n-ng`.
    ImaNgV2,
    /// `ima-sigv2`: `d-ngv2|n-ng|sig`.
    ImaSigV2,
    /// `ima-modsig`: `d-ng|n-ng|sig|d-modsig|modsig`.
    ImaModSig,
}

/// How a field is written and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// `algorithm:` NUL digest.
    DigestNg,
    /// `type:algorithm:` NUL digest.
    DigestNgV2,
    /// As `DigestNg`, or empty.
    DigestModSig,
    /// Characters and NUL.
    Name,
    /// Any bytes, or none.
    Bytes,
}

impl Template {
    /// Every template that is supported.
    pub const ALL: [Self; 7] = [
        Self::Ima,
        Self::ImaNg,
        Self::ImaSig,
        Self::ImaBuf,
        Self::ImaNgV2,
        Self::ImaSigV2,
        Self::ImaModSig,
    ];

    /// The name that the kernel writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ima => "ima",
            Self::ImaNg => "ima-ng",
            Self::ImaSig => "ima-sig",
            Self::ImaBuf => "ima-buf",
            Self::ImaNgV2 => "ima-ngv2",
            Self::ImaSigV2 => "ima-sigv2",
            Self::ImaModSig => "ima-modsig",
        }
    }

    /// The template with exactly this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        // Asked for each entry of a list: lengths are compared before bytes.
        match name {
            b"ima" => Some(Self::Ima),
            b"ima-ng" => Some(Self::ImaNg),
            b"ima-sig" => Some(Self::ImaSig),
            b"ima-buf" => Some(Self::ImaBuf),
            b"ima-ngv2" => Some(Self::ImaNgV2),
            b"ima-sigv2" => Some(Self::ImaSigV2),
            b"ima-modsig" => Some(Self::ImaModSig),
            _ => None,
        }
    }

    /// The fields, in order. The legacy template has a layout of its own instead.
    pub(super) const fn fields(self) -> &'static [FieldKind] {
        use FieldKind::{Bytes, DigestModSig, DigestNg, DigestNgV2, Name};
        match self {
            Self::Ima => &[],
            Self::ImaNg => &[DigestNg, Name],
            Self::ImaSig | Self::ImaBuf => &[DigestNg, Name, Bytes],
            Self::ImaNgV2 => &[DigestNgV2, Name],
            Self::ImaSigV2 => &[DigestNgV2, Name, Bytes],
            Self::ImaModSig => &[DigestNg, Name, Bytes, DigestModSig, Bytes],
        }
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a digest in an entry is a digest of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DigestOf {
    /// The file's or the buffer's bytes.
    Content,
    /// The fs-verity descriptor, which never equals a digest of the content.
    Verity,
}

/// A digest as the kernel recorded it, in any algorithm the kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MeasuredDigest<'a> {
    /// What was digested.
    pub of: DigestOf,
    /// The kernel's name of the algorithm, possibly one that we do not compute.
    pub alg: &'a [u8],
    /// The digest's bytes; their number is right when we know the algorithm.
    pub bytes: &'a [u8],
}

/// The algorithm and lower-case hexadecimal. The name of an algorithm comes from the list: what is
/// not printable is escaped.
impl fmt::Display for MeasuredDigest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.alg.escape_ascii(), hex::encode(self.bytes))
    }
}

/// The fields of one measured event.
///
/// # Security
/// Authentic once the entry's template data was replayed into a quoted PCR; never for a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The template that the log claims; not hashed.
    pub template: Template,
    /// Digest of the file or buffer.
    pub digest: MeasuredDigest<'a>,
    /// Path of the file, or name of the buffer or keyring, without its NUL. Any bytes but NUL and
    /// space: the kernel writes a space as `_`.
    pub name: &'a [u8],
    /// The third field of `ima-sig`, `ima-sigv2` and `ima-modsig` (a signature, or empty) or of
    /// `ima-buf` (the buffer).
    pub tail: &'a [u8],
}

impl<'a> Event<'a> {
    /// Reads the fields of one entry's template data.
    ///
    /// # Errors
    /// [`Malformed`] when the data is not exactly what the kernel writes for the template.
    pub fn parse(template: Template, data: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("IMA template data", data);
        let event = match template {
            Template::Ima => Self::parse_legacy(&mut reader)?,
            _ => Self::parse_fields(template, &mut reader)?,
        };
        reader.finish()?;
        Ok(event)
    }

    /// `d`: 20 bytes; `n`: 256 bytes, the name and zeros.
    fn parse_legacy(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let bytes = reader.take("d", HashAlg::Sha1.size())?;
        let before = reader.clone();
        let padded = reader.take("n", LEGACY_NAME_FIELD_BYTES)?;
        let length = memchr::memchr(0, padded).unwrap_or(padded.len());
        let (name, zeros) = padded.split_at_checked(length).unwrap_or((padded, &[]));
        if zeros.is_empty() || zeros.iter().any(|byte| *byte != 0) {
            return Err(before.fault(
                "n",
                Fault::Syntax {
                    expected: "a name padded with NUL",
                },
            ));
        }
        check_name(&before, name)?;
        let digest = MeasuredDigest {
            of: DigestOf::Content,
            alg: b"sha1",
            bytes,
        };
        Ok(Self {
            template: Template::Ima,
            digest,
            name,
            tail: &[],
        })
    }

    fn parse_fields(template: Template, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let mut digest = None;
        let mut name: &[u8] = &[];
        let mut tail: Option<&[u8]> = None;
        for kind in template.fields() {
            let before = reader.clone();
            let length = reader.u32_le("field length")?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > limits::IMA_ENTRY_BYTES_MAX {
                let fault = Fault::Length {
                    value: length,
                    min: 0,
                    max: limits::IMA_ENTRY_BYTES_MAX,
                };
                return Err(before.fault("field length", fault));
            }
            let field = reader.take("field", length)?;
            match kind {
                FieldKind::DigestNg | FieldKind::DigestNgV2 => {
                    digest = Some(parse_digest(&before, *kind, field)?);
                }
                FieldKind::DigestModSig if field.is_empty() => {}
                FieldKind::DigestModSig => {
                    parse_digest(&before, *kind, field)?;
                }
                FieldKind::Name => name = parse_name(&before, field)?,
                FieldKind::Bytes => {
                    tail.get_or_insert(field);
                }
            }
        }
        let fault = Fault::Syntax {
            expected: "a digest field",
        };
        let digest = digest.ok_or_else(|| reader.fault("d-ng", fault))?;
        Ok(Self {
            template,
            digest,
            name,
            tail: tail.unwrap_or(&[]),
        })
    }
}

/// Size in bytes of the legacy template's name field: `IMA_EVENT_NAME_LEN_MAX + 1`.
pub(super) const LEGACY_NAME_FIELD_BYTES: usize = 256;

/// `[type:]algorithm:` NUL digest.
fn parse_digest<'a>(
    at: &Reader<'_>,
    kind: FieldKind,
    field: &'a [u8],
) -> Result<MeasuredDigest<'a>, Malformed> {
    let bad = |expected| at.fault("d-ng", Fault::Syntax { expected });
    let nul = memchr::memchr(0, field).ok_or_else(|| bad("`:` and NUL before the digest"))?;
    let (prefix, digest) = field.split_at_checked(nul).unwrap_or((field, &[]));
    let bytes = digest.get(1..).unwrap_or(&[]);
    let prefix = prefix
        .strip_suffix(b":")
        .ok_or_else(|| bad("`:` before NUL"))?;
    let (of, alg) = match kind {
        FieldKind::DigestNgV2 => {
            if let Some(alg) = prefix.strip_prefix(b"ima:") {
                (DigestOf::Content, alg)
            } else if let Some(alg) = prefix.strip_prefix(b"verity:") {
                (DigestOf::Verity, alg)
            } else {
                return Err(bad("digest type `ima:` or `verity:`"));
            }
        }
        _ => (DigestOf::Content, prefix),
    };
    let is_name_byte = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(b);
    if alg.is_empty() || !alg.iter().all(is_name_byte) {
        return Err(bad("a digest algorithm's name"));
    }
    if let Some(known) = HashAlg::from_name(alg)
        && known.size() != bytes.len()
    {
        let fault = Fault::Length {
            value: bytes.len(),
            min: known.size(),
            max: known.size(),
        };
        return Err(at.fault("d-ng", fault));
    }
    if bytes.is_empty() || bytes.len() > crate::hash::DIGEST_SIZE_MAX {
        return Err(bad("a digest of 1 to 64 bytes"));
    }
    Ok(MeasuredDigest { of, alg, bytes })
}

fn parse_name<'a>(at: &Reader<'_>, field: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let fault = Fault::Syntax {
        expected: "a name that ends with its only NUL",
    };
    let name = field
        .strip_suffix(&[0])
        .ok_or_else(|| at.fault("n-ng", fault))?;
    check_name(at, name)?;
    Ok(name)
}

fn check_name(at: &Reader<'_>, name: &[u8]) -> Result<(), Malformed> {
    if name.is_empty() || name.len() > limits::IMA_NAME_BYTES_MAX {
        let fault = Fault::Length {
            value: name.len(),
            min: 1,
            max: limits::IMA_NAME_BYTES_MAX,
        };
        return Err(at.fault("name", fault));
    }
    // ima_write_template_field_data() turns each space into `_`, so that fields stay apart.
    if memchr::memchr2(0, b' ', name).is_some() {
        return Err(at.fault(
            "name",
            Fault::Syntax {
                expected: "no NUL and no space",
            },
        ));
    }
    Ok(())
}
