//! [`Queue`]: one receive and one transmit queue of a port, for one worker. Its bursts are in `rx` and `tx`.

use crate::mbuf::Mbuf;
use crate::mempool::Mempool;
use crate::port::Opened;
use crate::{rx, tx};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use turnpike_packet::io::{Burst, PacketIo, PortInfo};

/// A queue pair. It keeps its port open.
#[derive(Debug)]
pub struct Queue {
    port: u16,
    queue: u16,
    /// The driver sends frames of one segment only.
    linearize: bool,
    unsendable: u64,
    pool: Mempool,
    wake: Option<OwnedFd>,
    opened: Arc<Opened>,
}

impl Queue {
    /// The `queue`th of `opened`'s queue pairs; the only one of this number.
    pub(crate) fn new(opened: Arc<Opened>, queue: u16, pool: Mempool, linearize: bool) -> Self {
        Self { port: opened.port_id(), queue, linearize, unsendable: 0, pool, wake: None, opened }
    }

    pub(crate) fn wakes_by(&mut self, wake: OwnedFd) {
        self.wake = Some(wake);
    }

    /// What becomes readable when there is a frame to receive, where the driver has such a thing. It is given away once.
    #[must_use]
    pub fn take_wake(&mut self) -> Option<OwnedFd> {
        self.wake.take()
    }

    /// Frames of more segments than the driver can send, and too long for one buffer: taken by [`PacketIo::tx`] and dropped.
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
        // SAFETY: `opened` keeps the port started; the queue number is within what was set up, and &mut self is the only Queue of it.
        unsafe { rx::burst(self.port, self.queue, into) }
    }

    #[inline]
    fn tx(&mut self, from: &mut Burst<Mbuf>) -> usize {
        let mut dropped = 0;
        if self.linearize {
            dropped = tx::linearize(from);
            self.unsendable += dropped;
        }
        // SAFETY: as in rx; frames of many segments went through `linearize` if the driver cannot send them.
        unsafe { tx::burst(self.port, self.queue, from) + dropped as usize }
    }

    #[inline]
    fn alloc(&mut self, data: &[u8]) -> Option<Mbuf> {
        self.pool.alloc(data)
    }
}
