//! Policies: what they count, for whom, and what the client is told.

use super::support::{Backend, Client, Gateway, KEY, Proto, Setup, websocket};

const API: &str = "/cobrowsing/api/visitors";

/// In front of `backend` with these policies alone.
fn with(backend: &Backend, policies: &str) -> Setup {
    Gateway::before(backend).toml(&format!("rate_limit.policy = [{policies}]"))
}

async fn status(client: &mut Client, method: &str, path: &str) -> u16 {
    let reply = client.api(method, &format!("{API}{path}"), "").await;
    reply.status.as_u16()
}

#[tokio::test]
async fn lookup_codes_cannot_be_tried_out_and_other_searches_go_on() {
    let backend = Backend::well();
    let lookup = "{ name = 'lookup', match = 'lookup_code', per = 'key', rate = '2/1h' }";
    for proto in Proto::BOTH {
        let gateway = with(&backend, lookup).start().await;
        let mut client = Client::connect(&gateway, proto).await;
        let spellings = ["?q=1234", "?q=%31235", "?q=online+1236", "?x=1&q=%201237"];
        let mut got = Vec::new();
        for query in spellings {
            got.push(status(&mut client, "GET", &format!("/list/search{query}")).await);
        }
        assert_eq!(got, [200, 200, 429, 429]);
        // Nor by another spelling of the path.
        for path in [
            "/list/%73earch?q=1238",
            "/./list/search?q=1239",
            "//list/search?q=1240",
        ] {
            assert_eq!(status(&mut client, "GET", path).await, 429, "{path}");
        }
        for query in ["?q=ada", "?q=12345", "?q=%23vip", ""] {
            let path = format!("/list/search{query}");
            assert_eq!(status(&mut client, "GET", &path).await, 200, "{query}");
        }
        assert_eq!(status(&mut client, "GET", "/1234").await, 200);
    }
}

