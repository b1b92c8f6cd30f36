//! A bed: a production worker with its live flows, and the packets of them.

use crate::clients::Clients;
use crate::frames::{Deck, Ends, Template};
use crate::line::{CHUNK, Line};
use crate::world::{ROUTER_MAC, SECRET, World, flight};
use anyhow::{Context, Result, anyhow, bail, ensure};
use capsule::{Mbuf, Queue};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnpike_forward::address::Family;
use turnpike_forward::flow_key::{FlowKey, FlowKey6};
use turnpike_forward::flow_table::FlowTable;
use turnpike_forward::gateway::Gateway;
use turnpike_forward::handoff::Handoff;
use turnpike_forward::hash::{Random, scale};
use turnpike_forward::limits::ANNOUNCE_AGAIN_MS;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::stage::Staging;
use turnpike_forward::verdict::{Counters, Tally, Verdict};
use turnpike_forward::worker::Worker;
use turnpike_packet::ipv4;
use turnpike_packet::tcp::flags;
use turnpike_shm::PageKind;

/// What a bed is made of. Scenarios with equal plans share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BedPlan {
    /// Services and family.
    pub world: World,
    /// Who opens the flows.
    pub clients: Clients,
    /// Flows that are live all the time.
    pub flows: u32,
    /// Flows that there is room for beside them.
    pub room: u32,
    /// How many of a hundred flows are UDP.
    pub udp_percent: u32,
}

impl BedPlan {
    /// Bytes of its flow table, index included.
    #[must_use]
    pub const fn table_bytes(&self) -> usize {
        match self.world.family {
            Family::V4 => FlowTable::<FlowKey>::memory_bytes(self.flows + self.room),
            Family::V6 => FlowTable::<FlowKey6>::memory_bytes(self.flows + self.room),
        }
    }

    /// Bytes that it wants for all its flow tables: a worker with flows of IPv6 has a table for IPv4 too, here one for a single flow.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        match self.world.family {
            Family::V4 => self.table_bytes(),
            Family::V6 => self.table_bytes() + FlowTable::<FlowKey>::memory_bytes(1),
        }
    }
}

/// How long a run is, and what its worker's clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// So much time in timed turns.
    Time(Duration),
    /// So many packets, under a clock that goes on with them: the same instructions in each run.
    Packets(u64),
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

/// What a bed's memory turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Bytes of the flow table, index included.
    pub table_bytes: usize,
    /// Bytes that the process grew by for worker and Services, with everything beside the table that they keep for flows.
    pub resident_bytes: usize,
    /// The table's pages.
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
    /// Changes of endpoints that were published meanwhile, a second.
    pub changes_per_second: Option<f64>,
}

/// What timed turns have taken so far.
#[derive(Debug, Default)]
pub struct Elapsed {
    wall: Duration,
    cpu: Duration,
    turns: u64,
    packets: u64,
}

impl Elapsed {
    /// Whether a run is long enough.
    #[must_use]
    pub fn is_over(&self, effort: Effort) -> bool {
        match effort {
            Effort::Time(time) => self.wall >= time,
            Effort::Packets(packets) => self.packets >= packets,
        }
    }

    /// The run, once it is over.
    #[must_use]
    pub fn run(&self, changes_per_second: Option<f64>) -> SubjectRun {
        let a_packet = |time: Duration| time.as_nanos() as f64 / self.packets.max(1) as f64;
        SubjectRun {
            packets: self.packets,
            wall_ns_per_packet: a_packet(self.wall),
            cpu_ns_per_packet: a_packet(self.cpu),
            turns: self.turns,
            dropped: 0,
            changes_per_second,
        }
    }
}

/// A worker's place in a gateway, before it has flows.
#[derive(Debug)]
pub struct Post {
    id: usize,
    shared: Arc<Shared>,
    staging: Staging,
    handoff: Handoff<Mbuf>,
    started: Instant,
}

impl Post {
    /// The places of so many workers of one gateway, whose Services are published, each with so many flows.
    pub fn of(world: &World, flows: u32, workers: usize) -> Result<Vec<Self>> {
        let shared = Shared::new(world.gateway(flows.saturating_mul(workers as u32), workers)?);
        let mut staging = Staging::new();
        let mut tables = None;
        for update in world.snapshot() {
            tables = staging.take(update);
        }
        let tables = tables.context("the Services were not committed")?;
        shared.publish(tables.map_err(|refusal| anyhow!("the Services were refused: {refusal:?}"))?);
        let started = Instant::now();
        // Who is first may change the Services.
        let stagings = std::iter::once(staging).chain(std::iter::repeat_with(Staging::new));
        let handoffs = Handoff::mesh(workers).into_iter().enumerate();
        let posts = handoffs.zip(stagings).map(|((id, handoff), staging)| {
            let shared = Arc::clone(&shared);
            Self { id, shared, staging, handoff, started }
        });
        Ok(posts.collect())
    }

