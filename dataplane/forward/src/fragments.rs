//! Fragments of datagrams, of either family: which flow each is of, although only the first one names its ports.
//!
//! This is virtual reassembly: nothing is put together. Each fragment goes on by itself, as soon as the first of its datagram has come; those that
//! come before it are held. All fragments of a datagram come to one worker, which is found by a keyed hash of what names the datagram, so
//! that this table needs no lock. Next: [`crate::worker`] hands them to the worker of their flow, which translates them.
//!
//! # What a flood can do
//! Memory is made at start. Datagrams that wait for their first fragment and those that have it are counted apart, so a flood of later
//! fragments takes no room from datagrams that come in order. One source has a share of everything, beyond which its own new datagrams are refused; many
//! sources together push out the oldest, which have had the longest time to be completed.
//!
//! # Overlaps
//! RFC 5722 and RFC 8200 section 4.5: a datagram with overlapping fragments is dropped, and all that comes of it later. What has gone on already
//! cannot be called back, but never becomes whole. A fragment that comes twice is dropped alone, as RFC 8200 allows: networks repeat
//! frames, and the repeated one says nothing that was not said.

mod identification;
mod pieces;
mod read;
#[cfg(test)]
mod tests;

pub use identification::Identifications;
pub use pieces::{Misfit, Piece, Pieces};
pub use read::{Read, Start};

use crate::address::{Address, Family};
use crate::hash::{Secret, scale};
use crate::limits::{
    FRAGMENT_SHARE, FRAGMENT_SOURCES, FRAGMENT_STARTED_MAX, FRAGMENT_TIMEOUT_MS, FRAGMENT_WAITING_MAX,
    FRAGMENTS_HELD_MAX, FRAGMENTS_HELD_PER_DATAGRAM,
};
use crate::verdict::{Counters, Verdict};

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification.
    pub id: u32,
    /// IP protocol; over IPv6, whose later fragments do not tell theirs, always the same.
    pub protocol: u8,
}

impl DatagramKey {
    /// 64 bits of a keyed hash.
    #[must_use]
    pub const fn hash(&self, secret: &Secret) -> u64 {
        let (source, destination) = (self.source.bits(), self.destination.bits());
        let ends = secret.words(
            secret.words(source as u64, (source >> 64) as u64),
            secret.words(destination as u64, (destination >> 64) as u64).rotate_left(1),
        );
        secret.words(ends, (self.id as u64) << 8 | self.protocol as u64)
    }

    /// The worker of so many to which all fragments of the datagram go first.
    #[must_use]
    pub const fn worker(&self, secret: &Secret, workers: usize) -> usize {
        scale((self.hash(secret) >> 32) as u32, workers as u32) as usize
    }
}

/// What the worker of a flow has to know to translate a fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Onward {
    /// The identification that the datagram leaves with.
    pub id: u32,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// Protocol of the transport header.
    pub protocol: u8,
    /// The worker of the flow.
    pub owner: u8,
}

/// A fragment, as its headers describe it.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Its datagram.
    pub datagram: DatagramKey,
    /// What it brings; not empty.
    pub piece: Piece,
    /// Of a first fragment where the datagram goes on to; the identification is filled in here.
    pub onward: Option<Onward>,
    /// Number of the port it came in on.
    pub port: u8,
}

/// What happens to a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate<F> {
    /// It goes on. Those that were held for it, if there are any, follow: [`Fragments::release`].
    Pass(F, Onward, Option<Datagram>),
    /// It is held.
    Held,
    /// It is dropped.
    Dropped(Verdict),
}

/// A datagram in the table with frames that may go on, until another fragment is taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram(u32);

/// No slot.
const NONE: u32 = u32::MAX;
const SLOTS: usize = FRAGMENT_WAITING_MAX + FRAGMENT_STARTED_MAX;
const BUCKETS: usize = (SLOTS * 2).next_power_of_two();
const _: () = assert!(SLOTS < NONE as usize && FRAGMENT_SOURCES <= u16::MAX as usize + 1);

/// Which datagrams are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Stage {
    /// The first fragment has not come.
    Waiting,
    /// It has.
    Started,
}

impl Stage {
    const fn max(self) -> usize {
        match self {
            Self::Waiting => FRAGMENT_WAITING_MAX,
            Self::Started => FRAGMENT_STARTED_MAX,
        }
    }
}

