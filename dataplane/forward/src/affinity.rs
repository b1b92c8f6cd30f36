//! Session affinity (rules F1 to F4): which backend a client of a Service port was given last, for all workers alike.
//!
//! One table of fixed size. A client's connections may land on any worker, also at the same instant, so what is remembered is shared; it is
//! touched only when a flow of a Service with affinity is made. A *bucket* holds [`WAYS`] clients. Who changes one claims it with one
//! compare-and-swap and gives it back some stores later; who finds it claimed looks again a bounded number of times, and then goes by what
//! it reads without changing anything. So nobody waits for long, whatever happens to the claimant. Where a bucket is full, the affinity that
//! would end first gives way.

use crate::hash::{Secret, scale};
use crate::limits::{AFFINITIES_MAX, AFFINITY_LOOKS_MAX};
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Clients of a bucket.
const WAYS: usize = 8;
const BUCKETS: usize = AFFINITIES_MAX / WAYS;

/// Who a backend is remembered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The Service port, by [`crate::service_table::ServiceTable::id`]; never 0.
    pub service: u32,
    /// The client's address.
    pub address: u32,
}

impl Client {
    const fn word(self) -> u64 {
        (self.service as u64) << 32 | self.address as u64
    }
}

/// Address and port of a backend.
pub type Place = (u32, u16);

/// What became of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is remembered.
    Remembered,
    /// It is remembered, and the affinity of another client was given up for it.
    Evicted,
    /// It is not remembered: there was nothing to remember, or the bucket stayed claimed.
    Not,
}

/// The table.
pub struct Affinities {
    buckets: Box<[Bucket]>,
}

impl std::fmt::Debug for Affinities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Affinities({} of {AFFINITIES_MAX})", self.len())
    }
}

#[derive(Default)]
#[repr(align(64))]
struct Bucket {
    claimed: AtomicBool,
    /// The client's last new flow, in milliseconds of the workers' clock, modulo 2³².
    since_ms: [AtomicU32; WAYS],
    /// [`Client::word`]; 0: empty.
    clients: [AtomicU64; WAYS],
    /// Address, port, and in the low 16 bits half the timeout in seconds.
    backends: [AtomicU64; WAYS],
}

impl Default for Affinities {
    fn default() -> Self {
        Self::new()
    }
}

impl Affinities {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Bucket::default()).collect() }
    }

    /// The backend of a client's new flow. `choose` gets the one that is remembered and not older than `timeout_s`, if there is one, and
    /// says which it shall be; that one is remembered from now on.
    pub fn stick(
        &self,
        client: Client,
        timeout_s: u32,
        now_ms: u32,
        secret: &Secret,
        choose: impl FnOnce(Option<Place>) -> Option<Place>,
    ) -> (Option<Place>, Kept) {
        let word = client.word();
        let bucket = &self.buckets[home(word, secret)];
        let claimed = bucket.claim();
        let way = bucket.clients.iter().position(|c| c.load(Relaxed) == word);
        let remembered = way
            .filter(|&way| bucket.age_ms(way, now_ms) < timeout_s.saturating_mul(1_000))
            .map(|way| bucket.place(way));
        let chosen = choose(remembered);
        let mut kept = Kept::Not;
        if let (true, Some(place)) = (claimed, chosen) {
            let way = way.unwrap_or_else(|| bucket.first_to_end(now_ms));
            let other = bucket.clients[way].load(Relaxed);
            let gives_way = other != 0 && other != word && bucket.left_ms(way, now_ms) > 0;
            kept = if gives_way { Kept::Evicted } else { Kept::Remembered };
            bucket.clients[way].store(word, Relaxed);
            bucket.backends[way].store(packed(place, timeout_s), Relaxed);
            bucket.since_ms[way].store(now_ms, Relaxed);
        }
        if claimed {
            bucket.release();
        }
        (chosen, kept)
    }

    /// Forgets what has ended in the next `budget` buckets from `cursor` on, so that no clock ever comes round to it.
    pub fn sweep(&self, cursor: &mut usize, budget: usize, now_ms: u32) {
        for _ in 0..budget {
            let bucket = &self.buckets[*cursor % BUCKETS];
            *cursor = (*cursor + 1) % BUCKETS;
            let ended =
                |way: &usize| bucket.clients[*way].load(Relaxed) != 0 && bucket.left_ms(*way, now_ms) == 0;
            if (0..WAYS).any(|way| ended(&way)) && bucket.claim() {
                (0..WAYS).filter(ended).for_each(|way| bucket.clients[way].store(0, Relaxed));
                bucket.release();
            }
        }
    }

    /// Clients that are remembered, or were and are not yet forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.iter().flat_map(|b| &b.clients).filter(|c| c.load(Relaxed) != 0).count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bucket {
    /// Whether it is the caller's to change, until [`Bucket::release`].
    fn claim(&self) -> bool {
        (0..AFFINITY_LOOKS_MAX).any(|look| {
            if look > 0 {
                std::hint::spin_loop();
            }
            self.claimed.compare_exchange_weak(false, true, Acquire, Relaxed).is_ok()
        })
    }

    fn release(&self) {
        self.claimed.store(false, Release);
    }

    fn age_ms(&self, way: usize, now_ms: u32) -> u32 {
        let age_ms = now_ms.wrapping_sub(self.since_ms[way].load(Relaxed));
        // Another worker's clock was read a little later than ours: it is young.
        if age_ms > u32::MAX / 2 { 0 } else { age_ms }
    }

    fn place(&self, way: usize) -> Place {
        let word = self.backends[way].load(Relaxed);
        ((word >> 32) as u32, (word >> 16) as u16)
    }

    /// Milliseconds until it ends.
    fn left_ms(&self, way: usize, now_ms: u32) -> u32 {
        let timeout_ms = (self.backends[way].load(Relaxed) as u32 & 0xffff) * 2_000;
        timeout_ms.saturating_sub(self.age_ms(way, now_ms))
    }

    /// An empty way, else the one that ends first.
    fn first_to_end(&self, now_ms: u32) -> usize {
        let left_ms = |way: &usize| match self.clients[*way].load(Relaxed) {
            0 => 0,
            _ => 1 + u64::from(self.left_ms(*way, now_ms)),
        };
        (0..WAYS).min_by_key(left_ms).unwrap_or(0)
    }
}

