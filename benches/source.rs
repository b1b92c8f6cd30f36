//! Source and sink of frames on one queue: packets of live flows at a pace, each with the time at which it went in, and how long each was away.
//!
//! Time is that of one clock, read by the one thread that sends and receives, so that no two cores have to agree on it. What that thread has
//! missed while it was not running says nothing of what is measured: frames that were due then are not made up for, and frames that came back
//! meanwhile are counted and not timed. Frames that could not go in because all were away are another matter: each counts with the time for which it was due.

use crate::frames::{Deck, stamp_of};
use anyhow::{Context, Result};
use capsule::{Mbuf, Queue};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};
use turnpike_packet::flight::check;
use turnpike_packet::io::{BURST, Burst, Frame, PacketIo};

/// Most frames that go in under one time.
const SENT_AT_ONCE: usize = 32;
/// A source on a ring that was away from its loop for longer than this was not running. A busy round takes one to three microseconds.
pub const AWAY_OF_RINGS: Duration = Duration::from_micros(5);
/// The same on a NIC, whose driver may need system calls to send.
pub const AWAY_OF_NICS: Duration = Duration::from_millis(1);
/// Longest time that is told from longer ones.
const LONGEST_NS: u64 = 10_000_000_000;
/// Frames kept for use again.
const STOCK: usize = 1_024;
/// Bursts that can be late: more than there are frame buffers. Some devices receive without end.
const LATE_BURSTS: usize = 1_024;
/// One part of so many of a run is over before frames are timed: caches and clocks of the cores are as they will stay then.
const WARM_UP: u64 = 5;

/// How fast frames go in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as they are taken, with no more than so many away at the same time.
    Flood {
        /// How many.
        away_max: u64,
    },
    /// So many a second.
    PerSecond(f64),
}

/// What became of the frames of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trip {
    /// Frames that went in.
    pub sent: u64,
    /// Frames that came back.
    pub received: u64,
    /// Those among them that came back while others still went in.
    pub received_in_time: u64,
    /// Frames of others.
    pub foreign: u64,
    /// Whether others ran on the core of the thread at the other end meanwhile.
    pub is_disturbed: bool,
    /// For how long frames went in.
    pub seconds: f64,
    /// How long frames were away.
    pub times: Times,
}

impl Trip {
    /// Frames a second that came back while others went in.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.received_in_time as f64 / self.seconds
    }

    /// Frames that did not come back.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// How long frames were away, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("these bounds are within the library's"))
    }
}

impl Times {
    /// The time that so many of a hundred frames did not exceed; 0 of no frames.
    #[must_use]
    pub fn percentile_ns(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64
    }

    /// How many frames were timed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// So many frames were away for so long.
    fn record(&mut self, ns: u64, frames: u64) {
        if frames > 0 {
            self.0.saturating_record_n(ns, frames);
        }
    }
}

/// The queue from which frames go out and to which they come back.
#[derive(Debug)]
pub struct Source {
    queue: Queue,
    /// The address that frames come back to.
    mac: [u8; 6],
    /// For how long its thread can be away and still be running.
    away_ns: u64,
    stock: Vec<Mbuf>,
    /// Frames that have their time and were not taken yet.
    waiting: Burst<Mbuf>,
}

/// Which frames are due.
#[derive(Debug)]
struct Schedule {
    pace: Pace,
    /// When the first was due, moved on by all that was missed.
    origin_ns: u64,
}

impl Schedule {
    /// How many are due, when so many have gone in and so many of them are away.
    fn due(&self, now_ns: u64, sent: u64, away: u64) -> u64 {
        match self.pace {
            Pace::Flood { away_max } => away_max.saturating_sub(away),
            Pace::PerSecond(rate) => {
                let due = now_ns.saturating_sub(self.origin_ns) as f64 * rate / 1e9;
                (due as u64).saturating_sub(sent)
            }
        }
    }

