//! The gateway's host behind its own dataplane: ping, SSH, transfers, DNS, health checks and a BGP session of real programs through the tap,
//! while HTTP through a VIP goes on, under a flood too, and after the dataplane was killed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use turnpike_tests::bed::{Daemon, Lab, available, outcome_of, program, wait};

const VIP: &str = "http://203.0.113.80/";
const OWN: &str = "192.0.2.1";
const TAP: &str = "tp-wan";
/// A BGP session ends when nothing was heard for so long.
const HOLD_S: u64 = 6;
/// What a transfer of two seconds brings at least: more than windows hold, so that the other way worked too. How fast is for the benchmark to say.
const TRANSFER_BYTES: u64 = 256_000;
/// Bytes sent through SSH each way.
const SSH_BYTES: u32 = 20_000_000;

fn ping(lab: &Lab, from: &str, to: &str, more: &[&str]) -> String {
    let words = [&["-c", "5", "-i", "0.2", "-W", "2"], more, &[to]].concat();
    lab.run_in(from, "ping", &words).unwrap_or_else(|e| panic!("{from} pings {to}: {e:#}"))
}

fn the_kernel_answers_and_asks(lab: &Lab) {
    let before = lab.count("to_kernel").unwrap();
    for from in ["client", "host"] {
        assert!(ping(lab, from, OWN, &[]).contains(" 0% packet loss"));
    }
    // The largest packet that the link takes, whole.
    assert!(ping(lab, "client", OWN, &["-s", "1472", "-M", "do"]).contains(" 0% packet loss"));
    for to in ["198.51.100.7", "192.0.2.10", "192.0.2.254"] {
        assert!(ping(lab, "gw", to, &[]).contains(" 0% packet loss"));
    }
    wait("the counters", Duration::from_secs(5), || Ok(lab.count("to_kernel").unwrap() >= before + 30))
        .unwrap();
    // Turnpike itself answers for the VIP.
    let before = lab.count("echo_replied").unwrap();
    ping(lab, "client", "203.0.113.80", &[]);
    wait("the counters", Duration::from_secs(5), || Ok(lab.count("echo_replied").unwrap() >= before + 5))
        .unwrap();
}

