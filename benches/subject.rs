//! The subject: the worker loop that production runs, on a port made of software rings in this process.
//!
//! One thread, pinned and known to DPDK, is generator, worker and sink in turn. It writes the headers of a chunk of frames and puts them on
//! the receive ring; then, timed, the worker turns until the ring is drained; then it takes the frames off the transmit ring, counts them,
//! and uses them again. The frames are few, so that their own cache lines do not hide those of the flow table.

use crate::frames::{FRAME, INITIAL_SEQUENCE, MAC, ROUTER_MAC, Traffic, VIP, client, flight};
use anyhow::{Context, Result, anyhow, bail, ensure};
use capsule::{
    Eal, EalConfig, Mbuf, Memory, Mempool, Port, PortConfig, Queue, RingConsumer, RingProducer, ring,
};
use rustix::time::{ClockId, clock_gettime};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use turnpike_forward::flow_key::FlowKey;
use turnpike_forward::flow_table::FlowTable;
use turnpike_forward::gateway::{Gateway, GatewayPort};
use turnpike_forward::handoff::Handoff;
use turnpike_forward::hash::{Random, Secret};
use turnpike_forward::mailbox::Shared;
use turnpike_forward::neighbour::NextHop;
use turnpike_forward::stage::Staging;
use turnpike_forward::steering::Steering;
use turnpike_forward::verdict::{Counters, Tally, Verdict};
use turnpike_forward::worker::Worker;
use turnpike_packet::flight::{Flight, check, ends};
use turnpike_packet::io::{BURST, Burst, Frame, Spread};
use turnpike_packet::tcp::{self, flags};
use turnpike_shm::{HugeMemory, PageKind, Pages};
use turnpike_wire::update::{
    Backend, BackendState, Commit, Fleet, Frontend, FrontendKey, FrontendKind, Protocol, Service, ServiceKey,
    Tracking, Treatment, Update,
};

/// Frames between two looks at the clock.
pub const CHUNK: usize = 4 * BURST;
/// Backends of the Service.
pub const BACKENDS: u8 = 10;
/// SNAT addresses: enough that a million flows leave most ports free.
pub const SNAT_ADDRESSES: u8 = 8;
/// Frame buffers: a chunk, a burst, and what DPDK keeps in its cache.
const MBUFS: u32 = 511;
const RING_SLOTS: u32 = 512;
const EAL_MB: u32 = 64;
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// One number of live flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name, e.g. `established/1k`.
    pub name: String,
    /// Flows that are live.
    pub flows: u32,
}

/// What a run is timed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The wall, and the thread's CPU time beside it.
    WallAndCpu,
    /// The wall alone: valgrind cannot run the look at the other one.
    Wall,
}

impl Clock {
    /// CPU time of the calling thread.
    fn thread_cpu(self) -> Option<Duration> {
        match self {
            Self::WallAndCpu => {
                let time = clock_gettime(ClockId::ThreadCPUTime);
                Some(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
            }
            Self::Wall => None,
        }
    }
}

/// What a scenario's flow table turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Bytes of the flow table, index included.
    pub table_bytes: usize,
    /// Its pages.
    pub pages: PageKind,
}

/// One short run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubjectRun {
    /// Packets forwarded.
    pub packets: u64,
    /// Time of the timed turns by the wall, a packet.
    pub wall_ns_per_packet: f64,
    /// The same without the time the thread was not running.
    pub cpu_ns_per_packet: f64,
    /// Timed turns.
    pub turns: u64,
    /// Packets with any other verdict; a run with one is an error.
    pub dropped: u64,
}

/// The thread of the subject, ready to run any of its scenarios.
#[derive(Debug)]
pub struct Subject {
    requests: Sender<(usize, Duration)>,
    outcomes: Receiver<Result<SubjectRun>>,
    prepared: Vec<Prepared>,
}

