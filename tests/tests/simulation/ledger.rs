//! What a store must do, in the plainest way: the model that shards are simulated against.

use std::collections::HashMap;

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::{AgentState, ChainHash, Epoch, Outcome, Tick};
use rat_tests::lists::Lists;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    epoch: u64,
    heads: HashMap<ShardIndex, (u64, ChainHash)>,
    states: HashMap<AgentId, AgentState>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) lists: Lists,
}

impl Ledger {
    pub(crate) fn take_ownership(&mut self) -> Epoch {
        self.epoch += 1;
        Epoch(self.epoch)
    }

    pub(crate) fn head(&self, shard: ShardIndex) -> (u64, ChainHash) {
        self.heads.get(&shard).copied().unwrap_or_default()
    }

    pub(crate) fn state(&self, agent: &AgentId) -> AgentState {
        self.states.get(agent).cloned().unwrap_or_default()
    }

    /// Keeps a tick whole, or nothing of it.
    pub(crate) fn commit(&mut self, tick: &Tick) -> bool {
        if tick.epoch != Epoch(self.epoch) {
            return false;
        }
        let (seq, head) = self.head(tick.shard);
        assert_eq!(
            (tick.seq, tick.before),
            (seq + 1, head),
            "ticks follow each other"
        );
        assert!(tick.is_chained());
        for outcome in &tick.outcomes {
            self.check(outcome);
            self.states
                .insert(outcome.agent.clone(), outcome.state.clone());
            self.outcomes.push(outcome.clone());
        }
        self.lists.commit(tick);
        self.heads.insert(tick.shard, (tick.seq, tick.after));
        true
    }

    /// What judging a stored list may not do: it proves nothing about the machine. (L07)
    fn check_rejudged(&self, old: &AgentState, outcome: &Outcome) {
        let (new, agent) = (&outcome.state, &outcome.agent);
        assert!(
            new.trusted_until_unix_ms <= old.trusted_until_unix_ms,
            "{agent}: trusted for longer"
        );
        assert_eq!(
            (&new.boot, &new.clock, &new.ima, &new.boot_pcrs, new.passed),
            (&old.boot, &old.clock, &old.ima, &old.boot_pcrs, old.passed),
            "{agent}: proven without a quote"
        );
        assert_eq!(outcome.evidence_sha256, [0; 32]);
        assert!(outcome.log.is_none());
    }

    /// What no outcome may do to what was committed before.
    fn check(&self, outcome: &Outcome) {
        let (old, new) = (self.state(&outcome.agent), &outcome.state);
        let agent = &outcome.agent;
        if old.boot == new.boot
            && let (Some(old), Some(new)) = (&old.ima, &new.ima)
        {
            assert!(
                new.position() >= old.position(),
                "{agent}: the position went back"
            );
        }
        if let (Some(old), Some(new)) = (&old.boot, &new.boot) {
            assert!(
                new.reset_count >= old.reset_count,
                "{agent}: the boot epoch went back"
            );
        }
        if let Some(failure) = &old.failure {
            // By a quote that passed under another policy, and by nothing else. (L07)
            let is_fresh = new.attestations > old.attestations;
            let judged = new.verdict.as_ref().and_then(|verdict| verdict.policy);
            let is_other = failure.under_policy.is_some() && failure.under_policy != judged;
            assert!(
                new.failure.is_some() || (is_fresh && is_other && outcome.code.is_none()),
                "{agent}: a failure went away by itself (S09)"
            );
        }
        if new.failure.is_some() {
            assert_eq!(new.trusted_until_unix_ms, 0, "{agent}: failed and trusted");
        }
        if new.attestations == old.attestations {
            self.check_rejudged(&old, outcome);
        }
    }
}
