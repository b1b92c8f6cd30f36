//! The words Turnpike's three programs share.
//!
//! - [`update`]: what the control plane tells the dataplane (down the ring), staged until a `Commit`.
//! - [`event`]: what the dataplane tells the control plane (up the ring).
//! - [`codec`]: how either becomes the bytes of one ring record, and how hostile bytes are refused.
//! - [`config`]: the one TOML file, parsed and validated.
//! - [`admin`]: requests and answers of the control plane's Unix socket.
//! - [`dataplane`]: the same of the dataplane's own; [`filter`]: which packets and flows are meant.
//! - [`pages`]: what the dataplane's counter pages are called.
//! - [`topology`]: which NUMA node cores and devices of this host are on.
//! - [`limits`]: every limit that more than one program must agree on.
//!
//! This crate knows words and bytes; it opens no file but the configuration and those by which the kernel describes the host, and maps no memory.
#![forbid(unsafe_code)]

pub mod admin;
pub mod admin_start;
pub mod codec;
pub mod config;
mod config_devices;
mod config_dsr;
mod config_faults;
mod config_mss;
mod config_rules;
mod config_snat;
mod config_spelling;
pub mod dataplane;
pub mod event;
pub mod filter;
pub mod limits;
pub mod pages;
pub mod topology;
pub mod update;
pub mod verdicts;
