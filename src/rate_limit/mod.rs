//! How often: policies compiled from the configuration, counted by governor.

mod clients;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;

use crate::config::{Match, Per, Policy};
use crate::reject::Reject;
use crate::telemetry::PolicyCounters;
use clients::{Clients, Until};

/// A refusal by a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Seconds until the next request is admitted, rounded up.
    pub retry_after: u32,
}

impl From<Limited> for Reject {
    fn from(limited: Limited) -> Self {
        Self::RateLimited {
            retry_after: limited.retry_after,
        }
    }
}

/// The policies in force.
pub struct RateLimits {
    api: Vec<Compiled<Buckets>>,
    failed_auth: Vec<Compiled<Arc<Clients>>>,
    clock: DefaultClock,
}

struct Compiled<B> {
    /// As it was written: what is counted goes on for as long as this stays.
    written: Policy,
    buckets: B,
    except: Box<[IpNet]>,
    enforce: bool,
    counters: PolicyCounters,
}

enum Buckets {
    /// One a key, with its name, at the key's position.
    Keys(Vec<(Arc<str>, Arc<DefaultDirectRateLimiter>)>),
    Clients(Arc<Clients>),
}

impl RateLimits {
    /// Compiles `policies` for the keys of these names; `counters` gives a policy its series. What
    /// `previous` has counted goes on where a policy counts the same as before.
    pub fn new(
        policies: &[Policy],
        keys: &[Arc<str>],
        counters: impl Fn(&Policy) -> PolicyCounters,
        previous: Option<&Self>,
    ) -> Self {
        let (mut api, mut failed_auth) = (Vec::new(), Vec::new());
        for policy in policies {
            let quota = quota(policy);
            let counters = counters(policy);
            match (policy.matches, policy.per) {
                (Match::Api, Per::Key) => {
                    let known = previous.and_then(|p| p.api.iter().find(|old| old.counts(policy)));
                    let known = match known.map(|old| &old.buckets) {
                        Some(Buckets::Keys(known)) => &known[..],
                        Some(Buckets::Clients(_)) | None => &[],
                    };
                    let bucket = |name: &Arc<str>| {
                        let same = known.iter().find(|(known, _)| known == name);
                        let bucket = same.map_or_else(
                            || Arc::new(RateLimiter::direct(quota)),
                            |(_, bucket)| Arc::clone(bucket),
                        );
                        (Arc::clone(name), bucket)
                    };
                    let keys = keys.iter().map(bucket).collect();
                    api.push(Compiled::new(policy, Buckets::Keys(keys), counters));
                }
                (Match::Api, Per::Client) => {
                    let known = previous.and_then(|p| p.api.iter().find(|old| old.counts(policy)));
                    let clients = match known.map(|old| &old.buckets) {
                        Some(Buckets::Clients(known)) => Arc::clone(known),
                        Some(Buckets::Keys(_)) | None => Arc::new(Clients::new(quota)),
                    };
                    api.push(Compiled::new(policy, Buckets::Clients(clients), counters));
                }
                // Who failed has no key.
                (Match::FailedAuth, _) => {
                    let mut known = previous.into_iter().flat_map(|p| &p.failed_auth);
                    let clients = known.find(|old| old.counts(policy)).map_or_else(
                        || Arc::new(Clients::new(quota)),
                        |old| Arc::clone(&old.buckets),
                    );
                    failed_auth.push(Compiled::new(policy, clients, counters));
                }
            }
        }
        // Clients first: one that is over its own limit takes nothing from the key's.
        api.sort_by_key(|policy| matches!(policy.buckets, Buckets::Keys(_)));
        Self {
            api,
            failed_auth,
            clock: DefaultClock::default(),
        }
    }

    /// Judges one request of the key at `key` from `client`: every policy has to admit it.
    pub fn check(&self, key: usize, client: IpAddr) -> Result<(), Limited> {
        for policy in self.api.iter().filter(|policy| policy.holds_for(client)) {
            let judged = match &policy.buckets {
                Buckets::Keys(keys) => keys[key].1.check(),
                Buckets::Clients(clients) => clients.take(client),
            };
            match judged {
                Ok(()) => policy.counters.admitted.inc(),
                Err(until) => self.limited(policy, &until)?,
            }
        }
        Ok(())
    }

    /// Whether `client` may show a key. Who has failed too often may not, also with the right one:
    /// the answer would tell a guess that was right from one that was wrong.
    pub fn may_authenticate(&self, client: IpAddr) -> Result<(), Limited> {
        for policy in &self.failed_auth {
            if policy.holds_for(client)
                && let Err(until) = policy.buckets.look(client)
            {
                self.limited(policy, &until)?;
            }
        }
        Ok(())
    }

    /// The key of `client` was wrong or missing.
    pub fn failed_to_authenticate(&self, client: IpAddr) {
        for policy in &self.failed_auth {
            if policy.holds_for(client) && policy.buckets.take(client).is_ok() {
                policy.counters.admitted.inc();
            }
        }
    }

    /// Every policy in the order they are asked, and whether it holds for `client`.
    pub fn policies(&self, client: IpAddr) -> impl Iterator<Item = (&Policy, bool)> {
        let failed_auth = self.failed_auth.iter();
        let failed_auth = failed_auth.map(move |p| (&p.written, p.holds_for(client)));
        let api = self.api.iter();
        failed_auth.chain(api.map(move |p| (&p.written, p.holds_for(client))))
    }

    /// Forgets clients whose buckets are full again; to be called now and then.
    pub fn forget_quiet_clients(&self) {
        for policy in &self.api {
            if let Buckets::Clients(clients) = &policy.buckets {
                clients.forget_quiet();
            }
        }
        for policy in &self.failed_auth {
            policy.buckets.forget_quiet();
        }
    }

