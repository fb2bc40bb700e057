//! Where a request or an answer ends: two readers must never disagree (S1 to S15). HTTP/1.1 alone;
//! HTTP/2 has frames.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Broken, HANDSHAKE, Held, Watch, get, head, so};
use crate::support::{Backend, Gateway, KEY, Raw, find, until, within};

/// What stands behind a request on the same connection. With the key: who takes it for a request of
/// its own lets it pass.
const NEXT: &str = "GET /cobrowsing/next HTTP/1.1\r\nhost: localhost\r\nauthorization: key-of-the-tests\r\nconnection: close\r\n\r\n";

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n{body}").into_bytes()
}

/// Sends on a connection that may be closed by now.
async fn say_anyway(raw: &mut Raw, text: &str) {
    drop(within(raw.stream.write_all(text.as_bytes())).await);
    drop(within(raw.stream.flush()).await);
}

/// All that is answered until the connection is closed; `Err`: it is not closed.
async fn all_answers(raw: &mut Raw) -> Result<Vec<u8>, String> {
    let quiet = Duration::from_secs(4);
    while let Ok(more) = tokio::time::timeout(quiet, raw.fill()).await {
        if !more {
            return Ok(std::mem::take(&mut raw.buffer));
        }
    }
    Err(format!("left open: {}", raw.buffer.escape_ascii()))
}

/// Refused with 400, and closed: nothing behind it was taken for anything.
async fn refused(gateway: &Gateway, watch: &mut Watch<'_>, request: &[u8]) -> Held {
    let mut raw = Raw::connect(gateway).await;
    raw.say([request, NEXT.as_bytes()].concat()).await;
    let all = all_answers(&mut raw)
        .await
        .inspect_err(|_| *watch = Watch::new(watch.backend))?;
    let seen = || all.escape_ascii().to_string();
    watch.no_request_came()?;
    so(all.starts_with(b"HTTP/1.1 400"), seen)?;
    so(find(&all[1..], b"HTTP/1.1 ").is_none(), seen)
}

async fn all_refused(cases: &[(&str, Vec<u8>)]) {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    for (number, request) in cases {
        let held = refused(&gateway, &mut watch, request).await;
        let shown: String = request.escape_ascii().to_string();
        let shown: String = shown.chars().skip(49).take(120).collect();
        broken.note(|| format!("{number} {shown}"), held);
    }
    until("the backend's connections are closed", || {
        backend.open() == 0
    })
    .await;
}

#[tokio::test]
async fn a_body_that_could_end_in_two_places_is_refused_and_ends_the_connection() {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let mut cases = Vec::new();
    for fields in [
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunkedx\r\n",
        "transfer-encoding: chunked\x0b\r\n",
        "transfer-encoding: \x0bchunked\r\n",
        "transfer-encoding: chunked;x=1\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked,\r\n",
        "transfer-encoding: ,chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding:\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n",
        "transfer-encoding: chun\x00ked\r\n",
    ] {
        cases.push(("S2", post(fields, chunked)));
    }
    for length in [
        "+5",
        "-1",
        "0x5",
        "5x",
        "5 5",
        "5;",
        "5.0",
        "5e0",
        "5, 6",
        "5,",
        ",5",
        "",
        "\u{665}",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999",
    ] {
        cases.push((
            "S3",
            post(&format!("content-length: {length}\r\n"), "hello"),
        ));
    }
    for fields in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5\r\nContent-Length: 0\r\n",
        "content-length : 5\r\n",
        "content-length\r\n",
    ] {
        cases.push(("S3", post(fields, "hello")));
    }
    all_refused(&cases).await;
}

