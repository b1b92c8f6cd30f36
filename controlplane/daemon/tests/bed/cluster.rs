//! A real cluster's etcd, its life afterwards, and what its API said at each step. `tests/fixtures/README.md` tells where it is from.

use super::etcd::Etcd;
use etcd_client::{Client, DeleteOptions, GetOptions};
use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::Command;
use turnpike_desired::envelope;
use turnpike_desired::k8s::ServiceCidr;
use turnpike_desired::manifest;
use turnpike_desired::object::{Kind, Object, ObjectKey};
use turnpike_desired::registry::Registry;
use turnpike_desired::tracker::{RegistryEvent, Tracker};

/// The revision of the snapshot.
pub const BASE: i64 = 444;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// An etcd restored from the snapshot.
pub fn restored() -> Etcd {
    let folder = tempfile::Builder::new().prefix("turnpike-etcd-").tempdir().unwrap();
    let snapshot = folder.path().join("snapshot.db");
    fs::write(&snapshot, fixture("etcd-snapshot.db.gz")).unwrap();
    let done = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "restore"])
        .arg(&snapshot)
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .output()
        .expect("etcdctl must be installed (Debian: etcd-client)");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let etcd = Etcd::start_in(folder, "http", &[]);
    etcd.with(async |client| {
        // The apiserver is no more, and its own leases would run out in the middle of a test.
        for prefix in ["/registry/masterleases/", "/registry/peerserverleases/"] {
            client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.unwrap();
        }
        // The last revisions of the snapshot were deletions, which leave nothing behind.
        let at = revision_of(client).await;
        fill(client, at, BASE).await;
    });
    etcd
}

/// One event of the recorded watch.
pub struct Event {
    pub revision: i64,
    pub key: String,
    pub value: Option<Vec<u8>>,
}

/// Every event after the snapshot, in order.
pub fn events() -> Vec<Event> {
    let bytes = fixture("watch.gz");
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let line: Value = serde_json::from_slice(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        let value = line["bytes"].as_u64().map(|length| {
            let (value, after) = rest.split_at(usize::try_from(length).unwrap());
            rest = after;
            value.to_vec()
        });
        let (revision, key) = (line["rev"].as_i64().unwrap(), line["key"].as_str().unwrap().to_owned());
        events.push(Event { revision, key, value });
    }
    assert_eq!(events.len(), 1_805);
    events
}

/// What the API said after a step.
pub struct Step {
    pub number: u64,
    pub revision: i64,
    pub what: String,
    /// Objects by kind and name, with their revisions.
    pub objects: BTreeMap<(Kind, ObjectKey), (Object, i64)>,
}

/// Every step; the first is the snapshot.
pub fn steps() -> Vec<Step> {
    let mut objects = BTreeMap::new();
    let mut steps = Vec::new();
    for line in String::from_utf8(fixture("states.jsonl.gz")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for (name, item) in line["put"].as_object().unwrap() {
            objects.insert(name.clone(), object(name, item));
        }
        for name in line["gone"].as_array().unwrap() {
            objects.remove(name.as_str().unwrap()).unwrap();
        }
        steps.push(Step {
            number: line["step"].as_u64().unwrap(),
            revision: line["revision"].as_i64().unwrap(),
            what: line["desc"].to_string(),
            objects: objects.values().cloned().map(|(o, at)| ((o.kind(), o.key()), (o, at))).collect(),
        });
    }
    assert_eq!(steps.len(), 55);
    steps
}

