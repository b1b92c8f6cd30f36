//! `dsr-ipip`: what does not fit or lives no longer, what routers say about packets in packets (RFC 2003 section 4, RFC 2473 section 8), and errors
//! about answers that took another way. Every row states the whole counter delta.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::errors::{CLIENT_ROUTER, POD_ROUTER, addresses, error, quoted, too_big};
use harness::fragmented::Receiver;
use harness::services::{DIRECT, Port};
use harness::{Bed, CLIENT, MAC, ROUTER_MAC, VIP, from, to};
use std::collections::BTreeMap;
use turnpike_packet::checksum::checksum;
use turnpike_packet::flight::Flight;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::{icmpv6, ip::Pair, ipv6, udp};
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Protocol, Treatment};

const BACKEND: &str = "10.244.0.1:80";
const VIP6: &str = "[2001:db8:80::80]:80";
const CLIENT6: &str = "[2001:db8:c::7]:40000";
const BACKEND6: &str = "[fd00:244::1]:80";

fn services() -> Vec<Port> {
    let port = |name: &str, protocol, vip: &str, backend: &str| {
        let port = Port::new(&format!("{name}-{protocol}"), protocol, &[backend]);
        port.with(vip, LoadBalancer, DIRECT, Treatment::FORWARD)
    };
    let both = |protocol| [port("web", protocol, VIP, BACKEND), port("six", protocol, VIP6, BACKEND6)];
    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(both).collect()
}

fn bed_of(workers: usize, spread: &Spread) -> Bed {
    let mut bed = Bed::dual(workers, spread, 1_500);
    bed.put(&services());
    bed
}

fn bed() -> Bed {
    bed_of(1, &Spread::Unknown)
}

