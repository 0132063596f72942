//! Scalars as signed digits of a fixed width (Booth).

use super::field::WIDTH;
use crate::crypto::lanes::{DIGIT_BITS, Numbers};

/// A digit in every lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SignedDigits {
    /// At most `2^(width - 1)`.
    pub(super) magnitudes: [usize; 8],
    /// All ones where the digit is below zero.
    pub(super) negative: Numbers,
    /// All ones where it is zero.
    pub(super) zero: Numbers,
}

/// The digit of the window of `width` bits that begins at bit `from`, in every lane: what the window
/// says, made signed by the bit below and the bit at its top.
pub(super) fn window(scalars: &[Numbers; WIDTH], from: usize, width: u32) -> SignedDigits {
    let mut out = SignedDigits {
        magnitudes: [0; 8],
        negative: [0; 8],
        zero: [0; 8],
    };
    let slots = out.magnitudes.iter_mut().zip(&mut out.negative);
    for (lane, ((magnitude, negative), zero)) in slots.zip(&mut out.zero).enumerate() {
        let bits = bits(scalars, lane, from, width);
        let is_negative = bits >> width != 0;
        // 2^width - 1 - window turns a window with its top bit into what is missing to 2^width.
        let rest = if is_negative {
            (2_u64 << width).wrapping_sub(1).wrapping_sub(bits)
        } else {
            bits
        };
        let number = rest.wrapping_add(1) >> 1;
        *magnitude = usize::try_from(number).unwrap_or(0);
        *negative = if is_negative { u64::MAX } else { 0 };
        *zero = if number == 0 { u64::MAX } else { 0 };
    }
    out
}

/// `width` bits from bit `from` on, and below them the bit before: zero for the first window.
fn bits(scalars: &[Numbers; WIDTH], lane: usize, from: usize, width: u32) -> u64 {
    let digit = |at: usize| {
        let digit = scalars.get(at).and_then(|numbers| numbers.get(lane));
        u128::from(digit.copied().unwrap_or(0))
    };
    let below = from.saturating_sub(1);
    let (at, offset) = (below / DIGIT_BITS, below % DIGIT_BITS);
    let two = digit(at) | digit(at.saturating_add(1)) << DIGIT_BITS;
    let shifted = if from == 0 { two << 1 } else { two >> offset };
    let mask = (2_u64 << width).wrapping_sub(1);
    // A window fits many times.
    u64::try_from(shifted & u128::from(mask)).unwrap_or(0)
}
