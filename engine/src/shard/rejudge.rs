//! A stored measurement list, judged again by other rules, without asking its machine. (L07)

use std::sync::Arc;

use super::failing::is_of_list;
use super::state::{BootEpoch, ListRules};
use crate::agent_id::AgentId;
use crate::ima::boot_aggregate::{BootAggregateFault, BootAggregates, Evidence};
use crate::ima::judge::Judge;
use crate::ima::{
    Committed, ImaAppraiser, ImaCaches, ImaOptions, ImaOutcome, ImaProof, ImaReport, LearnedKeys,
    LogFormat, Start,
};
use crate::pcr::PcrValues;
use crate::verdict::{Finding, Reason};

/// One attempt to judge a stored list; what ends an earlier one says nothing of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RejudgeId(pub u64);

/// What is to be judged, and by what: read the list from the store, [`begin`](Self::begin), and
/// give the pieces to the [`RejudgeTask`].
#[derive(Debug, Clone)]
pub struct Rejudge {
    /// Whose list it is.
    pub agent: AgentId,
    /// This attempt.
    pub id: RejudgeId,
    /// What it is judged by.
    pub rules: ListRules,
    /// The policy of those rules.
    pub judge: Arc<Judge>,
    /// How far quotes proved the list, as it is committed: the stored one must lead there.
    pub committed: Committed,
    /// The boot in which they did.
    pub boot: BootEpoch,
    /// The boot PCRs of that boot, which quotes proved too.
    pub boot_pcrs: PcrValues,
    /// How the agent's list is made; the format is the stored list's.
    pub ima: ImaOptions,
}

/// What the store says of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListOnRecord {
    /// Its format.
    pub format: LogFormat,
    /// The boot that it is of.
    pub boot: Option<BootEpoch>,
    /// How many entries are kept.
    pub entries: u64,
    /// From this entry on some are missing.
    pub gap_at_entry: Option<u64>,
}

/// Why a stored list could not be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unusable {
    /// None is stored.
    Missing,
    /// Entries are missing in it.
    Incomplete,
    /// It is of another boot.
    OtherBoot,
    /// It does not lead to what quotes proved: it is not the list that was committed.
    NotReproduced,
    /// It is damaged.
    Unreadable,
    /// The code that judged it panicked.
    Panicked,
    /// The store did not answer.
    StoreFailed,
    /// It took too long.
    Timeout,
}

impl Unusable {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Missing,
        Self::Incomplete,
        Self::OtherBoot,
        Self::NotReproduced,
        Self::Unreadable,
        Self::Panicked,
        Self::StoreFailed,
        Self::Timeout,
    ];

    /// Lower-case words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Incomplete => "incomplete",
            Self::OtherBoot => "other_boot",
            Self::NotReproduced => "not_reproduced",
            Self::Unreadable => "unreadable",
            Self::Panicked => "panicked",
            Self::StoreFailed => "store_failed",
            Self::Timeout => "timeout",
        }
    }

    /// Whether another attempt would end in the same way.
    pub(super) const fn is_lasting(self) -> bool {
        !matches!(self, Self::StoreFailed | Self::Timeout)
    }
}

/// How a stored list was judged.
#[derive(Debug)]
pub enum Rejudgement {
    /// Every entry passed.
    Passed {
        /// That it was replayed into the committed values, and passed.
        proof: ImaProof,
        /// Keys that it teaches under these rules.
        learned: LearnedKeys,
    },
    /// The policy does not allow an entry.
    Denied {
        /// The first such entry.
        first: Box<Finding>,
        /// Keys that it teaches under these rules.
        learned: LearnedKeys,
    },
    /// The list cannot be used, and says nothing.
    Unusable(Unusable),
}

/// What a [`Rejudge`] ended with; made by it, or by its [`RejudgeTask`].
#[derive(Debug)]
pub struct Rejudged {
    /// Whose list it is.
    pub agent: AgentId,
    /// The attempt.
    pub id: RejudgeId,
    /// What it was judged by.
    pub rules: ListRules,
    /// How.
    pub result: Rejudgement,
    /// Counts over it; nothing when it could not be used.
    pub report: ImaReport,
}

/// A stored list on its way through the judge.
///
/// # Cost
/// That of replaying the list, one piece at a time; memory is constant in its length.
#[derive(Debug)]
pub struct RejudgeTask {
    rejudge: Rejudge,
    appraiser: ImaAppraiser,
}

