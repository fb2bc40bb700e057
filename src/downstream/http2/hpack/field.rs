//! Fields of a head, as the tables hold them: parsed once, however often they are sent.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method};

/// One field of a request's head.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Field {
    Method(Method),
    Scheme(Bytes),
    Authority(Authority),
    Path(PathAndQuery),
    /// No authority or no path, though there is one; a request that has it is answered with 400.
    BadTarget(Name),
    Header(HeaderName, HeaderValue),
    /// What no request may have.
    Malformed(Name),
}

/// Its name, which another field may refer to.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Header(HeaderName),
    /// None that a request may have.
    Malformed,
}

impl Name {
    pub(in super::super) fn of(name: &[u8]) -> Self {
        match name {
            [b':', pseudo @ ..] => match pseudo {
                b"method" => Self::Method,
                b"scheme" => Self::Scheme,
                b"authority" => Self::Authority,
                b"path" => Self::Path,
                _ => Self::Malformed,
            },
            // Upper case is malformed (RFC 9113 section 8.2.1).
            name => HeaderName::from_lowercase(name).map_or(Self::Malformed, Self::Header),
        }
    }

    pub(in super::super) fn with(self, value: &[u8]) -> Field {
        match self {
            Self::Method => Method::from_bytes(value).map_or(Field::Malformed(self), Field::Method),
            Self::Scheme => Field::Scheme(Bytes::copy_from_slice(value)),
            Self::Authority => {
                Authority::try_from(value).map_or(Field::BadTarget(self), Field::Authority)
            }
            Self::Path => match value {
                [] => Field::Malformed(self),
                // The parser would cut at `#`: a server that does and one that does not see two paths.
                [b'/', ..] | b"*" if memchr::memchr(b'#', value).is_none() => {
                    PathAndQuery::try_from(value).map_or(Field::BadTarget(self), Field::Path)
                }
                _ => Field::BadTarget(self),
            },
            Self::Header(name) => match HeaderValue::from_bytes(value) {
                Ok(value) => Field::Header(name, value),
                Err(_) => Field::Malformed(Self::Header(name)),
            },
            Self::Malformed => Field::Malformed(self),
        }
    }
}

impl Field {
    pub(super) fn name(&self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Scheme(_) => Name::Scheme,
            Self::Authority(_) => Name::Authority,
            Self::Path(_) => Name::Path,
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::BadTarget(name) | Self::Malformed(name) => name.clone(),
        }
    }
}
