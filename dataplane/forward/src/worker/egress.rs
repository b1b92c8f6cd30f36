//! The way out of a worker: frames queued on ports, and given to NICs.

use super::{Held, Port, Worker};
use crate::limits::HELD_FRAMES_MAX;
use crate::verdict::{Tally, Verdict};
use turnpike_packet::io::{Frame, PacketIo};

impl<F: Frame> Worker<'_, F> {
    /// Queues a frame on a port; `false` when its transmit queue stays full.
    #[inline]
    pub(super) fn queue<I: PacketIo<Frame = F>>(&mut self, port: usize, mut frame: F, ios: &mut [I]) -> bool {
        if self.ports[port].tx.is_full()
            && let Some(io) = ios.get_mut(self.ports[port].device)
        {
            self.flush(port, io);
        }
        let out = &mut self.ports[port];
        let is_tagged = out.tag(&mut frame);
        let bytes = frame.frame_len() as u64;
        let queued = is_tagged && out.tx.try_push(frame).is_ok();
        out.tx_bytes += if queued { bytes } else { 0 };
        queued
    }

    /// Sends what is queued on a port; what the NIC does not take stays for the next time.
    #[inline]
    pub(super) fn flush<I: PacketIo<Frame = F>>(&mut self, port: usize, io: &mut I) {
        let Port { tx, tx_bytes, traffic, .. } = &mut self.ports[port];
        if !tx.is_empty() {
            let (sent, bytes) = (io.tx(tx) as u64, std::mem::take(tx_bytes));
            traffic.tx_frames += sent;
            traffic.tx_bytes += bytes;
            self.counters.add(Tally::TxPackets, sent);
            self.counters.add(Tally::TxBytes, bytes);
        }
    }

    /// Sends a finished frame, or holds it until its next hop is known.
    pub(super) fn send_or_hold<I: PacketIo<Frame = F>>(&mut self, frame: F, next_hop: u16, ios: &mut [I]) {
        let link = self.shared.neighbours.link(next_hop);
        if link.is_resolved() {
            return self.send(link.port(), frame, ios);
        }
        self.shared.neighbours.want(next_hop);
        if self.shared.neighbours.may_ask(next_hop, self.now_ms) {
            self.ask(next_hop, ios);
        }
        if self.held.len() >= HELD_FRAMES_MAX {
            return self.counters.count(Verdict::NextHopUnresolved);
        }
        self.held.push_back(Held { frame, next_hop, since_ms: self.now_ms });
    }

    /// Puts a finished frame on the way out.
    #[inline]
    pub(super) fn send<I: PacketIo<Frame = F>>(&mut self, port: usize, frame: F, ios: &mut [I]) {
        let verdict = if self.queue(port, frame, ios) { Verdict::Forwarded } else { Verdict::TxFull };
        self.counters.count(verdict);
    }
}
