//! What is known of the ways to backends that get packets in packets (RFC 2003 section 5.1): how long a packet may be on each. Known to all workers, told by
//! routers on the way, and forgotten after a while (RFC 1191 section 6.3).
//!
//! And whom an ICMP error about such a packet concerns. The worker does with it what RFC 2003 section 4 says.

use crate::address::Address;
use crate::flow_key::{FlowKey, FlowKey6, Key};
use crate::hash::Secret;
use crate::limits::{PATH_MTU_MS, PATH_MTUS_MAX};
use crate::parse6::ADDRESSES;
use crate::verdict::Verdict;
use arrayvec::ArrayVec;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use turnpike_packet::icmpv4_error::Unusable;
use turnpike_packet::ip::Pair;
use turnpike_packet::ipip::{self, Fate, Quoted};
use turnpike_packet::{ipv4, ipv6};

/// Unit of the times in [`PathMtus`], as a shift of milliseconds: 16.4 s.
const UNIT: u32 = 14;
/// Keep hashes for different uses apart.
const OF_BACKEND: u64 = 1 << 32;
const OF_OUTER: u64 = 2 << 32;

/// Path MTUs by backend, in a table of fixed size: of two backends with one place the later one has it.
///
/// A place holds 32 bits of the backend's hash, the MTU, and when it was learned, all in one word.
#[derive(Debug)]
pub struct PathMtus(Box<[AtomicU64]>);

impl Default for PathMtus {
    fn default() -> Self {
        Self((0..PATH_MTUS_MAX).map(|_| AtomicU64::new(0)).collect())
    }
}

impl PathMtus {
    fn place(&self, hash: u64) -> &AtomicU64 {
        &self.0[hash as usize % PATH_MTUS_MAX]
    }

    /// Longest outer packet on the way to the backend with this hash, if somebody has said so.
    #[must_use]
    pub fn get(&self, hash: u64, now_ms: u32) -> Option<u16> {
        let place = self.place(hash);
        let known = place.load(Relaxed);
        if known == 0 || known >> 32 != hash >> 32 {
            return None;
        }
        let age = (now_ms >> UNIT).wrapping_sub(known as u32) & 0xffff;
        if age > PATH_MTU_MS >> UNIT {
            // Before the clock has gone round.
            place.store(0, Relaxed);
            return None;
        }
        Some((known >> 16) as u16)
    }

    /// A router says how long a packet may be.
    pub fn learn(&self, hash: u64, mtu: u16, now_ms: u32) {
        if self.get(hash, now_ms).is_none_or(|known| mtu < known) {
            let when = u64::from(now_ms >> UNIT) & 0xffff;
            self.place(hash).store(hash >> 32 << 32 | u64::from(mtu) << 16 | when, Relaxed);
        }
    }
}

/// What is known of the way to a backend is kept by this.
#[must_use]
pub const fn backend_hash(secret: &Secret, backend: Address) -> u64 {
    secret.address(backend, OF_BACKEND)
}

/// A packet of one family in another of the same.
pub trait Tunnel: Key {
    /// Length of the outer header.
    const OUTER: usize;

    /// What outer packets of a flow carry that nobody else can know, so that nobody else can say what became of them: the identification,
    /// which is free where packets are never fragmented (RFC 6864), and for IPv6 the flow label, by which routers spread flows, too (RFC 6438).
    fn mark(self, secret: &Secret, source: Address, backend: Address) -> u32;

    /// Takes one from the time to live of the packet that starts with `inner` and makes the header that goes in front of it. None when there
    /// can be none.
    fn wrap(inner: &mut [u8], source: Address, backend: Address, mark: u32) -> Option<Outer>;

    /// Whether a packet may be forwarded once more.
    fn lives(inner: &[u8]) -> bool;

    /// Longest inner packet on a way that takes `mtu` bytes.
    fn inner_mtu(mtu: u16) -> u16;

    /// Reads the ICMP message at `icmp` of a checked frame up to `end`; see [`Quoted::read`].
    fn quoted(head: &[u8], icmp: usize, end: usize) -> Option<Result<Quoted, Unusable>>;

