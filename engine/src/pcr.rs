//! Platform configuration registers: indices, sets of them, banks and their values.

use std::fmt;

use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::{Digest, HashAlg};
use crate::limits;

/// The index of a PCR, 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PcrIndex(u8);

impl PcrIndex {
    /// The PCR into which kernels measure files unless their policy says another.
    pub const IMA: Self = Self(10);
    /// The PCR in which Keylime's agents show the key that secrets are encrypted for: they reset it,
    /// extend it and add it to each quote, asked or not.
    pub const KEYLIME_DATA: Self = Self(16);

    /// The index, if it is below 24.
    pub fn new(index: u64) -> Option<Self> {
        let index = u8::try_from(index).ok()?;
        (usize::from(index) < limits::PCR_COUNT).then_some(Self(index))
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether software can reset this PCR at any time (16 debug, 23 application).
    ///
    /// Source: TCG PC Client Platform TPM Profile, 4.6 "PCR attributes".
    pub const fn is_resettable(self) -> bool {
        matches!(self.0, 16 | 23)
    }
}

impl<'de> Deserialize<'de> for PcrIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u8::deserialize(deserializer)?;
        Self::new(index.into()).ok_or_else(|| serde::de::Error::custom("no such PCR"))
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of PCR indices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PcrSet(u32);

impl PcrSet {
    /// No PCR.
    pub const EMPTY: Self = Self(0);
    /// PCR 0-7, into which firmware measures.
    pub const FIRMWARE: Self = Self(0x00ff);
    /// PCR 0-9, over which newer kernels compute boot_aggregate.
    pub const BOOT: Self = Self(0x03ff);
    /// PCR 0-9 and 11-15, into which firmware and boot loaders measure, as Keylime counts them.
    pub const MEASURED_BOOT: Self = Self(0xfbff);

    /// The set whose bit `n` says whether PCR `n` is in it; `None` when a bit above 23 is set.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits >> 24 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The set that a TPM writes as these three bytes: bit `n % 8` of byte `n / 8` is PCR `n`.
    ///
    /// Source: TPM 2.0 Part 2, 10.6.1 `TPMS_PCR_SELECT`.
    pub const fn from_select([low, middle, high]: [u8; 3]) -> Self {
        Self(u32::from_le_bytes([low, middle, high, 0]))
    }

    /// Bit `n` says whether PCR `n` is in the set.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Adds a PCR; false when it was there already.
    pub fn insert(&mut self, pcr: PcrIndex) -> bool {
        let before = self.0;
        self.0 |= 1_u32.wrapping_shl(u32::from(pcr.0));
        self.0 != before
    }

    /// Whether the set holds this PCR.
    pub fn contains(self, pcr: PcrIndex) -> bool {
        self.0 & 1_u32.wrapping_shl(u32::from(pcr.0)) != 0
    }

    /// Whether the set holds all PCRs of the other.
    pub const fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// PCRs of both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// PCRs of either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// PCRs of this set that are not in the other.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is no PCR in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many PCRs are in it.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The PCRs of this set whose index is lower.
    fn below(self, pcr: PcrIndex) -> Self {
        let lower = 1_u32.wrapping_shl(u32::from(pcr.0)).wrapping_sub(1);
        Self(self.0 & lower)
    }

    /// How many PCRs are in it.
    fn count(self) -> usize {
        usize::try_from(self.len()).unwrap_or(usize::MAX)
    }

    /// Bytes of the values of these PCRs in a bank.
    fn bytes_in(self, bank: HashAlg) -> usize {
        self.count().saturating_mul(bank.size())
    }

    /// The PCRs in ascending order, the order in which TPMs hash them.
    pub fn iter(self) -> impl Iterator<Item = PcrIndex> {
        (0_u8..24)
            .map(PcrIndex)
            .filter(move |pcr| self.contains(*pcr))
    }
}

impl FromIterator<PcrIndex> for PcrSet {
    fn from_iter<I: IntoIterator<Item = PcrIndex>>(indices: I) -> Self {
        let mut set = Self::EMPTY;
        for pcr in indices {
            set.insert(pcr);
        }
        set
    }
}

/// `0,1,2,7`.
impl fmt::Display for PcrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, pcr) in self.iter().enumerate() {
            if nth > 0 {
                f.write_str(",")?;
            }
            pcr.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for PcrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PcrSet({self})")
    }
}

/// Values of PCRs, by bank and index.
///
/// Packed, because there are some of these for each agent.
///
/// # Security
/// Values are whatever the sender says until they are compared with a quote's `pcrDigest`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PcrValues {
    /// Which there are, by bank in the order of [`HashAlg::ALL`].
    present: [PcrSet; HashAlg::ALL.len()],
    /// Their bytes, by bank and then by ascending index.
    bytes: Vec<u8>,
}

/// A list of index and value.
impl Serialize for PcrValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Formats of the store want the length first.
        let mut values = serializer.serialize_seq(Some(self.len()))?;
        for (_, pcr, value) in self.iter() {
            values.serialize_element(&(pcr, value))?;
        }
        values.end()
    }
}

