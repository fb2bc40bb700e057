//! What becomes of header fields.

use bytes::BytesMut;
use http::HeaderValue;

use super::told::Told;
use crate::config::ForwardAuthorization;
use crate::pipeline::{Asked, Way};
use crate::stages::headers::TraceContext;

impl Told<'_> {
    /// What becomes of header fields, told from the head as the backend would get it.
    pub(super) fn headers(&mut self, asked: &Asked<'_>, way: &Way<'_>) {
        let mut out = BytesMut::new();
        let id = HeaderValue::from_static("(a new one)");
        let trace = self.snapshot.trace.as_ref().map(|_on| TraceContext {
            parent: *b"(the sender's trace, or a new one; with a span of ours)",
            keeps_state: asked.head.headers.contains_key("traceparent"),
        });
        way.write(self.snapshot, asked, &id, trace.as_ref(), &mut out);
        let (given, out) = (
            &asked.head.headers,
            String::from_utf8_lossy(&out).into_owned(),
        );
        let (mut passed, mut written) = (Vec::new(), Vec::new());
        for line in out.lines().skip(1) {
            let Some((name, value)) = line.split_once(": ") else {
                continue;
            };
            if is_ours(name) || trace.is_some() && name == "traceparent" {
                written.push(format!("{name}: {value}"));
            } else if given
                .get_all(name)
                .iter()
                .any(|v| v.as_bytes() == value.as_bytes())
            {
                passed.push(name.to_owned());
            } else if name == "authorization"
                && self.config.api.forward_authorization == ForwardAuthorization::Replace
            {
                written.push("authorization: *** (the backend's own)".to_owned());
            } else {
                written.push(format!("{name}: ***"));
            }
        }
        let there = |name: &str| {
            out.lines()
                .any(|line| line.split(": ").next() == Some(name))
        };
        let left_out: Vec<_> = given
            .keys()
            .map(|n| n.as_str())
            .filter(|n| !there(n))
            .collect();
        passed.dedup();
        for (what, names) in [
            ("passed on", passed.join(", ")),
            ("left out", left_out.join(", ")),
        ] {
            if !names.is_empty() {
                self.line(what, names);
            }
        }
        for line in written {
            self.line("written", line);
        }
    }
}

/// Whether the value of such a field is written by the gateway, or says nothing that is secret.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || matches!(
            name,
            "host"
                | "x-request-id"
                | "content-length"
                | "transfer-encoding"
                | "connection"
                | "upgrade"
        )
}
