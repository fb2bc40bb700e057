//! What is too much, too large, too slow.

use bytes::Bytes;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::support::{
    Backend, Client, Gateway, KEY, Proto, Raw, Reply, stream, until, websocket, within,
};

const LATEST: &str = "/cobrowsing/api/visitors/list/latest";

fn policy(per: &str, more: &str) -> String {
    format!("[[rate_limit.policy]]\nname = 'tests'\nper = '{per}'\nrate = '2/1h'\n{more}")
}

#[tokio::test]
async fn what_a_policy_does_not_admit_is_told_when_to_come_back() {
    for per in ["key", "client"] {
        let backend = Backend::upgrades_and_echoes_messages();
        let setup = Gateway::before(&backend)
            .toml(&policy(per, ""))
            .toml("api.keys.other = 'other'");
        let gateway = setup.start().await;
        let mut h1 = Client::connect(&gateway, Proto::H1).await;
        let mut h2 = Client::connect(&gateway, Proto::H2).await;
        // Refused ones take nothing of the key's share.
        assert_eq!(h1.get(LATEST).await.status, 401);
        assert_eq!(h1.api("GET", LATEST, "").await.status, 200, "{per}");
        assert_eq!(h2.api("GET", LATEST, "").await.status, 200, "{per}");
        for client in [&mut h1, &mut h2] {
            let reply = client.api("GET", LATEST, "").await;
            assert_eq!(
                (reply.status.as_u16(), &*reply.error()),
                (429, "rate_limited")
            );
            let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!((1700..=1980).contains(&seconds), "{seconds}");
            assert_eq!(reply.json()["policy"], "tests");
        }
        let other = h1
            .call("GET", LATEST, &[("authorization", "other")], "")
            .await;
        assert_eq!(other.status, if per == "key" { 200 } else { 429 });
        for _ in 0..10 {
            assert_eq!(h2.get("/cobrowsing/page").await.status, 200);
        }
        assert!(
            websocket(&gateway, "/cobrowsing/visitor/socket", &[])
                .await
                .is_ok()
        );
        let series =
            "gateway_ratelimit_total{enforced=\"true\",policy=\"tests\",result=\"limited\"}";
        assert_eq!(
            gateway.metric(series).await,
            if per == "key" { 2.0 } else { 3.0 }
        );
    }
}

#[tokio::test]
async fn a_policy_that_is_not_enforced_only_counts() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml(&policy("client", "burst = 1\nenforce = false"));
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for _ in 0..5 {
        assert_eq!(client.api("GET", LATEST, "").await.status, 200);
    }
    for (result, n) in [("admitted", 1.0), ("limited", 4.0)] {
        let series = format!(
            "gateway_ratelimit_total{{enforced=\"false\",policy=\"tests\",result=\"{result}\"}}"
        );
        assert_eq!(gateway.metric(&series).await, n);
    }
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend)
        .toml(&policy("client", "burst = 1"))
        .toml("public.trusted_proxies = ['127.0.0.1/32']");
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for (chain, status) in [
        ("203.0.113.1", 200),
        ("203.0.113.2", 200),
        ("203.0.113.1", 429),
        ("9.9.9.9, 203.0.113.1", 429),
        ("2001:db8::1", 200),
        ("2001:db8::ffff", 429),
    ] {
        let headers = [("authorization", KEY), ("x-forwarded-for", chain)];
        let reply = client.call("GET", LATEST, &headers, "").await;
        assert_eq!(reply.status.as_u16(), status, "{chain}");
    }
}

