//! The hashes of one entry's template data that a list needs.

use crate::crypto;
use crate::crypto::hash_mb::{Digests, MESSAGES, Messages};
use crate::hash::{Digest, HashAlg};

/// A set of hash algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Algorithms(u8);

impl Algorithms {
    const fn bit(alg: HashAlg) -> u8 {
        match alg {
            HashAlg::Sha1 => 1,
            HashAlg::Sha256 => 2,
            HashAlg::Sha384 => 4,
            HashAlg::Sha512 => 8,
        }
    }

    pub(super) const fn with(self, alg: HashAlg) -> Self {
        Self(self.0 | Self::bit(alg))
    }

    /// The set as four bits.
    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    const fn contains(self, alg: HashAlg) -> bool {
        self.0 & Self::bit(alg) != 0
    }

    /// Those whose hashes come before the one in `alg`.
    const fn before(self, alg: HashAlg) -> Self {
        Self(self.0 & Self::bit(alg).wrapping_sub(1))
    }

    /// Bytes of one hash in each, back to back.
    #[inline]
    pub(super) fn size(self) -> usize {
        let size_of = |alg: HashAlg| if self.contains(alg) { alg.size() } else { 0 };
        // Written out: this is asked for several times an entry.
        size_of(HashAlg::Sha1)
            .saturating_add(size_of(HashAlg::Sha256))
            .saturating_add(size_of(HashAlg::Sha384))
            .saturating_add(size_of(HashAlg::Sha512))
    }
}

/// The template data of one entry and its hashes, computed or remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashes<'d> {
    algorithms: Algorithms,
    /// One after the other, in the order of [`HashAlg::ALL`].
    packed: &'d [u8],
    data: &'d [u8],
}

impl<'d> Hashes<'d> {
    /// No hash yet: each is computed when it is asked for.
    pub(super) const fn of(data: &'d [u8]) -> Self {
        Self {
            algorithms: Algorithms(0),
            packed: &[],
            data,
        }
    }

    /// All of these, as they were found before, packed.
    pub(super) fn remembered(algorithms: Algorithms, packed: &'d [u8], data: &'d [u8]) -> Self {
        if packed.len() != algorithms.size() {
            return Self::of(data);
        }
        Self {
            algorithms,
            packed,
            data,
        }
    }

    pub(super) const fn data(&self) -> &'d [u8] {
        self.data
    }

    pub(super) const fn packed(&self) -> &'d [u8] {
        self.packed
    }

    /// The data's hash in this algorithm, if it is among those that were computed.
    #[inline]
    pub(super) fn bytes(&self, alg: HashAlg) -> Option<&'d [u8]> {
        if !self.algorithms.contains(alg) {
            return None;
        }
        let start = self.algorithms.before(alg).size();
        self.packed.get(start..start.saturating_add(alg.size()))
    }

    /// The data's hash in this algorithm.
    #[inline]
    pub(super) fn get(&self, alg: HashAlg) -> Digest {
        let mut digest = Digest::zero(alg);
        match self.bytes(alg) {
            Some(bytes) if digest.fill(bytes) => digest,
            _ => crypto::digest(alg, self.data),
        }
    }

    /// Whether the data's hash in this algorithm has these bytes.
    #[inline]
    pub(super) fn is(&self, alg: HashAlg, hash: &[u8]) -> bool {
        match self.bytes(alg) {
            Some(bytes) => bytes == hash,
            None => crypto::digest(alg, self.data).as_bytes() == hash,
        }
    }
}

/// The hashes of many entries, computed together where that is faster.
pub(super) struct Together {
    algorithms: Algorithms,
    /// In the order of [`HashAlg::ALL`].
    digests: [Option<Digests>; HashAlg::ALL.len()],
}

impl Together {
    /// The hashes of these, in their places. What `room` holds is of no account.
    pub(super) fn new(
        algorithms: Algorithms,
        messages: &[Option<&[u8]>; MESSAGES],
        room: &mut Option<Box<Messages>>,
    ) -> Self {
        let cut = Messages::takes(messages.iter().flatten().count()).then(|| {
            let cut = room.get_or_insert_default();
            cut.cut(messages).map(|()| &*cut)
        });
        let digests = HashAlg::ALL.map(|alg| {
            let cut = cut.flatten().filter(|_| algorithms.contains(alg))?;
            cut.digests(alg)
        });
        Self {
            algorithms,
            digests,
        }
    }

    /// Packs those of the message in this place, which has this data, behind what `room` holds.
    pub(super) fn write(&self, place: usize, data: &[u8], room: &mut Vec<u8>) {
        let mut alone = None;
        for (alg, digests) in HashAlg::ALL.into_iter().zip(&self.digests) {
            if self.algorithms.contains(alg) {
                let found = digests.as_ref().and_then(|digests| digests.of(place));
                let alone = || {
                    let alone = alone.get_or_insert_with(|| crypto::Message::new(data));
                    alone.digest(alg)
                };
                let digest = found.unwrap_or_else(alone);
                room.extend_from_slice(digest.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_holds_its_hashes_and_computes_the_others() {
        let data = b"template data";
        for bits in 0..16_u8 {
            let algorithms = HashAlg::ALL
                .into_iter()
                .filter(|alg| bits & Algorithms::bit(*alg) != 0)
                .fold(Algorithms::default(), Algorithms::with);
            assert_eq!(algorithms.bits(), bits);
            let mut room = b"before".to_vec();
            let messages = std::array::from_fn(|place| (place == 3).then_some(&data[..]));
            Together::new(algorithms, &messages, &mut None).write(3, data, &mut room);
            let packed = room.strip_prefix(b"before").unwrap();
            let hashes = Hashes::remembered(algorithms, packed, data);
            assert_eq!(hashes.packed().len(), algorithms.size());
            let remembered = Hashes::remembered(algorithms, hashes.packed(), data);
            for alg in HashAlg::ALL {
                let expected = crypto::digest(alg, data);
                assert_eq!(hashes.bytes(alg).is_some(), algorithms.contains(alg));
                assert_eq!(hashes.get(alg), expected);
                assert!(hashes.is(alg, expected.as_bytes()));
                assert!(!hashes.is(alg, Digest::zero(alg).as_bytes()));
                assert!(Hashes::of(data).is(alg, expected.as_bytes()));
                assert_eq!(remembered.get(alg), expected);
                assert_eq!(Hashes::of(data).get(alg), expected);
            }
        }
        let all = HashAlg::ALL
            .into_iter()
            .fold(Algorithms::default(), Algorithms::with);
        assert_eq!(all.size(), 20 + 32 + 48 + 64);
        // What is remembered with another length is not used.
        let wrong = Hashes::remembered(all, &[0; 20], data);
        assert_eq!(
            wrong.get(HashAlg::Sha1),
            crypto::digest(HashAlg::Sha1, data)
        );
    }
}
