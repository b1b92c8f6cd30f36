//! The same random packets of both families through a worker and through a plain model of the NAT, which predicts every verdict, every counter
//! and every byte that leaves. A longer run, or one again, by command:
//! `NAT_MODEL_PACKETS=1000000000 NAT_MODEL_SEED=7 cargo test --release -p turnpike-forward --test nat_model -- --nocapture`
#![allow(clippy::unwrap_used)]

mod answers;
mod association;
mod dice;
mod driver;
mod frames;
#[path = "../harness/mod.rs"]
mod harness;
mod left;
mod nat;
mod plan;
mod reading;
mod rules;

use dice::Dice;
use driver::{Mood, arrival};
use frames::{Layout, Tuple, ends_of, is_v6, told};
use harness::Bed;
use left::Left;
use nat::{Arrival, Nat};
use plan::{Plan, plans};
use rules::rules;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use turnpike_forward::flow_key::{FlowKey, FlowKey6, Key};
use turnpike_forward::flow_table::{Entry, FlowTable};
use turnpike_packet::io::BURST;
use turnpike_packet::ipv4::UDP;

/// Packets of a run that nobody has asked to be longer.
const PACKETS: u64 = 400_000;
/// How long after its time a flow may still be there: a sweep over all takes 15 s.
const SWEEP_MS: u32 = 16_000;
/// The end of a failing flow's story that is told.
const STORY_LINES: usize = 64;

/// What went wrong, and to whom.
#[derive(Debug)]
struct Failure {
    what: String,
    burst: u64,
    ends: Option<Tuple>,
}

/// A run and what it has done.
struct Run {
    plan: Plan,
    bed: Bed,
    nat: Nat,
    dice: Dice,
    bursts: u64,
    packets: u64,
    /// When the rules were changed, and with them perhaps how long flows may be idle.
    rules_ms: u32,
    /// Whose story is kept, or which burst's, and the story.
    watched: Option<Tuple>,
    watched_burst: u64,
    story: VecDeque<String>,
    /// Flows that were compared with those of the worker.
    compared: u64,
}

/// What a worker knows of a flow: the reply's ends, its state, when it was last seen.
type Seen = (Tuple, &'static str, u32);

fn tuple<K: Key>(key: K) -> Tuple {
    let (source, destination) = (key.source_address().ip(), key.destination_address().ip());
    Tuple {
        protocol: key.protocol(),
        source: SocketAddr::new(source, key.source_port()),
        destination: SocketAddr::new(destination, key.destination_port()),
    }
}

fn flows_of<K: Key>(table: &FlowTable<'_, K>) -> impl Iterator<Item = (Tuple, Seen)> {
    table.iter().map(|(_, session)| {
        let [client, reply] = *session.keys();
        (tuple(client), (tuple(reply), session.state().name(), session.last_seen))
    })
}

/// Whether a worker has the flow of a client.
fn has_flow(bed: &Bed, client: Tuple) -> bool {
    let Tuple { protocol, source, destination } = client;
    let (port, other) = (source.port(), destination.port());
    let mut tables = bed.workers.iter().map(|worker| worker.flows());
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let key = FlowKey::new(protocol, source.into(), destination.into(), port, other);
            tables.any(|flows| flows.v4.find(key).is_some())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let key = FlowKey6::new(protocol, source.into(), destination.into(), port, other);
            tables.any(|flows| flows.v6.find(key).is_some())
        }
        _ => false,
    }
}

impl Run {
    fn new(plan: &Plan, seed: u64, watched: Option<Tuple>, watched_burst: u64) -> Self {
        let mut run = Self {
            plan: plan.clone(),
            bed: plan.bed(),
            nat: Nat::new(plan.workers, plan.room),
            dice: Dice(seed ^ plan.salt),
            bursts: 0,
            packets: 0,
            rules_ms: 0,
            watched,
            watched_burst,
            story: VecDeque::new(),
            compared: 0,
        };
        run.change_rules();
        run
    }

