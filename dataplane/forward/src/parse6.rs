//! [`crate::parse`] for IPv6: what a received frame is whose EtherType says so.

use crate::address::{Address, Family};
use crate::cpu::{Any, Level};
use crate::flow_key::FlowKey6;
use crate::icmp_error;
use crate::parse::{self, ETHERNET, Packet, Start};
use crate::tunnel;
use crate::verdict::Verdict;
use turnpike_packet::ipv6::{self, Unwalkable};
use turnpike_packet::tcp::flags;
use turnpike_packet::{ethernet, icmpv6, ipv4};

/// Where the length of what follows the fixed header stands.
pub const PAYLOAD_LENGTH: usize = ETHERNET + 4;
const NEXT_HEADER: usize = ETHERNET + 6;
/// Where the hop limit stands.
pub const HOP_LIMIT: usize = ETHERNET + 7;
/// Where the source address stands, and behind it the destination.
pub const ADDRESSES: usize = ETHERNET + 8;
/// Where TCP, UDP or SCTP starts in a frame without extension headers.
pub const L4: usize = ETHERNET + ipv6::HEADER;

const _: () = assert!(L4 + ipv6::EXTENSIONS_BYTES_MAX <= u8::MAX as usize);

/// The five-tuple and the rest, as [`parse::Parsed`] has them.
pub type Parsed = (FlowKey6, Packet);

fn bad(verdict: Verdict) -> Parsed {
    (FlowKey6::default(), Packet::bad(verdict))
}

/// Reads a frame of IPv6 that came in on a port with this Ethernet address. `head` is its first segment, `frame_len` the length of all.
#[inline(always)]
#[must_use]
pub fn parse(head: &[u8], frame_len: usize, mac: u64) -> Parsed {
    match glance::<Any>(head, frame_len, &start(mac)) {
        Some(parsed) => parsed,
        None => read(head, frame_len, mac),
    }
}

/// How frames of the common case begin that come in on a port with this Ethernet address.
#[inline(always)]
#[must_use]
pub fn start(mac: u64) -> Start {
    Start::new(mac, ethernet::IPV6, [(ETHERNET, 0x60, 0xf0), (ETHERNET + 1, 0, 0), (ETHERNET + 2, 0, 0)])
}

/// The common case: TCP or UDP without extension headers, all in order. None for anything else.
#[inline(always)]
#[must_use]
pub fn glance<L: Level>(head: &[u8], frame_len: usize, start: &Start) -> Option<Parsed> {
    let fixed = head.first_chunk::<{ L4 + 8 }>()?;
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let payload_len = usize::from(u16::from_be_bytes([fixed[PAYLOAD_LENGTH], fixed[PAYLOAD_LENGTH + 1]]));
    // Addresses that begin with 64 zeros are seldom, and some of them are no addresses of hosts.
    let has_zeros = |at: usize| word(at) | word(at + 4) == 0;
    if !start.is_that_of::<L, _>(fixed)
        || L4 + payload_len > frame_len
        || has_zeros(ADDRESSES)
        || has_zeros(ADDRESSES + 16)
    {
        return None;
    }
    let tcp_flags = match fixed[NEXT_HEADER] {
        ipv4::TCP => {
            let header = head.get(L4..)?.first_chunk::<20>()?;
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < 20 || header_len > payload_len {
                return None;
            }
            header[13]
        }
        ipv4::UDP => {
            let length = usize::from(u16::from_be_bytes([fixed[L4 + 4], fixed[L4 + 5]]));
            if length < 8 || length > payload_len || fixed[L4 + 6..L4 + 8] == [0, 0] {
                return None;
            }
            flags::ACK
        }
        _ => return None,
    };
    let tuple = fixed.get(ADDRESSES..)?.first_chunk()?;
    Some((FlowKey6::from_header(tuple, fixed[NEXT_HEADER]), Packet::flow(L4, tcp_flags)))
}

