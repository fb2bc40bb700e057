//! Reading the head of an HTTP/1.1 request, strictly: what two servers could read in two ways is
//! refused (RFC 9112 sections 2.2, 3, 5 and 6).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use http::{header, request};

use crate::fields;
use crate::framing::{self, Decoder};
use crate::reject::Reject;

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    /// Method, target, version and header fields.
    pub request: request::Parts,
    /// What its body will be.
    pub body: Decoder,
    /// Whether the connection may carry another request.
    pub persistent: bool,
    /// Whether the client waits for our word before it sends the body.
    pub expects_continue: bool,
    /// What is wrong with it, if it goes no further.
    pub flaw: Option<Reject>,
}

/// Finds the end of a head in a buffer that grows, looking at each byte once.
#[derive(Debug, Default)]
pub struct Scan {
    /// Bytes that were looked at.
    seen: usize,
    /// Where the current line begins.
    line: usize,
}

/// What bounds a head.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes.
    pub bytes: usize,
    /// Most header fields.
    pub fields: usize,
}

impl Scan {
    /// Length of the head at the front of `buffer`, its empty line included, once that is there.
    fn end(&mut self, buffer: &mut BytesMut, bounds: Bounds) -> Result<Option<usize>, Reject> {
        const BARE: Reject = Reject::BadRequest("Lines must end with CR and LF.");
        while let Some(at) = memchr::memchr(b'\n', &buffer[self.seen..]) {
            let end = self.seen + at;
            if end == self.line || buffer[end - 1] != b'\r' {
                return Err(BARE);
            }
            if end + 1 > bounds.bytes {
                return Err(Reject::HeaderFieldsTooLarge);
            }
            let empty = end == self.line + 1;
            if empty && self.line == 0 {
                // An empty line before the request is passed over (RFC 9112 section 2.2).
                buffer.advance(2);
                *self = Self::default();
                continue;
            }
            (self.seen, self.line) = (end + 1, end + 1);
            if empty {
                return Ok(Some(end + 1));
            }
        }
        self.seen = buffer.len();
        if self.seen > bounds.bytes {
            return Err(Reject::HeaderFieldsTooLarge);
        }
        // Who speaks something else is told at once, not when its time is over.
        if !begins_like_a_request(buffer) {
            return Err(MALFORMED);
        }
        Ok(None)
    }

    /// Takes one head from the front of `buffer`, for [`Head::parse`]; `None`: it is not complete yet. An
    /// error is one after which nothing more on this connection can be understood.
    pub fn take(&mut self, buffer: &mut BytesMut, bounds: Bounds) -> Result<Option<Bytes>, Reject> {
        let Some(length) = self.end(buffer, bounds)? else {
            return Ok(None);
        };
        *self = Self::default();
        Ok(Some(buffer.split_to(length).freeze()))
    }
}

impl Head {
    /// Understands a whole head. After an error nothing more on its connection can be understood.
    pub fn parse(bytes: &Bytes, bounds: Bounds) -> Result<Self, Reject> {
        if bounds.fields <= USUAL_FIELDS {
            let mut fields = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
            parse(bytes, &mut fields[..bounds.fields])
        } else {
            parse(bytes, &mut vec![MaybeUninit::uninit(); bounds.fields])
        }
    }
}

const MALFORMED: Reject = Reject::BadRequest("The request is malformed.");

/// Whether an incomplete first line could become one: a method, or the CR of an empty line.
fn begins_like_a_request(line: &[u8]) -> bool {
    let method = line.split(|b| *b == b' ').next().unwrap_or_default();
    method.iter().all(|b| framing::is_token(*b)) || line == b"\r"
}

/// As many fields need no allocation.
const USUAL_FIELDS: usize = 100;

fn parse<'b>(
    bytes: &'b Bytes,
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Head, Reject> {
    const FIELD: Reject = Reject::BadRequest("A header field is malformed.");
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, fields) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reject::HeaderFieldsTooLarge),
        Err(
            httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine,
        ) => return Err(FIELD),
        Ok(_) | Err(_) => return Err(MALFORMED),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(MALFORMED);
    };
    let mut request = Request::new(()).into_parts().0;
    request.method = Method::from_bytes(method.as_bytes()).map_err(|_invalid| MALFORMED)?;
    request.version = if version == 1 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    let mut head = Head {
        persistent: version == 1,
        body: Decoder::Done,
        expects_continue: false,
        flaw: None,
        request,
    };
    // A server that cuts at `#` and one that does not see two paths; the parser below would cut.
    if memchr::memchr(b'#', target.as_bytes()).is_some() {
        head.flaw = Some(Reject::BadRequest("The request's target has a fragment."));
    }
    head.request.uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes()))
        .map_err(|_invalid| Reject::BadRequest("The request's target is malformed."))?;
    head.request.headers = fields::empty(parsed.headers.len());
    let mut framed = Framed::default();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_invalid| FIELD)?;
        // Slices of the one allocation: nothing is copied.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_invalid| FIELD)?;
        match name {
            header::CONNECTION => {
                for token in framing_tokens(&value) {
                    if token.eq_ignore_ascii_case(b"close") {
                        framed.close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        head.persistent = true;
                    }
                }
            }
            header::CONTENT_LENGTH => framed.length(&value),
            header::TRANSFER_ENCODING => framed.coding(&value),
            header::EXPECT => {
                head.expects_continue =
                    version == 1 && value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            _ => {}
        }
        head.request.headers.append(name, value);
    }
    head.persistent &= !framed.close;
    match framed.body(version == 1) {
        Ok(body) => head.body = body,
        Err(reject) => {
            head.flaw = Some(reject);
            // Where its body ends nobody knows.
            head.persistent = false;
        }
    }
    head.expects_continue &= !head.body.is_done();
    Ok(head)
}

