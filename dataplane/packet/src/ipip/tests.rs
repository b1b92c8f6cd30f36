use super::*;
use crate::icmpv4::Complaint::{HostUnreachable, NetworkUnreachable};
use etherparse::{Ipv4Slice, Ipv6Slice, SlicedPacket};
use proptest::prelude::*;

const FROM: u32 = 0xc000_0201;
const TO: u32 = 0x0af4_0009;

fn inner(class: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = ipv4::header(ipv4::UDP, 0xc633_6407, 0xcb00_7150, payload.len()).unwrap();
    (header[1], header[8]) = (class, ttl);
    header[10..12].fill(0);
    let sum = checksum::checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header[..], payload].concat()
}

fn inner6(class: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = ipv6::header(17, 7, 80, payload.len()).unwrap();
    (header[0], header[1], header[7]) = (0x60 | class >> 4, class << 4 | 0x0b, hops);
    [&header[..], payload].concat()
}

#[test]
fn rfc2003_3_1_an_independent_parser_reads_the_outer_header() {
    let packet = inner(0, 64, b"payload");
    let outer = [&outer(&packet, FROM, TO, 0xbeef).unwrap()[..], &packet].concat();
    let seen = Ipv4Slice::from_slice(&outer).unwrap();
    let header = seen.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.source, header.destination), (FROM.to_be_bytes(), TO.to_be_bytes()));
    assert!(header.dont_fragment && !header.more_fragments);
    assert_eq!((header.protocol.0, header.time_to_live, header.identification), (4, 64, 0xbeef));
    assert_eq!((usize::from(header.total_len), seen.payload().payload), (outer.len(), &packet[..]));
}

#[test]
fn rfc2473_6_an_independent_parser_reads_the_outer_header() {
    let packet = inner6(0, 64, b"payload");
    let outer = [&outer6(&packet, 9, 99, 0xabc_dede).unwrap()[..], &packet].concat();
    let seen = Ipv6Slice::from_slice(&outer).unwrap();
    let header = seen.header().to_header();
    assert_eq!((header.source, header.destination), (9u128.to_be_bytes(), 99u128.to_be_bytes()));
    assert_eq!((header.next_header.0, header.hop_limit, header.flow_label.value()), (41, 64, 0xc_dede));
    assert_eq!(seen.payload().payload, packet);
}

#[test]
fn rfc6040_4_1_marks_and_classes_are_copied() {
    for class in 0..=255 {
        assert_eq!(outer(&inner(class, 9, b""), FROM, TO, 0).unwrap()[1], class);
        let header = outer6(&inner6(class, 9, b""), 1, 2, 0xf_ffff).unwrap();
        assert_eq!((header[0] << 4 | header[1] >> 4, header[1] & 0x0f), (class, 0x0f));
    }
}

#[test]
fn rfc2003_3_1_one_is_taken_from_the_inner_time_to_live() {
    for ttl in 0..=255 {
        let mut packet = inner(0, ttl, b"x");
        let before = packet.clone();
        assert_eq!(pass_on(&mut packet), ttl > 1);
        assert_eq!(packet, inner(0, if ttl > 1 { ttl - 1 } else { ttl }, b"x"), "{before:02x?}");
        let mut packet = inner6(0, ttl, b"x");
        assert_eq!(pass_on6(&mut packet), ttl > 1);
        assert_eq!(packet, inner6(0, if ttl > 1 { ttl - 1 } else { ttl }, b"x"));
    }
    assert!(!pass_on(&mut [9; 19]) && !pass_on6(&mut [9; 39]));
}

#[test]
fn what_does_not_fit_one_packet_has_no_outer_header() {
    let mut packet = inner(0, 64, b"");
    packet[2..4].copy_from_slice(&u16::to_be_bytes(65_515));
    assert!(outer(&packet, FROM, TO, 0).is_some());
    packet[2..4].copy_from_slice(&u16::to_be_bytes(65_516));
    assert_eq!(outer(&packet, FROM, TO, 0), None);
    assert_eq!(outer(&packet[..19], FROM, TO, 0), None);
    assert_eq!(outer(&inner6(0, 1, b""), FROM, TO, 0), None, "of the other family");
    let mut packet = inner6(0, 64, b"");
    packet[4..6].copy_from_slice(&u16::to_be_bytes(65_496));
    assert_eq!(outer6(&packet, 1, 2, 0), None);
    assert_eq!(outer6(&inner(0, 1, &[0; 40]), 1, 2, 0), None, "of the other family");
}