    fn limited<B>(&self, policy: &Compiled<B>, until: &Until) -> Result<(), Limited> {
        policy.counters.limited.inc();
        if policy.enforce {
            let retry_after = self.seconds(until);
            return Err(Limited { retry_after });
        }
        Ok(())
    }

    fn seconds(&self, until: &Until) -> u32 {
        let wait: Duration = until.wait_time_from(self.clock.now());
        // Rounded up: who comes when told must be admitted.
        u32::try_from(wait.as_millis().div_ceil(1000))
            .unwrap_or(u32::MAX)
            .max(1)
    }
}

impl<B> Compiled<B> {
    fn new(policy: &Policy, buckets: B, counters: PolicyCounters) -> Self {
        Self {
            written: policy.clone(),
            buckets,
            except: policy.except.as_slice().into(),
            enforce: policy.enforce,
            counters,
        }
    }

    /// Whether its buckets are also those of `policy`, which may spare other clients.
    fn counts(&self, policy: &Policy) -> bool {
        let counted = |p: &Policy| (p.matches, p.per, p.rate, p.burst);
        self.written.name == policy.name && counted(&self.written) == counted(policy)
    }

    fn holds_for(&self, client: IpAddr) -> bool {
        !self.except.iter().any(|network| network.contains(&client))
    }
}

fn quota(policy: &Policy) -> Quota {
    let one = policy.rate.per / policy.rate.count.get();
    let quota = Quota::with_period(one.max(Duration::from_nanos(1)));
    // `None` only for a period of 0, which the line above rules out.
    quota
        .unwrap_or_else(|| Quota::per_second(policy.rate.count))
        .allow_burst(policy.burst.unwrap_or(policy.rate.count))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::config::units::Rate;
    use crate::telemetry::Metrics;

    fn policy(matches: Match, per: Per, burst: u32) -> Policy {
        Policy {
            name: "p".into(),
            matches,
            per,
            rate: Rate {
                count: NonZeroU32::new(1).unwrap(),
                per: Duration::from_secs(60),
            },
            burst: NonZeroU32::new(burst),
            except: Vec::new(),
            enforce: true,
        }
    }

    fn compile(policy: Policy) -> RateLimits {
        let metrics = Metrics::new().unwrap();
        let names = ["a", "b"].map(Arc::from);
        RateLimits::new(
            &[policy],
            &names,
            |p| metrics.policy(&p.name, p.enforce),
            None,
        )
    }

    fn limits(per: Per, burst: u32, enforce: bool) -> RateLimits {
        compile(Policy {
            enforce,
            ..policy(Match::Api, per, burst)
        })
    }

    #[test]
    fn a_refusal_says_when_to_come_back_rounded_up() {
        let limits = limits(Per::Key, 2, true);
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(limits.check(0, client), Ok(()));
        assert_eq!(limits.check(0, client), Ok(()));
        let Err(Limited { retry_after }) = limits.check(0, client) else {
            panic!("the third is over the burst")
        };
        assert!((59..=60).contains(&retry_after), "{retry_after}");
        assert_eq!(
            limits.check(1, client),
            Ok(()),
            "another key has its own bucket"
        );
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let limits = limits(Per::Client, 1, true);
        assert_eq!(limits.check(0, "2001:db8::1".parse().unwrap()), Ok(()));
        assert!(
            limits
                .check(0, "2001:db8::ffff:2".parse().unwrap())
                .is_err()
        );
        assert_eq!(limits.check(0, "2001:db8:0:1::1".parse().unwrap()), Ok(()));
    }

    #[test]
    fn a_policy_that_is_not_enforced_counts_and_refuses_nothing() {
        let limits = limits(Per::Key, 1, false);
        for _ in 0..3 {
            assert_eq!(limits.check(0, "192.0.2.1".parse().unwrap()), Ok(()));
        }
        assert_eq!(limits.api[0].counters.limited.get(), 2);
    }

    #[test]
    fn who_failed_too_often_is_not_heard_and_looking_costs_nothing() {
        let limits = compile(policy(Match::FailedAuth, Per::Client, 2));
        let client = "2001:db8::1".parse().unwrap();
        for _ in 0..2 {
            assert_eq!(limits.may_authenticate(client), Ok(()));
            limits.failed_to_authenticate(client);
        }
        for address in ["2001:db8::1", "2001:db8::ffff:2"] {
            let Err(Limited { retry_after }) = limits.may_authenticate(address.parse().unwrap())
            else {
                panic!("{address} is of the network that failed")
            };
            assert!((59..=60).contains(&retry_after), "{retry_after}");
        }
        let other = "2001:db8:0:1::1".parse().unwrap();
        assert_eq!(limits.may_authenticate(other), Ok(()));
        assert_eq!(limits.check(0, client), Ok(()), "requests are not counted");
        let counters = &limits.failed_auth[0].counters;
        assert_eq!((counters.admitted.get(), counters.limited.get()), (2, 2));
    }

    #[test]
    fn a_policy_does_not_hold_for_its_exceptions() {
        for matches in [Match::Api, Match::FailedAuth] {
            let limits = compile(Policy {
                except: vec!["10.0.0.0/8".parse().unwrap()],
                ..policy(matches, Per::Client, 1)
            });
            for (client, held) in [("10.1.2.3", false), ("192.0.2.1", true)] {
                let client = client.parse().unwrap();
                let once = || {
                    limits.may_authenticate(client)?;
                    limits.failed_to_authenticate(client);
                    limits.check(0, client)
                };
                assert_eq!(once(), Ok(()));
                assert_eq!(once().is_err(), held, "{matches:?} {client}");
            }
        }
    }
}
