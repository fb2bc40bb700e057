//! `explain`: the whole verdict on a request, by the code that judges requests, without sending
//! anything. Neither keys nor values of the query are shown.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::BytesMut;
use clap::Args;
use http::HeaderValue;

use super::{Wrong, say};
use crate::config::units::{Rate, Span};
use crate::config::{self, Config, ConfigError, ForwardAuthorization, Match, Per, Source};
use crate::downstream::head::{Bounds, Head, Scan};
use crate::names::Route;
use crate::peer::{Peer, network};
use crate::pipeline::{Asked, Verdict, Way, Witness, framing, judge};
use crate::rate_limit::shared::Client;
use crate::rate_limit::{Fields, Limited, counts_route};
use crate::reject::Reject;
use crate::snapshot::Snapshot;
use crate::stages::auth::Admitted;
use crate::stages::headers::{Framing, TraceContext};
use crate::stages::route::{Place, Routed};
use crate::telemetry::Metrics;
use crate::upstream::Ask;

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
                        format!("308 to {url}: links of the page begin there"),
                    );
                }
                Ok(Verdict::Forward(way)) => told.forwarded(&asked, &way),
            }
        }
    }
    say(&told.text)
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
        Ok(Some(head)) => Ok(Ok(head)),
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

/// A query with its names alone: values may be tokens.
fn masked(query: Option<&str>) -> String {
    let Some(query) = query else {
        return String::new();
    };
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) => format!("{name}=***"),
        None => "***".to_owned(),
    });
    format!("?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// What is decided, line by line.
struct Told<'a> {
    config: &'a Config,
    snapshot: &'a Snapshot,
    /// Who the limits take it for.
    client: IpAddr,
    route: Route,
    text: String,
}

impl<'a> Told<'a> {
    fn new(config: &'a Config, snapshot: &'a Snapshot, peer: &Peer) -> Self {
        let mut this = Self {
            config,
            snapshot,
            client: peer.address,
            route: Route::None,
            text: String::new(),
        };
        let trust = if peer.trusted {
            "one of public.trusted_proxies: its X-Forwarded-* are believed"
        } else {
            "the client: its X-Forwarded-* are not believed"
        };
        this.line("peer", format_args!("{}, {trust}", peer.text));
        this
    }

    fn line(&mut self, what: &str, said: impl std::fmt::Display) {
        // Writing to memory cannot fail.
        let _: std::fmt::Result = writeln!(self.text, "{what:<10} {said}");
    }

    fn refused(&mut self, reject: Reject) {
        let (status, code, message) = (reject.status(), reject.code(), reject.message());
        let status = status.as_u16();
        self.line(
            "verdict",
            format_args!("refused: {status} {code}: {message}"),
        );
    }

    /// The policies that are asked, in their order. `admitted`: the key was right.
    fn limits(&mut self, key: Result<&str, Reject>) {
        let network = network(self.client);
        let whose = if network == self.client {
            network.to_string()
        } else {
            format!("{network}/64")
        };
        let mut lines = Vec::new();
        for (policy, holds) in self.snapshot.rate_limits.policies(self.client) {
            let of = match (policy.per, key) {
                (Per::Key, Ok(key)) => format!("with the key {key}"),
                (Per::KeyAndClient, Ok(key)) => format!("with the key {key} of {whose}"),
                (Per::Global, _) => "of all clients".to_owned(),
                (Per::Client, _) | (_, Err(_)) => format!("of {whose}"),
            };
            let bucket = match policy.matches {
                Match::FailedAuth => format!("failed authentications {of}"),
                Match::LookupCode if key.is_ok() && self.route == Route::VisitorsSearch => {
                    format!("searches for a lookup code {of}")
                }
                matches if key.is_ok() && counts_route(matches, self.route) => {
                    format!("requests {of}")
                }
                _ => continue,
            };
            let burst = policy.burst.unwrap_or(policy.rate.count);
            let Rate { count, per } = policy.rate;
            let mut line = format!(
                "{}: {bucket}: {burst} at once, then {count} in {}",
                policy.name,
                Span(per)
            );
            if !holds {
                line += "; not asked: the client is one of its exceptions";
            } else if !policy.enforce {
                line += "; only counted (enforce = false)";
            }
            lines.push(line);
        }
        for line in lines {
            self.line("limit", line);
        }
        self.line("", "These buckets are full: what a running gateway has counted, it alone knows (gateway_ratelimit_total).");
    }

    fn forwarded(&mut self, asked: &Asked<'_>, way: &Way<'_>) {
        let body = match asked.framing {
            Framing::None => "none".to_owned(),
            Framing::Length(length) => format!("{length} bytes"),
            Framing::Chunked => "in chunks".to_owned(),
        };
        let limit = match way.limit {
            Some(limit) => format!(", at most {limit} bytes (api.max_body)"),
            None => String::new(),
        };
        self.line("body", format_args!("{body}{limit}"));
        if way.upgrade.is_some() {
            let config::Websocket {
                idle,
                max_age,
                ping,
            } = &self.config.websocket;
            self.line(
                "websocket",
                format_args!(
                    "a handshake; websocket.idle = {idle}, max_age = {max_age}, ping = {ping}"
                ),
            );
        }
        let [base, rest] = way.path(self.snapshot);
        self.line(
            "upstream",
            format_args!(
                "{} http://{}{base}{rest}{}",
                asked.head.method,
                self.snapshot.upstream.authority,
                masked(asked.head.uri.query())
            ),
        );
        self.place(way.ask(self.snapshot, &asked.head.method));
        self.headers(asked, way);
        if self.config.rewrite.headers {
            let json = if way.rewrites_body {
                "; in a JSON body "
            } else {
                ""
            };
            let fields = if way.rewrites_body {
                self.config.rewrite.json_fields.join(", ")
            } else {
                String::new()
            };
            self.line("answer", format_args!("Location, Content-Location, Refresh, Link and Set-Cookie that lead to the backend are mapped to {}{json}{fields}", self.snapshot.endpoint.url()));
        }
        self.line("verdict", "forwarded");
    }

