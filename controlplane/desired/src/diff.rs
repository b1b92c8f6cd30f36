//! Two states → the updates that lead from one to the other. Costs what has changed, not what there is.
//!
//! The order of the updates is such that after each of them the dataplane's staged tables refer only to what exists: frontends leave
//! before their Services do, and arrive after them. The `Commit` is the publisher's, who knows the generation.
//! Last in a Service's walk on this side of the ring.

use crate::desired::{Desired, ResolvedService};
use crate::shared_map::SharedMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use turnpike_wire::update::{Fleet, Update};

/// The updates from `old` to `new`, none if they mean the same to the dataplane.
#[must_use]
pub fn diff(old: &Desired, new: &Desired) -> Vec<Update> {
    let (mut dropped_frontends, mut put_frontends) = (Vec::new(), Vec::new());
    for (key, before, after) in changed(&old.frontends, &new.frontends) {
        match (before, after) {
            (Some(_), None) => dropped_frontends.push(Update::DropFrontend(*key)),
            (Some(before), Some(after)) if before.frontend == after.frontend => {}
            (_, Some(after)) => put_frontends.push(Update::PutFrontend(after.frontend.clone())),
            (None, None) => {}
        }
    }
    let (mut put_services, mut dropped_services) = (Vec::new(), Vec::new());
    for (key, before, after) in changed(&old.services, &new.services) {
        match after {
            None => dropped_services.push(Update::DropService(key.clone())),
            Some(after) => diff_service(before, after, &mut put_services),
        }
    }
    let mut updates = Vec::new();
    if old.cluster != new.cluster {
        updates.push(Update::PutCluster(new.cluster.clone()));
    }
    // Services that are gone go last: a frontend may have passed from one of them to a new one.
    updates.extend(dropped_frontends);
    updates.extend(put_services);
    updates.extend(put_frontends);
    updates.extend(dropped_services);
    updates
}

/// The entries that may differ; those that are one and the same do not.
fn changed<'a, K: Ord, V>(
    old: &'a SharedMap<K, Arc<V>>,
    new: &'a SharedMap<K, Arc<V>>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let is_same = |before: Option<&Arc<V>>, after: Option<&Arc<V>>| {
        before.zip(after).is_some_and(|(before, after)| Arc::ptr_eq(before, after))
    };
    old.differences(new)
        .filter(move |(_, before, after)| !is_same(*before, *after))
        .map(|(key, before, after)| (key, before.map(AsRef::as_ref), after.map(AsRef::as_ref)))
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
