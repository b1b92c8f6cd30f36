//! Stage one of the packet's walk: what a received frame is; for those of IPv6 [`crate::parse6`] goes on. Reads headers, changes nothing. Next: [`crate::worker`] looks the flow up.
//!
//! Everything a header says about lengths is checked here against the frame, so that later stages need no doubt.

use crate::cpu::{Any, Level};
use crate::flow_key::FlowKey;
use crate::icmp_error;
use crate::limits::SCTP_CHUNKS_MAX;
use crate::tunnel;
use crate::verdict::Verdict;
use turnpike_packet::sctp::{self, chunk};
use turnpike_packet::{checksum, ethernet, icmpv4, tcp::flags, vlan};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Where TCP, UDP or SCTP starts in a frame whose IPv4 header has no options.
pub const L4: usize = ETHERNET + IPV4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP or SCTP, whole and consistent.
    Flow,
    /// An ICMP echo request, with its IP header checked.
    Echo,
    /// An ICMP error, with all its checksums checked, about a packet of TCP, UDP or SCTP.
    IcmpError,
    /// An ICMP error, with all its checksums checked, about a packet in a packet.
    TunnelError,
    /// ARP, not yet checked.
    Arp,
    /// Not of the family that was looked for: an IPv6 packet to us or to a group where IPv4 was, or anything but IPv6. Not yet checked.
    OtherFamily,
    /// Neighbour discovery over IPv6 (RFC 4861), not yet checked.
    NeighbourDiscovery,
    /// Nothing that goes on.
    Bad(Verdict),
}

/// What was read from a frame beside its five-tuple, in one word that stays in a register: from the low byte what it is, where its
/// transport header starts, its TCP flags or the type of the SCTP chunk that decides about it, that chunk's flags.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Packet(u32);

const FLOW: u32 = 0;
const ECHO: u32 = 1;
const ARP: u32 = 2;
/// SCTP is a flow too, but never a steady one: its checksum needs more than a sum, and its tags are looked at.
const ASSOCIATION: u32 = 3;
const ICMP_ERROR: u32 = 4;
const OTHER_FAMILY: u32 = 5;
const NEIGHBOUR_DISCOVERY: u32 = 6;
const TUNNEL_ERROR: u32 = 7;
/// Verdicts start here.
const BAD: u32 = 8;

impl Packet {
    pub(crate) const fn bad(verdict: Verdict) -> Self {
        Self(BAD + verdict as u32)
    }

    pub(crate) const fn other_family() -> Self {
        Self(OTHER_FAMILY)
    }

    pub(crate) const fn echo(l4: usize) -> Self {
        Self(ECHO | (l4 as u32 & 0xff) << 8)
    }

    pub(crate) const fn icmp_error(l4: usize) -> Self {
        Self(ICMP_ERROR | (l4 as u32 & 0xff) << 8)
    }

    pub(crate) const fn tunnel_error(l4: usize) -> Self {
        Self(TUNNEL_ERROR | (l4 as u32 & 0xff) << 8)
    }

    pub(crate) const fn neighbour_discovery(l4: usize) -> Self {
        Self(NEIGHBOUR_DISCOVERY | (l4 as u32 & 0xff) << 8)
    }

    #[inline(always)]
    pub(crate) const fn flow(l4: usize, tcp_flags: u8) -> Self {
        Self(FLOW | (l4 as u32 & 0xff) << 8 | (tcp_flags as u32) << 16)
    }

    const fn association(l4: usize, chunk: u8, chunk_flags: u8) -> Self {
        Self(ASSOCIATION | (l4 as u32 & 0xff) << 8 | (chunk as u32) << 16 | (chunk_flags as u32) << 24)
    }

