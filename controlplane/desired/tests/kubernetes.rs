//! Real Kubernetes data: what a kube-apiserver 1.36 wrote into etcd, what its API said it was, and what a real kube-proxy and the real
//! endpoint slice controller made of it. `tests/fixtures/README.md` tells where the files are from.
#![forbid(unsafe_code)]
// Clippy's setting for tests does not reach the functions that serve them.
#![allow(clippy::unwrap_used)]

use base64::Engine;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use turnpike_desired::desired::Desired;
use turnpike_desired::k8s::{EndpointSlice, Pod};
use turnpike_desired::object::{Kind, Object, ObjectKey};
use turnpike_desired::registry::Registry;
use turnpike_desired::resolve::Resolver;
use turnpike_desired::settings::{LoadBalancerScope, Settings};
use turnpike_desired::tracker::{RegistryEvent, Tracker};
use turnpike_desired::{endpoint_slices, envelope, manifest};
use turnpike_wire::update::{Action, Mode};

struct Line {
    key: String,
    mod_revision: i64,
    value: Vec<u8>,
}

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

fn registry_lines() -> Vec<Line> {
    let line = |text: &str| {
        let json: Value = serde_json::from_str(text).unwrap();
        Line {
            key: json["key"].as_str().unwrap().to_owned(),
            mod_revision: json["mod_revision"].as_i64().unwrap(),
            value: base64::engine::general_purpose::STANDARD.decode(json["value"].as_str().unwrap()).unwrap(),
        }
    };
    fixture("registry.jsonl.gz").lines().map(line).collect()
}

/// What the API said, by kind.
fn truth() -> BTreeMap<String, Vec<Value>> {
    serde_json::from_str(&fixture("truth.json.gz")).unwrap()
}

/// Without what is empty: the API writes some empty fields and leaves out others.
fn lean(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let kept: serde_json::Map<String, Value> =
                map.iter().filter_map(|(key, value)| Some((key.clone(), lean(value)?))).collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            // The place in a list means something: what is empty in it stays.
            let kept: Vec<Value> = items.iter().map(|item| lean(item).unwrap_or(Value::Null)).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        Value::Null | Value::Bool(false) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Number(number) if number.as_f64() == Some(0.0) => None,
        other => Some(other.clone()),
    }
}

