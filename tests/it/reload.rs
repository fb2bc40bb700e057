//! What changes while the gateway runs, and what must not.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;

use super::support::certificates::{
    Authority, Made, careless, connect_as, is_admitted, made, made_with, served,
};
use super::support::load;
use super::support::{
    Backend, Client, Folder, Gateway, KEY, Proto, Raw, Setup, eventually, until, websocket, within,
};

/// In front of `backend`, looking soon after something has changed.
fn quick(backend: &Backend) -> Setup {
    Gateway::before(backend).toml("reload.settle = '50ms'\nreload.poll = 'off'")
}

/// In front of `backend`, looking only when it is told to.
fn still(backend: &Backend) -> Setup {
    Gateway::before(backend).toml("reload.watch = false\nreload.poll = 'off'")
}

/// Writes the file anew and tells the gateway; how many reloads it says it has made.
async fn rewrite(gateway: &Gateway, setup: &Setup) -> usize {
    let before = outcomes(gateway);
    gateway.folder.write("gateway.toml", setup.file());
    gateway.signal(Signal::HUP);
    until("a reload or its failure", || outcomes(gateway) > before).await;
    gateway.events("reloaded").len()
}

fn failures(gateway: &Gateway) -> Vec<serde_json::Value> {
    gateway.events("reload failed: what is in force stays")
}

fn outcomes(gateway: &Gateway) -> usize {
    gateway.events("reloaded").len() + failures(gateway).len()
}

async fn status_with(client: &mut Client, key: &str) -> u16 {
    let headers = [("authorization", key)];
    let reply = client.call("GET", "/cobrowsing/api/x", &headers, "").await;
    reply.status.as_u16()
}

async fn until_reloaded(gateway: &Gateway) {
    until("a reload", || !gateway.events("reloaded").is_empty()).await;
}

#[tokio::test]
async fn a_removed_key_fails_on_the_next_request_of_an_open_connection() {
    let backend = Backend::well();
    let setup = still(&backend).without_key();
    let (both, new) = (
        setup.clone().toml("api.keys = { old = 'K1', new = 'K2' }"),
        setup.toml("api.keys = { new = 'K2' }"),
    );
    for proto in Proto::BOTH {
        let gateway = both.clone().start().await;
        let mut client = Client::connect(&gateway, proto).await;
        assert_eq!(status_with(&mut client, "K1").await, 200);
        assert_eq!(status_with(&mut client, "K2").await, 200);
        assert_eq!(rewrite(&gateway, &new).await, 1);
        assert_eq!(status_with(&mut client, "K1").await, 401);
        assert_eq!(status_with(&mut client, "K2").await, 200);
        assert!(client.is_open());
        assert_eq!(gateway.metric("gateway_config_generation").await, 1.0);
    }
}

#[tokio::test]
async fn a_file_that_is_written_over_or_renamed_over_is_seen() {
    let backend = Backend::well();
    let setup = quick(&backend);
    let gateway = setup.clone().start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for (n, key) in ["first", "second", "third"].into_iter().enumerate() {
        let text = setup.clone().toml(&format!("api.keys.k = '{key}'")).file();
        if n == 1 {
            // As editors do it.
            let draft = gateway.folder.write("draft", text);
            std::fs::rename(draft, gateway.folder.0.join("gateway.toml")).unwrap();
        } else {
            gateway.folder.write("gateway.toml", text);
        }
        until("a reload", || gateway.events("reloaded").len() > n).await;
        assert_eq!(status_with(&mut client, key).await, 200);
        assert_eq!(gateway.events("reloaded")[n]["trigger"], "watch");
    }
}

