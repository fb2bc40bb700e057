//! Everything that is wrong with a file, at once: its keys are read one by one, so that no mistake
//! hides another. Each is told with where it stands, what was read and what is allowed.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use super::entries::join;
use super::keys::keys;
use super::{Config, ConfigError};

/// How a message begins of a key that is none.
pub(super) const UNKNOWN: &str = "unknown key";

/// The mistakes in `text`, which stands in `file`, in its order.
pub(super) fn in_text(file: &Path, text: &str) -> Vec<ConfigError> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let table = table.into_inner();
    let errors: Vec<Error> = if syntax.is_empty() {
        let read = |piece| Config::deserialize(Deserializer::from(Spanned::new(0..0, piece)));
        pieces(&table)
            .into_iter()
            .filter_map(|piece| read(piece).err())
            .collect()
    } else {
        syntax
    };
    let at = |error: &Error| error.span().map_or(0, |span| span.start);
    let mut errors: Vec<_> = errors.iter().map(|e| (at(e), e)).collect();
    errors.sort_by_key(|(at, _)| *at);
    let wrong = errors.into_iter().map(|(at, error)| {
        let key = key_at(&table, at).map_or_else(String::new, |key| format!(": {key}"));
        let (file, place) = (file.display(), place(text, at));
        ConfigError(format!("{file}:{place}{key}: {}", said(error.message())))
    });
    wrong.collect()
}

/// Tables with one key each, one for each element where a key is a list of tables.
fn pieces<'t>(table: &DeTable<'t>) -> Vec<DeTable<'t>> {
    let mut pieces = Vec::new();
    for (section, value) in table {
        let within = |value: DeValue<'t>| {
            let value = Spanned::new(section.span(), value);
            DeTable::from_iter([(section.clone(), value)])
        };
        let keys = match value.get_ref() {
            DeValue::Table(keys) if !keys.is_empty() => keys,
            _ => {
                pieces.push(within(value.get_ref().clone()));
                continue;
            }
        };
        for (key, value) in keys {
            let mut one = |value| {
                let alone = DeTable::from_iter([(key.clone(), value)]);
                pieces.push(within(DeValue::Table(alone)));
            };
            match value.get_ref() {
                DeValue::Array(list)
                    if value
                        .get_ref()
                        .get(0)
                        .is_some_and(|v| v.get_ref().is_table()) =>
                {
                    for element in list {
                        let list = [element.clone()].into_iter().collect();
                        one(Spanned::new(element.span(), DeValue::Array(list)));
                    }
                }
                _ => one(value.clone()),
            }
        }
    }
    pieces
}

/// The key that stands at `at`, or whose value does.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<String> {
    let inside = |value: &Spanned<DeValue<'_>>, key: &str| match value.get_ref() {
        DeValue::Table(table) => key_at(table, at).map(|below| format!("{key}.{below}")),
        DeValue::Array(list) => list.iter().enumerate().find_map(|(i, element)| {
            let named = element
                .get_ref()
                .get("name")
                .and_then(|n| n.get_ref().as_str());
            let key = named.map_or_else(|| format!("{key}[{i}]"), |name| join(key, name));
            match element.get_ref() {
                DeValue::Table(table) => match key_at(table, at) {
                    Some(below) => Some(format!("{key}.{below}")),
                    None => element.span().contains(&at).then_some(key),
                },
                _ => None,
            }
        }),
        _ => None,
    };
    table.iter().find_map(|(name, value)| {
        let key = join("", name.get_ref());
        inside(value, &key)
            .or_else(|| (name.span().contains(&at) || value.span().contains(&at)).then_some(key))
    })
}

/// `line:column`, from 1.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default();
    format!("{line}:{}", column.chars().count() + 1)
}

/// What the library says, in our words, and what may have been meant.
pub(super) fn said(message: &str) -> String {
    let message = message.trim_end().replace('\n', " ");
    let meant =
        meant(&message).map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
    format!("{}{meant}", message.replacen("unknown field", UNKNOWN, 1))
}

/// What was meant by a name that is not known: one of those that are, or a key of another table.
fn meant(message: &str) -> Option<String> {
    let (what, allowed) = message.split_once(", expected ").unwrap_or((message, ""));
    let field = what.strip_prefix("unknown field `");
    let written = field.or_else(|| what.strip_prefix("unknown variant `"))?;
    let written = written.strip_suffix('`')?.to_ascii_lowercase();
    let near = allowed
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|known| (strsim::osa_distance(&written, known), known))
        .min()
        .filter(|(distance, _)| *distance <= (written.len() / 3).max(1));
    if let Some((_, known)) = near {
        return Some(known.to_owned());
    }
    field?;
    let elsewhere = keys().into_iter().find(|key| {
        let name = key.name.rsplit_once('.').map(|(_, name)| name);
        name == Some(&written)
    });
    elsewhere.map(|key| key.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let found = in_text("gateway.toml".as_ref(), text);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_mistake_is_told_with_its_place_and_key() {
        let text = "[upstream]\nconect_timeout = '5s'\nsilence = 5\npool_size = 3\n\n[[rate_limit.policy]]\nname = 'a'\nper = 'planet'\nrate = '1/1s'\n[[rate_limit.policy]]\nname = 'b'\nper = 'key'\n[api.keys]\nmine = 4\n[lmits]\nworkers = 1\n[tls]\nkeep_alive = '1s'\n";
        let expected = [
            "gateway.toml:2:1: upstream.conect_timeout: unknown key `conect_timeout`, expected one of",
            "gateway.toml:3:11: upstream.silence: invalid value: integer `5`, expected a whole number with a unit",
            "gateway.toml:8:7: rate_limit.policy.a.per: unknown variant `planet`, expected one of `key`, `client`, `key_and_client`, `global`",
            "gateway.toml:10:1: rate_limit.policy.b: missing field `rate`",
            "gateway.toml:14:8: api.keys.mine: expected text in quotes",
            "gateway.toml:15:2: lmits: unknown key `lmits`, expected one of",
            "gateway.toml:18:1: tls.keep_alive: unknown key `keep_alive`, expected one of",
        ];
        let found = mistakes(text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
        for (i, meant) in [
            (0, "connect_timeout"),
            (5, "limits"),
            (6, "timeouts.keep_alive"),
        ] {
            let end = format!("; did you mean `{meant}`?");
            assert!(found[i].ends_with(&end), "{}", found[i]);
        }
    }

    #[test]
    fn nothing_is_guessed_where_nothing_is_near() {
        for message in [
            "unknown field `zzz`, expected one of `url`, `base_path`",
            "unknown variant `loud`, expected one of `error`, `warn`",
            "invalid type: integer `5`, expected a boolean",
        ] {
            assert_eq!(meant(message), None, "{message}");
        }
        assert_eq!(
            meant("unknown variant `eror`, expected one of `error`, `warn`").as_deref(),
            Some("error")
        );
        assert_eq!(
            meant("unknown field `URL`, expected `url`").as_deref(),
            Some("url")
        );
    }

    #[test]
    fn what_is_no_toml_is_told_by_line() {
        let found = mistakes("[upstream]\nurl = \nsilence = '1s'\nnot toml\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("gateway.toml:2:"), "{found:?}");
        assert!(found[1].starts_with("gateway.toml:4:"), "{found:?}");
    }
}
