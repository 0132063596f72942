//! Eight signatures at a time, against OpenSSL.

use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use rat_engine::crypto::reference::{self, LaneBackend, lane_representatives, lane_verdicts};
use rat_engine::crypto::{BatchItem, VerifyingKey, digest};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Signature;

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

/// A signature on P-256 by the textbook, with the key and the nonce given; then one byte changed.
struct Signed {
    key: VerifyingKey,
    r: Vec<u8>,
    s: Vec<u8>,
}

fn sign(data: &[u8], lane: usize, message: &[u8]) -> Option<Signed> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let mut context = BigNumContext::new().unwrap();
    let (mut order, mut x, mut y) = (
        BigNum::new().ok()?,
        BigNum::new().ok()?,
        BigNum::new().ok()?,
    );
    group.order(&mut order, &mut context).unwrap();
    let mut below_order = |from: usize| {
        let number = BigNum::from_slice(&number(data, from, 32)).unwrap();
        let mut rest = BigNum::new().unwrap();
        rest.nnmod(&number, &order, &mut context).unwrap();
        (rest.num_bits() != 0).then_some(rest)
    };
    let (secret, nonce) = (below_order(lane)?, below_order(lane + 32)?);
    let mut multiple = |number: &BigNum| {
        let mut point = EcPoint::new(&group).unwrap();
        point.mul_generator2(&group, number, &mut context).unwrap();
        point
    };
    let (public, point) = (multiple(&secret), multiple(&nonce));
    point
        .affine_coordinates(&group, &mut x, &mut y, &mut context)
        .unwrap();
    let hashed = digest(HashAlg::Sha256, message);
    let hashed = BigNum::from_slice(hashed.as_bytes()).unwrap();
    let mut inverse = BigNum::new().unwrap();
    inverse.mod_inverse(&nonce, &order, &mut context).unwrap();
    let r = &x % &order;
    let s = &(&(&hashed + &(&r * &secret)) * &inverse) % &order;
    let key = EcKey::from_public_key(&group, &public).unwrap();
    let spki = PKey::from_ec_key(key).unwrap().public_key_to_der().unwrap();
    Some(Signed {
        key: VerifyingKey::from_spki_der(&spki).unwrap(),
        r: r.to_vec(),
        s: s.to_vec(),
    })
}

/// ECDSA on P-256 in every lane: keys, nonces and what is changed are the input's.
pub fn p256_lanes(data: &[u8]) {
    let Some(([change, at], data)) = data.split_first_chunk() else {
        return;
    };
    if data.is_empty() {
        return;
    }
    let hash = HashAlg::Sha256;
    let mut signed: Vec<_> = (0..8).filter_map(|lane| sign(data, lane, data)).collect();
    for (lane, signed) in signed.iter_mut().enumerate() {
        let at = usize::from(*at);
        // Every other lane stays valid.
        if lane % 2 == 0
            && let Some(byte) = signed.s.get_mut(at % 32)
        {
            *byte ^= change;
        }
    }
    let items = signed.iter().map(|signed| BatchItem {
        key: &signed.key,
        signature: Signature::Ecdsa {
            hash,
            r: &signed.r,
            s: &signed.s,
        },
        message: data,
        allow_sha1: false,
    });
    let items: Vec<_> = items.collect();
    for backend in [LaneBackend::Model, LaneBackend::VectorUnit] {
        for (item, holds) in items.iter().zip(lane_verdicts(backend, &items)) {
            let expected = reference::verify(item.key, &item.signature, item.message, false);
            assert!(holds.is_none_or(|holds| holds == expected.is_ok()));
        }
    }
}
