//! Next hops and their Ethernet addresses: one table for all workers.
//!
//! A next hop gets an index when it is first needed and keeps it, so that a flow stores 16 bits. Keys are taken word by word by
//! compare-and-swap, so any worker may add one, and one that stops half-way leaves a place that another completes. Ethernet addresses are
//! single 64-bit stores. The lines are written when an address is learned or changes, not per packet.
//! A new dataplane process starts with an empty table.

use crate::address::Address;
use crate::limits::{ARP_REFRESH_MS, ARP_RETRY_MS, ARP_TRIES_MAX, CLIENT_NEXT_HOPS_MAX, NEXT_HOPS_MAX};
use crate::rewrite::{Addressing, Sources};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// A host on a connected network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Number of the port it is behind.
    pub port: u8,
    /// Its address.
    pub address: Address,
}

/// Where to send a frame: port and Ethernet address, if known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link(u64);

/// The Ethernet address is known.
const RESOLVED: u64 = 1 << 63;
/// Somebody waits for it.
const WANTED: u64 = 1 << 62;
const MAC: u64 = (1 << 48) - 1;
/// Marks a taken key, so that port 0 is not an empty slot.
const TAKEN: u64 = 1 << 63;

impl Link {
    /// Whether frames can be sent.
    #[inline(always)]
    #[must_use]
    pub const fn is_resolved(self) -> bool {
        self.0 & RESOLVED != 0
    }

    /// Number of the port.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> usize {
        (self.0 >> 48) as usize & 0xff
    }

    /// The Ethernet addresses of frames that take it; no good ones while it is not resolved.
    #[inline(always)]
    #[must_use]
    pub const fn addressing(self, sources: &Sources) -> Addressing {
        Addressing::new(sources.of(self.port()), self.0)
    }

    /// The Ethernet address in transmission order in the low six bytes, the rest zero.
    #[inline(always)]
    #[must_use]
    pub const fn mac_bits(self) -> u64 {
        self.0 & MAC
    }

    /// The Ethernet address.
    #[must_use]
    pub const fn mac(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = if self.is_resolved() { "resolved" } else { "unresolved" };
        write!(f, "port {} {:02x?} {state}", self.port(), self.mac())
    }
}

struct Slot {
    /// [`key_of`]; a word is 0 until somebody takes the place for good.
    key: [AtomicU64; 3],
    /// When last asked for (milliseconds), and in the top byte how often since the last answer.
    asked: AtomicU64,
    /// When last heard of (milliseconds).
    heard_ms: AtomicU32,
}

/// The links of all next hops, to hold in hand for a burst.
#[derive(Clone, Copy, Debug)]
pub struct Links<'a>(&'a [AtomicU64; NEXT_HOPS_MAX]);

impl Links<'_> {
    /// That of the next hop with this index.
    #[inline(always)]
    #[must_use]
    pub fn of(self, index: u16) -> Link {
        Link(self.0[index as usize].load(Relaxed))
    }
}

/// The table of next hops.
pub struct Neighbours {
    slots: Box<[Slot; NEXT_HOPS_MAX]>,
    /// [`Link`] of each slot, apart from all that packets do not need.
    links: Box<[AtomicU64; NEXT_HOPS_MAX]>,
    /// Indices in the order they were taken, plus one; 0 where none is written yet.
    taken: Box<[AtomicU32]>,
    count: AtomicUsize,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Default for Neighbours {
    fn default() -> Self {
        Self::new()
    }
}

impl Neighbours {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        let slot = || Slot {
            key: [const { AtomicU64::new(0) }; 3],
            asked: AtomicU64::new(0),
            heard_ms: AtomicU32::new(0),
        };
        Self {
            slots: boxed(slot),
            links: boxed(|| AtomicU64::new(0)),
            taken: (0..NEXT_HOPS_MAX).map(|_| AtomicU32::new(0)).collect(),
            count: AtomicUsize::new(0),
        }
    }

