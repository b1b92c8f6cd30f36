//! SCTP Services with packets (RFC 9260): associations through the worker, checksums by a second implementation, and what is refused.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{LOCAL, Port};
use harness::{Bed, CLUSTER_IP, SNAT, VIP, answer_to, ends, from, to};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use turnpike_forward::track::State;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::sctp::{self, chunk};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Protocol, Treatment};

const A: &str = "10.244.0.1:36412";
const B: &str = "10.244.0.2:36412";
const C: &str = "10.244.0.3:36412";
/// Tags that packets to the client and to the backend carry.
const TO_CLIENT: u32 = 0x0c11_e471;
const TO_BACKEND: u32 = 0x0bac_ce4d;
const FOREIGN: u32 = 0x6666_6666;

fn port(backends: &[&str]) -> Port {
    Port::new("mme", Protocol::Sctp, backends).on(VIP, LoadBalancer).on(CLUSTER_IP, ClusterIp)
}

fn bed() -> Bed {
    let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
    bed.put(&[port(&[A, B, C])]);
    bed
}

fn one(flight: &turnpike_packet::flight::Flight, tag: u32, kind: u8) -> Vec<u8> {
    sctp::packet(flight, tag, &[(kind, 0, b"")])
}

fn init(client: &str, tag: u32) -> Vec<u8> {
    sctp::packet(&from(client, VIP), 0, &[(chunk::INIT, 0, &sctp::init(tag, 1))])
}

/// What the checksum of a frame's SCTP packet differs from what it should be, by a CRC of this file's own: 0 if it is right.
fn crc_error(frame: &[u8]) -> u32 {
    let l4 = 14 + usize::from(frame[14] & 0x0f) * 4;
    let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let mut crc = !0u32;
    for (i, &byte) in frame[l4..end].iter().enumerate() {
        crc ^= u32::from(if sctp::CHECKSUM.contains(&i) { 0 } else { byte });
        (0..8).for_each(|_| crc = (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78));
    }
    !crc ^ u32::from_le_bytes(*frame[l4 + 8..].first_chunk().unwrap())
}

/// An association is set up; the first packet as the backend got it.
#[track_caller]
fn associate(bed: &mut Bed, client: &str) -> Vec<u8> {
    let out = bed.pass_through(&init(client, TO_CLIENT));
    let to_client = answer_to(&out);
    let answer = [(chunk::INIT_ACK, 0, &sctp::init(TO_BACKEND, 1)[..])];
    bed.pass_through(&sctp::packet(&to_client, TO_CLIENT, &answer));
    bed.pass_through(&one(&from(client, VIP), TO_BACKEND, chunk::COOKIE_ECHO));
    bed.pass_through(&one(&to_client, TO_CLIENT, chunk::COOKIE_ACK));
    assert_eq!(state(bed), State::Established);
    out
}

fn state(bed: &Bed) -> State {
    bed.workers[0].flows().v4.iter().next().map_or(State::Free, |(_, session)| session.state())
}

#[test]
fn an_association_is_set_up_used_and_closed() {
    let mut bed = bed();
    let before = bed.counts();
    let client: SocketAddr = harness::CLIENT.parse().unwrap();
    let opening = associate(&mut bed, harness::CLIENT);
    let (source, backend) = ends(&opening);
    assert_eq!((source.ip(), backend.port()), (SNAT.into(), 36412));
    assert_eq!(opening[46..], init(harness::CLIENT, TO_CLIENT)[46..], "chunks are left as they are");

    let payload: Vec<u8> = (0..1_400).map(|n| n as u8).collect();
    for (tag, flight, want) in [
        (TO_BACKEND, to(VIP), (source, backend)),
        (TO_CLIENT, answer_to(&opening), (VIP.parse().unwrap(), client)),
    ] {
        let sent = sctp::packet(&flight, tag, &[(chunk::SACK, 0, &[0; 12]), (chunk::DATA, 3, &payload)]);
        let got = bed.pass_through(&sent);
        assert_eq!((ends(&got), crc_error(&got), got[22]), (want, 0, 63));
        assert_eq!((&got[38..42], &got[46..]), (&sent[38..42], &sent[46..]));
    }
    bed.pass_through(&one(&to(VIP), TO_BACKEND, chunk::SHUTDOWN));
    assert_eq!(state(&bed), State::ClientClosed);
    bed.pass_through(&one(&answer_to(&opening), TO_CLIENT, chunk::SHUTDOWN_ACK));
    bed.pass_through(&one(&to(VIP), TO_BACKEND, chunk::SHUTDOWN_COMPLETE));
    assert_eq!(state(&bed), State::Closed);
    let mut moved = bed.counts();
    moved.retain(|name, value| {
        *value -= before.get(name).copied().unwrap_or(0);
        *value != 0 && !name.ends_with("_bytes")
    });
    let want =
        [("flows_live", 1), ("flows_opened", 1), ("forwarded", 9), ("rx_packets", 9), ("tx_packets", 9)];
    assert_eq!(moved, BTreeMap::from(want));
}

