//! Where a stream of WebSocket frames stands (RFC 6455 section 5.2), told by its headers alone:
//! payload is counted, never kept. Extensions may do with it and with the RSV bits what they like.
//!
//! Between any two frames, also between the fragments of a message, a control frame may be put.

/// One way of a tunnel, as far as it was followed.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of payload to come; while its length is read, what of it is known.
    left: u64,
    /// Of the frame that stands now; zero: it is not masked.
    mask: [u8; 4],
    /// Of the Close frame: what it says.
    code: u16,
    at: At,
    /// First byte of the header: FIN, RSV, opcode.
    first: u8,
    /// Second byte: whether it is masked, and the length where that is short.
    second: u8,
    /// A Close frame is through.
    closed: bool,
}

/// What the next byte is. The numbers count how many of its kind are to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Boundary,
    Second,
    Length(u8),
    Mask(u8),
    Payload,
    /// No frame begins like that: nothing is known from here on.
    Lost,
}

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
/// First byte of a Pong frame.
pub(super) const PONG_ALONE: u8 = FIN | PONG;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// What a Close frame without a code stands for (RFC 6455 section 7.1.5).
const NO_STATUS: u16 = 1005;
/// The largest payload of a control frame.
const CONTROL: u8 = 125;

impl Frames {
    /// Follows `data`.
    pub(super) fn pass(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            rest = &rest[self.pass_frame(rest)..];
        }
    }

    /// Follows `data` to the end of the frame it begins in; how many bytes that was. All of them,
    /// where the frame ends later or nothing is known.
    pub(super) fn pass_frame(&mut self, data: &[u8]) -> usize {
        if self.at == At::Boundary
            && let Some(length) = whole(data)
        {
            return length;
        }
        let mut at = 0;
        while at < data.len() && self.at != At::Lost {
            if self.at == At::Payload {
                let rest = &data[at..];
                let n = usize::try_from(self.left).map_or(rest.len(), |n| n.min(rest.len()));
                if self.opcode() == CLOSE {
                    self.read_code(&rest[..n]);
                }
                self.left -= n as u64;
                at += n;
            } else {
                self.header(data[at]);
                at += 1;
            }
            if self.at == At::Payload && self.left == 0 {
                self.closed |= self.opcode() == CLOSE;
                self.at = At::Boundary;
                return at;
            }
        }
        data.len()
    }

    /// Whether a frame may begin here.
    pub(super) fn at_boundary(&self) -> bool {
        self.at == At::Boundary
    }

    /// Whether this turned out to be no stream of frames.
    pub(super) fn is_lost(&self) -> bool {
        self.at == At::Lost
    }

    /// The code of the first Close frame, once it is through.
    pub(super) fn close(&self) -> Option<u16> {
        self.closed.then_some(self.code)
    }

    fn opcode(&self) -> u8 {
        self.first & 0xf
    }

    fn header(&mut self, byte: u8) {
        self.at = match self.at {
            At::Boundary => {
                self.first = byte;
                match self.opcode() {
                    0..=2 => At::Second,
                    CLOSE..=PONG if byte & FIN != 0 => At::Second,
                    _ => At::Lost,
                }
            }
            At::Second => {
                self.second = byte;
                self.mask = [0; 4];
                let length = byte & !MASKED;
                self.left = u64::from(length);
                if length > CONTROL {
                    self.left = 0;
                    match length {
                        _ if self.opcode() >= CLOSE => At::Lost,
                        126 => At::Length(2),
                        _ => At::Length(8),
                    }
                } else {
                    if self.opcode() == CLOSE && !self.closed {
                        self.code = if length < 2 { NO_STATUS } else { 0 };
                    }
                    self.after_length()
                }
            }
            At::Length(8) if byte & 0x80 != 0 => At::Lost,
            At::Length(more) => {
                self.left = self.left << 8 | u64::from(byte);
                match more {
                    1 => self.after_length(),
                    more => At::Length(more - 1),
                }
            }
            At::Mask(more) => {
                self.mask[4 - usize::from(more)] = byte;
                match more {
                    1 => At::Payload,
                    more => At::Mask(more - 1),
                }
            }
            At::Payload | At::Lost => self.at,
        };
    }

    fn after_length(&self) -> At {
        if self.second & MASKED != 0 {
            At::Mask(4)
        } else {
            At::Payload
        }
    }

    /// Takes what is in `data` of the code out of it: some of the payload of a Close frame.
    fn read_code(&mut self, data: &[u8]) {
        let length = self.second & !MASKED;
        let from = usize::from(length) - self.left as usize;
        if self.closed || length < 2 || from >= 2 {
            return;
        }
        for (byte, mask) in data.iter().zip(&self.mask[from..2]) {
            self.code = self.code << 8 | u16::from(byte ^ mask);
        }
    }
}

