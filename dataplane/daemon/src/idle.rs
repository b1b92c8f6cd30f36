//! What a worker does between turns that found nothing: poll, then pause, then nap, the longer the longer nothing comes.

use std::time::Duration;
use turnpike_wire::config::Idle;

/// Empty turns polled without rest: a gap between two bursts of a busy link is shorter.
const POLLED_TURNS: u32 = 64;
/// Empty turns after which pausing becomes napping.
const PAUSED_TURNS: u32 = 1_024;
/// Processor pauses between two turns while pausing.
const PAUSES: u32 = 32;
/// Shortest and longest nap, in microseconds.
const NAP_US: std::ops::RangeInclusive<u64> = 5..=50;

/// What to do before the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing.
    None,
    /// Let the core breathe for this many pauses.
    Pause(u32),
    /// Sleep.
    Nap(Duration),
}

/// Counts empty turns and says how to rest after each.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    policy: Idle,
    empty_turns: u32,
    nap_us: u64,
}

impl BackOff {
    /// Starts as after a busy turn.
    pub(crate) const fn new(policy: Idle) -> Self {
        Self { policy, empty_turns: 0, nap_us: *NAP_US.start() }
    }

    /// How to rest after a turn that handled `frames` frames.
    pub(crate) fn after(&mut self, frames: usize) -> Rest {
        if frames > 0 {
            self.empty_turns = 0;
            self.nap_us = *NAP_US.start();
            return Rest::None;
        }
        if self.policy == Idle::Poll {
            return Rest::None;
        }
        self.empty_turns = self.empty_turns.saturating_add(1);
        if self.empty_turns <= POLLED_TURNS {
            return Rest::None;
        }
        if self.empty_turns <= PAUSED_TURNS {
            return Rest::Pause(PAUSES);
        }
        let nap = Duration::from_micros(self.nap_us);
        self.nap_us = (self.nap_us * 2).min(*NAP_US.end());
        Rest::Nap(nap)
    }
}

impl Rest {
    /// Does it. Returns whether time passed that is worth reading the clock for.
    pub(crate) fn take(self) -> bool {
        match self {
            Self::None => false,
            Self::Pause(count) => {
                (0..count).for_each(|_| std::hint::spin_loop());
                true
            }
            Self::Nap(length) => {
                std::thread::sleep(length);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_grows_with_idleness_and_ends_with_the_first_frame() {
        let mut back_off = BackOff::new(Idle::Adaptive);
        let rests: Vec<Rest> = (0..2_000).map(|_| back_off.after(0)).collect();
        assert!(rests[..64].iter().all(|r| *r == Rest::None));
        assert!(rests[64..1_024].iter().all(|r| *r == Rest::Pause(PAUSES)));
        let naps: Vec<u64> = rests[1_024..1_030]
            .iter()
            .map(|r| match r {
                Rest::Nap(d) => d.as_micros() as u64,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(naps, [5, 10, 20, 40, 50, 50]);
        assert_eq!(back_off.after(1), Rest::None);
        assert_eq!(back_off.after(0), Rest::None);
    }

    #[test]
    fn polling_never_rests() {
        let mut back_off = BackOff::new(Idle::Poll);
        assert!((0..5_000).all(|_| back_off.after(0) == Rest::None));
    }
}
