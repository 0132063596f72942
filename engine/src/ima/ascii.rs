//! `ascii_runtime_measurements`: one entry a line.
//!
//! A line is `PCR SP template-hash SP template SP field {SP field}`. The hashed template data is
//! not in it and is rebuilt here, so that whatever is judged later is read from hashed bytes.
//!
//! Source: Linux `security/integrity/ima/ima_fs.c`, `ima_ascii_measurements_show`.

use super::template::{FieldKind, LEGACY_NAME_FIELD_BYTES, Template};
use super::{Entry, EntryFault};
use crate::fault::fault_point;
use crate::hash::{DIGEST_SIZE_MAX, HashAlg};
use crate::limits;
use crate::malformed::{Fault, Malformed};

/// Decodes one line (without its newline), rebuilding the template data in `scratch`.
pub(super) fn decode<'a>(line: &[u8], scratch: &'a mut Scratch) -> Result<Entry<'a>, EntryFault> {
    let (pcr, template) = match usual(line, scratch) {
        Some(pcr) => (pcr, Template::ImaNg),
        None => fields(line, scratch)?,
    };
    let template_hash = scratch.hash.get(..scratch.hash_size).unwrap_or(&[]);
    Ok(Entry {
        pcr,
        template_hash,
        template,
        data: &scratch.data,
        // The decoder knows where the line starts.
        end_bytes: 0,
    })
}

/// What stands between template hash and digest in nearly all lines.
const USUAL: &[u8] = b" ima-ng sha256:";

/// Reads a line of `ima-ng` with a SHA-256 digest, in which everything but the path has its place.
/// `None` leaves any other line, right or wrong, to [`fields`].
fn usual(line: &[u8], scratch: &mut Scratch) -> Option<u32> {
    let ([tens, ones, b' '], rest) = line.split_first_chunk()? else {
        return None;
    };
    let (hash, rest) = rest.split_first_chunk::<40>()?;
    let (digest, rest) = rest.strip_prefix(USUAL)?.split_first_chunk::<64>()?;
    let path = rest.strip_prefix(b" ")?;
    let pcr = decimal(&[*tens, *ones])?;
    scratch.hash_size = decode_hex_into(hash, &mut scratch.hash)?;
    let mut value = [0; 32];
    decode_hex_into(digest, &mut value)?;
    let name_size = path.len().checked_add(1)?;
    let data = &mut scratch.data;
    data.clear();
    // 40 bytes: the algorithm's name with its NUL, and the digest.
    data.extend_from_slice(b"\x28\0\0\0sha256:\0");
    data.extend_from_slice(&value);
    data.extend_from_slice(&u32::try_from(name_size).ok()?.to_le_bytes());
    data.extend_from_slice(path);
    data.push(0);
    let is_whole = memchr::memchr(b' ', path).is_none();
    (is_whole && data.len() <= limits::IMA_ENTRY_BYTES_MAX).then_some(pcr)
}

/// Reads a line of any template, field by field.
fn fields(line: &[u8], scratch: &mut Scratch) -> Result<(u32, Template), EntryFault> {
    let mut fields = Fields { line, offset: 0 };
    // `%2d`: an index below 10 is printed after a space.
    if line.first() == Some(&b' ') {
        fields.offset = 1;
    }
    let pcr = decimal(fields.next("PCR")?).ok_or_else(|| fields.syntax("PCR", "a PCR index"))?;
    let hash = fields.next("template hash")?;
    scratch.hash_size = decode_hex_into(hash, &mut scratch.hash)
        .ok_or_else(|| fields.syntax("template hash", "hexadecimal digits"))?;
    let name = fields.next("template name")?;
    let Some(template) = Template::from_name(name) else {
        return Err(EntryFault::unsupported(name));
    };
    scratch.data.clear();
    if template == Template::Ima {
        legacy(&mut fields, &mut scratch.data)?;
    } else {
        for kind in template.fields() {
            let offset = fields.offset;
            let text = fields.next("field")?;
            append(*kind, text, &mut scratch.data)
                .map_err(|fault| malformed("field", offset, fault))?;
        }
    }
    fields.finish()?;
    // A line of the largest size can carry a little more than a binary record may.
    if scratch.data.len() > limits::IMA_ENTRY_BYTES_MAX {
        let fault = Fault::Length {
            value: scratch.data.len(),
            min: 1,
            max: limits::IMA_ENTRY_BYTES_MAX,
        };
        return Err(malformed("template data", 0, fault).into());
    }
    Ok((pcr, template))
}

