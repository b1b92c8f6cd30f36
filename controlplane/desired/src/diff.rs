//! Two states → the updates that lead from one to the other.
//!
//! The order of the updates is such that after each of them the dataplane's staged tables refer only to what exists: frontends leave
//! before their Services do, and arrive after them. The `Commit` is the publisher's, who knows the generation.
//! Last in a Service's walk on this side of the ring.

use crate::desired::{Desired, ResolvedService};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use turnpike_wire::update::{Fleet, Update};

/// The updates from `old` to `new`, none if they mean the same to the dataplane.
#[must_use]
pub fn diff(old: &Desired, new: &Desired) -> Vec<Update> {
    let (mut dropped_frontends, mut put_frontends) = (Vec::new(), Vec::new());
    for (key, before, after) in joined(&old.frontends, &new.frontends) {
        match (before, after) {
            (Some(_), None) => dropped_frontends.push(Update::DropFrontend(*key)),
            (Some(before), Some(after)) if before.frontend == after.frontend => {}
            (_, Some(after)) => put_frontends.push(Update::PutFrontend(after.frontend.clone())),
            (None, None) => {}
        }
    }
    let (mut put_services, mut dropped_services) = (Vec::new(), Vec::new());
    for (key, before, after) in joined(&old.services, &new.services) {
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

/// Both maps in step, without the entries they share.
fn joined<'a, K: Ord, V>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            if before.zip(after).is_some_and(|((_, before), (_, after))| Arc::ptr_eq(before, after)) {
                continue;
            }
            let key = before.or(after)?.0;
            return Some((
                key,
                before.map(|(_, value)| value.as_ref()),
                after.map(|(_, value)| value.as_ref()),
            ));
        }
    })
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
