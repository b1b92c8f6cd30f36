//! What hints leave of the Cluster set (rules E6, E7, E7b).
//!
//! Hints are made by the EndpointSlice controller from `spec.trafficDistribution`; here they are only read, on ready endpoints alone. A gateway
//! that is no node is named by no hint, so only its zone can narrow the set.

use crate::k8s::{Endpoint, EndpointHints};

/// Where this gateway is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place<'a> {
    /// The node it acts as; empty: none.
    pub(crate) node: &'a str,
    /// Its zone; empty: none.
    pub(crate) zone: &'a str,
}

/// What narrows the Cluster set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Unrestricted,
    SameNode,
    SameZone,
}

impl Topology {
    /// The mode that the hints of all ready endpoints together allow: one without hints turns it off.
    pub(crate) fn of<'e>(ready: impl Iterator<Item = &'e Endpoint>, place: Place<'_>) -> Self {
        let (mut nodes, mut zones) = (Hinted::default(), Hinted::default());
        for endpoint in ready {
            nodes.see(has_node_hint(endpoint), names_node(endpoint, place.node));
            zones.see(has_zone_hint(endpoint), names_zone(endpoint, place.zone));
        }
        if nodes.holds() {
            Self::SameNode
        } else if zones.holds() {
            Self::SameZone
        } else {
            Self::Unrestricted
        }
    }

    /// Whether a ready endpoint is left in the set.
    pub(crate) fn allows(self, endpoint: &Endpoint, place: Place<'_>) -> bool {
        match self {
            Self::Unrestricted => true,
            Self::SameNode => names_node(endpoint, place.node),
            Self::SameZone => names_zone(endpoint, place.zone),
        }
    }
}

/// Whether all have a hint, and one of them names this place.
#[derive(Default)]
struct Hinted {
    some_without: bool,
    some_here: bool,
}

impl Hinted {
    fn see(&mut self, has_hint: bool, is_here: bool) {
        self.some_without |= !has_hint;
        self.some_here |= is_here;
    }

    const fn holds(&self) -> bool {
        self.some_here && !self.some_without
    }
}

fn hints(endpoint: &Endpoint) -> Option<&EndpointHints> {
    endpoint.hints.as_ref()
}

fn has_node_hint(endpoint: &Endpoint) -> bool {
    hints(endpoint).is_some_and(|hints| !hints.for_nodes.is_empty())
}

fn has_zone_hint(endpoint: &Endpoint) -> bool {
    hints(endpoint).is_some_and(|hints| !hints.for_zones.is_empty())
}

fn names_node(endpoint: &Endpoint, node: &str) -> bool {
    !node.is_empty() && hints(endpoint).is_some_and(|hints| hints.for_nodes.iter().any(|n| n.name == node))
}

fn names_zone(endpoint: &Endpoint, zone: &str) -> bool {
    !zone.is_empty() && hints(endpoint).is_some_and(|hints| hints.for_zones.iter().any(|z| z.name == zone))
}
