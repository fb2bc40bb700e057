//! What `doctor` finds in surroundings that are as they should be, and in others.

use std::net::TcpListener;
use std::process::Command;

use super::commands::{Ran, run};
use super::support::certificates::{Authority, made, made_with};
use super::support::{BINARY, Backend, Folder, Received};

/// Runs it with a certificate, addresses and a backend that are good, and `more` instead.
pub(super) fn doctor(
    folder: &Folder,
    backend: &Backend,
    arguments: &[&str],
    more: &[(&str, &str)],
) -> Ran {
    let upstream = format!("http://{}", backend.address);
    let mut environment = vec![
        ("BASE_ENDPOINT", "https://localhost/cobrowsing"),
        ("REST_KEY", "canary"),
        ("TLS_CERT_FILE", "cert.pem"),
        ("TLS_KEY_FILE", "cert.key"),
        ("UPSTREAM_URL", &*upstream),
        ("GATEWAY__PUBLIC__LISTEN", "127.0.0.1:0"),
        ("GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
        ("GATEWAY__LIMITS__CONNECTIONS", "100"),
        ("GATEWAY__LIMITS__WORKERS", "1"),
    ];
    environment.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    environment.extend(more);
    let ran = run(folder, &[&["doctor"][..], arguments].concat(), &environment);
    assert!(
        !ran.out.contains("canary") && !ran.err.contains("canary"),
        "{}",
        ran.out
    );
    ran
}

/// The line that begins with `level` and `what`.
pub(super) fn line<'r>(ran: &'r Ran, level: &str, what: &str) -> &'r str {
    let begin = format!("{level:<8} {what}");
    let found = ran.out.lines().find(|line| line.starts_with(&begin));
    found.unwrap_or_else(|| panic!("no {begin:?} in\n{}{}", ran.out, ran.err))
}

/// A service whose tree begins at `base`: pages, and an API for who has the key.
pub(super) fn service_at(base: &'static str) -> Backend {
    service(base, Some("canary"))
}

fn service(base: &'static str, key: Option<&'static str>) -> Backend {
    Backend::answers_by(move |request: &Received| {
        let answer = |status: &str, kind: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
                .into_bytes()
        };
        match request.target.strip_prefix(base) {
            Some("/api/visitors/list/latest")
                if request.header("authorization").as_deref() == key =>
            {
                answer("200 OK", "application/json; charset=utf-8", "{}")
            }
            Some("/api/visitors/list/latest") => {
                answer("401 Unauthorized", "application/json; charset=utf-8", "{}")
            }
            Some("/") => answer("200 OK", "text/html", "<p>"),
            _ => answer("404 Not Found", "text/html", "<p>"),
        }
    })
}

#[test]
fn good_surroundings_are_said_to_be_good() {
    let folder = Folder::new();
    let authority = Authority::new("root");
    let leaf = authority.signs(&["localhost"]);
    folder.write("cert.pem", format!("{}{}", leaf.pem, authority.pem));
    folder.write("cert.key", &leaf.key);
    let ran = doctor(&folder, &service_at(""), &["--grace", "40s"], &[]);
    for what in [
        "configuration: https://localhost/cobrowsing/",
        "certificate default: for localhost, valid until",
        "backend: 127.0.0.1:",
        "base path: its API answers below /, as upstream.base_path = \"/\" has it",
        "keys: the backend takes REST_KEY",
        "public.listen: 127.0.0.1:0 is free",
        "admin.listen:",
        "drain: drain.delay 5s and drain.budget 25s are 30s, the grace period is 40s",
        "open files: limits.connections = 100 may need 776, ",
        "overload: limits.requests = 10000, fewer while the backend's answers are slow",
        "clock: ",
        "reload: a change in ",
    ] {
        line(&ran, "ok", what);
    }
    assert!(line(&ran, "ok", "certificate").ends_with("a chain of 2 in order, with its key"));
    assert_eq!((ran.code, &*ran.err), (0, ""), "{}", ran.out);
    assert!(ran.out.contains("\n0 problems, "), "{}", ran.out);
    // Nothing is left behind.
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 2);
}