impl Subject {
    /// Makes port, tables and flows of all scenarios, on `core`. `huge`: memory of huge pages.
    pub fn start(core: u16, huge: bool, scenarios: Vec<Scenario>, clock: Clock) -> Result<Self> {
        let (requests, todo) = channel();
        let (tell, outcomes) = channel();
        let (ready, is_ready) = channel();
        std::thread::Builder::new().name("subject".into()).spawn(move || {
            if let Err(error) = work(core, huge, &scenarios, clock, &todo, &tell, &ready) {
                let _ = ready.send(Err(error));
            }
        })?;
        let prepared = is_ready.recv().unwrap_or_else(|_| Err(anyhow!("the subject's thread ended")))?;
        Ok(Self { requests, outcomes, prepared })
    }

    /// Flow tables of the scenarios, in their order.
    #[must_use]
    pub fn prepared(&self) -> &[Prepared] {
        &self.prepared
    }

    /// Runs a scenario until its timed turns sum up to `time`.
    pub fn run(&self, scenario: usize, time: Duration) -> Result<SubjectRun> {
        self.requests.send((scenario, time)).ok().context("the subject's thread has ended")?;
        self.outcomes.recv().context("the subject's thread has ended")?
    }
}

/// The life of the subject's thread.
fn work(
    core: u16,
    huge: bool,
    scenarios: &[Scenario],
    clock: Clock,
    todo: &Receiver<(usize, Duration)>,
    tell: &Sender<Result<SubjectRun>>,
    ready: &Sender<Result<Vec<Prepared>>>,
) -> Result<()> {
    let memory = if huge { Memory::Huge { mb: EAL_MB } } else { Memory::Ordinary { mb: EAL_MB } };
    let eal = Eal::start(&EalConfig { memory, pci: Vec::new() })?;
    capsule::pin_to_core(core)?;
    let _registered = capsule::register_thread(eal)?;
    let pages = if huge { Pages::Require } else { Pages::Never };
    let mut memories = Vec::new();
    for scenario in scenarios {
        memories.push(HugeMemory::new(FlowTable::<FlowKey>::memory_bytes(scenario.flows), pages)?);
    }
    let prepared =
        memories.iter().map(|m| Prepared { table_bytes: m.bytes().len(), pages: m.pages() }).collect();

    let mut line = Line::new(eal)?;
    let mut beds = Vec::new();
    for (scenario, memory) in scenarios.iter().zip(&mut memories) {
        let bed = Bed::new(scenario.flows, memory.bytes_mut(), &mut line);
        beds.push(bed.with_context(|| format!("making the flows of {}", scenario.name))?);
    }
    line.fill_frames()?;
    let _ = ready.send(Ok(prepared));
    while let Ok((scenario, time)) = todo.recv() {
        let outcome = match beds.get_mut(scenario) {
            Some(bed) => bed.run(&mut line, time, clock).with_context(|| scenarios[scenario].name.clone()),
            None => Err(anyhow!("there is no scenario {scenario}")),
        };
        if tell.send(outcome).is_err() {
            break;
        }
    }
    Ok(())
}

/// The port, and the outer ends of its rings.
struct Line {
    queues: Vec<Queue>,
    feed: RingProducer,
    sink: RingConsumer,
    pool: Mempool,
    /// The frames of a chunk, while they are on no ring.
    frames: [Burst<Mbuf>; CHUNK / BURST],
    _port: Port,
}

impl Line {
    fn new(eal: Eal) -> Result<Self> {
        let pool = Mempool::new(eal, MBUFS, Mempool::DATA_ROOM)?;
        let (feed, receive) = ring(eal, RING_SLOTS)?;
        let (send, sink) = ring(eal, RING_SLOTS)?;
        let (port, queues) = Port::from_rings(eal, vec![(receive, send)], &PortConfig::default(), pool)?;
        Ok(Self { queues, feed, sink, pool, frames: Default::default(), _port: port })
    }

    fn fill_frames(&mut self) -> Result<()> {
        for burst in &mut self.frames {
            while !burst.is_full() {
                burst.push(self.pool.alloc(&[0; FRAME]).context("too few frame buffers")?);
            }
        }
        Ok(())
    }

