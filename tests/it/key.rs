//! Who may use the API.

use super::support::{Backend, Client, Gateway, KEY, Proto, Raw, Reply, websocket};

const LATEST: &str = "/cobrowsing/api/visitors/list/latest";

fn without_id(reply: &Reply) -> serde_json::Value {
    let mut body = reply.json();
    let id = body["request_id"].take();
    assert_eq!(Some(id.as_str().unwrap()), reply.header("x-request-id"));
    body
}

#[tokio::test]
async fn a_refused_request_never_reaches_the_backend() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE",
        ] {
            let reply = client.call(method, LATEST, &[], "").await;
            assert_eq!(reply.status, 401, "{method}");
            if method != "HEAD" {
                assert_eq!(reply.error(), "invalid_api_key", "{method}");
                assert_eq!(reply.header("content-type"), Some("application/json"));
            }
        }
    }
    for key in [None, Some("wrong")] {
        let headers: Vec<_> = key.map(|k| ("authorization", k)).into_iter().collect();
        let refused = websocket(&gateway, "/cobrowsing/api/socket", &headers).await;
        assert!(refused.unwrap_err().to_string().contains("401"));
    }
    assert_eq!(backend.bytes(), b"");
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn missing_and_wrong_keys_get_the_same_answer() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let bearer = format!("Bearer {KEY}");
    let twice = format!("{KEY},{KEY}");
    let upper = KEY.to_uppercase();
    let longer = format!("{KEY}x");
    let shorter = &KEY[1..];
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        let missing = client.get(LATEST).await;
        assert_eq!(missing.status, 401);
        for wrong in ["", "wrong", &bearer, &twice, &upper, &longer, shorter] {
            let reply = client
                .call("GET", LATEST, &[("authorization", wrong)], "")
                .await;
            assert_eq!(reply.status, 401, "{wrong}");
            assert_eq!(without_id(&reply), without_id(&missing), "{wrong}");
            assert_eq!(reply.headers.len(), missing.headers.len(), "{wrong}");
        }
        let reply = client.call("GET", LATEST, &[("x-api-key", KEY)], "").await;
        assert_eq!(reply.status, 401);
        assert_eq!(client.api("GET", LATEST, "").await.status, 200);
    }
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn two_authorization_lines_are_refused() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for (first, second) in [(KEY, KEY), (KEY, "x"), ("x", KEY)] {
            let lines = [("authorization", first), ("authorization", second)];
            let reply = client.call("GET", LATEST, &lines, "").await;
            assert_eq!(
                (reply.status.as_u16(), &*reply.error()),
                (400, "duplicate_authorization")
            );
        }
    }
    assert_eq!(backend.bytes(), b"");
}

#[tokio::test]
async fn no_spelling_of_the_api_path_slips_past_the_key() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for path in [
        "/cobrowsing/api",
        "/cobrowsing/api/",
        "/cobrowsing/API/visitors/1",
        "/cobrowsing/aPi/visitors/1",
        "/cobrowsing/%61pi/visitors/1",
        "/cobrowsing/%41PI/visitors/1",
        "/cobrowsing/x/../api/visitors/1",
        "/cobrowsing/x/%2E%2e/api/visitors/1",
        "/cobrowsing/./api/visitors/1",
        "//cobrowsing//api//visitors",
        "/cobrowsing/api./visitors",
        "/cobrowsing/api../visitors",
        "/cobrowsing/api%20/visitors",
        "/cobrowsing/%20api/visitors",
        "/cobrowsing/api%3Bx=1/visitors",
        "/cobrowsing/api%3f/visitors",
        "/cobrowsing/api%23/visitors",
        "/cobrowsing/api?x",
        "https://localhost/cobrowsing/api/visitors",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let reply = raw
            .call(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
        assert_eq!(reply.status, 401, "{path}");
    }
    for path in [
        "/cobrowsing/api%2fvisitors",
        "/cobrowsing%2Fapi/visitors",
        "/cobrowsing/api%5cvisitors",
        "/cobrowsing/api\\visitors",
        "/cobrowsing/%252e%252e/api",
        "/cobrowsing/%2561pi",
        "/cobrowsing/api;x=1/visitors",
        "/cobrowsing/x;/../api",
        "/cobrowsing/%00",
        "/cobrowsing/%0d%0a",
        "/cobrowsing/%c0%af",
        "/cobrowsing/%ff",
        "/cobrowsing/%zz",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {KEY}\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(raw.call(request).await.status, 400, "{path}");
    }
    assert_eq!(backend.bytes(), b"");
}

#[tokio::test]
async fn each_request_of_an_open_connection_is_judged_by_itself() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for _ in 0..3 {
            assert_eq!(client.api("GET", LATEST, "").await.status, 200);
            assert_eq!(client.get(LATEST).await.status, 401);
            assert_eq!(client.get("/cobrowsing/page").await.status, 200);
        }
    }
    assert_eq!(backend.requests().len(), 12);
}

#[tokio::test]
async fn pages_need_no_key_and_what_they_send_as_authorization_passes() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for path in [
        "/cobrowsing/",
        "/cobrowsing/screen?id=1",
        "/cobrowsing/apis",
        "/cobrowsing/x/api",
    ] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
        let own = [("authorization", "Basic abc")];
        assert_eq!(
            client.call("GET", path, &own, "").await.status,
            200,
            "{path}"
        );
        assert_eq!(
            backend.last().header("authorization").as_deref(),
            Some("Basic abc")
        );
    }
}

#[tokio::test]
async fn every_configured_key_is_let_in_and_counted_by_its_name() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("api.keys.monitoring = 'second key'");
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    for key in [KEY, "second key", "second key"] {
        let reply = client
            .call("GET", LATEST, &[("authorization", key)], "")
            .await;
        assert_eq!(reply.status, 200, "{key}");
    }
    for (name, times) in [("rest_key", 1.0), ("monitoring", 2.0)] {
        let series = format!("gateway_auth_total{{key_id=\"{name}\",result=\"ok\"}}");
        assert_eq!(gateway.metric(&series).await, times);
    }
}
