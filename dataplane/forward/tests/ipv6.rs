//! IPv6 through the whole path: full NAT (NAT66) and dnat, several workers, extension headers, refusals, echo. What is the same code for both
//! families is tested with IPv4; here is what could differ.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::errors::error6;
use harness::services::{DNAT, Port};
use harness::{Bed, MAC, ROUTER_MAC, answer_to, ends, from};
use std::collections::BTreeMap;
use turnpike_forward::limits::{ARP_REFRESH_MS, ARP_RETRY_MS};
use turnpike_packet::flight::check;
use turnpike_packet::io::Spread;
use turnpike_packet::sctp::{self, chunk};
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::{icmpv4, icmpv6, ipv4, ipv6, ndp, tcp, udp};
use turnpike_wire::update::{Action, FrontendKind, Mode, Protocol, Treatment};

const CLIENT: &str = "[2001:db8:c::7]:40000";
const VIP: &str = "[2001:db8:80::80]:80";
const BACKENDS: &[&str] = &["[fd00::1]:8080", "[fd00::2]:8080", "[fd00::3]:8080"];
/// Where the transport header starts.
const L4: usize = 54;

fn web(protocol: Protocol, treatment: Treatment) -> Port {
    Port::new("web/IPv6", protocol, BACKENDS).with(VIP, FrontendKind::LoadBalancer, treatment, treatment)
}

fn bed(workers: usize, spread: &Spread) -> Bed {
    bed_with(workers, spread, Treatment::FORWARD)
}

fn bed_with(workers: usize, spread: &Spread, treatment: Treatment) -> Bed {
    let mut bed = Bed::dual(workers, spread, 1_500);
    let v4 = Port::new("web/IPv4", Protocol::Tcp, &["10.244.0.1:8080"]);
    let v4 = v4.on(harness::VIP, FrontendKind::LoadBalancer);
    let [tcp, udp, sctp] =
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| web(protocol, treatment));
    bed.put(&[tcp, udp, sctp, v4]);
    bed
}

/// What the counters moved by, without those that every frame moves.
fn delta(bed: &mut Bed, body: impl FnOnce(&mut Bed)) -> BTreeMap<&'static str, u64> {
    let before = bed.counts();
    body(bed);
    let mut after = bed.counts();
    for (name, value) in before {
        let now = after.remove(name).unwrap_or(0);
        if now != value {
            after.insert(name, now.wrapping_sub(value));
        }
    }
    after.retain(|name, _| !matches!(*name, "rx_bytes" | "tx_bytes" | "rx_packets"));
    after
}

#[test]
fn a_connection_walks_through_by_nat66_and_back() {
    let mut bed = bed(1, &Spread::Unknown);
    let there = from(CLIENT, VIP);
    let syn = bed.pass_through(&tcp::segment(&there, 1, 0, SYN, b""));
    let (seen, backend) = ends(&syn);
    assert_eq!(seen.ip().to_string(), harness::SNAT6);
    assert!(BACKENDS.contains(&backend.to_string().as_str()) && seen.port() >= 1_024);
    assert_eq!((syn[21], &syn[..6]), (63, &ROUTER_MAC[..]), "one hop less, to the router");
    let back = answer_to(&syn);
    let answer = bed.pass_through(&tcp::segment(&back, 9, 2, SYN | ACK, b""));
    assert_eq!(ends(&answer), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));
    for n in 0..20 {
        let data = bed.pass_through(&tcp::segment(&there, 2 + n * 5, 10 + n, ACK | PSH, b"hello"));
        assert_eq!((ends(&data), &data[L4 + 20..]), ((seen, backend), &b"hello"[..]));
        let data = bed.pass_through(&tcp::segment(&back, 10 + n, 7 + n * 5, ACK, b"!"));
        assert_eq!(ends(&data), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));
    }
    let moved = delta(&mut bed, |bed| {
        bed.pass_through(&tcp::segment(&there, 102, 30, FIN | ACK, b""));
        bed.pass_through(&tcp::segment(&back, 30, 103, FIN | ACK, b""));
        bed.pass(240_000 + 16_000);
    });
    assert_eq!((moved["flows_closed"], moved["forwarded"]), (1, 2));
    assert_eq!(bed.count("flows_live"), 0);
}

