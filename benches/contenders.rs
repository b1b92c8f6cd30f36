//! What might be the flow table: Turnpike's own, hashbrown in two shapes, and DPDK's `rte_hash`.
//!
//! Each finds the session of a five-tuple, whichever direction it is of, one key behind the other or a batch of [`BATCH`] keys at a time, and reads a
//! word of that session: a packet needs more of a flow than that there is one. Those that keep sessions elsewhere keep them in one [`Slab`], where a flow's slot is
//! its number; they never have to find or free a slot, which Turnpike's own table does.

use anyhow::{Context, Result, ensure};
use capsule::{Eal, HASH_BULK, Hash};
use hashbrown::HashTable;
use std::hint::black_box;
use std::time::Instant;
use turnpike_forward::cpu;
use turnpike_forward::flow_key::FlowKey;
use turnpike_forward::flow_table::{Candidate, Entry, FlowTable, Place, Session};
use turnpike_forward::hash::Secret;
use zerocopy::{FromBytes, IntoBytes};

/// Keys that are looked up together, as the packets of a burst are.
pub const BATCH: usize = 32;

/// How many keys ahead Turnpike's table asks for lines that are near already, as the packet path does.
const NEAR: usize = 6;

/// The bit of an entry that tells the direction.
const REPLY: u32 = 1 << 31;

/// Keys of one flow by its number: from the client, from the backend. The numbers go up to 2²⁸.
#[must_use]
pub const fn keys_of(flow: u32) -> [FlowKey; 2] {
    const TCP: u8 = 6;
    const VIP: u32 = 0xcb00_7101;
    const PORTS: u32 = 60_000;
    // An odd factor makes each number another one of as many bits, in no visible order.
    let client = 0x1000_0000 | (flow.wrapping_mul(0x9e37_79b1) & 0x0fff_ffff);
    let client_port = 1_024 + (flow.wrapping_mul(0x85eb_ca6b) >> 17) as u16;
    let (snat, port) = (0x0a01_0000 + flow / PORTS, 1_024 + (flow % PORTS) as u16);
    let backend = 0x0a80_0000 + flow % 1_000;
    [FlowKey::new(TCP, client, VIP, client_port, 443), FlowKey::new(TCP, backend, snat, 8_080, port)]
}

/// A live flow, which carries its number.
fn session_of(flow: u32) -> Session {
    let [forward, reply] = keys_of(flow);
    let mut session = Session::new(forward, reply);
    session.last_seen = flow;
    session
}

/// What a run of lookups found: enough to know whether it was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Keys that are in the table.
    pub hits: u64,
    /// The numbers of their flows, added up.
    pub sum: u64,
}

impl Found {
    /// One more.
    #[inline(always)]
    pub fn add(&mut self, flow: u32) {
        self.hits += 1;
        self.sum += u64::from(flow);
    }
}

/// A table of flows.
pub trait Contender {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Bytes that it takes, its sessions included.
    fn bytes(&self) -> usize;

    /// Entries that its index has places for; a flow has two.
    fn places(&self) -> usize;

    /// Adds the flow of this number, which is not in it.
    fn insert(&mut self, flow: u32) -> Result<()>;

    /// Looks all of the keys up, a batch at a time, asking ahead for what it can.
    fn look_up(&mut self, keys: &[FlowKey]) -> Found;

    /// The same, each key on its own.
    fn look_up_singly(&self, keys: &[FlowKey]) -> Found;
}

/// Turnpike's own: [`FlowTable`], in the three stages of the packet path.
#[derive(Debug)]
pub struct Own<'m> {
    table: FlowTable<'m>,
    /// Keys of a run whose tag was another one's.
    left: Vec<FlowKey>,
}

impl Own<'_> {
    /// How long each insert of `flows` took, in nanoseconds; those that had room are taken back, so that the table is as it was.
    pub fn timed_inserts(&mut self, flows: std::ops::Range<u32>) -> Vec<u32> {
        let mut slots = Vec::with_capacity(flows.len());
        let mut times = Vec::with_capacity(flows.len());
        for flow in flows {
            let session = session_of(flow);
            let start = Instant::now();
            let inserted = self.table.insert(black_box(session));
            let taken = start.elapsed();
            times.push(u32::try_from(taken.as_nanos()).unwrap_or(u32::MAX));
            slots.extend(inserted);
        }
        // Last in, first out, so that the next ones get the same slots.
        slots.into_iter().rev().for_each(|slot| self.table.remove(slot, 0));
        times
    }
}