/// Lines of the head.
#[tokio::test]
async fn a_head_that_is_malformed_is_refused_and_ends_the_connection() {
    let mut cases = Vec::new();
    for line in [
        ": empty name",
        " x: space before",
        "x y: space within",
        "x : space after",
        "x\t: tab after",
        "x\x00y: 1",
        "x\x7f: 1",
        "x\u{fc}: 1",
        "x(y): 1",
        "no colon",
        "x: a\x00b",
        "x: a\x01b",
        "x: a\x08b",
        "x: a\rb",
        "x: a\r\n folded",
        "x: a\r\n\tfolded",
        "x: \r\n folded",
    ] {
        let head = format!("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{line}\r\n\r\n");
        cases.push(("S12", head.into_bytes()));
    }
    for line in [
        "GET /cobrowsing/x",
        "GET /cobrowsing/x HTTP/1.2",
        "GET /cobrowsing/x HTTP/2.0",
        "GET /cobrowsing/x HTTP/0.9",
        "GET /cobrowsing/x http/1.1",
        "GET /cobrowsing/x HTTP/1.1x",
        "GET /cobrowsing/x HTTPS/1.1",
        "G\x00ET /cobrowsing/x HTTP/1.1",
        "G(ET) /cobrowsing/x HTTP/1.1",
        "GET\t/cobrowsing/x HTTP/1.1",
        " GET /cobrowsing/x HTTP/1.1",
        "/cobrowsing/x HTTP/1.1",
        "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET /cobrowsing/x HTTP/1.1",
    ] {
        let head = format!("{line}\r\nhost: localhost\r\n\r\n");
        cases.push(("S12", head.into_bytes()));
    }
    all_refused(&cases).await;
}

fn chunked(body: &str) -> Vec<u8> {
    post("transfer-encoding: chunked\r\n", body)
}

/// The request has begun upstream by then; it never becomes whole there.
#[tokio::test]
async fn a_malformed_chunk_ends_the_request_before_it_is_whole() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    for body in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";x\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;ext=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;ext\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "0\r\nx y: 1\r\n\r\n",
        "0\r\nx: \x00\r\n\r\n",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.say([chunked(body), NEXT.into()].concat()).await;
        let held = match all_answers(&mut raw).await {
            Err(open) => Err(open),
            Ok(all) => {
                // 400, or closed without a word: what cannot be framed cannot be answered for sure.
                let said = all.is_empty() || all.starts_with(b"HTTP/1.1 400");
                so(said && !all.ends_with(b"hello"), || {
                    all.escape_ascii().to_string()
                })
            }
        };
        let whole = backend.requests();
        let held = held.and_then(|()| so(whole.is_empty(), || format!("{whole:?}")));
        backend.forget();
        broken.note(|| format!("S5 {}", body.escape_debug()), held);
    }
    until("the backend's connections are closed", || {
        backend.open() == 0
    })
    .await;
}

#[tokio::test]
async fn extensions_of_chunks_are_bounded_and_short_ones_are_dropped() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    let fine = chunked("5;a=b;c=\"d e\"\r\nhello\r\n0;z\r\n\r\n");
    raw.say([fine, NEXT.into()].concat()).await;
    assert_eq!(raw.answer().await.text(), "hello");
    assert_eq!(raw.answer().await.status, 200);
    assert!(find(&backend.bytes(), b"a=b").is_none(), "S5");
    backend.forget();
    // 64 KiB of it for each byte.
    let one = format!("1;{}\r\nx\r\n", "e".repeat(64 << 10));
    let mut raw = Raw::connect(&gateway).await;
    let many = chunked(&one.repeat(16));
    // It may be closed before all of it is taken.
    let (mut reader, mut writer) = tokio::io::split(&mut raw.stream);
    let write = async {
        drop(writer.write_all(&many).await);
        drop(writer.write_all(b"0\r\n\r\n").await);
        drop(writer.flush().await);
        std::future::pending::<()>().await;
    };
    let mut all = Vec::new();
    let read = reader.read_to_end(&mut all);
    let (_, _) = within(async {
        tokio::select! {
            () = write => unreachable!(),
            read = read => (read, ()),
        }
    })
    .await;
    assert!(
        all.is_empty() || all.starts_with(b"HTTP/1.1 400"),
        "S5 {}",
        all.escape_ascii()
    );
    assert!(backend.requests().is_empty(), "S5");
}

