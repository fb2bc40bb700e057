//! What each attack costs: memory at its peak, and the time an honest client waits meanwhile, next
//! to its quiet value in the same run. Not a check but a measurement, of the release build when told so,
//! of one attack when named:
//! `FIGURES=D7 MEASURED_BINARY=$PWD/target/release/cobrowse-gateway cargo test --test it -- --ignored --nocapture figures`
//! Without a binary to measure there is one round of each, which shows that the attacks still run.
//!
//! The gateway has a core for itself. The honest client (curl) and the backend (nginx) share another
//! with the attackers, who leave it to them: they are other machines, and what they cost themselves is
//! not what is measured. So the client goes before all others there, and asks for what the gateway answers
//! itself (the way to the base path): a backend that has a hundred of an attacker's requests to answer makes
//! everybody wait who comes after them, whatever stands in front of it.

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::real_parts::nginx;
use crate::support::h2_raw::{
    END_HEADERS, END_STREAM, H2, block, data, frame, get, headers, kind, request, reset,
};
use crate::support::{Client, Gateway, Proto, Raw, h2_raw};

const PAGE: &[u8] = b"/cobrowsing/x";
const REQUESTS: u32 = 800;
/// As long as the honest client asks.
const SIEGE: Duration = Duration::from_secs(2);

/// Memory of a process, KiB.
fn memory(gateway: &Gateway, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

/// This thread, and what it starts, on one core of the machine.
fn stay_on(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    // Where there is one core, all share it.
    rustix::thread::sched_setaffinity(None, &cores).ok();
}

/// This thread runs when nobody else wants the core.
fn yield_to_all() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let idle = Command::new("chrt")
        .args(["--idle", "--pid", "0", &thread])
        .status();
    assert!(idle.unwrap().success());
}

/// The waits of an honest client that asks for `requests` on one connection, one every 2.5 ms.
fn waits(gateway: &Gateway, requests: u32) -> impl FnOnce() -> Vec<Duration> + use<> {
    let url = format!(
        "https://localhost:{}/cobrowsing?[1-{requests}]",
        gateway.listen.port()
    );
    move || {
        let told = Command::new("chrt")
            .args(["--fifo", "1", "curl"])
            .args(["--silent", "--insecure", "--http1.1", "--rate", "400/s"])
            .args(["--write-out", "%{stderr}%{http_code} %{time_total}\n", &url])
            .output()
            .unwrap();
        let lines = String::from_utf8(told.stderr).unwrap();
        let wait = |line: &str| {
            let seconds = line.strip_prefix("308 ").expect(line).parse();
            Duration::from_secs_f64(seconds.unwrap())
        };
        // The first one is the handshake's.
        lines.lines().skip(1).map(wait).collect()
    }
}

fn at(waits: &[Duration], quantile: f64) -> Duration {
    waits[((waits.len() - 1) as f64 * quantile) as usize]
}

async fn measure(what: &str, attack: impl AsyncFn(&Gateway, Instant) + Sync) {
    if std::env::var("FIGURES").is_ok_and(|named| !what.starts_with(&named)) {
        return;
    }
    stay_on(1);
    let (_nginx, folder, port) =
        // Large answers in small turns, too: the backend's fairness is not what is measured.
        nginx("sendfile on; sendfile_max_chunk 16k; location = /honest { return 200 ok; } location = /x { error_page 405 =200 /x; }")
            .await;
    folder.write("www/x", vec![b'x'; 1 << 20]);
    stay_on(0);
    let gateway = Gateway::on(port)
        .toml("limits.connections_per_client = 'off'\nlog.access = false")
        .start()
        .await;
    stay_on(1);
    let (mut quiet, mut meanwhile, mut cost) = (Vec::new(), Vec::new(), 0);
    // By turns, so that what else the machine does is in both.
    let rounds = if std::env::var_os("MEASURED_BINARY").is_some() {
        4
    } else {
        1
    };
    for _ in 0..rounds {
        quiet.extend(waits(&gateway, REQUESTS)());

        std::fs::write(format!("/proc/{}/clear_refs", gateway.pid()), "5").unwrap();
        let before = memory(&gateway, "VmRSS");
        let honest = std::thread::spawn(waits(&gateway, REQUESTS));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                yield_to_all();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let siege = attack(&gateway, Instant::now() + SIEGE);
                runtime.unwrap().block_on(siege);
            });
        });
        meanwhile.extend(honest.join().unwrap());
        cost = cost.max(memory(&gateway, "VmHWM").saturating_sub(before));
    }
    quiet.sort();
    meanwhile.sort();
    eprintln!(
        "{what:24} | {cost:7} | {:5} | {:5.0?} | {:5.0?} | {:6.2?} | {:6.2?} | {:.1}",
        meanwhile.len(),
        at(&quiet, 0.5),
        at(&meanwhile, 0.5),
        at(&quiet, 0.99),
        at(&meanwhile, 0.99),
        at(&meanwhile, 0.99).as_secs_f64() / at(&quiet, 0.99).as_secs_f64(),
    );
}

