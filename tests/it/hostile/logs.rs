//! What the gateway writes: no secret of anybody in any place, and one line is one line (3.7).

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HANDSHAKE, Sent, Way, get, head, send};
use crate::support::h2_raw::{Field, H2, block, data, headers, request};
use crate::support::receiver::Receiver;
use crate::support::{Backend, Gateway, Proto, Raw, find, tls_to, until, within};

/// The places where secrets are put; each has one of its own.
const PLACES: &[&str] = &[
    "key",
    "wrong",
    "bearer",
    "cookie",
    "query",
    "token",
    "path",
    "id",
    "protocol",
    "referer",
    "agent",
    "body",
    "sni",
    "host",
    "forwarded",
    "requestid",
    "apikey",
    "custom",
    "name",
    "method",
    "authority",
    "scheme",
    "trailer",
    "chunk",
    "tunnel",
    "wskey",
    "answer",
    "setcookie",
    "watch",
    "badhead",
    "reason",
    "plain",
    "expect",
    "origin",
];

/// The secret of a place: distinct, and in letters that every place takes.
fn secret(place: &str) -> String {
    assert!(PLACES.contains(&place), "{place}");
    format!("cnry7{place}9yrnc")
}

/// In which forms a secret must not be found.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let mut forms = vec![
        secret.to_owned(),
        bytes.iter().map(|b| format!("%{b:02x}")).collect(),
        bytes.iter().map(|b| format!("%{b:02X}")).collect(),
        bytes.iter().map(|b| format!("{b:02x}")).collect(),
        bytes.iter().map(|b| format!("{b}, ")).collect(),
    ];
    // Base64 by itself, and within something longer: what depends on the neighbours is cut away.
    for offset in 0..3 {
        let encoded = BASE64_STANDARD_NO_PAD.encode([&b"xx"[..offset], bytes].concat());
        let from = [0, 2, 3][offset];
        forms.push(encoded[from..encoded.len() - 2].to_owned());
    }
    forms
}

/// Tells each secret that is found.
fn none_in(sink: &str, text: &str) {
    let lower = text.to_lowercase();
    for place in PLACES {
        for form in forms(&secret(place)) {
            let found = text.contains(&form) || lower.contains(&form.to_lowercase());
            assert!(!found, "the {place} is in {sink} as {form}: {text}");
        }
    }
}

