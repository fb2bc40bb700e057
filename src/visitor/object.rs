//! The Visitor object of the REST API (contract section 1, first group).

use std::net::IpAddr;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// The values `device_type` may have.
pub(super) const DEVICE_TYPES: [&str; 7] = [
    "desktop", "console", "mobile", "tablet", "smarttv", "wearable", "embedded",
];

/// One visitor as the API shows it.
///
/// Every field is always written, nulls included: all visitors have the same properties. The
/// only exception is `integration_ids`, which search needs but the object does not list.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Visitor {
    #[serde(serialize_with = "iso8601")]
    pub(super) added_at: OffsetDateTime,
    pub(super) api_key: String,
    pub(super) browser_name: Option<String>,
    pub(super) call_name: Option<String>,
    pub(super) device_name: Option<String>,
    pub(super) device_type: Option<String>,
    pub(super) email: Option<String>,
    pub(super) identities: Vec<String>,
    pub(super) integration: Option<String>,
    pub(super) ip_address: IpAddr,
    pub(super) is_in_session: bool,
    pub(super) is_online: bool,
    pub(super) is_supported: bool,
    pub(super) is_waiting_for_call: bool,
    pub(super) js_configuration: bool,
    #[serde(serialize_with = "iso8601")]
    pub(super) last_seen_at: OffsetDateTime,
    pub(super) last_url: Option<String>,
    pub(super) location_city: Option<String>,
    pub(super) location_country: Option<String>,
    pub(super) location_country_name: Option<String>,
    pub(super) lookup_code: Option<String>,
    pub(super) short_id: String,
    pub(super) tags: Vec<String>,
    pub(super) unique_id: Option<String>,
    /// `name:id` of other systems, matched by `integration_id:` in a search.
    #[serde(skip)]
    pub(super) integration_ids: Vec<String>,
}

impl Visitor {
    /// A visitor first seen at `now` of whom nothing else is known. The store gives it its
    /// lookup code.
    pub(super) fn new(short_id: String, ip_address: IpAddr, now: OffsetDateTime) -> Self {
        Self {
            added_at: now,
            // There is one account and no public key to tell accounts apart.
            api_key: "built-in".to_owned(),
            browser_name: None,
            call_name: None,
            device_name: None,
            device_type: None,
            email: None,
            identities: Vec::new(),
            integration: None,
            ip_address,
            is_in_session: false,
            is_online: false,
            is_supported: true,
            is_waiting_for_call: false,
            js_configuration: false,
            last_seen_at: now,
            last_url: None,
            location_city: None,
            location_country: None,
            location_country_name: None,
            lookup_code: None,
            short_id,
            tags: Vec::new(),
            unique_id: None,
            integration_ids: Vec::new(),
        }
    }

    /// The address an agent sees: the first e-mail given as `uniqueId` or among the identities.
    pub(super) fn derive_email(&mut self) {
        self.email = self
            .unique_id
            .iter()
            .chain(&self.identities)
            .find(|text| is_email(text))
            .cloned();
    }

    /// Takes over what a browser tells about itself.
    pub(super) fn apply_browser(&mut self, browser: Browser) {
        self.browser_name = browser.name;
        self.device_name = browser.device_name.map(str::to_owned);
        self.device_type = browser.device_type.map(str::to_owned);
    }
}

/// Whether `text` has the shape of an e-mail address: `local@domain.tld`, one word.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    !local.is_empty()
        && !domain.contains('@')
        && domain.contains('.')
        && !domain.starts_with('.')
        && !domain.ends_with('.')
        && !text.contains(char::is_whitespace)
}

/// ISO 8601 in UTC with milliseconds, `2026-01-31T08:15:00.250Z`.
pub(super) fn iso8601_text(time: OffsetDateTime) -> String {
    // Times are UTC by the time they are stored: the clock's are, and the seed file's are converted.
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

fn iso8601<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&iso8601_text(*time))
}

