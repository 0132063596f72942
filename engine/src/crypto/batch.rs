//! Many signatures at once: RSA and P-256 on the vector unit eight at a time, the rest one by one.

mod lane;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::crypto::digest;
use crate::crypto::key::VerifyingKey;
use crate::crypto::lanes::{Answer, LANES, has_vector_unit};
use crate::crypto::signature::SignatureError;
use crate::fault::fault_point;
use crate::hash::Digest;
use crate::tpm::Signature;
pub(crate) use lane::Backend;
use lane::{Kind, Lane, Lanes, in_lanes};

/// Fewer signatures than this cost less in the library: a vector takes as long as one there.
const LANES_MIN: usize = 2;

/// A signature to verify.
#[derive(Debug, Clone, Copy)]
pub struct BatchItem<'a> {
    /// Who is said to have signed.
    pub key: &'a VerifyingKey,
    /// The signature.
    pub signature: Signature<'a>,
    /// What is said to have been signed.
    pub message: &'a [u8],
    /// Admits signatures over SHA-1.
    pub allow_sha1: bool,
}

impl BatchItem<'_> {
    fn verify_alone(&self) -> Result<Verified, SignatureError> {
        let Self { key, message, .. } = *self;
        key.verify(&self.signature, message, self.allow_sha1)?;
        Ok(Verified {
            key: key.clone(),
            digest: digest(self.signature.hash(), message),
        })
    }
}

/// That one key signed one message. It says which: a verdict that went to the wrong place in a batch
/// proves nothing there (Q17).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    key: VerifyingKey,
    digest: Digest,
}

impl Verified {
    /// Whether this is about that key and a message with that digest, by the signature's hash.
    pub fn is_about(&self, key: &VerifyingKey, digest: &Digest) -> bool {
        self.key == *key && self.digest == *digest
    }
}

/// What becomes of signatures that could be verified on the vector unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorUnit {
    /// This processor has none that we use: AVX-512 with IFMA.
    Absent,
    /// They are verified there.
    InUse,
    /// It gave a wrong answer since the process started. Libraries verify everything; an operator
    /// has to be told, for the processor or this program is broken.
    Distrusted,
}

/// Set for good by the first wrong answer.
struct Trust(AtomicBool);

