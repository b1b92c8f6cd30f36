//! Whole frames with right checksums, for tests, tools and benchmarks, and the check that a frame's checksums are right.

use crate::{checksum, ethernet, icmpv4, ipv4, sctp};
use std::net::SocketAddrV4;

/// Where a frame comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// Address and port of the sender.
    pub source: SocketAddrV4,
    /// Address and port of the receiver.
    pub destination: SocketAddrV4,
}

impl Flight {
    /// The flight of an answer.
    #[must_use]
    pub const fn back(self) -> Self {
        Self {
            source_mac: self.destination_mac,
            destination_mac: self.source_mac,
            source: self.destination,
            destination: self.source,
        }
    }

    /// The sender's address as a number.
    #[must_use]
    pub fn source_number(&self) -> u32 {
        (*self.source.ip()).into()
    }

    /// The receiver's address as a number.
    #[must_use]
    pub fn destination_number(&self) -> u32 {
        (*self.destination.ip()).into()
    }

    /// The frame with an IPv4 packet that carries `segment`, which must fit into one; a longer one is cut.
    #[must_use]
    pub fn frame(&self, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let segment = &segment[..segment.len().min(usize::from(u16::MAX) - ipv4::HEADER)];
        let mut frame = ethernet::header(self.destination_mac, self.source_mac, ethernet::IPV4).to_vec();
        if let Some(header) =
            ipv4::header(protocol, self.source_number(), self.destination_number(), segment.len())
        {
            frame.extend(header);
            frame.extend(segment);
        }
        frame
    }

    /// A frame with an echo request.
    #[must_use]
    pub fn echo_request(&self, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![icmpv4::ECHO_REQUEST, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        message.extend(payload);
        let sum = checksum::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.frame(ipv4::ICMP, &message)
    }
}

/// What is wrong with a frame that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Its lengths do not fit together.
    #[error("lengths do not fit together")]
    Length,
    /// The IPv4 header checksum.
    #[error("wrong IPv4 header checksum")]
    Ipv4Checksum,
    /// The TCP, UDP, SCTP or ICMP checksum.
    #[error("wrong transport checksum")]
    TransportChecksum,
}

/// Checks every length and checksum of a frame as its receiver would. Frames that are not IPv4 pass, and so do UDP datagrams without checksum.
pub fn check(frame: &[u8]) -> Result<(), Wrong> {
    let ethertype = frame.get(12..14).ok_or(Wrong::Length)?;
    if ethertype != ethernet::IPV4.to_be_bytes() {
        return Ok(());
    }
    let ip = &frame[ethernet::HEADER..];
    let header_len = usize::from(*ip.first().ok_or(Wrong::Length)? & 0x0f) * 4;
    let header = ip.get(..header_len.max(ipv4::HEADER)).ok_or(Wrong::Length)?;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let segment = ip.get(header_len..total_len).ok_or(Wrong::Length)?;
    if checksum::ones_complement_sum(header) != 0xffff {
        return Err(Wrong::Ipv4Checksum);
    }
    let address =
        |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let sum = match header[9] {
        ipv4::ICMP => checksum::ones_complement_sum(segment),
        ipv4::UDP if segment.get(6..8) == Some(&[0, 0]) => return Ok(()),
        protocol @ (ipv4::TCP | ipv4::UDP) => {
            checksum::transport_sum(address(12), address(16), protocol, segment)
        }
        ipv4::SCTP => {
            let stated = segment.get(sctp::CHECKSUM).ok_or(Wrong::Length)?;
            let right = sctp::checksum(segment).is_some_and(|sum| sum.to_le_bytes() == stated);
            return if right { Ok(()) } else { Err(Wrong::TransportChecksum) };
        }
        _ => return Ok(()),
    };
    if sum == 0xffff { Ok(()) } else { Err(Wrong::TransportChecksum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tcp, udp};

    fn flight() -> Flight {
        Flight {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: [2, 0, 0, 0, 0, 1],
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        }
    }

    /// Frames of every kind that can be made.
    fn frames() -> Vec<Vec<u8>> {
        let echo = flight().echo_request(1, 2, b"ping");
        let mut reply = echo.clone();
        icmpv4::echo_reply(&mut reply, 34, [2, 0, 0, 0, 0, 1]);
        let syn = tcp::segment(&flight(), 7, 0, tcp::flags::SYN, b"");
        let mut unreachable = [0xa5; 590];
        let len = icmpv4::unreachable(&syn, &mut unreachable).unwrap();
        vec![
            echo,
            reply,
            tcp::reset(&syn, 34).unwrap().to_vec(),
            tcp::reset(&tcp::segment(&flight(), 7, 9, tcp::flags::ACK, b"data!"), 34).unwrap().to_vec(),
            syn,
            unreachable[..len].to_vec(),
            udp::datagram(&flight(), b"odd"),
            tcp::segment(&flight(), 7, 9, tcp::flags::ACK | tcp::flags::PSH, &[7; 1460]),
            sctp::packet(&flight(), 0, &[(sctp::chunk::INIT, 0, &sctp::init(7, 9))]),
            sctp::packet(&flight(), 7, &[(sctp::chunk::DATA, 3, &[7; 1400])]),
        ]
    }

    #[test]
    fn every_frame_passes_the_check_and_an_independent_parser() {
        for frame in frames() {
            assert_eq!(check(&frame), Ok(()), "{frame:02x?}");
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4 in {frame:02x?}") };
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            if let Some(etherparse::TransportSlice::Tcp(tcp)) = &sliced.transport {
                assert_eq!(
                    tcp.checksum(),
                    tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap()
                );
            }
        }
    }

    #[test]
    fn the_check_sees_every_flipped_bit_that_a_receiver_would() {
        for frame in frames() {
            for at in 14..frame.len() {
                let mut bad = frame.clone();
                bad[at] ^= 0x10;
                assert!(check(&bad).is_err(), "byte {at} of {frame:02x?}");
            }
        }
    }

    #[test]
    fn a_reset_answers_by_the_rules() {
        let word = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let to_syn = tcp::reset(&tcp::segment(&flight(), 7, 0, tcp::flags::SYN, b""), 34).unwrap();
        assert_eq!(
            (word(&to_syn, 38), word(&to_syn, 42), to_syn[47]),
            (0, 8, tcp::flags::RST | tcp::flags::ACK)
        );
        let to_ack = tcp::reset(&tcp::segment(&flight(), 7, 99, tcp::flags::ACK, b"xyz"), 34).unwrap();
        assert_eq!((word(&to_ack, 38), to_ack[47]), (99, tcp::flags::RST));
        assert_eq!(tcp::reset(&tcp::segment(&flight(), 7, 9, tcp::flags::RST, b""), 34), None);
        assert_eq!(to_ack[26..34], [203, 0, 113, 80, 198, 51, 100, 7]);
    }
}
