//! Flow tables that outlive this process: finding those of the dataplane before, and making new ones.
//!
//! All tables are adopted or none: a flow whose reply comes to a worker that does not know it is lost. What does not fit is said once, in the log and in
//! the counter `start`, and new tables take its place.

use crate::workers::WorkerError;
use std::path::{Path, PathBuf};
use turnpike_forward::address::{Address, Family};
use turnpike_forward::adoption::Hops;
use turnpike_forward::flow_key::{FlowKey, FlowKey6};
use turnpike_forward::flow_table::{Adoption, FlowTable};
use turnpike_forward::gateway::Gateway;
use turnpike_forward::hash::Secret;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::neighbour::{Link, NextHop};
use turnpike_forward::rewrite::Sums;
use turnpike_shm::{
    FlowFile, FlowLayout, HUGE_PAGE_BYTES, HugeMemory, KnownHop, NextHopFile, PageKind, Pages, ShmError,
    flow_file_name, monotonic_ms,
};
use turnpike_wire::limits::WORKERS_MAX;
use turnpike_wire::pages::STARTS;

/// The clock of all workers: milliseconds since the first dataplane that had these tables, so that times in them keep their meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    zero_ms: u64,
}

impl Clock {
    /// Milliseconds, modulo 2³².
    pub(crate) fn now_ms(self) -> u32 {
        monotonic_ms().wrapping_sub(self.zero_ms) as u32
    }
}

/// What tables have to be like.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) folder: PathBuf,
    pub(crate) workers: usize,
    pub(crate) flows: u32,
    pub(crate) ipv6_flows: Option<u32>,
    /// Of [`fingerprint`].
    pub(crate) gateway: u64,
    pub(crate) pages: Pages,
}

/// How a dataplane begins, as a place in [`STARTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Adopted = 0,
    Nothing = 1,
    Version = 2,
    Capacity = 3,
    Workers = 4,
    Gateway = 5,
    Damaged = 6,
}

/// The tables of the dataplane before, mapped and not touched yet.
pub(crate) struct Found {
    files: Vec<[Option<FlowFile>; 2]>,
    start: Start,
}

/// The tables of this dataplane, for its workers to take.
pub(crate) struct Lasting {
    wanted: Wanted,
    files: Vec<[Option<FlowFile>; 2]>,
    words: [u64; 4],
    clock: Clock,
    start: Start,
    hops: Hops,
    known: Vec<(NextHop, [u8; 6])>,
}

/// The table memory of one worker and family.
pub(crate) enum TableMemory {
    /// Of a file.
    Lasting(FlowFile, Start),
    /// Of this process alone, for lack of a place for a file.
    Passing(HugeMemory),
}

/// What every worker needs to make its tables.
#[derive(Clone)]
pub(crate) struct Making {
    pub(crate) wanted: Wanted,
    pub(crate) clock: Clock,
    pub(crate) secret: Secret,
    words: [u64; 4],
    pub(crate) hops: std::sync::Arc<Hops>,
}

impl Found {
    /// Looks for tables that fit. Says nothing and changes nothing.
    pub(crate) fn look(wanted: &Wanted) -> Self {
        match Self::all(wanted) {
            Ok(files) => Self { files, start: Start::Adopted },
            Err(start) => {
                let files = (0..wanted.workers).map(|_| [None, None]).collect();
                Self { files, start }
            }
        }
    }

    fn all(wanted: &Wanted) -> Result<Vec<[Option<FlowFile>; 2]>, Start> {
        let mut all = Vec::new();
        let mut first: Option<FlowLayout> = None;
        let mut missing = false;
        for worker in 0..wanted.workers as u32 {
            let mut open = |family: u8| {
                let file = match FlowFile::open(&wanted.folder, worker, family) {
                    Ok(Some(file)) => file,
                    Ok(None) => {
                        missing = true;
                        return Ok(None);
                    }
                    Err(ShmError::Version { .. }) => return Err(Start::Version),
                    Err(why) => {
                        tracing::warn!("{why}");
                        return Err(Start::Damaged);
                    }
                };
                let found = *file.layout();
                let like = first.get_or_insert(found);
                wanted.fits(worker, family, &found)?;
                let same = (found.secret, found.clock_zero_ms) == (like.secret, like.clock_zero_ms);
                if same { Ok(Some(file)) } else { Err(Start::Damaged) }
            };
            let ipv4 = open(4)?;
            let ipv6 = if wanted.ipv6_flows.is_some() { open(6)? } else { None };
            all.push([ipv4, ipv6]);
        }
        match (first, missing) {
            (Some(_), false) => Ok(all),
            (Some(_), true) => Err(Start::Damaged),
            (None, _) => Err(Start::Nothing),
        }
    }
}

