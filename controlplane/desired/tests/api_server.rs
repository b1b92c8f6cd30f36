//! Against what a real kube-apiserver 1.36 said: its objects, without what it filled in, get the same defaults here, and all pass validation;
//! the endpoint hints of its controllers are those made here.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use turnpike_desired::desired::Family;
use turnpike_desired::k8s::{EndpointSlice, Pod};
use turnpike_desired::object::{Kind, Object};
use turnpike_desired::settings::{LoadBalancerClass, Rules};
use turnpike_desired::{defaults, endpoint_slices, manifest, validate};
use turnpike_wire::config::{Config, PortRange};

fn truth() -> BTreeMap<String, Vec<Value>> {
    let path = format!("{}/tests/fixtures/truth.json.gz", env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The rules of that cluster.
fn rules() -> Rules {
    Rules {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()],
        node_port_range: PortRange { first: 30000, last: 32767 },
        pools: Vec::new(),
        load_balancer_class: LoadBalancerClass::from_config(&Config::default()),
        own_addresses: Default::default(),
    }
}

fn object(kind: Kind, mut value: Value) -> Object {
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.name().into();
    let manifest = manifest::from_json(value).unwrap();
    manifest.object
}

/// Takes a field away if it has the value that would be filled in.
fn strip(value: &mut Value, field: &str, default: &Value) {
    if value.get(field) == Some(default) {
        value.as_object_mut().unwrap().remove(field);
    }
}

/// What somebody could have written who wants this spec.
fn as_written(spec: &Value) -> Value {
    let mut written = spec.clone();
    for (field, default) in [
        ("type", json!("ClusterIP")),
        ("sessionAffinity", json!("None")),
        ("internalTrafficPolicy", json!("Cluster")),
        ("externalTrafficPolicy", json!("Cluster")),
        ("allocateLoadBalancerNodePorts", json!(true)),
        ("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}})),
    ] {
        strip(&mut written, field, &default);
    }
    let by_hand = spec["clusterIP"] == "None" && spec.get("selector").is_none();
    if spec["ipFamilyPolicy"] == "SingleStack" || by_hand {
        written.as_object_mut().unwrap().remove("ipFamilyPolicy");
        written.as_object_mut().unwrap().remove("ipFamilies");
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" && !by_hand {
        written.as_object_mut().unwrap().remove("ipFamilyPolicy");
    }
    if spec["ipFamilyPolicy"] == "PreferDualStack" {
        strip(&mut written, "ipFamilies", &json!(["IPv4", "IPv6"]));
    }
    strip(&mut written, "clusterIPs", &json!([spec["clusterIP"]]));
    for port in written.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        strip(port, "protocol", &json!("TCP"));
        let number = port["port"].clone();
        strip(port, "targetPort", &number);
    }
    written
}

#[test]
fn services_get_the_defaults_that_the_api_server_gave_them() {
    let mut shorter = 0;
    for truth in &truth()["Service"] {
        let written = as_written(&truth["spec"]);
        shorter += usize::from(written.to_string().len() < truth["spec"].to_string().len());
        let name = &truth["metadata"]["name"];
        let mut service = object(Kind::Service, json!({"metadata": {"name": name}, "spec": written}));
        defaults::apply(&mut service, None, Family::V4);
        assert_eq!(manifest::to_json(&service, 0)["spec"], truth["spec"], "{name}, written as {written}");
    }
    assert!(shorter > 40, "{shorter} Services had something to fill in");
}

#[test]
fn what_the_api_server_took_is_taken_here_and_what_it_gives_out_can_be_applied() {
    let truth = truth();
    for truth in &truth["Service"] {
        let mut service = object(Kind::Service, truth.clone());
        defaults::apply(&mut service, None, Family::V4);
        assert_eq!(validate::validate(&service, &rules()), Ok(()), "{truth}");
        let again = service.clone();
        assert_eq!(validate::validate_update(&service, &again), Ok(()));
    }
    let mut refused = Vec::new();
    for truth in &truth["EndpointSlice"] {
        let mut slice = object(Kind::EndpointSlice, truth.clone());
        defaults::apply(&mut slice, None, Family::V4);
        if let Err(error) = validate::validate(&slice, &rules()) {
            refused.push(error.to_string());
        }
    }
    assert_eq!(refused, [""; 0]);
}

/// Address, and zones and nodes it is hinted for, of each endpoint.
fn hints<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Vec<String> {
    let endpoints = slices.into_iter().flat_map(|slice| &slice.endpoints);
    let line = |endpoint: &turnpike_desired::k8s::Endpoint| {
        let hints = endpoint.hints.clone().unwrap_or_default();
        let zones: Vec<String> = hints.for_zones.into_iter().map(|zone| zone.name).collect();
        let nodes: Vec<String> = hints.for_nodes.into_iter().map(|node| node.name).collect();
        format!("{} {} {}", endpoint.addresses[0], zones.join(","), nodes.join(","))
    };
    let mut lines: Vec<String> = endpoints.map(line).collect();
    lines.sort();
    lines
}

#[test]
fn rule_e7_hints_are_those_of_the_real_controller() {
    let truth = truth();
    let all = |kind: Kind| truth[kind.name()].iter().map(move |value| object(kind, value.clone()));
    let pods: Vec<Pod> = truth["Pod"]
        .iter()
        .map(|value| {
            let mut value = value.clone();
            value["apiVersion"] = "v1".into();
            value["kind"] = "Pod".into();
            match manifest::from_json(value).unwrap().object {
                Object::Pod(pod) => *pod,
                other => panic!("{other}"),
            }
        })
        .collect();
    let slices: Vec<EndpointSlice> = all(Kind::EndpointSlice)
        .map(|object| match object {
            Object::EndpointSlice(slice) => *slice,
            other => panic!("{other}"),
        })
        .collect();
    let zones: BTreeMap<String, String> = truth["Node"]
        .iter()
        .map(|node| {
            let zone = &node["metadata"]["labels"]["topology.kubernetes.io/zone"];
            (node["metadata"]["name"].as_str().unwrap().to_owned(), zone.as_str().unwrap().to_owned())
        })
        .collect();
    let mut hinted = 0;
    for service in all(Kind::Service) {
        let Object::Service(service) = service else { panic!("{service}") };
        // The deprecated annotation asks for hints by CPU, which nothing here knows.
        let is_auto = service.metadata.annotations.contains_key("service.kubernetes.io/topology-mode");
        if service.spec.selector.is_empty() || is_auto {
            continue;
        }
        let meta = &service.metadata;
        let theirs = slices.iter().filter(|slice| {
            let labels = &slice.metadata.labels;
            slice.metadata.namespace == meta.namespace
                && labels.get("kubernetes.io/service-name") == Some(&meta.name)
                && labels
                    .get("endpointslice.kubernetes.io/managed-by")
                    .is_some_and(|by| by == "endpointslice-controller.k8s.io")
        });
        let ours = endpoint_slices::reconcile(&service, &pods, [], &|node| zones.get(node).cloned());
        let (ours, theirs) = (hints(&ours.put), hints(theirs));
        assert_eq!(ours, theirs, "{}/{}", meta.namespace, meta.name);
        hinted += ours.iter().filter(|line| !line.ends_with("  ")).count();
    }
    assert!(hinted > 5, "{hinted} endpoints have hints");
}
