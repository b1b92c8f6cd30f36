//! A network that loses, reorders, doubles and delays, on both sides of the gateway: real TCP still gets every byte, names are still found,
//! and nobody resets anybody.
#![allow(clippy::unwrap_used)]

use turnpike_tests::bed::{Lab, available};

const URL: &str = "http://203.0.113.80/three";
/// 1 % of the frames are lost, 1 % come twice, 5 % are overtaken, and all take two milliseconds; each way, at each queue.
const FAULTS: &str = "faults = { seed = 7, loss = 10, duplicate = 10, reorder = 50, delay_ms = 2 }";

fn sum(lab: &Lab, place: &str, command: &str) -> String {
    let script = format!("set -o pipefail; {command} | sha256sum");
    let printed = lab.run_in(place, "bash", &["-c", &script]).unwrap();
    printed.split_whitespace().next().unwrap().to_owned()
}

/// A counter of all workers, once the latest has been shown.
fn count(lab: &Lab, name: &str) -> u64 {
    std::thread::sleep(std::time::Duration::from_millis(300));
    let status = lab.status().unwrap();
    let workers = status["dataplane"]["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["counters"][name].as_u64().unwrap()).sum()
}

#[test]
fn every_byte_arrives_through_a_bad_network() {
    if !available() {
        return;
    }
    let lab = Lab::with_workers("m1", "[0, 1]").unwrap();
    let config = lab.dir().join("turnpike.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[dataplane]\n", &format!("[dataplane]\n{FAULTS}\n"))).unwrap();
    lab.serve().unwrap();
    lab.apply("scripts/lab/dns.yaml").unwrap();
    lab.wait_adopted().unwrap();
    assert!(lab.log("dataplane").contains("for tests alone"), "whoever sets it is told");
    let www = lab.dir().join("www");
    lab.run_in("client", "sh", &["-c", &format!("head -c 3M {0}/big >{0}/three", www.display())]).unwrap();
    let original = sum(&lab, "client", &format!("cat {}/three", www.display()));

    let curl = format!("curl -sS --max-time 60 {URL}");
    for _ in 0..4 {
        assert_eq!(sum(&lab, "client", &curl), original);
    }
    // Many at once, so that flows of both workers and their hand-offs meet the same.
    let many = format!("for n in $(seq 8); do {curl} | sha256sum & done; wait");
    let sums = lab.run_in("client", "bash", &["-c", &many]).unwrap();
    assert_eq!(sums.lines().filter(|line| line.starts_with(&original)).count(), 8, "{sums}");

    let ask = ["+short", "+tries=8", "+time=1", "@10.96.0.10", "web.default.svc.cluster.local"];
    for _ in 0..60 {
        // It tells of tries that were lost before the answer.
        assert_eq!(lab.run_in("client", "dig", &ask).unwrap().lines().last(), Some("10.96.0.80"));
    }

    // The network was bad, and TCP went on all the same.
    let retransmitted =
        lab.run_in("client", "nstat", &["-asz", "TcpRetransSegs", "TcpExtTCPOFOQueue"]).unwrap();
    let out_of_order = retransmitted.lines().find(|line| line.starts_with("TcpExtTCPOFOQueue")).unwrap();
    let out_of_order: u64 = out_of_order.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(out_of_order > 100, "{retransmitted}");
    for quiet in ["resets_sent", "tcp_no_flow", "bad_l4", "bad_ipv4_checksum", "no_memory"] {
        assert_eq!(count(&lab, quiet), 0, "{quiet}");
    }
    let wrong = lab.run_in("client", "nstat", &["-asz", "TcpInCsumErrors", "UdpInCsumErrors"]).unwrap();
    assert!(wrong.lines().skip(1).all(|line| line.split_whitespace().nth(1) == Some("0")), "{wrong}");
}
