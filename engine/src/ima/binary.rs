//! `binary_runtime_measurements`: little-endian records, back to back.
//!
//! A record is PCR (u32), template hash, length and name of the template, then the template data
//! with its length; the legacy template has no length of the data and an unpadded name instead.
//!
//! Source: Linux `security/integrity/ima/ima_fs.c`, `ima_measurements_show`. Big-endian machines
//! write their own order unless `ima_canonical_fmt` is set; such logs are malformed here.

use super::template::{LEGACY_NAME_FIELD_BYTES, Template};
use super::{Entry, EntryFault};
use crate::bytes::Reader;
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::{Fault, Malformed};

/// The kernel's limit on a template's name or format string (`MAX_TEMPLATE_NAME_LEN`).
const TEMPLATE_NAME_BYTES_MAX: usize = 255;

/// How many bytes a record needs at least, when the fault is that it is not all there yet.
pub(super) fn bytes_needed(fault: &EntryFault) -> Option<usize> {
    match fault {
        EntryFault::Malformed(Malformed {
            offset,
            fault: Fault::Truncated { wanted, .. },
            ..
        }) => Some(offset.saturating_add(*wanted)),
        _ => None,
    }
}

/// Decodes the record at the front of `bytes`; returns its length too. Only the legacy template's
/// data has to be rebuilt, in `scratch`.
pub(super) fn decode<'a>(
    bytes: &'a [u8],
    log_hash: HashAlg,
    scratch: &'a mut Vec<u8>,
) -> Result<(Entry<'a>, usize), EntryFault> {
    let mut reader = Reader::new("IMA binary entry", bytes);
    let Parts {
        pcr,
        template_hash,
        template,
        body,
    } = walk(&mut reader, log_hash)?;
    let data = match body {
        Body::Data(data) => data,
        Body::Legacy { digest, name } => {
            scratch.clear();
            scratch.extend_from_slice(digest);
            scratch.extend_from_slice(name);
            scratch.resize(digest.len().saturating_add(LEGACY_NAME_FIELD_BYTES), 0);
            scratch
        }
    };
    let entry = Entry {
        pcr,
        template_hash,
        template,
        data,
        // The decoder knows where the record starts.
        end_bytes: 0,
    };
    Ok((entry, reader.offset()))
}

struct Parts<'a> {
    pcr: u32,
    template_hash: &'a [u8],
    template: Template,
    body: Body<'a>,
}

enum Body<'a> {
    Data(&'a [u8]),
    Legacy { digest: &'a [u8], name: &'a [u8] },
}

fn walk<'a>(reader: &mut Reader<'a>, log_hash: HashAlg) -> Result<Parts<'a>, EntryFault> {
    let pcr = reader.u32_le("PCR")?;
    let template_hash = reader.take("template hash", log_hash.size())?;
    let name = sized(reader, "template name", 1, TEMPLATE_NAME_BYTES_MAX)?;
    let Some(template) = Template::from_name(name) else {
        return Err(EntryFault::unsupported(name));
    };
    let body = if template == Template::Ima {
        let digest = reader.take("d", HashAlg::Sha1.size())?;
        // One byte of the hashed field stays for the NUL.
        let name = sized(reader, "n", 1, LEGACY_NAME_FIELD_BYTES.saturating_sub(1))?;
        Body::Legacy { digest, name }
    } else {
        Body::Data(sized(
            reader,
            "template data",
            1,
            limits::IMA_ENTRY_BYTES_MAX,
        )?)
    };
    Ok(Parts {
        pcr,
        template_hash,
        template,
        body,
    })
}

/// A little-endian u32 length, checked against its limits, then as many bytes.
fn sized<'a>(
    reader: &mut Reader<'a>,
    field: &'static str,
    min: usize,
    max: usize,
) -> Result<&'a [u8], Malformed> {
    let before = reader.clone();
    let length = usize::try_from(reader.u32_le(field)?).unwrap_or(usize::MAX);
    if length < min || length > max {
        return Err(before.fault(
            field,
            Fault::Length {
                value: length,
                min,
                max,
            },
        ));
    }
    reader.take(field, length)
}
