//! End to end: real clients, real nginx, real etcd, the real programs, in network namespaces.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::time::Duration;
use turnpike_tests::bed::{Lab, available, outcome_of};
use turnpike_tests::load::Outcome;

const VIP: &str = "http://203.0.113.80/";
const NODE_PORT: &str = "http://192.0.2.1:30080/";
const CLUSTER_IP: &str = "http://10.96.0.80/";

#[track_caller]
fn all_pods_answered(outcome: &Outcome, requests: u64) {
    assert_eq!((outcome.requests, outcome.failures), (requests, 0), "{outcome:?}");
    let pods: Vec<&str> = outcome.answers.keys().map(String::as_str).collect();
    assert_eq!(pods, ["web-1", "web-2", "web-3"], "{outcome:?}");
}

/// Everything a client can see of a gateway with these workers.
fn gateway_serves(name: &str, workers: &str) {
    let lab = Lab::with_workers(name, workers).unwrap();
    lab.serve().unwrap();
    for url in [VIP, NODE_PORT, CLUSTER_IP] {
        for connections in ["new", "keep"] {
            let outcome = lab
                .load(&[url, "--requests", "10000", "--connections", connections, "--clients", "32"])
                .unwrap();
            all_pods_answered(&outcome, 10_000);
        }
    }
    downloads_are_identical(&lab);
    udp_is_echoed(&lab);
    neighbours_find_the_gateway(&lab);
    nothing_leaks_untranslated(&lab);
    every_packet_has_a_fate(&lab);
}

#[test]
fn one_worker_serves_all_faces() {
    if available() {
        gateway_serves("t1", "[1]");
    }
}

#[test]
fn two_workers_that_hand_over_serve_all_faces() {
    if available() {
        gateway_serves("t2", "[0, 1]");
    }
}

fn downloads_are_identical(lab: &Lab) {
    let sum = |command: &str| lab.sum_of("client", command).unwrap();
    let original = format!("cat {}", lab.dir().join("www/big").display());
    assert_eq!(sum(&format!("curl -sS --max-time 120 {VIP}big")), sum(&original));
}

fn udp_is_echoed(lab: &Lab) {
    for (place, address) in
        [("client", "203.0.113.81:7"), ("client", "192.0.2.1:30007"), ("host", "203.0.113.81:7")]
    {
        lab.datagrams_come_back(place, address, "20,1000", 10, 2).unwrap();
    }
}

fn neighbours_find_the_gateway(lab: &Lab) {
    // The host is on the gateway's own network, where the VIP is answered by ARP.
    lab.run_in("host", "ping", &["-c", "3", "-i", "0.2", "-W", "2", "203.0.113.80"]).unwrap();
    lab.run_in("client", "ping", &["-c", "3", "-i", "0.2", "-W", "2", "192.0.2.1"]).unwrap();
    lab.run_in("client", "ping", &["-c", "3", "-i", "0.2", "-W", "2", "10.96.0.80"]).unwrap();
    let neighbours = lab.run_in("host", "ip", &["neigh", "show", "203.0.113.80"]).unwrap();
    assert!(neighbours.contains("lladdr"), "{neighbours}");
    assert!(
        lab.run_in("host", "ping", &["-c", "1", "-W", "1", "203.0.113.99"]).is_err(),
        "nobody has this address"
    );
}

