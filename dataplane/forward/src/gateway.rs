//! What does not change while a dataplane runs: its ports, addresses, routes and SNAT addresses.

use crate::address::{Address, Family, mask};
use crate::neighbour::NextHop;
use crate::networks::Networks;
use crate::steering::Steering;
use crate::trunk::{self, AttachError, Attachment, Line};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use turnpike_packet::mss;
pub use turnpike_wire::config::MssClamp;
use turnpike_wire::limits::{PORTS_MAX, WORKERS_MAX};

/// One NIC.
#[derive(Clone, Debug)]
pub struct GatewayPort {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// The gateway's addresses on it, each with the length of the connected network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Next hop for what is on no connected network of IPv4.
    pub gateway: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Whether it listens to routers of IPv6 that say so themselves.
    pub hears_routers: bool,
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
    pub to: (IpAddr, u8),
    /// The neighbour, of the same family.
    pub via: IpAddr,
}

/// What new flows are bound by, on each worker and for each family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowRules {
    /// Most flows of one client; 0: as many as there is room for.
    pub client_flows_max: u32,
    /// Ports that are never used on SNAT addresses, ranges by their first and last.
    pub excluded_ports: Vec<(u16, u16)>,
    /// How long a SNAT port rests, in milliseconds; 0: not at all.
    pub rest_ms: u32,
    /// Most SNAT ports that rest.
    pub resting_ports_max: usize,
}

/// The gateway as the packet path sees it.
#[derive(Clone, Debug)]
pub struct Gateway {
    ports: Vec<GatewayPort>,
    /// By family.
    snat: [Vec<Address>; 2],
    /// Own addresses by port, among them the link-local ones.
    own: Vec<Vec<Address>>,
    /// All of those and all SNAT addresses.
    answered: Networks,
    workers: usize,
    announces: bool,
    /// By family, where the outer sources of packets in packets come from: a network and the length of its prefix.
    tunnel_sources: [Option<(Address, u8)>; 2],
    /// By family, longest prefixes first.
    routes: [Vec<Prefixes>; 2],
    mss_clamp: MssClamp,
    attachments: Vec<Attachment>,
    lines: Vec<Line>,
    flow_rules: FlowRules,
}

/// The routes whose prefixes have one length.
#[derive(Clone, Debug)]
struct Prefixes {
    mask: u128,
    /// In the order of their networks, each once.
    routes: Vec<Route>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    network: u128,
    port: u8,
    /// None: on the link.
    via: Option<Address>,
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
    /// A prefix length over 32 or 128.
    #[error("address {0}/{1}: a prefix length is 0 to 32, with IPv6 0 to 128")]
    Prefix(IpAddr, u8),
    /// A network and its neighbour are of two families.
    #[error("route to {0} via {1}: the neighbour must be of the same IP family")]
    Families(IpAddr, IpAddr),
    /// No SNAT address.
    #[error("no SNAT address: set dataplane.snat.addresses, or give the first port an address")]
    NoSnat,
}

impl Gateway {
    /// Checks and prepares.
    pub fn new(ports: Vec<GatewayPort>, snat: &[IpAddr], workers: usize) -> Result<Self, GatewayError> {
        let within = |what, got, max| {
            if got == 0 || got > max { Err(GatewayError::Count { what, got, max }) } else { Ok(()) }
        };
        within("ports", ports.len(), PORTS_MAX)?;
        within("workers", workers, WORKERS_MAX)?;
        if snat.is_empty() {
            return Err(GatewayError::NoSnat);
        }
        let mut by_mask: [BTreeMap<u128, Vec<Route>>; 2] = Default::default();
        for (port, named) in (0u8..).zip(&ports) {
            let connected = named.addresses.iter().map(|&to| (to, None));
            let behind = named.routes.iter().map(|route| (route.to, Some(route.via)));
            let others = named.gateway.map(|via| ((Ipv4Addr::UNSPECIFIED.into(), 0), Some(via.into())));
            let others6 = named.gateway6.map(|via| ((Ipv6Addr::UNSPECIFIED.into(), 0), Some(via.into())));
            for ((to, length), via) in connected.chain(behind).chain(others).chain(others6) {
                let address = Address::from(to);
                let family = address.family();
                let mask = mask(family, length).ok_or(GatewayError::Prefix(to, length))?;
                if let Some(via) = via.filter(|&via| Address::from(via).family() != family) {
                    return Err(GatewayError::Families(to, via));
                }
                by_mask[family as usize].entry(mask).or_default().push(Route {
                    network: address.bits() & mask,
                    port,
                    via: via.map(Address::from),
                });
            }
        }
        let routes = by_mask.map(|by_mask| {
            let prefixes = by_mask.into_iter().rev().map(|(mask, mut routes)| {
                // Stable: among equals the one that was named first stays.
                routes.sort_by_key(|route| route.network);
                routes.dedup_by_key(|route| route.network);
                Prefixes { mask, routes }
            });
            prefixes.collect()
        });
        let snat: [Vec<Address>; 2] = [Family::V4, Family::V6].map(|family| {
            snat.iter().copied().map(Address::from).filter(|address| address.family() == family).collect()
        });
        let own: Vec<Vec<Address>> =
            ports.iter().map(|port| own_addresses(port.addresses.iter().map(|to| to.0), port.mac)).collect();
        let all = own.iter().chain(&snat).flatten().map(|address| IpNet::from(address.ip()));
        let answered = Networks::of(&all.collect::<Vec<_>>());
        let attachments = trunk::one_each(ports.len());
        let lines = (0..ports.len()).map(Line::Plain).collect();
        Ok(Self {
            ports,
            snat,
            own,
            answered,
            workers,
            announces: false,
            tunnel_sources: [None; 2],
            routes,
            mss_clamp: MssClamp::default(),
            attachments,
            lines,
            flow_rules: FlowRules::default(),
        })
    }

