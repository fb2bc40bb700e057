//! The search language of `q` (contract section 2).
//!
//! Words stand between white space and must all match. The contract shows one word at a time;
//! taking several as AND is our reading.

use std::net::IpAddr;

use super::object::{Visitor, is_email};

/// Longest `q`, in bytes after percent-decoding.
pub(super) const MAX_BYTES: usize = 1024;
/// Most words in one `q`: a search looks at every visitor once per word.
pub(super) const MAX_WORDS: usize = 32;

/// A parsed `q`. No words: every visitor matches.
#[derive(Debug)]
pub(super) struct Query(Vec<Word>);

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Online(bool),
    /// `None`: not an address, so no visitor has it.
    Ip(Option<IpAddr>),
    UniqueId(String),
    LookupCode(String),
    /// With its `#`, lower case.
    Tag(String),
    /// `name:id`.
    IntegrationId(String),
    /// Lower case.
    Email(String),
    /// Lower case.
    Text(String),
}

impl Query {
    /// Reads `q`; the error says what is allowed and repeats nothing of it.
    pub(super) fn parse(q: &str) -> Result<Self, String> {
        if q.len() > MAX_BYTES {
            return Err(format!("at most {MAX_BYTES} bytes are allowed"));
        }
        let words: Vec<Word> = q
            .split_whitespace()
            .take(MAX_WORDS + 1)
            .map(Word::parse)
            .collect();
        if words.len() > MAX_WORDS {
            return Err(format!("at most {MAX_WORDS} words are allowed"));
        }
        Ok(Self(words))
    }

    /// Whether `visitor` matches every word. `text` is its [`text`], kept by the store.
    pub(super) fn matches(&self, visitor: &Visitor, text: &str) -> bool {
        self.0.iter().all(|word| word.matches(visitor, text))
    }
}

impl Word {
    fn parse(word: &str) -> Self {
        match word {
            "online" => return Self::Online(true),
            "-online" => return Self::Online(false),
            _ => {}
        }
        // The first colon only: an IPv6 address or an id may hold more of them.
        match word.split_once(':') {
            Some(("ip", address)) => {
                return Self::Ip(address.parse().ok().map(|ip: IpAddr| ip.to_canonical()));
            }
            Some(("id", id)) => return Self::UniqueId(id.to_owned()),
            // `name:id` stays one string, which is how it is stored: the split on the second
            // colon is in there, and an id may hold a third.
            Some(("integration_id", name_and_id)) => {
                return Self::IntegrationId(name_and_id.to_owned());
            }
            _ => {}
        }
        if word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_digit()) {
            Self::LookupCode(word.to_owned())
        } else if word.starts_with('#') {
            Self::Tag(word.to_lowercase())
        } else if is_email(word) {
            Self::Email(word.to_lowercase())
        } else {
            Self::Text(word.to_lowercase())
        }
    }

    fn matches(&self, visitor: &Visitor, text: &str) -> bool {
        match self {
            Self::Online(online) => visitor.is_online == *online,
            Self::Ip(address) => *address == Some(visitor.ip_address.to_canonical()),
            Self::UniqueId(id) => visitor.unique_id.as_ref() == Some(id),
            Self::LookupCode(code) => visitor.lookup_code.as_ref() == Some(code),
            Self::Tag(tag) => visitor.tags.iter().any(|has| has.to_lowercase() == *tag),
            Self::IntegrationId(id) => visitor.integration_ids.contains(id),
            Self::Email(email) => visitor
                .email
                .iter()
                .chain(&visitor.unique_id)
                .chain(&visitor.identities)
                .any(|has| has.to_lowercase() == *email),
            Self::Text(part) => text.contains(part.as_str()),
        }
    }
}

