//! Behind a load balancer that names its clients by the PROXY protocol.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::support::{Backend, Client, Gateway, KEY, Proto, Setup, until, within};

const LATEST: &str = "/cobrowsing/api/visitors/list/latest";

/// The gateway behind balancers on 127.0.0.1.
fn behind(backend: &Backend) -> Setup {
    Gateway::before(backend)
        .toml("public.trusted_proxies = ['127.0.0.1/32']\npublic.proxy_protocol = true")
}

/// How a balancer sends its header and the client's first bytes.
#[derive(Clone, Copy, Debug)]
enum How {
    InOneSegment,
    ByteByByte,
}

/// A load balancer: passes bytes on, after a header.
async fn balancer(gateway: &Gateway, header: Vec<u8>, how: How) -> SocketAddr {
    let (listener, to) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        gateway.listen,
    );
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let header = header.clone();
            tokio::spawn(async move {
                let mut hello = vec![0; 16 << 10];
                let n = client.read(&mut hello).await?;
                let first = [&header, &hello[..n]].concat();
                let mut gateway = TcpStream::connect(to).await?;
                gateway.set_nodelay(true)?;
                match how {
                    How::InOneSegment => gateway.write_all(&first).await?,
                    How::ByteByByte => {
                        for byte in first {
                            gateway.write_all(&[byte]).await?;
                            tokio::task::yield_now().await;
                        }
                    }
                }
                copy_bidirectional(&mut client, &mut gateway).await
            });
        }
    });
    address
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_and_command, family], &length[..], rest].concat()
}

/// Addresses and ports of both sides as v2 has them.
fn v2_addresses(source: &str) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let source = octets(source.parse().unwrap());
    let destination = vec![1; source.len()];
    [source, destination, vec![0x30, 0x39, 1, 0xbb]].concat()
}

fn v2_proxy(source: &str, tlvs: &[u8]) -> Vec<u8> {
    let addresses = v2_addresses(source);
    let family = if addresses.len() == 12 { 0x11 } else { 0x21 };
    v2(0x21, family, &[addresses, tlvs.to_vec()].concat())
}

fn tlv(kind: u8, length: usize) -> Vec<u8> {
    let size = u16::try_from(length).unwrap().to_be_bytes();
    [vec![kind, size[0], size[1]], vec![0; length]].concat()
}

/// Good headers, and the client each names; none: the balancer itself.
fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let v1 = |line: &str| format!("PROXY {line}\r\n").into_bytes();
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe";
    vec![
        (
            v1("TCP4 192.0.2.7 198.51.100.1 56324 443"),
            Some("192.0.2.7"),
        ),
        (
            v1("TCP6 2001:db8::7 2001:db8::1 56324 443"),
            Some("2001:db8::7"),
        ),
        (
            v1("TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 56324 443"),
            Some("192.0.2.7"),
        ),
        (v1("UNKNOWN"), None),
        (
            v1(&format!("UNKNOWN {longest} {longest} 65535 65535")),
            None,
        ),
        (v2_proxy("192.0.2.7", b""), Some("192.0.2.7")),
        (v2_proxy("2001:db8::7", b""), Some("2001:db8::7")),
        (v2_proxy("::ffff:192.0.2.7", b""), Some("192.0.2.7")),
        (
            v2_proxy(
                "192.0.2.7",
                &[tlv(1, 2), tlv(5, 128), tlv(4, 1000)].concat(),
            ),
            Some("192.0.2.7"),
        ),
        (
            v2_proxy("192.0.2.7", &tlv(4, 4096 - 16 - 12 - 3)),
            Some("192.0.2.7"),
        ),
        // TLVs are skipped, not read.
        (
            v2_proxy("192.0.2.7", &[4, 0xff, 0xff, 0]),
            Some("192.0.2.7"),
        ),
        (v2(0x20, 0x00, b""), None),
        (v2(0x20, 0x11, b""), None),
        (v2(0x20, 0x11, &v2_addresses("192.0.2.7")), None),
        (v2(0x21, 0x00, &tlv(4, 7)), None),
        (v2(0x21, 0x31, &[1; 216]), None),
        (v2(0x21, 0x12, &v2_addresses("192.0.2.7")), None),
    ]
}

