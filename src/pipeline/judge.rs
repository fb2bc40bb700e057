//! What is decided of a request before anything of it is sent. The data path judges each request by
//! this, and `explain` one that somebody asks about.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use crate::names::Route;
use crate::peer::{self, Peer};
use crate::rate_limit::shared::Client;
use crate::rate_limit::{Fields, Limited, Subject};
use crate::reject::Reject;
use crate::snapshot::Snapshot;
use crate::stages::auth::Admitted;
use crate::stages::headers::{self, Authorization, Framing, Outgoing, TraceContext};
use crate::stages::route::{Place, Routed};
use crate::stages::{lookup, websocket};
use crate::upstream::Ask;

/// What is judged.
pub struct Asked<'r> {
    /// Method, target and header fields.
    pub head: &'r Parts,
    /// How its body travels.
    pub framing: Framing,
    /// Whether more had come when its head was complete.
    pub ahead: bool,
    /// Who sent it.
    pub peer: &'r Peer,
}

/// Who is told of decisions as they are made: of a request that is refused later, too.
pub trait Witness {
    /// For which of the hosts it is, and where its path leads.
    fn routed(&mut self, host: usize, routed: &Routed<'_>);
    /// Whom a trusted peer names as the client, if anybody.
    fn client(&mut self, client: Option<IpAddr>);
    /// What became of the key of an API request.
    fn authorized(&mut self, snapshot: &Snapshot, checked: &Result<Admitted<'_>, Reject>);
    /// What the client is told of limits that admitted it.
    fn admitted(&mut self, fields: Option<Fields>);
    /// The refusal that a reached limit is.
    fn limited(&mut self, limited: Limited) -> Reject;
}

/// What becomes of a request that is not refused.
pub enum Verdict<'r> {
    /// It is for the base path without its final slash, and is sent to the one with it.
    AddSlash,
    /// It goes to the backend.
    Forward(Way<'r>),
}

/// How a request goes to the backend.
pub struct Way<'r> {
    /// Position of the host it is for.
    pub host: usize,
    /// What it is for.
    pub route: Route,
    /// Whom the limits take it for.
    pub client: IpAddr,
    /// The canonical path below the base path.
    pub rest: Cow<'r, str>,
    /// What the backend gets as `Authorization`.
    pub authorization: Authorization<'r>,
    /// The key of a WebSocket handshake, if it is one.
    pub upgrade: Option<Vec<u8>>,
    /// Most bytes of its body, where that is bounded.
    pub limit: Option<u64>,
    /// Whether a JSON answer to it is read and mapped.
    pub rewrites_body: bool,
}

/// Judges a request: its way, or why it is refused. `store`: where limits are counted together, if
/// they are.
pub async fn judge<'r>(
    snapshot: &'r Snapshot,
    asked: &Asked<'r>,
    store: &Client,
    witness: &mut impl Witness,
) -> Result<Verdict<'r>, Reject> {
    let head = asked.head;
    match head.method {
        Method::CONNECT => return Err(Reject::NotImplemented),
        Method::TRACE => return Err(Reject::MethodNotAllowed),
        _ => {}
    }

    // Route.
    let host = snapshot.routes.host(
        &head.uri,
        head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes),
    )?;
    let routed = snapshot.routes.judge(head.uri.path())?;
    witness.routed(host, &routed);

    // The key and the limits, for the API alone. Who fails too often is not even heard.
    let client = client(snapshot, asked, witness);
    let policies = &snapshot.rate_limits;
    let mut authorization = Authorization::Own;
    let handshake = websocket::handshake(&head.method, head.version, &head.headers);
    if routed.route.is_api() {
        let heard = policies.may_authenticate(client);
        heard.map_err(|limited| witness.limited(limited))?;
        let checked = snapshot.keys.check(&head.headers);
        witness.authorized(snapshot, &checked);
        if let Err(reject) = &checked
            && *reject != Reject::ApiNotEnabled
        {
            let failed = policies.failed(client, store).await;
            failed.map_err(|limited| witness.limited(limited))?;
        }
        let authorized = checked?;
        let subject = Subject {
            route: routed.route,
            lookup: routed.route == Route::VisitorsSearch
                && lookup::searches_code(head.uri.query()),
            opens_socket: matches!(handshake, Ok(Some(_))),
            key: authorized.key,
            client,
        };
        match policies.judge(subject, store).await {
            Ok(fields) => witness.admitted(fields),
            Err(limited) => return Err(witness.limited(limited)),
        }
        authorization = Authorization::Judged(authorized.forwarded);
    }
    let rest = match routed.place {
        Place::Below(rest) => rest,
        Place::Outside => return Err(Reject::NotFound),
        Place::Bare if snapshot.add_slash && !head.headers.contains_key(UPGRADE) => {
            return Ok(Verdict::AddSlash);
        }
        Place::Bare => "".into(),
    };

    // Out to the backend.
    let upgrade = handshake?;
    if upgrade.is_some() && asked.ahead {
        return Err(Reject::BadRequest(
            "Nothing may follow a WebSocket handshake before its answer.",
        ));
    }
    if upgrade.is_some() && !routed.route.is_api() {
        let admitted = policies.judge_websocket(client, store).await;
        admitted.map_err(|limited| witness.limited(limited))?;
    }
    let limit = routed.route.is_api().then_some(snapshot.api_max_body);
    if let (Framing::Length(length), Some(limit)) = (asked.framing, limit)
        && length > limit
    {
        return Err(Reject::PayloadTooLarge);
    }
    Ok(Verdict::Forward(Way {
        host,
        route: routed.route,
        client,
        rest,
        authorization,
        upgrade,
        limit,
        rewrites_body: routed.route == Route::WatchUrl && snapshot.rewrite.reads_json(),
    }))
}

