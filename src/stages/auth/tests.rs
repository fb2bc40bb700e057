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
