//! One canonical path: what is matched, authorised and forwarded is the same string.
//!
//! Escapes of unreserved characters are decoded once and dot segments resolved (RFC 3986 sections
//! 5.2.4 and 6.2.2); empty segments are merged. What could mean one thing here and another at the
//! backend is refused. Whether a path is the API is decided as a superset of what a lenient
//! backend could take for it.

use std::borrow::Cow;

use http::Uri;
use http::uri::Authority;

use crate::names::Route;
use crate::reject::Reject;

/// The base path, the API's place in it, and the hosts that are ours.
#[derive(Clone, Debug)]
pub struct Routes {
    /// `""` for the root, else `/a/b` without final slash.
    public_base: Box<str>,
    /// Segments that lead to the API, those of the base path first.
    api: Box<[Box<str>]>,
    /// How many of them are the base path's.
    base_segments: usize,
    /// Length of the API's path below the base, e.g. of `/api`.
    api_length: usize,
    /// Host names in lower case; the base endpoint's first.
    hosts: Box<[Box<str>]>,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Place<'p> {
    /// Below the base path: the rest, with its leading slash.
    Below(Cow<'p, str>),
    /// The base path itself, without final slash.
    Bare,
    /// Somewhere else.
    Outside,
}

/// What a path is.
#[derive(Debug, PartialEq, Eq)]
pub struct Routed<'p> {
    /// What it is for.
    pub route: Route,
    /// Where it leads.
    pub place: Place<'p>,
}

impl Routes {
    /// `public_base` and `api` as paths (`/cobrowsing`, `/api`; the base may be empty), `hosts`
    /// without ports.
    pub fn new(public_base: &str, api: &str, hosts: impl IntoIterator<Item = String>) -> Self {
        let segments = |path: &str| {
            path.split('/')
                .filter(|s| !s.is_empty())
                .map(Box::from)
                .collect::<Vec<_>>()
        };
        let mut to_api = segments(public_base);
        let base_segments = to_api.len();
        to_api.extend(segments(api));
        Self {
            public_base: public_base.trim_end_matches('/').into(),
            api: to_api.into(),
            base_segments,
            api_length: api.trim_end_matches('/').len(),
            hosts: hosts
                .into_iter()
                .map(|h| h.to_ascii_lowercase().into())
                .collect(),
        }
    }

    /// Which of our hosts a request is for. `host` are the values of the `Host` lines (HTTP/1.1,
    /// RFC 9112 section 3.2); an authority in the target counts more.
    pub fn host<'h>(
        &self,
        uri: &'h Uri,
        mut host: impl Iterator<Item = &'h [u8]>,
    ) -> Result<usize, Reject> {
        let line = host.next();
        if host.next().is_some() {
            return Err(Reject::BadRequest("Send exactly one Host header."));
        }
        let line = match line {
            None => None,
            Some(line) => Some(host_of(std::str::from_utf8(line).ok().unwrap_or_default())?),
        };
        let name = match (uri.authority().map(Authority::as_str), line) {
            (None, None) => return Err(Reject::BadRequest("Send a Host header.")),
            (None, Some(line)) => line,
            (Some(authority), line) => {
                let name = host_of(authority)?;
                if line.is_some_and(|line| !line.eq_ignore_ascii_case(name)) {
                    return Err(Reject::BadRequest(
                        "The Host header contradicts the request's target.",
                    ));
                }
                name
            }
        };
        self.hosts
            .iter()
            .position(|ours| name.eq_ignore_ascii_case(ours))
            .ok_or(Reject::MisdirectedRequest)
    }

    /// What a path is for, as far as that can be told.
    pub fn route(&self, path: &str) -> Route {
        self.judge(path).map_or(Route::None, |routed| routed.route)
    }

    /// Judges the path of a request's target.
    pub fn judge<'p>(&self, path: &'p str) -> Result<Routed<'p>, Reject> {
        let path = canonical(path)?;
        let api = self.is_api(&path);
        let Some(rest) = path.strip_prefix(&*self.public_base) else {
            return Ok(Routed {
                route: if api { Route::ApiOther } else { Route::None },
                place: Place::Outside,
            });
        };
        let route = if api {
            self.api_route(rest)
        } else {
            page_route(rest)
        };
        let place = match rest.as_bytes().first() {
            Some(b'/') => Place::Below(after(path, self.public_base.len())),
            None => Place::Bare,
            Some(_) => {
                return Ok(Routed {
                    route: if api { Route::ApiOther } else { Route::None },
                    place: Place::Outside,
                });
            }
        };
        Ok(Routed { route, place })
    }

    /// The base path may stand there more than once: stripped of the first, the rest could be the
    /// API of a backend that also answers below its own public path.
    fn is_api(&self, path: &str) -> bool {
        let (base, api) = self.api.split_at(self.base_segments);
        let mut rest = path.split('/').skip(1);
        if !starts_leniently(&mut rest, base) {
            return false;
        }
        loop {
            if starts_leniently(&mut rest.clone(), api) {
                return true;
            }
            if base.is_empty() || !starts_leniently(&mut rest, base) {
                return false;
            }
        }
    }

    /// The template of an API path; `rest` begins below the base.
    fn api_route(&self, rest: &str) -> Route {
        let Some(rest) = rest.get(self.api_length..) else {
            return Route::ApiOther;
        };
        let Some(rest) = rest.strip_prefix("/visitors/") else {
            return Route::ApiOther;
        };
        match rest {
            "list/latest" => Route::VisitorsLatest,
            "list/search" => Route::VisitorsSearch,
            _ => match rest.split_once('/') {
                None if !rest.is_empty() && rest != "list" => Route::Visitor,
                Some((id, "watch_url")) if !id.is_empty() => Route::WatchUrl,
                _ => Route::ApiOther,
            },
        }
    }
}

