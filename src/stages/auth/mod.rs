//! The key: who may use the API (contract section 0, "Authentication"), and what the backend gets
//! in its place.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use crate::config::{Accept, Secret};
use crate::reject::Reject;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Most bytes of a key. What is longer is none, and is not hashed to find that out.
const LONGEST: usize = 4096;

/// A key as its SHA-256: how keys are kept and compared.
#[derive(Clone, Copy)]
pub struct Digest([u8; SHA256_OUTPUT_LEN]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Digest {
    fn of(key: &[u8]) -> Self {
        let mut out = [0; SHA256_OUTPUT_LEN];
        out.copy_from_slice(digest(&SHA256, key).as_ref());
        Self(out)
    }

    /// Of a key as the configuration has it: the key itself, or `sha256:` and its digest in
    /// hexadecimal. The error says what is allowed and nothing of the value.
    pub fn written(value: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "sha256: and the 64 hexadecimal digits of a key's SHA-256";
        let Some(hex) = value.strip_prefix("sha256:") else {
            return sendable(value).map(|()| Self::of(value.as_bytes()));
        };
        if hex.len() != 2 * SHA256_OUTPUT_LEN {
            return Err(SHAPE);
        }
        let mut out = [0; SHA256_OUTPUT_LEN];
        for (byte, pair) in out.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(SHAPE);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        let this = Self(out);
        // It would let in who sends an empty header, and who sends none.
        if this.is(&Self::of(b"")) {
            return Err("the SHA-256 of a key, not of nothing");
        }
        Ok(this)
    }

    /// Whether both are of one key, in a time that does not tell how nearly.
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// Whether a key could arrive as the value of a header. The error says what is allowed.
pub fn sendable(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("a key; an empty one is none");
    }
    if key.len() > LONGEST {
        return Err("at most 4096 characters");
    }
    if key.trim() != key || !key.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return Err("visible ASCII characters without leading or trailing spaces");
    }
    Ok(())
}

/// What the backend gets as `Authorization` of an API request.
#[derive(Clone, Debug)]
pub enum Forward {
    /// The key that was given, bare.
    Keep,
    /// None.
    Strip,
    /// This.
    Replace(Secret),
}

/// The accepted keys and how they may be given.
#[derive(Clone, Debug)]
pub struct Keys {
    keys: Vec<Key>,
    bearer: bool,
    x_api_key: bool,
    forward: Forward,
}

#[derive(Clone, Debug)]
struct Key {
    name: Arc<str>,
    digest: Digest,
}

/// A request with a right key.
#[derive(Clone, Copy)]
pub struct Admitted<'a> {
    /// The key's position.
    pub key: usize,
    /// The `Authorization` that the backend gets, if any.
    pub forwarded: Option<&'a [u8]>,
}

impl Keys {
    /// Takes keys by name, how they may be given beside `Authorization: <key>`, and what becomes of
    /// them.
    pub fn new<N: Into<Arc<str>>>(
        keys: impl IntoIterator<Item = (N, Digest)>,
        accept: &[Accept],
        forward: Forward,
    ) -> Self {
        let keys = keys.into_iter().map(|(name, digest)| Key {
            name: name.into(),
            digest,
        });
        Self {
            keys: keys.collect(),
            bearer: accept.contains(&Accept::Bearer),
            x_api_key: accept.contains(&Accept::XApiKey),
            forward,
        }
    }

    /// Whether there is any key: without one the API is closed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The names, in the order of the positions that [`Self::check`] gives.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.keys.iter().map(|key| &key.name)
    }

    /// The name of the key at `position`.
    pub fn name(&self, position: usize) -> &Arc<str> {
        &self.keys[position].name
    }

    /// Judges the key that an API request carries, and says what the backend gets in its place.
    pub fn check<'a>(&'a self, headers: &'a HeaderMap) -> Result<Admitted<'a>, Reject> {
        if self.keys.is_empty() {
            return Err(Reject::ApiNotEnabled);
        }
        let bare = headers.get_all(AUTHORIZATION).iter();
        let bare = bare.map(|value| (value.as_bytes(), self.bearer));
        let other = self.x_api_key.then(|| headers.get_all(X_API_KEY));
        let other = other.into_iter().flatten();
        let mut lines = bare.chain(other.map(|value| (value.as_bytes(), false)));
        let (given, may_have_scheme) = lines.next().unwrap_or_default();
        // First-wins here and last-wins at the backend would be two answers to one question.
        if lines.next().is_some() {
            return Err(Reject::DuplicateAuthorization);
        }
        let behind_scheme = || {
            let key = after_bearer(given).filter(|_| may_have_scheme)?;
            Some((self.position(key)?, key))
        };
        let found = self.position(given).map(|position| (position, given));
        let (key, given) = found.or_else(behind_scheme).ok_or(Reject::InvalidApiKey)?;
        let forwarded = match &self.forward {
            Forward::Keep => Some(given),
            Forward::Strip => None,
            Forward::Replace(own) => Some(own.reveal().as_bytes()),
        };
        Ok(Admitted { key, forwarded })
    }

    /// Whether a header's value is one of the keys, bare or behind `Bearer`, accepted so or not:
    /// then it must not travel to where no key belongs.
    pub fn is_key(&self, value: &[u8]) -> bool {
        let is = |value| self.position(value).is_some();
        is(value) || after_bearer(value).is_some_and(is)
    }

    /// Whether a backend that has the keys from here admits this `Authorization`; `None`: its API
    /// is closed.
    pub fn backend_admits(&self, authorization: Option<&[u8]>) -> Option<bool> {
        if self.keys.is_empty() {
            return None;
        }
        let given = authorization.unwrap_or_default();
        Some(match &self.forward {
            Forward::Keep => self.position(given).is_some(),
            // What comes without a key was judged before.
            Forward::Strip => true,
            Forward::Replace(own) => Digest::of(own.reveal().as_bytes()).is(&Digest::of(given)),
        })
    }

    /// The position of a key.
    ///
    /// Digests are compared in constant time, each of them, so that the time taken tells neither
    /// how much of a key was right nor which key it was.
    fn position(&self, key: &[u8]) -> Option<usize> {
        if self.keys.is_empty() || key.len() > LONGEST {
            return None;
        }
        let given = Digest::of(key);
        let mut found = None;
        for (position, key) in self.keys.iter().enumerate() {
            if key.digest.is(&given) {
                found = Some(position);
            }
        }
        found
    }
}

/// What stands behind `Bearer` and its spaces (RFC 9110 section 11.4: the scheme in any case).
fn after_bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"bearer".len())?;
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    (spaces > 0 && scheme.eq_ignore_ascii_case(b"bearer")).then(|| &rest[spaces..])
}
