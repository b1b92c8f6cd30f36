//! Frames as the model reads and makes them: slowly and plainly, every checksum from scratch.

use crate::harness::{MAC, ROUTER_MAC};
use std::net::{Ipv4Addr, SocketAddrV4};
use turnpike_packet::checksum::{checksum, ones_complement_sum, transport_sum};
use turnpike_packet::ipv4::{ICMP, SCTP, TCP, UDP};
use turnpike_packet::sctp;

/// Ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    pub protocol: u8,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

impl Tuple {
    /// Of a packet the other way.
    pub fn back(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

/// Where an IPv4 header and what it carries lie in a frame or a quotation, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub ip: usize,
    pub l4: usize,
    pub end: usize,
    pub protocol: u8,
}

impl Layout {
    /// Of an IPv4 packet that starts at `ip`, which may be cut off behind its header.
    pub fn at(bytes: &[u8], ip: usize) -> Self {
        let l4 = ip + usize::from(bytes[ip] & 0x0f) * 4;
        let end = ip + usize::from(word(bytes, ip + 2));
        Self { ip, l4, end: end.min(bytes.len()), protocol: bytes[ip + 9] }
    }

    /// The five-tuple; of ICMP ports are zero.
    pub fn tuple(self, bytes: &[u8]) -> Tuple {
        let port = |at| if self.protocol == ICMP { 0 } else { word(bytes, at) };
        Tuple {
            protocol: self.protocol,
            source: SocketAddrV4::new(address(bytes, self.ip + 12), port(self.l4)),
            destination: SocketAddrV4::new(address(bytes, self.ip + 16), port(self.l4 + 2)),
        }
    }
}

pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

/// Makes the checksum of an IPv4 header anew.
pub fn sum_header(bytes: &mut [u8], layout: Layout) {
    bytes[layout.ip + 10..layout.ip + 12].fill(0);
    let sum = checksum(&bytes[layout.ip..layout.l4]);
    bytes[layout.ip + 10..layout.ip + 12].copy_from_slice(&sum.to_be_bytes());
}

/// How wrong a packet's transport checksum is; 0 when it is right or, of UDP, not there. Of SCTP any number that is not 0 says that it is wrong.
pub fn wrongness(bytes: &[u8], layout: Layout) -> u16 {
    let segment = &bytes[layout.l4..layout.end];
    if layout.protocol == SCTP {
        return u16::from(sctp::checksum(segment).unwrap().to_le_bytes() != segment[8..12]);
    }
    if layout.protocol == UDP && segment[6..8] == [0, 0] {
        return 0;
    }
    let [source, destination] = [12, 16].map(|at| address(bytes, layout.ip + at).into());
    !transport_sum(source, destination, layout.protocol, segment)
}

/// Makes the transport checksum anew, wrong by as much as said, in one's complement.
pub fn sum_transport(bytes: &mut [u8], layout: Layout, wrong_by: u16) {
    let at = layout.l4 + if layout.protocol == TCP { 16 } else { 6 };
    if layout.protocol == SCTP {
        let sum = sctp::checksum(&bytes[layout.l4..layout.end]).unwrap();
        bytes[layout.l4 + 8..layout.l4 + 12].copy_from_slice(&sum.to_le_bytes());
        return;
    }
    if layout.protocol == UDP && bytes[at..at + 2] == [0, 0] {
        return;
    }
    bytes[at..at + 2].fill(0);
    let [source, destination] = [12, 16].map(|a| address(bytes, layout.ip + a).into());
    let right = !transport_sum(source, destination, layout.protocol, &bytes[layout.l4..layout.end]);
    // Adding a complement subtracts. Of the two zeroes of one's complement an update makes the plain one.
    let wrong = match ones_complement_sum(&[right.to_be_bytes(), (!wrong_by).to_be_bytes()].concat()) {
        0xffff => 0,
        sum => sum,
    };
    let sum = if wrong_by == 0 { right } else { wrong };
    let sum = if layout.protocol == UDP && sum == 0 { 0xffff } else { sum };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Ethernet addresses of what leaves: everybody is behind the router.
pub fn set_macs(frame: &mut [u8]) {
    frame[..6].copy_from_slice(&ROUTER_MAC);
    frame[6..12].copy_from_slice(&MAC);
}

/// A frame that came, as it has to leave with these ends: one hop older, all checksums summed anew.
pub fn readdressed(came: &[u8], ends: Tuple) -> Vec<u8> {
    let mut frame = came.to_vec();
    let layout = Layout::at(came, 14);
    let wrong_by = wrongness(came, layout);
    set_macs(&mut frame);
    frame[22] -= 1;
    frame[26..30].copy_from_slice(&ends.source.ip().octets());
    frame[30..34].copy_from_slice(&ends.destination.ip().octets());
    frame[layout.l4..layout.l4 + 2].copy_from_slice(&ends.source.port().to_be_bytes());
    frame[layout.l4 + 2..layout.l4 + 4].copy_from_slice(&ends.destination.port().to_be_bytes());
    sum_header(&mut frame, layout);
    sum_transport(&mut frame, layout, wrong_by);
    frame
}

/// A frame's IP header in other clothes: time to live, type of service, identification, options, and bytes behind the packet. Nothing that a
/// transport checksum covers.
pub fn dressed(
    frame: &[u8],
    ttl: u8,
    tos: u8,
    id: u16,
    may_fragment: bool,
    options: &[u8],
    padding: usize,
) -> Vec<u8> {
    let mut dressed = frame[..34].to_vec();
    dressed.extend(options);
    dressed.extend(&frame[34..]);
    let total = (dressed.len() - 14) as u16;
    dressed[14] = 0x45 + (options.len() / 4) as u8;
    dressed[15] = tos;
    dressed[16..18].copy_from_slice(&total.to_be_bytes());
    dressed[18..20].copy_from_slice(&id.to_be_bytes());
    dressed[20] = if may_fragment { 0 } else { 0x40 };
    dressed[22] = ttl;
    let layout = Layout::at(&dressed, 14);
    sum_header(&mut dressed, layout);
    dressed.resize(dressed.len() + padding, 0x77);
    dressed
}

/// A frame with an ICMP message from one address to another, to the router.
pub fn icmp_frame(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut frame = [&ROUTER_MAC[..], &MAC, &[8, 0, 0x45, 0]].concat();
    frame.extend(((20 + message.len()) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, ICMP, 0, 0]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame[36..38].fill(0);
    let sum = checksum(&frame[34..]);
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    let layout = Layout::at(&frame, 14);
    sum_header(&mut frame, layout);
    frame
}

/// The gateway's own error about a frame: at most 576 bytes, quoting what fits (RFC 1812 section 4.3.2.3).
pub fn own_error(from: Ipv4Addr, about: &[u8], kind: u8, code: u8, mtu: u16) -> Vec<u8> {
    let packet = &about[14..Layout::at(about, 14).end];
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&packet[..packet.len().min(548)]);
    icmp_frame(from, address(about, 26), &message)
}

/// One line for people.
pub fn told(frame: &[u8]) -> String {
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return format!("{frame:02x?}");
    }
    let layout = Layout::at(frame, 14);
    let protocol = match layout.protocol {
        TCP => "TCP",
        UDP => "UDP",
        SCTP => "SCTP",
        ICMP => "ICMP",
        _ => "other",
    };
    let l4 = frame.get(layout.l4..layout.end.max(layout.l4)).unwrap_or_default();
    let head = &l4[..l4.len().min(20)];
    let (from, to, ttl) = (address(frame, 26), address(frame, 30), frame[22]);
    format!("{protocol} {from} > {to} ttl {ttl}, {} bytes, {head:02x?}", frame.len())
}
