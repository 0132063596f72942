//! ECDSA verification on P-256 for eight signatures at a time, each by a key of its own.
//!
//! `u1 G + u2 Q` by interleaved windows: signed digits of five bits of `u2` pick from a table of `Q`
//! that is made each time, digits of eight bits of `u1` from a table of `G` that is made once.
//! `1 / s` is a power in every lane, so that no lane's numbers meet another's.
//!
//! # Security
//! Public data only: not constant-time. A lane's result depends on that lane alone. Sums of equal or
//! opposite points come out as undecided, never as a verdict.

mod digits;
mod field;
mod known;
mod order;
mod point;
mod product;
mod table;

use crate::crypto::lanes::{self, Answer, Job, LANES, Lanes, Numbers};
use field::{Digits, P, R_SQUARED, WIDTH, load, splat, store};
pub(crate) use known::{KNOWN_CHANGED, KNOWN_VALID};
use order::{N, Scalar, divide};
use point::Point;
use product::double_product;

/// Bits of a digit of `u1`.
const GENERATOR_WIDTH: u32 = 8;
/// Bits of a digit of `u2`.
const KEY_WIDTH: u32 = 5;
/// Multiples of a key in its table.
const KEY_MULTIPLES: usize = 1 << (KEY_WIDTH - 1);

/// One signature for one key; big-endian numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand {
    /// Coordinates of a point on the curve.
    pub(crate) x: [u8; 32],
    pub(crate) y: [u8; 32],
    /// The first 256 bits of the digest, or all of a shorter one.
    pub(crate) digest: [u8; 32],
    /// In `1..n`.
    pub(crate) r: [u8; 32],
    /// In `1..n`.
    pub(crate) s: [u8; 32],
}

/// [`verify`] or [`verify_in_model`].
pub(crate) type Verifier = fn(&[Operand; LANES]) -> Option<[Answer; LANES]>;

/// The first 256 bits of a digest; of a shorter one all, as the number that it is.
// FIPS 186-5, 6.4.2, step 2
pub(crate) fn leftmost_bits(digest: &[u8]) -> [u8; 32] {
    digest
        .first_chunk()
        .copied()
        .unwrap_or_else(|| left_padded(digest))
}

/// A number of at most 32 bytes.
pub(crate) fn left_padded(number: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (slot, byte) in out.iter_mut().rev().zip(number.iter().rev()) {
        *slot = *byte;
    }
    out
}

/// Verifies on the vector unit, if this processor has one.
pub(crate) fn verify(operands: &[Operand; LANES]) -> Option<[Answer; LANES]> {
    lanes::on_vector_unit(Verify::new(operands, table::generator()?))
}

/// The same in plain Rust.
pub(crate) fn verify_in_model(operands: &[Operand; LANES]) -> Option<[Answer; LANES]> {
    Some(Verify::new(operands, table::generator()?).run(lanes::Scalar))
}

/// Numbers of eight lanes, digit by digit.
type Wide = [Numbers; WIDTH];

struct Verify<'t> {
    x: Wide,
    y: Wide,
    digest: Wide,
    r: Wide,
    s: Wide,
    /// `r + n` where that is below `p`, else `r`.
    r_plus_n: Wide,
    generator: &'t table::Generator,
}

impl<'t> Verify<'t> {
    fn new(operands: &[Operand; LANES], generator: &'t table::Generator) -> Self {
        let [x, y, digest, r, s, r_plus_n] = wide(operands);
        Self {
            x,
            y,
            digest,
            r,
            s,
            r_plus_n,
            generator,
        }
    }
}

/// All of the operands' numbers, transposed.
fn wide(operands: &[Operand; LANES]) -> [Wide; 6] {
    let mut out = [[[0; LANES]; WIDTH]; 6];
    for (lane, operand) in operands.iter().enumerate() {
        let r = table::digits_of(&operand.r);
        let numbers = [
            table::digits_of(&operand.x),
            table::digits_of(&operand.y),
            table::digits_of(&operand.digest),
            r,
            table::digits_of(&operand.s),
            plus_order(&r),
        ];
        for (wide, number) in out.iter_mut().zip(numbers) {
            for (slots, digit) in wide.iter_mut().zip(number) {
                if let Some(slot) = slots.get_mut(lane) {
                    *slot = digit;
                }
            }
        }
    }
    out
}

/// `r + n` if it is below `p`, else `r`: the other `x` that leaves `r` modulo `n`.
fn plus_order(r: &Digits) -> Digits {
    let mut sum = *r;
    let mut carry = 0_u64;
    for (digit, order) in sum.iter_mut().zip(N) {
        let total = digit.wrapping_add(order).wrapping_add(carry);
        *digit = total & lanes::DIGIT_MAX;
        carry = total >> lanes::DIGIT_BITS;
    }
    let is_below = sum.iter().rev().lt(P.iter().rev());
    if is_below { sum } else { *r }
}

impl Job for Verify<'_> {
    type Output = [Answer; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Self::Output {
        let digest = Scalar(load(lanes, &self.digest).0);
        let r = Scalar(load(lanes, &self.r).0);
        let s = Scalar(load(lanes, &self.s).0);
        let [u_1, u_2] = divide(lanes, [digest, r], &s);
        let scalars = [&store(lanes, &u_1), &store(lanes, &u_2)];
        let sum = double_product(lanes, self.generator, [&self.x, &self.y], scalars);
        let is_r = have_x(lanes, &sum, &self.r);
        let is_r_plus_n = have_x(lanes, &sum, &self.r_plus_n);
        let undecided = are_zero(lanes, &sum.z);
        let mut out = [Answer::Undecided; LANES];
        let answers = out.iter_mut().zip(undecided).zip(is_r).zip(is_r_plus_n);
        for (((out, undecided), is_r), is_r_plus_n) in answers {
            *out = match (undecided, is_r || is_r_plus_n) {
                (true, _) => Answer::Undecided,
                (false, true) => Answer::Valid,
                (false, false) => Answer::Invalid,
            };
        }
        out
    }
}

/// In which lanes a point has this `x`: `X = x Z^2`.
#[inline(always)]
fn have_x<L: Lanes>(lanes: L, point: &Point<L::Vector>, x: &Wide) -> [bool; LANES] {
    let square = point.z.factor(lanes).square(lanes).factor(lanes);
    let expected = to_montgomery(lanes, x).factor(lanes).mul(lanes, &square);
    are_zero(lanes, &expected.sub::<2, L>(lanes, &point.x))
}

#[inline(always)]
fn to_montgomery<L: Lanes>(lanes: L, wide: &Wide) -> field::Sum<L::Vector> {
    let r_squared = splat(lanes, &R_SQUARED).factor(lanes);
    load(lanes, wide).factor(lanes).mul(lanes, &r_squared)
}

/// Which lanes are zero modulo `p`, of numbers below 16.
#[inline(always)]
fn are_zero<L: Lanes>(lanes: L, number: &field::Sum<L::Vector>) -> [bool; LANES] {
    let one = splat(lanes, &[1, 0, 0, 0, 0]).factor(lanes);
    // At most p, whatever it was.
    let reduced = number
        .factor(lanes)
        .mul(lanes, &one)
        .factor(lanes)
        .sum(lanes);
    let digits = store(lanes, &reduced.0);
    let mut out = [false; LANES];
    for (lane, out) in out.iter_mut().enumerate() {
        let number = digits.map(|digit| digit.get(lane).copied().unwrap_or(1));
        *out = number == [0; WIDTH] || number == P;
    }
    out
}

#[cfg(test)]
mod tests;
