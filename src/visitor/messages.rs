//! What visitors' pages and agents' screens say over their sockets: JSON, one object a message,
//! told apart by `type`. These sockets are our own; the vendor's are not published.

use serde::{Deserialize, Deserializer};

use super::object::Visitor;
use super::watch_url::is_http_url;

/// From a visitor's page.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum FromPage {
    /// Who the visitor is.
    Identify(Identify),
    /// The address of the page shown: http or https.
    Page { url: String },
    /// Where the pointer is, as parts of width and height, 0 to 1.
    Pointer { x: f64, y: f64 },
}

/// From an agent's screen.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum FromAgent {
    /// A line of text for the visitor to read.
    Hint { text: String },
    /// A place to point out to the visitor, 0 to 1; needs `allow_draw`.
    Pointer { x: f64, y: f64 },
    /// The agent leaves.
    End,
}

/// The vendor's names (contract section 1). Left out: keep what is known; null: forget it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Identify {
    #[serde(deserialize_with = "given")]
    unique_id: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    identities: Option<Option<Vec<String>>>,
    #[serde(deserialize_with = "given")]
    tags: Option<Option<Vec<String>>>,
    #[serde(deserialize_with = "given")]
    call_name: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    integration_ids: Option<Option<Vec<String>>>,
}

/// Tells a null from a field that was left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Longest name, id or e-mail address, in bytes.
const MAX_TEXT: usize = 256;
/// Longest tag with its `#`, in bytes.
const MAX_TAG: usize = 64;
/// Most entries of a list.
const MAX_ENTRIES: usize = 50;
/// Longest hint of an agent, in bytes.
const MAX_HINT: usize = 1000;
/// Longest page address, in bytes.
const MAX_URL: usize = 2048;

impl Identify {
    /// Checks everything, before any of it is used, and brings tags into their one form. The
    /// error says which field is wrong and what is allowed.
    pub(super) fn checked(mut self) -> Result<Self, String> {
        for (field, value) in [("uniqueId", &self.unique_id), ("callName", &self.call_name)] {
            if let Some(Some(text)) = value {
                check_text(field, text)?;
            }
        }
        if let Some(Some(identities)) = &self.identities {
            check_count("identities", identities)?;
            for text in identities {
                check_text("identities", text)?;
            }
        }
        if let Some(Some(ids)) = &self.integration_ids {
            check_count("integrationIds", ids)?;
            for id in ids {
                check_text("integrationIds", id)?;
                if !is_integration_id(id) {
                    return Err(
                        "integrationIds: name:id is required, the name at least three \
                                lower-case letters"
                            .to_owned(),
                    );
                }
            }
        }
        if let Some(Some(tags)) = &mut self.tags {
            check_count("tags", tags)?;
            for tag in tags {
                // Older docs write tags without the sign; searching needs it.
                if !tag.starts_with('#') {
                    tag.insert(0, '#');
                }
                let word = !tag.contains(|c: char| c.is_whitespace() || c.is_control());
                if !word || !(2..=MAX_TAG).contains(&tag.len()) {
                    return Err(format!(
                        "tags: words of at most {MAX_TAG} bytes are allowed"
                    ));
                }
            }
        }
        Ok(self)
    }

    /// Writes what is given into the visitor.
    pub(super) fn apply(self, visitor: &mut Visitor) {
        if let Some(unique_id) = self.unique_id {
            visitor.unique_id = unique_id;
        }
        if let Some(identities) = self.identities {
            visitor.identities = identities.unwrap_or_default();
        }
        if let Some(tags) = self.tags {
            visitor.tags = tags.unwrap_or_default();
        }
        if let Some(call_name) = self.call_name {
            visitor.call_name = call_name;
        }
        if let Some(integration_ids) = self.integration_ids {
            visitor.integration_ids = integration_ids.unwrap_or_default();
        }
        visitor.derive_email();
    }
}

