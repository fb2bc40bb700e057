//! Time, memory, files and handshakes over HTTP/1.1 and TLS (the record's section 3.6).

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::h2_raw::{H2, block, get, headers};
use crate::support::{
    Backend, Client, Gateway, KEY, Proto, Raw, certificate, eventually, until, within,
};

const ONE: &str = "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A connection from another address of this host.
async fn from(source: &str, gateway: &Gateway) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    within(socket.connect(gateway.listen)).await.unwrap()
}

/// Memory of a process, KiB.
fn memory(gateway: &Gateway, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[tokio::test]
async fn a_head_that_drips_is_late_all_the_same() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("timeouts.header = '500ms'");
    let gateway = setup.start().await;
    for text in [&ONE[..ONE.len() - 2], "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"] {
        let mut raw = Raw::connect(&gateway).await;
        let begun = Instant::now();
        for byte in text.bytes().cycle() {
            // It may be closed by now.
            drop(raw.stream.write_all(&[byte]).await);
            drop(raw.stream.flush().await);
            let came = tokio::time::timeout(Duration::from_millis(50), raw.fill());
            if came.await.is_ok() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "3.6");
        }
        assert_eq!(raw.answer().await.status, 408, "3.6");
        assert!(begun.elapsed() >= Duration::from_millis(400), "3.6");
        assert_eq!(raw.rest().await, b"");
    }
    assert_eq!(backend.bytes(), b"");
}

#[tokio::test]
async fn the_shipped_bounds_of_a_head_are_a_hundred_fields_and_32_kib() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let many = |n: usize| -> Vec<(String, String)> {
        (0..n).map(|n| (format!("x-{n}"), "1".into())).collect()
    };
    let large = |kib: usize| vec![("x-large".to_owned(), "x".repeat(kib << 10))];
    for (fields, fine) in [
        // `Host` is one of them over HTTP/1.1; over HTTP/2 there is one less.
        (many(99), true),
        (many(101), false),
        (large(31), true),
        (large(33), false),
    ] {
        let first = &fields[0].0;
        for proto in Proto::BOTH {
            let mut client = Client::connect(&gateway, proto).await;
            let fields: Vec<_> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
            let reply = client.call("GET", "/cobrowsing/x", &fields, "").await;
            let status = reply.status.as_u16();
            assert_eq!(
                status,
                if fine { 200 } else { 431 },
                "3.6 {proto:?} {first}"
            );
        }
    }
    let refused = "gateway_rejected_requests_total{reason=\"header_fields_too_large\"}";
    gateway.until_metric(refused, 4.0).await;
}

#[tokio::test]
async fn after_a_body_over_the_limit_the_connection_is_closed() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let begun = format!(
        "POST /cobrowsing/api/visitors/1/watch_url HTTP/1.1\r\nhost: localhost\r\nauthorization: {KEY}\r\n"
    );
    // 64 KiB by default.
    let over = (64 << 10) + 1;
    let chunk = format!("{over:x}\r\n{}\r\n", "x".repeat(over));
    for rest in [
        format!("content-length: {over}\r\n\r\n"),
        format!("content-length: 99999999999999\r\n\r\n{}", "x".repeat(9999)),
        format!("transfer-encoding: chunked\r\n\r\n{chunk}"),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.say(format!("{begun}{rest}")).await;
        let reply = raw.answer().await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.error()),
            (413, "payload_too_large")
        );
        assert_eq!(reply.header("connection"), Some("close"));
        assert_eq!(raw.rest().await, b"", "3.6");
    }
    assert!(backend.requests().is_empty());
    let refused = "gateway_rejected_requests_total{reason=\"payload_too_large\"}";
    gateway.until_metric(refused, 3.0).await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_bodies_are_passed_on_as_they_are_and_answers_inflated_within_bounds() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let bomb = gzip(&vec![b'0'; 20 << 20]);
    let before = memory(&gateway, "VmRSS");
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let fields = [("authorization", KEY), ("content-encoding", "gzip")];
        let path = "/cobrowsing/api/visitors/1/watch_url";
        let reply = client.call("POST", path, &fields, bomb.clone()).await;
        assert_eq!((reply.status.as_u16(), &*reply.body), (200, &*bomb), "3.6");
        assert_eq!(backend.last().body, bomb, "3.6");
        assert_eq!(
            backend.last().header("content-encoding").as_deref(),
            Some("gzip")
        );
    }
    let cost = memory(&gateway, "VmHWM").saturating_sub(before);
    assert!(cost < 8 << 10, "3.6 {cost} KiB");
    // The one answer that is read: neither over 1 MiB nor over a hundred times what came.
    let json = |padding: &str| format!(r#"{{"watch_url":"http://x/y","a":"{padding}"}}"#);
    let noise: String = (0..2000_u64)
        .map(|n| format!("{:x}", n * n * 7919))
        .collect();
    for (text, status) in [
        (json(&noise), 200),
        (json(&"0".repeat(900 << 10)), 502),
        (json(&"0".repeat(20 << 20)), 502),
        (json(&noise.repeat(200)), 502),
    ] {
        let body = gzip(text.as_bytes());
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let backend = Backend::answers([head.as_bytes(), &body].concat());
        let gateway = Gateway::before(&backend).start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        let path = "/cobrowsing/api/visitors/1/watch_url";
        let before = memory(&gateway, "VmRSS");
        let reply = client.api("POST", path, "{}").await;
        assert_eq!(reply.status.as_u16(), status, "3.6 {}", text.len());
        let cost = memory(&gateway, "VmHWM").saturating_sub(before);
        assert!(cost < 12 << 10, "3.6 {cost} KiB");
    }
}

