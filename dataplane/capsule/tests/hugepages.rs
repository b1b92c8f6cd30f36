//! The environment on huge pages. Needs root, to reserve them; those it reserves are given back.
#![allow(clippy::unwrap_used)]

use capsule::{Eal, EalConfig, Mbuf, Memory, Mempool, Port, PortConfig, free_hugepages_mb, ring};
use turnpike_packet::io::{Burst, Frame, PacketIo};

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
const MB: u32 = 64;

/// Huge pages reserved beyond those there were.
struct Reservation(u64);

impl Reservation {
    fn of(pages: u64) -> Self {
        let before = reserved();
        std::fs::write(RESERVED, (before + pages).to_string()).expect("root may reserve huge pages");
        assert_eq!(reserved(), before + pages, "the kernel finds {pages} huge pages");
        Self(pages)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _ = std::fs::write(RESERVED, reserved().saturating_sub(self.0).to_string());
    }
}

fn reserved() -> u64 {
    std::fs::read_to_string(RESERVED).unwrap().trim().parse().unwrap()
}

#[test]
fn packet_memory_is_in_huge_pages() {
    let _reservation = Reservation::of(u64::from(MB) / 2);
    let free = free_hugepages_mb();
    assert!(free >= u64::from(MB));
    let eal = Eal::start(&EalConfig { memory: Memory::Huge { mb: MB }, pci: vec![], nodes: vec![] }).unwrap();
    assert!(free_hugepages_mb() + u64::from(MB) <= free, "EAL took its memory at the start");

    let pool = Mempool::new(eal, 4095, Mempool::DATA_ROOM).unwrap();
    let frame = pool.alloc(b"where am I").unwrap();
    assert!(page_bytes(frame.data().as_ptr() as usize) >= 2 << 20);

    let (mut feed, receive) = ring(eal, 64).unwrap();
    let (send, mut collect) = ring(eal, 64).unwrap();
    let (_port, mut queues) =
        Port::from_rings(eal, vec![(receive, send)], &PortConfig::default(), pool).unwrap();
    let mut burst: Burst<Mbuf> = [frame].into_iter().collect();
    assert_eq!(feed.enqueue(&mut burst), 1);
    assert_eq!(queues[0].rx(&mut burst), 1);
    assert_eq!(queues[0].tx(&mut burst), 1);
    assert_eq!(collect.dequeue(&mut burst), 1);
    assert_eq!(burst[0].data(), b"where am I");
}

/// Size of the page an address of this process lies in.
fn page_bytes(address: usize) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let range = range
            .and_then(|(a, b)| Some(usize::from_str_radix(a, 16).ok()?..usize::from_str_radix(b, 16).ok()?));
        if let Some(range) = range {
            inside = range.contains(&address);
        } else if let Some(size) = line.strip_prefix("KernelPageSize:").filter(|_| inside) {
            let kb: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
            return kb << 10;
        }
    }
    panic!("no mapping holds {address:x}");
}
