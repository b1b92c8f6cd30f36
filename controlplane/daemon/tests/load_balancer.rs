//! Load-balancer addresses in Kubernetes mode: given by transactions, the same on every gateway, kept over everything but the end of a claim.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::api_server::{delete, edit, load_balancer, stored};
use bed::etcd::Etcd;
use bed::proxy::Proxy;
use bed::{ControlPlane, wait};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use turnpike_controlplane::kubernetes::addresses;
use turnpike_controlplane::kubernetes::record::{Entry, Record, Tenant};
use turnpike_desired::object::ObjectKey;
use turnpike_wire::admin::Resource;

fn settings(etcd: &Etcd, pool: &str) -> String {
    format!(
        "[cluster]\nmode = \"kubernetes\"\n[[cluster.pools]]\nname = \"public\"\naddresses = [\"{pool}\"]\n{}",
        etcd.settings()
    )
}

/// The addresses `turnpike get services` shows, by Service.
fn shown(gateway: &ControlPlane) -> BTreeMap<String, Vec<String>> {
    let services = gateway.get(Resource::Services).into_iter();
    services
        .map(|service| {
            let ingress =
                service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
            let ips = ingress.iter().map(|i| i["ip"].as_str().unwrap().to_owned()).collect();
            (service["metadata"]["name"].as_str().unwrap().to_owned(), ips)
        })
        .collect()
}

/// Whether a frontend of that Service answers on the address.
fn answers(gateway: &ControlPlane, service: &str, address: &str) -> bool {
    let frontends = gateway.get(Resource::Frontends);
    frontends
        .iter()
        .any(|f| f["service"] == service && f["address"].as_str().is_some_and(|a| a.contains(address)))
}

/// Services by the address of their record.
fn records(etcd: &Etcd) -> BTreeMap<String, Vec<String>> {
    let dump = etcd.dump();
    let records =
        dump.iter().filter_map(|(key, value)| Some((key.strip_prefix("/turnpike/addresses/")?, value)));
    records
        .map(|(address, value)| {
            let record: Value = serde_json::from_slice(value).unwrap();
            let services = record["services"].as_array().unwrap().iter();
            (address.to_owned(), services.map(|s| s["name"].as_str().unwrap().to_owned()).collect())
        })
        .collect()
}

#[test]
fn without_a_kubeconfig_addresses_work_and_are_shown_and_nothing_is_written() {
    let etcd = Etcd::start();
    edit(&etcd, "web", |service| *service = load_balancer("web", "10.96.0.10", 1));
    let before = stored(&etcd, "web");
    let gateway = ControlPlane::connected(&settings(&etcd, "203.0.113.4/31"));
    wait("an address that answers", || answers(&gateway, "web", "203.0.113.4"));
    assert_eq!(shown(&gateway)["web"], ["203.0.113.4"]);
    assert_eq!(records(&etcd), [("203.0.113.4".to_owned(), vec!["web".to_owned()])].into());
    assert_eq!(stored(&etcd, "web"), before, "nothing is written under the registry's prefix");
    assert_eq!(gateway.status().kubernetes.state, "off");
}

#[test]
fn rule_c1_a_service_of_another_class_gets_no_address() {
    let etcd = Etcd::start();
    edit(&etcd, "other", |service| {
        *service = load_balancer("other", "10.96.0.11", 1);
        service["spec"]["loadBalancerClass"] = "example.com/edge".into();
    });
    edit(&etcd, "web", |service| *service = load_balancer("web", "10.96.0.10", 2));
    let gateway = ControlPlane::connected(&settings(&etcd, "203.0.113.4/31"));
    wait("an address that answers", || answers(&gateway, "web", "203.0.113.4"));
    assert_eq!(records(&etcd), [("203.0.113.4".to_owned(), vec!["web".to_owned()])].into());
    assert!(shown(&gateway)["other"].is_empty());
}

#[test]
fn who_finds_the_pool_empty_is_told_and_gets_the_first_address_that_becomes_free() {
    let etcd = Etcd::start();
    for (name, ip, second) in
        [("first", "10.96.0.11", 1), ("second", "10.96.0.12", 2), ("third", "10.96.0.13", 3)]
    {
        edit(&etcd, name, |service| *service = load_balancer(name, ip, second));
    }
    let gateway = ControlPlane::connected(&settings(&etcd, "203.0.113.4/31"));
    let problem = || gateway.status().objects.skipped.into_iter().find(|s| s.key == "Service shop/third");
    wait("the problem", || problem().is_some_and(|p| p.reason.contains("none free")));
    wait("the others", || records(&etcd).len() == 2);
    edit(&etcd, "first", |service| service["spec"]["type"] = "ClusterIP".into());
    wait("its address", || answers(&gateway, "third", "203.0.113.4"));
    assert!(problem().is_none() && !answers(&gateway, "first", "203.0.113.4"));
    delete(&etcd, "second");
    wait("the release", || !records(&etcd).contains_key("203.0.113.5"));
}

