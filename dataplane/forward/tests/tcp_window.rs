//! Which TCP segments count: RFC 5961, RFC 7323, RFC 5382 REQ-3, and what becomes of segments of connections nobody knows.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{DNAT, Port};
use harness::talk::Side::{Backend, Client};
use harness::talk::{Delta, IGNORED, OPENED, PASSED, Row, Side, Talk, counts, ignored, segment};
use harness::{CLIENT, SNAT, VIP, ends, from};
use turnpike_forward::track::State;
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Midstream, Protocol, Tracking, Treatment};

/// What client and backend send next, and offer to take.
const C: u32 = 1_000_000;
const B: u32 = 0xffff_f000;
const W: u16 = 20_000;

fn web() -> Port {
    Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"]).on(VIP, LoadBalancer)
}

fn plain(flags: u8, sequence: u32, acknowledgement: u32) -> Segment {
    Segment { window: W, ..segment(flags, sequence, acknowledgement) }
}

fn c(flags: u8, sequence: i32, acknowledgement: i32) -> Segment {
    plain(flags, C.wrapping_add_signed(sequence), B.wrapping_add_signed(acknowledgement))
}

fn b(flags: u8, sequence: i32, acknowledgement: i32) -> Segment {
    plain(flags, B.wrapping_add_signed(sequence), C.wrapping_add_signed(acknowledgement))
}

/// Both sides have said what they expect and offer a window of 20,000 bytes, without a scale.
fn established() -> Talk {
    opened(None, None)
}

fn opened(client: Option<u8>, backend: Option<u8>) -> Talk {
    let mut talk = Talk::with(&web());
    talk.walk(&[
        (Client, Segment { scale: client, ..c(SYN, -1, 0) }, b"", State::Opening, true, OPENED),
        counts(Backend, Segment { scale: backend, ..b(SYN | ACK, -1, 0) }, State::Answered),
        counts(Client, c(ACK, 0, 0), State::Established),
        counts(Backend, b(ACK, 0, 0), State::Established),
    ]);
    talk
}

#[test]
fn rfc5961_3_2_a_reset_counts_in_the_window_alone() {
    let rows = [
        (0, true),
        (1, true),
        (19_999, true),
        (20_000, true),
        (20_001, false),
        (-1, false),
        (-20_000, false),
        (i32::MAX, false),
        (i32::MIN, false),
    ];
    for (offset, counted) in rows {
        for (side, reset) in [
            (Client, c(RST, offset, 0)),
            (Client, c(RST | ACK, offset, 0)),
            (Backend, b(RST, offset, 0)),
            (Backend, b(RST | ACK, offset, 77)),
        ] {
            let mut talk = established();
            talk.walk(&[if counted {
                counts(side, reset, State::Reset)
            } else {
                ignored(side, reset, State::Established)
            }]);
        }
    }
}

#[test]
fn rfc5961_3_2_a_reset_counts_in_a_closed_window_at_its_edge_alone() {
    for (offset, state) in [(-1, State::Established), (1, State::Established), (0, State::Reset)] {
        let mut talk = established();
        talk.walk(&[counts(Backend, Segment { window: 0, ..b(ACK, 0, 20_000) }, State::Established)]);
        assert_eq!(talk.say(Client, &c(RST, 20_000 + offset, 0), b"").state, Some(state), "{offset}");
    }
}

#[test]
fn rfc5961_3_2_a_reset_of_a_handshake_is_known_by_what_it_acknowledges() {
    let syn: Row<'_> = (Client, c(SYN, -1, 0), b"", State::Opening, true, OPENED);
    let mut talk = Talk::with(&web());
    talk.walk(&[
        syn,
        ignored(Backend, b(RST, 0, 0), State::Opening),
        ignored(Backend, b(RST | ACK, 0, -1), State::Opening),
        ignored(Backend, b(RST | ACK, 0, 100_000), State::Opening),
        ignored(Client, c(RST, 1, 0), State::Opening),
        counts(Backend, b(RST | ACK, 0, 0), State::Closed),
    ]);
    // A client that wants no such connection resets with what it is told it expects.
    let mut talk = Talk::with(&web());
    talk.walk(&[
        syn,
        counts(Backend, b(SYN | ACK, -1, 0), State::Answered),
        ignored(Client, c(RST, 20_001, 0), State::Answered),
        counts(Client, c(RST, 0, 0), State::Closed),
    ]);
}

