//! The slices of a Service port → its backends (rules S7 to S10, E2, E4).

use crate::address_guard::danger;
use crate::desired::{Family, ProblemKind, ResolvedBackend};
use crate::frontends::protocol;
use crate::k8s::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use crate::words::WEIGHT_DEFAULT;
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
}

/// What must be known of the world beside the slices.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Addresses of the gateway itself.
    pub(crate) own_addresses: &'a BTreeSet<IpAddr>,
    /// Whether an address is one of a Service: packets to it would come back to the gateway.
    pub(crate) is_service_address: &'a dyn Fn(IpAddr) -> bool,
    /// The node this gateway acts as; empty: none.
    pub(crate) node_name: &'a str,
    /// The weight annotation of a pod of the Service's namespace.
    pub(crate) weight_of_pod: &'a dyn Fn(&str) -> Option<String>,
}

/// The endpoints of one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// The set in use.
    pub(crate) backends: BTreeMap<SocketAddr, ResolvedBackend>,
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
    endpoint: &'a Endpoint,
    local: bool,
    usable: Use,
}

/// Merges the slices and chooses the set in use.
pub(crate) fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    wanted: Wanted<'_>,
    around: Surroundings<'_>,
) -> Endpoints {
    let mut found = Endpoints::default();
    let mut merged: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
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
                if let Some(reason) = refusal(address, around) {
                    refused.insert(address, reason);
                    continue;
                }
                let local =
                    !around.node_name.is_empty() && endpoint.node_name.as_deref() == Some(around.node_name);
                let candidate = Candidate { endpoint, local, usable: usable(endpoint.conditions) };
                let socket = SocketAddr::new(address, port);
                // Of two records of one endpoint the local one counts (rule S9), then the one that is of more use.
                let better =
                    |known: &Candidate<'_>| (candidate.local, candidate.usable) > (known.local, known.usable);
                if merged.get(&socket).is_none_or(better) {
                    merged.insert(socket, candidate);
                }
            }
        }
    }
    found.refused_service_addresses =
        refused.keys().copied().filter(|address| (around.is_service_address)(*address)).collect();
    tell_refused(&refused, &mut found.problems);
    choose(merged, around, &mut found);
    found
}

/// The number of a slice port if it is the wanted one (rules S3, S8).
fn matching_port(port: &EndpointPort, wanted: Wanted<'_>) -> Option<u16> {
    let named = port.name.as_deref() == Some(wanted.port_name);
    let same_protocol = protocol(port.protocol.as_deref().unwrap_or_default()) == Some(wanted.protocol);
    let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
    (named && same_protocol).then_some(number)
}

fn refusal(address: IpAddr, around: Surroundings<'_>) -> Option<&'static str> {
    danger(address).or_else(|| {
        if around.own_addresses.contains(&address) {
            Some("is the gateway's own address")
        } else if (around.is_service_address)(address) {
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

/// All ready endpoints; if there are none, those that serve while they end; else nobody (rule E2).
fn choose(merged: BTreeMap<SocketAddr, Candidate<'_>>, around: Surroundings<'_>, found: &mut Endpoints) {
    let best = merged.values().map(|candidate| candidate.usable).max().unwrap_or(Use::None);
    let state = match best {
        Use::None => return,
        Use::Fallback => BackendState::Terminating,
        Use::Ready => BackendState::Ready,
    };
    let chosen = merged.into_iter().filter(|(_, candidate)| candidate.usable == best);
    let mut left_out = 0_usize;
    for (address, candidate) in chosen {
        if found.backends.len() == BACKENDS_PER_SERVICE_MAX {
            left_out += 1;
            continue;
        }
        let endpoint = candidate.endpoint;
        let weight = weight(endpoint, around, &mut found.problems);
        let backend = ResolvedBackend {
            backend: Backend {
                address,
                weight,
                state,
                in_cluster_set: true,
                in_local_set: false,
                serving: endpoint.conditions.serving.unwrap_or(true),
            },
            node: endpoint.node_name.clone().unwrap_or_default(),
            zone: endpoint.zone.clone().unwrap_or_default(),
        };
        found.backends.insert(address, backend);
    }
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
    parse_weight(&text).unwrap_or_else(|message| {
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
