//! Staging: updates are collected here and take effect together at a commit, or not at all.
//!
//! The control thread owns it. It keeps the model of what was committed, the first former state of everything the open transaction has
//! touched, and at the commit compiles [`Tables`] from what changed; Services that did not change keep their compiled tables.

mod model;

use crate::hash::Secret;
use crate::networks::Networks;
use crate::service_table::{ClusterNetworks, FrontendEntry, ServiceTable, Tables};
use crate::shared_map::SharedList;
use model::{Changes, Model, ServiceModel, Touched};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use turnpike_wire::limits::{BACKENDS_MAX, BACKENDS_PER_SERVICE_MAX, FRONTENDS_MAX, SERVICES_MAX};
use turnpike_wire::update::{Commit, Fleet, Frontend, FrontendKey, Protocol, ServiceKey, Update};

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

/// The staging area.
#[derive(Debug)]
pub struct Staging {
    model: Model,
    touched: Touched,
    names: Names,
    current: Arc<Tables>,
    /// Whether this control plane's first snapshot is committed.
    synced: bool,
}

/// What Service ports are called inside: the place in the tables, which others get after them, and the number that nobody else gets.
#[derive(Debug, Default)]
struct Names {
    of: HashMap<ServiceKey, (u32, u32)>,
    free_indices: Vec<u32>,
    indices: u32,
    ids: u32,
}

impl Names {
    /// Index and identity of a Service port, which gets both if it has none. An identity comes again after 2³² others, when every
    /// affinity that named it has long ended; none is 0.
    fn give(&mut self, key: &ServiceKey) -> (u32, u32) {
        if let Some(&names) = self.of.get(key) {
            return names;
        }
        let index = self.free_indices.pop().unwrap_or_else(|| {
            self.indices += 1;
            self.indices - 1
        });
        self.ids = self.ids.checked_add(1).unwrap_or(1);
        self.of.insert(key.clone(), (index, self.ids));
        (index, self.ids)
    }

    /// The index of a Service port that goes.
    fn take_back(&mut self, key: &ServiceKey) -> Option<u32> {
        let (index, _) = self.of.remove(key)?;
        self.free_indices.push(index);
        Some(index)
    }

