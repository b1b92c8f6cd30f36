//! The rules: Services and slices → what the dataplane should know.
//!
//! Incremental: only the Services the tracker names are computed, and those whose backends a changed Service address touches.
//! What a Service asks for and is not done is never silently dropped: it is among [`Resolver::problems`], and where the wish was to keep
//! somebody out, the address is closed.
//! Next in a Service's walk: [`crate::diff`].

use crate::claims::Claims;
use crate::counts::Counts;
use crate::desired::{Desired, Problem, ProblemKind, ResolvedFrontend, ResolvedService};
use crate::direct_return;
use crate::endpoints::{Endpoints, Surroundings, Wanted, endpoints};
use crate::frontends::{Face, Faces, PortFaces, faces};
use crate::health::HealthChecks;
use crate::k8s::EndpointSlice;
use crate::names::Names;
use crate::object::ObjectKey;
use crate::policy::Admitted;
use crate::settings::Settings;
use crate::survey::Survey;
use crate::topology::Place;
use crate::tracker::Tracker;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use turnpike_wire::limits::{BACKENDS_MAX, FRONTENDS_MAX, HEALTH_CHECK_PORTS_MAX, SERVICES_MAX};
use turnpike_wire::update::{
    Action, Cluster, Frontend, FrontendKey, FrontendKind, Mode, Protocol, Service as WireService, ServiceKey,
};

