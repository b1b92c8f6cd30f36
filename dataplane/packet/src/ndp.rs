//! Neighbour discovery for IPv6 over Ethernet (RFC 4861): solicitations, and advertisements in answer or unasked.

use crate::{checksum, ethernet, icmpv6, ipv6};

/// Length of every message made here as a frame, in bytes: 24 bytes and one option with an Ethernet address.
pub const FRAME: usize = ICMP + MESSAGE + OPTION;
/// Where the ICMP header starts: in front of it are no extension headers.
const ICMP: usize = ethernet::HEADER + ipv6::HEADER;
/// Length of a solicitation or advertisement without options.
const MESSAGE: usize = 24;
const OPTION: usize = 8;
/// Hop limit of every message: whoever has been forwarded has another one (RFC 4861 section 11.2).
const HOP_LIMIT: u8 = 255;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// ff02::1.
const ALL_NODES: u128 = 0xff02 << 112 | 1;
/// ff02::2.
const ALL_ROUTERS: u128 = 0xff02 << 112 | 2;
/// Length of a router solicitation, and of a router advertisement, without options.
const ROUTER_SOLICITATION: usize = 8;
const ROUTER_ADVERTISEMENT: usize = 16;
/// Length of the frame of a router solicitation, in bytes.
pub const ROUTER_SOLICITATION_FRAME: usize = ICMP + ROUTER_SOLICITATION + OPTION;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who has the target?
    Solicitation,
    /// The target is here.
    Advertisement {
        /// It answers a solicitation of its receiver.
        solicited: bool,
        /// It counts more than what was known.
        replaces: bool,
    },
}

/// A valid message. Addresses are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it says.
    pub kind: Kind,
    /// Who says it; 0 looks whether somebody has the target already (duplicate address detection, RFC 4862 section 5.4).
    pub source: u128,
    /// Whom it was sent to.
    pub destination: u128,
    /// Whom it is about.
    pub target: u128,
    /// The Ethernet address of the source, or of the target of an advertisement, if it says one.
    pub link: Option<[u8; 6]>,
}

impl Message {
    /// Reads a frame whose EtherType is IPv6 and whose first next header is ICMPv6, of type solicitation or advertisement. None when it breaks
    /// a rule of sections 7.1.1 or 7.1.2.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<{ ICMP + MESSAGE }>()?;
        let number = |at: usize| head[at..at + 16].iter().fold(0, |n, &byte| n << 8 | u128::from(byte));
        let (source, destination, target) = (number(22), number(38), number(ICMP + 8));
        let message = frame.get(ICMP..ICMP + usize::from(u16::from_be_bytes([head[18], head[19]])))?;
        let options = message.get(MESSAGE..)?;
        let sum = checksum::transport_sum6(source, destination, ipv6::ICMP, message);
        if head[20] != ipv6::ICMP
            || head[21] != HOP_LIMIT
            || message[1] != 0
            || sum != 0xffff
            || is_group(target)
        {
            return None;
        }
        let (kind, wanted) = match message[0] {
            icmpv6::NEIGHBOUR_SOLICITATION => (Kind::Solicitation, SOURCE_LINK),
            icmpv6::NEIGHBOUR_ADVERTISEMENT => {
                let (solicited, replaces) = (message[4] & SOLICITED != 0, message[4] & OVERRIDE != 0);
                (Kind::Advertisement { solicited, replaces }, TARGET_LINK)
            }
            _ => return None,
        };
        let link = link(options, wanted)?;
        let breaks_a_rule = match kind {
            Kind::Solicitation => source == 0 && (destination != solicited_node(target) || link.is_some()),
            Kind::Advertisement { solicited, .. } => is_group(destination) && solicited || source == 0,
        };
        if breaks_a_rule || is_group(source) {
            return None;
        }
        Some(Self { kind, source, destination, target, link })
    }
}

/// A valid router advertisement, as far as it says who routes (RFC 4861 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// The router's link-local address, as a number.
    pub source: u128,
    /// How long it is a default router, in seconds; 0: it is none.
    pub lifetime_s: u16,
    /// Its Ethernet address, if it says one.
    pub link: Option<[u8; 6]>,
}

