//! `s^65537 mod n` in eight lanes, each with its own modulus.
//!
//! Numbers are `5 B` digits of 52 bits, in blocks of five. A product is summed column by column:
//! the low and high halves of the 25 products of two blocks go to nineteen sums that stay in
//! registers while pairs of blocks with the same column pass by. Carries are taken once per column.
//!
//! `R` is `2^(52 * 5 B)`: 2^32 times the modulus or more. So Montgomery's reduction leaves numbers
//! that are little above the modulus, and nothing is subtracted before the end:
//!
//! | | `n R / n^2` at least | first `x` below | after one square | after two | after sixteen |
//! |---|---|---|---|---|---|
//! | 2048 bits | 2^32 | 2^21 n | 2^11 n | 2 n | n + n / 2^31 |
//! | 3072 bits | 2^48 | 2^5 n | 2 n | 2 n | n + n / 2^47 |
//! | 4096 bits | 2^64 | 2^41 n | 2^19 n | 2 n | n + n / 2^63 |
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::needless_range_loop,
    reason = "indices of arrays whose sizes are constants, never input; every one is used by each \
              call, whatever the numbers are"
)]
#![allow(
    clippy::inline_always,
    reason = "only so is it compiled for the vector unit: see `Job`"
)]

use crate::crypto::lanes::{DIGIT_MAX, Job, Lanes, Numbers};

/// Digits of a block.
pub(super) const WIDTH: usize = 5;

type Block<V> = [V; WIDTH];
/// A number of `B` blocks in each lane, lowest digit first.
pub(super) type Number<V, const B: usize> = [Block<V>; B];

/// How many digits the quotient's estimate is moved down by: as many as the reciprocal allows, which
/// has to fit in `5 B` digits.
pub(super) const fn estimate_shift(blocks: usize) -> usize {
    // 2^(52 * 79) over 2^2047 has 40 digits, 2^(52 * 119) over 2^3071 has 60; 2^(52 * 159) over
    // 2^4095 has 81, 2^(52 * 158) has 80.
    if blocks < 16 {
        WIDTH * blocks - 1
    } else {
        WIDTH * blocks - 2
    }
}

/// The public operation in eight lanes.
pub(super) struct Power<'a, const B: usize> {
    /// Below the modulus. Afterwards `base^65537 mod modulus`, fully reduced.
    pub(super) base: &'a mut Number<Numbers, B>,
    /// Odd; its highest bit is the highest of the key's size.
    pub(super) modulus: &'a Number<Numbers, B>,
    /// `2^(52 (5 B + estimate_shift)) / modulus`, rounded down.
    pub(super) reciprocal: &'a Number<Numbers, B>,
}

impl<const B: usize> Job for Power<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let base = load(lanes, self.base);
        let digits = load(lanes, self.modulus);
        let reciprocal = load(lanes, self.reciprocal);
        let modulus = Modulus {
            lanes,
            digits: &digits,
            inverse: lanes.load(&self.modulus[0][0].map(negated_inverse)),
        };
        let mut wide = [zero(lanes), zero(lanes)];
        let (mut quotient, mut x) = (zero(lanes), zero(lanes));
        modulus.to_montgomery(&base, &reciprocal, &mut wide, &mut x);
        for _ in 0..16 {
            square(lanes, &x, &mut wide);
            modulus.reduce(&wide, &mut quotient, &mut x);
        }
        // The other factor is not in Montgomery's form, so that the product is not either.
        multiply(lanes, &x, &base, 0..2 * B, &mut wide);
        modulus.reduce(&wide, &mut quotient, &mut x);
        modulus.subtract_once(&mut x);
        let out = self.base.as_flattened_mut().iter_mut();
        for (out, digit) in out.zip(x.as_flattened()) {
            *out = lanes.store(*digit);
        }
    }
}

#[inline(always)]
fn zero<L: Lanes, const B: usize>(lanes: L) -> Number<L::Vector, B> {
    [[lanes.splat(0); WIDTH]; B]
}

#[inline(always)]
fn load<L: Lanes, const B: usize>(lanes: L, number: &Number<Numbers, B>) -> Number<L::Vector, B> {
    let mut out = zero(lanes);
    for (out, digit) in out.as_flattened_mut().iter_mut().zip(number.as_flattened()) {
        *out = lanes.load(digit);
    }
    out
}

/// Sums of the columns of two neighbouring blocks.
///
/// Low and high halves of products have sums of their own: so a sum is added to once in five
/// cycles, and an addition takes four. No sum overflows: at most 4 * 80 halves below 2^52 go into a
/// column, and its carry.
struct Columns<L: Lanes> {
    lanes: L,
    low: [L::Vector; 2 * WIDTH],
    high: [L::Vector; 2 * WIDTH],
}

impl<L: Lanes> Columns<L> {
    #[inline(always)]
    fn new(lanes: L) -> Self {
        let zero = lanes.splat(0);
        Self {
            lanes,
            low: [zero; 2 * WIDTH],
            high: [zero; 2 * WIDTH],
        }
    }

