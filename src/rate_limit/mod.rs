//! How often: policies compiled from the configuration, counted by governor.
//!
//! Several policies may hold for one request. All of them have to admit it, and one that refuses takes
//! no token of the others: what was taken before is given back. With a store that replicas share, it
//! counts, and the buckets here hold this replica's share for when it does not answer.

mod buckets;
mod fields;
pub mod shared;
mod together;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use governor::Quota;
use governor::clock::{Clock, DefaultClock};
use http::HeaderValue;

use crate::config::{Match, Per, Policy};
use crate::names::Route;
use crate::peer::network;
use crate::reject::Reject;
use crate::telemetry::PolicyCounters;
use buckets::{Buckets, Until, Whose};
pub use fields::Fields;
use shared::Shared;

/// A refusal by a policy.
#[derive(Clone, Debug)]
pub struct Limited {
    /// Seconds after which to try again: when the next request is admitted, rounded up, and a little
    /// more, so that not all come back at once.
    pub retry_after: u32,
    /// The policy's name.
    pub policy: Arc<str>,
    /// What the client is told of its limits.
    pub fields: Option<Fields>,
}

impl Limited {
    /// As it is answered.
    pub fn reject(&self) -> Reject {
        Reject::RateLimited {
            retry_after: self.retry_after,
        }
    }
}

/// One request of the API with a right key.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// What it is for.
    pub route: Route,
    /// Whether it searches for a visitor by a four-digit code: those can be tried out.
    pub lookup: bool,
    /// Whether it opens a WebSocket.
    pub opens_socket: bool,
    /// Position of its key.
    pub key: usize,
    /// Where it comes from.
    pub client: IpAddr,
}

impl Subject {
    fn sort(&self) -> Sort {
        Sort {
            route: self.route,
            lookup: self.lookup,
            opens_socket: self.opens_socket,
        }
    }
}

/// What decides which policies count a request.
#[derive(Clone, Copy)]
struct Sort {
    route: Route,
    lookup: bool,
    opens_socket: bool,
}

impl Sort {
    /// All there are, each at its [`Sort::index`].
    fn all() -> impl Iterator<Item = Self> {
        Route::ALL.into_iter().flat_map(|route| {
            [(false, false), (false, true), (true, false), (true, true)].map(
                |(lookup, opens_socket)| Self {
                    route,
                    lookup,
                    opens_socket,
                },
            )
        })
    }

    fn index(self) -> usize {
        (self.route.index() * 2 + usize::from(self.lookup)) * 2 + usize::from(self.opens_socket)
    }
}

/// The policies in force.
pub struct RateLimits {
    policies: Box<[Compiled]>,
    /// For each key its digest, by position.
    keys: Box<[u64]>,
    /// For each route the positions of the policies that hold for it.
    routes: [Box<[usize]>; Route::ALL.len()],
    lookup: Box<[usize]>,
    failed_auth: Box<[usize]>,
    websocket: Box<[usize]>,
    connection: Box<[usize]>,
    /// For each [`Sort`] what its answers say of policies, where that is the same for all
    /// clients.
    told: Box<[Option<HeaderValue>]>,
    clock: DefaultClock,
    /// Where all replicas count, and how many they are about.
    shared: Option<Arc<Shared>>,
    replicas: NonZeroU32,
}

struct Compiled {
    /// As it was written: what is counted goes on for as long as this stays.
    written: Policy,
    name: Arc<str>,
    /// Its part of `RateLimit-Policy`.
    item: Box<str>,
    buckets: Arc<Buckets>,
    /// As the store counts it, if there is one.
    together: shared::Policy,
    counters: PolicyCounters,
}

/// Most policies there may be.
pub const MOST: usize = 32;

impl RateLimits {
    /// Compiles at most [`MOST`] `policies` for the keys of these names; `counters` gives a policy
    /// its series. `shared`: where all replicas count, and about how many they are. What `previous`
    /// has counted goes on where a policy counts the same as before.
    pub fn new(
        policies: &[Policy],
        keys: &[Arc<str>],
        counters: impl Fn(&Policy) -> PolicyCounters,
        shared: Option<(Arc<Shared>, NonZeroU32)>,
        previous: Option<&Self>,
    ) -> Self {
        let (shared, replicas) = shared.unzip();
        let replicas = replicas.unwrap_or(NonZeroU32::MIN);
        let previous_share = previous.filter(|p| p.replicas == replicas);
        let policies: Box<[Compiled]> = policies
            .iter()
            .take(MOST)
            .map(|policy| {
                let mut known = previous_share.into_iter().flat_map(|p| &p.policies);
                let same = known.find(|old| old.counts_like(policy));
                let whole = quota(policy, NonZeroU32::MIN);
                let quota = quota(policy, replicas);
                let name: Arc<str> = policy.name.as_str().into();
                let buckets = match (same, policy.per) {
                    (Some(same), _) => Arc::clone(&same.buckets),
                    (None, Per::Global) => Arc::new(Buckets::one(quota)),
                    (None, Per::Key | Per::Client | Per::KeyAndClient) => {
                        Arc::new(Buckets::many(quota))
                    }
                };
                Compiled {
                    written: policy.clone(),
                    item: fields::item(&policy.name, whole),
                    buckets,
                    together: shared::Policy::new(
                        Arc::clone(&name),
                        whole.replenish_interval(),
                        whole.burst_size().get(),
                    ),
                    name,
                    counters: counters(policy),
                }
            })
            .collect();
        let those = |holds: &dyn Fn(Match) -> bool| {
            let all = policies.iter().enumerate();
            let held = all.filter(|(_, policy)| holds(policy.written.matches));
            held.map(|(position, _)| position).collect()
        };
        let mut limits = Self {
            keys: keys.iter().map(|name| digest_of(name)).collect(),
            routes: Route::ALL.map(|route| those(&|matches| counts_route(matches, route))),
            lookup: those(&|matches| matches == Match::LookupCode),
            failed_auth: those(&|matches| matches == Match::FailedAuth),
            websocket: those(&|matches| matches == Match::Websocket),
            connection: those(&|matches| matches == Match::Connection),
            policies,
            told: Box::default(),
            clock: DefaultClock::default(),
            shared,
            replicas,
        };
        limits.told = Sort::all().map(|sort| limits.told_to_all(sort)).collect();
        limits
    }