#[derive(Debug)]
struct Slot {
    key: DatagramKey,
    stage: Stage,
    /// Why everything that comes of it is dropped.
    condemned: Option<Verdict>,
    onward: Onward,
    since_ms: u32,
    source: u16,
    /// Frames held for it, first and last, and how many.
    held: (u32, u32),
    held_count: u16,
    /// The next one in its bucket, or of the free ones.
    chain: u32,
    /// Its neighbours in its stage's queue, the older and the newer.
    older: u32,
    newer: u32,
    pieces: Pieces,
}

/// The slots of one stage, oldest first.
#[derive(Clone, Copy, Debug)]
struct Queue {
    oldest: u32,
    newest: u32,
    len: usize,
}

#[derive(Debug)]
struct HeldFrame<F> {
    frame: Option<F>,
    port: u8,
    /// The next one of its datagram, or of the free ones.
    next: u32,
}

/// What one source has.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    datagrams: [u16; 2],
    held: u16,
}

/// The datagrams of which one worker has seen fragments.
#[derive(Debug)]
pub struct Fragments<F> {
    secret: Secret,
    identifications: Identifications,
    buckets: Box<[u32]>,
    slots: Box<[Slot]>,
    free: u32,
    queues: [Queue; 2],
    held: Box<[HeldFrame<F>]>,
    held_free: u32,
    held_count: usize,
    sources: Box<[Share]>,
}

impl<F> Fragments<F> {
    /// The table of worker number `worker` of so many that share the secret, empty.
    #[must_use]
    pub fn new(secret: Secret, worker: usize, workers: usize) -> Self {
        let chain = |n: usize, of: usize| if n + 1 < of { n as u32 + 1 } else { NONE };
        let slot = |n| Slot {
            key: DatagramKey::default(),
            stage: Stage::Waiting,
            condemned: None,
            onward: Onward::default(),
            since_ms: 0,
            source: 0,
            held: (NONE, NONE),
            held_count: 0,
            chain: chain(n, SLOTS),
            older: NONE,
            newer: NONE,
            pieces: Pieces::new(),
        };
        let held = |n| HeldFrame { frame: None, port: 0, next: chain(n, FRAGMENTS_HELD_MAX) };
        Self {
            secret,
            identifications: Identifications::new(secret, worker, workers),
            buckets: vec![NONE; BUCKETS].into(),
            slots: (0..SLOTS).map(slot).collect(),
            free: 0,
            queues: [Queue { oldest: NONE, newest: NONE, len: 0 }; 2],
            held: (0..FRAGMENTS_HELD_MAX).map(held).collect(),
            held_free: 0,
            held_count: 0,
            sources: vec![Share::default(); FRAGMENT_SOURCES].into(),
        }
    }

    /// Datagrams that are known: those that wait for their first fragment, and those that have it.
    #[must_use]
    pub const fn datagrams(&self) -> [usize; 2] {
        [self.queues[0].len, self.queues[1].len]
    }