#[tokio::test]
async fn the_swap_of_a_kubernetes_secret_is_seen_and_open_connections_go_on() {
    let backend = Backend::well();
    let (old, new) = (made(&["localhost"]), made(&["localhost"]));
    let mount = Folder::new();
    let generation = |name: &str, made: &Made| {
        std::fs::create_dir(mount.0.join(name)).unwrap();
        mount.write(&format!("{name}/tls.crt"), &made.pem);
        mount.write(&format!("{name}/tls.key"), &made.key);
    };
    generation("..1", &old);
    symlink("..1", mount.0.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), mount.0.join(file)).unwrap();
    }
    let named = |file: &str| mount.0.join(file).display().to_string();
    let gateway = quick(&backend)
        .toml(&format!(
            "tls.certificate = {:?}\ntls.key = {:?}",
            named("tls.crt"),
            named("tls.key")
        ))
        .start()
        .await;
    assert_eq!(served(&gateway, "localhost").await, old.der);
    let stream = connect_as(&gateway, "localhost", careless(None)).await;
    let mut open = Raw::on(stream.unwrap());

    // What the kubelet does: a new folder, a link beside, a rename over the link.
    generation("..2", &new);
    symlink("..2", mount.0.join("..data_tmp")).unwrap();
    let swapped = Instant::now();
    std::fs::rename(mount.0.join("..data_tmp"), mount.0.join("..data")).unwrap();
    std::fs::remove_dir_all(mount.0.join("..1")).unwrap();
    eventually("the new certificate", async || {
        (served(&gateway, "localhost").await == new.der).then_some(())
    })
    .await;
    let took = swapped.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    eprintln!("from the swap to the new certificate being served: {took:?} (settle 50ms)");
    until("the line that tells of it", || {
        gateway.events("reloaded").len() == 1
    })
    .await;
    assert!(failures(&gateway).is_empty());
    // And once more: the folder that is watched now is another one.
    generation("..3", &old);
    symlink("..3", mount.0.join("..data_tmp")).unwrap();
    std::fs::rename(mount.0.join("..data_tmp"), mount.0.join("..data")).unwrap();
    eventually("the third certificate", async || {
        (served(&gateway, "localhost").await == old.der).then_some(())
    })
    .await;
    open.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(open.answer().await.status, 200);
}

#[tokio::test]
async fn a_certificate_and_its_key_may_arrive_apart() {
    let backend = Backend::well();
    let gateway = quick(&backend).start().await;
    let new = made(&["localhost"]);
    gateway.folder.write("cert.pem", &new.pem);
    // Longer than it settles: what is there is half of a pair.
    tokio::time::sleep(Duration::from_millis(400)).await;
    gateway.folder.write("cert.key", &new.key);
    until_reloaded(&gateway).await;
    assert_eq!(served(&gateway, "localhost").await, new.der);
    assert!(failures(&gateway).is_empty(), "{:?}", failures(&gateway));
}

#[tokio::test]
async fn what_is_wrong_is_told_and_what_is_in_force_stays() {
    let backend = Backend::well();
    let keys = Folder::new();
    let key_file = keys.write("key", KEY);
    let setup = still(&backend)
        .without_key()
        .env("REST_KEY_FILE", key_file.to_str().unwrap());
    let gateway = setup.clone().start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let good = std::fs::read(gateway.folder.0.join("cert.pem")).unwrap();
    let expired = made_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let early = made_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2999, 1, 1);
        params.not_after = rcgen::date_time_ymd(3000, 1, 1);
    });
    let foreign = made(&["elsewhere.test"]);
    let (authority, other) = (Authority::new("one"), Authority::new("two"));
    let leaf = authority.signs(&["localhost"]);
    let disorder = format!("{}{}", leaf.pem, other.pem);
    const GONE: &str = "";
    let file = |name: &'static str, text: &str| vec![(name, text.to_owned())];
    let pair =
        |pem: &str, key: &str| vec![("cert.pem", pem.to_owned()), ("cert.key", key.to_owned())];
    let config = setup.file();
    for (files, named) in [
        (file("gateway.toml", "not toml"), "gateway.toml:1:"),
        (
            file("gateway.toml", &format!("{config}\n[upsteam]\nurl = 'x'\n")),
            "upsteam",
        ),
        (file("gateway.toml", ""), "public.base_endpoint"),
        (
            file("cert.pem", &made(&["localhost"]).pem),
            "does not belong",
        ),
        (file("cert.pem", "nothing"), "tls.certificate"),
        (file("cert.key", "nothing"), "tls.key"),
        (
            pair(&expired.pem, &expired.key),
            "has expired on Wed, 01 Jan 2020",
        ),
        (pair(&early.pem, &early.key), "is not valid before"),
        (pair(&foreign.pem, &foreign.key), "elsewhere.test"),
        (
            pair(&disorder, &leaf.key),
            "is not the issuer of certificate 1",
        ),
        (file("../key", GONE), "REST_KEY_FILE"),
    ] {
        let before = failures(&gateway).len();
        for (name, text) in &files {
            if *name == "../key" {
                std::fs::remove_file(&key_file).unwrap();
            } else {
                gateway.folder.write(name, text);
            }
        }
        gateway.signal(Signal::HUP);
        until("a failure", || failures(&gateway).len() > before).await;
        let failure = failures(&gateway).pop().unwrap();
        let why = failure["error"].as_str().unwrap();
        assert!(why.contains(named), "{named}: {why}");
        assert!(!why.contains(KEY));
        assert_eq!(
            gateway
                .metric("gateway_config_last_reload_successful")
                .await,
            0.0
        );
        assert_eq!(status_with(&mut client, KEY).await, 200, "{named}");
        assert_eq!(gateway.metric("gateway_api_enabled").await, 1.0);
        // Back to what it was.
        gateway.folder.write("gateway.toml", &config);
        gateway.folder.write("cert.pem", &good);
        gateway
            .folder
            .write("cert.key", &super::support::certificate().1);
        std::fs::write(&key_file, KEY).unwrap();
    }
    gateway.signal(Signal::HUP);
    until_reloaded(&gateway).await;
    gateway
        .until_metric("gateway_config_last_reload_successful", 1.0)
        .await;
    let failed = gateway
        .metric("gateway_config_reloads_total{result=\"failed\"}")
        .await;
    assert!(failed >= 11.0, "{failed}");
    let attempt = "gateway_config_last_reload_attempt_timestamp_seconds";
    assert!(gateway.metric(attempt).await > 1.7e9);
    assert!(client.is_open());
}

