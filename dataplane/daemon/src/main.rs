//! `turnpike-dataplane`: takes packets from NIC queues through DPDK, and Services from the control plane through shared memory.
//!
//! This program only puts parts together. Its threads are the control thread (the main one), one worker for each core, and the exception
//! thread if a port has a tap:
//!
//! - [`open_io`]: what the configuration names → open queues; one clear error for each thing a host may lack
//! - [`numa`]: where cores and devices are, and packet memory should be
//! - [`exception`] with [`tap`]: the exception thread, between the workers and the host's kernel
//! - [`workers`] with [`idle`] and [`bell`]: the worker threads, around `forward`'s worker
//! - [`control`] with [`conversation`] and [`outbox`]: the control thread, around `forward`'s staging and the shared memory
//! - [`lasting`]: flow tables that outlive this process
//! - [`pages`]: the counter pages
//! - [`query`]: the dataplane's own socket, for `turnpike explain` and its like
//! - [`service_manager`]: what systemd hears of it
//!
//! SIGTERM and SIGINT stop it in order: workers first, then ports, then the shared memory says that nobody is here; a second one ends it at
//! once. The files of the shared memory stay: counters can be read afterwards, and flow tables and next hops are the next start's. Nothing else
//! outlives the process, also not after SIGKILL: locks end with it, packet memory belongs to no file, sockets and taps close.
#![forbid(unsafe_code)]

mod bell;
mod control;
mod conversation;
mod exception;
mod idle;
mod lasting;
mod numa;
mod open_io;
mod outbox;
mod pages;
mod query;
mod service_manager;
mod tap;
mod workers;

use anyhow::{Result, anyhow};
use bell::Bell;
use capsule::{Device, Mbuf, Port};
use clap::Parser;
use control::{Beginning, Control};
use exception::{ExceptionThread, Taps};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lasting::{Found, Lasting, NextHops, Wanted};
use open_io::Io;
use query::{QueryThread, Sources};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tap::TapPlan;
use turnpike_forward::exception::Exception;
use turnpike_forward::gateway::{FlowRules, Gateway, GatewayPort, StaticRoute};
use turnpike_forward::hash::Secret;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::steering::Steering;
use turnpike_forward::trunk::Attachment;
use turnpike_shm::{DataplaneSide, Pages, ShmError};
use turnpike_wire::config::{self, Config, Hugepages};
use turnpike_wire::limits::{EVENT_RING_BYTES, UPDATE_RING_BYTES};
use workers::{Common, Own, Workers};