    /// What becomes of such a message.
    fn fate(message: &[u8]) -> Fate;

    /// The key of a packet of TCP, UDP or SCTP of which this is the beginning, if its ports are there.
    fn key_of(packet: &[u8]) -> Option<Self>;
}

/// A header of either family.
pub type Outer = ArrayVec<u8, { ipv6::HEADER }>;

impl Tunnel for FlowKey {
    const OUTER: usize = ipv4::HEADER;

    fn mark(self, secret: &Secret, source: Address, backend: Address) -> u32 {
        (secret.address(backend, OF_OUTER ^ source.bits() as u64) >> 48) as u32
    }

    fn wrap(inner: &mut [u8], source: Address, backend: Address, mark: u32) -> Option<Outer> {
        let (source, backend) = (source.as_v4()?, backend.as_v4()?);
        let is_passed_on = ipip::pass_on(inner);
        let outer = ipip::outer(inner, source, backend, mark as u16).filter(|_| is_passed_on)?;
        Some(outer.into_iter().collect())
    }

    fn lives(inner: &[u8]) -> bool {
        inner.get(8).is_some_and(|ttl| *ttl > 1)
    }

    fn inner_mtu(mtu: u16) -> u16 {
        ipip::inner_mtu(mtu)
    }

    fn quoted(head: &[u8], icmp: usize, end: usize) -> Option<Result<Quoted, Unusable>> {
        Quoted::read(head.get(icmp..end)?)
    }

    fn fate(message: &[u8]) -> Fate {
        ipip::fate(message)
    }

    fn key_of(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<{ ipv4::HEADER }>()?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let address = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let is_later_fragment = word(6) & 0x1fff != 0;
        if fixed[0] >> 4 != 4 || header_len < ipv4::HEADER || is_later_fragment {
            return None;
        }
        let [from, to] = ports(fixed[9], packet.get(header_len..)?)?;
        Some(Self::new(fixed[9], address(12), address(16), from, to))
    }
}

impl Tunnel for FlowKey6 {
    const OUTER: usize = ipv6::HEADER;

    fn mark(self, secret: &Secret, _: Address, _: Address) -> u32 {
        (secret.hash(self) >> 44) as u32
    }

    fn wrap(inner: &mut [u8], source: Address, backend: Address, mark: u32) -> Option<Outer> {
        let (source, backend) = (source.as_v6()?, backend.as_v6()?);
        let is_passed_on = ipip::pass_on6(inner);
        let outer = ipip::outer6(inner, source, backend, mark).filter(|_| is_passed_on)?;
        Some(outer.into_iter().collect())
    }

    fn lives(inner: &[u8]) -> bool {
        inner.get(7).is_some_and(|hops| *hops > 1)
    }

    fn inner_mtu(mtu: u16) -> u16 {
        ipip::inner_mtu6(mtu)
    }

    fn quoted(head: &[u8], icmp: usize, end: usize) -> Option<Result<Quoted, Unusable>> {
        let number = |at: usize| Some(u128::from_be_bytes(*head.get(at..)?.first_chunk()?));
        let (source, destination) = (number(ADDRESSES)?, number(ADDRESSES + 16)?);
        Quoted::read6(head.get(icmp..end)?, Pair::V6 { source, destination })
    }

    fn fate(message: &[u8]) -> Fate {
        ipip::fate6(message)
    }

    fn key_of(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<{ ipv6::HEADER }>()?;
        let payload = packet.get(ipv6::HEADER..)?;
        let walk =
            ipv6::walk(fixed[6], payload, usize::from(u16::from_be_bytes([fixed[4], fixed[5]]))).ok()?;
        if fixed[0] >> 4 != 6 || walk.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return None;
        }
        let number = |at: usize| Some(u128::from_be_bytes(*fixed.get(at..)?.first_chunk()?));
        let [from, to] = ports(walk.protocol, payload.get(walk.offset..)?)?;
        Some(Self::new(walk.protocol, number(8)?, number(24)?, from, to))
    }
}

