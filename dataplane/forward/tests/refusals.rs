//! What is answered, refused or dropped: every row states the whole counter delta, and nothing leaves untranslated.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Bed, CLIENT, CLUSTER_IP, MAC, ROUTER_MAC, VIP, answer_to, ends, from, to};
use proptest::prelude::*;
use std::collections::BTreeMap;
use turnpike_forward::verdict::{Tally, Verdict};
use turnpike_packet::arp::{self, Arp, Operation};
use turnpike_packet::checksum::checksum;
use turnpike_packet::flight::Flight;
use turnpike_packet::io::Spread;
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::{udp, vlan};

/// Sends one frame and gives the counters that moved, other than those of bytes, and what left.
fn delta(bed: &mut Bed, frame: &[u8], first_segment: usize) -> (BTreeMap<&'static str, u64>, Vec<Vec<u8>>) {
    let before = bed.counts();
    bed.nic.inject_segments(frame, first_segment);
    bed.turn();
    let sent = bed.take();
    let mut after = bed.counts();
    after.retain(|name, value| {
        *value -= before.get(name).copied().unwrap_or(0);
        *value != 0 && !name.ends_with("_bytes")
    });
    (after, sent)
}

fn query() -> Vec<u8> {
    udp::datagram(&to(VIP), b"a question of some length")
}

fn syn() -> Vec<u8> {
    tcp::segment(&to(VIP), 1, 0, SYN, b"")
}

