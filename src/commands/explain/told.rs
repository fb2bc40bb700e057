//! What is decided on a request, line by line.
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::config::units::{Rate, Span};
use crate::config::{self, Config, Match, Per};
use crate::names::Route;
use crate::peer::{Peer, network};
use crate::pipeline::{Asked, Way, Witness};
use crate::rate_limit::{Fields, Limited, counts_route};
use crate::reject::Reject;
use crate::snapshot::Snapshot;
use crate::stages::auth::Admitted;
use crate::stages::headers::Framing;
use crate::stages::route::{Place, Routed};
use crate::upstream::Ask;

/// The lines, as they are decided.
pub(super) struct Told<'a> {
    pub(super) config: &'a Config,
    pub(super) snapshot: &'a Snapshot,
    /// Who the limits take it for.
    client: IpAddr,
    route: Route,
    text: String,
}

impl<'a> Told<'a> {
    /// Begins with the peer.
    pub(super) fn new(config: &'a Config, snapshot: &'a Snapshot, peer: &Peer) -> Self {
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

    /// What has been told.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// One line.
    pub(super) fn line(&mut self, what: &str, said: impl std::fmt::Display) {
        // Writing to memory cannot fail.
        let _: std::fmt::Result = writeln!(self.text, "{what:<10} {said}");
    }

    /// The end of a request that is refused.
    pub(super) fn refused(&mut self, reject: Reject) {
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

    /// The end of a request that is sent, and how.
    pub(super) fn forwarded(&mut self, asked: &Asked<'_>, way: &Way<'_>) {
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
