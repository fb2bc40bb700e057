//! What clients and backends do on purpose. Tables of attacks, each sent in every way there is, and
//! the proof that what is honest and looks like them still passes.
//!
//! The numbers are those of the record of other gateways' security bugs that the tests are named
//! after in their messages. What a case is, and where it is tried:
//!
//! | Case | What | Where |
//! |---|---|---|
//! | P1 to P8, P11 | dots, escapes, slashes, letter case, parameters in a path | `paths::the_path_that_is_judged_is_the_path_that_is_forwarded` |
//! | P9 | a raw fragment | `paths::a_fragment_is_refused_over_http_1`, `paths::a_fragment_over_http_2_is_cut…` |
//! | P10 | controls and overlong UTF-8 | `paths::the_path_that_is_judged…`, `paths::targets_that_are_no_paths_are_refused` |
//! | P12 | an absolute target and another host | `paths::a_target_and_a_host_that_name_two_servers_reach_neither` |
//! | P13 | CONNECT, TRACE, `*`, no slash | `paths::targets_that_are_no_paths_are_refused` |
//! | P14 | beside the base path, and without its slash | `paths::the_path_that_is_judged…`, `paths::the_base_path_itself_is_sent_to_the_one_with_a_slash` |
//! | P15 | spellings of the host | `paths::only_our_own_hosts_are_answered_however_they_are_spelled`, `paths::a_target_and_a_host…` |
//! | P16 | headers that name a path or a method | `paths::headers_that_name_another_path_or_method_decide_nothing_and_go_no_further` |
//! | A1 | no key configured | `keys::a_closed_api_is_closed_for_every_key_and_its_pages_are_open` |
//! | A2 | empty and unreadable key files | `configuration::the_key_comes_from_a_file_and_an_empty_or_unreadable_one_closes_the_api`, `crate::keys::an_empty_or_unreadable_keys_file…` |
//! | A3, A6 | values that are nearly the key | `keys::only_the_exact_value_is_the_key_and_space_around_it_is_none_of_it` |
//! | A4 | two lines | `keys::two_lines_of_authorization_are_refused_however_their_names_are_spelled` |
//! | A5 | aliases, trailers, folded lines | `keys::what_only_looks_like_a_credential_is_none`, `keys::a_key_that_comes_after_the_head_comes_too_late` |
//! | A7, A8 | probes, preflights, odd methods | `keys::no_path_and_no_method_of_the_api_is_exempt`, `keys::what_only_looks_like_a_credential_is_none` |
//! | A9 | the time a comparison takes | `stages::auth::tests::how_much_of_a_key_is_right_takes_no_time` |
//! | A10 | a flood of wrong keys | `failed_auth` |
//! | A11 | a key changed while connections are open | `rotation` |
//! | A12 | streams of one connection | `keys::streams_of_one_connection_are_judged_each_by_itself` |
//! | A13 | `Connection: authorization` | `keys::the_key_cannot_be_named_away_by_connection` |
//! | A14 | an upgrade to the API | `keys::an_upgrade_to_the_api_without_the_key_is_no_way_in` |
//! | S1 | a length and chunks | `framing::a_body_with_a_length_and_chunks_is_refused` |
//! | S2, S3 | other codings, other lengths | `framing::a_body_that_could_end_in_two_places_is_refused_and_ends_the_connection`, `framing::an_unusual_but_sound_length…` |
//! | S4 | HTTP/1.0 | `framing::an_old_version_has_no_chunks_and_its_connection_no_second_meaning` |
//! | S5 | chunks | `framing::a_malformed_chunk_ends_the_request_before_it_is_whole`, `framing::extensions_of_chunks…`, `framing::a_chunk_whose_lines…` |
//! | S6 | what stands behind a handshake | `framing::without_a_101_what_follows_a_handshake_is_the_next_request_and_no_tunnel` |
//! | S7, S8 | other protocols, half handshakes | `framing::no_other_protocol_is_spoken_on_and_no_half_handshake_is_passed` |
//! | S9 | a 101 that is none | `answers::a_101_that_is_no_answer_to_the_handshake_opens_nothing` |
//! | S10 | bodies that nobody reads | `framing::the_unread_body_of_an_answered_request_is_never_the_next_request` |
//! | S11 | `Expect` | `framing::who_expects_100_continue_is_never_read_out_of_step` |
//! | S12 | malformed heads | `framing::a_head_that_is_malformed_is_refused_and_ends_the_connection`, `framing::a_line_that_ends_with_a_bare_lf_is_refused` |
//! | S13 | trailers | `framing::trailers_change_nothing_and_go_no_further`, `floods::trailers_change_nothing_over_http_2_either` |
//! | S14 | answers | the other tests of `answers` |
//! | S15 | early data | `framing::nothing_is_carried_before_both_sides_agreed`, `resources::early_data_is_not_offered`, `floods::extended_connect…` |
//! | H1 | `Connection` that names ours | `headers::what_the_gateway_writes_cannot_be_named_away` |
//! | H2 | aliases | `headers::no_alias_of_a_managed_header_goes_further` |
//! | H3 | the way a request came | `headers::what_an_untrusted_client_says_of_its_way_is_rebuilt`, `headers::a_trusted_proxys_list…` |
//! | H4 | PROXY | `proxy_protocol`, `headers::a_proxy_header_that_is_not_expected_gets_no_http` |
//! | H5 | hosts beside an authority | `headers::host_lines_beside_an_authority_must_agree_with_it_and_be_one` |
//! | H6, H7 | what ends with the connection | `headers::what_ends_with_the_connection_goes_no_further` |
//! | D1 | rapid reset | `http2::streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection`, `http2::streams_that_are_reset_once…`, `floods::who_gives_up_hundreds_of_requests…` |
//! | D2 | made to reset | `http2::who_makes_us_reset_its_streams_is_sent_away`, `floods::connections_that_the_framing_ends_are_counted` |
//! | D3 | CONTINUATION | `http2::a_head_that_never_ends_ends_the_connection`, `floods::half_a_head_is_late…` |
//! | D4 | HPACK bombs | `http2::a_small_block_that_unfolds…`, `http2::large_heads_on_every_stream…`, `http2::the_fields_of_a_head_are_counted…` |
//! | D5 | names without number | `http2::more_different_names_than_a_map_can_hold_are_no_panic` |
//! | D6 | floods, and the honest upload | `floods::who_floods_with_frames…`, `floods::as_many_frames_as_honest_clients_send…`, `floods::an_upload_that_nobody_reads…`, `http2::floods_of_small_frames…`, `http2::a_slow_upload_in_small_frames_is_honest` |
//! | D7 | clients that never read | `http2::who_takes_no_answers_costs_no_more_than_what_is_on_the_way`, `http2::who_takes_nothing_for_too_long_is_given_up` |
//! | D8 | heads that HTTP/1.1 would read otherwise | `http2::a_head_that_would_be_another_over_http_1_is_never_written` |
//! | D9 | storms | `http2::storms_of_resets_deadlines_and_late_answers_leave_no_request_behind` |
//! | 3.6 | deadlines and limits | `resources`, `limits`, `deadlines`; over HTTP/2: `floods`; pipelining: `framing::a_thousand_requests_at_once…` |
//! | 3.7 | logs and refusals | `logs`, `operators::each_request_is_one_line_and_no_secret_is_in_any` |
//! | 3.8 | ways around a limit | `evasion`, `limits`, `failed_auth`, and the memory of buckets: `rate_limit::clients::tests` |

