//! SHA-1 and SHA-256 by block functions, on processors with instructions for them.
//!
//! Entries of measurement lists have about a hundred bytes. A library that hashes through a context
//! spends as long on the context as on such a message; here there is none: whole blocks go to the
//! block function where they are, and what is left is padded on the stack.
//!
//! Source: FIPS 180-4, 5.1.1 (padding) and 5.3 (initial values).

use crate::hash::{Digest, HashAlg};

pub(super) const BLOCK_BYTES: usize = 64;
/// The message's length in bits stands at the end of its last block.
const LENGTH_BYTES: usize = 8;

pub(super) const SHA1_START: [u32; 5] = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
];

pub(super) const SHA256_START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Whether the processor has what makes the block functions the fastest choice.
fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sha");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// A message cut into blocks and padded: the same for both algorithms.
pub(super) struct Padded<'m> {
    blocks: &'m [[u8; BLOCK_BYTES]],
    last: Last,
}

impl<'m> Padded<'m> {
    #[inline]
    pub(super) fn new(message: &'m [u8]) -> Option<Self> {
        let (blocks, rest) = message.as_chunks::<BLOCK_BYTES>();
        let last = last_blocks(rest, u64::try_from(message.len()).ok()?)?;
        Some(Self { blocks, last })
    }

    /// All of them, in order.
    #[inline]
    pub(super) fn blocks(&self) -> impl Iterator<Item = &[u8; BLOCK_BYTES]> {
        self.blocks.iter().chain(self.last.as_slice())
    }
}

/// A message for the block functions.
pub(super) struct Message<'m>(Padded<'m>);

impl<'m> Message<'m> {
    /// The message in blocks; `None` on another processor.
    #[inline]
    pub(super) fn new(message: &'m [u8]) -> Option<Self> {
        is_fast().then(|| Padded::new(message))?.map(Self)
    }

    /// Its digest; `None` for another algorithm.
    #[inline]
    pub(super) fn digest(&self, alg: HashAlg) -> Option<Digest> {
        match alg {
            HashAlg::Sha1 => self.hash(alg, SHA1_START, sha1::block_api::compress),
            HashAlg::Sha256 => self.hash(alg, SHA256_START, sha2::block_api::compress256),
            HashAlg::Sha384 | HashAlg::Sha512 => None,
        }
    }

    fn hash<const WORDS: usize>(
        &self,
        alg: HashAlg,
        mut state: [u32; WORDS],
        compress: impl Fn(&mut [u32; WORDS], &[[u8; BLOCK_BYTES]]),
    ) -> Option<Digest> {
        let Padded { blocks, last } = &self.0;
        if !blocks.is_empty() {
            compress(&mut state, blocks);
        }
        compress(&mut state, last.as_slice());
        Digest::from_words(alg, &state)
    }
}

/// Makes a SHA-256 PCR `H(pcr ‖ event)`; false, and nothing happens, for other values and
/// on another processor.
#[inline]
pub(super) fn extend(pcr: &mut Digest, event: &[u8]) -> bool {
    let (Some(pcr), Ok(event)) = (pcr.as_sha256_mut(), event.try_into()) else {
        return false;
    };
    is_fast() && extend_sha256(pcr, event).is_some()
}

#[inline]
fn extend_sha256(pcr: &mut [u8; 32], event: &[u8; 32]) -> Option<()> {
    // 64 bytes: one block, and one that is always the same.
    let mut blocks = [[0; BLOCK_BYTES], PADDING_OF_ONE_BLOCK];
    let [message, _] = &mut blocks;
    let (halves, _) = message.as_chunks_mut();
    let [head, tail] = halves else {
        return None;
    };
    (*head, *tail) = (*pcr, *event);
    let mut state = SHA256_START;
    sha2::block_api::compress256(&mut state, &blocks);
    let (slots, _) = pcr.as_chunks_mut::<4>();
    for (slot, word) in slots.iter_mut().zip(state) {
        *slot = word.to_be_bytes();
    }
    Some(())
}

const PADDING_OF_ONE_BLOCK: [u8; BLOCK_BYTES] = {
    let mut block = [0; BLOCK_BYTES];
    let [first, .., high, _] = &mut block;
    *first = 0x80;
    // 512 bits.
    *high = 2;
    block
};

/// SHA-256 of a message that comes in pieces.
#[derive(Clone)]
pub(super) struct Pieces {
    state: [u32; 8],
    /// The front of a block whose end has not come.
    block: [u8; BLOCK_BYTES],
    held: usize,
    length: u64,
}

impl Pieces {
    /// Nothing yet; `None` on another processor.
    pub(super) fn new() -> Option<Self> {
        is_fast().then_some(Self {
            state: SHA256_START,
            block: [0; BLOCK_BYTES],
            held: 0,
            length: 0,
        })
    }

    #[inline]
    pub(super) fn update(&mut self, mut piece: &[u8]) {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.length = self.length.wrapping_add(length);
        if self.held > 0 {
            let free = self.block.get_mut(self.held..).unwrap_or_default();
            let (head, tail) = piece.split_at(free.len().min(piece.len()));
            if let Some(slot) = free.get_mut(..head.len()) {
                slot.copy_from_slice(head);
            }
            self.held = self.held.saturating_add(head.len());
            if self.held < BLOCK_BYTES {
                return;
            }
            sha2::block_api::compress256(&mut self.state, &[self.block]);
            self.held = 0;
            piece = tail;
        }
        let (blocks, rest) = piece.as_chunks::<BLOCK_BYTES>();
        if !blocks.is_empty() {
            sha2::block_api::compress256(&mut self.state, blocks);
        }
        if let Some(slot) = self.block.get_mut(..rest.len()) {
            slot.copy_from_slice(rest);
            self.held = rest.len();
        }
    }

    /// The digest of all pieces.
    pub(super) fn finish(mut self) -> Option<Digest> {
        let held = self.block.get(..self.held)?;
        let last = last_blocks(held, self.length)?;
        sha2::block_api::compress256(&mut self.state, last.as_slice());
        Digest::from_words(HashAlg::Sha256, &self.state)
    }
}

/// The end of a message, padded.
struct Last {
    blocks: [[u8; BLOCK_BYTES]; 2],
    /// Whether all fits into the first of them.
    is_one: bool,
}

impl Last {
    fn as_slice(&self) -> &[[u8; BLOCK_BYTES]] {
        let [first, _] = &self.blocks;
        match self.is_one {
            true => std::slice::from_ref(first),
            false => &self.blocks,
        }
    }
}

/// The blocks in which a message of so many bytes ends, whose last block begins with these.
#[inline]
fn last_blocks(rest: &[u8], length: u64) -> Option<Last> {
    let bits = length.checked_mul(8)?;
    let mut blocks = [[0; BLOCK_BYTES]; 2];
    let is_one = rest.len() < BLOCK_BYTES.saturating_sub(LENGTH_BYTES);
    let [first, second] = &mut blocks;
    first.get_mut(..rest.len())?.copy_from_slice(rest);
    *first.get_mut(rest.len())? = 0x80;
    let last = if is_one { first } else { second };
    *last.last_chunk_mut()? = bits.to_be_bytes();
    Some(Last { blocks, is_one })
}
