use super::*;
use std::collections::BTreeSet;
use turnpike_wire::config::Config;
use turnpike_wire::pages::{PORT_COUNTERS, WORKER_COUNTERS, WORKER_TALLIES};

fn text(state: &Arc<State>) -> String {
    let mut text = String::new();
    encode(&mut text, &registry(state)).unwrap();
    text
}

#[tokio::test]
async fn every_line_belongs_to_a_family_that_is_told_once() {
    let state = Arc::new(State::new(Config::default()));
    state.etcd(|etcd| (etcd.state, etcd.reconnects) = ("connected".into(), 3));
    state.latency.adopted_after(std::time::Duration::from_millis(3));
    let text = text(&state);
    let mut families = BTreeSet::new();
    let mut samples = BTreeSet::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(rest.split(' ').next().unwrap().to_owned()), "{line} comes twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(name.to_owned()), "{line} comes twice");
            let base = name.split('{').next().unwrap();
            let endings = ["", "_total", "_bucket", "_sum", "_count"];
            let family = endings.iter().find_map(|ending| families.get(base.strip_suffix(ending)?));
            assert!(family.is_some_and(|family| family.starts_with("turnpike_")), "{line} is of no family");
        }
    }
    for expected in ["turnpike_etcd_connected", "turnpike_etcd_view_held_back", "turnpike_dataplane_serving"]
    {
        assert!(samples.contains(expected), "{expected} is missing:\n{text}");
    }
    for line in ["turnpike_etcd_connected 1", "turnpike_etcd_reconnects_total 3"] {
        assert!(text.lines().any(|l| l == line), "{line} is missing:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(text.contains("turnpike_adoption_latency_seconds_bucket{le=\"0.005\"} 1"), "{text}");
}

#[test]
fn only_metrics_are_told_at_metrics() {
    let registry = Registry::default();
    assert_eq!(answer(&registry, "/metrics").status(), StatusCode::OK);
    assert_eq!(answer(&registry, "/").status(), StatusCode::NOT_FOUND);
}

#[test]
fn every_tally_is_somewhere() {
    let own = collector::TALLIES.iter().map(|(tally, ..)| *tally);
    let unknown: Vec<_> =
        own.filter(|tally| !WORKER_TALLIES.contains(tally) && !WORKER_COUNTERS.contains(tally)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// What is installed beside the programs: alert rules, their test, and the dashboard.
const PACKAGED: [&str; 3] = [
    include_str!("../../../../scripts/package/prometheus/alerts.yml"),
    include_str!("../../../../scripts/package/prometheus/alerts_test.yml"),
    include_str!("../../../../scripts/package/prometheus/dashboard.json"),
];

/// Every word of `text` that begins with `prefix`, without what cannot be part of a name.
fn names<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(prefix).map(move |(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// The values that are asked of a label: what stands between the quotes behind it, alternatives one by one.
fn values(text: &str, label: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Quotes within JSON have a backslash before them.
    let text = text.replace("\\\"", "\"");
    for operator in ["=\"", "=~\"", "!=\"", "!~\""] {
        for (at, matched) in text.match_indices(&format!("{label}{operator}")) {
            let rest = &text[at + matched.len()..];
            found.extend(rest.split('"').next().unwrap_or_default().split('|').map(str::to_owned));
        }
    }
    found
}

#[test]
fn alerts_and_dashboard_name_nothing_that_is_not_told() {
    let told = text(&Arc::new(State::new(Config::default())));
    let mut samples = BTreeSet::new();
    for line in told.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (family, kind) = line.split_once(' ').unwrap();
        let endings: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        samples.extend(endings.iter().map(|ending| format!("{family}{ending}")));
    }
    let verdicts = include_str!("../../../../dataplane/forward/src/verdict.rs");
    let verdicts = verdicts.lines().filter_map(|line| line.trim().strip_suffix("\",")?.split_once(" = \""));
    let verdicts: BTreeSet<_> = verdicts.map(|(_, name)| name.to_owned()).collect();
    assert!(verdicts.len() > 30, "the table of verdicts was not found");
    let own: BTreeSet<_> = collector::TALLIES.iter().map(|(tally, ..)| *tally).collect();
    let events: BTreeSet<_> =
        WORKER_TALLIES.iter().filter(|tally| !own.contains(*tally)).map(|&tally| tally.to_owned()).collect();
    let counters: BTreeSet<_> =
        PORT_COUNTERS.iter().filter(|name| **name != "link_up").map(|&name| name.to_owned()).collect();
    let percents = ["70", "90"].map(str::to_owned).into();

    let mut used = 0;
    for packaged in PACKAGED {
        // The name of a dashboard or a group is none of a metric.
        for name in names(packaged, "turnpike_") {
            used += 1;
            assert!(samples.contains(name), "there is no metric {name}; there are {samples:?}");
        }
        for (label, known) in
            [("verdict", &verdicts), ("event", &events), ("counter", &counters), ("percent", &percents)]
        {
            for value in values(packaged, label) {
                used += 1;
                assert!(known.contains(&value), "no {label} is called {value:?}; there are {known:?}");
            }
        }
    }
    assert!(used > 100, "only {used} names were found: the files are read wrongly");
}

#[test]
fn the_dashboard_shows_every_metric() {
    let told = text(&Arc::new(State::new(Config::default())));
    let families = told.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    // Shown as state or capacity by others beside them, and of use to who looks for one thing.
    let apart = [
        "turnpike_etcd_revision",
        "turnpike_etcd_last_heard_seconds",
        "turnpike_published_revision",
        "turnpike_adopted_revision",
        "turnpike_snat_backends_filling",
        "turnpike_worker_adopted_generation",
    ];
    for family in families.filter(|family| !apart.contains(family)) {
        assert!(PACKAGED[2].contains(family), "the dashboard lacks {family}");
    }
}
