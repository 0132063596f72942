//! What machines do by themselves, and what operators do to them, each second.

use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentState, Input, Operation};

use crate::fleet::{Allows, Body, record};
use crate::world::{Happening, UNIX_MS, World};

/// How long a removed agent stays away: longer than anything of it is on its way.
const REMOVED_MS: u64 = 15_000;
/// What was on its way when a machine was set right may still fail it.
const AFTERMATH_MS: u64 = 15_000;

impl World {
    pub(crate) fn second(&mut self) {
        let bodies: Vec<Body> = self.bodies.keys().cloned().collect();
        for body in &bodies {
            let random = self.random.next();
            if random.is_multiple_of(3) {
                let machine = self.bodies.get_mut(body).unwrap();
                machine.run_allowed(random / 3);
            }
        }
        let agents: Vec<AgentId> = self.agents().cloned().collect();
        for agent in agents {
            self.machine_fails(&agent);
            self.operator_acts(&agent);
        }
        if self.random.permille(self.faults.policy) {
            let next = [Allows::Usual, Allows::More, Allows::Less];
            let next = next[self.random.below(3) as usize];
            self.activate(next);
        }
        if self.random.permille(self.faults.demands) {
            self.change_demands();
        }
        if self.random.permille(self.faults.interval) {
            self.change_interval();
        }
        self.schedule(1_000, Happening::Second);
    }

    /// What happens to one machine.
    fn machine_fails(&mut self, agent: &AgentId) {
        let (faults, now_ms) = (self.faults, self.now_ms);
        let original = Body::original(agent);
        let mut happens = |chance| self.random.permille(chance);
        let (runs, boots, restarts) = (
            happens(faults.compromise),
            happens(faults.reboot),
            happens(faults.restart),
        );
        let (killed, copied) = (happens(faults.kill), happens(faults.copy));
        let (hides, shows) = (happens(faults.hide), happens(100));
        let machine = self.bodies.get_mut(&original).unwrap();
        if machine.copied_at_ms.is_some() {
            // What one of the two does is not the other's doing.
            return;
        }
        if runs {
            machine.run_unlisted(now_ms);
        }
        if !machine.is_clean() {
            return;
        }
        if shows {
            machine.shows();
        }
        if boots || restarts || hides {
            match (boots, restarts) {
                (true, _) => machine.reboot(now_ms),
                (_, true) => machine.restart(now_ms),
                _ => machine.boot_unseen(now_ms),
            }
            self.happened.restarts += u64::from(!boots && restarts);
            self.happened.hidden += u64::from(!boots && !restarts);
            self.disconnect(&original);
            self.connect_after(5_000, &original);
        } else if killed {
            machine.start_agent();
            self.happened.kills += 1;
            self.sessions.remove(&original);
            let after = self.delay_ms();
            self.connect_after(after, &original);
        } else if copied {
            self.copy_machine(agent);
        }
    }

    /// Copies a running machine: its TPM, its memory, and the agent in it.
    pub(crate) fn copy_machine(&mut self, agent: &AgentId) {
        let machine = self.bodies.get_mut(&Body::original(agent)).unwrap();
        machine.copied_at_ms = Some(self.now_ms);
        let copy = machine.clone();
        let body = Body::copy_of(agent);
        self.bodies.insert(body.clone(), copy);
        self.happened.copies += 1;
        let after = self.delay_ms();
        self.connect_after(after, &body);
    }

    fn operator_acts(&mut self, agent: &AgentId) {
        let (repairs, removes) = (
            self.random.permille(self.faults.repair),
            self.random.permille(self.faults.remove),
        );
        let Some(failure) = self.view(agent).map(|view| view.state.failure) else {
            return;
        };
        let machine = &self.bodies[&Body::original(agent)];
        if let Some(failure) = &failure {
            // What no change ends, an operator looks into.
            let is_mixed = failure.group.is_none();
            let repaired_ms = machine.repaired_at_ms.map(|at_ms| at_ms + AFTERMATH_MS);
            if is_mixed || repaired_ms.is_some_and(|ms| failure.at_unix_ms < UNIX_MS + ms) {
                self.clear(agent);
            } else if repairs {
                self.repair(agent);
            }
        }
        if removes {
            self.remove(agent);
        }
    }

    /// Sets a machine right: nothing of what ran is left, and a copy of it is gone.
    pub(crate) fn repair(&mut self, agent: &AgentId) {
        let (original, copy) = (Body::original(agent), Body::copy_of(agent));
        self.disconnect(&copy);
        self.bodies.remove(&copy);
        self.disconnect(&original);
        let now_ms = self.now_ms;
        self.bodies.get_mut(&original).unwrap().repair(now_ms);
        self.happened.repairs += 1;
        self.connect_after(5_000, &original);
    }

    fn clear(&mut self, agent: &AgentId) {
        self.ledger.may_clear(agent);
        let operation = Operation::Clear;
        let id = agent.clone();
        self.handle(
            agent,
            Input::Operate {
                agent: id,
                operation,
            },
        );
    }

    fn remove(&mut self, agent: &AgentId) {
        self.happened.removals += 1;
        self.was_removed.insert(agent.clone());
        self.handle(agent, Input::Remove(agent.clone()));
        self.ledger.remove(agent);
        if let Some(durable) = &self.durable {
            durable.remove(agent);
        }
        let agent = agent.clone();
        self.schedule(REMOVED_MS, Happening::Enrol { agent });
    }

    /// An agent that was removed enrols again: of what was known, its failure is left. (S16)
    pub(crate) fn enrol(&mut self, agent: &AgentId) {
        let original = Body::original(agent);
        let record = record(&self.bodies[&original]);
        let state: AgentState = self.ledger.enrol(agent);
        if let Some(durable) = &self.durable {
            durable.enrol(&record);
        }
        let input = Input::Agent {
            record: Box::new(record),
            state: Box::new(state),
            candidate: None,
        };
        self.handle(agent, input);
        self.connect_after(1, &original);
    }
}
