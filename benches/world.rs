//! What the subject's packets meet: a gateway as the daemon makes it from its defaults, Services with backends, and clients.

use anyhow::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use turnpike_forward::address::Family;
use turnpike_forward::gateway::{FlowRules, Gateway, GatewayPort};
use turnpike_forward::hash::Secret;
use turnpike_forward::neighbour::NextHop;
use turnpike_forward::steering::Steering;
use turnpike_packet::flight::Flight;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_wire::config;
use turnpike_wire::update::{
    Backend, BackendState, Commit, Fleet, Frontend, FrontendKey, FrontendKind, Protocol, Service, ServiceKey,
    Tracking, Treatment, Update,
};

/// Backends of each Service.
pub const BACKENDS: u32 = 10;
/// SNAT addresses for each million flows of one Service: most ports stay free.
const SNAT_ADDRESSES: u32 = 8;
/// The gateway's Ethernet address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The router that all clients and backends are behind.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// Where all Services are reached, over TCP and UDP.
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;

/// The secret of the flow tables: the same in each run, so that runs count alike.
pub const SECRET: Secret = Secret::new([0x7475_726e, 0x7069_6b65, 0x6265_6e63, 0x6865_7321]);

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Of all addresses.
    pub family: Family,
    /// Services of [`BACKENDS`] backends each.
    pub services: u32,
    /// Whether Services are there for UDP too.
    pub udp: bool,
}

impl World {
    /// Address and port of a Service.
    #[must_use]
    pub fn vip(&self, service: u32) -> SocketAddr {
        self.end([0xcb00_7100, 0x2001_0db8_0001], service, PORT)
    }

    /// A backend of a Service.
    #[must_use]
    pub fn backend(&self, service: u32, backend: u32) -> SocketAddr {
        self.end([0x0a40_0000, 0x2001_0db8_0002], service * 16 + backend, BACKEND_PORT)
    }

    /// The `n`th client; many share an address. Over IPv6 each address is of a network of its own, as those of different clients are.
    #[must_use]
    pub fn client(&self, n: u32) -> SocketAddr {
        let port = 10_000 + (n >> 16) as u16;
        match self.family {
            Family::V4 => self.end([0xc612_0000, 0], n & 0xffff, port),
            Family::V6 => {
                let network = 0x2001_0db8_0003 << 80 | u128::from(n & 0xffff) << 64;
                SocketAddr::new(Ipv6Addr::from(network | 1).into(), port)
            }
        }
    }