/// Takes a path such as `spec.containers[0].image` out of a value.
fn take_out(value: &mut Value, path: &str) {
    let (here, below) = match path.split_once('.') {
        Some((here, below)) => (here, Some(below)),
        None => (path, None),
    };
    let (field, index) = match here.split_once('[') {
        Some((field, index)) => (field, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (here, None),
    };
    let Some(next) = value.get_mut(field) else { return };
    let next = match index {
        Some(index) => next.get_mut(index),
        None => Some(next),
    };
    match (next, below) {
        (Some(next), Some(below)) => take_out(next, below),
        (Some(_), None) => drop(value.as_object_mut().and_then(|map| map.remove(field))),
        (None, _) => {}
    }
}

/// Fields by name of which nothing is read, with the kinds they are of.
const UNUSED: &[(&str, &[&str])] = &[
    ("Service", &[]),
    ("EndpointSlice", &[]),
    ("ServiceCIDR", &[]),
    (
        "Node",
        &[
            "capacity",
            "allocatable",
            "daemonEndpoints",
            "nodeInfo",
            "images",
            "reason",
            "message",
            "features",
            "declaredFeatures",
        ],
    ),
    (
        "Pod",
        &[
            "reason",
            "message",
            "image",
            "imagePullPolicy",
            "resources",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "restartPolicy",
            "dnsPolicy",
            "securityContext",
            "schedulerName",
            "enableServiceLinks",
            "preemptionPolicy",
            "priority",
            "tolerations",
            "qosClass",
            "serviceAccount",
            "serviceAccountName",
            "automountServiceAccountToken",
            "lastProbeTime",
            "command",
            "args",
            "env",
            "volumes",
            "volumeMounts",
            "observedGeneration",
            "containerStatuses",
            "initContainerStatuses",
        ],
    ),
];

#[test]
fn every_object_decodes_to_what_the_api_says() {
    let registry = Registry::new("/registry");
    let mut seen: BTreeMap<Kind, usize> = BTreeMap::new();
    let truth = truth();
    for line in registry_lines() {
        let Some((kind, key)) = registry.parse(line.key.as_bytes()) else { continue };
        let object =
            envelope::decode(kind, &key, &line.value).unwrap_or_else(|e| panic!("{}: {e}", line.key));
        *seen.entry(kind).or_default() += 1;
        let expected = truth[kind.name()]
            .iter()
            .find(|item| {
                let meta = &item["metadata"];
                meta["name"] == key.name.as_str()
                    && meta["namespace"].as_str().unwrap_or_default() == key.namespace
            })
            .unwrap_or_else(|| panic!("the API does not know {}", line.key));
        assert_same(&object, line.mod_revision, expected);
        let again = envelope::decode(kind, &key, &envelope::encode(&object)).unwrap();
        assert_eq!(again, object, "{}: what is written reads back", line.key);
    }
    let expected = [
        (Kind::Service, 44),
        (Kind::EndpointSlice, 70),
        (Kind::Pod, 16),
        (Kind::Node, 3),
        (Kind::ServiceCidr, 1),
    ];
    assert_eq!(seen, expected.into());
}

fn assert_same(object: &Object, mod_revision: i64, expected: &Value) {
    let mut expected = expected.clone();
    let kind = object.kind().name();
    expected["apiVersion"] = object.kind().api_version().into();
    expected["kind"] = kind.into();
    let (_, allowed) = UNUSED.iter().find(|(name, _)| *name == kind).unwrap();
    let unused = unused_fields(object.kind(), &expected);
    for path in &unused {
        let field = path.rsplit('.').next().unwrap();
        assert!(allowed.contains(&field), "{object}: {path} is not read");
        take_out(&mut expected, path);
    }
    assert_eq!(lean(&manifest::to_json(object, mod_revision)), lean(&expected), "{object}");
}

fn unused_fields(kind: Kind, value: &Value) -> Vec<String> {
    if kind == Kind::ServiceCidr {
        return Vec::new();
    }
    let manifest = manifest::from_json(value.clone()).unwrap();
    manifest.unused_fields.into_iter().collect()
}

#[test]
fn every_value_is_read_or_of_a_kind_that_is_not() {
    let registry = Registry::new("/registry");
    let others: BTreeSet<String> = registry_lines()
        .iter()
        .filter(|line| registry.parse(line.key.as_bytes()).is_none())
        .map(|line| line.key.split('/').take(4).collect::<Vec<_>>()[2..].join("/"))
        .map(|path| {
            path.split('/').next().filter(|first| *first != "services").map_or(path.clone(), Into::into)
        })
        .collect();
    assert_eq!(
        others,
        ["ipaddresses", "namespaces", "ranges", "services/endpoints"].map(String::from).into()
    );
}

/// The addresses of node-a that take NodePorts.
const NODE_ADDRESSES: [&str; 2] = ["10.0.0.11", "fd00:10::11"];

/// The base state through tracker and resolver, for a gateway that acts as node-a.
fn resolved() -> (Tracker, Resolver, std::sync::Arc<Desired>) {
    let lines = registry_lines();
    let registry = Registry::new("/registry");
    let mut tracker = Tracker::new(registry.clone(), &Kind::ALL);
    for kind in Kind::ALL {
        let prefix = registry.list_prefix(kind);
        let of_kind = lines.iter().filter(|line| line.key.starts_with(&prefix));
        tracker.replace_all(
            kind,
            of_kind.map(|line| RegistryEvent {
                key: line.key.as_bytes(),
                value: Some(&line.value),
                mod_revision: line.mod_revision,
            }),
        );
    }
    assert!(tracker.skipped().is_empty());
    let own: BTreeSet<_> = NODE_ADDRESSES.map(|text| text.parse().unwrap()).into();
    let settings = Settings {
        node_port_addresses: own,
        own_addresses: BTreeSet::new(),
        load_balancer_scope: LoadBalancerScope::Any,
        external_ips: true,
        node_name: "node-a".into(),
        ..Default::default()
    };
    let mut resolver = Resolver::new(settings);
    let desired = resolver.resolve(&mut tracker).unwrap();
    (tracker, resolver, desired)
}

/// Every probe, from clients outside, outside within a source range, and in a pod: the kind of answer, the backends, and whether the pod saw
/// its client. One thing differs by decision: kube-proxy leaves pods their own address, a gateway cannot (rule A1).
#[test]
fn a_real_kube_proxy_answers_every_probe_the_same() {
    let (tracker, _, desired) = resolved();
    let probes: Vec<Value> = serde_json::from_str(&fixture("kube-proxy.json.gz")).unwrap();
    let mut compared: BTreeMap<String, usize> = BTreeMap::new();
    for probe in &probes {
        let text = |field: &str| probe[field].as_str().unwrap();
        let (namespace, name) = text("svc").split_once('/').unwrap();
        let service = tracker.service(&ObjectKey::new(namespace, name)).unwrap();
        let views = desired.views_for(text("client_ip").parse().unwrap());
        let view = views.iter().find(|view| {
            view.address.to_string() == text("ip")
                && u64::from(view.port) == probe["port"].as_u64().unwrap()
                && view.protocol.to_string() == text("proto")
        });
        let result = probe["result"].as_object().unwrap().keys().next().unwrap().as_str();
        let what = format!("{} {} {} from {}", text("svc"), text("kind"), text("ip"), text("client"));
        let mut counted = result;
        match result {
            "ok" => {
                let view = view.unwrap_or_else(|| panic!("{what}: not answered"));
                assert_eq!((view.namespace.as_str(), view.service.as_str()), (namespace, name), "{what}");
                assert_eq!(view.action, Action::Forward, "{what}");
                let ours: BTreeSet<String> =
                    view.backends.iter().map(|b| format!("{} {}", b.address, b.port)).collect();
                let theirs: BTreeSet<String> =
                    probe["backends"].as_object().unwrap().keys().cloned().collect();
                // A client with affinity meets one backend; 24 random choices meet nearly always all of few.
                if service.object.spec.session_affinity == "ClientIP" {
                    assert!(theirs.is_subset(&ours), "{what}: {theirs:?} of {ours:?}");
                    assert!(view.affinity_timeout_s > 0, "{what}");
                } else {
                    assert_eq!(ours, theirs, "{what}");
                }
                if text("client") != "pod" {
                    let seen = probe["source_seen"].as_array().unwrap();
                    let kept = seen.iter().any(|source| source.as_str().unwrap().ends_with("(client)"));
                    assert_eq!(view.mode, if kept { Mode::Dnat } else { Mode::Nat }, "{what}: {seen:?}");
                }
            }
            // The node's own TCP refuses on an address that takes no NodePorts (rule P2) or of a family the Service does not have.
            "refused" if view.is_none() => {
                let family = if text("ip").contains(':') { "IPv6" } else { "IPv4" };
                let has_family = service.object.spec.ip_families.iter().any(|have| have == family);
                assert_eq!(text("kind"), "nodePort", "{what}");
                assert!(!NODE_ADDRESSES.contains(&text("ip")) || !has_family, "{what}");
                counted = "not answered";
            }
            "refused" => assert_eq!(view.map(|view| view.action), Some(Action::Reject), "{what}"),
            "timeout" => assert!(view.is_none_or(|view| view.action == Action::Drop), "{what}"),
            other => panic!("{what}: unknown result {other}"),
        }
        *compared.entry(counted.to_owned()).or_default() += 1;
    }
    assert_eq!(compared.values().sum::<usize>(), 232);
    assert_eq!((compared["ok"], compared["timeout"]), (138, 18), "{compared:?}");
    assert_eq!((compared["refused"], compared["not answered"]), (8, 68), "{compared:?}");
}

/// What a real kube-proxy on node-a told at its health check ports (rules H1 to H3).
#[test]
fn a_real_kube_proxy_tells_the_same_at_its_health_check_ports() {
    let (_, _, desired) = resolved();
    let told: Vec<(u16, String, usize)> = desired
        .health_checks
        .iter()
        .map(|(port, check)| (*port, check.service.to_string(), check.local_endpoints))
        .collect();
    assert_eq!(told, [(30750, "media/quic-lb".into(), 0), (32569, "shop/web-lb-local".into(), 2)]);
}

#[test]
fn nothing_that_real_services_ask_for_is_left_undone() {
    let (_, resolver, desired) = resolved();
    let problems: Vec<String> = resolver.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems, [] as [&str; 0]);
    assert_eq!(desired.cluster.service_networks.len(), 2);
    assert!(desired.cluster.pod_networks.iter().any(|network| network.to_string().starts_with("10.244.")));
}

