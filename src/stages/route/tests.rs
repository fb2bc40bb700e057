use proptest::prelude::*;

use super::*;

fn routes(base: &str) -> Routes {
    Routes::new(
        base,
        "/api",
        ["Support.acmetech.com".into(), "[::1]".into()],
        Compat::default(),
    )
}

fn route(path: &str) -> Result<Route, Reject> {
    routes("/cobrowsing").judge(path).map(|r| r.route)
}

#[test]
fn paths_of_the_contract_have_their_templates() {
    for (path, expected) in [
        (
            "/cobrowsing/api/visitors/list/latest",
            Route::VisitorsLatest,
        ),
        (
            "/cobrowsing/api/visitors/list/search",
            Route::VisitorsSearch,
        ),
        ("/cobrowsing/api/visitors/ABCD1234", Route::Visitor),
        (
            "/cobrowsing/api/visitors/ABCD1234/watch_url",
            Route::WatchUrl,
        ),
        ("/cobrowsing/api/visitors/list", Route::ApiOther),
        ("/cobrowsing/api", Route::ApiOther),
        ("/cobrowsing/api/usage", Route::ApiOther),
        ("/cobrowsing/screen", Route::Screen),
        ("/cobrowsing/screen/x.js", Route::Screen),
        ("/cobrowsing/screens", Route::Page),
        ("/cobrowsing/", Route::Page),
        ("/cobrowsing/apis/x", Route::Page),
        ("/cobrowsingx/api", Route::None),
        ("/", Route::None),
    ] {
        assert_eq!(route(path), Ok(expected), "{path}");
    }
}

#[test]
fn whatever_a_lenient_backend_could_take_for_the_api_is_the_api() {
    for path in [
        "/cobrowsing/API/visitors/1",
        "/Cobrowsing/aPi/visitors/1",
        "/cobrowsing/%61pi/visitors/1",
        "/cobrowsing/%41PI/visitors/1",
        "/cobrowsing/x/../api/visitors/1",
        "/cobrowsing/x/%2E%2e/api/visitors/1",
        "/cobrowsing/./api/visitors/1",
        "//cobrowsing//api//visitors",
        "/cobrowsing/api./visitors",
        "/cobrowsing/api../visitors",
        "/cobrowsing/api%20/visitors",
        "/cobrowsing/%20api/visitors",
        "/cobrowsing/api%3Bx=1/visitors",
        "/cobrowsing/api%3f/visitors",
        "/cobrowsing/api%23/visitors",
        "/cobrowsing/cobrowsing/api/visitors",
        "/cobrowsing/COBROWSING/cobrowsing/api/visitors",
    ] {
        assert!(route(path).unwrap().is_api(), "{path}");
    }
}

#[test]
fn what_could_mean_two_things_is_refused() {
    for path in [
        "/cobrowsing/api%2fvisitors",
        "/cobrowsing%2Fapi/visitors",
        "/cobrowsing/api%5cvisitors",
        "/cobrowsing/api\\visitors",
        "/cobrowsing/%252e%252e/api",
        "/cobrowsing/%2561pi",
        "/cobrowsing/api;x=1/visitors",
        "/cobrowsing/x;/../api",
        "/cobrowsing/%00",
        "/cobrowsing/%0d%0a",
        "/cobrowsing/%c0%af",
        "/cobrowsing/%e0%80%af",
        "/cobrowsing/%ff",
    ] {
        assert!(
            matches!(route(path), Err(Reject::AmbiguousPath(_))),
            "{path}: {:?}",
            route(path)
        );
    }
    for path in [
        "",
        "*",
        "api",
        "/cobrowsing/%zz",
        "/cobrowsing/%2",
        "/a b",
        "/\u{e9}",
    ] {
        assert!(matches!(route(path), Err(Reject::BadRequest(_))), "{path}");
    }
}

