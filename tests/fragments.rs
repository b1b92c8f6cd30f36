//! Datagrams far longer than any link takes, through VIPs and back, cut and put together again by real kernels on both sides.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use turnpike_tests::bed::{Daemon, Lab, available, program, wait};

/// Full NAT, and the client's address kept; in both families.
const FACES: [&str; 4] = ["203.0.113.84:7", "203.0.113.85:7", "[2001:db8:203::84]:7", "[2001:db8:203::85]:7"];

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata:
  name: large
  annotations: {turnpike.dev/load-balancer-ips: \"203.0.113.84,2001:db8:203::84\"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: large}
  ports: [{name: echo, protocol: UDP, port: 7, targetPort: 9001}]
---
apiVersion: v1
kind: Service
metadata:
  name: kept
  annotations: {turnpike.dev/mode: dnat, turnpike.dev/load-balancer-ips: \"203.0.113.85,2001:db8:203::85\"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: large}
  ports: [{name: echo, protocol: UDP, port: 7, targetPort: 9001}]
---
apiVersion: v1
kind: Pod
metadata: {name: large-1, labels: {app: large}}
status: {phase: Running, podIPs: [{ip: 10.244.0.11}, {ip: \"fd00:10:244::11\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: large-2, labels: {app: large}}
status: {phase: Running, podIPs: [{ip: 10.244.0.12}, {ip: \"fd00:10:244::12\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: large-3, labels: {app: large}}
status: {phase: Running, podIPs: [{ip: 10.244.0.13}, {ip: \"fd00:10:244::13\"}]}
";

fn large_datagrams_pass(lab: &Lab) {
    lab.lab(["return-path"]).unwrap();
    let manifest = lab.dir().join("large.yaml");
    std::fs::write(&manifest, MANIFEST).unwrap();
    lab.apply(&manifest.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
    let pods = ["pod-web-1", "pod-web-2", "pod-web-3"];
    let datagrams = program("datagrams").unwrap();
    let words = [&*datagrams.to_string_lossy(), "echo", "[::]:9001"];
    let _servers = pods.map(|pod| Daemon::start(lab, pod, &words).unwrap());
    for pod in pods {
        wait("an echo server", Duration::from_secs(5), || {
            Ok(lab.run_in(pod, "ss", &["-Hlun", "sport = :9001"])?.contains("9001"))
        })
        .unwrap();
    }
    let mut again = 0;
    for address in FACES {
        let ask = |bytes, count, clients| lab.datagrams_come_back("client", address, bytes, count, clients);
        again += ask("60000", 60, 1).unwrap() + ask("60000,65507,1473,9000,1472,2953", 30, 3).unwrap();
    }
    // No kernel and no worker found anything wrong with a fragment, and none missed any that no queue has lost.
    let wrong = ["fragment", "fragment_bad", "fragment_overlap", "fragment_duplicate", "fragments_full"];
    let missed = ["fragment_timeout", "fragment_no_flow", "handoff_full"];
    for quiet in wrong.iter().chain(if again == 0 { &missed[..] } else { &[] }) {
        assert_eq!(lab.count(quiet).unwrap(), 0, "{quiet}");
    }
    // Put together by family: what the client got, and what the pods did, of which one may have been nobody's choice.
    let mut whole = [[0; 2]; 2];
    for (who, place) in [(0, "client"), (1, "pod-web-1"), (1, "pod-web-2"), (1, "pod-web-3")] {
        let snmp = lab.run_in(place, "nstat", &["-asz"]).unwrap();
        let value = |name: &str| -> u64 {
            let line = snmp.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        for (family, (failed, done, wrong)) in [
            ("IpReasmFails", "IpReasmOKs", "UdpInCsumErrors"),
            ("Ip6ReasmFails", "Ip6ReasmOKs", "Udp6InCsumErrors"),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(value(wrong), 0, "{place}");
            assert!(again > 0 || value(failed) == 0, "{place}: {snmp}");
            whole[who][family] += value(done);
        }
    }
    // Of two faces each 60 datagrams of 60 kB, and of 90 others the five in six that are no single packet.
    assert!(whole.as_flattened().iter().all(|&datagrams| datagrams >= 270), "{whole:?}");
}

/// A tap as the gateway's NIC, and as a port of the router's bridge: sockets of AF_PACKET, as DPDK has them, get fragments put together by the kernel.
fn plug_in(lab: &Lab) {
    let netns = lab.run_in("router", "ip", &["netns", "identify"]).unwrap();
    lab.run_in("gw", "ip", &["link", "set", "gt0", "netns", netns.trim()]).unwrap();
    // The gateway's address is that of the tap's other end; the bridge would keep frames to its own.
    for words in [&["address", "02:00:00:00:99:01"][..], &["master", "br-wan"], &["up"]] {
        lab.run_in("router", "ip", &[&["link", "set", "gt0"], words].concat()).unwrap();
    }
}

fn behind_a_tap(name: &str, workers: &str) -> Lab {
    let lab = Lab::with_device(name, workers, "net_tap0,iface=gt0").unwrap();
    lab.serve().unwrap();
    plug_in(&lab);
    lab
}

#[test]
fn rfc4787_req14_datagrams_of_60_kb_pass_both_ways() {
    if available() {
        large_datagrams_pass(&behind_a_tap("g1", "[1]"));
    }
}

#[test]
fn rfc4787_req14_datagrams_of_60_kb_pass_both_ways_with_two_workers() {
    if available() {
        let lab = behind_a_tap("g2", "[0, 1]");
        large_datagrams_pass(&lab);
        assert!(lab.count("handed_off").unwrap() > 0);
    }
}