    /// Puts a burst on the receive ring.
    fn feed(&mut self, burst: &mut Burst<Mbuf>) -> Result<()> {
        self.feed.enqueue(burst);
        ensure!(burst.is_empty(), "the receive ring is full");
        Ok(())
    }
}

/// A worker with its live flows and the traffic of them.
struct Bed<'m> {
    worker: Worker<'m, Mbuf>,
    shared: Arc<Shared>,
    traffic: Traffic,
    started: Instant,
}

impl<'m> Bed<'m> {
    fn new(flows: u32, memory: &'m mut [u8], line: &mut Line) -> Result<Self> {
        let secret = Secret::new([0x7475_726e, 0x7069_6b65, 0x6265_6e63, 0x6865_7321]);
        let port = GatewayPort {
            mac: MAC,
            addresses: vec![(Ipv4Addr::new(192, 0, 2, 1).into(), 24)],
            gateway: Some(ROUTER),
            gateway6: None,
            hears_routers: false,
            routes: vec![],
            steering: Steering::of(&Spread::Unknown, 1),
            mtu: 1500,
        };
        let snat: Vec<IpAddr> = (1..=SNAT_ADDRESSES).map(|n| Ipv4Addr::new(10, 1, 0, n).into()).collect();
        let shared = Shared::new(Gateway::new(vec![port], &snat, 1)?);
        let mut staging = Staging::new();
        let mut tables = None;
        for update in service() {
            tables = staging.take(update);
        }
        let tables = tables.context("the Service was not committed")?;
        shared.publish(tables.map_err(|refusal| anyhow!("the Service was refused: {refusal:?}"))?);
        let table = FlowTable::new(memory, flows, secret)?;
        let handoff = Handoff::mesh(1).pop().context("no hand-off rings")?;
        let worker = Worker::new(0, Arc::clone(&shared), table, handoff, secret);
        let no_traffic = Traffic::new(&[flight(client(0), VIP)], Random::new(&secret, 0));
        let traffic = no_traffic.context("a frame has another length than planned")?;
        let mut bed = Self { worker, shared, traffic, started: Instant::now() };
        let flights = bed.open(flows, line)?;
        ensure!(bed.worker.flows().v4.live() == flows, "{} flows are live", bed.worker.flows().v4.live());
        bed.traffic = Traffic::new(&flights, Random::new(&secret, 1)).context("no flows, no traffic")?;
        Ok(bed)
    }

    /// Opens the flows as clients and backends do, by the three segments of a handshake, and gives the flights of both directions of each.
    fn open(&mut self, flows: u32, line: &mut Line) -> Result<Vec<Flight>> {
        let mut flights = Vec::with_capacity(flows as usize * 2);
        let all: Vec<u32> = (0..flows).collect();
        for numbers in all.chunks(BURST) {
            let there: Vec<Flight> = numbers.iter().map(|&n| flight(client(n), VIP)).collect();
            let arrived = self.exchange(line, &there, flags::SYN)?;
            let back: Vec<Flight> = arrived.iter().map(|&(snat, backend)| flight(backend, snat)).collect();
            let answered = self.exchange(line, &back, flags::SYN | flags::ACK)?;
            for (forward, ends) in there.iter().zip(answered) {
                ensure!(ends == (VIP, forward.source), "an answer went from {} to {}", ends.0, ends.1);
            }
            self.exchange(line, &there, flags::ACK)?;
            flights.extend(there);
            flights.extend(back);
        }
        Ok(flights)
    }

