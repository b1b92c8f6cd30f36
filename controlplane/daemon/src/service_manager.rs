//! What systemd is told where it runs this program as a service (`sd_notify`): that requests are answered, that the program still turns,
//! and that the end has begun. Elsewhere nobody is told.

use sd_notify::NotifyState;
use std::time::Duration;
use tracing::debug;

/// Says that requests are answered and the dataplane is looked for.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Says that the end has begun.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Says as often as is wanted that this task still gets its turn, while `works` is true. Ends when it is false, else never.
pub async fn keep_alive(works: impl Fn() -> bool) {
    let limit = sd_notify::watchdog_enabled();
    while works() {
        if limit.is_some() {
            tell(NotifyState::Watchdog);
        }
        // Within a limit there is time for two words that come late.
        tokio::time::sleep(limit.map_or(UNWATCHED, |limit| limit / 3)).await;
    }
}

/// How often `works` is asked where nobody wants to hear of it.
const UNWATCHED: Duration = Duration::from_secs(1);

/// Who does not listen misses something; that is no reason to stop.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        debug!("the service manager cannot be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn it_ends_when_the_work_does() {
        let turns = Cell::new(0);
        keep_alive(|| turns.replace(turns.get() + 1) == 0).await;
        assert_eq!(turns.get(), 2);
    }
}
