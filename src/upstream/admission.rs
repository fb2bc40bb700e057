//! Who may go to the backend when it has more to do than it can: places for requests in flight.
//!
//! A request holds a place from when it is whole until the head of its answer is there: that is how
//! long the backend works on it. What comes later is the client's pace: a body that is still being
//! sent, an answer that is still being taken, an open tunnel hold none.
//!
//! Places are counted by relaxed atomics that all workers share; no lock is waited for. How many
//! there are is found by [`super::adaptive`].

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::adaptive::{Adaptive, Turn, Window};
use super::pace::Seen;
use crate::names::Route;
use crate::peer::network;
use crate::telemetry::{Cause, Kind, Metrics};

/// What holds for places.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Most requests in flight, whatever is found out.
    pub most: u32,
    /// Whether fewer are found out from how long answers take.
    pub adaptive: bool,
    /// Below so many in flight nothing is refused for being slow.
    pub least: u32,
    /// Whether handshakes of WebSockets are the last to be refused, else the first.
    pub sockets_last: bool,
    /// Paths below the base path, without final slash, whose requests are neither counted nor
    /// measured, nor what lies below them.
    pub except: Box<[Box<str>]>,
}

impl Rules {
    /// Whether `path`, canonical and below the base path, is one of the exceptions.
    pub fn spare(&self, path: &str) -> bool {
        self.except.iter().any(|spared| {
            path.strip_prefix(&**spared)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The share of the places, in tenths, that requests of this kind may fill.
    pub fn tenths(&self, kind: Kind) -> u64 {
        match (kind, self.sockets_last) {
            (Kind::Socket, true) | (Kind::Api, false) => 10,
            (Kind::Api, true) | (Kind::Page, false) => 9,
            (Kind::Page, true) | (Kind::Socket, false) => 8,
        }
    }
}

/// Whose request it is and what for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) kind: Kind,
    pub(super) route: Route,
    pub(super) client: IpAddr,
}

/// Counters of clients. A client has one by the hash of its address; that two share one is rare
/// and costs them a part of their shares (stochastic fairness: McKenney, INFOCOM 1990).
const CLIENTS: usize = 1 << 14;

/// The places, one for the process.
pub struct Admission {
    began: Instant,
    in_flight: AtomicU32,
    /// Answers in this window.
    answers: AtomicU32,
    clients: Box<[AtomicU32]>,
    /// Of this process: who does not know it cannot choose addresses that meet, and neighbours do not
    /// meet more often than others, as they could with a mere multiplication.
    hasher: RandomState,
    /// Places there are by what was found out.
    limit: AtomicU32,
    /// When the window is over, microseconds since `began`.
    window_ends: AtomicU64,
    /// Most in flight in this window.
    peak: AtomicU32,
    /// 1: somebody was refused in this window.
    refused: AtomicU32,
    pub(super) seen: [Seen; Route::ALL.len()],
    adaptive: Mutex<Adaptive>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            in_flight: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            clients: (0..CLIENTS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
            limit: AtomicU32::new(u32::MAX),
            window_ends: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            seen: Default::default(),
            adaptive: Mutex::default(),
        }
    }
}

impl Admission {
    /// Judges a request. `whole`: since when all of it is there, so that it takes its place at once.
    pub(super) fn admit<'a>(
        &'a self,
        rules: &'a Rules,
        asker: Asker,
        whole: Option<Instant>,
    ) -> Result<Place<'a>, Cause> {
        let found = if rules.adaptive {
            self.limit.load(Relaxed)
        } else {
            u32::MAX
        };
        let places = rules.most.min(found);
        // Rounded up: whoever is the only one may always come.
        let for_kind = (u64::from(places) * rules.tenths(asker.kind)).div_ceil(10);
        let place = Place {
            admission: self,
            rules,
            client: self.counter(asker.client),
            route: asker.route,
            // A handshake takes what the application takes for it.
            measured: Cell::new(rules.adaptive && asker.kind != Kind::Socket),
            since: Cell::new(None),
        };
        let (others, own) = if let Some(now) = whole {
            place.begin(now)
        } else {
            (
                self.in_flight.load(Relaxed),
                self.clients[place.client].load(Relaxed),
            )
        };
        let free = for_kind.saturating_sub(u64::from(others));
        // A client may hold as many places as are free: alone half of them, and whoever comes new
        // finds one (dynamic thresholds: Choudhury and Hahne, IEEE/ACM ToN 1998).
        let cause = match () {
            () if free == 0 && found < rules.most => Cause::Slow,
            () if free == 0 => Cause::Cap,
            () if u64::from(own) > free => Cause::Share,
            () => return Ok(place),
        };
        place.measured.set(false);
        drop(place);
        if rules.adaptive {
            if self.refused.load(Relaxed) == 0 {
                self.refused.store(1, Relaxed);
            }
            self.turn(rules, self.began.elapsed());
        }
        Err(cause)
    }

    /// The counter of a client.
    fn counter(&self, client: IpAddr) -> usize {
        self.hasher.hash_one(network(client)) as usize % CLIENTS
    }

    /// Once a window, whoever comes first finds out how many places there are from now on.
    fn turn(&self, rules: &Rules, now: Duration) {
        let now = now.as_micros() as u64;
        if now < self.window_ends.load(Relaxed) {
            return;
        }
        // Who does not get it has a colleague who is at it.
        let Ok(mut adaptive) = self.adaptive.try_lock() else {
            return;
        };
        if now < self.window_ends.load(Relaxed) {
            return;
        }
        let in_flight = self.in_flight.load(Relaxed);
        let window = Window {
            now,
            most: rules.most,
            least: rules.least,
            in_flight,
            peak: self.peak.swap(in_flight, Relaxed).max(in_flight),
            refused: self.refused.swap(0, Relaxed) != 0,
            answers: self.answers.swap(0, Relaxed),
            paces: self.seen.each_ref().map(Seen::take),
        };
        let Turn {
            limit,
            next,
            afresh,
        } = adaptive.turn(&window);
        self.limit.store(limit, Relaxed);
        if afresh {
            self.seen.iter().for_each(Seen::forget);
        }
        self.window_ends.store(next, Relaxed);
    }

    /// Tells the metrics how many places are taken, and of how many under `rules`.
    pub fn show(&self, rules: &Rules, metrics: &Metrics) {
        let found = if rules.adaptive {
            self.limit.load(Relaxed)
        } else {
            u32::MAX
        };
        metrics
            .overload
            .in_flight
            .set(self.in_flight.load(Relaxed).into());
        metrics.overload.limit.set(rules.most.min(found).into());
    }
}

