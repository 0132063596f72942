//! `u1 G + u2 Q` by interleaved windows.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "indices of arrays whose sizes are constants, never input"
)]
#![allow(
    clippy::inline_always,
    reason = "only so is it compiled for the vector unit: see `Job`"
)]

use super::digits::{SignedDigits, window};
use super::field::{self, WIDTH, load, splat, store};
use super::point::{Addend, Depth, Point};
use super::table::{Generator, Multiples, ONE};
use super::{GENERATOR_WIDTH, KEY_MULTIPLES, KEY_WIDTH, Wide, to_montgomery};
use crate::crypto::lanes::Lanes;

/// `u1 G + u2 Q` for keys `Q`.
#[inline(always)]
pub(super) fn double_product<L: Lanes>(
    lanes: L,
    generator: &Generator,
    key: [&Wide; 2],
    [u_1, u_2]: [&Wide; 2],
) -> Point<L::Vector> {
    let multiples = key_multiples(lanes, key);
    let zero = splat(lanes, &[0; WIDTH]);
    let mut sum = Sum {
        point: Point {
            x: zero,
            y: zero,
            z: zero,
        },
        is_infinite: lanes.splat(u64::MAX),
    };
    for bit in (0..=256_usize).rev() {
        if bit != 256 {
            sum.point = sum.point.double(lanes);
        }
        if bit.is_multiple_of(8) {
            let digits = window(u_1, bit, GENERATOR_WIDTH);
            let [x, y] = generator.pick(&digits.magnitudes);
            let addend = Addend {
                x: load(lanes, &x),
                y: load(lanes, &y),
                z: None,
            };
            sum.add(lanes, addend, &digits);
        }
        if bit.is_multiple_of(5) {
            let digits = window(u_2, bit, KEY_WIDTH);
            let [x, y, z, square, cube] = multiples.pick(&digits.magnitudes);
            let addend = Addend {
                x: load(lanes, &x),
                y: load(lanes, &y),
                z: Some(Depth {
                    z: load(lanes, &z),
                    square: load(lanes, &square),
                    cube: load(lanes, &cube),
                }),
            };
            sum.add(lanes, addend, &digits);
        }
    }
    sum.point
}

/// `Q` to `16 Q`.
#[inline(always)]
fn key_multiples<L: Lanes>(lanes: L, key: [&Wide; 2]) -> Multiples {
    let [x, y] = key;
    let x = to_montgomery(lanes, x).fold(lanes);
    let y = to_montgomery(lanes, y).fold(lanes);
    let one = to_montgomery(lanes, &[[1; 8], [0; 8], [0; 8], [0; 8], [0; 8]]);
    let key = Point { x, y, z: one };
    let mut points = [key; KEY_MULTIPLES];
    let mut multiples = Multiples::new();
    for number in 1..=KEY_MULTIPLES {
        // An odd multiple is one more than the even one before; none of these is special, as
        // the order is a large prime.
        let point = match number {
            1 => key,
            _ if number.is_multiple_of(2) => points[number / 2 - 1].double(lanes),
            _ => points[number - 2].add(lanes, &Addend { x, y, z: None }),
        };
        points[number - 1] = point;
        let z = point.z.factor(lanes);
        let square = z.square(lanes);
        let cube = square.factor(lanes).mul(lanes, &z);
        let coordinates = [
            clean(lanes, &point.x),
            clean(lanes, &point.y),
            clean(lanes, &point.z),
            clean(lanes, &square),
            clean(lanes, &cube),
        ];
        multiples.put(number, coordinates);
    }
    multiples
}

/// The digits of 52 bits each.
#[inline(always)]
fn clean<L: Lanes>(lanes: L, number: &field::Sum<L::Vector>) -> Wide {
    store(lanes, &number.factor(lanes).sum(lanes).0)
}

/// A sum of points that begins with none.
struct Sum<L: Lanes> {
    point: Point<L::Vector>,
    /// All ones in lanes to which nothing was added.
    is_infinite: L::Vector,
}

impl<L: Lanes> Sum<L> {
    /// Adds a picked multiple, negated where the digit is; nothing where the digit is zero.
    #[inline(always)]
    fn add(&mut self, lanes: L, mut addend: Addend<L::Vector>, digits: &SignedDigits) {
        let zero = splat(lanes, &[0; WIDTH]);
        let negated = zero.sub::<2, L>(lanes, &addend.y).fold(lanes);
        addend.y = negated.select(lanes, lanes.load(&digits.negative), &addend.y);
        let one = splat(lanes, &ONE);
        let alone = Point {
            x: addend.x,
            y: addend.y,
            z: match &addend.z {
                Some(depth) => depth.z,
                None => one,
            },
        };
        let sum = self.point.add(lanes, &addend);
        let sum = alone.select(lanes, self.is_infinite, &sum);
        let nothing = lanes.load(&digits.zero);
        self.point = self.point.select(lanes, nothing, &sum);
        self.is_infinite = lanes.and(self.is_infinite, nothing);
    }
}
