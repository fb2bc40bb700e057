//! Answers, mapped back to the public URL: `Location`, `Content-Location`, `Refresh`, `Link`,
//! `Set-Cookie`, and named JSON fields. Only what points at the backend's own origin or base path
//! is touched; every other byte stays.

mod headers;
mod json;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

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
