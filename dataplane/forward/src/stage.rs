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
        match update {
            Update::Commit(commit) => return Some(self.commit(commit)),
            // A question is no part of a transaction; it is not for the tables.
            Update::CountFlows { .. } => return None,
            _ => {}
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
                let dropped =
                    dropped.ok_or(Refusal::UnknownService { record: "DropService", service: key })?;
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
            Update::PutCluster(_) | Update::CountFlows { .. } | Update::Commit(_) => {}
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
        let services =
            touched.services.iter().filter(|(k, former)| former.as_ref() != self.model.services.get(*k));
        let frontends =
            touched.frontends.iter().filter(|(k, former)| former.as_ref() != self.model.frontends.get(*k));
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
                        map.put(key, FrontendEntry { service, action: f.outside.action, kind: f.kind });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_key::FlowKey;
    use proptest::prelude::*;
    use turnpike_wire::update::{BackendState, FrontendKind, Protocol, Treatment};

    fn key(name: &str) -> ServiceKey {
        ServiceKey(name.into())
    }

    fn service(name: &str) -> Update {
        Update::PutService(Service { key: key(name), affinity_timeout_s: 0, source_ranges: vec![] })
    }

    fn backend(name: &str, address: &str) -> Update {
        let address = address.parse().unwrap();
        let state = BackendState::Ready;
        let backend =
            Backend { address, weight: 1, state, in_cluster_set: true, in_local_set: true, serving: true };
        Update::PutBackend(key(name), backend)
    }

    fn frontend_key(address: &str) -> FrontendKey {
        let address: SocketAddr = address.parse().unwrap();
        FrontendKey { address: address.ip(), port: address.port(), protocol: Protocol::Tcp }
    }

    fn frontend(name: &str, address: &str) -> Update {
        let key_of = frontend_key(address);
        Update::PutFrontend(Frontend {
            key: key_of,
            service: key(name),
            kind: FrontendKind::LoadBalancer,
            outside: Treatment::FORWARD,
            inside: Treatment::FORWARD,
        })
    }

    /// Sends a transaction, its commit included.
    fn send(staging: &mut Staging, generation: u64, updates: &[Update]) -> Result<Arc<Tables>, Refusal> {
        for update in updates {
            assert!(staging.take(update.clone()).is_none());
        }
        let commit = Commit { generation, revision: generation as i64 * 10, records: updates.len() as u64 };
        staging.take(Update::Commit(commit)).unwrap()
    }

    fn web(staging: &mut Staging) -> Arc<Tables> {
        let updates = [
            Update::Reset,
            service("web"),
            backend("web", "10.0.0.1:80"),
            backend("web", "10.0.0.2:80"),
            frontend("web", "203.0.113.1:80"),
        ];
        send(staging, 1, &updates).unwrap()
    }

    fn to_vip() -> FlowKey {
        FlowKey::new(6, 0xc633_6407, 0xcb00_7101, 40_000, 80)
    }

    #[test]
    fn nothing_takes_effect_before_its_commit() {
        let mut staging = Staging::new();
        let before = web(&mut staging);
        assert!(before.frontend(to_vip()).is_some());
        staging.take(Update::DropFrontend(frontend_key("203.0.113.1:80")));
        assert!(staging.tables().frontend(to_vip()).is_some());
        let commit = Commit { generation: 2, revision: 20, records: 1 };
        let after = staging.take(Update::Commit(commit)).unwrap().unwrap();
        assert!(after.frontend(to_vip()).is_none() && after.address(0xcb00_7101).is_none());
        assert_eq!((after.generation, after.revision, after.serial), (2, 20, 2));
    }

    #[test]
    fn a_snapshot_of_what_is_known_keeps_compiled_services() {
        let mut staging = Staging::new();
        let before = web(&mut staging);
        staging.new_control_plane();
        let after = web(&mut staging);
        assert!(Arc::ptr_eq(before.service(0).unwrap(), after.service(0).unwrap()));
        assert!(Arc::ptr_eq(&before.frontends, &after.frontends));
        assert_eq!((after.generation, after.serial), (1, 2));
    }

    #[test]
    fn refused_transactions_leave_everything_as_it_was() {
        let mut staging = Staging::new();
        web(&mut staging);
        let rows: [(&str, Vec<Update>); 5] = [
            ("backend of nobody", vec![service("api"), backend("nobody", "10.0.0.3:80")]),
            ("drop of nobody", vec![Update::DropService(key("nobody"))]),
            ("frontend of nobody", vec![frontend("nobody", "203.0.113.2:80")]),
            ("dangling frontend", vec![Update::DropService(key("web"))]),
            ("dangling frontend in a snapshot", vec![Update::Reset, frontend("web", "203.0.113.1:80")]),
        ];
        for (what, updates) in rows {
            assert!(send(&mut staging, 2, &updates).is_err(), "{what}");
            let tables = staging.tables();
            assert_eq!((tables.generation, tables.frontend_count()), (1, 1), "{what}");
            let after = send(&mut staging, 2, &[backend("web", "10.0.0.9:80")]).unwrap();
            assert_eq!(after.service(0).unwrap().backends.len(), 3, "{what}");
            let mut fresh = Staging::new();
            web(&mut fresh);
            staging = fresh;
        }
    }

    #[test]
    fn lost_records_and_generations_are_noticed() {
        let mut staging = Staging::new();
        assert_eq!(send(&mut staging, 1, &[service("web")]).unwrap_err(), Refusal::NoSnapshot);
        web(&mut staging);
        assert_eq!(
            send(&mut staging, 3, &[service("a")]).unwrap_err(),
            Refusal::Generation { last: 1, got: 3 }
        );
        staging.take(service("b"));
        let lost = staging.take(Update::Commit(Commit { generation: 2, revision: 0, records: 2 })).unwrap();
        assert_eq!(lost.unwrap_err(), Refusal::Count { announced: 2, received: 1 });
        staging.new_control_plane();
        assert_eq!(send(&mut staging, 2, &[service("c")]).unwrap_err(), Refusal::NoSnapshot);
        assert_eq!(staging.tables().services().count(), 1);
    }

    #[test]
    fn dropping_and_putting_again_keeps_the_index() {
        let mut staging = Staging::new();
        web(&mut staging);
        let updates = [Update::DropService(key("web")), service("web"), backend("web", "10.0.0.7:80")];
        let after = send(&mut staging, 2, &updates).unwrap();
        let entry = after.frontend(to_vip()).unwrap();
        assert_eq!(after.service(entry.service).unwrap().backends.len(), 1);
    }

    fn any_update() -> impl Strategy<Value = Update> {
        let name = || prop::sample::select(vec!["a", "b", "c"]);
        prop_oneof![
            name().prop_map(service),
            name().prop_map(|n| Update::DropService(key(n))),
            (name(), 1u8..4).prop_map(|(n, h)| backend(n, &format!("10.0.0.{h}:80"))),
            (name(), 1u8..4)
                .prop_map(|(n, h)| Update::DropBackend(key(n), format!("10.0.0.{h}:80").parse().unwrap())),
            (name(), 1u8..4).prop_map(|(n, h)| frontend(n, &format!("203.0.113.{h}:80"))),
            (1u8..4).prop_map(|h| Update::DropFrontend(frontend_key(&format!("203.0.113.{h}:80")))),
            Just(Update::Reset),
        ]
    }

    fn content(tables: &Tables) -> Vec<(String, Vec<u32>)> {
        let mut services: Vec<_> = tables
            .services()
            .map(|s| (s.key.0.clone(), s.backends.iter().map(|b| b.address).collect()))
            .collect();
        services.sort();
        services
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Whatever is sent, the compiled tables are those of the model, and a refused transaction changes neither.
        #[test]
        fn tables_always_match_the_model(transactions in prop::collection::vec(prop::collection::vec(any_update(), 0..8), 1..12)) {
            let mut staging = Staging::new();
            web(&mut staging);
            for updates in transactions {
                let before = content(staging.tables());
                let generation = staging.tables().generation + 1;
                let outcome = send(&mut staging, generation, &updates);
                let now = content(staging.tables());
                if outcome.is_err() {
                    prop_assert_eq!(&before, &now);
                }
                let model: Vec<(String, Vec<u32>)> = staging.model.services.iter().map(|(k, s)| {
                    (k.0.clone(), s.backends.keys().filter_map(|a| match a { SocketAddr::V4(a) => Some((*a.ip()).into()), SocketAddr::V6(_) => None }).collect())
                }).collect();
                prop_assert_eq!(model, now);
                prop_assert_eq!(staging.model.frontends.len(), staging.tables().frontend_count());
                prop_assert_eq!(staging.model.backends, staging.model.services.values().map(|s| s.backends.len()).sum::<usize>());
                for f in staging.model.frontends.values() {
                    let IpAddr::V4(address) = f.key.address else { continue };
                    let entry = staging.tables().frontend(FlowKey::new(6, 1, address.into(), 1, f.key.port)).unwrap();
                    prop_assert_eq!(&staging.tables().service(entry.service).unwrap().key, &f.service);
                }
            }
        }
    }
    use std::net::IpAddr;
}
