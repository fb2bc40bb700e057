//! The head of the request to the backend, written straight from the client's: hop-by-hop headers
//! left out (RFC 9110 section 7.6.1), forwarded headers set.
//!
//! What depends only on the configuration is one ready-made block for each host; a request adds
//! the client's address and its id. Managed headers are left out of what the client sent and then
//! written, so that no `Connection` line can name them away.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::BytesMut;
use http::header::{COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};

/// Ready-made lines for one of our hosts.
#[derive(Clone, Debug)]
pub struct Forwarded {
    authority: Box<[u8]>,
    port: Box<[u8]>,
    /// `Host` and `X-Forwarded-Prefix`.
    always: Box<[u8]>,
    /// The lines above, `X-Forwarded-Host`, `-Proto` and `-Port`.
    all: Box<[u8]>,
}

impl Forwarded {
    /// For requests to `authority` (`host[:port]`), public `port` and base path (empty: the root).
    pub fn new(authority: &str, port: u16, base: &str) -> Self {
        let prefix = if base.is_empty() { "/" } else { base };
        let always = format!("host: {authority}\r\nx-forwarded-prefix: {prefix}\r\n");
        let all = format!(
            "{always}x-forwarded-host: {authority}\r\nx-forwarded-proto: https\r\nx-forwarded-port: {port}\r\n"
        );
        Self {
            authority: authority.as_bytes().into(),
            port: port.to_string().into_bytes().into(),
            always: always.into_bytes().into(),
            all: all.into_bytes().into(),
        }
    }
}

/// What the backend gets as `Authorization`.
#[derive(Clone, Copy)]
pub enum Authorization<'a> {
    /// What the client sent, of a page: the service may have logins of its own.
    Own,
    /// This, or none: of an API request, whose key was judged.
    Judged(Option<&'a [u8]>),
}

/// How the body travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The trace that a request belongs to (W3C Trace Context).
pub struct TraceContext {
    /// `traceparent`, which names our own span.
    pub parent: [u8; 55],
    /// Whether the client's `tracestate` belongs to it.
    pub keeps_state: bool,
}

/// What the head to the backend is made of.
pub struct Outgoing<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// The backend's base path and the rest of the canonical path.
    pub path: [&'a str; 2],
    /// The query, byte for byte.
    pub query: Option<&'a str>,
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// What becomes of `Authorization`.
    pub authorization: Authorization<'a>,
    /// Whether the value of a header is a key of the gateway: such a line of `Authorization` or
    /// `X-Api-Key` is left out. Asked only where there is one.
    pub is_key: &'a dyn Fn(&[u8]) -> bool,
    /// The lines for the host that was asked for.
    pub forwarded: &'a Forwarded,
    /// Address of the peer.
    pub peer: &'a str,
    /// Whether forwarded headers of the peer are believed.
    pub trusted: bool,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// The trace it belongs to; none: what the client says of one is passed on.
    pub trace: Option<&'a TraceContext>,
    /// How the body travels.
    pub framing: Framing,
    /// Whether this is a WebSocket handshake.
    pub upgrade: bool,
    /// Whether the answer must come uncompressed.
    pub identity: bool,
}