    /// What it is.
    #[inline]
    #[must_use]
    pub fn kind(self) -> Kind {
        match self.0 & 0xff {
            FLOW | ASSOCIATION => Kind::Flow,
            ECHO => Kind::Echo,
            ICMP_ERROR => Kind::IcmpError,
            TUNNEL_ERROR => Kind::TunnelError,
            ARP => Kind::Arp,
            OTHER_FAMILY => Kind::OtherFamily,
            NEIGHBOUR_DISCOVERY => Kind::NeighbourDiscovery,
            bad => Kind::Bad(Verdict::ALL.get((bad - BAD) as usize).copied().unwrap_or(Verdict::Truncated)),
        }
    }

    /// Whether it is a [`Kind::Flow`] whose transport header starts at `l4`, that opens, closes and resets nothing: a datagram, or a
    /// segment with an acknowledgement and none of those flags.
    #[inline(always)]
    #[must_use]
    pub const fn is_steady(self, l4: usize) -> bool {
        const SEEN: u32 = 0xffff | ((flags::STATEFUL | flags::ACK) as u32) << 16;
        self.0 & SEEN == Self::flow(l4, flags::ACK).0
    }

    /// Where the transport header starts.
    #[inline(always)]
    #[must_use]
    pub const fn l4(self) -> usize {
        (self.0 >> 8) as usize & 0xff
    }

    /// TCP flags. 0 for SCTP, and [`flags::ACK`] for UDP: what stands in a datagram's place goes on with something.
    #[inline]
    #[must_use]
    pub const fn tcp_flags(self) -> u8 {
        if self.0 & 0xff == FLOW { (self.0 >> 16) as u8 } else { 0 }
    }

    /// The SCTP chunk that decides about the packet, its type and its flags; none for other protocols.
    #[inline]
    #[must_use]
    pub const fn chunk(self) -> Option<(u8, u8)> {
        if self.0 & 0xff == ASSOCIATION { Some(((self.0 >> 16) as u8, (self.0 >> 24) as u8)) } else { None }
    }

    /// Whether it asks for a new connection or association: a SYN alone, or an INIT.
    #[must_use]
    pub const fn asks(self) -> bool {
        match self.chunk() {
            Some((kind, _)) => kind == chunk::INIT,
            None => self.tcp_flags() & (flags::STATEFUL | flags::ACK) == flags::SYN,
        }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.chunk() {
            Some((kind, flags)) => write!(f, "SCTP at {} with chunk {kind} of flags {flags:#04x}", self.l4()),
            None => write!(f, "{:?} at {} with TCP flags {:#04x}", self.kind(), self.l4(), self.tcp_flags()),
        }
    }
}

/// What was read from a frame: the five-tuple of a [`Kind::Flow`] (of an echo request protocol and addresses; of a [`Kind::IcmpError`] that of
/// an answer to the packet it is about, which comes the same way), and the rest.
pub type Parsed = (FlowKey, Packet);

fn bad(verdict: Verdict) -> Parsed {
    (FlowKey::default(), Packet::bad(verdict))
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const SCTP: u8 = 132;

/// Bytes the first segment has at least in the common case: up to the end of a TCP header without options.
pub const PLAIN: usize = L4 + 20;

/// Reads a frame that came in on a port with this Ethernet address, as [`crate::rewrite::mac_bits`] has it. `head` is its first segment,
/// `frame_len` the length of all.
#[inline(always)]
#[must_use]
pub fn parse(head: &[u8], frame_len: usize, mac: u64) -> Parsed {
    match glance::<Any>(head, frame_len, &start(mac)) {
        Some(parsed) => parsed,
        None => read(head, frame_len, mac),
    }
}

/// How frames of the common case begin.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    wanted: [u8; 32],
    mask: [u8; 32],
}

