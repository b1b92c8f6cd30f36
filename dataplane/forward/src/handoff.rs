//! Rings between workers: a frame that came to the wrong worker goes to the one that owns its flow.
//!
//! One single-producer, single-consumer ring for each ordered pair of workers, so no line is written by two producers.
//!
//! # No loops
//! A frame from a NIC is handed over once. A fragment may be twice: first to the worker that knows its datagram, then, with what that one has found
//! out, to the worker of the flow. Frames that come from another worker as they are never go on as they are, and those with a finding
//! never go on at all.

use crate::fragments::Onward;
use crate::limits::HANDOFF_FRAMES;
use rtrb::{Consumer, Producer, RingBuffer};

/// A frame and the port it came in on.
#[derive(Debug)]
pub struct Handed<F> {
    /// Number of the port.
    pub port: u8,
    /// The frame.
    pub frame: F,
}

/// What goes through a ring: of a fragment beside the frame what is known of its datagram, if that is known.
pub type Passed<F> = (Handed<F>, Option<Onward>);

/// One worker's ends of the rings.
#[derive(Debug)]
pub struct Handoff<F> {
    to: Vec<Option<Producer<Passed<F>>>>,
    from: Vec<Consumer<Passed<F>>>,
}

impl<F> Handoff<F> {
    /// The ends for each of `workers` workers.
    #[must_use]
    pub fn mesh(workers: usize) -> Vec<Self> {
        let mut ends: Vec<Self> = (0..workers).map(|_| Self { to: Vec::new(), from: Vec::new() }).collect();
        for sender in 0..workers {
            for receiver in 0..workers {
                if sender == receiver {
                    ends[sender].to.push(None);
                    continue;
                }
                let (producer, consumer) = RingBuffer::new(HANDOFF_FRAMES);
                ends[sender].to.push(Some(producer));
                ends[receiver].from.push(consumer);
            }
        }
        ends
    }

    /// Hands a frame over; gives it back when the ring is full or there is no such worker.
    pub fn send(&mut self, worker: usize, port: u8, frame: F, onward: Option<Onward>) -> Result<(), F> {
        match self.to.get_mut(worker) {
            Some(Some(ring)) => ring
                .push((Handed { port, frame }, onward))
                .map_err(|rtrb::PushError::Full((handed, _))| handed.frame),
            _ => Err(frame),
        }
    }

    /// The next frame from any other worker.
    pub fn receive(&mut self) -> Option<Passed<F>> {
        self.from.iter_mut().find_map(|ring| ring.pop().ok())
    }
}
