//! Metrics as a Prometheus meets them: over HTTP, of the real control plane, with the counter pages of a dataplane.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::dataplane::Dataplane;
use bed::{ControlPlane, PATIENCE, wait};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use turnpike_shm::{CounterFile, KIND_PORT, KIND_WORKER, PageSpec};
use turnpike_wire::pages::{PORT_COUNTERS, PortLabel, WORKER_COUNTERS, WORKER_TALLIES};

/// Fates of packets, one of which no program knows yet.
const VERDICTS: [&str; 3] = ["forwarded", "flow_table_full", "a_fate_of_tomorrow"];

fn get(address: SocketAddr) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Some((head.to_lowercase(), body.to_owned()))
}

/// Reads the text by the rules of OpenMetrics; every sample with its labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let is_name = |name: &str| {
        name.starts_with("turnpike_")
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut described, mut samples) = (BTreeSet::new(), BTreeMap::new());
    let mut current = "";
    let body = text.strip_suffix("# EOF\n").expect("the end is told");
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && described.insert(name), "{line}");
        } else if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(is_name(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name, kind).is_none(), "{name} comes twice");
            current = name;
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let endings: &[&str] = match families[current] {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(
                endings.iter().any(|ending| name.strip_suffix(ending) == Some(current)),
                "{line} under {current}"
            );
            assert!(
                samples.insert(series.to_owned(), value.parse().unwrap()).is_none(),
                "{line} comes twice"
            );
        }
    }
    let without: Vec<_> = families.keys().filter(|name| !described.contains(*name)).collect();
    assert!(without.is_empty(), "no help for {without:?}");
    samples
}

fn pages(folder: &std::path::Path) {
    let names =
        VERDICTS.into_iter().chain(WORKER_TALLIES).chain(WORKER_COUNTERS).map(str::to_owned).collect();
    let worker = PageSpec { kind: KIND_WORKER, index: 0, label: "core 3".into(), names };
    let label = PortLabel {
        name: "wan".into(),
        device: "net_null0".into(),
        driver: "net_null".into(),
        mac: "02:00:00:00:00:01".into(),
        steering: "rss".into(),
        vlan: Some(100),
        node: None,
        offloads: "none".into(),
    };
    let names = PORT_COUNTERS.map(str::to_owned).to_vec();
    let port = PageSpec { kind: KIND_PORT, index: 0, label: label.to_string(), names };
    let mut pages = CounterFile::create(&folder.join("turnpike-test"), &[worker, port]).unwrap();
    for (page, count) in
        pages.iter_mut().zip([VERDICTS.len() + WORKER_TALLIES.len() + 3, PORT_COUNTERS.len()])
    {
        for at in 0..count {
            page.set(at, 100 + at as u64);
        }
    }
}

#[test]
fn everything_that_is_counted_is_told_once_and_by_its_name() {
    let address: SocketAddr = "127.0.81.1:9464".parse().unwrap();
    let more = format!(
        "{}\n[health]\nlisten = \"127.0.81.1:10256\"\n[metrics]\nlisten = \"{address}\"\n",
        bed::standalone("203.0.113.0/28")
    );
    let control_plane = ControlPlane::connected(&more);
    let mut dataplane = Dataplane::start(control_plane.folder());
    pages(control_plane.folder());
    control_plane.apply(vec![bed::service("web", "LoadBalancer"), bed::pod("web-1", "web", "10.1.0.7")]);
    wait("the endpoint in the dataplane", || {
        dataplane.turn();
        dataplane.backend_addresses().contains("10.1.0.7")
    });
    let mut text = String::new();
    wait("its adoption in the metrics", || {
        dataplane.turn();
        let Some((head, body)) = get(address) else { return false };
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        text = body;
        let all = samples(&text);
        all["turnpike_adopted_revision"] > 0.0
            && all["turnpike_adopted_revision"] == all["turnpike_etcd_revision"]
            && all["turnpike_adoption_latency_seconds_count"] >= 1.0
    });
    let all = samples(&text);
    let is = |series: &str, value: f64| assert_eq!(all.get(series), Some(&value), "{series} in\n{text}");
    is("turnpike_etcd_connected", 1.0);
    is("turnpike_etcd_view_held_back", 0.0);
    is("turnpike_etcd_relists_total", 0.0);
    is("turnpike_etcd_reconnects_total", 0.0);
    is("turnpike_dataplane_serving", 1.0);
    is("turnpike_snapshots_total", 1.0);
    is("turnpike_refused_transactions_total", 0.0);
    is("turnpike_objects{kind=\"Service\"}", 1.0);
    is("turnpike_backends", 1.0);
    assert!(all["turnpike_etcd_last_heard_seconds"] < 30.0);
    assert!(all["turnpike_frontends"] >= 2.0);
    assert!(all["turnpike_published_generation"] >= all["turnpike_adopted_generation"]);
    for (at, verdict) in VERDICTS.iter().enumerate() {
        is(&format!("turnpike_packets_total{{worker=\"0\",verdict=\"{verdict}\"}}"), 100.0 + at as f64);
    }
    // Every counter of a page is one series, but for the core, its node, and pages and node of the flow table, which are no counts.
    let of_worker = all.keys().filter(|series| series.contains("worker=\"0\"")).count();
    assert_eq!(of_worker, VERDICTS.len() + WORKER_TALLIES.len() + WORKER_COUNTERS.len() - 4, "{text}");
    let of_port = all.keys().filter(|series| series.contains("port=\"wan\"")).count();
    assert_eq!(of_port, PORT_COUNTERS.len(), "{text}");
}
