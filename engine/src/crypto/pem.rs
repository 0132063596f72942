//! PEM: one block and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::crypto::key::{KeyError, check_length};

/// The label and contents of a text that is exactly one PEM block.
///
/// Stricter than the libraries, which skip to the first block they like: text around the block,
/// a second block and headers are refused.
///
/// # Errors
/// [`KeyError::TooLong`] or [`KeyError::Pem`].
///
/// Source: RFC 7468, 2 and 3 (strict form; lines of any length).
pub(crate) fn decode(text: &[u8]) -> Result<(&str, Vec<u8>), KeyError> {
    check_length(text)?;
    block(text).ok_or(KeyError::Pem)
}

fn block(text: &[u8]) -> Option<(&str, Vec<u8>)> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let (label, rest) = text.strip_prefix("-----BEGIN ")?.split_once("-----")?;
    let (body, end) = rest.split_once("-----END ")?;
    if end.strip_suffix("-----")? != label {
        return None;
    }
    let body: String = body.split_ascii_whitespace().collect();
    Some((label, STANDARD.decode(body).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_is_read_and_anything_else_refused() {
        let block = "-----BEGIN PUBLIC KEY-----\r\nAAEC\nAwQ=\n-----END PUBLIC KEY-----\n";
        let expected = ("PUBLIC KEY", vec![0, 1, 2, 3, 4]);
        assert_eq!(decode(block.as_bytes()), Ok(expected.clone()));
        assert_eq!(decode(format!("\n {block} ").as_bytes()), Ok(expected));
        let refused = [
            String::new(),
            format!("x{block}"),
            format!("{block}x"),
            format!("{block}{block}"),
            block.replace("END PUBLIC", "END PRIVATE"),
            block.replace("AAEC", "Proc-Type: 4,ENCRYPTED\n\nAAEC"),
            block.replace("AwQ=", "AwQ"),
        ];
        for text in refused {
            assert_eq!(decode(text.as_bytes()), Err(KeyError::Pem), "{text}");
        }
    }
}
