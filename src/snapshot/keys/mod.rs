//! The keys of the API, from everywhere they may be given: `[api.keys]`, the keys file, `REST_KEY`
//! or its file; and what the backend gets in their place.
//!
//! What is given and wrong is an error that says where it stands and nothing of what stands there.
//! A file that is empty or cannot be read gives no key and is told: without any key the API is
//! closed, while the pages and the sockets, which need none, go on.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{Api, ConfigError, ForwardAuthorization, RestKey, Secret, units::OrOff};
use crate::stages::auth::{Digest, Forward, Keys, sendable};

/// The name of the key that the environment gives.
const REST_KEY: &str = "rest_key";
/// Most characters of a name; it is a label of metrics and a field of the log.
const LONGEST_NAME: usize = 64;

/// What was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) keys: Keys,
    /// What was noticed that is no error, for the log.
    pub(super) notes: Vec<String>,
    /// When keys of these are to be used no more, Unix time.
    pub(super) retire: Vec<(Arc<str>, i64)>,
    /// Whether every file that is named could be read.
    pub(super) whole: bool,
}

/// Reads the keys that `api` names.
pub(super) fn read(api: &Api) -> Result<Read, ConfigError> {
    let mut found = Found::default();
    for (name, value) in &api.keys {
        let place = format!("api.keys.{name}");
        found.add(name, value.reveal(), place)?;
    }
    match &api.rest_key {
        RestKey::None => {}
        RestKey::Value(key) => found.add(REST_KEY, key.reveal(), "REST_KEY".into())?,
        RestKey::File(file) => {
            let what = named("REST_KEY_FILE", file);
            if let Some(key) = found.one_key(&what, file)? {
                found.add(REST_KEY, &key, what)?;
            }
        }
    }
    if let OrOff::On(file) = &api.keys_file {
        found.keys_of(file)?;
    }
    let forward = forward(api, &mut found)?.unwrap_or_else(|| {
        // Each call would be one that the backend refuses.
        found.keys.clear();
        Forward::Strip
    });
    let retire = retire(api, &mut found);
    Ok(Read {
        keys: Keys::new(found.keys(), &api.accept, forward),
        notes: found.notes,
        retire,
        whole: !found.unread,
    })
}

/// Those of `api.retire` that are keys. A name that is none is told and no error: the last step of
/// retiring a key is to take it out of the keys file.
fn retire(api: &Api, found: &mut Found) -> Vec<(Arc<str>, i64)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs() as i64);
    let mut retire = Vec::new();
    for (name, day) in &api.retire {
        match found.keys.iter().find(|key| *key.name == **name) {
            // Who cannot read the file does not know.
            None if found.unread => {}
            None => found.notes.push(format!(
                "api.retire names {name:?}, and no key has that name"
            )),
            Some(key) => {
                if day.begins() <= now {
                    found.notes.push(format!("the key {name:?} is accepted, although api.retire has it retired from {day} on: remove it when nobody uses it"));
                }
                retire.push((Arc::clone(&key.name), day.begins()));
            }
        }
    }
    retire
}

/// `None`: the backend's key cannot be read.
fn forward(api: &Api, found: &mut Found) -> Result<Option<Forward>, ConfigError> {
    const BOTH: &str =
        "api.upstream_key and api.upstream_key_file are both set: expected one of them";
    let own = match (&api.upstream_key, &api.upstream_key_file) {
        (Some(_), OrOff::On(_)) => return Err(ConfigError(BOTH.into())),
        (Some(key), OrOff::Off) => Some(Ok(key.reveal())),
        (None, OrOff::On(file)) => Some(Err(file)),
        (None, OrOff::Off) => None,
    };
    match (api.forward_authorization, own) {
        (ForwardAuthorization::Keep, None) => Ok(Some(Forward::Keep)),
        (ForwardAuthorization::Strip, None) => Ok(Some(Forward::Strip)),
        (ForwardAuthorization::Keep | ForwardAuthorization::Strip, Some(_)) => {
            Err(ConfigError(
                "the backend's own key is set, and api.forward_authorization does not send it: expected \"replace\"".into(),
            ))
        }
        (ForwardAuthorization::Replace, None) => Err(ConfigError(
            "api.forward_authorization = \"replace\": expected the backend's own key as api.upstream_key or in api.upstream_key_file".into(),
        )),
        (ForwardAuthorization::Replace, Some(Ok(key))) => {
            own_key("api.upstream_key", key).map(Some)
        }
        (ForwardAuthorization::Replace, Some(Err(file))) => {
            let what = named("api.upstream_key_file", file);
            let Some(key) = found.one_key(&what, file)? else {
                return Ok(None);
            };
            own_key(&what, &key).map(Some)
        }
    }
}

