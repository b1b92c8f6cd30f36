//! The control thread: it takes what the control plane says, hands complete tables to the workers, and says when all have adopted them.
//!
//! It holds the dataplane's side of the shared memory. It never waits for the control plane, dead or alive, and what it has to say waits as
//! a state, not as a queue: a control plane that does not listen costs no memory.

use crate::conversation::{Conversation, Heard};
use crate::lasting::{NextHops, Start};
use crate::outbox::Outbox;
use crate::pages::{GatewayCounters, GatewayPage, PortPage};
use crate::service_manager::ServiceManager;
use crate::workers::Workers;
use capsule::Port;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use turnpike_forward::census::Census;
use turnpike_forward::flow_table::Adoption;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::service_table::Tables;
use turnpike_shm::{DataplaneSide, Popped, monotonic_ms};
use turnpike_wire::limits::{HEARTBEAT_LOST_MS, HEARTBEAT_PERIOD_MS};
use turnpike_wire::update::Update;

/// Records taken between two looks at everything else.
const RECORDS_PER_ROUND: usize = 4_096;
/// Rest after a round that found nothing.
const REST: Duration = Duration::from_millis(1);
/// The same while workers have not yet adopted what was published.
const SHORT_REST: Duration = Duration::from_micros(50);
/// Censuses that may wait for workers to let them go before another is opened.
const CLOSED_CENSUSES_MAX: usize = 2;
/// How often next hops are compared with what was said of them, and slow counters shown.
const SURVEY_PERIOD: Duration = Duration::from_millis(250);

/// Everything the control thread works with.
pub(crate) struct Control {
    side: DataplaneSide,
    shared: Arc<Shared>,
    conversation: Conversation,
    outbox: Outbox,
    unadopted: VecDeque<Arc<Tables>>,
    /// Tables that were replaced, kept until no worker holds them, so that no worker frees them.
    replaced: Vec<Arc<Tables>>,
    /// The last question, while no census is open for it.
    asked: Option<u64>,
    /// The census that is open.
    census: Option<Arc<Census>>,
    /// Those that were answered or replaced, kept for the same reason.
    closed: Vec<Arc<Census>>,
    record: Vec<u8>,
    /// Devices, each with the pages of its ports.
    devices: Vec<(Port, Vec<PortPage>)>,
    page: GatewayPage,
    next_hops: NextHops,
    beginning: Beginning,
    control_alive: bool,
    /// Devices whose link was up at the last look.
    links_up: usize,
    /// It was said that a NIC does not spread as it says.
    astray_told: bool,
}

/// How it all began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    pub(crate) start: Start,
    pub(crate) adoption: Adoption,
    pub(crate) started: Instant,
}

/// A worker ended by itself: the dataplane cannot go on.
#[derive(Debug, thiserror::Error)]
#[error(
    "worker {worker} ended unexpectedly; what is above says why. A restart adopts the same Services and flows within a second"
)]
pub(crate) struct WorkerEnded {
    worker: usize,
}

impl Control {
    pub(crate) fn new(
        side: DataplaneSide,
        shared: Arc<Shared>,
        devices: Vec<(Port, Vec<PortPage>)>,
        page: GatewayPage,
        next_hops: NextHops,
        beginning: Beginning,
    ) -> Self {
        let links_up = devices.len();
        Self {
            side,
            shared,
            conversation: Conversation::default(),
            outbox: Outbox::default(),
            unadopted: VecDeque::new(),
            replaced: Vec::new(),
            asked: None,
            census: None,
            closed: Vec::new(),
            record: Vec::new(),
            devices,
            page,
            next_hops,
            beginning,
            control_alive: false,
            links_up,
            astray_told: false,
        }
    }

    /// Works until `stop` is set, or a worker ends.
    pub(crate) fn run(&mut self, workers: &Workers, stop: &AtomicBool) -> Result<(), WorkerEnded> {
        self.shared.announce_all();
        let mut manager = ServiceManager::ready();
        let mut beaten: Option<Instant> = None;
        let mut surveyed: Option<Instant> = None;
        while !stop.load(Ordering::Relaxed) {
            let taken = self.take_records();
            let now = Instant::now();
            self.watch_adoption();
            self.watch_census();
            self.shared.report_memberships();
            if due(&mut beaten, now, Duration::from_millis(HEARTBEAT_PERIOD_MS)) {
                self.beat();
                manager.turned(now);
                if let Some(worker) = workers.ended() {
                    return Err(WorkerEnded { worker });
                }
            }
            if due(&mut surveyed, now, SURVEY_PERIOD) {
                self.survey();
            }
            self.outbox.send(self.side.events(), now);
            if taken == 0 {
                std::thread::sleep(if self.unadopted.is_empty() { REST } else { SHORT_REST });
            }
        }
        Ok(())
    }

    /// Takes what has come down the ring, up to a bound.
    fn take_records(&mut self) -> usize {
        for taken in 0..RECORDS_PER_ROUND {
            let heard = match self.side.updates().pop(&mut self.record) {
                Ok(Popped::Nothing) => return taken,
                Ok(Popped::Record) => self.hear(),
                Ok(Popped::NewEpoch) => {
                    tracing::info!(pid = self.side.control_pid(), "a control plane has attached");
                    self.conversation.new_control_plane();
                    self.outbox.new_listener();
                    self.asked = None;
                    self.close_census();
                    Heard::Nothing
                }
                Err(corrupt) => self.conversation.ring_corrupt(&corrupt.to_string()),
            };
            self.act(heard);
        }
        RECORDS_PER_ROUND
    }

