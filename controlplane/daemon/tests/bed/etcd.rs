//! Real etcds: one the test starts itself, and the private one of a control plane seen from outside.

use super::wait;
use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// An etcd of the test's own, ended with this value.
pub struct Etcd {
    folder: TempDir,
    child: Child,
    address: SocketAddr,
}

impl Etcd {
    /// Starts one without TLS.
    pub fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// Starts one with further arguments; its folder is `DIR` in them.
    pub fn start_with(scheme: &str, arguments: &[&str]) -> Self {
        Self::start_in(
            tempfile::Builder::new().prefix("turnpike-etcd-").tempdir().unwrap(),
            scheme,
            arguments,
        )
    }

    /// The same in a folder that has something in it already.
    pub fn start_in(folder: TempDir, scheme: &str, arguments: &[&str]) -> Self {
        for _ in 0..10 {
            let (client, peer) = (free(), free());
            let mut child = spawn(folder.path(), scheme, arguments, client, peer);
            // Its own log says so; on the port somebody else may answer who was faster.
            let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            wait("etcd to listen or to end", || {
                log().contains("serving ") || child.try_wait().unwrap().is_some()
            });
            if child.try_wait().unwrap().is_none() {
                wait("etcd to answer", || TcpStream::connect(client).is_ok());
                return Self { folder, child, address: client };
            }
            assert!(log().contains("address already in use"), "{}", log());
        }
        panic!("no two ports stay free");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it at once and gives its folder, to copy or to start again.
    pub fn stop(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, TempDir::new().unwrap())
    }

    /// `[etcd]` of a configuration that leads here without TLS.
    pub fn settings(&self) -> String {
        format!("[etcd]\nendpoints = [\"http://{}\"]\n", self.address)
    }

    /// Does something with a connection.
    pub fn with<T>(&self, body: impl AsyncFnOnce(&mut Client) -> T) -> T {
        blocking(async {
            let mut client = Client::connect([format!("http://{}", self.address)], None).await.unwrap();
            body(&mut client).await
        })
    }

    /// Every key and value.
    pub fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        self.with(dump)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, scheme: &str, arguments: &[&str], client: SocketAddr, peer: SocketAddr) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    let dir = folder.display().to_string();
    Command::new("etcd")
        .arg(format!("--data-dir={dir}/data"))
        .args([
            format!("--listen-client-urls={scheme}://{client}"),
            format!("--advertise-client-urls={scheme}://{client}"),
        ])
        .args([
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
        ])
        .arg(format!("--initial-cluster=default=http://{peer}"))
        .args(["--unsafe-no-fsync"])
        .args(arguments.iter().map(|a| a.replace("DIR", &dir)))
        .env("ETCD_UNSUPPORTED_ARCH", "")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("etcd must be installed (Debian: etcd-server)")
}

/// A free port of the loopback.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Runs a future to its end.
pub fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn dump(client: &mut Client) -> BTreeMap<String, Vec<u8>> {
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    all.kvs().iter().map(|kv| (kv.key_str().unwrap().to_owned(), kv.value().to_vec())).collect()
}

/// Process of the private etcd whose control plane lives in `folder`, if it runs.
pub fn private_pid(folder: &Path) -> Option<Pid> {
    let data = folder.join("state/etcd").display().to_string();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        // A process that has ended and was not waited for has no command line any more.
        (command.starts_with("etcd\0") && command.contains(&data)).then(|| Pid::from_raw(pid))?
    })
}

/// Does something with a connection to the private etcd whose control plane lives in `folder`.
pub fn with_private<T>(folder: &Path, body: impl AsyncFnOnce(&mut Client) -> T) -> T {
    let folder = folder.join("state/etcd");
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let ports = fs::read_to_string(folder.join("ports")).unwrap();
    let port = ports.split_whitespace().next().unwrap().to_owned();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")))
        .identity(Identity::from_pem(read("client.pem"), read("client.key")));
    blocking(async {
        let options = ConnectOptions::new().with_tls(tls);
        let mut client = Client::connect([format!("https://127.0.0.1:{port}")], Some(options)).await.unwrap();
        body(&mut client).await
    })
}

/// Every key and value of the private etcd.
pub fn dump_private(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    with_private(folder, dump)
}
