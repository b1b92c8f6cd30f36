//! What the Node and ServiceCIDR objects say about this gateway's place: networks of the cluster, its zone, whether its node is eligible.

use crate::desired::{Problem, ProblemKind};
use crate::k8s::{Node, Time};
use crate::object::ObjectKey;
use crate::settings::Settings;
use crate::tracker::Tracker;
use crate::words::{AUTOSCALER_TAINT, ZONE_LABEL};
use ipnet::IpNet;
use turnpike_wire::limits::NETWORKS_MAX;
use turnpike_wire::update::Cluster;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// What the dataplane is told.
    pub(crate) cluster: Cluster,
    /// The networks of cluster addresses, one by one.
    pub(crate) service_networks: Vec<IpNet>,
    /// The zone of this gateway; empty: none.
    pub(crate) zone: String,
    /// Rule H6.
    pub(crate) node_eligible: bool,
    /// What there was too much of.
    pub(crate) problems: Vec<Problem>,
}

impl Survey {
    pub(crate) fn of(tracker: &Tracker, settings: &Settings) -> Self {
        let mut problems = Vec::new();
        let service_networks: Vec<IpNet> =
            settings.service_cidrs.iter().copied().chain(tracker.service_networks()).collect();
        let pod_networks: Vec<IpNet> = if settings.pod_cidrs.is_empty() {
            tracker.nodes().flat_map(|(_, node)| pod_networks(&node.object)).collect()
        } else {
            settings.pod_cidrs.clone()
        };
        let node = Some(&settings.node_name).filter(|name| !name.is_empty());
        let node = node.and_then(|name| tracker.node(&ObjectKey::new("", name)));
        let node = node.map(|tracked| tracked.object.as_ref());
        let zone_of_node = || node.and_then(|node| node.metadata.labels.get(ZONE_LABEL)).cloned();
        Self {
            cluster: Cluster {
                service_networks: merged(&service_networks, "Service networks", &mut problems),
                pod_networks: merged(&pod_networks, "pod networks", &mut problems),
                health_check_ports: Vec::new(),
            },
            service_networks,
            zone: if settings.zone.is_empty() {
                zone_of_node().unwrap_or_default()
            } else {
                settings.zone.clone()
            },
            node_eligible: node.is_none_or(is_eligible),
            problems,
        }
    }
}

fn pod_networks(node: &Node) -> impl Iterator<Item = IpNet> {
    let spec = &node.spec;
    let texts =
        if spec.pod_cidrs.is_empty() { std::slice::from_ref(&spec.pod_cidr) } else { &spec.pod_cidrs };
    texts.iter().filter_map(|text| text.parse::<IpNet>().ok())
}

/// Neither being deleted nor about to be taken away (KEP-3836).
fn is_eligible(node: &Node) -> bool {
    let is_deleted = node.metadata.deletion_timestamp.as_ref().is_some_and(|time| *time != Time::default());
    !is_deleted && !node.spec.taints.iter().any(|taint| taint.key == AUTOSCALER_TAINT)
}

/// Neighbouring networks become one; those over the limit are left out and told.
fn merged(networks: &[IpNet], what: &str, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let networks: Vec<IpNet> = networks.iter().map(IpNet::trunc).collect();
    let mut merged = IpNet::aggregate(&networks);
    merged.sort();
    if merged.len() > NETWORKS_MAX {
        problems.push(Problem {
            object: "Cluster".into(),
            kind: ProblemKind::Limit,
            message: format!(
                "{} {what} are over the limit of {NETWORKS_MAX}, the rest is left out; name wider ones in [cluster]",
                merged.len()
            ),
        });
        merged.truncate(NETWORKS_MAX);
    }
    merged
}
