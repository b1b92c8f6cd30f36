//! Ports made of rings, on ordinary pages: frames, pools, queues, and what happens when they are dropped in every order.
#![allow(clippy::unwrap_used)]

use capsule::{Eal, EalConfig, EalError, Mbuf, Memory, Mempool, Port, PortConfig, PortError, Queue, ring};
use capsule::{RingConsumer, RingProducer};
use turnpike_packet::io::{Burst, Frame, PacketIo, Spread};

const CONFIG: EalConfig =
    EalConfig { memory: Memory::Ordinary { mb: 256 }, pci: Vec::new(), nodes: Vec::new() };

fn eal() -> Eal {
    Eal::start(&CONFIG).unwrap()
}

fn pool(mbufs: u32) -> Mempool {
    Mempool::new(eal(), mbufs, Mempool::DATA_ROOM).unwrap()
}

/// A port with `queues` queue pairs, and for each what feeds it and what collects from it.
fn port(queues: u16, pool: Mempool) -> (Port, Vec<Queue>, Vec<(RingProducer, RingConsumer)>) {
    let mut inner = Vec::new();
    let mut outer = Vec::new();
    for _ in 0..queues {
        let (feed, receive) = ring(eal(), 256).unwrap();
        let (send, collect) = ring(eal(), 256).unwrap();
        inner.push((receive, send));
        outer.push((feed, collect));
    }
    let config = PortConfig { queues, ..PortConfig::default() };
    let (port, queues) = Port::from_rings(eal(), inner, &config, pool).unwrap();
    (port, queues, outer)
}

fn frames(pool: Mempool, count: u8) -> Burst<Mbuf> {
    (0..count).map(|i| pool.alloc(&[i; 60]).unwrap()).collect()
}

fn firsts(burst: &Burst<Mbuf>) -> Vec<u8> {
    burst.iter().map(|frame| frame.data()[0]).collect()
}

#[test]
fn the_environment_starts_once() {
    assert_eq!(Eal::start(&CONFIG), Ok(eal()));
    let other = EalConfig { memory: Memory::Ordinary { mb: 64 }, pci: vec![], nodes: vec![] };
    assert_eq!(Eal::start(&other), Err(EalError::AlreadyStarted));
}

#[test]
fn starting_it_pins_no_other_thread() {
    let before = capsule::available_cores();
    eal();
    assert_eq!(capsule::available_cores(), before);
}

#[test]
fn frames_pass_in_order_and_nothing_is_lost() {
    let pool = pool(511);
    let (port, mut queues, mut outer) = port(1, pool);
    let (queue, (feed, collect)) = (&mut queues[0], &mut outer[0]);
    let mut burst = frames(pool, 40);
    assert_eq!(feed.enqueue(&mut burst), 40);
    assert!(burst.is_empty());

    // What is in the burst already stays in front.
    burst.push(pool.alloc(&[200; 60]).unwrap());
    assert_eq!(queue.rx(&mut burst), 40);
    let mut wanted = vec![200];
    wanted.extend(0..40);
    assert_eq!(firsts(&burst), wanted);

    assert_eq!(queue.tx(&mut burst), 41);
    let mut got = Burst::new();
    assert_eq!(collect.dequeue(&mut got), 41);
    assert_eq!(firsts(&got), wanted);
    assert_eq!((port.stats().rx_frames, port.stats().tx_frames), (40, 41));
    assert_eq!(queue.rx(&mut burst), 0);
    assert_eq!(queue.tx(&mut burst), 0);
    drop(got);
    assert_eq!(pool.available(), 511);
}

#[test]
fn a_full_queue_takes_a_prefix_and_leaves_the_rest_in_front() {
    let pool = pool(1023);
    let (_port, mut queues, mut outer) = port(1, pool);
    let (queue, collect) = (&mut queues[0], &mut outer[0].1);
    // 255 slots: three bursts of 64 fit, of the fourth 63 do.
    for _ in 0..3 {
        assert_eq!(queue.tx(&mut frames(pool, 64)), 64);
    }
    let mut fourth = frames(pool, 64);
    assert_eq!(queue.tx(&mut fourth), 63);
    assert_eq!(firsts(&fourth), vec![63]);
    assert_eq!(queue.tx(&mut fourth), 0);
    assert_eq!(firsts(&fourth), vec![63], "a full queue takes nothing and loses nothing");

    let mut got = Burst::new();
    assert_eq!(collect.dequeue(&mut got), 64);
    assert_eq!(queue.tx(&mut fourth), 1);
    drop((got, fourth));
    assert_eq!(pool.available(), 1023 - (255 - 64 + 1));
}

