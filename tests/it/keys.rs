//! Several keys at once: where they come from, how they are given, and what becomes of them.

use std::process::{Command, Output, Stdio};

use tokio_tungstenite::tungstenite::Error;

use super::support::{
    BINARY, Backend, Client, Folder, Gateway, KEY, Proto, Reply, Setup, find, until, websocket,
};

const API: &str = "/cobrowsing/api/visitors/1";
const PAGE: &str = "/cobrowsing/page";
/// The first three lines of a configuration.
const GOOD: &str = "public.base_endpoint = 'https://localhost/c'\ntls.certificate = 'cert.pem'\ntls.key = 'cert.key'\n";

/// As the configuration may have a key instead of the key itself.
fn sha256(key: &str) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let digest = digest(&SHA256, key.as_bytes());
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    H1,
    H2,
    /// As WebSocket handshake.
    Upgrade,
}

const WAYS: [Way; 3] = [Way::H1, Way::H2, Way::Upgrade];

/// Sends a request; its status, and the code of a refusal.
async fn call(
    gateway: &Gateway,
    way: Way,
    path: &str,
    headers: &[(&'static str, &str)],
) -> (u16, String) {
    let proto = match way {
        Way::H1 => Proto::H1,
        Way::H2 => Proto::H2,
        Way::Upgrade => {
            return match websocket(gateway, path, headers).await {
                Ok(_) => (101, String::new()),
                Err(Error::Http(answer)) => {
                    let body = answer.body().as_deref().unwrap_or_default();
                    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
                    let code = body["error"].as_str().unwrap_or_default();
                    (answer.status().as_u16(), code.to_owned())
                }
                Err(e) => panic!("{e}"),
            };
        }
    };
    let mut client = Client::connect(gateway, proto).await;
    told(&client.call("GET", path, headers, "").await)
}

fn told(reply: &Reply) -> (u16, String) {
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let code = body["error"].as_str().unwrap_or_default();
    (reply.status.as_u16(), code.to_owned())
}

fn check(folder: &Folder, environment: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .arg("check")
        .current_dir(&folder.0)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

// -- where keys come from ----------------------------------------------------------------

#[tokio::test]
async fn keys_of_every_place_are_let_in_at_once_and_counted_by_their_names() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml(&format!(
            "api.keys.monitoring = 'second key'\napi.keys.hashed = '{}'",
            sha256("third key")
        ))
        // Relative to the configuration file.
        .toml("api.keys_file = './keys'")
        .beside(
            "keys",
            &format!(
                "# the back office\r\n\r\noffice: fourth: key\r\n  old.one :{}\n",
                sha256("fifth key")
            ),
        )
        .start()
        .await;
    let keys = [
        ("rest_key", KEY),
        ("monitoring", "second key"),
        ("hashed", "third key"),
        ("office", "fourth: key"),
        ("old.one", "fifth key"),
    ];
    let series = |name: &str| {
        [
            format!("gateway_auth_total{{key_id=\"{name}\",result=\"ok\"}}"),
            format!("gateway_key_last_used_timestamp_seconds{{key_id=\"{name}\"}}"),
        ]
    };
    // Each is there before it is used.
    let text = gateway.metrics().await;
    for (name, _) in keys {
        for series in series(name) {
            assert!(
                text.contains(&format!("\n{series} 0\n")),
                "{series}: {text}"
            );
        }
    }
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for (name, key) in keys {
            backend.forget();
            let headers = [("authorization", key)];
            let reply = client.call("GET", API, &headers, "").await;
            assert_eq!(reply.status, 200, "{name}");
            assert_eq!(backend.only().all("authorization"), [key], "{name}");
            // A digest is no key, and neither is a name.
            for wrong in [sha256(key), name.to_owned(), format!("{name}: {key}")] {
                let headers = [("authorization", &*wrong)];
                let reply = client.call("GET", API, &headers, "").await;
                assert_eq!(reply.error(), "invalid_api_key", "{wrong}");
            }
        }
    }
    for (name, _) in keys {
        let [used, last_used] = series(name);
        assert_eq!(gateway.metric(&used).await, 2.0, "{name}");
        assert!(gateway.metric(&last_used).await > 1.7e9, "{name}");
    }
    until("the log lines", || gateway.requests().len() == 40).await;
    let mut told: Vec<_> = gateway
        .requests()
        .iter()
        .filter_map(|line| Some(line["key_id"].as_str()?.to_owned()))
        .collect();
    told.dedup();
    let names = keys.map(|(name, _)| name);
    assert_eq!(told, [names, names].concat());
}

#[tokio::test]
async fn a_keys_file_of_the_environment_is_read_from_where_the_gateway_runs() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .without_key()
        .env("GATEWAY__API__KEYS_FILE", "keys")
        .beside("keys", "office: K\n");
    let gateway = gateway.start().await;
    let answer = call(&gateway, Way::H2, API, &[("authorization", "K")]).await;
    assert_eq!(answer.0, 200);
}

