use crate::k8s::{LoadBalancerIngress, ServiceCidr, Time};
use crate::settings::{LoadBalancerScope, Settings};
use crate::test_world::{
    World, mk_endpoint_port, mk_meta, mk_pod, mk_port, mk_public, mk_service, mk_settings, mk_slice,
    mk_target,
};
use crate::words::{HEADLESS_LABEL, SERVICE_NAME_LABEL, SERVICE_PROXY_LABEL, WEIGHT_ANNOTATION};

/// A world with the Service `shop/web` and two ready endpoints.
fn web() -> World {
    let mut world = World::new();
    world.put(mk_service("shop/web", "10.96.0.10"));
    world.put(mk_slice("shop/web-1", "web", &["10.244.0.1+", "10.244.0.2+"]));
    world
}

const WEB: &str = "TCP 10.96.0.10:80 cluster_ip forward 10.244.0.1:8080 10.244.0.2:8080";
const NOBODY: &str = "TCP 10.96.0.10:80 cluster_ip reject";

#[test]
fn a_service_port_forwards_to_its_endpoints() {
    let mut world = web();
    assert_eq!(world.lines(), [WEB]);
    assert_eq!(world.problems(), [] as [&str; 0]);
    let view = &world.resolve().views()[0];
    assert_eq!(
        (view.namespace.as_str(), view.service.as_str(), view.port_name.as_str()),
        ("shop", "web", "http")
    );
    assert_eq!(view.from_revision, 102, "of the slice, which is younger");
    assert_eq!(world.resolve().services.keys().next().unwrap().0, "shop/web:http/TCP/IPv4");
}

#[test]
fn rule_s1_external_name_and_no_cluster_address_make_no_forwarding() {
    for (kind, address) in
        [("ExternalName", "10.96.0.10"), ("ClusterIP", ""), ("ClusterIP", "None"), ("LoadBalancer", "")]
    {
        let mut service = mk_service("shop/web", address);
        mk_public(&mut service, "203.0.113.5");
        service.spec.r#type = kind.into();
        let mut world = web();
        assert_eq!(world.put(service).lines(), [] as [&str; 0], "{kind} {address:?}");
        assert!(world.resolve().services.is_empty());
    }
}

#[test]
fn rule_s2_labels_leave_services_and_slices_to_others() {
    let labelled = |label: &str| {
        let mut service = mk_service("shop/web", "10.96.0.10");
        service.metadata.labels.insert(label.into(), String::new());
        service
    };
    assert_eq!(web().put(labelled(SERVICE_PROXY_LABEL)).lines(), [] as [&str; 0]);
    assert_eq!(
        web().put(labelled(HEADLESS_LABEL)).lines(),
        [WEB],
        "on a Service with an address it means nothing"
    );
    let mut slice = mk_slice("shop/web-1", "web", &["10.244.0.1+"]);
    slice.metadata.labels.insert(HEADLESS_LABEL.into(), String::new());
    assert_eq!(web().put(slice).lines(), [NOBODY]);
}

#[test]
fn rule_s3_ports_join_by_name_and_protocol_and_target_port_is_not_read() {
    let mut service = mk_service("shop/dns", "10.96.0.10");
    service.spec.ports =
        vec![mk_port("dns", "UDP", 53), mk_port("dns-tcp", "TCP", 53), mk_port("metrics", "", 9153)];
    let mut slice = mk_slice("shop/dns-1", "dns", &["10.244.0.1+"]);
    slice.ports = vec![
        mk_endpoint_port("dns", "UDP", 1053),
        mk_endpoint_port("dns-tcp", "UDP", 2053),
        mk_endpoint_port("metrics", "TCP", 9),
    ];
    let mut world = World::new();
    assert_eq!(
        world.put(service).put(slice).lines(),
        [
            "TCP 10.96.0.10:53 cluster_ip reject",
            "UDP 10.96.0.10:53 cluster_ip forward 10.244.0.1:1053",
            "TCP 10.96.0.10:9153 cluster_ip forward 10.244.0.1:9",
        ]
    );
}

