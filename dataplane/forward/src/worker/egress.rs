//! The way out of a worker: frames queued on ports, and given to NICs.

use super::{Port, Worker};
use crate::verdict::Tally;
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
}
