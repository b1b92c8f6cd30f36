//! What an applied object does not say: taken from its version before, then from the defaults of the kube-apiserver.

use crate::desired::Family;
use crate::k8s::{
    ClientIpConfig, EndpointSlice, Node, Pod, PodIp, Service, ServicePort, ServiceSpec, SessionAffinityConfig,
};
use crate::object::Object;
use crate::words::CLUSTER_IP_NONE;
use std::net::IpAddr;

/// Namespace of objects that name none.
pub const NAMESPACE_DEFAULT: &str = "default";
/// Affinity timeout of a Service that asks for affinity and names none, in seconds.
pub const AFFINITY_TIMEOUT_DEFAULT_S: i32 = 10_800;

/// Fills in `object`; `old` is the version it replaces.
///
/// The status of a Service is the allocator's: what a manifest says there is dropped, so that nobody can take an address by writing it
/// (CVE-2020-8554). The status of a Pod or Node is the operator's record and stays. A Service that names no family gets `first_family`.
pub fn apply(object: &mut Object, old: Option<&Object>, first_family: Family) {
    if object.kind().is_namespaced() && object.metadata().namespace.is_empty() {
        object.metadata_mut().namespace = NAMESPACE_DEFAULT.into();
    }
    if !object.kind().is_namespaced() {
        object.metadata_mut().namespace.clear();
    }
    identity(object, old);
    match object {
        Object::Service(new) => {
            new.status = Default::default();
            if let Some(Object::Service(old)) = old {
                inherit(new, old);
            }
            service(new, first_family);
        }
        Object::EndpointSlice(new) => endpoint_slice(new),
        Object::Pod(new) => pod(new),
        Object::Node(new) => node(new),
        Object::ServiceCidr(_) => {}
    }
}

/// Identity comes from the version before, never from a manifest.
fn identity(object: &mut Object, old: Option<&Object>) {
    let metadata = object.metadata_mut();
    metadata.resource_version.clear();
    metadata.uid = old.map(|old| old.metadata().uid.clone()).unwrap_or_default();
    metadata.creation_timestamp = old.map(|old| old.metadata().creation_timestamp).unwrap_or_default();
}

/// What was allocated stays, unless the new version says otherwise.
fn inherit(new: &mut Service, old: &Service) {
    drop_what_the_type_lost(new, old);
    let (after, before) = (&mut new.spec, &old.spec);
    if after.r#type != "ExternalName" && before.r#type != "ExternalName" {
        let says_nothing = after.cluster_ip.is_empty() && after.cluster_ips.is_empty();
        if says_nothing || (after.cluster_ips.is_empty() && after.cluster_ip == before.cluster_ip) {
            after.cluster_ip.clone_from(&before.cluster_ip);
            after.cluster_ips.clone_from(&before.cluster_ips);
        }
        if after.ip_family_policy.is_none() && after.ip_families.is_empty() {
            after.ip_family_policy.clone_from(&before.ip_family_policy);
        }
        if after.ip_families.is_empty() {
            after.ip_families.clone_from(&before.ip_families);
        }
        give_up_second_family(new, old);
    }
    if has_node_ports(new) && has_node_ports(old) {
        inherit_node_ports(new, old);
    }
    if needs_health_check_port(new) && needs_health_check_port(old) && new.spec.health_check_node_port == 0 {
        new.spec.health_check_node_port = old.spec.health_check_node_port;
    }
    if new.spec.r#type == "LoadBalancer" && old.spec.r#type == "LoadBalancer" {
        new.status.clone_from(&old.status);
    }
}

/// Of two families the second is given up by `ipFamilyPolicy: SingleStack`, if nothing else says otherwise.
fn give_up_second_family(new: &mut Service, old: &Service) {
    let (after, before) = (&mut new.spec, &old.spec);
    if after.ip_family_policy.as_deref() != Some("SingleStack") || before.ip_families.len() < 2 {
        return;
    }
    if after.ip_families == before.ip_families {
        after.ip_families.truncate(1);
    }
    if after.cluster_ips == before.cluster_ips {
        after.cluster_ips.truncate(1);
    }
}