    /// The same with ports that are attached so, one [`Attachment`] each; before, each has a device of its own.
    pub fn attached(self, attachments: Vec<Attachment>) -> Result<Self, AttachError> {
        let lines = trunk::lines(self.ports.len(), &attachments)?;
        Ok(Self { attachments, lines, ..self })
    }

    /// Where each port is attached.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// What the frames of each device are.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Whether a port's device carries VLANs.
    #[must_use]
    pub fn is_trunked(&self, port: usize) -> bool {
        let line = self.attachments.get(port).and_then(|attachment| self.lines.get(attachment.device));
        matches!(line, Some(Line::Trunk(_)))
    }

    /// The same with other rules for new flows.
    #[must_use]
    pub fn with_flow_rules(self, flow_rules: FlowRules) -> Self {
        Self { flow_rules, ..self }
    }

    /// What new flows are bound by.
    #[must_use]
    pub const fn flow_rules(&self) -> &FlowRules {
        &self.flow_rules
    }

    /// The same with another rule for segment sizes.
    #[must_use]
    pub fn with_mss_clamp(self, mss_clamp: MssClamp) -> Self {
        Self { mss_clamp, ..self }
    }

    /// The same gateway, whose packets in packets come from addresses of these networks, one a flow; where there is none of a family, from its
    /// own. Of two of one family the last counts.
    #[must_use]
    pub fn with_tunnel_sources(mut self, networks: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        for (network, length) in networks {
            let network = Address::from(network);
            self.tunnel_sources[network.family() as usize] = Some((network, length));
        }
        self
    }

    /// The source of packets in packets to a next hop, for a flow with this hash: the bits behind the prefix are the hash's. Packets of many flows
    /// to one host then have many sources, and that host's NIC spreads them over its queues.
    #[must_use]
    pub fn tunnel_source(&self, to: NextHop, family: Family, hash: u64) -> Option<Address> {
        if let Some((network, length)) = self.tunnel_sources[family as usize] {
            let mask = mask(family, length)?;
            return Some(Address::v6(network.bits() & mask | u128::from(hash) & !mask));
        }
        let addresses = self.ports.get(usize::from(to.port))?.addresses.iter();
        let mut own = addresses.map(|&(own, length)| (Address::from(own), length));
        let is_on_link = |own: Address, length: u8| own.network(length) == to.address.network(length);
        let on_link = own.clone().find(|&(own, length)| own.family() == family && is_on_link(own, length));
        let first = on_link.or_else(|| own.find(|(own, _)| own.family() == family));
        first.map(|(own, _)| own).or_else(|| self.snat(family).first().copied())
    }

    /// The largest segment that a SYN may announce which came in on the first of these ports and whose connection leaves through the second
    /// in packets that are longer by so many bytes.
    #[must_use]
    pub fn largest_segment_in_tunnel(
        &self,
        family: Family,
        [from, out]: [usize; 2],
        outer: usize,
    ) -> Option<u16> {
        let clear = self.largest_segment(family, [from, out])?;
        match self.mss_clamp {
            MssClamp::Off | MssClamp::Bytes(_) => Some(clear),
            MssClamp::Auto => {
                let alone = self.largest_segment(family, [out, out])?;
                Some(clear.min(alone.saturating_sub(outer as u16)))
            }
        }
    }

