//! A connection without a socket.

use super::super::head::Bounds;
use super::link::Link;

/// The requests that are in `bytes`, looked at `piece` by `piece`, their bodies, and how it ends: the
/// same however they are cut.
pub fn replay(bytes: &[u8], piece: usize) -> Vec<String> {
    let bounds = Bounds {
        bytes: 4 << 10,
        fields: 20,
    };
    let (mut link, mut input, mut told) = (Link::new(bounds, 10, 1000), Vec::new(), Vec::new());
    let mut ended = None;
    for came in bytes.chunks(piece.max(1)) {
        input.extend_from_slice(came);
        match link.receive(&input, || false) {
            Ok(looked) => drop(input.drain(..looked.bytes)),
            Err(fault) => {
                ended = Some(fault);
                break;
            }
        }
    }
    for begun in std::mem::take(&mut link.begun) {
        let body = begun.stream.body.borrow_mut().take();
        told.push(format!("{:?} {body:?}", begun.asked));
    }
    told.push(format!("{ended:?} {} {:?}", link.newest, link.unwritten()));
    told
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::super::frame::{PREFACE, kind, settings, write};
    use super::{Bounds, Link, replay};

    /// Of the request that follows: GET https / of `a`, remembered.
    const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 1, b'a'];

    fn said(frames: &[(u8, u8, u32, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        settings(&mut bytes, &[]);
        for (kind, flags, stream, payload) in frames {
            write(&mut bytes, *kind, *flags, *stream, payload);
        }
        bytes
    }

    #[test]
    fn heads_in_pieces_with_padding_and_bodies_are_put_together() {
        let padded = |payload: &[u8]| [&[3], payload, &[0; 3]].concat();
        let told = replay(
            &said(&[
                (
                    kind::HEADERS,
                    0x28,
                    1,
                    padded(&[&[0; 5], &GET[..2]].concat()),
                ),
                (kind::CONTINUATION, 0, 1, GET[2..5].to_vec()),
                (kind::CONTINUATION, 4, 1, GET[5..].to_vec()),
                (kind::DATA, 8, 1, padded(b"bo")),
                (0xbe, 0xff, 1, vec![1; 40]),
                (kind::DATA, 1, 1, b"dy".to_vec()),
                (kind::HEADERS, 5, 3, vec![0x82, 0x87, 0x84, 0xbe]),
            ]),
            7,
        );
        assert!(
            told[0].contains("https://a/") && told[0].ends_with("b\"body\""),
            "{told:?}"
        );
        assert!(told[1].contains("https://a/"), "{told:?}");
        assert!(told[2].starts_with("None 3"), "{told:?}");
    }

    #[test]
    fn who_takes_nothing_is_not_read_from_until_it_does() {
        let bounds = Bounds {
            bytes: 4 << 10,
            fields: 20,
        };
        let mut link = Link::new(bounds, 10, 10_000);
        let pings: Vec<_> = (0..5000).map(|_| (kind::PING, 0, 0, vec![7; 8])).collect();
        assert!(link.receive(&said(&pings), || false).is_ok());
        assert!(link.is_congested());
        let all = link.unwritten().len();
        assert!(!link.wrote(10) && link.is_congested());
        // Reading goes on, and whoever waits for that is told.
        assert!(link.wrote(all / 2) && !link.is_congested());
        assert!(!link.wrote(all - all / 2 - 10) && link.unwritten().is_empty());
    }

    #[test]
    fn who_waits_is_remembered_once_and_who_had_none_goes_first() {
        let bounds = Bounds {
            bytes: 4 << 10,
            fields: 20,
        };
        let mut link = Link::new(bounds, 10, 1000);
        let get = |stream| (kind::HEADERS, 5, stream, GET.to_vec());
        assert!(link.receive(&said(&[get(1), get(3)]), || false).is_ok());
        let [first, second] = [0, 1].map(|n| Rc::clone(&link.begun[n].stream));
        for _ in 0..9 {
            link.wait_for_room(&first, true);
            link.wait_for_room(&second, false);
        }
        assert_eq!(Rc::strong_count(&first), Rc::strong_count(&second));
        assert_eq!(Rc::strong_count(&first), 4, "streams, begun, waiting, here");
        // A window that was open is no news; one that was shut is.
        assert!(link.open(1) && first.waits.get());
        assert!(link.open(-70_000) && first.waits.get());
        assert!(link.open(70_000) && !first.waits.get() && !second.waits.get());
        assert!(!link.open(1 << 31));
    }

    #[test]
    fn what_no_client_may_send_ends_the_connection() {
        let get = (kind::HEADERS, 5, 1, GET.to_vec());
        for (frames, code) in [
            (vec![(kind::HEADERS, 5, 2, GET.to_vec())], "Protocol"),
            (vec![(kind::HEADERS, 5, 0, GET.to_vec())], "Protocol"),
            (vec![(kind::HEADERS, 0xd, 1, vec![9; 5])], "Protocol"),
            (vec![(kind::HEADERS, 0x25, 1, vec![0; 4])], "FrameSize"),
            (vec![(kind::HEADERS, 5, 1, vec![0xff])], "Compression"),
            (
                vec![
                    (kind::HEADERS, 1, 1, GET.to_vec()),
                    (kind::PING, 0, 0, vec![0; 8]),
                ],
                "Protocol",
            ),
            (
                vec![
                    (kind::HEADERS, 1, 1, GET.to_vec()),
                    (kind::CONTINUATION, 4, 3, vec![]),
                ],
                "Protocol",
            ),
            (vec![(kind::CONTINUATION, 4, 1, vec![])], "Protocol"),
            (vec![(kind::DATA, 0, 0, vec![1])], "Protocol"),
            (vec![(kind::DATA, 0, 1, vec![1])], "Protocol"),
            (vec![(kind::RST_STREAM, 0, 1, vec![0; 4])], "Protocol"),
            (
                vec![get.clone(), (kind::RST_STREAM, 0, 1, vec![0; 5])],
                "FrameSize",
            ),
            (vec![(kind::PRIORITY, 0, 0, vec![0; 5])], "Protocol"),
            (vec![(kind::SETTINGS, 0, 1, vec![])], "Protocol"),
            (vec![(kind::SETTINGS, 0, 0, vec![0; 5])], "FrameSize"),
            (vec![(kind::SETTINGS, 1, 0, vec![0; 6])], "FrameSize"),
            (
                vec![(kind::SETTINGS, 0, 0, vec![0, 4, 0x80, 0, 0, 0])],
                "FlowControl",
            ),
            (
                vec![(kind::SETTINGS, 0, 0, vec![0, 5, 0, 0, 0x3f, 0xff])],
                "Protocol",
            ),
            (
                vec![(kind::SETTINGS, 0, 0, vec![0, 2, 0, 0, 0, 2])],
                "Protocol",
            ),
            (vec![(kind::PING, 0, 0, vec![0; 7])], "FrameSize"),
            (vec![(kind::PING, 0, 1, vec![0; 8])], "Protocol"),
            (vec![(kind::GOAWAY, 0, 1, vec![0; 8])], "Protocol"),
            (vec![(kind::PUSH_PROMISE, 4, 1, vec![0; 8])], "Protocol"),
            (vec![(kind::WINDOW_UPDATE, 0, 0, vec![0; 4])], "Protocol"),
            (
                vec![(kind::WINDOW_UPDATE, 0, 1, vec![0, 0, 0, 1])],
                "Protocol",
            ),
            (
                vec![(kind::WINDOW_UPDATE, 0, 0, vec![0x7f, 0xff, 0xff, 0xff])],
                "FlowControl",
            ),
            (vec![(kind::WINDOW_UPDATE, 0, 0, vec![0; 3])], "FrameSize"),
        ] {
            let told = replay(&said(&frames), 1000);
            let end = told.last().unwrap();
            assert!(
                end.starts_with(&format!("Some(Violation({code}))")),
                "{frames:?}: {end}"
            );
        }
        assert!(replay(b"GET / HTTP/1.1\r\n\r\n", 5)[0].starts_with("Some(Violation(Protocol))"));
        let no_settings = [&PREFACE[..], &said(&[get])[33..]].concat();
        assert!(replay(&no_settings, 99)[0].starts_with("Some(Violation(Protocol))"));
        let huge = [&said(&[])[..], &[0, 0x40, 1, 0, 0, 0, 0, 0, 1]].concat();
        assert!(replay(&huge, 99)[0].starts_with("Some(Violation(FrameSize))"));
    }

    proptest! {
        #[test]
        fn frames_cut_anywhere_are_the_same_frames(
            frames in prop::collection::vec(
                (0u8..11, any::<u8>(), 0u32..9, prop::collection::vec(any::<u8>(), 0..20)),
                0..20,
            ),
            piece in 1usize..40,
        ) {
            let bytes = said(&frames);
            prop_assert_eq!(replay(&bytes, bytes.len()), replay(&bytes, piece));
        }

        #[test]
        fn requests_cut_anywhere_are_the_same_requests(
            frames in prop::collection::vec(
                (0u8..2, prop::sample::select(vec![0u8, 1, 4, 5, 12, 13]), 0u32..4, 0usize..7),
                0..20,
            ),
            piece in 1usize..40,
        ) {
            let frame = |(kind, flags, stream, length): (u8, u8, u32, usize)| {
                (kind, flags, 2 * stream + 1, [&[1][..], GET].concat()[..length].to_vec())
            };
            let bytes = said(&frames.into_iter().map(frame).collect::<Vec<_>>());
            prop_assert_eq!(replay(&bytes, bytes.len()), replay(&bytes, piece));
        }
    }
}
