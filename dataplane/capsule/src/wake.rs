//! What wakes a thread that waits for frames: where a driver receives through sockets of the kernel, a queue's own socket.
//!
//! The driver net_af_packet opens one packet socket for each queue, in their order, and shows them to nobody; they are found among the
//! descriptors of this process that appear while the device is made.

use rustix::net::{AddressFamily, sockopt};
use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// The driver whose queues are packet sockets.
const DRIVER: &str = "net_af_packet";

/// The packet sockets there were before a device was made.
#[derive(Debug)]
pub(crate) struct Before(Option<BTreeSet<RawFd>>);

impl Before {
    /// Looks, if the device's queues will be packet sockets.
    pub(crate) fn look(port_name: &str) -> Self {
        Self(port_name.starts_with(DRIVER).then(packet_sockets))
    }

    /// The socket of each of so many queues; none at all if it is not clear which is whose.
    pub(crate) fn found(&self, queues: u16) -> Vec<OwnedFd> {
        let Some(before) = &self.0 else { return Vec::new() };
        // The lowest free number is given each time, so their order is that of the queues.
        let new: Vec<RawFd> = packet_sockets().difference(before).copied().collect();
        if new.len() != usize::from(queues) {
            return Vec::new();
        }
        let own: Option<Vec<OwnedFd>> = new.into_iter().map(duplicate).collect();
        own.unwrap_or_default()
    }
}

fn packet_sockets() -> BTreeSet<RawFd> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return BTreeSet::new() };
    let numbers = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|&number| with(number, |fd| sockopt::socket_domain(fd)).is_some_and(is_packet)).collect()
}

fn is_packet(family: AddressFamily) -> bool {
    family == AddressFamily::PACKET
}

fn duplicate(number: RawFd) -> Option<OwnedFd> {
    with(number, |fd| rustix::io::fcntl_dupfd_cloexec(fd, 0))
}

/// Asks the kernel something about a descriptor that was open a moment ago.
fn with<T>(number: RawFd, ask: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>) -> Option<T> {
    if number < 0 {
        return None;
    }
    // SAFETY: not -1. Nothing is read, written or closed by it; if it is closed meanwhile the kernel says so, and if it is another one by
    // then, that is no packet socket of a device that is being made, as those are made one at a time.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    ask(fd).ok()
}