/// An ICMP message about an outer packet, of which so many bytes are quoted.
fn message(kind: u8, code: u8, mtu: u16, quoted: usize) -> Vec<u8> {
    let packet = inner(0, 63, &[7; 40]);
    let whole = [&outer(&packet, FROM, TO, 0x1234).unwrap()[..], &packet].concat();
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&whole[..quoted]);
    let sum = checksum::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn rfc2003_4_errors_about_outer_packets_are_read() {
    for quoted in [20, 28, 48, 80] {
        let read = Quoted::read(&message(3, 4, 1_400, quoted)).unwrap().unwrap();
        assert_eq!(
            read,
            Quoted { outer: Pair::V4 { source: FROM, destination: TO }, mark: 0x1234, inner: 28 }
        );
    }
    // Every bit of the quoted header and of the message counts.
    for at in 2..28 {
        let mut bad = message(3, 4, 1_400, 48);
        bad[at] ^= 1;
        assert!(!matches!(Quoted::read(&bad), Some(Ok(_))), "byte {at}");
    }
    assert_eq!(Quoted::read(&message(3, 4, 1_400, 48)[..27]), None);
}

#[test]
fn rfc2003_4_what_the_sender_is_told() {
    let told = Fate::Told;
    let rows = [
        ((3, 4, 1_400), Fate::TooBig(1_400)),
        ((3, 4, 0), Fate::TooBig(0)),
        ((3, 4, 68), Fate::TooBig(68)),
        ((3, 4, 67), Fate::Bad),
        ((3, 0, 0), told(NetworkUnreachable)),
        ((3, 1, 0), told(HostUnreachable)),
        ((3, 2, 0), told(HostUnreachable)),
        ((3, 3, 0), Fate::Kept),
        ((3, 5, 0), Fate::Kept),
        ((4, 0, 0), Fate::Kept),
        ((5, 1, 0), Fate::Kept),
        ((11, 0, 0), told(HostUnreachable)),
        ((11, 1, 0), Fate::Kept),
        ((12, 0, 0), Fate::Kept),
    ];
    for ((kind, code, mtu), wanted) in rows {
        assert_eq!(fate(&message(kind, code, mtu, 28)), wanted, "type {kind} code {code} MTU {mtu}");
    }
    assert_eq!(fate(&[3, 4, 0]), Fate::Bad);
}

/// The same over IPv6, from router to tunnel's beginning.
fn message6(kind: u8, code: u8, mtu: u32, quoted: usize) -> Vec<u8> {
    let packet = inner6(0, 63, &[7; 40]);
    let whole = [&outer6(&packet, 9, 99, 0x9_8765).unwrap()[..], &packet].concat();
    let mut message = vec![kind, code, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&whole[..quoted]);
    let sum = !BETWEEN.transport_sum(ipv6::ICMP, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

const BETWEEN: Pair = Pair::V6 { source: 5, destination: 9 };

#[test]
fn rfc2473_8_errors_about_outer_packets_are_read() {
    for quoted in [40, 80, 120] {
        let read = Quoted::read6(&message6(2, 0, 1_400, quoted), BETWEEN).unwrap().unwrap();
        let outer = Pair::V6 { source: 9, destination: 99 };
        assert_eq!(read, Quoted { outer, mark: 0x9_8765, inner: 48 });
    }
    for at in 1..48 {
        let mut bad = message6(2, 0, 1_400, 80);
        bad[at] ^= 1;
        assert!(!matches!(Quoted::read6(&bad, BETWEEN), Some(Ok(_))), "byte {at}");
    }
    assert_eq!(Quoted::read6(&message6(2, 0, 1_400, 39), BETWEEN), None);
    let rows = [
        ((2, 0, 1_400), Fate::TooBig(1_400)),
        ((2, 0, 1_280), Fate::TooBig(1_280)),
        ((2, 0, 1_279), Fate::Bad),
        ((2, 0, 0), Fate::Bad),
        ((2, 0, 70_000), Fate::TooBig(u16::MAX)),
        ((1, 0, 0), Fate::Told(HostUnreachable)),
        ((1, 3, 0), Fate::Told(HostUnreachable)),
        ((1, 4, 0), Fate::Kept),
        ((3, 0, 0), Fate::Told(HostUnreachable)),
        ((3, 1, 0), Fate::Kept),
        ((4, 1, 0), Fate::Told(HostUnreachable)),
        ((4, 0, 0), Fate::Kept),
    ];
    for ((kind, code, mtu), wanted) in rows {
        assert_eq!(fate6(&message6(kind, code, mtu, 80)), wanted, "type {kind} code {code} MTU {mtu}");
    }
    assert_eq!(fate6(&[2, 0]), Fate::Bad);
}

#[test]
fn inner_packets_are_shorter_by_the_outer_header() {
    assert_eq!([1_500, 88, 87, 0].map(inner_mtu), [1_480, 68, 68, 68]);
    assert_eq!([1_500, 1_320, 1_300, 0].map(inner_mtu6), [1_460, 1_280, 1_280, 1_280]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = (Quoted::read6(&bytes, BETWEEN), fate6(&bytes));
        let _ = (Quoted::read(&bytes), fate(&bytes), outer(&bytes, 1, 2, 3), outer6(&bytes, 1, 2, 3));
        let mut bytes = bytes;
        let _ = (pass_on(&mut bytes), pass_on6(&mut bytes), SlicedPacket::from_ip(&bytes));
    }
}
