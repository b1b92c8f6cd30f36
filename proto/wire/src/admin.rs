//! Requests and answers of the control plane's Unix socket.
//!
//! A connection carries any number of exchanges: one [`Request`] as JSON on a line, then one [`Reply`] as JSON on a line.
//! Names are stable; units stand in the names.

use crate::update::{Action, FrontendKind, Mode, Protocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Longest request or reply line, in bytes.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// What the CLI asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Create or change objects. All are validated before any is written.
    Apply {
        /// Kubernetes objects as JSON, in the order of the manifest.
        objects: Vec<serde_json::Value>,
        /// Do everything but write.
        #[serde(default)]
        dry_run: bool,
    },
    /// Tell what applying these objects would change.
    Plan {
        /// Kubernetes objects as JSON, in the order of the manifest.
        objects: Vec<serde_json::Value>,
    },
    /// Delete objects.
    Delete {
        /// Which.
        objects: Vec<ObjectName>,
        /// A missing object is no error.
        ignore_not_found: bool,
    },
    /// List objects or resolved state.
    Get {
        /// What to list.
        resource: Resource,
        /// One namespace; none: all.
        namespace: Option<String>,
        /// One name; none: all.
        name: Option<String>,
        /// Frontends as this client meets them; none: as clients outside the cluster do.
        #[serde(default)]
        client: Option<IpAddr>,
    },
    /// How the gateway is.
    Status,
    /// Take the view of etcd that is held back because it has shrunk.
    AcceptView,
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectName {
    /// `Service`, `Pod`, `Node` or `EndpointSlice`.
    pub kind: String,
    /// Empty for a Node.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// v1 Service objects.
    Services,
    /// The merged endpoints of each Service.
    Endpoints,
    /// discovery.k8s.io/v1 EndpointSlice objects.
    EndpointSlices,
    /// v1 Pod objects.
    Pods,
    /// v1 Node objects.
    Nodes,
    /// Every address, port and protocol that is answered ([`FrontendView`]).
    Frontends,
    /// Every backend of every Service port ([`BackendView`] with its Service).
    Backends,
    /// Gateways of the fleet.
    Gateways,
    /// NICs of the dataplane.
    Ports,
    /// Workers of the dataplane.
    Workers,
}

/// What the control plane answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Apply`] and [`Request::Delete`]: one line per object, in order.
    Changed {
        /// What happened to each.
        results: Vec<Change>,
    },
    /// To [`Request::Plan`].
    Planned(Box<Planned>),
    /// To [`Request::Get`].
    Items {
        /// Objects, or [`FrontendView`]s and the like, as JSON.
        items: Vec<serde_json::Value>,
    },
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::AcceptView`]: what was held back and is in force now.
    Accepted(HeldBack),
    /// Refused; nothing was changed.
    Error {
        /// Names the thing and the mend; may have several lines.
        message: String,
    },
}

/// What happened to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The object.
    pub object: ObjectName,
    /// `created`, `configured`, `unchanged`, `deleted` or `not found`.
    pub outcome: String,
    /// Things that are odd but no errors, e.g. fields Turnpike does not use.
    pub warnings: Vec<String>,
}

/// What applying objects would change. Addresses and ports that the objects do not ask for are examples: when they are applied, others may
/// be chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// One for each object, in order.
    pub objects: Vec<PlannedObject>,
    /// Frontends that would come, change or go.
    pub frontends: Vec<PlannedFrontend>,
    /// Backends that would come, change or go.
    pub backends: Vec<PlannedBackend>,
    /// Live flows; none: unknown, for the reason in `flows_unknown`.
    pub flows: Option<PlannedFlows>,
    /// Why the flows are unknown.
    pub flows_unknown: Option<String>,
}

/// What would happen to one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedObject {
    /// The object.
    pub object: ObjectName,
    /// `created`, `configured` or `unchanged`.
    pub outcome: String,
    /// What differs, of an object that is configured.
    pub fields: Vec<FieldChange>,
    /// Things that are odd but no errors.
    pub warnings: Vec<String>,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// E.g. `spec.ports[0].port`.
    pub path: String,
    /// Its value now; none: it is not there.
    pub before: Option<serde_json::Value>,
    /// Its value then; none: it would not be there.
    pub after: Option<serde_json::Value>,
}

/// How something would differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It is not there now.
    Appears,
    /// It is there now and then, and is not the same.
    Changes,
    /// It would not be there any more.
    Goes,
}

/// A frontend that would come, change or go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFrontend {
    /// Which of them.
    pub change: Difference,
    /// As it would be; one that goes as it is.
    pub frontend: FrontendView,
}

/// A backend of a Service port that would come, change or go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedBackend {
    /// Which of them.
    pub change: Difference,
    /// Of the Service.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The Service port's name, may be empty.
    pub port_name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// As it would be; one that goes as it is.
    pub backend: BackendView,
}

/// What would become of live flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFlows {
    /// All live flows.
    pub live: u64,
    /// Those whose frontend or backend would go.
    pub touched: u64,
    /// Of those touched: UDP flows that would be ended, so that their clients reach another backend (rule U1).
    pub ends: u64,
    /// Of those touched: flows that would stay where they are until their ends close them (rule U5).
    pub stay: u64,
}

/// One element of `turnpike get frontends -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendView {
    /// Of the Service.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The Service port's name, may be empty.
    pub port_name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address that is answered.
    pub address: IpAddr,
    /// Port that is answered.
    pub port: u16,
    /// Which face it is.
    pub kind: FrontendKind,
    /// What happens to a packet of no live flow.
    pub action: Action,
    /// How packets are carried.
    pub mode: Mode,
    /// Who may get them.
    pub backends: Vec<BackendView>,
    /// Session affinity by client address, in seconds; 0: none.
    pub affinity_timeout_s: u32,
    /// Who may connect; empty: everyone.
    pub source_ranges: Vec<String>,
    /// etcd revision of the youngest object this is made from.
    pub from_revision: i64,
}

/// One backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// `ready` or `terminating`.
    pub state: crate::update::BackendState,
    /// Share of new flows.
    pub weight: u16,
    /// Kubernetes node, may be empty.
    pub node: String,
    /// Topology zone, may be empty.
    pub zone: String,
}