impl Rejudge {
    /// Begins, if the stored list can be the one that was committed.
    ///
    /// # Errors
    /// What the attempt ends with when it cannot.
    ///
    /// # Security
    /// Nothing is taken from the store on faith. The list counts only if replaying it gives the
    /// running values that a genuine quote proved and a tick made durable; its boot_aggregate is
    /// held against boot PCRs that quotes proved too.
    pub fn begin(self, list: &ListOnRecord) -> Result<RejudgeTask, Box<Rejudged>> {
        let proven = self.committed.position();
        if list.boot != Some(self.boot) {
            return Err(self.unusable(Unusable::OtherBoot));
        }
        let has_gap = list.gap_at_entry.is_some_and(|gap| gap < proven);
        if has_gap || list.entries < proven {
            return Err(self.unusable(Unusable::Incomplete));
        }
        let mut quoted = self.boot_pcrs.clone();
        for (pcr, value) in self.committed.running() {
            quoted.insert(*pcr, *value);
        }
        let references = self.judge.policy().compiled();
        let mut boot = BootAggregates::from_quoted(&quoted)
            .with_references(references.reference_boot_aggregates().iter().copied());
        if let Some(form) = self.ima.boot_aggregate {
            boot = boot.pinned_to(form);
        }
        let options = ImaOptions {
            format: list.format,
            ..self.ima.clone()
        };
        let judge = Some(Arc::clone(&self.judge));
        match ImaAppraiser::new(&quoted, options, Start::First, boot, judge) {
            Ok(appraiser) => Ok(RejudgeTask {
                rejudge: self,
                appraiser,
            }),
            Err(_) => Err(self.unusable(Unusable::NotReproduced)),
        }
    }

    /// What the attempt ends with when the list cannot be used.
    pub fn unusable(self, why: Unusable) -> Box<Rejudged> {
        self.ended(Rejudgement::Unusable(why), ImaReport::default())
    }

    fn ended(self, result: Rejudgement, report: ImaReport) -> Box<Rejudged> {
        Box::new(Rejudged {
            agent: self.agent,
            id: self.id,
            rules: self.rules,
            result,
            report,
        })
    }
}

impl RejudgeTask {
    /// The same, with what lists of the fleet have in common. The outcome is the same as without.
    /// (I19)
    pub fn with_caches(mut self, caches: Arc<ImaCaches>) -> Self {
        self.appraiser = self.appraiser.with_caches(caches, &self.rejudge.agent);
        self
    }

    /// What is being judged.
    pub const fn rejudge(&self) -> &Rejudge {
        &self.rejudge
    }

    /// Takes the next piece of the list; false when no more of it matters.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        let is_wanted = self.appraiser.feed(piece);
        is_wanted && self.appraiser.entries() < self.rejudge.committed.position()
    }

    /// Ends it because the rest of the list cannot be had.
    pub fn unusable(self, why: Unusable) -> Box<Rejudged> {
        self.rejudge.unusable(why)
    }

    /// Ends the list.
    pub fn finish(self) -> Box<Rejudged> {
        let Self { rejudge, appraiser } = self;
        let Ok(outcome) = appraiser.finish() else {
            return rejudge.unusable(Unusable::NotReproduced);
        };
        let ImaOutcome {
            committed,
            learned,
            boot_aggregate,
            report,
            proof,
        } = outcome;
        if committed != rejudge.committed {
            return rejudge.unusable(Unusable::NotReproduced);
        }
        // A value that a policy listed when the list was proven, and this one does not.
        let aggregate = match boot_aggregate {
            Some(Ok(Evidence::QuotedPcrs(_) | Evidence::ReferenceValue)) => None,
            Some(Err(BootAggregateFault::Unverifiable | BootAggregateFault::NotListed)) => {
                let fault = BootAggregateFault::Unverifiable;
                Some(Finding::new(Reason::BootAggregate(fault)))
            }
            _ => return rejudge.unusable(Unusable::NotReproduced),
        };
        let offences = report.offences.iter().cloned();
        let offences: Vec<Finding> = offences
            .map(|it| Finding::new(Reason::Offence(it)))
            .collect();
        // What no policy could allow would not have been committed.
        if !offences.iter().all(|finding| is_of_list(finding.code)) {
            return rejudge.unusable(Unusable::NotReproduced);
        }
        let result = match aggregate.into_iter().chain(offences).next() {
            Some(first) => Rejudgement::Denied {
                first: Box::new(first),
                learned,
            },
            None => Rejudgement::Passed { proof, learned },
        };
        rejudge.ended(result, report)
    }
}