    /// Moves on by what is due and later than `most_ns`: it is not made up for. For how long each of those frames has been due by now.
    fn catch_up(&mut self, now_ns: u64, sent: u64, most_ns: u64) -> impl Iterator<Item = u64> + use<> {
        let (mut late_ns, mut interval_ns) = (0, 1.0);
        if let Pace::PerSecond(rate) = self.pace {
            interval_ns = 1e9 / rate;
            let due_ns = self.origin_ns + ((sent + 1) as f64 * interval_ns) as u64;
            late_ns = now_ns.saturating_sub(due_ns);
        }
        let frames = if late_ns > most_ns { (late_ns as f64 / interval_ns) as u64 } else { 0 };
        self.origin_ns += (frames as f64 * interval_ns) as u64;
        (0..frames).map(move |n| late_ns - (n as f64 * interval_ns) as u64)
    }
}

impl Source {
    /// A source on this queue, whose frames come back to `mac`. Its thread was not running when it was away from its loop for longer than `away`.
    #[must_use]
    pub fn new(queue: Queue, mac: [u8; 6], away: Duration) -> Self {
        Self {
            queue,
            mac,
            away_ns: away.as_nanos() as u64,
            stock: Vec::with_capacity(STOCK),
            waiting: Burst::new(),
        }
    }

    /// Frames come back to this address from now on.
    pub const fn expect_at(&mut self, mac: [u8; 6]) {
        self.mac = mac;
    }

    /// Sends for `time`, then waits until all have come back, or none has for `patience`.
    pub fn run(
        &mut self,
        deck: &mut Deck<12>,
        pace: Pace,
        time: Duration,
        patience: Duration,
    ) -> Result<Trip> {
        let blank = vec![0; deck.frame_len()];
        self.empty();
        let start = Instant::now();
        let now = || start.elapsed().as_nanos() as u64;
        let (end_ns, patience_ns) = (time.as_nanos() as u64, patience.as_nanos() as u64);
        let warm_ns = end_ns / WARM_UP;
        // Times under more than can be borne are those of queues.
        let is_timed = matches!(pace, Pace::PerSecond(_));
        let mut trip = Trip::default();
        let mut schedule = Schedule { pace, origin_ns: 0 };
        let (mut last_ns, mut is_held_up, mut is_blind) = (0, false, false);
        let mut heard_ns = end_ns;
        loop {
            let mut burst = Burst::new();
            let frames = self.queue.rx(&mut burst);
            let now_ns = now();
            let missed_ns = now_ns - last_ns;
            last_ns = now_ns;
            if missed_ns > self.away_ns {
                is_blind = true;
                schedule.origin_ns += missed_ns;
            }
            let before = trip.received;
            let timed_from_ns = if is_timed && !is_blind { warm_ns } else { u64::MAX };
            self.receive(burst, now_ns, timed_from_ns, &mut trip);
            // A thread that was away is blind until it has seen all that came meanwhile.
            is_blind &= frames == BURST;
            if now_ns < end_ns {
                trip.received_in_time = trip.received;
                let waits = schedule.catch_up(now_ns, trip.sent, self.away_ns);
                if is_held_up && now_ns >= timed_from_ns {
                    waits.for_each(|ns| trip.times.record(ns, 1));
                }
                is_held_up = self.send(deck, &schedule, now_ns, &blank, &mut trip);
            } else {
                self.push(&mut trip);
                if trip.received > before {
                    heard_ns = now_ns;
                }
                if trip.received >= trip.sent && self.waiting.is_empty() || now_ns > heard_ns + patience_ns {
                    break;
                }
            }
        }
        trip.seconds = time.as_secs_f64();
        self.waiting.clear();
        let returned = self.stock.iter().rev().take(BURST.min(trip.received as usize));
        for frame in returned {
            check(frame.data()).context("a packet came back broken")?;
        }
        Ok(trip)
    }

    /// What came back late from an earlier run is none of this one.
    fn empty(&mut self) {
        let mut burst = Burst::new();
        for _ in 0..LATE_BURSTS {
            if self.queue.rx(&mut burst) == 0 {
                break;
            }
            burst.clear();
        }
    }

