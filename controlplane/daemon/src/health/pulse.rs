//! Whether this gateway serves what the cluster wants, the way a kube-proxy says whether it is healthy (rule H6).
//!
//! Healthy: a dataplane serves by a state of this control plane, and no change waits for its adoption longer than [`QUEUED_MAX`]. An etcd
//! that is away makes a gateway no less healthy: it goes on with the last good state, and sending its clients elsewhere would help nobody.

use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time from received to adopted that counts as healthy. Adoption takes milliseconds, so only a wedged dataplane gets here.
pub const QUEUED_MAX: Duration = Duration::from_secs(10);
/// Most changes that are told apart while they wait; more share the times of others.
const WAITING_MAX: usize = 8192;

/// The health of this gateway, as far as changes tell.
#[derive(Debug, Default)]
pub struct Pulse(Mutex<Changes>);

#[derive(Debug, Default)]
struct Changes {
    /// Not adopted yet, in the order they came.
    waiting: VecDeque<Waiting>,
    /// Whether the dataplane that is there has adopted anything of this control plane's.
    in_force: bool,
    /// When something was adopted last; none: never.
    updated: Option<Timestamp>,
}

#[derive(Debug)]
struct Waiting {
    revision: i64,
    received: Instant,
}

/// An answer of [`Pulse::feel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// See the module.
    pub healthy: bool,
    /// When something was adopted last: now while healthy, as kube-proxy tells it; none: never.
    pub updated: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

impl Pulse {
    /// A change that was received then is resolved, and its revision is to be adopted.
    pub fn queued(&self, revision: i64, received: Instant) {
        let mut changes = self.changes();
        if changes.waiting.len() < WAITING_MAX {
            changes.waiting.push_back(Waiting { revision, received });
        } else if let Some(last) = changes.waiting.back_mut() {
            last.revision = revision;
        }
    }

    /// Every worker works by that revision: when the changes were received of which that cannot be said before.
    pub fn adopted(&self, revision: i64) -> Vec<Instant> {
        let mut changes = self.changes();
        changes.in_force = true;
        changes.updated = Some(Timestamp::now());
        // By its place and not by its number, which is smaller than others' after an etcd has gone back.
        let count = changes.waiting.iter().rposition(|w| w.revision == revision).map_or(0, |at| at + 1);
        changes.waiting.drain(..count).map(|waiting| waiting.received).collect()
    }

    /// The dataplane is another one, which has adopted nothing.
    pub fn lost(&self) {
        self.changes().in_force = false;
    }

    /// How the gateway is; `serving`: a dataplane beats.
    #[must_use]
    pub fn feel(&self, serving: bool) -> Health {
        self.feel_at(serving, Instant::now())
    }

    fn feel_at(&self, serving: bool, at: Instant) -> Health {
        let changes = self.changes();
        let oldest = changes.waiting.front().map(|waiting| waiting.received);
        let in_time = oldest.is_none_or(|since| at.saturating_duration_since(since) <= QUEUED_MAX);
        let healthy = serving && changes.in_force && in_time;
        let now = Timestamp::now();
        Health { healthy, updated: if healthy { Some(now) } else { changes.updated }, now }
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse() -> (Pulse, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Pulse::default(), move |seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn rule_h6_healthy_is_who_adopts_in_time() {
        let (pulse, at) = pulse();
        assert_eq!(pulse.feel_at(true, at(0)).updated, None);
        assert!(!pulse.feel_at(true, at(0)).healthy, "nothing was ever adopted");
        pulse.queued(5, at(0));
        assert!(!pulse.feel_at(true, at(1)).healthy, "still nothing");
        assert_eq!(pulse.adopted(5), [at(0)]);
        assert!(pulse.feel_at(true, at(1_000)).healthy, "nothing waits");
        assert!(!pulse.feel_at(false, at(1_000)).healthy, "no dataplane");
        pulse.queued(6, at(1_000));
        assert!(pulse.feel_at(true, at(1_010)).healthy, "ten seconds are allowed");
        let health = pulse.feel_at(true, at(1_011));
        assert!(!health.healthy && health.updated.is_some_and(|updated| updated <= health.now));
        assert_eq!(pulse.adopted(6), [at(1_000)]);
        assert!(pulse.feel_at(true, at(1_011)).healthy);
    }

    #[test]
    fn rule_h6_changes_without_a_pause_are_healthy_while_each_is_adopted_in_time() {
        let (pulse, at) = pulse();
        for second in 0..100 {
            pulse.queued(second, at(second as u64));
            if second > 0 {
                // The newest always waits.
                assert_eq!(pulse.adopted(second - 1), [at(second as u64 - 1)]);
                assert!(pulse.feel_at(true, at(second as u64)).healthy, "second {second}");
            }
        }
    }

    #[test]
    fn rule_h6_another_dataplane_is_healthy_once_it_has_adopted() {
        let (pulse, at) = pulse();
        pulse.queued(5, at(0));
        pulse.adopted(5);
        pulse.lost();
        assert!(!pulse.feel_at(true, at(1)).healthy);
        assert!(pulse.adopted(5).is_empty(), "told already");
        assert!(pulse.feel_at(true, at(1)).healthy);
    }

    #[test]
    fn an_etcd_that_went_back_is_no_reason_to_wait_for_ever() {
        let (pulse, at) = pulse();
        pulse.queued(500, at(0));
        pulse.queued(20, at(1));
        assert_eq!(pulse.adopted(20), [at(0), at(1)]);
        assert!(pulse.adopted(7).is_empty(), "of another control plane");
    }

    #[test]
    fn what_waits_is_bounded_and_keeps_its_age() {
        let (pulse, at) = pulse();
        for revision in 0..2 * WAITING_MAX as i64 {
            pulse.queued(revision, at(revision as u64));
        }
        assert!(!pulse.feel_at(true, at(11)).healthy);
        assert_eq!(pulse.adopted(2 * WAITING_MAX as i64 - 1).len(), WAITING_MAX);
    }
}
