//! What systemd is told where it runs this program as a service (`sd_notify`): that frames are forwarded, that the control thread still
//! turns, and that the end has begun. Elsewhere nobody is told.

use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// From ready to the end.
pub(crate) struct ServiceManager {
    /// How often it wants to hear that the control thread turns, if it does.
    period: Option<Duration>,
    told: Option<Instant>,
}

impl ServiceManager {
    /// Says that frames are forwarded.
    pub(crate) fn ready() -> Self {
        tell(NotifyState::Ready);
        Self { period: sd_notify::watchdog_enabled().map(often_enough), told: None }
    }

    /// The control thread has turned once more.
    pub(crate) fn turned(&mut self, now: Instant) {
        let Some(period) = self.period else { return };
        if self.told.is_none_or(|told| now.duration_since(told) >= period) {
            self.told = Some(now);
            tell(NotifyState::Watchdog);
        }
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        tell(NotifyState::Stopping);
    }
}

/// Within a limit there is time for two words that come late.
fn often_enough(limit: Duration) -> Duration {
    limit / 3
}

/// Who does not listen misses something; that is no reason to stop.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_frequent_as_wanted_and_no_more() {
        let start = Instant::now();
        let mut manager = ServiceManager { period: Some(often_enough(Duration::from_secs(9))), told: None };
        for (after_s, told_s) in [(0, 0), (1, 0), (3, 3), (5, 3), (60, 60)] {
            manager.turned(start + Duration::from_secs(after_s));
            assert_eq!(manager.told, Some(start + Duration::from_secs(told_s)), "after {after_s} s");
        }
        let mut nobody = ServiceManager { period: None, told: None };
        nobody.turned(start);
        assert_eq!(nobody.told, None);
    }
}
