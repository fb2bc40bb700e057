//! The PROXY protocol header, v1 or v2, that a load balancer sends before the client's first byte.
//!
//! It is taken from the socket to its last byte and not one further: what follows is TLS's.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::telemetry::ProxyFailure::{self, Closed, Malformed};

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = ppp::v2::PROTOCOL_PREFIX;
/// Enough to tell the versions apart, and less than the shortest header of either.
const START: usize = V2.len();
/// A line of v1 with its end, as the specification bounds it.
const LONGEST_V1: usize = 107;
/// A header of v2 without its addresses and TLVs.
const FIXED_V2: usize = START + 4;
/// A header of v2 could be 64 KiB long; what is sent has a few hundred bytes of TLVs.
const LONGEST_V2: usize = 4 << 10;
/// v2's word for a connection of the proxy's own, such as a health check.
const LOCAL: u8 = 0x20;

/// Reads the header. `None`: it names nobody, and the connection's own address stands.
pub async fn header(stream: &mut TcpStream) -> Result<Option<SocketAddr>, ProxyFailure> {
    let mut start = [0; START];
    let mut got = 0;
    while got < START {
        got += some(stream.read(&mut start[got..]).await)?;
        let begins = |signature: &[u8]| {
            let common = got.min(signature.len());
            start[..common] == signature[..common]
        };
        if !begins(V1) && !begins(V2) {
            return Err(Malformed);
        }
    }
    if start == V2 {
        version_2(stream, start).await
    } else {
        version_1(stream, start).await
    }
}

async fn version_1(
    stream: &mut TcpStream,
    start: [u8; START],
) -> Result<Option<SocketAddr>, ProxyFailure> {
    let mut line = [0; LONGEST_V1];
    line[..START].copy_from_slice(&start);
    let mut got = START;
    loop {
        let ahead = some(stream.peek(&mut line[got..]).await)?;
        let end = memchr::memchr(b'\n', &line[got..got + ahead]);
        let taken = end.map_or(ahead, |at| at + 1);
        exact(stream, &mut line[got..got + taken]).await?;
        got += taken;
        if end.is_some() {
            break;
        }
        if got == LONGEST_V1 {
            return Err(Malformed);
        }
    }
    let parsed = ppp::v1::Header::try_from(&line[..got]).map_err(|_why| Malformed)?;
    Ok(match parsed.addresses {
        ppp::v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
        ppp::v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
        ppp::v1::Addresses::Unknown => None,
    })
}

async fn version_2(
    stream: &mut TcpStream,
    start: [u8; START],
) -> Result<Option<SocketAddr>, ProxyFailure> {
    let mut header = start.to_vec();
    header.resize(FIXED_V2, 0);
    exact(stream, &mut header[START..]).await?;
    let rest = u16::from_be_bytes([header[FIXED_V2 - 2], header[FIXED_V2 - 1]]);
    let whole = FIXED_V2 + usize::from(rest);
    if whole > LONGEST_V2 {
        return Err(Malformed);
    }
    header.resize(whole, 0);
    exact(stream, &mut header[FIXED_V2..]).await?;
    if header[START] == LOCAL {
        // Whatever else it says is to be skipped, also what would be no address.
        return Ok(None);
    }
    let parsed = ppp::v2::Header::try_from(&*header).map_err(|_why| Malformed)?;
    if parsed.protocol != ppp::v2::Protocol::Stream {
        return Ok(None);
    }
    Ok(match parsed.addresses {
        ppp::v2::Addresses::IPv4(a) => Some((a.source_address, a.source_port).into()),
        ppp::v2::Addresses::IPv6(a) => Some((a.source_address, a.source_port).into()),
        ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_) => None,
    })
}

/// At least one byte.
fn some(read: std::io::Result<usize>) -> Result<usize, ProxyFailure> {
    read.ok().filter(|n| *n > 0).ok_or(Closed)
}

async fn exact(stream: &mut TcpStream, into: &mut [u8]) -> Result<(), ProxyFailure> {
    let read = stream.read_exact(into).await;
    read.map(drop).map_err(|_broken| Closed)
}