    /// Frames that are held.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held_count
    }

    /// Takes a fragment. Frames that were held and are dropped because of it are counted; `frame` itself is the caller's to count.
    pub fn take(&mut self, fragment: &Fragment, frame: F, now_ms: u32, counters: &mut Counters) -> Fate<F> {
        let bucket = fragment.datagram.hash(&self.secret) as usize % BUCKETS;
        let found = self.find(bucket, &fragment.datagram).filter(|&at| {
            let is_live = !is_over(&self.slots[at as usize], now_ms);
            if !is_live {
                self.remove(at, Verdict::FragmentTimeout, counters);
            }
            is_live
        });
        let Some(at) = found.or_else(|| self.open(bucket, fragment, now_ms, counters)) else {
            return Fate::Dropped(Verdict::FragmentsFull);
        };
        let slot = &mut self.slots[at as usize];
        if let Some(verdict) = slot.condemned {
            return Fate::Dropped(verdict);
        }
        match slot.pieces.add(fragment.piece) {
            Ok(()) => {}
            Err(Misfit::Duplicate) => return Fate::Dropped(Verdict::FragmentDuplicate),
            Err(Misfit::Overlap) => return self.condemn(at, Verdict::FragmentOverlap, counters),
            Err(Misfit::Scattered) => return self.condemn(at, Verdict::FragmentsFull, counters),
        }
        match (slot.stage, fragment.onward) {
            (Stage::Started, _) => {}
            (Stage::Waiting, Some(onward)) if self.start(at, onward, now_ms, counters) => {}
            (Stage::Waiting, None) if self.make_room_to_hold(at, counters) => {
                self.hold(at, frame, fragment.port);
                return Fate::Held;
            }
            (Stage::Waiting, _) => return self.condemn(at, Verdict::FragmentsFull, counters),
        }
        let slot = &self.slots[at as usize];
        let (onward, has_held) = (slot.onward, slot.held_count > 0);
        if !has_held && slot.pieces.is_complete() {
            self.unlink(at);
        }
        Fate::Pass(frame, onward, has_held.then_some(Datagram(at)))
    }

    /// The next frame that was held for the first fragment of a datagram, and the port it came in on, in the order in which they came.
    pub fn release(&mut self, datagram: &Datagram) -> Option<(u8, F)> {
        let slot = self.slots.get_mut(datagram.0 as usize)?;
        let (first, last) = slot.held;
        let held = self.held.get_mut(first as usize)?;
        let frame = held.frame.take()?;
        slot.held = if first == last { (NONE, NONE) } else { (held.next, last) };
        slot.held_count -= 1;
        self.sources[usize::from(slot.source)].held -= 1;
        held.next = self.held_free;
        self.held_free = first;
        self.held_count -= 1;
        let port = held.port;
        if slot.held_count == 0 && slot.pieces.is_complete() {
            self.unlink(datagram.0);
        }
        Some((port, frame))
    }

    /// Gives up datagrams whose time is over, so many at most. Their frames are counted.
    pub fn sweep(&mut self, now_ms: u32, mut budget: usize, counters: &mut Counters) {
        for stage in [Stage::Waiting, Stage::Started] {
            while budget > 0
                && let oldest = self.queues[stage as usize].oldest
                && let Some(slot) = self.slots.get(oldest as usize)
                && is_over(slot, now_ms)
            {
                self.remove(oldest, Verdict::FragmentTimeout, counters);
                budget -= 1;
            }
        }
    }

    fn find(&self, bucket: usize, key: &DatagramKey) -> Option<u32> {
        let mut at = self.buckets[bucket];
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.key == *key {
                return Some(at);
            }
            at = slot.chain;
        }
        None
    }

    /// A slot for a datagram that is not known, if its source may have another one.
    fn open(
        &mut self,
        bucket: usize,
        fragment: &Fragment,
        now_ms: u32,
        counters: &mut Counters,
    ) -> Option<u32> {
        let Fragment { datagram: key, onward, .. } = fragment;
        let stage = if onward.is_some() { Stage::Started } else { Stage::Waiting };
        let hash = self.secret.address(key.source, 0);
        let source = scale((hash >> 32) as u32, FRAGMENT_SOURCES as u32) as u16;
        self.admit(source, stage, counters).then_some(())?;
        let at = self.free;
        let onward = onward.map(|onward| self.named(key, onward)).unwrap_or_default();
        let slot = self.slots.get_mut(at as usize)?;
        self.free = slot.chain;
        slot.pieces.clear();
        (slot.key, slot.stage, slot.source) = (*key, stage, source);
        (slot.condemned, slot.onward, slot.since_ms) = (None, onward, now_ms);
        slot.chain = std::mem::replace(&mut self.buckets[bucket], at);
        self.enqueue(at, stage);
        Some(at)
    }

    /// Whether a source may have one more datagram of a stage. If it may, there is room for it: the oldest one has given way.
    fn admit(&mut self, source: u16, stage: Stage, counters: &mut Counters) -> bool {
        let share = usize::from(self.sources[usize::from(source)].datagrams[stage as usize]);
        if share >= stage.max() / FRAGMENT_SHARE {
            return false;
        }
        let Queue { oldest, len, .. } = self.queues[stage as usize];
        if len >= stage.max() {
            self.remove(oldest, Verdict::FragmentsFull, counters);
        }
        true
    }

    /// The first fragment of a waiting datagram has come. `false`: there is no room for its source.
    fn start(&mut self, at: u32, onward: Onward, now_ms: u32, counters: &mut Counters) -> bool {
        let Slot { source, key, .. } = self.slots[at as usize];
        if !self.admit(source, Stage::Started, counters) {
            return false;
        }
        self.dequeue(at);
        self.enqueue(at, Stage::Started);
        let onward = self.named(&key, onward);
        let slot = &mut self.slots[at as usize];
        (slot.onward, slot.since_ms) = (onward, now_ms);
        true
    }

    /// An identification for a datagram over IPv4 that this gateway cuts.
    pub fn identify(&mut self) -> u32 {
        self.identifications.for_v4()
    }

    /// With an identification of its own.
    fn named(&mut self, key: &DatagramKey, onward: Onward) -> Onward {
        let id = match key.source.family() {
            Family::V4 => self.identify(),
            Family::V6 => self.identifications.for_v6(),
        };
        Onward { id, ..onward }
    }

    /// Whether a waiting datagram may have another frame held. If it may, there is room: the oldest datagrams have given way.
    fn make_room_to_hold(&mut self, at: u32, counters: &mut Counters) -> bool {
        let slot = &self.slots[at as usize];
        let of_source = usize::from(self.sources[usize::from(slot.source)].held);
        if usize::from(slot.held_count) >= FRAGMENTS_HELD_PER_DATAGRAM
            || of_source >= FRAGMENTS_HELD_MAX / FRAGMENT_SHARE
        {
            return false;
        }
        while self.held_free == NONE {
            let oldest = self.queues[Stage::Waiting as usize].oldest;
            if oldest == at || oldest == NONE {
                return false;
            }
            self.remove(oldest, Verdict::FragmentsFull, counters);
        }
        true
    }

    /// Holds a frame, for which there is room.
    fn hold(&mut self, at: u32, frame: F, port: u8) {
        let new = self.held_free;
        let Some(held) = self.held.get_mut(new as usize) else { return };
        self.held_free = held.next;
        (held.frame, held.port) = (Some(frame), port);
        let slot = &mut self.slots[at as usize];
        let last = slot.held.1;
        slot.held = if last == NONE { (new, new) } else { (slot.held.0, new) };
        slot.held_count += 1;
        self.sources[usize::from(slot.source)].held += 1;
        self.held_count += 1;
        if let Some(last) = self.held.get_mut(last as usize) {
            last.next = new;
        }
    }

    /// Drops what is held for a datagram and all that is to come of it.
    fn condemn(&mut self, at: u32, verdict: Verdict, counters: &mut Counters) -> Fate<F> {
        self.slots[at as usize].condemned = Some(verdict);
        self.drop_held(at, verdict, counters);
        Fate::Dropped(verdict)
    }

    fn drop_held(&mut self, at: u32, verdict: Verdict, counters: &mut Counters) {
        let slot = &mut self.slots[at as usize];
        let (first, last) = std::mem::replace(&mut slot.held, (NONE, NONE));
        let count = std::mem::take(&mut slot.held_count);
        self.sources[usize::from(slot.source)].held -= count;
        self.held_count -= usize::from(count);
        counters.count_many(verdict, count.into());
        let mut next = first;
        for _ in 0..count {
            let held = &mut self.held[next as usize];
            held.frame = None;
            next = held.next;
        }
        if count > 0 {
            self.held[last as usize].next = self.held_free;
            self.held_free = first;
        }
    }

    /// Forgets a datagram; frames that are held for it are dropped and counted so.
    fn remove(&mut self, at: u32, verdict: Verdict, counters: &mut Counters) {
        self.drop_held(at, verdict, counters);
        self.unlink(at);
    }

    /// Gives the slot of a datagram back for which nothing is held.
    fn unlink(&mut self, at: u32) {
        self.dequeue(at);
        let Slot { key, chain, .. } = self.slots[at as usize];
        let bucket = &mut self.buckets[key.hash(&self.secret) as usize % BUCKETS];
        if *bucket == at {
            *bucket = chain;
        } else {
            let mut before = *bucket;
            while let Some(slot) = self.slots.get_mut(before as usize) {
                before = slot.chain;
                if before == at {
                    slot.chain = chain;
                }
            }
        }
        self.slots[at as usize].chain = self.free;
        self.free = at;
    }

    /// Puts a slot at the new end of a stage's queue.
    fn enqueue(&mut self, at: u32, stage: Stage) {
        let queue = &mut self.queues[stage as usize];
        let slot = &mut self.slots[at as usize];
        (slot.stage, slot.older, slot.newer) = (stage, queue.newest, NONE);
        self.sources[usize::from(slot.source)].datagrams[stage as usize] += 1;
        match self.slots.get_mut(queue.newest as usize) {
            Some(before) => before.newer = at,
            None => queue.oldest = at,
        }
        queue.newest = at;
        queue.len += 1;
    }

    /// Takes a slot out of its stage's queue.
    fn dequeue(&mut self, at: u32) {
        let Slot { stage, source, older, newer, .. } = self.slots[at as usize];
        let queue = &mut self.queues[stage as usize];
        match self.slots.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => queue.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(behind) => behind.older = older,
            None => queue.newest = older,
        }
        queue.len -= 1;
        self.sources[usize::from(source)].datagrams[stage as usize] -= 1;
    }
}

const fn is_over(slot: &Slot, now_ms: u32) -> bool {
    now_ms.wrapping_sub(slot.since_ms) >= FRAGMENT_TIMEOUT_MS
}
