//! The last stage of a Service's walk on this side: what the cluster wants goes down the ring. Next: the dataplane's control thread.
//!
//! An ordinary thread, since the ring is polled. It always works towards the newest state: a change of mind while the ring is full costs
//! nothing. A dataplane that is new, refuses a transaction or asks for it gets a full snapshot; otherwise only what changed since the last
//! transaction is sent.

use crate::state::{State, Wanted};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};
use turnpike_desired::desired::Desired;
use turnpike_desired::diff::{diff, snapshot};
use turnpike_shm::{ControlSide, Popped, PushError, ShmError, monotonic_ms};
use turnpike_wire::codec::{decode_event, encode_update};
use turnpike_wire::event::Event;
use turnpike_wire::limits::{HEARTBEAT_LOST_MS, HEARTBEAT_PERIOD_MS};
use turnpike_wire::update::{Commit, Fleet, Update};

/// How often the rings are looked at while an answer is awaited.
const TICK: Duration = Duration::from_micros(200);
/// How often they are looked at when nothing happens; what is new is sent at once all the same.
const REST: Duration = Duration::from_millis(10);
/// Most events taken before anything else is looked at again.
const EVENTS_PER_TICK: usize = 256;
/// How often a dataplane is looked for when there is none.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is checked that the mapped memory still is the dataplane's.
const CHECK_MS: u64 = 50;
/// Shortest and longest time between two snapshots to a dataplane that keeps refusing them.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Publishes until `stop` says otherwise. `runtime` is where the rest of the control plane runs.
pub fn run(state: &State, runtime: &Handle, stop: &AtomicBool) {
    let folder = state.config.shm_folder();
    let mut complaint = String::new();
    while !stop.load(Ordering::Relaxed) {
        match ControlSide::open(&folder) {
            Ok(side) => {
                complaint.clear();
                Session::new(state, side).run(runtime, stop);
            }
            Err(ShmError::Absent { .. }) => state.dataplane(|d| {
                d.state = "absent".into();
                d.pid = None;
            }),
            Err(error) => {
                let text = error.to_string();
                if text != complaint {
                    warn!("{text}");
                    state.dataplane(|d| {
                        d.state = "absent".into();
                        d.last_complaint = Some(text.clone());
                    });
                    complaint = text;
                }
            }
        }
        thread::sleep(LOOK);
    }
}

/// The conversation with one dataplane process.
struct Session<'a> {
    state: &'a State,
    side: ControlSide,
    /// What the dataplane has been told; none: it needs a snapshot.
    told: Option<Told>,
    generation: u64,
    /// When the last transaction was finished, until it is adopted.
    sent: Option<Instant>,
    /// What had been adopted when this conversation began, or was noticed last.
    adopted: (u64, i64),
    wanted: watch::Receiver<Option<Wanted>>,
    alive: bool,
    snapshot_due: Instant,
    /// Wait before the next snapshot if this one is refused.
    retry: Duration,
    record: Vec<u8>,
}

struct Told {
    fleet: Fleet,
    desired: Arc<Desired>,
    revision: i64,
}

impl<'a> Session<'a> {
    fn new(state: &'a State, side: ControlSide) -> Self {
        info!(pid = side.dataplane_pid(), "a dataplane is there");
        state.flow_census.ask_again();
        state.pulse.lost();
        state.dataplane(|d| {
            d.pid = side.dataplane_pid();
            d.state = "serving".into();
            d.adopted_generation = 0;
            d.adopted_revision = 0;
            d.published_generation = 0;
            d.published_revision = 0;
        });
        Self {
            state,
            adopted: side.adopted(),
            side,
            told: None,
            generation: 0,
            sent: None,
            wanted: state.wanted(),
            alive: true,
            snapshot_due: Instant::now(),
            retry: RETRY.0,
            record: Vec::new(),
        }
    }

    fn run(&mut self, runtime: &Handle, stop: &AtomicBool) {
        let mut beaten_ms = 0;
        let mut checked_ms = 0;
        while !stop.load(Ordering::Relaxed) {
            let now_ms = monotonic_ms();
            if now_ms.wrapping_sub(beaten_ms) >= HEARTBEAT_PERIOD_MS {
                beaten_ms = now_ms;
                self.side.beat(now_ms);
            }
            if now_ms.wrapping_sub(checked_ms) >= CHECK_MS {
                checked_ms = now_ms;
                if !self.side.is_current() {
                    info!("another dataplane has taken over");
                    return;
                }
                self.alive = self.side.dataplane_alive(now_ms, HEARTBEAT_LOST_MS);
                let text = if self.alive { "serving" } else { "stale" };
                self.state.dataplane(|d| {
                    if d.state != text {
                        d.state = text.into();
                    }
                });
            }
            self.listen();
            self.watch_adoption();
            let said = self.speak(stop);
            self.ask(stop);
            if !said {
                self.rest(runtime);
            }
        }
    }

    /// Passes on the question how many flows are live, if there is one.
    fn ask(&mut self, stop: &AtomicBool) {
        if !self.alive || self.told.is_none() {
            return;
        }
        if let Some(question) = self.state.flow_census.take_question() {
            self.send(&question, stop);
        }
    }

    /// Waits for news of either side.
    fn rest(&mut self, runtime: &Handle) {
        if self.sent.is_some_and(|sent| sent.elapsed() < REST) {
            thread::sleep(TICK);
            return;
        }
        let wanted = &mut self.wanted;
        let changed = runtime.block_on(async { tokio::time::timeout(REST, wanted.changed()).await });
        if matches!(changed, Ok(Err(_))) {
            thread::sleep(REST);
        }
    }