/// Changes a frame and makes its IPv4 header checksum right again.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    let end = 14 + usize::from(frame[14] & 0x0f) * 4;
    if (34..=frame.len()).contains(&end) {
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn source(address: [u8; 4]) -> Vec<u8> {
    udp::datagram(&from(&format!("{}.{}.{}.{}:7", address[0], address[1], address[2], address[3]), VIP), b"")
}

#[test]
fn every_bad_packet_has_its_verdict_and_nothing_leaves() {
    let long = |n: u16| move |f: &mut Vec<u8>| f[16..18].copy_from_slice(&n.to_be_bytes());
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no bytes", vec![], "truncated"),
        ("half an Ethernet header", query()[..13].to_vec(), "truncated"),
        ("Ethernet header only", query()[..14].to_vec(), "truncated"),
        ("half an IPv4 header", query()[..30].to_vec(), "truncated"),
        ("another host's Ethernet address", with(query(), |f| f[5] ^= 1), "other_mac"),
        ("broadcast IPv4", with(query(), |f| f[..6].fill(0xff)), "other_mac"),
        ("IPv6", with(query(), |f| f[12..14].copy_from_slice(&[0x86, 0xdd])), "other_ethertype"),
        ("VLAN tag", vlan::tagged(&query(), 100), "other_vlan"),
        ("two VLAN tags", vlan::tagged(&vlan::tagged(&query(), 100), 0), "other_vlan"),
        ("half a VLAN tag", vlan::tagged(&query(), 0)[..15].to_vec(), "other_vlan"),
        ("IP version 5", with(query(), |f| f[14] = 0x55), "bad_ipv4"),
        ("header length 4", with(query(), |f| f[14] = 0x44), "bad_ipv4"),
        ("header length past the packet", with(udp::datagram(&to(VIP), b""), |f| f[14] = 0x4f), "bad_ipv4"),
        ("total length past the frame", with(query(), long(1000)), "bad_ipv4"),
        ("total length below the header", with(query(), long(19)), "bad_ipv4"),
        ("total length of the header alone", with(query(), long(20)), "bad_l4"),
        (
            "wrong header checksum",
            {
                let mut f = query();
                f[24] ^= 1;
                f
            },
            "bad_ipv4_checksum",
        ),
        ("a first fragment not in units of eight bytes", with(query(), |f| f[20] = 0x20), "fragment_bad"),
        (
            "a fragment that ends behind every datagram",
            with(query(), |f| f[20..22].copy_from_slice(&[0x1f, 0xff])),
            "fragment_bad",
        ),
        ("a fragment of GRE", with(query(), |f| (f[20], f[23]) = (0x20, 47)), "fragment"),
        (
            "a fragment for somebody else's address",
            with(udp::datagram(&to("8.8.8.8:53"), b""), |f| f[20] = 0x20),
            "not_ours",
        ),
        (
            "a fragment of our own",
            with(udp::datagram(&from("10.1.0.1:1", VIP), b""), |f| f[21] = 9),
            "bad_source",
        ),
        (
            "a fragment for our own address",
            with(udp::datagram(&to("192.0.2.1:80"), b""), |f| f[21] = 9),
            "fragment",
        ),
        (
            "fragment with a wrong checksum",
            {
                let mut f = query();
                f[20] = 0x20;
                f
            },
            "bad_ipv4_checksum",
        ),
        (
            "loose source route",
            with(query(), |f| {
                f[14] = 0x46;
                f.splice(34..34, [131, 3, 4, 0]);
                f[17] += 4;
            }),
            "source_route",
        ),
        (
            "options that do not add up",
            with(query(), |f| {
                f[14] = 0x46;
                f.splice(34..34, [7, 77, 4, 0]);
                f[17] += 4;
            }),
            "source_route",
        ),
        ("UDP length past the packet", with(query(), |f| f[38] = 9), "bad_l4"),
        ("UDP length below its header", with(query(), |f| f[38..40].copy_from_slice(&[0, 7])), "bad_l4"),
        ("TCP data offset below its header", with(syn(), |f| f[46] = 4 << 4), "bad_l4"),
        ("TCP data offset past the packet", with(syn(), |f| f[46] = 15 << 4), "bad_l4"),
        ("TCP header past the packet", with(syn(), long(39)), "bad_l4"),
        ("GRE", with(query(), |f| f[23] = 47), "other_protocol"),
        ("echo reply", to(VIP).frame(1, &[0, 0, 0xff, 0xff, 0, 0, 0, 0]), "icmp"),
        ("half an ICMP header", to(VIP).frame(1, &[8, 0, 0xf7]), "bad_l4"),
        ("TTL 1", with(query(), |f| f[22] = 1), "ttl_expired"),
        ("TTL 0", with(query(), |f| f[22] = 0), "ttl_expired"),
        ("loopback source", source([127, 0, 0, 1]), "bad_source"),
        ("zero source", source([0, 0, 0, 0]), "bad_source"),
        ("multicast source", source([224, 0, 0, 1]), "bad_source"),
        ("broadcast source", source([255, 255, 255, 255]), "bad_source"),
        ("the VIP as its own client", source([203, 0, 113, 80]), "bad_source"),
        ("our own address as source", source([192, 0, 2, 1]), "bad_source"),
        ("our SNAT address as source", source([10, 1, 0, 1]), "bad_source"),
        ("a port of the VIP without Service", udp::datagram(&to("203.0.113.80:81"), b""), "no_frontend"),
        ("our own address", udp::datagram(&to("192.0.2.1:80"), b""), "own_address"),
        ("our SNAT address, no flow", udp::datagram(&to("10.1.0.1:5000"), b""), "snat_no_flow"),
        ("somebody else's address", udp::datagram(&to("8.8.8.8:53"), b""), "not_ours"),
        ("echo for somebody else", to("8.8.8.8:0").echo_request(1, 1, b"x"), "not_ours"),
        ("echo from loopback", from("127.0.0.1:0", VIP).echo_request(1, 1, b"x"), "bad_source"),
    ];
    for (what, frame, verdict) in rows {
        let mut bed = Bed::new();
        let (moved, sent) = delta(&mut bed, &frame, frame.len());
        let opened = u64::from(verdict == "ttl_expired");
        let mut want = BTreeMap::from([("rx_packets", 1), (verdict, 1)]);
        if opened == 1 {
            want.extend([("flows_opened", 1), ("flows_live", 1), ("icmp_sent", 1), ("tx_packets", 1)]);
        }
        assert_eq!(moved, want, "{what}");
        let told: Vec<_> = sent.iter().map(|f| (f[23], f[34])).collect();
        assert_eq!(told, vec![(1, 11); usize::from(opened == 1)], "{what}: {sent:02x?}");
    }
}

