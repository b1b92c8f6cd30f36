//! Source ports towards backends.
//!
//! A port may serve many flows as long as no two share protocol, SNAT address, port and backend (RFC 7857 section 2.1 allows the overlap by
//! five-tuple; RFC 4787 REQ-3 forbids it otherwise), so the flow table itself knows what is taken: a port is free towards a backend when the
//! reply's key is in no flow. Ports are tried in random order (RFC 6056), only those whose replies come back to this worker.

use crate::address::Address;
use crate::flow_key::Key;
use crate::hash::{Random, scale};
use crate::limits::{PORT_PROBES_MAX, RESTING_PROBES_MAX};
use crate::steering::Steering;
use turnpike_wire::limits::SNAT_PORT_MIN;

/// Chooses SNAT ports for one worker.
#[derive(Debug)]
pub struct PortPool {
    random: Random,
    worker: usize,
    workers: usize,
    /// Ranges that are excluded by the configuration, first and last.
    excluded: Box<[(u16, u16)]>,
    /// Ports that are NodePorts on addresses of the gateway, first and last.
    node_ports: (u16, u16),
    /// Ports at which the host answers health checks.
    health_checks: Box<[u16]>,
    /// SNAT addresses that the host's kernel has too.
    kernels: Box<[Address]>,
    /// Ranges that are its own there.
    kernels_ports: Box<[(u16, u16)]>,
    /// What may be chosen, and what on the kernel's addresses.
    usual: Ports,
    beside_kernel: Ports,
}

/// Whether a new flow may have a reply key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in no flow, and its port need not rest.
    Free,
    /// It is in no flow, and its port has rested for so many milliseconds, but not for long enough.
    Resting(u32),
    /// A flow has it, or clients may send to it.
    Taken,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen<K> {
    /// The key of packets from the backend.
    pub reply: K,
    /// Its port should have rested for longer.
    pub breaks_rest: bool,
}

/// A range without a port.
const NO_PORTS: (u16, u16) = (1, 0);

/// Ports looked at for one that steers its replies here, before a probe counts as failed.
const STEERING_STEPS: u16 = 1_024;

impl PortPool {
    /// The pool of `worker` out of `workers`, which never uses what is `excluded`: ranges by their first and last port.
    #[must_use]
    pub fn new(random: Random, worker: usize, workers: usize, excluded: &[(u16, u16)]) -> Self {
        Self {
            random,
            worker,
            workers,
            excluded: excluded.into(),
            node_ports: NO_PORTS,
            health_checks: Box::default(),
            kernels: Box::default(),
            kernels_ports: Box::default(),
            usual: Ports::without(excluded),
            beside_kernel: Ports::without(excluded),
        }
    }

    /// Leaves out the NodePort range, first and last port, and on the kernel's addresses these health check ports.
    pub fn reserve(&mut self, node_ports: (u16, u16), health_checks: &[u16]) {
        if (self.node_ports, &*self.health_checks) != (node_ports, health_checks) {
            self.node_ports = node_ports;
            self.health_checks = health_checks.into();
            self.survey();
        }
    }

    /// Leaves these ports of these addresses, ranges by their first and last, to the host's kernel.
    pub fn leave_to_kernel(&mut self, addresses: Box<[Address]>, ports: impl Iterator<Item = (u16, u16)>) {
        (self.kernels, self.kernels_ports) = (addresses, ports.collect());
        self.survey();
    }

    /// Works out what may be chosen.
    fn survey(&mut self) {
        let everywhere = self.excluded.iter().copied().chain([self.node_ports]);
        let mut left_out: Vec<_> = everywhere.collect();
        self.usual = Ports::without(&left_out);
        left_out.extend(self.kernels_ports.iter().copied());
        left_out.extend(self.health_checks.iter().map(|&port| (port, port)));
        self.beside_kernel = Ports::without(&left_out);
    }