impl RouterAdvertisement {
    /// Reads a frame whose EtherType is IPv6 and whose first next header is ICMPv6, of type router advertisement. None when it breaks a rule of
    /// section 6.1.2.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<{ ICMP + ROUTER_ADVERTISEMENT }>()?;
        let number = |at: usize| head[at..at + 16].iter().fold(0, |n, &byte| n << 8 | u128::from(byte));
        let (source, destination) = (number(22), number(38));
        let message = frame.get(ICMP..ICMP + usize::from(u16::from_be_bytes([head[18], head[19]])))?;
        let link = link(message.get(ROUTER_ADVERTISEMENT..)?, SOURCE_LINK)?;
        let is_right = head[20] == ipv6::ICMP
            && head[21] == HOP_LIMIT
            && message[..2] == [icmpv6::ROUTER_ADVERTISEMENT, 0]
            && source >> 118 == 0xfe80 >> 6
            && checksum::transport_sum6(source, destination, ipv6::ICMP, message) == 0xffff;
        is_right.then(|| Self { source, lifetime_s: u16::from_be_bytes([message[6], message[7]]), link })
    }
}

/// The question, to all routers on the link, who routes (section 4.1).
#[must_use]
pub fn router_solicitation(mac: [u8; 6], source: u128) -> [u8; ROUTER_SOLICITATION_FRAME] {
    let mut message = [0; ROUTER_SOLICITATION + OPTION];
    message[0] = icmpv6::ROUTER_SOLICITATION;
    message[8..10].copy_from_slice(&[SOURCE_LINK, 1]);
    message[10..].copy_from_slice(&mac);
    packet([group_mac(ALL_ROUTERS), mac], [source, ALL_ROUTERS], message)
}

/// A router advertisement to all hosts on the link, for tests.
#[must_use]
pub fn router_advertisement(
    mac: [u8; 6],
    source: u128,
    lifetime_s: u16,
) -> [u8; ICMP + ROUTER_ADVERTISEMENT + OPTION] {
    let mut message = [0; ROUTER_ADVERTISEMENT + OPTION];
    message[0] = icmpv6::ROUTER_ADVERTISEMENT;
    message[6..8].copy_from_slice(&lifetime_s.to_be_bytes());
    message[16..18].copy_from_slice(&[SOURCE_LINK, 1]);
    message[18..].copy_from_slice(&mac);
    packet([group_mac(ALL_NODES), mac], [source, ALL_NODES], message)
}

/// The Ethernet address that an option of this kind holds, if there is one; none at all when the options do not add up.
fn link(mut options: &[u8], wanted: u8) -> Option<Option<[u8; 6]>> {
    let mut found = None;
    while !options.is_empty() {
        let &[kind, units, ..] = options else { return None };
        let option = options.get(..usize::from(units) * 8).filter(|option| !option.is_empty())?;
        if kind == wanted && units == 1 {
            found = option.get(2..).and_then(<[u8]>::first_chunk::<6>).copied();
        }
        options = &options[option.len()..];
    }
    Some(found)
}

const fn is_group(address: u128) -> bool {
    address >> 120 == 0xff
}

/// The group that the hosts with this address listen to (RFC 4291 section 2.7.1).
#[must_use]
pub const fn solicited_node(address: u128) -> u128 {
    0xff02 << 112 | 0x1_ff00_0000 | address & 0xff_ffff
}

/// The Ethernet address of a group (RFC 2464 section 7).
#[must_use]
pub const fn group_mac(group: u128) -> [u8; 6] {
    let [a, b, c, d] = (group as u32).to_be_bytes();
    [0x33, 0x33, a, b, c, d]
}

/// A solicitation for the Ethernet address of `target`, to its group.
#[must_use]
pub fn solicitation(mac: [u8; 6], source: u128, target: u128) -> [u8; FRAME] {
    let group = solicited_node(target);
    frame([group_mac(group), mac], [source, group, target], [icmpv6::NEIGHBOUR_SOLICITATION, 0, SOURCE_LINK])
}

/// A solicitation to `target` itself, whether it is still at `target_mac` (section 7.3.3).
#[must_use]
pub fn probe(mac: [u8; 6], source: u128, target_mac: [u8; 6], target: u128) -> [u8; FRAME] {
    let kind = [icmpv6::NEIGHBOUR_SOLICITATION, 0, SOURCE_LINK];
    frame([target_mac, mac], [source, target, target], kind)
}

