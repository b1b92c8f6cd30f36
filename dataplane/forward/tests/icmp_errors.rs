//! ICMP errors of others through the NAT (RFC 5508, and what RFC 4787 and RFC 5382 say of ICMP): full NAT and kept client addresses, TCP, UDP
//! and SCTP, one worker and several. Every row states the whole counter delta, and every frame that leaves has right checksums.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::errors::{CLIENT_ROUTER, POD_ROUTER, addresses, error, quoted, too_big};
use harness::services::{DNAT, Port};
use harness::{Bed, CLIENT, SNAT, VIP, answer_to, ends, from, to};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use turnpike_packet::checksum::checksum;
use turnpike_packet::flight::{Flight, check};
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::sctp::{self, chunk};
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::udp;
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Protocol, Treatment};

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const UNREACHABLE: (u8, u8, [u8; 4]) = (3, 1, [0; 4]);

fn service(protocol: Protocol, treatment: Treatment) -> Port {
    Port::new(&format!("web-{protocol}"), protocol, &["10.244.0.1:8080", "10.244.0.2:8080"]).with(
        VIP,
        LoadBalancer,
        treatment,
        treatment,
    )
}

fn bed_of(workers: usize, spread: &Spread, treatment: Treatment) -> Bed {
    let mut bed = Bed::bare(workers, spread, 4_096);
    bed.put(&PROTOCOLS.map(|protocol| service(protocol, treatment)));
    bed
}

fn bed() -> Bed {
    bed_of(1, &Spread::Unknown, Treatment::FORWARD)
}

/// A packet of a flow that is open: what the client sends first, or a backend's answer.
fn packet(protocol: Protocol, flight: &Flight, is_first: bool) -> Vec<u8> {
    match protocol {
        Protocol::Udp => udp::datagram(flight, &[7; 1_000]),
        Protocol::Tcp if is_first => tcp::segment(flight, 1, 0, SYN, b""),
        Protocol::Tcp => tcp::segment(flight, 1, 2, SYN | ACK, b""),
        Protocol::Sctp if is_first => sctp::packet(flight, 0, &[(chunk::INIT, 0, &sctp::init(7, 1))]),
        Protocol::Sctp => sctp::packet(flight, 7, &[(chunk::INIT_ACK, 0, &sctp::init(9, 1))]),
    }
}

/// An open flow: for each direction a packet as it came and as it left.
struct Flow {
    from_client: [Vec<u8>; 2],
    from_backend: [Vec<u8>; 2],
}

#[track_caller]
fn open(bed: &mut Bed, client: &str, protocol: Protocol) -> Flow {
    let came = packet(protocol, &from(client, VIP), true);
    let left = bed.pass_through(&came);
    let answer = packet(protocol, &answer_to(&left), false);
    let answered = bed.pass_through(&answer);
    Flow { from_client: [came, left], from_backend: [answer, answered] }
}

/// The beginning of a frame's packet as an error quotes it after `sent` was translated to `left`: TTL as it left.
fn as_sent(sent: &[u8], left: &[u8], quoted: usize) -> Vec<u8> {
    let mut frame = sent.to_vec();
    frame[22] = left[22];
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    if frame[23] == 132 {
        // SCTP's checksum is over bytes that an error does not quote.
        frame[42..46].copy_from_slice(&left[42..46]);
    }
    frame.truncate(14 + quoted);
    frame
}

fn translated() -> BTreeMap<&'static str, u64> {
    BTreeMap::from([("rx_packets", 1), ("forwarded", 1), ("icmp_translated", 1), ("tx_packets", 1)])
}

