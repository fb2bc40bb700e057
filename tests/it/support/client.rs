//! Clients: HTTP/1.1 and HTTP/2 by hyper, raw bytes over TLS, WebSockets by tungstenite.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

use super::{Gateway, certificate, within};

pub type TlsStreamOf = TlsStream<TcpStream>;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    H1,
    H2,
}

impl Proto {
    pub const BOTH: [Self; 2] = [Self::H1, Self::H2];

    pub fn alpn(self) -> &'static str {
        match self {
            Self::H1 => "http/1.1",
            Self::H2 => "h2",
        }
    }
}

/// A TLS connection that offers these protocols.
pub async fn tls(
    gateway: &Gateway,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStreamOf> {
    tls_to(gateway, "localhost", alpn, versions).await
}

/// As [`tls`], to a server of this name.
pub async fn tls_to(
    gateway: &Gateway,
    name: &str,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStreamOf> {
    let stream = within(TcpStream::connect(gateway.listen)).await?;
    tls_over(stream, name, alpn, versions).await
}

pub(super) async fn tls_over(
    stream: TcpStream,
    name: &str,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStreamOf> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate().0.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    within(async {
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    })
    .await
}

/// The body of a request.
pub type Sent = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body of known length.
pub fn full(bytes: impl Into<Bytes>) -> Sent {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body of frames as they are given.
pub fn stream() -> (tokio::sync::mpsc::Sender<Frame<Bytes>>, Sent) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let frames = futures_util::stream::unfold(receiver, async |mut receiver| {
        let frame = receiver.recv().await?;
        Some((Ok(frame), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

enum Sender {
    H1(http1::SendRequest<Sent>),
    H2(http2::SendRequest<Sent>),
}

/// One connection.
pub struct Client {
    sender: Sender,
    driver: tokio::task::JoinHandle<()>,
}

/// Headers of a request: `(name, value)`.
pub type Requested<'h> = &'h [(&'h str, &'h str)];

impl Client {
    pub async fn connect(gateway: &Gateway, proto: Proto) -> Self {
        Self::over(gateway, proto, rustls::DEFAULT_VERSIONS).await
    }

    /// To where something stands in front of the gateway.
    pub async fn connect_to(address: SocketAddr, proto: Proto) -> std::io::Result<Self> {
        let (alpn, versions) = ([proto.alpn()], rustls::DEFAULT_VERSIONS);
        let stream = within(TcpStream::connect(address)).await?;
        let stream = tls_over(stream, "localhost", &alpn, versions).await?;
        Ok(Self::on(stream, proto).await)
    }

    pub async fn over(
        gateway: &Gateway,
        proto: Proto,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let stream = tls(gateway, &[proto.alpn()], versions).await.unwrap();
        Self::on(stream, proto).await
    }

    /// Over a connection that is there.
    pub async fn over_tcp(stream: TcpStream, proto: Proto) -> Self {
        let stream = tls_over(
            stream,
            "localhost",
            &[proto.alpn()],
            rustls::DEFAULT_VERSIONS,
        )
        .await;
        Self::on(stream.unwrap(), proto).await
    }

    async fn on(stream: TlsStreamOf, proto: Proto) -> Self {
        let alpn = proto.alpn();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        Self::through(stream, proto).await
    }

    /// Through whatever carries its bytes.
    pub async fn through(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        proto: Proto,
    ) -> Self {
        let io = TokioIo::new(stream);
        let (sender, driver) = if proto == Proto::H2 {
            let (sender, connection) = within(http2::handshake(TokioExecutor::new(), io))
                .await
                .unwrap();
            let driver = tokio::spawn(async move { drop(connection.await) });
            (Sender::H2(sender), driver)
        } else {
            let (sender, connection) = within(http1::handshake(io)).await.unwrap();
            let driver = tokio::spawn(async move { drop(connection.await) });
            (Sender::H1(sender), driver)
        };
        Self { sender, driver }
    }

    /// Sends a request; the answer's body is still to be read.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: Requested<'_>,
        body: Sent,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::builder().method(method);
        request = match &self.sender {
            Sender::H1(_) => {
                let named = headers
                    .iter()
                    .any(|(name, _)| name.eq_ignore_ascii_case("host"));
                let request = request.uri(path);
                if named {
                    request
                } else {
                    request.header("host", "localhost")
                }
            }
            Sender::H2(_) => request.uri(format!("https://localhost{path}")),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        within(async {
            match &mut self.sender {
                Sender::H1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::H2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        })
        .await
    }

    /// Sends a request and reads the answer whole; an error when it breaks off.
    pub async fn try_call(
        &mut self,
        method: &str,
        path: &str,
        headers: Requested<'_>,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Reply> {
        let response = self.send(method, path, headers, full(body)).await?;
        Reply::read(response).await
    }

    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: Requested<'_>,
        body: impl Into<Bytes>,
    ) -> Reply {
        let what = format!("{method} {path}");
        self.try_call(method, path, headers, body)
            .await
            .expect(&what)
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        self.call("GET", path, &[], "").await
    }

    /// With the key.
    pub async fn api(&mut self, method: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        self.call(method, path, &[("authorization", super::KEY)], body)
            .await
    }

    /// Whether the connection is open.
    pub fn is_open(&self) -> bool {
        !match &self.sender {
            Sender::H1(sender) => sender.is_closed(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body: within(body.collect()).await?.to_bytes(),
        })
    }

    /// A whole answer, its body up to the end.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = parsed.parse(bytes).unwrap() else {
            return None;
        };
        let mut headers = HeaderMap::new();
        for field in parsed.headers.iter() {
            let name = http::HeaderName::from_bytes(field.name.as_bytes()).unwrap();
            headers.append(name, http::HeaderValue::from_bytes(field.value).unwrap());
        }
        Some(Self {
            status: StatusCode::from_u16(parsed.code.unwrap()).unwrap(),
            headers,
            body: Bytes::copy_from_slice(&bytes[length..]),
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The code of a refusal.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// The only value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().unwrap();
        assert!(values.next().is_none(), "{name} came twice");
        Some(value)
    }
}

/// Raw bytes over TLS.
pub struct Raw {
    pub stream: TlsStreamOf,
    pub buffer: Vec<u8>,
}

impl Raw {
    pub async fn connect(gateway: &Gateway) -> Self {
        let stream = tls(gateway, &["http/1.1"], rustls::DEFAULT_VERSIONS).await;
        Self::on(stream.unwrap())
    }

    /// Over a connection that is there.
    pub fn on(stream: TlsStreamOf) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        within(async {
            self.stream.write_all(bytes.as_ref()).await.unwrap();
            self.stream.flush().await.unwrap();
        })
        .await;
    }

    /// Reads more; `false`: the end, or a broken connection.
    pub async fn fill(&mut self) -> bool {
        let mut chunk = vec![0; 16 << 10];
        let n = within(self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..n]);
        n > 0
    }

    /// The head of the next answer.
    pub async fn head(&mut self) -> Reply {
        loop {
            if let Some(end) = super::find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Reply::parse(&head).unwrap();
            }
            assert!(
                self.fill().await,
                "closed before an answer: {:?}",
                self.buffer
            );
        }
    }

    /// The next answer: interim ones are passed over.
    pub async fn answer(&mut self) -> Reply {
        let mut reply = self.head().await;
        while reply.status.is_informational() && reply.status != 101 {
            reply = self.head().await;
        }
        if reply.header("transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                let line = self.take_line().await;
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                body.extend(self.take(size).await);
                assert_eq!(self.take_line().await, "\r\n");
                if size == 0 {
                    break;
                }
            }
            reply.body = body.into();
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().unwrap();
            reply.body = self.take(length).await.into();
        }
        reply
    }

    pub async fn take(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert!(
                self.fill().await,
                "closed after {} bytes of {n}",
                self.buffer.len()
            );
        }
        self.buffer.drain(..n).collect()
    }

    async fn take_line(&mut self) -> String {
        loop {
            if let Some(end) = super::find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return String::from_utf8(line).unwrap();
            }
            assert!(self.fill().await, "closed in a line");
        }
    }

    /// All that comes until the end.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Sends a request and reads its answer.
    pub async fn call(&mut self, request: impl AsRef<[u8]>) -> Reply {
        self.say(request).await;
        self.answer().await
    }
}

/// A WebSocket to `path`.
pub async fn websocket(
    gateway: &Gateway,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TlsStreamOf>, tungstenite::Error> {
    let stream = tls(gateway, &["http/1.1"], rustls::DEFAULT_VERSIONS)
        .await
        .unwrap();
    let mut request = format!("wss://localhost{path}")
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let opened = within(tokio_tungstenite::client_async(request, stream)).await?;
    Ok(opened.0)
}
