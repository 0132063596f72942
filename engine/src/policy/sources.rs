//! What reference values of files are read from, other than measurement lists.

pub mod allowlist;
pub mod cpio;
pub mod rpm;

use std::borrow::Cow;

/// The name by which the kernel measures a path: `_` for each space (I27).
///
/// Source: Linux, `security/integrity/ima/ima_template_lib.c`, `ima_write_template_field_data`.
pub fn measured_name(path: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b' ', path).is_none() {
        return Cow::Borrowed(path);
    }
    let byte = |byte: &u8| if *byte == b' ' { b'_' } else { *byte };
    Cow::Owned(path.iter().map(byte).collect())
}
