//! Numbers modulo the order `n` of the group, in eight lanes: what the signature's numbers are.
//!
//! In Montgomery's form with `R = 2^260`, below `2 n` on the way.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::needless_range_loop,
    reason = "indices of arrays whose sizes are constants, never input"
)]
#![allow(
    clippy::inline_always,
    reason = "only so is it compiled for the vector unit: see `Job`"
)]

use super::field::{Digits, WIDTH};
use crate::crypto::lanes::{DIGIT_MAX, Lanes};

pub(super) const N: Digits = [
    0x9_cac2_fc63_2551,
    0xa_da71_79e8_4f3b,
    0xf_ffff_ffbc_e6fa,
    0xf_ffff_ffff,
    0xffff_ffff_0000,
];
/// `-1 / n` modulo 2^52.
const INVERSE: u64 = 0x1_c8aa_ee00_bc4f;
/// `R^2 mod n`.
const R_SQUARED: Digits = [
    0x5_cc0d_ea6d_c3ba,
    0x1_92a0_67d8_a084,
    0xb_ec59_6155_71bb,
    0x1_fc24_5b23_92b6,
    0xe12d_9559_d956,
];
/// `n - 2`, four bits at a time, lowest first.
const EXPONENT: [u8; 64] =
    nibbles(*b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc63254f");

const fn nibbles(hex: [u8; 64]) -> [u8; 64] {
    let mut out = [0; 64];
    let mut at = 0;
    while at < 64 {
        let digit = hex[63 - at];
        out[at] = if digit < b'a' {
            digit - b'0'
        } else {
            digit - b'a' + 10
        };
        at += 1;
    }
    out
}

/// A number whose carries are taken; what a digit has above 52 bits does not count.
#[derive(Clone, Copy)]
pub(super) struct Scalar<V>(pub(super) [V; WIDTH]);

impl<V: Copy> Scalar<V> {
    #[inline(always)]
    fn splat<L: Lanes<Vector = V>>(lanes: L, digits: &Digits) -> Self {
        Self(super::field::splat(lanes, digits).0)
    }

    /// The product over `R`.
    #[inline(always)]
    pub(super) fn mul<L: Lanes<Vector = V>>(&self, lanes: L, other: &Self) -> Self {
        let zero = lanes.splat(0);
        let (mut low, mut high) = ([zero; 2 * WIDTH], [zero; 2 * WIDTH]);
        for j in 0..WIDTH {
            for i in 0..WIDTH {
                low[i + j] = lanes.add_low(low[i + j], self.0[i], other.0[j]);
                high[i + j + 1] = lanes.add_high(high[i + j + 1], self.0[i], other.0[j]);
            }
        }
        let mut carry = zero;
        for at in 0..WIDTH {
            let column = lanes.add(lanes.add(low[at], carry), high[at]);
            let digit = lanes.add_low(zero, column, lanes.splat(INVERSE));
            // As in RSA's reduction: the low digit becomes zero and carries one, if it was not.
            carry = lanes.carry(lanes.add(column, lanes.splat(DIGIT_MAX)));
            for i in 1..WIDTH {
                low[at + i] = lanes.add_low(low[at + i], digit, lanes.splat(N[i]));
            }
            for i in 0..WIDTH {
                high[at + i + 1] = lanes.add_high(high[at + i + 1], digit, lanes.splat(N[i]));
            }
        }
        let mut out = [zero; WIDTH];
        for at in 0..WIDTH {
            let column = lanes.add(lanes.add(low[at + WIDTH], high[at + WIDTH]), carry);
            out[at] = column;
            carry = lanes.carry(column);
        }
        Self(out)
    }

    /// `R^2 / self` modulo `n`, of a number in Montgomery's form: its inverse in that form. Zero has
    /// zero.
    #[inline(always)]
    fn inverse<L: Lanes<Vector = V>>(&self, lanes: L) -> Self {
        let mut powers = [*self; 16];
        for at in 2..16 {
            powers[at] = powers[at - 1].mul(lanes, self);
        }
        // The highest four bits are ones.
        let mut out = powers[15];
        for nibble in EXPONENT.iter().rev().skip(1) {
            for _ in 0..4 {
                out = out.mul(lanes, &out);
            }
            if *nibble != 0 {
                out = out.mul(lanes, &powers[usize::from(*nibble)]);
            }
        }
        out
    }

    /// Below `n`, every digit of 52 bits.
    #[inline(always)]
    fn reduced<L: Lanes<Vector = V>>(&self, lanes: L) -> [V; WIDTH] {
        let mask = lanes.splat(DIGIT_MAX);
        let (mut out, mut less) = (self.0, self.0);
        let mut borrow = lanes.splat(0);
        for at in 0..WIDTH {
            out[at] = lanes.and(out[at], mask);
            let difference = lanes.add(lanes.sub(out[at], lanes.splat(N[at])), borrow);
            borrow = lanes.signed_carry(difference);
            less[at] = lanes.and(difference, mask);
        }
        for at in 0..WIDTH {
            out[at] = lanes.select(borrow, out[at], less[at]);
        }
        out
    }
}

/// `a / s` and `b / s` modulo `n`, below `n`, for `s` in `1..n` and numbers below 2^256.
#[inline(always)]
pub(super) fn divide<L: Lanes>(
    lanes: L,
    [a, b]: [Scalar<L::Vector>; 2],
    s: &Scalar<L::Vector>,
) -> [[L::Vector; WIDTH]; 2] {
    let r_squared = Scalar::splat(lanes, &R_SQUARED);
    let inverse = s.mul(lanes, &r_squared).inverse(lanes);
    // The other factor is not in Montgomery's form, so that the product is not either.
    [
        inverse.mul(lanes, &a).reduced(lanes),
        inverse.mul(lanes, &b).reduced(lanes),
    ]
}