impl Own<'_> {
    /// Inserts flows that are not there, takes them back, and says how many had room.
    pub fn insert_and_remove(&mut self, flows: std::ops::Range<u32>) -> usize {
        let mut slots = [0; 256];
        let mut taken = 0;
        for (slot, flow) in slots.iter_mut().zip(flows) {
            if let Ok(place) = self.table.insert(session_of(flow)) {
                *slot = place;
                taken += 1;
            }
        }
        slots[..taken].iter().rev().for_each(|&slot| self.table.remove(slot, 0));
        taken
    }
}

impl<'m> Own<'m> {
    /// A table of so many flows in memory of [`FlowTable::memory_bytes`].
    pub fn new(memory: &'m mut [u8], flows: u32, secret: Secret) -> Result<Self> {
        Ok(Self { table: FlowTable::new(memory, flows, secret)?, left: Vec::with_capacity(1 << 10) })
    }
}

impl Contender for Own<'_> {
    fn name(&self) -> &'static str {
        "turnpike"
    }

    fn bytes(&self) -> usize {
        FlowTable::<FlowKey>::memory_bytes(self.table.capacity())
    }

    fn places(&self) -> usize {
        /// Bytes of a bucket of eight entries.
        const BUCKET: usize = 64;
        (self.bytes() - self.table.capacity() as usize * size_of::<Session>()) / BUCKET * 8
    }

    fn insert(&mut self, flow: u32) -> Result<()> {
        let inserted = self.table.insert(session_of(flow));
        ensure!(inserted.is_ok(), "the flow table takes no other flow");
        Ok(())
    }

    fn look_up(&mut self, keys: &[FlowKey]) -> Found {
        let Self { table, left } = self;
        let mut found = Found::default();
        let (index, mut sessions) = table.split();
        for batch in keys.chunks(BATCH) {
            let mut places = [Place::default(); BATCH + NEAR];
            for (place, key) in places.iter_mut().zip(batch) {
                *place = index.place(*key);
            }
            let mut candidates = [Candidate::NONE; BATCH + NEAR];
            for (at, candidate) in candidates.iter_mut().enumerate().take(batch.len()) {
                index.approach(places[at + NEAR]);
                *candidate = index.candidate(places[at], &sessions);
            }
            for (at, key) in batch.iter().enumerate() {
                sessions.approach(candidates[at + NEAR]);
                match sessions.confirm(candidates[at], key) {
                    Some(session) => found.add(session.last_seen),
                    None if candidates[at] == Candidate::NONE => {}
                    None => left.push(*key),
                }
            }
        }
        for key in left.drain(..) {
            if let Some(candidate) = table.find(key) {
                found.add(table.session(candidate.slot()).last_seen);
            }
        }
        found
    }

    fn look_up_singly(&self, keys: &[FlowKey]) -> Found {
        let mut found = Found::default();
        for &key in keys {
            if let Some(candidate) = self.table.find(key) {
                found.add(self.table.session(candidate.slot()).last_seen);
            }
        }
        found
    }
}

/// Sessions that an index names by their place, the flow's number.
#[derive(Clone, Copy, Debug)]
pub struct Slab<'m>(&'m [Session]);

impl<'m> Slab<'m> {
    /// Bytes for so many flows.
    #[must_use]
    pub const fn memory_bytes(flows: u32) -> usize {
        flows as usize * size_of::<Session>()
    }

    /// The sessions of as many flows as there is memory for, all made before any is looked up.
    pub fn new(memory: &'m mut [u8]) -> Result<Self> {
        let sessions = <[Session]>::mut_from_bytes(memory).ok();
        let sessions = sessions.context("a slab of sessions starts on a cache line and holds whole ones")?;
        for (flow, session) in (0..).zip(sessions.iter_mut()) {
            *session = session_of(flow);
        }
        Ok(Self(sessions))
    }

    const fn bytes(self) -> usize {
        size_of_val(self.0)
    }

    /// The flow of an entry.
    #[inline(always)]
    const fn of(self, entry: u32) -> &'m Session {
        &self.0[(entry & !REPLY) as usize]
    }

    /// The key that the entry was made for.
    #[inline(always)]
    fn key_of(self, entry: u32) -> FlowKey {
        self.of(entry).keys()[(entry >> 31) as usize]
    }

    /// Asks for the sessions of a batch, then reads them.
    #[inline(always)]
    fn read(self, entries: &[u32], found: &mut Found) {
        for &entry in entries {
            cpu::prefetch(self.0, (entry & !REPLY) as usize);
        }
        for &entry in entries {
            found.add(self.of(entry).last_seen);
        }
    }
}

