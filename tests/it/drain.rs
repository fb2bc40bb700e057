//! The end of the process, as WebSockets see it: a Close frame between two frames, at a moment of
//! their own, and time to answer it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::real_parts::{Browser, reachable_gateway};
use super::support::frames::{
    BINARY, CONTINUATION, From, PING, Reader, SOCKET, TEXT, close, close_when_told, closed,
    end_well, frame, heard_by, quiet_backend, tunnel,
};
use super::support::{Backend, Gateway, Heir, Raw, tls, until, websocket, within};

const HURRY: &str = "second signal: two seconds left";

/// Asks for a drain, and at once for a short one: every tunnel gets its Close now.
async fn hurry(gateway: &Gateway) {
    gateway.signal(Signal::TERM);
    until("no new connections", || {
        std::net::TcpStream::connect(gateway.listen).is_err()
    })
    .await;
    gateway.signal(Signal::TERM);
    until(HURRY, || !gateway.events(HURRY).is_empty()).await;
}

/// The last line of a gateway that ended as it should, and the lines of its requests.
async fn drained(gateway: Gateway) -> (Value, Vec<Value>) {
    let ended = gateway.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    let lines: Vec<Value> = ended
        .log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let of = |field: &str, word: &str| {
        let lines = lines.iter().filter(|line| line[field] == word);
        lines.cloned().collect::<Vec<_>>()
    };
    (of("message", "drained").remove(0), of("target", "access"))
}

#[tokio::test]
async fn both_sides_of_a_busy_tunnel_get_a_whole_last_frame_then_1001_and_nothing_more() {
    // Messages of three fragments, a Ping among them, as fast as they are taken.
    fn message(from: From, n: usize) -> Vec<u8> {
        let size = [0, 1, 125, 126, 4000, 65_535, 65_536, 200_000][n % 8];
        [
            frame(from, BINARY, false, vec![n as u8; size]),
            frame(from, PING, true, vec![n as u8; n % 126]),
            frame(from, CONTINUATION, false, vec![n as u8; 7]),
            frame(from, CONTINUATION, true, vec![n as u8; size / 2]),
        ]
        .concat()
    }
    let heard = Arc::<Mutex<Vec<Reader>>>::default();
    let keep = Arc::clone(&heard);
    let backend = Backend::upgrades(move |conn| {
        let mut out = conn.stream.try_clone().unwrap();
        let told = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0;
                while !told.load(Ordering::SeqCst) {
                    out.write_all(&message(From::Server, n)).unwrap();
                    n += 1;
                }
                out.write_all(&close(From::Server, 1001)).unwrap();
            });
            let mut all = Reader::default();
            while all.close_code().is_none() {
                let Some(bytes) = conn.read() else { break };
                all.push(&bytes);
            }
            told.store(true, Ordering::SeqCst);
            all.push(&conn.read_to_end());
            keep.lock().unwrap().push(all);
        });
    });
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '5s'")
        .start()
        .await;
    let raw = tunnel(&gateway).await;
    let (mut from, mut to) = tokio::io::split(raw.stream);
    let told = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let told = Arc::clone(&told);
        async move {
            let mut n = 3;
            while !told.load(Ordering::SeqCst) {
                to.write_all(&message(From::Client, n)).await.unwrap();
                n += 1;
            }
            to.write_all(&close(From::Client, 1001)).await.unwrap();
            to.flush().await.unwrap();
            to
        }
    });
    let mut all = Reader::default();
    all.push(&raw.buffer);
    let mut chunk = vec![0; 64 << 10];
    let mut signalled = false;
    loop {
        let n = within(from.read(&mut chunk)).await.expect("a whole end");
        all.push(&chunk[..n]);
        if all.close_code().is_some() {
            told.store(true, Ordering::SeqCst);
        }
        if n == 0 {
            break;
        }
        if all.frames.len() > 100 && !signalled {
            gateway.signal(Signal::TERM);
            signalled = true;
        }
    }
    drop(within(writing).await.unwrap());
    let (last, lines) = drained(gateway).await;
    let back = heard_by(&heard, 1).await.remove(0);
    for (side, heard) in [("client", &all), ("backend", &back)] {
        assert_eq!(heard.rest, b"", "{side}: half a frame");
        assert_eq!(heard.close_code(), Some(1001), "{side}");
        let closes = heard.frames.iter().filter(|f| f.close_code().is_some());
        assert_eq!(closes.count(), 1, "{side}");
        assert!(heard.frames.len() > 10, "{side}");
        for frame in &heard.frames {
            assert_eq!(frame.masked, side == "backend");
            let first = frame.payload.first().copied().unwrap_or_default();
            let whole = frame.payload.iter().all(|byte| *byte == first);
            assert!(whole || frame.close_code().is_some(), "{side}: mixed up");
        }
    }
    assert_eq!(
        (&last["tunnels_closed"], &last["cut"]),
        (&1.into(), &0.into())
    );
    assert_eq!(lines[0]["closed_by"], "drain");
    assert_eq!(lines[0]["code_class"], "going_away");
}

