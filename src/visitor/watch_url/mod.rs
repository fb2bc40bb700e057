//! The body of `POST /visitors/{id}/watch_url` (contract section 0), field by field.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::grant::{Agent, Branding, Naked, Permissions};

/// Longest `agent.id` and `agent.name`, in bytes. They travel inside the token of the URL.
const MAX_NAME: usize = 256;
/// Longest `licenseToken`, in bytes.
const MAX_LICENSE: usize = 8 * 1024;
/// Longest `on_end_url` and `retry_url`, in bytes.
const MAX_URL: usize = 1024;
/// Most entries of `metadata`.
const MAX_METADATA: usize = 100;

/// A body that passed.
#[derive(Debug)]
pub(super) struct WatchRequest {
    pub(super) agent: Agent,
    pub(super) branding: Branding,
    pub(super) permissions: Permissions,
}

/// Decides on a `licenseToken` that is a string; `false` refuses it.
pub(super) type LicenseCheck = fn(&str) -> bool;

/// The default [`LicenseCheck`]. How the vendor signs its tokens is not published, so all that
/// can be asked is that there is one.
pub(super) fn license_is_not_empty(token: &str) -> bool {
    !token.trim().is_empty()
}

/// One thing wrong with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Not JSON. `line` and `column` count from 1; no part of the body is repeated.
    Json {
        line: usize,
        column: usize,
        message: String,
    },
    /// A field is missing or holds something else than allowed.
    Field { field: String, message: String },
}

fn wrong(field: &str, message: impl Into<String>) -> BodyError {
    BodyError::Field {
        field: field.to_owned(),
        message: message.into(),
    }
}

impl WatchRequest {
    /// Reads a body. Unknown fields are ignored: other versions of the service know more of them.
    pub(super) fn parse(body: &[u8], license: LicenseCheck) -> Result<Self, BodyError> {
        // Into a `Value` only: its errors speak of syntax and never repeat the input.
        let body: Value = serde_json::from_slice(body).map_err(|error| BodyError::Json {
            line: error.line(),
            column: error.column(),
            message: format!("the body is not valid JSON: {error}"),
        })?;
        let Value::Object(body) = body else {
            return Err(wrong("body", "the body must be a JSON object"));
        };

        let token = text(&body, "licenseToken", "licenseToken", MAX_LICENSE)?;
        if !license(token) {
            return Err(wrong("licenseToken", "this licenseToken is not accepted"));
        }
        let agent = object(&body, "agent")?.ok_or_else(|| {
            wrong(
                "agent",
                "agent is required: an object with the strings id and name",
            )
        })?;
        let agent = Agent {
            id: text(agent, "id", "agent.id", MAX_NAME)?.to_owned(),
            name: text(agent, "name", "agent.name", MAX_NAME)?.to_owned(),
        };
        let branding = match object(&body, "branding")? {
            Some(branding) => Branding {
                naked: naked(branding)?,
                on_end_url: url(branding, "on_end_url", "branding.on_end_url")?,
                retry_url: url(branding, "retry_url", "branding.retry_url")?,
            },
            None => Branding::default(),
        };
        let permissions = match object(&body, "permissions")? {
            Some(permissions) => permissions_of(permissions)?,
            None => Permissions::default(),
        };
        if let Some(metadata) = object(&body, "metadata")? {
            check_metadata(metadata)?;
        }
        Ok(Self {
            agent,
            branding,
            permissions,
        })
    }
}

/// A required string that is neither empty nor longer than `max` bytes.
fn text<'a>(
    object: &'a Map<String, Value>,
    key: &str,
    field: &str,
    max: usize,
) -> Result<&'a str, BodyError> {
    match object.get(key) {
        None => Err(wrong(
            field,
            format!("{field} is required: a string that is not empty"),
        )),
        Some(Value::String(text)) if text.trim().is_empty() => Err(wrong(
            field,
            format!("{field} is empty; a string that is not empty is required"),
        )),
        Some(Value::String(text)) if text.len() > max => Err(wrong(
            field,
            format!("{field} is longer than the allowed {max} bytes"),
        )),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(
            field,
            format!("{field} is {}; a string is required", kind(other)),
        )),
    }
}

/// An object that may be left out or null.
fn object<'a>(
    body: &'a Map<String, Value>,
    field: &str,
) -> Result<Option<&'a Map<String, Value>>, BodyError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(wrong(
            field,
            format!("{field} is {}; an object is required", kind(other)),
        )),
    }
}

fn naked(branding: &Map<String, Value>) -> Result<Naked, BodyError> {
    match branding.get("naked") {
        None | Some(Value::Bool(false)) => Ok(Naked::No),
        Some(Value::Bool(true)) => Ok(Naked::Logo),
        Some(Value::String(text)) if text == "page_only" => Ok(Naked::PageOnly),
        Some(_) => Err(wrong(
            "branding.naked",
            "branding.naked must be false, true or the string \"page_only\"",
        )),
    }
}

fn url(branding: &Map<String, Value>, key: &str, field: &str) -> Result<Option<String>, BodyError> {
    match branding.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_URL && is_http_url(text) => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(wrong(
            field,
            format!(
                "{field} must be null or an http:// or https:// URL of at most {MAX_URL} bytes"
            ),
        )),
    }
}

/// Whether `text` is an absolute http or https URL with a host.
pub(super) fn is_http_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else {
        return false;
    };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
}

fn permissions_of(object: &Map<String, Value>) -> Result<Permissions, BodyError> {
    let mut permissions = Permissions::default();
    for (key, allowed) in [
        (
            "allow_agent_redirect",
            &mut permissions.allow_agent_redirect,
        ),
        ("allow_audio", &mut permissions.allow_audio),
        ("allow_click", &mut permissions.allow_click),
        ("allow_console", &mut permissions.allow_console),
        ("allow_draw", &mut permissions.allow_draw),
        ("allow_scroll", &mut permissions.allow_scroll),
        ("allow_type", &mut permissions.allow_type),
    ] {
        match object.get(key) {
            None => {}
            Some(Value::Bool(given)) => *allowed = *given,
            Some(other) => {
                let field = format!("permissions.{key}");
                let message = format!("{field} is {}; true or false is required", kind(other));
                return Err(wrong(&field, message));
            }
        }
    }
    Ok(permissions)
}

/// The caller's own data: flat, so that every consumer can keep it as columns. Not used here.
fn check_metadata(metadata: &Map<String, Value>) -> Result<(), BodyError> {
    if metadata.len() > MAX_METADATA {
        return Err(wrong(
            "metadata",
            format!("metadata has more than the allowed {MAX_METADATA} entries"),
        ));
    }
    for (key, value) in metadata {
        if !matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_)) {
            let key: String = key.chars().take(64).collect();
            return Err(wrong(
                &format!("metadata.{key}"),
                format!(
                    "a value of metadata is {}; a string, a number, true or false is required",
                    kind(value)
                ),
            ));
        }
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
