//! Multicast listener discovery (RFC 3810, and RFC 2710 for links whose querier is older): what switches that snoop (RFC 4541) have to be told so
//! that questions for addresses, which go to groups (RFC 4291 section 2.7.1), reach this host.

use crate::ndp::{group_mac, solicited_node};
use crate::{checksum, ethernet, icmpv6, ipv6};
use arrayvec::ArrayVec;

/// Groups that one report of version 2 says: as many as fit the least MTU of IPv6.
pub const GROUPS_MAX: usize = (ipv6::MTU_MIN as usize - ipv6::HEADER - ROUTER_ALERT.len() - HEADER) / RECORD;
/// Longest frame of a report, in bytes.
pub const FRAME_MAX: usize = ethernet::HEADER + ipv6::MTU_MIN as usize;
/// A hop-by-hop header with the option that says "multicast listener discovery" (RFC 2711), in front of ICMPv6, and padding.
const ROUTER_ALERT: [u8; 8] = [ipv6::ICMP, 0, 5, 2, 0, 0, 1, 0];
/// Where the ICMP header starts.
const ICMP: usize = ethernet::HEADER + ipv6::HEADER + ROUTER_ALERT.len();
/// Bytes of a report of version 2 in front of its records, and of a record without sources.
const HEADER: usize = 8;
const RECORD: usize = 20;
/// Length of a message of version 1, and least length of a query of version 2.
const OLD: usize = 24;
const NEW: usize = 28;
/// ff02::16, all that route groups by version 2.
const ALL_ROUTERS: u128 = 0xff02 << 112 | 0x16;
/// Hop limit of every message.
const HOP_LIMIT: u8 = 1;

/// What a record of a report says of a group (RFC 3810 section 5.2.12); all of them mean whatever source sends to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// It is listened to.
    Current = 2,
    /// It is listened to from now on.
    Joined = 4,
}

/// A valid query: somebody on the link wants to know who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Within how many milliseconds it is to be answered.
    pub within_ms: u32,
    /// It is of version 1, and so is whoever asks.
    pub is_old: bool,
}

impl Query {
    /// Reads a frame whose EtherType is IPv6. None when it is none, or breaks a rule of RFC 3810 sections 5 and 5.1.14: hop limit, checksum, a
    /// router's link-local address, and a router alert in front.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<{ ICMP + OLD }>()?;
        let number = |at: usize| head[at..at + 16].iter().fold(0, |n, &byte| n << 8 | u128::from(byte));
        let (source, destination) = (number(22), number(38));
        let payload_len = usize::from(u16::from_be_bytes([head[18], head[19]]));
        let message = frame.get(ICMP..ethernet::HEADER + ipv6::HEADER + payload_len)?;
        let alert = &head[ICMP - ROUTER_ALERT.len()..ICMP];
        let has_alert = alert[2..6] == ROUTER_ALERT[2..6] || alert[4..8] == ROUTER_ALERT[2..6];
        let is_right = head[20] == 0
            && head[21] == HOP_LIMIT
            && alert[..2] == ROUTER_ALERT[..2]
            && has_alert
            && source >> 118 == 0xfe80 >> 6
            && destination >> 120 == 0xff
            && message.first() == Some(&icmpv6::LISTENER_QUERY)
            && checksum::transport_sum6(source, destination, ipv6::ICMP, message) == 0xffff;
        let is_old = message.len() == OLD;
        if !is_right || !is_old && message.len() < NEW {
            return None;
        }
        let code = u16::from_be_bytes([message[4], message[5]]);
        Some(Self { within_ms: if is_old { code.into() } else { delay(code) }, is_old })
    }
}

/// The maximum response delay that a code of version 2 stands for, in milliseconds (RFC 3810 section 5.1.3).
const fn delay(code: u16) -> u32 {
    let (exponent, mantissa) = (code >> 12 & 7, code & 0xfff);
    if code < 0x8000 { code as u32 } else { (mantissa as u32 | 0x1000) << (exponent + 3) }
}

/// The report that the host with this Ethernet and link-local address listens to the groups of some addresses of its own, up to [`GROUPS_MAX`].
#[must_use]
pub fn report(mac: [u8; 6], source: u128, addresses: &[(u128, Record)]) -> ArrayVec<u8, FRAME_MAX> {
    let mut message: ArrayVec<u8, FRAME_MAX> = ArrayVec::new();
    let addresses = &addresses[..addresses.len().min(GROUPS_MAX)];
    message.extend([icmpv6::LISTENER_REPORT_2, 0, 0, 0, 0, 0, 0, addresses.len() as u8]);
    for &(address, record) in addresses {
        message.extend([record as u8, 0, 0, 0]);
        message.extend(solicited_node(address).to_be_bytes());
    }
    frame(mac, source, ALL_ROUTERS, message)
}

