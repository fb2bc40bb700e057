//! Headers that are ours to write, and those that end with the connection (H1 to H7).

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Broken, Watch, Way, get, send, show, so};
use crate::support::h2_raw::{Answer, Field, H2, request};
use crate::support::{Backend, Gateway, Raw, Received, within};

const PAGE: &[u8] = b"/cobrowsing/x";

/// What we write, for a client that is trusted in nothing.
const OURS: [(&str, &str); 6] = [
    ("host", "localhost"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-host", "localhost"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-prefix", "/cobrowsing"),
];

/// Each of ours stands there once, as we write it.
fn ours_stand(came: &Received) -> Result<(), String> {
    for (name, value) in OURS {
        so(came.all(name) == [value], || {
            format!("{name}: {:?}", came.all(name))
        })?;
    }
    let id = came.all("x-request-id");
    so(id.len() == 1 && id[0].len() == 32, || {
        format!("x-request-id: {id:?}")
    })
}

#[tokio::test]
async fn what_the_gateway_writes_cannot_be_named_away() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    for named in [
        "close, X-Forwarded-Host",
        "x-forwarded-for, x-forwarded-host, x-forwarded-proto, x-forwarded-port, x-forwarded-prefix",
        "X-FORWARDED-PROTO",
        "X-Forwarded-For,close",
        " ,x-forwarded-for\t,, ",
        "x-real-ip, x-request-id",
        "host",
        "HOST, x-forwarded-host",
        "cookie, authorization",
        "Cookie",
        "close, AUTHORIZATION",
        "content-length",
        "transfer-encoding, content-length",
        "sec-websocket-key, sec-websocket-version",
    ] {
        for way in [Way::H1, Way::Upgrade] {
            let fields: &[Field] = &[
                (b"Connection", named.as_bytes()),
                (b"cookie", b"a=b"),
                (b"authorization", b"Basic x"),
                (b"x-forwarded-for", b"1.2.3.4"),
                (b"x-real-ip", b"1.2.3.4"),
            ];
            backend.forget();
            let sent = get(PAGE, fields);
            let outcome = send(&gateway, way, &sent).await;
            let fine = matches!(outcome.status, Some(200 | 101));
            // A handshake that names its own parts away fails, here or there.
            let own = matches!(outcome.status, Some(400 | 502)) && named.contains("websocket");
            if own {
                continue;
            }
            let held = so(fine, || format!("{outcome:?}"));
            let held = held.and_then(|()| match backend.requests().first() {
                None => Err("never came".into()),
                Some(came) => {
                    ours_stand(came)?;
                    let kept = [came.all("cookie"), came.all("authorization")];
                    so(kept == [["a=b"], ["Basic x"]], || format!("{kept:?}"))?;
                    so(came.all("x-real-ip").is_empty(), || "x-real-ip".into())
                }
            });
            broken.note(|| format!("{} {named}", show("H1", way, &sent)), held);
        }
        // The length of a body is no matter of the connection either.
        let mut raw = Raw::connect(&gateway).await;
        backend.forget();
        let request = format!(
            "POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nconnection: {named}\r\ncontent-length: 5\r\n\r\nhello"
        );
        let status = raw.call(request).await.status;
        let came = backend.only();
        let held = status == 200 && came.body == b"hello" && came.all("content-length") == ["5"];
        broken.note(
            || format!("H1 body {named}"),
            so(held, || format!("{came:?}")),
        );
    }
}