    /// Adds `a * b`, moved up by `column` digits.
    #[inline(always)]
    fn add_product(&mut self, column: usize, a: L::Vector, b: L::Vector) {
        let (low, high) = (&mut self.low[column], &mut self.high[column + 1]);
        *low = self.lanes.add_low(*low, a, b);
        *high = self.lanes.add_high(*high, a, b);
    }

    /// Adds the product of two blocks.
    #[inline(always)]
    fn add_products(&mut self, a: &Block<L::Vector>, b: &Block<L::Vector>) {
        for j in 0..WIDTH {
            for i in 0..WIDTH {
                self.add_product(i + j, a[i], b[j]);
            }
        }
    }

    /// Adds the products of different digits of a block, each pair once.
    #[inline(always)]
    fn add_pairs(&mut self, a: &Block<L::Vector>) {
        for j in 0..WIDTH {
            for i in 0..j {
                self.add_product(i + j, a[i], a[j]);
            }
        }
    }

    /// The sums of the lower block.
    #[inline(always)]
    fn lower(&self) -> Block<L::Vector> {
        let mut out = [self.lanes.splat(0); WIDTH];
        for (column, out) in out.iter_mut().enumerate() {
            *out = self.lanes.add(self.low[column], self.high[column]);
        }
        out
    }

    /// Leaves the lower block behind: the upper one becomes the lower, and `next` the upper.
    #[inline(always)]
    fn advance(&mut self, next: &Block<L::Vector>) {
        let zero = self.lanes.splat(0);
        for column in 0..WIDTH {
            self.low[column] = self.low[column + WIDTH];
            self.low[column + WIDTH] = next[column];
            self.high[column] = self.high[column + WIDTH];
            self.high[column + WIDTH] = zero;
        }
    }
}

/// The blocks `blocks` of `a * b` into `wide`, as sums: carries are not taken.
#[inline(always)]
fn multiply<L: Lanes, const B: usize>(
    lanes: L,
    a: &Number<L::Vector, B>,
    b: &Number<L::Vector, B>,
    blocks: std::ops::Range<usize>,
    wide: &mut [Number<L::Vector, B>; 2],
) {
    let mut columns = Columns::new(lanes);
    let wide = wide.as_flattened_mut();
    for block in blocks {
        for i in block.saturating_sub(B - 1)..(block + 1).min(B) {
            columns.add_products(&a[i], &b[block - i]);
        }
        wide[block] = columns.lower();
        columns.advance(&[columns.lanes.splat(0); WIDTH]);
    }
}

/// `a^2` into `wide`, as sums: carries are not taken.
#[inline(always)]
fn square<L: Lanes, const B: usize>(
    lanes: L,
    a: &Number<L::Vector, B>,
    wide: &mut [Number<L::Vector, B>; 2],
) {
    let mut columns = Columns::new(lanes);
    let wide = wide.as_flattened_mut();
    for middle in 0..B {
        wide[2 * middle] = square_block::<L, B, 0>(&mut columns, a, middle);
        wide[2 * middle + 1] = square_block::<L, B, 1>(&mut columns, a, middle);
    }
}

/// Block `2 * middle + ODD` of a square: products of different digits count twice, and the squares
/// of digits belong to the columns of every other digit.
#[inline(always)]
fn square_block<L: Lanes, const B: usize, const ODD: usize>(
    columns: &mut Columns<L>,
    a: &Number<L::Vector, B>,
    middle: usize,
) -> Block<L::Vector> {
    let lanes = columns.lanes;
    let block = 2 * middle + ODD;
    for i in block.saturating_sub(B - 1)..middle + ODD {
        columns.add_products(&a[i], &a[block - i]);
    }
    if ODD == 0 {
        columns.add_pairs(&a[middle]);
    }
    let mut out = columns.lower();
    for (column, out) in out.iter_mut().enumerate() {
        let twice = lanes.add(*out, *out);
        let place = column + ODD * WIDTH;
        let digit = a[middle][place / 2];
        *out = if place.is_multiple_of(2) {
            lanes.add_low(twice, digit, digit)
        } else {
            lanes.add_high(twice, digit, digit)
        };
    }
    columns.advance(&[columns.lanes.splat(0); WIDTH]);
    out
}

/// A modulus, and what its reductions need.
struct Modulus<'m, L: Lanes, const B: usize> {
    lanes: L,
    digits: &'m Number<L::Vector, B>,
    /// `-1 / modulus` modulo 2^52.
    inverse: L::Vector,
}

