//! The rules of traffic policies, topology, refusals, affinity, source ranges, health checks and UDP, each by its name in RULES.md.

use crate::k8s::{
    ClientIpConfig, EndpointHints, EndpointSlice, ForNode, ForZone, Node, Service, SessionAffinityConfig,
    Taint, Time,
};
use crate::object::ObjectKey;
use crate::settings::Settings;
use crate::test_world::{
    World, mk_endpoint_port, mk_meta, mk_port, mk_public, mk_service, mk_settings, mk_slice,
};
use crate::words::{MODE_ANNOTATION, ZONE_LABEL};
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_wire::admin::FrontendView;
use turnpike_wire::update::{FrontendKind, ServiceKey};

const CLIENT: &str = "198.51.100.7";
const POD: &str = "10.244.9.9";

/// A gateway that is no node; pods are in 10.244.0.0/16.
fn gateway() -> World {
    World::with(Settings { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..mk_settings() })
}

/// A gateway that is node-a in zone-a.
fn node_a() -> World {
    World::with(Settings {
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        node_name: "node-a".into(),
        zone: "zone-a".into(),
        ..mk_settings()
    })
}

/// The Service `shop/web` with a NodePort and a load-balancer address.
fn public() -> Service {
    let mut service = mk_service("shop/web", "10.96.0.10");
    mk_public(&mut service, "203.0.113.5");
    service.spec.ports[0].node_port = 30080;
    service
}

fn policies(external: &str, internal: &str) -> Service {
    let mut service = public();
    service.spec.external_traffic_policy = external.into();
    service.spec.internal_traffic_policy = Some(internal.into());
    service
}

/// A slice of `shop/web`; behind the address and its conditions (see [`mk_slice`]) each endpoint may have `@NODE`, `hint-zone:ZONE` and
/// `hint-node:NODE`.
fn slice(endpoints: &[&str]) -> EndpointSlice {
    let words: Vec<Vec<&str>> = endpoints.iter().map(|text| text.split(' ').collect()).collect();
    let firsts: Vec<&str> = words.iter().map(|words| words[0]).collect();
    let mut slice = mk_slice("shop/web-1", "web", &firsts);
    for (endpoint, words) in slice.endpoints.iter_mut().zip(&words) {
        for word in &words[1..] {
            if let Some(node) = word.strip_prefix('@') {
                endpoint.node_name = Some(node.into());
            } else if let Some(zone) = word.strip_prefix("hint-zone:") {
                let hints = endpoint.hints.get_or_insert_with(EndpointHints::default);
                hints.for_zones.push(ForZone { name: zone.into() });
            } else if let Some(node) = word.strip_prefix("hint-node:") {
                let hints = endpoint.hints.get_or_insert_with(EndpointHints::default);
                hints.for_nodes.push(ForNode { name: node.into() });
            }
        }
    }
    slice
}

/// What a client meets on a face: `forward nat 1 2` with the last bytes of the backends' addresses, `~` behind those that end.
fn meets(world: &mut World, kind: FrontendKind, client: &str) -> String {
    let client: IpAddr = client.parse().unwrap();
    let views = world.resolve().views_for(client);
    shown(views.iter().find(|view| view.kind == kind).unwrap_or_else(|| panic!("no {kind:?}")))
}

fn shown(view: &FrontendView) -> String {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = word(serde_json::to_value(view.action).unwrap());
    if text == "forward" {
        text = format!("{text} {}", word(serde_json::to_value(view.mode).unwrap()));
        for backend in &view.backends {
            let address = backend.address.to_string();
            let last = address.rsplit(['.', ':']).next().unwrap_or_default().to_owned();
            let state = word(serde_json::to_value(backend.state).unwrap());
            text = format!("{text} {last}{}", if state == "ready" { "" } else { "~" });
        }
    }
    text
}

use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};

