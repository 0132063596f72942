//! The operations in plain Rust.

use super::{DIGIT_BITS, DIGIT_MAX, Halves, LANES, Lanes, Numbers};

/// The model: correct, and as slow as eight separate computations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

/// The product of the low digits.
fn product(a: u64, b: u64) -> u128 {
    // Below 2^104.
    u128::from(a & DIGIT_MAX).wrapping_mul(u128::from(b & DIGIT_MAX))
}

fn low_digit(number: u128) -> u64 {
    // A digit always fits.
    u64::try_from(number & u128::from(DIGIT_MAX)).unwrap_or(0)
}

fn each(a: Numbers, b: Numbers, run: impl Fn(u64, u64) -> u64) -> Numbers {
    let mut out = [0; LANES];
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = run(a, b);
    }
    out
}

impl Lanes for Scalar {
    type Vector = Numbers;

    fn load(self, numbers: &Numbers) -> Numbers {
        *numbers
    }

    fn store(self, vector: Numbers) -> Numbers {
        vector
    }

    fn splat(self, number: u64) -> Numbers {
        [number; LANES]
    }

    fn add(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, u64::wrapping_add)
    }

    fn sub(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, u64::wrapping_sub)
    }

    fn and(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, |a, b| a & b)
    }

    fn add_low(self, sum: Numbers, a: Numbers, b: Numbers) -> Numbers {
        self.add(sum, each(a, b, |a, b| low_digit(product(a, b))))
    }

    fn add_high(self, sum: Numbers, a: Numbers, b: Numbers) -> Numbers {
        let high = |a, b| low_digit(product(a, b) >> DIGIT_BITS);
        self.add(sum, each(a, b, high))
    }

    fn carry(self, a: Numbers) -> Numbers {
        a.map(|a| a >> DIGIT_BITS)
    }

    fn signed_carry(self, a: Numbers) -> Numbers {
        a.map(|a| (a.cast_signed() >> DIGIT_BITS).cast_unsigned())
    }

    fn shift_up<const BITS: u32>(self, a: Numbers) -> Numbers {
        a.map(|a| a << BITS)
    }

    fn signed_shift_down<const BITS: u32>(self, a: Numbers) -> Numbers {
        a.map(|a| (a.cast_signed() >> BITS).cast_unsigned())
    }

    fn select(self, mask: Numbers, yes: Numbers, no: Numbers) -> Numbers {
        let yes = each(mask, yes, |mask, yes| mask & yes);
        let no = each(mask, no, |mask, no| !mask & no);
        each(yes, no, |yes, no| yes | no)
    }
    fn xor(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, |a, b| a ^ b)
    }

    fn load_halves(self, halves: &Halves) -> Numbers {
        let mut out = [0; LANES];
        for (out, [low, high]) in out.iter_mut().zip(halves.as_chunks::<2>().0) {
            *out = joined([*low, *high]);
        }
        out
    }

    fn store_halves(self, vector: Numbers) -> Halves {
        let mut out = [0; 2 * LANES];
        for (out, number) in out.as_chunks_mut::<2>().0.iter_mut().zip(vector) {
            *out = split(number);
        }
        out
    }

    fn splat_halves(self, number: u32) -> Numbers {
        [joined([number, number]); LANES]
    }

    fn add_halves(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, |a, b| {
            let ([a_low, a_high], [b_low, b_high]) = (split(a), split(b));
            joined([a_low.wrapping_add(b_low), a_high.wrapping_add(b_high)])
        })
    }

    fn rotate_halves<const BITS: i32>(self, a: Numbers) -> Numbers {
        a.map(|a| joined(split(a).map(|half| half.rotate_left(BITS.cast_unsigned()))))
    }

    fn shift_halves_down<const BITS: u32>(self, a: Numbers) -> Numbers {
        a.map(|a| joined(split(a).map(|half| half >> BITS)))
    }
}

/// The lower and the higher half.
fn split(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes)
}

fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