#[tokio::test]
async fn no_alias_of_a_managed_header_goes_further() {
    let aliases: &[&[u8]] = &[
        b"x_forwarded_for",
        b"X_Forwarded_For",
        b"x.forwarded.for",
        b"X-Forwarded_For",
        b"x-forwarded.for",
        b"x_forwarded-host",
        b"x.forwarded.proto",
        b"x-forwarded_port",
        b"x_forwarded_prefix",
        b"x_forwarded_anything",
        b"x_real_ip",
        b"x.real.ip",
        b"true_client_ip",
        b"x_client_ip",
        b"x_request_id",
        b"content_length",
        b"content.length",
        b"transfer_encoding",
        b"x_original_url",
        b"x.http.method.override",
        b"forwarded",
        b"x-forwarded-ssl",
        b"x-forwarded-by",
        b"via",
    ];
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    for alias in aliases {
        for way in Way::ALL {
            let lower = alias.to_ascii_lowercase();
            let name = if way == Way::H2 { &*lower } else { alias };
            let fields = [(name, &b"7.7.7.7"[..]), (b"x_own.thing", b"kept")];
            let sent = get(PAGE, &fields);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(matches!(outcome.status, Some(200 | 101)), || {
                format!("{outcome:?}")
            });
            let came = backend.last();
            let held = held
                .and_then(|()| watch.one_came_as("/x"))
                .and_then(|()| ours_stand(&came))
                .and_then(|()| {
                    let passed = came.headers.iter().find(|(_, v)| v == "7.7.7.7");
                    so(passed.is_none(), || format!("passed on: {passed:?}"))
                })
                // Others keep their names.
                .and_then(|()| so(came.all("x_own.thing") == ["kept"], || "gone".into()));
            broken.note(
                || format!("{} {}", show("H2", way, &sent), name.escape_ascii()),
                held,
            );
        }
    }
}

#[tokio::test]
async fn what_an_untrusted_client_says_of_its_way_is_rebuilt() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    let hops = vec!["10.0.0.1"; 200].join(", ");
    for value in [
        "127.0.0.1",
        "::1",
        "1.2.3.4, 127.0.0.1",
        &hops,
        "for=\"_x\"",
        "1.2.3.4:80",
        "[2001:db8::1]:80",
        "fe80::1%eth0",
        "unknown",
        "",
        ",,,",
        "1.2.3.4\t5.6.7.8",
        "\u{fc}",
    ] {
        for way in Way::ALL {
            let fields: &[Field] = &[
                (b"x-forwarded-for", value.as_bytes()),
                (b"x-forwarded-for", b"9.9.9.9"),
                (b"x-forwarded-host", value.as_bytes()),
                (b"forwarded", value.as_bytes()),
                (b"x-real-ip", value.as_bytes()),
                (b"x-request-id", value.as_bytes()),
            ];
            let sent = get(PAGE, fields);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(matches!(outcome.status, Some(200 | 101)), || {
                format!("{outcome:?}")
            });
            let held = held.and_then(|()| ours_stand(&backend.last()));
            broken.note(|| format!("{} {value}", show("H3", way, &sent)), held);
        }
    }
    // Nor does it decide in whose name the request is logged.
    let peers = gateway.requests();
    assert!(
        peers
            .iter()
            .all(|line| line["client"].is_null() && line["peer"] == "127.0.0.1"),
        "H3"
    );
}

#[tokio::test]
async fn a_trusted_proxys_list_that_cannot_be_read_names_no_client() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("public.trusted_proxies = ['127.0.0.0/8']");
    let gateway = setup.start().await;
    for (value, client) in [
        ("203.0.113.1", Some("203.0.113.1")),
        ("6.6.6.6, 203.0.113.1", Some("203.0.113.1")),
        ("6.6.6.6, 203.0.113.1, 127.0.0.7", Some("203.0.113.1")),
        ("203.0.113.1:4711", Some("203.0.113.1")),
        ("[2001:db8::1]:80", Some("2001:db8::1")),
        ("::ffff:203.0.113.1", Some("203.0.113.1")),
        ("203.0.113.1, junk", None),
        ("203.0.113.1, for=\"_x\"", None),
        ("203.0.113.1, fe80::1%eth0", None),
        ("203.0.113.1, ", Some("203.0.113.1")),
        ("203.0.113.1, \u{fc}", None),
        ("203.0.113.1, 0x7f.1", None),
        ("203.0.113.1, 1.2.3.4.5", None),
    ] {
        let before = gateway.requests().len();
        let fields = [(&b"x-forwarded-for"[..], value.as_bytes())];
        assert_eq!(
            send(&gateway, Way::H1, &get(PAGE, &fields)).await.status,
            Some(200)
        );
        let line = crate::support::eventually("a line", async || {
            gateway.requests().into_iter().nth(before)
        })
        .await;
        assert_eq!(line["client"].as_str(), client, "H3 {value}");
    }
}

