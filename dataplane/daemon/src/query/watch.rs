//! `turnpike trace` and `capture`: from workers' notes to lines.

use super::explain::{end, ends, protocol_name};
use super::{Client, Desk, Sources};
use rustix::net::{RecvFlags, recv};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use turnpike_forward::explain::Tuple;
use turnpike_forward::flow_key::{FlowKey, FlowKey6};
use turnpike_forward::service_table::Tables;
use turnpike_forward::verdict::Verdict;
use turnpike_forward::watch::{From, Note, Snap, Watch as Watching, ethertype, transport_of, tuple_of};
use turnpike_packet::tcp::flags;
use turnpike_packet::{ethernet, ipv4, ipv6};
use turnpike_wire::dataplane::{Passing, Reply, Sighting, Watch, Watched};
use turnpike_wire::filter::Filter;

/// Most bytes of each frame: of a jumbo frame all.
const SNAP_BYTES_MAX: u32 = 9_216;
/// Rest after a look that found nothing.
const REST: Duration = Duration::from_millis(1);
/// Notes of one worker that are told before the next worker's turn.
const NOTES_PER_ROUND: usize = 256;

/// A watch that is open, ended however this goes out of scope.
struct Open<'a> {
    desk: &'a Desk,
    watch: Arc<Watching>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.desk.sources.shared.open_watch(None);
        // Workers hold it for a moment yet, and must not be the ones who free it.
        let mut kept = self.desk.watches.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|watch| Arc::strong_count(watch) > 1);
        kept.push(Arc::clone(&self.watch));
        drop(kept);
        self.desk.is_watched.store(false, Ordering::Release);
    }
}

impl Client<'_> {
    /// Tells what is seen until the client has had enough.
    pub(super) fn watch(&mut self, asked: &Watch) -> io::Result<()> {
        let filter = match checked(asked) {
            Ok(filter) => filter,
            Err(message) => return self.refuse(message),
        };
        if self.desk.is_watched.swap(true, Ordering::AcqRel) {
            return self.refuse("somebody traces or captures already; end that first".into());
        }
        let sources = &self.desk.sources;
        let workers = sources.shared.gateway.workers();
        let watch = Watching::new(filter, asked.sample, asked.snap_bytes as usize, workers);
        let open = Open { desk: self.desk, watch: Arc::clone(&watch) };
        sources.shared.open_watch(Some(Arc::clone(&watch)));
        let until = asked.duration_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let most = asked.count.unwrap_or(u64::MAX);
        let mut told = 0;
        let why = 'watching: loop {
            let mut found = false;
            // What is known of Services is looked up once for all that lies there.
            let tables = sources.shared.tables();
            for worker in 0..workers {
                for _ in 0..NOTES_PER_ROUND {
                    let mut sighting = None;
                    if !watch
                        .next(worker, |note| sighting = Some(told_of(sources, &tables, worker, note, asked)))
                    {
                        break;
                    }
                    found = true;
                    if let Some(sighting) = sighting {
                        self.say(&Reply::Sighting(Box::new(sighting)))?;
                        told += 1;
                    }
                    if told >= most {
                        break 'watching "count";
                    }
                }
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break "time";
            }
            if self.desk.stop.load(Ordering::Relaxed) || has_had_enough(self.stream) {
                break "stopped";
            }
            if !found {
                std::thread::sleep(REST);
            }
        };
        let lost = watch.lost();
        drop(open);
        self.say(&Reply::Watched(Watched { told, lost, why: why.into() }))
    }
}

/// The filter, if everything that is asked can be.
fn checked(asked: &Watch) -> Result<Filter, String> {
    let filter: Filter =
        asked.filter.parse().map_err(|error: turnpike_wire::filter::FilterError| error.to_string())?;
    if let Some(name) =
        filter.verdicts().into_iter().find(|name| !Verdict::ALL.iter().any(|verdict| verdict.name() == *name))
    {
        return Err(format!(
            "there is no verdict {name}; the GUIDE lists them, and turnpike status shows those that came up"
        ));
    }
    if asked.sample == 0 {
        return Err("a sample is every packet (1) or every so many-th, not every 0th".into());
    }
    if asked.snap_bytes > SNAP_BYTES_MAX {
        return Err(format!(
            "at most {SNAP_BYTES_MAX} bytes of each frame are kept, not {}",
            asked.snap_bytes
        ));
    }
    if asked.count == Some(0) {
        return Err("0 packets are none to watch".into());
    }
    Ok(filter)
}

