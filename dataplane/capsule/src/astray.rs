//! Whether a NIC spreads frames as it says: the hash that it leaves with a frame must lead, through its own indirection table, to the queue the frame came to.
//! Drivers have been found that keep a table and spread by another; replies would then come to workers that do not know their flows.

use crate::mbuf::Mbuf;
use std::sync::atomic::{AtomicU64, Ordering};
use turnpike_packet::io::{Frame, Rss};

/// Bursts with frames between two looks. A look reads one line that is in the cache already.
const BURSTS_PER_LOOK: u32 = 64;

/// What was found, by all queues of a port.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    checked: AtomicU64,
    astray: AtomicU64,
}

/// Frames whose hash was held against the queue they came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashCheck {
    /// So many.
    pub checked: u64,
    /// Those of them that belong to another queue.
    pub astray: u64,
}

impl Tally {
    pub(crate) fn read(&self) -> HashCheck {
        HashCheck {
            checked: self.checked.load(Ordering::Relaxed),
            astray: self.astray.load(Ordering::Relaxed),
        }
    }
}

/// The check of one queue.
#[derive(Debug)]
pub(crate) struct Astray {
    reta: Vec<u16>,
    queue: u16,
    bursts: u32,
}

impl Astray {
    pub(crate) fn new(rss: &Rss, queue: u16) -> Self {
        Self { reta: rss.reta.clone(), queue, bursts: 0 }
    }

    /// Looks at the first of some received frames, now and then.
    #[inline]
    pub(crate) fn look(&mut self, received: &[Mbuf], tally: &Tally) {
        let Some(frame) = received.first() else { return };
        match self.bursts.checked_sub(1) {
            Some(left) => self.bursts = left,
            None => {
                self.bursts = BURSTS_PER_LOOK - 1;
                self.count(frame.rss_hash(), tally);
            }
        }
    }

    /// A frame without a hash (ARP, another protocol) was spread by none.
    #[cold]
    fn count(&self, hash: Option<u32>, tally: &Tally) {
        let Some(hash) = hash else { return };
        tally.checked.fetch_add(1, Ordering::Relaxed);
        let belongs_to = self.reta.get(hash as usize % self.reta.len().max(1));
        if belongs_to.is_some_and(|queue| *queue != self.queue) {
            tally.astray.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_must_lead_to_the_queue_its_frame_came_to() {
        let rss = Rss { key: vec![1; 40], reta: vec![0, 1, 0, 1], ipv6: true };
        let tally = Tally::default();
        let mut wanted = HashCheck::default();
        for (queue, hash, checked, astray) in [
            (0, Some(0), 1, 0),
            (0, Some(2), 1, 0),
            (0, Some(u32::MAX), 1, 1),
            (1, Some(u32::MAX), 1, 0),
            (1, Some(4), 1, 1),
            (1, None, 0, 0),
        ] {
            Astray::new(&rss, queue).count(hash, &tally);
            wanted = HashCheck { checked: wanted.checked + checked, astray: wanted.astray + astray };
            assert_eq!(tally.read(), wanted, "hash {hash:?} at queue {queue}");
        }
        let empty = Rss { key: vec![], reta: vec![], ipv6: false };
        Astray::new(&empty, 0).count(Some(7), &tally);
        assert_eq!(tally.read().astray, wanted.astray, "without a table nothing is astray");
    }
}
