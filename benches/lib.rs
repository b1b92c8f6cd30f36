//! Support for the benchmarks: what is measured ([`subject`]), what it is compared with ([`floor`]), and how the figures are told
//! ([`statistics`], [`report`]).
//!
//! One run interleaves floor and subject, so that a neighbour's load meets both; figures of different runs are never compared.
#![forbid(unsafe_code)]

pub mod floor;
pub mod frames;
pub mod host;
pub mod report;
pub mod statistics;
pub mod subject;
pub mod testpmd_output;
