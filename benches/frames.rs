//! The traffic: flows of clients to one Service, and established TCP segments of both directions in random order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use turnpike_forward::hash::{Random, scale};
use turnpike_packet::flight::Flight;
use turnpike_packet::tcp::{self, flags};

/// Bytes of a frame without its check sequence; 64 on the wire.
pub const FRAME: usize = 60;
/// The gateway's Ethernet address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The router that all clients and backends are behind.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// The Service's address and port.
pub const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)), 80);
/// Least packets before the order repeats: more than a branch predictor learns.
const ORDER_MIN: usize = 1 << 16;

/// Address and port of the `n`th client.
#[must_use]
pub fn client(n: u32) -> SocketAddr {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    SocketAddr::new(Ipv4Addr::from(first + (n & 0xffff)).into(), 10_000 + (n >> 16) as u16)
}

/// From one end to another, through the router.
#[must_use]
pub const fn flight(source: SocketAddr, destination: SocketAddr) -> Flight {
    Flight { source_mac: ROUTER_MAC, destination_mac: MAC, source, destination }
}

/// First sequence number of every sender.
pub const INITIAL_SEQUENCE: u32 = 999;

/// A data segment of an established connection, [`FRAME`] bytes long.
#[must_use]
pub fn data(flight: &Flight) -> Vec<u8> {
    const PAYLOAD: [u8; FRAME - 14 - 20 - 20] = *b"bench!";
    tcp::segment(flight, INITIAL_SEQUENCE + 1, INITIAL_SEQUENCE + 1, flags::ACK | flags::PSH, &PAYLOAD)
}

/// What differs between the segments of two flows: TTL to ports, and the TCP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patch {
    tuple: [u8; 16],
    tcp_checksum: [u8; 2],
}

const TUPLE: std::ops::Range<usize> = 22..38;
const TCP_CHECKSUM: std::ops::Range<usize> = 50..52;

/// An endless sequence of segments: every direction of every flow equally often, in an order without pattern.
#[derive(Debug)]
pub struct Traffic {
    template: [u8; FRAME],
    patches: Vec<Patch>,
    next: usize,
}

impl Traffic {
    /// Traffic of these flights. None of none, or when one does not make a frame of [`FRAME`] bytes.
    #[must_use]
    pub fn new(flights: &[Flight], mut random: Random) -> Option<Self> {
        let mut template = None;
        let mut patches = Vec::with_capacity(flights.len().max(ORDER_MIN + flights.len()));
        for flight in flights {
            let frame: [u8; FRAME] = data(flight).try_into().ok()?;
            template.get_or_insert(frame);
            patches.push(Patch {
                tuple: frame[TUPLE].try_into().ok()?,
                tcp_checksum: frame[TCP_CHECKSUM].try_into().ok()?,
            });
        }
        let template = template?;
        while patches.len() < ORDER_MIN {
            patches.extend_from_within(..flights.len());
        }
        for last in (1..patches.len()).rev() {
            patches.swap(last, scale(random.next(), last as u32 + 1) as usize);
        }
        Some(Self { template, patches, next: 0 })
    }

    /// Writes the next segment over a frame.
    #[inline]
    pub fn write_next(&mut self, frame: &mut [u8; FRAME]) {
        let patch = &self.patches[self.next];
        self.next = if self.next + 1 == self.patches.len() { 0 } else { self.next + 1 };
        *frame = self.template;
        frame[TUPLE].copy_from_slice(&patch.tuple);
        frame[TCP_CHECKSUM].copy_from_slice(&patch.tcp_checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use turnpike_forward::hash::Secret;
    use turnpike_packet::flight::{check, ends};

    fn random() -> Random {
        Random::new(&Secret::new([1, 2, 3, 4]), 7)
    }

    #[test]
    fn clients_are_distinct() {
        let many: BTreeSet<_> = (0..200_000).map(client).collect();
        assert_eq!(many.len(), 200_000);
    }

    #[test]
    fn every_direction_comes_equally_often_with_right_checksums_and_in_no_order() {
        let flights: Vec<Flight> =
            (0..100).flat_map(|n| [flight(client(n), VIP), flight(VIP, client(n))]).collect();
        let mut traffic = Traffic::new(&flights, random()).unwrap();
        let mut seen: BTreeMap<_, u32> = BTreeMap::new();
        let mut in_order = 0;
        let mut before = None;
        let period = traffic.patches.len();
        for _ in 0..period {
            let mut frame = [0xa5; FRAME];
            traffic.write_next(&mut frame);
            assert_eq!(check(&frame), Ok(()));
            let ends = ends(&frame).unwrap();
            in_order += u32::from(before.is_some_and(|b| b < ends));
            before = Some(ends);
            *seen.entry(ends).or_default() += 1;
        }
        assert_eq!(seen.len(), 200);
        assert!(seen.values().all(|&n| n as usize == period / 200), "{seen:?}");
        let share = f64::from(in_order) / period as f64;
        assert!((0.45..0.55).contains(&share), "{share} of the packets follow a lesser one");
    }

    #[test]
    fn no_flows_no_traffic() {
        assert!(Traffic::new(&[], random()).is_none());
    }
}
