//! Answers that take long for other reasons than too many requests: nobody is refused for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::support::{Backend, Client, Gateway, Proto, Raw, ok, within};

const LIMIT: &str = "gateway_upstream_inflight_limit";
const REJECTED: &str = "gateway_rejected_requests_total{reason=\"overloaded\"}";

/// A backend that answers each request after so many milliseconds, however many there are.
fn taking(milliseconds: u64) -> (Backend, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(milliseconds));
    let told = Arc::clone(&time);
    let backend = Backend::new(move |conn| {
        while conn.request().is_some() {
            // That it takes time is its subject.
            std::thread::sleep(Duration::from_millis(told.load(Ordering::Relaxed)));
            if !conn.say(ok("{}").as_bytes()) {
                return;
            }
        }
    });
    (backend, time)
}

/// So many clients, all with one address, that each send so many requests in turn; the statuses.
async fn ask(gateway: &Gateway, clients: usize, times: usize) -> Vec<u16> {
    let to = gateway.listen;
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect_to(to, Proto::H1).await.unwrap();
                let mut statuses = Vec::new();
                for _ in 0..times {
                    statuses.push(client.get("/cobrowsing/x").await.status.as_u16());
                }
                statuses
            })
        })
        .collect();
    let mut statuses = Vec::new();
    for client in clients {
        statuses.extend(within(client).await.unwrap());
    }
    statuses
}

#[tokio::test]
async fn a_backend_whose_every_answer_takes_six_seconds_is_never_shed() {
    let (backend, _) = taking(6_000);
    // More at a time than are never too many.
    let gateway = Gateway::before(&backend)
        .toml("overload.least = 4")
        .start()
        .await;
    assert_eq!(ask(&gateway, 24, 1).await, [200; 24]);
    // Clients that do not wait for it are no sign of load where others have their answers.
    let mut impatient = Vec::new();
    for n in 1..=12 {
        let mut raw = Raw::connect(&gateway).await;
        raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        backend.until_requests(24 + n).await;
        impatient.push(raw);
    }
    // That they have waited is the subject: who leaves at once tells nothing.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(impatient);
    assert_eq!(ask(&gateway, 24, 1).await, [200; 24]);
    assert_eq!(gateway.metric(LIMIT).await, 10_000.0);
    assert_eq!(gateway.metric(REJECTED).await, 0.0);
}

#[tokio::test]
async fn a_stall_while_few_requests_are_in_flight_refuses_none_of_them() {
    let (backend, time) = taking(2);
    let gateway = Gateway::before(&backend).start().await;
    assert_eq!(ask(&gateway, 30, 10).await, [200; 300]);
    time.store(400, Ordering::Relaxed);
    // As a page with all its parts: 30 at a time, of one client.
    assert_eq!(ask(&gateway, 30, 6).await, [200; 180]);
    assert_eq!(gateway.metric(LIMIT).await, 10_000.0);
    assert_eq!(gateway.metric(REJECTED).await, 0.0);
}