#[tokio::test]
async fn an_unusual_but_sound_length_frames_one_request_and_the_next_is_its_own() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    for (number, request, may_refuse) in [
        ("S3", post("content-length:  5 \r\n", "hello"), false),
        ("S3", post("content-length:\t5\t\r\n", "hello"), false),
        ("S3", post("CONTENT-length: 005\r\n", "hello"), true),
        ("S3", post("content-length: 5, 5\r\n", "hello"), true),
        ("S3", post("content-length: 5,5\r\n", "hello"), true),
        (
            "S3",
            post("content-length: 5\r\ncontent-length: 5\r\n", "hello"),
            true,
        ),
        ("S5", chunked("0005\r\nhello\r\n000\r\n\r\n"), true),
        ("S5", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), false),
        (
            "S5",
            chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n"),
            false,
        ),
    ] {
        backend.forget();
        let mut raw = Raw::connect(&gateway).await;
        raw.say([&request, NEXT.as_bytes()].concat()).await;
        let first = super::first_of(&mut raw).await;
        let came = backend.requests();
        let held = match &first {
            Some(first) if first.status == 200 => {
                let second = raw.answer().await;
                let came = backend.requests();
                let one = came[0].body == b"hello" && first.text() == "hello";
                let two = second.status == 200 && came[1].target == "/next";
                one && two && came[1].body.is_empty() && came.len() == 2
            }
            _ => may_refuse && came.is_empty() && all_answers(&mut raw).await.is_ok(),
        };
        let held = so(held, || format!("{first:?} {came:?}"));
        broken.note(|| format!("{number} {}", request.escape_ascii()), held);
    }
}

#[tokio::test]
async fn an_old_version_has_no_chunks_and_its_connection_no_second_meaning() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    for (fields, body) in [
        ("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        (
            "connection: keep-alive\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        ("connection: keep-alive\r\n", "until the end\r\n\r\n"),
        ("", "until the end\r\n\r\n"),
    ] {
        backend.forget();
        let mut raw = Raw::connect(&gateway).await;
        let head = format!("POST /cobrowsing/x HTTP/1.0\r\nhost: localhost\r\n{fields}\r\n{body}");
        raw.say([head.as_bytes(), NEXT.as_bytes()].concat()).await;
        let held = match all_answers(&mut raw).await {
            Err(open) => Err(open),
            Ok(all) => {
                // Without a body or not at all, and what seemed one is no request.
                let came = backend.requests();
                let seen = || format!("{} {came:?}", all.escape_ascii());
                let refused = came.is_empty() && all.starts_with(b"HTTP/1.1 400")
                    || came.is_empty() && all.starts_with(b"HTTP/1.0 400");
                let bare =
                    !fields.contains("chunked") && came.len() == 1 && came[0].body.is_empty();
                so(refused || bare, seen)
            }
        };
        broken.note(|| format!("S4 {fields:?}"), held);
    }
}

fn handshake() -> Vec<u8> {
    head(&get(b"/cobrowsing/socket", &[]), HANDSHAKE)
}

#[tokio::test]
async fn without_a_101_what_follows_a_handshake_is_the_next_request_and_no_tunnel() {
    let smuggled = NEXT.replace(&format!("authorization: {KEY}\r\n"), "");
    let smuggled = smuggled.replace("/next", "/api/visitors/1");
    let smuggled = smuggled.replace("connection: close\r\n", "");
    for status in [
        "200 OK",
        "426 Upgrade Required",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "302 Found",
        "503 Busy",
    ] {
        let backend = Backend::refuses_the_upgrade(status);
        let gateway = Gateway::before(&backend).start().await;
        let mut raw = Raw::connect(&gateway).await;
        // At once: the handshake must wait for its answer, what follows is judged by itself.
        raw.say([&handshake(), smuggled.as_bytes()].concat()).await;
        assert_eq!(raw.answer().await.status, 400, "S6 {status}");
        assert_eq!(raw.answer().await.error(), "invalid_api_key", "S6 {status}");
        assert!(backend.requests().is_empty(), "S6 {status}");
        // While the backend decides.
        raw.say(handshake()).await;
        backend.until_requests(1).await;
        raw.say([smuggled.as_bytes(), NEXT.as_bytes()].concat())
            .await;
        assert!(
            status.starts_with(raw.answer().await.status.as_str()),
            "S6 {status}"
        );
        assert_eq!(raw.answer().await.error(), "invalid_api_key", "S6 {status}");
        assert!(
            status.starts_with(raw.answer().await.status.as_str()),
            "S6 {status}"
        );
        let targets: Vec<_> = backend.requests().into_iter().map(|r| r.target).collect();
        assert_eq!(targets, ["/socket", "/next"], "S6 {status}");
        assert_eq!(backend.last().header("upgrade"), None, "S6 {status}");
        // Bytes that a tunnel would have carried are no request.
        let mut raw = Raw::connect(&gateway).await;
        raw.say(handshake()).await;
        backend.until_requests(3).await;
        raw.say(b"\x81\x85\x00\x00\x00\x00hello\r\n\r\n").await;
        assert!(
            status.starts_with(raw.answer().await.status.as_str()),
            "S6 {status}"
        );
        let rest = all_answers(&mut raw).await.unwrap();
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"),
            "S6 {status}"
        );
        assert_eq!(backend.requests().len(), 3, "S6 {status}");
        assert!(find(&backend.bytes(), b"hello").is_none(), "S6 {status}");
    }
}

