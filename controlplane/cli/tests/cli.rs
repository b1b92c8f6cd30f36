//! The program as people and scripts meet it: exit status, standard output, standard error. A control plane of the test's own answers.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::thread;
use tempfile::TempDir;

const SERVICE: &str = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}"#;

struct Bed {
    folder: TempDir,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display();
        fs::write(folder.path().join("turnpike.toml"), format!("[gateway]\nrun_dir = \"{dir}\"\n")).unwrap();
        fs::write(folder.path().join("web.json"), SERVICE).unwrap();
        Self { folder }
    }

    fn run(&self, arguments: &str) -> Output {
        let dir = self.folder.path().display().to_string();
        let arguments: Vec<String> = arguments.split_whitespace().map(|a| a.replace("DIR", &dir)).collect();
        Command::new(env!("CARGO_BIN_EXE_turnpike"))
            .arg("--config")
            .arg(self.folder.path().join("turnpike.toml"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Answers each connection with the next reply, and gives what was asked.
    fn answering(&self, replies: Vec<Value>) -> thread::JoinHandle<Vec<Value>> {
        let path = self.folder.path().join("controlplane.sock");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let answer = |reply: Value| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                writeln!(stream, "{reply}").unwrap();
                serde_json::from_str(&line).unwrap()
            };
            replies.into_iter().map(answer).collect()
        })
    }
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_wrong_command_line_is_2_a_failure_is_1_and_both_say_why() {
    let bed = Bed::new();
    // Arguments, exit status, what standard error says.
    let rows = [
        ("", 2, "Usage"),
        ("get", 2, "RESOURCE"),
        ("get hats", 2, "hats"),
        ("apply", 2, "--filename"),
        ("plan", 2, "--filename"),
        ("describe service", 2, "NAME"),
        ("describe pod web", 2, "pod"),
        ("get frontends --client nobody", 2, "nobody"),
        ("get pods --client 10.0.0.1", 2, "only for get frontends"),
        ("explain", 2, "PACKET"),
        ("explain tcp", 2, "a protocol, a source and a destination"),
        ("trace --filter hostt", 2, "filter, word 1"),
        ("trace --for 0s", 2, "no time"),
        ("trace --sample 0", 2, "0 is not in"),
        ("capture", 2, "--write"),
        ("capture -w DIR/x --before --after", 2, "cannot be used with"),
        ("capture -w DIR/no/x", 1, "no/x"),
        ("flows --client web", 2, "nor a network"),
        ("flows --all", 2, "--kill"),
        ("flows --kill", 1, "or say --all"),
        ("flows", 1, "is turnpike-dataplane running"),
        ("trace", 1, "is turnpike-dataplane running"),
        ("apply -f DIR/missing.yaml", 1, "missing.yaml"),
        ("apply -f DIR/web.json", 1, "is turnpike-controlplane running"),
        ("plan -f DIR/web.json", 1, "is turnpike-controlplane running"),
        ("get services", 1, "is turnpike-controlplane running"),
        ("describe service a/web --namespace b", 1, "leave one out"),
    ];
    for (arguments, code, words) in rows {
        let output = bed.run(arguments);
        let said = told(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.contains(words), "{arguments}: {said}");
        assert!(output.stdout.is_empty(), "{arguments}: errors go to standard error");
    }
}

#[test]
fn a_control_plane_that_hangs_up_is_a_failure_and_no_closed_pipe_of_the_reader() {
    let bed = Bed::new();
    let listener = UnixListener::bind(bed.folder.path().join("controlplane.sock")).unwrap();
    let hangs_up = thread::spawn(move || drop(listener.accept().unwrap()));
    // More than the socket holds, so that writing itself meets the end.
    let pad = "x".repeat(4 << 20);
    let manifest = json!({"kind": "Service", "metadata": {"name": "web", "annotations": {"pad": pad}}});
    fs::write(bed.folder.path().join("large.json"), manifest.to_string()).unwrap();
    let output = bed.run("apply -f DIR/large.json");
    hangs_up.join().unwrap();
    let said = told(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("went away while it was asked"), "{said}");
}

