//! `explain` says what the gateway would do, and the gateway does it.

use super::commands::{Ran, run};
use super::support::{Backend, Client, Folder, Gateway, KEY, Proto, Setup};

/// A folder with the file of `setup`, for the command.
fn folder_of(setup: &Setup) -> Folder {
    let folder = Folder::new().with_certificate();
    folder.write("gateway.toml", setup.file());
    folder
}

fn explain(folder: &Folder, arguments: &[&str]) -> String {
    let Ran { code, out, err } = run(
        folder,
        &[&["explain"][..], arguments].concat(),
        &[("REST_KEY", KEY)],
    );
    assert_eq!((code, &*err), (0, ""), "{arguments:?}: {out}");
    assert!(
        !out.contains(KEY) && !out.contains("canary"),
        "{arguments:?}: {out}"
    );
    out
}

/// What stands behind `what`, of the first line that begins with it.
fn said<'o>(out: &'o str, what: &str) -> &'o str {
    let line = out
        .lines()
        .find(|line| line.split(' ').next() == Some(what));
    let line = line.unwrap_or_else(|| panic!("no {what:?} in\n{out}"));
    line[what.len()..].trim_start()
}

#[test]
fn an_api_request_is_explained_from_its_host_to_its_headers() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).with_default_limits();
    let folder = folder_of(&setup);
    let authorization = format!("Authorization: {KEY}");
    let out = explain(
        &folder,
        &[
            "POST",
            "https://localhost/cobrowsing/./api/visitors/ABCD/watch_url?id=canary&naked",
            "-H",
            &authorization,
            "-H",
            "Content-Length: 12",
            "-H",
            "Accept-Encoding: gzip",
            "-H",
            "Connection: x-mine",
            "-H",
            "X-Mine: canary-1",
            "-H",
            "X-Other: canary-2",
            "-H",
            "X-Forwarded-For: 203.0.113.1",
            "-H",
            "Cookie: a=canary-3",
            "--client",
            "192.0.2.1",
        ],
    );
    let upstream = format!(
        "POST http://{}/api/visitors/ABCD/watch_url?id=***&***",
        backend.address
    );
    for (what, expected) in [
        (
            "peer",
            "192.0.2.1, the client: its X-Forwarded-* are not believed",
        ),
        ("host", "localhost, the base endpoint's"),
        (
            "path",
            "/cobrowsing/api/visitors/ABCD/watch_url (canonical)",
        ),
        ("route", "watch_url, of the API: needs a key"),
        ("key", "right: the one named rest_key"),
        (
            "limit",
            "failed_auth: failed authentications of 192.0.2.1: 10 at once, then 30 in 1m",
        ),
        ("body", "12 bytes, at most 65536 bytes (api.max_body)"),
        ("upstream", &upstream),
        ("passed", "on  x-other, cookie, authorization"),
        ("left", "out   accept-encoding, connection, x-mine"),
        ("verdict", "forwarded"),
    ] {
        assert_eq!(said(&out, what), expected, "{out}");
    }
    for line in [
        "limit      client: requests of 192.0.2.1: 100 at once, then 600 in 1m",
        "limit      key: requests with the key rest_key: 200 at once, then 1200 in 1m",
        "written    x-forwarded-for: 192.0.2.1",
        "written    host: localhost",
        "written    x-forwarded-proto: https",
        "written    content-length: 12",
    ] {
        assert!(out.lines().any(|l| l == line), "{line:?} is not in\n{out}");
    }
    assert!(
        said(&out, "answer").ends_with("in a JSON body watch_url"),
        "{out}"
    );
}