/// The answer to a solicitation: its target is at `mac`. Who looks whether somebody has the target already is told with all others (section
/// 7.2.4).
#[must_use]
pub fn advertisement(solicitation: &Message, from: [u8; 6], mac: [u8; 6]) -> [u8; FRAME] {
    let target = solicitation.target;
    if solicitation.source == 0 {
        return announcement(mac, target);
    }
    let bits = SOLICITED | OVERRIDE;
    let to = solicitation.link.unwrap_or(from);
    frame(
        [to, mac],
        [target, solicitation.source, target],
        [icmpv6::NEIGHBOUR_ADVERTISEMENT, bits, TARGET_LINK],
    )
}

/// The announcement, to all hosts on the link, that `address` is at `mac` (section 7.2.6).
#[must_use]
pub fn announcement(mac: [u8; 6], address: u128) -> [u8; FRAME] {
    let kind = [icmpv6::NEIGHBOUR_ADVERTISEMENT, OVERRIDE, TARGET_LINK];
    frame([group_mac(ALL_NODES), mac], [address, ALL_NODES, address], kind)
}

/// Ethernet destination and source; source, destination and target; type, flags and option.
fn frame(
    [to_mac, mac]: [[u8; 6]; 2],
    [source, destination, target]: [u128; 3],
    [kind, bits, option]: [u8; 3],
) -> [u8; FRAME] {
    let mut message = [0; MESSAGE + OPTION];
    message[0] = kind;
    message[4] = bits;
    message[8..24].copy_from_slice(&target.to_be_bytes());
    message[24..26].copy_from_slice(&[option, 1]);
    message[26..].copy_from_slice(&mac);
    packet([to_mac, mac], [source, destination], message)
}

