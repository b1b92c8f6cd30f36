//! `turnpike up`: the control plane and the dataplane in the foreground, for one host. The control plane starts the private etcd itself.

use crate::beside;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use turnpike_wire::config::Config;

/// How often the processes are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// A process that ran for this long is started again at once when it dies.
const STEADY: Duration = Duration::from_secs(10);
/// Longest wait before a process that keeps dying is started again.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Runs both until a signal comes; starts either again when it dies. The first to fail right at the start ends everything.
pub fn run(config_path: &Path) -> Result<()> {
    let config = Config::load(config_path)?;
    config.require_dataplane(config_path)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot listen for signals")?;
    }
    let mut services = [Service::new("controlplane", config_path)?, Service::new("dataplane", config_path)?];
    let outcome = supervise(&mut services, &stop);
    // The dataplane first: it goes on forwarding without a control plane, not the other way round.
    for service in services.iter_mut().rev() {
        service.end();
    }
    outcome
}

fn supervise(services: &mut [Service], stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for service in services.iter_mut() {
            service.look_after()?;
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// One of the two programs.
struct Service {
    name: &'static str,
    program: PathBuf,
    config: PathBuf,
    child: Option<Child>,
    started: Instant,
    /// When it may be started (again).
    due: Instant,
    backoff: Duration,
    /// It has run steadily once.
    proven: bool,
}

impl Service {
    fn new(name: &'static str, config: &Path) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            name,
            program: beside::program(&format!("turnpike-{name}")),
            config: config.to_owned(),
            child: None,
            started: now,
            due: now,
            backoff: Duration::from_millis(200),
            proven: false,
        })
    }

    /// Starts it when it is due, notices when it has died.
    fn look_after(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else {
            return if Instant::now() >= self.due { self.start() } else { Ok(()) };
        };
        let Some(status) =
            child.try_wait().with_context(|| format!("cannot wait for turnpike-{}", self.name))?
        else {
            self.proven |= self.started.elapsed() >= STEADY;
            return Ok(());
        };
        self.child = None;
        if !self.proven {
            bail!("turnpike-{} could not run ({status}); what it said is above", self.name);
        }
        self.backoff = if self.started.elapsed() >= STEADY {
            Duration::ZERO
        } else {
            (self.backoff * 2).clamp(Duration::from_millis(200), BACKOFF_MAX)
        };
        self.due = Instant::now() + self.backoff;
        eprintln!(
            "up           | turnpike-{} ended ({status}); starting it again in {:?}",
            self.name, self.backoff
        );
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let mut child = Command::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let name = self.name;
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || pass_on(name, out));
        }
        if let Some(err) = child.stderr.take() {
            thread::spawn(move || pass_on(name, err));
        }
        self.child = Some(child);
        self.started = Instant::now();
        Ok(())
    }

    /// Asks it to end, and kills it when it does not.
    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(TICK);
        }
        eprintln!("up           | turnpike-{} did not end within {PATIENCE:?}; killing it", self.name);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Copies lines to standard error with the name of who said them.
fn pass_on(name: &str, from: impl std::io::Read) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        eprintln!("{name:<12} | {line}");
    }
}
