//! R2: what is known of one agent, for whoever must decide about it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use rat_engine::hash::Digest;
use rat_engine::policy::RuntimePolicy;
use rat_engine::shard::{AgentState, EffectiveStatus, Failure};
use rat_engine::tpm::Public;
use rat_engine::verdict::Code;
use rat_store::{StoredGroup, StoredRecord};

use super::agents::{Shown, identity};
use super::coverage::list_rules;
use super::fleet::Seen;
use super::request::{AgentInPath, Answered, Reply};
use super::wire::agent as wire;
use super::{Core, State, compute};
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::limits::COUNTED_POLICIES_MAX;

/// Shows what is known of one agent.
#[utoipa::path(
    get, path = "/agents/{agent_id}/evidence", tag = "agents",
    params(("agent_id" = String, Path)),
    responses((status = 200, body = wire::Evidence)),
)]
pub(super) async fn show(state: State, AgentInPath(id): AgentInPath) -> Answered<wire::Evidence> {
    let core = &state.0;
    let stored = core.store.agent(&id).await?;
    let stored = stored.ok_or(ApiError::NotFound("agent"))?;
    let seen = core.fleet.seen(id).await;
    // Without an answer of the shards nothing is shown as live.
    let (seen, shards_answer) = match seen {
        Ok(seen) => (seen, true),
        Err(_) => (None, false),
    };
    let group = core.store.group(&stored.record.group).await?;
    let glance = seen.as_ref().map(Seen::glance);
    let shown = Shown::of(glance);
    let policy = match &group {
        Some(group) => policy(core, group).await?,
        None => None,
    };
    let attestation = match (&seen, &group) {
        (Some(seen), Some(group)) => Some(attestation(core, &stored, seen, group).await?),
        _ => None,
    };
    let failed = seen.as_ref().and_then(|seen| offence(seen));
    Ok(Reply::ok(wire::Evidence {
        agent: wire::EvidenceAgent {
            identity: identity(&stored, glance),
            effective_status: shown.effective,
        },
        attestation,
        policy,
        first_offence: failed.map(failure),
        what_to_do: match (&seen, &group) {
            (Some(seen), Some(group)) => what_to_do(seen, group),
            _ => None,
        },
        warning: if shards_answer {
            shown.warning
        } else {
            Some("the agents' shards do not answer")
        },
    }))
}

/// What the agent did first that its group does not allow: what it failed by, or, in a group that
/// only reports, what was found in its list.
fn offence(seen: &Seen) -> Option<&Failure> {
    let state = &seen.state;
    let found = || state.list.denied.as_ref().map(|denied| &denied.first);
    match seen.status {
        EffectiveStatus::TrustedUnenforced => state.failure.as_deref().or_else(found),
        _ => state.failure.as_deref(),
    }
}

/// What to do about a status that is not as it should be: the remedy of what failed first, of what
/// the newest verdict says, or of the status itself.
fn what_to_do(seen: &Seen, group: &StoredGroup) -> Option<&'static str> {
    let offence = offence(seen).map(|offence| offence.code);
    let said = || seen.state.verdict.as_ref().and_then(|verdict| verdict.code);
    match seen.status {
        EffectiveStatus::Trusted | EffectiveStatus::Authentic => None,
        EffectiveStatus::Untrusted | EffectiveStatus::TrustedUnenforced => {
            offence.or_else(said).map(Code::remedy)
        }
        EffectiveStatus::Unverified => Some(said().unwrap_or(Code::PolicyMissing).remedy()),
        EffectiveStatus::Pending if is_being_judged(&seen.state, group) => Some(
            "Nothing: its stored list is being judged by what its group enforces now; the group's \
             coverage shows how far that is.",
        ),
        EffectiveStatus::Pending => {
            Some("Start rat-agent on the machine; if it runs, look into its log.")
        }
        EffectiveStatus::Overdue => Some(
            "Check that the machine is on, that rat-agent runs, and that it reaches the server.",
        ),
        EffectiveStatus::Blocked => {
            Some("Nothing is wrong with the machine: its group is blocked until `block` is false.")
        }
    }
}

/// Whether the agent's proven list was judged by other rules than those that its group enforces now.
/// (L07)
fn is_being_judged(state: &AgentState, group: &StoredGroup) -> bool {
    let (Some(judged), Some(rules)) = (judged_under(state), list_rules(group)) else {
        return false;
    };
    let passed_by_other_rules = state.passed_under.is_some() && !state.has_passed(&rules);
    state.ima.is_some() && (judged != rules.policy || passed_by_other_rules)
}

/// The policy that everything proven of this boot was judged by, however that ended.
fn judged_under(state: &AgentState) -> Option<Digest> {
    let denied = || state.list.denied.as_ref().map(|denied| denied.under.policy);
    // What was not allowed of the PCRs' values is in another policy.
    let failed = || {
        let failure = state.failure.as_ref()?;
        let is_of_list = failure.code != Code::PcrValueNotAllowed;
        failure.under_policy.filter(|_| is_of_list)
    };
    state.passed_under.or_else(denied).or_else(failed)
}

