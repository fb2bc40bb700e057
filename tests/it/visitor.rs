//! The visitor backend as its clients see it: over real sockets, on a thread of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cobrowse_gateway::visitor::{Options, Server};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const KEY: &str = "key-of-the-tests";
const PATIENCE: Duration = Duration::from_secs(5);

// -- the four calls ------------------------------------------------------------------------

#[tokio::test]
async fn latest_lists_the_online_visitors_newest_first() {
    let backend = Backend::start(seeded());
    let reply = backend.get("/api/visitors/list/latest").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers["content-type"], "application/json");
    let body = reply.json();
    assert_eq!(keys(&body), ["status", "visitors"]);
    assert_eq!(body["status"], "ok");
    let visitors = body["visitors"].as_array().unwrap();
    assert_eq!(visitors.len(), 3);
    assert!(visitors.iter().all(|visitor| visitor["is_online"] == true));
    let seen = |visitor: &Value| visitor["last_seen_at"].as_str().unwrap().to_owned();
    assert!(
        visitors
            .windows(2)
            .all(|pair| seen(&pair[0]) >= seen(&pair[1]))
    );
}

#[tokio::test]
async fn every_visitor_has_every_attribute_of_its_type() {
    const TEXT: [&str; 4] = ["added_at", "api_key", "last_seen_at", "short_id"];
    const TEXT_OR_NULL: [&str; 12] = [
        "browser_name",
        "call_name",
        "device_name",
        "device_type",
        "email",
        "integration",
        "last_url",
        "location_city",
        "location_country",
        "location_country_name",
        "lookup_code",
        "unique_id",
    ];
    const YES_OR_NO: [&str; 5] = [
        "is_in_session",
        "is_online",
        "is_supported",
        "is_waiting_for_call",
        "js_configuration",
    ];
    let backend = Backend::start(seeded());
    let _page = backend.open("/visitor/socket").await;
    let visitors = backend.search("").await;
    assert_eq!(visitors.len(), 7);
    for visitor in &visitors {
        let mut expected = [&TEXT[..], &TEXT_OR_NULL, &YES_OR_NO].concat();
        expected.extend(["identities", "ip_address", "tags"]);
        expected.sort_unstable();
        assert_eq!(keys(visitor), expected);
        for field in TEXT {
            assert!(visitor[field].is_string(), "{field}: {visitor}");
        }
        for field in TEXT_OR_NULL {
            let value = &visitor[field];
            assert!(value.is_string() || value.is_null(), "{field}: {visitor}");
        }
        for field in YES_OR_NO {
            assert!(visitor[field].is_boolean(), "{field}: {visitor}");
        }
        for field in ["identities", "tags"] {
            let list = visitor[field].as_array().unwrap();
            assert!(list.iter().all(Value::is_string), "{field}: {visitor}");
        }
        let address = visitor["ip_address"].as_str().unwrap();
        assert!(address.parse::<std::net::IpAddr>().is_ok(), "{address}");
        for field in ["added_at", "last_seen_at"] {
            let time = visitor[field].as_str().unwrap();
            assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
        }
        let code = visitor["lookup_code"].as_str().unwrap();
        assert!(code.len() == 4 && code.parse::<u16>().is_ok(), "{code}");
    }
}

#[tokio::test]
async fn search_finds_online_and_offline_visitors_by_the_words_of_q() {
    let backend = Backend::start(seeded());
    let all = 6;
    for (q, found) in [
        ("", all),
        ("online", 3),
        ("-online", 3),
        ("joe%20smith", 1),
        ("OMAR.HADDAD@example.com", 1),
        ("%23client", 2),
        ("%23client%20online", 0),
        ("ip:2001:0db8:4f2::17", 1),
        ("id:user123", 1),
        ("0926", 1),
        ("integration_id:acmechat:1234", 1),
        ("nobody", 0),
    ] {
        assert_eq!(backend.search(q).await.len(), found, "{q}");
    }
    let without = backend.get("/api/visitors/list/search").await;
    assert_eq!(without.json()["visitors"].as_array().unwrap().len(), all);
    for bad in [format!("q={}", "a".repeat(2000)), "q=a&q=b".to_owned()] {
        let path = format!("/api/visitors/list/search?{bad}");
        let reply = backend.get(&path).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.json()["field"], "q");
    }
}