#[tokio::test]
async fn a_proxy_header_that_is_not_expected_gets_no_http() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("timeouts.handshake = '500ms'")
        .start()
        .await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n";
    let large = [&v2[..], b"\x21\x11\xff\xff", &[0; 64 << 10]].concat();
    let cases: &[&[u8]] = &[
        b"PROXY TCP4 203.0.113.1 127.0.0.1 1 2\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP4 203.0.",
        &[
            &v2[..],
            b"\x21\x11\x00\x0c\x01\x02\x03\x04\x7f\x00\x00\x01\x00\x01\x00\x02",
        ]
        .concat(),
        &[&v2[..], b"\x20\x00\x00\x00"].concat(),
        v2,
        &large,
        b"GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    for bytes in cases {
        let mut plain = tokio::net::TcpStream::connect(gateway.listen)
            .await
            .unwrap();
        plain.write_all(bytes).await.unwrap();
        let mut got = Vec::new();
        // Perhaps an alert of TLS, and the end, which may be a reset.
        drop(within(plain.read_to_end(&mut got)).await);
        assert!(
            got.is_empty() || got[0] == 21,
            "H4 {:?}",
            got.escape_ascii()
        );
    }
    assert_eq!(backend.bytes(), b"", "H4");
    assert!(gateway.requests().is_empty(), "H4");
}

#[tokio::test]
async fn host_lines_beside_an_authority_must_agree_with_it_and_be_one() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    let ours: Field = (b"host", b"localhost");
    let foreign: Field = (b"host", b"evil.test");
    let many = vec![ours; 50];
    let cases: &[(&[Field], bool)] = &[
        (&[ours], true),
        (&[(b"host", b"LOCALHOST:1")], true),
        (&[ours, ours], false),
        (&[ours, foreign], false),
        (&[foreign], false),
        (&[foreign, ours], false),
        (&[(b"host", b"")], false),
        (&many, false),
    ];
    for (hosts, fine) in cases {
        backend.forget();
        let mut h2 = H2::connect(&gateway).await;
        let answer = h2.call(&request(b"GET", PAGE, hosts)).await;
        let seen = || format!("{answer:?}");
        let held = match answer.status() {
            Some(200) => so(*fine, seen).and_then(|()| ours_stand(&backend.only())),
            None | Some(400 | 421) => so(!fine && backend.bytes().is_empty(), seen),
            Some(_) => so(false, seen),
        };
        broken.note(|| format!("H5 {}", hosts.len()), held);
    }
    // What is thrown away has been counted: 32 KiB are 32 KiB.
    let long = vec![b'x'; 4 << 10];
    let fields = vec![(&b"host"[..], &*long); 10];
    let mut h2 = H2::connect(&gateway).await;
    let fields = request(b"GET", PAGE, &fields);
    let stream = h2.stream();
    let block = crate::support::h2_raw::block(&fields);
    h2.say(&in_pieces(stream, &block)).await;
    let answer = h2.answer(stream).await;
    assert!(
        matches!(answer.status(), None | Some(400 | 431)),
        "H5 {answer:?}"
    );
    // No pseudo header twice, late, or unknown, and none missing.
    let twice = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = request(b"GET", PAGE, &[]);
        fields.insert(1, (name, value));
        fields
    };
    let without = |name: &[u8]| {
        let mut fields = request(b"GET", PAGE, &[]);
        fields.retain(|(n, _)| *n != name);
        fields
    };
    for fields in [
        twice(b":authority", b"evil.test"),
        twice(b":path", b"/cobrowsing/api/x"),
        twice(b":method", b"POST"),
        twice(b":scheme", b"http"),
        twice(b":status", b"200"),
        twice(b":protocol", b"websocket"),
        twice(b":x", b"y"),
        twice(b"x", b"y"),
        without(b":path"),
        without(b":method"),
        without(b":scheme"),
        request(b"GET", PAGE, &[(b":path", b"/cobrowsing/api/x")]),
    ] {
        backend.forget();
        let answer = H2::connect(&gateway).await.call(&fields).await;
        assert!(
            matches!(answer.status(), None | Some(400)),
            "H5 {answer:?} {fields:?}"
        );
        assert_eq!(backend.bytes(), b"", "H5 {fields:?}");
    }
}

