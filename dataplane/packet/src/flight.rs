//! Whole frames with right checksums, for tests, tools and benchmarks, and the check that a frame's checksums are right.

use crate::ip::{self, Pair};
use crate::{checksum, ethernet, icmpv4, icmpv6, ipip, ipv4, ipv6, sctp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a frame comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// Address and port of the sender.
    pub source: SocketAddr,
    /// Address and port of the receiver, of the same family.
    pub destination: SocketAddr,
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

    /// Both addresses; those of IPv4 are zero when the two are of different families, which no packet can have.
    #[must_use]
    pub fn pair(&self) -> Pair {
        Pair::new(self.source.ip(), self.destination.ip()).unwrap_or(Pair::V4 { source: 0, destination: 0 })
    }

    /// One's complement sum of a segment and its pseudo header.
    #[must_use]
    pub fn transport_sum(&self, protocol: u8, segment: &[u8]) -> u16 {
        self.pair().transport_sum(protocol, segment)
    }

    /// The frame with an IP packet that carries `segment`, which must fit into one; a longer one is cut.
    #[must_use]
    pub fn frame(&self, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let segment = &segment[..segment.len().min(usize::from(u16::MAX) - ipv4::HEADER)];
        let pair = self.pair();
        let mut frame = ethernet::header(self.destination_mac, self.source_mac, pair.ethertype()).to_vec();
        if let Some(header) = pair.header(protocol, segment.len()) {
            frame.extend(header);
            frame.extend(segment);
        }
        frame
    }

    /// A frame with an echo request.
    #[must_use]
    pub fn echo_request(&self, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
        let pair = self.pair();
        let (protocol, kind) = match pair {
            Pair::V4 { .. } => (ipv4::ICMP, icmpv4::ECHO_REQUEST),
            Pair::V6 { .. } => (ipv6::ICMP, icmpv6::ECHO_REQUEST),
        };
        let mut message = vec![kind, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        message.extend(payload);
        // Only ICMP for IPv6 has a pseudo header.
        let sum = match pair {
            Pair::V4 { .. } => checksum::checksum(&message),
            Pair::V6 { .. } => !pair.transport_sum(protocol, &message),
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.frame(protocol, &message)
    }
}

/// Addresses and ports of the TCP, UDP or SCTP packet in a frame; none when it holds no IP packet.
#[must_use]
pub fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let pair = Pair::of(frame)?;
    let l4 = match pair {
        Pair::V4 { .. } => ethernet::HEADER + usize::from(frame[ethernet::HEADER] & 0x0f) * 4,
        Pair::V6 { .. } => {
            let l4 = ethernet::HEADER + ipv6::HEADER;
            l4 + ipv6::walk(frame[20], frame.get(l4..)?, ip::end(frame)?.checked_sub(l4)?).ok()?.offset
        }
    };
    let port = |at: usize| frame.get(at..)?.first_chunk().copied().map(u16::from_be_bytes);
    let (source, destination): (IpAddr, IpAddr) = match pair {
        Pair::V4 { source, destination } => {
            (Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into())
        }
        Pair::V6 { source, destination } => {
            (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into())
        }
    };
    Some((SocketAddr::new(source, port(l4)?), SocketAddr::new(destination, port(l4 + 2)?)))
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

/// Checks every length and checksum of a frame as its receiver would. Frames that are not IP pass, and so do datagrams over IPv4 without
/// checksum and fragments, whose checksum covers more than there is.
pub fn check(frame: &[u8]) -> Result<(), Wrong> {
    let ethertype = frame.get(12..14).ok_or(Wrong::Length)?;
    if ethertype != ethernet::IPV4.to_be_bytes() && ethertype != ethernet::IPV6.to_be_bytes() {
        return Ok(());
    }
    let pair = Pair::of(frame).ok_or(Wrong::Length)?;
    let end = ip::end(frame).ok_or(Wrong::Length)?;
    let (protocol, l4) = match pair {
        Pair::V4 { .. } => {
            let packet = &frame[ethernet::HEADER..];
            let header_len = usize::from(packet[0] & 0x0f) * 4;
            let header = packet.get(..header_len).filter(|h| h.len() >= ipv4::HEADER).ok_or(Wrong::Length)?;
            if packet[0] >> 4 != 4 || checksum::ones_complement_sum(header) != 0xffff {
                return Err(Wrong::Ipv4Checksum);
            }
            let is_fragment = (header[6] & 0x3f) | header[7] != 0;
            (Some(header[9]).filter(|_| !is_fragment), ethernet::HEADER + header_len)
        }
        Pair::V6 { .. } => {
            let l4 = ethernet::HEADER + ipv6::HEADER;
            let walk = ipv6::walk(frame[20], &frame[l4..], end - l4).map_err(|_| Wrong::Length)?;
            let is_fragment = walk.fragment.is_some_and(|f| f.more || f.offset > 0);
            if frame[14] >> 4 != 6 {
                return Err(Wrong::Length);
            }
            (Some(walk.protocol).filter(|_| !is_fragment), l4 + walk.offset)
        }
    };
    let segment = frame.get(l4..end).ok_or(Wrong::Length)?;
    let sum = match (protocol, pair) {
        (Some(ipv4::ICMP), Pair::V4 { .. }) => checksum::ones_complement_sum(segment),
        (Some(ipv4::UDP), Pair::V4 { .. }) if segment.get(6..8) == Some(&[0, 0]) => return Ok(()),
        (Some(ipv4::UDP), Pair::V6 { .. }) if segment.get(6..8) == Some(&[0, 0]) => 0,
        (Some(protocol @ (ipv4::TCP | ipv4::UDP)), _) | (Some(protocol @ ipv6::ICMP), Pair::V6 { .. }) => {
            pair.transport_sum(protocol, segment)
        }
        (Some(ipv4::SCTP), _) => {
            let stated = segment.get(sctp::CHECKSUM).ok_or(Wrong::Length)?;
            let right = sctp::checksum(segment).is_some_and(|sum| sum.to_le_bytes() == stated);
            return if right { Ok(()) } else { Err(Wrong::TransportChecksum) };
        }
        // A packet in a packet is checked as if it had come alone.
        (Some(ipip::IPV4), Pair::V4 { .. }) | (Some(ipip::IPV6), Pair::V6 { .. }) => {
            return check(&[&frame[..ethernet::HEADER], segment].concat());
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