#[test]
fn each_refusal_is_explained_with_its_status_and_code() {
    let backend = Backend::well();
    let folder = folder_of(&Gateway::before(&backend));
    let api = "/cobrowsing/api/visitors/1";
    let wrong: &[&str] = &["GET", api, "-H", "Authorization: canary"];
    let twice: &[&str] = &[
        "GET",
        api,
        "-H",
        "Authorization: canary",
        "-H",
        "Authorization: canary",
    ];
    let long = format!("X-Long: {}", "x".repeat(40_000));
    let authorization = format!("Authorization: {KEY}");
    for (arguments, refused) in [
        (&["GET", api][..], "401 invalid_api_key"),
        (wrong, "401 invalid_api_key"),
        (twice, "400 duplicate_authorization"),
        (&["GET", "/elsewhere"], "404 not_found"),
        (
            &["GET", "https://elsewhere.test/cobrowsing/"],
            "421 misdirected_request",
        ),
        (
            &["GET", "/cobrowsing/", "-H", "Host: elsewhere.test"],
            "421 misdirected_request",
        ),
        (&["GET", "/cobrowsing/a%2fb"], "400 ambiguous_path"),
        (&["GET", "/cobrowsing/a b"], "400 bad_request"),
        (&["GET", "/cobrowsing/#x"], "400 bad_request"),
        (
            &["GET", "/cobrowsing/", "-H", "No colon"],
            "400 bad_request",
        ),
        (
            &[
                "GET",
                "/cobrowsing/",
                "-H",
                "Content-Length: 1",
                "-H",
                "Transfer-Encoding: chunked",
            ],
            "400 bad_request",
        ),
        (&["TRACE", "/cobrowsing/"], "405 method_not_allowed"),
        (
            &["GET", "/cobrowsing/", "-H", &long],
            "431 header_fields_too_large",
        ),
        (
            &[
                "POST",
                api,
                "-H",
                &authorization,
                "-H",
                "Content-Length: 65537",
            ],
            "413 payload_too_large",
        ),
    ] {
        let out = explain(&folder, arguments);
        let verdict = said(&out, "verdict");
        assert!(
            verdict.starts_with(&format!("refused: {refused}: ")),
            "{arguments:?}: {out}"
        );
    }
    assert_eq!(backend.bytes(), b"", "nothing is sent");
    let closed = run(&folder, &["explain", "GET", api], &[]);
    assert!(said(&closed.out, "verdict").starts_with("refused: 401 api_not_enabled"));
    // Who types a line break asks for no request.
    let ran = run(&folder, &["explain", "GET", "/", "-H", "A: b\r\nC: d"], &[]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(run(&folder, &["explain", "GET"], &[]).code, 2);
    let bad = run(
        &folder,
        &["explain", "GET", "/"],
        &[("GATEWAY__API__PATH", "/")],
    );
    assert_eq!(bad.code, 1);
    assert!(bad.err.contains("api.path"), "{}", bad.err);
}

#[test]
fn pages_redirects_sockets_and_proxies_are_explained() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend)
        .toml("public.trusted_proxies = ['10.0.0.0/8']\npublic.extra_hosts = ['more.test']")
        .toml("overload.except = ['/poll']")
        .toml("[[rate_limit.policy]]\nname = 'p'\nper = 'client'\nrate = '1/1s'\nexcept = ['192.0.2.0/24']\nenforce = false");
    let folder = folder_of(&setup);
    let out = explain(&folder, &["GET", "/cobrowsing"]);
    assert!(
        said(&out, "verdict").starts_with("308 to https://localhost/cobrowsing/"),
        "{out}"
    );
    let out = explain(&folder, &["GET", "https://more.test:8443/cobrowsing/x"]);
    assert_eq!(said(&out, "host"), "more.test, of public.extra_hosts");
    assert_eq!(
        said(&out, "route"),
        "page, no part of the API: needs no key"
    );
    assert!(!out.contains("\nlimit "), "{out}");
    assert_eq!(
        said(&out, "place"),
        "until its answer begins, as page: these fill 8 of 10 places; limits.requests = 10000, fewer while answers are slow (overload.adaptive)"
    );
    let out = explain(&folder, &["GET", "/cobrowsing/poll/x"]);
    assert_eq!(
        said(&out, "place"),
        "none is taken: its path is one of overload.except"
    );
    let out = explain(
        &folder,
        &[
            "GET",
            "/cobrowsing/socket",
            "-H",
            "Connection: upgrade",
            "-H",
            "Upgrade: websocket",
            "-H",
            "Sec-WebSocket-Version: 13",
            "-H",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ],
    );
    assert_eq!(
        said(&out, "websocket"),
        "a handshake; websocket.idle = 1h, max_age = off, ping = off"
    );
    assert_eq!(said(&out, "verdict"), "forwarded");
    let authorization = format!("Authorization: {KEY}");
    let behind = |client: &str| {
        let forwarded = format!("X-Forwarded-For: {client}");
        explain(
            &folder,
            &[
                "GET",
                "/cobrowsing/api/x",
                "-H",
                &authorization,
                "-H",
                &forwarded,
                "--client",
                "10.1.2.3",
            ],
        )
    };
    let out = behind("2001:db8::7");
    assert_eq!(
        said(&out, "client"),
        "2001:db8::7, as the peer's X-Forwarded-For says"
    );
    assert_eq!(
        said(&out, "limit"),
        "p: requests of 2001:db8::/64: 1 at once, then 1 in 1s; only counted (enforce = false)"
    );
    assert!(
        out.contains("written    x-forwarded-for: 2001:db8::7, 10.1.2.3\n"),
        "{out}"
    );
    let out = behind("192.0.2.9");
    assert!(
        said(&out, "limit").ends_with("not asked: the client is one of its exceptions"),
        "{out}"
    );
}

