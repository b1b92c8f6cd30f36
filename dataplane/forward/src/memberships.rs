//! Groups of IPv6 that the links are told of ([`turnpike_packet::mld`]), so that switches which snoop let through the questions for this gateway's
//! addresses (RFC 4861 section 7.2.1: whoever has an address listens to its group).
//!
//! The control thread says which, worker 0 reports them: what is taken up at once and once more (RFC 3810 section 9.1), what a querier asks for
//! after a part of the time it allows. A membership that is no longer wanted ends at the switch when it is not reported any more. What finds no
//! room in the queue is reported with the next query.

use crate::address::{Address, Family};
use crate::limits::{ANNOUNCEMENTS_MAX, MEMBERSHIPS_AGAIN_MS, OLD_QUERIER_MS};
use crossbeam_queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use turnpike_packet::mld::{Query, Record};

/// An address whose group is to be reported, and how.
pub type Membership = (Address, Record);

/// A time of the workers' clock in the low half, if the bit above is set.
const SET: u64 = 1 << 32;

/// What is to be reported.
#[derive(Debug)]
pub struct Memberships {
    queue: ArrayQueue<Membership>,
    /// When a query that was heard is to be answered.
    due: AtomicU64,
    /// When the last one was.
    answered: AtomicU64,
    /// One is to be answered now, for which somebody has to say what there is.
    is_wanted: AtomicBool,
    /// When a querier of version 1 was heard last.
    old_heard: AtomicU64,
}

impl Memberships {
    /// With nothing to report.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queue: ArrayQueue::new(ANNOUNCEMENTS_MAX),
            due: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            old_heard: AtomicU64::new(0),
        }
    }

    /// Has the groups of these addresses reported; those of IPv4 have none.
    pub fn add(&self, addresses: impl Iterator<Item = Address>, record: Record) {
        for address in addresses.filter(|address| address.family() == Family::V6) {
            if self.queue.push((address, record)).is_err() {
                return;
            }
        }
    }

    /// The next to report.
    pub(crate) fn take(&self) -> Option<Membership> {
        self.queue.pop()
    }

    /// Hears a query. `random` chooses when it is answered; until then others change nothing.
    pub(crate) fn hear(&self, query: Query, random: u64, now_ms: u32) {
        if query.is_old {
            self.old_heard.store(SET | u64::from(now_ms), Relaxed);
        }
        let delay = random % u64::from(query.within_ms.max(1));
        // Whoever asks without end is answered now and then.
        let answered = self.answered.load(Relaxed);
        let since_ms = if answered == 0 { u32::MAX } else { now_ms.wrapping_sub(answered as u32) };
        let delay = (delay as u32).max(MEMBERSHIPS_AGAIN_MS.saturating_sub(since_ms));
        let due = SET | u64::from(now_ms.wrapping_add(delay));
        let _ = self.due.compare_exchange(0, due, Relaxed, Relaxed);
    }

    /// Has what there is said, once the time of a query has come.
    pub(crate) fn look(&self, now_ms: u32) {
        let due = self.due.load(Relaxed);
        if due != 0 && now_ms.wrapping_sub(due as u32) < 1 << 31 {
            self.due.store(0, Relaxed);
            self.answered.store(SET | u64::from(now_ms), Relaxed);
            self.is_wanted.store(true, Relaxed);
        }
    }

    /// Whether somebody is to say what there is; once for each time.
    pub fn take_wanted(&self) -> bool {
        self.is_wanted.load(Relaxed) && self.is_wanted.swap(false, Relaxed)
    }

    /// Whether queriers of version 1 are about (RFC 3810 section 8.2.1).
    pub(crate) fn is_old(&self, now_ms: u32) -> bool {
        let heard = self.old_heard.load(Relaxed);
        heard != 0 && now_ms.wrapping_sub(heard as u32) < OLD_QUERIER_MS
    }
}

impl Default for Memberships {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Query = Query { within_ms: 10_000, is_old: false };

    #[test]
    fn a_query_is_answered_within_its_time() {
        for random in [0, 9_999, 10_000, u64::MAX] {
            let all = Memberships::new();
            let now = u32::MAX - 3_000;
            all.hear(NEW, random, now);
            all.hear(NEW, 0, now.wrapping_add(1));
            let due = (random % 10_000) as u32;
            if due > 0 {
                all.look(now.wrapping_add(due - 1));
                assert!(!all.take_wanted(), "{random}");
            }
            all.look(now.wrapping_add(due));
            assert!(all.take_wanted() && !all.take_wanted());
            all.look(now.wrapping_add(20_000));
            assert!(!all.take_wanted(), "once");
        }
        let at_once = Memberships::new();
        at_once.hear(Query { within_ms: 0, is_old: false }, 77, 5);
        at_once.look(5);
        assert!(at_once.take_wanted());
        let mut answers = 0;
        for now in 5..5_005 {
            at_once.hear(Query { within_ms: 0, is_old: false }, 77, now);
            at_once.look(now);
            answers += u32::from(at_once.take_wanted());
        }
        assert_eq!(answers, 4, "one a second");
    }

    #[test]
    fn an_old_querier_is_remembered_for_a_while() {
        let all = Memberships::new();
        assert!(!all.is_old(0));
        all.hear(NEW, 0, 10);
        assert!(!all.is_old(10));
        all.hear(Query { is_old: true, ..NEW }, 0, 10);
        assert!(all.is_old(10) && all.is_old(9 + OLD_QUERIER_MS) && !all.is_old(10 + OLD_QUERIER_MS));
    }

    #[test]
    fn only_ipv6_has_groups_and_the_queue_is_bounded() {
        let all = Memberships::new();
        all.add([Address::v4(1), Address::v6(7)].into_iter(), Record::Joined);
        assert_eq!((all.take(), all.take()), (Some((Address::v6(7), Record::Joined)), None));
        all.add((0..100_000).map(|n| Address::v6(0x2001_0db8 << 96 | n)), Record::Current);
        assert_eq!(std::iter::from_fn(|| all.take()).count(), ANNOUNCEMENTS_MAX);
    }
}
