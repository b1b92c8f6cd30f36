//! Real frames through each virtual device, from the kernel and back to it, in a network namespace of the test's own. Needs root.
#![allow(clippy::unwrap_used)]

use capsule::{Device, Eal, EalConfig, Mbuf, Memory, Mempool, Port, PortConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};
use turnpike_packet::io::{Burst, Frame, PacketIo, Spread};

/// The kernel's end of the link.
const KERNEL: &str = "10.77.0.1";
/// The address behind the port: no kernel has it.
const BEYOND: &str = "10.77.0.2";
const BEYOND_MAC: &str = "02:00:00:00:00:02";

/// Runs this very test again in a namespace of its own; there, runs `body`.
fn in_namespace(test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "CAPSULE_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let this = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--kill-child"])
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} in a private namespace (root is needed):\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two ends of a wire: `port0` for the port, `kern0` for the kernel, which completes its checksums.
fn make_veth() {
    run("ip link add port0 type veth peer name kern0");
    run("ethtool -K kern0 tx off");
    run("ip link set port0 up");
}

/// The kernel's end gets its address and knows the one beyond.
fn address(interface: &str) {
    run(&format!("ip link set {interface} up"));
    run(&format!("ip address add {KERNEL}/24 dev {interface}"));
    run(&format!("ip neighbour add {BEYOND} lladdr {BEYOND_MAC} dev {interface}"));
}

fn open(device: &str, queues: u16) -> (Port, Vec<capsule::Queue>) {
    let eal =
        Eal::start(&EalConfig { memory: Memory::Ordinary { mb: 128 }, pci: vec![], nodes: vec![] }).unwrap();
    let pool = Mempool::new(eal, 8191, Mempool::DATA_ROOM).unwrap();
    let device: Device = device.parse().unwrap();
    let config = PortConfig { queues, ..PortConfig::default() };
    Port::open(eal, &device, &config, pool).unwrap()
}

/// Receives from any queue until `wanted` says yes to a frame; none after 5 s.
fn receive(queues: &mut [capsule::Queue], wanted: impl Fn(&[u8]) -> bool) -> Option<(usize, Mbuf)> {
    let end = Instant::now() + Duration::from_secs(5);
    let mut burst = Burst::new();
    while Instant::now() < end {
        for (index, queue) in queues.iter_mut().enumerate() {
            queue.rx(&mut burst);
            if let Some(frame) = burst.drain(..).find(|frame| wanted(frame.data())) {
                return Some((index, frame));
            }
        }
    }
    None
}

/// The kernel sends UDP datagrams; the port sends each back with its addresses and ports swapped, as the peer would; the kernel receives them.
fn echo(queues: &mut [capsule::Queue], sizes: &[usize]) {
    let socket = UdpSocket::bind((KERNEL, 7000)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for &size in sizes {
        let payload: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        socket.send_to(&payload, (BEYOND, 9)).unwrap();
        let ours = |data: &[u8]| data.len() >= 42 + size && data[12..14] == [8, 0] && data[36..38] == [0, 9];
        let (index, mut frame) = receive(queues, ours).expect("the datagram arrives");
        assert_eq!(frame.data()[0..6], [2, 0, 0, 0, 0, 2], "to the address beyond");
        frame.truncate(42 + size);
        frame.linearize().unwrap();
        assert_eq!(frame.data()[42..], payload[..]);
        swap(frame.data_mut());
        // In two segments, cut within the IPv4 header: every driver sends all of it, by itself or because the queue puts it together.
        let mut split = queues[index].alloc(&frame.data()[..20]).unwrap();
        split.append(queues[index].alloc(&frame.data()[20..]).unwrap()).unwrap();
        let mut burst: Burst<Mbuf> = [split].into_iter().collect();
        while !burst.is_empty() {
            queues[index].tx(&mut burst);
        }
        let mut got = vec![0; 2048];
        let (len, from) = socket.recv_from(&mut got).unwrap();
        assert_eq!((&got[..len], from.to_string()), (&payload[..], format!("{BEYOND}:9")));
    }
}

/// Ethernet, IPv4 and UDP source against destination: no checksum changes.
fn swap(data: &mut [u8]) {
    for (first, second, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for i in 0..len {
            data.swap(first + i, second + i);
        }
    }
}

#[test]
fn af_packet_over_veth() {
    in_namespace("af_packet_over_veth", || {
        make_veth();
        address("kern0");
        let (port, mut queues) = open("net_af_packet0,iface=port0,qpairs=2", 2);
        assert_eq!((port.driver(), &port.info().spread), ("net_af_packet", &Spread::Unknown));
        echo(&mut queues, &[1, 18, 200, 1472]);
        assert!(port.stats().rx_frames >= 4 && port.stats().tx_frames == 4, "{:?}", port.stats());
        assert_ne!(port.info().mac, [0; 6]);
        drop((port, queues));
        // Closed entirely: the same interface can be opened again.
        let (_port, mut queues) = open("net_af_packet0,iface=port0", 1);
        echo(&mut queues, &[64]);
    });
}

/// The numbers of the queues whose wake is readable within a time.
fn woken(wakes: &[OwnedFd], within: Duration) -> Vec<usize> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: within.subsec_nanos().into() };
    let mut fds: Vec<PollFd<'_>> = wakes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll(&mut fds, Some(&timeout)).unwrap();
    (0..fds.len()).filter(|&at| fds[at].revents().contains(PollFlags::IN)).collect()
}

