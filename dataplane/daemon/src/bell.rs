//! [`Bell`]: how a worker that waits for frames is woken by what comes for it elsewhere: from another worker, or from the host's kernel.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

/// One worker's. The others look whether it sleeps behind each frame that they leave for it, and ring only then.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Bell {
    sleeps: AtomicBool,
    event: OwnedFd,
}

// A worker that goes to sleep writes no line that the others look at for another one.
const _: () = assert!(align_of::<Bell>() == 128 && size_of::<Bell>() == 128);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { sleeps: AtomicBool::new(false), event })
    }

    /// Wakes the worker, if it sleeps. Called by others behind what they left for it.
    pub(crate) fn ring(&self) {
        // Either this thread sees that the worker sleeps, or the worker sees what was left, as it looks once more behind its own fence.
        fence(Ordering::SeqCst);
        if self.sleeps.load(Ordering::Relaxed) && self.sleeps.swap(false, Ordering::Relaxed) {
            // It can only fail when it was rung four billion times, and then it rings.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// From now on others ring. The worker looks once more whether something was left for it, and only then waits.
    pub(crate) fn lie_down(&self) {
        self.sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Waits until one of `wakes` is readable, somebody rings, or `limit` is over.
    pub(crate) fn wait(&self, wakes: &[OwnedFd], limit: Duration) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        let mut fds: Vec<PollFd<'_>> =
            wakes.iter().chain([&self.event]).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let Ok(1..) = poll(&mut fds, Some(&timeout)) else { return };
        // Whoever rang may have done so later than it was looked for: then this wait is over at once, and only this one.
        if fds.last().is_some_and(|event| event.revents().contains(PollFlags::IN)) {
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
        let failed =
            |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        if fds.iter().any(failed) {
            // A socket whose interface went down says so at every call until it was asked why. What it says does not matter here.
            for wake in wakes {
                let _: Result<Result<(), Errno>, Errno> = rustix::net::sockopt::socket_error(wake);
            }
            std::thread::sleep(limit);
        }
    }

    /// Nobody rings any more.
    pub(crate) fn get_up(&self) {
        self.sleeps.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;
    use std::time::Instant;

    const LONG: Duration = Duration::from_millis(900);

    #[test]
    fn a_sleeper_is_woken_and_nobody_else_is_rung_for() {
        let bell = Arc::new(Bell::new().unwrap());
        bell.ring();
        bell.lie_down();
        let started = Instant::now();
        bell.wait(&[], Duration::from_millis(5));
        assert!(started.elapsed() >= Duration::from_millis(5), "rung before it slept");
        let other = Arc::clone(&bell);
        let ringing = std::thread::spawn(move || other.ring());
        let started = Instant::now();
        bell.wait(&[], LONG);
        assert!(started.elapsed() < LONG / 2);
        ringing.join().unwrap();
        bell.get_up();
        bell.lie_down();
        let started = Instant::now();
        bell.wait(&[], Duration::from_millis(5));
        assert!(started.elapsed() >= Duration::from_millis(5), "an old ring wakes nobody");
        bell.get_up();
    }

    #[test]
    fn a_late_ring_wakes_once() {
        let bell = Bell::new().unwrap();
        rustix::io::write(&bell.event, &1u64.to_ne_bytes()).unwrap();
        let started = Instant::now();
        bell.lie_down();
        bell.wait(&[], LONG);
        bell.get_up();
        assert!(started.elapsed() < LONG / 2);
        let started = Instant::now();
        bell.lie_down();
        bell.wait(&[], Duration::from_millis(5));
        assert!(started.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn a_frame_wakes() {
        let bell = Bell::new().unwrap();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.send(b"a frame").unwrap();
        let started = Instant::now();
        bell.lie_down();
        bell.wait(&[ours.into()], LONG);
        bell.get_up();
        assert!(started.elapsed() < LONG / 2);
    }

    #[test]
    fn a_socket_that_fails_does_not_keep_the_worker_awake() {
        let bell = Bell::new().unwrap();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        drop(theirs);
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        let started = Instant::now();
        bell.wait(&[ours.into()], Duration::from_millis(5));
        assert!(started.elapsed() >= Duration::from_millis(5));
    }
}
