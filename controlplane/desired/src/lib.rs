//! What the cluster wants: objects of Kubernetes in, updates for the dataplane out.
//!
//! A Service's walk, one file after another:
//! [`registry`] (key) → [`envelope`] (bytes → object) → [`tracker`] (all objects, what changed) → [`resolve`] (rules) → [`diff`] (updates).
//! Standalone mode walks in the other direction: [`manifest`] (JSON → object) → [`defaults`] → [`validate`] → [`allocate`] → [`envelope`];
//! [`endpoint_slices`] makes slices from selectors and pods.
//!
//! Pure: plain values in, plain values out. No I/O, no clock, no randomness of its own.
//!
//! Rule numbers in comments and in the names of tests are those of `RULES.md` at the root of the repository: what each says, and its tests.
#![forbid(unsafe_code)]

pub mod address_guard;
pub mod allocate;
mod claims;
mod counts;
pub mod defaults;
pub mod desired;
pub mod diff;
mod direct_return;
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
mod proxy_protocol;
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
mod tracking;
pub mod validate;
pub mod words;
