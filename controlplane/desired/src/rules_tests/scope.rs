//! Named rules: which Services, addresses and endpoints count (rules S, C8).

use super::{CLIENT, gateway, meets, node_a, policies, public, slice};
use crate::k8s::Node;
use crate::object::ObjectKey;
use crate::settings::Settings;
use crate::test_world::{World, mk_meta, mk_service, mk_settings};
use std::collections::BTreeSet;
use turnpike_wire::update::FrontendKind::{ClusterIp, ExternalIp, LoadBalancer};
use turnpike_wire::update::ServiceKey;

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

/// A cluster without ServiceCIDR objects keeps its network under `ranges/`.
#[test]
fn networks_under_ranges_are_told_to_the_dataplane() {
    let value = |network: &str| {
        let raw = [b"\x0a\0\x12", [network.len() as u8].as_slice(), network.as_bytes()].concat();
        let head = b"k8s\0\x0a\x15\x0a\x02v1\x12\x0fRangeAllocation\x12";
        [head.as_slice(), &[raw.len() as u8], &raw].concat()
    };
    let mut world = World::with(Settings { service_cidrs: Vec::new(), ..mk_settings() });
    let networks = |world: &mut World| -> Vec<String> {
        world.resolve().cluster.service_networks.iter().map(ToString::to_string).collect()
    };
    assert!(networks(&mut world).is_empty());
    world.put_bytes("/registry/ranges/serviceips", &value("10.96.0.0/16"));
    assert_eq!(networks(&mut world), ["10.96.0.0/16"]);
    world.put_bytes("/registry/ranges/serviceips", &value("10.97.0.0/16"));
    assert_eq!(networks(&mut world), ["10.97.0.0/16"]);
    world.delete("/registry/ranges/serviceips");
    assert!(networks(&mut world).is_empty());
}

/// An external address is often a node's: a pod on its network is refused only where the Service itself is answered.
#[test]
fn an_endpoint_may_have_an_external_address_but_not_where_it_is_answered() {
    let mut world = World::with(Settings { external_ips: true, ..mk_settings() });
    world.put(public()).put(slice(&["198.51.100.1+"]));
    assert_eq!(meets(&mut world, ClusterIp, CLIENT), "forward nat 1");
    let mut other = mk_service("shop/other", "10.96.0.20");
    other.spec.external_ips = vec!["198.51.100.1".into()];
    world.put(other.clone());
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward nat 1", "other port");
    other.spec.ports[0].port = 8080;
    world.put(other.clone());
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "reject", "it would come back");
    assert!(world.problems()[0].contains("endpoint 198.51.100.1 is the address of a Service"));
    other.spec.ports[0].protocol = "UDP".into();
    world.put(other);
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward nat 1", "other protocol");
}
