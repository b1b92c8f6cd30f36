//! The private etcd: one member in the state folder, for gateways that bring no etcd of their own.
//!
//! It listens on the loopback only and takes nobody without a certificate of its own authority, which is made at the first start.

use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tracing::{info, warn};
use turnpike_wire::config::Etcd;

/// How long it may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Attempts to start it when others take its ports.
const STARTS_MAX: u32 = 3;
/// How long it may take to end before it is killed.
const END_LIMIT: Duration = Duration::from_secs(5);
/// A log over this is put aside at the next start.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Longest wait before it is started again after it died.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Most operations of one of its transactions.
const TXN_OPERATIONS_MAX: usize = 100_000;
/// Largest of its requests, in bytes. etcd 3.4 takes larger ones, but at its next start it refuses a log with an entry over 10 MiB.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// A running private etcd.
#[derive(Debug)]
pub struct PrivateEtcd {
    folder: PathBuf,
    ports: (u16, u16),
    child: Child,
    /// Given back by the kernel when this process ends, however it ends.
    _lock: File,
}

impl PrivateEtcd {
    /// Starts it on the data in `state_dir`, and waits until it answers. An etcd that a killed control plane left on that data is ended first.
    pub async fn start(state_dir: &Path) -> Result<Self> {
        let folder = state_dir.join("etcd");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).with_context(|| {
            format!("cannot make {}; set gateway.state_dir to a folder that can be written", folder.display())
        })?;
        // In full, since it tells our etcd from those of other folders.
        let folder =
            fs::canonicalize(&folder).with_context(|| format!("cannot find {}", folder.display()))?;
        let lock = lock(&folder)?;
        end_orphan(&folder).await?;
        if !folder.join("client.pem").exists() {
            make_certificates(&folder).context("cannot make the certificates of the private etcd")?;
        }
        let ports_found = ports(&folder)?;
        let child = spawn(&folder, ports_found)?;
        let mut etcd = Self { folder, ports: ports_found, child, _lock: lock };
        for attempt in 1.. {
            match etcd.wait_until_it_answers().await {
                Ok(()) => break,
                // Somebody was faster at a port that was free a moment ago.
                Err(_) if attempt < STARTS_MAX && etcd.has_ended() && ports(&etcd.folder)? != etcd.ports => {
                    etcd.ports = ports(&etcd.folder)?;
                    etcd.child = spawn(&etcd.folder, etcd.ports)?;
                }
                Err(error) => return Err(error),
            }
        }
        info!(port = etcd.ports.0, "the private etcd answers");
        Ok(etcd)
    }

    /// How to connect to it.
    #[must_use]
    pub fn settings(&self) -> Etcd {
        Etcd {
            endpoints: vec![format!("https://127.0.0.1:{}", self.ports.0)],
            ca_file: Some(self.folder.join("ca.pem")),
            cert_file: Some(self.folder.join("client.pem")),
            key_file: Some(self.folder.join("client.key")),
            user: None,
            password_file: None,
            ..Etcd::default()
        }
    }

    /// Starts it again whenever it dies; ends it when `stop` says so.
    pub async fn look_after(mut self, mut stop: tokio::sync::watch::Receiver<bool>) {
        let mut backoff = Duration::from_millis(100);
        loop {
            let started = Instant::now();
            let ended = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => None,
                ended = self.child.wait() => Some(ended),
            };
            let Some(ended) = ended else { return self.end().await };
            warn!("the private etcd ended ({ended:?}); its log is {}", self.log().display());
            backoff = if started.elapsed() > BACKOFF_MAX {
                Duration::from_millis(100)
            } else {
                (backoff * 2).min(BACKOFF_MAX)
            };
            let stopped = tokio::time::timeout(backoff, stop.wait_for(|stop| *stop)).await.is_ok();
            if stopped {
                return;
            }
            match spawn(&self.folder, self.ports) {
                Ok(child) => self.child = child,
                Err(error) => warn!("{error:#}"),
            }
        }
    }

    async fn end(mut self) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(END_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("etcd.log")
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let connector = super::client::Connector::new(&self.settings())?;
        let end = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for etcd")? {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it says nothing").to_owned();
                bail!(
                    "the private etcd ended at once ({status}); the end of {}: {last}",
                    self.log().display()
                );
            }
            let listens = std::net::TcpStream::connect_timeout(
                &([127, 0, 0, 1], self.ports.0).into(),
                Duration::from_millis(200),
            );
            if listens.is_ok() && connector.connect().await.is_ok() {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "the private etcd does not answer after {START_LIMIT:?}; its log is {}",
                self.log().display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn spawn(folder: &Path, ports: (u16, u16)) -> Result<Child> {
    let log_file = folder.join("etcd.log");
    if fs::metadata(&log_file).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        // The one before goes; failing that, the log grows on.
        let _ = fs::rename(&log_file, folder.join("etcd.log.1"));
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_file);
    let log = log.with_context(|| format!("cannot write {}", log_file.display()))?;
    let (client, peer) = (format!("https://127.0.0.1:{}", ports.0), format!("https://127.0.0.1:{}", ports.1));
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let arguments = [
        ("name", "turnpike".to_owned()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("turnpike={peer}")),
        ("cert-file", file("server.pem")),
        ("key-file", file("server.key")),
        ("trusted-ca-file", file("ca.pem")),
        ("peer-cert-file", file("server.pem")),
        ("peer-key-file", file("server.key")),
        ("peer-trusted-ca-file", file("ca.pem")),
        ("auto-compaction-mode", "revision".to_owned()),
        ("auto-compaction-retention", "10000".to_owned()),
        ("max-txn-ops", TXN_OPERATIONS_MAX.to_string()),
        ("max-request-bytes", REQUEST_BYTES_MAX.to_string()),
        ("logger", "zap".to_owned()),
        ("log-outputs", "stderr".to_owned()),
    ];
    let child = Command::new("etcd")
        .arg(data_argument(folder))
        .args(arguments.iter().map(|(name, value)| format!("--{name}={value}")))
        .args(["--client-cert-auth", "--peer-client-cert-auth"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start etcd; install it (Debian: apt-get install etcd-server), or set etcd.endpoints to an etcd of your own")?;
    Ok(child)
}

/// Keeps other control planes from the same data: they would take our etcd for an orphan.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!(
            "another control plane uses {}; stop it, or give this gateway another gateway.state_dir",
            folder.display()
        )
    })?;
    Ok(file)
}

