//! The body of an answer: decoded as it arrives, no byte copied; when it ends the connection
//! goes back to the pool.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Failure;
use super::connection::{Connection, Pool};
use super::head::Framing;
use super::upload::Outgoing;
use crate::framing::{Decoded, Decoder};

/// Why a body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(&'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// A body on its way from the backend.
pub struct Download {
    /// Gone once the body has ended.
    connection: Option<Box<Connection>>,
    decoder: Decoder,
    /// What is still to be sent when the backend answered early.
    outgoing: Option<Box<Outgoing>>,
    keep: Option<(Rc<Pool>, usize)>,
    /// Longest silence of the backend.
    silence: Duration,
    /// Since when it is waited for.
    waits: Option<Instant>,
}

impl Download {
    /// `keep`: where the connection goes and how many are kept there, if it may be used again.
    pub(super) fn new(
        connection: Box<Connection>,
        framing: Framing,
        outgoing: Option<Box<Outgoing>>,
        keep: Option<(Rc<Pool>, usize)>,
        silence: Duration,
    ) -> Self {
        let decoder = match framing {
            Framing::None => Decoder::Done,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::chunked(),
            Framing::UntilClose => Decoder::UntilClose,
        };
        let mut this = Self {
            connection: Some(connection),
            decoder,
            outgoing,
            keep,
            silence,
            waits: None,
        };
        this.release_at_end();
        this
    }

    /// The connection of an answer that switched protocols.
    pub fn into_connection(mut self) -> Option<Box<Connection>> {
        self.keep = None;
        self.connection.take()
    }

    /// At the end of the body the connection is kept, unless something is left on either side.
    fn release_at_end(&mut self) {
        if !self.decoder.is_done() {
            return;
        }
        let Some((pool, size)) = self.keep.take() else {
            return;
        };
        if let Some(connection) = self
            .connection
            .take_if(|c| c.buffer.is_empty() && self.outgoing.is_none())
        {
            pool.put(connection, size);
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        loop {
            let Some(connection) = &mut this.connection else {
                return Poll::Ready(None);
            };
            if let Some(outgoing) = &mut this.outgoing {
                match outgoing.poll_send(cx, &mut connection.stream) {
                    Poll::Ready(Ok(())) => this.outgoing = None,
                    // The answer may be whole although the rest of the request is not wanted.
                    Poll::Ready(Err(Failure::Broken(_))) => {
                        this.outgoing = None;
                        this.keep = None;
                    }
                    // The backend waits for a rest that will not come.
                    Poll::Ready(Err(_)) => {
                        this.connection = None;
                        return Poll::Ready(Some(Err(Broken("the request's body broke off"))));
                    }
                    Poll::Pending => {}
                }
            }
            match this.decoder.decode(&mut connection.buffer) {
                Ok(Decoded::Data(data)) => {
                    connection.hand_over(data.len());
                    this.release_at_end();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::End) => {
                    this.release_at_end();
                    this.connection = None;
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(how) => {
                    this.connection = None;
                    return Poll::Ready(Some(Err(Broken(how))));
                }
            }
            let read = match connection.poll_fill(cx) {
                Poll::Ready(read) => read,
                Poll::Pending => {
                    // The clock only for answers that let us wait.
                    let since = *this.waits.get_or_insert_with(Instant::now);
                    ready!(connection.alarm.poll(cx, since + this.silence));
                    this.connection = None;
                    return Poll::Ready(Some(Err(Broken(
                        "the backend fell silent within its answer",
                    ))));
                }
            };
            this.waits = None;
            if !matches!(read, Ok(1..)) {
                let whole = matches!((&this.decoder, read), (Decoder::UntilClose, Ok(0)));
                this.connection = None;
                this.keep = None;
                return Poll::Ready(
                    (!whole).then_some(Err(Broken("the backend broke off its answer"))),
                );
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder
            .left()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
