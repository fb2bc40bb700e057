//! What keys there are: a JSON Schema made from the structs, with when a change of each key holds.

use std::borrow::Cow;
use std::fmt;

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::units::{Bytes, Count, Day, OrOff, Rate, Ratio, Span};
use super::{Config, Secret, Workers};

/// The keyword that carries [`Applies`] in the schema.
pub(super) const APPLIES: &str = "x-applies";

/// From when on a changed value holds after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applies {
    /// The next request, also of an open connection.
    Live,
    /// Connections, handshakes and tunnels that begin after the reload.
    NewConnections,
    /// The next start of the process: a reload leaves the old value in force and says so.
    Restart,
}

impl Applies {
    /// The word, as in the schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NewConnections => "new-connections",
            Self::Restart => "restart",
        }
    }

    /// The property written in a subschema, if one is.
    pub(super) fn of(schema: &Value) -> Option<Self> {
        Self::deserialize(schema.get(APPLIES)?).ok()
    }
}

impl fmt::Display for Applies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(super) const LIVE: Applies = Applies::Live;
pub(super) const NEW_CONNECTIONS: Applies = Applies::NewConnections;
pub(super) const RESTART: Applies = Applies::Restart;

/// The JSON Schema (draft 2020-12) of the file: each key with its description, its default and,
/// as `x-applies`, [`Applies`]. `title` names the shape of a value with a unit.
pub fn schema() -> Schema {
    let mut schema = SchemaSettings::draft2020_12()
        .with(|s| s.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Config>();
    RecursiveTransform(without_null).transform(&mut schema);
    schema.insert(
        "title".into(),
        "gateway.toml of the Cobrowse Gateway".into(),
    );
    schema
}

/// TOML has no null: a key without default is a key that is not there.
fn without_null(schema: &mut Schema) {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|c| c.get("type").is_none_or(|t| t != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (keyword, value) in only {
                schema.ensure_object().entry(keyword).or_insert(value);
            }
        }
    }
}

/// Gives a type its schema.
macro_rules! shape {
    ($($(#[$doc:meta])* $type:ty = $schema:tt;)+) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

/// Stands for a socket address in the schema.
pub(super) struct Address;
/// Stands for a network in the schema.
pub(super) struct Network;
/// Stands for a path of a file in the schema.
pub(super) struct File;

shape! {
    Address = {"type": "string", "title": "address:port", "pattern": r"^([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$"};
    Network = {"type": "string", "title": "network", "pattern": r"^[0-9a-fA-F:.]+/[0-9]{1,3}$"};
    File = {"type": "string", "title": "file"};
    Secret = {"type": "string", "title": "secret", "writeOnly": true};
    Span = {"type": "string", "title": "time", "pattern": r"^[0-9]+\s*(ms|s|m|h|d)$"};
    Bytes = {"type": "string", "title": "size", "pattern": r"^[0-9]+\s*(B|KiB|MiB|GiB)$"};
    Rate = {"type": "string", "title": "rate", "pattern": r"^0*[1-9][0-9]*/0*[1-9][0-9]*\s*(ms|s|m|h|d)$"};
    Day = {"type": "string", "title": "day", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"};
    Count = {"type": "integer", "title": "count", "minimum": 1, "maximum": u32::MAX};
    Ratio = {"type": "number", "title": "0 to 1", "minimum": 0, "maximum": 1};
    Workers = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 256}]};
}

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}_or_off", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [generator.subschema_for::<T>(), {"const": "off"}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys below `schema` that have no property, neither their own nor that of the list or table
    /// of names they stand in.
    fn without_property(schema: &Value, key: &str, found: &mut Vec<String>) {
        if Applies::of(schema).is_some() {
            return;
        }
        match schema.get("properties").and_then(Value::as_object) {
            Some(keys) => {
                for (name, below) in keys {
                    without_property(below, &format!("{key}.{name}"), found);
                }
            }
            None => found.push(key.to_owned()),
        }
    }

    #[test]
    fn every_key_says_from_when_on_a_change_holds() {
        let mut missing = Vec::new();
        without_property(schema().as_value(), "", &mut missing);
        assert_eq!(missing, [""; 0]);
        // A whole section has none: then a new key in it would have one unseen.
        let sections = schema().as_value()["properties"].as_object().cloned();
        for (name, section) in sections.unwrap() {
            assert_eq!(Applies::of(&section), None, "{name}");
            assert_eq!(section["additionalProperties"], false, "{name}");
        }
    }

    #[test]
    fn every_key_is_described_and_has_its_default() {
        let schema = schema();
        for (section, table) in schema.as_value()["properties"].as_object().unwrap() {
            for (key, value) in table["properties"].as_object().unwrap() {
                let name = format!("{section}.{key}");
                assert!(value["description"].is_string(), "{name}: {value}");
                let none = [
                    "public.base_endpoint",
                    "tls.certificate",
                    "tls.key",
                    "tls.client_ca",
                    "api.upstream_key",
                    "rate_limit.redis_url",
                    "rate_limit.redis_password_file",
                    "rate_limit.redis_ca",
                    "rate_limit.redis_salt",
                    "trace.ca",
                    "visitor.seed",
                ];
                assert_eq!(
                    value.get("default").is_none(),
                    none.contains(&&*name),
                    "{name}: {value}"
                );
                assert!(!value.to_string().contains("null"), "{name}: {value}");
            }
        }
    }
}
