//! Either process is killed and started again under open connections, and nobody notices more than a pause.
//!
//! `TURNPIKE_RESTART_ROUNDS` and `TURNPIKE_RESTART_CONNECTIONS` make it longer: the full form is 20 rounds with 1,000 connections.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin};
use std::time::Duration;
use turnpike_tests::bed::{Daemon, Lab, available, program, wait};

const STEADY: &str = "\
apiVersion: v1
kind: Service
metadata: {name: steady}
spec: {type: LoadBalancer, loadBalancerIP: 203.0.113.90, selector: {app: web}, ports: [{protocol: UDP, port: 9, targetPort: 9001}]}
";

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

/// The connections of a client in the background.
struct Held {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Held {
    fn open(lab: &Lab, connections: usize) -> Self {
        let long = lab.dir().join("www/long");
        let big = std::fs::read(lab.dir().join("www/big")).unwrap();
        std::fs::write(&long, &big[..4 << 20]).unwrap();
        let mut command = lab.command("client", &program("long-lived").unwrap().to_string_lossy());
        command.args(["203.0.113.80:80", "203.0.113.90:9", "--connections", &connections.to_string()]);
        command.arg("--long").arg("/long").arg(&long);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).spawn().unwrap();
        let input = child.stdin.take();
        let mut held = Self { input, output: BufReader::new(child.stdout.take().unwrap()), child };
        assert_eq!(held.line().trim(), "open");
        held
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// Lets them end; what became of them.
    fn close(mut self) -> Value {
        let mut input = self.input.take().unwrap();
        input.flush().unwrap();
        drop(input);
        let outcome = serde_json::from_str(&self.line()).unwrap();
        assert!(self.child.wait().unwrap().success());
        outcome
    }
}

/// Nothing was reset, nothing changed, nobody went without an answer.
fn unharmed(outcome: &Value, connections: usize) {
    let zero = ["corrupted", "unanswered"].map(|name| outcome[name].as_u64());
    let whole = outcome["errors"].as_object().is_some_and(serde_json::Map::is_empty);
    let all = outcome["connections"] == connections && outcome["silent"] == connections / 10 * 3;
    let lively =
        ["requests", "bytes", "datagrams", "came_back"].iter().all(|&n| outcome[n].as_u64() > Some(0));
    assert!(zero == [Some(0); 2] && whole && all && lively, "{outcome:#}");
}

/// How the dataplane began.
fn start(lab: &Lab) -> Value {
    lab.status().unwrap()["dataplane"]["start"].clone()
}

/// A lab that serves, with echo servers beside the web servers.
fn lab(name: &str) -> (Lab, Vec<Daemon>) {
    let lab = Lab::new(name).unwrap();
    lab.serve().unwrap();
    let manifest = lab.dir().join("steady.yaml");
    std::fs::write(&manifest, STEADY).unwrap();
    lab.apply(&manifest.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
    let datagrams = program("datagrams").unwrap().to_string_lossy().into_owned();
    let pods = [("pod-web-1", 11), ("pod-web-2", 12), ("pod-web-3", 13)];
    let start = |(pod, last): (&str, u8)| {
        Daemon::start(&lab, pod, &[&datagrams, "echo", &format!("10.244.0.{last}:9001")]).unwrap()
    };
    let echoes = pods.map(start).into();
    (lab, echoes)
}

/// Waits until the dataplane has begun with the flows of the one before.
fn took_over(lab: &Lab, least: usize) {
    wait("the flows to be taken over", Duration::from_secs(30), || {
        Ok(lab.status()?["dataplane"]["start"]["flows_adopted"].as_u64() >= Some(least as u64))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", start(lab)));
    lab.wait_adopted().unwrap();
    assert_eq!(start(lab)["how"], "adopted");
}

#[test]
fn flows_survive_whoever_is_killed() {
    if !available() {
        return;
    }
    let (rounds, connections) =
        (setting("TURNPIKE_RESTART_ROUNDS", 2), setting("TURNPIKE_RESTART_CONNECTIONS", 200));
    let (lab, echoes) = lab("restart");
    let held = Held::open(&lab, connections);
    for _ in 0..rounds {
        for killed in [&["dataplane"][..], &["controlplane"], &["dataplane", "controlplane"]] {
            killed.iter().for_each(|what| drop(lab.lab(["kill", what]).unwrap()));
            killed.iter().for_each(|what| drop(lab.lab(["start", what]).unwrap()));
            lab.wait_for_admin().unwrap();
            took_over(&lab, connections);
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    let outcome = held.close();
    println!("{outcome:#}");
    unharmed(&outcome, connections);
    assert_eq!(start(&lab)["flows_astray"], 0);

    // New flows find ports and backends as before.
    let load = lab.load(&["http://203.0.113.80/", "--requests", "300"]).unwrap();
    assert_eq!((load.failures, load.answers.len()), (0, 3), "{load:?}");

    // Tables that do not fit are told of, and a new start is a clean one.
    let config = lab.dir().join("turnpike.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("flows_per_worker = 262144", "flows_per_worker = 131072")).unwrap();
    lab.lab(["stop", "dataplane"]).unwrap();
    lab.lab(["start", "dataplane"]).unwrap();
    wait("the dataplane to begin empty", Duration::from_secs(30), || {
        Ok(start(&lab)["how"].as_str().is_some_and(|how| how.contains("ipv6_flows_per_worker is another")))
    })
    .unwrap();
    lab.wait_adopted().unwrap();
    assert!(lab.log("dataplane").contains("flows_per_worker or ipv6_flows_per_worker is another"));
    let load = lab.load(&["http://203.0.113.80/", "--requests", "60"]).unwrap();
    assert_eq!((load.failures, load.answers.len()), (0, 3), "{load:?}");
    drop(echoes);
}
