//! Named rules: who may be chosen (rules E).

use super::{CLIENT, gateway, meets, node_a, policies, public, slice};
use crate::k8s::Node;
use crate::settings::Settings;
use crate::test_world::{World, mk_meta, mk_settings};
use crate::words::ZONE_LABEL;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer, NodePort};

#[test]
fn rule_e1_policies_and_outside_addresses_say_which_sets_are_needed() {
    let endpoints = ["10.244.0.1+ @node-a", "10.244.0.2+ @node-b"];
    // (external, internal, has outside, backends in the Cluster set, in the Local set)
    let rows = [
        ("Cluster", "Cluster", true, 2, 0),
        ("Cluster", "Local", true, 2, 1),
        ("Local", "Cluster", true, 2, 1),
        ("Local", "Local", true, 2, 1),
        ("", "Cluster", false, 2, 0),
        ("", "Local", false, 0, 1),
        ("Local", "Cluster", false, 2, 0),
    ];
    for (external, internal, has_outside, in_cluster, in_local) in rows {
        let mut service = policies(external, internal);
        if !has_outside {
            service.spec.r#type = "ClusterIP".into();
            service.spec.ports[0].node_port = 0;
            service.status.load_balancer.ingress.clear();
        }
        let mut world = node_a();
        let desired = world.put(service).put(slice(&endpoints)).resolve();
        let backends: Vec<_> = desired.services.values().flat_map(|s| s.backends.values()).collect();
        let count = |is_in: fn(&turnpike_wire::update::Backend) -> bool| {
            backends.iter().filter(|b| is_in(&b.backend)).count()
        };
        assert_eq!(
            (count(|b| b.in_cluster_set), count(|b| b.in_local_set)),
            (in_cluster, in_local),
            "external {external:?}, internal {internal:?}, outside {has_outside}"
        );
    }
}

#[test]
fn rule_e2_cluster_set_falls_back_on_those_that_serve_while_they_end() {
    let rows: &[(&[&str], &str)] = &[
        (&["10.244.0.1+", "10.244.0.2~"], "forward nat 1"),
        (&["10.244.0.1-", "10.244.0.2~", "10.244.0.3x"], "forward nat 2~"),
        // The fall-back ignores topology.
        (&["10.244.0.2~ hint-zone:zone-b", "10.244.0.3~ hint-zone:zone-a"], "forward nat 2~ 3~"),
        (&["10.244.0.1-", "10.244.0.3x"], "reject"),
        (&[], "reject"),
    ];
    for (endpoints, expected) in rows {
        let mut world = node_a();
        world.put(public()).put(slice(endpoints));
        assert_eq!(meets(&mut world, ClusterIp, CLIENT), *expected, "{endpoints:?}");
    }
}

#[test]
fn rule_e3_local_falls_back_independently() {
    let rows: &[(&[&str], &str, &str)] = &[
        (&["10.244.0.1+ @node-a", "10.244.0.2+ @node-b"], "forward nat 1", "forward nat 1 2"),
        (&["10.244.0.1~ @node-a", "10.244.0.2+ @node-b"], "forward nat 1~", "forward nat 2"),
        (
            &["10.244.0.1+ @node-a", "10.244.0.3~ @node-a", "10.244.0.2~ @node-b"],
            "forward nat 1",
            "forward nat 1",
        ),
        (&["10.244.0.1x @node-a", "10.244.0.2+ @node-b"], "drop", "forward nat 2"),
        (&["10.244.0.1~ @node-a", "10.244.0.2~ @node-b"], "forward nat 1~", "forward nat 1~ 2~"),
    ];
    for (endpoints, local, cluster) in rows {
        let mut world = node_a();
        world.put(policies("Cluster", "Local")).put(slice(endpoints));
        assert_eq!(meets(&mut world, ClusterIp, CLIENT), *local, "{endpoints:?}");
        assert_eq!(meets(&mut world, NodePort, CLIENT), *cluster, "{endpoints:?}");
    }
}

#[test]
fn rule_e4_neither_the_unready_nor_the_failing_get_new_flows() {
    for endpoints in [&["10.244.0.1-"][..], &["10.244.0.1x"], &["10.244.0.1-", "10.244.0.2x"]] {
        let mut world = gateway();
        world.put(policies("Local", "Cluster")).put(slice(endpoints));
        for kind in [ClusterIp, NodePort, LoadBalancer] {
            assert_eq!(meets(&mut world, kind, CLIENT), "reject", "{endpoints:?} {kind:?}");
        }
    }
}

