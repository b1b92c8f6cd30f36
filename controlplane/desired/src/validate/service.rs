//! `v1 Service`

use super::{Errors, names};
use crate::defaults::{is_reachable_from_outside, needs_health_check_port, needs_node_ports};
use crate::desired::Family;
use crate::frontends::protocol;
use crate::k8s::{PortRef, Service, ServicePort, ServiceSpec};
use crate::proxy_protocol;
use crate::settings::Rules;
use crate::tracking;
use crate::words::{
    ADDRESS_POOL_ANNOTATION, CLUSTER_IP_NONE, DIRECT_RETURN, LOAD_BALANCER_IPS_ANNOTATION, MODE_ANNOTATION,
    SHARING_KEY_ANNOTATION, SOURCE_RANGES_ANNOTATION,
};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

const AFFINITY_TIMEOUT_MAX_S: i32 = 86_400;
/// The kubelet's own port, which no load balancer may lead to.
const KUBELET_PORT: i32 = 10_250;

pub(super) fn check(service: &Service, rules: &Rules, errors: &mut Errors) {
    let spec = &service.spec;
    errors.is_one_of("spec.type", &spec.r#type, &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    for (key, value) in &spec.selector {
        errors.check("spec.selector", names::qualified_name(key));
        errors.check(format!("spec.selector[{key}]"), names::label_value(value));
    }
    ports(service, rules, errors);
    addresses(spec, rules, errors);
    policies(service, errors);
    health_check(service, rules, errors);
    load_balancer(service, rules, errors);
    if spec.r#type == "ExternalName" {
        let name = spec.external_name.strip_suffix('.').unwrap_or(&spec.external_name);
        errors.check("spec.externalName", names::dns1123_subdomain(name));
    }
    for (index, text) in spec.external_ips.iter().enumerate() {
        errors.is_host_address(&format!("spec.externalIPs[{index}]"), text);
    }
    if let Some(mode) = service.metadata.annotations.get(MODE_ANNOTATION) {
        errors.is_one_of(
            &format!("metadata.annotations[{MODE_ANNOTATION}]"),
            mode,
            &["nat", "dnat", DIRECT_RETURN],
        );
        if mode == DIRECT_RETURN && (spec.r#type == "LoadBalancer" || !spec.external_ips.is_empty()) {
            ports_stay(spec, errors);
        }
    }
    for (name, what) in tracking::read(service).1.into_iter().chain(proxy_protocol::read(service).1) {
        errors.add(format!("metadata.annotations[{name}]"), what);
    }
}

/// Packets in packets keep their ports.
fn ports_stay(spec: &ServiceSpec, errors: &mut Errors) {
    for (index, port) in spec.ports.iter().enumerate() {
        if let PortRef::Number(number) = port.target_port.port()
            && number != port.port
            && number != 0
        {
            let message = format!(
                "{number} is not the port {}, and {MODE_ANNOTATION}: {DIRECT_RETURN} leaves ports as they are; make them equal, or use dnat",
                port.port
            );
            errors.add(format!("spec.ports[{index}].targetPort"), message);
        }
    }
}

pub(super) fn check_update(old: &Service, new: &Service, errors: &mut Errors) {
    let has_addresses = |service: &Service| service.spec.r#type != "ExternalName";
    if has_addresses(old) && has_addresses(new) {
        let (before, after) = (&old.spec, &new.spec);
        if !before.cluster_ip.is_empty() && before.cluster_ip != after.cluster_ip {
            let message = format!(
                "cannot change from {} to {:?}; delete the Service first",
                before.cluster_ip, after.cluster_ip
            );
            errors.add("spec.clusterIP", message);
        }
        if before.ip_families.first() != after.ip_families.first() && !before.ip_families.is_empty() {
            let message = format!(
                "the first family cannot change from {}; delete the Service first",
                before.ip_families[0]
            );
            errors.add("spec.ipFamilies[0]", message);
        }
        if let (Some(before), Some(after)) = (before.cluster_ips.get(1), after.cluster_ips.get(1))
            && before != after
        {
            let message = format!(
                "cannot change from {before} to {after:?}; give it up first with ipFamilyPolicy SingleStack"
            );
            errors.add("spec.clusterIPs[1]", message);
        }
    }
    let port = |service: &Service| service.spec.health_check_node_port;
    if needs_health_check_port(old)
        && needs_health_check_port(new)
        && port(old) != 0
        && port(old) != port(new)
    {
        let message = format!("cannot change from {} to {}; leave it out", port(old), port(new));
        errors.add("spec.healthCheckNodePort", message);
    }
    let is_public = |service: &Service| service.spec.r#type == "LoadBalancer";
    if is_public(old) && is_public(new) && old.spec.load_balancer_class != new.spec.load_balancer_class {
        errors.add(
            "spec.loadBalancerClass",
            "cannot change while the type is LoadBalancer; delete the Service first",
        );
    }
}