#[tokio::test]
async fn the_client_is_whom_the_header_names_for_log_forwarding_and_limits() {
    for how in [How::InOneSegment, How::ByteByByte] {
        let backend = Backend::well();
        let gateway = behind(&backend).start().await;
        for (header, named) in good() {
            let named = named.unwrap_or("127.0.0.1");
            let what = format!("{how:?} {}", header.escape_ascii());
            backend.forget();
            let logged = gateway.requests().len();
            let at = balancer(&gateway, header, how).await;
            for (n, proto) in Proto::BOTH.into_iter().enumerate() {
                let mut client = Client::connect_to(at, proto).await.expect(&what);
                assert_eq!(client.get("/cobrowsing/x").await.status, 200, "{what}");
                let seen = backend.last();
                assert_eq!(
                    seen.header("x-forwarded-for").as_deref(),
                    Some(named),
                    "{what}"
                );
                until("its line", || gateway.requests().len() == logged + n + 1).await;
                assert_eq!(gateway.requests()[logged + n]["peer"], named, "{what}");
            }
        }
        for reason in ["untrusted", "malformed", "closed", "timeout"] {
            let series = format!("gateway_proxy_protocol_failures_total{{reason=\"{reason}\"}}");
            assert_eq!(gateway.metric(&series).await, 0.0, "{reason}");
        }
    }
}

#[tokio::test]
async fn clients_behind_a_balancer_have_limits_of_their_own() {
    let backend = Backend::well();
    let setup = behind(&backend)
        .toml("[[rate_limit.policy]]\nname = 'tests'\nper = 'client'\nrate = '1/1h'");
    let gateway = setup.start().await;
    for (source, status) in [
        ("192.0.2.7", 200),
        ("192.0.2.7", 429),
        ("::ffff:192.0.2.7", 429),
        ("192.0.2.8", 200),
        ("2001:db8::7", 200),
        ("2001:db8::ffff:8", 429),
        ("2001:db8:0:1::7", 200),
    ] {
        let at = balancer(&gateway, v2_proxy(source, b""), How::InOneSegment).await;
        let mut client = Client::connect_to(at, Proto::H1).await.unwrap();
        let reply = client.api("GET", LATEST, "").await;
        assert_eq!(reply.status.as_u16(), status, "{source}");
    }
}

#[tokio::test]
async fn connections_are_counted_by_the_client_the_header_names() {
    let backend = Backend::well();
    let gateway = behind(&backend)
        .toml("limits.connections_per_client = 2")
        .start()
        .await;
    let mut open = Vec::new();
    for (header, is_let_in) in [
        (v2_proxy("192.0.2.7", b""), true),
        (v2_proxy("::ffff:192.0.2.7", b""), true),
        (v2_proxy("192.0.2.7", b""), false),
        (v2_proxy("192.0.2.8", b""), true),
        (v2_proxy("2001:db8::1", b""), true),
        (v2_proxy("2001:db8::2", b""), true),
        (v2_proxy("2001:db8::3", b""), false),
        // Its own checks are the balancer's, which has no share.
        (v2(0x20, 0, b""), true),
        (v2(0x20, 0, b""), true),
        (v2(0x20, 0, b""), true),
    ] {
        let what = header.escape_ascii().to_string();
        let at = balancer(&gateway, header, How::InOneSegment).await;
        let client = Client::connect_to(at, Proto::H1).await;
        assert_eq!(client.is_ok(), is_let_in, "{what}");
        open.extend(client);
    }
    let refused = "gateway_connections_refused_total{reason=\"client\"}";
    assert_eq!(gateway.metric(refused).await, 2.0);
}

