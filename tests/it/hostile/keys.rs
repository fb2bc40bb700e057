//! Ways around the key (A1 to A14), where there are several of them.

use super::{Broken, HANDSHAKE, Sent, WITH_KEY, Watch, Way, get, head, send, show, so};
use crate::support::h2_raw::{self, Answer, Field, H2, block, request};
use crate::support::{Backend, Gateway, KEY, Raw, Setup};

const API: &[u8] = b"/cobrowsing/api/visitors/1";

/// Beside [`KEY`] there are others, from every place and in every shape.
fn with_several_keys(backend: &Backend) -> Setup {
    Gateway::before(backend)
        .toml("api.keys_file = 'keys'\napi.keys.first = 'another key'\napi.keys.longer = 'key-of-the-tests-and-more'")
        .beside(
            "keys",
            "short: key\nhashed: sha256:16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4\n",
        )
}

/// The key with something before and after it.
fn key(before: &str, after: &str) -> Vec<u8> {
    [before.as_bytes(), KEY.as_bytes(), after.as_bytes()].concat()
}

#[tokio::test]
async fn a_closed_api_is_closed_for_every_key_and_its_pages_are_open() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).without_key().start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    let none: &[Field] = &[];
    for fields in [
        none,
        &[WITH_KEY],
        &[(b"authorization", b"")],
        &[(b"authorization", b"Bearer ")],
        &[WITH_KEY, WITH_KEY],
        &[(b"x-api-key", b"")],
    ] {
        for way in Way::ALL {
            let sent = get(API, fields);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(outcome.refuses(401, "api_not_enabled"), || {
                format!("{outcome:?}")
            });
            let case = || format!("{} {fields:?}", show("A1", way, &sent));
            broken.note(case, held.and_then(|()| watch.nothing_came()));
            let outcome = send(&gateway, way, &get(b"/cobrowsing/x", fields)).await;
            let held = so(matches!(outcome.status, Some(200 | 101)), || {
                format!("{outcome:?}")
            });
            broken.note(case, held.and_then(|()| watch.one_came_as("/x")));
        }
    }
}

#[tokio::test]
async fn only_the_exact_value_is_the_key_and_space_around_it_is_none_of_it() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = with_several_keys(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    // HTTP/1.1 trims (RFC 9110 section 5.5), HTTP/2 knows no space there (RFC 9113 section 8.2.1).
    for value in [
        key("", ""),
        key("", " "),
        key(" ", ""),
        key("\t ", " \t"),
        key("", "\t"),
    ] {
        for way in [Way::H1, Way::Upgrade] {
            let fields = [(&b"Authorization"[..], &*value)];
            let sent = get(API, &fields);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(matches!(outcome.status, Some(200 | 101)), || {
                format!("{outcome:?}")
            });
            let case = || format!("{} {}", show("A3", way, &sent), value.escape_ascii());
            broken.note(
                case,
                held.and_then(|()| watch.one_came_as("/api/visitors/1")),
            );
        }
    }
    let wrong = [
        ("A3", key("Bearer ", "")),
        ("A3", key("bearer ", "")),
        ("A3", key("Basic ", "")),
        ("A3", key("\"", "\"")),
        ("A3", key("", ",")),
        ("A3", key("", &format!(",{KEY}"))),
        ("A3", key("", &format!(" {KEY}"))),
        ("A3", KEY.to_uppercase().into_bytes()),
        ("A3", KEY[..KEY.len() - 1].into()),
        ("A3", KEY.replace('-', "%2D").into_bytes()),
        ("A3", Vec::new()),
        ("A3", vec![b'x'; 8 << 10]),
        // What is no ASCII.
        ("A6", [KEY.as_bytes(), b"\xff"].concat()),
        ("A6", [KEY.as_bytes(), b"\xa0"].concat()),
        ("A6", b"\x80".to_vec()),
        ("A6", (0x80..=0xff).collect()),
        ("A6", "ключ".as_bytes().to_vec()),
    ];
    for (number, value) in &wrong {
        for way in Way::ALL {
            let fields = [(&b"authorization"[..], &**value)];
            let sent = get(API, &fields);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(outcome.refuses(401, "invalid_api_key"), || {
                format!("{outcome:?}")
            });
            let case = || format!("{} {}", show(number, way, &sent), value.escape_ascii());
            broken.note(case, held.and_then(|()| watch.nothing_came()));
        }
    }
    for value in [key("", " "), key(" ", ""), key("", "\t")] {
        let fields = [(&b"authorization"[..], &*value)];
        let sent = get(API, &fields);
        let outcome = send(&gateway, Way::H2, &sent).await;
        let held = so(matches!(outcome.status, None | Some(400 | 401)), || {
            format!("{outcome:?}")
        });
        let case = || format!("{} {}", show("A3", Way::H2, &sent), value.escape_ascii());
        broken.note(case, held.and_then(|()| watch.nothing_came()));
    }
}

