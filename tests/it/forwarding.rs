//! What passes, how, and what does not.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;

use super::support::{
    Backend, Client, Gateway, KEY, Proto, Raw, Reply, find, full, stream, until, within,
};

#[tokio::test]
async fn requests_in_a_row_use_one_connection_to_the_backend() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for n in 0..20 {
            let method = if n % 2 == 0 { "GET" } else { "POST" };
            assert_eq!(
                client
                    .call(method, "/cobrowsing/x", &[], "abc")
                    .await
                    .status,
                200
            );
        }
    }
    assert_eq!(backend.requests().len(), 40);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn connection_level_headers_are_removed_both_ways() {
    let backend = Backend::answers(
        "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\ntrailer: x\r\nx-end: 1\r\ncontent-length: 0\r\n\r\n",
    );
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    let reply = raw
        .call(
            "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive, X-Hop, x-forwarded-for, authorization, cookie\r\n\
             x-hop: 1\r\nx-end: 1\r\nkeep-alive: 5\r\nproxy-connection: keep-alive\r\nproxy-authorization: x\r\nte: trailers\r\ntrailer: x\r\n\
             authorization: Basic x\r\ncookie: a=b\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nproxy: evil\r\n\r\n",
        )
        .await;
    for gone in ["x-hop", "keep-alive", "proxy-connection", "trailer"] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    assert_eq!(reply.header("x-end"), Some("1"));
    let seen = backend.only();
    let mut names = seen.names();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "cookie",
            "host",
            "x-end",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded-proto",
            "x-request-id",
        ]
    );
}

#[tokio::test]
async fn the_backend_learns_how_the_request_came() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .base_endpoint("https://localhost:9443/cobrowsing")
        .start()
        .await;
    let forged = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-ssl", "off"),
        ("x-real-ip", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-original-url", "/api"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x-request-id", "forged"),
    ];
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let reply = client.call("GET", "/cobrowsing/x", &forged, "").await;
        let seen = backend.last();
        for (name, value) in [
            ("host", Some("localhost:9443")),
            ("x-forwarded-for", Some("127.0.0.1")),
            ("x-forwarded-host", Some("localhost:9443")),
            ("x-forwarded-proto", Some("https")),
            ("x-forwarded-port", Some("9443")),
            ("x-forwarded-prefix", Some("/cobrowsing")),
            ("x-forwarded-ssl", None),
            ("x-real-ip", None),
            ("forwarded", None),
            ("x-original-url", None),
            ("x_forwarded_for", None),
        ] {
            assert_eq!(seen.header(name).as_deref(), value, "{name}");
        }
        let id = seen.header("x-request-id").unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(reply.header("x-request-id"), Some(&*id));
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_its_list_is_continued() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("public.trusted_proxies = ['127.0.0.0/8']");
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let told = [
        ("x-forwarded-for", "203.0.113.9, 127.0.0.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "front.test"),
        ("x-request-id", "given-1"),
    ];
    let reply = client.call("GET", "/cobrowsing/x", &told, "").await;
    assert_eq!(reply.header("x-request-id"), Some("given-1"));
    let seen = backend.only();
    assert_eq!(
        seen.header("x-forwarded-for").as_deref(),
        Some("203.0.113.9, 127.0.0.9, 127.0.0.1")
    );
    assert_eq!(
        seen.header("x-forwarded-host").as_deref(),
        Some("front.test")
    );
    assert_eq!(seen.header("x-request-id").as_deref(), Some("given-1"));
    until("the request's line", || !gateway.requests().is_empty()).await;
    assert_eq!(gateway.requests()[0]["client"], "203.0.113.9");
}

#[tokio::test]
async fn the_client_behind_a_trusted_proxy_is_the_same_for_limits_log_and_backend() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend)
        .toml("public.trusted_proxies = ['127.0.0.0/8']")
        .toml("[[rate_limit.policy]]\nname = 'tests'\nper = 'client'\nrate = '1/1h'");
    let gateway = setup.start().await;
    let api = "/cobrowsing/api/visitors/list/latest";
    let long: String = (0..200).map(|n| format!("6.6.6.{n}, ")).collect();
    let lasts = long.split_inclusive(' ').skip(200 - 31).collect::<String>();
    let forged = format!("{long}192.0.2.9");
    let kept = format!("{lasts}192.0.2.9");
    // What came, the client it means, whether it is over its limit, what the backend is told.
    for (list, client, is_new, told) in [
        ("192.0.2.7", "192.0.2.7", true, "192.0.2.7"),
        ("192.0.2.7:555", "192.0.2.7", false, ""),
        ("::ffff:192.0.2.7", "192.0.2.7", false, ""),
        ("6.6.6.6, [::ffff:192.0.2.7]:80", "192.0.2.7", false, ""),
        ("2001:db8::1", "2001:db8::1", true, "2001:db8::1"),
        ("[2001:db8::2]:80", "2001:db8::2", false, ""),
        ("6.6.6.6, unknown", "127.0.0.1", true, ""),
        ("6.6.6.7, fe80::1%eth0", "127.0.0.1", false, ""),
        ("6.6.6.8, _x, 127.0.0.9", "127.0.0.9", true, "127.0.0.9"),
        (&forged, "192.0.2.9", true, &kept),
    ] {
        backend.forget();
        let logged = gateway.requests().len();
        let mut over = Client::connect(&gateway, Proto::H1).await;
        let headers = [("authorization", KEY), ("x-forwarded-for", list)];
        let reply = over.call("GET", api, &headers, "").await;
        assert_eq!(reply.status, if is_new { 200 } else { 429 }, "{list}");
        if is_new {
            let hops = [told, "127.0.0.1"].join(", ");
            let hops = hops.trim_start_matches(", ");
            assert_eq!(
                backend.only().header("x-forwarded-for").as_deref(),
                Some(hops)
            );
        }
        until("its line", || gateway.requests().len() == logged + 1).await;
        let line = gateway.requests().remove(logged);
        let logged = line["client"].as_str().or_else(|| line["peer"].as_str());
        assert_eq!(logged, Some(client), "{list}");
    }
}

