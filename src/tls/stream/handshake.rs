//! The handshake of a client, by rustls.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ContentType, Error, InvalidMessage, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::records::{self, LARGEST_SEALED, Records, SMALLEST_SEALED};
use super::{ClientStream, spare};

/// As much of a handshake as is kept until it makes sense, bytes: a message of the largest, as rustls takes
/// it, and a record.
const MOST: usize = (64 << 10) + LARGEST_SEALED;

/// Shakes hands with a client.
///
/// Errors are those of the socket, and `InvalidData` around rustls' own; of what rustls found the client has
/// been told.
pub async fn accept(mut socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<ClientStream> {
    let mut session = UnbufferedServerConnection::new(config).map_err(super::fault)?;
    let mut came = Vec::new();
    // What rustls has used of it, and what it has seen: a record at a time, as those that follow the last one
    // of the handshake are not for it. What it did with them would be lost with it.
    let mut shown = 0..0;
    let mut wrong = None;
    let mut says = Vec::new();
    loop {
        let (mut waits, mut speaks, mut done) = (false, false, false);
        let seen = &mut came[shown.clone()];
        let UnbufferedStatus { discard, state } = session.process_tls_records(seen);
        match state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                encode(&mut says, |out| message.encode(out));
            }
            Ok(ConnectionState::TransmitTlsData(message)) => {
                message.done();
                speaks = true;
            }
            Ok(ConnectionState::BlockedHandshake) => waits = true,
            Ok(ConnectionState::WriteTraffic(_)) => done = true,
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) => {
                refuse(&mut session, &socket, says);
                return Err(super::fault(e));
            }
        }
        shown.start += discard;
        if let Some(e) = wrong {
            return Err(super::fault(e));
        }
        // TLS 1.3: what we say after the client's last message are tickets. They go with our first data.
        let is_over = !session.is_handshaking()
            && session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if speaks && !is_over {
            socket.write_all(&says).await?;
            says.clear();
        }
        if done {
            break;
        }
        while waits {
            match next(&came[shown.end..]) {
                Ok(Some(length)) => {
                    shown.end += length;
                    waits = false;
                }
                Ok(None) => {
                    came.drain(..shown.start);
                    shown = 0..shown.end - shown.start;
                    read(&mut socket, &mut came).await?;
                }
                // rustls says what is wrong with it, if it finds that, too.
                Err(e) => {
                    shown.end = came.len();
                    wrong = Some(e);
                    waits = false;
                }
            }
        }
    }
    came.drain(..shown.end);
    let h2 = session.alpn_protocol() == Some(b"h2");
    let records = Records::after(session, says).map_err(super::fault)?;
    Ok(ClientStream::new(socket, records, h2, came))
}

/// The length of the record that `came` begins with, if all of it is there.
fn next(came: &[u8]) -> Result<Option<usize>, Error> {
    let Some(length) = records::length(came)? else {
        return Ok(None);
    };
    // Data that was sent too early is passed over, up to so many bytes; what is too short to be sealed would
    // count for nothing, and be looked at again for each record that follows.
    if came[0] == u8::from(ContentType::ApplicationData) && length < SMALLEST_SEALED {
        return Err(Error::DecryptError);
    }
    Ok(Some(length).filter(|length| *length <= came.len()))
}

/// Tells the client what was wrong, if it takes that at once.
fn refuse(session: &mut UnbufferedServerConnection, socket: &TcpStream, mut says: Vec<u8>) {
    // What it has to say comes before anything of what the client said.
    while session.wants_write()
        && let Ok(ConnectionState::EncodeTlsData(mut message)) =
            session.process_tls_records(&mut []).state
    {
        encode(&mut says, |out| message.encode(out));
    }
    drop(socket.try_write(&says));
}

/// Appends what `write` has to say.
fn encode(says: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let before = says.len();
    let wrote = match write(&mut []) {
        Err(EncodeError::InsufficientSize(e)) => {
            says.resize(before + e.required_size, 0);
            write(&mut says[before..]).unwrap_or(0)
        }
        wrote => wrote.unwrap_or(0),
    };
    says.truncate(before + wrote);
}

/// Appends some of what the client sends, up to [`MOST`] in all.
async fn read(socket: &mut TcpStream, came: &mut Vec<u8>) -> io::Result<()> {
    let room = MOST.saturating_sub(came.len()).min(spare::READ);
    if room == 0 {
        return Err(super::fault(
            InvalidMessage::HandshakePayloadTooLarge.into(),
        ));
    }
    poll_fn(|cx| {
        let mut buffer = spare::take();
        let mut read = ReadBuf::new(&mut buffer[..room]);
        let polled = Pin::new(&mut *socket).poll_read(cx, &mut read);
        came.extend_from_slice(read.filled());
        let n = read.filled().len();
        spare::give(buffer);
        ready!(polled)?;
        match n {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
        .into()
    })
    .await
}
