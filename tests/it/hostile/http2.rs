//! Much work for us, little for the client, by the frame (D1 to D9). Each siege ends with the same
//! questions: was an honest client served meanwhile, did memory stay within bounds, and is nothing
//! left of it?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Broken, so};
use crate::support::h2_raw::{
    Answer, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Field, H2, block, data, frame, get,
    headers, integer, kind, request, reset, settings, window_update,
};
use crate::support::{Backend, Client, Gateway, Proto, Raw, Setup, find, until};

const PAGE: &[u8] = b"/cobrowsing/x";

/// A gateway under attack.
struct Siege {
    gateway: Arc<Gateway>,
    over: Arc<AtomicBool>,
    honest: std::thread::JoinHandle<(u32, Duration)>,
    before: u64,
}

/// A line of `/proc/PID/status`, KiB.
fn memory(gateway: &Gateway, name: &str) -> u64 {
    let path = format!("/proc/{}/status", gateway.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

impl Siege {
    async fn of(setup: Setup) -> Self {
        let gateway = Arc::new(setup.start().await);
        // What is allocated once is no one's attack.
        for proto in Proto::BOTH {
            let mut client = Client::connect(&gateway, proto).await;
            for _ in 0..20 {
                client.get("/cobrowsing/honest").await;
            }
        }
        // The peak begins anew.
        let refs = format!("/proc/{}/clear_refs", gateway.pid());
        std::fs::write(refs, "5").unwrap();
        let before = memory(&gateway, "VmRSS");
        let over = Arc::<AtomicBool>::default();
        let honest = {
            let (gateway, over) = (Arc::clone(&gateway), Arc::clone(&over));
            std::thread::spawn(move || be_honest(&gateway, &over))
        };
        Self {
            gateway,
            over,
            honest,
            before,
        }
    }

    /// The siege is over: at its peak it had cost at most `kib`.
    async fn cost_at_most(self, what: &str, kib: u64) {
        let cost = memory(&self.gateway, "VmHWM").saturating_sub(self.before);
        self.over.store(true, Ordering::SeqCst);
        let (calls, slowest) = tokio::task::spawn_blocking(|| self.honest.join())
            .await
            .unwrap()
            .unwrap();
        eprintln!("{what}: {cost} KiB at most, {calls} honest calls, the slowest took {slowest:?}");
        assert!(
            slowest < Duration::from_secs(1),
            "{what}: {slowest:?} for an honest call"
        );
        assert!(cost <= kib, "{what}: {cost} KiB, not {kib}");
        let gateway = &self.gateway;
        gateway.until_metric("gateway_inflight_requests", 0.0).await;
        gateway
            .until_metric("gateway_connections{listener=\"public\",proto=\"h2\"}", 0.0)
            .await;
        assert!(!gateway.errors().contains("panicked"), "{what}");
    }
}

/// Asks again and again until it is over; how often, and how long the slowest answer took.
fn be_honest(gateway: &Gateway, over: &AtomicBool) -> (u32, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let mut client = Client::connect(gateway, Proto::H1).await;
        let (mut calls, mut slowest) = (0, Duration::ZERO);
        while calls == 0 || !over.load(Ordering::SeqCst) {
            let asked = Instant::now();
            assert_eq!(client.get("/cobrowsing/honest").await.status, 200);
            slowest = slowest.max(asked.elapsed());
            calls += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (calls, slowest)
    })
}

/// Answers what is honest, and nothing else.
fn answers_the_honest() -> Backend {
    Backend::new(|conn| {
        while let Some(request) = conn.request() {
            if request.target != "/honest" {
                conn.wait_for_close();
                return;
            }
            if !conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") {
                return;
            }
        }
    })
}

/// Asked for other things than honest ones.
fn dishonest(backend: &Backend) -> usize {
    let requests = backend.requests();
    requests.iter().filter(|r| r.target != "/honest").count()
}

