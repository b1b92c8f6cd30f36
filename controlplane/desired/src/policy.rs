//! What a Service says about its packets: traffic policies, how they are carried, affinity, and who may connect (rules E1, A1 to A4, F1,
//! F2, L1 to L3, and the table of section N).

use crate::desired::{Family, ProblemKind};
use crate::direct_return::can_be_shared;
use crate::k8s::Service;
use crate::proxy_protocol;
use crate::settings::Settings;
use crate::tracking;
use crate::words::{DIRECT_RETURN, MODE_ANNOTATION};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_wire::limits::{AFFINITY_TIMEOUT_S_MAX, SOURCE_RANGES_MAX};
use turnpike_wire::update::{Action, BackendSet, FrontendKind, Mode, Tracking, Treatment};

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`, three hours.
const AFFINITY_TIMEOUT_S_DEFAULT: u32 = 10_800;

type Problems = Vec<(ProblemKind, String)>;

/// What holds for every port of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policies {
    internal_local: bool,
    external_local: bool,
    mode: Option<Mode>,
    /// Seconds; 0: no affinity.
    pub(crate) affinity_timeout_s: u32,
    /// How its flows are followed.
    pub(crate) tracking: Tracking,
    /// Whether backends are told their clients by the PROXY protocol.
    pub(crate) proxy_protocol: bool,
}

/// What there is to choose from on a Service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Some endpoint of the whole cluster is usable (rule E5).
    pub(crate) anybody: bool,
    /// The Cluster set is not empty.
    pub(crate) cluster: bool,
    /// The Local set is not empty.
    pub(crate) local: bool,
}

impl Policies {
    pub(crate) fn of(service: &Service, problems: &mut Problems) -> Self {
        let spec = &service.spec;
        // `externalTrafficPolicy` means something only where there is an outside.
        let has_outside =
            matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer") || !spec.external_ips.is_empty();
        let proxy_protocol = proxy_protocol::of(service, problems);
        Self {
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: has_outside && spec.external_traffic_policy == "Local",
            // Who is told of clients by the protocol gets all connections with it.
            mode: mode(service, problems).or(proxy_protocol.then_some(Mode::Nat)),
            affinity_timeout_s: affinity_timeout_s(service, problems),
            tracking: tracking::of(service, problems),
            proxy_protocol,
        }
    }

    /// Whether packets for load-balancer and external addresses reach backends unchanged.
    pub(crate) fn is_direct_return(self) -> bool {
        self.mode == Some(Mode::DsrIpip)
    }

    /// Whether health checks tell of this gateway's own endpoints (rule H1).
    pub(crate) const fn is_external_local(self) -> bool {
        self.external_local
    }

    /// Whether a port needs the Cluster set, and whether it needs the Local one (rule E1).
    pub(crate) const fn uses(self, is_reachable_from_outside: bool) -> (bool, bool) {
        (
            !self.internal_local || is_reachable_from_outside,
            self.internal_local || self.external_local && is_reachable_from_outside,
        )
    }

    /// What clients outside and inside the cluster meet on a face (the table of section N).
    ///
    /// How they are carried: replies must come back through the gateway. Full NAT makes sure of that, so it is the rule (A1, A2), also where a
    /// kube-proxy leaves pods their own address: there both ends are on the node, here the pod would answer its peer directly, past the
    /// translation (also when a pod is its own backend, A4). `externalTrafficPolicy: Local` asks for the client's address, so clients outside
    /// keep it (A2, A6), and pods must have their route to them through the gateway; `turnpike.dev/mode: nat` is for clusters where they
    /// have not, and `dnat` for those where the other Services should keep it, too. `dsr-ipip` is for those whose pods answer clients outside
    /// themselves, from load-balancer and external addresses.
    pub(crate) fn treatments(self, kind: FrontendKind, choice: Choice) -> (Treatment, Treatment) {
        let set = |local: bool| if local { BackendSet::Local } else { BackendSet::Cluster };
        let treatment = |set: BackendSet, mode: Mode| {
            let usable = match set {
                BackendSet::Cluster => choice.cluster,
                BackendSet::Local => choice.local,
            };
            let action = match (choice.anybody, usable) {
                (false, _) => Action::Reject,
                (true, false) => Action::Drop,
                (true, true) => Action::Forward,
            };
            Treatment { action, set, mode }
        };
        // Direct answers come from the frontend's address, which backends can have if it belongs to the Service alone.
        let mode = self.mode.filter(|mode| *mode != Mode::DsrIpip || can_be_shared(kind));
        if kind == FrontendKind::ClusterIp {
            let set = set(self.internal_local);
            return (treatment(set, mode.unwrap_or_default()), treatment(set, Mode::Nat));
        }
        // A client inside takes the short cut to the whole cluster (rule A3); its pod would answer it directly, so it is never left with
        // its own address.
        let kept = if self.external_local { Mode::Dnat } else { Mode::Nat };
        (treatment(set(self.external_local), mode.unwrap_or(kept)), treatment(BackendSet::Cluster, Mode::Nat))
    }
}

/// The mode asked for by annotation; none: as the policies say (rule A2).
fn mode(service: &Service, problems: &mut Problems) -> Option<Mode> {
    let text = service.metadata.annotations.get(MODE_ANNOTATION)?;
    match text.as_str() {
        "nat" => Some(Mode::Nat),
        "dnat" => Some(Mode::Dnat),
        DIRECT_RETURN => {
            if service.spec.r#type != "LoadBalancer" && service.spec.external_ips.is_empty() {
                let message = format!(
                    "annotation {MODE_ANNOTATION}: {DIRECT_RETURN} is for load-balancer and external addresses, and there are none; other addresses are served as without it"
                );
                problems.push((ProblemKind::NotHonoured, message));
            }
            Some(Mode::DsrIpip)
        }
        other => {
            let message =
                format!("annotation {MODE_ANNOTATION}: {other:?} is none of nat, dnat and {DIRECT_RETURN}");
            problems.push((ProblemKind::Invalid, message));
            None
        }
    }
}

fn affinity_timeout_s(service: &Service, problems: &mut Problems) -> u32 {
    let spec = &service.spec;
    if spec.session_affinity != "ClientIP" {
        if !matches!(spec.session_affinity.as_str(), "" | "None") {
            let message =
                format!("spec.sessionAffinity: {:?} is neither None nor ClientIP", spec.session_affinity);
            problems.push((ProblemKind::Invalid, message));
        }
        return 0;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(stated) = config.and_then(|config| config.timeout_seconds) else {
        return AFFINITY_TIMEOUT_S_DEFAULT;
    };
    match u32::try_from(stated).ok().filter(|s| (1..=AFFINITY_TIMEOUT_S_MAX).contains(s)) {
        Some(seconds) => seconds,
        None => {
            let message = format!(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: {stated} is not 1..{AFFINITY_TIMEOUT_S_MAX}; {AFFINITY_TIMEOUT_S_DEFAULT} is used"
            );
            problems.push((ProblemKind::Invalid, message));
            AFFINITY_TIMEOUT_S_DEFAULT
        }
    }
}

/// Who may open flows to the load-balancer addresses of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Everyone (also rule L3: ranges of the other family only).
    #[default]
    Everyone,
    /// Clients in these networks; never empty.
    Ranges(Vec<IpNet>),
    /// Nobody: the owner wants somebody kept out, and it cannot be told whom.
    Nobody,
}

/// Reads `spec.loadBalancerSourceRanges` for one family (rules S5, L1 to L3); `vips` are the Service's load-balancer addresses.
pub(crate) fn admitted(
    service: &Service,
    family: Family,
    settings: &Settings,
    vips: &BTreeSet<IpAddr>,
    problems: &mut Problems,
) -> Admitted {
    let mut ranges = Vec::new();
    for (index, text) in service.spec.load_balancer_source_ranges.iter().enumerate() {
        match text.trim().parse::<IpNet>() {
            Ok(network) if Family::of(network.addr()) == family => ranges.push(network.trunc()),
            Ok(_) => {}
            Err(_) => {
                let message = format!(
                    "spec.loadBalancerSourceRanges[{index}]: {text:?} is no network; the load-balancer addresses are closed to everyone"
                );
                // Both families come by here; once is enough.
                if !problems.iter().any(|(_, known)| *known == message) {
                    problems.push((ProblemKind::Invalid, message));
                }
                return Admitted::Nobody;
            }
        }
    }
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return Admitted::Everyone;
    }
    // A node that calls one of these addresses has it as its source address (rule L2).
    if settings.own_addresses.iter().any(|own| ranges.iter().any(|range| range.contains(own))) {
        ranges.extend(vips.iter().filter(|vip| Family::of(**vip) == family).map(|vip| IpNet::from(*vip)));
    }
    let ranges = IpNet::aggregate(&ranges);
    if ranges.len() > SOURCE_RANGES_MAX {
        let message = format!(
            "spec.loadBalancerSourceRanges: {} {family} ranges are over the limit of {SOURCE_RANGES_MAX}; the load-balancer addresses are closed to everyone",
            ranges.len()
        );
        problems.push((ProblemKind::Limit, message));
        return Admitted::Nobody;
    }
    Admitted::Ranges(ranges)
}
