//! The way back: URLs of the backend become public ones, every other byte stays.

use std::io::Write;

use super::support::{Backend, Client, Gateway, Proto, Raw};

const WATCH: &str = "/cobrowsing/api/visitors/1/watch_url";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The backend writes its own authority where `BACKEND` stands.
fn with_own_authority(answer: &'static str) -> Backend {
    Backend::answers_by(move |request| {
        // Its own name is told to nobody but by the listener it sits on.
        let own = request.header("x-own").unwrap();
        answer.replace("BACKEND", &own).into_bytes()
    })
}

#[tokio::test]
async fn urls_in_headers_are_mapped_and_foreign_ones_are_not() {
    let backend = with_own_authority(
        "HTTP/1.1 302 Found\r\n\
         location: http://BACKEND/login?next=%2F#x\r\n\
         content-location: /here\r\n\
         refresh: 5; url=http://BACKEND/later\r\n\
         link: </style.css>; rel=preload, <https://cdn.test/x.js>; rel=preload\r\n\
         set-cookie: a=1; Path=/; HttpOnly\r\n\
         set-cookie: b=2; Path=/sub; Domain=127.0.0.1\r\n\
         set-cookie: __Host-c=3; Path=/; Secure\r\n\
         x-other: http://BACKEND/login\r\n\
         content-length: 0\r\n\r\n",
    );
    let gateway = Gateway::before(&backend).start().await;
    let own = backend.address.to_string();
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let reply = client
            .call("GET", "/cobrowsing/x", &[("x-own", &own)], "")
            .await;
        assert_eq!(reply.status, 302);
        let header = |name| reply.header(name).unwrap();
        assert_eq!(
            header("location"),
            "https://localhost/cobrowsing/login?next=%2F#x"
        );
        assert_eq!(header("content-location"), "/cobrowsing/here");
        assert_eq!(
            header("refresh"),
            "5; url=https://localhost/cobrowsing/later"
        );
        assert_eq!(
            header("link"),
            "</cobrowsing/style.css>; rel=preload, <https://cdn.test/x.js>; rel=preload"
        );
        let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
        assert_eq!(
            cookies,
            [
                "a=1; Path=/cobrowsing; HttpOnly",
                "b=2; Path=/cobrowsing/sub; Domain=localhost",
                "__Host-c=3; Path=/; Secure"
            ]
        );
        assert_eq!(header("x-other"), format!("http://{own}/login"));
    }
}

#[tokio::test]
async fn foreign_and_relative_locations_stay_as_they_are() {
    for location in [
        "https://elsewhere.test/login",
        "//elsewhere.test/x",
        "next",
        "?a=b",
        "/cobrowsing/already",
        "/\\evil.test",
    ] {
        let backend = Backend::answers(format!(
            "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
        ));
        let gateway = Gateway::before(&backend).start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        assert_eq!(
            client.get("/cobrowsing/x").await.header("location"),
            Some(location)
        );
    }
}

#[tokio::test]
async fn with_rewriting_of_headers_off_they_stay() {
    let backend =
        Backend::answers("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n");
    let gateway = Gateway::before(&backend)
        .toml("rewrite.headers = false")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(
        client.get("/cobrowsing/x").await.header("location"),
        Some("/x")
    );
}

#[tokio::test]
async fn every_other_byte_of_an_answer_stays() {
    let body = gzip(b"{\"watch_url\":\"/screen\"}");
    let mut bytes = b"HTTP/1.1 299 Whatever\r\nX-Odd: \x80\xff \"a\r\nx-two: 1\r\nx-two: 2\r\nx-empty:\r\netag: W/\"1\"\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n".to_vec();
    bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
    bytes.extend(&body);
    let backend = Backend::answers(bytes);
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let reply = client.api("GET", "/cobrowsing/api/visitors/1", "").await;
        assert_eq!(reply.status.as_u16(), 299);
        assert_eq!(reply.headers["x-odd"].as_bytes(), b"\x80\xff \"a");
        let two: Vec<_> = reply.headers.get_all("x-two").iter().collect();
        assert_eq!(two, ["1", "2"]);
        assert_eq!(reply.header("x-empty"), Some(""));
        assert_eq!(reply.header("etag"), Some("W/\"1\""));
        assert_eq!(reply.header("content-encoding"), Some("gzip"));
        assert_eq!(reply.body, body);
    }
}