#[tokio::test]
async fn no_other_protocol_is_spoken_on_and_no_half_handshake_is_passed() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let version = "sec-websocket-version: 13\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for fields in [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n".to_owned(),
        "connection: Upgrade\r\nupgrade: H2C\r\n".to_owned(),
        "connection: upgrade\r\nupgrade: foo\r\n".to_owned(),
        "connection: upgrade\r\nupgrade: tls/1.2, http/1.1\r\n".to_owned(),
        "connection: upgrade\r\nupgrade: connect-udp\r\n".to_owned(),
        "connection: upgrade\r\nupgrade: web socket\r\n".to_owned(),
        format!("connection: close\r\nupgrade: websocket\r\n{version}{key}"),
        format!("upgrade: websocket\r\n{version}{key}"),
        format!("connection: upgrade\r\n{version}{key}"),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let request = format!("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n");
        assert_eq!(raw.call(&request).await.status, 200, "S7 {fields}");
        let came = backend.last();
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(came.header(gone), None, "S7 {fields}");
        }
    }
    backend.forget();
    for (number, request) in [
        (
            "S8",
            format!("GET {{}}{version}sec-websocket-key: short\r\n\r\n"),
        ),
        (
            "S8",
            format!("GET {{}}{key}sec-websocket-version: 777\r\n\r\n"),
        ),
        (
            "S8",
            format!("GET {{}}{key}sec-websocket-version: 8\r\n\r\n"),
        ),
        ("S8", format!("GET {{}}{key}\r\n")),
        ("S8", format!("GET {{}}{version}\r\n")),
        ("S8", format!("GET {{}}{version}{key}{key}\r\n")),
        (
            "S8",
            format!("POST {{}}{version}{key}content-length: 5\r\n\r\nhello"),
        ),
        (
            "S8",
            format!("POST {{}}{version}{key}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("S8", format!("PUT {{}}{version}{key}\r\n")),
    ] {
        let head = "/cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
        let request = request.replace("{}", head);
        let mut raw = Raw::connect(&gateway).await;
        raw.say([&request, NEXT].concat()).await;
        assert_eq!(raw.answer().await.status, 400, "{number} {request}");
        // The next one is the next one, where it is read at all.
        let rest = match super::first_of(&mut raw).await {
            None => 0,
            Some(next) => usize::from(next.status == 200),
        };
        assert_eq!(backend.requests().len(), rest, "{number} {request}");
        assert!(
            find(&backend.bytes(), b"hello").is_none(),
            "{number} {request}"
        );
        backend.forget();
    }
    // HTTP/1.0 cannot upgrade: refused, or answered without.
    let mut raw = Raw::connect(&gateway).await;
    let old = String::from_utf8(handshake())
        .unwrap()
        .replace("HTTP/1.1", "HTTP/1.0");
    let status = raw.call(old).await.status.as_u16();
    assert!(matches!(status, 200 | 400), "S8 {status}");
    assert!(
        backend
            .requests()
            .iter()
            .all(|r| r.header("upgrade").is_none()),
        "S8"
    );
}

#[tokio::test]
async fn the_unread_body_of_an_answered_request_is_never_the_next_request() {
    let smuggled = "GET /cobrowsing/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for size in [1, 100, 4000] {
        // Answered by the gateway itself, before it has read a body of any size.
        let backend = Backend::well();
        let gateway = Gateway::before(&backend).start().await;
        for (path, fields, status) in [
            ("/cobrowsing/api/x", "", 401),
            ("/outside", "", 404),
            ("/cobrowsing/a;b", "", 400),
            (
                "/cobrowsing/api/x",
                "authorization: key-of-the-tests\r\n",
                if size > 1000 { 413 } else { 200 },
            ),
        ] {
            let body = smuggled.repeat(size);
            let mut raw = Raw::connect(&gateway).await;
            raw.say(format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\n{fields}content-length: {}\r\n\r\n",
                body.len()
            ))
            .await;
            if status != 200 {
                assert_eq!(raw.answer().await.status, status, "S10 {path}");
            }
            say_anyway(&mut raw, &body).await;
            say_anyway(&mut raw, NEXT).await;
            if status == 200 {
                assert_eq!(raw.answer().await.status, status, "S10 {path}");
            }
            if let Some(next) = super::first_of(&mut raw).await {
                assert_eq!(next.status, 200, "S10 {path} {size}");
                assert_eq!(backend.last().target, "/next");
            }
        }
        assert!(
            backend.requests().iter().all(|r| r.target != "/smuggled"),
            "S10"
        );
        // Answered early by the backend.
        let backend = Backend::new(|conn| {
            if conn.head().is_some() {
                conn.say(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
                conn.read_to_end();
            }
        });
        let gateway = Gateway::before(&backend).start().await;
        let body = smuggled.repeat(size);
        let mut raw = Raw::connect(&gateway).await;
        let length = format!("content-length: {}\r\n", body.len());
        raw.say(post(&length, &body[..1])).await;
        assert_eq!(raw.answer().await.status, 403, "S10");
        say_anyway(&mut raw, &body[1..]).await;
        say_anyway(&mut raw, NEXT).await;
        if let Some(next) = super::first_of(&mut raw).await {
            assert_eq!(next.status, 403, "S10 {size}");
            assert!(
                find(&backend.bytes(), b"GET /next ").is_some(),
                "S10 {size}"
            );
        }
        assert!(
            find(&backend.bytes(), b"GET /smuggled").is_none(),
            "S10 {size}"
        );
    }
}