async fn attestation(
    core: &Core,
    stored: &StoredRecord,
    seen: &Seen,
    group: &StoredGroup,
) -> Result<wire::Attestation, ApiError> {
    let state = &seen.state;
    let policy_judged = match judged_under(state) {
        None => None,
        Some(digest) => {
            let version = core.store.policy_of_digest(&group.slug, &digest).await?;
            Some(wire::PolicyJudged {
                digest: hex::encode(digest.as_bytes()),
                version: version.map(|policy| policy.version.to_string()),
            })
        }
    };
    Ok(wire::Attestation {
        count: state.passed,
        last_successful: rfc3339(state.last_passed_unix_ms),
        hash_alg: group.settings.bank.name(),
        sign_alg: sign_alg(&stored.record.ak_public),
        active_pcrs: quoted_pcrs(state, group),
        failure: state.failure.as_deref().map(failure),
        boot_epoch: state.boot.map(|boot| wire::BootEpoch {
            reset_count: boot.reset_count,
            restart_count: boot.restart_count,
        }),
        policy_judged,
        passed_by_exclude: state.list.excluded,
        trusted_until: rfc3339(seen.trusted_until_unix_ms),
    })
}

/// Paths come from the machine: what is not printable is escaped. (X07)
fn failure(failure: &Failure) -> wire::Failure {
    wire::Failure {
        code: failure.code.as_str(),
        detail: failure.detail.clone(),
        entry: failure.entry,
        path: failure
            .path
            .as_ref()
            .map(|path| path.escape_ascii().to_string()),
        digest: failure.digest.clone(),
        at: rfc3339(failure.at_unix_ms),
    }
}

/// The PCRs of the group's bank that the last accepted evidence covered.
fn quoted_pcrs(state: &AgentState, group: &StoredGroup) -> Vec<u8> {
    let boot = state.boot_pcrs.pcrs(group.settings.bank);
    let mut pcrs: BTreeSet<u8> = boot.iter().map(rat_engine::pcr::PcrIndex::get).collect();
    if let Some(committed) = &state.ima {
        pcrs.extend(committed.running().iter().map(|(pcr, _)| pcr.get()));
    }
    pcrs.into_iter().collect()
}

/// The AK's scheme, in Keylime's words.
fn sign_alg(ak_public: &[u8]) -> &'static str {
    let scheme = Public::parse(ak_public).ok().and_then(|ak| ak.scheme);
    // TPM_ALG_ID (TCG Algorithm Registry)
    match scheme.map(|scheme| scheme.algorithm) {
        Some(0x0014) => "rsassa",
        Some(0x0016) => "rsapss",
        Some(0x0018) => "ecdsa",
        _ => "unknown",
    }
}

async fn policy(
    core: &Core,
    group: &StoredGroup,
) -> Result<Option<wire::EvidencePolicy>, ApiError> {
    let Some(enforced) = group.enforced else {
        return Ok(None);
    };
    let Some(version) = core.store.policy(&group.slug, enforced.version).await? else {
        return Ok(None);
    };
    Ok(Some(wire::EvidencePolicy {
        name: version.name,
        version: version.version.to_string(),
        // Known once policies come from a repository.
        commit_sha: None,
        source_repo: None,
        signed_by: None,
        rekor_log_id: None,
        created_at: rfc3339(version.created_unix_ms),
        measurement_count: measurement_count(core, version.digest).await?,
    }))
}

/// How many paths policies list. Policies are immutable, so that what was counted stays true.
#[derive(Default)]
pub(super) struct Counted {
    known: Mutex<HashMap<Digest, usize>>,
    /// Held while a policy is read: however many ask, one is in memory.
    counting: tokio::sync::Mutex<()>,
}

impl Counted {
    fn known(&self, digest: &Digest) -> Option<usize> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(digest).copied()
    }

    fn keep(&self, digest: Digest, count: usize) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= COUNTED_POLICIES_MAX {
            known.clear();
        }
        known.insert(digest, count);
    }
}

async fn measurement_count(core: &Core, digest: Digest) -> Result<usize, ApiError> {
    let counted = &core.in_memory.counted;
    if let Some(count) = counted.known(&digest) {
        return Ok(count);
    }
    let _counting = counted.counting.lock().await;
    // Somebody else may have counted meanwhile.
    if let Some(count) = counted.known(&digest) {
        return Ok(count);
    }
    let text = core.store.policy_text(&digest).await?;
    let unreadable = ApiError::Unavailable("the policy cannot be read");
    let text = text.ok_or_else(|| unreadable.clone())?;
    let count = compute(move || {
        let policy = RuntimePolicy::parse(&text).map_err(|_| unreadable)?;
        Ok(policy.compiled().path_count())
    })
    .await?;
    counted.keep(digest, count);
    Ok(count)
}

