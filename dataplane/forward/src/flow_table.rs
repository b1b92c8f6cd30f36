//! The flow table of one worker: fixed memory, indices instead of pointers, bounded probes, no growth.
//!
//! A *bucket* is one cache line of eight 16-bit tags and eight 32-bit indices. An index names a *session*, also one cache line (two for IPv6),
//! that serves both directions; its top bit says for which direction the entry was made. So a lookup touches two cold lines, and both can be
//! asked for ahead of time across a burst. An entry that finds its home bucket full lies in one of the next
//! [`BUCKET_PROBES_MAX`] buckets, and each bucket it passed counts it, so that a lookup stops at the first bucket nobody passed.
//!
//! The memory is handed in by the owner, who decides about pages and sharing.
//!
//! Every flow begins in [`FlowTable::insert`] and ends in [`FlowTable::remove`], whatever ends it. So what is kept by flows is kept here: how
//! many each client has ([`crate::quota`]), and which ports rest after one ([`crate::quarantine`]).

mod index;

use crate::address::Address;
use crate::cpu;
use crate::flow_key::{FlowKey, FlowKey6, Key};
use crate::gateway::FlowRules;
use crate::hash::Secret;
use crate::limits::{BUCKET_PROBES_MAX, TCP_SILENT_MS};
use crate::one_way::OneWay;
use crate::port_pool::Standing;
use crate::quarantine::Quarantine;
use crate::quota::{Quota, Subscriber};
use crate::track::{LEAST_TRACKING, State};
use index::{Bucket, ENTRIES, NONE, REPLY};
pub use index::{Candidate, Index, Place};
use std::fmt;
use std::ops::{Deref, DerefMut};
use turnpike_packet::ipv4;
use turnpike_wire::update::Tracking;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What is known of one live flow beside its keys, for both directions: 32 bytes.
///
/// What the last 15 bytes mean depends on the protocol; UDP has no use for them.
///
/// | field | TCP ([`crate::connection`]) | SCTP ([`crate::association`]) |
/// |---|---|---|
/// | `expected` | sequence number that the receiver of each direction wants next, as it said last | verification tag that packets of each direction carry, 0 while not known |
/// | `windows` | how much it offered to take beyond that, as it stood in the header | |
/// | `scales` | low five bits: the scale of that window; the others belong to `detail` | |
/// | `detail` | with six bits of `scales`: numbers of the last segment that did not fit, to 64 MiB | direction of a cookie echoed and not acknowledged, as its number and one; 0 for none |
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Life {
    /// What each direction adds to the IPv4 header checksum (RFC 1624), the decrement of the TTL included.
    pub l3_delta: [u16; 2],
    /// What each direction adds to the TCP or UDP checksum. SCTP has another use for it ([`crate::association`]).
    pub l4_delta: [u16; 2],
    /// Next hop of each direction, an index of [`crate::neighbour::Neighbours`].
    pub next_hop: [u16; 2],
    /// When a packet was last seen, in milliseconds of the worker's clock, modulo 2³².
    pub last_seen: u32,
    /// What packets of each direction have to carry to be believed. The first is the next free slot, while free.
    pub expected: [u32; 2],
    /// How far from that they may be.
    pub windows: [u16; 2],
    /// In which unit.
    pub scales: [u8; 2],
    /// A [`State`] as a byte, and in the highest bit whether it is prefaced.
    pub state: u8,
    /// What else has to be known.
    pub detail: u8,
}

/// The bit of [`Life::state`] that keeps a flow off the fast path because its numbers change on the way.
const PREFACED: u8 = 0x80;

impl Life {
    /// The state as a value.
    #[must_use]
    pub const fn state(&self) -> State {
        State::from_byte(self.state & !PREFACED)
    }

    /// Gives it another state.
    pub const fn set_state(&mut self, state: State) {
        self.state = state as u8 | self.state & PREFACED;
    }

