//! The dataplane's own Unix socket: what workers do, asked without the control plane.
//!
//! A thread of its own takes connections and gives each a thread, a bounded number of them; none runs on a worker's core. Requests and replies are
//! JSON lines ([`turnpike_wire::dataplane`]). What only a worker knows it is asked for through `forward`'s mailbox ([`Errands`]); what it sees goes
//! through bounded rings; flows are read from the shared memory that they lie in. No worker waits for anybody here.

mod explain;
mod flows;
mod watch;

use capsule::leave_cores;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use turnpike_forward::explain::{Errand, Task};
use turnpike_forward::hash::Secret;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::watch::Watch as Watching;
use turnpike_wire::dataplane::{REQUEST_BYTES_MAX, Reply, Request};

/// Conversations at the same time; who comes then is told so.
const CONVERSATIONS_MAX: usize = 8;
/// How long a client may be silent between two requests.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take none of what it is sent.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long a worker may take for an errand: it looks every millisecond.
const ERRAND_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks whether a worker has answered.
const ERRAND_REST: Duration = Duration::from_micros(200);
/// Between two looks whether the program ends.
const STOP_PERIOD_MS: i64 = 50;

/// What answers are made from.
pub(crate) struct Sources {
    pub(crate) shared: Arc<Shared>,
    pub(crate) secret: Secret,
    /// Names of the ports, in the order of the gateway's.
    pub(crate) ports: Vec<String>,
    /// Cores of the workers, which these threads leave alone.
    pub(crate) cores: Vec<u16>,
    /// Where the flow tables lie.
    pub(crate) folder: PathBuf,
    /// The workers' clock.
    pub(crate) now_ms: Box<dyn Fn() -> u32 + Send + Sync>,
}

/// Everything that conversations share.
struct Desk {
    sources: Sources,
    errands: Errands,
    stop: AtomicBool,
    conversations: AtomicUsize,
    /// Somebody watches packets: one at a time.
    is_watched: AtomicBool,
    /// Watches that have ended, kept until no worker holds them.
    watches: Mutex<Vec<Arc<Watching>>>,
}

/// The one way to the workers: one errand at a time.
#[derive(Default)]
struct Errands {
    /// Errands that a worker did not let go in time. It may free nothing, so they stay.
    kept: Mutex<Vec<Arc<Errand>>>,
}

/// The running threads. Dropping it stops them and takes the socket away.
pub(crate) struct QueryThread {
    desk: Arc<Desk>,
    path: PathBuf,
    /// Device and inode of the socket that is ours.
    identity: (u64, u64),
    thread: Option<JoinHandle<()>>,
}

impl QueryThread {
    /// Opens the socket, for its owner only, in place of one that an earlier dataplane left, and answers.
    pub(crate) fn start(path: &Path, sources: Sources) -> io::Result<Self> {
        let (listener, identity) = open(path)?;
        let desk = Arc::new(Desk {
            sources,
            errands: Errands::default(),
            stop: AtomicBool::new(false),
            conversations: AtomicUsize::new(0),
            is_watched: AtomicBool::new(false),
            watches: Mutex::default(),
        });
        let serving = Arc::clone(&desk);
        let thread = std::thread::Builder::new().name("query".into()).spawn(move || {
            if let Err(error) = leave_cores(&serving.sources.cores) {
                tracing::warn!(%error, "the query thread shares the workers' cores");
            }
            serve(&listener, &serving);
        })?;
        Ok(Self { desk, path: path.to_owned(), identity, thread: Some(thread) })
    }
}

impl Drop for QueryThread {
    fn drop(&mut self) {
        self.desk.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // A successor may have put its own in place.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
        // Conversations look at `stop` all the time; they have nothing that outlives the program.
        let ends = Instant::now() + WRITE_LIMIT;
        while self.desk.conversations.load(Ordering::Acquire) > 0 && Instant::now() < ends {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Makes the socket under another name and puts it in place, so that nobody ever meets one that is open to others.
fn open(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let new = folder.join(format!(".dataplane.{}.sock", std::process::id()));
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    let found = fs::symlink_metadata(&new)?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    Ok((listener, (found.dev(), found.ino())))
}

fn serve(listener: &UnixListener, desk: &Arc<Desk>) {
    while !desk.stop.load(Ordering::Relaxed) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: STOP_PERIOD_MS * 1_000_000 };
        if !matches!(poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout)), Ok(1..)) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors, most likely: that passes.
            std::thread::sleep(Duration::from_millis(STOP_PERIOD_MS.unsigned_abs()));
            continue;
        };
        let taken = desk.conversations.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(desk));
        let talk = move || {
            if let Err(error) = converse(&stream, &place.0, taken >= CONVERSATIONS_MAX) {
                tracing::debug!("a conversation ended: {error}");
            }
            drop(place);
        };
        if let Err(error) = std::thread::Builder::new().name("query-client".into()).spawn(talk) {
            tracing::debug!("no thread for a conversation: {error}");
        }
    }
}