#[tokio::test]
async fn a_body_of_the_api_over_its_limit_is_refused_and_others_are_not() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend)
        .toml("api.max_body = '1KiB'")
        .start()
        .await;
    let post = "/cobrowsing/api/visitors/1/watch_url";
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        assert_eq!(client.api("POST", post, vec![b'x'; 1024]).await.status, 200);
        backend.forget();
        let reply = client.api("POST", post, vec![b'x'; 1025]).await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.error()),
            (413, "payload_too_large")
        );
        assert_eq!(backend.bytes(), b"");
        let mut client = Client::connect(&gateway, proto).await;
        let page = client
            .call("POST", "/cobrowsing/page", &[], vec![b'x'; 1 << 20])
            .await;
        assert_eq!(page.body.len(), 1 << 20);
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend)
        .toml("api.max_body = '1KiB'")
        .start()
        .await;
    let post = "/cobrowsing/api/visitors/1/watch_url";
    let piece = "x".repeat(700);
    let mut raw = Raw::connect(&gateway).await;
    raw.say(format!(
        "POST {post} HTTP/1.1\r\nhost: localhost\r\nauthorization: {KEY}\r\ntransfer-encoding: chunked\r\n\r\n2bc\r\n{piece}\r\n"
    ))
    .await;
    raw.say(format!("2bc\r\n{piece}\r\n")).await;
    assert_eq!(raw.answer().await.status, 413);
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let (frames, sent) = stream();
    tokio::spawn(async move {
        while frames
            .send(Frame::data(Bytes::from_static(&[b'x'; 700])))
            .await
            .is_ok()
        {}
    });
    let response = client
        .send("POST", post, &[("authorization", KEY)], sent)
        .await
        .unwrap();
    let reply = Reply::read(response).await.unwrap();
    assert_eq!(
        (reply.status.as_u16(), &*reply.error()),
        (413, "payload_too_large")
    );
    assert!(backend.requests().is_empty());
    until("nothing is kept open", || backend.open() == 0).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("limits.header_bytes = '8KiB'\nlimits.header_count = 20")
        .start()
        .await;
    let many: String = (0..30).map(|n| format!("x-{n}: 1\r\n")).collect();
    for fields in [format!("x-large: {}\r\n", "x".repeat(9 << 10)), many] {
        let mut raw = Raw::connect(&gateway).await;
        let request = format!("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n");
        assert_eq!(raw.call(request).await.status, 431);
    }
    let value = "x".repeat(9 << 10);
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let reply = client
        .try_call("GET", "/cobrowsing/x", &[("x-large", &value)], "")
        .await;
    assert!(reply.is_err() || reply.unwrap().status == 431);
    assert_eq!(backend.bytes(), b"");
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let value = "x".repeat(6 << 10);
    assert_eq!(
        client
            .call("GET", "/cobrowsing/x", &[("x-large", &value)], "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn who_does_not_finish_a_head_is_told_so_and_closed() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.header = '300ms'")
        .start()
        .await;
    let mut raw = Raw::connect(&gateway).await;
    assert_eq!(
        raw.call("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .status,
        200
    );
    raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: loc").await;
    assert_eq!(raw.answer().await.status, 408);
    assert_eq!(raw.rest().await, b"");
    let mut first = Raw::connect(&gateway).await;
    first.say("G").await;
    assert_eq!(first.answer().await.status, 408);
    // Who says nothing at all is closed without a word.
    let mut silent = Raw::connect(&gateway).await;
    assert_eq!(silent.rest().await, b"");
    gateway
        .until_metric(
            "gateway_rejected_requests_total{reason=\"request_timeout\"}",
            2.0,
        )
        .await;
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_body_that_makes_no_progress_is_given_up() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("timeouts.body = '300ms'");
    let gateway = setup.start().await;
    for begun in ["", "half"] {
        let mut raw = Raw::connect(&gateway).await;
        let request = format!(
            "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{begun}"
        );
        assert_eq!(raw.call(request).await.status, 408, "{begun}");
    }
    until("closed", || backend.open() == 0).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.keep_alive = '300ms'")
        .start()
        .await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for _ in 0..3 {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            assert_eq!(client.get("/cobrowsing/x").await.status, 200);
        }
        until("closed", || !client.is_open()).await;
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.handshake = '200ms'")
        .start()
        .await;
    let mut plain = TcpStream::connect(gateway.listen).await.unwrap();
    assert_eq!(within(plain.read(&mut [0])).await.unwrap_or(0), 0);
    gateway
        .until_metric(
            "gateway_tls_handshake_failures_total{reason=\"timeout\"}",
            1.0,
        )
        .await;
}

#[tokio::test]
async fn connections_over_the_cap_are_closed_and_places_come_back() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("limits.connections = 2")
        .start()
        .await;
    let mut first = Client::connect(&gateway, Proto::H1).await;
    let second = Client::connect(&gateway, Proto::H2).await;
    let mut third = TcpStream::connect(gateway.listen).await.unwrap();
    assert_eq!(within(third.read(&mut [0])).await.unwrap_or(0), 0);
    gateway
        .until_metric("gateway_connections_refused_total{reason=\"total\"}", 1.0)
        .await;
    assert_eq!(first.get("/cobrowsing/x").await.status, 200);
    drop(second);
    gateway
        .until_metric("gateway_connections{listener=\"public\",proto=\"h2\"}", 0.0)
        .await;
    let mut fourth = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(fourth.get("/cobrowsing/x").await.status, 200);
}

