//! Batches: every item's verdict is that of the library, and a unit that errs is left.

use std::sync::OnceLock;

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer};
use proptest::prelude::*;

use super::*;
use crate::crypto::key::KeyMaterial;
use crate::crypto::p256_mb::{self, KNOWN_CHANGED, KNOWN_VALID};
use crate::crypto::reference;
use crate::crypto::rsa_mb::known::answers;
use crate::crypto::rsa_mb::{Operand, Recover, Representative, Size, recover_in_model};
use crate::crypto::signature::{Fitting, SignatureFault};
use crate::hash::HashAlg;

type Pair = (PKey<Private>, VerifyingKey);

/// Two RSA keys of each size, one with another exponent, one on P-256 and one on P-384, each made when
/// it is first used.
fn private(key: usize) -> &'static Pair {
    static PAIRS: [OnceLock<Pair>; 9] = [const { OnceLock::new() }; 9];
    PAIRS[key].get_or_init(|| {
        let ec = |nid| {
            let group = EcGroup::from_curve_name(nid).unwrap();
            PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
        };
        let private = match key {
            0 | 1 => PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
            2 | 3 => PKey::from_rsa(Rsa::generate(3072).unwrap()).unwrap(),
            4 | 5 => PKey::from_rsa(Rsa::generate(4096).unwrap()).unwrap(),
            6 => {
                let exponent = BigNum::from_u32(65_539).unwrap();
                PKey::from_rsa(Rsa::generate_with_e(2048, &exponent).unwrap()).unwrap()
            }
            7 => ec(Nid::X9_62_PRIME256V1),
            _ => ec(Nid::SECP384R1),
        };
        let der = private.public_key_to_der().unwrap();
        (private, VerifyingKey::from_spki_der(&der).unwrap())
    })
}

#[derive(Debug, Clone)]
struct Case {
    key: usize,
    hash: HashAlg,
    /// `Some(true)` for PSS with the largest salt.
    pss: Option<bool>,
    message: Vec<u8>,
    /// A bit to change in the signature.
    change: Option<prop::sample::Index>,
    other_message: bool,
    allow_sha1: bool,
}

#[derive(Debug)]
struct Made {
    case: Case,
    numbers: [Vec<u8>; 2],
}

impl Case {
    fn make(self) -> Made {
        let (private, _) = private(self.key);
        let md = MessageDigest::from_name(self.hash.name()).unwrap();
        let mut signer = Signer::new(md, private).unwrap();
        if let (Some(largest), Ok(_)) = (self.pss, private.rsa()) {
            let salt = match largest {
                true => private.size() - self.hash.size() - 2,
                false => self.hash.size(),
            };
            let salt = RsaPssSaltlen::custom(i32::try_from(salt).unwrap());
            signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
            signer.set_rsa_pss_saltlen(salt).unwrap();
        }
        let sig = signer.sign_oneshot_to_vec(&self.message).unwrap();
        let mut numbers = match EcdsaSig::from_der(&sig) {
            Ok(sig) if private.ec_key().is_ok() => [sig.r().to_vec(), sig.s().to_vec()],
            _ => [sig, Vec::new()],
        };
        if let Some(change) = self.change {
            let bit = change.index(8 * numbers[0].len());
            numbers[0][bit / 8] ^= 1 << (bit % 8);
        }
        let mut case = self;
        if case.other_message {
            case.message.push(0);
        }
        Made { case, numbers }
    }
}

impl Made {
    fn item(&self) -> BatchItem<'_> {
        let hash = self.case.hash;
        let [sig, s] = &self.numbers;
        let key = &private(self.case.key).1;
        let is_rsa = matches!(key.material(), KeyMaterial::Rsa { .. });
        BatchItem {
            key,
            signature: match (is_rsa, self.case.pss) {
                (false, _) => Signature::Ecdsa { hash, r: sig, s },
                (true, Some(_)) => Signature::RsaPss { hash, sig },
                (true, None) => Signature::RsaSsa { hash, sig },
            },
            message: &self.case.message,
            allow_sha1: self.case.allow_sha1,
        }
    }
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop_oneof![4 => 0..9_usize, 5 => Just(0), 5 => Just(7), 2 => 1..3_usize],
        prop::sample::select(HashAlg::ALL.to_vec()),
        any::<Option<bool>>(),
        prop::collection::vec(any::<u8>(), 0..200),
        prop::option::weighted(0.3, any::<prop::sample::Index>()),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(key, hash, pss, message, change, other_message, allow_sha1)| Case {
                key,
                hash,
                pss,
                message,
                change,
                other_message,
                allow_sha1,
            },
        )
}

