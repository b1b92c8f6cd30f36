//! What the RFCs on NAT ask of the translation itself: ports (RFC 4787 REQ-3 and 4, RFC 5382 REQ-7, RFC 6888 REQ-15), hairpinning (REQ-9, REQ-8),
//! payloads (REQ-10, REQ-6), other ICMP (RFC 5508 REQ-11), checksums (RFC 1624, RFC 768).
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{DNAT, Port};
use harness::{Bed, CLIENT, CLUSTER_IP, SNAT, VIP, answer_to, ends, from, to};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use turnpike_packet::checksum::checksum;
use turnpike_packet::flight;
use turnpike_packet::io::Spread;
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::udp;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Protocol, Treatment};

const BACKEND: &str = "10.244.0.1:8080";

fn bed(protocol: Protocol, treatment: Treatment, backends: &[&str]) -> Bed {
    let mut bed = Bed::bare(1, &Spread::Unknown, 8_192);
    let web = Port::new("web", protocol, backends).with(VIP, LoadBalancer, treatment, treatment);
    bed.put(&[web.with(CLUSTER_IP, ClusterIp, treatment, treatment)]);
    bed
}

/// The source that the backend sees of each of so many clients, whose ports are even.
fn sources(bed: &mut Bed, protocol: Protocol, clients: u16) -> Vec<SocketAddr> {
    let mut sources = Vec::new();
    for n in 0..clients {
        let flight = from(&format!("198.51.{}.7:{}", 100 + n / 500, 2_000 + n % 500 * 2), VIP);
        let frame = match protocol {
            Protocol::Tcp => tcp::segment(&flight, 1, 0, SYN, b""),
            _ => udp::datagram(&flight, b"query"),
        };
        sources.push(ends(&bed.pass_through(&frame)).0);
    }
    sources
}

#[test]
fn rfc4787_req3_rfc5382_req7_live_flows_never_share_a_port_towards_one_backend() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let sources = sources(&mut bed(protocol, Treatment::FORWARD, &[BACKEND]), protocol, 3_000);
        assert_eq!(sources.iter().collect::<BTreeSet<_>>().len(), 3_000, "{protocol}");
        for source in sources {
            assert_eq!(source.ip(), IpAddr::from(SNAT));
            // Never 0, and never one that means something to somebody: RFC 6056 section 3.2, and NodePorts.
            assert!(source.port() >= 1_024 && !(30_000..=32_767).contains(&source.port()), "{source}");
        }
    }
}

/// Where clients keep their address they keep their port and so its range, well-known ones too; but no port is 0, and none is shared.
#[test]
fn rfc4787_req3_a_port_is_kept_with_its_range_and_never_zero_or_shared() {
    let mut bed = bed(Protocol::Udp, DNAT, &[BACKEND]);
    let mut ask =
        |client: &str, vip: &str| ends(&bed.pass_through(&udp::datagram(&from(client, vip), b"query"))).0;
    for kept in ["198.51.100.7:500", "198.51.100.7:123", "198.51.100.7:50000"] {
        assert_eq!(ask(kept, VIP).to_string(), kept);
    }
    assert_ne!(ask("198.51.100.8:0", VIP).port(), 0);
    let shared = ask("198.51.100.7:500", CLUSTER_IP);
    assert_eq!(shared.ip().to_string(), "198.51.100.7");
    assert!(shared.port() >= 1_024, "the same backend knows 500 by the VIP already: {shared}");
}

/// REQ-4 asks for parity for the sake of RTP without explicit ports (RFC 3550 section 11 before RFC 3605); here ports are drawn among all,
/// so that nobody can guess them, and GUIDE.md says so.
#[test]
fn rfc4787_req4_parity_is_not_kept() {
    let sources = sources(&mut bed(Protocol::Udp, Treatment::FORWARD, &[BACKEND]), Protocol::Udp, 400);
    let odd = sources.iter().filter(|source| source.port() % 2 == 1).count();
    assert!((100..300).contains(&odd), "{odd} of 400 even ports became odd");
}

#[test]
fn rfc6888_req15_rfc6056_ports_cannot_be_told_from_those_before() {
    let sources = sources(&mut bed(Protocol::Udp, Treatment::FORWARD, &[BACKEND]), Protocol::Udp, 1_600);
    let ports: Vec<u16> = sources.iter().map(SocketAddr::port).collect();
    let steps: BTreeSet<u16> = ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() > 1_500, "the step to the next port is another each time: {}", steps.len());
    let mut spread = BTreeMap::<u16, u32>::new();
    ports
        .iter()
        .filter(|port| !(0x7000..0x8000).contains(*port))
        .for_each(|p| *spread.entry(p >> 12).or_default() += 1);
    assert!(spread.len() == 15 && spread.values().all(|&n| n > 40), "all of the range is used: {spread:?}");
}

/// A pod that reaches itself through a VIP is answered by the VIP: its own address towards itself would never come back to the gateway.
#[test]
fn rfc4787_req9_rfc5382_req8_hairpinned_flows_have_an_external_source() {
    for treatment in [Treatment::FORWARD, DNAT] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut bed = bed(protocol, treatment, &[BACKEND]);
            let make = |flight: &flight::Flight, flags: u8| match protocol {
                Protocol::Tcp => tcp::segment(flight, 1, u32::from(flags != SYN) * 2, flags, b""),
                _ => udp::datagram(flight, b"some bytes"),
            };
            let there = bed.pass_through(&make(&from("10.244.0.1:40000", VIP), SYN));
            let (source, backend) = ends(&there);
            assert_eq!(
                (source.ip(), backend),
                (IpAddr::from(SNAT), BACKEND.parse().unwrap()),
                "{treatment:?}"
            );
            let back = bed.pass_through(&make(&answer_to(&there), SYN | ACK));
            assert_eq!(
                ends(&back),
                (VIP.parse().unwrap(), "10.244.0.1:40000".parse().unwrap()),
                "{treatment:?}"
            );
        }
    }
}

