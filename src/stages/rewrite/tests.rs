use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn rewrite(public_base: &str, upstream_base: &str) -> Rewrite {
    Rewrite::new(
        Tree {
            authority: "support.acmetech.com:8443",
            host: "support.acmetech.com",
            base: public_base,
        },
        Tree {
            authority: "127.0.0.1:5002",
            host: "127.0.0.1",
            base: upstream_base,
        },
        true,
        &["watch_url".into()],
    )
}

fn header(name: &str, value: &str) -> String {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_bytes(name.as_bytes()).unwrap(),
        value.parse().unwrap(),
    );
    rewrite("/cobrowsing", "").headers(&mut headers);
    headers[name].to_str().unwrap().to_owned()
}

#[test]
fn what_points_at_the_backend_is_mapped() {
    for (base, upstream, from, to) in [
        (
            "/cobrowsing",
            "",
            "/login?next=%2F#top",
            "/cobrowsing/login?next=%2F#top",
        ),
        ("/cobrowsing", "", "/", "/cobrowsing/"),
        (
            "/cobrowsing",
            "",
            "http://127.0.0.1:5002/x",
            "https://support.acmetech.com:8443/cobrowsing/x",
        ),
        (
            "/cobrowsing",
            "",
            "HTTP://127.0.0.1:5002",
            "https://support.acmetech.com:8443/cobrowsing/",
        ),
        (
            "/cobrowsing",
            "",
            "ws://127.0.0.1:5002/s?a=b",
            "wss://support.acmetech.com:8443/cobrowsing/s?a=b",
        ),
        (
            "/cobrowsing",
            "",
            "//127.0.0.1:5002/x",
            "//support.acmetech.com:8443/cobrowsing/x",
        ),
        (
            "/cobrowsing",
            "",
            "http://127.0.0.1:5002?x",
            "https://support.acmetech.com:8443/cobrowsing/?x",
        ),
        ("/a/b", "/up/tree", "/up/tree/x", "/a/b/x"),
        ("/a/b", "/up/tree", "/up/tree", "/a/b"),
        ("", "/up", "/up", "/"),
        ("", "/up", "/up?x", "/?x"),
        ("", "/up", "/up/x", "/x"),
        (
            "/same",
            "/same",
            "http://127.0.0.1:5002/same/x",
            "https://support.acmetech.com:8443/same/x",
        ),
    ] {
        assert_eq!(
            rewrite(base, upstream).url(from).as_deref(),
            Some(to),
            "{from}"
        );
    }
}

#[test]
fn what_points_elsewhere_stays() {
    for url in [
        "https://acmetech.com/",
        "https://support.acmetech.com/cobrowsing/x",
        "http://127.0.0.1:5003/x",
        "http://127.0.0.1:5002@evil.test/",
        "http://127.0.0.1:50021/x",
        "//evil.test/x",
        "/\\evil.test",
        "screen?id=1",
        "?a=b",
        "#x",
        "",
        "mailto:a@b",
        "/cobrowsing/already",
    ] {
        assert_eq!(rewrite("/cobrowsing", "").url(url), None, "{url}");
    }
    for url in [
        "/other",
        "/upx",
        "/up/../other",
        "/up/%2E%2e/other",
        "http://127.0.0.1:5002/other",
    ] {
        assert_eq!(rewrite("/cobrowsing", "/up").url(url), None, "{url}");
    }
}

