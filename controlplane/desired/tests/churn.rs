//! The life of a real cluster, event by event: what is resolved in steps is what is resolved from the truth at once.
//!
//! A kube-apiserver 1.36 and its controllers wrote the events while 54 things were done to the cluster; the API was asked for its state after
//! each. `../daemon/tests/fixtures/README.md` tells how the files are made.
#![forbid(unsafe_code)]
// Clippy's setting for tests does not reach the functions that serve them.
#![allow(clippy::unwrap_used)]

use base64::Engine;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use turnpike_desired::desired::Desired;
use turnpike_desired::diff::diff;
use turnpike_desired::k8s::{ObjectMeta, ServiceCidr, ServiceCidrSpec};
use turnpike_desired::object::Kind;
use turnpike_desired::registry::Registry;
use turnpike_desired::resolve::Resolver;
use turnpike_desired::settings::{LoadBalancerScope, Settings};
use turnpike_desired::tracker::{RegistryEvent, Tracker};
use turnpike_desired::{envelope, manifest};

fn fixture(path: &str) -> impl BufRead {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()))
}

fn json_lines(path: &str) -> impl Iterator<Item = Value> {
    fixture(path).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

/// A key with its value, and the revision it was written at; no value: deleted.
struct Line {
    key: String,
    value: Option<Vec<u8>>,
    revision: i64,
}

impl Line {
    fn event(&self) -> RegistryEvent<'_> {
        let value = self.value.as_deref();
        RegistryEvent { key: self.key.as_bytes(), value, mod_revision: self.revision }
    }
}

/// What was in etcd before.
fn base() -> Vec<Line> {
    let line = |json: Value| Line {
        key: json["key"].as_str().unwrap().to_owned(),
        value: Some(
            base64::engine::general_purpose::STANDARD.decode(json["value"].as_str().unwrap()).unwrap(),
        ),
        revision: json["mod_revision"].as_i64().unwrap(),
    };
    json_lines("tests/fixtures/registry.jsonl.gz").map(line).collect()
}

/// What happened then, in order.
fn events() -> Vec<Line> {
    let mut file = fixture("../daemon/tests/fixtures/watch.gz");
    let mut events = Vec::new();
    let mut head = String::new();
    while file.read_line(&mut head).unwrap() != 0 {
        let json: Value = serde_json::from_str(&head).unwrap();
        let value = json["bytes"].as_u64().map(|bytes| {
            let mut value = Vec::new();
            file.by_ref().take(bytes).read_to_end(&mut value).unwrap();
            assert_eq!(value.len() as u64, bytes);
            value
        });
        let key = json["key"].as_str().unwrap().to_owned();
        events.push(Line { key, value, revision: json["rev"].as_i64().unwrap() });
        head.clear();
    }
    events
}

/// A gateway that acts as node-a, and one that is no node.
fn settings() -> [Settings; 2] {
    let own = ["10.0.0.11", "fd00:10::11"].map(|text| text.parse().unwrap());
    let gateway = Settings {
        node_port_addresses: own.into(),
        own_addresses: own.into(),
        load_balancer_scope: LoadBalancerScope::Any,
        external_ips: true,
        ..Default::default()
    };
    [Settings { node_name: "node-a".into(), ..gateway.clone() }, gateway]
}

/// A tracker of full lists.
fn tracker_of(registry: &Registry, lines: &[Line]) -> Tracker {
    let mut tracker = Tracker::new(registry.clone(), &Kind::ALL);
    for kind in Kind::ALL {
        let prefix = registry.list_prefix(kind);
        let of_kind = lines.iter().filter(|line| line.key.starts_with(&prefix));
        tracker.replace_all(kind, of_kind.map(Line::event));
    }
    assert!(tracker.skipped().is_empty(), "{:?}", tracker.skipped());
    tracker
}

/// An object as the API says it is, as it would be in etcd.
fn line_of(registry: &Registry, name: &str, value: &Value) -> Option<Line> {
    let kind = Kind::ALL.into_iter().find(|kind| Some(kind.name()) == name.split('/').next())?;
    let mut value = value.clone();
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.name().into();
    let revision = value["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let object = if kind == Kind::ServiceCidr {
        // No object people may write here, so there is no reader of its manifest.
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let metadata = ObjectMeta { name: text(&value["metadata"]["name"]), ..Default::default() };
        let cidrs = value["spec"]["cidrs"].as_array().unwrap().iter().map(text).collect();
        ServiceCidr { metadata, spec: ServiceCidrSpec { cidrs }, ..Default::default() }.into()
    } else {
        manifest::from_json(value).unwrap().object
    };
    let key = registry.key(kind, &object.key());
    Some(Line { key, value: Some(envelope::encode(&object)), revision })
}

#[test]
fn every_step_resolves_to_what_the_truth_resolves_to() {
    let registry = Registry::new("/registry");
    let steps: Vec<Value> = json_lines("../daemon/tests/fixtures/states.jsonl.gz").collect();
    let events = events();
    assert_eq!((steps.len(), events.len()), (55, 1805));
    for settings in settings() {
        let mut tracker = tracker_of(&registry, &base());
        let mut resolver = Resolver::new(settings.clone());
        let mut told: Arc<Desired> = resolver.resolve(&mut tracker).unwrap();
        let mut truth: BTreeMap<String, Value> = BTreeMap::new();
        let (mut next, mut updates, mut quiet) = (0, 0, 0);
        for step in &steps {
            let what = format!("node {:?}, step {}: {}", settings.node_name, step["step"], step["desc"]);
            for gone in step["gone"].as_array().unwrap() {
                truth.remove(gone.as_str().unwrap());
            }
            for (name, value) in step["put"].as_object().unwrap() {
                truth.insert(name.clone(), value.clone());
            }
            let revision = step["revision"].as_i64().unwrap();
            while let Some(event) = events.get(next).filter(|event| event.revision <= revision) {
                tracker.apply(&event.event());
                next += 1;
                let now = resolver.resolve(&mut tracker).unwrap();
                let difference = diff(&told, &now);
                quiet += usize::from(difference.is_empty());
                updates += difference.len();
                told = now;
            }
            let lines: Vec<Line> =
                truth.iter().filter_map(|(name, value)| line_of(&registry, name, value)).collect();
            let mut anew = Resolver::new(settings.clone());
            let expected = anew.resolve(&mut tracker_of(&registry, &lines)).unwrap();
            assert!(told.frontends.len() > 40, "{what}");
            assert_eq!(told.views(), expected.views(), "{what}");
            assert_eq!(*told, *expected, "{what}");
            assert_eq!(resolver.problems(), anew.problems(), "{what}");
            assert_eq!(diff(&told, &expected), [], "{what}");
        }
        assert_eq!(next, events.len());
        assert!(updates > 500, "{updates} updates");
        assert!(quiet > 1000, "most events mean nothing to the dataplane: {quiet}");
    }
}
