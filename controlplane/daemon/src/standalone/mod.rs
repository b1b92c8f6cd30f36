//! Standalone mode: without Kubernetes, Turnpike writes the objects itself.
//!
//! [`apply`] validates, defaults and allocates what `turnpike apply` sends; [`plan`] tells what that would change; [`slices`] makes
//! EndpointSlices from selectors and pods; [`waiting`] gives load-balancer addresses that became free to those who wait for one.
//! Everything is written in etcd transactions that fail when somebody else has written in between, and are then made anew.

pub mod apply;
pub mod plan;
pub mod slices;
pub mod transaction;
pub mod waiting;
