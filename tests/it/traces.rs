//! Traces: a request is followed through the gateway to the backend, and nobody waits for whom it is
//! told to.

use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::expositions::{OPENMETRICS, scrape};
use super::support::receiver::{Receiver, Span, spans};
use super::support::{
    BINARY, Backend, Client, Folder, Gateway, KEY, Proto, Reply, Setup, certificate, eventually,
    full, until, websocket, within,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

fn trusting(setup: Setup) -> Setup {
    setup.toml("public.trusted_proxies = ['127.0.0.0/8']")
}

/// What a backend got as `traceparent`: trace id, span, flags.
fn context(backend: &Backend) -> (String, String, String) {
    let parent = backend.last().header("traceparent").unwrap();
    let parts: Vec<_> = parent.split('-').collect();
    assert_eq!(
        (parts.len(), parts[0], parent.len()),
        (4, "00", 55),
        "{parent}"
    );
    (parts[1].into(), parts[2].into(), parts[3].into())
}

fn attributes(span: &Span) -> Vec<(&str, &str)> {
    let pairs = span.attributes.iter();
    pairs.map(|(name, value)| (&**name, &**value)).collect()
}

#[tokio::test]
async fn a_trace_goes_on_through_the_gateway_and_the_backend_is_its_child() {
    let (backend, receiver) = (Backend::well(), Receiver::start());
    // Not one would be traced that did not ask for it.
    let setup = receiver.told_by(trusting(Gateway::before(&backend)));
    let gateway = setup.toml("trace.ratio = 0").start().await;
    let headers = [
        ("authorization", KEY),
        ("traceparent", SENT),
        ("tracestate", "rojo=1,congo=2"),
    ];
    for (n, (proto, version)) in [(Proto::H1, "1.1"), (Proto::H2, "2")]
        .into_iter()
        .enumerate()
    {
        let mut client = Client::connect(&gateway, proto).await;
        let path = "/cobrowsing/api/visitors/8QX3VT?secret=1";
        client.call("GET", path, &headers, "").await;
        let (trace, span, flags) = context(&backend);
        assert_eq!((&*trace, &*flags), (TRACE, "01"));
        assert_eq!(
            backend.last().header("tracestate").as_deref(),
            Some("rojo=1,congo=2")
        );
        let told = receiver.until_spans(2 * n + 2).await.split_off(2 * n);
        let [server, call] = &told[..] else {
            panic!("{told:#?}")
        };
        assert_eq!((server.kind, call.kind), (2, 3));
        assert_eq!((&*server.trace_id, &*call.trace_id), (TRACE, TRACE));
        assert_eq!(server.parent, "00f067aa0ba902b7");
        assert_eq!((&call.parent, &call.id), (&server.id, &span));
        assert_eq!(server.name, "GET /api/visitors/{id}");
        assert_eq!(call.name, server.name);
        assert!(server.start <= call.start && call.start <= call.end && call.end <= server.end);
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_nanos() as u64;
        assert!(now.abs_diff(server.end) < 60_000_000_000);
        // These, and no other: no path, no query, no host, no key, no address.
        assert_eq!(
            attributes(server),
            [
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("http.route", "/api/visitors/{id}"),
                ("network.protocol.version", version),
                ("url.scheme", "https"),
            ]
        );
        assert_eq!(
            attributes(call),
            [
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("network.protocol.version", "1.1"),
                ("url.template", "/api/visitors/{id}"),
            ]
        );
        assert_eq!((server.status, call.status), (0, 0));
        let resource: Vec<_> = server.resource.iter().collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        assert_eq!(
            resource,
            [
                (&"service.name".to_owned(), &"cobrowse-gateway".to_owned()),
                (&"service.version".to_owned(), &version)
            ]
        );
    }
    until("lines", || gateway.requests().len() == 2).await;
    for line in gateway.requests() {
        assert_eq!(line["trace_id"], TRACE);
    }
    gateway
        .until_metric("gateway_traced_requests_total{result=\"exported\"}", 2.0)
        .await;
}

#[tokio::test]
async fn without_a_context_a_trace_begins_and_what_is_none_is_not_passed_on() {
    let (backend, receiver) = (Backend::well(), Receiver::start());
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let mut seen = std::collections::BTreeSet::new();
    let odd = [
        &[][..],
        &[("traceparent", "nonsense"), ("tracestate", "a=1")],
        &[
            ("traceparent", SENT),
            ("traceparent", SENT),
            ("tracestate", "a=1"),
        ],
        &[("tracestate", "a=1")],
        &[("trace-parent", SENT), ("trace_state", "a=1")],
    ];
    for (n, headers) in odd.iter().enumerate() {
        client.call("GET", "/cobrowsing/x", headers, "").await;
        let (trace, span, flags) = context(&backend);
        assert_eq!(flags, "03", "told, and random");
        assert_eq!(backend.last().header("tracestate"), None);
        let told = receiver.until_spans(2 * n + 2).await.split_off(2 * n);
        assert_eq!((&told[0].trace_id, &*told[0].parent), (&trace, ""));
        assert_eq!(told[1].id, span);
        assert!(seen.insert(trace.clone()) && trace != TRACE);
    }
}

#[tokio::test]
async fn who_is_not_believed_goes_on_with_its_trace_and_cannot_make_us_tell_it() {
    let (backend, receiver) = (Backend::well(), Receiver::start());
    let setup = receiver.told_by(Gateway::before(&backend));
    let gateway = setup.toml("trace.ratio = 0").start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    client
        .call("GET", "/cobrowsing/x", &[("traceparent", SENT)], "")
        .await;
    let (trace, span, flags) = context(&backend);
    assert_eq!((&*trace, &*flags), (TRACE, "00"));
    assert_ne!(span, "00f067aa0ba902b7");
    // Whose word is believed, and how many are told, may change while it runs.
    let file = std::fs::read_to_string(gateway.folder.0.join("gateway.toml")).unwrap();
    let all = file.replace("[trace]", "[trace]\nbelieve = 'all'");
    gateway.folder.write("gateway.toml", all);
    gateway.signal(rustix::process::Signal::HUP);
    until("the reload", || !gateway.events("reloaded").is_empty()).await;
    client
        .call("GET", "/cobrowsing/y", &[("traceparent", SENT)], "")
        .await;
    assert_eq!(context(&backend).2, "01");
    client
        .call("GET", "/cobrowsing/z", &[("traceparent", UNSAMPLED)], "")
        .await;
    assert_eq!(context(&backend).2, "00");
    let told = receiver.until_spans(2).await;
    assert_eq!(told.len(), 2);
    // Told or not, the log leads to the trace.
    until("lines", || gateway.requests().len() == 3).await;
    assert!(
        gateway
            .requests()
            .iter()
            .all(|line| line["trace_id"] == TRACE)
    );
    assert_eq!(gateway.stop().await.code, Some(0));
    assert_eq!(receiver.spans().len(), 2);
}

#[tokio::test]
async fn off_it_is_not_there_and_what_clients_send_passes() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let headers = [("traceparent", SENT), ("tracestate", "a=1")];
    client.call("GET", "/cobrowsing/x", &headers, "").await;
    assert_eq!(backend.last().header("traceparent").as_deref(), Some(SENT));
    assert_eq!(backend.last().header("tracestate").as_deref(), Some("a=1"));
    client.get("/cobrowsing/x").await;
    assert_eq!(backend.last().header("traceparent"), None);
    until("lines", || gateway.requests().len() == 2).await;
    assert!(
        gateway
            .requests()
            .iter()
            .all(|line| line["trace_id"].is_null())
    );
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let names = threads.map(|t| std::fs::read_to_string(t.unwrap().path().join("comm")).unwrap());
    assert!(!names.map(|n| n.trim().to_owned()).any(|n| n == "traces"));
}

