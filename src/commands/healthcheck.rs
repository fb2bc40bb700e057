//! `healthcheck`: for images without a shell.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Wrong;
use crate::config::{ConfigError, Source};

pub(super) fn ask(source: impl FnOnce() -> Result<Source, ConfigError>) -> Result<(), Wrong> {
    let admin = source()?.read()?.admin.listen;
    let ip = match admin.ip() {
        // Listening everywhere is listening here, too.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, admin.port()), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, _)) if head.starts_with("HTTP/1.1 200 ") => Ok(()),
        Some((_, why)) => Err(Wrong(format!("not ready: {}", why.trim()))),
        None => Err(Wrong("no answer from the admin address".into())),
    }
}