#[test]
fn an_empty_pool_gives_none_until_a_frame_comes_back() {
    let pool = pool(64);
    let mut held: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc(b"frame")).collect();
    assert_eq!((held.len(), pool.available()), (64, 0));
    held.pop();
    assert!(pool.alloc(b"frame").is_some());
}

#[test]
fn a_frame_is_what_was_put_in_and_no_longer_than_a_buffer() {
    let pool = pool(64);
    let longest = vec![7u8; usize::from(Mempool::DATA_ROOM)];
    let frame = pool.alloc(&longest).unwrap();
    assert_eq!((frame.frame_len(), frame.data(), frame.rss_hash()), (2048, &longest[..], None));
    assert!(pool.alloc(&vec![7u8; 2049]).is_none());
    assert!(pool.alloc(&vec![7u8; 70_000]).is_none());
    let empty = pool.alloc(&[]).unwrap();
    assert_eq!((empty.frame_len(), empty.is_contiguous()), (0, true));
    drop((frame, empty));
    assert_eq!(pool.available(), 64, "a refused frame goes back");
}

fn chain(pool: Mempool, parts: &[usize]) -> Mbuf {
    let mut next = 0u8;
    let mut segments = parts.iter().map(|len| {
        let bytes: Vec<u8> = (0..*len).map(|_| (next, next = next.wrapping_add(1)).0).collect();
        pool.alloc(&bytes).unwrap()
    });
    let mut head = segments.next().unwrap();
    for segment in segments {
        head.append(segment).unwrap();
    }
    head
}

#[test]
fn frames_of_many_segments_are_cut_where_they_are_told() {
    // description, parts, cut to, segments left, bytes of the first segment left
    let rows: &[(&str, &[usize], usize, usize, usize)] = &[
        ("longer than it is", &[40, 30, 20], 91, 3, 40),
        ("exactly what it is", &[40, 30, 20], 90, 3, 40),
        ("in the last segment", &[40, 30, 20], 80, 3, 40),
        ("at the end of the second", &[40, 30, 20], 70, 2, 40),
        ("in the second", &[40, 30, 20], 41, 2, 40),
        ("at the end of the first", &[40, 30, 20], 40, 1, 40),
        ("in the first", &[40, 30, 20], 14, 1, 14),
        ("to nothing", &[40, 30, 20], 0, 1, 0),
        ("one segment", &[60], 46, 1, 46),
        ("an empty segment in the middle", &[10, 0, 10], 15, 3, 10),
    ];
    let pool = pool(64);
    for (name, parts, to, segments, first) in rows {
        let whole: usize = parts.iter().sum();
        let mut frame = chain(pool, parts);
        assert_eq!((frame.frame_len(), frame.data().len()), (whole, parts[0]), "{name}");
        frame.truncate(*to);
        let found = (frame.frame_len(), frame.segments(), frame.data().len());
        assert_eq!(found, (whole.min(*to), *segments, *first), "{name}");
        assert_eq!(pool.available() as usize, 64 - segments, "{name}: cut segments go back");
        frame.linearize().unwrap();
        let wanted: Vec<u8> = (0..whole.min(*to) as u8).collect();
        assert_eq!((frame.data(), frame.is_contiguous()), (&wanted[..], true), "{name}");
    }
    assert_eq!(pool.available(), 64);
}

#[test]
fn a_chain_too_long_for_one_buffer_stays_as_it_is() {
    let pool = pool(64);
    let mut frame = chain(pool, &[1500, 1500]);
    assert_eq!(frame.linearize().unwrap_err().frame_len, 3000);
    assert_eq!((frame.frame_len(), frame.segments(), frame.is_contiguous()), (3000, 2, false));
    drop(frame);
    assert_eq!(pool.available(), 64);
}

#[test]
fn writes_reach_the_other_end() {
    let pool = pool(64);
    let (_port, mut queues, mut outer) = port(1, pool);
    let mut burst = frames(pool, 1);
    burst[0].data_mut().copy_from_slice(&[9; 60]);
    queues[0].tx(&mut burst);
    outer[0].1.dequeue(&mut burst);
    assert_eq!(burst[0].data(), [9; 60]);
}