#[test]
fn datagrams_have_flows_and_right_checksums_whatever_they_carry() {
    let mut bed = bed(1, &Spread::Unknown);
    let mut zeros = 0;
    // Short ones too: shorter than a TCP header. Among so many payloads some make a sum of zero, which must leave as all ones.
    for n in 0..70_000u32 {
        let sent = udp::datagram(&from(CLIENT, VIP), &n.to_be_bytes()[..(n % 5) as usize]);
        let got = bed.pass_through(&sent);
        zeros += u32::from(got[L4 + 6..L4 + 8] == [0xff; 2]);
        assert_eq!(got[L4 + 8..], sent[L4 + 8..]);
        if n % 1_000 == 0 {
            let reply = bed.pass_through(&udp::datagram(&answer_to(&got), b"reply"));
            assert_eq!(ends(&reply), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));
        }
    }
    assert!(zeros < 10);
    assert_eq!((bed.count("flows_opened"), bed.count("flows_live")), (1, 1));
}

#[test]
fn rfc8200_8_1_a_datagram_without_checksum_is_dropped() {
    let mut bed = bed(1, &Spread::Unknown);
    let mut without = udp::datagram(&from(CLIENT, VIP), b"data");
    without[L4 + 6..L4 + 8].fill(0);
    let moved = delta(&mut bed, |bed| assert!(bed.exchange(&[without]).is_empty()));
    assert_eq!(moved, BTreeMap::from([("bad_l4", 1)]));
}

#[test]
fn associations_walk_through() {
    let mut bed = bed(1, &Spread::Unknown);
    let init = sctp::packet(&from(CLIENT, VIP), 0, &[(chunk::INIT, 0, &sctp::init(7, 1))]);
    let there = bed.pass_through(&init);
    let back = answer_to(&there);
    let ack = bed.pass_through(&sctp::packet(&back, 7, &[(chunk::INIT_ACK, 0, &sctp::init(9, 1))]));
    assert_eq!(ends(&ack), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));
    let cookie = bed.pass_through(&sctp::packet(&from(CLIENT, VIP), 9, &[(chunk::COOKIE_ECHO, 0, b"cook")]));
    assert_eq!(ends(&cookie), ends(&there));
}

#[test]
fn both_families_of_a_burst_are_forwarded_and_kept_apart() {
    let mut bed = bed(1, &Spread::Unknown);
    let frames: Vec<_> = (0..64u16)
        .map(|n| match n % 2 {
            0 => tcp::segment(&from(&format!("[2001:db8:c::7]:{}", 2_000 + n), VIP), 1, 0, SYN, b""),
            _ => tcp::segment(&from(&format!("198.51.100.7:{}", 2_000 + n), harness::VIP), 1, 0, SYN, b""),
        })
        .collect();
    let moved = delta(&mut bed, |bed| assert_eq!(bed.exchange(&frames).len(), 64));
    assert_eq!(
        moved,
        BTreeMap::from([("forwarded", 64), ("flows_opened", 64), ("flows_live", 64), ("tx_packets", 64)])
    );
    let flows = bed.workers[0].flows();
    assert_eq!((flows.v4.live(), flows.v6.live()), (32, 32));
}

#[test]
fn dnat_keeps_the_clients_address() {
    let mut bed = bed(1, &Spread::Unknown);
    let dnat = Treatment { mode: Mode::Dnat, ..Treatment::FORWARD };
    bed.put(&[Port::new("web/IPv6", Protocol::Tcp, BACKENDS).with(
        VIP,
        FrontendKind::LoadBalancer,
        dnat,
        dnat,
    )]);
    let syn = bed.pass_through(&tcp::segment(&from(CLIENT, VIP), 1, 0, SYN, b""));
    assert_eq!(ends(&syn).0, CLIENT.parse().unwrap());
    let answer = bed.pass_through(&tcp::segment(&answer_to(&syn), 9, 2, SYN | ACK, b""));
    assert_eq!(ends(&answer), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));
    // Rule A4: a backend that is its own client would answer itself past the gateway.
    let itself = BACKENDS.iter().map(|backend| backend.replace("8080", "5000"));
    for client in itself {
        for port in 0..20 {
            let client = client.replace("5000", &format!("{}", 5_000 + port));
            let out = bed.pass_through(&tcp::segment(&from(&client, VIP), 1, 0, SYN, b""));
            let (seen, backend) = ends(&out);
            let is_hairpin = backend.ip().to_string() == client.split(']').next().unwrap()[1..];
            assert_eq!(seen.ip().to_string() == harness::SNAT6, is_hairpin, "{seen} to {backend}");
        }
    }
}