#[test]
fn a_closed_association_is_opened_anew_by_an_init() {
    let mut bed = bed();
    let out = associate(&mut bed, harness::CLIENT);
    bed.pass_through(&one(&answer_to(&out), TO_CLIENT, chunk::ABORT));
    assert_eq!(state(&bed), State::Closed);
    bed.put(&[port(&[C])]);
    let again = bed.pass_through(&init(harness::CLIENT, 7));
    assert_eq!(ends(&again).1, C.parse().unwrap());
    assert_eq!((bed.count("flows_opened"), bed.count("flows_live")), (2, 1));
}

#[test]
fn an_init_again_after_the_backend_went_away_finds_another() {
    let mut bed = bed();
    let first = ends(&bed.pass_through(&init(harness::CLIENT, TO_CLIENT))).1.to_string();
    let others: Vec<&str> = [A, B, C].into_iter().filter(|b| *b != first).collect();
    bed.put(&[port(&others)]);
    let second = ends(&bed.pass_through(&init(harness::CLIENT, TO_CLIENT))).1.to_string();
    assert!(others.contains(&second.as_str()), "{second} after {first}");
    assert_eq!(bed.count("flows_live"), 1);
}

#[test]
fn rfc9260_8_5_1_blind_packets_end_nothing_and_keep_nothing_alive() {
    let mut bed = bed();
    let out = associate(&mut bed, harness::CLIENT);
    for flight in [to(VIP), answer_to(&out)] {
        for kind in [chunk::ABORT, chunk::SHUTDOWN, chunk::SHUTDOWN_ACK, chunk::SHUTDOWN_COMPLETE] {
            bed.pass_through(&one(&flight, FOREIGN, kind));
            assert_eq!(state(&bed), State::Established, "chunk type {kind}");
        }
    }
    let half = 7_440_000 / 2;
    bed.pass(half);
    bed.know_router();
    bed.pass_through(&one(&to(VIP), TO_BACKEND, chunk::HEARTBEAT));
    bed.pass(half + 60_000);
    assert_eq!(bed.count("flows_live"), 1, "RFC 5382 REQ-5: two hours and four minutes since the heartbeat");
    bed.know_router();
    bed.pass_through(&one(&to(VIP), FOREIGN, chunk::HEARTBEAT));
    bed.pass(half);
    assert_eq!(bed.count("flows_live"), 0, "a wrong tag prolongs nothing");
}

#[test]
fn rfc9260_5_2_2_a_silent_association_has_time_to_contradict_a_pretended_restart() {
    let mut bed = bed();
    let out = associate(&mut bed, harness::CLIENT);
    bed.pass(260_000);
    bed.know_router();
    bed.pass_through(&init(harness::CLIENT, FOREIGN));
    assert_eq!(state(&bed), State::Restarting);
    // Time for every flow to be looked at, and for more of the same, which bring no more time.
    for _ in 0..10 {
        bed.pass(20_000);
        bed.know_router();
        bed.pass_through(&init(harness::CLIENT, FOREIGN));
    }
    bed.pass_through(&one(&answer_to(&out), TO_CLIENT, chunk::HEARTBEAT));
    assert_eq!((state(&bed), bed.count("flows_live")), (State::Established, 1));
    bed.pass_through(&init(harness::CLIENT, FOREIGN));
    bed.pass(260_000);
    assert_eq!(bed.count("flows_live"), 0, "nobody contradicted");
}

#[test]
fn an_association_that_does_not_come_about_ends_soon() {
    let mut bed = bed();
    bed.pass_through(&init(harness::CLIENT, TO_CLIENT));
    bed.pass(230_000);
    assert_eq!(bed.count("flows_live"), 1);
    bed.pass(30_000);
    assert_eq!(bed.count("flows_live"), 0, "RFC 5382 REQ-5: four minutes");
}

