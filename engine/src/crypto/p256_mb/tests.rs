//! Verdicts of the lanes against OpenSSL's.

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::ec::{EcGroup, EcKey, EcPoint, EcPointRef};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use proptest::prelude::*;

use super::*;
use crate::crypto::lanes::{DIGIT_BITS, DIGIT_MAX, has_vector_unit};

/// The curve, and shorthands for the library's arithmetic.
struct Curve {
    group: EcGroup,
    p: BigNum,
    n: BigNum,
}

impl Curve {
    fn new() -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let (mut p, mut n) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        let (mut a, mut b) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        let mut context = BigNumContext::new().unwrap();
        group
            .components_gfp(&mut p, &mut a, &mut b, &mut context)
            .unwrap();
        group.order(&mut n, &mut context).unwrap();
        Self { group, p, n }
    }

    fn multiple(&self, number: &BigNumRef) -> EcPoint {
        let mut point = EcPoint::new(&self.group).unwrap();
        let mut context = BigNumContext::new().unwrap();
        point
            .mul_generator2(&self.group, number, &mut context)
            .unwrap();
        point
    }

    fn times(&self, point: &EcPointRef, number: &BigNumRef) -> EcPoint {
        let mut out = EcPoint::new(&self.group).unwrap();
        let mut context = BigNumContext::new().unwrap();
        out.mul2(&self.group, point, number, &mut context).unwrap();
        out
    }

    fn plus(&self, a: &EcPointRef, b: &EcPointRef) -> EcPoint {
        let mut out = EcPoint::new(&self.group).unwrap();
        let mut context = BigNumContext::new().unwrap();
        out.add(&self.group, a, b, &mut context).unwrap();
        out
    }

    fn affine(&self, point: &EcPointRef) -> [BigNum; 2] {
        let (mut x, mut y) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        let mut context = BigNumContext::new().unwrap();
        point
            .affine_coordinates(&self.group, &mut x, &mut y, &mut context)
            .unwrap();
        [x, y]
    }

    fn mul(&self, a: &BigNumRef, b: &BigNumRef) -> BigNum {
        let mut out = BigNum::new().unwrap();
        let mut context = BigNumContext::new().unwrap();
        out.mod_mul(a, b, &self.n, &mut context).unwrap();
        out
    }

    fn inverse(&self, number: &BigNumRef) -> BigNum {
        let mut out = BigNum::new().unwrap();
        let mut context = BigNumContext::new().unwrap();
        out.mod_inverse(number, &self.n, &mut context).unwrap();
        out
    }

    /// A valid signature by `key`, for which the verifier computes `u1 G + u2 Q`: nobody's secret is
    /// needed when the digest may be any number.
    fn forge(&self, key: &EcPointRef, u_1: &BigNumRef, u_2: &BigNumRef) -> Option<Operand> {
        let sum = self.plus(&self.multiple(u_1), &self.times(key, u_2));
        if sum.is_infinity(&self.group) {
            return None;
        }
        let [x, _] = self.affine(&sum);
        let mut r = BigNum::new().unwrap();
        let mut context = BigNumContext::new().unwrap();
        r.nnmod(&x, &self.n, &mut context).unwrap();
        let s = self.mul(&r, &self.inverse(u_2));
        let digest = self.mul(u_1, &s);
        Some(self.operand(key, &digest, &r, &s))
    }

    fn operand(
        &self,
        key: &EcPointRef,
        digest: &BigNumRef,
        r: &BigNumRef,
        s: &BigNumRef,
    ) -> Operand {
        let [x, y] = self.affine(key);
        let bytes = |number: &BigNumRef| left_padded(&number.to_vec());
        Operand {
            x: bytes(&x),
            y: bytes(&y),
            digest: bytes(digest),
            r: bytes(r),
            s: bytes(s),
        }
    }

    /// What the library says of a signature.
    fn verify(&self, operand: &Operand) -> bool {
        let [x, y, r, s] = [operand.x, operand.y, operand.r, operand.s]
            .map(|bytes| BigNum::from_slice(&bytes).unwrap());
        let key = EcKey::from_public_key_affine_coordinates(&self.group, &x, &y).unwrap();
        let signature = EcdsaSig::from_private_components(r, s).unwrap();
        signature.verify(&operand.digest, &key).unwrap_or(false)
    }

    /// Runs all backends; what they decide is what the library says, and they agree.
    fn check(&self, operands: &[Operand; LANES]) -> [Answer; LANES] {
        let model = verify_in_model(operands).unwrap();
        assert_eq!(verify(operands), has_vector_unit().then_some(model));
        for (operand, answer) in operands.iter().zip(model) {
            match answer {
                Answer::Valid => assert!(self.verify(operand), "{operand:?}"),
                Answer::Invalid => assert!(!self.verify(operand), "{operand:?}"),
                Answer::Undecided => {}
            }
        }
        model
    }
}