fn rss(workers: u16, ipv6: bool) -> Spread {
    let key = (0..40u8).map(|i| i.wrapping_mul(37).wrapping_add(11)).collect();
    Spread::Rss(turnpike_packet::io::Rss { key, reta: (0..128).map(|i| i % workers).collect(), ipv6 })
}

#[test]
fn replies_come_back_to_the_worker_of_the_flow() {
    for (workers, treatment) in (2..5).flat_map(|workers| [(workers, Treatment::FORWARD), (workers, DNAT)]) {
        for spread in [Spread::Unknown, rss(workers, true), rss(workers, false)] {
            let mut bed = bed_with(usize::from(workers), &spread, treatment);
            for n in 0..300u16 {
                let there = from(&format!("[2001:db8:c::{n:x}]:{}", 1_000 + n), VIP);
                let syn = bed.pass_through(&tcp::segment(&there, 1, 0, SYN, b""));
                let answer = bed.pass_through(&tcp::segment(&answer_to(&syn), 9, 2, SYN | ACK, b""));
                assert_eq!(ends(&answer), (VIP.parse().unwrap(), there.source));
            }
            assert_eq!(bed.count("flows_opened"), 300);
            let is_spread = bed.workers.iter().all(|w| w.flows().v6.live() > 40);
            assert!(is_spread, "{spread:?}: every worker has its share");
            let is_steered = spread == rss(workers, true);
            assert_eq!(bed.count("handed_off") == 0, is_steered, "{spread:?} {treatment:?}");
        }
    }
}

