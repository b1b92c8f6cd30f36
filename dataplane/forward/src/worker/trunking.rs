//! Frames with VLAN tags: sorted by port as they come in, tagged again as they leave. Workers see none in between.

use super::steady::Seen;
use super::{Origin, Port, Worker};
use crate::parse::parse;
use crate::trunk::Line;
use crate::verdict::{Tally, Verdict};
use turnpike_packet::io::{Burst, Frame, PacketIo};
use turnpike_packet::vlan::{self, Tagged};

/// What has crossed a port that is told from others by VLAN. Bytes are those of whole frames, with their tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames handed to the transmit queue.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

impl<F: Frame> Worker<'_, F> {
    /// What has crossed a port, if it shares its device or wants tags.
    #[must_use]
    pub fn traffic(&self, port: usize) -> Option<Traffic> {
        self.ports.get(port).filter(|port| port.is_trunked).map(|port| port.traffic)
    }

    /// Walks each frame of a burst from a device with VLANs as one of the port that it is of.
    #[inline(never)]
    pub(super) fn sort<I: PacketIo<Frame = F>>(
        &mut self,
        device: usize,
        burst: &mut Burst<F>,
        ios: &mut [I],
    ) {
        let Self { lines, ports, counters, .. } = self;
        let Some(Line::Trunk(trunk)) = lines.get(device) else { return };
        for mut frame in burst.drain(..) {
            let bytes = frame.frame_len() as u64;
            let Some(port) = trunk.sort(&mut frame).and_then(|port| ports.get_mut(port)) else {
                counters.add(Tally::RxPackets, 1);
                counters.add(Tally::RxBytes, bytes);
                counters.count(Verdict::OtherVlan);
                continue;
            };
            // The walk counts what it sees, which is without the tag.
            counters.add(Tally::RxBytes, bytes - frame.frame_len() as u64);
            port.traffic.rx_frames += 1;
            port.traffic.rx_bytes += bytes;
            // Empty before this burst, so there is room.
            port.arrived.push(frame);
        }
        for port in trunk.ports().into_iter().map(usize::from) {
            let mut arrived = std::mem::take(&mut self.ports[port].arrived);
            if !arrived.is_empty() {
                self.burst(port, &mut arrived, ios, Origin::Nic);
            }
        }
    }

    /// A frame with a tag on a device without VLANs. One that only states a priority is read as if it had none (IEEE 802.1Q section 6.9).
    #[cold]
    pub(super) fn tagged<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        mut frame: F,
        ios: &mut [I],
        origin: Origin,
    ) {
        if vlan::read(frame.data()) == Tagged::Once(0) && vlan::take_off(&mut frame) {
            let (key, packet) = parse(frame.data(), frame.frame_len(), self.ports[port].mac_bits);
            return self.slow(port, frame, Seen::new(key, packet), ios, origin);
        }
        self.except(port, frame, Verdict::OtherVlan);
    }
}

impl<F: Frame> Port<F> {
    /// Makes a frame one of the port's VLAN, if it has one; `false` when it has no room for the tag.
    #[inline]
    pub(super) fn tag(&self, frame: &mut F) -> bool {
        self.vlan.is_none_or(|number| vlan::put_on(frame, number))
    }
}
