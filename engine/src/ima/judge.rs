//! What a runtime policy says of one measured event.
//!
//! Source: Keylime 7.14 `keylime/ima/ima.py`, whose order of rules this keeps, and the deviations
//! that `docs/verdicts.md` names.

use std::sync::Arc;

use thiserror::Error;

use super::keyring::{LearnedKeys, VerificationKeys};
use super::recall::{PathKnown, Recall, kept};
use super::signature::{FileSignature, SignatureFault};
use super::template::{DigestOf, Event, MeasuredDigest, Template};
use super::verdicts::{Kept, PathAnswer, Verdicts};
use crate::crypto::{self, FileKey, KeyError};
use crate::fault::fault_point;
use crate::hash::HashAlg;
use crate::malformed::Malformed;
use crate::policy::exclude::StepBudget;
use crate::policy::{CompiledPolicy, Exclusion, PathRule, Place, RuntimePolicy};

/// A policy with its keys loaded, ready to judge events.
#[derive(Debug, Clone)]
pub struct Judge {
    policy: Arc<RuntimePolicy>,
    keys: VerificationKeys,
    /// What it said of records that caches hold.
    verdicts: Arc<Verdicts>,
}

/// The event of a file, and what a policy says of its path.
pub(super) type Read<'e> = Result<(Event<'e>, PathRule), Malformed>;

/// What one list brings along when its events are judged.
#[derive(Debug)]
pub(super) struct Asking<'l> {
    pub(super) require_valid_ima_sig: bool,
    pub(super) learned: &'l mut LearnedKeys,
    /// Covers all events of the list.
    pub(super) budget: &'l mut StepBudget,
    pub(super) recall: Option<&'l mut Recall>,
    /// What the policy says of the path, when that was found out before.
    listed: Option<PathRule>,
    /// Whether the answer is the same for every list.
    rests_on_policy: bool,
}

impl<'l> Asking<'l> {
    pub(super) const fn new(
        require_valid_ima_sig: bool,
        learned: &'l mut LearnedKeys,
        budget: &'l mut StepBudget,
        recall: Option<&'l mut Recall>,
    ) -> Self {
        Self {
            require_valid_ima_sig,
            learned,
            budget,
            recall,
            listed: None,
            rests_on_policy: true,
        }
    }

    /// The same about an event of which [`Judge::look_ahead`] said this.
    pub(super) const fn listed_as(mut self, listed: Option<PathRule>) -> Self {
        self.listed = listed;
        self
    }
}

/// A verification key of a policy that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("verification-keys: pubkeys[{index}]: {error}")]
pub struct VerificationKeyError {
    /// Its place in the policy's list.
    pub index: usize,
    /// Why it cannot be used.
    pub error: KeyError,
}

/// Why an event passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The policy lists its digest.
    Listed,
    /// An approved key signed it.
    Signed,
    /// An exclude pattern matches its name.
    Excluded,
    /// A key was added to a keyring that the policy ignores.
    KeyringIgnored,
    /// A listed key was added to a keyring, and counts from now on.
    KeyLearned,
}

/// Why an event fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denial {
    /// The policy does not list the path.
    #[error("the path is not in the policy")]
    PathNotListed,
    /// The policy lists the path with other digests.
    #[error("the policy lists other digests for this path")]
    DigestNotListed,
    /// The signature field is not a signature.
    #[error("the signature field is malformed: {0}")]
    SignatureMalformed(SignatureFault),
    /// No approved key made the signature, and the policy demands one that did.
    #[error("no approved key made the file's signature")]
    SignatureInvalid,
    /// The buffer does not hash to the measured digest.
    #[error("the measured buffer does not have the measured digest")]
    BufferDigest,
    /// The policy does not list the buffer's name.
    #[error("the measured buffer is not in the policy")]
    BufferNotListed,
    /// The policy lists the buffer's name with other digests.
    #[error("the policy lists other digests for this buffer")]
    BufferDigestNotListed,
    /// A key was added to a keyring for which the policy does not list it.
    #[error("the policy does not list this key for this keyring")]
    KeyNotListed,
    /// A key of a kind that cannot verify signatures was added to a keyring.
    #[error("the measured key cannot be used")]
    KeyUnusable,
    /// More keys were added than can be learned.
    #[error("more keys were added than can be learned")]
    KeysTooMany,
}

