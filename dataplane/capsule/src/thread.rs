//! Worker threads: pinned to a core, known to DPDK.

use crate::{errno, error_text};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::marker::PhantomData;

/// Why a thread cannot be a worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThreadError {
    /// The core is missing, or not given to this process.
    #[error("core {core} is not on this host or not given to this process; it may use {available}")]
    NoCore {
        /// The core asked for.
        core: u16,
        /// Those that can be used.
        available: String,
    },
    /// The kernel refused to pin.
    #[error("cannot pin a thread to core {core}: {reason}")]
    Pin {
        /// The core asked for.
        core: u16,
        /// What the kernel says.
        reason: String,
    },
    /// DPDK has no place for another thread.
    #[error("DPDK takes no further thread: {0}")]
    Register(String),
}

/// The cores this process may run on, ascending.
#[must_use]
pub fn available_cores() -> Vec<u16> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .filter_map(|core| u16::try_from(core).ok())
        .collect()
}

/// The cores that this host keeps free of other tasks (`isolcpus`) and that a thread of this process may be pinned to. They are not among
/// [`available_cores`]: no thread is there that has not asked for it.
#[must_use]
pub fn isolated_cores() -> Vec<u16> {
    let listed = std::fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    // A thread of its own, because a pin cannot be taken back to what it was.
    let pinned = |core: &u16| {
        let core = *core;
        std::thread::spawn(move || pin_to_core(core)).join().is_ok_and(|pinned| pinned.is_ok())
    };
    cores_of(listed.trim()).filter(pinned).collect()
}

/// The cores of a list such as `2-5,8`, as the kernel writes it; what is no core is left out.
fn cores_of(list: &str) -> impl Iterator<Item = u16> {
    list.split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range: Option<(u16, u16)> = first.parse().ok().zip(last.parse().ok());
        range.into_iter().flat_map(|(first, last)| first..=last)
    })
}

/// Pins the calling thread to one core.
pub fn pin_to_core(core: u16) -> Result<(), ThreadError> {
    if usize::from(core) >= CpuSet::MAX_CPU {
        return Err(no_core(core));
    }
    let mut set = CpuSet::new();
    set.set(usize::from(core));
    match sched_setaffinity(None, &set) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL) => Err(no_core(core)),
        Err(e) => Err(ThreadError::Pin { core, reason: e.to_string() }),
    }
}

/// Keeps the calling thread off these cores, if there are others that it may use.
pub fn leave_cores(cores: &[u16]) -> Result<(), ThreadError> {
    let mut set = CpuSet::new();
    available_cores()
        .iter()
        .filter(|core| !cores.contains(core))
        .for_each(|core| set.set(usize::from(*core)));
    let Some(&core) = cores.first().filter(|_| set.count() > 0) else { return Ok(()) };
    sched_setaffinity(None, &set).map_err(|e| ThreadError::Pin { core, reason: e.to_string() })
}

fn no_core(core: u16) -> ThreadError {
    let cores: Vec<String> = available_cores().iter().map(u16::to_string).collect();
    ThreadError::NoCore { core, available: format!("cores {}", cores.join(", ")) }
}

/// While it lives, DPDK knows the thread that made it, and packet memory has a cache for it.
#[derive(Debug)]
pub struct Registered(PhantomData<*const ()>);

/// Makes the calling thread known to DPDK: allocating and freeing frames then goes through a cache of its own, not through the pool that
/// all threads share.
pub fn register_thread(_eal: crate::Eal) -> Result<Registered, ThreadError> {
    // SAFETY: the environment runs; the call concerns only the calling thread.
    if unsafe { dpdk_sys::rte_thread_register() } < 0 {
        return Err(ThreadError::Register(error_text(errno())));
    }
    Ok(Registered(PhantomData))
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: Registered does not leave its thread, so this is the thread that registered.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        let rows: &[(&str, &[u16])] =
            &[("", &[]), ("3", &[3]), ("2-5,8", &[2, 3, 4, 5, 8]), ("5-2", &[]), ("x,1", &[1]), ("1-", &[])];
        for (list, wanted) in rows {
            assert_eq!(cores_of(list).collect::<Vec<_>>(), *wanted, "{list:?}");
        }
        assert!(isolated_cores().iter().all(|core| !available_cores().contains(core)));
    }

    #[test]
    fn a_thread_is_pinned_to_the_core_it_names_and_no_other() {
        let core = *available_cores().last().unwrap();
        std::thread::spawn(move || {
            pin_to_core(core).unwrap();
            assert_eq!(available_cores(), vec![core]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_leaves_cores_to_others_unless_there_are_no_others() {
        let all = available_cores();
        let left = all[0];
        std::thread::spawn(move || {
            leave_cores(&[left]).unwrap();
            let rest = available_cores();
            assert_eq!(rest, if all.len() > 1 { &all[1..] } else { &all[..] });
            leave_cores(&all).unwrap();
            assert_eq!(available_cores(), rest, "there is no other");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_is_not_there_is_named_with_those_that_are() {
        for core in [u16::MAX, 1023] {
            let message = pin_to_core(core).unwrap_err().to_string();
            assert!(message.contains(&core.to_string()) && message.contains("cores 0"), "{message}");
        }
    }
}