/// hashbrown with the keys in the table: 16 bytes of key and 4 of entry, with the hash of Turnpike's own table.
#[derive(Debug)]
pub struct KeysInTable<'m> {
    table: HashTable<([u64; 2], u32)>,
    slab: Slab<'m>,
    secret: Secret,
}

const fn words(key: FlowKey) -> [u64; 2] {
    [key.bits() as u64, (key.bits() >> 64) as u64]
}

impl<'m> KeysInTable<'m> {
    /// A table that takes so many entries without growing.
    #[must_use]
    pub fn new(entries: usize, slab: Slab<'m>, secret: Secret) -> Self {
        Self { table: HashTable::with_capacity(entries), slab, secret }
    }
}

impl Contender for KeysInTable<'_> {
    fn name(&self) -> &'static str {
        "hashbrown, keys in the table"
    }

    fn bytes(&self) -> usize {
        self.table.allocation_size() + self.slab.bytes()
    }

    fn places(&self) -> usize {
        self.table.num_buckets()
    }

    fn insert(&mut self, flow: u32) -> Result<()> {
        let secret = self.secret;
        for (key, entry) in keys_of(flow).into_iter().zip([flow, flow | REPLY]) {
            let rehash = |&([low, high], _): &([u64; 2], u32)| secret.words(low, high);
            self.table.insert_unique(secret.hash(key), (words(key), entry), rehash);
        }
        Ok(())
    }

    fn look_up(&mut self, keys: &[FlowKey]) -> Found {
        let mut found = Found::default();
        for batch in keys.chunks(BATCH) {
            let (mut entries, mut hits) = ([0; BATCH], 0);
            for &key in batch {
                let wanted = words(key);
                if let Some(&(_, entry)) = self.table.find(self.secret.hash(key), |(key, _)| *key == wanted) {
                    entries[hits] = entry;
                    hits += 1;
                }
            }
            self.slab.read(&entries[..hits], &mut found);
        }
        found
    }

    fn look_up_singly(&self, keys: &[FlowKey]) -> Found {
        let mut found = Found::default();
        for &key in keys {
            let wanted = words(key);
            if let Some(&(_, entry)) = self.table.find(self.secret.hash(key), |(key, _)| *key == wanted) {
                found.add(self.slab.of(entry).last_seen);
            }
        }
        found
    }
}

/// hashbrown with entries of four bytes, whose keys are those of the sessions that they name.
#[derive(Debug)]
pub struct KeysInSessions<'m> {
    table: HashTable<u32>,
    slab: Slab<'m>,
    secret: Secret,
}

impl<'m> KeysInSessions<'m> {
    /// A table that takes so many entries without growing.
    #[must_use]
    pub fn new(entries: usize, slab: Slab<'m>, secret: Secret) -> Self {
        Self { table: HashTable::with_capacity(entries), slab, secret }
    }
}

impl Contender for KeysInSessions<'_> {
    fn name(&self) -> &'static str {
        "hashbrown, keys in sessions"
    }

    fn bytes(&self) -> usize {
        self.table.allocation_size() + self.slab.bytes()
    }

    fn places(&self) -> usize {
        self.table.num_buckets()
    }

    fn insert(&mut self, flow: u32) -> Result<()> {
        let (slab, secret) = (self.slab, self.secret);
        for (key, entry) in keys_of(flow).into_iter().zip([flow, flow | REPLY]) {
            self.table.insert_unique(secret.hash(key), entry, |&entry| secret.hash(slab.key_of(entry)));
        }
        Ok(())
    }

    fn look_up(&mut self, keys: &[FlowKey]) -> Found {
        // Nothing outside says which lines a key will need, so there is nothing to ask for.
        self.look_up_singly(keys)
    }

    fn look_up_singly(&self, keys: &[FlowKey]) -> Found {
        let mut found = Found::default();
        let slab = self.slab;
        for &key in keys {
            if let Some(&entry) = self.table.find(self.secret.hash(key), |&entry| slab.key_of(entry) == key) {
                found.add(slab.of(entry).last_seen);
            }
        }
        found
    }
}

/// DPDK's `rte_hash`, whole batches at a time, with its own unkeyed hash.
#[derive(Debug)]
pub struct Dpdk<'m> {
    hash: Hash<16>,
    places: usize,
    slab: Slab<'m>,
}

impl<'m> Dpdk<'m> {
    /// A table for so many entries.
    pub fn new(eal: Eal, entries: u32, slab: Slab<'m>) -> Result<Self> {
        Ok(Self { hash: Hash::new(eal, entries)?, places: entries.next_power_of_two() as usize, slab })
    }