/// Ends an etcd that works on this data: the lock says that it is no control plane's.
async fn end_orphan(folder: &Path) -> Result<()> {
    let Some(pid) = process_on(folder) else { return Ok(()) };
    info!(pid = pid.as_raw_nonzero(), "ending the etcd that an earlier control plane left");
    let start = Instant::now();
    let _ = kill_process(pid, Signal::TERM);
    while process_on(folder) == Some(pid) {
        if start.elapsed() > END_LIMIT {
            let _ = kill_process(pid, Signal::KILL);
        }
        ensure!(
            start.elapsed() < END_LIMIT * 2,
            "process {} holds {} and does not end; end it by hand",
            pid.as_raw_nonzero(),
            folder.display()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The etcd that works on the data in `folder`, by its command line. One that has ended and is not waited for has none.
fn process_on(folder: &Path) -> Option<Pid> {
    let data = data_argument(folder);
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = command.split(|&byte| byte == 0);
        let is_etcd = words.next()? == b"etcd";
        (is_etcd && words.any(|word| word == data.as_bytes())).then_some(pid)
    })
}

fn data_argument(folder: &Path) -> String {
    format!("--data-dir={}", folder.join("data").display())
}

/// Ports for clients and peers: those of the last start while nobody else has them, else free ones.
fn ports(folder: &Path) -> Result<(u16, u16)> {
    let file = folder.join("ports");
    let known = fs::read_to_string(&file).ok();
    let known = known
        .as_deref()
        .and_then(|t| t.trim().split_once(' '))
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    if let Some(ports) = known.filter(|&(client, peer)| is_free(client) && is_free(peer)) {
        return Ok(ports);
    }
    let free = || TcpListener::bind(("127.0.0.1", 0));
    let (client, peer) =
        (free().context("no free port on 127.0.0.1")?, free().context("no free port on 127.0.0.1")?);
    let ports = (client.local_addr()?.port(), peer.local_addr()?.port());
    fs::write(&file, format!("{} {}\n", ports.0, ports.1))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(ports)
}

/// An authority, and certificates of the server and of its clients.
fn make_certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    write_secret(&folder.join("ca.pem"), &authority.pem())?;
    // The client's certificate comes last: its presence says that all are there.
    for name in ["server", "client"] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        write_secret(&folder.join(format!("{name}.key")), &key.serialize_pem())?;
        write_secret(&folder.join(format!("{name}.pem")), &certificate.pem())?;
    }
    Ok(())
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
