//! The one answer whose body is read: small, JSON, with a URL in it that is mapped back.

use std::future::poll_fn;
use std::io::Read;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Body as _;

use crate::reject::Reject;
use crate::stages::rewrite::Rewrite;
use crate::upstream::Answer;

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    kind.eq_ignore_ascii_case(b"application/json")
}

/// The largest JSON answer that is read, compressed or not.
const MAX_JSON: usize = 1 << 20;

/// Reads a small JSON answer and maps its fields. What turns out to be larger, or is encoded in a
/// way we do not read, is an answer that cannot be made right: an error, not a wrong URL.
pub(super) async fn map(rewrite: &Rewrite, answer: Answer) -> Result<Response<Bytes>, Reject> {
    let Answer {
        status,
        mut headers,
        mut body,
        ..
    } = answer;
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_broken| Reject::UpstreamFailed)?;
        bytes.extend_from_slice(frame.data_ref().map_or(&b""[..], Bytes::as_ref));
        if bytes.len() > MAX_JSON {
            tracing::warn!("a JSON answer that would have to be rewritten is over 1 MiB");
            return Err(Reject::UpstreamFailed);
        }
    }
    let encoding = headers
        .get(CONTENT_ENCODING)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let plain = match encoding {
        b"" | b"identity" => bytes.clone().freeze(),
        b"gzip" | b"x-gzip" => inflate(&bytes).ok_or(Reject::UpstreamFailed)?,
        _ => {
            tracing::warn!("the backend compressed an answer although it was asked not to");
            return Err(Reject::UpstreamFailed);
        }
    };
    let bytes = match rewrite.json(&plain) {
        None => bytes.freeze(),
        Some(mapped) => {
            for stale in [
                CONTENT_ENCODING,
                ETAG,
                HeaderName::from_static("content-md5"),
                HeaderName::from_static("digest"),
                HeaderName::from_static("content-digest"),
                HeaderName::from_static("repr-digest"),
            ] {
                headers.remove(stale);
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from(mapped.len()));
            mapped.into()
        }
    };
    let mut response = Response::new(bytes);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// No JSON shrinks to less than a hundredth, but for attacks.
const MAX_RATIO: usize = 100;

fn inflate(bytes: &[u8]) -> Option<Bytes> {
    let most = bytes.len().saturating_mul(MAX_RATIO).min(MAX_JSON);
    let mut plain = Vec::new();
    let read = flate2::read::GzDecoder::new(bytes)
        .take(most as u64 + 1)
        .read_to_end(&mut plain)
        .ok()?;
    (read <= most).then(|| plain.into())
}
