//! Answers, mapped back to the public URL: `Location`, `Content-Location`, `Refresh`, `Link`,
//! `Set-Cookie`, and named JSON fields. Only what points at the backend's own origin or base path
//! is touched; every other byte stays.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use http::header::{CONTENT_LOCATION, LINK, LOCATION, REFRESH, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The two URLs of one tree.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// Host and port as in the public URL.
    public_authority: Box<str>,
    public_host: Box<str>,
    /// `""` for the root, else without final slash.
    public_base: Box<str>,
    /// Host and port as in `upstream.url`, lower case.
    upstream_authority: Box<str>,
    upstream_host: Box<str>,
    upstream_base: Box<str>,
    headers: bool,
    json_fields: Box<[Box<str>]>,
}

/// One end of the mapping: an authority and the base path there.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'t> {
    /// `host[:port]`
    pub authority: &'t str,
    /// Its host alone.
    pub host: &'t str,
    /// `""` for the root, else `/a/b`.
    pub base: &'t str,
}

impl Rewrite {
    /// Maps what lies at `upstream` to `public`.
    pub fn new(
        public: Tree<'_>,
        upstream: Tree<'_>,
        headers: bool,
        json_fields: &[String],
    ) -> Self {
        Self {
            public_authority: public.authority.into(),
            public_host: public.host.into(),
            public_base: public.base.into(),
            upstream_authority: upstream.authority.to_ascii_lowercase().into(),
            upstream_host: upstream.host.to_ascii_lowercase().into(),
            upstream_base: upstream.base.into(),
            headers,
            json_fields: json_fields.iter().map(|f| f.as_str().into()).collect(),
        }
    }

    /// Whether JSON answers are to be read.
    pub fn reads_json(&self) -> bool {
        !self.json_fields.is_empty()
    }

    /// Maps the headers of an answer.
    pub fn headers(&self, headers: &mut HeaderMap) {
        if !self.headers {
            return;
        }
        for name in [LOCATION, CONTENT_LOCATION] {
            self.each(headers, &name, |value| self.url(value));
        }
        self.each(headers, &REFRESH, |value| self.refresh(value));
        self.each(headers, &LINK, |value| self.link(value));
        self.each(headers, &SET_COOKIE, |value| self.cookie(value));
    }

    fn each(
        &self,
        headers: &mut HeaderMap,
        name: &HeaderName,
        map: impl Fn(&str) -> Option<String>,
    ) {
        let http::header::Entry::Occupied(mut values) = headers.entry(name) else {
            return;
        };
        for value in values.iter_mut() {
            let mapped = value
                .to_str()
                .ok()
                .and_then(&map)
                .and_then(|text| HeaderValue::try_from(text).ok());
            if let Some(mapped) = mapped {
                *value = mapped;
            }
        }
    }

    /// A URL mapped back; `None`: it is not the backend's, or already right.
    pub fn url(&self, url: &str) -> Option<String> {
        let (prefix, path) = match self.own_origin(url) {
            Some((scheme, path)) => {
                let path = if path.starts_with('/') {
                    Cow::Borrowed(path)
                } else {
                    Cow::Owned(["/", path].concat())
                };
                ([scheme, "//", &self.public_authority].concat(), path)
            }
            None if is_absolute_path(url) && !self.is_public(url) => {
                (String::new(), Cow::Borrowed(url))
            }
            None => return None,
        };
        let mapped = self.path(&path)?;
        let mapped = prefix + &mapped;
        (mapped != url).then_some(mapped)
    }

