//! What a broken or bought backend answers (S9, S14): nobody else's answer comes of it.

use super::{Broken, HANDSHAKE, get, head, so};
use crate::support::{Backend, Client, Gateway, Proto, Raw, find, until};

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";

/// Says `bad` on its first connection, and is well on the others.
fn bad_once(bad: impl AsRef<[u8]> + Send + Sync + 'static) -> Backend {
    Backend::new(move |conn| {
        if conn.number == 1 {
            conn.request();
            conn.say(bad.as_ref());
            conn.read_to_end();
            return;
        }
        while conn.request().is_some() && conn.say(FINE) {}
    })
}

/// What the client gets.
#[derive(Clone, Copy, Debug)]
enum Gets {
    /// 502 of the gateway.
    Refusal,
    /// An answer that does not look whole.
    Broken,
    /// This status and body.
    Answer(u16, &'static str),
}

async fn hold(cases: &[(&str, Vec<u8>, Gets)]) {
    let mut broken = Broken::default();
    for (number, bad, gets) in cases {
        for proto in Proto::BOTH {
            let backend = bad_once(bad.clone());
            let gateway = Gateway::before(&backend).start().await;
            let mut client = Client::connect(&gateway, proto).await;
            let first = client.try_call("GET", "/cobrowsing/x", &[], "").await;
            let seen = || format!("{first:?}").chars().take(200).collect();
            let held = match (gets, &first) {
                (Gets::Refusal, Ok(reply)) => so(
                    reply.status == 502 && reply.text().contains("upstream_failed"),
                    seen,
                ),
                (Gets::Broken, Ok(reply)) => so(reply.status == 502, seen),
                (Gets::Broken, Err(_)) => Ok(()),
                (Gets::Answer(status, body), Ok(reply)) => so(
                    (reply.status.as_u16(), &*reply.text()) == (*status, body),
                    seen,
                ),
                _ => so(false, seen),
            };
            let case = || {
                let bad: String = bad.escape_ascii().to_string().chars().take(120).collect();
                format!("{number} {proto:?} {bad}")
            };
            broken.note(case, held);
            // The next answer is the next request's, from a connection of its own.
            let mut next = Client::connect(&gateway, Proto::H1).await;
            let second = next.get("/cobrowsing/y").await.text();
            broken.note(case, so(second == "fine", || format!("then {second}")));
            let connections = backend.connections();
            broken.note(
                case,
                so(connections == 2, || format!("{connections} connections")),
            );
        }
    }
}

fn answer(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn an_answer_that_could_end_in_two_places_is_none() {
    let mut cases = Vec::new();
    for fields in [
        "content-length: 2\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 2\r\n",
        "content-length: 2\r\ncontent-length: 3\r\n",
        "content-length: 2, 3\r\n",
        "content-length: +2\r\n",
        "content-length: 0x2\r\n",
        "content-length: -1\r\n",
        "content-length: \r\n",
        "content-length: 18446744073709551617\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: identity\r\n",
    ] {
        cases.push(("S14", answer(fields, "2\r\nno\r\n0\r\n\r\n"), Gets::Refusal));
    }
    for head in [
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n",
        "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n",
        "HTTP/1.1 099 Low\r\ncontent-length: 2\r\n",
        "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n",
        "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n",
        "HTTP/1.1 -20 OK\r\ncontent-length: 2\r\n",
        "ICY 200 OK\r\ncontent-length: 2\r\n",
        "HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 2\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n folded\r\ncontent-length: 2\r\n",
        "HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 2\r\n",
        "HTTP/1.1 200 OK\r\n: y\r\ncontent-length: 2\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n",
    ] {
        cases.push(("S14", format!("{head}\r\nno").into(), Gets::Refusal));
    }
    hold(&cases).await;
}

#[tokio::test]
async fn an_answer_without_measure_is_none() {
    let many = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(10_000);
    let large = format!("x: {}\r\n", "y".repeat(70 << 10));
    let fields: String = (0..300).map(|n| format!("x-{n}: 1\r\n")).collect();
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000);
    hold(&[
        ("S14", many.into(), Gets::Refusal),
        ("S14", endless.into(), Gets::Refusal),
        ("S14", answer(&large, ""), Gets::Refusal),
        ("S14", answer(&fields, ""), Gets::Refusal),
        ("S14", vec![b'x'; 128 << 10], Gets::Refusal),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_whose_chunks_are_malformed_does_not_look_whole() {
    let chunked = |body: &str| answer("transfer-encoding: chunked\r\n", body);
    let cases = [
        "0x2\r\nno\r\n0\r\n\r\n",
        "+2\r\nno\r\n0\r\n\r\n",
        "-2\r\nno\r\n0\r\n\r\n",
        "\r\nno\r\n0\r\n\r\n",
        "2\r\nnoX\r\n0\r\n\r\n",
        "10000000000000002\r\nno\r\n0\r\n\r\n",
    ];
    hold(&cases.map(|body| ("S14", chunked(body), Gets::Broken))).await;
    // Extensions without measure.
    let flood = format!("1;{}\r\nx\r\n", "e".repeat(64 << 10)).repeat(4);
    let trailers = format!("1\r\nx\r\n0\r\n{}", "x-y: z\r\n".repeat(64 << 10));
    hold(&[
        ("S14", chunked(&flood), Gets::Broken),
        ("S14", chunked(&trailers), Gets::Broken),
    ])
    .await;
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys_answer() {
    let forged = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let mut cases = Vec::new();
    for (head, status, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nme", 200, "me"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, ""),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nme\r\n0\r\n\r\n",
            200,
            "me",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
            204,
            "",
        ),
        (
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            204,
            "",
        ),
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nhello",
            304,
            "",
        ),
        (
            "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            304,
            "",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nme",
            200,
            "me",
        ),
        (
            "HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nme",
            200,
            "me",
        ),
    ] {
        cases.push((
            "S14",
            format!("{head}{forged}").into(),
            Gets::Answer(status, body),
        ));
    }
    for junk in ["\r\n", "\x00", "x"] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nme{junk}");
        cases.push(("S14", answer.into(), Gets::Answer(200, "me")));
    }
    hold(&cases).await;
    // The answer to HEAD has no body, whatever it announces.
    for proto in Proto::BOTH {
        let backend = bad_once(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 51\r\n\r\n{forged}"
        ));
        let gateway = Gateway::before(&backend).start().await;
        let mut client = Client::connect(&gateway, proto).await;
        let first = client.call("HEAD", "/cobrowsing/x", &[], "").await;
        assert_eq!((first.status.as_u16(), &*first.text()), (200, ""), "S14");
        assert_eq!(client.get("/cobrowsing/x").await.text(), "fine", "S14");
        assert_eq!(backend.connections(), 2, "S14");
    }
}

#[tokio::test]
async fn a_101_that_is_no_answer_to_the_handshake_opens_nothing() {
    const ACCEPT: &str = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let switch = "connection: upgrade\r\nupgrade: websocket\r\n";
    for fields in [
        format!("connection: upgrade\r\n{ACCEPT}"),
        format!("upgrade: websocket\r\n{ACCEPT}"),
        format!("connection: close\r\nupgrade: websocket\r\n{ACCEPT}"),
        format!("connection: upgrade\r\nupgrade: h2c\r\n{ACCEPT}"),
        format!("connection: upgrade\r\nupgrade: websocketx\r\n{ACCEPT}"),
        switch.to_owned(),
        format!("{switch}sec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        format!("{switch}sec-websocket-accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n"),
        format!("{switch}sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xO\r\n"),
        format!("{switch}sec-websocket-accept:\r\n"),
    ] {
        let fields = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nsecret of a tunnel");
        let backend = bad_once(fields.clone());
        let gateway = Gateway::before(&backend).start().await;
        let mut raw = Raw::connect(&gateway).await;
        raw.say(head(&get(b"/cobrowsing/socket", &[]), HANDSHAKE))
            .await;
        let reply = raw.answer().await;
        assert_eq!(reply.status, 502, "S9 {fields}");
        assert!(reply.text().contains("upstream_failed"), "S9 {fields}");
        raw.say(head(
            &get(b"/cobrowsing/next", &[]),
            b"connection: close\r\n",
        ))
        .await;
        let rest = raw.rest().await;
        assert!(rest.is_empty() || rest.ends_with(b"fine"), "S9 {fields}");
        assert!(find(&rest, b"secret").is_none(), "S9 {fields}");
        until("the connection is given up", || backend.open() <= 1).await;
        assert!(find(&backend.bytes(), b"/socket").is_some());
    }
}
