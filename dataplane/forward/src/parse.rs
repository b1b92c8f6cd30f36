//! Stage one of the packet's walk: what a received frame is. Reads headers, changes nothing. Next: [`crate::worker`] looks the flow up.
//!
//! Everything a header says about lengths is checked here against the frame, so that later stages need no doubt.

use crate::flow_key::FlowKey;
use crate::verdict::Verdict;
use turnpike_packet::{checksum, icmpv4, tcp::flags};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Where TCP or UDP starts in a frame whose IPv4 header has no options.
pub const L4: usize = ETHERNET + IPV4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP or UDP over IPv4, whole and consistent.
    Flow,
    /// An ICMP echo request over IPv4, with its IPv4 header checked.
    Echo,
    /// ARP, not yet checked.
    Arp,
    /// Nothing that goes on.
    Bad(Verdict),
}

/// What was read from a frame beside its five-tuple, in one word that stays in a register: from the low byte what it is, where its
/// transport header starts, its TCP flags.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Packet(u32);

const FLOW: u32 = 0;
const ECHO: u32 = 1;
const ARP: u32 = 2;
/// Verdicts start here.
const BAD: u32 = 3;

impl Packet {
    const fn bad(verdict: Verdict) -> Self {
        Self(BAD + verdict as u32)
    }

    #[inline(always)]
    const fn flow(l4: usize, tcp_flags: u8) -> Self {
        Self(FLOW | (l4 as u32 & 0xff) << 8 | (tcp_flags as u32) << 16)
    }

    /// What it is.
    #[inline]
    #[must_use]
    pub fn kind(self) -> Kind {
        match self.0 & 0xff {
            FLOW => Kind::Flow,
            ECHO => Kind::Echo,
            ARP => Kind::Arp,
            bad => Kind::Bad(Verdict::ALL.get((bad - BAD) as usize).copied().unwrap_or(Verdict::Truncated)),
        }
    }

    /// Whether it is a [`Kind::Flow`] that opens, closes and resets nothing.
    #[inline(always)]
    #[must_use]
    pub const fn is_steady(self) -> bool {
        self.0 & (0xff | (flags::STATEFUL as u32) << 16) == FLOW
    }

    /// Where the transport header starts.
    #[inline(always)]
    #[must_use]
    pub const fn l4(self) -> usize {
        (self.0 >> 8) as usize & 0xff
    }

    /// TCP flags; 0 for UDP.
    #[inline(always)]
    #[must_use]
    pub const fn tcp_flags(self) -> u8 {
        (self.0 >> 16) as u8
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} with transport at {} and TCP flags {:#04x}", self.kind(), self.l4(), self.tcp_flags())
    }
}

/// What was read from a frame: the five-tuple of a [`Kind::Flow`] (of an echo request protocol and addresses), and the rest.
pub type Parsed = (FlowKey, Packet);

const fn bad(verdict: Verdict) -> Parsed {
    (FlowKey::from_header(0), Packet::bad(verdict))
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Reads a frame that came in on a port with this Ethernet address, as [`crate::rewrite::mac_bits`] has it. `head` is its first segment,
/// `frame_len` the length of all.
#[inline(always)]
#[must_use]
pub fn parse(head: &[u8], frame_len: usize, mac: u64) -> Parsed {
    // The common case: IPv4 without options, and enough bytes for the ports behind it.
    let Some(fixed) = head.first_chunk::<{ L4 + 8 }>() else { return short(head, frame_len, mac) };
    let ours = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]) == mac as u32
        && u16::from_le_bytes([fixed[4], fixed[5]]) == (mac >> 32) as u16;
    if !ours || u16::from_le_bytes([fixed[12], fixed[13]]) != 0x0008 || fixed[14] != 0x45 {
        return odd(head, frame_len, mac);
    }
    let total_len = usize::from(u16::from_be_bytes([fixed[16], fixed[17]]));
    if total_len < IPV4 || ETHERNET + total_len > frame_len {
        return bad(Verdict::BadIpv4);
    }
    // More-fragments or an offset; the don't-fragment bit does not matter, the reserved one is ignored (RFC 791 section 3.1).
    if (fixed[20] & 0x3f) | fixed[21] != 0 {
        return fragment_or_bad_sum(head);
    }
    if !checksum_holds(fixed) {
        return bad(Verdict::BadIpv4Checksum);
    }
    let mut header = [0; 16];
    header.copy_from_slice(&fixed[22..38]);
    let key = FlowKey::from_header(u128::from_le_bytes(header));
    (key, transport(head, L4, total_len - IPV4, key.protocol()))
}

