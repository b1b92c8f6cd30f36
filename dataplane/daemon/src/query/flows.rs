//! `turnpike flows`: live flows out of the shared memory that they lie in. Workers learn of it only when flows are to end.

use super::watch::{has_had_enough, service};
use super::{Client, Sources};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use turnpike_forward::address::Address;
use turnpike_forward::explain::{Answer, Doomed, Task, Tuple};
use turnpike_forward::flow_key::{FlowKey, FlowKey6, Key};
use turnpike_forward::flow_table::{Look, SeenFlow, look};
use turnpike_forward::service_table::Tables;
use turnpike_forward::track::State;
use turnpike_shm::FlowView;
use turnpike_wire::dataplane::{Flow, FlowQuery, FlowsFound, Progress, Reply};
use turnpike_wire::filter::service_beginning;

/// Places between two looks at the clock.
const PLACES_PER_LOOK: u32 = 16_384;
/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// Flows that a worker ends at once: a tenth of a millisecond of its time.
const DOOMED_AT_ONCE: usize = 256;

/// A query in the terms of flows.
struct Wanted {
    query: FlowQuery,
    service: Option<String>,
    tables: Arc<Tables>,
}

/// How a look at all tables goes.
struct Round<'a, 'c> {
    client: &'a mut Client<'c>,
    wanted: &'a Wanted,
    progress: Progress,
    torn: u64,
    listed: u64,
    shown: Instant,
    doomed: Vec<Doomed>,
}

