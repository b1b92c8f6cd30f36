//! `turnpike bench` through the real programs: over rings, through the two ends of a veth pair, and what it says when something is missing.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use turnpike_tests::bed::{available, program};

/// A network namespace with a veth pair, `bench0` and `bench1`, both up.
struct Cable {
    namespace: String,
}

impl Cable {
    fn lay(name: &str) -> Self {
        let cable = Self { namespace: format!("tp-bench-{name}-{}", std::process::id()) };
        let namespace = cable.namespace.as_str();
        ip(&["netns", "add", namespace]);
        ip(&["-n", namespace, "link", "add", "bench0", "type", "veth", "peer", "name", "bench1"]);
        for end in ["bench0", "bench1"] {
            ip(&["-n", namespace, "link", "set", end, "up"]);
        }
        cable
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        let command = ["netns", "exec", &self.namespace, "timeout", "100"];
        Command::new("ip")
            .args(command)
            .arg(program("turnpike").unwrap())
            .arg("bench")
            .args(arguments)
            .output()
            .unwrap()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn bench(arguments: &[&str]) -> Output {
    let program = program("turnpike").unwrap();
    Command::new("timeout").arg("100").arg(program).arg("bench").args(arguments).output().unwrap()
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("turnpike-bench-{name}-{}.json", std::process::id()))
}

#[track_caller]
fn json(output: &Output, file: &PathBuf) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    fs::remove_file(file).unwrap();
    json
}

#[track_caller]
fn positive(value: &Value, path: &str) -> f64 {
    let figure = value.pointer(path).and_then(Value::as_f64);
    figure.filter(|figure| *figure > 0.0).unwrap_or_else(|| panic!("{path} in {value}"))
}

#[track_caller]
fn refuses(output: &Output, code: i32, needles: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for needle in needles {
        assert!(said.contains(needle), "{needle:?} is not in: {said}");
    }
    assert_eq!(said.lines().filter(|line| line.starts_with("error:")).count(), 1, "{said}");
}

