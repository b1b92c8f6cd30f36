//! The controller of load-balancer addresses in Kubernetes mode.
//!
//! Level-triggered: whenever Services or records change, [`plan`] says who should have what, and the difference is written, each address in a
//! transaction of its own on condition that its record is as it was known. Two gateways that want to give out one address cannot both
//! succeed. What a Service no longer needs is released after a grace, and only on the evidence of a whole view of the cluster.

use crate::etcd::client::{Connector, explain, limited, lists, watches};
use crate::kubernetes::Tenancies;
use crate::kubernetes::plan::{Plan, changed, plan, recorded};
use crate::kubernetes::record::{Entry, Record, address_of};
use crate::kubernetes::status::is_clean;
use crate::state::State;
use anyhow::{Context, Result, bail};
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, Txn, TxnOp, WatchOptions, WatchResponse,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use turnpike_desired::object::ObjectKey;

/// How long a Service must have been without a claim to an address before it is released.
const GRACE: Duration = Duration::from_secs(5);
/// Time between two rounds at least: changes that come together are planned together.
const ROUND: Duration = Duration::from_millis(20);
/// Time between two rounds at most, for graces that end.
const TICK: Duration = Duration::from_secs(1);
/// Wait after a lost connection.
const RETRY: Duration = Duration::from_secs(1);

/// Since when Services have no claim to addresses they are recorded with.
type Ending = BTreeMap<(IpAddr, ObjectKey), Instant>;

