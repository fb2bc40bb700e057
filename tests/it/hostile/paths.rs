//! Paths that mean one thing to a gateway and another to the backend (P1 to P16).

use super::{Broken, Field, Held, Sent, WITH_KEY, Watch, Way, get, send, show, so};
use crate::support::{Backend, Gateway, find};

/// What a target is.
#[derive(Clone, Copy, Debug)]
enum Is {
    /// The API: without the key refused, with it upstream as this and nothing else.
    Api(&'static str),
    /// A page: upstream as this.
    Page(&'static str),
    /// Refused with this status and code, key or not.
    Refused(u16, &'static str),
    /// Outside the base path.
    Nowhere,
}

type Case = (&'static str, &'static [u8], Is);

const AMBIGUOUS: Is = Is::Refused(400, "ambiguous_path");
const BAD: Is = Is::Refused(400, "bad_request");

const CASES: &[Case] = &[
    // A prefix that is not cut at a segment's border.
    (
        "P1",
        b"/cobrowsing/api../visitors/list/latest",
        Is::Api("/api../visitors/list/latest"),
    ),
    ("P1", b"/cobrowsing/api./x", Is::Api("/api./x")),
    ("P1", b"/cobrowsing/api.../x", Is::Api("/api.../x")),
    ("P1", b"/cobrowsing/api%20/x", Is::Api("/api%20/x")),
    ("P1", b"/cobrowsing/api%2e%2e/x", Is::Api("/api../x")),
    ("P1", b"/cobrowsing/api..", Is::Api("/api..")),
    // Dot segments.
    (
        "P2",
        b"/cobrowsing/x/../api/visitors/1",
        Is::Api("/api/visitors/1"),
    ),
    (
        "P2",
        b"/cobrowsing/./api/visitors/1",
        Is::Api("/api/visitors/1"),
    ),
    (
        "P2",
        b"/cobrowsing/api/../api/visitors/1",
        Is::Api("/api/visitors/1"),
    ),
    ("P2", b"/cobrowsing/api/..", Is::Page("/")),
    ("P2", b"/cobrowsing/api/.", Is::Api("/api/")),
    ("P2", b"/cobrowsing/../cobrowsing/api/x", Is::Api("/api/x")),
    ("P2", b"/../../cobrowsing/api/x", Is::Api("/api/x")),
    ("P2", b"/x/../cobrowsing/x/y/../../api", Is::Api("/api")),
    ("P2", b"/cobrowsing/..", Is::Nowhere),
    ("P2", b"/cobrowsing/../api/visitors/1", Is::Nowhere),
    // Escapes of what needs none.
    (
        "P3",
        b"/cobrowsing/%61pi/visitors/1",
        Is::Api("/api/visitors/1"),
    ),
    (
        "P3",
        b"/cobrowsing/%61%70%69/visitors/1",
        Is::Api("/api/visitors/1"),
    ),
    (
        "P3",
        b"/cobrowsing/%2e%2e/cobrowsing/api/x",
        Is::Api("/api/x"),
    ),
    ("P3", b"/cobrowsing/x/%2E%2e/api/x", Is::Api("/api/x")),
    ("P3", b"/cobrowsing/x/.%2E/api/x", Is::Api("/api/x")),
    ("P3", b"/%63obrowsing/ap%69", Is::Api("/api")),
    ("P3", b"/cobrowsing/%7Euser/%2D", Is::Page("/~user/-")),
    // Slashes in disguise.
    ("P4", b"/cobrowsing/api%2fvisitors", AMBIGUOUS),
    ("P4", b"/cobrowsing/api%2Fvisitors", AMBIGUOUS),
    ("P4", b"/cobrowsing%2Fapi/x", AMBIGUOUS),
    ("P4", b"/cobrowsing/x%2f..%2fapi", AMBIGUOUS),
    ("P4", b"/cobrowsing/api%5cvisitors", AMBIGUOUS),
    ("P4", b"/cobrowsing/x%5C..%5Capi", AMBIGUOUS),
    ("P4", b"/cobrowsing/x\\..\\api", AMBIGUOUS),
    ("P4", b"/cobrowsing\\api", AMBIGUOUS),
    // Encoded twice.
    ("P5", b"/cobrowsing/%252e%252e%252fapi", AMBIGUOUS),
    ("P5", b"/cobrowsing/%2561pi", AMBIGUOUS),
    ("P5", b"/cobrowsing/x%25", AMBIGUOUS),
    ("P5", b"/cobrowsing/%25%36%31pi", AMBIGUOUS),
    // Empty segments.
    ("P6", b"//cobrowsing/api/x", Is::Api("/api/x")),
    ("P6", b"/cobrowsing//api/x", Is::Api("/api/x")),
    ("P6", b"/cobrowsing/api//visitors", Is::Api("/api/visitors")),
    ("P6", b"///cobrowsing///api///", Is::Api("/api/")),
    ("P6", b"//evil.test/../cobrowsing/api", Is::Api("/api")),
    ("P6", b"/cobrowsing//x", Is::Page("/x")),
    // Letter case: the API for a backend that folds it.
    ("P7", b"/cobrowsing/API/x", Is::Api("/API/x")),
    ("P7", b"/cobrowsing/aPi", Is::Api("/aPi")),
    ("P7", b"/cobrowsing/%41PI/x", Is::Api("/API/x")),
    // Parameters.
    ("P8", b"/cobrowsing/api;x=1/visitors/1", AMBIGUOUS),
    ("P8", b"/cobrowsing;a=b/api/x", AMBIGUOUS),
    ("P8", b"/cobrowsing/x;/../api/x", AMBIGUOUS),
    ("P8", b"/cobrowsing/api;", AMBIGUOUS),
    ("P8", b"/cobrowsing/api%3Bx=1/x", Is::Api("/api%3Bx=1/x")),
    // Controls and what is no UTF-8, escaped.
    ("P10", b"/cobrowsing/%00", AMBIGUOUS),
    ("P10", b"/cobrowsing/api%00.html", AMBIGUOUS),
    ("P10", b"/cobrowsing/x%0d%0ahost:%20evil", AMBIGUOUS),
    ("P10", b"/cobrowsing/%09", AMBIGUOUS),
    ("P10", b"/cobrowsing/%7f", AMBIGUOUS),
    ("P10", b"/cobrowsing/..%c0%afapi", AMBIGUOUS),
    ("P10", b"/cobrowsing/%e0%80%af", AMBIGUOUS),
    ("P10", b"/cobrowsing/%c0%ae%c0%ae/api", AMBIGUOUS),
    ("P10", b"/cobrowsing/%ff", AMBIGUOUS),
    ("P10", b"/cobrowsing/%ed%a0%80", AMBIGUOUS),
    ("P10", b"/cobrowsing/%zz", BAD),
    ("P10", b"/cobrowsing/%4", BAD),
    ("P10", b"/cobrowsing/%", BAD),
    ("P10", b"/cobrowsing/%u0061pi", BAD),
    // Delimiters that are escaped stay so.
    ("P11", b"/cobrowsing/x%3fy", Is::Page("/x%3Fy")),
    ("P11", b"/cobrowsing/x%23y", Is::Page("/x%23y")),
    ("P11", b"/cobrowsing/x%3f/../api/x", Is::Api("/api/x")),
    ("P11", b"/cobrowsing/api%3f/x", Is::Api("/api%3F/x")),
    ("P11", b"/cobrowsing/api%23/x", Is::Api("/api%23/x")),
    // Beside the base path.
    ("P14", b"/cobrowsingx/api", Is::Nowhere),
    ("P14", b"/cobrowsing.", Is::Nowhere),
    ("P14", b"/cobrowsing%20/x", Is::Nowhere),
    ("P14", b"/api/visitors/1", Is::Nowhere),
    ("P14", b"/", Is::Nowhere),
];

/// Paths of real pages, which arrive byte for byte.
const PAGES: &[&str] = &[
    "/",
    "/a%20file.js",
    "/caf%C3%A9/%E2%82%AC/%F0%9F%98%80",
    "/@scope/pkg@1.2.3:8/x",
    "/~user/a-b_c.d",
    "/a+b!c$d&e'f(g)h*i,j=k",
    "/[x]|y^z",
    "/%22quoted%22/%3Ctag%3E",
    "/x.",
    "/..x/.hidden/x..",
    "/apis/x/api",
    "/a?b",
    "/a?",
    "/a??b?c=/../x",
    "/a?next=%2Fcobrowsing%2Fapi%2f..",
    "/a?q=%23tag;x=1&%zz&%00%0d%0a",
    "/a?q={json:[1,2]}|\\^`",
    "/screen?id=ABCD1234&token=eyJhbGciOi.J9-_~",
];

/// Whether a case is held when it is sent in this way, with the key or without.
async fn held(
    gateway: &Gateway,
    watch: &mut Watch<'_>,
    (way, keyed): (Way, bool),
    sent: &Sent<'_>,
    is: Is,
) -> Held {
    let mut fields = sent.fields.to_vec();
    fields.extend(keyed.then_some(WITH_KEY));
    let fields = &*fields;
    let outcome = send(gateway, way, &Sent { fields, ..*sent }).await;
    let seen = || format!("{outcome:?}");
    let fine = if way == Way::Upgrade { 101 } else { 200 };
    match is {
        Is::Api(_) if !keyed => so(outcome.refuses(401, "invalid_api_key"), seen)?,
        Is::Api(target) | Is::Page(target) => {
            let came = watch.one_came_as(target);
            so(outcome.status == Some(fine), seen)?;
            return came;
        }
        Is::Refused(status, code) => {
            // HTTP/2 may end the stream instead: such a request is malformed there.
            let reset = way == Way::H2 && status == 400 && outcome.status.is_none();
            so(reset || outcome.refuses(status, code), seen)?;
        }
        Is::Nowhere => so(outcome.refuses(404, "not_found"), seen)?,
    }
    watch.nothing_came()
}

/// Sends cases in every way, without and with the key.
async fn hold(backend: &Backend, gateway: &Gateway, cases: &[Case]) {
    let mut watch = Watch::new(backend);
    let mut broken = Broken::default();
    for (number, target, is) in cases {
        let sent = get(target, &[]);
        for way in Way::ALL {
            for keyed in [false, true] {
                let held = held(gateway, &mut watch, (way, keyed), &sent, *is).await;
                broken.note(|| show(number, way, &sent), held);
            }
        }
    }
}

#[tokio::test]
async fn the_path_that_is_judged_is_the_path_that_is_forwarded() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    hold(&backend, &gateway, CASES).await;
}

#[tokio::test]
async fn paths_and_queries_of_real_pages_arrive_byte_for_byte() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let long = &*format!("/a?{}", "x=1&".repeat(3 << 10)).leak();
    let pages = PAGES.iter().copied().chain([long]);
    let cases: Vec<Case> = pages
        .map(|page| {
            let target = format!("/cobrowsing{page}").leak();
            ("page", target.as_bytes(), Is::Page(page))
        })
        .collect();
    hold(&backend, &gateway, &cases).await;
}

/// What is no path below the base, and targets that are no paths.
#[tokio::test]
async fn targets_that_are_no_paths_are_refused() {
    type Case = (&'static str, &'static [u8], &'static [u8], &'static [u16]);
    let cases: &[Case] = &[
        ("P13", b"CONNECT", b"localhost:443", &[501]),
        ("P13", b"CONNECT", b"evil.test:443", &[501]),
        ("P13", b"TRACE", b"/cobrowsing/x", &[405]),
        ("P13", b"TRACE", b"/cobrowsing/api/x", &[405]),
        ("P13", b"TRACE", b"*", &[400, 405]),
        ("P13", b"OPTIONS", b"*", &[204, 400]),
        ("P13", b"GET", b"*", &[400]),
        ("P13", b"GET", b"api", &[400]),
        ("P13", b"GET", b"cobrowsing/api", &[400]),
        ("P13", b"GET", b"?x", &[400, 404]),
        ("P13", b"GET", b"", &[400]),
        ("P13", b"GET", b"../cobrowsing", &[400]),
        ("P13", b"GET", b"localhost:443", &[400]),
        // Bytes that no target has.
        ("P10", b"GET", b"/cobrowsing/\x00", &[400]),
        ("P10", b"GET", b"/cobrowsing/api\x00", &[400]),
        ("P10", b"GET", b"/cobrowsing/a\tb", &[400]),
        ("P10", b"GET", b"/cobrowsing/\x7f", &[400]),
        ("P10", b"GET", b"/cobrowsing/\xff", &[400]),
        ("P10", b"GET", b"/cobrowsing/\xc0\xaf", &[400]),
        ("P10", b"GET", b"/cobrowsing/x\rhost: evil", &[400]),
        ("P10", b"GET", b"/cobrowsing/ x", &[400]),
        ("P10", b"GET", b"/cobrowsing/x HTTP/1.1\r\nx: y", &[400]),
        ("P10", b"GET", b"/cobrowsing/\"x\"", &[400]),
        ("P10", b"GET", b"/cobrowsing/<x>", &[400]),
    ];
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    for (number, method, target, statuses) in cases {
        for way in Way::ALL {
            // A whole head in the target is one over HTTP/1.1.
            if way != Way::H2 && target.ends_with(b"\nx: y") {
                continue;
            }
            let sent = Sent {
                method,
                ..get(target, &[WITH_KEY])
            };
            let outcome = send(&gateway, way, &sent).await;
            let reset = way == Way::H2 && outcome.status.is_none();
            let refused = reset || outcome.status.is_some_and(|s| statuses.contains(&s));
            let held = so(refused, || format!("{outcome:?}")).and_then(|()| watch.nothing_came());
            broken.note(|| show(number, way, &sent), held);
        }
    }
}

#[tokio::test]
async fn the_base_path_itself_is_sent_to_the_one_with_a_slash() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    for (target, location) in [
        (&b"/cobrowsing"[..], "/cobrowsing/"),
        (b"/cobrowsing?x", "/cobrowsing/?x"),
        (b"//cobrowsing", "/cobrowsing/"),
        (
            b"/x/../cobrowsing?a=//evil.test",
            "/cobrowsing/?a=//evil.test",
        ),
        (b"/c%6fbrowsing", "/cobrowsing/"),
    ] {
        let outcome = send(&gateway, Way::H1, &get(target, &[])).await;
        assert_eq!(outcome.status, Some(308), "P14 {target:?}");
        assert_eq!(outcome.location.as_deref(), Some(location), "P14");
        let outcome = send(&gateway, Way::H2, &get(target, &[])).await;
        assert_eq!(outcome.status, Some(308), "P14 {target:?}");
    }
    assert_eq!(backend.bytes(), b"");
}