    /// The reply key of a new flow towards `backend` (address and port), from one of the `snat` addresses of its family on a free port.
    ///
    /// A port that rests is passed over. When no other is found, or [`RESTING_PROBES_MAX`] rest, the one that has rested longest is taken:
    /// RFC 6888 REQ-8 asks ports to rest so that nobody gets what is meant for others, and its exception C lets who filters as this NAT does,
    /// by the backend's address and port, do without; to refuse a client would be the greater harm. None when no probed port is free at all.
    pub fn choose<K: Key>(
        &mut self,
        snat: &[Address],
        backend: (Address, u16),
        protocol: u8,
        steering: &Steering,
        standing: impl Fn(K) -> Standing,
    ) -> Option<Chosen<K>> {
        let mut random = self.random.fork();
        let first = first_of(&mut random, snat);
        let mut longest: Option<(u32, K)> = None;
        let mut resting = 0;
        for turn in 0..snat.len() {
            let address = snat[(first + turn) % snat.len()];
            let reply = |port| K::of(protocol, backend.0, address, backend.1, port);
            let steers_here = steering.port_test(reply(0)?, self.worker, self.workers);
            let ports = self.ports_of(address);
            for _ in 0..PORT_PROBES_MAX {
                if resting >= RESTING_PROBES_MAX {
                    break;
                }
                let Some(port) = ports.candidate(&mut random, &steers_here) else { break };
                let Some(reply) = reply(port) else { break };
                match standing(reply) {
                    Standing::Free => return Some(Chosen { reply, breaks_rest: false }),
                    Standing::Resting(rested_ms) => {
                        resting += 1;
                        if longest.is_none_or(|(most_ms, _)| rested_ms > most_ms) {
                            longest = Some((rested_ms, reply));
                        }
                    }
                    Standing::Taken => {}
                }
            }
        }
        longest.map(|(_, reply)| Chosen { reply, breaks_rest: true })
    }

    /// What stands for the pool's choices that are still to come, for [`PortPool::foresee`].
    #[must_use]
    pub fn foresight(&self) -> Random {
        self.random.clone()
    }

    /// The reply key that [`PortPool::choose`] will try first, if it is asked for the same in the same order as this is.
    pub fn foresee<K: Key>(
        &self,
        foresight: &mut Random,
        snat: &[Address],
        backend: (Address, u16),
        protocol: u8,
        steering: &Steering,
    ) -> Option<K> {
        let mut random = foresight.fork();
        let address = *snat.get(first_of(&mut random, snat))?;
        let reply = |port| K::of(protocol, backend.0, address, backend.1, port);
        let steers_here = steering.port_test(reply(0)?, self.worker, self.workers);
        reply(self.ports_of(address).candidate(&mut random, &steers_here)?)
    }

    /// The ports of an address that may be chosen.
    fn ports_of(&self, address: Address) -> &Ports {
        if self.kernels.contains(&address) { &self.beside_kernel } else { &self.usual }
    }

    /// The reply key of a new flow towards `backend` whose client keeps its address: on the client's own port where that is free and its
    /// replies come here, else on another. None when no probed port will do.
    pub fn keep_address<K: Key>(
        &mut self,
        client: (Address, u16),
        backend: (Address, u16),
        protocol: u8,
        comes_here: impl Fn(K) -> bool,
        is_taken: impl Fn(K) -> bool,
    ) -> Option<K> {
        let reply = |port| K::of(protocol, backend.0, client.0, backend.1, port);
        let own = reply(client.1)?;
        if client.1 != 0 && comes_here(own) && !is_taken(own) {
            return Some(own);
        }
        for _ in 0..PORT_PROBES_MAX {
            let port =
                self.usual.candidate(&mut self.random, &|port| reply(port).is_some_and(&comes_here))?;
            if let Some(reply) = reply(port).filter(|&reply| !is_taken(reply)) {
                return Some(reply);
            }
        }
        None
    }
}

/// Where among the SNAT addresses to begin.
fn first_of(random: &mut Random, snat: &[Address]) -> usize {
    scale(random.next(), snat.len() as u32) as usize
}

