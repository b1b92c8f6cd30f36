//! How long changes take: from received of etcd to adopted by every worker.

use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upper bounds of the buckets, in seconds: 100 µs to 10 s, three a decade.
const BUCKETS: [f64; 16] =
    [0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// See the module.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(BUCKETS))
    }
}

impl Latency {
    /// A change was adopted this long after it was received.
    pub fn adopted_after(&self, elapsed: Duration) {
        self.0.observe(elapsed.as_secs_f64());
    }

    /// The histogram, in seconds.
    #[must_use]
    pub const fn histogram(&self) -> &Histogram {
        &self.0
    }
}
