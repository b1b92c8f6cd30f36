//! What does not change while a dataplane runs: its ports, addresses, routes and SNAT addresses.

use crate::neighbour::NextHop;
use crate::steering::Steering;
use std::net::Ipv4Addr;
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
    /// How its packets find their worker.
    pub steering: Steering,
}

/// The gateway as the packet path sees it.
#[derive(Clone, Debug)]
pub struct Gateway {
    ports: Vec<GatewayPort>,
    snat: Vec<u32>,
    workers: usize,
    routes: Vec<Route>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    network: u32,
    mask: u32,
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
        let mut routes = Vec::new();
        for (number, port) in (0u8..).zip(&ports) {
            for &(address, length) in &port.addresses {
                let mask = match length {
                    0 => 0,
                    1..=32 => u32::MAX << (32 - length),
                    _ => return Err(GatewayError::Prefix(address, length)),
                };
                routes.push(Route { network: u32::from(address) & mask, mask, port: number, via: 0 });
            }
            if let Some(gateway) = port.gateway {
                routes.push(Route { network: 0, mask: 0, port: number, via: gateway.into() });
            }
        }
        // Longest prefix first; among equals the port that was named first.
        routes.sort_by_key(|r| std::cmp::Reverse(r.mask));
        Ok(Self { ports, snat: snat.iter().map(|&a| a.into()).collect(), workers, routes })
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
        let on_link = addresses.iter().find(|&&(a, length)| {
            let mask = if length == 0 { 0 } else { u32::MAX << (32 - u32::from(length).min(32)) };
            u32::from(a) & mask == neighbour & mask
        });
        on_link.or(addresses.first()).map(|&(a, _)| a.into())
    }

    /// Where a packet to `destination` goes next: longest prefix first.
    #[must_use]
    pub fn route(&self, destination: u32) -> Option<NextHop> {
        let route = self.routes.iter().find(|r| destination & r.mask == r.network)?;
        let address = if route.via == 0 { destination } else { route.via };
        Some(NextHop { port: route.port, address })
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
            steering: Steering::Owner,
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
