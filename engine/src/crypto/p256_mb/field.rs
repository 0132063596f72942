//! Numbers modulo the field's prime `p = 2^256 - 2^224 + 2^192 + 2^96 - 1`, in eight lanes.
//!
//! Five digits of 52 bits, in Montgomery's form with `R = 2^260 = 16 * 2^256`. Nothing is reduced to
//! below `p` on the way: a product of numbers below `a p` and `b p` is below `(1 + a b / 16) p`.
//! The comments beside formulas give such bounds in units of `p`; all stay below 16.
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

use crate::crypto::lanes::{DIGIT_MAX, LANES, Lanes, Numbers};

/// Digits of a number.
pub(super) const WIDTH: usize = 5;

/// One number, lowest digit first.
pub(super) type Digits = [u64; WIDTH];

pub(super) const P: Digits = [
    0xf_ffff_ffff_ffff,
    0xfff_ffff_ffff,
    0,
    0x10_0000_0000,
    0xffff_ffff_0000,
];
/// `R^2 mod p`: a product with it brings a number into Montgomery's form.
pub(super) const R_SQUARED: Digits = [
    0x300,
    0xf_ffff_fff0_0000,
    0xf_fffe_ffff_fffb,
    0xf_dfff_ffff_ffff,
    0x4ff_ffff,
];

/// A number whose digits are summands with sign, of up to 60 bits: what is added and subtracted.
#[derive(Clone, Copy)]
pub(super) struct Sum<V>(pub(super) [V; WIDTH]);

/// A number whose carries are taken, as products need it. What a digit has above 52 bits has been
/// added to the next one and does not count.
#[derive(Clone, Copy)]
pub(super) struct Factor<V>([V; WIDTH]);

impl<V: Copy> Sum<V> {
    /// Takes the carries. The number must be in `0..2^260`.
    #[inline(always)]
    pub(super) fn factor<L: Lanes<Vector = V>>(&self, lanes: L) -> Factor<V> {
        let mut digits = self.0;
        for at in 1..WIDTH {
            digits[at] = lanes.add(digits[at], lanes.signed_carry(digits[at - 1]));
        }
        Factor(digits)
    }

    #[inline(always)]
    pub(super) fn add<L: Lanes<Vector = V>>(&self, lanes: L, other: &Self) -> Self {
        let mut out = self.0;
        for at in 0..WIDTH {
            out[at] = lanes.add(out[at], other.0[at]);
        }
        Self(out)
    }

    /// `self - other + MULTIPLE * p`, where `other` is below `MULTIPLE * p`.
    #[inline(always)]
    pub(super) fn sub<const MULTIPLE: u64, L: Lanes<Vector = V>>(
        &self,
        lanes: L,
        other: &Self,
    ) -> Self {
        let mut out = self.0;
        for at in 0..WIDTH {
            let offset = lanes.splat(P[at] * MULTIPLE);
            out[at] = lanes.add(lanes.sub(out[at], other.0[at]), offset);
        }
        Self(out)
    }

    /// The same number modulo `p`, below `p + p / 2^20`, for one in `0..2^260`.
    #[inline(always)]
    pub(super) fn fold<L: Lanes<Vector = V>>(&self, lanes: L) -> Self {
        let mut out = self.0;
        // How often 2^256 is in it, or one less: `lower digits` may have a few bits of carry.
        let times = lanes.signed_shift_down::<48>(out[4]);
        let rest = lanes.and(out[4], lanes.splat((1 << 48) - 1));
        // 2^256 = 2^224 - 2^192 - 2^96 + 1 modulo p.
        out[0] = lanes.add(out[0], times);
        out[1] = lanes.sub(out[1], lanes.shift_up::<44>(times));
        out[3] = lanes.sub(out[3], lanes.shift_up::<36>(times));
        out[4] = lanes.add(rest, lanes.shift_up::<16>(times));
        Self(out)
    }

    /// `self` where `mask` has ones, `other` elsewhere.
    #[inline(always)]
    pub(super) fn select<L: Lanes<Vector = V>>(&self, lanes: L, mask: V, other: &Self) -> Self {
        let mut out = self.0;
        for at in 0..WIDTH {
            out[at] = lanes.select(mask, out[at], other.0[at]);
        }
        Self(out)
    }
}

