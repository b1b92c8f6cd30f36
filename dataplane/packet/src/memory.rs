//! The in-memory twin of a NIC: tests put frames in and take out what was sent.

use crate::io::{BURST, Burst, Frame, HEADROOM, PacketIo, PortInfo, Spread};
use crate::vlan::{TAG, TAG_BYTES};
use crate::{ethernet, toeplitz};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A frame in ordinary memory, possibly in segments.
#[derive(Debug)]
pub struct MemoryFrame {
    first: Vec<u8>,
    /// Bytes of further segments.
    rest: Vec<u8>,
    /// Bytes that can be put in front.
    headroom: usize,
    rss_hash: Option<u32>,
    nic: Arc<Mutex<State>>,
}

impl Drop for MemoryFrame {
    fn drop(&mut self) {
        lock(&self.nic).free += 1;
    }
}

impl Frame for MemoryFrame {
    fn data(&self) -> &[u8] {
        &self.first
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.first
    }

    fn frame_len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    fn truncate(&mut self, len: usize) {
        self.rest.truncate(len.saturating_sub(self.first.len()));
        self.first.truncate(len);
    }

    fn trim_front(&mut self, len: usize) -> bool {
        trim_front(&mut self.first, &mut self.headroom, len)
    }

    fn grow_front(&mut self, len: usize) -> bool {
        grow_front(&mut self.first, &mut self.headroom, len)
    }

    fn rss_hash(&self) -> Option<u32> {
        self.rss_hash
    }
}

/// A NIC with as many queue pairs as wanted.
#[derive(Clone, Debug)]
pub struct MemoryNic {
    info: PortInfo,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Frames received and not yet taken, by queue.
    received: Vec<VecDeque<MemoryFrameParts>>,
    sent: Vec<Vec<u8>>,
    /// Frames that can still be made.
    free: usize,
    /// Frames each transmit queue takes before it is full.
    tx_room: usize,
    next_queue: usize,
}

#[derive(Debug)]
struct MemoryFrameParts {
    first: Vec<u8>,
    rest: Vec<u8>,
    rss_hash: Option<u32>,
}

/// Frames a NIC can hold before [`MemoryNic::limit_frames`] says otherwise.
const FRAMES: usize = 1 << 16;
/// Longest frame that can be made, in bytes.
const FRAME_BYTES_MAX: usize = 2048;
/// What bytes hold that nobody wrote, so that it shows.
const UNWRITTEN: u8 = 0xa5;

/// Takes bytes off the front of a frame in a vector. What is in front of it then holds what nobody wrote.
pub(crate) fn trim_front(bytes: &mut Vec<u8>, headroom: &mut usize, len: usize) -> bool {
    if len > bytes.len() {
        return false;
    }
    bytes.drain(..len);
    *headroom += len;
    true
}

