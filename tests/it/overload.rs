//! More than the backend can do: who is let in, who is told to come again, and what is left of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Frame;
use rustix::process::Signal;

use super::support::h2_raw::{self, H2};
use super::support::{
    Backend, Client, Gateway, KEY, Proto, Raw, Reply, Setup, ok, stream, until, websocket, within,
};

const IN_FLIGHT: &str = "gateway_upstream_inflight_requests";
const LIMIT: &str = "gateway_upstream_inflight_limit";

fn refused(kind: &str, cause: &str) -> String {
    format!("gateway_overload_refused_total{{cause=\"{cause}\",kind=\"{kind}\"}}")
}

/// As many requests as `hands` are worked on at once, each for as long as is said; the others wait
/// in turn.
#[derive(Default)]
struct Hands {
    free: Mutex<(usize, VecDeque<mpsc::Sender<()>>)>,
    service_ms: AtomicU64,
    done: AtomicUsize,
    busy_us: AtomicU64,
}

impl Hands {
    fn new(hands: usize, service_ms: u64) -> Arc<Self> {
        let this = Self::default();
        this.free.lock().unwrap().0 = hands;
        this.service_ms.store(service_ms, Ordering::Relaxed);
        Arc::new(this)
    }

    fn work(&self) {
        let wait = {
            let mut free = self.free.lock().unwrap();
            if free.0 > 0 {
                free.0 -= 1;
                None
            } else {
                let (turn, wait) = mpsc::channel();
                free.1.push_back(turn);
                Some(wait)
            }
        };
        if let Some(wait) = wait {
            wait.recv().ok();
        }
        let began = Instant::now();
        // That it takes time is its subject.
        std::thread::sleep(Duration::from_millis(
            self.service_ms.load(Ordering::Relaxed),
        ));
        let took = began.elapsed().as_micros();
        self.busy_us
            .fetch_add(u64::try_from(took).unwrap(), Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
        let mut free = self.free.lock().unwrap();
        match free.1.pop_front() {
            Some(turn) => drop(turn.send(())),
            None => free.0 += 1,
        }
    }

    /// Requests done, and seconds spent on them by all hands.
    fn score(&self) -> (usize, f64) {
        let busy = self.busy_us.load(Ordering::Relaxed) as f64 / 1e6;
        (self.done.load(Ordering::Relaxed), busy)
    }
}

fn busy_backend(hands: &Arc<Hands>) -> Backend {
    let hands = Arc::clone(hands);
    Backend::new(move |conn| {
        while conn.request().is_some() {
            hands.work();
            if !conn.say(ok("{}").as_bytes()) {
                return;
            }
        }
    })
}

/// Clients that each send a request every so often, whatever becomes of the one before.
struct Crowd {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    answers: Arc<Mutex<Vec<(u16, Duration)>>>,
}

impl Crowd {
    /// `size` clients with addresses of their own, or all with one.
    fn gather(gateway: &Gateway, size: u32, every: Duration, address: Option<&str>) -> Self {
        let (stop, answers) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let clients = (0..size).map(|n| {
            let (to, stop, answers) = (gateway.listen, Arc::clone(&stop), Arc::clone(&answers));
            let address = address.map_or_else(
                || format!("10.0.{}.{}", n / 250, n % 250 + 1),
                str::to_owned,
            );
            tokio::spawn(async move {
                let mut client = Client::connect_to(to, Proto::H1).await.unwrap();
                let mut tick =
                    tokio::time::interval_at(tokio::time::Instant::now() + every * n / size, every);
                while !stop.load(Ordering::Relaxed) {
                    tick.tick().await;
                    let began = Instant::now();
                    let headers = [("x-forwarded-for", &*address)];
                    let reply = client.call("GET", "/cobrowsing/x", &headers, "").await;
                    let answer = (reply.status.as_u16(), began.elapsed());
                    answers.lock().unwrap().push(answer);
                }
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            answers,
        }
    }

    /// Forgets the answers so far.
    fn forget(&self) {
        self.answers.lock().unwrap().clear();
    }

    /// Seconds the admitted waited, in order; how many were refused.
    fn score(&self) -> (Vec<f64>, usize) {
        let answers = self.answers.lock().unwrap();
        let of = |status| {
            let of_status = move |(s, took): &(u16, Duration)| (*s == status).then_some(*took);
            answers.iter().filter_map(of_status)
        };
        let mut took: Vec<_> = of(200).map(|took| took.as_secs_f64()).collect();
        took.sort_by(f64::total_cmp);
        let refused = of(503).count();
        assert_eq!(took.len() + refused, answers.len(), "{answers:?}");
        (took, refused)
    }

    /// Until more than `answers` have come in a second and nobody was refused in it. A machine that
    /// has other things to do may make answers late for a while.
    async fn until_well(&self, answers: usize) {
        let began = Instant::now();
        loop {
            self.forget();
            pass(1.0).await;
            let (took, refused) = self.score();
            if refused == 0 && took.len() > answers {
                return;
            }
            let figures = format!("{} answered, {refused} refused", took.len());
            assert!(began.elapsed().as_secs() < 15, "{figures}");
        }
    }

    async fn go(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

/// Time in which something is measured.
async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

fn before(backend: &Backend) -> Setup {
    Gateway::before(backend).toml("public.trusted_proxies = ['127.0.0.0/8']")
}

#[tokio::test]
async fn at_four_times_its_capacity_the_backend_is_busy_and_who_is_admitted_waits_shortly() {
    let hands = Hands::new(8, 200);
    let backend = busy_backend(&hands);
    let gateway = before(&backend).toml("overload.least = 4").start().await;
    // Ordinary times: half of what it can do.
    let calm = Crowd::gather(&gateway, 8, Duration::from_millis(400), None);
    calm.until_well(5).await;
    calm.until_well(5).await;
    // 160 a second, for a backend that can do 40. Without shedding all of them would be waiting,
    // each four seconds.
    let crowd = Crowd::gather(&gateway, 160, Duration::from_secs(1), None);
    until("refusals", || crowd.score().1 > 100).await;
    pass(2.0).await;
    // A machine that has other things to do may spoil some of the measurements, not all.
    for left in (0..5).rev() {
        crowd.forget();
        let (began, (_, busy)) = (Instant::now(), hands.score());
        pass(3.0).await;
        let (took, refused) = crowd.score();
        let busy = (hands.score().1 - busy) / (8.0 * began.elapsed().as_secs_f64());
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        let figures = format!(
            "goodput {busy:.3} of capacity, {} answered, {refused} refused, p50 {p50:.3} s, p99 {p99:.3} s",
            took.len()
        );
        eprintln!("{figures}");
        if busy >= 0.9 && refused > took.len() && p50 < 1.0 && p99 < 1.5 {
            break;
        }
        assert!(left > 0, "{figures}");
    }
    let limit = gateway.metric(LIMIT).await;
    assert!((4.0..60.0).contains(&limit), "{limit}");
    assert!(gateway.metric(&refused("page", "slow")).await > 0.0);
    assert_eq!(gateway.events("overload: the backend is slower than it can be, or has all it may have; requests are refused").len(), 1);
    // And when the load is gone nobody is refused.
    crowd.go().await;
    calm.until_well(5).await;
    calm.go().await;
    gateway.until_metric(IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn a_backend_that_was_slow_for_a_while_gets_all_requests_again() {
    let hands = Hands::new(50, 100);
    let backend = busy_backend(&hands);
    let gateway = before(&backend).toml("overload.least = 4").start().await;
    let crowd = Crowd::gather(&gateway, 100, Duration::from_millis(500), None);
    crowd.until_well(100).await;
    // 25 a second of the 200 that come.
    hands.service_ms.store(2000, Ordering::Relaxed);
    crowd.forget();
    until("refusals", || crowd.score().1 > 100).await;
    hands.service_ms.store(100, Ordering::Relaxed);
    crowd.until_well(100).await;
    crowd.go().await;
}

/// A backend that holds requests for `/held…` until it is told to let go; others it answers at once.
fn holding() -> (Backend, Arc<AtomicBool>) {
    let let_go = Arc::<AtomicBool>::default();
    let told = Arc::clone(&let_go);
    let backend = Backend::new(move |conn| {
        while let Some(request) = conn.request() {
            while request.target.contains("held") && !told.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if request.header("upgrade").is_some() {
                conn.upgrade_and_echo_messages(&request);
                return;
            }
            if !conn.say(ok("{}").as_bytes()) {
                return;
            }
        }
    });
    (backend, let_go)
}

/// Requests that are held, each with a connection of its own, from the address of its number.
struct Held(Vec<Raw>);

impl Held {
    async fn more(&mut self, gateway: &Gateway, n: usize, address: Option<&str>) {
        let before = gateway.metric(IN_FLIGHT).await;
        for _ in 0..n {
            let own = format!("10.1.0.{}", self.0.len() + 1);
            let address = address.unwrap_or(&own);
            let mut raw = Raw::connect(gateway).await;
            raw.say(format!("GET /cobrowsing/api/held HTTP/1.1\r\nhost: localhost\r\nauthorization: {KEY}\r\nx-forwarded-for: {address}\r\n\r\n")).await;
            self.0.push(raw);
        }
        gateway.until_metric(IN_FLIGHT, before + n as f64).await;
    }

    async fn all_answered(mut self) {
        for raw in &mut self.0 {
            assert_eq!(raw.answer().await.status, 200);
        }
    }
}

fn assert_overloaded(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("overloaded"), "{}", reply.text());
    let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn pages_are_refused_before_the_api_and_sockets_first_or_last_as_is_wished() {
    for (sockets, order) in [
        ("last", ["page", "api", "socket"]),
        ("first", ["socket", "page", "api"]),
    ] {
        let (backend, let_go) = holding();
        let setup = before(&backend).toml("limits.requests = 10\noverload.adaptive = false");
        let gateway = setup
            .toml(&format!("overload.sockets = '{sockets}'"))
            .start()
            .await;
        assert_eq!(gateway.metric(LIMIT).await, 10.0);
        let mut client = Client::connect(&gateway, Proto::H2).await;
        let mut held = Held(Vec::new());
        held.more(&gateway, 7, None).await;
        for room in [3, 2, 1, 0] {
            for (at, kind) in order.into_iter().enumerate() {
                let refused = room + at < 3;
                match kind {
                    "socket" => {
                        let opened = websocket(&gateway, "/cobrowsing/socket", &[]).await;
                        assert_eq!(opened.is_err(), refused, "{sockets} {kind} {room}");
                    }
                    "api" => {
                        let reply = client.api("GET", "/cobrowsing/api/x", "").await;
                        assert_eq!(reply.status == 503, refused, "{sockets} {kind} {room}");
                        if refused {
                            assert_overloaded(&reply);
                            assert_eq!(reply.error(), "overloaded");
                        }
                    }
                    _ => {
                        let reply = client.get("/cobrowsing/page").await;
                        assert_eq!(reply.status == 503, refused, "{sockets} {kind} {room}");
                        if refused {
                            assert_overloaded(&reply);
                        }
                    }
                }
            }
            if room > 1 || (room == 1 && sockets == "first") {
                held.more(&gateway, 1, None).await;
            } else if room == 1 {
                // The last place is for sockets alone; a held one takes it.
                let mut raw = Raw::connect(&gateway).await;
                raw.say("GET /cobrowsing/held HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 10.2.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").await;
                gateway.until_metric(IN_FLIGHT, 10.0).await;
                held.0.push(raw);
            }
        }
        for (at, kind) in order.into_iter().enumerate() {
            let times = 3.0 - at as f64;
            assert_eq!(gateway.metric(&refused(kind, "cap")).await, times, "{kind}");
        }
        let rejected = "gateway_rejected_requests_total{reason=\"overloaded\"}";
        assert_eq!(gateway.metric(rejected).await, 6.0);
        until("log lines with the reason", || {
            let lines = gateway.requests();
            lines.iter().filter(|l| l["error"] == "overloaded").count() == 6
        })
        .await;
        let_go.store(true, Ordering::Relaxed);
        if sockets == "last" {
            assert_eq!(held.0.pop().unwrap().head().await.status, 101);
        }
        held.all_answered().await;
        gateway.until_metric(IN_FLIGHT, 0.0).await;
    }
}

#[tokio::test]
async fn who_takes_much_leaves_room_for_others() {
    let (backend, let_go) = holding();
    let gateway = before(&backend)
        .toml("limits.requests = 20\noverload.adaptive = false\noverload.sockets = 'first'")
        .start()
        .await;
    let mut held = Held(Vec::new());
    held.more(&gateway, 11, Some("10.9.9.9")).await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let key = ("authorization", KEY);
    for (address, status) in [
        ("10.9.9.9", 503),
        ("10.9.9.8", 200),
        ("2001:db8::1", 200),
        ("10.9.9.9", 503),
    ] {
        let headers = [key, ("x-forwarded-for", address)];
        let reply = client.call("GET", "/cobrowsing/api/x", &headers, "").await;
        assert_eq!(reply.status, status, "{address}");
    }
    assert_eq!(gateway.metric(&refused("api", "share")).await, 2.0);
    // A second one like it does not lock a third out either, and IPv6 clients are networks.
    held.more(&gateway, 2, Some("2001:db8::1")).await;
    held.more(&gateway, 2, Some("2001:db8::2")).await;
    held.more(&gateway, 1, Some("2001:db8::3")).await;
    for (address, status) in [("2001:db8::4", 503), ("2001:db8:0:1::1", 200)] {
        let headers = [key, ("x-forwarded-for", address)];
        let reply = client.call("GET", "/cobrowsing/api/x", &headers, "").await;
        assert_eq!(reply.status, status, "{address}");
    }
    let_go.store(true, Ordering::Relaxed);
    held.all_answered().await;
    gateway.until_metric(IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn what_waits_for_the_client_holds_no_place() {
    let backend = Backend::new(|conn| {
        while let Some(request) = conn.request() {
            if request.header("upgrade").is_some() {
                conn.upgrade_and_echo_messages(&request);
                return;
            }
            let large = "HTTP/1.1 200 OK\r\ncontent-length: 16000000\r\n\r\n";
            let answer = match &*request.target {
                "/large" => [large.as_bytes(), &vec![b'd'; 16_000_000]].concat(),
                _ => ok("{}").into_bytes(),
            };
            if !conn.say(&answer) {
                return;
            }
        }
    });
    let gateway = before(&backend)
        .toml("limits.requests = 1\noverload.adaptive = false")
        .start()
        .await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let opened = websocket(&gateway, "/cobrowsing/socket", &[]).await;
        sockets.push(opened.unwrap());
    }
    let mut taking = Raw::connect(&gateway).await;
    taking
        .say("GET /cobrowsing/large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(taking.head().await.status, 200);
    let (more, body) = stream();
    let mut sending = Client::connect(&gateway, Proto::H2).await;
    let upload = tokio::spawn(async move {
        let reply = sending.send("POST", "/cobrowsing/up", &[], body).await;
        reply.unwrap().status()
    });
    let frame = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
    more.send(frame("first")).await.unwrap();
    until("the upload at the backend", || {
        super::support::find(&backend.bytes(), b"first").is_some()
    })
    .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for _ in 0..3 {
        assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    }
    assert_eq!(gateway.metric(IN_FLIGHT).await, 0.0);
    more.send(frame("last")).await.unwrap();
    drop(more);
    assert_eq!(within(upload).await.unwrap(), 200);
    assert_eq!(taking.take(16_000_000).await.len(), 16_000_000);
    gateway.until_metric(IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn places_come_back_however_a_request_ends() {
    for (what, backend) in [
        ("closes", Backend::closes_before_answering()),
        ("resets", Backend::resets()),
        ("nonsense", Backend::speaks_nonsense()),
        ("half", Backend::answers_half_then_closes()),
        ("early", Backend::answers_early_without_reading_the_body()),
        ("silent", Backend::never_answers()),
    ] {
        let gateway = before(&backend)
            .toml("limits.requests = 1\nupstream.response_timeout = '300ms'")
            .start()
            .await;
        // Five in turn where there is one place.
        for n in 0..5 {
            let mut client = Client::connect(&gateway, Proto::BOTH[n % 2]).await;
            let sent = client.try_call("POST", "/cobrowsing/x", &[], "body").await;
            let status = sent.map(|reply| reply.status.as_u16());
            assert_ne!(status.ok(), Some(503), "{what}");
        }
        gateway.until_metric(IN_FLIGHT, 0.0).await;
    }
}

#[tokio::test]
async fn places_come_back_when_clients_give_up() {
    let (backend, _let_go) = holding();
    let gateway = before(&backend)
        .toml("limits.requests = 8\noverload.adaptive = false\noverload.sockets = 'first'")
        .start()
        .await;
    for _ in 0..3 {
        let mut held = Held(Vec::new());
        held.more(&gateway, 8, None).await;
        drop(held);
        gateway.until_metric(IN_FLIGHT, 0.0).await;
    }
    let mut h2 = H2::connect(&gateway).await;
    let authorization = (&b"authorization"[..], KEY.as_bytes());
    for _ in 0..3 {
        let streams: Vec<_> = (0..4).map(|_| h2.stream()).collect();
        let block = h2_raw::block(&h2_raw::get(b"/cobrowsing/api/held", &[authorization]));
        for id in &streams {
            assert!(h2.say(&h2_raw::headers(*id, true, &block)).await);
        }
        gateway.until_metric(IN_FLIGHT, 4.0).await;
        for id in streams {
            assert!(h2.say(&h2_raw::reset(id, 8)).await);
        }
        gateway.until_metric(IN_FLIGHT, 0.0).await;
    }
    // With the connection, too.
    let id = h2.stream();
    let block = h2_raw::block(&h2_raw::get(b"/cobrowsing/api/held", &[authorization]));
    assert!(h2.say(&h2_raw::headers(id, true, &block)).await);
    gateway.until_metric(IN_FLIGHT, 1.0).await;
    drop(h2);
    gateway.until_metric(IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn paths_that_are_spared_are_neither_counted_nor_refused() {
    let (backend, let_go) = holding();
    let gateway = before(&backend)
        .toml("limits.requests = 1\noverload.except = ['/api/held', '/poll/']")
        .start()
        .await;
    let mut spared = Vec::new();
    for n in 1..=3 {
        let mut raw = Raw::connect(&gateway).await;
        raw.say(format!(
            "GET /cobrowsing/api/held HTTP/1.1\r\nhost: localhost\r\nauthorization: {KEY}\r\n\r\n"
        ))
        .await;
        spared.push(raw);
        backend.until_requests(n).await;
    }
    assert_eq!(gateway.metric(IN_FLIGHT).await, 0.0);
    let mut raw = Raw::connect(&gateway).await;
    raw.say("GET /cobrowsing/held HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    gateway.until_metric(IN_FLIGHT, 1.0).await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for (path, status) in [
        ("/cobrowsing/poll/x", 200),
        ("/cobrowsing/poll", 200),
        ("/cobrowsing/polls", 503),
        ("/cobrowsing/x", 503),
    ] {
        assert_eq!(client.get(path).await.status, status, "{path}");
    }
    let_go.store(true, Ordering::Relaxed);
    Held(spared).all_answered().await;
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn what_holds_for_places_changes_while_they_are_taken() {
    let (backend, let_go) = holding();
    let setup = before(&backend).toml("overload.adaptive = false\noverload.sockets = 'first'");
    let gateway = setup.clone().toml("limits.requests = 4").start().await;
    let mut held = Held(Vec::new());
    held.more(&gateway, 4, None).await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for (requests, most, status) in [
        ("8", 8.0, 200),
        ("3", 3.0, 503),
        ("'off'", u32::MAX.into(), 200),
    ] {
        let changed = setup.clone().toml(&format!("limits.requests = {requests}"));
        gateway.folder.write("gateway.toml", changed.file());
        gateway.signal(Signal::HUP);
        gateway.until_metric(LIMIT, most).await;
        let reply = client.api("GET", "/cobrowsing/api/x", "").await;
        assert_eq!(reply.status, status, "{requests}");
        assert_eq!(gateway.metric(IN_FLIGHT).await, 4.0);
    }
    let_go.store(true, Ordering::Relaxed);
    held.all_answered().await;
    gateway.until_metric(IN_FLIGHT, 0.0).await;
}
