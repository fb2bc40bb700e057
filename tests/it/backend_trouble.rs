//! When the backend is down, slow, dies or speaks nonsense.

use super::support::{Backend, Client, Gateway, KEY, Proto, Raw, until};

#[tokio::test]
async fn what_follows_a_204_that_announced_a_body_is_nobodys_answer() {
    for lie in ["transfer-encoding: chunked", "content-length: 6"] {
        let backend = Backend::new(move |conn| {
            while conn.request().is_some() {
                conn.say(format!("HTTP/1.1 204 No Content\r\n{lie}\r\n\r\n").as_bytes());
                conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison");
            }
        });
        let gateway = Gateway::before(&backend).start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        for asked in 1..=3 {
            assert_eq!(client.get("/cobrowsing/x").await.status, 204, "{lie}");
            assert_eq!(backend.connections(), asked, "{lie}");
        }
    }
}

#[tokio::test]
async fn each_trouble_has_its_answer_and_the_connection_goes_on() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let troubles: [(&str, Option<Backend>, u16, &str); 9] = [
        ("down", None, 502, "upstream_unreachable"),
        (
            "never answers",
            Some(Backend::never_answers()),
            504,
            "upstream_timeout",
        ),
        (
            "closes",
            Some(Backend::closes_before_answering()),
            502,
            "upstream_failed",
        ),
        ("resets", Some(Backend::resets()), 502, "upstream_failed"),
        (
            "nonsense",
            Some(Backend::speaks_nonsense()),
            502,
            "upstream_failed",
        ),
        (
            "two lengths",
            Some(Backend::two_lengths()),
            502,
            "upstream_failed",
        ),
        (
            "length and chunks",
            Some(Backend::length_and_chunks()),
            502,
            "upstream_failed",
        ),
        (
            "half a head",
            Some(Backend::new(|conn| {
                conn.request();
                conn.say(b"HTTP/1.1 200 OK\r\ncontent-le");
            })),
            502,
            "upstream_failed",
        ),
        (
            "101 unasked",
            Some(Backend::upgrades(|conn| drop(conn.read_to_end()))),
            502,
            "upstream_failed",
        ),
    ];
    for (what, backend, status, code) in troubles {
        let port = backend.as_ref().map_or(port, |b| b.address.port());
        let setup = Gateway::on(port)
            .unready()
            .toml("upstream.response_timeout = '300ms'");
        let gateway = setup.start().await;
        for proto in Proto::BOTH {
            let mut client = Client::connect(&gateway, proto).await;
            for method in ["GET", "POST"] {
                let reply = client.api(method, "/cobrowsing/api/x", "").await;
                assert_eq!(
                    (reply.status.as_u16(), &*reply.error()),
                    (status, code),
                    "{what} {method}"
                );
                assert_eq!(reply.json()["status"], "error");
            }
            assert!(client.is_open(), "{what}");
            assert_eq!(client.get("/outside").await.status, 404);
        }
        let series = format!("gateway_rejected_requests_total{{reason=\"{code}\"}}");
        gateway.until_metric(&series, 4.0).await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    for backend in [
        Backend::answers_half_then_closes(),
        Backend::new(|conn| {
            conn.request();
            conn.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        }),
        Backend::new(|conn| {
            conn.request();
            conn.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n");
            conn.read_to_end();
        }),
    ] {
        let gateway = Gateway::before(&backend).start().await;
        for proto in Proto::BOTH {
            let mut client = Client::connect(&gateway, proto).await;
            let broken = client.try_call("GET", "/cobrowsing/x", &[], "").await;
            assert!(broken.is_err(), "{proto:?} {broken:?}");
        }
        until("the lines", || gateway.requests().len() == 2).await;
        assert!(
            gateway
                .requests()
                .iter()
                .all(|line| line["aborted"] == true)
        );
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_closed_costs_no_error() {
    for n in [1, 2] {
        let backend = Backend::closes_kept_connections_after(n);
        let gateway = Gateway::before(&backend).start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        for round in 0..20 {
            let method = if round % 3 == 0 { "GET" } else { "POST" };
            let reply = client.call(method, "/cobrowsing/x", &[], "").await;
            assert_eq!(reply.status, 200, "{method} {round}");
            // The close arrives before the next request: that is the case at hand.
            until("closed", || {
                backend.open() == 0 || !backend.requests().len().is_multiple_of(n)
            })
            .await;
        }
        assert_eq!(backend.requests().len(), 20);
    }
}

/// The first request of a connection is answered, then the connection dies with the second.
fn dies_with_the_second() -> Backend {
    Backend::new(|conn| {
        conn.request();
        conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        conn.request();
    })
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_never_sent_twice() {
    for (method, body) in [
        ("POST", ""),
        ("POST", "abc"),
        ("DELETE", ""),
        ("PUT", "abc"),
    ] {
        let backend = dies_with_the_second();
        let gateway = Gateway::before(&backend).start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        assert_eq!(client.get("/cobrowsing/first").await.status, 200);
        let reply = client
            .api(method, "/cobrowsing/api/visitors/1/watch_url", body)
            .await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.error()),
            (502, "upstream_failed")
        );
        assert_eq!(backend.requests().len(), 2);
        assert_eq!(backend.connections(), 1);
    }
}

#[tokio::test]
async fn a_get_is_sent_again_once_on_a_fresh_connection_and_not_more() {
    let backend = dies_with_the_second();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(client.get("/cobrowsing/first").await.status, 200);
    assert_eq!(client.get("/cobrowsing/second").await.status, 200);
    let targets: Vec<_> = backend
        .requests()
        .iter()
        .map(|r| r.target.clone())
        .collect();
    assert_eq!(targets, ["/first", "/second", "/second"]);
    gateway
        .until_metric("gateway_upstream_reused_reset_total", 1.0)
        .await;

    let backend = Backend::closes_before_answering();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 502);
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn what_a_backend_says_unasked_is_taken_for_nobodys_answer() {
    let backend = Backend::new(|conn| {
        while conn.request().is_some() {
            conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil");
        }
    });
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for _ in 0..10 {
        assert_eq!(client.get("/cobrowsing/x").await.text(), "ok");
    }
    assert_eq!(backend.connections(), 10);
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_not_taken_for_whole() {
    let backend = Backend::echoes_the_request();
    let gateway = Gateway::before(&backend).start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say(format!(
        "POST /cobrowsing/api/x HTTP/1.1\r\nhost: localhost\r\nauthorization: {KEY}\r\ncontent-length: 100\r\n\r\nhalf"
    ))
    .await;
    until("half is there", || backend.open() == 1).await;
    drop(raw);
    until("and gone", || backend.open() == 0).await;
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_slow_but_steady_upload_and_answer_outlast_the_response_timeout() {
    let backend = Backend::new(|conn| {
        let Some(request) = conn.request() else {
            return;
        };
        conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n");
        for byte in b"abc" {
            conn.pause();
            conn.say(&[*byte]);
        }
        assert_eq!(request.body, b"abc");
        conn.read_to_end();
    });
    let setup = Gateway::before(&backend).toml("upstream.response_timeout = '400ms'");
    let gateway = setup.start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say("POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n")
        .await;
    for byte in ["a", "b", "c"] {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        raw.say(byte).await;
    }
    assert_eq!(raw.answer().await.text(), "abc");
}
