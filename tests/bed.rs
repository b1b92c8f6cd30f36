//! The lab of `scripts/lab/lab` as a value: made, used, and given back when it goes out of scope.

use crate::load::Outcome;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    name: String,
    layout: Layout,
}

/// A program in the background of a lab, ended with the test.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts it in one of the namespaces. What it complains about is in `PLACE-daemon.log` among the lab's files.
    pub fn start(lab: &Lab, place: &str, words: &[&str]) -> Result<Self> {
        let [program, arguments @ ..] = words else { bail!("no program to start") };
        let log = std::fs::File::create(lab.dir().join(format!("{place}-daemon.log")))?;
        let mut command = lab.command(place, program);
        let child = command.args(arguments).stdout(Stdio::null()).stderr(log).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {program}"))?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// How a lab is laid out.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Cores of the workers, as in the configuration file.
    pub workers: String,
    /// Name of the tap through which the gateway's kernel is reached; empty: it has a NIC of its own.
    pub exception: String,
    /// How the gateway is attached.
    pub arms: Arms,
    /// `dataplane.idle`.
    pub idle: String,
    /// Whether everything has an IPv6 address too.
    pub is_dual: bool,
    /// DPDK's device on the gateway's NIC; empty: the usual one.
    pub device: String,
}

impl Default for Layout {
    fn default() -> Self {
        let (workers, idle) = ("[1]".to_owned(), "adaptive".to_owned());
        let (exception, device) = (String::new(), String::new());
        Self { workers, exception, arms: Arms::One, idle, is_dual: false, device }
    }
}

/// How a lab's gateway is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arms {
    /// One NIC for clients and, by the router, pods.
    #[default]
    One,
    /// A second NIC on the pods' network.
    Two,
    /// One NIC, on which the pods' network is VLAN 200.
    Vlan,
}

impl Arms {
    const fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Two => "two",
            Self::Vlan => "vlan",
        }
    }
}

