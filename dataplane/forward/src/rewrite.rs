//! The last stage of the packet's walk: new addresses, ports, TTL and checksums. Next: the transmit queue (`capsule/tx`).
//!
//! Checksums are updated, not computed (RFC 1624). What a translation adds is the same for every packet
//! of a flow's direction, so it is computed once, when the flow is made. A wrong checksum stays wrong by as much, and the receiver sees it.

use crate::flow_key::{FlowKey, FlowKey6, Key};
use crate::parse::{ETHERNET, L4, PLAIN};
use turnpike_packet::sctp;

/// What decrementing the TTL adds to the header checksum: ~m + m' for the word that holds it, read little-endian as all words here.
const TTL_DELTA: u16 = 0xfffe;

const SCTP: u8 = 132;

/// Checksum deltas of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deltas {
    /// For the IPv4 header, the TTL's decrement included.
    pub l3: u16,
    /// For TCP or UDP: addresses of the pseudo header, and ports. Nothing for SCTP, whose checksum is no sum.
    pub l4: u16,
}

impl Deltas {
    /// Of a packet that comes with key `from` and leaves with key `to`.
    #[must_use]
    pub fn between<K: Sums>(from: K, to: K) -> Self {
        // ~m + m' over several words is the sum of the new ones and of the complements of the old ones.
        let moved = u32::from(!from.sum_of_addresses()) + u32::from(to.sum_of_addresses());
        let l3 = fold(moved + u32::from(TTL_DELTA));
        let l4 = fold(moved + u32::from(!from.sum_of_ports()) + u32::from(to.sum_of_ports()));
        Self { l3, l4: if from.protocol() == SCTP { 0 } else { l4 } }
    }
}

/// What a key adds to checksums.
pub trait Sums: Key {
    /// One's complement sum of both addresses.
    fn sum_of_addresses(&self) -> u16;

    /// One's complement sum of both ports.
    fn sum_of_ports(&self) -> u16;
}

impl Sums for FlowKey {
    fn sum_of_addresses(&self) -> u16 {
        words((self.bits() >> 32) as u64)
    }

    fn sum_of_ports(&self) -> u16 {
        words((self.bits() >> 96) as u64)
    }
}

impl Sums for FlowKey6 {
    fn sum_of_addresses(&self) -> u16 {
        fold(self.addresses().iter().map(|&half| u32::from(words(half))).sum())
    }

    fn sum_of_ports(&self) -> u16 {
        words(self.ports().into())
    }
}

/// One's complement sum of the words.
const fn words(bits: u64) -> u16 {
    fold(
        (bits & 0xffff) as u32
            + (bits >> 16 & 0xffff) as u32
            + (bits >> 32 & 0xffff) as u32
            + (bits >> 48) as u32,
    )
}

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// RFC 1624 equation 4: one's complement subtraction, which borrows from its own end. Unlike addition it makes no second zero.
#[inline(always)]
pub(crate) const fn update(checksum: u16, delta: u16) -> u16 {
    let (less, borrow) = checksum.overflowing_sub(delta);
    less.wrapping_sub(borrow as u16)
}

/// Where a frame goes on the link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addressing {
    /// Destination in the low six bytes; the others may be anything.
    destination: u64,
    source: u64,
}

impl Addressing {
    /// From one of [`Sources`] to the low six bytes of `destination`.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: u64, destination: u64) -> Self {
        Self { destination, source }
    }

    /// Writes both addresses and the EtherType to the start of a frame.
    #[inline(always)]
    pub(crate) fn write<const N: usize>(self, head: &mut [u8; N]) {
        head[..8].copy_from_slice(&self.destination.to_le_bytes());
        head[6..14].copy_from_slice(&self.source.to_le_bytes());
    }
}

/// What happens to the packets of one direction of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// Addresses and ports of the packets that leave, as they stand in the frame.
    addresses: u64,
    ports: u32,
    is_tcp: bool,
    deltas: Deltas,
}

impl Translation {
    /// A packet leaves with the addresses and ports of one that came with key `back` and went the other way.
    #[inline(always)]
    #[must_use]
    pub const fn new(back: FlowKey, is_tcp: bool, deltas: Deltas) -> Self {
        Self { addresses: back.addresses_back(), ports: back.ports_back(), is_tcp, deltas }
    }

    /// Translates a frame whose IPv4 header has no options, decrements its TTL and updates its checksums. `false`, and nothing is written, when
    /// its TTL has run out.
    #[inline(always)]
    pub fn apply_plain(&self, head: &mut [u8; PLAIN], link: Addressing) -> bool {
        if !self.apply_to_ip(head, link) {
            return false;
        }
        head[34..38].copy_from_slice(&self.ports.to_le_bytes());
        if self.is_tcp {
            let checksum = update(u16::from_le_bytes([head[50], head[51]]), self.deltas.l4);
            head[50..52].copy_from_slice(&checksum.to_le_bytes());
        } else {
            let checksum = update_udp(u16::from_le_bytes([head[40], head[41]]), self.deltas.l4);
            head[40..42].copy_from_slice(&checksum.to_le_bytes());
        }
        true
    }

    /// The same for any frame of TCP or UDP. `l4` is where its transport header starts, as parsing found it in this very frame.
    pub fn apply(&self, frame: &mut [u8], l4: usize, link: Addressing) -> bool {
        if l4 == L4
            && let Some(head) = frame.first_chunk_mut()
        {
            return self.apply_plain(head, link);
        }
        // Parsing has seen a whole UDP header, or more, in the first segment.
        let Some(head) = frame.first_chunk_mut::<{ L4 + 8 }>() else { return false };
        let lives = self.apply_to_ip(head, link);
        if lives {
            self.apply_to_transport(frame, l4);
        }
        lives
    }

