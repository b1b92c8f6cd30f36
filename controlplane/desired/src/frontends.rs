//! A Service → the addresses and ports it is to be answered on (rules S1 to S6, P3, P4, C8), before its endpoints are looked at.

use crate::address_guard::danger;
use crate::desired::{Family, ProblemKind};
use crate::k8s::{Service, ServicePort};
use crate::policy::{Admitted, Policies, admitted};
use crate::settings::Settings;
use crate::words::{CLUSTER_IP_NONE, SERVICE_PROXY_LABEL};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use turnpike_wire::limits::SERVICE_KEY_BYTES_MAX;
use turnpike_wire::update::{FrontendKey, FrontendKind, Protocol, ServiceKey};

type Problems = Vec<(ProblemKind, String)>;

/// What one Service is to be answered on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faces {
    /// One entry for each port and family.
    pub(crate) ports: Vec<PortFaces>,
    /// Its cluster and load-balancer addresses; no backend may have one of them.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Where its external addresses are answered; no backend may be there. The address alone may be a node's, with pods on it.
    pub(crate) external: BTreeSet<(SocketAddr, Protocol)>,
    /// What it says about its packets.
    pub(crate) policies: Policies,
    /// The family of its first cluster address.
    pub(crate) primary: Option<Family>,
    /// The port that tells whether there are endpoints here (rule H1).
    pub(crate) health_check_port: Option<u16>,
    /// What is not done.
    pub(crate) problems: Vec<(ProblemKind, String)>,
}

/// One Service port of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortFaces {
    pub(crate) key: ServiceKey,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) family: Family,
    pub(crate) frontends: Vec<Face>,
    /// It has a NodePort, a load-balancer or an external address (rule E1).
    pub(crate) is_reachable_from_outside: bool,
    /// Who may connect to its load-balancer addresses.
    pub(crate) admitted: Admitted,
}

/// One address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Face {
    pub(crate) key: FrontendKey,
    pub(crate) kind: FrontendKind,
}

/// The protocol of a port; empty means TCP.
#[must_use]
pub(crate) fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The cluster address of each family (rule S4), with what is wrong with the others.
pub(crate) fn cluster_addresses(
    service: &Service,
    problems: &mut Vec<(ProblemKind, String)>,
) -> Vec<(Family, IpAddr)> {
    let spec = &service.spec;
    let texts: Vec<&str> = if spec.cluster_ips.is_empty() {
        vec![&spec.cluster_ip]
    } else {
        spec.cluster_ips.iter().map(String::as_str).collect()
    };
    let mut found: Vec<(Family, IpAddr)> = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        let Ok(address) = text.parse::<IpAddr>() else {
            problems
                .push((ProblemKind::Invalid, format!("spec.clusterIPs[{index}]: {text:?} is no IP address")));
            continue;
        };
        let family = Family::of(address);
        if spec.ip_families.get(index).is_some_and(|stated| Family::parse(stated) != Some(family)) {
            let stated = &spec.ip_families[index];
            let message = format!(
                "spec.clusterIPs[{index}]: {address} is not of the family {stated} of spec.ipFamilies"
            );
            problems.push((ProblemKind::Invalid, message));
        } else if found.iter().any(|(known, _)| *known == family) {
            let message = format!("spec.clusterIPs[{index}]: {address} is a second {family} address");
            problems.push((ProblemKind::Invalid, message));
        } else {
            found.push((family, address));
        }
    }
    found
}

/// Whether the Service makes any forwarding here (rules S1, S2). The headless label on a Service with an address means nothing:
/// kube-proxy 1.36 heeds it on slices only, and the controller does not pass it on to them.
fn is_forwarded(service: &Service) -> bool {
    let spec = &service.spec;
    let labels = &service.metadata.labels;
    spec.r#type != "ExternalName"
        && !spec.cluster_ip.is_empty()
        && spec.cluster_ip != CLUSTER_IP_NONE
        && !labels.contains_key(SERVICE_PROXY_LABEL)
}

