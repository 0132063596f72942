//! The steps in the model, without any library: these run under Miri too (`make miri`).

use super::*;
use crate::crypto::ecdsa::hex_literal;
use crate::crypto::lanes::{LANES, Scalar};
use crate::crypto::rsa_mb::known::{MODULUS_2048, SIGNATURE_2048};
use crate::crypto::rsa_mb::{Reciprocal, Size, digits};

/// Blocks of 2048 bits.
const B: usize = 8;

/// `2^(52 * 79)` over the modulus.
const RECIPROCAL: [u8; 258] = hex_literal(
    b"14ab976a144483647224396fa2f795c58cf7026661d143a248640c7699c4b55418acde57b3750b9de1d27c5b\
      e003d85ddc06e2123778315986e88c96a66cddd7fc79436d32fee6a54d513d73e024d5a35f82a323e3a64928\
      50a52da9a7b4219ecb39abfceb02d44473536a3fc165b64776679396a2ed5563c77c09469cbce475ffe78f20\
      75b7b71f40b57516ae9865e97944efd160274ca7b2aea049ba516099b0f71c353e04d33267108767bc1edb1e\
      f0ffd0bad2b16672bd9322bd382c402edf5c00c92c69e7a662872f705ddc843b12fd7905791bdccfe024bb83\
      2225d337c123c60bffce999824ca670b42cbd067c0c06ed912453692d95b5fcd2f2f43ab369f",
);

/// The third power of the signature modulo the modulus.
const CUBE: [u8; 256] = hex_literal(
    b"2d0c92c348a4486f5872c05da64e8899bd833e5310c63a8487f268870b36d00d9153d4fb351632ce3f8b3b74\
      eb5caedbc202a01bc634434b5d9b7ace056cb0ca27192a89555f442c6fe94104338b1b3b759d14b6e3b9c0fd\
      dd6bc33ef4be2e219129ff5ddb34d46ef19e6ecee4eb759d0d438ad511b325409a819f9bf53bade07e16b7f1\
      c011b160c1e8447ba1c18a264e1d8b741f52a7913f83083ffaa22628e429770ce41093810266f41aa013852c\
      b067348d5fa00da2f725dd68663bae5dab82a25d9ed95dab4ba3a5e46621c541d320ff18cc3b0eef038716f9\
      e020508a4d148cdd3ae47ca525fbfe4bbeceb007bb6f073edf9fe7d11419333f94a75d0b",
);

/// Each step of [`Power`] once, which makes the third power of what it makes the 65,537th of.
struct Cube<'a> {
    base: &'a Number<Numbers, B>,
    modulus: &'a Number<Numbers, B>,
    reciprocal: &'a Number<Numbers, B>,
}

impl Job for Cube<'_> {
    type Output = Number<Numbers, B>;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Self::Output {
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
        square(lanes, &x, &mut wide);
        modulus.reduce(&wide, &mut quotient, &mut x);
        multiply(lanes, &x, &base, 0..2 * B, &mut wide);
        modulus.reduce(&wide, &mut quotient, &mut x);
        modulus.subtract_once(&mut x);
        x.map(|block| block.map(|digit| lanes.store(digit)))
    }
}

fn small(number: u8) -> [u8; 256] {
    let mut bytes = [0; 256];
    bytes[255] = number;
    bytes
}

/// The modulus is odd.
fn opposite_of_one() -> [u8; 256] {
    let mut bytes = MODULUS_2048;
    bytes[255] -= 1;
    bytes
}

#[test]
fn miri_the_steps_make_known_powers() {
    let known: [([u8; 256], [u8; 256]); LANES] = [
        (SIGNATURE_2048, CUBE),
        (small(0), small(0)),
        (small(1), small(1)),
        (small(2), small(8)),
        (opposite_of_one(), opposite_of_one()),
        (small(5), small(125)),
        (SIGNATURE_2048, CUBE),
        (small(6), small(216)),
    ];
    let [mut base, mut modulus, mut reciprocal] = [[[[0; LANES]; WIDTH]; B]; 3];
    for (lane, (bytes, _)) in known.iter().enumerate() {
        digits::read(bytes, base.as_flattened_mut(), lane);
        digits::read(&MODULUS_2048, modulus.as_flattened_mut(), lane);
        digits::read(&RECIPROCAL, reciprocal.as_flattened_mut(), lane);
    }
    let cube = Cube {
        base: &base,
        modulus: &modulus,
        reciprocal: &reciprocal,
    };
    let powers = cube.run(Scalar);
    for (lane, (_, expected)) in known.iter().enumerate() {
        let mut found = [0; 256];
        digits::write(powers.as_flattened(), lane, &mut found);
        assert_eq!(found, *expected, "lane {lane}");
    }
}

#[test]
fn the_known_reciprocal_is_the_librarys() {
    let known = Reciprocal(digits::of(&RECIPROCAL, WIDTH * B));
    assert_eq!(Some(known), Reciprocal::new(Size::Bits2048, &MODULUS_2048));
}