/// The frame of a message without its checksum: `N` is longer than the message by its headers.
fn packet<const N: usize, const M: usize>(
    [to_mac, mac]: [[u8; 6]; 2],
    [source, destination]: [u128; 2],
    mut message: [u8; M],
) -> [u8; N] {
    const { assert!(N == ICMP + M) };
    let sum = !checksum::transport_sum6(source, destination, ipv6::ICMP, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [0; N];
    frame[..14].copy_from_slice(&ethernet::header(to_mac, mac, ethernet::IPV6));
    if let Some(header) = ipv6::header(ipv6::ICMP, source, destination, M) {
        frame[14..ICMP].copy_from_slice(&header);
    }
    frame[21] = HOP_LIMIT;
    frame[ICMP..].copy_from_slice(&message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const US: u128 = 0x2001_0db8 << 96 | 1;
    const THEM: u128 = 0x2001_0db8 << 96 | 0x0009_8765;

    #[test]
    fn a_solicitation_is_answered_to_its_sender() {
        let question = solicitation(HOST, THEM, US);
        assert_eq!(question[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
        let parsed = Message::parse(&question).unwrap();
        let wanted = Message {
            kind: Kind::Solicitation,
            source: THEM,
            destination: solicited_node(US),
            target: US,
            link: Some(HOST),
        };
        assert_eq!(parsed, wanted);
        let answer = advertisement(&parsed, HOST, MAC);
        assert_eq!(answer[..12], [HOST, MAC].concat());
        let kind = Kind::Advertisement { solicited: true, replaces: true };
        let wanted = Message { kind, source: US, destination: THEM, target: US, link: Some(MAC) };
        assert_eq!(Message::parse(&answer), Some(wanted));
    }

    #[test]
    fn golden_solicitation() {
        let golden = [
            0x33, 0x33, 0xff, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255, 0x20, 1,
            0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x87, 0x65, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0xff, 0, 0, 1, 135, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            1, 1, 2, 0, 0, 0, 0, 9,
        ];
        // The checksum, which this leaves out, is an independent parser's to check (tests/ipv6_frames.rs).
        let mut made = solicitation(HOST, THEM, US);
        made[56..58].fill(0);
        assert_eq!(made, golden);
    }

    #[test]
    fn rfc4861_7_3_3_a_probe_goes_to_its_target_alone() {
        let question = probe(HOST, THEM, MAC, US);
        assert_eq!(question[..12], [MAC, HOST].concat());
        let kind = Kind::Solicitation;
        let parsed = Message { kind, source: THEM, destination: US, target: US, link: Some(HOST) };
        assert_eq!(Message::parse(&question), Some(parsed));
    }

    #[test]
    fn who_looks_for_duplicates_is_told_with_all_others() {
        let question =
            Message { kind: Kind::Solicitation, source: 0, destination: 0, target: US, link: None };
        let answer = advertisement(&question, HOST, MAC);
        assert_eq!(answer, announcement(MAC, US));
        assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let kind = Kind::Advertisement { solicited: false, replaces: true };
        let wanted = Message { kind, source: US, destination: ALL_NODES, target: US, link: Some(MAC) };
        assert_eq!(Message::parse(&answer), Some(wanted));
    }

    /// A frame with some bytes changed and its checksum right again.
    fn changed(frame: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        for (at, bytes) in changes {
            frame[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        frame[56..58].fill(0);
        let number = |at: usize| u128::from_be_bytes(frame[at..at + 16].try_into().unwrap());
        let sum = !checksum::transport_sum6(number(22), number(38), ipv6::ICMP, &frame[ICMP..]);
        frame[56..58].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn rfc4861_7_1_what_breaks_a_rule_is_no_message() {
        let (asks, tells) = (solicitation(HOST, THEM, US), announcement(HOST, THEM));
        assert!(
            Message::parse(&changed(&asks, &[])).is_some() && Message::parse(&changed(&tells, &[])).is_some()
        );
        type Row<'a> = (&'a str, &'a [u8], &'a [(usize, &'a [u8])]);
        let rows: [Row<'_>; 10] = [
            ("a hop limit of less", &asks, &[(21, &[254])]),
            ("another code", &asks, &[(55, &[1])]),
            ("a group as target", &asks, &[(62, &[0xff])]),
            ("a group as source", &asks, &[(22, &[0xff])]),
            ("an option without length", &asks, &[(79, &[0])]),
            ("an option that goes on", &asks, &[(79, &[2])]),
            ("no source, and one host", &asks, &[(22, &[0; 16]), (78, &[14]), (38, &US.to_be_bytes())]),
            ("no source, and an Ethernet address", &asks, &[(22, &[0; 16])]),
            ("an answer to all", &tells, &[(58, &[SOLICITED])]),
            ("another type", &asks, &[(54, &[134])]),
        ];
        for (what, frame, changes) in rows {
            assert_eq!(Message::parse(&changed(frame, changes)), None, "{what}");
        }
        let mut bad = asks;
        bad[57] ^= 1;
        assert_eq!(Message::parse(&bad), None, "a wrong checksum");
        let nonce = changed(&asks, &[(22, &[0; 16]), (78, &[14])]);
        assert!(Message::parse(&nonce).is_some(), "an option that is not known (RFC 7527)");
    }

    #[test]
    fn rfc4861_6_1_2_routers_speak_by_the_rules() {
        let router = 0xfe80 << 112 | 0xfe;
        let says = router_advertisement(HOST, router, 1_800);
        let wanted = RouterAdvertisement { source: router, lifetime_s: 1_800, link: Some(HOST) };
        assert_eq!(RouterAdvertisement::parse(&says), Some(wanted));
        for (what, at, bytes) in [
            ("a hop limit of less", 21, &[64][..]),
            ("another code", 55, &[1]),
            ("from a global address", 22, &[0x20]),
            ("an option without length", 71, &[0]),
            ("another type", 54, &[133]),
        ] {
            assert_eq!(RouterAdvertisement::parse(&changed(&says, &[(at, bytes)])), None, "{what}");
        }
        let asks = router_solicitation(MAC, router);
        assert_eq!((&asks[..6], asks[54]), (&[0x33, 0x33, 0, 0, 0, 2][..], 133));
        assert_eq!(crate::flight::check(&asks), Ok(()));
        assert_eq!((Message::parse(&says), RouterAdvertisement::parse(&asks)), (None, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut frame in prop::collection::vec(any::<u8>(), 0..160), sane: bool) {
            if sane && frame.len() >= 86 {
                frame = changed(&frame, &[(18, &[0, (frame.len() - ICMP) as u8]), (20, &[58, 255]), (54, &[135, 0])]);
            }
            if let Some(message) = Message::parse(&frame) {
                prop_assert!(!is_group(message.target));
            }
        }
    }
}
