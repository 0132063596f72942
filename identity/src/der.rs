//! A bounded reader of DER: what the certificate library does not show is read here.
//!
//! Lengths are definite and minimal, tags have one byte. The order of a SET's members is not
//! looked at: certificates of a large vendor have it wrong.

use thiserror::Error;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Bytes that are not the DER that stands in this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DerError {
    /// The element ends after the bytes do.
    #[error("an element is longer than what holds it")]
    Truncated,
    /// A length in another form than the shortest, or a tag of several bytes.
    #[error("a tag or length is not in its canonical form")]
    Form,
    /// Another element was expected.
    #[error("tag {found:#04x} stands where {expected:#04x} should")]
    Tag {
        /// The tag that should stand here.
        expected: u8,
        /// The tag that does.
        found: u8,
    },
    /// Bytes follow the last element.
    #[error("{0} bytes follow the last element")]
    Trailing(usize),
    /// An extension stands twice.
    #[error("an extension stands twice")]
    Duplicate,
}

/// One element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// Tag, length and content.
    pub(crate) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// A reader of the elements inside.
    pub(crate) const fn inside(&self) -> Reader<'a> {
        Reader { rest: self.content }
    }
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next element, whatever it is; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Element<'a>>, DerError> {
        let Some((tag, after_tag)) = self.rest.split_first() else {
            return Ok(None);
        };
        if tag & 0x1f == 0x1f {
            return Err(DerError::Form);
        }
        let (length, after_length) = length(after_tag)?;
        let (content, rest) = after_length
            .split_at_checked(length)
            .ok_or(DerError::Truncated)?;
        let used = self.rest.len().saturating_sub(rest.len());
        let whole = self.rest.get(..used).ok_or(DerError::Truncated)?;
        self.rest = rest;
        Ok(Some(Element {
            tag: *tag,
            content,
            whole,
        }))
    }

    /// The next element, which has this tag.
    pub(crate) fn expect(&mut self, expected: u8) -> Result<Element<'a>, DerError> {
        match self.next()? {
            Some(element) if element.tag == expected => Ok(element),
            Some(Element { tag: found, .. }) => Err(DerError::Tag { expected, found }),
            None => Err(DerError::Truncated),
        }
    }

    /// The next element when it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerError> {
        if self.rest.first() == Some(&tag) {
            return self.next();
        }
        Ok(None)
    }

    /// Succeeds at the end only.
    pub(crate) fn finish(self) -> Result<(), DerError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DerError::Trailing(left)),
        }
    }
}

/// A length, and what follows it.
fn length(bytes: &[u8]) -> Result<(usize, &[u8]), DerError> {
    let (first, rest) = bytes.split_first().ok_or(DerError::Truncated)?;
    let count = usize::from(first & 0x7f);
    if first & 0x80 == 0 {
        return Ok((count, rest));
    }
    // 0x80 is the indefinite form; more than three bytes are beyond every limit.
    if !(1..=3).contains(&count) {
        return Err(DerError::Form);
    }
    let (digits, rest) = rest.split_at_checked(count).ok_or(DerError::Truncated)?;
    let value = digits
        .iter()
        .fold(0_usize, |value, digit| (value << 8) | usize::from(*digit));
    if value < 0x80 || digits.first() == Some(&0) {
        return Err(DerError::Form);
    }
    Ok((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_form() {
        assert_eq!(length(&[0x7f]).unwrap().0, 0x7f);
        assert_eq!(length(&[0x81, 0x80]).unwrap().0, 0x80);
        assert_eq!(length(&[0x82, 1, 0]).unwrap().0, 0x100);
        let refused: [&[u8]; 5] = [
            &[0x80],
            &[0x81, 0x7f],
            &[0x82, 0, 0x80],
            &[0x84, 1, 0, 0, 0],
            &[0xff],
        ];
        for bytes in refused {
            assert_eq!(length(bytes).map(|(value, _)| value), Err(DerError::Form));
        }
        assert_eq!(length(&[0x82, 1]).err(), Some(DerError::Truncated));
    }

    #[test]
    fn elements_never_reach_outside() {
        let mut reader = Reader::new(&[SEQUENCE, 3, INTEGER, 2, 1]);
        let mut inside = reader.expect(SEQUENCE).unwrap().inside();
        assert_eq!(inside.next().err(), Some(DerError::Truncated));
        assert_eq!(Reader::new(&[0x1f, 0]).next().err(), Some(DerError::Form));
        assert_eq!(Reader::new(&[5, 0]).finish(), Err(DerError::Trailing(2)));
    }
}
