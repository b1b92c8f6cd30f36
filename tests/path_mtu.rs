//! Path MTU discovery through the gateway, by real kernels: a smaller MTU on the client's side, on the backends' side, and at the gateway
//! itself. Nothing but ICMP tells the senders; without it their connections would hang.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use turnpike_tests::bed::{Lab, available, wait};

const URL: &str = "http://203.0.113.80/five";
const SINK: &str = "203.0.113.82:9001";

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: sink}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.82
  selector: {app: sink}
  ports: [{name: bytes, port: 9001}]
---
apiVersion: v1
kind: Pod
metadata: {name: sink, labels: {app: sink}}
status: {phase: Running, podIP: 10.244.0.11}
";

/// No kernel remembers what it was told before.
fn forget(lab: &Lab) {
    for place in ["client", "router", "pod-web-1", "pod-web-2", "pod-web-3"] {
        lab.run_in(place, "ip", &["route", "flush", "cache"]).unwrap();
    }
}

fn link(lab: &Lab, network: &str, device: &str, mtu: &[&str]) {
    let arguments = [&["route", "replace", network, "dev", device][..], mtu].concat();
    lab.run_in("router", "ip", &arguments).unwrap();
}

/// Downloads 5 MB from each pod in turn and uploads them to one; both ends must have the same bytes.
fn bytes_pass_both_ways(lab: &Lab) {
    let file = lab.dir().join("www/five").to_string_lossy().into_owned();
    let original = lab.sum_of("client", &format!("cat {file}")).unwrap();
    for _ in 0..4 {
        assert_eq!(lab.sum_of("client", &format!("curl -sS --max-time 20 {URL}")).unwrap(), original);
    }
    let received = lab.dir().join("received").to_string_lossy().into_owned();
    let to_file = format!("OPEN:{received},creat,trunc");
    let mut sink = lab.spawn("pod-web-1", "socat", &["-u", "TCP4-LISTEN:9001,reuseaddr", &to_file]).unwrap();
    wait("the sink", Duration::from_secs(5), || {
        Ok(lab.run_in("pod-web-1", "ss", &["-Hltn", "sport = :9001"])?.contains("9001"))
    })
    .unwrap();
    lab.run_in("client", "timeout", &["20", "socat", "-u", &format!("OPEN:{file}"), &format!("TCP4:{SINK}")])
        .unwrap();
    assert!(sink.wait().unwrap().success());
    assert_eq!(lab.sum_of("client", &format!("cat {received}")).unwrap(), original);
}

/// Starts the dataplane anew with other lines in its configuration.
fn reconfigure(lab: &Lab, mss_clamp: &str, mtu: u16) {
    lab.lab(["stop", "dataplane"]).unwrap();
    let file = lab.dir().join("turnpike.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("mss_clamp") && !line.starts_with("mtu")).collect();
    let text = kept
        .join("\n")
        .replace("[dataplane]\n", &format!("[dataplane]\nmss_clamp = {mss_clamp}\n"))
        .replace("name = \"wan\"\n", &format!("name = \"wan\"\nmtu = {mtu}\n"));
    std::fs::write(&file, text).unwrap();
    lab.lab(["start", "dataplane"]).unwrap();
    lab.wait_adopted().unwrap();
    forget(lab);
}

#[test]
fn rfc4787_req13_path_mtu_discovery_works_through_the_gateway() {
    if !available() {
        return;
    }
    let lab = Lab::with_workers("i1", "[0, 1]").unwrap();
    lab.serve().unwrap();
    let manifest = lab.dir().join("sink.yaml");
    std::fs::write(&manifest, MANIFEST).unwrap();
    lab.apply(&manifest.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
    let www = lab.dir().join("www");
    lab.run_in("client", "sh", &["-c", &format!("head -c 5M {0}/big >{0}/five", www.display())]).unwrap();

    let (client, pods) = (("198.51.100.0/24", "client0"), ("10.244.0.0/16", "br-pods"));
    let small = ["mtu", "lock", "1300"];
    for (side, (network, device)) in [("client", client), ("backends", pods)] {
        forget(&lab);
        let before = lab.count("icmp_translated").unwrap();
        link(&lab, network, device, &small);
        bytes_pass_both_ways(&lab);
        link(&lab, network, device, &[]);
        assert!(lab.count("icmp_translated").unwrap() > before, "the router of the {side} was heard");
    }
    for quiet in ["icmp_bad", "icmp_sent", "too_big", "mss_clamped"] {
        assert_eq!(lab.count(quiet).unwrap(), 0, "{quiet}");
    }

    // The gateway's own port is the small one.
    reconfigure(&lab, "\"off\"", 1_280);
    bytes_pass_both_ways(&lab);
    assert!(lab.count("too_big").unwrap() > 0 && lab.count("icmp_sent").unwrap() > 0);
    assert_eq!(lab.count("mss_clamped").unwrap(), 0);

    // With lowered segment sizes nobody has to be told.
    for mss_clamp in ["\"auto\"", "1200"] {
        reconfigure(&lab, mss_clamp, 1_280);
        bytes_pass_both_ways(&lab);
        assert_eq!((lab.count("too_big").unwrap(), lab.count("icmp_sent").unwrap()), (0, 0), "{mss_clamp}");
        assert!(lab.count("mss_clamped").unwrap() >= 10, "{mss_clamp}");
    }
}