fn client(snapshot: &Snapshot, asked: &Asked<'_>, witness: &mut impl Witness) -> IpAddr {
    if !asked.peer.trusted {
        return asked.peer.address;
    }
    let client = headers::client_behind(&asked.head.headers, |hop| {
        peer::is_trusted(hop, &snapshot.trusted_proxies)
    });
    witness.client(client);
    client.unwrap_or(asked.peer.address)
}

impl Way<'_> {
    /// The path at the backend, in two parts.
    pub fn path<'s>(&'s self, snapshot: &'s Snapshot) -> [&'s str; 2] {
        if snapshot.upstream_base.is_empty() && self.rest.is_empty() {
            ["/", ""]
        } else {
            [&snapshot.upstream_base, &self.rest]
        }
    }

    /// What the backend's side has to know of it.
    pub fn ask(&self, snapshot: &Snapshot, method: &Method) -> Ask {
        Ask {
            head: method == Method::HEAD,
            safe: method.is_safe(),
            upgrade: self.upgrade.is_some(),
            route: self.route,
            client: self.client,
            spared: snapshot.upstream.admission.spare(&self.rest),
        }
    }

    /// Writes the head that the backend gets, empty line included.
    pub fn write(
        &self,
        snapshot: &Snapshot,
        asked: &Asked<'_>,
        request_id: &HeaderValue,
        trace: Option<&TraceContext>,
        out: &mut BytesMut,
    ) {
        Outgoing {
            method: &asked.head.method,
            path: self.path(snapshot),
            query: asked.head.uri.query(),
            headers: &asked.head.headers,
            authorization: self.authorization,
            is_key: &|value| snapshot.keys.is_key(value),
            forwarded: &snapshot.forwarded[self.host],
            peer: &asked.peer.text,
            trusted: asked.peer.trusted,
            request_id,
            trace,
            framing: asked.framing,
            upgrade: self.upgrade.is_some(),
            identity: self.rewrites_body,
        }
        .write(out);
    }
}

/// How a body travels on: `exact` are its bytes where they are known, `ended` says that nothing of it
/// is left to come. That it is framed in one way only was seen to where it was read.
pub fn framing(headers: &HeaderMap, exact: Option<u64>, ended: bool) -> Framing {
    match exact {
        // "Content-Length: 0" is passed on: some backends want it with POST.
        Some(0) if headers.contains_key(CONTENT_LENGTH) => Framing::Length(0),
        _ if ended => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}
