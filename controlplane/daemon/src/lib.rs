//! The control plane: follows Services and endpoints in etcd, resolves them, and hands them to the dataplane.
//!
//! A Service's walk: [`etcd::source`] → `desired` (envelope → tracker → resolve → diff) → [`publish`] ═ shared memory ═ the dataplane.
//! [`state`] is what the tasks share. In standalone mode [`standalone`] writes the objects. [`admin`] answers the CLI.
#![forbid(unsafe_code)]

pub mod admin;
pub mod dns;
pub mod etcd;
pub mod fill;
pub mod fleet;
pub mod flow_census;
pub mod health;
mod http;
pub mod kubernetes;
pub mod listen;
pub mod metrics;
pub mod publish;
pub mod run;
pub mod service_manager;
pub mod standalone;
pub mod state;
pub mod view;
