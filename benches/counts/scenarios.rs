//! What is counted. Each scenario differs from another in one thing, so that the difference of two
//! counts is what that thing takes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::gathered::Gathered;
use super::support::certificates::{careless, connect_at};
use super::support::load::{self, LARGE};
use super::support::{
    Backend, Client, Gateway, KEY, Proto, Raw, TlsStreamOf, full, ok, tls, websocket,
};

/// A path of the API.
const API: &str = "/cobrowsing/api/visitors/list/latest";

/// What a browser sends along, beside the key.
const OF_A_BROWSER: &[(&str, &str)] = &[
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://localhost/cobrowsing/visitors/overview"),
    (
        "cookie",
        "session=4f1c2a9b7d3e4c5f8a6b; theme=dark; consent=necessary.statistics",
    ),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("upgrade-insecure-requests", "1"),
    ("priority", "u=0, i"),
    ("x-requested-with", "XMLHttpRequest"),
];

/// Something that is done many times and counted.
pub struct Scenario {
    /// Its name in the baseline.
    pub name: &'static str,
    /// How often it is done in the shorter of two runs.
    pub few: usize,
    pub backend: fn() -> Backend,
    /// What the gateway's configuration has that others have not.
    pub toml: &'static str,
    pub load: Load,
}

/// What clients do.
#[derive(Clone, Copy)]
pub enum Load {
    /// Requests on one connection, this many at a time.
    Requests(Call, usize),
    /// Messages of this size on one WebSocket, each of them coming back.
    Messages(usize),
    /// Connections with one request each; `true`: of a client that was there before.
    Connections(bool),
    /// A large answer or, `true`, a large request.
    Bodies(bool),
}

/// When a client sends its next request.
#[derive(Clone, Copy)]
pub enum Pace {
    /// When the one before is answered.
    AtOnce,
    /// When the gateway is asleep: whether it is on its way there, and how far, would be chance.
    Calm,
}