    fn end(&self, [v4, v6]: [u64; 2], n: u32, port: u16) -> SocketAddr {
        let address: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::from(v4 as u32 + n).into(),
            Family::V6 => Ipv6Addr::from(u128::from(v6) << 80 | u128::from(n + 1)).into(),
        };
        SocketAddr::new(address, port)
    }

    /// The router as a next hop.
    #[must_use]
    pub fn router(&self) -> NextHop {
        NextHop { port: 0, address: self.router_address().into() }
    }

    const fn router_address(&self) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe)),
        }
    }

    /// The gateway, for so many live flows: one port, which spreads packets over its workers by RSS, and all else as the daemon has it when
    /// nothing is configured.
    pub fn gateway(&self, flows: u32, workers: usize) -> Result<Gateway> {
        let (own, length): (IpAddr, u8) = match self.family {
            Family::V4 => (Ipv4Addr::new(192, 0, 2, 1).into(), 24),
            Family::V6 => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), 64),
        };
        let (gateway, gateway6) = match self.router_address() {
            IpAddr::V4(router) => (Some(router), None),
            IpAddr::V6(router) => (None, Some(router)),
        };
        let reta = (0..128).map(|entry| (entry % workers.max(1)) as u16).collect();
        let port = GatewayPort {
            mac: MAC,
            addresses: vec![(own, length)],
            gateway,
            gateway6,
            hears_routers: false,
            routes: vec![],
            steering: Steering::of(
                &Spread::Rss(Rss { key: MICROSOFT_KEY.to_vec(), reta, ipv6: true }),
                workers,
            ),
            mtu: 1500,
        };
        let addresses = flows.div_ceil(1_000_000).div_ceil(self.services).max(1) * SNAT_ADDRESSES;
        let snat: Vec<IpAddr> =
            (0..addresses).map(|n| self.end([0x0a01_0000, 0x2001_0db8_0004], n, 0).ip()).collect();
        Ok(Gateway::new(vec![port], &snat, workers)?.with_flow_rules(flow_rules()))
    }

    /// All Services, as the first transaction of a control plane.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Update> {
        let fleet = Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) };
        let mut updates = vec![Update::Reset, Update::PutFleet(fleet)];
        let protocols: &[Protocol] =
            if self.udp { &[Protocol::Tcp, Protocol::Udp] } else { &[Protocol::Tcp] };
        for (service, &protocol) in (0..self.services).flat_map(|s| protocols.iter().map(move |p| (s, p))) {
            let key = service_key(service, protocol);
            updates.push(Update::PutService(Service {
                key: key.clone(),
                affinity_timeout_s: 0,
                source_ranges: vec![],
                tracking: Tracking::default(),
                proxy_protocol: false,
            }));
            updates.extend((0..BACKENDS).map(|n| self.put_backend(service, protocol, n)));
            let vip = self.vip(service);
            updates.push(Update::PutFrontend(Frontend {
                key: FrontendKey { address: vip.ip(), port: vip.port(), protocol },
                service: key,
                kind: FrontendKind::LoadBalancer,
                outside: Treatment::FORWARD,
                inside: Treatment::FORWARD,
            }));
        }
        let records = updates.len() as u64;
        updates.push(Update::Commit(Commit { generation: 1, revision: 1, records }));
        updates
    }

    /// A backend of a Service comes.
    #[must_use]
    pub fn put_backend(&self, service: u32, protocol: Protocol, backend: u32) -> Update {
        let backend = Backend {
            address: self.backend(service, backend),
            weight: 1,
            state: BackendState::Ready,
            in_cluster_set: true,
            in_local_set: true,
            serving: true,
        };
        Update::PutBackend(service_key(service, protocol), backend)
    }

    /// A backend of a Service goes.
    #[must_use]
    pub fn drop_backend(&self, service: u32, protocol: Protocol, backend: u32) -> Update {
        Update::DropBackend(service_key(service, protocol), self.backend(service, backend))
    }
}

/// From one end to another, through the router.
#[must_use]
pub const fn flight(source: SocketAddr, destination: SocketAddr) -> Flight {
    Flight { source_mac: ROUTER_MAC, destination_mac: MAC, source, destination }
}

fn service_key(service: u32, protocol: Protocol) -> ServiceKey {
    ServiceKey(format!("default/bench-{service}:http/{protocol:?}"))
}

/// What new flows are bound by when nothing is configured.
fn flow_rules() -> FlowRules {
    let config::Dataplane { client_flows_max, snat, .. } = config::Dataplane::default();
    FlowRules {
        client_flows_max,
        excluded_ports: snat.excluded_ports.iter().map(|range| (range.first, range.last)).collect(),
        rest_ms: snat.rest_s * 1_000,
        resting_ports_max: snat.resting_ports_max as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nobody_has_the_address_of_another() {
        for family in [Family::V4, Family::V6] {
            let world = World { family, services: 10_000, udp: false };
            let clients: BTreeSet<_> = (0..200_000).map(|n| world.client(n)).collect();
            assert_eq!(clients.len(), 200_000);
            let backends = (0..10_000).flat_map(|s| (0..BACKENDS).map(move |b| (s, b)));
            let mut ends: Vec<SocketAddr> = backends.map(|(s, b)| world.backend(s, b)).collect();
            ends.extend((0..10_000).map(|service| world.vip(service)));
            ends.extend((0..0x1_0000).map(|n| world.client(n)));
            let gateway = world.gateway(10_000_000, 1).unwrap();
            let snat = gateway.snat(family).len();
            let addresses: BTreeSet<IpAddr> = ends.iter().map(SocketAddr::ip).collect();
            assert_eq!((addresses.len(), snat), (175_536, 8));
            assert!(addresses.iter().all(|&a| !gateway.is_snat(a.into()) && !gateway.is_own(a.into())));
        }
    }

    #[test]
    fn the_gateway_is_bound_as_the_daemon_binds_it() {
        let world = World { family: Family::V4, services: 1, udp: true };
        let gateway = world.gateway(10_000_000, 1).unwrap();
        assert_eq!(gateway.snat(Family::V4).len(), 80);
        let rules = gateway.flow_rules();
        assert_eq!(
            (rules.client_flows_max, rules.rest_ms, rules.resting_ports_max),
            (32_768, 120_000, 65_536)
        );
    }
}