    /// Workers of its gateway.
    fn workers(&self) -> u32 {
        self.shared.gateway.workers() as u32
    }
}

/// Whether a NIC brings a worker the packets of this client.
fn reaches(gateway: &Gateway, worker: usize, client: SocketAddr, vip: SocketAddr) -> bool {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (client.ip(), vip.ip()) else {
        return gateway.workers() == 1;
    };
    let key = FlowKey::new(ipv4::TCP, source.into(), destination.into(), client.port(), vip.port());
    gateway.ports().iter().all(|port| port.steering.owner(key, gateway, &SECRET) == worker)
}

/// The packets of the live flows, both directions of each.
#[derive(Debug)]
enum Traffic {
    V4(Deck<12>),
    V6(Deck<36>),
}

/// A worker with its live flows and the traffic of them.
pub struct Bed<'m> {
    /// What it is made of.
    pub plan: BedPlan,
    /// The worker.
    pub worker: Worker<'m, Mbuf>,
    /// What it shares with whoever changes Services.
    pub shared: Arc<Shared>,
    /// Where Services are changed.
    pub staging: Staging,
    traffic: Option<Traffic>,
    started: Instant,
    /// How far the worker's clock is ahead of the time since the start, in milliseconds.
    ahead_ms: u32,
    clock: Clock,
}

/// Packets in a millisecond of a run that is told by packets.
const PACKETS_A_MS: u64 = 1 << 16;

impl<'m> Bed<'m> {
    /// Makes the worker and opens the flows. The memory has [`BedPlan::memory_bytes`].
    pub fn new(
        plan: BedPlan,
        post: Post,
        memory: &'m mut [u8],
        line: &mut Line,
        clock: Clock,
    ) -> Result<Self> {
        let clients = plan.clients.flights(&plan.world, plan.flows.saturating_mul(2 * post.workers() - 1))?;
        let Post { id, shared, staging, handoff, started } = post;
        let gateway = shared.gateway.clone();
        let mine = clients.filter(|&(client, vip)| reaches(&gateway, id, client, vip));
        let mut mine = mine.take(plan.flows as usize);
        let flows = plan.flows + plan.room;
        let worker = match plan.world.family {
            Family::V4 => {
                let table = FlowTable::new(memory, flows, SECRET)?;
                Worker::new(id, Arc::clone(&shared), table, handoff, SECRET)
            }
            Family::V6 => {
                let (memory6, memory) = memory.split_at_mut(plan.table_bytes());
                let table = FlowTable::new(memory, 1, SECRET)?;
                Worker::new(id, Arc::clone(&shared), table, handoff, SECRET)
                    .with_ipv6(FlowTable::new(memory6, flows, SECRET)?)
            }
        };
        let mut bed = Self { plan, worker, shared, staging, traffic: None, started, ahead_ms: 0, clock };
        bed.traffic = Some(match plan.world.family {
            Family::V4 => Traffic::V4(bed.open(line, &mut mine)?),
            Family::V6 => Traffic::V6(bed.open(line, &mut mine)?),
        });
        let live = bed.live();
        ensure!(live == plan.flows, "{live} flows are live, not {}", plan.flows);
        Ok(bed)
    }

    /// Opens the flows as clients and backends do, TCP by the three segments of a handshake, UDP by a question and an answer, and gives the
    /// packets of both directions of each.
    fn open<const N: usize>(
        &mut self,
        line: &mut Line,
        flights: &mut impl Iterator<Item = (SocketAddr, SocketAddr)>,
    ) -> Result<Deck<N>> {
        let BedPlan { world, flows, udp_percent, .. } = self.plan;
        let made_of = flight(world.client(0), world.vip(0));
        let both = |sent, tcp_flags, payload: &[u8]| {
            let tcp = Template::tcp(&made_of, sent, tcp_flags, payload)?;
            let udp = Template::udp(&made_of, &vec![7; tcp.len() - udp_headers(&world)])?;
            anyhow::Ok(vec![tcp, udp])
        };
        let asks = both([0, 0], flags::SYN, &[])?;
        let answers = both([0, 1], flags::SYN | flags::ACK, &[])?;
        let confirms = both([1, 1], flags::ACK, &[])?;
        let payload: &[u8] = if world.family == Family::V4 { b"bench!" } else { b"" };
        let data = both([1, 1], flags::ACK | flags::PSH, payload)?;
        line.resize_frames(asks[0].len())?;
        self.hush(line);

        let mut random = Random::new(&SECRET, 1);
        let mut packets: Vec<(Ends<N>, u8)> = Vec::with_capacity(flows as usize * 2);
        loop {
            let there = flights.by_ref().take(CHUNK).map(|(client, vip)| {
                let ends = Ends::new(client, vip).context("two families in one flow")?;
                Ok((ends, u8::from(scale(random.next(), 100) < udp_percent)))
            });
            let there = there.collect::<Result<Vec<(Ends<N>, u8)>>>()?;
            if there.is_empty() {
                break;
            }
            let arrived = self.exchange(line, &asks, &there)?;
            let back: Vec<_> =
                arrived.iter().zip(&there).map(|(ends, (_, kind))| (ends.back(), *kind)).collect();
            let answered = self.exchange(line, &answers, &back)?;
            let lost = answered.iter().zip(&there).find(|&(&answer, &(ends, _))| answer != ends.back());
            ensure!(lost.is_none(), "an answer went astray: {lost:?}");
            self.exchange(line, &confirms, &there)?;
            packets.extend(there);
            packets.extend(back);
        }
        Deck::new(data, packets, random).context("no flows, no traffic")
    }

