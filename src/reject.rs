//! Every way the gateway says no: one word that is error code, metric label and log field, a
//! status, a message for people, and the headers that go with it.

#![deny(clippy::wildcard_enum_match_arm)] // a new refusal is decided, not defaulted

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// No key is configured: the whole API is closed (contract section 0).
    ApiNotEnabled,
    /// Key missing or wrong: the same answer for both.
    InvalidApiKey,
    /// A key given twice: more than one `Authorization` line, or one and another accepted form.
    DuplicateAuthorization,
    /// The path could mean different things to us and to the backend; which way it could.
    AmbiguousPath(&'static str),
    /// Malformed otherwise; how.
    BadRequest(&'static str),
    /// Outside the base path.
    NotFound,
    /// The authority is not ours (RFC 9110 section 15.5.20).
    MisdirectedRequest,
    /// TRACE.
    MethodNotAllowed,
    /// CONNECT.
    NotImplemented,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The body is larger than the API takes.
    PayloadTooLarge,
    /// The head is larger than allowed (RFC 6585 section 5).
    HeaderFieldsTooLarge,
    /// A policy's limit is reached.
    RateLimited {
        /// Seconds until the next request is admitted, rounded up.
        retry_after: u32,
    },
    /// The client has as many requests under way as it may, or the backend as many as it takes.
    Overloaded,
    /// The process is about to end.
    Draining,
    /// No connection to the backend could be opened.
    UpstreamUnreachable,
    /// The backend died or spoke nonsense before the head of its answer was complete.
    UpstreamFailed,
    /// No head of an answer in time.
    UpstreamTimeout,
    /// Every backend is out.
    NoHealthyUpstream,
}

/// In what form a refusal is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"status":"error",…}`: for the API.
    Json,
    /// A small page: for people.
    Html,
    /// A line of text: for everything else.
    Text,
}

impl Reject {
    /// Every code.
    pub const CODES: [&str; 19] = [
        "api_not_enabled",
        "invalid_api_key",
        "duplicate_authorization",
        "ambiguous_path",
        "bad_request",
        "not_found",
        "misdirected_request",
        "method_not_allowed",
        "not_implemented",
        "request_timeout",
        "payload_too_large",
        "header_fields_too_large",
        "rate_limited",
        "overloaded",
        "draining",
        "upstream_unreachable",
        "upstream_failed",
        "upstream_timeout",
        "no_healthy_upstream",
    ];

    /// Position of the code in [`Self::CODES`].
    pub fn index(self) -> usize {
        match self {
            Self::ApiNotEnabled => 0,
            Self::InvalidApiKey => 1,
            Self::DuplicateAuthorization => 2,
            Self::AmbiguousPath(_) => 3,
            Self::BadRequest(_) => 4,
            Self::NotFound => 5,
            Self::MisdirectedRequest => 6,
            Self::MethodNotAllowed => 7,
            Self::NotImplemented => 8,
            Self::RequestTimeout => 9,
            Self::PayloadTooLarge => 10,
            Self::HeaderFieldsTooLarge => 11,
            Self::RateLimited { .. } => 12,
            Self::Overloaded => 13,
            Self::Draining => 14,
            Self::UpstreamUnreachable => 15,
            Self::UpstreamFailed => 16,
            Self::UpstreamTimeout => 17,
            Self::NoHealthyUpstream => 18,
        }
    }