/// Takes `wanted` from the front of `segments`, as a lenient server would; `false`: it is not there.
fn starts_leniently<'s>(segments: &mut impl Iterator<Item = &'s str>, wanted: &[Box<str>]) -> bool {
    wanted
        .iter()
        .all(|wanted| segments.next().is_some_and(|got| is_leniently(got, wanted)))
}

fn page_route(rest: &str) -> Route {
    match rest.strip_prefix("/screen") {
        Some("") => Route::Screen,
        Some(below) if below.starts_with('/') => Route::Screen,
        _ => Route::Page,
    }
}

fn after(path: Cow<'_, str>, at: usize) -> Cow<'_, str> {
    match path {
        Cow::Borrowed(path) => Cow::Borrowed(&path[at..]),
        Cow::Owned(mut path) => {
            path.drain(..at);
            Cow::Owned(path)
        }
    }
}

/// The host of an authority, without port.
fn host_of(authority: &str) -> Result<&str, Reject> {
    const BAD: Reject = Reject::BadRequest("The Host header is malformed.");
    let (host, port) = match authority.rfind(':') {
        // A colon inside the brackets of an IPv6 address is no port's.
        Some(at) if !authority[at..].contains(']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, ""),
    };
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':');
    if host.is_empty() || !host.bytes().all(plain) || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD);
    }
    Ok(host)
}

/// Whether a lenient server could take the canonical segment `got` for `wanted`: it may fold case,
/// decode once more, cut path parameters, or ignore trailing dots and spaces.
fn is_leniently(got: &str, wanted: &str) -> bool {
    if got.eq_ignore_ascii_case(wanted) {
        return true;
    }
    if got.len() <= wanted.len() {
        return false;
    }
    let mut decoded = Vec::with_capacity(got.len());
    let mut bytes = got.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => decoded.push(high << 4 | low),
                _ => return false,
            },
            byte => decoded.push(byte),
        }
    }
    let end = decoded
        .iter()
        .position(|b| matches!(b, b';' | b'?' | b'#'))
        .unwrap_or(decoded.len());
    let cut = decoded[..end].trim_ascii();
    let end = cut
        .iter()
        .rposition(|b| !matches!(b, b'.' | b' '))
        .map_or(0, |i| i + 1);
    cut[..end].eq_ignore_ascii_case(wanted.as_bytes())
}

/// The canonical form of `raw`; borrowed when it is canonical already.
pub fn canonical(raw: &str) -> Result<Cow<'_, str>, Reject> {
    const NOT_A_PATH: Reject = Reject::BadRequest("The request's target must be a path.");
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(NOT_A_PATH);
    }
    let mut previous = b' ';
    for &byte in bytes {
        if !PLAIN[byte as usize] || previous == b'/' && matches!(byte, b'/' | b'.') {
            return decode(bytes).map(|path| Cow::Owned(without_dots(&path)));
        }
        previous = byte;
    }
    Ok(Cow::Borrowed(raw))
}

