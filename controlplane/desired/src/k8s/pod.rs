//! `v1.Pod`

use super::{ObjectMeta, Time, is_default};
use serde::{Deserialize, Serialize};

/// `v1.Pod`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Labels are what selectors match.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// Node and named ports.
    #[prost(message, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub spec: PodSpec,
    /// Addresses and readiness.
    #[prost(message, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub status: PodStatus,
}

/// `v1.PodSpec`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// For their named ports.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub containers: Vec<Container>,
    /// Upper bound of a drain, in seconds.
    #[prost(int64, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub termination_grace_period_seconds: Option<i64>,
    /// Node it runs on.
    #[prost(string, required, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node_name: String,
    /// Whether its address is the node's.
    #[prost(bool, required, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub host_network: bool,
    /// Name inside `subdomain`.
    #[prost(string, required, tag = "16")]
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
    /// Service under whose name it is known to DNS.
    #[prost(string, required, tag = "17")]
    #[serde(skip_serializing_if = "is_default")]
    pub subdomain: String,
    /// Those that restart always may serve ports, too.
    #[prost(message, repeated, tag = "20")]
    #[serde(skip_serializing_if = "is_default")]
    pub init_containers: Vec<Container>,
    /// Conditions that must be true beside `Ready`.
    #[prost(message, repeated, tag = "28")]
    #[serde(skip_serializing_if = "is_default")]
    pub readiness_gates: Vec<PodReadinessGate>,
}

/// `v1.PodReadinessGate`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodReadinessGate {
    /// The condition's type.
    #[prost(string, required, tag = "1")]
    pub condition_type: String,
}

/// `v1.Container`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Unique in the pod.
    #[prost(string, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Ports that a `targetPort` may name.
    #[prost(message, repeated, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container one that serves beside the others.
    #[prost(string, optional, tag = "24")]
    #[serde(skip_serializing_if = "is_default")]
    pub restart_policy: Option<String>,
}

/// `v1.ContainerPort`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// What a `targetPort` may name.
    #[prost(string, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Port of the node; 0: none.
    #[prost(int32, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub host_port: i32,
    /// Port of the pod.
    #[prost(int32, required, tag = "3")]
    pub container_port: i32,
    /// `TCP`, `UDP` or `SCTP`; empty: `TCP`.
    #[prost(string, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Node address of `host_port`.
    #[prost(string, required, tag = "5")]
    #[serde(rename = "hostIP", skip_serializing_if = "is_default")]
    pub host_ip: String,
}

/// `v1.PodStatus`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`; empty: not known.
    #[prost(string, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub phase: String,
    /// `Ready` and others.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<PodCondition>,
    /// Its node's address.
    #[prost(string, required, tag = "5")]
    #[serde(rename = "hostIP", skip_serializing_if = "is_default")]
    pub host_ip: String,
    /// Its first address.
    #[prost(string, required, tag = "6")]
    #[serde(rename = "podIP", skip_serializing_if = "is_default")]
    pub pod_ip: String,
    /// When it was accepted.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub start_time: Option<Time>,
    /// Its addresses, one a family.
    #[prost(message, repeated, tag = "12")]
    #[serde(rename = "podIPs", skip_serializing_if = "is_default")]
    pub pod_ips: Vec<PodIp>,
    /// Its node's addresses.
    #[prost(message, repeated, tag = "16")]
    #[serde(rename = "hostIPs", skip_serializing_if = "is_default")]
    pub host_ips: Vec<HostIp>,
}

/// `v1.PodCondition`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// What it is about.
    #[prost(string, required, tag = "1")]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[prost(string, required, tag = "2")]
    pub status: String,
    /// When the status changed last.
    #[prost(message, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub last_transition_time: Time,
    /// `metadata.generation` it was set for.
    #[prost(int64, required, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub observed_generation: i64,
}

/// `v1.PodIP`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    #[prost(string, required, tag = "1")]
    pub ip: String,
}

/// `v1.HostIP`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct HostIp {
    /// The address.
    #[prost(string, required, tag = "1")]
    pub ip: String,
}
