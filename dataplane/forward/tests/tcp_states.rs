//! The life of TCP connections through whole turns of a worker: RFC 5382, RFC 7857 and RFC 6146 section 3.5.2, row by row.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::talk::Side::{Backend, Client};
use harness::talk::{IGNORED, OPENED, PASSED, Row, Talk, counts, ignored, segment};
use harness::{VIP, ends};
use turnpike_forward::track::State;
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Protocol, Tracking};

/// First sequence numbers of client and backend.
const C: u32 = 0xffff_fff0;
const B: u32 = 70_000;

fn web() -> Port {
    Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"]).on(VIP, LoadBalancer)
}

fn talk() -> Talk {
    Talk::with(&web())
}

fn handshake() -> [Row<'static>; 3] {
    [
        (Client, segment(SYN, C, 0), b"", State::Opening, true, OPENED),
        counts(Backend, segment(SYN | ACK, B, C.wrapping_add(1)), State::Answered),
        counts(Client, c(ACK, 1, 1), State::Established),
    ]
}

/// From the client, with numbers counted from the first ones.
fn c(flags: u8, sequence: u32, acknowledgement: u32) -> Segment {
    segment(flags, C.wrapping_add(sequence), B.wrapping_add(acknowledgement))
}

/// From the backend.
fn b(flags: u8, sequence: u32, acknowledgement: u32) -> Segment {
    segment(flags, B.wrapping_add(sequence), C.wrapping_add(acknowledgement))
}

fn established() -> Talk {
    let mut talk = talk();
    talk.walk(&handshake());
    talk
}

fn closed() -> Talk {
    let mut talk = established();
    talk.walk(&[
        counts(Client, c(FIN | ACK, 1, 1), State::ClientClosed),
        counts(Backend, b(FIN | ACK, 1, 2), State::Closed),
        counts(Client, c(ACK, 2, 2), State::Closed),
    ]);
    talk
}

