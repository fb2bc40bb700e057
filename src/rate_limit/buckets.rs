//! The buckets of one policy: counted by governor, kept in stores of our own.
//!
//! governor's own stores have no bound (who can send from many addresses could fill the memory), no
//! look at a bucket that takes nothing, and no way to give a token back. So the stores are ours: one
//! bucket for everybody, or a map of bounded size; and what is asked of them tells whether a token is
//! meant to be taken.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{NotUntil, Quota, RateLimiter};

/// When a token will be there again.
pub(super) type Until = NotUntil<<DefaultClock as Clock>::Instant>;

/// Whose bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whose {
    /// A digest of the key's name; 0 where keys make no difference.
    pub(super) key: u64,
    /// The client's network; unspecified where clients make no difference.
    pub(super) client: IpAddr,
}

impl Hash for Whose {
    /// In two words. What is derived for an address hashes its kind, its length and its bytes.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.key);
        match self.client {
            IpAddr::V4(v4) => state.write_u32(v4.to_bits()),
            IpAddr::V6(v6) => state.write_u128(v6.to_bits()),
        }
    }
}

impl Whose {
    /// The same in bytes, for the store that replicas share.
    pub(super) fn bytes(self) -> [u8; 24] {
        let client = match self.client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.key.to_be_bytes());
        bytes[8..].copy_from_slice(&client.octets());
        bytes
    }
}

/// The buckets of one policy.
pub(super) struct Buckets {
    limiter: RateLimiter<Ask, Store, DefaultClock, StateInformationMiddleware>,
    store: Store,
    /// In which a token comes back.
    interval: Nanos,
}

impl Buckets {
    /// One bucket for everybody.
    pub(super) fn one(quota: Quota) -> Self {
        Self::with(quota, Store(Arc::new(Kept::One(AtomicU64::new(0)))))
    }

    /// One each, of a bounded number.
    pub(super) fn many(quota: Quota) -> Self {
        Self::with(quota, Store(Arc::new(Kept::Many(Map::default()))))
    }

    fn with(quota: Quota, store: Store) -> Self {
        Self {
            limiter: RateLimiter::new(quota, store.clone(), DefaultClock::default()),
            store,
            interval: quota.replenish_interval().into(),
        }
    }

    /// Takes a token; how the bucket stands then.
    pub(super) fn take(&self, whose: Whose) -> Result<StateSnapshot, Until> {
        self.limiter.check_key(&Ask { whose, takes: true })
    }

    /// How the bucket would stand if one were taken.
    pub(super) fn look(&self, whose: Whose) -> Result<StateSnapshot, Until> {
        let takes = false;
        self.limiter.check_key(&Ask { whose, takes })
    }

    /// Gives back a token that was taken.
    pub(super) fn give_back(&self, whose: Whose) {
        self.store.0.give_back(whose, self.interval);
    }

    /// Forgets buckets that are full again.
    pub(super) fn forget_quiet(&self) {
        self.limiter.retain_recent();
    }

    /// How many tokens are there after a look or a take, and how long until all are.
    pub(super) fn standing(state: &StateSnapshot) -> (u32, Duration) {
        let quota = state.quota();
        let left = state.remaining_burst_capacity();
        let gone = quota.burst_size().get().saturating_sub(left);
        (left, quota.replenish_interval() * gone)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ask {
    whose: Whose,
    takes: bool,
}

/// For each bucket when it will be full again, as governor counts time.
#[derive(Clone)]
struct Store(Arc<Kept>);

enum Kept {
    /// 0: nothing was taken yet.
    One(AtomicU64),
    Many(Map),
}

impl Kept {
    fn give_back(&self, whose: Whose, interval: Nanos) {
        let earlier = |at: u64| at.saturating_sub(interval.as_u64());
        match self {
            Self::One(full_at) => {
                let change = |at| Some(earlier(at));
                let _: Result<u64, u64> =
                    full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
            }
            Self::Many(map) => {
                if let Some(full_at) = map.shard(whose).get_mut(&whose) {
                    *full_at = earlier(full_at.as_u64()).into();
                }
            }
        }
    }
}

impl StateStore for Store {
    type Key = Ask;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        match &*self.0 {
            Kept::Many(map) => map.measure(*ask, judge),
            Kept::One(full_at) => {
                let mut before = full_at.load(Ordering::Relaxed);
                loop {
                    let known = (before != 0).then_some(Nanos::from(before));
                    let (verdict, next) = judge(known)?;
                    if !ask.takes {
                        return Ok(verdict);
                    }
                    match full_at.compare_exchange_weak(
                        before,
                        next.as_u64(),
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    ) {
                        Ok(_) => return Ok(verdict),
                        Err(now) => before = now,
                    }
                }
            }
        }
    }
}

impl ShrinkableKeyedStateStore<Ask> for Store {
    fn retain_recent(&self, drop_below: Nanos) {
        if let Kept::Many(map) = &*self.0 {
            map.retain_recent(drop_below);
        }
    }