#[test]
fn rule_s4_each_family_stands_alone() {
    let mut service = mk_service("shop/web", "10.96.0.10");
    service.spec.cluster_ips.push("fd00:10:96::a".into());
    service.spec.ip_families = vec!["IPv4".into(), "IPv6".into()];
    mk_public(&mut service, "203.0.113.5");
    mk_public(&mut service, "2001:db8:1b::5");
    let mut world = web();
    world.put(service.clone()).put(mk_slice("shop/web-6", "web", &["fd00:244::1+"]));
    assert_eq!(
        world.lines(),
        [
            WEB,
            "TCP 203.0.113.5:80 load_balancer forward 10.244.0.1:8080 10.244.0.2:8080",
            "TCP [2001:db8:1b::5]:80 load_balancer forward [fd00:244::1]:8080",
            "TCP [fd00:10:96::a]:80 cluster_ip forward [fd00:244::1]:8080",
        ]
    );
    // Without a cluster address of a family its other addresses are not answered either.
    service.spec.cluster_ips.pop();
    service.spec.ip_families.pop();
    assert_eq!(world.put(service.clone()).lines().len(), 2);
    // Very old objects say no families; their address counts for its own.
    service.spec.ip_families.clear();
    service.spec.cluster_ips.clear();
    service.spec.cluster_ip = "fd00:10:96::a".into();
    let lines = world.put(service).lines();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.contains('[')), "{lines:?}");
}

#[test]
fn rule_s6_only_addresses_that_packets_carry_are_answered() {
    let mut service = mk_service("shop/web", "10.96.0.10");
    service.spec.r#type = "LoadBalancer".into();
    let ingress = |ip: &str, hostname: &str, mode: Option<&str>| LoadBalancerIngress {
        ip: ip.into(),
        hostname: hostname.into(),
        ip_mode: mode.map(Into::into),
        ports: Vec::new(),
    };
    service.status.load_balancer.ingress = vec![
        ingress("203.0.113.1", "", None),
        ingress("203.0.113.2", "", Some("VIP")),
        ingress("203.0.113.3", "", Some("Proxy")),
        ingress("", "lb.example.com", None),
        ingress("not-an-ip", "", None),
    ];
    let mut world = web();
    let lines = world.put(service).lines();
    assert_eq!(lines.len(), 3);
    assert!(lines[1].starts_with("TCP 203.0.113.1:80 load_balancer forward"));
    assert!(lines[2].starts_with("TCP 203.0.113.2:80 load_balancer forward"));
    assert_eq!(
        world.problems(),
        ["Service shop/web: status.loadBalancer.ingress[4].ip: \"not-an-ip\" is no IP address"]
    );
}

#[test]
fn node_ports_answer_on_each_own_address_of_the_family() {
    let mut service = mk_service("shop/web", "10.96.0.10");
    service.spec.r#type = "NodePort".into();
    service.spec.ports[0].node_port = 30080;
    let mut world = web();
    assert_eq!(
        world.put(service).lines(),
        [WEB, "TCP 192.0.2.1:30080 node_port forward 10.244.0.1:8080 10.244.0.2:8080"]
    );
}

#[test]
fn rule_s7_slices_of_names_and_without_a_service_are_ignored() {
    let mut names = mk_slice("shop/web-2", "web", &["10.244.0.3+"]);
    names.address_type = "FQDN".into();
    let mut nobodys = mk_slice("shop/web-3", "web", &["10.244.0.4+"]);
    nobodys.metadata.labels.remove(SERVICE_NAME_LABEL);
    let elsewhere = mk_slice("other/web-1", "web", &["10.244.0.5+"]);
    assert_eq!(web().put(names).put(nobodys).put(elsewhere).lines(), [WEB]);
}

#[test]
fn rule_s8_incomplete_ports_and_endpoints_are_ignored() {
    let mut slice = mk_slice("shop/web-1", "web", &["10.244.0.1+", "10.244.0.2+", "10.244.0.3+", "fd00::1+"]);
    slice.endpoints[1].addresses.insert(0, "10.244.9.9".into());
    slice.endpoints[2].addresses.clear();
    let mut nameless = mk_endpoint_port("http", "TCP", 1);
    nameless.name = None;
    let mut portless = mk_endpoint_port("http", "TCP", 1);
    portless.port = None;
    slice.ports.splice(
        0..0,
        [nameless, portless, mk_endpoint_port("http", "TCP", 0), mk_endpoint_port("http", "TCP", 70000)],
    );
    assert_eq!(
        web().put(slice).lines(),
        ["TCP 10.96.0.10:80 cluster_ip forward 10.244.0.1:8080 10.244.9.9:8080"]
    );
}