impl Outgoing<'_> {
    /// Writes the head, empty line included.
    pub fn write(&self, out: &mut BytesMut) {
        for part in [self.method.as_str(), " ", self.path[0], self.path[1]] {
            out.extend_from_slice(part.as_bytes());
        }
        if let Some(query) = self.query {
            out.extend_from_slice(b"?");
            out.extend_from_slice(query.as_bytes());
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let named = named_by_connection(self.headers);
        let mut cookies = 0;
        for (name, value) in self.headers {
            let passes = match kind(name.as_str()) {
                Kind::EndToEnd => !is_named(&named, name),
                Kind::AcceptEncoding => !self.identity && !is_named(&named, name),
                Kind::HopByHop | Kind::Written => false,
                Kind::Forwarding => self.trusted,
                Kind::TraceParent => self.trace.is_none() && !is_named(&named, name),
                Kind::TraceState => {
                    self.trace.is_none_or(|trace| trace.keeps_state) && !is_named(&named, name)
                }
                Kind::Authorization => {
                    matches!(self.authorization, Authorization::Own)
                        && !(self.is_key)(value.as_bytes())
                }
                Kind::ApiKey => !is_named(&named, name) && !(self.is_key)(value.as_bytes()),
                // HTTP/2 splits cookies into crumbs, HTTP/1.1 has one line (RFC 9113 section 8.2.3).
                Kind::Cookie => {
                    cookies += 1;
                    false
                }
            };
            if passes {
                line(out, name.as_str(), value.as_bytes());
            }
        }
        if cookies > 0 {
            out.extend_from_slice(b"cookie: ");
            for (i, crumb) in self.headers.get_all(COOKIE).iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b"; ");
                }
                out.extend_from_slice(crumb.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        self.write_managed(out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_managed(&self, out: &mut BytesMut) {
        let f = self.forwarded;
        out.extend_from_slice(b"x-forwarded-for: ");
        if self.trusted {
            let mut list = [""; MOST_HOPS];
            let mut kept = 0;
            for (slot, (hop, _)) in list.iter_mut().zip(hops(self.headers)) {
                *slot = hop;
                kept += 1;
            }
            for hop in list[..kept].iter().rev() {
                out.extend_from_slice(hop.as_bytes());
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(self.peer.as_bytes());
        out.extend_from_slice(b"\r\n");
        if self.trusted {
            out.extend_from_slice(&f.always);
            for (name, ours) in [
                ("x-forwarded-host", &*f.authority),
                ("x-forwarded-proto", b"https"),
                ("x-forwarded-port", &*f.port),
            ] {
                if !self.headers.contains_key(name) {
                    line(out, name, ours);
                }
            }
        } else {
            out.extend_from_slice(&f.all);
        }
        if let Authorization::Judged(Some(key)) = self.authorization {
            line(out, "authorization", key);
        }
        line(out, "x-request-id", self.request_id.as_bytes());
        if let Some(trace) = self.trace {
            line(out, "traceparent", &trace.parent);
        }
        match self.framing {
            Framing::None => {}
            Framing::Length(length) => {
                // Writing to memory cannot fail.
                let _: std::fmt::Result = write!(out, "content-length: {length}\r\n");
            }
            Framing::Chunked => line(out, "transfer-encoding", b"chunked"),
        }
        if self.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn line(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

enum Kind {
    EndToEnd,
    HopByHop,
    /// Written by us alone, whoever the peer is.
    Written,
    /// About the way the request came: only a trusted peer's is believed.
    Forwarding,
    AcceptEncoding,
    Cookie,
    TraceParent,
    TraceState,
    Authorization,
    ApiKey,
}

fn kind(name: &str) -> Kind {
    match name {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authorization"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "http2-settings"
        | "expect" => Kind::HopByHop,
        "host" | "content-length" | "x-request-id" | "x-forwarded-for" | "x-forwarded-prefix" => {
            Kind::Written
        }
        "accept-encoding" => Kind::AcceptEncoding,
        "cookie" => Kind::Cookie,
        "traceparent" => Kind::TraceParent,
        "tracestate" => Kind::TraceState,
        "authorization" => Kind::Authorization,
        "x-api-key" => Kind::ApiKey,
        // `Proxy` becomes HTTP_PROXY in CGI-like backends, whoever sent it.
        "proxy" => Kind::HopByHop,
        "forwarded"
        | "via"
        | "x-real-ip"
        | "x-client-ip"
        | "true-client-ip"
        | "x-original-url"
        | "x-original-uri"
        | "x-rewrite-url"
        | "x-http-method-override"
        | "x-http-method"
        | "x-method-override" => Kind::Forwarding,
        name if name.starts_with("x-forwarded-") || name.starts_with("x-envoy-") => {
            Kind::Forwarding
        }
        // Backends that fold `_`, `.` and the like to `-` would see two of a name that must be one.
        name if name.bytes().any(is_folded) => {
            let folded = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            match kind(&folded) {
                Kind::EndToEnd if !is_credential(&folded) => Kind::EndToEnd,
                _ => Kind::HopByHop,
            }
        }
        _ => Kind::EndToEnd,
    }
}

fn is_folded(byte: u8) -> bool {
    !byte.is_ascii_alphanumeric() && byte != b'-'
}

fn is_credential(folded: &str) -> bool {
    matches!(
        folded.trim_matches('-'),
        "authorization" | "x-authorization" | "http-authorization" | "x-api-key"
    )
}

fn is_named(named: &[&str], name: &HeaderName) -> bool {
    named.iter().any(|n| name.as_str().eq_ignore_ascii_case(n))
}

/// What `Connection` lines name beside their own options. End-to-end headers that decide who the
/// caller is cannot be named away.
fn named_by_connection(headers: &HeaderMap) -> Vec<&str> {
    let mut named = Vec::new();
    for value in headers.get_all(http::header::CONNECTION) {
        for token in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            let option = ["", "close", "keep-alive", "upgrade"]
                .iter()
                .any(|o| token.eq_ignore_ascii_case(o));
            let kept = ["authorization", "cookie"]
                .iter()
                .any(|k| token.eq_ignore_ascii_case(k));
            if !option && !kept {
                named.push(token);
            }
        }
    }
    named
}

/// The client's address: from the right of `X-Forwarded-For` past the trusted proxies, when the
/// peer itself is one. `None`: the peer is the client.
pub fn client_behind(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut client = None;
    for (_, address) in hops(headers) {
        client = Some(address);
        if !trusted(address) {
            break;
        }
    }
    client
}

/// Hops of `X-Forwarded-For` that are passed on and walked past.
const MOST_HOPS: usize = 32;

/// The hops of `X-Forwarded-For` as they are written, and their addresses, from the one nearest to
/// us. What is no address ends them: who wrote it did not know its client, so that nobody vouches
/// for what stands beyond. If only the hop itself were left out, the next one, which anybody may
/// have sent, would be taken for the client.
fn hops(headers: &HeaderMap) -> impl Iterator<Item = (&str, IpAddr)> {
    headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // Empty elements of a list mean nothing (RFC 9110 section 5.6.1).
        .filter(|hop| !hop.is_empty())
        .map_while(|hop| {
            let hop = str::from_utf8(hop).ok()?;
            Some((hop, address(hop)?))
        })
        .take(MOST_HOPS)
}

/// The address of a hop: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or
/// `[2001:db8::1]:80`. One with a zone means something on one host alone, and is none.
fn address(hop: &str) -> Option<IpAddr> {
    let (host, port) = match hop.strip_prefix('[') {
        Some(bracketed) => {
            let (inside, after) = bracketed.split_once(']')?;
            (IpAddr::V6(inside.parse().ok()?), after)
        }
        None => match hop.parse() {
            Ok(address) => (address, ""),
            Err(_) => {
                let colon = hop.find(':')?;
                (IpAddr::V4(hop[..colon].parse().ok()?), &hop[colon..])
            }
        },
    };
    let number =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let whole = port.is_empty() || port.strip_prefix(':').is_some_and(number);
    whole.then(|| host.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(
        headers: &[(&str, &str)],
        trusted: bool,
        change: impl FnOnce(&mut Outgoing<'_>),
    ) -> String {
        let map: HeaderMap = headers
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_bytes(n.as_bytes()).unwrap(),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect();
        let forwarded = Forwarded::new("support.acmetech.com", 443, "/cobrowsing");
        let id = HeaderValue::from_static("id1");
        let mut outgoing = Outgoing {
            method: &Method::GET,
            path: ["/up", "/x"],
            query: Some("q=%23tag"),
            headers: &map,
            authorization: Authorization::Own,
            is_key: &|value| value == b"K",
            forwarded: &forwarded,
            peer: "192.0.2.7",
            trusted,
            request_id: &id,
            trace: None,
            framing: Framing::None,
            upgrade: false,
            identity: false,
        };
        change(&mut outgoing);
        let mut out = BytesMut::new();
        outgoing.write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_head_is_written_with_our_own_forwarded_headers() {
        assert_eq!(
            written(
                &[("accept", "*/*"), ("authorization", "Basic x")],
                false,
                |_| {}
            ),
            "GET /up/x?q=%23tag HTTP/1.1\r\naccept: */*\r\nauthorization: Basic x\r\nx-forwarded-for: 192.0.2.7\r\nhost: support.acmetech.com\r\n\
             x-forwarded-prefix: /cobrowsing\r\nx-forwarded-host: support.acmetech.com\r\nx-forwarded-proto: https\r\nx-forwarded-port: 443\r\n\
             x-request-id: id1\r\n\r\n"
        );
    }

    #[test]
    fn what_an_untrusted_peer_says_of_the_way_it_came_is_dropped() {
        let forged = [
            ("x-forwarded-for", "127.0.0.1"),
            ("X-Forwarded-Proto", "http"),
            ("x-forwarded-uri", "/api"),
            ("x_forwarded_for", "127.0.0.1"),
            ("x.forwarded.for", "127.0.0.1"),
            ("x-forwarded_host", "evil"),
            ("x~forwarded~for", "127.0.0.1"),
            ("x|real|ip", "127.0.0.1"),
            ("forwarded", "for=evil"),
            ("x-real-ip", "127.0.0.1"),
            ("x-original-url", "/api"),
            ("x-rewrite-url", "/api"),
            ("x-envoy-original-path", "/api"),
            ("x-http-method-override", "DELETE"),
            ("x-request-id", "evil"),
            ("proxy", "http://evil"),
            ("authorization_", "K"),
            ("x_authorization", "K"),
        ];
        assert_eq!(written(&forged, false, |_| {}), written(&[], false, |_| {}));
    }

    #[test]
    fn a_trusted_peer_is_believed_and_appended_to() {
        let head = written(
            &[
                ("x-forwarded-for", "198.51.100.1"),
                ("x-forwarded-host", "other"),
                ("x-forwarded-prefix", "/evil"),
            ],
            true,
            |_| {},
        );
        let named_away = written(
            &[
                ("connection", "x-forwarded-proto"),
                ("x-forwarded-proto", "http"),
            ],
            true,
            |_| {},
        );
        assert!(
            named_away.contains("x-forwarded-proto: http\r\n"),
            "{named_away}"
        );
        assert!(
            head.contains("x-forwarded-for: 198.51.100.1, 192.0.2.7\r\n"),
            "{head}"
        );
        assert!(
            head.contains("x-forwarded-host: other\r\n")
                && !head.contains("x-forwarded-host: support"),
            "{head}"
        );
        assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
        assert!(
            head.contains("x-forwarded-prefix: /cobrowsing\r\n") && !head.contains("evil"),
            "{head}"
        );
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_are_left_out() {
        let hops = [
            ("connection", "keep-alive, X-Mine"),
            ("connection", "x-second, Authorization, x-forwarded-for"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("proxy-authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("x-mine", "1"),
            ("x-second", "2"),
            ("authorization", "Basic x"),
        ];
        assert_eq!(
            written(&hops, false, |_| {}),
            written(&[("authorization", "Basic x")], false, |_| {})
        );
    }

    #[test]
    fn a_key_stands_where_the_api_has_it_and_nowhere_else() {
        // Who sends none is not asked.
        let plain = written(&[], false, |_| {});
        let page = [("accept", "*/*"), ("cookie", "K"), ("x-other", "K")];
        written(&page, false, |o| o.is_key = &|_| unreachable!());
        for (name, value) in [("authorization", "K"), ("x-api-key", "K")] {
            assert_eq!(written(&[(name, value)], false, |_| {}), plain, "{name}");
        }
        // Line by line.
        let own = [("authorization", "Basic x"), ("x-api-key", "other")];
        let mixed = [own[0], ("authorization", "K"), own[1], ("x-api-key", "K")];
        assert_eq!(written(&mixed, false, |_| {}), written(&own, false, |_| {}));
        assert!(written(&own, false, |_| {}).contains("authorization: Basic x\r\n"));
        // Of the API: what was judged, in place of what was sent.
        let of_api = |key: Option<&'static [u8]>| {
            let sent = [("authorization", "Bearer K"), ("x-api-key", "K")];
            written(&sent, false, |o| {
                o.authorization = Authorization::Judged(key);
            })
        };
        assert_eq!(of_api(None), plain);
        let with = plain.replace("x-request-id", "authorization: own\r\nx-request-id");
        assert_eq!(of_api(Some(b"own")), with);
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        assert!(
            written(&[("cookie", "a=1"), ("cookie", "b=2")], false, |_| {})
                .contains("cookie: a=1; b=2\r\n")
        );
    }

    #[test]
    fn body_and_upgrade_lines_are_ours() {
        let with = |framing| written(&[("content-length", "7")], false, |o| o.framing = framing);
        assert!(!with(Framing::None).contains("content-length"));
        assert!(with(Framing::Length(0)).contains("content-length: 0\r\n"));
        assert!(
            with(Framing::Length(u64::MAX)).contains("content-length: 18446744073709551615\r\n")
        );
        assert!(with(Framing::Chunked).contains("transfer-encoding: chunked\r\n"));
        assert!(
            written(&[("upgrade", "websocket")], false, |o| o.upgrade = true)
                .contains("connection: upgrade\r\nupgrade: websocket\r\n")
        );
    }

    /// What is passed on of these `X-Forwarded-For` lines, and the client behind them; 10.0.0.0/8
    /// is trusted.
    fn passed_on(lines: &[&str]) -> (String, Option<String>) {
        let headers: Vec<_> = lines.iter().map(|v| ("x-forwarded-for", *v)).collect();
        let head = written(&headers, true, |_| {});
        let line = head
            .lines()
            .find_map(|l| l.strip_prefix("x-forwarded-for: "))
            .unwrap();
        let list = line
            .strip_suffix("192.0.2.7")
            .unwrap()
            .trim_end_matches(", ");
        let map: HeaderMap = lines
            .iter()
            .map(|v| (X_FORWARDED_FOR, HeaderValue::from_str(v).unwrap()))
            .collect();
        let trusted = |a: IpAddr| a.to_string().starts_with("10.");
        let client = client_behind(&map, trusted).map(|a| a.to_string());
        (list.into(), client)
    }

    #[test]
    fn the_client_is_the_first_untrusted_hop_from_the_right() {
        for (lines, client) in [
            (
                &["6.6.6.6, 198.51.100.1, 10.0.0.2"][..],
                Some("198.51.100.1"),
            ),
            (&["6.6.6.6", "198.51.100.1, 10.0.0.2"], Some("198.51.100.1")),
            (&["10.0.0.1, 10.0.0.2"], Some("10.0.0.1")),
            (&["nonsense, 10.0.0.2"], Some("10.0.0.2")),
            // Nobody vouches for what stands beyond.
            (&["6.6.6.6, unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&["6.6.6.6, unknown"], None),
            (&["6.6.6.6", "fe80::1%eth0, 10.0.0.2"], Some("10.0.0.2")),
            (&["[2001:db8::1]:443"], Some("2001:db8::1")),
            (&["198.51.100.1:50000, 10.0.0.2:1"], Some("198.51.100.1")),
            (&["::ffff:198.51.100.1"], Some("198.51.100.1")),
            (
                &["6.6.6.6, ::ffff:10.0.0.1, [::ffff:10.0.0.2]:9"],
                Some("6.6.6.6"),
            ),
            (&["unknown"], None),
            (&[", ,"], None),
            (&[], None),
        ] {
            assert_eq!(passed_on(lines).1.as_deref(), client, "{lines:?}");
        }
    }

    #[test]
    fn only_hops_that_are_addresses_are_passed_on() {
        for good in [
            "198.51.100.1",
            "198.51.100.1:0",
            "198.51.100.1:65535",
            "2001:db8::1",
            "[2001:db8::1]",
            "[2001:db8::1]:443",
            "::ffff:198.51.100.1",
            "::",
        ] {
            assert_eq!(passed_on(&[good]).0, good);
        }
        for bad in [
            "unknown",
            "_x",
            "for=\"_x\"",
            "\"198.51.100.1\"",
            "localhost",
            "198.51.100",
            "198.51.100.256",
            "198.051.100.1",
            "198.51.100.1:",
            "198.51.100.1:65536",
            "198.51.100.1:+80",
            "198.51.100.1 80",
            "[198.51.100.1]:80",
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]443",
            "[2001:db8::1]:x",
            "[2001:db8::1]evil",
            "fe80::1%eth0",
            "[fe80::1%1]:80",
            "[fe80::1%eth0]",
            ":80",
            "[]",
            "\u{e9}",
        ] {
            assert_eq!(passed_on(&[bad]), (String::new(), None), "{bad}");
            let list = format!("6.6.6.6, {bad}, 10.0.0.1");
            let expected = ("10.0.0.1".to_owned(), Some("10.0.0.1".to_owned()));
            assert_eq!(passed_on(&[&list]), expected, "{bad}");
        }
    }

    #[test]
    fn lines_become_one_list_in_their_order() {
        for (lines, list) in [
            (
                &["1.1.1.1", "2.2.2.2,3.3.3.3"][..],
                "1.1.1.1, 2.2.2.2, 3.3.3.3",
            ),
            (&[" 1.1.1.1 ,,\t2.2.2.2, "], "1.1.1.1, 2.2.2.2"),
            (&["1.1.1.1, _x", "2.2.2.2"], "2.2.2.2"),
            (&["1.1.1.1", "unknown"], ""),
            (&[""], ""),
            (&[], ""),
        ] {
            assert_eq!(passed_on(lines).0, list, "{lines:?}");
        }
    }

    #[test]
    fn of_a_long_list_the_hops_nearest_to_us_are_kept() {
        let all: Vec<_> = (0..200).map(|n| format!("10.0.0.{n}")).collect();
        let (nearest, client) = (all[168..].join(", "), Some("10.0.0.168".to_owned()));
        assert_eq!(
            passed_on(&[&all.join(",")]),
            (nearest.clone(), client.clone())
        );
        let lines: Vec<_> = all.iter().map(String::as_str).collect();
        assert_eq!(passed_on(&lines), (nearest, client));
        assert_eq!(passed_on(&lines[..32]).0, all[..32].join(", "));
    }
}
