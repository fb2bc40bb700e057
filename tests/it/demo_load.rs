//! The load for a demonstration moves everything, and goes nowhere it was not sent.

use super::commands::run;
use super::real_parts::reachable_gateway;
use super::support::{Folder, KEY};

#[tokio::test]
async fn the_demo_load_moves_what_operators_look_at() {
    let (gateway, _) = reachable_gateway().await;
    let load = [
        "--config",
        "gateway.toml",
        "demo-load",
        "--seconds",
        "9",
        "--visitors",
        "6",
    ];
    let ran = run(&gateway.folder, &load, &[("REST_KEY", KEY)]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert!(ran.err.contains(" 5 s  "), "{}", ran.err);
    assert!(!ran.err.contains(KEY), "{}", ran.err);
    let metrics = gateway.metrics().await;
    for moved in [
        r#"gateway_requests_total{code="200",method="GET",route="page"}"#,
        r#"gateway_requests_total{code="101",method="GET",route="page"}"#,
        r#"gateway_requests_total{code="200",method="GET",route="visitors_latest"}"#,
        r#"gateway_auth_total{key_id="rest_key",result="ok"}"#,
        r#"gateway_auth_total{key_id="none",result="invalid"}"#,
        r#"gateway_websocket_bytes_total{direction="received"}"#,
        r#"gateway_websocket_closed_total{by="client",code_class="going_away"}"#,
    ] {
        assert!(gateway.metric(moved).await > 0.0, "{moved}: {metrics}");
    }
    // Bounded: far below what any default limit admits.
    let requests: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("gateway_requests_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    assert!(requests < 9.0 * 60.0, "{requests}");
    // All have left.
    gateway
        .until_metric(r#"gateway_websocket_active{route="page"}"#, 0.0)
        .await;
}

#[test]
fn the_demo_load_leaves_other_hosts_alone_unless_told() {
    let folder = Folder::new().with_certificate();
    let load = |more: &[&str]| {
        let arguments = [&["demo-load", "--ca", "cert.pem", "--seconds", "1"], more].concat();
        let ran = run(&folder, &arguments, &[("REST_KEY", KEY)]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        ran.err
    };
    // Documentation addresses: nobody is there.
    for url in ["https://192.0.2.7/x", "https://[2001:db8::7]:8443/"] {
        let said = load(&["--url", url]);
        assert!(said.contains("is not this host"), "{said}");
    }
    let said = load(&["--url", "http://localhost/"]);
    assert!(said.contains("expected an https URL"), "{said}");
    // Nothing listens there, which is told as such.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let said = load(&["--url", &format!("https://localhost:{port}/")]);
    assert!(said.contains("does the gateway run"), "{said}");
}
