//! What all objects have: names, labels, owners, conditions.

use super::{Time, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `metav1.ObjectMeta`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Last segment of the key.
    #[prost(string, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Prefix from which the writer made the name.
    #[prost(string, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub generate_name: String,
    /// Segment of the key before the name; empty for objects of the whole cluster.
    #[prost(string, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Tells an object from its successor of the same name.
    #[prost(string, required, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub uid: String,
    /// Empty in storage; etcd's `mod_revision` as text in JSON.
    #[prost(string, required, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub resource_version: String,
    /// Counts changes of the spec.
    #[prost(int64, required, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub generation: i64,
    /// Decides which of two Services keeps an address.
    #[prost(message, required, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub creation_timestamp: Time,
    /// Set while the object is on its way out.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub deletion_timestamp: Option<Time>,
    /// Time it has for that, in seconds.
    #[prost(int64, optional, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub deletion_grace_period_seconds: Option<i64>,
    /// For selectors.
    #[prost(btree_map = "string, string", tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// For settings.
    #[prost(btree_map = "string, string", tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
    /// What this object goes away with.
    #[prost(message, repeated, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub owner_references: Vec<OwnerReference>,
    /// Who must agree before it is gone.
    #[prost(string, repeated, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub finalizers: Vec<String>,
}

impl ObjectMeta {
    /// Gives a new object its identity; what is set already stays.
    pub fn stamp(&mut self, uid: &str, now: Time) {
        if self.uid.is_empty() {
            uid.clone_into(&mut self.uid);
        }
        if self.creation_timestamp.is_unset() {
            self.creation_timestamp = now;
        }
    }
}

/// `metav1.OwnerReference`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Kind of the owner.
    #[prost(string, required, tag = "1")]
    pub kind: String,
    /// Its name; its namespace is the object's.
    #[prost(string, required, tag = "3")]
    pub name: String,
    /// Its identity.
    #[prost(string, required, tag = "4")]
    pub uid: String,
    /// API version of the owner's kind.
    #[prost(string, required, tag = "5")]
    pub api_version: String,
    /// Whether the owner manages the object.
    #[prost(bool, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub controller: Option<bool>,
    /// Whether the owner waits for the object when it is deleted.
    #[prost(bool, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub block_owner_deletion: Option<bool>,
}

/// `metav1.Condition`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[prost(string, required, tag = "1")]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[prost(string, required, tag = "2")]
    pub status: String,
    /// `metadata.generation` it was set for.
    #[prost(int64, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub observed_generation: i64,
    /// When the status changed last.
    #[prost(message, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub last_transition_time: Time,
    /// In one word.
    #[prost(string, required, tag = "5")]
    pub reason: String,
    /// In one sentence.
    #[prost(string, required, tag = "6")]
    pub message: String,
}

/// `v1.ObjectReference`
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Kind of the object.
    #[prost(string, required, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub kind: String,
    /// Its namespace.
    #[prost(string, required, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Its name.
    #[prost(string, required, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Its identity.
    #[prost(string, required, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub uid: String,
    /// API version of its kind.
    #[prost(string, required, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub api_version: String,
    /// One version of it.
    #[prost(string, required, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub resource_version: String,
    /// One part of it.
    #[prost(string, required, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub field_path: String,
}
