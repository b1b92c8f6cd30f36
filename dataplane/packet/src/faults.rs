//! A wire that is not perfect: [`Faults`] around any [`PacketIo`] loses, doubles, reorders and delays frames in both directions, as a seed
//! decides. For tests, in memory and in the lab; the same seed and the same frames at the same times give the same faults.

use crate::io::{BURST, Burst, Frame, PacketIo, PortInfo};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Frames of one direction that can be under way; those beyond are lost, as in a full queue.
pub const UNDER_WAY_MAX: usize = 1_024;
/// How much later than others a reordered frame may come, at most, in the units of the clock.
pub const REORDER_BY_MAX: u32 = 4;
/// All frames, as the rates count them.
pub const ALL: u32 = 1_000;

/// What happens to frames; each rate is out of [`ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Frames that never arrive.
    pub loss: u32,
    /// Frames that arrive twice.
    pub duplicate: u32,
    /// Frames that those behind them overtake: they come 1 to [`REORDER_BY_MAX`] later.
    pub reorder: u32,
    /// How long every frame is under way, in the units of the clock.
    pub delay: u32,
}

/// What has happened in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames that were put in.
    pub entered: u64,
    /// Frames that came out.
    pub left: u64,
    /// Frames that were lost as the rate says.
    pub lost: u64,
    /// Frames that were doubled.
    pub duplicated: u64,
    /// Frames that were held back so that others overtake them.
    pub reordered: u64,
    /// Frames that were lost because too many were under way.
    pub overflowed: u64,
}

/// A [`PacketIo`] behind which both directions have faults. `C` is its clock: any number that grows, modulo 2³²; it is asked once a call.
#[derive(Debug)]
pub struct Faults<I: PacketIo, C> {
    inner: I,
    clock: C,
    incoming: Lane<I::Frame>,
    outgoing: Lane<I::Frame>,
    /// Frames whose time has come, but which the queue had no room for.
    ready: Burst<I::Frame>,
}

impl<I: PacketIo, C: FnMut() -> u32> Faults<I, C> {
    /// The same rates in both directions, with faults of their own.
    pub fn new(inner: I, rates: Rates, seed: u64, clock: C) -> Self {
        let incoming = Lane::new(rates, seed);
        let outgoing = Lane::new(rates, seed ^ 0x5851_f42d_4c95_7f2d);
        Self { inner, clock, incoming, outgoing, ready: Burst::new() }
    }

    /// What has happened to received and to sent frames.
    pub const fn tallies(&self) -> [Tally; 2] {
        [self.incoming.tally, self.outgoing.tally]
    }

    /// Sends what is due, as far as the queue takes it.
    fn send_due(&mut self, now: u32) {
        loop {
            self.outgoing.take_due(now, &mut self.ready);
            if self.ready.is_empty() {
                return;
            }
            self.outgoing.tally.left += self.inner.tx(&mut self.ready) as u64;
            if !self.ready.is_empty() {
                return;
            }
        }
    }
}

impl<I: PacketIo, C: FnMut() -> u32 + Send> PacketIo for Faults<I, C> {
    type Frame = I::Frame;

    fn info(&self) -> &PortInfo {
        self.inner.info()
    }

    /// Frames that are under way are sent from here too: whoever has nothing to send still asks for what is there.
    fn rx(&mut self, into: &mut Burst<I::Frame>) -> usize {
        let now = (self.clock)();
        self.send_due(now);
        let mut wanted = into.remaining_capacity();
        let before = into.len();
        while wanted > 0 {
            let mut burst = Burst::new();
            let received = self.inner.rx(&mut burst);
            for frame in burst {
                self.incoming.enter(frame, now, |bytes| self.inner.alloc(bytes));
            }
            self.incoming.take_due(now, into);
            wanted = if received < BURST { 0 } else { into.remaining_capacity() };
        }
        let taken = into.len() - before;
        self.incoming.tally.left += taken as u64;
        taken
    }

    /// Takes every frame; those that find no room in the queue when they are due wait there.
    fn tx(&mut self, from: &mut Burst<I::Frame>) -> usize {
        let now = (self.clock)();
        let taken = from.len();
        for frame in from.drain(..) {
            self.outgoing.enter(frame, now, |bytes| self.inner.alloc(bytes));
        }
        self.send_due(now);
        taken
    }

    fn alloc(&mut self, data: &[u8]) -> Option<I::Frame> {
        self.inner.alloc(data)
    }
}

/// Frames of one direction that are under way.
#[derive(Debug)]
struct Lane<F> {
    rates: Rates,
    random: Random,
    under_way: BinaryHeap<Reverse<Traveller<F>>>,
    /// When the latest frame in order is due: the clock may wrap, times here do not.
    now: u64,
    entered: u64,
    tally: Tally,
}

