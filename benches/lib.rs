//! Support for the benchmarks. `forwarding`: what is measured ([`subject`]), what it is compared with ([`floor`]), and how the figures are
//! told ([`statistics`], [`report`]). `sync`: what is in etcd ([`cluster`]), the real programs ([`processes`]), the figures
//! ([`sync_report`]).
//!
//! One run of `forwarding` interleaves floor and subject, so that a neighbour's load meets both; figures of different runs are never compared.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod floor;
pub mod frames;
pub mod host;
pub mod processes;
pub mod report;
pub mod statistics;
pub mod subject;
pub mod sync_report;
pub mod testpmd_output;