/// One HTTP/2 connection after another, each told to go on until it is closed.
async fn connections(gateway: &Gateway, end: Instant, round: impl AsyncFn(&mut H2) -> bool) {
    while Instant::now() < end {
        let mut h2 = H2::connect(gateway).await;
        h2.polite = false;
        while Instant::now() < end && round(&mut h2).await {}
    }
}

#[tokio::test]
#[ignore = "a measurement, not a check; needs nginx and curl"]
async fn figures() {
    eprintln!(
        "attack | KiB at peak | honest calls | p50 quiet | p50 meanwhile | p99 quiet | p99 meanwhile | ratio"
    );
    let page = &block(&get(PAGE, &[]));
    let post = &block(&request(b"POST", PAGE, &[]));
    measure("nothing", async |_, end| {
        tokio::time::sleep_until(end.into()).await;
    })
    .await;
    measure("D1 rapid reset", async |gateway, end| {
        connections(gateway, end, async |h2| {
            let bytes: Vec<u8> = (0..100)
                .flat_map(|_| {
                    let stream = h2.stream();
                    [headers(stream, true, page), reset(stream, 8)].concat()
                })
                .collect();
            h2.say(&bytes).await
        })
        .await;
    })
    .await;
    measure("D2 made to reset", async |gateway, end| {
        let short = &block(&request(b"POST", PAGE, &[(b"content-length", b"1")]));
        connections(gateway, end, async |h2| {
            let bytes: Vec<u8> = (0..100)
                .flat_map(|_| {
                    let stream = h2.stream();
                    [headers(stream, false, short), data(stream, false, b"xyz")].concat()
                })
                .collect();
            h2.say(&bytes).await
        })
        .await;
    })
    .await;
    measure("D3 CONTINUATION", async |gateway, end| {
        connections(gateway, end, async |h2| {
            let stream = h2.stream();
            let mut bytes = frame(kind::HEADERS, END_STREAM, stream, page);
            for _ in 0..100 {
                bytes.extend(frame(kind::CONTINUATION, 0, stream, b"\x00\x01x\x01y"));
            }
            h2.say(&bytes).await
        })
        .await;
    })
    .await;
    measure("D4 HPACK bomb", async |gateway, end| {
        connections(gateway, end, async |h2| {
            let stream = h2.stream();
            let entry = [&b"\x40\x01a\x7f\x81\x1f"[..], &[b'x'; 286]].concat();
            let bomb = [page, &entry, &[0xbe; 8000][..]].concat();
            h2.say(&frame(
                kind::HEADERS,
                END_STREAM | END_HEADERS,
                stream,
                &bomb,
            ))
            .await
        })
        .await;
    })
    .await;
    measure("D5 70,000 names", async |gateway, end| {
        let names: Vec<String> = (0..70_000).map(|n| format!("{n:x}")).collect();
        let fields: Vec<_> = names.iter().map(|n| (n.as_bytes(), &b""[..])).collect();
        let names = block(&get(PAGE, &fields));
        connections(gateway, end, async |h2| {
            let stream = h2.stream();
            let mut bytes = Vec::new();
            for (n, piece) in names.chunks(16 << 10).enumerate() {
                let kind = if n == 0 {
                    kind::HEADERS
                } else {
                    kind::CONTINUATION
                };
                bytes.extend(frame(kind, END_STREAM, stream, piece));
            }
            h2.say(&bytes).await
        })
        .await;
    })
    .await;
    for (what, one) in [
        ("D6 SETTINGS", h2_raw::settings(&[(4, 70_000)])),
        ("D6 PING", h2_raw::ping(7)),
        ("D6 PRIORITY", frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10")),
        ("D6 WINDOW_UPDATE", h2_raw::window_update(0, 1)),
        ("D6 a byte of DATA", data(1, false, b"x")),
    ] {
        let many = &one.repeat(1000);
        measure(what, async |gateway, end| {
            connections(gateway, end, async |h2| {
                if h2.stream() == 1 {
                    h2.say(&headers(1, false, post)).await;
                }
                h2.say(many).await
            })
            .await;
        })
        .await;
    }
    measure("D6 empty DATA", async |gateway, end| {
        connections(gateway, end, async |h2| {
            let stream = h2.stream();
            let mut bytes = headers(stream, false, post);
            for _ in 0..500 {
                bytes.extend(data(stream, false, b""));
            }
            h2.say(&bytes).await
        })
        .await;
    })
    .await;
    measure("D6 PING, 900 a second", async |gateway, end| {
        connections(gateway, end, async |h2| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            h2.say(&frame(kind::PING, 0, 0, b"pingpong").repeat(90))
                .await
        })
        .await;
    })
    .await;
    measure("D7 10 × 100 unread MiB", async |gateway, end| {
        let mut held = Vec::new();
        for _ in 0..10 {
            let mut h2 = H2::with(gateway, &[(4, (1 << 31) - 1)]).await;
            h2.polite = false;
            h2.force(&h2_raw::window_update(0, (1 << 31) - 65_536))
                .await;
            for _ in 0..100 {
                let stream = h2.stream();
                h2.force(&headers(stream, true, page)).await;
            }
            held.push(h2);
        }
        tokio::time::sleep_until(end.into()).await;
    })
    .await;
    for (what, window) in [
        ("D7 100 × 100 windows shut", 0),
        ("D7 100 × 100 of a byte", 1),
    ] {
        measure(what, async |gateway, end| {
            let mut held = Vec::new();
            for _ in 0..100 {
                let mut h2 = H2::with(gateway, &[(4, window)]).await;
                h2.polite = false;
                for _ in 0..100 {
                    let stream = h2.stream();
                    h2.force(&headers(stream, true, page)).await;
                }
                held.push(h2);
            }
            tokio::time::sleep_until(end.into()).await;
        })
        .await;
    }
    measure("D9 storms", async |gateway, end| {
        connections(gateway, end, async |h2| {
            let streams: Vec<u32> = (0..50).map(|_| h2.stream()).collect();
            for stream in &streams {
                h2.force(&headers(*stream, stream % 3 == 0, post)).await;
            }
            let round = streams[0] / 100;
            for stream in &streams {
                let bytes = if (stream / 2) % 5 == round % 5 {
                    reset(*stream, 8)
                } else {
                    data(*stream, true, b"body")
                };
                h2.force(&bytes).await;
            }
            h2.has_been_heard().await
        })
        .await;
    })
    .await;
    measure("10,000 without a hello", async |gateway, end| {
        let mut held = Vec::new();
        for _ in 0..10_000 {
            held.push(TcpStream::connect(gateway.listen).await.unwrap());
        }
        tokio::time::sleep_until(end.into()).await;
    })
    .await;
    measure("hellos in records of a byte", async |gateway, end| {
        while Instant::now() < end {
            let mut plain = TcpStream::connect(gateway.listen).await.unwrap();
            let mut records = vec![22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 1, 0, 22, 3, 1, 0, 1, 255];
            records.extend([22, 3, 1, 0, 1, 0].repeat(10_000));
            drop(plain.write_all(&records).await);
            drop(plain.read(&mut [0; 64]).await);
        }
    })
    .await;
    measure("heads of 33 KiB", async |gateway, end| {
        let large = format!(
            "GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
            "x".repeat(33 << 10)
        );
        while Instant::now() < end {
            let mut raw = Raw::connect(gateway).await;
            drop(raw.stream.write_all(large.as_bytes()).await);
            raw.rest().await;
        }
    })
    .await;
    measure("1,000 pipelined", async |gateway, end| {
        let one = "GET /cobrowsing/honest HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut raw = Raw::connect(gateway).await;
        while Instant::now() < end {
            raw.say(one.repeat(1000)).await;
            for _ in 0..1000 {
                raw.answer().await;
            }
        }
    })
    .await;
    measure("500 slow readers of 1 MiB", async |gateway, end| {
        let mut held = Vec::new();
        for _ in 0..500 {
            let mut raw = Raw::connect(gateway).await;
            let socket = socket2::SockRef::from(raw.stream.get_ref().0);
            socket.set_recv_buffer_size(4 << 10).unwrap();
            raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .await;
            held.push(raw);
        }
        tokio::time::sleep_until(end.into()).await;
    })
    .await;
    measure("500 half heads", async |gateway, end| {
        let mut held = Vec::new();
        for _ in 0..500 {
            let mut raw = Raw::connect(gateway).await;
            raw.say("GET /cobrowsing/x HTTP/1.1\r\nhost: loc").await;
            held.push(raw);
        }
        tokio::time::sleep_until(end.into()).await;
    })
    .await;
    measure("500 half bodies", async |gateway, end| {
        let mut held = Vec::new();
        for _ in 0..500 {
            let mut raw = Raw::connect(gateway).await;
            raw.say("POST /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nh")
                .await;
            held.push(raw);
        }
        tokio::time::sleep_until(end.into()).await;
    })
    .await;
    measure("wrong keys", async |gateway, end| {
        let mut client = Client::connect(gateway, Proto::H1).await;
        while Instant::now() < end {
            let wrong = [("authorization", "wrong")];
            client.call("GET", "/cobrowsing/api/x", &wrong, "").await;
        }
    })
    .await;
}