    /// Where frames to each next hop go.
    #[inline(always)]
    #[must_use]
    pub const fn links(&self) -> Links<'_> {
        Links(&self.links)
    }

    /// Where frames to the next hop with this index go.
    #[inline(always)]
    #[must_use]
    pub fn link(&self, index: u16) -> Link {
        self.links().of(index)
    }

    /// The next hop with this index.
    #[must_use]
    pub fn hop(&self, index: u16) -> NextHop {
        let [port, high, low] = self.slots[index as usize].key.each_ref().map(|word| word.load(Relaxed));
        NextHop { port: port as u8, address: Address::v6(u128::from(!high) << 64 | u128::from(!low)) }
    }

    /// Index of a next hop that is known.
    #[must_use]
    pub fn find(&self, hop: NextHop) -> Option<u16> {
        let key = key_of(hop)?;
        for index in probes(hop) {
            let taken = self.slots[index as usize].key.each_ref().map(|word| word.load(Relaxed));
            if taken == key {
                return Some(index);
            }
            // Words are taken once: whoever has another of them here was here before. Nobody would have gone past a place without.
            if taken.iter().zip(&key).all(|(taken, wanted)| *taken == 0 || taken == wanted) {
                return None;
            }
        }
        None
    }

    /// Index of a next hop, which gets one if it has none; none when the table is full around it, or for an address that no host has.
    #[must_use]
    pub fn index(&self, hop: NextHop) -> Option<u16> {
        if let Some(known) = self.find(hop) {
            return Some(known);
        }
        let key = key_of(hop)?;
        probes(hop).find(|&index| self.take(index, hop, key))
    }

    /// The same for the next hop towards a client. Clients may be on a network with more addresses than there are places: so that their
    /// number never costs a backend its place, they get no new ones once [`CLIENT_NEXT_HOPS_MAX`] are taken (RFC 6583 section 6.1).
    #[must_use]
    pub fn index_of_client(&self, hop: NextHop) -> Option<u16> {
        if self.count.load(Relaxed) < CLIENT_NEXT_HOPS_MAX { self.index(hop) } else { self.find(hop) }
    }

    /// Takes a place for a next hop, if it is free or its own already.
    fn take(&self, index: u16, hop: NextHop, key: [u64; 3]) -> bool {
        let slot = &self.slots[index as usize];
        let mut is_last_taken_here = false;
        for (place, word) in slot.key.iter().zip(key) {
            match place.compare_exchange(0, word, Relaxed, Relaxed) {
                Ok(_) => is_last_taken_here = true,
                Err(taken) if taken == word => is_last_taken_here = false,
                Err(_) => return false,
            }
        }
        if is_last_taken_here {
            self.links[index as usize].fetch_or(u64::from(hop.port) << 48, Relaxed);
            // Each slot is taken once, so the positions never run out.
            self.taken[self.count.fetch_add(1, Relaxed)].store(u32::from(index) + 1, Relaxed);
        }
        true
    }

    /// Asks the keeper to resolve a next hop, if it is not resolved.
    pub fn want(&self, index: u16) {
        let link = &self.links[index as usize];
        if link.load(Relaxed) & (RESOLVED | WANTED) == 0 {
            self.slots[index as usize].asked.store(0, Relaxed);
            link.fetch_or(WANTED, Relaxed);
        }
    }

    /// Whether to ask for the Ethernet address of this next hop now. Says yes to one caller in [`ARP_RETRY_MS`].
    #[must_use]
    pub fn may_ask(&self, index: u16, now_ms: u32) -> bool {
        let slot = &self.slots[index as usize];
        let asked = slot.asked.load(Relaxed);
        let (tries, last_ms) = ((asked >> 32) as u8, asked as u32);
        if tries > 0 && now_ms.wrapping_sub(last_ms) < ARP_RETRY_MS {
            return false;
        }
        let next = u64::from(tries.saturating_add(1)) << 32 | u64::from(now_ms);
        slot.asked.compare_exchange(asked, next, Relaxed, Relaxed).is_ok()
    }

    /// The link of a resolved next hop that has been asked once whether it still is there: it alone should hear that first question (RFC 1122
    /// section 2.3.2.1, RFC 4861 section 7.3.3). Who is silent may have moved, so all hear the others.
    #[must_use]
    pub fn may_be_stale(&self, index: u16) -> Option<Link> {
        let (slot, link) = (&self.slots[index as usize], self.link(index));
        (link.is_resolved() && slot.asked.load(Relaxed) >> 32 == 1).then_some(link)
    }

    /// Learns the Ethernet address of a next hop that somebody asked for; others are not kept. Returns whether it was one.
    pub fn learn(&self, hop: NextHop, mac: [u8; 6], now_ms: u32) -> bool {
        let Some(index) = self.find(hop) else { return false };
        let (slot, known) = (&self.slots[index as usize], &self.links[index as usize]);
        let [a, b, c, d, e, f] = mac;
        let bits = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let link = RESOLVED | u64::from(hop.port) << 48 | bits;
        if known.load(Relaxed) != link {
            known.store(link, Relaxed);
        }
        slot.heard_ms.store(now_ms, Relaxed);
        slot.asked.store(0, Relaxed);
        true
    }

    /// The keeper's look at one slot: `true` if it should be asked for now.
    ///
    /// A wanted next hop is asked for [`ARP_TRIES_MAX`] times and then given up until it is wanted again; a resolved one is asked for again
    /// after [`ARP_REFRESH_MS`], and is unresolved when it does not answer.
    #[must_use]
    pub fn keep(&self, index: u16, now_ms: u32) -> bool {
        let slot = &self.slots[index as usize];
        if slot.key[2].load(Relaxed) == 0 {
            return false;
        }
        let link = self.links[index as usize].load(Relaxed);
        let tries = (slot.asked.load(Relaxed) >> 32) as u8;
        // Another worker's clock may be a little ahead of this one's.
        let age_ms = now_ms.wrapping_sub(slot.heard_ms.load(Relaxed)).cast_signed().max(0).cast_unsigned();
        let stale = link & RESOLVED != 0 && age_ms >= ARP_REFRESH_MS;
        if link & WANTED == 0 && !stale {
            return false;
        }
        if tries >= ARP_TRIES_MAX {
            let last_ms = slot.asked.load(Relaxed) as u32;
            if now_ms.wrapping_sub(last_ms) >= ARP_RETRY_MS {
                self.links[index as usize].fetch_and(!(RESOLVED | WANTED), Relaxed);
                slot.asked.store(0, Relaxed);
            }
            return false;
        }
        self.may_ask(index, now_ms)
    }

    /// Up to `budget` next hops from position `cursor` on, which moves and starts again at the end.
    pub fn round<'a>(&'a self, cursor: &'a mut usize, budget: usize) -> impl Iterator<Item = u16> + 'a {
        let count = self.count.load(Relaxed);
        (0..budget.min(count)).filter_map(move |_| {
            *cursor = if *cursor >= count { 0 } else { *cursor };
            let index = self.taken[*cursor].load(Relaxed);
            *cursor += 1;
            u16::try_from(index.checked_sub(1)?).ok()
        })
    }

    /// Every next hop that has an index.
    pub fn iter(&self) -> impl Iterator<Item = (NextHop, Link)> {
        let taken = self.taken[..self.count.load(Relaxed)].iter();
        taken
            .filter_map(|i| u16::try_from(i.load(Relaxed).checked_sub(1)?).ok())
            .map(|i| (self.hop(i), self.link(i)))
    }
}