#[test]
fn rfc5961_4_2_a_syn_means_nothing_to_a_connection_that_is_open() {
    let mut talk = established();
    for side in [Client, Backend] {
        for flags in [SYN, SYN | ACK, SYN | FIN, SYN | PSH] {
            for offset in [0, -1, 5, 500_000] {
                let segment = if side == Client { c(flags, offset, 0) } else { b(flags, offset, offset) };
                talk.walk(&[ignored(side, segment, State::Established)]);
            }
        }
    }
    // A client that has lost the connection learns so from the backend, resets it, and opens anew.
    let reopened: &[(&str, i64)] =
        &[("flows_closed", 1), ("flows_opened", 1), ("forwarded", 1), ("rx_packets", 1), ("tx_packets", 1)];
    talk.walk(&[
        ignored(Client, c(SYN, 500_000, 0), State::Established),
        counts(Backend, b(ACK, 0, 0), State::Established),
        counts(Client, c(RST, 0, 0), State::Reset),
        (Client, c(SYN, 500_000, 0), b"", State::Opening, true, reopened),
    ]);
}

#[test]
fn rfc5961_5_2_data_and_fins_outside_the_window_neither_end_nor_refresh() {
    let outside =
        [(20_001, 0), (70_000, 0), (-65_537, 0), (i32::MIN, 0), (0, 65_537), (0, -65_537), (0, i32::MIN)];
    let inside = [(0, 0), (20_000, 0), (-1, 0), (-65_536, 0), (0, -20_000), (100, 20_000)];
    for (side, make) in [(Client, c as fn(u8, i32, i32) -> Segment), (Backend, b)] {
        let closed = if side == Client { State::ClientClosed } else { State::BackendClosed };
        for (sequence, acknowledgement) in outside {
            let mut talk = established();
            for flags in [ACK, ACK | PSH, FIN | ACK] {
                let segment = make(flags, sequence, acknowledgement);
                talk.walk(&[(side, segment, b"data", State::Established, false, IGNORED)]);
            }
        }
        for (sequence, acknowledgement) in inside {
            let mut talk = established();
            talk.walk(&[(
                side,
                make(ACK, sequence, acknowledgement),
                b"data",
                State::Established,
                true,
                PASSED,
            )]);
            let mut talk = established();
            talk.walk(&[counts(side, make(FIN | ACK, sequence, acknowledgement), closed)]);
        }
        // Without an acknowledgement nobody takes it (RFC 9293 section 3.10.7.4).
        for flags in [0, PSH, FIN] {
            established().walk(&[ignored(side, make(flags, 0, 0), State::Established)]);
        }
    }
}

#[test]
fn rfc5961_strangers_cannot_keep_a_dead_connection() {
    let mut talk = established();
    for n in 0..29 {
        talk.wait_s(250);
        talk.say(Client, &c(ACK, 1_000_000 + n, 5), b"");
        talk.say(Client, &c(RST, 1_000_000 + n, 5), b"");
        talk.say(Client, &c(SYN, 1_000_000 + n, 5), b"");
    }
    assert_eq!(talk.live(), 1);
    talk.wait_s(7_440 + 16 - 29 * 250);
    assert_eq!(talk.live(), 0);
}

#[test]
fn rfc7323_windows_are_scaled_by_what_the_syns_offered() {
    let far = (i32::from(W) << 7) - 1;
    let rows = [
        (Some(2), Some(7), far, State::Reset),
        (Some(2), Some(7), far + 200, State::Established),
        (Some(7), Some(2), far, State::Established),
        (Some(2), None, 30_000, State::Established),
        (None, None, 30_000, State::Established),
        (Some(14), Some(14), i32::from(W) << 14, State::Reset),
        (Some(14), Some(14), (i32::from(W) << 14) + 1, State::Established),
    ];
    for (client, backend, offset, state) in rows {
        let mut talk = opened(client, backend);
        let seen = talk.say(Client, &c(RST, offset, 0), b"");
        assert_eq!(seen.state, Some(state), "{client:?} {backend:?} {offset}");
    }
    // The other way round the client's window counts.
    let mut talk = opened(Some(7), Some(2));
    talk.walk(&[counts(Backend, b(RST, far, 0), State::Reset)]);
}

