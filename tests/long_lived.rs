//! `long-lived`: many connections that stay open while something happens to the gateway, and what became of them. Ends when its standard input
//! does; prints one JSON object.
//!
//! Of each ten connections six ask HTTP requests one after the other, three are silent until the end, and one reads a long answer slowly. Beside them
//! datagrams go to an echo server at a steady rate, from one socket for the stream and from some that ask now and then.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a connection may be without an answer before that counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two requests of a connection.
const PAUSE: Duration = Duration::from_millis(400);
/// Between two pieces of a long answer.
const SIP: Duration = Duration::from_millis(50);
/// Bytes of a piece.
const PIECE: usize = 8 << 10;
/// Between two datagrams of the stream.
const BEAT: Duration = Duration::from_millis(2);
/// Stack of a connection's thread.
const STACK: usize = 256 << 10;
/// Sockets that ask with datagrams now and then.
const ASKERS: usize = 20;

/// Holds connections open.
#[derive(Parser)]
struct Arguments {
    /// An HTTP server.
    http: SocketAddr,
    /// An echo server of datagrams.
    echo: SocketAddr,
    /// How many connections.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// What the slow ones read, and the file it has to be equal to.
    #[arg(long, num_args = 2, value_names = ["PATH", "FILE"])]
    long: Vec<String>,
}

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    open: AtomicU64,
    requests: AtomicU64,
    silent: AtomicU64,
    bytes: AtomicU64,
    corrupted: AtomicU64,
    asked: AtomicU64,
    unanswered: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    fn note(&self, what: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            let mut errors = self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *errors.entry(format!("{what}: {error:#}")).or_default() += 1;
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let [path, file] = arguments.long.as_slice() else { anyhow::bail!("--long wants a path and a file") };
    let wanted = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
    let tally = Tally::default();
    let (http, echo) = (arguments.http, arguments.echo);
    let gaps = std::thread::scope(|scope| -> Result<Gaps> {
        let (tally, wanted) = (&tally, wanted.as_slice());
        for number in 0..arguments.connections {
            let work = move || match number % 10 {
                0..6 => tally.note("requests", ask_again_and_again(http, tally)),
                6..9 => tally.note("silent", stay_silent(http, tally)),
                _ => tally.note("download", read_slowly(http, path, wanted, tally)),
            };
            std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work)?;
        }
        for _ in 0..ASKERS {
            scope.spawn(|| tally.note("datagrams", ask_with_datagrams(echo, tally)));
        }
        let stream = scope.spawn(|| stream(echo, tally));
        // Whoever started this knows by a line that all are open.
        let all = arguments.connections as u64;
        while tally.open.load(Relaxed) < all && tally.errors.lock().is_ok_and(|errors| errors.is_empty()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("open");
        let mut rest = Vec::new();
        std::io::stdin().read_to_end(&mut rest)?;
        tally.stop.store(true, Relaxed);
        stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let errors = tally.errors.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = |counter: AtomicU64| counter.into_inner();
    println!(
        "{}",
        json!({
            "connections": count(tally.open), "requests": count(tally.requests), "silent": count(tally.silent),
            "bytes": count(tally.bytes), "corrupted": count(tally.corrupted), "datagrams": count(tally.asked),
            "unanswered": count(tally.unanswered), "errors": errors,
            "streamed": gaps.sent, "came_back": gaps.back, "gaps_ms": gaps.longest_ms,
        })
    );
    Ok(())
}

fn connected(to: SocketAddr) -> Result<TcpStream> {
    // Many at once meet a full backlog, or a first packet that is lost.
    let stream = TcpStream::connect_timeout(&to, PATIENCE).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request on a connection that stays; the body.
fn request(connection: &mut BufReader<TcpStream>, path: &str) -> Result<String> {
    write!(connection.get_mut(), "GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").context("cannot ask")?;
    let mut body = vec![0; head(connection)?];
    connection.read_exact(&mut body).context("no whole answer")?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Reads the head of an answer; how long its body is.
fn head(connection: &mut BufReader<TcpStream>) -> Result<usize> {
    let mut length = None;
    let mut line = String::new();
    loop {
        line.clear();
        anyhow::ensure!(connection.read_line(&mut line).context("no answer")? > 0, "the connection ended");
        if line.trim_end().is_empty() {
            return length.context("an answer without a length");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse()?);
        }
    }
}

fn ask_again_and_again(to: SocketAddr, tally: &Tally) -> Result<()> {
    let mut connection = BufReader::new(connected(to)?);
    let first = request(&mut connection, "/")?;
    tally.open.fetch_add(1, Relaxed);
    while tally.goes_on() {
        std::thread::sleep(PAUSE);
        let answer = request(&mut connection, "/")?;
        tally.requests.fetch_add(1, Relaxed);
        tally.corrupted.fetch_add(u64::from(answer != first), Relaxed);
    }
    Ok(())
}

fn stay_silent(to: SocketAddr, tally: &Tally) -> Result<()> {
    let mut connection = BufReader::new(connected(to)?);
    let first = request(&mut connection, "/")?;
    tally.open.fetch_add(1, Relaxed);
    while tally.goes_on() {
        std::thread::sleep(SIP);
    }
    let answer = request(&mut connection, "/")?;
    tally.silent.fetch_add(1, Relaxed);
    tally.corrupted.fetch_add(u64::from(answer != first), Relaxed);
    Ok(())
}

/// Reads a long answer as slowly as the test lasts, and what is left of it at the end.
fn read_slowly(to: SocketAddr, path: &str, wanted: &[u8], tally: &Tally) -> Result<()> {
    let mut connection = BufReader::with_capacity(PIECE, connected(to)?);
    let mut is_open = false;
    loop {
        write!(connection.get_mut(), "GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").context("cannot ask")?;
        let length = head(&mut connection)?;
        anyhow::ensure!(length == wanted.len(), "{length} bytes instead of {}", wanted.len());
        if !std::mem::replace(&mut is_open, true) {
            tally.open.fetch_add(1, Relaxed);
        }
        let mut piece = [0; PIECE];
        for wanted in wanted.chunks(PIECE) {
            let piece = &mut piece[..wanted.len()];
            connection.read_exact(piece).context("the answer broke off")?;
            let different = piece.iter().zip(wanted).filter(|(got, wanted)| got != wanted).count();
            tally.corrupted.fetch_add(different as u64, Relaxed);
            tally.bytes.fetch_add(piece.len() as u64, Relaxed);
            if tally.goes_on() {
                std::thread::sleep(SIP);
            }
        }
        if !tally.goes_on() {
            return Ok(());
        }
    }
}

fn socket(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

/// Asks from one port all the time; what is lost is asked again.
fn ask_with_datagrams(to: SocketAddr, tally: &Tally) -> Result<()> {
    let socket = socket(to)?;
    let mut answer = [0; 64];
    for number in 0u64.. {
        let mut tries = 0;
        let question = number.to_be_bytes();
        while tries < 100 {
            tries += 1;
            socket.send(&question).context("cannot send")?;
            let comes_back = |got: usize, answer: &[u8]| answer[..got] == question;
            match std::iter::from_fn(|| socket.recv(&mut answer).ok().map(|got| comes_back(got, &answer)))
                .find(|&back| back)
            {
                Some(_) => break,
                None => std::thread::sleep(BEAT),
            }
        }
        tally.asked.fetch_add(1, Relaxed);
        tally.unanswered.fetch_add(u64::from(tries == 100), Relaxed);
        if !tally.goes_on() {
            break;
        }
        std::thread::sleep(PAUSE / 2);
    }
    Ok(())
}

/// A steady stream of datagrams.
struct Gaps {
    sent: u64,
    back: u64,
    /// Longest times between two that came back, longest first.
    longest_ms: Vec<u64>,
}

fn stream(to: SocketAddr, tally: &Tally) -> Result<Gaps> {
    let socket = socket(to)?;
    let sender = socket.try_clone()?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let mut sent = 0u64;
            let mut due = Instant::now();
            while tally.goes_on() {
                // What the kernel says of datagrams before is no matter here: the gaps are counted.
                let _ = sender.send(&sent.to_be_bytes());
                sent += 1;
                due += BEAT;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            sent
        });
        let (mut back, mut gaps, mut last) = (0, Vec::new(), None::<Instant>);
        let mut bytes = [0; 64];
        while tally.goes_on() {
            if socket.recv(&mut bytes).is_ok() {
                let now = Instant::now();
                back += 1;
                if let Some(last) = last.replace(now) {
                    gaps.push((now - last).as_millis() as u64);
                }
            }
        }
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        gaps.sort_unstable_by(|a, b| b.cmp(a));
        gaps.truncate(64);
        Ok(Gaps { sent, back, longest_ms: gaps })
    })
}