    /// MiB of the environment's memory that a table takes, and something to spare: buckets of 64 bytes for eight entries, 32 bytes for each key and its
    /// value, four for its name in a ring.
    #[must_use]
    pub const fn memory_mb(entries: u32) -> u32 {
        let (places, ring) = (entries.next_power_of_two() as u64, (entries as u64 + 1).next_power_of_two());
        ((places * 8 + entries as u64 * 32 + ring * 4) >> 20) as u32 + 64
    }
}

impl Contender for Dpdk<'_> {
    fn name(&self) -> &'static str {
        "rte_hash"
    }

    fn bytes(&self) -> usize {
        self.hash.memory_bytes() + self.slab.bytes()
    }

    fn places(&self) -> usize {
        self.places
    }

    fn insert(&mut self, flow: u32) -> Result<()> {
        for (key, entry) in keys_of(flow).iter().zip([flow, flow | REPLY]) {
            self.hash.insert(key.bits().to_le_bytes().as_ref().try_into()?, entry as usize)?;
        }
        Ok(())
    }

    fn look_up(&mut self, keys: &[FlowKey]) -> Found {
        const { assert!(BATCH <= HASH_BULK) };
        let mut found = Found::default();
        let mut values = [0; HASH_BULK];
        for batch in keys.chunks(BATCH) {
            let Ok(bytes) = <[[u8; 16]]>::ref_from_bytes(batch.as_bytes()) else { return found };
            let mut left = self.hash.lookup(bytes, &mut values);
            let (mut entries, mut hits) = ([0; BATCH], 0);
            while left != 0 {
                entries[hits] = values[left.trailing_zeros() as usize] as u32;
                hits += 1;
                left &= left - 1;
            }
            self.slab.read(&entries[..hits], &mut found);
        }
        found
    }

    fn look_up_singly(&self, keys: &[FlowKey]) -> Found {
        let mut found = Found::default();
        for &key in keys {
            if let Some(entry) = self.hash.get(&key.bits().to_le_bytes()) {
                found.add(self.slab.of(entry as u32).last_seen);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::start_eal;
    use std::collections::HashSet;
    use turnpike_shm::{HugeMemory, Pages};

    #[test]
    fn no_two_flows_share_a_key() {
        let flows = (0..200_000).chain((1 << 28) - 200_000..1 << 28);
        let keys: HashSet<u128> = flows.flat_map(keys_of).map(FlowKey::bits).collect();
        assert_eq!(keys.len(), 800_000);
    }

    #[test]
    fn every_contender_finds_the_same() {
        const ENTRIES: u32 = 8_192;
        const FLOWS: u32 = ENTRIES / 2;
        let secret = Secret::new([1, 2, 3, 4]);
        let memory = |bytes| HugeMemory::new(bytes, Pages::Never).unwrap();
        let mut table = memory(FlowTable::<FlowKey>::memory_bytes(FLOWS));
        let mut sessions = memory(Slab::memory_bytes(FLOWS));
        let slab = Slab::new(sessions.bytes_mut()).unwrap();
        let eal = start_eal(false).unwrap();
        let mut contenders: [Box<dyn Contender>; 4] = [
            Box::new(Own::new(table.bytes_mut(), FLOWS, secret).unwrap()),
            Box::new(KeysInTable::new(ENTRIES as usize, slab, secret)),
            Box::new(KeysInSessions::new(ENTRIES as usize, slab, secret)),
            Box::new(Dpdk::new(eal, ENTRIES, slab).unwrap()),
        ];
        let filled = FLOWS * 95 / 100;
        let sum: u64 = (0..u64::from(filled)).sum();
        let keys: Vec<FlowKey> = (0..2 * FLOWS).flat_map(keys_of).collect();
        for contender in &mut contenders {
            let name = contender.name();
            assert_eq!(contender.look_up(&keys), Found::default(), "{name}");
            assert_eq!(contender.look_up_singly(&keys), Found::default(), "{name}");
            (0..filled).for_each(|flow| contender.insert(flow).unwrap());
            let found = contender.look_up(&keys);
            assert_eq!(found, Found { hits: 2 * u64::from(filled), sum: 2 * sum }, "{name}");
            assert_eq!(contender.look_up_singly(&keys), found, "{name}");
            // Batches that are not whole.
            assert_eq!(contender.look_up(&keys[..101]).hits, 101, "{name}");
            let (bytes, places) = (contender.bytes() / FLOWS as usize, contender.places());
            assert!((64..200).contains(&bytes), "{name}: {bytes} bytes a flow");
            assert!((8_192..=16_384).contains(&places), "{name}: {places} places");
        }
    }
}
