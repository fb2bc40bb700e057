//! How the exporter reaches the receiver: HTTP/1.1 by hyper, TLS by our own configuration. A
//! connection carries one batch: there are few, and none can have been closed behind our back.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Settings;

/// More than a receiver has to say.
const LARGEST_ANSWER: usize = 64 << 10;

pub(super) struct Client(pub(super) Settings);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let to = &self.0;
        let sent = async {
            let socket = TcpStream::connect((to.host.as_str(), to.port)).await?;
            let Some((tls, name)) = &to.tls else {
                return exchange(to, socket, request).await;
            };
            let connector = TlsConnector::from(Arc::clone(tls));
            exchange(to, connector.connect(name.clone(), socket).await?, request).await
        };
        let sent = tokio::time::timeout(to.timeout, sent).await;
        let sent = sent.unwrap_or_else(|elapsed| Err(elapsed.into()));
        if let Err(e) = &sent {
            tracing::debug!(error = %e, "the receiver of traces does not take them");
        }
        sent
    }
}

async fn exchange(
    to: &Settings,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    head.uri = Uri::try_from(to.path.as_str())?;
    let host = HeaderValue::from_str(to.authority.as_str())?;
    head.headers.insert(HOST, host);
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut answering = pin!(async {
        let request = Request::from_parts(head, Full::new(body));
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    });
    tokio::select! {
        answer = answering.as_mut() => answer,
        ended = connection.as_mut() => {
            ended?;
            // What came before the end is still to be read.
            answering.await
        }
    }
}
