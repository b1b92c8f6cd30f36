//! `networking.k8s.io/v1 ServiceCIDR`

use super::{Condition, ObjectMeta, is_default};
use serde::{Deserialize, Serialize};

/// `networking.k8s.io/v1 ServiceCIDR`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceCidr {
    /// The name has no meaning but `kubernetes` is the first one.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// The networks.
    #[prost(message, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub spec: ServiceCidrSpec,
    /// Whether addresses are given out of it.
    #[prost(message, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub status: ServiceCidrStatus,
}

/// `networking.k8s.io/v1 ServiceCIDRSpec`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// At most one a family.
    #[prost(string, repeated, tag = "1")]
    pub cidrs: Vec<String>,
}

/// `networking.k8s.io/v1 ServiceCIDRStatus`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceCidrStatus {
    /// Type `Ready`.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
}