/// Whether the checksum of an IPv4 header without options is right: its ten words sum up to all ones (RFC 1071).
#[inline(always)]
fn checksum_holds(frame: &[u8; L4 + 8]) -> bool {
    let word =
        |at: usize| u64::from(u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]));
    let sum = word(14) + word(18) + word(22) + word(26) + word(30);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    // At most 0x1ffff: all ones, or all ones once the carry is added back in.
    sum == 0xffff || sum == 0x1_fffe
}

/// Checks the transport header at `l4`, with `l4_len` bytes from there to the end of the IP packet.
#[inline(always)]
fn transport(head: &[u8], l4: usize, l4_len: usize, protocol: u8) -> Packet {
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
            Packet::flow(l4, 0)
        }
        ICMP => icmp(head, l4, l4_len),
        _ => Packet::bad(Verdict::OtherProtocol),
    }
}

/// A transport header that is not all there: the packet is too short for it, or the segment.
#[cold]
fn cut_off(l4_len: usize, header_len: usize) -> Packet {
    Packet::bad(if l4_len < header_len { Verdict::BadL4 } else { Verdict::HeaderSplit })
}

#[cold]
#[inline(never)]
fn icmp(head: &[u8], l4: usize, l4_len: usize) -> Packet {
    match head.get(l4..l4 + 8) {
        None => cut_off(l4_len, 8),
        Some(_) if l4_len < 8 => Packet::bad(Verdict::BadL4),
        Some(header) if header[0] == icmpv4::ECHO_REQUEST && header[1] == 0 => {
            Packet(ECHO | (l4 as u32) << 8)
        }
        Some(_) => Packet::bad(Verdict::Icmp),
    }
}

#[cold]
#[inline(never)]
fn fragment_or_bad_sum(head: &[u8]) -> Parsed {
    match head.first_chunk() {
        Some(fixed) if checksum_holds(fixed) => bad(Verdict::Fragment),
        _ => bad(Verdict::BadIpv4Checksum),
    }
}

/// A first segment too short for the common case: a short frame, or a header spread over segments.
#[cold]
#[inline(never)]
fn short(head: &[u8], frame_len: usize, mac: u64) -> Parsed {
    if head.len() < frame_len {
        return bad(Verdict::HeaderSplit);
    }
    odd(head, frame_len, mac)
}

/// What is not the common case: another address or type, options, bytes missing.
#[cold]
#[inline(never)]
fn odd(head: &[u8], frame_len: usize, mac: u64) -> Parsed {
    let Some(ethernet) = head.first_chunk::<ETHERNET>() else { return bad(Verdict::Truncated) };
    let broadcast = ethernet[..6] == [0xff; 6];
    let own = ethernet[..6] == mac.to_le_bytes()[..6];
    match (u16::from_be_bytes([ethernet[12], ethernet[13]]), own) {
        (0x0806, own) if own || broadcast => (FlowKey::from_header(0), Packet(ARP)),
        (_, false) => bad(Verdict::OtherMac),
        (0x0800, true) => ipv4_with_options(head, frame_len),
        (_, true) => bad(Verdict::OtherEthertype),
    }
}

fn ipv4_with_options(head: &[u8], frame_len: usize) -> Parsed {
    let ip = &head[ETHERNET..];
    let missing = if head.len() < frame_len { Verdict::HeaderSplit } else { Verdict::Truncated };
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
    if (ip[6] & 0x3f) | ip[7] != 0 {
        return bad(Verdict::Fragment);
    }
    if has_source_route(&header[IPV4..]) {
        return bad(Verdict::SourceRoute);
    }
    let l4 = ETHERNET + header_len;
    let protocol = ip[9];
    let ports = match head.get(l4..l4 + 4) {
        Some(&[a, b, c, d]) => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => (0, 0),
    };
    let address = |at: usize| u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    let key = FlowKey::new(protocol, address(12), address(16), ports.0, ports.1);
    (key, transport(head, l4, total_len - header_len, protocol))
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
