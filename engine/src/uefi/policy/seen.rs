//! The events of a log, each with what is proven of it.

use crate::hash::{Digest, HashAlg};
use crate::pcr::PcrIndex;
use crate::uefi::coverage::AuthenticatedData;
use crate::uefi::error::EventPlace;
use crate::uefi::event::EventType;
use crate::uefi::log::EventLog;
use crate::uefi::replay::BootProof;

/// One event as a policy sees it.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    pub(super) place: EventPlace,
    pub(super) pcr: Option<PcrIndex>,
    pub(super) event_type: EventType,
    /// Its digests in the banks that are proven.
    digests: [Option<Digest>; HashAlg::ALL.len()],
    /// What the digest of the strongest proven bank covers.
    pub(super) covered: AuthenticatedData<'a>,
    /// What the log says; a label at best.
    pub(super) label: &'a [u8],
}

impl<'a> Seen<'a> {
    /// Every event of the log, those that were not extended too, in the log's order; `None` when
    /// the proofs prove events that the log has not, and so are of another log.
    pub(super) fn of_log(log: &EventLog<'a>, proofs: &[&BootProof<'a>]) -> Option<Vec<Self>> {
        let mut rests: Vec<_> = proofs
            .iter()
            .map(|it| it.measurements().iter().peekable())
            .collect();
        let events = log.events().iter();
        let seen = events
            .map(|event| {
                let place = event.place();
                let mut seen = Self {
                    place,
                    pcr: event.pcr(),
                    event_type: event.event_type(),
                    digests: [None; HashAlg::ALL.len()],
                    covered: AuthenticatedData::Nothing,
                    label: event.unverified_data(),
                };
                let mut strongest = None;
                for rest in &mut rests {
                    let Some(measured) = rest.next_if(|it| it.place == place) else {
                        continue;
                    };
                    let bank = measured.digest.alg();
                    if strongest.is_none_or(|it| it < bank) {
                        strongest = Some(bank);
                        seen.covered = measured.data;
                    }
                    let slots = seen.digests.iter_mut().zip(HashAlg::ALL);
                    for (slot, _) in slots.filter(|(_, alg)| *alg == bank) {
                        *slot = Some(measured.digest);
                    }
                }
                seen
            })
            .collect();
        let is_whole = rests.iter_mut().all(|rest| rest.peek().is_none());
        is_whole.then_some(seen)
    }

    /// The digests that are proven.
    pub(super) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.digests.iter().flatten()
    }

    /// Whether the digest of every proven bank of which `allowed` has digests is one of them, and
    /// there is such a bank.
    pub(super) fn is_one_of(&self, allowed: &[Digest]) -> bool {
        let mut compared = false;
        for digest in self.digests() {
            let mut of_bank = allowed
                .iter()
                .filter(|it| it.alg() == digest.alg())
                .peekable();
            if of_bank.peek().is_none() {
                continue;
            }
            if !of_bank.any(|it| it == digest) {
                return false;
            }
            compared = true;
        }
        compared
    }

    /// The label as text, without its terminating NUL.
    pub(super) fn label_text(&self) -> Option<&'a str> {
        text(self.label)
    }

    /// The proven digests for a person.
    pub(super) fn digests_text(&self) -> String {
        let texts: Vec<_> = self
            .digests()
            .map(|it| format!("{}:{}", it.alg(), it.to_hex()))
            .collect();
        if texts.is_empty() {
            return "no proven digest".to_owned();
        }
        texts.join(", ")
    }
}

/// UTF-8 without the terminating NUL.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
}
