//! The conformance suite of `PacketIo` on DPDK: a port made of rings, and net_pcap between two capture files.
#![allow(clippy::unwrap_used)]

use capsule::{
    Device, Eal, EalConfig, Mbuf, Memory, Mempool, Port, PortConfig, Queue, RingConsumer, RingProducer, ring,
};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use turnpike_packet::conformance::{self, Wire};
use turnpike_packet::io::{Burst, Frame};

fn eal() -> Eal {
    Eal::start(&EalConfig { memory: Memory::Ordinary { mb: 256 }, pci: vec![], nodes: vec![] }).unwrap()
}

fn pool() -> Mempool {
    Mempool::new(eal(), 1023, Mempool::DATA_ROOM).unwrap()
}

struct RingWire {
    pool: Mempool,
    queues: Vec<Queue>,
    feed: RingProducer,
    collect: RingConsumer,
}

impl RingWire {
    fn new(pool: Mempool) -> Self {
        let (feed, receive) = ring(eal(), 512).unwrap();
        let (send, collect) = ring(eal(), 512).unwrap();
        let (_port, queues) =
            Port::from_rings(eal(), vec![(receive, send)], &PortConfig::default(), pool).unwrap();
        Self { pool, queues, feed, collect }
    }
}

impl Wire for RingWire {
    type Io = Queue;

    fn io(&mut self) -> &mut Queue {
        &mut self.queues[0]
    }

    fn arrive(&mut self, frames: &[Vec<u8>]) {
        for bytes in frames {
            let mut burst: Burst<Mbuf> = self.pool.alloc(bytes).into_iter().collect();
            assert_eq!(self.feed.enqueue(&mut burst), 1);
        }
    }

    fn departed(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut burst = Burst::new();
        while self.collect.dequeue(&mut burst) > 0 {
            all.extend(burst.drain(..).map(|frame| frame.data().to_vec()));
        }
        all
    }
}

/// The device is opened when it is first used, because net_pcap reads its file from the start; and closed to read what it wrote.
struct PcapWire {
    pool: Mempool,
    folder: tempfile::TempDir,
    number: u32,
    queue: Option<Queue>,
}

impl PcapWire {
    fn new(pool: Mempool) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let wire = Self { pool, folder: tempfile::tempdir().unwrap(), number, queue: None };
        wire.write(&[]);
        wire
    }

    fn write(&self, frames: &[Vec<u8>]) {
        let mut file = PcapWriter::new(File::create(self.folder.path().join("in.pcap")).unwrap()).unwrap();
        for frame in frames {
            file.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, frame)).unwrap();
        }
    }
}

impl Wire for PcapWire {
    type Io = Queue;

    fn io(&mut self) -> &mut Queue {
        self.queue.get_or_insert_with(|| {
            let path = self.folder.path().display();
            let device = format!("net_pcap{},rx_pcap={path}/in.pcap,tx_pcap={path}/out.pcap", self.number);
            let device: Device = device.parse().unwrap();
            Port::open(eal(), &device, &PortConfig::default(), self.pool).unwrap().1.remove(0)
        })
    }

    fn arrive(&mut self, frames: &[Vec<u8>]) {
        self.queue = None;
        self.write(frames);
    }

    fn departed(&mut self) -> Vec<Vec<u8>> {
        self.queue = None;
        let mut file = PcapReader::new(File::open(self.folder.path().join("out.pcap")).unwrap()).unwrap();
        let mut frames = Vec::new();
        while let Some(packet) = file.next_packet() {
            frames.push(packet.unwrap().data.into_owned());
        }
        frames
    }
}

#[test]
fn ring_port() {
    let pool = pool();
    conformance::run(|| RingWire::new(pool));
    assert_eq!(pool.available(), 1023, "no frame is lost");
}

#[test]
fn pcap_device() {
    let pool = pool();
    conformance::run(|| PcapWire::new(pool));
    assert_eq!(pool.available(), 1023, "no frame is lost");
}
