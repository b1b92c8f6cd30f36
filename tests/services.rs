//! The rules of Services as real clients meet them: who may connect, who gets the connection, what happens when nobody can have it, what
//! pods see of their clients, and the names. The rules are those of RULES.md.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use turnpike_tests::bed::{Lab, available, wait};

/// Applies a manifest given as text, and waits until every worker has it.
fn apply(lab: &Lab, manifest: &str) {
    let file = lab.dir().join("services.yaml");
    fs::write(&file, manifest).unwrap();
    lab.apply(&file.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
}

/// How curl ends: the pod that answered, or curl's exit code (7: refused, 28: no answer in time).
fn curl(lab: &Lab, place: &str, url: &str) -> Result<String, i32> {
    let output = lab.command(place, "curl").args(["-sS", "--max-time", "2", url]).output().unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        code => Err(code.unwrap_or(-1)),
    }
}

const REFUSED: i32 = 7;
const SILENCE: i32 = 28;

/// A verdict's count over all workers.
fn verdict(lab: &Lab, name: &str) -> u64 {
    let status = lab.status().unwrap();
    let workers = status["dataplane"]["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["counters"][name].as_u64().unwrap()).sum()
}

/// Waits until a verdict's count is at least this: counters are copied out a few times a second.
fn wait_verdict(lab: &Lab, name: &str, least: u64) {
    wait(name, Duration::from_secs(5), || Ok(verdict(lab, name) >= least)).unwrap();
}

fn items(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let words: Vec<&str> = ["get"].iter().chain(arguments).chain(&["-o", "json"]).copied().collect();
    serde_json::from_str(&lab.turnpike_ok(&words).unwrap()).unwrap()
}

/// What was dropped is listed with its mend, in every format, and what was not is left out.
fn drops_are_told(lab: &Lab, verdict: &str) {
    let json = lab.turnpike_ok(&["drops", "--interval", "0.2", "-o", "json"]).unwrap();
    let drops: Vec<Value> = serde_json::from_str(&json).unwrap();
    let drop = drops.iter().find(|drop| drop["verdict"] == verdict).unwrap_or_else(|| panic!("{drops:?}"));
    assert!(drop["packets"].as_u64() > Some(0) && drop["packets_per_second"].is_f64(), "{drop}");
    assert!(!drop["meaning"].as_str().unwrap().is_empty() && !drop["mend"].as_str().unwrap().is_empty());
    assert!(drops.iter().all(|drop| drop["packets"] != 0 && drop["verdict"] != "forwarded"), "{drops:?}");
    let all = lab.turnpike_ok(&["drops", "--all", "--interval", "0.2"]).unwrap();
    assert!(
        all.starts_with("VERDICT") && all.contains("bad_ipv4_checksum") && all.contains(verdict),
        "{all}"
    );
    assert_eq!(lab.turnpike(&["drops", "--interval", "0"]).unwrap().status.code(), Some(2), "a usage error");
}

/// A client keeps its pod over every address of a Service; other clients have theirs (rules F1, F2).
fn clients_stay_with_their_pod(lab: &Lab) {
    apply(
        lab,
        "
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.90
  clusterIP: 10.96.0.90
  sessionAffinity: ClientIP
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30090}]
",
    );
    let urls = ["http://203.0.113.90/", "http://192.0.2.1:30090/", "http://10.96.0.90/"];
    let pods: BTreeSet<String> =
        (0..30).map(|n| curl(lab, "client", urls[n % urls.len()]).unwrap()).collect();
    assert_eq!(pods.len(), 1, "one client, one pod: {pods:?}");

    // The pod stays while the others change, and another takes over when it goes.
    let pod = pods.first().unwrap().clone();
    let other = if pod == "web-1" { "web-2" } else { "web-1" };
    lab.turnpike_ok(&["delete", "pod", other]).unwrap();
    lab.wait_adopted().unwrap();
    for _ in 0..10 {
        assert_eq!(curl(lab, "client", urls[0]).as_ref(), Ok(&pod));
    }
    lab.turnpike_ok(&["delete", "pod", &pod]).unwrap();
    lab.wait_adopted().unwrap();
    let heirs: BTreeSet<String> = (0..10).map(|_| curl(lab, "client", urls[0]).unwrap()).collect();
    assert!(heirs.len() == 1 && !heirs.contains(&pod), "{heirs:?} after {pod}");
    lab.apply("scripts/lab/web.yaml").unwrap();
    lab.wait_adopted().unwrap();
    lab.turnpike_ok(&["delete", "service", "sticky"]).unwrap();
}

