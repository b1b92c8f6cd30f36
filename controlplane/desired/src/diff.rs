//! Two states → the updates that lead from one to the other.
//!
//! The order of the updates is such that after each of them the dataplane's staged tables refer only to what exists: frontends leave
//! before their Services do, and arrive after them. The `Commit` is the publisher's, who knows the generation.
//! Last in a Service's walk on this side of the ring.

use crate::desired::{Desired, ResolvedService};
use std::collections::BTreeMap;
use std::sync::Arc;
use turnpike_wire::update::{Fleet, Update};

/// The updates from `old` to `new`, none if they mean the same to the dataplane.
#[must_use]
pub fn diff(old: &Desired, new: &Desired) -> Vec<Update> {
    let mut updates = Vec::new();
    for key in old.frontends.keys().filter(|key| !new.frontends.contains_key(key)) {
        updates.push(Update::DropFrontend(*key));
    }
    let mut put_services = Vec::new();
    for (key, service) in &new.services {
        match old.services.get(key) {
            Some(before) if Arc::ptr_eq(before, service) => {}
            before => diff_service(before.map(Arc::as_ref), service, &mut put_services),
        }
    }
    let mut put_frontends = Vec::new();
    for (key, frontend) in &new.frontends {
        match old.frontends.get(key) {
            Some(before) if Arc::ptr_eq(before, frontend) || before.frontend == frontend.frontend => {}
            _ => put_frontends.push(Update::PutFrontend(frontend.frontend.clone())),
        }
    }
    updates.extend(put_services);
    updates.extend(put_frontends);
    // Only now does no frontend refer to them any more: one may have passed from an old Service to a new one.
    for key in old.services.keys().filter(|key| !new.services.contains_key(key)) {
        updates.push(Update::DropService(key.clone()));
    }
    updates
}

/// Everything, for a dataplane of which nothing is known.
#[must_use]
pub fn snapshot(new: &Desired, fleet: Fleet) -> Vec<Update> {
    let mut updates = vec![Update::Reset, Update::PutFleet(fleet)];
    updates.extend(diff(&Desired::default(), new));
    updates
}

fn diff_service(old: Option<&ResolvedService>, new: &ResolvedService, updates: &mut Vec<Update>) {
    let key = &new.service.key;
    if old.is_none_or(|old| old.service != new.service) {
        updates.push(Update::PutService(new.service.clone()));
    }
    let none = BTreeMap::new();
    let before = old.map_or(&none, |old| &old.backends);
    for (address, backend) in &new.backends {
        if before.get(address).is_none_or(|old| old.backend != backend.backend) {
            updates.push(Update::PutBackend(key.clone(), backend.backend));
        }
    }
    for address in before.keys().filter(|address| !new.backends.contains_key(address)) {
        updates.push(Update::DropBackend(key.clone(), *address));
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