#[test]
fn over_rings_with_the_configuration() {
    if !available() {
        return;
    }
    let file = file("rings");
    let arguments = ["--flows", "1", "--flows", "1000", "--seconds", "1", "--hugepages", "never", "--json"];
    let output = bench(&[&arguments[..], &[file.to_str().unwrap()]].concat());
    let json = json(&output, &file);
    for (row, flows) in [(0, 1), (1, 1_000)] {
        let of = |key: &str| format!("/rings/{row}/{key}");
        assert_eq!(json.pointer(&of("flows")), Some(&Value::from(flows)));
        assert_eq!(json.pointer(&of("pages")), Some(&Value::from("ordinary")));
        let (least, median) =
            (positive(&json, &of("ns_per_packet_min")), positive(&json, &of("ns_per_packet_median")));
        assert!(least <= median);
        let mpps = positive(&json, &of("mpps_median"));
        assert!((mpps * median - 1e3).abs() < 1.0, "{mpps} million packets a second of {median} ns");
        assert!(positive(&json, &of("packets")) >= 1_000.0);
        if !json["source_core"].is_null() {
            assert!(positive(&json, &of("latency/p50_ns")) <= positive(&json, &of("latency/p999_ns")));
            assert!(positive(&json, &of("ring_latency/p50_ns")) > 0.0);
        }
    }
    let text = String::from_utf8_lossy(&output.stdout);
    for part in
        ["FLOWS", "NS/PACKET", "DPDK ", "rustc 1.", "Linux ", "on ordinary pages", "64 bytes", "no NIC"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let cpu = json["host"]["cpu"].as_str().unwrap();
    assert!(text.contains(cpu), "{cpu}: {text}");
}

#[test]
fn through_two_nics_that_a_cable_joins() {
    if !available() {
        return;
    }
    let cable = Cable::lay("nics");
    let nics = [
        "--port",
        "net_af_packet0,iface=bench0",
        "--sink",
        "net_af_packet1,iface=bench1",
        "--hugepages",
        "never",
    ];
    let file = file("nics");
    let slow = ["--flows", "100", "--seconds", "2", "--rate", "2000", "--json", file.to_str().unwrap()];
    let output = cable.bench(&[&nics[..], &slow[..]].concat());
    let json = json(&output, &file);
    assert_eq!(
        (&json["nics"][0]["flows"], &json["nics"][0]["wanted_pps"]),
        (&Value::from(100), &Value::from(2_000.0))
    );
    assert_eq!(json["rings"], Value::Array(Vec::new()));
    // 2,000 frames a second for two seconds; a machine with other work sends fewer.
    let sent = positive(&json, "/nics/0/sent");
    assert!((400.0..=4_100.0).contains(&sent), "{json}");
    assert_eq!(json["nics"][0]["lost"], 0, "{json}");
    assert!(positive(&json, "/nics/0/latency/p50_ns") <= positive(&json, "/nics/0/latency/p999_ns"));
    for (port, role) in [(0, "worker"), (1, "source and sink")] {
        assert_eq!(
            (&json["ports"][port]["driver"], &json["ports"][port]["role"]),
            (&"net_af_packet".into(), &role.into())
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    for part in
        ["LOSS", "2000 a second", "worker: net_af_packet0,iface=bench0, driver net_af_packet", "rustc 1."]
    {
        assert!(text.contains(part), "{part}: {text}");
    }

    // Without a rate the most that comes back is looked for.
    let file = self::file("most");
    let most = ["--flows", "10", "--seconds", "1", "--json", file.to_str().unwrap()];
    let output = cable.bench(&[&nics[..], &most[..]].concat());
    let json = self::json(&output, &file);
    assert!(positive(&json, "/nics/0/capacity_pps_median") > 100.0, "{json}");
    assert!(positive(&json, "/nics/0/pps_median") > 100.0, "{json}");
    assert!(json["nics"][0]["wanted_pps"].is_null());
}

#[test]
fn what_is_missing_is_named_with_the_mend() {
    if !available() {
        return;
    }
    let one = "net_af_packet0,iface=bench0";
    refuses(&bench(&["--port", one]), 2, &["--sink"]);
    refuses(&bench(&["--port", "?", "--sink", one]), 2, &["neither a PCI address"]);
    refuses(
        &bench(&["--port", one, "--sink", "net_af_packet1,iface=lo"]),
        1,
        &["--port", "bench0", "ip link"],
    );
    refuses(&bench(&["--port", "net_null0", "--sink", "net_null0"]), 1, &["same device net_null0"]);
    let pages = bench(&["--flows", "64000000", "--hugepages", "require"]);
    refuses(&pages, 1, &["MiB of huge pages are needed", "/proc/sys/vm/nr_hugepages", "--hugepages auto"]);
    refuses(&bench(&["--json", "/nowhere/out.json"]), 1, &["cannot write /nowhere/out.json"]);

    let cable = Cable::lay("mend");
    let untied = cable.bench(&["--flows", "1", "--hugepages", "never", "--port", one, "--sink", "net_null0"]);
    refuses(&untied, 1, &["arrived at net_af_packet0,iface=bench0", "cable"]);
    ip(&["-n", &cable.namespace, "link", "set", "bench1", "down"]);
    let down =
        ["--flows", "1", "--hugepages", "never", "--port", one, "--sink", "net_af_packet1,iface=bench1"];
    refuses(&cable.bench(&down), 1, &["arrived at net_af_packet0,iface=bench0", "ip link set"]);
    // Root without any of its rights is nobody.
    let turnpike = program("turnpike").unwrap();
    let mut powerless = Command::new("setpriv");
    powerless.arg("--bounding-set=-all").arg(turnpike).args([
        "bench",
        "--port",
        "net_null0",
        "--sink",
        "net_null1",
    ]);
    let output = powerless.output().unwrap();
    refuses(&output, 1, &["NICs need root", "as root"]);
}
