//! A request's head and chunks are read alike however the bytes are cut.
#![no_main]

use bytes::BytesMut;
use cobrowse_gateway::downstream::head::{Bounds, Head, Scan};
use cobrowse_gateway::framing::{Decoded, Decoder};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { bytes: 4 << 10, fields: 20 };

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let (whole, cut) = (read(bytes, bytes.len().max(1)), read(bytes, usize::from(piece).max(1)));
    assert_eq!(whole, cut);
});

/// Every request in `bytes` and how it ended, as text.
fn read(bytes: &[u8], piece: usize) -> Vec<String> {
    let (mut scan, mut buffer, mut rest) = (Scan::default(), BytesMut::new(), bytes);
    let mut seen = Vec::new();
    let mut body = Decoder::Done;
    let mut data = Vec::new();
    loop {
        let more = match body.decode(&mut buffer) {
            Ok(Decoded::Data(d)) => {
                data.extend_from_slice(&d);
                continue;
            }
            Ok(Decoded::More) => true,
            Err(how) => {
                seen.push(how.to_owned());
                return seen;
            }
            Ok(Decoded::End) => {
                if !data.is_empty() {
                    seen.push(format!("{:?}", std::mem::take(&mut data)));
                }
                let bytes = scan.take(&mut buffer, BOUNDS);
                let head = bytes.and_then(|bytes| bytes.map(|bytes| Head::parse(&bytes, BOUNDS)).transpose());
                match head {
                    Ok(None) => true,
                    Ok(Some(Head { request, body: framed, persistent, flaw, .. })) => {
                        assert!(flaw.is_some() || !request.uri.path().contains('#'));
                        seen.push(format!("{request:?} {framed:?} {persistent} {flaw:?}"));
                        if flaw.is_some() {
                            return seen;
                        }
                        body = framed;
                        false
                    }
                    // Which of two faults is met first depends on where the bytes are cut.
                    Err(_) => {
                        seen.push("refused".to_owned());
                        return seen;
                    }
                }
            }
        };
        if more {
            if rest.is_empty() {
                return seen;
            }
            let n = piece.min(rest.len());
            buffer.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
        }
    }
}
