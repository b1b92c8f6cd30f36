//! Labels, annotations and other words of the objects that have a meaning here.

/// Label of a slice: the Service it belongs to (rule S7).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a slice: who writes it.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`] on the slices this gateway makes in standalone mode.
pub const MANAGED_BY: &str = "turnpike";
/// Label of Services that another proxy serves (rule S2).
pub const SERVICE_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label of slices that make no forwarding (rule S2).
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Label of a Node: its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Annotation of a Service: how its packets are carried.
pub const MODE_ANNOTATION: &str = "turnpike.dev/mode";
/// Value of [`MODE_ANNOTATION`]: packets reach backends in packets, and backends answer clients themselves.
pub const DIRECT_RETURN: &str = "dsr-ipip";
/// Annotation of a Service: how long its TCP flows may be idle once they are established, in seconds.
pub const TCP_ESTABLISHED_TIMEOUT_ANNOTATION: &str = "turnpike.dev/tcp-established-timeout";
/// Annotation of a Service: the same while they open or close.
pub const TCP_TRANSITORY_TIMEOUT_ANNOTATION: &str = "turnpike.dev/tcp-transitory-timeout";
/// Annotation of a Service: how long its UDP flows may be idle, in seconds.
pub const UDP_TIMEOUT_ANNOTATION: &str = "turnpike.dev/udp-timeout";
/// Annotation of a Service: whether its backends are told their clients in front of each TCP connection, and how.
pub const PROXY_PROTOCOL_ANNOTATION: &str = "turnpike.dev/proxy-protocol";
/// Annotation of a Service: what becomes of TCP segments in the middle of connections that the gateway does not know.
pub const TCP_MIDSTREAM_ANNOTATION: &str = "turnpike.dev/tcp-midstream";
/// Annotation of a Pod: its share of new flows, 0 to [`turnpike_wire::limits::WEIGHT_MAX`].
pub const WEIGHT_ANNOTATION: &str = "turnpike.dev/weight";
/// Annotation of a Service: the pool its load-balancer address comes from.
pub const ADDRESS_POOL_ANNOTATION: &str = "turnpike.dev/address-pool";
/// Annotation of a Service: the load-balancer addresses it asks for, one of each family, with commas between.
pub const LOAD_BALANCER_IPS_ANNOTATION: &str = "turnpike.dev/load-balancer-ips";
/// Annotation of a Service: those that carry the same value may share a load-balancer address, if their ports differ.
pub const SHARING_KEY_ANNOTATION: &str = "turnpike.dev/sharing-key";
/// Annotation of a Service from the time before `spec.loadBalancerSourceRanges`: networks with commas between.
pub const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Weight of a backend whose pod says nothing.
pub const WEIGHT_DEFAULT: u16 = 1;
/// `spec.clusterIP` of a headless Service.
pub const CLUSTER_IP_NONE: &str = "None";
/// Taint of a Node that the cluster autoscaler is about to take away (rule H6).
pub const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
