//! Deadlines end what is stuck and never what is merely slow. Time is the subject here, so these
//! tests let some of it pass.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::support::{
    self, Backend, Client, Gateway, KEY, Proto, Raw, Reply, eventually, stream, until, within,
};

const HEADER: Duration = Duration::from_millis(200);

fn slowly(answer: &'static str) -> Backend {
    Backend::new(move |conn| {
        while conn.request().is_some() {
            std::thread::sleep(HEADER * 4);
            conn.say(answer.as_bytes());
        }
    })
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";

async fn impatient_of_heads(backend: &Backend) -> Gateway {
    let setup = Gateway::before(backend).toml("timeouts.header = '200ms'");
    setup.start().await
}

#[tokio::test]
async fn a_body_that_comes_after_its_head_is_no_head_that_is_late() {
    let backend = slowly(FINE);
    let gateway = impatient_of_heads(&backend).await;
    let mut raw = Raw::connect(&gateway).await;
    for _ in 0..2 {
        raw.say("POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n")
            .await;
        tokio::time::sleep(HEADER / 2).await;
        raw.say("body").await;
        let answer = raw.answer().await;
        assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "fine"));
        // Nor is silence after it.
        let silence = tokio::time::timeout(HEADER * 3, raw.fill()).await;
        assert!(silence.is_err(), "something came unasked");
    }
}

#[tokio::test]
async fn a_request_behind_a_slow_one_is_no_head_that_is_late() {
    let backend = slowly(FINE);
    let gateway = impatient_of_heads(&backend).await;
    let mut raw = Raw::connect(&gateway).await;
    let one = "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n";
    raw.say(one).await;
    until("a request under way", || backend.requests().len() == 1).await;
    raw.say(one).await;
    for _ in 0..2 {
        assert_eq!(raw.answer().await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_in_use_is_never_idle() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.header = '300ms'\ntimeouts.keep_alive = '300ms'")
        .start()
        .await;
    for proto in Proto::BOTH {
        // Answered by the backend, and refused by the gateway itself.
        for (path, status) in [("/cobrowsing/x", 200), ("/cobrowsing/api/x", 401)] {
            let mut client = Client::connect(&gateway, proto).await;
            for _ in 0..12 {
                assert_eq!(client.get(path).await.status, status);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(client.is_open());
            until("an idle connection closed", || !client.is_open()).await;
        }
    }
}

#[tokio::test]
async fn a_backend_that_falls_silent_within_its_answer_does_not_hold_the_client() {
    let backend = Backend::new(|conn| {
        conn.request();
        conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
        conn.wait_for_close();
    });
    let gateway = Gateway::before(&backend)
        .toml("upstream.silence = '300ms'")
        .start()
        .await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let broken = client.try_call("GET", "/cobrowsing/x", &[], "").await;
        assert!(broken.is_err(), "{proto:?}");
        until("closed", || backend.open() == 0).await;
    }
}

#[tokio::test]
async fn an_upload_over_the_limit_ends_an_answer_that_came_early() {
    let backend = Backend::new(|conn| {
        conn.head();
        conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
        conn.wait_for_close();
    });
    let gateway = Gateway::before(&backend)
        .toml("api.max_body = '1KiB'")
        .start()
        .await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let (frames, body) = stream();
        let headers = [("authorization", KEY)];
        frames
            .send(hyper::body::Frame::data("a little".into()))
            .await
            .unwrap();
        let response = within(client.send("POST", "/cobrowsing/api/x", &headers, body))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let much = vec![b'x'; 4096].into();
        drop(frames.send(hyper::body::Frame::data(much)).await);
        assert!(Reply::read(response).await.is_err(), "{proto:?}");
        until("closed", || backend.open() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_is_counted_as_such() {
    let backend = Backend::never_answers();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let asked = tokio::spawn(async move { client.get("/cobrowsing/x").await });
    until("a request under way", || backend.requests().len() == 1).await;
    asked.abort();
    gateway
        .until_metric(
            r#"gateway_requests_total{code="499",method="GET",route="page"}"#,
            1.0,
        )
        .await;
    let line = eventually("a line", async || gateway.requests().into_iter().next()).await;
    assert_eq!(
        (&line["status"], &line["aborted"]),
        (&499.into(), &true.into())
    );
}

const LARGE: usize = 32 << 20;

fn a_large_answer() -> Backend {
    Backend::answers_by(|request| {
        if request.target.contains("small") {
            return FINE.into();
        }
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + LARGE, b'x');
        answer
    })
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_left() {
    let backend = a_large_answer();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.write_stall = '300ms'")
        .start()
        .await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    gateway
        .until_metric("gateway_write_stalls_total", 1.0)
        .await;
    until("closed", || backend.open() == 0).await;
    let line = eventually("a line", async || gateway.requests().into_iter().next()).await;
    assert_eq!(line["aborted"], true);
    assert!(raw.rest().await.len() < LARGE);
}

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_is_reset_and_its_neighbours_go_on() {
    let backend = a_large_answer();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.write_stall = '300ms'")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let stalled = client
        .send("GET", "/cobrowsing/x", &[], support::full(""))
        .await
        .unwrap();
    gateway
        .until_metric("gateway_write_stalls_total", 1.0)
        .await;
    until("closed", || backend.open() == 0).await;
    assert!(Reply::read(stalled).await.is_err());
    assert_eq!(client.get("/cobrowsing/small").await.text(), "fine");
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_its_whole_answer() {
    let backend = a_large_answer();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.write_stall = '1s'")
        .start()
        .await;
    let mut raw = Raw::connect(&gateway).await;
    raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await;
    let mut got = 0;
    // Slower than the whole may stall, never stalling for that long.
    while raw.fill().await {
        got += std::mem::take(&mut raw.buffer).len();
        if got % (2 << 20) < 16 << 10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(got > LARGE, "{got}");
}

#[tokio::test]
async fn an_api_body_must_be_whole_in_time_and_a_pages_may_trickle() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.body = '400ms'")
        .start()
        .await;
    for (path, status) in [("/cobrowsing/x", 200), ("/cobrowsing/api/x", 408)] {
        let mut raw = Raw::connect(&gateway).await;
        raw.say(format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {KEY}\r\ncontent-length: 8\r\n\r\n"
        ))
        .await;
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(raw.stream.write_all(b"x").await);
            drop(raw.stream.flush().await);
        }
        assert_eq!(raw.answer().await.status, status, "{path}");
    }
}

#[tokio::test]
async fn half_a_head_is_late_wherever_it_stands() {
    let backend = Backend::well();
    let gateway = impatient_of_heads(&backend).await;
    let one = "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n";
    let post = "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nhi";
    for before in ["", &format!("{one}\r\n"), post] {
        let mut raw = Raw::connect(&gateway).await;
        raw.say(format!("{before}{one}")).await;
        if !before.is_empty() {
            assert_eq!(raw.answer().await.status, 200);
        }
        let late = raw.answer().await;
        assert_eq!(late.status, 408, "{before}");
        assert!(late.text().starts_with("request_timeout: "));
        assert_eq!(raw.rest().await, b"");
    }
    let late = r#"gateway_rejected_requests_total{reason="request_timeout"}"#;
    assert_eq!(gateway.metric(late).await, 3.0);
}
