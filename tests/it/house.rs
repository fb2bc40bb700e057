//! The plan of the house: a file imports only from lower floors or from its own folder.

use std::fs;
use std::path::{Path, PathBuf};

/// The floor of a top-level module of `src/`.
fn floor(module: &str) -> u8 {
    match module {
        "main" | "commands" | "lib" => 7,
        "process" => 6,
        "downstream" | "admin" => 5,
        "pipeline" => 4,
        "snapshot" => 3,
        "stages" | "rate_limit" | "tls" | "upstream" | "otlp" => 2,
        "telemetry" | "path" => 1,
        "config" | "names" | "reject" | "body" | "buffers" | "fields" | "framing" | "peer"
        | "drain" | "alarm" => 0,
        other => panic!("src/{other} has no floor: give it one in tests/it/house.rs and DESIGN"),
    }
}

struct Source {
    /// Below `src/`, e.g. `upstream/head.rs`.
    path: String,
    module: String,
    /// Without comments and without its tests.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            // The tests of a module of two files and more.
            if name.ends_with("/tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = text
                .lines()
                .map(|line| line.split("//").next().unwrap())
                .collect::<Vec<_>>()
                .join("\n");
            let module = name
                .split('/')
                .next()
                .unwrap()
                .trim_end_matches(".rs")
                .to_owned();
            found.push(Source {
                path: name,
                module,
                code,
            });
        }
    }
    assert!(found.len() > 30);
    found
}

/// The top-level modules that `code` names by `crate::`, also in `use crate::{a, b::c}`.
fn imports(code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(inside) = rest.strip_prefix('{') else {
            modules.push(word(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in inside.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => modules.push(word(std::mem::take(&mut item).trim())),
                c if depth == 0 => item.push(c),
                _ => {}
            }
        }
        modules.push(word(item.trim()));
    }
    modules.retain(|module| !module.is_empty());
    modules
}

#[test]
fn imports_of_both_shapes_are_read() {
    let code = "use crate::a::b;\nuse crate::{c::{d, e}, f};\nfn g() { crate::h::i() }";
    assert_eq!(imports(code), ["a", "c", "f", "h"]);
}

#[test]
fn no_import_climbs_a_floor() {
    for source in sources() {
        if source.module == "visitor" || source.path == "lib.rs" {
            continue;
        }
        let own = floor(&source.module);
        for module in imports(&source.code) {
            if module == source.module {
                continue;
            }
            if module == "visitor" {
                let may = matches!(&*source.module, "commands" | "process");
                assert!(may, "{} imports the built-in backend", source.path);
                continue;
            }
            assert!(
                floor(&module) < own,
                "{} (floor {own}) imports {module} (floor {})",
                source.path,
                floor(&module)
            );
        }
        // Out of its own folder nothing leads but `crate::`.
        let top = source.path.matches('/').count() == 0 || source.path.ends_with("/mod.rs");
        let climbs = if top { "super::" } else { "super::super::" };
        let allowed = source.path.matches('/').count() > 1 || source.module == "main";
        assert!(
            allowed || !source.code.contains(climbs),
            "{}: {climbs}",
            source.path
        );
    }
}

#[test]
fn the_built_in_backend_imports_nothing_of_the_gateway() {
    for source in sources().iter().filter(|s| s.module == "visitor") {
        let foreign = imports(&source.code)
            .into_iter()
            .find(|module| module != "visitor");
        assert_eq!(foreign, None, "{}", source.path);
    }
}

#[test]
fn stages_know_neither_sockets_nor_telemetry_nor_each_other() {
    for source in sources().iter().filter(|s| s.module == "stages") {
        for word in [
            "tokio",
            "telemetry",
            "hyper::",
            "std::net::Tcp",
            "async ",
            ".await",
            "stages::",
        ] {
            assert!(
                !source.code.contains(word),
                "{} mentions {word}",
                source.path
            );
        }
        // In a stage of its own folder its files know each other.
        let within = source.path.matches('/').count() > 1 && !source.path.ends_with("/mod.rs");
        let climbs = if within { "super::super::" } else { "super::" };
        assert!(
            !source.code.contains(climbs),
            "{} leads to another stage",
            source.path
        );
    }
}

#[test]
fn one_place_each_builds() {
    for (word, places) in [
        ("governor::", &["rate_limit/"][..]),
        ("ServerConfig::builder", &["tls/"]),
        ("ClientConfig::builder", &["tls/"]),
        ("redis::", &["rate_limit/shared/"]),
        ("opentelemetry", &["otlp/"]),
        ("prometheus::process_collector", &["telemetry/"]),
        ("HistogramOpts", &["telemetry/"]),
        ("Opts::new", &["telemetry/"]),
        ("Registry::new", &["telemetry/"]),
        ("notify::", &["snapshot/", "telemetry/manager.rs"]), // the latter: sd_notify
    ] {
        for source in sources() {
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            assert!(
                allowed || !source.code.contains(word),
                "{} mentions {word}",
                source.path
            );
        }
    }
}
