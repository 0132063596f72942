//! Policies that are activated, and stored lists that are judged by them.

use std::sync::Arc;

use rat_engine::shard::{Input, Rejudge, Unusable};

use crate::fleet::{Allows, Demanded, groups};
use crate::world::{Happening, World};

impl World {
    /// Has the groups enforce another policy.
    pub(crate) fn activate(&mut self, allows: Allows) {
        self.demand(Demanded::usual(allows));
    }

    /// Changes what the groups demand beside the policy.
    pub(crate) fn change_demands(&mut self) {
        let mut demanded = self.demanded;
        match self.random.below(5) {
            0 => demanded.bypass = !demanded.bypass,
            1 => demanded.protected = !demanded.protected,
            2 => demanded.signatures = !demanded.signatures,
            _ => {
                let next = [None, Some(true), Some(false)];
                demanded.pcrs = next[self.random.below(3) as usize];
            }
        }
        self.demand(demanded);
    }

    /// Gives one group another interval, or none of its own.
    pub(crate) fn change_interval(&mut self) {
        let next = [None, Some(4_000), Some(25_000), Some(60_000)];
        self.yard_interval_ms = next[self.random.below(4) as usize];
        self.happened.intervals += 1;
        self.demand(self.demanded);
    }

    fn demand(&mut self, demanded: Demanded) {
        let now = self.now();
        self.demanded = demanded;
        self.groups = groups(demanded, self.yard_interval_ms);
        for shard in self.shards.values_mut() {
            for group in &self.groups {
                shard.handle(Input::Group(Arc::clone(group)), now);
            }
        }
    }

    /// The store is asked for a list; what it gives may be wrong, and may never come.
    pub(crate) fn reread(&mut self, rejudge: Rejudge, life: u64) {
        let agent = rejudge.agent.clone();
        let mut list = self.ledger.lists.of(&agent).cloned();
        if let Some(durable) = &self.durable {
            assert_eq!(durable.list(&agent), list, "{agent}");
        }
        if self.random.permille(self.faults.list) {
            match self.random.below(4) {
                0 => return,
                1 => list = None,
                2 => {
                    let at = self.random.below(1_000) as usize;
                    if let Some(list) = &mut list {
                        let at = at % list.bytes.len();
                        list.bytes[at] ^= 1;
                    }
                }
                _ => {
                    if let Some(list) = &mut list {
                        list.bytes.truncate(list.bytes.len() / 2);
                    }
                }
            }
        }
        let pieces = 1 + self.random.below(300) as usize;
        let rejudged = match list {
            Some(list) => list.rejudge(rejudge, pieces),
            None => rejudge.unusable(Unusable::Missing),
        };
        let after = self.delay_ms();
        self.schedule(after, Happening::Rejudged { rejudged, life });
    }
}
