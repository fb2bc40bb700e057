//! How traces reach their receiver, whatever it is like, and what `doctor` says of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::commands::Ran;
use super::doctor::{doctor, line, service_at};
use super::support::certificates::{Made, made};
use super::support::receiver::Receiver;
use super::support::{Backend, Client, Folder, Gateway, Proto, eventually};

const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const EXPORTED: &str = "gateway_traced_requests_total{result=\"exported\"}";
const FAILED: &str = "gateway_traced_requests_total{result=\"failed\"}";

/// Which connection each export came on.
fn connections(receiver: &Receiver) -> Vec<usize> {
    let exports = receiver.0.requests();
    exports.iter().map(|export| export.connection).collect()
}

/// Has `batches` told one after the other, of one request each: nothing gets lost.
async fn told(receiver: &Receiver, batches: usize) {
    let backend = Backend::well();
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for batch in 1..=batches {
        client.get("/outside").await;
        gateway.until_metric(EXPORTED, batch as f64).await;
    }
    assert_eq!(gateway.metric(FAILED).await, 0.0);
}

#[tokio::test]
async fn one_batch_after_the_other_goes_over_one_connection() {
    let receiver = Receiver::start();
    told(&receiver, 4).await;
    assert_eq!(connections(&receiver), [1, 1, 1, 1]);
    assert_eq!(receiver.0.connections(), 1);
    // A receiver that refuses for now is still there.
    let refused = AtomicBool::new(false);
    let receiver = Receiver::that(Backend::answers_by(move |_| {
        if refused.swap(true, Ordering::SeqCst) {
            TAKEN.to_vec()
        } else {
            b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n".to_vec()
        }
    }));
    told(&receiver, 2).await;
    assert_eq!(connections(&receiver), [1, 1, 1]);
}

#[tokio::test]
async fn a_receiver_that_closes_its_connections_gets_everything_once_and_over_new_ones() {
    // Without a word, and announced.
    let silent = Backend::new(|conn| {
        conn.request();
        conn.say(TAKEN);
    });
    let announced =
        Backend::answers("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    for backend in [silent, announced] {
        let receiver = Receiver::that(backend);
        told(&receiver, 3).await;
        assert_eq!(connections(&receiver), [1, 2, 3]);
        assert_eq!(receiver.spans().len(), 3);
    }
}

#[tokio::test]
async fn what_was_sent_as_the_connection_closed_is_sent_again_at_once() {
    let receiver = Receiver::that(Backend::new(|conn| {
        conn.request();
        conn.say(TAKEN);
        // The next one gets no answer.
        conn.request();
    }));
    told(&receiver, 2).await;
    assert_eq!(connections(&receiver), [1, 1, 2]);
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_sent_again() {
    let receiver = Receiver::that(Backend::answers(
        "HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n",
    ));
    let backend = Backend::well();
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.get("/outside").await;
    gateway.until_metric(FAILED, 1.0).await;
    let told = "the receiver of traces does not take them: they are lost and counted until it does";
    let events = eventually("a line", async || {
        Some(gateway.events(told)).filter(|events| !events.is_empty())
    });
    assert_eq!(events.await[0]["error"], "it answered 400");
    assert_eq!(receiver.0.requests().len(), 1);
}

#[tokio::test]
async fn exports_are_compressed_or_not_as_the_configuration_says_and_nobody_else() {
    for (compression, other, encoding) in [
        ("", "none", Some("gzip")),
        ("trace.compression = 'gzip'", "none", Some("gzip")),
        ("trace.compression = 'none'", "gzip", None),
    ] {
        let (backend, receiver) = (Backend::well(), Receiver::start());
        let gateway = receiver
            .told_by(Gateway::before(&backend))
            .toml(compression)
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", other)
            .env("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", other)
            .start()
            .await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        client.get("/cobrowsing/x").await;
        assert_eq!(receiver.until_spans(2).await.len(), 2);
        let export = receiver.0.last();
        assert_eq!(export.header("content-encoding").as_deref(), encoding);
        let user = format!("cobrowse-gateway/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(export.header("user-agent"), Some(user));
    }
}

/// A certificate for `localhost` that is not the run's.
fn other() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| made(&["localhost"]))
}

/// What `doctor` says with traces to `endpoint`.
fn looked(endpoint: &str, more: &[(&str, &str)]) -> Ran {
    let folder = Folder::new().with_certificate();
    folder.write("other.pem", &other().pem);
    folder.write("headers", "api-key: canary\n");
    let mut environment = vec![
        ("GATEWAY__TRACE__ENDPOINT", endpoint),
        ("GATEWAY__TRACE__TIMEOUT", "1s"),
    ];
    environment.extend(more);
    doctor(&folder, &service_at(""), &[], &environment)
}

/// The problem that `doctor` has with this receiver.
fn problem(endpoint: &str, more: &[(&str, &str)]) -> String {
    let ran = looked(endpoint, more);
    assert_eq!(ran.code, 1, "{}", ran.out);
    line(&ran, "problem", "traces: ").to_owned()
}

