//! A receiver of traces: OTLP over HTTP, read by the protocol's own definitions.

use std::collections::BTreeMap;
use std::io::Read;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;

use super::{Backend, Received, Setup, eventually};

/// A running receiver, which is a backend that takes everything.
pub struct Receiver(pub Backend);

/// A span as it was told.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    /// 2: of a server, 3: of a client.
    pub kind: i32,
    pub trace_id: String,
    pub id: String,
    pub parent: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    /// 0: nothing is said, 2: an error.
    pub status: i32,
    /// Of the process.
    pub resource: BTreeMap<String, String>,
}

impl Receiver {
    pub fn start() -> Self {
        Self(Backend::answers(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ))
    }

    /// One that does what a backend can do.
    pub fn that(backend: Backend) -> Self {
        Self(backend)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// A gateway that traces every request and tells this one.
    pub fn told_by(&self, setup: Setup) -> Setup {
        setup.toml(&format!(
            "[trace]\nendpoint = '{}'\nratio = 1.0",
            self.url()
        ))
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.0.requests().iter().flat_map(spans).collect()
    }

    /// Waits for so many.
    pub async fn until_spans(&self, n: usize) -> Vec<Span> {
        eventually("spans", async || {
            Some(self.spans()).filter(|spans| spans.len() >= n)
        })
        .await
    }

    /// What was sent, as bytes that were decompressed.
    pub fn sent(&self) -> Vec<u8> {
        self.0.requests().iter().flat_map(body).collect()
    }
}

fn body(request: &Received) -> Vec<u8> {
    if request.header("content-encoding").as_deref() != Some("gzip") {
        return request.body.clone();
    }
    let mut plain = Vec::new();
    let mut packed = flate2::read::GzDecoder::new(&request.body[..]);
    packed.read_to_end(&mut plain).unwrap();
    plain
}

/// The spans of one export.
pub fn spans(request: &Received) -> Vec<Span> {
    assert_eq!(request.method, "POST");
    assert_eq!(
        request.header("content-type").as_deref(),
        Some("application/x-protobuf")
    );
    let export = ExportTraceServiceRequest::decode(&body(request)[..]).unwrap();
    let mut all = Vec::new();
    for of in export.resource_spans {
        let resource = named(of.resource.unwrap_or_default().attributes);
        for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.push(Span {
                name: span.name,
                kind: span.kind,
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: named(span.attributes),
                status: span.status.map_or(0, |status| status.code),
                resource: resource.clone(),
            });
        }
    }
    all
}

fn named(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let shown = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|pair| (pair.key, shown(pair.value)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
