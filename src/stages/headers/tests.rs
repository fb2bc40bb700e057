use std::net::IpAddr;

use http::HeaderName;

use super::*;

fn written(
    headers: &[(&str, &str)],
    trusted: bool,
    change: impl FnOnce(&mut Outgoing<'_>),
) -> String {
    let map: HeaderMap = headers
        .iter()
        .map(|(n, v)| {
            (
                HeaderName::from_bytes(n.as_bytes()).unwrap(),
                HeaderValue::from_str(v).unwrap(),
            )
        })
        .collect();
    let forwarded = Forwarded::new("support.acmetech.com", 443, "/cobrowsing");
    let id = HeaderValue::from_static("id1");
    let mut outgoing = Outgoing {
        method: &Method::GET,
        path: ["/up", "/x"],
        query: Some("q=%23tag"),
        headers: &map,
        authorization: Authorization::Own,
        is_key: &|value| value == b"K",
        forwarded: &forwarded,
        peer: "192.0.2.7",
        trusted,
        request_id: &id,
        trace: None,
        framing: Framing::None,
        upgrade: false,
        identity: false,
    };
    change(&mut outgoing);
    let mut out = BytesMut::new();
    outgoing.write(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn the_head_is_written_with_our_own_forwarded_headers() {
    assert_eq!(
        written(
            &[("accept", "*/*"), ("authorization", "Basic x")],
            false,
            |_| {}
        ),
        "GET /up/x?q=%23tag HTTP/1.1\r\naccept: */*\r\nauthorization: Basic x\r\nx-forwarded-for: 192.0.2.7\r\nhost: support.acmetech.com\r\n\
         x-forwarded-prefix: /cobrowsing\r\nx-forwarded-host: support.acmetech.com\r\nx-forwarded-proto: https\r\nx-forwarded-port: 443\r\n\
         x-request-id: id1\r\n\r\n"
    );
}

#[test]
fn what_an_untrusted_peer_says_of_the_way_it_came_is_dropped() {
    let forged = [
        ("x-forwarded-for", "127.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("x-forwarded-uri", "/api"),
        ("x_forwarded_for", "127.0.0.1"),
        ("x.forwarded.for", "127.0.0.1"),
        ("x-forwarded_host", "evil"),
        ("x~forwarded~for", "127.0.0.1"),
        ("x|real|ip", "127.0.0.1"),
        ("forwarded", "for=evil"),
        ("x-real-ip", "127.0.0.1"),
        ("x-original-url", "/api"),
        ("x-rewrite-url", "/api"),
        ("x-envoy-original-path", "/api"),
        ("x-http-method-override", "DELETE"),
        ("x-request-id", "evil"),
        ("proxy", "http://evil"),
        ("authorization_", "K"),
        ("x_authorization", "K"),
    ];
    assert_eq!(written(&forged, false, |_| {}), written(&[], false, |_| {}));
}

#[test]
fn a_trusted_peer_is_believed_and_appended_to() {
    let head = written(
        &[
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-host", "other"),
            ("x-forwarded-prefix", "/evil"),
        ],
        true,
        |_| {},
    );
    let named_away = written(
        &[
            ("connection", "x-forwarded-proto"),
            ("x-forwarded-proto", "http"),
        ],
        true,
        |_| {},
    );
    assert!(
        named_away.contains("x-forwarded-proto: http\r\n"),
        "{named_away}"
    );
    assert!(
        head.contains("x-forwarded-for: 198.51.100.1, 192.0.2.7\r\n"),
        "{head}"
    );
    assert!(
        head.contains("x-forwarded-host: other\r\n") && !head.contains("x-forwarded-host: support"),
        "{head}"
    );
    assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
    assert!(
        head.contains("x-forwarded-prefix: /cobrowsing\r\n") && !head.contains("evil"),
        "{head}"
    );
}

#[test]
fn hop_by_hop_headers_and_those_that_connection_names_are_left_out() {
    let hops = [
        ("connection", "keep-alive, X-Mine"),
        ("connection", "x-second, Authorization, x-forwarded-for"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "h2c"),
        ("http2-settings", "x"),
        ("proxy-authorization", "x"),
        ("transfer-encoding", "chunked"),
        ("expect", "100-continue"),
        ("x-mine", "1"),
        ("x-second", "2"),
        ("authorization", "Basic x"),
    ];
    assert_eq!(
        written(&hops, false, |_| {}),
        written(&[("authorization", "Basic x")], false, |_| {})
    );
}

#[test]
fn a_key_stands_where_the_api_has_it_and_nowhere_else() {
    // Who sends none is not asked.
    let plain = written(&[], false, |_| {});
    let page = [("accept", "*/*"), ("cookie", "K"), ("x-other", "K")];
    written(&page, false, |o| o.is_key = &|_| unreachable!());
    for (name, value) in [("authorization", "K"), ("x-api-key", "K")] {
        assert_eq!(written(&[(name, value)], false, |_| {}), plain, "{name}");
    }
    // Line by line.
    let own = [("authorization", "Basic x"), ("x-api-key", "other")];
    let mixed = [own[0], ("authorization", "K"), own[1], ("x-api-key", "K")];
    assert_eq!(written(&mixed, false, |_| {}), written(&own, false, |_| {}));
    assert!(written(&own, false, |_| {}).contains("authorization: Basic x\r\n"));
    // Of the API: what was judged, in place of what was sent.
    let of_api = |key: Option<&'static [u8]>| {
        let sent = [("authorization", "Bearer K"), ("x-api-key", "K")];
        written(&sent, false, |o| {
            o.authorization = Authorization::Judged(key);
        })
    };
    assert_eq!(of_api(None), plain);
    let with = plain.replace("x-request-id", "authorization: own\r\nx-request-id");
    assert_eq!(of_api(Some(b"own")), with);
}

#[test]
fn cookie_crumbs_become_one_line() {
    assert!(
        written(&[("cookie", "a=1"), ("cookie", "b=2")], false, |_| {})
            .contains("cookie: a=1; b=2\r\n")
    );
}

#[test]
fn body_and_upgrade_lines_are_ours() {
    let with = |framing| written(&[("content-length", "7")], false, |o| o.framing = framing);
    assert!(!with(Framing::None).contains("content-length"));
    assert!(with(Framing::Length(0)).contains("content-length: 0\r\n"));
    assert!(with(Framing::Length(u64::MAX)).contains("content-length: 18446744073709551615\r\n"));
    assert!(with(Framing::Chunked).contains("transfer-encoding: chunked\r\n"));
    assert!(
        written(&[("upgrade", "websocket")], false, |o| o.upgrade = true)
            .contains("connection: upgrade\r\nupgrade: websocket\r\n")
    );
}

/// What is passed on of these `X-Forwarded-For` lines, and the client behind them; 10.0.0.0/8
/// is trusted.
fn passed_on(lines: &[&str]) -> (String, Option<String>) {
    let headers: Vec<_> = lines.iter().map(|v| ("x-forwarded-for", *v)).collect();
    let head = written(&headers, true, |_| {});
    let line = head
        .lines()
        .find_map(|l| l.strip_prefix("x-forwarded-for: "))
        .unwrap();
    let list = line
        .strip_suffix("192.0.2.7")
        .unwrap()
        .trim_end_matches(", ");
    let map: HeaderMap = lines
        .iter()
        .map(|v| {
            (
                HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_str(v).unwrap(),
            )
        })
        .collect();
    let trusted = |a: IpAddr| a.to_string().starts_with("10.");
    let client = client_behind(&map, trusted).map(|a| a.to_string());
    (list.into(), client)
}

#[test]
fn the_client_is_the_first_untrusted_hop_from_the_right() {
    for (lines, client) in [
        (
            &["6.6.6.6, 198.51.100.1, 10.0.0.2"][..],
            Some("198.51.100.1"),
        ),
        (&["6.6.6.6", "198.51.100.1, 10.0.0.2"], Some("198.51.100.1")),
        (&["10.0.0.1, 10.0.0.2"], Some("10.0.0.1")),
        (&["nonsense, 10.0.0.2"], Some("10.0.0.2")),
        // Nobody vouches for what stands beyond.
        (&["6.6.6.6, unknown, 10.0.0.2"], Some("10.0.0.2")),
        (&["6.6.6.6, unknown"], None),
        (&["6.6.6.6", "fe80::1%eth0, 10.0.0.2"], Some("10.0.0.2")),
        (&["[2001:db8::1]:443"], Some("2001:db8::1")),
        (&["198.51.100.1:50000, 10.0.0.2:1"], Some("198.51.100.1")),
        (&["::ffff:198.51.100.1"], Some("198.51.100.1")),
        (
            &["6.6.6.6, ::ffff:10.0.0.1, [::ffff:10.0.0.2]:9"],
            Some("6.6.6.6"),
        ),
        (&["unknown"], None),
        (&[", ,"], None),
        (&[], None),
    ] {
        assert_eq!(passed_on(lines).1.as_deref(), client, "{lines:?}");
    }
}

#[test]
fn only_hops_that_are_addresses_are_passed_on() {
    for good in [
        "198.51.100.1",
        "198.51.100.1:0",
        "198.51.100.1:65535",
        "2001:db8::1",
        "[2001:db8::1]",
        "[2001:db8::1]:443",
        "::ffff:198.51.100.1",
        "::",
    ] {
        assert_eq!(passed_on(&[good]).0, good);
    }
    for bad in [
        "unknown",
        "_x",
        "for=\"_x\"",
        "\"198.51.100.1\"",
        "localhost",
        "198.51.100",
        "198.51.100.256",
        "198.051.100.1",
        "198.51.100.1:",
        "198.51.100.1:65536",
        "198.51.100.1:+80",
        "198.51.100.1 80",
        "[198.51.100.1]:80",
        "[2001:db8::1",
        "2001:db8::1]",
        "[2001:db8::1]443",
        "[2001:db8::1]:x",
        "[2001:db8::1]evil",
        "fe80::1%eth0",
        "[fe80::1%1]:80",
        "[fe80::1%eth0]",
        ":80",
        "[]",
        "\u{e9}",
    ] {
        assert_eq!(passed_on(&[bad]), (String::new(), None), "{bad}");
        let list = format!("6.6.6.6, {bad}, 10.0.0.1");
        let expected = ("10.0.0.1".to_owned(), Some("10.0.0.1".to_owned()));
        assert_eq!(passed_on(&[&list]), expected, "{bad}");
    }
}

#[test]
fn lines_become_one_list_in_their_order() {
    for (lines, list) in [
        (
            &["1.1.1.1", "2.2.2.2,3.3.3.3"][..],
            "1.1.1.1, 2.2.2.2, 3.3.3.3",
        ),
        (&[" 1.1.1.1 ,,\t2.2.2.2, "], "1.1.1.1, 2.2.2.2"),
        (&["1.1.1.1, _x", "2.2.2.2"], "2.2.2.2"),
        (&["1.1.1.1", "unknown"], ""),
        (&[""], ""),
        (&[], ""),
    ] {
        assert_eq!(passed_on(lines).0, list, "{lines:?}");
    }
}

#[test]
fn of_a_long_list_the_hops_nearest_to_us_are_kept() {
    let all: Vec<_> = (0..200).map(|n| format!("10.0.0.{n}")).collect();
    let (nearest, client) = (all[168..].join(", "), Some("10.0.0.168".to_owned()));
    assert_eq!(
        passed_on(&[&all.join(",")]),
        (nearest.clone(), client.clone())
    );
    let lines: Vec<_> = all.iter().map(String::as_str).collect();
    assert_eq!(passed_on(&lines), (nearest, client));
    assert_eq!(passed_on(&lines[..32]).0, all[..32].join(", "));
}
