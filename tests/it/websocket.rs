//! Tunnels: opened only when both sides agree, then bytes both ways until both have closed.

use std::net::Shutdown;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use super::support::{Backend, Client, Gateway, KEY, Proto, Raw, find, until, websocket, within};

const SOCKET: &str = "/cobrowsing/visitor/socket";
const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const CLOSED: &str = "gateway_websocket_closed_total";

fn handshake() -> String {
    format!("GET {SOCKET} HTTP/1.1\r\nhost: localhost\r\n{HANDSHAKE}\r\n")
}

/// A raw connection after its 101.
async fn tunnel(gateway: &Gateway) -> Raw {
    let mut raw = Raw::connect(gateway).await;
    let reply = raw.call(handshake()).await;
    assert_eq!(reply.status, 101);
    assert_eq!(
        reply.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    raw
}

fn closed_by(by: &str, class: &str) -> String {
    format!("{CLOSED}{{by=\"{by}\",code_class=\"{class}\"}}")
}

#[tokio::test]
async fn messages_pass_both_ways_and_the_handshake_is_passed_on_whole() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let path = format!("{SOCKET}?room=%231");
    let headers = [
        ("origin", "https://shop.test"),
        ("sec-websocket-protocol", "cobrowse.visitor"),
    ];
    let mut socket = websocket(&gateway, &path, &headers).await;
    // The backend answered without choosing a protocol, which this client takes for an error.
    if socket.is_err() {
        socket = websocket(&gateway, &path, &headers[..1]).await;
    }
    let mut socket = socket.unwrap();
    for text in ["hello", "", "wörld"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(
            within(socket.next()).await.unwrap().unwrap(),
            Message::text(text)
        );
    }
    let seen = backend.last();
    assert_eq!(seen.target, "/visitor/socket?room=%231");
    assert_eq!(seen.header("origin").as_deref(), Some("https://shop.test"));
    assert_eq!(seen.all("upgrade"), ["websocket"]);
    assert_eq!(seen.all("connection"), ["upgrade"]);
    let first = &backend.requests()[0];
    assert_eq!(
        first.header("sec-websocket-protocol").as_deref(),
        Some("cobrowse.visitor")
    );
}

#[tokio::test]
async fn large_messages_pass_whole_while_both_sides_wait_for_each_other() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut socket = websocket(&gateway, SOCKET, &[]).await.unwrap();
    for size in [1 << 10, 1 << 20, 12 << 20] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).await.unwrap();
        assert!(
            within(socket.next()).await.unwrap().unwrap() == message,
            "{size}"
        );
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend() {
    const TOTAL: usize = 256 << 20;
    let backend = Backend::upgrades(|conn| {
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..TOTAL >> 20 {
            if !conn.say(&piece) {
                return;
            }
        }
    });
    let gateway = Gateway::before(&backend).start().await;
    let raw = tunnel(&gateway).await;
    let mut last = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let now = backend.sent();
        if std::mem::replace(&mut last, now) == now {
            break;
        }
    }
    assert!(last < TOTAL / 2, "{last} bytes went into nobody's hands");
    drop(raw);
    until("the backend's connection is closed", || backend.open() == 0).await;
}

