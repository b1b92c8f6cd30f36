//! The worker threads: one pinned to each core, running turns until told to stop.

use crate::bell::Bell;
use crate::idle::{BackOff, Rest};
use crate::pages::{FlowMemory, WorkerPage};
use capsule::{Eal, Mbuf, Queue};
use rustix::thread::set_current_timer_slack;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use turnpike_forward::exception::Exception;
use turnpike_forward::flow_key::{FlowKey, FlowKey6};
use turnpike_forward::flow_table::FlowTable;
use turnpike_forward::handoff::Handoff;
use turnpike_forward::hash::Secret;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::worker::Worker;
use turnpike_packet::faults::{Faults, Rates};
use turnpike_packet::io::PacketIo;
use turnpike_shm::{HUGE_PAGE_BYTES, HugeMemory, Pages, ShmError};
use turnpike_wire::config::{self, Hugepages, Idle};
use turnpike_wire::topology::node_of_core;

/// Turns between two looks at the clock while there is work: at most some tens of microseconds.
const TURNS_PER_CLOCK: u32 = 16;
/// How often counters are shown to other processes, in milliseconds.
const SHOW_COUNTERS_MS: u32 = 100;
/// How late the kernel may wake a napping worker, in nanoseconds; its default of 50 µs would double a nap.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::new(1_000).unwrap();

/// What all workers have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) eal: Eal,
    pub(crate) shared: Arc<Shared>,
    pub(crate) secret: Secret,
    pub(crate) flows: u32,
    /// The same over IPv6, if the gateway speaks it.
    pub(crate) ipv6_flows: Option<u32>,
    pub(crate) hugepages: Hugepages,
    pub(crate) idle: Idle,
    pub(crate) started: Instant,
    /// Of each worker.
    pub(crate) bells: Arc<[Bell]>,
    /// For tests alone.
    pub(crate) faults: Option<config::Faults>,
}

/// What one worker has of its own.
pub(crate) struct Own {
    pub(crate) core: u16,
    pub(crate) queues: Vec<Queue>,
    pub(crate) page: WorkerPage,
    pub(crate) exception: Option<Exception<Mbuf>>,
}

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    #[error("worker {worker}: {source}")]
    Thread { worker: usize, source: capsule::ThreadError },
    #[error("worker {worker}: cannot make its thread: {source}")]
    Spawn { worker: usize, source: std::io::Error },
    #[error("worker {worker}, flow table of {flows} flows: {source}")]
    FlowMemory { worker: usize, flows: u32, source: ShmError },
    #[error("worker {worker}: {source}")]
    FlowTable { worker: usize, source: turnpike_forward::flow_table::TableError },
    #[error("worker {worker} ended before it was ready; this is a bug, please report what is above")]
    Ended { worker: usize },
}

