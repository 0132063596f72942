//! One list's use of the caches: what it found there, and what it will add once it is proven.

use std::sync::Arc;

use hashbrown::HashTable;

use super::batch::Batch;
use super::caches::{ImaCaches, Kind, NewRecord, Newcomer};
use super::hashes::{Algorithms, Hashes};
use super::judge::{Denial, Pass};
use super::template::Template;
use super::verdicts::{Answers, Kept, PathAnswer, Verdicts};
use crate::agent_id::AgentId;

/// Records of others that one list can make shared.
const NEWCOMERS_MAX: usize = 64 * 1024;

/// What one list found, within its machine's quota.
#[derive(Debug)]
pub(super) struct Recall {
    caches: Arc<ImaCaches>,
    owner: u64,
    algorithms: Algorithms,
    new: Vec<NewRecord>,
    new_bytes: usize,
    /// Paths among the new records, by hash.
    new_paths: HashTable<(u64, usize)>,
    refused: u64,
    newcomers: Vec<Newcomer>,
}

impl Recall {
    pub(super) fn new(caches: Arc<ImaCaches>, agent: &AgentId, algorithms: Algorithms) -> Self {
        Self {
            owner: caches.owner(agent),
            caches,
            algorithms,
            new: Vec::new(),
            new_bytes: 0,
            new_paths: HashTable::new(),
            refused: 0,
            newcomers: Vec::new(),
        }
    }

    /// Finds what is known of a batch of entries.
    pub(super) fn look_up(&mut self, batch: &mut Batch) {
        let newcomers = &mut self.newcomers;
        self.caches
            .look_up(batch, self.algorithms, self.owner, newcomers);
        newcomers.truncate(NEWCOMERS_MAX);
    }

    /// Notes an entry whose form is right, which the caches do not hold, and what the policy says.
    pub(super) fn note_entry(
        &mut self,
        template: Template,
        hash: u64,
        hashes: &Hashes<'_>,
        answers: Answers,
    ) {
        if let Some(kind) = Kind::of_entry(template, self.algorithms) {
            self.note(kind, hash, hashes.packed(), hashes.data(), answers);
        }
    }

    /// What the patterns of a policy say of a path, if that is known.
    pub(super) fn path(&mut self, path: &[u8], verdicts: &Verdicts) -> PathKnown {
        let hash = self.caches.hash(path);
        let newcomers = &mut self.newcomers;
        if let Some(number) = self.caches.path(hash, path, self.owner, newcomers) {
            newcomers.truncate(NEWCOMERS_MAX);
            return match verdicts.path(number) {
                Some(answer) => PathKnown::Answer(answer),
                None => PathKnown::Record(number),
            };
        }
        let new = &self.new;
        let is_it = |(_, at): &(u64, usize)| new.get(*at).is_some_and(|new| new.data() == path);
        let found = self.new_paths.find(hash, is_it);
        let found = found.and_then(|(_, at)| new.get(*at)?.answers.path());
        found.map_or(PathKnown::Nothing { hash }, PathKnown::Answer)
    }

    /// Notes what the patterns say of a path.
    pub(super) fn note_path(
        &mut self,
        known: PathKnown,
        path: &[u8],
        answer: PathAnswer,
        verdicts: &Verdicts,
    ) {
        let answers = Answers::of_path(answer);
        match known {
            // The record was proven before, and the answer is one about these bytes.
            PathKnown::Record(number) => verdicts.keep(number, answers),
            PathKnown::Nothing { hash } => {
                let at = self.new.len();
                if self.note(Kind::PATH, hash, &[], path, answers) {
                    self.new_paths
                        .insert_unique(hash, (hash, at), |(hash, _)| *hash);
                }
            }
            PathKnown::Answer(_) => {}
        }
    }

    fn note(
        &mut self,
        kind: Kind,
        hash: u64,
        hashes: &[u8],
        data: &[u8],
        answers: Answers,
    ) -> bool {
        let Ok(length) = u8::try_from(hashes.len()) else {
            return false;
        };
        let record = NewRecord::cost_of(hashes.len(), data.len());
        let new_bytes = self.new_bytes.saturating_add(record);
        if new_bytes > self.caches.agent_bytes_max() {
            self.refused = self.refused.saturating_add(1);
            return false;
        }
        self.new_bytes = new_bytes;
        self.new.push(NewRecord {
            hash,
            kind,
            hashes: length,
            bytes: [hashes, data].concat().into(),
            answers,
        });
        true
    }

    /// Adds what the list found to the caches: it was proven.
    pub(super) fn learn(self, verdicts: Option<&Verdicts>) {
        if self.refused > 0 {
            self.caches.refuse(self.refused);
        }
        if !self.new.is_empty() || !self.newcomers.is_empty() {
            self.caches
                .learn(self.owner, self.new, &self.newcomers, verdicts);
        }
    }
}

/// What is known of a path under a policy.
#[derive(Debug, Clone, Copy)]
pub(super) enum PathKnown {
    /// What its patterns say.
    Answer(PathAnswer),
    /// The number of its record, which this policy was not asked about.
    Record(u64),
    /// Nothing.
    Nothing {
        /// Its hash.
        hash: u64,
    },
}

/// What is kept of a judgement.
pub(super) const fn kept(result: Result<Pass, Denial>, rests_on_policy: bool) -> Kept {
    match (rests_on_policy, result) {
        (false, _) => Kept::NeedsAgentState,
        (true, Ok(pass)) => Kept::Allow(pass),
        (true, Err(denial)) => Kept::Deny(denial),
    }
}
