//! Mistakes people make, through the real programs: one clear error each that names the mend, and nothing half-applied.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Output, Stdio};
use turnpike_tests::bed::{Lab, available, program};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refuses(output: &Output, code: i32, needles: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for needle in needles {
        assert!(said.contains(needle), "{needle:?} is not in: {said}");
    }
    let errors = said.lines().filter(|l| l.starts_with("error:") || l.contains(" ERROR ")).count();
    assert_eq!(errors, 1, "one error: {said}");
}

/// Runs a program with a configuration of its own until it ends, at most ten seconds.
fn start(name: &str, configuration: &str, prefix: &[&str]) -> Output {
    let folder = std::env::temp_dir().join(format!(
        "turnpike-mistakes-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("turnpike.toml");
    fs::write(&file, configuration.replace("DIR", &folder.to_string_lossy())).unwrap();
    let mut words: Vec<String> = prefix.iter().map(|&w| w.to_owned()).collect();
    words.extend(["timeout", "10"].map(str::to_owned));
    words.extend([
        program(name).unwrap().to_string_lossy().into_owned(),
        "--config".into(),
        file.to_string_lossy().into_owned(),
    ]);
    let output = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
    let _ = fs::remove_dir_all(&folder);
    output
}

const DATAPLANE: &str = r#"
[gateway]
name = "mistakes"
run_dir = "DIR"
state_dir = "DIR"
shm_dir = "DIR"
[dataplane]
workers = [0]
hugepages = "never"
[[dataplane.ports]]
name = "wan"
device = "net_null0"
addresses = ["192.0.2.1/24"]
"#;

#[test]
fn configuration() {
    let rows: [(&str, String, &[&str]); 7] = [
        ("unknown key", DATAPLANE.replace("workers =", "wrokers ="), &["wrokers", "workers", "line"]),
        ("not TOML", DATAPLANE.replace("[dataplane]", "[dataplane"), &["line"]),
        ("wrong type", DATAPLANE.replace("[0]", "\"zero\""), &["workers", "line"]),
        ("no workers", DATAPLANE.replace("[0]", "[]"), &["dataplane.workers"]),
        ("no such core", DATAPLANE.replace("[0]", "[999]"), &["999"]),
        ("no such device", DATAPLANE.replace("net_null0", "net_nonsense0"), &["net_nonsense0"]),
        ("no such interface", DATAPLANE.replace("net_null0", "net_af_packet0,iface=nope"), &["nope"]),
    ];
    for (what, configuration, needles) in rows {
        println!("{what}");
        refuses(&start("turnpike-dataplane", &configuration, &[]), 1, needles);
    }
    let missing = Command::new(program("turnpike-dataplane").unwrap())
        .args(["--config", "/nowhere/turnpike.toml"])
        .output()
        .unwrap();
    refuses(&missing, 1, &["/nowhere/turnpike.toml", "--config"]);
}

#[test]
fn no_root() {
    if available() {
        let packet = DATAPLANE
            .replace("net_null0", "net_af_packet0,iface=lo")
            .replace("shm_dir = \"DIR\"", "shm_dir = \"/dev/shm\"");
        let output = start(
            "turnpike-dataplane",
            &packet,
            &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        );
        refuses(&output, 1, &["root"]);
    }
}

#[test]
fn no_huge_pages() {
    if available() {
        // More than any machine of the lab has free.
        let required = DATAPLANE.replace("\"never\"", "\"require\"\nmemory_mb = 65536");
        refuses(&start("turnpike-dataplane", &required, &[]), 1, &["huge", "nr_hugepages"]);
    }
}

#[test]
fn nobody_listens() {
    let folder = std::env::temp_dir();
    let config = folder.join(format!("turnpike-nobody-{}.toml", std::process::id()));
    fs::write(&config, "[gateway]\nrun_dir = \"/nowhere\"\n").unwrap();
    let output = Command::new(program("turnpike").unwrap())
        .arg("--config")
        .arg(&config)
        .arg("status")
        .output()
        .unwrap();
    fs::remove_file(&config).unwrap();
    refuses(&output, 1, &["/nowhere/controlplane.sock", "turnpike-controlplane"]);
    let usage = Command::new(program("turnpike").unwrap()).arg("frobnicate").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn manifests_and_allocations() {
    if !available() {
        return;
    }
    let lab = Lab::new("t4").unwrap();
    lab.serve().unwrap();
    let before = lab.turnpike_ok(&["get", "services", "-o", "json"]).unwrap();
    let service = |name: &str, spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    let rows: Vec<(&str, String, Vec<&str>)> = vec![
        ("no YAML", "kind: [".into(), vec!["manifest.yaml"]),
        ("no kind", "metadata: {name: x}".into(), vec!["kind"]),
        (
            "unknown kind",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}".into(),
            vec!["Deployment"],
        ),
        ("port 0", service("bad", "{ports: [{port: 0}]}"), vec!["default/bad", "spec.ports[0].port"]),
        (
            "port taken",
            service("bad", "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}"),
            vec!["30080", "default/web"],
        ),
        (
            "address taken",
            service("bad", "{clusterIP: 10.96.0.80, ports: [{port: 80}]}"),
            vec!["10.96.0.80", "default/web"],
        ),
        (
            "address of no network",
            service("bad", "{clusterIP: 192.168.9.9, ports: [{port: 80}]}"),
            vec!["192.168.9.9"],
        ),
        (
            "a good one and a bad one",
            format!(
                "{}---\n{}",
                service("good", "{ports: [{port: 80}]}"),
                service("bad", "{ports: [{port: 70000}]}")
            ),
            vec!["default/bad", "70000"],
        ),
    ];
    let file = lab.dir().join("manifest.yaml");
    for (what, manifest, needles) in rows {
        fs::write(&file, &manifest).unwrap();
        let output = lab.turnpike(&["apply", "-f", &file.to_string_lossy()]).unwrap();
        println!("{what}: {}", text(&output));
        refuses(&output, 1, &needles);
        assert_eq!(
            lab.turnpike_ok(&["get", "services", "-o", "json"]).unwrap(),
            before,
            "{what}: nothing is half-applied"
        );
    }
}

#[test]
fn a_pool_that_is_too_small() {
    if !available() {
        return;
    }
    let lab = Lab::new("t5").unwrap();
    let config = lab.dir().join("turnpike.toml");
    let small = fs::read_to_string(&config).unwrap().replace("203.0.113.0/24", "203.0.113.80/31");
    fs::write(&config, small).unwrap();
    lab.serve().unwrap();
    let file = lab.dir().join("manifest.yaml");
    fs::write(&file, "apiVersion: v1\nkind: Service\nmetadata: {name: third}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n").unwrap();
    let output = lab.turnpike(&["apply", "-f", &file.to_string_lossy()]).unwrap();
    // It has its other faces and waits for an address.
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for needle in ["warning: service/third", "\"public\"", "has 2 to give, none free"] {
        assert!(said.contains(needle), "{needle:?} is not in: {said}");
    }
    let services = lab.turnpike_ok(&["get", "services"]).unwrap();
    let third = services.lines().find(|line| line.contains("third")).unwrap();
    assert!(third.contains("<pending>"), "{services}");
}

#[test]
fn etcd_that_cannot_be_reached_is_said_and_traffic_does_not_care() {
    let configuration = DATAPLANE.to_owned() + "[etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n";
    let output = start("turnpike-controlplane", &configuration, &[]);
    let said = text(&output);
    assert!(said.contains("127.0.0.1:1") && said.contains("does etcd.endpoints name it"), "{said}");
    assert_eq!(output.status.code(), Some(124), "it goes on trying until it is told to stop: {said}");
}
