//! Lists of endorsement keys.

use std::collections::HashSet;
use std::path::Path;

use crate::ek::TrustError;
use crate::ek::load;
use crate::limits;

/// Reads a list: on each line the SHA-256 of a SubjectPublicKeyInfo, in hexadecimal of either
/// case; `#` begins a comment.
pub(super) fn read(path: &Path, listed: &mut HashSet<[u8; 32]>) -> Result<(), TrustError> {
    let bytes = load::read(path, limits::LIST_BYTES_MAX)?;
    let mut entries: usize = 0;
    for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let entry = text
            .split(|byte| *byte == b'#')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        if entry.is_empty() {
            continue;
        }
        let mut sha256 = [0; 32];
        hex::decode_to_slice(entry, &mut sha256).map_err(|_| TrustError::Line {
            path: path.to_owned(),
            line,
        })?;
        if !listed.contains(&sha256) && listed.len() >= limits::LIST_ENTRIES_MAX {
            return Err(TrustError::TooMany {
                path: path.to_owned(),
                max: limits::LIST_ENTRIES_MAX,
            });
        }
        listed.insert(sha256);
        entries = entries.saturating_add(1);
    }
    if entries == 0 {
        return Err(TrustError::Empty(path.to_owned()));
    }
    Ok(())
}
