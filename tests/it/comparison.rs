//! `bench/compare` still measures: each row once, at its smallest, of the gateway alone. What the peers
//! need is not looked at here, and the figures of a debug build mean nothing.

use std::process::Command;

use serde_json::Value;

use super::support::{BINARY, Folder};

/// Runs it with a folder of its own to build in, bounded in time.
fn compare(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let ran = Command::new("timeout")
        .args(["--kill-after=5", "90"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/compare"))
        .args(arguments)
        .env("BENCH_TMP", &folder.0)
        .current_dir(&folder.0)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        ran.status.code().unwrap_or(-1),
        text(ran.stdout),
        text(ran.stderr),
    )
}

#[test]
#[ignore = "needs python3, gcc, libssl-dev, curl and nghttp2-client"]
fn the_comparison_measures_what_it_names() {
    let folder = Folder::new();
    let rows = "h1,h2,401,post,lat,connect,download,upload,ws,ws_lat,idle,idle_ws,start,churn";
    let arguments = ["--small", "--no-install", "--peers", "none", "--row", rows];
    let more = ["--binary", BINARY, "--out", "figures.json"];
    let (code, table, progress) = compare(&folder, &[&arguments[..], &more].concat());
    assert_eq!(code, 0, "{progress}");
    assert!(progress.contains("ours cobrowse-gateway"), "{progress}");
    let figures = std::fs::read(folder.0.join("figures.json")).unwrap();
    let figures: Value = serde_json::from_slice(&figures).unwrap();
    let lines = figures["lines"].as_array().unwrap();
    for row in rows.split(',') {
        let of = lines.iter().filter(|line| line["row"] == row);
        assert!(of.count() > 0, "{row} is not in {lines:?}");
    }
    for line in lines {
        let ours = line["medians"]["ours"].as_f64();
        assert!(ours.is_some_and(f64::is_finite), "{line}");
        // What these cost is never nothing.
        if line["unit"].as_str().unwrap().starts_with("CPU") {
            assert!(ours.is_some_and(|figure| figure > 0.0), "{line}");
        }
        assert!(table.contains(line["title"].as_str().unwrap()), "{table}");
    }
    for run in figures["runs"].as_array().unwrap() {
        assert_eq!((&run["errors"], &run["refused"]), (&0.into(), &0.into()));
        assert!(run["done"].as_u64() > Some(0), "{run}");
    }
    // What was measured can be shown again, and nothing else is asked for.
    let (code, again, said) = compare(&folder, &["--read", "figures.json"]);
    assert_eq!((code, again), (0, table), "{said}");
}

#[test]
#[ignore = "needs python3, gcc, libssl-dev, curl and nghttp2-client"]
fn the_comparison_says_what_is_wrong_with_what_it_is_told() {
    let folder = Folder::new();
    for (arguments, said) in [
        (&["--row", "h1,h3"][..], "no row h3; there are h1, h2,"),
        (&["--peers", "apache"], "no peer apache; there are nginx,"),
        (&["--sockets", "many"], "--sockets wants two numbers"),
        (
            &["--peers", "none", "--binary", "nowhere"],
            "--binary nowhere: no program there",
        ),
        (&["--read", "nothing.json"], "nothing.json"),
    ] {
        let (code, out, err) = compare(&folder, &[&["--no-install"], arguments].concat());
        assert_ne!(code, 0, "{out}");
        assert!(err.contains(said), "{arguments:?}: {err}");
        assert!(!err.contains("Traceback"), "{err}");
    }
}