/// Source ranges guard the load-balancer address alone, in silence (rules L1, P3).
fn strangers_are_kept_out(lab: &Lab) {
    apply(
        lab,
        "
apiVersion: v1
kind: Service
metadata: {name: guarded}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.91
  clusterIP: 10.96.0.91
  loadBalancerSourceRanges: [198.51.100.0/24]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30091}]
",
    );
    let before = verdict(lab, "source_range");
    assert!(curl(lab, "client", "http://203.0.113.91/").is_ok());
    assert_eq!(curl(lab, "host", "http://203.0.113.91/"), Err(SILENCE));
    wait_verdict(lab, "source_range", before + 1);
    assert!(curl(lab, "host", "http://192.0.2.1:30091/").is_ok());
    let meets = |client: &str| {
        let frontends = items(lab, &["frontends", "--client", client]);
        let guarded = frontends.iter().find(|f| f["address"] == "203.0.113.91").unwrap();
        guarded["action"].as_str().unwrap().to_owned()
    };
    assert_eq!((meets("198.51.100.7").as_str(), meets("192.0.2.10").as_str()), ("forward", "drop"));
    lab.turnpike_ok(&["delete", "service", "guarded"]).unwrap();
}

/// Nobody to serve: refused at once. Nobody's address: silence (rules N1, N4).
fn refusals_are_quick_and_silence_is_silent(lab: &Lab) {
    apply(
        lab,
        "
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.92
  clusterIP: 10.96.0.92
  selector: {app: nobody}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30092}]
",
    );
    for url in
        ["http://203.0.113.92/", "http://192.0.2.1:30092/", "http://10.96.0.92/", "http://10.96.0.80:81/"]
    {
        // Within curl's limit: silence would have another exit code.
        assert_eq!(curl(lab, "client", url), Err(REFUSED), "{url}");
    }
    let before = verdict(lab, "unallocated_cluster_ip");
    assert_eq!(curl(lab, "client", "http://10.96.77.77/"), Err(SILENCE));
    wait_verdict(lab, "unallocated_cluster_ip", before + 1);
    drops_are_told(lab, "unallocated_cluster_ip");
    lab.turnpike_ok(&["delete", "service", "nobody"]).unwrap();
}

/// With `externalTrafficPolicy: Local` pods see who their clients are; inside the cluster nothing changes (rules A2, A6).
fn pods_see_their_clients(lab: &Lab) {
    lab.lab(["return-path"]).unwrap();
    apply(
        lab,
        "
apiVersion: v1
kind: Service
metadata: {name: seen}
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.93
  clusterIP: 10.96.0.93
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30093}]
",
    );
    for url in ["http://203.0.113.93/client", "http://192.0.2.1:30093/client"] {
        assert_eq!(curl(lab, "client", url).as_deref(), Ok("198.51.100.7"), "{url}");
    }
    assert_eq!(curl(lab, "client", "http://10.96.0.93/client").as_deref(), Ok("10.1.0.1"));
    let outcome = lab.load(&["http://203.0.113.93/", "--requests", "2000", "--clients", "16"]).unwrap();
    assert_eq!((outcome.failures, outcome.answers.len()), (0, 3), "{outcome:?}");

    // Anybody may ask the health check port whether this gateway has pods for the Service (rules H2 to H5).
    let services = items(lab, &["services"]);
    let seen = services.iter().find(|s| s["metadata"]["name"] == "seen").unwrap();
    let port = seen["spec"]["healthCheckNodePort"].as_u64().unwrap();
    let url = format!("http://192.0.2.11:{port}/");
    let answer: Value = serde_json::from_str(&curl(lab, "host", &url).unwrap()).unwrap();
    assert_eq!(answer["localEndpoints"], 3, "{answer}");
    assert_eq!(answer["service"]["name"], "seen", "{answer}");
    lab.turnpike_ok(&["delete", "service", "seen"]).unwrap();
}

