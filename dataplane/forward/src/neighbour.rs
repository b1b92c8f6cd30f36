//! Next hops and their Ethernet addresses: one table for all workers.
//!
//! A next hop gets an index when it is first needed and keeps it, so that a flow stores 16 bits. Keys are taken by compare-and-swap, so any
//! worker may add one; addresses are single 64-bit stores. The lines are written when an address is learned or changes, not per packet.
//! A new dataplane process starts with an empty table.

use crate::limits::{ARP_REFRESH_MS, ARP_RETRY_MS, ARP_TRIES_MAX, NEXT_HOPS_MAX};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// A host on a connected network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Number of the port it is behind.
    pub port: u8,
    /// Its IPv4 address, as a number.
    pub address: u32,
}

/// Where to send a frame: port and Ethernet address, if known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link(u64);

/// The Ethernet address is known.
const RESOLVED: u64 = 1 << 63;
/// Somebody waits for it.
const WANTED: u64 = 1 << 62;
const MAC: u64 = (1 << 48) - 1;
/// Marks a taken key, so that 0.0.0.0 on port 0 is not an empty slot.
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
    key: AtomicU64,
    link: AtomicU64,
    /// When last asked for (milliseconds), and in the top byte how often since the last answer.
    asked: AtomicU64,
    /// When last heard of (milliseconds).
    heard_ms: AtomicU32,
}

/// The table of next hops.
pub struct Neighbours {
    slots: Box<[Slot; NEXT_HOPS_MAX]>,
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
            key: AtomicU64::new(0),
            link: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            heard_ms: AtomicU32::new(0),
        };
        Self {
            slots: boxed(slot),
            taken: (0..NEXT_HOPS_MAX).map(|_| AtomicU32::new(0)).collect(),
            count: AtomicUsize::new(0),
        }
    }

    /// Where frames to the next hop with this index go.
    #[inline(always)]
    #[must_use]
    pub fn link(&self, index: u16) -> Link {
        Link(self.slots[index as usize].link.load(Relaxed))
    }

    /// The next hop with this index.
    #[must_use]
    pub fn hop(&self, index: u16) -> NextHop {
        let key = self.slots[index as usize].key.load(Relaxed);
        NextHop { port: (key >> 32) as u8, address: key as u32 }
    }

    /// Index of a next hop that is known.
    #[must_use]
    pub fn find(&self, hop: NextHop) -> Option<u16> {
        let key = key_of(hop);
        for index in probes(hop) {
            match self.slots[index as usize].key.load(Relaxed) {
                0 => return None,
                k if k == key => return Some(index),
                _ => {}
            }
        }
        None
    }

    /// Index of a next hop, which gets one if it has none; none when the table is full around it.
    #[must_use]
    pub fn index(&self, hop: NextHop) -> Option<u16> {
        let key = key_of(hop);
        for index in probes(hop) {
            let slot = &self.slots[index as usize];
            let found = slot.key.compare_exchange(0, key, Relaxed, Relaxed).unwrap_or_else(|taken| taken);
            if found == 0 || found == key {
                if found == 0 {
                    slot.link.fetch_or((u64::from(hop.port)) << 48, Relaxed);
                    // Each slot is taken once, so the positions never run out.
                    self.taken[self.count.fetch_add(1, Relaxed)].store(u32::from(index) + 1, Relaxed);
                }
                return Some(index);
            }
        }
        None
    }

    /// Asks the keeper to resolve a next hop, if it is not resolved.
    pub fn want(&self, index: u16) {
        let slot = &self.slots[index as usize];
        if slot.link.load(Relaxed) & (RESOLVED | WANTED) == 0 {
            slot.asked.store(0, Relaxed);
            slot.link.fetch_or(WANTED, Relaxed);
        }
    }

    /// Whether to send an ARP request for this next hop now. Says yes to one caller in [`ARP_RETRY_MS`].
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

    /// Learns the Ethernet address of a next hop that somebody asked for; others are not kept. Returns whether it was one.
    pub fn learn(&self, hop: NextHop, mac: [u8; 6], now_ms: u32) -> bool {
        let Some(index) = self.find(hop) else { return false };
        let slot = &self.slots[index as usize];
        let [a, b, c, d, e, f] = mac;
        let bits = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let link = RESOLVED | u64::from(hop.port) << 48 | bits;
        if slot.link.load(Relaxed) != link {
            slot.link.store(link, Relaxed);
        }
        slot.heard_ms.store(now_ms, Relaxed);
        slot.asked.store(0, Relaxed);
        true
    }

    /// The keeper's look at one slot: `true` if an ARP request should be sent for it now.
    ///
    /// A wanted next hop is asked for [`ARP_TRIES_MAX`] times and then given up until it is wanted again; a resolved one is asked for again
    /// after [`ARP_REFRESH_MS`], and is unresolved when it does not answer.
    #[must_use]
    pub fn keep(&self, index: u16, now_ms: u32) -> bool {
        let slot = &self.slots[index as usize];
        if slot.key.load(Relaxed) == 0 {
            return false;
        }
        let link = slot.link.load(Relaxed);
        let tries = (slot.asked.load(Relaxed) >> 32) as u8;
        let stale =
            link & RESOLVED != 0 && now_ms.wrapping_sub(slot.heard_ms.load(Relaxed)) >= ARP_REFRESH_MS;
        if link & WANTED == 0 && !stale {
            return false;
        }
        if tries >= ARP_TRIES_MAX {
            let last_ms = slot.asked.load(Relaxed) as u32;
            if now_ms.wrapping_sub(last_ms) >= ARP_RETRY_MS {
                slot.link.fetch_and(!(RESOLVED | WANTED), Relaxed);
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
fn boxed(slot: impl Fn() -> Slot) -> Box<[Slot; NEXT_HOPS_MAX]> {
    let slots: Box<[Slot]> = (0..NEXT_HOPS_MAX).map(|_| slot()).collect();
    slots.try_into().ok().expect("as many slots were made as the array has")
}

const fn key_of(hop: NextHop) -> u64 {
    TAKEN | (hop.port as u64) << 32 | hop.address as u64
}

/// The slots a next hop may have, in order.
fn probes(hop: NextHop) -> impl Iterator<Item = u16> {
    // Neighbours of one network lie side by side: their addresses are dense, so they hardly collide.
    let home = (hop.address as u16)
        ^ ((hop.address >> 16) as u16).wrapping_mul(0x9e37)
        ^ (u16::from(hop.port) << 12);
    (0..64).map(move |step: u16| home.wrapping_add(step))
}

impl std::fmt::Display for NextHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on port {}", Ipv4Addr::from(self.address), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: NextHop = NextHop { port: 1, address: 0x0a01_0203 };
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
        assert!(!table.keep(index, 1_000));
        let mut now = 30 + ARP_REFRESH_MS;
        for _ in 0..ARP_TRIES_MAX {
            assert!(table.keep(index, now));
            assert!(table.link(index).is_resolved());
            now += ARP_RETRY_MS;
        }
        assert!(!table.keep(index, now));
        assert!(!table.link(index).is_resolved(), "it did not answer");
        assert!(!table.keep(index, now + 5_000), "and nobody wants it");
    }

    #[test]
    fn racing_workers_agree_on_the_index() {
        let table = Neighbours::new();
        let hops: Vec<_> = (0..2_000).map(|n| NextHop { port: (n % 3) as u8, address: n * 65_521 }).collect();
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
