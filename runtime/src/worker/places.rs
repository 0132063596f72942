//! Shards that wait for something, in the order in which they began to.

use std::collections::VecDeque;

/// Places of shards, each in it once.
#[derive(Debug)]
pub(super) struct Places {
    waiting: VecDeque<usize>,
    waits: Vec<bool>,
}

impl Places {
    /// Of so many shards none waits.
    pub(super) fn none(shards: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            waits: vec![false; shards],
        }
    }

    /// Of so many shards all wait.
    pub(super) fn all(shards: usize) -> Self {
        Self {
            waiting: (0..shards).collect(),
            waits: vec![true; shards],
        }
    }

    /// Puts a shard behind the others, unless it waits already.
    pub(super) fn put(&mut self, place: usize) {
        if let Some(waits) = self.waits.get_mut(place)
            && !std::mem::replace(waits, true)
        {
            self.waiting.push_back(place);
        }
    }

    /// The shard that has waited for longest, which waits no more.
    pub(super) fn take(&mut self) -> Option<usize> {
        let place = self.waiting.pop_front()?;
        if let Some(waits) = self.waits.get_mut(place) {
            *waits = false;
        }
        Some(place)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_waits_once_and_in_its_turn() {
        let mut places = Places::none(3);
        for place in [2, 0, 2, 0, 9] {
            places.put(place);
        }
        assert_eq!((places.len(), places.take()), (2, Some(2)));
        places.put(2);
        assert_eq!([places.take(), places.take()], [Some(0), Some(2)]);
        assert!(places.is_empty() && places.take().is_none());
        assert_eq!(Places::all(2).len(), 2);
    }
}
