//! Multiples of points, to pick from lane by lane.

use std::sync::LazyLock;

use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcPoint};
use openssl::error::ErrorStack;
use openssl::nid::Nid;

use super::field::{Digits, WIDTH};
use super::{GENERATOR_WIDTH, KEY_MULTIPLES, Wide};
use crate::crypto::lanes::{DIGIT_BITS, DIGIT_MAX, LANES};

/// `R mod p`: one in Montgomery's form.
pub(super) const ONE: Digits = [
    0x10,
    0xf_0000_0000_0000,
    0xf_ffff_ffff_ffff,
    0xf_feff_ffff_ffff,
    0xf_ffff,
];

/// How many multiples of the generator there are.
const GENERATOR_MULTIPLES: usize = 1 << (GENERATOR_WIDTH - 1);

/// `G`, `2 G` and so on: both coordinates in Montgomery's form. The first entry is not used.
pub(super) struct Generator(Vec<[Digits; 2]>);

impl Generator {
    /// The coordinates of a multiple for each lane.
    pub(super) fn pick(&self, numbers: &[usize; LANES]) -> [Wide; 2] {
        let mut out = [[[0; LANES]; WIDTH]; 2];
        for (lane, number) in numbers.iter().enumerate() {
            let Some(point) = self.0.get(*number) else {
                continue;
            };
            for (wide, digits) in out.iter_mut().zip(point) {
                for (slots, digit) in wide.iter_mut().zip(digits) {
                    if let Some(slot) = slots.get_mut(lane) {
                        *slot = *digit;
                    }
                }
            }
        }
        out
    }
}

/// The table of the generator; `None` when the library failed.
pub(super) fn generator() -> Option<&'static Generator> {
    static GENERATOR: LazyLock<Option<Generator>> = LazyLock::new(|| make().ok());
    GENERATOR.as_ref()
}

fn make() -> Result<Generator, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let mut context = BigNumContext::new()?;
    let (mut x, mut y, mut p) = (BigNum::new()?, BigNum::new()?, BigNum::new()?);
    let (mut a, mut b) = (BigNum::new()?, BigNum::new()?);
    group.components_gfp(&mut p, &mut a, &mut b, &mut context)?;
    let mut multiples = vec![[[0; WIDTH]; 2]];
    for number in 1..=GENERATOR_MULTIPLES {
        let mut point = EcPoint::new(&group)?;
        // At most 2^12.
        let number = BigNum::from_u32(u32::try_from(number).unwrap_or(0))?;
        point.mul_generator2(&group, &number, &mut context)?;
        point.affine_coordinates(&group, &mut x, &mut y, &mut context)?;
        let mut coordinates = [[0; WIDTH]; 2];
        for (slot, number) in coordinates.iter_mut().zip([&x, &y]) {
            let (mut shifted, mut rest) = (BigNum::new()?, BigNum::new()?);
            shifted.lshift(number, 260)?;
            rest.nnmod(&shifted, &p, &mut context)?;
            let bytes = rest.to_vec_padded(32)?;
            *slot = digits_of(bytes.as_slice().try_into().unwrap_or(&[0; 32]));
        }
        multiples.push(coordinates);
    }
    Ok(Generator(multiples))
}

/// Multiples of a key in each lane: `X`, `Y`, `Z`, `Z^2` and `Z^3`. The first entry is not used.
pub(super) struct Multiples([[Wide; 5]; KEY_MULTIPLES + 1]);

impl Multiples {
    pub(super) fn new() -> Self {
        Self([[[[0; LANES]; WIDTH]; 5]; KEY_MULTIPLES + 1])
    }

    pub(super) fn put(&mut self, number: usize, point: [Wide; 5]) {
        if let Some(slot) = self.0.get_mut(number) {
            *slot = point;
        }
    }

    /// The coordinates of a multiple for each lane, of that lane's key.
    pub(super) fn pick(&self, numbers: &[usize; LANES]) -> [Wide; 5] {
        let mut out = [[[0; LANES]; WIDTH]; 5];
        for (lane, number) in numbers.iter().enumerate() {
            let Some(point) = self.0.get(*number) else {
                continue;
            };
            let digits = point.as_flattened().iter();
            for (slots, digits) in out.as_flattened_mut().iter_mut().zip(digits) {
                if let (Some(slot), Some(digit)) = (slots.get_mut(lane), digits.get(lane)) {
                    *slot = *digit;
                }
            }
        }
        out
    }
}

/// The digits of a number.
pub(super) fn digits_of(big_endian: &[u8; 32]) -> Digits {
    let mut out = [0; WIDTH];
    let (mut rest, mut bits, mut digits) = (0_u128, 0_usize, out.iter_mut());
    for byte in big_endian.iter().rev() {
        rest |= u128::from(*byte) << bits;
        bits = bits.saturating_add(8);
        if let Some(more) = bits.checked_sub(DIGIT_BITS) {
            if let Some(digit) = digits.next() {
                *digit = u64::try_from(rest & u128::from(DIGIT_MAX)).unwrap_or(0);
            }
            rest >>= DIGIT_BITS;
            bits = more;
        }
    }
    if let Some(digit) = digits.next() {
        *digit = u64::try_from(rest).unwrap_or(0);
    }
    out
}
