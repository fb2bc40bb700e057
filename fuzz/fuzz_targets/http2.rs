//! Frames of HTTP/2 are the same requests however the bytes are cut.
#![no_main]

use cobrowse_gateway::downstream::http2::replay;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    // What every connection begins with need not be found.
    let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", bytes].concat();
    assert_eq!(replay(&bytes, bytes.len()), replay(&bytes, usize::from(piece)));
});