/// Buffers that are kept from line to line.
#[derive(Debug, Clone)]
pub(super) struct Scratch {
    hash: [u8; DIGEST_SIZE_MAX],
    hash_size: usize,
    data: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            hash: [0; DIGEST_SIZE_MAX],
            hash_size: 0,
            data: Vec::new(),
        }
    }
}

/// `hex(d) SP name`: hashed as the digest and the name padded with NUL to 256 bytes.
fn legacy(fields: &mut Fields<'_>, data: &mut Vec<u8>) -> Result<(), EntryFault> {
    let offset = fields.offset;
    let digest = fields.next("d")?;
    append_hex(digest, data).map_err(|fault| malformed("d", offset, fault))?;
    if data.len() != HashAlg::Sha1.size() {
        let size = HashAlg::Sha1.size();
        let fault = Fault::Length {
            value: data.len(),
            min: size,
            max: size,
        };
        return Err(malformed("d", offset, fault).into());
    }
    let offset = fields.offset;
    let name = fields.next("n")?;
    // A NUL is needed after the name even when it fills the field.
    if name.len() >= LEGACY_NAME_FIELD_BYTES {
        let fault = Fault::Length {
            value: name.len(),
            min: 1,
            max: LEGACY_NAME_FIELD_BYTES,
        };
        return Err(malformed("n", offset, fault).into());
    }
    data.extend_from_slice(name);
    data.resize(
        HashAlg::Sha1.size().saturating_add(LEGACY_NAME_FIELD_BYTES),
        0,
    );
    Ok(())
}

/// Appends one field as it is hashed: little-endian length, then bytes.
fn append(kind: FieldKind, text: &[u8], data: &mut Vec<u8>) -> Result<(), Fault> {
    let start = data.len();
    data.extend_from_slice(&[0; 4]);
    match kind {
        FieldKind::Name => {
            data.extend_from_slice(text);
            data.push(0);
        }
        FieldKind::Bytes => append_hex(text, data)?,
        FieldKind::DigestModSig if text.is_empty() => {}
        FieldKind::DigestNg | FieldKind::DigestNgV2 | FieldKind::DigestModSig => {
            let expected = Fault::Syntax {
                expected: "`algorithm:digest`",
            };
            let colon = memchr::memrchr(b':', text).ok_or(expected)?;
            let (prefix, digest) = text
                .split_at_checked(colon.saturating_add(1))
                .ok_or(expected)?;
            data.extend_from_slice(prefix);
            data.push(0);
            append_hex(digest, data)?;
        }
    }
    let length = data.len().saturating_sub(start).saturating_sub(4);
    let too_long = Fault::Length {
        value: length,
        min: 0,
        max: limits::IMA_ENTRY_BYTES_MAX,
    };
    let length = u32::try_from(length).map_err(|_| too_long)?;
    let slot = start..start.saturating_add(4);
    data.get_mut(slot)
        .ok_or(too_long)?
        .copy_from_slice(&length.to_le_bytes());
    Ok(())
}