/// Headers with a secret each.
fn fields() -> Vec<(String, String)> {
    let s = secret;
    [
        ("authorization", s("wrong")),
        ("cookie", format!("session={}; b=c", s("cookie"))),
        (
            "referer",
            format!("https://localhost/cobrowsing/screen?token={}", s("referer")),
        ),
        ("user-agent", format!("Mozilla/5.0 ({})", s("agent"))),
        ("x-forwarded-for", s("forwarded")),
        ("x-request-id", s("requestid")),
        ("x-api-key", s("apikey")),
        ("x-custom", s("custom")),
        (&*s("name"), "x".into()),
        ("origin", format!("https://{}.test", s("origin"))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Answers with secrets, and breaks off with secrets.
fn talkative() -> Backend {
    let (answer, cookie, watch) = (secret("answer"), secret("setcookie"), secret("watch"));
    let (bad, reason) = (secret("badhead"), secret("reason"));
    Backend::new(move |conn| {
        while let Some(request) = conn.request() {
            if request.header("upgrade").is_some() {
                let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(
                    request.header("sec-websocket-key").unwrap().as_bytes(),
                );
                conn.say(format!("HTTP/1.1 101 {reason}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\nset-cookie: {cookie}\r\n\r\n").as_bytes());
                conn.read();
                return;
            }
            let body =
                format!("{{\"watch_url\":\"http://x/screen?token={watch}\",\"a\":\"{answer}\"}}");
            let fields = format!(
                "set-cookie: {cookie}\r\nlocation: /x?token={answer}\r\ncontent-type: application/json\r\n"
            );
            let fine = match &*request.target {
                // Answers that are none.
                "/bad/status" => format!("HTTP/1.1 {bad} OK\r\n\r\n"),
                "/bad/field" => format!("HTTP/1.1 200 OK\r\n{bad}\x00: {bad}\r\n\r\n"),
                "/bad/length" => format!("HTTP/1.1 200 OK\r\ncontent-length: {bad}\r\n\r\n"),
                "/bad/coding" => format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {bad}\r\n\r\n"),
                "/bad/chunk" => {
                    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{bad}\r\n")
                }
                "/bad/json" => format!(
                    "HTTP/1.1 200 OK\r\n{fields}content-encoding: {bad}\r\ncontent-length: 2\r\n\r\n{{}}"
                ),
                _ => format!(
                    "HTTP/1.1 200 {reason}\r\n{fields}content-length: {}\r\n\r\n{body}",
                    body.len()
                ),
            };
            if !conn.say(fine.as_bytes()) || request.target.starts_with("/bad") {
                return;
            }
        }
    })
}

/// Sends secrets in every place of every kind of request; the bodies of what the gateway itself
/// answered.
async fn tell_secrets(gateway: &Gateway) -> Vec<String> {
    let (mut refusals, fields) = (Vec::new(), fields());
    let as_fields = |from: &'static str| -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut fields: Vec<_> = fields
            .iter()
            .map(|(n, v)| (n.clone().into_bytes(), v.clone().into_bytes()))
            .collect();
        fields[0].1 = secret(from).into_bytes();
        if from == "bearer" {
            fields[0].1 = format!("Bearer {}", secret(from)).into_bytes();
        }
        fields
    };
    let (id, query, token, path) = (
        secret("id"),
        secret("query"),
        secret("token"),
        secret("path"),
    );
    let targets = [
        format!("/cobrowsing/api/visitors/{id}?q={query}&token={token}"),
        format!("/cobrowsing/api/visitors/{id}/watch_url?{query}"),
        format!("/cobrowsing/api/visitors/list/search?q={query}"),
        format!("/cobrowsing/screen?id={id}&token={token}"),
        format!("/cobrowsing/{path}/x?{query}#{token}"),
        format!("/cobrowsing/api%2f{path}"),
        format!("/cobrowsing/{path};{query}"),
        format!("/cobrowsing/%zz{path}"),
        format!("/cobrowsing?{query}"),
        format!("/{path}?{query}"),
        path.clone(),
        "/cobrowsing/bad/status".into(),
        "/cobrowsing/bad/field".into(),
        "/cobrowsing/bad/length".into(),
        "/cobrowsing/bad/coding".into(),
    ];
    for target in &targets {
        for way in Way::ALL {
            for from in ["key", "wrong", "bearer"] {
                let owned = as_fields(from);
                let fields: Vec<Field> = owned.iter().map(|(n, v)| (&**n, &**v)).collect();
                let outcome = send(gateway, way, &get(target.as_bytes(), &fields)).await;
                if outcome.status.is_some_and(|s| s >= 400) {
                    refusals.push(outcome.body);
                }
            }
        }
    }
    // Odd parts of a request.
    let (host, method, authority) = (secret("host"), secret("method"), secret("authority"));
    let odd = |method: &str, host: &str| (method.to_owned(), host.to_owned());
    for (method, host) in [
        odd("GET", &format!("{host}.test")),
        odd("GET", &format!("{host}@localhost")),
        odd(&method.to_uppercase(), "localhost"),
        odd("TRACE", &authority),
        odd("CONNECT", &authority),
    ] {
        for way in [Way::H1, Way::H2] {
            let sent = Sent {
                method: method.as_bytes(),
                host: host.as_bytes(),
                ..get(b"/cobrowsing/api/x", &[])
            };
            let outcome = send(gateway, way, &sent).await;
            if outcome.status.is_some_and(|s| s >= 400) {
                refusals.push(outcome.body);
            }
        }
    }
    refusals.extend(tell_malformed(gateway).await);
    tell_in_bodies(gateway).await;
    tell_in_handshakes(gateway).await;
    refusals
}

/// Requests that are none.
async fn tell_malformed(gateway: &Gateway) -> Vec<String> {
    let (path, agent, cookie) = (secret("path"), secret("agent"), secret("cookie"));
    let (key, custom, expect) = (secret("key"), secret("custom"), secret("expect"));
    let mut refusals = Vec::new();
    for request in [
        format!("GET /{path} \x01 HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        format!("GET /cobrowsing/{path} HTTP/9.9\r\nhost: localhost\r\n\r\n"),
        format!("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nauthorization {key}\r\n\r\n"),
        format!("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\x00\r\n\r\n"),
        format!("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{custom} : x\r\n\r\n"),
        format!(
            "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: {custom}\r\n\r\n"
        ),
        format!(
            "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: {custom}\r\n\r\n"
        ),
        format!(
            "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nexpect: {expect}\r\ncontent-length: 1\r\n\r\nx"
        ),
        format!(
            "GET /cobrowsing/api/x HTTP/1.1\r\nhost: localhost\r\nauthorization: {key}\r\nauthorization: {key}\r\n\r\n"
        ),
        format!(
            "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nuser-agent: {}\r\n\r\n",
            agent.repeat(8 << 10)
        ),
        format!("{path}\r\n\r\n"),
        key.clone(),
    ] {
        let mut raw = Raw::connect(gateway).await;
        raw.say(&request).await;
        raw.stream.shutdown().await.ok();
        let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
        // An expectation that nobody knows is passed on; whether its answer is there before we are
        // gone is a matter of time, and that answer is the backend's, not a refusal.
        if !answer.starts_with("HTTP/1.1 200 ") {
            refusals.push(answer);
        }
    }
    let (authority, scheme) = (secret("authority"), secret("scheme"));
    for fields in [
        [
            (":method", "GET"),
            (":scheme", &*scheme),
            (":authority", &*authority),
            (":path", &*path),
        ],
        [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", &*authority),
            (&*custom, "\0"),
        ],
        [
            (":method", &*key),
            (":scheme", "https"),
            (":path", "/\r\n"),
            ("cookie", &*cookie),
        ],
        [
            ("authorization", &*key),
            (":method", "GET"),
            (":path", "/"),
            (":scheme", "https"),
        ],
    ] {
        let fields = fields.map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let answer = H2::connect(gateway).await.call(&fields).await;
        refusals.push(format!("{answer:?}"));
    }
    // A frame that is none, with a secret in it.
    let mut h2 = H2::connect(gateway).await;
    h2.say(&crate::support::h2_raw::frame(4, 0, 7, key.as_bytes()))
        .await;
    h2.ending().await;
    refusals
}

/// In bodies, chunks and trailers.
async fn tell_in_bodies(gateway: &Gateway) {
    let body = format!("{{\"licenseToken\":\"{}\"}}", secret("body"));
    let (key, chunk, trailer) = (secret("key"), secret("chunk"), secret("trailer"));
    let post = format!(
        "POST /cobrowsing/api/visitors/1/watch_url HTTP/1.1\r\nhost: localhost\r\nauthorization: {key}\r\n"
    );
    for request in [
        format!("{post}content-length: {}\r\n\r\n{body}", body.len()),
        format!("{post}content-length: {}\r\n\r\n{body}", 1 << 30),
        format!(
            "{post}transfer-encoding: chunked\r\n\r\n1;{chunk}\r\nx\r\n0\r\nx-t: {trailer}\r\n\r\n"
        ),
        format!("{post}transfer-encoding: chunked\r\n\r\n{chunk}\r\n"),
    ] {
        let mut raw = Raw::connect(gateway).await;
        raw.say(request).await;
        // Fine, too large, or broken off.
        drop(super::first_of(&mut raw).await);
    }
    let mut h2 = H2::connect(gateway).await;
    let stream = h2.stream();
    let fields = [(&b"authorization"[..], key.as_bytes())];
    let head = block(&request(
        b"POST",
        b"/cobrowsing/api/visitors/1/watch_url",
        &fields,
    ));
    h2.say(&headers(stream, false, &head)).await;
    h2.say(&data(stream, false, body.as_bytes())).await;
    h2.say(&headers(
        stream,
        true,
        &block(&[(b"x-t", trailer.as_bytes())]),
    ))
    .await;
    h2.answer(stream).await;
}

/// In tunnels and in the handshakes of WebSocket and TLS.
async fn tell_in_handshakes(gateway: &Gateway) {
    let fields = format!("sec-websocket-protocol: {}\r\n", secret("protocol"));
    let more = [HANDSHAKE, fields.as_bytes()].concat();
    let mut raw = Raw::connect(gateway).await;
    raw.say(head(&get(b"/cobrowsing/socket", &[]), &more)).await;
    assert_eq!(raw.head().await.status, 101);
    raw.say(secret("tunnel")).await;
    raw.rest().await;
    let nonce = format!("sec-websocket-key: {}\r\n", secret("wskey"));
    let bad = String::from_utf8(more)
        .unwrap()
        .replace("sec-websocket-key", "x-no")
        + &nonce;
    let mut raw = Raw::connect(gateway).await;
    raw.say(head(&get(b"/cobrowsing/socket", &[]), bad.as_bytes()))
        .await;
    assert_eq!(raw.answer().await.status, 400);
    let name = format!("{}.test", secret("sni"));
    let other = tls_to(gateway, &name, &[&secret("sni")], rustls::DEFAULT_VERSIONS).await;
    assert!(other.is_err());
    let mut plain = tokio::net::TcpStream::connect(gateway.listen)
        .await
        .unwrap();
    let text = format!(
        "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        secret("plain")
    );
    plain.write_all(text.as_bytes()).await.unwrap();
    drop(within(plain.read_to_end(&mut Vec::new())).await);
}

#[tokio::test]
async fn no_secret_is_in_any_line_metric_refusal_or_argument() {
    for format in ["json", "text"] {
        let (backend, receiver) = (talkative(), Receiver::start());
        let gateway = receiver
            .told_by(Gateway::before(&backend))
            .without_key()
            .env("REST_KEY", &secret("key"))
            .toml(&format!("log.level = 'debug'\nlog.format = '{format}'"))
            .start()
            .await;
        let refusals = tell_secrets(&gateway).await;
        assert!(refusals.len() > 60, "{}", refusals.len());
        let admin = gateway.admin.port().to_string();
        for refusal in &refusals {
            none_in("a refusal", refusal);
            // Nor where anything is.
            let upstream = backend.address.port().to_string();
            for place in [&*upstream, &*admin, "127.0.0.1"] {
                assert!(
                    !refusal.contains(place),
                    "{place} is in a refusal: {refusal}"
                );
            }
        }
        for path in ["/metrics", "/readyz", "/livez", "/startupz", "/nothing"] {
            none_in(path, &gateway.ask(path).await.text());
        }
        let arguments = std::fs::read(format!("/proc/{}/cmdline", gateway.pid())).unwrap();
        none_in("the arguments", &String::from_utf8_lossy(&arguments));
        until("lines of requests", || gateway.log().len() > 60).await;
        let ended = gateway.stop().await;
        let spans = receiver.spans();
        assert!(spans.len() > 100, "{}", spans.len());
        none_in("the traces", &format!("{spans:?}"));
        none_in("the traces", &String::from_utf8_lossy(&receiver.sent()));
        none_in("standard error", &ended.errors);
        for line in &ended.log {
            none_in("a line", line);
        }
    }
}

/// What would end a line, close a string, or turn text around.
const INJECTIONS: &[&str] = &[
    "x\",\"status\":200,\"y\":\"",
    "x\\\",\\\"status\\\":200",
    "x\r\n{\"level\":\"INFO\",\"forged\":true}",
    "x\n127.0.0.1 - forged",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{1b}]0;title\u{7}",
    "\u{202e}gnp.exe",
    "\u{2028}\u{2029}",
    "\u{85}\u{feff}",
    "%0a%0dforged",
    "\\u000aforged",
    "${jndi:ldap://forged}",
    "{{forged}}",
    "\t\u{b}\u{c}",
    "\u{0}",
];

/// Short, of characters that show as they are, and nothing of the client's.
fn is_one_event(line: &str, format: &str) {
    assert!(line.len() < 2 << 10, "{} bytes: {line:.200}", line.len());
    assert!(!line.contains("forged"), "{line}");
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{feff}');
    assert!(!line.contains(odd), "{}", line.escape_debug());
    if format == "json" {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line.is_object());
    }
}

#[tokio::test]
async fn one_event_is_one_line_whatever_the_client_writes() {
    let backend = Backend::well();
    let long = "l".repeat(20 << 10);
    for (trusted, format) in [(false, "json"), (true, "json"), (true, "text")] {
        let mut setup = Gateway::before(&backend)
            .toml(&format!("log.level = 'debug'\nlog.format = '{format}'"));
        if trusted {
            setup = setup.toml("public.trusted_proxies = ['127.0.0.0/8']");
        }
        let gateway = setup.start().await;
        let mut asked = 0;
        for text in INJECTIONS.iter().copied().chain([&*long]) {
            for name in [
                "user-agent",
                "referer",
                "x-request-id",
                "x-forwarded-for",
                "authorization",
                "cookie",
                "x-forwarded-host",
            ] {
                for way in [Way::H1, Way::H2] {
                    let fields = [(name.as_bytes(), text.as_bytes())];
                    send(&gateway, way, &get(b"/cobrowsing/x", &fields)).await;
                    asked += 1;
                }
            }
            let target = format!("/cobrowsing/{text}?{text}");
            let sent = Sent {
                host: text.as_bytes(),
                ..get(target.as_bytes(), &[])
            };
            send(&gateway, Way::H1, &sent).await;
            send(&gateway, Way::H2, &get(target.as_bytes(), &[])).await;
            let sent = Sent {
                method: text.as_bytes(),
                ..get(b"/cobrowsing/x", &[])
            };
            send(&gateway, Way::H1, &sent).await;
        }
        // The last one is there, so all of them are.
        send(&gateway, Way::H1, &get(b"/outside/last", &[])).await;
        until("the last line", || {
            gateway.log().last().is_some_and(|l| l.contains("404"))
        })
        .await;
        for line in gateway.log() {
            is_one_event(&line, format);
        }
        assert!(
            gateway.log().len() <= 3 * asked,
            "{} lines",
            gateway.log().len()
        );
        assert_eq!(gateway.errors(), "");
    }
}

#[tokio::test]
async fn a_refusal_is_the_same_whether_the_api_is_closed_or_the_key_is_wrong_or_nothing_is_there() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = crate::support::Client::connect(&gateway, proto).await;
        let mut shapes = Vec::new();
        for path in [
            "/cobrowsing/api/visitors/1",
            "/cobrowsing/api/none",
            "/cobrowsing/api",
        ] {
            let reply = client.get(path).await;
            let mut json = reply.json();
            json["request_id"].take();
            let names: Vec<_> = reply.headers.keys().cloned().collect();
            shapes.push((reply.status, json, names));
        }
        assert!(shapes.windows(2).all(|two| two[0] == two[1]), "{shapes:?}");
    }
    assert!(find(&backend.bytes(), b"api").is_none());
}