/// Puts bytes in front of a frame in a vector, as far as there is room.
pub(crate) fn grow_front(bytes: &mut Vec<u8>, headroom: &mut usize, len: usize) -> bool {
    let Some(left) = headroom.checked_sub(len) else { return false };
    *headroom = left;
    bytes.splice(..0, std::iter::repeat_n(UNWRITTEN, len));
    true
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A test that panicked elsewhere leaves plain data behind; it is as good as before.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryNic {
    /// A NIC with `queues` queue pairs. With [`Spread::Rss`] frames are put into queues by their Toeplitz hash, else in turn.
    #[must_use]
    pub fn new(info: PortInfo, queues: usize) -> Self {
        let state = State {
            received: (0..queues).map(|_| VecDeque::new()).collect(),
            sent: Vec::new(),
            free: FRAMES,
            tx_room: usize::MAX,
            next_queue: 0,
        };
        Self { info, state: Arc::new(Mutex::new(state)) }
    }

    /// One queue pair.
    #[must_use]
    pub fn io(&self, queue: usize) -> MemoryIo {
        MemoryIo { info: self.info.clone(), queue, state: self.state.clone() }
    }

    /// A frame arrives.
    pub fn inject(&self, frame: &[u8]) {
        self.inject_segments(frame, frame.len());
    }

    /// A frame arrives whose first segment has `first_len` bytes.
    pub fn inject_segments(&self, frame: &[u8], first_len: usize) {
        let rss_hash = self.rss(frame);
        let mut state = lock(&self.state);
        let queue = match (&self.info.spread, rss_hash) {
            (Spread::Rss(rss), Some(hash)) => usize::from(rss.reta[hash as usize % rss.reta.len()]),
            (Spread::Rss(_), None) => 0,
            (Spread::Unknown, _) => {
                state.next_queue = (state.next_queue + 1) % state.received.len();
                state.next_queue
            }
        };
        let (first, rest) = frame.split_at(first_len.min(frame.len()));
        let parts = MemoryFrameParts { first: first.to_vec(), rest: rest.to_vec(), rss_hash };
        state.received[queue].push_back(parts);
    }

    /// Everything that was sent since the last call, in order.
    #[must_use]
    pub fn take_sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.state).sent)
    }

    /// From now on only so many frames can be made before others are dropped.
    pub fn limit_frames(&self, frames: usize) {
        lock(&self.state).free = frames;
    }

    /// Only so many more frames can be sent.
    pub fn limit_tx(&self, frames: usize) {
        lock(&self.state).tx_room = frames;
    }

    /// What a NIC with RSS would hash: the tuple of TCP and UDP, over IPv6 too if it says so, behind a VLAN tag too.
    fn rss(&self, frame: &[u8]) -> Option<u32> {
        let Spread::Rss(rss) = &self.info.spread else { return None };
        let is_tagged = frame.get(12..14) == Some(&TAG.to_be_bytes());
        let ip = ethernet::HEADER + if is_tagged { TAG_BYTES } else { 0 };
        if rss.ipv6 && frame.get(ip - 2..ip) == Some(&[0x86, 0xdd]) {
            let header = frame.get(ip..ip + 44)?;
            let address = |at: usize| {
                let bits = header[at..at + 16].iter().fold(0, |n, &byte| n << 8 | u128::from(byte));
                Ipv6Addr::from_bits(bits)
            };
            let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            let is_hashed = matches!(header[6], 6 | 17);
            return is_hashed.then(|| toeplitz::hash6(&rss.key, address(8), address(24), port(40), port(42)));
        }
        let tuple = frame.get(ip + 12..ip + 24)?;
        if frame[ip - 2..=ip] != [8, 0, 0x45]
            || !matches!(frame[ip + 9], 6 | 17)
            || (frame[ip + 6] & 0x3f) | frame[ip + 7] != 0
        {
            return None;
        }
        let address = |at: usize| Ipv4Addr::new(tuple[at], tuple[at + 1], tuple[at + 2], tuple[at + 3]);
        let port = |at: usize| u16::from_be_bytes([tuple[at], tuple[at + 1]]);
        Some(toeplitz::hash(&rss.key, address(0), address(4), port(8), port(10)))
    }
}

/// One queue pair of a [`MemoryNic`].
#[derive(Debug)]
pub struct MemoryIo {
    info: PortInfo,
    queue: usize,
    state: Arc<Mutex<State>>,
}

impl PacketIo for MemoryIo {
    type Frame = MemoryFrame;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx(&mut self, into: &mut Burst<MemoryFrame>) -> usize {
        let mut state = lock(&self.state);
        let room = (BURST - into.len()).min(state.free);
        let queue = &mut state.received[self.queue];
        let taken = room.min(queue.len());
        into.extend(queue.drain(..taken).map(|parts| MemoryFrame {
            first: parts.first,
            rest: parts.rest,
            headroom: HEADROOM,
            rss_hash: parts.rss_hash,
            nic: self.state.clone(),
        }));
        state.free -= taken;
        taken
    }

    fn tx(&mut self, from: &mut Burst<MemoryFrame>) -> usize {
        let sent = from.len().min(lock(&self.state).tx_room);
        for frame in from.drain(..sent) {
            let mut bytes = frame.first.clone();
            bytes.extend(&frame.rest);
            lock(&self.state).sent.push(bytes);
        }
        lock(&self.state).tx_room -= sent;
        sent
    }

    fn alloc(&mut self, data: &[u8]) -> Option<MemoryFrame> {
        let mut state = lock(&self.state);
        if data.len() > FRAME_BYTES_MAX || state.free == 0 {
            return None;
        }
        state.free -= 1;
        Some(MemoryFrame {
            first: data.to_vec(),
            rest: Vec::new(),
            headroom: HEADROOM,
            rss_hash: None,
            nic: self.state.clone(),
        })
    }
}