    /// Sends one segment of each flight through the worker, and gives the ends that the frames left with, in the same order.
    fn exchange(
        &mut self,
        line: &mut Line,
        flights: &[Flight],
        tcp_flags: u8,
    ) -> Result<Vec<(SocketAddr, SocketAddr)>> {
        let mut burst = Burst::new();
        for flight in flights {
            let acknowledged = if tcp_flags & flags::ACK == 0 { 0 } else { INITIAL_SEQUENCE + 1 };
            let sequence = if tcp_flags & flags::SYN == 0 { INITIAL_SEQUENCE + 1 } else { INITIAL_SEQUENCE };
            let frame = tcp::segment(flight, sequence, acknowledged, tcp_flags, &[]);
            burst.push(line.pool.alloc(&frame).context("too few frame buffers")?);
        }
        self.know_router();
        line.feed(&mut burst)?;
        self.worker.turn(&mut line.queues, self.now_ms());
        line.sink.dequeue(&mut burst);
        ensure!(
            burst.len() == flights.len(),
            "{} of {} left: {}",
            burst.len(),
            flights.len(),
            self.verdicts()
        );
        burst.iter().map(|frame| ends(frame.data()).context("a frame left too short")).collect()
    }

    /// The router answers ARP, as one does at least every half minute.
    fn know_router(&self) {
        let router = NextHop { port: 0, address: ROUTER.into() };
        if self.shared.neighbours.index(router).is_some() {
            self.shared.neighbours.learn(router, ROUTER_MAC, self.now_ms());
        }
    }

    fn now_ms(&self) -> u32 {
        self.started.elapsed().as_millis() as u32
    }

    /// Every verdict but the good one that some packet got, for errors.
    fn verdicts(&self) -> String {
        let counters = self.worker.counters();
        let bad = Verdict::ALL.iter().filter(|&&v| v != Verdict::Forwarded && counters.verdict(v) > 0);
        bad.map(|&v| format!("{} {}", v.name(), counters.verdict(v))).collect::<Vec<_>>().join(", ")
    }

    fn run(&mut self, line: &mut Line, time: Duration, clock: Clock) -> Result<SubjectRun> {
        self.know_router();
        let before = self.worker.counters().clone();
        let (mut wall, mut cpu) = (Duration::ZERO, Duration::ZERO);
        let (mut packets, mut turns) = (0, 0);
        while wall < time {
            self.put_chunk(line)?;
            let now_ms = self.now_ms();
            let mut handled = 0;
            let cpu_start = clock.thread_cpu();
            let wall_start = Instant::now();
            while handled < CHUNK {
                let some = self.worker.turn(&mut line.queues, now_ms);
                if some == 0 {
                    break;
                }
                handled += some;
                turns += 1;
            }
            let elapsed = wall_start.elapsed();
            let on_cpu = match (cpu_start, clock.thread_cpu()) {
                (Some(start), Some(end)) => end.saturating_sub(start),
                _ => elapsed,
            };
            wall += elapsed;
            // The CPU clock is read by a system call of its own, so an undisturbed chunk shows as a little more CPU time than time.
            cpu += elapsed.min(on_cpu);
            packets += self.take_chunk(line)?;
        }
        for frame in line.frames.iter().flatten() {
            check(frame.data())?;
        }
        let dropped = dropped(&before, self.worker.counters());
        if dropped > 0 {
            bail!("{dropped} of {packets} packets were not forwarded: {}", self.verdicts());
        }
        let a_packet = |time: Duration| time.as_nanos() as f64 / packets as f64;
        Ok(SubjectRun {
            packets,
            wall_ns_per_packet: a_packet(wall),
            cpu_ns_per_packet: a_packet(cpu),
            turns,
            dropped,
        })
    }

    /// Writes the next segments into the frames of a chunk and puts them on the receive ring.
    fn put_chunk(&mut self, line: &mut Line) -> Result<()> {
        let mut frames = std::mem::take(&mut line.frames);
        for burst in &mut frames {
            for frame in burst.iter_mut() {
                let bytes = frame.data_mut().first_chunk_mut().context("a frame got shorter")?;
                self.traffic.write_next(bytes);
            }
            line.feed(burst)?;
        }
        Ok(())
    }

    /// Takes a chunk off the transmit ring; it must be whole.
    fn take_chunk(&self, line: &mut Line) -> Result<u64> {
        for burst in &mut line.frames {
            while !burst.is_full() {
                if line.sink.dequeue(burst) == 0 {
                    bail!("a chunk of {CHUNK} packets did not come back whole: {}", self.verdicts());
                }
            }
        }
        Ok(CHUNK as u64)
    }
}

