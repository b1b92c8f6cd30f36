//! Whether a thread had its core for itself: a worker in production has, and what else goes on in a machine is not what is measured.

use std::fs;

/// What would have grown if somebody else had run on the calling thread's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// How often another thread was given the core.
    switches: Option<u64>,
    /// Time for which the hypervisor ran others on it, in ticks.
    stolen: Option<u64>,
}

impl Quiet {
    /// Looks at the calling thread, which is pinned to this core.
    #[must_use]
    pub fn look(core: u16) -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self { switches: switches(&status), stolen: stolen(&stat, core) }
    }
}

fn switches(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

/// The eighth figure of a core.
fn stolen(stat: &str, core: u16) -> Option<u64> {
    let name = format!("cpu{core}");
    let mut words = stat.lines().map(str::split_whitespace).find_map(|mut words| {
        let is_it = words.next() == Some(name.as_str());
        is_it.then_some(words)
    })?;
    words.nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_and_stolen_time_are_found() {
        assert_eq!(switches("voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t12\n"), Some(12));
        assert_eq!(switches(""), None);
        let stat = "cpu  1 2 3 4 5 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 30 0 0\ncpu1 1 2 3 4 5 6 7 50 0 0\n";
        assert_eq!((stolen(stat, 1), stolen(stat, 0), stolen(stat, 2)), (Some(50), Some(30), None));
    }

    #[test]
    fn this_host_tells_both() {
        let quiet = Quiet::look(capsule::available_cores()[0]);
        assert!(quiet.switches.is_some() && quiet.stolen.is_some(), "{quiet:?}");
    }
}