/// The ports that may be chosen.
#[derive(Debug)]
struct Ports {
    /// In ascending order: the first port of each range, and how many there are in all ranges before.
    ranges: Vec<(u16, u32)>,
    count: u32,
}

impl Ports {
    /// All from [`SNAT_PORT_MIN`] on but these, ranges by their first and last.
    fn without(left_out: &[(u16, u16)]) -> Self {
        let mut left_out: Vec<_> = left_out.iter().copied().filter(|(first, last)| first <= last).collect();
        left_out.sort_unstable();
        let (mut ranges, mut count) = (Vec::new(), 0);
        let mut next = u32::from(SNAT_PORT_MIN);
        // Behind the last port there is nothing more to use, as if it were left out.
        let ends = left_out.into_iter().map(|(first, last)| (u32::from(first), u32::from(last)));
        for (first, last) in ends.chain([(1 << 16, 1 << 16)]) {
            if next < first {
                ranges.push((next as u16, count));
                count += first - next;
            }
            next = next.max(last + 1);
        }
        Self { ranges, count }
    }

    /// The port at a place among them.
    fn at(&self, place: u32) -> Option<u16> {
        if place >= self.count {
            return None;
        }
        let behind = self.ranges.partition_point(|&(_, before)| before <= place);
        let &(first, before) = self.ranges.get(behind.checked_sub(1)?)?;
        Some(first + (place - before) as u16)
    }

