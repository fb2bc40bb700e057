//! Reading the head of an answer, strictly: what could be framed in two ways is no answer
//! (RFC 9112 section 6.3).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{fields, framing};

/// The largest head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// The most header fields of an answer.
const MAX_FIELDS: usize = 128;
/// Fields that the answer gets before it goes to the client: its id, and two that tell of limits.
const MORE_FIELDS: usize = 3;

/// How the body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// A head without its connection-level headers.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the connection may carry another exchange.
    pub(super) persistent: bool,
    /// `Keep-Alive: timeout=`
    pub(super) keep_alive: Option<u64>,
    /// Whether it switches to the WebSocket protocol, as a 101 must.
    pub(super) upgrade: bool,
}

/// Takes one head from the front of `buffer`; `None`: it is not complete yet. `asked_head` tells
/// that the request was a HEAD.
pub(super) fn take(buffer: &mut BytesMut, asked_head: bool) -> Result<Option<Head>, &'static str> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD => return Ok(None),
        Ok(_) => return Err("the head of the answer is too large"),
        Err(httparse::Error::TooManyHeaders) => {
            return Err("the answer has too many header fields");
        }
        Err(_) => return Err("the head of the answer is malformed"),
    };
    let status = parsed
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or("the status of the answer is invalid")?;
    let http_1_1 = parsed.version == Some(1);
    let base = buffer.as_ptr().addr();
    let at = |part: &[u8]| {
        let start = part.as_ptr().addr() - base;
        start..start + part.len()
    };
    // Values are slices of the one allocation that was read into: nothing is copied.
    let fields = parsed.headers.iter();
    let spans: Vec<_> = fields
        .map(|field| (at(field.name.as_bytes()), at(field.value)))
        .collect();
    let bytes = buffer.split_to(length).freeze();

    let mut head = Head {
        status,
        headers: fields::empty(spans.len() + MORE_FIELDS),
        framing: Framing::None,
        persistent: http_1_1,
        keep_alive: None,
        upgrade: false,
    };
    let mut content_length = None;
    let mut chunked = None;
    let mut named = None;
    let mut upgrade_named = false;
    for (name, value) in spans {
        let value = bytes.slice(value);
        let name = HeaderName::from_bytes(&bytes[name])
            .map_err(|_invalid| "a header name of the answer is invalid")?;
        match name.as_str() {
            "connection" => {
                for token in tokens(&value) {
                    match token {
                        t if t.eq_ignore_ascii_case("close") => head.persistent = false,
                        t if t.eq_ignore_ascii_case("keep-alive") => head.persistent |= !http_1_1,
                        t if t.eq_ignore_ascii_case("upgrade") => upgrade_named = true,
                        _ => named = Some(true),
                    }
                }
                if named.is_some() {
                    // Kept for a moment: the names in it are removed below.
                    head.headers.append(
                        CONNECTION,
                        HeaderValue::from_maybe_shared(value).map_err(|_invalid| INVALID_VALUE)?,
                    );
                }
                continue;
            }
            "keep-alive" => {
                head.keep_alive =
                    tokens(&value).find_map(|t| t.strip_prefix("timeout=")?.parse().ok());
                continue;
            }
            "upgrade" => {
                head.upgrade = tokens(&value).any(|t| t.eq_ignore_ascii_case("websocket"));
                continue;
            }
            "proxy-connection" | "te" | "trailer" => continue,
            "transfer-encoding" => {
                if chunked.is_some() || !value.eq_ignore_ascii_case(b"chunked") || !http_1_1 {
                    return Err("the answer's Transfer-Encoding is not understood");
                }
                chunked = Some(());
                continue;
            }
            "content-length" => {
                let length =
                    framing::length(&value).ok_or("the answer's Content-Length is invalid")?;
                if content_length
                    .replace(length)
                    .is_some_and(|before| before != length)
                {
                    return Err("the answer has two lengths");
                }
                head.headers.insert(
                    CONTENT_LENGTH,
                    HeaderValue::from_maybe_shared(value).map_err(|_invalid| INVALID_VALUE)?,
                );
                continue;
            }
            _ => {}
        }
        head.headers.append(
            name,
            HeaderValue::from_maybe_shared(value).map_err(|_invalid| INVALID_VALUE)?,
        );
    }
    if named.is_some() {
        remove_named(&mut head.headers);
    }
    head.upgrade &= upgrade_named;
    if chunked.is_some() && content_length.is_some() {
        return Err("the answer has both a length and chunks");
    }
    let bodiless = asked_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let bare = status == StatusCode::NO_CONTENT || status.is_informational();
    if chunked.is_some() && (bare || status == StatusCode::NOT_MODIFIED)
        || bare && content_length.is_some_and(|n| n > 0)
    {
        // Whether the bytes it announces will come is anybody's guess.
        head.persistent = false;
    }
    if bare {
        // A length says nothing there (RFC 9110 section 8.6).
        head.headers.remove(CONTENT_LENGTH);
    }
    head.framing = match (bodiless, chunked, content_length) {
        (true, ..) => Framing::None,
        (false, Some(()), _) => Framing::Chunked,
        (false, None, Some(0)) => Framing::None,
        (false, None, Some(length)) => Framing::Length(length),
        (false, None, None) => Framing::UntilClose,
    };
    Ok(Some(head))
}

