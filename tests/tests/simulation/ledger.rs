//! What a store must do, in the plainest way: the model that shards are simulated against.

use std::collections::{HashMap, HashSet};

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::{AgentState, BootEpoch, ChainHash, Epoch, Failure, Outcome, Tick};
use rat_tests::lists::Lists;
use rat_tests::sequences::passed_by_another_policy;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    epoch: u64,
    heads: HashMap<ShardIndex, (u64, ChainHash)>,
    states: HashMap<AgentId, AgentState>,
    /// What was committed before that.
    states_before: HashMap<AgentId, AgentState>,
    /// The failures of machines whose agents were removed. (S16)
    removed: HashMap<AgentId, Option<Box<Failure>>>,
    /// Agents whose failure an operator has taken back, which may not be committed yet.
    to_clear: HashSet<AgentId>,
    /// Boots whose lists were sent from their beginning, and proven.
    whole: HashSet<(AgentId, BootEpoch)>,
    /// The newest list of each agent.
    pub(crate) lists: Lists,
    /// How many lists were sent from entry 0, of those that were proven.
    pub(crate) whole_lists: u64,
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

    pub(crate) fn state_before(&self, agent: &AgentId) -> AgentState {
        self.states_before.get(agent).cloned().unwrap_or_default()
    }

    /// Whether all of an agent's list of this boot was proven.
    pub(crate) fn has_whole_list(&self, agent: &AgentId, boot: BootEpoch) -> bool {
        self.whole.contains(&(agent.clone(), boot))
    }

    pub(crate) fn is_removed(&self, agent: &AgentId) -> bool {
        self.removed.contains_key(agent)
    }

    pub(crate) fn remove(&mut self, agent: &AgentId) {
        let state = self.states.remove(agent).unwrap_or_default();
        self.states_before.remove(agent);
        self.lists.lose(agent);
        self.removed.insert(agent.clone(), state.failure);
    }

    /// The state with which a removed agent begins anew.
    pub(crate) fn enrol(&mut self, agent: &AgentId) -> AgentState {
        let failure = self.removed.remove(agent).unwrap();
        let state = AgentState {
            failure,
            ..AgentState::default()
        };
        self.states.insert(agent.clone(), state.clone());
        self.states_before.insert(agent.clone(), state.clone());
        state
    }

    /// An operator takes back what an agent failed by.
    pub(crate) fn may_clear(&mut self, agent: &AgentId) {
        self.to_clear.insert(agent.clone());
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
            self.keep(outcome);
        }
        self.heads.insert(tick.shard, (tick.seq, tick.after));
        true
    }

    fn keep(&mut self, outcome: &Outcome) {
        // What was on its way when the agent was removed: a failure sticks to the machine. (S16)
        if let Some(failure) = self.removed.get_mut(&outcome.agent) {
            if outcome.state.failure.is_some() {
                failure.clone_from(&outcome.state.failure);
            }
            return;
        }
        self.check(outcome);
        let (agent, state) = (outcome.agent.clone(), outcome.state.clone());
        let before = self.states.insert(agent.clone(), state);
        self.states_before.insert(agent, before.unwrap_or_default());
        self.lists.keep(outcome);
        let from_entry = outcome.log.as_ref().map(|log| log.from_entry);
        self.whole_lists += u64::from(from_entry == Some(0));
        if let (Some(0), Some(boot)) = (from_entry, outcome.state.boot) {
            self.whole.insert((outcome.agent.clone(), boot));
        }
    }

    /// What no outcome may do to what was committed before.
    fn check(&mut self, outcome: &Outcome) {
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
                (new.reset_count, new.restart_count) >= (old.reset_count, old.restart_count),
                "{agent}: the boot epoch went back"
            );
        }
        if let Some(failure) = &old.failure
            && new.failure.is_none()
        {
            // Once it is gone, there is nothing left to be taken back.
            let was_asked_for = self.to_clear.remove(agent);
            // Taking back is an outcome of its own, without evidence, and judges nothing.
            let is_operators = was_asked_for
                && (outcome.evidence_sha256, outcome.policy) == ([0; 32], None)
                && new.trusted_until_unix_ms == 0;
            // Otherwise it ends by a quote that passed under another policy. (L07)
            let is_fresh = new.attestations > old.attestations;
            let is_other = passed_by_another_policy(failure, new);
            assert!(
                is_operators || (is_fresh && is_other && outcome.code.is_none()),
                "{agent}: a failure went away by itself (S09)"
            );
        }
        // What a policy does not allow is not held against anybody where it is not enforced. (L12)
        if let Some(failure) = &new.failure
            && failure.under_policy.is_none()
        {
            assert_eq!(new.trusted_until_unix_ms, 0, "{agent}: failed and trusted");
        }
        if new.attestations == old.attestations {
            check_unattested(&old, outcome);
        }
    }
}

/// What no outcome may do that counts for no attestation: it proves nothing about the machine. (L07)
fn check_unattested(old: &AgentState, outcome: &Outcome) {
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
    // Evidence that was turned away is recorded, and changes nothing.
    if outcome.evidence_sha256 != [0; 32] {
        assert_eq!(new, old, "{agent}: changed by what was turned away");
    }
    assert!(outcome.log.is_none());
}