fn ports(service: &Service, rules: &Rules, errors: &mut Errors) {
    let spec = &service.spec;
    let needs_no_port = spec.r#type == "ExternalName" || spec.cluster_ip == CLUSTER_IP_NONE;
    if spec.ports.is_empty() && !needs_no_port {
        errors.add("spec.ports", "at least one port is needed");
    }
    let mut seen_names = BTreeSet::new();
    let mut seen_ports = BTreeSet::new();
    let mut seen_node_ports = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        one_port(index, port, errors);
        if port.name.is_empty() && spec.ports.len() > 1 {
            errors.add(at("name"), "is needed when there are several ports");
        }
        if !port.name.is_empty() && !seen_names.insert(&port.name) {
            errors.add(at("name"), format!("{:?} is the name of another port, too", port.name));
        }
        if !seen_ports.insert((&port.protocol, port.port)) {
            errors.add(at("port"), format!("{} {} is there twice", port.protocol, port.port));
        }
        if spec.r#type == "LoadBalancer" && port.port == KUBELET_PORT {
            errors.add(
                at("port"),
                format!("{KUBELET_PORT} is the kubelet's own and cannot be a load balancer's"),
            );
        }
        if port.node_port == 0 {
            continue;
        }
        let range = rules.node_port_range;
        if !needs_node_ports(service) && spec.r#type != "LoadBalancer" {
            errors.add(at("nodePort"), "is only for type NodePort or LoadBalancer");
        } else if !(i32::from(range.first)..=i32::from(range.last)).contains(&port.node_port) {
            let message = format!(
                "{} is not in {}-{} (cluster.node_port_range)",
                port.node_port, range.first, range.last
            );
            errors.add(at("nodePort"), message);
        } else if !seen_node_ports.insert((&port.protocol, port.node_port)) {
            errors.add(at("nodePort"), format!("{} {} is there twice", port.protocol, port.node_port));
        }
    }
}

fn one_port(index: usize, port: &ServicePort, errors: &mut Errors) {
    let at = |field: &str| format!("spec.ports[{index}].{field}");
    if !port.name.is_empty() {
        errors.check(at("name"), names::dns1123_label(&port.name));
    }
    if protocol(&port.protocol).is_none() {
        errors.add(at("protocol"), format!("{:?} is not one of TCP, UDP, SCTP", port.protocol));
    }
    errors.is_port(at("port"), port.port);
    match port.target_port.port() {
        // Taken from `port` by the defaults, and told there if it is wrong.
        PortRef::Number(number) if number == port.port => {}
        PortRef::Number(number) => errors.is_port(at("targetPort"), number),
        PortRef::Name(name) => errors.check(at("targetPort"), names::port_name(name)),
    }
    if let Some(word) = port.app_protocol.as_deref() {
        errors.check(at("appProtocol"), names::qualified_name(word));
    }
}

fn addresses(spec: &ServiceSpec, rules: &Rules, errors: &mut Errors) {
    if spec.r#type == "ExternalName" {
        if !spec.cluster_ip.is_empty() || !spec.cluster_ips.is_empty() {
            errors.add("spec.clusterIP", "an ExternalName Service has none; leave it out");
        }
        if !spec.ip_families.is_empty() {
            errors.add("spec.ipFamilies", "an ExternalName Service has none; leave them out");
        }
        if spec.ip_family_policy.is_some() {
            errors.add("spec.ipFamilyPolicy", "an ExternalName Service has none; leave it out");
        }
        return;
    }
    families(spec, rules, errors);
    if let Some(first) = spec.cluster_ips.first().filter(|first| **first != spec.cluster_ip) {
        errors.add("spec.clusterIPs[0]", format!("{first:?} is not spec.clusterIP {:?}", spec.cluster_ip));
    }
    if spec.cluster_ip == CLUSTER_IP_NONE {
        if spec.cluster_ips.len() > 1 {
            errors.add("spec.clusterIPs", "a headless Service has no other than None");
        }
        if spec.r#type != "ClusterIP" {
            errors.add("spec.clusterIP", format!("None is not for type {}", spec.r#type));
        }
        return;
    }
    if spec.cluster_ips.len() > spec.ip_families.len() {
        errors.add("spec.clusterIPs", "more addresses than spec.ipFamilies");
    }
    for (index, text) in spec.cluster_ips.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let path = format!("spec.clusterIPs[{index}]");
        let Some(address) = errors.is_host_address(&path, text) else { continue };
        let family = Family::of(address);
        if spec.ip_families.get(index).is_some_and(|stated| stated != family.name()) {
            errors.add(path, format!("{address} is not of the family {}", spec.ip_families[index]));
        } else if !rules.service_cidrs.iter().any(|network| is_assignable(network, address)) {
            let networks = list(rules.service_cidrs.iter());
            errors.add(
                path,
                format!("{address} is no assignable address of cluster.service_cidrs ({networks})"),
            );
        }
    }
}