/// Decodes the escapes of unreserved characters, writes the others in upper case, and refuses
/// what is ambiguous.
fn decode(raw: &[u8]) -> Result<String, Reject> {
    const MALFORMED: Reject = Reject::BadRequest("The path has a malformed percent-escape.");
    const CHARACTER: Reject =
        Reject::BadRequest("The path has a character that must be percent-encoded.");
    const SEPARATOR: Reject = Reject::AmbiguousPath("The path has an encoded or reversed slash.");
    const CONTROL: Reject = Reject::AmbiguousPath("The path has a control character.");
    const TWICE: Reject = Reject::AmbiguousPath("The path is percent-encoded twice.");
    const PARAMETER: Reject = Reject::AmbiguousPath("The path has a parameter (;).");
    const ENCODING: Reject = Reject::AmbiguousPath("The path is not UTF-8.");

    let mut path = String::with_capacity(raw.len());
    let mut meant = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let (Some(high), Some(low)) =
                    (bytes.next().and_then(hex), bytes.next().and_then(hex))
                else {
                    return Err(MALFORMED);
                };
                match high << 4 | low {
                    b'/' | b'\\' => return Err(SEPARATOR),
                    b'%' => return Err(TWICE),
                    0..=0x1f | 0x7f => return Err(CONTROL),
                    byte if UNRESERVED[byte as usize] => byte,
                    byte => {
                        path.push('%');
                        path.push(char::from(b"0123456789ABCDEF"[usize::from(high)]));
                        path.push(char::from(b"0123456789ABCDEF"[usize::from(low)]));
                        meant.push(byte);
                        continue;
                    }
                }
            }
            b'\\' => return Err(SEPARATOR),
            b';' => return Err(PARAMETER),
            0..=0x1f | 0x7f => return Err(CONTROL),
            byte if PLAIN[byte as usize] => byte,
            _ => return Err(CHARACTER),
        };
        path.push(char::from(byte));
        meant.push(byte);
    }
    std::str::from_utf8(&meant).map_err(|_invalid| ENCODING)?;
    Ok(path)
}

/// Resolves `.` and `..` and merges empty segments.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for segment in path.split('/').skip(1) {
        folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if folder || kept.is_empty() {
        out.push('/');
    }
    out
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// RFC 3986 section 2.3.
const UNRESERVED: [bool; 256] = {
    let mut set = [false; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        set[i] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        i += 1;
    }
    set
};

