//! The vector unit and its model give the same numbers.

use proptest::prelude::*;

use super::*;

/// Every operation once.
struct Each(Numbers, Numbers, Numbers);

impl Job for Each {
    type Output = [Numbers; 17];

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Self::Output {
        let [a, b, c] = [self.0, self.1, self.2].map(|numbers| lanes.load(&numbers));
        [
            lanes.splat(self.0[0]),
            lanes.add(a, b),
            lanes.sub(a, b),
            lanes.and(a, b),
            lanes.add_low(a, b, c),
            lanes.add_high(a, b, c),
            lanes.carry(a),
            lanes.signed_carry(a),
            lanes.shift_up::<16>(a),
            lanes.signed_shift_down::<48>(a),
            lanes.select(a, b, c),
            lanes.xor(a, b),
            lanes.splat_halves(self.1[0] as u32),
            lanes.add_halves(a, b),
            lanes.rotate_halves::<7>(a),
            lanes.shift_halves_down::<3>(a),
            lanes.load_halves(&lanes.store_halves(a)),
        ]
        .map(|vector| lanes.store(vector))
    }
}

/// Numbers with long runs of equal bits among them, where carries are.
fn numbers() -> impl Strategy<Value = Numbers> {
    let number = prop_oneof![
        any::<u64>(),
        (0_u32..64).prop_map(|bit| 1 << bit),
        (0_u32..64).prop_map(|bit| u64::MAX >> bit),
        (0_u32..64).prop_map(|bit| u64::MAX << bit),
        Just(0),
    ];
    prop::array::uniform8(number)
}

proptest! {
    #[test]
    fn the_vector_unit_computes_what_the_model_does(
        a in numbers(),
        b in numbers(),
        c in numbers(),
    ) {
        let model = Each(a, b, c).run(Scalar);
        if let Some(unit) = on_vector_unit(Each(a, b, c)) {
            prop_assert_eq!(unit, model);
        }
        for lane in 0..LANES {
            let (a, b, c) = (a[lane], b[lane], c[lane]);
            let product = u128::from(b % (1 << 52)) * u128::from(c % (1 << 52));
            let [low, high] = [product % (1 << 52), product >> 52].map(|half| half as u64);
            prop_assert_eq!(model[4][lane], a.wrapping_add(low));
            prop_assert_eq!(model[5][lane], a.wrapping_add(high));
            prop_assert_eq!(model[7][lane] as i64, (a as i64).div_euclid(1 << 52));
            let halves = |number: u64| [number as u32, (number >> 32) as u32];
            let [low, high] = halves(a);
            let [other_low, other_high] = halves(b);
            let sums = [low.wrapping_add(other_low), high.wrapping_add(other_high)];
            prop_assert_eq!(halves(model[13][lane]), sums);
            let rotated = [low.rotate_left(7), high.rotate_left(7)];
            prop_assert_eq!(halves(model[14][lane]), rotated);
            prop_assert_eq!(halves(model[15][lane]), [low >> 3, high >> 3]);
            prop_assert_eq!(model[16][lane], a);
        }
    }
}
