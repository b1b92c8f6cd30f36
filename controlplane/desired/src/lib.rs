//! What the cluster wants: objects of Kubernetes in, updates for the dataplane out.
//!
//! A Service's walk, one file after another:
//! [`registry`] (key) → [`envelope`] (bytes → object) → [`tracker`] (all objects, what changed) → [`resolve`] (rules) → [`diff`] (updates).
//! Standalone mode walks in the other direction: [`manifest`] (JSON → object) → [`defaults`] → [`validate`] → [`allocate`] → [`envelope`];
//! [`endpoint_slices`] makes slices from selectors and pods.
//!
//! Pure: plain values in, plain values out. No I/O, no clock, no randomness of its own. Rule numbers (S1, E2, C4, …) are those of
//! the list of Service rules in ARCHITECTURE.md.
#![forbid(unsafe_code)]

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
pub mod k8s;
pub mod manifest;
pub mod object;
pub mod registry;
pub mod resolve;
pub mod selector;
pub mod settings;
#[cfg(test)]
mod test_world;
pub mod tracker;
pub mod validate;
pub mod words;
