//! Packets in packets: IPv4 in IPv4 (RFC 2003) and IPv6 in IPv6 (RFC 2473), with what RFC 6040 says about congestion marks.
//!
//! The inner packet stays as it is, but for its time to live. [`outer`] and [`outer6`] make the header that goes in front of it; [`Quoted`] reads
//! what a router on the way says about such a packet.

use crate::icmpv4::Complaint;
use crate::icmpv4_error::{self, MESSAGE_MAX, Unusable};
use crate::icmpv6_error;
use crate::ip::Pair;
use crate::{checksum, icmpv4, icmpv6, ipv4, ipv6};

/// Protocol number of IPv4 in something.
pub const IPV4: u8 = 4;
/// Protocol number of IPv6 in something.
pub const IPV6: u8 = 41;
/// Least MTU that an IPv4 link can have (RFC 791 section 3.2).
const MTU_MIN: u16 = 68;
/// Bytes in front of the quoted packet of an ICMP error.
const ICMP_HEADER: usize = 8;

/// The header in front of the IPv4 packet that starts with `inner`: don't-fragment set, so that its identification says nothing (RFC 6864) and is
/// free for the caller's use. The DSCP and the congestion mark are the inner ones, which is RFC 6040's normal mode. None when `inner` is no IPv4
/// header, or the sum is too long for one packet.
#[must_use]
pub fn outer(inner: &[u8], source: u32, destination: u32, identification: u16) -> Option<[u8; ipv4::HEADER]> {
    let fixed = inner.first_chunk::<{ ipv4::HEADER }>()?;
    if fixed[0] >> 4 != 4 {
        return None;
    }
    let mut header = ipv4::header(IPV4, source, destination, usize::from(word(fixed, 2)))?;
    header[1] = fixed[1];
    header[4..6].copy_from_slice(&identification.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum::checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(header)
}

/// The header in front of the IPv6 packet that starts with `inner`. Traffic class and congestion mark are the inner ones; `flow_label` is 20 bits
/// by which routers spread flows (RFC 6438). None when `inner` is no IPv6 header, or the sum is too long for one packet.
#[must_use]
pub fn outer6(inner: &[u8], source: u128, destination: u128, flow_label: u32) -> Option<[u8; ipv6::HEADER]> {
    let fixed = inner.first_chunk::<{ ipv6::HEADER }>()?;
    if fixed[0] >> 4 != 6 {
        return None;
    }
    let inner_len = ipv6::HEADER + usize::from(word(fixed, 4));
    let mut header = ipv6::header(IPV6, source, destination, inner_len)?;
    let class = u32::from(word(fixed, 0)) >> 4 & 0xff;
    let first = 6 << 28 | class << 20 | flow_label & 0xf_ffff;
    header[..4].copy_from_slice(&first.to_be_bytes());
    Some(header)
}

/// Takes one from the time to live of the IPv4 packet that starts with `inner`, as whoever forwards it does (RFC 2003 section 3.1), and
/// updates its checksum. `false`, and nothing is written, when it has run out or there is no header.
pub fn pass_on(inner: &mut [u8]) -> bool {
    let Some(fixed) = inner.first_chunk_mut::<{ ipv4::HEADER }>() else { return false };
    if fixed[8] <= 1 {
        return false;
    }
    let before = word(fixed, 8);
    fixed[8] -= 1;
    let sum = checksum::updated(word(fixed, 10), before, word(fixed, 8));
    fixed[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

/// The same of an IPv6 packet and its hop limit (RFC 2473 section 3.1).
pub const fn pass_on6(inner: &mut [u8]) -> bool {
    let Some(fixed) = inner.first_chunk_mut::<{ ipv6::HEADER }>() else { return false };
    if fixed[7] <= 1 {
        return false;
    }
    fixed[7] -= 1;
    true
}

/// What an ICMP error quotes of a packet with a packet in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source and destination of the outer header: where the tunnel begins and ends.
    pub outer: Pair,
    /// Its identification; of IPv6 its flow label.
    pub mark: u32,
    /// Where the inner packet starts in the ICMP message, if that quotes so much; the message ends in it or with it.
    pub inner: usize,
}

impl Quoted {
    /// Reads an ICMP message for IPv4, from its type to the end of its IP packet. Its checksum and that of the quoted header are checked. None
    /// when it is no error about IPv4 in IPv4.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Result<Self, Unusable>> {
        let quoted = message.get(ICMP_HEADER..)?;
        let fixed = quoted.first_chunk::<{ ipv4::HEADER }>()?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        if !icmpv4_error::is_error(message[0]) || fixed[0] >> 4 != 4 || fixed[9] != IPV4 {
            return None;
        }
        let is_later_fragment = word(fixed, 6) & 0x1fff != 0;
        let header = quoted.get(..header_len).filter(|header| header.len() >= ipv4::HEADER);
        let is_right = header.is_some_and(|header| checksum::ones_complement_sum(header) == 0xffff)
            && checksum::ones_complement_sum(message) == 0xffff
            && message.len() <= MESSAGE_MAX
            && !is_later_fragment;
        let number = |at: usize| u32::from(word(fixed, at)) << 16 | u32::from(word(fixed, at + 2));
        let outer = Pair::V4 { source: number(12), destination: number(16) };
        let found = Self { outer, mark: word(fixed, 4).into(), inner: ICMP_HEADER + header_len };
        Some(if is_right { Ok(found) } else { Err(Unusable::Bad) })
    }

    /// The same of ICMP for IPv6 and IPv6 in IPv6; `between` are the addresses of the message's own packet.
    #[must_use]
    pub fn read6(message: &[u8], between: Pair) -> Option<Result<Self, Unusable>> {
        let fixed = message.get(ICMP_HEADER..)?.first_chunk::<{ ipv6::HEADER }>()?;
        if !icmpv6_error::is_error(message[0]) || fixed[0] >> 4 != 6 || fixed[6] != IPV6 {
            return None;
        }
        let is_right = message.len() <= MESSAGE_MAX && between.transport_sum(ipv6::ICMP, message) == 0xffff;
        let number = |at: usize| fixed[at..at + 16].iter().fold(0, |n, &byte| n << 8 | u128::from(byte));
        let outer = Pair::V6 { source: number(8), destination: number(24) };
        let label = u32::from(word(fixed, 0)) << 16 & 0xf_0000 | u32::from(word(fixed, 2));
        let found = Self { outer, mark: label, inner: ICMP_HEADER + ipv6::HEADER };
        Some(if is_right { Ok(found) } else { Err(Unusable::Bad) })
    }
}

/// What becomes of an ICMP error about an outer packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The way takes outer packets of so many bytes; 0 where that is not said.
    TooBig(u16),
    /// The sender of the inner packet is told this.
    Told(Complaint),
    /// It concerns nobody but the tunnel's beginning.
    Kept,
    /// It says what cannot be.
    Bad,
}

