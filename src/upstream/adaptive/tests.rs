use super::estimate::SLACK;
use super::*;
use crate::upstream::pace::HELD_BACK;

/// A backend that works on `hands` requests at a time, each `service` long, in turn.
struct Model {
    hands: f64,
    service: f64,
    /// After so long clients are gone.
    patience: f64,
    least: u32,
    adaptive: Adaptive,
    now: u64,
    limit: u32,
    in_flight: f64,
    /// How long the last window was.
    span: f64,
    /// Answers, or clients that gave up, since the last judgement.
    counted: f64,
}

impl Model {
    fn new(hands: u32, service_ms: u32) -> Self {
        Self {
            hands: hands.into(),
            service: f64::from(service_ms) * MS as f64,
            patience: f64::INFINITY,
            least: 4,
            adaptive: Adaptive::default(),
            now: SECOND,
            limit: u32::MAX,
            in_flight: 0.0,
            span: 0.0,
            counted: 0.0,
        }
    }

    fn latency(&self) -> f64 {
        self.service * (self.in_flight / self.hands).max(1.0)
    }

    fn pace(&mut self, answers: f64) -> Pace {
        self.counted += answers;
        let (took, enough) = (self.latency(), self.counted >= 8.0);
        if enough {
            self.counted = 0.0;
        }
        match enough {
            true if took > self.patience => Pace::AllGaveUp(self.patience as u32),
            true if took >= HELD_BACK.into() => Pace::HeldBack,
            true => Pace::Fastest(took as u32),
            false if self.counted < 1.0 || took >= HELD_BACK.into() => Pace::Unknown,
            false => Pace::Few(took as u32),
        }
    }

    /// Lets requests come for a while, so many times as many as the backend can do; what part
    /// of them it did, of what it could do.
    fn run(&mut self, seconds: u64, times: f64) -> f64 {
        let (end, mut done, mut all) = (self.now + seconds * SECOND, 0.0, 0.0);
        while self.now < end {
            // As many come in a window as come, and wait as long as the limit allows.
            let before = self.now;
            let wanted = if times > 1.0 {
                self.in_flight + self.hands * times
            } else {
                self.hands * times
            };
            self.in_flight = wanted.min(self.limit.into());
            let answers = self.in_flight.min(self.hands) / self.service * self.span;
            let mut paces = [Pace::Unknown; Route::ALL.len()];
            paces[Route::Page.index()] = self.pace(answers);
            let turn = self.adaptive.turn(&Window {
                now: self.now,
                most: 10_000,
                least: self.least,
                in_flight: self.in_flight as u32,
                peak: self.in_flight as u32,
                refused: wanted > self.limit.into(),
                answers: (answers + 0.5) as u32,
                paces,
            });
            (self.now, self.limit) = (turn.next, turn.limit);
            if turn.afresh {
                self.counted = 0.0;
            }
            self.span = (self.now - before) as f64;
            done += self.span * self.in_flight.min(self.hands);
            all += self.span * self.hands;
        }
        done / all
    }
}

#[test]
fn under_lasting_overload_the_backend_is_busy_and_its_queue_short() {
    for (hands, service) in [(1, 5), (4, 50), (16, 20), (64, 200), (200, 10)] {
        let mut model = Model::new(hands, service);
        assert!(model.run(10, 0.5) > 0.49);
        assert_eq!(model.limit, 10_000, "nothing is limited without need");
        let busy = model.run(300, 4.0);
        assert!(busy > 0.95, "{hands} hands, {service} ms: {busy}");
        // It goes on for long: it must not become the measure of itself.
        let most = (model.service * 3.5).max(model.service + 2.5 * SLACK);
        assert!(
            model.latency() < most,
            "{hands} hands, {service} ms: {} of {most}, limit {}",
            model.latency(),
            model.limit
        );
    }
}

#[test]
fn where_all_give_up_before_an_answer_there_will_be_answers_again() {
    for known in [true, false] {
        let mut model = Model::new(8, 100);
        model.patience = 2.0 * SECOND as f64;
        if known {
            model.run(5, 0.5);
        }
        model.in_flight = 1_000.0;
        model.run(20, 4.0);
        assert!(model.latency() < model.patience, "{}", model.latency());
    }
}

#[test]
fn the_limit_is_gone_when_the_load_is() {
    let mut model = Model::new(16, 20);
    model.run(5, 0.5);
    model.run(20, 4.0);
    assert!(model.limit < 100);
    model.run(10, 0.5);
    assert!(model.limit > 500, "{}", model.limit);
}

#[test]
fn a_backend_that_becomes_slower_by_nature_is_given_its_time() {
    let mut model = Model::new(200, 20);
    model.run(5, 0.5);
    model.service *= 10.0;
    model.run(60, 0.9);
    assert!(model.limit >= 180, "{}", model.limit);
    // So slow that few answers come while it is looked at.
    let mut model = Model::new(200, 20);
    model.least = 32;
    model.run(5, 0.5);
    model.service = 3.0 * SECOND as f64;
    model.run(120, 0.9);
    assert!(model.limit >= 180, "{}", model.limit);
}

#[test]
fn answers_that_always_take_long_are_no_overload() {
    let mut model = Model::new(200, 6_000);
    model.run(60, 0.5);
    assert_eq!(model.limit, 10_000);
    // Nor are clients that do not wait for them, once somebody has.
    model.patience = 2.0 * SECOND as f64;
    model.run(10, 0.5);
    assert_eq!(model.limit, 10_000);
    // Who begins with such clients comes out of it.
    let mut model = Model::new(200, 6_000);
    model.patience = 2.0 * SECOND as f64;
    model.run(10, 0.5);
    assert!(model.limit < 100, "{}", model.limit);
    model.patience = f64::INFINITY;
    model.run(120, 0.5);
    assert!(model.limit > 200, "{}", model.limit);
}

#[test]
fn so_few_as_are_never_too_many_do_not_move_the_limit() {
    let mut model = Model::new(24, 20);
    model.least = 24;
    model.run(5, 1.0);
    model.service *= 20.0;
    model.run(5, 1.0);
    assert_eq!(model.limit, 10_000);
    model.patience = model.service / 2.0;
    model.run(5, 1.0);
    assert_eq!(model.limit, 10_000);
}