#[test]
fn rule_s9_slices_are_merged_and_duplicates_counted_once() {
    let mut world = web();
    // The record that is of use wins over one that is not, in whichever slice it stands.
    world.put(mk_slice("shop/web-0", "web", &["10.244.0.2-", "10.244.0.3+"]));
    assert_eq!(world.lines(), [format!("{WEB} 10.244.0.3:8080")]);
    world.put(mk_slice("shop/web-0", "web", &["10.244.0.2+", "10.244.0.1+"]));
    assert_eq!(world.lines(), [WEB]);
    // An endpoint moves to another slice: at no time it is gone.
    world.put(mk_slice("shop/web-1", "web", &[]));
    assert_eq!(world.lines(), [WEB]);
}

#[test]
fn rule_s9_of_duplicates_the_local_one_counts() {
    let mut world = World::with(Settings { node_name: "node-a".into(), ..mk_settings() });
    let mut slice = mk_slice("shop/web-1", "web", &["10.244.0.1+", "10.244.0.1-"]);
    slice.endpoints[0].node_name = Some("node-b".into());
    slice.endpoints[1].node_name = Some("node-a".into());
    assert_eq!(world.put(mk_service("shop/web", "10.96.0.10")).put(slice).lines(), [NOBODY]);
}

#[test]
fn rule_n1_no_endpoints_reject_on_every_face() {
    let mut service = mk_service("shop/web", "10.96.0.10");
    mk_public(&mut service, "203.0.113.5");
    service.spec.ports[0].node_port = 30080;
    assert_eq!(
        World::new().put(service).lines(),
        [NOBODY, "TCP 192.0.2.1:30080 node_port reject", "TCP 203.0.113.5:80 load_balancer reject"]
    );
}

#[test]
fn rule_s13_nothing_is_resolved_before_both_lists_are_there() {
    use crate::object::Kind;
    let mut world = web();
    world.tracker = crate::tracker::Tracker::new(world.registry.clone(), &[Kind::Pod]);
    for kind in [Kind::Service, Kind::Pod, Kind::EndpointSlice] {
        world.put(mk_service("shop/web", "10.96.0.10"));
        assert_eq!(world.resolver.resolve(&mut world.tracker), None, "before {kind}");
        let listed = world.tracker.replace_all(kind, []);
        assert_eq!(listed.added, 0);
    }
    assert!(world.resolver.resolve(&mut world.tracker).is_some());
}

