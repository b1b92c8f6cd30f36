use super::*;
use std::collections::BTreeSet;
use turnpike_wire::config::Config;
use turnpike_wire::pages::{WORKER_COUNTERS, WORKER_TALLIES};

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
