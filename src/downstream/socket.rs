//! A client's socket, as TLS writes to it.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection to a client, past its handshake.
pub(super) type ClientStream = TlsStream<Socket>;

/// Reads ahead of TLS, which asks for 4 KiB at a time: what is there comes with one call. And writes what
/// lies in one piece as such: a small answer is one record, and `send` takes the kernel less time than
/// `writev`.
pub(super) struct Socket {
    stream: TcpStream,
    /// What was read and TLS has not asked for yet; none while nothing is left.
    ahead: Option<Ahead>,
}

struct Ahead {
    buffer: Box<[u8]>,
    left: Range<usize>,
}

/// One read ahead, bytes.
const AHEAD: usize = 32 << 10;

thread_local! {
    /// A buffer that nobody uses now.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: None,
        }
    }

    /// Hands on what was read ahead.
    fn give(&mut self, mut ahead: Ahead, asked: &mut ReadBuf<'_>) {
        let n = ahead.left.len().min(asked.remaining());
        asked.put_slice(&ahead.buffer[ahead.left.start..ahead.left.start + n]);
        ahead.left.start += n;
        if ahead.left.is_empty() {
            SPARE.set(Some(ahead.buffer));
        } else {
            self.ahead = Some(ahead);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        asked: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(ahead) = self.ahead.take() {
            self.give(ahead, asked);
            return Poll::Ready(Ok(()));
        }
        let mut buffer = SPARE.take().unwrap_or_else(|| vec![0; AHEAD].into());
        let mut read = ReadBuf::new(&mut buffer);
        let came = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        let left = 0..read.filled().len();
        self.give(Ahead { buffer, left }, asked);
        came
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match pieces {
            [piece] => Pin::new(&mut self.stream).poll_write(cx, piece),
            pieces => Pin::new(&mut self.stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_read_ahead_comes_in_order_and_nothing_is_held_at_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..3 * AHEAD + 5).map(|n| (n % 251) as u8).collect();
        let sending = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let receiving = async {
            let (mut came, mut most) = (Vec::new(), 0);
            // As TLS asks, and now and then for less.
            for size in [4096, 4096, 1, 4096, 700].into_iter().cycle() {
                let mut piece = vec![0; size];
                let n = socket.read(&mut piece).await.unwrap();
                if n == 0 {
                    break;
                }
                came.extend_from_slice(&piece[..n]);
                most = most.max(socket.ahead.as_ref().map_or(0, |ahead| ahead.left.len()));
            }
            (came, most)
        };
        let ((), (came, most)) = tokio::join!(sending, receiving);
        assert!(came == sent, "{} of {}", came.len(), sent.len());
        assert!(most > 4096, "{most}");
        assert!(socket.ahead.is_none());
    }
}