    /// Until so many packets have come.
    fn go(&mut self, packets: u64) -> Result<(), Failure> {
        while self.packets < packets {
            self.bursts += 1;
            if self.bursts.is_multiple_of(500) {
                // What has ended by the old rules has ended, however long the new ones would let it be.
                self.compare_flows()?;
                self.change_rules();
                self.compare_flows()?;
            }
            if self.bursts.is_multiple_of(self.plan.bursts) {
                let seconds = self.dice.one_of(&[30, 119, 130, 230, 260, 310, 310, 7_470]);
                self.wait(seconds);
                self.compare_flows()?;
            }
            self.burst()?;
        }
        self.compare_flows()
    }

    fn failure(&self, what: String, ends: Option<Tuple>) -> Failure {
        Failure { what, burst: self.bursts, ends }
    }

    /// Whether somebody's story is being told.
    fn tells(&self) -> bool {
        self.watched.is_some() || self.bursts == self.watched_burst
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.tells() {
            self.story.push_back(line());
            if self.story.len() > STORY_LINES {
                self.story.pop_front();
            }
        }
    }

    fn change_rules(&mut self) {
        let ports = rules(&mut self.dice, &mut self.nat);
        self.bed.put(&ports);
        while self.bed.workers.iter().any(|worker| worker.has_more()) {
            self.bed.turn();
        }
        self.nat.leave_deserted();
        self.rules_ms = self.bed.now_ms;
        self.bed.know_router();
        if let Some(watched) = self.watched {
            let rule = format!("{:?}", self.nat.rule_of(watched));
            self.note(|| format!("rules change: {rule}"));
        }
    }

    fn wait(&mut self, seconds: u32) {
        self.bed.pass(seconds * 1_000);
        self.bed.know_router();
        self.note(|| format!("{seconds} s pass"));
        self.nat.now_ms = self.bed.now_ms;
    }

    /// Forgets the flow of a packet that is about to come, if its time is over and the worker has forgotten it.
    fn settle(&mut self, ends: Tuple) -> Result<(), Failure> {
        let Some((client, _)) = self.nat.find(ends) else { return Ok(()) };
        let session = &self.nat.sessions[&client];
        let (idle, limit) = (self.nat.now_ms - session.seen_ms, self.nat.may_idle_ms(session));
        if idle <= limit || has_flow(&self.bed, client) {
            let settled_ms = self.nat.now_ms - session.touched_ms.max(self.rules_ms);
            let is_late = idle > limit + SWEEP_MS && settled_ms > SWEEP_MS;
            let late =
                || self.failure(format!("idle for {idle} ms of {limit}, and still there"), Some(client));
            return if is_late { Err(late()) } else { Ok(()) };
        }
        self.nat.remove(client);
        Ok(())
    }

    /// What comes in one burst. A connection speaks once in it, and an error comes alone with its flow: a worker sees the steady packets of a
    /// burst before the others, so what two of them mean together depends on more than their order.
    fn arrivals(&mut self) -> Vec<Arrival> {
        let Self { dice, nat, .. } = self;
        let mood = Mood { is_calm: dice.once_in(2), family: dice.one_of(&[None, None, Some(0), Some(1)]) };
        let many = if dice.once_in(8) { 1 + dice.below(4) } else { BURST };
        let (mut arrivals, mut spoken, mut alone) =
            (Vec::with_capacity(BURST), BTreeSet::new(), BTreeSet::new());
        while arrivals.len() < many {
            let number = (dice.below(512) * 128 + 1 + arrivals.len()) as u16;
            let next = arrival(dice, nat, mood, number);
            if let Some(ends) = ends_of(&next.frame) {
                let flow = nat.find(ends).map_or(ends, |(client, _)| client);
                let is_alone = flow.protocol != UDP || Layout::at(&next.frame, 14).is_icmp();
                if alone.contains(&flow) || is_alone && spoken.contains(&flow) {
                    continue;
                }
                spoken.insert(flow);
                if is_alone {
                    alone.insert(flow);
                }
            }
            arrivals.push(next);
        }
        arrivals
    }

