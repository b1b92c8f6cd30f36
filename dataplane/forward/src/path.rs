//! [`Path`]: what the packet path does in another way for IPv4 than for IPv6. Everything else is written once, over a [`Path`].

use crate::address::Address;
use crate::cpu::Level;
use crate::flow_key::{FlowKey, FlowKey6, Key};
use crate::flow_table::{Entry, FlowTable};
use crate::icmp_error::{self, Onward};
use crate::parse::{self, ETHERNET, PLAIN, Packet, Start};
use crate::parse6;
use crate::rewrite::{Addressing, Deltas, Sums, Translation};
use crate::rewrite6::Translation6;
use crate::tunnel::Tunnel;
use turnpike_packet::icmpv4::{self, Complaint};
use turnpike_packet::tcp::HEADER as TCP_HEADER;
use turnpike_packet::{icmpv6, ipv4, ipv6};

/// Room for the frame of an ICMP error of either family.
pub type ErrorFrame = [u8; icmpv6::ERROR_FRAME_MAX];

/// The flow tables of one worker.
#[derive(Debug)]
pub struct Flows<'m> {
    /// Flows over IPv4.
    pub v4: FlowTable<'m, FlowKey>,
    /// Flows over IPv6; holds nothing where the gateway does not speak it.
    pub v6: FlowTable<'m, FlowKey6>,
}

impl Flows<'_> {
    /// Flows that are live.
    #[must_use]
    pub const fn live(&self) -> u64 {
        self.v4.live() as u64 + self.v6.live() as u64
    }

    /// How many clients were forgotten for lack of room ([`crate::quota`]).
    #[must_use]
    pub const fn clients_forgotten(&self) -> u64 {
        self.v4.quota().forgotten() + self.v6.quota().forgotten()
    }

    /// How many ports leave their rest early for lack of room ([`crate::quarantine`]).
    #[must_use]
    pub const fn rests_cut(&self) -> u64 {
        self.v4.quarantine().cut_short() + self.v6.quarantine().cut_short()
    }
}

/// One of the two ways, named by its five-tuple.
pub trait Path: Sums + Tunnel {
    /// What a steady packet's translation needs of its frame.
    type Head: ?Sized;

    /// Where the transport header of a packet without options or extensions starts in its frame.
    const L4: usize;

    /// Its flows.
    fn flows<'a, 'm>(flows: &'a Flows<'m>) -> &'a FlowTable<'m, Self>;

    /// Its flows.
    fn flows_mut<'a, 'm>(flows: &'a mut Flows<'m>) -> &'a mut FlowTable<'m, Self>;

    /// How frames of the common case begin; see [`parse::start`].
    fn start(mac: u64) -> Start;

    /// What a frame is in the common case; see [`parse::glance`].
    fn glance<L: Level>(head: &[u8], frame_len: usize, start: &Start) -> Option<(Self, Packet)>;

    /// What any frame is; see [`parse::read`].
    fn read(head: &[u8], frame_len: usize, mac: u64) -> (Self, Packet);

    /// The head of a frame, if it has one.
    fn head(frame: &mut [u8]) -> Option<&mut Self::Head>;

    /// The TCP header that follows an IP header without options.
    fn tcp(head: &Self::Head) -> Option<&[u8; TCP_HEADER]>;

    /// Translates a steady packet of TCP or UDP in a direction of its flow. `false`, and nothing is written, when its time has run out.
    fn translate_steady(
        session: &Self::Session,
        direction: usize,
        is_tcp: bool,
        head: &mut Self::Head,
        link: Addressing,
    ) -> bool;

    /// Translates any packet of a flow. `false`, and nothing is written, when its time has run out.
    fn translate(
        session: &Self::Session,
        direction: usize,
        packet: Packet,
        frame: &mut [u8],
        link: Addressing,
    ) -> bool;

    /// Translates a fragment that is not the first of its packet. `false`, and nothing is written, when its time has run out.
    fn translate_later_fragment(
        session: &Self::Session,
        direction: usize,
        frame: &mut [u8],
        link: Addressing,
    ) -> bool;