    /// The largest segment that a SYN may announce which came in on one of these ports and leaves through the other, by its family.
    #[must_use]
    pub fn largest_segment(&self, family: Family, ports: [usize; 2]) -> Option<u16> {
        match self.mss_clamp {
            MssClamp::Off => None,
            MssClamp::Auto => {
                let mtu = ports.iter().filter_map(|&p| self.ports.get(p)).map(|p| p.mtu).min()?;
                Some(mtu.saturating_sub(match family {
                    Family::V4 => mss::HEADERS,
                    Family::V6 => mss::HEADERS6,
                }))
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

    /// Its SNAT addresses of one family.
    #[must_use]
    pub fn snat(&self, family: Family) -> &[Address] {
        &self.snat[family as usize]
    }

    /// Whether packets of IPv6 are its business: a port has an address of that family.
    #[must_use]
    pub fn speaks_ipv6(&self) -> bool {
        self.own.iter().flatten().any(|address| address.family() == Family::V6)
    }

    /// Its own addresses on all ports, the link-local ones of IPv6 among them.
    pub fn own(&self) -> impl Iterator<Item = Address> + '_ {
        self.own.iter().flatten().copied()
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

    /// On which ports an address of the gateway's is answered and announced: an own one on its own, one of a connected network where that
    /// network is, and all others on all, since whoever asks for such an address has been told that it is there.
    pub fn ports_of(&self, address: Address) -> impl Iterator<Item = usize> + '_ {
        // Ports of one device have its Ethernet address and so one link-local address.
        let is_own = self.own.iter().any(|own| own.contains(&address));
        let connected = self.route(address).filter(|hop| !is_own && hop.address == address);
        (0..self.ports.len()).filter(move |&port| match connected {
            Some(hop) => port == usize::from(hop.port),
            None => !is_own || self.own[port].contains(&address),
        })
    }

    /// Whether an address of the gateway's is answered on a port.
    #[must_use]
    pub fn answers_on(&self, port: usize, address: Address) -> bool {
        self.ports_of(address).any(|answering| answering == port)
    }

    /// How many workers share the work.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// Whether an address is one of the SNAT addresses.
    #[inline]
    #[must_use]
    pub fn is_snat(&self, address: Address) -> bool {
        self.snat[address.family() as usize].contains(&address)
    }

    /// Whether an address is one of the SNAT addresses or one of the gateway's own on any port.
    #[inline]
    #[must_use]
    pub fn answers(&self, address: Address) -> bool {
        self.answered.contains(address)
    }

    /// Whether an address is one of the gateway's own on any port.
    #[must_use]
    pub fn is_own(&self, address: Address) -> bool {
        self.own.iter().any(|own| own.contains(&address))
    }

    /// The address on `port` from which to speak to `neighbour`: the one on its network, else the first that reaches as far.
    #[must_use]
    pub fn source_towards(&self, port: usize, neighbour: Address) -> Option<Address> {
        let addresses = &self.ports.get(port)?.addresses;
        let of_family = || {
            let addresses = addresses.iter().map(|&(own, length)| (Address::from(own), length));
            addresses.filter(|(own, _)| own.family() == neighbour.family())
        };
        if is_link_local(neighbour) {
            return self.own.get(port)?.iter().copied().find(|&own| is_link_local(own));
        }
        let on_link = of_family().find(|(own, length)| own.network(*length) == neighbour.network(*length));
        on_link.or(of_family().next()).map(|(own, _)| own)
    }

    /// Where a packet to `destination` goes next: longest prefix first.
    #[must_use]
    pub fn route(&self, destination: Address) -> Option<NextHop> {
        let route = self.routes[destination.family() as usize].iter().find_map(|prefixes| {
            let network = destination.bits() & prefixes.mask;
            let at = prefixes.routes.binary_search_by_key(&network, |route| route.network).ok()?;
            prefixes.routes.get(at)
        })?;
        Some(NextHop { port: route.port, address: route.via.unwrap_or(destination) })
    }
}

/// The addresses of an interface, and if it speaks IPv6 the link-local one that every interface has (RFC 4291 section 2.8).
#[must_use]
pub fn own_addresses(named: impl Iterator<Item = IpAddr>, mac: [u8; 6]) -> Vec<Address> {
    let mut own: Vec<Address> = named.map(Address::from).collect();
    if own.iter().any(|address| address.family() == Family::V6) {
        own.push(link_local(mac));
    }
    own
}

/// fe80::/10 (RFC 4291 section 2.5.6).
#[must_use]
pub const fn is_link_local(address: Address) -> bool {
    address.bits() >> 118 == 0xfe80 >> 6
}

/// The link-local address that an Ethernet address makes (RFC 4291 section 2.5.6 and appendix A).
#[must_use]
pub const fn link_local(mac: [u8; 6]) -> Address {
    let [a, b, c, d, e, f] = mac;
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Address::v6(0xfe80 << 112 | interface as u128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn port(addresses: &[(&str, u8)], gateway: Option<&str>) -> GatewayPort {
        GatewayPort {
            mac: [2, 0, 0, 0, 0, 1],
            addresses: addresses.iter().map(|&(a, l)| (a.parse().unwrap(), l)).collect(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            gateway6: None,
            hears_routers: false,
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
            let hop = gateway.route(address(to)).unwrap();
            assert_eq!((hop.port, hop.address.to_string().as_str()), (out, next), "{to}");
        }
        let towards = |a: &str| gateway.source_towards(1, address(a));
        assert_eq!(towards("10.1.7.7"), Some(address("10.0.0.1")));
        assert_eq!(towards("2001:db8::1"), None);
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
            let hop = gateway.route(address(to)).unwrap();
            assert_eq!((hop.port, hop.address.to_string().as_str()), (out, next), "{to}");
        }
    }

    #[test]
    fn both_families_are_routed_apart() {
        let mut wan = port(&[("192.0.2.1", 24), ("2001:db8::1", 64)], Some("192.0.2.254"));
        wan.gateway6 = Some("fe80::fe".parse().unwrap());
        let mut lan = port(&[("2001:db8:1::1", 64)], None);
        lan.mac = [2, 0, 0, 0, 0, 2];
        lan.routes = vec![StaticRoute {
            to: ("2001:db8:ff00::".parse().unwrap(), 40),
            via: "2001:db8:1::7".parse().unwrap(),
        }];
        let snat = ["192.0.2.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()];
        let gateway = Gateway::new(vec![wan, lan], &snat, 1).unwrap();
        let rows = [
            ("2001:db8::9", 0, "2001:db8::9"),
            ("2001:db8:1::9", 1, "2001:db8:1::9"),
            ("2001:db8:ff77::9", 1, "2001:db8:1::7"),
            ("2a00::1", 0, "fe80::fe"),
            ("198.51.100.1", 0, "192.0.2.254"),
        ];
        for (to, out, next) in rows {
            let hop = gateway.route(address(to)).unwrap();
            assert_eq!((hop.port, hop.address), (out, address(next)), "{to}");
        }
        assert_eq!(gateway.snat(Family::V6), [address("2001:db8:1::1")]);
        assert!(gateway.is_snat(address("192.0.2.1")) && !gateway.is_snat(address("2001:db8::1")));
        assert!(gateway.is_own(address("fe80::ff:fe00:2")) && gateway.speaks_ipv6());
        let towards = |port, a| gateway.source_towards(port, address(a));
        assert_eq!(towards(0, "fe80::fe"), Some(address("fe80::ff:fe00:1")));
        assert_eq!(towards(1, "2001:db8:1::7"), Some(address("2001:db8:1::1")));
        assert_eq!(gateway.ports_of(address("fe80::ff:fe00:2")).collect::<Vec<_>>(), [1]);
        let mixed = StaticRoute { to: ("10.0.0.0".parse().unwrap(), 8), via: "fe80::1".parse().unwrap() };
        let ports = vec![GatewayPort { routes: vec![mixed], ..port(&[], None) }];
        assert!(matches!(Gateway::new(ports, &snat, 1), Err(GatewayError::Families(..))));
    }

    #[test]
    fn addresses_are_answered_where_they_belong() {
        let ports = vec![
            port(&[("192.0.2.1", 24), ("2001:db8::1", 64)], Some("192.0.2.254")),
            port(&[("10.244.0.254", 16)], None),
            port(&[("10.245.0.1", 24), ("2001:db8:2::1", 64)], None),
        ];
        let gateway = Gateway::new(ports, &["10.1.0.1".parse().unwrap()], 1).unwrap();
        let rows = [
            ("an own address", "192.0.2.1", vec![0]),
            ("another port's own address", "10.244.0.254", vec![1]),
            ("a VIP of a connected network", "192.0.2.80", vec![0]),
            ("a VIP of another connected network", "10.245.0.80", vec![2]),
            ("a VIP of no network", "203.0.113.80", vec![0, 1, 2]),
            ("a SNAT address of no network", "10.1.0.1", vec![0, 1, 2]),
            ("the link-local address of ports with one Ethernet address", "fe80::ff:fe00:1", vec![0, 2]),
        ];
        for (what, text, wanted) in rows {
            let address = address(text);
            assert_eq!(gateway.ports_of(address).collect::<Vec<_>>(), wanted, "{what}");
            for port in 0..3 {
                assert_eq!(
                    gateway.answers_on(port, address),
                    wanted.contains(&port),
                    "{what} on port {port}"
                );
            }
        }
    }

    #[test]
    fn rfc6691_a_segment_fits_both_ports() {
        let ports = vec![GatewayPort { mtu: 9_000, ..port(&[], None) }, port(&[], None)];
        let gateway = Gateway::new(ports, &["10.1.0.1".parse().unwrap()], 1).unwrap();
        let with = |clamp| {
            let gateway = gateway.clone().with_mss_clamp(clamp);
            [[0, 0], [0, 1], [1, 0]].map(|ports| gateway.largest_segment(Family::V4, ports))
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