#[cfg(test)]
mod tests {
    use rat_engine::agent_id::AgentId;
    use rat_engine::hash::HashAlg;
    use rat_engine::ima::Committed;
    use rat_engine::shard::{AgentPath, AgentRecord, Denied, ListRules};
    use std::sync::Arc;

    use rat_store::{GroupSettings, VersionRef};

    use super::*;

    fn digest(text: &str) -> Digest {
        rat_engine::crypto::digest(HashAlg::Sha256, text.as_bytes())
    }

    fn failed_by(code: Code, under: Option<&str>) -> Failure {
        Failure {
            code,
            detail: "it is not listed".to_owned(),
            entry: Some(7),
            path: None,
            digest: None,
            at_unix_ms: 1,
            under_policy: under.map(digest),
            group: None,
        }
    }

    fn denied(under: &str) -> Denied {
        Denied {
            under: ListRules {
                policy: digest(under),
                accept_violations: false,
                require_valid_ima_sig: false,
            },
            first: failed_by(Code::ImaPathNotListed, Some(under)),
        }
    }

    fn seen(status: EffectiveStatus, change: impl FnOnce(&mut AgentState)) -> Seen {
        let mut state = AgentState {
            ima: Some(Committed::new(3, Vec::new())),
            ..AgentState::default()
        };
        change(&mut state);
        let trusted_until_unix_ms = state.trusted_until_unix_ms;
        let record = AgentRecord {
            id: AgentId::parse("web-1").unwrap(),
            group: "web".to_owned(),
            path: AgentPath::Native,
            ak_public: Vec::new(),
            ak_epoch: 0,
            ek_sha256: [0; 32],
            client_key_sha256: [0; 32],
            relay_key_sha256: None,
            baseline: None,
            enrolled_unix_ms: 0,
        };
        Seen {
            record: Arc::new(record),
            terms: None,
            status,
            state,
            trusted_until_unix_ms,
        }
    }

    fn group(enforced: &str) -> StoredGroup {
        StoredGroup {
            slug: "web".to_owned(),
            hex_id: String::new(),
            settings: GroupSettings::default(),
            enforced: Some(VersionRef {
                version: 2,
                digest: digest(enforced),
            }),
            shadow: None,
            created_unix_ms: 1,
            row_version: 1,
        }
    }

    #[test]
    fn l12_a_group_that_only_reports_shows_what_it_found() {
        let found = seen(EffectiveStatus::TrustedUnenforced, |state| {
            state.list.denied = Some(denied("p").into());
        });
        assert_eq!(
            offence(&found).map(|it| it.code),
            Some(Code::ImaPathNotListed)
        );
        let remedy = Some(Code::ImaPathNotListed.remedy());
        assert_eq!(what_to_do(&found, &group("p")), remedy);
        // An agent whose failure was taken back has none, though its list is what it was.
        let cleared = seen(EffectiveStatus::Pending, |state| {
            state.list.denied = Some(denied("p").into());
        });
        assert_eq!(offence(&cleared), None);
        let clean = seen(EffectiveStatus::TrustedUnenforced, |_| {});
        assert_eq!(
            (offence(&clean), what_to_do(&clean, &group("p"))),
            (None, None)
        );
    }

    #[test]
    fn l07_a_failed_agent_shows_the_policy_that_it_failed_under() {
        let of = |change: fn(&mut AgentState)| {
            judged_under(&seen(EffectiveStatus::Untrusted, change).state)
        };
        assert_eq!(of(|_| {}), None);
        let passed = of(|state| {
            state.passed_under = Some(digest("passed"));
            state.failure = Some(failed_by(Code::ImaPathNotListed, Some("failed")).into());
        });
        assert_eq!(passed, Some(digest("passed")));
        let listed = of(|state| {
            state.list.denied = Some(denied("denied").into());
            state.failure = Some(failed_by(Code::ImaPathNotListed, Some("failed")).into());
        });
        assert_eq!(listed, Some(digest("denied")));
        let failed = of(|state| {
            state.failure = Some(failed_by(Code::ImaDigestNotListed, Some("failed")).into());
        });
        assert_eq!(failed, Some(digest("failed")));
        // The policy of the PCRs is another one.
        let of_pcrs = of(|state| {
            state.failure = Some(failed_by(Code::PcrValueNotAllowed, Some("pcrs")).into());
        });
        assert_eq!(of_pcrs, None);
    }

    #[test]
    fn l07_an_agent_whose_list_is_being_judged_is_not_told_to_start() {
        let waits = seen(EffectiveStatus::Pending, |state| {
            state.passed_under = Some(digest("old"));
            state.list.violations = Some(0);
        });
        let said = what_to_do(&waits, &group("new")).unwrap();
        assert!(said.contains("is being judged"), "{said}");
        // Its list was judged: it is something else that it waits for.
        let said = what_to_do(&waits, &group("old")).unwrap();
        assert!(said.contains("rat-agent"), "{said}");
        let new = seen(EffectiveStatus::Pending, |state| state.ima = None);
        let said = what_to_do(&new, &group("new")).unwrap();
        assert!(said.contains("Start rat-agent"), "{said}");
    }
}