impl Wanted {
    fn fits(&self, worker: u32, family: u8, found: &FlowLayout) -> Result<(), Start> {
        let wanted = self.layout(worker, family, &Clock { zero_ms: found.clock_zero_ms }, found.secret);
        let rows = [
            (wanted.workers == found.workers, Start::Workers),
            (wanted.meaning == found.meaning && wanted.entry_bytes == found.entry_bytes, Start::Version),
            (wanted.capacity == found.capacity, Start::Capacity),
            (wanted.gateway == found.gateway, Start::Gateway),
            (wanted == *found, Start::Damaged),
        ];
        rows.into_iter().find(|(fits, _)| !fits).map_or(Ok(()), |(_, start)| Err(start))
    }

    fn layout(&self, worker: u32, family: u8, clock: &Clock, secret: [u64; 4]) -> FlowLayout {
        let flows = if family == 4 { self.flows } else { self.ipv6_flows.unwrap_or(self.flows) };
        let (bytes, entries_at) = match family {
            4 => (FlowTable::<FlowKey>::memory_bytes(flows), FlowTable::<FlowKey>::sessions_at(flows)),
            _ => (FlowTable::<FlowKey6>::memory_bytes(flows), FlowTable::<FlowKey6>::sessions_at(flows)),
        };
        FlowLayout {
            worker,
            workers: self.workers as u32,
            family,
            capacity: flows,
            entry_bytes: ((bytes - entries_at) / flows.max(1) as usize) as u32,
            table_bytes: bytes as u64,
            entries_at: entries_at as u64,
            meaning: FlowTable::<FlowKey>::MEANING,
            gateway: self.gateway,
            clock_zero_ms: clock.zero_ms,
            secret,
        }
    }
}

impl Lasting {
    /// Takes the tables over, now that this process is the gateway's dataplane. `words` are those of a new secret.
    pub(crate) fn take(wanted: Wanted, found: Found, words: [u64; 4]) -> Self {
        let Found { mut files, mut start } = found;
        for file in files.iter_mut().flatten().flatten() {
            if let Err(why) = file.lock() {
                tracing::warn!("{why}");
                start = Start::Damaged;
            }
        }
        let like = files.iter().flatten().flatten().next().map(|file| *file.layout());
        let (mut hops, mut known) = (Hops::default(), Vec::new());
        let (words, clock) = match like.filter(|_| start == Start::Adopted) {
            Some(like) => {
                for hop in NextHopFile::read(&wanted.folder) {
                    let next = NextHop { port: hop.port, address: Address::v6(hop.address) };
                    hops.add(hop.index, next);
                    known.extend(hop.mac.map(|mac| (next, mac)));
                }
                (like.secret, Clock { zero_ms: like.clock_zero_ms })
            }
            None => {
                files = (0..wanted.workers).map(|_| [None, None]).collect();
                forget(&wanted.folder);
                (words, Clock { zero_ms: monotonic_ms() })
            }
        };
        match start {
            Start::Adopted => tracing::info!("flow tables of the dataplane before are taken over"),
            Start::Nothing => tracing::info!("{}", start.words()),
            _ => tracing::warn!("flows of the dataplane before are lost; {}", start.words()),
        }
        Self { wanted, files, words, clock, start, hops, known }
    }

    /// How it begins.
    pub(crate) const fn start(&self) -> Start {
        self.start
    }

    /// Tells the workers' common state what Ethernet addresses were known.
    pub(crate) fn remember(&self, shared: &Shared) {
        for &(hop, mac) in &self.known {
            shared.remember(hop, mac, self.clock.now_ms());
        }
    }

    /// What the workers need, and each one's tables.
    pub(crate) fn into_parts(self) -> (Making, Vec<[Option<FlowFile>; 2]>) {
        let Self { wanted, files, words, clock, hops, .. } = self;
        let secret = Secret::new(words);
        (Making { wanted, clock, secret, words, hops: hops.into() }, files)
    }
}

impl Start {
    /// In words.
    pub(crate) const fn words(self) -> &'static str {
        STARTS[self as usize]
    }
}