#[test]
fn apply_prints_like_kubectl_and_says_when_it_was_a_dry_run() {
    let bed = Bed::new();
    let object =
        |name: &str, namespace: &str| json!({"kind": "Service", "namespace": namespace, "name": name});
    let changed = json!({"reply": "changed", "results": [
        {"object": object("web", "default"), "outcome": "created", "warnings": []},
        {"object": object("api", "shop"), "outcome": "unchanged", "warnings": ["spec.x is not used"]},
    ]});
    let asked = bed.answering(vec![
        changed.clone(),
        changed,
        json!({"reply": "error", "message": "Service default/web: no"}),
    ]);
    let output = bed.run("apply -f DIR/web.json");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(told(&output.stdout), "service/web created\nservice/api (namespace shop) unchanged\n");
    assert_eq!(told(&output.stderr), "warning: service/api (namespace shop): spec.x is not used\n");
    let output = bed.run("apply --dry-run -f DIR/web.json");
    assert_eq!(
        told(&output.stdout),
        "service/web created (dry run)\nservice/api (namespace shop) unchanged (dry run)\n"
    );
    let output = bed.run("apply -f DIR/web.json");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        (told(&output.stdout), told(&output.stderr)),
        (String::new(), "error: Service default/web: no\n".into())
    );
    let dry: Vec<Value> =
        asked.join().unwrap().into_iter().map(|request| request["dry_run"].clone()).collect();
    assert_eq!(dry, [false, true, false]);
}

#[test]
fn services_show_their_addresses_or_that_they_wait() {
    let bed = Bed::new();
    let service = |name: &str, kind: &str, status: Value| {
        json!({
            "metadata": {"name": name, "namespace": "default"}, "status": status,
            "spec": {"type": kind, "clusterIP": "10.96.0.9", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]},
        })
    };
    let waits = json!({"conditions": [{"type": "turnpike.dev/AddressAssigned", "status": "False", "message": "no free IPv4 address"}]});
    let both = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "2001:db8::1"}]}});
    let items = vec![
        service("plain", "ClusterIP", json!({})),
        service("given", "LoadBalancer", both),
        service("waits", "LoadBalancer", waits.clone()),
    ];
    let frontend = json!({
        "address": "10.96.0.9", "port": 80, "protocol": "TCP", "kind": "cluster_ip", "action": "forward", "mode": "nat",
        "backends": [{"address": "10.244.0.1", "port": 8080}], "from_revision": 12,
    });
    let endpoints = json!({"port_name": "", "protocol": "TCP", "endpoints": [{"address": "10.244.0.1", "port": 8080, "state": "ready"}]});
    let skipped = |key: &str| json!({"key": key, "revision": 0, "reason": format!("the trouble of {key}")});
    let mut status = serde_json::to_value(turnpike_wire::admin::Status::default()).unwrap();
    status["reply"] = "status".into();
    status["objects"]["skipped"] =
        json!([skipped("Service default/waits"), skipped("Service default/other")]);
    let reply = |items: Vec<Value>| json!({"reply": "items", "items": items});
    let describe = || {
        vec![
            reply(vec![items[2].clone()]),
            status.clone(),
            reply(vec![frontend.clone()]),
            reply(vec![endpoints.clone()]),
        ]
    };
    let replies = [vec![reply(items.clone())], describe(), describe(), vec![reply(Vec::new())]].concat();
    let asked = bed.answering(replies);

    let listed = told(&bed.run("get services").stdout);
    let cells: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0][4], "EXTERNAL-IP", "{listed}");
    let external: Vec<&str> = cells[1..].iter().map(|row| row[4]).collect();
    assert_eq!(external, ["<none>", "203.0.113.1,2001:db8::1", "<pending>"], "{listed}");

    let page = told(&bed.run("describe service waits").stdout);
    for line in [
        "Name:                   waits",
        "Load balancer ingress:  <pending>",
        "Problem:                no free IPv4 address",
        "  Endpoints:            10.244.0.1:8080",
        "Frontend:               TCP 10.96.0.9:80  cluster_ip: forward, nat, 1 backend",
        "From revision:          12",
        "Problem:                the trouble of Service default/waits",
    ] {
        assert!(page.lines().any(|found| found == line), "{line:?} is not in\n{page}");
    }
    assert!(!page.contains("default/other"), "{page}");
    let value: Value = serde_json::from_slice(&bed.run("describe svc default/waits -o json").stdout).unwrap();
    assert_eq!(value["problems"], json!(["the trouble of Service default/waits", "no free IPv4 address"]));
    assert_eq!(value["service"]["status"], waits);
    let missing = bed.run("describe service shop/none");
    assert_eq!(missing.status.code(), Some(1));
    assert!(told(&missing.stderr).contains("there is no Service shop/none"), "{}", told(&missing.stderr));
    assert_eq!(asked.join().unwrap()[9]["namespace"], "shop");
}