#[tokio::test]
async fn a_key_file_that_is_emptied_closes_the_api() {
    let backend = Backend::well();
    let keys = Folder::new();
    let file = keys.write("key", KEY);
    let setup = quick(&backend).without_key();
    let setup = setup.env("REST_KEY_FILE", file.to_str().unwrap());
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(status_with(&mut client, KEY).await, 200);
    keys.write("key", "\n");
    until_reloaded(&gateway).await;
    let headers = [("authorization", KEY)];
    let reply = client.call("GET", "/cobrowsing/api/x", &headers, "").await;
    assert_eq!(reply.error(), "api_not_enabled");
    gateway.until_metric("gateway_api_enabled", 0.0).await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 200);
}

#[tokio::test]
async fn changes_are_found_where_nothing_tells_of_them() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("reload.watch = false\nreload.poll = '100ms'");
    let gateway = setup.clone().start().await;
    let changed = setup.toml("api.keys.k = 'polled'").file();
    gateway.folder.write("gateway.toml", changed);
    until_reloaded(&gateway).await;
    assert_eq!(gateway.events("reloaded")[0]["trigger"], "poll");
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(status_with(&mut client, "polled").await, 200);
}

#[tokio::test]
async fn what_is_written_anew_with_the_same_content_is_no_change() {
    let backend = Backend::well();
    let setup = quick(&backend);
    let gateway = setup.clone().start().await;
    gateway.folder.write("gateway.toml", setup.file());
    gateway.folder.write("beside", "something else");
    // The next change is the first.
    let changed = setup.toml("api.keys.k = 'changed'").file();
    tokio::time::sleep(Duration::from_millis(300)).await;
    gateway.folder.write("gateway.toml", changed);
    until_reloaded(&gateway).await;
    assert_eq!(gateway.metric("gateway_config_generation").await, 1.0);
    let files = gateway.events("reloaded")[0]["files"].clone();
    assert!(files.as_str().unwrap().ends_with("gateway.toml"), "{files}");
}

#[tokio::test]
async fn limits_go_on_counting_where_their_policy_stays() {
    let backend = Backend::well();
    let policy = |rate: &str| {
        format!(
            "rate_limit.policy = [{{ name = 'k', per = 'key', rate = '{rate}', burst = 3 }}, {{ name = 'c', per = 'client', rate = '7/1h', burst = 7 }}]"
        )
    };
    let setup = still(&backend).toml(&policy("3/1h"));
    let gateway = setup.clone().start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for _ in 0..3 {
        assert_eq!(status_with(&mut client, KEY).await, 200);
    }
    assert_eq!(status_with(&mut client, KEY).await, 429);
    // Another key beside it changes nothing for this one.
    rewrite(&gateway, &setup.clone().toml("api.keys.other = 'other'")).await;
    assert_eq!(status_with(&mut client, KEY).await, 429);
    assert_eq!(status_with(&mut client, "other").await, 200);
    // Another rate is another policy; the client's bucket stays as it is.
    rewrite(&gateway, &setup.clone().toml(&policy("4/1h"))).await;
    for _ in 0..3 {
        assert_eq!(status_with(&mut client, KEY).await, 200);
    }
    assert_eq!(status_with(&mut client, KEY).await, 429);
    rewrite(&gateway, &setup.toml(&policy("5/1h"))).await;
    assert_eq!(
        status_with(&mut client, KEY).await,
        429,
        "the client's seven are used up"
    );
}

