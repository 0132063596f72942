//! The RSA public operation for eight signatures at a time, each by a key of its own.
//!
//! For moduli of 2048, 3072 and 4096 bits and the exponent 65,537, which is what TPMs make; other
//! keys go to the library. [`encoding`] compares what comes out with what had to be signed.
//!
//! # Security
//! Public data only: not constant-time. A lane's result depends on that lane alone.

mod arithmetic;
mod digits;
pub(super) mod encoding;
pub(super) mod known;

use openssl::bn::{BigNum, BigNumContext};
use openssl::error::ErrorStack;

use crate::crypto::key::KeyMaterial;
use crate::crypto::lanes::{self, DIGIT_BITS, Job, LANES};
use crate::crypto::rsa::check_range;
use arithmetic::{Power, WIDTH, estimate_shift};

/// The exponent of the keys that are taken here.
const EXPONENT: u32 = 65_537;

/// A size of keys that is taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Bits2048,
    Bits3072,
    Bits4096,
}

impl Size {
    /// Every size.
    pub(crate) const ALL: [Self; 3] = [Self::Bits2048, Self::Bits3072, Self::Bits4096];

    /// Bytes of a modulus, a signature and a message representative.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Bits2048 => 256,
            Self::Bits3072 => 384,
            Self::Bits4096 => 512,
        }
    }

    const fn blocks(self) -> usize {
        match self {
            Self::Bits2048 => 8,
            Self::Bits3072 => 12,
            Self::Bits4096 => 16,
        }
    }

    /// The size of a key, if the key is taken here.
    pub(crate) fn of(key: &KeyMaterial) -> Option<Self> {
        match key {
            KeyMaterial::Rsa { modulus, exponent } if *exponent == EXPONENT => Self::ALL
                .into_iter()
                .find(|size| size.bytes() == modulus.len()),
            KeyMaterial::Rsa { .. } | KeyMaterial::Ecc { .. } => None,
        }
    }
}

/// What is kept for a key beside its modulus: a reciprocal, in digits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reciprocal(Box<[u64]>);

impl Reciprocal {
    /// The constant of a modulus of this size; `None` when the library fails.
    ///
    /// # Cost
    /// A long division: about as much as one verification by the library.
    pub(crate) fn new(size: Size, modulus: &[u8]) -> Option<Self> {
        let divide = || {
            let mut power = BigNum::new()?;
            let digits = WIDTH
                .saturating_mul(size.blocks())
                .saturating_add(estimate_shift(size.blocks()));
            // At most 52 * 158.
            power.set_bit(i32::try_from(digits.saturating_mul(DIGIT_BITS)).unwrap_or(i32::MAX))?;
            let mut quotient = BigNum::new()?;
            let modulus = BigNum::from_slice(modulus)?;
            quotient.checked_div(&power, &modulus, &mut *BigNumContext::new()?)?;
            Ok::<_, ErrorStack>(quotient.to_vec())
        };
        let bytes = divide().ok()?;
        Some(Self(digits::of(
            &bytes,
            WIDTH.saturating_mul(size.blocks()),
        )))
    }
}

/// One signature for one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// Of the size that is asked for, odd, its first bit set.
    pub(crate) modulus: &'a [u8],
    /// That of the modulus.
    pub(crate) reciprocal: &'a Reciprocal,
    /// As many bytes, and below the modulus.
    pub(crate) signature: &'a [u8],
}

/// `signature^65537 mod modulus`, in as many bytes as the modulus; the rest is zero.
pub(crate) type Representative = [u8; 512];