    /// Whether its backend gets a header in front of the client's bytes ([`crate::proxy_protocol`]).
    #[must_use]
    pub const fn is_prefaced(&self) -> bool {
        self.state & PREFACED != 0
    }

    /// Makes it one whose backend does.
    pub const fn preface(&mut self) {
        self.state |= PREFACED;
    }

    /// What is remembered of a flow whose answers take another way.
    #[must_use]
    pub const fn one_way(&self) -> OneWay {
        OneWay { state: self.state(), newest: self.expected[0], detail: self.detail }
    }

    /// Remembers it.
    pub const fn set_one_way(&mut self, seen: OneWay) {
        self.state = seen.state as u8;
        self.expected[0] = seen.newest;
        self.detail = seen.detail;
    }
}

/// A live flow of one family: two keys and a [`Life`], on whole cache lines.
pub trait Entry:
    FromBytes + IntoBytes + Immutable + KnownLayout + Copy + fmt::Debug + Deref<Target = Life> + DerefMut
{
    /// Its five-tuples.
    type Key: Key<Session = Self>;

    /// A flow before it has its place.
    #[must_use]
    fn new(forward: Self::Key, reply: Self::Key) -> Self;

    /// Keys of received packets: from the client, from the backend. A packet of one direction leaves as the other's key reversed. Where answers take
    /// another way, the second is from the backend to the source of outer packets, and of no packet.
    fn keys(&self) -> &[Self::Key; 2];
}

/// One live flow over IPv4: 64 bytes for both directions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Session {
    /// Keys of received packets; see [`Entry::keys`].
    pub keys: [FlowKey; 2],
    life: Life,
}

/// One live flow over IPv6: 128 bytes for both directions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Session6 {
    /// Keys of received packets; see [`Entry::keys`].
    pub keys: [FlowKey6; 2],
    life: Life,
    spare: [u64; 2],
}

impl Entry for Session {
    type Key = FlowKey;

    fn new(forward: FlowKey, reply: FlowKey) -> Self {
        let state = State::opening(forward.protocol()) as u8;
        Self { keys: [forward, reply], life: Life { state, ..Life::default() } }
    }

    #[inline(always)]
    fn keys(&self) -> &[FlowKey; 2] {
        &self.keys
    }
}

impl Entry for Session6 {
    type Key = FlowKey6;

    fn new(forward: FlowKey6, reply: FlowKey6) -> Self {
        let state = State::opening(forward.protocol()) as u8;
        Self { keys: [forward, reply], life: Life { state, ..Life::default() }, spare: [0; 2] }
    }

    #[inline(always)]
    fn keys(&self) -> &[FlowKey6; 2] {
        &self.keys
    }
}

impl Deref for Session {
    type Target = Life;

    #[inline(always)]
    fn deref(&self) -> &Life {
        &self.life
    }
}

impl DerefMut for Session {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Life {
        &mut self.life
    }
}

impl Deref for Session6 {
    type Target = Life;

    #[inline(always)]
    fn deref(&self) -> &Life {
        &self.life
    }
}

impl DerefMut for Session6 {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Life {
        &mut self.life
    }
}

/// A slot without a flow, and the next one.
fn free<S: Entry>(next: u32) -> S {
    let mut session = S::new(S::Key::default(), S::Key::default());
    session.state = State::Free as u8;
    session.expected[0] = next;
    session
}

const _: () = assert!(size_of::<Session>() == 64 && align_of::<Session>() == 64);
const _: () = assert!(size_of::<Session6>() == 128 && align_of::<Session6>() == 64);

/// The sessions of a table.
#[derive(Debug)]
pub struct Sessions<'a, K: Key>(&'a mut [K::Session]);

