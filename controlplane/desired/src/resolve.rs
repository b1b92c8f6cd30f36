//! The rules: Services and slices → what the dataplane should know.
//!
//! Incremental: only the Services the tracker names are computed, and those whose backends a changed Service address touches.
//! Rules S1 to S10, S13, E2, E4, E5 and N1. What a Service asks for and this version does not do is never silently dropped: it is among
//! [`Resolver::problems`], and where the wish was to keep somebody out, the address is closed.
//! Next in a Service's walk: [`crate::diff`].

use crate::claims::Claims;
use crate::desired::{Desired, Problem, ProblemKind, ResolvedFrontend, ResolvedService};
use crate::endpoints::{Surroundings, Wanted, endpoints};
use crate::frontends::{Face, Faces, PortFaces, faces};
use crate::k8s::EndpointSlice;
use crate::object::ObjectKey;
use crate::settings::Settings;
use crate::tracker::Tracker;
use crate::words::WEIGHT_ANNOTATION;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use turnpike_wire::limits::{BACKENDS_MAX, FRONTENDS_MAX, SERVICES_MAX};
use turnpike_wire::update::{Action, Frontend, FrontendKey, Service as WireService, ServiceKey, Treatment};

/// What is kept of a Service between two rounds.
#[derive(Clone, Debug, Default)]
struct Resolution {
    created: Option<i64>,
    faces: Faces,
    services: Vec<ServiceKey>,
    frontends: Vec<Arc<ResolvedFrontend>>,
    problems: Vec<(ProblemKind, String)>,
    refused_service_addresses: BTreeSet<IpAddr>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Resolver {
    settings: Settings,
    resolutions: BTreeMap<ObjectKey, Resolution>,
    /// How many Services have each cluster or load-balancer address.
    service_addresses: BTreeMap<IpAddr, usize>,
    claims: Claims,
    desired: Arc<Desired>,
}

impl Resolver {
    /// A resolver that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            resolutions: BTreeMap::new(),
            service_addresses: BTreeMap::new(),
            claims: Claims::default(),
            desired: Arc::default(),
        }
    }

    /// Takes what changed since the last call. None before the tracker is complete (rule S13): an empty state would be wrong.
    pub fn resolve(&mut self, tracker: &mut Tracker) -> Option<Arc<Desired>> {
        if !tracker.is_complete() {
            return None;
        }
        let dirty = tracker.take_dirty();
        if !dirty.is_empty() {
            self.resolve_services(tracker, &dirty);
        }
        Some(Arc::clone(&self.desired))
    }

    /// The last state that was resolved; empty before the first.
    #[must_use]
    pub fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired)
    }

    /// What is not done, and why, in order of the objects.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let own = self.resolutions.iter().flat_map(|(key, resolution)| problems_of(key, resolution));
        let mut problems: Vec<Problem> =
            own.chain(self.claims.conflicts()).chain(self.over_limits()).collect();
        problems.sort();
        problems.dedup();
        problems
    }

    /// What is not done of one Service.
    #[must_use]
    pub fn problems_of(&self, service: &ObjectKey) -> Vec<Problem> {
        let name = format!("Service {service}");
        let own = self.resolutions.get(service).into_iter().flat_map(|r| problems_of(service, r));
        let mut problems: Vec<Problem> =
            own.chain(self.claims.conflicts().filter(|p| p.object == name)).collect();
        problems.sort();
        problems.dedup();
        problems
    }

    /// A dataplane refuses a state over its limits as a whole and keeps the one before.
    fn over_limits(&self) -> impl Iterator<Item = Problem> {
        let rows = [
            ("Service ports", self.desired.services.len(), SERVICES_MAX),
            ("frontends", self.desired.frontends.len(), FRONTENDS_MAX),
            ("backends", self.desired.backend_count(), BACKENDS_MAX),
        ];
        rows.into_iter().filter(|(_, found, limit)| found > limit).map(|(what, found, limit)| Problem {
            object: "Cluster".into(),
            kind: ProblemKind::Limit,
            message: format!(
                "{found} {what} are over the limit of {limit} for one dataplane; it keeps its last state"
            ),
        })
    }

    fn resolve_services(&mut self, tracker: &Tracker, dirty: &BTreeSet<ObjectKey>) {
        let networks: Vec<IpNet> =
            self.settings.service_cidrs.iter().copied().chain(tracker.service_networks()).collect();
        let mut todo = BTreeMap::new();
        let mut moved = BTreeSet::new();
        for key in dirty {
            let found =
                tracker.service(key).map(|t| faces(&t.object, &self.settings, &networks)).unwrap_or_default();
            let none = BTreeSet::new();
            let before = self.resolutions.get(key).map_or(&none, |resolution| &resolution.faces.addresses);
            moved.extend(count_addresses(&mut self.service_addresses, before, &found.addresses));
            todo.insert(key.clone(), found);
        }
        for key in self.touched_by(&moved) {
            todo.entry(key.clone()).or_insert_with(|| self.resolutions[&key].faces.clone());
        }
        let mut touched = BTreeSet::new();
        for (key, found) in todo {
            self.replace(tracker, key, found, &mut touched);
        }
        let desired = Arc::make_mut(&mut self.desired);
        for key in touched {
            match self.claims.winner(&key) {
                None => drop(desired.frontends.remove(&key)),
                Some(winner) => drop(desired.frontends.insert(key, Arc::clone(winner))),
            }
        }
    }

    /// Services that have or had to refuse an endpoint with one of these addresses.
    fn touched_by(&self, moved: &BTreeSet<IpAddr>) -> Vec<ObjectKey> {
        if moved.is_empty() {
            return Vec::new();
        }
        let uses = |service: &ServiceKey| {
            let resolved = self.desired.services.get(service);
            resolved.is_some_and(|r| r.backends.keys().any(|address| moved.contains(&address.ip())))
        };
        let touched = self.resolutions.iter().filter(|(_, resolution)| {
            !resolution.refused_service_addresses.is_disjoint(moved) || resolution.services.iter().any(uses)
        });
        touched.map(|(key, _)| key.clone()).collect()
    }

    /// Computes one Service and puts it in the place of what was known of it.
    fn replace(
        &mut self,
        tracker: &Tracker,
        key: ObjectKey,
        found: Faces,
        touched: &mut BTreeSet<FrontendKey>,
    ) {
        let (resolution, services) = self.compute(tracker, &key, found);
        let desired = Arc::make_mut(&mut self.desired);
        if let Some(old) = self.resolutions.remove(&key) {
            for frontend in &old.frontends {
                self.claims.remove(frontend, old.created);
                touched.insert(frontend.frontend.key);
            }
            for service in &old.services {
                if !services.iter().any(|new| new.service.key == *service) {
                    desired.services.remove(service);
                }
            }
        }
        for service in services {
            let kept = desired.services.get(&service.service.key).is_some_and(|known| **known == service);
            if !kept {
                desired.services.insert(service.service.key.clone(), Arc::new(service));
            }
        }
        for frontend in &resolution.frontends {
            self.claims.add(Arc::clone(frontend), resolution.created);
            touched.insert(frontend.frontend.key);
        }
        if tracker.service(&key).is_some() {
            self.resolutions.insert(key, resolution);
        }
    }

    fn compute(
        &self,
        tracker: &Tracker,
        key: &ObjectKey,
        found: Faces,
    ) -> (Resolution, Vec<ResolvedService>) {
        let Some(tracked) = tracker.service(key) else { return (Resolution::default(), Vec::new()) };
        let slices: Vec<(&EndpointSlice, i64)> = if found.ports.is_empty() {
            Vec::new()
        } else {
            tracker.slices_of(key).map(|slice| (slice.object.as_ref(), slice.revision)).collect()
        };
        let youngest = slices.iter().map(|(_, revision)| *revision).max().unwrap_or_default();
        let from_revision = tracked.revision.max(youngest);
        let weight_of_pod = |name: &str| {
            let pod = tracker.pod(&ObjectKey::new(&key.namespace, name))?;
            pod.object.metadata.annotations.get(WEIGHT_ANNOTATION).cloned()
        };
        let is_service_address = |address: IpAddr| self.service_addresses.contains_key(&address);
        let around = Surroundings {
            own_addresses: &self.settings.own_addresses,
            is_service_address: &is_service_address,
            node_name: &self.settings.node_name,
            weight_of_pod: &weight_of_pod,
        };
        let mut resolution = Resolution {
            created: tracked.object.metadata.creation_timestamp.unix_seconds(),
            ..Default::default()
        };
        let mut services = Vec::with_capacity(found.ports.len());
        for port in &found.ports {
            let wanted = Wanted { port_name: &port.name, protocol: port.protocol, family: port.family };
            let endpoints = endpoints(slices.iter().map(|(slice, _)| *slice), wanted, around);
            resolution.problems.extend(endpoints.problems);
            resolution.refused_service_addresses.extend(endpoints.refused_service_addresses);
            let empty = endpoints.backends.is_empty();
            resolution.services.push(port.key.clone());
            for face in &port.frontends {
                let ranges = &tracked.object.spec.load_balancer_source_ranges;
                let frontend = resolved_frontend(key, port, face, empty, ranges, from_revision);
                resolution.frontends.push(Arc::new(frontend));
            }
            services.push(ResolvedService {
                service: WireService {
                    key: port.key.clone(),
                    affinity_timeout_s: 0,
                    source_ranges: Vec::new(),
                },
                owner: key.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
                family: port.family,
                backends: endpoints.backends,
                from_revision,
            });
        }
        resolution.faces = found;
        (resolution, services)
    }
}

