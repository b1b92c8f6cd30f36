use super::super::index::Index;
use super::super::names::Names;
use super::super::zone::Zone;
use super::{Reply, answer};
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use serde_json::{Value, json};
use turnpike_desired::k8s::{EndpointSlice, Service};
use turnpike_desired::object::ObjectKey;

fn put(index: &mut Index, namespace: &str, name: &str, spec: Value, slices: Value) {
    let mut service = json!({});
    service["spec"] = spec;
    let service: Service = serde_json::from_value(service).unwrap();
    let slices: Vec<EndpointSlice> = serde_json::from_value(slices).unwrap();
    index.put(&ObjectKey::new(namespace, name), Names::of(&service, &slices));
}

/// A little cluster.
fn world() -> (Zone, Index) {
    let zone = Zone::new("Cluster.Local", 5, vec!["192.0.2.11".parse().unwrap()]).unwrap();
    let mut index = Index::default();
    let port = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9}]);
    put(
        &mut index,
        "shop",
        "web",
        json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00:96::5"], "ports": port}),
        json!([]),
    );
    put(&mut index, "shop", "v4", json!({"clusterIP": "10.96.0.6", "ports": [{"port": 80}]}), json!([]));
    let ready = json!([
        {"addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}], "endpoints": [
            {"addresses": ["10.244.0.1"], "hostname": "db-0"}, {"addresses": ["10.244.0.2"]},
            {"addresses": ["10.244.0.3"], "hostname": "db-2", "conditions": {"ready": false}}]},
        {"addressType": "IPv6", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}], "endpoints": [
            {"addresses": ["fd00:244::1"], "hostname": "db-0"}]},
    ]);
    put(&mut index, "shop", "db", json!({"clusterIP": "None"}), ready);
    put(&mut index, "quiet", "none", json!({"clusterIP": "None"}), json!([]));
    let external = |name: &str| json!({"type": "ExternalName", "externalName": name});
    put(&mut index, "shop", "out", external("db.example.com"), json!([]));
    put(&mut index, "shop", "in", external("web.shop.svc.cluster.local"), json!([]));
    put(&mut index, "shop", "lost", external("nobody.shop.svc.cluster.local."), json!([]));
    put(&mut index, "shop", "ring", external("ring2.shop.svc.cluster.local"), json!([]));
    put(&mut index, "shop", "ring2", external("ring.shop.svc.cluster.local"), json!([]));
    index.complete(
        vec![
            "10.96.0.0/16".parse().unwrap(),
            "fd00:96::/108".parse().unwrap(),
            "10.98.0.0/20".parse().unwrap(),
        ],
        42,
    );
    (zone, index)
}

/// `CODE[!] answers ~ authorities + additionals > onward`, each record `owner TYPE data`; `!`: authoritative.
fn ask(world: &(Zone, Index), name: &str, asked: RecordType) -> String {
    let query = Query::query(Name::from_ascii(name).unwrap(), asked);
    let (answer, onward) = match answer(&world.0, &world.1, &query) {
        Reply::Answer(answer) => (answer, String::new()),
        Reply::Onward(answer, name) => (answer, name.to_string()),
        Reply::Elsewhere => return "elsewhere".into(),
    };
    let list = |records: &[hickory_proto::rr::Record]| {
        let texts: Vec<String> = records
            .iter()
            .map(|r| {
                assert_eq!(r.ttl, 5, "{r}");
                format!("{} {} {}", r.name, r.record_type(), r.data)
            })
            .collect();
        texts.join(", ")
    };
    let code = match answer.code {
        ResponseCode::NoError => "ok".into(),
        ResponseCode::NXDomain => "nx".into(),
        other => format!("{other:?}"),
    };
    let mut text = format!("{code}{}", if answer.is_authoritative { "!" } else { "" });
    let sections = [
        (" ", list(&answer.answers)),
        (" ~ ", list(&answer.authorities)),
        (" + ", list(&answer.additionals)),
        (" > ", onward),
    ];
    for (mark, section) in sections.into_iter().filter(|(_, section)| !section.is_empty()) {
        text += mark;
        text += &section;
    }
    text
}

