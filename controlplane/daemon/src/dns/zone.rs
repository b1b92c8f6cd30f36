//! Whose names are answered, and what stands at each: the tree of the cluster's domain and of the reverse zones (rule D1).

use super::index::{Index, Owner};
use super::names::Names;
use super::reverse::{self, Reverse};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData};
use std::net::IpAddr;

/// The version of the Kubernetes DNS specification that is kept.
pub const SCHEMA_VERSION: &str = "1.1.0";
/// Priority and weight of every SRV record: all are equal.
const SRV_PRIORITY: u16 = 0;
const SRV_WEIGHT: u16 = 100;
/// Times of the SOA record, in seconds; nobody transfers the zone.
const REFRESH_S: i32 = 7_200;
const RETRY_S: i32 = 1_800;
const EXPIRE_S: i32 = 86_400;

/// The cluster's domain and what is fixed about it.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name, in lower case.
    pub name: Name,
    /// How long answers may be kept, in seconds.
    pub ttl_s: u32,
    /// The name of this server.
    server: Name,
    /// The addresses of this server.
    addresses: Vec<IpAddr>,
    labels: Vec<String>,
}

/// What stands at a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// Nothing, and nothing below it.
    Missing,
    /// Records, at least one.
    Records(Vec<RData>),
    /// No record, but the name exists.
    Empty,
    /// Another name.
    Alias(Name),
}

/// Where a name is.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In a zone of this server, whose apex has that many labels.
    Here(usize, Node),
    /// In no zone of this server; these are known of it all the same.
    Known(Vec<RData>),
    /// In no zone of this server.
    Elsewhere,
    /// Not known before the first complete view of the cluster.
    NotYet,
}

impl Zone {
    /// The zone of that domain. `addresses` are those at which this server is asked.
    pub fn new(domain: &str, ttl_s: u32, addresses: Vec<IpAddr>) -> Result<Self, hickory_proto::ProtoError> {
        let mut name = Name::from_ascii(domain)?.to_lowercase();
        name.set_fqdn(true);
        let server = Name::from_ascii("ns.dns")?.append_domain(&name)?;
        Ok(Self { labels: labels(&name), server, name, ttl_s, addresses })
    }

    /// Where a name is and what stands there.
    pub fn place(&self, index: &Index, name: &Name) -> Place {
        let labels = labels(name);
        if let Some(below) = labels.strip_suffix(self.labels.as_slice()) {
            return match index.revision() {
                Some(revision) => Place::Here(self.labels.len(), self.node(index, below, revision)),
                None => Place::NotYet,
            };
        }
        match (reverse::parse(&labels), index.revision()) {
            (Some(reverse), Some(revision)) => self.reverse(index, reverse, revision),
            (Some(_), None) => Place::NotYet,
            (None, _) => Place::Elsewhere,
        }
    }

