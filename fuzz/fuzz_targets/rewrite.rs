//! What is mapped stays what it was: valid JSON stays valid, only the named fields change, and a
//! header stays one header.
#![no_main]

use cobrowse_gateway::stages::rewrite::{Rewrite, Tree};
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (nested, bytes) = input;
    let rewrite = Rewrite::new(
        Tree { authority: "public.test", host: "public.test", base: "/base" },
        Tree { authority: "up:1", host: "up", base: if nested { "/inner" } else { "" } },
        true,
        &["watch_url".to_owned()],
    );
    if let Some(mapped) = rewrite.json(bytes) {
        let mut before: serde_json::Value =
            serde_json::from_slice(bytes).expect("only JSON is mapped");
        let mut after: serde_json::Value = serde_json::from_slice(&mapped).expect("JSON");
        before["watch_url"].take();
        after["watch_url"].take();
        assert_eq!(before, after);
    }
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for name in [
        header::LOCATION,
        header::CONTENT_LOCATION,
        header::REFRESH,
        header::LINK,
        header::SET_COOKIE,
    ] {
        headers.insert(name, value.clone());
    }
    rewrite.headers(&mut headers);
    assert_eq!(headers.len(), 5);
    // An answer that names the public URL already is left as it is.
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        if let Ok(once) = headers[&name].to_str()
            && once.starts_with("https://public.test/")
        {
            assert_eq!(rewrite.url(once), None, "{once}");
        }
    }
});
