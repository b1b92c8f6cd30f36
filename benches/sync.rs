//! `sync`: how long it takes from etcd to every worker, with the real programs: a whole cluster, one change of it, a flood of changes.
//!
//! What is adopted is read from the dataplane's shared memory, so measuring does not disturb what is measured; `scripts/bench` builds and
//! starts it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use etcd_client::{Client, Txn, TxnOp};
use serde_json::Value;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use turnpike_benches::cluster::{Cluster, Size};
use turnpike_benches::host::{self, Host};
use turnpike_benches::processes::{ControlPlane, Dataplane, Etcd, Gateway, own_folder};
use turnpike_benches::sync_report::{Cold, Latencies, OneChange, Report, Sustained};

/// How often the adopted revision is read while one change is awaited.
const LOOK: Duration = Duration::from_micros(50);
/// Objects a transaction while the cluster is loaded (etcd's own limit: 128 operations).
const LOAD_BATCH: usize = 100;
/// Changes on their way to etcd at a time.
const IN_FLIGHT_MAX: usize = 512;
/// The flood's clock.
const TICK: Duration = Duration::from_millis(2);

/// From etcd to every worker: a whole cluster, one change, a flood of changes.
#[derive(Parser)]
#[command(name = "sync", version)]
struct Arguments {
    /// Also write the figures to this file; what is in it stays, but for figures of the same names.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer and shorter runs.
    #[arg(long)]
    quick: bool,
    /// Services of the cluster.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    services: u32,
    /// Endpoints of each Service.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    endpoints: u32,
    /// Workers of the dataplane.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    workers: u16,
    /// Starts of the control plane [default: 5, quick: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// Single changes [default: 500, quick: 200].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: Option<u32>,
    /// Changes a second of the flood: more than the goal, for its end is counted as well.
    #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Length of the flood in seconds [default: 15, quick: 10].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: Option<u32>,
    /// Folder of turnpike-controlplane and turnpike-dataplane [default: this program's].
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sync: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let pick = |given: Option<u32>, usual: u32, quick: u32| {
        given.unwrap_or(if arguments.quick { quick } else { usual })
    };
    let cores = capsule::available_cores();
    let first = cores.len().saturating_sub(arguments.workers.into());
    let cores = cores.get(first..).filter(|c| c.len() == usize::from(arguments.workers));
    let cores = cores.context("there are fewer cores than workers; give fewer with --workers")?;
    let mut host = Host::look(cores.last().copied().unwrap_or(0), false);
    let programs = arguments.programs.clone().map_or_else(own_folder, Ok)?;

    let size = Size { services: arguments.services, endpoints: arguments.endpoints };
    let cluster = Cluster::new("/registry", size);
    let etcd = Etcd::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    say(&format!("loading {} Services with {} endpoints each", size.services, size.endpoints));
    let mut client = runtime.block_on(Client::connect([etcd.endpoint()], None))?;
    let revision = runtime.block_on(load(&mut client, &cluster))?;
    let gateway = Gateway::configure(programs, &etcd, cores)?;

    let (mut subject, cold) = cold(&gateway, size, revision, pick(arguments.runs, 5, 2))?;
    let one_change = runtime.block_on(one_change(
        &mut subject,
        &mut client,
        &cluster,
        size,
        pick(arguments.changes, 500, 200),
    ))?;
    let seconds = pick(arguments.seconds, 15, 10);
    let flood = Flood { rate: arguments.rate, seconds };
    let sustained = sustained(&mut subject, &runtime, &client, &cluster, size, flood)?;
    host.load_after = host::load();

