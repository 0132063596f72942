//! Runtime policies of requests, compiled once for as long as they recur.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rat_engine::ima::judge::Judge;
use rat_engine::policy::RuntimePolicy;

use super::Refused;
use crate::limits::{COMPILED_POLICIES_BYTES_MAX, COMPILED_POLICIES_MAX};

/// The policies that were asked for last.
///
/// # Security
/// A policy is found by its whole text, so that what anybody sends changes only how long others
/// take.
#[derive(Default)]
pub struct Policies(Mutex<Vec<Arc<Compiled>>>);

struct Compiled {
    /// The JSON string that holds it.
    string: Box<str>,
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
        if let Some(judge) = self.find(string) {
            return Ok(judge);
        }
        let policy: String = serde_json::from_str(string)
            .map_err(|_| Refused::request("parameter 'runtime_policy' must be a string"))?;
        let judge = compile(&policy)?;
        let table = judge.policy().compiled().table_bytes();
        self.remember(Compiled {
            string: string.into(),
            judge: Arc::clone(&judge),
            bytes: table.saturating_add(string.len()),
        });
        Ok(judge)
    }

    /// The judge under which nothing passes.
    pub(super) fn none() -> Result<Arc<Judge>, Refused> {
        compile(EMPTY)
    }

    fn find(&self, string: &str) -> Option<Arc<Judge>> {
        let all = self.lock().clone();
        let found = all.iter().rfind(|it| *it.string == *string)?;
        let mut compiled = self.lock();
        // The last one is the newest.
        if let Some(place) = compiled.iter().position(|it| Arc::ptr_eq(it, found)) {
            let used = compiled.remove(place);
            compiled.push(used);
        }
        Some(Arc::clone(&found.judge))
    }

    fn remember(&self, new: Compiled) {
        if new.bytes > COMPILED_POLICIES_BYTES_MAX {
            return;
        }
        let mut compiled = self.lock();
        let bytes = |all: &[Arc<Compiled>]| {
            all.iter()
                .fold(new.bytes, |sum, it| sum.saturating_add(it.bytes))
        };
        while compiled.len() >= COMPILED_POLICIES_MAX
            || bytes(&compiled) > COMPILED_POLICIES_BYTES_MAX
        {
            compiled.remove(0);
        }
        compiled.push(Arc::new(new));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Compiled>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