#[tokio::test]
async fn what_only_looks_like_a_credential_is_none() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = with_several_keys(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    let key = KEY.as_bytes();
    let cases: &[(&str, Field)] = &[
        ("A5", (b"x_authorization", key)),
        ("A5", (b"x-authorization", key)),
        ("A5", (b"authorization_", key)),
        ("A5", (b"authorization.", key)),
        ("A5", (b"authorization-", key)),
        ("A5", (b"http_authorization", key)),
        ("A5", (b"proxy-authorization", key)),
        ("A5", (b"x-forwarded-authorization", key)),
        ("A5", (b"x-api-key", key)),
        ("A5", (b"x_api_key", key)),
        ("A5", (b"api-key", key)),
        ("A5", (b"cookie", b"authorization=key-of-the-tests")),
        ("A7", (b"user-agent", b"kube-probe/1.30")),
        ("A7", (b"user-agent", b"GoogleHC/1.0")),
        ("A7", (b"user-agent", b"ELB-HealthChecker/2.0")),
        ("A7", (b"x-forwarded-for", b"127.0.0.1")),
        ("A7", (b"x-real-ip", b"::1")),
        ("A7", (b"purpose", b"prefetch")),
        ("A7", (b"x-request-id", key)),
    ];
    for (number, field) in cases {
        for way in Way::ALL {
            let fields = [*field];
            let sent = get(API, &fields);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(outcome.refuses(401, "invalid_api_key"), || {
                format!("{outcome:?}")
            });
            let case = || format!("{} {}", show(number, way, &sent), field.0.escape_ascii());
            broken.note(case, held.and_then(|()| watch.nothing_came()));
        }
    }
    // Aliases that a backend could fold into the credential go no further, whatever they hold.
    for alias in [
        &b"authorization_"[..],
        b"x_authorization",
        b"authorization.",
    ] {
        for way in Way::ALL {
            let fields = [(alias, &b"alias"[..]), WITH_KEY];
            send(&gateway, way, &get(API, &fields)).await;
            let last = backend.last();
            let held = so(!last.headers.iter().any(|(_, v)| v == "alias"), || {
                "passed on".into()
            });
            broken.note(|| format!("A5 {way:?} {}", alias.escape_ascii()), held);
        }
    }
}