#[test]
fn rfc5382_req2_a_connection_opens_talks_and_closes_from_either_side() {
    let (request, answer) = (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204\r\n\r\n");
    let (asked, told) = (1 + request.len() as u32, 1 + answer.len() as u32);
    let mut talk = established();
    talk.walk(&[
        (Client, c(ACK | PSH, 1, 1), request, State::Established, true, PASSED),
        (Backend, b(ACK | PSH, 1, asked), answer, State::Established, true, PASSED),
        counts(Client, c(ACK, asked, told), State::Established),
        counts(Client, c(FIN | ACK, asked, told), State::ClientClosed),
        counts(Backend, b(ACK, told, asked + 1), State::ClientClosed),
        counts(Backend, b(FIN | ACK, told, asked + 1), State::Closed),
        counts(Client, c(ACK, asked + 1, told + 1), State::Closed),
    ]);
    let mut talk = established();
    talk.walk(&[
        counts(Backend, b(FIN | ACK, 1, 1), State::BackendClosed),
        counts(Client, c(ACK, 1, 2), State::BackendClosed),
        counts(Client, c(FIN | ACK, 1, 2), State::Closed),
        counts(Backend, b(ACK, 2, 2), State::Closed),
    ]);
    // Both at once (RFC 9293 figure 13).
    established().walk(&[
        counts(Client, c(FIN | ACK, 1, 1), State::ClientClosed),
        counts(Backend, b(FIN | ACK, 1, 1), State::Closed),
        counts(Client, c(ACK, 2, 2), State::Closed),
        counts(Backend, b(ACK, 2, 2), State::Closed),
    ]);
}

#[test]
fn rfc5382_req2_both_may_open_at_once() {
    let mut talk = talk();
    talk.walk(&[
        (Client, segment(SYN, C, 0), b"", State::Opening, true, OPENED),
        counts(Backend, segment(SYN, B, 0), State::Answered),
        counts(Client, c(SYN | ACK, 0, 1), State::Established),
        ignored(Backend, b(SYN | ACK, 0, 1), State::Established),
        (Backend, b(ACK, 1, 1), b"hello", State::Established, true, PASSED),
        (Client, c(ACK, 1, 6), b"hello", State::Established, true, PASSED),
    ]);
    // The same with the backend's second segment in front.
    let mut talk = self::talk();
    talk.walk(&[
        (Client, segment(SYN, C, 0), b"", State::Opening, true, OPENED),
        counts(Backend, segment(SYN, B, 0), State::Answered),
        counts(Backend, b(SYN | ACK, 0, 1), State::Answered),
        counts(Client, c(SYN | ACK, 0, 1), State::Established),
        counts(Client, c(ACK, 1, 1), State::Established),
    ]);
}

#[test]
fn rfc5382_req2_a_backend_may_close_before_the_handshake_is_over() {
    let mut talk = talk();
    talk.walk(&[
        (Client, segment(SYN, C, 0), b"", State::Opening, true, OPENED),
        counts(Backend, b(SYN | ACK, 0, 1), State::Answered),
        counts(Backend, b(FIN | ACK, 1, 1), State::Answered),
        counts(Client, c(ACK, 1, 2), State::BackendClosed),
        counts(Client, c(FIN | ACK, 1, 2), State::Closed),
    ]);
}

#[test]
fn rfc5382_req2_a_half_closed_connection_goes_on_in_the_other_direction() {
    let mut talk = established();
    talk.walk(&[counts(Client, c(FIN | ACK, 1, 1), State::ClientClosed)]);
    for n in 0..50 {
        talk.wait_s(300);
        talk.walk(&[
            (Backend, b(ACK, 1 + 1_000 * n, 2), &[7; 1_000], State::ClientClosed, true, PASSED),
            counts(Client, c(ACK, 2, 1_001 + 1_000 * n), State::ClientClosed),
        ]);
    }
    talk.walk(&[counts(Backend, b(FIN | ACK, 50_001, 2), State::Closed)]);

    let mut talk = established();
    talk.walk(&[counts(Backend, b(FIN | ACK, 1, 1), State::BackendClosed)]);
    talk.wait_s(7_000);
    talk.walk(&[(Client, c(ACK, 1, 2), &[7; 1_000], State::BackendClosed, true, PASSED)]);
}

#[test]
fn rfc5382_req2_a_closed_connection_is_opened_anew_in_time_wait() {
    for first in [closed(), {
        let mut talk = established();
        talk.walk(&[counts(Backend, b(RST, 1, 1), State::Reset)]);
        talk
    }] {
        let mut talk = first;
        let reopened: &[(&str, i64)] = &[
            ("flows_closed", 1),
            ("flows_opened", 1),
            ("forwarded", 1),
            ("rx_packets", 1),
            ("tx_packets", 1),
        ];
        let (d, e) = (C.wrapping_add(90_000), B + 90_000);
        talk.walk(&[
            (Client, segment(SYN, d, 0), b"", State::Opening, true, reopened),
            counts(Backend, segment(SYN | ACK, e, d.wrapping_add(1)), State::Answered),
            counts(Client, segment(ACK, d.wrapping_add(1), e + 1), State::Established),
        ]);
        assert_eq!(talk.live(), 1);
    }
}

#[test]
fn rfc5382_req2_segments_sent_again_change_nothing() {
    let mut talk = talk();
    talk.walk(&[
        (Client, segment(SYN, C, 0), b"", State::Opening, true, OPENED),
        counts(Client, segment(SYN, C, 0), State::Opening),
        counts(Backend, b(SYN | ACK, 0, 1), State::Answered),
        counts(Client, segment(SYN, C, 0), State::Answered),
        counts(Backend, b(SYN | ACK, 0, 1), State::Answered),
        counts(Client, c(ACK, 1, 1), State::Established),
        ignored(Backend, b(SYN | ACK, 0, 1), State::Established),
        counts(Client, c(ACK, 1, 1), State::Established),
        (Client, c(ACK, 1, 1), b"once", State::Established, true, PASSED),
        (Client, c(ACK, 1, 1), b"once", State::Established, true, PASSED),
        counts(Backend, b(ACK, 1, 5), State::Established),
        (Client, c(ACK, 1, 1), b"once", State::Established, true, PASSED),
        counts(Client, c(FIN | ACK, 5, 1), State::ClientClosed),
        counts(Client, c(FIN | ACK, 5, 1), State::ClientClosed),
        counts(Backend, b(FIN | ACK, 1, 6), State::Closed),
        counts(Backend, b(FIN | ACK, 1, 6), State::Closed),
        counts(Client, c(ACK, 6, 2), State::Closed),
    ]);
}

#[test]
fn rfc5382_req2_a_syn_may_carry_data() {
    let mut talk = talk();
    talk.walk(&[
        (Client, segment(SYN, C, 0), b"early", State::Opening, true, OPENED),
        counts(Backend, b(SYN | ACK, 0, 6), State::Answered),
        (Backend, b(ACK, 1, 6), b"at once", State::Answered, true, PASSED),
        counts(Client, c(ACK, 6, 8), State::Established),
    ]);
    let mut talk = self::talk();
    talk.walk(&[
        (Client, segment(SYN, C, 0), b"early", State::Opening, true, OPENED),
        counts(Backend, b(RST | ACK, 0, 6), State::Closed),
    ]);
}

#[test]
fn rfc5382_req5_an_established_connection_may_be_idle_for_two_hours_and_four_minutes() {
    let mut talk = established();
    for _ in 0..2 {
        talk.wait_s(7_440);
        assert_eq!(talk.live(), 1);
        talk.walk(&[(Client, c(ACK, 1, 1), b"still here", State::Established, true, PASSED)]);
        talk.wait_s(7_440);
        talk.walk(&[counts(Backend, b(ACK, 1, 11), State::Established)]);
    }
    talk.wait_s(7_440 + 16);
    assert_eq!(talk.live(), 0);
}

#[test]
fn rfc5382_req5_keep_alives_keep_it() {
    let mut talk = established();
    for _ in 0..4 {
        // RFC 9293 section 3.8.4: a keep-alive has a number that was acknowledged.
        talk.wait_s(7_200);
        talk.walk(&[
            counts(Client, c(ACK, 0, 1), State::Established),
            counts(Backend, b(ACK, 1, 1), State::Established),
        ]);
    }
}

#[test]
fn rfc5382_req5_what_opens_or_closes_may_be_idle_for_four_minutes() {
    let syn: Row<'_> = (Client, segment(SYN, C, 0), b"", State::Opening, true, OPENED);
    let answer = counts(Backend, b(SYN | ACK, 0, 1), State::Answered);
    let fins = [
        counts(Client, c(FIN | ACK, 1, 1), State::ClientClosed),
        counts(Backend, b(FIN | ACK, 1, 2), State::Closed),
    ];
    let refused = [syn, counts(Backend, b(RST | ACK, 0, 1), State::Closed)];
    let reset = [counts(Client, c(RST, 1, 0), State::Reset)];
    let h = handshake();
    let rows: [&[&[Row<'_>]]; 5] = [&[&[syn]], &[&[syn, answer]], &[&h, &fins], &[&refused], &[&h, &reset]];
    for (i, row) in rows.into_iter().enumerate() {
        let mut talk = talk();
        row.iter().for_each(|rows| talk.walk(rows));
        talk.wait_s(240);
        assert_eq!(talk.live(), 1, "row {i}");
        talk.wait_s(16);
        assert_eq!(talk.live(), 0, "row {i}: no longer than needed");
    }
}

#[test]
fn rfc5382_req5_a_service_may_set_longer_times_also_for_flows_that_live() {
    let tracking = Tracking { tcp_established_s: 20_000, tcp_transitory_s: 600, ..Tracking::default() };
    let mut talk = Talk::with(&web().tracked(tracking));
    talk.walk(&handshake());
    talk.wait_s(20_000);
    talk.walk(&[
        counts(Client, c(FIN | ACK, 1, 1), State::ClientClosed),
        counts(Backend, b(FIN | ACK, 1, 2), State::Closed),
    ]);
    talk.wait_s(600);
    assert_eq!(talk.live(), 1);
    talk.wait_s(16);
    assert_eq!(talk.live(), 0);

    let mut talk = established();
    talk.bed.put(&[web().tracked(tracking)]);
    talk.wait_s(20_000);
    assert_eq!(talk.live(), 1, "the new time counts for what was there");
    talk.bed.put(&[]);
    talk.wait_s(16);
    assert_eq!(talk.live(), 0, "without its Service it has the usual time, which is over");
}

#[test]
fn rfc5382_req5_nobody_gets_the_long_time_without_a_handshake() {
    let mut talk = talk();
    let syn = segment(SYN, C, 0);
    talk.walk(&[
        (Client, syn, b"", State::Opening, true, OPENED),
        ignored(Client, c(ACK, 1, 1), State::Opening),
        counts(Backend, b(SYN | ACK, 0, 1), State::Answered),
        // Who cannot see the backend's answer does not know what to acknowledge.
        ignored(Client, c(ACK, 1, 0), State::Answered),
        ignored(Client, c(ACK, 1, 70_000), State::Answered),
        ignored(Client, c(ACK, 1, 0x8000_0000), State::Answered),
        ignored(Client, c(ACK, 300_000, 1), State::Answered),
        ignored(Client, c(FIN | ACK, 1, 0x4000_0000), State::Answered),
    ]);
    // Neither does who is refused.
    let mut talk = self::talk();
    talk.walk(&[
        (Client, syn, b"", State::Opening, true, OPENED),
        counts(Backend, b(RST | ACK, 0, 1), State::Closed),
        counts(Client, segment(ACK, C.wrapping_add(1), 9), State::Closed),
    ]);
}

#[test]
fn rfc7857_2_2_a_reset_is_passed_on_and_its_flow_kept_for_four_minutes() {
    for (side, reset) in [(Client, c(RST, 1, 0)), (Client, c(RST | ACK, 1, 1)), (Backend, b(RST, 1, 0))] {
        let mut talk = established();
        let seen = talk.say(side, &reset, b"");
        let [out] = &seen.sent[..] else { panic!("{seen:?}") };
        assert_eq!(Segment::read(&out[34..]), Some(reset), "it is translated, nothing else");
        assert_eq!((seen.state, seen.refreshed), (Some(State::Reset), true));
        // Told again, it is no sign of life.
        talk.wait_s(200);
        talk.walk(&[ignored(side, reset, State::Reset)]);
        talk.wait_s(39);
        assert_eq!(talk.live(), 1);
        talk.wait_s(17);
        assert_eq!(talk.live(), 0);
    }
}

#[test]
fn rfc7857_2_2_a_connection_that_goes_on_after_a_reset_is_established() {
    for (side, go_on) in [(Client, c(ACK, 1, 1)), (Backend, b(ACK, 1, 1))] {
        let mut talk = established();
        talk.walk(&[counts(Client, c(RST, 1, 0), State::Reset)]);
        talk.wait_s(230);
        talk.walk(&[(side, go_on, b"alive", State::Established, true, PASSED)]);
        talk.wait_s(7_000);
        assert_eq!(talk.live(), 1);
    }
}

#[test]
fn a_backend_that_is_gone_blocks_no_port_of_a_client() {
    let another = Port::new("web", Protocol::Tcp, &["10.244.0.2:8080"]).on(VIP, LoadBalancer);
    let syn: Row<'_> = (Client, segment(SYN, C, 0), b"", State::Opening, true, OPENED);
    let fin = counts(Client, c(FIN | ACK, 1, 1), State::ClientClosed);
    let answer = counts(Backend, b(SYN | ACK, 0, 1), State::Answered);
    let [first, second, third] = handshake();
    for rows in [&[syn][..], &[syn, answer], &[first, second, third, fin]] {
        let mut talk = talk();
        talk.walk(rows);
        talk.bed.put(std::slice::from_ref(&another));
        let seen = talk.say(Client, &segment(SYN, C.wrapping_add(5), 0), b"");
        assert_eq!(ends(&seen.sent[0]).1.to_string(), "10.244.0.2:8080");
    }
    // One that is open is not given up for a SYN that anybody can send (RFC 5961 section 4.2).
    let mut talk = established();
    talk.bed.put(&[another]);
    talk.walk(&[(Client, segment(SYN, C.wrapping_add(5), 0), b"", State::Established, false, IGNORED)]);
}