/// A port of the same number and protocol, else one of the same name, keeps its NodePort, unless another port has it now.
fn inherit_node_ports(new: &mut Service, old: &Service) {
    let mut taken: Vec<i32> =
        new.spec.ports.iter().map(|port| port.node_port).filter(|port| *port != 0).collect();
    for by_name in [false, true] {
        for port in new.spec.ports.iter_mut().filter(|port| port.node_port == 0) {
            let same = |before: &&ServicePort| {
                let protocol = word(&before.protocol, "TCP") == word(&port.protocol, "TCP");
                if by_name { before.name == port.name } else { before.port == port.port && protocol }
            };
            let kept = old.spec.ports.iter().find(same).map_or(0, |before| before.node_port);
            if kept != 0 && !taken.contains(&kept) {
                port.node_port = kept;
            }
        }
        taken.extend(new.spec.ports.iter().map(|port| port.node_port).filter(|port| *port != 0));
    }
}

/// Fields that only the type before could have and that are said again unchanged are dropped, so that a change of the type is enough.
fn drop_what_the_type_lost(new: &mut Service, old: &Service) {
    let (had_health_check, has_health_check) = (needs_health_check_port(old), needs_health_check_port(new));
    let (had_node_ports, has_node_ports) = (has_node_ports(old), has_node_ports(new));
    let was_public = old.spec.r#type == "LoadBalancer";
    let (had_outside, has_outside) = (is_reachable_from_outside(old), is_reachable_from_outside(new));
    let (after, before) = (&mut new.spec, &old.spec);
    if before.r#type != "ExternalName" && after.r#type == "ExternalName" {
        let same_address = after.cluster_ip == before.cluster_ip;
        if same_address && (after.cluster_ips == before.cluster_ips || after.cluster_ips.is_empty()) {
            after.cluster_ip.clear();
            after.cluster_ips.clear();
        }
        if after.ip_families == before.ip_families {
            after.ip_families.clear();
        }
        if after.ip_family_policy == before.ip_family_policy {
            after.ip_family_policy = None;
        }
    }
    let node_ports = |spec: &ServiceSpec| spec.ports.iter().map(|p| p.node_port).collect::<Vec<_>>();
    if had_node_ports && !has_node_ports && node_ports(after) == node_ports(before) {
        after.ports.iter_mut().for_each(|port| port.node_port = 0);
    }
    if had_health_check && !has_health_check && after.health_check_node_port == before.health_check_node_port
    {
        after.health_check_node_port = 0;
    }
    if was_public && after.r#type != "LoadBalancer" {
        if after.allocate_load_balancer_node_ports == before.allocate_load_balancer_node_ports {
            after.allocate_load_balancer_node_ports = None;
        }
        if after.load_balancer_class == before.load_balancer_class {
            after.load_balancer_class = None;
        }
    }
    if had_outside && !has_outside && after.external_traffic_policy == before.external_traffic_policy {
        after.external_traffic_policy.clear();
    }
}