#[tokio::test]
async fn no_path_and_no_method_of_the_api_is_exempt() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = with_several_keys(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    let preflight: &[Field] = &[
        (b"origin", b"https://shop.test"),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization"),
    ];
    type Case<'c> = (&'c str, &'c [u8], &'c [u8], &'c [Field<'c>], u16);
    let cases: &[Case] = &[
        ("A7", b"GET", b"/cobrowsing/api/healthz", &[], 401),
        ("A7", b"GET", b"/cobrowsing/api/livez", &[], 401),
        ("A7", b"GET", b"/cobrowsing/api/metrics", &[], 401),
        ("A7", b"GET", b"/cobrowsing/api/favicon.ico", &[], 401),
        ("A7", b"GET", b"/cobrowsing/api/.well-known/x", &[], 401),
        ("A7", b"GET", b"/healthz", &[], 404),
        ("A7", b"GET", b"/readyz", &[], 404),
        ("A8", b"OPTIONS", API, preflight, 401),
        ("A8", b"OPTIONS", b"/cobrowsing/api", preflight, 401),
        ("A8", b"OPTIONS", b"/cobrowsing/api/", &[], 401),
        ("A8", b"options", API, preflight, 401),
        ("A8", b"HEAD", API, &[], 401),
        ("A8", b"PROPFIND", API, &[], 401),
        ("A8", b"get", API, &[], 401),
    ];
    for (number, method, target, fields, status) in cases {
        for way in [Way::H1, Way::H2] {
            let sent = Sent {
                method,
                target,
                host: b"localhost",
                fields,
            };
            if *method == b"HEAD" && way == Way::H1 {
                let mut raw = Raw::connect(&gateway).await;
                raw.say(head(&sent, b"")).await;
                assert_eq!(raw.head().await.status, 401);
                continue;
            }
            let outcome = send(&gateway, way, &sent).await;
            let held = so(outcome.status == Some(*status), || format!("{outcome:?}"));
            let held = held.and_then(|()| watch.nothing_came());
            broken.note(|| show(number, way, &sent), held);
        }
    }
}

#[tokio::test]
async fn two_lines_of_authorization_are_refused_however_their_names_are_spelled() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = with_several_keys(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    let (good, bad) = (KEY.as_bytes(), &b"wrong"[..]);
    for (first, second) in [
        (good, bad),
        (bad, good),
        (good, good),
        (good, b""),
        (b"", good),
    ] {
        for way in Way::ALL {
            let mut fields = [
                (&b"authorization"[..], first),
                (b"accept", b"*/*"),
                (b"authorization", second),
            ];
            if way != Way::H2 {
                fields[2].0 = b"AUTHORIZATION";
            }
            let sent = get(API, &fields);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(outcome.refuses(400, "duplicate_authorization"), || {
                format!("{outcome:?}")
            });
            broken.note(
                || show("A4", way, &sent),
                held.and_then(|()| watch.nothing_came()),
            );
        }
    }
}

#[tokio::test]
async fn a_key_that_comes_after_the_head_comes_too_late() {
    let backend = Backend::echoes_the_request();
    let gateway = with_several_keys(&backend).start().await;
    let trailer = format!("0\r\nauthorization: {KEY}\r\n\r\n");
    let post = |path: &str, fields: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\n{fields}transfer-encoding: chunked\r\n\r\n"
        )
    };
    let mut raw = Raw::connect(&gateway).await;
    let request = post("/cobrowsing/api/x", "trailer: authorization\r\n");
    raw.say(request + &trailer).await;
    assert_eq!(raw.answer().await.status, 401, "A5");
    let mut raw = Raw::connect(&gateway).await;
    // Folded: part of the line before, if of anything.
    raw.say(format!(
        "GET /cobrowsing/api/x HTTP/1.1\r\nhost: localhost\r\nx-a: 1\r\n authorization: {KEY}\r\n\r\n"
    ))
    .await;
    assert!(
        matches!(raw.answer().await.status.as_u16(), 400 | 401),
        "A5"
    );
    let mut h2 = H2::connect(&gateway).await;
    let stream = h2.stream();
    let head = block(&request_of(b"POST", b"/cobrowsing/api/x"));
    let late = block(&[(b"authorization", KEY.as_bytes())]);
    h2.say(&h2_raw::headers(stream, false, &head)).await;
    h2.say(&h2_raw::headers(stream, true, &late)).await;
    let answer = h2.answer(stream).await;
    assert!(matches!(answer.status(), None | Some(401)), "A5 {answer:?}");
    assert_eq!(backend.bytes(), b"");
    // A page gets no trailer of that name either.
    let mut raw = Raw::connect(&gateway).await;
    raw.say(post("/cobrowsing/x", "") + &trailer).await;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(backend.only().header("authorization"), None, "A5");
    assert!(crate::support::find(&backend.bytes(), KEY.as_bytes()).is_none());
}

