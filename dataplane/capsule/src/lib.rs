//! DPDK, made safe: what Turnpike's packet path needs of it, and [`struct@Hash`] for a benchmark.
//!
//! A program starts the environment once ([`Eal::start`]), makes packet memory ([`Mempool`]) and opens ports ([`Port::open`]). Each port
//! gives as many [`Queue`]s as were asked for; a queue goes to one worker thread and is a [`turnpike_packet::io::PacketIo`] whose frames are
//! [`Mbuf`]s. A worker thread calls [`pin_to_core`] and [`register_thread`] before its first burst.
//!
//! The packet's walk starts in `rx` and ends in `tx`: `capsule/rx → forward/worker → parse → select → rewrite → capsule/tx`.
//!
//! How safety is kept
//! - Everything that needs a running environment takes an [`Eal`], and only a started environment gives one.
//! - Packet memory lives as long as the process, so an [`Mbuf`] can never outlive it.
//! - A port is stopped and closed when the last of its [`Port`] and [`Queue`]s is dropped, so no queue can outlive its port.
//! - A queue is used through `&mut`, so two threads never share one; the two ends of a [`ring`](ring()) are unique for the same reason.
//! - Calls that change ports are made under one lock; DPDK allows them from one thread at a time.

mod astray;
mod device;
mod eal;
mod hash;
mod mbuf;
mod mempool;
mod offloads;
mod port;
mod queue;
mod ring;
mod rss;
mod rx;
mod thread;
mod tx;
mod wake;

pub use astray::HashCheck;
pub use device::{Device, DeviceError};
pub use eal::{Eal, EalConfig, EalError, Memory, free_hugepages_mb};
pub use hash::{HASH_BULK, Hash, HashError};
pub use mbuf::{Mbuf, NoRoom};
pub use mempool::{Mempool, MempoolError};
pub use offloads::Offloads;
pub use port::{Link, Port, PortConfig, PortError, Stats};
pub use queue::Queue;
pub use ring::{RingConsumer, RingError, RingProducer, ring};
pub use thread::{
    Registered, ThreadError, available_cores, isolated_cores, leave_cores, pin_to_core, register_thread,
};

use std::ffi::CStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// DPDK's control calls are made by one thread at a time.
fn control() -> MutexGuard<'static, ()> {
    static CONTROL: Mutex<()> = Mutex::new(());
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error number DPDK left for the calling thread.
fn errno() -> i32 {
    // SAFETY: reads a thread-local.
    unsafe { dpdk_sys::shim_errno() }
}

/// What an error number means; DPDK's own numbers included. The sign is ignored: DPDK returns negative ones.
fn error_text(errno: i32) -> String {
    // SAFETY: rte_strerror returns a NUL-terminated string, static or of the calling thread, which is copied at once.
    unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(errno.abs())) }.to_string_lossy().into_owned()
}

/// The release of DPDK this process runs with, e.g. `DPDK 22.11.11`.
#[must_use]
pub fn dpdk_version() -> String {
    // SAFETY: returns a static NUL-terminated string.
    unsafe { CStr::from_ptr(dpdk_sys::rte_version()) }.to_string_lossy().into_owned()
}