#[tokio::test]
async fn one_visitor_is_answered_by_its_short_id_and_an_unknown_one_is_not_found() {
    let backend = Backend::start(seeded());
    let body = backend.get("/api/visitors/JOES81NM").await.json();
    assert_eq!(keys(&body), ["status", "visitor"]);
    assert_eq!(body["status"], "ok");
    assert_eq!(body["visitor"]["unique_id"], "user123");
    assert_eq!(body["visitor"]["email"], "joe.smith@example.com");
    for path in ["NOBODY00", "list", "latest", "joes81nm", "%FF", "%2e%2e"] {
        let reply = backend.get(&format!("/api/visitors/{path}")).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(reply.json()["error"], "not_found");
    }
}

#[tokio::test]
async fn watch_url_is_built_from_the_base_endpoint_for_any_known_visitor() {
    let options = Options {
        base_endpoint: "https://support.example.com/cobrowsing/".into(),
        ..seeded()
    };
    let backend = Backend::start(options);
    let mut urls = Vec::new();
    for id in ["MAYA7K2Q", "JOES81NM", "JOES81NM"] {
        let reply = backend.watch(id, &order()).await;
        assert_eq!(reply.status, StatusCode::OK);
        let body = reply.json();
        assert_eq!(keys(&body), ["status", "watch_url"]);
        let url = body["watch_url"].as_str().unwrap().to_owned();
        let start = format!("https://support.example.com/cobrowsing/screen?id={id}&token=");
        assert!(url.starts_with(&start), "{url}");
        urls.push(url);
    }
    assert_ne!(urls[1], urls[2]);
    let unknown = backend.watch("NOBODY00", &order()).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_bad_watch_url_body_is_answered_with_what_is_wrong_and_where() {
    let backend = Backend::start(seeded());
    let path = "/api/visitors/MAYA7K2Q/watch_url";
    // The trailing comma of the vendor's own sample.
    let sample = r#"{"licenseToken": "top-secret", "branding": {"naked": true,}}"#;
    let reply = backend.post(path, sample).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let body = reply.json();
    assert_eq!(body["error"], "invalid_json");
    assert_eq!((&body["line"], &body["column"]), (&json!(1), &json!(59)));
    assert!(!reply.text.contains("top-secret"));

    let mut order = order();
    order["agent"]["name"] = json!(7);
    let reply = backend.post(path, &order.to_string()).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.json()["error"], "invalid_request");
    assert_eq!(reply.json()["field"], "agent.name");

    let reply = backend.post(path, &" ".repeat(64 * 1024 + 1)).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(reply.json()["error"], "payload_too_large");
}

// -- keys, paths, methods ------------------------------------------------------------------

#[tokio::test]
async fn without_a_configured_key_the_whole_api_is_disabled() {
    let options = Options {
        rest_keys: Vec::new(),
        ..seeded()
    };
    let backend = Backend::start(options);
    for path in ["/api/visitors/list/latest", "/api/none", "/api"] {
        let reply = backend.get(path).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
        let expected = json!({"status": "error", "error": "api_not_enabled"});
        assert_eq!(reply.json(), expected);
    }
    assert_eq!(backend.get("/healthz").await.text, "ok");
}

