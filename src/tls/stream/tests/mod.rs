mod crafty;

use std::future::poll_fn;
use std::task::Waker;

use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::ConnectionState;
use rustls::{CipherSuite, ContentType, Error, PeerMisbehaved, SupportedCipherSuite};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) use self::crafty::connected;
use self::crafty::*;
use super::records::HEADER;
use super::*;

fn is_at_rest(stream: &ClientStream) -> bool {
    stream.ahead.is_none() && stream.begun.capacity() == 0 && stream.unsent.capacity() == 0
}

fn error_of(e: &io::Error) -> &Error {
    e.get_ref().and_then(|e| e.downcast_ref()).unwrap()
}

async fn next(stream: &mut ClientStream) -> io::Result<Vec<u8>> {
    let mut data = vec![0; 1 << 10];
    let n = stream.read(&mut data).await?;
    data.truncate(n);
    Ok(data)
}

const DATA: ContentType = ContentType::ApplicationData;
const SUITE: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
const OLD_SUITE: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

#[tokio::test]
async fn data_passes_both_ways_with_every_cipher_and_nothing_is_held_at_the_end() {
    let suites = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
    let suites: Vec<_> = suites
        .iter()
        .map(SupportedCipherSuite::suite)
        .filter(|suite| !format!("{suite:?}").contains("RSA"))
        .collect();
    assert_eq!(suites.len(), 6);
    for suite in suites {
        let (mut server, client) = connected(suite).await;
        let sent: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut hears, mut says) = tokio::io::split(client);
        let says = async {
            for piece in sent.chunks(12_345) {
                says.write_all(piece).await.unwrap();
                says.flush().await.unwrap();
            }
            says.shutdown().await.unwrap();
        };
        let hears = async {
            let mut came = Vec::new();
            hears.read_to_end(&mut came).await.unwrap();
            came
        };
        let echoes = async {
            for size in [1, 700, 4096, 16 << 10, 100 << 10].into_iter().cycle() {
                let mut piece = vec![0; size];
                let n = server.read(&mut piece).await.unwrap();
                if n == 0 {
                    break;
                }
                let (one, two) = piece[..n].split_at(n / 3);
                let pieces = [IoSlice::new(one), IoSlice::new(two)];
                let n = server.write_vectored(&pieces).await.unwrap();
                server
                    .write_all(&piece[n..one.len() + two.len()])
                    .await
                    .unwrap();
            }
            server.shutdown().await.unwrap();
            is_at_rest(&server)
        };
        let ((), came, rests) = tokio::join!(says, hears, echoes);
        assert!(came == sent, "{suite:?}: {} of {}", came.len(), sent.len());
        assert!(rests, "{suite:?}");
    }
}

#[tokio::test]
async fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let (mut server, mut client) = shaken(SUITE, async |client: &mut Crafty| {
        let first = client.record(DATA, b"first");
        let update = client.record(ContentType::Handshake, &KEY_UPDATE_ASKED);
        let secrets = client.schedule.update_tx_secret().unwrap();
        client.sealing = records::sealing(client.suite, secrets).unwrap();
        let second = client.record(DATA, b"second");
        let flight = [first, update, second].concat();
        client.flight.extend_from_slice(&flight[..flight.len() - 3]);
        client.came.clear();
        client.came.extend_from_slice(&flight[flight.len() - 3..]);
    })
    .await;
    let rest = std::mem::take(&mut client.came);
    assert_eq!(next(&mut server).await.unwrap(), b"first");
    client.socket.write_all(&rest).await.unwrap();
    assert_eq!(next(&mut server).await.unwrap(), b"second");
    server.write_all(b"answer").await.unwrap();
    let update = (ContentType::Handshake, KEY_UPDATE.to_vec());
    assert_eq!(client.hear_more().await, Some(update));
    assert_eq!(client.hear().await, Some((DATA, b"answer".to_vec())));
    assert!(is_at_rest(&server));
}

#[tokio::test]
async fn a_record_may_be_cut_anywhere() {
    let (mut server, mut client) = pair(SUITE).await;
    let length = client.record(DATA, b"four").len();
    client.sealing.1 -= 1;
    let secrets = client.schedule.update_tx_secret().unwrap();
    client.sealing = records::sealing(client.suite, secrets).unwrap();
    server.records.opening = records::opening(
        client.suite,
        server.records.schedule.update_rx_secret().unwrap(),
    )
    .unwrap();
    for cut in 1..length {
        let record = client.record(DATA, b"four");
        client.socket.write_all(&record[..cut]).await.unwrap();
        server.socket.readable().await.unwrap();
        let mut data = [0; 16];
        let mut asked = ReadBuf::new(&mut data);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut server).poll_read(cx, &mut asked).is_pending());
        assert_eq!(server.begun.len(), cut);
        assert!(server.ahead.is_none());
        client.socket.write_all(&record[cut..]).await.unwrap();
        assert_eq!(next(&mut server).await.unwrap(), b"four");
        assert!(is_at_rest(&server));
    }
}