impl Client<'_> {
    /// Lists, counts and ends flows.
    pub(super) fn flows(&mut self, query: FlowQuery) -> io::Result<()> {
        if let Some(state) = &query.state
            && !(1..=u8::MAX).any(|byte| State::from_byte(byte).name() == state.as_str() && state != "free")
        {
            let names: Vec<&str> = (1..=14).map(|byte| State::from_byte(byte).name()).collect();
            return self.refuse(format!("there is no state {state}; there are {}", names.join(", ")));
        }
        let views = match self.views() {
            Ok(views) => views,
            Err(message) => return self.refuse(message),
        };
        let places = views.iter().map(|(_, view)| u64::from(view.layout().capacity)).sum();
        let service = query.service.as_deref().map(service_beginning);
        let wanted = Wanted { query, service, tables: self.desk.sources.shared.tables() };
        let progress = Progress { places, ..Progress::default() };
        let (torn, listed, doomed) = (0, 0, Vec::with_capacity(DOOMED_AT_ONCE));
        let mut round =
            Round { client: self, wanted: &wanted, progress, torn, listed, shown: Instant::now(), doomed };
        for (worker, view) in &views {
            let goes_on = match view.layout().family {
                4 => round.table::<FlowKey>(*worker, view)?,
                _ => round.table::<FlowKey6>(*worker, view)?,
            };
            if !goes_on {
                break;
            }
        }
        let Round { progress: Progress { found, ended, .. }, torn, .. } = round;
        self.say(&Reply::Flows(FlowsFound { found, ended, torn }))
    }

    /// The tables of all workers.
    fn views(&self) -> Result<Vec<(usize, FlowView)>, String> {
        let Sources { shared, folder, .. } = &self.desk.sources;
        let families: &[u8] = if shared.gateway.speaks_ipv6() { &[4, 6] } else { &[4] };
        let mut views = Vec::new();
        for worker in 0..shared.gateway.workers() {
            for &family in families {
                match FlowView::open(folder, worker as u32, family) {
                    Ok(Some(view)) => views.push((worker, view)),
                    Ok(None) => {
                        return Err(format!(
                            "the flow table of worker {worker} is not in {}, so nobody but the worker can read it; the dataplane's log says why",
                            folder.display()
                        ));
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(views)
    }
}

impl Round<'_, '_> {
    /// One table; false if the client has had enough.
    fn table<K: Key>(&mut self, worker: usize, view: &FlowView) -> io::Result<bool> {
        let capacity = view.layout().capacity;
        if view.layout().entry_bytes as usize != size_of::<K::Session>() {
            return self.client.refuse("the flow tables are of another release".into()).map(|()| false);
        }
        for first in (0..capacity).step_by(PLACES_PER_LOOK as usize) {
            for slot in first..capacity.min(first.saturating_add(PLACES_PER_LOOK)) {
                self.progress.looked_at += 1;
                match look::<K>(|words| {
                    view.entry(slot, words);
                }) {
                    Look::Free => {}
                    Look::Torn => self.torn += 1,
                    Look::Flow(flow) => {
                        if self.wanted.has(&flow) {
                            self.found(worker, slot, &flow)?;
                        }
                    }
                }
            }
            if self.client.desk.stop.load(Ordering::Relaxed) || has_had_enough(self.client.stream) {
                return Ok(false);
            }
            if self.shown.elapsed() >= PROGRESS_PERIOD {
                self.shown = Instant::now();
                self.client.say(&Reply::Progress(self.progress))?;
            }
        }
        self.end(worker)?;
        Ok(true)
    }

    fn found(&mut self, worker: usize, slot: u32, flow: &SeenFlow) -> io::Result<()> {
        self.progress.found += 1;
        if self.listed < self.wanted.query.limit {
            self.listed += 1;
            let now_ms = (self.client.desk.sources.now_ms)();
            self.client.say(&Reply::Flow(self.wanted.told(worker, flow, now_ms)))?;
        }
        if self.wanted.query.kill {
            self.doomed.push(Doomed { slot, client: flow.client });
            if self.doomed.len() == DOOMED_AT_ONCE {
                self.end(worker)?;
            }
        }
        Ok(())
    }

    /// Has the worker end what was found of its.
    fn end(&mut self, worker: usize) -> io::Result<()> {
        if self.doomed.is_empty() {
            return Ok(());
        }
        let doomed = std::mem::replace(&mut self.doomed, Vec::with_capacity(DOOMED_AT_ONCE));
        let desk = self.client.desk;
        let ended = desk.errands.run(&desk.sources.shared, worker, Task::End(doomed), |errand| match errand
            .answer()
        {
            Some(Answer::Ended(ended)) => Some(*ended),
            _ => None,
        });
        match ended {
            Ok(ended) => {
                self.progress.ended += ended;
                Ok(())
            }
            Err(message) => {
                self.client.refuse(message.clone())?;
                Err(io::Error::other(message))
            }
        }
    }
}

impl Wanted {
    fn has(&self, flow: &SeenFlow) -> bool {
        let FlowQuery { client, backend, backend_port, state, .. } = &self.query;
        let is_in = |network: &Option<ipnet::IpNet>, address: Address| {
            network.is_none_or(|network| network.contains(&address.ip()))
        };
        is_in(client, flow.client.source.0)
            && is_in(backend, flow.reply.source.0)
            && backend_port.is_none_or(|port| flow.reply.source.1 == port)
            && state.as_ref().is_none_or(|state| flow.state.name() == state)
            && self.service.as_ref().is_none_or(|beginning| {
                service(&self.tables, Some(flow.client)).is_some_and(|key| key.starts_with(beginning))
            })
    }

    fn told(&self, worker: usize, flow: &SeenFlow, now_ms: u32) -> Flow {
        let end = |(address, port): (Address, u16)| SocketAddr::new(address.ip(), port);
        let SeenFlow { client, reply, state, last_seen } = *flow;
        let Tuple { protocol, source, destination } = client;
        Flow {
            worker: worker as u32,
            protocol: super::explain::protocol_name(protocol),
            client: end(source),
            frontend: end(destination),
            service: service(&self.tables, Some(client)),
            backend: end(reply.source),
            seen_as: end(if state.is_one_way() { source } else { reply.destination }),
            state: state.name().into(),
            idle_ms: now_ms.wrapping_sub(last_seen).cast_signed().max(0).unsigned_abs(),
        }
    }
}