impl<F: Frame> Lane<F> {
    fn new(rates: Rates, seed: u64) -> Self {
        Self {
            rates,
            random: Random(seed),
            under_way: BinaryHeap::with_capacity(UNDER_WAY_MAX),
            now: 0,
            entered: 0,
            tally: Tally::default(),
        }
    }

    /// The clock as a number that does not wrap.
    const fn unwrapped(&mut self, now: u32) -> u64 {
        self.now += now.wrapping_sub(self.now as u32) as u64;
        self.now
    }

    fn enter(&mut self, frame: F, now: u32, copy: impl FnOnce(&[u8]) -> Option<F>) {
        self.tally.entered += 1;
        if self.random.happens(self.rates.loss) {
            self.tally.lost += 1;
            return;
        }
        let mut due = self.unwrapped(now) + u64::from(self.rates.delay);
        if self.random.happens(self.rates.reorder) {
            self.tally.reordered += 1;
            due += 1 + u64::from(self.random.below(REORDER_BY_MAX));
        }
        // A frame in segments is not copied; only what a driver received as one is.
        if self.random.happens(self.rates.duplicate)
            && frame.is_contiguous()
            && let Some(twin) = copy(frame.data())
        {
            self.tally.duplicated += 1;
            self.put(twin, due);
        }
        self.put(frame, due);
    }

    fn put(&mut self, frame: F, due: u64) {
        if self.under_way.len() >= UNDER_WAY_MAX {
            self.tally.overflowed += 1;
            return;
        }
        self.under_way.push(Reverse(Traveller { due, number: self.entered, frame }));
        self.entered += 1;
    }

    /// Frames that are due, the earliest first, and of those that are due at once the first that entered.
    fn take_due(&mut self, now: u32, into: &mut Burst<F>) {
        let now = self.unwrapped(now);
        while !into.is_full()
            && self.under_way.peek().is_some_and(|Reverse(next)| next.due <= now)
            && let Some(Reverse(next)) = self.under_way.pop()
        {
            into.push(next.frame);
        }
    }
}

/// A frame under way. Ordered by when it is due, then by when it entered.
#[derive(Debug)]
struct Traveller<F> {
    due: u64,
    number: u64,
    frame: F,
}

impl<F> Traveller<F> {
    const fn order(&self) -> (u64, u64) {
        (self.due, self.number)
    }
}

impl<F> PartialEq for Traveller<F> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl<F> Eq for Traveller<F> {}

