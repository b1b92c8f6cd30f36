//! The packet path is compiled once for every processor and once more for newer ones: both do the same with every frame.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::{Bed, answer_to, from};
use proptest::prelude::*;
use turnpike_forward::cpu::Cpu;
use turnpike_packet::io::Spread;
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::{tcp, udp};
use turnpike_wire::update::{FrontendKind, Protocol};

const VIPS: [&str; 2] = ["203.0.113.80:80", "[2001:db8:80::80]:80"];

fn client(family: usize, number: u8) -> String {
    match family {
        0 => format!("198.51.100.{number}:40000"),
        _ => format!("[2001:db8:c::{number}]:40000"),
    }
}

/// A worker of this processor with open connections of both families.
fn bed(cpu: Cpu) -> (Bed, Vec<Vec<u8>>) {
    let mut bed = Bed::dual(1, &Spread::Unknown, 1_500);
    bed.workers = bed.workers.drain(..).map(|worker| worker.with_cpu(cpu)).collect();
    let backends: [&[&str]; 2] =
        [&["10.244.0.1:8080", "10.244.0.2:8080"], &["[fd00::1]:8080", "[fd00::2]:8080"]];
    let ports: Vec<Port> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| (0..2).map(move |family| (protocol, family)))
        .map(|(protocol, family)| {
            let port = Port::new(["web/IPv4", "web/IPv6"][family], protocol, backends[family]);
            port.on(VIPS[family], FrontendKind::LoadBalancer)
        })
        .collect();
    bed.put(&ports);
    bed.know_router();
    // Frames of live flows, of both directions.
    let mut frames = Vec::new();
    for (family, vip) in VIPS.iter().enumerate() {
        for number in 1..=4 {
            let there = from(&client(family, number), vip);
            let syn = bed.pass_through(&tcp::segment(&there, 100, 0, SYN, b""));
            let back = answer_to(&syn);
            bed.pass_through(&tcp::segment(&back, 500, 101, SYN | ACK, b""));
            frames.push(tcp::segment(&there, 101, 501, ACK | PSH, b"question"));
            bed.pass_through(&frames[frames.len() - 1]);
            frames.push(tcp::segment(&back, 501, 109, ACK, b"and answer"));
            let asked = bed.pass_through(&udp::datagram(&there, b"a longer question"));
            frames.push(udp::datagram(&there, b"a longer question"));
            frames.push(udp::datagram(&answer_to(&asked), b"answer of some length"));
            frames.push(tcp::segment(&there, 109, 511, ACK | FIN, b""));
            frames.push(tcp::segment(&back, 511, 110, RST, b""));
        }
    }
    (bed, frames)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn newer_processors_do_what_all_do(
        bursts in prop::collection::vec(
            prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec((0usize..80, any::<u8>()), 0..3), 40usize..90), 1..100),
            1..6,
        )
    ) {
        let ((mut any, frames), (mut newer, _)) = (bed(Cpu::any()), bed(Cpu::detect()));
        for burst in bursts {
            let burst: Vec<Vec<u8>> = burst
                .into_iter()
                .map(|(pick, changes, len)| {
                    let mut frame = pick.get(&frames).clone();
                    for (at, byte) in changes {
                        if let Some(place) = frame.get_mut(at) {
                            *place = byte;
                        }
                    }
                    // Ethernet pads what is short, and some frames are cut.
                    if len < 60 && len & 1 == 0 { frame.truncate(len) } else { frame.resize(frame.len().max(60), 0) }
                    frame
                })
                .collect();
            for bed in [&mut any, &mut newer] {
                for frame in &burst {
                    bed.nic.inject(frame);
                }
                bed.turn();
            }
            prop_assert_eq!(any.nic.take_sent(), newer.nic.take_sent());
            prop_assert_eq!(any.workers[0].counters(), newer.workers[0].counters());
        }
    }
}