/// Says one attack after the other, fifty at a time, until the connection is ended; after how many
/// that was, and with which code.
async fn until_ended(
    h2: &mut H2,
    most: usize,
    mut one: impl FnMut(u32) -> Vec<u8>,
) -> (usize, Option<u32>) {
    let mut sent = 0;
    while sent < most {
        let mut many = Vec::new();
        for _ in 0..50 {
            let stream = h2.stream();
            many.extend(one(stream));
        }
        sent += 50;
        if !h2.say(&many).await || !h2.has_been_heard().await {
            break;
        }
    }
    let goaway = if sent < most || h2.goaway.is_some() {
        h2.ending().await
    } else {
        None
    };
    (sent, goaway)
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection() {
    let backend = answers_the_honest();
    let siege = Siege::of(Gateway::before(&backend)).await;
    let block = block(&get(PAGE, &[]));
    for end_stream in [true, false] {
        let mut h2 = H2::connect(&siege.gateway).await;
        let one = |stream| [headers(stream, end_stream, &block), reset(stream, 8)].concat();
        let (sent, code) = until_ended(&mut h2, 10_000, one).await;
        assert!(sent <= 500, "D1 after {sent}");
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "D1");
    }
    let came = dishonest(&backend);
    assert!(came <= 100, "D1 {came} came upstream");
    siege.cost_at_most("D1 rapid reset", 2 << 10).await;
}

#[tokio::test]
async fn streams_that_are_reset_once_they_are_upstream_end_the_connection() {
    let backend = answers_the_honest();
    let siege = Siege::of(Gateway::before(&backend)).await;
    let block = block(&get(PAGE, &[]));
    let mut h2 = H2::connect(&siege.gateway).await;
    let mut sent = 0;
    while sent < 1000 {
        let streams: Vec<u32> = (0..100).map(|_| h2.stream()).collect();
        let opening: Vec<u8> = streams
            .iter()
            .flat_map(|s| headers(*s, true, &block))
            .collect();
        let closing: Vec<u8> = streams.iter().flat_map(|s| reset(*s, 8)).collect();
        sent += 100;
        if !h2.say(&opening).await || !h2.has_been_heard().await || !h2.say(&closing).await {
            break;
        }
    }
    eprintln!("D1 slow reset: {sent} sent");
    assert!(sent < 1000, "D1 {sent}");
    let floods = "gateway_h2_reset_floods_total";
    siege.gateway.until_metric(floods, 1.0).await;
    drop(h2);
    until("nothing is kept upstream", || backend.open() <= 2).await;
    siege.cost_at_most("D1 slow reset", 8 << 10).await;
}

#[tokio::test]
async fn who_leaves_some_of_many_requests_is_no_attacker() {
    let backend = answers_the_honest();
    let gateway = Gateway::before(&backend).start().await;
    let (left, honest) = (block(&get(PAGE, &[])), get(b"/cobrowsing/honest", &[]));
    let mut h2 = H2::connect(&gateway).await;
    for _ in 0..250 {
        let stream = h2.stream();
        h2.force(&headers(stream, true, &left)).await;
        assert!(h2.has_been_heard().await);
        h2.force(&reset(stream, 8)).await;
        for _ in 0..2 {
            assert!(matches!(h2.call(&honest).await, Answer::Status(200, _)));
        }
    }
    assert_eq!(gateway.metric("gateway_h2_reset_floods_total").await, 0.0);
}

