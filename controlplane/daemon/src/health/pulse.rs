//! Whether this gateway serves what the cluster wants, the way a kube-proxy says whether it is healthy (rule H6).
//!
//! Healthy: a dataplane serves, and nothing that was resolved waits for adoption longer than [`QUEUED_MAX`]. An etcd that is away makes a
//! gateway no less healthy: it goes on with the last good state, and sending its clients elsewhere would help nobody.

use crate::state::State;
use jiff::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest time from resolved to adopted that counts as healthy. Adoption takes milliseconds, so only a wedged dataplane gets here.
pub const QUEUED_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What was seen at the last look.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// A dataplane beats.
    serving: bool,
    /// Since when something waits for adoption.
    queued: Option<Instant>,
    /// When everything was adopted last; none: never.
    adopted: Option<Timestamp>,
}

/// The health of this gateway.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Mutex<Seen>>);

/// An answer of [`Pulse::feel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// See the module.
    pub healthy: bool,
    /// When everything was adopted last: now while healthy, as kube-proxy tells it; none: never.
    pub updated: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Seen { serving: false, queued: None, adopted: None })))
    }
}

impl Pulse {
    /// Looks at the state for as long as the runtime lives.
    pub fn watch(self, state: Arc<State>) {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            loop {
                ticks.tick().await;
                let wanted = state.wanted().borrow().as_ref().map(|wanted| wanted.revision);
                let (serving, adopted) = state.dataplane(|d| {
                    (d.state == "serving", (d.adopted_generation > 0).then_some(d.adopted_revision))
                });
                self.see(serving, wanted.is_some() && wanted == adopted, Instant::now());
            }
        });
    }

    fn see(&self, serving: bool, all_adopted: bool, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.serving = serving;
        if serving && all_adopted {
            seen.queued = None;
            seen.adopted = Some(Timestamp::now());
        } else {
            seen.queued = seen.queued.or(Some(now));
        }
    }

    /// How the gateway is.
    #[must_use]
    pub fn feel(&self) -> Health {
        self.feel_at(Instant::now())
    }

    fn feel_at(&self, at: Instant) -> Health {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let in_time = seen.queued.is_none_or(|since| at.saturating_duration_since(since) <= QUEUED_MAX);
        let healthy = seen.serving && seen.adopted.is_some() && in_time;
        let now = Timestamp::now();
        Health { healthy, updated: if healthy { Some(now) } else { seen.adopted }, now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_h6_healthy_is_who_adopts_in_time() {
        let pulse = Pulse::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(!pulse.feel_at(start).healthy, "nothing was ever adopted");
        assert_eq!(pulse.feel_at(start).updated, None);
        pulse.see(true, false, at(0));
        assert!(!pulse.feel_at(at(1)).healthy, "still nothing");
        pulse.see(true, true, at(1));
        assert!(pulse.feel_at(at(1)).healthy);
        pulse.see(true, false, at(2));
        pulse.see(true, false, at(11));
        assert!(pulse.feel_at(at(12)).healthy, "ten seconds are allowed");
        assert!(!pulse.feel_at(at(13)).healthy);
        let health = pulse.feel_at(at(13));
        assert!(health.updated.is_some_and(|updated| updated <= health.now));
        pulse.see(true, true, at(14));
        assert!(pulse.feel_at(at(14)).healthy);
        pulse.see(false, true, at(15));
        assert!(!pulse.feel_at(at(15)).healthy, "no dataplane");
    }
}
