//! Eight signatures at a time, against OpenSSL.

use openssl::bn::{BigNum, BigNumContext};
use rat_engine::crypto::reference::{LaneBackend, lane_representatives};

/// A number of so many bytes: the input again and again, from another byte on for each lane.
fn number(data: &[u8], lane: usize, bytes: usize) -> Vec<u8> {
    data.iter()
        .cycle()
        .skip(lane)
        .take(bytes)
        .copied()
        .collect()
}

/// RSA's public operation in every lane: size, moduli and signatures are the input's.
pub fn rsa_lanes(data: &[u8]) {
    let Some((size, data)) = data.split_first() else {
        return;
    };
    let Some((modulus_bytes, base_bytes)) = data.split_at_checked(data.len() / 2) else {
        return;
    };
    if modulus_bytes.is_empty() {
        return;
    }
    let bytes = [256, 384, 512][usize::from(*size) % 3];
    let mut context = BigNumContext::new().unwrap();
    let exponent = BigNum::from_u32(65_537).unwrap();
    let mut pairs = Vec::new();
    let mut expected = Vec::new();
    for lane in 0..8 {
        let mut modulus = number(modulus_bytes, lane, bytes);
        modulus[0] |= 0x80;
        modulus[bytes - 1] |= 1;
        let divisor = BigNum::from_slice(&modulus).unwrap();
        let base = BigNum::from_slice(&number(base_bytes, lane, bytes)).unwrap();
        let (mut rest, mut power) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        rest.nnmod(&base, &divisor, &mut context).unwrap();
        power
            .mod_exp(&rest, &exponent, &divisor, &mut context)
            .unwrap();
        let padded = |number: &BigNum| number.to_vec_padded(bytes as i32).unwrap();
        expected.push(padded(&power));
        pairs.push((modulus, padded(&rest)));
    }
    let pairs: [_; 8] = std::array::from_fn(|lane| (&pairs[lane].0[..], &pairs[lane].1[..]));
    let model = lane_representatives(LaneBackend::Model, &pairs);
    assert_eq!(model.as_ref(), Some(&expected));
    if let Some(unit) = lane_representatives(LaneBackend::VectorUnit, &pairs) {
        assert_eq!(unit, expected);
    }
}
