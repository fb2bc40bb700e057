//! Who guesses keys is slowed down before it costs anything.

use tokio::net::{TcpSocket, TcpStream};

use super::support::{Backend, Client, Gateway, KEY, Proto, Setup, eventually, websocket};

const LATEST: &str = "/cobrowsing/api/visitors/list/latest";

fn policy(rate: &str, more: &str) -> String {
    format!(
        "[[rate_limit.policy]]\nname = 'guesses'\nmatch = 'failed_auth'\nper = 'client'\nrate = '{rate}'\n{more}"
    )
}

fn before(backend: &Backend, rate: &str, more: &str) -> Setup {
    Gateway::before(backend).toml(&policy(rate, more))
}

async fn counted(gateway: &Gateway, enforced: bool) -> (f64, f64) {
    let series = |result: &str| {
        format!(
            "gateway_ratelimit_total{{enforced=\"{enforced}\",policy=\"guesses\",result=\"{result}\"}}"
        )
    };
    (
        gateway.metric(&series("admitted")).await,
        gateway.metric(&series("limited")).await,
    )
}

#[tokio::test]
async fn after_too_many_wrong_keys_not_even_the_right_one_is_heard() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = before(&backend, "4/1h", "").start().await;
    let mut h1 = Client::connect(&gateway, Proto::H1).await;
    let mut h2 = Client::connect(&gateway, Proto::H2).await;
    // Right keys take nothing; each way to fail does.
    for _ in 0..10 {
        assert_eq!(h1.api("GET", LATEST, "").await.status, 200);
    }
    assert_eq!(h1.get(LATEST).await.error(), "invalid_api_key");
    let wrong = [("authorization", "wrong")];
    assert_eq!(h2.call("HEAD", LATEST, &wrong, "").await.status, 401);
    let twice = [("authorization", KEY), ("authorization", KEY)];
    let reply = h1.call("GET", LATEST, &twice, "").await;
    assert_eq!(reply.error(), "duplicate_authorization");
    let socket = websocket(&gateway, "/cobrowsing/api/socket", &wrong).await;
    assert!(socket.unwrap_err().to_string().contains("401"));
    backend.forget();
    for client in [&mut h1, &mut h2] {
        for key in [KEY, "wrong", ""] {
            let headers = [("authorization", key)];
            let reply = client.call("GET", LATEST, &headers, "").await;
            assert_eq!(
                (reply.status.as_u16(), &*reply.error()),
                (429, "rate_limited"),
                "{key}"
            );
            let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!((850..=990).contains(&seconds), "{seconds}");
        }
    }
    let socket = websocket(
        &gateway,
        "/cobrowsing/API/socket",
        &[("authorization", KEY)],
    )
    .await;
    assert!(socket.unwrap_err().to_string().contains("429"));
    assert_eq!(backend.bytes(), b"");
    // What is not the API is not concerned.
    assert_eq!(h1.get("/cobrowsing/page").await.status, 200);
    let socket = websocket(&gateway, "/cobrowsing/visitor/socket", &[]).await;
    assert!(socket.is_ok());
    assert_eq!(counted(&gateway, true).await, (4.0, 7.0));
    // No key was looked at for them.
    for (result, n) in [("invalid", 3.0), ("duplicate", 1.0)] {
        let series = format!("gateway_auth_total{{key_id=\"none\",result=\"{result}\"}}");
        assert_eq!(gateway.metric(&series).await, n);
    }
    let refused = "gateway_rejected_requests_total{reason=\"rate_limited\"}";
    gateway.until_metric(refused, 7.0).await;
}

#[tokio::test]
async fn tokens_come_back_when_the_answer_said() {
    let backend = Backend::well();
    let gateway = before(&backend, "1/1s", "").start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let begun = std::time::Instant::now();
    assert_eq!(client.get(LATEST).await.status, 401);
    let reply = client.api("GET", LATEST, "").await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("retry-after"), Some("1"));
    eventually("a token", async || {
        let mut client = Client::connect(&gateway, Proto::H1).await;
        (client.api("GET", LATEST, "").await.status == 200).then_some(())
    })
    .await;
    assert!(begun.elapsed().as_millis() >= 1000);
    assert_eq!(client.get(LATEST).await.status, 401);
    assert_eq!(client.api("GET", LATEST, "").await.status, 429);
}

#[tokio::test]
async fn each_client_address_fails_for_itself() {
    let backend = Backend::well();
    let setup = before(
        &backend,
        "1/1h",
        "except = ['10.0.0.0/8', '2001:db8:9::/48']",
    );
    let gateway = setup
        .toml("public.trusted_proxies = ['127.0.0.1/32']")
        .start()
        .await;
    for (failing, hearing, heard) in [
        ("192.0.2.1", "192.0.2.1", false),
        ("::ffff:192.0.2.2", "192.0.2.2", false),
        ("192.0.2.3", "6.6.6.6, 192.0.2.3:80", false),
        ("192.0.2.4", "192.0.2.5", true),
        ("2001:db8::1", "2001:db8::ffff:2", false),
        ("2001:db8:1::1", "2001:db8:1:1::1", true),
        ("10.1.2.3", "10.1.2.3", true),
        ("2001:db8:9::1", "2001:db8:9::1", true),
    ] {
        let mut client = Client::connect(&gateway, Proto::H2).await;
        let wrong = [("authorization", "wrong"), ("x-forwarded-for", failing)];
        assert_eq!(client.call("GET", LATEST, &wrong, "").await.status, 401);
        let right = [("authorization", KEY), ("x-forwarded-for", hearing)];
        let status = client.call("GET", LATEST, &right, "").await.status;
        assert_eq!(status, if heard { 200 } else { 429 }, "{failing} {hearing}");
    }
    // The same without a proxy.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stranger: TcpStream = socket.connect(gateway.listen).await.unwrap();
    let mut stranger = Client::over_tcp(stranger, Proto::H1).await;
    for (forged, status) in [("10.1.2.3", 401), ("10.1.2.4", 429)] {
        let headers = [("x-forwarded-for", forged)];
        let reply = stranger.call("GET", LATEST, &headers, "").await;
        assert_eq!(reply.status.as_u16(), status);
    }
}

#[tokio::test]
async fn where_it_is_not_enforced_it_only_counts() {
    let backend = Backend::well();
    let setup = before(&backend, "2/1h", "enforce = false");
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for _ in 0..4 {
        assert_eq!(client.get(LATEST).await.status, 401);
    }
    assert_eq!(client.api("GET", LATEST, "").await.status, 200);
    assert_eq!(counted(&gateway, false).await, (2.0, 3.0));
}

#[tokio::test]
async fn a_closed_api_counts_no_failures() {
    let backend = Backend::well();
    let gateway = before(&backend, "1/1h", "").without_key().start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for _ in 0..5 {
        let reply = client.api("GET", LATEST, "").await;
        assert_eq!(reply.error(), "api_not_enabled");
    }
    assert_eq!(counted(&gateway, true).await, (0.0, 0.0));
}

#[tokio::test]
async fn it_is_on_by_default() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).with_default_limits();
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    for _ in 0..10 {
        assert_eq!(client.get(LATEST).await.status, 401);
    }
    // Every two seconds a token comes back: this may be such a moment.
    eventually("429 for the right key", async || {
        let mut client = Client::connect(&gateway, Proto::H2).await;
        while client.get(LATEST).await.status == 401 {}
        (client.api("GET", LATEST, "").await.status == 429).then_some(())
    })
    .await;
}
