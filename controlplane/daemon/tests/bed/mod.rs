//! The real control plane and real etcds for the tests: started, asked, broken, and given back.
#![allow(dead_code, clippy::unwrap_used)]

pub mod api_server;
pub mod cluster;
pub mod dataplane;
pub mod etcd;
pub mod proxy;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use turnpike_wire::admin::{Change, ObjectName, Planned, Reply, Request, Resource, Status};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One control plane with a folder of its own.
pub struct ControlPlane {
    folder: TempDir,
    child: Option<Child>,
    path: Option<String>,
}

impl ControlPlane {
    /// A control plane that is not started yet. `more` is appended to its configuration.
    pub fn new(more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("turnpike-cp-").tempdir().unwrap();
        let dir = folder.path().display();
        // On ports of their own, since many run at the same time.
        let own = |section: &str| {
            if more.contains(section) {
                String::new()
            } else {
                format!("{section}\nlisten = \"127.0.0.1:0\"")
            }
        };
        let (health, metrics) = (own("[health]"), own("[metrics]"));
        let config = format!(
            r#"
            [gateway]
            name = "test"
            state_dir = "{dir}/state"
            run_dir = "{dir}/run"
            shm_dir = "{dir}"
            [[dataplane.ports]]
            name = "wan"
            device = "net_null0"
            addresses = ["192.0.2.1/24"]
            {health}
            {metrics}
            {more}
            "#
        );
        fs::write(folder.path().join("turnpike.toml"), config).unwrap();
        Self { folder, child: None, path: None }
    }

    /// The same, started, and known to answer.
    pub fn started(more: &str) -> Self {
        let mut control_plane = Self::new(more);
        control_plane.start();
        control_plane
    }

    /// The same, and it has read etcd.
    pub fn connected(more: &str) -> Self {
        let control_plane = Self::started(more);
        control_plane.wait_connected();
        control_plane
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    pub fn start(&mut self) {
        self.spawn();
        wait("the admin socket", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", fs::read_to_string(self.log()).unwrap());
            UnixStream::connect(self.folder().join("run/controlplane.sock")).is_ok()
        });
    }

    /// Where it looks for programs.
    pub fn set_path(&mut self, path: &str) {
        self.path = Some(path.to_owned());
    }

    fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike-controlplane"));
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let child = command
            .arg("--config")
            .arg(self.folder().join("turnpike.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts it and waits for its own end; gives its exit code and what it said.
    pub fn run_until_it_ends(&mut self) -> (Option<i32>, String) {
        self.spawn();
        let status = self.child.take().unwrap().wait().unwrap();
        (status.code(), fs::read_to_string(self.log()).unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let start = Instant::now();
            while child.try_wait().unwrap().is_none() {
                assert!(start.elapsed() < PATIENCE, "it does not end");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn ask(&self, request: &Request) -> Reply {
        serde_json::from_str(&self.ask_raw(&serde_json::to_string(request).unwrap())).unwrap()
    }

    pub fn ask_raw(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.folder().join("run/controlplane.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        reply
    }

    pub fn try_apply(&self, objects: Vec<Value>) -> Result<Vec<Change>, String> {
        match self.ask(&Request::Apply { objects, dry_run: false }) {
            Reply::Changed { results } => Ok(results),
            Reply::Error { message } => Err(message),
            other => panic!("{other:?}"),
        }
    }

    /// Applies and gives the outcomes in order.
    #[track_caller]
    pub fn apply(&self, objects: Vec<Value>) -> Vec<String> {
        self.try_apply(objects).unwrap().into_iter().map(|change| change.outcome).collect()
    }

    pub fn delete(&self, kind: &str, name: &str, ignore_not_found: bool) -> Result<Vec<Change>, String> {
        let object = ObjectName { kind: kind.into(), namespace: "default".into(), name: name.into() };
        match self.ask(&Request::Delete { objects: vec![object], ignore_not_found }) {
            Reply::Changed { results } => Ok(results),
            Reply::Error { message } => Err(message),
            other => panic!("{other:?}"),
        }
    }

    pub fn get(&self, resource: Resource) -> Vec<Value> {
        match self.ask(&Request::Get { resource, namespace: None, name: None, client: None }) {
            Reply::Items { items } => items,
            other => panic!("{other:?}"),
        }
    }

    /// What applying would change.
    pub fn plan(&self, objects: Vec<Value>) -> Planned {
        match self.ask(&Request::Plan { objects }) {
            Reply::Planned(planned) => *planned,
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_connected(&self) {
        wait("a connection to etcd", || self.status().etcd.state == "connected");
    }

    /// Addresses of the backends behind a load-balancer, NodePort or cluster address of a Service, in order.
    pub fn backends(&self, service: &str) -> Vec<String> {
        let frontends = self.get(Resource::Frontends);
        let Some(frontend) = frontends.iter().find(|f| f["service"] == service) else { return Vec::new() };
        let mut addresses: Vec<String> = frontend["backends"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b["address"].as_str().unwrap().to_owned())
            .collect();
        addresses.sort();
        addresses
    }

    /// The Service object of that name.
    pub fn service(&self, name: &str) -> Value {
        let services = self.get(Resource::Services);
        services.into_iter().find(|s| s["metadata"]["name"] == name).unwrap_or(Value::Null)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log().display(), fs::read_to_string(self.log()).unwrap_or_default());
        }
        // The private etcd would outlive a control plane that is killed.
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let start = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(pid) = etcd::private_pid(self.folder()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The settings of a standalone cluster with a pool.
pub fn standalone(pool: &str) -> String {
    format!(
        r#"
        [cluster]
        mode = "standalone"
        service_cidrs = ["10.96.0.0/16"]
        [[cluster.pools]]
        name = "public"
        addresses = ["{pool}"]
        "#
    )
}

/// A Service with a selector on `app: NAME`.
pub fn service(name: &str, r#type: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": r#type, "selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// A pod that is ready, labelled `app: APP`.
pub fn pod(name: &str, app: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// Waits until something holds.
#[track_caller]
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}
