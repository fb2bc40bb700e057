//! What operators see and do: health, metrics, log, signals.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::{
    Backend, Client, Gateway, KEY, Proto, Raw, eventually, find, full, until, websocket, within,
};

#[tokio::test]
async fn readiness_follows_the_backend_and_liveness_does_not() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let setup = Gateway::on(address.port())
        .unready()
        .toml("upstream.health_interval = '100ms'");
    let gateway = setup.start().await;
    for (path, status) in [
        ("/livez", 200),
        ("/startupz", 200),
        ("/readyz", 503),
        ("/metrics", 200),
        ("/x", 404),
    ] {
        assert_eq!(gateway.ask(path).await.status.as_u16(), status, "{path}");
    }
    assert_eq!(gateway.ask_with("POST", "/readyz").await.status, 405);
    assert_eq!(gateway.metric("gateway_upstream_up").await, 0.0);
    let listener = std::net::TcpListener::bind(address).unwrap();
    let backend = Backend::on(listener, |conn| drop(conn.request()));
    gateway.until_ready().await;
    assert_eq!(gateway.metric("gateway_upstream_up").await, 1.0);
    drop(backend);
    eventually("unready", async || {
        (gateway.ask("/readyz").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(gateway.ask("/livez").await.status, 200);
}

#[tokio::test]
async fn the_admin_paths_are_not_on_the_public_listener() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
}

/// Name, type, help and labels of every metric, without values.
fn shape(metrics: &str) -> String {
    let mut lines = BTreeSet::new();
    for line in metrics.lines() {
        if let Some(described) = line.strip_prefix("# ") {
            let (what, rest) = described.split_once(' ').unwrap();
            let (name, text) = rest.split_once(' ').unwrap();
            // What the process tells of itself depends on the system's version.
            if name.starts_with("gateway_") {
                lines.insert(format!("{name} {} {text}", what.to_lowercase()));
            }
        } else if line.starts_with("gateway_")
            && let Some((name, labels)) = line.split_once('{')
        {
            let labels = labels.split_once('}').unwrap().0;
            let names: Vec<_> = labels
                .split("\",")
                .map(|pair| pair.split_once('=').unwrap().0)
                .filter(|name| *name != "le")
                .collect();
            if !names.is_empty() {
                let name = name
                    .trim_end_matches("_bucket")
                    .trim_end_matches("_sum")
                    .trim_end_matches("_count");
                lines.insert(format!("{name} labels {}", names.join(",")));
            }
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// One of everything that has labels of its own.
async fn exercise(gateway: &Gateway) {
    let mut client = Client::connect(gateway, Proto::H2).await;
    client.api("GET", "/cobrowsing/api/visitors/1", "").await;
    client.get("/cobrowsing/api/visitors/1").await;
    drop(websocket(gateway, "/cobrowsing/socket", &[]).await);
    let mut plain = tokio::net::TcpStream::connect(gateway.listen)
        .await
        .unwrap();
    use tokio::io::AsyncWriteExt;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    gateway
        .until_metric("gateway_tls_handshake_failures_total{reason=\"tls\"}", 1.0)
        .await;
}

#[tokio::test]
async fn the_metrics_are_those_of_the_golden_file() {
    let backend = Backend::upgrades_and_echoes_messages();
    let setup = Gateway::before(&backend)
        .toml("[[rate_limit.policy]]\nname = 'p'\nper = 'key'\nrate = '100/1s'\n[api.retire]\nrest_key = '2999-01-01'");
    let gateway = setup.start().await;
    exercise(&gateway).await;
    let now = shape(&gateway.metrics().await);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/metrics.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &now).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap();
    assert!(
        now == expected,
        "names of metrics are public; BLESS=1 writes them anew:\n{now}"
    );
}

#[tokio::test]
async fn each_series_moves_by_its_cause() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    client
        .api("GET", "/cobrowsing/api/visitors/list/latest", "")
        .await;
    client.get("/cobrowsing/api/visitors/list/latest").await;
    client.get("/cobrowsing/screen?id=1").await;
    client.get("/outside").await;
    let twice = [("authorization", "a"), ("authorization", "b")];
    client.call("GET", "/cobrowsing/api/x", &twice, "").await;
    for (series, value) in [
        (
            "gateway_requests_total{code=\"200\",method=\"GET\",route=\"visitors_latest\"}",
            1.0,
        ),
        (
            "gateway_requests_total{code=\"401\",method=\"GET\",route=\"visitors_latest\"}",
            1.0,
        ),
        (
            "gateway_requests_total{code=\"200\",method=\"GET\",route=\"screen\"}",
            1.0,
        ),
        (
            "gateway_requests_total{code=\"404\",method=\"GET\",route=\"none\"}",
            1.0,
        ),
        (
            "gateway_request_duration_seconds_count{route=\"visitors_latest\"}",
            2.0,
        ),
        ("gateway_upstream_request_duration_seconds_count", 2.0),
        ("gateway_rejected_requests_total{reason=\"not_found\"}", 1.0),
        (
            "gateway_rejected_requests_total{reason=\"invalid_api_key\"}",
            1.0,
        ),
        (
            "gateway_rejected_requests_total{reason=\"duplicate_authorization\"}",
            1.0,
        ),
        ("gateway_auth_total{key_id=\"rest_key\",result=\"ok\"}", 1.0),
        (
            "gateway_auth_total{key_id=\"none\",result=\"invalid\"}",
            1.0,
        ),
        (
            "gateway_auth_total{key_id=\"none\",result=\"duplicate\"}",
            1.0,
        ),
        ("gateway_api_enabled", 1.0),
        ("gateway_inflight_requests", 0.0),
        ("gateway_connections{listener=\"public\",proto=\"h2\"}", 1.0),
        ("gateway_upstream_connects_total{result=\"ok\"}", 1.0),
        ("gateway_upstream_up", 1.0),
        ("gateway_config_last_reload_successful", 1.0),
        ("gateway_draining", 0.0),
        ("gateway_log_lines_dropped_total", 0.0),
    ] {
        gateway.until_metric(series, value).await;
    }
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs_f64();
    let used = gateway
        .metric("gateway_key_last_used_timestamp_seconds{key_id=\"rest_key\"}")
        .await;
    assert!((now - used).abs() < 60.0);
    assert!(
        gateway
            .metric("gateway_tls_cert_not_after_timestamp_seconds{name=\"default\"}")
            .await
            > now
    );
}

#[tokio::test]
async fn nothing_a_client_sends_adds_a_series() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.call("PURGE", "/cobrowsing/x", &[], "").await;
    client.call("GET", "/y", &[], "").await;
    client.get("/cobrowsing/api/x").await;
    let series = async || gateway.metrics().await.lines().count();
    let before = series().await;
    for n in 0..20 {
        client
            .call(
                &format!("PURGE{n}"),
                &format!("/cobrowsing/x{n}?a={n}"),
                &[],
                "",
            )
            .await;
        client.get(&format!("/y{n}")).await;
        let key = format!("key-{n}");
        let headers = [("authorization", &*key)];
        client
            .call("GET", &format!("/cobrowsing/api/x{n}"), &headers, "")
            .await;
    }
    assert_eq!(series().await, before);
}

#[tokio::test]
async fn each_request_is_one_line_and_no_secret_is_in_any() {
    let backend = Backend::answers(
        "HTTP/1.1 200 OK\r\nset-cookie: s=canary-set\r\ncontent-type: application/json\r\ncontent-length: 27\r\n\r\n{\"watch_url\":\"canary-watch\"}",
    );
    let key = "canary-key";
    let setup = Gateway::before(&backend).without_key().env("REST_KEY", key);
    let gateway = setup.toml("log.level = 'debug'").start().await;
    let mut lines = 0;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let secrets = [
            ("authorization", key),
            ("cookie", "a=canary-cookie"),
            ("x-api-key", "canary-api-key"),
            ("referer", "https://localhost/screen?token=canary-referer"),
        ];
        let body = r#"{"licenseToken":"canary-license"}"#;
        for (method, path) in [
            (
                "POST",
                "/cobrowsing/api/visitors/canary-id/watch_url?q=canary-query",
            ),
            ("GET", "/cobrowsing/screen?id=1&token=canary-token"),
            ("GET", "/outside/canary-path?canary"),
            ("GET", "/cobrowsing/a;canary"),
        ] {
            client.call(method, path, &secrets, body).await;
            lines += 1;
        }
        let wrong = [("authorization", "canary-wrong")];
        let refused = client.call("GET", "/cobrowsing/api/x", &wrong, "").await;
        assert!(!refused.text().contains("canary"));
        lines += 1;
    }
    let mut raw = Raw::connect(&gateway).await;
    raw.say("GET /canary \x01 HTTP/1.1\r\ncanary: \x02\r\n\r\n")
        .await;
    raw.rest().await;
    lines += 1;
    until("one line a request", || gateway.requests().len() >= lines).await;
    let ids: BTreeSet<_> = gateway
        .requests()
        .iter()
        .map(|l| l["request_id"].to_string())
        .collect();
    assert_eq!((gateway.requests().len(), ids.len()), (lines, lines));
    let first = &gateway.requests()[0];
    for field in [
        "request_id",
        "peer",
        "proto",
        "method",
        "route",
        "status",
        "key_id",
        "duration_ms",
        "upstream_ms",
        "bytes_received",
        "bytes_sent",
    ] {
        assert!(!first[field].is_null(), "{field}: {first}");
    }
    assert!(!gateway.metrics().await.contains("canary"));
    let ended = gateway.stop().await;
    for text in ended.log.iter().chain([&ended.errors]) {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn sigterm_fails_readiness_first_then_refuses_then_finishes_what_is_there() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |conn| {
        while let Some(request) = conn.request() {
            if request.target == "/slow" {
                wait.lock().unwrap().recv().ok();
            }
            conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
        }
    });
    let setup = Gateway::before(&backend).toml("drain.delay = '800ms'\ndrain.budget = '10s'");
    let gateway = setup.start().await;
    let mut slow = Raw::connect(&gateway).await;
    slow.say("GET /cobrowsing/slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    let mut h2 = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(h2.get("/cobrowsing/x").await.status, 200);
    let mut idle = Raw::connect(&gateway).await;
    assert_eq!(
        idle.call("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .status,
        200
    );
    until("it is at the backend", || backend.requests().len() == 3).await;
    gateway.signal(Signal::TERM);
    // During the delay: not ready, and still serving newcomers.
    eventually("unready", async || {
        (gateway.ask("/readyz").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(gateway.metric("gateway_draining").await, 1.0);
    let mut late = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(late.get("/cobrowsing/x").await.status, 200);
    // After it: nobody new, idle ones are let go.
    eventually("refused", async || {
        tokio::net::TcpStream::connect(gateway.listen)
            .await
            .is_err()
            .then_some(())
    })
    .await;
    assert_eq!(idle.rest().await, b"");
    until("HTTP/2 is told", || !h2.is_open()).await;
    go.send(()).unwrap();
    let reply = slow.answer().await;
    assert_eq!((reply.status.as_u16(), &*reply.text()), (200, "done"));
    assert_eq!(reply.header("connection"), Some("close"));
    let ended = gateway.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    assert!(
        ended
            .log
            .iter()
            .any(|line| line.contains("\"drained\"") && line.contains("\"cut\":0"))
    );
}

#[tokio::test]
async fn at_the_end_of_the_budget_a_tunnel_is_cut_and_counted() {
    for signal in [Signal::TERM, Signal::INT] {
        let backend = Backend::upgrades(|conn| drop(conn.read_to_end()));
        let setup = Gateway::before(&backend).toml("drain.budget = '400ms'");
        let gateway = setup.start().await;
        let socket = websocket(&gateway, "/cobrowsing/socket", &[])
            .await
            .unwrap();
        let begun = Instant::now();
        gateway.signal(signal);
        let ended = gateway.ended().await;
        assert!(begun.elapsed() >= Duration::from_millis(400));
        assert_eq!(ended.code, Some(0), "{}", ended.errors);
        assert!(
            ended.log.iter().any(|line| line.contains("\"cut\":1")),
            "{:?}",
            ended.log
        );
        assert!(
            ended
                .log
                .iter()
                .any(|line| line.contains("\"closed_by\":\"drain\"")),
            "{:?}",
            ended.log
        );
        drop(socket);
    }
}

#[tokio::test]
async fn a_second_signal_shortens_the_delay_and_then_the_budget() {
    let backend = Backend::upgrades(|conn| drop(conn.read_to_end()));
    let setup = Gateway::before(&backend).toml("drain.delay = '60s'\ndrain.budget = '60s'");
    let gateway = setup.start().await;
    let socket = websocket(&gateway, "/cobrowsing/socket", &[])
        .await
        .unwrap();
    for logged in [
        "draining",
        "second signal: no delay",
        "second signal: two seconds left",
    ] {
        gateway.signal(Signal::TERM);
        until(logged, || !gateway.events(logged).is_empty()).await;
    }
    assert_eq!(gateway.ended().await.code, Some(0));
    drop(socket);
}

#[tokio::test]
async fn a_gateway_at_rest_ends_at_once() {
    for gateway in [
        Gateway::before(&Backend::well()).unready().start().await,
        Gateway::with_visitors().start().await,
    ] {
        let begun = Instant::now();
        assert_eq!(gateway.stop().await.code, Some(0));
        assert!(
            begun.elapsed() < Duration::from_millis(1500),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test]
async fn an_aborted_answer_is_logged_as_such() {
    let backend = Backend::new(|conn| {
        conn.request();
        conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
        conn.read_to_end();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let response = within(client.send("GET", "/cobrowsing/x", &[], full("")))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    drop(client);
    until("the line", || gateway.requests().len() == 1).await;
    assert_eq!(gateway.requests()[0]["aborted"], true);
    assert!(find(&backend.bytes(), KEY.as_bytes()).is_none());
}
