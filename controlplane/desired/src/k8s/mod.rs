//! The Kubernetes objects a gateway reads, one Rust type for both encodings.
//!
//! Each type is a `prost::Message` with the field numbers of the public `generated.proto` files (what etcd holds), and a serde type
//! with the names of the Kubernetes JSON (what manifests hold). A manifest therefore becomes the stored form and back without a second
//! model in between.
//!
//! Only fields that a gateway uses are here. Others are skipped by their wire type when a value is decoded, without a copy;
//! `metadata.managedFields`, over half of most values, is one of them. Fields that are plain values in Go are `required` in prost's
//! sense: always written, and their zero value when absent, as Go does. Pointers are `optional`: their presence means something.
//!
//! Why these and not a published crate: `k8s-openapi` has the JSON form alone, `k8s-pb` is declared a work in progress, has no JSON that
//! matches manifests, and decodes every field of every object, which for Pods and managed fields is most of the work.

mod endpoint_slice;
mod int_or_string;
mod meta;
mod node;
mod pod;
mod range_allocation;
mod service;
mod service_cidr;
mod time;

pub use endpoint_slice::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
pub use int_or_string::{IntOrString, PortRef};
pub use meta::{Condition, ObjectMeta, ObjectReference, OwnerReference};
pub use node::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, Taint};
pub use pod::{
    Container, ContainerPort, HostIp, Pod, PodCondition, PodIp, PodReadinessGate, PodSpec, PodStatus,
};
pub use range_allocation::RangeAllocation;
pub use service::{
    ClientIpConfig, LoadBalancerIngress, LoadBalancerStatus, PortStatus, Service, ServicePort, ServiceSpec,
    ServiceStatus, SessionAffinityConfig,
};
pub use service_cidr::{ServiceCidr, ServiceCidrSpec, ServiceCidrStatus};
pub use time::Time;

/// Whether a value is its type's default, which JSON leaves out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
