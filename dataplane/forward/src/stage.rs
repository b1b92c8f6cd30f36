//! Staging: updates are collected here and take effect together at a commit, or not at all.
//!
//! The control thread owns it. It keeps the model of what was committed, the first former state of everything the open transaction has
//! touched, and at the commit compiles [`Tables`] from what changed; Services that did not change keep their compiled tables.

use crate::hash::Secret;
use crate::service_table::{FrontendEntry, FrontendMap, ServiceTable, Tables};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use turnpike_wire::limits::{BACKENDS_MAX, BACKENDS_PER_SERVICE_MAX, FRONTENDS_MAX, SERVICES_MAX};
use turnpike_wire::update::{Backend, Commit, Fleet, Frontend, FrontendKey, Service, ServiceKey, Update};

/// Why a transaction is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A record names a Service that is not there.
    #[error("{record} names the Service {service}, which was not put")]
    UnknownService {
        /// Which record.
        record: &'static str,
        /// The Service.
        service: ServiceKey,
    },
    /// Frontends of a dropped Service are left.
    #[error("the Service {service} was dropped, its frontend {frontend} was not")]
    Dangling {
        /// The Service.
        service: ServiceKey,
        /// One of its frontends.
        frontend: FrontendKey,
    },
    /// More than the dataplane holds.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Records were lost.
    #[error("the commit counts {announced} records, {received} came")]
    Count {
        /// By the commit.
        announced: u64,
        /// By us.
        received: u64,
    },
    /// Generations must follow one another.
    #[error("generation {got} follows {last}")]
    Generation {
        /// The last one committed.
        last: u64,
        /// The one that came.
        got: u64,
    },
    /// Changes came before the first snapshot.
    #[error("no snapshot came before the first change")]
    NoSnapshot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ServiceModel {
    service: Service,
    backends: BTreeMap<SocketAddr, Backend>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    fleet: Option<Fleet>,
    services: BTreeMap<ServiceKey, ServiceModel>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    backends: usize,
}

/// What the open transaction has touched, as it was before.
#[derive(Debug, Default)]
struct Touched {
    fleet: Option<Option<Fleet>>,
    services: BTreeMap<ServiceKey, Option<ServiceModel>>,
    frontends: BTreeMap<FrontendKey, Option<Frontend>>,
    /// The whole model, when the transaction is a snapshot.
    before: Option<Model>,
    records: u64,
    refusal: Option<Refusal>,
}

/// The staging area.
#[derive(Debug)]
pub struct Staging {
    model: Model,
    touched: Touched,
    indices: HashMap<ServiceKey, u32>,
    free_indices: Vec<u32>,
    current: Arc<Tables>,
    /// Whether this control plane's first snapshot is committed.
    synced: bool,
}

impl Default for Staging {
    fn default() -> Self {
        Self::new()
    }
}

