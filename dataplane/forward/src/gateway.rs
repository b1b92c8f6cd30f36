//! What does not change while a dataplane runs: its ports, addresses, routes and SNAT addresses.

use crate::neighbour::NextHop;
use crate::steering::Steering;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use turnpike_packet::mss;
pub use turnpike_wire::config::MssClamp;
use turnpike_wire::limits::{PORTS_MAX, WORKERS_MAX};

/// One NIC.
#[derive(Clone, Debug)]
pub struct GatewayPort {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// The gateway's addresses on it, each with the length of the connected network's prefix.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// Next hop for what is on no connected network.
    pub gateway: Option<Ipv4Addr>,
    /// Networks behind other neighbours of it.
    pub routes: Vec<StaticRoute>,
    /// How its packets find their worker.
    pub steering: Steering,
    /// Longest IP packet that is sent through it, in bytes.
    pub mtu: u16,
}

/// A network behind a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// The network and the length of its prefix.
    pub to: (Ipv4Addr, u8),
    /// The neighbour.
    pub via: Ipv4Addr,
}

/// The gateway as the packet path sees it.
#[derive(Clone, Debug)]
pub struct Gateway {
    ports: Vec<GatewayPort>,
    snat: Vec<u32>,
    workers: usize,
    announces: bool,
    /// Longest prefixes first.
    routes: Vec<Prefixes>,
    mss_clamp: MssClamp,
}

/// The routes whose prefixes have one length.
#[derive(Clone, Debug)]
struct Prefixes {
    mask: u32,
    /// In the order of their networks, each once.
    routes: Vec<Route>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    network: u32,
    port: u8,
    /// Zero: on the link.
    via: u32,
}

/// Why a gateway cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// A number is out of its range.
    #[error("{what}: {got} is not 1 to {max}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// A prefix length over 32.
    #[error("address {0}/{1}: a prefix length is 0 to 32")]
    Prefix(Ipv4Addr, u8),
    /// No SNAT address.
    #[error("no SNAT address: set dataplane.snat.addresses, or give the first port an address")]
    NoSnat,
}

impl Gateway {
    /// Checks and prepares.
    pub fn new(ports: Vec<GatewayPort>, snat: &[Ipv4Addr], workers: usize) -> Result<Self, GatewayError> {
        let within = |what, got, max| {
            if got == 0 || got > max { Err(GatewayError::Count { what, got, max }) } else { Ok(()) }
        };
        within("ports", ports.len(), PORTS_MAX)?;
        within("workers", workers, WORKERS_MAX)?;
        if snat.is_empty() {
            return Err(GatewayError::NoSnat);
        }
        let mut by_mask: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
        for (port, named) in (0u8..).zip(&ports) {
            let connected = named.addresses.iter().map(|&to| (to, 0));
            let behind = named.routes.iter().map(|route| (route.to, route.via.into()));
            let others = named.gateway.map(|gateway| ((Ipv4Addr::UNSPECIFIED, 0), gateway.into()));
            for ((address, length), via) in connected.chain(behind).chain(others) {
                let mask = mask(length).ok_or(GatewayError::Prefix(address, length))?;
                by_mask.entry(mask).or_default().push(Route {
                    network: u32::from(address) & mask,
                    port,
                    via,
                });
            }
        }
        let prefixes = by_mask.into_iter().rev().map(|(mask, mut routes)| {
            // Stable: among equals the one that was named first stays.
            routes.sort_by_key(|route| route.network);
            routes.dedup_by_key(|route| route.network);
            Prefixes { mask, routes }
        });
        let routes = prefixes.collect();
        let snat = snat.iter().map(|&a| a.into()).collect();
        Ok(Self { ports, snat, workers, announces: false, routes, mss_clamp: MssClamp::default() })
    }

    /// The same with another rule for segment sizes.
    #[must_use]
    pub fn with_mss_clamp(self, mss_clamp: MssClamp) -> Self {
        Self { mss_clamp, ..self }
    }

