//! Points of P-256 in Jacobian coordinates, `x = X / Z^2` and `y = Y / Z^3`, in eight lanes.
//!
//! The formulas are those of the explicit-formulas database for `a = -3`, with divisions avoided.
//! None of them is right for every pair of points. Where one is not, it makes `Z` zero, and every
//! later one keeps it so: a lane whose `Z` ends as zero is undecided.
#![allow(
    clippy::inline_always,
    reason = "only so is it compiled for the vector unit: see `Job`"
)]

use super::field::Sum;
use crate::crypto::lanes::Lanes;

/// A point. `X` and `Y` are below 1.001, `Z` is below 1.5.
#[derive(Clone, Copy)]
pub(super) struct Point<V> {
    pub(super) x: Sum<V>,
    pub(super) y: Sum<V>,
    pub(super) z: Sum<V>,
}

/// What is added to a point, coordinates below 1.001.
pub(super) struct Addend<V> {
    pub(super) x: Sum<V>,
    pub(super) y: Sum<V>,
    /// `None` for 1.
    pub(super) z: Option<Depth<V>>,
}

/// `Z` and its powers.
#[derive(Clone, Copy)]
pub(super) struct Depth<V> {
    pub(super) z: Sum<V>,
    pub(super) square: Sum<V>,
    pub(super) cube: Sum<V>,
}

impl<V: Copy> Point<V> {
    /// The point added to itself.
    #[inline(always)]
    pub(super) fn double<L: Lanes<Vector = V>>(&self, lanes: L) -> Self {
        let (x, y, z) = (
            self.x.factor(lanes),
            self.y.factor(lanes),
            self.z.factor(lanes),
        );
        let delta = z.square(lanes); // 1.2
        let gamma = y.square(lanes); // 1.1
        let minus = self.x.sub::<2, L>(lanes, &delta).factor(lanes); // 3.1
        let plus = self.x.add(lanes, &delta); // 2.2
        let thrice = plus.add(lanes, &plus).add(lanes, &plus).factor(lanes); // 6.6
        let alpha = minus.mul(lanes, &thrice).factor(lanes); // 2.3
        let gamma_2 = gamma.add(lanes, &gamma); // 2.2
        let gamma_4 = gamma_2.add(lanes, &gamma_2).factor(lanes); // 4.4
        let beta_4 = x.mul(lanes, &gamma_4); // 1.3
        let beta_8 = beta_4.add(lanes, &beta_4); // 2.6
        let x_3 = alpha.square(lanes).sub::<3, L>(lanes, &beta_8).fold(lanes);
        let gamma_8_squared = gamma_4.mul(lanes, &gamma_2.factor(lanes)); // 1.7
        let turn = beta_4.sub::<2, L>(lanes, &x_3).factor(lanes); // 3.3
        let y_3 = alpha.mul(lanes, &turn).sub::<2, L>(lanes, &gamma_8_squared);
        let twice_y = self.y.add(lanes, &self.y).factor(lanes); // 2.1
        Self {
            x: x_3,
            y: y_3.fold(lanes),
            z: twice_y.mul(lanes, &z), // 1.2
        }
    }

    /// The sum with another point. `Z` is zero if that has the same `x`.
    #[inline(always)]
    pub(super) fn add<L: Lanes<Vector = V>>(&self, lanes: L, other: &Addend<V>) -> Self {
        let z = self.z.factor(lanes);
        let square = z.square(lanes).factor(lanes); // 1.2
        let cube = square.mul(lanes, &z).factor(lanes); // 1.2
        let u_2 = other.x.factor(lanes).mul(lanes, &square); // 1.1
        let s_2 = other.y.factor(lanes).mul(lanes, &cube); // 1.1
        let (u_1, s_1, z) = match &other.z {
            None => (self.x, self.y, z),
            Some(depth) => (
                self.x.factor(lanes).mul(lanes, &depth.square.factor(lanes)),
                self.y.factor(lanes).mul(lanes, &depth.cube.factor(lanes)),
                z.mul(lanes, &depth.z.factor(lanes)).factor(lanes),
            ), // 1.1, 1.1, 1.2
        };
        let h = u_2.sub::<2, L>(lanes, &u_1).factor(lanes); // 3.1
        let r = s_2.sub::<2, L>(lanes, &s_1).factor(lanes); // 3.1
        let h_2 = h.square(lanes).factor(lanes); // 1.7
        let h_3 = h_2.mul(lanes, &h); // 1.4
        let v = u_1.factor(lanes).mul(lanes, &h_2); // 1.2
        let taken = h_3.add(lanes, &v).add(lanes, &v); // 3.8
        let x_3 = r.square(lanes).sub::<4, L>(lanes, &taken).fold(lanes);
        let turn = v.sub::<2, L>(lanes, &x_3).factor(lanes); // 3.2
        let s_1_h_3 = s_1.factor(lanes).mul(lanes, &h_3.factor(lanes)); // 1.1
        let y_3 = r.mul(lanes, &turn).sub::<2, L>(lanes, &s_1_h_3);
        Self {
            x: x_3,
            y: y_3.fold(lanes),
            z: z.mul(lanes, &h), // 1.3
        }
    }

    /// `self` where `mask` has ones, `other` elsewhere.
    #[inline(always)]
    pub(super) fn select<L: Lanes<Vector = V>>(&self, lanes: L, mask: V, other: &Self) -> Self {
        Self {
            x: self.x.select(lanes, mask, &other.x),
            y: self.y.select(lanes, mask, &other.y),
            z: self.z.select(lanes, mask, &other.z),
        }
    }
}