#[tokio::test]
async fn each_side_may_have_new_keys_at_any_time() {
    let (mut server, mut client) = pair(SUITE).await;
    for round in 0..40_u8 {
        // One answer is enough for two that ask.
        client.renew(KEY_UPDATE_ASKED).await;
        client.renew(KEY_UPDATE_ASKED).await;
        client.say(DATA, &[round]).await;
        assert_eq!(next(&mut server).await.unwrap(), [round]);
        server.write_all(&[round]).await.unwrap();
        let update = (ContentType::Handshake, KEY_UPDATE.to_vec());
        assert_eq!(client.hear_more().await, Some(update));
        assert_eq!(client.hear().await, Some((DATA, vec![round])));
    }
}

#[tokio::test]
async fn keys_are_renewed_before_they_are_worn() {
    let (mut server, mut client) = pair(SUITE).await;
    server.records.limit = 5;
    let mut heard = Vec::new();
    for n in 0..30_u8 {
        server.write_all(&[n]).await.unwrap();
        assert!(server.records.sealing.1 <= 5);
    }
    server.shutdown().await.unwrap();
    let mut updates = 0;
    while let Some((kind, message)) = client.hear_more().await {
        match kind {
            DATA => heard.extend_from_slice(&message),
            ContentType::Handshake => updates += 1,
            _ => assert_eq!(message, [1, 0]),
        }
    }
    assert!(heard.into_iter().eq(0..30));
    assert!(updates >= 30 / 4 - 1, "{updates}");

    // TLS 1.2 cannot.
    let (mut server, mut client) = pair(OLD_SUITE).await;
    server.records.limit = 5;
    let mut wrote = 0;
    while server.write_all(b"data").await.is_ok() {
        assert_eq!(client.hear().await, Some((DATA, b"data".to_vec())));
        wrote += 1;
    }
    assert!((1..5).contains(&wrote), "{wrote}");
}

/// What a client does that none may, and the alert that it hears.
type Fault = (&'static str, fn(&mut Crafty) -> Vec<u8>, u8);

const FAULTS: &[Fault] = &[
    (
        "a wrong tag",
        |c| {
            let mut record = c.record(DATA, b"data");
            *record.last_mut().unwrap() ^= 1;
            record
        },
        20,
    ),
    ("too short for a tag", |_| vec![23, 3, 3, 0, 1, 0], 20),
    ("nothing inside", |_| vec![23, 3, 3, 0, 0], 20),
    ("no such kind", |_| vec![99, 3, 3, 0, 1, 0], 50),
    ("no such version", |_| vec![23, 2, 3, 0, 1, 0], 50),
    ("a record too large", |_| vec![23, 3, 3, 0x48, 0], 22),
    ("data too large", |c| c.record(DATA, &[0; LARGEST + 1]), 22),
    (
        "a message that is not sealed",
        |_| vec![22, 3, 3, 0, 5, 24, 0, 0, 1, 0],
        10,
    ),
    (
        "a change of ciphers",
        |c| c.record(ContentType::ChangeCipherSpec, &[1]),
        10,
    ),
    (
        "a message for a handshake",
        |c| c.record(ContentType::Handshake, &[1, 0, 0, 0]),
        10,
    ),
    (
        "new keys of a third kind",
        |c| c.record(ContentType::Handshake, &[24, 0, 0, 1, 2]),
        47,
    ),
    (
        "new keys and more",
        |c| c.record(ContentType::Handshake, &[24, 0, 0, 1, 0, 24]),
        10,
    ),
    (
        "an empty message",
        |c| c.record(ContentType::Handshake, &[]),
        10,
    ),
    ("half an alert", |c| c.record(ContentType::Alert, &[1]), 50),
    (
        "only zeros",
        |c| c.record(ContentType::from(0), &[0; 9]),
        10,
    ),
    (
        "warnings without end",
        |c| {
            (0..5)
                .flat_map(|_| c.record(ContentType::Alert, &[1, 90]))
                .collect()
        },
        10,
    ),
];

#[tokio::test]
async fn a_fault_of_the_client_is_told_and_ends_the_connection() {
    for (what, fault, alert) in FAULTS {
        let (mut server, mut client) = pair(SUITE).await;
        // What came before it is still handed on.
        let before = client.record(DATA, b"before");
        let bytes = [before, fault(&mut client)].concat();
        client.socket.write_all(&bytes).await.unwrap();
        assert_eq!(next(&mut server).await.unwrap(), b"before", "{what}");
        for _ in 0..2 {
            let e = next(&mut server).await.expect_err(what);
            assert_eq!(e.kind(), io::ErrorKind::InvalidData, "{what}: {e}");
        }
        let e = server.write_all(b"more").await.expect_err(what);
        assert_eq!(e.kind(), io::ErrorKind::BrokenPipe, "{what}: {e}");
        drop(server);
        let heard = client.hear_more().await;
        assert_eq!(heard, Some((ContentType::Alert, vec![2, *alert])), "{what}");
        assert_eq!(client.hear().await, None, "{what}");
    }
}

#[tokio::test]
async fn new_keys_without_end_are_a_fault() {
    let (mut server, mut client) = pair(SUITE).await;
    for _ in 0..33 {
        client.renew(KEY_UPDATE).await;
    }
    let e = next(&mut server).await.unwrap_err();
    let too_many = Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests);
    assert_eq!(error_of(&e), &too_many);
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_told_at_once_that_there_is_no_other_handshake() {
    let (mut server, mut client) = pair(OLD_SUITE).await;
    let asked = client.record(ContentType::Handshake, &[1, 0, 0, 0]);
    client.socket.write_all(&asked).await.unwrap();
    let (data, ()) = tokio::join!(next(&mut server), async {
        assert_eq!(
            client.hear().await,
            Some((ContentType::Alert, vec![1, 100]))
        );
        client.say(DATA, b"data").await;
    });
    assert_eq!(data.unwrap(), b"data");
    client.say(ContentType::Handshake, &[1, 0, 0, 0]).await;
    let e = next(&mut server).await.unwrap_err();
    let too_many = Error::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiationRequests);
    assert_eq!(error_of(&e), &too_many);
}