impl<F> PartialOrd for Traveller<F> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<F> Ord for Traveller<F> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, fast, and good enough to throw dice.
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    const fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * bound as u64) >> 32) as u32
    }

    /// Whether something happens that happens to `rate` out of [`ALL`].
    const fn happens(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(ALL) < rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Wire, frames};
    use crate::io::Spread;
    use crate::memory::{MemoryIo, MemoryNic};
    use std::cell::Cell;
    use std::collections::BTreeMap;

    thread_local! {
        static NOW: Cell<u32> = const { Cell::new(0) };
    }

    fn clock() -> u32 {
        NOW.get()
    }

    type Io = Faults<MemoryIo, fn() -> u32>;

    struct FaultyWire {
        nic: MemoryNic,
        io: Io,
    }

    impl FaultyWire {
        fn new(rates: Rates, seed: u64) -> Self {
            let info = PortInfo { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, spread: Spread::Unknown };
            let nic = MemoryNic::new(info, 1);
            Self { io: Faults::new(nic.io(0), rates, seed, clock), nic }
        }

        /// Sends frames one at a time, a unit of the clock between them, and waits for the last; everything that left, in order.
        fn send(&mut self, sent: &[Vec<u8>]) -> Vec<Vec<u8>> {
            for bytes in sent {
                let mut burst = Burst::new();
                burst.push(self.io.alloc(bytes).unwrap());
                assert_eq!(self.io.tx(&mut burst), 1);
                NOW.set(NOW.get().wrapping_add(1));
            }
            NOW.set(NOW.get().wrapping_add(100));
            assert_eq!(self.io.rx(&mut Burst::new()), 0);
            self.nic.take_sent()
        }

        /// The same of frames that arrive.
        fn receive(&mut self, sent: &[Vec<u8>]) -> Vec<Vec<u8>> {
            let mut got = Vec::new();
            let mut take = |io: &mut Io| {
                let mut burst = Burst::new();
                io.rx(&mut burst);
                got.extend(burst.iter().map(|frame| frame.data().to_vec()));
            };
            for bytes in sent {
                self.nic.inject(bytes);
                take(&mut self.io);
                NOW.set(NOW.get().wrapping_add(1));
            }
            NOW.set(NOW.get().wrapping_add(100));
            take(&mut self.io);
            got
        }
    }

    impl Wire for FaultyWire {
        type Io = Io;

        fn io(&mut self) -> &mut Io {
            &mut self.io
        }

        fn arrive(&mut self, frames: &[Vec<u8>]) {
            frames.iter().for_each(|f| self.nic.inject(f));
        }

        fn departed(&mut self) -> Vec<Vec<u8>> {
            self.nic.take_sent()
        }
    }

    fn counted(frames: &[Vec<u8>]) -> BTreeMap<&[u8], usize> {
        let mut counts = BTreeMap::new();
        frames.iter().for_each(|frame| *counts.entry(&frame[..]).or_default() += 1);
        counts
    }

    #[test]
    fn without_faults_it_is_the_wire_itself() {
        conformance::run(|| FaultyWire::new(Rates::default(), 7));
    }

    #[test]
    fn rates_hold_in_both_directions() {
        let rates = Rates { loss: 100, duplicate: 50, reorder: 200, delay: 3 };
        let sent = frames(4_000);
        let mut wire = FaultyWire::new(rates, 1);
        let (out, into) = (wire.send(&sent), wire.receive(&sent));
        assert_ne!(out, into, "each direction has faults of its own");
        for (got, tally) in [into, out].iter().zip(wire.io.tallies()) {
            let Tally { entered, left, lost, duplicated, reordered, overflowed } = tally;
            assert_eq!((entered, left, overflowed), (4_000, got.len() as u64, 0));
            assert_eq!(left, entered - lost + duplicated);
            for (count, of, rate) in [(lost, 4_000, 100), (duplicated, 3_600, 50), (reordered, 3_600, 200)] {
                let expected = of * rate / 1_000;
                assert!((expected * 7 / 10..=expected * 13 / 10).contains(&count), "{count} for {expected}");
            }
            let counts = counted(got);
            assert_eq!(counts.len() as u64, entered - lost);
            assert_eq!(counts.values().filter(|&&n| n == 2).count() as u64, duplicated);
            assert!(
                counts.keys().all(|frame| sent.iter().any(|s| &s[..] == *frame)),
                "bytes are never changed"
            );
        }
    }

    #[test]
    fn a_reordered_frame_is_overtaken_and_others_keep_their_order() {
        let sent = frames(2_000);
        let got = FaultyWire::new(Rates { reorder: 100, ..Rates::default() }, 3).send(&sent);
        let place: BTreeMap<&[u8], usize> = sent.iter().enumerate().map(|(n, f)| (&f[..], n)).collect();
        let places: Vec<usize> = got.iter().map(|frame| place[&frame[..]]).collect();
        let late = places.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!((100..300).contains(&late), "{late}");
        for (at, &n) in places.iter().enumerate() {
            assert!(at.abs_diff(n) <= REORDER_BY_MAX as usize * 2, "frame {n} came as number {at}");
        }
    }

    #[test]
    fn a_delay_keeps_the_order_and_nothing_comes_early() {
        NOW.set(u32::MAX - 5);
        let mut wire = FaultyWire::new(Rates { delay: 10, ..Rates::default() }, 1);
        let sent = frames(3);
        sent.iter().for_each(|f| wire.nic.inject(f));
        let mut burst = Burst::new();
        for step in 0..10 {
            assert_eq!(wire.io.rx(&mut burst), 0, "after {step}");
            NOW.set(NOW.get().wrapping_add(1));
        }
        assert_eq!(wire.io.rx(&mut burst), 3);
        assert!(burst.iter().zip(&sent).all(|(got, sent)| got.data() == sent));
    }

    #[test]
    fn a_seed_is_a_story() {
        let rates = Rates { loss: 100, duplicate: 100, reorder: 100, delay: 1 };
        let run = |seed| FaultyWire::new(rates, seed).send(&frames(500));
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }

    #[test]
    fn too_many_under_way_are_lost_and_counted() {
        let mut wire = FaultyWire::new(Rates { delay: 1_000, ..Rates::default() }, 1);
        for frame in frames(UNDER_WAY_MAX + 5) {
            let mut burst = Burst::new();
            burst.push(wire.io.alloc(&frame).unwrap());
            wire.io.tx(&mut burst);
        }
        assert_eq!(wire.io.tallies()[1].overflowed, 5);
        NOW.set(NOW.get().wrapping_add(1_000));
        wire.io.rx(&mut Burst::new());
        assert_eq!(wire.nic.take_sent().len(), UNDER_WAY_MAX);
    }

    #[test]
    fn what_the_queue_does_not_take_waits() {
        let mut wire = FaultyWire::new(Rates::default(), 1);
        wire.nic.limit_tx(1);
        let sent = frames(3);
        let mut burst = Burst::new();
        for bytes in &sent {
            burst.push(wire.io.alloc(bytes).unwrap());
        }
        assert_eq!(wire.io.tx(&mut burst), 3);
        assert_eq!(wire.nic.take_sent(), sent[..1]);
        wire.nic.limit_tx(5);
        wire.io.rx(&mut Burst::new());
        assert_eq!(wire.nic.take_sent(), sent[1..]);
        assert_eq!(wire.io.tallies()[1], Tally { entered: 3, left: 3, ..Tally::default() });
    }
}
