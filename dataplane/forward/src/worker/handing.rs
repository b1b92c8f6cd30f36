//! Frames that go from one worker to another.

use super::{Origin, Worker};
use crate::fragments::Onward;
use crate::verdict::Verdict;
use turnpike_packet::io::{BURST, Burst, Frame, PacketIo};

impl<F: Frame> Worker<'_, F> {
    pub(super) fn hand_over(&mut self, owner: usize, port: usize, frame: F, onward: Option<Onward>) {
        let verdict = match self.handoff.send(owner, port as u8, frame, onward) {
            Ok(()) => {
                self.handed_to |= 1 << owner;
                Verdict::HandedOff
            }
            Err(_) => Verdict::HandoffFull,
        };
        self.counters.count(verdict);
    }

    /// Handles up to a burst of frames that other workers handed over.
    pub(super) fn take_handed_over<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I]) -> usize {
        let mut taken = 0;
        let mut burst: Burst<F> = Burst::new();
        let mut port = 0;
        while taken < BURST
            && let Some((handed, onward)) = self.handoff.receive()
        {
            taken += 1;
            let from = usize::from(handed.port).min(self.ports.len() - 1);
            if let Some(onward) = onward {
                self.fragment_of_flow(from, handed.frame, onward, ios);
                continue;
            }
            if from != port && !burst.is_empty() {
                self.burst(port, &mut burst, ios, Origin::Worker);
            }
            port = from;
            burst.push(handed.frame);
        }
        if !burst.is_empty() {
            self.burst(port, &mut burst, ios, Origin::Worker);
        }
        taken
    }
}