/// Made on the heap: the array is too large for a stack.
fn boxed<T>(slot: impl Fn() -> T) -> Box<[T; NEXT_HOPS_MAX]> {
    let slots: Box<[T]> = (0..NEXT_HOPS_MAX).map(|_| slot()).collect();
    slots.try_into().ok().expect("as many slots were made as the array has")
}

/// Port and address as words of which none is 0. None for the address whose last 64 bits are all ones: an anycast address that RFC 2526
/// reserves, and no host's.
const fn key_of(hop: NextHop) -> Option<[u64; 3]> {
    let bits = hop.address.bits();
    let key = [TAKEN | hop.port as u64, !((bits >> 64) as u64), !(bits as u64)];
    if key[1] == 0 || key[2] == 0 { None } else { Some(key) }
}

/// The slots a next hop may have, in order.
fn probes(hop: NextHop) -> impl Iterator<Item = u16> {
    // Neighbours of one network lie side by side: their addresses are dense, so they hardly collide.
    let bits = hop.address.bits();
    let interface =
        ((bits >> 32) as u32).wrapping_mul(0x9e37_79b9) ^ ((bits >> 64) as u32).wrapping_mul(0x85eb_ca6b);
    let home = (bits as u16)
        ^ ((bits >> 16) as u16).wrapping_mul(0x9e37)
        ^ (interface >> 16) as u16
        ^ (u16::from(hop.port) << 12);
    (0..64).map(move |step: u16| home.wrapping_add(step))
}

