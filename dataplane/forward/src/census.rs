//! A census of live flows by frontend and backend: the answer to the control plane's question, counted by every worker for itself.
//!
//! The control thread makes all memory of it when the question comes, and frees it; workers only count, a portion of their flow table a
//! turn. A flow that ends or begins meanwhile may be counted or not.

use crate::address::Address;
use crate::flow_key::Key;
use crate::hash::scale;
use crate::limits::{CENSUS_PAIRS_MAX, CENSUS_PROBES_MAX};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use turnpike_wire::update::{FrontendKey, Protocol};

/// One question and what has been counted for it.
#[derive(Debug)]
pub struct Census {
    question: u64,
    sheets: Vec<Sheet>,
}

/// What one worker writes, and others read when it is done.
#[derive(Debug)]
#[repr(align(128))]
struct Sheet {
    pairs: Box<[Pair]>,
    /// All flows, also of pairs that found no room.
    flows: AtomicU64,
    done: AtomicBool,
}

// The sheet of another worker is on other lines.
const _: () = assert!(align_of::<Sheet>() == 128 && size_of::<Sheet>().is_multiple_of(128));

/// A frontend and a backend. Empty while the ports are 0.
#[derive(Debug, Default)]
struct Pair {
    /// The frontend's address and the backend's.
    addresses: [AtomicU64; 4],
    /// The frontend's port, the backend's port, the protocol.
    ports: AtomicU64,
    flows: AtomicU64,
}

/// A line of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Whom the clients addressed.
    pub frontend: FrontendKey,
    /// Who serves them.
    pub backend: SocketAddr,
    /// How many flows.
    pub flows: u64,
}

impl Census {
    /// Empty sheets for so many workers.
    #[must_use]
    pub fn new(question: u64, workers: usize) -> Arc<Self> {
        let sheet = || Sheet {
            pairs: (0..CENSUS_PAIRS_MAX).map(|_| Pair::default()).collect(),
            flows: AtomicU64::new(0),
            done: AtomicBool::new(false),
        };
        Arc::new(Self { question, sheets: (0..workers).map(|_| sheet()).collect() })
    }

    /// Comes back in the answer.
    #[must_use]
    pub const fn question(&self) -> u64 {
        self.question
    }

