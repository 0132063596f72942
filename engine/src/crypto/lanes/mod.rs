//! Eight numbers at a time: the few operations on 52-bit digits that multi-buffer verification is
//! written in.
//!
//! [`Lanes`] names the operations. [`Ifma`](ifma::Ifma) is the vector unit that has them,
//! [`Scalar`] a model of it in plain Rust, which compiles everywhere and runs under Miri. Algorithms
//! are written once, over `Lanes`, so that the model checks all but the instructions themselves.
//!
//! # Security
//! For public data only. Nothing that is built on this is constant-time by intention.

#[cfg(target_arch = "x86_64")]
mod ifma;
mod scalar;

pub(crate) use scalar::Scalar;

/// How many numbers a vector holds: as many signatures of one kind are verified in the time of one.
pub const LANES: usize = 8;
/// Bits of a digit.
pub(crate) const DIGIT_BITS: usize = 52;
/// The largest digit.
pub(crate) const DIGIT_MAX: u64 = (1 << DIGIT_BITS) - 1;

/// One number for each lane.
pub(crate) type Numbers = [u64; LANES];
/// Two numbers of 32 bits for each lane.
pub(crate) type Halves = [u32; 2 * LANES];

/// What the lanes say of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Valid,
    Invalid,
    /// For a library to decide.
    Undecided,
}

/// A unit that computes on eight 64-bit numbers at a time, each lane for itself. Sums wrap.
///
/// A value of the type is the proof that the processor has the unit.
pub(crate) trait Lanes: Copy {
    /// Eight 64-bit numbers.
    type Vector: Copy;

    fn load(self, numbers: &Numbers) -> Self::Vector;
    fn store(self, vector: Self::Vector) -> Numbers;
    /// The same number in every lane.
    fn splat(self, number: u64) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn and(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `sum` and the low digit of the product of the low digits of `a` and `b`: what the factors
    /// have above 52 bits does not count.
    fn add_low(self, sum: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The same with the high digit of the product.
    fn add_high(self, sum: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// What does not fit in a digit, of a number without sign.
    fn carry(self, a: Self::Vector) -> Self::Vector;
    /// What does not fit in a digit, of a number in two's complement: negative for a borrow.
    fn signed_carry(self, a: Self::Vector) -> Self::Vector;
    /// Moves the bits of a number without sign up by `BITS`.
    fn shift_up<const BITS: u32>(self, a: Self::Vector) -> Self::Vector;
    /// Divides a number in two's complement by `2^BITS`, rounding down.
    fn signed_shift_down<const BITS: u32>(self, a: Self::Vector) -> Self::Vector;
    /// Bits of `yes` where `mask` has ones, of `no` elsewhere.
    fn select(self, mask: Self::Vector, yes: Self::Vector, no: Self::Vector) -> Self::Vector;
    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// Sixteen numbers of 32 bits: two in each lane, the lower half first.
    fn load_halves(self, halves: &Halves) -> Self::Vector;
    fn store_halves(self, vector: Self::Vector) -> Halves;
    /// The same number in every half.
    fn splat_halves(self, number: u32) -> Self::Vector;
    /// Adds each half to its counterpart.
    fn add_halves(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Moves the bits of each half up by `BITS`, those that leave it to its other end.
    fn rotate_halves<const BITS: i32>(self, a: Self::Vector) -> Self::Vector;
    /// Moves the bits of each half down by `BITS`.
    fn shift_halves_down<const BITS: u32>(self, a: Self::Vector) -> Self::Vector;
}

/// Work that is written for any [`Lanes`].
pub(crate) trait Job {
    /// What comes of it.
    type Output;

    /// Does the work. Implementations are `#[inline(always)]`, as is all they call: only so is it
    /// compiled for the vector unit.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Whether this processor has a vector unit that we use.
pub(crate) fn has_vector_unit() -> bool {
    #[cfg(target_arch = "x86_64")]
    return ifma::Ifma::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Does the work on the vector unit, if this processor has one.
pub(crate) fn on_vector_unit<J: Job>(job: J) -> Option<J::Output> {
    #[cfg(target_arch = "x86_64")]
    return ifma::Ifma::detect().map(|unit| unit.run(job));
    #[cfg(not(target_arch = "x86_64"))]
    return {
        drop(job);
        None
    };
}

#[cfg(test)]
mod tests;