    fn hear(&mut self) -> Heard {
        match self.conversation.read(&self.record) {
            Ok(update) if self.conversation.lasts(&update) => self.take_beating(update),
            Ok(update) => self.conversation.take(update),
            Err(heard) => heard,
        }
    }

    /// Compiles on another thread and beats meanwhile: a dataplane that works hard is not dead.
    fn take_beating(&mut self, update: Update) -> Heard {
        let (conversation, side) = (&mut self.conversation, &self.side);
        std::thread::scope(|scope| {
            let compiling = scope.spawn(move || conversation.take(update));
            while !compiling.is_finished() {
                side.beat(monotonic_ms());
                std::thread::sleep(REST);
            }
            compiling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn act(&mut self, heard: Heard) {
        match heard {
            Heard::Nothing => {}
            Heard::Tables(tables) => self.publish(tables),
            Heard::Question(question) => self.asked = Some(question),
            Heard::Refused { generation, reason } => {
                tracing::warn!(generation, reason, "transaction refused, a snapshot is needed");
                self.outbox.refuse(generation, reason);
            }
            Heard::Resync { reason } => {
                tracing::warn!(reason, "a snapshot is needed");
                self.outbox.resync(reason);
            }
        }
    }

    fn publish(&mut self, tables: Arc<Tables>) {
        let (generation, revision) = (tables.generation, tables.revision);
        self.replaced.push(self.shared.publish(Arc::clone(&tables)));
        self.unadopted.push_back(tables);
        tracing::debug!(generation, revision, "published");
    }

    /// Says what every worker has adopted, and frees what nobody works by any more.
    fn watch_adoption(&mut self) {
        let serial = self.shared.adopted_serial();
        let mut adopted = None;
        while self.unadopted.front().is_some_and(|tables| tables.serial <= serial) {
            adopted = self.unadopted.pop_front();
        }
        if let Some(tables) = adopted {
            self.side.set_adopted(tables.generation, tables.revision);
            self.outbox.adopted(tables.generation, tables.revision);
            tracing::debug!(generation = tables.generation, "adopted by every worker");
        }
        self.replaced.retain(|tables| Arc::strong_count(tables) > 1);
    }

    /// Gives up what was asked and not answered in full.
    fn close_census(&mut self) {
        self.outbox.forget_answer();
        if let Some(census) = self.census.take() {
            self.shared.ask(None);
            self.closed.push(census);
        }
    }

    /// Asks the workers what was asked last, answers when every worker has counted, and frees what nobody counts for any more. However
    /// many questions come, few are in memory.
    fn watch_census(&mut self) {
        self.closed.retain(|census| Arc::strong_count(census) > 1);
        if let Some(question) = self.asked.take_if(|_| self.closed.len() < CLOSED_CENSUSES_MAX) {
            self.close_census();
            let census = Census::new(question, self.shared.gateway.workers());
            self.shared.ask(Some(Arc::clone(&census)));
            self.census = Some(census);
        }
        if let Some(census) = self.census.take_if(|census| census.is_done()) {
            self.shared.ask(None);
            self.outbox.answer(Arc::clone(&census));
            self.closed.push(census);
        }
    }

    fn beat(&mut self) {
        let now_ms = monotonic_ms();
        self.side.beat(now_ms);
        let alive = self.side.control_alive(now_ms, HEARTBEAT_LOST_MS);
        match (self.control_alive, alive) {
            (false, true) => {
                tracing::info!(pid = self.side.control_pid(), "the control plane is alive");
            }
            (true, false) => {
                tracing::warn!("the control plane is gone; forwarding goes on with what it last said");
            }
            _ => {}
        }
        self.control_alive = alive;
    }

    /// Next hops and slow counters.
    fn survey(&mut self) {
        let mut counters = self.counters();
        for (hop, link) in self.shared.neighbours.iter() {
            counters.next_hops += 1;
            counters.next_hops_resolved += u64::from(link.is_resolved());
            self.next_hops.put(&self.shared, hop, link);
            self.outbox.neighbour(hop.address.ip(), link.is_resolved().then(|| link.mac()));
        }
        self.page.show(&counters);
        let mut up = 0;
        for (device, pages) in &mut self.devices {
            let (stats, hashes, is_up) = (device.stats(), device.hash_check(), device.link().up);
            if hashes.astray > 0 && !std::mem::replace(&mut self.astray_told, true) {
                tracing::warn!(
                    device = device.device(),
                    driver = device.driver(),
                    "the NIC puts frames into other queues than its own hashes name: answers come to workers that do not know their flows; use one worker with this device"
                );
            }
            pages.iter_mut().for_each(|page| page.show(&stats, hashes, is_up));
            up += usize::from(is_up);
        }
        // A link that comes back may lead to another switch, which does not know where we are.
        if up > std::mem::replace(&mut self.links_up, up) {
            self.shared.announce_all();
        }
    }

    fn counters(&self) -> GatewayCounters {
        GatewayCounters {
            control_alive: self.control_alive,
            conversation: *self.conversation.tally(),
            next_hops: 0,
            next_hops_resolved: 0,
            uptime_ms: self.beginning.started.elapsed().as_millis() as u64,
            start: self.beginning.start as u64,
            adoption: self.beginning.adoption,
        }
    }
}

/// Whether `period` has passed since `last`; if so, it starts anew.
fn due(last: &mut Option<Instant>, now: Instant, period: Duration) -> bool {
    let due = last.is_none_or(|last| now.duration_since(last) >= period);
    if due {
        *last = Some(now);
    }
    due
}