#[tokio::test]
async fn who_makes_us_reset_its_streams_is_sent_away() {
    let backend = answers_the_honest();
    let siege = Siege::of(Gateway::before(&backend)).await;
    let whole = block(&get(PAGE, &[]));
    let post = block(&request(b"POST", PAGE, &[(b"content-length", b"1")]));
    let largest = (1 << 31) - 1;
    type Attack<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
    let attacks: Vec<(&str, Attack)> = vec![
        (
            "window by 0",
            Box::new(|s| [headers(s, true, &whole), window_update(s, 0)].concat()),
        ),
        (
            "window too large",
            Box::new(|s| {
                [
                    headers(s, true, &whole),
                    window_update(s, largest),
                    window_update(s, largest),
                ]
                .concat()
            }),
        ),
        (
            "data after the end",
            Box::new(|s| [headers(s, true, &whole), data(s, false, b"x")].concat()),
        ),
        (
            "headers after the end",
            Box::new(|s| [headers(s, true, &whole), headers(s, true, &whole)].concat()),
        ),
        (
            "too much data",
            Box::new(|s| [headers(s, false, &post), data(s, false, b"xyz")].concat()),
        ),
        (
            "too little data",
            Box::new(|s| [headers(s, false, &post), data(s, true, b"")].concat()),
        ),
        (
            "depends on itself",
            Box::new(|s| {
                let itself = [&s.to_be_bytes()[..], &[0]].concat();
                [
                    headers(s, true, &whole),
                    frame(kind::PRIORITY, 0, s, &itself),
                ]
                .concat()
            }),
        ),
        (
            "a short PRIORITY",
            Box::new(|s| [headers(s, true, &whole), frame(kind::PRIORITY, 0, s, b"xy")].concat()),
        ),
        (
            "a malformed head",
            Box::new(|s| headers(s, true, &block(&[(b":method", b"GET")]))),
        ),
        (
            "trailers that do not end",
            Box::new(|s| {
                [
                    headers(s, false, &whole),
                    headers(s, false, &block(&[(b"x", b"y")])),
                ]
                .concat()
            }),
        ),
    ];
    let mut broken = Broken::default();
    for (what, attack) in attacks {
        let mut h2 = H2::connect(&siege.gateway).await;
        let (sent, code) = until_ended(&mut h2, 3000, attack).await;
        eprintln!("D2 {what}: GOAWAY {code:?} after {sent}");
        let held = sent <= 1000 && code.is_some_and(|code| code != 0);
        broken.note(
            || format!("D2 {what}"),
            so(held, || format!("{code:?} after {sent}")),
        );
    }
    siege.cost_at_most("D2 made to reset", 4 << 10).await;
}

#[tokio::test]
async fn a_head_that_never_ends_ends_the_connection() {
    let backend = answers_the_honest();
    let siege = Siege::of(Gateway::before(&backend)).await;
    let begin = block(&get(PAGE, &[]));
    let field = block(&[(b"x-more", b"yyyyyyyyyyyyyyyy")]);
    let large = vec![(&b"x-large"[..], &[b'y'; 7000][..]); 2];
    for (what, piece) in [
        ("empty", Vec::new()),
        ("a byte", vec![0x82]),
        ("a field", field),
        ("16 KiB", block(&large)),
    ] {
        let mut h2 = H2::connect(&siege.gateway).await;
        let stream = h2.stream();
        h2.say(&frame(kind::HEADERS, END_STREAM, stream, &begin))
            .await;
        let many = frame(kind::CONTINUATION, 0, stream, &piece).repeat(100);
        let mut took = 0;
        while took < 10_000 && h2.say(&many).await {
            took += 100;
        }
        let code = h2.ending().await;
        eprintln!("D3 {what}: GOAWAY {code:?}, {took} frames taken");
        assert!(took < 10_000 || code.is_some(), "D3 {what}");
        // None where it broke before the farewell was read.
        assert_ne!(code, Some(0), "D3 {what}");
    }
    assert_eq!(dishonest(&backend), 0, "D3");
    siege.cost_at_most("D3 CONTINUATION", 2 << 10).await;
}

/// A block of a field that is put into the table, and then `times` its index.
fn bomb(name: &[u8], value: &[u8], times: usize) -> Vec<u8> {
    let mut out = block(&get(PAGE, &[]));
    out.push(0x40);
    integer(&mut out, 0, 7, name.len());
    out.extend_from_slice(name);
    integer(&mut out, 0, 7, value.len());
    out.extend_from_slice(value);
    out.extend(std::iter::repeat_n(0x80 | 62, times));
    out
}

/// A block as HEADERS and CONTINUATION.
fn in_frames(stream: u32, block: &[u8]) -> Vec<u8> {
    let pieces: Vec<_> = block.chunks(16 << 10).collect();
    let mut out = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let (kind, flags) = if n == 0 {
            (kind::HEADERS, END_STREAM)
        } else {
            (kind::CONTINUATION, 0)
        };
        let end = if n + 1 == pieces.len() {
            END_HEADERS
        } else {
            0
        };
        out.extend(frame(kind, flags | end, stream, piece));
    }
    out
}

