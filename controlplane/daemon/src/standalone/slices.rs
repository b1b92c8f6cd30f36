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
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;
use turnpike_desired::endpoint_slices::{self, SliceChanges};
use turnpike_desired::k8s::{EndpointSlice, Pod, Service};
use turnpike_desired::object::{Kind, Object, ObjectKey};
use turnpike_desired::selector;
use turnpike_desired::tracker::{Tracked, Tracker};
use turnpike_desired::words::{MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL, ZONE_LABEL};

/// Wait after a failure, or after somebody else wrote in between and nothing came of it.
const RETRY: Duration = Duration::from_millis(500);
/// Most operations of one transaction; an etcd with its default settings takes 128.
const OPERATIONS_MAX: usize = 100;

/// What a Service's slices were last found right for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Inputs {
    service: i64,
    pods: Fingerprint,
    slices: Fingerprint,
    nodes: Fingerprint,
}

/// Changes whenever one of a group of objects does, or one comes or goes.
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
        let retry = match round(&state, &connector, &mut client, &mut right).await {
            Ok(Round::Idle) => {
                state.set_settled(revision);
                None
            }
            // What was written comes back as a revision of its own.
            Ok(Round::Written) => None,
            Ok(Round::Overtaken) => Some(RETRY),
            Err(error) => {
                warn!("slices cannot be written: {error:#}");
                client = None;
                Some(RETRY)
            }
        };
        let changed = match retry {
            None => revisions.changed().await,
            Some(wait) => tokio::time::timeout(wait, revisions.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// How a round ended.
enum Round {
    Idle,
    Written,
    Overtaken,
}

/// Looks once at everything that changed, and writes what is missing.
async fn round(
    state: &State,
    connector: &Connector,
    client: &mut Option<Client>,
    right: &mut BTreeMap<ObjectKey, Inputs>,
) -> Result<Round> {
    let work = plan(state, right);
    if work.is_empty() {
        return Ok(Round::Idle);
    }
    let client = match client {
        Some(client) => client,
        None => client.insert(connector.connect().await?),
    };
    let mut round = Round::Written;
    let mut work = work.into_iter().peekable();
    let mut batch: Vec<Changes> = Vec::new();
    while let Some(changes) = work.next() {
        batch.push(changes);
        let size: usize = batch.iter().chain(work.peek()).map(Changes::size).sum();
        if work.peek().is_some() && size <= OPERATIONS_MAX {
            continue;
        }
        if !write(std::mem::take(&mut batch), client).await? {
            round = Round::Overtaken;
        }
    }
    Ok(round)
}

/// Writes a batch in one transaction; if that is overtaken, one Service after another, so that none waits for another's sake.
async fn write(batch: Vec<Changes>, client: &mut Client) -> Result<bool> {
    let mut all = Changes::default();
    batch.iter().cloned().for_each(|changes| all.join(changes));
    if matches!(all.commit(client).await?, Outcome::Done(_)) {
        return Ok(true);
    }
    let mut done = true;
    for changes in batch {
        done &= matches!(changes.commit(client).await?, Outcome::Done(_));
    }
    Ok(done)
}

fn plan(state: &State, right: &mut BTreeMap<ObjectKey, Inputs>) -> Vec<Changes> {
    let core = state.core();
    if !core.tracker.is_complete() {
        return Vec::new();
    }
    let tracker = &core.tracker;
    let by_label = ByLabel::of(tracker);
    let mut nodes = Fingerprint::default();
    tracker.nodes().for_each(|(_, t)| nodes.note(t.revision));

    let mut work = Vec::new();
    right.retain(|key, _| tracker.service(key).is_some());
    for (key, service) in tracker.services() {
        let pods = by_label.matching(&key.namespace, &service.object.spec.selector);
        let mut inputs = Inputs {
            service: service.revision,
            pods: Fingerprint::default(),
            slices: Fingerprint::default(),
            nodes,
        };
        pods.iter().for_each(|pod| inputs.pods.note(pod.revision));
        tracker.slices_of(key).for_each(|slice| inputs.slices.note(slice.revision));
        if right.get(key) == Some(&inputs) {
            continue;
        }
        let needed = needed(tracker, key, &service.object, &pods);
        if needed.put.is_empty() && needed.delete.is_empty() {
            right.insert(key.clone(), inputs);
        } else {
            let mut changes = written(state, &core, needed);
            changes.expect(&state.registry().key(Kind::Service, key), service.revision);
            work.push(changes);
        }
    }
    work.extend(orphans(state, &core));
    work
}

/// Pods by namespace, label and its value, so that a selector looks only at those that have one of its labels.
struct ByLabel<'a>(HashMap<&'a str, HashMap<&'a str, PodsByValue<'a>>>);
type PodsByValue<'a> = HashMap<&'a str, Vec<&'a Tracked<Pod>>>;

impl<'a> ByLabel<'a> {
    fn of(tracker: &'a Tracker) -> Self {
        let mut pods = Self(HashMap::new());
        for (key, pod) in tracker.pods() {
            let namespace = pods.0.entry(&key.namespace).or_default();
            for (label, value) in &pod.object.metadata.labels {
                namespace.entry(label).or_default().entry(value).or_default().push(pod);
            }
        }
        pods
    }

    fn matching(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a Tracked<Pod>> {
        let Some(labels) = self.0.get(namespace) else { return Vec::new() };
        let with = |(label, value): (&String, &String)| {
            labels
                .get(label.as_str())
                .and_then(|values| values.get(value.as_str()))
                .map_or(&[][..], Vec::as_slice)
        };
        let fewest = selector.iter().map(with).min_by_key(|pods| pods.len()).unwrap_or_default();
        let matches = |pod: &&&Tracked<Pod>| selector::matches(selector, &pod.object.metadata.labels);
        fewest.iter().filter(matches).copied().collect()
    }
}

/// What the controller would write for the Services as they are.
pub(super) fn outstanding(tracker: &Tracker) -> Vec<SliceChanges> {
    let by_label = ByLabel::of(tracker);
    let services = tracker.services().map(|(key, service)| {
        let pods = by_label.matching(&key.namespace, &service.object.spec.selector);
        needed(tracker, key, &service.object, &pods)
    });
    services.filter(|needed| !needed.put.is_empty() || !needed.delete.is_empty()).collect()
}

fn needed(tracker: &Tracker, key: &ObjectKey, service: &Service, pods: &[&Tracked<Pod>]) -> SliceChanges {
    let zone_of = |node: &str| {
        let node = tracker.node(&ObjectKey::new("", node))?;
        node.object.metadata.labels.get(ZONE_LABEL).cloned()
    };
    let pods = || pods.iter().map(|pod| pod.object.as_ref());
    let own = tracker.slices_of(key).map(|slice| slice.object.as_ref());
    let changes = endpoint_slices::reconcile(service, pods(), own, &zone_of);
    let is_own =
        |name: &ObjectKey| tracker.slices_of(key).any(|s| ObjectKey::of(&s.object.metadata) == *name);
    let is_foreign = |slice: &EndpointSlice| {
        let name = ObjectKey::of(&slice.metadata);
        tracker.endpoint_slice(&name).is_some() && !is_own(&name)
    };
    if !changes.put.iter().any(is_foreign) {
        return changes;
    }
    // Somebody has a slice of a name that was chosen: choose again, knowing every name of the namespace.
    let all = tracker.endpoint_slices().filter(|(slice, _)| slice.namespace == key.namespace);
    endpoint_slices::reconcile(service, pods(), all.map(|(_, t)| t.object.as_ref()), &zone_of)
}

fn written(state: &State, core: &Core, needed: SliceChanges) -> Changes {
    let mut changes = Changes::default();
    for slice in needed.put {
        let mut object = Object::EndpointSlice(Box::new(slice));
        stamp(&mut object);
        let revision = core.written_at(state, Kind::EndpointSlice, &object.key());
        changes.put(state, &object, None, revision);
    }
    for key in &needed.delete {
        delete(state, core, key, &mut changes);
    }
    changes
}

/// Slices that were made here for Services that are gone.
fn orphans(state: &State, core: &Core) -> Vec<Changes> {
    let mut work = Vec::new();
    for (key, slice) in core.tracker.endpoint_slices() {
        let labels = &slice.object.metadata.labels;
        let ours = labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY);
        let Some(service) = labels.get(SERVICE_NAME_LABEL).filter(|_| ours) else { continue };
        let service = ObjectKey::new(&key.namespace, service);
        // A Service that cannot be read is not gone.
        if core.tracker.service(&service).is_none() && core.written_at(state, Kind::Service, &service) == 0 {
            let mut changes = Changes::default();
            changes.expect(&state.registry().key(Kind::Service, &service), 0);
            delete(state, core, key, &mut changes);
            work.push(changes);
        }
    }
    work
}

fn delete(state: &State, core: &Core, slice: &ObjectKey, changes: &mut Changes) {
    let revision = core.written_at(state, Kind::EndpointSlice, slice);
    changes.delete(state, Kind::EndpointSlice, slice, None, revision);
}