#[tokio::test]
async fn the_watch_url_is_mapped_also_in_a_compressed_answer() {
    for compressed in [false, true] {
        let backend = Backend::answers_by(move |request| {
            let own = request.header("x-own").unwrap();
            let json = format!(
                r#"{{"status": "ok", "watch_url":"http:\/\/{own}/screen?id=1&token=a%2Fb", "x": 1.0}}"#
            );
            let body = if compressed {
                gzip(json.as_bytes())
            } else {
                json.into_bytes()
            };
            let encoding = if compressed {
                "content-encoding: gzip\r\n"
            } else {
                ""
            };
            let headers = format!(
                "content-type: application/json; charset=utf-8\r\netag: \"1\"\r\nx-keep: 1\r\n{encoding}"
            );
            answer(&headers, &body)
        });
        let gateway = Gateway::before(&backend).start().await;
        let own = backend.address.to_string();
        for proto in Proto::BOTH {
            let mut client = Client::connect(&gateway, proto).await;
            let headers = [
                ("authorization", super::support::KEY),
                ("x-own", &own),
                ("accept-encoding", "gzip"),
            ];
            let reply = client.call("POST", WATCH, &headers, "{}").await;
            assert_eq!(reply.status, 200);
            assert_eq!(
                reply.text(),
                r#"{"status": "ok", "watch_url":"https://localhost/cobrowsing/screen?id=1&token=a%2Fb", "x": 1.0}"#
            );
            assert_eq!(
                reply.header("content-length"),
                Some(&*reply.body.len().to_string())
            );
            assert_eq!(reply.header("etag"), None);
            assert_eq!(reply.header("content-encoding"), None);
            assert_eq!(reply.header("x-keep"), Some("1"));
            assert_eq!(backend.last().header("accept-encoding"), None);
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_url_of_ours_stays_whole() {
    for json in [
        r#"{"status":"ok","watch_url":"https://elsewhere.test/x"}"#,
        r#"["watch_url"]"#,
        "no json",
        r#"{"a":{"watch_url":"/x"}}"#,
    ] {
        let body = gzip(json.as_bytes());
        let backend = Backend::answers(answer(
            "content-type: application/json\r\ncontent-encoding: gzip\r\netag: \"1\"\r\n",
            &body,
        ));
        let gateway = Gateway::before(&backend).start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        let reply = client.api("POST", WATCH, "{}").await;
        assert_eq!(reply.body, body, "{json}");
        assert_eq!(reply.header("etag"), Some("\"1\""));
        assert_eq!(reply.header("content-encoding"), Some("gzip"));
    }
}

#[tokio::test]
async fn an_error_of_watch_url_passes_untouched() {
    let backend = Backend::answers(
        "HTTP/1.1 402 Payment Required\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n{\"status\":\"error\",\"error\":\"over_limits\"}",
    );
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let reply = client.api("POST", WATCH, "{}").await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.error()),
        (402, "over_limits")
    );
}

#[tokio::test]
async fn a_large_json_elsewhere_streams_before_it_is_whole() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |conn| {
        conn.request();
        conn.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
        let first = vec![b' '; 2 << 20];
        conn.say(format!("{:x}\r\n", first.len()).as_bytes());
        conn.say(&first);
        conn.say(b"\r\n");
        // Only when the client has seen the first piece.
        wait.lock().unwrap().recv().ok();
        conn.say(b"17\r\n{\"watch_url\":\"/screen\"}\r\n0\r\n\r\n");
        conn.read_to_end();
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say(format!(
        "GET /cobrowsing/api/visitors/list/latest HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\n\r\n",
        super::support::KEY
    ))
    .await;
    raw.take(2 << 20).await;
    go.send(()).unwrap();
    loop {
        if super::support::find(&raw.buffer, b"{\"watch_url\":\"/screen\"}").is_some() {
            break;
        }
        assert!(raw.fill().await);
    }
}