fn object(name: &str, item: &Value) -> (Object, i64) {
    let kind = Kind::from_name(name.split('/').next().unwrap()).unwrap();
    let revision = item["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let mut item = item.clone();
    item["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    item["apiVersion"] = kind.api_version().into();
    item["kind"] = kind.name().into();
    let object = match kind {
        Kind::ServiceCidr => serde_json::from_value::<ServiceCidr>(item).unwrap().into(),
        _ => manifest::from_json(item).unwrap().object,
    };
    (object, revision)
}

impl Step {
    /// A tracker that knows nothing but what the API said.
    pub fn tracker(&self) -> Tracker {
        let registry = Registry::new("/registry");
        let mut tracker = Tracker::new(registry.clone(), &Kind::ALL);
        for kind in Kind::ALL {
            let lines: Vec<(String, Vec<u8>, i64)> = self
                .objects
                .iter()
                .filter(|((of, _), _)| *of == kind)
                .map(|((_, key), (object, at))| (registry.key(kind, key), envelope::encode(object), *at))
                .collect();
            tracker.replace_all(
                kind,
                lines.iter().map(|(key, value, mod_revision)| RegistryEvent {
                    key: key.as_bytes(),
                    value: Some(value),
                    mod_revision: *mod_revision,
                }),
            );
        }
        assert!(tracker.skipped().is_empty() && tracker.is_complete());
        tracker
    }

    /// Every object that the source knows is as the API says, and no other is there.
    pub fn assert_known(&self, tracker: &Tracker) {
        let what = format!("step {} ({})", self.number, self.what);
        assert!(tracker.skipped().is_empty(), "{what}: {:?}", tracker.skipped());
        let known = objects(tracker);
        let names = |keys: Vec<&(Kind, ObjectKey)>| keys.into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(names(known.keys().collect()), names(self.objects.keys().collect()), "{what}");
        for (key, expected) in &self.objects {
            assert_eq!(&known[key], expected, "{what}: {key:?}");
        }
    }
}

/// Everything a tracker knows, as the API would show it.
fn objects(tracker: &Tracker) -> BTreeMap<(Kind, ObjectKey), (Object, i64)> {
    let services = tracker.services().map(|(_, t)| {
        let mut service = t.object.as_ref().clone();
        // Stays in storage when a Service becomes an ExternalName; the API does not show it.
        if service.spec.r#type == "ExternalName" {
            service.spec.internal_traffic_policy = None;
        }
        (Object::from(service), t.revision)
    });
    services
        .chain(tracker.endpoint_slices().map(|(_, t)| (t.object.as_ref().clone().into(), t.revision)))
        .chain(tracker.pods().map(|(_, t)| (t.object.as_ref().clone().into(), t.revision)))
        .chain(tracker.nodes().map(|(_, t)| (t.object.as_ref().clone().into(), t.revision)))
        .chain(tracker.service_cidrs().map(|(_, t)| (t.object.as_ref().clone().into(), t.revision)))
        .map(|(object, at)| ((object.kind(), object.key()), (object, at)))
        .collect()
}

/// Writes the recorded events into an etcd, each at its own revision.
pub struct Replay {
    events: std::vec::IntoIter<Event>,
}

impl Replay {
    pub fn new() -> Self {
        Self { events: events().into_iter() }
    }

    /// Writes what came up to that revision. Revisions that are left out in the record are used up by other keys.
    pub fn up_to(&mut self, etcd: &Etcd, revision: i64) {
        etcd.with(async |client| {
            let mut at = revision_of(client).await;
            while let Some(event) = self.events.as_slice().first().filter(|e| e.revision <= revision) {
                at = fill(client, at, event.revision - 1).await;
                let (key, event) = (event.key.clone(), self.events.next().unwrap());
                let header = match event.value {
                    Some(value) => client.put(key, value, None).await.unwrap().take_header(),
                    None => client.delete(key, None).await.unwrap().take_header(),
                };
                at += 1;
                assert_eq!((at, header.unwrap().revision()), (event.revision, event.revision));
            }
            fill(client, at, revision).await;
        });
    }
}

async fn fill(client: &mut Client, from: i64, to: i64) -> i64 {
    for _ in from..to {
        client.put("/registry/leases/kube-node-lease/node-a", "", None).await.unwrap();
    }
    from.max(to)
}

/// The revision of an etcd.
pub async fn revision_of(client: &mut Client) -> i64 {
    let answer = client.get("x", Some(GetOptions::new().with_count_only())).await.unwrap();
    answer.header().unwrap().revision()
}
