//! Taking over the flows that another process left in memory, wherever that was stopped.
//!
//! Nothing is believed: what a session says must be what this build would have written. One that was being written when its worker ended
//! is not so, and is left out. What follows from the sessions is made anew: the index, the list of free slots, and with
//! [`FlowTable::under`] the counts of clients.

use super::index::{Bucket, NONE, REPLY};
use super::{Entry, FlowTable, PREFACED, TableError, free};
use crate::flow_key::Key;
use crate::hash::Secret;
use crate::rewrite::{Deltas, Sums};
use crate::track::State;
use turnpike_packet::ipv4;

/// What became of what was in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Flows that live on.
    pub kept: u32,
    /// Slots that held something which is no whole flow.
    pub torn: u32,
    /// Flows to or from where no way leads any more.
    pub astray: u32,
}

impl std::ops::Add for Adoption {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            kept: self.kept + other.kept,
            torn: self.torn + other.torn,
            astray: self.astray + other.astray,
        }
    }
}

impl<'m, K: Sums> FlowTable<'m, K> {
    /// What a session's bytes mean to this build. Another number is another meaning: whoever changes a field of a session, or how keys and hashes are made,
    /// changes this too.
    pub const MEANING: u64 = 1;

    /// The table that another process left in `memory`, which made it with [`FlowTable::new`] for as many flows under the same secret. `way` names next
    /// hops anew, given the keys and the old ones.
    pub fn adopt(
        memory: &'m mut [u8],
        flows: u32,
        secret: Secret,
        now_ms: u32,
        mut way: impl FnMut(&[K; 2], [u16; 2]) -> Option<[u16; 2]>,
    ) -> Result<(Self, Adoption), TableError> {
        let (buckets, sessions) = Self::parts(memory, flows)?;
        buckets.fill(Bucket::EMPTY);
        let mut table = Self::made(buckets, sessions, secret, NONE);
        let mut adoption = Adoption::default();
        // From the end, so that the list of free slots is in ascending order.
        for slot in (0..flows).rev() {
            let session = &table.sessions[slot as usize];
            let is_sound = is_sound::<K>(session);
            let was_free = session.state() == State::Free;
            let keys = *session.keys();
            let next_hop = if is_sound { way(&keys, session.next_hop) } else { None };
            let is_linked = next_hop.is_some() && table.link_both(&keys, slot);
            if let Some(next_hop) = next_hop.filter(|_| is_linked) {
                let session = &mut table.sessions[slot as usize];
                session.next_hop = next_hop;
                if now_ms.wrapping_sub(session.last_seen) >= u32::MAX / 2 {
                    session.last_seen = now_ms;
                }
                adoption.kept += 1;
                table.live += 1;
            } else {
                adoption.torn += u32::from(!was_free && (!is_sound || next_hop.is_some()));
                adoption.astray += u32::from(is_sound && next_hop.is_none());
                table.sessions[slot as usize] = free(table.free);
                table.free = slot;
            }
        }
        Ok((table, adoption))
    }

    /// Enters a session under its keys, unless another has one of them.
    fn link_both(&mut self, keys: &[K; 2], slot: u32) -> bool {
        let [forward, reply] = *keys;
        let is_one_way = self.sessions[slot as usize].state().is_one_way();
        if self.find(forward).is_some()
            || !is_one_way && (forward == reply || self.find(reply).is_some())
            || self.link(forward, slot).is_err()
        {
            return false;
        }
        let is_whole = is_one_way || self.link(reply, slot | REPLY).is_ok();
        if !is_whole {
            self.unlink(forward, slot);
        }
        is_whole
    }
}

/// Whether a session is one that this build could have written.
fn is_sound<K: Sums>(session: &K::Session) -> bool {
    let [forward, reply] = *session.keys();
    let (state, protocol) = (session.state(), forward.protocol());
    let is_prefaced = session.state & PREFACED != 0;
    let is_of_its_protocol = match protocol {
        ipv4::TCP => !state.is_udp(),
        ipv4::UDP => state.is_udp() && !is_prefaced,
        ipv4::SCTP => !state.is_udp() && !is_prefaced,
        _ => false,
    };
    let are_keys = is_key(forward) && is_key(reply) && reply.protocol() == protocol;
    if state == State::Free || !is_of_its_protocol || !are_keys {
        return false;
    }
    if is_prefaced || state.is_one_way() {
        return !(is_prefaced && state.is_one_way());
    }
    let deltas = Deltas::both_ways(forward, reply);
    session.l3_delta == deltas.map(|delta| delta.l3)
        && (protocol == ipv4::SCTP || session.l4_delta == deltas.map(|delta| delta.l4))
}

/// Whether it is the key of packets between two hosts.
fn is_key<K: Key>(key: K) -> bool {
    let (source, destination) = (key.source_address(), key.destination_address());
    let again = K::of(key.protocol(), source, destination, key.source_port(), key.destination_port());
    again == Some(key) && !source.is_no_host() && !destination.is_no_host()
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;
