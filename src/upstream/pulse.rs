//! Whether a client is still there: a Ping of ours when nothing came from it for long, and the Pong
//! to it taken out of what goes to the backend, which has asked for none.

use std::time::Duration;

use tokio::time::Instant;

use super::frames::{Control, Frames, PONG_ALONE};

/// How a client is asked whether it is there.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    every: Duration,
    /// By which its Pong is known: nobody else's.
    payload: [u8; 8],
}

impl Ping {
    /// Asks a client that has sent nothing for `every`, and gives it as long to answer.
    pub fn new(every: Duration) -> Self {
        Self {
            every,
            payload: fastrand::u64(..).to_ne_bytes(),
        }
    }
}

/// What became of it in one tunnel.
pub(super) struct Pulse {
    ping: Ping,
    /// When something came from the client last.
    heard_at: Instant,
    state: State,
    /// Whether a Ping was ever said: no Pong is ours before.
    asked: bool,
    /// What came of a frame that may be our Pong.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// A Ping is to be said as soon as no frame is in the middle.
    Wanted,
    /// It was said then, and nothing came since.
    Asked(Instant),
}

/// What time it is for.
pub(super) enum Due {
    Nothing,
    Ping,
    /// Nothing came back.
    HalfOpen,
}

/// Header, mask and payload of a Pong of ours.
const LENGTH: usize = Control::MOST;

impl Pulse {
    pub(super) fn new(ping: Ping, now: Instant) -> Self {
        Self {
            ping,
            heard_at: now,
            state: State::Well,
            asked: false,
            held: Vec::new(),
        }
    }

    /// Whether a Ping is to be said as soon as no frame is in the middle.
    pub(super) fn wants_ping(&self) -> bool {
        self.state == State::Wanted
    }

    /// When time has to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Well => Some(self.heard_at + self.ping.every),
            State::Wanted => None,
            State::Asked(at) => Some(at + self.ping.every),
        }
    }

    /// What `now` is the time for.
    pub(super) fn look_at_time(&mut self, now: Instant) -> Due {
        match (self.state, self.due()) {
            (State::Well, Some(due)) if due <= now => {
                self.state = State::Wanted;
                Due::Ping
            }
            (State::Asked(_), Some(due)) if due <= now => Due::HalfOpen,
            _ => Due::Nothing,
        }
    }

    /// The Ping, if one is wanted and this is the place for it.
    pub(super) fn ping_here(&mut self, frames: &Frames) -> Option<Control> {
        if self.state != State::Wanted || !frames.at_boundary() {
            return None;
        }
        self.state = State::Asked(Instant::now());
        self.asked = true;
        Some(Control::ping(&self.ping.payload))
    }

    /// Hears and follows what the client sent: all of it, or where `one` is wanted to the end of the frame it
    /// begins in. How many bytes that was, how many of them pass as they are, and what passes after
    /// those: our Pongs do not.
    pub(super) fn sift(&mut self, frames: &mut Frames, data: &[u8], one: bool) -> Sifted {
        if !data.is_empty() {
            self.heard_at = Instant::now();
            self.state = State::Well;
        }
        let mut sifted = Sifted::default();
        let mut whole = true;
        while sifted.used < data.len() {
            let rest = &data[sifted.used..];
            let at_boundary = frames.at_boundary();
            let perhaps = self.asked && at_boundary && rest[0] == PONG_ALONE;
            let piece = &rest[..frames.pass_frame(rest)];
            sifted.used += piece.len();
            if perhaps || !self.held.is_empty() {
                whole = false;
                self.held.extend_from_slice(piece);
                if frames.at_boundary() && self.is_ours() {
                    self.held = Vec::new();
                } else if frames.at_boundary() || !self.may_be_ours() {
                    sifted.then.append(&mut self.held);
                }
            } else if whole {
                sifted.passes = sifted.used;
            } else {
                sifted.then.extend_from_slice(piece);
            }
            if one && frames.at_boundary() {
                break;
            }
        }
        sifted
    }

    /// Whether what is held, a whole frame, is a Pong to our Ping.
    fn is_ours(&self) -> bool {
        let Some((mask, payload)) = self.held[2..].split_at_checked(4) else {
            return false;
        };
        let unmasked = payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m);
        self.may_be_ours() && unmasked.eq(self.ping.payload)
    }

    /// Whether it may become one.
    fn may_be_ours(&self) -> bool {
        let second = self.held.get(1);
        self.held.len() <= LENGTH && second.is_none_or(|second| *second == 0x80 | 8)
    }
}

/// What [`Pulse::sift`] found.
#[derive(Debug, Default)]
pub(super) struct Sifted {
    pub(super) used: usize,
    pub(super) passes: usize,
    pub(super) then: Vec<u8>,
}

impl Sifted {
    /// All of these bytes pass.
    pub(super) fn all(used: usize) -> Self {
        Self {
            used,
            passes: used,
            then: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A masked frame of a client's.
    fn frame(opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let masked = payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m);
        let header = [0x80 | opcode, 0x80 | payload.len() as u8];
        header.into_iter().chain(mask).chain(masked).collect()
    }

    proptest! {
        #[test]
        fn our_pongs_and_nothing_else_are_taken_out_however_the_bytes_are_cut(
            shapes in prop::collection::vec((0..6_usize, any::<[u8; 4]>(), any::<[u8; 8]>()), 1..20),
            cuts in prop::collection::vec(1..20_usize, 1..20),
            one in any::<bool>(),
        ) {
            let ping = Ping::new(Duration::ZERO);
            let mut pulse = Pulse::new(ping, Instant::now());
            pulse.look_at_time(Instant::now());
            pulse.ping_here(&Frames::default()).unwrap();
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for (shape, mask, payload) in shapes {
                let bytes = match shape {
                    0 => frame(0xa, mask, &ping.payload),
                    1 => frame(0xa, mask, &payload),
                    2 => frame(0xa, mask, &ping.payload[..7]),
                    3 => frame(0xa, mask, &[&ping.payload[..], &payload].concat()),
                    4 => frame(0x9, mask, &ping.payload),
                    _ => frame(0x2, mask, &[0x8a; 40]),
                };
                sent.extend_from_slice(&bytes);
                if shape != 0 {
                    expected.extend(bytes);
                }
            }
            let (mut frames, mut passed) = (Frames::default(), Vec::new());
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < sent.len() {
                let piece = &sent[at..sent.len().min(at + cuts.next().unwrap())];
                let sifted = pulse.sift(&mut frames, piece, one);
                prop_assert!(sifted.used == piece.len() || (one && frames.at_boundary()));
                passed.extend_from_slice(&piece[..sifted.passes]);
                passed.extend(sifted.then);
                at += sifted.used;
            }
            prop_assert_eq!(passed, expected);
            prop_assert!(pulse.held.is_empty());
        }
    }
}