#[tokio::test]
async fn only_our_own_hosts_are_answered_however_they_are_spelled() {
    let cases: &[(&[u8], &[u16])] = &[
        (b"localhost", &[200, 101]),
        (b"LOCALhost", &[200, 101]),
        (b"localhost:8443", &[200, 101]),
        (b"localhost:", &[200, 101]),
        (b"[::1]", &[200, 101]),
        (b"[::1]:443", &[200, 101]),
        (b"localhost.", &[421]),
        (b"localhost.evil.test", &[421]),
        (b"evil.test", &[421]),
        (b"127.0.0.1", &[421]),
        (b"[::2]", &[421]),
        (b"", &[400]),
        (b":443", &[400]),
        (b"localhost:x", &[400]),
        (b"localhost,evil.test", &[400]),
        (b"evil.test@localhost", &[400]),
        (b"localhost@evil.test", &[400]),
        (b"localhost/x", &[400]),
        (b"localhost#evil", &[400]),
        (b"local\thost", &[400]),
        (b"local host", &[400]),
        (b"localhost\\evil", &[400]),
        (b"l\xc3\xb6calhost", &[400]),
    ];
    let backend = Backend::upgrades_and_echoes_messages();
    let setup = Gateway::before(&backend).toml("public.extra_hosts = ['[::1]']");
    let gateway = setup.start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    for (host, statuses) in cases {
        for way in Way::ALL {
            let sent = Sent {
                host,
                ..get(b"/cobrowsing/x", &[])
            };
            let outcome = send(&gateway, way, &sent).await;
            let reset = way == Way::H2 && statuses == &[400] && outcome.status.is_none();
            let held = reset || outcome.status.is_some_and(|s| statuses.contains(&s));
            let held = so(held, || format!("{outcome:?}")).and_then(|()| match statuses {
                [200, _] => watch.one_came_as("/x"),
                _ => watch.nothing_came(),
            });
            broken.note(|| show("P15", way, &sent), held);
        }
    }
}

