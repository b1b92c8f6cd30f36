//! [`Queue`]: one receive and one transmit queue of a port, for one worker. Its bursts are in `rx` and `tx`.

use crate::astray::Astray;
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;
use crate::offloads::Sending;
use crate::port::Opened;
use crate::{rx, tx};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use turnpike_packet::io::{Burst, PacketIo, PortInfo, Spread};

/// A queue pair. It keeps its port open.
#[derive(Debug)]
pub struct Queue {
    port: u16,
    queue: u16,
    /// How frames must be for the driver to send them.
    sending: Sending,
    unsendable: u64,
    pool: Mempool,
    wake: Option<OwnedFd>,
    /// Where the driver leaves its hashes with frames.
    astray: Option<Astray>,
    opened: Arc<Opened>,
}

impl Queue {
    /// The `queue`th of `opened`'s queue pairs; the only one of this number.
    pub(crate) fn new(opened: Arc<Opened>, queue: u16, pool: Mempool) -> Self {
        let (port, offloads) = (opened.port_id(), opened.offloads());
        let astray = match &opened.info().spread {
            Spread::Rss(rss) if offloads.rss_hash => Some(Astray::new(rss, queue)),
            _ => None,
        };
        Self { port, queue, sending: offloads.sending(), unsendable: 0, pool, wake: None, astray, opened }
    }

    pub(crate) fn wakes_by(&mut self, wake: OwnedFd) {
        self.wake = Some(wake);
    }

    /// What becomes readable when there is a frame to receive, where the driver has such a thing. It is given away once.
    #[must_use]
    pub fn take_wake(&mut self) -> Option<OwnedFd> {
        self.wake.take()
    }

    /// Frames that the driver cannot send as they are (several segments, another pool) and that fit no buffer, or for which there was none: taken by
    /// [`PacketIo::tx`] and dropped.
    #[must_use]
    pub fn unsendable(&self) -> u64 {
        self.unsendable
    }

    /// Its number within the port.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.queue
    }
}

impl PacketIo for Queue {
    type Frame = Mbuf;

    #[inline]
    fn info(&self) -> &PortInfo {
        self.opened.info()
    }

    #[inline]
    fn rx(&mut self, into: &mut Burst<Mbuf>) -> usize {
        let held = into.len();
        // SAFETY: `opened` keeps the port started; the queue number is within what was set up, and &mut self is the only Queue of it.
        let received = unsafe { rx::burst(self.port, self.queue, into) };
        if let Some(astray) = &mut self.astray {
            astray.look(&into[held..], self.opened.tally());
        }
        received
    }

    #[inline]
    fn tx(&mut self, from: &mut Burst<Mbuf>) -> usize {
        let mut dropped = 0;
        if self.sending != Sending::AsTheyAre {
            dropped = match self.sending {
                Sending::FastFree => tx::own(from, self.pool),
                _ => tx::linearize(from),
            };
            self.unsendable += dropped;
        }
        // SAFETY: as in rx; frames that the driver cannot send as they are went through `own` or `linearize`.
        unsafe { tx::burst(self.port, self.queue, from) + dropped as usize }
    }

    #[inline]
    fn alloc(&mut self, data: &[u8]) -> Option<Mbuf> {
        self.pool.alloc(data)
    }
}
