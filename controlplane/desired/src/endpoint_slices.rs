//! The EndpointSlice controller of standalone mode, as a pure function: a Service, the pods, the slices there are → slices to write and delete.
//!
//! Rule S12 says which pods count and how. In standalone mode a Pod is a record its operator wrote: with an address and no conditions at all
//! it is ready, unless its phase is `Pending`. Once it has conditions, `Ready` decides, as in Kubernetes.
//!
//! Slices change as little as can be: an endpoint stays in its slice, new ones go where something is written anyway, and a slice whose
//! ports are out of use is written over before a new one is made.

use crate::desired::Family;
use crate::k8s::{
    Container, Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
    ObjectMeta, ObjectReference, OwnerReference, Pod, PortRef, Service, ServicePort,
};
use crate::object::ObjectKey;
use crate::selector;
use crate::words::{CLUSTER_IP_NONE, HEADLESS_LABEL, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most endpoints of one slice, the default of Kubernetes.
pub const ENDPOINTS_PER_SLICE_MAX: usize = 100;

/// What has to be written and deleted. New slices have no uid and no creation time yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SliceChanges {
    /// Slices to write, new and changed.
    pub put: Vec<EndpointSlice>,
    /// Slices to delete; never one of `put`.
    pub delete: Vec<ObjectKey>,
}

/// Slices that may hold the same endpoints: one family, one set of port numbers. A named target port that is another number on
/// other pods makes two groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    family: Family,
    ports: Vec<EndpointPort>,
}

/// An endpoint's identity: its address and its pod.
type Identity = (IpAddr, String);
type Members = BTreeMap<Identity, Endpoint>;

/// What `service` needs. `slices` are all slices of its namespace: those not made here are left alone and their names kept free.
/// `zone_of` gives the zone of a node. A Service without a selector is left alone altogether.
pub fn reconcile<'a>(
    service: &Service,
    pods: impl IntoIterator<Item = &'a Pod>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> SliceChanges {
    if service.spec.selector.is_empty() {
        return SliceChanges::default();
    }
    let key = ObjectKey::of(&service.metadata);
    let mut names = BTreeSet::new();
    let mut own: Vec<&EndpointSlice> = Vec::new();
    for slice in slices.into_iter().filter(|slice| slice.metadata.namespace == key.namespace) {
        names.insert(slice.metadata.name.clone());
        if is_own(&key, slice) {
            own.push(slice);
        }
    }
    own.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut wanted = wanted(service, pods, zone_of);
    let mut unused = Vec::new();
    let mut planned: BTreeMap<Group, Vec<Plan<'a>>> = BTreeMap::new();
    for slice in own {
        let group = group_of(slice).filter(|group| wanted.contains_key(group));
        match group {
            Some(group) => planned.entry(group).or_default().push(Plan::new(slice)),
            None => unused.push(slice),
        }
    }
    let mut writer = Writer { service, names, unused, changes: SliceChanges::default() };
    for (group, members) in &mut wanted {
        writer.write_group(group, members, planned.remove(group).unwrap_or_default());
    }
    let mut changes = writer.changes;
    changes.delete.extend(writer.unused.iter().map(|slice| ObjectKey::of(&slice.metadata)));
    changes.delete.sort();
    changes
}

/// The slices made here for a Service that is gone.
pub fn of_deleted<'a>(
    service: &ObjectKey,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Vec<ObjectKey> {
    slices
        .into_iter()
        .filter(|slice| is_own(service, slice))
        .map(|slice| ObjectKey::of(&slice.metadata))
        .collect()
}

/// Whether a slice was made here for this Service.
fn is_own(service: &ObjectKey, slice: &EndpointSlice) -> bool {
    let labels = &slice.metadata.labels;
    slice.metadata.namespace == service.namespace
        && labels.get(SERVICE_NAME_LABEL) == Some(&service.name)
        && labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)
}

fn group_of(slice: &EndpointSlice) -> Option<Group> {
    let mut ports = slice.ports.clone();
    ports.sort();
    Some(Group { family: Family::parse(&slice.address_type)?, ports })
}