/// A block as HEADERS and CONTINUATION.
fn in_pieces(stream: u32, block: &[u8]) -> Vec<u8> {
    use crate::support::h2_raw::{END_HEADERS, END_STREAM, frame, kind};
    let pieces: Vec<_> = block.chunks(8 << 10).collect();
    let mut out = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let (kind, flags) = if n == 0 {
            (kind::HEADERS, END_STREAM)
        } else {
            (kind::CONTINUATION, 0)
        };
        let end = if n + 1 == pieces.len() {
            END_HEADERS
        } else {
            0
        };
        out.extend(frame(kind, flags | end, stream, piece));
    }
    out
}

#[tokio::test]
async fn what_ends_with_the_connection_goes_no_further() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut broken = Broken::default();
    let cases: &[(&str, Field)] = &[
        ("H6", (b"proxy", b"http://evil.test")),
        ("H6", (b"pRoXy", b"evil.test:80")),
        ("H7", (b"keep-alive", b"timeout=5")),
        ("H7", (b"proxy-authorization", b"Basic eDp5")),
        ("H7", (b"proxy-connection", b"keep-alive")),
        ("H7", (b"te", b"trailers")),
        ("H7", (b"te", b"gzip;q=0.5")),
        ("H7", (b"trailer", b"x-t")),
        ("H7", (b"upgrade", b"h2c")),
        ("H7", (b"http2-settings", b"AAMAAABkAAQAAP__")),
        ("H7", (b"connection", b"x-h")),
        ("H7", (b"connection", b"close")),
        ("H7", (b"transfer-encoding", b"trailers")),
    ];
    for (number, field) in cases {
        for way in Way::ALL {
            let lower = field.0.to_ascii_lowercase();
            let name = if way == Way::H2 { &*lower } else { field.0 };
            let fields = [(name, field.1)];
            // A second `Upgrade` or `Connection` would be another handshake.
            if way == Way::Upgrade && name == b"upgrade" {
                continue;
            }
            backend.forget();
            let sent = get(PAGE, &fields);
            let outcome = send(&gateway, way, &sent).await;
            let lower = String::from_utf8(lower.clone()).unwrap();
            let came = backend.requests();
            let held = match outcome.status {
                Some(200 | 101) => {
                    let passed = came[0].all(&lower);
                    let own = way == Way::Upgrade && passed == ["upgrade"];
                    so(own || passed.is_empty(), || {
                        format!("passed on: {passed:?}")
                    })
                }
                // HTTP/2 takes such a request for malformed.
                None | Some(400) => so(came.is_empty(), || format!("{came:?}")),
                Some(_) => so(false, || format!("{outcome:?}")),
            };
            broken.note(|| format!("{} {lower}", show(number, way, &sent)), held);
        }
    }
    // Upper case is none of HTTP/2's.
    backend.forget();
    let answer = H2::connect(&gateway)
        .await
        .call(&request(b"GET", PAGE, &[(b"X-Upper", b"x")]))
        .await;
    assert!(
        matches!(answer, Answer::Reset(_) | Answer::GoAway(_)),
        "H7 {answer:?}"
    );
    assert_eq!(backend.bytes(), b"");
}

#[tokio::test]
async fn a_trusted_proxys_list_is_cut_to_32_hops_that_can_be_read() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("public.trusted_proxies = ['127.0.0.0/8']");
    let gateway = setup.start().await;
    let hops = vec!["10.0.0.1"; 200].join(", ");
    for value in [&*hops, "203.0.113.1, for=\"_x\"", "junk, 203.0.113.1"] {
        let fields = [(&b"x-forwarded-for"[..], value.as_bytes())];
        send(&gateway, Way::H1, &get(PAGE, &fields)).await;
        let list = backend.last().header("x-forwarded-for").unwrap();
        assert!(
            list.split(',').count() <= 33,
            "H3 {} hops",
            list.split(',').count()
        );
        let read = |hop: &str| hop.trim().parse::<std::net::IpAddr>().is_ok();
        assert!(list.split(',').all(read), "H3 {list}");
    }
}
