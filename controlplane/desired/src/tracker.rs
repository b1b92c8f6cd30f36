//! All objects, and which Services a change touches.
//!
//! The tracker is fed with etcd's events in order. It decodes, keeps the last good version of every object, and remembers which Services
//! have to be resolved anew, so that one change costs what it touches and not what the cluster holds.
//!
//! A new version that cannot be decoded does not replace the good one before: the owner did not mean to take the Service down, and a wrong
//! write must harm nothing else. It is listed by [`Tracker::skipped`] until a good version or a deletion follows.
//! Next in a Service's walk: [`crate::resolve`].

use crate::envelope;
use crate::k8s::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use crate::object::{Kind, Object, ObjectKey};
use crate::registry::{Part, Registry};
use crate::words::{HEADLESS_LABEL, SERVICE_NAME_LABEL, WEIGHT_ANNOTATION};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use turnpike_wire::admin::Skipped;

/// One change of a key, or one line of a list.
#[derive(Clone, Copy, Debug)]
pub struct RegistryEvent<'a> {
    /// etcd key.
    pub key: &'a [u8],
    /// New value; none: deleted.
    pub value: Option<&'a [u8]>,
    /// etcd revision of the change.
    pub mod_revision: i64,
}

/// An object and the etcd revision it was written at.
#[derive(Clone, Debug)]
pub struct Tracked<T> {
    /// The object.
    pub object: Arc<T>,
    /// etcd `mod_revision`.
    pub revision: i64,
}

/// What a full list changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Objects that are new.
    pub added: usize,
    /// Objects with another revision or content.
    pub changed: usize,
    /// Objects that are gone.
    pub removed: usize,
    /// Objects that could not be decoded.
    pub skipped: usize,
}

/// How much of what traffic depends on is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewSize {
    /// Services.
    pub services: u64,
    /// Endpoints of all slices.
    pub endpoints: u64,
}

/// A network of service addresses by its key, as clusters without ServiceCIDR objects keep it.
#[derive(Clone, Debug)]
struct ServiceRange {
    network: Option<IpNet>,
    revision: i64,
    skipped: Option<Skipped>,
}

type Store<T> = BTreeMap<ObjectKey, Tracked<T>>;

/// See the module. A clone shares the objects.
#[derive(Clone, Debug)]
pub struct Tracker {
    registry: Registry,
    awaited: BTreeSet<Kind>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    pods: Store<Pod>,
    /// The weight annotations of the few pods that have one.
    weights: BTreeMap<ObjectKey, String>,
    /// Pods whose weight changed since Services were resolved, by namespace.
    reweighed: BTreeMap<String, BTreeSet<String>>,
    nodes: Store<Node>,
    cidrs: Store<ServiceCidr>,
    ranges: BTreeMap<String, ServiceRange>,
    /// Names of the slices of each Service; both are in one namespace.
    slices_of: BTreeMap<ObjectKey, BTreeSet<String>>,
    skipped: BTreeMap<(Kind, ObjectKey), Skipped>,
    dirty: BTreeSet<ObjectKey>,
    all_dirty: bool,
    /// Nodes or ServiceCIDRs changed.
    surroundings_dirty: bool,
}

/// How a put relates to what was known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Added,
    Changed,
    Same,
    Skipped,
}

impl Tracker {
    /// An empty tracker of the objects under `registry`. Nothing is resolved before all kinds of `watched`, and Services and
    /// EndpointSlices in any case, were listed once (rule S13).
    #[must_use]
    pub fn new(registry: Registry, watched: &[Kind]) -> Self {
        let awaited = watched.iter().copied().chain([Kind::Service, Kind::EndpointSlice]).collect();
        Self {
            registry,
            awaited,
            services: Store::new(),
            slices: Store::new(),
            pods: Store::new(),
            weights: BTreeMap::new(),
            reweighed: BTreeMap::new(),
            nodes: Store::new(),
            cidrs: Store::new(),
            ranges: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            skipped: BTreeMap::new(),
            dirty: BTreeSet::new(),
            all_dirty: false,
            surroundings_dirty: true,
        }
    }

    /// Takes one event of a watch. Says whether it was news: keys of no object and events older than what is known are not.
    pub fn apply(&mut self, event: &RegistryEvent<'_>) -> bool {
        if self.registry.is_service_range(event.key) {
            return self.apply_range(event);
        }
        let Some((kind, key)) = self.registry.parse(event.key) else { return false };
        if self.revision_of(kind, &key).is_some_and(|known| known >= event.mod_revision) {
            return false;
        }
        match event.value {
            Some(value) => self.put(kind, &key, value, event.mod_revision) != Outcome::Same,
            None => self.remove(kind, &key),
        }
    }