    /// Translates an ICMP error whose message starts at `icmp`; see [`icmp_error::translate`].
    fn translate_error(frame: &mut [u8], icmp: usize, onward: Onward<Self>) -> bool;

    /// Length of the IP packet in a frame, as its header states it.
    fn packet_len(frame: &[u8]) -> Option<usize>;

    /// Whether the packet must not be fragmented on its way.
    fn stays_whole(frame: &[u8]) -> bool;

    /// Whether a host may be sent an error about the packet.
    fn may_be_told(frame: &[u8]) -> bool;

    /// Writes the frame of an error about the packet in `frame`, and returns its length.
    fn error(frame: &[u8], source: Address, complaint: Complaint, into: &mut ErrorFrame) -> Option<usize>;

    /// Turns the frame of an echo request into its reply.
    fn echo_reply(frame: &mut [u8], icmp: usize, mac: [u8; 6]);
}

/// Whether a flow is one of TCP.
fn is_tcp<S: Entry>(session: &S) -> bool {
    session.keys()[0].protocol() == ipv4::TCP
}

/// A packet of one direction leaves as the other direction's key reversed.
#[inline(always)]
fn translation(session: &<FlowKey as Key>::Session, direction: usize, is_tcp: bool) -> Translation {
    let direction = direction & 1;
    let deltas = Deltas { l3: session.l3_delta[direction], l4: session.l4_delta[direction] };
    Translation::new(session.keys()[direction ^ 1], is_tcp, deltas)
}

#[inline(always)]
fn translation6(session: &<FlowKey6 as Key>::Session, direction: usize, is_tcp: bool) -> Translation6 {
    let direction = direction & 1;
    Translation6::new(&session.keys()[direction ^ 1], is_tcp, session.l4_delta[direction])
}

impl Path for FlowKey {
    type Head = [u8; PLAIN];

    const L4: usize = parse::L4;

    #[inline(always)]
    fn flows<'a, 'm>(flows: &'a Flows<'m>) -> &'a FlowTable<'m, Self> {
        &flows.v4
    }

    #[inline(always)]
    fn flows_mut<'a, 'm>(flows: &'a mut Flows<'m>) -> &'a mut FlowTable<'m, Self> {
        &mut flows.v4
    }

    #[inline(always)]
    fn start(mac: u64) -> Start {
        parse::start(mac)
    }

    #[inline(always)]
    fn glance<L: Level>(head: &[u8], frame_len: usize, start: &Start) -> Option<(Self, Packet)> {
        parse::glance::<L>(head, frame_len, start)
    }

    fn read(head: &[u8], frame_len: usize, mac: u64) -> (Self, Packet) {
        parse::read(head, frame_len, mac)
    }

    #[inline(always)]
    fn head(frame: &mut [u8]) -> Option<&mut Self::Head> {
        frame.first_chunk_mut()
    }

    #[inline(always)]
    fn tcp(head: &Self::Head) -> Option<&[u8; TCP_HEADER]> {
        head.last_chunk()
    }

    #[inline(always)]
    fn translate_steady(
        session: &Self::Session,
        direction: usize,
        is_tcp: bool,
        head: &mut Self::Head,
        link: Addressing,
    ) -> bool {
        translation(session, direction, is_tcp).apply_plain(head, link)
    }

    fn translate(
        session: &Self::Session,
        direction: usize,
        packet: Packet,
        frame: &mut [u8],
        link: Addressing,
    ) -> bool {
        let translation = translation(session, direction, is_tcp(session));
        match packet.chunk() {
            Some(_) => translation.apply_to_sctp(frame, packet.l4(), link),
            None => translation.apply(frame, packet.l4(), link),
        }
    }

    fn translate_later_fragment(
        session: &Self::Session,
        direction: usize,
        frame: &mut [u8],
        link: Addressing,
    ) -> bool {
        translation(session, direction, is_tcp(session)).apply_to_later_fragment(frame, link)
    }

    fn translate_error(frame: &mut [u8], icmp: usize, onward: Onward<Self>) -> bool {
        icmp_error::translate(frame, icmp, onward)
    }

