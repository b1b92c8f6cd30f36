//! The worker threads: one pinned to each core, running turns until told to stop.

use crate::bell::Bell;
use crate::idle::{BackOff, Rest};
use crate::lasting::{Clock, Making};
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
use turnpike_forward::exception::Exception;
use turnpike_forward::flow_key::{FlowKey, FlowKey6};
use turnpike_forward::flow_table::{Adoption, FlowTable};
use turnpike_forward::handoff::Handoff;
use turnpike_forward::hash::Secret;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::worker::Worker;
use turnpike_packet::faults::{Faults, Rates};
use turnpike_packet::io::PacketIo;
use turnpike_shm::{FlowFile, ShmError};
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
    /// How flow tables are had, what they hash with, and what their times mean.
    pub(crate) making: Making,
    /// New at each start, for what nobody shall foresee from what was before.
    pub(crate) fresh: Secret,
    pub(crate) hugepages: Hugepages,
    pub(crate) idle: Idle,
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
    /// Its flow tables by family, if there are any to adopt.
    pub(crate) found: [Option<FlowFile>; 2],
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
    adoption: Adoption,
}

impl Workers {
    /// Starts one worker for each of `own`, and waits until all are ready to forward. If one cannot start, none is left running.
    pub(crate) fn start(common: &Common, own: Vec<Own>) -> Result<Self, WorkerError> {
        let mut workers = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
            adoption: Adoption::default(),
        };
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
            let adoption = told.recv().unwrap_or(Err(WorkerError::Ended { worker }))?;
            workers.adoption = workers.adoption + adoption;
        }
        Ok(workers)
    }

    /// What became of the flows that were there before.
    pub(crate) const fn adoption(&self) -> Adoption {
        self.adoption
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
    ready: &Sender<Result<Adoption, WorkerError>>,
) -> Result<(), WorkerError> {
    let Own { core, mut queues, mut page, exception, found } = own;
    let thread_error = |source| WorkerError::Thread { worker: id, source };
    capsule::pin_to_core(core).map_err(thread_error)?;
    let _registered = capsule::register_thread(common.eal).map_err(thread_error)?;
    // Without it naps last longer; nothing else depends on it.
    let _ = set_current_timer_slack(Some(TIMER_SLACK_NS));

    let node = node_of_core(Path::new("/sys"), u32::from(core));
    // Made by its own worker, so that the tables of all workers are made at the same time.
    let Making { wanted, .. } = &common.making;
    let (flows, [found, found6]) = (wanted.flows, found);
    let mut memory = common.making.memory(id, 4, found, node)?;
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
    if memory.is_slow() && common.hugepages == Hugepages::Auto {
        tracing::warn!(
            worker = id,
            bytes = FlowTable::<FlowKey>::memory_bytes(flows),
            "the flow table is in ordinary pages, which is slower; mount hugetlbfs and reserve huge pages for it"
        );
    }
    let (shared, secret) = (&common.shared, common.making.secret);
    let (table, mut adoption) = memory.table::<FlowKey>(id, flows, &common.making, shared)?;
    let mut worker =
        Worker::new(id, Arc::clone(shared), table, handoff, secret).with_randomness(common.fresh);
    let mut memory6;
    if let Some(flows) = wanted.ipv6_flows {
        memory6 = common.making.memory(id, 6, found6, node)?;
        let (table, adopted) = memory6.table::<FlowKey6>(id, flows, &common.making, shared)?;
        adoption = adoption + adopted;
        worker = worker.with_ipv6(table);
    }
    if let Some(exception) = exception {
        worker = worker.with_exception(exception);
    }
    page.placed(placed);
    let _ = ready.send(Ok(adoption));
    match common.faults {
        None => {
            // Frames wake it if every queue has something to wait for.
            let wakes: Option<Vec<OwnedFd>> = queues.iter_mut().map(Queue::take_wake).collect();
            run(&mut worker, &mut queues, &mut page, (common, wakes), stop);
        }
        // What is under way wakes nobody.
        Some(faults) => {
            let mut queues = faulty(queues, id, faults, common.making.clock);
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
    clock: Clock,
) -> Vec<impl PacketIo<Frame = Mbuf>> {
    let config::Faults { seed, loss, duplicate, reorder, delay_ms } = faults;
    let rates = Rates { loss, duplicate, reorder, delay: delay_ms };
    let seeds = (0..).map(|port: u64| seed.wrapping_add((worker as u64) << 32 | port << 1));
    let wrap = |(queue, seed)| Faults::new(queue, rates, seed, move || clock.now_ms());
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
    let mut now_ms = common.making.clock.now_ms();
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
            now_ms = common.making.clock.now_ms();
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
