//! The model of the NAT: what RFC 4787, 5382, 5508 and 7857 and the documentation say, in maps and plain steps. It knows neither Maglev nor the
//! port pool nor workers: of a new flow it takes the choice from the first packet that left, and looks whether it was permitted. Everything
//! else it predicts: each verdict, each counter, each byte that leaves.

use crate::answers::Answers;
use crate::association::Association;
use crate::frames::{
    Complaint, Layout, Tuple, is_no_host, number, readdressed, set_macs, stated_len, sum_header,
    sum_transport, told, word, wrongness,
};
use crate::harness::talk::Side;
use crate::harness::{OWN6, SNAT, SNAT6, tcp_model};
use crate::left::Left;
use crate::plan::Room;
use crate::reading::{What, clamped, unreadable};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use turnpike_packet::checksum;
use turnpike_packet::ipv4::{SCTP, TCP, UDP};
use turnpike_wire::update::{Action, Midstream, Mode, Tracking};

pub const MTU: u16 = 1_500;

/// The gateway's own address in the tests' bed.
pub fn own(is_v6: bool) -> IpAddr {
    if is_v6 { OWN6.parse().unwrap() } else { Ipv4Addr::new(192, 0, 2, 1).into() }
}

/// The address of SNAT there.
pub fn snat(is_v6: bool) -> IpAddr {
    if is_v6 { SNAT6.parse().unwrap() } else { SNAT.into() }
}

/// A frontend: protocol, address and port.
pub type Face = (u8, SocketAddr);

/// What a frontend does with new flows, and whom it has.
#[derive(Clone, Debug)]
pub struct Rule {
    pub is_cluster_ip: bool,
    pub action: Action,
    pub mode: Mode,
    /// Sources that may come, as a network; none: all.
    pub sources: Option<ipnet::IpNet>,
    /// How long a client's new flows go where its last one went; 0: not at all.
    pub affinity_s: u32,
    pub tracking: Tracking,
    /// Backends, with whether they take new flows, and whether they serve.
    pub backends: BTreeMap<SocketAddr, (bool, bool)>,
}

/// What one flow lives through.
#[derive(Clone, Debug)]
pub enum Life {
    Udp,
    Tcp(tcp_model::Model),
    Sctp(Association),
}

/// A flow. Replies are known by their own five-tuple.
#[derive(Clone, Debug)]
pub struct Session {
    pub client: Tuple,
    pub reply: Tuple,
    pub life: Life,
    /// When it last had a sign of life, and when any packet at all.
    pub seen_ms: u32,
    pub touched_ms: u32,
    /// The latest whole packet of either side that an error may quote: as its sender sent it, and as it left.
    pub last: [Option<(Vec<u8>, Vec<u8>)>; 2],
}

impl Session {
    pub fn state(&self) -> &'static str {
        match &self.life {
            Life::Udp => "udp",
            Life::Tcp(model) => model.state,
            Life::Sctp(association) => association.state,
        }
    }
}

/// A frame that comes, and of an ICMP error the packet that it is about as its sender sent it.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub frame: Vec<u8>,
    pub about: Option<Vec<u8>>,
}

/// The NAT.
#[derive(Debug)]
pub struct Nat {
    pub rules: BTreeMap<Face, Rule>,
    pub sessions: BTreeMap<Tuple, Session>,
    /// The client's five-tuple of each reply's.
    pub replies: BTreeMap<Tuple, Tuple>,
    /// The backend that a client's latest flow at a frontend went to, and when, where that matters.
    given: BTreeMap<(Face, IpAddr), (SocketAddr, u32)>,
    /// Counters as they must be.
    pub counts: BTreeMap<&'static str, u64>,
    pub now_ms: u32,
    /// Workers, which only matter where each has something for itself.
    pub workers: usize,
    pub room: Room,
    pub answers: Answers,
    /// Those to clients who find no room.
    pub shortages: Answers,
}