/// The place of one request; dropping it gives it back, however the request ends.
pub(super) struct Place<'a> {
    admission: &'a Admission,
    rules: &'a Rules,
    client: usize,
    route: Route,
    /// Whether how long it takes is looked at.
    measured: Cell<bool>,
    /// Since when it is taken.
    since: Cell<Option<Instant>>,
}

impl Place<'_> {
    /// Takes it, unless it is taken: the request is whole. How many others were taken before, and
    /// how many of them by the same client.
    pub(super) fn begin(&self, now: Instant) -> (u32, u32) {
        if self.since.get().is_some() {
            return (0, 0);
        }
        self.since.set(Some(now));
        let admission = self.admission;
        let others = admission.in_flight.fetch_add(1, Relaxed);
        let own = admission.clients[self.client].fetch_add(1, Relaxed);
        if self.rules.adaptive && admission.peak.load(Relaxed) <= others {
            admission.peak.fetch_max(others + 1, Relaxed);
        }
        (others, own)
    }

    /// There is an answer `at` that time, or there will be none. `telling`: it tells how long the backend takes.
    pub(super) fn answered(self, telling: bool, at: Instant) {
        if self.rules.adaptive {
            self.admission.answers.fetch_add(1, Relaxed);
        }
        if telling {
            self.look(Seen::answered, at);
        }
        self.measured.set(false);
    }

    fn look(&self, note: impl FnOnce(&Seen, u32), at: Instant) {
        let Some(since) = self.since.get().filter(|_| self.measured.get()) else {
            return;
        };
        let took = at.duration_since(since);
        let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        note(&self.admission.seen[self.route.index()], took_us);
        let now = at.duration_since(self.admission.began);
        self.admission.turn(self.rules, now);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Whoever drops it before there is an answer: the client is gone.
        if self.measured.get() {
            self.look(Seen::gave_up, Instant::now());
        }
        if self.since.get().is_some() {
            self.admission.in_flight.fetch_sub(1, Relaxed);
            self.admission.clients[self.client].fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(most: u32) -> Rules {
        Rules {
            most,
            adaptive: false,
            least: 1,
            sockets_last: true,
            except: ["/poll".into()].into(),
        }
    }

    fn asker(kind: Kind, client: u32) -> Asker {
        Asker {
            kind,
            route: Route::Page,
            client: IpAddr::from(client.to_be_bytes()),
        }
    }

    /// How many places requests of `kind` get, each from another client.
    fn filled(admission: &Admission, rules: &Rules, kind: Kind) -> usize {
        let admit = |n| {
            admission
                .admit(rules, asker(kind, n), Some(Instant::now()))
                .ok()
        };
        let places: Vec<_> = (0..100_000).map_while(admit).collect();
        places.len()
    }

    #[test]
    fn each_kind_fills_its_part_and_places_come_back() {
        let admission = Admission::default();
        for (sockets_last, of_each) in [(true, [90, 80, 100]), (false, [100, 90, 80])] {
            let rules = Rules {
                sockets_last,
                ..rules(100)
            };
            for (kind, filling) in [Kind::Api, Kind::Page, Kind::Socket].iter().zip(of_each) {
                assert_eq!(filled(&admission, &rules, *kind), filling, "{kind:?}");
            }
        }
        assert_eq!(filled(&admission, &rules(1), Kind::Page), 1);
        assert_eq!(admission.in_flight.load(Relaxed), 0);
        assert!(admission.clients.iter().all(|c| c.load(Relaxed) == 0));
    }

    #[test]
    fn a_client_holds_as_many_as_are_free() {
        // Three that do not happen to share a counter.
        let admission = std::iter::repeat_with(Admission::default).find(|admission| {
            let [a, b, c] = [1, 2, 3].map(|n| admission.counter(asker(Kind::Socket, n).client));
            a != b && b != c && a != c
        });
        let admission = admission.unwrap();
        let rules = rules(100);
        let greedy = |client| {
            let admit =
                |_| admission.admit(&rules, asker(Kind::Socket, client), Some(Instant::now()));
            (0..100).map_while(|n| admit(n).ok()).collect::<Vec<_>>()
        };
        let first = greedy(1);
        assert_eq!(first.len(), 51);
        let second = greedy(2);
        assert_eq!(second.len(), 25);
        let refused = admission.admit(&rules, asker(Kind::Socket, 1), Some(Instant::now()));
        assert_eq!(refused.err(), Some(Cause::Share));
        assert!(
            admission
                .admit(&rules, asker(Kind::Socket, 3), Some(Instant::now()))
                .is_ok()
        );
        drop(first);
        assert!(greedy(2).len() > 10);
    }

    #[test]
    fn three_neighbours_hardly_ever_share_a_counter() {
        // Addresses that are only multiplied would do so in a hundred processes of these.
        let mut admission = Admission::default();
        let shared = (0..100_000).filter(|_| {
            admission.hasher = RandomState::new();
            let counter = |n: u32| admission.counter(asker(Kind::Page, 0x0a00_0000 + n).client);
            let mut counters: Vec<_> = (0..10).map(counter).collect();
            counters.sort_unstable();
            counters.windows(3).any(|three| three[0] == three[2])
        });
        assert!(shared.count() < 5);
    }

    #[test]
    fn a_request_that_is_not_whole_is_judged_and_not_counted() {
        let admission = Admission::default();
        let rules = rules(1);
        let waiting = admission.admit(&rules, asker(Kind::Api, 1), None).unwrap();
        let other = admission
            .admit(&rules, asker(Kind::Api, 2), Some(Instant::now()))
            .unwrap();
        let late = admission.admit(&rules, asker(Kind::Api, 3), None);
        assert_eq!(late.err(), Some(Cause::Cap));
        waiting.begin(Instant::now());
        assert_eq!(waiting.begin(Instant::now()), (0, 0), "taken once");
        assert_eq!(admission.in_flight.load(Relaxed), 2);
        drop((waiting, other));
        assert_eq!(admission.in_flight.load(Relaxed), 0);
    }

    #[test]
    fn exceptions_end_at_the_border_of_a_segment() {
        for (path, spared) in [
            ("/poll", true),
            ("/poll/x", true),
            ("/pollx", false),
            ("/a/poll", false),
            ("/", false),
        ] {
            assert_eq!(rules(1).spare(path), spared, "{path}");
        }
    }
}