/// Whether the client has closed its side, or sends something that nobody reads: it wants no more.
pub(super) fn has_had_enough(stream: &UnixStream) -> bool {
    let mut byte = [0u8; 1];
    recv(stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok()
}

fn told_of(sources: &Sources, tables: &Tables, worker: usize, note: &Note, asked: &Watch) -> Sighting {
    let tuple = tuple_of(&note.came.bytes);
    let flow = note.flow[1].or(note.flow[0]);
    let age_ms = (sources.now_ms)().wrapping_sub(note.now_ms).cast_signed().max(0).unsigned_abs();
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let verdicts: Vec<String> = note.verdicts.iter().map(|verdict| verdict.name().to_owned()).collect();
    Sighting {
        worker: worker as u32,
        number: note.number,
        time_us: now_us.saturating_sub(u64::from(age_ms) * 1_000) / 1_000 * 1_000,
        came: passing(sources, &note.came, asked),
        from: match note.from {
            From::Wire => "wire",
            From::Worker => "worker",
            From::Held => "held",
        }
        .into(),
        packet: packet(&note.came.bytes, tuple.as_ref()),
        service: service(tables, flow.map(|flow| flow.client).or(tuple)),
        flow_before: note.flow[0].map(|flow| flow.state.name().to_owned()),
        flow_after: note.flow[1].map(|flow| flow.state.name().to_owned()),
        backend: flow.map(|flow| end(flow.reply.source)),
        verdicts: if verdicts.is_empty() { vec!["held".into()] } else { verdicts },
        left: note.left.iter().map(|snap| passing(sources, snap, asked)).collect(),
        left_more: note.left_more,
    }
}

/// The Service port that a client's packets are for.
pub(super) fn service(tables: &Tables, client: Option<Tuple>) -> Option<String> {
    let client = client?;
    let frontend = match client.key::<FlowKey>() {
        Some(key) => tables.frontend(key),
        None => tables.frontend(client.key::<FlowKey6>()?),
    };
    Some(tables.service(frontend?.service)?.key.0.clone())
}

fn passing(sources: &Sources, snap: &Snap, asked: &Watch) -> Passing {
    let port = usize::from(snap.port);
    Passing {
        port: sources.ports.get(port).cloned().unwrap_or_else(|| port.to_string()),
        frame_bytes: snap.frame_len as u32,
        ends: tuple_of(&snap.bytes).as_ref().map(ends),
        hex: hex(&snap.bytes[..snap.bytes.len().min(asked.snap_bytes as usize)]),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}

/// A packet in words.
fn packet(frame: &[u8], tuple: Option<&Tuple>) -> String {
    let Some(tuple) = tuple else {
        return match ethertype(frame) {
            ethernet::ARP => "arp".into(),
            other => format!("ethertype 0x{other:04x}"),
        };
    };
    let l4 = transport_of(frame).and_then(|(_, l4)| l4);
    let name = protocol_name(tuple.protocol);
    let detail = match (tuple.protocol, l4) {
        (_, None) => " fragment".to_owned(),
        (ipv4::TCP, Some(l4)) => frame.get(l4 + 13).map_or_else(String::new, |&bits| tcp_flags(bits)),
        (ipv4::ICMP | ipv6::ICMP, Some(l4)) => match frame.get(l4..l4 + 2) {
            Some(&[kind, code]) => format!(" type {kind} code {code}"),
            _ => String::new(),
        },
        _ => String::new(),
    };
    format!("{name}{detail}")
}

fn tcp_flags(bits: u8) -> String {
    let names = [(flags::SYN, " SYN"), (flags::FIN, " FIN"), (flags::RST, " RST"), (flags::ACK, " ACK")];
    names.iter().filter(|(flag, _)| bits & flag != 0).map(|(_, name)| *name).collect()
}