    /// Counts what has come back, and times what went in from some time on.
    fn receive(&mut self, burst: Burst<Mbuf>, now_ns: u64, timed_from_ns: u64, trip: &mut Trip) {
        // Frames that went in together mostly come back together.
        let (mut together_ns, mut together) = (0, 0);
        for frame in burst {
            let Some(sent_ns) = stamp_of(frame.data(), self.mac) else {
                trip.foreign += 1;
                continue;
            };
            trip.received += 1;
            if sent_ns != together_ns {
                trip.times.record(now_ns.saturating_sub(together_ns), together);
                (together_ns, together) = (sent_ns, 0);
            }
            together += u64::from(sent_ns >= timed_from_ns);
            if self.stock.len() < STOCK {
                self.stock.push(frame);
            }
        }
        trip.times.record(now_ns.saturating_sub(together_ns), together);
    }

    /// Sends what is due. Whether something is due that cannot go in.
    fn send(
        &mut self,
        deck: &mut Deck<12>,
        schedule: &Schedule,
        now_ns: u64,
        blank: &[u8],
        trip: &mut Trip,
    ) -> bool {
        if !self.push(trip) {
            return true;
        }
        let due = schedule.due(now_ns, trip.sent, trip.sent - trip.received.min(trip.sent));
        let mut is_short = false;
        for _ in 0..due.min(SENT_AT_ONCE as u64) {
            let Some(mut frame) = self.stock.pop().or_else(|| self.queue.alloc(blank)) else {
                is_short = true;
                break;
            };
            deck.write_next_stamped(now_ns, frame.data_mut());
            self.waiting.push(frame);
        }
        !self.push(trip) || is_short
    }

    /// Hands over what has its time. Whether all of it was taken.
    fn push(&mut self, trip: &mut Trip) -> bool {
        if !self.waiting.is_empty() {
            trip.sent += self.queue.tx(&mut self.waiting) as u64;
        }
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_by_the_clock_and_not_while_the_thread_was_away() {
        let mut paced = Schedule { pace: Pace::PerSecond(1e6), origin_ns: 0 };
        assert_eq!((paced.due(999, 0, 0), paced.due(5_000, 0, 0), paced.due(5_000, 4, 4)), (0, 5, 1));
        paced.origin_ns += 90_000;
        assert_eq!((paced.due(95_000, 5, 0), paced.due(95_000, 4, 0)), (0, 1));
        let flood = Schedule { pace: Pace::Flood { away_max: 512 }, origin_ns: 0 };
        assert_eq!((flood.due(0, 700, 500), flood.due(9, 700, 512)), (12, 0));
    }

    #[test]
    fn what_is_late_is_not_made_up_for() {
        let mut paced = Schedule { pace: Pace::PerSecond(1e6), origin_ns: 0 };
        assert_eq!(paced.catch_up(16_000, 10, 5_000).count(), 0, "5 us are not late");
        assert_eq!(paced.due(16_000, 10, 0), 6);
        let waits: Vec<u64> = paced.catch_up(17_000, 10, 5_000).collect();
        assert_eq!(waits, [6_000, 5_000, 4_000, 3_000, 2_000, 1_000]);
        assert_eq!((paced.due(17_000, 10, 0), paced.due(18_000, 11, 0)), (1, 1));
        // However slow: what is due now is not late.
        let mut slow = Schedule { pace: Pace::PerSecond(1.0), origin_ns: 0 };
        assert_eq!(slow.catch_up(1_000_000_500, 0, 1_000).count(), 0);
        assert_eq!(slow.due(1_000_000_500, 0, 0), 1);
        let mut flood = Schedule { pace: Pace::Flood { away_max: 512 }, origin_ns: 0 };
        assert_eq!(flood.catch_up(1_000_000, 0, 5_000).count(), 0);
    }

    #[test]
    fn what_is_lost_is_what_did_not_come_back() {
        let trip = Trip { sent: 10, received: 9, received_in_time: 8, seconds: 2.0, ..Trip::default() };
        assert_eq!((trip.lost(), trip.rate()), (1, 4.0));
        let mut times = Times::default();
        assert_eq!((times.count(), times.percentile_ns(50.0)), (0, 0.0));
        (1..=1_000).for_each(|ns| times.record(ns, 1));
        assert_eq!((times.percentile_ns(50.0), times.percentile_ns(99.0)), (500.0, 990.0));
        times.record(u64::MAX, 0);
        assert_eq!(times.count(), 1_000);
        times.record(u64::MAX, 2);
        assert!(times.percentile_ns(100.0) >= LONGEST_NS as f64);
    }
}
