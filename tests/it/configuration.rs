//! What is said of mistakes before anything is served, and the other commands.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::support::{BINARY, Backend, Client, Folder, Gateway, KEY, Proto};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn command(folder: &Folder, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .current_dir(&folder.0)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const GOOD: &str = "[public]\nbase_endpoint = 'https://localhost/c'\n[tls]\ncertificate = 'cert.pem'\nkey = 'cert.key'\n";

#[test]
fn a_mistake_in_the_file_is_named_with_what_is_allowed() {
    for (mistake, named) in [
        (
            "[upstream]\nconnect_timeout = 5\n",
            &["gateway.toml:7:", "connect_timeout", "30s"][..],
        ),
        (
            "[upstream]\nconnect_timeout = '5 parsecs'\n",
            &["gateway.toml:7:", "parsecs"],
        ),
        (
            "[upstream]\nconect_timeout = '5s'\n",
            &["gateway.toml:7:", "conect_timeout", "connect_timeout"],
        ),
        (
            "[upsteam]\nurl = 'x'\n",
            &["gateway.toml:6:", "upsteam", "upstream"],
        ),
        (
            "[upstream]\nurl = 'https://x'\n",
            &["upstream.url", "https://x", "http://host[:port]"],
        ),
        (
            "[upstream]\nurl = 'http://x/path'\n",
            &["upstream.url", "upstream.base_path"],
        ),
        (
            "[upstream]\nbase_path = 'up'\n",
            &["upstream.base_path", "\"up\"", "begins with a slash"],
        ),
        (
            "[api]\npath = '/'\n",
            &["api.path", "below the base endpoint"],
        ),
        ("[api]\nmax_body = '1 cup'\n", &["gateway.toml:7:", "1 cup"]),
        (
            "[api.keys]\nmine = ' canary '\n",
            &["api.keys.mine", "visible ASCII"],
        ),
        ("[limits]\nworkers = 0\n", &["gateway.toml:7:", "1 to 256"]),
        ("[websocket]\nidle = 'never'\n", &["gateway.toml:7:", "off"]),
        (
            "[log]\nlevel = 'loud'\n",
            &["gateway.toml:7:", "loud", "debug"],
        ),
        (
            "[[rate_limit.policy]]\nname = 'A b'\nper = 'key'\nrate = '1/1s'\n",
            &["rate_limit.policy.name", "lower-case"],
        ),
        (
            "[[rate_limit.policy]]\nname = 'a'\nper = 'planet'\nrate = '1/1s'\n",
            &["gateway.toml:8:", "planet", "client"],
        ),
        (
            "[[rate_limit.policy]]\nname = 'a'\nper = 'key'\nrate = 'often'\n",
            &["gateway.toml:9:", "often"],
        ),
        (
            "[timeouts]\nproxy_header = 5\n",
            &["gateway.toml:7:", "proxy_header", "30s"],
        ),
        (
            "[[rate_limit.policy]]\nname = 'a'\nmatch = 'failed_auth'\nper = 'key'\nrate = '1/1s'\n",
            &["rate_limit.policy.per", "\"client\"", "failed_auth"],
        ),
        (
            "[[rate_limit.policy]]\nname = 'a'\nmatch = 'all'\nper = 'key'\nrate = '1/1s'\n",
            &["gateway.toml:8:", "all", "failed_auth"],
        ),
        (
            "[[rate_limit.policy]]\nname = 'a'\nper = 'key'\nrate = '1/1s'\nexcept = ['10.0.0.0/99']\n",
            &["gateway.toml:10:", "except"],
        ),
        (
            "[limits]\nconnections_per_client = 0\n",
            &["gateway.toml:7:", "whole number from 1", "off"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\n",
            &["rate_limit.redis_url", "redis://"],
        ),
        (
            "[rate_limit]\nstore = 'disk'\n",
            &["gateway.toml:7:", "disk", "redis"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'http://:canary@x'\n",
            &["rate_limit.redis_url", "rediss://", "redis+cluster://"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'rediss://:canary@x'\n",
            &["rate_limit.redis_ca", "PEM"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'redis://:canary@x'\nredis_ca = 'cert.pem'\n",
            &["rate_limit.redis_url", "rediss://"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'rediss://:canary@x'\nredis_ca = 'cert.key'\n",
            &["rate_limit.redis_ca", "cert.key", "no certificate"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'redis://:canary@x'\nredis_password_file = 'cert.key'\n",
            &["redis_url", "redis_password_file", "not in both"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'redis://x'\nredis_password_file = 'missing'\n",
            &["rate_limit.redis_password_file", "missing"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'redis://x'\nredis_prefix = 'a{b'\n",
            &["rate_limit.redis_prefix", "a{b"],
        ),
        (
            "[rate_limit]\nstore = 'redis'\nredis_url = 'redis://x'\nredis_timeout = '0s'\n",
            &["rate_limit.redis_timeout", "5ms"],
        ),
        (
            "[rate_limit]\nreplicas = 0\n",
            &["gateway.toml:7:", "replicas"],
        ),
        ("[websocket]\nping = '0s'\n", &["websocket.ping", "not 0"]),
        ("[reload]\npoll = '0ms'\n", &["reload.poll", "not 0"]),
        (
            "[overload]\nsockets = 'never'\n",
            &["gateway.toml:7:", "never", "last"],
        ),
        (
            "[overload]\nexcept = ['/']\n",
            &["overload.except", "/poll"],
        ),
        (
            "[overload]\nleast = 0\n",
            &["gateway.toml:7:", "whole number from 1"],
        ),
        ("not toml\n", &["gateway.toml:6:"]),
    ] {
        let folder = Folder::new().with_certificate();
        folder.write("gateway.toml", format!("{GOOD}{mistake}"));
        for arguments in [&["check"][..], &["run"], &["--config", "gateway.toml"]] {
            let output = command(&folder, arguments, &[]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{mistake}: {text}");
            for part in named {
                assert!(text.contains(part), "{mistake}: {part:?} is not in {text}");
            }
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

#[test]
fn a_mistake_in_the_environment_is_named_with_its_variable() {
    for (name, value, named) in [
        (
            "BASE_ENDPOINT",
            "http://localhost",
            &["public.base_endpoint", "https"][..],
        ),
        ("BASE_ENDPOINT", "localhost", &["public.base_endpoint"]),
        (
            "BASE_ENDPOINT",
            "https://elsewhere.test/c",
            &["cert.pem", "elsewhere.test"],
        ),
        (
            "UPSTREAM_URL",
            "127.0.0.1:1",
            &["upstream.url", "127.0.0.1:1"],
        ),
        (
            "TLS_CERT_FILE",
            "missing.pem",
            &["tls.certificate", "missing.pem"],
        ),
        ("TLS_KEY_FILE", "cert.pem", &["tls.key", "cert.pem"]),
        (
            "GATEWAY__UPSTREAM__CONNECT_TIMEOUT",
            "soon",
            &["GATEWAY__UPSTREAM__CONNECT_TIMEOUT", "soon"],
        ),
        (
            "GATEWAY__UPSTREAM__CONECT_TIMEOUT",
            "5s",
            &["GATEWAY__UPSTREAM__CONECT_TIMEOUT", "connect_timeout"],
        ),
        (
            "GATEWAY__PUBLIC__PROXY_PROTOCOL",
            "true",
            &[
                "public.proxy_protocol",
                "public.trusted_proxies",
                "10.0.0.0/8",
            ],
        ),
        ("GATEWAY__NOWHERE__X", "1", &["GATEWAY__NOWHERE__X"]),
        ("GATEWAY__X", "1", &["GATEWAY__X", "SECTION__KEY"]),
        (
            "GATEWAY__PUBLIC__LISTEN",
            "8443",
            &["GATEWAY__PUBLIC__LISTEN", "8443"],
        ),
    ] {
        let folder = Folder::new().with_certificate();
        folder.write("gateway.toml", GOOD);
        let output = command(&folder, &["check"], &[(name, value)]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{name}={value}: {text}");
        for part in named {
            assert!(
                text.contains(part),
                "{name}={value}: {part:?} is not in {text}"
            );
        }
    }
}

#[test]
fn a_key_and_a_certificate_that_do_not_belong_together_are_refused() {
    let folder = Folder::new().with_certificate();
    folder.write("gateway.toml", GOOD);
    let made = command(&folder, &["cert", "--dir", "other"], &[]);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    let output = command(&folder, &["check"], &[("TLS_KEY_FILE", "other/dev.key")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("does not belong"),
        "{}",
        said(&output)
    );
}

#[test]
fn the_key_and_its_file_together_are_an_error_that_shows_neither() {
    let folder = Folder::new().with_certificate();
    folder.write("gateway.toml", GOOD);
    folder.write("key", "canary-file");
    let both = [("REST_KEY", "canary-key"), ("REST_KEY_FILE", "key")];
    let output = command(&folder, &["check"], &both);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("REST_KEY and REST_KEY_FILE"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn the_key_comes_from_a_file_and_an_empty_or_unreadable_one_closes_the_api() {
    let backend = Backend::well();
    let keys = Folder::new();
    for (content, open) in [
        (Some(KEY.to_owned()), true),
        (Some(format!("{KEY}\n")), true),
        (Some(format!("{KEY}\r\n")), true),
        (Some(String::new()), false),
        (Some("\n".to_owned()), false),
        (None, false),
    ] {
        let file = keys.0.join("key");
        std::fs::remove_file(&file).ok();
        if let Some(content) = &content {
            keys.write("key", content);
        }
        let setup = Gateway::before(&backend).without_key();
        let gateway = setup
            .env("REST_KEY_FILE", file.to_str().unwrap())
            .start()
            .await;
        let mut client = Client::connect(&gateway, Proto::H1).await;
        for key in [KEY, ""] {
            let headers = [("authorization", key)];
            let reply = client.call("GET", "/cobrowsing/api/x", &headers, "").await;
            match (open, key) {
                (true, KEY) => assert_eq!(reply.status, 200, "{content:?}"),
                (true, _) => assert_eq!(reply.error(), "invalid_api_key", "{content:?}"),
                (false, _) => assert_eq!(reply.error(), "api_not_enabled", "{content:?}"),
            }
        }
        assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    }
}

#[tokio::test]
async fn the_environment_beats_the_file() {
    let (right, wrong) = (Backend::well(), Backend::well());
    let setup = Gateway::before(&wrong)
        .env("UPSTREAM_URL", &format!("http://{}", right.address))
        .env("BASE_ENDPOINT", "https://localhost/other/")
        .env("GATEWAY__UPSTREAM__BASE_PATH", "same")
        .env("GATEWAY__LIMITS__WORKERS", "2")
        .env("GATEWAY__PUBLIC__EXTRA_HOSTS", "['more.test']");
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let more = [("host", "more.test")];
    assert_eq!(client.call("GET", "/other/x", &more, "").await.status, 200);
    assert_eq!(right.only().target, "/other/x");
    assert_eq!(wrong.bytes(), b"");
    assert_eq!(gateway.events("started")[0]["workers"], 2);
}

#[tokio::test]
async fn with_the_environment_alone_nothing_else_is_needed() {
    let folder = Folder::new().with_certificate();
    let environment = [
        ("BASE_ENDPOINT", "https://localhost/c"),
        ("REST_KEY", KEY),
        ("TLS_CERT_FILE", "cert.pem"),
        ("TLS_KEY_FILE", "cert.key"),
    ];
    let output = command(&folder, &["check"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("https://localhost/c/"));
}

#[test]
fn wrong_usage_exits_with_2() {
    let folder = Folder::new();
    for arguments in [
        &["--nonsense"][..],
        &["nonsense"],
        &["check", "extra"],
        &["--config"],
    ] {
        assert_eq!(
            command(&folder, arguments, &[]).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    assert_eq!(command(&folder, &["--help"], &[]).status.code(), Some(0));
    assert_eq!(command(&folder, &["--version"], &[]).status.code(), Some(0));
    let missing = command(&folder, &["check", "--config", "missing.toml"], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        said(&missing).contains("missing.toml"),
        "{}",
        said(&missing)
    );
}

#[test]
fn the_shipped_file_is_good_as_it_is() {
    let folder = Folder::new();
    std::fs::copy(
        Path::new(ROOT).join("gateway.toml"),
        folder.0.join("gateway.toml"),
    )
    .unwrap();
    std::fs::create_dir(folder.0.join("samples")).unwrap();
    let samples = "samples/visitors.json";
    std::fs::copy(Path::new(ROOT).join(samples), folder.0.join(samples)).unwrap();
    let output = command(&folder, &["check"], &[("REST_KEY", KEY)]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// `section.key` and its value, as Debug prints them in the compiled configuration.
#[test]
fn the_shipped_file_shows_the_defaults_but_where_it_says_here() {
    use cobrowse_gateway::config::{Config, Environment};
    let text = std::fs::read_to_string(Path::new(ROOT).join("gateway.toml")).unwrap();
    // Without the lines marked (here) the rest must be the defaults.
    let rest: String = text
        .lines()
        .filter(|line| !line.contains("(here"))
        .map(|line| format!("{line}\n"))
        .collect();
    let folder = Folder::new();
    let file = folder.write("gateway.toml", &rest);
    let environment = Environment::of(std::iter::empty());
    let read = |file| format!("{:#?}", Config::load(file, &environment).unwrap());
    assert_eq!(read(Some(&*file)), read(None));
    // And every marked line differs from the default.
    let marked: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains("(here"))
        .collect();
    assert!(marked.len() >= 5, "{marked:?}");
    // Each key of the configuration is in the file.
    let whole: toml::Table = toml::from_str(&text).unwrap();
    let sections: BTreeMap<_, _> = whole.iter().collect();
    for section in [
        "public",
        "tls",
        "upstream",
        "api",
        "rate_limit",
        "rewrite",
        "websocket",
        "limits",
        "timeouts",
        "drain",
        "log",
        "admin",
        "visitor",
    ] {
        assert!(sections.contains_key(&section.to_owned()), "{section}");
    }
}

#[tokio::test]
async fn healthcheck_tells_by_its_exit_code_whether_the_gateway_is_ready() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("upstream.health_interval = '100ms'")
        .start()
        .await;
    let admin = gateway.admin.to_string();
    let folder = Folder::new();
    let ask = |admin: &str| {
        command(
            &folder,
            &["healthcheck"],
            &[("GATEWAY__ADMIN__LISTEN", admin)],
        )
    };
    assert_eq!(ask(&admin).status.code(), Some(0), "{}", said(&ask(&admin)));
    drop(backend);
    gateway.until_metric("gateway_upstream_up", 0.0).await;
    let unready = ask(&admin);
    assert_eq!(unready.status.code(), Some(1));
    assert!(said(&unready).contains("not ready"), "{}", said(&unready));
    gateway.stop().await;
    assert_eq!(ask(&admin).status.code(), Some(1));
}

#[test]
fn cert_makes_a_pair_once_whose_key_only_its_owner_reads() {
    let folder = Folder::new();
    let arguments = ["cert", "--dir", "certs", "--host", "support.test"];
    let made = command(&folder, &arguments, &[]);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    let key = folder.0.join("certs/dev.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(&key).unwrap();
    let again = command(&folder, &arguments, &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("dev.key"), "{}", said(&again));
    assert_eq!(std::fs::read(&key).unwrap(), before);
    let environment = [
        ("BASE_ENDPOINT", "https://support.test/"),
        ("TLS_CERT_FILE", "certs/dev.pem"),
        ("TLS_KEY_FILE", "certs/dev.key"),
    ];
    let good = command(&folder, &["check"], &environment);
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (variable, key) in [
        ("GATEWAY__ADMIN__LISTEN", "admin.listen"),
        ("GATEWAY__PUBLIC__LISTEN", "public.listen"),
    ] {
        let folder = Folder::new().with_certificate();
        folder.write(
            "gateway.toml",
            format!("{GOOD}[admin]\nlisten = '127.0.0.1:0'\n"),
        );
        let environment = [
            ("GATEWAY__PUBLIC__LISTEN", "127.0.0.1:0"),
            (variable, &*address),
        ];
        let output = command(&folder, &["run"], &environment);
        assert_eq!(output.status.code(), Some(1), "{key}");
        let text = said(&output);
        assert!(text.contains(key) && text.contains(&address), "{text}");
    }
}

#[test]
fn no_error_of_the_environment_shows_a_key() {
    for (name, value) in [
        ("GATEWAY__API__KEYS__MAIN", "canary"),
        ("GATEWAY__API__KEY", "canary"),
        ("GATEWAY__API__KEYS", "canary"),
        ("GATEWAY__REST__KEY", "canary"),
        ("GATEWAY__PUBLIC__REST_KEY", "canary"),
        ("UPSTREAM_URL", "http://user:canary@localhost:1"),
        ("BASE_ENDPOINT", "https://user:canary@localhost"),
    ] {
        let folder = Folder::new().with_certificate();
        folder.write("gateway.toml", GOOD);
        let output = command(&folder, &["check"], &[(name, value)]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(!text.contains("canary"), "{text}");
    }
}
