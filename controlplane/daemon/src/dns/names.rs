//! The names of one Service: what the Kubernetes DNS specification 1.1.0 wants of the object and its EndpointSlices (rule D1).

use hickory_proto::rr::Name;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use turnpike_desired::desired::Family;
use turnpike_desired::k8s::{Endpoint, EndpointSlice, Service};
use turnpike_desired::words::CLUSTER_IP_NONE;

/// A named port: protocol and name, both in lower case and without underscore.
pub type PortName = (String, String);

/// What DNS answers for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// It has cluster addresses.
    Addressed {
        /// One a family.
        addresses: Vec<IpAddr>,
        /// Ports that have names.
        ports: BTreeMap<PortName, BTreeSet<u16>>,
    },
    /// `clusterIP: None`: its ready endpoints stand for it. There is at least one.
    Headless {
        /// Addresses of the ready endpoints, by hostname.
        hosts: BTreeMap<String, BTreeSet<IpAddr>>,
        /// Hostname and port of each endpoint, by named port.
        ports: BTreeMap<PortName, BTreeSet<(String, u16)>>,
    },
    /// `type: ExternalName`.
    External {
        /// Another name that stands for it.
        target: Name,
    },
}

impl Names {
    /// The names of a Service; none if it has none. `slices` are all that carry its name, also those that make no forwarding (rule S2).
    pub fn of<'a>(service: &Service, slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Option<Self> {
        let spec = &service.spec;
        if spec.r#type == "ExternalName" {
            let mut target =
                Name::from_ascii(&spec.external_name).ok().filter(|name| name.iter().len() > 0)?;
            target.set_fqdn(true);
            return Some(Self::External { target });
        }
        if spec.cluster_ip == CLUSTER_IP_NONE {
            return headless(slices);
        }
        let given = if spec.cluster_ips.is_empty() {
            std::slice::from_ref(&spec.cluster_ip)
        } else {
            spec.cluster_ips.as_slice()
        };
        let addresses: Vec<IpAddr> = given.iter().filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        let mut ports: BTreeMap<PortName, BTreeSet<u16>> = BTreeMap::new();
        for port in &spec.ports {
            if let (Some(name), Some(number)) =
                (port_name(&port.name, Some(&port.protocol)), port_number(port.port))
            {
                ports.entry(name).or_default().insert(number);
            }
        }
        Some(Self::Addressed { addresses, ports })
    }

    /// The addresses that lead back to it, and the hostname each stands for; none: the Service itself.
    pub fn reverse(&self) -> Vec<(IpAddr, Option<&str>)> {
        match self {
            Self::Addressed { addresses, .. } => addresses.iter().map(|address| (*address, None)).collect(),
            Self::Headless { hosts, .. } => hosts
                .iter()
                .flat_map(|(host, addresses)| addresses.iter().map(|address| (*address, Some(host.as_str()))))
                .collect(),
            Self::External { .. } => Vec::new(),
        }
    }
}

fn headless<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Option<Names> {
    let mut hosts: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut ports: BTreeMap<PortName, BTreeSet<(String, u16)>> = BTreeMap::new();
    for slice in slices {
        let Some(family) = Family::parse(&slice.address_type) else { continue };
        let named: Vec<(PortName, u16)> = slice
            .ports
            .iter()
            .filter_map(|port| {
                let name = port_name(port.name.as_deref()?, port.protocol.as_deref())?;
                Some((name, port_number(port.port?)?))
            })
            .collect();
        for endpoint in &slice.endpoints {
            // The controller has folded publishNotReadyAddresses into `ready` (rule S12); absent is true (rule S10).
            if endpoint.conditions.ready == Some(false) {
                continue;
            }
            let Some(address) = endpoint_address(endpoint, family) else { continue };
            let host = hostname(endpoint, address);
            for (name, number) in &named {
                ports.entry(name.clone()).or_default().insert((host.clone(), *number));
            }
            hosts.entry(host).or_default().insert(address);
        }
    }
    (!hosts.is_empty()).then_some(Names::Headless { hosts, ports })
}

/// The first address, if it is of the slice's family (rule S8).
fn endpoint_address(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    (Family::of(address) == family).then_some(address)
}

/// The endpoint's hostname, else one made of its address: dashes between the numbers.
fn hostname(endpoint: &Endpoint, address: IpAddr) -> String {
    if let Some(name) = endpoint.hostname.as_deref().filter(|name| is_label(name)) {
        return name.to_ascii_lowercase();
    }
    let mut text = address.to_string().replace(['.', ':'], "-");
    // A label of a hostname neither begins nor ends with a dash, but shortened IPv6 addresses may.
    if text.starts_with('-') {
        text.insert(0, '0');
    }
    if text.ends_with('-') {
        text.push('0');
    }
    text
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Protocol and name of a named port; unnamed ones have no SRV record.
fn port_name(name: &str, protocol: Option<&str>) -> Option<PortName> {
    // With its underscore the name must still be a label.
    if name.is_empty() || name.len() > 62 {
        return None;
    }
    let protocol = match protocol {
        None | Some("") => "tcp".to_owned(),
        Some(other) => other.to_ascii_lowercase(),
    };
    Some((protocol, name.to_ascii_lowercase()))
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