impl<V: Copy> Factor<V> {
    /// The same number as a sum again: every digit has 52 bits.
    #[inline(always)]
    pub(super) fn sum<L: Lanes<Vector = V>>(&self, lanes: L) -> Sum<V> {
        let mask = lanes.splat(DIGIT_MAX);
        let mut out = self.0;
        for digit in &mut out {
            *digit = lanes.and(*digit, mask);
        }
        Sum(out)
    }

    /// The product over `R`.
    #[inline(always)]
    pub(super) fn mul<L: Lanes<Vector = V>>(&self, lanes: L, other: &Self) -> Sum<V> {
        let zero = lanes.splat(0);
        let (mut low, mut high) = ([zero; 2 * WIDTH], [zero; 2 * WIDTH]);
        for j in 0..WIDTH {
            for i in 0..WIDTH {
                low[i + j] = lanes.add_low(low[i + j], self.0[i], other.0[j]);
                high[i + j + 1] = lanes.add_high(high[i + j + 1], self.0[i], other.0[j]);
            }
        }
        reduce(lanes, low, &high)
    }

    /// The square over `R`.
    #[inline(always)]
    pub(super) fn square<L: Lanes<Vector = V>>(&self, lanes: L) -> Sum<V> {
        let zero = lanes.splat(0);
        let (mut low, mut high) = ([zero; 2 * WIDTH], [zero; 2 * WIDTH]);
        for j in 0..WIDTH {
            for i in 0..j {
                low[i + j] = lanes.add_low(low[i + j], self.0[i], self.0[j]);
                high[i + j + 1] = lanes.add_high(high[i + j + 1], self.0[i], self.0[j]);
            }
        }
        for at in 1..2 * WIDTH - 1 {
            let sum = lanes.add(low[at], high[at]);
            low[at] = lanes.add(sum, sum);
            high[at] = zero;
        }
        for i in 0..WIDTH {
            low[2 * i] = lanes.add_low(low[2 * i], self.0[i], self.0[i]);
            high[2 * i + 1] = lanes.add_high(high[2 * i + 1], self.0[i], self.0[i]);
        }
        reduce(lanes, low, &high)
    }
}

/// Montgomery's reduction of the columns `low + high`. As `p` is -1 modulo 2^52, a column's low digit
/// is the quotient's, and its product with the rest of `p` is four shifted copies of it.
#[inline(always)]
fn reduce<L: Lanes>(
    lanes: L,
    low: [L::Vector; 2 * WIDTH],
    high: &[L::Vector; 2 * WIDTH],
) -> Sum<L::Vector> {
    let mut columns = low;
    for at in 0..2 * WIDTH {
        columns[at] = lanes.add(columns[at], high[at]);
    }
    // 2^96 is in the next column, 2^192 in the third, 2^256 - 2^224 in the fourth.
    let places = [(1, 1 << 44), (3, 1 << 36), (4, (1 << 48) - (1 << 16))];
    for at in 0..WIDTH {
        let digit = columns[at];
        for (place, factor) in places {
            let (factor, to) = (lanes.splat(factor), at + place);
            columns[to] = lanes.add_low(columns[to], digit, factor);
            columns[to + 1] = lanes.add_high(columns[to + 1], digit, factor);
        }
        columns[at + 1] = lanes.add(columns[at + 1], lanes.carry(digit));
    }
    let mut out = [lanes.splat(0); WIDTH];
    out.copy_from_slice(&columns[WIDTH..]);
    Sum(out)
}

/// The same number in every lane.
#[inline(always)]
pub(super) fn splat<L: Lanes>(lanes: L, digits: &Digits) -> Sum<L::Vector> {
    let mut out = [lanes.splat(0); WIDTH];
    for at in 0..WIDTH {
        out[at] = lanes.splat(digits[at]);
    }
    Sum(out)
}

#[inline(always)]
pub(super) fn store<L: Lanes>(lanes: L, digits: &[L::Vector; WIDTH]) -> [Numbers; WIDTH] {
    let mut out = [[0; LANES]; WIDTH];
    for at in 0..WIDTH {
        out[at] = lanes.store(digits[at]);
    }
    out
}

#[inline(always)]
pub(super) fn load<L: Lanes>(lanes: L, numbers: &[Numbers; WIDTH]) -> Sum<L::Vector> {
    let mut out = [lanes.splat(0); WIDTH];
    for at in 0..WIDTH {
        out[at] = lanes.load(&numbers[at]);
    }
    Sum(out)
}
