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
use tracing::{info, warn};
use turnpike_desired::desired::Desired;
use turnpike_desired::diff::{diff, snapshot};
use turnpike_shm::{ControlSide, Popped, PushError, ShmError, monotonic_ms};
use turnpike_wire::codec::{decode_event, encode_update};
use turnpike_wire::event::Event;
use turnpike_wire::limits::{HEARTBEAT_LOST_MS, HEARTBEAT_PERIOD_MS};
use turnpike_wire::update::{Commit, Update};

/// How often everything is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(1);
/// How often a dataplane is looked for when there is none.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is checked that the mapped memory still is the dataplane's.
const CHECK_MS: u64 = 50;
/// Least time between two snapshots to a dataplane that keeps refusing them.
const RETRY: Duration = Duration::from_secs(1);

/// Publishes until `stop` says otherwise.
pub fn run(state: &Arc<State>, stop: &AtomicBool) {
    let folder = state.config.shm_folder();
    let mut complaint = String::new();
    while !stop.load(Ordering::Relaxed) {
        match ControlSide::open(&folder) {
            Ok(side) => {
                complaint.clear();
                Session::new(state, side).run(stop);
            }
            Err(ShmError::Absent { .. }) => state.dataplane(|d| d.state = "absent".into()),
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
    snapshot_due: Instant,
    record: Vec<u8>,
}

struct Told {
    desired: Arc<Desired>,
    revision: i64,
}

impl<'a> Session<'a> {
    fn new(state: &'a State, side: ControlSide) -> Self {
        info!(pid = side.dataplane_pid(), "a dataplane is there");
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
            side,
            told: None,
            generation: 0,
            sent: None,
            snapshot_due: Instant::now(),
            record: Vec::new(),
        }
    }

    fn run(&mut self, stop: &AtomicBool) {
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
                let alive = self.side.dataplane_alive(now_ms, HEARTBEAT_LOST_MS);
                self.state.dataplane(|d| d.state = if alive { "serving" } else { "stale" }.into());
            }
            self.listen();
            self.watch_adoption();
            if !self.speak(stop) {
                thread::sleep(TICK);
            }
        }
    }

    /// Takes what the dataplane has to say.
    fn listen(&mut self) {
        let mut bytes = Vec::new();
        loop {
            match self.side.events().pop(&mut bytes) {
                Ok(Popped::Nothing) => return,
                Ok(Popped::NewEpoch) => {}
                Ok(Popped::Record) => match decode_event(&bytes) {
                    Ok(event) => self.take(event),
                    Err(error) => warn!("an event of the dataplane is dropped: {error}"),
                },
                Err(error) => warn!("events of the dataplane are lost: {error}"),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Adopted { .. } => {}
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
        self.snapshot_due = Instant::now() + RETRY;
        self.state.dataplane(|d| d.last_complaint = Some(reason.to_owned()));
    }

    /// Notices that every worker has adopted what was published last.
    fn watch_adoption(&mut self) {
        let (generation, revision) = self.side.adopted();
        let elapsed = self.sent.filter(|_| generation == self.generation && generation > 0);
        self.state.dataplane(|d| {
            d.adopted_generation = generation;
            d.adopted_revision = revision;
            if let Some(sent) = elapsed {
                d.last_adoption_us = Some(sent.elapsed().as_micros() as u64);
            }
        });
        if elapsed.is_some() {
            self.sent = None;
        }
    }

    /// Sends what is new as one transaction. Says whether there was something.
    fn speak(&mut self, stop: &AtomicBool) -> bool {
        let Some(wanted) = self.state.wanted().borrow().clone() else { return false };
        let Some(fleet) = self.state.fleet() else { return false };
        let (updates, is_snapshot) = match &self.told {
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
        self.finished(wanted, is_snapshot);
        true
    }

    fn finished(&mut self, wanted: Wanted, is_snapshot: bool) {
        self.sent = Some(Instant::now());
        let (generation, revision) = (self.generation, wanted.revision);
        self.told = Some(Told { desired: wanted.desired, revision });
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
            self.snapshot_due = Instant::now() + RETRY;
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
                    self.snapshot_due = Instant::now() + RETRY;
                    return false;
                }
            }
        }
    }
}