#[tokio::test]
async fn forwarded_headers_are_believed_of_a_trusted_client_alone() {
    let backend = Backend::well();
    let setup = behind(&backend)
        .toml("public.trusted_proxies = ['127.0.0.1/32', '10.0.0.0/8']")
        .toml("[[rate_limit.policy]]\nname = 'tests'\nper = 'client'\nrate = '1/1h'");
    let gateway = setup.start().await;
    for (source, forwarded, client, status) in [
        ("192.0.2.7", "192.0.2.7", None, 200),
        (
            "10.1.2.3",
            "203.0.113.9, 10.1.2.3",
            Some("203.0.113.9"),
            200,
        ),
        // The same client by another way has the same bucket.
        (
            "10.1.2.4",
            "203.0.113.9, 10.1.2.4",
            Some("203.0.113.9"),
            429,
        ),
    ] {
        backend.forget();
        let logged = gateway.requests().len();
        let at = balancer(&gateway, v2_proxy(source, b""), How::InOneSegment).await;
        let mut over = Client::connect_to(at, Proto::H1).await.unwrap();
        let headers = [("authorization", KEY), ("x-forwarded-for", "203.0.113.9")];
        let reply = over.call("GET", LATEST, &headers, "").await;
        assert_eq!(reply.status.as_u16(), status, "{source}");
        if status == 200 {
            let seen = backend.only();
            assert_eq!(seen.header("x-forwarded-for").as_deref(), Some(forwarded));
        }
        until("its line", || gateway.requests().len() == logged + 1).await;
        let line = gateway.requests().remove(logged);
        assert_eq!(
            (&line["peer"], line["client"].as_str()),
            (&source.into(), client)
        );
    }
}

/// Sends `bytes`, then nothing; the gateway closes without a word.
async fn closed_without_a_word(mut stream: TcpStream, bytes: &[u8], what: &str) {
    // It may have closed before all was sent.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    drop(within(stream.read_to_end(&mut answer)).await);
    assert_eq!(answer, b"", "{what}");
}

#[tokio::test]
async fn what_is_no_header_is_closed_unread() {
    let backend = Backend::well();
    let gateway = behind(&backend).start().await;
    let v1 = |line: &str| format!("PROXY {line}\r\n").into_bytes();
    let mut wrong_signature = v2_proxy("192.0.2.7", b"");
    wrong_signature[11] = b'!';
    let malformed = [
        b"GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"PROXYUNKNOWN\r\n".to_vec(),
        b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(),
        b"PROXY UNKNOWN\n".to_vec(),
        b"PROXY UNKNOWN\rx\n".to_vec(),
        v1("TCP4 192.0.2.777 198.51.100.1 1 2"),
        v1("TCP4 192.0.2.7 198.51.100.1 1 65536"),
        v1("TCP4 192.0.2.7 198.51.100.1 1"),
        v1("TCP4 192.0.2.7 198.51.100.1 1 2 3"),
        v1("TCP4  192.0.2.7 198.51.100.1 1 2"),
        v1("TCP4 2001:db8::7 2001:db8::1 1 2"),
        v1("TCP6 fe80::1%1 2001:db8::1 1 2"),
        v1("UDP4 192.0.2.7 198.51.100.1 1 2"),
        format!("PROXY UNKNOWN {}", "x".repeat(107)).into_bytes(),
        wrong_signature,
        v2(0x11, 0x11, &v2_addresses("192.0.2.7")),
        v2(0x22, 0x11, &v2_addresses("192.0.2.7")),
        v2(0x21, 0x41, &v2_addresses("192.0.2.7")),
        v2(0x21, 0x11, &v2_addresses("192.0.2.7")[..11]),
        v2(0x21, 0x21, &v2_addresses("192.0.2.7")),
        // 64 KiB of TLVs, of which only the length is read.
        v2_proxy("192.0.2.7", &tlv(4, 65535 - 12 - 3)),
        v2_proxy("192.0.2.7", &tlv(4, 65535 - 12 - 3))[..16].to_vec(),
        v2_proxy("192.0.2.7", &tlv(4, 4096 - 16 - 12 - 3 + 1))[..16].to_vec(),
    ];
    let series = "gateway_proxy_protocol_failures_total{reason=\"malformed\"}";
    for (n, bytes) in malformed.iter().enumerate() {
        let what = bytes.escape_ascii().to_string();
        let stream = TcpStream::connect(gateway.listen).await.unwrap();
        closed_without_a_word(stream, bytes, &what).await;
        assert_eq!(gateway.metric(series).await, (n + 1) as f64, "{what}");
    }
    let series = "gateway_proxy_protocol_failures_total{reason=\"closed\"}";
    let truncated = [
        b"".to_vec(),
        b"PROXY".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2".to_vec(),
        SIGNATURE[..7].to_vec(),
        SIGNATURE.to_vec(),
        v2_proxy("192.0.2.7", b"")[..27].to_vec(),
        v2_proxy("192.0.2.7", &tlv(4, 100))[..60].to_vec(),
    ];
    for (n, bytes) in truncated.iter().enumerate() {
        let what = bytes.escape_ascii().to_string();
        let mut stream = TcpStream::connect(gateway.listen).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        closed_without_a_word(stream, b"", &what).await;
        assert_eq!(gateway.metric(series).await, (n + 1) as f64, "{what}");
    }
    assert!(gateway.requests().is_empty() && backend.connections() == 0);
    assert!(
        !gateway
            .metrics()
            .await
            .contains("handshake_failures_total{")
    );
}