mod answers;
mod evasion;
mod figures;
mod floods;
mod framing;
mod headers;
mod http2;
mod keys;
mod logs;
mod paths;
mod resources;

use super::support::h2_raw::{Answer, Field, H2, request};
use super::support::{Backend, Gateway, KEY, Raw, Reply};

/// What makes a request over HTTP/1.1 a WebSocket handshake.
const HANDSHAKE: &[u8] = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    H1,
    H2,
    /// As WebSocket handshake.
    Upgrade,
}

impl Way {
    const ALL: [Self; 3] = [Self::H1, Self::H2, Self::Upgrade];
}

/// A request, any byte of it.
#[derive(Clone, Copy, Debug)]
struct Sent<'s> {
    method: &'s [u8],
    target: &'s [u8],
    /// `Host`, or `:authority`.
    host: &'s [u8],
    fields: &'s [Field<'s>],
}

/// A GET to our host.
fn get<'s>(target: &'s [u8], fields: &'s [Field<'s>]) -> Sent<'s> {
    Sent {
        method: b"GET",
        target,
        host: b"localhost",
        fields,
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// None: the stream was reset, or the connection closed without an answer.
    status: Option<u16>,
    body: String,
    location: Option<String>,
}

impl Outcome {
    /// Whether it is a refusal with this status; where there is a body, with this code.
    fn refuses(&self, status: u16, code: &str) -> bool {
        let named = self.body.is_empty() || self.body.contains(code);
        self.status == Some(status) && named
    }

