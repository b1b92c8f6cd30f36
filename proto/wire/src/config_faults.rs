//! `dataplane.faults`: a bad network between the NICs and the workers, for tests of what is around the gateway.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// `[dataplane.faults]`. Rates are out of a thousand frames, in each direction of each queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// What the faults are drawn from: the same seed and the same frames at the same times have the same faults.
    pub seed: u64,
    /// Frames that are lost.
    #[serde(deserialize_with = "out_of_a_thousand")]
    pub loss: u32,
    /// Frames that come twice.
    #[serde(deserialize_with = "out_of_a_thousand")]
    pub duplicate: u32,
    /// Frames that come after others that were behind them.
    #[serde(deserialize_with = "out_of_a_thousand")]
    pub reorder: u32,
    /// How long each frame is under way, in milliseconds.
    #[serde(deserialize_with = "up_to_a_second")]
    pub delay_ms: u32,
}

fn out_of_a_thousand<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    match u32::deserialize(input)? {
        rate @ 0..=1_000 => Ok(rate),
        rate => Err(D::Error::custom(format!("{rate} is no rate out of a thousand: write 0 to 1000"))),
    }
}

fn up_to_a_second<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    match u32::deserialize(input)? {
        delay @ 0..=1_000 => Ok(delay),
        delay => {
            Err(D::Error::custom(format!("{delay} ms is longer than frames can be kept: write 0 to 1000")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn read(faults: &str) -> Result<Option<Faults>, String> {
        let text = format!("[dataplane.faults]\n{faults}\n");
        Config::parse(&text, Path::new("t")).map(|c| c.dataplane.faults).map_err(|e| e.to_string())
    }

    #[test]
    fn rates_are_out_of_a_thousand() {
        let some = Faults { seed: 7, loss: 10, duplicate: 1_000, delay_ms: 3, ..Faults::default() };
        assert_eq!(read("seed = 7\nloss = 10\nduplicate = 1000\ndelay_ms = 3"), Ok(Some(some)));
        assert_eq!(Config::default().dataplane.faults, None, "nobody has faults who does not ask for them");
        let rows = [
            ("loss = 1001", "1001 is no rate out of a thousand: write 0 to 1000"),
            ("delay_ms = 5000", "5000 ms is longer"),
            ("los = 3", "unknown field"),
        ];
        for (text, why) in rows {
            let message = read(text).expect_err(text);
            assert!(message.contains(why), "{message}");
        }
    }
}
