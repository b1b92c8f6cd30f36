//! What an applied object does not say: taken from its version before, then from the defaults of the kube-apiserver.

use crate::desired::Family;
use crate::k8s::{ClientIpConfig, EndpointSlice, Node, Pod, PodIp, Service, SessionAffinityConfig};
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
/// (CVE-2020-8554). The status of a Pod or Node is the operator's record and stays.
pub fn apply(object: &mut Object, old: Option<&Object>) {
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
            service(new);
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
    let has_address = |service: &Service| service.spec.r#type != "ExternalName";
    let (after, before) = (&mut new.spec, &old.spec);
    if after.r#type != "ExternalName" && has_address(old) {
        if after.cluster_ip.is_empty() && after.cluster_ips.is_empty() {
            after.cluster_ip.clone_from(&before.cluster_ip);
            after.cluster_ips.clone_from(&before.cluster_ips);
        }
        if after.ip_families.is_empty() && after.ip_family_policy.is_none() {
            after.ip_families.clone_from(&before.ip_families);
            after.ip_family_policy.clone_from(&before.ip_family_policy);
        }
    }
    if needs_node_ports(new) && needs_node_ports(old) {
        let taken: Vec<i32> =
            new.spec.ports.iter().map(|port| port.node_port).filter(|port| *port != 0).collect();
        for port in new.spec.ports.iter_mut().filter(|port| port.node_port == 0) {
            let same = |before: &&crate::k8s::ServicePort| {
                before.port == port.port && word(&before.protocol, "TCP") == word(&port.protocol, "TCP")
            };
            let kept = old.spec.ports.iter().find(same).map_or(0, |before| before.node_port);
            if !taken.contains(&kept) {
                port.node_port = kept;
            }
        }
    }
    if new.spec.r#type == "LoadBalancer" && old.spec.r#type == "LoadBalancer" {
        new.status.clone_from(&old.status);
    }
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

fn service(service: &mut Service) {
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
    if matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer") {
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
    families(service);
}

/// The families, from what is stated: the addresses, the policy, else IPv4 alone.
fn families(service: &mut Service) {
    let spec = &mut service.spec;
    if spec.ip_families.is_empty() {
        let stated = spec.cluster_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        spec.ip_families = stated.map(|address| Family::of(address).name().to_owned()).collect();
    }
    if spec.ip_families.is_empty() {
        spec.ip_families.push(Family::V4.name().into());
    }
    let two = spec.ip_families.len() > 1 || spec.cluster_ips.len() > 1;
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