    /// Lets the worker say what gateways say of themselves when they start, and once more a while later, to nobody.
    fn hush(&mut self, line: &mut Line) {
        let mut quiet_ms = 0;
        while quiet_ms <= ANNOUNCE_AGAIN_MS {
            let now_ms = self.now_ms();
            self.worker.turn(&mut line.queues, now_ms);
            quiet_ms = if line.clear() == 0 { quiet_ms + 1 } else { 0 };
            self.skip_ms(1);
        }
    }

    /// Sends one packet of each flow through the worker, and gives the ends that the frames left with, in the same order.
    fn exchange<const N: usize>(
        &mut self,
        line: &mut Line,
        templates: &[Template],
        packets: &[(Ends<N>, u8)],
    ) -> Result<Vec<Ends<N>>> {
        let mut next = packets.iter();
        line.put(packets.len(), |frame| {
            if let Some((ends, kind)) = next.next() {
                templates[usize::from(*kind)].write(ends, frame);
            }
        })?;
        self.know_router();
        let now_ms = self.now_ms();
        while self.worker.turn(&mut line.queues, now_ms) > 0 {}
        let mut left = Vec::with_capacity(packets.len());
        line.take(packets.len(), |frame| left.extend(Ends::of(frame))).with_context(|| self.verdicts())?;
        ensure!(left.len() == packets.len(), "a frame left too short");
        Ok(left)
    }

    /// Live flows of its family.
    #[must_use]
    pub fn live(&self) -> u32 {
        match self.plan.world.family {
            Family::V4 => self.worker.flows().v4.live(),
            Family::V6 => self.worker.flows().v6.live(),
        }
    }

    /// Bytes of the packets that it sends again and again.
    #[must_use]
    pub const fn traffic_bytes(&self) -> usize {
        match &self.traffic {
            Some(Traffic::V4(deck)) => deck.bytes(),
            Some(Traffic::V6(deck)) => deck.bytes(),
            None => 0,
        }
    }

    /// The router answers as one does at least every half minute.
    pub fn know_router(&self) {
        let router = self.plan.world.router();
        if self.shared.neighbours.index(router).is_some() {
            self.shared.neighbours.learn(router, ROUTER_MAC, self.now_ms());
        }
    }

    /// The worker's clock.
    #[must_use]
    pub fn now_ms(&self) -> u32 {
        (self.started.elapsed().as_millis() as u32).wrapping_add(self.ahead_ms)
    }

    /// Sets the worker's clock forward.
    pub const fn skip_ms(&mut self, ms: u32) {
        self.ahead_ms = self.ahead_ms.wrapping_add(ms);
    }

    /// Every verdict but the good one that some packet got, for errors.
    #[must_use]
    pub fn verdicts(&self) -> String {
        let counters = self.worker.counters();
        let bad = Verdict::ALL.iter().filter(|&&v| v != Verdict::Forwarded && counters.verdict(v) > 0);
        let bad: Vec<_> = bad.map(|&v| format!("{} {}", v.name(), counters.verdict(v))).collect();
        if bad.is_empty() { "every packet was forwarded".into() } else { bad.join(", ") }
    }

    /// The packets of the live flows over IPv4, for whoever sends them himself; they are put back by [`Bed::give_deck`].
    pub fn take_deck(&mut self) -> Result<Deck<12>> {
        match self.traffic.take() {
            Some(Traffic::V4(deck)) => Ok(deck),
            _ => bail!("there are no packets of IPv4"),
        }
    }

    /// Takes the packets back.
    pub fn give_deck(&mut self, deck: Deck<12>) {
        self.traffic = Some(Traffic::V4(deck));
    }