/// What the Service is to be answered on; `assigned` are load-balancer addresses it has from Turnpike beside those of its status.
pub(crate) fn faces(
    service: &Service,
    settings: &Settings,
    service_networks: &[IpNet],
    assigned: &BTreeSet<IpAddr>,
) -> Faces {
    let mut faces = Faces::default();
    if !is_forwarded(service) {
        return faces;
    }
    let problems = &mut faces.problems;
    if !keeps_keys_apart(&service.metadata.namespace) || !keeps_keys_apart(&service.metadata.name) {
        problems.push((
            ProblemKind::Invalid,
            "metadata.name: not a name the API server would accept; not served".into(),
        ));
        return faces;
    }
    faces.policies = Policies::of(service, problems);
    faces.health_check_port = health_check_port(service, faces.policies, problems);
    let cluster: Vec<(Family, IpAddr)> = cluster_addresses(service, problems)
        .into_iter()
        .filter(|(_, address)| match refused_cluster_address(*address, settings) {
            None => true,
            Some(reason) => {
                problems.push((ProblemKind::Refused, format!("cluster address {address} {reason}")));
                false
            }
        })
        .collect();
    faces.primary = cluster.first().map(|(family, _)| *family);
    let guard = Guard { settings, service_networks };
    let public = load_balancer_addresses(service, &guard, assigned, problems);
    let external = external_addresses(service, &guard, problems);
    let admitted: Vec<Admitted> = cluster
        .iter()
        .map(|(family, _)| {
            if public.is_empty() {
                Admitted::Everyone
            } else {
                admitted(service, *family, settings, &public, problems)
            }
        })
        .collect();
    for (index, port) in service.spec.ports.iter().enumerate() {
        let Some((number, protocol)) = sound_port(index, port, problems) else { continue };
        for (&(family, cluster_address), admitted) in cluster.iter().zip(&admitted) {
            let key = service_key(service, &port.name, protocol, family);
            if key.0.len() > SERVICE_KEY_BYTES_MAX {
                let message = format!(
                    "spec.ports[{index}]: the names are too long, {} bytes of {SERVICE_KEY_BYTES_MAX}",
                    key.0.len()
                );
                problems.push((ProblemKind::Limit, message));
                continue;
            }
            if faces.ports.iter().any(|known| known.key == key) {
                let message =
                    format!("spec.ports[{index}]: a port of this name and protocol stands before it");
                problems.push((ProblemKind::Invalid, message));
                continue;
            }
            let mut frontends: Vec<Face> = Vec::new();
            // An address that is there in two roles has the first of them.
            let mut face = |address, port, kind| {
                let key = FrontendKey { address, port, protocol };
                if !frontends.iter().any(|known| known.key == key) {
                    frontends.push(Face { key, kind });
                }
            };
            let of_family = |address: &&IpAddr| Family::of(**address) == family;
            face(cluster_address, number, FrontendKind::ClusterIp);
            let node_port = node_port(index, port, problems);
            if let Some(node_port) = node_port {
                let own = settings.node_port_addresses.iter().filter(of_family);
                own.for_each(|own| face(*own, node_port, FrontendKind::NodePort));
            }
            public.iter().filter(of_family).for_each(|a| face(*a, number, FrontendKind::LoadBalancer));
            external.iter().filter(of_family).for_each(|a| face(*a, number, FrontendKind::ExternalIp));
            faces.ports.push(PortFaces {
                key,
                name: port.name.clone(),
                protocol,
                family,
                is_reachable_from_outside: node_port.is_some()
                    || public.iter().chain(&external).any(|address| of_family(&address)),
                frontends,
                admitted: admitted.clone(),
            });
        }
    }
    let served = |address: &IpAddr| cluster.iter().any(|(family, _)| *family == Family::of(*address));
    let public = public.iter().copied().filter(served);
    faces.addresses = cluster.iter().map(|(_, address)| *address).chain(public).collect();
    let all = faces.ports.iter().flat_map(|port| &port.frontends);
    let external = all.filter(|face| face.kind == FrontendKind::ExternalIp);
    faces.external =
        external.map(|face| (SocketAddr::new(face.key.address, face.key.port), face.key.protocol)).collect();
    faces
}

/// Whether a part of a Service key cannot make it equal to that of another Service. Every valid name is such a part.
fn keeps_keys_apart(name: &str) -> bool {
    !name.contains([':', '/'])
}

fn service_key(service: &Service, port_name: &str, protocol: Protocol, family: Family) -> ServiceKey {
    let meta = &service.metadata;
    ServiceKey(format!("{}/{}:{port_name}/{protocol}/{family}", meta.namespace, meta.name))
}

/// The number and protocol of a Service port, or why it is left out.
fn sound_port(
    index: usize,
    port: &ServicePort,
    problems: &mut Vec<(ProblemKind, String)>,
) -> Option<(u16, Protocol)> {
    let protocol = protocol(&port.protocol);
    if protocol.is_none() {
        let message = format!("spec.ports[{index}].protocol: {:?} is not TCP, UDP or SCTP", port.protocol);
        problems.push((ProblemKind::Invalid, message));
    }
    if !keeps_keys_apart(&port.name) {
        problems.push((
            ProblemKind::Invalid,
            format!("spec.ports[{index}].name: {:?} is no port name", port.name),
        ));
        return None;
    }
    let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
    if number.is_none() {
        problems
            .push((ProblemKind::Invalid, format!("spec.ports[{index}].port: {} is not 1..65535", port.port)));
    }
    number.zip(protocol)
}