#[tokio::test]
async fn answers_of_every_framing_arrive_whole() {
    for (answer, status, body) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
            200,
            "abc",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nx-t: 1\r\n\r\n",
            200,
            "abc",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (
            "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 9\r\n\r\n",
            304,
            "",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
            200,
            "abc",
        ),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nabc",
            404,
            "abc",
        ),
        (
            "HTTP/1.1 500 Oops\r\ncontent-length: 3\r\n\r\nabc",
            500,
            "abc",
        ),
    ] {
        let backend = Backend::answers(answer);
        let gateway = Gateway::before(&backend).start().await;
        for proto in Proto::BOTH {
            let mut client = Client::connect(&gateway, proto).await;
            for _ in 0..2 {
                let reply = client.get("/cobrowsing/x").await;
                assert_eq!(
                    (reply.status.as_u16(), &*reply.text()),
                    (status, body),
                    "{answer}"
                );
            }
        }
        assert_eq!(backend.connections(), 1, "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let backend = Backend::new(|conn| {
        conn.request();
        conn.say(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
    });
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for _ in 0..2 {
            assert_eq!(client.get("/cobrowsing/x").await.text(), "until the end");
        }
    }
    assert_eq!(backend.connections(), 4);
}

#[tokio::test]
async fn the_answer_to_head_has_the_length_and_no_body() {
    let backend = Backend::answers("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for _ in 0..2 {
            let reply = client.call("HEAD", "/cobrowsing/x", &[], "").await;
            assert_eq!(reply.header("content-length"), Some("1000"));
            assert_eq!(reply.body, "");
            let refused = client.call("HEAD", "/outside", &[], "").await;
            assert_eq!((refused.status.as_u16(), refused.body.len()), (404, 0));
        }
    }
    assert_eq!(backend.connections(), 1);
    until("lines", || gateway.requests().len() == 8).await;
    assert!(
        gateway
            .requests()
            .iter()
            .all(|line| line["aborted"].is_null())
    );
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say("POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .await;
    assert_eq!(raw.head().await.status, 100);
    assert_eq!(raw.call("hello").await.text(), "hello");
    assert_eq!(backend.only().header("expect"), None);
    // A refused one is not asked for its body.
    raw.say("POST /cobrowsing/api/x HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .await;
    assert_eq!(raw.head().await.status, 401);
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().to_vec()
}

#[tokio::test]
async fn large_bodies_pass_both_ways_unchanged() {
    let mut random = fastrand::Rng::with_seed(7);
    let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(16 << 20)
        .collect();
    let expected = digest(&body);
    let body = Bytes::from(body);
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let reply = client
            .call("POST", "/cobrowsing/x", &[], body.clone())
            .await;
        assert_eq!(digest(&reply.body), expected, "{proto:?} with length");
        assert_eq!(
            backend.last().header("content-length"),
            Some((16 << 20).to_string())
        );
        let (frames, sent) = stream();
        let whole = body.clone();
        let feeding = tokio::spawn(async move {
            for at in (0..whole.len()).step_by(1 << 20) {
                frames
                    .send(Frame::data(whole.slice(at..at + (1 << 20))))
                    .await
                    .unwrap();
            }
        });
        let response = client
            .send("POST", "/cobrowsing/x", &[], sent)
            .await
            .unwrap();
        let reply = Reply::read(response).await.unwrap();
        assert_eq!(digest(&reply.body), expected, "{proto:?} in chunks");
        assert_eq!(
            backend.last().header("transfer-encoding").as_deref(),
            Some("chunked")
        );
        assert_eq!(backend.last().header("content-length"), None);
        feeding.await.unwrap();
        backend.forget();
    }
}

#[tokio::test]
async fn trailers_of_a_request_are_dropped() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let (frames, sent) = stream();
        tokio::spawn(async move {
            frames.send(Frame::data(Bytes::from("data"))).await.unwrap();
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("x-trailer"),
                http::HeaderValue::from_static("canary"),
            )]);
            frames.send(Frame::trailers(trailers)).await.unwrap();
        });
        let headers = [("trailer", "x-trailer")];
        let response = client
            .send("POST", "/cobrowsing/x", &headers, sent)
            .await
            .unwrap();
        assert_eq!(Reply::read(response).await.unwrap().text(), "data");
    }
    assert!(find(&backend.bytes(), b"canary").is_none());
}

