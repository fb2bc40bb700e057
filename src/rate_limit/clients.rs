//! Buckets of clients: counted by governor, kept in a map of bounded size.
//!
//! Who can send from many addresses could otherwise fill the memory with buckets. governor's own
//! store has no bound and no look at a bucket that takes nothing; so the store is ours, and its key
//! tells whether a token is meant to be taken.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use governor::clock::{Clock, DefaultClock};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{NotUntil, Quota, RateLimiter};

use crate::peer::network;

/// When a token will be there again.
pub(super) type Until = NotUntil<<DefaultClock as Clock>::Instant>;

/// One bucket a client.
pub(super) struct Clients(RateLimiter<Ask, Store, DefaultClock>);

impl Clients {
    pub(super) fn new(quota: Quota) -> Self {
        Self(RateLimiter::new(
            quota,
            Store::default(),
            DefaultClock::default(),
        ))
    }

    /// Takes a token of `client`.
    pub(super) fn take(&self, client: IpAddr) -> Result<(), Until> {
        self.ask(client, true)
    }

    /// Whether `client` has a token.
    pub(super) fn look(&self, client: IpAddr) -> Result<(), Until> {
        self.ask(client, false)
    }

    fn ask(&self, client: IpAddr, takes: bool) -> Result<(), Until> {
        let client = network(client);
        self.0.check_key(&Ask { client, takes })
    }

    /// Forgets buckets that are full again.
    pub(super) fn forget_quiet(&self) {
        self.0.retain_recent();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ask {
    client: IpAddr,
    takes: bool,
}

const SHARDS: usize = 64;
/// Buckets of one shard, 49,152 in all. Less than half of what a table of 2,048 places takes, so
/// that it never grows for the traces of removed ones: a policy takes 4.5 MB at most.
const SHARD_MOST: usize = 768;
/// How many are compared to find one that can go: enough to spare those that are used up.
const CANDIDATES: usize = 8;

/// For each client when its bucket will be full again, as governor counts time.
struct Store {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// Buckets in all shards: where there is none, a look takes no lock.
    buckets: AtomicUsize,
}

type Shard = HashMap<IpAddr, Nanos>;

impl Default for Store {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            buckets: AtomicUsize::new(0),
        }
    }
}

impl Store {
    fn shard(&self, client: &IpAddr) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(client) as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Store {
    type Key = Ask;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if !ask.takes && self.buckets.load(Ordering::Relaxed) == 0 {
            return judge(None).map(|(verdict, _)| verdict);
        }
        let mut shard = self.shard(&ask.client);
        let full_at = shard.get_mut(&ask.client);
        let (verdict, next) = judge(full_at.as_deref().copied())?;
        match full_at {
            _ if !ask.takes => {}
            Some(full_at) => *full_at = next,
            None => {
                if shard.len() >= SHARD_MOST {
                    evict(&mut shard);
                    self.buckets.fetch_sub(1, Ordering::Relaxed);
                }
                shard.insert(ask.client, next);
                self.buckets.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(verdict)
    }
}

/// Removes, of a few, the bucket with most in it: a whole search would make others wait.
fn evict(shard: &mut Shard) {
    let fullest = shard.iter().take(CANDIDATES).min_by_key(|(_, at)| **at);
    if let Some(client) = fullest.map(|(client, _)| *client) {
        shard.remove(&client);
    }
}

impl ShrinkableKeyedStateStore<Ask> for Store {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|_, full_at| *full_at > drop_below);
            let forgotten = before - shard.len();
            self.buckets.fetch_sub(forgotten, Ordering::Relaxed);
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
    }

    fn len(&self) -> usize {
        self.buckets.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    fn clients(period: Duration, burst: u32) -> Clients {
        let quota = Quota::with_period(period).unwrap();
        Clients::new(quota.allow_burst(NonZeroU32::new(burst).unwrap()))
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_look_takes_nothing_and_tells_what_taking_would() {
        let clients = clients(HOUR, 2);
        for _ in 0..5 {
            assert!(clients.look(ip(1)).is_ok());
        }
        assert!(clients.0.is_empty());
        assert!(clients.take(ip(1)).is_ok());
        assert!(clients.look(ip(1)).is_ok());
        assert!(clients.take(ip(1)).is_ok());
        for _ in 0..5 {
            assert!(clients.look(ip(1)).is_err());
            assert!(clients.take(ip(1)).is_err());
            assert!(clients.look(ip(2)).is_ok());
        }
        let now = DefaultClock::default().now();
        let wait = clients.look(ip(1)).unwrap_err().wait_time_from(now);
        assert!(wait > HOUR - Duration::from_secs(60) && wait <= HOUR);
    }

    #[test]
    fn any_number_of_clients_has_a_bounded_number_of_buckets() {
        let clients = clients(HOUR, 3);
        for _ in 0..3 {
            assert!(clients.take(ip(0)).is_ok());
        }
        for n in 1..200_000 {
            assert!(clients.take(ip(n)).is_ok());
        }
        assert_eq!(clients.0.len(), SHARDS * SHARD_MOST);
        assert!(
            clients.look(ip(0)).is_err(),
            "who has used up his bucket is not forgotten for newcomers"
        );
        let store = clients.0.into_state_store();
        let kept: usize = store.shards.iter().map(|shard| lock(shard).len()).sum();
        assert_eq!(kept, SHARDS * SHARD_MOST);
        assert!(store.shards.iter().all(|s| lock(s).capacity() < 2_048));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let quick = clients(Duration::from_nanos(1), 1);
        let slow = clients(HOUR, 1);
        for n in 0..1_000 {
            assert!(quick.take(ip(n)).is_ok() && slow.take(ip(n)).is_ok());
        }
        while !quick.0.is_empty() {
            quick.forget_quiet();
        }
        slow.forget_quiet();
        let room: usize = quick
            .0
            .into_state_store()
            .shards
            .iter()
            .map(|s| lock(s).capacity())
            .sum();
        assert_eq!((room, slow.0.len()), (0, 1_000));
    }
}
