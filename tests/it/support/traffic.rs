//! Clients that keep a gateway busy and count what becomes of everything they send.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::client::tls_over;
use super::{Client, Proto, TlsStreamOf, until};

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Requests that left the client.
    pub sent: usize,
    /// Answers with 200, whole.
    pub answered: usize,
    /// Connections opened.
    pub connections: usize,
    /// Connections that could not be opened or whose handshake failed.
    pub refused: Vec<String>,
    /// Requests without such an answer.
    pub failed: Vec<String>,
    /// WebSockets opened.
    pub sockets: usize,
    /// Messages that came back through them.
    pub messages: usize,
    /// How WebSockets ended, and how many did so: a close code, or "cut".
    pub closes: BTreeMap<String, usize>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "requests sent {}, answered {}, failed {}; connections opened {}, refused {}; WebSockets opened {}, messages echoed {}, ended {:?}",
            self.sent,
            self.answered,
            self.failed.len(),
            self.connections,
            self.refused.len(),
            self.sockets,
            self.messages,
            self.closes,
        )
    }
}

impl Figures {
    /// Nothing was refused and nothing was lost; sockets ended with this close code alone.
    pub fn assert_nothing_lost(&self, close: &str) {
        assert_eq!(self.closes.keys().collect::<Vec<_>>(), [close]);
        assert_eq!(self.refused, Vec::<String>::new());
        assert_eq!(self.failed, Vec::<String>::new());
        assert_eq!(self.sent, self.answered);
    }
}

#[derive(Default)]
struct Shared {
    figures: Mutex<Figures>,
    stop: AtomicBool,
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap());
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }
}

/// Running clients.
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts clients: of requests over kept and over new connections, HTTP/1.1 and HTTP/2, and of
    /// WebSockets with traffic. The backend is to answer and to echo.
    pub fn on(address: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let mut clients = Vec::new();
        for _ in 0..4 {
            for proto in Proto::BOTH {
                clients.push(tokio::spawn(kept(address, proto, Arc::clone(&shared))));
            }
            clients.push(tokio::spawn(socket(address, Arc::clone(&shared))));
        }
        for proto in Proto::BOTH {
            clients.push(tokio::spawn(new(address, proto, Arc::clone(&shared))));
        }
        Self { shared, clients }
    }

    /// So far.
    pub fn figures(&self) -> Figures {
        self.shared.figures.lock().unwrap().clone()
    }

    /// Waits until so many more requests were answered, and a message came through a socket.
    pub async fn goes_on(&self, answers: usize) {
        let before = self.figures();
        until("more answers", || {
            let now = self.figures();
            now.answered >= before.answered + answers && now.messages > before.messages
        })
        .await;
    }

    /// Ends it when everything under way is through.
    pub async fn stop(self) -> Figures {
        self.shared.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        self.shared.figures.lock().unwrap().clone()
    }
}

async fn connect(address: SocketAddr, proto: Proto, shared: &Shared) -> Option<Client> {
    match Client::connect_to(address, proto).await {
        Ok(client) => {
            shared.note(|f| f.connections += 1);
            Some(client)
        }
        Err(e) => {
            shared.note(|f| f.refused.push(e.to_string()));
            None
        }
    }
}

/// One request; whether the connection may serve another.
async fn request(client: &mut Client, shared: &Shared) -> bool {
    shared.note(|f| f.sent += 1);
    match client.try_call("GET", "/cobrowsing/x", &[], "").await {
        Ok(reply) if reply.status == 200 => {
            shared.note(|f| f.answered += 1);
            client.is_open()
        }
        Ok(reply) => {
            shared.note(|f| f.failed.push(reply.status.to_string()));
            false
        }
        // Not one byte of it was sent: the connection had been ended before.
        Err(e) if e.is_canceled() || e.is_closed() => {
            shared.note(|f| f.sent -= 1);
            false
        }
        Err(e) => {
            let why = std::error::Error::source(&e).map(ToString::to_string);
            shared.note(|f| f.failed.push(format!("{e}: {}", why.unwrap_or_default())));
            false
        }
    }
}

async fn kept(address: SocketAddr, proto: Proto, shared: Arc<Shared>) {
    let mut client = None;
    while shared.goes_on() {
        if client.is_none() {
            client = connect(address, proto, &shared).await;
        }
        let Some(open) = &mut client else { continue };
        if !request(open, &shared).await {
            client = None;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn new(address: SocketAddr, proto: Proto, shared: Arc<Shared>) {
    while shared.goes_on() {
        if let Some(mut client) = connect(address, proto, &shared).await {
            request(&mut client, &shared).await;
        }
    }
}

async fn socket(address: SocketAddr, shared: Arc<Shared>) {
    let mut open = None;
    while shared.goes_on() {
        let Some(socket) = &mut open else {
            match upgrade(address).await {
                Ok(socket) => {
                    shared.note(|f| f.sockets += 1);
                    open = Some(socket);
                }
                Err(e) => shared.note(|f| f.refused.push(format!("WebSocket: {e}"))),
            }
            continue;
        };
        let end = match socket.send(Message::text("there and back")).await {
            Err(_) => Some("cut".to_owned()),
            Ok(()) => match super::within(socket.next()).await {
                Some(Ok(Message::Close(frame))) => Some(frame.map_or_else(
                    || "no code".into(),
                    |frame| u16::from(frame.code).to_string(),
                )),
                Some(Ok(_)) => None,
                Some(Err(_)) | None => Some("cut".to_owned()),
            },
        };
        match end {
            None => shared.note(|f| f.messages += 1),
            Some(how) => {
                // The answer to a Close.
                socket.close(None).await.ok();
                open = None;
                shared.note(|f| *f.closes.entry(how).or_default() += 1);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn upgrade(address: SocketAddr) -> Result<WebSocketStream<TlsStreamOf>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let stream = tls_over(stream, "localhost", &["http/1.1"], rustls::DEFAULT_VERSIONS);
    let stream = stream.await.map_err(|e| e.to_string())?;
    let request = "wss://localhost/cobrowsing/socket".into_client_request();
    let opened = tokio_tungstenite::client_async(request.unwrap(), stream);
    let opened = super::within(opened).await.map_err(|e| e.to_string())?;
    Ok(opened.0)
}
