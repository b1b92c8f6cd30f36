//! Tests of the rules: every mistake names its setting and the mend.

use super::*;

const GOOD: &str = include_str!("../turnpike.example.toml");

fn error(text: &str) -> String {
    let path = Path::new("/etc/t.toml");
    let parsed = Config::parse(text, path).and_then(|c| c.require_dataplane(path));
    parsed.expect_err(text).to_string()
}

#[test]
fn the_example_works_and_says_the_defaults() {
    let path = Path::new("example");
    let example = Config::parse(GOOD, path).unwrap();
    example.require_dataplane(path).unwrap();
    let defaults = Config::default();
    assert_eq!(example.cluster.node_port_range, defaults.cluster.node_port_range);
    assert_eq!(example.gateway.state_dir, defaults.gateway.state_dir);
    assert_eq!(example.dataplane.flows_per_worker, defaults.dataplane.flows_per_worker);
    assert_eq!(example.dataplane.memory_mb, defaults.dataplane.memory_mb);
    assert_eq!(example.dataplane.client_flows_max, defaults.dataplane.client_flows_max);
    let addresses = example.dataplane.snat.addresses.clone();
    assert_eq!(example.dataplane.snat, crate::config::Snat { addresses, ..defaults.dataplane.snat });
}

#[test]
fn servers_can_be_switched_off() {
    let parse = |text: &str| Config::parse(text, Path::new("t.toml"));
    let off = parse("[health]\nlisten = \"\"\n[metrics]\nlisten = \"\"\n").unwrap();
    assert_eq!((off.health.listen, off.metrics.listen), (None, None));
    assert_eq!(off.health.node_port_addresses, Config::default().health.node_port_addresses);
    let error = parse("[metrics]\nlisten = \"9464\"\n").unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("127.0.0.1:9464"), "{error}");
}

#[test]
fn the_example_shows_every_setting() {
    let mut full = Config::parse(GOOD, Path::new("example")).unwrap();
    full.etcd.ca_file = Some("x".into());
    full.etcd.cert_file = Some("x".into());
    full.etcd.key_file = Some("x".into());
    full.etcd.user = Some("x".into());
    full.etcd.password_file = Some("x".into());
    full.dataplane.ipv6_flows_per_worker = Some(1_024);
    full.kubernetes.kubeconfig = Some("x".into());
    full.kubernetes.context = Some("x".into());
    full.dataplane.ports[0].vlan = Some(100);
    let all = toml::to_string(&full).unwrap();
    for key in all.lines().filter_map(|l| l.split_once(" = ").map(|(key, _)| key)) {
        assert!(GOOD.contains(&format!("{key} = ")), "the example must show {key}");
    }
}

