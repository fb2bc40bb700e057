//! Where the tree lies for clients and where it lies for the backend.

use super::support::{Backend, Client, Gateway, KEY, Proto, Raw};

#[tokio::test]
async fn everything_below_one_path_maps_to_everything_below_the_other() {
    for (endpoint, base) in [
        ("https://localhost", ""),
        ("https://localhost/", ""),
        ("https://localhost/cobrowsing", "/cobrowsing"),
        ("https://localhost/cobrowsing/", "/cobrowsing"),
        ("https://localhost/a/b.c/d", "/a/b.c/d"),
    ] {
        for (mount, there) in [
            ("/", ""),
            ("same", base),
            ("/up/tree", "/up/tree"),
            ("/up/", "/up"),
        ] {
            let backend = Backend::well();
            let setup = Gateway::before(&backend)
                .base_endpoint(endpoint)
                .base_path(mount);
            let gateway = setup.start().await;
            for proto in Proto::BOTH {
                let mut client = Client::connect(&gateway, proto).await;
                for (given, sent) in [
                    ("/", "/"),
                    (
                        "/x/y?q=%23client&r=a+b%20c&r=;%2F..//",
                        "/x/y?q=%23client&r=a+b%20c&r=;%2F..//",
                    ),
                    ("/x/?", "/x/?"),
                    ("/a%20b/%C3%A9%3F", "/a%20b/%C3%A9%3F"),
                    ("/%7Euser/./z/../%61", "/~user/a"),
                    ("/x//y", "/x/y"),
                    ("/api/visitors/1", "/api/visitors/1"),
                ] {
                    let path = format!("{base}{given}");
                    assert_eq!(client.api("GET", &path, "").await.status, 200, "{path}");
                    assert_eq!(
                        backend.last().target,
                        format!("{there}{sent}"),
                        "{path} {mount}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn the_base_path_without_slash_is_sent_to_the_one_with_it_only_where_it_is_stripped() {
    let backend = Backend::well();
    let strip = Gateway::before(&backend).start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&strip, proto).await;
        let reply = client.get("/cobrowsing?a=%23b").await;
        assert_eq!(reply.status, 308);
        assert_eq!(reply.header("location"), Some("/cobrowsing/?a=%23b"));
        assert_eq!(
            client.get("/cobrowsing").await.header("location"),
            Some("/cobrowsing/")
        );
    }
    assert_eq!(backend.bytes(), b"");
    // Clients do not follow redirects of a handshake.
    let mut raw = Raw::connect(&strip).await;
    let reply = raw
        .call("GET /cobrowsing HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(backend.last().target, "/");
    let same = Gateway::before(&backend).base_path("same").start().await;
    let mut client = Client::connect(&same, Proto::H1).await;
    assert_eq!(client.get("/cobrowsing?a").await.status, 200);
    assert_eq!(backend.last().target, "/cobrowsing?a");
}

#[tokio::test]
async fn what_lies_outside_is_not_found_and_another_host_is_misdirected() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("public.extra_hosts = ['other.test:8443']");
    let gateway = setup.start().await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for path in [
            "/",
            "/cobrowsingx",
            "/cobrowsing/../x",
            "/Cobrowsing/",
            "/api/visitors/1",
        ] {
            assert_eq!(client.get(path).await.status, 404, "{path}");
        }
    }
    let ask = async |request: &str| {
        Raw::connect(&gateway)
            .await
            .call(request)
            .await
            .status
            .as_u16()
    };
    for (request, status) in [
        ("GET /cobrowsing/ HTTP/1.1\r\nhost: evil.test\r\n\r\n", 421),
        (
            "GET /cobrowsing/ HTTP/1.1\r\nhost: localhost.evil.test\r\n\r\n",
            421,
        ),
        (
            "GET https://evil.test/cobrowsing/ HTTP/1.1\r\nhost: evil.test\r\n\r\n",
            421,
        ),
        (
            "GET https://evil.test/cobrowsing/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
            421,
        ),
        ("GET /cobrowsing/ HTTP/1.1\r\n\r\n", 400),
        (
            "GET /cobrowsing/ HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
            400,
        ),
        (
            "TRACE /cobrowsing/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
            405,
        ),
        (
            "CONNECT localhost:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
            501,
        ),
        ("OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (
            "GET /cobrowsing/a%2fb HTTP/1.1\r\nhost: localhost\r\n\r\n",
            400,
        ),
        (
            "GET /cobrowsing/a;b HTTP/1.1\r\nhost: localhost\r\n\r\n",
            400,
        ),
    ] {
        assert_eq!(ask(request).await, status, "{request}");
    }
    assert_eq!(backend.bytes(), b"");
    assert_eq!(
        ask("GET /cobrowsing/ HTTP/1.1\r\nhost: LOCALHOST:1\r\n\r\n").await,
        200
    );
    assert_eq!(
        ask("GET /cobrowsing/ HTTP/1.1\r\nhost: other.test\r\n\r\n").await,
        200
    );
    assert_eq!(
        backend.last().header("host").as_deref(),
        Some("other.test:8443")
    );
    assert_eq!(
        ask("GET https://localhost/cobrowsing/ HTTP/1.1\r\nhost: localhost\r\n\r\n").await,
        200
    );
}

#[tokio::test]
async fn refusals_come_in_the_form_the_client_reads() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let page = client
        .call("GET", "/x", &[("accept", "text/html,*/*")], "")
        .await;
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let text = client.get("/x").await;
    assert!(text.text().starts_with("not_found: "), "{}", text.text());
    let api = client
        .call("GET", "/cobrowsing/api", &[("accept", "text/html")], "")
        .await;
    assert_eq!(api.json()["status"], "error");
    // Nothing of the request comes back in a refusal.
    let echo = client
        .call("GET", "/canary-path?canary", &[("accept", "text/html")], "")
        .await;
    assert!(!echo.text().contains("canary"));
    assert_eq!(KEY.len(), 16);
}

#[tokio::test]
async fn what_compat_opens_is_opened_for_pages_alone() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("[compat]\npath_parameters = true\nencoded_slashes = true\nencoded_percent = true")
        .start()
        .await;
    for proto in Proto::BOTH {
        let mut client = Client::connect(&gateway, proto).await;
        for page in ["/a;lang=en", "/files/a%2Fb", "/100%25"] {
            let path = format!("/cobrowsing{page}");
            assert_eq!(client.get(&path).await.status, 200, "{path}");
            assert_eq!(backend.last().target, page);
        }
        backend.forget();
        for path in [
            "/cobrowsing/api;x/visitors",
            "/cobrowsing/x;/../api/visitors",
            "/cobrowsing/api%2Fvisitors",
            "/cobrowsing/x%2F..%2Fapi",
            "/cobrowsing/%2561pi/visitors",
            "/cobrowsing/..%2F..%2Fetc",
        ] {
            assert_eq!(client.get(path).await.status, 400, "{path}");
        }
        assert!(backend.requests().is_empty());
    }
}