/// Computes in lanes, if it can: [`recover`] or [`recover_in_model`].
pub(crate) type Recover =
    fn(Size, &[Operand<'_>; LANES], &mut [Representative; LANES]) -> Option<()>;

/// Writes the message representatives of eight signatures by keys of one size; `None` when this
/// processor has no vector unit for it.
///
/// # Cost
/// That of eight, however many are asked for: about that of one verification by the library.
pub(crate) fn recover(
    size: Size,
    operands: &[Operand<'_>; LANES],
    out: &mut [Representative; LANES],
) -> Option<()> {
    with_job(size, operands, out, OnVectorUnit)
}

/// The same in plain Rust, a hundred times slower: the model that the vector unit is compared with.
pub(crate) fn recover_in_model(
    size: Size,
    operands: &[Operand<'_>; LANES],
    out: &mut [Representative; LANES],
) -> Option<()> {
    with_job(size, operands, out, InModel)
}

/// Who does a job.
trait Worker {
    fn run<J: Job>(self, job: J) -> Option<J::Output>;
}

struct OnVectorUnit;

impl Worker for OnVectorUnit {
    fn run<J: Job>(self, job: J) -> Option<J::Output> {
        lanes::on_vector_unit(job)
    }
}

struct InModel;

impl Worker for InModel {
    fn run<J: Job>(self, job: J) -> Option<J::Output> {
        Some(job.run(lanes::Scalar))
    }
}

fn with_job<W: Worker>(
    size: Size,
    operands: &[Operand<'_>; LANES],
    out: &mut [Representative; LANES],
    worker: W,
) -> Option<()> {
    match size {
        Size::Bits2048 => with_blocks::<8, W>(operands, out, worker),
        Size::Bits3072 => with_blocks::<12, W>(operands, out, worker),
        Size::Bits4096 => with_blocks::<16, W>(operands, out, worker),
    }
}

fn with_blocks<const B: usize, W: Worker>(
    operands: &[Operand<'_>; LANES],
    out: &mut [Representative; LANES],
    worker: W,
) -> Option<()> {
    let mut base = [[[0; LANES]; WIDTH]; B];
    let mut modulus = [[[0; LANES]; WIDTH]; B];
    let mut reciprocal = [[[0; LANES]; WIDTH]; B];
    for (lane, operand) in operands.iter().enumerate() {
        digits::read(operand.signature, base.as_flattened_mut(), lane);
        digits::read(operand.modulus, modulus.as_flattened_mut(), lane);
        digits::place(&operand.reciprocal.0, reciprocal.as_flattened_mut(), lane);
    }
    worker.run(Power::<B> {
        base: &mut base,
        modulus: &modulus,
        reciprocal: &reciprocal,
    })?;
    for (lane, (out, operand)) in out.iter_mut().zip(operands).enumerate() {
        let out = out.get_mut(..operand.modulus.len()).unwrap_or_default();
        digits::write(base.as_flattened(), lane, out);
    }
    Some(())
}

/// The representatives of eight pairs of modulus and signature, after the checks that the lanes
/// stand on.
pub(crate) fn representatives(
    recover: Recover,
    pairs: &[(&[u8], &[u8]); LANES],
) -> Option<Vec<Vec<u8>>> {
    let bytes = pairs.first()?.0.len();
    let size = Size::ALL.into_iter().find(|size| size.bytes() == bytes)?;
    let mut reciprocals = Vec::new();
    for (modulus, signature) in pairs {
        let is_odd = modulus.last()? & 1 == 1;
        let is_full = modulus.len() == bytes && modulus.first()? & 0x80 != 0;
        if !is_odd || !is_full || check_range(modulus, signature).is_err() {
            return None;
        }
        reciprocals.push(Reciprocal::new(size, modulus)?);
    }
    let operands: Vec<_> = pairs
        .iter()
        .zip(&reciprocals)
        .map(|((modulus, signature), reciprocal)| Operand {
            modulus,
            reciprocal,
            signature,
        })
        .collect();
    let mut out = [[0; 512]; LANES];
    recover(size, operands.as_slice().try_into().ok()?, &mut out)?;
    let out = out.iter().filter_map(|out| out.get(..bytes));
    Some(out.map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests;