impl<K: Key> Sessions<'_, K> {
    /// Asks for the session of a candidate that is one.
    #[inline(always)]
    fn prefetch(&self, candidate: Candidate) {
        cpu::prefetch(self.0, candidate.slot());
    }

    /// Asks for the session of a candidate that is next but a few.
    #[inline(always)]
    pub fn approach(&self, candidate: Candidate) {
        // An address where nothing is would be looked for in the page tables each time.
        if candidate.slot() < self.0.len() {
            cpu::approach(self.0, candidate.slot());
        }
    }

    /// Stage three of a lookup: the session of a candidate, if the full key confirms it.
    #[inline(always)]
    pub fn confirm(&mut self, candidate: Candidate, key: &K) -> Option<&mut K::Session> {
        let session = self.0.get_mut(candidate.slot())?;
        (session.keys()[candidate.direction()] == *key).then_some(session)
    }
}

/// Why a table cannot be made from a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The memory has another size than [`FlowTable::memory_bytes`] says, or does not start at a cache line.
    #[error("flow table of {flows} flows needs {needed} bytes on a 64-byte boundary, got {got} bytes")]
    Memory {
        /// Flows asked for.
        flows: u32,
        /// Bytes it takes.
        needed: usize,
        /// Bytes given.
        got: usize,
    },
    /// More flows than an index can name, or none.
    #[error("a flow table holds 1 to 2147483647 flows, not {0}")]
    Flows(u32),
}

/// There is no room for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The flow table of one worker for one family.
#[derive(Debug)]
pub struct FlowTable<'m, K: Key = FlowKey> {
    buckets: &'m mut [Bucket],
    sessions: &'m mut [K::Session],
    secret: Secret,
    free: u32,
    live: u32,
    cursor: u32,
    quota: Quota,
    quarantine: Quarantine,
}

impl<'m, K: Key> FlowTable<'m, K> {
    /// A table that holds nothing and must not be asked for a place ([`Index::place`]).
    #[must_use]
    pub fn none(secret: Secret) -> Self {
        Self::made(&mut [], &mut [], secret, NONE)
    }

    /// Bytes a table of `flows` flows takes: 64 a flow (128 for IPv6), and 32 a flow for the index at half load.
    #[must_use]
    pub const fn memory_bytes(flows: u32) -> usize {
        flows as usize * size_of::<K::Session>() + Self::bucket_count(flows) * size_of::<Bucket>()
    }

    const fn bucket_count(flows: u32) -> usize {
        let entries_at_half_load = flows as usize * 2 * 2;
        let buckets = entries_at_half_load.div_ceil(ENTRIES);
        if buckets < BUCKET_PROBES_MAX { BUCKET_PROBES_MAX } else { buckets }
    }

    /// An empty table in `memory`, which must be [`FlowTable::memory_bytes`] long and lie on a cache line.
    pub fn new(memory: &'m mut [u8], flows: u32, secret: Secret) -> Result<Self, TableError> {
        if flows == 0 || flows >= REPLY {
            return Err(TableError::Flows(flows));
        }
        let got = memory.len();
        let refused = TableError::Memory { flows, needed: Self::memory_bytes(flows), got };
        if got != Self::memory_bytes(flows) {
            return Err(refused);
        }
        let (index, slots) = memory.split_at_mut(Self::bucket_count(flows) * size_of::<Bucket>());
        let buckets = <[Bucket]>::mut_from_bytes(index).map_err(|_| refused)?;
        let sessions = <[K::Session]>::mut_from_bytes(slots).map_err(|_| refused)?;
        buckets.fill(Bucket::EMPTY);
        let last = flows - 1;
        for (slot, session) in (0u32..).zip(sessions.iter_mut()) {
            *session = free(if slot == last { NONE } else { slot + 1 });
        }
        Ok(Self::made(buckets, sessions, secret, 0))
    }

    fn made(buckets: &'m mut [Bucket], sessions: &'m mut [K::Session], secret: Secret, free: u32) -> Self {
        let (quota, quarantine) = (Quota::unlimited(), Quarantine::none());
        Self { buckets, sessions, secret, free, live: 0, cursor: 0, quota, quarantine }
    }

