//! Tests of quoted packets, each checked by making the same error anew about the translated packet.

use super::*;
use crate::flight::{Flight, check};
use crate::icmpv4::{Complaint, ERROR_MAX};
use crate::ip::Pair;
use crate::{sctp, tcp, udp};
use proptest::prelude::*;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

const FROM: Flight = Flight {
    source_mac: [2, 0, 0, 0, 0, 9],
    destination_mac: [2, 0, 0, 0, 0, 1],
    source: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), 5_000)),
    destination: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 1), 8_080)),
};
const TO: Flight = Flight {
    source: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 40_000)),
    destination: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 80), 80)),
    ..FROM
};

fn ends(flight: &Flight) -> Ends {
    let Pair::V4 { source, destination } = flight.pair() else { panic!("{flight:?}") };
    Ends {
        source,
        destination,
        source_port: flight.source.port(),
        destination_port: flight.destination.port(),
    }
}

/// The ICMP message about a packet.
fn message(about: &[u8], complaint: Complaint) -> Vec<u8> {
    let mut error = [0xa5; 14 + ERROR_MAX];
    let len = icmpv4::error(about, 0xc000_0201, complaint, &mut error).unwrap();
    assert_eq!(check(&error[..len]), Ok(()));
    error[34..len].to_vec()
}

fn packets(flight: &Flight) -> Vec<Vec<u8>> {
    let mut without = udp::datagram(flight, b"no checksum");
    without[40..42].fill(0);
    vec![
        tcp::segment(flight, 7, 9, tcp::flags::ACK, &[7; 1_460]),
        tcp::segment(flight, 7, 0, tcp::flags::SYN, b""),
        udp::datagram(flight, b"odd"),
        without,
    ]
}

#[test]
fn rfc5508_req4_a_quoted_packet_is_as_its_sender_sent_it() {
    for (from, to) in packets(&FROM).iter().zip(&packets(&TO)) {
        for complaint in
            [Complaint::TimeExceeded, Complaint::TooBig { mtu: 1_280 }, Complaint::PortUnreachable]
        {
            let mut got = message(from, complaint);
            let quoted = Quoted::read(&got).unwrap();
            assert_eq!((quoted.protocol, quoted.ends), (from[23], ends(&FROM)));
            quoted.translate(&mut got, ends(&TO));
            assert_eq!(got, message(to, complaint));
        }
    }
}

#[test]
fn sctp_keeps_its_checksum() {
    let chunks: [(u8, u8, &[u8]); 1] = [(sctp::chunk::DATA, 3, &[7; 100])];
    let from = sctp::packet(&FROM, 7, &chunks);
    let mut got = message(&from, Complaint::TimeExceeded);
    Quoted::read(&got).unwrap().translate(&mut got, ends(&TO));
    let mut to = sctp::packet(&TO, 7, &chunks);
    to[42..46].copy_from_slice(&from[42..46]);
    assert_eq!(got, message(&to, Complaint::TimeExceeded));
}