#[tokio::test]
async fn what_goes_wrong_is_told_by_its_code_and_refusals_are_no_errors_of_ours() {
    let receiver = Receiver::start();
    let backend = Backend::new(|conn| {
        while let Some(request) = conn.request() {
            match &*request.target {
                "/gone" => return,
                "/broken" => conn.say(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"),
                "/missing" => conn.say(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n"),
                _ => {
                    conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
                    return;
                }
            };
        }
    });
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let mut all = Vec::new();
    for (method, path, status, error, call) in [
        ("GET", "/outside", (0, "404"), None, None),
        (
            "GET",
            "/cobrowsing/api/x",
            (0, "401"),
            Some("invalid_api_key"),
            None,
        ),
        (
            "POST",
            "/cobrowsing/gone",
            (2, "502"),
            Some("upstream_failed"),
            Some((2, "upstream_failed")),
        ),
        (
            "GET",
            "/cobrowsing/broken",
            (2, "500"),
            Some("500"),
            Some((2, "500")),
        ),
        (
            "PURGE",
            "/cobrowsing/missing",
            (0, "404"),
            None,
            Some((2, "404")),
        ),
        (
            "GET",
            "/cobrowsing/half",
            (0, "200"),
            Some("aborted"),
            Some((0, "")),
        ),
    ] {
        let mut client = Client::connect(&gateway, Proto::H1).await;
        client.try_call(method, path, &[], "").await.ok();
        let expected = if call.is_some() { 2 } else { 1 };
        let told = receiver
            .until_spans(all.len() + expected)
            .await
            .split_off(all.len());
        assert_eq!(told.len(), expected, "{path}");
        let code = told[0].attributes.get("http.response.status_code");
        assert_eq!((told[0].status, code.unwrap().as_str()), status, "{path}");
        let said = told[0].attributes.get("error.type").map(String::as_str);
        // A refusal by its code: it says more than its status.
        let error = if path == "/outside" {
            Some("not_found")
        } else {
            error
        };
        assert_eq!(said, error, "{path}");
        if let Some((status, word)) = call {
            let said = told[1]
                .attributes
                .get("error.type")
                .map_or("", String::as_str);
            assert_eq!((told[1].status, said), (status, word), "{path}");
        }
        let method = if method == "PURGE" { "_OTHER" } else { method };
        assert_eq!(told[0].attributes["http.request.method"], method);
        all.extend(told);
    }
    assert_eq!(all[0].name, "GET");
    assert!(all.iter().any(|span| span.name == "HTTP /{page}"));
}

#[tokio::test]
async fn a_client_that_leaves_and_the_handshake_of_a_socket_are_told_when_they_are_over() {
    let (backend, receiver) = (Backend::never_answers(), Receiver::start());
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    let sending = client.send("GET", "/cobrowsing/x", &[], full(""));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), sending)
            .await
            .is_err()
    );
    drop(client);
    let told = receiver.until_spans(2).await;
    for span in &told {
        assert!(!span.attributes.contains_key("http.response.status_code"));
        assert_eq!(span.status, 2);
    }
    assert_eq!(told[0].attributes["error.type"], "aborted");
    assert_eq!(told[1].attributes["error.type"], "canceled");
    assert_eq!(told[1].id, context(&backend).1);

    let (backend, receiver) = (Backend::upgrades_and_echoes_bytes(), Receiver::start());
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let socket = websocket(&gateway, "/cobrowsing/socket", &[])
        .await
        .unwrap();
    // While it is open: who looks for a slow handshake does not wait for hours.
    let told = receiver.until_spans(2).await;
    assert_eq!(told[0].attributes["http.response.status_code"], "101");
    let trace = told[0].trace_id.clone();
    drop(socket);
    until("its line", || gateway.requests().len() == 1).await;
    assert_eq!(gateway.requests()[0]["trace_id"], trace);
    assert_eq!(gateway.stop().await.code, Some(0));
    assert_eq!(receiver.spans().len(), 2);
}

