//! Big-endian bytes and digits of 52 bits.
#![allow(
    clippy::indexing_slicing,
    reason = "a lane is below `LANES`; all else is split by constants"
)]

use crate::crypto::lanes::{DIGIT_BITS, DIGIT_MAX, LANES, Numbers};

/// Bytes of two digits.
const PAIR: usize = 2 * DIGIT_BITS / 8;

/// Reads a number of sixteen bytes or more into one lane, lowest digit first; the digits above it
/// stay as they are.
#[inline(never)]
pub(super) fn read(big_endian: &[u8], out: &mut [Numbers], lane: usize) {
    if lane >= LANES {
        return;
    }
    let (highest, pairs) = big_endian.as_rchunks::<PAIR>();
    let mut slots = out.as_chunks_mut::<2>().0.iter_mut();
    for (pair, slots) in pairs.iter().rev().zip(&mut slots) {
        let [low, high] = two(pair);
        slots[0][lane] = low;
        slots[1][lane] = high;
    }
    if let (Some(slots), Some(first)) = (slots.next(), big_endian.first_chunk()) {
        let number = u128::from_be_bytes(*first) >> unused_bits(highest);
        slots[0][lane] = low_digit(number);
        slots[1][lane] = low_digit(number >> DIGIT_BITS);
    }
}

/// Puts digits into one lane.
#[inline(never)]
pub(super) fn place(digits: &[u64], out: &mut [Numbers], lane: usize) {
    if lane >= LANES {
        return;
    }
    for (digit, slot) in digits.iter().zip(out) {
        slot[lane] = *digit;
    }
}

/// Writes one lane's number into all of `out`, sixteen bytes or more.
#[inline(never)]
pub(super) fn write(digits: &[Numbers], lane: usize, out: &mut [u8]) {
    if lane >= LANES {
        return;
    }
    let mut digits = digits.as_chunks::<2>().0.iter();
    let (highest, pairs) = out.as_rchunks_mut::<PAIR>();
    let unused = unused_bits(highest);
    for (pair, digits) in pairs.iter_mut().rev().zip(&mut digits) {
        put(digits[0][lane], digits[1][lane], pair);
    }
    if let (Some(digits), Some(first)) = (digits.next(), out.first_chunk_mut()) {
        let number = u128::from(digits[0][lane]) | u128::from(digits[1][lane]) << DIGIT_BITS;
        let below = u128::from_be_bytes(*first) & !(u128::MAX << unused);
        *first = (number << unused | below).to_be_bytes();
    }
}

/// The digits of a number, `count` of them.
pub(super) fn of(big_endian: &[u8], count: usize) -> Box<[u64]> {
    let mut wide = vec![[0; LANES]; count];
    read(big_endian, &mut wide, 0);
    wide.iter().map(|numbers| numbers[0]).collect()
}

/// Bits of sixteen bytes that come after the first few, fewer than a pair has.
fn unused_bits(highest: &[u8]) -> u32 {
    highest
        .iter()
        .fold(u128::BITS, |bits, _| bits.saturating_sub(8))
}

fn low_digit(number: u128) -> u64 {
    // A digit always fits.
    u64::try_from(number & u128::from(DIGIT_MAX)).unwrap_or(0)
}

/// Two digits, lower first.
// The overlapping reads and writes of eight bytes are single instructions.
fn two(pair: &[u8; PAIR]) -> [u64; 2] {
    let [first, last] = [pair.first_chunk(), pair.last_chunk()];
    let [first, last] = [first, last].map(|bytes| bytes.map_or(0, |b| u64::from_be_bytes(*b)));
    [last & DIGIT_MAX, first >> (64 - DIGIT_BITS)]
}

fn put(low: u64, high: u64, pair: &mut [u8; PAIR]) {
    if let Some(first) = pair.first_chunk_mut() {
        *first = (high << (64 - DIGIT_BITS) | low >> (2 * DIGIT_BITS - 64)).to_be_bytes();
    }
    if let Some(last) = pair.last_chunk_mut() {
        *last = (high << DIGIT_BITS | low).to_be_bytes();
    }
}