fn went_both_ways(treatment: Treatment) {
    for protocol in PROTOCOLS {
        let mut bed = bed_of(1, &Spread::Unknown, treatment);
        let flow = open(&mut bed, CLIENT, protocol);
        let before = bed.flows();
        bed.now_ms += 50;
        for message in [UNREACHABLE, (3, 4, [0, 0, 5, 0]), (11, 0, [0; 4]), (12, 0, [20, 0, 0, 0])] {
            for quote in [28, 40, 548] {
                // From the backend's side: the VIP says it to the client.
                let [came, left] = &flow.from_client;
                let (moved, sent) = bed.delta(&error(POD_ROUTER, left, message, quote));
                assert_eq!(moved, translated(), "{protocol} {message:?}");
                assert_eq!(addresses(&sent[0]), ["203.0.113.80", "198.51.100.7"]);
                assert_eq!((sent[0][22], sent[0][34], sent[0][35]), (63, message.0, message.1));
                assert_eq!(
                    (&sent[0][38..42], quoted(&sent[0])[14..].to_vec()),
                    (&message.2[..], as_sent(came, left, quote)[14..].to_vec())
                );
                // From the client's side: the backend hears it from the client as it knows it.
                let [came, left] = &flow.from_backend;
                let (moved, sent) = bed.delta(&error(CLIENT_ROUTER, left, message, quote));
                assert_eq!(moved, translated(), "{protocol} {message:?}");
                assert_eq!(addresses(&sent[0]), [addresses(came)[1].clone(), addresses(came)[0].clone()]);
                assert_eq!(quoted(&sent[0])[14..], as_sent(came, left, quote)[14..]);
            }
        }
        assert_eq!(bed.flows(), before, "RFC 5508 REQ-6: errors neither refresh nor change a flow");
    }
}

#[test]
fn rfc5508_req4_req5_errors_pass_both_ways_in_full_nat() {
    went_both_ways(Treatment::FORWARD);
}

#[test]
fn rfc5508_req4_req5_errors_pass_both_ways_where_clients_keep_their_address() {
    went_both_ways(DNAT);
}

#[test]
fn rfc5382_req9_a_backend_that_refuses_is_heard_as_the_vip() {
    let mut bed = bed();
    let flow = open(&mut bed, CLIENT, Protocol::Tcp);
    let backend = ends(&flow.from_client[1]).1.ip().to_string();
    let (moved, sent) = bed.delta(&error(&backend, &flow.from_client[1], (3, 3, [0; 4]), 40));
    assert_eq!((moved, addresses(&sent[0])), (translated(), ["203.0.113.80".into(), "198.51.100.7".into()]));
}

#[test]
fn rfc4787_req12_rfc5382_req10_rfc5508_req6_no_error_ends_or_refreshes_a_flow() {
    for protocol in PROTOCOLS {
        let mut bed = bed();
        let flow = open(&mut bed, CLIENT, protocol);
        let before = bed.flows();
        for code in 0..16 {
            bed.now_ms += 1;
            bed.exchange(&[error(POD_ROUTER, &flow.from_client[1], (3, code, [0; 4]), 28)]);
            bed.exchange(&[error(CLIENT_ROUTER, &flow.from_backend[1], (3, code, [0; 4]), 28)]);
        }
        assert_eq!((bed.count("icmp_translated"), bed.flows()), (32, before), "{protocol}");
        // Errors all along, but no packet: the flow ends when it would have ended without them.
        for _ in 0..if protocol == Protocol::Tcp { 750 } else { 33 } {
            bed.pass(10_000);
            bed.know_router();
            bed.exchange(&[error(POD_ROUTER, &flow.from_client[1], UNREACHABLE, 28)]);
        }
        assert_eq!(bed.flows().len(), 0, "{protocol}");
        let (moved, sent) = bed.delta(&error(POD_ROUTER, &flow.from_client[1], UNREACHABLE, 28));
        assert_eq!((moved, sent.len()), (BTreeMap::from([("rx_packets", 1), ("icmp_no_flow", 1)]), 0));
    }
}

/// Changes a frame and makes the checksums of its outer header, of the quoted header and of the ICMP message right again.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    let outer = 14 + usize::from(frame[14] & 0x0f) * 4;
    let inner = outer + 8;
    let mut right = |start: usize, end: usize, at: usize| {
        frame[at..at + 2].fill(0);
        let sum = checksum(&frame[start..end]);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    };
    right(14, outer, 24);
    right(inner, inner + 20, inner + 10);
    let end = frame.len();
    let mut right = |start: usize, end: usize, at: usize| {
        frame[at..at + 2].fill(0);
        let sum = checksum(&frame[start..end]);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    };
    right(outer, end, outer + 2);
    frame
}

