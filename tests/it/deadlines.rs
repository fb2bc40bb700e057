//! Deadlines end what is stuck and never what is merely slow. Time is the subject here, so these
//! tests let some of it pass.

use std::time::Duration;

use super::support::{
    Backend, Client, Gateway, KEY, Proto, Raw, Reply, eventually, stream, until, within,
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
