//! Which cluster address, NodePort and load-balancer address a Service gets (rules C4, C5).
//!
//! Pure choices: what is taken and a source of randomness come in. The caller writes the Service in an etcd transaction that fails if
//! anything it chose from has changed, and asks again.

use crate::defaults::needs_node_ports;
use crate::desired::Family;
use crate::k8s::{LoadBalancerIngress, Service};
use crate::object::ObjectKey;
use crate::settings::Rules;
use crate::words::{ADDRESS_POOL_ANNOTATION, CLUSTER_IP_NONE};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use turnpike_wire::config::{Pool, PortRange};

/// A number from 0 to below the bound it is given, which is never 0.
pub type Random<'a> = &'a mut dyn FnMut(u64) -> u64;

/// What is taken, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    cluster_addresses: BTreeMap<IpAddr, ObjectKey>,
    node_ports: BTreeMap<u16, ObjectKey>,
    public_addresses: BTreeMap<IpAddr, ObjectKey>,
}

/// A Service that cannot get what it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Service {service}: {reason}")]
pub struct AllocateError {
    /// Who asks.
    pub service: ObjectKey,
    /// Why not.
    pub reason: Shortage,
}

/// Why a Service cannot get what it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Someone else has the address.
    #[error("{field}: {address} is taken by Service {by}; choose another or leave it out")]
    AddressTaken {
        /// Which field asks for it.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// Who has it.
        by: ObjectKey,
    },
    /// Someone else has the NodePort.
    #[error("spec.ports[{index}].nodePort: {port} is taken by Service {by}; choose another or leave it out")]
    NodePortTaken {
        /// Which of its ports.
        index: usize,
        /// The NodePort.
        port: u16,
        /// Who has it.
        by: ObjectKey,
    },
    /// No cluster address is left.
    #[error("all {family} addresses of cluster.service_cidrs ({networks}) are taken; add a network there")]
    ClusterAddressesExhausted {
        /// Of which family.
        family: Family,
        /// The networks, or `none`.
        networks: String,
    },
    /// No NodePort is left.
    #[error("all {size} NodePorts of {first}-{last} are taken; widen cluster.node_port_range")]
    NodePortsExhausted {
        /// Size of the range.
        size: usize,
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
    /// No load-balancer address is left.
    #[error(
        "no free {family} load-balancer address: {pools}; add addresses to [[cluster.pools]] or delete a Service"
    )]
    PoolsExhausted {
        /// Of which family.
        family: Family,
        /// Each pool with its size and how much of it is taken.
        pools: String,
    },
    /// The wanted load-balancer address is in no pool the Service may use.
    #[error(
        "spec.loadBalancerIP: {address} is in none of the address pools {pools}; add it to [[cluster.pools]]"
    )]
    OutsidePools {
        /// The address.
        address: IpAddr,
        /// Names of the pools.
        pools: String,
    },
    /// The address belongs to the gateway.
    #[error("spec.loadBalancerIP: {address} is the gateway's own address; choose another")]
    OwnAddress {
        /// The address.
        address: IpAddr,
    },
}

impl Allocations {
    /// What these Services have.
    #[must_use]
    pub fn of<'a>(services: impl IntoIterator<Item = &'a Service>) -> Self {
        let mut allocations = Self::default();
        for service in services {
            allocations.add(service);
        }
        allocations
    }

    /// Notes what a Service has; what another has already stays the other's.
    pub fn add(&mut self, service: &Service) {
        let key = ObjectKey::of(&service.metadata);
        let spec = &service.spec;
        for address in spec.cluster_ips.iter().chain([&spec.cluster_ip]).filter_map(|text| text.parse().ok())
        {
            self.cluster_addresses.entry(address).or_insert_with(|| key.clone());
        }
        let node_ports = spec.ports.iter().map(|port| port.node_port).chain([spec.health_check_node_port]);
        for port in node_ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0) {
            self.node_ports.entry(port).or_insert_with(|| key.clone());
        }
        for ingress in &service.status.load_balancer.ingress {
            if let Ok(address) = ingress.ip.parse() {
                self.public_addresses.entry(address).or_insert_with(|| key.clone());
            }
        }
    }

    /// Forgets what a Service has.
    pub fn remove(&mut self, service: &ObjectKey) {
        self.cluster_addresses.retain(|_, by| by != service);
        self.node_ports.retain(|_, by| by != service);
        self.public_addresses.retain(|_, by| by != service);
    }
}

