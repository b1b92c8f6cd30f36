//! `dsr-ipip`: packets of clients in packets to backends that answer past the gateway. Every row states the whole counter delta.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::errors::addresses;
use harness::services::{DIRECT, Port};
use harness::{Bed, CLIENT, MAC, ROUTER_MAC, VIP, ends, from, to};
use std::collections::{BTreeMap, BTreeSet};
use turnpike_forward::gateway::MssClamp;
use turnpike_packet::checksum::checksum;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::sctp::{self, chunk};
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::udp;
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Midstream, Protocol, Tracking, Treatment};

const BACKENDS: [&str; 3] = ["10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const OTHER_VIP: &str = "203.0.113.81:80";

fn service(protocol: Protocol, backends: &[&str]) -> Port {
    let port = Port::new(&format!("web-{protocol}"), protocol, backends);
    port.with(VIP, LoadBalancer, DIRECT, Treatment::FORWARD)
}

fn put(bed: &mut Bed, backends: &[&str]) {
    bed.put(&PROTOCOLS.map(|protocol| service(protocol, backends)));
}

fn bed() -> Bed {
    let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
    put(&mut bed, &BACKENDS);
    bed
}

type Delta<'a> = &'a [(&'static str, u64)];

fn counted(rows: Delta<'_>) -> BTreeMap<&'static str, u64> {
    [("rx_packets", 1)].into_iter().chain(rows.iter().copied()).collect()
}

const PASSED: Delta<'_> = &[("forwarded", 1), ("tx_packets", 1)];
const OPENED: Delta<'_> = &[("forwarded", 1), ("tx_packets", 1), ("flows_opened", 1), ("flows_live", 1)];

/// Changes a frame and makes its IPv4 header checksum right again.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    let end = 14 + usize::from(frame[14] & 0x0f) * 4;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The packet in a frame that left, as a frame as it came in: one more to live.
fn unpacked(frame: &[u8]) -> Vec<u8> {
    let inner = [&MAC[..], &ROUTER_MAC, &[8, 0], &frame[34..]].concat();
    with(inner, |f| f[22] += 1)
}

/// Sends a packet that must travel in another; the backend, and the frame.
#[track_caller]
fn travels(bed: &mut Bed, frame: &[u8], wanted: Delta<'_>) -> (String, Vec<u8>) {
    let (moved, mut sent) = bed.delta(frame);
    assert_eq!((moved, sent.len()), (counted(wanted), 1));
    let left = sent.remove(0);
    assert_eq!((left[23], unpacked(&left)), (4, frame.to_vec()), "nothing but its time to live has changed");
    let [_, backend] = addresses(&left);
    (backend, left)
}

fn syn(client: &str) -> Vec<u8> {
    tcp::segment(&from(client, VIP), 999, 0, SYN, b"")
}

fn data(client: &str, sequence: u32, flags: u8) -> Vec<u8> {
    tcp::segment(&from(client, VIP), sequence, 7, flags, b"data")
}

/// Opens a connection.
#[track_caller]
fn connect(bed: &mut Bed, client: &str) -> (String, Vec<u8>) {
    let opened = travels(bed, &syn(client), OPENED);
    travels(bed, &data(client, 1_000, ACK), PASSED);
    opened
}

#[test]
fn rfc2003_3_1_packets_travel_unchanged_in_packets() {
    let firsts = [
        syn(CLIENT),
        udp::datagram(&to(VIP), b"query"),
        sctp::packet(&to(VIP), 0, &[(chunk::INIT, 0, &sctp::init(7, 1))]),
    ];
    let nexts = [
        data(CLIENT, 1_000, ACK),
        udp::datagram(&to(VIP), b"another"),
        sctp::packet(&to(VIP), 9, &[(chunk::COOKIE_ECHO, 0, b"cookie")]),
    ];
    for (first, next) in firsts.into_iter().zip(nexts) {
        let mut bed = bed();
        let (backend, left) = travels(&mut bed, &first, OPENED);
        assert_eq!((&left[..6], &left[6..12], &left[12..14]), (&ROUTER_MAC[..], &MAC[..], &[8, 0][..]));
        assert_eq!(addresses(&left)[0], "192.0.2.1");
        assert_eq!((left[14], left[20], left[22], left.len()), (0x45, 0x40, 64, first.len() + 20));
        for _ in 0..3 {
            assert_eq!(travels(&mut bed, &next, PASSED).0, backend);
        }
    }
}

#[test]
fn rfc6040_4_1_marks_options_and_padding() {
    let mut bed = bed();
    for class in [0x00, 0x01, 0x03, 0xb8, 0xfe] {
        let frame = with(syn(CLIENT), |f| f[15] = class);
        let left = bed.pass_through(&frame);
        assert_eq!((left[15], left[35]), (class, class));
    }
    // Options of the inner header stay there, padding of the link stays behind.
    let frame = udp::datagram(&to(VIP), b"x");
    let with_options = [&frame[..34], &[1, 1, 1, 0], &frame[34..]].concat();
    let with_options = with(with_options, |f| (f[14], f[17]) = (0x46, f[17] + 4));
    let (_, left) = travels(&mut bed, &with_options, OPENED);
    assert_eq!((left[14], left[34]), (0x45, 0x46));
    let padded = [&with_options[..], &[0; 14]].concat();
    let out = bed.pass_through(&padded);
    assert_eq!(out, left);
}

#[test]
fn a_client_stays_with_its_backend_through_every_change() {
    let mut bed = bed();
    let clients: Vec<String> = (0..40).map(|n| format!("198.51.100.7:{}", 40_000 + n)).collect();
    let chosen: Vec<String> = clients.iter().map(|client| connect(&mut bed, client).0).collect();
    assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 3);
    for backends in [&BACKENDS[..1], &BACKENDS[1..], &["10.244.0.9:80"], &[]] {
        put(&mut bed, backends);
        for (client, backend) in clients.iter().zip(&chosen) {
            assert_eq!(travels(&mut bed, &data(client, 1_000, ACK), PASSED).0, *backend);
        }
    }
}

#[test]
fn datagrams_leave_a_backend_that_serves_no_more() {
    let mut bed = bed();
    let query = udp::datagram(&to(VIP), b"query");
    let (backend, _) = travels(&mut bed, &query, OPENED);
    let left: Vec<&str> = BACKENDS.into_iter().filter(|b| !b.starts_with(&format!("{backend}:"))).collect();
    put(&mut bed, &left);
    assert_eq!((bed.count("udp_flows_cleaned"), bed.flows().len()), (1, 0));
    let (moved, _) = bed.delta(&query);
    assert_eq!((moved["flows_opened"], moved["forwarded"]), (1, 1));
}

/// How long a flow lives that ends with these segments, in seconds.
fn lives(last: &[Vec<u8>], tracking: Tracking) -> u32 {
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    bed.put(&PROTOCOLS.map(|protocol| service(protocol, &BACKENDS).tracked(tracking)));
    for frame in last {
        bed.exchange(std::slice::from_ref(frame));
    }
    assert_eq!(bed.flows().len(), 1);
    let start = bed.now_ms;
    while !bed.flows().is_empty() {
        bed.pass(10_000);
    }
    (bed.now_ms - start) / 1_000
}

#[test]
fn time_outs_are_those_that_the_client_alone_can_show() {
    let tracking =
        Tracking { tcp_established_s: 8_000, tcp_transitory_s: 300, udp_s: 400, ..Tracking::default() };
    let [open, ack] = [syn(CLIENT), data(CLIENT, 1_000, ACK)];
    let [fin, reset, late] = [FIN | ACK, RST, ACK].map(|flags| data(CLIENT, 1_004, flags));
    let chunk = |tag, kind| sctp::packet(&to(VIP), tag, &[(kind, 0, b"some")]);
    let init = sctp::packet(&to(VIP), 0, &[(chunk::INIT, 0, &sctp::init(7, 1))]);
    let [echo, shutdown] = [chunk(9, chunk::COOKIE_ECHO), chunk(9, chunk::SHUTDOWN)];
    let copies = |frames: &[&Vec<u8>]| frames.iter().map(|f| (*f).clone()).collect::<Vec<_>>();
    let rows = [
        ("SYN", copies(&[&open]), 240, 300),
        ("open", copies(&[&open, &ack]), 7_440, 8_000),
        ("FIN", copies(&[&open, &ack, &fin]), 240, 300),
        ("FIN, and more", copies(&[&open, &ack, &fin, &late]), 240, 300),
        ("reset", copies(&[&open, &ack, &reset]), 240, 300),
        ("reset, and more", copies(&[&open, &ack, &reset, &late]), 7_440, 8_000),
        ("reset of a stranger", copies(&[&open, &ack, &data(CLIENT, 900_000, RST)]), 7_440, 8_000),
        ("datagram", vec![udp::datagram(&to(VIP), b"x")], 300, 400),
        ("INIT", copies(&[&init]), 240, 240),
        ("COOKIE ECHO", copies(&[&init, &echo]), 7_440, 7_440),
        ("SHUTDOWN", copies(&[&init, &echo, &shutdown]), 240, 240),
    ];
    for (what, frames, usual, set) in rows {
        // All slots are looked at once in 15 s.
        for (tracking, seconds) in [(Tracking::default(), usual), (tracking, set)] {
            let lived = lives(&frames, tracking);
            assert!((seconds..=seconds + 30).contains(&lived), "{what}: {lived} s, not {seconds} s");
        }
    }
}

#[test]
fn a_syn_starts_anew_on_what_is_closed_and_passes_where_it_is_open() {
    let mut bed = bed();
    connect(&mut bed, CLIENT);
    let ignored = [PASSED, &[("tcp_ignored", 1)]].concat();
    travels(&mut bed, &syn(CLIENT), &ignored);
    // The backend answers that one, and the client resets what it does not know of.
    travels(&mut bed, &data(CLIENT, 1_004, RST), PASSED);
    let anew = [("flows_closed", 1), ("flows_opened", 1), ("forwarded", 1), ("tx_packets", 1)];
    travels(&mut bed, &syn(CLIENT), &anew);
    assert_eq!(bed.flows().len(), 1);
}

#[test]
fn a_connection_that_opens_to_a_backend_that_is_gone_gets_another() {
    let mut bed = bed();
    let (gone, _) = travels(&mut bed, &syn(CLIENT), OPENED);
    let left: Vec<&str> = BACKENDS.into_iter().filter(|b| !b.starts_with(&format!("{gone}:"))).collect();
    put(&mut bed, &left);
    let anew = [("flows_closed", 1), ("flows_opened", 1), ("forwarded", 1), ("tx_packets", 1)];
    assert_ne!(travels(&mut bed, &syn(CLIENT), &anew).0, gone);
}

#[test]
fn segments_of_no_flow_meet_what_their_service_wants() {
    for (midstream, wanted) in [
        (Midstream::Reset, &[("tcp_no_flow", 1), ("resets_sent", 1), ("tx_packets", 1)][..]),
        (Midstream::Drop, &[("tcp_no_flow_drop", 1)][..]),
    ] {
        let mut bed = Bed::bare(1, &Spread::Unknown, 64);
        let tracking = Tracking { midstream, ..Tracking::default() };
        bed.put(&[service(Protocol::Tcp, &BACKENDS).tracked(tracking)]);
        assert_eq!(bed.delta(&data(CLIENT, 1_000, ACK)).0, counted(wanted));
    }
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    let tracking = Tracking { midstream: Midstream::Forward, ..Tracking::default() };
    bed.put(&[service(Protocol::Tcp, &BACKENDS).tracked(tracking)]);
    let adopted = [OPENED, &[("flows_adopted", 1)]].concat();
    travels(&mut bed, &data(CLIENT, 1_000, ACK), &adopted);
    travels(&mut bed, &data(CLIENT, 1_004, ACK), PASSED);
}

#[test]
fn outer_sources_spread_flows_and_stay_for_each() {
    let mut bed = Bed::tunnelling("198.18.4.0", 22);
    put(&mut bed, &BACKENDS);
    let mut sources = BTreeSet::new();
    for n in 0..400 {
        let query = udp::datagram(&from(&format!("198.51.100.7:{}", 1_024 + n), VIP), b"query");
        let first = bed.pass_through(&query);
        assert_eq!(bed.pass_through(&query), first);
        sources.insert(addresses(&first)[0].clone());
    }
    assert!(sources.iter().all(|s| (4..8).any(|n| s.starts_with(&format!("198.18.{n}.")))), "{sources:?}");
    assert!(sources.len() > 300, "{} sources of 400 flows", sources.len());
}

#[test]
fn flows_that_differ_in_the_address_alone_are_two() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    let service = service(Protocol::Udp, &BACKENDS[..1]);
    bed.put(&[service.with(OTHER_VIP, LoadBalancer, DIRECT, Treatment::FORWARD)]);
    for vip in [VIP, OTHER_VIP] {
        travels(&mut bed, &udp::datagram(&to(vip), b"query"), OPENED);
    }
    for vip in [VIP, OTHER_VIP] {
        travels(&mut bed, &udp::datagram(&to(vip), b"query"), PASSED);
    }
    // Nothing comes back this way: what pretends to is of no flow, and ends none.
    let answer = udp::datagram(&from(BACKENDS[0], "192.0.2.1:40000"), b"answer");
    assert_eq!(bed.delta(&answer), (counted(&[("own_address", 1)]), vec![]));
    bed.pass(400_000);
    assert_eq!(bed.flows().len(), 0);
}

#[test]
fn what_cannot_travel_in_packets_is_translated() {
    let rows = [
        ("another port", CLIENT, "10.244.0.1:8080"),
        ("a client that is the backend", "172.16.0.9:40000", "172.16.0.9:80"),
    ];
    for (what, client, to) in rows {
        let mut bed = Bed::bare(1, &Spread::Unknown, 64);
        bed.put(&[service(Protocol::Tcp, &[]).backends(&[(to, "cls")])]);
        let (moved, sent) = bed.delta(&syn(client));
        assert_eq!(moved, counted(OPENED), "{what}");
        let (source, destination) = ends(&sent[0]);
        assert_eq!(
            (sent[0][23], source.ip().to_string(), destination.to_string()),
            (6, "10.1.0.1".into(), to.into())
        );
    }
    // Clients inside have a treatment of their own.
    let mut bed = bed();
    let left = bed.pass_through(&syn("10.244.7.7:40000"));
    assert_eq!((left[23], addresses(&left)[0].as_str()), (6, "10.1.0.1"));
}

#[test]
fn affinity_holds() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
    bed.put(&[service(Protocol::Tcp, &BACKENDS).sticky(600)]);
    let chosen: BTreeSet<String> =
        (0..50).map(|n| connect(&mut bed, &format!("198.51.100.7:{}", 2_000 + n)).0).collect();
    assert_eq!(chosen.len(), 1);
}

#[test]
fn every_worker_sends_what_is_its_own() {
    let reta = (0..128).map(|n| n % 3).collect();
    for spread in [Spread::Unknown, Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta })] {
        let mut bed = Bed::bare(3, &spread, 4_096);
        put(&mut bed, &BACKENDS);
        for n in 0..60 {
            let client = format!("198.51.100.7:{}", 3_000 + n);
            for frame in [syn(&client), data(&client, 1_000, ACK), udp::datagram(&from(&client, VIP), b"x")] {
                let (mut moved, sent) = bed.delta(&frame);
                moved.remove("handed_off");
                assert_eq!((moved["forwarded"], sent.len(), unpacked(&sent[0])), (1, 1, frame));
            }
        }
        assert_eq!((bed.flows().len(), bed.count("flows_opened")), (120, 120));
    }
}

#[test]
fn rfc6691_segment_sizes_leave_room_for_the_outer_header() {
    let size = |n: u16| [&[2, 4][..], &n.to_be_bytes()].concat();
    for (clamp, mtu, before, after) in [
        (MssClamp::Auto, 1_500, 1_460, 1_440),
        (MssClamp::Auto, 1_400, 1_460, 1_340),
        (MssClamp::Auto, 1_500, 1_440, 1_440),
        (MssClamp::Off, 1_500, 1_460, 1_460),
        (MssClamp::Bytes(1_200), 1_500, 1_460, 1_200),
    ] {
        let mut bed = Bed::on_link(1, &Spread::Unknown, 64, mtu, clamp);
        put(&mut bed, &BACKENDS);
        let left = bed.pass_through(&tcp::with_options(&to(VIP), 1, 0, SYN, &size(before)));
        assert_eq!(u16::from_be_bytes([left[76], left[77]]), after, "{clamp:?} {mtu}");
        assert_eq!(bed.count("mss_clamped"), u64::from(before != after));
    }
}
