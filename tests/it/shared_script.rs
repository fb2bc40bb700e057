//! The script that judges in the store, next to governor, which judges at home.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, FakeRelativeClock};
use governor::middleware::StateInformationMiddleware;
use governor::{Quota, RateLimiter};

use super::support::redis::Redis;

const JUDGES: &str = include_str!("../../src/rate_limit/shared/gcra.lua");
const SETTLES: &str = include_str!("../../src/rate_limit/shared/settle.lua");

/// The script with a clock of the test's and buckets that stay while it runs.
fn script(source: &str) -> String {
    let mut script = source.to_owned();
    for (real, fake) in [
        ("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}"),
        ("'PX', math.ceil((at - now) / 1000)", "'PX', 600000"),
    ] {
        assert_eq!(script.matches(real).count(), 1, "{real}");
        script = script.replace(real, fake);
    }
    script
}

/// Of a bucket: its name, microseconds a token, burst, takes, binds.
type Asked<'a> = (&'a str, u64, u32, bool, bool);

struct Store {
    connection: redis::Connection,
    script: String,
    now: Duration,
}

impl Store {
    fn of(server: &Redis) -> Self {
        Self {
            connection: redis::Client::open(server.url())
                .unwrap()
                .get_connection()
                .unwrap(),
            script: script(JUDGES),
            now: Duration::from_micros(1_795_560_076_485_692),
        }
    }