/// A connection from another address of this host; none: it was closed at once.
async fn is_let_in(gateway: &Gateway, source: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source.parse().unwrap()).unwrap();
    let mut stream = socket.connect(gateway.listen).await.unwrap();
    // What is let in is asked for a handshake, and gets an alert for this.
    stream.write_all(b"no TLS").await.ok()?;
    let answer = within(stream.read(&mut [0])).await;
    matches!(answer, Ok(1)).then_some(stream)
}

#[tokio::test]
async fn one_client_can_take_no_more_than_its_share_of_connections() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("limits.connections_per_client = 2\nlimits.workers = 2")
        .start()
        .await;
    let refused = "gateway_connections_refused_total{reason=\"client\"}";
    for round in 1..=3 {
        // Tunnels and both protocols count, whichever worker has them.
        let mut first = Client::connect(&gateway, Proto::H1).await;
        let mut second = Client::connect(&gateway, Proto::H2).await;
        for _ in 0..5 {
            let mut over = TcpStream::connect(gateway.listen).await.unwrap();
            assert_eq!(within(over.read(&mut [0])).await.unwrap_or(0), 0);
        }
        gateway.until_metric(refused, f64::from(round * 5)).await;
        assert_eq!(first.get("/cobrowsing/x").await.status, 200);
        assert_eq!(second.get("/cobrowsing/x").await.status, 200);
        assert!(is_let_in(&gateway, "127.0.0.2:0").await.is_some());
        drop((first, second));
        for proto in ["h1", "h2"] {
            let series = format!("gateway_connections{{listener=\"public\",proto=\"{proto}\"}}");
            gateway.until_metric(&series, 0.0).await;
        }
    }
    let total = "gateway_connections_refused_total{reason=\"total\"}";
    assert_eq!(gateway.metric(total).await, 0.0);
}

#[tokio::test]
async fn connections_of_trusted_proxies_and_without_a_cap_are_not_counted() {
    let backend = Backend::well();
    for how in [
        "limits.connections_per_client = 1\npublic.trusted_proxies = ['127.0.0.1/32']",
        "limits.connections_per_client = 'off'",
    ] {
        let gateway = Gateway::before(&backend).toml(how).start().await;
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = Client::connect(&gateway, Proto::H1).await;
            assert_eq!(client.get("/cobrowsing/x").await.status, 200);
            clients.push(client);
        }
    }
}

