//! No configuration makes the reader panic, and no error shows a key.
#![no_main]

use std::path::Path;

use cobrowse_gateway::config::{Config, Environment};
use libfuzzer_sys::fuzz_target;

const CANARY: &str = "canary-5f21";

fuzz_target!(|text: &str| {
    let environment = Environment::of([("REST_KEY", CANARY)]);
    let text = format!("{text}\n[api.keys]\nfuzz = \"{CANARY}\"\n");
    match Config::read(Path::new("gateway.toml"), &text, &environment) {
        Ok(config) => assert!(!format!("{config:?}").contains(CANARY)),
        Err(wrong) => assert!(!wrong.to_string().contains(CANARY)),
    }
});
