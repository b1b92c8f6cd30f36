//! The exception path: one thread that writes to taps what workers have for the kernel, and hands worker 0 what the kernel sends.
//!
//! Workers call no system and wake nobody, so this thread looks at their rings by itself: without a pause while there is something, then
//! after naps that grow, in which a tap with a frame to read wakes it. It leaves the workers' cores alone if there are others.

use crate::bell::Bell;
use crate::tap::{self, TapError, TapPlan};
use capsule::{Eal, Mbuf, Mempool};
use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tun_rs::SyncDevice;
use turnpike_forward::exception::{KernelEnd, Plan, Tap};
use turnpike_forward::gateway::own_addresses;
use turnpike_packet::ethernet;
use turnpike_packet::io::{BURST, Frame};
use turnpike_wire::config::local_ports;

/// Shortest and longest nap, in microseconds: what a frame for the kernel waits at most.
const NAP_US: std::ops::RangeInclusive<u64> = 20..=1_000;
/// Time between two tries to make a tap again that somebody took away.
const REMAKE_PERIOD: Duration = Duration::from_secs(5);
/// Longest frame: an IPv4 packet of any length, its Ethernet header and two VLAN tags.
const FRAME_BYTES_MAX: usize = 65_535 + ethernet::HEADER + 8;

/// What has crossed one tap.
#[derive(Debug, Default)]
pub(crate) struct TapTally {
    /// Frames that the kernel took.
    pub(crate) to_kernel: AtomicU64,
    /// Frames that the kernel sent and worker 0 got.
    pub(crate) from_kernel: AtomicU64,
    /// Frames that one or the other did not take.
    pub(crate) lost: AtomicU64,
}

/// Memory of frames.
pub(crate) trait FrameMemory {
    /// Its frames.
    type Frame: Frame;

    /// A frame that holds these bytes, if there is memory.
    fn make(&self, bytes: &[u8]) -> Option<Self::Frame>;

    /// The bytes of a frame of several segments at the start of `into`, and how many; none when there is no room.
    fn join(&self, frame: &Self::Frame, into: &mut [u8]) -> Option<usize>;
}

impl FrameMemory for Mempool {
    type Frame = Mbuf;

    fn make(&self, bytes: &[u8]) -> Option<Mbuf> {
        self.alloc_long(bytes)
    }

    fn join(&self, frame: &Mbuf, into: &mut [u8]) -> Option<usize> {
        frame.copy_into(into)
    }
}

/// One port's tap, as long as it is there.
struct Way<D> {
    tap: Option<D>,
    tally: Arc<TapTally>,
    /// When it was last tried to make it again.
    tried: Instant,
}

/// Taps on one side, rings to the workers on the other.
struct Crossing<D, M: FrameMemory> {
    ways: Vec<Option<Way<D>>>,
    workers: KernelEnd<M::Frame>,
    memory: M,
    buffer: Box<[u8]>,
}

impl<D: AsFd, M: FrameMemory> Crossing<D, M> {
    fn new(taps: Vec<Option<(D, Arc<TapTally>)>>, workers: KernelEnd<M::Frame>, memory: M) -> Self {
        let now = Instant::now();
        let ways =
            taps.into_iter().map(|tap| tap.map(|(tap, tally)| Way { tap: Some(tap), tally, tried: now }));
        Self { ways: ways.collect(), workers, memory, buffer: vec![0; FRAME_BYTES_MAX].into() }
    }

    /// A burst each way; how many frames there were.
    fn turn(&mut self) -> usize {
        self.give_to_kernel() + self.take_from_kernel()
    }

    fn give_to_kernel(&mut self) -> usize {
        for taken in 0..BURST {
            let Some(handed) = self.workers.receive() else { return taken };
            let Some(Some(way)) = self.ways.get_mut(usize::from(handed.port)) else { continue };
            let frame = &handed.frame;
            let bytes = if frame.is_contiguous() {
                Some(frame.data())
            } else {
                self.memory.join(frame, &mut self.buffer).map(|len| &self.buffer[..len])
            };
            let written = bytes.is_some_and(|bytes| way.write(bytes));
            way.tally.count(if written { &way.tally.to_kernel } else { &way.tally.lost });
        }
        BURST
    }

