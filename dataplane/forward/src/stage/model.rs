//! What the control plane has said: the model behind the tables, and the former state of what the open transaction has touched.

use super::Refusal;
use crate::service_table::{UsedSets, set_index, set_of};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use turnpike_wire::update::{Backend, Cluster, Fleet, Frontend, FrontendKey, Protocol, Service, ServiceKey};

/// A Service port with its backends, of both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceModel {
    pub(super) service: Service,
    pub(super) backends: BTreeMap<SocketAddr, Backend>,
}

/// Everything that was said, of both families, without loss.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) fleet: Option<Fleet>,
    pub(super) cluster: Cluster,
    pub(super) services: BTreeMap<ServiceKey, ServiceModel>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    faces: HashMap<ServiceKey, Faces>,
    pub(super) backends: usize,
}

/// What the frontends of one Service port are, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faces {
    frontends: u32,
    /// Those of UDP.
    udp: u32,
    /// By set, the treatments that choose from it.
    users: [u32; 2],
}

impl Faces {
    /// Which sets of backends are chosen from.
    pub(super) fn used(self) -> UsedSets {
        self.users.map(|users| users > 0)
    }

    /// Whether clients speak UDP to it.
    pub(super) const fn speaks_udp(self) -> bool {
        self.udp > 0
    }

    const fn change(&mut self, frontend: &Frontend, by: i32) {
        self.frontends = self.frontends.saturating_add_signed(by);
        if matches!(frontend.key.protocol, Protocol::Udp) {
            self.udp = self.udp.saturating_add_signed(by);
        }
    }
}

impl Model {
    pub(super) const fn frontends(&self) -> &BTreeMap<FrontendKey, Frontend> {
        &self.frontends
    }

    /// Puts a frontend, or with none removes it, and gives the former one.
    pub(super) fn set_frontend(&mut self, key: FrontendKey, frontend: Option<Frontend>) -> Option<Frontend> {
        if let Some(frontend) = &frontend {
            self.count(frontend, 1);
        }
        let former = match frontend {
            Some(frontend) => self.frontends.insert(key, frontend),
            None => self.frontends.remove(&key),
        };
        if let Some(former) = &former {
            self.count(former, -1);
        }
        former
    }

    /// What the frontends of a Service port are.
    pub(super) fn faces(&self, service: &ServiceKey) -> Faces {
        self.faces.get(service).copied().unwrap_or_default()
    }

    /// A frontend that is left of a Service port that is not there.
    pub(super) fn dangling(&self, service: &ServiceKey) -> Option<&Frontend> {
        if self.services.contains_key(service) || self.faces(service).frontends == 0 {
            return None;
        }
        self.frontends.values().find(|f| f.service == *service)
    }

    fn count(&mut self, frontend: &Frontend, by: i32) {
        if !self.faces.contains_key(&frontend.service) {
            self.faces.insert(frontend.service.clone(), Faces::default());
        }
        let Some(faces) = self.faces.get_mut(&frontend.service) else { return };
        faces.change(frontend, by);
        for set in [frontend.outside, frontend.inside].into_iter().filter_map(set_of) {
            let users = &mut faces.users[set_index(set)];
            *users = users.saturating_add_signed(by);
        }
        if *faces == Faces::default() {
            self.faces.remove(&frontend.service);
        }
    }
}

/// What the open transaction has touched, as it was before.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) fleet: Option<Option<Fleet>>,
    pub(super) cluster: Option<Cluster>,
    pub(super) services: BTreeMap<ServiceKey, Option<ServiceModel>>,
    pub(super) frontends: BTreeMap<FrontendKey, Option<Frontend>>,
    /// The whole model, when the transaction is a snapshot.
    pub(super) before: Option<Model>,
    pub(super) records: u64,
    pub(super) refusal: Option<Refusal>,
}

impl Touched {
    /// The frontend under a key before the transaction.
    pub(super) fn former_frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        match &self.before {
            Some(before) => before.frontends.get(key),
            None => self.frontends.get(key)?.as_ref(),
        }
    }

    /// Makes a model what it was before the transaction.
    pub(super) fn undo(self, model: &mut Model) {
        if let Some(before) = self.before {
            *model = before;
            return;
        }
        if let Some(fleet) = self.fleet {
            model.fleet = fleet;
        }
        if let Some(cluster) = self.cluster {
            model.cluster = cluster;
        }
        for (key, former) in self.services {
            let now = match former {
                Some(former) => {
                    model.backends += former.backends.len();
                    model.services.insert(key, former)
                }
                None => model.services.remove(&key),
            };
            model.backends -= now.map_or(0, |m| m.backends.len());
        }
        for (key, former) in self.frontends {
            model.set_frontend(key, former);
        }
    }
}

/// What a transaction really changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) services: Vec<ServiceKey>,
    pub(super) frontends: Vec<FrontendKey>,
    pub(super) cluster: bool,
}

impl Changes {
    /// Of a transaction that made a model what it is.
    pub(super) fn of(touched: &Touched, model: &Model) -> Self {
        if let Some(before) = &touched.before {
            return Self {
                services: differing(&before.services, &model.services),
                frontends: differing(&before.frontends, &model.frontends),
                cluster: before.cluster != model.cluster,
            };
        }
        let services =
            touched.services.iter().filter(|(k, former)| former.as_ref() != model.services.get(*k));
        let frontends =
            touched.frontends.iter().filter(|(k, former)| former.as_ref() != model.frontends.get(*k));
        Self {
            services: services.map(|(k, _)| k.clone()).collect(),
            frontends: frontends.map(|(k, _)| *k).collect(),
            cluster: touched.cluster.as_ref().is_some_and(|former| *former != model.cluster),
        }
    }
}

/// The keys whose values differ between two maps.
fn differing<K: Ord + Clone, V: PartialEq>(before: &BTreeMap<K, V>, now: &BTreeMap<K, V>) -> Vec<K> {
    let gone = before.keys().filter(|k| !now.contains_key(k));
    let new = now.iter().filter(|(k, v)| before.get(k) != Some(v)).map(|(k, _)| k);
    gone.chain(new).cloned().collect()
}
