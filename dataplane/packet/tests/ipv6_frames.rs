//! Frames over IPv6: made, answered and checked, beside an independent parser.
#![allow(clippy::unwrap_used, missing_docs)]

use turnpike_packet::flight::{Flight, Wrong, check, ends};
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::{checksum, icmpv6, ipv4, ipv6, mss, ndp, sctp, tcp, udp};

const L4: usize = 54;

fn flight() -> Flight {
    Flight {
        source_mac: [2, 0, 0, 0, 0, 9],
        destination_mac: [2, 0, 0, 0, 0, 1],
        source: "[2001:db8::7]:40000".parse().unwrap(),
        destination: "[2001:db8:1::80]:80".parse().unwrap(),
    }
}

/// Frames of every kind that can be made.
fn frames() -> Vec<Vec<u8>> {
    let echo = flight().echo_request(1, 2, b"ping!");
    let mut reply = echo.clone();
    icmpv6::echo_reply(&mut reply, L4, [2, 0, 0, 0, 0, 1]);
    let syn = tcp::segment(&flight(), 7, 0, SYN, b"");
    let mut unreachable = [0xa5; icmpv6::ERROR_FRAME_MAX];
    let len = icmpv6::unreachable(&syn, &mut unreachable).unwrap();
    vec![
        echo,
        reply,
        tcp::reset(&syn, L4).unwrap().to_vec(),
        syn,
        unreachable[..len].to_vec(),
        udp::datagram(&flight(), b"odd"),
        tcp::segment(&flight(), 7, 9, ACK | PSH, &[7; 1_440]),
        sctp::packet(&flight(), 7, &[(sctp::chunk::DATA, 3, &[7; 1_380])]),
        ndp::solicitation([2; 6], 1 << 120, 2 << 120).to_vec(),
    ]
}

#[test]
fn every_frame_passes_the_check_and_an_independent_parser() {
    for frame in frames() {
        assert_eq!(check(&frame), Ok(()), "{frame:02x?}");
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6 in {frame:02x?}") };
        let header = ip.header().to_header();
        let (stated, right) = match &sliced.transport {
            Some(etherparse::TransportSlice::Tcp(tcp)) => {
                (tcp.checksum(), tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap())
            }
            Some(etherparse::TransportSlice::Udp(udp)) => {
                (udp.checksum(), udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap())
            }
            Some(etherparse::TransportSlice::Icmpv6(icmp)) => {
                assert!(icmp.is_checksum_valid(header.source, header.destination), "{frame:02x?}");
                continue;
            }
            _ => continue,
        };
        assert_eq!(stated, right, "{frame:02x?}");
    }
}

#[test]
fn the_check_sees_every_flipped_bit_that_a_receiver_would() {
    for frame in frames() {
        // An IPv6 header has no checksum of its own: class, flow label and hop limit are covered by none. SCTP's covers no addresses.
        let from = if frame[20] == ipv4::SCTP { L4 } else { 22 };
        for at in [14, 18, 19].into_iter().chain(from..frame.len()) {
            let mut bad = frame.clone();
            bad[at] ^= 0x10;
            assert!(check(&bad).is_err(), "byte {at} of {frame:02x?}");
        }
    }
}

#[test]
fn rfc8200_8_1_a_datagram_has_a_checksum() {
    let mut frame = udp::datagram(&flight(), b"odd");
    frame[60..62].fill(0);
    assert_eq!(check(&frame), Err(Wrong::TransportChecksum));
}

#[test]
fn rfc8200_8_1_the_pseudo_header_is_two_addresses_a_length_and_a_number() {
    let (source, destination) = (0xfe80_u128 << 112 | 0x9abc, 0xff02_u128 << 112 | 0x1_ff00_9876);
    let segment = [0x12; 37];
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 37, 0, 0, 0, ipv6::ICMP]);
    bytes.extend(segment);
    let wanted = checksum::ones_complement_sum(&bytes);
    assert_eq!(checksum::transport_sum6(source, destination, ipv6::ICMP, &segment), wanted);
}

#[test]
fn rfc2675_a_jumbogram_is_refused() {
    // A hop-by-hop header with the jumbo payload option, behind a fixed header that states no length.
    let jumbo = [ipv4::TCP, 0, 0xc2, 4, 0, 1, 0, 0];
    assert_eq!(ipv6::walk(0, &jumbo, 0), Err(ipv6::Unwalkable::Bad));
}

#[test]
fn rfc9293_3_10_7_1_a_reset_answers_by_the_rules() {
    let word = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let rows = [
        (SYN, &b""[..], (0, 8, RST | ACK)),
        (SYN | FIN, b"xyz", (0, 12, RST | ACK)),
        (ACK, b"xyz", (99, 0, RST)),
    ];
    for (bits, data, wanted) in rows {
        let frame = tcp::segment(&flight(), 7, 99, bits, data);
        let reset = tcp::reset(&frame, L4).unwrap();
        assert_eq!((word(&reset, L4 + 4), word(&reset, L4 + 8), reset[L4 + 13]), wanted);
        assert_eq!(ends(&reset), Some((flight().destination, flight().source)));
        assert_eq!(check(&reset), Ok(()));
        for len in 0..L4 + tcp::HEADER {
            assert_eq!(tcp::reset(&frame[..len], L4), None, "{len} bytes");
        }
    }
    assert_eq!(tcp::reset(&tcp::segment(&flight(), 7, 9, RST, b""), L4), None);
}

#[test]
fn an_answer_behind_options_has_none() {
    let plain = tcp::segment(&flight(), 7, 0, SYN, b"");
    let mut frame = plain.clone();
    frame.splice(L4..L4, [ipv4::TCP, 0, 1, 4, 0, 0, 0, 0]);
    frame[19] += 8;
    frame[20] = 60;
    assert_eq!(check(&frame), Ok(()));
    assert_eq!(tcp::reset(&frame, L4 + 8), tcp::reset(&plain, L4));
}

#[test]
fn rfc9260_8_4_packets_without_association_are_answered() {
    let frame = sctp::packet(&flight(), 0x0a0b_0c0d, &[(sctp::chunk::DATA, 0, b"")]);
    let wanted =
        sctp::packet(&flight().back(), 0x0a0b_0c0d, &[(sctp::chunk::ABORT, sctp::chunk::REFLECTED, b"")]);
    assert_eq!(sctp::answer(&frame, L4, sctp::chunk::DATA).unwrap()[..], wanted[..]);
    for len in 0..L4 + sctp::HEADER {
        assert_eq!(sctp::answer(&frame[..len], L4, sctp::chunk::DATA), None, "{len} bytes");
    }
}

#[test]
fn rfc6691_headers_of_ipv6_and_tcp_take_sixty_bytes() {
    assert_eq!(mss::HEADERS6, 60);
    let mut frame = tcp::with_options(&flight(), 7, 0, SYN, &[2, 4, 5, 160]);
    assert!(mss::clamp(&mut frame[L4..], 1_280 - mss::HEADERS6));
    assert_eq!((&frame[74..78], check(&frame)), (&[2, 4, 4, 196][..], Ok(())));
}