#[test]
fn rule_s5_external_addresses_and_ranges_count_for_their_family() {
    let mut settings = mk_settings();
    settings.external_ips = true;
    let mut world = World::with(settings);
    let mut service = public();
    service.spec.external_ips = vec!["198.51.100.1".into(), "2001:db8:9::1".into()];
    service.spec.load_balancer_source_ranges = vec![" 10.0.0.0/8 ".into(), "2001:db8::/32".into()];
    world.put(service).put(slice(&["10.244.0.1+"]));
    let desired = world.resolve();
    let addresses: Vec<String> = desired.views().iter().map(|view| view.address.to_string()).collect();
    assert_eq!(addresses, ["10.96.0.10", "192.0.2.1", "198.51.100.1", "203.0.113.5"]);
    let service = &desired.services[&ServiceKey("shop/web:http/TCP/IPv4".into())].service;
    assert_eq!(service.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
    let guarded = desired.views().into_iter().find(|view| view.kind == LoadBalancer).unwrap();
    assert_eq!(guarded.source_ranges, ["10.0.0.0/8"]);
}

#[test]
fn rule_s10_absent_conditions_mean_ready_and_serving() {
    for (endpoint, expected) in [("10.244.0.1", "forward nat 1"), ("10.244.0.1-", "reject")] {
        let mut world = gateway();
        world.put(public()).put(slice(&[endpoint]));
        assert_eq!(meets(&mut world, ClusterIp, CLIENT), expected, "{endpoint}");
    }
    // Ready absent is ready whatever terminating says; terminating absent is not terminating.
    let mut odd = slice(&["10.244.0.1", "10.244.0.2"]);
    odd.endpoints[0].conditions.terminating = Some(true);
    odd.endpoints[1].conditions.ready = Some(false);
    let mut world = gateway();
    world.put(public()).put(odd);
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 1");
}

#[test]
fn rule_s11_local_is_the_exact_name_of_this_node() {
    for (node, expected) in
        [("@node-a", "forward nat 1"), ("@Node-A", "drop"), ("@node-a.", "drop"), ("", "drop")]
    {
        let mut world = node_a();
        world.put(policies("Cluster", "Local")).put(slice(&[&format!("10.244.0.1+ {node}")]));
        assert_eq!(meets(&mut world, ClusterIp, CLIENT), expected, "{node:?}");
    }
}

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

/// The table of section N, for a node: (endpoints, external, internal) → ClusterIP, outside on the other faces, inside on them.
#[test]
fn rule_n1_the_table_of_refusals() {
    let (nobody, elsewhere, here) = (&[][..], &["10.244.0.2+ @node-b"][..], &["10.244.0.1+ @node-a"][..]);
    let rows = [
        (nobody, "Cluster", "Cluster", "reject", "reject", "reject"),
        (nobody, "Local", "Local", "reject", "reject", "reject"),
        (elsewhere, "Cluster", "Cluster", "forward nat 2", "forward nat 2", "forward nat 2"),
        (elsewhere, "Cluster", "Local", "drop", "forward nat 2", "forward nat 2"),
        (elsewhere, "Local", "Cluster", "forward nat 2", "drop", "forward nat 2"),
        (elsewhere, "Local", "Local", "drop", "drop", "forward nat 2"),
        (here, "Local", "Local", "forward nat 1", "forward dnat 1", "forward nat 1"),
    ];
    for (endpoints, external, internal, cluster_ip, outside, inside) in rows {
        let mut world = node_a();
        world.put(policies(external, internal)).put(slice(endpoints));
        let what = format!("{endpoints:?} {external} {internal}");
        for client in [CLIENT, POD] {
            assert_eq!(meets(&mut world, ClusterIp, client), cluster_ip, "{what} {client}");
        }
        for kind in [NodePort, LoadBalancer] {
            assert_eq!(meets(&mut world, kind, CLIENT), outside, "{what} {kind:?}");
            assert_eq!(meets(&mut world, kind, POD), inside, "{what} {kind:?}");
        }
    }
}

#[test]
fn rule_n3_node_ports_are_refused_where_there_are_node_ports() {
    let own = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
    let mut world = World::with(Settings {
        node_port_addresses: [own[1]].into(),
        own_addresses: own.into(),
        ..mk_settings()
    });
    let desired = world.put(public()).resolve();
    let ports: Vec<_> = desired.views().into_iter().filter(|view| view.kind == NodePort).collect();
    assert_eq!(ports.len(), 1);
    assert_eq!((ports[0].address, shown(&ports[0])), (own[1], "reject".to_owned()));
}

#[test]
fn rule_a1_cluster_addresses_replace_the_client() {
    let mut world = gateway();
    world.put(policies("Local", "Cluster")).put(slice(&["10.244.0.1+"]));
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 1");
    assert_eq!(meets(&mut world, ClusterIp, POD), "forward nat 1");
}

#[test]
fn rule_a2_the_external_policy_says_whether_the_client_is_kept() {
    let rows = [
        ("Cluster", None, "forward nat 1"),
        ("Local", None, "forward dnat 1"),
        ("Local", Some("nat"), "forward nat 1"),
        ("Cluster", Some("dnat"), "forward dnat 1"),
        ("Local", Some("dsr-ipip"), "forward dnat 1"),
        ("Cluster", Some("nonsense"), "forward nat 1"),
    ];
    for (external, mode, expected) in rows {
        let mut service = policies(external, "Cluster");
        if let Some(mode) = mode {
            service.metadata.annotations.insert(MODE_ANNOTATION.into(), mode.into());
        }
        let mut world = gateway();
        world.put(service).put(slice(&["10.244.0.1+"]));
        for kind in [NodePort, LoadBalancer] {
            assert_eq!(meets(&mut world, kind, CLIENT), expected, "{external} {mode:?} {kind:?}");
            assert_eq!(meets(&mut world, kind, POD), "forward nat 1", "{external} {mode:?} {kind:?}");
        }
        let told = world.problems();
        let is_told = mode.is_some_and(|mode| !mode.ends_with("nat"));
        assert_eq!(told.len(), usize::from(is_told), "{told:?}");
    }
}

#[test]
fn rule_a3_clients_inside_take_the_short_cut_to_the_whole_cluster() {
    let mut world = node_a();
    world.put(policies("Local", "Cluster"));
    world.put(slice(&["10.244.0.1+ @node-a", "10.244.0.2+ @node-b"]));
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward dnat 1");
    assert_eq!(meets(&mut world, LoadBalancer, POD), "forward nat 1 2");
}

#[test]
fn rule_a6_a_gateway_that_is_no_node_takes_every_ready_pod_for_local() {
    let mut world = gateway();
    world.put(policies("Local", "Local"));
    world.put(slice(&["10.244.0.1+ @node-a", "10.244.0.2+ @node-b", "10.244.0.3+", "10.244.0.4~ @node-a"]));
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 1 2 3");
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward dnat 1 2 3");
    world.put(slice(&["10.244.0.4~ @node-a", "10.244.0.5-"]));
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward dnat 4~");
}

#[test]
fn rule_f2_the_time_out_is_three_hours_unless_stated() {
    let rows = [
        ("None", None, 0, 0),
        ("", Some(7), 0, 0),
        ("ClientIP", None, 10_800, 0),
        ("ClientIP", Some(1), 1, 0),
        ("ClientIP", Some(86_400), 86_400, 0),
        ("ClientIP", Some(0), 10_800, 1),
        ("ClientIP", Some(86_401), 10_800, 1),
        ("ClientIP", Some(-5), 10_800, 1),
        ("Cookie", None, 0, 1),
    ];
    for (affinity, stated, expected, told) in rows {
        let mut service = public();
        service.spec.session_affinity = affinity.into();
        service.spec.session_affinity_config = stated.map(|seconds| SessionAffinityConfig {
            client_ip: Some(ClientIpConfig { timeout_seconds: Some(seconds) }),
        });
        let mut world = gateway();
        let desired = world.put(service).resolve();
        for view in desired.views() {
            assert_eq!(view.affinity_timeout_s, expected, "{affinity} {stated:?}");
        }
        assert!(desired.services.values().all(|s| s.service.affinity_timeout_s == expected));
        assert_eq!(world.problems().len(), told, "{affinity} {stated:?}");
    }
}

#[test]
fn rule_p3_node_ports_and_cluster_addresses_know_no_source_ranges() {
    let mut service = public();
    service.spec.load_balancer_source_ranges = vec!["10.0.0.0/8".into()];
    let mut world = gateway();
    world.put(service).put(slice(&["10.244.0.1+"]));
    for (kind, expected) in
        [(ClusterIp, "forward nat 1"), (NodePort, "forward nat 1"), (LoadBalancer, "drop")]
    {
        assert_eq!(meets(&mut world, kind, CLIENT), expected, "{kind:?}");
    }
}

#[test]
fn rule_p4_without_node_port_allocation_there_is_no_node_port() {
    let mut service = public();
    service.spec.allocate_load_balancer_node_ports = Some(false);
    service.spec.ports[0].node_port = 0;
    let mut world = gateway();
    let desired = world.put(service).put(slice(&["10.244.0.1+"])).resolve();
    let kinds: Vec<_> = desired.views().iter().map(|view| view.kind).collect();
    assert_eq!(kinds, [ClusterIp, LoadBalancer]);
}

#[test]
fn rule_l1_strangers_meet_silence_on_load_balancer_addresses() {
    let rows: &[(&[&str], &str, &str, usize)] = &[
        (&["198.51.100.0/24"], "forward nat 1", "drop", 0),
        (&["198.51.100.7/32", "192.0.2.0/25"], "forward nat 1", "drop", 0),
        (&["0.0.0.0/0"], "forward nat 1", "forward nat 1", 0),
        (&["198.51.100.0/24", "0.0.0.0/0"], "forward nat 1", "forward nat 1", 0),
        (&["198.51.100.99/24"], "forward nat 1", "drop", 0),
        (&["nonsense"], "drop", "drop", 1),
        (&["198.51.100.0/24", "nonsense"], "drop", "drop", 1),
        (&[], "forward nat 1", "forward nat 1", 0),
    ];
    for (ranges, admitted, stranger, told) in rows {
        let mut service = public();
        service.spec.load_balancer_source_ranges = ranges.iter().map(|text| (*text).to_owned()).collect();
        let mut world = gateway();
        world.put(service).put(slice(&["10.244.0.1+"]));
        assert_eq!(meets(&mut world, LoadBalancer, CLIENT), *admitted, "{ranges:?}");
        assert_eq!(meets(&mut world, LoadBalancer, "203.0.114.1"), *stranger, "{ranges:?}");
        assert_eq!(world.problems().len(), *told, "{ranges:?} {:?}", world.problems());
    }
}

#[test]
fn rule_l1_more_ranges_than_fit_close_instead_of_opening() {
    let mut service = public();
    let range = |n: u32| format!("10.{}.{}.0/25", n >> 8, n & 255);
    service.spec.load_balancer_source_ranges = (0..1025).map(range).collect();
    let mut world = gateway();
    world.put(service.clone()).put(slice(&["10.244.0.1+"]));
    assert_eq!(meets(&mut world, LoadBalancer, "10.0.0.1"), "drop");
    assert!(world.problems()[0].contains("1025 IPv4 ranges are over the limit of 1024"));
    // Neighbours count as one.
    service.spec.load_balancer_source_ranges = (0..1025).map(|n| range(n).replace("/25", "/24")).collect();
    world.put(service);
    assert_eq!(meets(&mut world, LoadBalancer, "10.0.0.1"), "forward nat 1");
    assert_eq!(world.problems(), [] as [&str; 0]);
}

#[test]
fn rule_l2_a_range_with_this_node_admits_the_load_balancer_addresses() {
    let mut service = public();
    for (range, expected) in [("192.0.2.0/24", "forward nat 1"), ("198.51.100.0/24", "drop")] {
        service.spec.load_balancer_source_ranges = vec![range.into()];
        let mut world = node_a();
        world.put(service.clone()).put(slice(&["10.244.0.1+"]));
        assert_eq!(meets(&mut world, LoadBalancer, "203.0.113.5"), expected, "{range}");
    }
}

#[test]
fn rule_l3_ranges_of_the_other_family_keep_nobody_out() {
    let mut service = public();
    service.spec.cluster_ips.push("fd00:10:96::a".into());
    service.spec.ip_families.push("IPv6".into());
    mk_public(&mut service, "2001:db8:1b::5");
    service.spec.load_balancer_source_ranges = vec!["2001:db8:c::/48".into()];
    let mut world = gateway();
    world.put(service).put(slice(&["10.244.0.1+"])).put(mk_slice("shop/web-6", "web", &["fd00:244::6+"]));
    let desired = world.resolve();
    let meets = |client: &str| -> Vec<String> {
        let views = desired.views_for(client.parse().unwrap());
        views.iter().filter(|view| view.kind == LoadBalancer).map(shown).collect()
    };
    assert_eq!(meets(CLIENT), ["forward nat 1", "drop"]);
    assert_eq!(meets("2001:db8:c::1"), ["forward nat 1", "forward nat 6"]);
}

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

/// The backends that are published, by the last byte: `+` in the Cluster set, `=` in the Local set, `.` serving.
fn published(world: &mut World) -> Vec<String> {
    let desired = world.resolve();
    let backends = desired.services.values().flat_map(|service| service.backends.values());
    backends
        .map(|resolved| {
            let b = resolved.backend;
            let mark = |is: bool, sign: &'static str| if is { sign } else { "" };
            let last = b.address.ip().to_string().rsplit('.').next().unwrap_or_default().to_owned();
            format!(
                "{last}{}{}{}",
                mark(b.in_cluster_set, "+"),
                mark(b.in_local_set, "="),
                mark(b.serving, ".")
            )
        })
        .collect()
}

#[test]
fn rule_u1_who_does_not_serve_is_not_published_as_serving() {
    let mut world = gateway();
    world.put(public()).put(slice(&["10.244.0.1+", "10.244.0.2-", "10.244.0.3x"]));
    assert_eq!(published(&mut world), ["1+."]);
    // Published though not ready: it takes new flows, and its UDP flows are not kept.
    let mut unready = slice(&["10.244.0.1+"]);
    unready.endpoints[0].conditions.serving = Some(false);
    world.put(unready);
    assert_eq!(published(&mut world), ["1+"]);
}

#[test]
fn rule_u2_those_that_serve_keep_their_flows_whatever_the_sets() {
    let mut world = node_a();
    world.put(public());
    world.put(slice(&["10.244.0.1+ hint-zone:zone-a", "10.244.0.2+ hint-zone:zone-b", "10.244.0.3~"]));
    assert_eq!(published(&mut world), ["1+.", "2.", "3."]);
    world.put(policies("Local", "Local"));
    world.put(slice(&["10.244.0.1+ @node-a", "10.244.0.2+ @node-b"]));
    assert_eq!(published(&mut world), ["1+=.", "2+."]);
}

#[test]
fn rule_u3_nobody_serving_is_an_empty_set() {
    let mut world = gateway();
    world.put(public()).put(slice(&["10.244.0.1-", "10.244.0.2x"]));
    assert_eq!(published(&mut world), [] as [&str; 0]);
    assert_eq!(world.resolve().services.len(), 1, "the Service stays");
}

#[test]
fn rule_c8_external_addresses_need_consent() {
    let mut service = public();
    service.spec.external_ips =
        ["198.51.100.1", "192.0.2.1", "10.96.0.77", "127.0.0.1", "nonsense"].map(str::to_owned).into();
    let mut world = gateway();
    world.put(service.clone()).put(slice(&["10.244.0.1+"]));
    assert!(world.resolve().views().iter().all(|view| view.kind != ExternalIp));
    assert!(world.problems()[0].contains("set external_ips = true"), "{:?}", world.problems());
    let mut world = World::with(Settings { external_ips: true, ..mk_settings() });
    world.put(service).put(slice(&["10.244.0.1+"]));
    let views = world.resolve().views();
    let answered: Vec<_> = views.iter().filter(|view| view.kind == ExternalIp).collect();
    assert_eq!(answered.len(), 1);
    assert_eq!(answered[0].address.to_string(), "198.51.100.1");
    assert_eq!(world.problems().len(), 4, "{:?}", world.problems());
}

#[test]
fn addresses_that_turnpike_assigned_are_answered() {
    let mut world = gateway();
    let mut service = public();
    service.status.load_balancer.ingress.clear();
    world.put(service).put(slice(&["10.244.0.1+"]));
    let key = ObjectKey::new("shop", "web");
    let addresses = |world: &mut World| -> BTreeSet<String> {
        let views = world.resolve().views();
        views.iter().filter(|view| view.kind == LoadBalancer).map(|view| view.address.to_string()).collect()
    };
    assert!(addresses(&mut world).is_empty());
    world.resolver.assign(key.clone(), ["203.0.113.9".parse().unwrap()].into());
    assert_eq!(addresses(&mut world), ["203.0.113.9".to_owned()].into());
    world.resolver.assign(key.clone(), ["198.51.100.9".parse().unwrap()].into());
    assert!(addresses(&mut world).is_empty(), "in no pool");
    world.resolver.assign(key.clone(), ["203.0.113.10".parse().unwrap()].into());
    world.delete("/registry/services/specs/shop/web");
    assert!(addresses(&mut world).is_empty());
    world.resolver.assign(key, BTreeSet::new());
    assert!(addresses(&mut world).is_empty());
}

#[test]
fn pods_are_where_the_nodes_say_unless_the_configuration_does() {
    let mut node = Node { metadata: mk_meta("node-a"), ..Default::default() };
    node.spec.pod_cidr = "10.244.1.0/24".into();
    node.spec.pod_cidrs = vec!["10.244.1.0/24".into(), "fd00:244:1::/64".into()];
    let mut other = Node { metadata: mk_meta("node-b"), ..Default::default() };
    other.spec.pod_cidr = "10.244.0.0/24".into();
    let networks = |world: &mut World| -> Vec<String> {
        world.resolve().cluster.pod_networks.iter().map(ToString::to_string).collect()
    };
    let mut world = World::new();
    assert!(networks(&mut world).is_empty());
    world.put(node.clone()).put(other);
    assert_eq!(networks(&mut world), ["10.244.0.0/23", "fd00:244:1::/64"]);
    world.delete("/registry/minions/node-a");
    assert_eq!(networks(&mut world), ["10.244.0.0/24"]);
    assert_eq!(networks(gateway().put(node)), ["10.244.0.0/16"]);
    assert_eq!(world.resolve().cluster.service_networks, ["10.96.0.0/16".parse().unwrap()]);
}
