//! Flows that come and go beside those that stay: new ones, and whole TCP connections.

use crate::bed::{Bed, BedPlan, Effort, Elapsed, udp_headers};
use crate::frames::{Deck, Ends4, Template};
use crate::line::{CHUNK, Line};
use crate::world::{SECRET, World, flight};
use anyhow::{Context, Result, bail, ensure};
use turnpike_forward::hash::Random;
use turnpike_forward::limits::{SWEEP_BUDGET, SWEEP_PERIOD_MS};
use turnpike_forward::verdict::Tally;
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, SYN};

/// New flows until all of them are ended and begin anew, outside of the timed turns.
pub const NEW_FLOWS: u32 = 1 << 18;
/// Connections that are open at the same time.
pub const CONNECTIONS: u32 = 1 << 16;
/// Packets of a connection.
pub const CONNECTION_PACKETS: u32 = SEGMENTS.len() as u32;
/// Longest time-out of what is ended by age, and a little more, in milliseconds.
const AGE_MS: u32 = 301_000;
/// After how many times that age flows that stay are refreshed: before their own time-out, of two hours.
const AGES_MAX: u32 = 20;

/// A segment of a connection: whether it is the backend's, its flags, its payload, and what client and backend have sent before.
type Planned = (bool, u8, usize, [u32; 2]);

/// A connection: handshake, a request in two segments, an answer in two, each acknowledged, and both sides close.
const SEGMENTS: [Planned; 12] = [
    (false, SYN, 0, [0, 0]),
    (true, SYN | ACK, 0, [1, 0]),
    (false, ACK, 0, [1, 1]),
    (false, ACK | PSH, 6, [1, 1]),
    (true, ACK, 0, [7, 1]),
    (false, ACK | PSH, 6, [7, 1]),
    (true, ACK | PSH, 6, [13, 1]),
    (true, ACK | PSH, 6, [13, 7]),
    (false, ACK, 0, [13, 13]),
    (false, FIN | ACK, 0, [13, 13]),
    (true, FIN | ACK, 0, [14, 13]),
    (false, ACK, 0, [14, 14]),
];

/// What new flows begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum First {
    /// A TCP SYN.
    Syn,
    /// A UDP datagram.
    Datagram,
}

/// The `n`th client beside those of the flows that stay.
fn newcomer(world: &World, stay: u32, n: u32) -> Result<Ends4> {
    Ends4::new(world.client(stay + n), world.vip(0)).context("clients come over IPv4 alone")
}

/// First packets of [`NEW_FLOWS`] new flows.
pub fn first_packets(world: &World, stay: u32, first: First) -> Result<Deck<12>> {
    let made_of = flight(world.client(0), world.vip(0));
    let syn = Template::tcp(&made_of, [0, 0], SYN, &[])?;
    let template = match first {
        First::Syn => syn,
        First::Datagram => Template::udp(&made_of, &vec![7; syn.len() - udp_headers(world)])?,
    };
    let packets = (0..NEW_FLOWS).map(|n| Ok((newcomer(world, stay, n)?, 0))).collect::<Result<Vec<_>>>()?;
    Deck::new(vec![template], packets, Random::new(&SECRET, 2)).context("no flows")
}

/// Opens new flows, until none is left that has not been opened; then all end, outside of the timed turns.
pub fn run_new(bed: &mut Bed<'_>, line: &mut Line, effort: Effort, deck: &mut Deck<12>) -> Result<Elapsed> {
    let mut elapsed = Elapsed::default();
    let mut ages = Ages::begin(bed, line)?;
    while !elapsed.is_over(effort) {
        ages.pass(bed, line)?;
        ensure!(bed.live() == bed.plan.flows, "{} flows are live before new ones come", bed.live());
        line.resize_frames(deck.frame_len())?;
        let before = bed.worker.counters().clone();
        let mut opened = 0;
        while opened < NEW_FLOWS && !elapsed.is_over(effort) {
            line.put(CHUNK, |frame| deck.write_next(frame))?;
            let now_ms = bed.now_ms();
            bed.turns(line, now_ms, &mut elapsed);
            line.take(CHUNK, |_| ()).with_context(|| bed.verdicts())?;
            opened += CHUNK as u32;
        }
        line.check_frames()?;
        bed.expect(&before, opened.into(), opened.into(), 0)?;
    }
    Ok(elapsed)
}

/// A time passes after which flows that were opened and never established end, as the worker comes across them. It stands before the first.
pub fn age_out(bed: &mut Bed<'_>, line: &mut Line) -> Result<()> {
    bed.skip_ms(AGE_MS);
    let (turns, step_ms) = sweep(&bed.plan);
    let closed = |bed: &Bed<'_>| bed.worker.counters().tally(Tally::FlowsClosed);
    let before = closed(bed);
    for _ in 0..turns {
        sweep_turn(bed, line, step_ms)?;
        if closed(bed) > before {
            return Ok(());
        }
    }
    bail!("no flow ends by its age")
}

/// The worker ends what is left of such flows.
pub fn end_aged(bed: &mut Bed<'_>, line: &mut Line) -> Result<()> {
    let (turns, step_ms) = sweep(&bed.plan);
    (0..turns).try_for_each(|_| sweep_turn(bed, line, step_ms))?;
    ensure!(bed.live() == bed.plan.flows, "{} flows are live behind those that ended by age", bed.live());
    Ok(())
}

/// In how many idle turns the worker sweeps its whole table, and how far the clock goes on for each.
fn sweep(plan: &BedPlan) -> (u32, u32) {
    let slots = plan.flows + plan.room;
    let budget = SWEEP_BUDGET as u32 * 16;
    let step_ms = (u64::from(SWEEP_PERIOD_MS) * u64::from(budget)).div_ceil(slots.into()) as u32;
    (slots.div_ceil(budget), step_ms.clamp(1, SWEEP_PERIOD_MS))
}

