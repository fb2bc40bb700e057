//! From one key to the next, while everybody calls: the walk of `docs/keys.md`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use super::support::{Backend, Client, Gateway, Proto, Setup, until};

const LATEST: &str = "/cobrowsing/api/visitors/list/latest";
const WATCH: &str = "/cobrowsing/api/visitors/1/watch_url";
/// The backend's own key: it stays the same, and no caller knows it.
const OWN: &str = "the backend's own";

/// A backend with one key, as the service has it.
fn backend() -> Backend {
    Backend::answers_by(|request| {
        let status = if request.all("authorization") == [OWN] {
            "200 OK"
        } else {
            "401 Unauthorized"
        };
        format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes()
    })
}

fn before(backend: &Backend, keys: &str) -> Setup {
    Gateway::before(backend)
        .without_key()
        .env("GATEWAY__API__UPSTREAM_KEY", OWN)
        .toml("api.forward_authorization = 'replace'\napi.keys_file = 'keys'\nreload.watch = false")
        .beside("keys", keys)
}

/// Puts these keys in force.
async fn reload(gateway: &Gateway, keys: &str) {
    let before = gateway.events("reloaded").len();
    // The file is the old one or the new one, never half of it.
    let whole = gateway.folder.write("keys.next", keys);
    std::fs::rename(whole, gateway.folder.0.join("keys")).unwrap();
    gateway.signal(Signal::HUP);
    until("the reload", || gateway.events("reloaded").len() > before).await;
}

fn used(name: &str) -> String {
    format!("gateway_auth_total{{key_id=\"{name}\",result=\"ok\"}}")
}

fn last_used(name: &str) -> String {
    format!("gateway_key_last_used_timestamp_seconds{{key_id=\"{name}\"}}")
}

/// Callers that never stop calling, each on one connection.
struct Callers {
    /// Whether each has gone over to the new key.
    moved: Vec<Arc<AtomicBool>>,
    calls: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<()>,
}

impl Callers {
    async fn of(gateway: &Gateway, old: &'static str, new: &'static str) -> Self {
        let mut this = Self {
            moved: Vec::new(),
            calls: Arc::default(),
            failed: Arc::default(),
            stop: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        for proto in Proto::BOTH.repeat(4) {
            let mut client = Client::connect(gateway, proto).await;
            let moved = Arc::<AtomicBool>::default();
            this.moved.push(Arc::clone(&moved));
            let (calls, failed, stop) = (
                Arc::clone(&this.calls),
                Arc::clone(&this.failed),
                Arc::clone(&this.stop),
            );
            this.tasks.spawn(async move {
                for (method, path) in [("GET", LATEST), ("POST", WATCH)].iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let key = if moved.load(Ordering::SeqCst) {
                        new
                    } else {
                        old
                    };
                    let headers = [("authorization", key)];
                    let answer = client.try_call(method, path, &headers, "{}").await;
                    calls.fetch_add(1, Ordering::SeqCst);
                    match answer {
                        Ok(reply) if reply.status == 200 => {}
                        other => failed.lock().unwrap().push(format!("{proto:?} {other:?}")),
                    }
                }
            });
        }
        this
    }

    /// Waits for so many more calls.
    async fn call(&self, n: usize) {
        let enough = self.calls.load(Ordering::SeqCst) + n;
        until("calls", || self.calls.load(Ordering::SeqCst) >= enough).await;
    }

    /// Ends them; what failed.
    async fn stop(mut self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let failed = self.failed.lock().unwrap().clone();
        (self.calls.load(Ordering::SeqCst), failed)
    }
}

