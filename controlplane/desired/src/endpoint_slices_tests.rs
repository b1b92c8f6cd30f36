use super::{ENDPOINTS_PER_SLICE_MAX, SliceChanges, of_deleted, reconcile};
use crate::k8s::{Container, ContainerPort, EndpointSlice, Pod, PodCondition, PodIp, Service, Time};
use crate::object::ObjectKey;
use crate::test_world::{mk_pod, mk_port, mk_service, mk_slice};
use crate::words::{HEADLESS_LABEL, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn web() -> Service {
    let mut service = mk_service("shop/web", "10.96.0.10");
    service.metadata.uid = "uid-of-web".into();
    service.metadata.labels.insert("team".into(), "a".into());
    service.spec.selector.insert("app".into(), "web".into());
    service
}

fn pod(name: &str, address: &str) -> Pod {
    mk_pod(&format!("shop/{name}"), &[("app", "web")], address)
}

fn run(service: &Service, pods: &[Pod], slices: &[EndpointSlice]) -> SliceChanges {
    reconcile(service, pods, slices, &|node| (node == "node-a").then(|| "zone-a".into()))
}

/// `name: address+ address- …` of each slice; signs as in `mk_slice`.
fn lines(slices: &[EndpointSlice]) -> Vec<String> {
    let line = |slice: &EndpointSlice| {
        let mut line = format!("{}:", slice.metadata.name);
        for endpoint in &slice.endpoints {
            let c = endpoint.conditions;
            let sign = match (c.ready, c.serving, c.terminating) {
                (Some(true), Some(true), Some(false)) => "+",
                (Some(false), Some(false), Some(false)) => "-",
                (Some(false), Some(true), Some(true)) => "~",
                (Some(false), Some(false), Some(true)) => "x",
                _ => "?",
            };
            line += &format!(" {}{sign}", endpoint.addresses[0]);
        }
        line
    };
    slices.iter().map(line).collect()
}

/// Writes the changes as an etcd would.
fn applied(slices: &[EndpointSlice], changes: &SliceChanges) -> Vec<EndpointSlice> {
    let mut all: BTreeMap<ObjectKey, EndpointSlice> =
        slices.iter().map(|slice| (ObjectKey::of(&slice.metadata), slice.clone())).collect();
    for key in &changes.delete {
        assert!(all.remove(key).is_some(), "{key} is not there");
    }
    for slice in &changes.put {
        let key = ObjectKey::of(&slice.metadata);
        assert!(!changes.delete.contains(&key));
        all.insert(key, slice.clone());
    }
    all.into_values().collect()
}

fn condition(status: &str) -> Vec<PodCondition> {
    vec![PodCondition { r#type: "Ready".into(), status: status.into(), ..Default::default() }]
}

#[test]
fn matching_pods_become_endpoints_of_one_slice() {
    let mut on_node = pod("web-1", "10.244.0.2");
    on_node.spec.node_name = "node-a".into();
    on_node.spec.hostname = "one".into();
    on_node.spec.subdomain = "web".into();
    let other = mk_pod("shop/api", &[("app", "api")], "10.244.0.3");
    let elsewhere = mk_pod("other/web", &[("app", "web")], "10.244.0.4");
    let changes = run(&web(), &[pod("web-0", "10.244.0.1"), on_node, other, elsewhere], &[]);
    assert_eq!(lines(&changes.put), ["web-ipv4-0: 10.244.0.1+ 10.244.0.2+"]);
    let slice = &changes.put[0];
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.metadata.labels[SERVICE_NAME_LABEL], "web");
    assert_eq!(slice.metadata.labels[MANAGED_BY_LABEL], MANAGED_BY);
    assert_eq!(slice.metadata.labels["team"], "a");
    assert_eq!(slice.metadata.owner_references[0].uid, "uid-of-web");
    assert_eq!((slice.ports[0].name.as_deref(), slice.ports[0].port), (Some("http"), Some(8080)));
    let endpoint = &slice.endpoints[1];
    assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("node-a"), Some("zone-a")));
    assert_eq!(endpoint.hostname.as_deref(), Some("one"));
    let target = endpoint.target_ref.as_ref().unwrap();
    assert_eq!(
        (target.kind.as_str(), target.name.as_str(), target.uid.as_str()),
        ("Pod", "web-1", "uid-of-web-1")
    );
    assert_eq!(slice.endpoints[0].node_name, None);
}

