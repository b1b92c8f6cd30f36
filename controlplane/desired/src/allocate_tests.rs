use super::{ADDRESS_CONDITION, AllocateError, Allocations, Shortage, is_waiting, service};
use crate::defaults;
use crate::desired::Family;
use crate::k8s::Service;
use crate::object::{Object, ObjectKey};
use crate::settings::Rules;
use crate::test_world::{mk_port, mk_public, mk_service};
use crate::words::{ADDRESS_POOL_ANNOTATION, LOAD_BALANCER_IPS_ANNOTATION, SHARING_KEY_ANNOTATION};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_wire::config::{Pool, PortRange};

fn pool(name: &str, networks: &[&str]) -> Pool {
    Pool { name: name.into(), addresses: networks.iter().map(|text| text.parse().unwrap()).collect() }
}

fn rules() -> Rules {
    Rules {
        load_balancer_class: crate::settings::LoadBalancerClass::from_config(
            &turnpike_wire::config::Config::default(),
        ),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()],
        node_port_range: PortRange { first: 30000, last: 32767 },
        pools: vec![
            pool("public", &["203.0.113.0/30"]),
            pool("six", &["2001:db8:1b::/64"]),
            pool("spare", &["198.51.100.0/31"]),
        ],
        own_addresses: BTreeSet::from(["203.0.113.0".parse().unwrap()]),
    }
}

/// A Service with its defaults and without addresses.
fn plain(name: &str, kind: &str) -> Service {
    let mut service = mk_service(name, "");
    service.spec.r#type = kind.into();
    let mut object = Object::from(service);
    defaults::apply(&mut object, None, Family::V4);
    match object {
        Object::Service(service) => *service,
        other => panic!("{other}"),
    }
}

/// Always the first of the choice.
fn first(_bound: u64) -> u64 {
    0
}

fn allocate(one: &mut Service, rules: &Rules, taken: &Allocations) -> Result<(), Vec<AllocateError>> {
    service(one, rules, taken, &mut first)
}

fn public_addresses(service: &Service) -> Vec<&str> {
    service.status.load_balancer.ingress.iter().map(|ingress| ingress.ip.as_str()).collect()
}

