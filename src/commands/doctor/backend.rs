//! Whether the backend answers, where its tree begins, and whether it takes the keys: asked as
//! requests would be, by the same code.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderValue, Method};

use super::Findings;
use crate::config::units::{OrOff, Span};
use crate::config::{Config, ForwardAuthorization, RestKey};
use crate::names::Route;
use crate::snapshot::{self, Snapshot};
use crate::stages::headers::{Authorization, Framing, Outgoing};
use crate::telemetry::Metrics;
use crate::upstream::{Answer, Ask, Failure, Upstream};

/// Clocks that differ by more than this make tokens and certificates fail.
const SKEW: Duration = Duration::from_secs(60);

pub(super) async fn look(
    config: &Config,
    snapshot: &Snapshot,
    metrics: Arc<Metrics>,
    found: &mut Findings,
) {
    if snapshot::uses_built_in(config) {
        found.ok("backend: the built-in one, started with the gateway");
        return;
    }
    let authority = &snapshot.upstream.authority;
    let begun = Instant::now();
    let opened = tokio::net::TcpStream::connect(&**authority);
    match tokio::time::timeout(snapshot.upstream.connect_timeout, opened).await {
        Ok(Ok(_)) => found.ok(format!(
            "backend: {authority} accepts connections ({} ms)",
            begun.elapsed().as_millis()
        )),
        Ok(Err(e)) => {
            found.problem(format!("backend: {authority}: {e}: start the service there, or set upstream.url (UPSTREAM_URL)"));
            return;
        }
        Err(_) => {
            found.problem(format!("backend: {authority} accepts no connection within upstream.connect_timeout = {}: is the address right, does a firewall stand between?", Span(snapshot.upstream.connect_timeout)));
            return;
        }
    }
    let mut backend = Backend {
        snapshot,
        upstream: Upstream::new(Arc::default(), metrics),
        skew: None,
    };
    if backend.base_path(config, found).await == There::Api {
        backend.keys(config, found).await;
    }
    match backend.skew {
        Some(skew) if skew > SKEW => found.warning(format!("clock: the backend's differs by {} s: tokens and sessions may be taken for expired; set both (NTP)", skew.as_secs())),
        Some(_) => found.ok("clock: the backend's agrees"),
        None => {}
    }
}

struct Backend<'s> {
    snapshot: &'s Snapshot,
    upstream: Upstream,
    /// How much the backend's clock differs, once it has said what it shows.
    skew: Option<Duration>,
}

/// What answers below a path of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum There {
    Nothing,
    /// A page, or a redirection.
    Page,
    /// The API: it refuses who has no key, in JSON.
    Api,
}