    fn nothing() -> Self {
        Self {
            status: None,
            body: String::new(),
            location: None,
        }
    }
}

/// A head over HTTP/1.1.
fn head(sent: &Sent, more: &[u8]) -> Vec<u8> {
    let mut head = [
        sent.method,
        b" ",
        sent.target,
        b" HTTP/1.1\r\nhost: ",
        sent.host,
        b"\r\n",
        more,
    ]
    .concat();
    for (name, value) in sent.fields {
        head.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}

/// Sends a request on a connection of its own.
async fn send(gateway: &Gateway, way: Way, sent: &Sent<'_>) -> Outcome {
    let upgrade = match way {
        Way::H1 => &b""[..],
        Way::Upgrade => HANDSHAKE,
        Way::H2 => {
            let mut fields = request(sent.method, sent.target, sent.fields);
            fields[2].1 = sent.host;
            if sent.method == b"CONNECT" {
                fields.retain(|(name, _)| *name != b":scheme" && *name != b":path");
            }
            let answer = H2::connect(gateway).await.call(&fields).await;
            let Answer::Status(status, body) = answer else {
                return Outcome::nothing();
            };
            return Outcome {
                status: Some(status),
                body: String::from_utf8_lossy(&body).into_owned(),
                location: None,
            };
        }
    };
    let mut raw = Raw::connect(gateway).await;
    raw.say(head(sent, upgrade)).await;
    match first_of(&mut raw).await {
        None => Outcome::nothing(),
        Some(reply) => Outcome {
            status: Some(reply.status.as_u16()),
            location: reply.header("location").map(str::to_owned),
            body: reply.text(),
        },
    }
}

/// The next answer; `None`: the connection was closed instead.
async fn first_of(raw: &mut Raw) -> Option<Reply> {
    while raw.buffer.is_empty() {
        if !raw.fill().await {
            return None;
        }
    }
    Some(raw.answer().await)
}

/// Counts what a backend gets.
struct Watch<'b> {
    backend: &'b Backend,
    requests: usize,
    bytes: usize,
}

impl<'b> Watch<'b> {
    fn new(backend: &'b Backend) -> Self {
        Self {
            backend,
            requests: backend.requests().len(),
            bytes: backend.bytes().len(),
        }
    }

    /// Not a byte more came.
    fn nothing_came(&mut self) -> Held {
        let came = self.backend.bytes();
        let new = came[self.bytes..].escape_ascii().to_string();
        *self = Self::new(self.backend);
        if new.is_empty() {
            return Ok(());
        }
        Err(format!("came upstream: {new}"))
    }

    /// Not a request more came whole.
    fn no_request_came(&mut self) -> Held {
        let new = self.backend.requests().split_off(self.requests);
        *self = Self::new(self.backend);
        so(new.is_empty(), || format!("came upstream: {new:?}"))
    }

    /// One request more came, with this target.
    fn one_came_as(&mut self, target: &str) -> Held {
        let requests = self.backend.requests();
        let new: Vec<_> = requests[self.requests..]
            .iter()
            .map(|r| &*r.target)
            .collect();
        let held = so(new == [target], || format!("{new:?} came upstream"));
        *self = Self::new(self.backend);
        held
    }
}

/// Whether a case is held, or what was seen instead.
type Held = Result<(), String>;

fn so(is_so: bool, what: impl FnOnce() -> String) -> Held {
    if is_so { Ok(()) } else { Err(what()) }
}

/// Cases that were not held: all of them are told at the end.
#[derive(Default)]
struct Broken(Vec<String>);

impl Broken {
    fn note(&mut self, case: impl FnOnce() -> String, held: Held) {
        if let Err(seen) = held {
            self.0.push(format!("{}: {seen}", case()));
        }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{:#?}", self.0);
        }
    }
}

/// A name for a case.
fn show(number: &str, way: Way, sent: &Sent) -> String {
    let text = format!(
        "{number} {way:?} {} {} {}",
        sent.method.escape_ascii(),
        sent.target.escape_ascii(),
        sent.host.escape_ascii(),
    );
    text.chars().take(120).collect()
}

/// The key as a header.
const WITH_KEY: Field = (b"authorization", KEY.as_bytes());