    /// Sends packets of the live flows.
    pub fn run_established(&mut self, line: &mut Line, effort: Effort) -> Result<Elapsed> {
        let mut traffic = self.traffic.take().context("the flows were not opened")?;
        let elapsed = self.established(line, effort, &mut traffic);
        self.traffic = Some(traffic);
        elapsed
    }

    fn established(&mut self, line: &mut Line, effort: Effort, traffic: &mut Traffic) -> Result<Elapsed> {
        line.resize_frames(match traffic {
            Traffic::V4(deck) => deck.frame_len(),
            Traffic::V6(deck) => deck.frame_len(),
        })?;
        self.know_router();
        let first_ms = self.now_ms();
        let before = self.worker.counters().clone();
        let mut elapsed = Elapsed::default();
        while !elapsed.is_over(effort) {
            match traffic {
                Traffic::V4(deck) => line.put(CHUNK, |frame| deck.write_next(frame))?,
                Traffic::V6(deck) => line.put(CHUNK, |frame| deck.write_next(frame))?,
            }
            let now_ms = match effort {
                Effort::Time(_) => self.now_ms(),
                Effort::Packets(_) => first_ms.wrapping_add((elapsed.packets / PACKETS_A_MS) as u32),
            };
            self.turns(line, now_ms, &mut elapsed);
            line.take(CHUNK, |_| ()).with_context(|| self.verdicts())?;
        }
        line.check_frames()?;
        self.expect(&before, elapsed.packets, 0, 0)?;
        Ok(elapsed)
    }

    /// Times the worker's turns over the chunk that is on the receive ring.
    pub fn turns(&mut self, line: &mut Line, now_ms: u32, elapsed: &mut Elapsed) {
        let cpu_start = self.clock.thread_cpu();
        let wall_start = Instant::now();
        let turns = timed_turns(&mut self.worker, &mut line.queues, now_ms);
        let wall = wall_start.elapsed();
        let cpu = match (cpu_start, self.clock.thread_cpu()) {
            (Some(start), Some(end)) => end.saturating_sub(start),
            _ => wall,
        };
        elapsed.wall += wall;
        // The CPU clock is read by a system call of its own, so an undisturbed chunk shows as a little more CPU time than time.
        elapsed.cpu += wall.min(cpu);
        elapsed.turns += turns;
        elapsed.packets += CHUNK as u64;
    }

    /// An error unless since `before` so many packets came and were all forwarded, and so many flows were opened and closed.
    pub fn expect(&self, before: &Counters, packets: u64, opened: u64, closed: u64) -> Result<()> {
        let after = self.worker.counters();
        let tallied = |tally| after.tally(tally) - before.tally(tally);
        let forwarded = after.verdict(Verdict::Forwarded) - before.verdict(Verdict::Forwarded);
        let wanted = [packets, packets, opened, closed, 0];
        let got = [
            tallied(Tally::RxPackets),
            forwarded,
            tallied(Tally::FlowsOpened),
            tallied(Tally::FlowsClosed),
            tallied(Tally::TcpIgnored),
        ];
        if got != wanted {
            bail!(
                "received, forwarded, flows opened, flows closed, segments ignored were {got:?}, not {wanted:?}: {}",
                self.verdicts()
            );
        }
        Ok(())
    }
}

/// The turns that are timed, and whose instructions are counted: until the receive ring is drained. How many had something to do.
#[inline(never)]
pub fn timed_turns(worker: &mut Worker<'_, Mbuf>, queues: &mut [Queue], now_ms: u32) -> u64 {
    let (mut handled, mut turns) = (0, 0);
    while handled < CHUNK {
        let some = worker.turn(queues, now_ms);
        if some == 0 {
            break;
        }
        handled += some;
        turns += 1;
    }
    turns
}

/// Bytes of all headers of a UDP packet.
pub const fn udp_headers(world: &World) -> usize {
    match world.family {
        Family::V4 => 14 + 20 + 8,
        Family::V6 => 14 + 40 + 8,
    }
}

/// Bytes of this process that are in memory, those on huge pages too.
pub fn resident_bytes() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    resident_of(&status).context("/proc/self/status says no size")
}

fn resident_of(status: &str) -> Option<usize> {
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<usize>().ok()
    };
    Some((kilobytes("VmRSS")? + kilobytes("HugetlbPages")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_both_kinds_is_summed() {
        let status = "VmHWM:\t 9 kB\nVmRSS:\t  100 kB\nHugetlbPages:\t  2048 kB\n";
        assert_eq!(resident_of(status), Some(2_148 << 10));
        assert_eq!(resident_of("VmRSS:\t1 kB\n"), None);
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