    fn index(&self, key: &ServiceKey) -> Option<u32> {
        self.of.get(key).map(|&(index, _)| index)
    }
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
            names: Names::default(),
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
            // A question is no part of a transaction, and not about the tables.
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
        std::mem::take(&mut self.touched).undo(&mut self.model);
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
            Update::PutCluster(cluster) => {
                let former = std::mem::replace(&mut self.model.cluster, cluster);
                self.touched.cluster.get_or_insert(former);
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
                self.model.backends -= usize::from(model.backends.remove(&address).is_some());
            }
            Update::PutFrontend(frontend) => {
                let key = frontend.key;
                let former = self.model.set_frontend(key, Some(frontend));
                self.remember_frontend(key, former);
                within("frontends", self.model.frontends().len(), FRONTENDS_MAX)?;
            }
            Update::DropFrontend(key) => {
                let former = self.model.set_frontend(key, None);
                self.remember_frontend(key, former);
            }
            Update::CountFlows { .. } | Update::Commit(_) => {}
        }
        Ok(())
    }

    fn remember_service(&mut self, key: &ServiceKey) {
        if self.touched.before.is_none() && !self.touched.services.contains_key(key) {
            self.touched.services.insert(key.clone(), self.model.services.get(key).cloned());
        }
    }

    fn remember_frontend(&mut self, key: FrontendKey, former: Option<Frontend>) {
        if self.touched.before.is_none() {
            self.touched.frontends.entry(key).or_insert(former);
        }
    }

    fn commit(&mut self, commit: Commit) -> Result<Arc<Tables>, Refusal> {
        if let Err(refusal) = self.check(commit) {
            self.abandon();
            return Err(refusal);
        }
        let touched = std::mem::take(&mut self.touched);
        self.current = Arc::new(self.compile(commit, &touched));
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
            return self.model.frontends().values().try_for_each(named);
        }
        let put = self.touched.frontends.keys().filter_map(|k| self.model.frontends().get(k));
        put.into_iter().try_for_each(named)?;
        match self.touched.services.keys().find_map(|key| self.model.dangling(key)) {
            Some(left) => Err(Refusal::Dangling { service: left.service.clone(), frontend: left.key }),
            None => Ok(()),
        }
    }

    /// Tables of the model, made of the current ones and what a transaction changed.
    fn compile(&mut self, commit: Commit, touched: &Touched) -> Tables {
        let changes = Changes::of(touched, &self.model);
        let current = Arc::clone(&self.current);
        let serial = current.serial + 1;
        let fleet = self.model.fleet.unwrap_or(Fleet { maglev_key: [0, 0], node_ports: (1, 0) });
        let maglev_key = Secret::from_pair(fleet.maglev_key);
        let services = self.compile_services(&changes, touched, &maglev_key);
        let mut frontends = current.frontends.clone();
        for key in &changes.frontends {
            match self.model.frontends().get(key) {
                Some(f) => {
                    let service = self.names.index(&f.service).unwrap_or(u32::MAX);
                    let (kind, outside, inside) = (f.kind, f.outside, f.inside);
                    frontends.put(key, FrontendEntry { service, kind, outside, inside });
                }
                None => frontends.remove(key),
            }
        }
        let networks = if changes.cluster {
            let cluster = &self.model.cluster;
            Arc::new(ClusterNetworks {
                services: Networks::of(&cluster.service_networks),
                pods: Networks::of(&cluster.pod_networks),
                health_check_ports: cluster.health_check_ports.clone().into(),
            })
        } else {
            Arc::clone(&current.networks)
        };
        let udp_changed = self.changes_udp(&changes, &current, &services);
        Tables {
            serial,
            generation: commit.generation,
            revision: commit.revision,
            maglev_key,
            node_ports: fleet.node_ports,
            udp_changed: if udp_changed { serial } else { current.udp_changed },
            networks,
            frontends,
            services,
        }
    }

    /// The Services' tables: new ones for those that changed, that are chosen from in another way, or all when the Maglev key is another.
    fn compile_services(
        &mut self,
        changes: &Changes,
        touched: &Touched,
        maglev_key: &Secret,
    ) -> SharedList<ServiceTable> {
        let same_key = *maglev_key == self.current.maglev_key;
        let mut services = self.current.services.clone();
        let mut keys: BTreeSet<&ServiceKey> = changes.services.iter().collect();
        for key in &changes.frontends {
            let named = [touched.former_frontend(key), self.model.frontends().get(key)];
            for service in named.into_iter().flatten().map(|f| &f.service) {
                let table = self.names.index(service).and_then(|index| services.get(index));
                if table.is_none_or(|t| t.used_sets() != self.model.faces(service).used()) {
                    keys.insert(service);
                }
            }
        }
        if !same_key {
            keys.extend(self.model.services.keys());
        }
        for key in keys {
            match self.model.services.get(key) {
                Some(model) => {
                    let (index, id) = self.names.give(key);
                    let former = services.get(index).filter(|_| same_key);
                    let table = ServiceTable::build(
                        &model.service,
                        id,
                        model.backends.values(),
                        self.model.faces(key).used(),
                        maglev_key,
                        former.map(Arc::as_ref),
                    );
                    services.set(index, Some(Arc::new(table)));
                }
                None => {
                    if let Some(index) = self.names.take_back(key) {
                        services.set(index, None);
                    }
                }
            }
        }
        services
    }

    /// Whether live UDP flows may have to leave their backends: a frontend of UDP is another, or other backends serve behind one.
    fn changes_udp(&self, changes: &Changes, before: &Tables, now: &SharedList<ServiceTable>) -> bool {
        let other_backends = |key: &ServiceKey| {
            let index = self.names.index(key);
            match (index.and_then(|i| before.service(i)), index.and_then(|i| now.get(i))) {
                (Some(before), Some(now)) => !before.serving().eq(now.serving()),
                _ => true,
            }
        };
        changes.frontends.iter().any(|key| key.protocol == Protocol::Udp)
            || changes.services.iter().any(|key| self.model.faces(key).speaks_udp() && other_backends(key))
    }
}