    /// Takes a full list of the objects of `kind`: what is not in it is gone. Events of other kinds or without value are left out.
    pub fn replace_all<'a>(
        &mut self,
        kind: Kind,
        list: impl IntoIterator<Item = RegistryEvent<'a>>,
    ) -> Replaced {
        let mut replaced = Replaced::default();
        let mut listed = BTreeSet::new();
        for event in list {
            let Some((found, key)) = self.registry.parse(event.key) else { continue };
            let Some(value) = event.value.filter(|_| found == kind) else { continue };
            match self.put(kind, &key, value, event.mod_revision) {
                Outcome::Added => replaced.added += 1,
                Outcome::Changed => replaced.changed += 1,
                Outcome::Skipped => replaced.skipped += 1,
                Outcome::Same => {}
            }
            listed.insert(key);
        }
        for key in self.known_keys(kind) {
            if !listed.contains(&key) && self.remove(kind, &key) {
                replaced.removed += 1;
            }
        }
        self.awaited.remove(&kind);
        replaced
    }

    /// Takes a full list of a part: what is not in it is gone.
    pub fn replace_part<'a>(&mut self, part: Part, list: impl IntoIterator<Item = RegistryEvent<'a>>) {
        match part {
            Part::Objects(kind) => drop(self.replace_all(kind, list)),
            Part::ServiceRanges => {
                let mut known = std::mem::take(&mut self.ranges);
                for event in list {
                    if !self.registry.is_service_range(event.key) {
                        continue;
                    }
                    let key = String::from_utf8_lossy(event.key).into_owned();
                    // The list counts, also when revisions have gone back; the last good network is kept for a value that is none.
                    if let Some(range) = known.remove(&key) {
                        self.ranges.insert(key, ServiceRange { revision: 0, ..range });
                    }
                    self.apply_range(&event);
                }
                self.ranges_changed(!known.is_empty());
            }
        }
    }

    /// Goes on without a part that cannot be read: it counts as empty.
    pub fn forgo(&mut self, part: Part) {
        self.replace_part(part, []);
    }

    /// How much of what traffic depends on is there.
    #[must_use]
    pub fn size(&self) -> ViewSize {
        let endpoints = self.slices.values().map(|slice| slice.object.endpoints.len() as u64).sum();
        ViewSize { services: self.services.len() as u64, endpoints }
    }

    /// Services of `before` that are gone, also as values that cannot be used.
    #[must_use]
    pub fn services_gone_since(&self, before: &Self) -> u64 {
        let is_gone = |key: &&ObjectKey| {
            !self.services.contains_key(*key) && !self.skipped.contains_key(&(Kind::Service, (*key).clone()))
        };
        before.services.keys().filter(is_gone).count() as u64
    }

    /// Whether every awaited kind was listed once (rule S13).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Values that could not be used, by kind and name.
    #[must_use]
    pub fn skipped(&self) -> Vec<Skipped> {
        let ranges = self.ranges.values().filter_map(|range| range.skipped.as_ref());
        self.skipped.values().chain(ranges).cloned().collect()
    }

    /// All Services.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, &Tracked<Service>)> {
        self.services.iter()
    }

    /// All EndpointSlices.
    pub fn endpoint_slices(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, &Tracked<EndpointSlice>)> {
        self.slices.iter()
    }

    /// All Pods.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, &Tracked<Pod>)> {
        self.pods.iter()
    }

    /// All Nodes.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, &Tracked<Node>)> {
        self.nodes.iter()
    }

    /// All ServiceCIDRs.
    pub fn service_cidrs(&self) -> impl ExactSizeIterator<Item = (&ObjectKey, &Tracked<ServiceCidr>)> {
        self.cidrs.iter()
    }

    /// One Service.
    #[must_use]
    pub fn service(&self, key: &ObjectKey) -> Option<&Tracked<Service>> {
        self.services.get(key)
    }

    /// One EndpointSlice.
    #[must_use]
    pub fn endpoint_slice(&self, key: &ObjectKey) -> Option<&Tracked<EndpointSlice>> {
        self.slices.get(key)
    }

    /// One Pod.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Tracked<Pod>> {
        self.pods.get(key)
    }

    /// One Node.
    #[must_use]
    pub fn node(&self, key: &ObjectKey) -> Option<&Tracked<Node>> {
        self.nodes.get(key)
    }

    /// The weight annotation of a pod.
    pub(crate) fn weight_of_pod(&self, namespace: &str, name: &str) -> Option<&str> {
        // Asked for every endpoint, and nearly always there is no weight at all.
        if self.weights.is_empty() {
            return None;
        }
        self.weights.get(&ObjectKey::new(namespace, name)).map(String::as_str)
    }

    /// The slices of one Service by their label, in order of name; headless ones are left out (rules S2, S7).
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Tracked<EndpointSlice>> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(&ObjectKey::new(&service.namespace, name)))
    }

    /// Networks of the ServiceCIDR objects; texts that are no network are left out. A cluster that has no such object yet keeps its
    /// networks under `ranges/`.
    pub fn service_networks(&self) -> impl Iterator<Item = IpNet> {
        let ranges = if self.cidrs.is_empty() { self.ranges.values().collect() } else { Vec::new() };
        self.cidrs
            .values()
            .flat_map(|cidr| cidr.object.spec.cidrs.iter().filter_map(|text| text.parse().ok()))
            .chain(ranges.into_iter().filter_map(|range| range.network))
    }

    /// Services that must be resolved anew, and forgets them.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<ObjectKey> {
        self.touch_users_of_reweighed();
        let mut dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.all_dirty) {
            dirty.extend(self.services.keys().cloned());
        }
        dirty
    }

    /// Marks a Service as changed by something that is no object here.
    pub(crate) fn touch(&mut self, service: ObjectKey) {
        self.dirty.insert(service);
    }

    /// Marks every Service.
    pub(crate) const fn touch_all(&mut self) {
        self.all_dirty = true;
    }

    /// Whether Nodes or ServiceCIDRs changed since this was asked last.
    pub(crate) const fn take_surroundings_dirty(&mut self) -> bool {
        std::mem::replace(&mut self.surroundings_dirty, false)
    }

    fn put(&mut self, kind: Kind, key: &ObjectKey, value: &[u8], revision: i64) -> Outcome {
        let object = match envelope::decode(kind, key, value) {
            Ok(object) => object,
            Err(error) => {
                let reason = match self.good_revision(kind, key) {
                    Some(good) => format!("{error}; the version of revision {good} stays in force"),
                    None => format!("{error}; nothing of it is in force"),
                };
                let skipped = Skipped { key: self.registry.key(kind, key), revision, reason };
                self.skipped.insert((kind, key.clone()), skipped);
                return Outcome::Skipped;
            }
        };
        self.skipped.remove(&(kind, key.clone()));
        match object {
            Object::Service(new) => {
                let (outcome, _) = store(&mut self.services, key, *new, revision);
                if outcome != Outcome::Same {
                    self.dirty.insert(key.clone());
                }
                outcome
            }
            Object::EndpointSlice(new) => self.put_slice(key, *new, revision),
            Object::Pod(new) => {
                let weight = new.metadata.annotations.get(WEIGHT_ANNOTATION).cloned();
                let (outcome, _) = store(&mut self.pods, key, *new, revision);
                self.set_weight(key, weight);
                outcome
            }
            Object::Node(new) => {
                let (outcome, _) = store(&mut self.nodes, key, *new, revision);
                self.surroundings_dirty |= outcome != Outcome::Same;
                outcome
            }
            Object::ServiceCidr(new) => {
                let (outcome, _) = store(&mut self.cidrs, key, *new, revision);
                self.all_dirty |= outcome != Outcome::Same;
                self.surroundings_dirty |= outcome != Outcome::Same;
                outcome
            }
        }
    }

    fn apply_range(&mut self, event: &RegistryEvent<'_>) -> bool {
        let key = String::from_utf8_lossy(event.key).into_owned();
        let before = self.ranges.get(&key).cloned();
        if before.as_ref().is_some_and(|range| range.revision >= event.mod_revision) {
            return false;
        }
        let known = before.as_ref().and_then(|range| range.network);
        let revision = event.mod_revision;
        let Some(value) = event.value else {
            self.ranges_changed(known.is_some());
            return self.ranges.remove(&key).is_some();
        };
        let read = envelope::decode_range(value).map_err(|error| error.to_string()).and_then(|allocation| {
            let text = allocation.range;
            text.parse::<IpNet>().map_err(|_| format!("the range {text:?} is no network: correct it"))
        });
        let range = match read {
            Ok(network) => ServiceRange { network: Some(network), revision, skipped: None },
            Err(reason) => {
                let skipped = Some(Skipped { key: key.clone(), revision, reason });
                ServiceRange { network: known, revision, skipped }
            }
        };
        self.ranges_changed(range.network != known);
        self.ranges.insert(key, range);
        true
    }

    /// Other networks of service addresses may touch every Service.
    const fn ranges_changed(&mut self, changed: bool) {
        self.all_dirty |= changed;
        self.surroundings_dirty |= changed;
    }

    fn put_slice(&mut self, key: &ObjectKey, new: EndpointSlice, revision: i64) -> Outcome {
        let service = service_of(key, &new);
        let (outcome, old) = store(&mut self.slices, key, new, revision);
        if outcome == Outcome::Same {
            return outcome;
        }
        let before = old.and_then(|old| service_of(key, &old.object));
        if before != service {
            self.unlink(before, &key.name);
        }
        if let Some(service) = service {
            self.slices_of.entry(service.clone()).or_default().insert(key.name.clone());
            self.dirty.insert(service);
        }
        outcome
    }

    /// Takes a slice from a Service it no longer belongs to.
    fn unlink(&mut self, service: Option<ObjectKey>, slice: &str) {
        let Some(service) = service else { return };
        if let Some(names) = self.slices_of.get_mut(&service) {
            names.remove(slice);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.dirty.insert(service);
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        let was_skipped = self.skipped.remove(&(kind, key.clone())).is_some();
        let was_known = match kind {
            Kind::Service => {
                let known = self.services.remove(key).is_some();
                if known {
                    self.dirty.insert(key.clone());
                }
                known
            }
            Kind::EndpointSlice => {
                let old = self.slices.remove(key);
                self.unlink(old.as_ref().and_then(|old| service_of(key, &old.object)), &key.name);
                old.is_some()
            }
            Kind::Pod => {
                self.set_weight(key, None);
                self.pods.remove(key).is_some()
            }
            Kind::Node => {
                let known = self.nodes.remove(key).is_some();
                self.surroundings_dirty |= known;
                known
            }
            Kind::ServiceCidr => {
                let known = self.cidrs.remove(key).is_some();
                self.all_dirty |= known;
                self.surroundings_dirty |= known;
                known
            }
        };
        was_known || was_skipped
    }

    fn set_weight(&mut self, pod: &ObjectKey, weight: Option<String>) {
        if self.weights.get(pod) == weight.as_ref() {
            return;
        }
        match weight {
            Some(weight) => drop(self.weights.insert(pod.clone(), weight)),
            None => drop(self.weights.remove(pod)),
        }
        self.reweighed.entry(pod.namespace.clone()).or_default().insert(pod.name.clone());
    }

    /// Marks the Services that have pods of another weight among their endpoints. Looks at every slice of those namespaces, once for all
    /// pods, which is paid only when a weight changes.
    fn touch_users_of_reweighed(&mut self) {
        for (namespace, pods) in std::mem::take(&mut self.reweighed) {
            let first = ObjectKey::new(&namespace, "");
            let slices = self.slices.range(first..).take_while(|(key, _)| key.namespace == namespace);
            for (key, slice) in slices {
                let mut uses =
                    slice.object.endpoints.iter().filter_map(|endpoint| endpoint.target_ref.as_ref());
                if uses.any(|target| target.kind == "Pod" && pods.contains(&target.name)) {
                    self.dirty.extend(service_of(key, &slice.object));
                }
            }
        }
    }

    /// The revision of the version that is in force.
    fn good_revision(&self, kind: Kind, key: &ObjectKey) -> Option<i64> {
        match kind {
            Kind::Service => self.services.get(key).map(|t| t.revision),
            Kind::EndpointSlice => self.slices.get(key).map(|t| t.revision),
            Kind::Pod => self.pods.get(key).map(|t| t.revision),
            Kind::Node => self.nodes.get(key).map(|t| t.revision),
            Kind::ServiceCidr => self.cidrs.get(key).map(|t| t.revision),
        }
    }

    fn revision_of(&self, kind: Kind, key: &ObjectKey) -> Option<i64> {
        self.good_revision(kind, key)
            .max(self.skipped.get(&(kind, key.clone())).map(|skipped| skipped.revision))
    }

    fn known_keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        let skipped = self.skipped.keys().filter(|(k, _)| *k == kind).map(|(_, key)| key);
        match kind {
            Kind::Service => self.services.keys().chain(skipped).cloned().collect(),
            Kind::EndpointSlice => self.slices.keys().chain(skipped).cloned().collect(),
            Kind::Pod => self.pods.keys().chain(skipped).cloned().collect(),
            Kind::Node => self.nodes.keys().chain(skipped).cloned().collect(),
            Kind::ServiceCidr => self.cidrs.keys().chain(skipped).cloned().collect(),
        }
    }
}

/// Puts an object in its store; says what that changed and gives the version before.
fn store<T: PartialEq>(
    store: &mut Store<T>,
    key: &ObjectKey,
    object: T,
    revision: i64,
) -> (Outcome, Option<Tracked<T>>) {
    let outcome = match store.get(key) {
        None => Outcome::Added,
        Some(old) if old.revision == revision && *old.object == object => Outcome::Same,
        Some(_) => Outcome::Changed,
    };
    (outcome, store.insert(key.clone(), Tracked { object: Arc::new(object), revision }))
}

/// The Service a slice belongs to (rule S7), unless it is headless (rule S2).
fn service_of(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = &slice.metadata.labels;
    let name = labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
    (!labels.contains_key(HEADLESS_LABEL)).then(|| ObjectKey::new(&key.namespace, name))
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