impl Staging {
    /// An empty staging area; its tables answer nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            model: Model::default(),
            touched: Touched::default(),
            indices: HashMap::new(),
            free_indices: Vec::new(),
            current: Arc::new(Tables::empty()),
            synced: false,
        }
    }

    /// The tables of the last commit.
    #[must_use]
    pub const fn tables(&self) -> &Arc<Tables> {
        &self.current
    }

    /// Takes one record. A commit gives the new tables, or refuses the whole transaction and leaves everything as it was.
    /// Everything else gives nothing; what is wrong with it is said at the commit.
    pub fn take(&mut self, update: Update) -> Option<Result<Arc<Tables>, Refusal>> {
        if let Update::Commit(commit) = update {
            return Some(self.commit(commit));
        }
        self.touched.records += 1;
        if self.touched.refusal.is_none()
            && let Err(refusal) = self.change(update)
        {
            self.touched.refusal = Some(refusal);
        }
        None
    }

    /// Forgets the open transaction: the control plane went away in the middle of it, or starts anew.
    pub fn abandon(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        if let Some(before) = touched.before {
            self.model = before;
            return;
        }
        if let Some(fleet) = touched.fleet {
            self.model.fleet = fleet;
        }
        for (key, former) in touched.services {
            let now = match former {
                Some(model) => {
                    self.model.backends += model.backends.len();
                    self.model.services.insert(key, model)
                }
                None => self.model.services.remove(&key),
            };
            self.model.backends -= now.map_or(0, |m| m.backends.len());
        }
        for (key, former) in touched.frontends {
            match former {
                Some(frontend) => self.model.frontends.insert(key, frontend),
                None => self.model.frontends.remove(&key),
            };
        }
    }

    /// A new control plane speaks: the open transaction is forgotten and a snapshot must come first.
    pub fn new_control_plane(&mut self) {
        self.abandon();
        self.synced = false;
    }

    fn change(&mut self, update: Update) -> Result<(), Refusal> {
        if !self.synced && self.touched.before.is_none() && update != Update::Reset {
            return Err(Refusal::NoSnapshot);
        }
        match update {
            Update::Reset => {
                let records = self.touched.records;
                self.abandon();
                self.touched.records = records;
                self.touched.before = Some(std::mem::take(&mut self.model));
            }
            Update::PutFleet(fleet) => {
                self.touched.fleet.get_or_insert(self.model.fleet);
                self.model.fleet = Some(fleet);
            }
            Update::PutService(service) => {
                self.remember_service(&service.key);
                match self.model.services.get_mut(&service.key) {
                    Some(model) => model.service = service,
                    None => {
                        within("Service ports", self.model.services.len() + 1, SERVICES_MAX)?;
                        let key = service.key.clone();
                        self.model.services.insert(key, ServiceModel { service, backends: BTreeMap::new() });
                    }
                }
            }
            Update::DropService(key) => {
                self.remember_service(&key);
                let dropped = self.model.services.remove(&key);
                let dropped = dropped.ok_or(Refusal::UnknownService { record: "DropService", service: key })?;
                self.model.backends -= dropped.backends.len();
            }
            Update::PutBackend(key, backend) => {
                self.remember_service(&key);
                let model = self.model.services.get_mut(&key);
                let model = model.ok_or(Refusal::UnknownService { record: "PutBackend", service: key })?;
                if model.backends.insert(backend.address, backend).is_none() {
                    self.model.backends += 1;
                    within("backends of one Service port", model.backends.len(), BACKENDS_PER_SERVICE_MAX)?;
                    within("backends", self.model.backends, BACKENDS_MAX)?;
                }
            }
            Update::DropBackend(key, address) => {
                self.remember_service(&key);
                let model = self.model.services.get_mut(&key);
                let model = model.ok_or(Refusal::UnknownService { record: "DropBackend", service: key })?;
                if model.backends.remove(&address).is_some() {
                    self.model.backends -= 1;
                }
            }
            Update::PutFrontend(frontend) => {
                self.remember_frontend(&frontend.key);
                self.model.frontends.insert(frontend.key, frontend);
                within("frontends", self.model.frontends.len(), FRONTENDS_MAX)?;
            }
            Update::DropFrontend(key) => {
                self.remember_frontend(&key);
                self.model.frontends.remove(&key);
            }
            Update::Commit(_) => {}
        }
        Ok(())
    }

    fn remember_service(&mut self, key: &ServiceKey) {
        if self.touched.before.is_none() && !self.touched.services.contains_key(key) {
            self.touched.services.insert(key.clone(), self.model.services.get(key).cloned());
        }
    }

    fn remember_frontend(&mut self, key: &FrontendKey) {
        if self.touched.before.is_none() && !self.touched.frontends.contains_key(key) {
            self.touched.frontends.insert(*key, self.model.frontends.get(key).cloned());
        }
    }

    fn commit(&mut self, commit: Commit) -> Result<Arc<Tables>, Refusal> {
        if let Err(refusal) = self.check(commit) {
            self.abandon();
            return Err(refusal);
        }
        let touched = std::mem::take(&mut self.touched);
        let (services, frontends) = self.changes(&touched);
        let fleet_changed = match (&touched.before, touched.fleet) {
            (Some(before), _) => before.fleet != self.model.fleet,
            (None, Some(former)) => former != self.model.fleet,
            (None, None) => false,
        };
        self.current = Arc::new(self.compile(commit, &services, &frontends, fleet_changed));
        self.synced = true;
        Ok(self.current.clone())
    }

    fn check(&self, commit: Commit) -> Result<(), Refusal> {
        if let Some(refusal) = &self.touched.refusal {
            return Err(refusal.clone());
        }
        if commit.records != self.touched.records {
            return Err(Refusal::Count { announced: commit.records, received: self.touched.records });
        }
        let snapshot = self.touched.before.is_some();
        if !snapshot && !self.synced {
            return Err(Refusal::NoSnapshot);
        }
        if !snapshot && commit.generation != self.current.generation + 1 {
            return Err(Refusal::Generation { last: self.current.generation, got: commit.generation });
        }
        let named = |frontend: &Frontend| {
            if self.model.services.contains_key(&frontend.service) {
                return Ok(());
            }
            Err(Refusal::UnknownService { record: "PutFrontend", service: frontend.service.clone() })
        };
        if snapshot {
            return self.model.frontends.values().try_for_each(named);
        }
        self.touched.frontends.keys().filter_map(|k| self.model.frontends.get(k)).try_for_each(named)?;
        let dropped = |k: &ServiceKey| !self.model.services.contains_key(k);
        if self.touched.services.keys().any(dropped)
            && let Some(left) = self.model.frontends.values().find(|f| dropped(&f.service))
        {
            return Err(Refusal::Dangling { service: left.service.clone(), frontend: left.key });
        }
        Ok(())
    }

    /// The keys of Services and frontends that the transaction really changed.
    fn changes(&self, touched: &Touched) -> (Vec<ServiceKey>, Vec<FrontendKey>) {
        if let Some(before) = &touched.before {
            return (
                changed(&before.services, &self.model.services),
                changed(&before.frontends, &self.model.frontends),
            );
        }
        let services = touched.services.iter().filter(|(k, former)| former.as_ref() != self.model.services.get(*k));
        let frontends = touched.frontends.iter().filter(|(k, former)| former.as_ref() != self.model.frontends.get(*k));
        (services.map(|(k, _)| k.clone()).collect(), frontends.map(|(k, _)| *k).collect())
    }

    fn compile(
        &mut self,
        commit: Commit,
        services: &[ServiceKey],
        frontends: &[FrontendKey],
        fleet_changed: bool,
    ) -> Tables {
        let fleet = self.model.fleet.unwrap_or(Fleet { maglev_key: [0, 0], node_ports: (1, 0) });
        let maglev_key = Secret::from_pair(fleet.maglev_key);
        let mut compiled = self.current.services.clone();
        let mut build = |this: &mut Self, key: &ServiceKey| match this.model.services.get(key) {
            Some(model) => {
                let index = *this.indices.entry(key.clone()).or_insert_with(|| {
                    this.free_indices.pop().unwrap_or_else(|| {
                        compiled.push(None);
                        compiled.len() as u32 - 1
                    })
                });
                let table = ServiceTable::build(key.clone(), model.backends.values(), &maglev_key);
                compiled[index as usize] = Some(Arc::new(table));
            }
            None => {
                if let Some(index) = this.indices.remove(key) {
                    compiled[index as usize] = None;
                    this.free_indices.push(index);
                }
            }
        };
        services.iter().for_each(|key| build(self, key));
        if fleet_changed {
            let keys: Vec<ServiceKey> = self.model.services.keys().cloned().collect();
            keys.iter().for_each(|key| build(self, key));
        }
        let mut map: Arc<FrontendMap> = self.current.frontends.clone();
        if !frontends.is_empty() {
            let map = Arc::make_mut(&mut map);
            for key in frontends {
                match self.model.frontends.get(key) {
                    Some(f) => {
                        let service = self.indices.get(&f.service).copied().unwrap_or(u32::MAX);
                        map.put(key, FrontendEntry { service, action: f.action, kind: f.kind });
                    }
                    None => map.remove(key),
                }
            }
        }
        Tables {
            serial: self.current.serial + 1,
            generation: commit.generation,
            revision: commit.revision,
            maglev_key,
            node_ports: fleet.node_ports,
            frontends: map,
            services: compiled,
        }
    }
}

/// The keys whose values differ between two maps.
fn changed<K: Ord + Clone, V: PartialEq>(before: &BTreeMap<K, V>, now: &BTreeMap<K, V>) -> Vec<K> {
    let gone = before.keys().filter(|k| !now.contains_key(k));
    let new = now.iter().filter(|(k, v)| before.get(k) != Some(v)).map(|(k, _)| k);
    gone.chain(new).cloned().collect()
}

const fn within(what: &'static str, count: usize, limit: usize) -> Result<(), Refusal> {
    if count > limit { Err(Refusal::TooMany { what, limit }) } else { Ok(()) }
}
