//! The line: a port made of software rings in this process, and the few frames that go round on it.
//!
//! Few, so that their own cache lines do not hide those of the flow table.

use anyhow::{Context, Result, bail, ensure};
use capsule::{Eal, Mbuf, Mempool, Port, PortConfig, Queue, RingConsumer, RingProducer, ring};
use turnpike_packet::flight::check;
use turnpike_packet::io::{BURST, Burst, Frame};

/// Frames between two looks at the clock.
pub const CHUNK: usize = 16 * BURST;
/// Frame buffers: a chunk, a burst, and what DPDK keeps in its cache.
const MBUFS: u32 = 2047;
const RING_SLOTS: u32 = 2048;

/// The port, and the outer ends of its rings.
pub struct Line {
    /// What the worker receives from and sends to.
    pub queues: Vec<Queue>,
    feed: RingProducer,
    sink: RingConsumer,
    pool: Mempool,
    /// Frames that are on no ring, all of one length.
    stock: Vec<Mbuf>,
    _port: Port,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("stock", &self.stock.len()).finish_non_exhaustive()
    }
}

impl Line {
    /// A line without frames yet.
    pub fn new(eal: Eal) -> Result<Self> {
        let pool = Mempool::new(eal, MBUFS, Mempool::DATA_ROOM)?;
        let (feed, receive) = ring(eal, RING_SLOTS)?;
        let (send, sink) = ring(eal, RING_SLOTS)?;
        let (port, queues) = Port::from_rings(eal, vec![(receive, send)], &PortConfig::default(), pool)?;
        Ok(Self { queues, feed, sink, pool, stock: Vec::with_capacity(CHUNK), _port: port })
    }

    /// Has a chunk of frames of this length from now on.
    pub fn resize_frames(&mut self, len: usize) -> Result<()> {
        if self.stock.len() != CHUNK || self.stock.iter().any(|frame| frame.frame_len() != len) {
            self.stock.clear();
            for _ in 0..CHUNK {
                self.stock.push(self.pool.alloc(&vec![0; len]).context("too few frame buffers")?);
            }
        }
        Ok(())
    }

    /// Writes the next `count` frames, at most a chunk, and puts them on the receive ring.
    pub fn put(&mut self, count: usize, mut write: impl FnMut(&mut [u8])) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let mut burst = Burst::new();
            for _ in 0..left.min(BURST) {
                let mut frame = self.stock.pop().context("more frames than there are")?;
                write(frame.data_mut());
                burst.push(frame);
            }
            left -= burst.len();
            self.feed.enqueue(&mut burst);
            ensure!(burst.is_empty(), "the receive ring is full");
        }
        Ok(())
    }

    /// Throws away what is on the transmit ring, and says how many frames that were.
    pub fn clear(&mut self) -> usize {
        let mut burst = Burst::new();
        let (mut thrown, mut count) = (0, usize::MAX);
        while count > 0 {
            count = self.sink.dequeue(&mut burst);
            thrown += count;
            burst = Burst::new();
        }
        thrown
    }

    /// Takes `count` frames off the transmit ring and shows them in their order; fewer are an error.
    pub fn take(&mut self, count: usize, mut show: impl FnMut(&[u8])) -> Result<()> {
        let mut taken = 0;
        while taken < count {
            let mut burst = Burst::new();
            if self.sink.dequeue(&mut burst) == 0 {
                bail!("{taken} of {count} packets came back");
            }
            taken += burst.len();
            for frame in burst {
                show(frame.data());
                self.stock.push(frame);
            }
        }
        ensure!(taken == count, "{taken} packets came back, not {count}");
        Ok(())
    }

    /// Checks every length and checksum of the frames that came back last.
    pub fn check_frames(&self) -> Result<()> {
        self.stock.iter().try_for_each(|frame| check(frame.data())).context("a packet left broken")
    }
}