fn items(truth: &BTreeMap<String, Vec<Value>>, kind: Kind) -> Vec<Object> {
    let item = |value: &Value| {
        let mut value = value.clone();
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.name().into();
        manifest::from_json(value).unwrap().object
    };
    truth[kind.name()].iter().map(item).collect()
}

/// What of an endpoint the controller decides, as text: `ports | address conditions node zone pod`.
fn endpoint_lines<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for slice in slices {
        let mut ports: Vec<String> = slice.ports.iter().map(|port| format!("{port:?}")).collect();
        ports.sort();
        let headless = slice.metadata.labels.contains_key("service.kubernetes.io/headless");
        for endpoint in &slice.endpoints {
            let pod = endpoint.target_ref.as_ref().map(|target| (&target.name, &target.uid));
            lines.insert(format!(
                "{} headless={headless} {ports:?} | {:?} {:?} {:?} {:?} {:?} {pod:?}",
                slice.address_type,
                endpoint.addresses,
                endpoint.conditions,
                endpoint.node_name,
                endpoint.zone,
                endpoint.hostname
            ));
        }
    }
    lines
}

#[test]
fn slices_are_made_as_the_real_controller_makes_them() {
    let truth = truth();
    let pods: Vec<Pod> = items(&truth, Kind::Pod)
        .into_iter()
        .filter_map(|object| if let Object::Pod(pod) = object { Some(*pod) } else { None })
        .collect();
    let slices: Vec<EndpointSlice> = items(&truth, Kind::EndpointSlice)
        .into_iter()
        .filter_map(|object| if let Object::EndpointSlice(slice) = object { Some(*slice) } else { None })
        .collect();
    let zones: BTreeMap<String, String> = truth["Node"]
        .iter()
        .map(|node| {
            let meta = &node["metadata"];
            let zone = meta["labels"]["topology.kubernetes.io/zone"].as_str().unwrap();
            (meta["name"].as_str().unwrap().to_owned(), zone.to_owned())
        })
        .collect();
    let zone_of = |node: &str| zones.get(node).cloned();
    let mut compared = 0;
    for object in items(&truth, Kind::Service) {
        let Object::Service(service) = object else { continue };
        if service.spec.selector.is_empty() {
            continue;
        }
        let meta = &service.metadata;
        let theirs = slices.iter().filter(|slice| {
            slice.metadata.namespace == meta.namespace
                && slice.metadata.labels.get("kubernetes.io/service-name") == Some(&meta.name)
                && slice
                    .metadata
                    .labels
                    .get("endpointslice.kubernetes.io/managed-by")
                    .is_some_and(|by| by == "endpointslice-controller.k8s.io")
        });
        let ours = endpoint_slices::reconcile(&service, &pods, &slices, &zone_of);
        assert!(ours.delete.is_empty(), "slices of others are left alone");
        let (ours, theirs) = (endpoint_lines(ours.put.iter()), endpoint_lines(theirs));
        assert_eq!(ours, theirs, "{}/{}", meta.namespace, meta.name);
        compared += ours.len();
    }
    assert!(compared > 60, "{compared} endpoints compared");
}