/// Every ARP request for the gateway's address has one answer: the dataplane's or the kernel's, not both.
fn nobody_answers_twice(lab: &Lab) {
    let capture = lab.dir().join("arp.pcap");
    let pcap = capture.to_string_lossy();
    let mut tcpdump =
        lab.spawn("host", "tcpdump", &["-i", "eth0", "--immediate-mode", "-U", "-w", &pcap, "arp"]).unwrap();
    wait("tcpdump", Duration::from_secs(5), || Ok(capture.exists())).unwrap();
    for _ in 0..5 {
        lab.run_in("host", "ip", &["neigh", "flush", "dev", "eth0"]).unwrap();
        lab.run_in("host", "ping", &["-c", "1", "-W", "2", OWN]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    Command::new("kill").arg(tcpdump.id().to_string()).status().unwrap();
    tcpdump.wait().unwrap();
    let count = |filter: &str| {
        let output =
            Command::new("tcpdump").args(["-nr", &pcap, filter]).stderr(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    let asked = count(&format!("arp[6:2] == 1 and src host 192.0.2.10 and dst host {OWN}"));
    let answered = count(&format!("arp[6:2] == 2 and src host {OWN}"));
    assert!(asked >= 5 && asked == answered, "{asked} requests, {answered} answers");
}

/// The control plane's servers at the gateway's own address.
fn servers_are_reached(lab: &Lab) {
    let name = "web.default.svc.cluster.local";
    for transport in ["+notcp", "+tcp"] {
        let dig = || lab.run_in("client", "dig", &["+short", "+time=2", transport, &format!("@{OWN}"), name]);
        wait("a name", Duration::from_secs(20), || Ok(dig()?.trim() == "10.96.0.80")).unwrap();
    }
    let health = format!("http://{OWN}:10256/livez");
    let answer = lab.run_in("client", "curl", &["-sS", "--max-time", "5", &health]).unwrap();
    assert!(answer.contains("lastUpdated"), "{answer}");
}

/// sshd on the gateway, and the beginning of a command line that logs in.
fn ssh(lab: &Lab) -> (Daemon, String) {
    let dir = lab.dir().join("ssh");
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all("/run/sshd").unwrap();
    let dir = dir.to_string_lossy();
    for key in ["host", "user"] {
        let file = format!("{dir}/{key}");
        lab.run_in("gw", "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file]).unwrap();
    }
    let config = format!(
        "ListenAddress {OWN}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nUsePAM no\nStrictModes no\nPidFile none\nPermitRootLogin yes\n"
    );
    fs::write(format!("{dir}/sshd_config"), config).unwrap();
    let daemon =
        Daemon::start(lab, "gw", &["/usr/sbin/sshd", "-D", "-e", "-f", &format!("{dir}/sshd_config")])
            .unwrap();
    let login = format!(
        "ssh -q -i {dir}/user -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no -o UserKnownHostsFile={dir}/known root@{OWN}"
    );
    wait("sshd", Duration::from_secs(10), || {
        Ok(lab.run_in("client", "sh", &["-c", &format!("{login} true")]).is_ok())
    })
    .unwrap();
    (daemon, login)
}

/// Bytes go both ways through SSH unchanged.
fn ssh_carries_files(lab: &Lab, login: &str) {
    let sum = |command: &str| {
        let text = lab.run_in("client", "sh", &["-c", command]).unwrap();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let file = lab.dir().join("www/big");
    let read = format!("head -c {SSH_BYTES} {}", file.to_string_lossy());
    let original = sum(&format!("{read} | sha256sum"));
    assert_eq!(sum(&format!("{read} | {login} sha256sum")), original, "to the gateway");
    assert_eq!(sum(&format!("{login} '{read}' | sha256sum")), original, "from the gateway");
}

/// Transfers to and from a TCP server on the gateway's own address.
fn transfers_run_both_ways(lab: &Lab) {
    let _server = Daemon::start(lab, "gw", &["iperf3", "-s", "-B", OWN]).unwrap();
    for way in ["--forceflush", "-R", "--bidir"] {
        let mut report = serde_json::Value::Null;
        // It says what failed and calls that a success: until the server listens, and has let go of the client before.
        wait("iperf3", Duration::from_secs(20), || {
            let text = lab.run_in("client", "iperf3", &["-c", OWN, "-t", "2", "-J", way])?;
            report = serde_json::from_str(&text)?;
            Ok(report["error"].is_null())
        })
        .unwrap();
        for direction in ["sum_received", "sum_received_bidir_reverse"] {
            let Some(bytes) = report["end"][direction]["bytes"].as_u64() else { continue };
            println!("iperf3 {way} {direction}: {} kB", bytes / 1000);
            assert!(bytes > TRANSFER_BYTES, "{way} {direction}: {bytes} bytes");
        }
        assert!(report["end"]["sum_received"]["bytes"].is_u64(), "{report}");
    }
}

/// BIRD on the gateway announces the VIPs through the tap to BIRD on the router, which knows them from nobody else.
fn bgp(lab: &Lab) -> [Daemon; 2] {
    lab.run_in("router", "ip", &["route", "del", "203.0.113.0/24"]).unwrap();
    let gateway = format!(
        "router id {OWN};\nprotocol device {{}}\nprotocol static vips {{ ipv4; route 203.0.113.0/24 blackhole; }}\n\
         protocol bgp peer {{ local {OWN} as 65001; neighbor 192.0.2.254 as 65000; hold time {HOLD_S}; connect delay time 1; \
         connect retry time 2; error wait time 1, 2; ipv4 {{ import none; export where proto = \"vips\"; next hop self; }}; }}\n"
    );
    let router = format!(
        "router id 192.0.2.254;\nprotocol device {{}}\nprotocol kernel {{ ipv4 {{ import none; export where proto = \"peer\"; }}; }}\n\
         protocol bgp peer {{ local 192.0.2.254 as 65000; neighbor {OWN} as 65001; hold time {HOLD_S}; connect delay time 1; \
         connect retry time 2; error wait time 1, 2; ipv4 {{ import all; export none; }}; }}\n"
    );
    let start = |place: &str, text: &str| {
        let [config, socket] = ["conf", "ctl"].map(|what| lab.dir().join(format!("bird-{place}.{what}")));
        fs::write(&config, text).unwrap();
        let words = ["bird", "-f", "-c", &config.to_string_lossy(), "-s", &socket.to_string_lossy()]
            .map(str::to_owned);
        Daemon::start(lab, place, &words.each_ref().map(String::as_str)).unwrap()
    };
    let daemons = [start("gw", &gateway), start("router", &router)];
    established(lab);
    daemons
}

/// The session's line on one side: its state, and since when it is in it.
fn session(lab: &Lab, place: &str) -> anyhow::Result<String> {
    let socket = lab.dir().join(format!("bird-{place}.ctl"));
    let words = ["-s", &socket.to_string_lossy(), "show", "protocols", "peer"];
    let shown = lab.run_in(place, "birdc", &words)?;
    Ok(shown.lines().last().unwrap_or_default().to_owned())
}

/// When an established session began, in seconds of the day.
fn since(line: &str) -> f64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, "up", time, "Established"] = words[..] else { panic!("no session: {line}") };
    time.split(':').fold(0.0, |seconds, part| seconds * 60.0 + part.parse::<f64>().unwrap())
}

/// Waits until the router has the VIPs from the gateway.
fn established(lab: &Lab) {
    wait("the BGP session", Duration::from_secs(40), || {
        let route = lab.run_in("router", "ip", &["route", "show", "203.0.113.0/24"])?;
        // A gateway that lost its tap knows at once that a session is over, the router when it hears of another.
        let both = ["gw", "router"].into_iter().map(|place| session(lab, place));
        let both = both.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(both.iter().all(|line| line.contains("Established")) && route.contains(&format!("via {OWN}")))
    })
    .unwrap();
}

/// Two hosts send the gateway's own address as much as they can for longer than the BGP session could stay silent.
fn a_flood_harms_nobody(lab: &Lab, login: &str) {
    let sessions = || ["gw", "router"].map(|place| since(&session(lab, place).unwrap()));
    let before = sessions();
    let limited = lab.count("kernel_limited").unwrap();
    let flood = program("flood").unwrap();
    let seconds = (HOLD_S * 2).to_string();
    let load = lab.spawn_load(&[VIP, "--seconds", &seconds, "--rate", "200"]).unwrap();
    // The first alone is more than one sender may have.
    let floods = [("host", "60000"), ("client", "20000")].map(|(place, rate)| {
        let words = [OWN, "--rate", rate, "--seconds", &seconds];
        lab.spawn(place, &flood.to_string_lossy(), &words).unwrap()
    });
    std::thread::sleep(Duration::from_secs(2));
    let pinged = lab.run_in("router", "ping", &["-c", "20", "-i", "0.1", "-W", "2", OWN]).unwrap();
    // Software NICs on busy cores lose frames by themselves under such a load; starved it would get none.
    let answers = pinged.lines().filter(|line| line.contains("bytes from")).count();
    assert!(answers >= 10, "from another host than those that flood: {pinged}");
    for flood in floods {
        let sent = String::from_utf8(flood.wait_with_output().unwrap().stdout).unwrap();
        assert!(sent.trim().parse::<u64>().unwrap() > 100_000, "{sent}");
    }
    let outcome = outcome_of(load).unwrap();
    assert_eq!(outcome.failures, 0, "{outcome:?}");
    assert!(outcome.requests > 1_000, "{outcome:?}");
    // BIRD works the time of day out anew for each answer.
    let moved = before.iter().zip(sessions()).map(|(before, after)| (after - before).abs());
    assert!(moved.fold(0.0, f64::max) < 0.5, "the session has ended: {before:?}, {:?}", sessions());
    assert!(lab.count("kernel_limited").unwrap() > limited, "the flood was bounded");
    lab.run_in("client", "sh", &["-c", &format!("{login} true")]).unwrap();
}

/// Killed, the dataplane leaves no tap behind; the next one brings it back with its addresses, and everybody finds the host again.
fn the_tap_dies_and_comes_with_the_dataplane(lab: &Lab, login: &str) {
    let tap = || lab.run_in("gw", "ip", &["-o", "address", "show", "dev", TAP]);
    assert!(tap().unwrap().contains(OWN));
    lab.lab(["kill", "dataplane"]).unwrap();
    wait("the tap to go", Duration::from_secs(5), || Ok(tap().is_err())).unwrap();
    lab.lab(["start", "dataplane"]).unwrap();
    wait("the tap", Duration::from_secs(20), || Ok(tap()?.contains(OWN))).unwrap();
    lab.wait_adopted().unwrap();
    established(lab);
    ping(lab, "client", OWN, &[]);
    lab.run_in("client", "sh", &["-c", &format!("{login} true")]).unwrap();
    let outcome = lab.load(&[VIP, "--requests", "500"]).unwrap();
    assert_eq!(outcome.failures, 0, "{outcome:?}");
    // Somebody deletes it: it is made again while everything else goes on.
    lab.run_in("gw", "ip", &["link", "del", TAP]).unwrap();
    wait("another tap", Duration::from_secs(20), || Ok(tap()?.contains(OWN))).unwrap();
    ping(lab, "client", OWN, &[]);
}

fn host_is_reached(name: &str, workers: &str) {
    let lab = Lab::with_exception(name, workers, TAP).unwrap();
    lab.serve().unwrap();
    the_kernel_answers_and_asks(&lab);
    nobody_answers_twice(&lab);
    servers_are_reached(&lab);
    let _bird = bgp(&lab);
    let (_sshd, login) = ssh(&lab);
    let load = lab.spawn_load(&[VIP, "--seconds", "12", "--rate", "200"]).unwrap();
    transfers_run_both_ways(&lab);
    ssh_carries_files(&lab, &login);
    let outcome = outcome_of(load).unwrap();
    assert!(outcome.failures == 0 && outcome.requests > 1_000, "{outcome:?}");
    a_flood_harms_nobody(&lab, &login);
    the_tap_dies_and_comes_with_the_dataplane(&lab, &login);
}

#[test]
fn one_worker_lets_the_host_live_behind_it() {
    if available() {
        host_is_reached("x1", "[1]");
    }
}

#[test]
fn two_workers_let_the_host_live_behind_them() {
    if available() {
        host_is_reached("x2", "[0, 1]");
    }
}
