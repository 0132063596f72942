//! SHA-1 and SHA-256 of sixteen short messages at a time, on the vector unit.
//!
//! For the template data of measurement lists: many messages of two or three blocks, none of which
//! waits for another. An instruction for hashes works at one message, and waits for itself; here each
//! 32-bit half of a lane is a message of its own.
//!
//! Source: FIPS 180-4, 6.1.2 (SHA-1) and 6.2.2 (SHA-256).
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "indices of arrays whose sizes are constants, never input; every one is used by each \
              call, whatever the messages are"
)]
#![allow(
    clippy::inline_always,
    reason = "only so is it compiled for the vector unit: see `Job`"
)]

use crate::crypto::lanes::{self, Halves, Job, LANES, Lanes};
use crate::crypto::short::{BLOCK_BYTES, Padded, SHA1_START, SHA256_START};
use crate::hash::{Digest, HashAlg};

/// Messages that are hashed together.
pub(crate) const MESSAGES: usize = 2 * LANES;
/// Fewer than this cost less one by one: a vector takes as long for one as for all.
const MESSAGES_MIN: usize = 8;
/// Blocks of the longest message that is hashed here: one for the longest of all is computed for each.
const BLOCKS_MAX: usize = 8;

/// One block of each message: its words, and each the same word of every message.
type Words = [Halves; BLOCK_BYTES / 4];

/// Messages, cut into blocks and padded. It is large, and made to be used again.
#[derive(Debug)]
pub(crate) struct Messages {
    /// Behind the last block of a message stands whatever stood there before.
    blocks: [Words; BLOCKS_MAX],
    /// Blocks of each message.
    counts: [usize; MESSAGES],
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            blocks: [[[0; MESSAGES]; BLOCK_BYTES / 4]; BLOCKS_MAX],
            counts: [0; MESSAGES],
        }
    }
}

impl Messages {
    /// Whether so many are worth it: they are not too few, and there is a vector unit that is
    /// trusted.
    pub(crate) fn takes(count: usize) -> bool {
        count >= MESSAGES_MIN && super::vector_unit() == super::VectorUnit::InUse
    }

    /// Takes these messages, in their places; `None` when one is too long.
    pub(crate) fn cut(&mut self, messages: &[Option<&[u8]>; MESSAGES]) -> Option<()> {
        self.counts = [0; MESSAGES];
        for (place, message) in messages.iter().enumerate() {
            let Some(message) = message else { continue };
            let padded = Padded::new(message)?;
            for block in padded.blocks() {
                let words = self.blocks.get_mut(self.counts[place])?;
                for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
                    word[place] = u32::from_be_bytes(*bytes);
                }
                self.counts[place] = self.counts[place].saturating_add(1);
            }
        }
        Some(())
    }

    /// The digest of each message; `None` for algorithms that are not computed here.
    pub(crate) fn digests(&self, alg: HashAlg) -> Option<Digests> {
        let words = match alg {
            HashAlg::Sha1 => Words16::Sha1(lanes::on_vector_unit(Sha1(self))?),
            HashAlg::Sha256 => Words16::Sha256(lanes::on_vector_unit(Sha256(self))?),
            HashAlg::Sha384 | HashAlg::Sha512 => return None,
        };
        Some(Digests(words))
    }

    /// Blocks of the longest message.
    fn longest(&self) -> usize {
        self.counts.iter().copied().max().unwrap_or(0)
    }

    /// Ones for the messages that have more blocks than this.
    fn with_block(&self, block: usize) -> Halves {
        self.counts
            .map(|count| if count > block { u32::MAX } else { 0 })
    }
}

/// One digest of each message.
pub(crate) struct Digests(Words16);

enum Words16 {
    Sha1([Halves; 5]),
    Sha256([Halves; 8]),
}

impl Digests {
    /// That of the message in this place.
    pub(crate) fn of(&self, place: usize) -> Option<Digest> {
        match &self.0 {
            Words16::Sha1(words) => digest_of(HashAlg::Sha1, words, place),
            Words16::Sha256(words) => digest_of(HashAlg::Sha256, words, place),
        }
    }
}