/// What a packet must lead to.
pub enum Fate {
    /// It is counted so and nothing leaves.
    Silent(&'static str),
    /// It is counted so, and this leaves.
    Leaves(&'static str, Vec<u8>),
}

pub type Judged<T> = Result<T, String>;

impl Nat {
    pub fn new(workers: usize, room: Room) -> Self {
        Self {
            rules: BTreeMap::new(),
            sessions: BTreeMap::new(),
            replies: BTreeMap::new(),
            given: BTreeMap::new(),
            counts: BTreeMap::new(),
            now_ms: 0,
            workers,
            room,
            answers: Answers::default(),
            shortages: Answers::default(),
        }
    }

    pub fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// The flow of a packet with these ends, and who sends it.
    pub fn find(&self, ends: Tuple) -> Option<(Tuple, Side)> {
        if self.sessions.contains_key(&ends) {
            return Some((ends, Side::Client));
        }
        self.replies.get(&ends).map(|client| (*client, Side::Backend))
    }

    pub fn remove(&mut self, client: Tuple) {
        if let Some(session) = self.sessions.remove(&client) {
            self.replies.remove(&session.reply);
        }
    }

    pub fn rule_of(&self, client: Tuple) -> Option<&Rule> {
        self.rules.get(&(client.protocol, client.destination))
    }

    /// How long a flow may be idle, in milliseconds.
    pub fn may_idle_ms(&self, session: &Session) -> u32 {
        let tracking = self.rule_of(session.client).map(|rule| rule.tracking).unwrap_or_default();
        let seconds = match (&session.life, session.state()) {
            (Life::Udp, _) => tracking.udp_s,
            (Life::Sctp(association), _) => association.may_idle_s(),
            (Life::Tcp(_), "established" | "client_closed" | "backend_closed") => tracking.tcp_established_s,
            (Life::Tcp(_), "reset") => 240,
            (Life::Tcp(_), _) => tracking.tcp_transitory_s,
        };
        seconds * 1_000
    }

    /// Whether a flow was idle for longer than it may be.
    pub fn is_over(&self, client: Tuple) -> bool {
        let session = &self.sessions[&client];
        self.now_ms - session.seen_ms > self.may_idle_ms(session)
    }

    /// The address is a VIP, the gateway's own or one of SNAT.
    pub fn is_ours(&self, address: IpAddr) -> bool {
        let is_v6 = address.is_ipv6();
        [own(is_v6), snat(is_v6)].contains(&address) || self.rules.keys().any(|(_, at)| at.ip() == address)
    }

    pub fn is_bad_source(&self, address: IpAddr) -> bool {
        is_no_host(address) || self.is_ours(address)
    }

    /// The verdict on what no frontend and no flow is for.
    pub fn unanswered(&self, destination: IpAddr) -> &'static str {
        let is_v6 = destination.is_ipv6();
        let mut here = self.rules.iter().filter(|((_, at), _)| at.ip() == destination).peekable();
        let is_vip = here.peek().is_some();
        let is_cluster_ip = match destination {
            IpAddr::V4(address) => address.octets()[..2] == [10, 96],
            IpAddr::V6(address) => address.segments()[0] == 0xfd96,
        };
        if here.any(|(_, rule)| rule.is_cluster_ip) {
            "rejected"
        } else if destination == snat(is_v6) {
            "snat_no_flow"
        } else if destination == own(is_v6) {
            "own_address"
        } else if is_vip {
            "no_frontend"
        } else if is_cluster_ip {
            "unallocated_cluster_ip"
        } else {
            "not_ours"
        }
    }

    /// Takes what left because of a frame out of `left`, and says what is wrong with it, if anything is.
    pub fn judge(&mut self, came: &Arrival, left: &mut Left) -> Judged<()> {
        self.count("rx_packets");
        let fate = self.fate(came, left)?;
        let (verdict, wanted) = match fate {
            Fate::Silent(verdict) => (verdict, None),
            Fate::Leaves(verdict, wanted) => (verdict, Some(wanted)),
        };
        self.count(verdict);
        let Some(wanted) = wanted else { return Ok(()) };
        self.count("tx_packets");
        if stated_len(&wanted, 14) > usize::from(MTU) {
            return self.take_in_pieces(left, &wanted);
        }
        let layout = Layout::at(&came.frame, 14);
        let is_wrong =
            layout.protocol == SCTP && verdict == "forwarded" && wrongness(&came.frame, layout) != 0;
        match left.take(layout.is_v6, |got| is_same(got, &wanted, is_wrong)) {
            Some(_) => Ok(()),
            None => Err(match left.instead(&wanted) {
                Some(got) => {
                    let at = got.iter().zip(&wanted).position(|(a, b)| a != b);
                    format!("{verdict}: byte {at:?} is wrong\n  got    {got:02x?}\n  wanted {wanted:02x?}")
                }
                None => format!("{verdict}, but nothing left: {}", told(&wanted)),
            }),
        }
    }

    /// The same of a packet over IPv4 that leaves in fragments, whose identification is the gateway's choice.
    fn take_in_pieces(&mut self, left: &mut Left, wanted: &[u8]) -> Judged<()> {
        let layout = Layout::at(wanted, 14);
        let mut whole: Vec<u8> = Vec::new();
        loop {
            let is_first = |piece: &[u8]| {
                let has_header =
                    piece.len() > layout.l4 + 8 && piece[26..layout.l4 + 8] == wanted[26..layout.l4 + 8];
                has_header && word(piece, 20) & 0x3fff == 0x2000
            };
            let is_next = |piece: &[u8]| piece[18..20] == whole[18..20] && piece[26..34] == whole[26..34];
            let start = if whole.is_empty() { layout.l4 } else { whole.len() };
            let piece = match whole.is_empty() {
                true => left.take(false, is_first),
                false => left.take(false, is_next),
            };
            let piece = piece.ok_or_else(|| format!("a fragment is missing of {}", told(wanted)))?;
            let place = usize::from(word(&piece, 20) & 0x1fff) * 8 + layout.l4;
            let is_right = checksum::ones_complement_sum(&piece[14..layout.l4]) == 0xffff;
            let stated = stated_len(&piece, 14);
            if !is_right || stated > MTU.into() || place != start || stated + 14 != piece.len() {
                return Err(format!("a wrong fragment: {piece:02x?}"));
            }
            let has_more = word(&piece, 20) & 0x2000 != 0;
            match whole.is_empty() {
                true => whole = piece,
                false => whole.extend(&piece[layout.l4..]),
            }
            if !has_more {
                break;
            }
            for name in ["forwarded", "fragments_made", "tx_packets"] {
                self.count(name);
            }
        }
        // Length, identification, flags and checksum say what is said of the whole; what is behind the packet does not go with its fragments.
        whole[16..22].copy_from_slice(&wanted[16..22]);
        whole[24..26].copy_from_slice(&wanted[24..26]);
        match whole == wanted[..layout.end] {
            true => Ok(()),
            false => {
                Err(format!("fragments of another packet\n  got    {whole:02x?}\n  wanted {wanted:02x?}"))
            }
        }
    }

    fn fate(&mut self, came: &Arrival, left: &Left) -> Judged<Fate> {
        let frame = &came.frame;
        if let Some(verdict) = unreadable(frame) {
            return Ok(Fate::Silent(verdict));
        }
        let layout = Layout::at(frame, 14);
        match layout.protocol {
            TCP | UDP | SCTP => self.packet(frame, layout, left),
            _ if [8, 128].contains(&frame[layout.l4]) => Ok(self.echo(frame, layout)),
            _ => Ok(self.error(came, layout)),
        }
    }

    /// RFC 5508: an error goes to the sender of the packet that it is about, quoting it as that one sent it.
    fn error(&mut self, came: &Arrival, layout: Layout) -> Fate {
        let frame = &came.frame;
        let inner = Layout::at(frame, layout.l4 + 8);
        let quoted = inner.tuple(frame);
        if wrongness(frame, layout) != 0 || layout.destination(frame) != quoted.source.ip() {
            return Fate::Silent("icmp_bad");
        }
        if self.find(quoted.back()).is_none() {
            return Fate::Silent(match self.unanswered(quoted.source.ip()) {
                same @ ("own_address" | "not_ours") => same,
                _ => "icmp_no_flow",
            });
        }
        if self.is_bad_source(layout.source(frame)) {
            return Fate::Silent("bad_source");
        }
        if frame[layout.ttl()] <= 1 {
            return Fate::Silent("ttl_expired");
        }
        let about = came.about.as_ref().expect("the driver knows what its errors about live flows are about");
        let sent = Layout::at(about, 14);
        let mut wanted = frame.clone();
        set_macs(&mut wanted);
        wanted[layout.ttl()] -= 1;
        layout.set_addresses(&mut wanted, sent.destination(about), sent.source(about));
        sum_header(&mut wanted, layout);
        let ttl = frame[inner.ttl()];
        wanted[inner.ip..layout.end].copy_from_slice(&about[14..14 + layout.end - inner.ip]);
        wanted[inner.ttl()] = ttl;
        if inner.protocol == SCTP && layout.end >= inner.l4 + 12 {
            // Nobody can sum a packet of which there is only the beginning: it stays as it is quoted.
            let stays = inner.l4 + 8..inner.l4 + 12;
            wanted[stays.clone()].copy_from_slice(&frame[stays]);
        }
        sum_header(&mut wanted, inner);
        sum_transport(&mut wanted, layout, 0);
        self.count("icmp_translated");
        Fate::Leaves("forwarded", wanted)
    }

    /// TCP, UDP or SCTP.
    fn packet(&mut self, frame: &[u8], layout: Layout, left: &Left) -> Judged<Fate> {
        let ends = layout.tuple(frame);
        let what = What::of(frame, layout);
        if what.asks() && matches!(self.find(ends), Some((_, Side::Client))) && self.gives_way(ends) {
            self.remove(ends);
        }
        if self.find(ends).is_none() {
            let sent = left.numbered(number(frame));
            match self.may_open(ends, &what) {
                Ok(()) if sent.is_none() && self.may_lack_ports(ends) => {
                    return Ok(self.refuse("snat_exhausted", frame, layout, &what));
                }
                Ok(()) => self.open(ends, &what, sent)?,
                Err(verdict) => return Ok(self.refuse(verdict, frame, layout, &what)),
            }
        }
        let (client, side) = self.find(ends).expect("it is there or was made");
        let session = self.sessions.get_mut(&client).expect("replies are of sessions");
        session.touched_ms = self.now_ms;
        let counts = match (&mut session.life, what) {
            (Life::Udp, _) => true,
            (Life::Tcp(model), What::Tcp(segment)) => model.see(side, &segment),
            (Life::Sctp(association), What::Sctp(chunk)) => association.see(side, chunk),
            _ => return Err("a flow of another protocol".into()),
        };
        if counts {
            session.seen_ms = self.now_ms;
        } else if matches!(what, What::Tcp(_)) {
            self.count("tcp_ignored");
        }
        Ok(self.send(client, side, frame, layout))
    }

    /// The packet of a live flow goes on, if it can.
    fn send(&mut self, client: Tuple, side: Side, frame: &[u8], layout: Layout) -> Fate {
        // RFC 8200 section 4.5: over IPv6 only sources make fragments.
        let stays_whole = layout.is_v6 || frame[20] & 0x40 != 0;
        if stated_len(frame, 14) > usize::from(MTU) && stays_whole {
            return self.complain("too_big", frame, Complaint::TooBig);
        }
        let (mut came, clamped) = clamped(frame, layout);
        if clamped {
            self.count("mss_clamped");
        }
        if frame[layout.ttl()] <= 1 {
            // The gateway complains about what it has in hand.
            return self.complain("ttl_expired", &came, Complaint::Expired);
        }
        let session = self.sessions.get_mut(&client).expect("it is live");
        let ends = match side {
            Side::Client => session.reply.back(),
            Side::Backend => session.client.back(),
        };
        let wanted = readdressed(&came, ends);
        // A segment's checksum of zero comes back as the other zero over IPv6.
        let is_plain = layout.protocol != TCP || word(frame, layout.l4 + 16) != 0;
        if !clamped && wrongness(frame, layout) == 0 && is_plain && frame.len() < 300 {
            came.truncate(layout.end);
            session.last[side as usize] = Some((came, wanted.clone()));
        }
        Fate::Leaves("forwarded", wanted)
    }

    /// Whether a SYN or INIT of the client begins anew in the place of its flow.
    fn gives_way(&self, client: Tuple) -> bool {
        let session = &self.sessions[&client];
        let is_lost = || {
            let backends = self.rule_of(client).filter(|r| r.action == Action::Forward).map(|r| &r.backends);
            backends.is_some_and(|b| {
                !b.contains_key(&session.reply.source) && b.values().any(|(takes, _)| *takes)
            })
        };
        match session.state() {
            "closed" | "reset" | "adopted" => true,
            "opening" | "answered" | "client_closed" => is_lost(),
            _ => false,
        }
    }

    /// Whether a packet may make a flow; else its verdict.
    fn may_open(&self, ends: Tuple, what: &What) -> Result<(), &'static str> {
        let Some(rule) = self.rule_of(ends) else { return Err(self.unanswered(ends.destination.ip())) };
        let client = ends.source.ip();
        if self.is_bad_source(client) {
            return Err("bad_source");
        }
        if !rule.is_cluster_ip && !rule.sources.is_none_or(|network| network.contains(&client)) {
            return Err("source_range");
        }
        match rule.action {
            Action::Drop => return Err("frontend_drop"),
            Action::Reject => return Err("rejected"),
            Action::Forward => {}
        }
        match what {
            What::Tcp(segment) if !what.asks() => match rule.tracking.midstream {
                Midstream::Forward if tcp_model::Model::open(segment, true).is_some() => {}
                Midstream::Drop => return Err("tcp_no_flow_drop"),
                Midstream::Forward | Midstream::Reset => return Err("tcp_no_flow"),
            },
            What::Sctp(_) if !what.asks() => return Err("sctp_no_flow"),
            _ => {}
        }
        let Room { flows, client_flows, .. } = self.room;
        let of_family = || self.sessions.keys().filter(|other| other.source.is_ipv6() == client.is_ipv6());
        if self.sessions.len() >= flows && of_family().count() >= flows {
            return Err("flow_table_full");
        }
        let of_client = || of_family().filter(|other| subscriber(other.source.ip()) == subscriber(client));
        if client_flows > 0 && of_client().count() >= client_flows {
            return Err("client_quota");
        }
        if rule.backends.values().any(|(takes_new, _)| *takes_new) { Ok(()) } else { Err("rejected") }
    }