#[tokio::test]
async fn requests_without_end_behind_a_slow_one_are_not_taken_in() {
    let backend = Backend::never_answers();
    let gateway = Gateway::before(&backend).start().await;
    // What the first connection of all costs (code that is read in for it) is no client's doing.
    let mut first = Raw::connect(&gateway).await;
    first.say(ONE).await;
    backend.until_requests(1).await;
    let before = memory(&gateway, "VmRSS");
    let mut raw = Raw::connect(&gateway).await;
    raw.say(ONE).await;
    backend.until_requests(2).await;
    let many = ONE.repeat(1000);
    let mut taken = 0;
    // Until no more is taken: a few MiB that the sockets hold.
    for _ in 0..1000 {
        let write = raw.stream.write_all(many.as_bytes());
        match tokio::time::timeout(Duration::from_millis(300), write).await {
            Ok(Ok(())) => taken += many.len(),
            _ => break,
        }
    }
    eprintln!("3.6 pipelined: {} KiB taken", taken >> 10);
    assert!(taken < 500 * many.len(), "3.6");
    let cost = memory(&gateway, "VmHWM").saturating_sub(before);
    eprintln!("3.6 pipelined: {cost} KiB of memory");
    assert!(cost < 1 << 9, "3.6 {cost} KiB");
    assert_eq!(backend.requests().len(), 2, "3.6");
}

/// The first flight of a handshake, without the head of its record.
/// An answer that is more than all sockets on its way hold.
fn endless() -> Backend {
    Backend::new(|conn| {
        while conn.request().is_some() {
            let piece = vec![b'x'; 256 << 10];
            let pieces = 256;
            let size = pieces * piece.len();
            conn.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes());
            for _ in 0..pieces {
                if !conn.say(&piece) {
                    return;
                }
            }
        }
    })
}

#[tokio::test]
async fn who_takes_no_download_costs_what_is_sealed_for_it_and_no_more() {
    const CLIENTS: u64 = 16;
    let backend = endless();
    let gateway = Gateway::before(&backend).start().await;
    let mut first = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(first.get("/cobrowsing/x").await.body.len(), 64 << 20);
    let before = memory(&gateway, "VmRSS");
    let mut all = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = Raw::connect(&gateway).await;
        raw.say(ONE).await;
        all.push(raw);
    }
    backend.until_requests(1 + CLIENTS as usize).await;
    let mut last = 0;
    eventually("standstill", || {
        let now = memory(&gateway, "VmRSS");
        let still = now <= std::mem::replace(&mut last, now);
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            still.then_some(())
        }
    })
    .await;
    let each = last.saturating_sub(before) / CLIENTS;
    eprintln!("3.6 downloads not taken: {each} KiB each");
    assert!(each < 128, "3.6 {each} KiB");
    for mut raw in all {
        let mut some = [0; 16 << 10];
        within(raw.stream.read_exact(&mut some)).await.unwrap();
    }
}

fn hello() -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(client_config(), name).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    assert_eq!(record[0], 22);
    record.split_off(5)
}

fn client_config() -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let ours = CertificateDer::from_pem_slice(certificate().0.as_bytes()).unwrap();
    roots.add(ours).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_early_data = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn a_hello_in_the_smallest_pieces_costs_others_nothing() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.handshake = '1s'")
        .start()
        .await;
    let mut honest = Client::connect(&gateway, Proto::H1).await;
    // A record for each byte, and a segment for each record.
    for segments in [false, true] {
        let hello = hello();
        let records = hello.iter().map(|byte| [22, 3, 1, 0, 1, *byte]);
        let mut plain = from("127.0.0.1", &gateway).await;
        plain.set_nodelay(true).unwrap();
        if segments {
            for record in records {
                drop(plain.write_all(&record).await);
                tokio::task::yield_now().await;
            }
        } else {
            drop(
                plain
                    .write_all(&records.flatten().collect::<Vec<u8>>())
                    .await,
            );
        }
        // Answered or refused, or closed at its deadline.
        let mut first = [0];
        let read = within(plain.read(&mut first)).await;
        assert!(
            matches!(read, Err(_) | Ok(0)) || matches!(first[0], 21 | 22),
            "3.6"
        );
        assert_eq!(honest.get("/cobrowsing/x").await.status, 200);
    }
    // Whole records in segments of a byte are an ordinary handshake.
    let hello = hello();
    let length = u16::try_from(hello.len()).unwrap().to_be_bytes();
    let mut plain = from("127.0.0.1", &gateway).await;
    plain.set_nodelay(true).unwrap();
    for byte in [&[22, 3, 1][..], &length, &hello].concat() {
        plain.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut first = [0];
    within(plain.read_exact(&mut first)).await.unwrap();
    assert_eq!(first[0], 22, "3.6");
}

