//! What counting together costs a request, next to a bare round trip to the store in the same run.
//! Figures of a release build: `bench/shared`.

use std::time::{Duration, Instant};

use super::shared_limits::{UP, replica};
use super::support::redis::Redis;
use super::support::{Backend, Client, Gateway, Proto};

const PATH: &str = "/cobrowsing/api/visitors/1";
const ROUNDS: usize = 5;
const EACH: usize = 400;

/// Time of each of some calls.
struct Waits(Vec<Duration>);

impl Waits {
    fn note(&mut self, begun: Instant) {
        self.0.push(begun.elapsed());
    }

    /// The median and the 99th of a hundred, in microseconds.
    fn both(&mut self) -> [i64; 2] {
        self.0.sort();
        let at = |part: usize| self.0[(self.0.len() - 1) * part / 100].as_micros() as i64;
        [at(50), at(99)]
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn figures_of_limits_that_are_counted_together() {
    const POLICIES: &str = "[[rate_limit.policy]]\nname = 'k'\nper = 'key'\nrate = '1000000/1s'\n\
                            [[rate_limit.policy]]\nname = 'c'\nper = 'client'\nrate = '1000000/1s'";
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let local = Gateway::before(&backend)
        .toml(POLICIES)
        .toml("log.access = false");
    let local = local.start().await;
    let shared = replica(&backend, &redis, 1).toml(POLICIES).start().await;
    shared.until_metric(UP, 1.0).await;
    let mut bare = redis::Client::open(redis.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let (mut at_home, mut together) = (
        Client::connect(&local, Proto::H1).await,
        Client::connect(&shared, Proto::H1).await,
    );
    let [mut round_trip, mut alone, mut asking] = std::array::from_fn(|_| Waits(Vec::new()));
    for round in 0..=ROUNDS {
        for (waits, client) in [(&mut alone, &mut at_home), (&mut asking, &mut together)] {
            for _ in 0..EACH {
                let begun = Instant::now();
                assert_eq!(client.api("GET", PATH, "").await.status, 200);
                waits.note(begun);
            }
        }
        for _ in 0..EACH {
            let begun = Instant::now();
            redis::cmd("PING").query::<String>(&mut bare).unwrap();
            round_trip.note(begun);
        }
        if round == 0 {
            // Warm.
            for waits in [&mut round_trip, &mut alone, &mut asking] {
                waits.0.clear();
            }
        }
    }
    let (bare, alone, asking) = (round_trip.both(), alone.both(), asking.both());
    eprintln!("microseconds, {ROUNDS} rounds of {EACH} requests     p50     p99");
    for (what, [p50, p99]) in [
        ("a request, counted at home", alone),
        ("a request, counted together", asking),
        (
            "what that adds",
            [asking[0] - alone[0], asking[1] - alone[1]],
        ),
        ("a bare round trip (PING)", bare),
    ] {
        eprintln!("{what:<40}{p50:>8}{p99:>8}");
    }
    let answered = "gateway_ratelimit_store_requests_total{result=\"ok\"}";
    let of = ((ROUNDS + 1) * EACH) as f64;
    let answered = shared.metric(answered).await;
    assert!(
        answered >= 0.98 * of,
        "the store decided {answered} of {of}"
    );
}
