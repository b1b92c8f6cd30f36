//! Load-balancer addresses of Services whose objects belong to somebody else: in Kubernetes mode Turnpike keeps them itself.

use super::{Allocations, Choice};
use crate::k8s::{LoadBalancerIngress, Service};
use crate::object::ObjectKey;
use crate::settings::Rules;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What a Service gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Its addresses, at most one of each family.
    pub addresses: BTreeSet<IpAddr>,
    /// Why it lacks one, and the mend.
    pub problem: Option<String>,
}

/// The Service as it would be with these load-balancer addresses, to be noted in [`Allocations`].
#[must_use]
pub fn with_addresses(service: &Service, addresses: &BTreeSet<IpAddr>) -> Service {
    let mut service = service.clone();
    let ingress = addresses.iter().map(|address| LoadBalancerIngress {
        ip: address.to_string(),
        ip_mode: Some("VIP".into()),
        ..Default::default()
    });
    service.status.load_balancer.ingress = ingress.collect();
    service.status.conditions.clear();
    service
}

/// The addresses of a Service that had `had`: those of them that it may keep, those it asks for, else free ones. None if it is not ours.
#[must_use]
pub fn assign(service: &Service, had: &BTreeSet<IpAddr>, rules: &Rules, taken: &Allocations) -> Assignment {
    let mut tried = with_addresses(service, had);
    let key = ObjectKey::of(&service.metadata);
    let mut errors = Vec::new();
    Choice { key: &key, rules, taken }.public_addresses(&mut tried, &mut errors);
    let ingress = tried.status.load_balancer.ingress.iter();
    let waits = tried.status.conditions.first().map(|condition| condition.message.clone());
    Assignment {
        addresses: ingress.filter_map(|ingress| ingress.ip.parse().ok()).collect(),
        problem: errors.first().map(ToString::to_string).or(waits),
    }
}