/// How long a dataplane that was killed may take to end: the kernel gives its memory back first.
const PREDECESSOR_ENDS: Duration = Duration::from_secs(1);
/// Between two looks whether it has.
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// Turnpike's packet path.
#[derive(Parser)]
#[command(name = "turnpike-dataplane", version)]
struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Look whether the configuration can work on this host, and end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("TURNPIKE_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match run(&arguments, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, started: Instant) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    open_io::check(&config.dataplane)?;
    if arguments.check {
        println!("{}: fine for this host", arguments.config.display());
        return Ok(());
    }
    let stop = stop_on_signals().map_err(|why| anyhow!("cannot watch for signals: {why}"))?;
    let folder = config.shm_folder();
    // First, because it also finds another dataplane of this gateway; what the control plane writes from now on waits in the ring.
    let side = attach(&folder)?;
    let mut io = open_io::open(&config.dataplane)?;
    let gateway = gateway(&config, &io)?;
    let pages = pages::create(&folder, &config.dataplane, &io, &gateway)?;
    let wanted = wanted(&config, &gateway);
    let words = random_words().map_err(|why| anyhow!("cannot read /dev/urandom for secrets: {why}"))?;
    let fresh = random_words().map_err(|why| anyhow!("cannot read /dev/urandom for secrets: {why}"))?;
    let lasting = Lasting::take(wanted.clone(), Found::look(&wanted), words);
    let start = lasting.start();
    let shared = Shared::new(gateway);
    lasting.remember(&shared);
    let (making, found) = lasting.into_parts();
    let common = Common {
        eal: io.eal,
        shared: Arc::clone(&shared),
        making,
        fresh: Secret::new(fresh),
        hugepages: config.dataplane.hugepages,
        idle: config.dataplane.idle,
        bells: bells(config.dataplane.workers.len())
            .map_err(|why| anyhow!("cannot make the workers' eventfds: {why}"))?,
        faults: config.dataplane.faults,
    };
    if let Some(faults) = config.dataplane.faults {
        tracing::warn!(
            ?faults,
            "dataplane.faults is set: frames are lost, doubled, reordered or delayed; for tests alone"
        );
    }
    let taps = Taps::make(tap_plans(&config, &io))?;
    let tallies = taps.tallies.clone();
    let (ends, exception) = exception_path(&config, &io, &common, taps)?;
    let mut ends = ends.into_iter();
    let cores = config.dataplane.workers.iter().copied();
    let queues = std::mem::take(&mut io.queues).into_iter();
    let own = cores.zip(queues).zip(pages.workers).zip(found);
    let own =
        own.map(|(((core, queues), page), found)| Own { core, queues, page, exception: ends.next(), found });
    let workers = Workers::start(&common, own.collect())?;
    tracing::info!(
        gateway = config.gateway_name(),
        dpdk = capsule::dpdk_version(),
        workers = config.dataplane.workers.len(),
        ports = config.dataplane.ports.len(),
        devices = io.devices.len(),
        huge_pages = io.huge,
        flows = workers.adoption().kept,
        torn = workers.adoption().torn,
        astray = workers.adoption().astray,
        took_ms = started.elapsed().as_millis() as u64,
        "forwarding; waiting for the control plane"
    );
    let pages_of_ports = pages.ports.into_iter().zip(tallies).map(|(page, tally)| page.with_tap(tally));
    let mut devices: Vec<_> = io.devices.into_iter().map(|device| (device, Vec::new())).collect();
    for (device, page) in io.device_of.into_iter().zip(pages_of_ports) {
        devices[device].1.push(page);
    }
    let next_hops = NextHops::create(&folder, &shared)?;
    let beginning = Beginning { start, adoption: workers.adoption(), started };
    let queries = queries(&config, &common);
    let mut control = Control::new(side, shared, devices, pages.gateway, next_hops, beginning);
    let outcome = control.run(&workers, &stop);
    drop(queries);
    drop(workers);
    drop(exception);
    drop(control);
    outcome?;
    tracing::info!("stopped");
    Ok(())
}

/// The first SIGTERM or SIGINT sets the flag, a second one ends the process.
fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Becomes the gateway's dataplane. One that was killed just now may still be about to end.
fn attach(folder: &Path) -> Result<DataplaneSide, ShmError> {
    let tried = Instant::now();
    loop {
        match DataplaneSide::create(folder, UPDATE_RING_BYTES, EVENT_RING_BYTES) {
            Err(ShmError::Locked { .. }) if tried.elapsed() < PREDECESSOR_ENDS => {
                std::thread::sleep(LOCK_RETRY);
            }
            outcome => return outcome,
        }
    }
}

/// The gateway of the configuration with what its NICs turned out to be.
fn gateway(config: &Config, io: &Io) -> Result<Gateway> {
    let workers = config.dataplane.workers.len();
    let ports = config.dataplane.ports.iter().zip(io.of_ports()).map(|(named, port)| GatewayPort {
        mac: port.info().mac,
        addresses: named.addresses.iter().map(|net| (net.addr(), net.prefix_len())).collect(),
        gateway: named.gateway,
        gateway6: named.gateway6,
        hears_routers: named.router_advertisements,
        routes: named.routes.iter().map(static_route).collect(),
        steering: Steering::of(&port.info().spread, workers),
        mtu: named.mtu.unwrap_or(port.info().mtu),
    });
    let attached = io.device_of.iter().zip(&config.dataplane.ports);
    let attached = attached.map(|(&device, named)| Attachment { device, vlan: named.vlan });
    let gateway =
        Gateway::new(ports.collect(), &config.snat_addresses(), workers)?.attached(attached.collect())?;
    let gateway = gateway.announcing(config.dataplane.announce).with_mss_clamp(config.dataplane.mss_clamp);
    let sources = config.dataplane.dsr.sources.iter().map(|network| (network.addr(), network.prefix_len()));
    Ok(gateway.with_flow_rules(flow_rules(config)).with_tunnel_sources(sources))
}

/// What the configuration binds new flows by.
fn flow_rules(config: &Config) -> FlowRules {
    let config::Dataplane { client_flows_max, snat, .. } = &config.dataplane;
    FlowRules {
        client_flows_max: *client_flows_max,
        excluded_ports: snat.excluded_ports.iter().map(|range| (range.first, range.last)).collect(),
        rest_ms: snat.rest_s * 1_000,
        resting_ports_max: snat.resting_ports_max as usize,
    }
}