#[test]
fn what_becomes_of_the_key_is_explained_and_the_key_not_shown() {
    let backend = Backend::well();
    let explained = |forward: &str| {
        let folder = folder_of(&Gateway::before(&backend).toml(forward));
        let authorization = format!("Authorization: {KEY}");
        explain(&folder, &["GET", "/cobrowsing/api/x", "-H", &authorization])
    };
    let out = explained("api.forward_authorization = 'strip'");
    assert_eq!(said(&out, "left"), "out   authorization");
    let out = explained("api.forward_authorization = 'replace'\napi.upstream_key = 'canary'");
    assert!(
        out.contains("written    authorization: *** (the backend's own)\n"),
        "{out}"
    );
    let out = explained("api.forward_authorization = 'keep'");
    assert_eq!(said(&out, "passed"), "on  authorization");
}

/// The verdict of the command against what a gateway with the same file answers and sends.
#[tokio::test]
async fn the_running_gateway_does_what_is_explained() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).base_path("/up/tree");
    let folder = folder_of(&setup);
    let gateway = setup.start().await;
    let right = ("authorization", KEY);
    for (method, path, header) in [
        (
            "GET",
            "/cobrowsing/api/visitors/list/latest?q=1",
            Some(right),
        ),
        ("GET", "/cobrowsing/api/visitors/list/latest", None),
        (
            "GET",
            "/cobrowsing/api/visitors/1",
            Some(("authorization", "canary")),
        ),
        ("GET", "/cobrowsing/a/../b//c?x=y", None),
        ("GET", "/cobrowsing/%61pi/x", None),
        ("GET", "/cobrowsing/%61pi/x", Some(right)),
        ("GET", "/cobrowsing", None),
        ("GET", "/other", None),
        ("GET", "/cobrowsing/x%5cy", None),
        (
            "DELETE",
            "/cobrowsing/x",
            Some(("x-forwarded-host", "evil.test")),
        ),
        ("GET", "/cobrowsing/x", Some(("host", "evil.test"))),
        ("TRACE", "/cobrowsing/x", None),
    ] {
        let field = header.map(|(name, value)| format!("{name}: {value}"));
        let mut arguments = vec![method, path];
        arguments.extend(field.iter().flat_map(|field| ["-H", field.as_str()]));
        let out = explain(&folder, &arguments);
        backend.forget();
        let mut client = Client::connect(&gateway, Proto::H1).await;
        let headers: Vec<_> = header.into_iter().collect();
        let reply = client.call(method, path, &headers, "").await;
        let verdict = said(&out, "verdict");
        if verdict == "forwarded" {
            let sent = backend.only();
            let url = format!(
                "{method} http://{}{}",
                backend.address,
                sent.target.split('?').next().unwrap()
            );
            let explained = said(&out, "upstream");
            assert_eq!(explained.split('?').next().unwrap(), url, "{out}");
            for line in out.lines().filter_map(|line| line.strip_prefix("written")) {
                let (name, value) = line.trim_start().split_once(": ").unwrap();
                if name != "x-request-id" {
                    assert_eq!(sent.header(name).as_deref(), Some(value), "{out}");
                }
            }
        } else {
            assert_eq!(backend.requests().len(), 0, "{out}");
            let status = reply.status.as_u16().to_string();
            assert!(verdict.contains(&status), "{reply:?} {out}");
        }
    }
}