fn families(spec: &ServiceSpec, rules: &Rules, errors: &mut Errors) {
    for (index, family) in spec.ip_families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        if Family::parse(family).is_none() {
            errors.add(path, format!("{family:?} is not one of IPv4, IPv6"));
        } else if spec.ip_families[..index].contains(family) {
            errors.add(path, format!("{family} is there twice"));
        }
    }
    let Some(policy) = spec.ip_family_policy.as_deref() else { return };
    errors.is_one_of("spec.ipFamilyPolicy", policy, &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    if policy == "SingleStack" && (spec.ip_families.len() > 1 || spec.cluster_ips.len() > 1) {
        errors.add(
            "spec.ipFamilyPolicy",
            "SingleStack allows one family only; write PreferDualStack or RequireDualStack",
        );
    }
    if spec.cluster_ip == CLUSTER_IP_NONE {
        return;
    }
    // With PreferDualStack a family without a network is left out by the allocator.
    let needed = if policy == "PreferDualStack" { 1 } else { spec.ip_families.len() };
    for (index, name) in spec.ip_families.iter().take(needed).enumerate() {
        let Some(family) = Family::parse(name) else { continue };
        if !rules.service_cidrs.iter().any(|network| Family::of(network.addr()) == family) {
            let message = format!(
                "there is no {family} network in cluster.service_cidrs; add one or choose the other family"
            );
            errors.add(format!("spec.ipFamilies[{index}]"), message);
        }
    }
}

/// Whether an address of a Service network may be given: not the first one and, of IPv4, not the last one.
fn is_assignable(network: &IpNet, address: IpAddr) -> bool {
    let is_last = address.is_ipv4() && address == network.broadcast();
    network.contains(&address) && address != network.network() && !is_last
}

fn policies(service: &Service, errors: &mut Errors) {
    let spec = &service.spec;
    let is_external = is_reachable_from_outside(service);
    errors.is_one_of("spec.sessionAffinity", &spec.session_affinity, &["None", "ClientIP"]);
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = client.and_then(|client| client.timeout_seconds)
        && !(1..=AFFINITY_TIMEOUT_MAX_S).contains(&seconds)
    {
        let message = format!("{seconds} is not 1..{AFFINITY_TIMEOUT_MAX_S}");
        errors.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds", message);
    }
    if !spec.external_traffic_policy.is_empty() {
        errors.is_one_of("spec.externalTrafficPolicy", &spec.external_traffic_policy, &["Cluster", "Local"]);
        if !is_external {
            errors.add(
                "spec.externalTrafficPolicy",
                "is only for type NodePort or LoadBalancer or with externalIPs",
            );
        }
    }
    if let Some(policy) = spec.internal_traffic_policy.as_deref() {
        errors.is_one_of("spec.internalTrafficPolicy", policy, &["Cluster", "Local"]);
    }
    if let Some(wish) = spec.traffic_distribution.as_deref() {
        errors.is_one_of(
            "spec.trafficDistribution",
            wish,
            &["PreferClose", "PreferSameZone", "PreferSameNode"],
        );
    }
}

/// The port of the health check (rules C7, H1).
fn health_check(service: &Service, rules: &Rules, errors: &mut Errors) {
    let path = "spec.healthCheckNodePort";
    let (port, range) = (service.spec.health_check_node_port, rules.node_port_range);
    if port == 0 {
        return;
    }
    if !needs_health_check_port(service) {
        errors.add(path, "is only for type LoadBalancer with externalTrafficPolicy Local");
    } else if !(i32::from(range.first)..=i32::from(range.last)).contains(&port) {
        let message = format!("{port} is not in {}-{} (cluster.node_port_range)", range.first, range.last);
        errors.add(path, message);
    }
}