    /// The same table, still empty, under these rules; before, there is no quota and no port rests.
    #[must_use]
    pub fn under(mut self, rules: &FlowRules) -> Self {
        let ports = if self.sessions.is_empty() { 0 } else { rules.resting_ports_max };
        self.quarantine = Quarantine::new(rules.rest_ms, ports);
        self.quota = Quota::new(rules.client_flows_max, self.capacity(), self.secret);
        self
    }

    /// What it counts of the clients.
    #[must_use]
    pub const fn quota(&self) -> &Quota {
        &self.quota
    }

    /// The ports that rest.
    #[must_use]
    pub const fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Whether a client may have another flow.
    #[must_use]
    pub fn admits(&self, client: Address) -> bool {
        self.quota.admits(Subscriber::of(client))
    }

    /// Asks for what is kept of a client, and for where a flow with this reply key would be and rest.
    pub fn prefetch_for(&self, client: Address, reply: Option<K>) {
        self.quota.prefetch(Subscriber::of(client));
        if let Some(reply) = reply {
            let _ = self.index().place(reply);
            self.quarantine.prefetch(self.secret.hash(reply));
        }
    }

    /// Whether a new flow of a client may have this reply key.
    #[must_use]
    pub fn standing(&self, reply: K, client: Address, now_ms: u32) -> Standing {
        let tuple = self.secret.hash(reply);
        self.quarantine.prefetch(tuple);
        if self.find(reply).is_some() {
            return Standing::Taken;
        }
        let rested_ms = self.quarantine.rested_ms(tuple, self.client_hash(client), now_ms);
        rested_ms.map_or(Standing::Free, Standing::Resting)
    }

    const fn client_hash(&self, client: Address) -> u64 {
        self.secret.words(client.bits() as u64, (client.bits() >> 64) as u64)
    }