fn small(number: u32) -> BigNum {
    BigNum::from_u32(number).unwrap()
}

fn valid(seed: u32) -> Operand {
    let curve = Curve::new();
    let key = curve.multiple(&small(seed + 100_000));
    curve
        .forge(&key, &small(seed * 7919 + 1), &small(seed * 104_729 + 3))
        .unwrap()
}

/// The operand in each lane by turns, among valid ones, which stay valid.
fn in_each_lane(operand: Operand) -> Vec<Answer> {
    let curve = Curve::new();
    let others: [Operand; LANES] = std::array::from_fn(|lane| valid(lane as u32));
    let each = (0..LANES).map(|lane| {
        let mut operands = others;
        operands[lane] = operand;
        let mut answers = curve.check(&operands).to_vec();
        let answer = answers.remove(lane);
        assert_eq!(answers, [Answer::Valid; LANES - 1]);
        answer
    });
    each.collect()
}

#[test]
fn q19_special_scalars_are_decided_as_the_library_does() {
    let curve = Curve::new();
    let mut last = curve.n.to_owned().unwrap();
    last.sub_word(1).unwrap();
    let mut half = BigNum::new().unwrap();
    half.rshift1(&curve.n).unwrap();
    let mut high = BigNum::new().unwrap();
    high.set_bit(255).unwrap();
    let key = curve.multiple(&small(12_345));
    let numbers = [
        small(0),
        small(1),
        small(2),
        small(16),
        small(255),
        half,
        high,
        last,
    ];
    for u_1 in &numbers {
        let others: [Operand; LANES] = std::array::from_fn(|lane| {
            let u_2 = &numbers[lane.max(1)];
            curve.forge(&key, u_1, u_2).unwrap()
        });
        assert_eq!(curve.check(&others), [Answer::Valid; LANES]);
        let changed = others.map(|mut operand| {
            operand.digest[31] ^= 1;
            operand
        });
        assert_eq!(curve.check(&changed), [Answer::Invalid; LANES]);
    }
}

#[test]
fn q19_keys_that_are_the_generator_or_its_opposite_are_never_misjudged() {
    let curve = Curve::new();
    let mut last = curve.n.to_owned().unwrap();
    last.sub_word(1).unwrap();
    for key in [small(1), last] {
        let key = curve.multiple(&key);
        for u_1 in 0..20 {
            let operands: [_; LANES] = std::array::from_fn(|lane| {
                let u_2 = small(u_1 + lane as u32 + 1);
                // Where the sum is the point at infinity there is no signature: any other.
                curve
                    .forge(&key, &small(u_1), &u_2)
                    .unwrap_or_else(|| valid(u_1))
            });
            curve.check(&operands);
        }
    }
}

#[test]
fn q19_equal_and_opposite_points_are_undecided_and_leave_other_lanes_right() {
    let curve = Curve::new();
    // u1 G = u2 Q: with Q = 16 G, u1 = 16 and u2 = 1 the last sum is of a point and itself.
    let key = curve.multiple(&small(16));
    let equal = curve.forge(&key, &small(16), &small(1)).unwrap();
    assert!(curve.verify(&equal));
    assert_eq!(in_each_lane(equal), [Answer::Undecided; LANES]);
    // u1 G = -u2 Q: the sum is the point at infinity, so that nothing is a signature.
    let mut opposite = curve.n.to_owned().unwrap();
    opposite.sub_word(16).unwrap();
    let (r, u_2) = (small(77), small(1));
    let s = curve.mul(&r, &curve.inverse(&u_2));
    let infinite = curve.operand(&key, &curve.mul(&opposite, &s), &r, &s);
    assert!(!curve.verify(&infinite));
    assert_eq!(in_each_lane(infinite), [Answer::Undecided; LANES]);
}