/// Checks that hold with and without a policy, because without them an entry could carry another
/// template's name (the name is not hashed).
///
/// # Errors
/// [`Denial::SignatureMalformed`] or [`Denial::BufferDigest`].
pub fn check_form(event: &Event<'_>) -> Result<(), Denial> {
    fault_point!(Denial::BufferDigest);
    match event.template {
        Template::ImaBuf => {
            let alg = HashAlg::from_name(event.digest.alg).ok_or(Denial::BufferDigest)?;
            if crypto::digest(alg, event.tail).as_bytes() != event.digest.bytes {
                return Err(Denial::BufferDigest);
            }
        }
        _ if event.tail.is_empty() => {}
        _ => {
            FileSignature::parse(event.tail).map_err(Denial::SignatureMalformed)?;
        }
    }
    Ok(())
}

impl Judge {
    /// A judge under this policy.
    ///
    /// # Errors
    /// [`VerificationKeyError`] for the first key of the policy that cannot be used.
    pub fn new(policy: Arc<RuntimePolicy>) -> Result<Self, VerificationKeyError> {
        let keys = policy.compiled().verification_keys();
        let keys = keys.iter().map(|key| (key.keyid, key.spki_der.as_slice()));
        let keys = VerificationKeys::from_policy(keys)
            .map_err(|(index, error)| VerificationKeyError { index, error })?;
        Ok(Self {
            policy,
            keys,
            verdicts: Arc::default(),
        })
    }

    /// The policy.
    pub fn policy(&self) -> &RuntimePolicy {
        &self.policy
    }

    fn rules(&self) -> &CompiledPolicy {
        self.policy.compiled()
    }

    pub(super) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// Whether a pattern excludes the event. A path is asked about once: what is known of it takes
    /// the same steps from the budget as finding out did, so that the answer is the one that there
    /// would be without it.
    fn excludes(&self, event: &Event<'_>, asking: &mut Asking<'_>) -> bool {
        if self.rules().excludes().is_empty() {
            return false;
        }
        let verdicts = self.verdicts();
        let known = asking.recall.as_mut().map(|r| r.path(event.name, verdicts));
        if let Some(PathKnown::Answer(answer)) = known {
            asking.rests_on_policy &= answer.steps == 0;
            if asking.budget.take(answer.steps.into()) {
                return answer.is_excluded;
            }
        }
        let before = asking.budget.left();
        let exclusion = self.rules().excluded_within(event.name, asking.budget);
        let is_excluded = matches!(exclusion, Exclusion::Excluded { .. });
        let left = asking.budget.left();
        let steps = before.saturating_sub(left);
        asking.rests_on_policy &= steps == 0 && left > 0;
        // With steps left, and fewer taken than one pattern may take, none reached a cap: then the
        // answer is about the path alone.
        if left > 0
            && let Ok(steps) = u16::try_from(steps)
            && let (Some(known), Some(recall)) = (known, &mut asking.recall)
        {
            let answer = PathAnswer { is_excluded, steps };
            recall.note_path(known, event.name, answer, verdicts);
        }
        is_excluded
    }

    /// Judges one event other than boot_aggregate, whose form was checked. `budget` covers all
    /// events of a list.
    ///
    /// With `require_valid_ima_sig`, a file whose well-formed signature does not verify is refused
    /// even if its digest is listed; without, the listed digest rescues it, as in Keylime. What
    /// passes with it passes without it, too.
    ///
    /// # Errors
    /// The reason for which the event fails.
    ///
    /// # Security
    /// The event is authentic only if it turns out to lie before the cut; until then a pass or a
    /// denial is provisional, and so are learned keys.
    pub fn judge(
        &self,
        event: &Event<'_>,
        require_valid_ima_sig: bool,
        learned: &mut LearnedKeys,
        budget: &mut StepBudget,
    ) -> Result<Pass, Denial> {
        let mut asking = Asking::new(require_valid_ima_sig, learned, budget, None);
        self.judge_for(event, &mut asking).0
    }

    /// The same for a list that may use caches; says also what can be kept of the answer.
    pub(super) fn judge_for(
        &self,
        event: &Event<'_>,
        asking: &mut Asking<'_>,
    ) -> (Result<Pass, Denial>, Kept) {
        let result = self.judge_noting(event, asking);
        (result, kept(result, asking.rests_on_policy))
    }