impl Start {
    /// Those to this Ethernet address with this EtherType, and with these bytes behind it as far as their masks go.
    #[inline(always)]
    pub(crate) fn new(mac: u64, ethertype: u16, bytes: [(usize, u8, u8); 3]) -> Self {
        let mut start = Self { wanted: [0; 32], mask: [0; 32] };
        start.wanted[..6].copy_from_slice(&mac.to_le_bytes()[..6]);
        start.mask[..6].fill(0xff);
        start.wanted[12..ETHERNET].copy_from_slice(&ethertype.to_be_bytes());
        start.mask[12..ETHERNET].fill(0xff);
        for (at, wanted, mask) in bytes {
            start.wanted[at] = wanted & mask;
            start.mask[at] = mask;
        }
        start
    }

    /// Whether a frame begins so.
    #[inline(always)]
    pub(crate) fn is_that_of<L: Level, const N: usize>(&self, frame: &[u8; N]) -> bool {
        const { assert!(N >= 32) };
        frame.first_chunk().is_some_and(|first| L::are_equal(first, &self.wanted, &self.mask))
    }
}

/// How frames of the common case begin that come in on a port with this Ethernet address: IPv4 without options, no fragment. The don't-fragment
/// bit does not matter, and the reserved one is ignored (RFC 791 section 3.1).
#[inline(always)]
#[must_use]
pub fn start(mac: u64) -> Start {
    Start::new(
        mac,
        ethernet::IPV4,
        [(ETHERNET, 0x45, 0xff), (ETHERNET + 6, 0, 0x3f), (ETHERNET + 7, 0, 0xff)],
    )
}

/// The common case, with one branch for each group of checks: TCP or UDP over IPv4 without options, all in order. None for anything else,
/// which [`read`] then looks at with care.
#[inline(always)]
#[must_use]
pub fn glance<L: Level>(head: &[u8], frame_len: usize, start: &Start) -> Option<Parsed> {
    let fixed = head.first_chunk::<PLAIN>()?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&fixed[at..at + 8]);
        u64::from_le_bytes(word)
    };
    if !start.is_that_of::<L, _>(fixed) {
        return None;
    }
    let total_len = usize::from(u16::from_be_bytes([fixed[16], fixed[17]]));
    if !is_sum_right(word(14), word(22), word(30) as u32) || ETHERNET + total_len > frame_len {
        return None;
    }
    let (least, l4_len, tcp_flags) = match fixed[23] {
        TCP => (20, usize::from(fixed[L4 + 12] >> 4) * 4, fixed[L4 + 13]),
        UDP => (8, usize::from(u16::from_be_bytes([fixed[L4 + 4], fixed[L4 + 5]])), flags::ACK),
        _ => return None,
    };
    if l4_len < least || IPV4 + l4_len > total_len {
        return None;
    }
    Some((FlowKey::from_header(word(22), word(30)), Packet::flow(L4, tcp_flags)))
}