type Delta<'a> = &'a [(&'static str, u64)];

fn counted(rows: Delta<'_>) -> BTreeMap<&'static str, u64> {
    [("rx_packets", 1)].into_iter().chain(rows.iter().copied()).collect()
}

const PASSED: Delta<'_> = &[("forwarded", 1), ("tx_packets", 1)];
const NOTED: Delta<'_> = &[("tunnel_error", 1)];
const TOLD: Delta<'_> = &[("tunnel_error", 1), ("icmp_sent", 1), ("tx_packets", 1)];

/// Changes a frame and makes its IPv4 header checksum right again.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn flight6() -> Flight {
    Flight {
        source_mac: ROUTER_MAC,
        destination_mac: MAC,
        source: CLIENT6.parse().unwrap(),
        destination: VIP6.parse().unwrap(),
    }
}

/// A datagram of so many bytes with its headers, and the frame that it left in.
fn datagram(bed: &mut Bed, length: usize) -> (Vec<u8>, Vec<u8>) {
    let came = udp::datagram(&to(VIP), &vec![7; length - 28]);
    let left = bed.pass_through(&came);
    (came, left)
}

#[test]
fn rfc2003_3_1_what_does_not_fit_with_the_outer_header_is_told_how_much_does() {
    let mut bed = bed();
    for (length, fits) in [(1_480, true), (1_481, false), (1_500, false)] {
        let frame = udp::datagram(&to(VIP), &vec![7; length - 28]);
        let (mut moved, sent) = bed.delta(&frame);
        moved.retain(|name, _| !name.starts_with("flows"));
        if fits {
            assert_eq!((moved, sent[0].len()), (counted(PASSED), 14 + 1_500));
            continue;
        }
        assert_eq!(moved, counted(&[("too_big", 1), ("icmp_sent", 1), ("tx_packets", 1)]));
        assert_eq!(addresses(&sent[0]), ["192.0.2.1", "198.51.100.7"]);
        assert_eq!((&sent[0][34..36], &sent[0][38..42]), (&[3, 4][..], &[0, 0, 0x05, 0xc8][..]));
        assert_eq!(quoted(&sent[0])[14..], frame[14..14 + 548]);
        let may_be_cut = with(frame, |f| f[20] = 0);
        let (moved, sent) = bed.delta(&may_be_cut);
        assert_eq!(moved, counted(&[("forwarded", 2), ("fragments_made", 1), ("tx_packets", 2)]));
        // Each is whole in a packet of its own, which must not be fragmented.
        let mut receiver = Receiver::default();
        let whole: Vec<_> = sent
            .iter()
            .filter_map(|f| {
                assert_eq!((f.len() <= 1_514, &f[20..22], f[23]), (true, &[0x40, 0][..], 4));
                receiver.take(&[&f[..14], &f[34..]].concat())
            })
            .collect();
        let on = with(may_be_cut, |f| f[22] -= 1);
        assert_eq!((whole.len(), &whole[0][26..]), (1, &on[26..]));
    }
}

#[test]
fn what_lives_no_longer_is_told_by_the_gateway() {
    let mut bed = bed();
    datagram(&mut bed, 100);
    for ttl in [0, 1] {
        let frame = with(udp::datagram(&to(VIP), b"query"), |f| f[22] = ttl);
        let (moved, sent) = bed.delta(&frame);
        assert_eq!(moved, counted(&[("ttl_expired", 1), ("icmp_sent", 1), ("tx_packets", 1)]));
        assert_eq!((&sent[0][34..36], &quoted(&sent[0])[14..]), (&[11, 0][..], &frame[14..]));
    }
}

#[test]
fn rfc2003_4_what_the_client_is_told() {
    type Row = ((u8, u8, [u8; 4]), Option<[u8; 8]>);
    let rows: [Row; 10] = [
        ((3, 4, [0, 0, 0x05, 0x78]), Some([3, 4, 0, 0, 0, 0, 0x05, 0x64])),
        ((3, 4, [0; 4]), Some([3, 4, 0, 0, 0, 0, 0, 0])),
        ((3, 0, [0; 4]), Some([3, 0, 0, 0, 0, 0, 0, 0])),
        ((3, 1, [0; 4]), Some([3, 1, 0, 0, 0, 0, 0, 0])),
        ((3, 2, [0; 4]), Some([3, 1, 0, 0, 0, 0, 0, 0])),
        ((11, 0, [0; 4]), Some([3, 1, 0, 0, 0, 0, 0, 0])),
        ((3, 3, [0; 4]), None),
        ((3, 5, [0; 4]), None),
        ((11, 1, [0; 4]), None),
        ((12, 0, [20, 0, 0, 0]), None),
    ];
    for (said, told) in rows {
        let mut bed = bed();
        let (came, left) = datagram(&mut bed, 1_480);
        let before = bed.flows();
        let (moved, sent) = bed.delta(&error(POD_ROUTER, &left, said, 548));
        let Some(mut wanted) = told else {
            assert_eq!((moved, sent.len()), (counted(NOTED), 0), "{said:?}");
            continue;
        };
        assert_eq!(moved, counted(TOLD), "{said:?}");
        assert_eq!(bed.flows(), before, "errors neither keep nor end a flow");
        assert_eq!(
            (&sent[0][..12], addresses(&sent[0])),
            (&[ROUTER_MAC, MAC].concat()[..], ["192.0.2.1".into(), "198.51.100.7".into()])
        );
        wanted[2..4].copy_from_slice(&sent[0][36..38]);
        assert_eq!(sent[0][34..42], wanted, "{said:?}");
        // As it was sent, but for one less to live.
        let about = with(came, |f| f[22] -= 1);
        assert_eq!(quoted(&sent[0])[14..], about[14..14 + quoted(&sent[0]).len() - 14]);
    }
}

#[test]
fn rfc2003_5_1_a_path_mtu_is_remembered_for_a_while_also_from_the_shortest_quote() {
    for quotes in [20, 28, 548] {
        let mut bed = bed();
        let (came, left) = datagram(&mut bed, 1_480);
        let said = error(POD_ROUTER, &left, (3, 4, [0, 0, 0x05, 0x14]), quotes);
        assert_eq!(bed.delta(&said).0, counted(if quotes == 548 { TOLD } else { NOTED }));
        let (moved, sent) = bed.delta(&came);
        assert_eq!(moved, counted(&[("too_big", 1), ("icmp_sent", 1), ("tx_packets", 1)]), "{quotes}");
        assert_eq!(sent[0][38..42], [0, 0, 0x05, 0x00]);
        datagram(&mut bed, 1_280);
        // Another client of the same backend, too.
        let other = udp::datagram(&from("198.51.100.9:5", VIP), &[7; 1_300]);
        assert_eq!(bed.delta(&other).0["too_big"], 1);
        bed.pass(700_000);
        bed.know_router();
        assert_eq!(bed.pass_through(&came).len(), left.len());
    }
}

#[test]
fn what_nobody_on_the_way_can_have_said_changes_nothing() {
    let mut bed = bed();
    let (came, left) = datagram(&mut bed, 1_480);
    let said = |about: &[u8]| too_big(POD_ROUTER, about, 1_300);
    let guessed = with(left.clone(), |f| f[18] ^= 1);
    let other_end = with(left.clone(), |f| f[33] ^= 1);
    let to_other = with(said(&left), |f| f[33] = 9);
    let mut cut = said(&left);
    cut[50] ^= 1;
    for (what, frame, verdict) in [
        ("another identification", said(&guessed), "icmp"),
        ("another backend", said(&other_end), "icmp"),
        ("another receiver", to_other, "icmp_bad"),
        ("a wrong checksum", cut, "icmp_bad"),
        ("an MTU that no link has", too_big(POD_ROUTER, &left, 67), "icmp_bad"),
    ] {
        assert_eq!(bed.delta(&frame), (counted(&[(verdict, 1)]), vec![]), "{what}");
    }
    assert_eq!(bed.pass_through(&came), left);
    // A flow that is not there any more has nobody to be told.
    bed.pass(400_000);
    bed.know_router();
    assert_eq!(bed.delta(&said(&left)), (counted(NOTED), vec![]));
}

#[test]
fn what_the_client_is_told_is_limited() {
    let mut bed = bed();
    let (_, left) = datagram(&mut bed, 1_480);
    let said = error(POD_ROUTER, &left, (3, 1, [0; 4]), 548);
    let frames: Vec<_> = (0..2_000).map(|_| said.clone()).collect();
    let sent: usize = frames.chunks(64).map(|burst| bed.exchange(burst).len()).sum();
    assert_eq!((sent, bed.count("tunnel_error")), (1_000, 2_000));
}

#[test]
fn errors_find_the_worker_of_their_flow() {
    let reta = (0..128).map(|n| n % 3).collect();
    for spread in [Spread::Unknown, Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta })] {
        let mut bed = bed_of(3, &spread);
        for n in 0..40 {
            let came = udp::datagram(&from(&format!("198.51.100.7:{}", 2_000 + n), VIP), &[7; 500]);
            let left = bed.pass_through(&came);
            let (mut moved, _) = bed.delta(&error(POD_ROUTER, &left, (3, 1, [0; 4]), 548));
            moved.remove("handed_off");
            assert_eq!(moved, counted(TOLD), "client {n}");
        }
    }
}