    /// Its place among the requests in flight to the backend.
    fn place(&mut self, ask: Ask) {
        if ask.spared {
            return self.line("place", "none is taken: its path is one of overload.except");
        }
        let rules = &self.snapshot.upstream.admission;
        let (kind, tenths) = (ask.kind().as_str(), rules.tenths(ask.kind()));
        let most = self.config.limits.requests;
        let fewer = if rules.adaptive {
            ", fewer while answers are slow (overload.adaptive)"
        } else {
            ""
        };
        self.line(
            "place",
            format_args!("until its answer begins, as {kind}: these fill {tenths} of 10 places; limits.requests = {most}{fewer}"),
        );
    }

    /// What becomes of header fields, told from the head as the backend would get it.
    fn headers(&mut self, asked: &Asked<'_>, way: &Way<'_>) {
        let mut out = BytesMut::new();
        let id = HeaderValue::from_static("(a new one)");
        let trace = self.snapshot.trace.as_ref().map(|_on| TraceContext {
            parent: *b"(the sender's trace, or a new one; with a span of ours)",
            keeps_state: asked.head.headers.contains_key("traceparent"),
        });
        way.write(self.snapshot, asked, &id, trace.as_ref(), &mut out);
        let (given, out) = (
            &asked.head.headers,
            String::from_utf8_lossy(&out).into_owned(),
        );
        let (mut passed, mut written) = (Vec::new(), Vec::new());
        for line in out.lines().skip(1) {
            let Some((name, value)) = line.split_once(": ") else {
                continue;
            };
            if is_ours(name) || trace.is_some() && name == "traceparent" {
                written.push(format!("{name}: {value}"));
            } else if given
                .get_all(name)
                .iter()
                .any(|v| v.as_bytes() == value.as_bytes())
            {
                passed.push(name.to_owned());
            } else if name == "authorization"
                && self.config.api.forward_authorization == ForwardAuthorization::Replace
            {
                written.push("authorization: *** (the backend's own)".to_owned());
            } else {
                written.push(format!("{name}: ***"));
            }
        }
        let there = |name: &str| {
            out.lines()
                .any(|line| line.split(": ").next() == Some(name))
        };
        let left_out: Vec<_> = given
            .keys()
            .map(|n| n.as_str())
            .filter(|n| !there(n))
            .collect();
        passed.dedup();
        for (what, names) in [
            ("passed on", passed.join(", ")),
            ("left out", left_out.join(", ")),
        ] {
            if !names.is_empty() {
                self.line(what, names);
            }
        }
        for line in written {
            self.line("written", line);
        }
    }
}

/// Whether the value of such a field is written by the gateway, or says nothing that is secret.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || matches!(
            name,
            "host"
                | "x-request-id"
                | "content-length"
                | "transfer-encoding"
                | "connection"
                | "upgrade"
        )
}

impl Witness for Told<'_> {
    fn routed(&mut self, host: usize, routed: &Routed<'_>) {
        self.route = routed.route;
        let endpoint = &self.snapshot.endpoint;
        match host.checked_sub(1) {
            None => self.line(
                "host",
                format_args!("{}, the base endpoint's", endpoint.host),
            ),
            Some(extra) => {
                let name = self.config.public.extra_hosts.get(extra);
                self.line(
                    "host",
                    format_args!("{}, of public.extra_hosts", name.map_or("?", |n| n)),
                );
            }
        }
        let base = &endpoint.base;
        match &routed.place {
            Place::Below(rest) => self.line("path", format_args!("{base}{rest} (canonical)")),
            Place::Bare => self.line(
                "path",
                format_args!("{base}, the base path without its final slash"),
            ),
            Place::Outside => self.line("path", format_args!("outside the base path {base}/")),
        }
        let needs = if routed.route.is_api() {
            "of the API: needs a key"
        } else {
            "no part of the API: needs no key"
        };
        self.line("route", format_args!("{}, {needs}", routed.route.as_str()));
    }

    fn client(&mut self, client: Option<IpAddr>) {
        match client {
            Some(client) => {
                self.client = client;
                self.line(
                    "client",
                    format_args!("{client}, as the peer's X-Forwarded-For says"),
                );
            }
            None => self.line("client", "the peer: it names nobody in X-Forwarded-For"),
        }
    }

    fn admitted(&mut self, _: Option<Fields>) {}

    fn limited(&mut self, limited: Limited) -> Reject {
        limited.reject()
    }

    fn authorized(&mut self, snapshot: &Snapshot, checked: &Result<Admitted<'_>, Reject>) {
        let key = checked
            .as_ref()
            .map(|admitted| &**snapshot.keys.name(admitted.key));
        match key {
            Ok(name) => self.line("key", format_args!("right: the one named {name}")),
            Err(reject) => self.line("key", reject.message()),
        }
        self.limits(key.map_err(|reject| *reject));
    }
}