/// How the gateway is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's name.
    pub gateway: String,
    /// Version of the control plane.
    pub version: String,
    /// Cluster mode: `standalone` or `kubernetes`.
    pub mode: String,
    /// The source of truth.
    pub etcd: EtcdStatus,
    /// What was made of it.
    pub objects: ObjectsStatus,
    /// The packet path.
    pub dataplane: DataplaneStatus,
    /// The DNS server.
    #[serde(default)]
    pub dns: DnsStatus,
    /// What goes back to the Kubernetes API.
    #[serde(default)]
    pub kubernetes: KubernetesStatus,
    /// The servers of health checks and metrics.
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// How full what is bounded on the packet path is.
    #[serde(default)]
    pub fill: FillStatus,
}

/// How full what is bounded on the packet path is. What is full refuses new flows and harms none that lives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FillStatus {
    /// SNAT ports there are towards each backend and protocol, over all SNAT addresses of one family: the one that has fewer.
    pub snat_ports: u64,
    /// The backends towards which most of them are in use, the fullest first; a few.
    pub backends: Vec<BackendFill>,
    /// Backends towards which 70 % are in use, those with 90 % included.
    pub backends_over_70_percent: u64,
    /// Backends towards which 90 % are in use.
    pub backends_over_90_percent: u64,
    /// Age of these figures, in milliseconds; none: nothing was counted yet.
    pub age_ms: Option<u64>,
    /// What is over 70 or 90 %, with the mend.
    pub warnings: Vec<String>,
}

/// SNAT ports in use towards one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendFill {
    /// The pod's address and port.
    pub backend: std::net::SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// SNAT ports in use towards it.
    pub ports: u64,
    /// Share of those there are.
    pub percent: u64,
}

/// The source of truth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EtcdStatus {
    /// `connected`, `connecting` or `disconnected`.
    pub state: String,
    /// Where.
    pub endpoints: Vec<String>,
    /// Whether it is the private etcd.
    pub private: bool,
    /// Last revision seen.
    pub revision: i64,
    /// Last error, if any.
    pub last_error: Option<String>,
    /// Times the watch had to be made anew.
    pub reconnects: u64,
    /// Times everything had to be listed anew because history was compacted.
    pub relists: u64,
    /// The member that is watched, and its version; empty before there was one.
    #[serde(default)]
    pub member: String,
    /// Time since the member said anything, in milliseconds; none: it never did.
    #[serde(default)]
    pub last_heard_ms: Option<u64>,
    /// Times changes were taken before all watches were known to be equally far, because waiting took too long.
    #[serde(default)]
    pub cuts_forced: u64,
    /// What is done without, e.g. objects that may not be read, with the mend.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// A view of etcd that is not in force because too much is gone from it.
    #[serde(default)]
    pub held_back: Option<HeldBack>,
}

/// A list of all objects that lacks so much of what was known that it is not taken; the state before stays in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Services known before.
    pub services_before: u64,
    /// Services in the list.
    pub services_now: u64,
    /// Endpoints known before.
    pub endpoints_before: u64,
    /// Endpoints in the list.
    pub endpoints_now: u64,
    /// Since when, in seconds since 1970.
    pub since_unix_s: u64,
    /// What is gone, and the mend.
    pub reason: String,
}

