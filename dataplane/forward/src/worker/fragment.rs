//! Fragments of a worker: those of datagrams that it knows, and those of flows that it has.

use super::steady::Seen;
use super::{Origin, Worker};
use crate::address::{Address, Family};
use crate::flow_key::{FlowKey, FlowKey6};
use crate::flow_table::Candidate;
use crate::fragments::{Fate, Fragment, Onward, Read};
use crate::parse::Packet;
use crate::path::Path;
use crate::rewrite::Addressing;
use crate::select::is_bad_source;
use crate::verdict::Verdict;
use turnpike_packet::io::{Frame, PacketIo};

impl<F: Frame> Worker<'_, F> {
    /// A fragment, whose IP header has been checked: it goes to the worker that knows its datagram, and from there with its datagram's ports to
    /// the worker of its flow.
    pub(super) fn fragment<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        ios: &mut [I],
        origin: Origin,
    ) {
        let Some([source, destination]) = Address::ends_of(frame.data()) else {
            return self.counters.count(Verdict::Truncated);
        };
        if let Some(verdict) = self.has_no_flows::<K>(source, destination) {
            return self.except(port, frame, verdict);
        }
        let read = match Read::of(frame.data()) {
            Ok(read) => read,
            Err(verdict) => return self.except(port, frame, verdict),
        };
        let workers = self.shared.gateway.workers();
        let home = read.datagram.worker(&self.secret, workers);
        if home != self.id && origin == Origin::Nic {
            return self.hand_over(home, port, frame, None);
        }
        let onward = read.start.map(|start| {
            let key = K::of(start.protocol, source, destination, start.ports.0, start.ports.1);
            let owner = key.map_or(self.id, |key| self.owner(port, key));
            Onward { id: 0, ports: start.ports, protocol: start.protocol, owner: owner as u8 }
        });
        let fragment = Fragment { datagram: read.datagram, piece: read.piece, onward, port: port as u8 };
        match self.fragments.take(&fragment, frame, self.now_ms, &mut self.counters) {
            Fate::Held => {}
            Fate::Dropped(verdict) => self.counters.count(verdict),
            Fate::Pass(frame, onward, held) => {
                self.go_on(port, frame, onward, ios);
                let Some(datagram) = held else { return };
                while let Some((port, frame)) = self.fragments.release(&datagram) {
                    self.go_on(port.into(), frame, onward, ios);
                }
            }
        }
    }

    /// The verdict on a fragment that no flow can have, by its addresses.
    fn has_no_flows<K: Path>(&self, source: Address, destination: Address) -> Option<Verdict> {
        let key = K::of(0, source, destination, 0, 0)?;
        match self.chooser().unanswered(key) {
            // The kernel's alone, unless the address has NodePorts.
            Verdict::OwnAddress if self.tables.address(destination).is_none() => Some(Verdict::Fragment),
            Verdict::UnallocatedClusterIp => Some(Verdict::UnallocatedClusterIp),
            _ if is_bad_source(source, &self.tables, &self.shared) => Some(Verdict::BadSource),
            _ => None,
        }
    }

    /// A fragment whose flow is known goes to the worker that has it.
    fn go_on<I: PacketIo<Frame = F>>(&mut self, port: usize, frame: F, onward: Onward, ios: &mut [I]) {
        let owner = usize::from(onward.owner);
        if owner == self.id {
            return self.fragment_of_flow(port, frame, onward, ios);
        }
        self.hand_over(owner, port, frame, Some(onward));
    }

    /// A fragment of a flow of this worker.
    pub(super) fn fragment_of_flow<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        onward: Onward,
        ios: &mut [I],
    ) {
        let read = match Read::of(frame.data()) {
            Ok(read) => read,
            Err(verdict) => return self.counters.count(verdict),
        };
        match read.datagram.source.family() {
            Family::V4 => self.translate_fragment::<FlowKey, I>(port, frame, &read, onward, ios),
            Family::V6 => self.translate_fragment::<FlowKey6, I>(port, frame, &read, onward, ios),
        }
    }

    fn translate_fragment<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        read: &Read,
        onward: Onward,
        ios: &mut [I],
    ) {
        let Onward { id, ports, protocol, .. } = onward;
        let (source, destination) = (read.datagram.source, read.datagram.destination);
        let Some(key) = K::of(protocol, source, destination, ports.0, ports.1) else {
            return self.counters.count(Verdict::FragmentBad);
        };
        let packet = read.start.map(|start| Packet::flow(start.l4, start.tcp_flags));
        let admitted = match packet {
            Some(packet) => self.admit(port, frame, Seen::new(key, packet), ios, Origin::Worker),
            None => match K::flows(&self.flows).find(key) {
                Some(flow) => Some((frame, flow)),
                None => return self.except(port, frame, self.unanswered_fragment(key)),
            },
        };
        let Some((mut frame, flow)) = admitted else { return };
        let session = *K::flows(&self.flows).session(flow.slot());
        if session.state().is_one_way() {
            return self.encapsulate::<K, I>(port, frame, packet.unwrap_or_default(), &session, ios);
        }
        if session.is_prefaced() {
            // Its numbers stand in the first fragment alone, and its checksum covers all.
            return self.counters.count(Verdict::Fragment);
        }
        let next_hop = session.next_hop[flow.direction()];
        let link = self.shared.neighbours.link(next_hop);
        let out = usize::from(self.shared.neighbours.hop(next_hop).port);
        let narrow = self.exceeds::<K>(&frame, out);
        if let Some(mtu) = narrow
            && K::stays_whole(frame.data())
        {
            return self.too_big::<K, I>(port, &frame, mtu, ios);
        }
        if let Some(packet) = packet {
            self.clamp(&mut frame, key, packet, [port, out]);
        }
        let addressing = link.addressing(&self.sources[K::FAMILY as usize]);
        if !self.translated::<K>(&mut frame, packet, flow, addressing) {
            return self.expired::<K, I>(port, &frame, ios);
        }
        read.identify(frame.data_mut(), id);
        match narrow {
            Some(mtu) => self.send_in_pieces(frame, next_hop, mtu, ios),
            None => self.send_or_hold(frame, next_hop, ios),
        }
    }

    /// Translates a fragment, the first of its datagram if there is a packet; `false` when its time has run out.
    fn translated<K: Path>(
        &self,
        frame: &mut F,
        packet: Option<Packet>,
        flow: Candidate,
        addressing: Addressing,
    ) -> bool {
        let session = K::flows(&self.flows).session(flow.slot());
        match packet {
            Some(packet) => K::translate(session, flow.direction(), packet, frame.data_mut(), addressing),
            None => K::translate_later_fragment(session, flow.direction(), frame.data_mut(), addressing),
        }
    }

    /// The verdict on a later fragment of no flow: that of its first one, if that does not depend on more than addresses.
    fn unanswered_fragment<K: Path>(&self, key: K) -> Verdict {
        match self.chooser().unanswered(key) {
            _ if self.tables.frontend(key).is_some() => Verdict::FragmentNoFlow,
            verdict @ (Verdict::OwnAddress | Verdict::SnatNoFlow | Verdict::NotOurs) => verdict,
            _ => Verdict::FragmentNoFlow,
        }
    }
}
