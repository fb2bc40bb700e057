//! The contract's calls through the gateway, with the built-in visitor backend.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::support::{Client, Gateway, Proto, Raw, eventually, websocket, within};

const API: &str = "/cobrowsing/api/visitors";

fn order() -> String {
    json!({"licenseToken": "license", "agent": {"id": "7", "name": "Ada"}}).to_string()
}

fn visitors(body: &Value) -> &Vec<Value> {
    assert_eq!(body["status"], "ok");
    body["visitors"].as_array().unwrap()
}

#[tokio::test]
async fn the_four_calls_answer_over_every_protocol_and_version() {
    let gateway = Gateway::with_visitors().start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for proto in Proto::BOTH {
            let mut client = Client::over(&gateway, proto, &[version]).await;
            let latest = client.api("GET", &format!("{API}/list/latest"), "").await;
            assert_eq!(latest.status, 200);
            assert_eq!(latest.header("content-type"), Some("application/json"));
            assert_eq!(visitors(&latest.json()).len(), 3);
            let search = client
                .api("GET", &format!("{API}/list/search?q=online"), "")
                .await;
            assert_eq!(visitors(&search.json()).len(), 3);
            let one = client
                .api("GET", &format!("{API}/MAYA7K2Q"), "")
                .await
                .json();
            assert_eq!(
                (&one["status"], &one["visitor"]["short_id"]),
                (&json!("ok"), &json!("MAYA7K2Q"))
            );
            let watch = client
                .api("POST", &format!("{API}/MAYA7K2Q/watch_url"), order())
                .await;
            assert_eq!(watch.status, 200);
            let url = watch.json()["watch_url"].as_str().unwrap().to_owned();
            assert!(
                url.starts_with("https://localhost/cobrowsing/screen?id="),
                "{url}"
            );
            let screen = client
                .get(url.strip_prefix("https://localhost").unwrap())
                .await;
            assert_eq!(screen.status, 200);
            assert!(
                screen
                    .header("content-type")
                    .unwrap()
                    .starts_with("text/html")
            );
        }
    }
}

#[tokio::test]
async fn every_visitor_has_every_attribute() {
    const ATTRIBUTES: [&str; 24] = [
        "added_at",
        "api_key",
        "browser_name",
        "call_name",
        "device_name",
        "device_type",
        "email",
        "identities",
        "integration",
        "ip_address",
        "is_in_session",
        "is_online",
        "is_supported",
        "is_waiting_for_call",
        "js_configuration",
        "last_seen_at",
        "last_url",
        "location_city",
        "location_country",
        "location_country_name",
        "lookup_code",
        "short_id",
        "tags",
        "unique_id",
    ];
    let gateway = Gateway::with_visitors().start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let all = client
        .api("GET", &format!("{API}/list/search"), "")
        .await
        .json();
    assert_eq!(visitors(&all).len(), 6);
    for visitor in visitors(&all) {
        let mut names: Vec<_> = visitor.as_object().unwrap().keys().collect();
        names.sort_unstable();
        assert_eq!(names, ATTRIBUTES);
    }
}

#[tokio::test]
async fn the_whole_grammar_of_q_arrives() {
    let gateway = Gateway::with_visitors().start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for (q, found) in [
            ("", 6),
            ("online", 3),
            ("-online", 3),
            ("joe%20smith", 1),
            ("joe+smith", 1),
            ("omar.haddad@example.com", 1),
            ("%23client", 2),
            ("%23client%20online", 0),
            ("ip:2001:db8:4f2::17", 1),
            ("id:user123", 1),
            ("0926", 1),
            ("integration_id:acmechat:1234", 1),
            ("nobody", 0),
        ] {
            let path = format!("{API}/list/search?q={q}");
            let reply = client.api("GET", &path, "").await;
            assert_eq!(visitors(&reply.json()).len(), found, "{q}");
        }
    }
}

