//! Steady load, every answer of it counted: what must go on while something changes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::certificates::{careless, connect_at};
use super::{Backend, Client, KEY, Proto, full, ok, within};

/// Bytes of a large request or answer.
pub const LARGE: usize = 3 << 20;

/// Echoes the messages of sockets, answers requests, `/large` at length.
pub fn backend() -> Backend {
    Backend::new(|conn| {
        while let Some(request) = conn.request() {
            if request.header("upgrade").is_some() {
                conn.upgrade_and_echo_messages(&request);
                return;
            }
            let answer = match &*request.target {
                "/large" => {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
                    [head.as_bytes(), &vec![b'd'; LARGE]].concat()
                }
                _ => ok("{}").into_bytes(),
            };
            if !conn.say(&answer) {
                return;
            }
        }
    })
}

/// What was done and what was lost.
#[derive(Default)]
pub struct Score {
    stop: AtomicBool,
    done: AtomicUsize,
    lost: AtomicUsize,
}

impl Score {
    /// Ends the load.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, what: &str, well: &Result<bool, impl fmt::Debug>) {
        if matches!(well, Ok(true)) {
            self.done.fetch_add(1, Ordering::Relaxed);
        } else {
            eprintln!("lost: {what}: {well:?}");
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} done, {} lost", self.done(), self.lost())
    }
}

async fn client(address: SocketAddr, proto: Proto) -> Client {
    Client::connect_to(address, proto).await.unwrap()
}

/// API requests on one connection, which must not be closed.
pub async fn requests(address: SocketAddr, proto: Proto, score: &Score) {
    let mut client = client(address, proto).await;
    while score.goes_on() {
        let key = [("authorization", KEY)];
        let reply = client.try_call("GET", "/cobrowsing/api/x", &key, "").await;
        score.count("a request", &reply.map(|reply| reply.status == 200));
    }
}

/// A connection for each request; whatever certificate is served.
pub async fn new_connections(address: SocketAddr, score: &Score) {
    let config = careless(None);
    while score.goes_on() {
        let answered = async {
            let stream = connect_at(address, "localhost", Arc::clone(&config)).await?;
            let mut raw = super::Raw::on(stream);
            raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .await;
            std::io::Result::Ok(raw.answer().await.status == 200)
        };
        score.count("a connection", &answered.await);
    }
}

/// Large answers, whole.
pub async fn downloads(address: SocketAddr, proto: Proto, score: &Score) {
    let mut client = client(address, proto).await;
    while score.goes_on() {
        let reply = client.try_call("GET", "/cobrowsing/large", &[], "").await;
        let whole = reply.map(|reply| reply.body.len() == LARGE);
        score.count("a download", &whole);
    }
}

/// Large requests.
pub async fn uploads(address: SocketAddr, proto: Proto, score: &Score) {
    let mut client = client(address, proto).await;
    while score.goes_on() {
        let body = full(vec![b'u'; LARGE]);
        let reply = client.send("POST", "/cobrowsing/up", &[], body).await;
        score.count("an upload", &reply.map(|reply| reply.status() == 200));
    }
}

/// Messages on one WebSocket, each echoed.
pub async fn messages(address: SocketAddr, score: &Score) {
    let stream = connect_at(address, "localhost", careless(None)).await;
    let request = "wss://localhost/cobrowsing/socket".into_client_request();
    let opened = tokio_tungstenite::client_async(request.unwrap(), stream.unwrap());
    let mut socket = within(opened).await.unwrap().0;
    for n in 0.. {
        if !score.goes_on() {
            return;
        }
        let text = format!("message {n} {}", "x".repeat(n % 3000));
        let sent = socket.send(text.clone().into()).await;
        let echo = within(socket.next()).await;
        let well = matches!(&echo, Some(Ok(echo)) if echo.to_text().is_ok_and(|got| got == text));
        score.count("a message", &sent.map(|()| well));
        if !well {
            return;
        }
    }
}
