//! Signed tokens: who made them and for what, without a table of them.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest token looked at, in bytes: well above the longest one made.
const MAX_BYTES: usize = 16 * 1024;

/// What a token is good for. It is part of what is signed, so that a visitor's own token never
/// opens a screen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// An agent may watch one visitor.
    Watch,
    /// A browser is the visitor it was before.
    Resume,
}

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    /// Seconds since 1970; not valid from then on.
    expires: u64,
    grant: T,
}

/// Makes and checks tokens: `base64url(JSON) "." base64url(HMAC-SHA256)`.
pub(super) struct Signer {
    key: hmac::Key,
}

impl Signer {
    /// `secret`: `None` takes a random one, and its tokens end with the process.
    pub(super) fn new(secret: Option<&str>) -> std::io::Result<Self> {
        let key = match secret {
            Some(secret) => hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            None => hmac::Key::new(hmac::HMAC_SHA256, &random_bytes::<32>()?),
        };
        Ok(Self { key })
    }

    /// Signs `grant` for `purpose`, valid for `ttl` from `now` on.
    pub(super) fn seal<T: Serialize>(
        &self,
        purpose: Purpose,
        grant: T,
        now: SystemTime,
        ttl: Duration,
    ) -> std::io::Result<String> {
        let expires = unix_seconds(now).saturating_add(ttl.as_secs());
        let payload = serde_json::to_vec(&Sealed { expires, grant })?;
        let tag = hmac::sign(&self.key, &signed_part(purpose, &payload));
        Ok(format!(
            "{}.{}",
            BASE64.encode(&payload),
            BASE64.encode(tag.as_ref())
        ))
    }

    /// The grant of a token made by this signer for `purpose` and not yet expired. Why a token
    /// was refused is of no use to anyone but a forger, so it is not told.
    pub(super) fn open<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        token: &str,
        now: SystemTime,
    ) -> Option<T> {
        if token.len() > MAX_BYTES {
            return None;
        }
        let (payload, tag) = token.split_once('.')?;
        let payload = BASE64.decode(payload).ok()?;
        let tag = BASE64.decode(tag).ok()?;
        // Compares in constant time; nothing of the payload is read before.
        hmac::verify(&self.key, &signed_part(purpose, &payload), &tag).ok()?;
        let sealed: Sealed<T> = serde_json::from_slice(&payload).ok()?;
        (unix_seconds(now) < sealed.expires).then_some(sealed.grant)
    }
}

fn signed_part(purpose: Purpose, payload: &[u8]) -> Vec<u8> {
    let purpose: &[u8] = match purpose {
        Purpose::Watch => b"watch\0",
        Purpose::Resume => b"resume\0",
    };
    [purpose, payload].concat()
}

fn unix_seconds(time: SystemTime) -> u64 {
    // A clock before 1970 counts as 1970: tokens then live too long by hours nobody lived through.
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Random bytes fit for secrets.
pub(super) fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|rand_error| std::io::Error::other(format!("no random bytes: {rand_error}")))?;
    Ok(bytes)
}

/// A nonce: 96 random bits as text.
pub(super) fn nonce() -> std::io::Result<String> {
    Ok(BASE64.encode(random_bytes::<12>()?))
}

/// A new short id: 8 characters out of `A-Z0-9`, 41 bits.
pub(super) fn short_id() -> std::io::Result<String> {
    const ALPHABET: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut id = String::with_capacity(8);
    while id.len() < 8 {
        for byte in random_bytes::<16>()? {
            // 252 is the last multiple of 36: a remainder of the rest would favour early letters.
            if byte < 252 && id.len() < 8 {
                id.push(char::from(ALPHABET[usize::from(byte % 36)]));
            }
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::super::grant::ResumeGrant;
    use super::*;

    const SECRET: &str = "an-example-secret-of-32-characters";
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const TTL: Duration = Duration::from_secs(600);

    fn token(signer: &Signer) -> String {
        let grant = ResumeGrant {
            short_id: "ABCD1234".into(),
        };
        signer.seal(Purpose::Resume, grant, NOW, TTL).unwrap()
    }

    fn opens(signer: &Signer, token: &str, now: SystemTime) -> bool {
        signer
            .open::<ResumeGrant>(Purpose::Resume, token, now)
            .is_some()
    }

    #[test]
    fn a_token_opens_until_it_expires() {
        let signer = Signer::new(Some(SECRET)).unwrap();
        let token = token(&signer);
        assert!(opens(&signer, &token, NOW));
        assert!(opens(&signer, &token, NOW + TTL - Duration::from_secs(1)));
        assert!(!opens(&signer, &token, NOW + TTL));
    }

    #[test]
    fn a_token_with_any_one_character_changed_is_refused() {
        let signer = Signer::new(Some(SECRET)).unwrap();
        let token = token(&signer);
        for place in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(!opens(&signer, &forged, NOW), "character {place}");
        }
    }

    #[test]
    fn a_token_of_another_key_or_purpose_is_refused() {
        let signer = Signer::new(Some(SECRET)).unwrap();
        let token = token(&signer);
        assert!(!opens(&Signer::new(None).unwrap(), &token, NOW));
        let other = signer.open::<ResumeGrant>(Purpose::Watch, &token, NOW);
        assert!(other.is_none());
    }

    #[test]
    fn things_that_are_not_tokens_are_refused() {
        let signer = Signer::new(Some(SECRET)).unwrap();
        let token = token(&signer);
        let (payload, tag) = token.split_once('.').unwrap();
        for not_a_token in [
            "",
            ".",
            "..",
            payload,
            tag,
            &format!("{payload}."),
            &format!(".{tag}"),
            &format!("{token}.{tag}"),
            &format!("{token}="),
            &"A".repeat(MAX_BYTES + 1),
        ] {
            assert!(!opens(&signer, not_a_token, NOW));
        }
    }

    #[test]
    fn short_ids_are_eight_letters_and_digits() {
        for _ in 0..100 {
            let id = short_id().unwrap();
            assert_eq!(id.len(), 8);
            assert!(
                id.bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            );
        }
    }
}
