//! PEM: blocks in a text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// A text that does not hold the blocks it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("block {block} of the PEM text has no end, another end, or is no base64")]
pub struct PemError {
    /// Which block, counted from 1.
    pub block: usize,
}

const BEGIN: &str = "-----BEGIN ";

/// Whether a text holds a block at all.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    bytes
        .windows(BEGIN.len())
        .any(|window| window == BEGIN.as_bytes())
}

/// Every block's label and contents. Text between blocks is skipped: tools write comments there.
pub(crate) fn blocks(text: &str) -> Result<Vec<(&str, Vec<u8>)>, PemError> {
    let mut blocks = Vec::new();
    for piece in text.split(BEGIN).skip(1) {
        let block = blocks.len().saturating_add(1);
        blocks.push(one(piece).ok_or(PemError { block })?);
    }
    Ok(blocks)
}

fn one(piece: &str) -> Option<(&str, Vec<u8>)> {
    let (label, rest) = piece.split_once("-----")?;
    let (body, end) = rest.split_once("-----END ")?;
    if end.split_once("-----")?.0 != label {
        return None;
    }
    let body: String = body.split_ascii_whitespace().collect();
    Some((label, STANDARD.decode(body).ok()?))
}

/// One block.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("{BEGIN}{label}-----\n");
    let mut rest = body.as_str();
    while let Some((line, tail)) = rest.split_at_checked(64) {
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    if !rest.is_empty() {
        text.push_str(rest);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_trip_at_every_length_of_the_last_line() {
        for length in 0..200_u8 {
            let der: Vec<u8> = (0..length).collect();
            let text = format!("a comment\n{}", encode("CERTIFICATE", &der));
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(blocks(&text).unwrap(), [("CERTIFICATE", der)]);
        }
    }

    #[test]
    fn damaged_blocks_are_named_by_number() {
        let good = encode("CERTIFICATE", &[1, 2, 3]);
        for damaged in [
            good.replace("END CERTIFICATE", "END KEY"),
            good.replace("AQID", "AQI"),
            good.replace("-----END CERTIFICATE-----", ""),
        ] {
            let text = format!("{good}{damaged}");
            assert_eq!(blocks(&text).err(), Some(PemError { block: 2 }), "{text}");
        }
        assert_eq!(blocks("nothing").unwrap(), []);
        assert!(is_pem(good.as_bytes()) && !is_pem(b"0\x82"));
    }
}
