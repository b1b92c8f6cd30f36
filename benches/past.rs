//! Past results that are kept in the tree, and what has changed since.
//!
//! They lie in folders that are called after their date and the kind of host. Figures are compared as ratios to the floor, each of which was
//! measured beside it, so that a result of another day on the same kind of host means the same. A change counts when the medians are further
//! apart than half of the figures of either run are among themselves.

use crate::statistics::Summary;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// The name of a result in its folder.
pub const FILE: &str = "result.json";

/// A past result, as far as it is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The name of its folder.
    pub name: String,
    scenarios: Vec<PastScenario>,
}

#[derive(Deserialize)]
struct File {
    scenarios: Vec<PastScenario>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct PastScenario {
    name: String,
    ratio_to_floor_min: Option<f64>,
    ratio_to_floor_median: Option<f64>,
    ratio_to_floor_quartiles: Option<[f64; 2]>,
}

/// What has changed since.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The past result.
    pub since: String,
    /// Its median of the ratios to the floor.
    pub ratio_to_floor_median: f64,
    /// By how much more that is now, in percent; negative: less.
    pub percent: f64,
    /// From which change on it counts, in percent.
    pub noise_percent: f64,
    /// What that means.
    pub verdict: Verdict,
}

/// Whether a change counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It costs less.
    Faster,
    /// The difference is noise.
    Same,
    /// It costs more.
    Slower,
}

impl Past {
    /// The latest result of this kind of host in a folder of results; none if there is none.
    pub fn latest(folder: &Path, kind: &str) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // A date has ten characters.
            if name.get(10..).and_then(|rest| rest.strip_prefix('-')) == Some(kind) {
                names.push(name);
            }
        }
        let Some(name) = names.into_iter().max() else { return Ok(None) };
        let file = folder.join(&name).join(FILE);
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let File { scenarios } =
            serde_json::from_str(&text).with_context(|| format!("{} is no result", file.display()))?;
        Ok(Some(Self { name, scenarios }))
    }

    /// How a scenario has changed since; none if it was not measured then.
    #[must_use]
    pub fn change(&self, scenario: &str, now: Summary) -> Option<Change> {
        let past = self.scenarios.iter().find(|past| past.name == scenario)?;
        let then = Summary {
            min: past.ratio_to_floor_min?,
            median: past.ratio_to_floor_median?,
            quartiles: past.ratio_to_floor_quartiles?,
        };
        let percent = |difference: f64| difference / then.median * 100.0;
        let (percent, noise_percent) =
            (percent(now.median - then.median), percent(now.spread().max(then.spread())));
        let verdict = match percent {
            p if p.abs() <= noise_percent => Verdict::Same,
            p if p < 0.0 => Verdict::Faster,
            _ => Verdict::Slower,
        };
        let ratio_to_floor_median = then.median;
        Some(Change { since: self.name.clone(), ratio_to_floor_median, percent, noise_percent, verdict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(median: f64) -> String {
        let quartiles = [median - 0.1, median + 0.1];
        serde_json::json!({ "host": {}, "scenarios": [
            { "name": "a", "ratio_to_floor_min": 1.0, "ratio_to_floor_median": median, "ratio_to_floor_quartiles": quartiles },
            { "name": "old", "ratio_to_floor_min": 1.0, "ratio_to_floor_median": median },
        ] })
        .to_string()
    }

    #[test]
    fn the_latest_result_of_the_same_kind_of_host_counts() {
        let folder = std::env::temp_dir().join(format!("turnpike-past-{}", std::process::id()));
        for (name, median) in [
            ("2026-11-20-amd-4", 9.0),
            ("2026-11-23-amd-4", 2.0),
            ("2026-11-24-intel-amd-4", 9.0),
            ("2026-11-25-amd-44", 9.0),
        ] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join(FILE), result(median)).unwrap();
        }
        let past = Past::latest(&folder, "amd-4").unwrap().unwrap();
        assert_eq!(
            (past.name.as_str(), past.scenarios[0].ratio_to_floor_median),
            ("2026-11-23-amd-4", Some(2.0))
        );
        assert_eq!(Past::latest(&folder, "arm-4").unwrap(), None);
        assert_eq!(Past::latest(&folder.join("none"), "amd-4").unwrap(), None);
        fs::write(folder.join("2026-11-23-amd-4").join(FILE), "{}").unwrap();
        let broken = Past::latest(&folder, "amd-4").unwrap_err().to_string();
        assert!(broken.contains("2026-11-23-amd-4"), "{broken}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_change_counts_when_it_is_more_than_noise() {
        let File { scenarios } = serde_json::from_str(&result(2.0)).unwrap();
        let past = Past { name: "then".into(), scenarios };
        let now = |median, spread: f64| Summary {
            min: 1.0,
            median,
            quartiles: [median - spread / 2.0, median + spread / 2.0],
        };
        let verdict = |now| past.change("a", now).unwrap().verdict;
        assert_eq!(verdict(now(2.19, 0.1)), Verdict::Same);
        assert_eq!(verdict(now(2.21, 0.1)), Verdict::Slower);
        assert_eq!(verdict(now(1.79, 0.1)), Verdict::Faster);
        assert_eq!(verdict(now(2.5, 0.6)), Verdict::Same, "a noisy run says little");
        let change = past.change("a", now(2.5, 0.1)).unwrap();
        assert!(
            (change.percent - 25.0).abs() < 1e-9 && (change.noise_percent - 10.0).abs() < 1e-9,
            "{change:?}"
        );
        assert_eq!(past.change("old", now(2.0, 0.1)), None, "it said nothing of its noise");
        assert_eq!(past.change("b", now(2.0, 0.1)), None);
    }
}