#[tokio::test]
async fn what_needs_a_restart_is_told_and_the_rest_is_in_force() {
    let backend = Backend::well();
    let setup = still(&backend);
    let gateway = setup.clone().start().await;
    let changed = setup.toml(
        "limits.workers = 3\npublic.listen = '127.0.0.1:1'\nadmin.listen = '127.0.0.1:2'\nlimits.header_count = 50\napi.keys.more = 'canary'",
    );
    assert_eq!(rewrite(&gateway, &changed).await, 1);
    const WAITS: &str = "changed, and in force only after a restart";
    until("a warning", || gateway.events(WAITS).len() == 1).await;
    let told = gateway.events(WAITS)[0]["keys"].to_string();
    for key in ["limits.workers", "public.listen", "admin.listen"] {
        assert!(told.contains(key), "{told}");
    }
    assert!(!told.contains("header_count") && !told.contains("more"));
    let changed_keys = gateway.events("reloaded")[0]["changed"].to_string();
    for key in ["limits.workers", "limits.header_count", "api.keys.more"] {
        assert!(changed_keys.contains(key), "{changed_keys}");
    }
    assert!(!gateway.log().join("").contains("canary"));
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(status_with(&mut client, "canary").await, 200);
    // Told again, for as long as it waits.
    rewrite(&gateway, &changed.toml("limits.header_count = 51")).await;
    until("a warning", || gateway.events(WAITS).len() == 2).await;
}

#[tokio::test]
async fn limits_of_connections_hold_for_new_ones() {
    let backend = Backend::well();
    let setup = still(&backend);
    let gateway = setup.clone().start().await;
    let mut old = Client::connect(&gateway, Proto::H1).await;
    rewrite(&gateway, &setup.toml("limits.header_count = 3")).await;
    let mut new = Client::connect(&gateway, Proto::H1).await;
    let many = [("a", "1"), ("b", "2"), ("c", "3")];
    let reply = old.call("GET", "/cobrowsing/x", &many, "").await;
    assert_eq!(reply.status, 200);
    let reply = new.call("GET", "/cobrowsing/x", &many, "").await;
    assert_eq!(reply.status, 431);
}

#[tokio::test]
async fn the_backend_may_move_while_tunnels_to_the_old_one_go_on() {
    let (old, new) = (Backend::upgrades_and_echoes_messages(), Backend::well());
    let setup = still(&old);
    let gateway = setup.clone().start().await;
    let mut tunnel = websocket(&gateway, "/cobrowsing/s", &[]).await.unwrap();
    let moved = setup.toml(&format!("upstream.url = 'http://{}'", new.address));
    rewrite(&gateway, &moved).await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(client.get("/cobrowsing/there").await.status, 200);
    assert_eq!(new.only().target, "/there");
    tunnel.send("still here".into()).await.unwrap();
    let echo = within(tunnel.next()).await.unwrap().unwrap();
    assert_eq!(echo.to_text().unwrap(), "still here");
    gateway.until_metric("gateway_upstream_up", 1.0).await;
}

#[tokio::test]
async fn the_level_of_the_log_follows() {
    let backend = Backend::well();
    let setup = still(&backend);
    let gateway = setup.clone().start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.get("/cobrowsing/logged").await;
    until("a line", || gateway.requests().len() == 1).await;
    rewrite(&gateway, &setup.clone().toml("log.access = false")).await;
    client.get("/cobrowsing/silent").await;
    rewrite(&gateway, &setup).await;
    client.get("/cobrowsing/logged").await;
    until("another line", || gateway.requests().len() >= 2).await;
    assert_eq!(gateway.requests().len(), 2);
}

