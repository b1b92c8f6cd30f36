//! Either process is killed at random moments while updates flow and requests run.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use turnpike_tests::bed::{Lab, available, outcome_of, wait};

/// A small generator; its seed is printed, and can be given again in TURNPIKE_CHAOS_SEED.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("TURNPIKE_CHAOS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(now);
        println!("TURNPIKE_CHAOS_SEED={seed}");
        Self(seed | 1)
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % below
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.roll(below))
    }
}

/// A Service with a number of backends that only the tables know.
fn churn(lab: &Lab, round: u64) {
    let mut manifest = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: {name: churn}\nspec: {clusterIP: 10.96.0.99, selector: {app: churn}, ports: [{port: 80}]}\n",
    );
    for pod in 0..=(round % 7) {
        manifest += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: churn-{pod}, labels: {{app: churn}}}}\nstatus: {{phase: Running, podIP: 10.244.9.{}}}\n",
            1 + (round + pod) % 200
        );
    }
    let file = lab.dir().join("churn.yaml");
    std::fs::write(&file, manifest).unwrap();
    lab.apply(&file.to_string_lossy()).unwrap();
}

/// The pods of the churned Service as they are in etcd, and as its frontend has them.
fn churned(lab: &Lab) -> (BTreeSet<String>, BTreeSet<String>) {
    let items = |resource: &str| -> Vec<Value> {
        serde_json::from_str(&lab.turnpike_ok(&["get", resource, "-o", "json"]).unwrap()).unwrap()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pods = items("pods");
    let pods = pods
        .iter()
        .filter(|p| p["metadata"]["labels"]["app"] == "churn")
        .map(|p| text(&p["status"]["podIP"]));
    let frontends = items("frontends");
    let frontend = frontends.iter().find(|f| f["address"] == "10.96.0.99").unwrap();
    let backends = frontend["backends"].as_array().unwrap().iter().map(|b| text(&b["address"]));
    (pods.collect(), backends.collect())
}

/// The tables have converged: adopted is published, published is etcd's, and requests of every face are answered by the pods that are there.
fn converged(lab: &Lab) {
    lab.wait_adopted().unwrap();
    let (pods, backends) = churned(lab);
    assert_eq!(pods, backends);
    for url in ["http://203.0.113.80/", "http://192.0.2.1:30080/", "http://10.96.0.80/"] {
        let outcome = lab.load(&[url, "--requests", "60"]).unwrap();
        assert_eq!((outcome.failures, outcome.answers.len()), (0, 3), "{url}: {outcome:?}");
    }
}

#[test]
fn traffic_never_stops_for_a_dead_control_plane() {
    if !available() {
        return;
    }
    let mut dice = Dice::new();
    let lab = Lab::new("t6").unwrap();
    lab.serve().unwrap();
    let load = lab.spawn_load(&["http://203.0.113.80/", "--seconds", "20", "--rate", "500"]).unwrap();
    let end = Instant::now() + Duration::from_secs(18);
    let mut rounds = 0;
    while Instant::now() < end {
        rounds += 1;
        churn(&lab, rounds);
        std::thread::sleep(dice.millis(300));
        lab.lab(["kill", "controlplane"]).unwrap();
        std::thread::sleep(dice.millis(500));
        lab.lab(["start", "controlplane"]).unwrap();
        lab.wait_for_admin().unwrap();
    }
    let outcome = outcome_of(load).unwrap();
    assert_eq!(outcome.failures, 0, "after {rounds} deaths: {outcome:?}");
    assert!(rounds >= 3 && outcome.requests > 200, "{rounds} rounds, {outcome:?}");
    converged(&lab);
    println!("{} requests over {rounds} deaths of the control plane", outcome.requests);
}

#[test]
fn a_restarted_dataplane_serves_within_a_second() {
    if !available() {
        return;
    }
    let mut dice = Dice::new();
    let lab = Lab::new("t7").unwrap();
    lab.serve().unwrap();
    let mut restarts = Vec::new();
    for round in 0..6 {
        churn(&lab, round);
        std::thread::sleep(dice.millis(200));
        lab.lab(["kill", "dataplane"]).unwrap();
        churn(&lab, round + 50);
        std::thread::sleep(dice.millis(300));
        let start = Instant::now();
        lab.lab(["start", "dataplane"]).unwrap();
        wait("an answer after the restart", Duration::from_secs(10), || {
            let ask = [
                "-s",
                "--connect-timeout",
                "0.05",
                "--max-time",
                "0.2",
                "-o",
                "/dev/null",
                "http://203.0.113.80/",
            ];
            Ok(lab.command("client", "curl").args(ask).status()?.success())
        })
        .unwrap();
        restarts.push(start.elapsed());
        converged(&lab);
    }
    restarts.sort();
    println!("restarts until the first answer: {restarts:?}");
    // The machine may be busy with something else once or twice.
    assert!(restarts[restarts.len() / 2] < Duration::from_secs(1), "{restarts:?}");
}

#[test]
fn both_die_at_random_moments_and_the_tables_converge() {
    if !available() {
        return;
    }
    let mut dice = Dice::new();
    let lab = Lab::new("t8").unwrap();
    lab.serve().unwrap();
    for round in 0..8 {
        churn(&lab, round);
        for _ in 0..=dice.roll(2) {
            let victim = ["dataplane", "controlplane"][dice.roll(2) as usize];
            std::thread::sleep(dice.millis(150));
            lab.lab(["kill", victim]).unwrap();
            std::thread::sleep(dice.millis(150));
            lab.lab(["start", victim]).unwrap();
        }
        lab.wait_for_admin().unwrap();
        churn(&lab, round + 100);
        converged(&lab);
    }
}
