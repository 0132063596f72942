//! What an agent fails by, and what ends that. (S09, S16, L07)

use super::conclude::Said;
use super::record::Group;
use super::state::{AgentState, Failure};
use crate::hash::Digest;
use crate::time::Now;
use crate::verdict::Code;

/// Whether a code says that the runtime policy does not allow an entry of the list.
pub(super) const fn is_of_list(code: Code) -> bool {
    is_of_policy(code) && !is_of_pcrs(code) && !is_of_boot(code)
}

/// Whether a code says that the PCR policy does not allow a value.
const fn is_of_pcrs(code: Code) -> bool {
    matches!(code, Code::PcrValueNotAllowed)
}

/// Whether a code says that the measured boot policy does not allow what a boot log holds, which
/// explains the quote.
const fn is_of_boot(code: Code) -> bool {
    matches!(
        code,
        Code::UefiPolicyRejected
            | Code::UefiPolicyEvent
            | Code::UefiPolicyUnbound
            | Code::UefiPolicyFirmware
            | Code::UefiPolicySecureBoot
            | Code::UefiPolicyKeys
            | Code::UefiPolicyDbx
            | Code::UefiPolicyMok
            | Code::UefiPolicyKernel
    )
}

/// Whether a code says that the policy does not allow something genuine.
pub const fn is_of_policy(code: Code) -> bool {
    is_of_pcrs(code)
        || is_of_boot(code)
        || matches!(
            code,
            Code::ImaViolation
                | Code::ImaPathNotListed
                | Code::ImaDigestNotListed
                | Code::ImaSigInvalid
                | Code::ImaBufNotListed
                | Code::ImaBufDigestNotListed
                | Code::ImaKeyNotListed
                | Code::ImaKeyUnusable
                | Code::ImaKeysTooMany
        )
}

/// What ends a failure, beside an operator who clears it: a pass in the group that it is of, when
/// that group
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndsBy {
    /// does not demand a boot log any more.
    Waiver,
    /// enforces another runtime policy than the one that it failed under. (L07)
    RuntimePolicy,
    /// has another PCR policy than the one that it failed under. (L07)
    PcrPolicy,
    /// has another measured boot policy than the one that it failed under, or none. (L07)
    BootPolicy,
    /// Nothing does.
    Nothing,
}

const fn ends_by(code: Code) -> EndsBy {
    match code {
        Code::UefiLogMissing => EndsBy::Waiver,
        code if is_of_pcrs(code) => EndsBy::PcrPolicy,
        code if is_of_boot(code) => EndsBy::BootPolicy,
        // The policy can list the aggregate. It is not genuine before it does.
        Code::ImaBootAggregateUnverifiable => EndsBy::RuntimePolicy,
        code if is_of_policy(code) => EndsBy::RuntimePolicy,
        _ => EndsBy::Nothing,
    }
}

/// Whether a pass in this group, of a list that was judged by `policy`, ends a failure.
pub(super) fn is_ended_by_pass(failure: &Failure, group: &Group, policy: Option<Digest>) -> bool {
    if !is_of(failure, group) {
        return false;
    }
    // Without a runtime policy no list was judged; without a PCR policy no value is demanded.
    let is_other = |now: Option<Digest>| failure.under_policy.is_some_and(|it| now != Some(it));
    match ends_by(failure.code) {
        _ if group.auto_recover => true,
        EndsBy::Waiver => !group.demands_boot_log(),
        EndsBy::PcrPolicy => is_other(group.quote_rules().pcr_policy),
        EndsBy::BootPolicy => is_other(group.boot_policy()),
        EndsBy::RuntimePolicy => {
            // The rule that it failed by does not hold any more.
            let is_accepted = match failure.code {
                Code::ImaViolation => group.accept_violations,
                Code::ImaSigInvalid => !group.require_valid_ima_sig,
                _ => false,
            };
            failure.under_policy.is_some() && policy.is_some() && (is_accepted || is_other(policy))
        }
        EndsBy::Nothing => false,
    }
}

/// Whether it failed in this group. Another one may be laxer: moving there ends nothing. (S16)
fn is_of(failure: &Failure, group: &Group) -> bool {
    failure.group.as_ref() == Some(&group.slug)
}

/// Notes a failure. The first one stays: what comes after it is a consequence, or another attack.
/// That two TPMs take turns takes the place of a clock that went back, because it explains it. (T09)
///
/// It must never hide what comes after it from the operator whose change would end only one of the
/// two. So one that nothing ends takes its place, and so does one of the same kind when the next
/// pass would end the first; where two meet of which each would end by another change, neither
/// does, and an operator has to act.
pub(super) fn fail(state: &mut AgentState, said: &Said, group: &Group, now: Now) {
    // What PCRs and boot logs hold says nothing about the list, and is checked until it is allowed.
    if !is_of_pcrs(said.code) && !is_of_boot(said.code) {
        state.passed_under = None;
    }
    state.trusted_until_unix_ms = 0;
    let failure = || said.failure(group, policy_of(said.code, group), now);
    let Some(known) = &mut state.failure else {
        state.failure = Some(failure().into());
        return;
    };
    let (old, new) = (ends_by(known.code), ends_by(said.code));
    if !is_of(known, group) {
        known.group = None;
    } else if old == new {
        let is_explained =
            known.code == Code::TimeRollback && said.code == Code::IdentityCloneSuspected;
        let policy = group.list_rules().map(|rules| rules.policy);
        let is_ended = is_ended_by_pass(known, group, policy) && !group.auto_recover;
        if is_explained || is_ended {
            **known = failure();
        }
    } else if new == EndsBy::Nothing {
        **known = failure();
    } else if old != EndsBy::Nothing && !group.auto_recover {
        known.group = None;
    }
}

/// The policy of the group that is why something fails with this code, if one is.
fn policy_of(code: Code, group: &Group) -> Option<Digest> {
    match ends_by(code) {
        EndsBy::PcrPolicy => group.quote_rules().pcr_policy,
        EndsBy::BootPolicy => group.boot_policy(),
        EndsBy::RuntimePolicy => group.enforced_digest(),
        EndsBy::Waiver | EndsBy::Nothing => None,
    }
}
