//! `v1 Node`

use super::Errors;
use crate::desired::Family;
use crate::k8s::Node;
use ipnet::IpNet;
use std::collections::BTreeSet;

pub(super) fn check(node: &Node, errors: &mut Errors) {
    let spec = &node.spec;
    if let Some(first) = spec.pod_cidrs.first().filter(|first| **first != spec.pod_cidr) {
        errors.add("spec.podCIDRs[0]", format!("{first:?} is not spec.podCIDR {:?}", spec.pod_cidr));
    }
    let mut families = BTreeSet::new();
    for (index, text) in spec.pod_cidrs.iter().enumerate() {
        let path = format!("spec.podCIDRs[{index}]");
        match text.parse::<IpNet>() {
            Err(_) => errors.add(path, format!("{text:?} is no network; write e.g. \"10.244.1.0/24\"")),
            Ok(network) if !families.insert(Family::of(network.addr())) => {
                errors.add(path, format!("{network} is a second {} network", Family::of(network.addr())));
            }
            Ok(_) => {}
        }
    }
    let kinds = ["Hostname", "InternalIP", "ExternalIP", "InternalDNS", "ExternalDNS"];
    for (index, address) in node.status.addresses.iter().enumerate() {
        errors.is_one_of(&format!("status.addresses[{index}].type"), &address.r#type, &kinds);
        if matches!(address.r#type.as_str(), "InternalIP" | "ExternalIP") {
            errors.is_host_address(&format!("status.addresses[{index}].address"), &address.address);
        }
    }
}