const fn within(what: &'static str, count: usize, limit: usize) -> Result<(), Refusal> {
    if count > limit { Err(Refusal::TooMany { what, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_key::{FlowKey, FlowKey6};
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use turnpike_wire::update::{Backend, BackendState, FrontendKind, Service, Tracking, Treatment};

    fn key(name: &str) -> ServiceKey {
        ServiceKey(name.into())
    }

    fn service(name: &str) -> Update {
        Update::PutService(Service {
            key: key(name),
            affinity_timeout_s: 0,
            source_ranges: vec![],
            tracking: Tracking::default(),
            proxy_protocol: false,
        })
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
        assert!(
            after.frontend(to_vip()).is_none()
                && after.address(crate::address::Address::v4(0xcb00_7101)).is_none()
        );
        assert_eq!((after.generation, after.revision, after.serial), (2, 20, 2));
    }

    #[test]
    fn a_snapshot_of_what_is_known_keeps_compiled_services() {
        let mut staging = Staging::new();
        let before = web(&mut staging);
        staging.new_control_plane();
        let after = web(&mut staging);
        assert!(Arc::ptr_eq(before.service(0).unwrap(), after.service(0).unwrap()));
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

    #[test]
    fn a_change_among_many_costs_what_changed() {
        let mut staging = Staging::new();
        let name = |n: u32| format!("s{n}");
        let mut updates = vec![Update::Reset];
        for n in 0..2_000 {
            let face = format!("203.0.{}.{}:80", n / 250, n % 250);
            updates.extend([service(&name(n)), backend(&name(n), "10.0.0.1:80"), frontend(&name(n), &face)]);
        }
        let before = send(&mut staging, 1, &updates).unwrap();
        let after = send(&mut staging, 2, &[backend(&name(7), "10.0.0.2:80")]).unwrap();
        let new: Vec<_> = after.services.new_since(&before.services).map(|s| s.key.0.as_str()).collect();
        assert_eq!((new, after.frontend_count()), (vec!["s7"], 2_000));
        assert_eq!(after.udp_changed, before.udp_changed, "no UDP flow is concerned");
    }

    #[test]
    fn both_families_are_looked_up() {
        let mut staging = Staging::new();
        let updates = || {
            let of = |name, face, address| [service(name), backend(name, address), frontend(name, face)];
            let v4 = of("web/IPv4", "203.0.113.1:80", "10.0.0.1:80");
            let v6 = of("web/IPv6", "[2001:db8::1]:80", "[2001:db8::a]:80");
            [Update::Reset].into_iter().chain(v4).chain(v6).collect::<Vec<_>>()
        };
        let before = send(&mut staging, 1, &updates()).unwrap();
        assert_eq!((before.frontend_count(), before.services().count()), (2, 2));
        let to_vip =
            |tables: &Tables, vip| tables.frontend(FlowKey6::new(6, 7, vip, 40_000, 80)).map(|f| f.service);
        let found = to_vip(&before, 0x2001_0db8 << 96 | 1).and_then(|index| before.service(index)).unwrap();
        assert_eq!(
            (found.key.0.as_str(), found.backends[0].address.to_string().as_str()),
            ("web/IPv6", "2001:db8::a")
        );
        assert_eq!(to_vip(&before, 0x2001_0db8 << 96 | 2), None);
        staging.new_control_plane();
        let after = send(&mut staging, 1, &updates()).unwrap();
        assert!(Arc::ptr_eq(before.service(0).unwrap(), after.service(0).unwrap()), "nothing was lost of it");
        let gone = [
            Update::DropBackend(key("web/IPv6"), "[2001:db8::a]:80".parse().unwrap()),
            Update::DropFrontend(frontend_key("[2001:db8::1]:80")),
        ];
        send(&mut staging, 2, &gone).unwrap();
        assert_eq!((staging.model.frontends().len(), staging.model.backends), (1, 1));
    }

    #[test]
    fn an_index_comes_again_and_an_identity_does_not() {
        let mut staging = Staging::new();
        let first = web(&mut staging).service(0).unwrap().id;
        let gone = [Update::DropService(key("web")), Update::DropFrontend(frontend_key("203.0.113.1:80"))];
        assert!(send(&mut staging, 2, &gone).unwrap().service(0).is_none());
        let next = send(&mut staging, 3, &[service("api"), frontend("api", "203.0.113.1:80")]).unwrap();
        assert_eq!(
            (next.service(0).unwrap().key.0.as_str(), next.frontend(to_vip()).unwrap().service),
            ("api", 0)
        );
        let back = send(&mut staging, 4, &[service("web")]).unwrap();
        let ids: BTreeSet<u32> = back.services().map(|s| s.id).chain([first, 0]).collect();
        assert_eq!(ids.len(), 4, "neither has the first one's, and none is 0");
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

    fn content(tables: &Tables) -> Vec<(String, Vec<IpAddr>)> {
        let mut services: Vec<_> = tables
            .services()
            .map(|s| (s.key.0.clone(), s.backends.iter().map(|b| b.address.ip()).collect()))
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
                let model: Vec<(String, Vec<IpAddr>)> = staging.model.services.iter().map(|(k, s)| {
                    (k.0.clone(), s.backends.keys().map(SocketAddr::ip).collect())
                }).collect();
                prop_assert_eq!(model, now);
                prop_assert_eq!(staging.model.frontends().len(), staging.tables().frontend_count());
                prop_assert_eq!(staging.model.backends, staging.model.services.values().map(|s| s.backends.len()).sum::<usize>());
                for f in staging.model.frontends().values() {
                    let IpAddr::V4(address) = f.key.address else { continue };
                    let entry = staging.tables().frontend(FlowKey::new(6, 1, address.into(), 1, f.key.port)).unwrap();
                    prop_assert_eq!(&staging.tables().service(entry.service).unwrap().key, &f.service);
                }
            }
        }
    }
    use std::net::IpAddr;
}