#[test]
fn headers_spread_over_segments_are_refused_and_split_payload_passes() {
    for (first, verdict) in [
        (10, "header_split"),
        (20, "header_split"),
        (41, "header_split"),
        (42, "forwarded"),
        (50, "forwarded"),
    ] {
        let (moved, sent) = delta(&mut Bed::new(), &query(), first);
        assert_eq!(moved.get(verdict), Some(&1), "first segment of {first}: {moved:?}");
        assert_eq!(sent.len(), usize::from(verdict == "forwarded"));
    }
    let (moved, _) = delta(&mut Bed::new(), &syn(), 50);
    assert_eq!(moved.get("header_split"), Some(&1), "{moved:?}");
}

#[test]
fn a_service_without_backends_answers_port_unreachable() {
    let mut bed = Bed::new();
    bed.serve(&[]);
    for frame in [syn(), query()] {
        let (moved, sent) = delta(&mut bed, &frame, frame.len());
        assert_eq!(
            moved,
            BTreeMap::from([("rx_packets", 1), ("rejected", 1), ("icmp_sent", 1), ("tx_packets", 1)])
        );
        let [answer] = &sent[..] else { panic!("{sent:02x?}") };
        assert_eq!((answer[23], answer[34], answer[35]), (1, 3, 3));
        assert_eq!((&answer[26..30], &answer[30..34]), (&[203, 0, 113, 80][..], &[198, 51, 100, 7][..]));
        assert_eq!(answer[42..], frame[14..], "the packet is quoted");
    }
}

#[test]
fn rule_n4_an_undefined_port_of_a_cluster_ip_is_rejected() {
    let mut bed = Bed::new();
    let frame = udp::datagram(&to("10.96.0.10:99"), b"");
    let (moved, sent) = delta(&mut bed, &frame, frame.len());
    assert_eq!((moved["rejected"], sent.len()), (1, 1));
}

#[test]
fn segments_of_no_connection_are_reset_and_resets_are_not_answered() {
    let mut bed = Bed::new();
    let rows = [
        (ACK, true),
        (SYN | ACK, true),
        (FIN | ACK, true),
        (0, true),
        (SYN | FIN, true),
        (RST, false),
        (RST | ACK, false),
    ];
    for (flags, answered) in rows {
        let frame = tcp::segment(&to(VIP), 7, 99, flags, b"x");
        let (moved, sent) = delta(&mut bed, &frame, frame.len());
        assert_eq!((moved["tcp_no_flow"], sent.len()), (1, usize::from(answered)), "flags {flags:#x}");
        if let [reset] = &sent[..] {
            assert_eq!(ends(reset), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));
            assert_ne!(reset[47] & RST, 0);
        }
    }
    assert_eq!(bed.counts().get("flows_opened"), None);
}

#[test]
fn answers_are_limited() {
    let mut bed = Bed::new();
    bed.serve(&[]);
    let frames: Vec<_> = (0..3_000).map(|n: u32| udp::datagram(&to(VIP), &n.to_be_bytes())).collect();
    let sent: usize = frames.chunks(64).map(|c| bed.exchange(c).len()).sum();
    assert_eq!((sent, bed.counts()["rejected"], bed.counts()["reject_limited"]), (1_000, 1_000, 2_000));
    bed.pass(1_000);
    assert_eq!(bed.exchange(&frames[..10]).len(), 10);
}

