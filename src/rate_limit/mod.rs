//! How often: policies compiled from the configuration, counted by governor.

use std::net::IpAddr;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};

use crate::config::{Per, Policy};
use crate::peer::network;
use crate::telemetry::PolicyCounters;

/// A refusal by a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Seconds until the next request is admitted, rounded up.
    pub retry_after: u32,
}

/// The policies in force.
pub struct RateLimits {
    policies: Vec<Compiled>,
    clock: DefaultClock,
}

struct Compiled {
    buckets: Buckets,
    enforce: bool,
    counters: PolicyCounters,
}

enum Buckets {
    /// One a key, at the key's position.
    Keys(Vec<DefaultDirectRateLimiter>),
    Clients(DefaultKeyedRateLimiter<IpAddr>),
}

impl RateLimits {
    /// Compiles `policies` for so many keys; `counters` gives a policy its series.
    pub fn new(
        policies: &[Policy],
        keys: usize,
        counters: impl Fn(&Policy) -> PolicyCounters,
    ) -> Self {
        let compile = |policy: &Policy| {
            let quota = quota(policy);
            Compiled {
                buckets: match policy.per {
                    Per::Key => {
                        Buckets::Keys((0..keys).map(|_| RateLimiter::direct(quota)).collect())
                    }
                    Per::Client => Buckets::Clients(RateLimiter::keyed(quota)),
                },
                enforce: policy.enforce,
                counters: counters(policy),
            }
        };
        // Clients first: one that is over its own limit takes nothing from the key's.
        let mut policies: Vec<&Policy> = policies.iter().collect();
        policies.sort_by_key(|policy| policy.per == Per::Key);
        Self {
            policies: policies.into_iter().map(compile).collect(),
            clock: DefaultClock::default(),
        }
    }

    /// Judges one request of the key at `key` from `client`: every policy has to admit it.
    pub fn check(&self, key: usize, client: IpAddr) -> Result<(), Limited> {
        for policy in &self.policies {
            let judged = match &policy.buckets {
                Buckets::Keys(keys) => keys[key].check(),
                Buckets::Clients(clients) => clients.check_key(&network(client)),
            };
            match judged {
                Ok(()) => policy.counters.admitted.inc(),
                Err(until) => {
                    policy.counters.limited.inc();
                    if policy.enforce {
                        return Err(Limited {
                            retry_after: self.seconds(&until),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets clients whose buckets are full again; to be called now and then.
    pub fn forget_quiet_clients(&self) {
        for policy in &self.policies {
            if let Buckets::Clients(clients) = &policy.buckets {
                clients.retain_recent();
                clients.shrink_to_fit();
            }
        }
    }

    fn seconds(&self, until: &NotUntil<<DefaultClock as Clock>::Instant>) -> u32 {
        let wait: Duration = until.wait_time_from(self.clock.now());
        // Rounded up: who comes when told must be admitted.
        u32::try_from(wait.as_millis().div_ceil(1000))
            .unwrap_or(u32::MAX)
            .max(1)
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

    fn limits(per: Per, burst: u32, enforce: bool) -> RateLimits {
        let policy = Policy {
            name: "p".into(),
            per,
            rate: Rate {
                count: NonZeroU32::new(1).unwrap(),
                per: Duration::from_secs(60),
            },
            burst: NonZeroU32::new(burst),
            enforce,
        };
        let metrics = Metrics::new().unwrap();
        RateLimits::new(&[policy], 2, |p| metrics.policy(&p.name, p.enforce))
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
        assert_eq!(limits.policies[0].counters.limited.get(), 2);
    }
}
