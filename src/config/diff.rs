//! What differs between two configurations.

use std::cell::RefCell;
use std::fmt;

use indexmap::IndexMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::describe::{Applies, RESTART};
use super::entries::HIDDEN;
use super::{Config, Secret};

/// One difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As [`super::Entry::key`].
    pub key: String,
    /// As [`super::Entry::value`]; `None`: not set, or not there.
    pub old: Option<String>,
    /// As [`super::Entry::value`]; `None`: not set, or not there.
    pub new: Option<String>,
    /// From when on the new value holds.
    pub applies: Applies,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".into());
        let (key, old, new) = (&self.key, shown(&self.old), shown(&self.new));
        write!(f, "{key}: {old} -> {new} ({})", self.applies)
    }
}

/// What a reload from `old` to `new` changes, in the order of the file. Secrets are compared, and
/// shown as `***`.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new): (Vec<_>, Vec<_>) =
        Numbered::during(|| (old.compared().collect(), new.compared().collect()));
    let mut old: IndexMap<_, _> = old.into_iter().map(|e| (e.0.key.clone(), e)).collect();
    let mut changes = Vec::new();
    for (entry, value) in new {
        let (before, was) = old.shift_remove(&entry.key).unzip();
        if was.as_ref() == Some(&value) {
            continue;
        }
        // The built-in backend is started with the process.
        let built_in = |value: &Value| entry.key == "upstream.url" && value == "visitor";
        let restart = built_in(&value) || was.as_ref().is_some_and(built_in);
        changes.push(Change {
            applies: if restart { RESTART } else { entry.applies },
            old: before.and_then(|b| b.value),
            new: entry.value,
            key: entry.key,
        });
    }
    changes.extend(old.into_values().map(|(gone, _)| Change {
        applies: gone.applies,
        key: gone.key,
        old: gone.value,
        new: None,
    }));
    changes
}

thread_local! {
    /// The secrets met since a comparison began.
    static NUMBERED: RefCell<Option<Vec<Secret>>> = const { RefCell::new(None) };
}

/// While two configurations are compared a secret is written as its number among those met, so
/// that equal ones are equal and nothing of them is in what is compared.
struct Numbered;

impl Numbered {
    fn during<T>(compare: impl FnOnce() -> T) -> T {
        NUMBERED.set(Some(Vec::new()));
        let _end = Self;
        compare()
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        NUMBERED.set(None);
    }
}

impl Serialize for Secret {
    /// As `***`: what is written can be shown.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let number = NUMBERED.with_borrow_mut(|met| {
            let met = met.as_mut()?;
            Some(
                met.iter()
                    .position(|known| known == self)
                    .unwrap_or_else(|| {
                        met.push(self.clone());
                        met.len() - 1
                    }),
            )
        });
        match number {
            Some(number) => to.serialize_u64(number as u64),
            None => to.serialize_str(HIDDEN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn read(text: &str) -> Config {
        let environment = Environment::default();
        Config::read("some/gateway.toml".as_ref(), text, &environment).unwrap()
    }

    fn changes(old: &str, new: &str) -> Vec<String> {
        diff(&read(old), &read(new))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_differs_is_told_with_both_values_and_its_property() {
        assert_eq!(changes("", ""), [""; 0]);
        assert_eq!(
            changes(
                "[upstream]\nconnect_timeout = '2000ms'\n",
                "[upstream]\nconnect_timeout = '3s'\n[limits]\nworkers = 2\n[tls]\nkey = 'k'\n"
            ),
            [
                r#"tls.key: (not set) -> "some/k" (new-connections)"#,
                r#"upstream.connect_timeout: "2s" -> "3s" (live)"#,
                r#"limits.workers: "auto" -> 2 (restart)"#,
            ]
        );
        assert_eq!(
            changes(
                "[public]\nextra_hosts = []",
                "[public]\nextra_hosts = ['a', 'b:1']"
            ),
            [r#"public.extra_hosts: [] -> ["a", "b:1"] (live)"#]
        );
        assert_eq!(
            changes("", "[upstream]\nurl = 'visitor'"),
            [r#"upstream.url: "http://127.0.0.1:5002" -> "visitor" (restart)"#]
        );
    }

    #[test]
    fn policies_are_compared_by_name_whatever_their_order() {
        let one = "[[rate_limit.policy]]\nname = 'one'\nper = 'key'\nrate = '1/1s'\n";
        let two = "[[rate_limit.policy]]\nname = 'two'\nper = 'client'\nrate = '60/1m'\n";
        let faster = two.replace("60/", "61/");
        assert_eq!(
            changes(&format!("{one}{two}"), &format!("{two}{one}")),
            [""; 0]
        );
        assert_eq!(
            changes(&format!("{one}{two}"), &format!("{faster}{one}")),
            [r#"rate_limit.policy.two.rate: "60/1m" -> "61/1m" (live)"#]
        );
        let gone = changes(&format!("{one}{two}"), one);
        assert!(gone[0].starts_with("rate_limit.policy.two.name: \"two\" -> (not set)"));
    }

    #[test]
    fn secrets_are_compared_and_not_shown() {
        let keys =
            |a: &str, b: &str| format!("[api.keys]\na = 'canary-{a}'\n\"b c\" = 'canary-{b}'\n");
        assert_eq!(changes(&keys("1", "2"), &keys("1", "2")), [""; 0]);
        assert_eq!(
            changes(&keys("1", "2"), &keys("2", "2")),
            [r#"api.keys.a: "***" -> "***" (live)"#]
        );
        assert_eq!(
            changes(&keys("1", "2"), "[api.keys]\na = 'canary-1'"),
            [r#"api.keys."b c": "***" -> (not set) (live)"#]
        );
        let config = read(&format!(
            "{}[upstream]\nurl = 'http://u:canary@h'",
            keys("1", "2")
        ));
        assert!(!format!("{:?}", config.entries()).contains("canary"));
        assert!(!serde_json::to_string(&config).unwrap().contains("canary-"));
    }
}
