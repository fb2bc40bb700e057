//! Where each value of the configuration comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::entries::join;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything else.
    Default,
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// An environment variable, or the file that it names.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(file, line) => write!(f, "{}:{line}", file.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// The origins of what is not a default, by key.
#[derive(Clone, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl fmt::Debug for Origins {
    /// Nothing: two configurations that say the same from different places look the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl Origins {
    /// The line of each value in `text`, which stands in `file`.
    pub(super) fn in_file(file: &Path, text: &str) -> Self {
        let mut origins = Self::default();
        if let Ok(table) = DeTable::parse(text) {
            lines(&DeValue::Table(table.into_inner()), "", &mut |key, at| {
                let line = text[..at].matches('\n').count() + 1;
                origins.set(key, Origin::File(file.to_owned(), line));
            });
        }
        origins
    }

    /// `key`, and what lies below it, comes from `origin`.
    pub(super) fn set(&mut self, key: &str, origin: Origin) {
        let below = format!("{key}.");
        self.0.retain(|known, _| !known.starts_with(&below));
        self.0.insert(key.to_owned(), origin);
    }

    /// Where `key` of [`super::Entry::key`] comes from.
    pub fn of(&self, key: &str) -> Origin {
        let mut at = Some(key);
        while let Some(key) = at {
            if let Some(origin) = self.0.get(key) {
                return origin.clone();
            }
            at = key.rsplit_once('.').map(|(above, _)| above);
        }
        Origin::Default
    }
}

/// Gives `found` the keys in `value`, named as in [`Entry::key`](super::Entry::key), and where
/// they begin.
fn lines(value: &DeValue<'_>, key: &str, found: &mut impl FnMut(&str, usize)) {
    match value {
        DeValue::Table(table) => {
            for (name, value) in table {
                let key = join(key, name.get_ref());
                let first = value.get_ref().get(0).unwrap_or(value);
                if !first.get_ref().is_table() {
                    found(&key, name.span().start);
                }
                lines(value.get_ref(), &key, found);
            }
        }
        DeValue::Array(list) => {
            for value in list {
                let name = value
                    .get_ref()
                    .get("name")
                    .and_then(|name| name.get_ref().as_str());
                if let Some(name) = name {
                    lines(value.get_ref(), &join(key, name), found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    fn read(text: &str, environment: &[(&str, &str)]) -> Config {
        let environment = Environment::of(environment.iter().copied());
        Config::read("some/gateway.toml".as_ref(), text, &environment).unwrap()
    }

    #[test]
    fn every_value_tells_where_it_comes_from() {
        let text = "[upstream]\nurl = 'http://a'\nconnect_timeout = '1s'\n\n[api.keys]\nmine = 'k'\n[[rate_limit.policy]]\nname = 'p'\nper = 'key'\nrate = '1/1s'\n";
        let config = read(
            text,
            &[
                ("UPSTREAM_URL", "http://b"),
                ("REST_KEY", "k2"),
                ("GATEWAY__LOG__LEVEL", "warn"),
                ("GATEWAY__PUBLIC__EXTRA_HOSTS", "['x']"),
            ],
        );
        let origin = |key: &str| {
            let entries = config.entries();
            let entry = entries.iter().find(|e| e.key == key).expect(key);
            entry.origin.to_string()
        };
        for (key, from) in [
            ("upstream.url", "UPSTREAM_URL"),
            ("upstream.connect_timeout", "some/gateway.toml:3"),
            ("upstream.silence", "default"),
            ("api.keys.mine", "some/gateway.toml:6"),
            ("api.keys.rest_key", "REST_KEY"),
            ("rate_limit.policy.p.rate", "some/gateway.toml:10"),
            ("rate_limit.policy.p.burst", "default"),
            ("log.level", "GATEWAY__LOG__LEVEL"),
            ("public.extra_hosts", "GATEWAY__PUBLIC__EXTRA_HOSTS"),
            ("public.base_endpoint", "default"),
        ] {
            assert_eq!(origin(key), from, "{key}");
        }
        let inline = read(
            text,
            &[(
                "GATEWAY__RATE_LIMIT__POLICY",
                "[{name='q',per='key',rate='1/1s'}]",
            )],
        );
        let entries = inline.entries();
        let policies: Vec<_> = entries
            .iter()
            .filter(|e| e.key.starts_with("rate_limit.policy"))
            .collect();
        assert!(
            policies
                .iter()
                .all(|e| e.key.starts_with("rate_limit.policy.q.")),
            "{policies:?}"
        );
        assert!(
            policies
                .iter()
                .all(|e| e.origin == Origin::Variable("GATEWAY__RATE_LIMIT__POLICY".into()))
        );
    }
}
