//! The configuration as a flat list of keys.

use std::sync::LazyLock;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::describe::{Applies, RESTART, schema};
use super::{Config, Origin};

/// What is shown of a secret.
pub(super) const HIDDEN: &str = "***";

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
        // Through text: there the keys keep their order.
        let node = serde_json::to_string(self)
            .and_then(|text| serde_json::from_str::<Node>(&text))
            .unwrap_or(Node::Leaf(Value::Null));
        let mut found = Vec::new();
        walk(&SCHEMA, &node, "", RESTART, &mut |entry, value| {
            found.push((entry, value));
        });
        found.into_iter().map(|(entry, value)| {
            let origin = self.origins.of(&entry.key);
            (Entry { origin, ..entry }, value)
        })
    }
}

/// The configuration as a tree that keeps the order of its keys.
#[derive(Deserialize)]
#[serde(untagged)]
enum Node {
    Table(IndexMap<String, Self>),
    List(Vec<Self>),
    Leaf(Value),
}

/// Gives `found` what lies in `node`, which `schema` describes; `applies` is the property of what
/// it lies in.
fn walk(
    schema: &Value,
    node: &Node,
    key: &str,
    applies: Applies,
    found: &mut impl FnMut(Entry, Value),
) {
    let applies = Applies::of(schema).unwrap_or(applies);
    let mut below = |name: &str, node| {
        let inner = ["properties", name]
            .iter()
            .try_fold(schema, |s, k| s.get(k));
        let inner = inner.or_else(|| schema.get("additionalProperties"));
        let key = join(key, name);
        walk(inner.unwrap_or(&Value::Null), node, &key, applies, found);
    };
    match node {
        Node::Table(table) => {
            for (name, node) in table {
                below(name, node);
            }
        }
        Node::List(list) if matches!(list.first(), Some(Node::Table(_))) => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            for table in list {
                walk(items, table, &join(key, table.name()), applies, found);
            }
        }
        Node::List(_) | Node::Leaf(_) => {
            let identity = node.value();
            let secret = schema.get("writeOnly") == Some(&Value::Bool(true));
            let entry = Entry {
                key: key.to_owned(),
                value: match &identity {
                    Value::Null => None,
                    _ if secret => Some(format!("{HIDDEN:?}")),
                    value => Some(literal(value)),
                },
                origin: Origin::Default,
                applies,
                secret,
            };
            found(entry, identity);
        }
    }
}

impl Node {
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
fn literal(value: &Value) -> String {
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
                .all(|e| e.origin == Origin::Default && (!e.secret || e.value.is_none()))
        );
        assert_eq!(entries[0].value, None);
    }
}
