//! The store itself: how it is reached, what it is told, and what happens when it is not well.

use std::time::{Duration, Instant};

use super::shared_limits::{UP, replica};
use super::support::certificates::Authority;
use super::support::redis::{Redis, free_port};
use super::support::{Backend, Client, Gateway, Proto, Setup, eventually, until};

const PATH: &str = "/cobrowsing/api/visitors/1";
const LIMIT: &str = "[[rate_limit.policy]]\nname = 'p'\nper = 'client'\nrate = '3/1h'";
const PLENTY: &str = "[[rate_limit.policy]]\nname = 'p'\nper = 'client'\nrate = '100000/1s'";

fn result(result: &str) -> String {
    format!("gateway_ratelimit_store_requests_total{{result=\"{result}\"}}")
}

async fn reaching(setup: Setup) -> Gateway {
    let gateway = setup.start().await;
    gateway.until_metric(UP, 1.0).await;
    gateway
}

async fn statuses(gateway: &Gateway, requests: usize) -> Vec<u16> {
    let mut client = Client::connect(gateway, Proto::H1).await;
    let mut statuses = Vec::new();
    for _ in 0..requests {
        statuses.push(client.api("GET", PATH, "").await.status.as_u16());
    }
    statuses
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn nothing_in_the_store_tells_who_a_client_is_and_nothing_stays() {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let policies = "[[rate_limit.policy]]\nname = 'c'\nper = 'client'\nrate = '10/60s'\n\
                    [[rate_limit.policy]]\nname = 'k'\nper = 'key_and_client'\nrate = '10/60s'";
    let salted = |salt: &str| {
        let salt = format!("rate_limit.redis_salt = '{salt}'");
        replica(&backend, &redis, 1).toml(policies).toml(&salt)
    };
    let names = || redis.say(&["keys", "*"]);
    assert_eq!(statuses(&reaching(salted("a")).await, 1).await, [200]);
    let first = names();
    assert_eq!(first.lines().count(), 2, "{first}");
    for line in first.lines() {
        let (tag, hash) = line.rsplit_once(':').unwrap();
        assert!(["{cobrowse-gateway}c", "{cobrowse-gateway}k"].contains(&tag));
        assert!(hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        let left: u64 = redis.say(&["pttl", line]).parse().unwrap();
        assert!(
            (1..=6_000).contains(&left),
            "one token is back in {left} ms"
        );
    }
    // Another deployment's salt: other names, and so another limit.
    assert_eq!(statuses(&reaching(salted("b")).await, 1).await, [200]);
    for line in first.lines() {
        assert_eq!(names().lines().filter(|l| *l == line).count(), 1, "{line}");
    }
    until("the store has forgotten", || names().is_empty()).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_flood_of_one_client_is_no_flood_of_the_store() {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let gateway = reaching(replica(&backend, &redis, 1).toml(LIMIT)).await;
    let before = redis.calls("evalsha");
    let statuses = statuses(&gateway, 300).await;
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 3);
    assert!(statuses[3..].iter().all(|s| *s == 429));
    let asked = redis.calls("evalsha") - before;
    // Once a second while it refuses.
    assert!((4..=20).contains(&asked), "{asked}");
    let (ok, remembered) = (
        gateway.metric(&result("ok")).await,
        gateway.metric(&result("remembered")).await,
    );
    assert_eq!(ok + remembered, 300.0);
    assert!(ok <= asked as f64, "{ok}");
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let reply = client.api("GET", PATH, "").await;
    let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1190..=1320).contains(&seconds), "{seconds}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn tls_and_a_password_from_a_file_and_neither_is_shown() {
    const PASSWORD: &str = "canary-p@ss";
    let authority = Authority::new("of the store");
    let (backend, tls_port) = (Backend::well(), free_port().to_string());
    let mut redis = Redis::not_yet(&[
        "--requirepass",
        PASSWORD,
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        "cert.pem",
        "--tls-key-file",
        "cert.key",
        "--tls-ca-cert-file",
        "cert.pem",
        "--tls-auth-clients",
        "no",
    ]);
    let made = authority.signs(&["localhost"]);
    redis.folder.write("cert.pem", made.pem);
    redis.folder.write("cert.key", made.key);
    redis.begin().await;
    let ca = redis.folder.write("ca.pem", &authority.pem);
    let other = redis
        .folder
        .write("other.pem", &Authority::new("other").pem);
    let right = redis.folder.write("right", format!("{PASSWORD}\n"));
    let wrong = redis.folder.write("wrong", "canary-wrong\n");
    for (ca, password, trouble) in [
        (&ca, &right, None),
        (&ca, &wrong, Some("WRONGPASS")),
        (&other, &right, Some("redis_ca")),
    ] {
        let setup = Gateway::before(&backend).toml(LIMIT).toml(&format!(
            "rate_limit.store = 'redis'\nrate_limit.redis_timeout = '50ms'\n\
             rate_limit.redis_url = 'rediss://localhost:{tls_port}/2'\n\
             rate_limit.redis_ca = '{}'\nrate_limit.redis_password_file = '{}'",
            ca.display(),
            password.display()
        ));
        let gateway = setup.start().await;
        match trouble {
            None => gateway.until_metric(UP, 1.0).await,
            Some(trouble) => {
                let message =
                    "the shared store of limits does not answer: this replica limits by its share";
                until("it says so", || !gateway.events(message).is_empty()).await;
                let event = gateway.events(message).remove(0);
                let why = event["why"].as_str().unwrap_or_default();
                assert!(why.contains(trouble), "{event}");
            }
        }
        // With or without: the limit is there.
        assert_eq!(statuses(&gateway, 4).await, [200, 200, 200, 429]);
        let metrics = gateway.metrics().await;
        let ended = gateway.stop().await;
        for text in ended.log.iter().chain([&ended.errors, &metrics]) {
            assert!(!text.contains("canary"), "{text}");
        }
    }
    let counted = redis.say(&["-n", "2", "keys", "*p:*"]);
    assert_eq!(counted.lines().count(), 1, "{counted}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_that_has_lost_its_scripts_gets_them_again() {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let gateway = reaching(replica(&backend, &redis, 1).toml(LIMIT)).await;
    assert_eq!(statuses(&gateway, 1).await, [200]);
    redis.say(&["script", "flush"]);
    assert_eq!(statuses(&gateway, 3).await, [200, 200, 429]);
    assert_eq!(gateway.metric(&result("ok")).await, 4.0);
    assert_eq!(gateway.metric(&result("error")).await, 0.0);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_that_is_not_there_yet_is_waited_for_by_nobody() {
    let (backend, mut redis) = (Backend::well(), Redis::not_yet(&[]));
    let gateway = replica(&backend, &redis, 2).toml(LIMIT).start().await;
    // Two of three, the share of one of two replicas rounded up.
    assert_eq!(statuses(&gateway, 3).await, [200, 200, 429]);
    assert_eq!(gateway.metric(UP).await, 0.0);
    assert_eq!(gateway.metric(&result("unasked")).await, 3.0);
    redis.begin().await;
    gateway.until_metric(UP, 1.0).await;
    // What was admitted without it is gone from the limit.
    assert_eq!(statuses(&gateway, 2).await, [200, 429]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_slow_store_is_left_alone_until_it_is_quick_again() {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let gateway = reaching(replica(&backend, &redis, 1).toml(PLENTY)).await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let asleep = std::thread::spawn({
        let url = redis.port.to_string();
        move || {
            let sleep = ["-p", &url, "debug", "sleep", "4"];
            std::process::Command::new("redis-cli").args(sleep).output()
        }
    });
    // One waits for as long as it may, the others not at all.
    let begun = Instant::now();
    while gateway.metric(&result("timeout")).await == 0.0 {
        assert_eq!(client.api("GET", PATH, "").await.status, 200);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "it does not sleep"
        );
    }
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.api("GET", PATH, "").await.status, 200);
    }
    assert!(begun.elapsed() < 20 * Duration::from_millis(50));
    assert!(gateway.metric(&result("unasked")).await >= 20.0);
    assert!(gateway.metric(&result("timeout")).await <= 2.0);
    asleep.join().unwrap().unwrap();
    gateway.until_metric(UP, 1.0).await;
    let before = gateway.metric(&result("ok")).await;
    assert_eq!(client.api("GET", PATH, "").await.status, 200);
    assert_eq!(gateway.metric(&result("ok")).await, before + 1.0);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_that_is_full_fails_no_request() {
    let backend = Backend::well();
    // It may not throw anything out: writes are refused, and the share holds.
    let full = Redis::with(&["--maxmemory-policy", "noeviction"]).await;
    let gateway = reaching(replica(&backend, &full, 1).toml(LIMIT)).await;
    full.say(&["config", "set", "maxmemory", "1"]);
    assert_eq!(statuses(&gateway, 4).await, [200, 200, 200, 429]);
    gateway.until_metric(UP, 0.0).await;
    let message = "the shared store of limits does not answer: this replica limits by its share";
    until("it says so", || !gateway.events(message).is_empty()).await;
    assert_eq!(gateway.events(message)[0]["why"], "it says OOM");
    full.say(&["config", "set", "maxmemory", "0"]);
    gateway.until_metric(UP, 1.0).await;
    // A bucket that was thrown out is a full one.
    let evicting = Redis::start().await;
    let gateway = reaching(replica(&backend, &evicting, 1).toml(LIMIT)).await;
    assert_eq!(statuses(&gateway, 2).await, [200, 200]);
    evicting.say(&["flushall"]);
    assert_eq!(statuses(&gateway, 4).await, [200, 200, 200, 429]);
    assert_eq!(gateway.metric(&result("error")).await, 0.0);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_host_of_a_cluster_that_has_our_slot_is_found_from_any_other() {
    let backend = Backend::well();
    let cluster = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
    ];
    let (one, other) = (Redis::with(&cluster).await, Redis::with(&cluster).await);
    let slot: u16 = one
        .say(&["cluster", "keyslot", "{cobrowse-gateway}p:x"])
        .parse()
        .unwrap();
    // `other` has our slot, `one` all the rest.
    let (below, above) = ((slot - 1).to_string(), (slot + 1).to_string());
    one.say(&["cluster", "addslotsrange", "0", &below, &above, "16383"]);
    other.say(&["cluster", "addslots", &slot.to_string()]);
    other.say(&["cluster", "set-config-epoch", "2"]);
    one.say(&["cluster", "meet", "127.0.0.1", &other.port.to_string()]);
    until("the cluster is one", || {
        [&one, &other]
            .iter()
            .all(|r| r.say(&["cluster", "info"]).contains("cluster_state:ok"))
    })
    .await;
    let url = format!("redis+cluster://127.0.0.1:{}", one.port);
    let setup = replica(&backend, &one, 1).toml(LIMIT);
    let gateway = reaching(setup.toml(&format!("rate_limit.redis_url = '{url}'"))).await;
    assert_eq!(statuses(&gateway, 4).await, [200, 200, 200, 429]);
    let counts = |redis: &Redis| redis.say(&["keys", "*p:*"]).lines().count() == 1;
    assert!(counts(&other));
    // The slot moves: the store is found again.
    let id = one.say(&["cluster", "myid"]);
    for node in [&one, &other] {
        node.say(&["flushall"]);
        node.say(&["cluster", "setslot", &slot.to_string(), "node", &id]);
    }
    one.say(&["cluster", "bumpepoch"]);
    eventually("it counts at the other", async || {
        statuses(&gateway, 1).await;
        counts(&one).then_some(())
    })
    .await;
    gateway.until_metric(UP, 1.0).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn when_the_master_dies_the_one_that_sentinels_name_is_found() {
    let (backend, mut one) = (Backend::well(), Redis::start().await);
    let of_one = ["--replicaof", "127.0.0.1", &one.port.to_string()];
    let other = Redis::with(&of_one).await;
    let mut sentinel = Redis::not_yet(&[]);
    let watched = format!(
        "port {}\nsentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 1000\n",
        sentinel.port, one.port
    );
    let file = sentinel.folder.write("sentinel.conf", watched);
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    sentinel.begin_as_sentinel(&file).await;
    let knows = |what: &str| sentinel.say(&["sentinel", "master", "main"]).contains(what);
    until("the sentinel knows both", || knows("num-slaves\n1")).await;
    let setup = replica(&backend, &one, 1).toml(LIMIT);
    let gateway = reaching(setup.toml(&format!("rate_limit.redis_url = '{url}'"))).await;
    assert_eq!(statuses(&gateway, 1).await, [200]);
    until("the replica follows", || other.say(&["dbsize"]) == "1").await;
    one.kill();
    gateway.until_metric(UP, 0.0).await;
    until("the replica is the master", || {
        other.say(&["role"]).starts_with("master")
    })
    .await;
    // What was counted is not lost.
    gateway.until_metric(UP, 1.0).await;
    assert_eq!(statuses(&gateway, 3).await, [200, 200, 429]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_reload_goes_to_the_store_and_comes_back() {
    use rustix::process::Signal;
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let still = "reload.watch = false\nreload.poll = 'off'";
    let (local, shared) = (
        Gateway::before(&backend).toml(LIMIT).toml(still),
        replica(&backend, &redis, 1).toml(LIMIT).toml(still),
    );
    let gateway = local.clone().start().await;
    assert_eq!(statuses(&gateway, 3).await, [200, 200, 200]);
    for (n, (setup, up)) in [(&shared, 1.0), (&local, 0.0)].into_iter().enumerate() {
        gateway.folder.write("gateway.toml", setup.file());
        gateway.signal(Signal::HUP);
        until("reloaded", || gateway.events("reloaded").len() == n + 1).await;
        gateway.until_metric(UP, up).await;
        // The store has not counted yet; what was counted here stays counted.
        let expected = if up == 1.0 { 200 } else { 429 };
        assert_eq!(statuses(&gateway, 1).await, [expected]);
    }
    until("nobody is connected", || {
        !redis.say(&["client", "list"]).contains("cmd=evalsha")
    })
    .await;
}
