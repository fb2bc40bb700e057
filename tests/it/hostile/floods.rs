//! HTTP/2 frames without number, heads without end, clients without a word (D1, D2, D3, D6, D7), and
//! what of it is honest.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::{Field, WITH_KEY};
use crate::support::h2_raw::{
    Answer, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, H2, block, data, frame, get, headers, kind,
    ping, request, reset, settings, window_update,
};
use crate::support::{Backend, Gateway, Proto, find, tls, until};

const PAGE: &[u8] = b"/cobrowsing/x";
const FLOODS: &str = "gateway_h2_frame_floods_total";

fn timeouts(reason: &str) -> String {
    format!("gateway_connection_timeouts_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn who_floods_with_frames_that_cost_it_nothing_is_told_to_calm_down() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut honest = H2::connect(&gateway).await;
    let floods = [
        ("SETTINGS", settings(&[])),
        ("SETTINGS of a window", settings(&[(4, 70_000)])),
        ("PING", ping(7)),
        ("answers to PING", frame(kind::PING, 1, 0, &[7; 8])),
        ("PRIORITY", frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10")),
        (
            "PRIORITY of others",
            frame(kind::PRIORITY, 0, 999, b"\0\0\0\x01\x10"),
        ),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("WINDOW_UPDATE of the stream", window_update(1, 1)),
        ("unknown frames", frame(0xbe, 0xff, 0, &[0; 100])),
    ];
    let post = block(&request(b"POST", PAGE, &[]));
    for (n, (what, one)) in floods.iter().enumerate() {
        let mut h2 = H2::connect(&gateway).await;
        let stream = h2.stream();
        h2.say(&headers(stream, false, &post)).await;
        // Fifty times what a second may have.
        let (many, mut taken) = (one.repeat(100), 0);
        while taken < 50_000 && h2.say(&many).await {
            taken += 100;
        }
        let code = h2.ending().await;
        // None where it broke before the word was read.
        assert!(
            matches!(code, None | Some(ENHANCE_YOUR_CALM)),
            "D6 {what} {code:?}"
        );
        assert!(taken < 50_000 || code.is_some(), "D6 {what}");
        gateway.until_metric(FLOODS, (n + 1) as f64).await;
        let answer = honest.call(&get(PAGE, &[])).await;
        assert_eq!(answer.status(), Some(200), "D6 {what}");
    }
}

#[tokio::test]
async fn as_many_frames_as_honest_clients_send_are_none_too_many() {
    let backend = Backend::echoes_the_request();
    let setup = Gateway::before(&backend).toml("limits.h2_control_frames = 100");
    let gateway = setup.start().await;
    let mut h2 = H2::connect(&gateway).await;
    let stream = h2.upload(PAGE).await;
    // What moves data is none of them, however much of it there is in a second.
    for _ in 0..300 {
        h2.say(&data(stream, false, b"x")).await;
        h2.say(&window_update(0, 16 << 10)).await;
        h2.say(&window_update(stream, 1 << 10)).await;
    }
    h2.say(&data(stream, true, b"")).await;
    assert!(matches!(h2.answer(stream).await, Answer::Status(200, body) if body.len() == 300));
    // And the others are counted by the second.
    for _ in 0..3 {
        for number in 0..80 {
            h2.say(&ping(number)).await;
        }
        assert!(h2.has_been_heard().await);
        // Time is the subject.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    assert_eq!(gateway.metric(FLOODS).await, 0.0);
    h2.say(&ping(7).repeat(500)).await;
    assert!(matches!(h2.ending().await, None | Some(ENHANCE_YOUR_CALM)));
    gateway.until_metric(FLOODS, 1.0).await;
}

#[tokio::test]
async fn who_gives_up_hundreds_of_requests_is_told_to_calm_down() {
    let backend = Backend::never_answers();
    let gateway = Gateway::before(&backend).start().await;
    let head = block(&get(PAGE, &[]));
    let mut h2 = H2::connect(&gateway).await;
    for round in 0.. {
        let streams: Vec<u32> = (0..50).map(|_| h2.stream()).collect();
        let open: Vec<u8> = streams
            .iter()
            .flat_map(|s| headers(*s, true, &head))
            .collect();
        let shut: Vec<u8> = streams.iter().flat_map(|s| reset(*s, 8)).collect();
        if !h2.say(&open).await || !h2.has_been_heard().await || !h2.say(&shut).await {
            break;
        }
        assert!(round < 10, "D1");
    }
    assert!(
        matches!(h2.ending().await, None | Some(ENHANCE_YOUR_CALM)),
        "D1"
    );
    gateway
        .until_metric("gateway_h2_reset_floods_total", 1.0)
        .await;
    gateway.until_metric("gateway_inflight_requests", 0.0).await;
}

#[tokio::test]
async fn connections_that_the_framing_ends_are_counted() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let page = block(&get(PAGE, &[]));
    type Attack<'a> = &'a dyn Fn(&mut H2) -> Vec<u8>;
    let attacks: [Attack; 3] = [
        // Not a head of HTTP/2's.
        &|h2| {
            let one = block(&[(b":method", b"GET")]);
            (0..300)
                .flat_map(|_| headers(h2.stream(), true, &one))
                .collect()
        },
        // One that never ends.
        &|h2| {
            let begun = frame(kind::HEADERS, END_STREAM, h2.stream(), &page);
            let more = frame(kind::CONTINUATION, 0, 1, b"");
            [begun, more.repeat(100)].concat()
        },
        // On a stream that nobody began.
        &|_| data(999, true, b"x"),
    ];
    for (n, attack) in attacks.iter().enumerate() {
        let mut h2 = H2::connect(&gateway).await;
        let bytes = attack(&mut h2);
        h2.say(&bytes).await;
        let code = h2.ending().await;
        assert_ne!(code, Some(0), "{n}");
        gateway
            .until_metric("gateway_h2_violations_total", (n + 1) as f64)
            .await;
    }
    // Who leaves in order has done nothing.
    let mut h2 = H2::connect(&gateway).await;
    assert_eq!(h2.call(&get(PAGE, &[])).await.status(), Some(200));
    h2.say(&frame(kind::GOAWAY, 0, 0, &[0; 8])).await;
    drop(h2);
    let open = "gateway_connections{listener=\"public\",proto=\"h2\"}";
    gateway.until_metric(open, 0.0).await;
    assert_eq!(gateway.metric("gateway_h2_violations_total").await, 3.0);
}

#[tokio::test]
async fn half_a_head_is_late_over_http_2_too_whatever_else_is_under_way() {
    let backend = Backend::never_answers();
    let setup = Gateway::before(&backend).toml("timeouts.header = '400ms'");
    let gateway = setup.start().await;
    let page = block(&get(PAGE, &[]));
    for (n, busy) in [false, true].into_iter().enumerate() {
        let mut h2 = H2::connect(&gateway).await;
        if busy {
            let stream = h2.stream();
            h2.say(&headers(stream, true, &page)).await;
            backend.until_requests(1).await;
        }
        // Nothing else may stand between the pieces of a head.
        h2.polite = false;
        let stream = h2.stream();
        h2.say(&frame(kind::HEADERS, END_STREAM, stream, &page))
            .await;
        let begun = Instant::now();
        // A piece now and then makes it no longer.
        while begun.elapsed() < Duration::from_secs(5) {
            if !h2.say(&frame(kind::CONTINUATION, 0, stream, b"")).await {
                break;
            }
            let ended = tokio::time::timeout(Duration::from_millis(150), h2.ending()).await;
            if ended.is_ok() {
                break;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "D3 {busy}");
        gateway
            .until_metric(&timeouts("header"), (n + 1) as f64)
            .await;
    }
    until("given up upstream", || backend.open() == 0).await;
}

#[tokio::test]
async fn who_says_nothing_is_closed_and_need_not_answer_the_farewell() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.header = '300ms'\ntimeouts.keep_alive = '600ms'")
        .start()
        .await;
    // Not a byte of HTTP.
    for alpn in ["h2", "http/1.1"] {
        let stream = tls(&gateway, &[alpn], rustls::DEFAULT_VERSIONS).await;
        let (mut stream, begun) = (stream.unwrap(), Instant::now());
        let mut came = Vec::new();
        drop(crate::support::within(stream.read_to_end(&mut came)).await);
        assert!(begun.elapsed() < Duration::from_secs(3), "{alpn}");
    }
    gateway.until_metric(&timeouts("first_request"), 2.0).await;
    // A request, and then no more, whether the farewell is answered or not.
    for polite in [true, false] {
        let mut h2 = H2::connect(&gateway).await;
        assert_eq!(h2.call(&get(PAGE, &[])).await.status(), Some(200));
        h2.polite = polite;
        let begun = Instant::now();
        assert!(matches!(h2.ending().await, None | Some(0)));
        assert!(begun.elapsed() > Duration::from_millis(400));
        assert!(begun.elapsed() < Duration::from_secs(3), "{polite}");
    }
    let mut client = crate::support::Client::connect(&gateway, Proto::H1).await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    until("closed", || !client.is_open()).await;
    gateway.until_metric(&timeouts("keep_alive"), 3.0).await;
}

#[tokio::test]
async fn trailers_change_nothing_over_http_2_either() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let trailers: &[Field] = &[
        (b"host", b"evil.test"),
        (b"authorization", b"trailed"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"cookie", b"a=trailed"),
        (b"x-request-id", b"trailed"),
        (b"x-more", b"trailed"),
        (b"content-length", b"100"),
        (b"transfer-encoding", b"chunked"),
        (b":path", b"/cobrowsing/trailed"),
    ];
    for trailer in trailers {
        backend.forget();
        let mut h2 = H2::connect(&gateway).await;
        let stream = h2.upload(PAGE).await;
        h2.say(&data(stream, false, b"hello")).await;
        h2.say(&headers(stream, true, &block(&[*trailer]))).await;
        let answer = h2.answer(stream).await;
        let what = trailer.0.escape_ascii();
        match answer {
            Answer::Status(200, body) => {
                assert_eq!(body, b"hello", "S13 {what}");
                assert_eq!(backend.only().body, b"hello", "S13 {what}");
            }
            // Malformed: then it never became whole.
            other => {
                assert!(matches!(other.status(), None | Some(400)), "S13 {what}");
                assert!(backend.requests().is_empty(), "S13 {what}");
            }
        }
        let bytes = backend.bytes();
        for late in [&b"trailed"[..], b"evil.test", b"1.2.3.4", b": 100\r\n"] {
            assert!(find(&bytes, late).is_none(), "S13 {what}");
        }
    }
}

#[tokio::test]
async fn extended_connect_is_neither_offered_nor_taken() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut h2 = H2::connect(&gateway).await;
    let offered = h2.frame().await.unwrap();
    assert_eq!(offered.kind, kind::SETTINGS);
    let ids: Vec<u16> = offered
        .payload
        .chunks(6)
        .map(|entry| u16::from_be_bytes([entry[0], entry[1]]))
        .collect();
    assert!(!ids.contains(&8), "P {ids:?}");
    for path in [PAGE, b"/cobrowsing/api/socket", b"/cobrowsing/%61pi/x"] {
        for key in [&[][..], &[WITH_KEY]] {
            let mut fields = request(b"CONNECT", path, key);
            fields.insert(1, (b":protocol", b"websocket"));
            let answer = H2::connect(&gateway).await.call(&fields).await;
            assert!(
                matches!(answer.status(), None | Some(400 | 401 | 501)),
                "{answer:?}"
            );
        }
    }
    assert_eq!(backend.bytes(), b"");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up_over_http_2_too() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("timeouts.body = '400ms'");
    let gateway = setup.start().await;
    // An API request's must be whole in time; a page's may trickle, but not stop.
    for (path, pieces, status) in [
        (&b"/cobrowsing/api/x"[..], 0, 408),
        (b"/cobrowsing/api/x", 8, 408),
        (PAGE, 0, 408),
        (PAGE, 8, 200),
    ] {
        let mut h2 = H2::connect(&gateway).await;
        let stream = h2.stream();
        let head = block(&request(b"POST", path, &[WITH_KEY]));
        h2.say(&headers(stream, false, &head)).await;
        for n in 0..pieces {
            tokio::time::sleep(Duration::from_millis(100)).await;
            h2.say(&data(stream, n + 1 == pieces, b"x")).await;
        }
        let answer = h2.answer(stream).await;
        assert_eq!(answer.status(), Some(status), "3.6 {pieces} {answer:?}");
        // The connection and its other streams go on.
        assert_eq!(h2.call(&get(PAGE, &[])).await.status(), Some(200));
    }
}

