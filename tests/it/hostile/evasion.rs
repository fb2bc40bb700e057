//! Ways around a limit (the record's section 3.8): however a request is sent, it is counted in one
//! bucket.

use super::{Field, Sent, WITH_KEY, Way, get, send};
use crate::support::{Backend, Client, Gateway, Proto};

const LIST: &[u8] = b"/cobrowsing/api/visitors/list/latest";

/// As many different ways to say the same as there are, each with other headers.
fn ways() -> Vec<(Way, Sent<'static>)> {
    const FIELDS: [&[Field]; 14] = [
        &[],
        &[(b"x-forwarded-for", b"203.0.113.1")],
        &[(b"x-forwarded-for", b"203.0.113.2, 127.0.0.9")],
        &[(b"x_forwarded_for", b"203.0.113.3")],
        &[(b"x.forwarded.for", b"203.0.113.4")],
        &[(b"forwarded", b"for=203.0.113.5")],
        &[(b"x-real-ip", b"203.0.113.6")],
        &[(b"true-client-ip", b"203.0.113.7")],
        &[(b"x-client-ip", b"203.0.113.8")],
        &[(b"cf-connecting-ip", b"203.0.113.9")],
        &[(b"x-request-id", b"another")],
        &[(b"user-agent", b"another")],
        &[(b"x-http-method-override", b"GET")],
        &[(b"cookie", b"session=another")],
    ];
    const TARGETS: [&[u8]; 10] = [
        LIST,
        b"/cobrowsing/api/visitors/list/latest/",
        b"/cobrowsing/api/visitors/list/latest?x=1",
        b"/cobrowsing/API/visitors/list/latest",
        b"/cobrowsing/aPi/visitors/LIST/latest",
        b"/cobrowsing/%61pi/visitors/list/latest",
        b"//cobrowsing//api//visitors",
        b"/cobrowsing/x/../api/visitors",
        b"/cobrowsing/api",
        b"/cobrowsing/api./visitors",
    ];
    let mut ways = Vec::new();
    for way in Way::ALL {
        ways.extend(FIELDS.map(|fields| (way, get(LIST, fields))));
        ways.extend(TARGETS.map(|target| (way, get(target, &[]))));
        for host in [&b"LOCALHOST"[..], b"localhost:8443"] {
            ways.push((
                way,
                Sent {
                    host,
                    ..get(LIST, &[])
                },
            ));
        }
    }
    for way in [Way::H1, Way::H2] {
        for method in [&b"POST"[..], b"OPTIONS", b"DELETE", b"get"] {
            ways.push((
                way,
                Sent {
                    method,
                    ..get(LIST, &[])
                },
            ));
        }
    }
    ways.push((
        Way::H2,
        Sent {
            method: b"HEAD",
            ..get(LIST, &[])
        },
    ));
    ways
}

fn policy(matches: &str, per: &str) -> String {
    format!(
        "[[rate_limit.policy]]\nname = 'tests'\nmatch = '{matches}'\nper = '{per}'\nrate = '3/24h'"
    )
}

/// Uses a bucket up, and then tries every way to have another; `with`: what each request carries.
async fn hold(matches: &str, per: &str, with: &[Field<'_>]) {
    let backend = Backend::upgrades_and_echoes_messages();
    let setup = Gateway::before(&backend).toml(&policy(matches, per));
    let gateway = setup.start().await;
    for _ in 0..3 {
        let status = send(&gateway, Way::H1, &get(LIST, with)).await.status;
        assert_ne!(status, Some(429));
    }
    backend.forget();
    for (way, sent) in ways() {
        let fields = [sent.fields, with].concat();
        // A connection of its own for each.
        let outcome = send(
            &gateway,
            way,
            &Sent {
                fields: &fields,
                ..sent
            },
        )
        .await;
        assert_eq!(
            outcome.status,
            Some(429),
            "3.8 {matches} {per} {way:?} {} {:?}",
            sent.target.escape_ascii(),
            sent.fields
        );
    }
    assert_eq!(backend.bytes(), b"", "3.8");
    // What is no API is not concerned.
    let page = send(&gateway, Way::H1, &get(b"/cobrowsing/x", with)).await;
    assert_eq!(page.status, Some(200));
}

#[tokio::test]
async fn who_guesses_has_one_bucket_however_the_guesses_are_sent() {
    hold("failed_auth", "client", &[(b"authorization", b"wrong")]).await;
}

#[tokio::test]
async fn a_key_has_one_bucket_however_its_requests_are_sent() {
    hold("api", "key", &[WITH_KEY]).await;
}

#[tokio::test]
async fn a_client_has_one_bucket_however_its_requests_are_sent() {
    hold("api", "client", &[WITH_KEY]).await;
}

#[tokio::test]
async fn refusals_take_no_tokens() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend)
        .toml("[[rate_limit.policy]]\nname = 'tests'\nper = 'client'\nrate = '2/1s'\nburst = 1");
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(client.api("GET", "/cobrowsing/api/x", "").await.status, 200);
    // If each of them took one, none would be there when Retry-After is over.
    let begun = std::time::Instant::now();
    let mut refused = 0;
    while client.api("GET", "/cobrowsing/api/x", "").await.status == 429 {
        refused += 1;
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "3.8");
    }
    assert!(refused > 2, "3.8 {refused}");
}
