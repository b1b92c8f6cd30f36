//! The programs a benchmark starts: etcd, the control plane, the dataplane. Each ends with its value.

use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use turnpike_shm::{ControlView, ShmError, monotonic_ms};
use turnpike_wire::admin::{Reply, Request, Status};
use turnpike_wire::limits::HEARTBEAT_LOST_MS;

/// How long a program may take to be there.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(2);
/// The gateway's name.
const NAME: &str = "bench";

/// A program that ends, without a word, when this is dropped.
#[derive(Debug)]
struct Program {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Program {
    fn start(name: &'static str, mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child =
            command.spawn().with_context(|| format!("cannot start {name}; is it installed or built?"))?;
        Ok(Self { child, name, log })
    }

    /// Waits until something holds, as long as the program runs.
    fn wait<T>(&mut self, what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = found() {
                return Ok(found);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(20).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                bail!(
                    "{}: waited in vain for {what} ({ended:?}); it said last:\n{}",
                    self.name,
                    last.join("\n")
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.child.id());
        Memory::parse(&fs::read_to_string(&path)?).with_context(|| format!("{path} names no memory"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident_bytes: u64,
    /// At most since it started.
    pub peak_bytes: u64,
}

impl Memory {
    /// Reads `/proc/PID/status`.
    fn parse(status: &str) -> Option<Self> {
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        };
        Some(Self { resident_bytes: kib("VmRSS:")? * 1024, peak_bytes: kib("VmHWM:")? * 1024 })
    }
}

/// An etcd whose data is in a folder of its own. It does not wait for the disk: that would measure the disk.
#[derive(Debug)]
pub struct Etcd {
    _program: Program,
    address: SocketAddr,
    _folder: TempDir,
}

impl Etcd {
    /// Starts one on free ports of the loopback.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("turnpike-bench-etcd-").tempdir()?;
        let (address, peer) = (free()?, free()?);
        let mut command = Command::new("etcd");
        command
            .arg(format!("--data-dir={}", folder.path().join("data").display()))
            .arg(format!("--listen-client-urls=http://{address}"))
            .arg(format!("--advertise-client-urls=http://{address}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster=default=http://{peer}"))
            .args(["--unsafe-no-fsync", "--quota-backend-bytes=8000000000"])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        let mut program = Program::start("etcd", command, folder.path().join("log"))?;
        program.wait("its port", || TcpStream::connect(address).ok())?;
        Ok(Self { _program: program, address, _folder: folder })
    }

    /// Where it is asked.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A free port of the loopback.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Where the programs are, how they are configured, and what they leave.
#[derive(Debug)]
pub struct Gateway {
    programs: PathBuf,
    folder: TempDir,
}

impl Gateway {
    /// Configures a gateway that follows that etcd, with one worker on each of these cores and a NIC that never receives.
    pub fn configure(programs: PathBuf, etcd: &Etcd, cores: &[u16]) -> Result<Self> {
        // The shared memory belongs on a tmpfs, and the rest is small.
        let folder = tempfile::Builder::new().prefix("turnpike-bench-").tempdir_in("/dev/shm")?;
        let (dir, endpoint) = (folder.path().display(), etcd.endpoint());
        let (health, metrics) = (free()?, free()?);
        let config = format!(
            r#"
            [gateway]
            name = "{NAME}"
            state_dir = "{dir}/state"
            run_dir = "{dir}/run"
            shm_dir = "{dir}"
            [cluster]
            mode = "kubernetes"
            [etcd]
            endpoints = ["{endpoint}"]
            [health]
            listen = "{health}"
            node_port_addresses = []
            [metrics]
            listen = "{metrics}"
            [dataplane]
            workers = {cores:?}
            flows_per_worker = 65536
            hugepages = "never"
            memory_mb = 64
            [[dataplane.ports]]
            name = "nothing"
            device = "net_null0,no-rx=1"
            addresses = ["192.0.2.1/24"]
            "#
        );
        fs::write(folder.path().join("turnpike.toml"), config)?;
        Ok(Self { programs, folder })
    }

    fn start(&self, name: &'static str) -> Result<Program> {
        let path = self.programs.join(name);
        ensure!(path.exists(), "{} is missing; build it: cargo build --release", path.display());
        let mut command = Command::new(path);
        command.arg("--config").arg(self.folder.path().join("turnpike.toml"));
        Program::start(name, command, self.folder.path().join(format!("{name}.log")))
    }

    /// Starts the dataplane and waits until it works.
    pub fn dataplane(&self) -> Result<Dataplane> {
        let folder = self.folder.path().join(format!("turnpike-{NAME}"));
        // What an earlier one left would be taken for this one's.
        let _ = fs::remove_dir_all(&folder);
        let mut program = self.start("turnpike-dataplane")?;
        let view = program.wait("its shared memory", || match ControlView::open(&folder) {
            Ok(view) => view.dataplane_alive(monotonic_ms(), HEARTBEAT_LOST_MS).then_some(Ok(view)),
            Err(ShmError::Absent { .. } | ShmError::Foreign { .. }) => None,
            Err(error) => Some(Err(error)),
        })??;
        Ok(Dataplane { program, view })
    }

    /// Starts the control plane.
    pub fn control_plane(&self) -> Result<ControlPlane> {
        let socket = self.folder.path().join("run/controlplane.sock");
        Ok(ControlPlane { program: self.start("turnpike-controlplane")?, socket })
    }
}

/// A dataplane that runs.
pub struct Dataplane {
    program: Program,
    view: ControlView,
}

impl Dataplane {
    /// The etcd revision that every worker has adopted.
    #[must_use]
    pub fn adopted(&self) -> i64 {
        self.view.adopted().1
    }

    /// The generation that every worker has adopted.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.view.adopted().0
    }

    /// Waits until every worker has adopted that revision or a later one.
    pub fn wait_adopted(&mut self, revision: i64, look: Duration) -> Result<Instant> {
        let start = Instant::now();
        while self.adopted() < revision {
            let (ended, adopted) = (self.program.child.try_wait()?, self.adopted());
            ensure!(ended.is_none(), "the dataplane ended: {ended:?}");
            ensure!(start.elapsed() < PATIENCE, "revision {revision} is not adopted, {adopted} is");
            std::thread::sleep(look);
        }
        Ok(Instant::now())
    }

    /// Its memory.
    pub fn memory(&self) -> Result<Memory> {
        self.program.memory()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.child.id()
    }
}

/// A control plane that runs.
#[derive(Debug)]
pub struct ControlPlane {
    program: Program,
    socket: PathBuf,
}

impl ControlPlane {
    /// How it says it is.
    pub fn status(&mut self) -> Result<Status> {
        let socket = self.socket.clone();
        let stream = self.program.wait("its socket", || UnixStream::connect(&socket).ok())?;
        match ask(stream, &Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => bail!("the control plane answered {other:?}"),
        }
    }

    /// Its memory.
    pub fn memory(&self) -> Result<Memory> {
        self.program.memory()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.child.id()
    }
}

fn ask(mut stream: UnixStream, request: &Request) -> Result<Reply> {
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    Ok(serde_json::from_str(&reply)?)
}

/// The folder this very program is in, where its siblings are.
pub fn own_folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    Ok(own.parent().map_or_else(PathBuf::new, Path::to_owned))
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(Memory::parse(status), Some(Memory { resident_bytes: 1 << 20, peak_bytes: 2 << 20 }));
        for bad in ["", "VmRSS:\t1 kB\n", "VmRSS:\tmany kB\nVmHWM:\t1 kB\n"] {
            assert_eq!(Memory::parse(bad), None, "{bad:?}");
        }
    }
}