#[tokio::test]
async fn a_receiver_that_is_slow_wrong_or_away_costs_no_request_anything() {
    const REQUESTS: usize = 300;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refuses = || Backend::answers("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n");
    for (what, receiver) in [
        ("never answers", Some(Backend::never_answers())),
        ("speaks nonsense", Some(Backend::speaks_nonsense())),
        ("refuses", Some(refuses())),
        ("is away", None),
    ] {
        let backend = Backend::well();
        let at = receiver.as_ref().map_or(free, |receiver| receiver.address);
        let gateway = Gateway::before(&backend)
            .toml(&format!(
                "[trace]\nendpoint = 'http://{at}'\nratio = 1.0\nqueue = 20\ntimeout = '500ms'"
            ))
            .start()
            .await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            assert_eq!(client.get("/cobrowsing/x").await.status, 200);
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{what}: {took:?}");
        let result = |result: &str| format!("gateway_traced_requests_total{{result=\"{result}\"}}");
        // Each is either dropped or lost, and all are counted, the last ones after their answers.
        let dropped = eventually(what, async || {
            let dropped = gateway.metric(&result("dropped")).await;
            let failed = gateway.metric(&result("failed")).await;
            (failed + dropped == REQUESTS as f64).then_some(dropped)
        })
        .await;
        assert!(
            dropped > 0.0 && dropped < REQUESTS as f64,
            "{what}: {dropped}"
        );
        assert_eq!(gateway.metric(&result("exported")).await, 0.0);
        let told =
            "the receiver of traces does not take them: they are lost and counted until it does";
        until(what, || gateway.events(told).len() == 1).await;
        let begun = Instant::now();
        assert_eq!(gateway.stop().await.code, Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}");
    }
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_what_comes_after() {
    let backend = Backend::well();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gateway = Gateway::before(&backend)
        .toml(&format!(
            "[trace]\nendpoint = 'http://{address}/v1/traces/'\nratio = 1.0"
        ))
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.get("/cobrowsing/x").await;
    // It is tried again for some time before it is given up.
    let listener = eventually("the port", async || {
        std::net::TcpListener::bind(address).ok()
    })
    .await;
    let receiver = Backend::on(listener, |conn| {
        while conn.request().is_some() {
            conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let receiver = Receiver::that(receiver);
    assert_eq!(receiver.until_spans(2).await.len(), 2);
    assert_eq!(receiver.0.last().target, "/v1/traces");
}

#[tokio::test]
async fn what_waits_is_told_before_the_process_ends() {
    for requests in [1, 1500] {
        let (backend, receiver) = (Backend::well(), Receiver::start());
        let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        for _ in 0..requests {
            client.get("/outside").await;
        }
        assert_eq!(gateway.stop().await.code, Some(0));
        assert_eq!(receiver.spans().len(), requests);
    }
    // One that does not answer holds the end up for three seconds at most.
    let (backend, receiver) = (Backend::well(), Receiver::that(Backend::never_answers()));
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    Client::connect(&gateway, Proto::H1)
        .await
        .get("/cobrowsing/x")
        .await;
    let begun = Instant::now();
    let ended = gateway.stop().await;
    assert_eq!(ended.code, Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let told = "the receiver of traces did not take the last ones in time";
    assert!(
        ended.log.iter().any(|line| line.contains(told)),
        "{:?}",
        ended.log
    );
}

/// Reads one export over TLS and answers it: its headers as text, and its spans.
async fn one_export(listener: &tokio::net::TcpListener) -> (String, Vec<Span>) {
    let (certificate, key) = certificate();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let (socket, _) = within(listener.accept()).await.unwrap();
    let mut stream = within(acceptor.accept(socket)).await.unwrap();
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 16 << 10]);
    let (head, body) = loop {
        let n = within(stream.read(&mut chunk)).await.unwrap();
        assert!(n > 0);
        bytes.extend_from_slice(&chunk[..n]);
        let Some(end) = super::support::find(&bytes, b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))
            .unwrap();
        let body = &bytes[end + 4..];
        if body.len() == length.parse::<usize>().unwrap() {
            break (head, body.to_vec());
        }
    };
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    stream.flush().await.unwrap();
    let headers = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    let received = super::support::Received {
        method: "POST".into(),
        headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        body,
        ..Default::default()
    };
    (head, spans(&received))
}

#[tokio::test]
async fn over_tls_with_header_fields_of_configuration_and_file_and_neither_is_shown() {
    let backend = Backend::well();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let gateway = Gateway::before(&backend)
        .beside("headers", "# of the receiver\nx-tenant: canary-file\n")
        .toml(&format!(
            "[trace]\nendpoint = 'https://localhost:{port}/otlp'\nca = 'cert.pem'\nratio = 1.0\n\
             headers_file = 'headers'\nservice_name = 'edge'\n[trace.headers]\nApi-Key = 'canary-key'"
        ))
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .toml("log.level = 'debug'")
        .start()
        .await;
    Client::connect(&gateway, Proto::H1)
        .await
        .get("/cobrowsing/x")
        .await;
    let (head, spans) = one_export(&listener).await;
    assert!(
        head.starts_with("POST /otlp/v1/traces HTTP/1.1\r\n"),
        "{head}"
    );
    for line in ["api-key: canary-key", "x-tenant: canary-file"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(head.contains(&format!("host: localhost:{port}")), "{head}");
    assert_eq!(spans.len(), 2);
    assert_eq!(spans[0].resource["service.name"], "edge");
    assert!(!gateway.metrics().await.contains("canary"));
    let print = std::process::Command::new(BINARY)
        .args(["config", "print", "--config"])
        .arg(gateway.folder.0.join("gateway.toml"))
        .env_clear()
        .output()
        .unwrap();
    let printed = String::from_utf8(print.stdout).unwrap();
    assert!(
        printed.contains("[trace]") && !printed.contains("canary"),
        "{printed}"
    );
    let ended = gateway.stop().await;
    for line in ended.log.iter().chain([&ended.errors]) {
        assert!(!line.contains("canary"), "{line}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_settings_is_told_and_nothing_of_a_secret_is() {
    let folder = Folder::new().with_certificate();
    folder.write("headers", "no colon canary\n");
    folder.write("twice", "a: canary\nA: canary\n");
    for (wrong, told) in [
        (
            "endpoint = 'localhost:4318'",
            "trace.endpoint: expected http://",
        ),
        (
            "endpoint = 'ftp://localhost'",
            "trace.endpoint: expected http://",
        ),
        (
            "endpoint = 'http://user:canary@localhost'",
            "trace.endpoint: expected http://",
        ),
        (
            "endpoint = 'http://localhost?a=canary'",
            "trace.endpoint: expected http://",
        ),
        ("endpoint = 'https://localhost'", "trace.ca is not set"),
        (
            "endpoint = 'http://localhost'\nca = 'cert.pem'",
            "https:// where trace.ca is set",
        ),
        (
            "endpoint = 'https://localhost'\nca = 'none.pem'",
            "none.pem",
        ),
        (
            "endpoint = 'http://localhost'\ntimeout = '0s'",
            "trace.timeout",
        ),
        ("endpoint = 'http://localhost'\nqueue = 0", "trace.queue"),
        (
            "endpoint = 'http://localhost'\nheaders_file = 'headers'",
            "headers:1: expected \"name: value\"",
        ),
        (
            "endpoint = 'http://localhost'\nheaders_file = 'twice'",
            "twice:2: this header field is given twice",
        ),
        (
            "endpoint = 'http://localhost'\nheaders = { 'a b' = 'canary' }",
            "expected the name of a header field",
        ),
        (
            "endpoint = 'http://localhost'\nheaders = { a = \"canary\\n\\u0001\" }",
            "expected printable characters",
        ),
        ("ratio = 1.5", "expected a number from 0 to 1"),
        ("ratio = 'canary'", "trace.ratio"),
        ("believe = 'nobody'", "trace.believe"),
    ] {
        let text = format!(
            "[public]\nbase_endpoint = 'https://localhost/x'\n[tls]\ncertificate = 'cert.pem'\nkey = 'cert.key'\n[trace]\n{wrong}\n"
        );
        let file = folder.write("gateway.toml", text);
        let checked = std::process::Command::new(BINARY)
            .args(["check", "--config"])
            .arg(file)
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        assert_eq!(checked.status.code(), Some(1), "{wrong}: {said}");
        assert!(said.contains(told), "{wrong}: {said}");
        assert!(
            !said.contains("canary") || wrong.starts_with("ratio"),
            "{wrong}: {said}"
        );
    }
}

#[tokio::test]
async fn a_slow_request_leads_from_the_metrics_to_its_trace() {
    let (backend, receiver) = (Backend::well(), Receiver::start());
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for path in ["/cobrowsing/x", "/outside"] {
        client.get(path).await;
    }
    let spans = receiver.until_spans(3).await;
    let open = scrape(&gateway, OPENMETRICS).await.text();
    for (route, trace) in [("page", &spans[0].trace_id), ("none", &spans[2].trace_id)] {
        let line = open
            .lines()
            .find(|line| line.contains(trace.as_str()))
            .unwrap_or_else(|| panic!("{trace}: {open}"));
        let (sample, exemplar) = line.split_once(" # ").unwrap();
        let begins = format!("gateway_request_duration_seconds_bucket{{route=\"{route}\",le=\"");
        assert!(sample.starts_with(&begins), "{line}");
        let (labels, numbers) = exemplar.split_once("} ").unwrap();
        assert_eq!(labels, format!("{{trace_id=\"{trace}\""));
        let numbers: Vec<f64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs_f64();
        assert!(numbers.len() == 2 && numbers[0] < 10.0 && (now - numbers[1]).abs() < 60.0);
        let bound: f64 = sample[begins.len()..]
            .split('"')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(numbers[0] <= bound, "{line}");
    }
    // One for each bucket at most, whatever comes, and none where there is none to have.
    let exemplars = |text: &str| text.lines().filter(|line| line.contains(" # {")).count();
    for _ in 0..200 {
        client.get("/outside").await;
    }
    let again = scrape(&gateway, OPENMETRICS).await.text();
    assert!(exemplars(&again) <= 2 * 15);
    assert!(!gateway.metrics().await.contains("trace_id"));
}

/// So that the answer of a gateway with traces is the one of a gateway without.
#[tokio::test]
async fn clients_see_nothing_of_it() {
    let (backend, receiver) = (Backend::well(), Receiver::start());
    let on = receiver.told_by(Gateway::before(&backend)).start().await;
    let off = Gateway::before(&backend).start().await;
    let names =
        |reply: &Reply| -> Vec<String> { reply.headers.keys().map(ToString::to_string).collect() };
    let mut seen = Vec::new();
    for gateway in [&on, &off] {
        let mut client = Client::connect(gateway, Proto::H1).await;
        let reply = client
            .call("GET", "/cobrowsing/x", &[("traceparent", SENT)], "")
            .await;
        seen.push((reply.status, names(&reply)));
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn explain_tells_what_the_backend_would_get() {
    let folder = Folder::new().with_certificate();
    let text = "[public]\nbase_endpoint = 'https://localhost/x'\n[tls]\ncertificate = 'cert.pem'\nkey = 'cert.key'\n";
    let on = format!("{text}[trace]\nendpoint = 'http://127.0.0.1:4318'\n");
    for (text, sent, expected) in [
        (text, true, None),
        (&on, false, Some("a span of ours")),
        (&on, true, Some("a span of ours")),
    ] {
        let file = folder.write("gateway.toml", text);
        let mut command = std::process::Command::new(BINARY);
        command
            .args(["explain", "GET", "/x/page", "--config"])
            .arg(file)
            .env_clear();
        if sent {
            let (parent, state) = (format!("traceparent: {SENT}"), "tracestate: a=1");
            command.args(["-H", &parent, "-H", state]);
        }
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let line = |begins: &str| {
            said.lines()
                .find(|line| line.starts_with(begins))
                .unwrap_or("")
        };
        let written = said.lines().find(|line| line.contains("traceparent: "));
        assert_eq!(written.is_some(), expected.is_some(), "{said}");
        assert!(
            written.is_none_or(|line| line.contains(expected.unwrap())),
            "{said}"
        );
        assert_eq!(line("passed on").contains("tracestate"), sent, "{said}");
    }
}
