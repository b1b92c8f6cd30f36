//! Named rules: affinity, NodePorts and source ranges (rules F, P and L).

use super::{CLIENT, gateway, meets, node_a, public, shown, slice};
use crate::k8s::{ClientIpConfig, SessionAffinityConfig};
use crate::test_world::{mk_public, mk_slice};
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer, NodePort};

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
