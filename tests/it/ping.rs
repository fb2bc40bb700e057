//! Is the client still there? `websocket.ping`.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use super::support::frames::{
    BINARY, From, PING, PONG, Reader, SOCKET, TEXT, close, close_when_told, closed, frame,
    heard_by, quiet_backend, tunnel,
};
use super::support::{Backend, Gateway, Raw, until, websocket, within};

/// What comes until there are so many frames.
async fn take_frames(raw: &mut Raw, n: usize) -> Reader {
    let mut heard = Reader::default();
    loop {
        heard.push(&std::mem::take(&mut raw.buffer));
        if heard.frames.len() >= n {
            return heard;
        }
        assert!(raw.fill().await, "closed");
    }
}

#[tokio::test]
async fn a_silent_client_is_asked_between_two_frames_and_its_answer_goes_no_further() {
    let heard = Arc::<Mutex<Vec<Reader>>>::default();
    let keep = Arc::clone(&heard);
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let long = frame(From::Server, BINARY, false, vec![7; 70_000]);
    let sent = long.clone();
    let backend = Backend::upgrades(move |conn| {
        conn.say(&sent[..3]);
        wait.lock().unwrap().recv().ok();
        conn.say(&sent[3..]);
        keep.lock().unwrap().push(close_when_told(conn));
    });
    let gateway = Gateway::before(&backend)
        .toml("websocket.ping = '700ms'")
        .start()
        .await;
    let mut raw = tunnel(&gateway).await;
    assert_eq!(raw.take(3).await, long[..3]);
    // No word in the middle of a frame, however long that takes: the client could not answer.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    go.send(()).unwrap();
    raw.buffer.extend_from_slice(&long[..3]);
    let mut asked = take_frames(&mut raw, 2).await.frames;
    assert_eq!((asked[0].payload.len(), asked[0].fin), (70_000, false));
    let ping = asked.remove(1);
    assert_eq!(
        (ping.opcode, ping.masked, ping.payload.len()),
        (PING, false, 8)
    );
    // Its Pong in pieces, with another before it and a message after it.
    let other = frame(From::Client, PONG, true, vec![1; 8]);
    let ours = frame(From::Client, PONG, true, ping.payload.clone());
    let text = frame(From::Client, TEXT, true, "hello");
    raw.say([&other, &ours[..1]].concat()).await;
    let passed = "gateway_websocket_bytes_total{direction=\"received\"}";
    gateway.until_metric(passed, other.len() as f64).await;
    for piece in [&ours[1..2], &ours[2..7], &[&ours[7..], &text].concat()] {
        raw.say(piece).await;
    }
    gateway
        .until_metric(passed, (other.len() + text.len()) as f64)
        .await;
    // And again, when it is silent again.
    for _ in 0..3 {
        let again = take_frames(&mut raw, 1).await.frames.remove(0);
        assert_eq!((again.opcode, &again.payload), (PING, &ping.payload));
        raw.say(frame(From::Client, PONG, true, again.payload))
            .await;
    }
    raw.say(close(From::Client, 1000)).await;
    assert_eq!(raw.rest().await, close(From::Server, 1000));
    drop(raw);
    let heard = heard_by(&heard, 1).await.remove(0).frames;
    let heard: Vec<_> = heard
        .iter()
        .map(|frame| (frame.opcode, frame.payload.len()))
        .collect();
    assert_eq!(heard[..2], [(PONG, 8), (TEXT, 5)]);
    assert_eq!((heard.len(), heard[2].1), (3, 2), "the Close");
    gateway.until_metric(&closed("client", "normal"), 1.0).await;
}

#[tokio::test]
async fn a_client_that_answers_nothing_is_given_up_and_the_backend_told() {
    let (backend, heard) = quiet_backend();
    let gateway = Gateway::before(&backend)
        .toml("websocket.ping = '300ms'")
        .start()
        .await;
    let begun = Instant::now();
    let mut raw = tunnel(&gateway).await;
    let told = take_frames(&mut raw, 2).await.frames;
    assert_eq!((told[0].opcode, told[1].close_code()), (PING, Some(1001)));
    assert!(begun.elapsed() >= Duration::from_millis(600));
    assert_eq!(heard_by(&heard, 1).await[0].close_code(), Some(1001));
    assert_eq!(raw.rest().await, b"");
    gateway
        .until_metric(&closed("half_open", "going_away"), 1.0)
        .await;
    until("the line", || gateway.requests().len() == 1).await;
    assert_eq!(gateway.requests()[0]["closed_by"], "half_open");
}

#[tokio::test]
async fn a_client_that_speaks_is_not_asked() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = Gateway::before(&backend)
        .toml("websocket.ping = '3s'")
        .start()
        .await;
    let mut raw = tunnel(&gateway).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3500) {
        let word = frame(From::Client, TEXT, true, "word");
        raw.say(&word).await;
        assert_eq!(raw.take(word.len()).await, word);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(raw.take(2).await, [0x89, 8], "silent, it is");
}

#[tokio::test]
async fn answers_to_pings_do_not_make_a_tunnel_busy() {
    let (backend, heard) = quiet_backend();
    let gateway = Gateway::before(&backend)
        .toml("websocket.ping = '200ms'\nwebsocket.idle = '1s'")
        .start()
        .await;
    let mut socket = websocket(&gateway, SOCKET, &[]).await.unwrap();
    let mut pings = 0;
    // The library answers.
    while let Some(message) = within(socket.next()).await {
        pings += usize::from(matches!(message, Ok(Message::Ping(_))));
    }
    assert!((1..=4).contains(&pings), "{pings}");
    drop(socket);
    gateway
        .until_metric(&closed("idle", "going_away"), 1.0)
        .await;
    assert_eq!(heard_by(&heard, 1).await[0].frames.len(), 1);
}