    fn len(&self) -> usize {
        match &*self.0 {
            Kept::One(_) => 1,
            Kept::Many(map) => map.buckets.load(Ordering::Relaxed),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const SHARDS: usize = 64;
/// Buckets of one shard, 49,152 in all. Less than half of what a table of 2,048 places takes, so
/// that it never grows for the traces of removed ones.
const SHARD_MOST: usize = 768;
/// How many are compared to find one that can go: enough to spare those that are used up.
const CANDIDATES: usize = 8;

/// A bounded number of buckets.
struct Map {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// Buckets in all shards: where there is none, a look takes no lock.
    buckets: AtomicUsize,
}

type Shard = HashMap<Whose, Nanos>;

impl Default for Map {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            buckets: AtomicUsize::new(0),
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Map {
    fn shard(&self, whose: Whose) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(whose) as usize % SHARDS])
    }

    fn measure<T, F, E>(&self, ask: Ask, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if !ask.takes && self.buckets.load(Ordering::Relaxed) == 0 {
            return judge(None).map(|(verdict, _)| verdict);
        }
        let mut shard = self.shard(ask.whose);
        let full_at = shard.get_mut(&ask.whose);
        let (verdict, next) = judge(full_at.as_deref().copied())?;
        match full_at {
            _ if !ask.takes => {}
            Some(full_at) => *full_at = next,
            None => {
                if shard.len() >= SHARD_MOST {
                    evict(&mut shard);
                    self.buckets.fetch_sub(1, Ordering::Relaxed);
                }
                shard.insert(ask.whose, next);
                self.buckets.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(verdict)
    }

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
}

/// Removes, of a few, the bucket with most in it: a whole search would make others wait.
fn evict(shard: &mut Shard) {
    let fullest = shard.iter().take(CANDIDATES).min_by_key(|(_, at)| **at);
    if let Some(whose) = fullest.map(|(whose, _)| *whose) {
        shard.remove(&whose);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;

    use super::*;

    fn quota(period: Duration, burst: u32) -> Quota {
        let quota = Quota::with_period(period).unwrap();
        quota.allow_burst(NonZeroU32::new(burst).unwrap())
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn client(n: u32) -> Whose {
        Whose {
            key: 0,
            client: Ipv4Addr::from(n).into(),
        }
    }

    fn both(quota: Quota) -> [Buckets; 2] {
        [Buckets::one(quota), Buckets::many(quota)]
    }

    #[test]
    fn a_look_takes_nothing_and_tells_what_taking_would() {
        for buckets in both(quota(HOUR, 2)) {
            for _ in 0..5 {
                assert!(buckets.look(client(1)).is_ok());
            }
            assert!(buckets.take(client(1)).is_ok());
            assert!(buckets.look(client(1)).is_ok());
            assert!(buckets.take(client(1)).is_ok());
            for _ in 0..5 {
                assert!(buckets.look(client(1)).is_err());
                assert!(buckets.take(client(1)).is_err());
            }
            let now = DefaultClock::default().now();
            let wait = buckets.look(client(1)).unwrap_err().wait_time_from(now);
            assert!(wait > HOUR - Duration::from_secs(60) && wait <= HOUR);
        }
    }

    #[test]
    fn one_bucket_is_everybodys_and_of_many_each_has_its_own() {
        let [one, many] = both(quota(HOUR, 1));
        assert!(one.take(client(1)).is_ok() && many.take(client(1)).is_ok());
        assert!(one.take(client(2)).is_err());
        assert!(many.take(client(2)).is_ok());
        let other_key = Whose {
            key: 7,
            ..client(1)
        };
        assert!(many.take(other_key).is_ok());
    }

    #[test]
    fn what_is_given_back_is_there_again_and_no_more() {
        for buckets in both(quota(HOUR, 2)) {
            let left = |state: &StateSnapshot| Buckets::standing(state).0;
            assert_eq!(left(&buckets.take(client(1)).unwrap()), 1);
            buckets.give_back(client(1));
            assert_eq!(left(&buckets.take(client(1)).unwrap()), 1);
            let last = buckets.take(client(1)).unwrap();
            assert_eq!(left(&last), 0);
            let full = Buckets::standing(&last).1;
            assert_eq!(full, 2 * HOUR);
            assert!(buckets.take(client(1)).is_err());
            buckets.give_back(client(1));
            assert!(buckets.take(client(1)).is_ok());
            assert!(buckets.take(client(1)).is_err());
            // A token that nobody took makes no room beyond the bucket.
            for _ in 0..10 {
                buckets.give_back(client(2));
            }
        }
        let fresh = Buckets::many(quota(HOUR, 2));
        fresh.give_back(client(3));
        assert!(fresh.take(client(3)).is_ok() && fresh.take(client(3)).is_ok());
        assert!(fresh.take(client(3)).is_err());
    }

    #[test]
    fn any_number_of_clients_has_a_bounded_number_of_buckets() {
        let buckets = Buckets::many(quota(HOUR, 3));
        for _ in 0..3 {
            assert!(buckets.take(client(0)).is_ok());
        }
        for n in 1..200_000 {
            assert!(buckets.take(client(n)).is_ok());
        }
        assert_eq!(buckets.limiter.len(), SHARDS * SHARD_MOST);
        assert!(
            buckets.look(client(0)).is_err(),
            "who has used up his bucket is not forgotten for newcomers"
        );
        let Kept::Many(map) = &*buckets.store.0 else {
            panic!("many")
        };
        let kept: usize = map.shards.iter().map(|shard| lock(shard).len()).sum();
        assert_eq!(kept, SHARDS * SHARD_MOST);
        assert!(map.shards.iter().all(|s| lock(s).capacity() < 2_048));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let quick = Buckets::many(quota(Duration::from_nanos(1), 1));
        let slow = Buckets::many(quota(HOUR, 1));
        for n in 0..1_000 {
            assert!(quick.take(client(n)).is_ok() && slow.take(client(n)).is_ok());
        }
        while !quick.limiter.is_empty() {
            quick.forget_quiet();
        }
        slow.forget_quiet();
        let Kept::Many(map) = &*quick.store.0 else {
            panic!("many")
        };
        let room: usize = map.shards.iter().map(|s| lock(s).capacity()).sum();
        assert_eq!((room, slow.limiter.len()), (0, 1_000));
    }
}
