//! The boot log against the quote, and its content against the measured boot policy.

use crate::hash::HashAlg;
use crate::pcr::{PcrSet, PcrValues};
use crate::quote::QuotedPcrs;
use crate::uefi::policy::{Breach, MeasuredBootPolicy, MeasuredBootProof};
use crate::uefi::{
    BootProof, EventLog, ExplainedBoot, Replay, UefiError, UefiPcrMismatch, compare,
};
use crate::verdict::Reason;

/// A boot log that explains the quoted values.
#[derive(Debug)]
pub(super) struct BootStage {
    pub(super) explained: ExplainedBoot,
    pub(super) replayed: PcrValues,
}

/// PCRs that firmware and boot loaders measure into, as Keylime counts them.
fn measured_boot_pcrs() -> PcrSet {
    let others = PcrSet::from_bits(0b1111_1000_0000_0000).unwrap_or(PcrSet::EMPTY);
    PcrSet::BOOT.union(others)
}

/// What a boot log that the quote explains leaves behind.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) stage: BootStage,
    /// What the policy says of its content, if there is a policy.
    pub(super) content: Option<Result<MeasuredBootProof, Vec<Breach>>>,
}

/// Replays every bank of the log, compares those that are quoted, and has its content judged: only
/// a log that explains the quote is looked at.
pub(super) fn replay_boot_log(
    log: &[u8],
    pcrs: &QuotedPcrs,
    wanted: Option<PcrSet>,
    policy: Option<&MeasuredBootPolicy>,
) -> Result<Judged, Vec<Reason>> {
    let log = EventLog::parse(log).map_err(|error| vec![Reason::Uefi(error)])?;
    let mut reasons = Vec::new();
    let mut replays = Vec::new();
    for bank in log.banks() {
        match log.replay(bank) {
            Ok(replay) => replays.push(replay),
            // Also in a bank that nobody quoted: firmware writes all columns of an event at once.
            Err(error) => reasons.push(Reason::Uefi(error)),
        }
    }
    let mut proofs = Vec::new();
    for (bank, quoted) in pcrs.selection().banks() {
        // A bank may be listed without PCRs, or be quoted for the measurement list alone.
        if wanted
            .unwrap_or(measured_boot_pcrs())
            .intersection(quoted)
            .is_empty()
        {
            continue;
        }
        let compared = Compared {
            wanted,
            judged: policy.map_or(PcrSet::EMPTY, MeasuredBootPolicy::relevant_pcrs),
        };
        match compare_bank(&replays, bank, quoted, pcrs, compared) {
            Ok(proof) => proofs.extend(proof),
            Err(reason) => reasons.push(reason),
        }
    }
    let explained = proofs
        .iter()
        .map(BootProof::explained)
        .reduce(ExplainedBoot::and);
    match explained {
        _ if !reasons.is_empty() => Err(reasons),
        Some(explained) => {
            let mut replayed = PcrValues::new();
            for (_, pcr, value) in replays.iter().flat_map(|replay| replay.values().iter()) {
                replayed.insert(pcr, value);
            }
            Ok(Judged {
                stage: BootStage {
                    explained,
                    replayed,
                },
                content: policy.map(|policy| policy.judge(&log, &proofs)),
            })
        }
        None => Err(vec![nothing_compared(pcrs, wanted)]),
    }
}

/// Which PCRs of a bank are compared.
#[derive(Debug, Clone, Copy)]
struct Compared {
    /// Those that must be; `None` for what is quoted of boot PCRs and has events.
    wanted: Option<PcrSet>,
    /// Those whose events are judged, if they are quoted: also where the log has no event, since
    /// that may be a lie.
    judged: PcrSet,
}

/// Compares one bank; `None` when none of its quoted PCRs is to be compared.
fn compare_bank<'l>(
    replays: &[Replay<'l>],
    bank: HashAlg,
    quoted: PcrSet,
    pcrs: &QuotedPcrs,
    Compared { wanted, judged }: Compared,
) -> Result<Option<BootProof<'l>>, Reason> {
    let replay = replays
        .iter()
        .find(|replay| replay.bank() == bank)
        .ok_or(Reason::Uefi(UefiError::BankMissing { bank }))?;
    let compared = wanted.unwrap_or_else(|| {
        let with_events = PcrSet::BOOT.union(replay.measured());
        measured_boot_pcrs()
            .intersection(with_events)
            .intersection(quoted)
    });
    let compared = compared.union(judged.intersection(quoted));
    if compared.is_empty() {
        return Ok(None);
    }
    compare(replay, pcrs.values(), compared)
        .map(Some)
        .map_err(Reason::UefiCompare)
}

/// Why a boot log was compared with nothing: the quote has none of the PCRs.
fn nothing_compared(pcrs: &QuotedPcrs, wanted: Option<PcrSet>) -> Reason {
    let all = wanted.unwrap_or(measured_boot_pcrs());
    match (wanted, all.iter().next(), pcrs.selection().banks().next()) {
        (Some(_), Some(pcr), Some((bank, _))) => {
            Reason::UefiCompare(UefiPcrMismatch::NotQuoted { pcr, bank, all })
        }
        _ => Reason::BootNotQuoted(all),
    }
}
