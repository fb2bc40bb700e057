//! `[api]`: where the REST API lies, its keys, and what becomes of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{self, LIVE};
use crate::config::secret::{self, Secret};
use crate::config::units::{Bytes, Day, OrOff};

/// `[api]`: the REST API and its keys.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where the API lies below the base endpoint.
    #[schemars(extend("x-applies" = LIVE))]
    pub path: String,
    /// Accepted keys, by name: as they are, or `sha256:` and the digest of one. `keys_file` and
    /// `REST_KEY` add to them. None at all: the API is closed.
    #[serde(deserialize_with = "secret::named")]
    #[schemars(extend("x-applies" = LIVE))]
    pub keys: BTreeMap<String, Secret>,
    /// A file with more of them, `name: value` a line. Empty or unreadable: it adds none.
    #[schemars(with = "OrOff<describe::File>", extend("x-applies" = LIVE))]
    pub keys_file: OrOff<PathBuf>,
    /// Until when keys are to be used, by name: the day from which on (UTC) there should be no call with
    /// one. It is accepted all the same, and told in `gateway_key_retire_timestamp_seconds`.
    #[schemars(extend("x-applies" = LIVE))]
    pub retire: BTreeMap<String, Day>,
    /// The key named `rest_key`; from the environment alone.
    #[serde(skip)]
    pub rest_key: RestKey,
    /// How a key may be given beside `Authorization: <key>`.
    #[schemars(extend("x-applies" = LIVE))]
    pub accept: Vec<Accept>,
    /// What the backend gets as `Authorization` of an API request.
    #[schemars(extend("x-applies" = LIVE))]
    pub forward_authorization: ForwardAuthorization,
    /// The backend's own key, where `forward_authorization = "replace"`.
    #[schemars(extend("x-applies" = LIVE))]
    pub upstream_key: Option<Secret>,
    /// A file with it, instead.
    #[schemars(with = "OrOff<describe::File>", extend("x-applies" = LIVE))]
    pub upstream_key_file: OrOff<PathBuf>,
    /// Largest body of an API request.
    #[schemars(extend("x-applies" = LIVE))]
    pub max_body: Bytes,
}

impl Api {
    /// The files that hold keys.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let own = match &self.rest_key {
            RestKey::File(file) => Some(file),
            RestKey::None | RestKey::Value(_) => None,
        };
        let named = [&self.keys_file, &self.upstream_key_file];
        named
            .into_iter()
            .filter_map(|file| match file {
                OrOff::On(file) => Some(file),
                OrOff::Off => None,
            })
            .chain(own)
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            path: "/api".into(),
            keys: BTreeMap::new(),
            keys_file: OrOff::Off,
            retire: BTreeMap::new(),
            rest_key: RestKey::None,
            accept: Vec::new(),
            forward_authorization: ForwardAuthorization::Keep,
            upstream_key: None,
            upstream_key_file: OrOff::Off,
            max_body: Bytes(64 << 10),
        }
    }
}

/// What the environment says of the service's own key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RestKey {
    /// Nothing, or an empty `REST_KEY`.
    #[default]
    None,
    /// `REST_KEY`
    Value(Secret),
    /// `REST_KEY_FILE`: where it stands. Empty or unreadable: there is none.
    File(PathBuf),
}

/// A form of giving a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// `Authorization: Bearer <key>`
    Bearer,
    /// `X-Api-Key: <key>`
    XApiKey,
}

/// What becomes of the key on the way to the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardAuthorization {
    /// The backend gets it as bare value: it may check the same key itself.
    #[default]
    Keep,
    /// The backend gets none.
    Strip,
    /// The backend gets its own, `upstream_key`.
    Replace,
}