#[tokio::test]
async fn a_target_and_a_host_that_name_two_servers_reach_neither() {
    // Whose the target is not: 421, whatever `Host` says. Who could be two: 400.
    let cases: &[(&str, &[u8], &[Field], u16)] = &[
        ("P12", b"http://evil.test/cobrowsing/api/x", &[], 421),
        ("P12", b"https://evil.test/cobrowsing/x", &[], 421),
        ("P12", b"https://evil.test:443/cobrowsing/x", &[], 421),
        ("P12", b"https://evil.test/cobrowsing/x", &[WITH_KEY], 421),
        ("P12", b"ftp://evil.test/cobrowsing/x", &[], 421),
        ("P12", b"https://localhost@evil.test/cobrowsing/x", &[], 400),
        ("P12", b"https://evil.test#localhost/cobrowsing/x", &[], 400),
        ("P12", b"https:///cobrowsing/x", &[], 400),
        ("P15", b"/cobrowsing/x", &[(b"host", b"localhost")], 400),
        ("P15", b"/cobrowsing/x", &[(b"Host", b"evil.test")], 400),
        ("P15", b"/cobrowsing/x", &[(b"hOST", b"")], 400),
        (
            "P15",
            b"https://localhost/cobrowsing/x",
            &[(b"host", b"evil.test")],
            400,
        ),
    ];
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    for (number, target, fields, status) in cases {
        for way in [Way::H1, Way::Upgrade] {
            let sent = get(target, fields);
            let outcome = send(&gateway, way, &sent).await;
            let refused = outcome.status == Some(*status);
            let held = so(refused, || format!("{outcome:?}")).and_then(|()| watch.nothing_came());
            broken.note(|| show(number, way, &sent), held);
        }
    }
    let held = send(
        &gateway,
        Way::H1,
        &get(b"https://localhost/cobrowsing/api/x", &[]),
    )
    .await;
    assert_eq!(held.status, Some(401), "P12");
    // Over HTTP/2 the authority is no part of the target.
    let sent = Sent {
        host: b"evil.test",
        ..get(b"/cobrowsing/x", &[])
    };
    assert_eq!(
        send(&gateway, Way::H2, &sent).await.status,
        Some(421),
        "P12"
    );
    let held = send(
        &gateway,
        Way::H1,
        &get(b"https://LOCALHOST:1/cobrowsing/x", &[]),
    )
    .await;
    assert_eq!(held.status, Some(200), "P12");
    broken.note(|| "P12".into(), watch.one_came_as("/x"));
}