#[tokio::test]
async fn a_small_block_that_unfolds_to_a_large_head_is_counted_unfolded() {
    let backend = answers_the_honest();
    let siege = Siege::of(Gateway::before(&backend)).await;
    for (what, block) in [
        ("one entry", bomb(b"x-bomb", &[b'y'; 4000], 10_000)),
        ("cookies", bomb(b"cookie", b"a=b", 10_000)),
        ("empty fields", bomb(b"x", b"", 10_000)),
        ("just too many", bomb(b"x", b"", 1100)),
    ] {
        for _ in 0..5 {
            let mut h2 = H2::connect(&siege.gateway).await;
            let stream = h2.stream();
            h2.say(&in_frames(stream, &block)).await;
            let answer = h2.answer(stream).await;
            assert!(
                matches!(answer.status(), None | Some(431)),
                "D4 {what} {answer:?}"
            );
        }
    }
    assert_eq!(dishonest(&backend), 0, "D4");
    siege.cost_at_most("D4 HPACK bomb", 2 << 10).await;
}

#[tokio::test]
async fn large_heads_on_every_stream_with_windows_shut_cost_no_more_than_they_are() {
    // Answers are there, and nobody takes them.
    let backend = Backend::well();
    let siege = Siege::of(Gateway::before(&backend)).await;
    let block = bomb(b"x-bomb", &[b'y'; 3900], 6);
    let mut h2 = H2::with(&siege.gateway, &[(4, 0)]).await;
    let mut all = Vec::new();
    for n in 0..128 {
        let stream = h2.stream();
        // One entry serves all streams.
        let again = [
            crate::support::h2_raw::block(&get(PAGE, &[])),
            vec![0x80 | 62; 7],
        ]
        .concat();
        all.extend(in_frames(stream, if n == 0 { &block } else { &again }));
    }
    h2.say(&all).await;
    backend.until_requests(128).await;
    assert!(h2.has_been_heard().await, "D4");
    drop(h2);
    siege.cost_at_most("D4 windows shut", 16 << 10).await;
}

#[tokio::test]
async fn more_different_names_than_a_map_can_hold_are_no_panic() {
    let backend = answers_the_honest();
    let siege = Siege::of(Gateway::before(&backend)).await;
    for count in [600, 1000, 24_577, 32_769, 70_000] {
        let names: Vec<String> = (0..count).map(|n| format!("{n:x}")).collect();
        let fields: Vec<Field> = names.iter().map(|n| (n.as_bytes(), &b""[..])).collect();
        let mut h2 = H2::connect(&siege.gateway).await;
        let stream = h2.stream();
        h2.say(&in_frames(stream, &block(&get(PAGE, &fields))))
            .await;
        if count < 900 {
            continue;
        }
        let answer = h2.answer(stream).await;
        assert!(
            matches!(answer.status(), None | Some(431)),
            "D5 {count} {answer:?}"
        );
    }
    siege.cost_at_most("D5 names", 2 << 10).await;
}