    /// Whether a new flow of a client may find no SNAT port although there may be one: ports are tried at random, and half of those towards a
    /// backend that it may have got are taken. Its choice, which nobody saw, is remembered where clients stay with their backends.
    fn may_lack_ports(&mut self, client: Tuple) -> bool {
        let (first, last) = self.room.ports;
        let (face, given) = ((client.protocol, client.destination), self.given_to(client));
        let rule = &self.rules[&face];
        let is_scarce = |backend: &SocketAddr| {
            let at = |port| Tuple {
                protocol: client.protocol,
                source: *backend,
                destination: SocketAddr::new(snat(backend.is_ipv6()), port),
            };
            let keeps = rule.mode == Mode::Dnat && backend.ip() != client.source.ip();
            let taken = self.replies.range(at(first)..=at(last)).count();
            !keeps && taken * 2 > usize::from(last - first)
        };
        let takes_new = rule.backends.iter().filter(|(_, (takes_new, _))| *takes_new).map(|(at, _)| *at);
        let lacks = match given {
            Some(given) => is_scarce(&given),
            None => takes_new.into_iter().any(|backend| is_scarce(&backend)),
        };
        if lacks {
            match given {
                Some(given) => self.given.insert((face, client.source.ip()), (given, self.now_ms)),
                None => self.given.remove(&(face, client.source.ip())),
            };
        }
        lacks
    }

