//! Spans, in the words of OpenTelemetry's semantic conventions for HTTP. Nothing of a path that names
//! anybody, no query, no host, no key: the template of the route is all that is told of the target.

use std::time::SystemTime;

use http::Version;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::names::METHODS;
use crate::telemetry::{Call, Traced};

/// The spans of a request: its own, and that of its call to the backend.
pub(super) fn spans(traced: &Traced, scope: &InstrumentationScope, into: &mut Vec<SpanData>) {
    let mut attributes = method(traced);
    attributes.push(KeyValue::new("url.scheme", "https"));
    let version = match traced.version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    attributes.push(KeyValue::new("network.protocol.version", version));
    if let Some(route) = traced.route.template() {
        attributes.push(KeyValue::new("http.route", route));
    }
    if let Some(status) = traced.status {
        attributes.push(KeyValue::new(
            "http.response.status_code",
            i64::from(status),
        ));
    }
    // Of a server only its own failures are errors.
    let failed = traced.status.is_none_or(|status| status >= 500);
    let error = error(traced.error, traced.status.filter(|_| failed));
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    let end = traced.started + traced.took;
    into.push(span(
        traced,
        (traced.span, traced.parent),
        SpanKind::Server,
        (traced.started, end),
        attributes,
        failed,
        scope,
    ));
    if let Some(call) = &traced.call {
        into.push(call_span(traced, call, scope));
    }
}

fn call_span(traced: &Traced, call: &Call, scope: &InstrumentationScope) -> SpanData {
    let mut attributes = method(traced);
    attributes.push(KeyValue::new("network.protocol.version", "1.1"));
    if let Some(route) = traced.route.template() {
        attributes.push(KeyValue::new("url.template", route));
    }
    if let Ok(status) = call.outcome {
        attributes.push(KeyValue::new(
            "http.response.status_code",
            i64::from(status),
        ));
    }
    let failed = call.outcome.is_err() || call.outcome.is_ok_and(|status| status >= 400);
    let error = error(call.outcome.err(), call.outcome.ok().filter(|_| failed));
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    let start = traced.started + call.after;
    let took = call
        .took
        .unwrap_or_else(|| traced.took.saturating_sub(call.after));
    span(
        traced,
        (call.span, traced.span),
        SpanKind::Client,
        (start, start + took),
        attributes,
        failed,
        scope,
    )
}

fn method(traced: &Traced) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(7);
    let method = match METHODS[traced.method] {
        "OTHER" => "_OTHER",
        known => known,
    };
    attributes.push(KeyValue::new("http.request.method", method));
    attributes
}

fn error(word: Option<&'static str>, status: Option<u16>) -> Option<StringValue> {
    word.map(StringValue::from)
        .or_else(|| status.map(|status| status.to_string().into()))
}

fn span(
    traced: &Traced,
    (id, parent): (u64, u64),
    span_kind: SpanKind,
    (start_time, end_time): (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
    failed: bool,
    scope: &InstrumentationScope,
) -> SpanData {
    let method = match METHODS[traced.method] {
        "OTHER" => "HTTP",
        known => known,
    };
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(traced.trace_id),
            SpanId::from(id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: span_kind == SpanKind::Server && parent != 0,
        name: match traced.route.template() {
            Some(route) => format!("{method} {route}").into(),
            None => method.into(),
        },
        span_kind,
        start_time,
        end_time,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed {
            Status::error("")
        } else {
            Status::Unset
        },
        instrumentation_scope: scope.clone(),
    }
}