#[tokio::test]
async fn a_frame_in_the_middle_is_finished_first_wherever_it_was_cut() {
    // One tunnel for each place to stop at, of frames with the longest header.
    const CUTS: [usize; 8] = [1, 2, 3, 5, 9, 10, 14, 40_000];
    for who in [From::Server, From::Client] {
        let whole = frame(who, TEXT, false, vec![b'x'; 70_000]);
        let go = Arc::new(AtomicBool::new(false));
        let heard = Arc::<Mutex<Vec<Reader>>>::default();
        let (told, keep, cut) = (Arc::clone(&go), Arc::clone(&heard), whole.clone());
        let backend = Backend::upgrades(move |conn| {
            if who == From::Server {
                let at = CUTS[conn.number - 1];
                conn.say(&cut[..at]);
                while !told.load(Ordering::SeqCst) {
                    conn.pause();
                }
                conn.say(&cut[at..]);
            }
            keep.lock().unwrap().push(close_when_told(conn));
        });
        let gateway = Gateway::before(&backend)
            .toml("drain.budget = '60s'")
            .start()
            .await;
        let mut tunnels = Vec::new();
        for (n, at) in CUTS.into_iter().enumerate() {
            let mut raw = tunnel(&gateway).await;
            if who == From::Server {
                while raw.buffer.len() < at {
                    assert!(raw.fill().await);
                }
            } else {
                raw.say(&whole[..at]).await;
            }
            backend.until_requests(n + 1).await;
            tunnels.push((raw, at));
        }
        if who == From::Client {
            let sent: usize = CUTS.iter().sum();
            let series = "gateway_websocket_bytes_total{direction=\"received\"}";
            gateway.until_metric(series, sent as f64).await;
        }
        hurry(&gateway).await;
        // The other direction is free, and told at once.
        if who == From::Client {
            for (raw, _) in &mut tunnels {
                assert_eq!(raw.take(4).await, close(From::Server, 1001));
            }
        } else {
            for (raw, at) in &tunnels {
                assert_eq!(raw.buffer.len(), *at, "a word in the middle of a frame");
            }
        }
        go.store(true, Ordering::SeqCst);
        for (raw, at) in tunnels {
            if who == From::Server {
                let all = end_well(raw).await;
                assert_eq!(all.frames.len(), 2, "cut at {at}");
                assert_eq!(all.frames[0].payload.len(), 70_000, "cut at {at}");
                assert_eq!(all.close_code(), Some(1001), "cut at {at}");
            } else {
                let mut raw = raw;
                raw.say(&whole[at..]).await;
                raw.say(close(From::Client, 1001)).await;
                assert_eq!(raw.rest().await, b"", "cut at {at}");
            }
        }
        let (last, _) = drained(gateway).await;
        assert_eq!(last["tunnels_closed"], CUTS.len());
        assert_eq!(last["cut"], 0);
        for heard in heard_by(&heard, CUTS.len()).await {
            let frames = if who == From::Client { 2 } else { 1 };
            assert_eq!(
                (heard.frames.len(), heard.close_code()),
                (frames, Some(1001))
            );
            assert_eq!(heard.rest, b"");
        }
    }
}

#[tokio::test]
async fn the_ends_of_many_tunnels_are_spread_over_four_fifths_of_the_budget() {
    const TUNNELS: usize = 40;
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '4s'\nlimits.workers = 2")
        .start()
        .await;
    let mut sockets = Vec::new();
    for _ in 0..TUNNELS {
        sockets.push(websocket(&gateway, SOCKET, &[]).await.unwrap());
    }
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    let ends = sockets.into_iter().map(|mut socket| {
        tokio::spawn(async move {
            let message = within(socket.next()).await.unwrap().unwrap();
            let at = begun.elapsed().as_secs_f64();
            let Message::Close(Some(said)) = message else {
                panic!("{message:?}");
            };
            assert_eq!((said.code, said.reason.as_str()), (CloseCode::Away, ""));
            // The library answers, and the connection ends without an error.
            assert!(within(socket.next()).await.is_none());
            at
        })
    });
    let mut at = Vec::new();
    for end in ends.collect::<Vec<_>>() {
        at.push(end.await.unwrap());
    }
    at.sort_by(f64::total_cmp);
    // 3.2 seconds, a tunnel each 80 ms; the machine may be late.
    let quarter = |n: usize| {
        let from = 0.8 * n as f64;
        at.iter()
            .filter(|at| (from..from + 0.8).contains(*at))
            .count()
    };
    for n in 0..4 {
        assert!((5..=15).contains(&quarter(n)), "quarter {n}: {at:?}");
    }
    assert!(at[TUNNELS - 1] < 3.8, "{at:?}");
    let (last, lines) = drained(gateway).await;
    assert_eq!(last["tunnels_closed"], TUNNELS);
    assert_eq!((&last["tunnels_cut"], &last["cut"]), (&0.into(), &0.into()));
    assert_eq!(last["budget"], "4s");
    assert!(last["took_ms"].as_u64().unwrap() < 4000, "{last}");
    assert_eq!(lines.len(), TUNNELS);
    for line in lines {
        assert_eq!(
            (&line["closed_by"], &line["code_class"]),
            (&"drain".into(), &"going_away".into())
        );
        assert!(line["cut"].is_null());
    }
}