/// Telecom clients keep one source port for life; one that has restarted must not knock for ever at a backend that is gone.
#[test]
fn rfc9260_5_2_2_a_client_that_restarts_finds_another_backend_when_its_own_is_gone() {
    let mut bed = bed();
    let first = ends(&associate(&mut bed, harness::CLIENT)).1.to_string();
    let others: Vec<&str> = [A, B, C].into_iter().filter(|b| *b != first).collect();
    bed.put(&[port(&others)]);
    let mut tried = 0;
    for _ in 0..10 {
        bed.know_router();
        let now = ends(&bed.pass_through(&init(harness::CLIENT, 0x0c11_0002))).1.to_string();
        tried += 1;
        if now != first {
            break;
        }
        bed.pass(60_000);
    }
    assert_eq!(tried, 6, "INITs of four minutes go to the old backend, for they prove nothing");
}

#[test]
fn rfc9260_5_2_2_a_restart_keeps_its_flow_and_its_new_tags_count() {
    let mut bed = bed();
    let out = associate(&mut bed, harness::CLIENT);
    let again = bed.pass_through(&init(harness::CLIENT, 0x0c11_0002));
    assert_eq!((ends(&again), state(&bed)), (ends(&out), State::Restarting));
    let answer = [(chunk::INIT_ACK, 0, &sctp::init(0x0bac_0002, 1)[..])];
    bed.pass_through(&sctp::packet(&answer_to(&out), 0x0c11_0002, &answer));
    bed.pass_through(&one(&to(VIP), 0x0bac_0002, chunk::COOKIE_ECHO));
    bed.pass_through(&one(&answer_to(&out), 0x0c11_0002, chunk::COOKIE_ACK));
    bed.pass_through(&one(&to(VIP), TO_BACKEND, chunk::ABORT));
    assert_eq!(state(&bed), State::Established, "the old tag is no proof any more");
    bed.pass_through(&one(&to(VIP), 0x0bac_0002, chunk::ABORT));
    assert_eq!(state(&bed), State::Closed);
}

#[test]
fn options_padding_and_segments_are_carried() {
    let mut bed = bed();
    let plain = init(harness::CLIENT, TO_CLIENT);
    let out = bed.pass_through(&plain);
    // All of the chunk but its first bytes lies in another segment, for which the checksum does not need it.
    let data = sctp::packet(&to(VIP), TO_BACKEND, &[(chunk::DATA, 3, &[7; 1_000])]);
    for first_len in [50, 51, 200, data.len()] {
        bed.nic.inject_segments(&data, first_len);
        bed.turn();
        let got = bed.take();
        assert_eq!((got.len(), got[0].len(), crc_error(&got[0])), (1, data.len(), 0), "{first_len}");
        assert_eq!(ends(&got[0]), ends(&out));
    }
    let mut optional = one(&to(VIP), TO_BACKEND, chunk::HEARTBEAT);
    optional.splice(34..34, [1, 1, 1, 0]);
    optional[14] = 0x46;
    optional[17] += 4;
    optional[24..26].fill(0);
    let sum = turnpike_packet::checksum::checksum(&optional[14..38]);
    optional[24..26].copy_from_slice(&sum.to_be_bytes());
    optional.resize(60, 0xee);
    let got = bed.pass_through(&optional);
    assert_eq!((got.len(), crc_error(&got), &got[54..]), (60, 0, &[0xee; 6][..]));
    assert_eq!(got[38..42], out[34..38], "the same ports behind options");
    assert_eq!(bed.count("flows_opened"), 1);
}

/// RFC 9260 section 3.3.2.1: addresses in an INIT are those of further paths. They stay as they are; such paths are no part of the flow.
#[test]
fn addresses_in_an_init_are_left_alone() {
    let mut bed = bed();
    let mut value = sctp::init(TO_CLIENT, 1).to_vec();
    value.extend([0, 5, 0, 8, 198, 51, 100, 8]);
    let sent = sctp::packet(&to(VIP), 0, &[(chunk::INIT, 0, &value)]);
    let got = bed.pass_through(&sent);
    assert_eq!((crc_error(&got), &got[46..]), (0, &sent[46..]));
}

