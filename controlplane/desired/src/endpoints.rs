//! The slices of a Service port → its backends and which of them take new flows (rules S7 to S11, E1 to E6).

use crate::address_guard::danger;
use crate::desired::{Family, ProblemKind, ResolvedBackend};
use crate::frontends::protocol;
use crate::k8s::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use crate::names::Names;
use crate::policy::Choice;
use crate::topology::{Place, Topology};
use crate::words::WEIGHT_DEFAULT;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use turnpike_wire::limits::{BACKENDS_PER_SERVICE_MAX, WEIGHT_MAX};
use turnpike_wire::update::{Backend, BackendState, Protocol};

/// Most refused endpoints of one Service that are told one by one.
const REFUSALS_TOLD_MAX: usize = 16;

/// Which endpoints are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) port_name: &'a str,
    pub(crate) protocol: Protocol,
    pub(crate) family: Family,
    /// Whether the Cluster set is needed (rule E1).
    pub(crate) cluster_set: bool,
    /// Whether the Local set is needed (rule E1).
    pub(crate) local_set: bool,
    /// Whether the local ready ones are to be told (rule H3).
    pub(crate) local_ready: bool,
}

/// What must be known of the world beside the slices.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Addresses of the gateway itself.
    pub(crate) own_addresses: &'a BTreeSet<IpAddr>,
    /// Whether a Service is answered there: packets would come back to the gateway.
    pub(crate) is_answered: &'a dyn Fn(SocketAddr, Protocol) -> bool,
    /// Where this gateway is.
    pub(crate) place: Place<'a>,
    /// The weight annotation of a pod of the Service's namespace.
    pub(crate) weight_of_pod: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Those of nodes and zones.
    pub(crate) names: &'a Names,
}

/// The endpoints of one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Those that take new flows, and those that keep their live ones.
    pub(crate) backends: BTreeMap<SocketAddr, ResolvedBackend>,
    /// What there is to choose from.
    pub(crate) choice: Choice,
    /// Addresses of the local ready ones, if they are wanted (rule H3).
    pub(crate) local_ready: BTreeSet<IpAddr>,
    /// What was left out.
    pub(crate) problems: Vec<(ProblemKind, String)>,
    /// Addresses left out because they are a Service's; they count again once they are not.
    pub(crate) refused_service_addresses: BTreeSet<IpAddr>,
}

/// How much an endpoint may be used (rules S10, E2, E4); the greater the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    None,
    Fallback,
    Ready,
}

fn usable(conditions: EndpointConditions) -> Use {
    let serving = conditions.serving.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    if conditions.ready.unwrap_or(true) {
        Use::Ready
    } else if serving && terminating {
        Use::Fallback
    } else {
        Use::None
    }
}

struct Candidate<'a> {
    address: SocketAddr,
    endpoint: &'a Endpoint,
    /// On the node this gateway acts as; a gateway that is no node is one hop away from all.
    local: bool,
    usable: Use,
    serving: bool,
}

/// Merges the slices and chooses the set in use.
pub(crate) fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    wanted: Wanted<'_>,
    around: Surroundings<'_>,
) -> Endpoints {
    let mut found = Endpoints::default();
    let mut merged: Vec<Candidate<'a>> = Vec::new();
    let mut refused: BTreeMap<IpAddr, &'static str> = BTreeMap::new();
    for slice in slices.filter(|slice| Family::parse(&slice.address_type) == Some(wanted.family)) {
        for port in slice.ports.iter().filter_map(|port| matching_port(port, wanted)) {
            for endpoint in &slice.endpoints {
                let Some(text) = endpoint.addresses.first() else { continue };
                let Ok(address) = text.parse::<IpAddr>() else {
                    if found.problems.len() < REFUSALS_TOLD_MAX {
                        let message = format!(
                            "EndpointSlice {}: endpoint {text:?} is no IP address",
                            slice.metadata.name
                        );
                        found.problems.push((ProblemKind::Invalid, message));
                    }
                    continue;
                };
                if Family::of(address) != wanted.family {
                    continue;
                }
                let is_answered = (around.is_answered)(SocketAddr::new(address, port), wanted.protocol);
                if let Some(reason) = refusal(address, is_answered, around) {
                    refused.insert(address, reason);
                    if is_answered {
                        found.refused_service_addresses.insert(address);
                    }
                    continue;
                }
                let node = around.place.node;
                let local = node.is_empty() || endpoint.node_name.as_deref() == Some(node);
                let usable = usable(endpoint.conditions);
                let serving = endpoint.conditions.serving.unwrap_or(true);
                let address = SocketAddr::new(address, port);
                merged.push(Candidate { address, endpoint, local, usable, serving });
            }
        }
    }
    // Of two records of one endpoint the local one counts (rule S9), then the one that is of more use, then the first.
    merged.sort_by_key(|candidate| (candidate.address, Reverse((candidate.local, candidate.usable))));
    merged.dedup_by_key(|candidate| candidate.address);
    tell_refused(&refused, &mut found.problems);
    choose(&merged, wanted, around, &mut found);
    found
}

/// The number of a slice port if it is the wanted one (rules S3, S8).
fn matching_port(port: &EndpointPort, wanted: Wanted<'_>) -> Option<u16> {
    let named = port.name.as_deref() == Some(wanted.port_name);
    let same_protocol = protocol(port.protocol.as_deref().unwrap_or_default()) == Some(wanted.protocol);
    let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
    (named && same_protocol).then_some(number)
}