    fn packet_len(frame: &[u8]) -> Option<usize> {
        let length = frame.get(ETHERNET + 2..)?.first_chunk()?;
        Some(u16::from_be_bytes(*length).into())
    }

    fn stays_whole(frame: &[u8]) -> bool {
        frame.get(ETHERNET + 6).is_some_and(|flags| flags & 0x40 != 0)
    }

    fn may_be_told(frame: &[u8]) -> bool {
        icmpv4::may_be_told(frame)
    }

    fn error(frame: &[u8], source: Address, complaint: Complaint, into: &mut ErrorFrame) -> Option<usize> {
        icmpv4::error(frame, source.as_v4()?, complaint, into.first_chunk_mut()?)
    }

    fn echo_reply(frame: &mut [u8], icmp: usize, mac: [u8; 6]) {
        icmpv4::echo_reply(frame, icmp, mac);
    }
}

impl Path for FlowKey6 {
    /// Datagrams may be shorter than a TCP header, so there is no length that all have.
    type Head = [u8];

    const L4: usize = parse6::L4;

    #[inline(always)]
    fn flows<'a, 'm>(flows: &'a Flows<'m>) -> &'a FlowTable<'m, Self> {
        &flows.v6
    }

    #[inline(always)]
    fn flows_mut<'a, 'm>(flows: &'a mut Flows<'m>) -> &'a mut FlowTable<'m, Self> {
        &mut flows.v6
    }

    #[inline(always)]
    fn start(mac: u64) -> Start {
        parse6::start(mac)
    }

    #[inline(always)]
    fn glance<L: Level>(head: &[u8], frame_len: usize, start: &Start) -> Option<(Self, Packet)> {
        parse6::glance::<L>(head, frame_len, start)
    }

    fn read(head: &[u8], frame_len: usize, mac: u64) -> (Self, Packet) {
        parse6::read(head, frame_len, mac)
    }

    #[inline(always)]
    fn head(frame: &mut [u8]) -> Option<&mut Self::Head> {
        Some(frame)
    }

    #[inline(always)]
    fn tcp(head: &Self::Head) -> Option<&[u8; TCP_HEADER]> {
        head.get(Self::L4..)?.first_chunk()
    }

    #[inline(always)]
    fn translate_steady(
        session: &Self::Session,
        direction: usize,
        is_tcp: bool,
        head: &mut Self::Head,
        link: Addressing,
    ) -> bool {
        translation6(session, direction, is_tcp).apply(head, Self::L4, link)
    }

    fn translate(
        session: &Self::Session,
        direction: usize,
        packet: Packet,
        frame: &mut [u8],
        link: Addressing,
    ) -> bool {
        let translation = translation6(session, direction, is_tcp(session));
        match packet.chunk() {
            Some(_) => translation.apply_to_sctp(frame, packet.l4(), link),
            None => translation.apply(frame, packet.l4(), link),
        }
    }

    fn translate_later_fragment(
        session: &Self::Session,
        direction: usize,
        frame: &mut [u8],
        link: Addressing,
    ) -> bool {
        translation6(session, direction, is_tcp(session)).apply_to_later_fragment(frame, link)
    }

    fn translate_error(frame: &mut [u8], icmp: usize, onward: Onward<Self>) -> bool {
        icmp_error::translate6(frame, icmp, onward)
    }

    fn packet_len(frame: &[u8]) -> Option<usize> {
        let length = frame.get(parse6::PAYLOAD_LENGTH..)?.first_chunk()?;
        Some(ipv6::HEADER + usize::from(u16::from_be_bytes(*length)))
    }

    /// RFC 8200 section 4.5: only sources make fragments.
    fn stays_whole(_: &[u8]) -> bool {
        true
    }

    fn may_be_told(frame: &[u8]) -> bool {
        icmpv6::may_be_told(frame)
    }

    fn error(frame: &[u8], source: Address, complaint: Complaint, into: &mut ErrorFrame) -> Option<usize> {
        icmpv6::error(frame, source.as_v6()?, complaint, into)
    }

    fn echo_reply(frame: &mut [u8], icmp: usize, mac: [u8; 6]) {
        icmpv6::echo_reply(frame, icmp, mac);
    }
}