#[test]
fn rule_s12_which_pods_count_and_how() {
    type Change = fn(&mut Pod);
    let rows: &[(&str, Change, &str)] = &[
        ("no conditions", |_| {}, " 10.244.0.1+"),
        ("running", |p| p.status.phase = "Running".into(), " 10.244.0.1+"),
        ("pending", |p| p.status.phase = "Pending".into(), " 10.244.0.1-"),
        ("ready", |p| p.status.conditions = condition("True"), " 10.244.0.1+"),
        ("not ready", |p| p.status.conditions = condition("False"), " 10.244.0.1-"),
        ("unknown", |p| p.status.conditions = condition("Unknown"), " 10.244.0.1-"),
        (
            "conditions without Ready",
            |p| {
                p.status.conditions = condition("True");
                p.status.conditions[0].r#type = "PodScheduled".into();
            },
            " 10.244.0.1-",
        ),
        ("ending", |p| p.metadata.deletion_timestamp = Some(Time::from_unix_seconds(1)), " 10.244.0.1~"),
        (
            "ending and not ready",
            |p| {
                p.metadata.deletion_timestamp = Some(Time::from_unix_seconds(1));
                p.status.conditions = condition("False");
            },
            " 10.244.0.1x",
        ),
        ("succeeded", |p| p.status.phase = "Succeeded".into(), ""),
        ("failed", |p| p.status.phase = "Failed".into(), ""),
        ("no address", |p| p.status.pod_ip.clear(), ""),
        ("address of another family", |p| p.status.pod_ip = "fd00::1".into(), ""),
    ];
    for (what, change, expected) in rows {
        let mut pod = pod("web-0", "10.244.0.1");
        change(&mut pod);
        let expected: Vec<String> =
            (!expected.is_empty()).then(|| format!("web-ipv4-0:{expected}")).into_iter().collect();
        assert_eq!(lines(&run(&web(), &[pod], &[]).put), expected, "{what}");
    }
    let mut service = web();
    service.spec.publish_not_ready_addresses = true;
    let mut pod = pod("web-0", "10.244.0.1");
    pod.status.conditions = condition("False");
    let conditions = run(&service, &[pod], &[]).put[0].endpoints[0].conditions;
    assert_eq!(
        (conditions.ready, conditions.serving, conditions.terminating),
        (Some(true), Some(false), Some(false))
    );
}

#[test]
fn a_named_target_port_is_looked_up_in_each_pod() {
    let mut service = web();
    service.spec.ports = vec![mk_port("http", "TCP", 80), mk_port("dns", "UDP", 53)];
    service.spec.ports[0].target_port = "web".into();
    let named = |name: &str, number: i32, protocol: &str| ContainerPort {
        name: name.into(),
        container_port: number,
        protocol: protocol.into(),
        ..Default::default()
    };
    let with = |mut pod: Pod, ports: Vec<ContainerPort>| {
        pod.spec.containers = vec![Container { ports, ..Default::default() }];
        pod
    };
    let mut sidecar = with(pod("d", "10.244.0.4"), Vec::new());
    let port = vec![named("web", 8080, "")];
    sidecar.spec.init_containers =
        vec![Container { ports: port, restart_policy: Some("Always".into()), ..Default::default() }];
    let pods = [
        with(pod("a", "10.244.0.1"), vec![named("web", 1, "UDP"), named("web", 8080, "TCP")]),
        with(pod("b", "10.244.0.2"), vec![named("web", 9090, "")]),
        with(pod("c", "10.244.0.3"), vec![named("other", 7070, "TCP")]),
        sidecar,
    ];
    let changes = run(&service, &pods, &[]);
    let mut seen = BTreeSet::new();
    for slice in &changes.put {
        let ports: Vec<String> = slice
            .ports
            .iter()
            .map(|p| format!("{}={}", p.name.as_deref().unwrap(), p.port.unwrap()))
            .collect();
        let addresses: Vec<&str> = slice.endpoints.iter().map(|e| e.addresses[0].as_str()).collect();
        seen.insert(format!("{} {}", ports.join(","), addresses.join(",")));
    }
    let expected =
        ["dns=8080 10.244.0.3", "dns=8080,http=8080 10.244.0.1,10.244.0.4", "dns=8080,http=9090 10.244.0.2"];
    assert_eq!(seen, expected.map(String::from).into());
}

#[test]
fn both_families_have_slices_of_their_own() {
    let mut service = web();
    service.spec.ip_families = vec!["IPv4".into(), "IPv6".into()];
    let mut both = pod("web-0", "10.244.0.1");
    both.status.pod_ips = ["10.244.0.1", "fd00::1"].map(|ip| PodIp { ip: ip.into() }).into();
    let changes = run(&service, &[both, pod("web-1", "10.244.0.2")], &[]);
    assert_eq!(lines(&changes.put), ["web-ipv4-0: 10.244.0.1+ 10.244.0.2+", "web-ipv6-0: fd00::1+"]);
}

