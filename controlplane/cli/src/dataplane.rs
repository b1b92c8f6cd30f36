//! One conversation with the dataplane: a request as a JSON line over its Unix socket, and replies until the last.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use turnpike_wire::config::Config;
use turnpike_wire::dataplane::{REPLY_BYTES_MAX, Reply, Request};

/// How long the dataplane may be silent where an answer is due at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether the user has had enough.
const LOOK: Duration = Duration::from_millis(50);

/// A connected socket.
pub struct Dataplane {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Dataplane {
    /// Connects to the dataplane of a configuration, or says how to start it.
    pub fn connect(config: &Path) -> Result<Self> {
        let path = Config::load(config)?.query_socket();
        let stream = UnixStream::connect(&path).map_err(|error| {
            let mend = match error.kind() {
                ErrorKind::PermissionDenied => "run as the user that runs the dataplane",
                _ => "is turnpike-dataplane running with this configuration? Start it, or everything with: turnpike up",
            };
            anyhow::anyhow!("cannot reach the dataplane at {}: {error}; {mend}", path.display())
        })?;
        stream.set_read_timeout(Some(LOOK)).context("cannot limit the waiting time")?;
        stream.set_write_timeout(Some(PATIENCE)).context("cannot limit the waiting time")?;
        Ok(Self { path, stream: BufReader::new(stream), line: Vec::new() })
    }

    /// One request and its one reply.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.send(request)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(reply) = self.next()? {
                return Ok(reply);
            }
            if Instant::now() >= until {
                bail!("the dataplane at {} does not answer; its log says why", self.path.display());
            }
        }
    }

    /// A request alone.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let lost = |error: std::io::Error| anyhow::anyhow!("{}: {error}; its log says why", self.lost());
        self.stream.get_ref().write_all(&line).map_err(lost)
    }

    /// The next reply; none if there was none for a moment, in which to look at other things.
    pub fn next(&mut self) -> Result<Option<Reply>> {
        let room = (REPLY_BYTES_MAX + 1).saturating_sub(self.line.len()) as u64;
        match self.stream.by_ref().take(room).read_until(b'\n', &mut self.line) {
            Ok(_) if self.line.ends_with(b"\n") => {}
            Ok(_) => bail!("{}; its log says why", self.lost()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(None);
            }
            // As text: a pipe that broke here is a failure, one that broke behind standard output is not.
            Err(error) => bail!("{}: {error}; its log says why", self.lost()),
        }
        let reply = serde_json::from_slice(&self.line)
            .context("the dataplane speaks another language; run the same release of both programs")?;
        self.line.clear();
        match reply {
            Reply::Error { message } => bail!(message),
            reply => Ok(Some(reply)),
        }
    }

    /// Nothing more is wanted: the dataplane says how it ended.
    pub fn enough(&self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    fn lost(&self) -> String {
        format!("the dataplane at {} went away while it was asked", self.path.display())
    }
}