impl Pace {
    async fn keep(self) {
        if matches!(self, Self::Calm) {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// One request.
#[derive(Clone, Copy)]
pub struct Call {
    proto: Proto,
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// Bytes of its body.
    body: usize,
    status: u16,
}

const WITH_THE_KEY: &[(&str, &str)] = &[("authorization", KEY)];

const GET: Call = Call {
    proto: Proto::H1,
    method: "GET",
    path: API,
    headers: WITH_THE_KEY,
    body: 0,
    status: 200,
};

const POST: Call = Call {
    method: "POST",
    body: 1024,
    ..GET
};

/// 600 bytes of JSON, or the messages of a WebSocket back.
fn backend() -> Backend {
    Backend::answers(ok(&format!(
        "{{\"status\":\"ok\",\"x\":\"{}\"}}",
        "x".repeat(577)
    )))
}

/// All of them.
pub fn scenarios() -> Vec<Scenario> {
    let requests = |name, call, at_once| Scenario {
        name,
        few: 400,
        backend,
        toml: "",
        load: Load::Requests(call, at_once),
    };
    let over_h2 = |call| Call {
        proto: Proto::H2,
        ..call
    };
    let refused = |path, headers, status| Call {
        path,
        headers,
        status,
        ..GET
    };
    let browser = Call {
        path: "/cobrowsing/visitors/overview",
        headers: OF_A_BROWSER,
        ..GET
    };
    let ambiguous = "/cobrowsing/api%2Fvisitors/list/latest";
    vec![
        requests("http1_get", GET, 1),
        requests("http1_page_of_a_browser", browser, 1),
        requests("http1_post_1_kib", POST, 1),
        requests("http1_no_key_401", refused(API, &[], 401), 1),
        requests("http1_path_400", refused(ambiguous, WITH_THE_KEY, 400), 1),
        Scenario {
            toml: "[[rate_limit.policy]]\nname = 'client'\nper = 'client'\nrate = '1000000000/1s'",
            ..requests("http1_limited", GET, 1)
        },
        Scenario {
            toml: "[[rate_limit.policy]]\nname = 'client'\nper = 'client'\nrate = '1/1d'",
            ..requests("http1_limited_429", refused(API, WITH_THE_KEY, 429), 1)
        },
        Scenario {
            toml: "log.access = true",
            ..requests("http1_logged", GET, 1)
        },
        requests("http2_get", over_h2(GET), 1),
        requests("http2_get_16_at_once", over_h2(GET), 16),
        requests("http2_post_1_kib", over_h2(POST), 1),
        requests("http2_no_key_401", over_h2(refused(API, &[], 401)), 1),
        Scenario {
            backend: load::backend,
            load: Load::Messages(100),
            ..requests("websocket_message_100_b", GET, 1)
        },
        Scenario {
            backend: load::backend,
            load: Load::Messages(4096),
            ..requests("websocket_message_4_kib", GET, 1)
        },
        Scenario {
            few: 20,
            load: Load::Connections(false),
            ..requests("connection_full", GET, 1)
        },
        Scenario {
            few: 40,
            load: Load::Connections(true),
            ..requests("connection_resumed", GET, 1)
        },
        Scenario {
            few: 8,
            backend: load::backend,
            load: Load::Bodies(false),
            ..requests("download_3_mib", GET, 1)
        },
        Scenario {
            few: 8,
            backend: load::backend,
            toml: "api.max_body = '16MiB'",
            load: Load::Bodies(true),
            ..requests("upload_3_mib", GET, 1)
        },
    ]
}

impl Load {
    /// Does it `times` times, and sees that each was answered rightly.
    pub async fn run(self, gateway: &Gateway, times: usize, pace: Pace) {
        match self {
            Self::Requests(call, 1) => call.one_by_one(gateway, times, pace).await,
            Self::Requests(call, at_once) => call.at_once(gateway, times, at_once, pace).await,
            Self::Messages(size) => messages(gateway, size, times).await,
            Self::Connections(resumed) => connections(gateway, resumed, times).await,
            Self::Bodies(up) => bodies(gateway, up, times).await,
        }
    }
}

impl Call {
    async fn connected(self, gateway: &Gateway) -> Gathered<TlsStreamOf> {
        let stream = tls(gateway, &[self.proto.alpn()], rustls::DEFAULT_VERSIONS).await;
        Gathered::new(stream.unwrap())
    }

    async fn one_by_one(self, gateway: &Gateway, times: usize, pace: Pace) {
        let mut client = Client::through(self.connected(gateway).await, self.proto).await;
        // Where a limit refuses, the first one was admitted.
        client.api("GET", API, "").await;
        for _ in 0..times {
            pace.keep().await;
            let body = vec![b'b'; self.body];
            let reply = client
                .call(self.method, self.path, self.headers, body)
                .await;
            assert_eq!(reply.status, self.status, "{}", reply.text());
        }
    }

    /// Over HTTP/2, `at_once` streams at a time.
    async fn at_once(self, gateway: &Gateway, times: usize, at_once: usize, pace: Pace) {
        let io = TokioIo::new(self.connected(gateway).await);
        let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = connected.unwrap();
        let driver = tokio::spawn(connection);
        for _ in 0..times / at_once {
            pace.keep().await;
            let answers = (0..at_once).map(|_| {
                let request = http::Request::builder()
                    .method(self.method)
                    .uri(format!("https://localhost{}", self.path));
                let request = self.headers.iter().fold(request, |request, (name, value)| {
                    request.header(*name, *value)
                });
                sender.send_request(request.body(full("")).unwrap())
            });
            for answer in join_all(answers).await {
                let answer = answer.unwrap();
                assert_eq!(answer.status(), self.status);
                answer.into_body().collect().await.unwrap();
            }
        }
        driver.abort();
    }
}

async fn messages(gateway: &Gateway, size: usize, times: usize) {
    let mut socket = websocket(gateway, "/cobrowsing/socket", &[]).await.unwrap();
    let message = "m".repeat(size);
    for _ in 0..times {
        socket.send((&*message).into()).await.unwrap();
        let echo = socket.next().await.unwrap().unwrap();
        assert_eq!(echo.into_text().unwrap(), message);
    }
    socket.close(None).await.unwrap();
}

async fn connections(gateway: &Gateway, resumed: bool, times: usize) {
    let kept = careless(None);
    for n in 0..times {
        let config = if resumed {
            Arc::clone(&kept)
        } else {
            careless(None)
        };
        let stream = connect_at(gateway.listen, "localhost", config).await;
        let mut raw = Raw::on(stream.unwrap());
        let reply = raw
            .call("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        assert_eq!(reply.status, 200);
        let kind = raw.stream.get_ref().1.handshake_kind();
        let was_resumed = kind == Some(rustls::HandshakeKind::Resumed);
        assert_eq!(was_resumed, resumed && n > 0, "{kind:?}");
    }
}

async fn bodies(gateway: &Gateway, up: bool, times: usize) {
    let mut client = Client::connect(gateway, Proto::H1).await;
    for _ in 0..times {
        if up {
            let body = vec![b'u'; LARGE];
            let reply = client.call("POST", "/cobrowsing/up", &[], body).await;
            assert_eq!(reply.status, 200);
        } else {
            assert_eq!(client.get("/cobrowsing/large").await.body.len(), LARGE);
        }
    }
}
