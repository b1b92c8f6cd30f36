//! The floor: `dpdk-testpmd` on two software rings as a child process, stopped while the subject runs.
//!
//! One forwarding core moves 64 frames of 64 bytes round and round two `net_ring` devices in bursts of 32. `start tx_first` puts them there:
//! real IPv4 and UDP, so that `5tswap` finds ports to swap. Its cost is the forwarding thread's CPU time over the packets it counted;
//! the thread sleeps before `start` and after `stop`, so that the kernel's figure is exact at both ends.

use crate::testpmd_output::{Forwarded, Report};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long testpmd may take to start, stop or end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What testpmd does to each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Parses, and swaps Ethernet and IP addresses and ports.
    FiveTupleSwap,
    /// Swaps Ethernet addresses.
    MacSwap,
}

impl Mode {
    /// Its name on testpmd's prompt.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FiveTupleSwap => "5tswap",
            Self::MacSwap => "macswap",
        }
    }
}

/// One short run of the floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloorRun {
    /// CPU time of the forwarding thread a packet, in nanoseconds.
    pub cpu_ns_per_packet: f64,
    /// Packets forwarded.
    pub packets: u64,
    /// Packets lost.
    pub dropped: u64,
}

/// A testpmd that waits for commands. It ends when dropped.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    prompt: ChildStdin,
    lines: Receiver<String>,
    forwarder: PathBuf,
    mode: Option<Mode>,
    fed: bool,
}

impl Testpmd {
    /// The command, for the report.
    #[must_use]
    pub fn command(core: u16, idle_core: u16, huge: bool) -> Vec<String> {
        let cores = format!("{idle_core},{core}");
        let main = idle_core.to_string();
        let memory: &[&str] =
            if huge { &["--in-memory", "-m", "64"] } else { &["--no-huge", "--no-shconf", "-m", "64"] };
        let before = ["dpdk-testpmd", "-l", &cores, "--main-lcore", &main, "--no-pci", "--no-telemetry"];
        let after = [
            "--vdev=net_ring0",
            "--vdev=net_ring1",
            "--",
            "--interactive",
            "--no-lsc-interrupt",
            "--no-flush-rx",
            "--total-num-mbufs=2048",
        ];
        before.iter().chain(memory).chain(&after).map(|&word| word.to_owned()).collect()
    }

    /// Starts testpmd with its forwarding thread on `core` and the other on `idle_core`.
    pub fn start(core: u16, idle_core: u16, huge: bool) -> Result<Self> {
        // Through a pipe testpmd would keep its lines to itself; stdbuf makes it tell each one.
        let mut child = Command::new("stdbuf")
            .arg("-oL")
            .args(Self::command(core, idle_core, huge))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(
                "cannot start dpdk-testpmd through stdbuf; install the packages dpdk-dev and coreutils",
            )?;
        let (Some(prompt), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("dpdk-testpmd has no pipes")
        };
        let (tell, lines) = channel();
        let tell_errors = tell.clone();
        std::thread::spawn(move || pass_lines(output, &tell));
        std::thread::spawn(move || pass_lines(errors, &tell_errors));
        let mut testpmd = Self { child, prompt, lines, forwarder: PathBuf::new(), mode: None, fed: false };
        testpmd.wait_for("its ports", |line| line.trim() == "Done")?;
        testpmd.forwarder = testpmd.forwarding_thread()?;
        Ok(testpmd)
    }

    /// Forwards for `time` and gives the cost of a packet.
    pub fn run(&mut self, mode: Mode, time: Duration) -> Result<FloorRun> {
        if self.mode != Some(mode) {
            self.say(&format!("set fwd {}", mode.name()))?;
            self.wait_for("its mode", |line| line.contains(" packet forwarding mode"))?;
            self.mode = Some(mode);
        }
        let before_ns = self.cpu_ns()?;
        self.say(if self.fed { "start" } else { "start tx_first 1" })?;
        self.fed = true;
        self.wait_for("forwarding to start", |line| line.contains("nb forwarding cores="))?;
        sleep(time);
        self.say("stop")?;
        let mut report = Report::default();
        let mut forwarded = None;
        self.wait_for("its statistics", |line| {
            forwarded = report.line(line);
            forwarded.is_some()
        })?;
        let Some(Forwarded { received, dropped, .. }) = forwarded else {
            bail!("dpdk-testpmd gave no statistics")
        };
        let cpu_ns = self.cpu_ns()?.saturating_sub(before_ns);
        if received == 0 || dropped > 0 {
            bail!("dpdk-testpmd {} forwarded {received} packets and dropped {dropped}", mode.name());
        }
        Ok(FloorRun { cpu_ns_per_packet: cpu_ns as f64 / received as f64, packets: received, dropped })
    }

    fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.prompt, "{command}")
            .and_then(|()| self.prompt.flush())
            .context("dpdk-testpmd has ended")
    }

    /// Reads lines up to the one that `is_it`.
    fn wait_for(&mut self, what: &str, mut is_it: impl FnMut(&str) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if is_it(&line) => return Ok(()),
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => last = line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("waited in vain for {what} of dpdk-testpmd; it said: {last}")
                }
                Err(RecvTimeoutError::Disconnected) => bail!("dpdk-testpmd ended; its last words: {last}"),
            }
        }
    }

    /// The folder of the forwarding thread in /proc.
    fn forwarding_thread(&self) -> Result<PathBuf> {
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))?.flatten() {
            if fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.contains("-worker-")) {
                return Ok(task.path());
            }
        }
        bail!("dpdk-testpmd has no thread named rte-worker or lcore-worker")
    }

    /// CPU time the forwarding thread has had so far.
    fn cpu_ns(&self) -> Result<u64> {
        let text = fs::read_to_string(self.forwarder.join("schedstat"))
            .context("the forwarding thread's CPU time")?;
        text.split_whitespace().next().and_then(|ns| ns.parse().ok()).context("schedstat says no time")
    }
}

/// Hands on what testpmd says, until it ends.
fn pass_lines(from: impl Read, to: &Sender<String>) {
    for line in BufReader::new(from).lines() {
        let Ok(line) = line else { break };
        if to.send(line).is_err() {
            break;
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.say("quit");
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