#[test]
fn every_mistake_names_its_setting_and_the_mend() {
    let change = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replacen(from, to, 1)
    };
    let second_port = |device: &str, address: &str| {
        format!(
            "[[dataplane.ports]]\nname = \"lan\"\ndevice = \"{device}\"\naddresses = [\"{address}\"]\n[dataplane.snat]"
        )
    };
    let rows = [
        (change("workers = [1]", "workers = []"), "dataplane.workers"),
        (change("workers = [1]", "workers = [1, 1]"), "core 1 is there twice"),
        (change("workers = [1]", "wrokers = [1]"), "wrokers"),
        (change("workers = [1]", "workers = \"one\""), "line"),
        (change("name = \"gw-1\"", "name = \"a/b\""), "gateway.name"),
        (change("flows_per_worker = 1048576", "flows_per_worker = 7"), "dataplane.flows_per_worker: 7"),
        (change("203.0.113.0/24", "10.96.1.0/24"), "overlaps"),
        (change("203.0.113.0/24", "nonsense"), "line"),
        (change("gateway = \"192.0.2.254\"", "gateway = \"198.51.100.1\""), "gateway 198.51.100.1"),
        (change("via = \"192.0.2.7\"", "via = \"198.51.100.7\""), "route via 198.51.100.7"),
        (change("via = \"192.0.2.7\"", "via = \"192.0.2.1\""), "route via 192.0.2.1"),
        (change("to = \"10.244.1.0/24\"", "to = \"10.244.1.0/20\""), "write 10.244.0.0/20"),
        (change("to = \"10.244.1.0/24\"", "to = \"192.0.2.0/24\""), "connected already"),
        (
            change("routes = [", "routes = [{ to = \"10.244.1.0/24\", via = \"192.0.2.8\" }, "),
            "10.244.1.0/24 is there twice",
        ),
        (change("192.0.2.1/24", "192.0.2.0/24"), "192.0.2.0/24"),
        (change("2001:db8::1/64", "2001:db8::/64"), "2001:db8::/64 is no host's address"),
        (change("2001:db8::1/64", "fe80::1/64"), "fe80::1/64 is link-local"),
        (change("2001:db8::1/64", "::ffff:1.2.3.4/64"), "is no host's address"),
        (
            change("router_advertisements = false", "router_advertisements = true"),
            "gateway6 is set, and routers",
        ),
        (change("fe80::fe", "2001:db8:9::1"), "gateway6 2001:db8:9::1 is no neighbour"),
        (change(", \"2001:db8::1/64\"", ""), "gateway6 fe80::fe is no neighbour"),
        (change("via = \"192.0.2.7\"", "via = \"fe80::7\""), "they are of two IP families"),
        (change("mtu = 1500", "mtu = 1279"), "mtu = 1279 is below 1280"),
        (change("2001:db8:1::1", "fe80::1"), "fe80::1 is no host's address"),
        (
            change("# ipv6_flows_per_worker = 1048576", "ipv6_flows_per_worker = 9"),
            "dataplane.ipv6_flows_per_worker: 9",
        ),
        (change("203.0.113.0/24", "192.0.2.0/28"), "192.0.2.1 lies in 192.0.2.0/28"),
        (change("203.0.113.0/24", "192.0.2.254/32"), "192.0.2.254 lies in 192.0.2.254/32"),
        (change("203.0.113.0/24", "224.1.0.0/16"), "224.1.0.0/16 overlaps 224.0.0.0/3"),
        (change("203.0.113.0/24", "0.0.0.0/1"), "0.0.0.0/1 overlaps 0.0.0.0/8"),
        (change("203.0.113.0/24", "fe80::/64"), "fe80::/64 overlaps fe80::/10"),
        (change("10.244.0.0/16", "10.0.0.0/8"), "cluster.pod_cidrs: 10.0.0.0/8 overlaps 10.96.0.0/16"),
        (change("\"2001:db8::1/64\"]", "\"2001:db8::1/64\", \"192.0.2.1/25\"]"), "192.0.2.1 is there twice"),
        (
            change("[dataplane.snat]", &second_port("net_af_packet0,iface=gw1", "198.51.100.1/24")),
            "device \"net_af_packet0,iface=gw1\" is port \"wan\"'s",
        ),
        (
            change("[dataplane.snat]", &second_port("net_af_packet1,iface=gw1", "192.0.2.1/24")),
            "\"lan\": 192.0.2.1 is there twice",
        ),
        (change("sources = []", "sources = [\"10.96.0.0/20\"]"), "10.96.0.0/20 overlaps 10.96.0.0/16"),
        (change("sources = []", "sources = [\"127.0.0.0/9\"]"), "dataplane.dsr.sources: 127.0.0.0/9"),
        (change("sources = []", "sources = [\"198.18.0.1/16\"]"), "write 198.18.0.0/16"),
        (change("\"2001:db8:1::1\"]", "\"10.1.0.1\"]"), "10.1.0.1 is there twice"),
        (change("addresses = [\"10.1.0.1\"", "addresses = [\"10.96.0.1\""), "10.96.0.1"),
        (change("device = \"net_af_packet0", "device = \"eth0"), "eth0"),
        (change("exception = \"tp-wan\"", "exception = \"\""), "exception \"\" cannot name"),
        (change("\"tp-wan\"", "\"sixteen-letters-\""), "\"sixteen-letters-\" cannot name"),
        (change("\"tp-wan\"", "\"a/b\""), "\"a/b\" cannot name a network interface"),
        (
            change(
                "[dataplane.snat]",
                &second_port("net_af_packet1,iface=gw1", "198.51.100.1/24\"]\nexception = \"tp-wan\"\n#"),
            ),
            "\"lan\": exception \"tp-wan\" is another port's",
        ),
        (
            change("registry_prefix = \"/registry\"", "registry_prefix = \"registry/\""),
            "cluster.registry_prefix",
        ),
        (change("turnpike_prefix = \"/turnpike\"", "turnpike_prefix = \"/registry/x\""), "keep them apart"),
        (change("mode = \"standalone\"", "mode = \"kubernetes\""), "etcd.endpoints"),
        (change("endpoints = []", "endpoints = [\"etcd:2379\"]"), "etcd:2379"),
        (change("endpoints = []", "endpoints = [\"http://a:1, http://b:1\"]"), "is no URL"),
        (change("endpoints = []", "endpoints = []\nuser = \"x\""), "etcd.password_file"),
        (change("endpoints = []", "endpoints = []\ncert_file = \"/x\""), "etcd.key_file"),
        (change("node_port_range = \"30000-32767\"", "node_port_range = \"9-7\""), "FIRST-LAST"),
        (
            change("node_port_range = \"30000-32767\"", "node_port_range = \"80-90\""),
            "cluster.node_port_range",
        ),
        (
            change("node_port_addresses = []", "node_port_addresses = [\"primary\", \"10.0.0.0/8\"]"),
            "cluster.node_port_addresses: \"primary\" is no network",
        ),
        (change("\"turnpike.dev/gateway\"", "\"\""), "cluster.load_balancer_class"),
        (change("shrink_limit_percent = 50", "shrink_limit_percent = 101"), "101 is not 0 to 100"),
        (change("zone = \"cluster.local\"", "zone = \"cluster..local\""), "dns.zone"),
        (change("ttl_s = 5", "ttl_s = 604801"), "dns.ttl_s"),
        (change("upstream = []", "upstream = [\"192.0.2.53:0\"]"), "dns.upstream: 192.0.2.53:0 has no port"),
        (
            change("listen = []", "listen = [\"192.0.2.9:53\"]").replacen(
                "upstream = []",
                "upstream = [\"192.0.2.9:53\"]",
                1,
            ),
            "this server itself",
        ),
        (String::new(), "dataplane.workers"),
        ("[dataplane]\nworkers = [0]\n".into(), "dataplane.ports"),
    ];
    for (text, needle) in rows {
        let said = error(&text);
        assert!(said.contains(needle) && said.starts_with("/etc/t.toml"), "{needle:?} is not in {said:?}");
    }
}
