//! One conversation with the control plane: requests and replies as JSON lines over its Unix socket.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use turnpike_wire::admin::{LINE_BYTES_MAX, Reply, Request};

/// How long the control plane may think; an apply of thousands of objects takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connected socket.
pub struct Socket {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Socket {
    /// Connects, or says how to start the other end.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let mend = match error.kind() {
                ErrorKind::PermissionDenied => "run as the user that runs the control plane",
                _ => "is turnpike-controlplane running with this configuration? Start it, or everything with: turnpike up",
            };
            anyhow::anyhow!("cannot reach the control plane at {}: {error}; {mend}", path.display())
        })?;
        stream.set_read_timeout(Some(PATIENCE)).context("cannot limit the waiting time")?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// One exchange.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        let talk = || format!("the control plane at {} went away while it was asked", self.path.display());
        // As text: a pipe that broke here is a failure, one that broke behind standard output is not.
        let lost = |error: std::io::Error| anyhow::anyhow!("{}: {error}; its log says why", talk());
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        ensure!(
            line.len() <= LINE_BYTES_MAX,
            "the request has {} bytes, over the limit of {LINE_BYTES_MAX}; send it in parts",
            line.len()
        );
        self.stream.get_mut().write_all(&line).map_err(lost)?;
        let mut answer = String::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        self.stream.by_ref().take(limit).read_line(&mut answer).map_err(lost)?;
        if answer.is_empty() {
            bail!("{}; its log says why", talk());
        }
        serde_json::from_str(&answer)
            .context("the control plane speaks another language; run the same release of both programs")
    }
}
