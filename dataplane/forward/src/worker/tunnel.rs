//! Packets in packets of a worker (`dsr-ipip`): the client's packets on their way to backends that answer past the gateway, and what routers on
//! that way say about them.

use super::{Origin, Worker};
use crate::address::Address;
use crate::flow_table::{Candidate, Entry};
use crate::parse::{ETHERNET, Packet};
use crate::path::Path;
use crate::rewrite::set_link;
use crate::tunnel::{self, backend_hash};
use crate::verdict::{Tally, Verdict};
use turnpike_packet::icmpv4::Complaint;
use turnpike_packet::io::{Frame, PacketIo};
use turnpike_packet::ipip::Fate;
use turnpike_packet::tcp::flags;
use turnpike_packet::{icmpv6, ip, ipv4};

impl<F: Frame> Worker<'_, F> {
    /// Takes note of a client's packet of a flow whose answers take another way.
    #[cold]
    #[inline(never)]
    pub(super) fn note_one_way<K: Path>(&mut self, frame: &F, packet: Packet, flow: Candidate) {
        let session = K::flows_mut(&mut self.flows).session_mut(flow.slot());
        let mut seen = session.one_way();
        let head = frame.data().get(packet.l4()..).unwrap_or_default();
        if seen.observe(packet.chunk().map(|(kind, _)| kind), head) {
            session.last_seen = self.now_ms;
        } else if session.keys()[0].protocol() == ipv4::TCP {
            self.counters.add(Tally::TcpIgnored, 1);
        }
        session.set_one_way(seen);
    }

    /// Puts a packet into another, to the backend of a session, and sends it. Of a later fragment `packet` says nothing.
    pub(super) fn encapsulate<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        mut frame: F,
        packet: Packet,
        session: &K::Session,
        ios: &mut [I],
    ) {
        let [client, back] = *session.keys();
        let (backend, source) = (back.source_address(), back.destination_address());
        let [next_hop, _] = session.next_hop;
        let out = usize::from(self.shared.neighbours.hop(next_hop).port);
        let Some(length) = K::packet_len(frame.data()) else {
            return self.counters.count(Verdict::Truncated);
        };
        let mtu = self.way_takes(out, backend);
        if length + K::OUTER > usize::from(mtu) {
            if K::stays_whole(frame.data()) {
                return self.too_big::<K, I>(port, &frame, K::inner_mtu(mtu), ios);
            }
            return match self.cut(&frame, out, K::inner_mtu(mtu), ios) {
                // Each fits, so this goes no deeper. The ports stand in the first.
                Ok(pieces) => pieces.into_iter().enumerate().for_each(|(n, piece)| {
                    let packet = if n == 0 { packet } else { Packet::default() };
                    self.encapsulate::<K, I>(port, piece, packet, session, ios);
                }),
                Err(verdict) => self.counters.count(verdict),
            };
        }
        if !frame.data().get(ETHERNET..).is_some_and(K::lives) {
            return self.expired::<K, I>(port, &frame, ios);
        }
        let gateway = &self.shared.gateway;
        if packet.tcp_flags() & flags::SYN != 0
            && client.protocol() == ipv4::TCP
            && let Some(most) = gateway.largest_segment_in_tunnel(K::FAMILY, [port, out], K::OUTER)
        {
            self.clamp_to(most, &mut frame, packet);
        }
        // What is behind the packet is padding of a link that it leaves.
        frame.truncate(ETHERNET + length);
        let mark = client.mark(&self.secret, source, backend);
        let Some(&ethertype) = frame.data().get(12..).and_then(<[u8]>::first_chunk::<2>) else {
            return self.counters.count(Verdict::Truncated);
        };
        let inner = frame.data_mut().get_mut(ETHERNET..).unwrap_or_default();
        let Some(outer) = K::wrap(inner, source, backend, mark) else {
            return self.counters.count(Verdict::TooBig);
        };
        if !frame.grow_front(outer.len()) {
            return self.counters.count(Verdict::NoMemory);
        }
        let link = self.shared.neighbours.link(next_hop);
        let bytes = frame.data_mut();
        set_link(bytes, link.addressing(&self.sources[K::FAMILY as usize]));
        if let Some((head, header)) = bytes.split_at_mut_checked(ETHERNET)
            && let Some(header) = header.get_mut(..outer.len())
        {
            head[12..].copy_from_slice(&ethertype);
            header.copy_from_slice(&outer);
        }
        self.send_or_hold(frame, next_hop, ios);
    }

    /// Longest packet on the way to a backend: what the port takes, or less if a router has said so.
    fn way_takes(&self, out: usize, backend: Address) -> u16 {
        let link = self.shared.gateway.ports().get(out).map_or(0, |p| p.mtu);
        let way = self.shared.path_mtus.get(backend_hash(&self.secret, backend), self.now_ms);
        way.map_or(link, |way| way.min(link))
    }

    /// An ICMP error about a packet in a packet; `key` is that of the client's packet, if that is quoted.
    pub(super) fn tunnel_error<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        key: K,
        packet: Packet,
        ios: &mut [I],
        origin: Origin,
    ) {
        let (icmp, end) = (packet.l4(), ip::end(frame.data()).unwrap_or_default());
        let (Some(Ok(quoted)), Some(message)) =
            (K::quoted(frame.data(), icmp, end), frame.data().get(icmp..end))
        else {
            return self.counters.count(Verdict::IcmpBad);
        };
        let (source, backend) = tunnel::ends(quoted.outer);
        // The host's kernel may have tunnels of its own.
        if quoted.mark != key.mark(&self.secret, source, backend) {
            return self.except(port, frame, Verdict::Icmp);
        }
        let told = match K::fate(message) {
            Fate::TooBig(0) => Complaint::TooBig { mtu: 0 },
            Fate::TooBig(mtu) => {
                let backend = backend_hash(&self.secret, backend);
                self.shared.path_mtus.learn(backend, mtu, self.now_ms);
                Complaint::TooBig { mtu: K::inner_mtu(mtu) }
            }
            Fate::Told(complaint) => complaint,
            Fate::Kept => return self.counters.count(Verdict::TunnelError),
            Fate::Bad => return self.counters.count(Verdict::IcmpBad),
        };
        let found = K::flows(&self.flows).find(key);
        if found.is_none()
            && key != K::default()
            && let Some(owner) = self.owner_of_quoted(key, origin)
        {
            return self.hand_over(owner, port, frame, None);
        }
        self.counters.count(Verdict::TunnelError);
        let Some(found) = found else { return };
        let session = *K::flows(&self.flows).session(found.slot());
        let [_, back] = *session.keys();
        if session.state().is_one_way()
            && (back.source_address(), back.destination_address()) == (backend, source)
            && let Some(inner) = message.get(quoted.inner..)
        {
            let ethertype = quoted.outer.ethertype();
            self.tell_client::<K, I>(inner, ethertype, told, &session, ios);
        }
    }

    /// Tells a session's client what is wrong with a packet of its, of which `inner` is the beginning, within the limit on answers.
    fn tell_client<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        inner: &[u8],
        ethertype: u16,
        complaint: Complaint,
        session: &K::Session,
        ios: &mut [I],
    ) {
        let [_, next_hop] = session.next_hop;
        let link = self.shared.neighbours.link(next_hop);
        if !link.is_resolved() {
            return self.shared.neighbours.want(next_hop);
        }
        let client = session.keys()[0].source_address();
        let Some(source) = self.shared.gateway.source_towards(link.port(), client) else { return };
        let mut about = [0; icmpv6::ERROR_FRAME_MAX];
        let quoted = inner.len().min(about.len() - ETHERNET);
        about[12..ETHERNET].copy_from_slice(&ethertype.to_be_bytes());
        about[ETHERNET..ETHERNET + quoted].copy_from_slice(&inner[..quoted]);
        let about = &about[..ETHERNET + quoted];
        let mut error = [0; icmpv6::ERROR_FRAME_MAX];
        if K::may_be_told(about)
            && self.answers.take(self.now_ms)
            && let Some(len) = K::error(about, source, complaint, &mut error)
        {
            set_link(&mut error, link.addressing(&self.sources[K::FAMILY as usize]));
            if self.answer(link.port(), &error[..len], ios) {
                self.counters.add(Tally::IcmpSent, 1);
            }
        }
    }
}
