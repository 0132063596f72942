//! Limits per client address, in memory that no number of addresses can make grow.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::ApiError;
use crate::limits::{
    ADDRESS_BUCKETS, TOKEN_FAILURES_PER_ADDRESS_PER_MINUTE, TOKEN_HOLD_MS, TOKEN_HOLDS, duration,
};

/// What counts as one client: an IPv4 address, or the /64 that an IPv6 site has at least.
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Rate limiters that addresses, or names, share by keyed hash.
///
/// A table of addresses would grow with every forged or rented address, or forget honest ones to
/// stay small. Here a stranger can only share a bucket with somebody by chance: the hash's key is
/// random and secret. There is an entry for each bucket that is not full.
pub(crate) struct Buckets {
    shards: Vec<Shard>,
    hash: RandomState,
    clock: DefaultClock,
}

struct Shard {
    limiter: DefaultKeyedRateLimiter<usize>,
    taken: AtomicUsize,
}

/// Parts of the buckets with a lock each.
const SHARDS: usize = 64;
/// Full buckets are forgotten each time that so many were taken from a shard.
const SWEEP_EVERY: usize = 16 * 1024;

impl Buckets {
    pub(crate) fn new(quota: Quota) -> Self {
        let shard = |_| Shard {
            limiter: RateLimiter::keyed(quota),
            taken: AtomicUsize::new(0),
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            hash: RandomState::new(),
            clock: DefaultClock::default(),
        }
    }

    fn index(&self, key: impl Hash) -> usize {
        let hash = self.hash.hash_one(key);
        let count = u64::try_from(ADDRESS_BUCKETS).unwrap_or(1);
        let index = hash.checked_rem(count).unwrap_or(0);
        usize::try_from(index).unwrap_or(0)
    }

