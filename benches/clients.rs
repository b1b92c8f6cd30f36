//! Who opens the flows: clients that follow one another, clients at random, or such as an attacker would choose.
//!
//! An attacker who knows a table's hash chooses flows that share a bucket. For a hash without a key that is simple: CRC32c and Toeplitz are
//! linear, so the tuples with equal low bits are found by solving equations; for jhash enough tuples are tried. What is chosen so must cost
//! the flow table, whose hash is keyed, no more than what is not.

use crate::world::World;
use anyhow::{Result, ensure};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use turnpike_forward::address::Family;
use turnpike_forward::hash::{Random, Secret};
use turnpike_packet::ipv4;
use turnpike_packet::toeplitz::{MICROSOFT_KEY, ToeplitzTable};

/// Who opens the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clients {
    /// Addresses one after the other.
    Consecutive,
    /// Addresses and ports at random.
    Random,
    /// A third each that collide under CRC32c, Toeplitz and jhash.
    Chosen,
}

/// Low bits that tuples chosen for a linear hash have in common: more than a table of a million flows has buckets.
pub const LINEAR_BITS: u32 = 20;
/// The same for jhash, of which tuples are found by trying: they share one bucket of a thousand.
pub const JHASH_BITS: u32 = 10;

/// Bits of a client that are chosen: a port, and an address of 16.0.0.0/4, where nobody else of the world is.
const BITS: u32 = 16 + 28;
const NETWORK: u32 = 0x1000_0000;
/// Lowest port of a client.
const PORT_MIN: u16 = 1_024;

impl Clients {
    /// Client and Service of each of so many flows.
    pub fn flights(
        self,
        world: &World,
        flows: u32,
    ) -> Result<Box<dyn Iterator<Item = (SocketAddr, SocketAddr)>>> {
        let world = *world;
        let vip = move |n: u32| world.vip(n % world.services);
        if self == Self::Consecutive {
            return Ok(Box::new((0..flows).map(move |n| (world.client(n), vip(n)))));
        }
        ensure!(world.family == Family::V4, "clients are chosen over IPv4 alone");
        ensure!(self == Self::Random || world.services == 1, "clients are chosen for one Service alone");
        let SocketAddr::V4(service) = world.vip(0) else { return Ok(Box::new(std::iter::empty())) };
        let service = (u32::from(*service.ip()), service.port());
        let mut random = Random::new(&Secret::new([1, 2, 3, 4]), 0);
        let mut chosen = Chosen { seen: HashSet::with_capacity(flows as usize), clients: Vec::new() };
        if self == Self::Random {
            chosen.take(flows as usize, || Client::of(word(&mut random)));
        } else {
            let third = flows as usize / 3;
            let toeplitz = ToeplitzTable::new(&MICROSOFT_KEY);
            let is_toeplitz = |client: Client| toeplitz_of(&toeplitz, client, service);
            let solutions = [Solutions::of(|c| crc32c_of(c, service)), Solutions::of(is_toeplitz)];
            for solution in &solutions {
                chosen.take(third, || Client::of(solution.any(word(&mut random))));
            }
            let wanted = jhash_of(Client::of(0), service);
            let collides = |c: &Client| (jhash_of(*c, service) ^ wanted) << (32 - JHASH_BITS) == 0;
            let rest = flows as usize - chosen.clients.len();
            chosen.take(rest, || {
                loop {
                    let client = Client::of(word(&mut random));
                    if collides(&client) {
                        break client;
                    }
                }
            });
        }
        let clients = (0..).zip(chosen.clients);
        Ok(Box::new(clients.map(move |(n, client)| (client.end(), vip(n)))))
    }
}

/// A client that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    address: u32,
    port: u16,
}

impl Client {
    const fn of(bits: u64) -> Self {
        Self { address: NETWORK | (bits >> 16) as u32 & !(0xf << 28), port: bits as u16 }
    }

    fn end(self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::from(self.address).into(), self.port)
    }
}

fn word(random: &mut Random) -> u64 {
    u64::from(random.next()) << 32 | u64::from(random.next())
}

struct Chosen {
    seen: HashSet<Client>,
    clients: Vec<Client>,
}

impl Chosen {
    /// Takes so many more clients.
    fn take(&mut self, count: usize, mut next: impl FnMut() -> Client) {
        let wanted = self.clients.len() + count;
        while self.clients.len() < wanted {
            let client = next();
            if client.port >= PORT_MIN && self.seen.insert(client) {
                self.clients.push(client);
            }
        }
    }
}

/// The clients that have the low [`LINEAR_BITS`] of a linear hash in common.
struct Solutions {
    /// Changes of a client's bits that change none of the hash's.
    basis: Vec<u64>,
}