#[test]
fn where_the_backends_tree_begins_is_found_out_and_compared() {
    let folder = Folder::new().with_certificate();
    for (base, configured, found) in [
        ("", "/", None),
        ("/cobrowsing", "same", None),
        ("/up/tree", "/up/tree", None),
        ("/cobrowsing", "/", Some("set it to \"same\"")),
        ("", "same", Some("set it to \"/\"")),
        ("", "/up/tree", Some("set it to \"/\"")),
    ] {
        let backend = service_at(base);
        let more = [("GATEWAY__UPSTREAM__BASE_PATH", configured)];
        let ran = doctor(&folder, &backend, &[], &more);
        match found {
            None => {
                let said = line(&ran, "ok", "base path: its API answers below ");
                assert!(
                    said.contains(&format!("{base}/, as upstream.base_path = {configured:?}")),
                    "{said}"
                );
                assert_eq!(ran.code, 0, "{}", ran.out);
            }
            Some(advice) => {
                let said = line(&ran, "problem", "base path: its API answers below ");
                assert!(said.ends_with(advice), "{said}");
                assert_eq!(ran.code, 1, "{}", ran.out);
            }
        }
    }
}

#[test]
fn a_key_that_the_backend_refuses_is_told_by_name() {
    let folder = Folder::new().with_certificate();
    folder.write("key", "canary\n");
    folder.write("other", "canary-2\n");
    const FORWARD: &str = "GATEWAY__API__FORWARD_AUTHORIZATION";
    const OWN: &str = "GATEWAY__API__UPSTREAM_KEY_FILE";
    let keys = "{ old = 'canary-3', hashed = 'sha256:2a64d6563d9729493f91bf5b143365c0a7bec4025e1fb0ae67e307a0c3bed1c2' }";
    for (more, level, said) in [
        (
            &[("REST_KEY", "canary-2")][..],
            "problem",
            "the backend refuses REST_KEY: its own REST_KEY is another",
        ),
        (
            &[("GATEWAY__API__KEYS", keys)],
            "problem",
            "the backend refuses api.keys.old",
        ),
        (
            &[(FORWARD, "strip")],
            "problem",
            "the backend refuses calls without a key",
        ),
        (
            &[(FORWARD, "replace"), (OWN, "other")],
            "problem",
            "the backend refuses api.upstream_key",
        ),
        (
            &[(FORWARD, "replace"), (OWN, "key"), ("REST_KEY", "canary-2")],
            "ok",
            "the backend takes api.upstream_key",
        ),
    ] {
        let ran = doctor(&folder, &service_at(""), &[], more);
        line(&ran, level, &format!("keys: {said}"));
        assert_eq!(ran.code, i32::from(level == "problem"), "{}", ran.out);
    }
    let open = service("", None);
    let ran = doctor(&folder, &open, &[], &[(FORWARD, "strip")]);
    line(&ran, "ok", "keys: the backend takes calls without a key");
    let ran = doctor(&folder, &open, &[], &[("REST_KEY", "")]);
    line(&ran, "warning", "keys: none is configured");
}

#[test]
fn what_a_backend_answers_everywhere_tells_nothing() {
    let folder = Folder::new().with_certificate();
    let everywhere = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let ran = doctor(&folder, &Backend::answers(everywhere), &[], &[]);
    let said = line(
        &ran,
        "warning",
        "base path: the backend has neither pages nor the API below",
    );
    assert!(said.contains("below / or /cobrowsing/"), "{said}");
    // One that has its pages below the base path, and refuses all else in the API's manner.
    let backend = Backend::answers_by(move |request| match &*request.target {
        "/cobrowsing/" => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => everywhere.into(),
    });
    let ran = doctor(&folder, &backend, &[], &[]);
    let said = line(&ran, "problem", "base path: it answers below /cobrowsing/");
    assert!(said.ends_with("set it to \"same\""), "{said}");
}

#[test]
fn a_backend_that_is_away_or_speaks_something_else_is_a_problem() {
    let folder = Folder::new().with_certificate();
    let backend = Backend::well();
    let ran = doctor(
        &folder,
        &backend,
        &[],
        &[("UPSTREAM_URL", "http://127.0.0.1:1")],
    );
    let said = line(&ran, "problem", "backend: 127.0.0.1:1: ");
    assert!(said.contains("upstream.url (UPSTREAM_URL)"), "{said}");
    assert_eq!(ran.code, 1);
    assert_eq!(ran.err, "cobrowse-gateway: there are problems\n");
    let ran = doctor(&folder, &Backend::speaks_nonsense(), &[], &[]);
    line(
        &ran,
        "problem",
        "backend: it accepts connections and does not answer as HTTP/1.1",
    );
    let late = Backend::answers_by(|_| {
        b"HTTP/1.1 200 OK\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\ncontent-length: 0\r\n\r\n"
            .to_vec()
    });
    let ran = doctor(&folder, &late, &[], &[]);
    line(&ran, "warning", "clock: the backend's differs by ");
}