fn home(word: u64, secret: &Secret) -> usize {
    scale((secret.words(word, 0x6166_6669_6e69_7479) >> 32) as u32, BUCKETS as u32) as usize
}

const fn packed((address, port): Place, timeout_s: u32) -> u64 {
    let half = timeout_s.div_ceil(2);
    let half = if half > u16::MAX as u32 { u16::MAX } else { half as u16 };
    (address as u64) << 32 | (port as u64) << 16 | half as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const SECRET: Secret = Secret::new([1, 2, 3, 4]);
    const CLIENT: Client = Client { service: 1, address: 0xc633_6407 };

    /// Sticks to what is remembered, else to `fresh`; gives what was remembered.
    fn stick(table: &Affinities, client: Client, timeout_s: u32, now_ms: u32, fresh: Place) -> Option<Place> {
        let mut seen = None;
        table.stick(client, timeout_s, now_ms, &SECRET, |remembered| {
            seen = remembered;
            remembered.or(Some(fresh))
        });
        seen
    }

    #[test]
    fn a_clock_starts_again_at_each_new_flow_and_ends() {
        let table = Affinities::new();
        assert_eq!(stick(&table, CLIENT, 10, 1_000, (1, 80)), None);
        assert_eq!(stick(&table, CLIENT, 10, 10_999, (2, 80)), Some((1, 80)));
        assert_eq!(stick(&table, CLIENT, 10, 20_998, (2, 80)), Some((1, 80)));
        assert_eq!(stick(&table, CLIENT, 10, 30_998, (2, 80)), None, "ten seconds have passed");
        assert_eq!(stick(&table, CLIENT, 5, 30_999, (3, 80)), Some((2, 80)));
        assert_eq!(stick(&table, CLIENT, 5, 35_999, (3, 80)), None, "a shorter timeout counts at once");
        let other = Client { service: 2, ..CLIENT };
        assert_eq!(stick(&table, other, 5, 36_000, (4, 80)), None, "another Service port is another key");
    }

    #[test]
    fn clocks_that_wrap_and_differ_do_no_harm() {
        let table = Affinities::new();
        stick(&table, CLIENT, 86_400, u32::MAX - 5, (1, 80));
        assert_eq!(stick(&table, CLIENT, 86_400, 5, (2, 80)), Some((1, 80)));
        assert_eq!(stick(&table, CLIENT, 86_400, u32::MAX, (2, 80)), Some((1, 80)), "a clock that is behind");
        let mut cursor = 0;
        table.sweep(&mut cursor, BUCKETS, 86_399_000);
        assert_eq!(table.len(), 1);
        table.sweep(&mut cursor, BUCKETS, 86_400_000);
        assert_eq!((table.len(), cursor), (0, 0));
        assert!(table.is_empty());
    }

    #[test]
    fn a_full_bucket_gives_up_what_would_end_first() {
        let table = Affinities::new();
        let home_of = |address| home(Client { service: 1, address }.word(), &SECRET);
        let same: Vec<u32> = (0..u32::MAX).filter(|&a| home_of(a) == home_of(0)).take(WAYS + 1).collect();
        let client = |n: usize| Client { service: 1, address: same[n] };
        for n in 0..WAYS {
            let timeout_s = if n == 3 { 50 } else { 100 };
            stick(&table, client(n), timeout_s, n as u32, (n as u32, 80));
        }
        let (_, kept) = table.stick(client(WAYS), 100, 1_000, &SECRET, |_| Some((99, 80)));
        assert_eq!((kept, table.len()), (Kept::Evicted, WAYS));
        for n in 0..=WAYS {
            let seen = table.stick(client(n), 100, 1_001, &SECRET, |seen| {
                assert_eq!(seen.is_some(), n != 3, "client {n}");
                None
            });
            assert_eq!(seen, (None, Kept::Not));
        }
        let (_, kept) = table.stick(client(3), 100, 101_500, &SECRET, |_| Some((3, 80)));
        assert_eq!(kept, Kept::Remembered, "what has ended is nobody's loss");
    }

    #[test]
    fn who_finds_a_bucket_claimed_reads_and_goes_on() {
        let table = Affinities::new();
        stick(&table, CLIENT, 10, 0, (1, 80));
        assert!(table.buckets[home(CLIENT.word(), &SECRET)].claim());
        let seen = table.stick(CLIENT, 10, 1, &SECRET, |remembered| remembered);
        assert_eq!(seen, (Some((1, 80)), Kept::Not));
    }

    #[test]
    fn racing_workers_agree_on_one_backend() {
        let table = Affinities::new();
        for round in 0..500u32 {
            let client = Client { service: 7, address: round };
            let barrier = Barrier::new(4);
            let chosen: Vec<Option<Place>> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4u32)
                    .map(|worker| {
                        let (table, barrier) = (&table, &barrier);
                        scope.spawn(move || {
                            barrier.wait();
                            table.stick(client, 10, 0, &SECRET, |seen| seen.or(Some((worker, 80)))).0
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert!(chosen.iter().all(|c| *c == chosen[0]), "round {round}: {chosen:?}");
        }
    }
}