#[test]
fn rfc5508_req5_errors_about_answers_reach_the_backend_in_packets() {
    for workers in [1, 3] {
        let mut bed = bed_of(workers, &Spread::Unknown);
        let came = tcp::segment(&to(VIP), 1, 0, SYN, b"");
        bed.pass_through(&came);
        let before = bed.flows();
        // The backend answers the client as the VIP.
        let answer = Flight { source: VIP.parse().unwrap(), destination: CLIENT.parse().unwrap(), ..to(VIP) };
        let answer = tcp::segment(&answer, 9, 2, SYN | ACK, &[7; 600]);
        let said = too_big(CLIENT_ROUTER, &answer, 576);
        let (mut moved, sent) = bed.delta(&said);
        moved.remove("handed_off");
        assert_eq!(moved, counted(&[("forwarded", 1), ("tx_packets", 1), ("icmp_translated", 1)]));
        assert_eq!((sent[0][23], addresses(&sent[0])[1].as_str()), (4, "10.244.0.1"));
        let inner = [&said[..14], &sent[0][34..]].concat();
        assert_eq!(with(inner, |f| f[22] += 1), said, "unchanged");
        assert_eq!(bed.flows(), before);
    }
}

/// An error over IPv6 from a router about a frame that left.
fn error6(about: &[u8], (kind, code, rest): (u8, u8, u32), quotes: usize) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(&about[14..about.len().min(14 + quotes)]);
    let to = u128::from_be_bytes(about[22..38].try_into().unwrap());
    let pair = Pair::V6 { source: 0xfd00_0244 << 96 | 0xfe, destination: to };
    let sum = !pair.transport_sum(ipv6::ICMP, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = pair.header(ipv6::ICMP, message.len()).unwrap();
    [&MAC[..], &ROUTER_MAC, &[0x86, 0xdd], &header, &message].concat()
}