#[tokio::test]
async fn the_first_bytes_of_an_answer_arrive_before_the_backend_sent_the_last() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |conn| {
        while conn.request().is_some() {
            conn.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            wait.lock().unwrap().recv().ok();
            conn.say(b"4\r\nlast\r\n0\r\n\r\n");
        }
    });
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let response = client
            .send("GET", "/cobrowsing/x", &[], full(""))
            .await
            .unwrap();
        let mut body = response.into_body();
        let first = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first");
        go.send(()).unwrap();
        assert_eq!(within(body.collect()).await.unwrap().to_bytes(), "last");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend_from_sending() {
    const TOTAL: usize = 256 << 20;
    let backend = Backend::new(|conn| {
        conn.request();
        conn.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {TOTAL}\r\n\r\n").as_bytes());
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..TOTAL >> 20 {
            if !conn.say(&piece) {
                return;
            }
        }
    });
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let before = backend.sent();
        let response = client
            .send("GET", "/cobrowsing/x", &[], full(""))
            .await
            .unwrap();
        // It stands still when two looks in a row see the same.
        let mut last = usize::MAX;
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            let now = backend.sent() - before;
            if std::mem::replace(&mut last, now) == now {
                break;
            }
        }
        assert!(
            last < TOTAL / 2,
            "{proto:?}: {last} bytes went into nobody's hands"
        );
        // The client goes away: so does the connection to the backend.
        drop(response);
        drop(client);
        until("the backend's connection is closed", || backend.open() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let backend = Backend::never_answers();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let asking = tokio::spawn(async move {
            drop(client.send("GET", "/cobrowsing/x", &[], full("")).await);
        });
        until("the request is there", || backend.open() == 1).await;
        asking.abort();
        until("the backend's connection is closed", || backend.open() == 0).await;
    }
    gateway.until_metric("gateway_inflight_requests", 0.0).await;
}

/// Uploads `size` bytes to a backend that answers before it has read them.
async fn early_answer(proto: Proto, size: usize) {
    let backend = Backend::answers_early_without_reading_the_body();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, proto).await;
    let body = vec![b'x'; size];
    let reply = client.try_call("POST", "/cobrowsing/x", &[], body).await;
    let reply = reply.unwrap_or_else(|e| panic!("{proto:?} {size}: {e:?}"));
    assert_eq!((reply.status.as_u16(), &*reply.text()), (403, "no"));
    // HTTP/1.1 has to give the connection up, and says so; HTTP/2 gives up the stream alone.
    let mut next = if reply.header("connection") == Some("close") {
        Client::connect(&gateway, proto).await
    } else {
        client
    };
    assert_eq!(next.get("/cobrowsing/x").await.status, 403);
}

#[tokio::test]
async fn a_body_coded_or_framed_in_another_way_is_refused() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for coding in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let request =
            format!("POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{coding}\r\n\r\n0\r\n\r\n");
        assert_eq!(raw.call(request).await.status, 400, "{coding}");
    }
    assert!(backend.bytes().is_empty());
}

#[tokio::test]
async fn an_early_answer_passes_and_the_next_request_works() {
    for (proto, size) in [(Proto::H1, 10), (Proto::H2, 10), (Proto::H2, 4 << 20)] {
        early_answer(proto, size).await;
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_uploading() {
    for _ in 0..5 {
        early_answer(Proto::H1, 4 << 20).await;
    }
}

#[tokio::test]
async fn crumbs_of_cookies_become_one_line() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    client.call("GET", "/cobrowsing/x", &crumbs, "").await;
    assert_eq!(backend.only().all("cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn many_streams_of_one_connection_are_answered_side_by_side() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let calls = (0..50).map(async |n: usize| {
        let mut client = Client::connect(&gateway, Proto::H2).await;
        let text = format!("body {n}").repeat(n * 100);
        let reply = client
            .call("POST", "/cobrowsing/x", &[], text.clone())
            .await;
        assert_eq!(reply.text(), text);
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::answers_by(|request| {
        let text = &request.target;
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        )
        .into()
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    let one = |n| format!("GET /cobrowsing/{n} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    raw.say([one(1), one(2), one(3)].concat()).await;
    for n in 1..=3 {
        assert_eq!(raw.answer().await.text(), format!("/{n}"));
    }
}

#[tokio::test]
async fn a_request_that_could_be_framed_in_two_ways_is_refused() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for framing in [
        "content-length: 3\r\ncontent-length: 4",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, gzip",
        "content-length: +3",
        "content-length: 3,4",
        "transfer-encoding : chunked",
        "x-a: 1\r\n folded: 2",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.say(format!(
            "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\nabc"
        ))
        .await;
        let rest = raw.rest().await;
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"),
            "{framing}: {rest:?}"
        );
    }
    assert_eq!(backend.bytes(), b"");
}
