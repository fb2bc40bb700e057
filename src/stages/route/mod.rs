//! Where a request belongs: which of our hosts, and which place below the base path. Whether a path
//! is the API is decided as a superset of what a lenient backend could take for it.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use http::Uri;
use http::uri::Authority;

use crate::names::Route;
use crate::path::{Canonical, Compat, canonical, decoded_once, readings};
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
    compat: Compat,
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
    pub fn new(
        public_base: &str,
        api: &str,
        hosts: impl IntoIterator<Item = String>,
        compat: Compat,
    ) -> Self {
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
            compat,
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
        let ours = |name: &str| {
            let mut hosts = self.hosts.iter();
            let position = hosts.position(|ours| name.eq_ignore_ascii_case(ours));
            position.ok_or(Reject::MisdirectedRequest)
        };
        match (uri.authority().map(Authority::as_str), line) {
            (None, None) => Err(Reject::BadRequest("Send a Host header.")),
            (None, Some(line)) => ours(line),
            // A target without scheme or slash names a server and no path: for CONNECT alone.
            (Some(_), _) if uri.scheme().is_none() => {
                Err(Reject::BadRequest("The request's target must be a path."))
            }
            (Some(authority), line) => {
                let name = host_of(authority)?;
                let position = ours(name)?;
                if line.is_some_and(|line| !line.eq_ignore_ascii_case(name)) {
                    return Err(Reject::BadRequest(
                        "The Host header contradicts the request's target.",
                    ));
                }
                Ok(position)
            }
        }
    }

    /// What a path is for, as far as that can be told.
    pub fn route(&self, path: &str) -> Route {
        self.judge(path).map_or(Route::None, |routed| routed.route)
    }

    /// Judges the path of a request's target.
    pub fn judge<'p>(&self, path: &'p str) -> Result<Routed<'p>, Reject> {
        let Canonical { path, opened } = canonical(path, self.compat)?;
        let api = self.is_api(&path);
        if opened && (api || !readings(&path).iter().all(|r| self.is_a_page(r))) {
            return Err(Reject::AmbiguousPath(
                "The path could be read as one of the API's, or as one outside the base path.",
            ));
        }
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

    fn is_a_page(&self, path: &str) -> bool {
        !self.is_api(path)
            && path
                .strip_prefix(&*self.public_base)
                .is_some_and(|rest| rest.starts_with('/'))
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
    let decoded = decoded_once(got.as_bytes());
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
