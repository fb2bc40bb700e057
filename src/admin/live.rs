//! What the live page remembers, and the streams of events that keep it live.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use http_body_util::channel::Channel;
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};

use super::scrape::{Past, Reading, Scrape};
use super::view::{Point, View};
use super::{Admin, Body, page, text};

/// How many moments the lines of the page show.
const POINTS: usize = 120;
/// How far they are apart.
const STEP: Duration = Duration::from_secs(5);
/// How many of them make the last minute.
const MINUTE: usize = 12;
/// How often who watches is told.
const TOLD: Duration = Duration::from_secs(2);
/// Most streams of events at a time.
const STREAMS: usize = 16;
/// How long a stream may wait for its reader.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is kept for the live page.
pub struct Live {
    /// Never empty.
    past: RefCell<VecDeque<(Instant, Past)>>,
    trend: RefCell<VecDeque<Point>>,
    streams: Rc<Cell<usize>>,
    /// The newest event, and whether it is the last.
    news: watch::Sender<(Bytes, bool)>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            // At the start nothing was counted yet.
            past: RefCell::new(VecDeque::from([(Instant::now(), Past::default())])),
            trend: RefCell::default(),
            streams: Rc::default(),
            news: watch::Sender::new((Bytes::new(), false)),
        }
    }
}

impl Admin {
    /// Remembers each few seconds how it was, and tells who watches. When a drain has begun the
    /// streams end with what they are told then.
    pub(super) async fn keep_live(self: Rc<Self>) {
        let mut tick = interval(Duration::from_secs(1));
        let (mut kept, mut told) = (Instant::now(), Instant::now());
        loop {
            tick.tick().await;
            let draining = self.draining.get();
            if draining && !self.live.news.borrow().1 {
                self.live.news.send_replace((self.event(), true));
            }
            let now = Instant::now();
            // A tick is a little late at times.
            let due =
                |last: Instant, every: Duration| now + Duration::from_millis(200) >= last + every;
            if due(kept, STEP) {
                self.remember(now);
                kept = now;
            }
            if !draining && self.live.news.receiver_count() > 0 && due(told, TOLD) {
                self.live.news.send_replace((self.event(), false));
                told = now;
            }
        }
    }

    fn remember(&self, now: Instant) {
        let text = self.text();
        let scrape = Scrape::of(&text);
        let mut past = self.live.past.borrow_mut();
        if let Some(kept) = past.back() {
            let reading = compared(&scrape, now, kept);
            let mut trend = self.live.trend.borrow_mut();
            if trend.len() == POINTS {
                trend.pop_front();
            }
            trend.push_back(Point::of(&reading));
        }
        if past.len() > MINUTE {
            past.pop_front();
        }
        past.push_back((now, scrape.keep()));
    }

    /// Shows this moment by `how`.
    fn show(&self, how: fn(&View<'_>) -> String) -> String {
        let text = self.text();
        let scrape = Scrape::of(&text);
        let (past, trend) = (self.live.past.borrow(), self.live.trend.borrow());
        let now = Instant::now();
        let nothing = (now, Past::default());
        let view = View {
            minute: compared(&scrape, now, past.front().unwrap_or(&nothing)),
            // Of the last two the one that is some seconds old.
            moment: compared(
                &scrape,
                now,
                past.iter()
                    .nth_back(1)
                    .or_else(|| past.back())
                    .unwrap_or(&nothing),
            ),
            trend: &trend,
            snapshot: &self.current.load(),
            now: unix_now(),
            draining: self.draining.get(),
        };
        how(&view)
    }

    /// One event: what stands in the page's `main` now.
    fn event(&self) -> Bytes {
        let html = self.show(page::main);
        // A line break would end the event's data.
        format!("data: {}\n\n", html.replace('\n', " ")).into()
    }

    /// The answer of `/` and `/events`; `None`: it is neither.
    pub(super) fn live<B>(self: &Rc<Self>, request: &Request<B>) -> Option<Response<Body>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/") => Some(self.page()),
            (&Method::GET, "/events") => Some(self.events()),
            (&Method::HEAD, "/events") => Some(stream(Body::Left(Full::default()))),
            _ => None,
        }
    }

    fn page(&self) -> Response<Body> {
        let mut response = Response::new(Body::Left(Full::from(self.show(page::whole))));
        let headers = response.headers_mut();
        let fixed = HeaderValue::from_static;
        headers.insert(CONTENT_TYPE, fixed("text/html; charset=utf-8"));
        headers.insert(CACHE_CONTROL, fixed("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
        headers.insert(REFERRER_POLICY, fixed("no-referrer"));
        if let Ok(policy) = HeaderValue::from_str(&page::POLICY) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    fn events(self: &Rc<Self>) -> Response<Body> {
        if self.draining.get() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n").map(Body::Left);
        }
        let Some(seat) = Seat::take(&self.live.streams) else {
            let full = "too many event streams: ask for / now and then\n";
            return text(StatusCode::SERVICE_UNAVAILABLE, full).map(Body::Left);
        };
        let mut news = self.live.news.subscribe();
        let (mut sender, body) = Channel::new(1);
        let first = self.event();
        drop(tokio::task::spawn_local(async move {
            let _seat = seat;
            let (mut event, mut last) = (first, false);
            // Who has left, or takes nothing, frees its seat.
            while let Ok(Ok(())) = timeout(PATIENCE, sender.send_data(event)).await {
                if last || news.changed().await.is_err() {
                    return;
                }
                (event, last) = news.borrow_and_update().clone();
            }
        }));
        stream(Body::Right(body))
    }
}

fn stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A place among the streams; dropping it frees it.
struct Seat(Rc<Cell<usize>>);

impl Seat {
    fn take(taken: &Rc<Cell<usize>>) -> Option<Self> {
        (taken.get() < STREAMS).then(|| {
            taken.set(taken.get() + 1);
            Self(Rc::clone(taken))
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn compared<'r>(
    scrape: &'r Scrape<'r>,
    now: Instant,
    (then, past): &'r (Instant, Past),
) -> Reading<'r> {
    let seconds = now.saturating_duration_since(*then).as_secs_f64();
    Reading {
        now: scrape,
        then: past,
        seconds: seconds.max(0.2),
    }
}

fn unix_now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// Streams never break off by themselves.
pub(super) type Events = Channel<Bytes, Infallible>;