fn check_text(field: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() || text.len() > MAX_TEXT || text.contains(char::is_control) {
        return Err(format!(
            "{field}: a line of 1 to {MAX_TEXT} bytes is required"
        ));
    }
    Ok(())
}

fn check_count(field: &str, entries: &[String]) -> Result<(), String> {
    if entries.len() > MAX_ENTRIES {
        return Err(format!(
            "{field}: at most {MAX_ENTRIES} entries are allowed"
        ));
    }
    Ok(())
}

fn is_integration_id(text: &str) -> bool {
    text.split_once(':').is_some_and(|(name, id)| {
        name.len() >= 3 && name.bytes().all(|byte| byte.is_ascii_lowercase()) && !id.is_empty()
    })
}

/// Checks the address of a visitor's page.
pub(super) fn check_url(url: &str) -> Result<(), String> {
    if url.len() > MAX_URL || !is_http_url(url) {
        return Err(format!(
            "url: an http or https URL of at most {MAX_URL} bytes is required"
        ));
    }
    Ok(())
}

/// Checks an agent's text.
pub(super) fn check_hint(text: &str) -> Result<(), String> {
    if text.trim().is_empty() || text.len() > MAX_HINT {
        return Err(format!("text: 1 to {MAX_HINT} bytes are required"));
    }
    Ok(())
}

/// Checks a pointer's place.
pub(super) fn check_place(x: f64, y: f64) -> Result<(), String> {
    if (0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y) {
        return Ok(());
    }
    Err("x and y: numbers from 0 to 1 are required".to_owned())
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn identify(message: &str) -> Result<Identify, String> {
        match serde_json::from_str(message) {
            Ok(FromPage::Identify(identify)) => identify.checked(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_field_left_out_is_kept_and_null_clears_it() {
        let mut visitor = Visitor::new(
            "ABCD1234".into(),
            [192, 0, 2, 1].into(),
            OffsetDateTime::UNIX_EPOCH,
        );
        let first = r##"{"type":"identify","uniqueId":"a@example.com","callName":"Ann",
            "identities":["Ann"],"tags":["vip","#new"],"integrationIds":["chat:1"]}"##;
        identify(first).unwrap().apply(&mut visitor);
        assert_eq!(visitor.email.as_deref(), Some("a@example.com"));
        assert_eq!(visitor.tags, ["#vip", "#new"]);

        let second = r#"{"type":"identify","uniqueId":null,"tags":null}"#;
        identify(second).unwrap().apply(&mut visitor);
        assert_eq!(visitor.unique_id, None);
        assert_eq!(visitor.email, None);
        assert!(visitor.tags.is_empty());
        assert_eq!(visitor.call_name.as_deref(), Some("Ann"));
        assert_eq!(visitor.integration_ids, ["chat:1"]);
    }

    #[test]
    fn what_is_too_long_or_not_of_its_form_is_refused_by_name() {
        let long = "x".repeat(MAX_TEXT + 1);
        let many = vec!["t"; MAX_ENTRIES + 1];
        for (field, value) in [
            ("uniqueId", serde_json::json!(long)),
            ("uniqueId", serde_json::json!("")),
            ("callName", serde_json::json!("a\nb")),
            ("identities", serde_json::json!([long])),
            ("identities", serde_json::json!(many)),
            ("tags", serde_json::json!(["two words"])),
            ("tags", serde_json::json!(["#"])),
            ("tags", serde_json::json!(many)),
            ("integrationIds", serde_json::json!(["ab:1"])),
            ("integrationIds", serde_json::json!(["Chat:1"])),
            ("integrationIds", serde_json::json!(["chat:"])),
        ] {
            let mut message = serde_json::json!({"type": "identify"});
            message[field] = value;
            let error = identify(&message.to_string()).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn places_are_inside_the_page() {
        assert!(check_place(0.0, 1.0).is_ok());
        for (x, y) in [(-0.1, 0.5), (0.5, 1.1), (f64::NAN, 0.5)] {
            assert!(check_place(x, y).is_err());
        }
    }
}