fn reason(result: Result<(), Vec<AllocateError>>) -> String {
    result.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn rule_c4_cluster_addresses_come_from_the_upper_band_first() {
    // Network, first of the upper band, last usable, size of the lower band.
    let rows = [
        ("10.96.0.0/16", "10.96.1.1", "10.96.255.254", 256),
        ("10.96.0.0/24", "10.96.0.17", "10.96.0.254", 16),
        ("10.96.0.0/20", "10.96.1.1", "10.96.15.254", 256),
        ("10.96.0.0/28", "10.96.0.1", "10.96.0.14", 0),
        ("fd00::/112", "fd00::101", "fd00::ffff", 256),
    ];
    for (network, upper_first, last, lower) in rows {
        let mut rules = rules();
        rules.service_cidrs = vec![network.parse().unwrap()];
        let mut one = plain("shop/a", "ClusterIP");
        one.spec.ip_families = vec![if network.contains(':') { "IPv6" } else { "IPv4" }.into()];
        let mut at_first = one.clone();
        service(&mut at_first, &rules, &Allocations::default(), &mut first).unwrap();
        assert_eq!(at_first.spec.cluster_ip, upper_first, "{network}");
        assert_eq!(at_first.spec.cluster_ips, [upper_first], "{network}");
        let mut at_last = one.clone();
        service(&mut at_last, &rules, &Allocations::default(), &mut |bound| bound - 1).unwrap();
        assert_eq!(at_last.spec.cluster_ip, last, "{network}");
        // With the upper band full the lower one is used, then nothing is left.
        let mut taken = Allocations::default();
        let mut given = BTreeSet::new();
        if rules.service_cidrs[0].prefix_len() < 24 || network.contains(':') {
            continue;
        }
        loop {
            let mut next = plain(&format!("shop/s{}", given.len()), "ClusterIP");
            match allocate(&mut next, &rules, &taken) {
                Ok(()) => assert!(given.insert(next.spec.cluster_ip.parse::<IpAddr>().unwrap())),
                Err(error) => {
                    assert!(error[0].to_string().contains(&format!(
                        "all IPv4 addresses of cluster.service_cidrs ({network}) are taken"
                    )));
                    break;
                }
            }
            taken.add(&next);
        }
        let size = 1_usize << (32 - rules.service_cidrs[0].prefix_len());
        assert_eq!(given.len(), size - 2, "{network}: all but the first and the last address");
        assert!(lower == 0 || given.contains(&"10.96.0.16".parse().unwrap()));
    }
}

#[test]
fn rule_c5_node_ports_come_from_the_upper_band_first() {
    let mut one = plain("shop/a", "NodePort");
    allocate(&mut one, &rules(), &Allocations::default()).unwrap();
    assert_eq!(one.spec.ports[0].node_port, 30086);
    let mut narrow = rules();
    narrow.node_port_range = PortRange { first: 30000, last: 30001 };
    let mut many = plain("shop/a", "NodePort");
    many.spec.ports = (1..4).map(|port| mk_port(&format!("p{port}"), "TCP", port)).collect();
    let before = many.clone();
    let told = reason(allocate(&mut many, &narrow, &Allocations::default()));
    assert_eq!(
        told,
        "Service shop/a: all 2 NodePorts of 30000-30001 are taken; widen cluster.node_port_range"
    );
    assert_eq!(many, before, "nothing is half allocated");
}

#[test]
fn one_port_number_in_two_protocols_gets_one_node_port() {
    let mut one = plain("shop/dns", "NodePort");
    one.spec.ports = vec![
        mk_port("dns", "UDP", 53),
        mk_port("dns-tcp", "TCP", 53),
        mk_port("web", "TCP", 80),
        mk_port("web-2", "TCP", 81),
    ];
    allocate(&mut one, &rules(), &Allocations::default()).unwrap();
    let ports: Vec<i32> = one.spec.ports.iter().map(|port| port.node_port).collect();
    assert_eq!(ports, [30086, 30086, 30087, 30088]);
}

#[test]
fn load_balancer_services_have_all_three_faces_unless_told_otherwise() {
    let mut one = plain("shop/a", "LoadBalancer");
    allocate(&mut one, &rules(), &Allocations::default()).unwrap();
    assert_eq!(public_addresses(&one), ["203.0.113.1"], "the first free one that is not the gateway's");
    assert_ne!((one.spec.ports[0].node_port, one.spec.cluster_ip.as_str()), (0, ""));
    assert_eq!(one.status.load_balancer.ingress[0].ip_mode.as_deref(), Some("VIP"));
    let mut without = plain("shop/a", "LoadBalancer");
    without.spec.allocate_load_balancer_node_ports = Some(false);
    allocate(&mut without, &rules(), &Allocations::default()).unwrap();
    assert_eq!(without.spec.ports[0].node_port, 0);
    let mut others = plain("shop/a", "LoadBalancer");
    others.spec.load_balancer_class = Some("example.com/other".into());
    allocate(&mut others, &rules(), &Allocations::default()).unwrap();
    assert!(public_addresses(&others).is_empty());
    let mut plain_one = plain("shop/a", "ClusterIP");
    mk_public(&mut plain_one, "203.0.113.2");
    plain_one.spec.r#type = "ClusterIP".into();
    allocate(&mut plain_one, &rules(), &Allocations::default()).unwrap();
    assert!(public_addresses(&plain_one).is_empty(), "the address goes back with the type");
    for kind in ["ExternalName", "ClusterIP"] {
        let mut none = plain("shop/a", kind);
        none.spec.cluster_ip = "None".into();
        allocate(&mut none, &rules(), &Allocations::default()).unwrap();
        assert_eq!(none.spec.cluster_ip, if kind == "ExternalName" { "" } else { "None" });
    }
}

#[test]
fn pools_are_named_requested_and_exhausted() {
    let in_pool = |name: &str, pool: &str| {
        let mut service = plain(name, "LoadBalancer");
        service.metadata.annotations.insert(ADDRESS_POOL_ANNOTATION.into(), pool.into());
        service
    };
    let asking = |name: &str, address: &str| {
        let mut service = plain(name, "LoadBalancer");
        service.spec.load_balancer_ip = address.into();
        service
    };
    let mut one = in_pool("shop/a", "spare");
    allocate(&mut one, &rules(), &Allocations::default()).unwrap();
    assert_eq!(public_addresses(&one), ["198.51.100.0"]);
    let mut taken = Allocations::of([&one]);
    // The Service keeps its address when it is applied again, and gives it up when the pool changes.
    let mut again = one.clone();
    allocate(&mut again, &rules(), &taken).unwrap();
    assert_eq!(again, one);
    again.metadata.annotations.insert(ADDRESS_POOL_ANNOTATION.into(), "public".into());
    allocate(&mut again, &rules(), &taken).unwrap();
    assert_eq!(public_addresses(&again), ["203.0.113.1"]);
    let mut wanted = asking("shop/b", "198.51.100.1");
    allocate(&mut wanted, &rules(), &taken).unwrap();
    assert_eq!(public_addresses(&wanted), ["198.51.100.1"]);
    taken.add(&wanted);
    let rows = [
        (
            asking("shop/c", "198.51.100.0"),
            "Service shop/c: spec.loadBalancerIP: 198.51.100.0 is taken by Service shop/a: to share it, both need the same",
        ),
        (
            asking("shop/c", "192.0.2.9"),
            "spec.loadBalancerIP: 192.0.2.9 is in none of the address pools public, six, spare",
        ),
        (asking("shop/c", "203.0.113.0"), "spec.loadBalancerIP: 203.0.113.0 is the gateway's own address"),
        (
            asking("shop/c", "2001:db8:1b::5"),
            "spec.loadBalancerIP: 2001:db8:1b::5 is of a family the Service does not have (IPv4)",
        ),
    ];
    for (mut service, words) in rows {
        let before = service.clone();
        let told = reason(allocate(&mut service, &rules(), &taken));
        assert!(told.contains(words), "{words}: {told}");
        assert_eq!(service, before, "nothing is half allocated");
    }
    for (mut service, words) in [
        (
            in_pool("shop/c", "spare"),
            "no free IPv4 load-balancer address: pool \"spare\" has 2 to give, none free",
        ),
        (in_pool("shop/c", "six"), "no free IPv4 load-balancer address: pool \"six\" has 0 to give"),
    ] {
        allocate(&mut service, &rules(), &taken).unwrap();
        assert_eq!(public_addresses(&service), [""; 0]);
        assert!(is_waiting(&service) && service.status.conditions[0].message.contains(words), "{service:?}");
        assert!(!service.spec.cluster_ip.is_empty(), "its other faces are there");
        let mut again = service.clone();
        allocate(&mut again, &rules(), &taken).unwrap();
        assert_eq!(again, service, "waiting on changes nothing");
    }
    taken.remove(&ObjectKey::new("shop", "a"));
    let mut next = in_pool("shop/c", "spare");
    next.status
        .conditions
        .push(crate::k8s::Condition { r#type: ADDRESS_CONDITION.into(), ..Default::default() });
    allocate(&mut next, &rules(), &taken).unwrap();
    assert_eq!(public_addresses(&next), ["198.51.100.0"]);
    assert!(!is_waiting(&next), "who has an address waits no more");
}

#[test]
fn what_is_taken_is_refused_by_the_name_of_its_owner() {
    let mut holder = plain("infra/dns", "NodePort");
    holder.spec.cluster_ip = "10.96.0.10".into();
    holder.spec.cluster_ips = vec!["10.96.0.10".into()];
    holder.spec.ports[0].node_port = 30053;
    let taken = Allocations::of([&holder]);
    let mut same = holder.clone();
    allocate(&mut same, &rules(), &taken).unwrap();
    assert_eq!(same, holder, "its own are no conflict");
    let mut thief = holder.clone();
    thief.metadata.name = "thief".into();
    let told = allocate(&mut thief, &rules(), &taken).unwrap_err();
    let by = ObjectKey::new("infra", "dns");
    assert_eq!(
        told[0].reason,
        Shortage::AddressTaken {
            field: "spec.clusterIP",
            address: "10.96.0.10".parse().unwrap(),
            by: by.clone()
        }
    );
    assert_eq!(told[1].reason, Shortage::NodePortTaken { index: Some(0), port: 30053, by });
    assert_eq!(
        told[1].to_string(),
        "Service infra/thief: spec.ports[0].nodePort: 30053 is taken by Service infra/dns; choose another or leave it out"
    );
}

#[test]
fn two_families_get_two_addresses_and_a_preferred_one_is_given_up() {
    let dual = |policy: &str| {
        let mut service = plain("shop/a", "LoadBalancer");
        service.spec.ip_families = vec!["IPv4".into(), "IPv6".into()];
        service.spec.ip_family_policy = Some(policy.into());
        service
    };
    let mut both = dual("RequireDualStack");
    allocate(&mut both, &rules(), &Allocations::default()).unwrap();
    assert_eq!(both.spec.cluster_ips, ["10.96.1.1", "fd00:10:96::101"]);
    assert_eq!(public_addresses(&both), ["203.0.113.1", "2001:db8:1b::1"]);
    let mut four = rules();
    four.service_cidrs.pop();
    let mut preferred = dual("PreferDualStack");
    allocate(&mut preferred, &four, &Allocations::default()).unwrap();
    assert_eq!(preferred.spec.ip_families, ["IPv4"]);
    assert_eq!(preferred.spec.cluster_ips, ["10.96.1.1"]);
    let told = allocate(&mut dual("RequireDualStack"), &four, &Allocations::default()).unwrap_err();
    assert_eq!(
        told[0].reason,
        Shortage::ClusterAddressesExhausted { family: Family::V6, networks: "none".into() }
    );
    let mut no_public_six = rules();
    no_public_six.pools.remove(1);
    let mut preferred = dual("PreferDualStack");
    allocate(&mut preferred, &no_public_six, &Allocations::default()).unwrap();
    assert_eq!(public_addresses(&preferred), ["203.0.113.1"]);
    let mut required = dual("RequireDualStack");
    allocate(&mut required, &no_public_six, &Allocations::default()).unwrap();
    assert_eq!(public_addresses(&required), ["203.0.113.1"], "one of each family where a pool has it");
    assert!(!is_waiting(&required), "what no pool has is not waited for");
}

#[test]
fn rule_c4_the_search_starts_at_random_wraps_in_the_upper_band_and_ends_in_the_lower() {
    let mut rules = rules();
    rules.service_cidrs = vec!["10.96.0.0/27".parse().unwrap()];
    let mut taken = Allocations::default();
    let mut order = Vec::new();
    for number in 0..30 {
        let mut one = plain(&format!("shop/s{number}"), "ClusterIP");
        // Always the last of what there is to choose from.
        service(&mut one, &rules, &taken, &mut |bound| bound - 1).unwrap();
        taken.add(&one);
        order.push(one.spec.cluster_ip.parse::<std::net::Ipv4Addr>().unwrap().octets()[3]);
    }
    // 32 addresses, 16 of them in the lower band: 17 to 30 from the end around, then 1 to 16.
    let expected: Vec<u8> = [30].into_iter().chain(17..30).chain([16]).chain(1..16).collect();
    assert_eq!(order, expected);
}

#[test]
fn rule_c6_an_address_comes_from_any_network_and_networks_may_overlap() {
    let mut rules = rules();
    rules.service_cidrs = ["10.96.0.0/30", "10.96.0.0/29", "10.97.0.0/30"].map(|n| n.parse().unwrap()).into();
    let mut taken = Allocations::default();
    let mut given = BTreeSet::new();
    for number in 0..8 {
        let mut one = plain(&format!("shop/s{number}"), "ClusterIP");
        allocate(&mut one, &rules, &taken).unwrap();
        taken.add(&one);
        assert!(given.insert(one.spec.cluster_ip.clone()), "{} twice", one.spec.cluster_ip);
    }
    assert_eq!(given.len(), 8, "six of the overlapping networks, two of the other: {given:?}");
    let told = reason(allocate(&mut plain("shop/one-more", "ClusterIP"), &rules, &taken));
    assert!(told.contains("all IPv4 addresses of cluster.service_cidrs"), "{told}");
    // A network that is taken away gives no address any more; what it gave stays.
    rules.service_cidrs.pop();
    let mut kept = plain("shop/s7", "ClusterIP");
    kept.spec.cluster_ip = "10.97.0.2".into();
    kept.spec.cluster_ips = vec!["10.97.0.2".into()];
    allocate(&mut kept, &rules, &taken).unwrap();
    assert_eq!(kept.spec.cluster_ip, "10.97.0.2");
}

#[test]
fn rule_c7_the_health_check_port_comes_from_the_node_port_range() {
    let local = |name: &str| {
        let mut service = plain(name, "LoadBalancer");
        service.spec.external_traffic_policy = "Local".into();
        service
    };
    let mut one = local("shop/a");
    allocate(&mut one, &rules(), &Allocations::default()).unwrap();
    assert_eq!((one.spec.ports[0].node_port, one.spec.health_check_node_port), (30086, 30087));
    let taken = Allocations::of([&one]);
    let mut thief = plain("shop/b", "NodePort");
    thief.spec.ports[0].node_port = 30087;
    let told = reason(allocate(&mut thief, &rules(), &taken));
    assert!(told.contains("spec.ports[0].nodePort: 30087 is taken by Service shop/a"), "{told}");
    let mut stated = local("shop/c");
    stated.spec.health_check_node_port = 30086;
    let told = reason(allocate(&mut stated, &rules(), &taken));
    assert!(told.contains("spec.healthCheckNodePort: 30086 is taken by Service shop/a"), "{told}");
    let mut twice = local("shop/d");
    twice.spec.ports[0].node_port = 30500;
    twice.spec.health_check_node_port = 30500;
    let told = reason(allocate(&mut twice, &rules(), &taken));
    assert!(told.contains("spec.healthCheckNodePort: 30500 is taken by Service shop/d"), "{told}");
    // It goes back with the policy.
    one.spec.external_traffic_policy = "Cluster".into();
    allocate(&mut one, &rules(), &taken).unwrap();
    assert_eq!(one.spec.health_check_node_port, 0);
}

#[test]
fn the_first_and_the_last_address_of_a_network_are_given_only_when_asked_for() {
    let mut rules = rules();
    rules.own_addresses.clear();
    // Networks, and the addresses that are given without being asked for.
    let rows: [(&[&str], &[&str]); 4] = [
        (&["203.0.113.0/30"], &["203.0.113.1", "203.0.113.2"]),
        (&["203.0.113.4/31"], &["203.0.113.4", "203.0.113.5"]),
        (&["203.0.113.7/32"], &["203.0.113.7"]),
        (&["203.0.113.8/30", "203.0.113.1/32"], &["203.0.113.9", "203.0.113.10", "203.0.113.1"]),
    ];
    for (networks, expected) in rows {
        rules.pools = vec![pool("public", networks)];
        let mut taken = Allocations::default();
        for number in 0..=expected.len() {
            let mut one = plain(&format!("shop/s{number}"), "LoadBalancer");
            allocate(&mut one, &rules, &taken).unwrap();
            taken.add(&one);
            let found = public_addresses(&one);
            assert_eq!(found.first(), expected.get(number), "{networks:?}");
        }
    }
    rules.pools = vec![pool("public", &["203.0.113.0/30"])];
    let mut asks = plain("shop/a", "LoadBalancer");
    asks.spec.load_balancer_ip = "203.0.113.0".into();
    allocate(&mut asks, &rules, &Allocations::default()).unwrap();
    assert_eq!(public_addresses(&asks), ["203.0.113.0"]);
}

#[test]
fn an_address_is_shared_only_where_both_want_it_and_the_ports_differ() {
    let service = |name: &str, key: &str, port: i32, asks: &str| {
        let mut service = plain(name, "LoadBalancer");
        service.spec.ports = vec![mk_port("p", "TCP", port)];
        if !key.is_empty() {
            service.metadata.annotations.insert(SHARING_KEY_ANNOTATION.into(), key.into());
        }
        if !asks.is_empty() {
            service.metadata.annotations.insert(LOAD_BALANCER_IPS_ANNOTATION.into(), asks.into());
        }
        service
    };
    let mut first = service("shop/a", "web", 80, "");
    allocate(&mut first, &rules(), &Allocations::default()).unwrap();
    assert_eq!(public_addresses(&first), ["203.0.113.1"]);
    let taken = Allocations::of([&first]);
    // Key, port, address asked for → what comes of it.
    let rows = [
        ("web", 443, "", Ok("203.0.113.1")),
        ("web", 443, " 203.0.113.1", Ok("203.0.113.1")),
        ("web", 80, "", Ok("203.0.113.2")),
        ("web", 80, "203.0.113.1", Err("both have port 80/TCP")),
        ("other", 443, "", Ok("203.0.113.2")),
        ("other", 443, "203.0.113.1", Err("both need the same turnpike.dev/sharing-key")),
        ("", 443, "", Ok("203.0.113.2")),
        ("", 443, "203.0.113.1", Err("203.0.113.1 is taken by Service shop/a: to share it")),
    ];
    for (key, port, asks, expected) in rows {
        let mut second = service("shop/b", key, port, asks);
        match (allocate(&mut second, &rules(), &taken), expected) {
            (Ok(()), Ok(address)) => assert_eq!(public_addresses(&second), [address], "{key} {port} {asks}"),
            (told @ Err(_), Err(words)) => {
                let told = reason(told);
                assert!(told.contains(words) && told.contains(LOAD_BALANCER_IPS_ANNOTATION), "{told}");
            }
            (found, expected) => panic!("{key} {port} {asks}: {found:?}, not {expected:?}"),
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_given_twice(seeds in proptest::collection::vec(any::<u64>(), 1..60)) {
        let mut rules = rules();
        rules.service_cidrs = vec!["10.96.0.0/26".parse().unwrap()];
        rules.node_port_range = PortRange { first: 30000, last: 30063 };
        let mut taken = Allocations::default();
        let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for (index, seed) in seeds.iter().enumerate() {
            let mut one = plain(&format!("shop/s{index}"), "NodePort");
            service(&mut one, &rules, &taken, &mut |bound| seed % bound).unwrap();
            let network: ipnet::IpNet = "10.96.0.0/26".parse().unwrap();
            let address: IpAddr = one.spec.cluster_ip.parse().unwrap();
            prop_assert!(network.contains(&address) && address != network.network() && address != network.broadcast());
            prop_assert!((30000..30064).contains(&one.spec.ports[0].node_port));
            prop_assert!(addresses.insert(address) && ports.insert(one.spec.ports[0].node_port));
            taken.add(&one);
        }
    }
}
