//! What the cluster wants: objects of Kubernetes in, updates for the dataplane out.
//!
//! A Service's walk, one file after another:
//! [`registry`] (key) → [`envelope`] (bytes → object) → [`tracker`] (all objects, what changed) → [`resolve`] (rules) → [`diff`] (updates).
//! Standalone mode walks in the other direction: [`manifest`] (JSON → object) → [`defaults`] → [`validate`] → [`allocate`] → [`envelope`];
//! [`endpoint_slices`] makes slices from selectors and pods.
//!
//! Pure: plain values in, plain values out. No I/O, no clock, no randomness of its own.
//!
//! # Rules
//!
//! Rule numbers in comments and in the names of tests mean these; paths are of kubernetes/kubernetes.
//!
//! | rule | what | where it is from |
//! |---|---|---|
//! | S1 | `ExternalName` and Services without a cluster address make no forwarding at all | `pkg/proxy/util/utils.go` |
//! | S2 | Services with `service.kubernetes.io/service-proxy-name` and slices with `service.kubernetes.io/headless` are left out | `cmd/kube-proxy/app/server.go` |
//! | S3 | one entry for each namespace, name, port name and protocol; the backend's port is the slice's | `pkg/proxy/serviceport.go` |
//! | S4 | each address family stands alone; without a cluster address of it nothing of it is answered | `pkg/proxy/util/utils.go` |
//! | S5 | external addresses and source ranges count for their own family | `pkg/proxy/serviceport.go` |
//! | S6 | a load-balancer address counts with an `ip` and `ipMode` absent or `VIP` | `pkg/proxy/serviceport.go` |
//! | S7 | slices are of type IPv4 or IPv6 and name their Service in a label | `pkg/proxy/endpointschangetracker.go` |
//! | S8 | slice ports without name or number and endpoints without address do not count; the first address is the one | `pkg/proxy/endpointslicecache.go` |
//! | S9 | slices are merged, endpoints counted once, the local record first | `pkg/proxy/endpointslicecache.go` |
//! | S10 | ready and serving absent: true; terminating absent: false | `pkg/proxy/endpointslicecache.go` |
//! | S12 | how the controller turns a pod's state into conditions | kubernetes/endpointslice `utils.go` |
//! | S13 | nothing is programmed before Services and slices were listed | `pkg/proxy/nftables/proxier.go` |
//! | E2 | all ready endpoints; if none, those that serve and terminate | `pkg/proxy/topology.go` |
//! | E4 | others get no new flows | `pkg/proxy/topology.go` |
//! | N1 | without endpoints: ICMP port unreachable | `pkg/proxy/nftables/proxier.go` |
//! | L1, L3 | source ranges guard load-balancer addresses, each family by its own | `pkg/proxy/nftables/proxier.go` |
//! | C1 | which load balancer a class means | kubernetes/cloud-provider `controllers/service/controller.go` |
//! | C4, C5 | bands of cluster addresses and NodePorts | `pkg/registry/core/service` allocators |
#![forbid(unsafe_code)]

mod address_counts;
pub mod address_guard;
pub mod allocate;
mod claims;
pub mod defaults;
pub mod desired;
pub mod diff;
pub mod endpoint_slices;
mod endpoints;
pub mod envelope;
mod frontends;
pub mod health;
pub mod k8s;
pub mod manifest;
mod names;
pub mod object;
mod policy;
pub mod registry;
pub mod resolve;
pub mod selector;
pub mod settings;
pub mod shared_map;
mod survey;
#[cfg(test)]
mod test_world;
mod topology;
pub mod tracker;
pub mod validate;
pub mod words;