#[test]
fn q19_an_x_above_the_order_is_compared_too() {
    let curve = Curve::new();
    let mut context = BigNumContext::new().unwrap();
    let mut found = 0;
    for r in 1..16_u32 {
        let mut x = curve.n.to_owned().unwrap();
        x.add_word(r).unwrap();
        // SEC 1, 2.3.4: a compressed point, if there is one with this x.
        let compressed = [&[2][..], &x.to_vec_padded(32).unwrap()].concat();
        let Ok(sum) = EcPoint::from_bytes(&curve.group, &compressed, &mut context) else {
            continue;
        };
        // The key for which u1 G + u2 Q is that point.
        let (u_1, u_2) = (small(5), small(9));
        let mut minus = curve.multiple(&u_1);
        minus.invert2(&curve.group, &mut context).unwrap();
        let key = curve.times(&curve.plus(&sum, &minus), &curve.inverse(&u_2));
        let operand = curve.forge(&key, &u_1, &u_2).unwrap();
        assert_eq!(operand.r, left_padded(&small(r).to_vec()));
        assert!(curve.verify(&operand));
        assert_eq!(in_each_lane(operand), [Answer::Valid; LANES]);
        found += 1;
    }
    assert!(found > 2);
    // Where r + n is not below p, r alone counts.
    let mut gap = BigNum::new().unwrap();
    gap.checked_sub(&curve.p, &curve.n).unwrap();
    let digits = |number: &BigNumRef| table::digits_of(&left_padded(&number.to_vec()));
    assert_eq!(plus_order(&digits(&gap)), digits(&gap));
    gap.sub_word(1).unwrap();
    let mut largest = curve.p.to_owned().unwrap();
    largest.sub_word(1).unwrap();
    assert_eq!(plus_order(&digits(&gap)), digits(&largest));
}

#[test]
fn q19_digests_are_cut_and_padded_as_numbers() {
    let long: Vec<u8> = (0..64).collect();
    assert_eq!(leftmost_bits(&long)[..], long[..32]);
    assert_eq!(leftmost_bits(&long[..32])[..], long[..32]);
    let short = leftmost_bits(&long[..20]);
    assert_eq!(short[..12], [0; 12]);
    assert_eq!(short[12..], long[..20]);
}

fn bytes() -> impl Strategy<Value = [u8; 32]> {
    let long_runs = (any::<[u8; 2]>(), 0..32_usize).prop_map(|([a, b], at)| {
        let mut out = [a; 32];
        out[at..].fill(b);
        out
    });
    prop_oneof![any::<[u8; 32]>(), long_runs]
}

