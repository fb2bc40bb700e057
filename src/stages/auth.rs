//! The key: who may use the API (contract section 0, "Authentication"), and what the backend gets
//! in its place.

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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn keys(keys: &[(&'static str, &str)], accept: &[Accept], forward: Forward) -> Keys {
        let keys = keys.iter();
        Keys::new(
            keys.map(|(name, key)| (*name, Digest::written(key).unwrap())),
            accept,
            forward,
        )
    }

    fn lines(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn with(values: &[&str]) -> HeaderMap {
        let values: Vec<_> = values.iter().map(|v| (AUTHORIZATION, *v)).collect();
        lines(&values)
    }

    fn checked(keys: &Keys, headers: &HeaderMap) -> Result<(usize, Option<String>), Reject> {
        keys.check(headers).map(|admitted| {
            let forwarded = admitted
                .forwarded
                .map(|f| String::from_utf8_lossy(f).into());
            (admitted.key, forwarded)
        })
    }

    #[test]
    fn no_key_configured_closes_the_api_for_everyone() {
        let none = keys(&[], &[Accept::Bearer, Accept::XApiKey], Forward::Keep);
        assert!(none.is_empty());
        for headers in [with(&[]), with(&[""]), with(&["k"]), with(&["a", "b"])] {
            assert_eq!(checked(&none, &headers), Err(Reject::ApiNotEnabled));
        }
        assert!(!none.is_key(b"") && none.backend_admits(Some(b"")).is_none());
    }

    #[test]
    fn only_the_exact_value_is_the_key() {
        let keys = keys(&[("old", "K-old"), ("new", "K")], &[], Forward::Keep);
        for (key, position) in [("K", 1), ("K-old", 0)] {
            assert_eq!(
                checked(&keys, &with(&[key])),
                Ok((position, Some(key.into())))
            );
        }
        for wrong in ["", "k", "K K", "K,K", "Bearer K", "KK", "K-ol"] {
            assert_eq!(
                checked(&keys, &with(&[wrong])),
                Err(Reject::InvalidApiKey),
                "{wrong:?}"
            );
        }
        for headers in [HeaderMap::new(), lines(&[(X_API_KEY, "K")])] {
            assert_eq!(checked(&keys, &headers), Err(Reject::InvalidApiKey));
        }
    }

    #[test]
    fn a_key_that_begins_like_a_scheme_is_a_key_and_behind_a_scheme_stands_another() {
        let keys = keys(
            &[("a", "Bearer K"), ("b", "K"), ("c", "Basic K")],
            &[Accept::Bearer],
            Forward::Keep,
        );
        for (given, position, bare) in [
            ("Bearer K", 0, "Bearer K"),
            ("bEARER K", 1, "K"),
            ("Bearer   K", 1, "K"),
            ("Bearer Bearer K", 0, "Bearer K"),
            ("Basic K", 2, "Basic K"),
            ("Bearer Basic K", 2, "Basic K"),
        ] {
            let expected = Ok((position, Some(bare.into())));
            assert_eq!(checked(&keys, &with(&[given])), expected, "{given}");
        }
        for wrong in [
            "Bearer",
            "Bearer ",
            "BearerK",
            "Bearer\tK",
            "Bearer k",
            "Token K",
        ] {
            assert_eq!(
                checked(&keys, &with(&[wrong])),
                Err(Reject::InvalidApiKey),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_key_given_twice_is_refused_whatever_is_given() {
        let bare = keys(&[("rest_key", "K")], &[], Forward::Keep);
        let both = keys(
            &[("rest_key", "K")],
            &[Accept::XApiKey, Accept::Bearer],
            Forward::Keep,
        );
        for pair in [["K", "K"], ["K", "x"], ["x", "K"], ["Bearer K", ""]] {
            for keys in [&bare, &both] {
                assert_eq!(
                    checked(keys, &with(&pair)),
                    Err(Reject::DuplicateAuthorization)
                );
            }
            for names in [[AUTHORIZATION, X_API_KEY], [X_API_KEY, X_API_KEY]] {
                let [first, second] = names;
                let headers = lines(&[(first, pair[0]), (second, pair[1])]);
                assert_eq!(
                    checked(&both, &headers),
                    Err(Reject::DuplicateAuthorization)
                );
            }
        }
        // Where the other form is none, it says nothing.
        let headers = lines(&[(AUTHORIZATION, "K"), (X_API_KEY, "x")]);
        assert_eq!(checked(&bare, &headers), Ok((0, Some("K".into()))));
        // A scheme belongs to `Authorization` alone.
        let headers = lines(&[(X_API_KEY, "Bearer K")]);
        assert_eq!(checked(&both, &headers), Err(Reject::InvalidApiKey));
    }

    #[test]
    fn the_backend_gets_the_key_or_none_or_its_own() {
        let forms = [
            with(&["K"]),
            with(&["Bearer K"]),
            lines(&[(X_API_KEY, "K")]),
        ];
        let own = || Forward::Replace(Secret::new("own".into()));
        for (forward, forwarded) in [
            (Forward::Keep, Some("K")),
            (Forward::Strip, None),
            (own(), Some("own")),
        ] {
            let keys = keys(&[("a", "K")], &[Accept::Bearer, Accept::XApiKey], forward);
            for headers in &forms {
                let expected = Ok((0, forwarded.map(str::to_owned)));
                assert_eq!(checked(&keys, headers), expected);
                // And it takes what it gets.
                let gets = forwarded.map(str::as_bytes);
                assert_eq!(keys.backend_admits(gets), Some(true));
            }
        }
        for forward in [Forward::Keep, own()] {
            let keys = keys(&[("a", "K")], &[], forward);
            for wrong in [None, Some(&b""[..]), Some(b"Bearer K"), Some(b"k")] {
                assert_eq!(keys.backend_admits(wrong), Some(false));
            }
        }
    }

    /// `printf %s second | sha256sum`
    const SECOND: &str = "sha256:16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4";

    #[test]
    fn a_digest_stands_for_its_key_and_is_no_key_itself() {
        let upper = SECOND.to_uppercase().replace("SHA256", "sha256");
        for written in [SECOND, &*upper] {
            let keys = keys(&[("a", written)], &[], Forward::Keep);
            let expected = Ok((0, Some("second".into())));
            assert_eq!(checked(&keys, &with(&["second"])), expected);
            for wrong in [written, &written["sha256:".len()..], "Second"] {
                assert_eq!(checked(&keys, &with(&[wrong])), Err(Reject::InvalidApiKey));
            }
        }
        let [a, b] = [SECOND, "second"].map(|value| Digest::written(value).unwrap());
        assert!(a.is(&b));
    }

    #[test]
    fn what_could_never_arrive_is_no_key() {
        let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let long = "k".repeat(LONGEST + 1);
        for (wrong, allowed) in [
            ("", "a key"),
            (" k", "visible ASCII"),
            ("k\t", "visible ASCII"),
            ("k\nk", "visible ASCII"),
            ("ключ", "visible ASCII"),
            (&*long, "at most 4096"),
            ("sha256:", "64 hexadecimal digits"),
            ("sha256:k", "64 hexadecimal digits"),
            (&SECOND[..SECOND.len() - 1], "64 hexadecimal digits"),
            (&SECOND.replace('7', "+"), "64 hexadecimal digits"),
            (&SECOND.replace('7', "g"), "64 hexadecimal digits"),
            (nothing, "not of nothing"),
        ] {
            let why = Digest::written(wrong).unwrap_err();
            assert!(why.contains(allowed), "{wrong}: {why}");
        }
        let longest = "k".repeat(LONGEST);
        let keys = keys(&[("a", &longest)], &[], Forward::Keep);
        assert!(keys.is_key(longest.as_bytes()));
        // A digest does not tell how long its key is; what is too long is not looked at.
        let digest = Digest::of(long.as_bytes());
        let keys = Keys::new([("a", digest)], &[], Forward::Keep);
        assert!(!keys.is_key(long.as_bytes()));
    }

    #[test]
    fn a_key_is_known_wherever_it_stands() {
        let keys = keys(&[("a", "K"), ("b", SECOND)], &[], Forward::Keep);
        for known in ["K", "second", "Bearer K", "bearer  second"] {
            assert!(keys.is_key(known.as_bytes()), "{known}");
        }
        for other in ["", "k", "Basic K", "Bearer", "Bearer k", "Bearer Bearer K"] {
            assert!(!keys.is_key(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let own = Forward::Replace(Secret::new("canary".into()));
        let shown = format!("{:?}", keys(&[("rest_key", "canary")], &[], own));
        assert!(!shown.contains("canary"), "{shown}");
    }

    /// A slope of one nanosecond a character would show: the whole key is 64 characters, a check
    /// takes some hundreds of nanoseconds, and the quickest of many rounds knows no noise.
    #[test]
    fn how_much_of_a_key_is_right_takes_no_time() {
        let right = "k".repeat(64);
        let keys = keys(&[("a", &*right)], &[], Forward::Keep);
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
        // A million comparisons.
        for _ in 0..2000 {
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