fn digest_of<const WORDS: usize>(
    alg: HashAlg,
    words: &[Halves; WORDS],
    place: usize,
) -> Option<Digest> {
    if place >= MESSAGES {
        return None;
    }
    Digest::from_words(alg, &words.map(|word| word[place]))
}

/// The values after all blocks, when `compress` gives what one block adds.
#[inline(always)]
fn chain<L: Lanes, const WORDS: usize>(
    lanes: L,
    messages: &Messages,
    start: &[u32; WORDS],
    compress: impl Fn(&[L::Vector; WORDS], &mut [L::Vector; 16]) -> [L::Vector; WORDS],
) -> [Halves; WORDS] {
    let mut state = start.map(|word| lanes.splat_halves(word));
    for (at, words) in messages.blocks.iter().enumerate().take(messages.longest()) {
        let mut block = [state[0]; 16];
        for (slot, word) in block.iter_mut().zip(words) {
            *slot = lanes.load_halves(word);
        }
        let added = compress(&state, &mut block);
        let mask = lanes.load_halves(&messages.with_block(at));
        for (state, added) in state.iter_mut().zip(added) {
            *state = lanes.select(mask, lanes.add_halves(*state, added), *state);
        }
    }
    state.map(|word| lanes.store_halves(word))
}

struct Sha256<'m>(&'m Messages);

impl Job for Sha256<'_> {
    type Output = [Halves; 8];

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Self::Output {
        chain(lanes, self.0, &SHA256_START, |state, block| {
            let mut state = *state;
            for (turn, constants) in SHA256_CONSTANTS.as_chunks::<16>().0.iter().enumerate() {
                for t in 0..16 {
                    if turn > 0 {
                        block[t] = sha256_word(lanes, block, t);
                    }
                    let word = lanes.add_halves(block[t], lanes.splat_halves(constants[t]));
                    state = sha256_round(lanes, state, word);
                }
            }
            state
        })
    }
}

/// The word sixteen after the one in this place.
#[inline(always)]
fn sha256_word<L: Lanes>(lanes: L, block: &[L::Vector; 16], t: usize) -> L::Vector {
    let [last, middle, near] = [
        block[(t + 14) % 16],
        block[(t + 9) % 16],
        block[(t + 1) % 16],
    ];
    let low = lanes.xor(
        lanes.xor(
            lanes.rotate_halves::<25>(near),
            lanes.rotate_halves::<14>(near),
        ),
        lanes.shift_halves_down::<3>(near),
    );
    let high = lanes.xor(
        lanes.xor(
            lanes.rotate_halves::<15>(last),
            lanes.rotate_halves::<13>(last),
        ),
        lanes.shift_halves_down::<10>(last),
    );
    lanes.add_halves(
        lanes.add_halves(block[t], low),
        lanes.add_halves(middle, high),
    )
}

#[inline(always)]
fn sha256_round<L: Lanes>(
    lanes: L,
    [a, b, c, d, e, f, g, h]: [L::Vector; 8],
    word: L::Vector,
) -> [L::Vector; 8] {
    let of_e = lanes.xor(
        lanes.xor(lanes.rotate_halves::<26>(e), lanes.rotate_halves::<21>(e)),
        lanes.rotate_halves::<7>(e),
    );
    let of_a = lanes.xor(
        lanes.xor(lanes.rotate_halves::<30>(a), lanes.rotate_halves::<19>(a)),
        lanes.rotate_halves::<10>(a),
    );
    let first = lanes.add_halves(
        lanes.add_halves(h, word),
        lanes.add_halves(of_e, lanes.select(e, f, g)),
    );
    let second = lanes.add_halves(of_a, majority(lanes, a, b, c));
    let [sum, moved] = [lanes.add_halves(first, second), lanes.add_halves(d, first)];
    [sum, a, b, c, moved, e, f, g]
}

/// The bits that two of three have.
#[inline(always)]
fn majority<L: Lanes>(lanes: L, a: L::Vector, b: L::Vector, c: L::Vector) -> L::Vector {
    lanes.select(lanes.xor(a, b), c, b)
}

struct Sha1<'m>(&'m Messages);

