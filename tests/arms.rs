//! A gateway with two arms: clients on one, backends on the other, be it a NIC of its own or a VLAN of the same; and pods that reach
//! themselves through a VIP, with one arm and two.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::fs;
use std::time::Duration;
use turnpike_tests::bed::{Arms, Daemon, Lab, available, wait};

const VIP: &str = "http://203.0.113.80/";
/// The second arm's address, which is the SNAT address too.
const LAN: &str = "10.244.0.254";
const WAN: &str = "192.0.2.1";

/// A program in the background, ended with the test.
fn apply(lab: &Lab, manifest: &str) {
    let file = lab.dir().join("arms.yaml");
    fs::write(&file, manifest).unwrap();
    lab.apply(&file.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
}

fn curl(lab: &Lab, place: &str, url: &str) -> String {
    let words = ["-sS", "--max-time", "5", url];
    lab.run_in(place, "curl", &words)
        .unwrap_or_else(|e| panic!("{place} asks {url}: {e:#}"))
        .trim()
        .to_owned()
}

fn pings(lab: &Lab, place: &str, address: &str) -> bool {
    lab.run_in(place, "ping", &["-c", "2", "-i", "0.2", "-W", "1", address]).is_ok()
}

fn ports(lab: &Lab) -> Vec<Value> {
    serde_json::from_str(&lab.turnpike_ok(&["get", "ports", "-o", "json"]).unwrap()).unwrap()
}

/// Requests of real clients to every face, downloads and datagrams, and who the pods see.
fn clients_are_served(lab: &Lab) {
    for url in [VIP, "http://192.0.2.1:30080/", "http://10.96.0.80/"] {
        for connections in ["new", "keep"] {
            let words = [url, "--requests", "3000", "--connections", connections, "--clients", "32"];
            let outcome = lab.load(&words).unwrap();
            assert_eq!(
                (outcome.requests, outcome.failures, outcome.answers.len()),
                (3_000, 0, 3),
                "{outcome:?}"
            );
        }
    }
    assert_eq!(curl(lab, "client", &format!("{VIP}client")), LAN, "pods see the second arm's address");
    let sum = |command: &str| lab.sum_of("client", command).unwrap();
    let original = format!("cat {}", lab.dir().join("www/big").display());
    assert_eq!(sum(&format!("curl -sS --max-time 120 {VIP}big")), sum(&original));
    for place in ["client", "host"] {
        lab.datagrams_come_back(place, "203.0.113.81:7", "20,1000", 10, 2).unwrap();
    }
}

/// A pod's iperf3 server behind a VIP, there and back.
fn transfers_run_both_ways(lab: &Lab) {
    apply(
        lab,
        "
apiVersion: v1
kind: Service
metadata: {name: iperf}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.82
  selector: {app: iperf}
  ports: [{name: iperf, port: 5201}]
---
apiVersion: v1
kind: Pod
metadata: {name: iperf, labels: {app: iperf}}
status: {phase: Running, podIP: 10.244.0.11}
",
    );
    let _server = Daemon::start(lab, "pod-web-1", &["iperf3", "-s"]).unwrap();
    for way in ["--forceflush", "-R"] {
        let mut report = Value::Null;
        // It says what failed and calls that a success: until the server listens, and has let go of the client before.
        wait("iperf3", Duration::from_secs(20), || {
            let text = lab.run_in("client", "iperf3", &["-c", "203.0.113.82", "-t", "2", "-J", way])?;
            report = serde_json::from_str(&text)?;
            Ok(report["error"].is_null())
        })
        .unwrap();
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
        println!("iperf3 {way}: {:.0} Mbit/s", bits / 1e6);
        assert!(bits > 0.0, "{way}: {report}");
    }
}

/// Each arm answers for its own address and for VIPs, and not for the other arm's.
fn arp_is_answered_on_the_right_arm(lab: &Lab) {
    let neighbour = |place: &str, address: &str| {
        lab.run_in(place, "ip", &["route", "replace", &format!("{address}/32"), "dev", "eth0"]).unwrap();
        pings(lab, place, address);
        lab.run_in(place, "ip", &["neigh", "show", address]).unwrap()
    };
    for (place, address, answers) in [
        ("host", WAN, true),
        ("host", "203.0.113.80", true),
        ("host", LAN, false),
        ("pod-web-2", LAN, true),
        ("pod-web-2", "203.0.113.80", true),
        ("pod-web-2", WAN, false),
    ] {
        let said = neighbour(place, address);
        assert_eq!(said.contains("lladdr"), answers, "{place} asks for {address}: {said}");
        lab.run_in(place, "ip", &["route", "del", &format!("{address}/32"), "dev", "eth0"]).unwrap();
    }
    assert!(pings(lab, "client", WAN) && pings(lab, "pod-web-2", LAN));
}

/// A Service whose pods see their clients: answers come back by the second arm, which is the pods' neighbour.
fn pods_see_their_clients(lab: &Lab) {
    lab.lab(["return-path"]).unwrap();
    apply(
        lab,
        "
apiVersion: v1
kind: Service
metadata: {name: seen}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.93
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
",
    );
    assert_eq!(curl(lab, "client", "http://203.0.113.93/client"), "198.51.100.7");
    let outcome = lab.load(&["http://203.0.113.93/", "--requests", "2000", "--clients", "16"]).unwrap();
    assert_eq!((outcome.failures, outcome.answers.len()), (0, 3), "{outcome:?}");
}

/// What came and went by each port is told of it.
fn ports_are_told_apart(lab: &Lab, arms: Arms) {
    let listed = ports(lab);
    let names: Vec<_> = listed.iter().map(|port| port["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["wan", "lan"]);
    assert_eq!(listed[1]["vlan"], if arms == Arms::Vlan { Value::from(200) } else { Value::Null });
    let table = lab.turnpike_ok(&["get", "ports"]).unwrap();
    assert!(table.lines().next().unwrap().contains("VLAN"), "{table}");
    for port in &listed {
        let count = |name: &str| port["counters"][name].as_u64().unwrap();
        assert_eq!(count("link_up"), 1, "{port}");
        // 200 MB went by each, mostly one way.
        assert!(count("nic_rx_frames") > 20_000 && count("nic_tx_frames") > 20_000, "{port}");
    }
    let bytes = |port: usize, name: &str| listed[port]["counters"][name].as_u64().unwrap();
    assert!(bytes(0, "nic_tx_bytes") > 200_000_000 && bytes(1, "nic_rx_bytes") > 200_000_000, "{listed:?}");
    for bad in ["bad_ipv4_checksum", "bad_l4", "truncated", "header_split", "no_memory", "other_vlan"] {
        assert_eq!(lab.count(bad).unwrap(), 0, "{bad}");
    }
}

fn two_arms(name: &str, workers: &str, arms: Arms) {
    let lab = Lab::with_arms(name, workers, arms).unwrap();
    lab.serve().unwrap();
    clients_are_served(&lab);
    ports_are_told_apart(&lab, arms);
    arp_is_answered_on_the_right_arm(&lab);
    transfers_run_both_ways(&lab);
    pods_reach_themselves(&lab, LAN);
    pods_see_their_clients(&lab);
}

#[test]
fn two_nics_serve() {
    if available() {
        two_arms("t30", "[1]", Arms::Two);
    }
}

#[test]
fn two_nics_serve_with_two_workers() {
    if available() {
        two_arms("t31", "[0, 1]", Arms::Two);
    }
}

#[test]
fn a_nic_with_a_vlan_serves() {
    if available() {
        two_arms("t32", "[1]", Arms::Vlan);
    }
}

#[test]
fn a_nic_with_a_vlan_serves_with_two_workers() {
    if available() {
        two_arms("t33", "[0, 1]", Arms::Vlan);
    }
}

/// A pod whose Service has it as the only backend, by every face, over TCP and UDP: it gets its own answer, from the gateway's address (rule
/// A4), whether pods of the Service see their clients or not.
fn pods_reach_themselves(lab: &Lab, snat: &str) {
    for (mode, policy) in [("nat", "Cluster"), ("dnat", "Local")] {
        apply(
            lab,
            &format!(
                "
apiVersion: v1
kind: Service
metadata: {{name: own, annotations: {{turnpike.dev/mode: {mode}}}}}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.94
  clusterIP: 10.96.0.94
  externalTrafficPolicy: {policy}
  selector: {{app: own}}
  ports:
    - {{name: http, port: 80, targetPort: 8080, nodePort: 30094}}
    - {{name: echo, protocol: UDP, port: 7, targetPort: 9000}}
---
apiVersion: v1
kind: Pod
metadata: {{name: own, labels: {{app: own}}}}
status: {{phase: Running, podIP: 10.244.0.11}}
"
            ),
        );
        for url in ["http://203.0.113.94/", "http://10.96.0.94/", "http://192.0.2.1:30094/"] {
            assert_eq!(curl(lab, "pod-web-1", url), "web-1", "{mode} {url}");
            assert_eq!(curl(lab, "pod-web-1", &format!("{url}client")), snat, "{mode} {url}");
        }
        let download = "curl -sS --max-time 60 -r 0-19999999 http://203.0.113.94/big";
        let original = format!("head -c 20000000 {}", lab.dir().join("www/big").display());
        let sum = |command| lab.sum_of("pod-web-1", command).unwrap();
        assert_eq!(sum(download), sum(&original), "{mode}");
        lab.datagrams_come_back("pod-web-1", "203.0.113.94:7", "20,1000", 10, 2).unwrap();
    }
    lab.turnpike_ok(&["delete", "service", "own"]).unwrap();
}

#[test]
fn rule_a4_a_pod_reaches_itself_through_a_vip() {
    if available() {
        let lab = Lab::new("t34").unwrap();
        lab.serve().unwrap();
        pods_reach_themselves(&lab, "10.1.0.1");
    }
}

#[test]
fn rule_a4_a_pod_reaches_itself_through_a_vip_with_two_workers() {
    if available() {
        let lab = Lab::with_workers("t35", "[0, 1]").unwrap();
        lab.serve().unwrap();
        pods_reach_themselves(&lab, "10.1.0.1");
    }
}