    /// Takes what the dataplane has to say.
    fn listen(&mut self) {
        let mut bytes = Vec::new();
        // Bounded, for nothing that the other side writes may hold this thread.
        for _ in 0..EVENTS_PER_TICK {
            match self.side.events().pop(&mut bytes) {
                Ok(Popped::Nothing) => return,
                Ok(Popped::NewEpoch) => {}
                Ok(Popped::Record) => match decode_event(&bytes) {
                    Ok(event) => self.take(event),
                    Err(error) => warn!("an event of the dataplane is dropped: {error}"),
                },
                Err(error) => {
                    // It may have been a refusal, or the wish for a snapshot.
                    warn!("events of the dataplane are lost: {error}");
                    return self.snapshot_again("its events were lost");
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Adopted { .. } => {}
            Event::FlowCount { .. } | Event::FlowsCounted { .. } => self.state.flow_census.take(&event),
            Event::ResyncNeeded { reason } => {
                warn!("the dataplane asks for a snapshot: {reason}");
                self.snapshot_again(&reason);
            }
            Event::Refused { generation, reason } => {
                warn!(generation, "the dataplane refused a transaction: {reason}");
                self.state.dataplane(|d| d.refused += 1);
                self.snapshot_again(&reason);
            }
            Event::Neighbour { address, mac } => match mac {
                Some(mac) => info!("next hop {address} is at {mac:02x?}"),
                None => warn!("next hop {address} does not answer"),
            },
        }
    }

    fn snapshot_again(&mut self, reason: &str) {
        self.told = None;
        self.put_off();
        self.state.dataplane(|d| d.last_complaint = Some(reason.to_owned()));
    }

    /// The first snapshot after a good time goes at once; then ever later.
    fn put_off(&mut self) {
        let wait = if self.retry == RETRY.0 { Duration::ZERO } else { self.retry };
        self.snapshot_due = Instant::now() + wait;
        self.retry = (self.retry * 2).min(RETRY.1);
    }

    /// Notices that every worker has adopted what was published last.
    fn watch_adoption(&mut self) {
        let (generation, revision) = self.side.adopted();
        let told = self.told.as_ref().is_some_and(|told| told.revision == revision);
        let elapsed = self.sent.filter(|_| told && generation == self.generation);
        self.state.dataplane(|d| {
            d.adopted_generation = generation;
            d.adopted_revision = revision;
            if let Some(sent) = elapsed {
                d.last_adoption_us = Some(sent.elapsed().as_micros() as u64);
            }
        });
        // While changes come without a pause, what is adopted is never what was published last.
        let is_news = (generation, revision) != self.adopted && (1..=self.generation).contains(&generation);
        if is_news || elapsed.is_some() {
            self.adopted = (generation, revision);
            self.state.adopted(revision);
        }
        if elapsed.is_some() {
            self.sent = None;
            self.retry = RETRY.0;
        }
    }

    /// Sends what is new as one transaction. Says whether there was something.
    fn speak(&mut self, stop: &AtomicBool) -> bool {
        // Seen now, whatever comes of it: `rest` waits for the next.
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return false };
        if !self.alive {
            return false;
        }
        let Some(fleet) = self.state.fleet() else { return false };
        let (updates, is_snapshot) = match self.told.as_ref().filter(|told| told.fleet == fleet) {
            Some(told) if told.revision == wanted.revision && Arc::ptr_eq(&told.desired, &wanted.desired) => {
                return false;
            }
            Some(told) => (diff(&told.desired, &wanted.desired), false),
            None if Instant::now() < self.snapshot_due => return false,
            None => (snapshot(&wanted.desired, fleet), true),
        };
        self.generation += 1;
        let generation = self.generation;
        let commit =
            Update::Commit(Commit { generation, revision: wanted.revision, records: updates.len() as u64 });
        // Until it is whole, the dataplane knows neither the state before nor this one.
        self.told = None;
        for update in updates.iter().chain([&commit]) {
            if !self.send(update, stop) {
                return true;
            }
        }
        self.finished(fleet, wanted, is_snapshot);
        true
    }

    fn finished(&mut self, fleet: Fleet, wanted: Wanted, is_snapshot: bool) {
        self.sent = Some(Instant::now());
        let (generation, revision) = (self.generation, wanted.revision);
        self.told = Some(Told { fleet, desired: wanted.desired, revision });
        self.state.dataplane(|d| {
            d.published_generation = generation;
            d.published_revision = revision;
            d.snapshots += u64::from(is_snapshot);
        });
    }

    /// Puts one record into the ring, waiting for room as long as the dataplane lives. `false`: the transaction cannot be finished.
    fn send(&mut self, update: &Update, stop: &AtomicBool) -> bool {
        if let Err(error) = encode_update(update, &mut self.record) {
            warn!("a record cannot be sent: {error}");
            self.put_off();
            return false;
        }
        loop {
            match self.side.updates().push(&self.record) {
                Ok(()) => return true,
                Err(PushError::Full) => {
                    let now_ms = monotonic_ms();
                    self.side.beat(now_ms);
                    if stop.load(Ordering::Relaxed)
                        || !self.side.is_current()
                        || !self.side.dataplane_alive(now_ms, HEARTBEAT_LOST_MS)
                    {
                        return false;
                    }
                    thread::sleep(TICK);
                }
                Err(error) => {
                    warn!("a record cannot be sent: {error}");
                    self.put_off();
                    return false;
                }
            }
        }
    }
}
