//! Sample visitors from a JSON file.

use std::io;
use std::path::Path;

use serde::Deserialize;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::object::{DEVICE_TYPES, Visitor};
use super::store::{MAX_VISITORS, Refusal, Store};
use super::token;

/// One visitor of the file: any part of the fields of [`Visitor`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    added_at: Option<String>,
    api_key: Option<String>,
    browser_name: Option<String>,
    call_name: Option<String>,
    device_name: Option<String>,
    device_type: Option<String>,
    email: Option<String>,
    identities: Option<Vec<String>>,
    integration: Option<String>,
    integration_ids: Option<Vec<String>>,
    ip_address: Option<std::net::IpAddr>,
    is_in_session: Option<bool>,
    is_online: Option<bool>,
    is_supported: Option<bool>,
    is_waiting_for_call: Option<bool>,
    js_configuration: Option<bool>,
    last_seen_at: Option<String>,
    last_url: Option<String>,
    location_city: Option<String>,
    location_country: Option<String>,
    location_country_name: Option<String>,
    lookup_code: Option<String>,
    short_id: Option<String>,
    tags: Option<Vec<String>>,
    unique_id: Option<String>,
}

/// Loads the file into `store` and says how many visitors it held. Errors name the file, the
/// place in it (visitors count from 0) and what is allowed.
pub(super) fn load(path: &Path, store: &Store) -> io::Result<usize> {
    let bad = |message: String| {
        let message = format!("seed {}: {message}", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    };
    let file = std::fs::read(path).map_err(|error| {
        io::Error::new(error.kind(), format!("seed {}: {error}", path.display()))
    })?;
    let samples: Vec<Sample> = serde_json::from_slice(&file)
        .map_err(|error| bad(format!("{error} (an array of visitor objects is expected)")))?;
    let count = samples.len();
    if count > MAX_VISITORS {
        return Err(bad(format!(
            "{count} visitors; at most {MAX_VISITORS} are allowed"
        )));
    }
    let mut visitors = Vec::with_capacity(count);
    for (index, sample) in samples.into_iter().enumerate() {
        let visitor = sample
            .into_visitor()
            .map_err(|m| bad(format!("visitor {index}: {m}")))?;
        visitors.push((index, visitor));
    }
    // Those with a lookup code first: a code made up for another could be one of theirs.
    visitors.sort_by_key(|(_, visitor)| visitor.lookup_code.is_none());
    for (index, visitor) in visitors {
        store.insert(visitor).map_err(|refusal| match refusal {
            Refusal::Taken(field) => bad(format!("visitor {index}: {field}: not unique")),
            Refusal::Full | Refusal::Unknown => bad(format!("visitor {index}: no room")),
            Refusal::Random(error) => error,
        })?;
    }
    Ok(count)
}

impl Sample {
    fn into_visitor(self) -> Result<Visitor, String> {
        let now = OffsetDateTime::now_utc();
        let last_seen_at = instant("last_seen_at", self.last_seen_at.as_deref())?.unwrap_or(now);
        let added_at = instant("added_at", self.added_at.as_deref())?;
        let short_id = match self.short_id {
            Some(id) if is_path_segment(&id) => id,
            Some(_) => {
                return Err(
                    "short_id: 1 to 64 letters, digits, '-' and '_' are allowed, \
                            and not the word \"list\""
                        .to_owned(),
                );
            }
            None => token::short_id().map_err(|error| error.to_string())?,
        };
        if let Some(code) = &self.lookup_code
            && !(code.len() == 4 && code.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err("lookup_code: a string of four digits is required".to_owned());
        }
        if let Some(device) = &self.device_type
            && !DEVICE_TYPES.contains(&device.as_str())
        {
            let allowed = DEVICE_TYPES.join(", ");
            return Err(format!("device_type: {device:?}; allowed are {allowed}"));
        }
        let nowhere = std::net::Ipv4Addr::UNSPECIFIED.into();
        let mut visitor = Visitor::new(short_id, self.ip_address.unwrap_or(nowhere), last_seen_at);
        visitor.added_at = added_at.unwrap_or(last_seen_at);
        if let Some(api_key) = self.api_key {
            visitor.api_key = api_key;
        }
        visitor.browser_name = self.browser_name;
        visitor.call_name = self.call_name;
        visitor.device_name = self.device_name;
        visitor.device_type = self.device_type;
        visitor.identities = self.identities.unwrap_or_default();
        visitor.integration = self.integration;
        visitor.integration_ids = self.integration_ids.unwrap_or_default();
        visitor.is_in_session = self.is_in_session.unwrap_or(false);
        visitor.is_online = self.is_online.unwrap_or(false);
        visitor.is_supported = self.is_supported.unwrap_or(true);
        visitor.is_waiting_for_call = self.is_waiting_for_call.unwrap_or(false);
        visitor.js_configuration = self.js_configuration.unwrap_or(false);
        visitor.last_url = self.last_url;
        visitor.location_city = self.location_city;
        visitor.location_country = self.location_country;
        visitor.location_country_name = self.location_country_name;
        visitor.lookup_code = self.lookup_code;
        visitor.tags = self.tags.unwrap_or_default();
        visitor.unique_id = self.unique_id;
        visitor.derive_email();
        if self.email.is_some() {
            visitor.email = self.email;
        }
        Ok(visitor)
    }
}

fn instant(field: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, String> {
    let Some(text) = text else { return Ok(None) };
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .map(Some)
        .ok_or_else(|| {
            format!(
                "{field}: {text:?}; an ISO 8601 time such as 2026-01-31T08:15:00.250Z is required"
            )
        })
}

/// Whether an id can stand in a path as it is. `list` is taken by `/visitors/list/…`.
fn is_path_segment(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id != "list"
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(json: &str) -> Result<Visitor, String> {
        let sample: Sample = serde_json::from_str(json).map_err(|error| error.to_string())?;
        sample.into_visitor()
    }

    #[test]
    fn an_empty_sample_is_a_whole_visitor() {
        let visitor = visitor("{}").unwrap();
        assert_eq!(visitor.short_id.len(), 8);
        assert!(!visitor.is_online);
        assert_eq!(visitor.added_at, visitor.last_seen_at);
    }

    #[test]
    fn times_with_an_offset_become_utc() {
        let visitor = visitor(r#"{"last_seen_at": "2026-01-31T01:00:00+02:00"}"#).unwrap();
        let text = super::super::object::iso8601_text(visitor.last_seen_at);
        assert_eq!(text, "2026-01-30T23:00:00.000Z");
    }

    #[test]
    fn a_field_that_is_unknown_or_wrong_is_named() {
        for (json, named) in [
            (r#"{"nickname": "J"}"#, "nickname"),
            (r#"{"short_id": "list"}"#, "short_id"),
            (r#"{"short_id": "a/b"}"#, "short_id"),
            (r#"{"lookup_code": "12"}"#, "lookup_code"),
            (r#"{"device_type": "phone"}"#, "device_type"),
            (r#"{"added_at": "yesterday"}"#, "added_at"),
            (
                r#"{"last_seen_at": "9999-12-31T23:59:59-01:00"}"#,
                "last_seen_at",
            ),
        ] {
            let error = visitor(json).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