    /// Whether every worker is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.sheets.iter().all(|sheet| sheet.done.load(Acquire))
    }

    /// All flows counted so far.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.sheets.iter().map(|sheet| sheet.flows.load(Relaxed)).sum()
    }

    /// The `n`th place of all sheets, if there is one, and what is written there, if something is. A pair may be on several sheets.
    #[must_use]
    pub fn place(&self, n: usize) -> Option<Option<Count>> {
        let sheet = self.sheets.get(n / CENSUS_PAIRS_MAX)?;
        Some(sheet.pairs[n % CENSUS_PAIRS_MAX].read())
    }

    /// Everything that is written.
    pub fn counts(&self) -> impl Iterator<Item = Count> {
        self.sheets.iter().flat_map(|sheet| sheet.pairs.iter().filter_map(Pair::read))
    }

    /// Counts a flow on a worker's sheet. Only that worker calls it.
    pub fn count<K: Key>(&self, worker: usize, keys: &[K; 2]) {
        let Some(sheet) = self.sheets.get(worker) else { return };
        sheet.flows.store(sheet.flows.load(Relaxed) + 1, Relaxed);
        let (client, reply) = (keys[0], keys[1]);
        let (frontend, backend) = (client.destination_address().bits(), reply.source_address().bits());
        let addresses = [frontend as u64, (frontend >> 64) as u64, backend as u64, (backend >> 64) as u64];
        let ports = u64::from(client.destination_port()) << 32
            | u64::from(reply.source_port()) << 16
            | u64::from(client.protocol());
        let mixed = addresses
            .iter()
            .fold(ports, |mixed, word| (mixed.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let home = scale((mixed >> 32) as u32, CENSUS_PAIRS_MAX as u32) as usize;
        for step in 0..CENSUS_PROBES_MAX {
            let pair = &sheet.pairs[(home + step) % CENSUS_PAIRS_MAX];
            let taken = pair.ports.load(Relaxed);
            if taken == 0 {
                pair.addresses.iter().zip(addresses).for_each(|(place, word)| place.store(word, Relaxed));
                pair.ports.store(ports, Release);
            } else if taken != ports || pair.addresses.each_ref().map(|word| word.load(Relaxed)) != addresses
            {
                continue;
            }
            pair.flows.store(pair.flows.load(Relaxed) + 1, Relaxed);
            return;
        }
    }

    /// A worker has counted its last flow.
    pub fn finish(&self, worker: usize) {
        if let Some(sheet) = self.sheets.get(worker) {
            sheet.done.store(true, Release);
        }
    }
}

impl Pair {
    fn read(&self) -> Option<Count> {
        let ports = self.ports.load(Acquire);
        let protocol = match ports as u8 {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            _ => return None,
        };
        let [low, high, backend_low, backend_high] = self.addresses.each_ref().map(|word| word.load(Relaxed));
        let ip = |high: u64, low: u64| Address::v6(u128::from(high) << 64 | u128::from(low)).ip();
        Some(Count {
            frontend: FrontendKey { address: ip(high, low), port: (ports >> 32) as u16, protocol },
            backend: SocketAddr::new(ip(backend_high, backend_low), (ports >> 16) as u16),
            flows: self.flows.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_key::{FlowKey, FlowKey6};

    fn keys(n: u32) -> [FlowKey; 2] {
        [FlowKey::new(17, n, 0xcb00_7101, 7, 53), FlowKey::new(17, 0x0a00_0000 | (n / 3), 1, 53, 9)]
    }

    #[test]
    fn pairs_are_counted_apart_and_the_sum_holds_all() {
        let census = Census::new(5, 2);
        (0..30).for_each(|n| census.count(0, &keys(n)));
        (0..3).for_each(|n| census.count(1, &keys(n)));
        census.finish(0);
        assert!(!census.is_done());
        census.finish(1);
        assert!(census.is_done());
        assert_eq!((census.question(), census.flows(), census.counts().count()), (5, 33, 11));
        assert!(census.counts().all(|c| c.flows == 3 && c.frontend.to_string() == "UDP 203.0.113.1:53"));
        assert_eq!(census.place(2 * CENSUS_PAIRS_MAX), None);
    }

    #[test]
    fn both_families_are_counted() {
        let census = Census::new(1, 1);
        let number = |a: &str| a.parse::<std::net::Ipv6Addr>().unwrap().to_bits();
        let client = FlowKey6::new(6, number("2001:db8::7"), number("2001:db8:1::80"), 40_000, 443);
        let reply = FlowKey6::new(6, number("fd00::9"), number("2001:db8::1"), 8_443, 5_000);
        census.count(0, &[client, reply]);
        census.count(0, &[client, reply]);
        census.count(0, &keys(1));
        let counts: Vec<_> = census.counts().filter(|c| c.flows == 2).collect();
        assert_eq!(counts.len(), 1);
        assert_eq!(counts[0].frontend.to_string(), "TCP [2001:db8:1::80]:443");
        assert_eq!(counts[0].backend, "[fd00::9]:8443".parse().unwrap());
    }

    #[test]
    fn what_finds_no_room_is_in_the_sum_alone() {
        let census = Census::new(1, 1);
        let many = 4 * CENSUS_PAIRS_MAX as u32;
        (0..many).for_each(|n| census.count(0, &keys(n * 3)));
        assert_eq!(census.flows(), u64::from(many));
        let counted: u64 = census.counts().map(|c| c.flows).sum();
        assert!(counted <= CENSUS_PAIRS_MAX as u64 && counted > CENSUS_PAIRS_MAX as u64 / 2, "{counted}");
    }
}
