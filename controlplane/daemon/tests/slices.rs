//! The EndpointSlices that standalone mode makes from selectors and pods.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::etcd::with_private;
use bed::{ControlPlane, pod, service, standalone, wait};
use serde_json::{Value, json};
use turnpike_wire::admin::Resource;

fn connected() -> ControlPlane {
    ControlPlane::connected(&standalone("203.0.113.0/24"))
}

fn slices_of(turnpike: &ControlPlane, service: &str) -> Vec<Value> {
    let mut slices = turnpike.get(Resource::EndpointSlices);
    slices.retain(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    slices
}

#[test]
fn slices_follow_selectors_labels_and_nodes() {
    let turnpike = connected();
    let mut placed = pod("web-1", "web", "10.244.0.11");
    placed["spec"] = json!({"nodeName": "node-a", "containers": [{"name": "c"}]});
    let node = |zone: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": zone}}});
    turnpike.apply(vec![service("web", "ClusterIP"), placed.clone(), node("z1")]);
    let slices = slices_of(&turnpike, "web");
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["endpoints"][0]["addresses"][0], "10.244.0.11");
    assert_eq!(slices[0]["endpoints"][0]["zone"], "z1");
    assert_eq!(slices[0]["metadata"]["ownerReferences"][0]["name"], "web");

    turnpike.apply(vec![node("z2")]);
    assert_eq!(slices_of(&turnpike, "web")[0]["endpoints"][0]["zone"], "z2");

    placed["metadata"]["labels"]["app"] = "another".into();
    turnpike.apply(vec![placed, pod("web-2", "web", "10.244.0.12")]);
    assert_eq!(turnpike.backends("web"), ["10.244.0.12"], "one left and one came in the same request");

    let mut other = service("web", "ClusterIP");
    other["spec"]["selector"] = json!({"app": "another"});
    turnpike.apply(vec![other]);
    assert_eq!(turnpike.backends("web"), ["10.244.0.11"]);
}

#[test]
fn what_others_do_to_slices_is_mended_and_what_others_made_is_left_alone() {
    let turnpike = connected();
    let by_hand = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "by-hand", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.50"]}],
    });
    turnpike.apply(vec![service("web", "ClusterIP"), pod("web-1", "web", "10.244.0.11"), by_hand]);
    assert_eq!(turnpike.backends("web"), ["10.244.0.11", "10.244.0.50"]);
    let made: Vec<String> = slices_of(&turnpike, "web")
        .iter()
        .map(|slice| slice["metadata"]["name"].as_str().unwrap().to_owned())
        .filter(|name| name != "by-hand")
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");

    with_private(turnpike.folder(), async |client| {
        client.delete(format!("/registry/endpointslices/default/{}", made[0]), None).await.unwrap();
    });
    wait("the slice to be made again", || {
        slices_of(&turnpike, "web").len() == 2 && turnpike.backends("web").len() == 2
    });
    with_private(turnpike.folder(), async |client| {
        client.delete("/registry/services/specs/default/web", None).await.unwrap();
    });
    wait("the slices of the Service that is gone to leave", || slices_of(&turnpike, "web").len() == 1);
    assert_eq!(slices_of(&turnpike, "web")[0]["metadata"]["name"], "by-hand");
}

#[test]
fn slices_of_a_service_that_cannot_be_read_stay() {
    let mut turnpike = connected();
    turnpike.apply(vec![service("web", "ClusterIP"), pod("web-1", "web", "10.244.0.11")]);
    with_private(turnpike.folder(), async |client| {
        client.put("/registry/services/specs/default/web", "nonsense", None).await.unwrap();
    });
    wait("the bad value", || turnpike.status().objects.skipped.len() == 1);
    assert_eq!(turnpike.backends("web"), ["10.244.0.11"], "the last good version stays in force");
    turnpike.stop();
    turnpike.start();
    turnpike.wait_connected();
    assert_eq!(turnpike.apply(vec![pod("web-2", "web", "10.244.0.12")]), ["created"]);
    assert_eq!(slices_of(&turnpike, "web").len(), 1);
    turnpike.apply(vec![service("web", "ClusterIP")]);
    assert_eq!(turnpike.backends("web"), ["10.244.0.11", "10.244.0.12"]);
}

#[test]
fn thousands_of_services_settle_and_take_one_more_pod() {
    let turnpike = connected();
    let count = 3_000;
    let services = (0..count).map(|i| service(&format!("s{i}"), "ClusterIP"));
    let pods = (0..count)
        .map(|i| pod(&format!("p{i}"), &format!("s{i}"), &format!("10.244.{}.{}", i / 250, i % 250 + 1)));
    assert_eq!(turnpike.apply(services.chain(pods).collect()).len(), 2 * count);
    wait("every slice", || turnpike.status().objects.backends == count as u64);
    turnpike.apply(vec![pod("more", "s7", "10.245.0.1")]);
    assert_eq!(turnpike.backends("s7"), ["10.244.0.8", "10.245.0.1"]);
}
