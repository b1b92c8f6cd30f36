use super::*;
use crate::flight::{Flight, check};
use crate::icmpv4::Complaint;
use crate::{ethernet, sctp, tcp, udp};
use proptest::prelude::*;
use std::net::{Ipv6Addr, SocketAddr};

/// Where the ICMP message starts in a frame that is made here.
const ICMP: usize = ethernet::HEADER + ipv6::HEADER;
const ROUTER: u128 = 0x2001_0db8_00ff << 80 | 0xfe;
const OTHER_ROUTER: u128 = 0x2001_0db8_00ee << 80 | 0xfd;
const FROM: Ends = Ends {
    source: 0x2001_0db8 << 96 | 7,
    destination: 0x2001_0db8_0001 << 80 | 0x80,
    source_port: 40_000,
    destination_port: 80,
};
const TO: Ends = Ends {
    source: 0x2001_0db8_0002 << 80 | 1,
    destination: 0x2001_0db8_0003 << 80 | 0x1234_5678,
    source_port: 20_001,
    destination_port: 8_080,
};

fn flight(ends: Ends) -> Flight {
    let socket = |address: u128, port| SocketAddr::new(Ipv6Addr::from(address).into(), port);
    Flight {
        source_mac: [2, 0, 0, 0, 0, 9],
        destination_mac: [2, 0, 0, 0, 0, 1],
        source: socket(ends.source, ends.source_port),
        destination: socket(ends.destination, ends.destination_port),
    }
}

fn packet(ends: Ends, protocol: u8) -> Vec<u8> {
    match protocol {
        ipv4::TCP => tcp::segment(&flight(ends), 7, 9, tcp::flags::ACK, b"odd"),
        ipv4::UDP => udp::datagram(&flight(ends), b"odd"),
        _ => sctp::packet(&flight(ends), 7, &[(sctp::chunk::DATA, 3, b"data")]),
    }
}

/// The same packet with options for its destination in front of its transport header.
fn with_options(frame: &[u8]) -> Vec<u8> {
    let mut longer = frame.to_vec();
    longer.splice(ICMP..ICMP, [frame[20], 0, 1, 4, 0, 0, 0, 0]);
    longer[19] += 8;
    longer[20] = 60;
    longer
}

/// The message of an error about a packet, from a router to the packet's sender.
fn message(frame: &[u8], router: u128, complaint: Complaint) -> Vec<u8> {
    let mut into = [0xa5; icmpv6::ERROR_FRAME_MAX];
    let len = icmpv6::error(frame, router, complaint, &mut into).unwrap();
    assert_eq!(check(&into[..len]), Ok(()));
    into[ICMP..len].to_vec()
}