impl std::fmt::Display for NextHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on port {}", self.address, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: NextHop = NextHop { port: 1, address: Address::v4(0x0a01_0203) };
    const MAC: [u8; 6] = [2, 1, 2, 3, 4, 5];

    #[test]
    fn a_next_hop_is_asked_for_learned_refreshed_and_given_up() {
        let table = Neighbours::new();
        assert!(!table.learn(HOP, MAC, 0), "nobody asked for it");
        let index = table.index(HOP).unwrap();
        assert_eq!(table.index(HOP), Some(index));
        assert_eq!(
            (table.hop(index), table.link(index).is_resolved(), table.link(index).port()),
            (HOP, false, 1)
        );
        assert!(!table.keep(index, 0));
        table.want(index);
        assert!(table.keep(index, 10));
        assert!(!table.keep(index, 20), "one request a second");
        assert!(table.learn(HOP, MAC, 30));
        let link = table.link(index);
        assert_eq!((link.is_resolved(), link.port(), link.mac()), (true, 1, MAC));
        assert!(!table.keep(index, 29), "learned by the clock of a worker that is ahead");
        assert!(!table.keep(index, 1_000));
        let mut now = 30 + ARP_REFRESH_MS;
        assert_eq!(table.may_be_stale(index), None);
        for n in 0..ARP_TRIES_MAX {
            assert!(table.keep(index, now));
            assert!(table.link(index).is_resolved());
            assert_eq!(table.may_be_stale(index).map(Link::mac), (n == 0).then_some(MAC));
            now += ARP_RETRY_MS;
        }
        assert!(!table.keep(index, now));
        assert!(!table.link(index).is_resolved(), "it did not answer");
        assert!(!table.keep(index, now + 5_000), "and nobody wants it");
    }

    /// Some share the first 64 bits of their address, some the last, some both on another port.
    fn racer(n: u32) -> NextHop {
        let address = match n % 4 {
            0 => Address::v4(n * 65_521),
            1 => Address::v6(0xfe80 << 112 | u128::from(n / 8)),
            2 => Address::v6(u128::from(0x2001_0db8_0000_0000 + u64::from(n / 16)) << 64),
            _ => Address::v6(0x2001_0db8 << 96 | u128::from(n / 2).wrapping_mul(0x1_0000_0001)),
        };
        NextHop { port: (n % 3) as u8, address }
    }

    #[test]
    fn clients_leave_room_for_backends() {
        let table = Neighbours::new();
        let client = |n: u32| NextHop { port: 0, address: Address::v6(0x2001_0db8 << 96 | u128::from(n)) };
        let given =
            (0..2 * NEXT_HOPS_MAX as u32).filter(|&n| table.index_of_client(client(n)).is_some()).count();
        assert_eq!(given, CLIENT_NEXT_HOPS_MAX);
        assert!(table.index_of_client(client(0)).is_some(), "those that have a place keep it");
        assert!((0..1_000).all(|n| table.index(NextHop { port: 1, address: Address::v4(n) }).is_some()));
        let anycast = NextHop { port: 0, address: Address::v6(0x2001_0db8 << 96 | u128::from(u64::MAX)) };
        assert_eq!((table.index(anycast), table.find(anycast)), (None, None));
    }

    #[test]
    fn racing_workers_agree_on_the_index() {
        let table = Neighbours::new();
        let hops: Vec<_> = (0..2_000).map(racer).collect();
        let indices: Vec<Vec<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| hops.iter().map(|&h| table.index(h)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(indices.iter().all(|i| *i == indices[0]));
        for (hop, index) in hops.iter().zip(&indices[0]) {
            assert_eq!(table.hop(index.unwrap()), *hop);
            assert_eq!(table.link(index.unwrap()).port(), usize::from(hop.port));
        }
    }
}