#[tokio::test]
async fn who_expects_100_continue_is_never_read_out_of_step() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    // Without a body there is nothing to wait for.
    for fields in [
        "expect: 100-continue\r\n",
        "expect: 100-Continue\r\ncontent-length: 0\r\n",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.say([post(fields, ""), NEXT.into()].concat()).await;
        assert_eq!(raw.answer().await.status, 200, "S11 {fields}");
        assert_eq!(raw.answer().await.status, 200, "S11 {fields}");
        assert_eq!(backend.last().target, "/next");
        assert_eq!(backend.last().body, b"");
    }
    // The body may come without being asked for.
    let mut raw = Raw::connect(&gateway).await;
    let whole = post("expect: 100-continue\r\ncontent-length: 5\r\n", "hello");
    raw.say([&whole, NEXT.as_bytes()].concat()).await;
    assert_eq!(raw.answer().await.text(), "hello", "S11");
    assert_eq!(raw.answer().await.status, 200, "S11");
    // Another expectation: refused, or not passed on.
    backend.forget();
    for expected in ["foo", "100-continue, foo", ""] {
        let mut raw = Raw::connect(&gateway).await;
        let whole = post(
            &format!("expect: {expected}\r\ncontent-length: 5\r\n"),
            "hello",
        );
        raw.say([&whole, NEXT.as_bytes()].concat()).await;
        let first = raw.answer().await.status.as_u16();
        assert!(matches!(first, 200 | 400 | 417), "S11 {expected}");
        if let Some(next) = super::first_of(&mut raw).await {
            assert_eq!(next.status, 200, "S11 {expected}");
            assert_eq!(backend.last().target, "/next", "S11 {expected}");
        }
        assert!(
            backend
                .requests()
                .iter()
                .all(|r| r.header("expect").is_none()),
            "S11"
        );
    }
    // A final answer instead of 100: what comes then is the body, or the connection is closed.
    backend.forget();
    let mut raw = Raw::connect(&gateway).await;
    let refused = format!("expect: 100-continue\r\ncontent-length: {}\r\n", NEXT.len());
    let refused = String::from_utf8(post(&refused, ""))
        .unwrap()
        .replace("/x ", "/api/x ");
    raw.say(refused).await;
    assert_eq!(raw.answer().await.status, 401, "S11");
    say_anyway(&mut raw, NEXT).await;
    let quiet = Duration::from_millis(300);
    drop(tokio::time::timeout(quiet, raw.fill()).await);
    assert_eq!(raw.buffer, b"", "S11");
    assert!(backend.requests().is_empty(), "S11");
}

