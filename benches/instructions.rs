//! Instructions a packet of the established path, counted by valgrind's callgrind: the one figure that other work on the machine cannot move.
//!
//! `forwarding` is run under callgrind for a number of packets, with a clock that goes on with them, and only [`crate::bed::timed_turns`] is
//! counted: worker, driver and ring, nothing of the generator. Each run of one program counts alike. What it may be is in the tree.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What is counted.
pub const SCENARIOS: &[&str] = &["established/1k", "established/1k/ipv6"];
/// Packets of each: enough that every flow comes some hundred times.
const PACKETS: u64 = 1 << 18;
/// How much more it may be than what is in the tree, in percent.
pub const MORE_MAX_PERCENT: f64 = 3.0;

/// Instructions a packet, by scenario.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts(BTreeMap<String, f64>);

impl Counts {
    /// Counts all scenarios with this `forwarding`.
    pub fn take(forwarding: &Path) -> Result<Self> {
        let count = |&scenario: &&str| Ok((scenario.to_owned(), count(forwarding, scenario)?));
        SCENARIOS.iter().map(count).collect::<Result<_>>().map(Self)
    }

    /// Those of a file of the tree.
    pub fn read(text: &str) -> Result<Self> {
        let counts: Map<String, Value> = serde_json::from_str(text)?;
        let counts = counts.into_iter().map(|(scenario, count)| {
            let count = count.as_f64().filter(|count| *count > 0.0);
            Ok((scenario, count.context("a count is no number of instructions")?))
        });
        counts.collect::<Result<_>>().map(Self)
    }

    /// The text of such a file.
    #[must_use]
    pub fn text(&self) -> String {
        let lines: Vec<String> =
            self.0.iter().map(|(scenario, count)| format!("  \"{scenario}\": {count:.1}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// What is to be said of each scenario beside what the tree says, and whether none is too much.
    #[must_use]
    pub fn against(&self, tree: &Self) -> (Vec<String>, bool) {
        let mut all_hold = tree.0.keys().all(|scenario| self.0.contains_key(scenario));
        let mut lines = Vec::new();
        for (scenario, count) in &self.0 {
            let Some(wanted) = tree.0.get(scenario) else {
                all_hold = false;
                lines.push(format!(
                    "{scenario}: {count:.1} instructions a packet, of which the tree says nothing"
                ));
                continue;
            };
            let percent = (count / wanted - 1.0) * 100.0;
            let holds = percent <= MORE_MAX_PERCENT;
            all_hold &= holds;
            let verdict = match holds {
                false => format!(": more than {MORE_MAX_PERCENT} % too many"),
                true if percent < -MORE_MAX_PERCENT => ": better; write it down with --write".into(),
                true => String::new(),
            };
            lines.push(format!("{scenario}: {count:.1} instructions a packet, {wanted:.1} in the tree, {percent:+.2} %{verdict}"));
        }
        (lines, all_hold)
    }
}

/// Instructions a packet of one scenario.
fn count(forwarding: &Path, scenario: &str) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*timed_turns*"])
        .arg(forwarding)
        .args(["--no-floor", "--wall", "--ordinary-pages", "--runs", "1"])
        .args(["--run-packets", &PACKETS.to_string(), "--only", scenario])
        .output()
        .context("cannot start valgrind; install the package valgrind")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let last: Vec<&str> = errors.lines().rev().take(5).collect();
        bail!("{scenario} under valgrind ended with {}: {}", output.status, last.join(" / "));
    }
    let instructions = collected(&errors).context("callgrind did not say what it collected")?;
    ensure!(instructions > 0, "nothing was counted: timed_turns is not in {}", forwarding.display());
    Ok(instructions as f64 / PACKETS as f64)
}

/// The sum that callgrind tells at its end.
fn collected(errors: &str) -> Option<u64> {
    let line = errors.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::chosen;

    fn counts(pairs: &[(&str, f64)]) -> Counts {
        Counts(pairs.iter().map(|&(scenario, count)| (scenario.to_owned(), count)).collect())
    }

    #[test]
    fn what_is_counted_is_there_and_in_the_tree() {
        let names: Vec<String> = SCENARIOS.iter().map(|&s| s.to_owned()).collect();
        assert_eq!(chosen(&names, &[]).unwrap().len(), names.len());
        let tree = Counts::read(include_str!("instructions.json")).unwrap();
        assert_eq!(tree.0.keys().map(String::as_str).collect::<Vec<_>>(), SCENARIOS);
    }

    #[test]
    fn three_percent_more_is_too_much() {
        let tree = counts(&[("a", 100.0), ("b", 200.0)]);
        let (lines, holds) = counts(&[("a", 102.9), ("b", 190.0)]).against(&tree);
        assert!(holds && !lines[0].contains("too many") && lines[1].contains("-5.00 %: better"), "{lines:?}");
        let (lines, holds) = counts(&[("a", 103.1), ("b", 200.0)]).against(&tree);
        assert!(!holds && lines[0].contains("+3.10 %: more than 3 % too many"), "{lines:?}");
        assert!(!counts(&[("a", 100.0)]).against(&tree).1, "b was not counted");
        assert!(
            !counts(&[("a", 1.0), ("b", 1.0), ("c", 1.0)]).against(&tree).1,
            "nobody knows what c may be"
        );
    }

    #[test]
    fn files_are_read_as_they_are_written() {
        let tree = counts(&[("a", 100.5), ("b", 200.0)]);
        assert_eq!(Counts::read(&tree.text()).unwrap(), tree);
        for broken in ["", "[]", "{\"a\": 0}", "{\"a\": \"x\"}"] {
            assert!(Counts::read(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_sum_of_callgrind_is_found() {
        let errors = "==7== Events    : Ir\n==7== Collected : 921880486\n==7== \n";
        assert_eq!(collected(errors), Some(921_880_486));
        assert_eq!(collected("==7== Collected : many"), None);
        assert_eq!(collected(""), None);
    }
}
