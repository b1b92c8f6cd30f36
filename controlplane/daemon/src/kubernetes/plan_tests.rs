use super::*;
use crate::kubernetes::record::Entry;
use turnpike_desired::k8s::Time;
use turnpike_wire::config::Config;

fn rules() -> Rules {
    let text = "
        [cluster]
        mode = \"kubernetes\"
        [[cluster.pools]]
        name = \"public\"
        addresses = [\"203.0.113.4/31\"]
        [etcd]
        endpoints = [\"http://192.0.2.9:2379\"]
    ";
    Rules::from_config(&Config::parse(text, std::path::Path::new("test.toml")).unwrap())
}

fn service(name: &str, seconds: i64) -> Service {
    let mut service = Service::default();
    service.metadata.namespace = "shop".into();
    service.metadata.name = name.into();
    service.metadata.creation_timestamp = Time::from_unix_seconds(seconds);
    service.spec.r#type = "LoadBalancer".into();
    service.spec.cluster_ip = "10.96.0.9".into();
    service.spec.ip_families = vec!["IPv4".into()];
    service
}

fn known(records: &[(&str, &[&str])]) -> Tenancies {
    let entry = |services: &[&str]| Entry {
        record: Some(Record {
            services: services.iter().map(|name| Tenant::from(&ObjectKey::new("shop", name))).collect(),
        }),
        revision: 1,
    };
    records.iter().map(|(address, services)| (address.parse().unwrap(), entry(services))).collect()
}

fn text(changes: &BTreeMap<IpAddr, BTreeSet<ObjectKey>>) -> Vec<String> {
    changes.iter().flat_map(|(a, keys)| keys.iter().map(move |key| format!("{a} {}", key.name))).collect()
}

#[test]
fn older_services_get_the_first_addresses_and_the_rest_is_told_why() {
    let services = [service("young", 30), service("old", 10), service("middle", 20)];
    let plan = plan(services.iter(), &known(&[]), &rules());
    assert_eq!(text(&plan.take), ["203.0.113.4 old", "203.0.113.5 middle"]);
    assert!(plan.served.is_empty(), "nothing is served before it is recorded");
    assert!(plan.release.is_empty());
    assert!(plan.problems[&ObjectKey::new("shop", "young")].contains("public"), "{:?}", plan.problems);
}

#[test]
fn what_is_recorded_is_kept_and_served() {
    let services = [service("young", 30), service("old", 10)];
    let known = known(&[("203.0.113.4", &["young"]), ("203.0.113.5", &["gone"])]);
    let plan = plan(services.iter(), &known, &rules());
    assert_eq!(plan.served[&ObjectKey::new("shop", "young")], ["203.0.113.4".parse().unwrap()].into());
    assert_eq!(text(&plan.release), ["203.0.113.5 gone"]);
    // Not before the record says that its address is free.
    assert!(plan.take.is_empty() && plan.problems[&ObjectKey::new("shop", "old")].contains("none free"));
    let freed = self::known(&[("203.0.113.4", &["young"])]);
    assert_eq!(text(&super::plan(services.iter(), &freed, &rules()).take), ["203.0.113.5 old"]);
}

#[test]
fn what_a_status_says_is_kept_where_no_record_says_otherwise() {
    let with = |mut service: Service, address: &str| {
        service.status.load_balancer.ingress =
            vec![turnpike_desired::k8s::LoadBalancerIngress { ip: address.into(), ..Default::default() }];
        service
    };
    let services = [
        with(service("young", 30), "203.0.113.5"),
        service("new", 20),
        with(service("old", 10), "203.0.113.4"),
    ];
    let lost = plan(services.iter(), &known(&[]), &rules());
    assert_eq!(text(&lost.take), ["203.0.113.4 old", "203.0.113.5 young"], "though another one is older");
    assert!(lost.served.is_empty(), "nothing is served before it is recorded");
    assert!(lost.problems.contains_key(&ObjectKey::new("shop", "new")));
    // A record is right, whatever a status says; and an address of no pool is none of ours.
    let services = [with(service("a", 10), "203.0.113.5"), with(service("b", 20), "198.51.100.9")];
    let plan = plan(services.iter(), &known(&[("203.0.113.4", &["a"])]), &rules());
    assert_eq!((text(&plan.take), text(&plan.release).len()), (vec!["203.0.113.5 b".to_owned()], 0));
    // Two that say the same: the older one has it.
    let services = [with(service("young", 30), "203.0.113.5"), with(service("old", 10), "203.0.113.5")];
    let plan = super::plan(services.iter(), &known(&[]), &rules());
    assert_eq!(text(&plan.take), ["203.0.113.4 young", "203.0.113.5 old"]);
}

#[test]
fn without_pools_nothing_is_given_and_nobody_is_told_so() {
    let mut rules = rules();
    rules.pools.clear();
    let plan = plan([service("web", 10)].iter(), &known(&[("203.0.113.4", &["web"])]), &rules);
    assert!(plan.take.is_empty() && plan.served.is_empty() && plan.problems.is_empty());
    assert_eq!(text(&plan.release), ["203.0.113.4 web"]);
}

#[test]
fn rule_c1_only_our_services_get_addresses() {
    let mut of_others = service("other", 10);
    of_others.spec.load_balancer_class = Some("example.com/edge".into());
    let mut internal = service("internal", 10);
    internal.spec.r#type = "ClusterIP".into();
    let mut headless = service("headless", 10);
    headless.spec.cluster_ip = "None".into();
    let mut ending = service("ending", 10);
    ending.metadata.deletion_timestamp = Some(Time::from_unix_seconds(99));
    let records = known(&[("203.0.113.4", &["other", "ending"])]);
    let plan = plan([of_others, internal, headless, ending].iter(), &records, &rules());
    assert!(plan.take.is_empty() && plan.served.is_empty());
    assert_eq!(text(&plan.release), ["203.0.113.4 ending", "203.0.113.4 other"]);
}

#[test]
fn a_record_that_cannot_be_read_keeps_its_address() {
    let mut known = known(&[]);
    known.insert("203.0.113.4".parse().unwrap(), Entry { record: None, revision: 1 });
    let plan = plan([service("web", 10)].iter(), &known, &rules());
    assert_eq!(text(&plan.take), ["203.0.113.5 web"]);
}

#[test]
fn an_address_that_is_asked_for_is_given_or_told() {
    let mut asks = service("asks", 10);
    asks.spec.load_balancer_ip = "203.0.113.5".into();
    let mut greedy = service("greedy", 20);
    greedy.spec.load_balancer_ip = "198.51.100.1".into();
    let plan = plan([asks, greedy].iter(), &known(&[("203.0.113.4", &["asks"])]), &rules());
    assert_eq!(text(&plan.take), ["203.0.113.5 asks"]);
    assert_eq!(text(&plan.release), ["203.0.113.4 asks"]);
    assert!(plan.problems[&ObjectKey::new("shop", "greedy")].contains("198.51.100.1"), "{:?}", plan.problems);
}

#[test]
fn records_change_by_who_takes_and_releases() {
    let key = |name: &str| ObjectKey::new("shop", name);
    let record = Record { services: [Tenant::from(&key("a")), Tenant::from(&key("b"))].into() };
    let names = |record: Option<Record>| -> Vec<String> {
        record.map(|r| r.services.into_iter().map(|tenant| tenant.name).collect()).unwrap_or_default()
    };
    assert_eq!(names(changed(Some(&record), None, &[key("a")].into())), ["b"]);
    assert_eq!(names(changed(Some(&record), Some(&[key("c")].into()), &[key("a"), key("b")].into())), ["c"]);
    assert_eq!(changed(Some(&record), None, &[key("a"), key("b")].into()), None);
    assert_eq!(names(changed(None, Some(&[key("c")].into()), &BTreeSet::new())), ["c"]);
}
