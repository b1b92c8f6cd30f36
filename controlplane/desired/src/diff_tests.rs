use super::{diff, snapshot};
use crate::desired::Desired;
use crate::k8s::{EndpointHints, ForZone, Node};
use crate::settings::Settings;
use crate::test_world::{World, lines, mk_meta, mk_port, mk_public, mk_service, mk_settings, mk_slice};
use crate::words::ZONE_LABEL;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use turnpike_wire::update::{Backend, Cluster, Fleet, Frontend, FrontendKey, Service, ServiceKey, Update};

/// What a dataplane holds. Every update is checked against it: nothing may refer to what is not there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    services: BTreeMap<ServiceKey, (Service, BTreeMap<SocketAddr, Backend>)>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    cluster: Cluster,
}

impl Model {
    fn of(desired: &Desired) -> Self {
        let service = |s: &crate::desired::ResolvedService| {
            (s.service.clone(), s.backends.iter().map(|(address, b)| (*address, b.backend)).collect())
        };
        Self {
            services: desired.services.iter().map(|(key, s)| (key.clone(), service(s))).collect(),
            frontends: desired.frontends.iter().map(|(key, f)| (*key, f.frontend.clone())).collect(),
            cluster: desired.cluster.clone(),
        }
    }

    fn apply(&mut self, update: &Update) {
        match update {
            Update::Reset => *self = Self::default(),
            Update::PutCluster(cluster) => self.cluster = cluster.clone(),
            Update::PutFleet(_) | Update::Commit(_) | Update::CountFlows { .. } => {}
            Update::PutService(service) => {
                self.services
                    .entry(service.key.clone())
                    .or_insert_with(|| (service.clone(), BTreeMap::new()))
                    .0 = service.clone();
            }
            Update::DropService(key) => {
                assert!(self.frontends.values().all(|f| f.service != *key), "{key} is in use");
                assert!(self.services.remove(key).is_some(), "{key} is not there");
            }
            Update::PutBackend(key, backend) => {
                self.services.get_mut(key).expect("service of a backend").1.insert(backend.address, *backend);
            }
            Update::DropBackend(key, address) => {
                let backends = &mut self.services.get_mut(key).expect("service of a backend").1;
                assert!(backends.remove(address).is_some(), "{address} is not there");
            }
            Update::PutFrontend(frontend) => {
                assert!(self.services.contains_key(&frontend.service), "{} is not there", frontend.service);
                self.frontends.insert(frontend.key, frontend.clone());
            }
            Update::DropFrontend(key) => assert!(self.frontends.remove(key).is_some(), "{key} is not there"),
        }
    }
}

const FLEET: Fleet = Fleet { maglev_key: [1, 2], node_ports: (30000, 32767) };

/// A gateway that acts as node-a and answers external addresses.
fn settings() -> Settings {
    Settings { node_name: "node-a".into(), external_ips: true, ..mk_settings() }
}

/// A cluster of a few Services that get into each other's way: three addresses, two ports, some endpoints, some public, some with an
/// external address that endpoints have, too; and of a node whose zone and networks change.
fn cluster(choices: &[(u8, u8, u8, u8)]) -> World {
    let mut world = World::with(settings());
    change(&mut world, choices);
    world
}

fn change(world: &mut World, choices: &[(u8, u8, u8, u8)]) {
    for &(which, address, endpoints, face) in choices {
        let name = format!("shop/s{}", which % 4);
        if face % 7 == 6 {
            world.delete(&format!("/registry/services/specs/{name}"));
            continue;
        }
        if face % 17 == 16 {
            let mut node = Node { metadata: mk_meta("node-a"), ..Default::default() };
            node.metadata.labels.insert(ZONE_LABEL.into(), format!("zone-{}", address % 2));
            node.spec.pod_cidr = format!("10.244.{}.0/24", address % 3);
            world.put(node);
            continue;
        }
        let mut service = mk_service(&name, &format!("10.96.0.{}", 1 + address % 3));
        service.metadata.creation_timestamp = crate::k8s::Time::from_unix_seconds(i64::from(which % 3));
        if face & 1 != 0 {
            mk_public(&mut service, &format!("203.0.113.{}", address % 2));
        }
        if face & 2 != 0 {
            service.spec.ports.push(mk_port("https", "TCP", 443));
        }
        if face & 8 != 0 {
            service.spec.external_traffic_policy = "Local".into();
            service.spec.health_check_node_port = 32_000 + i32::from(address % 2);
        }
        if face & 16 != 0 {
            service.spec.external_ips = vec![format!("10.244.0.{}", 1 + address % 3)];
            service.spec.ports[0].port = if address & 4 != 0 { 8080 } else { 80 };
        }
        if face & 32 != 0 {
            service.spec.session_affinity = "ClientIP".into();
            service.spec.internal_traffic_policy = Some("Local".into());
        }
        if face & 64 != 0 {
            service.spec.load_balancer_source_ranges = vec![format!("10.{}.0.0/16", address % 2)];
        }
        let list: Vec<String> = (0..endpoints % 5)
            .map(|n| format!("10.244.0.{}{}", 1 + n, if endpoints & 8 == 0 { "+" } else { "~" }))
            .collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let mut slice = mk_slice(&format!("{name}-x"), &format!("s{}", which % 4), &list);
        for (n, endpoint) in slice.endpoints.iter_mut().enumerate() {
            endpoint.node_name = Some(if n % 2 == 0 { "node-a" } else { "node-b" }.into());
            if endpoints & 16 != 0 {
                let zone = ForZone { name: format!("zone-{}", n % 2) };
                endpoint.hints = Some(EndpointHints { for_zones: vec![zone], ..Default::default() });
            }
        }
        world.put(service).put(slice);
    }
}

