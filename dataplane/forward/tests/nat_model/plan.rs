//! The gateways that are tried. To each belongs a run with packets of its own.

use crate::frames::is_v6;
use crate::harness::Bed;
use turnpike_forward::gateway::FlowRules;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::toeplitz::MICROSOFT_KEY;

/// What a worker has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Flows of each family.
    pub flows: usize,
    /// Flows of one client, or over IPv6 of the network with its first 64 bits; 0: as many as there is room for.
    pub client_flows: usize,
    /// SNAT ports, first and last.
    pub ports: (u16, u16),
}

impl Room {
    /// Some more flows than there are clients.
    const ENOUGH: Self = Self { flows: 8_192, client_flows: 0, ports: (1_024, u16::MAX) };
}

/// A gateway.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub workers: usize,
    spread: Spread,
    pub room: Room,
    /// Time between two bursts.
    pub step_ms: u32,
    /// Bursts from one lull, in which flows end, to the next.
    pub bursts: u64,
    /// What makes its packets others than those of the next plan under the same seed.
    pub salt: u64,
}

/// All of them.
pub fn plans() -> [Plan; 6] {
    let rss = |workers: u16, ipv6| {
        let reta = (0..128).map(|n| n % workers).collect();
        Spread::Rss(Rss { key: MICROSOFT_KEY.to_vec(), reta, ipv6 })
    };
    let one = |name, room, bursts| Plan {
        name,
        workers: 1,
        spread: Spread::Unknown,
        room,
        step_ms: 1,
        bursts,
        salt: 0,
    };
    // Several workers have time enough never to come near the limit on answers, which each has for itself.
    let several = |name, workers, spread| Plan {
        name,
        workers,
        spread,
        room: Room::ENOUGH,
        step_ms: 25,
        bursts: 1_500,
        salt: 0,
    };
    let few_ports = Room { ports: (40_000, 40_063), ..Room::ENOUGH };
    let few_flows = Room { flows: 400, client_flows: 7, ..Room::ENOUGH };
    let mut plans = [
        one("one worker", Room::ENOUGH, 1_500),
        several("two workers behind RSS", 2, rss(2, true)),
        several("three workers behind RSS of IPv4 alone", 3, rss(3, false)),
        several("three workers behind a NIC that hashes nothing", 3, Spread::Unknown),
        one("one worker with 64 SNAT ports", few_ports, 300),
        one("one worker with room for 400 flows", few_flows, 300),
    ];
    plans.iter_mut().zip(1u64..).for_each(|(plan, n)| plan.salt = n << 48);
    plans
}

impl Plan {
    pub fn bed(&self) -> Bed {
        let Room { flows, client_flows, ports: (first, last) } = self.room;
        let excluded = [(0, first - 1), (last.saturating_add(1), u16::MAX)];
        let rules = FlowRules {
            client_flows_max: client_flows as u32,
            excluded_ports: excluded.into_iter().filter(|(from, _)| *from != u16::MAX).collect(),
            ..FlowRules::default()
        };
        Bed::dual_under(self.workers, &self.spread, rules, flows as u32)
    }

    /// Whether there are more clients than there is room for.
    pub fn runs_full(&self) -> bool {
        self.room.flows < Room::ENOUGH.flows
    }

    /// Whether a frame comes to the worker that has its flow: there is one alone, or the NIC hashes it. All others may be handed over.
    pub fn comes_straight(&self, frame: &[u8]) -> bool {
        let Spread::Rss(rss) = &self.spread else { return self.workers == 1 };
        match is_v6(frame) {
            true => rss.ipv6 && frame.len() > 20 && [6, 17].contains(&frame[20]),
            false => frame.len() > 23 && frame[14] == 0x45 && [6, 17].contains(&frame[23]),
        }
    }
}