impl<'de> Deserialize<'de> for PcrValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Self::new();
        for (pcr, value) in Vec::<(PcrIndex, Digest)>::deserialize(deserializer)? {
            if !values.insert(pcr, value) {
                return Err(serde::de::Error::custom("a PCR twice in one bank"));
            }
        }
        Ok(values)
    }
}

/// Room is made for so many values at a time: what a quote of the boot and of IMA covers, about.
const GROWTH: usize = 12;

impl PcrValues {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a PCR in the bank of the digest's algorithm; false when it had one.
    pub fn insert(&mut self, pcr: PcrIndex, value: Digest) -> bool {
        let bank = value.alg();
        let from = self.offset(bank, pcr);
        let is_new = self.slot(bank).is_some_and(|slot| slot.insert(pcr));
        if !is_new {
            let old = self.bytes.get_mut(from..from.saturating_add(bank.size()));
            if let Some(old) = old {
                old.copy_from_slice(value.as_bytes());
            }
            return false;
        }
        let room = self.bytes.capacity().saturating_sub(self.bytes.len());
        if room < bank.size() {
            let more = bank.size().saturating_mul(GROWTH);
            self.bytes.reserve_exact(more);
        }
        if from == self.bytes.len() {
            self.bytes.extend_from_slice(value.as_bytes());
        } else {
            let bytes = value.as_bytes().iter().copied();
            self.bytes.splice(from..from, bytes);
        }
        true
    }

    fn slot(&mut self, bank: HashAlg) -> Option<&mut PcrSet> {
        let mut slots = HashAlg::ALL.into_iter().zip(&mut self.present);
        slots.find(|(of, _)| *of == bank).map(|(_, slot)| slot)
    }

    /// Where the bytes of a bank begin.
    fn start(&self, bank: HashAlg) -> usize {
        let weaker = self.by_bank().take_while(|(of, _)| *of != bank);
        weaker.fold(0, |sum: usize, (of, pcrs)| {
            sum.saturating_add(pcrs.bytes_in(of))
        })
    }

    /// Where the bytes of a PCR begin, or would.
    fn offset(&self, bank: HashAlg, pcr: PcrIndex) -> usize {
        let before = self.pcrs(bank).below(pcr);
        self.start(bank).saturating_add(before.bytes_in(bank))
    }

    fn by_bank(&self) -> impl Iterator<Item = (HashAlg, PcrSet)> {
        HashAlg::ALL.into_iter().zip(self.present)
    }

    /// The value of a PCR in a bank.
    pub fn get(&self, bank: HashAlg, pcr: PcrIndex) -> Option<Digest> {
        Digest::new(bank, self.bytes(bank, pcr)?).ok()
    }

    /// The bytes of the value of a PCR in a bank.
    pub(crate) fn bytes(&self, bank: HashAlg, pcr: PcrIndex) -> Option<&[u8]> {
        if !self.pcrs(bank).contains(pcr) {
            return None;
        }
        let from = self.offset(bank, pcr);
        self.bytes.get(from..from.saturating_add(bank.size()))
    }

    /// The bytes of all values in a bank, in ascending order of their indices.
    pub(crate) fn bytes_of_bank(&self, bank: HashAlg) -> &[u8] {
        let from = self.start(bank);
        let to = from.saturating_add(self.pcrs(bank).bytes_in(bank));
        self.bytes.get(from..to).unwrap_or(&[])
    }

    /// PCR 0-9 of a bank, as far as they have values, and the bytes of these: they come first in it.
    fn boot(&self, bank: HashAlg) -> (PcrSet, &[u8]) {
        let pcrs = self.pcrs(bank).intersection(PcrSet::BOOT);
        let bytes = self.bytes_of_bank(bank).get(..pcrs.bytes_in(bank));
        (pcrs, bytes.unwrap_or(&[]))
    }

    /// The values of PCR 0-9 in a bank, and no others.
    pub(crate) fn of_boot(&self, bank: HashAlg) -> Self {
        let mut boot = Self::new();
        let (pcrs, bytes) = self.boot(bank);
        if let Some(slot) = boot.slot(bank) {
            *slot = pcrs;
            boot.bytes = bytes.to_vec();
        }
        boot
    }

    /// Whether these are the values of PCR 0-9 that `all` has in a bank, and no others.
    pub(crate) fn are_of_boot(&self, all: &Self, bank: HashAlg) -> bool {
        let (pcrs, bytes) = all.boot(bank);
        let is_right = |(of, found): (HashAlg, PcrSet)| match of == bank {
            true => found == pcrs,
            false => found.is_empty(),
        };
        self.by_bank().all(is_right) && self.bytes == bytes
    }

    /// The PCRs of a bank that have a value.
    pub fn pcrs(&self, bank: HashAlg) -> PcrSet {
        let found = self.by_bank().find(|(of, _)| *of == bank);
        found.map_or(PcrSet::EMPTY, |(_, pcrs)| pcrs)
    }

    /// The banks that have a value, weakest first.
    pub fn banks(&self) -> impl Iterator<Item = HashAlg> {
        let with_values = self.by_bank().filter(|(_, pcrs)| !pcrs.is_empty());
        with_values.map(|(bank, _)| bank)
    }

