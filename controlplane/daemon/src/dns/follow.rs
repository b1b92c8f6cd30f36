//! From the objects to the names: takes what has changed, works it out aside, and puts it in place.
//!
//! The lock of the objects is held only to copy references; names are made without it. One change costs what it touches.

use super::index::Index;
use super::names::Names;
use crate::state::State;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use turnpike_desired::k8s::{EndpointSlice, Service};
use turnpike_desired::object::ObjectKey;
use turnpike_desired::words::SERVICE_NAME_LABEL;

/// Services whose names are made before questions get their turn again.
const BATCH: usize = 256;

/// Follows the objects for ever.
pub async fn follow(state: Arc<State>, index: Arc<RwLock<Index>>) {
    let mut revision = state.revision();
    state.core().touched.follow();
    let mut follower = Follower::default();
    loop {
        revision.borrow_and_update();
        let task = state.clone();
        // A large resolution may hold the lock for long; questions are answered meanwhile.
        let fresh = tokio::task::spawn_blocking(move || Fresh::take(&task)).await;
        if let Ok(Some(fresh)) = fresh {
            follower.take(fresh, &index).await;
            let index = index.read().unwrap_or_else(PoisonError::into_inner);
            state.dns.set_names(index.revision().unwrap_or_default(), index.named(), index.addresses());
        }
        if revision.changed().await.is_err() {
            return;
        }
    }
}

/// What has changed.
struct Fresh {
    /// It is everything there is.
    is_all: bool,
    /// Services; none: gone.
    services: Vec<(ObjectKey, Option<Arc<Service>>)>,
    /// EndpointSlices; none: gone.
    slices: Vec<(ObjectKey, Option<Arc<EndpointSlice>>)>,
    networks: Vec<IpNet>,
    revision: i64,
}

impl Fresh {
    fn take(state: &State) -> Option<Self> {
        let mut core = state.core();
        if !core.tracker.is_complete() {
            return None;
        }
        let touched = core.touched.take();
        let tracker = &core.tracker;
        let (services, slices) = if touched.all {
            (
                tracker.services().map(|(key, t)| (key.clone(), Some(t.object.clone()))).collect(),
                tracker.endpoint_slices().map(|(key, t)| (key.clone(), Some(t.object.clone()))).collect(),
            )
        } else {
            let service = |key: ObjectKey| {
                let object = tracker.service(&key).map(|t| t.object.clone());
                (key, object)
            };
            let slice = |key: ObjectKey| {
                let object = tracker.endpoint_slice(&key).map(|t| t.object.clone());
                (key, object)
            };
            (
                touched.services.into_iter().map(service).collect(),
                touched.slices.into_iter().map(slice).collect(),
            )
        };
        let mut networks: Vec<IpNet> = state.config.cluster.service_cidrs.clone();
        networks.extend(tracker.service_networks());
        Some(Self { is_all: touched.all, services, slices, networks, revision: core.revision })
    }
}

/// Puts names in place; the inner none: the Service has none, the outer none: it is gone.
fn place(index: &mut Index, made: Vec<(&ObjectKey, Option<Option<Names>>)>) {
    for (key, names) in made {
        match names {
            Some(names) => index.put(key, names),
            None => index.remove(key),
        }
    }
}

/// The objects by Service, with slices that make no forwarding (rule S2), which the tracker does not sort.
#[derive(Default)]
struct Follower {
    services: HashMap<ObjectKey, Arc<Service>>,
    /// The Service each slice belongs to.
    service_of: HashMap<ObjectKey, ObjectKey>,
    slices: HashMap<ObjectKey, BTreeMap<String, Arc<EndpointSlice>>>,
}

impl Follower {
    async fn take(&mut self, fresh: Fresh, index: &RwLock<Index>) {
        let Fresh { is_all, services, slices, networks, revision } = fresh;
        if is_all {
            *self = Self::default();
        }
        let mut touched = BTreeSet::new();
        for (key, slice) in slices {
            self.put_slice(&key, slice, &mut touched);
        }
        for (key, service) in services {
            match service {
                Some(service) => self.services.insert(key.clone(), service),
                None => self.services.remove(&key),
            };
            touched.insert(key);
        }
        // A full list makes an index of its own, and the one before answers until it is whole.
        let mut whole = is_all.then(Index::default);
        let touched: Vec<ObjectKey> = touched.into_iter().collect();
        for batch in touched.chunks(BATCH) {
            let made: Vec<_> = batch.iter().map(|key| (key, self.names(key))).collect();
            match &mut whole {
                Some(whole) => place(whole, made),
                None => place(&mut index.write().unwrap_or_else(PoisonError::into_inner), made),
            }
            if touched.len() > BATCH {
                tokio::task::yield_now().await;
            }
        }
        let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(whole) = whole {
            *index = whole;
        }
        index.complete(networks, revision);
    }

    /// The names of a Service as it is now; the outer none: there is no such Service.
    fn names(&self, key: &ObjectKey) -> Option<Option<Names>> {
        let service = self.services.get(key)?;
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        Some(Names::of(service, slices.map(Arc::as_ref)))
    }

    fn put_slice(
        &mut self,
        key: &ObjectKey,
        slice: Option<Arc<EndpointSlice>>,
        touched: &mut BTreeSet<ObjectKey>,
    ) {
        if let Some(before) = self.service_of.remove(key) {
            if let Some(slices) = self.slices.get_mut(&before) {
                slices.remove(&key.name);
                if slices.is_empty() {
                    self.slices.remove(&before);
                }
            }
            touched.insert(before);
        }
        let Some(slice) = slice else { return };
        let Some(name) = slice.metadata.labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty()) else {
            return;
        };
        let service = ObjectKey::new(&key.namespace, name);
        self.service_of.insert(key.clone(), service.clone());
        self.slices.entry(service.clone()).or_default().insert(key.name.clone(), slice);
        touched.insert(service);
    }
}
