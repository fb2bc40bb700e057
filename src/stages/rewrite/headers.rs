//! The headers of an answer, each in its own syntax.

use http::header::{CONTENT_LOCATION, LINK, LOCATION, REFRESH, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Rewrite, below};

impl Rewrite {
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
}