    /// `RateLimit-Policy` for requests of a sort, if it is the same for all clients.
    fn told_to_all(&self, sort: Sort) -> Option<HeaderValue> {
        let policies = || self.counting(sort).map(|at| &self.policies[*at].written);
        if policies().any(|policy| !policy.except.is_empty()) {
            return None;
        }
        let enforced = self.counting(sort).map(|at| &self.policies[*at]);
        let enforced = enforced.filter(|policy| policy.written.enforce);
        fields::policy(enforced.map(|policy| &*policy.item))
    }

    /// Where all replicas count.
    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref()
    }

    /// Judges one request of the API: every policy that holds for it has to admit it. `None`: none
    /// that is enforced does.
    pub fn check(&self, subject: Subject) -> Result<Option<Fields>, Limited> {
        let key = self.key(subject.key);
        let sort = subject.sort();
        let ready = self.told[sort.index()].as_ref();
        self.take(self.counting(sort), key, subject.client, ready)
    }

    /// Positions of the policies that count a request: for its route, for what it searches, for the
    /// socket it opens.
    fn counting(&self, sort: Sort) -> impl Iterator<Item = &usize> + Clone {
        let lookup = sort.lookup.then_some(&self.lookup);
        let socket = sort.opens_socket.then_some(&self.websocket);
        let more = lookup.into_iter().chain(socket).flatten();
        self.routes[sort.route.index()].iter().chain(more)
    }

    fn key(&self, position: usize) -> Option<u64> {
        self.keys.get(position).copied()
    }

    /// Judges a new WebSocket of a page; one of the API is judged with its request.
    pub fn check_websocket(&self, client: IpAddr) -> Result<(), Limited> {
        self.take(self.websocket.iter(), None, client, None)
            .map(drop)
    }

    /// Judges a new connection; where all replicas count, [`RateLimits::judge_connection`] does.
    pub fn check_connection(&self, client: IpAddr) -> Result<(), Limited> {
        if self.shared.is_some() {
            return Ok(());
        }
        self.take(self.connection.iter(), None, client, None)
            .map(drop)
    }

    /// Whether `client` may show a key. Who has failed too often may not, also with the right one:
    /// the answer would tell a guess that was right from one that was wrong. Where all replicas count
    /// [`RateLimits::judge`] and [`RateLimits::failed`] ask for it.
    pub fn may_authenticate(&self, client: IpAddr) -> Result<(), Limited> {
        if self.shared.is_some() {
            return Ok(());
        }
        self.look_for_failures(client)
    }

    fn look_for_failures(&self, client: IpAddr) -> Result<(), Limited> {
        for policy in self.failed_auth.iter().map(|at| &self.policies[*at]) {
            if policy.holds_for(client)
                && let Err(until) = policy.buckets.look(policy.whose(None, client))
            {
                if policy.written.enforce {
                    return Err(self.limited(policy, &until, fields::Builder::default()));
                }
                policy.counters.limited.inc();
            }
        }
        Ok(())
    }

    /// The key of `client` was wrong or missing.
    pub fn failed_to_authenticate(&self, client: IpAddr) {
        for policy in self.failed_auth.iter().map(|at| &self.policies[*at]) {
            if policy.holds_for(client) && policy.buckets.take(policy.whose(None, client)).is_ok() {
                policy.counters.admitted.inc();
            }
        }
    }

    /// Every policy, those on failed authentications first, as they are asked first; and whether it
    /// holds for `client`.
    pub fn policies(&self, client: IpAddr) -> impl Iterator<Item = (&Policy, bool)> {
        let failed = |p: &&Compiled| p.written.matches == Match::FailedAuth;
        let first = self.policies.iter().filter(failed);
        let rest = self.policies.iter().filter(move |p| !failed(p));
        first
            .chain(rest)
            .map(move |p| (&p.written, p.holds_for(client)))
    }

    /// Forgets clients whose buckets are full again; to be called now and then.
    pub fn forget_quiet_clients(&self) {
        for policy in &self.policies {
            policy.buckets.forget_quiet();
        }
    }

    /// Takes a token of each policy at these positions that holds for the client, or of none. `ready`:
    /// the field that lists them.
    fn take<'p>(
        &self,
        positions: impl Iterator<Item = &'p usize> + Clone,
        key: Option<u64>,
        client: IpAddr,
        ready: Option<&HeaderValue>,
    ) -> Result<Option<Fields>, Limited> {
        let held = positions.map(|position| &self.policies[*position]);
        let held = held.filter(|policy| policy.holds_for(client));
        let (mut told, mut taken) = (fields::Builder::of(ready), 0_u32);
        for (nth, policy) in held.clone().enumerate() {
            match policy.buckets.take(policy.whose(key, client)) {
                Ok(state) => {
                    taken |= 1 << nth;
                    if policy.written.enforce {
                        let (left, full) = Buckets::standing(&state);
                        told.add(&policy.item, &policy.name, left, seconds(full));
                    }
                }
                Err(_) if !policy.written.enforce => {}
                Err(until) => {
                    for (nth, other) in held.enumerate().filter(|(nth, _)| taken & 1 << nth != 0) {
                        debug_assert!(nth < MOST);
                        other.buckets.give_back(other.whose(key, client));
                    }
                    return Err(self.limited(policy, &until, told));
                }
            }
        }
        for (nth, policy) in held.enumerate() {
            if taken & 1 << nth == 0 {
                policy.counters.limited.inc();
            } else {
                policy.counters.admitted.inc();
            }
        }
        Ok(told.build())
    }

    fn limited(&self, policy: &Compiled, until: &Until, told: fields::Builder<'_>) -> Limited {
        policy.refuses(until.wait_time_from(self.clock.now()), told)
    }
}