    /// The public scheme (`https:`, `wss:` or none) and what follows the backend's own authority.
    fn own_origin<'u>(&self, url: &'u str) -> Option<(&'static str, &'u str)> {
        let at = url.find("//")?;
        let scheme = match &url[..at] {
            "" => "",
            s if s.eq_ignore_ascii_case("http:") || s.eq_ignore_ascii_case("https:") => "https:",
            s if s.eq_ignore_ascii_case("ws:") || s.eq_ignore_ascii_case("wss:") => "wss:",
            _ => return None,
        };
        let rest = &url[at + 2..];
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        rest[..end]
            .eq_ignore_ascii_case(&self.upstream_authority)
            .then(|| (scheme, &rest[end..]))
    }

    /// Whether a path lies below the public base already: a backend that knows its public URL
    /// writes it. That says nothing at the root, nor where the backend's own tree lies below a
    /// path of the same name.
    fn is_public(&self, path: &str) -> bool {
        let nested =
            below(&self.upstream_base, &self.public_base).is_some_and(|rest| !rest.is_empty());
        !self.public_base.is_empty() && !nested && below(path, &self.public_base).is_some()
    }

    /// A path of the backend, with query and fragment, as the public one.
    fn path(&self, path: &str) -> Option<String> {
        let rest = below(path, &self.upstream_base)?;
        if climbs(rest) {
            return None;
        }
        let slash = if self.public_base.is_empty() && !rest.starts_with('/') {
            "/"
        } else {
            ""
        };
        Some([&self.public_base, slash, rest].concat())
    }

    /// `5; url=/login`
    fn refresh(&self, value: &str) -> Option<String> {
        let at = value.to_ascii_lowercase().find("url=")? + 4;
        let (before, given) = value.split_at(at);
        let url = given.trim_matches(['"', '\'']);
        let start = given.len() - given.trim_start_matches(['"', '\'']).len();
        Some(
            [
                before,
                &given[..start],
                &self.url(url)?,
                &given[start + url.len()..],
            ]
            .concat(),
        )
    }

    /// `</style.css>; rel=preload, <…>` (RFC 8288)
    fn link(&self, value: &str) -> Option<String> {
        let mut out = String::with_capacity(value.len() + 32);
        let (mut rest, mut changed, mut quoted) = (value, false, false);
        while let Some(at) = rest.find(['<', '"']) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            if let Some(after) = from.strip_prefix('"') {
                // Inside a quoted string a backslash hides the quote.
                quoted = !quoted || before.ends_with('\\');
                out.push('"');
                rest = after;
                continue;
            }
            match from.find('>') {
                Some(end) if !quoted => {
                    let url = &from[1..end];
                    let mapped = self.url(url);
                    changed |= mapped.is_some();
                    out.push('<');
                    out.push_str(mapped.as_deref().unwrap_or(url));
                    out.push('>');
                    rest = &from[end + 1..];
                }
                _ => {
                    out.push('<');
                    rest = &from[1..];
                }
            }
        }
        out.push_str(rest);
        changed.then_some(out)
    }

    /// `Path` and `Domain` of a cookie (RFC 6265 section 5.2).
    fn cookie(&self, value: &str) -> Option<String> {
        // A browser takes a __Host- cookie only with `Path=/` and no `Domain`: mapping would lose it.
        if value
            .get(..7)
            .is_some_and(|name| name.eq_ignore_ascii_case("__host-"))
        {
            return None;
        }
        let mut changed = false;
        let mut attributes = value.split(';');
        let mut out = attributes.next()?.to_owned();
        for attribute in attributes {
            let mapped = attribute.split_once('=').and_then(|(name, value)| {
                let bare = value.trim().trim_matches('"');
                let mapped = match name.trim() {
                    n if n.eq_ignore_ascii_case("path") => self.cookie_path(bare)?,
                    n if n.eq_ignore_ascii_case("domain")
                        && bare
                            .trim_start_matches('.')
                            .eq_ignore_ascii_case(&self.upstream_host) =>
                    {
                        self.public_host.to_string()
                    }
                    _ => return None,
                };
                Some([name, "=", &mapped].concat())
            });
            changed |= mapped.is_some();
            out.push(';');
            out.push_str(mapped.as_deref().unwrap_or(attribute));
        }
        changed.then_some(out)
    }

    fn cookie_path(&self, path: &str) -> Option<String> {
        if !path.starts_with('/') || self.is_public(path) {
            return None;
        }
        let mut mapped = self.path(path)?;
        // `Path=/` means the whole tree, and the tree's root has a name without slash as well.
        if mapped.len() > 1 && below(path, &self.upstream_base) == Some("/") {
            mapped.pop();
        }
        (mapped != path).then_some(mapped)
    }

    /// A JSON object with the named top-level fields mapped; `None`: nothing was to be changed.
    pub fn json(&self, body: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(body).ok()?;
        let fields = serde_json::Deserializer::from_str(text)
            .deserialize_map(Fields)
            .ok()?;
        let mut out = Vec::with_capacity(body.len() + 64);
        let mut done = 0;
        for (name, raw) in fields {
            if !self.json_fields.iter().any(|wanted| **wanted == name) {
                continue;
            }
            let Some(mapped) = serde_json::from_str::<Cow<'_, str>>(raw.get())
                .ok()
                .and_then(|url| self.url(&url))
            else {
                continue;
            };
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            out.extend_from_slice(&body[done..start]);
            serde_json::to_writer(&mut out, &mapped).ok()?;
            done = start + raw.get().len();
        }
        if done == 0 {
            return None;
        }
        out.extend_from_slice(&body[done..]);
        Some(out)
    }
}

/// The fields of an object with their values as they stand in the text.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

fn is_absolute_path(url: &str) -> bool {
    // `/\host` is a scheme-relative URL to browsers.
    url.starts_with('/') && !url[1..].starts_with(['/', '\\'])
}

/// What follows `base` in `path`, when `path` is it or lies below it.
fn below<'p>(path: &'p str, base: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with(['/', '?', '#'])).then_some(rest)
}

/// Whether a path has a segment that leads upwards.
fn climbs(path: &str) -> bool {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    path[..end]
        .split('/')
        .any(|s| s.len() >= 2 && s.to_ascii_lowercase().replace("%2e", ".") == "..")
}