impl Lab {
    /// Lays out the network, with `web-1` to `web-3` and nothing of Turnpike running yet. `name` tells labs that run at the same time apart.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_workers(name, "[1]")
    }

    /// The same with these cores as workers, as in the configuration file.
    pub fn with_workers(name: &str, workers: &str) -> Result<Self> {
        Self::laid_out(name, Layout { workers: workers.into(), ..Layout::default() })
    }

    /// The same with this DPDK device on the gateway's NIC, and both IP families.
    pub fn with_device(name: &str, workers: &str, device: &str) -> Result<Self> {
        Self::laid_out(
            name,
            Layout { workers: workers.into(), device: device.into(), is_dual: true, ..Layout::default() },
        )
    }

    /// The same with a gateway whose kernel has this tap and no NIC of its own.
    pub fn with_exception(name: &str, workers: &str, tap: &str) -> Result<Self> {
        let (workers, exception) = (workers.into(), tap.into());
        Self::laid_out(name, Layout { workers, exception, ..Layout::default() })
    }

    /// The same with both IP families; without a tap its kernel has a NIC of its own.
    pub fn dual(name: &str, workers: &str, tap: &str) -> Result<Self> {
        let (workers, exception) = (workers.into(), tap.into());
        Self::laid_out(name, Layout { workers, exception, is_dual: true, ..Layout::default() })
    }

    /// The same with a gateway that is attached so.
    pub fn with_arms(name: &str, workers: &str, arms: Arms) -> Result<Self> {
        Self::laid_out(name, Layout { workers: workers.into(), arms, ..Layout::default() })
    }

    /// The same with workers that rest so: `adaptive` or `poll`.
    pub fn with_idle(name: &str, workers: &str, idle: &str) -> Result<Self> {
        Self::laid_out(name, Layout { workers: workers.into(), idle: idle.into(), ..Layout::default() })
    }

    fn laid_out(name: &str, layout: Layout) -> Result<Self> {
        let lab = Self { name: name.to_owned(), layout };
        lab.lab(["up"])?;
        for (pod, address) in [("web-1", "10.244.0.11"), ("web-2", "10.244.0.12"), ("web-3", "10.244.0.13")] {
            lab.lab(["pod-add", pod, address])?;
        }
        Ok(lab)
    }

    /// Starts both processes, applies the manifests, and waits until they are adopted.
    pub fn serve(&self) -> Result<()> {
        self.lab(["start", "controlplane"])?;
        self.lab(["start", "dataplane"])?;
        self.wait_for_admin()?;
        self.apply("scripts/lab/web.yaml")?;
        self.wait_adopted()
    }

    /// Cores of its workers, divided by commas.
    pub fn worker_cores(&self) -> Result<String> {
        let cores: Vec<u16> = serde_json::from_str(&self.layout.workers)?;
        Ok(cores.iter().map(u16::to_string).collect::<Vec<_>>().join(","))
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new("/run/turnpike-lab").join(&self.name)
    }

    /// Runs a verb of the lab script.
    pub fn lab<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = Command::new(workspace().join("scripts/lab/lab"));
        command.args(arguments).env("TURNPIKE_LAB", &self.name);
        let Layout { workers, exception, arms, idle, is_dual, device } = &self.layout;
        command.env("TURNPIKE_LAB_WORKERS", workers).env("TURNPIKE_LAB_EXCEPTION", exception);
        command.env("TURNPIKE_LAB_ARMS", arms.name()).env("TURNPIKE_LAB_IDLE", idle);
        command.env("TURNPIKE_LAB_IPV6", if *is_dual { "1" } else { "" });
        if !device.is_empty() {
            command.env("TURNPIKE_LAB_DEVICE", device);
        }
        run(command.stdin(Stdio::null()))
    }

    /// A command in one of the namespaces: `client`, `host`, `router`, `gw`, `pod-web-1`.
    #[must_use]
    pub fn command(&self, place: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{place}", self.name), program]).stdin(Stdio::null());
        command
    }

    /// Starts a command in the background.
    pub fn spawn(&self, place: &str, program: &str, arguments: &[&str]) -> Result<Child> {
        let child = self
            .command(place, program)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.with_context(|| format!("cannot start {program}"))
    }

    /// Runs a command and gives what it printed.
    pub fn run_in(&self, place: &str, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(place, program).args(arguments))
    }

    /// The admin CLI, whatever it answers.
    pub fn turnpike(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("turnpike")?);
        command.arg("--config").arg(self.dir().join("turnpike.toml")).args(arguments).stdin(Stdio::null());
        Ok(command.current_dir(workspace()).output()?)
    }

    /// The admin CLI, which must succeed; gives what it printed.
    pub fn turnpike_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.turnpike(arguments)?;
        ensure!(
            output.status.success(),
            "turnpike {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `turnpike apply -f`.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.turnpike_ok(&["apply", "-f", manifest]).map(drop)
    }

    /// `turnpike status -o json`.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.turnpike_ok(&["status", "-o", "json"])?)?)
    }

    /// A counter of all workers, once the latest has been shown.
    pub fn count(&self, name: &str) -> Result<u64> {
        std::thread::sleep(Duration::from_millis(300));
        let status = self.status()?;
        let workers = status["dataplane"]["workers"].as_array().context("no workers in the status")?;
        let counts = workers.iter().map(|worker| worker["counters"][name].as_u64());
        counts.sum::<Option<u64>>().with_context(|| format!("no counter {name}"))
    }

    /// The SHA-256 sum of what a command prints.
    pub fn sum_of(&self, place: &str, command: &str) -> Result<String> {
        let script = format!("set -o pipefail; {command} | sha256sum");
        let printed = self.run_in(place, "bash", &["-c", &script])?;
        printed.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
    }

    /// Waits until the control plane answers.
    pub fn wait_for_admin(&self) -> Result<()> {
        wait("the control plane's socket", Duration::from_secs(30), || {
            Ok(self.turnpike(&["status"])?.status.success())
        })
    }

    /// Waits until every worker has adopted what etcd holds now.
    pub fn wait_adopted(&self) -> Result<()> {
        wait("adoption", Duration::from_secs(20), || {
            let status = self.status()?;
            let (etcd, dataplane) = (&status["etcd"], &status["dataplane"]);
            Ok(dataplane["state"] == "serving"
                && dataplane["adopted_generation"] != 0
                && dataplane["adopted_generation"] == dataplane["published_generation"]
                && dataplane["adopted_revision"].as_i64() >= etcd["revision"].as_i64())
        })
    }

    /// `http-load` from the client.
    pub fn load(&self, arguments: &[&str]) -> Result<Outcome> {
        let load = program("http-load")?;
        let printed = run(self.command("client", &load.to_string_lossy()).args(arguments))?;
        Ok(serde_json::from_str(&printed)?)
    }

    /// Asks an echo server from a place: each client so many times, with datagrams of these sizes in turn. Every answer has to be what was
    /// sent. Returns how many questions had to be sent again, as a busy machine's queues lose some; more than one in twenty is an error.
    pub fn datagrams_come_back(
        &self,
        place: &str,
        address: &str,
        bytes: &str,
        count: u64,
        clients: u64,
    ) -> Result<u64> {
        let (each, at_once) = (count.to_string(), clients.to_string());
        let words = ["ask", address, "--bytes", bytes, "--count", &each, "--clients", &at_once];
        let printed = self.run_in(place, &program("datagrams")?.to_string_lossy(), &words)?;
        let outcome: Value = serde_json::from_str(&printed)?;
        let of = |name: &str| outcome[name].as_u64().with_context(|| format!("no {name} in {outcome}"));
        let all = count * clients;
        ensure!(of("identical")? == all && of("again")? * 20 <= all, "{place} asks {address}: {outcome}");
        of("again")
    }

    /// `http-load` from the client in the background.
    pub fn spawn_load(&self, arguments: &[&str]) -> Result<Child> {
        self.spawn("client", &program("http-load")?.to_string_lossy(), arguments)
    }

    /// The end of a process's log.
    #[must_use]
    pub fn log(&self, what: &str) -> String {
        let text = std::fs::read_to_string(self.dir().join(format!("{what}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- controlplane.log\n{}\n--- dataplane.log\n{}",
                self.log("controlplane"),
                self.log("dataplane")
            );
        }
        if let Err(error) = self.lab(["down"]) {
            eprintln!("the lab {} was not taken down: {error:#}", self.name);
        }
    }
}

/// What a background load has counted, once it is done.
pub fn outcome_of(child: Child) -> Result<Outcome> {
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "http-load: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until something holds.
pub fn wait(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    let mut last = None;
    while Instant::now() < end {
        match holds() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("waited {limit:?} for {what} in vain{}", last.map(|e| format!(": {e:#}")).unwrap_or_default())
}

/// One of the workspace's programs, built beside this test.
pub fn program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folder = here.ancestors().find(|folder| folder.join("turnpike-dataplane").is_file());
    let folder = folder.context("the programs are not built: cargo build --workspace --bins")?;
    Ok(folder.join(name))
}

/// Whether this machine can have a lab. In CI it must.
#[must_use]
pub fn available() -> bool {
    let root = run(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    assert!(root || std::env::var_os("CI").is_none(), "the lab needs root, and CI must have it");
    if !root {
        eprintln!("skipped: the lab needs root");
    }
    root
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