    /// A little time passes, in which workers look after their flows and the router; then a burst comes.
    fn burst(&mut self) -> Result<(), Failure> {
        self.bed.now_ms += self.plan.step_ms;
        self.nat.now_ms = self.bed.now_ms;
        if self.bursts.is_multiple_of(1_024) {
            self.bed.know_router();
        }
        self.bed.turn();
        self.bed.take();
        if self.plan.runs_full() {
            // Every place counts.
            for client in self.nat.sessions.keys().copied().collect::<Vec<_>>() {
                self.settle(client)?;
            }
        }
        let arrivals = self.arrivals();
        self.packets += arrivals.len() as u64;
        for ends in arrivals.iter().filter_map(|a| ends_of(&a.frame)) {
            self.settle(ends)?;
        }
        let (before, handed_over) = (self.counts(), self.bed.count("handed_off"));
        arrivals.iter().for_each(|a| self.bed.nic.inject(&a.frame));
        self.bed.turn();
        let mut left = Left::new(self.bed.nic.take_sent(), self.bed.workers.len() == 1);
        self.nat.counts.clear();
        // Within a burst a worker handles the family of its first packet first: which is the last that is answered depends on that.
        let of_v6 = |came: &&Arrival| is_v6(&came.frame);
        let starts_with_v6 = arrivals.first().is_some_and(|first| of_v6(&first));
        let (first, second): (Vec<_>, Vec<_>) =
            arrivals.iter().partition(|came| of_v6(came) == starts_with_v6);
        for came in first.into_iter().chain(second) {
            let ends = ends_of(&came.frame);
            let next = self.tells().then(|| left.first().map(told));
            let judged = self.nat.judge(came, &mut left);
            let is_watched = self.watched.is_none() && self.bursts == self.watched_burst
                || ends.is_some_and(|e| self.watched.is_some_and(|w| e == w || self.is_reply_of(e, w)));
            if is_watched || judged.is_err() {
                let flow =
                    ends.and_then(|e| self.nat.find(e)).map(|(client, _)| self.nat.sessions[&client].state());
                let now = self.nat.now_ms;
                let counted = ends.is_none_or(|_| self.watched.is_none()).then(|| self.nat.counts.clone());
                self.note(|| {
                    format!("{now} ms: {} -> {flow:?} {counted:?}, next left: {next:?}", told(&came.frame))
                });
            }
            judged.map_err(|what| self.failure(what, ends.map(|e| self.nat.find(e).map_or(e, |f| f.0))))?;
        }
        if let Some(more) = left.first() {
            return Err(
                self.failure(format!("this left, and nobody knows why: {}", told(more)), ends_of(more))
            );
        }
        self.compare_counts(&before)?;
        let handed_over = self.bed.count("handed_off") - handed_over;
        let may_be = arrivals.iter().filter(|came| !self.plan.comes_straight(&came.frame)).count();
        if handed_over > may_be as u64 {
            let what = format!("{handed_over} frames were handed over, of {may_be} that may have to be");
            return Err(self.failure(what, None));
        }
        Ok(())
    }

    fn is_reply_of(&self, ends: Tuple, client: Tuple) -> bool {
        self.nat.replies.get(&ends) == Some(&client)
    }