fn nothing_leaks_untranslated(lab: &Lab) {
    let capture = lab.dir().join("pod.pcap");
    let pcap = capture.to_string_lossy();
    let mut tcpdump = lab
        .spawn("pod-web-1", "tcpdump", &["-i", "eth0", "--immediate-mode", "-U", "-w", &pcap, "tcp or udp"])
        .unwrap();
    turnpike_tests::bed::wait("tcpdump", Duration::from_secs(5), || Ok(capture.exists())).unwrap();
    all_pods_answered(&lab.load(&[VIP, "--requests", "500"]).unwrap(), 500);
    std::thread::sleep(Duration::from_millis(300));
    Command::new("kill").arg(tcpdump.id().to_string()).status().unwrap();
    tcpdump.wait().unwrap();
    let count = |filter: &str| {
        let output =
            Command::new("tcpdump").args(["-nr", &pcap, filter]).stderr(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    assert!(count("host 10.1.0.1") > 200, "the pod sees the SNAT address");
    assert_eq!(count("not host 10.1.0.1"), 0, "and nobody else");
    let checked = Command::new("tcpdump")
        .args(["-nvr", &pcap, "dst host 10.244.0.11"])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.contains("(correct)") && !checked.contains("(incorrect"),
        "every checksum towards the pod is right"
    );
}

fn every_packet_has_a_fate(lab: &Lab) {
    std::thread::sleep(Duration::from_millis(500));
    let status = lab.status().unwrap();
    for worker in status["dataplane"]["workers"].as_array().unwrap() {
        let count = |name: &str| worker["counters"][name].as_u64().unwrap();
        assert!(count("forwarded") > 10_000, "{worker}");
        for bad in [
            "bad_ipv4_checksum",
            "truncated",
            "header_split",
            "flow_table_full",
            "snat_exhausted",
            "no_memory",
        ] {
            assert_eq!(count(bad), 0, "{bad}: {worker}");
        }
        // A worker that its machine does not let run for a while cannot take what the others hand to it; TCP sends that again.
        assert!(count("handoff_full") * 100 <= count("handed_off"), "{worker}");
    }
}

#[test]
fn a_pod_that_comes_back_elsewhere_costs_no_request() {
    if !available() {
        return;
    }
    let lab = Lab::new("t3").unwrap();
    lab.serve().unwrap();
    for connections in ["new", "keep"] {
        let load =
            lab.spawn_load(&[VIP, "--seconds", "8", "--rate", "500", "--connections", connections]).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let (old, new, address) = if connections == "new" {
            ("web-2", "web-4", "10.244.0.22")
        } else {
            ("web-3", "web-5", "10.244.0.23")
        };
        lab.turnpike_ok(&["delete", "pod", old]).unwrap();
        lab.wait_adopted().unwrap();
        // Connections that are kept stay with their pod as long as it is there: it ends with the load.
        if connections == "new" {
            std::thread::sleep(Duration::from_secs(1));
            lab.lab(["pod-quit", old]).unwrap();
        }
        lab.lab(["pod-add", new, address]).unwrap();
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {old}, labels: {{app: web}}}}\nstatus: {{phase: Running, podIP: {address}}}\n"
        );
        let file = lab.dir().join("moved.yaml");
        std::fs::write(&file, manifest).unwrap();
        lab.apply(&file.to_string_lossy()).unwrap();
        lab.wait_adopted().unwrap();
        let outcome = outcome_of(load).unwrap();
        assert_eq!(outcome.failures, 0, "{outcome:?}");
        assert!(outcome.requests > 100, "{outcome:?}");
        if connections == "new" {
            assert!(outcome.answers.contains_key(new), "the new pod got requests: {outcome:?}");
        }
    }
}

#[test]
fn up_runs_everything_and_ends_in_order() {
    if !available() {
        return;
    }
    let lab = Lab::new("t9").unwrap();
    let program = turnpike_tests::bed::program("turnpike").unwrap();
    let config = lab.dir().join("turnpike.toml");
    let arguments = ["--config", &config.to_string_lossy(), "up"];
    let mut up = lab.spawn("gw", &program.to_string_lossy(), &arguments).unwrap();
    // Somebody has to read what it says, or it would wait for that.
    let said = up.stderr.take().unwrap();
    let said = std::thread::spawn(move || std::io::read_to_string(said).unwrap());
    lab.wait_for_admin().unwrap();
    lab.apply("scripts/lab/web.yaml").unwrap();
    lab.wait_adopted().unwrap();
    all_pods_answered(&lab.load(&[VIP, "--requests", "200"]).unwrap(), 200);
    // What dies later is started again.
    std::thread::sleep(Duration::from_secs(11));
    let before = lab.status().unwrap()["dataplane"]["pid"].clone();
    assert!(Command::new("kill").args(["-KILL", &before.to_string()]).status().unwrap().success());
    turnpike_tests::bed::wait("another dataplane", Duration::from_secs(20), || {
        Ok(lab.status()?["dataplane"]["pid"] != before)
    })
    .unwrap();
    lab.wait_adopted().unwrap();
    all_pods_answered(&lab.load(&[VIP, "--requests", "200"]).unwrap(), 200);
    assert!(Command::new("kill").args(["-INT", &up.id().to_string()]).status().unwrap().success());
    let status = up.wait().unwrap();
    let said = said.join().unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(said.contains("controlplane | ") && said.contains("dataplane    | "), "{said}");
    assert!(lab.turnpike(&["status"]).unwrap().status.code() == Some(1), "nobody is left");
}