#[test]
fn where_the_client_keeps_its_address_so_does_its_port() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    let local = Port::new("mme", Protocol::Sctp, &[A]).with(VIP, LoadBalancer, LOCAL, Treatment::FORWARD);
    bed.put(&[local]);
    let out = associate(&mut bed, harness::CLIENT);
    assert_eq!(ends(&out), (harness::CLIENT.parse().unwrap(), A.parse().unwrap()));
    let back = bed.pass_through(&one(&answer_to(&out), TO_CLIENT, chunk::HEARTBEAT));
    assert_eq!((ends(&back).0, crc_error(&back)), (VIP.parse().unwrap(), 0));
}

#[test]
fn rule_n1_an_init_without_endpoints_is_answered_with_port_unreachable() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    bed.put(&[port(&[])]);
    let asked = init(harness::CLIENT, TO_CLIENT);
    let out = bed.exchange(std::slice::from_ref(&asked));
    assert_eq!(out.len(), 1);
    assert_eq!((out[0][23], &out[0][34..36]), (1, &[3, 3][..]));
    assert_eq!(
        out[0][42..],
        asked[14..],
        "the INIT is quoted with its tag, by which its sender knows it (section 10)"
    );
    assert_eq!((bed.count("rejected"), bed.count("icmp_sent"), bed.count("flows_live")), (1, 1, 0));
}

#[test]
fn rule_n2_an_association_outlives_the_endpoints_of_its_service() {
    let mut bed = bed();
    let out = associate(&mut bed, harness::CLIENT);
    bed.put(&[port(&[])]);
    let got = bed.pass_through(&one(&to(VIP), TO_BACKEND, chunk::DATA));
    assert_eq!(ends(&got), ends(&out));
}

#[test]
fn rule_u5_sctp_flows_are_never_cleaned() {
    let mut bed = bed();
    let out = associate(&mut bed, harness::CLIENT);
    bed.put(&[port(&[A, B, C]).backends(&[(A, ""), (B, ""), (C, "")])]);
    let got = bed.pass_through(&one(&to(VIP), TO_BACKEND, chunk::DATA));
    assert_eq!(ends(&got), ends(&out));
    assert_eq!((bed.count("flows_live"), bed.count("udp_flows_cleaned")), (1, 0));
}

#[test]
fn rule_f1_affinity_holds_for_associations() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
    bed.put(&[port(&[A, B, C]).sticky(10_800)]);
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..50 {
        for vip in [VIP, CLUSTER_IP] {
            let client = format!("198.51.100.7:{}", 3_000 + n);
            let asked = sctp::packet(&from(&client, vip), 0, &[(chunk::INIT, 0, &sctp::init(1 + n, 1))]);
            seen.insert(ends(&bed.pass_through(&asked)).1);
        }
    }
    assert_eq!(seen.len(), 1);
}

#[test]
fn rfc9260_8_4_packets_of_no_association_are_answered_within_the_limit() {
    let mut bed = bed();
    let rows = [
        (chunk::DATA, Some(chunk::ABORT)),
        (chunk::HEARTBEAT, Some(chunk::ABORT)),
        (chunk::SHUTDOWN_ACK, Some(chunk::SHUTDOWN_COMPLETE)),
        (chunk::ABORT, None),
        (chunk::SHUTDOWN_COMPLETE, None),
        (chunk::COOKIE_ECHO, None),
    ];
    for (i, (kind, want)) in rows.into_iter().enumerate() {
        let out = bed.exchange(&[one(&to(VIP), 0x0102_0304, kind)]);
        assert_eq!(out.first().map(|f| f[46]), want, "chunk type {kind}");
        assert_eq!(bed.count("sctp_no_flow"), i as u64 + 1);
        for answer in out {
            assert_eq!(ends(&answer), (VIP.parse().unwrap(), harness::CLIENT.parse().unwrap()));
            assert_eq!((&answer[38..42], answer[47], crc_error(&answer)), (&[1, 2, 3, 4][..], 1, 0));
        }
    }
    assert_eq!((bed.count("resets_sent"), bed.count("flows_live")), (3, 0));
    let flood: Vec<_> = (0..3_000).map(|_| one(&to(VIP), 9, chunk::DATA)).collect();
    assert!(bed.exchange(&flood).len() < 1_001);
    assert_eq!(bed.count("sctp_no_flow"), 3_006);
    let late = one(&from(A, &format!("{}:5000", std::net::Ipv4Addr::from(SNAT))), 9, chunk::DATA);
    assert!(bed.exchange(&[late]).is_empty());
    assert_eq!(bed.count("snat_no_flow"), 1);
}