impl<L: Lanes, const B: usize> Modulus<'_, L, B> {
    /// `wide / R` modulo the modulus. The result's digits have their carries above 52 bits, where
    /// products do not see them.
    ///
    /// `wide` below `R * modulus * 2^c` gives a result below `modulus * (2^c + 1)`.
    #[inline(always)]
    fn reduce(
        &self,
        wide: &[Number<L::Vector, B>; 2],
        quotient: &mut Number<L::Vector, B>,
        out: &mut Number<L::Vector, B>,
    ) {
        let lanes = self.lanes;
        let mut columns = Columns::new(lanes);
        let wide = wide.as_flattened();
        let end = [lanes.splat(0); WIDTH];
        columns.advance(&wide[0]);
        columns.advance(&wide[1]);
        let mut carry = lanes.splat(0);
        for block in 0..B {
            for i in 0..block {
                columns.add_products(&quotient[i], &self.digits[block - i]);
            }
            quotient[block] = self.clear_block(&mut columns, &mut carry);
            columns.advance(&wide[block + 2]);
        }
        for block in 0..B {
            for i in block + 1..B {
                columns.add_products(&quotient[i], &self.digits[B + block - i]);
            }
            let sums = columns.lower();
            columns.advance(wide.get(B + block + 2).unwrap_or(&end));
            for column in 0..WIDTH {
                let sum = lanes.add(sums[column], carry);
                out[block][column] = sum;
                carry = lanes.carry(sum);
            }
        }
    }

    /// The five digits of the quotient that make the lower block zero.
    #[inline(always)]
    fn clear_block(&self, columns: &mut Columns<L>, carry: &mut L::Vector) -> Block<L::Vector> {
        let lanes = self.lanes;
        let zero = lanes.splat(0);
        let digits = &self.digits[0];
        let mut quotient = [zero; WIDTH];
        for column in 0..WIDTH {
            let sum = lanes.add(*carry, columns.high[column]);
            let sum = lanes.add(columns.low[column], sum);
            let digit = lanes.add_low(zero, sum, self.inverse);
            quotient[column] = digit;
            // The low digit of `digit * modulus` makes that of the sum zero. It is never computed:
            // it carries one, unless there was nothing to clear.
            *carry = lanes.carry(lanes.add(sum, lanes.splat(DIGIT_MAX)));
            for i in 1..WIDTH {
                let low = &mut columns.low[column + i];
                *low = lanes.add_low(*low, digit, digits[i]);
            }
            for i in 0..WIDTH {
                let high = &mut columns.high[column + i + 1];
                *high = lanes.add_high(*high, digit, digits[i]);
            }
        }
        quotient
    }

    /// `base * R` modulo the modulus, except for a multiple of the modulus below 2^41.
    ///
    /// The quotient `base * R / modulus` is estimated with the reciprocal, never too large: what the
    /// reciprocal lacks makes it too small by `base / 2^(52 * estimate_shift)`, which is 2^20, 2^4
    /// or 2^40; the columns left out and the rounding by less than two. Taken from `base * R` modulo
    /// `R`, the product of quotient and modulus leaves its own negative.
    #[inline(always)]
    fn to_montgomery(
        &self,
        base: &Number<L::Vector, B>,
        reciprocal: &Number<L::Vector, B>,
        wide: &mut [Number<L::Vector, B>; 2],
        out: &mut Number<L::Vector, B>,
    ) {
        let lanes = self.lanes;
        multiply(lanes, base, reciprocal, B - 2..2 * B, wide);
        let mut carry = lanes.splat(0);
        let columns = wide.as_flattened_mut().as_flattened_mut();
        for column in &mut columns[(B - 2) * WIDTH..] {
            *column = lanes.add(*column, carry);
            carry = lanes.carry(*column);
        }
        let estimate = columns[estimate_shift(B)..].iter();
        for (out, digit) in out.as_flattened_mut().iter_mut().zip(estimate) {
            *out = *digit;
        }
        multiply(lanes, out, self.digits, 0..B, wide);
        let mut borrow = lanes.splat(0);
        let out_digits = out.as_flattened_mut().iter_mut();
        for (out, product) in out_digits.zip(wide[0].as_flattened()) {
            *out = lanes.sub(borrow, *product);
            borrow = lanes.signed_carry(*out);
        }
    }

    /// Takes carries, and subtracts the modulus from numbers that are not below it, once.
    #[inline(always)]
    fn subtract_once(&self, x: &mut Number<L::Vector, B>) {
        let lanes = self.lanes;
        let mask = lanes.splat(DIGIT_MAX);
        let mut less = *x;
        let mut borrow = lanes.splat(0);
        let digits = x.as_flattened_mut().iter_mut().zip(less.as_flattened_mut());
        for ((x, less), modulus) in digits.zip(self.digits.as_flattened()) {
            *x = lanes.and(*x, mask);
            let difference = lanes.add(lanes.sub(*x, *modulus), borrow);
            borrow = lanes.signed_carry(difference);
            *less = lanes.and(difference, mask);
        }
        let digits = x.as_flattened_mut().iter_mut().zip(less.as_flattened());
        for (x, less) in digits {
            *x = lanes.select(borrow, *x, *less);
        }
    }
}

/// `-1 / digit` modulo 2^52, for an odd digit.
fn negated_inverse(digit: u64) -> u64 {
    // Right in three bits, for any odd digit; each step doubles them.
    let mut inverse = digit;
    for _ in 0..5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(digit.wrapping_mul(inverse)));
    }
    inverse.wrapping_neg() & DIGIT_MAX
}

#[cfg(test)]
mod tests;
