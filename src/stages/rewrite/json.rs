//! The one JSON answer whose named fields are URLs. It is not written anew: all but these stays, byte
//! for byte.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Rewrite;

impl Rewrite {
    /// A JSON object with the named top-level fields mapped; `None`: nothing was to be changed.
    pub fn json(&self, body: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(body).ok()?;
        let fields = serde_json::Deserializer::from_str(text)
            .deserialize_map(Fields)
            .ok()?;
        let mut out = Vec::with_capacity(body.len() + 64);
        let mut done = 0;
        for (name, raw) in fields {
            if !self.json_fields.iter().any(|wanted| **wanted == name) {
                continue;
            }
            let Some(mapped) = serde_json::from_str::<Cow<'_, str>>(raw.get())
                .ok()
                .and_then(|url| self.url(&url))
            else {
                continue;
            };
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            out.extend_from_slice(&body[done..start]);
            serde_json::to_writer(&mut out, &mapped).ok()?;
            done = start + raw.get().len();
        }
        if done == 0 {
            return None;
        }
        out.extend_from_slice(&body[done..]);
        Some(out)
    }
}

/// The fields of an object with their values as they stand in the text.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            fields.push(field);
        }
        Ok(fields)
    }
}