fn request_of<'f>(method: &'f [u8], path: &'f [u8]) -> Vec<Field<'f>> {
    request(method, path, &[])
}

#[tokio::test]
async fn streams_of_one_connection_are_judged_each_by_itself() {
    let backend = Backend::well();
    let gateway = with_several_keys(&backend).start().await;
    let mut h2 = H2::connect(&gateway).await;
    let open = block(&request(b"GET", API, &[WITH_KEY]));
    let shut = block(&request(b"GET", API, &[]));
    let wrong = block(&request(b"GET", API, &[(b"authorization", b"wrong")]));
    let (mut all, mut streams) = (Vec::new(), Vec::new());
    for (head, status) in [(open, 200), (shut, 401), (wrong, 401)]
        .iter()
        .cycle()
        .take(30)
    {
        let stream = h2.stream();
        all.extend(h2_raw::headers(stream, true, head));
        streams.push((stream, *status));
    }
    h2.say(&all).await;
    for (stream, status) in streams {
        let answer = h2.answer(stream).await;
        assert!(
            matches!(answer, Answer::Status(s, _) if s == status),
            "A12 {answer:?}"
        );
    }
    assert_eq!(backend.requests().len(), 10, "A12");
}

#[tokio::test]
async fn the_key_cannot_be_named_away_by_connection() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = with_several_keys(&backend).start().await;
    for named in [
        "authorization",
        "Authorization, close",
        "close, AUTHORIZATION",
    ] {
        for (key, status) in [(None, 401), (Some(WITH_KEY), 200)] {
            let mut fields = vec![(&b"connection"[..], named.as_bytes())];
            fields.extend(key);
            let outcome = send(&gateway, Way::H1, &get(API, &fields)).await;
            assert_eq!(outcome.status, Some(status), "A13 {named}");
        }
        let last = backend.last();
        assert_eq!(
            last.header("authorization").as_deref(),
            Some(KEY),
            "A13 {named}"
        );
    }
    // As handshake, where `Connection` must be there anyway.
    let fields = [(&b"connection"[..], &b"authorization"[..])];
    assert_eq!(
        send(&gateway, Way::Upgrade, &get(API, &fields))
            .await
            .status,
        Some(401),
        "A13"
    );
    assert_eq!(backend.requests().len(), 3);
}

#[tokio::test]
async fn an_upgrade_to_the_api_without_the_key_is_no_way_in() {
    let backend = Backend::upgrades_and_echoes_bytes();
    let gateway = with_several_keys(&backend).start().await;
    for target in [
        "/cobrowsing/api",
        "/cobrowsing/api/socket",
        "/cobrowsing/API/x?y",
    ] {
        for extra in [
            "",
            "sec-websocket-protocol: key-of-the-tests\r\n",
            "origin: https://localhost\r\n",
        ] {
            let mut raw = Raw::connect(&gateway).await;
            let more = [HANDSHAKE, extra.as_bytes()].concat();
            raw.say(head(&get(target.as_bytes(), &[]), &more)).await;
            // What a tunnel would carry at once.
            raw.say(b"\x81\x85\x00\x00\x00\x00hello").await;
            let answer = raw.answer().await;
            assert_eq!(
                (answer.status.as_u16(), &*answer.error()),
                (401, "invalid_api_key"),
                "A14"
            );
            let rest = String::from_utf8_lossy(&raw.rest().await).into_owned();
            assert!(
                rest.is_empty() || rest.starts_with("HTTP/1.1 400"),
                "A14 {rest}"
            );
        }
    }
    assert_eq!(backend.bytes(), b"");
}
