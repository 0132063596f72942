//! SHA-1 and SHA-256 of messages of a few blocks, on processors with instructions for them.
//!
//! Entries of measurement lists have about a hundred bytes. A library that hashes through a context
//! spends as long on the context as on such a message; here there is none: whole blocks go to the
//! block function where they are, and what is left is padded on the stack.
//!
//! Source: FIPS 180-4, 5.1.1 (padding) and 5.3 (initial values).

use crate::hash::{Digest, HashAlg};

const BLOCK_BYTES: usize = 64;
/// The message's length in bits stands at the end of its last block.
const LENGTH_BYTES: usize = 8;

const SHA1_START: [u32; 5] = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
];

const SHA256_START: [u32; 8] = [
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

/// The digest of one message; `None` for another algorithm, or on another processor.
#[inline]
pub(super) fn digest(alg: HashAlg, message: &[u8]) -> Option<Digest> {
    if !is_fast() {
        return None;
    }
    match alg {
        HashAlg::Sha1 => hash(alg, SHA1_START, message, sha1::block_api::compress),
        HashAlg::Sha256 => hash(alg, SHA256_START, message, sha2::block_api::compress256),
        HashAlg::Sha384 | HashAlg::Sha512 => None,
    }
}

/// `H(pcr ‖ event)`, likewise.
#[inline]
pub(super) fn extend(pcr: &Digest, event: &Digest) -> Option<Digest> {
    let (pcr, event) = (pcr.as_sha256()?, event.as_sha256()?);
    if !is_fast() {
        return None;
    }
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
    Digest::from_words(HashAlg::Sha256, &state)
}

const PADDING_OF_ONE_BLOCK: [u8; BLOCK_BYTES] = {
    let mut block = [0; BLOCK_BYTES];
    let [first, .., high, _] = &mut block;
    *first = 0x80;
    // 512 bits.
    *high = 2;
    block
};

fn hash<const WORDS: usize>(
    alg: HashAlg,
    mut state: [u32; WORDS],
    message: &[u8],
    compress: impl Fn(&mut [u32; WORDS], &[[u8; BLOCK_BYTES]]),
) -> Option<Digest> {
    let (blocks, rest) = message.as_chunks::<BLOCK_BYTES>();
    if !blocks.is_empty() {
        compress(&mut state, blocks);
    }
    let bits = u64::try_from(message.len()).ok()?.checked_mul(8)?;
    let mut last = [0; BLOCK_BYTES.saturating_mul(2)];
    last.get_mut(..rest.len())?.copy_from_slice(rest);
    *last.get_mut(rest.len())? = 0x80;
    let fits = rest.len() < BLOCK_BYTES.saturating_sub(LENGTH_BYTES);
    let padded = if fits { BLOCK_BYTES } else { last.len() };
    let last = last.get_mut(..padded)?;
    *last.last_chunk_mut()? = bits.to_be_bytes();
    compress(&mut state, last.as_chunks().0);
    Digest::from_words(alg, &state)
}
