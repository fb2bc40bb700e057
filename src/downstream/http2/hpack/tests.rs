use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn text(field: &Field) -> String {
    match field {
        Field::Method(method) => format!(":method: {method}"),
        Field::Scheme(scheme) => format!(":scheme: {}", String::from_utf8_lossy(scheme)),
        Field::Authority(authority) => format!(":authority: {authority}"),
        Field::Path(path) => format!(":path: {path}"),
        Field::Header(name, value) => format!("{name}: {}", value.to_str().unwrap()),
        bad => format!("{bad:?}"),
    }
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Broken> {
    let mut fields = Vec::new();
    decoder.decode(block, |field, _| fields.push(text(field)))?;
    Ok(fields)
}

/// RFC 7541 appendix C.3 and C.4: three requests on one connection, as they are and folded.
#[test]
fn the_examples_of_the_standard_are_read() {
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::new();
        let heads = blocks.map(|block| read(&mut decoder, &hex(block)).unwrap());
        assert_eq!(
            heads[0],
            [
                ":method: GET",
                ":scheme: http",
                ":path: /",
                ":authority: www.example.com"
            ]
        );
        assert_eq!(heads[1][4], "cache-control: no-cache");
        assert_eq!(
            heads[2],
            [
                ":method: GET",
                ":scheme: https",
                ":path: /index.html",
                ":authority: www.example.com",
                "custom-key: custom-value"
            ]
        );
    }
}

/// RFC 7541 appendix C.2.
#[test]
fn fields_that_are_not_to_be_remembered_are_not() {
    let mut decoder = Decoder::new();
    for (block, field) in [
        ("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path"),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password: secret",
        ),
    ] {
        assert_eq!(read(&mut decoder, &hex(block)).unwrap(), [field]);
        assert_eq!(read(&mut decoder, &[0xbe]), Err(Broken));
    }
}

#[test]
fn what_is_no_block_is_told() {
    for bad in [
        "80",           // Nothing has the number 0.
        "be",           // Nothing was told yet.
        "40",           // No name.
        "4001",         // A name that is not there.
        "400161",       // No value.
        "40016103",     // A value that is not there.
        "7f",           // A number that is not there.
        "ffffffffff0f", // A number that is too large.
        "ff8080808000", // A number with too many zeros.
        "823f e11f",    // A size after a field.
        "3fe2 1f",      // A table larger than was allowed.
        "0481 00",      // A path that is not in the code.
    ] {
        assert_eq!(read(&mut Decoder::new(), &hex(bad)), Err(Broken), "{bad}");
    }
}

#[test]
fn the_table_holds_no_more_than_it_may() {
    let mut decoder = Decoder::new();
    let told = |name: u8| [&[0x40, 1, name, 100][..], &[b'v'; 100]].concat();
    for name in b'a'..=b'z' {
        for _ in 0..4 {
            read(&mut decoder, &told(name)).unwrap();
        }
    }
    // 133 bytes each: thirty in 4 KiB.
    assert!(read(&mut decoder, &[0x80 | 91]).is_ok());
    assert_eq!(read(&mut decoder, &[0x80 | 92]), Err(Broken));
    // Room for two; then for none; then for many again.
    assert!(read(&mut decoder, &hex("3f eb01 bf")).is_ok());
    assert_eq!(read(&mut decoder, &[0xc0]), Err(Broken));
    read(&mut decoder, &hex("20 3fe11f")).unwrap();
    assert_eq!(read(&mut decoder, &[0xbe]), Err(Broken));
    // One that is larger than all empties it.
    read(&mut decoder, &told(b'a')).unwrap();
    let huge = [&[0x40, 1, b'b'][..], &hex("7f a11f"), &vec![b'v'; 4128]].concat();
    read(&mut decoder, &huge).unwrap();
    assert_eq!(read(&mut decoder, &[0xbe]), Err(Broken));
}

#[test]
fn what_no_request_may_have_is_malformed_each_time_it_is_named() {
    let mut decoder = Decoder::new();
    for block in ["40 0141 0161", "be", "7e 0162", "7f00 0162"] {
        let fields = read(&mut decoder, &hex(block)).unwrap();
        assert!(fields[0].starts_with("Malformed"), "{block}: {fields:?}");
    }
    for (name, value) in [
        (":protocol", "websocket"),
        (":status", "200"),
        ("a b", "c"),
        ("", "c"),
        ("x", "c\r\nd: e"),
        ("x", "\0"),
    ] {
        let strings = [
            &[name.len() as u8],
            name.as_bytes(),
            &[value.len() as u8],
            value.as_bytes(),
        ];
        let block = [&[0x40], &strings.concat()[..]].concat();
        let fields = read(&mut decoder, &block).unwrap();
        assert!(fields[0].starts_with("Malformed"), "{name}: {fields:?}");
    }
}

fn head(encoder: &mut Encoder, status: u16, fields: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.status(StatusCode::from_u16(status).unwrap(), &mut out);
    for (name, value) in fields {
        encoder.field(name, value, &mut out);
    }
    out
}

#[test]
fn what_answers_have_in_common_is_told_once() {
    let mut encoder = Encoder::new();
    let fields = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (
            HeaderName::from_static("x-frame-options"),
            HeaderValue::from_static("DENY"),
        ),
    ]);
    assert!(head(&mut encoder, 200, &fields).len() > 20);
    assert_eq!(head(&mut encoder, 200, &fields).len(), 3);
    // A cookie is told to nobody's table.
    let cookie = HeaderMap::from_iter([(SET_COOKIE, HeaderValue::from_static("a=b"))]);
    for _ in 0..2 {
        assert_eq!(head(&mut encoder, 200, &cookie), hex("88 1f28 03 613d62"));
    }
    // A table that was shut is emptied before anything else is said.
    encoder.resize(0);
    encoder.resize(4096);
    assert_eq!(head(&mut encoder, 200, &fields)[..5], hex("20 3fe11f 88"));
    encoder.resize(0);
    assert_eq!(
        head(&mut encoder, 299, &fields)[..6],
        hex("20 08 03 323939")
    );
    assert!(head(&mut encoder, 200, &fields).len() > 20);
}

#[test]
fn two_fields_that_look_alike_are_both_told_once() {
    let mut encoder = Encoder::new();
    let alike = ["x-aab", "x-bab"].map(|name| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static("same"),
        )
    });
    let fields = HeaderMap::from_iter(alike);
    assert!(head(&mut encoder, 200, &fields).len() > 20);
    for _ in 0..2 {
        assert_eq!(head(&mut encoder, 200, &fields).len(), 3);
    }
}

proptest! {
    #[test]
    fn heads_that_were_written_are_read(
        heads in prop::collection::vec(
            (
                100u16..600,
                prop::collection::vec(("[a-c]{1,3}|set-cookie|content-type|etag|date|x-request-id", "[ -~]{0,9}|[x]{1000}"), 0..8),
                prop::option::of(0u32..5000),
            ),
            1..20,
        )
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (status, fields, room) in heads {
            if let Some(room) = room {
                encoder.resize(room);
            }
            let mut map = HeaderMap::new();
            for (name, value) in &fields {
                let name: HeaderName = name.parse().unwrap();
                map.append(name, HeaderValue::from_str(value.trim()).unwrap());
            }
            let block = head(&mut encoder, status, &map);
            let read = read(&mut decoder, &block).unwrap();
            let written: Vec<_> = map.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
            prop_assert_eq!(&read[1..], written);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            drop(decoder.decode(&block, |_, _| {}));
        }
    }
}
