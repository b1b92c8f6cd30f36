//! `v1 Pod`, as the record of something that serves.

use super::{Errors, names};
use crate::desired::Family;
use crate::endpoints::parse_weight;
use crate::frontends::protocol;
use crate::k8s::{Container, Pod};
use crate::words::WEIGHT_ANNOTATION;
use std::collections::BTreeSet;

pub(super) fn check(pod: &Pod, errors: &mut Errors) {
    if let Some(text) = pod.metadata.annotations.get(WEIGHT_ANNOTATION) {
        errors.check(format!("metadata.annotations[{WEIGHT_ANNOTATION}]"), parse_weight(text).map(drop));
    }
    let spec = &pod.spec;
    if !spec.node_name.is_empty() {
        errors.check("spec.nodeName", names::dns1123_subdomain(&spec.node_name));
    }
    for (path, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if !name.is_empty() {
            errors.check(path, names::dns1123_label(name));
        }
    }
    let mut seen = BTreeSet::new();
    containers("spec.containers", &spec.containers, &mut seen, errors);
    containers("spec.initContainers", &spec.init_containers, &mut seen, errors);
    status(pod, errors);
}

fn containers<'a>(path: &str, list: &'a [Container], seen: &mut BTreeSet<&'a str>, errors: &mut Errors) {
    for (index, container) in list.iter().enumerate() {
        if !container.name.is_empty() && !seen.insert(&container.name) {
            errors.add(
                format!("{path}[{index}].name"),
                format!("{:?} is the name of another container, too", container.name),
            );
        }
        let mut seen_ports = BTreeSet::new();
        for (number, port) in container.ports.iter().enumerate() {
            let at = |field: &str| format!("{path}[{index}].ports[{number}].{field}");
            errors.is_port(at("containerPort"), port.container_port);
            if port.host_port != 0 {
                errors.is_port(at("hostPort"), port.host_port);
            }
            if protocol(&port.protocol).is_none() {
                errors.add(at("protocol"), format!("{:?} is not one of TCP, UDP, SCTP", port.protocol));
            }
            if port.name.is_empty() {
                continue;
            }
            errors.check(at("name"), names::port_name(&port.name));
            if !seen_ports.insert(&port.name) {
                errors.add(at("name"), format!("{:?} is the name of another port, too", port.name));
            }
        }
    }
}

fn status(pod: &Pod, errors: &mut Errors) {
    let status = &pod.status;
    errors.is_one_of(
        "status.phase",
        &status.phase,
        &["", "Pending", "Running", "Succeeded", "Failed", "Unknown"],
    );
    if let Some(first) = status.pod_ips.first().filter(|first| first.ip != status.pod_ip) {
        errors.add("status.podIPs[0].ip", format!("{:?} is not status.podIP {:?}", first.ip, status.pod_ip));
    }
    let mut families = BTreeSet::new();
    for (index, ip) in status.pod_ips.iter().enumerate() {
        let path = format!("status.podIPs[{index}].ip");
        let address = errors.is_host_address(&path, &ip.ip);
        if let Some(address) = address.filter(|address| !families.insert(Family::of(*address))) {
            errors.add(path, format!("{address} is a second {} address", Family::of(address)));
        }
    }
    for (index, condition) in status.conditions.iter().enumerate() {
        let path = format!("status.conditions[{index}].status");
        errors.is_one_of(&path, &condition.status, &["True", "False", "Unknown"]);
    }
}
