//! Limits that several gateways count together in one Redis: how much is admitted in all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::support::redis::Redis;
use super::support::{Backend, Client, Gateway, Proto, Setup};

const PATH: &str = "/cobrowsing/api/visitors/1";

/// A gateway that counts in `redis`, one of `replicas`.
pub fn replica(backend: &Backend, redis: &Redis, replicas: usize) -> Setup {
    Gateway::before(backend).toml(&format!(
        "log.access = false\nrate_limit.store = 'redis'\nrate_limit.redis_url = '{}'\nrate_limit.replicas = {replicas}\n\
         rate_limit.redis_timeout = '{}'",
        redis.url(),
        setting("TIMEOUT", "50ms")
    ))
}

pub const UP: &str = "gateway_ratelimit_store_up";

/// Starts so many, which all reach the store.
async fn start(setup: &Setup, replicas: usize) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..replicas {
        gateways.push(setup.clone().start().await);
    }
    for gateway in &gateways {
        gateway.until_metric(UP, 1.0).await;
    }
    gateways
}

/// What an overload came to.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    admitted: AtomicUsize,
    limited: AtomicUsize,
    other: AtomicUsize,
}

impl Tally {
    fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }
}

/// Asks each gateway every `pause`, for as long as `meanwhile` lasts; how long that was.
async fn overload(
    gateways: &[Gateway],
    pause: Duration,
    tally: &Arc<Tally>,
    meanwhile: impl Future<Output = ()>,
) -> f64 {
    let mut clients = Vec::new();
    for gateway in gateways {
        clients.push(Client::connect(gateway, Proto::H1).await);
    }
    let begun = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let tally = Arc::clone(tally);
            tokio::spawn(async move {
                let mut tick = tokio::time::interval(pause);
                while !tally.stop.load(Ordering::Relaxed) {
                    tick.tick().await;
                    let status = client.api("GET", PATH, "").await.status.as_u16();
                    let count = match status {
                        200 => &tally.admitted,
                        429 => &tally.limited,
                        _ => &tally.other,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    meanwhile.await;
    let took = begun.elapsed().as_secs_f64();
    tally.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    took
}

/// `bench/shared` measures for longer, and with the default timeout. Here a busy machine must not look
/// like a slow store.
fn setting(name: &str, here: &str) -> String {
    std::env::var(format!("SHARED_LIMITS_{name}")).unwrap_or_else(|_| here.into())
}

/// How long an overload lasts.
fn seconds(here: &str) -> f64 {
    setting("SECONDS", here).parse().unwrap()
}

async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// So many replicas, far more requests than the limit; nobody may notice how many there are.
async fn together(replicas: usize, pause: Duration) {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    // So many at once that no token is lost where a busy machine lets nobody ask for a second; and
    // no store looks slow because of one.
    let setup = replica(&backend, &redis, replicas)
        .toml("[[rate_limit.policy]]\nname = 'p'\nper = 'key'\nrate = '50/1s'\nburst = 100")
        .toml(&format!(
            "rate_limit.redis_timeout = '{}'",
            setting("TIMEOUT", "2s")
        ));
    let gateways = start(&setup, replicas).await;
    let tally = Arc::default();
    let begun = Instant::now();
    overload(&gateways, pause, &tally, sleep(seconds("4"))).await;
    let mut last = Client::connect(&gateways[0], Proto::H1).await;
    let reply = last.api("GET", PATH, "").await;
    let took = begun.elapsed().as_secs_f64();
    let mut admitted = tally.admitted() as f64;
    // What is left is what nobody asked for in time, on a busy machine at the end.
    let mut left = 0.0;
    if reply.status == 200 {
        admitted += 1.0;
        let state = reply.header("ratelimit").unwrap();
        let number = state.split("r=").nth(1).unwrap().split(';').next();
        left = number.unwrap().parse().unwrap();
    }
    let (limit, limited) = (100.0 + 50.0 * took, tally.limited.load(Ordering::Relaxed));
    eprintln!(
        "{replicas} replicas, {took:.1} s: {admitted} admitted and {left} left of {limit:.1}, {limited} refused"
    );
    assert!(limited > 100, "no overload: {limited}");
    assert_eq!(tally.other.load(Ordering::Relaxed), 0);
    let off = (admitted + left - limit).abs();
    assert!(off <= 0.02 * limit, "{admitted} and {left} of {limit}");
    for gateway in &gateways {
        gateway.until_metric(UP, 1.0).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn two_replicas_admit_what_one_would() {
    together(2, Duration::from_millis(5)).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn twenty_replicas_admit_what_one_would() {
    together(20, Duration::from_millis(100)).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_that_dies_and_comes_back_fails_no_request_and_opens_no_gate() {
    let (backend, mut redis) = (Backend::well(), Redis::start().await);
    let setup = replica(&backend, &redis, 2)
        .toml("[[rate_limit.policy]]\nname = 'p'\nper = 'key'\nrate = '50/1s'\nburst = 20");
    let gateways = start(&setup, 2).await;
    let tally = Arc::<Tally>::default();
    let meanwhile = async {
        sleep(seconds("6") / 3.0).await;
        redis.kill();
        for gateway in &gateways {
            gateway.until_metric(UP, 0.0).await;
        }
        let (before, begun) = (tally.admitted(), Instant::now());
        sleep(seconds("6") / 3.0).await;
        // Neither open nor closed: each its share.
        let alone = (tally.admitted() - before) as f64;
        let shares = 50.0 * begun.elapsed().as_secs_f64();
        eprintln!("without the store: {alone} admitted, {shares:.0} in all shares");
        assert!(
            (0.8 * shares..=1.1 * shares + 20.0).contains(&alone),
            "{alone} of {shares}"
        );
        redis.begin().await;
        for gateway in &gateways {
            gateway.until_metric(UP, 1.0).await;
        }
        sleep(seconds("6") / 3.0).await;
    };
    let took = overload(&gateways, Duration::from_millis(5), &tally, meanwhile).await;
    assert_eq!(tally.other.load(Ordering::Relaxed), 0);
    let (admitted, limit) = (tally.admitted() as f64, 20.0 + 50.0 * took);
    eprintln!("killed and restarted, {took:.1} s: {admitted} admitted of {limit:.0}");
    assert!(admitted >= 0.9 * limit, "{admitted} of {limit}");
    assert!(
        admitted <= 1.1 * limit + 2.0 * 20.0,
        "{admitted} of {limit}"
    );
    for gateway in &gateways {
        let told = |message| gateway.events(message).len();
        assert_eq!(told("the shared store of limits answers"), 2);
        assert_eq!(
            told("the shared store of limits does not answer: this replica limits by its share"),
            1
        );
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn who_fails_at_one_replica_has_failed_at_all() {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let setup = replica(&backend, &redis, 2).toml(
        "[[rate_limit.policy]]\nname = 'f'\nmatch = 'failed_auth'\nper = 'client'\nrate = '4/1h'\n\
         [[rate_limit.policy]]\nname = 'k'\nper = 'key'\nrate = '2/1h'",
    );
    let gateways = start(&setup, 2).await;
    let (mut one, mut other) = (
        Client::connect(&gateways[0], Proto::H1).await,
        Client::connect(&gateways[1], Proto::H2).await,
    );
    for _ in 0..2 {
        assert_eq!(one.get(PATH).await.status, 401);
        assert_eq!(other.get(PATH).await.status, 401);
    }
    for client in [&mut one, &mut other] {
        let wrong = client.get(PATH).await;
        let right = client.api("GET", PATH, "").await;
        for reply in [wrong, right] {
            assert_eq!(
                (reply.status.as_u16(), &*reply.error()),
                (429, "rate_limited")
            );
            let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!((890..=990).contains(&seconds), "{seconds}");
        }
    }
    // What was refused has taken nothing of the key's.
    assert_eq!(redis.say(&["keys", "*k:*"]), "");
    let backend_asked = backend.requests().len();
    assert_eq!(backend_asked, 0);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn all_policies_admit_or_none_takes_and_the_caller_is_told_of_each() {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let setup = replica(&backend, &redis, 1).toml(
        "api.keys = { a = 'A', b = 'B' }\n\
         [[rate_limit.policy]]\nname = 'all'\nper = 'global'\nrate = '3/1h'\n\
         [[rate_limit.policy]]\nname = 'each'\nper = 'key'\nrate = '1/1h'\n\
         [[rate_limit.policy]]\nname = 'shadow'\nper = 'global'\nrate = '1/1h'\nenforce = false",
    );
    let gateway = &start(&setup, 1).await[0];
    let mut client = Client::connect(gateway, Proto::H1).await;
    let mut ask = async |key| {
        client
            .call("GET", PATH, &[("authorization", key)], "")
            .await
    };
    let first = ask("A").await;
    assert_eq!(first.status, 200);
    let state = first.header("ratelimit").unwrap();
    assert!(state.starts_with("\"all\";r=2;t="), "{state}");
    assert!(state.contains(", \"each\";r=0;t=3600"), "{state}");
    // Refused by its own limit three times: nothing of that is gone from everybody's.
    for _ in 0..3 {
        let reply = ask("A").await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.error()),
            (429, "rate_limited")
        );
        let state = reply.header("ratelimit").unwrap();
        assert!(state.contains("\"each\";r=0;t="), "{state}");
    }
    let other = ask("B").await;
    assert_eq!(other.status, 200);
    assert!(
        other
            .header("ratelimit")
            .unwrap()
            .starts_with("\"all\";r=1;")
    );
    let counted = |policy, result, enforced| {
        format!(
            "gateway_ratelimit_total{{enforced=\"{enforced}\",policy=\"{policy}\",result=\"{result}\"}}"
        )
    };
    for (series, value) in [
        (counted("all", "admitted", true), 2.0),
        (counted("all", "limited", true), 0.0),
        (counted("each", "limited", true), 3.0),
        (counted("shadow", "admitted", false), 1.0),
        (counted("shadow", "limited", false), 1.0),
    ] {
        assert_eq!(gateway.metric(&series).await, value, "{series}");
    }
}