#[tokio::test]
async fn one_client_has_so_many_requests_at_a_time_whatever_its_connections() {
    let backend = Backend::new(|conn| {
        while let Some(request) = conn.request() {
            if request.target != "/fine" {
                conn.read_to_end();
                return;
            }
            conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let fine = get(b"/cobrowsing/fine", &[]);
    let (page, api) = (
        block(&get(PAGE, &[])),
        get(b"/cobrowsing/api/x", &[WITH_KEY]),
    );
    for off in [false, true] {
        let mut setup =
            Gateway::before(&backend).toml("limits.requests_per_client = 5\nlimits.workers = 2");
        if off {
            setup = setup.toml("limits.connections_per_client = 'off'");
        }
        let gateway = setup.start().await;
        let (mut first, mut second) = (H2::connect(&gateway).await, H2::connect(&gateway).await);
        backend.forget();
        let mut streams = Vec::new();
        for n in 0..5 {
            let h2 = if n % 2 == 0 { &mut first } else { &mut second };
            let stream = h2.stream();
            h2.say(&headers(stream, true, &page)).await;
            streams.push(stream);
        }
        backend.until_requests(5).await;
        for h2 in [&mut first, &mut second] {
            let refused = h2.call(&api).await;
            let Answer::Status(503, body) = refused else {
                panic!("{refused:?}")
            };
            assert!(find(&body, b"overloaded").is_some());
        }
        // Others have their own, and so has HTTP/1.1.
        let mut plain = crate::support::Client::connect(&gateway, Proto::H1).await;
        assert_eq!(plain.get("/cobrowsing/fine").await.status, 200);
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let other = socket.connect(gateway.listen).await.unwrap();
        let mut other = crate::support::Client::over_tcp(other, Proto::H2).await;
        assert_eq!(other.get("/cobrowsing/fine").await.status, 200);
        // Places come back, of those given up and of those answered.
        second.say(&reset(streams[1], 8)).await;
        assert!(second.has_been_heard().await);
        gateway.until_metric("gateway_inflight_requests", 4.0).await;
        for _ in 0..20 {
            assert_eq!(first.call(&fine).await.status(), Some(200));
        }
        let refused = "gateway_rejected_requests_total{reason=\"overloaded\"}";
        gateway.until_metric(refused, 2.0).await;
    }
    // A trusted proxy has many clients.
    let gateway = Gateway::before(&backend)
        .toml("limits.requests_per_client = 1\npublic.trusted_proxies = ['127.0.0.1/32']")
        .start()
        .await;
    let mut h2 = H2::connect(&gateway).await;
    backend.forget();
    for _ in 0..5 {
        let stream = h2.stream();
        h2.say(&headers(stream, true, &page)).await;
    }
    backend.until_requests(5).await;
}

/// Memory of a process, KiB.
fn memory(gateway: &Gateway, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[tokio::test]
async fn an_upload_that_nobody_reads_costs_no_more_than_its_window() {
    // A backend that takes nothing: its connections wait to be accepted.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(4096).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let gateway = Gateway::on(address.port()).start().await;
    let before = memory(&gateway, "VmRSS");
    let mut held = Vec::new();
    for size in [1, 10, 100, 16 << 10] {
        let mut h2 = H2::connect(&gateway).await;
        let mut all = Vec::new();
        for _ in 0..100 {
            let stream = h2.stream();
            all.extend(frame(
                kind::HEADERS,
                END_HEADERS,
                stream,
                &block(&request(b"POST", PAGE, &[])),
            ));
        }
        h2.force(&all).await;
        // Whole frames, as much as the connection's window takes.
        for n in 0..(1 << 20) / size / 100 {
            let piece = vec![b'x'; size];
            let round: Vec<u8> = (0..100)
                .flat_map(|stream| data(2 * stream + 1, false, &piece))
                .collect();
            if h2.force(&round).await < round.len() {
                eprintln!("D6 {size}: no more after {n} rounds");
                break;
            }
        }
        held.push(h2);
    }
    let cost = memory(&gateway, "VmHWM").saturating_sub(before);
    eprintln!("D6 unread uploads: {cost} KiB at most");
    assert!(cost < 40 << 10, "D6 {cost} KiB");
}
