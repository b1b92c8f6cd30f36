//! HTTP requests that are counted: how many, how many failed and why, who answered.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What to ask, and how.
#[derive(Clone, Debug)]
pub struct Load {
    /// The address asked.
    pub url: String,
    /// How many requests; none: as many as fit into `limit`.
    pub requests: Option<u64>,
    /// When to stop; none: after `requests`.
    pub limit: Option<Duration>,
    /// Many requests on a connection, or one each.
    pub keep_alive: bool,
    /// How many ask at the same time.
    pub clients: usize,
    /// Most requests a second, of all clients together; none: as many as they can. A port of the client rests for a minute after a
    /// connection, so a client of one address cannot open many more than 500 connections a second for long.
    pub rate: Option<u32>,
    /// Longest time a request may take.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests made.
    pub requests: u64,
    /// Requests without a good answer.
    pub failures: u64,
    /// The failures by what was said.
    pub reasons: BTreeMap<String, u64>,
    /// Good answers by their first line.
    pub answers: BTreeMap<String, u64>,
    /// The longest time between the start of a request and its good answer, in milliseconds.
    pub slowest_ms: u64,
}

impl Outcome {
    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        for (reason, n) in other.reasons {
            *self.reasons.entry(reason).or_default() += n;
        }
        for (answer, n) in other.answers {
            *self.answers.entry(answer).or_default() += n;
        }
    }
}

/// Makes the requests, from as many threads as there are clients.
#[must_use]
pub fn run(load: &Load) -> Outcome {
    let taken = AtomicU64::new(0);
    let start = Instant::now();
    let end = load.limit.map(|limit| start + limit);
    let go_on = || {
        let number = taken.fetch_add(1, Ordering::Relaxed);
        if let Some(rate) = load.rate {
            let due = start + Duration::from_secs_f64(number as f64 / f64::from(rate.max(1)));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        load.requests.is_none_or(|n| number < n) && end.is_none_or(|end| Instant::now() < end)
    };
    let mut total = Outcome::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients).map(|_| scope.spawn(|| client(load, go_on))).collect();
        for client in clients {
            match client.join() {
                Ok(outcome) => total.add(outcome),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    total
}

fn client(load: &Load, go_on: impl Fn() -> bool) -> Outcome {
    let idle = if load.keep_alive { 1 } else { 0 };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(load.timeout))
        .max_idle_connections(idle)
        .max_idle_connections_per_host(idle)
        .proxy(None)
        .build()
        .into();
    let mut outcome = Outcome::default();
    while go_on() {
        outcome.requests += 1;
        let start = Instant::now();
        match agent.get(&load.url).call().and_then(|mut response| response.body_mut().read_to_string()) {
            Ok(body) => {
                let line = body.lines().next().unwrap_or_default().to_owned();
                *outcome.answers.entry(line).or_default() += 1;
                outcome.slowest_ms = outcome.slowest_ms.max(start.elapsed().as_millis() as u64);
            }
            Err(error) => {
                outcome.failures += 1;
                *outcome.reasons.entry(error.to_string()).or_default() += 1;
            }
        }
    }
    outcome
}