#[test]
fn services_without_selector_and_slices_of_others_are_left_alone() {
    let foreign = mk_slice("shop/web-ipv4-0", "web", &["10.9.9.9+"]);
    let mut service = web();
    let changes = run(&service, &[pod("web-0", "10.244.0.1")], std::slice::from_ref(&foreign));
    assert_eq!(
        lines(&changes.put),
        ["web-ipv4-1: 10.244.0.1+"],
        "the name of a hand-made slice is not taken"
    );
    assert!(changes.delete.is_empty());
    let mut own = changes.put;
    own.push(foreign);
    let of_web = of_deleted(&ObjectKey::new("shop", "web"), &own);
    assert_eq!(of_web, [ObjectKey::new("shop", "web-ipv4-1")]);
    service.spec.selector.clear();
    assert_eq!(run(&service, &[pod("web-0", "10.244.0.1")], &own), SliceChanges::default());
    service = web();
    service.spec.r#type = "ExternalName".into();
    assert_eq!(run(&service, &[pod("web-0", "10.244.0.1")], &own).delete, of_web);
}

#[test]
fn changes_are_as_small_as_can_be() {
    let pods: Vec<Pod> =
        (0..250).map(|n| pod(&format!("web-{n:03}"), &format!("10.244.{}.{}", n / 100, n % 100))).collect();
    let first = run(&web(), &pods, &[]);
    let sizes: Vec<usize> = first.put.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [ENDPOINTS_PER_SLICE_MAX, ENDPOINTS_PER_SLICE_MAX, 50]);
    let slices = applied(&[], &first);
    assert_eq!(run(&web(), &pods, &slices), SliceChanges::default(), "nothing changed");
    // One pod becomes another: its slice alone is written, and no endpoint moves.
    let mut moved = pods.clone();
    moved[120] = pod("web-new", "10.244.9.9");
    let second = run(&web(), &moved, &slices);
    assert_eq!((second.put.len(), second.delete.len()), (1, 0));
    assert_eq!(second.put[0].metadata.name, "web-ipv4-1");
    // One more pod goes where there is room.
    let mut more = pods.clone();
    more.push(pod("web-new", "10.244.9.9"));
    let third = run(&web(), &more, &slices);
    assert_eq!((third.put.len(), third.put[0].metadata.name.as_str()), (1, "web-ipv4-2"));
    // All are gone: so are the slices.
    assert_eq!(run(&web(), &[], &slices).delete.len(), 3);
    // Another target port writes over the slices there are.
    let mut service = web();
    service.spec.ports[0].target_port = 9090.into();
    let fourth = run(&service, &pods, &slices);
    assert_eq!((fourth.put.len(), fourth.delete.len()), (3, 0));
    // A label of the Service is one of its slices.
    let mut service = web();
    service.spec.cluster_ip = "None".into();
    let fifth = run(&service, &pods, &slices);
    assert_eq!(fifth.put.len(), 3);
    assert!(fifth.put[0].metadata.labels.contains_key(HEADLESS_LABEL));
}

/// The hints of each endpoint, as `zones|nodes`.
fn hints(slices: &[EndpointSlice]) -> Vec<String> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    endpoints
        .map(|endpoint| match &endpoint.hints {
            None => "none".into(),
            Some(hints) => {
                let zones: Vec<&str> = hints.for_zones.iter().map(|zone| zone.name.as_str()).collect();
                let nodes: Vec<&str> = hints.for_nodes.iter().map(|node| node.name.as_str()).collect();
                format!("{}|{}", zones.join(","), nodes.join(","))
            }
        })
        .collect()
}

#[test]
fn rule_e7_a_wish_becomes_hints_on_ready_endpoints_and_leaves_with_the_wish() {
    let on = |name: &str, address: &str, node: &str, status: &str| {
        let mut pod = pod(name, address);
        pod.spec.node_name = node.into();
        pod.status.conditions = condition(status);
        pod
    };
    // With a zone, not ready, on a node of no zone, on no node.
    let pods = [
        on("web-0", "10.244.0.1", "node-a", "True"),
        on("web-1", "10.244.0.2", "node-a", "False"),
        on("web-2", "10.244.0.3", "node-x", "True"),
        on("web-3", "10.244.0.4", "", "True"),
    ];
    let rows = [
        (None, ["none", "none", "none", "none"]),
        (Some("PreferClose"), ["zone-a|", "none", "none", "none"]),
        (Some("PreferSameZone"), ["zone-a|", "none", "none", "none"]),
        (Some("PreferSameNode"), ["zone-a|node-a", "none", "|node-x", "none"]),
        (None, ["none", "none", "none", "none"]),
    ];
    let mut slices: Vec<EndpointSlice> = Vec::new();
    for (wish, expected) in rows {
        let mut service = web();
        service.spec.traffic_distribution = wish.map(str::to_owned);
        slices = applied(&slices, &run(&service, &pods, &slices));
        assert_eq!(hints(&slices), expected, "{wish:?}");
        assert_eq!(run(&service, &pods, &slices), SliceChanges::default(), "{wish:?}");
    }
}

