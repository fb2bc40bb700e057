//! The way to the receiver: HTTP/1.1 by hyper, TLS by our own configuration. A connection is kept
//! from one export to the next, and looked at before it is used again: receivers close idle ones.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::Settings;

/// More than a receiver has to say.
const LARGEST_ANSWER: usize = 64 << 10;
/// An idle connection is not used any more after so long: what stands between may have forgotten
/// it, and nobody would tell.
const KEPT: Duration = Duration::from_secs(30);

/// Why the receiver did not take something.
#[derive(Debug)]
pub enum Failure {
    /// There is no connection to it.
    Unreachable(io::Error),
    /// It does not speak TLS, or not with a certificate that is trusted.
    Tls(io::Error),
    /// Nothing in time; whether there was a connection.
    Late {
        /// It accepted a connection and did not answer.
        connected: bool,
    },
    /// It closed the connection, or what it said was no answer of HTTP/1.1.
    NoAnswer(Box<dyn Error + Send + Sync>),
    /// It answered, and not that it took it.
    Refused(StatusCode),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(e) => write!(f, "no connection: {e}"),
            Self::Tls(e) => write!(f, "TLS: {e}"),
            Self::Late { connected: false } => f.write_str("no connection in time"),
            Self::Late { connected: true } => f.write_str("no answer in time"),
            Self::NoAnswer(e) => write!(f, "no answer: {e}"),
            Self::Refused(status) => write!(f, "it answered {}", status.as_u16()),
        }
    }
}

impl Failure {
    /// Whether the same may be taken later (OTLP: "Retryable Response Codes").
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Unreachable(_) | Self::Tls(_) | Self::Late { .. } | Self::NoAnswer(_) => true,
        }
    }
}

/// What it said when it took something.
#[derive(Debug)]
pub struct Taken {
    /// Its answer is a page for people: it is hardly a receiver.
    pub is_page: bool,
}

/// The receiver, with a connection that is kept.
pub(super) struct Client {
    to: Settings,
    kept: Option<Kept>,
}

type Stream = Either<TcpStream, TlsStream<TcpStream>>;

struct Kept {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<Stream>, Full<Bytes>>,
    used: Instant,
}

impl Client {
    /// Without a connection yet.
    pub(super) fn new(to: Settings) -> Self {
        Self { to, kept: None }
    }

    /// Sends an export, which is protobuf; it has `trace.timeout` for all of it.
    pub(super) async fn send(&mut self, export: Vec<u8>) -> Result<Taken, Failure> {
        let deadline = Instant::now() + self.to.timeout;
        let body = self.packed(export).map_err(no_answer)?;
        let kept = self.kept.take().filter(|kept| kept.used.elapsed() < KEPT);
        let silent = |_elapsed| Failure::Late { connected: true };
        if let Some(mut kept) = kept
            && timeout_at(deadline, kept.is_open()).await.map_err(silent)?
        {
            let exchanged = self.exchange(&mut kept, body.clone());
            match timeout_at(deadline, exchanged).await.map_err(silent)? {
                // It was closed at this very moment: a new one tells what is.
                Err(Failure::NoAnswer(_)) => {}
                said => return self.keep(kept, said),
            }
        }
        let mut new = timeout_at(deadline, self.open())
            .await
            .map_err(|_elapsed| Failure::Late { connected: false })??;
        let exchanged = self.exchange(&mut new, body);
        let said = timeout_at(deadline, exchanged).await.map_err(silent)?;
        self.keep(new, said)
    }

    fn packed(&self, export: Vec<u8>) -> io::Result<Bytes> {
        if !self.to.gzip {
            return Ok(export.into());
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&export)?;
        packed.finish().map(Bytes::from)
    }

    async fn open(&self) -> Result<Kept, Failure> {
        let to = &self.to;
        let socket = TcpStream::connect((to.host.as_str(), to.port))
            .await
            .map_err(Failure::Unreachable)?;
        let stream = match &to.tls {
            None => Either::Left(socket),
            Some((tls, name)) => {
                let connector = TlsConnector::from(Arc::clone(tls));
                let stream = connector.connect(name.clone(), socket).await;
                Either::Right(stream.map_err(Failure::Tls)?)
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(no_answer)?;
        Ok(Kept {
            sender,
            connection,
            used: Instant::now(),
        })
    }

    async fn exchange(&self, over: &mut Kept, body: Bytes) -> Result<Taken, Failure> {
        let to = &self.to;
        let mut request = Request::post(&to.path)
            .header(HOST, to.authority.as_str())
            .header(USER_AGENT, USER)
            .header(CONTENT_TYPE, "application/x-protobuf");
        if to.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        for (name, value) in &to.headers {
            request = request.header(name, value.reveal());
        }
        let request = request.body(Full::new(body)).map_err(no_answer)?;
        let sender = &mut over.sender;
        let mut answering = std::pin::pin!(async {
            let (head, body) = sender
                .send_request(request)
                .await
                .map_err(no_answer)?
                .into_parts();
            Limited::new(body, LARGEST_ANSWER)
                .collect()
                .await
                .map_err(Failure::NoAnswer)?;
            Ok(head)
        });
        let head = tokio::select! {
            head = answering.as_mut() => head?,
            ended = &mut over.connection => {
                ended.map_err(no_answer)?;
                // What came before the end is still to be read.
                answering.await?
            }
        };
        if !head.status.is_success() {
            return Err(Failure::Refused(head.status));
        }
        let kind = head.headers.get(CONTENT_TYPE);
        Ok(Taken {
            is_page: kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")),
        })
    }

    /// After an answer: the connection may serve again.
    fn keep(&mut self, mut kept: Kept, said: Result<Taken, Failure>) -> Result<Taken, Failure> {
        if matches!(said, Ok(_) | Err(Failure::Refused(_))) {
            kept.used = Instant::now();
            self.kept = Some(kept);
        }
        said
    }
}

impl Kept {
    /// Whether the receiver has left it open, as far as one can know.
    async fn is_open(&mut self) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        tokio::select! {
            // First of all: nothing else notices that it was closed.
            biased;
            _ended = &mut self.connection => false,
            ready = self.sender.ready() => ready.is_ok(),
        }
    }
}

const USER: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

fn no_answer(e: impl Error + Send + Sync + 'static) -> Failure {
    Failure::NoAnswer(e.into())
}