#[test]
fn certificates_that_end_or_stand_alone_or_sign_themselves_are_warned_of() {
    let backend = service_at("");
    let look = |certificate: &super::support::certificates::Made| {
        let folder = Folder::new();
        folder.write("cert.pem", &certificate.pem);
        folder.write("cert.key", &certificate.key);
        doctor(&folder, &backend, &[], &[])
    };
    let soon = made_with(&["localhost"], |params| {
        params.not_after = (std::time::SystemTime::now()
            + std::time::Duration::from_secs(9 * 86_400 + 3_600))
        .into();
    });
    let said = look(&soon);
    assert!(line(&said, "warning", "certificate default: ").contains("(9 days): renew it"));
    let over = made_with(&["localhost"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let said = look(&over);
    assert!(line(&said, "problem", "certificate: ").contains("has expired on Wed, 01 Jan 2020"));
    assert_eq!(said.code, 1);
    let said = look(&made(&["localhost"]));
    assert!(line(&said, "warning", "certificate default: ").contains("self-signed"));
    assert_eq!(said.code, 0);
    let said = look(&Authority::new("root").signs(&["localhost"]));
    assert!(
        line(&said, "warning", "certificate default: ")
            .contains("append the intermediate certificates")
    );
    // What is no good set is told by the configuration.
    let said = look(&made(&["elsewhere.test"]));
    assert!(
        line(&said, "problem", "configuration: tls.certificate").contains("do not cover localhost")
    );
}

#[test]
fn ports_that_do_not_meet_are_told() {
    let folder = Folder::new().with_certificate();
    let backend = service_at("");
    // Nobody listens there, and a listener of the gateway's will not either.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("https://localhost:{}/", free.port());
    let ran = doctor(&folder, &backend, &[], &[("BASE_ENDPOINT", &*url)]);
    let said = line(&ran, "warning", "name: localhost is ");
    assert!(
        said.contains(&format!(
            "which is this machine, and nothing listens on port {}",
            free.port()
        )),
        "{said}"
    );
    let same = free.to_string();
    let ran = doctor(
        &folder,
        &backend,
        &[],
        &[
            ("BASE_ENDPOINT", &*url),
            ("GATEWAY__PUBLIC__LISTEN", &*same),
        ],
    );
    assert!(line(&ran, "ok", "name: localhost is ").ends_with("as public.listen"));
    // Taken, as by a gateway that runs.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let url = format!("https://localhost:{}/", taken.local_addr().unwrap().port());
    let ran = doctor(
        &folder,
        &backend,
        &[],
        &[
            ("BASE_ENDPOINT", &*url),
            ("GATEWAY__ADMIN__LISTEN", &*address),
        ],
    );
    line(&ran, "ok", &format!("admin.listen: {address} is in use"));
    assert!(
        line(&ran, "ok", "name: localhost is ").contains("something accepts connections on port")
    );
    let ran = doctor(
        &folder,
        &backend,
        &[],
        &[("GATEWAY__PUBLIC__LISTEN", "192.0.2.1:443")],
    );
    line(&ran, "problem", "public.listen: 192.0.2.1:443: ");
}

#[test]
fn a_drain_that_is_longer_than_the_grace_period_is_a_problem() {
    let folder = Folder::new().with_certificate();
    let backend = service_at("");
    let drain = |arguments: &[&str], more: &[(&str, &str)], level: &str| {
        let ran = doctor(&folder, &backend, arguments, more);
        assert_eq!(ran.code, i32::from(level == "problem"), "{}", ran.out);
        line(
            &ran,
            level,
            "drain: drain.delay 5s and drain.budget 25s are 30s",
        )
        .to_owned()
    };
    assert!(drain(&[], &[], "ok").contains("at least 32s"));
    assert!(
        drain(&["--grace", "29s"], &[], "problem").ends_with("allow 32s, or shorten drain.budget")
    );
    drain(&["--grace", "31s"], &[], "warning");
    drain(&[], &[("TERMINATION_GRACE_PERIOD", "1m")], "ok");
    // A pod has half a minute where nothing else is said.
    let pod = [("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    assert!(drain(&[], &pod, "warning").contains("the grace period is 30s"));
    assert_eq!(run(&folder, &["doctor", "--grace", "30"], &[]).code, 2);
}

#[test]
fn requests_that_nothing_bounds_are_warned_of() {
    let folder = Folder::new().with_certificate();
    let overload = |requests, adaptive, level| {
        let more = [
            ("GATEWAY__LIMITS__REQUESTS", requests),
            ("GATEWAY__OVERLOAD__ADAPTIVE", adaptive),
        ];
        let ran = doctor(&folder, &service_at(""), &[], &more);
        line(&ran, level, "overload: limits.requests = ").to_owned()
    };
    assert!(overload("off", "false", "warning").contains("nothing bounds how many"));
    assert!(overload("32", "true", "warning").contains("overload.least = 32"));
    overload("off", "true", "ok");
    overload("32", "false", "ok");
}

#[test]
fn too_many_connections_for_the_limit_of_open_files_are_warned_of() {
    let folder = Folder::new().with_certificate();
    let most = [("GATEWAY__LIMITS__CONNECTIONS", "4000000000")];
    let ran = doctor(&folder, &service_at(""), &[], &most);
    let said = line(
        &ran,
        "warning",
        "open files: limits.connections = 4000000000 may need 8000000576, the limit is ",
    );
    assert!(said.contains("or set limits.connections to "), "{said}");
}

#[test]
fn what_keeps_changed_files_from_being_noticed_is_told() {
    let folder = Folder::new().with_certificate();
    let backend = service_at("");
    for (watch, poll, level, said) in [
        ("true", "1m", "ok", "reload: a change in "),
        (
            "false",
            "1m",
            "ok",
            "reload: not watched (reload.watch = false): changes are found every 1m",
        ),
        (
            "false",
            "off",
            "warning",
            "reload: reload.watch and reload.poll are both off",
        ),
    ] {
        let more = [
            ("GATEWAY__RELOAD__WATCH", watch),
            ("GATEWAY__RELOAD__POLL", poll),
        ];
        line(&doctor(&folder, &backend, &[], &more), level, said);
    }
}

#[test]
fn mistakes_and_missing_keys_are_found_too() {
    let folder = Folder::new().with_certificate();
    let backend = service_at("");
    let ran = doctor(&folder, &backend, &[], &[("REST_KEY", "")]);
    line(&ran, "warning", "keys: none is configured");
    folder.write("gateway.toml", "[limits]\nworker = 1\n[lmits]\n");
    let ran = doctor(&folder, &backend, &[], &[]);
    line(
        &ran,
        "problem",
        "configuration: gateway.toml:2:1: limits.worker:",
    );
    line(&ran, "problem", "configuration: gateway.toml:3:2: lmits:");
    assert_eq!(ran.code, 1);
}

/// The start makes one; looking must not.
#[test]
fn a_development_certificate_that_is_not_there_yet_is_not_made() {
    let folder = Folder::new();
    let more = [("GATEWAY__TLS__DEVELOPMENT", "true")];
    let ran = doctor(&folder, &service_at(""), &[], &more);
    line(&ran, "warning", "certificate: there is none yet");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root, and unshare and mount of util-linux: makes a mount like a subPath's"]
fn a_file_that_is_a_mount_of_its_own_is_told() {
    let folder = Folder::new().with_certificate();
    folder.write("source", std::fs::read(folder.0.join("cert.pem")).unwrap());
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount --bind source cert.pem && exec \"$0\" doctor")
        .arg(BINARY)
        .current_dir(&folder.0)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("BASE_ENDPOINT", "https://localhost/cobrowsing")
        .env("TLS_CERT_FILE", "cert.pem")
        .env("TLS_KEY_FILE", "cert.key")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let said = out
        .lines()
        .find(|line| line.contains("subPath"))
        .expect(&out);
    assert!(
        said.starts_with("warning") && said.contains("cert.pem"),
        "{said}"
    );
}
