//! A cursor over hostile bytes: every read is checked, nothing is copied, nothing panics.

use crate::fault::fault_point;
use crate::malformed::{Fault, Malformed};

/// Reads fields off the front of a buffer, and names the structure and field in every error.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    structure: &'static str,
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader over `buffer`, which should hold one `structure`.
    pub(crate) fn new(structure: &'static str, buffer: &'a [u8]) -> Self {
        Self {
            structure,
            rest: buffer,
            offset: 0,
        }
    }

    /// Bytes read so far.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error about `field` at the current offset.
    pub(crate) fn fault(&self, field: &'static str, fault: Fault) -> Malformed {
        Malformed {
            structure: self.structure,
            field,
            offset: self.offset,
            fault,
        }
    }

    /// The next `count` bytes.
    pub(crate) fn take(
        &mut self,
        field: &'static str,
        count: usize,
    ) -> Result<&'a [u8], Malformed> {
        fault_point!(in self.structure, self.fault(
            field,
            Fault::Truncated {
                wanted: count,
                have: 0
            }
        ));
        let Some((head, tail)) = self.rest.split_at_checked(count) else {
            let fault = Fault::Truncated {
                wanted: count,
                have: self.rest.len(),
            };
            return Err(self.fault(field, fault));
        };
        self.rest = tail;
        self.offset = self.offset.saturating_add(count);
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], Malformed> {
        fault_point!(in self.structure, self.fault(field, Fault::Truncated { wanted: N, have: 0 }));
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            let fault = Fault::Truncated {
                wanted: N,
                have: self.rest.len(),
            };
            return Err(self.fault(field, fault));
        };
        self.rest = tail;
        self.offset = self.offset.saturating_add(N);
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16_be(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32_be(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64_be(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(crate) fn u16_le(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32_le(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64_le(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A TPM2B: a big-endian u16 size, then as many bytes, at least `min` and at most `max`.
    pub(crate) fn sized_be(
        &mut self,
        field: &'static str,
        min: usize,
        max: usize,
    ) -> Result<&'a [u8], Malformed> {
        let before = self.clone();
        let size = usize::from(self.u16_be(field)?);
        if size < min || size > max {
            return Err(before.fault(
                field,
                Fault::Length {
                    value: size,
                    min,
                    max,
                },
            ));
        }
        self.take(field, size)
    }

    /// Succeeds only when every byte has been read: trailing bytes are an error.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.fault(
                "end",
                Fault::Trailing {
                    bytes: self.rest.len(),
                },
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_refuses_trailing_bytes() {
        let mut reader = Reader::new("T", &[1, 0, 2, 0, 0, 0, 3, 9]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16_be("b"), Ok(2));
        assert_eq!(reader.u32_be("c"), Ok(3));
        assert_eq!(reader.offset(), 7);
        let error = reader.finish().unwrap_err();
        assert_eq!(error.fault, Fault::Trailing { bytes: 1 });
    }

    #[test]
    fn sized_checks_its_limit_before_the_buffer() {
        let mut reader = Reader::new("T", &[0xff, 0xff, 1]);
        let error = reader.sized_be("x", 0, 64).unwrap_err();
        assert_eq!(
            error.fault,
            Fault::Length {
                value: 0xffff,
                min: 0,
                max: 64
            }
        );
        assert_eq!(error.offset, 0);
        let mut reader = Reader::new("T", &[0, 4, 1]);
        let error = reader.sized_be("x", 0, 64).unwrap_err();
        assert_eq!(error.fault, Fault::Truncated { wanted: 4, have: 1 });
        assert_eq!(error.offset, 2);
    }
}
