//! A Service → the addresses and ports it is to be answered on (rules S1 to S6), before its endpoints are looked at.

use crate::address_guard::danger;
use crate::desired::{Family, ProblemKind};
use crate::k8s::{Service, ServicePort};
use crate::settings::Settings;
use crate::words::{CLUSTER_IP_NONE, MODE_ANNOTATION, SERVICE_PROXY_LABEL};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_wire::limits::SERVICE_KEY_BYTES_MAX;
use turnpike_wire::update::{FrontendKey, FrontendKind, Protocol, ServiceKey};

/// What one Service is to be answered on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faces {
    /// One entry for each port and family.
    pub(crate) ports: Vec<PortFaces>,
    /// Its cluster and load-balancer addresses; no backend may have one of them.
    pub(crate) addresses: BTreeSet<IpAddr>,
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
}

/// One address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Face {
    pub(crate) key: FrontendKey,
    pub(crate) kind: FrontendKind,
    /// The owner wants it closed to some clients, which this version cannot do: nobody gets in.
    pub(crate) closed: bool,
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

/// What the Service is to be answered on.
pub(crate) fn faces(service: &Service, settings: &Settings, service_networks: &[IpNet]) -> Faces {
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
    not_honoured(service, settings, problems);
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
    let public = load_balancer_addresses(service, settings, service_networks, problems);
    let closed = |family| is_closed(&service.spec.load_balancer_source_ranges, family);
    for (index, port) in service.spec.ports.iter().enumerate() {
        let Some((number, protocol)) = sound_port(index, port, problems) else { continue };
        for &(family, cluster_address) in &cluster {
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
            let face = |address, port, kind, closed| Face {
                key: FrontendKey { address, port, protocol },
                kind,
                closed,
            };
            let mut frontends = vec![face(cluster_address, number, FrontendKind::ClusterIp, false)];
            if let Some(node_port) = node_port(index, port, problems) {
                let own = settings.node_port_addresses.iter().filter(|own| Family::of(**own) == family);
                frontends.extend(own.map(|own| face(*own, node_port, FrontendKind::NodePort, false)));
            }
            let vips = public.iter().filter(|address| Family::of(**address) == family);
            frontends.extend(vips.map(|vip| face(*vip, number, FrontendKind::LoadBalancer, closed(family))));
            faces.ports.push(PortFaces { key, name: port.name.clone(), protocol, family, frontends });
        }
    }
    let served = |address: &IpAddr| cluster.iter().any(|(family, _)| *family == Family::of(*address));
    faces.addresses = cluster.iter().map(|(_, a)| *a).chain(public.iter().copied().filter(served)).collect();
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

/// The addresses of `status.loadBalancer` that may be answered (rule S6, CVE-2020-8554).
fn load_balancer_addresses(
    service: &Service,
    settings: &Settings,
    service_networks: &[IpNet],
    problems: &mut Vec<(ProblemKind, String)>,
) -> BTreeSet<IpAddr> {
    let mut accepted = BTreeSet::new();
    for (index, ingress) in service.status.load_balancer.ingress.iter().enumerate() {
        if ingress.ip.is_empty() || ingress.ip_mode.as_deref().is_some_and(|mode| mode != "VIP") {
            continue;
        }
        let Ok(address) = ingress.ip.parse::<IpAddr>() else {
            let message =
                format!("status.loadBalancer.ingress[{index}].ip: {:?} is no IP address", ingress.ip);
            problems.push((ProblemKind::Invalid, message));
            continue;
        };
        let in_cluster = |address: &IpAddr| service_networks.iter().any(|network| network.contains(address));
        let refused = danger(address).or_else(|| {
            if service.spec.r#type != "LoadBalancer" {
                Some("is of a Service that is not of type LoadBalancer")
            } else if settings.own_addresses.contains(&address) {
                Some("is the gateway's own")
            } else if in_cluster(&address) {
                Some("is in a Service CIDR")
            } else if !settings.load_balancer_scope.contains(address) {
                Some("is in no address pool of this gateway; add it to [[cluster.pools]] to have it answered")
            } else {
                None
            }
        });
        match refused {
            None => drop(accepted.insert(address)),
            Some(reason) => {
                problems.push((ProblemKind::Refused, format!("load-balancer address {address} {reason}")));
            }
        }
    }
    accepted
}

/// Whether source ranges close the load-balancer addresses of a family to anybody (rules L1, L3). A text that is no network closes both.
fn is_closed(ranges: &[String], family: Family) -> bool {
    let mut restricted = false;
    for range in ranges {
        match range.trim().parse::<IpNet>() {
            Ok(network) if Family::of(network.addr()) == family => {
                if network.prefix_len() == 0 {
                    return false;
                }
                restricted = true;
            }
            Ok(_) => {}
            Err(_) => restricted = true,
        }
    }
    restricted
}

/// What the Service asks for that is not done here, so that its owner can see it.
fn not_honoured(service: &Service, settings: &Settings, problems: &mut Vec<(ProblemKind, String)>) {
    let spec = &service.spec;
    let mut warn = |message: String| problems.push((ProblemKind::NotHonoured, message));
    if spec.session_affinity == "ClientIP" {
        warn("spec.sessionAffinity: ClientIP is not honoured: each connection of a client chooses a pod of its own".into());
    }
    let ranges = &spec.load_balancer_source_ranges;
    if is_closed(ranges, Family::V4) || is_closed(ranges, Family::V6) {
        warn("spec.loadBalancerSourceRanges cannot be enforced: the load-balancer addresses are closed to everyone".into());
    }
    if spec.external_traffic_policy == "Local" {
        warn("spec.externalTrafficPolicy: Local is not honoured: pods see the gateway's address instead of the client's".into());
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") && !settings.node_name.is_empty() {
        warn("spec.internalTrafficPolicy: Local is not honoured: pods of all nodes are used".into());
    }
    if spec.traffic_distribution.is_some() && !settings.zone.is_empty() {
        warn("spec.trafficDistribution is not honoured: pods of all zones are used alike".into());
    }
    if !spec.external_ips.is_empty() {
        warn("spec.externalIPs are not answered".into());
    }
    if let Some(mode) = service.metadata.annotations.get(MODE_ANNOTATION).filter(|mode| *mode != "nat") {
        warn(format!("annotation {MODE_ANNOTATION}: {mode:?} is not honoured: packets are carried by nat"));
    }
}