/// Keeps the addresses, for ever.
pub async fn control(state: Arc<State>, connector: Connector) {
    let mut ending = Ending::new();
    let mut said = String::new();
    loop {
        if let Err(error) = follow(&state, &connector, &mut ending).await {
            let text =
                format!("load-balancer addresses are not looked after: {error:#}; those given stay in force");
            if text != said {
                warn!("{text}");
                said = text;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(state: &State, connector: &Connector, ending: &mut Ending) -> Result<()> {
    let mut client = connector.connect().await?;
    let prefix = state.own_key("addresses/");
    let listed = limited(lists(&client).get(prefix.clone(), Some(GetOptions::new().with_prefix()))).await;
    let listed = listed.with_context(|| format!("cannot read {prefix}"))?;
    let revision = listed.header().map_or(0, |header| header.revision());
    let mut known: Tenancies = listed
        .kvs()
        .iter()
        .filter_map(|kv| Some((address_of(&prefix, kv.key())?, Entry::read(kv.value(), kv.mod_revision()))))
        .collect();
    let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
    let mut records = limited(watches(&client).watch(prefix.clone(), Some(options)))
        .await
        .with_context(|| format!("cannot watch {prefix}"))?;
    let mut revisions = state.revision();
    loop {
        revisions.borrow_and_update();
        round(state, &mut client, &prefix, &known, ending).await?;
        tokio::time::sleep(ROUND).await;
        tokio::select! {
            message = records.message() => {
                let message = message.map_err(explain)?.context("the watch ended")?;
                take(&mut known, &prefix, &message)?;
            }
            changed = revisions.changed() => changed?,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

fn take(known: &mut Tenancies, prefix: &str, message: &WatchResponse) -> Result<()> {
    if message.canceled() {
        bail!("the watch was cancelled: {}", message.cancel_reason());
    }
    for event in message.events() {
        let Some(kv) = event.kv() else { continue };
        let Some(address) = address_of(prefix, kv.key()) else { continue };
        match event.event_type() {
            EventType::Put => drop(known.insert(address, Entry::read(kv.value(), kv.mod_revision()))),
            EventType::Delete => drop(known.remove(&address)),
        }
    }
    Ok(())
}

/// Plans, serves what is recorded, and writes what is missing.
async fn round(
    state: &State,
    client: &mut Client,
    prefix: &str,
    known: &Tenancies,
    ending: &mut Ending,
) -> Result<()> {
    let is_sure = state.etcd(|etcd| etcd.state == "connected" && etcd.held_back.is_none());
    if !is_sure && state.is_assigned() {
        // Records may be gone with the objects: what was given stays in force.
        return Ok(());
    }
    let (plan, clean) = {
        let core = state.core();
        if !is_sure || !core.tracker.is_complete() {
            // As soon as Services are known, those that have addresses must have them: without, they would seem to have lost them.
            drop(core);
            state.assign(&recorded(known));
            return Ok(());
        }
        let services = core.tracker.services().map(|(_, tracked)| tracked.object.as_ref());
        let plan = plan(services, known, &state.rules);
        let none = BTreeSet::new();
        let is_clean = |address: &IpAddr, key: &ObjectKey| {
            let service = core.tracker.service(key).map(|tracked| tracked.object.as_ref());
            let assigned = plan.served.get(key).unwrap_or(&none);
            state.config.kubernetes.kubeconfig.is_none()
                || service.is_none_or(|service| is_clean(service, *address, assigned, &state.rules))
        };
        let released =
            plan.release.iter().flat_map(|(a, keys)| keys.iter().map(move |key| (*a, key.clone())));
        // What is older than the record says nothing about who is in it.
        let is_evidence =
            |address: &IpAddr| known.get(address).is_some_and(|entry| core.revision >= entry.revision);
        let clean: BTreeSet<(IpAddr, ObjectKey)> =
            released.filter(|(a, key)| is_evidence(a) && is_clean(a, key)).collect();
        (plan, clean)
    };
    state.assign(&plan.served);
    // Not before: to the writer of statuses, whoever has a record and is not served has lost its address.
    state.kubernetes.tenancies.send_replace(Arc::new(known.clone()));
    state.kubernetes.set_problems(plan.problems.clone());
    let releases = over(&plan, &clean, ending, Instant::now());
    let addresses: BTreeSet<IpAddr> = plan.take.keys().chain(releases.keys()).copied().collect();
    let none = BTreeSet::new();
    for address in addresses {
        let entry = known.get(&address);
        let record = entry.and_then(|entry| entry.record.as_ref());
        let release = releases.get(&address).unwrap_or(&none);
        // Nobody new before everyone who has to go is gone.
        let is_passed_on = plan.release.get(&address).is_none_or(|leaving| leaving.is_subset(release));
        let take = plan.take.get(&address).filter(|_| is_passed_on);
        let new = changed(record, take, release);
        if new.as_ref() == record {
            continue;
        }
        let key = format!("{prefix}{address}");
        let is_written = write(client, &key, entry, new.as_ref()).await?;
        // Whoever was first is seen by the watch, and planned with.
        if is_written {
            for service in take.into_iter().flatten() {
                info!("Service {service} gets the load-balancer address {address}");
            }
            for service in release {
                info!("Service {service} gives the load-balancer address {address} back");
            }
        }
    }
    Ok(())
}

/// Writes a record, or deletes its key if there is none, unless it is not as it was known any more. Says whether it was.
pub async fn write(
    client: &mut Client,
    key: &str,
    known: Option<&Entry>,
    new: Option<&Record>,
) -> Result<bool> {
    let unchanged = match known {
        Some(entry) => Compare::mod_revision(key, CompareOp::Equal, entry.revision),
        None => Compare::create_revision(key, CompareOp::Equal, 0),
    };
    let operation = match new {
        Some(record) => TxnOp::put(key, serde_json::to_vec(record)?, None),
        None => TxnOp::delete(key, None),
    };
    let answer = limited(client.txn(Txn::new().when([unchanged]).and_then([operation]))).await;
    Ok(answer.with_context(|| format!("cannot write {key}"))?.succeeded())
}

/// The releases whose grace is over; remembers since when the others wait.
fn over(
    plan: &Plan,
    clean: &BTreeSet<(IpAddr, ObjectKey)>,
    ending: &mut Ending,
    now: Instant,
) -> BTreeMap<IpAddr, BTreeSet<ObjectKey>> {
    let wanted = |address: &IpAddr, service: &ObjectKey| {
        plan.release.get(address).is_some_and(|services| services.contains(service))
    };
    ending.retain(|(address, service), _| wanted(address, service));
    let mut over: BTreeMap<IpAddr, BTreeSet<ObjectKey>> = BTreeMap::new();
    for (address, services) in &plan.release {
        for service in services {
            let since = *ending.entry((*address, service.clone())).or_insert(now);
            let is_over = now.saturating_duration_since(since) >= GRACE;
            if is_over && clean.contains(&(*address, service.clone())) {
                over.entry(*address).or_default().insert(service.clone());
            }
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_released_after_a_grace_without_a_claim() {
        let address: IpAddr = "203.0.113.5".parse().unwrap();
        let web = ObjectKey::new("shop", "web");
        let mut plan = Plan::default();
        plan.release.insert(address, [web.clone()].into());
        let clean: BTreeSet<_> = [(address, web.clone())].into();
        let mut ending = Ending::new();
        let start = Instant::now();
        assert!(over(&plan, &clean, &mut ending, start).is_empty());
        assert!(over(&plan, &clean, &mut ending, start + GRACE / 2).is_empty());
        // It is claimed again: the grace begins anew.
        assert!(over(&Plan::default(), &clean, &mut ending, start + GRACE / 2).is_empty());
        assert!(over(&plan, &clean, &mut ending, start + GRACE).is_empty());
        assert!(
            over(&plan, &BTreeSet::new(), &mut ending, start + GRACE * 3).is_empty(),
            "its status is not clean"
        );
        assert_eq!(over(&plan, &clean, &mut ending, start + GRACE * 3), [(address, [web].into())].into());
    }
}