/// Changes a frame and makes its IPv4 header checksum right again.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame[24..26].fill(0);
    let sum = turnpike_packet::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn every_bad_packet_has_its_verdict_and_nothing_leaves() {
    let asked = || init(harness::CLIENT, TO_CLIENT);
    let data = || one(&to(VIP), TO_BACKEND, chunk::DATA);
    let total = |n: u16| move |f: &mut Vec<u8>| f[16..18].copy_from_slice(&n.to_be_bytes());
    let rows: Vec<(&str, Vec<u8>, usize, &str)> = vec![
        ("a header alone", with(data(), total(32)), 50, "bad_l4"),
        ("half a header", with(data(), total(26)), 50, "bad_l4"),
        ("a chunk header that is cut", with(data(), total(35)), 50, "bad_l4"),
        ("a chunk below its header", with(data(), |f| f[49] = 3), 50, "bad_l4"),
        ("a chunk past the packet", with(data(), |f| f[49] = 5), 50, "bad_l4"),
        ("source port 0", with(data(), |f| f[34..36].fill(0)), 50, "bad_l4"),
        ("destination port 0", with(data(), |f| f[36..38].fill(0)), 50, "bad_l4"),
        ("data without a tag", one(&to(VIP), 0, chunk::DATA), 50, "bad_l4"),
        ("an INIT with a tag", with(asked(), |f| f[41] = 1), 66, "bad_l4"),
        ("an INIT that initiates nothing", init(harness::CLIENT, 0), 66, "bad_l4"),
        ("an INIT too short", sctp::packet(&to(VIP), 0, &[(chunk::INIT, 0, &[1; 12])]), 62, "bad_l4"),
        (
            "an INIT with company",
            sctp::packet(&to(VIP), 0, &[(chunk::INIT, 0, &sctp::init(1, 1)), (chunk::DATA, 0, b"")]),
            70,
            "bad_l4",
        ),
        ("a header over two segments", data(), 40, "header_split"),
        ("a chunk header over two segments", data(), 48, "header_split"),
        ("a tag to initiate over two segments", asked(), 52, "header_split"),
        ("a fragment", with(data(), |f| f[20] = 0x20), 50, "fragment"),
        ("its time is up", with(asked(), |f| f[22] = 1), 66, "ttl_expired"),
        ("no Service on that port", one(&to("203.0.113.80:81"), 1, chunk::DATA), 50, "no_frontend"),
    ];
    for (what, frame, first_len, verdict) in rows {
        let mut bed = bed();
        bed.nic.inject_segments(&frame, first_len.min(frame.len()));
        bed.turn();
        let told: Vec<_> = bed.take().iter().map(|f| (f[23], f[34])).collect();
        assert_eq!(told, vec![(1, 11); usize::from(verdict == "ttl_expired")], "{what}");
        assert_eq!(bed.count(verdict), 1, "{what}: {:?}", bed.counts());
    }
}

#[test]
fn an_abort_behind_other_chunks_is_seen() {
    let mut bed = bed();
    let out = associate(&mut bed, harness::CLIENT);
    let chunks = [(chunk::SACK, 0, &[0; 12][..]), (chunk::ERROR, 0, b"odd"), (chunk::ABORT, 0, b"")];
    bed.pass_through(&sctp::packet(&answer_to(&out), TO_CLIENT, &chunks));
    assert_eq!(state(&bed), State::Closed);
}

/// Clients that associate and get an answer each, on several workers.
fn everybody_gets_their_answers(workers: usize, spread: &Spread) -> Bed {
    let mut bed = Bed::bare(workers, spread, 4_096);
    bed.put(&[port(&[A, B, C])]);
    for n in 0..1_000u32 {
        let client = format!("198.51.{}.{}:{}", n % 7, 1 + n % 250, 1_024 + n);
        let out = bed.pass_through(&init(&client, 1 + n));
        let answer = [(chunk::INIT_ACK, 0, &sctp::init(!n, 1)[..])];
        let back = bed.pass_through(&sctp::packet(&answer_to(&out), 1 + n, &answer));
        assert_eq!(ends(&back), (VIP.parse().unwrap(), client.parse().unwrap()));
        let echo = bed.pass_through(&one(&from(&client, VIP), !n, chunk::COOKIE_ECHO));
        assert_eq!(ends(&echo), ends(&out));
        bed.pass_through(&one(&answer_to(&out), 1 + n, chunk::COOKIE_ACK));
        assert!([&out, &back, &echo].into_iter().all(|f| crc_error(f) == 0));
    }
    let states =
        bed.workers.iter().flat_map(|w| w.flows().v4.iter().map(|(_, s)| s.state()).collect::<Vec<_>>());
    assert_eq!(states.filter(|s| *s == State::Established).count(), 1_000);
    bed
}