/// Packets between two looks at the counters that were not forwarded, and flows that were made or lost meanwhile.
fn dropped(before: &Counters, after: &Counters) -> u64 {
    let verdicts = Verdict::ALL.iter().filter(|&&v| v != Verdict::Forwarded);
    let others: u64 = verdicts.map(|&v| after.verdict(v) - before.verdict(v)).sum();
    let flows: u64 =
        [Tally::FlowsOpened, Tally::FlowsClosed].iter().map(|&t| after.tally(t) - before.tally(t)).sum();
    let received = after.tally(Tally::RxPackets) - before.tally(Tally::RxPackets);
    let forwarded = after.verdict(Verdict::Forwarded) - before.verdict(Verdict::Forwarded);
    others + flows + received.abs_diff(forwarded)
}

/// One Service of [`BACKENDS`] backends behind [`VIP`].
fn service() -> Vec<Update> {
    let key = ServiceKey("default/bench:http/TCP".into());
    let mut updates = vec![
        Update::Reset,
        Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) }),
        Update::PutService(Service {
            key: key.clone(),
            affinity_timeout_s: 0,
            source_ranges: vec![],
            tracking: Tracking::default(),
            proxy_protocol: false,
        }),
    ];
    for n in 1..=BACKENDS {
        let address = SocketAddr::from(([10, 244, 0, n], 8080));
        updates.push(Update::PutBackend(
            key.clone(),
            Backend {
                address,
                weight: 1,
                state: BackendState::Ready,
                in_cluster_set: true,
                in_local_set: true,
                serving: true,
            },
        ));
    }
    updates.push(Update::PutFrontend(Frontend {
        key: FrontendKey { address: VIP.ip(), port: VIP.port(), protocol: Protocol::Tcp },
        service: key,
        kind: FrontendKind::LoadBalancer,
        outside: Treatment::FORWARD,
        inside: Treatment::FORWARD,
    }));
    let records = updates.len() as u64;
    updates.push(Update::Commit(Commit { generation: 1, revision: 1, records }));
    updates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_live_and_every_packet_of_a_run_is_forwarded_and_counted() {
        let scenarios = [("established/1", 1), ("established/100", 100)]
            .map(|(name, flows)| Scenario { name: name.into(), flows });
        let core = *capsule::available_cores().last().unwrap();
        let subject = Subject::start(core, false, scenarios.to_vec(), Clock::WallAndCpu).unwrap();
        assert_eq!(subject.prepared()[1].pages, PageKind::Ordinary);
        assert_eq!(subject.prepared()[1].table_bytes, FlowTable::<FlowKey>::memory_bytes(100));
        for scenario in [0, 1, 0] {
            let run = subject.run(scenario, Duration::from_millis(5)).unwrap();
            assert_eq!((run.packets % CHUNK as u64, run.dropped), (0, 0));
            assert_eq!(run.turns, run.packets / BURST as u64, "every turn has a full burst");
            assert!(run.cpu_ns_per_packet > 0.0 && run.cpu_ns_per_packet <= run.wall_ns_per_packet);
            let timed_ms = run.wall_ns_per_packet * run.packets as f64 / 1e6;
            assert!(timed_ms >= 5.0, "{timed_ms} ms were timed");
        }
        assert!(subject.run(2, Duration::from_millis(5)).is_err());
    }

    #[test]
    fn anything_but_forwarding_counts_as_dropped() {
        let before = Counters::default();
        let mut after = before.clone();
        after.add(Tally::RxPackets, 10);
        after.count_many(Verdict::Forwarded, 10);
        assert_eq!(dropped(&before, &after), 0);
        after.count(Verdict::TxFull);
        assert_eq!(dropped(&before, &after), 1);
        after.add(Tally::FlowsClosed, 1);
        assert_eq!(dropped(&before, &after), 2);
        after.add(Tally::RxPackets, 1);
        assert_eq!(dropped(&before, &after), 3);
    }
}