#[tokio::test]
async fn no_101_is_told_before_the_backend_said_it() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |conn| {
        conn.request();
        wait.lock().unwrap().recv().ok();
        conn.say(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
        conn.read_to_end();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say(handshake()).await;
    backend.until_requests(1).await;
    assert!(raw.buffer.is_empty());
    go.send(()).unwrap();
    assert_eq!(raw.answer().await.status, 403);
}

#[tokio::test]
async fn a_refused_upgrade_passes_its_answer_and_the_connection_goes_on() {
    for status in ["403 Forbidden", "200 OK", "503 Busy", "404 Not Found"] {
        let backend = Backend::refuses_the_upgrade(status);
        let gateway = Gateway::before(&backend).start().await;
        let mut raw = Raw::connect(&gateway).await;
        for _ in 0..2 {
            let reply = raw.call(handshake()).await;
            assert!(status.starts_with(reply.status.as_str()));
            assert_eq!(
                (reply.header("x-why"), &*reply.text()),
                (Some("because"), "no")
            );
        }
        let plain = raw
            .call("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        assert_eq!(plain.text(), "no");
        assert_eq!(backend.requests().len(), 3);
    }
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_is_the_next_request_and_no_tunnel() {
    let backend = Backend::refuses_the_upgrade("403 Forbidden");
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    // Smuggling: a backend that is taken for upgraded would see this without any key.
    let smuggled = "GET /cobrowsing/api/visitors/1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    raw.say(format!("{}{smuggled}", handshake())).await;
    assert_eq!(raw.answer().await.status, 400);
    assert_eq!(raw.answer().await.status, 401);
    assert!(backend.requests().is_empty());
    // The same where it comes while the backend decides.
    raw.say(handshake()).await;
    until("a handshake at the backend", || {
        backend.requests().len() == 1
    })
    .await;
    raw.say(smuggled).await;
    assert_eq!(raw.answer().await.status, 403);
    assert_eq!(raw.answer().await.status, 401);
    assert_eq!(backend.requests().len(), 1);
    assert!(find(&backend.bytes(), b"/api/").is_none());
}

#[tokio::test]
async fn a_handshake_that_does_not_wait_for_its_answer_is_refused() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say(format!("{}ahead", handshake())).await;
    assert_eq!(raw.answer().await.status, 400);
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_101_with_a_wrong_accept_is_no_agreement() {
    let backend = Backend::upgrades_with_a_wrong_accept();
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    assert_eq!(raw.call(handshake()).await.status, 502);
    until("closed", || backend.open() == 0).await;
    let next = raw.call("GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(next.status, 404);
}

#[tokio::test]
async fn a_101_that_names_no_upgrade_is_no_agreement() {
    let backend = Backend::upgrades_without_naming_it();
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    assert_eq!(raw.call(handshake()).await.status, 502);
}

#[tokio::test]
async fn a_cookie_of_a_101_is_mapped_like_any_other() {
    let backend = Backend::upgrades_with("set-cookie: node=1; Path=/\r\n");
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say(handshake()).await;
    let head = raw.head().await;
    assert_eq!(head.status, 101);
    assert_eq!(head.header("set-cookie"), Some("node=1; Path=/cobrowsing"));
}

#[tokio::test]
async fn each_side_may_say_its_last_byte_first() {
    // The client first: the backend still answers.
    let backend = Backend::upgrades(|conn| {
        let all = conn.read_to_end();
        conn.say(&all);
        conn.say(b"bye");
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = tunnel(&gateway).await;
    raw.say("last words ").await;
    raw.stream.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, b"last words bye");
    gateway
        .until_metric(&closed_by("client", "invalid"), 1.0)
        .await;
    // The backend first: the client still speaks.
    let backend = Backend::upgrades(|conn| {
        conn.say(b"bye");
        conn.stream.shutdown(Shutdown::Write).unwrap();
        conn.read_to_end();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = tunnel(&gateway).await;
    assert_eq!(raw.rest().await, b"bye");
    raw.say("still here").await;
    until("it arrived", || {
        find(&backend.bytes(), b"still here").is_some()
    })
    .await;
    raw.stream.shutdown().await.unwrap();
    until("closed", || backend.open() == 0).await;
    gateway
        .until_metric(&closed_by("upstream", "invalid"), 1.0)
        .await;
}

#[tokio::test]
async fn a_side_that_breaks_takes_the_other_with_it() {
    let backend = Backend::upgrades(|conn| {
        conn.read();
        conn.reset();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = tunnel(&gateway).await;
    raw.say("x").await;
    assert_eq!(raw.rest().await, b"");
    gateway
        .until_metric(&closed_by("upstream", "invalid"), 1.0)
        .await;
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend).start().await;
    let raw = tunnel(&gateway).await;
    drop(raw);
    until("closed", || backend.open() == 0).await;
    gateway
        .until_metric(&closed_by("client", "none"), 1.0)
        .await;
}

#[tokio::test]
async fn no_request_timeout_touches_an_open_tunnel() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.header = '200ms'\ntimeouts.keep_alive = '200ms'\nupstream.response_timeout = '200ms'\nupstream.pool_idle = '200ms'")
        .start()
        .await;
    let mut raw = tunnel(&gateway).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        raw.say("beat").await;
        assert_eq!(raw.take(4).await, b"beat");
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_tunnel_without_a_byte_for_too_long_is_closed() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend)
        .toml("websocket.idle = '600ms'")
        .start()
        .await;
    let mut socket = websocket(&gateway, SOCKET, &[]).await.unwrap();
    // Bytes move the limit.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        socket.send(Message::text("beat")).await.unwrap();
        let beat = within(socket.next()).await.unwrap().unwrap();
        assert_eq!(beat, Message::text("beat"));
    }
    let Some(Ok(Message::Close(Some(said)))) = within(socket.next()).await else {
        panic!("no Close");
    };
    assert_eq!(u16::from(said.code), 1001);
    assert!(within(socket.next()).await.is_none());
    drop(socket);
    gateway
        .until_metric(&closed_by("idle", "going_away"), 1.0)
        .await;
    until("closed", || backend.open() == 0).await;
}

#[tokio::test]
async fn a_tunnel_that_is_idle_in_the_middle_of_a_frame_is_closed_without_a_word() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend)
        .toml("websocket.idle = '100ms'")
        .start()
        .await;
    let mut raw = tunnel(&gateway).await;
    raw.say([0x82, 5]).await;
    assert_eq!(raw.rest().await, [0x82, 5]);
    gateway.until_metric(&closed_by("idle", "none"), 1.0).await;
    until("closed", || backend.open() == 0).await;
}

#[tokio::test]
async fn tunnels_are_counted_while_open_and_when_closed() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend).start().await;
    let active = "gateway_websocket_active{route=\"page\"}";
    let mut raw = tunnel(&gateway).await;
    let other = tunnel(&gateway).await;
    gateway.until_metric(active, 2.0).await;
    assert_eq!(
        gateway
            .metric("gateway_connections{listener=\"public\",proto=\"h1\"}")
            .await,
        2.0
    );
    assert_eq!(gateway.metric("gateway_inflight_requests").await, 0.0);
    raw.say("12345").await;
    raw.take(5).await;
    drop((raw, other));
    gateway.until_metric(active, 0.0).await;
    gateway
        .until_metric(&closed_by("client", "none"), 2.0)
        .await;
    gateway
        .until_metric("gateway_websocket_bytes_total{direction=\"received\"}", 5.0)
        .await;
    gateway
        .until_metric("gateway_websocket_bytes_total{direction=\"sent\"}", 5.0)
        .await;
    gateway
        .until_metric("gateway_websocket_session_duration_seconds_count", 2.0)
        .await;
    gateway
        .until_metric("gateway_connections{listener=\"public\",proto=\"h1\"}", 0.0)
        .await;
    let counted = gateway
        .metric("gateway_requests_total{code=\"101\",method=\"GET\",route=\"page\"}")
        .await;
    assert_eq!(counted, 2.0);
    until("the lines", || gateway.requests().len() == 2).await;
    for line in gateway.requests() {
        assert_eq!(
            (&line["status"], &line["closed_by"]),
            (&101.into(), &"client".into())
        );
    }
}

#[tokio::test]
async fn a_socket_of_the_api_needs_the_key() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let path = "/cobrowsing/api/socket";
    assert!(websocket(&gateway, path, &[]).await.is_err());
    assert_eq!(backend.bytes(), b"");
    assert!(
        websocket(&gateway, path, &[("authorization", KEY)])
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_malformed_handshake_is_refused_before_the_backend_hears_of_it() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend).start().await;
    for (was, is) in [
        ("version: 13", "version: 12"),
        ("sec-websocket-version: 13\r\n", ""),
        ("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        ("GET", "POST"),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let reply = raw.call(handshake().replacen(was, is, 1)).await;
        assert_eq!(reply.status, 400, "{was} -> {is}");
    }
    assert_eq!(backend.bytes(), b"");
}

#[tokio::test]
async fn other_upgrades_are_not_passed_on() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for head in [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        "connection: upgrade\r\nupgrade: TLS/1.0\r\n",
        "upgrade: websocket\r\n",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let reply = raw
            .call(format!(
                "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{head}\r\n"
            ))
            .await;
        assert_eq!(reply.status, 200, "{head}");
        assert_eq!(backend.last().header("upgrade"), None, "{head}");
        assert_eq!(backend.last().header("connection"), None, "{head}");
    }
    // Over HTTP/2 there is no such upgrade at all.
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let headers = [
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(client.call("GET", SOCKET, &headers, "").await.status, 200);
    assert_eq!(backend.last().header("upgrade"), None);
}