/// The length of the frame of data that `data` begins with, header included, if it is all there and
/// not a long one: most are like that, and need no state.
fn whole(data: &[u8]) -> Option<usize> {
    let [first, second, more @ ..] = data else {
        return None;
    };
    if first & 0xf > 2 {
        return None;
    }
    let mask = if second & MASKED != 0 { 4 } else { 0 };
    let length = match second & !MASKED {
        127 => return None,
        126 => 4 + mask + usize::from(u16::from_be_bytes(*more.first_chunk()?)),
        short => 2 + mask + usize::from(short),
    };
    (length <= data.len()).then_some(length)
}

/// A control frame as it is written, on the stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    bytes: [u8; Self::MOST],
    length: u8,
}

impl Control {
    /// Header, mask and the largest payload of ours.
    pub(super) const MOST: usize = 2 + 4 + 8;

    /// A Close frame without a reason, masked for a backend.
    pub(super) fn close(code: u16, masked: bool) -> Self {
        Self::new(CLOSE, &code.to_be_bytes(), masked)
    }

    /// A Ping to a client.
    pub(super) fn ping(payload: &[u8; 8]) -> Self {
        Self::new(PING, payload, false)
    }

    fn new(opcode: u8, payload: &[u8], masked: bool) -> Self {
        let mut bytes = [0; Self::MOST];
        bytes[0] = FIN | opcode;
        bytes[1] = payload.len() as u8;
        let mut at = 2;
        let mut mask = [0; 4];
        if masked {
            bytes[1] |= MASKED;
            mask = fastrand::u32(..).to_ne_bytes();
            bytes[2..6].copy_from_slice(&mask);
            at = 6;
        }
        for (i, byte) in payload.iter().enumerate() {
            bytes[at + i] = byte ^ mask[i % 4];
        }
        Self {
            bytes,
            length: (at + payload.len()) as u8,
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;
    use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

    use super::*;

    /// One frame, to be written by somebody else.
    #[derive(Clone, Debug)]
    struct Written {
        opcode: u8,
        fin: bool,
        rsv1: bool,
        mask: Option<[u8; 4]>,
        payload: Vec<u8>,
    }

    impl Written {
        fn bytes(&self) -> Vec<u8> {
            let header = FrameHeader {
                is_final: self.fin || self.opcode >= CLOSE,
                rsv1: self.rsv1,
                rsv2: false,
                rsv3: false,
                opcode: OpCode::from(self.opcode),
                mask: self.mask,
            };
            let mut bytes = Vec::new();
            Frame::from_payload(header, self.payload.clone().into())
                .format(&mut bytes)
                .unwrap();
            bytes
        }

        fn code(&self) -> Option<u16> {
            let code = self.payload.first_chunk().copied();
            (self.opcode == CLOSE).then(|| code.map_or(NO_STATUS, u16::from_be_bytes))
        }
    }

    fn some_frame() -> impl Strategy<Value = Written> {
        let size = prop_oneof![
            8 => 0..5_usize,
            4 => 0..300_usize,
            1 => 65_500..65_600_usize,
        ];
        let opcode = prop::sample::select(vec![0, 1, 2, CLOSE, PING, PONG]);
        let shape = (any::<bool>(), any::<bool>(), any::<Option<[u8; 4]>>());
        (opcode, shape, size, any::<u8>()).prop_map(|(opcode, (fin, rsv1, mask), size, seed)| {
            let most = if opcode >= CLOSE { 126 } else { usize::MAX };
            let payload = (0..size % most).map(|i| seed.wrapping_add(i as u8));
            Written {
                opcode,
                fin,
                rsv1,
                mask,
                payload: payload.collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn boundaries_and_the_close_code_are_those_of_the_encoder_however_the_bytes_are_cut(
            written in prop::collection::vec(some_frame(), 1..12),
            cuts in prop::collection::vec(prop_oneof![1..16_usize, 1..200_000_usize], 1..40),
        ) {
            let (mut stream, mut ends) = (Vec::new(), vec![0]);
            for frame in &written {
                stream.extend(frame.bytes());
                ends.push(stream.len());
            }
            let close = written.iter().find_map(Written::code);
            // Whole pieces, and frame by frame.
            let (mut frames, mut stepped) = (Frames::default(), Frames::default());
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < stream.len() {
                let piece = &stream[at..stream.len().min(at + cuts.next().unwrap())];
                frames.pass(piece);
                let mut rest = piece;
                while !rest.is_empty() {
                    let n = stepped.pass_frame(rest);
                    at += n;
                    rest = &rest[n..];
                    prop_assert_eq!(stepped.at_boundary(), ends.contains(&at));
                    prop_assert!(stepped.at_boundary() || rest.is_empty());
                }
                prop_assert_eq!(frames.at_boundary(), ends.contains(&at));
                prop_assert!(!frames.is_lost());
            }
            prop_assert_eq!((frames.close(), stepped.close()), (close, close));
        }

        #[test]
        fn whatever_comes_is_followed_without_harm(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..40),
        ) {
            let mut frames = Frames::default();
            for piece in &pieces {
                let n = frames.pass_frame(piece);
                prop_assert!((1..=piece.len()).contains(&n));
            }
        }
    }

    #[test]
    fn a_header_may_be_cut_after_any_byte() {
        for size in [0, 1, 125, 126, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let bytes = Written {
                    opcode: 2,
                    fin: true,
                    rsv1: false,
                    mask,
                    payload: vec![0; size],
                }
                .bytes();
                for cut in 1..bytes.len().min(20) {
                    let mut frames = Frames::default();
                    frames.pass(&bytes[..cut]);
                    assert!(
                        !frames.at_boundary(),
                        "{size} bytes, {mask:?}, cut at {cut}"
                    );
                    frames.pass(&bytes[cut..]);
                    assert!(frames.at_boundary(), "{size} bytes, {mask:?}, cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_seen_at_its_first_impossible_byte() {
        for (what, bytes) in [
            ("a reserved data frame", &[0x83][..]),
            ("a reserved control frame", &[0x8b]),
            ("a fragment of a ping", &[0x09]),
            ("another protocol", b"H"),
            ("an oversize close", &[0x88, 126]),
            ("an oversize ping", &[0x89, 255]),
            ("a length with the top bit", &[0x82, 127, 0x80]),
        ] {
            let mut frames = Frames::default();
            let (last, before) = bytes.split_last().unwrap();
            frames.pass(before);
            assert!(!frames.is_lost(), "{what}");
            frames.pass(&[*last]);
            assert!(frames.is_lost(), "{what}");
            // For ever.
            frames.pass(&[0x88, 0]);
            assert!(!frames.at_boundary() && frames.close().is_none(), "{what}");
        }
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.pass(&[0; 1000]);
        assert!(!frames.is_lost() && !frames.at_boundary());
    }

    #[test]
    fn our_own_frames_are_frames() {
        let plain = Control::close(1001, false);
        assert_eq!(plain.as_bytes(), [0x88, 2, 0x03, 0xe9]);
        let masked = Control::close(1012, true);
        let mut frames = Frames::default();
        frames.pass(masked.as_bytes());
        assert_eq!((masked.as_bytes()[1], frames.close()), (0x82, Some(1012)));
        assert!(frames.at_boundary());
    }
}
