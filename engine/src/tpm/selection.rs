//! `TPML_PCR_SELECTION`: which PCRs of which banks.

use std::fmt;

use crate::bytes::Reader;
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::{Fault, Malformed};
use crate::pcr::PcrSet;

const BANKS: usize = HashAlg::ALL.len();

/// PCRs by bank, the banks in the order in which they were given, each at most once.
///
/// `==` compares order too, as `pcrDigest` does; [`PcrSelection::same_pcrs`] compares the PCRs.
///
/// A bank may be listed without any PCR: a TPM asked for PCRs of a bank that it has not allocated
/// clears their bits and keeps the entry. Such an entry adds nothing to the digest, nothing to
/// what is attested, and makes no difference to `same_pcrs`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PcrSelection {
    banks: [Option<(HashAlg, PcrSet)>; BANKS],
}

impl PcrSelection {
    /// A selection that lists no bank.
    pub const EMPTY: Self = Self {
        banks: [None; BANKS],
    };

    /// The selection with these banks in this order; `None` when a bank is given twice.
    pub fn new(banks: impl IntoIterator<Item = (HashAlg, PcrSet)>) -> Option<Self> {
        let mut selection = Self::EMPTY;
        banks
            .into_iter()
            .all(|(bank, pcrs)| selection.push(bank, pcrs))
            .then_some(selection)
    }

    /// Appends a bank; false when it is listed already.
    pub(crate) fn push(&mut self, bank: HashAlg, pcrs: PcrSet) -> bool {
        if self.banks().any(|(listed, _)| listed == bank) {
            return false;
        }
        // Distinct banks always find a place: there are as many places as algorithms.
        let free = self.banks.iter_mut().find(|slot| slot.is_none());
        free.map(|slot| *slot = Some((bank, pcrs))).is_some()
    }

    /// Reads exactly one `TPML_PCR_SELECTION`.
    ///
    /// # Errors
    /// As part of [`crate::tpm::Attest::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TPML_PCR_SELECTION", bytes);
        let selection = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(selection)
    }

    /// Reads a selection as a TPM writes it: three bytes per bank, known banks, none twice.
    // TPM 2.0 Part 2, 10.9.7 TPML_PCR_SELECTION and 10.6.2 TPMS_PCR_SELECTION
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let at_count = reader.clone();
        let count = reader.u32_be("pcrSelect.count")?;
        let value = usize::try_from(count).unwrap_or(usize::MAX);
        if value > limits::PCR_BANKS_MAX {
            let (min, max) = (0, limits::PCR_BANKS_MAX);
            return Err(at_count.fault("pcrSelect.count", Fault::Length { value, min, max }));
        }
        let mut selection = Self::EMPTY;
        for _ in 0..count {
            let at_hash = reader.clone();
            let id = reader.u16_be("pcrSelect.hash")?;
            let value = u64::from(id);
            let bank = HashAlg::from_tpm_id(id)
                .ok_or_else(|| at_hash.fault("pcrSelect.hash", Fault::Unknown { value }))?;
            let at_size = reader.clone();
            let size = usize::from(reader.u8("pcrSelect.sizeofSelect")?);
            if size != limits::PCR_SELECT_BYTES {
                let (min, max) = (limits::PCR_SELECT_BYTES, limits::PCR_SELECT_BYTES);
                let value = size;
                return Err(
                    at_size.fault("pcrSelect.sizeofSelect", Fault::Length { value, min, max })
                );
            }
            let [low, middle, high] = reader.array("pcrSelect.pcrSelect")?;
            if !selection.push(bank, PcrSet::from_select([low, middle, high])) {
                return Err(at_hash.fault("pcrSelect.hash", Fault::Duplicate { value }));
            }
        }
        Ok(selection)
    }

    /// The banks listed and their PCRs, in the order given.
    pub fn banks(&self) -> impl Iterator<Item = (HashAlg, PcrSet)> {
        self.banks.into_iter().flatten()
    }

    /// The PCRs of one bank; empty when the bank is not listed.
    pub fn pcrs(&self, bank: HashAlg) -> PcrSet {
        self.banks()
            .find(|(listed, _)| *listed == bank)
            .map_or(PcrSet::EMPTY, |(_, pcrs)| pcrs)
    }

    /// Whether no PCR of any bank is selected.
    pub fn is_empty(&self) -> bool {
        self.banks().all(|(_, pcrs)| pcrs.is_empty())
    }

    /// Whether both select the same PCRs, in whatever order the banks are listed.
    pub fn same_pcrs(&self, other: &Self) -> bool {
        HashAlg::ALL
            .into_iter()
            .all(|bank| self.pcrs(bank) == other.pcrs(bank))
    }
}

