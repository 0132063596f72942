//! Runtime policies of requests, compiled once for as long as they recur.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rat_engine::crypto;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;

use super::Refused;
use crate::limits::{COMPILED_POLICIES_BYTES_MAX, COMPILED_POLICIES_MAX};

/// The policies that were asked for last.
///
/// # Security
/// A policy is found by the SHA-256 of its whole text, so that what anybody sends changes only how
/// long others take.
#[derive(Default)]
pub struct Policies(Mutex<Vec<Compiled>>);

struct Compiled {
    text: Digest,
    judge: Arc<Judge>,
    bytes: usize,
}

/// What a list is judged by where no policy was given: nothing passes. (L01)
const EMPTY: &str = r#"{"meta":{"version":1},"release":0,"digests":{},"excludes":[],"keyrings":{},
"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},
"verification-keys":""}"#;

impl Policies {
    /// The judge of the policy that this JSON string holds.
    pub(super) fn judge(&self, string: &str) -> Result<Arc<Judge>, Refused> {
        let text = crypto::digest(HashAlg::Sha256, string.as_bytes());
        if let Some(judge) = self.find(&text) {
            return Ok(judge);
        }
        let policy: String = serde_json::from_str(string)
            .map_err(|_| Refused::request("parameter 'runtime_policy' must be a string"))?;
        let judge = compile(&policy)?;
        let bytes = judge.policy().compiled().table_bytes();
        self.remember(Compiled {
            text,
            judge: Arc::clone(&judge),
            bytes,
        });
        Ok(judge)
    }

    /// The judge under which nothing passes.
    pub(super) fn none() -> Result<Arc<Judge>, Refused> {
        compile(EMPTY)
    }

    fn find(&self, text: &Digest) -> Option<Arc<Judge>> {
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = compiled.iter().position(|it| it.text == *text)?;
        // The last one is the newest.
        let found = compiled.remove(place);
        let judge = Arc::clone(&found.judge);
        compiled.push(found);
        Some(judge)
    }

    fn remember(&self, new: Compiled) {
        if new.bytes > COMPILED_POLICIES_BYTES_MAX {
            return;
        }
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.retain(|it| it.text != new.text);
        let bytes = |all: &[Compiled]| {
            all.iter()
                .fold(new.bytes, |sum, it| sum.saturating_add(it.bytes))
        };
        while compiled.len() >= COMPILED_POLICIES_MAX
            || bytes(&compiled) > COMPILED_POLICIES_BYTES_MAX
        {
            compiled.remove(0);
        }
        compiled.push(new);
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").finish_non_exhaustive()
    }
}

fn compile(text: &str) -> Result<Arc<Judge>, Refused> {
    let malformed = |error: &dyn fmt::Display| {
        Refused::request(format!("Runtime policy is malformatted: {error}"))
    };
    let policy = RuntimePolicy::parse(text.as_bytes()).map_err(|error| malformed(&error))?;
    let judge = Judge::new(Arc::new(policy)).map_err(|error| malformed(&error))?;
    Ok(Arc::new(judge))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(release: usize) -> String {
        let policy = EMPTY.replace("\"release\":0", &format!("\"release\":{release}"));
        serde_json::to_string(&policy).unwrap()
    }

    #[test]
    fn the_same_text_is_compiled_once_and_another_is_another() {
        let policies = Policies::default();
        let one = policies.judge(&string(1)).unwrap();
        assert!(Arc::ptr_eq(&one, &policies.judge(&string(1)).unwrap()));
        assert!(!Arc::ptr_eq(&one, &policies.judge(&string(2)).unwrap()));
        assert!(policies.judge("\"{}\"").is_err());
        assert!(policies.judge("7").is_err());
    }

    #[test]
    fn x01_policies_are_remembered_up_to_a_limit_the_newest_ones() {
        let policies = Policies::default();
        let first = policies.judge(&string(0)).unwrap();
        for release in 1..COMPILED_POLICIES_MAX {
            policies.judge(&string(release)).unwrap();
        }
        // Asked for again, so that the next one pushes out another.
        assert!(Arc::ptr_eq(&first, &policies.judge(&string(0)).unwrap()));
        policies.judge(&string(COMPILED_POLICIES_MAX)).unwrap();
        assert_eq!(policies.0.lock().unwrap().len(), COMPILED_POLICIES_MAX);
        assert!(Arc::ptr_eq(&first, &policies.judge(&string(0)).unwrap()));
    }
}
