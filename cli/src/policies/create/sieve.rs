//! Which files are listed: not those that the policy leaves alone anyway.

use std::path::Path;

use rat_engine::hash::Digest;
use rat_engine::policy::sources::measured_name;
use rat_engine::policy::{
    BOOT_AGGREGATE, DraftError, Exclusion, Listing, PolicyDraft, RuntimePolicy,
};

use crate::input::InputError;

/// The exclude patterns of a policy, and how many files they left out.
pub(super) struct Sieve {
    excludes: RuntimePolicy,
    excluded: u64,
}

impl Sieve {
    /// The patterns of a draft.
    ///
    /// # Errors
    /// [`InputError`] for one that cannot be used.
    pub(super) fn new(draft: &PolicyDraft) -> Result<Self, InputError> {
        let fault = |error: &dyn std::fmt::Display| {
            InputError::new("--exclude", Path::new("(text)"), error)
        };
        let mut patterns = PolicyDraft::new();
        for pattern in draft.excludes() {
            patterns.exclude(pattern);
        }
        let text = patterns.write("").map_err(|error| fault(&error))?;
        let excludes = RuntimePolicy::parse(text.as_bytes()).map_err(|error| fault(&error))?;
        Ok(Self {
            excludes,
            excluded: 0,
        })
    }

    /// Whether a pattern leaves this name alone; counted, if so.
    pub(super) fn leaves_out(&mut self, name: &[u8]) -> bool {
        let exclusion = self.excludes.compiled().excluded(name);
        let out = name != BOOT_AGGREGATE && matches!(exclusion, Exclusion::Excluded { .. });
        self.excluded = self.excluded.saturating_add(u64::from(out));
        out
    }

    /// How many were left out.
    pub(super) fn excluded(&self) -> u64 {
        self.excluded
    }

    /// Lists a file by its path, unless it is left out.
    pub(super) fn list(
        &mut self,
        draft: &mut PolicyDraft,
        path: &[u8],
        digest: &Digest,
    ) -> Result<(), DraftError> {
        let name = measured_name(path);
        if !self.leaves_out(&name) {
            draft.allow(Listing::Digests, &name, digest)?;
        }
        Ok(())
    }
}
