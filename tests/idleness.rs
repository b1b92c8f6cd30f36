//! What idle workers cost, and what the first packet behind a pause pays for it.

use crate::bed::{Lab, program, wait};
use anyhow::{Context, Result, ensure};
use rustix::thread::{sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Clock ticks a second in `/proc` (USER_HZ), the same on every Linux of this architecture.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pod's UDP port, and the frontend in front of it.
const POD_PORT: u16 = 9001;
const FRONTEND: &str = "203.0.113.95:9001";

/// What one worker has used of its core.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The thread's name.
    pub worker: String,
    /// Of one core, in percent.
    pub percent: f64,
}

/// Round trips through the gateway and back, each behind a pause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// How many questions had no answer.
    pub lost: usize,
    /// The others, in microseconds, the shortest first.
    pub micros: Vec<f64>,
}

impl RoundTrips {
    /// The round trip that this share of all is not longer than; none without any.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let last = self.micros.len().checked_sub(1)?;
        self.micros.get((self.micros.len() * percent).div_ceil(100).saturating_sub(1).min(last)).copied()
    }
}

/// What the workers of a lab use of their cores, looked at for so long.
pub fn shares(lab: &Lab, length: Duration) -> Result<Vec<Share>> {
    let pid = lab.status()?["dataplane"]["pid"].to_string();
    let start = (Instant::now(), ticks(&pid)?);
    std::thread::sleep(length);
    let (elapsed, now) = (start.0.elapsed(), ticks(&pid)?);
    let share = |((worker, before), (_, after)): (&(String, u64), &(String, u64))| Share {
        worker: worker.clone(),
        percent: (after - before) as f64 / TICKS_PER_SECOND / elapsed.as_secs_f64() * 100.0,
    };
    Ok(start.1.iter().zip(&now).map(share).collect())
}

/// The time each worker has run, in ticks.
fn ticks(pid: &str) -> Result<Vec<(String, u64)>> {
    let mut workers = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        // The name in brackets may hold anything; behind it are the third and further fields, of which 14 and 15 are user and system time.
        let (head, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let name = head.split_once('(').map_or("", |(_, name)| name);
        if name.starts_with("worker-") {
            let field = |n: usize| rest.split_whitespace().nth(n - 3).and_then(|f| f.parse::<u64>().ok());
            let ran = field(14).zip(field(15)).context("no times in stat")?;
            workers.push((name.to_owned(), ran.0 + ran.1));
        }
    }
    workers.sort();
    ensure!(!workers.is_empty(), "process {pid} has no workers");
    Ok(workers)
}

/// An echo server in a pod of a serving lab, behind a frontend of its own. It ends with its value.
#[derive(Debug)]
pub struct Echo<'l> {
    lab: &'l Lab,
    server: Child,
}

impl<'l> Echo<'l> {
    /// Starts it and waits until it answers.
    pub fn start(lab: &'l Lab) -> Result<Self> {
        let manifest = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: idle}}\nspec:\n  type: LoadBalancer\n  loadBalancerIP: 203.0.113.95\n  \
             selector: {{app: idle}}\n  ports: [{{name: echo, protocol: UDP, port: 9001, targetPort: {POD_PORT}}}]\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: idle, labels: {{app: idle}}}}\nstatus: {{phase: Running, podIP: 10.244.0.11}}\n"
        );
        let file = lab.dir().join("idle.yaml");
        fs::write(&file, manifest)?;
        lab.apply(&file.to_string_lossy())?;
        lab.wait_adopted()?;
        let own = program("idle-lab")?;
        let at = format!("0.0.0.0:{POD_PORT}");
        // It ends when this end of its input is closed, also by a signal to this process.
        let mut command = lab.command("pod-web-1", &own.to_string_lossy());
        command
            .args(["echo", &at, "--spare", &lab.worker_cores()?])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = command.spawn().context("cannot start the echo server")?;
        let echo = Self { lab, server };
        wait("the echo server", Duration::from_secs(10), || Ok(echo.ask(1, Duration::ZERO)?.lost == 0))?;
        Ok(echo)
    }

    /// Round trips of so many questions of the client, each behind a pause.
    pub fn ask(&self, questions: u32, pause: Duration) -> Result<RoundTrips> {
        let own = program("idle-lab")?;
        let words = [
            "ask",
            FRONTEND,
            "--questions",
            &questions.to_string(),
            "--pause-ms",
            &pause.as_millis().to_string(),
            "--spare",
            &self.lab.worker_cores()?,
        ];
        Ok(serde_json::from_str(&self.lab.run_in("client", &own.to_string_lossy(), &words)?)?)
    }
}

impl Drop for Echo<'_> {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Leaves these cores to others, if there are more. The machines that clients and pods are on are not the gateway: where they share a core with
/// a worker, each waits until the other rests.
pub fn spare(cores: &[usize]) -> Result<()> {
    let mut left = sched_getaffinity(None)?;
    cores.iter().for_each(|&core| left.unset(core));
    if left.count() > 0 {
        sched_setaffinity(None, &left)?;
    }
    Ok(())
}

/// Answers every datagram with itself, for ever.
pub fn echo(at: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(at)?;
    let mut datagram = [0; 2_048];
    loop {
        let (len, from) = socket.recv_from(&mut datagram)?;
        // Whoever asked may be gone.
        let _ = socket.send_to(&datagram[..len], from);
    }
}

/// Asks, each time behind a pause.
pub fn ask(whom: SocketAddr, questions: u32, pause: Duration) -> Result<RoundTrips> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(whom)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut trips = RoundTrips::default();
    for question in 0..questions {
        std::thread::sleep(pause);
        let sent = Instant::now();
        socket.send(&question.to_be_bytes())?;
        let mut answer = [0; 4];
        // An answer to an earlier question, which came too late, is not waited for.
        while socket.recv(&mut answer).is_ok() && answer != question.to_be_bytes() {}
        if answer == question.to_be_bytes() && sent.elapsed() < PATIENCE {
            trips.micros.push(sent.elapsed().as_secs_f64() * 1e6);
        } else {
            trips.lost += 1;
        }
    }
    trips.micros.sort_by(f64::total_cmp);
    Ok(trips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_round_trips() {
        let trips = RoundTrips { lost: 0, micros: (1..=200).map(f64::from).collect() };
        let found = [0, 50, 99, 100].map(|percent| trips.percentile(percent));
        assert_eq!(found, [Some(1.0), Some(100.0), Some(198.0), Some(200.0)]);
        assert_eq!(RoundTrips::default().percentile(50), None);
    }

    #[test]
    fn questions_come_back() {
        let at: SocketAddr = "127.0.80.1:39001".parse().expect("an address");
        std::thread::spawn(move || echo(at));
        std::thread::sleep(Duration::from_millis(100));
        let trips = ask(at, 5, Duration::from_millis(1)).expect("round trips");
        assert_eq!((trips.micros.len(), trips.lost), (5, 0));
    }
}