    let report = Report { host, size, workers: arguments.workers, cold, one_change, sustained };
    print!("{}", report.text());
    std::io::stdout().flush()?;
    if let Some(file) = &arguments.json {
        let before = fs::read_to_string(file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let mut json = serde_json::to_string_pretty(&report.merged_into(before))?;
        json.push('\n');
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Writes the cluster; the revision behind it.
async fn load(client: &mut Client, cluster: &Cluster) -> Result<i64> {
    let mut revision = 0;
    let mut objects = cluster.objects().peekable();
    while objects.peek().is_some() {
        let puts: Vec<TxnOp> =
            objects.by_ref().take(LOAD_BATCH).map(|(key, value)| TxnOp::put(key, value, None)).collect();
        let answer = client.txn(Txn::new().and_then(puts)).await?;
        revision = answer.header().context("etcd answered without a header")?.revision();
    }
    Ok(revision)
}

/// The programs that are measured.
struct Subject {
    control_plane: ControlPlane,
    dataplane: Dataplane,
}

/// Starts both programs `runs` times; the last ones go on.
fn cold(gateway: &Gateway, size: Size, revision: i64, runs: u32) -> Result<(Subject, Cold)> {
    let mut times = Vec::new();
    let mut subject = None;
    for n in 1..=runs {
        say(&format!("start {n} of {runs}"));
        drop(subject.take());
        let mut dataplane = gateway.dataplane()?;
        let start = Instant::now();
        let mut control_plane = gateway.control_plane()?;
        let adopted = dataplane.wait_adopted(revision, LOOK)?;
        times.push(adopted - start);
        let objects = control_plane.status()?.objects;
        let (services, backends) = (u64::from(size.services), u64::from(size.services * size.endpoints));
        ensure!(
            (objects.services, objects.backends, objects.skipped.len()) == (services, backends, 0),
            "the control plane has made {} Services, {} backends and {} problems of {services} and {backends}",
            objects.services,
            objects.backends,
            objects.skipped.len()
        );
        subject = Some(Subject { control_plane, dataplane });
    }
    let subject = subject.context("no run")?;
    let (control_plane, dataplane) = (subject.control_plane.memory()?, subject.dataplane.memory()?);
    say(&format!("control plane {}, dataplane {}", subject.control_plane.pid(), subject.dataplane.pid()));
    Ok((subject, Cold { times, control_plane, dataplane }))
}

/// Changes one endpoint after the other, each when the one before is adopted.
async fn one_change(
    subject: &mut Subject,
    client: &mut Client,
    cluster: &Cluster,
    size: Size,
    changes: u32,
) -> Result<OneChange> {
    say(&format!("{changes} single changes"));
    let (mut sent_to_adopted, mut committed_to_adopted) = (Latencies::default(), Latencies::default());
    for n in 1..=changes {
        let (key, value) = cluster.slice(n.wrapping_mul(7_919) % size.services, n);
        let sent = Instant::now();
        let answer = client.put(key, value, None).await?;
        let committed = Instant::now();
        let revision = answer.header().context("etcd answered without a header")?.revision();
        let adopted = subject.dataplane.wait_adopted(revision, LOOK)?;
        sent_to_adopted.push(adopted - sent);
        committed_to_adopted.push(adopted.saturating_duration_since(committed));
        // Changes come out of the blue: neither side is awake for the next.
        tokio::time::sleep(Duration::from_millis(u64::from(5 + n % 23))).await;
    }
    Ok(OneChange { sent_to_adopted, committed_to_adopted })
}

/// How much, how long.
#[derive(Clone, Copy)]
struct Flood {
    rate: u32,
    seconds: u32,
}

/// A change that etcd has taken.
struct Committed {
    revision: i64,
    sent: Instant,
}

/// Changes endpoints at a steady rate, whatever becomes of them.
fn sustained(
    subject: &mut Subject,
    runtime: &Runtime,
    client: &Client,
    cluster: &Cluster,
    size: Size,
    flood: Flood,
) -> Result<Sustained> {
    let total = flood.rate * flood.seconds;
    say(&format!("{} changes a second for {} s", flood.rate, flood.seconds));
    let before = subject.control_plane.status()?;
    let generation_before = subject.dataplane.generation();
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut puts = tokio::task::JoinSet::new();
    let ended = AtomicBool::new(false);
    let dataplane = &subject.dataplane;
    let (committed, elapsed, backlog, adoptions) = std::thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| watch(dataplane, &ended));
        let start = Instant::now();
        let writing = async {
            let mut sent = 0;
            while sent < total {
                let due = (start.elapsed().as_secs_f64() * f64::from(flood.rate)) as u32;
                for n in sent..due.min(total) {
                    // 1009 is prime, so that neighbours in time are no neighbours in the cluster.
                    let (key, value) = cluster.slice(n.wrapping_mul(1_009) % size.services, 10_000 + n);
                    let place = places.clone().acquire_owned().await?;
                    let mut client = client.clone();
                    puts.spawn(async move {
                        let sent = Instant::now();
                        let answer = client.put(key, value, None).await?;
                        drop(place);
                        let revision = answer.header().context("etcd answered without a header")?.revision();
                        anyhow::Ok(Committed { revision, sent })
                    });
                }
                sent = sent.max(due.min(total));
                tokio::time::sleep(TICK).await;
            }
            let mut committed = Vec::new();
            while let Some(put) = puts.join_next().await {
                committed.push(put??);
            }
            anyhow::Ok(committed)
        };
        let committed = runtime.block_on(writing);
        let elapsed = start.elapsed();
        let last = committed.as_ref().map_or(0, |c| c.iter().map(|c| c.revision).max().unwrap_or(0));
        let backlog = last - dataplane.adopted();
        let drained = Instant::now();
        while committed.is_ok() && dataplane.adopted() < last && drained.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(LOOK);
        }
        ended.store(true, Ordering::Relaxed);
        let adoptions = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        Ok((committed?, elapsed, backlog, adoptions))
    })?;
    let last = committed.iter().map(|c| c.revision).max().unwrap_or(0);
    let adopted = subject.dataplane.adopted();
    ensure!(
        adopted >= last,
        "the flood is over and revision {adopted} of {last} is adopted: the ring is wedged"
    );
    let after = subject.control_plane.status()?;
    ensure!(
        (after.dataplane.snapshots, after.dataplane.refused, after.etcd.relists)
            == (before.dataplane.snapshots, before.dataplane.refused, before.etcd.relists),
        "the flood made snapshots, refusals or new lists: {after:?}"
    );
    let mut latencies = Latencies::default();
    for change in &committed {
        let at = adoptions.partition_point(|(revision, _)| *revision < change.revision);
        let (_, adopted) = adoptions.get(at).context("a change was adopted that nobody saw")?;
        latencies.push(adopted.saturating_duration_since(change.sent));
    }
    Ok(Sustained {
        changes: committed.len(),
        elapsed,
        backlog: backlog.max(0),
        transactions: subject.dataplane.generation() - generation_before,
        sent_to_adopted: latencies,
        control_plane: subject.control_plane.memory()?,
        dataplane: subject.dataplane.memory()?,
    })
}

/// When each revision was adopted.
fn watch(dataplane: &Dataplane, ended: &AtomicBool) -> Vec<(i64, Instant)> {
    let mut adoptions = Vec::new();
    let mut last = 0;
    loop {
        // Asked before the look: what was adopted until the end is seen.
        let is_over = ended.load(Ordering::Relaxed);
        let revision = dataplane.adopted();
        if revision > last {
            last = revision;
            adoptions.push((revision, Instant::now()));
        }
        if is_over {
            return adoptions;
        }
        std::thread::sleep(LOOK);
    }
}

/// Says what goes on, if somebody watches.
fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}