/// Whether the type of a Service may have NodePorts.
fn has_node_ports(service: &Service) -> bool {
    matches!(service.spec.r#type.as_str(), "NodePort" | "LoadBalancer")
}

/// Whether there is an outside for the external traffic policy to speak of.
pub(crate) fn is_reachable_from_outside(service: &Service) -> bool {
    has_node_ports(service) || is_cluster_ip(service) && !service.spec.external_ips.is_empty()
}

fn is_cluster_ip(service: &Service) -> bool {
    matches!(service.spec.r#type.as_str(), "" | "ClusterIP")
}

/// Whether a Service has a health check port (rule H1).
#[must_use]
pub fn needs_health_check_port(service: &Service) -> bool {
    service.spec.r#type == "LoadBalancer" && service.spec.external_traffic_policy == "Local"
}

/// Whether a Service gets NodePorts.
#[must_use]
pub fn needs_node_ports(service: &Service) -> bool {
    match service.spec.r#type.as_str() {
        "NodePort" => true,
        "LoadBalancer" => service.spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

fn word<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn fill(text: &mut String, default: &str) {
    if text.is_empty() {
        default.clone_into(text);
    }
}

fn service(service: &mut Service, first_family: Family) {
    let has_outside = is_reachable_from_outside(service);
    let spec = &mut service.spec;
    fill(&mut spec.r#type, "ClusterIP");
    fill(&mut spec.session_affinity, "None");
    if spec.session_affinity == "ClientIP" {
        let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
        let client = config.client_ip.get_or_insert_with(ClientIpConfig::default);
        client.timeout_seconds.get_or_insert(AFFINITY_TIMEOUT_DEFAULT_S);
    } else {
        spec.session_affinity_config = None;
    }
    for port in &mut spec.ports {
        fill(&mut port.protocol, "TCP");
        let is_empty_name = port.target_port.kind != 0 && port.target_port.text.is_empty();
        if port.target_port.is_unset() || is_empty_name {
            port.target_port = port.port.into();
        }
    }
    if has_outside {
        fill(&mut spec.external_traffic_policy, "Cluster");
    }
    if spec.r#type == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    if spec.r#type == "ExternalName" {
        return;
    }
    spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".into());
    match (spec.cluster_ip.is_empty(), spec.cluster_ips.first()) {
        (true, Some(first)) => spec.cluster_ip.clone_from(first),
        (false, None) => spec.cluster_ips = vec![spec.cluster_ip.clone()],
        _ => {}
    }
    families(service, first_family);
}

/// The families, from what is stated: the addresses, the policy, else the first family of the cluster alone.
///
/// A headless Service without a selector has both, unless it wants one alone: its slices are made by hand and may be of either.
fn families(service: &mut Service, first_family: Family) {
    let spec = &mut service.spec;
    if spec.ip_families.is_empty() {
        let stated = spec.cluster_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        spec.ip_families = stated.map(|address| Family::of(address).name().to_owned()).collect();
    }
    if spec.ip_families.is_empty() {
        spec.ip_families.push(first_family.name().into());
    }
    let by_hand = spec.cluster_ip == CLUSTER_IP_NONE && spec.selector.is_empty();
    let two = spec.ip_families.len() > 1 || spec.cluster_ips.len() > 1 || by_hand;
    let policy = spec.ip_family_policy.get_or_insert_with(|| {
        let policy = if two { "RequireDualStack" } else { "SingleStack" };
        policy.into()
    });
    if policy.ends_with("DualStack") && spec.ip_families.len() == 1 {
        let other = if spec.ip_families[0] == Family::V4.name() { Family::V6 } else { Family::V4 };
        spec.ip_families.push(other.name().into());
    }
    if spec.cluster_ip == CLUSTER_IP_NONE {
        spec.cluster_ips = vec![CLUSTER_IP_NONE.into()];
    }
}

fn endpoint_slice(slice: &mut EndpointSlice) {
    for port in &mut slice.ports {
        port.name.get_or_insert_with(String::new);
        port.protocol.get_or_insert_with(|| "TCP".into());
    }
}

fn pod(pod: &mut Pod) {
    for container in pod.spec.containers.iter_mut().chain(&mut pod.spec.init_containers) {
        for port in &mut container.ports {
            fill(&mut port.protocol, "TCP");
        }
    }
    let status = &mut pod.status;
    match (status.pod_ip.is_empty(), status.pod_ips.first()) {
        (true, Some(first)) => status.pod_ip.clone_from(&first.ip),
        (false, None) => status.pod_ips = vec![PodIp { ip: status.pod_ip.clone() }],
        _ => {}
    }
}

fn node(node: &mut Node) {
    let spec = &mut node.spec;
    match (spec.pod_cidr.is_empty(), spec.pod_cidrs.first()) {
        (true, Some(first)) => spec.pod_cidr.clone_from(first),
        (false, None) => spec.pod_cidrs = vec![spec.pod_cidr.clone()],
        _ => {}
    }
}

#[cfg(test)]
#[path = "defaults_tests.rs"]
mod tests;