#[test]
fn rfc5508_req3_req4_only_what_proves_to_be_of_a_live_flow_passes() {
    let mut bed = bed();
    let flow = open(&mut bed, CLIENT, Protocol::Tcp);
    let left = &flow.from_client[1];
    let good = error(POD_ROUTER, left, UNREACHABLE, 40);
    let flipped = |at: usize| {
        let mut frame = good.clone();
        frame[at] ^= 1;
        frame
    };
    let about = |change: &dyn Fn(&mut Vec<u8>)| with(good.clone(), change);
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("RFC 5508 REQ-3: wrong ICMP checksum", flipped(36), "icmp_bad"),
        ("RFC 5508 REQ-3: wrong checksum over the last byte", flipped(good.len() - 1), "icmp_bad"),
        ("wrong outer IP checksum", flipped(24), "bad_ipv4_checksum"),
        ("RFC 5508 REQ-3a: wrong quoted IP checksum", wrong_inside(good.clone()), "icmp_bad"),
        ("27 bytes quoted", error(POD_ROUTER, left, UNREACHABLE, 27), "icmp_bad"),
        ("no byte quoted", error(POD_ROUTER, left, UNREACHABLE, 0), "icmp_bad"),
        ("MTU 1", error(POD_ROUTER, left, (3, 4, [0, 0, 0, 1]), 40), "icmp_bad"),
        ("another source port", about(&|f| f[63] ^= 1), "icmp_no_flow"),
        ("another destination port", about(&|f| f[65] ^= 1), "icmp_no_flow"),
        ("another destination", about(&|f| f[61] ^= 0x40), "icmp_no_flow"),
        ("another protocol", about(&|f| f[51] = 17), "icmp_no_flow"),
        ("sent to another than the quoted source", about(&|f| f[33] ^= 1), "icmp_bad"),
        (
            "quoted source of another, sent there",
            about(&|f| {
                f[33] = 9;
                f[57] = 9;
            }),
            "not_ours",
        ),
        (
            "the packet before its translation",
            error(POD_ROUTER, &flow.from_client[0], UNREACHABLE, 40),
            "not_ours",
        ),
        ("from the VIP itself", error("203.0.113.80", left, UNREACHABLE, 40), "bad_source"),
        ("from our SNAT address", error("10.1.0.1", left, UNREACHABLE, 40), "bad_source"),
        ("from loopback", error("127.0.0.1", left, UNREACHABLE, 40), "bad_source"),
        ("from everybody", error("255.255.255.255", left, UNREACHABLE, 40), "bad_source"),
        ("about a later fragment", about(&|f| f[49] = 1), "icmp"),
        ("about ICMP", about(&|f| f[51] = 1), "icmp"),
        ("RFC 5508 REQ-11: source quench", error(POD_ROUTER, left, (4, 0, [0; 4]), 40), "icmp"),
        ("RFC 5508 REQ-11: redirect", error(POD_ROUTER, left, (5, 1, [192, 0, 2, 9]), 40), "icmp"),
        ("RFC 5508 REQ-11: timestamp", error(POD_ROUTER, left, (13, 0, [0; 4]), 40), "icmp"),
        ("TTL 1: nobody is told", about(&|f| f[22] = 1), "ttl_expired"),
        ("a fragment itself", about(&|f| f[20] = 0x20), "fragment"),
    ];
    let before = bed.flows();
    for (what, frame, verdict) in rows {
        let (moved, sent) = bed.delta(&frame);
        assert_eq!(moved, BTreeMap::from([("rx_packets", 1), (verdict, 1)]), "{what}");
        assert!(sent.is_empty(), "{what}: {sent:02x?}");
    }
    assert_eq!(bed.flows(), before);
    assert_eq!(bed.delta(&good).0, translated(), "and the good one passes");
}

