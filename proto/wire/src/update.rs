//! What the control plane tells the dataplane.
//!
//! A conversation is a sequence of transactions. Each is any number of `Put…` and `Drop…` records and one [`Update::Commit`];
//! nothing takes effect before the `Commit`, and then all of it does, for all workers. A transaction that starts with
//! [`Update::Reset`] is a full snapshot: what it does not put is gone after its `Commit`. The dataplane diffs a snapshot against what it
//! has by identity ([`ServiceKey`], backend address and port), so a snapshot of what it already knows changes nothing.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The transport protocols a Service port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293; IP protocol 6.
    Tcp,
    /// RFC 768; IP protocol 17.
    Udp,
    /// RFC 9260; IP protocol 132.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Identity of one Service port, e.g. `default/web:http/TCP/IPv4` (rule S3: namespace, name, port name, protocol; one per family).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceKey(pub String);

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How packets of a Service are carried to its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Full NAT: destination becomes the backend, source comes from the SNAT pool.
    #[default]
    Nat,
    /// The destination becomes the backend, the client's address stays; replies are routed back through the gateway (rule A2). The
    /// client's port stays too, unless it is taken or its replies would reach another worker.
    Dnat,
    /// Direct server return: the packet stays as it is and travels in another, whose destination is the backend (RFC 2003, RFC 2473). The backend
    /// has the frontend's address, listens on the frontend's port, and answers the client itself. A flow that this cannot be done for, since
    /// the backend's port is another or the client is the backend, is carried by [`Mode::Nat`].
    DsrIpip,
}

/// Which backends of a Service port take new flows (rules E1 to E3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendSet {
    /// Those of the whole cluster, narrowed by topology.
    #[default]
    Cluster,
    /// Those on the node this gateway acts as.
    Local,
}

/// What a packet of no live flow meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Treatment {
    /// What happens to it.
    pub action: Action,
    /// Whom it may reach.
    pub set: BackendSet,
    /// How it is carried.
    pub mode: Mode,
}

impl Treatment {
    /// To any backend by full NAT.
    pub const FORWARD: Self = Self { action: Action::Forward, set: BackendSet::Cluster, mode: Mode::Nat };
}

/// What a frontend does with a packet of no live flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Choose a backend. With no usable backend it behaves as [`Action::Reject`] (rule N1).
    Forward,
    /// Answer ICMP "port unreachable" (rule N1).
    Reject,
    /// Drop silently.
    Drop,
}

/// Which face of a Service a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrontendKind {
    /// An address of the Service CIDR.
    ClusterIp,
    /// An address of the gateway and a port of the NodePort range.
    NodePort,
    /// An address of a load-balancer pool.
    LoadBalancer,
    /// An address of `spec.externalIPs`.
    ExternalIp,
}

/// What a packet must be addressed to. At most one frontend has a given key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrontendKey {
    /// Destination address.
    pub address: IpAddr,
    /// Destination port, 1 to 65535.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, SocketAddr::new(self.address, self.port))
    }
}

/// A frontend: an address, port and protocol that Turnpike answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// What packets are addressed to.
    pub key: FrontendKey,
    /// The Service port it belongs to; put in the same or an earlier transaction.
    pub service: ServiceKey,
    /// Which face it is. The Service's source ranges guard [`FrontendKind::LoadBalancer`] alone (rules L1, P3).
    pub kind: FrontendKind,
    /// What clients outside the cluster meet.
    pub outside: Treatment,
    /// What pods of the cluster ([`Cluster::pod_networks`]) meet (rule A3, and the right column of rule N's table).
    pub inside: Treatment,
}

/// How a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// It is ready.
    Ready,
    /// It is not ready, and takes new flows only as the fall-back of rules E2 and E3.
    Terminating,
}

/// One backend of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// The pod's address and port. The identity of a backend within its Service port.
    pub address: SocketAddr,
    /// Share of new flows relative to the others, 0 to [`crate::limits::WEIGHT_MAX`].
    pub weight: u16,
    /// Whether it is ready or terminating.
    pub state: BackendState,
    /// Whether it takes new flows of frontends that use [`BackendSet::Cluster`].
    pub in_cluster_set: bool,
    /// Whether it takes new flows of frontends that use [`BackendSet::Local`].
    pub in_local_set: bool,
    /// Whether live UDP flows may stay with it (rules U1, U2). A backend in neither set is there for its live flows alone.
    pub serving: bool,
}

impl Backend {
    /// Whether it takes new flows of a set.
    #[must_use]
    pub const fn is_in(&self, set: BackendSet) -> bool {
        match set {
            BackendSet::Cluster => self.in_cluster_set,
            BackendSet::Local => self.in_local_set,
        }
    }
}