#[tokio::test]
async fn floods_of_small_frames_cost_little_and_hold_up_nobody() {
    let backend = Backend::well();
    let siege = Siege::of(Gateway::before(&backend)).await;
    let post = block(&request(b"POST", PAGE, &[]));
    let floods: Vec<(&str, Vec<u8>)> = vec![
        ("SETTINGS", settings(&[])),
        ("SETTINGS of a window", settings(&[(4, 70_000)])),
        ("SETTINGS of many", settings(&[(4, 65_535); 1000])),
        ("PING", crate::support::h2_raw::ping(7)),
        ("PRIORITY", frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10")),
        (
            "PRIORITY of others",
            frame(kind::PRIORITY, 0, 999, b"\0\0\0\x01\x10"),
        ),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("WINDOW_UPDATE of the stream", window_update(1, 1)),
        ("empty DATA", data(1, false, b"")),
        ("padded empty DATA", frame(kind::DATA, 8, 1, &[255; 256])),
        ("a byte of DATA", data(1, false, b"x")),
        ("unknown frames", frame(0xbe, 0xff, 0, &[0; 100])),
    ];
    for (what, one) in &floods {
        let mut h2 = H2::connect(&siege.gateway).await;
        let stream = h2.stream();
        h2.say(&headers(stream, false, &post)).await;
        let times = if one.len() > 1000 { 2 } else { 100 };
        let (many, mut taken) = (one.repeat(times), 0);
        while taken < 100 * times && h2.say(&many).await {
            taken += times;
        }
        // Ended, or all of it looked at.
        let heard = h2.has_been_heard().await;
        eprintln!(
            "D6 {what}: GOAWAY {:?}, {taken} taken, heard {heard}",
            h2.goaway
        );
        // A hundred large ones are looked at, ten thousand small ones end the connection.
        assert_eq!(heard, times == 2, "D6 {what}");
        assert_ne!(h2.goaway, Some(0), "D6 {what}");
    }
    // Nor when the answers to them are not taken.
    for (what, one) in [
        ("SETTINGS", settings(&[])),
        ("PING", crate::support::h2_raw::ping(7)),
    ] {
        let mut h2 = H2::connect(&siege.gateway).await;
        let many = one.repeat((16 << 20) / one.len());
        let taken = h2.force(&many).await;
        eprintln!("D6 {what} unread: {} KiB taken", taken >> 10);
    }
    siege.cost_at_most("D6 floods", 4 << 10).await;
}

#[tokio::test]
async fn a_slow_upload_in_small_frames_is_honest() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    for (size, count, pause) in [(1, 3000, 0), (10, 1000, 1), (100, 30, 20)] {
        let mut h2 = H2::connect(&gateway).await;
        let stream = h2.upload(PAGE).await;
        for n in 0..count {
            // Time is the subject.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let piece = vec![b'x'; size];
            assert!(
                h2.say(&data(stream, n + 1 == count, &piece)).await,
                "D6 {size}"
            );
        }
        let Answer::Status(200, body) = h2.answer(stream).await else {
            panic!("D6 {size}: {:?}", h2.goaway);
        };
        assert_eq!(body.len(), size * count, "D6");
    }
}

/// The sizes of the chunks of a body, which is all that follows the first head in `bytes`.
fn chunks(bytes: &[u8]) -> Vec<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap() + 4;
    let (mut rest, mut sizes) = (&bytes[head..], Vec::new());
    while let Some(line) = memchr::memmem::find(rest, b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        sizes.push(size);
        rest = &rest[line + 2 + size + 2..];
    }
    sizes
}

#[tokio::test]
async fn a_body_cut_into_bytes_reaches_the_backend_in_few_pieces() {
    const BYTES: usize = 2000;
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut h2 = H2::connect(&gateway).await;
    let stream = h2.upload(PAGE).await;
    // Begun without knowing how long it will be.
    assert!(h2.has_been_heard().await);
    let mut all = Vec::new();
    for n in 0..BYTES {
        all.extend(data(stream, n + 1 == BYTES, &[b'a' + (n % 26) as u8]));
    }
    assert!(h2.say(&all).await);
    let Answer::Status(200, body) = h2.answer(stream).await else {
        panic!("{:?}", h2.goaway);
    };
    let sent: Vec<u8> = (0..BYTES).map(|n| b'a' + (n % 26) as u8).collect();
    assert!(body == sent, "{} of {BYTES} bytes", body.len());
    // Twenty kilobytes of frames in all, which come in some reads.
    let bytes = backend.bytes();
    eprintln!(
        "{}",
        String::from_utf8_lossy(&bytes[..bytes.len().min(600)])
    );
    let chunks = chunks(&bytes);
    assert_eq!(chunks.iter().sum::<usize>(), BYTES);
    assert!(chunks.len() <= 100, "D6 {chunks:?}");
}

