//! Gives load-balancer addresses that became free to the Services that wait for one, the oldest first.
//!
//! Level-triggered: looks whenever the known revision moves. The address is written in a transaction as any other is, so of several gateways
//! one gives it.

use crate::etcd::client::Connector;
use crate::standalone::apply::{Plan, carry_out, name, random, ready, stamp};
use crate::standalone::transaction::Obstacles;
use crate::state::{Core, State};
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};
use turnpike_desired::allocate::{self, Allocations};
use turnpike_desired::k8s::Service;
use turnpike_desired::object::{Object, ObjectKey};
use turnpike_desired::tracker::Tracked;
use turnpike_wire::admin::Change;

/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Most Services that get an address in one transaction; an etcd with its default settings takes 128 operations.
const SERVICES_MAX: usize = 16;

/// Gives addresses, for ever.
pub async fn control(state: Arc<State>, connector: Connector) {
    let mut revisions = state.revision();
    loop {
        revisions.borrow_and_update();
        let done = match ready(&state) {
            // Not read yet, or not to be written: the next revision may be another matter.
            Err(_) => Ok(()),
            Ok(()) if state.etcd(|etcd| etcd.held_back.is_some()) => Ok(()),
            Ok(()) => round(&state, &connector).await,
        };
        let changed = match done {
            Ok(()) => revisions.changed().await,
            Err(error) => {
                warn!("load-balancer addresses cannot be given: {error:#}");
                tokio::time::timeout(RETRY, revisions.changed()).await.unwrap_or(Ok(()))
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn round(state: &State, connector: &Connector) -> Result<()> {
    if plan(state, &state.core(), &Obstacles::new()).changes.is_empty() {
        return Ok(());
    }
    let given = carry_out(state, connector, |obstacles| Ok(plan(state, &state.core(), obstacles))).await?;
    for change in given {
        info!("Service {}/{} has its load-balancer address", change.object.namespace, change.object.name);
    }
    Ok(())
}

/// Those who wait and can have more than they have.
fn plan(state: &State, core: &Core, obstacles: &Obstacles) -> Plan {
    let mut plan = Plan::at(core.revision);
    let mut waiting: Vec<&Tracked<Service>> = core
        .tracker
        .services()
        .map(|(_, service)| service)
        .filter(|service| allocate::is_waiting(&service.object))
        .collect();
    if waiting.is_empty() {
        return plan;
    }
    waiting.sort_by_key(|service| {
        let metadata = &service.object.metadata;
        (metadata.creation_timestamp.seconds, metadata.namespace.clone(), metadata.name.clone())
    });
    let mut taken = Allocations::of(core.tracker.services().map(|(_, s)| s.object.as_ref()));
    for tracked in waiting {
        let old = tracked.object.as_ref();
        let mut new = old.clone();
        let allocated = allocate::service(&mut new, &state.rules, &taken, &mut random);
        let has_more = new.status.load_balancer != old.status.load_balancer;
        if allocated.is_err() || (!has_more && allocate::is_waiting(&new)) {
            continue;
        }
        taken.remove(&ObjectKey::of(&new.metadata));
        taken.add(&new);
        let mut object = Object::from(new);
        stamp(&mut object);
        plan.changes.put(state, &object, Some(&Object::from(old.clone())), tracked.revision);
        plan.results.push(Change {
            object: name(object.kind(), &object.key()),
            outcome: "configured".into(),
            warnings: Vec::new(),
        });
        if plan.results.len() == SERVICES_MAX {
            break;
        }
    }
    plan.changes.take_over(state, core, obstacles);
    plan
}