    /// The backend that a client's new flow has to go to (rules F1 to F4): that of its latest one, if that was not too long ago and the backend
    /// takes new flows.
    fn given_to(&self, client: Tuple) -> Option<SocketAddr> {
        let (face, rule) = ((client.protocol, client.destination), self.rule_of(client)?);
        let &(backend, at_ms) = self.given.get(&(face, client.source.ip()))?;
        let takes_new = rule.backends.get(&backend).is_some_and(|(takes_new, _)| *takes_new);
        (takes_new && self.now_ms - at_ms < rule.affinity_s * 1_000).then_some(backend)
    }

    /// Whether the gateway may have made this choice for a new flow: ends of the packet that left.
    fn permits(&self, client: Tuple, chosen: Tuple) -> Judged<()> {
        let rule = &self.rules[&(client.protocol, client.destination)];
        let (reply, from, backend) = (chosen.back(), chosen.source, chosen.destination);
        if chosen.protocol != client.protocol
            || !rule.backends.get(&backend).is_some_and(|(takes_new, _)| *takes_new)
        {
            return Err(format!("{chosen:?} is to no backend that takes new flows: {rule:?}"));
        }
        if let Some(given) = self.given_to(client).filter(|given| *given != backend) {
            return Err(format!("{chosen:?} leaves {given}, which its client is to stay with: {rule:?}"));
        }
        if let Some((other, _)) = self.find(reply)
            && !self.is_over(other)
        {
            return Err(format!("{chosen:?} shares its answers with {other:?}"));
        }
        let keeps = rule.mode == Mode::Dnat && backend.ip() != client.source.ip();
        let address = if keeps { client.source.ip() } else { snat(from.is_ipv6()) };
        let own = Tuple { destination: client.source, ..reply };
        let keeps_port = keeps && from == client.source;
        let (first, last) = self.room.ports;
        let is_legal = (first..=last).contains(&from.port()) && !(30_000..=32_767).contains(&from.port());
        // Its own port is a client's unless it is taken, or leads its replies to another worker than its packets.
        let must_keep_port = keeps && self.workers == 1 && self.find(own).is_none();
        if from.ip() != address || !keeps_port && (must_keep_port || !is_legal) {
            return Err(format!("{chosen:?} is not from where it should be: {rule:?}, client {client:?}"));
        }
        Ok(())
    }