impl Trust {
    const fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    fn holds(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

static TRUST: Trust = Trust::new();

/// Whether signatures are verified on the vector unit.
pub fn vector_unit() -> VectorUnit {
    match (has_vector_unit(), TRUST.holds()) {
        (_, false) => VectorUnit::Distrusted,
        (true, true) => VectorUnit::InUse,
        (false, true) => VectorUnit::Absent,
    }
}

/// Verifies each item as [`VerifyingKey::verify`] does; `verdicts` becomes the list of results, in
/// the order of the items.
///
/// # Security
/// A signature is refused only when a library refuses it too: what the vector unit rejects is
/// verified again. Lanes to spare verify known signatures. When either shows a wrong answer, the
/// batch is done again by libraries, and the unit is not used any more: see [`vector_unit`].
///
/// # Cost
/// For eight valid RSA signatures of one size with the exponent 65,537 about that of one, for eight on
/// P-256 about that of two; the first for an RSA key also divides. Nothing is allocated for them when
/// `verdicts` has the capacity.
pub fn verify_batch(items: &[BatchItem<'_>], verdicts: &mut Vec<Result<Verified, SignatureError>>) {
    Batch {
        backend: Backend::VECTOR_UNIT,
        trust: &TRUST,
        verdicts,
    }
    .run(items);
}

/// Where a batch is worked off.
struct Batch<'b> {
    backend: Backend,
    trust: &'b Trust,
    verdicts: &'b mut Vec<Result<Verified, SignatureError>>,
}

impl Batch<'_> {
    fn run(&mut self, items: &[BatchItem<'_>]) {
        self.verdicts.clear();
        // Nothing is known about any of them yet.
        let unknown = || Err(SignatureError::Library);
        self.verdicts.resize_with(items.len(), unknown);
        let mut queues = Kind::ALL.map(Queue::new);
        for (index, item) in items.iter().enumerate() {
            let Some(lane) = Lane::new(index, item) else {
                self.put(index, item.verify_alone());
                continue;
            };
            for queue in queues.iter_mut().filter(|queue| queue.kind == lane.kind()) {
                queue.push(lane);
                if queue.is_full() {
                    self.work_off(queue);
                }
            }
        }
        for queue in &mut queues {
            self.work_off(queue);
        }
    }

    fn put(&mut self, index: usize, verdict: Result<Verified, SignatureError>) {
        if let Some(slot) = self.verdicts.get_mut(index) {
            *slot = verdict;
        }
    }

    /// Verifies and empties a queue.
    fn work_off(&mut self, queue: &mut Queue<'_>) {
        let lanes = &queue.lanes;
        let is_worth_it = lanes.iter().flatten().count() >= LANES_MIN;
        let answers = if is_worth_it && self.trust.holds() {
            self.backend.answers(queue.kind, lanes, self.trust)
        } else {
            None
        };
        let is_done = answers.is_some_and(|answers| self.put_all(lanes, &answers));
        if !is_done {
            for lane in lanes.iter().flatten() {
                self.put(lane.index, lane.item.verify_alone());
            }
        }
        queue.clear();
    }

    /// Turns answers into verdicts; false when one of them was wrong, so that none may be believed.
    fn put_all(&mut self, lanes: &Lanes<'_>, answers: &[Answer; LANES]) -> bool {
        for (lane, answer) in lanes.iter().zip(answers) {
            let Some(lane) = lane else { continue };
            let verdict = match answer {
                Answer::Valid => accept(lane),
                Answer::Invalid | Answer::Undecided => lane.item.verify_alone(),
            };
            if *answer == Answer::Invalid && verdict.is_ok() {
                self.trust.end();
                return false;
            }
            self.put(lane.index, verdict);
        }
        true
    }
}

fn accept(lane: &Lane<'_>) -> Result<Verified, SignatureError> {
    fault_point!(SignatureError::Library);
    Ok(Verified {
        key: lane.item.key.clone(),
        digest: lane.digest,
    })
}

impl Backend {
    /// What the unit says of each lane; `None` when it has to be left to libraries: the unit is not
    /// there, or was wrong about a known signature.
    fn answers(&self, kind: Kind, lanes: &Lanes<'_>, trust: &Trust) -> Option<[Answer; LANES]> {
        let answers = in_lanes(self, kind, lanes)?;
        let mut known = lanes.iter().zip(answers).zip(lane::KNOWN_ANSWERS);
        let is_wrong = known.any(|((lane, answer), known)| lane.is_none() && answer != known);
        if is_wrong {
            trust.end();
        }
        (!is_wrong).then_some(answers)
    }
}

/// What the lanes say of each item, without a library behind them; `None` of what they do not take or
/// do not decide.
pub(crate) fn raw_verdicts(backend: &Backend, items: &[BatchItem<'_>]) -> Vec<Option<bool>> {
    let mut verdicts = vec![None; items.len()];
    let lanes = (0..)
        .zip(items)
        .filter_map(|(at, item)| Lane::new(at, item));
    let lanes: Vec<_> = lanes.collect();
    for kind in Kind::ALL {
        let of_kind: Vec<_> = lanes.iter().filter(|lane| lane.kind() == kind).collect();
        for group in of_kind.chunks(LANES) {
            let mut queue = Queue::new(kind);
            group.iter().for_each(|lane| queue.push(**lane));
            let answers = backend.answers(kind, &queue.lanes, &Trust::new());
            for (lane, answer) in queue
                .lanes
                .iter()
                .flatten()
                .zip(answers.into_iter().flatten())
            {
                if let Some(slot) = verdicts.get_mut(lane.index) {
                    *slot = (answer != Answer::Undecided).then_some(answer == Answer::Valid);
                }
            }
        }
    }
    verdicts
}

/// Signatures of one kind that wait for each other.
struct Queue<'a> {
    kind: Kind,
    lanes: Lanes<'a>,
}

impl<'a> Queue<'a> {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            lanes: [None; LANES],
        }
    }

    fn push(&mut self, lane: Lane<'a>) {
        if let Some(free) = self.lanes.iter_mut().find(|lane| lane.is_none()) {
            *free = Some(lane);
        }
    }

    fn is_full(&self) -> bool {
        self.lanes.iter().all(Option::is_some)
    }

    fn clear(&mut self) {
        self.lanes.fill(None);
    }
}

#[cfg(test)]
mod tests;
