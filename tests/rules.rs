//! RULES.md against the tree: every rule has a test that carries its name, and the table names exactly the tests there are.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use turnpike_tests::bed::workspace;

/// The rules that must be tested, by the letter of their section and the numbers in it.
const RULES: &[(char, &[&str])] = &[
    ('s', &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13"]),
    ('e', &["1", "2", "3", "4", "5", "6", "7", "7b", "8"]),
    ('n', &["1", "2", "3", "4", "5"]),
    ('a', &["1", "2", "3", "4", "5", "6"]),
    ('f', &["1", "2", "3", "4"]),
    ('p', &["1", "2", "3", "4"]),
    ('l', &["1", "2", "3"]),
    ('h', &["1", "2", "3", "4", "5", "6", "7"]),
    ('u', &["1", "2", "3", "4", "5"]),
    ('c', &["1", "2", "4", "5", "6", "7", "8"]),
    ('d', &["1"]),
];

/// The rule a test is named after: `rule_e7b_hosts_that_are_no_nodes` is of `E7b`.
fn rule_of(test: &str) -> Option<String> {
    let rule = test.strip_prefix("rule_")?.split('_').next()?;
    let (letter, number) = rule.split_at_checked(1)?;
    number.starts_with(|c: char| c.is_ascii_digit()).then(|| format!("{}{number}", letter.to_uppercase()))
}

/// Every test named after a rule, by the rule.
fn tests_in_the_tree() -> BTreeMap<String, BTreeSet<String>> {
    fn walk(folder: &Path, found: &mut BTreeMap<String, BTreeSet<String>>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                for (number, line) in lines.iter().enumerate() {
                    let line = line.strip_prefix("async ").unwrap_or(line);
                    let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
                    let Some((rule, name)) = name.and_then(|name| Some((rule_of(name)?, name))) else {
                        continue;
                    };
                    let attributes = lines[..number].iter().rev().take(12).take_while(|l| **l != "}");
                    let is_test = path.to_string_lossy().contains("proptest")
                        || attributes
                            .into_iter()
                            .any(|l| l.starts_with("#[test]") || l.starts_with("#[tokio::test"));
                    assert!(is_test, "{}: {name} has the name of a test and is none", path.display());
                    found.entry(rule).or_default().insert(name.to_owned());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    for folder in ["proto", "dataplane", "controlplane", "tests"] {
        walk(&workspace().join(folder), &mut found);
    }
    found
}

/// The rows of RULES.md: a rule in the first column, its tests in the last, each between backticks.
fn tests_in_the_table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(workspace().join("RULES.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for cells in rows.map(|row| row.split(" | ").collect::<Vec<_>>()) {
        let (Some(rule), Some(last)) = (cells.first(), cells.last()) else { continue };
        let tests = last.split('`').skip(1).step_by(2).filter(|name| rule_of(name).is_some());
        let tests: BTreeSet<String> = tests.map(str::to_owned).collect();
        if !tests.is_empty() {
            table.entry((*rule).to_owned()).or_default().extend(tests);
        }
    }
    table
}

#[test]
fn every_rule_has_a_test_of_its_name() {
    let tests = tests_in_the_tree();
    let rules = RULES.iter().flat_map(|(letter, numbers)| {
        numbers.iter().map(move |number| format!("{}{number}", letter.to_ascii_uppercase()))
    });
    let untested: Vec<String> = rules.filter(|rule| !tests.contains_key(rule)).collect();
    assert!(untested.is_empty(), "no test is named after {untested:?}");
}

#[test]
fn the_table_names_the_tests_there_are() {
    let (tree, table) = (tests_in_the_tree(), tests_in_the_table());
    for rule in tree.keys().chain(table.keys()) {
        assert_eq!(table.get(rule), tree.get(rule), "RULES.md (left) and the tree (right) differ on {rule}");
    }
}
