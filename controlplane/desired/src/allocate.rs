//! Which cluster addresses, NodePorts, health check port and load-balancer addresses a Service gets (rules C4 to C7).
//!
//! Pure choices: what is taken and a source of randomness come in. The caller writes the Service in an etcd transaction that fails if
//! anything it chose from has changed, and asks again.

mod assigned;
mod load_balancer;
mod shortage;

pub use assigned::{Assignment, assign, with_addresses};
pub use load_balancer::{ADDRESS_CONDITION, is_waiting, sharing_key};
pub use shortage::{AllocateError, Shortage};

use crate::defaults::{needs_health_check_port, needs_node_ports};
use crate::desired::Family;
use crate::k8s::Service;
use crate::object::ObjectKey;
use crate::settings::Rules;
use crate::words::CLUSTER_IP_NONE;
use ipnet::IpNet;
use load_balancer::Tenant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use turnpike_wire::config::PortRange;

/// A number from 0 to below the bound it is given, which is never 0.
pub type Random<'a> = &'a mut dyn FnMut(u64) -> u64;

/// What is taken, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    cluster_addresses: BTreeMap<IpAddr, ObjectKey>,
    node_ports: BTreeMap<u16, ObjectKey>,
    /// An address has several tenants only where they share it.
    public_addresses: BTreeMap<IpAddr, Vec<Tenant>>,
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
                self.public_addresses.entry(address).or_default().push(Tenant::of(service));
            }
        }
    }

    /// Notes load-balancer addresses that nobody may have.
    pub fn reserve(&mut self, addresses: &BTreeSet<IpAddr>) {
        for address in addresses {
            self.public_addresses.entry(*address).or_default().push(Tenant::nobody());
        }
    }

    /// Forgets what a Service has.
    pub fn remove(&mut self, service: &ObjectKey) {
        self.cluster_addresses.retain(|_, by| by != service);
        self.node_ports.retain(|_, by| by != service);
        self.public_addresses.retain(|_, tenants| {
            tenants.retain(|tenant| tenant.service != *service);
            !tenants.is_empty()
        });
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
    let mut own = choice.stated_ports(&new, &mut errors);
    choice.node_ports(&mut new, &mut own, random, &mut errors);
    choice.health_check_port(&mut new, &own, random, &mut errors);
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

    /// The ports of the NodePort range that the Service states, which nobody else may have.
    fn stated_ports(&self, service: &Service, errors: &mut Vec<Shortage>) -> BTreeSet<u16> {
        let spec = &service.spec;
        let fields = spec.ports.iter().enumerate().map(|(index, port)| (Some(index), port.node_port));
        let mut own = BTreeSet::new();
        for (index, port) in fields.chain([(None, spec.health_check_node_port)]) {
            let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0) else { continue };
            let is_first = own.insert(port);
            if let Some(by) = self.other(self.taken.node_ports.get(&port)) {
                errors.push(Shortage::NodePortTaken { index, port, by: by.clone() });
            } else if index.is_none() && !is_first {
                errors.push(Shortage::NodePortTaken { index, port, by: self.key.clone() });
            }
        }
        own
    }

    fn node_ports(
        &self,
        service: &mut Service,
        own: &mut BTreeSet<u16>,
        random: Random<'_>,
        errors: &mut Vec<Shortage>,
    ) {
        if !needs_node_ports(service) {
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
                    node_port(self.rules.node_port_range, &self.taken.node_ports, own, random).map(i32::from)
                }
            };
            match chosen {
                Some(chosen) => {
                    service.spec.ports[index].node_port = chosen;
                    own.extend(u16::try_from(chosen).ok());
                }
                None => return errors.push(self.no_port_left()),
            }
        }
    }

    /// The port of the health check comes from the NodePort range too (rule C7).
    fn health_check_port(
        &self,
        service: &mut Service,
        own: &BTreeSet<u16>,
        random: Random<'_>,
        errors: &mut Vec<Shortage>,
    ) {
        if !needs_health_check_port(service) {
            service.spec.health_check_node_port = 0;
        } else if service.spec.health_check_node_port == 0 {
            match node_port(self.rules.node_port_range, &self.taken.node_ports, own, random) {
                Some(port) => service.spec.health_check_node_port = port.into(),
                None => errors.push(self.no_port_left()),
            }
        }
    }

    fn no_port_left(&self) -> Shortage {
        let PortRange { first, last } = self.rules.node_port_range;
        Shortage::NodePortsExhausted { size: usize::from(last - first) + 1, first, last }
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
pub(crate) fn size(network: &IpNet) -> u64 {
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    1_u64 << bits.min(62)
}

pub(crate) fn nth(network: &IpNet, offset: u64) -> IpAddr {
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

pub(crate) fn list<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