#[test]
fn what_a_nic_hashes_in_its_own_way_reaches_the_worker_of_the_flow() {
    let mut bed = bed(3, &rss(3, true));
    for n in 0..60u16 {
        let there = from(&format!("[2001:db8:c::{n:x}]:{}", 1_000 + n), VIP);
        let syn = bed.pass_through(&tcp::segment(&there, 1, 0, SYN, b""));
        let answer = bed.pass_through(&tcp::segment(&answer_to(&syn), 9, 2, SYN | ACK, b""));
        assert_eq!(ends(&answer).1, there.source);
        // With a destination option in front of TCP.
        let ack = extended(&tcp::segment(&there, 2, 10, ACK, b""), 60, &[6, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(ends(&bed.pass_through(&ack)).1, ends(&syn).1);
    }
    assert_eq!((bed.count("flows_opened"), bed.count("flows_adopted")), (60, 0));
    assert!(bed.count("handed_off") > 20, "the NIC gives all of those to one worker");
}

/// A frame with extension headers between the fixed header and TCP or UDP.
fn extended(frame: &[u8], first: u8, extensions: &[u8]) -> Vec<u8> {
    let mut out = [&frame[..L4], extensions, &frame[L4..]].concat();
    out[20] = first;
    let length = (out.len() - L4) as u16;
    out[18..20].copy_from_slice(&length.to_be_bytes());
    out
}

#[test]
fn extension_headers_are_walked_over_and_kept() {
    let mut bed = bed(1, &Spread::Unknown);
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let destination_options = extended(&tcp::segment(&from(CLIENT, VIP), 1, 0, SYN, b""), 60, &options(6));
    assert_eq!(check(&destination_options), Ok(()));
    let out = bed.pass_through(&destination_options);
    assert_eq!((out[20], &out[L4..L4 + 8]), (60, &options(6)[..]));
    assert_eq!(ends(&out).0.ip().to_string(), harness::SNAT6);
    let plain = bed.pass_through(&tcp::segment(&from(CLIENT, VIP), 1, 0, SYN, b""));
    assert_eq!(ends(&plain), ends(&out), "one flow");

    let datagram = udp::datagram(&from(CLIENT, VIP), b"data");
    let many: Vec<u8> = (0..9).flat_map(|n| options(if n == 8 { 17 } else { 60 })).collect();
    let rows: [(&str, Vec<u8>, &str); 9] = [
        ("hop-by-hop options", extended(&datagram, 0, &options(17)), "forwarded"),
        ("an atomic fragment (RFC 6946)", extended(&datagram, 44, &[17, 0, 0, 0, 0, 0, 0, 9]), "forwarded"),
        ("a routing header of type 0", extended(&datagram, 43, &[17, 0, 0, 0, 0, 0, 0, 0]), "source_route"),
        (
            "a routing header with segments left",
            extended(&datagram, 43, &[17, 0, 4, 1, 0, 0, 0, 0]),
            "source_route",
        ),
        ("too many headers", extended(&datagram, 60, &many), "bad_ipv6"),
        (
            "a header that is longer than the packet",
            extended(&datagram, 60, &[17, 200, 1, 4, 0, 0, 0, 0]),
            "bad_ipv6",
        ),
        (
            "hop-by-hop options behind others",
            extended(&datagram, 60, &[options(0), options(17)].concat()),
            "bad_ipv6",
        ),
        ("nothing behind", extended(&datagram, 59, &[]), "other_protocol"),
        ("ICMP for IPv4", extended(&datagram, ipv4::ICMP, &[]), "other_protocol"),
    ];
    for (row, frame, fate) in rows {
        let moved = delta(&mut bed, |bed| _ = bed.exchange(&[frame]));
        assert_eq!(moved.get(fate), Some(&1), "{row}: {moved:?}");
    }
}

#[test]
fn what_is_no_packet_is_counted_and_never_leaves() {
    let mut bed = bed(1, &Spread::Unknown);
    let good = udp::datagram(&from(CLIENT, VIP), b"data");
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let mapped: std::net::Ipv6Addr = "::ffff:203.0.113.80".parse().unwrap();
    let rows: [(&str, Vec<u8>, &str); 14] = [
        ("another version", with(14, &[0x45]), "bad_ipv6"),
        ("longer than the frame", with(18, &[9, 9]), "bad_ipv6"),
        ("cut off", good[..50].to_vec(), "truncated"),
        ("a jumbogram", with(18, &[0, 0, 0]), "bad_ipv6"),
        ("a shorter datagram than its header", with(L4 + 4, &[0, 7]), "bad_l4"),
        ("a longer datagram than the packet", with(L4 + 4, &[0, 99]), "bad_l4"),
        ("from nobody", with(22, &[0; 16]), "bad_source"),
        ("from a group", with(22, &[0xff, 2]), "bad_source"),
        ("from the VIP", with(22, &good[38..54]), "bad_source"),
        ("from an IPv4-mapped address", with(22, &mapped.octets()), "bad_ipv6"),
        ("to an IPv4-mapped VIP", with(38, &mapped.octets()), "bad_ipv6"),
        ("to nobody we know", with(38, &[0x2a]), "not_ours"),
        ("to a group of hosts", with(0, &[0x33, 0x33, 0, 0, 0, 1]), "other_mac"),
        ("no hop left", with(21, &[1]), "ttl_expired"),
    ];
    for (row, frame, fate) in rows {
        let moved = delta(&mut bed, |bed| {
            let out = bed.exchange(&[frame]);
            assert!(out.iter().all(|f| f[20] == ipv6::ICMP), "{row}: {out:02x?}");
        });
        assert_eq!(moved.get(fate), Some(&1), "{row}: {moved:?}");
        assert_eq!(moved.get("forwarded"), None, "{row}");
    }
}

#[test]
fn refusals_are_answered_over_ipv6() {
    let mut bed = bed(1, &Spread::Unknown);
    let reject = Treatment { action: Action::Reject, ..Treatment::FORWARD };
    bed.put(&[
        web(Protocol::Tcp, Treatment::FORWARD),
        Port::new("closed", Protocol::Udp, &[]).with(
            "[2001:db8:80::81]:53",
            FrontendKind::LoadBalancer,
            reject,
            reject,
        ),
        Port::new("tags", Protocol::Sctp, BACKENDS).with(
            VIP,
            FrontendKind::LoadBalancer,
            Treatment::FORWARD,
            Treatment::FORWARD,
        ),
    ]);
    let asked = udp::datagram(&from(CLIENT, "[2001:db8:80::81]:53"), b"query");
    let mut out = Vec::new();
    let moved = delta(&mut bed, |bed| out = bed.exchange(std::slice::from_ref(&asked)));
    assert_eq!(moved, BTreeMap::from([("rejected", 1), ("icmp_sent", 1), ("tx_packets", 1)]));
    assert_eq!(out[0][L4..L4 + 2], [icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE]);
    assert_eq!((&out[0][22..38], &out[0][L4 + 8..]), (&asked[38..54], &asked[14..]), "from whom it asked");

    let stray = tcp::segment(&from(CLIENT, VIP), 5, 77, FIN | ACK, b"");
    let moved = delta(&mut bed, |bed| out = bed.exchange(&[stray]));
    assert_eq!(moved, BTreeMap::from([("tcp_no_flow", 1), ("resets_sent", 1), ("tx_packets", 1)]));
    assert_eq!((out[0][L4 + 13], &out[0][L4 + 4..L4 + 8]), (RST, &77u32.to_be_bytes()[..]));
    assert_eq!(ends(&out[0]), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));

    let stray = sctp::packet(&from(CLIENT, VIP), 5, &[(chunk::DATA, 3, b"x")]);
    let moved = delta(&mut bed, |bed| out = bed.exchange(&[stray]));
    assert_eq!(moved, BTreeMap::from([("sctp_no_flow", 1), ("resets_sent", 1), ("tx_packets", 1)]));
    assert_eq!(out[0][L4 + 12], chunk::ABORT);
}

#[test]
fn echo_requests_to_vips_and_own_addresses_are_answered() {
    let mut bed = bed(1, &Spread::Unknown);
    let link_local = "[fe80::ff:fe00:1]:0";
    for to in [VIP, "[2001:db8::1]:0", "[2001:db8:1::1]:0", link_local] {
        let request = from(CLIENT, to).echo_request(7, 1, b"ping");
        let mut out = Vec::new();
        let moved = delta(&mut bed, |bed| out = bed.exchange(std::slice::from_ref(&request)));
        assert_eq!(moved, BTreeMap::from([("echo_replied", 1), ("tx_packets", 1)]), "{to}");
        assert_eq!((out[0][L4], &out[0][L4 + 4..]), (icmpv6::ECHO_REPLY, &request[L4 + 4..]));
        assert_eq!((&out[0][22..38], &out[0][38..54]), (&request[38..54], &request[22..38]));
        assert_eq!(out[0][6..12], MAC);
    }
    let other = from(CLIENT, "[2001:db8::9]:0").echo_request(7, 1, b"ping");
    assert_eq!(
        delta(&mut bed, |bed| assert!(bed.exchange(&[other]).is_empty())),
        BTreeMap::from([("not_ours", 1)])
    );
}

#[test]
fn rfc4443_the_gateways_own_errors() {
    let mut bed = bed(1, &Spread::Unknown);
    let there = from(CLIENT, VIP);
    bed.pass_through(&udp::datagram(&there, b"open"));
    let long = udp::datagram(&there, &[7; 1_500]);
    let mut out = Vec::new();
    let moved = delta(&mut bed, |bed| out = bed.exchange(std::slice::from_ref(&long)));
    assert_eq!(moved, BTreeMap::from([("too_big", 1), ("icmp_sent", 1), ("tx_packets", 1)]));
    assert_eq!((out[0][L4], &out[0][L4 + 4..L4 + 8]), (icmpv6::TOO_BIG, &1_500u32.to_be_bytes()[..]));
    assert_eq!(
        (out[0].len(), &out[0][22..38]),
        (14 + 1_280, &"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets()[..])
    );
    let mut last = udp::datagram(&there, b"last hop");
    last[21] = 1;
    let moved = delta(&mut bed, |bed| out = bed.exchange(&[last]));
    assert_eq!(moved, BTreeMap::from([("ttl_expired", 1), ("icmp_sent", 1), ("tx_packets", 1)]));
    assert_eq!(out[0][L4], icmpv6::TIME_EXCEEDED);
}

#[test]
fn errors_of_others_are_translated_in_both_directions() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut bed = bed(1, &Spread::Unknown);
        let make = |flight: &turnpike_packet::flight::Flight, flags, number| match protocol {
            Protocol::Udp => udp::datagram(flight, &[7; 1_300]),
            _ => tcp::segment(flight, number, 10, flags, if flags == ACK { &[7; 1_300] } else { b"" }),
        };
        let there = from(CLIENT, VIP);
        let first = bed.pass_through(&make(&there, SYN, 1));
        let answer = bed.pass_through(&make(&answer_to(&first), SYN | ACK, 9));
        let sent = make(&there, ACK, 2);
        let left = bed.pass_through(&sent);
        let too_big = icmpv4::Complaint::TooBig { mtu: 1_300 };
        let mut out = Vec::new();
        // About what went to the backend: to the client, as from the VIP, quoting what the client sent.
        let moved = delta(&mut bed, |bed| out = bed.exchange(&[error6(&left, too_big)]));
        assert_eq!(moved, BTreeMap::from([("forwarded", 1), ("icmp_translated", 1), ("tx_packets", 1)]));
        assert_eq!((&out[0][22..38], &out[0][38..54]), (&sent[38..54], &sent[22..38]));
        assert_eq!((out[0][L4], &out[0][L4 + 4..L4 + 8]), (icmpv6::TOO_BIG, &1_300u32.to_be_bytes()[..]));
        let quoted = &out[0][L4 + 8..];
        let mut wanted = sent[14..14 + quoted.len()].to_vec();
        wanted[7] = quoted[7];
        assert_eq!(quoted, wanted, "as it was sent, with what hops were left");
        // About what went to the client: to the backend.
        let moved = delta(&mut bed, |bed| out = bed.exchange(&[error6(&answer, too_big)]));
        assert_eq!(moved["icmp_translated"], 1);
        assert_eq!(ends(&[&out[0][..14], &out[0][L4 + 8..]].concat()), (ends(&first).1, ends(&first).0));
        assert_eq!(out[0][38..54], first[38..54], "to the backend");
        // Nothing about a flow that is not there, with a wrong checksum, or to somebody else.
        let mut wrong = error6(&left, too_big);
        wrong[L4 + 2] ^= 1;
        let stranger = error6(&make(&from("[2001:db8:1::1]:999", "[fd00::1]:8080"), SYN, 1), too_big);
        let mut too_narrow = error6(&left, icmpv4::Complaint::TooBig { mtu: 1_279 });
        too_narrow[0] = MAC[0];
        let rows = [("icmp_bad", wrong), ("icmp_no_flow", stranger), ("icmp_bad", too_narrow)];
        for (fate, frame) in rows {
            let moved = delta(&mut bed, |bed| assert!(bed.exchange(&[frame]).is_empty()));
            assert_eq!(moved, BTreeMap::from([(fate, 1)]));
        }
    }
}