    /// What stands below the apex.
    fn node(&self, index: &Index, below: &[String], revision: i64) -> Node {
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        match below.as_slice() {
            [] => self.apex(revision),
            ["dns-version"] => Node::Records(vec![RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]))]),
            ["dns"] | ["svc"] => Node::Empty,
            ["ns", "dns"] => addresses(self.addresses.iter().copied()),
            [namespace, "svc"] if index.has_namespace(namespace) => Node::Empty,
            [above @ .., service, namespace, "svc"] => match index.service(namespace, service) {
                Some(names) => self.service_node(names, above, service, namespace),
                None => Node::Missing,
            },
            _ => Node::Missing,
        }
    }

    /// What stands at the name of a Service, or at `above` before it.
    fn service_node(&self, names: &Names, above: &[&str], service: &str, namespace: &str) -> Node {
        match (names, above) {
            (Names::External { target }, []) => Node::Alias(target.clone()),
            (Names::Addressed { addresses: given, .. }, []) => addresses(given.iter().copied()),
            (Names::Headless { hosts, .. }, []) => {
                let mut all: Vec<IpAddr> = hosts.values().flatten().copied().collect();
                all.sort_unstable();
                all.dedup();
                addresses(all)
            }
            (Names::Headless { hosts, .. }, [host]) if hosts.contains_key(*host) => {
                addresses(hosts.get(*host).into_iter().flatten().copied())
            }
            (Names::Addressed { ports, .. }, [protocol]) => {
                exists(ports.keys().any(|p| is_protocol(protocol, &p.0)))
            }
            (Names::Headless { ports, .. }, [protocol]) => {
                exists(ports.keys().any(|p| is_protocol(protocol, &p.0)))
            }
            (Names::Addressed { ports, .. }, [port, protocol]) => {
                let numbers = port_key(port, protocol).and_then(|key| ports.get(&key));
                let target = self.service_name(None, service, namespace);
                records(numbers.into_iter().flatten().filter_map(|number| srv(*number, target.clone()?)))
            }
            (Names::Headless { ports, .. }, [port, protocol]) => {
                let endpoints = port_key(port, protocol).and_then(|key| ports.get(&key));
                let target = |host: &str| self.service_name(Some(host), service, namespace);
                records(
                    endpoints.into_iter().flatten().filter_map(|(host, number)| srv(*number, target(host)?)),
                )
            }
            _ => Node::Missing,
        }
    }

    /// `[host.]service.namespace.svc.zone`; none: it would be too long for a name.
    fn service_name(&self, host: Option<&str>, service: &str, namespace: &str) -> Option<Name> {
        let labels = host.into_iter().chain([service, namespace, "svc"]).map(str::as_bytes);
        Name::from_labels(labels).ok()?.append_domain(&self.name).ok()
    }

    fn reverse(&self, index: &Index, reverse: Reverse, revision: i64) -> Place {
        let (Reverse::Network(network) | Reverse::Below(network)) = reverse;
        let served =
            index.networks().iter().filter_map(|served| reverse::apex_labels(*served, network)).min();
        let labels = usize::from(network.prefix_len() / reverse::label_bits(network));
        let is_whole = matches!(reverse, Reverse::Network(_));
        let is_address = is_whole && network.prefix_len() == network.max_prefix_len();
        let pointers: Vec<RData> = if is_address {
            index.owners(network.addr()).filter_map(|owner| self.pointer(owner)).collect()
        } else {
            Vec::new()
        };
        let Some(apex) = served else {
            // An endpoint's address: the name is known, the zone is another's.
            return if pointers.is_empty() { Place::Elsewhere } else { Place::Known(pointers) };
        };
        let node = if !is_whole {
            Node::Missing
        } else if labels == apex {
            match self.apex(revision) {
                Node::Records(mut records) => {
                    records.extend(pointers);
                    Node::Records(records)
                }
                other => other,
            }
        } else if !pointers.is_empty() {
            Node::Records(pointers)
        } else {
            exists(!is_address && index.has_address_in(network))
        };
        // The two labels of the tree belong to the apex.
        Place::Here(apex + 2, node)
    }

    fn pointer(&self, owner: &Owner) -> Option<RData> {
        let Owner { service, host } = owner;
        Some(RData::PTR(PTR(self.service_name(host.as_deref(), &service.name, &service.namespace)?)))
    }

    fn apex(&self, revision: i64) -> Node {
        Node::Records(vec![self.soa(revision), RData::NS(NS(self.server.clone()))])
    }

    /// The SOA record. Its serial number is the etcd revision: it grows with every change (and wraps as RFC 1982 has it).
    #[must_use]
    pub fn soa(&self, revision: i64) -> RData {
        let mailbox = Name::from_ascii("hostmaster").and_then(|name| name.append_domain(&self.name));
        let mailbox = mailbox.unwrap_or_else(|_| self.name.clone());
        let serial = (revision & i64::from(u32::MAX)) as u32;
        RData::SOA(SOA::new(self.server.clone(), mailbox, serial, REFRESH_S, RETRY_S, EXPIRE_S, self.ttl_s))
    }
}

/// The labels of a name in lower case, the leftmost first. A label that is no text matches nothing, which is right.
pub fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

fn exists(it_does: bool) -> Node {
    if it_does { Node::Empty } else { Node::Missing }
}

fn records(found: impl Iterator<Item = RData>) -> Node {
    let found: Vec<RData> = found.collect();
    if found.is_empty() { Node::Missing } else { Node::Records(found) }
}

/// Addresses of a name that exists.
fn addresses(found: impl IntoIterator<Item = IpAddr>) -> Node {
    let found: Vec<RData> = found
        .into_iter()
        .map(|address| match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        })
        .collect();
    if found.is_empty() { Node::Empty } else { Node::Records(found) }
}

/// Whether a label is `_PROTOCOL`.
fn is_protocol(label: &str, protocol: &str) -> bool {
    label.strip_prefix('_') == Some(protocol)
}

fn port_key(port: &str, protocol: &str) -> Option<(String, String)> {
    Some((protocol.strip_prefix('_')?.to_owned(), port.strip_prefix('_')?.to_owned()))
}

fn srv(port: u16, target: Name) -> Option<RData> {
    Some(RData::SRV(SRV::new(SRV_PRIORITY, SRV_WEIGHT, port, target)))
}

/// The record that says that a name stands for another.
pub const fn alias(target: Name) -> RData {
    RData::CNAME(CNAME(target))
}