impl Making {
    /// The memory of a worker's table: what was found, or new.
    pub(crate) fn memory(
        &self,
        worker: usize,
        family: u8,
        found: Option<FlowFile>,
        node: Option<u32>,
    ) -> Result<TableMemory, WorkerError> {
        if let Some(found) = found {
            return Ok(TableMemory::Lasting(found, Start::Adopted));
        }
        let layout = self.wanted.layout(worker as u32, family, &self.clock, self.words);
        let why = match FlowFile::create(&self.wanted.folder, layout, self.wanted.pages, node) {
            Ok(file) => {
                // Zero bytes are free slots, and so is what is written next: from here on a successor finds no flow that was not there.
                file.complete();
                return Ok(TableMemory::Lasting(file, Start::Nothing));
            }
            Err(why) => why,
        };
        tracing::warn!(worker, "flows over IPv{family} will not survive a restart: {why}");
        let _ = std::fs::remove_file(self.wanted.folder.join(flow_file_name(worker as u32, family)));
        let bytes = layout.table_bytes as usize;
        let flow_memory = |source| WorkerError::FlowMemory { worker, flows: layout.capacity, source };
        HugeMemory::near(bytes, self.wanted.pages, node).map(TableMemory::Passing).map_err(flow_memory)
    }
}

impl TableMemory {
    /// What kind of pages it is.
    pub(crate) fn pages(&self) -> PageKind {
        match self {
            Self::Lasting(file, _) => file.pages(),
            Self::Passing(memory) => memory.pages(),
        }
    }

    /// Whether its pages are surely, or may be, no huge ones. Those of a file say so when they were joined.
    pub(crate) fn is_slow(&self) -> bool {
        match self {
            Self::Lasting(file, _) => file.pages() == PageKind::Ordinary,
            Self::Passing(memory) => memory.pages().page_bytes() < HUGE_PAGE_BYTES,
        }
    }

    /// The NUMA node that most of it is on.
    pub(crate) fn node(&self) -> Option<u32> {
        match self {
            Self::Lasting(file, _) => file.node(),
            Self::Passing(memory) => memory.node(),
        }
    }

    /// The table, new or adopted, and what became of what was in it.
    pub(crate) fn table<K: Sums>(
        &mut self,
        worker: usize,
        flows: u32,
        making: &Making,
        shared: &Shared,
    ) -> Result<(FlowTable<'_, K>, Adoption), WorkerError> {
        let failed = |source| WorkerError::FlowTable { worker, source };
        let (memory, start) = match self {
            Self::Lasting(file, start) => (file.table().unwrap_or_default(), *start),
            Self::Passing(memory) => (memory.bytes_mut(), Start::Nothing),
        };
        if start == Start::Adopted {
            let way = |keys: &[K; 2], old| shared.ways(keys, old, &making.hops);
            return FlowTable::adopt(memory, flows, making.secret, making.clock.now_ms(), way)
                .map_err(failed);
        }
        let table = FlowTable::new(memory, flows, making.secret).map_err(failed)?;
        Ok((table, Adoption::default()))
    }
}

/// The next hops written down for the dataplane after this one.
pub(crate) struct NextHops(NextHopFile);

impl NextHops {
    /// Begins with those that are known.
    pub(crate) fn create(folder: &Path, shared: &Shared) -> Result<Self, ShmError> {
        let known = shared.neighbours.iter().filter_map(|(hop, link)| known_hop(shared, hop, link));
        Ok(Self(NextHopFile::create(folder, known)?))
    }

    /// Writes one down as it is now.
    pub(crate) fn put(&self, shared: &Shared, hop: NextHop, link: Link) {
        if let Some(known) = known_hop(shared, hop, link) {
            self.0.put(&known);
        }
    }
}

fn known_hop(shared: &Shared, hop: NextHop, link: Link) -> Option<KnownHop> {
    let index = shared.neighbours.find(hop)?;
    let mac = link.is_resolved().then(|| link.mac());
    Some(KnownHop { index, port: hop.port, address: hop.address.bits(), mac })
}

/// What of a gateway flows depend on: SNAT addresses, and which worker each port's packets come to. Equal for equal ones, in every build that writes them alike.
pub(crate) fn fingerprint(gateway: &Gateway) -> u64 {
    let steering: Vec<_> = gateway.ports().iter().map(|port| &port.steering).collect();
    let text = format!("{:?} {:?} {steering:?}", gateway.snat(Family::V4), gateway.snat(Family::V6));
    let fixed = Secret::from_pair([0x7475_726e, 0x7069_6b65]);
    text.bytes().fold(0, |hash, byte| fixed.words(hash, byte.into()))
}

/// Gives back what tables of any worker there are.
fn forget(folder: &Path) {
    for (worker, family) in (0..WORKERS_MAX as u32).flat_map(|worker| [(worker, 4), (worker, 6)]) {
        let path = folder.join(flow_file_name(worker, family));
        if let Ok(elsewhere) = std::fs::read_link(&path) {
            let _ = std::fs::remove_file(elsewhere);
        }
        let _ = std::fs::remove_file(path);
    }
}
