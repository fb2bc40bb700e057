//! Who ends a tunnel, with what word, and how that is counted.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::support::frames::{
    From, Reader, SOCKET, TEXT, close, close_when_told, closed, end_well, frame, heard_by, tunnel,
};
use super::support::{Backend, Gateway, until, websocket, within};

#[tokio::test]
async fn sides_that_close_by_themselves_are_told_nothing_and_counted_by_their_word() {
    const CODES: [(u16, &str); 7] = [
        (1000, "normal"),
        (1001, "going_away"),
        (1012, "restart"),
        (0, "no_status"),
        (1011, "error"),
        (4000, "application"),
        (2000, "other"),
    ];
    let heard = Arc::<Mutex<Vec<Reader>>>::default();
    let keep = Arc::clone(&heard);
    let backend = Backend::upgrades(move |conn| {
        if conn.number > CODES.len() {
            let (code, _) = CODES[conn.number - 1 - CODES.len()];
            conn.say(&close(From::Server, code));
            let mut heard = Reader::default();
            while heard.close_code().is_none() {
                let Some(bytes) = conn.read() else { break };
                heard.push(&bytes);
            }
            keep.lock().unwrap().push(heard);
        } else {
            close_when_told(conn);
        }
    });
    let gateway = Gateway::before(&backend).start().await;
    for (code, class) in CODES {
        let mut raw = tunnel(&gateway).await;
        raw.say(close(From::Client, code)).await;
        assert_eq!(raw.rest().await, close(From::Server, code));
        drop(raw);
        gateway.until_metric(&closed("client", class), 1.0).await;
    }
    for (n, (code, class)) in CODES.into_iter().enumerate() {
        let told = end_well(tunnel(&gateway).await).await;
        let answered = &heard_by(&heard, n + 1).await[n];
        assert_eq!(
            (told.close_code(), answered.close_code()),
            (Some(code), Some(code))
        );
        gateway.until_metric(&closed("upstream", class), 1.0).await;
    }
}

#[tokio::test]
async fn when_both_have_said_close_neither_waits_for_the_other_s_connection() {
    let backend = Backend::upgrades(|conn| {
        let mut heard = Reader::default();
        while heard.close_code().is_none() {
            let Some(bytes) = conn.read() else { break };
            heard.push(&bytes);
        }
        conn.say(&close(From::Server, 1000));
        // A server should close first. This one waits, like the client.
        conn.read_to_end();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = tunnel(&gateway).await;
    raw.say(close(From::Client, 1000)).await;
    assert_eq!(raw.rest().await, close(From::Server, 1000));
    until("closed", || backend.open() == 0).await;
    gateway.until_metric(&closed("client", "normal"), 1.0).await;
}

#[tokio::test]
async fn a_backend_that_dies_without_a_close_cuts_its_clients_as_ever() {
    let backend = Backend::upgrades(|conn| {
        conn.say(&frame(From::Server, TEXT, true, "hello"));
        conn.read();
        conn.reset();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = tunnel(&gateway).await;
    assert_eq!(raw.take(7).await, frame(From::Server, TEXT, true, "hello"));
    raw.say(frame(From::Client, TEXT, true, "die")).await;
    assert_eq!(raw.rest().await, b"");
    gateway.until_metric(&closed("upstream", "none"), 1.0).await;
}

#[tokio::test]
async fn a_tunnel_that_is_too_old_is_told_to_end_however_busy_it_is() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend)
        .toml("websocket.max_age = '600ms'")
        .start()
        .await;
    let begun = Instant::now();
    let mut socket = websocket(&gateway, SOCKET, &[]).await.unwrap();
    let said = loop {
        // Once told, its own words are answered no more.
        socket.send(Message::text("busy")).await.ok();
        match within(socket.next()).await {
            Some(Ok(Message::Close(Some(said)))) => break said,
            Some(Ok(message)) => assert_eq!(message, Message::text("busy")),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said.code, CloseCode::Away);
    assert!(begun.elapsed() >= Duration::from_millis(600));
    assert!(within(socket.next()).await.is_none());
    drop(socket);
    gateway
        .until_metric(&closed("max_age", "going_away"), 1.0)
        .await;
    // Who does not answer is cut after a while, which is no drain.
    let mut deaf = tunnel(&gateway).await;
    assert_eq!(deaf.rest().await, close(From::Server, 1001));
    gateway
        .until_metric(&closed("max_age", "going_away"), 2.0)
        .await;
    assert_eq!(
        gateway
            .metric("gateway_drain_cut_total{kind=\"tunnel\"}")
            .await,
        0.0
    );
    until("closed", || backend.open() == 0).await;
}