fn refusal(address: IpAddr, is_answered: bool, around: Surroundings<'_>) -> Option<&'static str> {
    danger(address).or_else(|| {
        if around.own_addresses.contains(&address) {
            Some("is the gateway's own address")
        } else if is_answered {
            Some("is the address of a Service")
        } else {
            None
        }
    })
}

fn tell_refused(refused: &BTreeMap<IpAddr, &'static str>, problems: &mut Vec<(ProblemKind, String)>) {
    for (address, reason) in refused.iter().take(REFUSALS_TOLD_MAX) {
        problems.push((ProblemKind::Refused, format!("endpoint {address} {reason}; it gets no traffic")));
    }
    if let Some(more) = refused.len().checked_sub(REFUSALS_TOLD_MAX).filter(|more| *more != 0) {
        problems.push((ProblemKind::Refused, format!("{more} more endpoints are refused for such reasons")));
    }
}

/// Who takes new flows.
struct Sets {
    topology: Topology,
    /// What a member of the Cluster set must be.
    cluster: Option<Use>,
    /// What a member of the Local set must be.
    local: Option<Use>,
}

impl Sets {
    /// The ready, and where there are none those that serve while they end; each set falls back on its own (rules E2, E3).
    fn of(merged: &[Candidate<'_>], wanted: Wanted<'_>, place: Place<'_>) -> Self {
        let best = |candidates: &mut dyn Iterator<Item = &Candidate<'_>>| {
            candidates.map(|candidate| candidate.usable).max().filter(|best| *best != Use::None)
        };
        let ready = merged.iter().filter(|c| c.usable == Use::Ready).map(|c| c.endpoint);
        Self {
            topology: Topology::of(ready, place),
            cluster: best(&mut merged.iter()).filter(|_| wanted.cluster_set),
            local: best(&mut merged.iter().filter(|c| c.local)).filter(|_| wanted.local_set),
        }
    }

    fn in_cluster_set(&self, candidate: &Candidate<'_>, place: Place<'_>) -> bool {
        // The fall-back ignores topology.
        self.cluster == Some(candidate.usable)
            && (candidate.usable != Use::Ready || self.topology.allows(candidate.endpoint, place))
    }

    fn in_local_set(&self, candidate: &Candidate<'_>) -> bool {
        candidate.local && self.local == Some(candidate.usable)
    }
}

/// Everybody who takes new flows or may keep live ones (rules E2 to E6, U1 to U3).
fn choose(merged: &[Candidate<'_>], wanted: Wanted<'_>, around: Surroundings<'_>, found: &mut Endpoints) {
    let sets = Sets::of(merged, wanted, around.place);
    let sets_of = |candidate: &Candidate<'_>| {
        (sets.in_cluster_set(candidate, around.place), sets.in_local_set(candidate))
    };
    let mut taken: Vec<(&Candidate<'_>, (bool, bool))> = merged
        .iter()
        .map(|candidate| (candidate, sets_of(candidate)))
        .filter(|(candidate, sets)| candidate.serving || *sets != (false, false))
        .collect();
    let left_out = taken.len().saturating_sub(BACKENDS_PER_SERVICE_MAX);
    if left_out != 0 {
        // Those that take new flows stay.
        taken.sort_by_key(|(_, sets)| *sets == (false, false));
        taken.truncate(BACKENDS_PER_SERVICE_MAX);
    }
    let backend = |(candidate, (in_cluster_set, in_local_set)): &(&Candidate<'_>, (bool, bool))| {
        let endpoint = candidate.endpoint;
        let is_ready = candidate.usable == Use::Ready;
        let backend = Backend {
            address: candidate.address,
            weight: weight(endpoint, around, &mut found.problems),
            state: if is_ready { BackendState::Ready } else { BackendState::Terminating },
            in_cluster_set: *in_cluster_set,
            in_local_set: *in_local_set,
            serving: candidate.serving,
        };
        let name = |text: &Option<String>| around.names.keep(text.as_deref().unwrap_or_default());
        let (node, zone) = (name(&endpoint.node_name), name(&endpoint.zone));
        (candidate.address, ResolvedBackend { backend, node, zone })
    };
    found.backends = taken.iter().map(backend).collect();
    found.choice.cluster = taken.iter().any(|(_, (in_cluster_set, _))| *in_cluster_set);
    found.choice.local = taken.iter().any(|(_, (_, in_local_set))| *in_local_set);
    found.choice.anybody = merged.iter().any(|candidate| candidate.usable != Use::None);
    let local_ready = merged.iter().filter(|c| wanted.local_ready && c.local && c.usable == Use::Ready);
    found.local_ready = local_ready.map(|c| c.address.ip()).collect();
    if left_out != 0 {
        let message = format!(
            "{left_out} endpoints are over the limit of {BACKENDS_PER_SERVICE_MAX} for a Service port"
        );
        found.problems.push((ProblemKind::Limit, message));
    }
}

fn weight(endpoint: &Endpoint, around: Surroundings<'_>, problems: &mut Vec<(ProblemKind, String)>) -> u16 {
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
    let Some((pod, text)) = pod.and_then(|pod| Some((pod, (around.weight_of_pod)(&pod.name)?))) else {
        return WEIGHT_DEFAULT;
    };
    parse_weight(text).unwrap_or_else(|message| {
        if problems.len() < 3 * REFUSALS_TOLD_MAX {
            problems.push((
                ProblemKind::Invalid,
                format!("Pod {}: {message}; it counts as {WEIGHT_DEFAULT}", pod.name),
            ));
        }
        WEIGHT_DEFAULT
    })
}

/// Reads the weight annotation.
pub(crate) fn parse_weight(text: &str) -> Result<u16, String> {
    text.trim()
        .parse::<u16>()
        .ok()
        .filter(|weight| *weight <= WEIGHT_MAX)
        .ok_or_else(|| format!("weight {text:?} is not 0..{WEIGHT_MAX}"))
}