/// The endpoints the Service should have, by group.
fn wanted<'a>(
    service: &Service,
    pods: impl IntoIterator<Item = &'a Pod>,
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<Group, Members> {
    let mut groups: BTreeMap<Group, Members> = BTreeMap::new();
    if service.spec.r#type == "ExternalName" {
        return groups;
    }
    let families = families(service);
    for pod in pods {
        let chosen = pod.metadata.namespace == service.metadata.namespace
            && selector::matches(&service.spec.selector, &pod.metadata.labels)
            && !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        if !chosen {
            continue;
        }
        let mut ports: Vec<EndpointPort> =
            service.spec.ports.iter().filter_map(|port| endpoint_port(port, pod)).collect();
        ports.sort();
        for &family in &families {
            let Some(address) = pod_address(pod, family) else { continue };
            let endpoint = endpoint(service, pod, address, zone_of);
            let group = Group { family, ports: ports.clone() };
            groups.entry(group).or_default().insert((address, pod.metadata.name.clone()), endpoint);
        }
    }
    groups
}

fn families(service: &Service) -> Vec<Family> {
    let stated: Vec<Family> =
        service.spec.ip_families.iter().filter_map(|name| Family::parse(name)).collect();
    if !stated.is_empty() {
        return stated;
    }
    vec![service.spec.cluster_ip.parse().map_or(Family::V4, Family::of)]
}

fn pod_address(pod: &Pod, family: Family) -> Option<IpAddr> {
    let all = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str()).chain([pod.status.pod_ip.as_str()]);
    all.filter_map(|text| text.parse().ok()).find(|address| Family::of(*address) == family)
}

/// The port of a pod that a Service port leads to; none if the pod has no port of that name.
fn endpoint_port(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
    let number = match port.target_port.port() {
        PortRef::Number(0) => port.port,
        PortRef::Number(number) => number,
        PortRef::Name(name) => named_port(pod, name, protocol)?,
    };
    Some(EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(protocol.to_owned()),
        port: Some(number),
        app_protocol: port.app_protocol.clone(),
    })
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let serves_beside = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = pod.spec.containers.iter().chain(pod.spec.init_containers.iter().filter(serves_beside));
    let same = |found: &str| found == protocol || (found.is_empty() && protocol == "TCP");
    containers
        .flat_map(|container| &container.ports)
        .find(|port| port.name == name && same(&port.protocol))
        .map(|port| port.container_port)
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: IpAddr,
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node = Some(pod.spec.node_name.clone()).filter(|node| !node.is_empty());
    let zone = node.as_deref().and_then(zone_of);
    let wish = service.spec.traffic_distribution.as_deref().filter(|_| ready);
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: named.then(|| pod.spec.hostname.clone()),
        target_ref: Some(ObjectReference {
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        hints: wish.and_then(|wish| hints(wish, zone.as_deref(), node.as_deref())),
        zone,
        node_name: node,
        ..Default::default()
    }
}

/// From where a ready endpoint should be used (rule E7): from its own zone; by `PreferSameNode` from its own node before that.
fn hints(wish: &str, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let for_node = match wish {
        "PreferSameNode" => node,
        "PreferClose" | "PreferSameZone" => None,
        _ => return None,
    };
    let hints = EndpointHints {
        for_zones: zone.map(|zone| ForZone { name: zone.to_owned() }).into_iter().collect(),
        for_nodes: for_node.map(|node| ForNode { name: node.to_owned() }).into_iter().collect(),
    };
    Some(hints).filter(|hints| !hints.for_zones.is_empty() || !hints.for_nodes.is_empty())
}

/// See the module for what counts as ready.
fn is_ready(pod: &Pod) -> bool {
    match pod.status.conditions.iter().find(|condition| condition.r#type == "Ready") {
        Some(condition) => condition.status == "True",
        None => pod.status.conditions.is_empty() && pod.status.phase != "Pending",
    }
}

/// A slice there is, and what shall be in it.
struct Plan<'a> {
    slice: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
}

impl<'a> Plan<'a> {
    fn new(slice: &'a EndpointSlice) -> Self {
        Self { slice, endpoints: Vec::new() }
    }

