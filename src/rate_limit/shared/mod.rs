//! Limits that all replicas count together, in a Redis or Valkey.
//!
//! One script judges all policies of a request at once, by the store's clock. What it does not answer
//! in time each replica decides by itself, with its share of the limit; so the store's life is neither
//! a condition of the gateway's nor of the limit's.
//!
//! All keys of a deployment carry one hash tag, so that in a cluster they lie in one slot: only there
//! can one script judge several buckets. A cluster is good for a store that stays, not for a faster one.

mod address;
mod connect;
mod debts;
mod link;
mod memory;
mod reach;
mod script;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use rustls::ClientConfig;

use self::address::Address;
use self::connect::Store;
use self::link::{Answer, Kept, Late, Link};
pub use self::reach::Reach;
pub use self::script::Verdict;
use self::script::{Asked, Quota};
use crate::telemetry::StoreMetrics;

/// How a store is reached, as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `redis_url`.
    pub url: String,
    /// In place of one in the URL.
    pub password: Option<String>,
    /// The authorities of its certificate, as PEM.
    pub ca: Option<Vec<u8>>,
    /// Begins every key in the store.
    pub prefix: String,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// What names of clients are hashed with; `None`: with the password, if there is one.
    pub salt: Option<String>,
}

/// A store that replicas share, as all workers of this process know it.
pub struct Shared {
    settings: Settings,
    store: Store,
    /// Begins every key: the prefix as hash tag.
    tag: Box<str>,
    salt: hmac::Key,
    timeout: Duration,
    metrics: StoreMetrics,
    /// Whether it answers.
    pub reach: Reach,
}

impl Shared {
    /// Reads `settings`; no connection is made. `tls`: what trusts `settings.ca`. `Err`: what is
    /// expected of `redis_url`.
    pub fn new(
        settings: Settings,
        tls: Option<Arc<ClientConfig>>,
        metrics: StoreMetrics,
    ) -> Result<Self, &'static str> {
        let mut address = Address::read(&settings.url)?;
        match (&settings.password, address.login.password()) {
            (Some(_), Some(_)) => {
                return Err("a password in redis_url or in redis_password_file, not in both");
            }
            (Some(password), None) => address.login = address.login.set_password(password),
            (None, _) => {}
        }
        let salt = settings.salt.as_deref();
        let salt = salt.or_else(|| address.login.password());
        Ok(Self {
            salt: hmac::Key::new(hmac::HMAC_SHA256, salt.unwrap_or_default().as_bytes()),
            tag: format!("{{{}}}", settings.prefix).into(),
            timeout: settings.timeout,
            reach: Reach::new(metrics.up.clone(), &address.to_string()),
            store: Store { address, tls },
            metrics,
            settings,
        })
    }

    /// Whether it is the store of these settings.
    pub fn is(&self, settings: &Settings) -> bool {
        self.settings == *settings
    }

    /// Whether the URL asks for TLS. `Err`: what is expected of it.
    pub fn wants_tls(url: &str) -> Result<bool, &'static str> {
        Address::read(url).map(|address| address.tls)
    }

    fn bucket(&self, policy: &str, whose: &str) -> Box<str> {
        [&*self.tag, policy, ":", whose].concat().into()
    }

    fn bucket_of(&self, demand: &Demand<'_>) -> Box<str> {
        self.bucket(&demand.policy.name, &self.pseudonym(demand.whose))
    }

    /// What stands for somebody in the store: 128 bits of a keyed hash.
    fn pseudonym(&self, whose: &[u8]) -> String {
        hex(&hmac::sign(&self.salt, whose).as_ref()[..16])
    }
}

/// A policy as the store counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    name: Arc<str>,
    quota: Quota,
}

impl Policy {
    /// `burst` tokens, of which one comes back every `interval`.
    pub fn new(name: Arc<str>, interval: Duration, burst: u32) -> Self {
        Self {
            quota: Quota::new(interval, burst),
            name,
        }
    }
}

/// One policy that is asked about somebody.
pub struct Demand<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// Who is meant, in bytes.
    pub whose: &'a [u8],
    /// Whether a token is to be taken, if all admit.
    pub takes: bool,
    /// Whether all are refused when this one refuses.
    pub binds: bool,
}

/// What is known of demands.
pub enum Judged {
    /// What the store said of each.
    Told(Vec<Verdict>),
    /// The demand at this position is refused for so long: that much is remembered.
    Remembered(usize, Duration),
    /// The store does not answer: it has to be decided here, and said to [`Unknown::decided`].
    Unknown(Unknown),
}

