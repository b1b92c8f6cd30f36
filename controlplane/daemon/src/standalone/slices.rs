//! The EndpointSlice controller: slices for the Services with selectors, from the pods that match.
//!
//! Level-triggered: whenever the known revision moves, every Service whose inputs changed is compared with what it needs. What is missing is
//! written on condition that nobody else wrote the slice since; whoever lost looks again at the next revision.

use crate::etcd::client::Connector;
use crate::standalone::apply::stamp;
use crate::standalone::transaction::{Changes, Outcome};
use crate::state::{Core, State};
use anyhow::Result;
use etcd_client::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;
use turnpike_desired::endpoint_slices::{self, SliceChanges};
use turnpike_desired::object::{Kind, Object, ObjectKey};
use turnpike_desired::words::{MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL, ZONE_LABEL};

/// Wait after a failure.
const RETRY: Duration = Duration::from_millis(500);

/// What a Service's slices were last found right for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Inputs {
    service: i64,
    namespace: Fingerprint,
    nodes: Fingerprint,
}

/// Changes whenever one of a group of objects does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Fingerprint {
    youngest: i64,
    count: usize,
}

impl Fingerprint {
    fn note(&mut self, revision: i64) {
        self.youngest = self.youngest.max(revision);
        self.count += 1;
    }
}

/// Keeps slices as they should be, for ever.
pub async fn control(state: Arc<State>, connector: Connector) {
    let mut revisions = state.revision();
    let mut right: BTreeMap<ObjectKey, Inputs> = BTreeMap::new();
    let mut client: Option<Client> = None;
    loop {
        let revision = *revisions.borrow_and_update();
        match round(&state, &connector, &mut client, &mut right).await {
            Ok(true) => state.set_settled(revision),
            Ok(false) => {}
            Err(error) => {
                warn!("slices cannot be written: {error:#}");
                client = None;
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Looks once at everything that changed. Says whether nothing had to be written.
async fn round(
    state: &State,
    connector: &Connector,
    client: &mut Option<Client>,
    right: &mut BTreeMap<ObjectKey, Inputs>,
) -> Result<bool> {
    let work = plan(state, right);
    let idle = work.is_empty();
    for changes in work {
        let client = match client {
            Some(client) => client,
            None => client.insert(connector.connect().await?),
        };
        if let Outcome::Overtaken(revision) = changes.commit(client).await? {
            tracing::debug!(revision, "somebody else wrote a slice in between");
        }
    }
    Ok(idle)
}

fn plan(state: &State, right: &mut BTreeMap<ObjectKey, Inputs>) -> Vec<Changes> {
    let core = state.core();
    if !core.tracker.is_complete() {
        return Vec::new();
    }
    let tracker = &core.tracker;
    let mut namespaces: BTreeMap<&str, Fingerprint> = BTreeMap::new();
    for (key, revision) in tracker
        .pods()
        .map(|(k, t)| (k, t.revision))
        .chain(tracker.endpoint_slices().map(|(k, t)| (k, t.revision)))
    {
        namespaces.entry(&key.namespace).or_default().note(revision);
    }
    let mut nodes = Fingerprint::default();
    tracker.nodes().for_each(|(_, t)| nodes.note(t.revision));

    let mut work = Vec::new();
    let mut seen = BTreeSet::new();
    for (key, service) in tracker.services() {
        seen.insert(key.clone());
        let namespace = namespaces.get(key.namespace.as_str()).copied().unwrap_or_default();
        let inputs = Inputs { service: service.revision, namespace, nodes };
        if right.get(key) == Some(&inputs) {
            continue;
        }
        let needed = needed(&core, key);
        if needed.put.is_empty() && needed.delete.is_empty() {
            right.insert(key.clone(), inputs);
        } else {
            let mut changes = written(state, &core, needed);
            changes.expect(&state.registry().key(Kind::Service, key), service.revision);
            work.push(changes);
        }
    }
    right.retain(|key, _| seen.contains(key));
    work.extend(orphans(state, &core, &seen));
    work
}

fn needed(core: &Core, key: &ObjectKey) -> SliceChanges {
    let tracker = &core.tracker;
    let Some(service) = tracker.service(key) else { return SliceChanges::default() };
    let pods =
        tracker.pods().filter(|(pod, _)| pod.namespace == key.namespace).map(|(_, t)| t.object.as_ref());
    let slices = tracker
        .endpoint_slices()
        .filter(|(slice, _)| slice.namespace == key.namespace)
        .map(|(_, t)| t.object.as_ref());
    let zone_of = |node: &str| {
        let node = tracker.node(&ObjectKey::new("", node))?;
        node.object.metadata.labels.get(ZONE_LABEL).cloned()
    };
    endpoint_slices::reconcile(&service.object, pods, slices, &zone_of)
}

fn written(state: &State, core: &Core, needed: SliceChanges) -> Changes {
    let mut changes = Changes::default();
    for slice in needed.put {
        let mut object = Object::EndpointSlice(Box::new(slice));
        stamp(&mut object);
        let revision = core.tracker.endpoint_slice(&object.key()).map_or(0, |t| t.revision);
        changes.put(state, &object, None, revision);
    }
    for key in &needed.delete {
        changes.delete_slice(state, key);
    }
    changes
}

/// Slices that were made here for Services that are gone.
fn orphans(state: &State, core: &Core, services: &BTreeSet<ObjectKey>) -> Option<Changes> {
    let mut changes = Changes::default();
    for (key, slice) in core.tracker.endpoint_slices() {
        let labels = &slice.object.metadata.labels;
        let ours = labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY);
        let service = labels.get(SERVICE_NAME_LABEL).map(|name| ObjectKey::new(&key.namespace, name));
        if ours && service.is_some_and(|service| !services.contains(&service)) {
            changes.delete_slice(state, key);
        }
    }
    (!changes.is_empty()).then_some(changes)
}