#[test]
fn a_long_transfer_wraps_around_and_stays_in_its_window() {
    let mut talk = opened(Some(10), Some(10));
    let step = 15_000_000;
    let (mut sent, mut rounds) = (B, 0);
    while rounds < 2 {
        let next = sent.wrapping_add(step);
        rounds += u32::from(next < sent);
        talk.walk(&[
            counts(Backend, plain(ACK, next, C), State::Established),
            counts(Client, plain(ACK, C, next), State::Established),
        ]);
        sent = next;
        let behind = talk.say(Backend, &plain(RST, next.wrapping_sub(step), C), b"");
        assert_eq!(behind.state, Some(State::Established));
    }
    talk.walk(&[counts(Backend, plain(RST, sent, C), State::Reset)]);
}

#[test]
fn segments_that_were_overtaken_take_nothing_back() {
    let mut talk = established();
    talk.walk(&[
        counts(Backend, b(ACK, 0, 20_000), State::Established),
        counts(Backend, b(ACK, 0, 10_000), State::Established),
        counts(Backend, Segment { window: 100, ..b(ACK, 0, 20_000) }, State::Established),
        counts(Client, c(ACK, 40_000, 0), State::Established),
        ignored(Client, c(RST, 19_999, 0), State::Established),
        counts(Client, c(RST, 40_000, 0), State::Reset),
    ]);
}

#[test]
fn packets_that_took_another_way_are_made_up_for() {
    // Those of one side: the other's acknowledgement tells.
    let mut talk = established();
    talk.walk(&[
        ignored(Backend, b(ACK, 50_000_000, 0), State::Established),
        counts(Client, c(ACK, 0, 50_000_010), State::Established),
        counts(Backend, b(FIN | ACK, 50_000_010, 0), State::BackendClosed),
    ]);
    // Those of both: neither alone, but the two that confirm each other.
    let (far, farther) = (600_000_000, 900_000_000);
    let mut talk = established();
    talk.walk(&[
        ignored(Client, c(ACK, far, farther), State::Established),
        ignored(Client, c(ACK, far + 10, farther), State::Established),
        counts(Backend, b(ACK, farther, far + 20), State::Established),
        counts(Client, c(ACK, far + 20, farther), State::Established),
        ignored(Client, c(RST, 0, 0), State::Established),
        counts(Backend, b(FIN | ACK, farther, far + 20), State::BackendClosed),
        counts(Client, c(RST, far + 20, 0), State::Reset),
    ]);
}

#[test]
fn rfc5961_a_guess_is_not_confirmed_by_the_answer_to_it() {
    let mut talk = established();
    for n in 1..64 {
        let (x, y) = (n << 26, n << 25);
        talk.walk(&[
            ignored(Client, c(ACK, x, y), State::Established),
            counts(Backend, b(ACK, 0, 0), State::Established),
            ignored(Client, c(RST, x, y), State::Established),
        ]);
    }
}

#[test]
fn rfc5382_req3_rfc4787_req8_only_the_chosen_backend_answers_and_only_by_its_flow() {
    let mut talk = established();
    let backend = talk.backend.unwrap();
    let (snat, right) = (backend.destination, backend.source);
    assert_eq!((snat.ip(), right.to_string().as_str()), (SNAT.into(), "10.244.0.1:8080"));
    let wrong_sources = ["10.244.0.1:8081", "10.244.0.2:8080", "198.51.100.66:8080"];
    for source in wrong_sources {
        for flags in [SYN, SYN | ACK, ACK, FIN | ACK, RST] {
            let flight = from(source, &snat.to_string());
            let seen = talk.send(Backend, &b(flags, 0, 0).frame(&flight, b""));
            let want = Delta::from([("rx_packets", 1), ("snat_no_flow", 1)]);
            assert_eq!((seen.delta, seen.refreshed), (want, false), "{source} {flags:#x}");
        }
    }
    let other_port = format!("{}:{}", snat.ip(), snat.port() ^ 1);
    let seen = talk.send(Backend, &b(ACK, 0, 0).frame(&from(&right.to_string(), &other_port), b""));
    assert_eq!(seen.delta, Delta::from([("rx_packets", 1), ("snat_no_flow", 1)]));
    // A stranger's reset with right numbers comes from another address, and so is of no flow.
    let seen = talk.send(Client, &c(RST, 0, 0).frame(&from("198.51.100.8:40000", VIP), b""));
    assert_eq!(seen.delta, Delta::from([("rx_packets", 1), ("tcp_no_flow", 1)]));
    assert_eq!(seen.state, Some(State::Established));
}