#[tokio::test]
async fn a_client_may_end_its_side_and_still_hear() {
    let (mut server, mut client) = pair(SUITE).await;
    client.say(DATA, b"last").await;
    client.say(ContentType::Alert, &[1, 90]).await;
    client.say(ContentType::Alert, &[1, 0]).await;
    client.say(DATA, b"too late").await;
    assert_eq!(next(&mut server).await.unwrap(), b"last");
    for _ in 0..2 {
        assert_eq!(next(&mut server).await.unwrap(), b"");
    }
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(client.hear_more().await, Some((DATA, b"answer".to_vec())));
    assert_eq!(client.hear().await, Some((ContentType::Alert, vec![1, 0])));
    assert_eq!(client.hear().await, None);
}

#[tokio::test]
async fn an_end_that_tls_does_not_know_of_is_an_error() {
    let (mut server, client) = pair(SUITE).await;
    drop(client);
    let e = next(&mut server).await.unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);

    let (mut server, mut client) = pair(SUITE).await;
    client.say(ContentType::Alert, &[2, 80]).await;
    let e = next(&mut server).await.unwrap_err();
    assert!(matches!(error_of(&e), Error::AlertReceived(_)), "{e}");
    // To its last word there is no answer.
    drop(server);
    assert_eq!(client.hear_more().await, None);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_owed_one_write() {
    let (mut server, mut client) = pair(SUITE).await;
    let piece: Vec<u8> = (0..100_000_u32).map(|n| (n % 241) as u8).collect();
    let mut wrote = Vec::new();
    let mut write = |server: &mut ClientStream, cx: &mut Context<'_>| {
        let n = ready!(Pin::new(server).poll_write(cx, &piece)).unwrap();
        wrote.extend_from_slice(&piece[..n]);
        Poll::Ready(())
    };
    let cx = &mut Context::from_waker(Waker::noop());
    while write(&mut server, cx).is_ready() {
        let owed: usize = server.unsent.iter().map(Buf::remaining).sum();
        assert!(owed <= AT_ONCE * (LARGEST + 64), "{owed}");
    }
    let sent = async {
        poll_fn(|cx| write(&mut server, cx)).await;
        server.shutdown().await.unwrap();
    };
    let heard = async {
        let mut heard = Vec::new();
        while let Some((DATA, data)) = client.hear_more().await {
            heard.extend_from_slice(&data);
        }
        heard
    };
    let ((), heard) = tokio::join!(sent, heard);
    assert!(heard == wrote, "{} of {}", heard.len(), wrote.len());
}

#[tokio::test]
async fn records_that_carry_nothing_are_taken_up_to_a_bound() {
    let (mut server, mut client) = pair(SUITE).await;
    for _ in 0..2 {
        for _ in 0..32 {
            client.say(DATA, b"").await;
        }
        client.say(DATA, b"data").await;
        assert_eq!(next(&mut server).await.unwrap(), b"data");
    }
    for _ in 0..33 {
        client.say(DATA, b"").await;
    }
    let e = next(&mut server).await.unwrap_err();
    let too_many = Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments);
    assert_eq!(error_of(&e), &too_many);
}