    /// The largest segment that a SYN may announce which came in on one of these ports and leaves through the other.
    #[must_use]
    pub fn largest_segment(&self, ports: [usize; 2]) -> Option<u16> {
        match self.mss_clamp {
            MssClamp::Off => None,
            MssClamp::Auto => {
                let mtu = ports.iter().filter_map(|&p| self.ports.get(p)).map(|p| p.mtu).min()?;
                Some(mtu.saturating_sub(mss::HEADERS))
            }
            MssClamp::Bytes(bytes) => Some(bytes),
        }
    }

    /// Longest IP packet that every port takes, in bytes.
    #[must_use]
    pub fn least_mtu(&self) -> u16 {
        self.ports.iter().map(|p| p.mtu).min().unwrap_or(u16::MAX)
    }

    /// Its NICs.
    #[must_use]
    pub fn ports(&self) -> &[GatewayPort] {
        &self.ports
    }

    /// Its SNAT addresses, as numbers.
    #[must_use]
    pub fn snat(&self) -> &[u32] {
        &self.snat
    }

    /// The same gateway, which announces the addresses that it takes up, or does not, as before.
    #[must_use]
    pub fn announcing(self, announces: bool) -> Self {
        Self { announces, ..self }
    }

    /// Whether it announces the addresses that it takes up.
    #[must_use]
    pub const fn announces(&self) -> bool {
        self.announces
    }

    /// On which ports an address is announced: an own one on its own, all others on all.
    pub fn ports_of(&self, address: u32) -> impl Iterator<Item = usize> + '_ {
        let has = move |port: &GatewayPort| port.addresses.iter().any(|&(own, _)| u32::from(own) == address);
        let own = self.ports.iter().position(has);
        (0..self.ports.len()).filter(move |port| own.is_none_or(|own| own == *port))
    }

    /// How many workers share the work.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// Whether an address is one of the SNAT addresses.
    #[inline]
    #[must_use]
    pub fn is_snat(&self, address: u32) -> bool {
        self.snat.contains(&address)
    }

    /// Whether an address is one of the gateway's own on any port.
    #[must_use]
    pub fn is_own(&self, address: u32) -> bool {
        self.ports.iter().any(|p| p.addresses.iter().any(|&(a, _)| u32::from(a) == address))
    }

    /// The address a port speaks from, if it has one.
    #[must_use]
    pub fn source_on(&self, port: usize) -> Option<u32> {
        self.ports.get(port)?.addresses.first().map(|&(a, _)| a.into())
    }

    /// The address on `port` from which to ask for `neighbour`: the one on its network, else the first.
    #[must_use]
    pub fn source_towards(&self, port: usize, neighbour: u32) -> Option<u32> {
        let addresses = &self.ports.get(port)?.addresses;
        let on_link = addresses
            .iter()
            .find(|&&(a, length)| mask(length).is_some_and(|mask| u32::from(a) & mask == neighbour & mask));
        on_link.or(addresses.first()).map(|&(a, _)| a.into())
    }

    /// Where a packet to `destination` goes next: longest prefix first.
    #[must_use]
    pub fn route(&self, destination: u32) -> Option<NextHop> {
        let route = self.routes.iter().find_map(|prefixes| {
            let network = destination & prefixes.mask;
            let at = prefixes.routes.binary_search_by_key(&network, |route| route.network).ok()?;
            prefixes.routes.get(at)
        })?;
        let address = if route.via == 0 { destination } else { route.via };
        Some(NextHop { port: route.port, address })
    }
}

