//! `v1.Service`

use super::{Condition, IntOrString, ObjectMeta, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `v1.Service`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Names, labels, annotations.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// What its owner wants.
    #[prost(message, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub spec: ServiceSpec,
    /// What it was given.
    #[prost(message, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub status: ServiceStatus,
}

/// `v1.ServiceSpec`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Ports that are answered.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<ServicePort>,
    /// Labels of its pods; empty: slices are made by hand.
    #[prost(btree_map = "string, string", tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub selector: BTreeMap<String, String>,
    /// First cluster address; `None`: headless; empty: not given yet.
    #[prost(string, required, tag = "3")]
    #[serde(rename = "clusterIP", skip_serializing_if = "is_default")]
    pub cluster_ip: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`; empty: `ClusterIP`.
    #[prost(string, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub r#type: String,
    /// Deprecated by Kubernetes 1.36; not answered.
    #[prost(string, repeated, tag = "5")]
    #[serde(rename = "externalIPs", skip_serializing_if = "is_default")]
    pub external_ips: Vec<String>,
    /// `None` or `ClientIP`; empty: `None`.
    #[prost(string, required, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub session_affinity: String,
    /// Wanted load-balancer address.
    #[prost(string, required, tag = "8")]
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "is_default")]
    pub load_balancer_ip: String,
    /// Who may use the load-balancer addresses; empty: everyone.
    #[prost(string, repeated, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Name that DNS answers for an `ExternalName` Service.
    #[prost(string, required, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub external_name: String,
    /// `Cluster` or `Local`; empty: `Cluster`.
    #[prost(string, required, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub external_traffic_policy: String,
    /// Port of the health check for `externalTrafficPolicy: Local`; 0: none.
    #[prost(int32, required, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub health_check_node_port: i32,
    /// Whether pods that are not ready count as ready.
    #[prost(bool, required, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub publish_not_ready_addresses: bool,
    /// Details of the affinity.
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// `SingleStack`, `PreferDualStack` or `RequireDualStack`.
    #[prost(string, optional, tag = "17")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip_family_policy: Option<String>,
    /// Cluster addresses, one a family, the first the same as `cluster_ip`.
    #[prost(string, repeated, tag = "18")]
    #[serde(rename = "clusterIPs", skip_serializing_if = "is_default")]
    pub cluster_ips: Vec<String>,
    /// `IPv4` or `IPv6`, beside `cluster_ips`.
    #[prost(string, repeated, tag = "19")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip_families: Vec<String>,
    /// Whether a LoadBalancer Service has NodePorts; absent: yes.
    #[prost(bool, optional, tag = "20")]
    #[serde(skip_serializing_if = "is_default")]
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// Which load balancer is meant; absent: the default one.
    #[prost(string, optional, tag = "21")]
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer_class: Option<String>,
    /// `Cluster` or `Local`; absent: `Cluster`.
    #[prost(string, optional, tag = "22")]
    #[serde(skip_serializing_if = "is_default")]
    pub internal_traffic_policy: Option<String>,
    /// A wish that the slice controller turns into hints.
    #[prost(string, optional, tag = "23")]
    #[serde(skip_serializing_if = "is_default")]
    pub traffic_distribution: Option<String>,
}

/// `v1.ServicePort`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Joins the port to the ports of the slices.
    #[prost(string, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`; empty: `TCP`.
    #[prost(string, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Port of the cluster and load-balancer addresses.
    #[prost(int32, required, tag = "3")]
    pub port: i32,
    /// Port of the pods; only the slice controller reads it.
    #[prost(message, required, tag = "4")]
    #[serde(skip_serializing_if = "IntOrString::is_unset")]
    pub target_port: IntOrString,
    /// Port of the gateway's own addresses; 0: none.
    #[prost(int32, required, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub node_port: i32,
    /// What is spoken on it.
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub app_protocol: Option<String>,
}

/// `v1.ServiceStatus`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Load-balancer addresses.
    #[prost(message, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer: LoadBalancerStatus,
    /// Its conditions.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
}

/// `v1.LoadBalancerStatus`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// Addresses that were given.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// `v1.LoadBalancerIngress`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// An address.
    #[prost(string, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip: String,
    /// A name instead of an address.
    #[prost(string, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
    /// `VIP`: packets arrive with this destination; `Proxy`: they do not. Absent: `VIP`.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub ip_mode: Option<String>,
    /// State of each port.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<PortStatus>,
}

/// `v1.PortStatus`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortStatus {
    /// Which port.
    #[prost(int32, required, tag = "1")]
    pub port: i32,
    /// Its protocol.
    #[prost(string, required, tag = "2")]
    pub protocol: String,
    /// What is wrong with it.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub error: Option<String>,
}

/// `v1.SessionAffinityConfig`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// For `ClientIP`.
    #[prost(message, optional, tag = "1")]
    #[serde(rename = "clientIP", skip_serializing_if = "is_default")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `v1.ClientIPConfig`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// 1 to 86400; absent: 10800.
    #[prost(int32, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub timeout_seconds: Option<i32>,
}
