//! Session affinity (rules F1 to F4): which backend a client of a Service port was given last, for all workers alike.
//!
//! One table of fixed size, touched only when a flow of a Service with affinity is made. A client's connections may land on any worker, also
//! at the same instant, and must get one backend: backend and time are one word, and who changes it first by compare-and-swap has decided
//! for all who try. No worker ever waits for another, not even for one that was stopped half-way. A *bucket* is as many clients as fit three
//! cache lines; where it is full, the affinity that would end first gives way.

use crate::address::Address;
use crate::hash::{Secret, scale};
use crate::limits::{AFFINITIES_MAX, AFFINITY_TRIES_MAX};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// Clients of a bucket.
const WAYS: usize = 8;
const BUCKETS: usize = AFFINITIES_MAX / WAYS;
/// Milliseconds of one unit of the time that stands beside a backend: 16 bits of them are a day and a half.
const UNIT_MS: u32 = 2_000;
/// Ages in units from here on are clocks of other workers that run a little ahead: far beyond the longest affinity.
const AHEAD: u16 = u16::MAX - 1_000;

/// Who a backend is remembered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The Service port, by [`crate::service_table::ServiceTable::id`]; never 0.
    pub service: u32,
    /// The client's address.
    pub address: Address,
}

impl Client {
    /// Never 0. An IPv6 client is known by a keyed hash, which nobody can aim at another client's.
    const fn word(self, secret: &Secret) -> u64 {
        match self.address.as_v4() {
            Some(address) => (self.service as u64) << 32 | address as u64,
            None => secret.address(self.address, self.service as u64) | 1 << 63,
        }
    }
}

/// Handle ([`crate::service_table::BackendEntry::handle`]) and port of a backend.
pub type Place = (u32, u16);

/// What became of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is remembered.
    Remembered,
    /// It is remembered, and the affinity of another client was given up for it.
    Evicted,
    /// It is not remembered: there was nothing to remember, or others changed the bucket again and again.
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
    /// [`Client::word`]; 0: never used.
    clients: [AtomicU64; WAYS],
    /// Handle, port, and in the low 16 bits when, in units of the clock; 0: nothing is remembered.
    given: [AtomicU64; WAYS],
    /// The same time in milliseconds of the workers' clock, modulo 2³². Written after `given`, and of no use while the two differ.
    since_ms: [AtomicU32; WAYS],
    /// How long it is remembered.
    timeout_s: [AtomicU32; WAYS],
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
    /// says which it shall be; that one is remembered from now on. It is asked again when another worker has decided meanwhile.
    pub fn stick(
        &self,
        client: Client,
        timeout_s: u32,
        now_ms: u32,
        secret: &Secret,
        mut choose: impl FnMut(Option<Place>) -> Option<Place>,
    ) -> (Option<Place>, Kept) {
        let word = client.word(secret);
        let bucket = &self.buckets[home(word, secret)];
        let mut kept = Kept::Remembered;
        for _ in 0..AFFINITY_TRIES_MAX {
            let Some(way) = bucket.clients.iter().position(|c| c.load(Acquire) == word) else {
                // Nobody takes a place for what cannot be chosen.
                if choose(None).is_none() {
                    return (None, Kept::Not);
                }
                if bucket.take_over(word, now_ms) {
                    kept = Kept::Evicted;
                }
                continue;
            };
            let given = bucket.given[way].load(Acquire);
            if bucket.clients[way].load(Acquire) != word {
                continue;
            }
            let age_ms = bucket.age_ms(way, given, now_ms);
            let remembered = (given != 0 && age_ms < timeout_s.saturating_mul(1_000)).then(|| place(given));
            let chosen = choose(remembered);
            let Some(chosen) = chosen else { return (None, Kept::Not) };
            let next = packed(chosen, now_ms);
            if bucket.given[way].compare_exchange(given, next, AcqRel, Relaxed).is_ok() {
                bucket.since_ms[way].store(now_ms, Relaxed);
                bucket.timeout_s[way].store(timeout_s, Relaxed);
                return (Some(chosen), kept);
            }
        }
        (choose(None), Kept::Not)
    }

    /// The backend that a client was given last, if that is not older than `timeout_s`, and how long ago in milliseconds.
    #[must_use]
    pub fn remembered(
        &self,
        client: Client,
        timeout_s: u32,
        now_ms: u32,
        secret: &Secret,
    ) -> Option<(Place, u32)> {
        let word = client.word(secret);
        let bucket = &self.buckets[home(word, secret)];
        let way = bucket.clients.iter().position(|c| c.load(Acquire) == word)?;
        let given = bucket.given[way].load(Acquire);
        let age_ms = bucket.age_ms(way, given, now_ms);
        let is_his = bucket.clients[way].load(Acquire) == word;
        (is_his && given != 0 && age_ms < timeout_s.saturating_mul(1_000)).then(|| (place(given), age_ms))
    }

    /// Forgets what has ended in the next `budget` buckets from `cursor` on, so that no clock ever comes round to it.
    pub fn sweep(&self, cursor: &mut usize, budget: usize, now_ms: u32) {
        for _ in 0..budget {
            let bucket = &self.buckets[*cursor % BUCKETS];
            *cursor = (*cursor + 1) % BUCKETS;
            for way in 0..WAYS {
                let given = bucket.given[way].load(Acquire);
                if given != 0 && bucket.left_ms(way, given, now_ms) == 0 {
                    // Given anew meanwhile: then it stays.
                    let _ = bucket.given[way].compare_exchange(given, 0, AcqRel, Relaxed);
                }
            }
        }
    }

    /// Clients that are remembered, or were and are not yet forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.iter().flat_map(|b| &b.given).filter(|given| given.load(Relaxed) != 0).count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bucket {
    /// Makes a place a client's: one where nothing is remembered, else the one that ends first. Workers that try this for one client at
    /// once see one bucket and take one place. Returns whether another client's affinity was given up.
    fn take_over(&self, word: u64, now_ms: u32) -> bool {
        // Seen once: what is decided on must be what is swapped.
        let seen: [(u64, u64); WAYS] =
            std::array::from_fn(|way| (self.clients[way].load(Acquire), self.given[way].load(Acquire)));
        if seen.iter().any(|&(client, _)| client == word) {
            return false;
        }
        let left_ms = |way: &usize| self.left_ms(*way, seen[*way].1, now_ms);
        let Some(way) = (0..WAYS).min_by_key(left_ms) else { return false };
        let (former, given) = seen[way];
        let is_loss = left_ms(&way) > 0;
        // First forgotten, then renamed: what was given to another is not taken for given to this client.
        let forgotten = given == 0 || self.given[way].compare_exchange(given, 0, AcqRel, Relaxed).is_ok();
        forgotten && self.clients[way].compare_exchange(former, word, AcqRel, Relaxed).is_ok() && is_loss
    }

    /// Age of what was given.
    fn age_ms(&self, way: usize, given: u64, now_ms: u32) -> u32 {
        let since_ms = self.since_ms[way].load(Relaxed);
        if unit(since_ms) == given as u16 {
            let age_ms = now_ms.wrapping_sub(since_ms);
            return if age_ms > u32::MAX / 2 { 0 } else { age_ms };
        }
        // It was given this instant by another worker, which has not come to the milliseconds yet.
        let units = unit(now_ms).wrapping_sub(given as u16);
        if units >= AHEAD { 0 } else { u32::from(units) * UNIT_MS }
    }

    /// Milliseconds until it ends.
    fn left_ms(&self, way: usize, given: u64, now_ms: u32) -> u32 {
        if given == 0 {
            return 0;
        }
        let timeout_ms = self.timeout_s[way].load(Relaxed).saturating_mul(1_000);
        timeout_ms.saturating_sub(self.age_ms(way, given, now_ms))
    }
}

