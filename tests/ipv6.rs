//! Dual-stack Services with real clients over IPv6: HTTP, UDP, transfers, pings, path MTU discovery, the gateway's own host through its tap, one and
//! two workers, full NAT and dnat. Neighbours are found by the kernels' own neighbour discovery.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use turnpike_tests::bed::{Daemon, Lab, available, wait};

const VIP: &str = "2001:db8:203::80";
const OWN: &str = "2001:db8:192::1";
const CLUSTER_IP: &str = "fd00:10:96::80";
const SNAT: &str = "2001:db8:10::1";

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata:
  name: both
  annotations: {turnpike.dev/mode: MODE, turnpike.dev/load-balancer-ips: \"203.0.113.88,2001:db8:203::80\"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  clusterIPs: [10.96.0.88, \"fd00:10:96::80\"]
  selector: {app: both}
  ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 30088}
    - {name: echo, protocol: UDP, port: 7, targetPort: 9000, nodePort: 30087}
    - {name: sum, port: 9001}
---
apiVersion: v1
kind: Pod
metadata: {name: both-1, labels: {app: both}}
status: {phase: Running, podIPs: [{ip: 10.244.0.11}, {ip: \"fd00:10:244::11\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: both-2, labels: {app: both}}
status: {phase: Running, podIPs: [{ip: 10.244.0.12}, {ip: \"fd00:10:244::12\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: both-3, labels: {app: both}}
status: {phase: Running, podIPs: [{ip: 10.244.0.13}, {ip: \"fd00:10:244::13\"}]}
";

fn lab(name: &str, workers: &str, tap: &str) -> Lab {
    let lab = Lab::dual(name, workers, tap).unwrap();
    lab.serve().unwrap();
    put(&lab, "nat");
    lab
}

/// The Service in a mode.
fn put(lab: &Lab, mode: &str) {
    let manifest = lab.dir().join("both.yaml");
    std::fs::write(&manifest, MANIFEST.replace("MODE", mode)).unwrap();
    lab.apply(&manifest.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
}

fn curl(lab: &Lab, place: &str, url: &str) -> String {
    lab.run_in(place, "curl", &["-gsS", "--max-time", "10", url]).unwrap_or_else(|e| panic!("{url}: {e:#}"))
}

/// Every face of the Service answers, in both families, from every pod in turn.
fn every_face_answers(lab: &Lab) {
    for (place, address, port) in [
        ("client", VIP, 80),
        ("client", OWN, 30_088),
        ("client", "2001:db8:203::80", 80),
        ("host", VIP, 80),
        ("pod-web-1", CLUSTER_IP, 80),
        ("pod-web-2", VIP, 80),
    ] {
        let url = format!("http://[{address}]:{port}/");
        let pods: std::collections::BTreeSet<_> = (0..40).map(|_| curl(lab, place, &url)).collect();
        assert_eq!(pods.len(), 3, "{place} of {url}: {pods:?}");
    }
    assert!(curl(lab, "client", "http://203.0.113.88/").starts_with("web-"), "the other family");
    lab.datagrams_come_back("client", &format!("[{VIP}]:7"), "20,1000", 10, 2).unwrap();
}

/// Five megabytes down and up are the same bytes at both ends.
fn bytes_pass_both_ways(lab: &Lab) {
    let file = lab.dir().join("www/five").to_string_lossy().into_owned();
    let original = lab.sum_of("client", &format!("cat {file}")).unwrap();
    for _ in 0..3 {
        let got = lab.sum_of("client", &format!("curl -gsS --max-time 20 http://[{VIP}]/five")).unwrap();
        assert_eq!(got, original);
    }
    // Up, with a sum that is told when the client has closed its side.
    let upload = format!("socat -t 20 - TCP6:[{VIP}]:9001 < {file}");
    let sum = lab.run_in("client", "sh", &["-c", &upload]).unwrap();
    assert_eq!(sum.split_whitespace().next(), Some(original.as_str()), "{sum}");
}

/// Pods that say the sum of what they get.
fn summers(lab: &Lab) -> Vec<Daemon> {
    let words = ["socat", "TCP6-LISTEN:9001,reuseaddr,fork", "EXEC:sha256sum"];
    let pods = ["pod-web-1", "pod-web-2", "pod-web-3"];
    pods.iter().map(|pod| Daemon::start(lab, pod, &words).unwrap()).collect()
}

fn pings(lab: &Lab, from: &str, to: &str, more: &[&str]) {
    let words = [&["-6", "-c", "5", "-i", "0.2", "-W", "2"], more, &[to]].concat();
    let printed = lab.run_in(from, "ping", &words).unwrap_or_else(|e| panic!("{from} pings {to}: {e:#}"));
    assert!(printed.contains(" 0% packet loss"), "{printed}");
}

/// No kernel remembers what it was told before.
fn forget(lab: &Lab) {
    for place in ["client", "router", "pod-web-1", "pod-web-2", "pod-web-3"] {
        lab.run_in(place, "ip", &["-6", "route", "flush", "cache"]).unwrap();
    }
}

/// The router takes less towards a network, and tells who sends more.
fn a_narrow_path_is_found(lab: &Lab) {
    for (network, device) in [("2001:db8:c::/64", "client0"), ("fd00:10:244::/64", "br-pods")] {
        forget(lab);
        let before = lab.count("icmp_translated").unwrap();
        let narrow = ["-6", "route", "replace", network, "dev", device, "mtu", "lock", "1300", "metric", "1"];
        lab.run_in("router", "ip", &narrow).unwrap();
        bytes_pass_both_ways(lab);
        lab.run_in("router", "ip", &["-6", "route", "del", network, "dev", device, "metric", "1"]).unwrap();
        assert!(lab.count("icmp_translated").unwrap() > before, "the router was heard about {network}");
    }
}

/// A switch that snoops (RFC 4541) gets to know on which port the gateway's groups are, and lets questions for its addresses through.
fn a_snooping_switch_knows_the_gateway(lab: &Lab) {
    let snoop =
        "mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 100 mcast_startup_query_interval 200";
    let words: Vec<&str> =
        ["link", "set", "br-wan", "type", "bridge"].into_iter().chain(snoop.split(' ')).collect();
    lab.run_in("router", "ip", &words).unwrap();
    wait("reports of the gateway", Duration::from_secs(30), || {
        let groups = lab.run_in("router", "bridge", &["mdb", "show", "dev", "br-wan"])?;
        let has = |group: &str| {
            groups.lines().any(|l| l.contains("port gateway0") && l.contains(&format!("grp {group} ")))
        };
        // Of the own address and of the VIP.
        Ok(has("ff02::1:ff00:1") && has("ff02::1:ff00:80"))
    })
    .unwrap();
    assert!(lab.count("listener_reports").unwrap() > 0);
    for place in ["router", "host"] {
        lab.run_in(place, "ip", &["-6", "neigh", "flush", "all"]).unwrap();
    }
    pings(lab, "router", OWN, &[]);
    pings(lab, "host", VIP, &[]);
}

#[test]
fn dual_stack_services_serve_real_clients() {
    if !available() {
        return;
    }
    for (name, workers) in [("s1", "[1]"), ("s2", "[0, 1]")] {
        let lab = lab(name, workers, "");
        let www = lab.dir().join("www");
        lab.run_in("client", "sh", &["-c", &format!("head -c 5M {0}/big >{0}/five", www.display())]).unwrap();
        let _summers = summers(&lab);
        every_face_answers(&lab);
        assert_eq!(curl(&lab, "client", &format!("http://[{VIP}]/client")).trim(), SNAT);
        bytes_pass_both_ways(&lab);
        for to in [VIP, OWN] {
            pings(&lab, "client", to, &[]);
        }
        pings(&lab, "host", OWN, &["-s", "1452", "-M", "do"]);
        a_narrow_path_is_found(&lab);
        for bad in ["icmp_bad", "ndp_bad", "bad_ipv6", "bad_l4", "next_hop_unresolved"] {
            assert_eq!(lab.count(bad).unwrap(), 0, "{bad}");
        }
        // A next hop that is forgotten is found again by neighbour discovery, in both directions.
        assert!(lab.count("neighbour_solicitations").unwrap() > 0 && lab.count("ndp_handled").unwrap() > 0);
        lab.run_in("router", "ip", &["-6", "neigh", "flush", "dev", "br-wan"]).unwrap();
        every_face_answers(&lab);
        a_snooping_switch_knows_the_gateway(&lab);
    }
}

#[test]
fn a_pod_sees_its_client_in_dnat_mode() {
    if !available() {
        return;
    }
    let lab = lab("s3", "[1]", "");
    lab.lab(["return-path"]).unwrap();
    put(&lab, "dnat");
    let seen = || curl(&lab, "client", &format!("http://[{VIP}]/client"));
    wait("the client's address", Duration::from_secs(5), || Ok(seen().trim() == "2001:db8:c::7")).unwrap();
    assert_eq!(curl(&lab, "client", "http://203.0.113.88/client").trim(), "198.51.100.7");
}

#[test]
fn the_gateways_kernel_is_reached_over_ipv6() {
    if !available() {
        return;
    }
    let lab = lab("s4", "[1]", "tp-wan");
    every_face_answers(&lab);
    for from in ["client", "host"] {
        pings(&lab, from, OWN, &[]);
    }
    pings(&lab, "client", OWN, &["-s", "1452", "-M", "do"]);
    for to in ["2001:db8:c::7", "2001:db8:192::10", "2001:db8:192::fe"] {
        pings(&lab, "gw", to, &[]);
    }
    let mut server = lab.spawn("gw", "iperf3", &["-s", "-1"]).unwrap();
    wait("iperf3", Duration::from_secs(5), || {
        Ok(lab.run_in("gw", "ss", &["-Hltn", "sport = :5201"])?.contains("5201"))
    })
    .unwrap();
    lab.run_in("client", "iperf3", &["-6", "-c", OWN, "-t", "2", "-J"]).unwrap();
    assert!(server.wait().unwrap().success());
    assert!(lab.count("to_kernel").unwrap() > 100 && lab.count("from_kernel").unwrap() > 100);
    // Turnpike itself answers for the VIP.
    let before = lab.count("echo_replied").unwrap();
    pings(&lab, "client", VIP, &[]);
    assert!(lab.count("echo_replied").unwrap() >= before + 5);
}
