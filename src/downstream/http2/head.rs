//! A request from the fields of its head (RFC 9113 section 8.3).

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version, header};

use super::super::head::Bounds;
use super::hpack::{Field, Name};
use crate::reject::Reject;
use crate::{fields, framing};

/// As many fields need no second table.
const USUAL_FIELDS: usize = 12;

/// A head, as far as it has come.
pub(super) struct Heading {
    bounds: Bounds,
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    headers: HeaderMap,
    length: Option<u64>,
    size: usize,
    flaw: Option<Reject>,
    malformed: bool,
}

/// What no request is (RFC 9113 section 8.1.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A request whose head is there.
#[derive(Debug)]
pub(super) struct Asked {
    /// Method, target, version and header fields.
    pub(super) request: http::request::Parts,
    /// The length of its body, where it is told.
    pub(super) length: Option<u64>,
    pub(super) flaw: Option<Reject>,
}

impl Heading {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            method: None,
            scheme: None,
            authority: None,
            path: None,
            headers: fields::empty(USUAL_FIELDS),
            length: None,
            size: 0,
            flaw: None,
            malformed: false,
        }
    }

    /// The next field; `size` is what it counts.
    pub(super) fn field(&mut self, field: &Field, size: usize) {
        self.size += size;
        if self.size > self.bounds.bytes {
            self.flaw = Some(Reject::HeaderFieldsTooLarge);
        }
        let first = self.headers.is_empty();
        let once = match field {
            Field::Method(method) => self.method.replace(method.clone()).is_none(),
            Field::Scheme(scheme) => match Scheme::try_from(&scheme[..]) {
                Ok(scheme) => self.scheme.replace(scheme).is_none(),
                Err(_) => false,
            },
            Field::Authority(name) => self.authority.replace(name.clone()).is_none(),
            Field::Path(path) => self.path.replace(path.clone()).is_none(),
            Field::BadTarget(name) => self.bad_target(name),
            Field::Header(name, value) => {
                self.header(name, value);
                return;
            }
            Field::Malformed(_) => false,
        };
        self.malformed |= !once || !first;
    }

    /// It gets an answer that says so, and stands for any other until then.
    fn bad_target(&mut self, name: &Name) -> bool {
        self.flaw = self.flaw.or(Some(Reject::BadRequest(
            "The request's target is malformed.",
        )));
        match name {
            Name::Authority => self.authority.is_none(),
            _ => {
                let any = PathAndQuery::from_static("/");
                self.path.replace(any).is_none()
            }
        }
    }

    fn header(&mut self, name: &http::HeaderName, value: &http::HeaderValue) {
        // Each cookie crumb and each repetition counts.
        if self.headers.len() >= self.bounds.fields {
            self.flaw = Some(Reject::HeaderFieldsTooLarge);
        }
        match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => {
                self.malformed = true;
            }
            header::TE => self.malformed |= !value.as_bytes().eq_ignore_ascii_case(b"trailers"),
            header::CONTENT_LENGTH => {
                let length = framing::length(value.as_bytes());
                self.malformed |=
                    length.is_none() || self.length.is_some_and(|l| Some(l) != length);
                self.length = length;
            }
            _ => {
                let name = name.as_str();
                self.malformed |= name == "keep-alive" || name == "proxy-connection";
            }
        }
        // What is too large is counted, and not kept.
        let too_large = self.flaw == Some(Reject::HeaderFieldsTooLarge);
        if !too_large && self.headers.try_append(name, value.clone()).is_err() {
            self.flaw = Some(Reject::HeaderFieldsTooLarge);
        }
    }

    /// The request; `ends`: it has no body.
    pub(super) fn finish(self, ends: bool) -> Result<Asked, Malformed> {
        let lacks_nothing = match &self.method {
            Some(method) if method == Method::CONNECT => {
                self.authority.is_some() && self.scheme.is_none() && self.path.is_none()
            }
            Some(_) => self.scheme.is_some() && self.path.is_some(),
            None => false,
        };
        let too_large = self.flaw == Some(Reject::HeaderFieldsTooLarge);
        let body_differs = ends && self.length.is_some_and(|length| length > 0);
        if self.malformed || body_differs || !(lacks_nothing || too_large) {
            return Err(Malformed);
        }
        let mut parts = http::uri::Parts::default();
        // A scheme alone makes no URI.
        parts.scheme = self.scheme.filter(|_| self.authority.is_some());
        parts.authority = self.authority;
        parts.path_and_query = self.path;
        let mut request = Request::new(()).into_parts().0;
        request.method = self.method.unwrap_or_default();
        request.uri = Uri::from_parts(parts).or(if too_large {
            Ok(Uri::from_static("*"))
        } else {
            Err(Malformed)
        })?;
        request.version = Version::HTTP_2;
        request.headers = self.headers;
        Ok(Asked {
            request,
            length: self.length,
            flaw: self.flaw,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::Name;
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 1 << 10,
        fields: 4,
    };

    fn read(fields: &[(&str, &str)], ends: bool) -> Result<Asked, Malformed> {
        let mut heading = Heading::new(BOUNDS);
        for (name, value) in fields {
            let field = Name::of(name.as_bytes()).with(value.as_bytes());
            heading.field(&field, name.len() + value.len() + 32);
        }
        heading.finish(ends)
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a.example:8443"),
        (":path", "/b?c"),
    ];

    fn with(more: &[(&str, &str)]) -> Result<Asked, Malformed> {
        read(&[&GET, more].concat(), true)
    }

    #[test]
    fn a_head_becomes_a_request() {
        let asked = with(&[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]).unwrap();
        assert_eq!(asked.request.uri, "https://a.example:8443/b?c");
        assert_eq!(asked.request.headers.get_all("cookie").iter().count(), 2);
        assert!(asked.flaw.is_none() && asked.length.is_none());
        let asked = read(&[GET[0], GET[1], GET[3], ("host", "x")], true).unwrap();
        assert_eq!(asked.request.uri, "/b?c");
        let connect = [(":method", "CONNECT"), (":authority", "a:1")];
        assert_eq!(read(&connect, false).unwrap().request.uri, "a:1");
        let options = [(":method", "OPTIONS"), GET[1], GET[2], (":path", "*")];
        assert!(read(&options, true).unwrap().flaw.is_none());
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        for more in [
            (":path", "/"),
            (":status", "200"),
            (":protocol", "websocket"),
            ("Accept", "a"),
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("content-length", "1"),
            ("content-length", "+0"),
        ] {
            assert_eq!(with(&[more]).unwrap_err(), Malformed, "{more:?}");
        }
        let lengths = [("content-length", "5"), ("content-length", "6")];
        assert!(read(&[&GET[..], &lengths].concat(), false).is_err());
        for without in [0, 1, 3] {
            let mut fields = GET.to_vec();
            fields.remove(without);
            assert!(read(&fields, true).is_err(), "{without}");
        }
        for twice in GET {
            assert!(with(&[twice]).is_err());
        }
        assert!(read(&[GET[0], GET[1], ("x", "y"), GET[2], GET[3]], true).is_err());
        assert!(read(&[GET[0], GET[1], GET[2], (":path", "")], true).is_err());
        assert!(read(&[(":method", "CONNECT"), GET[1], GET[2], GET[3]], true).is_err());
    }

    #[test]
    fn what_is_no_target_is_answered() {
        for bad in ["/a#b", "/a b", "a", "/\u{7f}", "https://a/b"] {
            let asked = read(&[GET[0], GET[1], GET[2], (":path", bad)], true).unwrap();
            assert!(matches!(asked.flaw, Some(Reject::BadRequest(_))), "{bad}");
        }
        let asked = read(&[GET[0], GET[1], (":authority", "a b"), GET[3]], true).unwrap();
        assert!(matches!(asked.flaw, Some(Reject::BadRequest(_))));
    }

    #[test]
    fn size_and_number_of_fields_are_bounded() {
        let large = "x".repeat(1024);
        for fields in [
            &[("a", &*large)][..],
            &[("a", "1"); 5],
            &[
                ("cookie", "1"),
                ("b", "2"),
                ("cookie", "3"),
                ("cookie", "4"),
                ("c", "5"),
            ],
        ] {
            let flaw = with(fields).unwrap().flaw;
            assert_eq!(flaw, Some(Reject::HeaderFieldsTooLarge));
        }
        assert!(with(&[("a", "1"); 4]).unwrap().flaw.is_none());
        let path = [GET[0], GET[1], GET[2], (":path", &format!("/{large}"))];
        assert_eq!(
            read(&path, true).unwrap().flaw,
            Some(Reject::HeaderFieldsTooLarge)
        );
    }
}
