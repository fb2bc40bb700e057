//! `explain`: the whole verdict on a request, by the code that judges requests, without sending
//! anything. Neither keys nor values of the query are shown.

mod fields;
mod told;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::BytesMut;
use clap::Args;
use told::Told;

use super::{Wrong, say};
use crate::config::{ConfigError, Source};
use crate::downstream::head::{Bounds, Head, Scan};
use crate::peer::Peer;
use crate::pipeline::{Asked, Verdict, framing, judge};
use crate::rate_limit::shared::Client;
use crate::reject::Reject;
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// E.g. GET.
    method: String,
    /// The public URL, or its path; then the host is the base endpoint's.
    #[arg(value_name = "URL-OR-PATH")]
    target: String,
    /// A header field, `Name: value`; as often as wanted. The gateway's key goes here, too, and is
    /// not shown.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// Address the request comes from.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
}

/// Explains; exit code 0 whether or not the request would be refused.
pub(super) fn explain(
    arguments: &Arguments,
    source: impl FnOnce() -> Result<Source, ConfigError>,
) -> Result<(), Wrong> {
    let config = source()?.read()?;
    // The same compile as at start; its buckets are its own, so that no token of anybody's is taken.
    let snapshot = Snapshot::compile(&config, &Metrics::new()?, None)?;
    let peer = Peer::new(
        SocketAddr::new(arguments.client, 0),
        &snapshot.trusted_proxies,
    );
    let mut told = Told::new(&config, &snapshot, &peer);
    match read(arguments, &snapshot)? {
        Err(reject) => told.refused(reject),
        Ok(Head {
            flaw: Some(reject), ..
        }) => told.refused(reject),
        Ok(head) => {
            let asked = Asked {
                head: &head.request,
                framing: framing(&head.request.headers, head.body.left(), head.body.is_done()),
                ahead: false,
                peer: &peer,
            };
            let store = Client::default();
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            match runtime.block_on(judge(&snapshot, &asked, &store, &mut told)) {
                Err(reject) => told.refused(reject),
                Ok(Verdict::AddSlash) => {
                    let url = snapshot.endpoint.url();
                    told.line(
                        "verdict",
                        format_args!("308 to {url}: links of the page begin there"),
                    );
                }
                Ok(Verdict::Forward(way)) => told.forwarded(&asked, &way),
            }
        }
    }
    say(told.text())
}

/// Reads the request as if it had come over HTTP/1.1.
fn read(arguments: &Arguments, snapshot: &Snapshot) -> Result<Result<Head, Reject>, Wrong> {
    let (authority, target) = taken_apart(&arguments.target);
    let authority = authority.unwrap_or(&snapshot.endpoint.authority);
    let mut lines = vec![format!("{} {target} HTTP/1.1", arguments.method)];
    let is_host = |field: &String| {
        let name = field.split(':').next().unwrap_or_default();
        name.eq_ignore_ascii_case("host")
    };
    if !arguments.headers.iter().any(is_host) {
        lines.push(format!("host: {authority}"));
    }
    lines.extend(arguments.headers.iter().cloned());
    if lines.iter().any(|line| line.contains(['\r', '\n'])) {
        return Err(Wrong(
            "a method, a target and a header field are one line each".into(),
        ));
    }
    let text = lines.join("\r\n") + "\r\n\r\n";
    let limits = &snapshot.connection_limits;
    let bounds = Bounds {
        bytes: limits.header_bytes,
        fields: limits.header_count,
    };
    match Scan::default().take(&mut BytesMut::from(text.as_bytes()), bounds) {
        Ok(Some(bytes)) => Ok(Head::parse(&bytes, bounds)),
        Ok(None) => Err(Wrong("this is no whole request".into())),
        Err(reject) => Ok(Err(reject)),
    }
}

/// Authority, if there is one, and what follows it. Who has a name and a password in a URL does not
/// send them so.
fn taken_apart(target: &str) -> (Option<&str>, &str) {
    let Some(("https" | "http", rest)) = target.split_once("://") else {
        return (None, target);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit('@').next().unwrap_or_default();
    (Some(authority), if path.is_empty() { "/" } else { path })
}