    /// Flows that are live.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// Flows it can hold.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.sessions.len() as u32
    }

    /// Whether it takes no more flows.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// The session in a slot.
    #[inline(always)]
    #[must_use]
    pub const fn session(&self, slot: usize) -> &K::Session {
        &self.sessions[slot]
    }

    /// The session in a slot, for the worker to change all but its keys.
    #[inline(always)]
    pub const fn session_mut(&mut self, slot: usize) -> &mut K::Session {
        &mut self.sessions[slot]
    }

    /// What finds entries, to hold in hand for a burst.
    #[inline(always)]
    #[must_use]
    pub const fn index(&self) -> Index<'_> {
        Index { buckets: self.buckets, secret: self.secret }
    }

    /// The same, and the sessions that they name.
    #[inline(always)]
    #[must_use]
    pub const fn split(&mut self) -> (Index<'_>, Sessions<'_, K>) {
        (Index { buckets: self.buckets, secret: self.secret }, Sessions(self.sessions))
    }

    /// Whether a candidate is the entry of this key.
    #[inline]
    #[must_use]
    pub fn is_of(&self, candidate: Candidate, key: K) -> bool {
        self.sessions.get(candidate.slot()).is_some_and(|s| s.keys()[candidate.direction()] == key)
    }

    /// The whole lookup at once, for what the stages left over.
    #[must_use]
    pub fn find(&self, key: K) -> Option<Candidate> {
        let place = self.index().locate(key);
        for bucket in place.walk(self.buckets.len()) {
            let bucket = &self.buckets[bucket];
            if let Some(found) = bucket.all(place).find(|&candidate| self.is_of(candidate, key)) {
                return Some(found);
            }
            if bucket.passed == 0 {
                return None;
            }
        }
        None
    }

    /// Adds a flow under both its keys, which must not be in the table, and returns its slot. One whose answers take another way has only its
    /// first key there.
    pub fn insert(&mut self, session: K::Session) -> Result<usize, Full> {
        let slot = self.free;
        if slot == NONE {
            return Err(Full);
        }
        self.link(session.keys()[0], slot)?;
        if !session.state().is_one_way() && self.link(session.keys()[1], slot | REPLY).is_err() {
            self.unlink(session.keys()[0], slot);
            return Err(Full);
        }
        let place = &mut self.sessions[slot as usize];
        self.free = place.expected[0];
        *place = session;
        if self.free != NONE {
            // The next flow's, by then.
            cpu::prefetch(self.sessions, self.free as usize);
        }
        self.live += 1;
        self.quota.opened(Subscriber::of(session.keys()[0].source_address()));
        Ok(slot as usize)
    }

    /// Removes the flow in a slot at `now_ms`; a free slot stays as it is.
    pub fn remove(&mut self, slot: usize, now_ms: u32) {
        let session = self.sessions[slot];
        let [forward, reply] = *session.keys();
        if session.state() == State::Free {
            return;
        }
        let client = forward.source_address();
        let was_silent = now_ms.wrapping_sub(session.last_seen) >= TCP_SILENT_MS;
        let is_one_way = session.state().is_one_way();
        // A flow of one way has no port to rest.
        let is_safe = is_one_way
            || forward.protocol() == ipv4::TCP && was_silent
            || reply.destination_address() == client;
        let tuple = self.secret.hash(reply);
        if !is_safe {
            self.quarantine.prefetch(tuple);
        }
        self.quota.prefetch(Subscriber::of(client));
        self.unlink(forward, slot as u32);
        if !is_one_way {
            self.unlink(reply, slot as u32 | REPLY);
        }
        self.quota.closed(Subscriber::of(client));
        if !is_safe {
            self.quarantine.rest(tuple, self.client_hash(client), now_ms);
        }
        self.sessions[slot] = free(self.free);
        self.free = slot as u32;
        self.live -= 1;
    }

    /// Looks at the next `budget` slots and removes the flows that were idle for too long at `now_ms`. Returns how many. `tracking` tells
    /// how the Service that a client's key is for is followed; it is asked only about flows that were idle for the least time there is.
    pub fn sweep(&mut self, now_ms: u32, budget: usize, tracking: impl Fn(K) -> Tracking) -> u32 {
        let mut removed = 0;
        for _ in 0..budget.min(self.sessions.len()) {
            let slot = self.cursor as usize;
            self.cursor = if slot + 1 == self.sessions.len() { 0 } else { self.cursor + 1 };
            let session = &self.sessions[slot];
            let [client, _] = *session.keys();
            let (state, protocol) = (session.state(), client.protocol());
            let idle_ms = now_ms.wrapping_sub(session.last_seen);
            // A clock read before the flow's last packet shows as an age beyond any timeout; such a flow is young.
            let may_end = state != State::Free
                && idle_ms > state.timeout_ms(protocol, &LEAST_TRACKING)
                && idle_ms < u32::MAX / 2;
            if may_end && idle_ms > state.timeout_ms(protocol, &tracking(client)) {
                self.remove(slot, now_ms);
                removed += 1;
            }
        }
        removed
    }

    /// Every live flow, with its slot.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &K::Session)> {
        self.sessions.iter().enumerate().filter(|(_, s)| s.state() != State::Free)
    }

    fn link(&mut self, key: K, index: u32) -> Result<(), Full> {
        let place = self.index().locate(key);
        let buckets = self.buckets.len();
        for (passed, bucket) in place.walk(buckets).enumerate() {
            if self.buckets[bucket].put(place, index) {
                place.walk(buckets).take(passed).for_each(|bucket| self.buckets[bucket].passed += 1);
                return Ok(());
            }
        }
        Err(Full)
    }

    fn unlink(&mut self, key: K, index: u32) {
        let place = self.index().locate(key);
        let buckets = self.buckets.len();
        for (passed, bucket) in place.walk(buckets).enumerate() {
            if self.buckets[bucket].take(place, index) {
                for bucket in place.walk(buckets).take(passed) {
                    let passed = &mut self.buckets[bucket].passed;
                    *passed = passed.saturating_sub(1);
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
