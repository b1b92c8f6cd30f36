//! Why shared memory cannot be had. Every error names the file and the mend.

use crate::ring::BadRingSize;
use std::path::PathBuf;

/// Why shared memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// The dataplane has not made it (yet).
    #[error(
        "{path} does not exist: the dataplane is not running for this gateway; start turnpike-dataplane with the same configuration"
    )]
    Absent {
        /// The file looked for.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {source}; {mend}")]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
        /// What may help.
        mend: &'static str,
    },
    /// Another process plays this part already.
    #[error("{path} is locked{}: another {role} of this gateway is running; stop it, or set another gateway.name", holder(.pid))]
    Locked {
        /// The lock.
        path: PathBuf,
        /// `dataplane` or `control plane`.
        role: &'static str,
        /// The process, if it has said so.
        pid: Option<u32>,
    },
    /// The folder may be used by others.
    #[error("{path} {reason}; remove it, or set another gateway.shm_dir")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not one of our files.
    #[error("{path} is not Turnpike's ({reason}); remove it and restart turnpike-dataplane")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// Made by another release.
    #[error(
        "{path} has layout version {found}, this program speaks {expected}: run the same release of both processes"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// This program's version.
        expected: u64,
    },
    /// A size that cannot be.
    #[error(transparent)]
    RingSize(#[from] BadRingSize),
    /// Counter pages that cannot be laid out.
    #[error("cannot lay out counter pages: {reason}")]
    Counters {
        /// What is too large.
        reason: &'static str,
    },
    /// No memory of the wanted kind.
    #[error("cannot get {bytes} bytes of {kind} memory: {source}; {mend}")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// `huge-page` or `ordinary`.
        kind: &'static str,
        /// What the system says.
        source: std::io::Error,
        /// What may help.
        mend: String,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}
