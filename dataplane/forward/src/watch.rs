//! Watching real packets: what is watched, and the bounded rings through which workers tell what they saw.
//!
//! While nobody watches, a worker looks at one pointer of its own a burst. While somebody does, frames that the filter lets through are walked one by one,
//! each with a note of what it was, what left for it and by which verdicts; all others go their usual way. Notes are made beforehand and go round:
//! a worker fills what lies ready and makes none itself, so that it neither waits nor allocates. Where none lies ready the loss is counted.

use crate::address::Address;
use crate::explain::Tuple;
use crate::track::State;
use crate::verdict::Verdict;
use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use turnpike_packet::{ethernet, ipv4};
use turnpike_wire::filter::{Facts, Filter, Side};

pub use crate::limits::{WATCH_BYTES_MAX, WATCH_LEFT_MAX, WATCH_NOTES_MAX, WATCH_VERDICTS_MAX};

/// Bytes of each frame that are kept at least: what it takes to read its headers.
pub const SNAP_BYTES_MIN: usize = 128;

/// One watch, shared by who asked and all workers.
#[derive(Debug)]
pub struct Watch {
    filter: Filter,
    sample: u32,
    lanes: Vec<Lane>,
}

/// One worker's rings, written by it alone at one end and by who asked at the other.
#[derive(Debug)]
#[repr(align(128))]
struct Lane {
    ready: ArrayQueue<Box<Note>>,
    told: ArrayQueue<Box<Note>>,
    lost: AtomicU64,
}

/// What a worker saw of one packet.
#[derive(Clone, Debug)]
pub struct Note {
    /// Which one it is of this worker's.
    pub number: u64,
    /// The worker's clock.
    pub now_ms: u32,
    /// From where it came to this worker.
    pub from: From,
    /// The frame as it came.
    pub came: Snap,
    /// The flow that it is of, as it was before and as it is behind it.
    pub flow: [Option<Glimpse>; 2],
    /// Its verdicts: none while it is held, more than one when what was held went with it.
    pub verdicts: ArrayVec<Verdict, WATCH_VERDICTS_MAX>,
    /// What left: the packet itself, or answers to it.
    pub left: ArrayVec<Snap, WATCH_LEFT_MAX>,
    /// How many frames more left.
    pub left_more: u32,
    /// Room for what leaves.
    spare: ArrayVec<Vec<u8>, WATCH_LEFT_MAX>,
}

/// From where a frame came to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A NIC.
    Wire,
    /// Another worker.
    Worker,
    /// It waited here for the Ethernet address of its next hop.
    Held,
}

/// The beginning of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snap {
    /// Number of the port.
    pub port: u8,
    /// Length of the frame.
    pub frame_len: usize,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// A live flow as it was at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// The client's packets.
    pub client: Tuple,
    /// The backend's.
    pub reply: Tuple,
    /// Its state.
    pub state: State,
}

impl Watch {
    /// For so many workers: every `sample`th packet that the filter lets through, with so many bytes of each frame.
    #[must_use]
    pub fn new(filter: Filter, sample: u32, snap_bytes: usize, workers: usize) -> Arc<Self> {
        let snap_bytes = snap_bytes.max(SNAP_BYTES_MIN);
        let bytes_of_note = size_of::<Note>() + snap_bytes * (1 + WATCH_LEFT_MAX);
        let notes = (WATCH_BYTES_MAX / bytes_of_note / workers.max(1)).clamp(1, WATCH_NOTES_MAX);
        let lane = || {
            let ready = ArrayQueue::new(notes);
            (0..notes).for_each(|_| drop(ready.push(Box::new(Note::with_room(snap_bytes)))));
            Lane { ready, told: ArrayQueue::new(notes), lost: AtomicU64::new(0) }
        };
        Arc::new(Self { filter, sample: sample.max(1), lanes: (0..workers).map(|_| lane()).collect() })
    }

    /// The filter.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Every how many-th packet.
    pub(crate) const fn sample(&self) -> u32 {
        self.sample
    }

    /// The next note of a worker, for `read`; false if there is none.
    pub fn next(&self, worker: usize, read: impl FnOnce(&Note)) -> bool {
        let Some(lane) = self.lanes.get(worker) else { return false };
        let Some(note) = lane.told.pop() else { return false };
        read(&note);
        drop(lane.ready.push(note));
        true
    }

    /// Packets that the filter let through and no note lay ready for.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.lost.load(Relaxed)).sum()
    }

    /// An empty note; none, and the loss is counted, if none lies ready.
    pub(crate) fn take_note(&self, worker: usize) -> Option<Box<Note>> {
        let lane = self.lanes.get(worker)?;
        let note = lane.ready.pop();
        if note.is_none() {
            lane.lost.store(lane.lost.load(Relaxed) + 1, Relaxed);
        }
        note
    }

    /// A note is full, or is given back as it was.
    pub(crate) fn give(&self, worker: usize, note: Box<Note>, is_full: bool) {
        if let Some(lane) = self.lanes.get(worker) {
            // Both rings have room for all notes there are.
            let ring = if is_full { &lane.told } else { &lane.ready };
            let _ = ring.push(note);
        }
    }
}

