//! Signatures that are verified together: each piece of evidence is judged as it is alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use rat_engine::crypto::{
    BatchItem, LANES, SignatureError, Verified, VerifyingKey, digest, verify_batch,
};
use rat_engine::hash::HashAlg;
use rat_engine::quote::{Quote, QuoteError};
use rat_engine::shard::{Assignment, Task};
use rat_engine::tpm::{Public, Signature};
use rat_tests::assignment::{answer, assignment, challenge, codes};
use rat_tests::evidence::{Machine, Submission};
use rat_tests::software_tpm::{Scheme, SoftwareAk};

/// More than fill all lanes, and not a multiple of them.
const MACHINES: usize = LANES + 3;

/// Machines with keys of all kinds that TPMs have.
fn machines() -> Vec<Machine> {
    let schemes = [
        (Scheme::Ecdsa(256), HashAlg::Sha256),
        (Scheme::RsaSsa(2048), HashAlg::Sha256),
        (Scheme::RsaPss(2048), HashAlg::Sha256),
        (Scheme::RsaSsa(3072), HashAlg::Sha384),
        (Scheme::Ecdsa(384), HashAlg::Sha384),
        (Scheme::Ecdsa(256), HashAlg::Sha1),
        (Scheme::RsaSsa(2048), HashAlg::Sha1),
    ];
    let of = |(scheme, hash)| Machine::valid().with(|m| m.ak = SoftwareAk::new(scheme, hash));
    let few = schemes.into_iter().map(of);
    let many = (few.len()..MACHINES).map(|_| Machine::valid());
    few.chain(many).collect()
}

/// The answer of a machine, and what the group makes of it.
fn answered(machine: &Machine) -> Assignment {
    let challenge = challenge(machine, Some(0));
    let submission = answer(machine, &challenge, 0);
    assignment(machine, challenge, submission)
}

fn flip(bytes: &mut [u8], back: usize) {
    let at = bytes.len() - back;
    bytes[at] ^= 1;
}

/// Each machine's answer, whole and changed in every way that concerns its signature.
fn cases() -> Vec<Assignment> {
    let machines = machines();
    let mut cases = Vec::new();
    for (nth, machine) in machines.iter().enumerate() {
        let valid = answered(machine);
        let other = answered(&machines[(nth + 1) % machines.len()]);
        let with = |change: &dyn Fn(&mut Assignment)| {
            let mut changed = valid.clone();
            change(&mut changed);
            changed
        };
        cases.extend([
            valid.clone(),
            with(&|it| it.rules.allow_sha1 = true),
            with(&|it| flip(&mut it.submission.signature, 1)),
            with(&|it| flip(&mut it.submission.quote, 1)),
            with(&|it| it.submission.signature.truncate(7)),
            with(&|it| it.submission.quote.truncate(20)),
            with(&|it| it.submission.signature = other.submission.signature.clone()),
            with(&|it| it.key = other.key.clone()),
            with(&|it| it.challenge.nonce.0[0] ^= 1),
        ]);
    }
    cases
}

#[test]
fn q17_evidence_is_judged_in_a_batch_as_it_is_alone() {
    let cases = cases();
    let alone: Vec<_> = cases
        .iter()
        .cloned()
        .map(rat_tests::assignment::run)
        .collect();
    let trusted = alone
        .iter()
        .filter(|judged| codes(judged).is_empty())
        .count();
    assert!(trusted > MACHINES, "{trusted} of {}", cases.len());
    for start in 0..cases.len() {
        // In another order each time, so that every case meets others in its lanes.
        let order = (0..cases.len()).map(|nth| (start + nth * 7) % cases.len());
        let order: Vec<_> = order.collect();
        let tasks = order.iter().map(|nth| Task::new(cases[*nth].clone()));
        let mut tasks: Vec<_> = tasks.collect();
        tasks.sort_by_cached_key(|task| task.signature_kind());
        let order: Vec<_> = {
            let mut sorted = order;
            sorted.sort_by_cached_key(|nth| Task::new(cases[*nth].clone()).signature_kind());
            sorted
        };
        Task::verify_signatures(&mut tasks);
        for (task, nth) in tasks.into_iter().zip(order) {
            let judged = task.finish();
            assert_eq!(
                format!("{judged:?}"),
                format!("{:?}", alone[nth]),
                "case {nth}"
            );
        }
    }
}

/// A quote with its key.
struct Signed {
    key: VerifyingKey,
    submission: Submission,
}

impl Signed {
    fn by(ak: SoftwareAk) -> Self {
        let machine = Machine::valid().with(|m| m.ak = ak);
        let public = machine.ak.public();
        Self {
            key: VerifyingKey::from_tpm(&Public::parse(&public).unwrap()).unwrap(),
            submission: machine.attest(b"nonce"),
        }
    }

    fn signature(&self) -> Signature<'_> {
        Signature::parse(&self.submission.signature).unwrap()
    }

    fn verified(&self, allow_sha1: bool) -> Verified {
        let item = BatchItem {
            key: &self.key,
            signature: self.signature(),
            message: &self.submission.quote,
            allow_sha1,
        };
        let mut verdicts = Vec::new();
        verify_batch(&[item; LANES], &mut verdicts);
        assert_eq!(verdicts.len(), LANES);
        verdicts.pop().unwrap().unwrap()
    }

    fn bind(&self, verified: &Verified, allow_sha1: bool) -> Result<(), QuoteError> {
        let quote = Quote::parse(&self.submission.quote)?;
        let (key, signature) = (&self.key, self.signature());
        quote
            .authenticate_verified(key, &signature, allow_sha1, b"nonce", verified)
            .map(|_| ())
    }
}

#[track_caller]
fn is_invalid(bound: Result<(), QuoteError>) {
    let error = bound.unwrap_err();
    assert!(
        matches!(error, QuoteError::Signature(SignatureError::Invalid(_))),
        "{error:?}"
    );
}

#[test]
fn q17_what_was_proved_of_one_quote_is_not_believed_of_another() {
    let signed = Signed::by(SoftwareAk::p256());
    let verified = signed.verified(false);
    assert_eq!(signed.bind(&verified, false), Ok(()));

    // Another quote by the same key, and the same quote under another key: not proved, so verified.
    let mut other = Signed::by(SoftwareAk::p256());
    let proved = digest(HashAlg::Sha256, &signed.submission.quote);
    assert!(verified.is_about(&signed.key, &proved));
    assert!(!verified.is_about(&other.key, &proved));
    assert_eq!(
        other.bind(&verified, false),
        Ok(()),
        "it is valid by itself"
    );
    flip(&mut other.submission.signature, 1);
    is_invalid(other.bind(&verified, false));
    let stolen = Signed {
        key: other.key.clone(),
        submission: signed.submission.clone(),
    };
    is_invalid(stolen.bind(&verified, false));

    // The nonce counts in any case.
    let quote = Quote::parse(&signed.submission.quote).unwrap();
    let bound =
        quote.authenticate_verified(&signed.key, &signed.signature(), false, b"nonc3", &verified);
    assert!(matches!(bound, Err(QuoteError::NonceMismatch { .. })));
}

#[test]
fn q09_what_was_proved_where_sha1_is_accepted_is_refused_where_it_is_not() {
    let signed = Signed::by(SoftwareAk::new(Scheme::Ecdsa(256), HashAlg::Sha1));
    let verified = signed.verified(true);
    assert_eq!(signed.bind(&verified, true), Ok(()));
    assert!(matches!(
        signed.bind(&verified, false),
        Err(QuoteError::Signature(_))
    ));
}
