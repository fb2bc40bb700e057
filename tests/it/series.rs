//! The metrics are complete and true: each cause moves its own series and no other, nothing that
//! clients or backends send adds one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::shared_limits::{UP, replica};
use super::support::redis::Redis;
use super::support::{
    Backend, Client, Conn, Gateway, KEY, Proto, Raw, Received, ok, until, websocket, within,
};

/// The values of all series that are ours and count or tell a state. What depends on the time something
/// took, or on the time of day, is left out.
async fn values(gateway: &Gateway) -> BTreeMap<String, f64> {
    let text = gateway.metrics().await;
    let ours = text.lines().filter(|line| line.starts_with("gateway_"));
    ours.map(|line| line.rsplit_once(' ').unwrap())
        .filter(|(series, _)| {
            let name = series.split('{').next().unwrap();
            !name.ends_with("_bucket")
                && !name.ends_with("_sum")
                && !name.ends_with("_timestamp_seconds")
        })
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The series that differ from what they were, and by how much.
fn moved(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let series: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let value =
        |of: &BTreeMap<String, f64>, series: &String| of.get(series).copied().unwrap_or(0.0);
    series
        .into_iter()
        .map(|series| (series.clone(), value(now, series) - value(before, series)))
        .filter(|(_, by)| *by != 0.0)
        .collect()
}

/// What every answered request moves, with `more` in the words `series+by`.
fn request(route: &str, method: &str, code: u16, more: &[&str]) -> BTreeMap<String, f64> {
    let mut all = vec![
        format!(
            "gateway_requests_total{{code=\"{code}\",method=\"{method}\",route=\"{route}\"}}+1"
        ),
        "gateway_request_header_bytes_count+1".into(),
        "gateway_request_header_fields_count+1".into(),
    ];
    if code != 101 {
        all.push(format!(
            "gateway_request_duration_seconds_count{{route=\"{route}\"}}+1"
        ));
    }
    all.extend(more.iter().map(|more| (*more).to_owned()));
    series(&all)
}

fn series(words: &[String]) -> BTreeMap<String, f64> {
    let parsed = words.iter().map(|word| {
        let (series, by) = word.rsplit_once('+').unwrap();
        (series.to_owned(), by.parse().unwrap())
    });
    parsed.collect()
}

/// Does something, and sees just these series move.
async fn moves(
    gateway: &Gateway,
    cause: &str,
    expected: BTreeMap<String, f64>,
    does: impl AsyncFnOnce(&Gateway),
) {
    let before = values(gateway).await;
    does(gateway).await;
    let started = Instant::now();
    loop {
        let seen = moved(&before, &values(gateway).await);
        if seen == expected {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{cause}: moved {seen:#?}, expected {expected:#?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Echoes messages of sockets; answers with the status that the path ends with, if it is one; hangs
/// up on `/gone`.
fn backend() -> Backend {
    Backend::new(|conn: &mut Conn| {
        while let Some(request) = conn.request() {
            if request.header("upgrade").is_some() {
                conn.upgrade_and_echo_messages(&request);
                return;
            }
            if request.target == "/gone" || !conn.say(answer(&request).as_bytes()) {
                return;
            }
        }
    })
}

fn answer(request: &Received) -> String {
    match request
        .target
        .rsplit('/')
        .next()
        .and_then(|end| end.parse::<u16>().ok())
    {
        Some(204 | 304) | None => ok("{}"),
        Some(status @ 200..) => format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"),
        Some(_) => ok("{}"),
    }
}

const UPSTREAM: &str = "gateway_upstream_request_duration_seconds_count+1";
const ADMITTED: &str =
    "gateway_ratelimit_total{enforced=\"true\",policy=\"once\",result=\"admitted\"}+1";
const LIMITED: &str =
    "gateway_ratelimit_total{enforced=\"true\",policy=\"once\",result=\"limited\"}+1";
const AUTHORIZED: &str = "gateway_auth_total{key_id=\"rest_key\",result=\"ok\"}+1";
const CONNECTED: &str = "gateway_upstream_connects_total{result=\"ok\"}+1";

#[tokio::test]
async fn each_cause_moves_its_own_series_and_no_other() {
    let backend = backend();
    let setup = Gateway::before(&backend)
        .toml("upstream.pool_idle = '10m'\nupstream.health_interval = '10m'")
        .toml(
            "[[rate_limit.policy]]\nname = 'once'\nmatch = 'watch_url'\nper = 'key'\nrate = '1/1d'",
        );
    let gateway = setup.start().await;
    // From now on one connection to the backend is kept.
    Client::connect(&gateway, Proto::H1)
        .await
        .get("/cobrowsing/x")
        .await;
    gateway
        .until_metric("gateway_connections{listener=\"public\",proto=\"h1\"}", 0.0)
        .await;
    let rejected = |code: &str| format!("gateway_rejected_requests_total{{reason=\"{code}\"}}+1");
    let auth =
        |result: &str| format!("gateway_auth_total{{key_id=\"none\",result=\"{result}\"}}+1");
    let twice: &[(&str, &str)] = &[("authorization", "a"), ("authorization", "b")];
    let with_key: &[(&str, &str)] = &[("authorization", KEY)];
    let latest = "/cobrowsing/api/visitors/list/latest";
    let watch = "/cobrowsing/api/visitors/1/watch_url";
    for (method, path, headers, expected) in [
        (
            "GET",
            "/cobrowsing/x",
            &[][..],
            request("page", "GET", 200, &[UPSTREAM]),
        ),
        (
            "PURGE",
            "/cobrowsing/x",
            &[],
            request("page", "OTHER", 200, &[UPSTREAM]),
        ),
        (
            "GET",
            "/cobrowsing/screen",
            &[],
            request("screen", "GET", 200, &[UPSTREAM]),
        ),
        // The backend's own errors are its own.
        (
            "PUT",
            "/cobrowsing/503",
            &[],
            request("page", "PUT", 503, &[UPSTREAM]),
        ),
        (
            "GET",
            "/outside",
            &[],
            request("none", "GET", 404, &[&rejected("not_found")]),
        ),
        (
            "GET",
            "/cobrowsing/a%2fb",
            &[],
            request("none", "GET", 400, &[&rejected("ambiguous_path")]),
        ),
        (
            "GET",
            latest,
            with_key,
            request("visitors_latest", "GET", 200, &[UPSTREAM, AUTHORIZED]),
        ),
        (
            "GET",
            latest,
            &[],
            request(
                "visitors_latest",
                "GET",
                401,
                &[&rejected("invalid_api_key"), &auth("invalid")],
            ),
        ),
        (
            "GET",
            latest,
            twice,
            request(
                "visitors_latest",
                "GET",
                400,
                &[&rejected("duplicate_authorization"), &auth("duplicate")],
            ),
        ),
        (
            "POST",
            watch,
            with_key,
            request("watch_url", "POST", 200, &[UPSTREAM, AUTHORIZED, ADMITTED]),
        ),
        (
            "POST",
            watch,
            with_key,
            request(
                "watch_url",
                "POST",
                429,
                &[AUTHORIZED, LIMITED, &rejected("rate_limited")],
            ),
        ),
    ] {
        for proto in Proto::BOTH {
            // The one token of the policy is gone after the first.
            if path == watch
                && expected.keys().any(|s| s.contains("admitted"))
                && proto == Proto::H2
            {
                continue;
            }
            let cause = format!("{proto:?} {method} {path} {headers:?}");
            moves(&gateway, &cause, expected.clone(), async |gateway| {
                Client::connect(gateway, proto)
                    .await
                    .call(method, path, headers, "")
                    .await;
            })
            .await;
        }
    }
    moves_of_connections(&gateway).await;
}

async fn moves_of_connections(gateway: &Gateway) {
    let failed = series(&["gateway_tls_handshake_failures_total{reason=\"tls\"}+1".into()]);
    moves(gateway, "no TLS", failed, async |gateway| {
        let mut plain = TcpStream::connect(gateway.listen).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        within(plain.read_to_end(&mut Vec::new())).await.ok();
    })
    .await;
    let open = "gateway_connections{listener=\"public\",proto=\"h2\"}+1".into();
    let mut held = None;
    moves(gateway, "a connection", series(&[open]), async |gateway| {
        held = Some(Client::connect(gateway, Proto::H2).await);
    })
    .await;
    let closed = "gateway_connections{listener=\"public\",proto=\"h2\"}+-1".into();
    moves(gateway, "its end", series(&[closed]), async |_| drop(held)).await;
    let opened = request(
        "page",
        "GET",
        101,
        &[
            UPSTREAM,
            CONNECTED,
            "gateway_websocket_active{route=\"page\"}+1",
            "gateway_connections{listener=\"public\",proto=\"h1\"}+1",
        ],
    );
    let mut opened = opened;
    // Of a tunnel its upstream time is told when it ends.
    opened.remove(UPSTREAM.trim_end_matches("+1"));
    let mut socket = None;
    moves(gateway, "a socket", opened, async |gateway| {
        socket = Some(websocket(gateway, "/cobrowsing/socket", &[]).await.unwrap());
    })
    .await;
    let mut socket = socket.unwrap();
    let close = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let ended = series(&[
        // A message of 5 bytes and a Close of 2, with heads and masks, and back without masks.
        "gateway_websocket_bytes_total{direction=\"received\"}+19".into(),
        "gateway_websocket_bytes_total{direction=\"sent\"}+11".into(),
        "gateway_websocket_closed_total{by=\"client\",code_class=\"normal\"}+1".into(),
        "gateway_websocket_session_duration_seconds_count+1".into(),
        "gateway_websocket_active{route=\"page\"}+-1".into(),
        "gateway_connections{listener=\"public\",proto=\"h1\"}+-1".into(),
        UPSTREAM.into(),
    ]);
    moves(gateway, "its words and its end", ended, async |_| {
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(
            within(socket.next()).await.unwrap().unwrap(),
            Message::text("hello")
        );
        socket.close(Some(close)).await.unwrap();
        while let Some(Ok(_)) = within(socket.next()).await {}
        drop(socket);
    })
    .await;
    let failed = request(
        "page",
        "POST",
        502,
        &["gateway_rejected_requests_total{reason=\"upstream_failed\"}+1"],
    );
    moves(
        gateway,
        "a backend that hangs up",
        failed,
        async |gateway| {
            let mut client = Client::connect(gateway, Proto::H1).await;
            client.call("POST", "/cobrowsing/gone", &[], "x").await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_reload_moves_the_digest_and_the_times_and_the_version_stays() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("reload.watch = false")
        .start()
        .await;
    let version = format!(
        "gateway_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    let loaded = "gateway_config_last_reload_timestamp_seconds";
    let digests = async || {
        let text = gateway.metrics().await;
        let digests: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("gateway_config_info{"))
            .map(str::to_owned)
            .collect();
        digests
    };
    assert_eq!(gateway.metric(&version).await, 1.0);
    let (first, first_loaded) = (digests().await, gateway.metric(loaded).await);
    let since = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs_f64();
    assert!((since - first_loaded).abs() < 60.0);
    let file = std::fs::read_to_string(gateway.folder.0.join("gateway.toml")).unwrap();
    gateway.folder.write(
        "gateway.toml",
        file + "\n[compat]\npath_parameters = true\n",
    );
    gateway.signal(rustix::process::Signal::HUP);
    gateway.until_metric("gateway_config_generation", 1.0).await;
    let now = digests().await;
    // One digest at a time, and another one.
    assert_eq!((first.len(), now.len()), (1, 1));
    assert_ne!(first, now);
    assert!(gateway.metric(loaded).await >= first_loaded);
    assert_eq!(gateway.metric(&version).await, 1.0);
}

/// The names and labels of all series.
async fn all_series(gateway: &Gateway) -> BTreeSet<String> {
    let text = gateway.metrics().await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

/// Resident memory, KiB.
pub(super) fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The `n`th odd request: each number gives another one, and after [`KINDS`] they are of the same
/// kinds again.
pub(super) fn odd(n: usize) -> String {
    const METHODS: [&str; 5] = ["GET", "POST", "HEAD", "X", "get"];
    const PATHS: [&str; 9] = [
        "/cobrowsing/api/visitors/list/latest",
        "/cobrowsing/api/visitors/list/search",
        "/cobrowsing/api/visitors/",
        "/cobrowsing/API/",
        "/cobrowsing/%2e%2e/",
        "/cobrowsing/a%2f",
        "/outside/",
        "/",
        "/cobrowsing/screen/",
    ];
    const HOSTS: [&str; 3] = ["localhost", "elsewhere.test", "LOCALHOST"];
    let (method, rest) = (METHODS[n % METHODS.len()], n / METHODS.len());
    let (path, rest) = (PATHS[rest % PATHS.len()], rest / PATHS.len());
    let (host, rest) = (HOSTS[rest % HOSTS.len()], rest / HOSTS.len());
    // A method that is none of the known ones is another one each time.
    let method = if method == "X" {
        format!("X{n}")
    } else {
        method.into()
    };
    let tail = if path.ends_with('/') {
        format!("{n}")
    } else {
        String::new()
    };
    let key = if rest.is_multiple_of(2) {
        format!("authorization: key-{n}\r\n")
    } else {
        format!("x-{n}: {n}\r\n")
    };
    format!("{method} {path}{tail}?q={n} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {n}\r\n{key}\r\n")
}

/// How many kinds there are.
pub(super) const KINDS: usize = 5 * 9 * 3 * 2;

/// Sends requests on one connection, many at a time, and reads as many answers; the statuses.
pub(super) async fn pipelined(
    gateway: &Gateway,
    requests: impl Iterator<Item = String>,
) -> BTreeSet<u16> {
    let requests: Vec<String> = requests.collect();
    let raw = Raw::connect(gateway).await;
    let (mut reading, mut writing) = tokio::io::split(raw.stream);
    let count = requests.len();
    let sending = async move {
        for chunk in requests.chunks(100) {
            writing.write_all(chunk.concat().as_bytes()).await.unwrap();
            writing.flush().await.unwrap();
        }
        writing
    };
    let receiving = async move {
        // Each answer begins with the version, which no body here has.
        let (mut seen, mut statuses) = (0, BTreeSet::new());
        let (mut chunk, mut rest) = (vec![0; 64 << 10], Vec::new());
        while seen < count {
            let n = within(reading.read(&mut chunk)).await.unwrap();
            assert!(n > 0, "closed after {seen} answers of {count}");
            rest.extend_from_slice(&chunk[..n]);
            let mut from = 0;
            while let Some(at) = super::support::find(&rest[from..], b"HTTP/1.1 ") {
                let begins = from + at;
                let Some(status) = rest.get(begins + 9..begins + 12) else {
                    break;
                };
                statuses.insert(str::from_utf8(status).unwrap().parse().unwrap());
                seen += 1;
                from = begins + 12;
            }
            // What may be the beginning of the next one stays.
            let keep = rest.len().saturating_sub(11).max(from);
            rest.drain(..keep);
        }
        statuses
    };
    let (_writing, statuses) = tokio::join!(sending, receiving);
    statuses
}

#[tokio::test]
async fn a_hundred_thousand_odd_requests_add_no_series_and_no_memory() {
    const CONNECTIONS: usize = 8;
    const EACH: usize = 12_500;
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("log.access = false")
        .start()
        .await;
    let kinds = pipelined(&gateway, (0..KINDS).map(odd)).await;
    for status in [200, 400, 401, 404, 421] {
        assert!(kinds.contains(&status), "{kinds:?}");
    }
    pipelined(&gateway, (0..10 * KINDS).map(odd)).await;
    let (before, memory) = (all_series(&gateway).await, resident(&gateway));
    for connection in 0..CONNECTIONS {
        let from = (connection + 20) * EACH;
        let seen = pipelined(&gateway, (from..from + EACH).map(odd)).await;
        assert_eq!(seen, kinds);
    }
    let after = all_series(&gateway).await;
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    let grown = resident(&gateway).saturating_sub(memory);
    assert!(grown < 4 << 10, "{grown} KiB more");
    let counted: f64 = values(&gateway)
        .await
        .iter()
        .filter(|(series, _)| series.starts_with("gateway_requests_total"))
        .map(|(_, count)| count)
        .sum();
    assert!(counted >= (CONNECTIONS * EACH) as f64, "{counted}");
    let text = gateway.metrics().await;
    for odd in ["elsewhere", "key-", "X1", "q="] {
        assert!(!text.contains(odd), "{odd}");
    }
}

#[tokio::test]
async fn a_backend_that_answers_with_every_status_there_is_cannot_fill_a_monitoring_system() {
    let backend = backend();
    let gateway = Gateway::before(&backend)
        .toml("log.access = false")
        .start()
        .await;
    let methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    for method in methods {
        let all = (200..600).filter(|code| !matches!(code, 204 | 205 | 304));
        let all = all.map(|code| {
            format!("{method} /cobrowsing/{code} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
        });
        pipelined(&gateway, all).await;
    }
    let of_requests = async || {
        let names = all_series(&gateway).await;
        names
            .into_iter()
            .filter(|n| n.starts_with("gateway_requests_total"))
            .count()
    };
    let count = of_requests().await;
    assert!((1990..=2010).contains(&count), "{count} series");
    let dropped = gateway.metric("gateway_metrics_dropped_total").await;
    assert!(dropped > 300.0, "{dropped}");
    // What has no series of its own is counted all the same.
    let other = gateway
        .metric("gateway_requests_total{code=\"other\",method=\"PATCH\",route=\"page\"}")
        .await;
    assert_eq!(other, dropped);
    // And it is told once for each worker, not for each request.
    let last = "PATCH /cobrowsing/599 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    pipelined(&gateway, std::iter::repeat_n(last.to_owned(), 10)).await;
    assert_eq!(
        gateway.metric("gateway_metrics_dropped_total").await,
        dropped
    );
    let more = "gateway_requests_total{code=\"other\",method=\"PATCH\",route=\"page\"}";
    gateway.until_metric(more, other + 10.0).await;
}

#[tokio::test]
async fn the_size_of_heads_is_told_in_the_terms_of_its_limits() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let head = "GET /cobrowsing/x?q=1 HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\n";
    Raw::connect(&gateway).await.call(head).await;
    gateway
        .until_metric("gateway_request_header_bytes_sum", head.len() as f64)
        .await;
    gateway
        .until_metric("gateway_request_header_fields_sum", 2.0)
        .await;
    // What is refused for its size is no measure of what is usual.
    let large = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(40 << 10)
    );
    let mut raw = Raw::connect(&gateway).await;
    raw.stream.write_all(large.as_bytes()).await.ok();
    assert_eq!(raw.answer().await.status, 431);
    assert_eq!(
        gateway.metric("gateway_request_header_bytes_count").await,
        1.0
    );
    // RFC 9113 section 6.5.2: 32 more for each field, of which four are pseudo-header fields.
    Client::connect(&gateway, Proto::H2)
        .await
        .get("/cobrowsing/x")
        .await;
    let pseudo = ":methodGET:schemehttps:authoritylocalhost:path/cobrowsing/x".len() + 4 * 32;
    gateway
        .until_metric(
            "gateway_request_header_bytes_sum",
            (head.len() + pseudo) as f64,
        )
        .await;
}

#[tokio::test]
async fn lines_that_nobody_reads_hold_up_no_request_and_are_counted() {
    const REQUESTS: usize = 40_000;
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let unread = gateway.without_reading_its_log();
    let line = "GET /outside HTTP/1.1\r\nhost: localhost\r\n\r\n";
    pipelined(&gateway, std::iter::repeat_n(line.to_owned(), REQUESTS)).await;
    let dropped = gateway.metric("gateway_log_lines_dropped_total").await;
    assert!(dropped > 0.0 && dropped < REQUESTS as f64, "{dropped}");
    // Whoever reads again sees what was queued, and what comes from now on.
    drop(unread);
    until("what was not dropped", || {
        gateway.requests().len() >= REQUESTS - dropped as usize
    })
    .await;
    let raw = Raw::connect(&gateway)
        .await
        .call("GET /last HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(raw.status, 404);
    let all = REQUESTS - dropped as usize + 1;
    until("the last line", || gateway.requests().len() == all).await;
    assert_eq!(
        gateway.metric("gateway_log_lines_dropped_total").await,
        dropped
    );
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_shared_store_is_timed() {
    let (backend, redis) = (Backend::well(), Redis::start().await);
    let policy = "[[rate_limit.policy]]\nname = 'k'\nper = 'key'\nrate = '100/1s'";
    let gateway = replica(&backend, &redis, 1).toml(policy).start().await;
    gateway.until_metric(UP, 1.0).await;
    let timed = "gateway_ratelimit_store_duration_seconds_count";
    let before = gateway.metric(timed).await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.api("GET", "/cobrowsing/api/visitors/1", "").await;
    gateway.until_metric(timed, before + 1.0).await;
}
