//! The key: who may use the API (contract section 0, "Authentication").

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::reject::Reject;

/// The accepted keys, as digests.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone, Debug)]
struct Key {
    name: Arc<str>,
    digest: [u8; SHA256_OUTPUT_LEN],
}

impl Keys {
    /// Takes `(name, key)` pairs. Empty keys must not come here: they would match an empty header.
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(
            keys.into_iter()
                .filter(|(_, key)| !key.is_empty())
                .map(|(name, key)| Key {
                    name: name.into(),
                    digest: sha256(key.as_bytes()),
                })
                .collect(),
        )
    }

    /// Whether there is any key: without one the API is closed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, in the order of the positions that [`Self::check`] gives.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|key| &key.name)
    }

    /// The name of the key at `position`.
    pub fn name(&self, position: usize) -> &Arc<str> {
        &self.0[position].name
    }

    /// The position of the key that the request carries.
    ///
    /// Digests are compared in constant time, each of them, so that the time taken tells neither
    /// how much of a key was right nor which key it was.
    pub fn check(&self, headers: &HeaderMap) -> Result<usize, Reject> {
        if self.0.is_empty() {
            return Err(Reject::ApiNotEnabled);
        }
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let given = lines.next();
        // First-wins here and last-wins at the backend would be two answers to one question.
        if lines.next().is_some() {
            return Err(Reject::DuplicateAuthorization);
        }
        let given = sha256(given.map_or(b"", |value| value.as_bytes()));
        let mut found = None;
        for (position, key) in self.0.iter().enumerate() {
            if verify_slices_are_equal(&key.digest, &given).is_ok() {
                found = Some(position);
            }
        }
        found.ok_or(Reject::InvalidApiKey)
    }
}

fn sha256(bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|v| (AUTHORIZATION, HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    #[test]
    fn no_key_configured_closes_the_api_for_everyone() {
        let keys = Keys::new([("rest_key", "")]);
        assert!(keys.is_empty());
        for headers in [with(&[]), with(&[""]), with(&["k"]), with(&["a", "b"])] {
            assert_eq!(keys.check(&headers), Err(Reject::ApiNotEnabled));
        }
    }

    #[test]
    fn only_the_exact_value_is_the_key() {
        let keys = Keys::new([("old", "K-old"), ("new", "K")]);
        assert_eq!(keys.check(&with(&["K"])), Ok(1));
        assert_eq!(keys.check(&with(&["K-old"])), Ok(0));
        for wrong in ["", "k", "K K", "K,K", "Bearer K", "KK", "K-ol"] {
            assert_eq!(
                keys.check(&with(&[wrong])),
                Err(Reject::InvalidApiKey),
                "{wrong:?}"
            );
        }
        assert_eq!(keys.check(&HeaderMap::new()), Err(Reject::InvalidApiKey));
    }

    #[test]
    fn two_authorization_lines_are_refused_whatever_they_hold() {
        let keys = Keys::new([("rest_key", "K")]);
        for pair in [["K", "K"], ["K", "x"], ["x", "K"]] {
            assert_eq!(
                keys.check(&with(&pair)),
                Err(Reject::DuplicateAuthorization)
            );
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert!(!format!("{:?}", Keys::new([("rest_key", "canary")])).contains("canary"));
    }

    /// A slope of one nanosecond a character would show: the whole key is 64 characters, a check
    /// takes some hundreds of nanoseconds, and the quickest of many rounds knows no noise.
    #[test]
    fn how_much_of_a_key_is_right_takes_no_time() {
        let right = "k".repeat(64);
        let keys = Keys::new([("a", &*right)]);
        let wrong: Vec<HeaderMap> = [0, 16, 32, 48, 63]
            .map(|n| format!("{}{}", "k".repeat(n), "x".repeat(64 - n)))
            .iter()
            .map(|value| {
                [(AUTHORIZATION, value.parse().unwrap())]
                    .into_iter()
                    .collect()
            })
            .collect();
        let mut quickest = [std::time::Duration::MAX; 5];
        for _ in 0..200 {
            for (headers, quickest) in wrong.iter().zip(&mut quickest) {
                let begun = std::time::Instant::now();
                for _ in 0..100 {
                    assert!(keys.check(std::hint::black_box(headers)).is_err());
                }
                *quickest = begun.elapsed().min(*quickest);
            }
        }
        let (least, most) = (
            quickest.iter().min().unwrap(),
            quickest.iter().max().unwrap(),
        );
        assert!(
            most.as_secs_f64() < least.as_secs_f64() * 1.15,
            "{quickest:?}"
        );
    }
}
