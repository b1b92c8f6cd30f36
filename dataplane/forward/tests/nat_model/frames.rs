//! Frames as the model reads and makes them: slowly and plainly, every checksum from scratch.

use crate::harness::{MAC, ROUTER_MAC};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use turnpike_packet::checksum::{checksum, ones_complement_sum};
use turnpike_packet::ip::Pair;
use turnpike_packet::ipv4::{self, SCTP, TCP, UDP};
use turnpike_packet::{ipv6, sctp};

/// Extension headers that are walked over: hop-by-hop options, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];

/// Ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    pub protocol: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Tuple {
    /// Of a packet the other way.
    pub fn back(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

/// Where an IP header and what it carries lie in a frame or a quotation, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub is_v6: bool,
    pub ip: usize,
    pub l4: usize,
    pub end: usize,
    pub protocol: u8,
}

impl Layout {
    /// Of an IP packet that starts at `ip`, which may be cut off behind its headers.
    pub fn at(bytes: &[u8], ip: usize) -> Self {
        let is_v6 = bytes[ip] >> 4 == 6;
        let end = (ip + stated_len(bytes, ip)).min(bytes.len());
        if !is_v6 {
            let l4 = ip + usize::from(bytes[ip] & 0x0f) * 4;
            return Self { is_v6, ip, l4, end, protocol: bytes[ip + 9] };
        }
        let (mut protocol, mut l4) = (bytes[ip + 6], ip + ipv6::HEADER);
        while EXTENSIONS.contains(&protocol) && l4 + 8 <= end {
            (protocol, l4) = (bytes[l4], l4 + (usize::from(bytes[l4 + 1]) + 1) * 8);
        }
        Self { is_v6, ip, l4, end, protocol }
    }

    pub fn source(self, bytes: &[u8]) -> IpAddr {
        address(bytes, self.ip + if self.is_v6 { 8 } else { 12 }, self.is_v6)
    }

    pub fn destination(self, bytes: &[u8]) -> IpAddr {
        address(bytes, self.ip + if self.is_v6 { 24 } else { 16 }, self.is_v6)
    }

    /// The five-tuple; of ICMP ports are zero.
    pub fn tuple(self, bytes: &[u8]) -> Tuple {
        let port = |at| if self.is_icmp() { 0 } else { word(bytes, at) };
        Tuple {
            protocol: self.protocol,
            source: SocketAddr::new(self.source(bytes), port(self.l4)),
            destination: SocketAddr::new(self.destination(bytes), port(self.l4 + 2)),
        }
    }

    pub fn is_icmp(self) -> bool {
        self.protocol == if self.is_v6 { ipv6::ICMP } else { ipv4::ICMP }
    }

    /// Where the time to live stands, which IPv6 calls hop limit.
    pub fn ttl(self) -> usize {
        self.ip + if self.is_v6 { 7 } else { 8 }
    }

    /// Where the transport checksum stands.
    fn sum(self) -> usize {
        let icmp = [ipv4::ICMP, ipv6::ICMP].contains(&self.protocol);
        self.l4 + if self.protocol == TCP { 16 } else { [6, 2][usize::from(icmp)] }
    }

    pub fn set_addresses(self, bytes: &mut [u8], source: IpAddr, destination: IpAddr) {
        let at = self.ip + if self.is_v6 { 8 } else { 12 };
        let both = [octets(source), octets(destination)].concat();
        bytes[at..at + both.len()].copy_from_slice(&both);
    }

    fn pair(self, bytes: &[u8]) -> Pair {
        Pair::new(self.source(bytes), self.destination(bytes)).expect("they are of one family")
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8], at: usize, is_v6: bool) -> IpAddr {
    match is_v6 {
        true => Ipv6Addr::from_octets(bytes[at..at + 16].try_into().unwrap()).into(),
        false => Ipv4Addr::from_octets(bytes[at..at + 4].try_into().unwrap()).into(),
    }
}

pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// How long the packet at `ip` says that it is.
pub fn stated_len(bytes: &[u8], ip: usize) -> usize {
    match bytes[ip] >> 4 {
        6 => ipv6::HEADER + usize::from(word(bytes, ip + 4)),
        _ => usize::from(word(bytes, ip + 2)),
    }
}

/// Whether a frame says that it holds a packet of IPv6.
pub fn is_v6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// No host has the address: nobody answers it.
pub fn is_no_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => address.is_unspecified() || address.is_loopback() || address.is_multicast(),
    }
}