fn table(world: &(Zone, Index), rows: &[(&str, RecordType, &str)]) {
    let soa = |apex: &str| {
        format!("~ {apex} SOA ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5")
    };
    for (name, asked, expected) in rows {
        let mut expected = (*expected).to_owned();
        for apex in ["cluster.local.", "96.10.in-addr.arpa."] {
            expected = expected.replace(&format!("SOA({apex})"), &soa(apex));
        }
        assert_eq!(ask(world, name, *asked), expected, "{name} {asked}");
    }
}

use RecordType::{A, AAAA, ANY, AXFR, CNAME, HINFO, IXFR, MX, NS, OPT, PTR, SOA, SRV, TXT};

#[test]
fn rule_d1_a_service_with_cluster_addresses() {
    table(
        &world(),
        &[
            ("web.shop.svc.cluster.local.", A, "ok! web.shop.svc.cluster.local. A 10.96.0.5"),
            ("web.shop.svc.cluster.local.", AAAA, "ok! web.shop.svc.cluster.local. AAAA fd00:96::5"),
            ("v4.shop.svc.cluster.local.", AAAA, "ok! SOA(cluster.local.)"),
            ("web.shop.svc.cluster.local.", MX, "ok! SOA(cluster.local.)"),
            ("WEB.Shop.SVC.cluster.LOCAL.", A, "ok! WEB.Shop.SVC.cluster.LOCAL. A 10.96.0.5"),
            (
                "_http._TCP.web.shop.svc.cluster.local.",
                SRV,
                "ok! _http._TCP.web.shop.svc.cluster.local. SRV 0 100 80 web.shop.svc.cluster.local. + \
                 web.shop.svc.cluster.local. A 10.96.0.5, web.shop.svc.cluster.local. AAAA fd00:96::5",
            ),
            ("_http._tcp.web.shop.svc.cluster.local.", A, "ok! SOA(cluster.local.)"),
            ("_http._udp.web.shop.svc.cluster.local.", SRV, "nx! SOA(cluster.local.)"),
            ("http._tcp.web.shop.svc.cluster.local.", SRV, "nx! SOA(cluster.local.)"),
            ("_._tcp.web.shop.svc.cluster.local.", SRV, "nx! SOA(cluster.local.)"),
            ("_tcp.web.shop.svc.cluster.local.", SRV, "ok! SOA(cluster.local.)"),
            ("_sctp.web.shop.svc.cluster.local.", SRV, "nx! SOA(cluster.local.)"),
            ("_tcp.v4.shop.svc.cluster.local.", SRV, "nx! SOA(cluster.local.)"),
            ("x.web.shop.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("x._http._tcp.web.shop.svc.cluster.local.", SRV, "nx! SOA(cluster.local.)"),
        ],
    );
}

#[test]
fn rule_d1_a_headless_service_is_its_ready_endpoints() {
    table(
        &world(),
        &[
            (
                "db.shop.svc.cluster.local.",
                A,
                "ok! db.shop.svc.cluster.local. A 10.244.0.1, db.shop.svc.cluster.local. A 10.244.0.2",
            ),
            ("db.shop.svc.cluster.local.", AAAA, "ok! db.shop.svc.cluster.local. AAAA fd00:244::1"),
            ("db-0.db.shop.svc.cluster.local.", A, "ok! db-0.db.shop.svc.cluster.local. A 10.244.0.1"),
            ("DB-0.db.shop.svc.cluster.local.", AAAA, "ok! DB-0.db.shop.svc.cluster.local. AAAA fd00:244::1"),
            (
                "10-244-0-2.db.shop.svc.cluster.local.",
                A,
                "ok! 10-244-0-2.db.shop.svc.cluster.local. A 10.244.0.2",
            ),
            ("10-244-0-2.db.shop.svc.cluster.local.", AAAA, "ok! SOA(cluster.local.)"),
            ("10-244-0-1.db.shop.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("db-2.db.shop.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            (
                "_sql._tcp.db.shop.svc.cluster.local.",
                SRV,
                "ok! _sql._tcp.db.shop.svc.cluster.local. SRV 0 100 5432 10-244-0-2.db.shop.svc.cluster.local., \
                 _sql._tcp.db.shop.svc.cluster.local. SRV 0 100 5432 db-0.db.shop.svc.cluster.local. + \
                 10-244-0-2.db.shop.svc.cluster.local. A 10.244.0.2, db-0.db.shop.svc.cluster.local. A 10.244.0.1, \
                 db-0.db.shop.svc.cluster.local. AAAA fd00:244::1",
            ),
            ("_tcp.db.shop.svc.cluster.local.", A, "ok! SOA(cluster.local.)"),
            ("_udp.db.shop.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("none.quiet.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("none.quiet.svc.cluster.local.", AAAA, "nx! SOA(cluster.local.)"),
            ("quiet.svc.cluster.local.", A, "ok! SOA(cluster.local.)"),
        ],
    );
}

#[test]
fn rule_d1_an_external_name_is_an_alias() {
    table(
        &world(),
        &[
            (
                "out.shop.svc.cluster.local.",
                A,
                "ok! out.shop.svc.cluster.local. CNAME db.example.com. > db.example.com.",
            ),
            ("out.shop.svc.cluster.local.", CNAME, "ok! out.shop.svc.cluster.local. CNAME db.example.com."),
            ("_tcp.out.shop.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            (
                "in.shop.svc.cluster.local.",
                A,
                "ok! in.shop.svc.cluster.local. CNAME web.shop.svc.cluster.local., web.shop.svc.cluster.local. A 10.96.0.5",
            ),
            (
                "in.shop.svc.cluster.local.",
                TXT,
                "ok! in.shop.svc.cluster.local. CNAME web.shop.svc.cluster.local. SOA(cluster.local.)",
            ),
            (
                "lost.shop.svc.cluster.local.",
                A,
                "nx! lost.shop.svc.cluster.local. CNAME nobody.shop.svc.cluster.local. SOA(cluster.local.)",
            ),
            ("ring.shop.svc.cluster.local.", A, "ServFail"),
        ],
    );
}

#[test]
fn rule_d1_names_that_only_have_others_below_them_exist() {
    table(
        &world(),
        &[
            ("svc.cluster.local.", A, "ok! SOA(cluster.local.)"),
            ("shop.svc.cluster.local.", A, "ok! SOA(cluster.local.)"),
            ("dns.cluster.local.", A, "ok! SOA(cluster.local.)"),
            ("nowhere.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("web.nowhere.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("pod.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("web.shop.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("*.shop.svc.cluster.local.", A, "nx! SOA(cluster.local.)"),
            ("local.", A, "elsewhere"),
            ("xcluster.local.", A, "elsewhere"),
            ("cluster.local.example.", A, "elsewhere"),
            (".", NS, "elsewhere"),
        ],
    );
}

#[test]
fn rule_d1_the_zone_itself() {
    let soa = "SOA ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5";
    table(
        &world(),
        &[
            ("dns-version.cluster.local.", TXT, "ok! dns-version.cluster.local. TXT 1.1.0"),
            ("dns-version.cluster.local.", A, "ok! SOA(cluster.local.)"),
            ("x.dns-version.cluster.local.", TXT, "nx! SOA(cluster.local.)"),
            ("cluster.local.", SOA, &format!("ok! cluster.local. {soa}")),
            ("96.10.in-addr.arpa.", SOA, &format!("ok! 96.10.in-addr.arpa. {soa}")),
            (
                "cluster.local.",
                NS,
                "ok! cluster.local. NS ns.dns.cluster.local. + ns.dns.cluster.local. A 192.0.2.11",
            ),
            ("ns.dns.cluster.local.", A, "ok! ns.dns.cluster.local. A 192.0.2.11"),
            ("cluster.local.", A, "ok! SOA(cluster.local.)"),
            ("web.shop.svc.cluster.local.", ANY, "ok! web.shop.svc.cluster.local. HINFO RFC8482 "),
            ("out.shop.svc.cluster.local.", ANY, "ok! out.shop.svc.cluster.local. CNAME db.example.com."),
            ("svc.cluster.local.", ANY, "ok! SOA(cluster.local.)"),
            ("x.svc.cluster.local.", ANY, "nx! SOA(cluster.local.)"),
            ("web.shop.svc.cluster.local.", HINFO, "ok! SOA(cluster.local.)"),
            ("cluster.local.", AXFR, "Refused"),
            ("cluster.local.", IXFR, "Refused"),
            ("cluster.local.", OPT, "FormErr"),
            ("cluster.local.", RecordType::Unknown(253), "NotImp"),
        ],
    );
}

#[test]
fn rule_d1_addresses_lead_back_to_names() {
    let at = |address: &str| Name::from(address.parse::<std::net::IpAddr>().unwrap()).to_ascii();
    let world = world();
    let none = "ok! SOA(96.10.in-addr.arpa.)";
    let missing = "nx! SOA(96.10.in-addr.arpa.)";
    table(
        &world,
        &[
            (&at("10.96.0.5"), PTR, &format!("ok! {} PTR web.shop.svc.cluster.local.", at("10.96.0.5"))),
            (&at("fd00:96::5"), PTR, &format!("ok! {} PTR web.shop.svc.cluster.local.", at("fd00:96::5"))),
            (
                &at("10.244.0.1"),
                PTR,
                &format!("ok! {} PTR db-0.db.shop.svc.cluster.local.", at("10.244.0.1")),
            ),
            (
                &at("10.244.0.2"),
                PTR,
                &format!("ok! {} PTR 10-244-0-2.db.shop.svc.cluster.local.", at("10.244.0.2")),
            ),
            (&at("10.244.0.3"), PTR, "elsewhere"),
            (&at("10.244.0.1"), A, "elsewhere"),
            (&at("10.96.0.5"), A, none),
            (&at("10.96.0.7"), PTR, missing),
            ("0.96.10.in-addr.arpa.", PTR, none),
            ("96.10.in-addr.arpa.", PTR, none),
            ("7.96.10.in-addr.arpa.", PTR, missing),
            ("x.5.0.96.10.in-addr.arpa.", PTR, missing),
            ("05.0.96.10.in-addr.arpa.", PTR, missing),
            ("256.0.96.10.in-addr.arpa.", PTR, missing),
            ("10.in-addr.arpa.", PTR, "elsewhere"),
            ("x.10.in-addr.arpa.", PTR, "elsewhere"),
            ("1.168.192.in-addr.arpa.", PTR, "elsewhere"),
            ("16.98.10.in-addr.arpa.", PTR, "elsewhere"),
        ],
    );
    let (own, other) =
        (ask(&world, "1.15.98.10.in-addr.arpa.", PTR), ask(&world, "1.16.98.10.in-addr.arpa.", PTR));
    assert!(own.starts_with("nx!") && own.contains("15.98.10.in-addr.arpa. SOA"), "{own}");
    assert_eq!(other, "elsewhere", "a network of 20 bits ends there");
}

#[test]
fn rule_d1_nothing_is_denied_before_the_first_complete_view() {
    let zone = world().0;
    let waiting = (zone, Index::default());
    for (name, asked) in
        [("web.shop.svc.cluster.local.", A), ("cluster.local.", SOA), ("5.0.96.10.in-addr.arpa.", PTR)]
    {
        assert_eq!(ask(&waiting, name, asked), "ServFail", "{name}");
    }
    assert_eq!(ask(&waiting, "example.com.", A), "elsewhere");
}

#[test]
fn only_the_internet_class_is_served() {
    let world = world();
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE] {
        let mut query = Query::query(Name::from_ascii("web.shop.svc.cluster.local.").unwrap(), A);
        query.set_query_class(class);
        let Reply::Answer(answer) = answer(&world.0, &world.1, &query) else { panic!("{class}") };
        assert_eq!(answer.code, ResponseCode::Refused, "{class}");
    }
}
