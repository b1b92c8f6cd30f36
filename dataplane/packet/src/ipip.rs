//! Packets in packets: IPv4 in IPv4 (RFC 2003) and IPv6 in IPv6 (RFC 2473), with what RFC 6040 says about congestion marks.
//!
//! The inner packet stays as it is, but for its time to live. [`outer`] and [`outer6`] make the header that goes in front of it; [`Quoted`] reads
//! what a router on the way says about such a packet.

use crate::icmpv4_error::{MESSAGE_MAX, Unusable};
use crate::{checksum, icmpv4, ipv4, ipv6};

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

/// An address of a network, by a hash: the bits behind the prefix are the hash's. Packets of many flows to one host then have many sources, and
/// that host's NIC spreads them over its queues.
#[must_use]
pub const fn source(network: u32, prefix: u8, hash: u32) -> u32 {
    let hosts = match u32::MAX.checked_shr(prefix as u32) {
        Some(hosts) => hosts,
        None => 0,
    };
    network & !hosts | hash & hosts
}

/// The same of an IPv6 network; of its host bits the low 64 at most are the hash's.
#[must_use]
pub const fn source6(network: u128, prefix: u8, hash: u64) -> u128 {
    let hosts = match u128::MAX.checked_shr(prefix as u32) {
        Some(hosts) => hosts,
        None => 0,
    };
    network & !hosts | hash as u128 & hosts
}

/// What an ICMP error for IPv4 quotes of a packet with a packet in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source of the outer header.
    pub source: u32,
    /// Its destination: where the tunnel ends.
    pub destination: u32,
    /// Its identification.
    pub identification: u16,
    /// Where the inner packet starts in the ICMP message, if that quotes so much; the message ends in it or with it.
    pub inner: usize,
}

impl Quoted {
    /// Reads an ICMP message, from its type to the end of its IP packet. Its checksum and that of the quoted header are checked. None when it
    /// is about something else than IPv4 in IPv4.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Result<Self, Unusable>> {
        let quoted = message.get(ICMP_HEADER..)?;
        let fixed = quoted.first_chunk::<{ ipv4::HEADER }>()?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        if fixed[0] >> 4 != 4 || fixed[9] != IPV4 {
            return None;
        }
        let is_later_fragment = (fixed[6] & 0x1f) | fixed[7] != 0;
        let header = quoted.get(..header_len).filter(|header| header.len() >= ipv4::HEADER);
        let is_right = header.is_some_and(|header| checksum::ones_complement_sum(header) == 0xffff)
            && checksum::ones_complement_sum(message) == 0xffff
            && message.len() <= MESSAGE_MAX
            && !is_later_fragment;
        Some(if is_right {
            Ok(Self {
                source: long(fixed, 12),
                destination: long(fixed, 16),
                identification: word(fixed, 4),
                inner: ICMP_HEADER + header_len,
            })
        } else {
            Err(Unusable::Bad)
        })
    }
}

/// What becomes of an ICMP error about an outer packet (RFC 2003 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The sender of the inner packet is told this.
    Told(icmpv4::Complaint),
    /// It concerns nobody but the tunnel's beginning.
    Kept,
    /// It says what cannot be.
    Bad,
}

/// Reads type, code and MTU of an ICMP message about an outer packet.
#[must_use]
pub fn fate(message: &[u8]) -> Fate {
    use icmpv4::Complaint::{HostUnreachable, NetworkUnreachable, TooBig};
    let Some(&[kind, code, _, _, _, _, high, low]) = message.first_chunk::<ICMP_HEADER>() else {
        return Fate::Bad;
    };
    match (kind, code) {
        (icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED) => match u16::from_be_bytes([high, low]) {
            // A router older than RFC 1191; the sender knows what to do (section 5 there).
            0 => Fate::Told(TooBig { mtu: 0 }),
            mtu if mtu < MTU_MIN => Fate::Bad,
            mtu => Fate::Told(TooBig { mtu: inner_mtu(mtu) }),
        },
        // Networks; and hosts, also where the end of the tunnel does not take packets in packets.
        (icmpv4::UNREACHABLE, 0 | 6 | 9 | 11) => Fate::Told(NetworkUnreachable),
        (icmpv4::UNREACHABLE, 1 | 2 | 7 | 8 | 10 | 12 | 13) => Fate::Told(HostUnreachable),
        (icmpv4::TIME_EXCEEDED, 0) => Fate::Told(HostUnreachable),
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

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

#[cfg(test)]
mod tests;