fn own_key(place: &str, key: &str) -> Result<Forward, ConfigError> {
    sendable(key).map_err(|allowed| wrong(place, allowed))?;
    if key.starts_with("sha256:") && Digest::written(key).is_ok() {
        return Err(wrong(place, "the key itself: a digest cannot be sent"));
    }
    Ok(Forward::Replace(Secret::new(key.to_owned())))
}

#[derive(Default)]
struct Found {
    keys: Vec<Named>,
    notes: Vec<String>,
    unread: bool,
}

struct Named {
    name: Arc<str>,
    digest: Digest,
    /// Where it was found, for errors.
    place: String,
}

impl Found {
    fn keys(&self) -> impl Iterator<Item = (Arc<str>, Digest)> {
        let keys = self.keys.iter();
        keys.map(|key| (Arc::clone(&key.name), key.digest))
    }

    fn add(&mut self, name: &str, value: &str, place: String) -> Result<(), ConfigError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
            let allowed = "a name of 1 to 64 letters, digits, _, - and .";
            return Err(wrong(&place, allowed));
        }
        let digest = Digest::written(value).map_err(|allowed| wrong(&place, allowed))?;
        for key in &self.keys {
            // Which of the two was meant, and which of them may go?
            if *key.name == *name {
                let allowed = format!("a name that {} has not", key.place);
                return Err(wrong(&place, allowed));
            }
            if key.digest.is(&digest) {
                let allowed = format!("another key than that of {}", key.place);
                return Err(wrong(&place, allowed));
            }
        }
        let name = name.into();
        self.keys.push(Named {
            name,
            digest,
            place,
        });
        Ok(())
    }

    /// The keys of a file of `name: value` lines.
    fn keys_of(&mut self, file: &Path) -> Result<(), ConfigError> {
        let what = named("api.keys_file", file);
        let Some(text) = self.text(&what, file)? else {
            return Ok(());
        };
        let before = self.keys.len();
        // Some editors begin a file with a mark of the byte order.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{}:{number}", file.display());
            let Some((name, value)) = line.split_once(':') else {
                return Err(wrong(&place, "name: value"));
            };
            self.add(name.trim_end(), value.trim_start(), place)?;
        }
        if self.keys.len() == before {
            self.notes.push(format!("{what} holds no key"));
        }
        Ok(())
    }

    /// The key that is all of a file; it may end with a line break.
    fn one_key(&mut self, what: &str, file: &Path) -> Result<Option<String>, ConfigError> {
        let Some(mut text) = self.text(what, file)? else {
            return Ok(None);
        };
        let line = text.strip_suffix('\n').unwrap_or(&text);
        text.truncate(line.strip_suffix('\r').unwrap_or(line).len());
        if text.is_empty() {
            self.notes.push(format!("{what} is empty"));
            return Ok(None);
        }
        Ok(Some(text))
    }

    /// The text of a file; `None`, and a note, when it cannot be read.
    fn text(&mut self, what: &str, file: &Path) -> Result<Option<String>, ConfigError> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::InvalidData => Err(wrong(what, "UTF-8 text")),
            Err(e) => {
                self.notes.push(format!("{what} cannot be read: {e}"));
                self.unread = true;
                Ok(None)
            }
        }
    }
}

fn named(key: &str, file: &Path) -> String {
    format!("{key} = {:?}", file.display().to_string())
}

fn wrong(place: &str, allowed: impl fmt::Display) -> ConfigError {
    ConfigError(format!("{place}: expected {allowed}"))
}
