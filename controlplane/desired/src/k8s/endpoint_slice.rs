//! `discovery.k8s.io/v1 EndpointSlice`

use super::{ObjectMeta, ObjectReference, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `discovery.k8s.io/v1 EndpointSlice`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// The label `kubernetes.io/service-name` names its Service.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// Who serves.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: Vec<Endpoint>,
    /// On which ports, the same for all of them.
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<EndpointPort>,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[prost(string, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub address_type: String,
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Only the first counts (rule S8).
    #[prost(string, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<String>,
    /// Whether it may have traffic.
    #[prost(message, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: EndpointConditions,
    /// For DNS.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    /// Its pod.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub target_ref: Option<ObjectReference>,
    /// Left over from v1beta1.
    #[prost(btree_map = "string, string", tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub deprecated_topology: BTreeMap<String, String>,
    /// Its node; absent: local nowhere.
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub node_name: Option<String>,
    /// Its zone.
    #[prost(string, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub zone: Option<String>,
    /// From where it should be used.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub hints: Option<EndpointHints>,
}

/// Conditions of an endpoint (rule S10).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// Absent: true.
    #[prost(bool, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub ready: Option<bool>,
    /// Absent: true.
    #[prost(bool, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub serving: Option<bool>,
    /// Absent: false.
    #[prost(bool, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub terminating: Option<bool>,
}

/// Where an endpoint should be used from.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Zones.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub for_zones: Vec<ForZone>,
    /// Nodes.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub for_nodes: Vec<ForNode>,
}

/// A zone that should use an endpoint.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ForZone {
    /// The zone's name.
    #[prost(string, required, tag = "1")]
    pub name: String,
}

/// A node that should use an endpoint.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ForNode {
    /// The node's name.
    #[prost(string, required, tag = "1")]
    pub name: String,
}

/// One port of a slice. The name is written to JSON even when it is empty: an absent name means something else (rule S8).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// Joins to `ServicePort.name`; absent: the port is not used.
    #[prost(string, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// Absent: `TCP`.
    #[prost(string, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: Option<String>,
    /// Port of the backends; absent or 0: the port is not used.
    #[prost(int32, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub port: Option<i32>,
    /// What is spoken on it.
    #[prost(string, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub app_protocol: Option<String>,
}