#[test]
fn cve_2021_25737_dangerous_endpoints_are_refused_and_told() {
    let bad = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "192.0.2.1", "10.96.0.10"];
    for address in bad {
        let mut world = web();
        world.put(mk_slice("shop/web-2", "web", &[&format!("{address}+")]));
        assert_eq!(world.lines(), [WEB], "{address}");
        let problems = world.problems();
        assert!(problems.len() == 1 && problems[0].contains(&format!("endpoint {address} ")), "{problems:?}");
    }
    let many: Vec<String> = (0..40).map(|n| format!("127.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut world = web();
    let problems = world.put(mk_slice("shop/web-2", "web", &many)).problems();
    assert_eq!(problems.len(), 17);
    assert!(problems.iter().any(|line| line.contains("24 more endpoints are refused")), "{problems:?}");
}

#[test]
fn an_endpoint_counts_again_when_its_address_is_no_service_any_more() {
    let mut world = web();
    world.put(mk_slice("shop/web-1", "web", &["10.244.0.1+", "10.244.0.2+", "10.250.7.7+"]));
    let all = format!("{WEB} 10.250.7.7:8080");
    assert_eq!(world.lines(), std::slice::from_ref(&all));
    // Another Service gets the address: a packet to it would come back to us for ever.
    world.put(mk_service("shop/loop", "10.250.7.7"));
    assert_eq!(world.lines()[0], WEB);
    world.delete("/registry/services/specs/shop/loop");
    assert_eq!(world.lines(), [all]);
}

#[test]
fn cve_2020_8554_a_status_cannot_take_any_address() {
    let rows = [
        ("203.0.113.5", None),
        ("198.51.100.9", Some("no address pool")),
        ("10.96.0.77", Some("Service CIDR")),
        ("10.97.0.1", Some("Service CIDR")),
        ("192.0.2.1", Some("gateway's own")),
        ("127.0.0.1", Some("loopback")),
        ("224.0.0.5", Some("multicast")),
    ];
    for scope in [mk_settings().load_balancer_scope, LoadBalancerScope::Any] {
        for (address, refused) in rows {
            let mut world = World::with(Settings { load_balancer_scope: scope.clone(), ..mk_settings() });
            let mut cidr = ServiceCidr { metadata: mk_meta("second"), ..Default::default() };
            cidr.spec.cidrs = vec!["10.97.0.0/16".into(), "not a network".into()];
            let mut service = mk_service("shop/web", "10.96.0.10");
            mk_public(&mut service, address);
            world.put(service).put(cidr);
            let refused = refused.filter(|words| scope != LoadBalancerScope::Any || !words.contains("pool"));
            assert_eq!(world.lines().len(), if refused.is_some() { 1 } else { 2 }, "{address} {scope:?}");
            let problems = world.problems();
            match refused {
                None => assert!(problems.is_empty(), "{problems:?}"),
                Some(words) => assert!(problems[0].contains(words), "{address}: {problems:?}"),
            }
        }
    }
    let mut service = mk_service("shop/web", "10.96.0.10");
    mk_public(&mut service, "203.0.113.5");
    service.spec.r#type = "ClusterIP".into();
    let mut world = web();
    assert_eq!(world.put(service).lines(), [WEB]);
    assert!(world.problems()[0].contains("not of type LoadBalancer"));
}

#[test]
fn conflicts_go_to_the_older_service_whatever_the_order() {
    let at = |name: &str, seconds: i64| {
        let mut service = mk_service(name, "10.96.0.10");
        service.metadata.creation_timestamp = Time::from_unix_seconds(seconds);
        service
    };
    let unknown = || {
        let mut service = at("shop/c", 0);
        service.metadata.creation_timestamp = Time::default();
        service
    };
    let rows = [
        (vec![at("shop/a", 20), at("shop/b", 10)], "b"),
        (vec![at("shop/b", 10), at("shop/a", 20)], "b"),
        (vec![at("shop/b", 10), at("shop/a", 10)], "a"),
        (vec![unknown(), at("shop/b", 10)], "b"),
    ];
    for (services, winner) in rows {
        let mut world = World::new();
        let count = services.len();
        for service in services {
            world.put(service);
        }
        let desired = world.resolve();
        assert_eq!(desired.views()[0].service, winner);
        assert_eq!(desired.frontends.len(), 1);
        assert_eq!(desired.services.len(), count);
        let problems = world.problems();
        assert!(
            problems.len() == 1 && problems[0].contains(&format!("taken by Service shop/{winner}")),
            "{problems:?}"
        );
        // The winner goes: the other has the frontend.
        world.delete(&format!("/registry/services/specs/shop/{winner}"));
        assert_ne!(world.resolve().views()[0].service, winner);
        assert!(world.problems().is_empty());
    }
}

#[test]
fn bad_parts_of_a_service_harm_nothing_else() {
    let mut service = mk_service("shop/web", "10.96.0.10");
    service.spec.ports = vec![
        mk_port("http", "TCP", 80),
        mk_port("zero", "TCP", 0),
        mk_port("high", "TCP", 65536),
        mk_port("odd", "ICMP", 1),
        mk_port("http", "TCP", 81),
        mk_port("a:b", "TCP", 82),
        mk_port(&"n".repeat(400), "TCP", 83),
    ];
    let mut world = web();
    assert_eq!(world.put(service).lines(), [WEB]);
    let problems = world.problems();
    for words in [
        "ports[1].port: 0",
        "ports[2].port: 65536",
        "ports[3].protocol",
        "ports[4]: a port",
        "ports[5].name",
        "ports[6]: the names",
    ] {
        assert!(problems.iter().any(|line| line.contains(words)), "{words}: {problems:?}");
    }
    for address in ["127.0.0.1", "192.0.2.1", "nonsense"] {
        let mut world = World::new();
        assert_eq!(world.put(mk_service("shop/web", address)).lines(), [] as [&str; 0], "{address}");
        assert_eq!(world.problems().len(), 1, "{address}");
    }
}

#[test]
fn a_bad_value_keeps_the_last_good_version_in_force() {
    let mut world = web();
    assert_eq!(world.lines(), [WEB]);
    world.put_bytes("/registry/services/specs/shop/web", b"{}");
    world.put_bytes("/registry/endpointslices/shop/web-1", b"k8s\0\xff\xff");
    world.put_bytes("/registry/services/specs/shop/new", b"k8s:enc:kms:v1:a:b");
    assert_eq!(world.lines(), [WEB]);
    let skipped = world.tracker.skipped();
    let keys: Vec<(&str, i64)> = skipped.iter().map(|s| (s.key.as_str(), s.revision)).collect();
    assert_eq!(
        keys,
        [
            ("/registry/services/specs/shop/new", 105),
            ("/registry/services/specs/shop/web", 103),
            ("/registry/endpointslices/shop/web-1", 104),
        ]
    );
    world.put(mk_service("shop/web", "10.96.0.11")).delete("/registry/endpointslices/shop/web-1");
    world.delete("/registry/services/specs/shop/new");
    assert_eq!(world.lines(), ["TCP 10.96.0.11:80 cluster_ip reject"]);
    assert!(world.tracker.skipped().is_empty());
}

#[test]
fn a_pods_weight_is_the_weight_of_its_backend() {
    let mut world = web();
    let mut slice = mk_slice("shop/web-1", "web", &["10.244.0.1+", "10.244.0.2+"]);
    slice.endpoints[0].target_ref = mk_target("web-0");
    slice.endpoints[1].target_ref = mk_target("web-1");
    let weighing = |text: &str| {
        let mut pod = mk_pod("shop/web-0", &[], "10.244.0.1");
        pod.metadata.annotations.insert(WEIGHT_ANNOTATION.into(), text.into());
        pod
    };
    assert_eq!(world.put(slice).lines(), [WEB]);
    let rows = [("10", "*10"), ("0", "*0"), ("256", "*256"), ("257", ""), ("-1", ""), ("much", "")];
    for (text, shown) in rows {
        let expected = WEB.replace("10.244.0.1:8080", &format!("10.244.0.1:8080{shown}"));
        assert_eq!(world.put(weighing(text)).lines(), [expected], "{text}");
        assert_eq!(world.problems().len(), usize::from(shown.is_empty()), "{text}");
    }
    world.put(weighing("7")).delete("/registry/pods/shop/web-0");
    assert_eq!(world.lines(), [WEB]);
}

#[test]
fn more_endpoints_than_a_service_port_may_have_are_left_out_and_told() {
    let mut world = web();
    for slice in 0..17_u32 {
        let addresses: Vec<String> =
            (0..1000_u32).map(|n| format!("10.{}.{}.{}", 128 + slice, n / 250, n % 250 + 1)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        world.put(mk_slice(&format!("shop/web-{slice}"), "web", &addresses));
    }
    assert_eq!(world.resolve().backend_count(), turnpike_wire::limits::BACKENDS_PER_SERVICE_MAX);
    assert!(world.problems()[0].contains("616 endpoints are over the limit"), "{:?}", world.problems());
}

#[test]
fn what_is_not_touched_is_shared_with_the_state_before() {
    let mut world = web();
    world.put(mk_service("shop/api", "10.96.0.20"));
    let before = world.resolve();
    world.put(mk_slice("shop/web-1", "web", &["10.244.0.9+"]));
    let after = world.resolve();
    let key = turnpike_wire::update::ServiceKey("shop/api:http/TCP/IPv4".into());
    assert!(std::sync::Arc::ptr_eq(&before.services[&key], &after.services[&key]));
    assert!(std::sync::Arc::ptr_eq(&after, &world.resolve()), "no news, no new state");
}