    /// Makes a flow by the choice that shows in the frame that left.
    fn open(&mut self, client: Tuple, what: &What, sent: Option<&[u8]>) -> Judged<()> {
        let sent = sent.ok_or("a packet may open a flow, but nothing left")?;
        let chosen = Layout::at(sent, 14).tuple(sent);
        self.permits(client, chosen)?;
        let (face, reply) = ((client.protocol, client.destination), chosen.back());
        let rule = &self.rules[&face];
        let life = match what {
            What::Udp => Life::Udp,
            What::Tcp(segment) => {
                let adopts = rule.tracking.midstream == Midstream::Forward;
                let model = tcp_model::Model::open(segment, adopts);
                Life::Tcp(model.ok_or("a segment that opens nothing opened a flow")?)
            }
            What::Sctp(_) => Life::Sctp(Association::new()),
        };
        if rule.affinity_s > 0 {
            self.given.insert((face, client.source.ip()), (chosen.destination, self.now_ms));
        }
        if matches!(what, What::Tcp(_)) && !what.asks() {
            self.count("flows_adopted");
        }
        self.count("flows_opened");
        if let Some((over, _)) = self.find(reply) {
            self.remove(over);
        }
        self.replies.insert(reply, client);
        let (seen_ms, touched_ms) = (self.now_ms, self.now_ms);
        let session = Session { client, reply, life, seen_ms, touched_ms, last: [None, None] };
        self.sessions.insert(client, session);
        Ok(())
    }