#[test]
fn two_gateways_give_each_address_once_and_go_on_when_one_is_killed() {
    let etcd = Etcd::start();
    let both = settings(&etcd, "203.0.113.0/26");
    let mut first = ControlPlane::connected(&both);
    let second = ControlPlane::connected(&both);
    let name = |number: u32| format!("web-{number:02}");
    let make = |number: u32| {
        let name = name(number);
        edit(&etcd, &name, |s| *s = load_balancer(&name, &format!("10.96.1.{number}"), number));
    };
    (0..20).for_each(make);
    // In the middle of it, without a warning.
    wait("some of them", || records(&etcd).len() >= 5);
    first.kill();
    (20..40).for_each(make);
    let all_have_one = |gateway: &ControlPlane| {
        let shown = shown(gateway);
        shown.len() == 40 && shown.values().all(|addresses| addresses.len() == 1)
    };
    wait("all of them", || all_have_one(&second));
    first.start();
    wait("the same on both", || all_have_one(&first) && shown(&first) == shown(&second));
    let records = records(&etcd);
    assert_eq!(records.len(), 40, "{records:?}");
    assert!(records.values().all(|services| services.len() == 1), "{records:?}");
    let given: BTreeSet<&String> = records.values().flatten().collect();
    assert_eq!(given.len(), 40, "{records:?}");
    for (service, addresses) in shown(&second) {
        assert_eq!(records[&addresses[0]], [service]);
    }
}

#[test]
fn an_address_survives_a_restart_of_the_control_plane() {
    let etcd = Etcd::start();
    for (name, ip, second) in [("young", "10.96.0.11", 9), ("web", "10.96.0.12", 10)] {
        edit(&etcd, name, |service| *service = load_balancer(name, ip, second));
    }
    let mut gateway = ControlPlane::connected(&settings(&etcd, "203.0.113.0/29"));
    wait("both", || records(&etcd).len() == 2);
    let before = records(&etcd);
    gateway.kill();
    // Older than both, and would be first if anything were given anew.
    edit(&etcd, "old", |service| *service = load_balancer("old", "10.96.0.13", 1));
    gateway.start();
    wait("the third", || records(&etcd).len() == 3);
    let after = records(&etcd);
    assert!(before.iter().all(|(address, services)| after[address] == *services), "{before:?} {after:?}");
}

#[test]
fn an_etcd_that_has_lost_everything_takes_no_address() {
    let (etcd, empty) = (Etcd::start(), Etcd::start());
    for number in 0..12 {
        let name = format!("web-{number}");
        edit(&etcd, &name, |s| *s = load_balancer(&name, &format!("10.96.1.{number}"), number));
    }
    let proxy = Proxy::new(etcd.address());
    let direct = settings(&etcd, "203.0.113.0/28");
    let gateway =
        ControlPlane::connected(&direct.replace(&format!("http://{}", etcd.address()), &proxy.endpoint()));
    let given = || shown(&gateway).into_values().filter(|addresses| addresses.len() == 1).count();
    wait("all addresses", || given() == 12);
    proxy.turn(Some(empty.address()));
    wait("a view that is held back", || gateway.status().etcd.held_back.is_some());
    // Longer than the retry, several rounds and the grace.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(given(), 12);
    assert!(answers(&gateway, "web-0", "203.0.113.1"));
    assert!(records(&empty).is_empty());
    proxy.turn(Some(etcd.address()));
    wait("the whole view", || gateway.status().etcd.held_back.is_none());
    assert_eq!((given(), records(&etcd).len()), (12, 12));
}

#[test]
fn a_record_is_written_only_as_it_was_known() {
    let etcd = Etcd::start();
    let key = "/turnpike/addresses/203.0.113.5";
    let of = |name: &str| Record { services: [Tenant::from(&ObjectKey::new("shop", name))].into() };
    let has = |name: &str| assert_eq!(records(&etcd)["203.0.113.5"], [name]);
    let write = |known: Option<&Entry>, new: Option<&Record>| {
        etcd.with(async |client| addresses::write(client, key, known, new).await.unwrap())
    };
    let read = || {
        etcd.with(async |client| {
            let found = client.get(key, None).await.unwrap();
            Entry::read(found.kvs()[0].value(), found.kvs()[0].mod_revision())
        })
    };
    assert!(write(None, Some(&of("first"))));
    assert!(!write(None, Some(&of("second"))), "two that know of no record: the first has it");
    has("first");
    let known = read();
    assert!(write(Some(&known), Some(&of("third"))));
    assert!(!write(Some(&known), Some(&of("second"))) && !write(Some(&known), None), "it has changed since");
    has("third");
    assert!(write(Some(&read()), None));
    assert!(!write(Some(&known), Some(&of("second"))) && records(&etcd).is_empty(), "it is gone");
}
