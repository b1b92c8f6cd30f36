use super::Names;
use serde_json::{Value, json};
use turnpike_desired::k8s::{EndpointSlice, Service};

fn service(spec: Value) -> Service {
    let mut service = json!({"metadata": {"name": "db", "namespace": "shop"}});
    service["spec"] = spec;
    serde_json::from_value(service).unwrap()
}

fn slice(family: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    let mut slice = json!({"metadata": {"name": "db-1", "namespace": "shop"}, "addressType": family});
    slice["ports"] = ports;
    slice["endpoints"] = endpoints;
    serde_json::from_value(slice).unwrap()
}

fn headless(slices: &[EndpointSlice]) -> Option<Names> {
    Names::of(&service(json!({"clusterIP": "None"})), slices)
}

fn hosts(names: Option<Names>) -> Vec<(String, Vec<String>)> {
    match names {
        Some(Names::Headless { hosts, .. }) => {
            hosts.into_iter().map(|(h, a)| (h, a.iter().map(ToString::to_string).collect())).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rule_d1_cluster_addresses_and_named_ports_make_names() {
    let names = Names::of(
        &service(json!({
            "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"],
            "ports": [
                {"name": "Web", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "default", "port": 81}, {"port": 82}, {"name": "zero", "port": 0}, {"name": "big", "port": 65536},
            ],
        })),
        &[],
    );
    let Some(Names::Addressed { addresses, ports }) = &names else { panic!("{names:?}") };
    assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.5", "fd00::5"]);
    let found: Vec<String> =
        ports.iter().map(|((protocol, name), numbers)| format!("{name}/{protocol} {numbers:?}")).collect();
    assert_eq!(found, ["default/tcp {81}", "web/tcp {80}", "dns/udp {53}"]);
    let first = Names::of(&service(json!({"clusterIP": "10.96.0.5"})), &[]).unwrap();
    assert_eq!(first.reverse(), [("10.96.0.5".parse().unwrap(), None)]);
    assert_eq!(Names::of(&service(json!({"ports": [{"port": 80}]})), &[]), None, "no address was given yet");
}

#[test]
fn rule_d1_ready_endpoints_stand_for_a_headless_service() {
    let one = slice(
        "IPv4",
        json!([{"name": "sql", "port": 5432}, {"name": null, "port": 1}, {"name": "", "port": 2}, {"name": "nil"}]),
        json!([
            {"addresses": ["10.244.0.1", "10.244.9.9"], "hostname": "DB-0"},
            {"addresses": ["10.244.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["fd00::9"]}, {"addresses": []}, {"addresses": ["nonsense"]},
            {"addresses": ["10.244.0.4"], "hostname": "not a label"},
        ]),
    );
    let names = headless(std::slice::from_ref(&one));
    let Some(Names::Headless { ports, .. }) = &names else { panic!("{names:?}") };
    assert_eq!(ports.len(), 1);
    let of_sql: Vec<&str> = ports[&("tcp".into(), "sql".into())].iter().map(|(h, _)| h.as_str()).collect();
    assert_eq!(of_sql, ["10-244-0-2", "10-244-0-4", "db-0"]);
    let expected = [("10-244-0-2", "10.244.0.2"), ("10-244-0-4", "10.244.0.4"), ("db-0", "10.244.0.1")];
    assert_eq!(hosts(names), expected.map(|(h, a)| (h.to_owned(), vec![a.to_owned()])));
}

#[test]
fn rule_d1_one_hostname_may_have_addresses_of_both_families_and_in_several_slices() {
    let v4 = slice("IPv4", json!([]), json!([{"addresses": ["10.244.0.1"], "hostname": "db-0"}]));
    let v6 = slice("IPv6", json!([]), json!([{"addresses": ["fd00::1"], "hostname": "db-0"}]));
    let named = slice("FQDN", json!([]), json!([{"addresses": ["db.example.com"], "hostname": "db-1"}]));
    let both = headless(&[v4.clone(), v6, named.clone(), v4]);
    assert_eq!(hosts(both), [("db-0".to_owned(), vec!["10.244.0.1".to_owned(), "fd00::1".to_owned()])]);
    assert_eq!(headless(&[named]), None, "nobody is ready");
    assert_eq!(headless(&[]), None);
}

#[test]
fn rule_d1_made_hostnames_are_hostnames() {
    for (address, host) in [
        ("fd00::1", "fd00--1"),
        ("::1", "0--1"),
        ("fd00::", "fd00--0"),
        ("2001:db8:1:2:3:4:5:6", "2001-db8-1-2-3-4-5-6"),
    ] {
        let slice = slice("IPv6", json!([]), json!([{"addresses": [address]}]));
        assert_eq!(hosts(headless(&[slice])), [(host.to_owned(), vec![address.to_owned()])]);
    }
}

#[test]
fn rule_d1_an_external_name_is_a_name() {
    for (text, name) in [
        ("db.example.com", "db.example.com."),
        ("db.example.com.", "db.example.com."),
        ("192.0.2.7", "192.0.2.7."),
    ] {
        let names = Names::of(&service(json!({"type": "ExternalName", "externalName": text})), &[]);
        let Some(Names::External { target }) = names else { panic!("{names:?}") };
        assert_eq!(target.to_ascii(), name);
    }
    for text in ["", ".", "a..b", &"a.".repeat(200), &"x".repeat(64)] {
        let names = Names::of(&service(json!({"type": "ExternalName", "externalName": text})), &[]);
        assert_eq!(names, None, "{text:?}");
    }
}