/// Reads type, code and MTU of an ICMP message for IPv4 about an outer packet (RFC 2003 section 4).
#[must_use]
pub fn fate(message: &[u8]) -> Fate {
    let Some(&[kind, code, _, _, _, _, high, low]) = message.first_chunk::<ICMP_HEADER>() else {
        return Fate::Bad;
    };
    match (kind, code) {
        (icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED) => match u16::from_be_bytes([high, low]) {
            1..MTU_MIN => Fate::Bad,
            // Of a router older than RFC 1191 it is 0; the sender knows what to do (section 5 there).
            mtu => Fate::TooBig(mtu),
        },
        // Networks; and hosts, also where the end of the tunnel does not take packets in packets.
        (icmpv4::UNREACHABLE, 0 | 6 | 9 | 11) => Fate::Told(Complaint::NetworkUnreachable),
        (icmpv4::UNREACHABLE, 1 | 2 | 7 | 8 | 10 | 12 | 13) => Fate::Told(Complaint::HostUnreachable),
        (icmpv4::TIME_EXCEEDED, 0) => Fate::Told(Complaint::HostUnreachable),
        _ => Fate::Kept,
    }
}

/// The same for IPv6 (RFC 2473 section 8): everything but a size means that the end of the tunnel is not reached.
#[must_use]
pub fn fate6(message: &[u8]) -> Fate {
    const UNKNOWN_NEXT_HEADER: u8 = 1;
    let Some(&[kind, code, _, _, mtu @ ..]) = message.first_chunk::<ICMP_HEADER>() else { return Fate::Bad };
    match (kind, code) {
        (icmpv6::TOO_BIG, _) => match u16::try_from(u32::from_be_bytes(mtu)).unwrap_or(u16::MAX) {
            // RFC 8201 section 4: no node takes a path for narrower than this.
            0..ipv6::MTU_MIN => Fate::Bad,
            mtu => Fate::TooBig(mtu),
        },
        (icmpv6::UNREACHABLE, 4) => Fate::Kept,
        (icmpv6::UNREACHABLE, _)
        | (icmpv6::TIME_EXCEEDED, 0)
        | (icmpv6::PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER) => Fate::Told(Complaint::HostUnreachable),
        _ => Fate::Kept,
    }
}

/// Longest inner IPv4 packet on a way that takes `mtu` bytes.
#[must_use]
pub const fn inner_mtu(mtu: u16) -> u16 {
    let inner = mtu.saturating_sub(ipv4::HEADER as u16);
    if inner < MTU_MIN { MTU_MIN } else { inner }
}

/// Longest inner IPv6 packet on a way that takes `mtu` bytes; never less than every IPv6 link takes (RFC 2473 section 7.1), for which the outer
/// packet may have to be fragmented.
#[must_use]
pub const fn inner_mtu6(mtu: u16) -> u16 {
    let inner = mtu.saturating_sub(ipv6::HEADER as u16);
    if inner < ipv6::MTU_MIN { ipv6::MTU_MIN } else { inner }
}

const fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