#[tokio::test]
async fn early_data_is_not_offered() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let config = client_config();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
    for round in 0..3 {
        let tcp = from("127.0.0.1", &gateway).await;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = within(connector.connect(name, tcp)).await.unwrap();
        let request = ONE.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        within(stream.write_all(request.as_bytes())).await.unwrap();
        within(stream.flush()).await.unwrap();
        let mut answer = Vec::new();
        drop(within(stream.read_to_end(&mut answer)).await);
        assert!(answer.starts_with(b"HTTP/1.1 200"), "S15");
        // Tickets are given and taken …
        let kind = stream.get_ref().1.handshake_kind();
        let resumed = kind == Some(rustls::HandshakeKind::Resumed);
        assert_eq!(resumed, round > 0, "S15");
    }
    // … and none of them says that anything may come before the handshake is over.
    let name = ServerName::try_from("localhost").unwrap();
    let mut next = rustls::ClientConnection::new(config, name).unwrap();
    assert!(next.early_data().is_none(), "S15");
}

/// How long an honest client waits for a new connection and an answer.
async fn honest(gateway: &Gateway, proto: Proto) -> Duration {
    let asked = Instant::now();
    let mut client = Client::connect(gateway, proto).await;
    assert_eq!(client.get("/cobrowsing/honest").await.status, 200);
    asked.elapsed()
}

#[tokio::test]
async fn thousands_of_idle_and_slow_connections_keep_nobody_out() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.handshake = '6s'\ntimeouts.header = '6s'")
        .start()
        .await;
    // From a few addresses, as much as each may have.
    let begun = Instant::now();
    let mut silent = Vec::new();
    for source in 2..7 {
        for _ in 0..800 {
            silent.push(from(&format!("127.0.0.{source}"), &gateway).await);
        }
    }
    let mut slow = Vec::new();
    for n in 0..300 {
        let mut raw = Raw::connect(&gateway).await;
        raw.say(match n % 3 {
            0 => "GET /cobrowsing/x HTTP/1.1\r\nhost: loc",
            1 => "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nh",
            _ => ONE,
        })
        .await;
        slow.push(raw);
    }
    let page = block(&get(b"/cobrowsing/x", &[]));
    let mut mute = Vec::new();
    for _ in 0..100 {
        let mut h2 = H2::with(&gateway, &[(4, 0)]).await;
        h2.polite = false;
        let stream = h2.stream();
        h2.force(&headers(stream, true, &page)).await;
        mute.push(h2);
    }
    for _ in 0..5 {
        for proto in Proto::BOTH {
            let took = honest(&gateway, proto).await;
            assert!(took < Duration::from_secs(1), "3.6 {took:?}");
        }
    }
    // Who sent no hello is closed when its time is over, all of them.
    for plain in &mut silent {
        let end = tokio::time::timeout(Duration::from_secs(30), plain.read(&mut [0])).await;
        assert!(
            matches!(end.expect("closed in time"), Err(_) | Ok(0)),
            "3.6"
        );
    }
    eprintln!(
        "3.6 closed {:?} after the first of them came",
        begun.elapsed()
    );
    let late = "gateway_tls_handshake_failures_total{reason=\"timeout\"}";
    gateway.until_metric(late, silent.len() as f64).await;
    assert_eq!(gateway.metric("gateway_accept_errors_total").await, 0.0);
}

#[tokio::test]
async fn without_files_open_connections_go_on_and_accepting_begins_again_by_itself() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.handshake = '500ms'")
        .start()
        .await;
    let mut before = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(before.get("/cobrowsing/x").await.status, 200);
    let pid = gateway.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count() as u64;
    let few = Rlimit {
        current: Some(open + 10),
        maximum: Some(open + 10),
    };
    prlimit(Pid::from_raw(pid as i32), Resource::Nofile, few).unwrap();
    // They stay: what ends the siege is their deadline.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(from("127.0.0.3", &gateway).await);
    }
    until("an error of accept", || {
        !gateway.events("cannot accept").is_empty()
    })
    .await;
    assert_eq!(before.get("/cobrowsing/x").await.status, 200);
    // Those that are left take a few turns of all the files there are.
    drop(idle.split_off(40));
    let begun = Instant::now();
    assert!(honest(&gateway, Proto::H1).await < Duration::from_secs(20));
    eprintln!("EMFILE: accepted again after {:?}", begun.elapsed());
    let errors = eventually("metrics", async || {
        let errors = gateway.metric("gateway_accept_errors_total").await;
        (errors >= 1.0).then_some(errors)
    })
    .await;
    // It does not spin on them either.
    assert!(errors < 2000.0, "{errors}");
    assert!(gateway.events("cannot accept").len() < 2000);
}