fn node_port(index: usize, port: &ServicePort, problems: &mut Vec<(ProblemKind, String)>) -> Option<u16> {
    let number = u16::try_from(port.node_port);
    if number.is_err() {
        let message = format!("spec.ports[{index}].nodePort: {} is not 1..65535", port.node_port);
        if !problems.iter().any(|(_, known)| *known == message) {
            problems.push((ProblemKind::Invalid, message));
        }
    }
    number.ok().filter(|number| *number != 0)
}

fn refused_cluster_address(address: IpAddr, settings: &Settings) -> Option<&'static str> {
    danger(address).or_else(|| settings.own_addresses.contains(&address).then_some("is the gateway's own"))
}

/// The health check port of a load balancer that keeps to local endpoints (rule H1).
fn health_check_port(service: &Service, policies: Policies, problems: &mut Problems) -> Option<u16> {
    let stated = service.spec.health_check_node_port;
    if service.spec.r#type != "LoadBalancer" || !policies.is_external_local() || stated == 0 {
        return None;
    }
    let port = u16::try_from(stated).ok();
    if port.is_none() {
        problems.push((ProblemKind::Invalid, format!("spec.healthCheckNodePort: {stated} is not 1..65535")));
    }
    port
}

/// What no address from outside may be, whoever wrote it (CVE-2020-8554).
struct Guard<'a> {
    settings: &'a Settings,
    service_networks: &'a [IpNet],
}

impl Guard<'_> {
    fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        danger(address).or_else(|| {
            if self.settings.own_addresses.contains(&address) {
                Some("is the gateway's own")
            } else if self.service_networks.iter().any(|network| network.contains(&address)) {
                Some("is in a Service CIDR")
            } else {
                None
            }
        })
    }
}

/// The load-balancer addresses that may be answered: those of the status (rule S6), and those that Turnpike assigned.
fn load_balancer_addresses(
    service: &Service,
    guard: &Guard<'_>,
    assigned: &BTreeSet<IpAddr>,
    problems: &mut Problems,
) -> BTreeSet<IpAddr> {
    let mut stated = assigned.clone();
    for (index, ingress) in service.status.load_balancer.ingress.iter().enumerate() {
        if ingress.ip.is_empty() || ingress.ip_mode.as_deref().is_some_and(|mode| mode != "VIP") {
            continue;
        }
        match ingress.ip.parse::<IpAddr>() {
            Ok(address) => drop(stated.insert(address)),
            Err(_) => {
                let message =
                    format!("status.loadBalancer.ingress[{index}].ip: {:?} is no IP address", ingress.ip);
                problems.push((ProblemKind::Invalid, message));
            }
        }
    }
    let refused = |address: IpAddr| {
        if service.spec.r#type != "LoadBalancer" {
            return Some("is of a Service that is not of type LoadBalancer");
        }
        let in_scope = guard.settings.load_balancer_scope.contains(address);
        guard.refuses(address).or_else(|| {
            (!in_scope).then_some(
                "is in no address pool of this gateway; add it to [[cluster.pools]] to have it answered",
            )
        })
    };
    keep(stated, "load-balancer address", refused, problems)
}

/// The external addresses that are answered (rules S5, C8).
fn external_addresses(service: &Service, guard: &Guard<'_>, problems: &mut Problems) -> BTreeSet<IpAddr> {
    let texts = &service.spec.external_ips;
    if texts.is_empty() {
        return BTreeSet::new();
    }
    if !guard.settings.external_ips {
        let message = "spec.externalIPs are not answered: whoever writes a Service could take any address with them; set external_ips = true in [cluster] to have them answered";
        problems.push((ProblemKind::NotHonoured, message.into()));
        return BTreeSet::new();
    }
    let mut stated = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) => drop(stated.insert(address)),
            Err(_) => problems.push((
                ProblemKind::Invalid,
                format!("spec.externalIPs[{index}]: {text:?} is no IP address"),
            )),
        }
    }
    keep(stated, "external address", |address| guard.refuses(address), problems)
}

/// Tells of the refused ones and gives the others.
fn keep(
    mut addresses: BTreeSet<IpAddr>,
    what: &str,
    refused: impl Fn(IpAddr) -> Option<&'static str>,
    problems: &mut Problems,
) -> BTreeSet<IpAddr> {
    addresses.retain(|address| match refused(*address) {
        None => true,
        Some(reason) => {
            problems.push((ProblemKind::Refused, format!("{what} {address} {reason}")));
            false
        }
    });
    addresses
}