#[test]
fn rfc4861_6_3_routers_that_say_so_themselves_are_used_if_they_shall_be() {
    let router = 0xfe80 << 112 | 0xfe;
    let says = |lifetime_s| ndp::router_advertisement(ROUTER_MAC, router, lifetime_s).to_vec();
    let syn = |port: u16| tcp::segment(&from(&format!("[2001:db8:c::7]:{port}"), VIP), 1, 0, SYN, b"");
    let mut bed = Bed::listening();
    let asks = bed.nic.take_sent();
    bed.put(&[web(Protocol::Tcp, Treatment::FORWARD)]);
    let asks = [asks, bed.nic.take_sent()].concat();
    assert!(asks.is_empty() || asks.iter().all(|f| f[54] == icmpv6::ROUTER_SOLICITATION));
    let moved = delta(&mut bed, |bed| assert!(bed.exchange(&[syn(1_000)]).is_empty()));
    assert_eq!(moved.get("no_route"), Some(&1), "{moved:?}");

    let moved = delta(&mut bed, |bed| assert!(bed.exchange(&[says(1_800)]).is_empty()));
    assert_eq!(moved.get("ndp_handled"), Some(&1), "{moved:?}");
    let out = bed.pass_through(&syn(1_001));
    assert_eq!(out[..6], ROUTER_MAC, "to the router, whose Ethernet address was in its message");
    bed.exchange(&[says(0)]);
    let moved = delta(&mut bed, |bed| _ = bed.exchange(&[syn(1_002)]));
    assert_eq!(moved.get("no_route"), Some(&1), "it said that it is none: {moved:?}");
    bed.exchange(&[says(30)]);
    bed.pass_through(&syn(1_003));
    bed.pass(31_000);
    let moved = delta(&mut bed, |bed| _ = bed.exchange(&[syn(1_004)]));
    assert_eq!(moved.get("no_route"), Some(&1), "its time is over: {moved:?}");
    assert!(bed.take().iter().all(|f| f[54] != icmpv6::ROUTER_ADVERTISEMENT));

    // A port that does not listen leaves its messages to the kernel, or alone.
    let mut deaf = self::bed(1, &Spread::Unknown);
    let moved = delta(&mut deaf, |bed| assert!(bed.exchange(&[says(1_800)]).is_empty()));
    assert_eq!(moved, BTreeMap::from([("ndp_ignored", 1)]));
    assert_eq!(deaf.shared.routers.any(), None);
}