/// What a `User-Agent` header tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Browser {
    /// Name and major version, `Chrome 120`.
    pub(super) name: Option<String>,
    pub(super) device_name: Option<&'static str>,
    /// One of [`DEVICE_TYPES`].
    pub(super) device_type: Option<&'static str>,
}

impl Browser {
    /// Reads the handful of marks that tell current browsers apart; anything else stays `None`.
    pub(super) fn from_user_agent(agent: &str) -> Self {
        // Order matters: Edge and Opera also claim to be Chrome, and Chrome to be Safari.
        const BROWSERS: [(&str, &str); 9] = [
            ("Edg/", "Edge"),
            ("EdgA/", "Edge"),
            ("OPR/", "Opera"),
            ("SamsungBrowser/", "Samsung Internet"),
            ("FxiOS/", "Firefox"),
            ("Firefox/", "Firefox"),
            ("CriOS/", "Chrome"),
            ("Chrome/", "Chrome"),
            ("Version/", "Safari"),
        ];
        let name = BROWSERS.iter().find_map(|(mark, name)| {
            let (_, rest) = agent.split_once(mark)?;
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            // No browser counts past four digits; a longer number is somebody's joke.
            (1..=4)
                .contains(&digits)
                .then(|| format!("{name} {}", &rest[..digits]))
        });
        let has = |marks: &[&str]| marks.iter().any(|mark| agent.contains(mark));
        let (device_name, device_type) = if has(&["PlayStation", "Xbox", "Nintendo"]) {
            (None, Some("console"))
        } else if has(&["SmartTV", "SMART-TV", "AppleTV", "HbbTV", "BRAVIA"]) {
            (None, Some("smarttv"))
        } else if has(&["Watch"]) {
            (None, Some("wearable"))
        } else if has(&["iPad"]) {
            (Some("iPad"), Some("tablet"))
        } else if has(&["iPhone"]) {
            (Some("iPhone"), Some("mobile"))
        } else if has(&["Android"]) {
            let phone = has(&["Mobile"]);
            (
                Some("Android"),
                Some(if phone { "mobile" } else { "tablet" }),
            )
        } else if has(&["Windows NT"]) {
            (Some("Windows"), Some("desktop"))
        } else if has(&["Macintosh"]) {
            (Some("Mac"), Some("desktop"))
        } else if has(&["CrOS"]) {
            (Some("Chromebook"), Some("desktop"))
        } else if has(&["X11", "Linux"]) {
            (Some("Linux"), Some("desktop"))
        } else {
            (None, None)
        };
        Self {
            name,
            device_name,
            device_type,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_tells_browser_and_device() {
        let cases = [
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                (Some("Chrome 120"), Some("Linux"), Some("desktop")),
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/121.0",
                (Some("Edge 121"), Some("Windows"), Some("desktop")),
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
                (Some("Safari 17"), Some("iPhone"), Some("mobile")),
            ),
            (
                "Mozilla/5.0 (Android 14; Tablet; rv:121.0) Gecko/121.0 Firefox/121.0",
                (Some("Firefox 121"), Some("Android"), Some("tablet")),
            ),
            ("curl/8.5", (None, None, None)),
            ("Chrome/999999999", (None, None, None)),
            ("", (None, None, None)),
        ];
        for (agent, (name, device_name, device_type)) in cases {
            let browser = Browser::from_user_agent(agent);
            assert_eq!(browser.name.as_deref(), name, "{agent}");
            assert_eq!(browser.device_name, device_name, "{agent}");
            assert_eq!(browser.device_type, device_type, "{agent}");
        }
    }

    #[test]
    fn times_are_utc_with_three_digits_of_a_second() {
        let time = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_007_900_000).unwrap();
        assert_eq!(iso8601_text(time), "2023-11-14T22:13:20.007Z");
    }

    #[test]
    fn an_email_is_one_word_with_a_dotted_domain() {
        for yes in ["a@b.c", "john@example.com"] {
            assert!(is_email(yes), "{yes}");
        }
        for no in ["a@b", "@b.c", "a@.c", "a@b.", "a@b@c.d", "a b@c.d", "joe"] {
            assert!(!is_email(no), "{no}");
        }
    }
}