/// The taps of the configuration with what its NICs turned out to be.
fn tap_plans(config: &Config, io: &Io) -> Vec<Option<TapPlan>> {
    let plan = |(named, port): (&config::Port, &Port)| {
        Some(TapPlan {
            name: named.exception.clone()?,
            mac: port.info().mac,
            mtu: named.mtu.unwrap_or(port.info().mtu),
            addresses: named.addresses.clone(),
            routes: named
                .routes
                .iter()
                .map(|route| (route.to, route.via))
                .chain(named.gateway.map(|gateway| (IpNet::V4(Ipv4Net::default()), gateway.into())))
                .chain(named.gateway6.map(|gateway| (IpNet::V6(Ipv6Net::default()), gateway.into())))
                .collect(),
            // af_packet takes copies; what other drivers take the kernel never sees.
            below: named
                .device
                .parse::<Device>()
                .ok()
                .filter(|_| port.driver() == "net_af_packet")
                .and_then(|device| device.kernel_interface().map(str::to_owned)),
        })
    };
    config.dataplane.ports.iter().zip(io.of_ports()).map(plan).collect()
}

/// Starts the exception thread, if there is a tap; gives each worker's end of the way to it.
fn exception_path(
    config: &Config,
    io: &Io,
    common: &Common,
    taps: Taps,
) -> Result<(Vec<Exception<Mbuf>>, Option<ExceptionThread>)> {
    let (range, workers) = (config.cluster.node_port_range, &config.dataplane.workers);
    let plan = taps.plan((range.first, range.last), config.listening_ports());
    let Some(plan) = plan else { return Ok((Vec::new(), None)) };
    let (ends, kernel) = turnpike_forward::exception::rings(plan, workers.len(), common.making.secret);
    let thread =
        ExceptionThread::start(taps, kernel, (io.eal, io.pool), (workers, Arc::clone(&common.bells)))
            .map_err(|why| anyhow!("cannot make the exception thread: {why}"))?;
    Ok((ends, Some(thread)))
}

/// The dataplane's own socket. It forwards without one, too.
fn queries(config: &Config, common: &Common) -> Option<QueryThread> {
    let (path, clock) = (config.query_socket(), common.making.clock);
    let sources = Sources {
        shared: Arc::clone(&common.shared),
        secret: common.making.secret,
        ports: config.dataplane.ports.iter().map(|port| port.name.clone()).collect(),
        cores: config.dataplane.workers.clone(),
        folder: config.shm_folder(),
        now_ms: Box::new(move || clock.now_ms()),
    };
    match QueryThread::start(&path, sources) {
        Ok(thread) => Some(thread),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%error, "cannot open {path}, so that explain, trace, capture and flows do not work; set gateway.run_dir to a folder that can be written");
            None
        }
    }
}

/// A bell for each worker.
fn bells(workers: usize) -> std::io::Result<Arc<[Bell]>> {
    (0..workers).map(|_| Bell::new()).collect()
}

/// Words for a secret. Nobody outside can guess it, so nobody can choose packets that collide.
fn random_words() -> std::io::Result<[u64; 4]> {
    let mut bytes = [[0u8; 8]; 4];
    let mut source = std::fs::File::open("/dev/urandom")?;
    for word in &mut bytes {
        source.read_exact(word)?;
    }
    Ok(bytes.map(u64::from_le_bytes))
}

/// What the configuration wants flow tables to be like.
fn wanted(config: &Config, gateway: &Gateway) -> Wanted {
    let config::Dataplane { flows_per_worker, ipv6_flows_per_worker, hugepages, .. } = &config.dataplane;
    Wanted {
        folder: config.shm_folder(),
        workers: config.dataplane.workers.len(),
        flows: *flows_per_worker,
        ipv6_flows: gateway.speaks_ipv6().then(|| ipv6_flows_per_worker.unwrap_or(*flows_per_worker)),
        gateway: lasting::fingerprint(gateway),
        pages: match hugepages {
            Hugepages::Auto => Pages::Auto,
            Hugepages::Require => Pages::Require,
            Hugepages::Never => Pages::Never,
        },
    }
}

fn static_route(route: &turnpike_wire::config::StaticRoute) -> StaticRoute {
    StaticRoute { to: (route.to.network(), route.to.prefix_len()), via: route.via }
}