    /// The same for a later fragment, which has neither ports nor a transport checksum.
    pub fn apply_to_later_fragment(&self, frame: &mut [u8], link: Addressing) -> bool {
        frame.first_chunk_mut::<L4>().is_some_and(|head| self.apply_to_ip(head, link))
    }

    /// The same for an SCTP packet. Its checksum is wrong afterwards by as much as it was before, too.
    #[cold]
    #[inline(never)]
    pub fn apply_to_sctp(&self, frame: &mut [u8], l4: usize, link: Addressing) -> bool {
        let Some(head) = frame.first_chunk_mut::<{ L4 + 8 }>() else { return false };
        if !self.apply_to_ip(head, link) {
            return false;
        }
        let end = ETHERNET + usize::from(u16::from_be_bytes([head[16], head[17]]));
        if let Some(packet) = frame.get_mut(l4..) {
            sctp::translate(packet, self.ports.to_le_bytes(), end.saturating_sub(l4));
        }
        true
    }

    /// Ethernet addresses, addresses, TTL and header checksum; `false` when the TTL has run out.
    #[inline(always)]
    fn apply_to_ip<const N: usize>(&self, head: &mut [u8; N], link: Addressing) -> bool {
        const { assert!(N >= L4) };
        if head[22] <= 1 {
            return false;
        }
        link.write(head);
        head[22] -= 1;
        let checksum = update(u16::from_le_bytes([head[24], head[25]]), self.deltas.l3);
        head[24..26].copy_from_slice(&checksum.to_le_bytes());
        head[26..34].copy_from_slice(&self.addresses.to_le_bytes());
        true
    }

    /// Ports and transport checksum, wherever they are.
    #[cold]
    #[inline(never)]
    fn apply_to_transport(&self, frame: &mut [u8], l4: usize) {
        let Some(header) = frame.get_mut(l4..) else { return };
        let at = if self.is_tcp { 16 } else { 6 };
        if header.len() < at + 2 {
            return;
        }
        header[..4].copy_from_slice(&self.ports.to_le_bytes());
        let old = u16::from_le_bytes([header[at], header[at + 1]]);
        let new = if self.is_tcp { update(old, self.deltas.l4) } else { update_udp(old, self.deltas.l4) };
        header[at..at + 2].copy_from_slice(&new.to_le_bytes());
    }
}

/// RFC 768: zero says that there is no checksum, and a checksum that comes out as zero is sent as all ones.
#[inline(always)]
const fn update_udp(checksum: u16, delta: u16) -> u16 {
    match (checksum, update(checksum, delta)) {
        (0, _) => 0,
        (_, 0) => 0xffff,
        (_, sum) => sum,
    }
}

/// What stands between destination and payload of the frames that leave a port: its Ethernet address and the EtherType. One for each number
/// that there can be, so that no number is out of bounds.
#[derive(Clone, Debug)]
pub struct Sources([u64; 256]);

impl Sources {
    /// Of ports with these Ethernet addresses.
    #[must_use]
    pub fn new(macs: impl Iterator<Item = [u8; 6]>, ethertype: u16) -> Self {
        let mut all = [0; 256];
        for (source, mac) in all.iter_mut().zip(macs) {
            *source = mac_bits(mac) | u64::from(ethertype.swap_bytes()) << 48;
        }
        Self(all)
    }

    /// That of the port with this number, modulo 256.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, port: usize) -> u64 {
        self.0[port & 0xff]
    }
}

/// Gives the frame its Ethernet addresses, and leaves it its EtherType.
pub fn set_link(frame: &mut [u8], link: Addressing) {
    if let Some(head) = frame.first_chunk_mut::<ETHERNET>() {
        let ethertype = [head[12], head[13]];
        link.write(head);
        head[12..].copy_from_slice(&ethertype);
    }
}

/// An Ethernet address in transmission order in the low six bytes, the rest zero.
#[must_use]
pub const fn mac_bits(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1624 equation 3: HC' = ~(~HC + ~m + m').
    fn by_addition(checksum: u16, delta: u16) -> u16 {
        let sum = u32::from(!checksum) + u32::from(delta);
        !((sum >> 16) as u16 + (sum & 0xffff) as u16)
    }

    #[test]
    fn rfc1624_subtraction_agrees_with_addition() {
        // All checksums against deltas that are near a zero, and those between in steps that meet every low byte.
        let deltas = (0..=u16::MAX).filter(|d| *d < 4 || *d > 0xfffb || d.is_multiple_of(257));
        for delta in deltas {
            for checksum in 0..=u16::MAX {
                assert_eq!(update(checksum, delta), by_addition(checksum, delta), "{checksum:#x} {delta:#x}");
            }
        }
    }

    #[test]
    fn a_port_beyond_all_is_none_of_ours() {
        let mac = [2, 0, 0, 0, 0, 7];
        let sources = Sources::new(std::iter::once(mac), 0x86dd);
        let mut frame = [0xff; 14];
        set_link(
            &mut frame,
            Addressing::new(sources.of(0), 0xffff_0000_0000_0000 | mac_bits([0x52, 1, 2, 3, 4, 5])),
        );
        assert_eq!(frame, [0x52, 1, 2, 3, 4, 5, 2, 0, 0, 0, 0, 7, 0xff, 0xff]);
        set_link(&mut frame, Addressing::new(sources.of(255), 0));
        assert_eq!(frame, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    }
}
