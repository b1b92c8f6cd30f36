//! A wire: the worker's queue at its one end, source and sink of frames at its other. Two rings in this process, or two NICs of this host.
//!
//! The thread that has the worker stays where it is; the source is a thread of its own, on another core, while something is measured.

use crate::bed::Bed;
use crate::frames::Deck;
use crate::quiet::Quiet;
use crate::source::{AWAY_OF_NICS, AWAY_OF_RINGS, Pace, Source, Trip};
use crate::world::{MAC, ROUTER_MAC};
use anyhow::{Context, Result, anyhow};
use capsule::{Device, Eal, Mbuf, Mempool, Port, PortConfig, Queue, ring};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use turnpike_packet::io::{Burst, PacketIo};

/// Frame buffers of two rings: all that may be away, with what DPDK keeps in the caches of two threads.
const RING_MBUFS: u32 = 2_047;
/// Room for all of them, so that no ring is ever full.
const RING_SLOTS: u32 = 2_048;
/// Frame buffers of two NICs: the descriptors of both, and what is under way.
pub const NIC_MBUFS: u32 = 16_383;
/// Turns between two looks at the clock, as the dataplane has it.
const TURNS_PER_CLOCK: u32 = 16;

/// Both ends.
#[derive(Debug)]
pub struct Wire {
    /// What the worker receives from and sends to.
    pub worker: Vec<Queue>,
    /// What it receives from there.
    pub source: Source,
    /// The devices, the worker's first.
    pub ports: [Port; 2],
}

impl Wire {
    /// Two rings.
    pub fn of_rings(eal: Eal) -> Result<Self> {
        let pool = Mempool::new(eal, RING_MBUFS, Mempool::DATA_ROOM)?;
        let (feed, receive) = ring(eal, RING_SLOTS)?;
        let (send, sink) = ring(eal, RING_SLOTS)?;
        let config = PortConfig::default();
        let inner = Port::from_rings(eal, vec![(receive, send)], &config, pool)?;
        let outer = Port::from_rings(eal, vec![(sink, feed)], &config, pool)?;
        Self::of(inner, outer, AWAY_OF_RINGS)
    }

    /// Two NICs that a cable, or what stands for one, joins.
    pub fn of_nics(eal: Eal, worker: &Device, source: &Device) -> Result<Self> {
        let pool = Mempool::new(eal, NIC_MBUFS, Mempool::DATA_ROOM)?;
        let config = PortConfig::default();
        let open = |device: &Device| Port::open(eal, device, &config, pool).context("opening a port");
        Self::of(open(worker)?, open(source)?, AWAY_OF_NICS)
    }

    fn of(
        (inner, worker): (Port, Vec<Queue>),
        (outer, mut queues): (Port, Vec<Queue>),
        away: Duration,
    ) -> Result<Self> {
        let queue = queues.pop().context("a port without queues")?;
        Ok(Self { worker, source: Source::new(queue, ROUTER_MAC, away), ports: [inner, outer] })
    }
}

/// What the source is to do, and where.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// DPDK.
    pub eal: Eal,
    /// The source's core.
    pub core: u16,
    /// That of the thread at the other end.
    pub served_on: u16,
    /// How fast frames go in.
    pub pace: Pace,
    /// For how long.
    pub time: Duration,
    /// How long a frame may be away before it is lost.
    pub patience: Duration,
}

/// Sends from a thread of its own while `serve` serves the other end on this one, until it is told to stop.
pub fn while_sending<T>(
    source: &mut Source,
    deck: &mut Deck<12>,
    sending: Sending,
    serve: impl FnOnce(&AtomicBool) -> T,
) -> Result<(Trip, T)> {
    let Sending { eal, core, served_on, pace, time, patience } = sending;
    let stop = AtomicBool::new(false);
    let (ready, is_ready) = channel();
    let (trip, served) = std::thread::scope(|scope| {
        let sender = std::thread::Builder::new().name("source".into()).spawn_scoped(scope, || {
            let ready = ready;
            let _stop = StopAtEnd(&stop);
            capsule::pin_to_core(core)?;
            let _registered = capsule::register_thread(eal)?;
            let _ = ready.send(());
            source.run(deck, pace, time, patience)
        });
        match sender {
            Ok(sender) => {
                // A thread is born on the core of its parent, who must not be in its way. Without a source it ends at once.
                let _ = is_ready.recv();
                let before = Quiet::look(served_on);
                let served = serve(&stop);
                let is_disturbed = before != Quiet::look(served_on);
                let trip = sender.join().unwrap_or_else(|_| Err(anyhow!("the source ended in a panic")));
                (trip.map(|trip: Trip| Trip { is_disturbed, ..trip }), Some(served))
            }
            Err(error) => (Err(error).context("cannot make the source's thread"), None),
        }
    });
    Ok((trip?, served.context("nobody served")?))
}

/// Tells the other end however the source's thread ends.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Turns with something to do.
    pub turns: u64,
    /// Packets in them.
    pub packets: u64,
}

/// Turns the worker as the dataplane does with `idle = "poll"`.
pub fn forward(bed: &mut Bed<'_>, queues: &mut [Queue], stop: &AtomicBool) -> Served {
    let mut served = Served::default();
    let mut known_ms = None;
    while !stop.load(Ordering::Relaxed) {
        // The router answers once a second, and never later than the worker's clock says.
        if known_ms.is_none_or(|known_ms: u32| bed.now_ms().wrapping_sub(known_ms) >= 1_000) {
            bed.know_router();
            known_ms = Some(bed.now_ms());
        }
        let now_ms = bed.now_ms();
        for _ in 0..TURNS_PER_CLOCK {
            let handled = bed.worker.turn(queues, now_ms);
            served.turns += u64::from(handled > 0);
            served.packets += handled as u64;
        }
    }
    served
}

/// Moves frames from one ring to the other and does nothing else.
pub fn move_frames(queues: &mut [Queue], stop: &AtomicBool) {
    let mut waiting: Burst<Mbuf> = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        for queue in queues.iter_mut() {
            queue.rx(&mut waiting);
            queue.tx(&mut waiting);
        }
    }
}

/// Where frames come back to that a worker has translated, and those that were only moved.
pub const TRANSLATED: [u8; 6] = ROUTER_MAC;
/// The second.
pub const UNTOUCHED: [u8; 6] = MAC;