/// Gives a Service what it lacks and checks that what it has is free. Changes nothing on error.
///
/// The Service has its defaults and is valid. What it had in an earlier version is in it already and counts as its own.
pub fn service(
    service: &mut Service,
    rules: &Rules,
    taken: &Allocations,
    random: Random<'_>,
) -> Result<(), Vec<AllocateError>> {
    let mut new = service.clone();
    let key = ObjectKey::of(&service.metadata);
    let mut errors = Vec::new();
    let choice = Choice { key: &key, rules, taken };
    choice.cluster_addresses(&mut new, random, &mut errors);
    choice.node_ports(&mut new, random, &mut errors);
    choice.public_addresses(&mut new, &mut errors);
    if errors.is_empty() {
        *service = new;
        Ok(())
    } else {
        Err(errors.into_iter().map(|reason| AllocateError { service: key.clone(), reason }).collect())
    }
}

struct Choice<'a> {
    key: &'a ObjectKey,
    rules: &'a Rules,
    taken: &'a Allocations,
}

impl Choice<'_> {
    fn other<'t>(&self, by: Option<&'t ObjectKey>) -> Option<&'t ObjectKey> {
        by.filter(|by| *by != self.key)
    }

    fn cluster_addresses(&self, service: &mut Service, random: Random<'_>, errors: &mut Vec<Shortage>) {
        let spec = &mut service.spec;
        if spec.r#type == "ExternalName" {
            spec.cluster_ip.clear();
            spec.cluster_ips.clear();
            return;
        }
        if spec.cluster_ip == CLUSTER_IP_NONE {
            return;
        }
        if spec.ip_family_policy.as_deref() == Some("PreferDualStack") {
            let stated = spec.cluster_ips.len();
            let networks = &self.rules.service_cidrs;
            let has_network = |name: &str| networks.iter().any(|n| Family::of(n.addr()).name() == name);
            let mut index = 0;
            spec.ip_families.retain(|name| {
                index += 1;
                index <= stated.max(1) || has_network(name)
            });
        }
        for (index, name) in spec.ip_families.iter().enumerate() {
            let Some(family) = Family::parse(name) else { continue };
            match spec.cluster_ips.get(index).and_then(|text| text.parse::<IpAddr>().ok()) {
                Some(address) => {
                    if let Some(by) = self.other(self.taken.cluster_addresses.get(&address)) {
                        let by = by.clone();
                        errors.push(Shortage::AddressTaken { field: "spec.clusterIP", address, by });
                    }
                }
                None => match cluster_address(
                    &self.rules.service_cidrs,
                    family,
                    &self.taken.cluster_addresses,
                    random,
                ) {
                    Some(address) => spec.cluster_ips.push(address.to_string()),
                    None => errors.push(Shortage::ClusterAddressesExhausted {
                        family,
                        networks: list(
                            self.rules.service_cidrs.iter().filter(|n| Family::of(n.addr()) == family),
                        ),
                    }),
                },
            }
        }
        spec.cluster_ip = spec.cluster_ips.first().cloned().unwrap_or_default();
    }

    fn node_ports(&self, service: &mut Service, random: Random<'_>, errors: &mut Vec<Shortage>) {
        let needed = needs_node_ports(service);
        let mut own: BTreeSet<u16> = BTreeSet::new();
        for (index, port) in service.spec.ports.iter().enumerate() {
            let Some(number) = u16::try_from(port.node_port).ok().filter(|number| *number != 0) else {
                continue;
            };
            own.insert(number);
            if let Some(by) = self.other(self.taken.node_ports.get(&number)) {
                let by = by.clone();
                errors.push(Shortage::NodePortTaken { index, port: number, by });
            }
        }
        if !needed {
            return;
        }
        for index in 0..service.spec.ports.len() {
            if service.spec.ports[index].node_port != 0 {
                continue;
            }
            // One port number in two protocols (DNS, HTTP/3) gets one NodePort.
            let (number, protocol) =
                (service.spec.ports[index].port, service.spec.ports[index].protocol.clone());
            let twin = service.spec.ports.iter().find(|p| {
                let free = |node_port| {
                    !service.spec.ports.iter().any(|q| q.node_port == node_port && q.protocol == protocol)
                };
                p.port == number && p.node_port != 0 && free(p.node_port)
            });
            let chosen = match twin {
                Some(twin) => Some(twin.node_port),
                None => {
                    node_port(self.rules.node_port_range, &self.taken.node_ports, &own, random).map(i32::from)
                }
            };
            match chosen {
                Some(chosen) => {
                    service.spec.ports[index].node_port = chosen;
                    own.extend(u16::try_from(chosen).ok());
                }
                None => {
                    let PortRange { first, last } = self.rules.node_port_range;
                    let size = usize::from(last - first) + 1;
                    errors.push(Shortage::NodePortsExhausted { size, first, last });
                    return;
                }
            }
        }
    }

    fn public_addresses(&self, service: &mut Service, errors: &mut Vec<Shortage>) {
        if !self.rules.load_balancer_class.is_ours(service) {
            service.status.load_balancer.ingress.clear();
            return;
        }
        let named = service.metadata.annotations.get(ADDRESS_POOL_ANNOTATION);
        let pools: Vec<&Pool> =
            self.rules.pools.iter().filter(|pool| named.is_none_or(|named| *named == pool.name)).collect();
        let wanted = service.spec.load_balancer_ip.parse::<IpAddr>().ok();
        let had: Vec<IpAddr> = service
            .status
            .load_balancer
            .ingress
            .iter()
            .filter_map(|ingress| ingress.ip.parse().ok())
            .collect();
        let mut given = Vec::new();
        for (index, name) in service.spec.ip_families.iter().enumerate() {
            let Some(family) = Family::parse(name) else { continue };
            let of_family = |address: &IpAddr| Family::of(*address) == family;
            let chosen = match (wanted.filter(of_family), had.iter().copied().find(of_family)) {
                (Some(wanted), _) => self.check_public(wanted, &pools).map(|()| wanted),
                (None, Some(had)) if self.check_public(had, &pools).is_ok() => Ok(had),
                (None, _) => self.free_public(family, &pools),
            };
            match chosen {
                Ok(address) => given.push(address),
                // A second family that was only preferred is not worth a refusal.
                Err(Shortage::PoolsExhausted { .. })
                    if index > 0 && service.spec.ip_family_policy.as_deref() == Some("PreferDualStack") => {}
                Err(error) => errors.push(error),
            }
        }
        if let Some(wanted) = wanted.filter(|wanted| !given.contains(wanted))
            && errors.is_empty()
        {
            let pools = list(pools.iter().map(|pool| &pool.name));
            errors.push(Shortage::OutsidePools { address: wanted, pools });
        }
        let ingress = given.into_iter().map(|address| LoadBalancerIngress {
            ip: address.to_string(),
            ip_mode: Some("VIP".into()),
            ..Default::default()
        });
        service.status.load_balancer.ingress = ingress.collect();
    }

    fn check_public(&self, address: IpAddr, pools: &[&Pool]) -> Result<(), Shortage> {
        if !pools.iter().flat_map(|pool| &pool.addresses).any(|network| network.contains(&address)) {
            return Err(Shortage::OutsidePools { address, pools: list(pools.iter().map(|p| &p.name)) });
        }
        if self.rules.own_addresses.contains(&address) {
            return Err(Shortage::OwnAddress { address });
        }
        match self.other(self.taken.public_addresses.get(&address)) {
            Some(by) => Err(Shortage::AddressTaken { field: "spec.loadBalancerIP", address, by: by.clone() }),
            None => Ok(()),
        }
    }

    /// The first free address of the first pool that has one.
    fn free_public(&self, family: Family, pools: &[&Pool]) -> Result<IpAddr, Shortage> {
        let networks =
            || pools.iter().flat_map(|pool| &pool.addresses).filter(|n| Family::of(n.addr()) == family);
        let is_free = |address: &IpAddr| {
            self.other(self.taken.public_addresses.get(address)).is_none()
                && !self.rules.own_addresses.contains(address)
        };
        let found = networks()
            .find_map(|network| (0..size(network)).map(|offset| nth(network, offset)).find(is_free));
        found.ok_or_else(|| {
            let told = pools.iter().map(|pool| {
                let all = pool.addresses.iter().filter(|n| Family::of(n.addr()) == family);
                format!(
                    "pool {:?} has {} addresses, none free",
                    pool.name,
                    all.map(size).fold(0, u64::saturating_add)
                )
            });
            let pools = list(told);
            Shortage::PoolsExhausted { family, pools }
        })
    }
}

