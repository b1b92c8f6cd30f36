//! Named rules: health checks (rules H).

use super::{CLIENT, gateway, meets, node_a, policies, slice};
use crate::k8s::{Node, Taint, Time};
use crate::object::ObjectKey;
use crate::test_world::{World, mk_endpoint_port, mk_meta, mk_port, mk_service};
use turnpike_wire::update::FrontendKind::LoadBalancer;

#[test]
fn rule_h1_a_local_load_balancer_with_a_port_has_a_health_check() {
    let with = |r#type: &str, external: &str, port: i32| {
        let mut service = policies(external, "Cluster");
        service.spec.r#type = r#type.into();
        service.spec.health_check_node_port = port;
        service
    };
    let rows = [
        (with("LoadBalancer", "Local", 32_000), true),
        (with("LoadBalancer", "Cluster", 32_000), false),
        (with("NodePort", "Local", 32_000), false),
        (with("LoadBalancer", "Local", 0), false),
        (with("LoadBalancer", "Local", 70_000), false),
    ];
    for (service, expected) in rows {
        let mut world = node_a();
        let desired = world.put(service).put(slice(&["10.244.0.1+ @node-a"])).resolve();
        assert_eq!(desired.health_checks.contains_key(&32_000), expected);
        assert_eq!(desired.health_checks.len(), usize::from(expected));
        world.delete("/registry/services/specs/shop/web");
        assert!(world.resolve().health_checks.is_empty());
    }
}

/// A Service keeps its port when the API server's range of NodePorts has changed since, or is another than ours.
#[test]
fn rule_h1_a_port_outside_the_node_port_range_is_told_to_the_dataplane() {
    for (port, expected) in [(32_000, vec![]), (29_999, vec![29_999]), (40_000, vec![40_000])] {
        let mut world = node_a();
        let mut service = policies("Local", "Cluster");
        service.spec.r#type = "LoadBalancer".into();
        service.spec.health_check_node_port = port;
        let desired = world.put(service).put(slice(&["10.244.0.1+ @node-a"])).resolve();
        assert_eq!(desired.cluster.health_check_ports, expected);
        // A node that changes does not make it forget them.
        let mut node = Node { metadata: mk_meta("node-a"), ..Default::default() };
        node.metadata.deletion_timestamp = Some(Time::from_unix_seconds(5));
        let desired = world.put(node).resolve();
        assert!(!desired.node_eligible);
        assert_eq!(desired.cluster.health_check_ports, expected);
        world.delete("/registry/services/specs/shop/web");
        assert!(world.resolve().cluster.health_check_ports.is_empty());
    }
}

#[test]
fn rule_h1_of_two_services_with_one_port_the_older_has_it() {
    let mut world = node_a();
    for (name, address, seconds) in [("shop/young", "10.96.0.20", 20), ("shop/old", "10.96.0.21", 10)] {
        let mut service = mk_service(name, address);
        service.metadata.creation_timestamp = Time::from_unix_seconds(seconds);
        service.spec.r#type = "LoadBalancer".into();
        service.spec.external_traffic_policy = "Local".into();
        service.spec.health_check_node_port = 32_000;
        world.put(service);
    }
    assert_eq!(world.resolve().health_checks[&32_000].service, ObjectKey::new("shop", "old"));
    assert!(world.problems()[0].contains("32000 is taken by Service shop/old"), "{:?}", world.problems());
    world.delete("/registry/services/specs/shop/old");
    assert_eq!(world.resolve().health_checks[&32_000].service, ObjectKey::new("shop", "young"));
}

#[test]
fn rule_h2_only_local_ready_endpoints_count() {
    let count = |world: &mut World, endpoints: &[&str]| {
        let mut service = policies("Local", "Cluster");
        service.spec.health_check_node_port = 32_000;
        world.put(service).put(slice(endpoints)).resolve().health_checks[&32_000].local_endpoints
    };
    let endpoints =
        ["10.244.0.1+ @node-a", "10.244.0.2+ @node-b", "10.244.0.3~ @node-a", "10.244.0.4- @node-a"];
    assert_eq!(count(&mut node_a(), &endpoints), 1);
    assert_eq!(count(&mut node_a(), &endpoints[1..]), 0, "those that end get traffic and do not count");
    assert_eq!(count(&mut gateway(), &endpoints), 2, "no node: every ready one");
}

#[test]
fn rule_h3_an_address_counts_once_over_all_ports() {
    let mut service = policies("Local", "Cluster");
    service.spec.health_check_node_port = 32_000;
    service.spec.ports.push(mk_port("https", "TCP", 443));
    let mut slice = slice(&["10.244.0.1+ @node-a", "10.244.0.2+ @node-a"]);
    slice.ports.push(mk_endpoint_port("https", "TCP", 8443));
    let desired = node_a().put(service).put(slice).resolve();
    assert_eq!(desired.services.len(), 2);
    assert_eq!(desired.health_checks[&32_000].local_endpoints, 2);
}

#[test]
fn rule_h6_a_node_on_its_way_out_is_not_eligible() {
    let node = |name: &str| Node { metadata: mk_meta(name), ..Default::default() };
    let mut deleted = node("node-a");
    deleted.metadata.deletion_timestamp = Some(Time::from_unix_seconds(5));
    let mut tainted = node("node-a");
    tainted.spec.taints.push(Taint { key: "ToBeDeletedByClusterAutoscaler".into(), ..Default::default() });
    let mut cordoned = node("node-a");
    cordoned.spec.unschedulable = true;
    let mut neighbour = node("node-b");
    neighbour.spec.taints.clone_from(&tainted.spec.taints);
    for (object, expected) in
        [(node("node-a"), true), (deleted, false), (tainted, false), (cordoned, true), (neighbour, true)]
    {
        assert_eq!(
            node_a().put(object.clone()).resolve().node_eligible,
            expected,
            "{:?}",
            object.metadata.name
        );
        assert!(gateway().put(object).resolve().node_eligible, "a gateway that is no node");
    }
}

/// The health check turns new clients away; who is here already goes on being served.
#[test]
fn rule_h7_without_ready_endpoints_those_that_end_go_on_serving() {
    let mut service = policies("Local", "Cluster");
    service.spec.health_check_node_port = 32_000;
    let mut world = node_a();
    let desired = world.put(service).put(slice(&["10.244.0.1~ @node-a", "10.244.0.2+ @node-b"])).resolve();
    assert_eq!(desired.health_checks[&32_000].local_endpoints, 0);
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward dnat 1~");
    assert!(
        desired.services.values().flat_map(|service| service.backends.values()).all(|b| b.backend.serving)
    );
}