/// What the store does not know of, or nobody knows whether it does.
pub struct Unknown {
    link: Option<Rc<Link>>,
    late: Option<Late>,
}

impl Unknown {
    /// It was decided here. What that differs from what the store has counted is settled with it when
    /// it is back.
    pub fn decided(self, demands: &[Demand<'_>], admitted: bool) {
        let Some(link) = self.link else {
            return;
        };
        let taken = demands.iter().filter(|d| d.takes && d.binds);
        let note = move |link: &Link, buckets: &[(Box<str>, Quota)], missing| {
            for (bucket, quota) in buckets {
                link.debts.note(bucket, quota, missing, Instant::now());
            }
        };
        let bucket = |d: &Demand<'_>| (link.shared.bucket_of(d), d.policy.quota.clone());
        match self.late {
            None if admitted => note(&link, &taken.map(bucket).collect::<Vec<_>>(), 1),
            None => {}
            Some(late) => {
                let buckets: Vec<_> = taken.map(bucket).collect();
                let binding: Vec<bool> = demands.iter().map(|d| d.binds).collect();
                let settles = async move {
                    let verdicts = late.await.unwrap_or_default();
                    // None at all: it has failed, and taken nothing.
                    let took = !verdicts.is_empty()
                        && verdicts
                            .iter()
                            .zip(binding)
                            .all(|(v, binds)| v.admitted || !binds);
                    match (admitted, took) {
                        (true, false) => note(&link, &buckets, 1),
                        (false, true) => note(&link, &buckets, -1),
                        _ => {}
                    }
                };
                drop(tokio::task::spawn_local(settles));
            }
        }
    }
}

/// One worker's way to the store.
#[derive(Default)]
pub struct Client(RefCell<Option<Kept>>);

impl Client {
    /// Keeps a connection to `shared` from now on; `None`: to none. To be called on the worker's
    /// thread, within its event loop.
    pub fn follow(&self, shared: Option<&Arc<Shared>>) {
        let mut kept = self.0.borrow_mut();
        let now = kept.as_ref().map(|kept| Arc::as_ptr(&kept.link.shared));
        if now != shared.map(Arc::as_ptr) {
            *kept = shared.map(|shared| Kept::new(Arc::clone(shared)));
        }
    }

    /// Judges all demands at once: a token of each is taken, or of none. Does not wait longer than
    /// the settings allow.
    pub async fn judge(&self, demands: &[Demand<'_>]) -> Judged {
        let link = self.0.borrow().as_ref().map(|kept| Rc::clone(&kept.link));
        let Some(link) = link else {
            let (link, late) = (None, None);
            return Judged::Unknown(Unknown { link, late });
        };
        ask(&link, demands).await
    }
}

async fn ask(link: &Rc<Link>, demands: &[Demand<'_>]) -> Judged {
    let shared = &link.shared;
    let buckets: Vec<Box<str>> = demands
        .iter()
        .map(|demand| shared.bucket_of(demand))
        .collect();
    let now = Instant::now();
    for (position, (demand, bucket)) in demands.iter().zip(&buckets).enumerate() {
        if demand.binds
            && let Some(wait) = link.memory.wait(bucket, now)
        {
            shared.metrics.remembered.inc();
            return Judged::Remembered(position, wait);
        }
    }
    let asked: Vec<_> = demands
        .iter()
        .zip(&buckets)
        .map(|(demand, bucket)| Asked {
            bucket,
            quota: &demand.policy.quota,
            takes: demand.takes,
            binds: demand.binds,
        })
        .collect();
    let late = match link.ask(&asked).await {
        Answer::Verdicts(verdicts) => return Judged::Told(remember(link, &asked, verdicts, now)),
        Answer::Late(late) => Some(late),
        Answer::No => None,
    };
    let link = Some(Rc::clone(link));
    Judged::Unknown(Unknown { link, late })
}

/// Remembers refusals.
fn remember(
    link: &Link,
    asked: &[Asked<'_>],
    verdicts: Vec<Verdict>,
    now: Instant,
) -> Vec<Verdict> {
    for (asked, verdict) in asked.iter().zip(&verdicts) {
        if asked.binds && !verdict.admitted {
            link.memory.refused(asked.bucket, now, verdict.wait);
        }
    }
    verdicts
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits.map(|d| char::from(DIGITS[usize::from(d)])).collect()
}