#[tokio::test]
async fn who_takes_no_answers_is_not_listened_to_until_it_does() {
    let wide = "x".repeat(15 << 10);
    let backend = Backend::answers(format!(
        "HTTP/1.1 200 OK\r\nx-wide: {wide}\r\ncontent-length: 0\r\n\r\n"
    ));
    let gateway = Gateway::before(&backend).start().await;
    let mut h2 = H2::connect(&gateway).await;
    h2.shrink();
    let block = block(&get(PAGE, &[]));
    let mut streams = Vec::new();
    // What both kernels hold of its answers first is some megabytes.
    while backend.requests().len() == streams.len() && streams.len() < 900 {
        let more: Vec<_> = (0..90).map(|_| h2.stream()).collect();
        let heads = more.iter().flat_map(|id| headers(*id, true, &block));
        h2.force(&heads.collect::<Vec<u8>>()).await;
        streams.extend(more);
        // Time is the subject.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let heard = backend.requests().len();
    assert!(heard < streams.len(), "D7 all {heard} are heard");
    for stream in streams {
        assert_eq!(
            h2.answer(stream).await,
            Answer::Status(200, Vec::new()),
            "{stream} {heard}"
        );
    }
}

#[tokio::test]
async fn answers_share_what_the_client_takes_of_all() {
    const STEP: u32 = 8 << 10;
    let backend = much();
    let gateway = Gateway::before(&backend).start().await;
    let largest = (1 << 31) - 1;
    let mut h2 = H2::with(&gateway, &[(4, largest)]).await;
    h2.polite = false;
    let block = block(&get(PAGE, &[]));
    let streams = [h2.stream(), h2.stream(), h2.stream()];
    let (mut early, mut took) = ([0; 3], [0; 3]);
    let all = streams.map(|stream| headers(stream, true, &block)).concat();
    h2.force(&all).await;
    let mut unsaid = 0;
    while took.iter().sum::<usize>() < 1 << 20 {
        let came = h2.frame().await.expect("closed while it was read");
        if came.kind == kind::DATA {
            let at = streams.iter().position(|stream| *stream == came.stream);
            if early.contains(&0) {
                // Nothing is shared before all of them have begun.
                early[at.unwrap()] += came.payload.len();
                assert!(early.iter().sum::<usize>() < 8 << 20, "{early:?}");
            } else {
                took[at.unwrap()] += came.payload.len();
            }
            unsaid += came.payload.len() as u32;
        }
        if unsaid >= STEP {
            h2.say(&window_update(0, std::mem::take(&mut unsaid))).await;
        }
    }
    let (least, most) = (took.iter().min().unwrap(), took.iter().max().unwrap());
    assert!(2 * least > *most, "{took:?}");
}

/// Every request but honest ones gets 10 MiB.
fn much() -> Backend {
    Backend::new(|conn| {
        while let Some(request) = conn.request() {
            let size = if request.target == "/honest" {
                0
            } else {
                10 << 20
            };
            conn.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes());
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..size / piece.len() {
                if !conn.say(&piece) {
                    return;
                }
            }
        }
    })
}

#[tokio::test]
async fn who_takes_no_answers_costs_no_more_than_what_is_on_the_way() {
    let largest = (1 << 31) - 1;
    // With its windows open each stream holds its send buffer, 32 KiB, and what was read for it.
    for (what, window, updates, most) in [
        ("windows shut", 0, Vec::new(), 8 << 10),
        ("a byte at a time", 1, Vec::new(), 8 << 10),
        ("windows as they are", 65_535, Vec::new(), 8 << 10),
        (
            "windows open, nothing read",
            largest,
            window_update(0, largest - 65_535),
            24 << 10,
        ),
    ] {
        let backend = much();
        // All hundred go through, however slow the machine is.
        let setup = Gateway::before(&backend).toml("overload.adaptive = false");
        let siege = Siege::of(setup).await;
        let mut h2 = H2::with(&siege.gateway, &[(4, window)]).await;
        h2.polite = false;
        h2.force(&updates).await;
        let block = block(&get(PAGE, &[]));
        let mut all = Vec::new();
        for _ in 0..100 {
            let stream = h2.stream();
            all.extend(headers(stream, true, &block));
        }
        h2.force(&all).await;
        until("they are all there", || dishonest(&backend) == 100).await;
        // It stands still when two looks in a row see the same.
        let mut last = 0;
        crate::support::eventually("standstill", || {
            let now = memory(&siege.gateway, "VmRSS");
            let still = now <= std::mem::replace(&mut last, now);
            async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                still.then_some(())
            }
        })
        .await;
        drop(h2);
        siege.cost_at_most(&format!("D7 {what}"), most).await;
    }
}