impl Solutions {
    fn of(hash: impl Fn(Client) -> u32) -> Self {
        let zero = hash(Client::of(0));
        let mask = (1 << LINEAR_BITS) - 1;
        // Each row: what some bits of a client change in the hash. Rows are added until as many as possible change nothing.
        let mut rows: Vec<(u32, u64)> = Vec::new();
        let mut basis = Vec::new();
        for bit in 0..BITS {
            let mut change = (hash(Client::of(1 << bit)) ^ zero) & mask;
            let mut bits = 1u64 << bit;
            for &(other, others_bits) in &rows {
                // No row has the highest bit of one before it, so none that was taken out comes back.
                if change & (1 << other.ilog2()) != 0 {
                    change ^= other;
                    bits ^= others_bits;
                }
            }
            if change == 0 {
                basis.push(bits);
            } else {
                rows.push((change, bits));
            }
        }
        Self { basis }
    }

    /// One of them, as these bits say.
    fn any(&self, choice: u64) -> u64 {
        let chosen = self.basis.iter().enumerate().filter(|&(at, _)| choice >> at & 1 == 1);
        chosen.fold(0, |bits, (_, change)| bits ^ change)
    }
}

fn crc32c_of(client: Client, service: (u32, u16)) -> u32 {
    let mut tuple = [0; 13];
    tuple[..4].copy_from_slice(&client.address.to_be_bytes());
    tuple[4..8].copy_from_slice(&service.0.to_be_bytes());
    tuple[8..10].copy_from_slice(&client.port.to_be_bytes());
    tuple[10..12].copy_from_slice(&service.1.to_be_bytes());
    tuple[12] = ipv4::TCP;
    crc32c::crc32c(&tuple)
}

const fn toeplitz_of(table: &ToeplitzTable, client: Client, service: (u32, u16)) -> u32 {
    table.hash(client.address, service.0, client.port, service.1)
}

fn jhash_of(client: Client, service: (u32, u16)) -> u32 {
    jhash([client.address, service.0, u32::from(client.port) << 16 | u32::from(service.1)])
}

/// The hash of three words that Linux and DPDK call jhash, without a seed: the last mix of Bob Jenkins' lookup3.
fn jhash(words: [u32; 3]) -> u32 {
    const ROTATIONS: [u32; 7] = [14, 11, 25, 16, 4, 14, 24];
    let mut mixed = words.map(|word| word.wrapping_add(0xdead_beef + 12));
    // The third word first, then the first, then the second: each takes what the one before it became.
    for (turn, rotation) in ROTATIONS.into_iter().enumerate() {
        let (into, from) = ((turn + 2) % 3, (turn + 1) % 3);
        mixed[into] = (mixed[into] ^ mixed[from]).wrapping_sub(mixed[from].rotate_left(rotation));
    }
    mixed[2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: World = World { family: Family::V4, services: 1, udp: false };

    #[test]
    fn jhash_is_that_of_dpdk() {
        // As rte_jhash_3words of DPDK 22.11 gives them.
        assert_eq!(jhash([0xc612_0001, 0xcb00_7100, 0x2710_0050]), 0xb241_6c7a);
        assert_eq!(jhash([1, 2, 3]), 0xa461_58f5);
    }

    #[test]
    fn what_is_chosen_collides_and_is_distinct() {
        let flights: HashSet<_> = Clients::Chosen.flights(&WORLD, 3_000).unwrap().collect();
        assert_eq!(flights.len(), 3_000);
        let toeplitz = ToeplitzTable::new(&MICROSOFT_KEY);
        let mut colliding = [0; 3];
        for (client, vip) in flights {
            let (SocketAddr::V4(client), SocketAddr::V4(vip)) = (client, vip) else { panic!("{client}") };
            let service = (u32::from(*vip.ip()), vip.port());
            let client = Client { address: u32::from(*client.ip()), port: client.port() };
            let hashes =
                |c| [crc32c_of(c, service), toeplitz_of(&toeplitz, c, service), jhash_of(c, service)];
            let masks = [LINEAR_BITS, LINEAR_BITS, JHASH_BITS].map(|bits| (1u32 << bits) - 1);
            let (mine, of_zero) = (hashes(client), hashes(Client::of(0)));
            for at in 0..3 {
                colliding[at] += u32::from(mine[at] & masks[at] == of_zero[at] & masks[at]);
            }
        }
        assert!(colliding.iter().all(|&c| (1_000..1_010).contains(&c)), "{colliding:?}");
    }

    #[test]
    fn at_random_nothing_collides_more_than_by_chance() {
        let clients = Clients::Random.flights(&WORLD, 20_000).unwrap();
        let buckets: HashSet<u32> = clients
            .map(|(client, _)| {
                let SocketAddr::V4(client) = client else { panic!("{client}") };
                jhash([u32::from(*client.ip()), 0, client.port().into()]) & 0xffff
            })
            .collect();
        assert!(buckets.len() > 16_500, "{}", buckets.len());
    }

    #[test]
    fn choosing_is_for_one_service_over_ipv4() {
        assert!(Clients::Chosen.flights(&World { services: 2, ..WORLD }, 10).is_err());
        assert!(Clients::Random.flights(&World { family: Family::V6, ..WORLD }, 10).is_err());
    }
}
