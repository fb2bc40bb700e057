//! The day from which on an old key should not be used any more.

use rustix::process::Signal;

use super::commands::run;
use super::support::{Backend, Client, Folder, Gateway, Proto, until};

const LATEST: &str = "/cobrowsing/api/visitors/list/latest";
/// Unix time of a day that has come, and of one that has not.
const COME: (&str, f64) = ("2025-01-01", 1_735_689_600.0);
const TO_COME: (&str, f64) = ("2999-01-01", 32_472_144_000.0);

fn day(name: &str) -> String {
    format!("gateway_key_retire_timestamp_seconds{{key_id=\"{name}\"}}")
}

/// The text of the live page.
async fn page(gateway: &Gateway) -> String {
    gateway.ask("/").await.text()
}

#[tokio::test]
async fn a_key_has_a_day_from_which_on_its_use_is_told_and_it_is_accepted() {
    let backend = Backend::well();
    let keys = "old: canary-old\nolder: canary-older\nnew: canary-new\n";
    let gateway = Gateway::before(&backend)
        .without_key()
        .beside("keys", keys)
        .toml(&format!(
            "api.keys_file = 'keys'\nreload.watch = false\n[api.retire]\nold = '{}'\nolder = '{}'\ngone = '{}'",
            COME.0, TO_COME.0, COME.0
        ))
        .start()
        .await;
    assert_eq!(gateway.metric(&day("old")).await, COME.1);
    assert_eq!(gateway.metric(&day("older")).await, TO_COME.1);
    let metrics = gateway.metrics().await;
    // Neither a key without a day nor a name without a key.
    assert!(!metrics.contains(&day("new")) && !metrics.contains(&day("gone")));
    assert!(!page(&gateway).await.contains("is used after its day"));
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for key in ["canary-old", "canary-older", "canary-new"] {
        let reply = client
            .call("GET", LATEST, &[("authorization", key)], "")
            .await;
        assert_eq!(reply.status, 200, "{key}");
    }
    let shown = page(&gateway).await;
    assert!(
        shown.contains("The key old is used after its day"),
        "{shown}"
    );
    for quiet in ["The key older is", "The key new is", "canary"] {
        assert!(!shown.contains(quiet), "{quiet}: {shown}");
    }
    assert!(shown.contains("01 Jan 2999"), "{shown}");
    // Its last step: the key goes, its day may stay.
    gateway.folder.write("keys", "new: canary-new\n");
    gateway.signal(Signal::HUP);
    until("the reload", || gateway.events("reloaded").len() == 1).await;
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains("gateway_key_retire_timestamp_seconds{"));
    let reply = client
        .call("GET", LATEST, &[("authorization", "canary-old")], "")
        .await;
    assert_eq!(reply.status, 401);
}

#[test]
fn check_says_of_a_key_that_its_day_has_come_and_of_a_name_that_it_has_no_key() {
    let folder = Folder::new().with_certificate();
    let check = |retire: &str| {
        let common = "public.base_endpoint = 'https://localhost/'\ntls.certificate = 'cert.pem'\n\
            tls.key = 'cert.key'\n[api.keys]\nold = 'canary'\n[api.retire]\n";
        folder.write("gateway.toml", format!("{common}{retire}"));
        let ran = run(&folder, &["check"], &[]);
        assert!(!(ran.out.clone() + &ran.err).contains("canary"));
        ran
    };
    let said = |ran: &super::commands::Ran| ran.out.clone() + &ran.err;
    for (retire, told) in [
        (
            "old = '2025-01-01'",
            "the key \"old\" is accepted, although api.retire has it retired from 2025-01-01 on",
        ),
        (
            "odl = '2999-01-01'",
            "api.retire names \"odl\", and no key has that name",
        ),
    ] {
        let ran = check(retire);
        assert_eq!(ran.code, 0, "{}", said(&ran));
        assert!(said(&ran).contains(told), "{}", said(&ran));
    }
    let ran = check("old = '2999-01-01'");
    assert!(!said(&ran).contains("api.retire"), "{}", said(&ran));
    for wrong in ["'soon'", "'2026-02-30'", "2026", "'31.12.2026'"] {
        let ran = check(&format!("old = {wrong}"));
        assert_eq!(ran.code, 1, "{wrong}");
        let told = said(&ran);
        assert!(
            told.contains("api.retire.old") && told.contains("a day as year, month and day"),
            "{wrong}: {told}"
        );
    }
}