#[tokio::test]
async fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // This host has no IPv6.
    }
    let backend = Backend::well();
    let setup = Gateway::before(&backend)
        .toml("public.listen = '[::]:0'\nlimits.connections_per_client = 2")
        .toml(&policy("client", "burst = 1"));
    let gateway = setup.start().await;
    let port = gateway.listen.port();
    for (host, address) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
        let at = format!("{host}:{port}").parse().unwrap();
        let mut client = Client::connect_to(at, Proto::H2).await.unwrap();
        assert_eq!(client.api("GET", LATEST, "").await.status, 200);
        assert_eq!(client.api("GET", LATEST, "").await.status, 429);
        let seen = backend.last();
        assert_eq!(seen.header("x-forwarded-for").as_deref(), Some(address));
        let _second = Client::connect_to(at, Proto::H1).await.unwrap();
        assert!(Client::connect_to(at, Proto::H1).await.is_err());
    }
    until("their lines", || gateway.requests().len() == 4).await;
    for (line, peer) in gateway
        .requests()
        .iter()
        .zip(["127.0.0.1", "127.0.0.1", "::1", "::1"])
    {
        assert_eq!(line["peer"], peer);
    }
}

#[tokio::test]
async fn only_tls_1_3_is_spoken_where_that_is_asked_for() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("tls.min_version = '1.3'")
        .start()
        .await;
    let old = super::support::tls(&gateway, &["http/1.1"], &[&rustls::version::TLS12]).await;
    assert!(old.is_err());
    let mut client = Client::over(&gateway, Proto::H1, &[&rustls::version::TLS13]).await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 200);
}

/// The table of files grows while a process runs by stopping all of it.
#[tokio::test]
async fn there_is_room_for_the_files_of_all_connections_from_the_start() {
    let backend = Backend::well();
    for connections in [100_u64, 3000] {
        let setup = format!("limits.connections = {connections}");
        let gateway = Gateway::before(&backend).toml(&setup).start().await;
        let told = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", gateway.pid()));
        let number = |text: &str, line: &str, nth| -> u64 {
            let line = text.lines().find(|l| l.starts_with(line)).unwrap();
            line.split_whitespace().nth(nth).unwrap().parse().unwrap()
        };
        let slots = number(&told("status").unwrap(), "FDSize:", 1);
        let allowed = number(&told("limits").unwrap(), "Max open files", 4);
        assert!(slots >= (2 * connections).min(allowed), "{slots} slots");
    }
    // Nothing overflows that is too large to be true.
    let check = format!("limits.connections = {}", i64::MAX);
    let gateway = Gateway::before(&backend).toml(&check).start().await;
    let reply = Client::connect(&gateway, Proto::H1)
        .await
        .get("/cobrowsing/x")
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn who_has_no_files_left_goes_on_accepting_when_there_are_some() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    assert_eq!(
        Client::connect(&gateway, Proto::H1)
            .await
            .get("/cobrowsing/x")
            .await
            .status,
        200
    );
    let pid = gateway.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count() as u64;
    let few = Rlimit {
        current: Some(open + 8),
        maximum: Some(open + 8),
    };
    prlimit(Pid::from_raw(pid as i32), Resource::Nofile, few).unwrap();
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(TcpStream::connect(gateway.listen).await.unwrap());
    }
    until("an error of accept", || {
        !gateway.events("cannot accept").is_empty()
    })
    .await;
    drop(idle);
    let mut client = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    assert!(gateway.metric("gateway_accept_errors_total").await >= 1.0);
}

#[tokio::test]
async fn a_thousand_idle_and_half_begun_connections_keep_nobody_out() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("limits.connections_per_client = 'off'")
        .start()
        .await;
    let mut held = Vec::new();
    for _ in 0..900 {
        held.push(TcpStream::connect(gateway.listen).await.unwrap());
    }
    let mut half = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::connect(&gateway).await;
        raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: loc").await;
        half.push(raw);
    }
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let asked = std::time::Instant::now();
        assert_eq!(client.get("/cobrowsing/x").await.status, 200);
        assert!(asked.elapsed() < std::time::Duration::from_secs(1));
    }
}