#[tokio::test]
async fn a_walk_from_one_key_to_the_next_fails_no_call() {
    let backend = backend();
    let gateway = before(&backend, "old: first key\n").start().await;
    let callers = Callers::of(&gateway, "first key", "second key").await;
    callers.call(100).await;

    // Add the new key.
    reload(&gateway, "old: first key\nnew: second key\n").await;
    callers.call(100).await;
    assert_eq!(gateway.metric(&used("new")).await, 0.0);
    assert_eq!(gateway.metric(&last_used("new")).await, 0.0);

    // Move the callers, one after the other.
    for moved in &callers.moved {
        moved.store(true, Ordering::SeqCst);
        callers.call(20).await;
    }

    // Look who still uses the old one: nobody, once what was under way is through.
    let (mut before, mut rounds) = (-1.0, 0);
    loop {
        let now = gateway.metric(&used("old")).await;
        if now == std::mem::replace(&mut before, now) {
            break;
        }
        rounds += 1;
        assert!(rounds < 10, "the old key is still used");
        callers.call(100).await;
    }
    assert!(gateway.metric(&used("new")).await > 100.0);
    let (old, new) = (
        gateway.metric(&last_used("old")).await,
        gateway.metric(&last_used("new")).await,
    );
    assert!(1.7e9 < old && old <= new, "{old} {new}");

    // Remove it.
    reload(&gateway, "new: second key\n").await;
    callers.call(100).await;
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains("key_id=\"old\""), "{metrics}");

    let (calls, failed) = callers.stop().await;
    assert!(failed.is_empty(), "{} of {calls}: {failed:?}", failed.len());
    let requests = backend.requests();
    assert!(requests.iter().all(|r| r.all("authorization") == [OWN]));
    assert_eq!(requests.len(), calls);
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let late = [("authorization", "first key")];
    let reply = client.call("GET", LATEST, &late, "").await;
    assert_eq!(reply.error(), "invalid_api_key");
}

#[tokio::test]
async fn a_removed_key_fails_on_the_next_request_of_an_open_connection_and_counts_anew_when_it_is_back()
 {
    let backend = backend();
    let both = "a: first key\nb: second key\n";
    let gateway = before(&backend, both)
        .toml("limits.workers = 2")
        .start()
        .await;
    let mut clients = Vec::new();
    for proto in Proto::BOTH.repeat(4) {
        clients.push(Client::connect(&gateway, proto).await);
    }
    let (a, b) = (
        [("authorization", "first key")],
        [("authorization", "second key")],
    );
    for (round, keys) in [both, "b: second key\n", both, "", both]
        .into_iter()
        .enumerate()
    {
        if round > 0 {
            reload(&gateway, keys).await;
        }
        for client in &mut clients {
            for (name, key) in [("a:", &a), ("b:", &b)] {
                let reply = client.call("GET", LATEST, key, "").await;
                let expected = match (keys.contains(name), keys) {
                    (true, _) => 200,
                    (false, "") => {
                        assert_eq!(reply.error(), "api_not_enabled");
                        401
                    }
                    (false, _) => {
                        assert_eq!(reply.error(), "invalid_api_key");
                        401
                    }
                };
                assert_eq!(reply.status, expected, "{round} {name}");
            }
            // Pages are never concerned.
            assert_eq!(client.get("/cobrowsing/page").await.status, 401);
        }
        // Counted from when each was last added: 8 clients, one request each a round.
        let metrics = gateway.metrics().await;
        for (name, counts) in [("a", [8, 0, 8, 0, 8]), ("b", [8, 16, 24, 0, 8])] {
            let line = format!("{} {}\n", used(name), counts[round]);
            assert_eq!(metrics.contains(&line), counts[round] > 0, "{round} {line}");
            let there = metrics.contains(&last_used(name));
            assert_eq!(there, counts[round] > 0, "{round} {name}");
        }
    }
}

#[tokio::test]
async fn the_keys_of_a_built_in_backend_change_with_those_of_the_gateway() {
    let gateway = Gateway::with_visitors()
        .toml("reload.watch = false")
        .without_key()
        .toml("api.keys_file = 'keys'")
        .beside("keys", "old: first key\n")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    for (keys, statuses) in [
        ("old: first key\n", [200, 401]),
        ("old: first key\nnew: second key\n", [200, 200]),
        ("new: second key\n", [401, 200]),
    ] {
        reload(&gateway, keys).await;
        for (key, status) in ["first key", "second key"].into_iter().zip(statuses) {
            let headers = [("authorization", key)];
            let reply = client.call("GET", LATEST, &headers, "").await;
            assert_eq!(reply.status, status, "{key} of {keys}");
        }
    }
}
