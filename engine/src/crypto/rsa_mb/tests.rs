//! The numbers that come out of the lanes, against OpenSSL's.

use proptest::prelude::*;

use super::*;

/// The unit, where there is one, and its model.
fn backends() -> Vec<Recover> {
    match lanes::has_vector_unit() {
        true => vec![recover, recover_in_model],
        false => vec![recover_in_model],
    }
}

fn power(modulus: &[u8], base: &[u8]) -> Vec<u8> {
    let [base, modulus] = [base, modulus].map(|bytes| BigNum::from_slice(bytes).unwrap());
    let exponent = BigNum::from_u32(EXPONENT).unwrap();
    let mut power = BigNum::new().unwrap();
    let mut context = BigNumContext::new().unwrap();
    power
        .mod_exp(&base, &exponent, &modulus, &mut context)
        .unwrap();
    power.to_vec_padded(modulus.num_bytes()).unwrap()
}

/// Runs eight pairs in all backends, and compares each lane.
fn check(pairs: &[(Vec<u8>, Vec<u8>)]) {
    let pairs: Vec<_> = pairs.iter().map(|(n, s)| (&n[..], &s[..])).collect();
    let pairs: &[_; LANES] = pairs[..].try_into().unwrap();
    let expected: Vec<_> = pairs.iter().map(|(n, s)| power(n, s)).collect();
    for recover in backends() {
        assert_eq!(representatives(recover, pairs), Some(expected.clone()));
    }
}

/// The number `2^(8 * bytes) - number`.
fn below_power(size: Size, number: u32) -> Vec<u8> {
    let mut power = BigNum::new().unwrap();
    let bits = i32::try_from(8 * size.bytes()).unwrap();
    power.set_bit(bits).unwrap();
    power.sub_word(number).unwrap();
    power.to_vec()
}

fn with_ends(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[0] |= 0x80;
    *bytes.last_mut().unwrap() |= 1;
    bytes
}

/// A number below the modulus.
fn reduced(modulus: &[u8], bytes: &[u8]) -> Vec<u8> {
    let [number, divisor] = [bytes, modulus].map(|bytes| BigNum::from_slice(bytes).unwrap());
    let mut rest = BigNum::new().unwrap();
    let mut context = BigNumContext::new().unwrap();
    rest.nnmod(&number, &divisor, &mut context).unwrap();
    rest.to_vec_padded(divisor.num_bytes()).unwrap()
}

#[test]
fn q17_extreme_moduli_and_signatures_are_fully_reduced() {
    for size in Size::ALL {
        let bytes = size.bytes();
        let mut smallest = vec![0; bytes];
        smallest[0] = 0x80;
        smallest[bytes - 1] = 1;
        // Digits of ones beside digits of zeros.
        let mut striped = vec![0; bytes];
        for (at, byte) in striped.iter_mut().enumerate() {
            *byte = if at / 13 % 2 == 0 { 0xff } else { 0 };
        }
        let moduli = [
            below_power(size, 1),
            below_power(size, 3),
            below_power(size, u32::MAX),
            smallest,
            with_ends(striped.clone()),
            with_ends(striped.iter().map(|byte| !byte).collect()),
            with_ends(vec![0x55; bytes]),
            with_ends((0..bytes).map(|at| (at % 251) as u8).collect()),
        ];
        for modulus in &moduli {
            let mut one = vec![0; bytes];
            one[bytes - 1] = 1;
            let mut last = modulus.clone();
            *last.last_mut().unwrap() -= 1;
            let half = reduced(modulus, &[&[0x40][..], &vec![0; bytes - 1]].concat());
            let bases = [
                vec![0; bytes],
                one,
                last,
                half,
                reduced(modulus, &vec![0xff; bytes]),
                reduced(modulus, &striped),
                reduced(modulus, &below_power(size, 2)),
                reduced(modulus, &vec![0xaa; bytes]),
            ];
            let pairs: Vec<_> = bases.map(|base| (modulus.clone(), base)).into();
            check(&pairs);
        }
    }
}

#[test]
fn q17_what_the_lanes_do_not_take_never_reaches_them() {
    let modulus = below_power(Size::Bits2048, 1);
    let base = [&[0; 255][..], &[2]].concat();
    let good = (&modulus[..], &base[..]);
    let [mut even, mut short] = [modulus.clone(), modulus.clone()];
    even[255] = 0xfe;
    short[0] = 0x7f;
    let longer = below_power(Size::Bits3072, 1);
    for bad in [
        (&even[..], &base[..]),
        (&short[..], &base[..]),
        (&modulus[..], &modulus[..]),
        (&modulus[..], &base[1..]),
        (&modulus[1..], &base[1..]),
        (&longer[..], &base[..]),
        (&[], &[]),
    ] {
        for recover in backends() {
            assert!(representatives(recover, &[good; LANES]).is_some());
            for lane in 0..LANES {
                let mut pairs = [good; LANES];
                pairs[lane] = bad;
                assert_eq!(representatives(recover, &pairs), None);
            }
        }
    }
}

fn pair(size: Size) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let bytes = || prop::collection::vec(any::<u8>(), size.bytes());
    (bytes(), bytes()).prop_map(|(modulus, base)| {
        let modulus = with_ends(modulus);
        let base = reduced(&modulus, &base);
        (modulus, base)
    })
}

fn eight() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    prop::sample::select(Size::ALL.to_vec())
        .prop_flat_map(|size| prop::collection::vec(pair(size), LANES))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn q17_lanes_compute_what_the_library_does(pairs in eight()) {
        check(&pairs);
    }

    #[test]
    fn q17_a_lane_depends_on_that_lane_alone(
        pairs in eight(),
        lane in 0..LANES,
        seed in any::<u8>(),
    ) {
        let mut changed = pairs.clone();
        let (modulus, base) = &mut changed[lane];
        *modulus = with_ends(modulus.iter().map(|byte| byte ^ seed).collect());
        *base = reduced(modulus, &vec![seed; base.len()]);
        for recover in backends() {
            let run = |pairs: &[(Vec<u8>, Vec<u8>)]| {
                let pairs: Vec<_> = pairs.iter().map(|(n, s)| (&n[..], &s[..])).collect();
                representatives(recover, pairs[..].try_into().unwrap()).unwrap()
            };
            let (mut before, mut after) = (run(&pairs), run(&changed));
            before.remove(lane);
            prop_assert_eq!(after.remove(lane), power(&changed[lane].0, &changed[lane].1));
            prop_assert_eq!(before, after);
        }
    }
}

#[test]
fn digits_and_bytes_are_the_same_number() {
    for size in Size::ALL {
        let number: Vec<_> = (0..size.bytes()).map(|at| (at * 7 + 1) as u8).collect();
        let mut out = vec![[0; LANES]; WIDTH * size.blocks()];
        digits::read(&number, &mut out, 3);
        assert!(out.iter().all(|numbers| numbers[3] <= lanes::DIGIT_MAX));
        assert!(out.iter().all(|numbers| numbers[2] == 0 && numbers[4] == 0));
        let mut value = BigNum::new().unwrap();
        for numbers in out.iter().rev() {
            let mut shifted = BigNum::new().unwrap();
            shifted.lshift(&value, DIGIT_BITS as i32).unwrap();
            let digit = BigNum::from_slice(&numbers[3].to_be_bytes()).unwrap();
            value.checked_add(&shifted, &digit).unwrap();
        }
        assert_eq!(value.to_vec_padded(size.bytes() as i32).unwrap(), number);
        let mut back = vec![0; size.bytes()];
        digits::write(&out, 3, &mut back);
        assert_eq!(back, number);
    }
}
