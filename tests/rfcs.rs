//! The requirements of the RFCs on NAT that apply to a load balancer, against the tree: each has a test that carries its number, such as
//! `rfc4787_req5_udp_mapping_survives_119_s`. A name may carry several: `rfc4787_req9_rfc5382_req8_…`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use turnpike_tests::bed::workspace;

/// The requirements by RFC. Left out are those on sessions that leave through a NAT, on its mappings by endpoint and on pools of addresses for
/// subscribers: nothing here is between hosts and the world they call.
const REQUIREMENTS: &[(u16, &[&str])] = &[
    (4787, &["req3", "req4", "req5", "req6", "req8", "req9", "req10", "req11", "req12", "req13", "req14"]),
    (5382, &["req2", "req3", "req4", "req5", "req6", "req7", "req8", "req9", "req10"]),
    (5508, &["req2", "req3", "req4", "req5", "req6", "req7", "req8", "req9", "req10", "req11"]),
    (5961, &["3", "4", "5"]),
    (6056, &[]),
    (6888, &["req4", "req5", "req8", "req11", "req15"]),
    (7857, &["2", "6"]),
    (1624, &[]),
    (768, &[]),
    (6691, &[]),
    (7323, &[]),
    (9260, &["5", "8"]),
    (8200, &["8"]),
];

/// RFC and requirement or section of a test's name, as many as it carries: `rfc5382_req3_rfc4787_req8_only…` → (5382, req3), (4787, req8).
fn carried(name: &str) -> Vec<(u16, String)> {
    let numbered = name.split("rfc").skip(1).filter_map(|part| {
        let mut words = part.split('_');
        let rfc = words.next()?.parse().ok()?;
        Some((rfc, words))
    });
    let all = numbered.flat_map(|(rfc, words)| {
        let named = |word: &&str| word.strip_prefix("req").unwrap_or(word).parse::<u16>().is_ok();
        let mut words: Vec<(u16, String)> =
            words.take_while(named).map(|word| (rfc, word.to_owned())).collect();
        words.push((rfc, String::new()));
        words
    });
    all.collect()
}

/// Everything that the names of tests carry.
fn tested(folder: &Path, found: &mut BTreeSet<(u16, String)>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            tested(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = text.contains("proptest! {");
            for line in text.lines().map(str::trim) {
                if let Some(name) = line.strip_prefix("fn rfc").and_then(|rest| rest.split('(').next()) {
                    assert!(is_test, "{}: rfc{name} has the name of a test and is none", path.display());
                    found.extend(carried(&format!("rfc{name}")));
                }
                is_test =
                    line == "#[test]" || is_test && line.starts_with("#[") || text.contains("proptest! {");
            }
        }
    }
}

#[test]
fn every_requirement_has_a_test_of_its_number() {
    let mut found = BTreeSet::new();
    for folder in ["proto", "dataplane", "controlplane", "tests"] {
        tested(&workspace().join(folder), &mut found);
    }
    let wanted = REQUIREMENTS.iter().flat_map(|(rfc, requirements)| {
        requirements.iter().chain(&[""]).map(|requirement| (*rfc, (*requirement).to_owned()))
    });
    let untested: Vec<_> = wanted.filter(|wanted| !found.contains(wanted)).collect();
    assert!(untested.is_empty(), "no test is named after {untested:?}");
}

#[test]
fn names_carry_what_they_say() {
    let rows: [(&str, &[(u16, &str)]); 3] = [
        ("rfc4787_req5_udp_mapping_survives_119_s", &[(4787, "req5"), (4787, "")]),
        ("rfc5382_req3_rfc4787_req8_only", &[(5382, "req3"), (5382, ""), (4787, "req8"), (4787, "")]),
        ("rfc7857_2_2_a_reset", &[(7857, "2"), (7857, "2"), (7857, "")]),
    ];
    for (name, wanted) in rows {
        let wanted: Vec<_> = wanted.iter().map(|(rfc, what)| (*rfc, (*what).to_owned())).collect();
        assert_eq!(carried(name), wanted);
    }
}