/// A message about `packet`, of which it quotes so many bytes, with a right checksum.
fn raw(kind: u8, code: u8, rest: [u8; 4], packet: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(packet);
    let sum = checksum::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn rfc5508_req3_what_contradicts_itself_is_told() {
    let packet = &udp::datagram(&FROM, b"question")[14..];
    let header = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.to_vec();
        change(&mut packet);
        packet[10..12].fill(0);
        let end = packet.len().min(usize::from(packet[0] & 0x0f) * 4).max(20);
        let sum = checksum::checksum(&packet[..end]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        raw(3, 1, [0; 4], &packet)
    };
    let flipped = |at: usize| {
        let mut message = raw(3, 1, [0; 4], packet);
        message[at] ^= 1;
        message
    };
    let wrong_inner = {
        let mut packet = packet.to_vec();
        packet[10] ^= 1;
        raw(3, 1, [0; 4], &packet)
    };
    let bad = Err(Unusable::Bad);
    let other = Err(Unusable::Other);
    let rows: Vec<(&str, Vec<u8>, Result<(), Unusable>)> = vec![
        ("28 bytes quoted", raw(3, 1, [0; 4], &packet[..28]), Ok(())),
        ("27 bytes quoted", raw(3, 1, [0; 4], &packet[..27]), bad),
        ("nothing quoted", raw(3, 1, [0; 4], b""), bad),
        ("no whole header", vec![3, 1, 0xfc, 0xfe], bad),
        ("no bytes", vec![], bad),
        ("wrong ICMP checksum", flipped(2), bad),
        ("a changed byte at the end", flipped(8 + packet.len() - 1), bad),
        ("wrong quoted IP checksum", wrong_inner, bad),
        ("quoted version 6", header(&|p| p[0] = 0x65), bad),
        ("quoted header of 16 bytes", header(&|p| p[0] = 0x44), bad),
        ("quoted header past the quote", header(&|p| p[0] = 0x4f), bad),
        ("quoted length without ports", header(&|p| p[3] = 27), bad),
        ("a later fragment", header(&|p| p[7] = 1), other),
        ("the first fragment", header(&|p| p[6] = 0x20), Ok(())),
        ("about ICMP", header(&|p| p[9] = 1), other),
        ("about GRE", header(&|p| p[9] = 47), other),
        ("MTU 67", raw(3, 4, [0, 0, 0, 67], packet), bad),
        ("MTU 68", raw(3, 4, [0, 0, 0, 68], packet), Ok(())),
        ("MTU 0, of before RFC 1191", raw(3, 4, [0; 4], packet), Ok(())),
        ("67 behind another code", raw(3, 3, [0, 0, 0, 67], packet), Ok(())),
        ("parameter problem", raw(12, 0, [20, 0, 0, 0], packet), Ok(())),
        ("source quench", raw(4, 0, [0; 4], packet), other),
        ("redirect", raw(5, 1, [192, 0, 2, 9], packet), other),
        ("echo reply", raw(0, 0, [0; 4], packet), other),
        ("too long", raw(3, 1, [0; 4], &[packet, &[0; 1_500]].concat()), bad),
    ];
    for (what, message, wanted) in rows {
        assert_eq!(Quoted::read(&message).map(drop), wanted, "{what}");
    }
}

#[test]
fn options_of_the_quoted_packet_are_passed_over() {
    let mut packet = tcp::segment(&FROM, 7, 9, tcp::flags::ACK, b"data")[14..].to_vec();
    packet.splice(20..20, [7, 7, 4, 0, 0, 0, 0, 0]);
    packet[0] = 0x47;
    packet[3] += 8;
    packet[10..12].fill(0);
    let sum = checksum::checksum(&packet[..28]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut message = raw(11, 0, [0; 4], &packet);
    let quoted = Quoted::read(&message).unwrap();
    assert_eq!(quoted.ends, ends(&FROM));
    quoted.translate(&mut message, ends(&TO));
    let again = Quoted::read(&message).unwrap();
    assert_eq!(again.ends, ends(&TO));
    let segment = &message[8 + 28..];
    assert_eq!(TO.transport_sum(6, segment), 0xffff);
}

proptest! {
    #[test]
    fn there_and_back_is_the_same(len in 28usize..120, which in 0usize..4, port: u16, address: u32) {
        let packet = &packets(&FROM)[which][14..];
        let message = raw(3, 4, [0, 0, 5, 0], &packet[..len.min(packet.len())]);
        let quoted = Quoted::read(&message).unwrap();
        let mut changed = message.clone();
        quoted.translate(&mut changed, Ends { source: address, source_port: port, ..ends(&TO) });
        prop_assert_eq!(checksum::ones_complement_sum(&changed), 0xffff);
        Quoted::read(&changed).unwrap().translate(&mut changed, ends(&FROM));
        prop_assert_eq!(changed, message);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(vec![3u8, 11, 12])) {
        let mut message = bytes;
        if let Some(first) = message.first_mut() {
            *first = kind;
        }
        if let Ok(quoted) = Quoted::read(&message) {
            quoted.translate(&mut message, ends(&TO));
        }
    }
}