/// In `1..n`.
fn scalar(bytes: &[u8; 32], n: &BigNumRef) -> BigNum {
    let mut context = BigNumContext::new().unwrap();
    let number = BigNum::from_slice(bytes).unwrap();
    let mut rest = BigNum::new().unwrap();
    rest.nnmod(&number, n, &mut context).unwrap();
    match rest.num_bits() {
        0 => small(1),
        _ => rest,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn q19_lanes_decide_as_the_library_does(
        numbers in prop::collection::vec((bytes(), bytes(), bytes()), LANES),
        changes in prop::collection::vec(prop::option::weighted(0.4, (0..160_usize, 0..8_u32)), LANES),
    ) {
        let curve = Curve::new();
        let operands: Vec<_> = numbers
            .iter()
            .zip(changes)
            .map(|((key, u_1, u_2), change)| {
                let key = curve.multiple(&scalar(key, &curve.n));
                let [u_1, u_2] = [u_1, u_2].map(|bytes| scalar(bytes, &curve.n));
                let mut operand = curve.forge(&key, &u_1, &u_2).unwrap_or_else(|| valid(1));
                // Digest, r or s; other keys would be no points.
                if let Some((at, bit)) = change {
                    let number = match at / 32 {
                        0 | 1 => &mut operand.digest,
                        2 | 3 => &mut operand.r,
                        _ => &mut operand.s,
                    };
                    number[at % 32] ^= 1 << bit;
                    for number in [&mut operand.r, &mut operand.s] {
                        *number = left_padded(&scalar(number, &curve.n).to_vec());
                    }
                }
                operand
            })
            .collect();
        let answers = curve.check(operands[..].try_into().unwrap());
        prop_assert!(!answers.contains(&Answer::Undecided));
    }

    #[test]
    fn signed_digits_are_the_number(number in bytes()) {
        let digits = table::digits_of(&number);
        let mut scalars = [[0; LANES]; WIDTH];
        for (wide, digit) in scalars.iter_mut().zip(digits) {
            wide[5] = digit;
        }
        for width in [GENERATOR_WIDTH, KEY_WIDTH] {
            let mut sum = BigNum::new().unwrap();
            let mut power = small(1);
            for from in (0..=256).step_by(width as usize) {
                let window = digits::window(&scalars, from, width);
                prop_assert!(window.magnitudes[5] <= 1 << (width - 1));
                prop_assert_eq!(window.zero[5] != 0, window.magnitudes[5] == 0);
                prop_assert_eq!(window.magnitudes[4], 0);
                let magnitude = small(window.magnitudes[5] as u32);
                let part = &power * &magnitude;
                sum = match window.negative[5] {
                    0 => &sum + &part,
                    _ => &sum - &part,
                };
                power = &power << width as i32;
            }
            prop_assert_eq!(sum.to_vec_padded(32).unwrap(), number.to_vec());
        }
    }
}

/// The field's operations on numbers of one lane.
struct Operations([Wide; 2]);

impl Job for Operations {
    type Output = [Wide; 5];

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Self::Output {
        let [a, b] = self.0.each_ref().map(|wide| load(lanes, wide));
        [
            a.factor(lanes).mul(lanes, &b.factor(lanes)),
            a.factor(lanes).square(lanes),
            a.add(lanes, &b),
            a.sub::<2, L>(lanes, &b),
            a.add(lanes, &a).add(lanes, &b).add(lanes, &b).fold(lanes),
        ]
        .map(|sum| {
            let digits = sum.factor(lanes).sum(lanes).0;
            digits.map(|digit| lanes.store(digit))
        })
    }
}

proptest! {
    #[test]
    fn the_field_computes_modulo_its_prime(a in bytes(), b in bytes()) {
        let curve = Curve::new();
        let mut context = BigNumContext::new().unwrap();
        let wide = |bytes: &[u8; 32]| table::digits_of(bytes).map(|digit| [digit; LANES]);
        let value = |wide: &Wide| {
            wide.iter().rev().fold(BigNum::new().unwrap(), |number, digit| {
                assert!(digit[0] <= DIGIT_MAX);
                let digit = BigNum::from_slice(&digit[0].to_be_bytes()).unwrap();
                &(&number << DIGIT_BITS as i32) + &digit
            })
        };
        let [left, right] = [&a, &b].map(|bytes| BigNum::from_slice(bytes).unwrap());
        let mut r = BigNum::new().unwrap();
        r.set_bit(260).unwrap();
        let mut by_r = BigNum::new().unwrap();
        by_r.mod_inverse(&r, &curve.p, &mut context).unwrap();
        let product = &(&left * &right) * &by_r;
        let square = &(&left * &left) * &by_r;
        let twice = &(&left + &right) + &(&left + &right);
        let offset = &curve.p + &curve.p;
        let expected = [
            product,
            square,
            &left + &right,
            &(&left - &right) + &offset,
            twice,
        ];
        let model = Operations([wide(&a), wide(&b)]).run(lanes::Scalar);
        if let Some(unit) = lanes::on_vector_unit(Operations([wide(&a), wide(&b)])) {
            prop_assert_eq!(unit, model);
        }
        for (at, (wide, expected)) in model.iter().zip(&expected).enumerate() {
            let found = value(wide);
            let mut difference = BigNum::new().unwrap();
            difference
                .nnmod(&(&found - expected), &curve.p, &mut context)
                .unwrap();
            prop_assert_eq!(difference.num_bits(), 0);
            // A product of numbers below 2^256 is below 1.07 p; what is folded is little above p.
            let bound = match at {
                0 | 1 => &(&curve.p * &small(107)) / &small(100),
                4 => &curve.p + &(&curve.p >> 20),
                _ => &curve.p * &small(4),
            };
            prop_assert!(found < bound);
        }
    }
}