fn resolved_frontend(
    owner: &ObjectKey,
    port: &PortFaces,
    face: &Face,
    no_backends: bool,
    ranges: &[String],
    from_revision: i64,
) -> ResolvedFrontend {
    use turnpike_wire::update::FrontendKind::LoadBalancer;
    let action = if face.closed {
        Action::Drop
    } else if no_backends {
        Action::Reject
    } else {
        Action::Forward
    };
    let treatment = Treatment { action, ..Treatment::FORWARD };
    ResolvedFrontend {
        frontend: Frontend {
            key: face.key,
            service: port.key.clone(),
            kind: face.kind,
            outside: treatment,
            inside: treatment,
        },
        owner: owner.clone(),
        port_name: port.name.clone(),
        source_ranges: if face.kind == LoadBalancer { ranges.to_vec() } else { Vec::new() },
        from_revision,
    }
}

fn problems_of(key: &ObjectKey, resolution: &Resolution) -> impl Iterator<Item = Problem> {
    let object = format!("Service {key}");
    resolution.faces.problems.iter().chain(&resolution.problems).map(move |(kind, message)| Problem {
        object: object.clone(),
        kind: *kind,
        message: message.clone(),
    })
}

/// Counts which addresses came and went; gives those that now belong to a Service and did not, or the other way round.
fn count_addresses(
    counts: &mut BTreeMap<IpAddr, usize>,
    before: &BTreeSet<IpAddr>,
    after: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let mut moved = BTreeSet::new();
    for address in after.difference(before) {
        let count = counts.entry(*address).or_default();
        *count += 1;
        if *count == 1 {
            moved.insert(*address);
        }
    }
    for address in before.difference(after) {
        if let Some(count) = counts.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(address);
                moved.insert(*address);
            }
        }
    }
    moved
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