#[test]
fn rfc4861_7_2_solicitations_for_own_addresses_are_answered() {
    let mut bed = bed(1, &Spread::Unknown);
    let number = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().to_bits();
    let asks = |target: &str| ndp::solicitation(ROUTER_MAC, number("fe80::fe"), number(target)).to_vec();
    for target in ["2001:db8:80::80", "2001:db8::1", "fe80::ff:fe00:1", harness::SNAT6] {
        let mut out = Vec::new();
        let moved = delta(&mut bed, |bed| out = bed.exchange(&[asks(target)]));
        assert_eq!(moved, BTreeMap::from([("ndp_handled", 1), ("tx_packets", 1)]), "{target}");
        let answer = ndp::Message::parse(&out[0]).unwrap();
        assert_eq!(
            (answer.target, answer.link, answer.destination),
            (number(target), Some(MAC), number("fe80::fe"))
        );
    }
    let claims = ndp::announcement(ROUTER_MAC, number("2001:db8:80::80")).to_vec();
    for (frame, fate) in [(asks("2001:db8::77"), "ndp_handled"), (claims, "ndp_bad")] {
        // Whoever asks for another is learned from, if it is a next hop.
        let moved = delta(&mut bed, |bed| assert!(bed.exchange(&[frame]).is_empty()));
        assert_eq!(moved, BTreeMap::from([(fate, 1)]));
    }
    // Duplicate address detection of another host: it is told with all others (section 7.2.4).
    let mut detects = asks("2001:db8:80::80");
    detects[22..38].fill(0);
    detects.truncate(78);
    detects[18..20].copy_from_slice(&24u16.to_be_bytes());
    detects[56..58].fill(0);
    let sum = !turnpike_packet::checksum::transport_sum6(
        0,
        ndp::solicited_node(number("2001:db8:80::80")),
        ipv6::ICMP,
        &detects[54..],
    );
    detects[56..58].copy_from_slice(&sum.to_be_bytes());
    let out = bed.exchange(&[detects]);
    assert_eq!(out, [ndp::announcement(MAC, number("2001:db8:80::80")).to_vec()]);
}

