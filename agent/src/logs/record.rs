//! Where one entry of a measurement list ends.
//!
//! Only the ends matter here: what an entry says is the verifier's business, and a template that
//! nobody knows is sent like any other.

use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::limits;
use thiserror::Error;

/// Why bytes are no entry of a measurement list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A length that no kernel writes.
    #[error("{field} of {bytes} bytes is more than {max}")]
    Length {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

/// The name of the first entry of every list.
const FIRST_ENTRY: &[u8] = b"boot_aggregate";
/// The kernel's limit on a template's name.
const TEMPLATE_NAME_BYTES_MAX: usize = 255;
/// The legacy template, whose data has no length before it.
const LEGACY_TEMPLATE: &[u8] = b"ima";

/// The length of the entry at the front of `bytes`; `None` while it is not all there.
///
/// # Errors
/// [`RecordError`] when it cannot be one.
pub(super) fn length(format: LogFormat, bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    match format {
        LogFormat::Ascii => ascii(bytes),
        LogFormat::Binary => binary(bytes),
    }
}

/// Whether this is the entry that begins every list.
///
/// Before its name stands a space, or the last byte of a length: neither can stand in a path, so
/// that no file's name is taken for it.
pub(super) fn is_first_of_list(entry: &[u8]) -> bool {
    let size = FIRST_ENTRY.len().saturating_add(1);
    entry
        .windows(size)
        .any(|window| matches!(window, [0 | b' ', name @ ..] if name == FIRST_ENTRY))
}

fn ascii(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let length = end.map(|end| end.saturating_add(1));
    check(
        "line",
        length.unwrap_or(bytes.len()),
        limits::IMA_LINE_BYTES_MAX,
    )?;
    Ok(length)
}

// Linux security/integrity/ima/ima_fs.c, ima_measurements_show
fn binary(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let name_at = 4_usize.saturating_add(HashAlg::Sha1.size());
    let Some(name_length) = u32_at(bytes, name_at) else {
        return Ok(None);
    };
    check("template name", name_length, TEMPLATE_NAME_BYTES_MAX)?;
    let name_start = name_at.saturating_add(4);
    let name_end = name_start.saturating_add(name_length);
    let Some(name) = bytes.get(name_start..name_end) else {
        return Ok(None);
    };
    let data_at = if name == LEGACY_TEMPLATE {
        name_end.saturating_add(HashAlg::Sha1.size())
    } else {
        name_end
    };
    let Some(data_length) = u32_at(bytes, data_at) else {
        return Ok(None);
    };
    check("template data", data_length, limits::IMA_ENTRY_BYTES_MAX)?;
    let end = data_at.saturating_add(4).saturating_add(data_length);
    Ok((bytes.len() >= end).then_some(end))
}

fn check(field: &'static str, bytes: usize, max: usize) -> Result<(), RecordError> {
    if bytes > max {
        return Err(RecordError::Length { field, bytes, max });
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    Some(usize::try_from(u32::from_le_bytes(*field)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(template: &[u8], data: &[u8]) -> Vec<u8> {
        let mut entry = vec![10, 0, 0, 0];
        entry.extend([1; 20]);
        entry.extend(u32::try_from(template.len()).unwrap().to_le_bytes());
        entry.extend(template);
        if template == b"ima" {
            entry.extend([2; 20]);
        }
        entry.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        entry.extend(data);
        entry
    }

    #[test]
    fn an_entry_ends_where_its_lengths_say() {
        for template in [&b"ima-ng"[..], b"ima", b"someone's own"] {
            let whole = entry(template, b"boot_aggregate");
            let followed = [&whole[..], &whole].concat();
            assert_eq!(length(LogFormat::Binary, &followed), Ok(Some(whole.len())));
            for end in 0..whole.len() {
                assert_eq!(length(LogFormat::Binary, &whole[..end]), Ok(None));
            }
            assert!(is_first_of_list(&whole));
            assert!(!is_first_of_list(&entry(template, b"/tmp/boot_aggregate")));
        }
        assert!(is_first_of_list(b"10 ab ima-ng sha256:00 boot_aggregate\n"));
        assert!(!is_first_of_list(
            b"10 ab ima-ng sha256:00 /boot_aggregate\n"
        ));
        assert_eq!(length(LogFormat::Ascii, b"10 ab\n10 cd\n"), Ok(Some(6)));
        assert_eq!(length(LogFormat::Ascii, b"10 ab"), Ok(None));
    }

    #[test]
    fn i17_lengths_that_no_kernel_writes_are_refused_before_they_are_read() {
        let mut bytes = entry(b"ima-ng", b"data");
        bytes[34..38].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(length(LogFormat::Binary, &bytes).is_err());
        bytes[24..28].copy_from_slice(&256_u32.to_le_bytes());
        assert!(length(LogFormat::Binary, &bytes).is_err());
        let line = vec![b'a'; limits::IMA_LINE_BYTES_MAX + 1];
        assert!(length(LogFormat::Ascii, &line).is_err());
    }
}