/// Running workers. Dropping them stops them and waits.
pub(crate) struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts one worker for each of `own`, and waits until all are ready to forward. If one cannot start, none is left running.
    pub(crate) fn start(common: &Common, own: Vec<Own>) -> Result<Self, WorkerError> {
        let mut workers = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        let mut ready = Vec::new();
        for (id, (own, handoff)) in
            own.into_iter().zip(Handoff::mesh(common.shared.gateway.workers())).enumerate()
        {
            let (tell, told) = channel();
            let (common, stop) = (common.clone(), Arc::clone(&workers.stop));
            let thread = std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || {
                    if let Err(error) = work(id, &common, own, handoff, &stop, &tell) {
                        let _ = tell.send(Err(error));
                    }
                })
                .map_err(|source| WorkerError::Spawn { worker: id, source })?;
            workers.threads.push(thread);
            ready.push(told);
        }
        for (worker, told) in ready.into_iter().enumerate() {
            told.recv().unwrap_or(Err(WorkerError::Ended { worker }))?;
        }
        Ok(workers)
    }

    /// A worker that has ended although nobody told it to.
    pub(crate) fn ended(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The life of one worker thread. Its queues, and with the last of them their ports, close when it returns.
fn work(
    id: usize,
    common: &Common,
    own: Own,
    handoff: Handoff<Mbuf>,
    stop: &AtomicBool,
    ready: &Sender<Result<(), WorkerError>>,
) -> Result<(), WorkerError> {
    let Own { core, mut queues, mut page, exception } = own;
    let thread_error = |source| WorkerError::Thread { worker: id, source };
    capsule::pin_to_core(core).map_err(thread_error)?;
    let _registered = capsule::register_thread(common.eal).map_err(thread_error)?;
    // Without it naps last longer; nothing else depends on it.
    let _ = set_current_timer_slack(Some(TIMER_SLACK_NS));

    let pages = match common.hugepages {
        Hugepages::Auto => Pages::Auto,
        Hugepages::Require => Pages::Require,
        Hugepages::Never => Pages::Never,
    };
    let node = node_of_core(Path::new("/sys"), u32::from(core));
    // Made by its own worker, so that the tables of all workers are made at the same time.
    let memory_for = |flows: u32, bytes: usize| {
        HugeMemory::near(bytes, pages, node).map_err(|source| WorkerError::FlowMemory {
            worker: id,
            flows,
            source,
        })
    };
    let table_error = |source| WorkerError::FlowTable { worker: id, source };
    let flows = common.flows;
    let mut memory = memory_for(flows, FlowTable::<FlowKey>::memory_bytes(flows))?;
    let placed = FlowMemory { node, page_bytes: memory.pages().page_bytes(), flow_node: memory.node() };
    tracing::info!(
        worker = id,
        core,
        node,
        flows,
        pages = memory.pages().name(),
        flow_node = placed.flow_node,
        "flow table"
    );
    if placed.page_bytes < HUGE_PAGE_BYTES && common.hugepages == Hugepages::Auto {
        tracing::warn!(
            worker = id,
            bytes = memory.bytes().len(),
            "too few huge pages are free: the flow table is in ordinary pages, which is slower"
        );
    }
    let table = FlowTable::new(memory.bytes_mut(), flows, common.secret).map_err(table_error)?;
    let mut worker = Worker::new(id, Arc::clone(&common.shared), table, handoff, common.secret);
    let mut memory6;
    if let Some(flows) = common.ipv6_flows {
        memory6 = memory_for(flows, FlowTable::<FlowKey6>::memory_bytes(flows))?;
        let table = FlowTable::new(memory6.bytes_mut(), flows, common.secret).map_err(table_error)?;
        worker = worker.with_ipv6(table);
    }
    if let Some(exception) = exception {
        worker = worker.with_exception(exception);
    }
    page.placed(placed);
    let _ = ready.send(Ok(()));
    match common.faults {
        None => {
            // Frames wake it if every queue has something to wait for.
            let wakes: Option<Vec<OwnedFd>> = queues.iter_mut().map(Queue::take_wake).collect();
            run(&mut worker, &mut queues, &mut page, (common, wakes), stop);
        }
        // What is under way wakes nobody.
        Some(faults) => {
            let mut queues = faulty(queues, id, faults, common.started);
            run(&mut worker, &mut queues, &mut page, (common, None), stop);
        }
    }
    page.show(&worker);
    Ok(())
}

/// The queues of a worker behind a bad network, each with faults of its own.
fn faulty(
    queues: Vec<Queue>,
    worker: usize,
    faults: config::Faults,
    started: Instant,
) -> Vec<impl PacketIo<Frame = Mbuf>> {
    let config::Faults { seed, loss, duplicate, reorder, delay_ms } = faults;
    let rates = Rates { loss, duplicate, reorder, delay: delay_ms };
    let seeds = (0..).map(|port: u64| seed.wrapping_add((worker as u64) << 32 | port << 1));
    let wrap = |(queue, seed)| Faults::new(queue, rates, seed, move || clock_ms(started));
    queues.into_iter().zip(seeds).map(wrap).collect()
}

fn run<I: PacketIo<Frame = Mbuf>>(
    worker: &mut Worker<'_, Mbuf>,
    queues: &mut [I],
    page: &mut WorkerPage,
    (common, wakes): (&Common, Option<Vec<OwnedFd>>),
    stop: &AtomicBool,
) {
    let mut back_off = BackOff::new(common.idle, wakes.is_some());
    let (wakes, own_bell) = (wakes.unwrap_or_default(), &common.bells[worker.id()]);
    let mut turns_to_clock = 0;
    let mut now_ms = clock_ms(common.started);
    let mut shown_ms = now_ms;
    while !stop.load(Ordering::Relaxed) {
        let handled = worker.turn(queues, now_ms);
        ring(worker, &common.bells);
        let rest = back_off.after(handled, || worker.has_more());
        if let Rest::Wait(limit) = rest {
            own_bell.lie_down();
            let handled = worker.turn(queues, now_ms);
            if handled == 0 {
                own_bell.wait(&wakes, limit);
            }
            own_bell.get_up();
            ring(worker, &common.bells);
            back_off.after(handled, || false);
        }
        let rested = rest.take();
        if rested || turns_to_clock == 0 {
            turns_to_clock = TURNS_PER_CLOCK;
            now_ms = clock_ms(common.started);
            if now_ms.wrapping_sub(shown_ms) >= SHOW_COUNTERS_MS {
                shown_ms = now_ms;
                page.show(worker);
            }
        }
        turns_to_clock -= 1;
    }
}

/// Wakes the workers that frames were handed to.
fn ring(worker: &mut Worker<'_, Mbuf>, bells: &[Bell]) {
    let mut handed_to = worker.take_handed_to();
    while handed_to != 0 {
        let other = handed_to.trailing_zeros() as usize;
        handed_to &= handed_to - 1;
        if let Some(bell) = bells.get(other) {
            bell.ring();
        }
    }
}

/// Milliseconds since `started`, modulo 2³².
fn clock_ms(started: Instant) -> u32 {
    let elapsed: Duration = started.elapsed();
    elapsed.as_millis() as u32
}
