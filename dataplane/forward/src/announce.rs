//! Addresses that this gateway takes up, told to its links: neighbours that knew them at another Ethernet address learn the new one at once.
//!
//! The control thread says which, worker 0 sends, a few a turn, each twice (RFC 5227 section 2.3). What finds no room in the queue is not
//! announced: whoever asks for it is answered all the same.

use crate::address::Address;
use crate::limits::{ANNOUNCE_AGAIN_MS, ANNOUNCEMENTS_MAX};
use crossbeam_queue::ArrayQueue;
use std::collections::VecDeque;

/// What is to be announced.
#[derive(Debug)]
pub struct Announcements(Option<ArrayQueue<Address>>);

impl Announcements {
    /// None are ever made if they are not wanted.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Self(wanted.then(|| ArrayQueue::new(ANNOUNCEMENTS_MAX)))
    }

    /// Whether they are wanted.
    #[must_use]
    pub const fn are_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Has these addresses announced.
    pub fn add(&self, addresses: impl Iterator<Item = Address>) {
        let Some(queue) = &self.0 else { return };
        for address in addresses {
            if queue.push(address).is_err() {
                return;
            }
        }
    }

    /// The next address to announce for the first time.
    pub(crate) fn take(&self) -> Option<Address> {
        self.0.as_ref()?.pop()
    }
}

/// Addresses that were announced once, in the order of their times.
#[derive(Debug, Default)]
pub(crate) struct Repeats(VecDeque<(Address, u32)>);

impl Repeats {
    /// With room for all that may wait, so that no memory is asked for later.
    pub(crate) fn new(wanted: bool) -> Self {
        Self(VecDeque::with_capacity(if wanted { ANNOUNCEMENTS_MAX } else { 0 }))
    }

    /// Remembers an address that was announced now; one that finds no room is not repeated.
    pub(crate) fn add(&mut self, address: Address, now_ms: u32) {
        if self.0.len() < self.0.capacity().min(ANNOUNCEMENTS_MAX) {
            self.0.push_back((address, now_ms));
        }
    }

    /// The next address that is due again.
    pub(crate) fn take(&mut self, now_ms: u32) -> Option<Address> {
        let (address, since_ms) = *self.0.front()?;
        if now_ms.wrapping_sub(since_ms) < ANNOUNCE_AGAIN_MS {
            return None;
        }
        self.0.pop_front();
        Some(address)
    }
}
