//! Who asks for a reload waits for nothing else: `systemctl reload` right after a file was changed.

use rustix::process::Signal;

use super::support::{Backend, Client, Gateway, Proto, until};

#[tokio::test]
async fn sighup_ends_the_wait_for_more_changes() {
    let backend = Backend::well();
    // No test lives as long as this one would wait.
    let setup = Gateway::before(&backend)
        .toml("reload.settle = '1h'\nreload.poll = 'off'")
        .without_key();
    let gateway = setup.clone().start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    // The watch may tell of a change before or after the signal comes: in more than one round it has.
    for round in 1..=5 {
        let key = format!("K{round}");
        let keyed = setup
            .clone()
            .toml(&format!("api.keys = {{ it = '{key}' }}"));
        gateway.folder.write("gateway.toml", keyed.file());
        gateway.signal(Signal::HUP);
        until("the reload that was asked for", || {
            gateway.events("reloaded").len() == round
        })
        .await;
        let headers = [("authorization", key.as_str())];
        let reply = client.call("GET", "/cobrowsing/api/x", &headers, "").await;
        assert_eq!(reply.status, 200, "{round}");
    }
}