/// A wrong checksum of the quoted IP header under a right one of the message.
fn wrong_inside(mut frame: Vec<u8>) -> Vec<u8> {
    frame[52] ^= 1;
    frame[36..38].fill(0);
    let sum = checksum(&frame[34..]);
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn options_of_the_outer_and_of_the_quoted_header_are_carried() {
    let mut bed = bed();
    let flow = open(&mut bed, CLIENT, Protocol::Tcp);
    let mut left = flow.from_client[1].clone();
    left.splice(34..34, [1, 1, 1, 0]);
    left[14] = 0x46;
    left[17] += 4;
    left[24..26].fill(0);
    let sum = checksum(&left[14..38]);
    left[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut frame = error(POD_ROUTER, &left, UNREACHABLE, 44);
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[17] += 4;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let (moved, sent) = bed.delta(&frame);
    assert_eq!(moved, translated());
    assert_eq!(
        (&sent[0][34..38], addresses(&sent[0])),
        (&[1, 1, 1, 0][..], ["203.0.113.80".into(), "198.51.100.7".into()])
    );
    let inner = quoted(&sent[0]);
    assert_eq!((check(&inner), addresses(&inner)), (Ok(()), ["198.51.100.7".into(), "203.0.113.80".into()]));
    assert_eq!(inner[38..42], flow.from_client[0][34..38], "the ports behind the options");
}

#[test]
fn rfc5508_req7_errors_about_hairpinned_flows_pass() {
    // The client is the only backend, in both modes: its source is translated either way.
    for treatment in [Treatment::FORWARD, DNAT] {
        let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
        let mut web = service(Protocol::Udp, treatment);
        web.backends = Port::new("", Protocol::Udp, &["10.244.0.1:8080"]).backends;
        bed.put(&[web]);
        let flow = open(&mut bed, "10.244.0.1:40000", Protocol::Udp);
        assert_eq!(ends(&flow.from_client[1]).0.ip(), std::net::IpAddr::from(SNAT));
        let (moved, sent) = bed.delta(&error(POD_ROUTER, &flow.from_client[1], UNREACHABLE, 40));
        assert_eq!(
            (moved, addresses(&sent[0])),
            (translated(), ["203.0.113.80".into(), "10.244.0.1".into()])
        );
        let (moved, sent) = bed.delta(&error(POD_ROUTER, &flow.from_backend[1], UNREACHABLE, 40));
        assert_eq!((moved, addresses(&sent[0])), (translated(), ["10.1.0.1".into(), "10.244.0.1".into()]));
    }
}

#[test]
fn an_error_reaches_the_worker_that_owns_the_flow() {
    for (workers, treatment) in [(2, Treatment::FORWARD), (3, Treatment::FORWARD), (2, DNAT)] {
        let reta = (0..128).map(|i| i % workers as u16).collect();
        for spread in [Spread::Unknown, Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta })] {
            let mut bed = bed_of(workers, &spread, treatment);
            let mut handed_over = 0;
            for n in 0..60u16 {
                let client = format!("198.51.100.7:{}", 2_000 + n);
                for protocol in PROTOCOLS {
                    let flow = open(&mut bed, &client, protocol);
                    for (from, left) in
                        [(POD_ROUTER, &flow.from_client[1]), (CLIENT_ROUTER, &flow.from_backend[1])]
                    {
                        let (mut moved, sent) = bed.delta(&too_big(from, left, 1_280));
                        handed_over += moved.remove("handed_off").unwrap_or(0);
                        assert_eq!((moved, sent.len()), (translated(), 1), "{spread:?} {client} {protocol}");
                    }
                }
            }
            assert!(handed_over > 60, "{spread:?}: {handed_over}");
        }
    }
}

#[test]
fn an_error_of_no_flow_goes_to_one_other_worker_at_most() {
    let mut bed = bed_of(3, &Spread::Unknown, Treatment::FORWARD);
    let stray = udp::datagram(
        &Flight {
            source: "10.1.0.1:5000".parse().unwrap(),
            destination: "10.244.0.1:8080".parse().unwrap(),
            ..to(VIP)
        },
        b"",
    );
    for n in 0..50 {
        let mut frame = stray.clone();
        frame[35] = n;
        let (mut moved, sent) = bed.delta(&error(POD_ROUTER, &frame, UNREACHABLE, 28));
        assert!(moved.remove("handed_off").unwrap_or(0) <= 1);
        assert_eq!((moved, sent.len()), (BTreeMap::from([("rx_packets", 1), ("icmp_no_flow", 1)]), 0));
    }
}