#[test]
fn associations_find_their_worker_whether_or_not_the_nic_knows_sctp() {
    for workers in [2, 3] {
        let bed = everybody_gets_their_answers(workers, &Spread::Unknown);
        assert!(bed.count("handed_off") > 500);
        assert!(bed.workers.iter().all(|w| w.flows().v4.live() > 100), "every worker has its share");
    }
    // A NIC with RSS over TCP and UDP gives all SCTP to one queue.
    let rss =
        Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta: (0..128).map(|i| i % 2).collect() });
    everybody_gets_their_answers(2, &rss);
}

/// The same frame with options of IPv4 that mean nothing. NICs hash such packets in another way, if at all.
fn with_options(frame: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..34], &[1; 4], &frame[34..]].concat();
    frame[14] += 1;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    harness::fragmented::seal(frame)
}

#[test]
fn packets_with_options_find_the_worker_of_their_association() {
    let reta: Vec<u16> = (0..128).map(|i| i % 3).collect();
    for spread in [Spread::Unknown, Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta })] {
        let mut bed = Bed::bare(3, &spread, 4_096);
        bed.put(&[port(&[A, B, C])]);
        for n in 0..100u32 {
            let client = format!("198.51.100.7:{}", 1_024 + n);
            let out = bed.pass_through(&init(&client, 1 + n));
            let answer =
                sctp::packet(&answer_to(&out), 1 + n, &[(chunk::INIT_ACK, 0, &sctp::init(!n, 1)[..])]);
            let back = bed.pass_through(&with_options(&answer));
            let echo = bed.pass_through(&with_options(&one(&from(&client, VIP), !n, chunk::COOKIE_ECHO)));
            assert_eq!(back[34..38], [1; 4]);
            assert_eq!(
                (back[30..34].to_vec(), echo[30..34].to_vec()),
                (vec![198, 51, 100, 7], out[30..34].to_vec())
            );
        }
        assert_eq!(bed.count("sctp_no_flow"), 0);
        assert!(bed.workers.iter().all(|w| w.flows().v4.live() > 10), "every worker has its share");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A packet with damaged bytes is refused, or leaves with a checksum that is wrong by as much as when it came.
    #[test]
    fn damage_is_never_healed(
        changes in prop::collection::vec((34usize..200, any::<u8>()), 0..4),
        payload in prop::collection::vec(any::<u8>(), 0..150),
        first_len in 34usize..260,
        is_init: bool,
        from_backend: bool,
    ) {
        let mut bed = bed();
        let out = associate(&mut bed, harness::CLIENT);
        let (flight, tag) = if from_backend { (answer_to(&out), TO_CLIENT) } else { (to(VIP), TO_BACKEND) };
        let mut frame = if is_init {
            sctp::packet(&flight, 0, &[(chunk::INIT, 0, &sctp::init(3, 4))])
        } else {
            sctp::packet(&flight, tag, &[(chunk::DATA, 3, &payload)])
        };
        let len = frame.len();
        for (at, byte) in changes {
            frame[34 + (at - 34) % (len - 34)] = byte;
        }
        let came = crc_error(&frame);
        bed.nic.inject_segments(&frame, first_len.min(len));
        bed.turn();
        for sent in bed.nic.take_sent() {
            if sent[22] == 63 {
                prop_assert_eq!(crc_error(&sent), came);
                prop_assert_eq!((sent.len(), &sent[46..]), (len, &frame[46..]));
            } else {
                prop_assert_eq!(turnpike_packet::flight::check(&sent), Ok(()), "an answer of our own");
            }
        }
        // Damaged ports may open a flow of their own; none is lost.
        prop_assert!((1..=2).contains(&bed.count("flows_live")));
    }
}