/// A hello to a server of any name at all.
async fn tls_with_name(gateway: &Gateway, name: &str) {
    let name = &name.as_bytes()[..name.len().min(12 << 10)];
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let sni = with_length(&[&[0][..], &with_length(name)].concat());
    let groups = with_length(&[0, 29]);
    let schemes = with_length(&[4, 3, 8, 4]);
    let mut extensions = Vec::new();
    for (kind, body) in [
        (0_u16, sni),
        (10, with_length(&groups)[2..].to_vec()),
        (13, with_length(&schemes)[2..].to_vec()),
    ] {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(with_length(&body));
    }
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend(with_length(&[0xc0, 0x2b]));
    hello.extend([1, 0]);
    hello.extend(with_length(&extensions));
    let length = (hello.len() as u32).to_be_bytes();
    let message = [&[1][..], &length[1..], &hello].concat();
    let record = [&[22, 3, 1][..], &with_length(&message)].concat();
    let mut plain = tokio::net::TcpStream::connect(gateway.listen)
        .await
        .unwrap();
    plain.write_all(&record).await.unwrap();
    // An alert or a hello; then we leave.
    drop(within(plain.read(&mut [0; 64])).await);
}

#[tokio::test]
async fn a_server_name_that_is_none_is_not_written() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let (canary, long) = (format!("{} \n", secret("sni")), "x_".repeat(6 << 10));
    for name in INJECTIONS.iter().copied().chain([&*canary, &long]) {
        tls_with_name(&gateway, name).await;
    }
    send(&gateway, Way::H1, &get(b"/outside/last", &[])).await;
    until("the last line", || {
        gateway.log().last().is_some_and(|l| l.contains("404"))
    })
    .await;
    for line in gateway.log() {
        none_in("a line", &line);
        is_one_event(&line, "json");
    }
}