struct Fields<'a> {
    line: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    /// The bytes up to the next space or the end of the line; the space is consumed.
    fn next(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        fault_point!(self.syntax(field, "one more field"));
        let Some(rest) = self.line.get(self.offset..) else {
            return Err(self.syntax(field, "one more field"));
        };
        let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        // At the end of the line the offset goes one past it: no further field.
        self.offset = self.offset.saturating_add(end).saturating_add(1);
        Ok(rest.get(..end).unwrap_or(rest))
    }

    fn finish(&self) -> Result<(), Malformed> {
        match self.line.len().checked_sub(self.offset) {
            None => Ok(()),
            // The kernel writes a space as `_`: a further field is not part of a name.
            Some(bytes) => Err(malformed(
                "end of line",
                self.offset,
                Fault::Trailing {
                    bytes: bytes.max(1),
                },
            )),
        }
    }

    fn syntax(&self, field: &'static str, expected: &'static str) -> Malformed {
        malformed(
            field,
            self.offset.min(self.line.len()),
            Fault::Syntax { expected },
        )
    }
}

fn malformed(field: &'static str, offset: usize, fault: Fault) -> Malformed {
    Malformed {
        structure: "IMA ascii entry",
        field,
        offset,
        fault,
    }
}

fn decimal(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 3 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The value of each lower-case hexadecimal digit; `NOT_HEX` for any other byte.
const NIBBLES: [u8; 256] = {
    let mut table = [NOT_HEX; 256];
    let digits = b"0123456789abcdef";
    let mut value: u8 = 0;
    let mut rest: &[u8] = digits;
    while let [digit, tail @ ..] = rest {
        // Indexed by a byte: always within the table.
        #[allow(clippy::indexing_slicing, clippy::as_conversions)]
        {
            table[*digit as usize] = value;
        }
        value = value.wrapping_add(1);
        rest = tail;
    }
    table
};

/// Larger than any digit, also in the high half of a byte.
const NOT_HEX: u8 = 0xff;

fn nibble(digit: u8) -> u8 {
    NIBBLES.get(usize::from(digit)).copied().unwrap_or(NOT_HEX)
}

/// Writes the bytes that pairs of digits stand for; false when one is no digit.
fn decode_pairs(pairs: &[[u8; 2]], target: &mut [u8]) -> bool {
    let (fours, rest) = pairs.as_chunks::<4>();
    let (target_fours, target_rest) = target.as_chunks_mut::<4>();
    let mut wrong = 0;
    for (pairs, bytes) in fours.iter().zip(target_fours) {
        let [[a, b], [c, d], [e, f], [g, h]] = *pairs;
        let digits = [a, b, c, d, e, f, g, h];
        let (value, fault) = decode_eight(u64::from_le_bytes(digits));
        wrong |= fault;
        *bytes = value.to_le_bytes();
    }
    let mut seen = 0;
    for ([high, low], byte) in rest.iter().zip(target_rest) {
        let (high, low) = (nibble(*high), nibble(*low));
        seen |= high | low;
        *byte = high.wrapping_shl(4) | low;
    }
    wrong == 0 && seen & 0xf0 == 0
}

/// Eight digits, the first in the lowest byte, as the four bytes that they stand for; the second
/// number is zero when all are digits.
fn decode_eight(digits: u64) -> (u32, u64) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // `0` to `9` are 0x30 to 0x39, `a` to `f` are 0x61 to 0x66: bit 6 tells them apart.
    let letters = digits.wrapping_shr(6) & EACH;
    let values = (digits & EACH.wrapping_mul(0x0f)).wrapping_add(letters.wrapping_mul(9));
    // Written again they are the same, unless one was no digit. No byte overflows: values are at
    // most 24.
    let above_nine = values.wrapping_add(EACH.wrapping_mul(6)).wrapping_shr(4) & EACH;
    let written = values
        .wrapping_add(EACH.wrapping_mul(0x30))
        .wrapping_add(above_nine.wrapping_mul(0x27));
    let wrong = (written ^ digits) | (values & EACH.wrapping_mul(0xf0));
    // Two nibbles to a byte, then the bytes together.
    let pairs = (values.wrapping_shl(4) | values.wrapping_shr(8)) & 0x00ff_00ff_00ff_00ff;
    let halves = (pairs | pairs.wrapping_shr(8)) & 0x0000_ffff_0000_ffff;
    let [a, b, c, d, ..] = (halves | halves.wrapping_shr(16)).to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), wrong)
}