    /// UDP flows whose backend serves no more while another does are over (rules U1 to U4).
    pub fn leave_deserted(&mut self) {
        let deserted = |session: &&Session| {
            let Some(rule) = self.rule_of(session.client) else { return false };
            let serves = |at| rule.backends.get(at).is_some_and(|(_, serves)| *serves);
            matches!(session.life, Life::Udp)
                && !serves(&session.reply.source)
                && rule.backends.values().any(|b| b.1)
        };
        let gone: BTreeSet<Tuple> = self.sessions.values().filter(deserted).map(|s| s.client).collect();
        gone.into_iter().for_each(|client| self.remove(client));
    }
}

/// Whose flows are counted together.
fn subscriber(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

/// Byte by byte; only of an SCTP checksum that came wrong nothing is asked but that it stays wrong.
fn is_same(got: &[u8], wanted: &[u8], is_wrong: bool) -> bool {
    if got == wanted || !is_wrong || number(got) != number(wanted) || wanted.len() != got.len() {
        return got == wanted;
    }
    let layout = Layout::at(wanted, 14);
    let mask = |bytes: &[u8]| [&bytes[..layout.l4 + 8], &bytes[layout.l4 + 12..]].concat();
    mask(got) == mask(wanted) && wrongness(got, layout) != 0
}