/// A place among the conversations, given back however one ends.
struct Place(Arc<Desk>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.conversations.fetch_sub(1, Ordering::AcqRel);
    }
}

fn converse(stream: &UnixStream, desk: &Desk, is_too_many: bool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    let mut client = Client { stream, desk };
    if is_too_many {
        return client
            .refuse(format!("{CONVERSATIONS_MAX} programs ask this dataplane already; end one of them"));
    }
    let mut reader = BufReader::new(stream);
    loop {
        let Some(line) = read_line(&mut reader, desk)? else { return Ok(()) };
        if line.len() > REQUEST_BYTES_MAX {
            return client.refuse(format!("a request has at most {REQUEST_BYTES_MAX} bytes"));
        }
        match serde_json::from_slice(&line) {
            Ok(request) => client.answer(request)?,
            Err(error) => client.refuse(format!(
                "this is no request that this dataplane knows: {error}; run the same release of both programs"
            ))?,
        }
    }
}

/// The next line, without more than one byte beyond the limit; none at the end, when the client was silent for too long, or the program ends.
fn read_line(reader: &mut BufReader<&UnixStream>, desk: &Desk) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let until = Instant::now() + READ_LIMIT;
    reader.get_ref().set_read_timeout(Some(Duration::from_millis(STOP_PERIOD_MS.unsigned_abs())))?;
    loop {
        if desk.stop.load(Ordering::Relaxed) || Instant::now() >= until {
            return Ok(None);
        }
        let room = (REQUEST_BYTES_MAX + 1).saturating_sub(line.len()) as u64;
        match reader.by_ref().take(room).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(None),
            Ok(_) if line.ends_with(b"\n") || line.len() > REQUEST_BYTES_MAX => return Ok(Some(line)),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Who asks.
struct Client<'a> {
    stream: &'a UnixStream,
    desk: &'a Desk,
}

impl Client<'_> {
    fn answer(&mut self, request: Request) -> io::Result<()> {
        match request {
            Request::Explain { packet, port } => {
                match explain::explain(&self.desk.sources, &self.desk.errands, packet, port.as_deref()) {
                    Ok(explained) => self.say(&Reply::Explained(Box::new(explained))),
                    Err(message) => self.refuse(message),
                }
            }
            Request::Watch(asked) => self.watch(&asked),
            Request::Flows(query) => self.flows(query),
        }
    }

    fn refuse(&mut self, message: String) -> io::Result<()> {
        self.say(&Reply::Error { message })
    }

    fn say(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }
}

impl Errands {
    /// Has a worker do something and gives its answer through `take`.
    fn run<T>(
        &self,
        shared: &Shared,
        worker: usize,
        task: Task,
        take: impl FnOnce(&Errand) -> Option<T>,
    ) -> Result<T, String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|errand| Arc::strong_count(errand) > 1);
        let errand = Errand::new(worker, task);
        shared.leave(Some(Arc::clone(&errand)));
        let until = Instant::now() + ERRAND_LIMIT;
        while errand.answer().is_none() && Instant::now() < until {
            std::thread::sleep(ERRAND_REST);
        }
        shared.leave(None);
        let answer = take(&errand);
        // Workers may still look at it, and must not be the ones who free it.
        kept.push(errand);
        drop(kept);
        answer.ok_or_else(|| {
            let waited_s = ERRAND_LIMIT.as_secs();
            format!("worker {worker} has not answered for {waited_s} s; is its core taken by something else? turnpike doctor looks")
        })
    }
}

#[cfg(test)]
mod tests;