#[test]
fn a_frame_wakes_its_queue() {
    in_namespace("a_frame_wakes_its_queue", || {
        make_veth();
        address("kern0");
        let (port, mut queues) = open("net_af_packet0,iface=port0,qpairs=2", 2);
        let wakes: Vec<OwnedFd> = queues.iter_mut().map(|queue| queue.take_wake().unwrap()).collect();
        assert!(queues.iter_mut().all(|queue| queue.take_wake().is_none()), "each is given away once");
        let socket = UdpSocket::bind((KERNEL, 7000)).unwrap();
        let empty = |queues: &mut [capsule::Queue]| {
            let mut burst = Burst::new();
            while queues.iter_mut().map(|queue| queue.rx(&mut burst)).sum::<usize>() > 0 {
                burst.clear();
            }
        };
        // What the kernel says by itself when an interface comes up is over after a while.
        std::thread::sleep(Duration::from_millis(300));
        for round in 0..50u8 {
            empty(&mut queues);
            socket.send_to(&[round; 20], (BEYOND, 1_000 + u16::from(round))).unwrap();
            let found = woken(&wakes, Duration::from_millis(900));
            let ours = |data: &[u8]| data.len() >= 43 && data[12..14] == [8, 0] && data[42] == round;
            let (queue, _) = receive(&mut queues, ours).unwrap();
            assert!(found.contains(&queue), "{found:?} for a frame in queue {queue}");
        }
        // The kernel says something by itself now and then.
        let is_silent = (0..50).any(|_| {
            empty(&mut queues);
            woken(&wakes, Duration::from_millis(20)).is_empty()
        });
        assert!(is_silent, "an empty queue wakes somebody");
        drop((port, queues, wakes));
        let (_port, mut queues) = open("net_null0", 1);
        assert!(queues[0].take_wake().is_none(), "a device without sockets says nothing");
    });
}

#[test]
fn af_xdp_over_veth() {
    in_namespace("af_xdp_over_veth", || {
        make_veth();
        address("kern0");
        let (port, mut queues) = open("net_af_xdp0,iface=port0,force_copy=1", 1);
        assert_eq!((port.driver(), &port.info().spread), ("net_af_xdp", &Spread::Unknown));
        echo(&mut queues, &[1, 18, 200, 1472]);
        // This driver sends one segment; what does not fit one is dropped and counted, and what is behind it is sent.
        let queue = &mut queues[0];
        let mut long = queue.alloc(&[0; 1500]).unwrap();
        long.append(queue.alloc(&[0; 1500]).unwrap()).unwrap();
        let mut burst: Burst<Mbuf> = [long, queue.alloc(&[0; 60]).unwrap()].into_iter().collect();
        assert_eq!((queue.tx(&mut burst), burst.len(), queue.unsendable()), (2, 0, 1));
    });
}

#[test]
fn tap() {
    in_namespace("tap", || {
        let (port, mut queues) = open("net_tap0,iface=kern0", 1);
        address("kern0");
        assert_eq!((port.driver(), &port.info().spread), ("net_tap", &Spread::Unknown));
        echo(&mut queues, &[1, 18, 200, 1472]);
        drop((port, queues));
        let (_port, mut queues) = open("net_tap0,iface=kern0", 1);
        address("kern0");
        echo(&mut queues, &[64]);
    });
}

#[test]
fn a_device_with_too_few_queues_says_how_to_get_more() {
    in_namespace("a_device_with_too_few_queues_says_how_to_get_more", || {
        make_veth();
        let eal = Eal::start(&EalConfig { memory: Memory::Ordinary { mb: 64 }, pci: vec![], nodes: vec![] })
            .unwrap();
        let pool = Mempool::new(eal, 1023, Mempool::DATA_ROOM).unwrap();
        let device: Device = "net_af_packet0,iface=port0".parse().unwrap();
        let config = PortConfig { queues: 2, ..PortConfig::default() };
        let message = Port::open(eal, &device, &config, pool).unwrap_err().to_string();
        assert!(
            message.contains("has 1 queue pairs, 2 are needed") && message.contains("qpairs="),
            "{message}"
        );
    });
}

/// Programs one after the other, each ended by SIGKILL: the next finds nothing in its way. (libxdp keeps its socket until the process ends, so
/// net_af_xdp can be opened again by another process only.)
#[test]
fn a_killed_program_leaves_nothing_in_the_way() {
    const PHASE: &str = "CAPSULE_TEST_KILLED";
    if let Some(device) = std::env::var_os(PHASE) {
        let (_port, _queues) = open(device.to_str().unwrap(), 1);
        println!("open");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    in_namespace("a_killed_program_leaves_nothing_in_the_way", || {
        use std::io::{BufRead, BufReader};
        make_veth();
        address("kern0");
        let devices =
            ["net_af_packet0,iface=port0", "net_af_xdp0,iface=port0,force_copy=1", "net_tap0,iface=tap0"];
        for device in devices.iter().flat_map(|d| [d, d]) {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "a_killed_program_leaves_nothing_in_the_way", "--nocapture"])
                .env(PHASE, device)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let opened = BufReader::new(child.stdout.take().unwrap())
                .lines()
                .any(|line| line.unwrap().contains("open"));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(opened, "{device} opens after a killed program");
        }
        let (_port, mut queues) = open("net_af_xdp0,iface=port0,force_copy=1", 1);
        echo(&mut queues, &[64]);
    });
}
