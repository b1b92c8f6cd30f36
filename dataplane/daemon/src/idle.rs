//! What a worker does between turns that found nothing: poll, then pause, then sleep: until a frame comes where the devices can say so, else
//! in naps, the longer the longer nothing comes.

use std::time::Duration;
use turnpike_wire::config::Idle;

/// Empty turns polled without rest: a gap between two bursts of a busy link is shorter.
const POLLED_TURNS: u32 = 64;
/// Empty turns after which pausing becomes napping.
const PAUSED_TURNS: u32 = 1_024;
/// Processor pauses between two turns while pausing.
const PAUSES: u32 = 32;
/// Shortest and longest nap, in microseconds: what a frame may have to wait at most.
const NAP_US: std::ops::RangeInclusive<u64> = 5..=100;
/// Longest wait for a frame: the upkeep counts in milliseconds.
const WAIT: Duration = Duration::from_millis(1);

/// What to do before the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing.
    None,
    /// Let the core breathe for this many pauses.
    Pause(u32),
    /// Sleep.
    Nap(Duration),
    /// Sleep until there is something to do, and no longer than this.
    Wait(Duration),
}

/// Counts empty turns and says how to rest after each.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    policy: Idle,
    /// Frames wake.
    is_woken: bool,
    empty_turns: u32,
    nap_us: u64,
}

impl BackOff {
    /// Starts as after a busy turn, for a worker that frames wake, or not.
    pub(crate) const fn new(policy: Idle, is_woken: bool) -> Self {
        Self { policy, is_woken, empty_turns: 0, nap_us: *NAP_US.start() }
    }

    /// How to rest after a turn that handled `frames` frames, and has left something to do that no frame will wake it for, or not.
    pub(crate) fn after(&mut self, frames: usize, has_more: impl FnOnce() -> bool) -> Rest {
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
        if self.is_woken && !has_more() {
            return Rest::Wait(WAIT);
        }
        let nap = Duration::from_micros(self.nap_us);
        self.nap_us = (self.nap_us * 2).min(*NAP_US.end());
        Rest::Nap(nap)
    }
}

impl Rest {
    /// Does it, but for [`Rest::Wait`], which takes more. Returns whether time passed that is worth reading the clock for.
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
            Self::Wait(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naps(rests: &[Rest]) -> Vec<u64> {
        let micros = |rest: &Rest| match rest {
            Rest::Nap(length) => length.as_micros() as u64,
            other => panic!("{other:?}"),
        };
        rests.iter().map(micros).collect()
    }

    #[test]
    fn rest_grows_with_idleness_and_ends_with_the_first_frame() {
        let mut back_off = BackOff::new(Idle::Adaptive, false);
        let rests: Vec<Rest> = (0..2_000).map(|_| back_off.after(0, || false)).collect();
        assert!(rests[..64].iter().all(|r| *r == Rest::None));
        assert!(rests[64..1_024].iter().all(|r| *r == Rest::Pause(PAUSES)));
        assert_eq!(naps(&rests[1_024..1_031]), [5, 10, 20, 40, 80, 100, 100]);
        assert_eq!(back_off.after(1, || false), Rest::None);
        assert_eq!(back_off.after(0, || false), Rest::None);
    }

    #[test]
    fn a_worker_that_frames_wake_waits_for_them_unless_it_has_more_to_do() {
        let mut back_off = BackOff::new(Idle::Adaptive, true);
        let rests: Vec<Rest> = (0..2_000).map(|_| back_off.after(0, || false)).collect();
        assert!(rests[64..1_024].iter().all(|r| *r == Rest::Pause(PAUSES)));
        assert!(rests[1_024..].iter().all(|r| *r == Rest::Wait(WAIT)));
        let rests: Vec<Rest> = (0..3).map(|_| back_off.after(0, || true)).collect();
        assert_eq!(naps(&rests), [5, 10, 20]);
        assert_eq!(back_off.after(0, || false), Rest::Wait(WAIT));
    }

    #[test]
    fn polling_never_rests() {
        let mut back_off = BackOff::new(Idle::Poll, true);
        assert!((0..5_000).all(|_| back_off.after(0, || false) == Rest::None));
    }
}
