//! Every key there is, for people: its shape, its default, from when on a change holds, what it means.

use indexmap::IndexMap;
use serde_json::Value;

use super::Config;
use super::describe::{Applies, RESTART, schema};
use super::entries::{Node, join, literal};

/// One key of the file.
#[derive(Clone, Debug)]
pub struct Key {
    /// E.g. `upstream.url`; keys of lists of tables as `rate_limit.policy.rate`, names of one's own
    /// choice as `api.keys.*`.
    pub name: String,
    /// What may be written, e.g. `time or "off"`.
    pub shape: String,
    /// As it would be written; `None`: it has none.
    pub default: Option<String>,
    /// From when on a change of it holds.
    pub applies: Applies,
    /// The description.
    pub meaning: String,
}

/// Every key, in the order of the file.
pub fn keys() -> Vec<Key> {
    let defaults = Node::of(&Config::default());
    let mut found = Vec::new();
    collect(
        schema().as_value(),
        Some(&defaults),
        "",
        RESTART,
        &mut found,
    );
    found
}

fn collect(
    schema: &Value,
    default: Option<&Node>,
    name: &str,
    applies: Applies,
    found: &mut Vec<Key>,
) {
    let applies = Applies::of(schema).unwrap_or(applies);
    let inner = schema
        .get("items")
        .filter(|items| items.get("properties").is_some());
    if let Some(keys) = inner
        .unwrap_or(schema)
        .get("properties")
        .and_then(Value::as_object)
    {
        // In the order of the struct, where there is one to see; elements of lists have no defaults
        // of their own but those the schema knows.
        let (ordered, empty) = (IndexMap::new(), inner.is_some());
        let order = match default {
            Some(Node::Table(table)) => table,
            Some(Node::List(list)) => match list.first() {
                Some(Node::Table(table)) => table,
                _ => &ordered,
            },
            _ => &ordered,
        };
        let names = order
            .keys()
            .chain(keys.keys().filter(|key| !order.contains_key(*key)));
        for key in names {
            let default = order.get(key).filter(|_| !empty);
            collect(&keys[key], default, &join(name, key), applies, found);
        }
        return;
    }
    let of_names = schema
        .get("additionalProperties")
        .filter(|inner| inner.is_object());
    found.push(Key {
        name: match of_names {
            Some(_) => format!("{name}.*"),
            None => name.to_owned(),
        },
        shape: shape(of_names.unwrap_or(schema)),
        default: match of_names {
            Some(_) => None,
            None => schema.get("default").map(literal),
        },
        applies,
        meaning: schema
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .replace('\n', " "),
    });
}

/// What a schema lets one write, in words.
fn shape(schema: &Value) -> String {
    let text = |keyword: &str| schema.get(keyword).and_then(Value::as_str);
    let any = |choices: &[Value]| choices.iter().map(shape).collect::<Vec<_>>().join(" or ");
    if let Some(title) = text("title") {
        return title.to_owned();
    }
    if let Some(only) = schema.get("const") {
        return literal(only);
    }
    for keyword in ["enum", "oneOf", "anyOf"] {
        if let Some(Value::Array(choices)) = schema.get(keyword) {
            return match keyword {
                "enum" => choices.iter().map(literal).collect::<Vec<_>>().join(" or "),
                _ => any(choices),
            };
        }
    }
    match text("type") {
        Some("array") => format!(
            "list of {}",
            schema.get("items").map_or_else(String::new, shape)
        ),
        Some("boolean") => "true or false".to_owned(),
        Some("string") => "text".to_owned(),
        Some("integer") => match (schema.get("minimum"), schema.get("maximum")) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (Some(least), None) if *least != 0 => format!("whole number from {least}"),
            _ => "whole number".to_owned(),
        },
        other => other.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_all_about_itself() {
        let keys = keys();
        for (name, shape, default, applies) in [
            ("public.base_endpoint", "text", None, "live"),
            (
                "public.listen",
                "address:port",
                Some(r#""0.0.0.0:8443""#),
                "restart",
            ),
            (
                "public.trusted_proxies",
                "list of network",
                Some("[]"),
                "new-connections",
            ),
            (
                "tls.min_version",
                r#""1.2" or "1.3""#,
                Some(r#""1.2""#),
                "new-connections",
            ),
            ("tls.additional.key", "file", None, "new-connections"),
            ("api.keys.*", "secret", None, "live"),
            ("rate_limit.policy.rate", "rate", None, "live"),
            (
                "rate_limit.policy.enforce",
                "true or false",
                Some("true"),
                "live",
            ),
            (
                "websocket.idle",
                r#"time or "off""#,
                Some(r#""1h""#),
                "new-connections",
            ),
            (
                "limits.workers",
                r#""auto" or 1 to 256"#,
                Some(r#""auto""#),
                "restart",
            ),
            (
                "limits.header_bytes",
                "size",
                Some(r#""32KiB""#),
                "new-connections",
            ),
            (
                "log.format",
                r#""auto" or "json" or "text""#,
                Some(r#""auto""#),
                "restart",
            ),
        ] {
            let key = keys.iter().find(|k| k.name == name).expect(name);
            assert_eq!(
                (&*key.shape, key.default.as_deref(), key.applies.as_str()),
                (shape, default, applies),
                "{name}"
            );
            assert!(!key.meaning.is_empty(), "{name}");
        }
        assert_eq!(keys[0].name, "public.base_endpoint");
    }
}