/// A UDP client that keeps its port is served again as soon as there is somebody to serve it (rules U1, U4).
fn udp_clients_are_never_forgotten(lab: &Lab) {
    let ask = |text: &str| {
        let line = format!("printf '{text}' | socat -t 1 - UDP4:203.0.113.81:7,sourceport=40007,reuseaddr");
        lab.run_in("client", "sh", &["-c", &line])
    };
    assert_eq!(ask("one").unwrap(), "one");
    for pod in ["web-1", "web-2", "web-3"] {
        lab.turnpike_ok(&["delete", "pod", pod]).unwrap();
    }
    lab.wait_adopted().unwrap();
    lab.apply("scripts/lab/web.yaml").unwrap();
    lab.wait_adopted().unwrap();
    assert_eq!(ask("two").unwrap(), "two");
    for pod in ["web-1", "web-2", "web-3"] {
        lab.turnpike_ok(&["delete", "pod", pod]).unwrap();
        lab.wait_adopted().unwrap();
        if pod != "web-3" {
            // Whoever had the flow is gone or was never it; the one that is left answers.
            wait(
                "an answer from a pod that is left",
                Duration::from_secs(5),
                || Ok(ask("three")? == "three"),
            )
            .unwrap();
        }
    }
    lab.apply("scripts/lab/web.yaml").unwrap();
    lab.wait_adopted().unwrap();
    assert_eq!(ask("four").unwrap(), "four");
}

/// Names are answered through the DNS Service, over UDP and TCP, and follow what they name (rule D1).
fn names_are_answered(lab: &Lab) {
    lab.apply("scripts/lab/dns.yaml").unwrap();
    lab.wait_adopted().unwrap();
    let dig = |words: &[&str]| {
        let words: Vec<&str> = ["+short", "+time=2", "+tries=2"].iter().chain(words).copied().collect();
        lab.run_in("client", "dig", &words).unwrap().trim().to_owned()
    };
    let name = "backend.default.svc.cluster.local";
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(&[transport, name]), cluster_ip(lab, "backend"), "{transport}");
    }
    assert_eq!(dig(&["SRV", &format!("_http._tcp.{name}")]), format!("0 100 80 {name}."));
    assert_eq!(dig(&["-x", &cluster_ip(lab, "backend")]), format!("{name}."));
    assert!(lab.run_in("client", "dig", &["nobody.default.svc.cluster.local"]).unwrap().contains("NXDOMAIN"));
    assert!(curl(lab, "client", &format!("http://{name}/")).unwrap().starts_with("web-"));
}

fn cluster_ip(lab: &Lab, name: &str) -> String {
    let services = items(lab, &["services"]);
    let service = services.iter().find(|s| s["metadata"]["name"] == name).unwrap();
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

/// What watches a gateway sees that it serves (rule H6), and that etcd is there.
fn watchers_see_a_healthy_gateway(lab: &Lab) {
    for path in ["healthz", "livez"] {
        let answer: Value =
            serde_json::from_str(&curl(lab, "host", &format!("http://192.0.2.11:10256/{path}")).unwrap())
                .unwrap();
        assert!(answer["lastUpdated"].is_string() && answer["currentTime"].is_string(), "{answer}");
    }
    let metrics = lab.run_in("gw", "curl", &["-sS", "http://127.0.0.1:9464/metrics"]).unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok())
    };
    assert_eq!(value("turnpike_etcd_connected"), Some(1.0), "{metrics}");
}

fn rules_hold(name: &str, workers: &str) {
    let lab = Lab::with_workers(name, workers).unwrap();
    lab.serve().unwrap();
    clients_stay_with_their_pod(&lab);
    strangers_are_kept_out(&lab);
    refusals_are_quick_and_silence_is_silent(&lab);
    udp_clients_are_never_forgotten(&lab);
    names_are_answered(&lab);
    watchers_see_a_healthy_gateway(&lab);
    pods_see_their_clients(&lab);
}

#[test]
fn real_clients_meet_the_rules() {
    if available() {
        rules_hold("t10", "[1]");
    }
}

#[test]
fn real_clients_meet_the_rules_with_two_workers() {
    if available() {
        rules_hold("t11", "[0, 1]");
    }
}
