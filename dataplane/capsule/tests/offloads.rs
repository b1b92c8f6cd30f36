//! What is turned on at drivers that every host has, and that frames come back to their pools with it.
#![allow(clippy::unwrap_used)]

use capsule::{Device, Eal, EalConfig, HashCheck, Memory, Mempool, Port, PortConfig, Queue};
use turnpike_packet::io::{Burst, PacketIo};

const MBUFS: u32 = 1023;
const EAL: EalConfig = EalConfig { memory: Memory::Ordinary { mb: 128 }, pci: Vec::new(), nodes: Vec::new() };

fn open(device: &str, config: &PortConfig) -> (Port, Vec<Queue>, Mempool) {
    let eal = Eal::start(&EAL).unwrap();
    let pool = Mempool::new(eal, MBUFS, Mempool::DATA_ROOM).unwrap();
    let device: Device = device.parse().unwrap();
    let (port, queues) = Port::open(eal, &device, config, pool).unwrap();
    (port, queues, pool)
}

#[test]
fn drivers_get_what_they_offer_and_a_port_needs() {
    let jumbo = PortConfig { mtu: Some(9000), ..PortConfig::default() };
    let rows = [
        ("net_null0", PortConfig::default(), "none"),
        ("net_ring0", PortConfig::default(), "multi-segment"),
        ("net_ring1", PortConfig { one_pool: false, ..PortConfig::default() }, "multi-segment"),
        ("net_ring2", jumbo, "scatter,multi-segment"),
    ];
    for (device, config, wanted) in rows {
        let (port, _queues, _) = open(device, &config);
        assert_eq!(port.offloads().to_string(), wanted, "{device}, MTU {:?}", config.mtu);
        assert_eq!(port.hash_check(), HashCheck::default(), "{device} leaves no hashes");
    }
}

#[test]
fn a_driver_without_segments_gets_frames_of_one_and_every_buffer_comes_back() {
    let (port, mut queues, pool) = open("net_null7,no-rx=1", &PortConfig::default());
    assert_eq!(port.offloads().to_string(), "none");
    let other = Mempool::new(Eal::start(&EAL).unwrap(), 127, Mempool::DATA_ROOM).unwrap();
    let mut burst = Burst::new();
    for _ in 0..10 {
        let mut chain = pool.alloc(&[1; 100]).unwrap();
        chain.append(other.alloc(&[2; 100]).unwrap()).unwrap();
        burst.push(chain);
        burst.push(other.alloc(&[3; 60]).unwrap());
    }
    assert_eq!((queues[0].tx(&mut burst), queues[0].unsendable(), port.stats().tx_frames), (20, 0, 20));
    drop((queues, port));
    assert_eq!((pool.available(), other.available()), (MBUFS, 127));
}

#[test]
fn a_pool_is_on_the_node_it_was_asked_from_or_there_is_none() {
    let eal = Eal::start(&EAL).unwrap();
    let here = Mempool::on_node(eal, 127, Mempool::DATA_ROOM, Some(0)).unwrap();
    assert_eq!(here.available(), 127);
    for node in [7, u32::MAX] {
        assert!(Mempool::on_node(eal, 127, Mempool::DATA_ROOM, Some(node)).is_err(), "node {node}");
    }
}