/// Networks of clients: the field, or the annotation where the field is empty.
fn source_ranges(service: &Service, errors: &mut Errors) {
    let spec = &service.spec;
    let only = "is only for type LoadBalancer";
    let mut check = |path: String, text: &str| {
        if text.trim().parse::<IpNet>().is_err() {
            errors.add(path, format!("{text:?} is no network; write e.g. \"198.51.100.0/24\""));
        }
    };
    for (index, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        check(format!("spec.loadBalancerSourceRanges[{index}]"), text);
    }
    let annotation = service.metadata.annotations.get(SOURCE_RANGES_ANNOTATION);
    let annotation = annotation.filter(|_| spec.load_balancer_source_ranges.is_empty());
    let path = format!("metadata.annotations[{SOURCE_RANGES_ANNOTATION}]");
    let listed = annotation.into_iter().flat_map(|text| text.split(',')).map(str::trim);
    listed.filter(|text| !text.is_empty()).for_each(|text| check(path.clone(), text));
    if spec.r#type == "LoadBalancer" {
        return;
    }
    if !spec.load_balancer_source_ranges.is_empty() {
        errors.add("spec.loadBalancerSourceRanges", only);
    }
    if annotation.is_some() {
        errors.add(path, only);
    }
}

/// What a Service asks of the pools.
fn wishes(service: &Service, rules: &Rules, errors: &mut Errors) {
    let annotations = &service.metadata.annotations;
    let pool = annotations.get(ADDRESS_POOL_ANNOTATION);
    if let Some(pool) = pool.filter(|pool| !rules.pools.iter().any(|known| known.name == **pool)) {
        let known = list(rules.pools.iter().map(|known| &known.name));
        let message = format!("there is no address pool {pool:?} in cluster.pools (there are: {known})");
        errors.add(format!("metadata.annotations[{ADDRESS_POOL_ANNOTATION}]"), message);
    }
    if !service.spec.load_balancer_ip.is_empty() {
        errors.is_host_address("spec.loadBalancerIP", &service.spec.load_balancer_ip);
    }
    let stated = service.spec.load_balancer_ip.parse::<IpAddr>().ok();
    let mut families: Vec<(Family, IpAddr)> = stated.into_iter().map(|ip| (Family::of(ip), ip)).collect();
    let path = format!("metadata.annotations[{LOAD_BALANCER_IPS_ANNOTATION}]");
    for text in annotations.get(LOAD_BALANCER_IPS_ANNOTATION).into_iter().flat_map(|text| text.split(',')) {
        let Some(address) = errors.is_host_address(&path, text.trim()) else { continue };
        let family = Family::of(address);
        if families.iter().any(|(known, other)| *known == family && *other != address) {
            errors.add(
                &path,
                format!("{address} is a second {family} address; a Service has one of each family"),
            );
        }
        families.push((family, address));
    }
    if let Some(key) = annotations.get(SHARING_KEY_ANNOTATION) {
        let path = format!("metadata.annotations[{SHARING_KEY_ANNOTATION}]");
        if key.is_empty() {
            errors.add(
                path,
                "is empty; write a word that the sharing Services have in common, or leave it out",
            );
        } else {
            errors.check(path, names::label_value(key));
        }
    }
}

/// What only a Service of type LoadBalancer has.
fn load_balancer(service: &Service, rules: &Rules, errors: &mut Errors) {
    let spec = &service.spec;
    source_ranges(service, errors);
    wishes(service, rules, errors);
    if let Some(class) = spec.load_balancer_class.as_deref() {
        errors.check("spec.loadBalancerClass", names::qualified_name(class));
    }
    if spec.r#type == "LoadBalancer" {
        return;
    }
    let only = "is only for type LoadBalancer";
    if spec.load_balancer_class.is_some() {
        errors.add("spec.loadBalancerClass", only);
    }
    if spec.allocate_load_balancer_node_ports.is_some() {
        errors.add("spec.allocateLoadBalancerNodePorts", only);
    }
}

/// Words in a row for people; `none` if there are none.
fn list<T: ToString>(words: impl Iterator<Item = T>) -> String {
    let words: Vec<String> = words.map(|word| word.to_string()).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}