/// Makes the checksum of an IPv4 header anew. IPv6 has none.
pub fn sum_header(bytes: &mut [u8], layout: Layout) {
    if !layout.is_v6 {
        bytes[layout.ip + 10..layout.ip + 12].fill(0);
        let sum = checksum(&bytes[layout.ip..layout.l4]);
        bytes[layout.ip + 10..layout.ip + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// How wrong a packet's transport checksum is; 0 when it is right or, of UDP, not there. Of SCTP any number that is not 0 says that it is wrong.
pub fn wrongness(bytes: &[u8], layout: Layout) -> u16 {
    let segment = &bytes[layout.l4..layout.end];
    match layout.protocol {
        SCTP => u16::from(sctp::checksum(segment).unwrap().to_le_bytes() != segment[8..12]),
        UDP if segment[6..8] == [0, 0] => 0,
        ipv4::ICMP => !ones_complement_sum(segment),
        protocol => !layout.pair(bytes).transport_sum(protocol, segment),
    }
}

/// Makes the transport checksum anew, wrong by as much as said, in one's complement.
pub fn sum_transport(bytes: &mut [u8], layout: Layout, wrong_by: u16) {
    let Layout { protocol, l4, end, .. } = layout;
    let at = layout.sum();
    if protocol == SCTP {
        let sum = sctp::checksum(&bytes[l4..end]).unwrap();
        bytes[l4 + 8..l4 + 12].copy_from_slice(&sum.to_le_bytes());
        return;
    }
    if protocol == UDP && bytes[at..at + 2] == [0, 0] {
        return;
    }
    bytes[at..at + 2].fill(0);
    let right = match protocol {
        ipv4::ICMP => checksum(&bytes[l4..end]),
        _ => !layout.pair(bytes).transport_sum(protocol, &bytes[l4..end]),
    };
    // Adding a complement subtracts. Of the two zeroes of one's complement an update makes the plain one.
    let wrong = match ones_complement_sum(&[right.to_be_bytes(), (!wrong_by).to_be_bytes()].concat()) {
        0xffff => 0,
        sum => sum,
    };
    let sum = if wrong_by == 0 { right } else { wrong };
    // A datagram has no checksum of zero. Over IPv6 the gateway makes none for segments either.
    let is_ported = protocol == UDP || layout.is_v6 && protocol == TCP;
    let sum = if is_ported && sum == 0 { 0xffff } else { sum };
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
    frame[layout.ttl()] -= 1;
    layout.set_addresses(&mut frame, ends.source.ip(), ends.destination.ip());
    frame[layout.l4..layout.l4 + 2].copy_from_slice(&ends.source.port().to_be_bytes());
    frame[layout.l4 + 2..layout.l4 + 4].copy_from_slice(&ends.destination.port().to_be_bytes());
    sum_header(&mut frame, layout);
    sum_transport(&mut frame, layout, wrong_by);
    frame
}

/// What a frame's IP header wears: nothing that a transport checksum covers.
#[derive(Clone, Copy, Debug)]
pub struct Dress<'a> {
    pub ttl: u8,
    pub class: u8,
    /// Identification or flow label. NAT leaves it alone.
    pub number: u16,
    /// Routers may fragment it; over IPv6 none does.
    pub may_fragment: bool,
    /// Options of IPv4, or over IPv6 the kind of an extension header and the header itself.
    pub options: &'a [u8],
    /// Bytes behind the packet.
    pub padding: usize,
}

impl Dress<'_> {
    pub const PLAIN: Self =
        Self { ttl: 64, class: 0, number: 0, may_fragment: false, options: &[], padding: 0 };

    /// The frame in these clothes.
    pub fn on(&self, frame: &[u8]) -> Vec<u8> {
        let Self { ttl, class, number, may_fragment, options, padding } = *self;
        let is_v6 = is_v6(frame);
        let head = 14 + if is_v6 { ipv6::HEADER } else { ipv4::HEADER };
        let mut dressed = frame[..head].to_vec();
        match options.split_first() {
            Some((&kind, header)) if is_v6 => {
                dressed[20] = kind;
                dressed.extend(header);
            }
            _ => dressed.extend(options),
        }
        dressed.extend(&frame[head..]);
        let total = (dressed.len() - 14) as u16;
        if is_v6 {
            dressed[14..16].copy_from_slice(&[0x60 | class >> 4, class << 4]);
            dressed[18..20].copy_from_slice(&(total - 40).to_be_bytes());
        } else {
            dressed[14] = 0x45 + (options.len() / 4) as u8;
            dressed[15] = class;
            dressed[16..18].copy_from_slice(&total.to_be_bytes());
            dressed[20] = if may_fragment { 0 } else { 0x40 };
        }
        let layout = Layout::at(&dressed, 14);
        dressed[layout.ttl()] = ttl;
        set_number(&mut dressed, number);
        dressed.resize(dressed.len() + padding, 0x77);
        dressed
    }
}

/// Where a frame's number stands: the identification, or the low bits of the flow label.
fn number_at(frame: &[u8]) -> usize {
    if is_v6(frame) { 16 } else { 18 }
}

pub fn set_number(frame: &mut [u8], number: u16) {
    let at = number_at(frame);
    frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
    let layout = Layout::at(frame, 14);
    sum_header(frame, layout);
}

/// Family and number of a frame.
pub fn number(frame: &[u8]) -> (bool, u16) {
    (is_v6(frame), word(frame, number_at(frame)))
}

/// A frame with an ICMP message from one address to another, to the router.
pub fn icmp_frame(from: IpAddr, to: IpAddr, message: &[u8]) -> Vec<u8> {
    let pair = Pair::new(from, to).expect("they are of one family");
    let protocol = if from.is_ipv6() { ipv6::ICMP } else { ipv4::ICMP };
    let mut frame = [&ROUTER_MAC[..], &MAC, &pair.ethertype().to_be_bytes()].concat();
    frame.extend(pair.header(protocol, message.len()).unwrap());
    frame.extend(message);
    let layout = Layout::at(&frame, 14);
    sum_transport(&mut frame, layout, 0);
    frame
}

/// What the gateway says about a packet itself.
#[derive(Clone, Copy, Debug)]
pub enum Complaint {
    TooBig,
    Expired,
    PortUnreachable,
    Prohibited,
}

/// The gateway's own error about a frame. It quotes what fits into 576 bytes (RFC 1812 section 4.3.2.3), or the least MTU of IPv6.
pub fn own_error(from: IpAddr, about: &[u8], complaint: Complaint, mtu: u16) -> Vec<u8> {
    let layout = Layout::at(about, 14);
    let (kind, code) = match (complaint, layout.is_v6) {
        (Complaint::TooBig, false) => (3, 4),
        (Complaint::Expired, false) => (11, 0),
        (Complaint::PortUnreachable, false) => (3, 3),
        (Complaint::Prohibited, false) => (3, 13),
        (Complaint::TooBig, true) => (2, 0),
        (Complaint::Expired, true) => (3, 0),
        (Complaint::PortUnreachable, true) => (1, 4),
        (Complaint::Prohibited, true) => (1, 1),
    };
    let mtu = if matches!(complaint, Complaint::TooBig) { mtu } else { 0 };
    let room = if layout.is_v6 { 1_280 - 40 - 8 } else { 576 - 20 - 8 };
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(about[14..layout.end].iter().take(room));
    icmp_frame(from, layout.source(about), &message)
}

/// An ICMP error about a frame that left, as a router or host makes it: type and code, its maker, and how much it quotes.
pub fn error_about(sent: &[u8], from: IpAddr, kind: (u8, u8), quoted: usize, ttl: u8) -> Vec<u8> {
    let there = Layout::at(sent, 14);
    let mut packet = sent[14..there.end].to_vec();
    let layout = Layout::at(&packet, 0);
    packet[layout.ttl()] = ttl;
    sum_header(&mut packet, layout);
    packet.truncate(quoted.max(layout.l4 + 8));
    let mut message = vec![kind.0, kind.1, 0, 0, 0, 0, 0x05, 0x14];
    message.extend(packet);
    let mut frame = icmp_frame(from, there.source(sent), &message);
    frame[..6].copy_from_slice(&MAC);
    frame[6..12].copy_from_slice(&ROUTER_MAC);
    frame
}

/// The ends by which a frame's flow is found: of an error those of an answer to what it quotes.
pub fn ends_of(frame: &[u8]) -> Option<Tuple> {
    let is_packet = match (frame.get(12..14)?, frame.get(14)?) {
        ([8, 0], 0x45..=0x4f) => frame.len() >= 42,
        ([0x86, 0xdd], 0x60..=0x6f) => frame.len() >= 62,
        _ => false,
    };
    let layout = is_packet.then(|| Layout::at(frame, 14)).filter(|l| l.l4 + 8 <= frame.len())?;
    if !layout.is_icmp() {
        return [TCP, UDP, SCTP].contains(&layout.protocol).then(|| layout.tuple(frame));
    }
    let quotes = is_error(layout, frame) && layout.l4 + 8 + if layout.is_v6 { 48 } else { 28 } <= frame.len();
    let inner =
        quotes.then(|| Layout::at(frame, layout.l4 + 8)).filter(|inner| inner.l4 + 8 <= frame.len())?;
    Some(inner.tuple(frame).back())
}

/// Whether an ICMP message is an error, as far as NAT knows errors.
pub fn is_error(layout: Layout, frame: &[u8]) -> bool {
    let kinds: &[u8] = if layout.is_v6 { &[1, 2, 3, 4] } else { &[3, 11, 12] };
    kinds.contains(&frame[layout.l4])
}

/// One line for people.
pub fn told(frame: &[u8]) -> String {
    if ends_of(frame).is_none() {
        return format!("{frame:02x?}");
    }
    let layout = Layout::at(frame, 14);
    let protocol = match layout.protocol {
        TCP => "TCP",
        UDP => "UDP",
        SCTP => "SCTP",
        _ if layout.is_icmp() => "ICMP",
        _ => "other",
    };
    let l4 = frame.get(layout.l4..layout.end.max(layout.l4)).unwrap_or_default();
    let (head, ttl, (_, number)) = (&l4[..l4.len().min(20)], frame[layout.ttl()], number(frame));
    let (from, to) = (layout.source(frame), layout.destination(frame));
    format!("{protocol} {from} > {to} ttl {ttl} #{number}, {} bytes, {head:02x?}", frame.len())
}