    fn take_from_kernel(&mut self) -> usize {
        let mut taken = 0;
        for (port, way) in (0u8..).zip(&mut self.ways) {
            let Some(way) = way else { continue };
            for _ in 0..BURST {
                // The kernel keeps what there is no room for, and drops what its queue cannot hold.
                if self.workers.room() == 0 {
                    break;
                }
                let Some(len) = way.read(&mut self.buffer) else { break };
                taken += 1;
                let frame = self.memory.make(&self.buffer[..len]);
                let handed = frame.is_some_and(|frame| self.workers.send(port, frame).is_ok());
                way.tally.count(if handed { &way.tally.from_kernel } else { &way.tally.lost });
            }
        }
        taken
    }

    /// Makes taps again that are gone. Somebody may have deleted one; the host's way to its addresses must not end for good.
    fn remake(&mut self, mut make: impl FnMut(usize) -> Option<D>) {
        for (port, way) in self.ways.iter_mut().enumerate() {
            if let Some(way) = way
                && way.tap.is_none()
                && way.tried.elapsed() >= REMAKE_PERIOD
            {
                way.tap = make(port);
                way.tried = Instant::now();
            }
        }
    }

    /// Waits until the kernel has a frame, or for this long.
    fn nap(&self, length: Duration) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: length.subsec_nanos().into() };
        // With a full ring there is nothing to wake up for.
        let listens = self.workers.room() > 0;
        let taps = self.ways.iter().flatten().filter_map(|way| way.tap.as_ref()).filter(|_| listens);
        let mut taps: Vec<PollFd<'_>> = taps.map(|tap| PollFd::new(tap, PollFlags::IN)).collect();
        // A signal ends it early, which does no harm.
        let _ = poll(&mut taps, Some(&timeout));
    }
}

impl TapTally {
    fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl<D: AsFd> Way<D> {
    /// Gives the kernel a frame; false if it does not take it.
    fn write(&mut self, frame: &[u8]) -> bool {
        let Some(tap) = &self.tap else { return false };
        let written = rustix::io::retry_on_intr(|| rustix::io::write(tap, frame));
        self.survives(written).is_some_and(|len| len == frame.len())
    }

    /// The kernel's next frame, if there is one.
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let tap = self.tap.as_ref()?;
        let read = rustix::io::retry_on_intr(|| rustix::io::read(tap, &mut *buffer));
        self.survives(read).filter(|len| *len > 0)
    }

    /// A tap that was deleted says so at every call; it is let go.
    fn survives(&mut self, outcome: Result<usize, Errno>) -> Option<usize> {
        if matches!(outcome, Err(Errno::BADFD | Errno::NODEV | Errno::BADF)) {
            self.tap = None;
        }
        outcome.ok()
    }
}

/// Taps that are made, and what workers must know of them.
pub(crate) struct Taps {
    /// For each port its tap, and how it is made again.
    taps: Vec<Option<(SyncDevice, TapPlan)>>,
    /// Of each port with a tap.
    pub(crate) tallies: Vec<Option<Arc<TapTally>>>,
}

impl Taps {
    /// Makes the taps of these plans, one for each port that has one.
    pub(crate) fn make(plans: Vec<Option<TapPlan>>) -> Result<Self, TapError> {
        let make = |plan: TapPlan| {
            let tap = tap::make(&plan)?;
            tap::warn_of_two_ways(&plan);
            tracing::info!(tap = plan.name, mtu = plan.mtu, addresses = ?plan.addresses, "the kernel has a tap");
            Ok((tap, plan))
        };
        let taps =
            plans.into_iter().map(|plan| plan.map(make).transpose()).collect::<Result<Vec<_>, TapError>>()?;
        let tallies = taps.iter().map(|tap| tap.as_ref().map(|_| Arc::default())).collect();
        Ok(Self { taps, tallies })
    }

    /// What is the kernel's through them, with the ports that Turnpike listens at there; none when there is no tap.
    pub(crate) fn plan(&self, node_ports: (u16, u16), listening: Vec<u16>) -> Option<Plan> {
        let tap = |plan: &TapPlan| Tap {
            frame_bytes_max: ethernet::HEADER + usize::from(plan.mtu),
            addresses: own_addresses(plan.addresses.iter().map(IpNet::addr), plan.mac),
        };
        let taps = self.taps.iter().map(|made| made.as_ref().map(|(_, plan)| tap(plan))).collect();
        let local = local_ports();
        let plan = Plan { taps, local_ports: (local.first, local.last), listening };
        if plan.is_empty() {
            return None;
        }
        if plan.local_ports.0 <= node_ports.1 && node_ports.0 <= plan.local_ports.1 {
            tracing::warn!(
                local_ports = ?plan.local_ports,
                ?node_ports,
                "connections of this host may use NodePorts, whose answers Services would get; set net.ipv4.ip_local_port_range apart"
            );
        }
        Some(plan)
    }
}