fn framing_tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
}

/// What the header fields say of the body (RFC 9112 section 6.3).
#[derive(Default)]
struct Framed {
    close: bool,
    length: Option<u64>,
    coded: bool,
    bad: bool,
}

impl Framed {
    fn length(&mut self, value: &HeaderValue) {
        match framing::length(value.as_bytes()) {
            Some(length) if self.length.is_none_or(|before| before == length) => {
                self.length = Some(length);
            }
            _ => self.bad = true,
        }
    }

    fn coding(&mut self, value: &HeaderValue) {
        if std::mem::replace(&mut self.coded, true)
            || !value.as_bytes().eq_ignore_ascii_case(b"chunked")
        {
            self.bad = true;
        }
    }

    fn body(&self, http_1_1: bool) -> Result<Decoder, Reject> {
        match (self.coded, self.length) {
            _ if self.bad => {}
            (true, None) if http_1_1 => return Ok(Decoder::chunked()),
            (false, None | Some(0)) => return Ok(Decoder::Done),
            (false, Some(length)) => return Ok(Decoder::Length(length)),
            (true, _) => {}
        }
        Err(Reject::BadRequest(
            "The body must be framed by one Content-Length or by Transfer-Encoding: chunked.",
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 1 << 10,
        fields: 10,
    };

    fn read(text: &str) -> Result<Option<Head>, Reject> {
        take(&mut Scan::default(), &mut BytesMut::from(text))
    }

    fn take(scan: &mut Scan, buffer: &mut BytesMut) -> Result<Option<Head>, Reject> {
        let bytes = scan.take(buffer, BOUNDS)?;
        bytes.map(|bytes| Head::parse(&bytes, BOUNDS)).transpose()
    }

    fn head(fields: &str) -> Head {
        read(&format!("POST /x HTTP/1.1\r\n{fields}\r\n\r\n"))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_head_is_taken_whole_and_what_follows_stays() {
        let mut buffer = BytesMut::from("\r\nGET /a?b HTTP/1.1\r\nX-A: 1\r\nX-A: 2\r\n\r\nGET");
        let head = take(&mut Scan::default(), &mut buffer).unwrap().unwrap();
        assert_eq!(head.request.uri, "/a?b");
        let values: Vec<_> = head.request.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(head.persistent && head.body.is_done() && head.flaw.is_none());
        assert_eq!(&buffer[..], b"GET");
    }

    #[test]
    fn bodies_are_framed_in_exactly_one_way() {
        assert_eq!(head("Content-Length: 5").body.left(), Some(5));
        assert_eq!(head("Content-Length: 0").body.left(), Some(0));
        assert_eq!(
            head("Content-Length: 5\r\nContent-Length: 5").body.left(),
            Some(5)
        );
        assert!(matches!(
            head("Transfer-Encoding: Chunked").body,
            Decoder::Chunked(_)
        ));
        for two in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length: 5,5",
            "Content-Length: 5, 6",
            "Content-Length: ",
            "Content-Length: 5 5",
            "Content-Length: -1",
            "Content-Length: 18446744073709551616",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \"chunked\"",
        ] {
            let head = head(two);
            assert!(head.flaw.is_some() && !head.persistent, "{two}");
        }
        let old = read("POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(old.unwrap().unwrap().flaw.is_some());
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for bad in [
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA b: c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\x0b\r\n\r\n",
            "GET /  HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET /\r\n\r\n",
            "G@T / HTTP/1.1\r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\r\n\r\n",
        ] {
            assert!(matches!(read(bad), Err(Reject::BadRequest(_))), "{bad:?}");
        }
        assert!(
            read("GET /a#b HTTP/1.1\r\n\r\n")
                .unwrap()
                .unwrap()
                .flaw
                .is_some()
        );
    }

    #[test]
    fn size_and_number_of_fields_are_bounded() {
        let large = |text: String| read(&text).unwrap_err() == Reject::HeaderFieldsTooLarge;
        assert!(large(format!("GET /{}", "x".repeat(1024))));
        assert!(large(format!(
            "GET / HTTP/1.1\r\nA: {}\r\n\r\n",
            "x".repeat(1024)
        )));
        assert!(large(format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "A: b\r\n".repeat(11)
        )));
        assert!(read(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10))).is_ok());
    }

    #[test]
    fn a_connection_is_kept_as_its_version_says() {
        for (text, persistent) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false),
            (
                "GET / HTTP/1.1\r\nConnection: x, close , keep-alive\r\n\r\n",
                false,
            ),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(
                read(text).unwrap().unwrap().persistent,
                persistent,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_head_cut_anywhere_is_the_same_head(pieces in prop::collection::vec(1usize..30, 1..5), junk in "[a-z0-9:;=_ -]{0,20}") {
            let text = format!("\r\nPOST /x?{} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: {junk}\r\n\r\nabc", junk.replace(' ', ""));
            let (mut scan, mut buffer, mut rest) = (Scan::default(), BytesMut::new(), text.as_bytes());
            let mut pieces = pieces.into_iter().cycle();
            let head = loop {
                if let Some(head) = take(&mut scan, &mut buffer).unwrap() {
                    break head;
                }
                let n = pieces.next().unwrap().min(rest.len());
                prop_assert!(n > 0);
                buffer.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
            };
            let whole = read(&text).unwrap().unwrap();
            prop_assert_eq!(head.request.uri, whole.request.uri);
            prop_assert_eq!(head.request.headers, whole.request.headers);
            prop_assert_eq!([&buffer[..], rest].concat(), b"abc");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(take(&mut Scan::default(), &mut BytesMut::from(&bytes[..])));
        }
    }
}
