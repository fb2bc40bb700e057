//! What becomes of each header of the client's, told by its name.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName};

/// What becomes of a header.
pub(super) enum Kind {
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

/// Of a header of the client's, in lower case.
pub(super) fn kind(name: &str) -> Kind {
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

/// Whether a `Connection` line names it: then it ends here.
pub(super) fn is_named(named: &[&str], name: &HeaderName) -> bool {
    named.iter().any(|n| name.as_str().eq_ignore_ascii_case(n))
}

/// What `Connection` lines name beside their own options. End-to-end headers that decide who the
/// caller is cannot be named away.
pub(super) fn named_by_connection(headers: &HeaderMap) -> Vec<&str> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
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