#[test]
fn what_is_opened_is_opened_for_pages_alone() {
    let mut open = routes("/cobrowsing");
    open.compat = Compat {
        path_parameters: true,
        encoded_slashes: true,
        encoded_percent: true,
    };
    for page in [
        "/cobrowsing/a;v=1/b",
        "/cobrowsing/a%2Fb",
        "/cobrowsing/100%25",
    ] {
        assert_eq!(open.judge(page).map(|r| r.route), Ok(Route::Page), "{page}");
    }
    for path in [
        "/cobrowsing/api;x=1/visitors",
        "/cobrowsing/x;/../api",
        "/cobrowsing/API%2Fvisitors",
        "/cobrowsing%2Fapi/visitors",
        "/cobrowsing/x%2F..%2Fapi",
        "/cobrowsing/%2561pi/visitors",
        "/cobrowsing/%25252561pi/visitors",
        "/cobrowsing/x%255C..%255Capi/1",
        "/cobrowsing/..%2F..%2Fetc",
        "/cobrowsing/api/a;b",
    ] {
        let judged = open.judge(path);
        assert!(matches!(judged, Err(Reject::AmbiguousPath(_))), "{path}");
    }
}

#[test]
fn the_base_path_ends_at_a_segment() {
    let place = |base: &str, path: &'static str| routes(base).judge(path).unwrap().place;
    assert_eq!(place("/cobrowsing", "/cobrowsing"), Place::Bare);
    assert_eq!(
        place("/cobrowsing", "/cobrowsing/"),
        Place::Below("/".into())
    );
    assert_eq!(
        place("/cobrowsing", "/cobrowsing/x/y"),
        Place::Below("/x/y".into())
    );
    assert_eq!(place("/cobrowsing", "/cobrowsingx"), Place::Outside);
    assert_eq!(place("/a/b", "/a/b/c"), Place::Below("/c".into()));
    assert_eq!(place("/a/b", "/a/c"), Place::Outside);
    assert_eq!(place("", "/x"), Place::Below("/x".into()));
    assert_eq!(place("", "/"), Place::Below("/".into()));
    assert_eq!(place("/cobrowsing", "/cobrowsing/../x"), Place::Outside);
}

#[test]
fn hosts_are_ours_whatever_their_case_or_port_and_no_other_is() {
    let at = |uri: &str, lines: &[&str]| {
        routes("").host(&uri.parse().unwrap(), lines.iter().map(|l| l.as_bytes()))
    };
    assert_eq!(at("/", &["support.ACMETECH.com"]), Ok(0));
    assert_eq!(at("/", &["support.acmetech.com:8443"]), Ok(0));
    assert_eq!(at("/", &["[::1]:8443"]), Ok(1));
    assert_eq!(at("https://support.acmetech.com/x", &[]), Ok(0));
    for other in [
        "evil.test",
        "support.acmetech.com.",
        "xsupport.acmetech.com",
    ] {
        assert_eq!(
            at("/", &[other]),
            Err(Reject::MisdirectedRequest),
            "{other}"
        );
    }
    // Of two names the target's counts (RFC 9112 section 3.2.2).
    for line in ["evil.test", "support.acmetech.com"] {
        assert_eq!(
            at("http://evil.test/x", &[line]),
            Err(Reject::MisdirectedRequest)
        );
    }
    let bad: [&[&str]; 6] = [
        &[],
        &[""],
        &["support.acmetech.com", "support.acmetech.com"],
        &["user@support.acmetech.com"],
        &["support.acmetech.com:8x"],
        &["a b"],
    ];
    for lines in bad {
        assert!(
            matches!(at("/", lines), Err(Reject::BadRequest(_))),
            "{lines:?}"
        );
    }
    assert!(matches!(
        at("https://support.acmetech.com/x", &["evil.test"]),
        Err(Reject::BadRequest(_))
    ));
}

proptest! {
    #[test]
    fn what_lies_below_the_base_never_leaves_it(path in "/(cobrowsing|[a-z.%2eE]{0,6})(/[a-zA-Z0-9.%]{0,6}){0,5}") {
        if let Ok(Routed { place: Place::Below(rest), .. }) = routes("/cobrowsing").judge(&path) {
            prop_assert!(rest.starts_with('/'));
            let whole = format!("/cobrowsing{rest}");
            prop_assert_eq!(canonical(&whole, Compat::default()).unwrap().path, whole.as_str());
        }
    }
}