#[test]
fn rfc5382_req4_unsolicited_syns_are_dropped_in_silence_or_told_by_icmp() {
    // An address translated to is nobody's to call: silence, for ever.
    let mut talk = established();
    let snat = talk.backend.unwrap().destination.to_string();
    let seen = talk.send(Client, &c(SYN, 0, 0).frame(&from("198.51.100.9:1", &snat), b""));
    assert_eq!(seen.delta, Delta::from([("rx_packets", 1), ("snat_no_flow", 1)]));
    // A Service with nobody behind it is Kubernetes' case: ICMP port unreachable at once (rule N1).
    let mut talk = Talk::with(&Port::new("web", Protocol::Tcp, &[]).with(
        VIP,
        LoadBalancer,
        harness::services::REJECT,
        harness::services::REJECT,
    ));
    let seen = talk.say(Client, &c(SYN, 0, 0), b"");
    let want = Delta::from([("icmp_sent", 1), ("rejected", 1), ("rx_packets", 1), ("tx_packets", 1)]);
    assert_eq!(seen.delta, want);
}

/// What a segment of an unknown connection meets under a policy.
fn midstream(policy: Midstream, treatment: Treatment, segment: Segment) -> (Talk, harness::talk::Seen) {
    let tracking = Tracking { midstream: policy, ..Tracking::default() };
    let service = Port::new("web", Protocol::Tcp, &["10.244.0.1:8080", "10.244.0.2:8080"])
        .with(VIP, LoadBalancer, treatment, treatment)
        .tracked(tracking);
    let mut talk = Talk::with(&service);
    let seen = talk.say(Client, &segment, b"data");
    (talk, seen)
}

#[test]
fn segments_of_unknown_connections_meet_the_policy_of_their_service() {
    let reset = Delta::from([("resets_sent", 1), ("rx_packets", 1), ("tcp_no_flow", 1), ("tx_packets", 1)]);
    let unanswered = Delta::from([("rx_packets", 1), ("tcp_no_flow", 1)]);
    let dropped = Delta::from([("rx_packets", 1), ("tcp_no_flow_drop", 1)]);
    let adopted = Delta::from([
        ("flows_adopted", 1),
        ("flows_live", 1),
        ("flows_opened", 1),
        ("forwarded", 1),
        ("rx_packets", 1),
        ("tx_packets", 1),
    ]);
    let rows = [
        (Midstream::Reset, ACK, &reset),
        (Midstream::Reset, FIN | ACK, &reset),
        (Midstream::Reset, SYN | ACK, &reset),
        (Midstream::Reset, RST, &unanswered),
        (Midstream::Drop, ACK, &dropped),
        (Midstream::Drop, FIN | ACK, &dropped),
        (Midstream::Drop, SYN | ACK, &dropped),
        (Midstream::Drop, RST, &dropped),
        (Midstream::Forward, ACK, &adopted),
        (Midstream::Forward, ACK | PSH, &adopted),
        (Midstream::Forward, FIN | ACK, &adopted),
        (Midstream::Forward, SYN | ACK, &reset),
        (Midstream::Forward, 0, &reset),
        (Midstream::Forward, RST, &unanswered),
        (Midstream::Forward, RST | ACK, &unanswered),
    ];
    for treatment in [Treatment::FORWARD, DNAT] {
        for (policy, flags, want) in rows {
            let (talk, seen) = midstream(policy, treatment, c(flags, 0, 0));
            assert_eq!(seen.delta, *want, "{policy:?} {flags:#x}");
            // Never does anything leave with the address it came to.
            for frame in &seen.sent {
                let (source, destination) = ends(frame);
                assert_ne!(destination.to_string(), VIP);
                assert_eq!(source.to_string() == VIP, seen.delta.contains_key("resets_sent"));
            }
            assert_eq!(talk.live(), u32::from(*want == adopted));
        }
    }
}