#[tokio::test]
async fn who_is_no_trusted_proxy_is_closed_whatever_it_sends() {
    let backend = Backend::well();
    let gateway = behind(&backend).start().await;
    let stranger = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        socket.connect(gateway.listen).await.unwrap()
    };
    let series = "gateway_proxy_protocol_failures_total{reason=\"untrusted\"}";
    for (n, bytes) in [
        v2_proxy("127.0.0.1", b""),
        b"PROXY UNKNOWN\r\n".to_vec(),
        Vec::new(),
    ]
    .iter()
    .enumerate()
    {
        closed_without_a_word(stranger().await, bytes, "a stranger").await;
        assert_eq!(gateway.metric(series).await, (n + 1) as f64);
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_header_has_a_deadline_of_its_own() {
    let backend = Backend::well();
    let gateway = behind(&backend)
        .toml("timeouts.proxy_header = '300ms'\ntimeouts.handshake = '60s'")
        .start()
        .await;
    let header = v2_proxy("192.0.2.7", b"");
    for half in [&b""[..], b"PROXY TCP4", SIGNATURE, &header[..20]] {
        let stream = TcpStream::connect(gateway.listen).await.unwrap();
        closed_without_a_word(stream, half, "a slow one").await;
    }
    // A byte now and then makes it no longer: with all of them it would take 1.4 s.
    let mut stream = TcpStream::connect(gateway.listen).await.unwrap();
    for byte in &header {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    closed_without_a_word(stream, b"", "a dripping one").await;
    gateway
        .until_metric(
            "gateway_proxy_protocol_failures_total{reason=\"timeout\"}",
            5.0,
        )
        .await;
    // The header's deadline is not the handshake's.
    let mut quick = TcpStream::connect(gateway.listen).await.unwrap();
    quick.write_all(&header).await.unwrap();
    let wait = tokio::time::timeout(Duration::from_millis(600), quick.read(&mut [0])).await;
    assert!(wait.is_err(), "{wait:?}");
}

#[tokio::test]
async fn without_the_setting_a_header_is_a_failed_handshake() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("public.trusted_proxies = ['127.0.0.1/32']");
    let gateway = setup.start().await;
    let series = "gateway_tls_handshake_failures_total{reason=\"tls\"}";
    for (n, header) in [v2_proxy("192.0.2.7", b""), b"PROXY UNKNOWN\r\n".to_vec()]
        .into_iter()
        .enumerate()
    {
        let at = balancer(&gateway, header, How::InOneSegment).await;
        assert!(Client::connect_to(at, Proto::H1).await.is_err());
        gateway.until_metric(series, (n + 1) as f64).await;
    }
    let mut plain = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(plain.get("/cobrowsing/x").await.status, 200);
}