/// What was made of etcd's objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectsStatus {
    /// Service objects.
    pub services: u64,
    /// EndpointSlice objects.
    pub endpoint_slices: u64,
    /// Pod objects.
    pub pods: u64,
    /// Node objects.
    pub nodes: u64,
    /// Resolved frontends.
    pub frontends: u64,
    /// Resolved backends over all Service ports.
    pub backends: u64,
    /// Objects that were skipped: key and reason.
    pub skipped: Vec<Skipped>,
}

/// An object in etcd that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// etcd key.
    pub key: String,
    /// etcd revision of the value.
    pub revision: i64,
    /// What is wrong.
    pub reason: String,
}

/// The DNS server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// The cluster's domain.
    pub zone: String,
    /// `serving`, `waiting` (for the first complete view of the cluster) or `off`.
    pub state: String,
    /// etcd revision of the names.
    pub revision: i64,
    /// Services that have names.
    pub services: u64,
    /// Addresses that lead back to names.
    pub addresses: u64,
    /// Where it is asked.
    pub listeners: Vec<DnsPeer>,
    /// Whom it asks for other names.
    pub upstream: Vec<DnsPeer>,
    /// Questions and answers by name.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// A socket of the DNS server, or a server that it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsPeer {
    /// Where.
    pub address: std::net::SocketAddr,
    /// `udp` or `tcp`; empty: both.
    pub transport: String,
    /// Of a socket: `listening` or `failed`; of a server: `good`, `failing` or `loop` (it asks us in turn, and is not asked any more).
    pub state: String,
    /// What is wrong, if anything.
    pub last_error: Option<String>,
}

/// What goes back to the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesStatus {
    /// `off` (no kubeconfig), `waiting` (another gateway writes), `writing` or `failing`.
    pub state: String,
    /// The API server.
    pub server: String,
    /// Changes that were written.
    pub written: u64,
    /// Last error, with the mend.
    pub last_error: Option<String>,
}

/// A server of the control plane for other machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Where.
    pub address: std::net::SocketAddr,
    /// What for.
    pub purpose: String,
    /// `listening` or `failed`.
    pub state: String,
    /// Why it does not listen.
    pub last_error: Option<String>,
}

/// The packet path as the control plane sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// `serving`, `stale` (no heartbeat) or `absent`.
    pub state: String,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// Last generation sent.
    pub published_generation: u64,
    /// etcd revision of it.
    pub published_revision: i64,
    /// Last generation adopted by every worker.
    pub adopted_generation: u64,
    /// etcd revision of it.
    pub adopted_revision: i64,
    /// From published to adopted, of the last generation, in microseconds.
    pub last_adoption_us: Option<u64>,
    /// Full snapshots sent since the control plane started.
    pub snapshots: u64,
    /// Transactions the dataplane refused.
    pub refused: u64,
    /// Last complaint of the dataplane.
    pub last_complaint: Option<String>,
    /// Workers, by their counter pages.
    pub workers: Vec<WorkerStatus>,
    /// NICs.
    pub ports: Vec<PortStatus>,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// From 0.
    pub worker: u32,
    /// CPU core.
    pub core: u32,
    /// Generation it has adopted.
    pub generation: u64,
    /// Live flows.
    pub flows: u64,
    /// Flows it can hold.
    pub flows_max: u64,
    /// Live flows over IPv6 among them, which have a table of their own.
    #[serde(default)]
    pub ipv6_flows: u64,
    /// Flows over IPv6 it can hold.
    #[serde(default)]
    pub ipv6_flows_max: u64,
    /// NUMA node of its core; none where the host does not say.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// Bytes of a page of its flow table: 1 GiB, 2 MiB, or 4 KiB, which the kernel may have joined.
    #[serde(default)]
    pub flow_page_bytes: u64,
    /// NUMA node of its flow table.
    #[serde(default)]
    pub flow_numa_node: Option<u32>,
    /// Every verdict and other counter by name.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// One NIC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Name in the configuration.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// Driver.
    pub driver: String,
    /// Ethernet address.
    pub mac: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// How replies find their worker: `rss` or `handoff`.
    pub steering: String,
    /// Its VLAN; none: frames without a tag.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// NUMA node of its device; none: virtual, or the host has one node.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// What its driver does beside receiving and sending: `none`, or words with commas between.
    #[serde(default)]
    pub offloads: String,
    /// Every counter by name.
    pub counters: std::collections::BTreeMap<String, u64>,
}
