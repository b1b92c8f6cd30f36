//! Standalone mode: without Kubernetes, Turnpike writes the objects itself.
//!
//! [`apply`] validates, defaults and allocates what `turnpike apply` sends; [`slices`] makes EndpointSlices from selectors and pods.
//! Everything is written in etcd transactions that fail when somebody else has written in between, and are then made anew.

pub mod apply;
pub mod slices;
pub mod transaction;
