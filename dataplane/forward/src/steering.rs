//! Which worker owns a flow, and so which worker must get each of its packets.
//!
//! The worker that gets the client's packets makes the flow. The backend's replies come to a SNAT address and port of our choosing, so that
//! choice decides who gets them:
//! - A NIC with known RSS hashes the reply with Toeplitz; the port is chosen so that the hash leads to the flow's worker. Toeplitz is linear,
//!   hence the hash is the exclusive-or of one part per field, and trying a port costs two table reads.
//! - Otherwise the port itself names the worker (port modulo workers), the client's side is spread by a keyed hash, and a worker that gets
//!   another's packet hands it over.

use crate::address::Family;
use crate::flow_key::Key;
use crate::gateway::Gateway;
use crate::hash::{Secret, scale};
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::toeplitz::ToeplitzTable;

/// How the packets of one NIC find their worker.
#[derive(Clone, Debug)]
pub enum Steering {
    /// The NIC's RSS: queue *n* belongs to worker *n*.
    Rss(Box<RssSteering>),
    /// By the program: each packet has an owner, others hand it over.
    Owner,
}

/// Toeplitz parts and the indirection table of a NIC.
#[derive(Clone, Debug)]
pub struct RssSteering {
    toeplitz: ToeplitzTable,
    reta: Vec<u16>,
}

impl Steering {
    /// Whether each packet's owner must be worked out, since the NIC does not know it.
    #[must_use]
    pub fn is_by_program(&self, family: Family) -> bool {
        match self {
            Self::Rss(rss) => !rss.spreads(family),
            Self::Owner => true,
        }
    }

    /// What a NIC allows: RSS if its key and table are known, the table's length is a power of two and it serves every worker.
    #[must_use]
    pub fn of(spread: &Spread, workers: usize) -> Self {
        match spread {
            Spread::Rss(rss) if workers > 1 && serves_all(rss, workers) => Self::Rss(Box::new(RssSteering {
                toeplitz: ToeplitzTable::new(&rss.key),
                reta: rss.reta.clone(),
            })),
            _ => Self::Owner,
        }
    }

    /// Its name in listings.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rss(_) => "rss",
            Self::Owner => "handoff",
        }
    }

    /// The worker that must get a packet with this key.
    #[inline]
    #[must_use]
    pub fn owner<K: Key>(&self, key: K, gateway: &Gateway, secret: &Secret) -> usize {
        let workers = gateway.workers();
        match self {
            Self::Rss(rss) if rss.spreads(K::FAMILY) => rss.queue(key),
            _ if gateway.is_snat(key.destination_address()) => usize::from(key.destination_port()) % workers,
            _ => scale((secret.hash(key) >> 16) as u32 & 0xffff_0000, workers as u32) as usize,
        }
    }

    /// The same for packets that a NIC spreads by their addresses alone, as it does with all but TCP and UDP.
    #[must_use]
    pub fn owner_by_addresses<K: Key>(&self, key: K, gateway: &Gateway, secret: &Secret) -> usize {
        match self {
            Self::Rss(rss) if rss.spreads(K::FAMILY) => rss.worker_of(rss.addresses(key)),
            _ => self.owner(key, gateway, secret),
        }
    }

    /// A test for ports: whether a reply to `reply`'s destination address on a given port comes to `worker`.
    pub fn port_test<K: Key>(&self, reply: K, worker: usize, workers: usize) -> impl Fn(u16) -> bool {
        let rss = match self {
            Self::Rss(rss) if rss.spreads(K::FAMILY) => {
                Some((rss, rss.addresses(reply) ^ rss.toeplitz.source_port(reply.source_port())))
            }
            _ => None,
        };
        move |port| match rss {
            Some((rss, fixed)) => rss.worker_of(fixed ^ rss.toeplitz.destination_port(port)) == worker,
            None => usize::from(port) % workers == worker,
        }
    }
}

impl RssSteering {
    fn queue<K: Key>(&self, key: K) -> usize {
        self.worker_of(
            self.addresses(key)
                ^ self.toeplitz.source_port(key.source_port())
                ^ self.toeplitz.destination_port(key.destination_port()),
        )
    }

    /// Whether the NIC spreads packets of a family by this.
    const fn spreads(&self, family: Family) -> bool {
        matches!(family, Family::V4)
    }

    fn addresses<K: Key>(&self, key: K) -> u32 {
        match (key.source_address().as_v4(), key.destination_address().as_v4()) {
            (Some(source), Some(destination)) => {
                self.toeplitz.source(source) ^ self.toeplitz.destination(destination)
            }
            _ => 0,
        }
    }

    #[inline]
    fn worker_of(&self, hash: u32) -> usize {
        usize::from(self.reta[hash as usize & (self.reta.len() - 1)])
    }
}

fn serves_all(rss: &Rss, workers: usize) -> bool {
    rss.reta.len().is_power_of_two()
        && rss.key.len() >= 16
        && rss.reta.iter().all(|&q| usize::from(q) < workers)
        && (0..workers).all(|w| rss.reta.contains(&(w as u16)))
}
