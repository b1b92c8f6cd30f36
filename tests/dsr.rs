//! Backends that see their clients (`turnpike.dev/mode`), by real kernels and in both IP families: `dnat`, whose answers come back through the
//! gateway, and `dsr-ipip`, whose answers do not. Downloads, uploads and datagrams pass whole, also where a link is too small for packets in
//! packets.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;
use turnpike_tests::bed::{Daemon, Lab, available, program, wait};

const PODS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// What a client downloads and uploads, in bytes.
const BYTES: u64 = 5 << 20;

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata:
  name: direct
  annotations: {turnpike.dev/mode: dsr-ipip, turnpike.dev/load-balancer-ips: \"203.0.113.90,2001:db8:203::90\"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: seen}
  ports:
    - {name: http, port: 8080}
    - {name: sink, port: 9001}
    - {name: echo, protocol: UDP, port: 9002}
---
apiVersion: v1
kind: Service
metadata:
  name: kept
  annotations: {turnpike.dev/mode: dnat, turnpike.dev/load-balancer-ips: \"203.0.113.91,2001:db8:203::91\"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: seen}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: sink, port: 9001}
    - {name: echo, protocol: UDP, port: 7, targetPort: 9000}
---
apiVersion: v1
kind: Pod
metadata: {name: seen-1, labels: {app: seen}}
status: {phase: Running, podIPs: [{ip: 10.244.0.11}, {ip: \"fd00:10:244::11\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: seen-2, labels: {app: seen}}
status: {phase: Running, podIPs: [{ip: 10.244.0.12}, {ip: \"fd00:10:244::12\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: seen-3, labels: {app: seen}}
status: {phase: Running, podIPs: [{ip: 10.244.0.13}, {ip: \"fd00:10:244::13\"}]}
";

/// What differs between the IP families.
struct Family {
    /// As `ip` takes it.
    flag: &'static str,
    /// As socat writes it.
    number: u8,
    direct: &'static str,
    dnat: &'static str,
    client: &'static str,
    /// Networks of all clients and of all pods, which go before those of the links they are on.
    clients: &'static str,
    pods: &'static str,
    /// The gateway's address, and what outer sources are spread over.
    own: &'static str,
    spread: &'static str,
    spread_prefix: &'static str,
    /// Packets with another packet inside, for tcpdump, which writes the inner one behind this word.
    inside: (&'static str, &'static str),
    /// Bytes of an outer header.
    outer_bytes: u16,
}

const FAMILIES: [Family; 2] = [
    Family {
        flag: "-4",
        number: 4,
        direct: "203.0.113.90",
        dnat: "203.0.113.91",
        client: "198.51.100.7",
        clients: "198.51.100.0/25",
        pods: "10.244.0.0/24",
        own: "192.0.2.1",
        spread: "198.18.0.0/16",
        spread_prefix: "198.18.",
        inside: ("ip proto 4", ": IP "),
        outer_bytes: 20,
    },
    Family {
        flag: "-6",
        number: 6,
        direct: "[2001:db8:203::90]",
        dnat: "[2001:db8:203::91]",
        client: "2001:db8:c::7",
        clients: "2001:db8:c::/96",
        pods: "fd00:10:244::/96",
        own: "2001:db8:192::1",
        spread: "2001:db8:5::/64",
        spread_prefix: "2001:db8:5:",
        inside: ("ip6 proto 41", ": IP6 "),
        outer_bytes: 40,
    },
];

impl Family {
    /// `ip` in a place, about this family.
    fn ip(&self, lab: &Lab, place: &str, words: &[&str]) -> String {
        lab.run_in(place, "ip", &[&[self.flag], words].concat()).unwrap()
    }

    /// No kernel remembers what it was told before.
    fn forget(&self, lab: &Lab) {
        for place in ["client", "router", "pod-web-1", "pod-web-2", "pod-web-3"] {
            self.ip(lab, place, &["route", "flush", "cache"]);
        }
    }

    /// The router's link to a network takes only this many bytes meanwhile, and the router says so to who sends more.
    fn with_narrow(&self, lab: &Lab, network: &str, device: &str, mtu: &str, act: impl FnOnce()) {
        self.forget(lab);
        let link = [network, "dev", device];
        let narrow = [&["route", "add"], &link[..], &["mtu", "lock", mtu]].concat();
        self.ip(lab, "router", &narrow);
        act();
        self.ip(lab, "router", &[&["route", "del"], &link[..]].concat());
    }

    /// The path MTU the client's kernel knows of.
    fn clients_mtu(&self, lab: &Lab) -> String {
        let to = self.direct.trim_matches(['[', ']']);
        let route = self.ip(lab, "client", &["route", "get", to]);
        let words = route.split_whitespace().collect::<Vec<_>>();
        let at = words.iter().position(|word| *word == "mtu").unwrap_or_else(|| panic!("{route}"));
        words[at + 1].to_owned()
    }
}

/// Makes every pod one that takes packets in packets for the VIPs, answers from them, and stores or echoes what it gets.
fn prepare(lab: &Lab) -> Vec<Daemon> {
    let decapsulate = program("decapsulate").unwrap().to_string_lossy().into_owned();
    let mut daemons = Vec::new();
    for pod in PODS {
        let place = format!("pod-{pod}");
        let mut start = |words: &[&str]| daemons.push(Daemon::start(lab, &place, words).unwrap());
        start(&[&decapsulate]);
        let to_file = format!("OPEN:{}/{pod}.received,creat,trunc", lab.dir().display());
        start(&["socat", "-u", "TCP6-LISTEN:9001,reuseaddr,fork", &to_file]);
        for Family { flag, number, direct, .. } in FAMILIES {
            let address = direct.trim_matches(['[', ']']);
            let nodad: &[&str] = if number == 6 { &["nodad"] } else { &[] };
            let words = [&[flag, "addr", "add", address, "dev", "lo"], nodad].concat();
            lab.run_in(&place, "ip", &words).unwrap();
            let echo = format!("UDP{number}-RECVFROM:9002,bind={direct},reuseaddr,fork");
            start(&["socat", "-T", "5", &echo, "EXEC:cat"]);
        }
        wait("the pod's programs", Duration::from_secs(10), || {
            let heard = lab.run_in(&place, "ss", &["-Hlntu"])?;
            let link = lab.run_in(&place, "ip", &["-br", "link"])?;
            Ok(heard.contains(":9001") && heard.matches(":9002").count() == 2 && link.contains("dsr0"))
        })
        .unwrap();
    }
    daemons
}

/// Every pod answers, and each has seen the client itself.
fn all_pods_see_the_client(lab: &Lab, family: &Family, address: &str) {
    let get = |path| {
        let url = format!("http://{address}/{path}");
        lab.run_in("client", "curl", &["-gsS", "--max-time", "5", &url]).unwrap().trim().to_owned()
    };
    let answered: BTreeSet<String> = (0..40).map(|_| get("")).collect();
    assert_eq!(answered, BTreeSet::from(PODS.map(str::to_owned)));
    assert_eq!(get("client"), family.client);
}

fn bytes_pass_both_ways(lab: &Lab, family: &Family, address: &str, http: u16) {
    let file = lab.dir().join("www/five").to_string_lossy().into_owned();
    let original = lab.sum_of("client", &format!("cat {file}")).unwrap();
    for _ in 0..4 {
        let download = format!("curl -gsS --max-time 20 http://{address}:{http}/five");
        assert_eq!(lab.sum_of("client", &download).unwrap(), original);
    }
    let stored = PODS.map(|pod| lab.dir().join(format!("{pod}.received")));
    for file in &stored {
        let _ = std::fs::remove_file(file);
    }
    let to = format!("TCP{}:{address}:9001", family.number);
    lab.run_in("client", "timeout", &["20", "socat", "-u", &format!("OPEN:{file}"), &to]).unwrap();
    wait("the upload", Duration::from_secs(10), || {
        Ok(stored.iter().any(|file| file.metadata().is_ok_and(|m| m.len() == BYTES)))
    })
    .unwrap();
    let stored = stored.into_iter().find(|file| file.exists()).unwrap();
    assert_eq!(lab.sum_of("client", &format!("cat {}", stored.display())).unwrap(), original);
}

fn datagrams_are_echoed(lab: &Lab, address: &str) {
    lab.datagrams_come_back("client", address, "20,1000", 10, 2).unwrap();
}

/// What a pod gets in packets: their outer sources.
fn outer_sources(lab: &Lab, family: &Family, meanwhile: impl FnOnce()) -> BTreeSet<String> {
    let capture = lab.dir().join("web-1.pcap");
    let _ = std::fs::remove_file(&capture);
    let pcap = capture.to_string_lossy();
    let (filter, inner) = family.inside;
    let arguments = ["-i", "eth0", "--immediate-mode", "-U", "-w", &pcap, filter];
    let mut tcpdump = lab.spawn("pod-web-1", "tcpdump", &arguments).unwrap();
    wait("tcpdump", Duration::from_secs(5), || Ok(capture.exists())).unwrap();
    meanwhile();
    std::thread::sleep(Duration::from_millis(500));
    Command::new("kill").arg(tcpdump.id().to_string()).status().unwrap();
    tcpdump.wait().unwrap();
    let read = Command::new("tcpdump").args(["-nvr", &pcap]).stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    assert!(!text.contains("bad cksum") && !text.contains("incorrect"), "every checksum is right");
    let source = |line: &str| {
        let (outer, rest) = line.split_once(" > ")?;
        rest.contains(inner).then(|| outer.rsplit(' ').next().unwrap_or_default().to_owned())
    };
    text.lines().filter_map(source).collect()
}

/// Starts the dataplane anew with outer sources of networks.
fn spread_sources(lab: &Lab) {
    lab.lab(["stop", "dataplane"]).unwrap();
    let file = lab.dir().join("turnpike.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let networks = FAMILIES.map(|family| family.spread);
    std::fs::write(&file, format!("{text}\n[dataplane.dsr]\nsources = {networks:?}\n")).unwrap();
    for family in FAMILIES {
        family.ip(lab, "router", &["route", "add", family.spread, "via", family.own]);
    }
    lab.lab(["start", "dataplane"]).unwrap();
    lab.wait_adopted().unwrap();
}

fn direct_answers_go_past_the_gateway(lab: &Lab, family: &Family) {
    let address = format!("{}:8080", family.direct);
    all_pods_see_the_client(lab, family, &address);
    datagrams_are_echoed(lab, &format!("{}:9002", family.direct));
    let before = lab.count("rx_bytes").unwrap();
    let download = format!("curl -gsS --max-time 20 http://{address}/five");
    for _ in 0..4 {
        lab.sum_of("client", &download).unwrap();
    }
    let heard = lab.count("rx_bytes").unwrap() - before;
    assert!(heard < BYTES, "the gateway got {heard} bytes while the client got {} from pods", 4 * BYTES);
}

/// Packets in packets do not fit a link of 1500 bytes: clients are told by the gateway, or by the router behind it through the gateway.
fn uploads_find_the_size_that_fits(lab: &Lab, family: &Family) {
    let count = |name| lab.count(name).unwrap();
    family.forget(lab);
    let before = [count("too_big"), count("mss_clamped")];
    bytes_pass_both_ways(lab, family, family.direct, 8080);
    let after = [count("too_big"), count("mss_clamped")];
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?}, {after:?}");
    assert_eq!(family.clients_mtu(lab), (1500 - family.outer_bytes).to_string());

    // Datagrams of 1500 bytes, which the client's kernel does not send whole any more.
    lab.datagrams_come_back("client", &format!("{}:9002", family.direct), "1472,1452", 40, 1).unwrap();

    let before = count("tunnel_error");
    family.with_narrow(lab, family.pods, "br-pods", "1400", || {
        bytes_pass_both_ways(lab, family, family.direct, 8080);
    });
    assert!(count("tunnel_error") > before, "the router behind the gateway was heard");
    assert_eq!(family.clients_mtu(lab), (1400 - family.outer_bytes).to_string());
}

#[test]
fn dsr_ipip_works_with_real_kernels() {
    if !available() {
        return;
    }
    let lab = served("j1");
    let _daemons = prepare(&lab);
    let sources = |family: &Family| {
        let address = format!("{}:8080", family.direct);
        outer_sources(&lab, family, || all_pods_see_the_client(&lab, family, &address))
    };
    for family in &FAMILIES {
        direct_answers_go_past_the_gateway(&lab, family);
        uploads_find_the_size_that_fits(&lab, family);
        // The driver puts fragments over IPv4 together, so that whole packets come which may be fragmented.
        assert!(family.number == 6 || lab.count("fragments_made").unwrap() > 0);
        assert_eq!(sources(family), BTreeSet::from([family.own.to_owned()]));
    }
    spread_sources(&lab);
    for family in &FAMILIES {
        let spread = sources(family);
        assert!(spread.len() > 3 && spread.iter().all(|s| s.starts_with(family.spread_prefix)), "{spread:?}");
        uploads_find_the_size_that_fits(&lab, family);
    }
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
    let count = |name| lab.count(name).unwrap();
    for family in &FAMILIES {
        all_pods_see_the_client(&lab, family, family.dnat);
        datagrams_are_echoed(&lab, &format!("{}:7", family.dnat));
        let before = count("rx_bytes");
        bytes_pass_both_ways(&lab, family, family.dnat, 80);
        let heard = count("rx_bytes") - before;
        assert!(heard > 4 * BYTES, "answers pass the gateway: {heard} bytes");
        for quiet in ["bad_ipv4_checksum", "not_ours", "tcp_no_flow", "too_big"] {
            assert_eq!(count(quiet), 0, "{quiet}");
        }
    }
    for family in &FAMILIES {
        // What the router itself says to clients about packets to pods has to pass the gateway, too.
        family.ip(&lab, "router", &["rule", "add", "iif", "lo", "to", family.clients, "lookup", "100"]);
        // A small link on either side; both senders are told through the gateway.
        for (network, device) in [(family.clients, "client0"), (family.pods, "br-pods")] {
            let before = count("icmp_translated");
            family.with_narrow(&lab, network, device, "1300", || {
                bytes_pass_both_ways(&lab, family, family.dnat, 80);
            });
            assert!(count("icmp_translated") > before, "{device}");
        }
    }
}

/// A lab with both Services.
fn served(name: &str) -> Lab {
    let lab = Lab::dual(name, "[0, 1]", "").unwrap();
    lab.serve().unwrap();
    let file = lab.dir().join("modes.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    lab.apply(&file.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
    let www = lab.dir().join("www");
    let cut = format!("head -c {BYTES} {0}/big >{0}/five", www.display());
    lab.run_in("client", "sh", &["-c", &cut]).unwrap();
    lab
}