/// A free cluster address (rule C4): from the upper band of a network at random, then from its lower band.
fn cluster_address(
    networks: &[IpNet],
    family: Family,
    taken: &BTreeMap<IpAddr, ObjectKey>,
    random: Random<'_>,
) -> Option<IpAddr> {
    networks.iter().filter(|network| Family::of(network.addr()) == family).find_map(|network| {
        let size = size(network);
        let offset = band(size, 16, 256);
        // The network's own address and, of IPv4, the broadcast address are never given.
        let end = if family == Family::V4 { size.saturating_sub(1) } else { size };
        let upper = (1 + offset, end);
        let lower = (1, (1 + offset).min(end));
        [upper, lower].into_iter().find_map(|(first, end)| {
            free_in(first, end, random, |offset| !taken.contains_key(&nth(network, offset)))
                .map(|offset| nth(network, offset))
        })
    })
}

/// A free NodePort (rule C5).
fn node_port(
    range: PortRange,
    taken: &BTreeMap<u16, ObjectKey>,
    own: &BTreeSet<u16>,
    random: Random<'_>,
) -> Option<u16> {
    let size = u64::from(range.last - range.first) + 1;
    let offset = band(size, 32, 128);
    let port = |offset: u64| u16::try_from(u64::from(range.first) + offset).ok();
    let is_free =
        |offset: u64| port(offset).is_some_and(|port| !taken.contains_key(&port) && !own.contains(&port));
    [(offset, size), (0, offset)]
        .into_iter()
        .find_map(|(first, end)| free_in(first, end, random, is_free).and_then(port))
}

/// Size of the band that is kept for addresses and ports people choose themselves.
fn band(size: u64, step: u64, max: u64) -> u64 {
    const MIN: u64 = 16;
    if size <= MIN { 0 } else { (size / step).clamp(MIN, max) }
}

/// The first free number of `first..end`, from a random place on and around.
fn free_in(first: u64, end: u64, random: Random<'_>, is_free: impl Fn(u64) -> bool) -> Option<u64> {
    let count = end.checked_sub(first).filter(|count| *count != 0)?;
    let start = random(count) % count;
    (0..count).map(|step| first + (start + step % count) % count).find(|number| is_free(*number))
}

/// Number of addresses of a network; that of an enormous one is cut off at 2^62.
fn size(network: &IpNet) -> u64 {
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    1_u64 << bits.min(62)
}

fn nth(network: &IpNet, offset: u64) -> IpAddr {
    match network.network() {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().saturating_add(offset)))
        }
        IpAddr::V6(first) => {
            IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().saturating_add(u128::from(offset))))
        }
    }
}

fn list<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
