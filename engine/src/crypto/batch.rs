//! Many signatures at once: RSA on the vector unit eight at a time, the rest one by one.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::crypto::digest;
use crate::crypto::key::{KeyMaterial, VerifyingKey};
use crate::crypto::lanes::{LANES, has_vector_unit};
use crate::crypto::rsa_mb::known::{Known, answers};
use crate::crypto::rsa_mb::{Operand, Recover, Size, encoding, recover};
use crate::crypto::signature::{Fitting, SignatureError};
use crate::fault::fault_point;
use crate::hash::Digest;
use crate::tpm::Signature;

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
/// For eight valid RSA signatures of one size with the exponent 65,537 about that of one; the first
/// for a key also divides. Nothing is allocated for them when `verdicts` has the capacity.
pub fn verify_batch(items: &[BatchItem<'_>], verdicts: &mut Vec<Result<Verified, SignatureError>>) {
    Batch {
        recover,
        trust: &TRUST,
        verdicts,
    }
    .run(items);
}

/// Where a batch is worked off.
struct Batch<'b> {
    recover: Recover,
    trust: &'b Trust,
    verdicts: &'b mut Vec<Result<Verified, SignatureError>>,
}

impl Batch<'_> {
    fn run(&mut self, items: &[BatchItem<'_>]) {
        self.verdicts.clear();
        // Nothing is known about any of them yet.
        let unknown = || Err(SignatureError::Library);
        self.verdicts.resize_with(items.len(), unknown);
        let mut queues = Size::ALL.map(Queue::new);
        for (index, item) in items.iter().enumerate() {
            let Some(lane) = Lane::new(index, item) else {
                self.put(index, item.verify_alone());
                continue;
            };
            for queue in queues.iter_mut().filter(|queue| queue.size == lane.size) {
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
        let lanes = queue.take();
        let is_worth_it = lanes.iter().flatten().count() >= LANES_MIN;
        let holds = if is_worth_it && self.trust.holds() {
            in_lanes(self.recover, self.trust, queue.size, &lanes)
        } else {
            None
        };
        let Some(holds) = holds else {
            self.one_by_one(&lanes);
            return;
        };
        for (lane, holds) in lanes.iter().zip(holds) {
            let Some(lane) = lane else { continue };
            let verdict = if holds {
                lane.accept()
            } else {
                lane.item.verify_alone()
            };
            if !holds && verdict.is_ok() {
                self.trust.end();
                self.one_by_one(&lanes);
                return;
            }
            self.put(lane.index, verdict);
        }
    }

    fn one_by_one(&mut self, lanes: &Lanes<'_>) {
        for lane in lanes.iter().flatten() {
            self.put(lane.index, lane.item.verify_alone());
        }
    }
}

/// Which signatures the vector unit finds valid; `None` when it has to be left to libraries.
fn in_lanes(
    recover: Recover,
    trust: &Trust,
    size: Size,
    lanes: &Lanes<'_>,
) -> Option<[bool; LANES]> {
    let [valid, changed] = answers(size)?;
    // Lanes to spare are the last ones.
    let known = [
        changed, valid, changed, valid, changed, valid, changed, valid,
    ];
    let mut operands = known.map(Known::operand);
    for (operand, lane) in operands.iter_mut().zip(lanes.iter().flatten()) {
        *operand = lane.operand;
    }
    let mut recovered = [[0; 512]; LANES];
    recover(size, &operands, &mut recovered)?;
    let mut holds = [false; LANES];
    for (((holds, lane), known), recovered) in
        holds.iter_mut().zip(lanes).zip(known).zip(&recovered)
    {
        let encoded = recovered.get(..size.bytes())?;
        if let Some(lane) = lane {
            *holds = lane.holds(encoded);
        } else if encoding::is_pkcs1(encoded, &known.digest) != known.is_valid {
            trust.end();
            return None;
        }
    }
    Some(holds)
}

/// What the lanes say of each item, without a library behind them; `None` of what they do not take.
///
/// `recover` computes, on the vector unit or in its model.
pub(crate) fn raw_verdicts(recover: Recover, items: &[BatchItem<'_>]) -> Vec<Option<bool>> {
    let mut verdicts = vec![None; items.len()];
    let lanes = (0..)
        .zip(items)
        .filter_map(|(at, item)| Lane::new(at, item));
    let lanes: Vec<_> = lanes.collect();
    for size in Size::ALL {
        let of_size: Vec<_> = lanes.iter().filter(|lane| lane.size == size).collect();
        for group in of_size.chunks(LANES) {
            let mut queue = Queue::new(size);
            group.iter().for_each(|lane| queue.push(**lane));
            let lanes = queue.take();
            let holds = in_lanes(recover, &Trust::new(), size, &lanes);
            for (lane, holds) in lanes.iter().flatten().zip(holds.into_iter().flatten()) {
                if let Some(slot) = verdicts.get_mut(lane.index) {
                    *slot = Some(holds);
                }
            }
        }
    }
    verdicts
}

/// A signature that fits its key in type, length and range, and that the vector unit can verify.
#[derive(Clone, Copy)]
struct Lane<'a> {
    /// Where its verdict belongs.
    index: usize,
    item: &'a BatchItem<'a>,
    size: Size,
    operand: Operand<'a>,
    digest: Digest,
    is_pss: bool,
}

/// The lanes in use come first.
type Lanes<'a> = [Option<Lane<'a>>; LANES];

impl<'a> Lane<'a> {
    fn new(index: usize, item: &'a BatchItem<'a>) -> Option<Self> {
        let KeyMaterial::Rsa { modulus, .. } = item.key.material() else {
            return None;
        };
        let size = Size::of(item.key.material())?;
        let fitting = Fitting::new(item.key.material(), &item.signature, item.allow_sha1).ok()?;
        let (hash, signature, is_pss) = match fitting {
            Fitting::RsaSsa { hash, sig } => (hash, sig, false),
            Fitting::RsaPss { hash, sig } => (hash, sig, true),
            Fitting::Ecdsa { .. } => return None,
        };
        Some(Self {
            index,
            item,
            size,
            operand: Operand {
                modulus,
                reciprocal: item.key.reciprocal(size)?,
                signature,
            },
            digest: digest(hash, item.message),
            is_pss,
        })
    }

    fn holds(&self, encoded: &[u8]) -> bool {
        if self.is_pss {
            encoding::is_pss(encoded, &self.digest)
        } else {
            encoding::is_pkcs1(encoded, &self.digest)
        }
    }

    fn accept(&self) -> Result<Verified, SignatureError> {
        fault_point!(SignatureError::Library);
        Ok(Verified {
            key: self.item.key.clone(),
            digest: self.digest,
        })
    }
}

/// Signatures by keys of one size that wait for each other.
struct Queue<'a> {
    size: Size,
    lanes: Lanes<'a>,
}

impl<'a> Queue<'a> {
    const fn new(size: Size) -> Self {
        Self {
            size,
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

    fn take(&mut self) -> Lanes<'a> {
        std::mem::replace(&mut self.lanes, [None; LANES])
    }
}

#[cfg(test)]
mod tests;
