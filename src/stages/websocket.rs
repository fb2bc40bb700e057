//! The WebSocket handshake, both halves of it (RFC 6455 section 4).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, Version};

use crate::reject::Reject;

/// The key of a handshake; `None`: the request asks for no WebSocket, and any other protocol it
/// names in `Upgrade` is ignored, as RFC 9110 section 7.8 allows.
pub fn handshake(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<Option<Vec<u8>>, Reject> {
    if version != Version::HTTP_11
        || !has_token(headers, &CONNECTION, "upgrade")
        || !has_token(headers, &UPGRADE, "websocket")
    {
        return Ok(None);
    }
    if method != Method::GET {
        return Err(Reject::BadRequest(
            "A WebSocket handshake must be a GET request.",
        ));
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Reject::BadRequest("Sec-WebSocket-Version must be 13."));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None)
            if BASE64_STANDARD
                .decode(key.as_bytes())
                .is_ok_and(|nonce| nonce.len() == 16) =>
        {
            Ok(Some(key.as_bytes().to_vec()))
        }
        _ => Err(Reject::BadRequest(
            "Sec-WebSocket-Key must be 16 bytes in base64, once.",
        )),
    }
}

/// Whether a 101 with these headers is an answer to the handshake with `key`. The `Upgrade` and
/// `Connection` of it are looked at where they are read.
pub fn accepts(headers: &HeaderMap, key: &[u8]) -> bool {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let expected = BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()));
    headers
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|accept| accept == expected.as_str())
}

/// Whether a comma-separated header holds a word.
fn has_token(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn asked(change: impl FnOnce(&mut HeaderMap)) -> Result<Option<Vec<u8>>, Reject> {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(
            SEC_WEBSOCKET_KEY,
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        change(&mut headers);
        handshake(&Method::GET, Version::HTTP_11, &headers)
    }

    #[test]
    fn the_sample_of_the_rfc_is_answered_as_there() {
        let key = asked(|_| {}).unwrap().unwrap();
        let mut answer = HeaderMap::new();
        assert!(!accepts(&answer, &key));
        answer.insert(
            SEC_WEBSOCKET_ACCEPT,
            HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        );
        assert!(accepts(&answer, &key));
        assert!(!accepts(&answer, b"AAAAAAAAAAAAAAAAAAAAAA=="));
    }

    #[test]
    fn other_protocols_are_no_handshake() {
        assert_eq!(
            asked(|h| drop(h.insert(UPGRADE, HeaderValue::from_static("h2c")))),
            Ok(None)
        );
        assert_eq!(asked(|h| drop(h.remove(CONNECTION))), Ok(None));
    }

    #[test]
    fn a_malformed_handshake_is_refused_here() {
        assert!(
            asked(|h| drop(h.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("777"))))
                .is_err()
        );
        assert!(asked(|h| drop(h.remove(SEC_WEBSOCKET_KEY))).is_err());
        assert!(
            asked(|h| drop(h.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("short"))))
                .is_err()
        );
        assert!(
            asked(|h| {
                h.append(
                    SEC_WEBSOCKET_KEY,
                    HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
                );
            })
            .is_err()
        );
    }
}