const INVALID_VALUE: &str = "a header value of the answer is invalid";

fn tokens(value: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(value)
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
}

/// Removes `Connection` and what it names (RFC 9110 section 7.6.1), but for what frames the body.
fn remove_named(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for name in lines.iter().flat_map(|line| tokens(line.as_bytes())) {
        if !name.eq_ignore_ascii_case("content-length")
            && !name.eq_ignore_ascii_case("content-type")
        {
            headers.remove(name);
        }
    }
    headers.remove(CONNECTION);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Head>, &'static str> {
        take(&mut BytesMut::from(text), false)
    }

    fn framing(fields: &str) -> Result<Framing, &'static str> {
        read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).map(|h| h.unwrap().framing)
    }

    #[test]
    fn a_head_is_taken_whole_and_what_follows_stays() {
        let mut buffer =
            BytesMut::from("HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 3\r\n\r\nabcd");
        let head = take(&mut buffer, false).unwrap().unwrap();
        assert_eq!(
            head.headers.get_all("x-a").iter().collect::<Vec<_>>(),
            ["1", "2"]
        );
        assert_eq!((head.framing, head.persistent), (Framing::Length(3), true));
        assert_eq!(&buffer[..], b"abcd");
    }

    #[test]
    fn an_incomplete_head_waits_and_one_without_end_is_refused() {
        assert!(read("HTTP/1.1 200 OK\r\nX-A: 1\r\n").unwrap().is_none());
        assert!(read(&format!("HTTP/1.1 200 OK\r\nX-A: {}", "a".repeat(MAX_HEAD))).is_err());
        assert!(
            read(&format!(
                "HTTP/1.1 200 OK\r\n{}\r\n",
                "X-A: 1\r\n".repeat(MAX_FIELDS + 1)
            ))
            .is_err()
        );
    }

    #[test]
    fn connection_level_headers_and_what_they_name_are_removed() {
        let head = read(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5, max=100\r\nX-Hop: 1\r\nTE: x\r\nContent-Length: 0\r\nX-End: 1\r\n\r\n",
        );
        let head = head.unwrap().unwrap();
        assert_eq!(
            head.headers
                .keys()
                .map(HeaderName::as_str)
                .collect::<Vec<_>>(),
            ["content-length", "x-end"]
        );
        assert_eq!(head.keep_alive, Some(5));
        assert!(head.persistent);
    }

    #[test]
    fn a_body_is_framed_in_exactly_one_way() {
        assert_eq!(
            framing("Content-Length: 5\r\nContent-Length: 5"),
            Ok(Framing::Length(5))
        );
        assert_eq!(framing("Transfer-Encoding: CHUNKED"), Ok(Framing::Chunked));
        assert_eq!(framing("X: y"), Ok(Framing::UntilClose));
        for two in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +5",
            "Content-Length: 5,5",
            "Content-Length: ",
            "Content-Length: 18446744073709551616",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding : chunked",
            "X: a\r\n folded",
        ] {
            assert!(framing(two).is_err(), "{two}");
        }
        assert!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn answers_that_have_no_body_have_none_whatever_they_announce() {
        for status in ["204 No Content", "304 Not Modified"] {
            let head = read(&format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n"))
                .unwrap()
                .unwrap();
            assert_eq!(head.framing, Framing::None);
        }
        let head = take(
            &mut BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            true,
        )
        .unwrap()
        .unwrap();
        assert_eq!(head.framing, Framing::None);
        assert_eq!(head.headers[CONTENT_LENGTH], "5");
    }

    #[test]
    fn http_1_0_is_kept_only_when_it_says_so() {
        assert!(
            !read("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
                .unwrap()
                .unwrap()
                .persistent
        );
        assert!(
            read("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
                .unwrap()
                .unwrap()
                .persistent
        );
        assert!(
            !read("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .unwrap()
                .unwrap()
                .persistent
        );
    }
}