/// A message with some bytes changed and its checksum right again.
fn changed(message: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut message = message.to_vec();
    for (at, bytes) in changes {
        message[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    message[2..4].fill(0);
    let sum = !checksum::transport_sum6(ROUTER, FROM.source, ipv6::ICMP, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn rfc4443_3_an_error_becomes_the_one_about_the_packet_with_other_ends() {
    let complaints = [Complaint::PortUnreachable, Complaint::TooBig { mtu: 1_280 }, Complaint::TimeExceeded];
    for protocol in [ipv4::TCP, ipv4::UDP] {
        for complaint in complaints {
            for longer in [false, true] {
                let about = |ends| match packet(ends, protocol) {
                    frame if longer => with_options(&frame),
                    frame => frame,
                };
                let mut got = message(&about(FROM), ROUTER, complaint);
                let quoted = Quoted::read(&got, ROUTER, FROM.source).unwrap();
                assert_eq!((quoted.protocol, quoted.ends), (protocol, FROM));
                quoted.translate(&mut got, TO, OTHER_ROUTER, TO.source);
                let wanted = message(&about(TO), OTHER_ROUTER, complaint);
                assert_eq!(got, wanted, "{protocol} {complaint:?}, options: {longer}");
            }
        }
    }
}

#[test]
fn sctp_keeps_its_checksum() {
    let from = packet(FROM, ipv4::SCTP);
    let mut got = message(&from, ROUTER, Complaint::PortUnreachable);
    let quoted = Quoted::read(&got, ROUTER, FROM.source).unwrap();
    quoted.translate(&mut got, TO, OTHER_ROUTER, TO.source);
    let to = packet(TO, ipv4::SCTP);
    assert_eq!(got[8..52], to[14..58]);
    assert_eq!(got[52..], from[58..]);
    assert_eq!(checksum::transport_sum6(OTHER_ROUTER, TO.source, ipv6::ICMP, &got), 0xffff);
}

#[test]
fn rfc4443_2_4_a_quote_that_is_cut_off_is_translated_as_far_as_it_goes() {
    let whole = message(&packet(FROM, ipv4::TCP), ROUTER, Complaint::TimeExceeded);
    for len in [8 + 40 + 8, 8 + 40 + 17] {
        let mut got = changed(&whole[..len], &[]);
        let quoted = Quoted::read(&got, ROUTER, FROM.source).unwrap();
        quoted.translate(&mut got, TO, OTHER_ROUTER, TO.source);
        assert_eq!(got[48..52], [0x4e, 0x21, 0x1f, 0x90]);
        assert_eq!(got[52..], whole[52..len], "what is behind the ports stays");
        assert_eq!(checksum::transport_sum6(OTHER_ROUTER, TO.source, ipv6::ICMP, &got), 0xffff);
    }
}

#[test]
fn what_contradicts_itself_is_bad_and_what_is_not_passed_on_is_other() {
    let good = message(&packet(FROM, ipv4::UDP), ROUTER, Complaint::TooBig { mtu: 1_280 });
    assert!(Quoted::read(&changed(&good, &[]), ROUTER, FROM.source).is_ok());
    type Row<'a> = (&'a str, &'a [(usize, &'a [u8])], Unusable);
    let rows: [Row<'_>; 11] = [
        ("an echo request", &[(0, &[icmpv6::ECHO_REQUEST])], Unusable::Other),
        ("a redirect", &[(0, &[137])], Unusable::Other),
        ("an error of an unknown type", &[(0, &[100])], Unusable::Other),
        ("rfc8201: narrower than any link", &[(4, &[0, 0, 4, 255])], Unusable::Bad),
        ("about another family", &[(8, &[0x45])], Unusable::Bad),
        ("about an echo", &[(14, &[ipv6::ICMP])], Unusable::Other),
        ("about a later fragment", &[(14, &[44]), (48, &[17, 0, 0, 8])], Unusable::Other),
        ("about a packet with a source route", &[(14, &[43]), (48, &[17, 0, 0, 1])], Unusable::Bad),
        ("headers longer than their packet", &[(14, &[60]), (48, &[17, 9])], Unusable::Bad),
        ("about a packet without transport header", &[(12, &[0, 7])], Unusable::Bad),
        ("about a packet without length (RFC 2675)", &[(12, &[0, 0]), (14, &[0])], Unusable::Bad),
    ];
    for (what, changes, wanted) in rows {
        assert_eq!(Quoted::read(&changed(&good, changes), ROUTER, FROM.source), Err(wanted), "{what}");
    }
    for (what, source, destination) in
        [("of another source", OTHER_ROUTER, FROM.source), ("to another host", ROUTER, TO.source)]
    {
        assert_eq!(Quoted::read(&good, source, destination), Err(Unusable::Bad), "{what}");
    }
    for len in 0..8 + 40 + 8 {
        let cut = if len < 4 { good[..len].to_vec() } else { changed(&good[..len], &[]) };
        assert_eq!(Quoted::read(&cut, ROUTER, FROM.source), Err(Unusable::Bad), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn there_and_back_is_the_same(
        source: u128, destination: u128, source_port: u16, destination_port: u16,
        protocol in prop::sample::select(vec![ipv4::TCP, ipv4::UDP, ipv4::SCTP]),
    ) {
        let to = Ends { source, destination, source_port, destination_port };
        let there = message(&packet(FROM, protocol), ROUTER, Complaint::TimeExceeded);
        let mut back = there.clone();
        Quoted::read(&there, ROUTER, FROM.source).unwrap().translate(&mut back, to, OTHER_ROUTER, source);
        let quoted = Quoted::read(&back, OTHER_ROUTER, source).unwrap();
        prop_assert_eq!(quoted.ends, to);
        quoted.translate(&mut back, FROM, ROUTER, FROM.source);
        prop_assert_eq!(back, there);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..1_600), kind in 1u8..5,
        next in prop::sample::select(vec![ipv4::TCP, ipv4::UDP, ipv4::SCTP, 0, 43, 44, 51, 60])) {
        let mut bytes = bytes;
        if bytes.len() >= 48 {
            bytes = changed(&bytes, &[(0, &[kind]), (4, &[0, 0, 5, 0]), (8, &[0x60]), (14, &[next])]);
        }
        if let Ok(quoted) = Quoted::read(&bytes, ROUTER, FROM.source) {
            quoted.translate(&mut bytes, TO, OTHER_ROUTER, TO.source);
            prop_assert_eq!(checksum::transport_sum6(OTHER_ROUTER, TO.source, ipv6::ICMP, &bytes), 0xffff);
        }
    }
}

#[test]
fn rfc6936_a_quoted_datagram_without_checksum_stays_without() {
    let said = message(&packet(FROM, ipv4::UDP), ROUTER, Complaint::TimeExceeded);
    let quoted = Quoted::read(&said, ROUTER, FROM.source).unwrap();
    let sum = quoted.l4() + 6..quoted.l4() + 8;
    for (stated, is_left) in [([0, 0], true), ([0x12, 0x34], false)] {
        let mut said = changed(&said, &[(sum.start, &stated)]);
        quoted.translate(&mut said, TO, ROUTER, TO.source);
        assert_eq!(said[sum.clone()] == stated, is_left);
    }
}