/// The mask of a prefix of so many bits, up to 32.
const fn mask(length: u8) -> Option<u32> {
    match length {
        0 => Some(0),
        1..=32 => Some(u32::MAX << (32 - length)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(addresses: &[(&str, u8)], gateway: Option<&str>) -> GatewayPort {
        GatewayPort {
            mac: [2, 0, 0, 0, 0, 1],
            addresses: addresses.iter().map(|&(a, l)| (a.parse().unwrap(), l)).collect(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            routes: vec![],
            steering: Steering::Owner,
            mtu: 1500,
        }
    }

    #[test]
    fn longest_prefix_wins() {
        let ports = vec![
            port(&[("192.0.2.1", 24)], Some("192.0.2.254")),
            port(&[("10.0.0.1", 8), ("10.1.0.1", 16)], None),
        ];
        let gateway = Gateway::new(ports, &["10.1.0.1".parse().unwrap()], 1).unwrap();
        let rows = [
            ("192.0.2.9", 0, "192.0.2.9"),
            ("198.51.100.7", 0, "192.0.2.254"),
            ("10.9.9.9", 1, "10.9.9.9"),
            ("10.1.2.3", 1, "10.1.2.3"),
        ];
        for (to, out, next) in rows {
            let hop = gateway.route(u32::from(to.parse::<Ipv4Addr>().unwrap())).unwrap();
            assert_eq!((hop.port, Ipv4Addr::from(hop.address).to_string().as_str()), (out, next), "{to}");
        }
        let towards = |a: &str| {
            gateway.source_towards(1, u32::from(a.parse::<Ipv4Addr>().unwrap())).map(Ipv4Addr::from)
        };
        assert_eq!(towards("10.1.7.7"), Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn networks_behind_neighbours_are_reached_through_them() {
        let route = |to: &str, length, via: &str| StaticRoute {
            to: (to.parse().unwrap(), length),
            via: via.parse().unwrap(),
        };
        let mut wan = port(&[("192.0.2.1", 24)], Some("192.0.2.254"));
        wan.routes = vec![
            route("10.244.0.0", 16, "192.0.2.7"),
            route("10.244.9.0", 24, "192.0.2.9"),
            route("10.244.9.8", 32, "192.0.2.8"),
        ];
        let mut lan = port(&[("10.1.0.1", 16)], None);
        lan.routes = vec![route("10.244.0.0", 16, "10.1.0.7"), route("10.245.0.0", 16, "10.1.0.5")];
        let gateway = Gateway::new(vec![wan, lan], &["10.1.0.1".parse().unwrap()], 1).unwrap();
        let rows = [
            ("10.244.1.1", 0, "192.0.2.7"),
            ("10.244.9.7", 0, "192.0.2.9"),
            ("10.244.9.8", 0, "192.0.2.8"),
            ("10.245.0.0", 1, "10.1.0.5"),
            ("10.245.255.255", 1, "10.1.0.5"),
            ("10.246.0.0", 0, "192.0.2.254"),
            ("192.0.2.7", 0, "192.0.2.7"),
        ];
        for (to, out, next) in rows {
            let hop = gateway.route(u32::from(to.parse::<Ipv4Addr>().unwrap())).unwrap();
            assert_eq!((hop.port, Ipv4Addr::from(hop.address).to_string().as_str()), (out, next), "{to}");
        }
    }

    #[test]
    fn rfc6691_a_segment_fits_both_ports() {
        let ports = vec![GatewayPort { mtu: 9_000, ..port(&[], None) }, port(&[], None)];
        let gateway = Gateway::new(ports, &["10.1.0.1".parse().unwrap()], 1).unwrap();
        let with = |clamp| {
            let gateway = gateway.clone().with_mss_clamp(clamp);
            [[0, 0], [0, 1], [1, 0]].map(|ports| gateway.largest_segment(ports))
        };
        assert_eq!(with(MssClamp::Off), [None; 3]);
        assert_eq!(with(MssClamp::Auto), [Some(8_960), Some(1_460), Some(1_460)]);
        assert_eq!(with(MssClamp::Bytes(1_200)), [Some(1_200); 3]);
        assert_eq!(gateway.least_mtu(), 1_500);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert_eq!(Gateway::new(vec![port(&[], None)], &[], 1).unwrap_err(), GatewayError::NoSnat);
        let snat = ["10.1.0.1".parse().unwrap()];
        assert!(matches!(Gateway::new(vec![], &snat, 1), Err(GatewayError::Count { what: "ports", .. })));
        assert!(matches!(
            Gateway::new(vec![port(&[], None)], &snat, 0),
            Err(GatewayError::Count { what: "workers", .. })
        ));
        assert!(matches!(
            Gateway::new(vec![port(&[("10.0.0.1", 33)], None)], &snat, 1),
            Err(GatewayError::Prefix(..))
        ));
    }
}