/// The running thread. Dropping it stops it, and its taps are gone.
pub(crate) struct ExceptionThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ExceptionThread {
    /// Starts it; the workers' cores are left to them, and worker 0 is woken for what the kernel sends.
    pub(crate) fn start(
        taps: Taps,
        workers: KernelEnd<Mbuf>,
        (eal, pool): (Eal, Mempool),
        (worker_cores, bells): (&[u16], Arc<[Bell]>),
    ) -> std::io::Result<Self> {
        let Taps { taps, tallies } = taps;
        let (taps, plans): (Vec<_>, Vec<_>) = taps.into_iter().map(Option::unzip).unzip();
        let ways = taps.into_iter().zip(tallies).map(|(tap, tally)| tap.zip(tally)).collect();
        let mut crossing = Crossing::new(ways, workers, pool);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, cores) = (Arc::clone(&stop), worker_cores.to_vec());
        let thread = std::thread::Builder::new().name("exception".into()).spawn(move || {
            if let Err(error) = capsule::leave_cores(&cores) {
                tracing::warn!(%error, "the exception thread shares the workers' cores");
            }
            // Without a cache of its own every frame costs a little more; nothing else depends on it.
            let _registered = capsule::register_thread(eal);
            let make = |port: usize| remake(plans.get(port)?.as_ref()?);
            let wake = || bells.first().into_iter().for_each(Bell::ring);
            run(&mut crossing, make, wake, &stopped);
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for ExceptionThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn remake(plan: &TapPlan) -> Option<SyncDevice> {
    match tap::make(plan) {
        Ok(tap) => {
            tracing::warn!(tap = plan.name, "somebody took the tap away; it is made again");
            Some(tap)
        }
        Err(error) => {
            tracing::warn!(%error, "somebody took the tap away");
            None
        }
    }
}

fn run<D: AsFd, M: FrameMemory>(
    crossing: &mut Crossing<D, M>,
    mut make: impl FnMut(usize) -> Option<D>,
    wake: impl Fn(),
    stop: &AtomicBool,
) {
    let mut nap_us = *NAP_US.start();
    while !stop.load(Ordering::Relaxed) {
        if crossing.turn() > 0 {
            wake();
            nap_us = *NAP_US.start();
            continue;
        }
        crossing.remake(&mut make);
        crossing.nap(Duration::from_micros(nap_us));
        nap_us = (nap_us * 2).min(*NAP_US.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use turnpike_forward::exception::{Class, Exception, rings};
    use turnpike_forward::hash::Secret;
    use turnpike_forward::limits::EXCEPTION_FRAMES;
    use turnpike_packet::io::{PacketIo, PortInfo, Spread};
    use turnpike_packet::memory::{MemoryFrame, MemoryIo, MemoryNic};

    /// The memory of a NIC in memory.
    struct Twin(std::cell::RefCell<MemoryIo>);

    impl FrameMemory for Twin {
        type Frame = MemoryFrame;

        fn make(&self, bytes: &[u8]) -> Option<MemoryFrame> {
            self.0.borrow_mut().alloc(bytes)
        }

        fn join(&self, frame: &MemoryFrame, into: &mut [u8]) -> Option<usize> {
            into.get_mut(..frame.data().len())?.copy_from_slice(frame.data());
            Some(frame.data().len())
        }
    }

    struct Bed {
        nic: MemoryNic,
        worker: Exception<MemoryFrame>,
        crossing: Crossing<UnixDatagram, Twin>,
        /// The kernel's end of the second port's tap; the first port has none.
        kernel: UnixDatagram,
        tally: Arc<TapTally>,
        now_ms: u32,
    }

    fn bed() -> Bed {
        let nic = MemoryNic::new(PortInfo { mac: [2; 6], mtu: 1500, spread: Spread::Unknown }, 1);
        let tap = Tap { frame_bytes_max: 1_514, addresses: vec![turnpike_forward::address::Address::v4(1)] };
        let plan = Plan { taps: vec![None, Some(tap)], local_ports: (32_768, 60_999), listening: vec![] };
        let (mut workers, kernel_end) = rings(plan, 1, Secret::new([1, 2, 3, 4]));
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        kernel.set_nonblocking(true).unwrap();
        let tally = Arc::<TapTally>::default();
        let memory = Twin(nic.io(0).into());
        let crossing = Crossing::new(vec![None, Some((ours, Arc::clone(&tally)))], kernel_end, memory);
        Bed { nic, worker: workers.remove(0), crossing, kernel, tally, now_ms: 0 }
    }

    impl Bed {
        fn pass(&mut self, port: u8, bytes: &[u8]) {
            let frame = self.nic.io(0).alloc(bytes).unwrap();
            self.now_ms += 1;
            self.worker.pass(port, frame, Class::Link, 0, self.now_ms).map_err(|(_, why)| why).unwrap();
        }

        /// Frames to the kernel, from it, and lost.
        fn tallied(&self) -> [u64; 3] {
            [&self.tally.to_kernel, &self.tally.from_kernel, &self.tally.lost]
                .map(|c| c.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn frames_cross_as_they_are() {
        let mut bed = bed();
        bed.pass(1, b"to the kernel");
        bed.pass(0, b"to a port without a tap");
        bed.kernel.send(b"from the kernel").unwrap();
        assert_eq!(bed.crossing.turn(), 3);
        let mut bytes = [0; 100];
        let len = bed.kernel.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"to the kernel");
        assert!(bed.kernel.recv(&mut bytes).is_err(), "nothing else");
        let handed = bed.worker.receive().unwrap();
        assert_eq!((handed.port, handed.frame.data()), (1, &b"from the kernel"[..]));
        assert!(bed.worker.receive().is_none());
        assert_eq!((bed.crossing.turn(), bed.tallied()), (0, [1, 1, 0]));
    }

    #[test]
    fn a_kernel_that_takes_nothing_loses_frames_and_stops_nobody() {
        let mut bed = bed();
        let mut taken = 0;
        // A socket's buffer is full long before so many.
        for _ in 0..2_000 {
            bed.pass(1, &[7; 1_500]);
            taken += bed.crossing.turn();
        }
        let [written, _, lost] = bed.tallied();
        assert!(taken == 2_000 && written + lost == 2_000 && lost > 0, "{:?}", bed.tallied());
    }

    #[test]
    fn workers_that_take_nothing_leave_frames_with_the_kernel() {
        let mut bed = bed();
        let mut sent = 0;
        while bed.crossing.workers.room() > 0 {
            sent += u64::from(bed.kernel.send(b"a frame").is_ok());
            bed.crossing.turn();
        }
        assert_eq!((sent, bed.tallied()), (EXCEPTION_FRAMES as u64, [0, EXCEPTION_FRAMES as u64, 0]));
        bed.kernel.send(b"one more").unwrap();
        assert_eq!(bed.crossing.turn(), 0, "it waits in the tap");
        let started = Instant::now();
        bed.crossing.nap(Duration::from_millis(20));
        assert!(started.elapsed() >= Duration::from_millis(20), "and wakes nobody meanwhile");
        drop(bed.worker.receive());
        assert_eq!((bed.crossing.turn(), bed.tallied()[1]), (1, EXCEPTION_FRAMES as u64 + 1));
    }

    #[test]
    fn without_memory_a_frame_is_lost_and_counted() {
        let mut bed = bed();
        bed.nic.limit_frames(0);
        bed.kernel.send(b"a frame").unwrap();
        bed.crossing.turn();
        assert_eq!(bed.tallied(), [0, 0, 1]);
        assert!(bed.worker.receive().is_none());
    }

    #[test]
    fn a_frame_wakes_the_thread() {
        let bed = bed();
        bed.kernel.send(b"a frame").unwrap();
        let started = Instant::now();
        bed.crossing.nap(Duration::from_millis(900));
        assert!(started.elapsed() < Duration::from_millis(500));
    }

    #[test]
    fn a_tap_that_is_gone_is_made_again_in_time() {
        let mut bed = bed();
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        kernel.set_nonblocking(true).unwrap();
        let way = bed.crossing.ways[1].as_mut().unwrap();
        assert_eq!(way.survives(Err(Errno::AGAIN)), None);
        assert!(way.tap.is_some(), "nothing to read is no loss");
        assert_eq!(way.survives(Err(Errno::BADFD)), None);
        assert!(way.tap.is_none());
        bed.pass(1, b"into the void");
        bed.crossing.turn();
        assert_eq!(bed.tallied(), [0, 0, 1]);
        bed.crossing.remake(|_| panic!("not so soon"));
        let way = bed.crossing.ways[1].as_mut().unwrap();
        way.tried = Instant::now().checked_sub(REMAKE_PERIOD).unwrap();
        let mut again = Some(ours);
        bed.crossing.remake(|port| again.take_if(|_| port == 1));
        bed.pass(1, b"to the new one");
        bed.crossing.turn();
        let mut bytes = [0; 100];
        assert_eq!(kernel.recv(&mut bytes).unwrap(), 14);
    }
}