impl Backend<'_> {
    /// Whether the tree begins where `upstream.base_path` says; what answers there.
    async fn base_path(&mut self, config: &Config, found: &mut Findings) -> There {
        let (configured, public) = (&*self.snapshot.upstream_base, &*self.snapshot.endpoint.base);
        let mut places = vec![configured];
        for other in ["", public] {
            if !places.contains(&other) {
                places.push(other);
            }
        }
        let mut seen = Vec::new();
        for base in places {
            match self.there(base, &config.api.path).await {
                Ok(there) => seen.push((there, base)),
                Err(failure) => {
                    found.problem(format!("backend: it accepts connections and does not answer as HTTP/1.1 ({failure}): is upstream.url the service's own port, and plain HTTP?"));
                    return There::Nothing;
                }
            }
        }
        let written = |base: &str| match base {
            "" => "/".to_owned(),
            base if base == public => "same".to_owned(),
            base => base.to_owned(),
        };
        let (now, set) = (seen[0].0, written(configured));
        // Of equals the first, which is what is set.
        let best = seen.iter().rev().max_by_key(|(there, _)| *there);
        let (best, base) = best.map_or((now, configured), |(there, base)| (*there, *base));
        let what = |there| match there {
            There::Api => "its API answers",
            There::Page | There::Nothing => "it answers",
        };
        match best {
            There::Nothing => {
                let tried: Vec<_> = seen.iter().map(|(_, base)| format!("{base}/")).collect();
                found.warning(format!("base path: the backend has neither pages nor the API below {}: is it the service? Set upstream.base_path to where its tree begins", tried.join(" or ")));
            }
            best if best == now => found.ok(format!("base path: {} below {configured}/, as upstream.base_path = {set:?} has it", what(best))),
            best => found.problem(format!("base path: {} below {base}/, and upstream.base_path = {set:?} sends requests below {configured}/: set it to {:?}", what(best), written(base))),
        }
        now
    }

    /// Whether the backend takes what it is sent instead of, or as, the clients' keys.
    async fn keys(&mut self, config: &Config, found: &mut Findings) {
        let path = format!(
            "{}/visitors/list/latest",
            config.api.path.trim_end_matches('/')
        );
        let snapshot = self.snapshot;
        let base = &*snapshot.upstream_base;
        for (name, key) in sent(config) {
            let refused = match self
                .ask(base, &path, key.as_deref().map(str::as_bytes))
                .await
            {
                Ok(answer) => matches!(answer.status.as_u16(), 401 | 403),
                Err(failure) => {
                    found.warning(format!(
                        "keys: the backend gave no answer to a call with {name} ({failure})"
                    ));
                    continue;
                }
            };
            match (refused, &key) {
                (false, _) => found.ok(format!("keys: the backend takes {name}")),
                (true, Some(_)) => found.problem(format!("keys: the backend refuses {name}: its own REST_KEY is another; make them agree, or set api.forward_authorization = \"replace\" and its key as api.upstream_key")),
                (true, None) => found.problem("keys: the backend refuses calls without a key, and api.forward_authorization = \"strip\" sends none: set it to \"keep\" or \"replace\""),
            }
        }
    }

    /// What answers below `base`, other than whatever answers everywhere there.
    async fn there(&mut self, base: &str, api: &str) -> Result<There, Failure> {
        let anywhere = self.ask(base, "/no-such-page", None).await?.status;
        let list = format!("{}/visitors/list/latest", api.trim_end_matches('/'));
        let list = self.ask(base, &list, None).await?;
        let json = list.headers.get(CONTENT_TYPE).is_some_and(|kind| {
            let kind = kind.as_bytes().to_ascii_lowercase();
            kind.starts_with(b"application/json")
        });
        let refuses = matches!(list.status.as_u16(), 200 | 401 | 403 | 429);
        if json && refuses && list.status != anywhere {
            return Ok(There::Api);
        }
        let page = self.ask(base, "/", None).await?.status;
        let is_page = page.is_success() || page.is_redirection();
        Ok(if is_page && page != anywhere {
            There::Page
        } else {
            There::Nothing
        })
    }

    /// Sends a GET.
    async fn ask(&mut self, base: &str, path: &str, key: Option<&[u8]>) -> Result<Answer, Failure> {
        let mut head = BytesMut::new();
        Outgoing {
            method: &Method::GET,
            path: [base, path],
            query: None,
            headers: &HeaderMap::new(),
            authorization: Authorization::Judged(key),
            is_key: &|_| false,
            forwarded: &self.snapshot.forwarded[0],
            peer: "127.0.0.1",
            trusted: false,
            request_id: &HeaderValue::from_static("doctor"),
            trace: None,
            framing: Framing::None,
            upgrade: false,
            identity: false,
        }
        .write(&mut head);
        let ask = Ask {
            head: false,
            safe: true,
            upgrade: false,
            route: Route::None,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            spared: true,
        };
        let settings = &self.snapshot.upstream;
        let answer = self
            .upstream
            .send(settings, ask, head.freeze(), None)
            .await?;
        let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            let now = SystemTime::now();
            let ahead = date
                .duration_since(now)
                .or_else(|_behind| now.duration_since(date));
            self.skew = ahead.ok();
        }
        Ok(answer)
    }
}

/// What the backend is sent as `Authorization`, by what it comes from; of keys that are known as
/// digests alone that cannot be told.
fn sent(config: &Config) -> Vec<(String, Option<String>)> {
    let api = &config.api;
    let in_file = |file: &Path| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        Some(text.trim_end_matches(['\r', '\n']).to_owned()).filter(|key| !key.is_empty())
    };
    let named = |name: &str, key: Option<String>| key.map(|key| (name.to_owned(), Some(key)));
    match api.forward_authorization {
        ForwardAuthorization::Strip => vec![("calls without a key".to_owned(), None)],
        ForwardAuthorization::Replace => {
            let written = api.upstream_key.as_ref().map(|key| key.reveal().to_owned());
            let key = written.or_else(|| match &api.upstream_key_file {
                OrOff::On(file) => in_file(file),
                OrOff::Off => None,
            });
            named("api.upstream_key", key).into_iter().collect()
        }
        ForwardAuthorization::Keep => {
            let own = match &api.rest_key {
                RestKey::None => None,
                RestKey::Value(key) => named("REST_KEY", Some(key.reveal().to_owned())),
                RestKey::File(file) => named("REST_KEY_FILE", in_file(file)),
            };
            let written = api.keys.iter().map(|(name, key)| (name, key.reveal()));
            written
                .filter(|(_, key)| !key.starts_with("sha256:"))
                .filter_map(|(name, key)| named(&format!("api.keys.{name}"), Some(key.to_owned())))
                .chain(own)
                .collect()
        }
    }
}
