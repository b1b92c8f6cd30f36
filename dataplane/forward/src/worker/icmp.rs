//! ICMP of a worker: errors of others passed on, errors of its own about packets that cannot go on, and the announced segment sizes that
//! spare TCP most of them.

use super::{Origin, Worker};
use crate::flow_key::FlowKey;
use crate::icmp_error::{self, Onward};
use crate::parse::{ETHERNET, Packet};
use crate::rewrite::Addressing;
use crate::select::is_bad_source;
use crate::verdict::{Tally, Verdict};
use turnpike_packet::icmpv4::{self, Complaint};
use turnpike_packet::io::{BURST, Frame, PacketIo};
use turnpike_packet::tcp::flags;
use turnpike_packet::{ethernet, ipv4, mss};

impl<F: Frame> Worker<'_, F> {
    /// An ICMP error; `key` is that of an answer to the packet it is about.
    pub(super) fn icmp_error<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        mut frame: F,
        key: FlowKey,
        packet: Packet,
        ios: &mut [I],
        origin: Origin,
    ) {
        let Some(found) = self.table.find(key) else {
            return match self.owner_of_quoted(key, origin) {
                Some(owner) => self.hand_over(owner, port, frame),
                None => self.except(port, frame, self.unanswered_error(key)),
            };
        };
        let outer_source = frame
            .data()
            .get(ETHERNET + 12..ETHERNET + 16)
            .map_or(0, |a| u32::from_be_bytes([a[0], a[1], a[2], a[3]]));
        if is_bad_source(outer_source, &self.tables, &self.shared) {
            return self.counters.count(Verdict::BadSource);
        }
        let (session, direction) = (*self.table.session(found.slot()), found.direction());
        let link = self.shared.neighbours.link(session.next_hop[direction]);
        let mac_bits = if link.is_resolved() { self.ports[link.port()].mac_bits } else { 0 };
        let sent = session.keys[direction ^ 1];
        let onward = Onward { sent, link: Addressing { destination: link.mac_bits(), source: mac_bits } };
        if !icmp_error::translate(frame.data_mut(), packet.l4(), onward) {
            return self.counters.count(Verdict::TtlExpired);
        }
        self.counters.add(Tally::IcmpTranslated, 1);
        self.send_or_hold(frame, session.next_hop[direction], ios);
    }

    /// Another worker that has the flow of an error from a NIC, if there may be one. The NIC has spread it by the addresses of whoever made it.
    fn owner_of_quoted(&self, key: FlowKey, origin: Origin) -> Option<usize> {
        let gateway = &self.shared.gateway;
        if origin == Origin::Worker || gateway.workers() == 1 {
            return None;
        }
        let hop = gateway.route(key.source())?;
        let steering = &gateway.ports().get(usize::from(hop.port))?.steering;
        // The flow was made where the client's packets arrive, and its replies were led there by a port.
        let by_addresses = key.protocol() == ipv4::SCTP && self.tables.address(key.destination()).is_some();
        let owner = if by_addresses {
            steering.owner_by_addresses(key, gateway, &self.secret)
        } else {
            steering.owner(key, gateway, &self.secret)
        };
        Some(owner).filter(|&owner| owner != self.id)
    }

    /// The verdict on an error about no flow that lives here.
    fn unanswered_error(&self, key: FlowKey) -> Verdict {
        match self.chooser().unanswered(key) {
            verdict @ (Verdict::OwnAddress | Verdict::NotOurs) => verdict,
            _ => Verdict::IcmpNoFlow,
        }
    }

    /// Marks the frames of a burst that some port is too small for.
    #[cold]
    #[inline(never)]
    pub(super) fn mark_long(&self, burst: &[F], packets: &mut [Packet; BURST]) {
        for (frame, packet) in burst.iter().zip(packets) {
            if frame.frame_len() > self.longest {
                *packet = packet.long();
            }
        }
    }

    /// Whether the IPv4 packet in a frame is longer than a port takes, and if so how much that is.
    pub(super) fn exceeds(&self, frame: &F, port: usize) -> Option<u16> {
        let mtu = self.shared.gateway.ports().get(port)?.mtu;
        let length = frame.data().get(ETHERNET + 2..ETHERNET + 4)?;
        (u16::from_be_bytes([length[0], length[1]]) > mtu).then_some(mtu)
    }

    /// A packet that does not fit the port it would leave through. Only where it must not be fragmented its sender is told.
    pub(super) fn too_big<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: &F,
        mtu: u16,
        ios: &mut [I],
    ) {
        self.counters.count(Verdict::TooBig);
        if frame.data().get(ETHERNET + 6).is_some_and(|flags| flags & 0x40 != 0) {
            self.complain(port, frame, Complaint::TooBig { mtu }, ios);
        }
    }

    /// A packet whose time to live has run out.
    pub(super) fn expired<I: PacketIo<Frame = F>>(&mut self, port: usize, frame: &F, ios: &mut [I]) {
        self.counters.count(Verdict::TtlExpired);
        self.complain(port, frame, Complaint::TimeExceeded, ios);
    }

    /// Tells the sender of a packet that came in on `port` what is wrong with it, from the gateway's own address there, within the limit on
    /// answers.
    fn complain<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: &F,
        complaint: Complaint,
        ios: &mut [I],
    ) {
        let Some(sender) = frame.data().get(ETHERNET + 12..ETHERNET + 16) else { return };
        let sender = u32::from_be_bytes([sender[0], sender[1], sender[2], sender[3]]);
        let Some(source) = self.shared.gateway.source_towards(port, sender) else { return };
        let mut error = [0; ethernet::HEADER + icmpv4::ERROR_MAX];
        if icmpv4::may_be_told(frame.data())
            && self.answers.take(self.now_ms)
            && let Some(len) = icmpv4::error(frame.data(), source, complaint, &mut error)
            && self.answer(port, &error[..len], ios)
        {
            self.counters.add(Tally::IcmpSent, 1);
        }
    }

    /// Lowers the segment size that a SYN announces to what the setting says.
    pub(super) fn clamp(&mut self, frame: &mut F, packet: Packet, ports: [usize; 2]) {
        if packet.tcp_flags() & flags::SYN == 0 {
            return;
        }
        let Some(most) = self.shared.gateway.largest_segment(ports) else { return };
        let bytes = frame.data_mut();
        if bytes.get(ETHERNET + 9) == Some(&ipv4::TCP)
            && let Some(segment) = bytes.get_mut(packet.l4()..)
            && mss::clamp(segment, most)
        {
            self.counters.add(Tally::MssClamped, 1);
        }
    }
}
