//! `allowlists` and `mbpolicies`.

use axum::http::StatusCode;
use rat_engine::policy::dsse::is_envelope;
use rat_store::{ImportMode, KeylimeKind, KeylimePut, NewKeylimePolicy, SourceRow};

use super::report::Found;
use super::{Kept, Known, Migration, MigrationError, now, of_row};
use crate::keylime::verifier::asked::{PolicyText, boot_policy, check_policy};
use crate::keylime::verifier::policies::NAME_CHARACTERS_MAX;

/// A policy, read and checked.
struct Brought {
    name: String,
    policy: PolicyText,
    notes: Vec<String>,
}

impl Migration<'_> {
    pub(super) async fn policy(
        &self,
        row: &SourceRow,
        kind: KeylimeKind,
        known: &mut Known,
    ) -> Result<Found, MigrationError> {
        // A row without a number is nobody's policy.
        let number = match row.needed("id") {
            Ok(number) => number.to_owned(),
            Err(error) => return Ok(error.into()),
        };
        let (found, kept) = match self.read(row, kind) {
            Ok(brought) => {
                let found = self.put(kind, &brought).await?;
                let kept = match &found.why {
                    None => Kept::Here(brought.name),
                    Some(why) => Kept::Left(why.detail.clone()),
                };
                (found, kept)
            }
            Err(found) => {
                let why = found.why.as_ref();
                let why = why.map(|why| why.detail.clone()).unwrap_or_default();
                (found, Kept::Left(why))
            }
        };
        known.policies.insert((kind, number), kept);
        Ok(found)
    }

    async fn put(&self, kind: KeylimeKind, brought: &Brought) -> Result<Found, MigrationError> {
        let imported = || Found::imported(brought.notes.clone());
        let Some(store) = self.store else {
            return Ok(imported());
        };
        let present = match of_row(store.keylime_policy(kind, &brought.name).await)? {
            Ok(present) => present,
            Err(found) => return Ok(found),
        };
        match present {
            Some(present) if present.text == brought.policy.text => Ok(Found::already_there()),
            Some(_) => {
                let detail = "another policy has this name here";
                Ok(Found::of_column("name", "name.taken", detail))
            }
            None if self.mode == ImportMode::Rehearse => Ok(imported()),
            None => {
                let new = NewKeylimePolicy {
                    kind,
                    name: &brought.name,
                    text: &brought.policy.text,
                    judges: brought.policy.judging(),
                };
                let put = store.put_keylime_policy(new, KeylimePut::Create, self.actor, now());
                Ok(match of_row(put.await)? {
                    Ok(()) => imported(),
                    Err(found) => found,
                })
            }
        }
    }

    fn read(&self, row: &SourceRow, kind: KeylimeKind) -> Result<Brought, Found> {
        let name = row.needed("name")?.to_owned();
        if name.chars().nth(NAME_CHARACTERS_MAX).is_some() || name.chars().any(char::is_control) {
            let detail =
                "the name is longer than 255 characters, or holds such as control terminals";
            return Err(Found::of_column("name", "name.refused", detail));
        }
        match kind {
            KeylimeKind::Runtime => self.runtime(row, name),
            KeylimeKind::MeasuredBoot => self.boot(row, name),
        }
    }

    /// A reference state, read as the policy that judges with it reads it.
    fn boot(&self, row: &SourceRow, name: String) -> Result<Brought, Found> {
        let text = row.text("mb_policy")?.unwrap_or_default();
        let policy = boot_policy(text, self.boot_policy)
            .map_err(|refused| Found::of_column("mb_policy", "policy.malformed", refused.1))?;
        let mut notes = Vec::new();
        if policy.judging().is_some() {
            let judge = self.boot_policy;
            notes.push(format!(
                "{judge} judges by it, as keylime.measured_boot_policy_name says"
            ));
        }
        Ok(Brought {
            name,
            policy,
            notes,
        })
    }

    /// A runtime policy. Where Keylime has kept an envelope, what is signed judges: nothing in its
    /// database says by whose key it was admitted.
    fn runtime(&self, row: &SourceRow, name: String) -> Result<Brought, Found> {
        let text = row.needed("ima_policy")?.as_bytes().to_vec();
        let policy =
            check_policy(text, None, self.require_policy_signatures).map_err(|refused| {
                let code = match refused.0 {
                    StatusCode::UNAUTHORIZED => "policy.signature",
                    _ => "policy.malformed",
                };
                Found::of_column("ima_policy", code, refused.1)
            })?;
        let mut notes = Vec::new();
        if is_envelope(&policy.text) {
            notes.push("signed; Keylime keeps no key, so the signature is not verified".to_owned());
        }
        let judges = policy.judging().is_some();
        if !judges {
            notes.push("demands nothing: its agents are authentic, and not trusted".to_owned());
        }
        let generator = row.number("generator", u64::MAX)?;
        if judges && generator.is_some_and(|generator| generator <= 1) {
            notes.push(
                "its generator is 0 or 1, which Keylime takes for none: it judges here".into(),
            );
        }
        if row.text("tpm_policy")?.is_some_and(|text| !text.is_empty()) {
            notes.push(
                "its tpm_policy is not used, as in Keylime: each agent has its own".to_owned(),
            );
        }
        Ok(Brought {
            name,
            policy,
            notes,
        })
    }
}