#[test]
fn rfc2473_3_packets_of_ipv6_travel_in_packets_of_ipv6() {
    let mut bed = bed();
    let mut came = udp::datagram(&flight6(), &[7; 1_412]);
    came[14] |= 0x0b;
    let (mut moved, sent) = bed.delta(&came);
    moved.retain(|name, _| !name.starts_with("flows"));
    assert_eq!(moved, counted(PASSED));
    let [left] = &sent[..] else { panic!("{sent:02x?}") };
    assert_eq!((&left[12..14], left[20], left[21], left.len()), (&[0x86, 0xdd][..], 41, 64, 14 + 1_500));
    assert_eq!((left[14], left[15] & 0xf0), (0x6b, came[15] & 0xf0), "the class is copied");
    assert_ne!((left[15] & 0x0f, &left[16..18]), (0, &[0, 0][..]), "the flow has a label");
    assert_eq!(left[22..38], "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert_eq!(left[38..54], "fd00:244::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    let mut inner = [&came[..14], &left[54..]].concat();
    inner[21] += 1;
    assert_eq!(inner, came);
    // One byte more, and the sender is told.
    let long = udp::datagram(&flight6(), &[7; 1_413]);
    let (moved, sent) = bed.delta(&long);
    assert_eq!(moved, counted(&[("too_big", 1), ("icmp_sent", 1), ("tx_packets", 1)]));
    assert_eq!((sent[0][54], &sent[0][58..62]), (icmpv6::TOO_BIG, &1_460u32.to_be_bytes()[..]));
}

#[test]
fn rfc2473_8_errors_about_packets_of_ipv6_in_packets() {
    let rows = [
        ((2, 0, 1_400), Some((2, 0, 1_360))),
        ((2, 0, 1_290), Some((2, 0, 1_280))),
        ((1, 0, 0), Some((1, 3, 0))),
        ((3, 0, 0), Some((1, 3, 0))),
        ((4, 1, 40), Some((1, 3, 0))),
        ((1, 4, 0), None),
    ];
    for (said, told) in rows {
        let mut bed = bed();
        let came = udp::datagram(&flight6(), &[7; 1_400]);
        let left = bed.pass_through(&came);
        let (moved, sent) = bed.delta(&error6(&left, said, 1_232));
        let Some((kind, code, rest)) = told else {
            assert_eq!(moved, counted(NOTED), "{said:?}");
            continue;
        };
        assert_eq!(moved, counted(TOLD), "{said:?}");
        assert_eq!((sent[0][54], sent[0][55], &sent[0][58..62]), (kind, code, &u32::to_be_bytes(rest)[..]));
        assert_eq!(sent[0][38..54], "2001:db8:c::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        if kind == icmpv6::TOO_BIG {
            assert_eq!(bed.delta(&came).0["too_big"], 1, "the way is known");
        }
    }
    // Nobody who has not seen the packet knows its label.
    let mut bed = bed();
    let mut left = bed.pass_through(&udp::datagram(&flight6(), &[7; 1_400]));
    left[17] ^= 1;
    assert_eq!(bed.delta(&error6(&left, (2, 0, 1_300), 1_232)), (counted(&[("icmp", 1)]), vec![]));
}

#[test]
fn outer_sources_of_ipv6_spread_too() {
    let mut bed = Bed::tunnelling("fd00:d5::", 64);
    bed.put(&services());
    let sources: std::collections::BTreeSet<Vec<u8>> = (0..200)
        .map(|n| {
            let mut flight = flight6();
            flight.source.set_port(2_000 + n);
            let left = bed.pass_through(&udp::datagram(&flight, b"query"));
            assert_eq!(left[22..30], [0xfd, 0, 0, 0xd5, 0, 0, 0, 0]);
            left[30..38].to_vec()
        })
        .collect();
    assert_eq!(sources.len(), 200);
}
