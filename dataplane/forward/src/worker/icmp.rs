//! ICMP of a worker: errors of others passed on, errors of its own about packets that cannot go on, and the announced segment sizes that
//! spare TCP most of them.

use super::{Origin, Worker};
use crate::address::Address;
use crate::flow_table::Entry;
use crate::icmp_error::Onward;
use crate::parse::Packet;
use crate::path::Path;
use crate::select::is_bad_source;
use crate::verdict::{Tally, Verdict};
use turnpike_packet::icmpv4::Complaint;
use turnpike_packet::io::{Frame, PacketIo};
use turnpike_packet::tcp::flags;
use turnpike_packet::{icmpv6, ipv4, mss};

impl<F: Frame> Worker<'_, F> {
    /// An ICMP error; `key` is that of an answer to the packet it is about.
    pub(super) fn icmp_error<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        mut frame: F,
        key: K,
        packet: Packet,
        ios: &mut [I],
        origin: Origin,
    ) {
        let Some(found) = K::flows(&self.flows).find(key) else {
            return match self.owner_of_quoted(key, origin) {
                Some(owner) => self.hand_over(owner, port, frame, None),
                None => self.except(port, frame, self.unanswered_error(key)),
            };
        };
        let is_bad = |[source, _]: [Address; 2]| is_bad_source(source, &self.tables, &self.shared);
        if Address::ends_of(frame.data()).is_none_or(is_bad) {
            return self.counters.count(Verdict::BadSource);
        }
        let (session, direction) = (*K::flows(&self.flows).session(found.slot()), found.direction());
        if session.state().is_one_way() {
            // About an answer that took another way: the backend gets it as it gets the client's packets.
            self.counters.add(Tally::IcmpTranslated, 1);
            return self.encapsulate::<K, I>(port, frame, Packet::default(), &session, ios);
        }
        let sent = session.keys()[direction ^ 1];
        let link = self
            .shared
            .neighbours
            .link(session.next_hop[direction])
            .addressing(&self.sources[K::FAMILY as usize]);
        let prefaced = (session.is_prefaced() && direction == 1).then_some(*session);
        let onward = Onward { sent, link, prefaced };
        if !K::translate_error(frame.data_mut(), packet.l4(), onward) {
            return self.counters.count(Verdict::TtlExpired);
        }
        self.counters.add(Tally::IcmpTranslated, 1);
        self.send_or_hold(frame, session.next_hop[direction], ios);
    }

    /// Another worker that has the flow of an error from a NIC, if there may be one. The NIC has spread it by the addresses of whoever made it.
    pub(super) fn owner_of_quoted<K: Path>(&self, key: K, origin: Origin) -> Option<usize> {
        let gateway = &self.shared.gateway;
        if origin == Origin::Worker || gateway.workers() == 1 {
            return None;
        }
        let hop = self.shared.route(key.source_address())?;
        let steering = &gateway.ports().get(usize::from(hop.port))?.steering;
        // The flow was made where the client's packets arrive, and its replies were led there by a port.
        let owner = steering.owner(key, gateway, &self.secret);
        Some(owner).filter(|&owner| owner != self.id)
    }

    /// The verdict on an error about no flow that lives here.
    fn unanswered_error<K: Path>(&self, key: K) -> Verdict {
        match self.chooser().unanswered(key) {
            verdict @ (Verdict::OwnAddress | Verdict::NotOurs) => verdict,
            _ => Verdict::IcmpNoFlow,
        }
    }

    /// Whether the IP packet in a frame is longer than a port takes, and if so how much that is.
    pub(super) fn exceeds<K: Path>(&self, frame: &F, port: usize) -> Option<u16> {
        let mtu = self.shared.gateway.ports().get(port)?.mtu;
        (K::packet_len(frame.data())? > usize::from(mtu)).then_some(mtu)
    }

    /// A packet that does not fit the port it would leave through. Its sender is told if it must not be fragmented.
    pub(super) fn too_big<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: &F,
        mtu: u16,
        ios: &mut [I],
    ) {
        self.counters.count(Verdict::TooBig);
        if K::stays_whole(frame.data()) {
            self.complain::<K, I>(port, frame, Complaint::TooBig { mtu }, ios);
        }
    }

    /// A packet whose time to live has run out.
    pub(super) fn expired<K: Path, I: PacketIo<Frame = F>>(&mut self, port: usize, frame: &F, ios: &mut [I]) {
        self.counters.count(Verdict::TtlExpired);
        self.complain::<K, I>(port, frame, Complaint::TimeExceeded, ios);
    }

    /// Tells the sender of a packet that came in on `port` what is wrong with it, from the gateway's own address there, within the limit on
    /// answers.
    fn complain<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: &F,
        complaint: Complaint,
        ios: &mut [I],
    ) {
        let Some([sender, _]) = Address::ends_of(frame.data()) else { return };
        let Some(source) = self.shared.gateway.source_towards(port, sender) else { return };
        if K::may_be_told(frame.data()) && self.answers.take(self.now_ms) {
            self.tell::<K, I>(port, frame, source, complaint, ios);
        }
    }

    /// Sends an ICMP error about a packet back through the port it came in on.
    pub(super) fn tell<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: &F,
        source: Address,
        complaint: Complaint,
        ios: &mut [I],
    ) {
        let mut error = [0; icmpv6::ERROR_FRAME_MAX];
        if let Some(len) = K::error(frame.data(), source, complaint, &mut error)
            && self.answer(port, &error[..len], ios)
        {
            self.counters.add(Tally::IcmpSent, 1);
        }
    }

    /// Lowers the segment size that a SYN announces to what the setting says.
    pub(super) fn clamp<K: Path>(&mut self, frame: &mut F, key: K, packet: Packet, ports: [usize; 2]) {
        if packet.tcp_flags() & flags::SYN == 0 || key.protocol() != ipv4::TCP {
            return;
        }
        if let Some(most) = self.shared.gateway.largest_segment(K::FAMILY, ports) {
            self.clamp_to(most, frame, packet);
        }
    }

    /// Lowers the segment size that a SYN announces to `most`.
    pub(super) fn clamp_to(&mut self, most: u16, frame: &mut F, packet: Packet) {
        if let Some(segment) = frame.data_mut().get_mut(packet.l4()..)
            && mss::clamp(segment, most)
        {
            self.counters.add(Tally::MssClamped, 1);
        }
    }
}