#[tokio::test]
async fn headers_that_name_another_path_or_method_decide_nothing_and_go_no_further() {
    decided_by_none_of(&[
        b"x-original-url",
        b"x-rewrite-url",
        b"x-forwarded-uri",
        b"x-forwarded-path",
        b"x-forwarded-prefix",
        b"x-forwarded-method",
        b"x-forwarded-server",
        b"x-envoy-original-path",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x_original_url",
        b"x.rewrite_url",
    ])
    .await;
}

async fn decided_by_none_of(names: &[&[u8]]) {
    const PAGE: &[u8] = b"/cobrowsing/page";
    const API: &[u8] = b"/cobrowsing/api/visitors/1";
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    for name in names {
        for way in Way::ALL {
            let field = [(*name, API)];
            let sent = get(PAGE, &field);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(matches!(outcome.status, Some(200 | 101)), || {
                format!("{outcome:?}")
            });
            let case = || format!("{} {}", show("P16", way, &sent), name.escape_ascii());
            broken.note(case, held.and_then(|()| watch.one_came_as("/page")));
            // The one that we write ourselves says what is true.
            let passed = find(format!("{:?}", backend.last().headers).as_bytes(), API);
            broken.note(case, so(passed.is_none(), || "passed on".into()));
            let field = [(*name, PAGE)];
            let sent = get(API, &field);
            let outcome = send(&gateway, way, &sent).await;
            let held = so(outcome.refuses(401, "invalid_api_key"), || {
                format!("{outcome:?}")
            });
            let case = || format!("{} {}", show("P16", way, &sent), name.escape_ascii());
            broken.note(case, held.and_then(|()| watch.nothing_came()));
        }
    }
}

const FRAGMENTS: &[&[u8]] = &[
    b"/cobrowsing/x#/../api",
    b"/cobrowsing/api#y",
    b"/cobrowsing/#",
    b"/cobrowsing/x?a#b",
];

async fn refused(ways: &[Way]) {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut watch = Watch::new(&backend);
    let mut broken = Broken::default();
    for target in FRAGMENTS {
        for way in ways {
            let sent = get(target, &[]);
            let held = held(&gateway, &mut watch, (*way, true), &sent, BAD).await;
            broken.note(|| show("P9", *way, &sent), held);
        }
    }
}

#[tokio::test]
async fn a_fragment_is_refused() {
    refused(&[Way::H1, Way::Upgrade, Way::H2]).await;
}

#[tokio::test]
async fn the_uri_that_nginx_would_have_seen_goes_no_further() {
    decided_by_none_of(&[b"x-original-uri"]).await;
}