#[test]
fn key_files_are_named_from_where_the_configuration_lies() {
    for (toml, named) in [
        ("api.keys_file = 'wrong'", "etc/wrong:1"),
        (
            "api.forward_authorization = 'replace'\napi.upstream_key_file = 'wrong'",
            "\"etc/wrong\"",
        ),
        ("api.keys_file = 'off'\napi.upstream_key_file = 'off'", ""),
    ] {
        let folder = Folder::new();
        let within = Folder(folder.0.join("etc"));
        std::fs::create_dir(&within.0).unwrap();
        let within = within.with_certificate();
        within.write("gateway.toml", format!("{GOOD}{toml}"));
        within.write("wrong", "\u{7f}");
        let output = Command::new(BINARY)
            .args(["check", "--config", "etc/gateway.toml"])
            .current_dir(&folder.0)
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), named.is_empty(), "{said}");
        assert!(said.contains(named), "{named}: {said}");
    }
}

#[tokio::test]
async fn an_empty_or_unreadable_keys_file_closes_the_api_with_a_warning() {
    let backend = Backend::upgrades_and_echoes_messages();
    let folder = Folder::new();
    let directory = folder.0.to_str().unwrap();
    for (file, content, why) in [
        ("keys", Some(""), "holds no key"),
        ("keys", Some("\n\r\n"), "holds no key"),
        ("keys", Some("# office: key-of-the-tests\n"), "holds no key"),
        ("keys", None, "cannot be read"),
        (directory, None, "cannot be read"),
    ] {
        let mut setup = Gateway::before(&backend).toml(&format!("api.keys_file = {file:?}"));
        if let Some(content) = content {
            setup = setup.beside("keys", content);
        }
        let told = |gateway: &Gateway| {
            let log = gateway.log();
            let named =
                |line: &&String| line.contains("WARN") && line.contains(file) && line.contains(why);
            log.iter().filter(named).count()
        };
        // Another key is another key.
        let gateway = setup.clone().start().await;
        let right = [("authorization", KEY)];
        assert_eq!(call(&gateway, Way::H1, API, &right).await.0, 200, "{file}");
        assert_eq!(told(&gateway), 1, "{:?}", gateway.log());
        // Without any the API is closed, for who sends nothing, too, and the pages are open.
        let gateway = setup.without_key().start().await;
        backend.forget();
        for way in WAYS {
            for headers in [&[][..], &right, &[("authorization", "")]] {
                let answer = call(&gateway, way, API, headers).await;
                assert_eq!(answer, (401, "api_not_enabled".into()), "{file} {way:?}");
            }
        }
        assert_eq!(backend.bytes(), b"");
        assert_eq!(call(&gateway, Way::H1, PAGE, &[]).await.0, 200);
        assert_eq!(told(&gateway), 1, "{:?}", gateway.log());
        assert_eq!(gateway.metric("gateway_api_enabled").await, 0.0);
        // `check` says so, too, and that it is no error.
        let output = check(&gateway.folder, &[]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains(why) && text.contains("is closed"), "{text}");
    }
}