fn run(
    backend: Backend,
    trust: &Trust,
    items: &[BatchItem<'_>],
) -> Vec<Result<Verified, SignatureError>> {
    let mut verdicts = vec![Err(SignatureError::Library)];
    let mut batch = Batch {
        backend,
        trust,
        verdicts: &mut verdicts,
    };
    batch.run(items);
    verdicts
}

fn check(items: &[BatchItem<'_>], verdicts: &[Result<Verified, SignatureError>]) {
    assert_eq!(items.len(), verdicts.len());
    for (item, verdict) in items.iter().zip(verdicts) {
        let expected = reference::verify(item.key, &item.signature, item.message, item.allow_sha1);
        match verdict {
            Ok(verified) => {
                assert_eq!(expected, Ok(()));
                let digest = digest(item.signature.hash(), item.message);
                assert!(verified.is_about(item.key, &digest));
            }
            Err(error) => assert_eq!(expected, Err(*error)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn q17_a_batch_says_what_the_library_says_of_each(
        cases in prop::collection::vec(case(), 0..24),
    ) {
        let made: Vec<_> = cases.into_iter().map(Case::make).collect();
        let items: Vec<_> = made.iter().map(Made::item).collect();
        for backend in [Backend::VECTOR_UNIT, Backend::MODEL] {
            let trust = Trust::new();
            check(&items, &run(backend, &trust, &items));
            prop_assert!(trust.holds());
            // Without a library behind them.
            for (item, holds) in items.iter().zip(raw_verdicts(&backend, &items)) {
                let expected =
                    reference::verify(item.key, &item.signature, item.message, item.allow_sha1);
                if let Some(holds) = holds {
                    prop_assert_eq!(holds, expected.is_ok());
                }
            }
        }
    }
}

fn valid(key: usize, count: usize) -> Vec<Made> {
    let case = |nth: usize| Case {
        key,
        hash: HashAlg::Sha256,
        pss: None,
        message: vec![nth as u8; 3],
        change: None,
        other_message: false,
        allow_sha1: false,
    };
    (0..count).map(|nth| case(nth).make()).collect()
}

#[test]
fn q17_keys_with_another_exponent_and_other_curves_are_left_to_libraries() {
    let cases = [
        (0, true),
        (2, true),
        (4, true),
        (6, false),
        (7, true),
        (8, false),
    ];
    for (key, taken) in cases {
        let made = valid(key, 3);
        let items: Vec<_> = made.iter().map(Made::item).collect();
        let expected = vec![taken.then_some(true); 3];
        assert_eq!(raw_verdicts(&Backend::MODEL, &items), expected);
        check(&items, &run(Backend::MODEL, &Trust::new(), &items));
    }
}

#[test]
fn q17_every_lane_refuses_what_is_changed_in_it() {
    let made = valid(0, LANES);
    let items: Vec<_> = made.iter().map(Made::item).collect();
    for lane in 0..LANES {
        let mut changed = items.clone();
        // The signature of a neighbour.
        changed[lane].signature = items[(lane + 1) % LANES].signature;
        let mut expected = vec![Some(true); LANES];
        expected[lane] = Some(false);
        for backend in [Backend::VECTOR_UNIT, Backend::MODEL] {
            let verdicts = raw_verdicts(&backend, &changed);
            assert!(verdicts == expected || verdicts.iter().all(Option::is_none));
        }
        assert_eq!(raw_verdicts(&Backend::MODEL, &changed), expected);
    }
}

#[test]
fn q17_a_verdict_is_about_its_own_item() {
    let made = valid(0, 2);
    let other = valid(1, 1);
    let items: Vec<_> = made.iter().chain(&other).map(Made::item).collect();
    let verdicts = run(Backend::MODEL, &Trust::new(), &items);
    for (nth, verdict) in verdicts.iter().enumerate() {
        for (mth, item) in items.iter().enumerate() {
            let digest = digest(HashAlg::Sha256, item.message);
            let is_about = verdict.as_ref().unwrap().is_about(item.key, &digest);
            assert_eq!(is_about, nth == mth);
        }
    }
}

/// A unit that changes one bit in a lane.
fn errs_in<const LANE: usize>(
    size: Size,
    operands: &[Operand<'_>; LANES],
    out: &mut [Representative; LANES],
) -> Option<()> {
    recover_in_model(size, operands, out)?;
    out[LANE][100] ^= 4;
    Some(())
}

/// A unit that gives the representative of a valid signature for any other, too.
fn accepts_all(
    size: Size,
    operands: &[Operand<'_>; LANES],
    out: &mut [Representative; LANES],
) -> Option<()> {
    let mut same = *operands;
    for operand in &mut same {
        *operand = operands[LANES - 1];
    }
    recover_in_model(size, &same, out)
}

fn must_not_run(_: Size, _: &[Operand<'_>; LANES], _: &mut [Representative; LANES]) -> Option<()> {
    panic!("a unit that is not trusted was used");
}

fn is_absent(_: Size, _: &[Operand<'_>; LANES], _: &mut [Representative; LANES]) -> Option<()> {
    None
}

fn p256_errs_in<const LANE: usize>(
    operands: &[p256_mb::Operand; LANES],
) -> Option<[Answer; LANES]> {
    let mut answers = p256_mb::verify_in_model(operands)?;
    answers[LANE] = match answers[LANE] {
        Answer::Valid => Answer::Invalid,
        other => other,
    };
    Some(answers)
}

fn p256_accepts_all(_: &[p256_mb::Operand; LANES]) -> Option<[Answer; LANES]> {
    Some([Answer::Valid; LANES])
}

fn p256_must_not_run(_: &[p256_mb::Operand; LANES]) -> Option<[Answer; LANES]> {
    panic!("a unit that is not trusted was used");
}

fn p256_is_absent(_: &[p256_mb::Operand; LANES]) -> Option<[Answer; LANES]> {
    None
}

/// A unit that decides nothing.
fn p256_undecided(_: &[p256_mb::Operand; LANES]) -> Option<[Answer; LANES]> {
    let mut answers = lane::KNOWN_ANSWERS;
    answers[..4].fill(Answer::Undecided);
    Some(answers)
}

const fn errs(recover: Recover, verify_p256: p256_mb::Verifier) -> Backend {
    Backend {
        recover,
        verify_p256,
    }
}

const MUST_NOT_RUN: Backend = errs(must_not_run, p256_must_not_run);
const ABSENT: Backend = errs(is_absent, p256_is_absent);

#[test]
fn q19_an_undecided_lane_is_left_to_the_library_and_ends_no_trust() {
    let mut made = valid(7, 4);
    made[2].numbers[1][5] ^= 1;
    let items: Vec<_> = made.iter().map(Made::item).collect();
    let trust = Trust::new();
    check(
        &items,
        &run(errs(is_absent, p256_undecided), &trust, &items),
    );
    assert!(trust.holds());
}

#[test]
fn q17_a_wrong_answer_ends_the_trust_and_libraries_take_over() {
    for (key, count, backend) in [
        // A valid signature is refused.
        (0, LANES, errs(errs_in::<0>, p256_errs_in::<0>)),
        (2, LANES, errs(errs_in::<7>, p256_errs_in::<7>)),
        (4, 3, errs(errs_in::<1>, p256_errs_in::<1>)),
        (7, LANES, errs(errs_in::<3>, p256_errs_in::<3>)),
        // The known valid one is refused, or the known changed one accepted.
        (0, 2, errs(errs_in::<7>, p256_errs_in::<7>)),
        (0, 2, errs(accepts_all, p256_accepts_all)),
        (7, 2, errs(errs_in::<7>, p256_errs_in::<7>)),
        (7, 2, errs(accepts_all, p256_accepts_all)),
    ] {
        let made = valid(key, count);
        let items: Vec<_> = made.iter().map(Made::item).collect();
        let trust = Trust::new();
        check(&items, &run(backend, &trust, &items));
        assert!(!trust.holds());
        check(&items, &run(MUST_NOT_RUN, &trust, &items));
    }
}

#[test]
fn q17_a_changed_signature_ends_no_trust() {
    let mut made = valid(0, LANES);
    made[2].numbers[0][17] ^= 1;
    let items: Vec<_> = made.iter().map(Made::item).collect();
    let trust = Trust::new();
    let verdicts = run(Backend::MODEL, &trust, &items);
    check(&items, &verdicts);
    let mismatch = SignatureError::Invalid(SignatureFault::Mismatch);
    assert_eq!(verdicts[2], Err(mismatch));
    assert!(trust.holds());
}

#[test]
fn a_signature_alone_or_a_processor_without_the_unit_is_left_to_libraries() {
    let made = valid(0, LANES);
    let items: Vec<_> = made.iter().map(Made::item).collect();
    check(&items[..1], &run(MUST_NOT_RUN, &Trust::new(), &items[..1]));
    check(&[], &run(MUST_NOT_RUN, &Trust::new(), &[]));
    let trust = Trust::new();
    check(&items, &run(ABSENT, &trust, &items));
    assert!(trust.holds());
}

#[test]
fn known_answers_are_what_the_library_says_of_them() {
    for size in Size::ALL {
        let [valid, changed] = answers(size).unwrap();
        for (known, is_valid) in [(valid, true), (changed, false)] {
            let operand = known.operand();
            let material = KeyMaterial::Rsa {
                modulus: operand.modulus.into(),
                exponent: 65_537,
            };
            let (hash, sig) = (known.digest.alg(), operand.signature);
            let signature = Signature::RsaSsa { hash, sig };
            let fitting = Fitting::new(&material, &signature, false).unwrap();
            let verdict = reference::verify_fitting(&material, &fitting, b"a known answer");
            assert_eq!(verdict.is_ok(), is_valid);
        }
    }
    for (operand, is_valid) in [(KNOWN_VALID, true), (KNOWN_CHANGED, false)] {
        let material = KeyMaterial::Ecc {
            curve: crate::crypto::Curve::P256,
            x: operand.x.into(),
            y: operand.y.into(),
        };
        let hash = HashAlg::Sha256;
        let (r, s) = (&operand.r[..], &operand.s[..]);
        let fitting = Fitting::new(&material, &Signature::Ecdsa { hash, r, s }, false).unwrap();
        let verdict = reference::verify_fitting(&material, &fitting, b"a known answer");
        assert_eq!(verdict.is_ok(), is_valid);
    }
}