/// `sha1:0,1+sha256:10`, as tpm2-tools writes selections.
impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (bank, pcrs)) in self.banks().enumerate() {
            if nth > 0 {
                f.write_str("+")?;
            }
            write!(f, "{bank}:{pcrs}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PcrSelection({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: [u8; 6] = [0, 0x04, 3, 0xff, 0, 0];
    const SHA256: [u8; 6] = [0, 0x0b, 3, 0, 0x04, 0];

    fn list(entries: &[[u8; 6]]) -> Vec<u8> {
        let count = u32::try_from(entries.len()).unwrap();
        [&count.to_be_bytes()[..], &entries.concat()].concat()
    }

    #[test]
    fn p08_banks_keep_their_order() {
        let forward = PcrSelection::parse(&list(&[SHA1, SHA256])).unwrap();
        let backward = PcrSelection::parse(&list(&[SHA256, SHA1])).unwrap();
        assert_eq!(forward.to_string(), "sha1:0,1,2,3,4,5,6,7+sha256:10");
        assert_ne!(forward, backward);
        assert!(forward.same_pcrs(&backward));
        assert_eq!(PcrSelection::new(forward.banks()), Some(forward));
    }

    #[test]
    fn p01_a_bank_listed_twice_is_refused() {
        for entries in [[SHA1, SHA1], [SHA256, SHA256]] {
            let error = PcrSelection::parse(&list(&entries)).unwrap_err();
            assert!(matches!(error.fault, Fault::Duplicate { .. }));
            assert_eq!(error.offset, 10);
        }
    }

    #[test]
    fn p01_only_three_byte_selects() {
        for size in [0, 1, 2, 4, 255] {
            let mut bytes = list(&[SHA256]);
            bytes[6] = size;
            bytes.extend([0; 255]);
            let error = PcrSelection::parse(&bytes).unwrap_err();
            assert_eq!(error.field, "pcrSelect.sizeofSelect");
            let expected = Fault::Length {
                value: usize::from(size),
                min: 3,
                max: 3,
            };
            assert_eq!(error.fault, expected);
        }
    }

    #[test]
    fn p01_unknown_banks_are_refused_by_number() {
        // SM3-256, SHA3-256, NULL, none.
        for id in [0x0012_u16, 0x0027, 0x0010, 0] {
            let mut bytes = list(&[SHA256]);
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
            let error = PcrSelection::parse(&bytes).unwrap_err();
            let value = u64::from(id);
            assert_eq!(error.fault, Fault::Unknown { value });
        }
    }

    #[test]
    fn p01_empty_selections_are_seen_as_empty() {
        assert!(PcrSelection::parse(&[0; 4]).unwrap().is_empty());
        let unallocated = list(&[[0, 0x0b, 3, 0, 0, 0]]);
        let selection = PcrSelection::parse(&unallocated).unwrap();
        assert!(selection.is_empty() && selection.same_pcrs(&PcrSelection::EMPTY));
    }

    #[test]
    fn counts_are_bounded_before_the_loop() {
        let error = PcrSelection::parse(&u32::MAX.to_be_bytes()).unwrap_err();
        assert_eq!(error.field, "pcrSelect.count");
        let seventeen = PcrSelection::parse(&17_u32.to_be_bytes()).unwrap_err();
        assert!(matches!(seventeen.fault, Fault::Length { value: 17, .. }));
        let sixteen = PcrSelection::parse(&16_u32.to_be_bytes()).unwrap_err();
        assert!(matches!(sixteen.fault, Fault::Truncated { .. }));
    }
}