fn home(word: u64, secret: &Secret) -> usize {
    scale((secret.words(word, 0x6166_6669_6e69_7479) >> 32) as u32, BUCKETS as u32) as usize
}

const fn unit(ms: u32) -> u16 {
    (ms / UNIT_MS) as u16
}

const fn place(given: u64) -> Place {
    ((given >> 32) as u32, (given >> 16) as u16)
}

const fn packed((handle, port): Place, now_ms: u32) -> u64 {
    (handle as u64) << 32 | (port as u64) << 16 | unit(now_ms) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const SECRET: Secret = Secret::new([1, 2, 3, 4]);
    const CLIENT: Client = Client { service: 1, address: Address::v4(0xc633_6407) };

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
        let home_of =
            |address| home(Client { service: 1, address: Address::v4(address) }.word(&SECRET), &SECRET);
        let same: Vec<u32> = (0..u32::MAX).filter(|&a| home_of(a) == home_of(0)).take(WAYS + 1).collect();
        let client = |n: usize| Client { service: 1, address: Address::v4(same[n]) };
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
    fn a_worker_that_stops_half_way_stops_nobody() {
        let table = Affinities::new();
        let bucket = &table.buckets[home(CLIENT.word(&SECRET), &SECRET)];
        // It has taken the place and not given anything; then it has given, and not come to the milliseconds.
        bucket.take_over(CLIENT.word(&SECRET), 50_000);
        assert_eq!(stick(&table, CLIENT, 10, 50_000, (1, 80)), None);
        assert_eq!(stick(&table, CLIENT, 10, 50_001, (2, 80)), Some((1, 80)));
        bucket.given[0].store(packed((3, 80), 80_000), Relaxed);
        assert_eq!(
            stick(&table, CLIENT, 10, 80_001, (4, 80)),
            Some((3, 80)),
            "the milliseconds are of long ago"
        );
        bucket.given[0].store(packed((5, 80), 100_000), Relaxed);
        assert_eq!(stick(&table, CLIENT, 10, 99_999, (6, 80)), Some((5, 80)), "by a clock that is ahead");
    }

    #[test]
    fn who_decides_first_decides_for_all() {
        let table = Affinities::new();
        let mut asked = 0;
        let outcome = table.stick(CLIENT, 10, 0, &SECRET, |remembered| {
            asked += 1;
            // Another worker decides while this one thinks.
            if asked <= 2 {
                table.stick(CLIENT, 10, 0, &SECRET, |other| other.or(Some((7, 80))));
            }
            remembered.or(Some((8, 80)))
        });
        assert_eq!(outcome.0, Some((7, 80)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn nobody_chosen_takes_no_place() {
        let table = Affinities::new();
        assert_eq!(table.stick(CLIENT, 10, 0, &SECRET, |_| None), (None, Kept::Not));
        let bucket = &table.buckets[home(CLIENT.word(&SECRET), &SECRET)];
        assert!(bucket.clients.iter().all(|c| c.load(Relaxed) == 0));
    }

    #[test]
    fn racing_workers_agree_on_one_backend() {
        let table = Affinities::new();
        for round in 0..500u32 {
            let client = Client {
                service: 7,
                address: if round % 2 == 0 { Address::v4(round) } else { Address::v6(u128::from(round)) },
            };
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