#[test]
fn echo_requests_to_vips_and_own_addresses_are_answered() {
    let mut bed = Bed::new();
    for address in [VIP, CLUSTER_IP, "192.0.2.1:0", "10.1.0.1:0"] {
        let request = to(address).echo_request(77, 3, b"are you there?");
        let (moved, sent) = delta(&mut bed, &request, request.len());
        assert_eq!(moved, BTreeMap::from([("rx_packets", 1), ("tx_packets", 1), ("echo_replied", 1)]));
        let [reply] = &sent[..] else { panic!("{sent:02x?}") };
        assert_eq!((reply[34], &reply[38..], reply[22]), (0, &request[38..], 64));
        assert_eq!((&reply[..6], &reply[6..12]), (&ROUTER_MAC[..], &MAC[..]));
        assert_eq!((&reply[26..30], &reply[30..34]), (&request[30..34], &request[26..30]));
    }
}

#[test]
fn arp_is_answered_for_our_addresses_only() {
    let mut bed = Bed::new();
    let ask = |target: [u8; 4]| {
        arp::request(ROUTER_MAC, u32::from_be_bytes([192, 0, 2, 254]), u32::from_be_bytes(target))
    };
    for (target, answered) in [
        ([192, 0, 2, 1], true),
        ([203, 0, 113, 80], true),
        ([10, 96, 0, 10], true),
        ([10, 1, 0, 1], true),
        ([192, 0, 2, 2], false),
    ] {
        let (moved, sent) = delta(&mut bed, &ask(target), 42);
        assert_eq!(moved["arp_handled"], 1, "the router is a next hop in use");
        assert_eq!(sent.len(), usize::from(answered), "{target:?}");
        if let [reply] = &sent[..] {
            let reply = Arp::parse(reply).unwrap();
            assert_eq!(
                (reply.operation, reply.sender_mac, reply.sender.to_be_bytes()),
                (Operation::Reply, MAC, target)
            );
        }
    }
    let stranger = arp::request([2, 0, 0, 0, 0, 0x77], 0xc000_0277, 0xc000_0288);
    assert_eq!(delta(&mut bed, &stranger, 42).0["arp_ignored"], 1);
    let rows = [
        ("claims our address", arp::request([2, 0, 0, 0, 0, 0x66], 0xc000_0201, 0xc000_02fe)),
        ("claims a VIP", arp::request([2, 0, 0, 0, 0, 0x66], 0xcb00_7150, 0xc000_02fe)),
        ("from a multicast address", arp::request([3, 0, 0, 0, 0, 0x66], 0xc000_0266, 0xc000_0201)),
        ("from our own Ethernet address", arp::request(MAC, 0xc000_0266, 0xc000_0201)),
    ];
    for (what, frame) in rows {
        let (moved, sent) = delta(&mut bed, &frame, 42);
        assert_eq!((moved.get("arp_bad"), sent.len()), (Some(&1), 0), "{what}");
    }
    assert_eq!(delta(&mut bed, &ask([192, 0, 2, 1])[..41], 41).0["arp_bad"], 1);
}

#[test]
fn only_the_chosen_backend_can_answer() {
    // RFC 4787 REQ-8: filtering by address and port.
    let mut bed = Bed::new();
    let out = bed.pass_through(&query());
    let good = answer_to(&out);
    let strangers = [
        Flight { source: "10.244.0.77:8080".parse().unwrap(), ..good },
        Flight { source: std::net::SocketAddr::new(good.source.ip(), 8081), ..good },
    ];
    for flight in strangers {
        assert!(bed.exchange(&[udp::datagram(&flight, b"forged")]).is_empty());
    }
    assert_eq!(bed.counts()["snat_no_flow"], 2);
    bed.pass_through(&udp::datagram(&good, b"real"));
}

#[test]
fn frames_run_out_and_come_back() {
    let mut bed = Bed::new();
    bed.nic.limit_frames(1);
    let ask = arp::request(ROUTER_MAC, 0xc000_02fe, 0xc000_0201);
    let (moved, _) = delta(&mut bed, &ask, 42);
    assert_eq!(moved.get("no_memory"), Some(&1), "{moved:?}");
    bed.nic.limit_frames(64);
    assert_eq!(delta(&mut bed, &ask, 42).1.len(), 1);
}