    /// For each bucket whether it admits, tokens left, microseconds to wait and until it is full.
    fn ask(&mut self, asked: &[Asked<'_>]) -> Vec<[i64; 4]> {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script).arg(asked.len());
        for (bucket, ..) in asked {
            command.arg(bucket);
        }
        for &(_, one, burst, takes, binds) in asked {
            command.arg(format!("{one}.000")).arg(burst);
            command.arg(u8::from(takes)).arg(u8::from(binds));
        }
        command
            .arg(self.now.as_secs())
            .arg(self.now.subsec_micros());
        let answer: Vec<i64> = command.query(&mut self.connection).unwrap();
        let (verdicts, []) = answer.as_chunks() else {
            panic!("{answer:?}")
        };
        verdicts.to_vec()
    }

    fn settle(&mut self, bucket: &str, one: u64, burst: u32, missing: i32) {
        let mut command = redis::cmd("EVAL");
        command.arg(script(SETTLES)).arg(1).arg(bucket);
        command.arg(format!("{one}.000")).arg(burst).arg(missing);
        command
            .arg(self.now.as_secs())
            .arg(self.now.subsec_micros());
        command.exec(&mut self.connection).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_script_decides_as_governor_does() {
    let server = Redis::start().await;
    let mut store = Store::of(&server);
    let mut random = fastrand::Rng::with_seed(5);
    let (mut admitted, mut refused) = (0, 0);
    for case in 0..60 {
        let one = 10_u64.pow(random.u32(0..7)) * random.u64(1..10);
        let burst = random.u32(1..12);
        let quota = Quota::with_period(Duration::from_micros(one)).unwrap();
        let quota = quota.allow_burst(NonZeroU32::new(burst).unwrap());
        let clock = FakeRelativeClock::default();
        let governor = RateLimiter::direct_with_clock(quota, clock.clone())
            .with_middleware::<StateInformationMiddleware>();
        let bucket = format!("bucket-{case}");
        for step in 0..60 {
            let [admits, left, wait, full] = store.ask(&[(&bucket, one, burst, true, true)])[0];
            let what = format!("one in {one} us, burst {burst}, step {step}");
            match governor.check() {
                Ok(state) => {
                    admitted += 1;
                    let free = i64::from(state.remaining_burst_capacity());
                    assert_eq!((admits, left, wait), (1, free, 0), "{what}");
                    assert!(
                        full > 0 && full <= (one * u64::from(burst)) as i64,
                        "{what}"
                    );
                }
                Err(until) => {
                    refused += 1;
                    let expected = until.wait_time_from(clock.now()).as_micros() as i64;
                    assert_eq!((admits, left, wait), (0, 0, expected), "{what}");
                }
            }
            // Not at all, a little, by a token to the microsecond, or for long.
            let on = match random.u32(0..5) {
                0 | 1 => 0,
                2 => random.u64(0..=one),
                3 => one,
                _ => random.u64(0..=3 * one),
            };
            store.now += Duration::from_micros(on);
            clock.advance(Duration::from_micros(on));
        }
    }
    assert!(admitted > 500 && refused > 500, "{admitted} {refused}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn one_that_refuses_takes_nothing_of_the_others_and_one_that_only_counts_refuses_nobody() {
    let server = Redis::start().await;
    let mut store = Store::of(&server);
    let second = 1_000_000;
    let wide: Asked<'_> = ("wide", second, 10, true, true);
    let narrow: Asked<'_> = ("narrow", second, 1, true, true);
    let looked: Asked<'_> = ("looked", second, 1, false, true);
    let shadow: Asked<'_> = ("shadow", second, 1, true, false);
    let all = [wide, narrow, looked, shadow];
    let kinds = |verdicts: &[[i64; 4]]| -> Vec<(i64, i64)> {
        verdicts.iter().map(|v| (v[0], v[1])).collect()
    };
    assert_eq!(kinds(&store.ask(&all)), [(1, 9), (1, 0), (1, 1), (1, 0)]);
    for _ in 0..5 {
        // `narrow` refuses: the others stay as they are, `looked` had never to give anything.
        assert_eq!(kinds(&store.ask(&all)), [(1, 9), (0, 0), (1, 1), (0, 0)]);
    }
    assert_eq!(kinds(&store.ask(&[wide, shadow])), [(1, 8), (0, 0)]);
    // Taken by somebody, `looked` refuses all.
    let taking = ("looked", second, 1, true, true);
    assert_eq!(kinds(&store.ask(&[taking])), [(1, 0)]);
    assert_eq!(kinds(&store.ask(&[wide, looked])), [(1, 8), (0, 0)]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_clock_that_jumps_and_a_key_of_somebody_else_do_no_harm() {
    let server = Redis::start().await;
    let mut store = Store::of(&server);
    let asked: Asked<'_> = ("b", 1_000_000, 3, true, true);
    for left in [2, 1, 0] {
        assert_eq!(store.ask(&[asked])[0][..2], [1, left]);
    }
    // An hour back: as empty as before, not an hour's wait.
    store.now -= Duration::from_secs(3600);
    assert_eq!(store.ask(&[asked])[0], [0, 0, 1_000_000, 3_000_000]);
    store.now += Duration::from_secs(1);
    assert_eq!(store.ask(&[asked])[0][..2], [1, 0]);
    // And forward: full.
    store.now += Duration::from_secs(7200);
    assert_eq!(store.ask(&[asked])[0][..2], [1, 2]);
    for strange in [["set", "b", "words"], ["lpush", "c", "1"]] {
        server.say(&strange);
    }
    assert_eq!(store.ask(&[asked])[0][..2], [1, 2]);
    let list: Asked<'_> = ("c", 1_000_000, 3, true, true);
    assert_eq!(store.ask(&[list])[0][..2], [1, 2]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_was_decided_elsewhere_is_settled_within_what_there_is() {
    let server = Redis::start().await;
    let mut store = Store::of(&server);
    let looked: Asked<'_> = ("b", 1_000_000, 5, false, true);
    for (missing, left) in [
        (2, 3),
        (1, 2),
        (-1, 3),
        (100, 0),
        (-2, 0),
        (-5, 2),
        (-100, 5),
    ] {
        store.settle("b", 1_000_000, 5, missing);
        assert_eq!(store.ask(&[looked])[0][1], left, "{missing}");
    }
    assert_eq!(server.say(&["keys", "*"]), "");
}