#[test]
fn a_plan_is_printed_for_people_and_for_scripts() {
    let bed = Bed::new();
    let mut planned = serde_json::to_value(turnpike_wire::admin::Planned::default()).unwrap();
    planned["reply"] = "planned".into();
    planned["flows_unknown"] = "there is no dataplane to ask (absent)".into();
    planned["objects"] = json!([{
        "object": {"kind": "Service", "namespace": "default", "name": "web"}, "outcome": "configured", "warnings": [],
        "fields": [{"path": "spec.type", "before": "NodePort", "after": "ClusterIP"}],
    }]);
    let asked = bed.answering(vec![planned.clone(), planned]);
    let text = told(&bed.run("plan -f DIR/web.json").stdout);
    assert!(
        text.contains("service/web configured\n    ~ spec.type: \"NodePort\" → \"ClusterIP\"\n"),
        "{text}"
    );
    assert!(text.contains("flows: unknown: there is no dataplane"), "{text}");
    let value: Value = serde_json::from_slice(&bed.run("plan -f DIR/web.json -o json").stdout).unwrap();
    assert_eq!(value["objects"][0]["fields"][0]["path"], "spec.type");
    assert_eq!(value["flows"], Value::Null);
    assert_eq!(asked.join().unwrap()[0]["verb"], "plan");
}

#[test]
fn where_workers_queues_and_flow_tables_are_is_shown_and_what_is_far() {
    use turnpike_wire::admin::{DataplaneStatus, PortStatus, Reply, Status, WorkerStatus};
    let bed = Bed::new();
    let worker = |worker, numa_node, flow_page_bytes, flow_numa_node| WorkerStatus {
        worker,
        core: 2 + worker,
        numa_node,
        flow_page_bytes,
        flow_numa_node,
        ..WorkerStatus::default()
    };
    let workers = vec![
        worker(0, Some(0), 1 << 30, Some(0)),
        worker(1, Some(1), 2 << 20, Some(0)),
        worker(2, None, 4096, None),
        worker(3, None, 0, None),
    ];
    let wan = PortStatus {
        name: "wan".into(),
        numa_node: Some(0),
        offloads: "rss-hash,fast-free".into(),
        ..PortStatus::default()
    };
    let items = |items: &[Value]| json!({"reply": "items", "items": items});
    let shown: Vec<Value> = workers.iter().map(|worker| serde_json::to_value(worker).unwrap()).collect();
    let port = serde_json::to_value(&wan).unwrap();
    let dataplane = DataplaneStatus { workers, ports: vec![wan], ..DataplaneStatus::default() };
    let status = Reply::Status(Box::new(Status { dataplane, ..Status::default() }));
    let replies = vec![serde_json::to_value(status).unwrap(), items(&shown), items(&[port])];
    let asked = bed.answering(replies);
    let [status, workers, ports] =
        ["status", "get workers", "get ports"].map(|verb| told(&bed.run(verb).stdout));
    asked.join().unwrap();
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let far: Vec<&str> = status.lines().filter(|line| line.starts_with("placement")).collect();
    assert_eq!(far.len(), 2, "{status}");
    assert!(
        far[0].contains("worker 1 on core 3 is on NUMA node 1, its queue of port wan on node 0"),
        "{}",
        far[0]
    );
    assert!(far[1].contains("its flow table on node 0"), "{}", far[1]);
    for (core, wanted) in [
        ("2", ["0", "0", "0", "1", "GiB"]),
        ("3", ["1", "0", "0", "2", "MiB"]),
        ("4", ["-", "0", "0", "4", "KiB"]),
        ("5", ["-", "0", "0", "-", "0"]),
    ] {
        let row = rows(&status).into_iter().find(|row| row.len() > 7 && row[1] == core && row[0].len() == 1);
        assert_eq!(row.map(|row| row[2..7].to_vec()), Some(wanted.map(str::to_owned).to_vec()), "{status}");
    }
    assert!(rows(&workers)[1].ends_with(&["1".into(), "GiB".into(), "0".into()]), "{workers}");
    assert!(rows(&workers)[3].ends_with(&["4".into(), "KiB".into(), "-".into()]), "{workers}");
    assert!(rows(&ports)[1].ends_with(&["0".into(), "rss-hash,fast-free".into()]), "{ports}");
}