#[test]
fn rule_s12_conditions_come_from_the_pod_and_the_service() {
    let with = |status: &str, terminating: bool| {
        let mut pod = pod("web-0", "10.244.0.1");
        pod.status.conditions = condition(status);
        pod.metadata.deletion_timestamp = terminating.then(|| Time::from_unix_seconds(5));
        pod
    };
    // Ready, deletion asked for, publishNotReadyAddresses → ready, serving, terminating.
    let rows = [
        ("True", false, false, (true, true, false)),
        ("False", false, false, (false, false, false)),
        ("True", true, false, (false, true, true)),
        ("False", true, false, (false, false, true)),
        ("True", false, true, (true, true, false)),
        ("False", false, true, (true, false, false)),
        ("True", true, true, (true, true, true)),
        ("False", true, true, (true, false, true)),
    ];
    for (status, terminating, publish, expected) in rows {
        let mut service = web();
        service.spec.publish_not_ready_addresses = publish;
        let changes = run(&service, &[with(status, terminating)], &[]);
        let c = changes.put[0].endpoints[0].conditions;
        let found = (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap());
        assert_eq!(found, expected, "Ready {status}, terminating {terminating}, publish {publish}");
    }
    for leave_out in [
        |pod: &mut Pod| pod.status.phase = "Succeeded".into(),
        |pod: &mut Pod| pod.status.phase = "Failed".into(),
        |pod: &mut Pod| {
            pod.status.pod_ip.clear();
            pod.status.pod_ips.clear();
        },
    ] {
        let mut pod = with("True", false);
        leave_out(&mut pod);
        let mut service = web();
        service.spec.publish_not_ready_addresses = true;
        assert_eq!(run(&service, &[pod], &[]), SliceChanges::default());
    }
}

#[test]
fn rule_s12_a_change_of_one_pod_writes_one_slice() {
    let mut pods: Vec<Pod> = (0..250)
        .map(|i| pod(&format!("web-{i:03}"), &format!("10.244.{}.{}", i / 200, i % 200 + 1)))
        .collect();
    let slices = applied(&[], &run(&web(), &pods, &[]));
    assert_eq!(slices.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
    // One that is no longer ready, one that comes, one that goes: each is one slice's matter.
    pods[7].status.conditions = condition("False");
    let changes = run(&web(), &pods, &slices);
    assert_eq!((changes.put.len(), changes.delete.len()), (1, 0));
    let slices = applied(&slices, &changes);
    pods.push(pod("web-new", "10.244.9.9"));
    let changes = run(&web(), &pods, &slices);
    assert_eq!(changes.put.len(), 1, "the slice with room is filled before a new one is made");
    assert_eq!(changes.put[0].endpoints.len(), 51);
    let slices = applied(&slices, &changes);
    pods.remove(120);
    let changes = run(&web(), &pods, &slices);
    assert_eq!((changes.put.len(), changes.put[0].endpoints.len(), changes.delete.len()), (1, 99, 0));
}

proptest! {
    #[test]
    fn any_walk_ends_with_each_pod_in_one_slice_and_nothing_to_do(
        steps in proptest::collection::vec(proptest::collection::btree_set(0_u8..250, 0..180), 1..5),
        port in 1..3_i32,
    ) {
        let mut slices = Vec::new();
        for (step, present) in steps.iter().enumerate() {
            let pods: Vec<Pod> = present.iter().map(|n| pod(&format!("web-{n}"), &format!("10.244.0.{n}"))).collect();
            let mut service = web();
            service.spec.ports[0].target_port = (8080 + i32::try_from(step).unwrap() % port).into();
            let changes = run(&service, &pods, &slices);
            slices = applied(&slices, &changes);
            let mut found: Vec<String> = slices.iter().flat_map(|s| &s.endpoints).map(|e| e.addresses[0].clone()).collect();
            let mut expected: Vec<String> = present.iter().map(|n| format!("10.244.0.{n}")).collect();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
            prop_assert!(slices.iter().all(|s| (1..=ENDPOINTS_PER_SLICE_MAX).contains(&s.endpoints.len())));
            prop_assert_eq!(run(&service, &pods, &slices), SliceChanges::default());
        }
    }
}