/// Both ports of a transport header, if its protocol has any.
fn ports(protocol: u8, header: &[u8]) -> Option<[u16; 2]> {
    let [a, b, c, d] = *header.first_chunk::<4>()?;
    let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    matches!(protocol, ipv4::TCP | ipv4::UDP | ipv4::SCTP).then_some(ports)
}

/// Reads the ICMP message at `icmp` of `head`, `message_len` bytes long, behind a checked IP header. None when it is no error about a packet in a
/// packet; else the key of the client's packet, or the verdict on it. The key is that of no packet when too little of it is quoted.
#[must_use]
pub fn read<K: Tunnel>(head: &[u8], icmp: usize, message_len: usize) -> Option<Result<K, Verdict>> {
    let end = icmp + message_len;
    let Ok(quoted) = K::quoted(head, icmp, end)? else { return Some(Err(Verdict::IcmpBad)) };
    let (source, _) = ends(quoted.outer);
    // An error goes to the sender of the packet it is about, or somebody made it up.
    if Address::ends_of(head).is_none_or(|[_, to]| to != source) {
        return Some(Err(Verdict::IcmpBad));
    }
    Some(Ok(head.get(icmp + quoted.inner..end).and_then(K::key_of).unwrap_or_default()))
}

/// Source and destination.
#[must_use]
pub const fn ends(outer: Pair) -> (Address, Address) {
    match outer {
        Pair::V4 { source, destination } => (Address::v4(source), Address::v4(destination)),
        Pair::V6 { source, destination } => (Address::v6(source), Address::v6(destination)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const SECRET: Secret = Secret::new([1, 2, 3, 4]);

    #[test]
    fn rfc1191_6_3_a_path_mtu_is_lowered_at_once_and_forgotten_after_a_while() {
        let (known, now) = (PathMtus::default(), 5_000_000);
        let [one, other] = [1, 2].map(|backend| backend_hash(&SECRET, Address::v4(backend)));
        assert_eq!(known.get(one, now), None);
        known.learn(one, 1_400, now);
        known.learn(one, 1_450, now + 1_000);
        assert_eq!((known.get(one, now), known.get(other, now)), (Some(1_400), None));
        known.learn(one, 1_300, now + 2_000);
        assert_eq!(known.get(one, now + 590_000), Some(1_300));
        assert_eq!(known.get(one, now + 640_000), None);
        known.learn(one, 1_450, now + 640_000);
        assert_eq!(known.get(one, now + 640_000), Some(1_450));
    }

    #[test]
    fn what_is_known_does_not_come_back_when_the_clock_has_gone_round() {
        let (known, backend) = (PathMtus::default(), backend_hash(&SECRET, Address::v4(1)));
        known.learn(backend, 1_300, u32::MAX - 5);
        assert_eq!(known.get(backend, 5), Some(1_300), "around the end of the clock");
        assert_eq!(known.get(backend, 700_000), None);
        assert_eq!(known.get(backend, u32::MAX - 5), None);
    }

    #[test]
    fn backends_that_share_a_place_are_told_apart() {
        let known = PathMtus::default();
        let (one, other) = (0x1111_0000_0000_0007, 0x2222_0000_0000_0007);
        known.learn(one, 1_300, 9);
        assert_eq!(known.get(other, 9), None);
        known.learn(other, 1_200, 9);
        assert_eq!((known.get(one, 9), known.get(other, 9)), (None, Some(1_200)));
    }

    #[test]
    fn marks_are_as_wide_as_their_field_and_cannot_be_guessed() {
        let marks: HashSet<u32> = (0..400)
            .map(|n| FlowKey::new(6, 1, 2, 3, 4).mark(&SECRET, Address::v4(n / 20), Address::v4(n % 20)))
            .collect();
        assert!(marks.len() > 380 && marks.iter().all(|mark| *mark < 1 << 16), "{}", marks.len());
        let nobody = Address::v6(1);
        let labels: HashSet<u32> =
            (0..400).map(|n| FlowKey6::new(6, 1, 2, n, 4).mark(&SECRET, nobody, nobody)).collect();
        assert!(labels.len() > 398 && labels.iter().all(|label| *label < 1 << 20), "{}", labels.len());
    }
}