/// Every frame that came in has exactly one verdict, but for those still held.
fn one_verdict_each(bed: &Bed) {
    for worker in &bed.workers {
        let counters = worker.counters();
        let verdicts: u64 = Verdict::ALL.iter().map(|&v| counters.verdict(v)).sum();
        assert_eq!(
            verdicts + counters.tally(Tally::HeldFrames) + counters.tally(Tally::FragmentsHeld),
            counters.tally(Tally::RxPackets),
            "{:?}",
            bed.counts()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any bytes: no panic, one verdict each, and whatever leaves is right.
    #[test]
    fn any_bytes_have_one_verdict(frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<u8>()), 1..100)) {
        let mut bed = Bed::new();
        for (mut frame, kind) in frames {
            if kind & 1 != 0 && frame.len() >= 14 {
                frame[..6].copy_from_slice(&MAC);
                frame[12..14].copy_from_slice(&[8, if kind & 2 != 0 { 6 } else { 0 }]);
            }
            let first = if kind & 4 != 0 { usize::from(kind) } else { frame.len() };
            bed.nic.inject_segments(&frame, first);
        }
        bed.turn();
        bed.take();
        bed.now_ms += 1;
        bed.turn();
        one_verdict_each(&bed);
    }

    /// Good packets with a few bytes changed, in good or bad company: no panic, one verdict each, nothing leaves with the client's address
    /// towards a backend, and every checksum that came right leaves right.
    #[test]
    fn changed_packets_never_leave_untranslated(
        changes in prop::collection::vec((0u8..6, any::<u8>(), prop::collection::vec((0usize..80, any::<u8>()), 0..3)), 1..120),
    ) {
        let mut bed = Bed::bare(1, &Spread::Unknown, 64);
        bed.serve(&["10.244.0.1:8080", "10.244.0.2:8080"]);
        bed.know_router();
        let mut last: Option<Vec<u8>> = None;
        for (kind, port, changes) in changes {
            let flight = from(&format!("198.51.100.7:{}", 1_000 + u32::from(port)), VIP);
            let mut frame = match (kind, &last) {
                (0, _) => udp::datagram(&flight, b"some payload"),
                (1, _) => tcp::segment(&flight, 1, 0, SYN, b""),
                (2, _) => tcp::segment(&flight, 2, 1, ACK | port, b"more payload"),
                (3, _) => flight.echo_request(1, 2, b"ping"),
                (4, Some(sent)) if sent[23] == 17 => udp::datagram(&answer_to(sent), b"answer"),
                (5, Some(sent)) if sent[23] == 6 => tcp::segment(&answer_to(sent), 9, 9, SYN | ACK | port & FIN, b"answer"),
                _ => udp::datagram(&flight, b""),
            };
            for (at, value) in &changes {
                if let Some(byte) = frame.get_mut(*at) {
                    *byte ^= value;
                }
            }
            bed.nic.inject(&frame);
            bed.turn();
            let sent = if changes.is_empty() { bed.take() } else { bed.nic.take_sent() };
            for out in sent {
                prop_assert_eq!(&out[6..12], &MAC[..]);
                if out[12..14] == [8, 0] && matches!(out[23], 6 | 17) {
                    let (source, destination) = ends(&out);
                    let from_us = source.ip() == std::net::IpAddr::from(harness::SNAT);
                    let from_vip = source == VIP.parse().unwrap() || source == CLUSTER_IP.parse().unwrap();
                    prop_assert!(from_us || from_vip, "{source} > {destination}");
                    prop_assert_eq!(from_us, destination.ip().to_string().starts_with("10.244.0."));
                    if from_us {
                        last = Some(out);
                    }
                }
            }
        }
        bed.now_ms += 1;
        bed.turn();
        one_verdict_each(&bed);
    }
}
