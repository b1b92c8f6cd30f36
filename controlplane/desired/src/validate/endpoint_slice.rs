//! `discovery.k8s.io/v1 EndpointSlice`

use super::{Errors, names};
use crate::desired::Family;
use crate::frontends::protocol;
use crate::k8s::{Endpoint, EndpointSlice};
use crate::words::{MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use std::collections::BTreeSet;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

pub(super) fn check(slice: &EndpointSlice, errors: &mut Errors) {
    errors.is_one_of("addressType", &slice.address_type, &["IPv4", "IPv6", "FQDN"]);
    if let Some(service) = slice.metadata.labels.get(SERVICE_NAME_LABEL) {
        errors.check(format!("metadata.labels[{SERVICE_NAME_LABEL}]"), names::dns1035_label(service));
    }
    if slice.endpoints.len() > ENDPOINTS_MAX {
        let message =
            format!("{} are over the limit of {ENDPOINTS_MAX}; make several slices", slice.endpoints.len());
        errors.add("endpoints", message);
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate().take(ENDPOINTS_MAX) {
        check_endpoint(index, endpoint, &slice.address_type, errors);
    }
    ports(slice, errors);
}

pub(super) fn check_update(old: &EndpointSlice, new: &EndpointSlice, errors: &mut Errors) {
    if old.address_type != new.address_type {
        let message =
            format!("cannot change from {} to {}; make another slice", old.address_type, new.address_type);
        errors.add("addressType", message);
    }
    if old.metadata.labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY) {
        errors.add(
            "metadata.name",
            "this slice is made by Turnpike from a Service's selector; give yours another name",
        );
    }
}

fn check_endpoint(index: usize, endpoint: &Endpoint, address_type: &str, errors: &mut Errors) {
    let at = |field: &str| format!("endpoints[{index}].{field}");
    if endpoint.addresses.is_empty() || endpoint.addresses.len() > ADDRESSES_MAX {
        errors.add(at("addresses"), format!("{} are not 1..{ADDRESSES_MAX}", endpoint.addresses.len()));
    }
    for (number, text) in endpoint.addresses.iter().enumerate().take(ADDRESSES_MAX) {
        let path = format!("endpoints[{index}].addresses[{number}]");
        let Some(family) = Family::parse(address_type) else {
            errors.check(path, names::dns1123_subdomain(text));
            continue;
        };
        let found = errors.is_host_address(&path, text);
        if let Some(address) = found.filter(|address| Family::of(*address) != family) {
            errors.add(path, format!("{address} is not of the addressType {family}"));
        }
    }
    if let Some(name) = endpoint.hostname.as_deref() {
        errors.check(at("hostname"), names::dns1123_label(name));
    }
    if let Some(name) = endpoint.node_name.as_deref() {
        errors.check(at("nodeName"), names::dns1123_subdomain(name));
    }
    if let Some(zone) = endpoint.zone.as_deref() {
        errors.check(at("zone"), names::label_value(zone));
    }
    if let Some(hints) = &endpoint.hints {
        let zones: Vec<&str> = hints.for_zones.iter().map(|zone| zone.name.as_str()).collect();
        check_hints(&at("hints.forZones"), &zones, names::label_value, errors);
        let nodes: Vec<&str> = hints.for_nodes.iter().map(|node| node.name.as_str()).collect();
        check_hints(&at("hints.forNodes"), &nodes, names::dns1123_subdomain, errors);
    }
    if !endpoint.deprecated_topology.is_empty() {
        errors.add(at("deprecatedTopology"), "is of an old version; write zone and nodeName");
    }
}

fn check_hints(path: &str, names: &[&str], form: fn(&str) -> Result<(), String>, errors: &mut Errors) {
    if names.len() > HINTS_MAX {
        errors.add(path, format!("{} are over the limit of {HINTS_MAX}", names.len()));
    }
    for (index, name) in names.iter().enumerate().take(HINTS_MAX) {
        let path = format!("{path}[{index}].name");
        if name.is_empty() {
            errors.add(path, "is missing");
        } else if names[..index].contains(name) {
            errors.add(path, format!("{name:?} is there twice"));
        } else {
            errors.check(path, form(name));
        }
    }
}

fn ports(slice: &EndpointSlice, errors: &mut Errors) {
    if slice.ports.len() > PORTS_MAX {
        errors.add("ports", format!("{} are over the limit of {PORTS_MAX}", slice.ports.len()));
    }
    let mut seen = BTreeSet::new();
    for (index, port) in slice.ports.iter().enumerate().take(PORTS_MAX) {
        let at = |field: &str| format!("ports[{index}].{field}");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            errors.check(at("name"), names::dns1123_label(name));
        }
        if !seen.insert(name) {
            errors.add(at("name"), format!("{name:?} is the name of another port, too"));
        }
        let word = port.protocol.as_deref().unwrap_or_default();
        if protocol(word).is_none() {
            errors.add(at("protocol"), format!("{word:?} is not one of TCP, UDP, SCTP"));
        }
        if let Some(number) = port.port {
            errors.is_port(at("port"), number);
        }
        if let Some(word) = port.app_protocol.as_deref() {
            errors.check(at("appProtocol"), names::qualified_name(word));
        }
    }
}
