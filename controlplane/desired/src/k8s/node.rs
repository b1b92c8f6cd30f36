//! `v1.Node`

use super::{ObjectMeta, Time, is_default};
use serde::{Deserialize, Serialize};

/// `v1.Node`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Labels tell the zone.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// Pod networks and taints.
    #[prost(message, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub spec: NodeSpec,
    /// Addresses and conditions.
    #[prost(message, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub status: NodeStatus,
}

/// `v1.NodeSpec`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// First network of its pods.
    #[prost(string, required, tag = "1")]
    #[serde(rename = "podCIDR", skip_serializing_if = "is_default")]
    pub pod_cidr: String,
    /// Identity at the provider of the machine.
    #[prost(string, required, tag = "3")]
    #[serde(rename = "providerID", skip_serializing_if = "is_default")]
    pub provider_id: String,
    /// Cordoned: takes no new pods. No reason to stop traffic.
    #[prost(bool, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub unschedulable: bool,
    /// Reasons to keep off.
    #[prost(message, repeated, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub taints: Vec<Taint>,
    /// Networks of its pods, one a family.
    #[prost(string, repeated, tag = "7")]
    #[serde(rename = "podCIDRs", skip_serializing_if = "is_default")]
    pub pod_cidrs: Vec<String>,
}

/// `v1.Taint`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// What is wrong.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Detail.
    #[prost(string, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[prost(string, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub effect: String,
    /// Since when.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub time_added: Option<Time>,
}

/// `v1.NodeStatus`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// `Ready` and others.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<NodeCondition>,
    /// Where it is reached.
    #[prost(message, repeated, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<NodeAddress>,
}

/// `v1.NodeCondition`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCondition {
    /// What it is about.
    #[prost(string, required, tag = "1")]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[prost(string, required, tag = "2")]
    pub status: String,
    /// Last sign of life.
    #[prost(message, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub last_heartbeat_time: Time,
    /// When the status changed last.
    #[prost(message, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub last_transition_time: Time,
}

/// `v1.NodeAddress`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAddress {
    /// `Hostname`, `InternalIP`, `ExternalIP`, `InternalDNS` or `ExternalDNS`.
    #[prost(string, required, tag = "1")]
    pub r#type: String,
    /// The address or name.
    #[prost(string, required, tag = "2")]
    pub address: String,
}
