//! Backends that see their clients (`turnpike.dev/mode`), by real kernels: `dnat`, whose answers come back through the gateway, and `dsr-ipip`,
//! whose answers do not. Downloads, uploads and datagrams pass whole, also where a link is too small for packets in packets.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use turnpike_tests::bed::{Lab, available, program, wait};

const DIRECT: &str = "203.0.113.90";
const DNAT: &str = "203.0.113.91";
const CLIENT: &str = "198.51.100.7";
const PODS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// What a client downloads and uploads, in bytes.
const BYTES: u64 = 5 << 20;

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: direct, annotations: {turnpike.dev/mode: dsr-ipip}}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.90
  selector: {app: web}
  ports:
    - {name: http, port: 8080}
    - {name: sink, port: 9001}
    - {name: echo, protocol: UDP, port: 9002}
---
apiVersion: v1
kind: Service
metadata: {name: kept, annotations: {turnpike.dev/mode: dnat}}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.91
  selector: {app: web}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: sink, port: 9001}
    - {name: echo, protocol: UDP, port: 7, targetPort: 9000}
";

/// Ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(lab: &Lab, pod: &str, words: &[&str]) -> Self {
        let mut command = lab.command(&format!("pod-{pod}"), words[0]);
        let log = std::fs::File::create(lab.dir().join(format!("{pod}-{}.log", words.len()))).unwrap();
        Self(command.args(&words[1..]).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A counter of all workers, once the latest has been shown.
fn count(lab: &Lab, name: &str) -> u64 {
    std::thread::sleep(Duration::from_millis(300));
    let status = lab.status().unwrap();
    let workers = status["dataplane"]["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["counters"][name].as_u64().unwrap()).sum()
}

fn sum(lab: &Lab, place: &str, command: &str) -> String {
    let script = format!("set -o pipefail; {command} | sha256sum");
    let printed = lab.run_in(place, "bash", &["-c", &script]).unwrap();
    printed.split_whitespace().next().unwrap().to_owned()
}

/// Makes every pod one that takes packets in packets for the VIP, answers from it, and stores or echoes what it gets.
fn prepare(lab: &Lab) -> Vec<Daemon> {
    let decapsulate = program("decapsulate").unwrap().to_string_lossy().into_owned();
    let mut daemons = Vec::new();
    for pod in PODS {
        let place = format!("pod-{pod}");
        let to_file = format!("OPEN:{}/{pod}.received,creat,trunc", lab.dir().display());
        lab.run_in(&place, "ip", &["addr", "add", &format!("{DIRECT}/32"), "dev", "lo"]).unwrap();
        daemons.push(Daemon::start(lab, pod, &[&decapsulate]));
        let store = ["socat", "-u", "TCP4-LISTEN:9001,reuseaddr,fork", &to_file];
        daemons.push(Daemon::start(lab, pod, &store));
        let echo = format!("UDP4-RECVFROM:9002,bind={DIRECT},reuseaddr,fork");
        daemons.push(Daemon::start(lab, pod, &["socat", "-T", "5", &echo, "EXEC:cat"]));
        wait("the pod's programs", Duration::from_secs(10), || {
            let heard = lab.run_in(&place, "ss", &["-Hlntu"])?;
            let link = lab.run_in(&place, "ip", &["-br", "link"])?;
            Ok(heard.contains(":9001") && heard.contains(":9002") && link.contains("dsr0"))
        })
        .unwrap();
    }
    daemons
}

/// Every pod answers, and each has seen the client itself.
fn all_pods_see_the_client(lab: &Lab, address: &str) {
    let mut answered = BTreeSet::new();
    for _ in 0..40 {
        let name = lab.run_in("client", "curl", &["-sS", "--max-time", "5", &format!("http://{address}/")]);
        answered.insert(name.unwrap().trim().to_owned());
    }
    assert_eq!(answered, BTreeSet::from(PODS.map(str::to_owned)));
    let seen = lab.run_in("client", "curl", &["-sS", "--max-time", "5", &format!("http://{address}/client")]);
    assert_eq!(seen.unwrap().trim(), CLIENT);
}

fn bytes_pass_both_ways(lab: &Lab, address: &str, http: u16) {
    let file = lab.dir().join("www/five").to_string_lossy().into_owned();
    let original = sum(lab, "client", &format!("cat {file}"));
    for _ in 0..4 {
        let download = format!("curl -sS --max-time 20 http://{address}:{http}/five");
        assert_eq!(sum(lab, "client", &download), original);
    }
    let upload = ["20", "socat", "-u", &format!("OPEN:{file}"), &format!("TCP4:{address}:9001")];
    for pod in PODS {
        let _ = std::fs::remove_file(lab.dir().join(format!("{pod}.received")));
    }
    lab.run_in("client", "timeout", &upload).unwrap();
    let stored = || PODS.map(|pod| lab.dir().join(format!("{pod}.received")));
    wait("the upload", Duration::from_secs(10), || {
        Ok(stored().iter().any(|file| file.metadata().is_ok_and(|m| m.len() == BYTES)))
    })
    .unwrap();
    let stored = stored().into_iter().find(|file| file.exists()).unwrap();
    assert_eq!(sum(lab, "client", &format!("cat {}", stored.display())), original);
}

fn datagrams_are_echoed(lab: &Lab, address: &str) {
    // A connected socket takes answers from the address it asked only.
    for n in 0..20 {
        let ask = format!("printf 'question {n}' | socat -t 0.7 - UDP4:{address}");
        assert_eq!(lab.run_in("client", "sh", &["-c", &ask]).unwrap(), format!("question {n}"));
    }
}

/// No kernel remembers what it was told before.
fn forget(lab: &Lab) {
    for place in ["client", "router", "pod-web-1", "pod-web-2", "pod-web-3"] {
        lab.run_in(place, "ip", &["route", "flush", "cache"]).unwrap();
    }
}

/// What a pod gets in packets: their outer sources.
fn outer_sources(lab: &Lab, pod: &str, meanwhile: impl FnOnce()) -> BTreeSet<String> {
    let capture = lab.dir().join(format!("{pod}.pcap"));
    let pcap = capture.to_string_lossy();
    let arguments = ["-i", "eth0", "--immediate-mode", "-U", "-w", &pcap, "ip proto 4"];
    let mut tcpdump = lab.spawn(&format!("pod-{pod}"), "tcpdump", &arguments).unwrap();
    wait("tcpdump", Duration::from_secs(5), || Ok(capture.exists())).unwrap();
    meanwhile();
    std::thread::sleep(Duration::from_millis(500));
    Command::new("kill").arg(tcpdump.id().to_string()).status().unwrap();
    tcpdump.wait().unwrap();
    let read = Command::new("tcpdump").args(["-nvr", &pcap]).stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    assert!(!text.contains("bad cksum") && !text.contains("incorrect"), "every checksum is right");
    let source = |line: &str| {
        let (source, rest) = line.trim().split_once(" > ")?;
        rest.contains(": IP ").then(|| source.to_owned())
    };
    text.lines().filter_map(source).collect()
}

/// Starts the dataplane anew with outer sources of a network.
fn spread_sources(lab: &Lab) {
    lab.lab(["stop", "dataplane"]).unwrap();
    let file = lab.dir().join("turnpike.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "\n[dataplane.dsr]\nsources = [\"198.18.0.0/16\"]\n").unwrap();
    lab.run_in("router", "ip", &["route", "add", "198.18.0.0/16", "via", "192.0.2.1"]).unwrap();
    lab.lab(["start", "dataplane"]).unwrap();
    lab.wait_adopted().unwrap();
}

fn direct_answers_go_past_the_gateway(lab: &Lab) {
    let address = format!("{DIRECT}:8080");
    all_pods_see_the_client(lab, &address);
    datagrams_are_echoed(lab, &format!("{DIRECT}:9002"));
    let before = count(lab, "rx_bytes");
    let download = format!("curl -sS --max-time 20 http://{address}/five");
    (0..4).for_each(|_| drop(sum(lab, "client", &download)));
    let heard = count(lab, "rx_bytes") - before;
    assert!(heard < BYTES, "the gateway got {heard} bytes while the client got {} from pods", 4 * BYTES);
}

/// Packets in packets do not fit a link of 1500 bytes: clients are told by the gateway, or by the router behind it through the gateway.
fn uploads_find_the_size_that_fits(lab: &Lab) {
    forget(lab);
    let before = [count(lab, "too_big"), count(lab, "mss_clamped")];
    bytes_pass_both_ways(lab, DIRECT, 8080);
    let after = [count(lab, "too_big"), count(lab, "mss_clamped")];
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?}, {after:?}");
    let route = lab.run_in("client", "ip", &["route", "get", DIRECT]).unwrap();
    assert!(route.contains("mtu 1480"), "{route}");

    forget(lab);
    let before = count(lab, "tunnel_error");
    let pods = ["route", "replace", "10.244.0.0/16", "dev", "br-pods"];
    lab.run_in("router", "ip", &[&pods[..], &["mtu", "lock", "1400"]].concat()).unwrap();
    bytes_pass_both_ways(lab, DIRECT, 8080);
    lab.run_in("router", "ip", &pods).unwrap();
    assert!(count(lab, "tunnel_error") > before, "the router behind the gateway was heard");
    let route = lab.run_in("client", "ip", &["route", "get", DIRECT]).unwrap();
    assert!(route.contains("mtu 1380"), "{route}");
}

#[test]
fn dsr_ipip_works_with_real_kernels() {
    if !available() {
        return;
    }
    let lab = served("j1");
    let _daemons = prepare(&lab);
    direct_answers_go_past_the_gateway(&lab);
    uploads_find_the_size_that_fits(&lab);
    let sources = outer_sources(&lab, "web-1", || all_pods_see_the_client(&lab, &format!("{DIRECT}:8080")));
    assert_eq!(sources, BTreeSet::from(["192.0.2.1".to_owned()]));
    spread_sources(&lab);
    let sources = outer_sources(&lab, "web-1", || all_pods_see_the_client(&lab, &format!("{DIRECT}:8080")));
    assert!(sources.len() > 3 && sources.iter().all(|s| s.starts_with("198.18.")), "{sources:?}");
    uploads_find_the_size_that_fits(&lab);
    // A Service whose ports differ is told why it is not served so.
    let file = lab.dir().join("direct.yaml");
    let wrong = MANIFEST.replace("name: http, port: 8080", "name: http, port: 80, targetPort: 8080");
    std::fs::write(&file, wrong).unwrap();
    let refused = lab.turnpike(&["apply", "-f", &file.to_string_lossy()]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("8080 is not the port 80"), "{said}");
}

#[test]
fn dnat_works_with_real_kernels() {
    if !available() {
        return;
    }
    let lab = served("j2");
    lab.lab(["return-path"]).unwrap();
    let _daemons = prepare(&lab);
    all_pods_see_the_client(&lab, DNAT);
    datagrams_are_echoed(&lab, &format!("{DNAT}:7"));
    let before = count(&lab, "rx_bytes");
    bytes_pass_both_ways(&lab, DNAT, 80);
    let heard = count(&lab, "rx_bytes") - before;
    assert!(heard > 4 * BYTES, "answers pass the gateway: {heard} bytes");
    for quiet in ["bad_ipv4_checksum", "not_ours", "tcp_no_flow", "too_big"] {
        assert_eq!(count(&lab, quiet), 0, "{quiet}");
    }
    // What the router itself says to clients about packets to pods has to pass the gateway, too.
    lab.run_in("router", "sysctl", &["-qw", "net.ipv4.icmp_errors_use_inbound_ifaddr=1"]).unwrap();
    let rule = ["rule", "add", "from", "192.0.2.254", "to", "198.51.100.0/24", "lookup", "100"];
    lab.run_in("router", "ip", &rule).unwrap();
    // A small link on either side; both senders are told through the gateway.
    for (network, device) in [("198.51.100.0/24", "client0"), ("10.244.0.0/16", "br-pods")] {
        forget(&lab);
        let before = count(&lab, "icmp_translated");
        let link = ["route", "replace", network, "dev", device];
        lab.run_in("router", "ip", &[&link[..], &["mtu", "lock", "1300"]].concat()).unwrap();
        bytes_pass_both_ways(&lab, DNAT, 80);
        lab.run_in("router", "ip", &link).unwrap();
        assert!(count(&lab, "icmp_translated") > before, "{device}");
    }
}

/// A lab with both Services.
fn served(name: &str) -> Lab {
    let lab = Lab::with_workers(name, "[0, 1]").unwrap();
    lab.serve().unwrap();
    let file = lab.dir().join("modes.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    lab.apply(&file.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
    let www = lab.dir().join("www");
    lab.run_in("client", "sh", &["-c", &format!("head -c {BYTES} {0}/big >{0}/five", www.display())])
        .unwrap();
    lab
}