/// A ClientHello that announces early data, though nothing has allowed any.
fn eager_hello() -> Vec<u8> {
    const EARLY_DATA: [u8; 4] = [0, 42, 0, 0];
    let (_, client) = configurations(SUITE);
    let mut session = UnbufferedClientConnection::new(client, localhost()).unwrap();
    let mut hello = vec![0; 8192];
    let state = session.process_tls_records(&mut []).state;
    let Ok(ConnectionState::EncodeTlsData(mut message)) = state else {
        panic!("no hello");
    };
    let length = message.encode(&mut hello).unwrap();
    hello.truncate(length);
    // Record, message, version, random; then session, ciphers, compressions.
    let mut at = HEADER + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    for lower_half in [3, 7, at] {
        let length = u16::from_be_bytes([hello[lower_half], hello[lower_half + 1]]) + 4;
        hello[lower_half..lower_half + 2].copy_from_slice(&length.to_be_bytes());
    }
    hello.extend_from_slice(&EARLY_DATA);
    hello
}

#[tokio::test]
async fn early_data_is_passed_over_if_it_can_be_any_and_is_little() {
    let sealed = [[23, 3, 3, 0, 40].as_slice(), &[7; 40]].concat();
    for (early, why) in [
        ([23, 3, 3, 0, 0].repeat(4000), io::ErrorKind::InvalidData),
        ([23, 3, 3, 0, 1, 7].repeat(4000), io::ErrorKind::InvalidData),
        (sealed.repeat(1000), io::ErrorKind::InvalidData),
        (sealed.repeat(5), io::ErrorKind::UnexpectedEof),
    ] {
        let (ours, _) = configurations(SUITE);
        let (mut client, server) = sockets().await;
        client.write_all(&eager_hello()).await.unwrap();
        client.write_all(&early).await.unwrap();
        client.shutdown().await.unwrap();
        let e = accept(server, ours).await.err().unwrap();
        assert_eq!(e.kind(), why, "{} {e}", early.len());
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
    let ends = io::ErrorKind::UnexpectedEof;
    for (said, why, answer) in [
        (
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            io::ErrorKind::InvalidData,
            ALERT,
        ),
        (&[22, 3, 1, 0x49, 0, 1], io::ErrorKind::InvalidData, ALERT),
        // A message of 16 MiB, of which rustls says nothing.
        (
            &[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
            io::ErrorKind::InvalidData,
            &[],
        ),
        (&[22, 3, 1, 0x40, 1, 1], ends, &[]),
        (&[22, 3, 1], ends, &[]),
        (&[], ends, &[]),
    ] {
        let (ours, _) = configurations(SUITE);
        let (mut client, server) = sockets().await;
        client.write_all(said).await.unwrap();
        client.shutdown().await.unwrap();
        let e = accept(server, ours).await.err().unwrap();
        let mut heard = Vec::new();
        drop(client.read_to_end(&mut heard).await);
        assert_eq!(e.kind(), why, "{said:?}: {e}");
        assert_eq!(heard, answer, "{said:?}: {e}");
    }
}

#[tokio::test]
async fn whatever_a_client_seals_what_comes_before_a_fault_arrives() {
    let mut chance = fastrand::Rng::with_seed(8);
    for _ in 0..150 {
        let suite = if chance.bool() { SUITE } else { OLD_SUITE };
        let (mut server, mut client) = pair(suite).await;
        let (mut sent, mut certain) = (Vec::new(), None);
        for _ in 0..chance.usize(1..6) {
            let kind = ContentType::from(chance.u8(20..25));
            let payload: Vec<u8> = (0..chance.usize(0..6)).map(|_| chance.u8(0..3)).collect();
            let payload = if chance.bool() {
                &KEY_UPDATE_ASKED[..]
            } else {
                &payload
            };
            let mut record = client.record(kind, payload);
            let broken = chance.u8(0..8) == 0;
            if broken {
                let at = chance.usize(..record.len());
                record[at] ^= chance.u8(1..);
            }
            if broken || kind != DATA {
                certain.get_or_insert(sent.len());
            }
            if kind == DATA {
                sent.extend_from_slice(payload);
            }
            client.socket.write_all(&record).await.unwrap();
        }
        client.socket.shutdown().await.unwrap();
        let mut came = Vec::new();
        while let Ok(1..) = server.read_buf(&mut came).await {}
        assert!(sent.starts_with(&came), "{came:?} of {sent:?}");
        let certain = certain.unwrap_or(sent.len());
        assert!(came.len() >= certain, "{} of {certain}", came.len());
    }
}
