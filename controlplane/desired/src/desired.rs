//! The resolved truth: every Service port with its backends, every address that is answered, and what could not be done.

use crate::health::HealthCheck;
use crate::object::ObjectKey;
use crate::shared_map::SharedMap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use turnpike_wire::admin::{BackendView, FrontendView};
use turnpike_wire::update::{
    Action, Backend, Cluster, Frontend, FrontendKey, FrontendKind, Protocol, Service, ServiceKey, Treatment,
};

/// What the dataplane should know. Parts are shared with the state before, so that a copy and a [`crate::diff`] cost little.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Every Service port of each family.
    pub services: SharedMap<ServiceKey, Arc<ResolvedService>>,
    /// Every address, port and protocol that is answered.
    pub frontends: SharedMap<FrontendKey, Arc<ResolvedFrontend>>,
    /// The networks of the cluster.
    pub cluster: Cluster,
    /// What each health check port tells (rule H1).
    pub health_checks: BTreeMap<u16, HealthCheck>,
    /// Whether the node this gateway acts as may have load-balancer traffic (rule H6): it is neither being deleted nor about to be taken
    /// away by the autoscaler. True for a gateway that is no node.
    pub node_eligible: bool,
}

impl Default for Desired {
    fn default() -> Self {
        Self {
            services: SharedMap::default(),
            frontends: SharedMap::default(),
            cluster: Cluster::default(),
            health_checks: BTreeMap::new(),
            node_eligible: true,
        }
    }
}

/// One Service port of one address family.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedService {
    /// What the dataplane is told.
    pub service: Service,
    /// The Service object.
    pub owner: ObjectKey,
    /// Name of the Service port, may be empty.
    pub port_name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its address family.
    pub family: Family,
    /// Those that take new flows and those that may keep their live ones, by address.
    pub backends: BTreeMap<SocketAddr, ResolvedBackend>,
    /// etcd revision of the youngest object this is made from.
    pub from_revision: i64,
}

/// One backend of a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedBackend {
    /// What the dataplane is told.
    pub backend: Backend,
    /// Its node, may be empty.
    pub node: Arc<str>,
    /// Its zone, may be empty.
    pub zone: Arc<str>,
}

/// One address, port and protocol that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedFrontend {
    /// What the dataplane is told.
    pub frontend: Frontend,
    /// The Service object.
    pub owner: ObjectKey,
    /// Name of the Service port, may be empty.
    pub port_name: String,
    /// The source ranges its owner asked for (load-balancer addresses only).
    pub source_ranges: Vec<String>,
    /// etcd revision of the youngest object this is made from.
    pub from_revision: i64,
}

/// An address family of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family by the name Kubernetes gives it: `IPv4` or `IPv6`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What of an object is not done, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Kind, namespace and name, e.g. `Service shop/web`.
    pub object: String,
    /// Which sort of problem.
    pub kind: ProblemKind,
    /// What is wrong and the mend.
    pub message: String,
}

/// Sorts of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Makes no sense; the rest of the object is used.
    Invalid,
    /// Dangerous; left out.
    Refused,
    /// Asked for, but this version does not do it.
    NotHonoured,
    /// Another Service has it already.
    Conflict,
    /// Over a limit of [`turnpike_wire::limits`].
    Limit,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}

impl Desired {
    /// Number of backends over all Service ports.
    #[must_use]
    pub fn backend_count(&self) -> usize {
        self.services.values().map(|service| service.backends.len()).sum()
    }

    /// Every frontend as a client outside the cluster meets it, in order of its key.
    #[must_use]
    pub fn views(&self) -> Vec<FrontendView> {
        self.frontends.values().map(|frontend| self.view(frontend, frontend.frontend.outside)).collect()
    }

    /// Every frontend as this client meets it.
    #[must_use]
    pub fn views_for(&self, client: IpAddr) -> Vec<FrontendView> {
        self.frontends
            .values()
            .map(|frontend| self.view(frontend, self.treatment(frontend, client)))
            .collect()
    }

    /// What a client's packet of no live flow meets.
    #[must_use]
    pub fn treatment(&self, resolved: &ResolvedFrontend, client: IpAddr) -> Treatment {
        let frontend = &resolved.frontend;
        let is_inside = self.cluster.pod_networks.iter().any(|network| network.contains(&client));
        let treatment = if is_inside { frontend.inside } else { frontend.outside };
        let ranges = self.services.get(&frontend.service).map_or(&[][..], |s| &s.service.source_ranges);
        let is_guarded = frontend.kind == FrontendKind::LoadBalancer && !ranges.is_empty();
        if is_guarded && !ranges.iter().any(|range| range.contains(&client)) {
            return Treatment { action: Action::Drop, ..treatment };
        }
        treatment
    }

    fn view(&self, resolved: &ResolvedFrontend, treatment: Treatment) -> FrontendView {
        let frontend = &resolved.frontend;
        let service = self.services.get(&frontend.service);
        let backends = service.into_iter().flat_map(|s| s.backends.values());
        let chosen = backends.filter(|backend| backend.backend.is_in(treatment.set));
        FrontendView {
            namespace: resolved.owner.namespace.clone(),
            service: resolved.owner.name.clone(),
            port_name: resolved.port_name.clone(),
            protocol: frontend.key.protocol,
            address: frontend.key.address,
            port: frontend.key.port,
            kind: frontend.kind,
            action: treatment.action,
            mode: treatment.mode,
            backends: chosen.map(ResolvedBackend::view).collect(),
            affinity_timeout_s: service.map_or(0, |s| s.service.affinity_timeout_s),
            source_ranges: resolved.source_ranges.clone(),
            from_revision: resolved.from_revision,
        }
    }
}

impl ResolvedBackend {
    /// The backend as people and scripts see it.
    #[must_use]
    pub fn view(&self) -> BackendView {
        BackendView {
            address: self.backend.address.ip(),
            port: self.backend.address.port(),
            state: self.backend.state,
            weight: self.backend.weight,
            node: self.node.to_string(),
            zone: self.zone.to_string(),
        }
    }
}
