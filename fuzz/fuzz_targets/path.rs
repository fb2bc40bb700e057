//! No path that is judged a page is the API for a backend that decodes once more, folds case, cuts
//! parameters or resolves dots; and nothing leaves the base path.
#![no_main]

use cobrowse_gateway::path::{Compat, canonical};
use cobrowse_gateway::stages::route::{Place, Routes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| {
    let (switches, path) = input;
    let compat = Compat {
        path_parameters: switches & 1 > 0,
        encoded_slashes: switches & 2 > 0,
        encoded_percent: switches & 4 > 0,
    };
    if let Ok(once) = canonical(path, compat) {
        let twice = canonical(&once.path, compat).expect("a canonical path is a path");
        assert_eq!(once.path, twice.path);
        assert!(!once.path.contains("//"));
        assert!(!once.path.split('/').any(|s| s == "." || s == ".."));
    }
    let routes = Routes::new("/base", "/api", ["localhost".to_owned()], compat);
    let Ok(routed) = routes.judge(path) else {
        return;
    };
    let Place::Below(rest) = routed.place else {
        return;
    };
    assert!(rest.starts_with('/'));
    if !routed.route.is_api() {
        assert!(!is_api(&rest), "{path:?} was taken for a page, and {rest:?} sent");
    }
});

/// What the most lenient backend would make of it.
fn is_api(rest: &str) -> bool {
    let mut decoded = rest.as_bytes().to_vec();
    for _ in 0..3 {
        decoded = decode(&decoded);
    }
    let text = String::from_utf8_lossy(&decoded).to_ascii_lowercase();
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment.trim_end_matches(['.', ' '])),
        }
    }
    kept.first() == Some(&"api")
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%'
            && i + 2 < bytes.len()
            && let (Some(high), Some(low)) = (hex(bytes[i + 1]), hex(bytes[i + 2]))
        {
            out.push(high << 4 | low);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}
