//! Digests through the fastest library measured: aws-lc-rs, and for messages that are hashed in one
//! go on a processor with SHA instructions the block functions of RustCrypto.

use aws_lc_rs::{constant_time, digest as lc, hmac};

use super::short;
use crate::hash::{DIGEST_SIZE_MAX, Digest, HashAlg};

fn algorithm(alg: HashAlg) -> &'static lc::Algorithm {
    match alg {
        HashAlg::Sha1 => &lc::SHA1_FOR_LEGACY_USE_ONLY,
        HashAlg::Sha256 => &lc::SHA256,
        HashAlg::Sha384 => &lc::SHA384,
        HashAlg::Sha512 => &lc::SHA512,
    }
}

fn from_library(alg: HashAlg, value: &lc::Digest) -> Digest {
    // The library's digest of `alg` always has `alg.size()` bytes. Were that ever not so, the
    // zero digest would equal no quoted value, log entry or policy digest that is accepted.
    Digest::new(alg, value.as_ref()).unwrap_or(Digest::zero(alg))
}

/// The digest of one message.
pub fn digest(alg: HashAlg, message: &[u8]) -> Digest {
    Message::new(message).digest(alg)
}

/// A message of which several digests are wanted: what they share is made once.
pub(crate) struct Message<'m> {
    message: &'m [u8],
    blocks: Option<short::Message<'m>>,
}

impl<'m> Message<'m> {
    #[inline]
    pub(crate) fn new(message: &'m [u8]) -> Self {
        let blocks = short::Message::new(message);
        Self { message, blocks }
    }

    /// The message's digest.
    #[inline]
    pub(crate) fn digest(&self, alg: HashAlg) -> Digest {
        let short = self.blocks.as_ref().and_then(|blocks| blocks.digest(alg));
        short.unwrap_or_else(|| through_context(alg, self.message))
    }
}

fn through_context(alg: HashAlg, message: &[u8]) -> Digest {
    from_library(alg, &lc::digest(algorithm(alg), message))
}

/// The value of a PCR after `event` was extended into it: `H(pcr ‖ event)`.
///
/// Source: TPM 2.0 Part 1, 17.2 "Extend of a PCR".
pub fn extend(pcr: &Digest, event: &Digest) -> Digest {
    let mut extended = *pcr;
    extend_in_place(&mut extended, event.as_bytes());
    extended
}

/// Extends a digest's bytes into a PCR.
#[inline]
pub(crate) fn extend_in_place(pcr: &mut Digest, event: &[u8]) {
    if !short::extend(pcr, event) {
        *pcr = extended(pcr, event);
    }
}

fn extended(pcr: &Digest, event: &[u8]) -> Digest {
    let old = pcr.as_bytes();
    let mut buffer = [0_u8; 2 * DIGEST_SIZE_MAX];
    // Always there: neither part is longer than half the buffer.
    let both = buffer.get_mut(..old.len().saturating_add(event.len()));
    let both = both.unwrap_or_default();
    if let Some((head, tail)) = both.split_at_mut_checked(old.len()) {
        head.copy_from_slice(old);
        tail.copy_from_slice(event);
    }
    digest(pcr.alg(), both)
}

/// HMAC-SHA-256 of one message.
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    // The library's tag has 32 bytes; zeros would equal no tag.
    hmac::sign(&key, message)
        .as_ref()
        .try_into()
        .unwrap_or([0; 32])
}

/// Whether both are the same bytes, in a time that depends on their lengths only.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// A digest made piece by piece.
#[derive(Clone)]
pub struct Hasher {
    alg: HashAlg,
    state: State,
}

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a hasher lives on the stack")]
enum State {
    Blocks(short::Pieces),
    Context(lc::Context),
}

impl Hasher {
    /// A hasher of nothing yet.
    pub fn new(alg: HashAlg) -> Self {
        let blocks = short::Pieces::new().filter(|_| alg == HashAlg::Sha256);
        let state = match blocks {
            Some(blocks) => State::Blocks(blocks),
            None => State::Context(lc::Context::new(algorithm(alg))),
        };
        Self { alg, state }
    }

    /// Appends `piece` to the message.
    pub fn update(&mut self, piece: &[u8]) {
        match &mut self.state {
            State::Blocks(blocks) => blocks.update(piece),
            State::Context(context) => context.update(piece),
        }
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        match self.state {
            // As for the library, were there ever no digest: zeros equal nothing that is accepted.
            State::Blocks(blocks) => blocks.finish().unwrap_or(Digest::zero(self.alg)),
            State::Context(context) => from_library(self.alg, &context.finish()),
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher")
            .field("alg", &self.alg)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // FIPS 180-4 examples: the message "abc".
        let cases = [
            (HashAlg::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                HashAlg::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
        ];
        for (alg, expected) in cases {
            assert_eq!(digest(alg, b"abc").to_hex(), expected);
            let mut hasher = Hasher::new(alg);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish().to_hex(), expected);
        }
    }

    #[test]
    fn both_libraries_agree_on_every_length_around_a_block() {
        let message: Vec<u8> = (0..1000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for alg in HashAlg::ALL {
            for length in 0..message.len() {
                let message = &message[..length];
                let expected = through_context(alg, message);
                assert_eq!(digest(alg, message), expected, "{alg}, {length} bytes");
            }
        }
    }

    #[test]
    fn pieces_of_any_length_make_the_digest_of_the_whole() {
        let message: Vec<u8> = (0..400_u32).map(|n| (n * 11 % 253) as u8).collect();
        for alg in HashAlg::ALL {
            for length in 0..message.len() {
                let whole = through_context(alg, &message[..length]);
                for first in [0, 1, 55, 56, 63, 64, 65, 128, length] {
                    let (head, tail) = message[..length].split_at(first.min(length));
                    let mut hasher = Hasher::new(alg);
                    hasher.update(head);
                    // A few bytes at a time, so that pieces end everywhere in a block.
                    for piece in tail.chunks(1 + length % 61) {
                        hasher.update(piece);
                    }
                    assert_eq!(hasher.finish(), whole, "{alg}, {first} of {length}");
                }
            }
        }
    }

    #[test]
    fn extend_is_the_hash_of_both_values() {
        for alg in HashAlg::ALL {
            let old = digest(alg, b"old");
            let event = digest(alg, b"event");
            let both = [old.as_bytes(), event.as_bytes()].concat();
            assert_eq!(extend(&old, &event), digest(alg, &both));
        }
    }
}