#[test]
fn a_driver_without_receive_side_scaling_says_unknown_with_any_number_of_queues() {
    for count in [1, 3] {
        let (port, queues, _outer) = port(count, pool(64));
        assert_eq!(queues.len(), usize::from(count));
        assert_eq!((port.driver(), &port.info().spread), ("net_ring", &Spread::Unknown));
        assert_eq!(port.info().mtu, 1500);
        assert!(port.link().up);
        assert!(queues.iter().all(|q| q.info() == port.info()));
    }
}

#[test]
fn queues_are_apart() {
    let pool = pool(255);
    let (_port, mut queues, mut outer) = port(2, pool);
    outer[1].0.enqueue(&mut frames(pool, 3));
    let mut burst = Burst::new();
    assert_eq!(queues[0].rx(&mut burst), 0);
    assert_eq!(queues[1].rx(&mut burst), 3);
    queues[1].tx(&mut burst);
    assert_eq!((outer[0].1.len(), outer[1].1.len()), (0, 3));
}

#[test]
fn a_worker_thread_has_a_cache_and_frames_may_be_freed_anywhere() {
    let pool = pool(511);
    let (port, mut queues, mut outer) = port(1, pool);
    let mut queue = queues.remove(0);
    let worker = std::thread::spawn(move || {
        let _registered = capsule::register_thread(eal()).unwrap();
        let mut burst: Burst<Mbuf> = (0..64).map(|_| queue.alloc(&[1; 60]).unwrap()).collect();
        while !burst.is_empty() {
            queue.tx(&mut burst);
        }
        queue
    });
    let queue = worker.join().unwrap();
    let mut burst = Burst::new();
    assert_eq!(outer[0].1.dequeue(&mut burst), 64);
    drop((burst, queue, port));
    assert_eq!(pool.available(), 511, "freed by a thread DPDK does not know, allocated by one it knows");
}

#[test]
fn a_port_stays_open_until_its_last_queue_is_gone() {
    let pool = pool(511);
    let (port, mut queues, mut outer) = port(2, pool);
    let (mut second, first) = (queues.pop().unwrap(), queues.pop().unwrap());
    drop((port, first));
    assert_eq!(second.tx(&mut frames(pool, 2)), 2);
    assert_eq!(outer[1].1.len(), 2);
    drop(second);
    // The frames left in rings go back with the rings' last ends.
    let mut left = frames(pool, 5);
    outer[0].0.enqueue(&mut left);
    drop(outer);
    assert_eq!(pool.available(), 511);
}

#[test]
fn ports_can_be_made_and_closed_more_often_than_there_are_places() {
    let pool = pool(64);
    for _ in 0..100 {
        drop(port(1, pool));
    }
}

#[test]
fn too_many_queues_and_strange_sizes_are_refused_with_the_numbers() {
    let pool = pool(64);
    let (_feed, receive) = ring(eal(), 64).unwrap();
    let (send, _collect) = ring(eal(), 64).unwrap();
    let config = PortConfig { queues: 2, ..PortConfig::default() };
    let refused = Port::from_rings(eal(), vec![(receive, send)], &config, pool).unwrap_err();
    assert!(matches!(refused, PortError::TooFewQueues { offered: 1, wanted: 2, .. }), "{refused}");

    assert!(ring(eal(), 100).unwrap_err().to_string().contains("power of two"));
    assert!(Mempool::new(eal(), 1, 2048).unwrap_err().to_string().contains("at least 64"));
    let message = Mempool::new(eal(), 4_000_000, 2048).unwrap_err().to_string();
    assert!(message.contains("memory_mb") && message.contains("15625 MiB"), "{message}");
}

#[test]
fn frames_longer_than_a_buffer_have_segments_and_come_back_whole() {
    let pool = pool(511);
    let before = pool.available();
    let room = usize::from(Mempool::DATA_ROOM);
    for (len, segments) in [(0, 1), (60, 1), (room, 1), (room + 1, 2), (9_014, 5)] {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let frame = pool.alloc_long(&bytes).unwrap();
        assert_eq!((frame.frame_len(), frame.segments()), (len, segments));
        let mut copy = [0xa5; 10_000];
        assert_eq!(frame.copy_into(&mut copy), Some(len));
        assert!(copy[..len] == bytes && copy[len..].iter().all(|byte| *byte == 0xa5));
        assert_eq!(frame.copy_into(&mut copy[..len.saturating_sub(1)]), (len == 0).then_some(0), "no room");
    }
    assert!(pool.alloc_long(&vec![0; room * 600]).is_none(), "more than the pool has");
    assert_eq!(pool.available(), before, "everything is given back");
}