/// What free text is looked for in: the visitor's text fields in lower case, one a line, so that
/// no word (which holds no line end) can match across two fields.
pub(super) fn text(visitor: &Visitor) -> String {
    let optional = [
        &visitor.unique_id,
        &visitor.email,
        &visitor.call_name,
        &visitor.location_city,
        &visitor.location_country,
        &visitor.location_country_name,
        &visitor.browser_name,
        &visitor.device_name,
        &visitor.device_type,
        &visitor.last_url,
        &visitor.integration,
    ];
    let mut text = visitor.short_id.to_lowercase();
    for part in optional
        .into_iter()
        .flatten()
        .chain(&visitor.identities)
        .chain(&visitor.tags)
    {
        text.push('\n');
        text.push_str(&part.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn jane() -> Visitor {
        let mut jane = Visitor::new(
            "ABCD1234".into(),
            "2001:db8::1".parse().unwrap(),
            OffsetDateTime::UNIX_EPOCH,
        );
        jane.unique_id = Some("crm:42".into());
        jane.identities = vec!["Jane Smith".into(), "Jane@Example.com".into()];
        jane.derive_email();
        jane.is_online = true;
        jane.lookup_code = Some("0420".into());
        jane.tags = vec!["#High-Value".into(), "#client".into()];
        jane.integration_ids = vec!["acmechat:12:34".into()];
        jane.location_city = Some("New York, NY".into());
        jane.browser_name = Some("Chrome 120".into());
        jane.last_url = Some("https://shop.example.com/cart/7777".into());
        jane
    }

    #[test]
    fn every_word_of_the_search_language_finds_what_it_names_and_nothing_else() {
        let cases = [
            ("", true),
            ("   ", true),
            // free text: any case, every word, any field, never across fields
            ("smith", true),
            ("JANE smith", true),
            ("jane jones", false),
            ("chrome", true),
            ("york", true),
            ("abcd12", true),
            ("cart", true),
            ("clientjane", false),
            // an e-mail matches whole, without case
            ("jane@example.com", true),
            ("JANE@EXAMPLE.COM", true),
            ("ane@example.com", false),
            ("jane@example", true), // no dotted domain: free text
            // online
            ("online", true),
            ("-online", false),
            ("online -online", false),
            // ip
            ("ip:2001:db8::1", true),
            ("ip:2001:0db8:0:0::0001", true),
            ("ip:2001:db8::2", false),
            ("ip:1.1.1.1", false),
            ("ip:nonsense", false),
            ("ip:", false),
            // id: split on the first colon only
            ("id:crm:42", true),
            ("id:crm", false),
            ("id:", false),
            // four digits: the lookup code and nothing else
            ("0420", true),
            ("7777", false),
            ("042", false),
            ("04200", false),
            // tags: any case, whole
            ("#client", true),
            ("#CLIENT", true),
            ("#high-value", true),
            ("#high", false),
            ("#", false),
            // integration ids: the id may hold a colon
            ("integration_id:acmechat:12:34", true),
            ("integration_id:acmechat:12", false),
            ("integration_id:acmechat", false),
            ("integration_id:", false),
            // together: AND
            ("online #client smith ip:2001:db8::1", true),
            ("online #client jones", false),
            // not in the language, so plain text
            ("tag:client", false),
            ("\"jane", false),
            ("ONLINE", false),
        ];
        let jane = jane();
        let text = text(&jane);
        for (q, found) in cases {
            assert_eq!(
                Query::parse(q).unwrap().matches(&jane, &text),
                found,
                "{q:?}"
            );
        }
    }

    #[test]
    fn an_ipv4_address_written_as_ipv6_is_the_same_address() {
        let mut visitor = jane();
        visitor.ip_address = "203.0.113.9".parse().unwrap();
        let query = Query::parse("ip:::ffff:203.0.113.9").unwrap();
        assert!(query.matches(&visitor, ""));
    }

    #[test]
    fn a_query_is_bounded_in_bytes_and_words() {
        assert!(Query::parse(&"a".repeat(MAX_BYTES)).is_ok());
        assert!(Query::parse(&"a".repeat(MAX_BYTES + 1)).is_err());
        assert!(Query::parse(&"a ".repeat(MAX_WORDS)).is_ok());
        assert!(Query::parse(&"a ".repeat(MAX_WORDS + 1)).is_err());
    }
}