#[tokio::test]
async fn a_missing_and_a_wrong_key_get_the_same_answer_and_any_accepted_key_is_let_in() {
    let options = Options {
        rest_keys: vec!["the-old-key".into(), KEY.into()],
        ..seeded()
    };
    let backend = Backend::start(options);
    let path = "/api/visitors/list/latest";
    let bearer = format!("Bearer {KEY}");
    for lines in [&[][..], &["wrong"], &[""], &[&bearer], &[KEY, KEY]] {
        let reply = backend.send("GET", path, lines, "").await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{lines:?}");
        let expected = json!({"status": "error", "error": "invalid_api_key"});
        assert_eq!(reply.json(), expected);
    }
    for key in [KEY, "the-old-key"] {
        let reply = backend.send("GET", path, &[key], "").await;
        assert_eq!(reply.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_of_the_api_are_refused_in_json() {
    let backend = Backend::start(seeded());
    for path in [
        "/api",
        "/api/",
        "/api/usage",
        "/api/visitors",
        "/api/visitors/A/B/C",
    ] {
        let reply = backend.get(path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(reply.json()["error"], "not_found");
    }
    for (method, path, allow) in [
        ("POST", "/api/visitors/list/latest", "GET, HEAD"),
        ("POST", "/api/visitors/list/search", "GET, HEAD"),
        ("DELETE", "/api/visitors/MAYA7K2Q", "GET, HEAD"),
        ("GET", "/api/visitors/MAYA7K2Q/watch_url", "POST"),
        ("GET", "/api/visitors/list/watch_url", "POST"),
    ] {
        let reply = backend.send(method, path, &[KEY], "").await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(reply.headers["allow"], allow);
        assert_eq!(reply.json()["error"], "method_not_allowed");
    }
}

// -- visitors come and go ------------------------------------------------------------------

#[tokio::test]
async fn an_open_socket_is_an_online_visitor_and_a_closed_one_an_offline_visitor() {
    let backend = Backend::start(options());
    assert!(backend.latest().await.is_empty());
    let mut page = backend.open("/visitor/socket").await;
    let welcome = page.expect("welcome").await;
    let id = welcome["visitor"]["short_id"].as_str().unwrap();
    let latest = backend.latest().await;
    assert_eq!(latest.len(), 1);
    assert_eq!(latest[0]["short_id"], *id);

    page.0.close(None).await.unwrap();
    backend
        .until_visitor(id, |visitor| visitor["is_online"] == false)
        .await;
    assert!(backend.latest().await.is_empty());
    assert_eq!(backend.search("-online").await.len(), 1);
}

#[tokio::test]
async fn a_page_loaded_again_is_the_same_visitor_unless_its_resume_token_is_forged() {
    let backend = Backend::start(options());
    let mut first = backend.open("/visitor/socket").await;
    let welcome = first.expect("welcome").await;
    drop(first);
    let id = welcome["visitor"]["short_id"].as_str().unwrap();
    let resume = welcome["resume"].as_str().unwrap();
    backend
        .until_visitor(id, |visitor| visitor["is_online"] == false)
        .await;

    let protocols = format!("cobrowse.visitor, resume.{resume}");
    let header = [("sec-websocket-protocol", protocols.as_str())];
    let mut again = backend.open_with("/visitor/socket", &header).await;
    let visitor = &again.expect("welcome").await["visitor"];
    assert_eq!(visitor["short_id"], *id);
    assert_eq!(visitor["lookup_code"], welcome["visitor"]["lookup_code"]);

    let header = [("sec-websocket-protocol", "cobrowse.visitor, resume.e30.e30")];
    let mut forged = backend.open_with("/visitor/socket", &header).await;
    assert_ne!(forged.expect("welcome").await["visitor"]["short_id"], *id);
}

#[tokio::test]
async fn a_visitor_is_known_by_what_its_browser_and_its_page_tell() {
    let backend = Backend::start(options());
    let headers = [
        ("x-forwarded-for", "2001:db8::9, 10.0.0.1"),
        (
            "user-agent",
            "Mozilla/5.0 (iPhone) Version/17.2 Mobile/15E148 Safari/604.1",
        ),
    ];
    let mut page = backend.open_with("/visitor/socket", &headers).await;
    let visitor = page.expect("welcome").await["visitor"].clone();
    assert_eq!(visitor["ip_address"], "2001:db8::9");
    assert_eq!(visitor["browser_name"], "Safari 17");
    assert_eq!(visitor["device_type"], "mobile");

    page.say(&json!({
        "type": "identify", "uniqueId": "crm-9", "callName": "Ann", "tags": ["vip"],
        "identities": ["Ann", "ann@example.com"], "integrationIds": ["acmechat:7"],
    }))
    .await;
    page.say(&json!({"type": "page", "url": "https://shop.example.com/cart"}))
        .await;
    let id = visitor["short_id"].as_str().unwrap();
    let known = backend
        .until_visitor(id, |visitor| visitor["last_url"].is_string())
        .await;
    assert_eq!(known["email"], "ann@example.com");
    assert_eq!(known["tags"], json!(["#vip"]));
    for q in [
        "ann@example.com",
        "%23VIP",
        "id:crm-9",
        "integration_id:acmechat:7",
        "cart",
    ] {
        assert_eq!(backend.search(q).await.len(), 1, "{q}");
    }

    page.say(&json!({"type": "identify", "identities": null}))
        .await;
    let cleared = backend
        .until_visitor(id, |visitor| visitor["email"].is_null())
        .await;
    assert_eq!(cleared["identities"], json!([]));
    assert_eq!(cleared["unique_id"], "crm-9");

    page.say(&json!({"type": "identify", "tags": ["two words"]}))
        .await;
    let error = page.expect("error").await;
    assert_eq!(error["error"], "invalid_message");
}

// -- agents --------------------------------------------------------------------------------

#[tokio::test]
async fn a_watch_url_opens_the_screen_and_connects_agent_and_visitor() {
    let backend = Backend::start(options());
    let mut page = backend.open("/visitor/socket").await;
    let welcome = page.expect("welcome").await;
    let id = welcome["visitor"]["short_id"].as_str().unwrap();
    let target = backend.watch_target(id, &order()).await;

    let screen = backend.get(&target).await;
    assert_eq!(screen.status, StatusCode::OK);
    assert!(screen.text.contains("Ada &lt;Agent&gt;"), "{}", screen.text);
    assert_eq!(screen.headers["referrer-policy"], "no-referrer");
    assert_eq!(screen.headers["cache-control"], "no-store");
    assert!(!screen.headers.contains_key("x-frame-options"));

    let mut agent = backend.open(&socket_of(&target)).await;
    agent.expect("welcome").await;
    let state = agent.expect("state").await;
    assert_eq!(state["visitor"]["is_in_session"], true);
    let session = loop {
        let session = page.expect("session").await;
        if session["agents"] != json!([]) {
            break session;
        }
    };
    assert_eq!(session["agents"], json!(["Ada <Agent>"]));

    agent
        .say(&json!({"type": "hint", "text": "Please look here"}))
        .await;
    assert_eq!(page.expect("hint").await["text"], "Please look here");
    agent
        .say(&json!({"type": "pointer", "x": 0.25, "y": 0.5}))
        .await;
    assert_eq!(page.expect("pointer").await["x"], 0.25);
    page.say(&json!({"type": "pointer", "x": 0.75, "y": 1}))
        .await;
    assert_eq!(agent.expect("pointer").await["x"], 0.75);

    agent.say(&json!({"type": "end"})).await;
    backend
        .until_visitor(id, |visitor| visitor["is_in_session"] == false)
        .await;
    assert_eq!(page.expect("session").await["agents"], json!([]));
}

#[tokio::test]
async fn an_agent_without_allow_draw_cannot_point() {
    let backend = Backend::start(seeded());
    let mut order = order();
    order["permissions"] = json!({"allow_draw": false});
    let target = backend.watch_target("MAYA7K2Q", &order).await;
    let mut agent = backend.open(&socket_of(&target)).await;
    agent.say(&json!({"type": "pointer", "x": 0, "y": 0})).await;
    assert_eq!(agent.expect("error").await["error"], "not_allowed");
}

#[tokio::test]
async fn a_token_that_is_forged_or_of_another_visitor_opens_nothing_and_is_not_told_why() {
    let backend = Backend::start(seeded());
    let target = backend.watch_target("MAYA7K2Q", &order()).await;
    let mut pages = Vec::new();
    for bad in [
        target.replace("MAYA7K2Q", "JOES81NM"),
        target.replace("token=", "token=A"),
        target[..target.len() - 1].to_owned(),
        "/screen?id=MAYA7K2Q&token=".to_owned(),
        "/screen?id=MAYA7K2Q".to_owned(),
        "/screen".to_owned(),
        format!("{target}&token=x"),
    ] {
        let screen = backend.get(&bad).await;
        assert_eq!(screen.status, StatusCode::FORBIDDEN, "{bad}");
        assert_eq!(screen.headers["referrer-policy"], "no-referrer");
        pages.push(screen.text);
        let url = backend.ws(&socket_of(&bad));
        assert!(
            tokio_tungstenite::connect_async(url).await.is_err(),
            "{bad}"
        );
    }
    assert!(pages.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(backend.visitor("MAYA7K2Q").await["is_in_session"], false);
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let options = Options {
        token_ttl: Duration::from_secs(2),
        ..seeded()
    };
    let backend = Backend::start(options);
    let target = backend.watch_target("MAYA7K2Q", &order()).await;
    assert_eq!(backend.get(&target).await.status, StatusCode::OK);
    let started = Instant::now();
    while backend.get(&target).await.status != StatusCode::FORBIDDEN {
        assert!(started.elapsed() < PATIENCE, "still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// -- the tree and its life -----------------------------------------------------------------

#[tokio::test]
async fn the_whole_tree_is_below_its_mount_and_nothing_beside_it() {
    let options = Options {
        mount: "/up/tree".into(),
        ..seeded()
    };
    let backend = Backend::start(options);
    for path in [
        "/healthz",
        "/",
        "/assets/visitor.js",
        "/api/visitors/list/latest",
    ] {
        let inside = backend.get(&format!("/up/tree{path}")).await;
        assert_eq!(inside.status, StatusCode::OK, "{path}");
        assert_eq!(
            backend.get(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let bare = backend.get("/up/tree").await;
    assert_eq!(bare.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(bare.headers["location"], "tree/");
    backend
        .open("/up/tree/visitor/socket")
        .await
        .expect("welcome")
        .await;
}

#[tokio::test]
async fn pages_link_only_to_files_beside_them() {
    let backend = Backend::start(seeded());
    let target = backend.watch_target("MAYA7K2Q", &order()).await;
    for page in ["/", &target] {
        let text = backend.get(page).await.text;
        for link in text
            .split(['"', '\''])
            .filter(|part| part.contains("assets/"))
        {
            assert!(link.starts_with("assets/"), "{link}");
            let file = backend.get(&format!("/{link}")).await;
            assert_eq!(file.status, StatusCode::OK, "{link}");
        }
    }
}

#[tokio::test]
async fn shutdown_ends_open_sockets_within_a_second() {
    let mut backend = Backend::start(seeded());
    let mut page = backend.open("/visitor/socket").await;
    page.expect("welcome").await;
    let started = Instant::now();
    backend.stop.take();
    loop {
        match tokio::time::timeout(PATIENCE, page.0.next()).await.unwrap() {
            Some(Ok(Message::Close(frame))) => assert_eq!(u16::from(frame.unwrap().code), 1001),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    backend.thread.take().unwrap().join().unwrap();
    assert!(started.elapsed() < Duration::from_millis(1500));
    assert!(TcpStream::connect(backend.address).await.is_err());
}

#[tokio::test]
async fn options_that_cannot_be_used_are_refused_at_start() {
    let bad_seed = std::env::temp_dir().join(format!("vis-bad-seed-{}.json", std::process::id()));
    std::fs::write(&bad_seed, r#"[{"nickname": "Jo"}]"#).unwrap();
    for (options, named) in [
        (
            Options {
                mount: "up".into(),
                ..options()
            },
            "mount",
        ),
        (
            Options {
                base_endpoint: "host/path".into(),
                ..options()
            },
            "base_endpoint",
        ),
        (
            Options {
                secret_key: Some("short".into()),
                ..options()
            },
            "secret_key",
        ),
        (
            Options {
                seed: Some("/no/such/file".into()),
                ..options()
            },
            "seed",
        ),
        (
            Options {
                seed: Some(bad_seed.clone()),
                ..options()
            },
            "nickname",
        ),
    ] {
        let error = Server::new(&options).err().unwrap();
        assert!(error.to_string().contains(named), "{error}");
    }
    std::fs::remove_file(bad_seed).unwrap();
}

// -- the language of these tests -----------------------------------------------------------

fn options() -> Options {
    Options {
        rest_keys: vec![KEY.into()],
        secret_key: Some("an-example-secret-of-32-characters".into()),
        ..Options::default()
    }
}

fn seeded() -> Options {
    let samples: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/visitors.json");
    Options {
        seed: Some(samples),
        ..options()
    }
}

/// A body of `watch_url` that is right.
fn order() -> Value {
    json!({"licenseToken": "license", "agent": {"id": "7", "name": "Ada <Agent>"}})
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

fn socket_of(target: &str) -> String {
    target.replacen("/screen", "/screen/socket", 1)
}

/// A running backend; dropping it stops it.
struct Backend {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

impl Backend {
    fn start(options: Options) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let shutdown = async { stopped.await.unwrap_or_default() };
                let server = Server::new(&options).unwrap();
                server.serve(listener, shutdown).await.unwrap();
            });
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    async fn send(&self, method: &str, path: &str, authorization: &[&str], body: &str) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "evil.example");
        for line in authorization {
            request = request.header("authorization", *line);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let exchange = async move {
            let response = sender.send_request(request).await.unwrap();
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            Reply {
                status: head.status,
                headers: head.headers,
                text: String::from_utf8(bytes.to_vec()).unwrap(),
            }
        };
        futures_util::future::join(exchange, connection).await.0
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[KEY], "").await
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[KEY], body).await
    }

    async fn latest(&self) -> Vec<Value> {
        let body = self.get("/api/visitors/list/latest").await.json();
        body["visitors"].as_array().unwrap().clone()
    }

    async fn search(&self, q: &str) -> Vec<Value> {
        let path = format!("/api/visitors/list/search?q={q}");
        let body = self.get(&path).await.json();
        body["visitors"].as_array().unwrap().clone()
    }

    async fn visitor(&self, id: &str) -> Value {
        let reply = self.get(&format!("/api/visitors/{id}")).await;
        reply.json()["visitor"].clone()
    }

    async fn until_visitor(&self, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let visitor = self.visitor(id).await;
            if is_so(&visitor) {
                return visitor;
            }
            assert!(started.elapsed() < PATIENCE, "not in time: {visitor}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn watch(&self, id: &str, body: &Value) -> Reply {
        let path = format!("/api/visitors/{id}/watch_url");
        self.post(&path, &body.to_string()).await
    }

    /// Path and query of a new watch URL.
    async fn watch_target(&self, id: &str, body: &Value) -> String {
        let reply = self.watch(id, body).await.json();
        let url: http::Uri = reply["watch_url"].as_str().unwrap().parse().unwrap();
        url.path_and_query().unwrap().to_string()
    }

    fn ws(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    async fn open(&self, path: &str) -> Socket {
        self.open_with(path, &[]).await
    }

    async fn open_with(&self, path: &str, headers: &[(&'static str, &str)]) -> Socket {
        let mut request = self.ws(path).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        Socket(tokio_tungstenite::connect_async(request).await.unwrap().0)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the backend panicked"
            );
        }
    }
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn say(&mut self, message: &Value) {
        let message = Message::text(message.to_string());
        self.0.send(message).await.unwrap();
    }

    /// The next message of this type; others are passed over.
    async fn expect(&mut self, kind: &str) -> Value {
        let wait = async {
            loop {
                if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["type"] == *kind {
                        return message;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect(kind)
    }
}