    /// All values, by bank and then by ascending index.
    pub fn iter(&self) -> impl Iterator<Item = (HashAlg, PcrIndex, Digest)> {
        let mut rest = self.bytes.as_slice();
        let keys = self.by_bank();
        let keys = keys.flat_map(|(bank, pcrs)| pcrs.iter().map(move |pcr| (bank, pcr)));
        keys.filter_map(move |(bank, pcr)| {
            let (bytes, after) = rest.split_at_checked(bank.size())?;
            rest = after;
            Some((bank, pcr, Digest::new(bank, bytes).ok()?))
        })
    }

    /// How many values there are, in all banks.
    pub fn len(&self) -> usize {
        let counts = self.present.iter().map(|pcrs| pcrs.count());
        counts.fold(0, usize::saturating_add)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_stop_at_23() {
        assert!(PcrIndex::new(23).is_some());
        assert!(PcrIndex::new(24).is_none());
        assert!(PcrIndex::new(u64::MAX).is_none());
        assert!(PcrSet::from_bits(0x00ff_ffff).is_some());
        assert!(PcrSet::from_bits(0x0100_0000).is_none());
    }

    #[test]
    fn sets_iterate_in_ascending_order() {
        let set = PcrSet::from_bits(0b1000_0000_0101).unwrap();
        assert_eq!(set.to_string(), "0,2,11");
        assert_eq!(set.len(), 3);
        assert_eq!(set.iter().collect::<PcrSet>(), set);
        assert!(set.difference(set).is_empty());
    }

    #[test]
    fn values_come_back_in_order_and_each_under_its_key() {
        let digest = |alg: HashAlg, byte| Digest::new(alg, &vec![byte; alg.size()]).unwrap();
        let mut values = PcrValues::new();
        let mut expected = Vec::new();
        // From both ends, so that values go before and behind what is there.
        for nth in 0..24_u8 {
            let index = if nth % 2 == 0 { nth } else { 24 - nth };
            for alg in HashAlg::ALL {
                let pcr = PcrIndex::new(index.into()).unwrap();
                assert!(values.insert(pcr, digest(alg, 0xee)));
                assert!(!values.insert(pcr, digest(alg, nth)), "it has one");
                expected.push((alg, pcr, digest(alg, nth)));
            }
        }
        expected.sort_unstable();
        assert_eq!(values.iter().collect::<Vec<_>>(), expected);
        assert_eq!(values.len(), expected.len());
        for (alg, pcr, value) in &expected {
            assert_eq!(values.get(*alg, *pcr), Some(*value));
        }
        for alg in HashAlg::ALL {
            let of_bank = expected.iter().filter(|(of, ..)| *of == alg);
            let bytes: Vec<_> = of_bank.flat_map(|(.., v)| v.as_bytes().to_vec()).collect();
            assert_eq!(values.bytes_of_bank(alg), bytes);
        }
    }

    #[test]
    fn p06_boot_values_are_those_of_one_bank_up_to_pcr_9() {
        let digest = |alg: HashAlg, byte| Digest::new(alg, &vec![byte; alg.size()]).unwrap();
        let mut all = PcrValues::new();
        for alg in HashAlg::ALL {
            for index in [0_u8, 3, 9, 10, 14] {
                let pcr = PcrIndex::new(index.into()).unwrap();
                all.insert(pcr, digest(alg, index + 1));
            }
        }
        for alg in HashAlg::ALL {
            let boot = all.of_boot(alg);
            let expected = [0_u8, 3, 9].map(|index| {
                let pcr = PcrIndex::new(index.into()).unwrap();
                (alg, pcr, digest(alg, index + 1))
            });
            assert_eq!(boot.iter().collect::<Vec<_>>(), expected);
            assert!(boot.are_of_boot(&all, alg));
            assert!(boot.are_of_boot(&boot, alg));
            for other in HashAlg::ALL.into_iter().filter(|other| *other != alg) {
                assert!(!boot.are_of_boot(&all, other), "another bank");
            }
            assert!(!all.are_of_boot(&all, alg), "more than PCR 0-9");
            let mut changed = boot.clone();
            changed.insert(PcrIndex::new(3).unwrap(), digest(alg, 0x77));
            assert!(!changed.are_of_boot(&all, alg), "another value");
            let mut more = boot.clone();
            more.insert(PcrIndex::new(4).unwrap(), digest(alg, 5));
            assert!(!more.are_of_boot(&all, alg), "one more");
            assert!(!PcrValues::new().are_of_boot(&all, alg), "none");
        }
        assert!(PcrValues::new().are_of_boot(&PcrValues::new(), HashAlg::Sha256));
    }

    #[test]
    fn banks_are_apart() {
        let pcr = PcrIndex::IMA;
        let mut values = PcrValues::new();
        assert!(values.insert(pcr, Digest::zero(HashAlg::Sha256)));
        assert!(!values.insert(pcr, Digest::ones(HashAlg::Sha256)));
        assert!(values.get(HashAlg::Sha1, pcr).is_none());
        assert_eq!(values.banks().collect::<Vec<_>>(), [HashAlg::Sha256]);
    }
}
