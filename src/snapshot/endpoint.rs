//! URLs of the configuration, taken apart once.

use http::Uri;

use crate::config::ConfigError;
use crate::path::{Compat, canonical};

/// Host, port and base path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host`, or `host:port` where the port is not the scheme's.
    pub authority: Box<str>,
    /// The host alone; IPv6 in brackets.
    pub host: Box<str>,
    /// The port, the scheme's by default.
    pub port: u16,
    /// Empty for the root, else without final slash.
    pub base: Box<str>,
}

impl Endpoint {
    /// `public.base_endpoint`: `https://host[:port][/path]`.
    pub fn public(text: &str) -> Result<Self, ConfigError> {
        Self::read(
            "public.base_endpoint",
            text,
            "https",
            443,
            "an https URL without query, e.g. https://support.acmetech.com/cobrowsing",
        )
    }

    /// `upstream.url`: `http://host[:port]`; the path belongs into `upstream.base_path`.
    pub fn upstream(text: &str) -> Result<Self, ConfigError> {
        const ALLOWED: &str =
            "http://host[:port] without a path (that is upstream.base_path), or \"visitor\"";
        let endpoint = Self::read("upstream.url", text, "http", 80, ALLOWED)?;
        if endpoint.base.is_empty() {
            Ok(endpoint)
        } else {
            Err(ConfigError::new("upstream.url", text, ALLOWED))
        }
    }

    /// `host` or `host:port`.
    pub fn host(key: &str, text: &str) -> Result<Self, ConfigError> {
        Self::read(
            key,
            &format!("https://{text}"),
            "https",
            443,
            "host or host:port",
        )
        .map_err(|_of_the_url| ConfigError::new(key, text, "host or host:port"))
    }

    /// `https://host[:port]/base/`
    pub fn url(&self) -> String {
        format!("https://{}{}/", self.authority, self.base)
    }

    /// `host:port`, to connect to.
    pub fn connect(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn read(
        key: &str,
        text: &str,
        scheme: &str,
        port: u16,
        allowed: &str,
    ) -> Result<Self, ConfigError> {
        // A URL with a password in it is wrong here, and not to be shown.
        let shown = text
            .rsplit_once('@')
            .map_or_else(|| text.to_owned(), |(_, rest)| format!("***@{rest}"));
        let wrong = || ConfigError::new(key, &shown, allowed);
        let uri: Uri = text.parse().map_err(|_invalid| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some(scheme)
            || uri.query().is_some()
            || authority.as_str().contains('@')
            || text.contains('#')
            || authority.host().is_empty()
        {
            return Err(wrong());
        }
        let base = base_path(key, uri.path())?;
        let host = authority.host().to_ascii_lowercase();
        let given = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => port,
            Some(digits) => digits.parse().map_err(|_invalid| wrong())?,
        };
        let authority = if given == port {
            host.clone()
        } else {
            format!("{host}:{given}")
        };
        Ok(Self {
            authority: authority.into(),
            host: host.into(),
            port: given,
            base,
        })
    }
}

/// A path as a base: canonical, without final slash; the root is empty.
pub(super) fn base_path(key: &str, path: &str) -> Result<Box<str>, ConfigError> {
    match canonical(path, Compat::default()).map(|canonical| canonical.path) {
        Ok(canonical)
            if canonical == path
                || canonical.trim_end_matches('/') == path.trim_end_matches('/') =>
        {
            Ok(path.trim_end_matches('/').into())
        }
        Ok(_) | Err(_) => Err(ConfigError::new(
            key,
            path,
            "a plain path that begins with a slash, e.g. /cobrowsing",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_slash_and_the_default_port_make_no_difference() {
        let plain = Endpoint::public("https://Support.acmetech.com/cobrowsing").unwrap();
        for same in [
            "https://support.acmetech.com/cobrowsing/",
            "https://support.acmetech.com:443/cobrowsing",
        ] {
            assert_eq!(Endpoint::public(same).unwrap(), plain);
        }
        assert_eq!(
            (&*plain.authority, plain.port, &*plain.base),
            ("support.acmetech.com", 443, "/cobrowsing")
        );
        let root = Endpoint::public("https://localhost:8443").unwrap();
        assert_eq!(
            (&*root.authority, &*root.host, root.port, &*root.base),
            ("localhost:8443", "localhost", 8443, "")
        );
        assert_eq!(
            Endpoint::public("https://[::1]:8443/a/b/")
                .unwrap()
                .connect(),
            "[::1]:8443"
        );
    }

    #[test]
    fn what_is_not_such_a_url_is_refused_by_name() {
        for bad in [
            "",
            "support.acmetech.com",
            "http://a/b",
            "https://",
            "https://a/b?c",
            "https://a/b#c",
            "https://u@a/",
            "https://a:x/",
            "https://a:99999/",
            "https://a//b",
            "https://a/b/../c",
            "https://a/b%2fc",
        ] {
            let error = Endpoint::public(bad).unwrap_err().to_string();
            assert!(error.starts_with("public.base_endpoint = "), "{error}");
        }
        for bad in ["https://a", "a:5002", "http://a/x", "http://a:0x1"] {
            assert!(Endpoint::upstream(bad).is_err(), "{bad}");
        }
    }
}