/// Whether the one's complement sum of an IPv4 header of five words is right (RFC 1071). 2⁶⁴ leaves 1 when divided by 0xffff, as 2¹⁶ does, so
/// the sum may be made of long words; it is not zero, for the version is part of it.
#[inline(always)]
fn is_sum_right(a: u64, b: u64, c: u32) -> bool {
    /// What a multiple of 0xffff is multiplied with to be divided by it, modulo 2⁶⁴. All else becomes more than any quotient.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) }
    let (sum, carry) = a.overflowing_add(b);
    let (sum, carry) = sum.carrying_add(c.into(), carry);
    let (sum, carry) = sum.overflowing_add(carry.into());
    // After a carry the sum is small: it cannot carry again.
    debug_assert!(!carry);
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// Any frame, with every check in its order and the verdict of the first that fails.
#[cold]
#[inline(never)]
#[must_use]
pub fn read(head: &[u8], frame_len: usize, mac: u64) -> Parsed {
    let missing = if head.len() < frame_len { Verdict::HeaderSplit } else { Verdict::Truncated };
    let Some(link) = head.first_chunk::<ETHERNET>() else { return bad(missing) };
    let broadcast = link[..6] == [0xff; 6];
    let own = link[..6] == mac.to_le_bytes()[..6];
    match (u16::from_be_bytes([link[12], link[13]]), own) {
        (0x0806, own) if own || broadcast => (FlowKey::default(), Packet(ARP)),
        // RFC 2464 section 7: groups of IPv6 have these addresses.
        (0x86dd, own) if own || link[..2] == [0x33; 2] => (FlowKey::default(), Packet::other_family()),
        (tag, _) if vlan::is_tag(tag) => bad(Verdict::OtherVlan),
        (_, false) => bad(Verdict::OtherMac),
        (0x0800, true) => ipv4(head, frame_len, missing),
        (_, true) => bad(Verdict::OtherEthertype),
    }
}

fn ipv4(head: &[u8], frame_len: usize, missing: Verdict) -> Parsed {
    let ip = &head[ETHERNET..];
    if ip.len() < IPV4 {
        return bad(missing);
    }
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if ip[0] >> 4 != 4 || header_len < IPV4 || total_len < header_len || ETHERNET + total_len > frame_len {
        return bad(Verdict::BadIpv4);
    }
    let Some(header) = ip.get(..header_len) else { return bad(missing) };
    if checksum::ones_complement_sum(header) != 0xffff {
        return bad(Verdict::BadIpv4Checksum);
    }
    if has_source_route(&header[IPV4..]) {
        return bad(Verdict::SourceRoute);
    }
    if (ip[6] & 0x3f) | ip[7] != 0 {
        return bad(Verdict::Fragment);
    }
    let l4 = ETHERNET + header_len;
    if ip[9] == ICMP
        && let Some(error) = tunnel::read(head, l4, total_len - header_len)
    {
        return error.map_or_else(bad, |key| (key, Packet::tunnel_error(l4)));
    }
    if ip[9] == ICMP
        && let Some(error) = icmp_error::read(head, l4, total_len - header_len)
    {
        return error.map_or_else(bad, |key| (key, Packet::icmp_error(l4)));
    }
    let ports = match head.get(l4..l4 + 4) {
        Some(&[a, b, c, d]) => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => (0, 0),
    };
    let address = |at: usize| u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    let key = FlowKey::new(ip[9], address(12), address(16), ports.0, ports.1);
    (key, transport(head, l4, total_len - header_len, ip[9]))
}

/// Checks the transport header at `l4`, with `l4_len` bytes from there to the end of the IP packet.
pub(crate) fn transport(head: &[u8], l4: usize, l4_len: usize, protocol: u8) -> Packet {
    match protocol {
        TCP => {
            let Some(header) = head.get(l4..l4 + 20) else { return cut_off(l4_len, 20) };
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < 20 || header_len > l4_len {
                return Packet::bad(Verdict::BadL4);
            }
            Packet::flow(l4, header[13])
        }
        UDP => {
            let Some(header) = head.get(l4..l4 + 8) else { return cut_off(l4_len, 8) };
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            if length < 8 || length > l4_len {
                return Packet::bad(Verdict::BadL4);
            }
            Packet::flow(l4, flags::ACK)
        }
        SCTP => association(head, l4, l4_len),
        ICMP => icmp(head, l4, l4_len),
        _ => Packet::bad(Verdict::OtherProtocol),
    }
}

/// A transport header that is not all there: the packet is too short for it, or the segment.
pub(crate) fn cut_off(l4_len: usize, header_len: usize) -> Packet {
    Packet::bad(if l4_len < header_len { Verdict::BadL4 } else { Verdict::HeaderSplit })
}

/// An SCTP packet (RFC 9260): ports that exist, a first chunk that fits, a verification tag unless it is an INIT, and an INIT alone.
fn association(head: &[u8], l4: usize, l4_len: usize) -> Packet {
    const LEAST: usize = sctp::HEADER + sctp::CHUNK_HEADER;
    let Some(header) = head.get(l4..l4 + LEAST) else { return cut_off(l4_len, LEAST) };
    let packet = &head[l4..head.len().min(l4 + l4_len)];
    let Some(first) = sctp::chunks(packet, l4_len).next() else { return Packet::bad(Verdict::BadL4) };
    let (has_ports, has_tag) = (header[..2] != [0; 2] && header[2..4] != [0; 2], header[4..8] != [0; 4]);
    let is_init = first.kind == chunk::INIT;
    // Sections 3.1 and 8.5.1: no port is 0, and no tag is but an INIT's.
    if !has_ports || has_tag == is_init {
        return Packet::bad(Verdict::BadL4);
    }
    if is_init {
        return init(packet, l4, l4_len, first);
    }
    let decides = decisive(packet, l4_len).unwrap_or(first);
    Packet::association(l4, decides.kind, decides.flags)
}

/// An INIT: long enough, with a tag to initiate, and nothing behind it but padding (RFC 9260 sections 3.3.2 and 6.10).
fn init(packet: &[u8], l4: usize, l4_len: usize, init: sctp::Chunk) -> Packet {
    const LEAST: usize = sctp::HEADER + sctp::INIT;
    let behind = l4_len - sctp::HEADER - usize::from(init.length);
    if usize::from(init.length) < sctp::INIT || behind >= sctp::CHUNK_HEADER {
        return Packet::bad(Verdict::BadL4);
    }
    match sctp::initiate_tag(packet) {
        Some(0) => Packet::bad(Verdict::BadL4),
        Some(_) => Packet::association(l4, chunk::INIT, init.flags),
        None => cut_off(l4_len, LEAST),
    }
}

/// The chunk that says what a packet other than an INIT does to its association: an ABORT wherever it is, since it may come last (RFC 9260
/// section 3.3.7), else the first that opens or closes one. None when all chunks leave it as it is.
fn decisive(packet: &[u8], l4_len: usize) -> Option<sctp::Chunk> {
    let mut found = None;
    for one in sctp::chunks(packet, l4_len).take(SCTP_CHUNKS_MAX) {
        match one.kind {
            chunk::ABORT => return Some(one),
            chunk::COOKIE_ECHO | chunk::COOKIE_ACK => found = found.or(Some(one)),
            chunk::SHUTDOWN | chunk::SHUTDOWN_ACK | chunk::SHUTDOWN_COMPLETE => found = found.or(Some(one)),
            _ => {}
        }
    }
    found
}

fn icmp(head: &[u8], l4: usize, l4_len: usize) -> Packet {
    match head.get(l4..l4 + 8) {
        None => cut_off(l4_len, 8),
        Some(_) if l4_len < 8 => Packet::bad(Verdict::BadL4),
        Some(header) if header[0] == icmpv4::ECHO_REQUEST && header[1] == 0 => Packet::echo(l4),
        Some(_) => Packet::bad(Verdict::Icmp),
    }
}

/// Whether the options hold a loose or strict source route (RFC 791), which gateways must not follow blindly (RFC 7126).
/// Options that do not add up are treated as one: nobody can tell what they ask for.
fn has_source_route(mut options: &[u8]) -> bool {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    loop {
        match options {
            [] | [0, ..] => return false,
            [1, rest @ ..] => options = rest,
            [LOOSE | STRICT, ..] => return true,
            [_, length, ..] if *length >= 2 && usize::from(*length) <= options.len() => {
                options = &options[usize::from(*length)..];
            }
            _ => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::mac_bits;
    use proptest::prelude::*;
    use turnpike_packet::flight::Flight;
    use turnpike_packet::{tcp, udp};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn frames() -> [Vec<u8>; 3] {
        let flight = Flight {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: MAC,
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        };
        [
            tcp::segment(&flight, 7, 9, flags::ACK, b"data!!"),
            tcp::segment(&flight, 7, 0, flags::SYN, b""),
            udp::datagram(&flight, b"enough to be a whole frame"),
        ]
    }

    #[test]
    fn the_common_case_is_read_at_a_glance() {
        for frame in frames() {
            let seen = glance::<Any>(&frame, frame.len(), &start(mac_bits(MAC)));
            assert_eq!(seen, Some(read(&frame, frame.len(), mac_bits(MAC))), "{frame:02x?}");
        }
    }

    #[test]
    fn sctp_is_read_with_care_and_never_steady() {
        let flight = Flight {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: MAC,
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        };
        type Chunks<'a> = &'a [(u8, u8, &'a [u8])];
        let rows: [(Chunks<'_>, Option<u8>); 6] = [
            (&[(chunk::DATA, 3, b"x"), (chunk::SHUTDOWN, 0, b"1234")], Some(chunk::SHUTDOWN)),
            (&[(chunk::COOKIE_ACK, 0, b""), (chunk::SHUTDOWN, 0, b"1234")], Some(chunk::COOKIE_ACK)),
            (&[(chunk::SHUTDOWN, 0, b"1234"), (chunk::ABORT, 0, b"")], Some(chunk::ABORT)),
            (&[(chunk::DATA, 3, b"x"), (chunk::INIT, 0, &sctp::init(1, 1))], Some(chunk::DATA)),
            (&[(200, 0, b"a type of the future")], Some(200)),
            (&[], None),
        ];
        for (i, (chunks, want)) in rows.into_iter().enumerate() {
            let frame = sctp::packet(&flight, 1, chunks);
            assert_eq!(glance::<Any>(&frame, frame.len(), &start(mac_bits(MAC))), None, "row {i}");
            let (key, packet) = parse(&frame, frame.len(), mac_bits(MAC));
            assert_eq!(packet.chunk().map(|(kind, _)| kind), want, "row {i}");
            assert!(!packet.is_steady(L4) && !packet.asks() && packet.tcp_flags() == 0);
            assert_eq!((key.protocol(), key.source_port(), key.destination_port()), (SCTP, 40_000, 80));
        }
        let many: Vec<_> = (0..SCTP_CHUNKS_MAX).map(|_| (chunk::SACK, 0, &b""[..])).collect();
        let frame = sctp::packet(&flight, 1, &[&many[..], &[(chunk::ABORT, 0, b"")]].concat());
        let (_, packet) = parse(&frame, frame.len(), mac_bits(MAC));
        assert_eq!(packet.chunk(), Some((chunk::SACK, 0)), "the walk over chunks is bounded");
    }

    proptest! {
        #[test]
        fn header_sums_are_right_or_wrong_by_any_words(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 20), mend: bool) {
            let mut header = bytes;
            header[0] = 0x45;
            if mend {
                header[10..12].fill(0);
                let sum = checksum::checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            let half = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
            let is_right = checksum::ones_complement_sum(&header) == 0xffff;
            prop_assert_eq!(is_sum_right(word(0), word(8), half(16)), is_right);
        }

        /// Bytes of good frames are changed, with the header checksum made right again or not; the frame is cut or lies about its length.
        #[test]
        fn a_glance_sees_what_reading_sees_or_nothing(
            pick in 0usize..3,
            changes in prop::collection::vec((0usize..60, any::<u8>()), 0..3),
            len in 0usize..70,
            more in 0usize..40,
            sum_again: bool,
        ) {
            let mut frame = frames()[pick].clone();
            let length = frame.len();
            for (at, byte) in changes {
                frame[at % length] = byte;
            }
            if sum_again {
                frame[24..26].fill(0);
                let sum = checksum::checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            frame.truncate(len);
            let read = read(&frame, frame.len() + more, mac_bits(MAC));
            if let Some(seen) = glance::<Any>(&frame, frame.len() + more, &start(mac_bits(MAC))) {
                prop_assert_eq!(seen, read);
            }
        }
    }
}
