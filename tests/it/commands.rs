//! The commands that print and explain the configuration, as who types them sees them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use cobrowse_gateway::config::{Key, keys};

use super::support::{BINARY, Backend, Folder, Gateway, KEY};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What a command exits with, and what it writes.
pub(super) struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub(super) fn run(folder: &Folder, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(BINARY)
        .args(arguments)
        .current_dir(&folder.0)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// The same, which must go well.
pub(super) fn good(folder: &Folder, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let ran = run(folder, arguments, environment);
    assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.out, ran.err);
    assert_eq!(ran.err, "", "{arguments:?}");
    ran.out
}

fn shipped() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("gateway.toml")).unwrap()
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let folder = Folder::new();
    folder.write("gateway.toml", shipped());
    let printed = good(&folder, &["config", "print"], &[]);
    folder.write("printed.toml", &printed);
    let again = good(
        &folder,
        &["--config", "printed.toml", "config", "print"],
        &[],
    );
    assert_eq!(again, printed);
    let difference = good(&folder, &["config", "diff", "printed.toml"], &[]);
    assert_eq!(difference, "no change\n");
    // Every key is in it, also those that are not set.
    for key in keys() {
        let name = key.name.rsplit('.').next().unwrap();
        let stands = name == "*"
            || key.name.starts_with("tls.additional.")
            || printed.lines().any(|line| {
                line.starts_with(&format!("{name} = ")) || line == format!("# {name} is not set")
            });
        assert!(stands, "{}: {printed}", key.name);
    }
}

#[test]
fn each_value_is_printed_with_where_it_comes_from() {
    let folder = Folder::new();
    folder.write(
        "some.toml",
        "[upstream]\nurl = 'http://a'\n\n[[rate_limit.policy]]\nname = 'one'\nper = 'key'\nrate = '1/1s'\n",
    );
    folder.write("key", "canary-file\n");
    let environment = [
        ("BASE_ENDPOINT", "https://localhost/c"),
        ("GATEWAY__LOG__LEVEL", "warn"),
        ("REST_KEY_FILE", "key"),
    ];
    let printed = good(
        &folder,
        &["--config", "some.toml", "config", "print", "--origin"],
        &environment,
    );
    for (line, origin) in [
        ("base_endpoint = \"https://localhost/c\"", "BASE_ENDPOINT"),
        ("listen = \"0.0.0.0:8443\"", "default"),
        ("url = \"http://a\"", "some.toml:2"),
        ("rate = \"1/1s\"", "some.toml:7"),
        ("level = \"warn\"", "GATEWAY__LOG__LEVEL"),
        ("# rest_key = \"***\"", "REST_KEY_FILE"),
        ("# certificate is not set", "default"),
    ] {
        let found = printed.lines().any(|printed| {
            let words = printed.split_once("  # ");
            words.is_some_and(|(l, o)| l.trim_end() == line && o == origin)
        });
        assert!(found, "{line} # {origin} is not in\n{printed}");
    }
}

#[test]
fn what_a_reload_would_change_is_told_with_its_property_and_exits_with_0() {
    let folder = Folder::new();
    folder.write(
        "gateway.toml",
        "[public]\nbase_endpoint = 'https://localhost/c'\n[tls]\ncertificate = 'cert.pem'\n[api.keys]\na = 'canary-1'\n",
    );
    // In another folder: the paths in it mean what they will mean where the file lies now.
    std::fs::create_dir(folder.0.join("next")).unwrap();
    folder.write(
        "next/gateway.toml",
        "[public]\nbase_endpoint = 'https://localhost/d'\nlisten = '0.0.0.0:9443'\n[tls]\ncertificate = 'cert.pem'\nmin_version = '1.3'\n[api.keys]\na = 'canary-2'\nb = 'canary-1'\n",
    );
    let said = good(&folder, &["config", "diff", "next/gateway.toml"], &[]);
    assert_eq!(
        said,
        r#"public.base_endpoint: "https://localhost/c" -> "https://localhost/d" (live)
public.listen: "0.0.0.0:8443" -> "0.0.0.0:9443" (restart)
tls.min_version: "1.2" -> "1.3" (new-connections)
api.keys.a: "***" -> "***" (live)
api.keys.b: (not set) -> "***" (live)

5 changes, 1 needs a restart
"#
    );
    // The environment beats both files.
    let fixed = [("BASE_ENDPOINT", "https://localhost/e")];
    let said = good(&folder, &["config", "diff", "next/gateway.toml"], &fixed);
    assert!(!said.contains("base_endpoint"), "{said}");
    let same = good(&folder, &["config", "diff", "gateway.toml"], &[]);
    assert_eq!(same, "no change\n");
    // What cannot be read is told of the file it stands in.
    folder.write("next/gateway.toml", "[limits]\nworker = 1\n");
    for new in ["next/gateway.toml", "missing.toml"] {
        let ran = run(&folder, &["config", "diff", new], &[]);
        assert_eq!((ran.code, &*ran.out), (1, ""), "{new}");
        assert!(ran.err.contains(new), "{}", ran.err);
    }
}