/// The same of one address, for a link whose querier is of version 1 (RFC 2710 section 3).
#[must_use]
pub fn old_report(mac: [u8; 6], source: u128, address: u128) -> ArrayVec<u8, FRAME_MAX> {
    let group = solicited_node(address);
    let mut message: ArrayVec<u8, FRAME_MAX> = ArrayVec::new();
    message.extend([icmpv6::LISTENER_REPORT_1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(group.to_be_bytes());
    frame(mac, source, group, message)
}

fn frame(
    mac: [u8; 6],
    source: u128,
    destination: u128,
    mut message: ArrayVec<u8, FRAME_MAX>,
) -> ArrayVec<u8, FRAME_MAX> {
    let sum = !checksum::transport_sum6(source, destination, ipv6::ICMP, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame: ArrayVec<u8, FRAME_MAX> = ArrayVec::new();
    frame.extend(ethernet::header(group_mac(destination), mac, ethernet::IPV6));
    // Its length is bounded by the groups.
    let length = ROUTER_ALERT.len() + message.len();
    frame.extend(ipv6::header(0, source, destination, length).unwrap_or([0; ipv6::HEADER]));
    frame[21] = HOP_LIMIT;
    frame.extend(ROUTER_ALERT);
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const US: u128 = 0xfe80 << 112 | 0xff_fe00_0001;
    const ROUTER: u128 = 0xfe80 << 112 | 0xfe;
    const VIP: u128 = 0x2001_0db8 << 96 | 0x0012_3456;

    /// A query with this message behind its checksum.
    fn query(rest: &[u8]) -> Vec<u8> {
        let all_nodes = 0xff02 << 112 | 1;
        let message = [&[icmpv6::LISTENER_QUERY, 0, 0, 0], rest].concat();
        frame([2, 0, 0, 0, 0, 0xfe], ROUTER, all_nodes, message.iter().copied().collect()).to_vec()
    }

    #[test]
    fn rfc3810_5_2_a_report_says_all_groups() {
        let made = report(MAC, US, &[(VIP, Record::Joined), (VIP + 1, Record::Current)]);
        assert_eq!(made[..14], [0x33, 0x33, 0, 0, 0, 0x16, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
        assert_eq!((made[20], made[21], &made[54..62]), (0, 1, &[58, 0, 5, 2, 0, 0, 1, 0][..]));
        assert_eq!((made[62], made[69], made.len()), (143, 2, 62 + 8 + 40));
        assert_eq!(made[70..74], [4, 0, 0, 0]);
        assert_eq!(made[74..90], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(made[90], 2);
        let sum = checksum::transport_sum6(US, ALL_ROUTERS, ipv6::ICMP, &made[62..]);
        assert_eq!(sum, 0xffff);
        let many = vec![(VIP, Record::Current); 200];
        assert_eq!(report(MAC, US, &many).len(), 62 + 8 + GROUPS_MAX * 20);
        const { assert!(GROUPS_MAX == 61) };
    }

    #[test]
    fn rfc2710_3_a_report_of_version_1_goes_to_its_group() {
        let made = old_report(MAC, US, VIP);
        assert_eq!(made[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!((made[62], &made[70..86], made.len()), (131, &made[38..54], 62 + 24));
        assert_eq!(checksum::transport_sum6(US, solicited_node(VIP), ipv6::ICMP, &made[62..]), 0xffff);
    }

    #[test]
    fn rfc3810_5_1_3_queries_say_how_long_an_answer_may_take() {
        let of = |code: u16, len: usize| {
            let mut rest = code.to_be_bytes().to_vec();
            rest.resize(len - 4, 0);
            Query::parse(&query(&rest)).map(|query| (query.within_ms, query.is_old))
        };
        assert_eq!(of(10_000, OLD), Some((10_000, true)));
        assert_eq!(of(10_000, NEW), Some((10_000, false)));
        assert_eq!(of(0x8000, NEW), Some((0x8000, false)));
        assert_eq!(of(0xffff, NEW), Some((0x1fff << 10, false)));
        assert_eq!(of(0xffff, OLD), Some((0xffff, true)));
        assert_eq!(of(1, OLD + 1), None, "of no version");
    }

    #[test]
    fn rfc3810_5_1_14_what_breaks_a_rule_is_no_query() {
        let good = query(&[0; NEW - 4]);
        assert!(Query::parse(&good).is_some());
        for (at, byte, what) in [
            (21, 2, "forwarded"),
            (20, 58, "no hop-by-hop header in front"),
            (22, 0x20, "not from a link-local address"),
            (38, 0x20, "not to a group"),
            (56, 1, "no router alert"),
            (62, 131, "a report"),
            (64, 1, "a wrong checksum"),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Query::parse(&bad), None, "{what}");
        }
        assert!((0..good.len()).all(|len| Query::parse(&good[..len]).is_none()), "cut off");
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(mut frame in prop::collection::vec(any::<u8>(), 0..120), like in any::<bool>()) {
            if like {
                let good = query(&[0; NEW - 4]);
                frame.truncate(good.len());
                frame.iter_mut().zip(good).for_each(|(byte, good)| if *byte > 8 { *byte = good });
            }
            let _ = Query::parse(&frame);
        }
    }
}