#[test]
fn an_error_waits_for_its_next_hop_like_other_packets() {
    let mut bed = bed();
    let flow = open(&mut bed, CLIENT, Protocol::Udp);
    // The neighbour is forgotten when it does not answer for long.
    bed.pass(100_000);
    bed.take();
    let frame = error(POD_ROUTER, &flow.from_client[1], UNREACHABLE, 28);
    let before = bed.count("icmp_translated");
    let waiting = bed.exchange(&[frame]);
    assert_eq!(
        (waiting.iter().filter(|f| f[12..14] == [8, 0]).count(), bed.count("icmp_translated") - before),
        (0, 1)
    );
    let router =
        turnpike_forward::neighbour::NextHop { port: 0, address: Ipv4Addr::new(192, 0, 2, 254).into() };
    assert!(bed.shared.neighbours.learn(router, harness::ROUTER_MAC, bed.now_ms));
    bed.turn();
    let sent: Vec<_> = bed.take().into_iter().filter(|f| f[12..14] == [8, 0]).collect();
    assert_eq!(sent.iter().map(|f| addresses(f)).collect::<Vec<_>>(), [["203.0.113.80", "198.51.100.7"]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Random bytes as ICMP errors, and good errors with random bytes in them: no panic, one verdict each, and what leaves is translated and
    /// has right checksums (the harness checks every frame).
    #[test]
    fn random_errors_never_leak(
        rows in prop::collection::vec((prop::sample::select(vec![3u8, 11, 12]), any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), prop::collection::vec((28usize..110, any::<u8>()), 0..3), any::<bool>(), any::<bool>()), 1..40),
    ) {
        let mut bed = bed();
        let flows: Vec<Flow> = PROTOCOLS.iter().map(|&p| open(&mut bed, CLIENT, p)).collect();
        let before = (bed.flows(), bed.count("rx_packets"));
        let mut frames = Vec::new();
        for (n, (kind, code, bytes, changes, is_random, mends)) in rows.into_iter().enumerate() {
            let flow = &flows[n % 3];
            let mut frame = error(POD_ROUTER, &flow.from_client[1], (kind, code, [0, 0, 5, 0]), 28 + bytes.len());
            if is_random {
                let keep = frame.len().min(42);
                frame.truncate(keep);
                frame.extend(bytes);
                let total = (frame.len() - 14) as u16;
                frame[16..18].copy_from_slice(&total.to_be_bytes());
            }
            for (at, byte) in changes {
                if let Some(b) = frame.get_mut(at) {
                    *b = byte;
                }
            }
            if mends && frame.len() >= 62 && frame[14] == 0x45 {
                frame = with(frame, |_| {});
            } else {
                frame[24..26].fill(0);
                let end = 14 + usize::from(frame[14] & 0x0f) * 4;
                let sum = checksum(&frame[14..end.clamp(34, frame.len().max(34))]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            frames.push(frame);
        }
        let clients = ["198.51.100.7", "10.244.0.1", "10.244.0.2"];
        for sent in bed.exchange(&frames) {
            prop_assert!(sent[23] == 1 && matches!(sent[34], 3 | 11 | 12), "{sent:02x?}");
            let [source, destination] = addresses(&sent);
            prop_assert!(clients.contains(&destination.as_str()), "{destination}");
            prop_assert!(destination != "198.51.100.7" || source == "203.0.113.80", "{source} to {destination}");
            let inner = addresses(&quoted(&sent));
            prop_assert_eq!(&inner[0], &destination);
            prop_assert!(inner[0] != "10.1.0.1" && inner[1] != "10.244.0.1" && inner[1] != "10.244.0.2", "{inner:?}");
        }
        let counts = bed.counts();
        let verdicts: u64 = turnpike_forward::verdict::Verdict::ALL.iter().filter_map(|v| counts.get(v.name())).sum();
        prop_assert_eq!(verdicts, before.1 + frames.len() as u64);
        prop_assert_eq!(bed.flows(), before.0);
    }
}