/// A running gateway and `config diff` must agree on what needs a restart: an address that differs
/// is not bound by a reload.
#[tokio::test]
async fn the_running_gateway_keeps_what_needs_a_restart() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("reload.watch = false");
    let gateway = setup.start().await;
    let file = gateway.folder.0.join("gateway.toml");
    let now = std::fs::read_to_string(&file).unwrap();
    let next = now.replacen("[admin]", "[websocket]\nidle = \"2m\"\n[admin]", 1);
    let next = next.replace("workers = 1", "workers = 2");
    gateway.folder.write("next.toml", &next);
    let environment = [("REST_KEY", KEY)];
    let said = good(
        &gateway.folder,
        &["config", "diff", "next.toml"],
        &environment,
    );
    assert_eq!(
        said,
        "websocket.idle: \"1h\" -> \"2m\" (new-connections)\nlimits.workers: 1 -> 2 (restart)\n\n2 changes, 1 needs a restart\n"
    );
    gateway.folder.write("gateway.toml", &next);
    gateway.signal(rustix::process::Signal::HUP);
    gateway.until_metric("gateway_config_generation", 1.0).await;
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let names = threads.map(|task| {
        let name = task.unwrap().path().join("comm");
        std::fs::read_to_string(name).unwrap_or_default()
    });
    let workers = names.filter(|name| name.starts_with("worker-")).count();
    assert_eq!(workers, 1);
}

#[test]
fn the_printed_schema_takes_the_shipped_file_and_refuses_mistakes() {
    let folder = Folder::new();
    let schema = serde_json::from_str(&good(&folder, &["config", "schema"], &[])).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let judge = |text: &str| {
        let table: toml::Table = toml::from_str(text).unwrap();
        let json = serde_json::to_value(table).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(&json)
            .map(|e| e.to_string())
            .collect();
        errors
    };
    assert_eq!(judge(&shipped()), [""; 0]);
    let printed = {
        folder.write("gateway.toml", shipped());
        good(&folder, &["config", "print"], &[])
    };
    assert_eq!(judge(&printed), [""; 0]);
    // What the schema takes and refuses, the program does, too.
    let strict = |text: &str| {
        folder.write("one.toml", text);
        run(&folder, &["--config", "one.toml", "config", "print"], &[]).code == 0
    };
    for text in [
        "[upstream]\nconnect_timeout = '250ms'",
        "[upstream]\nconnect_timeout = '2 h'",
        "[websocket]\nidle = 'off'",
        "[limits]\nworkers = 3\nconnections_per_client = 'off'\nheader_bytes = '0B'",
        "[public]\ntrusted_proxies = ['10.0.0.0/8', 'fd00::/8']\nlisten = '[::]:443'",
        "[api.keys]\nany_name = 'x'",
        "[[rate_limit.policy]]\nname = 'p'\nper = 'client'\nrate = '1/1m'",
    ] {
        assert_eq!(judge(text), [""; 0], "{text}");
        assert!(strict(text), "{text}");
    }
    for text in [
        "[upstream]\nconect_timeout = '5s'",
        "[upsteam]\nurl = 'x'",
        "[upstream]\nconnect_timeout = 5",
        "[upstream]\nconnect_timeout = '5'",
        "[websocket]\nidle = 'never'",
        "[limits]\nworkers = 0",
        "[limits]\nworkers = 257",
        "[limits]\nconnections_per_client = 0",
        "[limits]\nheader_bytes = '64KB'",
        "[public]\ntrusted_proxies = ['10.0.0.0']",
        "[public]\nlisten = '8443'",
        "[log]\nlevel = 'loud'",
        "[api.keys]\nany_name = 1",
        "[[rate_limit.policy]]\nname = 'p'\nper = 'client'",
        "[[rate_limit.policy]]\nname = 'p'\nper = 'client'\nrate = '0/1m'",
    ] {
        assert_ne!(judge(text), [""; 0], "{text}");
        assert!(!strict(text), "{text}");
    }
}