#[tokio::test]
async fn a_head_that_would_be_another_over_http_1_is_never_written() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    let path = |path: &'static [u8]| get(path, &[]);
    let with = |name: &'static [u8], value: &'static [u8]| get(PAGE, &[(name, value)]);
    let of = |method: &'static [u8]| request(method, PAGE, &[]);
    for fields in [
        path(b"/cobrowsing/x HTTP/1.1\r\nhost: evil\r\n\r\n"),
        path(b"/cobrowsing/x\r\nx: y"),
        path(b"/cobrowsing/x\ny"),
        path(b"/cobrowsing/x\ry"),
        path(b"/cobrowsing/x y"),
        path(b"/cobrowsing/x\ty"),
        path(b"/cobrowsing/x\0y"),
        path(b"/cobrowsing/x?a\r\nb: c"),
        path(b"/cobrowsing/x?a b"),
        path(b""),
        with(b"x", b"y\r\nevil: 1"),
        with(b"x", b"y\nevil: 1"),
        with(b"x", b"y\revil"),
        with(b"x", b"y\0"),
        with(b"cookie", b"a=b\r\nevil: 1"),
        with(b"x\r\nevil", b"1"),
        with(b"x: y\r\nevil", b"1"),
        with(b"x y", b"1"),
        with(b"x:y", b"1"),
        with(b"", b"1"),
        with(b"X-Upper", b"1"),
        with(b"x\xff", b"1"),
        with(b"transfer-encoding", b"chunked"),
        with(b"connection", b"close"),
        with(b"upgrade", b"websocket"),
        with(b"keep-alive", b"1"),
        with(b"proxy-connection", b"close"),
        with(b"te", b"chunked"),
        with(b"content-length", b"+1"),
        with(b"content-length", b"1, 2"),
        with(b"content-length", b"1x"),
        with(b"content-length", b"5"),
        of(b"GET / HTTP/1.1\r\nx: y\r\n\r\n"),
        of(b"GE T"),
        of(b"GET\r\n"),
        of(b""),
        of(b"G\xc3\x89T"),
    ] {
        let answer = H2::connect(&gateway).await.call(&fields).await;
        let came = backend.bytes();
        backend.forget();
        let seen = || format!("{answer:?} {}", came.escape_ascii());
        let refused = matches!(answer.status(), None | Some(400)) && came.is_empty();
        broken.note(|| format!("D8 {fields:?}"), so(refused, seen));
    }
    // A length that the data contradicts: too little is never whole; of too much, what the length
    // says may have gone before the rest came, and the rest never goes.
    for (target, length, pieces, whole) in [
        ("/short", &b"5"[..], &[&b"hell"[..]][..], None),
        ("/long", b"5", &[b"hello", b"+"], Some(b"hello")),
        ("/none", b"0", &[b"+"], Some(b"")),
    ] as [(&str, &[u8], &[&[u8]], Option<&[u8]>); 3]
    {
        let mut h2 = H2::connect(&gateway).await;
        let stream = h2.stream();
        let path = format!("/cobrowsing{target}");
        let fields = [(&b"content-length"[..], length)];
        let head = block(&request(b"POST", path.as_bytes(), &fields));
        h2.say(&headers(stream, false, &head)).await;
        for (n, piece) in pieces.iter().enumerate() {
            h2.say(&data(stream, n + 1 == pieces.len(), piece)).await;
        }
        let answer = h2.answer(stream).await;
        let ended = matches!(answer.status(), None | Some(400)) || whole.is_some();
        // One that is on its way may come late: it is known by its target.
        let came = backend
            .requests()
            .into_iter()
            .filter(|r| r.target == target);
        let came: Vec<_> = came.collect();
        let held = ended && came.iter().all(|r| whole == Some(&*r.body));
        let held = held && find(&backend.bytes(), b"+").is_none();
        broken.note(
            || format!("D8 {target}"),
            so(held, || format!("{answer:?} {came:?}")),
        );
    }
    assert!(find(&backend.bytes(), b"evil").is_none(), "D8");
}

