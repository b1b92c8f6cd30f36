//! The model of the NAT: what RFC 4787, 5382, 5508 and 7857 and the documentation say, in maps and plain steps. It knows neither Maglev nor the
//! port pool: of a new flow it takes the choice from the first packet that left, and looks whether it was permitted. Everything else it
//! predicts: each verdict, each counter, each byte that leaves.

use crate::association::{Association, Chunk};
use crate::frames::{
    Layout, Tuple, address, dressed, icmp_frame, own_error, readdressed, set_macs, sum_header, sum_transport,
    word, wrongness,
};
use crate::harness::talk::Side;
use crate::harness::{MAC, ROUTER_MAC, SNAT, tcp_model};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use turnpike_packet::flight::Flight;
use turnpike_packet::ipv4::{ICMP, SCTP, TCP, UDP};
use turnpike_packet::tcp::flags::{ACK, FIN, RST, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_packet::{sctp, sctp::chunk, tcp};
use turnpike_wire::update::{Action, Midstream, Mode, Tracking};

/// The gateway's own address in the tests' bed.
pub const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const MTU: u16 = 1_500;
/// Largest segment that a SYN may announce: the MTU less two headers.
pub const MSS_MAX: u16 = MTU - 40;
/// Answers that may be made a second.
const ANSWERS: u32 = 1_000;

/// What a frontend does with new flows, and whom it has.
#[derive(Clone, Debug)]
pub struct Rule {
    pub is_cluster_ip: bool,
    pub action: Action,
    pub mode: Mode,
    /// Sources that may come, as a network; none: all.
    pub sources: Option<(Ipv4Addr, u8)>,
    pub tracking: Tracking,
    /// Backends, with whether they take new flows, and whether they serve.
    pub backends: BTreeMap<SocketAddrV4, (bool, bool)>,
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
#[derive(Debug, Default)]
pub struct Nat {
    pub rules: BTreeMap<(u8, SocketAddrV4), Rule>,
    pub sessions: BTreeMap<Tuple, Session>,
    /// The client's five-tuple of each reply's.
    pub replies: BTreeMap<Tuple, Tuple>,
    /// Counters as they must be.
    pub counts: BTreeMap<&'static str, u64>,
    pub now_ms: u32,
    /// When the second began in which answers are counted, and how many were made or refused in it.
    answers: (u32, u32),
}

/// What a packet must lead to.
enum Fate {
    /// It is counted so and nothing leaves.
    Silent(&'static str),
    /// It is counted so, and this leaves.
    Leaves(&'static str, Vec<u8>),
}

type Judged<T> = Result<T, String>;

impl Nat {
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
    fn is_over(&self, client: Tuple) -> bool {
        let session = &self.sessions[&client];
        self.now_ms - session.seen_ms > self.may_idle_ms(session)
    }

    /// The address is a VIP, the gateway's own or one of SNAT.
    fn is_ours(&self, address: Ipv4Addr) -> bool {
        address == OWN
            || address == Ipv4Addr::from(SNAT)
            || self.rules.keys().any(|(_, at)| *at.ip() == address)
    }

    fn is_bad_source(&self, address: Ipv4Addr) -> bool {
        let first = address.octets()[0];
        first == 0 || first == 127 || first >= 224 || self.is_ours(address)
    }

    /// The verdict on what no frontend and no flow is for.
    fn unanswered(&self, destination: Ipv4Addr) -> &'static str {
        let mut here = self.rules.iter().filter(|((_, at), _)| *at.ip() == destination).peekable();
        let is_vip = here.peek().is_some();
        if here.any(|(_, rule)| rule.is_cluster_ip) {
            "rejected"
        } else if destination == Ipv4Addr::from(SNAT) {
            "snat_no_flow"
        } else if destination == OWN {
            "own_address"
        } else if is_vip {
            "no_frontend"
        } else if destination.octets()[..2] == [10, 96] {
            "unallocated_cluster_ip"
        } else {
            "not_ours"
        }
    }

    /// Whether one more answer may be made in this second.
    fn may_answer(&mut self) -> bool {
        if self.now_ms - self.answers.0 >= 1_000 {
            self.answers = (self.now_ms, 0);
        }
        self.answers.1 += 1;
        self.answers.1 <= ANSWERS
    }

    /// Takes what left because of a frame off the front of `left`, and says what is wrong with it, if anything is.
    pub fn judge(&mut self, came: &Arrival, left: &mut VecDeque<Vec<u8>>) -> Judged<()> {
        self.count("rx_packets");
        let fate = self.fate(came, left)?;
        let (verdict, wanted) = match fate {
            Fate::Silent(verdict) => (verdict, None),
            Fate::Leaves(verdict, wanted) => (verdict, Some(wanted)),
        };
        self.count(verdict);
        let Some(wanted) = wanted else { return Ok(()) };
        self.count("tx_packets");
        let got = match word(&wanted, 16) > MTU {
            true => self.joined(left, &wanted)?,
            false => left.pop_front().ok_or_else(|| format!("{verdict}, but nothing left"))?,
        };
        let is_wrong = Layout::at(&came.frame, 14).protocol == SCTP
            && verdict == "forwarded"
            && wrongness(&came.frame, Layout::at(&came.frame, 14)) != 0;
        // What is behind the packet does not go with its fragments.
        let wanted = if word(&wanted, 16) > MTU { &wanted[..got.len().min(wanted.len())] } else { &wanted };
        compare(&got, wanted, is_wrong)
            .map_err(|why| format!("{verdict}: {why}\n  got    {got:02x?}\n  wanted {wanted:02x?}"))
    }

    /// The packet that left in fragments, from the front of `left`, with the identification of `wanted`: theirs is the gateway's choice.
    fn joined(&mut self, left: &mut VecDeque<Vec<u8>>, wanted: &[u8]) -> Judged<Vec<u8>> {
        let payload = 14 + usize::from(wanted[14] & 0x0f) * 4;
        let mut whole: Vec<u8> = Vec::new();
        loop {
            let piece = left.pop_front().ok_or("a fragment is missing")?;
            let start = if whole.is_empty() { payload } else { whole.len() };
            let place = usize::from(word(&piece, 20) & 0x1fff) * 8 + payload;
            let is_right = turnpike_packet::checksum::ones_complement_sum(&piece[14..payload]) == 0xffff;
            if !is_right
                || word(&piece, 16) > MTU
                || place != start
                || usize::from(word(&piece, 16)) + 14 != piece.len()
            {
                return Err(format!("a wrong fragment: {piece:02x?}"));
            }
            match whole.is_empty() {
                true => whole = piece.clone(),
                false if whole[18..20] != piece[18..20] => return Err("fragments of two datagrams".into()),
                false => whole.extend(&piece[payload..]),
            }
            if word(&piece, 20) & 0x2000 == 0 {
                break;
            }
            for name in ["forwarded", "fragments_made", "tx_packets"] {
                self.count(name);
            }
        }
        // Length, identification, flags and checksum say what is said of the whole.
        whole[16..22].copy_from_slice(&wanted[16..22]);
        whole[24..26].copy_from_slice(&wanted[24..26]);
        Ok(whole)
    }

    fn fate(&mut self, came: &Arrival, left: &VecDeque<Vec<u8>>) -> Judged<Fate> {
        let frame = &came.frame;
        if let Some(verdict) = unreadable(frame) {
            return Ok(Fate::Silent(verdict));
        }
        let layout = Layout::at(frame, 14);
        match layout.protocol {
            TCP | UDP | SCTP => self.packet(frame, layout, left),
            ICMP if frame[layout.l4] == 8 => Ok(self.echo(frame, layout)),
            _ => Ok(self.error(came, layout)),
        }
    }

    fn echo(&mut self, frame: &[u8], layout: Layout) -> Fate {
        let Tuple { source, destination, .. } = layout.tuple(frame);
        if !self.is_ours(*destination.ip()) {
            return Fate::Silent(self.unanswered(*destination.ip()));
        }
        if self.is_bad_source(*source.ip()) {
            return Fate::Silent("bad_source");
        }
        if !self.may_answer() {
            return Fate::Silent("reject_limited");
        }
        let mut reply = frame.to_vec();
        set_macs(&mut reply);
        reply[22] = 64;
        reply[26..30].copy_from_slice(&destination.ip().octets());
        reply[30..34].copy_from_slice(&source.ip().octets());
        sum_header(&mut reply, layout);
        let message = [&[0, 0, 0, 0], &reply[layout.l4 + 4..layout.end]].concat();
        let sum = turnpike_packet::checksum::checksum(&message).to_be_bytes();
        reply[layout.l4] = 0;
        reply[layout.l4 + 2..layout.l4 + 4].copy_from_slice(&sum);
        Fate::Leaves("echo_replied", reply)
    }

    /// RFC 5508: an error goes to the sender of the packet that it is about, quoting it as that one sent it.
    fn error(&mut self, came: &Arrival, layout: Layout) -> Fate {
        let frame = &came.frame;
        let sum = turnpike_packet::checksum::ones_complement_sum(&frame[layout.l4..layout.end]);
        let inner = Layout::at(frame, layout.l4 + 8);
        let quoted = inner.tuple(frame);
        if sum != 0xffff || address(frame, 30) != *quoted.source.ip() {
            return Fate::Silent("icmp_bad");
        }
        if self.find(quoted.back()).is_none() {
            return Fate::Silent(match self.unanswered(*quoted.source.ip()) {
                same @ ("own_address" | "not_ours") => same,
                _ => "icmp_no_flow",
            });
        }
        if self.is_bad_source(address(frame, 26)) {
            return Fate::Silent("bad_source");
        }
        if frame[22] <= 1 {
            return Fate::Silent("ttl_expired");
        }
        let about = came.about.as_ref().expect("the driver knows what its errors about live flows are about");
        let mut wanted = frame.clone();
        set_macs(&mut wanted);
        wanted[22] -= 1;
        wanted[26..30].copy_from_slice(&about[30..34]);
        wanted[30..34].copy_from_slice(&about[26..30]);
        sum_header(&mut wanted, layout);
        let ttl = frame[inner.ip + 8];
        wanted[inner.ip..layout.end].copy_from_slice(&about[14..14 + layout.end - inner.ip]);
        wanted[inner.ip + 8] = ttl;
        if inner.protocol == SCTP && layout.end >= inner.l4 + 12 {
            // Nobody can sum a packet of which there is only the beginning: it stays as it is quoted.
            let stays = inner.l4 + 8..inner.l4 + 12;
            wanted[stays.clone()].copy_from_slice(&frame[stays]);
        }
        sum_header(&mut wanted, inner);
        wanted[layout.l4 + 2..layout.l4 + 4].fill(0);
        let sum = turnpike_packet::checksum::checksum(&wanted[layout.l4..layout.end]).to_be_bytes();
        wanted[layout.l4 + 2..layout.l4 + 4].copy_from_slice(&sum);
        self.count("icmp_translated");
        Fate::Leaves("forwarded", wanted)
    }

    /// TCP, UDP or SCTP.
    fn packet(&mut self, frame: &[u8], layout: Layout, left: &VecDeque<Vec<u8>>) -> Judged<Fate> {
        let ends = layout.tuple(frame);
        let what = What::of(frame, layout);
        if what.asks() && matches!(self.find(ends), Some((_, Side::Client))) && self.gives_way(ends) {
            self.remove(ends);
        }
        if self.find(ends).is_none() {
            match self.may_open(ends, &what) {
                Ok(()) => self.open(ends, &what, left)?,
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
        if word(frame, 16) > MTU && frame[20] & 0x40 != 0 {
            return self.complain("too_big", true, frame, (3, 4, MTU));
        }
        let (mut came, clamped) = clamped(frame, layout);
        if clamped {
            self.count("mss_clamped");
        }
        if frame[22] <= 1 {
            // The gateway complains about what it has in hand.
            return self.complain("ttl_expired", true, &came, (11, 0, 0));
        }
        let session = self.sessions.get_mut(&client).expect("it is live");
        let ends = match side {
            Side::Client => session.reply.back(),
            Side::Backend => session.client.back(),
        };
        let wanted = readdressed(&came, ends);
        if !clamped && wrongness(frame, layout) == 0 && frame.len() < 300 {
            came.truncate(layout.end);
            session.last[side as usize] = Some((came, wanted.clone()));
        }
        Fate::Leaves("forwarded", wanted)
    }

    fn complain(
        &mut self,
        verdict: &'static str,
        wants: bool,
        frame: &[u8],
        (kind, code, mtu): (u8, u8, u16),
    ) -> Fate {
        let hosts = [26, 30].iter().all(|&at| !matches!(frame[at], 0 | 127 | 224..));
        if !wants || !hosts || !self.may_answer() {
            return Fate::Silent(verdict);
        }
        self.count("icmp_sent");
        Fate::Leaves(verdict, own_error(OWN, frame, kind, code, mtu))
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
        let Some(rule) = self.rule_of(ends) else { return Err(self.unanswered(*ends.destination.ip())) };
        if self.is_bad_source(*ends.source.ip()) {
            return Err("bad_source");
        }
        let within = |(network, length): (Ipv4Addr, u8)| {
            (u32::from(network) ^ u32::from(*ends.source.ip())) >> (32 - length) == 0
        };
        if !rule.is_cluster_ip && !rule.sources.is_none_or(within) {
            return Err("source_range");
        }
        match rule.action {
            Action::Drop => return Err("frontend_drop"),
            Action::Reject => return Err("rejected"),
            Action::Forward => {}
        }
        match what {
            What::Tcp(segment) if !what.asks() => match rule.tracking.midstream {
                Midstream::Forward if segment.flags & (SYN | RST | ACK) == ACK => {}
                Midstream::Drop => return Err("tcp_no_flow_drop"),
                _ => return Err("tcp_no_flow"),
            },
            What::Sctp(_) if !what.asks() => return Err("sctp_no_flow"),
            _ => {}
        }
        if rule.backends.values().any(|(takes_new, _)| *takes_new) { Ok(()) } else { Err("rejected") }
    }

    /// Makes a flow by the choice that shows in the next frame that left.
    fn open(&mut self, client: Tuple, what: &What, left: &VecDeque<Vec<u8>>) -> Judged<()> {
        let sent = left.front().ok_or("a packet may open a flow, but nothing left")?;
        let layout = Layout::at(sent, 14);
        let (chosen, rule) = (layout.tuple(sent), &self.rules[&(client.protocol, client.destination)]);
        let (reply, from, backend) = (chosen.back(), chosen.source, chosen.destination);
        if chosen.protocol != client.protocol
            || !rule.backends.get(&backend).is_some_and(|(takes_new, _)| *takes_new)
        {
            return Err(format!("{chosen:?} is to no backend that takes new flows: {rule:?}"));
        }
        if let Some((other, _)) = self.find(reply)
            && !self.is_over(other)
        {
            return Err(format!("{chosen:?} shares its answers with {other:?}"));
        }
        let keeps = rule.mode == Mode::Dnat && backend.ip() != client.source.ip();
        let own = Tuple { destination: client.source, ..reply };
        let may_keep_port = keeps && client.source.port() != 0 && self.find(own).is_none();
        let address = if keeps { *client.source.ip() } else { SNAT.into() };
        // Whether the worker still has a flow whose time is over only its sweep knows.
        let may_keep_port =
            may_keep_port || from == client.source && self.find(own).is_some_and(|f| self.is_over(f.0));
        let is_legal = from.port() >= 1_024 && !(30_000..=32_767).contains(&from.port());
        if *from.ip() != address || (may_keep_port && from != client.source) || (!may_keep_port && !is_legal)
        {
            return Err(format!("{chosen:?} is not from where it should be: {rule:?}, client {client:?}"));
        }
        let life = match what {
            What::Udp => Life::Udp,
            What::Tcp(segment) => {
                let adopts = rule.tracking.midstream == Midstream::Forward;
                Life::Tcp(
                    tcp_model::Model::open(segment, adopts)
                        .ok_or("a segment that opens nothing opened a flow")?,
                )
            }
            What::Sctp(_) => Life::Sctp(Association::new()),
        };
        if matches!(what, What::Tcp(_)) && !what.asks() {
            self.count("flows_adopted");
        }
        self.count("flows_opened");
        if let Some((over, _)) = self.find(reply) {
            self.remove(over);
        }
        self.replies.insert(reply, client);
        self.sessions.insert(
            client,
            Session {
                client,
                reply,
                life,
                seen_ms: self.now_ms,
                touched_ms: self.now_ms,
                last: [None, None],
            },
        );
        Ok(())
    }

    /// What becomes of a packet that may not make a flow.
    fn refuse(&mut self, verdict: &'static str, frame: &[u8], layout: Layout, what: &What) -> Fate {
        let Tuple { source, destination, .. } = layout.tuple(frame);
        let back = Flight {
            source_mac: MAC,
            destination_mac: ROUTER_MAC,
            source: destination.into(),
            destination: source.into(),
        };
        match (verdict, what) {
            ("rejected", _) => {
                if !self.may_answer() {
                    return Fate::Silent("reject_limited");
                }
                if [26, 30].iter().any(|&at| matches!(frame[at], 0 | 127 | 224..)) {
                    return Fate::Silent(verdict);
                }
                self.count("icmp_sent");
                Fate::Leaves(verdict, own_error(*destination.ip(), frame, 3, 3, 0))
            }
            ("tcp_no_flow", What::Tcp(segment)) if !segment.has(RST) && self.may_answer() => {
                self.count("resets_sent");
                let header = usize::from(frame[layout.l4 + 12] >> 4) * 4;
                let data = (layout.end - layout.l4 - header) as u32;
                let length = data + u32::from(segment.has(SYN)) + u32::from(segment.has(FIN));
                let reset = if segment.has(ACK) {
                    tcp::segment(&back, segment.acknowledgement, 0, RST, b"")
                } else {
                    tcp::segment(&back, 0, segment.sequence.wrapping_add(length), RST | ACK, b"")
                };
                Fate::Leaves(verdict, without_window(reset))
            }
            ("sctp_no_flow", What::Sctp(of)) => {
                let kind = match of.kind {
                    chunk::COOKIE_ECHO | chunk::COOKIE_ACK | chunk::ABORT => return Fate::Silent(verdict),
                    chunk::SHUTDOWN_COMPLETE | chunk::ERROR => return Fate::Silent(verdict),
                    chunk::SHUTDOWN_ACK => chunk::SHUTDOWN_COMPLETE,
                    _ => chunk::ABORT,
                };
                if !self.may_answer() {
                    return Fate::Silent(verdict);
                }
                self.count("resets_sent");
                Fate::Leaves(verdict, sctp::packet(&back, of.tag, &[(kind, 1, b"")]))
            }
            _ => Fate::Silent(verdict),
        }
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

/// What a packet means to its flow.
#[derive(Clone, Copy)]
enum What {
    Udp,
    Tcp(Segment),
    Sctp(Chunk),
}

impl What {
    fn of(frame: &[u8], layout: Layout) -> Self {
        let l4 = &frame[layout.l4..layout.end];
        match layout.protocol {
            TCP => Self::Tcp(Segment::read(l4).expect("a header was found")),
            SCTP => Self::Sctp(Chunk {
                kind: l4[12],
                flags: l4[13],
                tag: sctp::verification_tag(l4).expect("a header was found"),
                asks_for: sctp::initiate_tag(l4).unwrap_or(0),
            }),
            _ => Self::Udp,
        }
    }

    /// A SYN alone, or an INIT.
    fn asks(&self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp(segment) => segment.flags & (SYN | ACK | RST | FIN) == SYN,
            Self::Sctp(of) => of.kind == chunk::INIT,
        }
    }
}

/// The verdict on a frame that contradicts itself, or that no NAT is for.
fn unreadable(frame: &[u8]) -> Option<&'static str> {
    if frame.len() < 14 {
        return Some("truncated");
    }
    if frame[..6] != MAC {
        return Some("other_mac");
    }
    if frame[12..14] != [8, 0] {
        return Some("other_ethertype");
    }
    if frame.len() < 34 {
        return Some("truncated");
    }
    let (header, total) = (usize::from(frame[14] & 0x0f) * 4, usize::from(word(frame, 16)));
    if frame[14] >> 4 != 4 || header < 20 || total < header || 14 + total > frame.len() {
        return Some("bad_ipv4");
    }
    if turnpike_packet::checksum::ones_complement_sum(&frame[14..14 + header]) != 0xffff {
        return Some("bad_ipv4_checksum");
    }
    // The driver's options are no-operations and source routes.
    if frame[34..14 + header].iter().any(|&option| option == 131 || option == 137) {
        return Some("source_route");
    }
    let layout = Layout::at(frame, 14);
    let l4 = &frame[layout.l4..layout.end];
    match layout.protocol {
        TCP if l4.len() < 20 || !(20..=l4.len()).contains(&(usize::from(l4[12] >> 4) * 4)) => Some("bad_l4"),
        UDP if l4.len() < 8 || !(8..=l4.len()).contains(&usize::from(word(l4, 4))) => Some("bad_l4"),
        SCTP => {
            let is_init = l4.get(12) == Some(&chunk::INIT);
            let is_whole = l4.len() >= 16 && l4[..2] != [0; 2] && l4[2..4] != [0; 2];
            (!is_whole || is_init != (l4[4..8] == [0; 4])).then_some("bad_l4")
        }
        ICMP if l4.len() < 8 => Some("bad_l4"),
        ICMP if l4[0] == 8 && l4[1] == 0 || [3, 11, 12].contains(&l4[0]) => None,
        ICMP => Some("icmp"),
        TCP | UDP => None,
        _ => Some("other_protocol"),
    }
}

/// The frame with the segment size of its SYN lowered, and whether it was. The option comes first among the driver's.
fn clamped(frame: &[u8], layout: Layout) -> (Vec<u8>, bool) {
    let at = layout.l4 + 20;
    let has_option = layout.protocol == TCP && frame[layout.l4 + 12] >> 4 > 5 && frame[at..at + 2] == [2, 4];
    if !has_option || frame[layout.l4 + 13] & SYN == 0 || word(frame, at + 2) <= MSS_MAX {
        return (frame.to_vec(), false);
    }
    let wrong_by = wrongness(frame, layout);
    let mut lowered = frame.to_vec();
    lowered[at + 2..at + 4].copy_from_slice(&MSS_MAX.to_be_bytes());
    sum_transport(&mut lowered, layout, wrong_by);
    (lowered, true)
}

/// A reset offers no window.
fn without_window(mut frame: Vec<u8>) -> Vec<u8> {
    frame[48..50].fill(0);
    let layout = Layout::at(&frame, 14);
    sum_transport(&mut frame, layout, 0);
    dressed(&frame, 64, 0, 0, false, &[], 0)
}

/// Byte by byte; only of an SCTP checksum that came wrong nothing is asked but that it stays wrong.
fn compare(got: &[u8], wanted: &[u8], is_wrong: bool) -> Judged<()> {
    if got == wanted {
        return Ok(());
    }
    if is_wrong && wanted.len() == got.len() {
        let layout = Layout::at(got, 14);
        let mask = |bytes: &[u8]| [&bytes[..layout.l4 + 8], &bytes[layout.l4 + 12..]].concat();
        if mask(got) == mask(wanted) && wrongness(got, layout) != 0 {
            return Ok(());
        }
    }
    let at = got.iter().zip(wanted).position(|(a, b)| a != b);
    Err(format!("byte {at:?} of {} is another one than of the {} wanted", got.len(), wanted.len()))
}

/// An ICMP error about a frame that left, as a router or host makes it: type and code, its maker, and how much it quotes.
pub fn error_about(sent: &[u8], from: Ipv4Addr, kind: (u8, u8), quoted: usize, ttl: u8) -> Vec<u8> {
    let mut packet = sent[14..Layout::at(sent, 14).end].to_vec();
    packet[8] = ttl;
    let layout =
        Layout { ip: 0, l4: usize::from(packet[0] & 0x0f) * 4, end: packet.len(), protocol: packet[9] };
    sum_header(&mut packet, layout);
    packet.truncate(quoted.max(layout.l4 + 8));
    let mut message = vec![kind.0, kind.1, 0, 0, 0, 0, 0x05, 0x14];
    message.extend(packet);
    let mut frame = icmp_frame(from, address(sent, 26), &message);
    frame[..6].copy_from_slice(&MAC);
    frame[6..12].copy_from_slice(&ROUTER_MAC);
    frame
}