/// A Service port without its backends and frontends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Identity.
    pub key: ServiceKey,
    /// Session affinity by client address (rule F1), in seconds since the client's last new flow; 0: none.
    pub affinity_timeout_s: u32,
    /// Who may open flows to its load-balancer addresses (rule L1); empty: everyone. Of its own family, at most
    /// [`crate::limits::SOURCE_RANGES_MAX`].
    pub source_ranges: Vec<IpNet>,
    /// How its flows are followed.
    pub tracking: Tracking,
    /// Whether backends behind full NAT get the PROXY protocol, version 2, in front of each TCP connection.
    pub proxy_protocol: bool,
}

/// How the flows of a Service port are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// How long a TCP flow may be idle once it is established, in seconds, at least [`crate::limits::TCP_ESTABLISHED_TIMEOUT_S_MIN`].
    pub tcp_established_s: u32,
    /// The same while it opens or closes, at least [`crate::limits::TCP_TRANSITORY_TIMEOUT_S_MIN`].
    pub tcp_transitory_s: u32,
    /// The same of a UDP flow, at least [`crate::limits::UDP_TIMEOUT_S_MIN`].
    pub udp_s: u32,
    /// What becomes of a TCP segment of no known flow that opens none.
    pub midstream: Midstream,
}

impl Default for Tracking {
    fn default() -> Self {
        Self {
            tcp_established_s: crate::limits::TCP_ESTABLISHED_TIMEOUT_S_MIN,
            tcp_transitory_s: crate::limits::TCP_TRANSITORY_TIMEOUT_S_MIN,
            udp_s: crate::limits::UDP_TIMEOUT_S_DEFAULT,
            midstream: Midstream::Reset,
        }
    }
}

/// What becomes of a TCP segment of no known flow that opens none: its connection is older than the gateway's memory of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Midstream {
    /// It is dropped and answered with a reset.
    #[default]
    Reset,
    /// It is dropped.
    Drop,
    /// It goes where a new flow would go. That continues the connection where clients keep their address and every gateway chooses the same
    /// backend; by full NAT the backend sees a stranger and resets it.
    Forward,
}

/// What the networks of the cluster are, and which ports of the host it uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Those of cluster addresses: one that no Service has is dropped silently (rule N4). At most [`crate::limits::NETWORKS_MAX`].
    pub service_networks: Vec<IpNet>,
    /// Those of pods: their clients count as inside. At most [`crate::limits::NETWORKS_MAX`].
    pub pod_networks: Vec<IpNet>,
    /// Health check ports of Services outside of the NodePort range, ascending: never used as SNAT ports where the host's kernel answers them.
    /// The lowest [`crate::limits::HEALTH_CHECK_PORTS_MAX`] of them.
    pub health_check_ports: Vec<u16>,
}

/// Settings that come through etcd, so that every gateway of a fleet has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    /// Key of the hash that chooses Maglev slots; shared, so that every gateway chooses the same backend.
    pub maglev_key: [u64; 2],
    /// First and last port of the NodePort range: never used as SNAT ports.
    pub node_ports: (u16, u16),
}

/// One record down the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// Starts a full snapshot: everything not put before the next [`Update::Commit`] is dropped by it.
    Reset,
    /// Sets what the whole fleet shares.
    PutFleet(Fleet),
    /// Sets the networks of the cluster; none before the first.
    PutCluster(Cluster),
    /// Adds or replaces a Service port; its backends stay.
    PutService(Service),
    /// Removes a Service port and its backends. Its frontends must be dropped in the same transaction.
    DropService(ServiceKey),
    /// Adds or replaces a backend of a Service port put before.
    PutBackend(ServiceKey, Backend),
    /// Removes a backend.
    DropBackend(ServiceKey, SocketAddr),
    /// Adds or replaces a frontend.
    PutFrontend(Frontend),
    /// Removes a frontend.
    DropFrontend(FrontendKey),
    /// Makes everything since the last `Commit` take effect at once.
    Commit(Commit),
    /// Asks how many flows are live, by frontend and backend. No part of a transaction: it may stand anywhere and is not counted in
    /// [`Commit::records`]. A new question takes the place of one that is not answered yet.
    CountFlows {
        /// Comes back in the answer.
        question: u64,
    },
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Counts transactions of one control plane process, from 1; strictly growing by 1.
    pub generation: u64,
    /// The etcd revision this state is of.
    pub revision: i64,
    /// Number of records since the previous `Commit`, without this one; a mismatch refuses the transaction.
    pub records: u64,
}
