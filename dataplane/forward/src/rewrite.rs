//! The last stage of the packet's walk: new addresses, ports, TTL and checksums. Next: the transmit queue (`capsule/tx`).
//!
//! Checksums are updated, not computed (RFC 1624 equation 3: HC' = ~(~HC + ~m + m')). What a translation adds is the same for every packet
//! of a flow's direction, so it is computed once, when the flow is made. A wrong checksum stays wrong by as much, and the receiver sees it.

use crate::flow_key::FlowKey;
use crate::parse::L4;

/// What decrementing the TTL adds to the header checksum: ~m + m' for the word that holds it, read little-endian as all words here.
const TTL_DELTA: u16 = 0xfffe;

/// Checksum deltas of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deltas {
    /// For the IPv4 header, the TTL's decrement included.
    pub l3: u16,
    /// For TCP or UDP: addresses of the pseudo header, and ports.
    pub l4: u16,
}

impl Deltas {
    /// Of a packet that comes with key `from` and leaves with key `to`.
    #[must_use]
    pub fn between(from: FlowKey, to: FlowKey) -> Self {
        let addresses = |key: FlowKey| words((key.bits() >> 32) as u64);
        let ports = |key: FlowKey| words((key.bits() >> 96) as u64);
        // ~m + m' over several words is the sum of the new ones and of the complements of the old ones.
        let moved = u32::from(!addresses(from)) + u32::from(addresses(to));
        let l3 = fold(moved + u32::from(TTL_DELTA));
        let l4 = fold(moved + u32::from(!ports(from)) + u32::from(ports(to)));
        Self { l3, l4 }
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

/// RFC 1624 equation 3.
#[inline(always)]
const fn update(checksum: u16, delta: u16) -> u16 {
    !fold(!checksum as u32 + delta as u32)
}

/// Where a frame goes on the link.
#[derive(Clone, Copy, Debug)]
pub struct Addressing {
    /// Destination Ethernet address in transmission order in the low six bytes, the rest zero.
    pub destination: u64,
    /// Source Ethernet address likewise.
    pub source: u64,
}

/// Gives the frame the tuple `to`, decrements its TTL, which must be over 1, and updates its checksums. `l4` is where its transport header
/// starts, as parsing found it in this very frame.
#[inline(always)]
pub fn rewrite(frame: &mut [u8], l4: usize, to: FlowKey, deltas: Deltas, link: Addressing) {
    set_link(frame, link);
    let Some(head) = frame.first_chunk_mut::<L4>() else { return };
    head[22] -= 1;
    let checksum = update(u16::from_le_bytes([head[24], head[25]]), deltas.l3);
    head[24..26].copy_from_slice(&checksum.to_le_bytes());
    let (addresses, ports) = ((to.bits() >> 32) as u64, (to.bits() >> 96) as u32);
    head[26..34].copy_from_slice(&addresses.to_le_bytes());
    let Some(transport) = frame.get_mut(l4..) else { return };
    if to.protocol() == 6 {
        if let Some(header) = transport.first_chunk_mut::<18>() {
            header[..4].copy_from_slice(&ports.to_le_bytes());
            let checksum = update(u16::from_le_bytes([header[16], header[17]]), deltas.l4);
            header[16..18].copy_from_slice(&checksum.to_le_bytes());
        }
    } else if let Some(header) = transport.first_chunk_mut::<8>() {
        header[..4].copy_from_slice(&ports.to_le_bytes());
        let old = u16::from_le_bytes([header[6], header[7]]);
        // RFC 768: zero says that there is no checksum, and a checksum that comes out as zero is sent as all ones.
        if old != 0 {
            let checksum = match update(old, deltas.l4) {
                0 => 0xffff,
                sum => sum,
            };
            header[6..8].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}

/// Gives the frame its Ethernet addresses.
#[inline(always)]
pub fn set_link(frame: &mut [u8], link: Addressing) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        let first = link.destination | link.source << 48;
        let rest = (link.source >> 16) as u32;
        addresses[..8].copy_from_slice(&first.to_le_bytes());
        addresses[8..].copy_from_slice(&rest.to_le_bytes());
    }
}

/// An Ethernet address as [`Addressing`] wants it.
#[must_use]
pub const fn mac_bits(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}
