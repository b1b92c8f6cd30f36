//! Who should have which address: Services and records in, writes out. Pure, so that every gateway of a fleet comes to the same plan from the
//! same state, and the first to write it wins.

use crate::kubernetes::Tenancies;
use crate::kubernetes::record::{Record, Tenant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use turnpike_desired::allocate::{Allocations, assign, sharing_key, with_addresses};
use turnpike_desired::k8s::Service;
use turnpike_desired::object::ObjectKey;
use turnpike_desired::settings::Rules;

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Services that should have an address and are not in its record.
    pub take: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    /// Services that are in the record of an address and should not have it.
    pub release: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    /// What each Service has now by the records and may keep: it is served.
    pub served: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    /// Why Services lack an address.
    pub problems: BTreeMap<ObjectKey, String>,
}

/// Plans for all Services at once, older ones first. Without pools Turnpike has nothing to give, and what others write to statuses is served.
#[must_use]
pub fn plan<'s>(services: impl Iterator<Item = &'s Service>, known: &Tenancies, rules: &Rules) -> Plan {
    let had = recorded(known);
    let is_ours = |service: &&Service| {
        let spec = &service.spec;
        let is_served = !spec.cluster_ip.is_empty() && spec.cluster_ip != "None";
        is_served
            && !is_ending(service)
            && !rules.pools.is_empty()
            && rules.load_balancer_class.is_ours(service)
    };
    let mut ours: Vec<&Service> = services.filter(is_ours).collect();
    ours.sort_by_cached_key(|service| {
        let meta = &service.metadata;
        (meta.creation_timestamp.unix_seconds().unwrap_or(i64::MAX), ObjectKey::of(meta))
    });
    let none = BTreeSet::new();
    let stated = stated(&ours, &had, known);
    let had_by = |service: &Service| {
        let key = ObjectKey::of(&service.metadata);
        had.get(&key).or_else(|| stated.get(&key)).unwrap_or(&none)
    };
    let mut taken = Allocations::of(&ours.iter().map(|s| with_addresses(s, had_by(s))).collect::<Vec<_>>());
    // A record that cannot be read keeps its address from everybody.
    let unreadable: BTreeSet<IpAddr> =
        known.iter().filter(|(_, entry)| entry.record.is_none()).map(|(address, _)| *address).collect();
    taken.reserve(&unreadable);
    // Nor is an address given on before those who have it no longer are out of its record.
    let keys: BTreeSet<ObjectKey> = ours.iter().map(|service| ObjectKey::of(&service.metadata)).collect();
    for (address, entry) in known {
        if entry.tenants().all(|tenant| !keys.contains(&tenant)) {
            for tenant in entry.tenants() {
                taken.add(&leaving(&tenant, *address));
            }
        }
    }

    let mut plan = Plan::default();
    for service in ours {
        let key = ObjectKey::of(&service.metadata);
        let had = had_by(service);
        let assignment = assign(service, had, rules, &taken);
        taken.remove(&key);
        taken.add(&with_addresses(service, &assignment.addresses));
        if let Some(problem) = assignment.problem {
            plan.problems.insert(key.clone(), problem);
        }
        let recorded = if stated.contains_key(&key) { &none } else { had };
        for address in assignment.addresses.difference(recorded) {
            plan.take.entry(*address).or_default().insert(key.clone());
        }
        let kept: BTreeSet<IpAddr> = assignment.addresses.intersection(recorded).copied().collect();
        if !kept.is_empty() {
            plan.served.insert(key, kept);
        }
    }
    for (key, addresses) in had {
        let served = plan.served.get(&key).unwrap_or(&none);
        for address in addresses.difference(served) {
            plan.release.entry(*address).or_default().insert(key.clone());
        }
    }
    plan
}

/// What Services without a record have by their status: addresses that nobody is recorded with. They are kept where a pool has them, so
/// that records which were lost are made anew, and a cluster that comes from another load balancer keeps its addresses. Of several
/// Services with one address the oldest has it, unless they share it.
fn stated(
    ours: &[&Service],
    had: &BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    known: &Tenancies,
) -> BTreeMap<ObjectKey, BTreeSet<IpAddr>> {
    let mut first: BTreeMap<IpAddr, Option<&str>> = BTreeMap::new();
    let mut stated: BTreeMap<ObjectKey, BTreeSet<IpAddr>> = BTreeMap::new();
    for service in ours {
        let key = ObjectKey::of(&service.metadata);
        if had.contains_key(&key) {
            continue;
        }
        let sharing = sharing_key(service);
        let addresses = service.status.load_balancer.ingress.iter().filter_map(|told| told.ip.parse().ok());
        for address in addresses.filter(|address| !known.contains_key(address)) {
            let shares = first.get(&address).is_none_or(|older| sharing.is_some() && *older == sharing);
            if shares {
                first.insert(address, sharing);
                stated.entry(key.clone()).or_default().insert(address);
            }
        }
    }
    stated
}

/// Who has which addresses by the records.
#[must_use]
pub fn recorded(known: &Tenancies) -> BTreeMap<ObjectKey, BTreeSet<IpAddr>> {
    let mut recorded: BTreeMap<ObjectKey, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, entry) in known {
        for tenant in entry.tenants() {
            recorded.entry(tenant).or_default().insert(*address);
        }
    }
    recorded
}

/// All that is known of a Service that only still has an address: it shares it with nobody.
fn leaving(key: &ObjectKey, address: IpAddr) -> Service {
    let mut service = Service::default();
    service.metadata.namespace.clone_from(&key.namespace);
    service.metadata.name.clone_from(&key.name);
    with_addresses(&service, &[address].into())
}

/// Whether a Service is being deleted, and only waits for its finalizers.
#[must_use]
pub fn is_ending(service: &Service) -> bool {
    service.metadata.deletion_timestamp.as_ref().is_some_and(|time| !time.is_unset())
}

/// A record after some took and some released its address; none: nobody has it any more.
#[must_use]
pub fn changed(
    record: Option<&Record>,
    take: Option<&BTreeSet<ObjectKey>>,
    release: &BTreeSet<ObjectKey>,
) -> Option<Record> {
    let mut services = record.map(|record| record.services.clone()).unwrap_or_default();
    services.retain(|tenant| !release.contains(&tenant.key()));
    services.extend(take.into_iter().flatten().map(Tenant::from));
    (!services.is_empty()).then_some(Record { services })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