fn sweep_turn(bed: &mut Bed<'_>, line: &mut Line, step_ms: u32) -> Result<()> {
    bed.skip_ms(step_ms);
    bed.know_router();
    let now_ms = bed.now_ms();
    let handled = bed.worker.turn(&mut line.queues, now_ms);
    ensure!(handled == 0, "{handled} packets came from nowhere");
    Ok(())
}

/// Lets flows that are not established end by their age.
struct Ages {
    passed: u32,
}

impl Ages {
    /// Begins with fresh flows that stay.
    fn begin(bed: &mut Bed<'_>, line: &mut Line) -> Result<Self> {
        bed.run_established(line, Effort::Packets(u64::from(bed.plan.flows) * 2))?;
        Ok(Self { passed: 0 })
    }

    /// A time passes in which only established flows stay. The worker sweeps its whole table in idle turns.
    fn pass(&mut self, bed: &mut Bed<'_>, line: &mut Line) -> Result<()> {
        if self.passed == AGES_MAX {
            *self = Self::begin(bed, line)?;
        }
        self.passed += 1;
        bed.skip_ms(AGE_MS);
        let (turns, step_ms) = sweep(&bed.plan);
        let before = bed.worker.counters().tally(Tally::FlowsClosed);
        let leaving = bed.live() - bed.plan.flows;
        for _ in 0..turns {
            sweep_turn(bed, line, step_ms)?;
        }
        let left = bed.worker.counters().tally(Tally::FlowsClosed) - before;
        ensure!(left == u64::from(leaving), "{left} of {leaving} flows ended by age");
        Ok(())
    }
}

/// The segments of [`CONNECTIONS`] connections at a time.
#[derive(Debug)]
pub struct Connections {
    templates: Vec<Template>,
    clients: Vec<Ends4>,
    /// What each backend answers with; known when the SYN has left towards it.
    backends: Vec<Ends4>,
}

impl Connections {
    /// Connections of clients beside those of the flows that stay.
    pub fn new(world: &World, stay: u32) -> Result<Self> {
        let made_of = flight(world.client(0), world.vip(0));
        let templates = SEGMENTS.map(|(is_reply, tcp_flags, payload, [client, backend])| {
            let sent = if is_reply { [backend, client] } else { [client, backend] };
            Template::tcp(&made_of, sent, tcp_flags, &b"bench!"[..payload])
        });
        let templates = templates.into_iter().collect::<Result<Vec<_>>>()?;
        let clients = (0..CONNECTIONS).map(|n| newcomer(world, stay, n)).collect::<Result<Vec<_>>>()?;
        Ok(Self { templates, backends: clients.clone(), clients })
    }

    /// One segment of each connection, in an order that is another for each.
    fn step(&mut self, at: usize, bed: &mut Bed<'_>, line: &mut Line, elapsed: &mut Elapsed) -> Result<()> {
        let Self { templates, clients, backends } = self;
        let (is_reply, ..) = SEGMENTS[at];
        // An odd factor makes a permutation of a power of two. 0x9e37_79b1 spreads what follows one another over the whole range.
        let factor = 0x9e37_79b1u32.wrapping_add(at as u32 * 2);
        let connection = |n: u32| (n.wrapping_mul(factor) % CONNECTIONS) as usize;
        for chunk in 0..CONNECTIONS / CHUNK as u32 {
            let numbers = chunk * CHUNK as u32..(chunk + 1) * CHUNK as u32;
            let mut next = numbers.clone();
            let senders = if is_reply { &*backends } else { &*clients };
            line.put(CHUNK, |frame| {
                if let Some(n) = next.next() {
                    templates[at].write(&senders[connection(n)], frame);
                }
            })?;
            let now_ms = bed.now_ms();
            bed.turns(line, now_ms, elapsed);
            let (mut next, mut strays) = (numbers, 0);
            let left = line.take(CHUNK, |frame| {
                let (Some(n), Some(ends)) = (next.next(), Ends4::of(frame)) else { return strays += 1 };
                match is_reply {
                    false => backends[connection(n)] = ends.back(),
                    true => strays += u32::from(ends.back() != clients[connection(n)]),
                }
            });
            left.with_context(|| bed.verdicts())?;
            ensure!(strays == 0, "{strays} packets went astray");
        }
        line.check_frames()
    }
}

/// Opens, uses and closes connections. A connection's flow is kept until its client opens the next one from the same port, as the first
/// segment of each does: so its end is timed too.
pub fn run_connections(
    bed: &mut Bed<'_>,
    line: &mut Line,
    effort: Effort,
    connections: &mut Connections,
) -> Result<Elapsed> {
    Ages::begin(bed, line)?.pass(bed, line)?;
    line.resize_frames(connections.templates[0].len())?;
    let mut elapsed = Elapsed::default();
    let mut is_first = true;
    while !elapsed.is_over(effort) {
        let (before, live) = (bed.worker.counters().clone(), bed.live());
        bed.know_router();
        for at in 0..SEGMENTS.len() {
            connections.step(at, bed, line, &mut elapsed)?;
        }
        let opened = u64::from(CONNECTIONS);
        let closed = opened - u64::from(bed.live() - live);
        bed.expect(&before, opened * SEGMENTS.len() as u64, opened, closed)?;
        if std::mem::take(&mut is_first) {
            // These flows had none before them to end.
            elapsed = Elapsed::default();
        } else {
            ensure!(closed == opened, "{closed} of {opened} connections had one before");
        }
    }
    Ok(elapsed)
}