/// What is kept of a Service between two rounds.
#[derive(Clone, Debug, Default)]
struct Resolution {
    created: Option<i64>,
    faces: Faces,
    services: Vec<ServiceKey>,
    frontends: Vec<Arc<ResolvedFrontend>>,
    problems: Vec<(ProblemKind, String)>,
    refused_service_addresses: BTreeSet<IpAddr>,
    /// Its health check port, with the number of its local ready endpoints.
    health_check: Option<(u16, usize)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Resolver {
    settings: Settings,
    resolutions: BTreeMap<ObjectKey, Resolution>,
    /// Services of which something is not done.
    troubled: BTreeSet<ObjectKey>,
    /// The cluster and load-balancer addresses that Services have.
    service_addresses: Counts<IpAddr>,
    /// Where external addresses are answered.
    external: Counts<(SocketAddr, Protocol)>,
    /// The addresses of endpoints, used and refused ones.
    endpoint_addresses: Counts<IpAddr>,
    /// Number of backends over all Service ports.
    pub(crate) backend_count: usize,
    claims: Claims,
    health_checks: HealthChecks,
    /// Load-balancer addresses that Services have from Turnpike.
    assigned: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    /// Services whose assigned addresses changed.
    reassigned: BTreeSet<ObjectKey>,
    survey: Survey,
    names: Names,
    desired: Arc<Desired>,
}

impl Resolver {
    /// A resolver that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            resolutions: BTreeMap::new(),
            troubled: BTreeSet::new(),
            service_addresses: Counts::default(),
            external: Counts::default(),
            endpoint_addresses: Counts::default(),
            backend_count: 0,
            claims: Claims::default(),
            health_checks: HealthChecks::default(),
            assigned: BTreeMap::new(),
            reassigned: BTreeSet::new(),
            survey: Survey::default(),
            names: Names::default(),
            desired: Arc::default(),
        }
    }

    /// Takes what changed since the last call. None before the tracker is complete (rule S13): an empty state would be wrong.
    pub fn resolve(&mut self, tracker: &mut Tracker) -> Option<Arc<Desired>> {
        if !tracker.is_complete() {
            return None;
        }
        if tracker.take_surroundings_dirty() {
            self.look_around(tracker);
        }
        std::mem::take(&mut self.reassigned).into_iter().for_each(|service| tracker.touch(service));
        let dirty = tracker.take_dirty();
        if !dirty.is_empty() {
            self.resolve_services(tracker, &dirty);
        }
        Some(Arc::clone(&self.desired))
    }

    /// Sets the load-balancer addresses that a Service has from Turnpike, beside those of its status; empty: none. Counts at the next
    /// [`Resolver::resolve`].
    pub fn assign(&mut self, service: ObjectKey, addresses: BTreeSet<IpAddr>) {
        if self.assigned.get(&service).map_or(addresses.is_empty(), |known| *known == addresses) {
            return;
        }
        if addresses.is_empty() {
            self.assigned.remove(&service);
        } else {
            self.assigned.insert(service.clone(), addresses);
        }
        self.reassigned.insert(service);
    }

    /// [`Resolver::assign`] for all Services at once: those not named have none. Says whether that is news.
    pub fn assign_all(&mut self, assigned: &BTreeMap<ObjectKey, BTreeSet<IpAddr>>) -> bool {
        let gone: Vec<ObjectKey> =
            self.assigned.keys().filter(|service| !assigned.contains_key(*service)).cloned().collect();
        gone.into_iter().for_each(|service| self.assign(service, BTreeSet::new()));
        for (service, addresses) in assigned {
            self.assign(service.clone(), addresses.clone());
        }
        !self.reassigned.is_empty()
    }

    /// The load-balancer addresses that a Service has from Turnpike.
    #[must_use]
    pub fn assigned(&self, service: &ObjectKey) -> Option<&BTreeSet<IpAddr>> {
        self.assigned.get(service)
    }

    /// The last state that was resolved; empty before the first.
    #[must_use]
    pub fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired)
    }

    /// What is not done, and why, in order of the objects.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let troubled = self.troubled.iter().filter_map(|key| self.resolutions.get_key_value(key));
        let own = troubled.flat_map(|(key, resolution)| problems_of(key, resolution));
        let mut problems: Vec<Problem> = own
            .chain(self.claims.conflicts())
            .chain(self.health_checks.conflicts())
            .chain(self.over_limits())
            .chain(self.survey.problems.iter().cloned())
            .collect();
        problems.sort();
        problems.dedup();
        problems
    }

    /// What is not done of one Service.
    #[must_use]
    pub fn problems_of(&self, service: &ObjectKey) -> Vec<Problem> {
        let name = format!("Service {service}");
        let own = self.resolutions.get(service).into_iter().flat_map(|r| problems_of(service, r));
        let conflicts = self.claims.conflicts().chain(self.health_checks.conflicts());
        let mut problems: Vec<Problem> = own.chain(conflicts.filter(|p| p.object == name)).collect();
        problems.sort();
        problems.dedup();
        problems
    }

    /// A dataplane refuses a state over its limits as a whole and keeps the one before.
    fn over_limits(&self) -> impl Iterator<Item = Problem> {
        let rows = [
            ("Service ports", self.desired.services.len(), SERVICES_MAX),
            ("frontends", self.desired.frontends.len(), FRONTENDS_MAX),
            ("backends", self.backend_count, BACKENDS_MAX),
        ];
        rows.into_iter().filter(|(_, found, limit)| found > limit).map(|(what, found, limit)| Problem {
            object: "Cluster".into(),
            kind: ProblemKind::Limit,
            message: format!(
                "{found} {what} are over the limit of {limit} for one dataplane; it keeps its last state"
            ),
        })
    }

    /// Takes the Nodes and ServiceCIDRs anew. Another zone may mean other endpoints for every Service.
    fn look_around(&mut self, tracker: &mut Tracker) {
        let survey = Survey::of(tracker, &self.settings);
        if survey.zone != self.survey.zone {
            tracker.touch_all();
        }
        let known = &self.desired;
        let health_check_ports = known.cluster.health_check_ports.clone();
        let cluster = Cluster { health_check_ports, ..survey.cluster.clone() };
        if known.cluster != cluster || known.node_eligible != survey.node_eligible {
            let desired = Arc::make_mut(&mut self.desired);
            desired.cluster = cluster;
            desired.node_eligible = survey.node_eligible;
        }
        self.survey = survey;
    }

    fn resolve_services(&mut self, tracker: &Tracker, dirty: &BTreeSet<ObjectKey>) {
        let mut todo = BTreeMap::new();
        let mut moved = BTreeSet::new();
        for key in dirty {
            let none = BTreeSet::new();
            let assigned = self.assigned.get(key).unwrap_or(&none);
            let networks = &self.survey.service_networks;
            let found = tracker.service(key).map(|t| faces(&t.object, &self.settings, networks, assigned));
            let found = found.unwrap_or_default();
            let nowhere = Faces::default();
            let before = self.resolutions.get(key).map_or(&nowhere, |resolution| &resolution.faces);
            moved.extend(recount(&mut self.service_addresses, &before.addresses, &found.addresses));
            let external = recount(&mut self.external, &before.external, &found.external);
            moved.extend(external.into_iter().map(|(address, _)| address.ip()));
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
        let moved: BTreeSet<IpAddr> =
            moved.iter().copied().filter(|address| self.endpoint_addresses.contains(*address)).collect();
        if moved.is_empty() {
            return Vec::new();
        }
        let uses = |service: &ServiceKey| {
            let resolved = self.desired.services.get(service);
            resolved.is_some_and(|r| r.backends.keys().any(|address| moved.contains(&address.ip())))
        };
        let touched = self.resolutions.iter().filter(|(_, resolution)| {
            !resolution.refused_service_addresses.is_disjoint(&moved) || resolution.services.iter().any(uses)
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
            if let Some((port, _)) = old.health_check {
                self.health_checks.remove(port, old.created, &key);
                set_health_check(desired, &self.health_checks, port, &self.settings);
            }
            for frontend in &old.frontends {
                self.claims.remove(frontend, old.created);
                touched.insert(frontend.frontend.key);
            }
            for service in &old.services {
                if !services.iter().any(|new| new.service.key == *service)
                    && let Some(gone) = desired.services.remove(service)
                {
                    self.backend_count -= gone.backends.len();
                    self.endpoint_addresses.remove(gone.backends.keys().map(SocketAddr::ip));
                }
            }
            self.endpoint_addresses.remove(old.refused_service_addresses.iter().copied());
        }
        for service in services {
            let known = desired.services.get(&service.service.key);
            if known.is_some_and(|known| **known == service) {
                continue;
            }
            let none = BTreeMap::new();
            let before = known.map_or(&none, |known| &known.backends);
            let after = &service.backends;
            self.backend_count = self.backend_count + after.len() - before.len();
            let came = after.keys().filter(|address| !before.contains_key(address));
            self.endpoint_addresses.add(came.map(SocketAddr::ip));
            let went = before.keys().filter(|address| !after.contains_key(address));
            self.endpoint_addresses.remove(went.map(SocketAddr::ip));
            desired.services.insert(service.service.key.clone(), Arc::new(service));
        }
        self.endpoint_addresses.add(resolution.refused_service_addresses.iter().copied());
        for frontend in &resolution.frontends {
            self.claims.add(Arc::clone(frontend), resolution.created);
            touched.insert(frontend.frontend.key);
        }
        if let Some((port, local_endpoints)) = resolution.health_check {
            self.health_checks.add(port, resolution.created, key.clone(), local_endpoints);
            set_health_check(desired, &self.health_checks, port, &self.settings);
        }
        if resolution.problems.is_empty() && resolution.faces.problems.is_empty() {
            self.troubled.remove(&key);
        } else {
            self.troubled.insert(key.clone());
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
        let weight_of_pod = |name: &str| tracker.weight_of_pod(&key.namespace, name);
        let is_answered = |address: SocketAddr, protocol: Protocol| {
            self.service_addresses.contains(address.ip()) || self.external.contains((address, protocol))
        };
        let around = Surroundings {
            own_addresses: &self.settings.own_addresses,
            is_answered: &is_answered,
            place: Place { node: &self.settings.node_name, zone: &self.survey.zone },
            weight_of_pod: &weight_of_pod,
            names: &self.names,
        };
        let mut resolution = Resolution {
            created: tracked.object.metadata.creation_timestamp.unix_seconds(),
            ..Default::default()
        };
        let mut services = Vec::with_capacity(found.ports.len());
        let mut local_ready = BTreeSet::new();
        for port in &found.ports {
            let (cluster_set, local_set) = found.policies.uses(port.is_reachable_from_outside);
            let wanted = Wanted {
                port_name: &port.name,
                protocol: port.protocol,
                family: port.family,
                cluster_set,
                local_set,
                local_ready: found.health_check_port.is_some() && found.primary == Some(port.family),
            };
            let mut endpoints = endpoints(slices.iter().map(|(slice, _)| *slice), wanted, around);
            resolution.problems.append(&mut endpoints.problems);
            resolution.refused_service_addresses.append(&mut endpoints.refused_service_addresses);
            local_ready.append(&mut endpoints.local_ready);
            resolution.services.push(port.key.clone());
            let conflict = direct_return::conflict(found.policies, port, &endpoints.backends);
            let is_refused = conflict.is_some();
            resolution.problems.extend(conflict);
            let ranges = source_ranges(&tracked.object.spec.load_balancer_source_ranges, port);
            for face in &port.frontends {
                let mut frontend =
                    resolved_frontend(key, &found, port, face, &endpoints, &ranges, from_revision);
                let outside = &mut frontend.frontend.outside;
                if is_refused && outside.mode == Mode::DsrIpip && outside.action == Action::Forward {
                    outside.action = Action::Reject;
                }
                resolution.frontends.push(Arc::new(frontend));
            }
            services.push(ResolvedService {
                service: WireService {
                    key: port.key.clone(),
                    affinity_timeout_s: found.policies.affinity_timeout_s,
                    source_ranges: match &port.admitted {
                        Admitted::Ranges(ranges) => ranges.clone(),
                        Admitted::Everyone | Admitted::Nobody => Vec::new(),
                    },
                    tracking: found.policies.tracking,
                    proxy_protocol: found.policies.proxy_protocol,
                },
                owner: key.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
                family: port.family,
                backends: endpoints.backends,
                from_revision,
            });
        }
        resolution.health_check = found.health_check_port.map(|port| (port, local_ready.len()));
        resolution.faces = found;
        (resolution, services)
    }
}

/// The source ranges of a port's family as they were written, without blanks (rule S5).
fn source_ranges(texts: &[String], port: &PortFaces) -> Vec<String> {
    let of_family = |text: &&str| text.contains(':') == (port.family == crate::desired::Family::V6);
    texts.iter().map(|text| text.trim()).filter(of_family).map(str::to_owned).collect()
}

fn resolved_frontend(
    owner: &ObjectKey,
    faces: &Faces,
    port: &PortFaces,
    face: &Face,
    endpoints: &Endpoints,
    ranges: &[String],
    from_revision: i64,
) -> ResolvedFrontend {
    let is_guarded = face.kind == FrontendKind::LoadBalancer;
    let (mut outside, mut inside) = faces.policies.treatments(face.kind, endpoints.choice);
    if is_guarded && port.admitted == Admitted::Nobody {
        (outside.action, inside.action) = (Action::Drop, Action::Drop);
    }
    ResolvedFrontend {
        frontend: Frontend { key: face.key, service: port.key.clone(), kind: face.kind, outside, inside },
        owner: owner.clone(),
        port_name: port.name.clone(),
        source_ranges: if is_guarded { ranges.to_vec() } else { Vec::new() },
        from_revision,
    }
}

fn set_health_check(desired: &mut Desired, health_checks: &HealthChecks, port: u16, settings: &Settings) {
    let before = match health_checks.winner(port) {
        Some(winner) => desired.health_checks.insert(port, winner),
        None => desired.health_checks.remove(&port),
    };
    let is_outside = |port: &u16| settings.node_port_range.is_none_or(|range| !range.contains(*port));
    if is_outside(&port) && before.is_some() != desired.health_checks.contains_key(&port) {
        let outside = desired.health_checks.keys().copied().filter(is_outside);
        desired.cluster.health_check_ports = outside.take(HEALTH_CHECK_PORTS_MAX).collect();
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

/// Counts what came and went; gives what some Service has now and none had, or the other way round.
fn recount<T: Copy + Ord + Hash>(
    counts: &mut Counts<T>,
    before: &BTreeSet<T>,
    after: &BTreeSet<T>,
) -> Vec<T> {
    let mut moved = counts.add(after.difference(before).copied());
    moved.extend(counts.remove(before.difference(after).copied()));
    moved
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "rules_tests/mod.rs"]
mod rules;