    /// The code: error, label and log field.
    pub fn code(self) -> &'static str {
        Self::CODES[self.index()]
    }

    /// The status it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::ApiNotEnabled | Self::InvalidApiKey => StatusCode::UNAUTHORIZED,
            Self::DuplicateAuthorization | Self::AmbiguousPath(_) | Self::BadRequest(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MisdirectedRequest => StatusCode::MISDIRECTED_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeaderFieldsTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::Draining | Self::NoHealthyUpstream => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::UpstreamUnreachable | Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What is wrong and what is allowed, for people. Never echoes anything of the request.
    pub fn message(self) -> &'static str {
        match self {
            Self::ApiNotEnabled => "The REST API is disabled: no REST_KEY is configured.",
            Self::InvalidApiKey => {
                "Send the API key as the bare value of the Authorization header."
            }
            Self::DuplicateAuthorization => {
                "Send the key exactly once, in one Authorization header."
            }
            Self::AmbiguousPath(how) | Self::BadRequest(how) => how,
            Self::NotFound => "Nothing is here: the service lies below its base path.",
            Self::MisdirectedRequest => "This host name is not served here.",
            Self::MethodNotAllowed => "TRACE is not allowed.",
            Self::NotImplemented => "CONNECT is not supported.",
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::PayloadTooLarge => "The body is larger than the API accepts.",
            Self::HeaderFieldsTooLarge => "The request's header fields are too large or too many.",
            Self::RateLimited { .. } => "Too many requests: wait as long as Retry-After says.",
            Self::Overloaded => "Too many requests at a time: try again shortly.",
            Self::Draining => "The gateway is shutting down: try again.",
            Self::UpstreamUnreachable => "The service behind the gateway cannot be reached.",
            Self::UpstreamFailed => "The service behind the gateway did not answer properly.",
            Self::UpstreamTimeout => "The service behind the gateway did not answer in time.",
            Self::NoHealthyUpstream => "No service behind the gateway is available.",
        }
    }

    /// Seconds after which to try again, where that helps.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::RateLimited { retry_after } => Some(retry_after),
            // Not all at once, or they would be refused again.
            Self::Overloaded => Some(fastrand::u32(1..=3)),
            Self::Draining | Self::NoHealthyUpstream => Some(1),
            Self::ApiNotEnabled
            | Self::InvalidApiKey
            | Self::DuplicateAuthorization
            | Self::AmbiguousPath(_)
            | Self::BadRequest(_)
            | Self::NotFound
            | Self::MisdirectedRequest
            | Self::MethodNotAllowed
            | Self::NotImplemented
            | Self::RequestTimeout
            | Self::PayloadTooLarge
            | Self::HeaderFieldsTooLarge
            | Self::UpstreamUnreachable
            | Self::UpstreamFailed
            | Self::UpstreamTimeout => None,
        }
    }

    /// The answer, in the given form. `policy`: the name of the policy whose limit is reached.
    pub fn answer(self, form: Form, request_id: &str, policy: Option<&str>) -> Response<Bytes> {
        let (code, message) = (self.code(), self.message());
        let (named, policy) = match policy {
            Some(policy) => (r#"","policy":""#, policy),
            None => ("", ""),
        };
        let (kind, body) = match form {
            // Codes, names, messages and ids are ours and hold nothing that JSON or HTML would escape.
            Form::Json => (
                "application/json",
                [r#"{"status":"error","error":""#, code, named, policy, r#"","message":""#, message, r#"","request_id":""#, request_id, r#""}"#].concat(),
            ),
            Form::Html => (
                "text/html; charset=utf-8",
                [
                    "<!doctype html><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><meta name=color-scheme content=\"light dark\"><title>",
                    code,
                    "</title><body style=\"font:1rem system-ui;max-width:36rem;margin:4rem auto;padding:0 1rem\"><h1>",
                    self.status().canonical_reason().unwrap_or(code),
                    "</h1><p>",
                    message,
                    "<p><small>",
                    code,
                    " · ",
                    request_id,
                    "</small>",
                ]
                .concat(),
            ),
            Form::Text => ("text/plain; charset=utf-8", [code, ": ", message, " (", request_id, ")\n"].concat()),
        };
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = self.status();
        let headers: &mut HeaderMap = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self == Self::MethodNotAllowed {
            headers.insert(
                ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: [Reject; 19] = [
        Reject::ApiNotEnabled,
        Reject::InvalidApiKey,
        Reject::DuplicateAuthorization,
        Reject::AmbiguousPath("how"),
        Reject::BadRequest("how"),
        Reject::NotFound,
        Reject::MisdirectedRequest,
        Reject::MethodNotAllowed,
        Reject::NotImplemented,
        Reject::RequestTimeout,
        Reject::PayloadTooLarge,
        Reject::HeaderFieldsTooLarge,
        Reject::RateLimited { retry_after: 7 },
        Reject::Overloaded,
        Reject::Draining,
        Reject::UpstreamUnreachable,
        Reject::UpstreamFailed,
        Reject::UpstreamTimeout,
        Reject::NoHealthyUpstream,
    ];

    #[test]
    fn every_refusal_has_its_own_code_and_a_json_answer_that_parses() {
        let codes: std::collections::BTreeSet<_> = EACH.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), EACH.len());
        for (i, reject) in EACH.into_iter().enumerate() {
            assert_eq!(reject.index(), i);
            let answer = reject.answer(Form::Json, "4f1d", None);
            let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
            assert_eq!(body["status"], "error");
            assert_eq!(body["error"], reject.code());
            assert_eq!(body["request_id"], "4f1d");
            assert_eq!(answer.status(), reject.status());
        }
    }

    #[test]
    fn a_limit_that_is_reached_is_named() {
        let reject = Reject::RateLimited { retry_after: 7 };
        let answer = reject.answer(Form::Json, "4f1d", Some("key"));
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(
            (&body["policy"], &body["error"]),
            (&"key".into(), &"rate_limited".into())
        );
    }

    #[test]
    fn what_passes_by_itself_says_when_to_come_back() {
        for (reject, seconds) in [
            (Reject::RateLimited { retry_after: 7 }, "7"),
            (Reject::Draining, "1"),
        ] {
            assert_eq!(
                reject.answer(Form::Text, "x", None).headers()[RETRY_AFTER],
                seconds
            );
        }
        let seconds = || {
            let answer = Reject::Overloaded.answer(Form::Text, "x", None);
            let seconds = answer.headers()[RETRY_AFTER].to_str().unwrap();
            seconds.parse::<u32>().unwrap()
        };
        let seen: std::collections::BTreeSet<_> = (0..200).map(|_| seconds()).collect();
        assert_eq!(seen, [1, 2, 3].into(), "the refused do not return together");
        assert!(
            !Reject::InvalidApiKey
                .answer(Form::Text, "x", None)
                .headers()
                .contains_key(RETRY_AFTER)
        );
    }
}