#[tokio::test]
async fn the_contracts_own_sample_with_its_trailing_comma_gets_400_in_json() {
    let gateway = Gateway::with_visitors().start().await;
    let sample =
        r#"{"licenseToken": "x", "agent": {"id": "1", "name": "A"}, "branding": {"naked": true,}}"#;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let reply = client
        .api("POST", &format!("{API}/MAYA7K2Q/watch_url"), sample)
        .await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["status"], "error");
    let unknown = client.api("GET", &format!("{API}/NOBODY00"), "").await;
    assert_eq!(
        (unknown.status.as_u16(), &unknown.json()["status"]),
        (404, &json!("error"))
    );
}

#[tokio::test]
async fn without_a_key_the_api_is_closed_and_pages_and_sockets_work() {
    for setup in [
        Gateway::with_visitors().without_key(),
        Gateway::with_visitors().without_key().env("REST_KEY", ""),
    ] {
        let gateway = setup.start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        for key in ["", "anything"] {
            let path = format!("{API}/list/latest");
            let reply = client
                .call("GET", &path, &[("authorization", key)], "")
                .await;
            assert_eq!(
                (reply.status.as_u16(), &*reply.error()),
                (401, "api_not_enabled")
            );
        }
        assert_eq!(
            client.get(&format!("{API}/list/latest")).await.error(),
            "api_not_enabled"
        );
        assert_eq!(client.get("/cobrowsing/").await.status, 200);
        let socket = websocket(&gateway, "/cobrowsing/visitor/socket", &[]).await;
        assert!(socket.is_ok());
        assert_eq!(gateway.metric("gateway_api_enabled").await, 0.0);
    }
}

#[tokio::test]
async fn a_socket_makes_a_visitor_online_and_its_end_makes_it_offline() {
    let gateway = Gateway::with_visitors().start().await;
    let mut socket = websocket(&gateway, "/cobrowsing/visitor/socket", &[])
        .await
        .unwrap();
    let welcome = within(socket.next())
        .await
        .unwrap()
        .unwrap()
        .into_text()
        .unwrap();
    let welcome: Value = serde_json::from_str(&welcome).unwrap();
    let id = welcome["visitor"]["short_id"]
        .as_str()
        .unwrap_or_else(|| panic!("{welcome}"));
    let path = format!("{API}/{id}");
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let visitor = client.api("GET", &path, "").await.json()["visitor"].clone();
    assert_eq!(visitor["is_online"], true);
    assert_eq!(visitor["ip_address"], "127.0.0.1");
    socket.send(Message::Close(None)).await.unwrap();
    drop(socket);
    let client = tokio::sync::Mutex::new(client);
    eventually("the visitor is offline", async || {
        let reply = client.lock().await.api("GET", &path, "").await.json();
        (reply["visitor"]["is_online"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_service_works_wherever_it_is_mounted() {
    for (endpoint, mount, base) in [
        ("https://localhost", "/", ""),
        ("https://localhost/a/b/", "same", "/a/b"),
        ("https://localhost/c", "/up/tree", "/c"),
    ] {
        let setup = Gateway::with_visitors()
            .base_endpoint(endpoint)
            .base_path(mount);
        let gateway = setup.start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        assert_eq!(
            client.get(&format!("{base}/")).await.status,
            200,
            "{endpoint}"
        );
        let path = format!("{base}/api/visitors/MAYA7K2Q/watch_url");
        let watch = client.api("POST", &path, order()).await.json();
        let url = watch["watch_url"].as_str().unwrap();
        let target = url.strip_prefix("https://localhost").unwrap();
        assert!(target.starts_with(&format!("{base}/screen?")), "{url}");
        assert_eq!(client.get(target).await.status, 200, "{url}");
        let socket = websocket(&gateway, &format!("{base}/visitor/socket"), &[]).await;
        assert!(socket.is_ok(), "{endpoint}");
    }
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_no_way_in() {
    let gateway = Gateway::with_visitors().start().await;
    let mut plain = tokio::net::TcpStream::connect(gateway.listen)
        .await
        .unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    within(plain.read_to_end(&mut answer)).await.ok();
    assert!(!answer.starts_with(b"HTTP/"));
    gateway
        .until_metric("gateway_tls_handshake_failures_total{reason=\"tls\"}", 1.0)
        .await;
    // And the next client is served.
    let mut raw = Raw::connect(&gateway).await;
    let reply = raw
        .call("GET /cobrowsing/ HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(reply.status, 200);
}