#[test]
fn a_mistake_in_keys_is_named_by_its_place_and_never_quoted() {
    const OF_NOTHING: &str =
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let canary = sha256("canary");
    let file = "api.keys_file = 'keys'\n";
    let own = "api.forward_authorization = 'replace'\n";
    type Mistake<'m> = (String, &'m str, &'m [(&'m str, &'m str)], &'m [&'m str]);
    let mistakes: Vec<Mistake> = vec![
        // One key under two names: which of them is used, and which may go?
        (
            format!("api.keys.a = 'canary'\napi.keys.b = '{canary}'"),
            "",
            &[],
            &["api.keys.b", "another key than that of api.keys.a"],
        ),
        (
            format!("{file}api.keys.a = 'canary'"),
            "b: x\n\n# c\nc: canary",
            &[],
            &["keys:4", "another key than that of api.keys.a"],
        ),
        (
            file.into(),
            "b: canary",
            &[("REST_KEY", "canary")],
            &["keys:1", "another key than that of REST_KEY"],
        ),
        (
            "api.keys.a = 'canary'".into(),
            "canary",
            &[("REST_KEY_FILE", "keys")],
            &["REST_KEY_FILE = \"keys\"", "api.keys.a"],
        ),
        // A name twice.
        (
            "api.keys.a = 'canary'\napi.keys.a = 'canary2'".into(),
            "",
            &[],
            &["gateway.toml:5:", "duplicate key"],
        ),
        (
            file.into(),
            "a: canary\nb: canary2\na: canary3",
            &[],
            &["keys:3", "a name that", "keys:1 has not"],
        ),
        (
            format!("{file}api.keys.a = 'canary'"),
            "a: canary2",
            &[],
            &["keys:1", "a name that api.keys.a has not"],
        ),
        (
            "api.keys.rest_key = 'canary'".into(),
            "",
            &[("REST_KEY", "canary2")],
            &["REST_KEY: ", "a name that api.keys.rest_key has not"],
        ),
        // What is none.
        (
            "api.keys.a = ''".into(),
            "",
            &[],
            &["api.keys.a", "an empty one is none"],
        ),
        (
            "api.keys.a = 'sha256:canary'".into(),
            "",
            &[],
            &["api.keys.a", "64 hexadecimal digits"],
        ),
        (
            format!("api.keys.a = '{OF_NOTHING}'"),
            "",
            &[],
            &["api.keys.a", "not of nothing"],
        ),
        (
            file.into(),
            "a: x\nb: canary\u{7f}",
            &[],
            &["keys:2", "visible ASCII"],
        ),
        (
            file.into(),
            "# no names\ncanary",
            &[],
            &["keys:2", "name: value"],
        ),
        (
            file.into(),
            "the canary: x",
            &[],
            &["keys:1", "1 to 64 letters"],
        ),
        (
            "api.keys.'a b' = 'canary'".into(),
            "",
            &[],
            &["api.keys.a b", "1 to 64 letters"],
        ),
        (
            "api.keys_file = ''".into(),
            "",
            &[],
            &["gateway.toml:4:", "keys_file", "a path, or \"off\""],
        ),
        // What becomes of them.
        (
            "api.accept = ['basic']".into(),
            "",
            &[],
            &["gateway.toml:4:", "accept", "bearer", "x_api_key"],
        ),
        (
            "api.forward_authorization = 'hide'".into(),
            "",
            &[],
            &["gateway.toml:4:", "keep", "strip", "replace"],
        ),
        (
            own.into(),
            "",
            &[],
            &["api.forward_authorization", "api.upstream_key_file"],
        ),
        (
            format!("{own}api.upstream_key_file = 'keys'"),
            "x",
            &[("GATEWAY__API__UPSTREAM_KEY", "canary")],
            &["api.upstream_key and api.upstream_key_file"],
        ),
        (
            "api.upstream_key = 'canary'".into(),
            "",
            &[],
            &["api.forward_authorization", "\"replace\""],
        ),
        (
            format!("{own}api.upstream_key = '{canary}'"),
            "",
            &[],
            &["api.upstream_key", "a digest cannot be sent"],
        ),
        (
            format!("{own}api.upstream_key = ''"),
            "",
            &[],
            &["api.upstream_key", "an empty one"],
        ),
        (
            format!("{own}api.upstream_key = 7"),
            "",
            &[],
            &["gateway.toml:5:", "text in quotes"],
        ),
        (
            format!("{own}api.upstream_key_file = 'keys'"),
            "canary\ncanary",
            &[],
            &["api.upstream_key_file", "keys", "visible ASCII"],
        ),
    ];
    for (toml, content, environment, named) in mistakes {
        let folder = Folder::new().with_certificate();
        folder.write("gateway.toml", format!("{GOOD}{toml}"));
        folder.write("keys", content);
        let output = check(&folder, environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in named {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        let digest = canary.strip_prefix("sha256:").unwrap();
        assert!(!said.contains("canary") && !said.contains(digest), "{said}");
    }
}

// -- how they are given ------------------------------------------------------------------

/// What a request carries, and the key that stands in it.
type Given<'g> = (&'g [(&'static str, &'g str)], Option<&'g str>);

#[tokio::test]
async fn a_key_may_be_given_in_the_forms_that_are_accepted_and_in_no_other() {
    let backend = Backend::upgrades_and_echoes_messages();
    let bearer = format!("Bearer {KEY}");
    let lower = format!("bearer  {KEY}");
    let upper = KEY.to_uppercase();
    // Where each of them may be accepted, what else it takes.
    let given: &[(&[&str], Given<'_>)] = &[
        (&[], (&[("authorization", KEY)], Some(KEY))),
        (&[], (&[("authorization", "second")], Some("second"))),
        (&["bearer"], (&[("authorization", &bearer)], Some(KEY))),
        (&["bearer"], (&[("authorization", &lower)], Some(KEY))),
        (&["x_api_key"], (&[("x-api-key", KEY)], Some(KEY))),
        (&["x_api_key"], (&[("x-api-key", "second")], Some("second"))),
        // Never.
        (&[], (&[], None)),
        (&[], (&[("authorization", "Bearer")], None)),
        (&[], (&[("authorization", "Bearer ")], None)),
        (&[], (&[("authorization", "Bearer wrong")], None)),
        (&[], (&[("authorization", &upper)], None)),
        (&[], (&[("x-api-key", "")], None)),
        (&[], (&[("x-api-key", "wrong")], None)),
        (&[], (&[("x-api-key", &bearer)], None)),
        (&[], (&[("x_api_key", KEY)], None)),
        (&[], (&[("x-api-key.", KEY)], None)),
        (&[], (&[("api-key", KEY)], None)),
        (&[], (&[("proxy-authorization", &bearer)], None)),
    ];
    for accept in [
        &[][..],
        &["bearer"],
        &["x_api_key"],
        &["bearer", "x_api_key"],
    ] {
        let gateway = Gateway::before(&backend)
            .toml(&format!(
                "api.keys.hashed = '{}'\napi.accept = {accept:?}",
                sha256("second")
            ))
            .start()
            .await;
        for way in WAYS {
            for (needs, (headers, key)) in given {
                let case = format!("{accept:?} {way:?} {headers:?}");
                let key = key.filter(|_| needs.iter().all(|form| accept.contains(form)));
                backend.forget();
                let answer = call(&gateway, way, API, headers).await;
                let Some(key) = key else {
                    assert_eq!(answer, (401, "invalid_api_key".into()), "{case}");
                    assert_eq!(backend.bytes(), b"", "{case}");
                    continue;
                };
                assert!(matches!(answer.0, 200 | 101), "{case}: {answer:?}");
                // The backend gets what it expects, whatever was accepted.
                let got = backend.only();
                assert_eq!(got.all("authorization"), [key], "{case}");
                assert_eq!(got.header("x-api-key"), None, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_given_in_two_ways_is_refused_however_they_agree() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("api.accept = ['bearer', 'x_api_key']")
        .start()
        .await;
    let bearer = format!("Bearer {KEY}");
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for pair in [
            [("authorization", KEY), ("x-api-key", KEY)],
            [("x-api-key", KEY), ("authorization", &bearer)],
            [("authorization", KEY), ("x-api-key", "")],
            [("authorization", ""), ("x-api-key", KEY)],
            [("authorization", "Basic x"), ("x-api-key", KEY)],
            [("x-api-key", KEY), ("x-api-key", KEY)],
            [("authorization", &bearer), ("authorization", KEY)],
        ] {
            let reply = client.call("GET", API, &pair, "").await;
            let refused = (400, "duplicate_authorization".into());
            assert_eq!(told(&reply), refused, "{pair:?}");
        }
    }
    assert_eq!(backend.bytes(), b"");
    let series = "gateway_auth_total{key_id=\"none\",result=\"duplicate\"}";
    assert_eq!(gateway.metric(series).await, 14.0);
}

#[tokio::test]
async fn a_key_in_another_header_is_judged_before_connection_can_name_it_away() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("api.accept = ['x_api_key']")
        .start()
        .await;
    for (key, status) in [(KEY, 200), ("wrong", 401)] {
        let headers = [("connection", "x-api-key"), ("x-api-key", key)];
        assert_eq!(call(&gateway, Way::H1, API, &headers).await.0, status);
    }
    assert_eq!(backend.only().all("authorization"), [KEY]);
    // Nor can it be named beside another.
    let headers = [
        ("connection", "x-api-key"),
        ("x-api-key", "x"),
        ("authorization", KEY),
    ];
    assert_eq!(call(&gateway, Way::H1, API, &headers).await.0, 400);
    assert_eq!(backend.requests().len(), 1);
}

// -- what becomes of them ----------------------------------------------------------------

#[tokio::test]
async fn the_backend_gets_the_key_or_none_or_its_own() {
    let bearer = format!("Bearer {KEY}");
    let all: &[(&[(&'static str, &str)], &str)] = &[
        (&[("authorization", KEY)], KEY),
        (&[("authorization", &bearer)], KEY),
        (&[("x-api-key", KEY)], KEY),
        (&[("authorization", "second")], "second"),
        (&[("authorization", "Bearer second")], "second"),
        (&[("x-api-key", "second")], "second"),
    ];
    let replace = "api.forward_authorization = 'replace'\n";
    for (toml, content, own) in [
        ("", "", None),
        ("api.forward_authorization = 'keep'", "", None),
        ("api.forward_authorization = 'strip'", "", Some("")),
        (
            &*format!("{replace}api.upstream_key = \"the backend's own\""),
            "",
            Some("the backend's own"),
        ),
        (
            &*format!("{replace}api.upstream_key_file = 'own'"),
            "from a file\r\n",
            Some("from a file"),
        ),
    ] {
        let backend = Backend::upgrades_and_echoes_messages();
        let gateway = Gateway::before(&backend)
            .toml("api.accept = ['bearer', 'x_api_key']")
            .toml(&format!("api.keys.hashed = '{}'", sha256("second")))
            .toml(toml)
            .beside("own", content)
            .start()
            .await;
        for way in WAYS {
            for (headers, key) in all {
                let case = format!("{toml} {way:?} {headers:?}");
                let answer = call(&gateway, way, API, headers).await;
                assert!(matches!(answer.0, 200 | 101), "{case}: {answer:?}");
                let gets: &[&str] = match own {
                    None => &[key],
                    Some("") => &[],
                    Some(own) => &[own],
                };
                assert_eq!(backend.last().all("authorization"), gets, "{case}");
                assert_eq!(backend.last().header("x-api-key"), None, "{case}");
            }
        }
        // Not in any other place either.
        if own.is_some() {
            for key in [KEY, "second"] {
                assert!(find(&backend.bytes(), key.as_bytes()).is_none(), "{toml}");
            }
        }
    }
}

#[tokio::test]
async fn without_the_backends_own_key_the_api_is_closed_with_a_warning() {
    let backend = Backend::well();
    for content in [None, Some(""), Some("\n")] {
        let mut setup = Gateway::before(&backend)
            .toml("api.forward_authorization = 'replace'\napi.upstream_key_file = 'own'");
        if let Some(content) = content {
            setup = setup.beside("own", content);
        }
        let gateway = setup.start().await;
        let answer = call(&gateway, Way::H2, API, &[("authorization", KEY)]).await;
        assert_eq!(answer, (401, "api_not_enabled".into()), "{content:?}");
        assert_eq!(backend.bytes(), b"");
        assert_eq!(call(&gateway, Way::H1, PAGE, &[]).await.0, 200);
        backend.forget();
        let log = gateway.log();
        let told = |line: &String| line.contains("WARN") && line.contains("upstream_key_file");
        assert!(log.iter().any(told), "{log:?}");
    }
}

#[tokio::test]
async fn no_key_of_the_gateway_reaches_a_page_and_what_is_not_one_passes() {
    let bearer = format!("Bearer {KEY}");
    for forward in [
        "forward_authorization = 'keep'",
        "forward_authorization = 'strip'",
        "forward_authorization = 'replace'\nupstream_key = 'own'",
    ] {
        let backend = Backend::upgrades_and_echoes_messages();
        let keys = format!("keys.hashed = '{}'", sha256("second"));
        let gateway = Gateway::before(&backend)
            .toml(&format!("[api]\n{forward}\n{keys}"))
            .start()
            .await;
        for way in WAYS {
            for mistake in [
                ("authorization", KEY),
                ("authorization", "second"),
                ("authorization", &*bearer),
                ("authorization", "bearer second"),
                ("x-api-key", KEY),
                ("x-api-key", "second"),
            ] {
                let case = format!("{forward} {way:?} {mistake:?}");
                let answer = call(&gateway, way, PAGE, &[mistake, ("x-other", "1")]).await;
                assert!(matches!(answer.0, 200 | 101), "{case}");
                let last = backend.last();
                assert_eq!(last.header("authorization"), None, "{case}");
                assert_eq!(last.header("x-api-key"), None, "{case}");
                assert_eq!(last.header("x-other").as_deref(), Some("1"), "{case}");
            }
            for (name, own) in [
                ("authorization", "Basic abc"),
                ("authorization", "Bearer of the service"),
                ("authorization", "Bearer"),
                ("authorization", ""),
                ("authorization", &KEY[1..]),
                ("authorization", "key"),
                ("x-api-key", "of the service"),
            ] {
                call(&gateway, way, PAGE, &[(name, own)]).await;
                assert_eq!(backend.last().all(name), [own], "{forward} {way:?}");
            }
        }
        for key in [KEY, "second"] {
            assert!(
                find(&backend.bytes(), key.as_bytes()).is_none(),
                "{forward}"
            );
        }
    }
}

#[tokio::test]
async fn of_several_lines_of_a_page_those_that_are_keys_are_left_out() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let lines = [
        ("authorization", "Basic a"),
        ("authorization", KEY),
        ("authorization", "Basic b"),
    ];
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        assert_eq!(client.call("GET", PAGE, &lines, "").await.status, 200);
        let last = backend.last();
        assert_eq!(last.all("authorization"), ["Basic a", "Basic b"]);
    }
    // Where the whole API is closed there is no key to look for.
    let gateway = Gateway::before(&backend).without_key().start().await;
    call(&gateway, Way::H1, PAGE, &[("authorization", KEY)]).await;
    assert_eq!(backend.last().all("authorization"), [KEY]);
}

#[tokio::test]
async fn the_built_in_backend_takes_what_the_gateway_sends_it_and_nothing_else() {
    let latest = "/cobrowsing/api/visitors/list/latest";
    for (forward, direct) in [
        ("", "second"),
        ("api.forward_authorization = 'strip'", ""),
        (
            "api.forward_authorization = 'replace'\napi.upstream_key = 'own'",
            "own",
        ),
    ] {
        let gateway = Gateway::with_visitors()
            .without_key()
            .toml("api.accept = ['bearer', 'x_api_key']")
            .toml(&format!("api.keys.hashed = '{}'", sha256("second")))
            .toml(forward)
            .start()
            .await;
        for headers in [
            ("authorization", "second"),
            ("authorization", "Bearer second"),
            ("x-api-key", "second"),
        ] {
            let answer = call(&gateway, Way::H2, latest, &[headers]).await;
            assert_eq!(answer.0, 200, "{forward} {headers:?}");
        }
        // Who goes past the gateway.
        let ask = async |key: &str| {
            let file = std::fs::read_to_string(gateway.folder.0.join("gateway.toml")).unwrap();
            let file: toml::Table = toml::from_str(&file).unwrap();
            let at = file["visitor"]["listen"].as_str().unwrap().to_owned();
            let request = format!(
                "GET /api/visitors/list/latest HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\nconnection: close\r\n\r\n"
            );
            raw(&at, &request).await
        };
        assert_eq!(ask(direct).await.status, 200, "{forward}");
        let other = ask("other").await.status;
        assert_eq!(other == 401, !direct.is_empty(), "{forward}: {other}");
    }
    let gateway = Gateway::with_visitors().without_key().start().await;
    let answer = call(&gateway, Way::H1, latest, &[("authorization", "x")]).await;
    assert_eq!(answer, (401, "api_not_enabled".into()));
}

async fn raw(at: &str, request: &str) -> Reply {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    super::support::within(async {
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        Reply::parse(&answer).unwrap()
    })
    .await
}

// -- and what is told of them ------------------------------------------------------------

fn with_canaries(backend: &Backend) -> Setup {
    Gateway::before(backend)
        .without_key()
        .env("REST_KEY", "canary-rest")
        .env("GATEWAY__API__UPSTREAM_KEY", "canary-own")
        .toml("log.level = 'debug'")
        .toml(&format!(
            "[api]\nkeys_file = 'keys'\naccept = ['bearer', 'x_api_key']\nforward_authorization = 'replace'\nkeys.plain = 'canary-plain'\nkeys.hashed = '{}'",
            sha256("canary-hashed")
        ))
        .beside(
            "keys",
            &format!("filed: canary-filed\nboth: {}\n", sha256("canary-both")),
        )
}

#[tokio::test]
async fn no_key_and_no_digest_of_one_is_in_any_log_metric_error_or_answer() {
    // One that answers, one that is not there.
    let backend = Backend::upgrades_and_echoes_messages();
    let gone = Backend::closes_before_answering();
    let keys = ["rest", "plain", "hashed", "filed", "both"].map(|name| format!("canary-{name}"));
    for backend in [&backend, &gone] {
        let gateway = with_canaries(backend).start().await;
        let (mut sent, mut answers) = (0, String::new());
        for key in &keys {
            let bearer = format!("Bearer {key}");
            for headers in [
                &[("authorization", &**key)][..],
                &[("authorization", &*bearer)],
                &[("x-api-key", &**key)],
                &[("x-api-key", &*bearer)],
                &[("x-api-key", &**key), ("authorization", &**key)],
            ] {
                for path in [API, PAGE, "/elsewhere", "/cobrowsing/api%2fx"] {
                    for proto in Proto::BOTH {
                        let mut client = Client::connect(&gateway, proto).await;
                        let reply = client.call("GET", path, headers, "").await;
                        answers += &format!("{:?} {}", reply.headers, reply.text());
                        sent += 1;
                    }
                }
            }
        }
        until("the log lines", || gateway.requests().len() == sent).await;
        answers += &gateway.metrics().await;
        let environment = [
            ("REST_KEY", "canary-rest"),
            ("GATEWAY__API__UPSTREAM_KEY", "canary-own"),
        ];
        let (pid, checked) = (gateway.pid(), check(&gateway.folder, &environment));
        assert_eq!(checked.status.code(), Some(0));
        answers += &std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        answers += &String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat());
        let ended = gateway.stop().await;
        answers += &ended.errors;
        answers += &ended.log.join("\n");
        for key in &keys {
            let digest = sha256(key);
            for form in [&**key, &digest["sha256:".len()..]] {
                assert!(!answers.contains(form), "{form} is told: {answers}");
            }
        }
        assert!(!answers.contains("canary"), "{answers}");
        assert!(answers.contains("filed"), "the names are told");
    }
    // The page got none, and the API but the backend's own.
    let came = backend.bytes();
    for key in &keys {
        assert!(find(&came, key.as_bytes()).is_none(), "{key}");
    }
    assert!(find(&came, b"authorization: canary-own\r\n").is_some());
}

#[test]
fn the_documentation_shows_what_the_gateway_reads() {
    use cobrowse_gateway::config::{Config, Environment};
    let text = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::read_to_string(path).unwrap()
    };
    let documented = text("docs/keys.md");
    let mut found = 0;
    for snippet in documented.split("```toml\n").skip(1) {
        let snippet = snippet.split("```").next().unwrap();
        let file = std::path::Path::new("gateway.toml");
        Config::read(file, snippet, &Environment::default()).expect(snippet);
        found += 1;
    }
    assert!(found > 0);
    // Each key of `[api]`, those without a default as a comment.
    let shipped = text("gateway.toml");
    for key in [
        "path",
        "max_body",
        "keys_file",
        "accept",
        "forward_authorization",
        "upstream_key",
        "upstream_key_file",
    ] {
        let lines: Vec<_> = [format!("\n{key} = "), format!("\n# {key} = ")].into();
        assert!(lines.iter().any(|line| shipped.contains(line)), "{key}");
        assert!(
            documented.contains(key) || key == "path" || key == "max_body",
            "{key}"
        );
    }
}