#[tokio::test]
async fn a_client_is_served_the_certificate_of_the_name_it_asks_for() {
    let backend = Backend::well();
    let (main, star, exact) = (
        made(&["localhost"]),
        made(&["*.more.test"]),
        made(&["exact.test"]),
    );
    let setup = still(&backend);
    let gateway = setup.clone().start().await;
    for (name, made) in [("cert", &main), ("star", &star), ("exact", &exact)] {
        gateway.folder.write(&format!("{name}.pem"), &made.pem);
        gateway.folder.write(&format!("{name}.key"), &made.key);
    }
    let several = setup.clone().toml(
        "tls.additional = [{ name = 'star', certificate = 'star.pem', key = 'star.key' }, { name = 'exact', certificate = 'exact.pem', key = 'exact.key' }]",
    );
    assert_eq!(rewrite(&gateway, &several).await, 1);
    for (asked, made) in [
        ("localhost", &main),
        ("a.more.test", &star),
        ("A.MORE.test", &star),
        ("more.test", &main),
        ("a.b.more.test", &main),
        ("exact.test", &exact),
        ("127.0.0.1", &main),
        ("unknown.test", &main),
    ] {
        assert_eq!(served(&gateway, asked).await, made.der, "{asked}");
    }
    for name in ["default", "star", "exact"] {
        let series = format!("gateway_tls_cert_not_after_timestamp_seconds{{name=\"{name}\"}}");
        assert!(gateway.metric(&series).await > 1.7e9, "{name}");
    }
    // One that is gone is gone; and a name twice is a mistake.
    assert_eq!(rewrite(&gateway, &setup).await, 2);
    assert_eq!(served(&gateway, "exact.test").await, main.der);
    let twice = setup.toml(
        "tls.additional = [{ name = 'default', certificate = 'star.pem', key = 'star.key' }]",
    );
    rewrite(&gateway, &twice).await;
    let why = failures(&gateway).pop().unwrap()["error"].to_string();
    assert!(why.contains("tls.additional.name"), "{why}");
}

#[tokio::test]
async fn where_an_authority_is_named_clients_show_a_certificate_of_it() {
    let backend = Backend::well();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (friend, stranger) = (ours.signs(&["friend"]), theirs.signs(&["stranger"]));
    let setup = quick(&backend);
    let gateway = setup.clone().start().await;
    let admitted = async |own| is_admitted(&gateway, careless(own)).await;
    assert!(admitted(None).await);
    gateway.folder.write("ca.pem", &ours.pem);
    let guarded = setup.toml("tls.client_ca = 'ca.pem'");
    gateway.folder.write("gateway.toml", guarded.file());
    until_reloaded(&gateway).await;
    assert!(admitted(Some(&friend)).await);
    assert!(!admitted(Some(&stranger)).await);
    assert!(!admitted(None).await);
    gateway
        .until_metric("gateway_tls_handshake_failures_total{reason=\"tls\"}", 2.0)
        .await;
    // The file alone changes.
    gateway
        .folder
        .write("ca.pem", format!("{}{}", ours.pem, theirs.pem));
    until("a reload", || gateway.events("reloaded").len() == 2).await;
    assert!(admitted(Some(&stranger)).await);
    gateway.folder.write("ca.pem", "none");
    until("a failure", || failures(&gateway).len() == 1).await;
    assert!(admitted(Some(&friend)).await);
    assert!(!admitted(None).await);
}

#[tokio::test]
async fn tls_sessions_go_on_where_the_certificate_stays() {
    let backend = Backend::well();
    let setup = still(&backend);
    let gateway = setup.clone().start().await;
    let client = careless(None);
    let resumed = async || {
        let stream = connect_as(&gateway, "localhost", client.clone()).await;
        let mut raw = Raw::on(stream.unwrap());
        raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        // With the answer the client has read its tickets.
        assert_eq!(raw.answer().await.status, 200);
        raw.stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    };
    assert!(!resumed().await);
    assert!(resumed().await);
    rewrite(&gateway, &setup.clone().toml("api.keys.k = 'more'")).await;
    assert!(resumed().await);
    let new = made(&["localhost"]);
    gateway.folder.write("cert.pem", &new.pem);
    gateway.folder.write("cert.key", &new.key);
    rewrite(&gateway, &setup).await;
    assert!(!resumed().await);
}