impl Note {
    fn with_room(snap_bytes: usize) -> Self {
        let came = Snap { bytes: Vec::with_capacity(snap_bytes), ..Snap::default() };
        Self {
            number: 0,
            now_ms: 0,
            from: From::Wire,
            came,
            flow: [None; 2],
            verdicts: ArrayVec::new(),
            left: ArrayVec::new(),
            left_more: 0,
            spare: (0..WATCH_LEFT_MAX).map(|_| Vec::with_capacity(snap_bytes)).collect(),
        }
    }

    /// Begins anew, with a frame as it came.
    pub(crate) fn begin(&mut self, port: usize, frame_len: usize, data: &[u8], from: From) {
        self.spare.extend(self.left.drain(..).map(|snap| snap.bytes));
        self.verdicts.clear();
        (self.flow, self.left_more, self.from) = ([None; 2], 0, from);
        (self.came.port, self.came.frame_len) = (port as u8, frame_len);
        keep(&mut self.came.bytes, data);
    }

    /// A frame left.
    pub(crate) fn leaves(&mut self, port: usize, frame_len: usize, data: &[u8]) {
        let Some(mut bytes) = self.spare.pop() else {
            self.left_more += 1;
            return;
        };
        keep(&mut bytes, data);
        self.left.push(Snap { port: port as u8, frame_len, bytes });
    }

    /// The tuple of a frame that left, if one has the same protocol as what came: not of an answer by ICMP.
    #[must_use]
    pub fn left_as(&self) -> Option<Tuple> {
        self.left.first().and_then(|snap| tuple_of(&snap.bytes))
    }
}

/// Keeps as much of a frame as there is room for.
fn keep(room: &mut Vec<u8>, data: &[u8]) {
    room.clear();
    room.extend_from_slice(&data[..data.len().min(room.capacity())]);
}

/// The tuple of a frame; ports are 0 where a packet has none, or is a later fragment.
#[must_use]
pub fn tuple_of(frame: &[u8]) -> Option<Tuple> {
    let [source, destination] = Address::ends_of(frame)?;
    let (protocol, l4) = transport_of(frame)?;
    let ports = match protocol {
        ipv4::TCP | ipv4::UDP | ipv4::SCTP => l4.and_then(|l4| frame.get(l4..l4 + 4)),
        _ => None,
    };
    let [a, b, c, d] = ports.and_then(|ports| ports.try_into().ok()).unwrap_or_default();
    let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    Some(Tuple { protocol, source: (source, ports[0]), destination: (destination, ports[1]) })
}

/// Protocol and place of the transport header of the IP packet in a frame; no place in a later fragment.
#[must_use]
pub fn transport_of(frame: &[u8]) -> Option<(u8, Option<usize>)> {
    match ethertype(frame) {
        ethernet::IPV4 => {
            let (first, fragment) = (*frame.get(14)?, [*frame.get(20)?, *frame.get(21)?]);
            let is_first = u16::from_be_bytes(fragment) & 0x1fff == 0;
            Some((*frame.get(23)?, is_first.then_some(14 + usize::from(first & 15) * 4)))
        }
        ethernet::IPV6 => transport_of_ipv6(frame),
        _ => None,
    }
}

/// Protocol and place of the transport header behind a few extension headers.
fn transport_of_ipv6(frame: &[u8]) -> Option<(u8, Option<usize>)> {
    const EXTENSIONS_MAX: usize = 8;
    const FRAGMENT: u8 = 44;
    let (mut next, mut at) = (*frame.get(20)?, 54);
    for _ in 0..EXTENSIONS_MAX {
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let header = frame.get(at..at + 2)?;
                (next, at) = (header[0], at + 8 + usize::from(header[1]) * 8);
            }
            FRAGMENT => {
                let header = frame.get(at..at + 4)?;
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    return Some((header[0], None));
                }
                (next, at) = (header[0], at + 8);
            }
            _ => return Some((next, Some(at))),
        }
    }
    Some((next, None))
}

/// Ethernet type of a frame; 0 of one that is too short.
#[must_use]
pub fn ethertype(frame: &[u8]) -> u16 {
    frame.get(12..14).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// A tuple as filters know it.
#[must_use]
pub fn side(tuple: &Tuple) -> Side {
    let Tuple { protocol, source, destination } = *tuple;
    let has_ports = matches!(protocol, ipv4::TCP | ipv4::UDP | ipv4::SCTP);
    Side {
        protocol,
        addresses: [source.0.ip(), destination.0.ip()],
        ports: has_ports.then_some([source.1, destination.1]),
    }
}

impl Glimpse {
    /// The other side of a packet of this flow: what it leaves as of one that came, and the other way round.
    #[must_use]
    pub fn other_side(&self, tuple: &Tuple) -> Tuple {
        let Self { client, reply, state } = *self;
        match *tuple {
            _ if state.is_one_way() => *tuple,
            came if came == client => reply.reversed(),
            came if came == reply => client.reversed(),
            left if left == client.reversed() => reply,
            _ => client,
        }
    }
}

/// What is known of a frame before anything was done with it.
#[must_use]
pub fn facts<'a>(
    frame: &[u8],
    tuple: Option<&Tuple>,
    flow: Option<&Glimpse>,
    service: Option<&'a str>,
) -> Facts<'a> {
    let other = tuple.zip(flow).map(|(tuple, flow)| flow.other_side(tuple));
    Facts {
        ethertype: ethertype(frame),
        sides: [tuple.map(side), other.as_ref().map(side)],
        service,
        verdicts: None,
    }
}
