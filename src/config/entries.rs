//! The configuration as a flat list of keys.

use std::sync::LazyLock;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::describe::{Applies, LIVE, RESTART, schema};
use super::{Config, Origin, RestKey};

/// What is shown of a secret.
pub(super) const HIDDEN: &str = "***";

/// The key that the environment gives.
pub(super) const REST_KEY: &str = "api.keys.rest_key";

/// One key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// E.g. `upstream.url`; of tables with names and of policies `api.keys.<name>` and
    /// `rate_limit.policy.<name>.rate`.
    pub key: String,
    /// As it would be written in the file, a secret as `***`; `None`: not set.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// The header of the table it stands in, e.g. `[upstream]` or `[[rate_limit.policy]]`.
    pub table: String,
    /// From when on a change of it holds.
    pub applies: Applies,
    /// Whether it is never shown.
    pub secret: bool,
}

impl Config {
    /// Every key with its value, in the order of the file.
    pub fn entries(&self) -> Vec<Entry> {
        self.compared().map(|(entry, _)| entry).collect()
    }

    /// With each entry what differs whenever its value does; not to be shown.
    pub(super) fn compared(&self) -> impl Iterator<Item = (Entry, Value)> {
        static SCHEMA: LazyLock<Value> = LazyLock::new(|| schema().to_value());
        let mut found = Vec::new();
        let root = At {
            key: String::new(),
            table: String::new(),
            applies: RESTART,
        };
        walk(&SCHEMA, &Node::of(self), &root, &mut |entry, value| {
            found.push((entry, value));
        });
        if self.api.rest_key != RestKey::None {
            let after = found.iter().rposition(|(e, _)| e.key.starts_with("api."));
            let entry = Entry {
                key: REST_KEY.into(),
                value: Some(format!("{HIDDEN:?}")),
                origin: Origin::Default,
                table: "[api.keys]".into(),
                applies: LIVE,
                secret: true,
            };
            // The environment does not change; a file that it names does, unseen here.
            found.insert(after.map_or(0, |at| at + 1), (entry, Value::Null));
        }
        found.into_iter().map(|(entry, value)| {
            let origin = self.origins.of(&entry.key);
            (Entry { origin, ..entry }, value)
        })
    }
}

/// The configuration as a tree that keeps the order of its keys.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Node {
    Table(IndexMap<String, Self>),
    List(Vec<Self>),
    Leaf(Value),
}

/// Where a node of the tree lies.
struct At {
    key: String,
    /// The header of the table it stands in.
    table: String,
    /// The property of what it lies in.
    applies: Applies,
}

/// Gives `found` what lies in `node`, which `schema` describes.
fn walk(schema: &Value, node: &Node, at: &At, found: &mut impl FnMut(Entry, Value)) {
    let applies = Applies::of(schema).unwrap_or(at.applies);
    match node {
        Node::Table(table) => {
            let header = if at.table.starts_with("[[") {
                at.table.clone()
            } else {
                format!("[{}]", at.key)
            };
            for (name, node) in table {
                let keys = schema.get("properties");
                let inner = keys.and_then(|keys| keys.get(name));
                let inner = inner.or_else(|| schema.get("additionalProperties"));
                let at = At {
                    key: join(&at.key, name),
                    table: header.clone(),
                    applies,
                };
                walk(inner.unwrap_or(&Value::Null), node, &at, found);
            }
        }
        Node::List(list) if matches!(list.first(), Some(Node::Table(_))) => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            for table in list {
                let at = At {
                    key: join(&at.key, table.name()),
                    table: format!("[[{}]]", at.key),
                    applies,
                };
                walk(items, table, &at, found);
            }
        }
        Node::List(_) | Node::Leaf(_) => {
            let identity = node.value();
            let secret = schema.get("writeOnly") == Some(&Value::Bool(true));
            let entry = Entry {
                key: at.key.clone(),
                value: match &identity {
                    Value::Null => None,
                    _ if secret => Some(format!("{HIDDEN:?}")),
                    value => Some(literal(value)),
                },
                origin: Origin::Default,
                table: at.table.clone(),
                applies,
                secret,
            };
            found(entry, identity);
        }
    }
}

impl Node {
    /// Through text: there the keys keep their order.
    pub(super) fn of(config: &Config) -> Self {
        serde_json::to_string(config)
            .and_then(|text| serde_json::from_str(&text))
            .unwrap_or(Self::Leaf(Value::Null))
    }

    /// The value of a leaf, or of a list of leaves.
    fn value(&self) -> Value {
        match self {
            Self::Leaf(value) => value.clone(),
            Self::List(list) => list.iter().map(Self::value).collect(),
            Self::Table(_) => Value::Null,
        }
    }

    /// The name that a table of a list gives itself.
    fn name(&self) -> &str {
        match self {
            Self::Table(table) => match table.get("name") {
                Some(Self::Leaf(Value::String(name))) => name,
                _ => "",
            },
            Self::List(_) | Self::Leaf(_) => "",
        }
    }
}

/// `above.name`, the name in quotes where TOML needs them.
pub(super) fn join(above: &str, name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let name = if !name.is_empty() && name.bytes().all(plain) {
        name.to_owned()
    } else {
        toml::Value::from(name).to_string()
    };
    if above.is_empty() {
        name
    } else {
        format!("{above}.{name}")
    }
}

/// A value as TOML; a password in a URL is hidden.
pub(super) fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let shown = match (text.split_once("://"), text.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{HIDDEN}@{host}"),
                _ => text.clone(),
            };
            toml::Value::from(shown).to_string()
        }
        Value::Array(list) => {
            let list: Vec<_> = list.iter().map(literal).collect();
            format!("[{}]", list.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_listed_in_the_order_of_the_file() {
        let entries = Config::default().entries();
        let keys: Vec<_> = entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(
            keys[..3],
            [
                "public.base_endpoint",
                "public.listen",
                "public.trusted_proxies"
            ]
        );
        assert!(keys.contains(&"rate_limit.policy.failed_auth.except"));
        assert!(
            entries
                .iter()
                .all(|e| e.origin == Origin::Default && !(e.secret && e.value.is_some()))
        );
        assert_eq!(entries[0].value, None);
    }
}