#[tokio::test]
async fn storms_of_resets_deadlines_and_late_answers_leave_no_request_behind() {
    let backend = Backend::new(|conn| {
        while let Some(request) = conn.request() {
            match &*request.target {
                "/honest" | "/fine" => {
                    conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                }
                "/half" => {
                    conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
                    return;
                }
                "/slow" => {
                    conn.wait_for_close();
                    return;
                }
                _ => return,
            }
        }
    });
    let setup = Gateway::before(&backend).toml("upstream.response_timeout = '200ms'");
    let siege = Siege::of(setup).await;
    for round in 0..6 {
        let mut h2 = H2::connect(&siege.gateway).await;
        let mut streams = Vec::new();
        for n in 0..120 {
            let path = ["/fine", "/half", "/slow", "/gone"][n % 4];
            let path = format!("/cobrowsing{path}");
            let stream = h2.stream();
            let body = n % 3 == 0;
            let method: &[u8] = if body { b"POST" } else { b"GET" };
            let head = block(&request(method, path.as_bytes(), &[]));
            h2.say(&headers(stream, !body, &head)).await;
            streams.push((n, stream, body));
        }
        h2.has_been_heard().await;
        for (n, stream, body) in &streams {
            if n % 5 == round % 5 {
                h2.say(&reset(*stream, 8)).await;
            } else if *body {
                h2.say(&data(*stream, true, b"body")).await;
            }
        }
        if round % 2 == 0 {
            for (n, stream, _) in streams {
                if n % 5 != round % 5 {
                    h2.answer(stream).await;
                }
            }
        }
    }
    until("nothing is kept upstream", || backend.open() <= 2).await;
    siege.cost_at_most("D9 storms", 8 << 10).await;
}

#[tokio::test]
async fn who_takes_nothing_for_too_long_is_given_up() {
    let backend = much();
    let setup = Gateway::before(&backend).toml("timeouts.write_stall = '300ms'");
    let gateway = setup.start().await;
    let largest = (1 << 31) - 1;
    for (window, updates) in [
        (0, Vec::new()),
        (65_535, Vec::new()),
        (largest, window_update(0, largest - 65_535)),
    ] {
        let mut h2 = H2::with(&gateway, &[(4, window)]).await;
        h2.polite = false;
        h2.force(&updates).await;
        let block = block(&get(PAGE, &[]));
        for _ in 0..10 {
            let stream = h2.stream();
            h2.force(&headers(stream, true, &block)).await;
        }
        until("upstream is given up", || {
            backend.requests().len() == 10 && backend.open() == 0
        })
        .await;
        gateway.until_metric("gateway_inflight_requests", 0.0).await;
        backend.forget();
    }
    let mut raw = Raw::connect(&gateway).await;
    let socket = socket2::SockRef::from(raw.stream.get_ref().0);
    socket.set_recv_buffer_size(64 << 10).unwrap();
    raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    until("upstream is given up", || {
        backend.requests().len() == 1 && backend.open() == 0
    })
    .await;
    gateway.until_metric("gateway_inflight_requests", 0.0).await;
}

#[tokio::test]
async fn who_reads_slowly_but_steadily_is_never_given_up() {
    const SIZE: usize = 256 << 10;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n{}",
        "x".repeat(SIZE)
    );
    let backend = Backend::answers(answer);
    let setup = Gateway::before(&backend).toml("timeouts.write_stall = '300ms'");
    let gateway = setup.start().await;
    let mut h2 = H2::with(&gateway, &[(4, 16 << 10)]).await;
    let stream = h2.stream();
    h2.say(&headers(stream, true, &block(&get(PAGE, &[]))))
        .await;
    let mut left = SIZE;
    while left > 0 {
        let came = h2.frame().await.expect("closed while it was read");
        if came.kind == kind::DATA {
            left -= came.payload.len();
            // Time is the subject.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
}

#[tokio::test]
async fn the_fields_of_a_head_are_counted_each_by_itself() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    // `limits.header_count` is 100.
    for (what, block) in [
        ("fields", bomb(b"x", b"y", 150)),
        ("crumbs", bomb(b"cookie", b"a=b", 150)),
        ("fields of their own", {
            let names: Vec<String> = (0..150).map(|n| format!("x-{n}")).collect();
            let fields: Vec<Field> = names.iter().map(|n| (n.as_bytes(), &b"y"[..])).collect();
            block(&get(PAGE, &fields))
        }),
    ] {
        let mut h2 = H2::connect(&gateway).await;
        let stream = h2.stream();
        h2.say(&in_frames(stream, &block)).await;
        let answer = h2.answer(stream).await;
        let refused = matches!(answer.status(), None | Some(431));
        broken.note(
            || format!("D4 {what}"),
            so(refused, || format!("{answer:?}")),
        );
    }
}