#[tokio::test]
async fn trailers_change_nothing_and_go_no_further() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    for trailer in [
        "content-length: 100",
        "transfer-encoding: chunked",
        "transfer-encoding: identity",
        "host: evil.test",
        "authorization: trailed",
        "x-forwarded-for: 1.2.3.4",
        "x-forwarded-proto: http",
        "cookie: a=trailed",
        "connection: close",
        "upgrade: websocket",
        "x-request-id: trailed",
        "trailer: x",
    ] {
        backend.forget();
        let mut raw = Raw::connect(&gateway).await;
        let whole = chunked(&format!(
            "5\r\nhello\r\n0\r\n{trailer}\r\nx-more: trailed\r\n\r\n"
        ));
        raw.say([&whole, NEXT.as_bytes()].concat()).await;
        let first = raw.answer().await;
        if first.status == 400 {
            assert!(backend.requests().is_empty(), "S13 {trailer}");
            continue;
        }
        assert_eq!(first.text(), "hello", "S13 {trailer}");
        assert_eq!(raw.answer().await.status, 200, "S13 {trailer}");
        let came = backend.requests();
        assert_eq!(
            (came.len(), &*came[0].body),
            (2, &b"hello"[..]),
            "S13 {trailer}"
        );
        assert_eq!(came[1].target, "/next", "S13 {trailer}");
        let value = trailer.split_once(": ").unwrap().1;
        let (line, more) = (format!(": {value}\r\n"), "trailed");
        let bytes = backend.bytes();
        let own = matches!(value, "chunked");
        assert!(
            own || find(&bytes, line.as_bytes()).is_none(),
            "S13 {trailer}"
        );
        assert!(find(&bytes, more.as_bytes()).is_none(), "S13 {trailer}");
    }
}

#[tokio::test]
async fn nothing_is_carried_before_both_sides_agreed() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |conn| {
        conn.request();
        wait.lock().unwrap().recv().ok();
        conn.say(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
        conn.read_to_end();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say(handshake()).await;
    backend.until_requests(1).await;
    raw.say("early data and more of it").await;
    go.send(()).unwrap();
    assert_eq!(raw.answer().await.status, 403, "S15");
    let bytes = backend.bytes();
    assert!(
        find(&bytes, b"early").is_none() && find(&bytes, b"more").is_none(),
        "S15"
    );
    drop(raw);
    // CONNECT opens nothing, and what was sent ahead is a request like any other.
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for target in [
        "localhost:443",
        "127.0.0.1:22",
        "/cobrowsing/x",
        "https://localhost/cobrowsing/x",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let ahead = NEXT
            .replace(&format!("authorization: {KEY}\r\n"), "")
            .replace("/next", "/api/x");
        raw.say(format!(
            "CONNECT {target} HTTP/1.1\r\nhost: localhost\r\n\r\n{ahead}"
        ))
        .await;
        let status = raw.answer().await.status.as_u16();
        assert!(matches!(status, 400 | 501), "S15 {target}");
        if let Some(next) = super::first_of(&mut raw).await {
            assert_eq!(next.error(), "invalid_api_key", "S15 {target}");
        }
    }
    assert_eq!(backend.bytes(), b"", "S15");
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_answered_one_by_one_in_their_order() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    let all: String = (0..1000)
        .map(|n| {
            let body = n.to_string();
            let length = body.len();
            format!("POST /cobrowsing/{n} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}")
        })
        .collect();
    raw.say(all).await;
    for n in 0..1000 {
        assert_eq!(raw.answer().await.text(), n.to_string(), "3.6");
    }
    // One at a time upstream, too.
    assert_eq!(
        (backend.requests().len(), backend.connections()),
        (1000, 1),
        "3.6"
    );
}

#[tokio::test]
async fn a_body_with_a_length_and_chunks_is_refused() {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let cases = [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 0\r\ntransfer-encoding: chunked\r\n",
        "Content-Length: 15\r\nTransfer-Encoding: CHUNKED\r\n",
    ];
    all_refused(&cases.map(|fields| ("S1", post(fields, chunked)))).await;
}

#[tokio::test]
async fn a_line_that_ends_with_a_bare_lf_is_refused() {
    let cases = [
        "GET /cobrowsing/x HTTP/1.1\nhost: localhost\n\n",
        "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\n\r\n",
        "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nx: a\nx-b: c\r\n\r\n",
        "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nx: a\n\r\n",
        "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\n",
    ];
    all_refused(&cases.map(|head| ("S12", head.into()))).await;
}

#[tokio::test]
async fn a_chunk_whose_lines_do_not_end_with_crlf_is_refused() {
    let chunks = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;a=b\nhello\r\n0\r\n\r\n",
    ];
    all_refused(&chunks.map(|body| ("S5", chunked(body)))).await;
}