#[test]
fn rfc4861_7_3_3_a_neighbour_is_asked_alone_whether_it_is_still_there() {
    let mut bed = bed(1, &Spread::Unknown);
    // What is taken up is reported, twice.
    bed.pass(ARP_REFRESH_MS / 2);
    bed.take();
    bed.pass(ARP_REFRESH_MS / 2);
    // Both families know the router. It alone is asked first, then all are.
    let to_router = |frame: &Vec<u8>| frame[..6] == ROUTER_MAC;
    for asked_alone in [true, false, false] {
        let asked = bed.take();
        let kinds: Vec<_> = asked.iter().map(|f| (f[12], to_router(f))).collect();
        assert_eq!(kinds, [(8, asked_alone), (0x86, asked_alone)]);
        bed.pass(ARP_RETRY_MS);
    }
    assert!(
        bed.exchange(&[tcp::segment(&from(CLIENT, VIP), 1, 0, SYN, b"")])
            .iter()
            .all(|f| f[..2] == [0x33, 0x33])
    );
    // Whoever answers stays known, and traffic has not stopped meanwhile.
    bed.know_router();
    bed.pass(1);
    assert_eq!(bed.take().len(), 1, "what was held for it");
    bed.pass(ARP_REFRESH_MS);
    let asked = bed.take();
    assert_eq!(asked.iter().filter(|f| to_router(f)).count(), 2);
    bed.pass_through(&tcp::segment(&from(CLIENT, VIP), 1, 0, SYN, b""));
    let question = ndp::Message::parse(asked.iter().find(|f| f[12] == 0x86).unwrap()).unwrap();
    assert_eq!((question.link, question.destination), (Some(MAC), question.target));
}