    fn judge_noting(&self, event: &Event<'_>, asking: &mut Asking<'_>) -> Result<Pass, Denial> {
        fault_point!(Denial::PathNotListed);
        match event.template {
            Template::ImaBuf => {
                // Nothing of a buffer is remembered, its name included.
                asking.rests_on_policy = false;
                asking.recall = None;
                self.judge_buffer(event, asking)
            }
            _ => self.judge_file(event, asking),
        }
    }

    fn judge_file(&self, event: &Event<'_>, asking: &mut Asking<'_>) -> Result<Pass, Denial> {
        // Cheapest first; which rule passes an event makes no difference to the verdict, except
        // that a demanded signature comes before the listed digest.
        let listed = match asking.listed {
            Some(listed) => listed,
            None => self.path_rule(event, self.rules().place(event.name)),
        };
        if listed == PathRule::Allowed && !asking.require_valid_ima_sig {
            return Ok(Pass::Listed);
        }
        if self.excludes(event, asking) {
            return Ok(Pass::Excluded);
        }
        if !event.tail.is_empty() {
            let signature = FileSignature::parse(event.tail).map_err(Denial::SignatureMalformed)?;
            if self.keys.verify(&signature, &event.digest) {
                return Ok(Pass::Signed);
            }
            // From here on the machine's own list decides. (I15, I19)
            asking.rests_on_policy = false;
            if asking.learned.verify(&signature, &event.digest) {
                return Ok(Pass::Signed);
            }
            if asking.require_valid_ima_sig {
                return Err(Denial::SignatureInvalid);
            }
        }
        match listed {
            PathRule::Allowed => Ok(Pass::Listed),
            PathRule::DigestNotListed => Err(Denial::DigestNotListed),
            PathRule::PathNotListed => Err(Denial::PathNotListed),
        }
    }

    /// What the policy says of the paths of files, all at once; the same as of one after the other.
    pub(super) fn look_ahead<'e>(
        &self,
        events: Vec<Option<Result<Event<'e>, Malformed>>>,
    ) -> Vec<Option<Read<'e>>> {
        let paths = events.iter().flatten().flatten().map(|event| event.name);
        let mut places = self.rules().places(paths).into_iter();
        let mut look_up = |event: Result<Event<'e>, Malformed>| {
            let event = event?;
            let place = places.next();
            let place = place.unwrap_or_else(|| self.rules().place(event.name));
            let rule = self.path_rule(&event, place);
            Ok((event, rule))
        };
        let looked_up = events.into_iter().map(|event| event.map(&mut look_up));
        looked_up.collect()
    }

    fn path_rule(&self, event: &Event<'_>, place: Place) -> PathRule {
        let (rules, path) = (self.rules(), event.name);
        let MeasuredDigest { of, alg, bytes } = event.digest;
        match of {
            DigestOf::Content => rules.lookup_at(place, path, alg, bytes),
            // An fs-verity digest is of another thing: it never equals a digest of the content.
            DigestOf::Verity if rules.lists_path_at(place, path) => PathRule::DigestNotListed,
            DigestOf::Verity => PathRule::PathNotListed,
        }
    }

    fn judge_buffer(&self, event: &Event<'_>, asking: &mut Asking<'_>) -> Result<Pass, Denial> {
        let MeasuredDigest { alg, bytes, .. } = event.digest;
        match FileKey::from_measured(event.tail) {
            Ok(None) => match self.rules().lookup_buffer(event.name, alg, bytes) {
                PathRule::Allowed => Ok(Pass::Listed),
                _ if self.excludes(event, asking) => Ok(Pass::Excluded),
                PathRule::DigestNotListed => Err(Denial::BufferDigestNotListed),
                PathRule::PathNotListed => Err(Denial::BufferNotListed),
            },
            found => {
                if self.rules().ignores_keyring(event.name) {
                    return Ok(Pass::KeyringIgnored);
                }
                if self.rules().lookup_keyring(event.name, alg, bytes) != PathRule::Allowed {
                    return Err(Denial::KeyNotListed);
                }
                // An exclude pattern never makes a key count.
                let Ok(Some(key)) = found else {
                    return Err(Denial::KeyUnusable);
                };
                if asking.learned.learn(event.name, key, event.tail) {
                    Ok(Pass::KeyLearned)
                } else {
                    Err(Denial::KeysTooMany)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