#[tokio::test]
async fn an_expired_certificate_is_served_at_a_start_for_want_of_another() {
    let backend = Backend::well();
    let expired = made_with(&["localhost"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    });
    let files = Folder::new();
    let named = |path: &Path| path.display().to_string();
    let pem = named(&files.write("old.pem", &expired.pem));
    let key = named(&files.write("old.key", &expired.key));
    let setup = quick(&backend).toml(&format!("tls.certificate = '{pem}'\ntls.key = '{key}'"));
    let gateway = setup.start().await;
    assert_eq!(served(&gateway, "localhost").await, expired.der);
    let log = gateway.log().join("\n");
    assert!(log.contains("has expired on Wed, 01 Jan 2020"), "{log}");
}

fn memory(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[tokio::test]
async fn one_hundred_reloads_of_every_kind_lose_nothing() {
    let backend = load::backend();
    let setup = quick(&backend).toml("limits.workers = 2");
    let gateway = setup.clone().start().await;
    let (address, score) = (gateway.listen, load::Score::default());
    let reloads = async {
        until("load", || score.done() > 200).await;
        let mut memory_then = 0;
        for n in 0..100_usize {
            if n == 20 {
                memory_then = memory(&gateway);
            }
            let by_signal = n % 2 == 0;
            // One that it tells to reload may find that the change was seen already.
            let reloads = || {
                let by = |line: &serde_json::Value| !by_signal || line["trigger"] == "signal";
                gateway.events("reloaded").iter().filter(|l| by(l)).count()
            };
            let reloaded = reloads();
            let change = match n % 6 {
                0 => format!("api.keys.k{n} = 'key{n}'"),
                1 => format!("limits.header_count = {}", 50 + n),
                2 => format!("websocket.idle = '{}s'", 100 + n),
                3 => format!(
                    "rate_limit.policy = [{{ name = 'k', per = 'key', rate = '{}/1s' }}]",
                    1_000_000 + n
                ),
                4 => format!("timeouts.keep_alive = '{}s'", 100 + n),
                _ => {
                    let new = made(&["localhost"]);
                    gateway.folder.write("cert.pem", &new.pem);
                    gateway.folder.write("cert.key", &new.key);
                    String::new()
                }
            };
            let changed = setup.clone().toml(&change);
            gateway.folder.write("gateway.toml", changed.file());
            if by_signal {
                gateway.signal(Signal::HUP);
            }
            until("a reload", || reloads() > reloaded).await;
        }
        score.stop();
        (memory_then, memory(&gateway))
    };
    let ((before, after), ..) = tokio::join!(
        reloads,
        load::requests(address, Proto::H1, &score),
        load::requests(address, Proto::H2, &score),
        load::new_connections(address, &score),
        load::downloads(address, Proto::H1, &score),
        load::downloads(address, Proto::H2, &score),
        load::uploads(address, Proto::H1, &score),
        load::messages(address, &score),
        load::messages(address, &score),
    );
    let reloads = gateway.events("reloaded").len();
    eprintln!("{reloads} reloads, {score}, RSS {before} KiB after 20, {after} KiB after all");
    assert!(reloads >= 100);
    assert!(failures(&gateway).is_empty(), "{:?}", failures(&gateway));
    assert_eq!(score.lost(), 0, "{score}");
    assert!(after < before + 8 * 1024, "{before} KiB, then {after} KiB");
}

#[tokio::test]
#[ignore = "needs root, and unshare and mount of util-linux: makes a mount like a subPath's"]
async fn a_file_that_is_a_mount_of_its_own_is_warned_of() {
    use std::io::{BufRead, BufReader};
    let backend = Backend::well();
    let folder = Folder::new().with_certificate();
    folder.write("source", std::fs::read(folder.0.join("cert.pem")).unwrap());
    folder.write("gateway.toml", still(&backend).file());
    let mut child = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount --bind source cert.pem && exec \"$0\" run")
        .arg(super::support::BINARY)
        .current_dir(&folder.0)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let warned = lines
        .by_ref()
        .map_while(Result::ok)
        .take_while(|line| !line.contains("\"started\""))
        .find(|line| line.contains("subPath"));
    child.kill().unwrap();
    child.wait().unwrap();
    let warned = warned.expect("a warning before it has started");
    assert!(
        warned.contains("cert.pem") && !warned.contains("cert.key"),
        "{warned}"
    );
}