/// What stands for itself in a canonical path: RFC 3986 `pchar` but `;`, and what browsers leave
/// unencoded although it should be.
const PLAIN: [bool; 256] = {
    let mut set = UNRESERVED;
    let more = b"/!$&'()*+,=:@[]|^";
    let mut i = 0;
    while i < more.len() {
        set[more[i] as usize] = true;
        i += 1;
    }
    set
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(base: &str) -> Routes {
        Routes::new(
            base,
            "/api",
            ["Support.acmetech.com".into(), "[::1]".into()],
        )
    }

    fn route(path: &str) -> Result<Route, Reject> {
        routes("/cobrowsing").judge(path).map(|r| r.route)
    }

    #[test]
    fn paths_of_the_contract_have_their_templates() {
        for (path, expected) in [
            (
                "/cobrowsing/api/visitors/list/latest",
                Route::VisitorsLatest,
            ),
            (
                "/cobrowsing/api/visitors/list/search",
                Route::VisitorsSearch,
            ),
            ("/cobrowsing/api/visitors/ABCD1234", Route::Visitor),
            (
                "/cobrowsing/api/visitors/ABCD1234/watch_url",
                Route::WatchUrl,
            ),
            ("/cobrowsing/api/visitors/list", Route::ApiOther),
            ("/cobrowsing/api", Route::ApiOther),
            ("/cobrowsing/api/usage", Route::ApiOther),
            ("/cobrowsing/screen", Route::Screen),
            ("/cobrowsing/screen/x.js", Route::Screen),
            ("/cobrowsing/screens", Route::Page),
            ("/cobrowsing/", Route::Page),
            ("/cobrowsing/apis/x", Route::Page),
            ("/cobrowsingx/api", Route::None),
            ("/", Route::None),
        ] {
            assert_eq!(route(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn whatever_a_lenient_backend_could_take_for_the_api_is_the_api() {
        for path in [
            "/cobrowsing/API/visitors/1",
            "/Cobrowsing/aPi/visitors/1",
            "/cobrowsing/%61pi/visitors/1",
            "/cobrowsing/%41PI/visitors/1",
            "/cobrowsing/x/../api/visitors/1",
            "/cobrowsing/x/%2E%2e/api/visitors/1",
            "/cobrowsing/./api/visitors/1",
            "//cobrowsing//api//visitors",
            "/cobrowsing/api./visitors",
            "/cobrowsing/api../visitors",
            "/cobrowsing/api%20/visitors",
            "/cobrowsing/%20api/visitors",
            "/cobrowsing/api%3Bx=1/visitors",
            "/cobrowsing/api%3f/visitors",
            "/cobrowsing/api%23/visitors",
            "/cobrowsing/cobrowsing/api/visitors",
            "/cobrowsing/COBROWSING/cobrowsing/api/visitors",
        ] {
            assert!(route(path).unwrap().is_api(), "{path}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for path in [
            "/cobrowsing/api%2fvisitors",
            "/cobrowsing%2Fapi/visitors",
            "/cobrowsing/api%5cvisitors",
            "/cobrowsing/api\\visitors",
            "/cobrowsing/%252e%252e/api",
            "/cobrowsing/%2561pi",
            "/cobrowsing/api;x=1/visitors",
            "/cobrowsing/x;/../api",
            "/cobrowsing/%00",
            "/cobrowsing/%0d%0a",
            "/cobrowsing/%c0%af",
            "/cobrowsing/%e0%80%af",
            "/cobrowsing/%ff",
        ] {
            assert!(
                matches!(route(path), Err(Reject::AmbiguousPath(_))),
                "{path}: {:?}",
                route(path)
            );
        }
        for path in [
            "",
            "*",
            "api",
            "/cobrowsing/%zz",
            "/cobrowsing/%2",
            "/a b",
            "/\u{e9}",
        ] {
            assert!(matches!(route(path), Err(Reject::BadRequest(_))), "{path}");
        }
    }

    #[test]
    fn paths_that_pages_use_stay_as_they_are() {
        for path in [
            "/cobrowsing/a%20b.png",
            "/cobrowsing/%C3%A9t%C3%A9",
            "/cobrowsing/@scope/pkg:1",
            "/cobrowsing/a[1]|b",
            "/cobrowsing/%3Fx",
            "/cobrowsing/%23x",
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn the_base_path_ends_at_a_segment() {
        let place = |base: &str, path: &'static str| routes(base).judge(path).unwrap().place;
        assert_eq!(place("/cobrowsing", "/cobrowsing"), Place::Bare);
        assert_eq!(
            place("/cobrowsing", "/cobrowsing/"),
            Place::Below("/".into())
        );
        assert_eq!(
            place("/cobrowsing", "/cobrowsing/x/y"),
            Place::Below("/x/y".into())
        );
        assert_eq!(place("/cobrowsing", "/cobrowsingx"), Place::Outside);
        assert_eq!(place("/a/b", "/a/b/c"), Place::Below("/c".into()));
        assert_eq!(place("/a/b", "/a/c"), Place::Outside);
        assert_eq!(place("", "/x"), Place::Below("/x".into()));
        assert_eq!(place("", "/"), Place::Below("/".into()));
        assert_eq!(place("/cobrowsing", "/cobrowsing/../x"), Place::Outside);
    }

    #[test]
    fn hosts_are_ours_whatever_their_case_or_port_and_no_other_is() {
        let at = |uri: &str, lines: &[&str]| {
            routes("").host(&uri.parse().unwrap(), lines.iter().map(|l| l.as_bytes()))
        };
        assert_eq!(at("/", &["support.ACMETECH.com"]), Ok(0));
        assert_eq!(at("/", &["support.acmetech.com:8443"]), Ok(0));
        assert_eq!(at("/", &["[::1]:8443"]), Ok(1));
        assert_eq!(at("https://support.acmetech.com/x", &[]), Ok(0));
        for other in [
            "evil.test",
            "support.acmetech.com.",
            "xsupport.acmetech.com",
        ] {
            assert_eq!(
                at("/", &[other]),
                Err(Reject::MisdirectedRequest),
                "{other}"
            );
        }
        assert_eq!(
            at("http://evil.test/x", &["evil.test"]),
            Err(Reject::MisdirectedRequest)
        );
        let bad: [&[&str]; 6] = [
            &[],
            &[""],
            &["support.acmetech.com", "support.acmetech.com"],
            &["user@support.acmetech.com"],
            &["support.acmetech.com:8x"],
            &["a b"],
        ];
        for lines in bad {
            assert!(
                matches!(at("/", lines), Err(Reject::BadRequest(_))),
                "{lines:?}"
            );
        }
        assert!(matches!(
            at("http://evil.test/x", &["support.acmetech.com"]),
            Err(Reject::BadRequest(_))
        ));
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own_canonical_form(path in "/[a-zA-Z0-9/.%_~@: -]{0,40}") {
            if let Ok(once) = canonical(&path) {
                let twice = canonical(&once).unwrap();
                prop_assert_eq!(&once, &twice);
                prop_assert!(!once.contains("//"));
                prop_assert!(!once.split('/').any(|s| s == "." || s == ".."));
            }
        }

        #[test]
        fn what_lies_below_the_base_never_leaves_it(path in "/(cobrowsing|[a-z.%2eE]{0,6})(/[a-zA-Z0-9.%]{0,6}){0,5}") {
            if let Ok(Routed { place: Place::Below(rest), .. }) = routes("/cobrowsing").judge(&path) {
                prop_assert!(rest.starts_with('/'));
                let whole = format!("/cobrowsing{rest}");
                prop_assert_eq!(canonical(&whole).unwrap(), whole.as_str());
            }
        }
    }
}