#[tokio::test]
async fn a_policy_for_one_call_leaves_the_others_alone() {
    let backend = Backend::well();
    let policy = "{ name = 'mint', match = 'watch_url', per = 'global', rate = '1/1h' }";
    let gateway = with(&backend, policy).start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(status(&mut client, "POST", "/1/watch_url").await, 200);
    assert_eq!(status(&mut client, "POST", "/2/watch_url").await, 429);
    for path in ["/list/latest", "/list/search", "/1", "/1/other"] {
        assert_eq!(status(&mut client, "GET", path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn answers_tell_in_the_standards_words_what_is_left() {
    let backend = Backend::answers_by(|request| {
        let status = if request.target.contains("moved") {
            "302 Found\r\nlocation: https://elsewhere.test/"
        } else {
            "200 OK"
        };
        format!("HTTP/1.1 {status}\r\nratelimit: \"theirs\";r=9\r\ncontent-length: 0\r\n\r\n")
            .into()
    });
    let policies = "{ name = 'k', per = 'key', rate = '6/60s', burst = 3 }, { name = 'shadow', per = 'client', rate = '1/1h', enforce = false }";
    for proto in Proto::BOTH {
        let gateway = with(&backend, policies).start().await;
        let mut client = Client::connect(&gateway, proto).await;
        let reply = client.api("GET", API, "").await;
        assert_eq!(reply.header("ratelimit-policy"), Some("\"k\";q=3;w=30"));
        let told: Vec<_> = reply.headers.get_all("ratelimit").iter().collect();
        assert_eq!(told, ["\"theirs\";r=9", "\"k\";r=2;t=10"]);
        // Neither on redirections nor where no limit holds.
        let moved = client.api("GET", &format!("{API}/moved"), "").await;
        assert_eq!(
            (moved.status.as_u16(), moved.header("ratelimit-policy")),
            (302, None)
        );
        let page = client.get("/cobrowsing/page").await;
        assert_eq!(page.header("ratelimit-policy"), None);
        client.api("GET", API, "").await;
        let refused = client.api("GET", API, "").await;
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("ratelimit-policy"), Some("\"k\";q=3;w=30"));
        let after: u32 = refused.header("retry-after").unwrap().parse().unwrap();
        let told = refused.header("ratelimit").unwrap();
        let until = told.strip_prefix("\"k\";r=0;t=").unwrap();
        assert!(until.parse::<u32>().unwrap() <= after, "{told}, {after}");
        let body = refused.json();
        assert_eq!(
            (&body["error"], &body["policy"]),
            (&"rate_limited".into(), &"k".into())
        );
        // Who has no key is told nothing of the limits of those who have.
        let stranger = client.get(API).await;
        assert_eq!(
            (stranger.status.as_u16(), stranger.header("ratelimit")),
            (401, None)
        );
    }
}

#[tokio::test]
async fn new_sockets_are_limited_and_open_ones_are_not() {
    let backend = Backend::upgrades_and_echoes_messages();
    let policy = "{ name = 'sockets', match = 'websocket', per = 'global', rate = '2/1h' }";
    let gateway = with(&backend, policy).start().await;
    let open = async |path| websocket(&gateway, path, &[("authorization", KEY)]).await;
    let _one = open("/cobrowsing/s").await.unwrap();
    let _two = open("/cobrowsing/api/s").await.unwrap();
    let refused = open("/cobrowsing/s").await.unwrap_err().to_string();
    assert!(refused.contains("429"), "{refused}");
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(client.get("/cobrowsing/page").await.status, 200);
    let active = "gateway_websocket_active{route=\"page\"}";
    assert_eq!(gateway.metric(active).await, 1.0);
}

#[tokio::test]
async fn a_socket_of_the_api_that_is_refused_takes_nothing_of_its_key() {
    let backend = Backend::upgrades_and_echoes_messages();
    let policies = "{ name = 'k', per = 'key', rate = '3/1h' }, { name = 'sockets', match = 'websocket', per = 'global', rate = '1/1h' }";
    let gateway = with(&backend, policies).start().await;
    let key = [("authorization", KEY)];
    let _open = websocket(&gateway, "/cobrowsing/api/s", &key)
        .await
        .unwrap();
    for _ in 0..5 {
        let refused = websocket(&gateway, "/cobrowsing/api/s", &key).await;
        assert!(refused.unwrap_err().to_string().contains("429"));
    }
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for expected in [200, 200, 429] {
        assert_eq!(status(&mut client, "GET", "/1").await, expected);
    }
}

#[tokio::test]
async fn new_connections_are_limited_per_client() {
    let backend = Backend::well();
    let policy = "{ name = 'new', match = 'connection', per = 'client', rate = '2/1h' }";
    let gateway = with(&backend, policy).start().await;
    let mut open = Client::connect(&gateway, Proto::H1).await;
    let _second = Client::connect(&gateway, Proto::H2).await;
    assert!(Client::connect_to(gateway.listen, Proto::H1).await.is_err());
    assert_eq!(open.get("/cobrowsing/page").await.status, 200);
    let refused = "gateway_connections_refused_total{reason=\"rate\"}";
    assert_eq!(gateway.metric(refused).await, 1.0);
}

#[tokio::test]
async fn a_client_over_its_share_takes_nothing_of_the_others() {
    let backend = Backend::well();
    let policies = "{ name = 'all', per = 'global', rate = '5/1h' }, { name = 'each', per = 'client', rate = '2/1h' }";
    let gateway = with(&backend, policies)
        .toml("public.trusted_proxies = ['127.0.0.0/8']")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let mut by = async |address: &str| {
        let headers = [("authorization", KEY), ("x-forwarded-for", address)];
        let reply = client.call("GET", API, &headers, "").await;
        match reply.status.as_u16() {
            200 => "admitted".to_owned(),
            _ => reply.json()["policy"].as_str().unwrap().to_owned(),
        }
    };
    for _ in 0..2 {
        assert_eq!(by("192.0.2.1").await, "admitted");
    }
    for _ in 0..20 {
        assert_eq!(by("192.0.2.1").await, "each");
    }
    for n in 2..5 {
        assert_eq!(by(&format!("192.0.2.{n}")).await, "admitted", "{n}");
    }
    assert_eq!(by("192.0.2.5").await, "all");
}