#[test]
fn an_adopted_connection_goes_where_a_new_one_would_and_lives_as_one() {
    // Another gateway has carried it until now; the client keeps its address, so the backend sees no difference.
    let (mut talk, seen) = midstream(Midstream::Forward, DNAT, c(ACK, 0, 0));
    assert_eq!((seen.state, seen.refreshed), (Some(State::Adopted), true));
    let (source, backend) = ends(&seen.sent[0]);
    assert_eq!(source.to_string(), CLIENT);
    let (_, opened) = midstream(Midstream::Forward, DNAT, c(SYN, 0, 0));
    assert_eq!(ends(&opened.sent[0]).1, backend, "Maglev's choice");
    talk.walk(&[
        counts(Client, c(ACK, 4, 0), State::Adopted),
        (Backend, b(ACK, 0, 4), &[7; 1_000], State::Established, true, PASSED),
        counts(Client, c(ACK, 4, 1_000), State::Established),
        // Its windows are not known, so they are taken for wide; still not every number counts.
        (Client, c(ACK, 300_000, 1_000), b"far", State::Established, true, PASSED),
        ignored(Client, c(RST, i32::MIN, 1_000), State::Established),
        counts(Client, c(FIN | ACK, 4, 1_000), State::ClientClosed),
        counts(Backend, b(FIN | ACK, 1_000, 5), State::Closed),
    ]);
}

#[test]
fn an_adopted_connection_that_nobody_confirms_has_the_short_time() {
    for flags in [ACK, FIN | ACK] {
        let (mut talk, _) = midstream(Midstream::Forward, DNAT, c(flags, 0, 0));
        talk.wait_s(240);
        assert_eq!(talk.live(), 1);
        talk.wait_s(16);
        assert_eq!(talk.live(), 0);
    }
    // By full NAT the backend sees a stranger and says so.
    let (mut talk, _) = midstream(Midstream::Forward, Treatment::FORWARD, c(ACK, 0, 0));
    let reopened: &[(&str, i64)] =
        &[("flows_closed", 1), ("flows_opened", 1), ("forwarded", 1), ("rx_packets", 1), ("tx_packets", 1)];
    talk.walk(&[
        counts(Backend, b(RST, 0, 0), State::Closed),
        (Client, c(SYN, 90_000, 0), b"", State::Opening, true, reopened),
    ]);
}

#[test]
fn rfc5382_req10_rfc4787_req12_icmp_never_ends_or_keeps_a_flow() {
    for (kind, code) in (0..=19).flat_map(|kind| (0..=15).map(move |code| (kind, code))) {
        for side in [Client, Backend] {
            let mut talk = established();
            let quoted = sent_by_gateway(&mut talk, side);
            let mut message = vec![kind, code, 0, 0, 0, 0, 5, 0];
            message.extend(&quoted[14..62.min(quoted.len())]);
            let sum = turnpike_packet::checksum::checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let frame = talk.flight(side).frame(1, &message);
            let seen = talk.send(side, &frame);
            assert_eq!((seen.state, seen.refreshed), (Some(State::Established), false), "{kind} {code}");
            assert!(!seen.delta.keys().any(|name| name.starts_with("flows_")), "{:?}", seen.delta);
        }
    }
}

/// A frame that the gateway sent to this side, for it to complain about.
fn sent_by_gateway(talk: &mut Talk, side: Side) -> Vec<u8> {
    let seen = match side {
        Client => talk.say(Backend, &b(ACK, 0, 0), b"data"),
        Backend => talk.say(Client, &c(ACK, 0, 0), b"data"),
    };
    seen.sent[0].clone()
}
