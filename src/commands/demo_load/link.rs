//! Connections to the gateway: HTTP/1.1, HTTP/2 and WebSockets over TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::Wrong;
use crate::snapshot::Endpoint;

/// What it calls itself.
const AGENT: &str = concat!("cobrowse-gateway-demo-load/", env!("CARGO_PKG_VERSION"));
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer that is read, bytes.
const LARGEST: usize = 8 << 20;

/// The gateway that gets the load.
pub(super) struct Target {
    /// Where it is connected to.
    pub(super) address: SocketAddr,
    authority: Box<str>,
    name: ServerName<'static>,
    base: Box<str>,
    api: Box<str>,
    /// For HTTP/1.1 and for HTTP/2.
    tls: [TlsConnector; 2],
}

/// An open WebSocket.
pub(super) type Socket = WebSocketStream<TlsStream<TcpStream>>;

impl Target {
    /// `api`: the API's path below the base.
    pub(super) fn new(
        url: &Endpoint,
        address: SocketAddr,
        api: &str,
        trusting: &Arc<ClientConfig>,
    ) -> Result<Self, Wrong> {
        let speaking = |protocol: &[u8]| {
            let mut config = ClientConfig::clone(trusting);
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Ok(Self {
            address,
            name: ServerName::try_from(url.host.trim_matches(['[', ']']).to_owned())?,
            api: format!("{}{}", url.base, api.trim_end_matches('/')).into(),
            authority: url.authority.clone(),
            base: url.base.clone(),
            tls: [speaking(b"http/1.1"), speaking(b"h2")],
        })
    }

    /// The public URL.
    pub(super) fn url(&self) -> String {
        format!("https://{}{}/", self.authority, self.base)
    }

    /// A path below the base.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("{}{rest}", self.base)
    }

    /// A path of the API.
    pub(super) fn api(&self, rest: &str) -> String {
        format!("{}{rest}", self.api)
    }

    /// Whether it is there and its certificate is believed.
    pub(super) async fn reach(&self) -> Result<(), Wrong> {
        let opened = self.open(0).await;
        opened.map(drop).map_err(|Wrong(e)| {
            Wrong(format!(
                "{} at {}: {e}: does the gateway run, and is its certificate of --ca?",
                self.url(),
                self.address
            ))
        })
    }

    async fn open(&self, protocol: usize) -> Result<TlsStream<TcpStream>, Wrong> {
        timeout(PATIENCE, async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            Ok(self.tls[protocol]
                .connect(self.name.clone(), stream)
                .await?)
        })
        .await?
    }

    /// A WebSocket to a path; `None`: the answer was another, or there was none.
    pub(super) async fn socket(&self, path: &str, protocol: &'static str) -> Option<Socket> {
        let stream = self.open(0).await.ok()?;
        let url = format!("wss://{}{path}", self.authority);
        let mut request = url.into_client_request().ok()?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, http::HeaderValue::from_static(AGENT));
        if !protocol.is_empty() {
            let value = http::HeaderValue::from_static(protocol);
            headers.insert(http::header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        let opened = Box::pin(tokio_tungstenite::client_async(request, stream));
        timeout(PATIENCE, opened).await.ok()?.ok().map(|(s, _)| s)
    }
}

enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// A connection for requests, opened when it is needed and opened anew when it is gone.
pub(super) struct Line {
    sender: Option<Sender>,
    h2: bool,
}

impl Line {
    pub(super) fn h1() -> Self {
        Self {
            sender: None,
            h2: false,
        }
    }

    pub(super) fn h2() -> Self {
        Self {
            sender: None,
            h2: true,
        }
    }

    /// Sends a request and reads its answer.
    pub(super) async fn call(
        &mut self,
        target: &Target,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Result<(StatusCode, Bytes), Wrong> {
        let mut request = Request::builder().method(method).header(USER_AGENT, AGENT);
        request = if self.h2 {
            request.uri(format!("https://{}{path}", target.authority))
        } else {
            request.uri(path).header(HOST, &*target.authority)
        };
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, key);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::from(body.to_owned()))?;
        let answered = timeout(PATIENCE, self.send(target, request)).await;
        let answered = answered.unwrap_or_else(|late| Err(late.into()));
        if answered.is_err() {
            self.sender = None;
        }
        answered
    }

    async fn send(
        &mut self,
        target: &Target,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Wrong> {
        // A kept connection may have ended meanwhile.
        let kept = match &mut self.sender {
            Some(Sender::H1(sender)) => sender.ready().await.is_ok(),
            Some(Sender::H2(sender)) => sender.ready().await.is_ok(),
            None => false,
        };
        if !kept {
            self.sender = None;
        }
        let sender = match &mut self.sender {
            Some(sender) => sender,
            none => none.insert(connect(target, self.h2).await?),
        };
        let answer = match sender {
            Sender::H1(sender) => sender.send_request(request).await?,
            Sender::H2(sender) => sender.send_request(request).await?,
        };
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await?;
        Ok((status, body.to_bytes()))
    }
}

async fn connect(target: &Target, h2: bool) -> Result<Sender, Wrong> {
    let io = TokioIo::new(target.open(usize::from(h2)).await?);
    Ok(if h2 {
        let (sender, connection) = http2::handshake(Here, io).await?;
        drop(tokio::task::spawn_local(async { drop(connection.await) }));
        Sender::H2(sender)
    } else {
        let (sender, connection) = http1::handshake(io).await?;
        drop(tokio::task::spawn_local(async { drop(connection.await) }));
        Sender::H1(sender)
    })
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}