    /// Keeps what is still wanted, in its place and in its present form, and takes it from `members`.
    fn keep(&mut self, members: &mut Members) {
        for endpoint in self.slice.endpoints.iter().take(ENDPOINTS_PER_SLICE_MAX) {
            self.endpoints.extend(identity(endpoint).and_then(|identity| members.remove(&identity)));
        }
    }

    fn fill(&mut self, members: &mut Members) {
        while self.endpoints.len() < ENDPOINTS_PER_SLICE_MAX {
            let Some((_, endpoint)) = members.pop_first() else { break };
            self.endpoints.push(endpoint);
        }
    }

    fn is_written_anyway(&self) -> bool {
        !self.endpoints.is_empty() && self.endpoints != self.slice.endpoints
    }
}

fn identity(endpoint: &Endpoint) -> Option<Identity> {
    let pod = endpoint.target_ref.as_ref()?;
    Some((endpoint.addresses.first()?.parse().ok()?, pod.name.clone()))
}

struct Writer<'a> {
    service: &'a Service,
    /// Names of the namespace that must not be given to a new slice.
    names: BTreeSet<String>,
    /// Own slices that no group needs as they are.
    unused: Vec<&'a EndpointSlice>,
    changes: SliceChanges,
}

impl<'a> Writer<'a> {
    fn write_group(&mut self, group: &Group, members: &mut Members, mut plans: Vec<Plan<'a>>) {
        for plan in &mut plans {
            plan.keep(members);
        }
        for plan in plans.iter_mut().filter(|plan| plan.is_written_anyway()) {
            plan.fill(members);
        }
        // The emptiest first: that writes the fewest slices.
        plans.sort_by_key(|plan| plan.endpoints.len());
        for plan in &mut plans {
            plan.fill(members);
        }
        plans.sort_by(|a, b| a.slice.metadata.name.cmp(&b.slice.metadata.name));
        for plan in plans {
            if plan.endpoints.is_empty() {
                self.changes.delete.push(ObjectKey::of(&plan.slice.metadata));
                continue;
            }
            let new = self.slice(plan.slice.metadata.clone(), group, plan.endpoints);
            if new != *plan.slice {
                self.changes.put.push(new);
            }
        }
        while !members.is_empty() {
            let metadata = self.metadata_for_new(group.family);
            let mut endpoints = Vec::new();
            while endpoints.len() < ENDPOINTS_PER_SLICE_MAX
                && let Some((_, endpoint)) = members.pop_first()
            {
                endpoints.push(endpoint);
            }
            let slice = self.slice(metadata, group, endpoints);
            self.changes.put.push(slice);
        }
    }

    /// The metadata of an own slice that is out of use, else a free name: the Service's name, the family, the first number that is free.
    fn metadata_for_new(&mut self, family: Family) -> ObjectMeta {
        if let Some(at) = self.unused.iter().position(|slice| slice.address_type == family.name()) {
            return self.unused.remove(at).metadata.clone();
        }
        let service = &self.service.metadata;
        let family = family.name().to_lowercase();
        let mut number = 0_usize;
        let name = loop {
            let name = format!("{}-{family}-{number}", service.name);
            if self.names.insert(name.clone()) {
                break name;
            }
            number += 1;
        };
        ObjectMeta { name, namespace: service.namespace.clone(), ..Default::default() }
    }

    fn slice(&self, mut metadata: ObjectMeta, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let service = &self.service.metadata;
        metadata.labels = service.labels.clone();
        metadata.labels.insert(SERVICE_NAME_LABEL.into(), service.name.clone());
        metadata.labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
        if self.service.spec.cluster_ip == CLUSTER_IP_NONE {
            metadata.labels.insert(HEADLESS_LABEL.into(), String::new());
        } else {
            metadata.labels.remove(HEADLESS_LABEL);
        }
        metadata.owner_references = vec![OwnerReference {
            kind: "Service".into(),
            name: service.name.clone(),
            uid: service.uid.clone(),
            api_version: "v1".into(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }];
        let address_type = group.family.name().to_owned();
        EndpointSlice { metadata, endpoints, ports: group.ports.clone(), address_type }
    }
}

#[cfg(test)]
#[path = "endpoint_slices_tests.rs"]
mod tests;
