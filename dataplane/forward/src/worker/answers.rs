//! What a worker answers itself: refusals, echo requests, and questions for Ethernet addresses.

use super::Worker;
use crate::local::{self, Outcome};
use crate::parse::Packet;
use crate::path::Path;
use crate::select::is_bad_source;
use crate::verdict::{Tally, Verdict};
use turnpike_packet::icmpv4::Complaint;
use turnpike_packet::io::{Frame, PacketIo};
use turnpike_packet::mld::Query;
use turnpike_packet::tcp::flags;
use turnpike_packet::{sctp, tcp};

/// How many answers may still be made this second.
pub(super) struct Allowance {
    left: u32,
    since_ms: u32,
    per_second: u32,
}

impl Allowance {
    pub(super) const fn new(per_second: u32) -> Self {
        Self { left: per_second, since_ms: 0, per_second }
    }

    /// Takes one, if there is one left.
    pub(super) const fn take(&mut self, now_ms: u32) -> bool {
        if now_ms.wrapping_sub(self.since_ms) >= 1_000 {
            self.since_ms = now_ms;
            self.left = self.per_second;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

impl<F: Frame> Worker<'_, F> {
    /// The verdict on a packet that made no flow, and the answer it gets within the limit on answers.
    pub(super) fn refuse<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        verdict: Verdict,
        port: usize,
        frame: &F,
        key: K,
        packet: Packet,
        ios: &mut [I],
    ) {
        let may_answer = |this: &mut Self| this.answers.take(this.now_ms);
        match verdict {
            Verdict::Rejected if !may_answer(self) => self.counters.count(Verdict::RejectLimited),
            Verdict::Rejected => {
                self.counters.count(verdict);
                let source = key.destination_address();
                self.tell::<K, I>(port, frame, source, Complaint::PortUnreachable, ios);
            }
            // RFC 5508 REQ-8: whoever finds no room is told so, from an allowance that no other answer needs.
            Verdict::SnatExhausted | Verdict::FlowTableFull | Verdict::ClientQuota => {
                self.counters.count(verdict);
                if K::may_be_told(frame.data()) && self.shortages.take(self.now_ms) {
                    self.tell::<K, I>(port, frame, key.destination_address(), Complaint::Prohibited, ios);
                }
            }
            Verdict::SctpNoFlow => {
                self.counters.count(verdict);
                if let Some((chunk, _)) = packet.chunk()
                    && let Some(answer) = sctp::answer(frame.data(), packet.l4(), chunk)
                    && may_answer(self)
                    && self.answer(port, &answer, ios)
                {
                    self.counters.add(Tally::ResetsSent, 1);
                }
            }
            Verdict::TcpNoFlow => {
                self.counters.count(verdict);
                if packet.tcp_flags() & flags::RST == 0
                    && may_answer(self)
                    && let Some(answer) = tcp::reset(frame.data(), packet.l4())
                    && self.answer(port, &answer, ios)
                {
                    self.counters.add(Tally::ResetsSent, 1);
                }
            }
            _ => self.counters.count(verdict),
        }
    }

    /// Sends a frame of our own making out of a port; `false` when it could not be.
    pub(super) fn answer<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        bytes: &[u8],
        ios: &mut [I],
    ) -> bool {
        let io = self.ports.get(port).and_then(|port| ios.get_mut(port.device));
        let Some(frame) = io.and_then(|io| io.alloc(bytes)) else { return false };
        self.queue(port, frame, ios)
    }

    /// An echo request: answered in place when it is for a VIP or an address of the gateway.
    pub(super) fn echo<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        mut frame: F,
        key: K,
        packet: Packet,
        ios: &mut [I],
    ) {
        if self.is_kernels(port, key.destination_address()) {
            return self.except(port, frame, Verdict::OwnAddress);
        }
        if !local::is_ours(key.destination_address(), &self.tables, &self.shared) {
            let verdict = self.chooser().unanswered(key);
            return self.counters.count(verdict);
        }
        if is_bad_source(key.source_address(), &self.tables, &self.shared) {
            return self.counters.count(Verdict::BadSource);
        }
        if !self.answers.take(self.now_ms) {
            return self.counters.count(Verdict::RejectLimited);
        }
        K::echo_reply(frame.data_mut(), packet.l4(), self.ports[port].mac);
        let verdict = if self.queue(port, frame, ios) { Verdict::EchoReplied } else { Verdict::TxFull };
        self.counters.count(verdict);
    }

    /// An ARP packet: requests for our addresses are answered, senders that somebody asked for are learned.
    pub(super) fn arp<I: PacketIo<Frame = F>>(&mut self, port: usize, frame: F, ios: &mut [I]) {
        let seen =
            local::arp(frame.data(), port, self.ports[port].mac, &self.tables, &self.shared, self.now_ms);
        let verdict = match seen {
            Outcome::Answer(reply) if self.answer(port, &reply, ios) => Verdict::ArpHandled,
            Outcome::Answer(_) => Verdict::NoMemory,
            Outcome::Learned => return self.share_arp(port, frame, Verdict::ArpHandled),
            Outcome::Ignored => return self.share_arp(port, frame, Verdict::ArpIgnored),
            Outcome::Bad => Verdict::ArpBad,
        };
        self.counters.count(verdict);
    }

    /// A message of neighbour discovery likewise, or a question who listens to groups.
    pub(super) fn neighbour_discovery<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        ios: &mut [I],
    ) {
        if let Some(query) = Query::parse(frame.data()) {
            let random = self.secret.words(self.now_ms.into(), port as u64);
            self.shared.memberships.hear(query, random, self.now_ms);
            return self.share_neighbour_discovery(port, frame, Verdict::NdpHandled);
        }
        let mac = self.ports[port].mac;
        let seen =
            local::neighbour_discovery(frame.data(), port, mac, &self.tables, &self.shared, self.now_ms);
        let verdict = match seen {
            Outcome::Answer(advertisement) if self.answer(port, &advertisement, ios) => Verdict::NdpHandled,
            Outcome::Answer(_) => Verdict::NoMemory,
            Outcome::Learned => return self.share_neighbour_discovery(port, frame, Verdict::NdpHandled),
            Outcome::Ignored => return self.share_neighbour_discovery(port, frame, Verdict::NdpIgnored),
            Outcome::Bad => Verdict::NdpBad,
        };
        self.counters.count(verdict);
    }
}