    /// Counters of all workers. How many flows have ended depends on where the sweep stands, and a frame that is handed over has its fate where
    /// it comes to.
    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.bed.counts();
        let others = ["flows_live", "flows_closed", "handed_off"];
        counts.retain(|name, _| !name.ends_with("_bytes") && !others.contains(name));
        counts
    }

    fn compare_counts(&mut self, before: &BTreeMap<&'static str, u64>) -> Result<(), Failure> {
        let mut moved = self.counts();
        moved.iter_mut().for_each(|(name, value)| *value -= before.get(name).copied().unwrap_or(0));
        moved.retain(|_, value| *value != 0);
        self.nat.counts.retain(|_, value| *value != 0);
        if moved == self.nat.counts {
            return Ok(());
        }
        Err(self.failure(format!("counters moved {moved:?}\n  instead of {:?}", self.nat.counts), None))
    }

    /// Every flow of the worker is one of the model, in the same state and as old, and the other way around.
    fn compare_flows(&mut self) -> Result<(), Failure> {
        let mut known = BTreeMap::new();
        for flows in self.bed.workers.iter().map(|worker| worker.flows()) {
            for (client, seen) in flows_of(&flows.v4).chain(flows_of(&flows.v6)) {
                if known.insert(client, seen).is_some() {
                    return Err(self.failure("two flows of one client's packet".into(), Some(client)));
                }
            }
        }
        self.compared += known.len() as u64;
        let mut over = Vec::new();
        for (client, session) in &self.nat.sessions {
            let idle = self.nat.now_ms - session.seen_ms;
            let limit = self.nat.may_idle_ms(session);
            let settled_ms = self.nat.now_ms - session.touched_ms.max(self.rules_ms);
            let here = (session.reply, session.state(), session.seen_ms);
            match known.remove(client) {
                Some(there) if there == here && idle.min(limit + settled_ms) <= limit + SWEEP_MS => {}
                None if idle > limit => over.push(*client),
                there => {
                    let what = format!(
                        "the worker has {there:?}, the model {here:?}, idle for {idle} ms of {limit}"
                    );
                    return Err(self.failure(what, Some(*client)));
                }
            }
        }
        if let Some((client, flow)) = known.pop_first() {
            return Err(self.failure(format!("only the worker has {flow:?}"), Some(client)));
        }
        over.into_iter().for_each(|client| self.nat.remove(client));
        Ok(())
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// One run; where it fails, the same again with the story of the flow that it failed at.
fn run(plan: &Plan, seed: u64, packets: u64) -> Run {
    let mut run = Run::new(plan, seed, None, 0);
    let Err(Failure { what, burst, ends }) = run.go(packets) else { return run };
    let mut again = Run::new(plan, seed, ends, burst);
    let _ = again.go(packets);
    let story: Vec<String> = again.story.into();
    panic!(
        "NAT_MODEL_SEED={seed}, {}, burst {burst}, {ends:?}: {what}\nthe flow's story:\n{}\n",
        plan.name,
        story.join("\n")
    );
}

#[test]
fn workers_and_the_model_agree_on_every_packet() {
    let (packets, seed) = (number("NAT_MODEL_PACKETS", PACKETS), number("NAT_MODEL_SEED", 1));
    let started = Instant::now();
    let threads =
        plans().map(|plan| std::thread::spawn(move || run(&plan, seed, packets / plans().len() as u64)));
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    for thread in threads {
        let run = thread.join().unwrap_or_else(|why| std::panic::resume_unwind(why));
        for (name, count) in run.bed.counts() {
            *all.entry(name).or_default() += count;
        }
        assert!(run.compared > 0);
    }
    println!("{packets} packets of seed {seed} in {:.1?}: {all:#?}", started.elapsed());
    // A run that meets nothing proves nothing.
    let met = [
        "bad_ipv4",
        "bad_ipv4_checksum",
        "bad_ipv6",
        "bad_l4",
        "bad_source",
        "client_quota",
        "echo_replied",
        "flow_table_full",
        "flows_adopted",
        "forwarded",
        "fragments_made",
        "frontend_drop",
        "handed_off",
        "icmp_bad",
        "icmp_no_flow",
        "icmp_sent",
        "icmp_translated",
        "mss_clamped",
        "no_frontend",
        "not_ours",
        "other_ethertype",
        "other_mac",
        "other_protocol",
        "own_address",
        "rejected",
        "resets_sent",
        "sctp_no_flow",
        "snat_exhausted",
        "snat_no_flow",
        "source_range",
        "source_route",
        "tcp_ignored",
        "tcp_no_flow",
        "tcp_no_flow_drop",
        "too_big",
        "truncated",
        "ttl_expired",
        "udp_flows_cleaned",
        "unallocated_cluster_ip",
    ];
    for name in met {
        assert!(all.get(name).is_some_and(|&count| count > 0), "no packet was {name}");
    }
}