#[test]
fn a_change_is_told_in_an_order_that_never_dangles() {
    let mut world = World::new();
    world.put(mk_service("shop/a", "10.96.0.1")).put(mk_slice("shop/a-1", "a", &["10.244.0.1+"]));
    let old = world.resolve();
    // The frontend passes from one Service to another.
    world.delete("/registry/services/specs/shop/a").delete("/registry/endpointslices/shop/a-1");
    world.put(mk_service("shop/b", "10.96.0.1")).put(mk_slice("shop/b-1", "b", &["10.244.0.2+"]));
    let new = world.resolve();
    let words: Vec<String> = diff(&old, &new)
        .iter()
        .map(|update| format!("{update:?}").split(['(', ' ']).next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(words, ["PutService", "PutBackend", "PutFrontend", "DropService"]);
}

#[test]
fn a_change_that_undoes_itself_publishes_nothing() {
    let mut world = World::new();
    world.put(mk_service("shop/a", "10.96.0.1")).put(mk_slice("shop/a-1", "a", &["10.244.0.1+"]));
    let old = world.resolve();
    world.put(mk_slice("shop/a-1", "a", &["10.244.0.9+"]));
    world.resolve();
    world.put(mk_slice("shop/a-1", "a", &["10.244.0.1+"]));
    let new = world.resolve();
    assert!(new.views()[0].from_revision > old.views()[0].from_revision);
    assert_eq!(diff(&old, &new), []);
}

#[test]
fn a_snapshot_starts_anew_and_says_what_the_fleet_shares() {
    let mut world = World::new();
    let updates = snapshot(&world.put(mk_service("shop/a", "10.96.0.1")).resolve(), FLEET);
    assert_eq!(updates[..2], [Update::Reset, Update::PutFleet(FLEET)]);
    let Update::PutCluster(cluster) = &updates[2] else { panic!("{updates:?}") };
    assert_eq!(cluster.service_networks, ["10.96.0.0/16".parse().unwrap()]);
    assert_eq!(updates.len(), 5);
}

proptest! {
    #[test]
    fn a_diff_leads_from_the_old_state_to_the_new(
        first in proptest::collection::vec(any::<(u8, u8, u8, u8)>(), 0..12),
        second in proptest::collection::vec(any::<(u8, u8, u8, u8)>(), 0..12),
    ) {
        let mut world = cluster(&first);
        let old = world.resolve();
        change(&mut world, &second);
        let new = world.resolve();
        let mut model = Model::of(&old);
        for update in diff(&old, &new) {
            model.apply(&update);
        }
        prop_assert_eq!(&model, &Model::of(&new));
        prop_assert_eq!(diff(&new, &new), vec![]);
        prop_assert_eq!(world.resolver.backend_count, new.backend_count());
        let mut fresh = model;
        for update in snapshot(&new, FLEET) {
            fresh.apply(&update);
        }
        prop_assert_eq!(fresh, Model::of(&new));
    }

    #[test]
    fn steps_lead_to_the_same_state_as_one_list(
        choices in proptest::collection::vec(any::<(u8, u8, u8, u8)>(), 0..16),
        pauses in proptest::collection::vec(any::<bool>(), 16),
    ) {
        let mut stepwise = World::with(settings());
        for (choice, pause) in choices.iter().zip(&pauses) {
            change(&mut stepwise, &[*choice]);
            if *pause {
                stepwise.resolve();
            }
        }
        let mut at_once = cluster(&choices);
        prop_assert_eq!(stepwise.lines(), lines(&at_once.resolve()));
        prop_assert_eq!(&*stepwise.resolve(), &*at_once.resolve());
        prop_assert_eq!(stepwise.problems(), at_once.problems());
    }
}