#[test]
fn rule_e5_somebody_anywhere_makes_a_drop_of_a_reject() {
    for (endpoints, expected) in [
        (&["10.244.0.2+ @node-b"][..], "drop"),
        (&["10.244.0.2~ @node-b"], "drop"),
        (&["10.244.0.2- @node-b"], "reject"),
        (&["10.244.0.2x @node-b"], "reject"),
        (&[], "reject"),
    ] {
        let mut world = node_a();
        world.put(policies("Local", "Local")).put(slice(endpoints));
        for kind in [ClusterIp, NodePort, LoadBalancer] {
            assert_eq!(meets(&mut world, kind, CLIENT), expected, "{endpoints:?} {kind:?}");
        }
    }
}

#[test]
fn rule_e6_topology_needs_a_hint_on_every_ready_endpoint() {
    let rows: &[(&[&str], &str)] = &[
        (&["10.244.0.1+ hint-zone:zone-a", "10.244.0.2+ hint-zone:zone-b"], "forward nat 1"),
        (
            &["10.244.0.1+ hint-zone:zone-a hint-zone:zone-b", "10.244.0.2+ hint-zone:zone-a"],
            "forward nat 1 2",
        ),
        (&["10.244.0.1+ hint-zone:zone-a", "10.244.0.2+"], "forward nat 1 2"),
        (&["10.244.0.1+ hint-zone:zone-b", "10.244.0.2+ hint-zone:zone-c"], "forward nat 1 2"),
        // Only ready endpoints are looked at.
        (&["10.244.0.1+ hint-zone:zone-a", "10.244.0.2~", "10.244.0.3-"], "forward nat 1"),
        // The node goes before the zone.
        (
            &[
                "10.244.0.1+ hint-zone:zone-a hint-node:node-a",
                "10.244.0.2+ hint-zone:zone-a hint-node:node-b",
            ],
            "forward nat 1",
        ),
        // A node hint that not all have leaves the zone in force.
        (
            &["10.244.0.1+ hint-zone:zone-a hint-node:node-a", "10.244.0.2+ hint-zone:zone-a"],
            "forward nat 1 2",
        ),
        (
            &[
                "10.244.0.1+ hint-zone:zone-a hint-node:node-c",
                "10.244.0.2+ hint-zone:zone-b hint-node:node-b",
            ],
            "forward nat 1",
        ),
    ];
    for (endpoints, expected) in rows {
        let mut world = node_a();
        world.put(public()).put(slice(endpoints));
        assert_eq!(meets(&mut world, ClusterIp, CLIENT), *expected, "{endpoints:?}");
    }
}

#[test]
fn rule_e6_the_zone_of_a_node_is_its_label() {
    let mut world = World::with(Settings { node_name: "node-a".into(), ..mk_settings() });
    let node = |zone: &str| {
        let mut node = Node { metadata: mk_meta("node-a"), ..Default::default() };
        node.metadata.labels.insert(ZONE_LABEL.into(), zone.into());
        node
    };
    world.put(public()).put(slice(&["10.244.0.1+ hint-zone:zone-a", "10.244.0.2+ hint-zone:zone-b"]));
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 1 2", "no node, no zone");
    world.put(node("zone-b"));
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 2");
    world.put(node("zone-a"));
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 1", "the label changed");
}

#[test]
fn rule_e7_hints_narrow_the_cluster_set_alone() {
    let endpoints = ["10.244.0.1+ @node-a hint-zone:zone-b", "10.244.0.2+ @node-b hint-zone:zone-a"];
    let mut service = policies("Local", "Cluster");
    // What the Service wishes is not read, only what the slices say.
    service.spec.traffic_distribution = Some("PreferSameNode".into());
    let mut world = node_a();
    world.put(service).put(slice(&endpoints));
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 2");
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward dnat 1");
}

#[test]
fn rule_e7b_a_gateway_that_is_no_node_has_at_most_a_zone() {
    let endpoints =
        ["10.244.0.1+ hint-zone:zone-a hint-node:node-a", "10.244.0.2+ hint-zone:zone-b hint-node:node-b"];
    for (zone, expected) in
        [("", "forward nat 1 2"), ("zone-b", "forward nat 2"), ("zone-c", "forward nat 1 2")]
    {
        let mut world = World::with(Settings { zone: zone.into(), ..mk_settings() });
        world.put(public()).put(slice(&endpoints));
        assert_eq!(meets(&mut world, ClusterIp, CLIENT), expected, "{zone:?}");
    }
}
