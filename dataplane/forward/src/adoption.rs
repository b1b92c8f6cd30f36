//! What flows that another process made need here: their next hops, which were numbered by that process.
//!
//! Flows name clients, backends and addresses by what they are and not by numbers of tables, so nothing else of theirs has to be found again; whose Service
//! they are of is looked up when it is asked.

use crate::address::Address;
use crate::flow_key::Key;
use crate::limits::ARP_REFRESH_MS;
use crate::mailbox::Shared;
use crate::neighbour::NextHop;

/// The next hops of the process before, by the numbers it gave them.
#[derive(Clone, Debug, Default)]
pub struct Hops(Vec<Option<NextHop>>);

impl Hops {
    /// Remembers one.
    pub fn add(&mut self, index: u16, hop: NextHop) {
        let at = usize::from(index);
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        self.0[at] = Some(hop);
    }

    fn get(&self, index: u16) -> Option<NextHop> {
        *self.0.get(usize::from(index))?
    }
}

impl Shared {
    /// Takes a next hop over whose Ethernet address was known. Frames may be sent there at once, and it is asked at once whether it still is there.
    pub fn remember(&self, hop: NextHop, mac: [u8; 6], now_ms: u32) {
        if usize::from(hop.port) < self.gateway.ports().len() && self.neighbours.index(hop).is_some() {
            self.neighbours.learn(hop, mac, now_ms.wrapping_sub(ARP_REFRESH_MS));
        }
    }

    /// Where packets of a flow go from here, by its keys; by what `before` called them where only a router that is not heard yet leads there. None if
    /// no way leads to one of its ends.
    #[must_use]
    pub fn ways<K: Key>(&self, keys: &[K; 2], old: [u16; 2], before: &Hops) -> Option<[u16; 2]> {
        let [client, backend] = keys.each_ref().map(|key| key.source_address());
        let index = |to: Address, old| {
            let known = || before.get(old).filter(|hop| usize::from(hop.port) < self.gateway.ports().len());
            let index = self.neighbours.index(self.route(to).or_else(known)?)?;
            self.neighbours.want(index);
            Some(index)
        };
        Some([index(backend, old[0])?, index(client, old[1])?])
    }
}