    /// Takes one from the key's bucket.
    ///
    /// # Errors
    /// How long until there is one again.
    pub(crate) fn take(&self, key: impl Hash) -> Result<(), Duration> {
        let index = self.index(key);
        let Some(shard) = self.shards.get(index % SHARDS) else {
            return Ok(());
        };
        let taken = shard.taken.fetch_add(1, Ordering::Relaxed);
        if taken % SWEEP_EVERY == SWEEP_EVERY - 1 {
            shard.limiter.retain_recent();
        }
        let checked = shard.limiter.check_key(&index);
        checked.map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// How many requests an address may make.
pub(crate) struct RequestRate(Buckets);

impl RequestRate {
    pub(crate) fn new(per_second: usize) -> Self {
        let per_second = count(per_second);
        let burst = per_second.saturating_mul(count(4));
        Self(Buckets::new(
            Quota::per_second(per_second).allow_burst(burst),
        ))
    }

    /// # Errors
    /// [`ApiError::Limited`].
    pub(crate) fn take(&self, address: IpAddr) -> Result<(), ApiError> {
        self.0.take(client_of(address)).map_err(|wait| {
            ApiError::limited("REQUESTS_PER_ADDRESS_PER_SECOND", whole_seconds(wait))
        })
    }
}

/// Holds back addresses that guess tokens. (A03)
///
/// Only failures count: a site of thousands of machines behind one address may enrol with one
/// token. Once an address has failed too often, its tokens are not even looked at for a while, so
/// that a right guess is answered like a wrong one.
pub struct TokenGuard {
    failures: Buckets,
    held_until: Vec<Mutex<Option<tokio::time::Instant>>>,
}

impl TokenGuard {
    /// A guard that has seen no failure.
    pub fn new() -> Self {
        let quota = Quota::per_minute(count(TOKEN_FAILURES_PER_ADDRESS_PER_MINUTE));
        Self {
            failures: Buckets::new(quota),
            held_until: (0..TOKEN_HOLDS).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Whether a token from this address may be looked at.
    ///
    /// # Errors
    /// [`ApiError::Limited`].
    pub fn admit(&self, address: IpAddr) -> Result<(), ApiError> {
        let Some(slot) = self.slot(client_of(address)) else {
            return Ok(());
        };
        let held = *slot.lock().unwrap_or_else(PoisonError::into_inner);
        let now = tokio::time::Instant::now();
        match held.and_then(|until| until.checked_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Err(Self::limited(wait)),
            _ => Ok(()),
        }
    }

    /// Counts a token that was not valid.
    pub fn failed(&self, address: IpAddr) {
        let client = client_of(address);
        if self.failures.take(client).is_ok() {
            return;
        }
        let until = tokio::time::Instant::now().checked_add(duration(TOKEN_HOLD_MS));
        if let Some(slot) = self.slot(client) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }

    fn slot(&self, client: IpAddr) -> Option<&Mutex<Option<tokio::time::Instant>>> {
        self.held_until
            .get(self.failures.index(client) % TOKEN_HOLDS)
    }

    fn limited(wait: Duration) -> ApiError {
        ApiError::limited("TOKEN_FAILURES_PER_ADDRESS_PER_MINUTE", whole_seconds(wait))
    }
}

impl Default for TokenGuard {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn count(limit: usize) -> NonZeroU32 {
    u32::try_from(limit)
        .ok()
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MIN)
}

/// Rounded up, so that whoever waits as long as told is admitted.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(1)
}

/// How much of something each address has; as many entries as there are shares out.
#[derive(Clone, Default)]
pub(crate) struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Shares {
    /// Counts one more for this address, until the share is dropped. `None` when it has `max`
    /// already.
    pub(crate) fn take(&self, address: IpAddr, max: usize) -> Option<Share> {
        let client = client_of(address);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = table.entry(client).or_insert(0);
        if *open >= max {
            return None;
        }
        *open = open.saturating_add(1);
        Some(Share {
            table: self.clone(),
            client,
        })
    }
}

/// One of what an address has.
pub(crate) struct Share {
    table: Shares,
    client: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = table.get_mut(&self.client) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                table.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_client_is_an_ipv4_address_or_a_network_of_64_bits() {
        assert_eq!(
            client_of(address("2001:db8::1")),
            client_of(address("2001:db8::ffff"))
        );
        assert_ne!(
            client_of(address("2001:db8::1")),
            client_of(address("2001:db8:0:1::1"))
        );
        assert_eq!(client_of(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        assert_ne!(
            client_of(address("192.0.2.1")),
            client_of(address("192.0.2.2"))
        );
    }

    #[test]
    fn a03_an_address_that_guesses_tokens_must_wait() {
        let guard = TokenGuard::new();
        let guessing = address("192.0.2.1");
        for _ in 0..TOKEN_FAILURES_PER_ADDRESS_PER_MINUTE {
            guard.admit(guessing).unwrap();
            guard.failed(guessing);
        }
        guard.admit(guessing).unwrap();
        guard.failed(guessing);
        let error = guard.admit(guessing).unwrap_err();
        assert_eq!(error.status(), 429);
        // Another's slot; of 4096 some other address certainly has one.
        let slot = |of| guard.failures.index(of) % TOKEN_HOLDS;
        let other = (2..=255)
            .map(|last| address(&format!("192.0.2.{last}")))
            .find(|other| slot(*other) != slot(guessing));
        guard.admit(other.unwrap()).unwrap();
    }

    #[test]
    fn a_fleet_of_names_is_not_taken_for_one_and_is_forgotten_again() {
        let buckets = Buckets::new(Quota::per_second(count(1000)).allow_burst(count(15)));
        let refused = (0..100_000).filter(|name| buckets.take(name).is_err());
        assert_eq!(refused.count(), 0);
        let held = || -> usize { buckets.shards.iter().map(|it| it.limiter.len()).sum() };
        assert!(held() < ADDRESS_BUCKETS);
        std::thread::sleep(Duration::from_millis(20));
        for _ in 0..SWEEP_EVERY {
            // Each of these is soon empty itself, and its shard is swept all the same.
            buckets.take(0).unwrap_or_default();
        }
        let swept = buckets.index(0) % SHARDS;
        assert!(buckets.shards[swept].limiter.len() <= 1);
    }

    #[test]
    fn x05_shares_are_counted_while_they_are_held() {
        let open = Shares::default();
        let first = open.take(address("192.0.2.1"), 2).unwrap();
        let _second = open.take(address("192.0.2.1"), 2).unwrap();
        assert!(open.take(address("192.0.2.1"), 2).is_none());
        assert!(open.take(address("192.0.2.2"), 2).is_some());
        drop(first);
        assert!(open.take(address("192.0.2.1"), 2).is_some());
        drop(_second);
        assert!(open.0.lock().unwrap().is_empty());
    }
}