/// The part of `gateway.toml` below `[section]` (and `[section.…]`, `[[section.…]]`).
fn section<'t>(text: &'t str, section: &str) -> Vec<&'t str> {
    let mut within = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            let name = line.trim_matches(['[', ']']);
            within = name == section || name.starts_with(&format!("{section}."));
        }
        if within {
            lines.push(line);
        }
    }
    lines
}

/// Whether `gateway.toml` shows `key`: as it is, or as a comment where it has no default.
fn shows(text: &str, key: &Key) -> bool {
    let (at, name) = key.name.split_once('.').unwrap();
    let name = name.rsplit('.').next().unwrap();
    let is_set = |line: &str| line.starts_with(&format!("{name} = "));
    section(text, at).into_iter().any(|line| match name {
        // Names of one's own choice.
        "*" => line.starts_with(&format!("[{}]", key.name.trim_end_matches(".*"))),
        _ if key.name.starts_with("tls.additional.") => line.contains(&format!(" {name} = ")),
        _ => is_set(line) || key.default.is_none() && is_set(line.trim_start_matches("# ")),
    })
}

#[test]
fn the_structs_the_shipped_file_the_schema_and_the_documentation_have_the_same_keys() {
    let folder = Folder::new();
    let (shipped, docs) = (shipped(), good(&folder, &["config", "docs"], &[]));
    let schema = good(&folder, &["config", "schema"], &[]);
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let keys = keys();
    assert!(keys.len() > 50, "{}", keys.len());
    for key in &keys {
        assert!(shows(&shipped, key), "{} is not in gateway.toml", key.name);
        let (section, name) = key.name.split_once('.').unwrap();
        let row = format!("| `{name}` |");
        let table = docs
            .split(&format!("## [{section}]"))
            .nth(1)
            .expect(section);
        assert!(
            table.contains(&row),
            "{} is not in the documentation",
            key.name
        );
        let first = name.split('.').next().unwrap();
        let described = &schema["properties"][section]["properties"][first]["description"];
        assert!(described.is_string(), "{} is not in the schema", key.name);
    }
    // And the file has no key more: each it has is one of these.
    for (name, table) in toml::from_str::<toml::Table>(&shipped).unwrap() {
        for key in table.as_table().unwrap().keys() {
            let known = keys.iter().any(|k| {
                let rest = k.name.strip_prefix(&format!("{name}.{key}"));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            assert!(known, "{name}.{key}");
        }
    }
}

#[test]
fn the_documentation_of_the_configuration_is_that_of_this_program() {
    let docs = good(&Folder::new(), &["config", "docs"], &[]);
    let file = Path::new(ROOT).join("docs/configuration.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &docs).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == docs,
        "docs/configuration.md: write it with BLESS=1"
    );
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place_and_what_was_meant() {
    let folder = Folder::new();
    folder.write(
        "gateway.toml",
        "[upstream]\nconect_timeout = '5s'\nsilence = 'soon'\n[webscket]\nidle = '1h'\n[tls]\nkeep_alive = '1s'\n[api.keys]\nmine = 4242\n",
    );
    let environment = [
        ("GATEWAY__LIMITS__WORKRES", "2"),
        ("GATEWAY__LOG__LEVEL", "loud"),
    ];
    let ran = run(&folder, &["check"], &environment);
    assert_eq!((ran.code, &*ran.out), (1, ""));
    let said: Vec<_> = ran.err.lines().collect();
    for (i, parts) in [
        &[
            "gateway.toml:2:1: upstream.conect_timeout: unknown key",
            "did you mean `connect_timeout`?",
        ][..],
        &["gateway.toml:3:11: upstream.silence:", "\"soon\"", "30s"],
        &[
            "gateway.toml:4:2: webscket: unknown key",
            "did you mean `websocket`?",
        ],
        &[
            "gateway.toml:7:1: tls.keep_alive: unknown key",
            "did you mean `timeouts.keep_alive`?",
        ],
        &["gateway.toml:9:8: api.keys.mine:"],
        &[
            "GATEWAY__LIMITS__WORKRES: unknown key",
            "did you mean `workers`?",
        ],
        &["GATEWAY__LOG__LEVEL = \"loud\": unknown variant", "`debug`"],
    ]
    .iter()
    .enumerate()
    {
        for part in *parts {
            assert!(
                said[i].contains(part),
                "{part:?} is not in line {i} of {said:#?}"
            );
        }
    }
    assert_eq!(said.len(), 7, "{said:#?}");
    assert!(!ran.err.contains("4242"), "{said:#?}");
    // Who runs it is told the first.
    let ran = run(&folder, &["run"], &environment);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("did you mean `connect_timeout`?"),
        "{}",
        ran.err
    );
}

#[test]
fn completions_and_manual_know_every_command() {
    let folder = Folder::new();
    let commands = [
        "run",
        "check",
        "config",
        "cert",
        "healthcheck",
        "completions",
        "man",
    ];
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = good(&folder, &["completions", shell], &[]);
        for command in commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    assert_eq!(run(&folder, &["completions", "tcsh"], &[]).code, 2);
    let page = good(&folder, &["man"], &[]);
    assert!(page.contains(".TH cobrowse-gateway 1"), "{page}");
    for command in commands {
        assert!(page.contains(command), "{command}");
    }
    good(&folder, &["man", "--dir", "pages"], &[]);
    for page in ["cobrowse-gateway", "cobrowse-gateway-config-print"] {
        let page = folder.0.join(format!("pages/{page}.1"));
        assert!(page.exists(), "{}", page.display());
    }
}

#[test]
fn who_has_read_enough_of_an_answer_breaks_nothing() {
    let folder = Folder::new();
    let mut child = Command::new(BINARY)
        .args(["config", "schema"])
        .current_dir(&folder.0)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn no_command_prints_a_key_wherever_it_stands() {
    let folder = Folder::new().with_certificate();
    folder.write("key", "canary-in-a-file\n");
    folder.write(
        "gateway.toml",
        "[public]\nbase_endpoint = 'https://localhost/c'\n[tls]\ncertificate = 'cert.pem'\nkey = 'cert.key'\n[api.keys]\nmine = 'canary-in-the-toml'\n",
    );
    folder.write("other.toml", "[api.keys]\nmine = 'canary-of-the-other'\n");
    let commands: [&[&str]; 8] = [
        &["check"],
        &["config", "print"],
        &["config", "print", "--origin"],
        &["config", "diff", "other.toml"],
        &["config", "schema"],
        &["config", "docs"],
        &["man"],
        &["completions", "bash"],
    ];
    for environment in [
        &[("REST_KEY", "canary-of-the-environment")][..],
        &[("REST_KEY_FILE", "key")],
        &[("GATEWAY__API__KEYS", "{ a = 'canary-inline' }")],
        &[("UPSTREAM_URL", "http://user:canary-in-a-url@localhost")],
    ] {
        for arguments in commands {
            let Ran { out, err, .. } = run(&folder, arguments, environment);
            assert!(
                !out.contains("canary"),
                "{arguments:?} {environment:?}: {out}"
            );
            assert!(
                !err.contains("canary"),
                "{arguments:?} {environment:?}: {err}"
            );
        }
    }
}
