//! Which worker owns a flow, and so which worker must get each of its packets.
//!
//! The worker that gets the client's packets makes the flow. The backend's replies come to a SNAT address and port of our choosing, so that
//! choice decides who gets them:
//! - A NIC with known RSS hashes the reply with Toeplitz; the port is chosen so that the hash leads to the flow's worker. Toeplitz is linear,
//!   hence the hash is the exclusive-or of one part per field, and trying a port costs two table reads. What a NIC may hash otherwise, or not
//!   at all, as it does with SCTP, is handed over to the worker that this hash names.
//! - Otherwise the port itself names the worker (port modulo workers), the client's side is spread by a keyed hash, and a worker that gets
//!   another's packet hands it over.

use crate::address::Family;
use crate::flow_key::Key;
use crate::gateway::Gateway;
use crate::hash::{Secret, scale};
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::toeplitz::{ToeplitzTable, ToeplitzTable6};

/// Bytes of a key that hashes a tuple of IPv6 whole.
const KEY6: usize = 40;

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
    /// If it spreads IPv6 by ports.
    toeplitz6: Option<ToeplitzTable6>,
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
                toeplitz6: (rss.ipv6 && rss.key.len() >= KEY6).then(|| ToeplitzTable6::new(&rss.key)),
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

    /// A test for ports: whether a reply to `reply`'s destination address on a given port comes to `worker`.
    pub fn port_test<K: Key>(&self, reply: K, worker: usize, workers: usize) -> impl Fn(u16) -> bool {
        let rss = match self {
            Self::Rss(rss) if rss.spreads(K::FAMILY) => {
                Some((rss, rss.addresses(reply) ^ rss.source_port(K::FAMILY, reply.source_port())))
            }
            _ => None,
        };
        move |port| match rss {
            Some((rss, fixed)) => rss.worker_of(fixed ^ rss.destination_port(K::FAMILY, port)) == worker,
            None => usize::from(port) % workers == worker,
        }
    }
}

impl RssSteering {
    fn queue<K: Key>(&self, key: K) -> usize {
        self.worker_of(
            self.addresses(key)
                ^ self.source_port(K::FAMILY, key.source_port())
                ^ self.destination_port(K::FAMILY, key.destination_port()),
        )
    }

    /// Whether the NIC spreads packets of a family by this.
    const fn spreads(&self, family: Family) -> bool {
        matches!(family, Family::V4) || self.toeplitz6.is_some()
    }

    fn addresses<K: Key>(&self, key: K) -> u32 {
        let (source, destination) = (key.source_address(), key.destination_address());
        match (source.as_v4(), destination.as_v4(), &self.toeplitz6) {
            (Some(source), Some(destination), _) => {
                self.toeplitz.source(source) ^ self.toeplitz.destination(destination)
            }
            (_, _, Some(toeplitz)) => {
                toeplitz.source(source.bits()) ^ toeplitz.destination(destination.bits())
            }
            _ => 0,
        }
    }

    fn source_port(&self, family: Family, port: u16) -> u32 {
        match (family, &self.toeplitz6) {
            (Family::V6, Some(toeplitz)) => toeplitz.source_port(port),
            _ => self.toeplitz.source_port(port),
        }
    }

    fn destination_port(&self, family: Family, port: u16) -> u32 {
        match (family, &self.toeplitz6) {
            (Family::V6, Some(toeplitz)) => toeplitz.destination_port(port),
            _ => self.toeplitz.destination_port(port),
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
