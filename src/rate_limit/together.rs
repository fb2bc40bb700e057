//! Judging by the store that replicas share; where there is none, or it does not answer, here.

use std::net::IpAddr;

use super::shared::{Client, Demand, Judged, Verdict};
use super::{Compiled, Fields, Limited, RateLimits, Subject, fields, seconds};

/// One policy that is asked, and about whom.
struct Asked<'a> {
    policy: &'a Compiled,
    whose: super::Whose,
    bytes: [u8; 24],
    takes: bool,
}

impl RateLimits {
    /// As [`RateLimits::check`]. With a store, whether the client has failed to authenticate too often
    /// is asked for in the same breath.
    pub async fn judge(&self, subject: Subject, store: &Client) -> Result<Option<Fields>, Limited> {
        if self.shared.is_none() {
            return self.check(subject);
        }
        // Boxed: who has no store does not carry this around.
        Box::pin(async {
            let (key, client) = (self.key(subject.key), subject.client);
            let mut asked = self.asked(self.failed_auth.iter(), None, client, false);
            asked.extend(self.asked(self.counting(subject.sort()), key, client, true));
            let here = || {
                self.look_for_failures(client)?;
                self.check(subject)
            };
            ask(&asked, store, here).await
        })
        .await
    }

    /// As [`RateLimits::check_websocket`].
    pub async fn judge_websocket(&self, client: IpAddr, store: &Client) -> Result<(), Limited> {
        if self.shared.is_none() || self.websocket.is_empty() {
            return self.check_websocket(client);
        }
        let asked = self.asked(self.websocket.iter(), None, client, true);
        let here = || self.check_websocket(client).map(|()| None);
        Box::pin(ask(&asked, store, here)).await.map(drop)
    }

    /// Judges a new connection, where [`RateLimits::check_connection`] left that to the store.
    pub async fn judge_connection(&self, client: IpAddr, store: &Client) -> Result<(), Limited> {
        if self.shared.is_none() || self.connection.is_empty() {
            return Ok(());
        }
        let asked = self.asked(self.connection.iter(), None, client, true);
        let here = || self.take(self.connection.iter(), None, client, None);
        Box::pin(ask(&asked, store, here)).await.map(drop)
    }

    /// The key of `client` was wrong or missing: counts it. Who has failed too often is told nothing
    /// of the key.
    pub async fn failed(&self, client: IpAddr, store: &Client) -> Result<(), Limited> {
        if self.shared.is_none() {
            self.failed_to_authenticate(client);
            return Ok(());
        }
        let asked = self.asked(self.failed_auth.iter(), None, client, true);
        let here = || {
            self.look_for_failures(client)?;
            self.failed_to_authenticate(client);
            Ok(None)
        };
        Box::pin(ask(&asked, store, here)).await.map(drop)
    }

    fn asked<'p>(
        &self,
        positions: impl Iterator<Item = &'p usize>,
        key: Option<u64>,
        client: IpAddr,
        takes: bool,
    ) -> Vec<Asked<'_>> {
        let held = positions.map(|at| &self.policies[*at]);
        held.filter(|policy| policy.holds_for(client))
            .map(|policy| {
                let whose = policy.whose(key, client);
                Asked {
                    policy,
                    bytes: whose.bytes(),
                    whose,
                    takes,
                }
            })
            .collect()
    }
}

/// Asks the store, and judges `here` where it does not answer.
async fn ask(
    asked: &[Asked<'_>],
    store: &Client,
    here: impl FnOnce() -> Result<Option<Fields>, Limited>,
) -> Result<Option<Fields>, Limited> {
    if asked.is_empty() {
        return Ok(None);
    }
    let demands: Vec<_> = asked
        .iter()
        .map(|asked| Demand {
            policy: &asked.policy.together,
            whose: &asked.bytes,
            takes: asked.takes,
            binds: asked.policy.written.enforce,
        })
        .collect();
    match store.judge(&demands).await {
        Judged::Told(verdicts) => told(asked, &verdicts),
        Judged::Remembered(at, wait) => {
            let nothing = fields::Builder::default();
            Err(asked[at].policy.refuses(wait, nothing))
        }
        Judged::Unknown(unknown) => {
            let judged = here();
            unknown.decided(&demands, judged.is_ok());
            judged
        }
    }
}

/// What the store's verdicts mean for the request.
fn told(asked: &[Asked<'_>], verdicts: &[Verdict]) -> Result<Option<Fields>, Limited> {
    let mut fields = fields::Builder::default();
    let judged = || asked.iter().zip(verdicts);
    for (asked, verdict) in judged().filter(|(asked, _)| asked.policy.written.enforce) {
        let policy = asked.policy;
        if !verdict.admitted {
            return Err(policy.refuses(verdict.wait, fields));
        }
        if asked.takes {
            fields.add(
                &policy.item,
                &policy.name,
                verdict.left,
                seconds(verdict.full),
            );
        }
    }
    for (asked, verdict) in judged() {
        let policy = asked.policy;
        if !verdict.admitted {
            policy.counters.limited.inc();
        } else if asked.takes {
            policy.counters.admitted.inc();
            // What this replica has let through is also gone from its share: a store that comes and
            // goes gives nobody more.
            drop(policy.buckets.take(asked.whose));
        }
    }
    Ok(fields.build())
}