#[tokio::test]
async fn a_second_signal_tells_every_tunnel_at_once() {
    const TUNNELS: usize = 10;
    let (backend, heard) = quiet_backend();
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '5m'")
        .start()
        .await;
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        tunnels.push(tunnel(&gateway).await);
    }
    hurry(&gateway).await;
    let begun = Instant::now();
    for raw in tunnels {
        assert_eq!(end_well(raw).await.close_code(), Some(1001));
    }
    let (last, _) = drained(gateway).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(
        (&last["tunnels_closed"], &last["cut"]),
        (&TUNNELS.into(), &0.into())
    );
    for heard in heard_by(&heard, TUNNELS).await {
        assert_eq!((heard.close_code(), heard.frames.len()), (Some(1001), 1));
    }
}

#[tokio::test]
async fn who_does_not_answer_is_cut_at_the_end_and_counted() {
    let (backend, heard) = quiet_backend();
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '1500ms'")
        .start()
        .await;
    let (polite, mut deaf) = (tunnel(&gateway).await, tunnel(&gateway).await);
    let mut slow = Raw::connect(&gateway).await;
    slow.say("POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhalf")
        .await;
    backend.until_requests(2).await;
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    end_well(polite).await;
    assert_eq!(deaf.take(4).await, close(From::Server, 1001));
    let (last, lines) = drained(gateway).await;
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    assert_eq!(last["tunnels_closed"], 1, "{last}");
    assert_eq!(last["tunnels_cut"], 1, "{last}");
    assert_eq!(last["connections_cut"], 1, "{last}");
    assert_eq!(last["cut"], 2, "{last}");
    // The backend was told all the same, by both.
    for heard in heard_by(&heard, 2).await {
        assert_eq!(heard.close_code(), Some(1001));
    }
    let of = |cut: bool| {
        lines
            .iter()
            .filter(|line| line["status"] == 101 && (line["cut"] == true) == cut)
            .count()
    };
    assert_eq!((of(true), of(false)), (1, 1), "{lines:?}");
    assert_eq!(deaf.rest().await, b"");
}

#[tokio::test]
async fn what_was_cut_is_in_the_metrics() {
    let (backend, _) = quiet_backend();
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '60s'")
        .start()
        .await;
    let (polite, deaf) = (tunnel(&gateway).await, tunnel(&gateway).await);
    hurry(&gateway).await;
    gateway
        .until_metric("gateway_drain_remaining_connections", 2.0)
        .await;
    end_well(polite).await;
    gateway
        .until_metric(&closed("drain", "going_away"), 1.0)
        .await;
    gateway
        .until_metric("gateway_drain_remaining_connections", 1.0)
        .await;
    assert_eq!(
        gateway
            .metric("gateway_drain_cut_total{kind=\"tunnel\"}")
            .await,
        0.0
    );
    assert_eq!(drained(gateway).await.0["tunnels_cut"], 1);
    drop(deaf);
}

#[tokio::test]
async fn where_a_new_process_takes_over_both_sides_are_told_1012_and_may_come_back_at_once() {
    let (backend, heard) = quiet_backend();
    let mut gateway = Gateway::before(&backend).start().await;
    let raw = tunnel(&gateway).await;
    let heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    assert_eq!(end_well(raw).await.close_code(), Some(1012));
    assert_eq!(heard_by(&heard, 1).await[0].close_code(), Some(1012));
    let again = tunnel(&gateway).await;
    assert_eq!(gateway.left().await, Some(0));
    let last = &gateway.events("drained")[0];
    assert_eq!(
        (&last["tunnels_closed"], &last["cut"]),
        (&1.into(), &0.into())
    );
    let lines = gateway.requests();
    assert_eq!(
        (&lines[0]["closed_by"], &lines[0]["code_class"]),
        (&"drain".into(), &"restart".into())
    );
    drop((again, heir));
}

