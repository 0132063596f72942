//! Names of members as paths of the machine.

use super::CpioError;

/// Characters of a name that an error shows.
const SHOWN_MAX: usize = 256;

/// `usr/bin/x`, `./usr/bin/x` and `/usr/bin/x` as `/usr/bin/x`.
///
/// # Errors
/// [`CpioError::Traversal`] for a part that is `..`.
pub(super) fn absolute(name: &[u8]) -> Result<Vec<u8>, CpioError> {
    let mut path = Vec::with_capacity(name.len().saturating_add(1));
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(CpioError::Traversal { name: shown(name) }),
            part => {
                path.push(b'/');
                path.extend_from_slice(part);
            }
        }
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Ok(path)
}

/// A name for people: control characters escaped, and no longer than a line.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let text: String = text.chars().take(SHOWN_MAX).collect();
    text.escape_debug().to_string()
}