    /// A random one whose replies come here; every one is as likely as any other.
    fn candidate(&self, random: &mut Random, steers_here: &impl Fn(u16) -> bool) -> Option<u16> {
        let mut place = scale(random.next(), self.count);
        for _ in 0..STEERING_STEPS {
            let port = self.at(place)?;
            if steers_here(port) {
                return Some(port);
            }
            place = if place + 1 >= self.count { 0 } else { place + 1 };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_key::{FlowKey, FlowKey6};
    use crate::hash::Secret;
    use std::collections::{BTreeSet, HashSet};
    use turnpike_packet::io::{Rss, Spread};

    fn pool(worker: usize, workers: usize) -> PortPool {
        let random = Random::new(&Secret::new([1, 2, 3, 4]), worker as u64);
        let mut pool = PortPool::new(random, worker, workers, &[]);
        pool.reserve((30_000, 32_767), &[]);
        pool
    }

    /// Chooses where only flows stand in the way.
    fn choose<K: Key>(
        pool: &mut PortPool,
        snat: &[Address],
        backend: (Address, u16),
        steering: &Steering,
        is_taken: impl Fn(K) -> bool,
    ) -> Option<K> {
        let standing = |key| if is_taken(key) { Standing::Taken } else { Standing::Free };
        let chosen = pool.choose(snat, backend, 6, steering, standing)?;
        assert!(!chosen.breaks_rest);
        Some(chosen.reply)
    }

    fn v4(address: u32) -> Address {
        Address::v4(address)
    }

    #[test]
    fn ports_of_ipv6_addresses_are_chosen_alike() {
        let mut pool = pool(1, 3);
        let at = |n: u128| Address::v6(0x2001_0db8 << 96 | n);
        let reply: FlowKey6 = choose(&mut pool, &[at(1)], (at(9), 80), &Steering::Owner, |_| false).unwrap();
        assert_eq!(
            (reply.source_address(), reply.destination_address(), reply.source_port()),
            (at(9), at(1), 80)
        );
        assert_eq!(reply.destination_port() % 3, 1, "its replies come to this worker");
        let mixed: Option<FlowKey6> = choose(&mut pool, &[v4(1)], (at(9), 80), &Steering::Owner, |_| false);
        assert_eq!(mixed, None);
    }

    fn rss(workers: u16) -> Spread {
        let key = (0..40u8).map(|i| i.wrapping_mul(37).wrapping_add(11)).collect();
        Spread::Rss(Rss { ipv6: true, key, reta: (0..128).map(|i| i % workers).collect() })
    }

    #[test]
    fn rfc4787_req3_ports_are_unique_per_backend_and_none_is_reserved() {
        let mut taken = HashSet::new();
        let mut pool = pool(0, 1);
        for n in 0..40_000 {
            let (snat, backend) = ([v4(0x0a01_0001)], (v4(0x0af4_0001), 80));
            let is_taken = |k: FlowKey| taken.contains(&k.bits());
            let reply = choose(&mut pool, &snat, backend, &Steering::Owner, is_taken);
            let reply = reply.unwrap_or_else(|| panic!("flow {n} found no port"));
            let port = reply.destination_port();
            assert!(port >= SNAT_PORT_MIN && !(30_000..=32_767).contains(&port), "{port}");
            assert!(taken.insert(reply.bits()));
        }
        let is_taken = |k: FlowKey| taken.contains(&k.bits());
        let backend = (v4(0x0af4_0002), 80);
        let other = choose(&mut pool, &[v4(0x0a01_0001)], backend, &Steering::Owner, is_taken);
        assert!(other.is_some(), "another backend has all ports of its own");
    }

    #[test]
    fn a_client_keeps_its_port_where_that_will_do() {
        let mut pool = pool(0, 1);
        let (client, backend) = ((v4(0xc633_6407), 443), (v4(0x0af4_0001), 80));
        let mut keep = |port, comes_here: &dyn Fn(u16) -> bool, is_taken: &dyn Fn(u16) -> bool| {
            let reply = pool.keep_address(
                (client.0, port),
                backend,
                17,
                |k: FlowKey| comes_here(k.destination_port()),
                |k| is_taken(k.destination_port()),
            )?;
            assert_eq!((reply.source(), reply.source_port(), reply.protocol()), (0x0af4_0001, backend.1, 17));
            assert_eq!(reply.destination(), 0xc633_6407);
            Some(reply.destination_port())
        };
        assert_eq!(keep(443, &|_| true, &|_| false), Some(443), "also one that no SNAT would use");
        let other = keep(443, &|port| port % 2 == 0, &|_| false).unwrap();
        assert!(other % 2 == 0 && other >= SNAT_PORT_MIN);
        assert_ne!(keep(443, &|_| true, &|port| port == 443), Some(443));
        assert_ne!(keep(0, &|_| true, &|_| false), Some(0), "no port");
        assert_eq!(keep(443, &|_| false, &|_| false), None, "nothing comes here");
        assert_eq!(keep(443, &|_| true, &|_| true), None, "everything is taken");
    }

    #[test]
    fn ports_that_are_left_out_are_left_out_wherever_they_lie() {
        type Ranges<'a> = &'a [(u16, u16)];
        let rows: [([(u16, u16); 2], Ranges<'_>); 7] = [
            ([NO_PORTS, NO_PORTS], &[(1_024, u16::MAX)]),
            ([(30_000, 32_767), (32_768, 60_999)], &[(1_024, 29_999), (61_000, u16::MAX)]),
            ([(32_768, 60_999), (30_000, 40_000)], &[(1_024, 29_999), (61_000, u16::MAX)]),
            ([(1_024, 2_000), (1, 1_500)], &[(2_001, u16::MAX)]),
            ([(60_000, u16::MAX), NO_PORTS], &[(1_024, 59_999)]),
            ([(1_024, u16::MAX), NO_PORTS], &[]),
            ([(2_000, 50_000), (3_000, 4_000)], &[(1_024, 1_999), (50_001, u16::MAX)]),
        ];
        for (left_out, wanted) in rows {
            let ports = Ports::without(&left_out);
            assert_eq!(ports.ranges.len(), wanted.len(), "{left_out:?}");
            let all: Vec<u16> = (0..ports.count).map(|place| ports.at(place).unwrap()).collect();
            let expected: Vec<u16> = wanted.iter().flat_map(|&(first, last)| first..=last).collect();
            assert_eq!(all, expected);
            assert_eq!(ports.at(ports.count), None);
        }
        let none = Ports::without(&[(1_024, u16::MAX)]);
        assert_eq!(none.candidate(&mut Random::new(&Secret::new([1; 4]), 0), &|_| true), None);
    }

    #[test]
    fn the_port_behind_the_reserved_range_is_as_likely_as_any_other() {
        let mut pool = pool(0, 1);
        let chosen = |pool: &mut PortPool| {
            choose(pool, &[v4(1)], (v4(9), 80), &Steering::Owner, |_: FlowKey| false)
                .map(|k| k.destination_port())
        };
        let hits = (0..20_000).filter(|_| chosen(&mut pool) == Some(32_768)).count();
        assert!(hits < 10, "{hits} of 20000 flows got port 32768");
    }

    #[test]
    fn the_kernels_ports_are_left_to_it_on_its_addresses_alone() {
        let mut pool = pool(0, 1);
        pool.leave_to_kernel([v4(7)].into(), [(32_768, 60_999)].into_iter());
        let mut highest = [0, 0];
        for _ in 0..2_000 {
            for (at, address) in [7, 8].into_iter().enumerate() {
                let reply: FlowKey =
                    choose(&mut pool, &[v4(address)], (v4(9), 80), &Steering::Owner, |_| false).unwrap();
                let port = reply.destination_port();
                assert!(at == 1 || !(32_768..=60_999).contains(&port), "{port}");
                assert!(!(30_000..=32_767).contains(&port), "{port}");
                highest[at] += u32::from((32_768..=60_999).contains(&port));
            }
        }
        assert!(highest[1] > 800, "the other address has them: {highest:?}");
    }

    #[test]
    fn what_listens_on_the_host_or_is_excluded_is_never_chosen() {
        let random = Random::new(&Secret::new([1, 2, 3, 4]), 0);
        let mut pool = PortPool::new(random, 0, 1, &[(2_000, 29_000), (40_000, 65_000)]);
        pool.leave_to_kernel([v4(7)].into(), [(32_768, 39_999), (1_500, 1_500)].into_iter());
        // A health check port outside of the NodePort range.
        pool.reserve((30_000, 32_767), &[29_500]);
        let every = |pool: &mut PortPool, address| -> BTreeSet<u16> {
            let one = |_| {
                let key: FlowKey = choose(pool, &[v4(address)], (v4(9), 80), &Steering::Owner, |_| false)?;
                Some(key.destination_port())
            };
            (0..200_000).filter_map(one).collect()
        };
        let wanted = |left_out: &[u16]| -> BTreeSet<u16> {
            let free = (1_024..2_000).chain(29_001..30_000).chain(32_768..40_000).chain(65_001..=u16::MAX);
            free.filter(|port| !left_out.contains(port)).collect()
        };
        assert!(every(&mut pool, 8) == wanted(&[]));
        let kernels: Vec<u16> = (32_768..40_000).chain([1_500, 29_500]).collect();
        assert!(every(&mut pool, 7) == wanted(&kernels));
        pool.reserve((30_000, 32_767), &[29_501]);
        assert!(every(&mut pool, 7).contains(&29_500), "its Service is gone");
    }

    #[test]
    fn rfc6056_ports_unpredictable() {
        let sequence = |secret: u64| -> Vec<u16> {
            let random = Random::new(&Secret::new([1, 2, 3, secret]), 0);
            let mut pool = PortPool::new(random, 0, 1, &[]);
            let one = |_| -> u16 {
                let key: FlowKey =
                    choose(&mut pool, &[v4(1)], (v4(9), 80), &Steering::Owner, |_| false).unwrap();
                key.destination_port()
            };
            (0..64_512).map(one).collect()
        };
        let (ports, other) = (sequence(4), sequence(5));
        // Who does not know the secret guesses: as many hits as chance has, one in 64512 each.
        assert!(ports.iter().zip(&other).filter(|(a, b)| a == b).count() < 10);
        // All ports are used, evenly: of as many draws as ports a share of 1/e meets none.
        let distinct = ports.iter().collect::<BTreeSet<_>>().len();
        assert!((40_000..41_600).contains(&distinct), "{distinct}");
        // The one before tells nothing: differences are as even over sixteen classes as ports.
        let mut classes = [0u32; 16];
        ports.windows(2).for_each(|w| classes[usize::from(w[1].wrapping_sub(w[0]) >> 12)] += 1);
        assert!(classes.iter().all(|&n| (3_600..4_500).contains(&n)), "{classes:?}");
    }

    #[test]
    fn rfc6888_req8_a_resting_port_is_chosen_last() {
        let mut pool = pool(0, 1);
        let mut choose = |standing: &dyn Fn(u16) -> Standing| {
            pool.choose(&[v4(1)], (v4(9), 80), 17, &Steering::Owner, |k: FlowKey| {
                standing(k.destination_port())
            })
        };
        for _ in 0..200 {
            let half = |port: u16| {
                if port.is_multiple_of(2) { Standing::Resting(port.into()) } else { Standing::Free }
            };
            let chosen = choose(&half).unwrap();
            assert!(chosen.reply.destination_port() % 2 == 1 && !chosen.breaks_rest);
        }
        let seen = std::cell::RefCell::new(Vec::new());
        let chosen = choose(&|port| {
            seen.borrow_mut().push(port);
            if port % 2 == 0 { Standing::Resting(port.into()) } else { Standing::Taken }
        });
        let rested: Vec<u16> = seen.take().into_iter().filter(|port| port % 2 == 0).collect();
        let chosen = chosen.unwrap();
        assert!(chosen.breaks_rest, "rather than none");
        assert_eq!(
            Some(&chosen.reply.destination_port()),
            rested.iter().max(),
            "the one that rested longest"
        );
        assert_eq!(rested.len() as u32, RESTING_PROBES_MAX, "and not many are looked at");
        assert_eq!(choose(&|_| Standing::Taken), None);
    }

    #[test]
    fn exhaustion_is_an_answer_and_another_address_helps() {
        let mut pool = pool(0, 1);
        let one = |k: FlowKey| k.destination() == 1;
        assert_eq!(choose(&mut pool, &[v4(1)], (v4(9), 80), &Steering::Owner, one), None);
        assert_eq!(
            choose(&mut pool, &[v4(1), v4(2)], (v4(9), 80), &Steering::Owner, one).map(FlowKey::destination),
            Some(2)
        );
    }

    #[test]
    fn replies_come_back_to_the_worker_that_chose() {
        let spread = rss(3);
        for steering in [Steering::of(&spread, 3), Steering::Owner] {
            for worker in 0..3 {
                let mut pool = pool(worker, 3);
                for backend in 1..200u32 {
                    let (snat, backend) = ([v4(0x0a01_0001)], (v4(backend), 8080));
                    let reply: FlowKey = choose(&mut pool, &snat, backend, &steering, |_| false).unwrap();
                    let test = steering.port_test(reply, worker, 3);
                    assert!(test(reply.destination_port()));
                    if let Spread::Rss(Rss { key, reta, .. }) = &spread
                        && matches!(steering, Steering::Rss(_))
                    {
                        let hash = turnpike_packet::toeplitz::hash(
                            key,
                            reply.source().into(),
                            reply.destination().into(),
                            reply.source_port(),
                            reply.destination_port(),
                        );
                        assert_eq!(usize::from(reta[hash as usize % reta.len()]), worker);
                    }
                }
            }
        }
    }

    #[test]
    fn rss_that_leaves_a_worker_out_is_not_used() {
        assert!(matches!(Steering::of(&rss(2), 3), Steering::Owner));
        assert!(matches!(Steering::of(&rss(2), 2), Steering::Rss(_)));
        assert!(matches!(Steering::of(&rss(1), 1), Steering::Owner), "one worker needs no steering");
        assert!(matches!(Steering::of(&Spread::Unknown, 2), Steering::Owner));
    }
}
