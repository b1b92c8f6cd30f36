//! Named rules: refusals and how packets are carried (rules N and A).

use super::{CLIENT, POD, gateway, meets, node_a, policies, public, shown, slice};
use crate::k8s::Service;
use crate::settings::Settings;
use crate::test_world::{World, mk_settings};
use crate::words::{DIRECT_RETURN, MODE_ANNOTATION};
use turnpike_wire::update::FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};

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

/// A Service of `port` on every face, whose endpoints listen on 8080.
fn direct(port: i32) -> Service {
    let mut service = public();
    service.metadata.annotations.insert(MODE_ANNOTATION.into(), DIRECT_RETURN.into());
    service.spec.ports[0].port = port;
    service.spec.external_ips = vec!["203.0.113.9".into()];
    service
}

fn answering_external_ips() -> World {
    World::with(Settings {
        external_ips: true,
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        ..mk_settings()
    })
}

#[test]
fn direct_return_is_for_clients_outside_on_addresses_that_backends_can_have() {
    let mut world = answering_external_ips();
    world.put(direct(8080)).put(slice(&["10.244.0.1+", "10.244.0.2~"]));
    for (kind, outside) in [
        (LoadBalancer, "forward dsr-ipip 1"),
        (ExternalIp, "forward dsr-ipip 1"),
        (NodePort, "forward nat 1"),
        (ClusterIp, "forward nat 1"),
    ] {
        assert_eq!(meets(&mut world, kind, CLIENT), outside, "{kind:?}");
        assert_eq!(meets(&mut world, kind, POD), "forward nat 1", "{kind:?}");
    }
    assert_eq!(world.problems(), [""; 0]);
    // The policy still says which backends, and what node ports do.
    let mut service = direct(8080);
    service.spec.external_traffic_policy = "Local".into();
    world.put(service);
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward dsr-ipip 1");
    assert_eq!(meets(&mut world, NodePort, CLIENT), "forward dnat 1");
    // Nobody to choose from is as everywhere.
    world.put(slice(&["10.244.0.1-"]));
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "reject");
}

#[test]
fn direct_return_is_refused_where_ports_differ() {
    let mut world = answering_external_ips();
    world.put(direct(80)).put(slice(&["10.244.0.1+"]));
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "reject");
    assert_eq!(meets(&mut world, LoadBalancer, POD), "forward nat 1", "clients inside are translated");
    assert_eq!(meets(&mut world, NodePort, CLIENT), "forward nat 1");
    assert_eq!(
        world.problems(),
        [
            "Service shop/web: annotation turnpike.dev/mode: dsr-ipip leaves ports as they are, but TCP 203.0.113.5:80 leads to 10.244.0.1:8080; clients outside are rejected: make port and targetPort equal, or use dnat"
        ]
    );
    // One that takes no new flows does not matter; and it heals.
    world.put(slice(&["10.244.0.1-"]));
    assert_eq!(world.problems(), [""; 0]);
    world.put(slice(&["10.244.0.1+"])).put(direct(8080));
    assert_eq!(meets(&mut world, LoadBalancer, CLIENT), "forward dsr-ipip 1");
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn direct_return_without_an_address_of_its_own_is_told() {
    let mut service = direct(8080);
    service.spec.r#type = "NodePort".into();
    service.spec.external_ips.clear();
    service.status.load_balancer.ingress.clear();
    let mut world = gateway();
    world.put(service).put(slice(&["10.244.0.1+"]));
    assert_eq!(meets(&mut world, NodePort, CLIENT), "forward nat 1");
    assert!(world.problems().iter().any(|p| p.contains("is for load-balancer and external addresses")));
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