/// A wait and up to a tenth more, so that not all who were refused come back at once.
fn later(seconds: u32) -> u32 {
    seconds.saturating_add(fastrand::u32(0..=seconds / 10))
}

/// Rounded up, and not 0: who comes when told must be admitted.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000))
        .unwrap_or(u32::MAX)
        .max(1)
}

/// Whether a policy of `matches` counts requests for `route`, whatever they search for.
pub fn counts_route(matches: Match, route: Route) -> bool {
    match matches {
        Match::Api => route.is_api(),
        Match::VisitorsLatest => route == Route::VisitorsLatest,
        Match::VisitorsSearch => route == Route::VisitorsSearch,
        Match::Visitor => route == Route::Visitor,
        Match::WatchUrl => route == Route::WatchUrl,
        Match::ApiOther => route == Route::ApiOther,
        Match::LookupCode | Match::FailedAuth | Match::Websocket | Match::Connection => false,
    }
}

/// Stands for a key's name in buckets.
fn digest_of(name: &str) -> u64 {
    let digest = digest(&SHA256, name.as_bytes());
    let first = digest.as_ref().first_chunk().copied();
    // Never 0, which stands for no key.
    u64::from_be_bytes(first.unwrap_or_default()) | 1
}

impl Compiled {
    /// Whether its buckets are also those of `policy`, which may spare other clients.
    fn counts_like(&self, policy: &Policy) -> bool {
        let counted = |p: &Policy| (p.matches, p.per, p.rate, p.burst);
        self.written.name == policy.name && counted(&self.written) == counted(policy)
    }

    /// Its refusal, counted. `wait`: until the next request is admitted; `told`: what the client is
    /// told of other policies.
    fn refuses(&self, wait: Duration, mut told: fields::Builder<'_>) -> Limited {
        self.counters.limited.inc();
        // The field may not point beyond Retry-After: it tells when the next request is admitted.
        told.add(&self.item, &self.name, 0, seconds(wait));
        Limited {
            retry_after: later(seconds(wait)),
            policy: Arc::clone(&self.name),
            fields: told.build(),
        }
    }

    fn holds_for(&self, client: IpAddr) -> bool {
        let except = &self.written.except;
        !except.iter().any(|network| network.contains(&client))
    }

    /// Whose bucket counts.
    fn whose(&self, key: Option<u64>, client: IpAddr) -> Whose {
        let (by_key, by_client) = match self.written.per {
            Per::Key => (true, false),
            Per::Client => (false, true),
            Per::KeyAndClient => (true, true),
            Per::Global => (false, false),
        };
        Whose {
            key: key.filter(|_| by_key).unwrap_or_default(),
            client: if by_client {
                network(client)
            } else {
                IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
            },
        }
    }
}

/// The quota of a policy, or one replica's share of it.
fn quota(policy: &Policy, replicas: NonZeroU32) -> Quota {
    let one = policy.rate.per / policy.rate.count.get();
    let burst = policy.burst.unwrap_or(policy.rate.count);
    let one = one.max(Duration::from_nanos(1)) * replicas.get();
    let quota = Quota::with_period(one);
    // `None` only for a period of 0, which the line above rules out.
    quota
        .unwrap_or_else(|| Quota::per_second(policy.rate.count))
        .allow_burst(burst.div_ceil(replicas))
}

#[cfg(test)]
mod tests;