impl Job for Sha1<'_> {
    type Output = [Halves; 5];

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Self::Output {
        chain(lanes, self.0, &SHA1_START, |state, block| {
            let mut state = *state;
            state = sha1_rounds::<L, 0>(lanes, state, block);
            state = sha1_rounds::<L, 1>(lanes, state, block);
            state = sha1_rounds::<L, 2>(lanes, state, block);
            sha1_rounds::<L, 3>(lanes, state, block)
        })
    }
}

/// Twenty rounds with one function.
#[inline(always)]
fn sha1_rounds<L: Lanes, const TURN: usize>(
    lanes: L,
    state: [L::Vector; 5],
    block: &mut [L::Vector; 16],
) -> [L::Vector; 5] {
    let constant = lanes.splat_halves(SHA1_CONSTANTS[TURN]);
    let [mut a, mut b, mut c, mut d, mut e] = state;
    for round in 0..20 {
        let t = (20 * TURN + round) % 16;
        if 20 * TURN + round >= 16 {
            let far = lanes.xor(block[t], block[(t + 2) % 16]);
            let near = lanes.xor(block[(t + 8) % 16], block[(t + 13) % 16]);
            block[t] = lanes.rotate_halves::<1>(lanes.xor(far, near));
        }
        let mixed = match TURN {
            0 => lanes.select(b, c, d),
            2 => majority(lanes, b, c, d),
            _ => lanes.xor(lanes.xor(b, c), d),
        };
        let sum = lanes.add_halves(
            lanes.add_halves(lanes.rotate_halves::<5>(a), mixed),
            lanes.add_halves(e, lanes.add_halves(constant, block[t])),
        );
        (e, d, c, b, a) = (d, c, lanes.rotate_halves::<30>(b), a, sum);
    }
    [a, b, c, d, e]
}

const SHA1_CONSTANTS: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

const SHA256_CONSTANTS: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::digest;

    fn expect(messages: &[Option<&[u8]>; MESSAGES], cut: &Messages) {
        for alg in [HashAlg::Sha1, HashAlg::Sha256] {
            let in_model = Digests(match alg {
                HashAlg::Sha1 => Words16::Sha1(Sha1(cut).run(lanes::Scalar)),
                _ => Words16::Sha256(Sha256(cut).run(lanes::Scalar)),
            });
            let on_unit = cut.digests(alg);
            assert_eq!(on_unit.is_some(), lanes::has_vector_unit());
            for (place, message) in messages.iter().enumerate() {
                let Some(message) = message else { continue };
                let expected = Some(digest(alg, message));
                assert_eq!(in_model.of(place), expected, "{alg}, place {place}");
                if let Some(on_unit) = &on_unit {
                    assert_eq!(on_unit.of(place), expected, "{alg}, place {place}");
                }
            }
            assert!(in_model.of(MESSAGES).is_none());
        }
        assert!(cut.digests(HashAlg::Sha384).is_none());
    }

    #[test]
    fn i19_sixteen_at_once_have_the_digests_of_each_alone() {
        let bytes: Vec<u8> = (0..600_u32).map(|n| (n * 13 % 241) as u8).collect();
        let mut cut = Messages::default();
        // Lengths around the ends of blocks, neighbours of every length beside each other, and
        // places without a message.
        for step in [0, 1, 7, 31] {
            for first in 0..200 {
                let messages = std::array::from_fn(|place| {
                    let length = (first + place * step) % 503;
                    (place % 5 != first % 7).then_some(&bytes[place..place + length])
                });
                cut.cut(&messages).unwrap();
                expect(&messages, &cut);
            }
        }
    }

    #[test]
    fn too_long_and_too_few_are_left_to_others() {
        let mut cut = Messages::default();
        // 0x80 and the length take nine bytes.
        let longest = [7; BLOCKS_MAX * BLOCK_BYTES - 9];
        let mut messages = [Some(&longest[..]); MESSAGES];
        cut.cut(&messages).unwrap();
        expect(&messages, &cut);
        let longer = [7; BLOCKS_MAX * BLOCK_BYTES - 8];
        messages[MESSAGES - 1] = Some(&longer);
        assert!(cut.cut(&messages).is_none());
        assert_eq!(Messages::takes(MESSAGES_MIN), lanes::has_vector_unit());
        assert!(!Messages::takes(MESSAGES_MIN - 1));
    }
}
