//! Support for the benchmarks. `forwarding`: what is measured ([`scenario`], [`subject`]: a [`bed`] of live flows in a [`world`] of Services,
//! flows that come and go by [`churn`], endpoints that [`changes`], somebody who keeps [`asking`]; a [`pair`] of workers; the
//! [`latency`] that a worker adds to a [`wire`] with a [`source`] at its end), what it is compared with ([`floor`]), and how the figures are told
//! ([`statistics`], [`figures`], [`past`], [`report`]).
//! `plot` draws a [`picture`] of a result. [`self_bench`] with [`self_report`]: the same for users, over rings and through NICs.
//! `tables`: a [`contest`] of flow tables, of which the [`contenders`] are Turnpike's own, hashbrown and `rte_hash`, and its [`tables_report`]; `micro`: single steps of the packet path and of the walk of Services.
//! It also counts the [`instructions`], which no load of the machine moves. `sync`: what is in etcd ([`cluster`]), the real programs ([`processes`]), the figures ([`sync_report`]).
//!
//! One run of `forwarding` interleaves floor and subject, so that a neighbour's load meets both; figures of different runs are never compared.
#![forbid(unsafe_code)]

pub mod asking;
pub mod bed;
pub mod changes;
pub mod churn;
pub mod clients;
#[cfg(feature = "sync")]
pub mod cluster;
#[cfg(feature = "tables")]
pub mod contenders;
#[cfg(feature = "tables")]
pub mod contest;
pub mod figures;
pub mod floor;
pub mod frames;
pub mod host;
pub mod instructions;
pub mod latency;
pub mod line;
pub mod pair;
pub mod past;
#[cfg(feature = "plot")]
pub mod picture;
#[cfg(feature = "sync")]
pub mod processes;
pub mod quiet;
pub mod report;
pub mod scenario;
pub mod self_bench;
pub mod self_report;
pub mod source;
pub mod statistics;
pub mod subject;
#[cfg(feature = "sync")]
pub mod sync_report;
#[cfg(feature = "tables")]
pub mod tables_report;
pub mod testpmd_output;
pub mod wire;
pub mod world;
