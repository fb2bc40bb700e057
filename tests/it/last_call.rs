//! A client that is about to send a request when the process leaves.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::{Backend, Gateway, Raw, eventually};

const REQUEST: &str = "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn a_quiet_connection_is_answered_once_more_and_told_that_this_was_the_last() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut kept = Raw::connect(&gateway).await;
    assert_eq!(kept.call(REQUEST).await.header("connection"), None);
    let (mut new, mut idle) = (Raw::connect(&gateway).await, Raw::connect(&gateway).await);
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    eventually("nobody new is accepted", async || {
        let refused = tokio::net::TcpStream::connect(gateway.listen).await;
        refused.is_err().then_some(())
    })
    .await;
    for client in [&mut kept, &mut new] {
        let last = client.call(REQUEST).await;
        assert_eq!(last.status, 200);
        assert_eq!(last.header("connection"), Some("close"));
        assert_eq!(client.rest().await, b"");
    }
    // One that says nothing is let go, long before the budget is over.
    assert_eq!(idle.rest().await, b"");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let ended = gateway.ended().await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.log.iter().any(|line| line.contains("\"cut\":0")));
}