/// Payloads that an application level gateway would rewrite: they hold addresses and ports of both ends.
#[test]
fn rfc4787_req10_rfc5382_req6_no_payload_is_touched() {
    let payloads: [&[u8]; 4] = [
        b"PORT 198,51,100,7,156,64\r\n",
        b"227 Entering Passive Mode (203,0,113,80,0,80)\r\n",
        b"INVITE sip:web@203.0.113.80 SIP/2.0\r\nContact: <sip:me@198.51.100.7:40000>\r\nc=IN IP4 198.51.100.7\r\n",
        b"SETUP rtsp://203.0.113.80/ RTSP/1.0\r\nTransport: RTP/AVP;client_port=40000-40001\r\n",
    ];
    for vip_port in [21, 554, 5_060, 1_723] {
        let vip = format!("203.0.113.80:{vip_port}");
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut bed = Bed::bare(1, &Spread::Unknown, 64);
            bed.put(&[Port::new("alg", protocol, &[BACKEND]).on(&vip, LoadBalancer)]);
            let flight = from(CLIENT, &vip);
            let make = |flight: &flight::Flight, (sequence, acknowledgement): (u32, u32), payload: &[u8]| {
                match protocol {
                    Protocol::Tcp => tcp::segment(flight, sequence, acknowledgement, ACK | PSH, payload),
                    _ => udp::datagram(flight, payload),
                }
            };
            let header = if protocol == Protocol::Tcp { 54 } else { 42 };
            if protocol == Protocol::Tcp {
                let there = bed.pass_through(&tcp::segment(&flight, 1, 0, SYN, b""));
                bed.pass_through(&tcp::segment(&answer_to(&there), 1, 2, SYN | ACK, b""));
                bed.pass_through(&tcp::segment(&flight, 2, 2, ACK, b""));
            }
            for payload in payloads {
                let there = bed.pass_through(&make(&flight, (2, 2), payload));
                assert_eq!(&there[header..], payload);
                let back = bed.pass_through(&make(&answer_to(&there), (2, 2), payload));
                assert_eq!(&back[header..], payload);
            }
        }
    }
}

#[test]
fn rfc5508_req11_icmp_that_is_neither_query_nor_error_goes_nowhere() {
    let mut bed = Bed::new();
    bed.pass_through(&udp::datagram(&to(VIP), b"query"));
    let known = bed.flows();
    // Echo reply, source quench, redirect, router advertisement and solicitation, timestamps, information, address masks, traceroute.
    for kind in [0, 4, 5, 9, 10, 13, 14, 15, 16, 17, 18, 30, 40, 255] {
        let mut message = [kind, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let (moved, sent) = bed.delta(&to(VIP).frame(1, &message));
        assert_eq!((moved, sent.len()), (BTreeMap::from([("icmp", 1), ("rx_packets", 1)]), 0), "type {kind}");
    }
    assert_eq!(bed.flows(), known);
}

/// A query to a VIP ends at the gateway, which answers it; there is no mapping whose time could run out.
#[test]
fn rfc5508_req2_queries_are_answered_here_and_make_no_mapping() {
    let mut bed = Bed::new();
    for identifier in 0..100 {
        let (moved, sent) = bed.delta(&to(VIP).echo_request(identifier, 7, b"ping"));
        assert_eq!(moved, BTreeMap::from([("echo_replied", 1), ("rx_packets", 1), ("tx_packets", 1)]));
        assert_eq!((sent[0][34], &sent[0][38..]), (0, &to(VIP).echo_request(identifier, 7, b"ping")[38..]));
    }
    assert!(bed.flows().is_empty());
}

/// The two zeroes of one's complement: a checksum that comes out as zero is zero in TCP, all ones in UDP, where zero says that there is none.
#[test]
fn rfc1624_rfc768_checksums_are_right_at_both_zeroes() {
    for (protocol, at, zero) in [(Protocol::Tcp, 50, [0, 0]), (Protocol::Udp, 40, [0xff, 0xff])] {
        let mut bed = bed(protocol, Treatment::FORWARD, &[BACKEND]);
        let make = |value: u16| match protocol {
            Protocol::Tcp => tcp::segment(&to(VIP), 1, 0, SYN, &value.to_be_bytes()),
            _ => udp::datagram(&to(VIP), &value.to_be_bytes()),
        };
        let first = bed.pass_through(&make(0));
        // What has to stand in the data for the sum to come out as zero: what is missing from it now.
        let value = u16::from_be_bytes([first[at], first[at + 1]]);
        let there = bed.pass_through(&make(value));
        assert_eq!(there[at..at + 2], zero, "{protocol}: {there:02x?}");
        assert_eq!(flight::check(&there), Ok(()));
        // And a checksum that comes in as zero or all ones leaves as a right one.
        let back = answer_to(&there);
        let answer = |value: u16| match protocol {
            Protocol::Tcp => tcp::segment(&back, 1, 2, SYN | ACK, &value.to_be_bytes()),
            _ => udp::datagram(&back, &value.to_be_bytes()),
        };
        let came = (0..=u16::MAX).map(answer).find(|frame| frame[at..at + 2] == zero).unwrap();
        assert_eq!(ends(&bed.pass_through(&came)).0, VIP.parse().unwrap());
    }
}