/// Any frame of IPv6, with every check in its order and the verdict of the first that fails.
#[cold]
#[inline(never)]
#[must_use]
pub fn read(head: &[u8], frame_len: usize, mac: u64) -> Parsed {
    let missing = if head.len() < frame_len { Verdict::HeaderSplit } else { Verdict::Truncated };
    if head.get(12..ETHERNET).is_some_and(|kind| kind != ethernet::IPV6.to_be_bytes()) {
        return (FlowKey6::default(), Packet::other_family());
    }
    let Some(fixed) = head.first_chunk::<L4>() else { return bad(missing) };
    let is_to_us = fixed[..6] == mac.to_le_bytes()[..6];
    // RFC 2464 section 7: groups have these addresses.
    if !is_to_us && fixed[..2] != [0x33; 2] {
        return bad(Verdict::OtherMac);
    }
    let payload_len = usize::from(u16::from_be_bytes([fixed[PAYLOAD_LENGTH], fixed[PAYLOAD_LENGTH + 1]]));
    let next = fixed[NEXT_HEADER];
    // A length of 0 is that of a jumbogram (RFC 2675), which no Ethernet carries, or of a header that nothing follows.
    if fixed[ETHERNET] >> 4 != 6 || payload_len == 0 && next == 0 || L4 + payload_len > frame_len {
        return bad(if is_to_us { Verdict::BadIpv6 } else { Verdict::OtherMac });
    }
    let address = |at: usize| {
        let half = |at: usize| fixed[at..at + 8].iter().fold(0u64, |half, &byte| half << 8 | u64::from(byte));
        Address::v6(u128::from(half(at)) << 64 | u128::from(half(at + 8)))
    };
    let (source, destination) = (address(ADDRESSES), address(ADDRESSES + 16));
    let payload = &head[L4..head.len().min(L4 + payload_len)];
    // A question who listens has a hop-by-hop header of eight bytes in front.
    let asks_listeners =
        payload.starts_with(&[ipv6::ICMP, 0]) && payload.get(8) == Some(&icmpv6::LISTENER_QUERY);
    if next == ipv6::ICMP && payload.first().is_some_and(|&kind| icmpv6::is_neighbour_discovery(kind))
        || next == 0 && asks_listeners
    {
        return (key(next, source, destination, [0; 4]), Packet::neighbour_discovery(L4));
    }
    if !is_to_us {
        return bad(Verdict::OtherMac);
    }
    if [source, destination].iter().any(|address| address.family() == Family::V4) {
        return bad(Verdict::BadIpv6);
    }
    let walk = match ipv6::walk(next, payload, payload_len) {
        Ok(walk) => walk,
        Err(Unwalkable::CutOff) => return bad(missing),
        Err(Unwalkable::Bad | Unwalkable::TooLong) => return bad(Verdict::BadIpv6),
        Err(Unwalkable::SourceRoute) => return bad(Verdict::SourceRoute),
    };
    if walk.fragment.is_some_and(|fragment| fragment.more || fragment.offset > 0) {
        return (key(walk.protocol, source, destination, [0; 4]), Packet::bad(Verdict::Fragment));
    }
    let (l4, l4_len) = (L4 + walk.offset, payload_len - walk.offset);
    if walk.protocol == ipv6::ICMP
        && let Some(error) = tunnel::read(head, l4, l4_len)
    {
        return error.map_or_else(bad, |key| (key, Packet::tunnel_error(l4)));
    }
    if walk.protocol == ipv6::ICMP
        && let Some(error) = icmp_error::read6(head, l4, l4_len)
    {
        return error.map_or_else(bad, |key| (key, Packet::icmp_error(l4)));
    }
    let ports = head.get(l4..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let packet = match walk.protocol {
        ipv4::UDP if head.get(l4 + 6..l4 + 8) == Some(&[0, 0]) => Packet::bad(Verdict::BadL4),
        ipv6::ICMP => icmp(head, l4, l4_len),
        // The number of ICMP for IPv4 means nothing here.
        ipv4::ICMP => Packet::bad(Verdict::OtherProtocol),
        protocol => parse::transport(head, l4, l4_len, protocol),
    };
    (key(walk.protocol, source, destination, ports), packet)
}

fn key(protocol: u8, source: Address, destination: Address, ports: [u8; 4]) -> FlowKey6 {
    let [a, b, c, d] = ports;
    FlowKey6::new(
        protocol,
        source.bits(),
        destination.bits(),
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
    )
}

fn icmp(head: &[u8], l4: usize, l4_len: usize) -> Packet {
    match head.get(l4..l4 + 8) {
        None => parse::cut_off(l4_len, 8),
        Some(_) if l4_len < 8 => Packet::bad(Verdict::BadL4),
        Some(header) if header[0] == icmpv6::ECHO_REQUEST && header[1] == 0 => Packet::echo(l4),
        Some(_) => Packet::bad(Verdict::Icmp),
    }
}