#[tokio::test]
async fn who_speaks_no_frames_is_left_alone_until_the_end() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '3s'")
        .start()
        .await;
    let mut raw = tunnel(&gateway).await;
    raw.say("HELO gateway").await;
    assert_eq!(raw.take(12).await, b"HELO gateway");
    gateway.signal(Signal::TERM);
    until("draining", || !gateway.events("draining").is_empty()).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        raw.say("x").await;
        assert_eq!(raw.take(1).await, b"x");
    }
    assert_eq!(raw.rest().await, b"");
    let (last, lines) = drained(gateway).await;
    assert_eq!(
        (&last["tunnels_closed"], &last["tunnels_cut"]),
        (&0.into(), &1.into())
    );
    assert_eq!(
        (&lines[0]["closed_by"], &lines[0]["code_class"]),
        (&"drain".into(), &"invalid".into())
    );
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_keep_the_backend_from_its_close() {
    let heard = Arc::<Mutex<Vec<Reader>>>::default();
    let keep = Arc::clone(&heard);
    let backend = Backend::upgrades(move |conn| {
        let mut out = conn.stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while out
                    .write_all(&frame(From::Server, BINARY, true, vec![0; 100_000]))
                    .is_ok()
                {}
            });
            let mut all = Reader::default();
            while let Some(bytes) = conn.read() {
                all.push(&bytes);
            }
            keep.lock().unwrap().push(all);
            // The writer is stuck.
            conn.stream.shutdown(std::net::Shutdown::Both).ok();
        });
    });
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '1s'")
        .start()
        .await;
    let raw = tunnel(&gateway).await;
    gateway.signal(Signal::TERM);
    let (last, _) = drained(gateway).await;
    assert_eq!(
        (&last["tunnels_closed"], &last["tunnels_cut"]),
        (&0.into(), &1.into())
    );
    assert_eq!(heard_by(&heard, 1).await[0].close_code(), Some(1001));
    drop(raw);
}

#[tokio::test]
async fn a_side_that_vanishes_when_told_does_not_keep_the_other_from_its_end() {
    let (backend, heard) = quiet_backend();
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '60s'")
        .start()
        .await;
    let mut raw = tunnel(&gateway).await;
    hurry(&gateway).await;
    let begun = Instant::now();
    assert_eq!(raw.take(4).await, close(From::Server, 1001));
    drop(raw);
    let (last, _) = drained(gateway).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(
        (&last["tunnels_closed"], &last["cut"]),
        (&1.into(), &0.into())
    );
    assert_eq!(heard_by(&heard, 1).await[0].close_code(), Some(1001));
    // The other way round.
    let backend = Backend::upgrades(|conn| {
        conn.read();
        conn.reset();
    });
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '60s'")
        .start()
        .await;
    let raw = tunnel(&gateway).await;
    hurry(&gateway).await;
    end_well(raw).await;
    assert_eq!(drained(gateway).await.0["tunnels_closed"], 1);
}

#[tokio::test]
async fn connections_opened_ahead_that_said_nothing_do_not_hold_it_up() {
    let (backend, _) = quiet_backend();
    let gateway = Gateway::before(&backend)
        .toml("drain.budget = '60s'\ntimeouts.header = '60s'")
        .start()
        .await;
    let mut ahead = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let stream = tls(&gateway, &[alpn], rustls::DEFAULT_VERSIONS).await;
        ahead.push(stream.unwrap());
        let proto = if alpn == "h2" { "h2" } else { "h1" };
        let open = format!("gateway_connections{{listener=\"public\",proto=\"{proto}\"}}");
        gateway.until_metric(&open, 1.0).await;
    }
    gateway.signal(Signal::TERM);
    let (last, _) = drained(gateway).await;
    assert_eq!(last["cut"], 0, "{last}");
    assert!(last["took_ms"].as_u64().unwrap() < 5000, "{last}");
}

#[tokio::test]
#[ignore = "needs chromium and chromedriver"]
async fn a_page_in_a_browser_sees_a_clean_close_with_the_code() {
    let (gateway, base) = reachable_gateway().await;
    let browser = Browser::open().await;
    browser.go(&base);
    browser.until_shown("You are online").await;
    let run = |script: &str| browser.tell("/execute/sync", &json!({"script": script, "args": []}));
    run("const url = new URL('visitor/socket', document.baseURI);
        url.protocol = 'wss';
        const socket = new WebSocket(url, ['cobrowse.visitor']);
        socket.onopen = () => { window.opened = true; };
        socket.onclose = (event) => { window.ended = [event.code, event.wasClean, event.reason]; };");
    until("the socket is open", || run("return window.opened") == true).await;
    gateway.signal(Signal::TERM);
    until("a close event", || {
        !run("return window.ended ?? null").is_null()
    })
    .await;
    assert_eq!(run("return window.ended"), json!([1001, true, ""]));
    // That one, and the one of the page itself.
    let (last, _) = drained(gateway).await;
    assert_eq!(
        (&last["tunnels_closed"], &last["cut"]),
        (&2.into(), &0.into()),
        "{last}"
    );
}