/// The kernel prints lower-case digits only (`%02x`); anything else is not a log of its.
fn append_hex(text: &[u8], data: &mut Vec<u8>) -> Result<(), Fault> {
    let (pairs, rest) = text.as_chunks::<2>();
    let start = data.len();
    data.resize(start.saturating_add(pairs.len()), 0);
    let target = data.get_mut(start..).unwrap_or_default();
    if !rest.is_empty() || !decode_pairs(pairs, target) {
        return Err(Fault::Syntax {
            expected: "pairs of lower-case hexadecimal digits",
        });
    }
    Ok(())
}

fn decode_hex_into(text: &[u8], target: &mut [u8]) -> Option<usize> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() || pairs.is_empty() || pairs.len() > target.len() {
        return None;
    }
    decode_pairs(pairs, target).then_some(pairs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both ways make of a line: PCR, hash, template and data.
    fn read(line: &[u8], way: impl Fn(&[u8], &mut Scratch) -> Option<u32>) -> Option<String> {
        let mut scratch = Scratch::default();
        let pcr = way(line, &mut scratch)?;
        let hash = scratch.hash.get(..scratch.hash_size);
        Some(format!("{pcr} {hash:?} {:?}", scratch.data))
    }

    fn field_by_field(line: &[u8], scratch: &mut Scratch) -> Option<u32> {
        let (pcr, template) = fields(line, scratch).ok()?;
        (template == Template::ImaNg).then_some(pcr)
    }

    fn usual_line() -> Vec<u8> {
        let (hash, digest) = ("a1".repeat(20), "0f".repeat(32));
        format!("10 {hash} ima-ng sha256:{digest} /usr/bin/file").into_bytes()
    }

    #[test]
    fn usual_lines_are_read_as_all_are() {
        let line = usual_line();
        assert!(read(&line, usual).is_some());
        // Each byte at each place; cut off at each place; with something after it.
        let mut others: Vec<_> = (0..=line.len()).map(|end| line[..end].to_vec()).collect();
        others.extend((0..=u8::MAX).map(|byte| [&line[..], &[byte]].concat()));
        let path = "x".repeat(limits::IMA_ENTRY_BYTES_MAX);
        for length in [0, 1, 2, 48, 49, 50, 51, 52, 53] {
            let head = &line[..line.len() - "/usr/bin/file".len()];
            let path = &path.as_bytes()[length..];
            others.push([head, path].concat());
        }
        for place in 0..line.len() {
            for byte in 0..=u8::MAX {
                let mut other = line.clone();
                other[place] = byte;
                others.push(other);
            }
        }
        let mut taken = 0;
        for other in others {
            let (usual, all) = (read(&other, usual), read(&other, field_by_field));
            if usual.is_some() {
                assert_eq!(usual, all, "{:?}", String::from_utf8_lossy(&other));
                taken += 1;
            }
        }
        assert!(taken > 1_000, "{taken}");
    }

    #[test]
    fn eight_digits_are_read_as_one_by_one() {
        let as_bytes = |text: &[u8]| {
            let mut target = vec![0; text.len() / 2];
            let (pairs, _) = text.as_chunks();
            decode_pairs(pairs, &mut target).then_some(target)
        };
        // Every byte at every place among eight digits and after them.
        for place in 0..14 {
            for byte in 0..=u8::MAX {
                let mut text = *b"0f9a5c3e7d1b24";
                text[place] = byte;
                let is_digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                let expected = is_digit.then(|| hex::decode(text).unwrap());
                assert_eq!(as_bytes(&text), expected, "{byte:#x} at {place}");
            }
        }
        assert_eq!(as_bytes(b""), Some(vec![]));
    }
}