#[test]
fn doctor_sends_a_receiver_an_export_without_spans_and_says_that_it_is_taken() {
    for (compression, encoding) in [("gzip", Some("gzip")), ("none", None)] {
        let receiver = Receiver::start();
        let more = [
            ("GATEWAY__TRACE__COMPRESSION", compression),
            ("GATEWAY__TRACE__HEADERS_FILE", "headers"),
        ];
        let ran = looked(&format!("{}/otlp", receiver.url()), &more);
        let said = line(&ran, "ok", "traces: http://127.0.0.1:");
        assert!(said.ends_with("/otlp/v1/traces takes them"), "{said}");
        assert_eq!(ran.code, 0, "{}", ran.out);
        let export = receiver.0.only();
        assert_eq!(
            (&*export.method, &*export.target),
            ("POST", "/otlp/v1/traces")
        );
        assert_eq!(export.header("content-encoding").as_deref(), encoding);
        assert_eq!(export.header("api-key").as_deref(), Some("canary"));
        assert_eq!(receiver.spans().len(), 0);
    }
    // Off, it is not a subject.
    let ran = looked("off", &[]);
    assert!(!ran.out.contains("traces:"), "{}", ran.out);
}

#[test]
fn doctor_has_a_hint_for_what_a_receiver_answers() {
    for (answer, hint) in [
        (
            "404 Not Found",
            "it answered 404: it takes no traces at /v1/traces: set trace.endpoint",
        ),
        ("501 X", "it takes no traces at /v1/traces: "),
        (
            "405 X",
            "it answered 405: it takes no traces at /v1/traces: ",
        ),
        ("401 X", "put its key into trace.headers"),
        ("403 X", "put its key into trace.headers"),
        ("415 X", "try trace.compression = \"none\""),
        ("400 X", "try trace.compression = \"none\""),
        (
            "307 X\r\nlocation: http://127.0.0.1:1/",
            "redirections are not followed",
        ),
        ("503 X", "it answered 503: it is overloaded"),
        ("500 X", "it answered 500: look at the receiver's log"),
    ] {
        let answers = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::that(Backend::answers(answers));
        let said = problem(&receiver.url(), &[]);
        assert!(said.contains(hint), "{answer}: {said}");
    }
    let uncompressed = Backend::answers("HTTP/1.1 415 X\r\ncontent-length: 0\r\n\r\n");
    let more = [("GATEWAY__TRACE__COMPRESSION", "none")];
    let said = problem(&Receiver::that(uncompressed).url(), &more);
    assert!(
        said.ends_with("it must take OTLP as protobuf") && !said.contains("try"),
        "{said}"
    );
    // Whoever answers everything is no receiver for that.
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 3\r\n\r\n<p>";
    let ran = looked(&Receiver::that(Backend::answers(page)).url(), &[]);
    line(&ran, "warning", "traces: http://127.0.0.1:");
    assert_eq!(ran.code, 0, "{}", ran.out);
}

#[test]
fn doctor_has_a_hint_for_a_receiver_that_is_away_or_speaks_something_else() {
    let said = problem("http://127.0.0.1:1", &[]);
    assert!(
        said.contains("no connection: ") && said.contains("port 4318"),
        "{said}"
    );
    // A server of gRPC answers with frames of HTTP/2, if at all.
    let settings = Backend::new(|conn| {
        conn.say(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        conn.wait_for_close();
    });
    for backend in [settings, Backend::closes_before_answering()] {
        let said = problem(&Receiver::that(backend).url(), &[]);
        assert!(
            said.contains("no answer: ") && said.contains("4317 is gRPC's"),
            "{said}"
        );
    }
    let silent = Receiver::that(Backend::never_answers());
    let said = problem(&silent.url(), &[]);
    assert!(
        said.contains("no answer in time: trace.timeout is 1s"),
        "{said}"
    );
    let more = [("GATEWAY__TRACE__CA", "cert.pem")];
    let secure = silent.url().replace("http:", "https:");
    let said = problem(&secure, &more);
    assert!(said.contains("in time: "), "{said}");
    let receiver = Receiver::that(Backend::new(|conn| {
        conn.read();
        conn.say(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    }));
    let secure = receiver
        .url()
        .replace("http://127.0.0.1", "https://localhost");
    let said = problem(&secure, &more);
    assert!(said.contains("it does not speak TLS there"), "{said}");
}

#[tokio::test]
async fn doctor_tells_a_receivers_certificate_from_one_that_is_not_trusted() {
    // Another gateway makes TLS of a receiver without.
    let receiver = Arc::new(Receiver::start());
    let front = Gateway::before(&receiver.0)
        .beside("other.pem", &other().pem)
        .beside("other.key", &other().key)
        .toml("[tls]\ncertificate = 'other.pem'\nkey = 'other.key'")
        .start()
        .await;
    let at = |host: &str| format!("https://{host}:{}/cobrowsing", front.listen.port());
    let (by_name, by_address) = (at("localhost"), at("127.0.0.1"));
    let seen = Arc::clone(&receiver);
    let looking = tokio::task::spawn_blocking(move || {
        let ca = |file| [("GATEWAY__TRACE__CA", file)];
        let ran = looked(&by_name, &ca("other.pem"));
        line(&ran, "ok", "traces: https://localhost:");
        assert_eq!(seen.0.only().target, "/v1/traces");
        let said = problem(&by_name, &ca("cert.pem"));
        assert!(
            said.contains("set that to the authority that signed it"),
            "{said}"
        );
        let said = problem(&by_address, &ca("other.pem"));
        assert!(
            said.contains("its certificate is for other names"),
            "{said}"
        );
        let said = problem(&by_name.replace("https:", "http:"), &[]);
        assert!(said.contains("with TLS or without"), "{said}");
    });
    looking.await.unwrap();
}