#[test]
fn each_header_is_mapped_in_its_own_syntax() {
    for (name, from, to) in [
        ("location", "/x", "/cobrowsing/x"),
        ("content-location", "/x", "/cobrowsing/x"),
        ("refresh", "5; url=/x", "5; url=/cobrowsing/x"),
        (
            "refresh",
            "0;URL='http://127.0.0.1:5002/x'",
            "0;URL='https://support.acmetech.com:8443/cobrowsing/x'",
        ),
        ("refresh", "5", "5"),
        (
            "link",
            r#"</a.css>; rel=preload; title="a <b>, c", <https://cdn.test/x>; rel=x, </b>"#,
            r#"</cobrowsing/a.css>; rel=preload; title="a <b>, c", <https://cdn.test/x>; rel=x, </cobrowsing/b>"#,
        ),
        (
            "set-cookie",
            "a=b; Path=/; HttpOnly",
            "a=b; Path=/cobrowsing; HttpOnly",
        ),
        (
            "set-cookie",
            "a=/x; path=/x/; Domain=127.0.0.1; Secure",
            "a=/x; path=/cobrowsing/x/; Domain=support.acmetech.com; Secure",
        ),
        (
            "set-cookie",
            "a=b; Domain=acmetech.com",
            "a=b; Domain=acmetech.com",
        ),
        (
            "set-cookie",
            "__Host-a=b; Path=/; Secure",
            "__Host-a=b; Path=/; Secure",
        ),
        (
            "set-cookie",
            "a=b; Path=/cobrowsing",
            "a=b; Path=/cobrowsing",
        ),
    ] {
        assert_eq!(header(name, from), to);
    }
}

#[test]
fn every_cookie_of_an_answer_is_mapped() {
    let mut headers = HeaderMap::new();
    headers.append(SET_COOKIE, HeaderValue::from_static("a=1; Path=/"));
    headers.append(SET_COOKIE, HeaderValue::from_static("b=2; Path=/x"));
    rewrite("/cobrowsing", "").headers(&mut headers);
    assert_eq!(
        headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(),
        ["a=1; Path=/cobrowsing", "b=2; Path=/cobrowsing/x"]
    );
}

#[test]
fn only_the_named_field_of_a_json_answer_changes() {
    let json = |body: &str| {
        rewrite("/cobrowsing", "")
            .json(body.as_bytes())
            .map(|b| String::from_utf8(b).unwrap())
    };
    assert_eq!(
        json("{ \"status\" : \"ok\",\n \"watch_url\":\"http:\\/\\/127.0.0.1:5002/screen?id=A&token=B\" ,\"x\":1.00 }\n").as_deref(),
        Some("{ \"status\" : \"ok\",\n \"watch_url\":\"https://support.acmetech.com:8443/cobrowsing/screen?id=A&token=B\" ,\"x\":1.00 }\n")
    );
    for untouched in [
        r#"{"watch_url":"https://support.acmetech.com/cobrowsing/screen?id=A"}"#,
        r#"{"watch_url":7}"#,
        r#"{"other":"/x"}"#,
        r#"{"nested":{"watch_url":"/x"}}"#,
        r#"["watch_url","/x"]"#,
        r#"{"watch_url":"/x""#,
        "",
    ] {
        assert_eq!(json(untouched), None, "{untouched}");
    }
}

proptest! {
    #[test]
    fn there_and_back_is_the_same_url(base in "(/[a-z]{1,4}){0,3}", upstream in "(/[a-z]{1,4}){0,2}", rest in "(/[a-zA-Z0-9_~.-]{1,5}){0,4}/?([?][a-z=&%23]{0,6})?") {
        prop_assume!(!climbs(&rest) && rest.starts_with('/'));
        let rewrite = rewrite(&base, &upstream);
        let public = format!("https://support.acmetech.com:8443{base}{rest}");
        let at_backend = format!("http://127.0.0.1:5002{upstream}{rest}");
        prop_assert_eq!(rewrite.url(&at_backend), Some(public));
    }

    #[test]
    fn mapping_what_is_mapped_changes_nothing(base in "(/[a-z]{1,4}){1,3}", upstream in "(/[a-z]{1,4}){0,2}", url in "(http://127.0.0.1:5002)?(/[a-z.]{0,4}){0,4}[?]?") {
        prop_assume!(below(&upstream, &base).is_none());
        let rewrite = rewrite(&base, &upstream);
        if let Some(once) = rewrite.url(&url) {
            prop_assert_eq!(rewrite.url(&once), None);
        }
    }

    #[test]
    fn a_mapped_path_lies_below_the_base(base in "(/[a-z]{1,4}){0,3}", upstream in "(/[a-z]{1,2}){0,2}", url in "(/[a-z.%2e]{0,4}){0,6}") {
        if let Some(mapped) = rewrite(&base, &upstream).url(&url) {
            prop_assert!(below(&mapped, &base).is_some());
            prop_assert!(!climbs(&mapped));
        }
    }
}
