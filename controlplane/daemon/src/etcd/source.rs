//! The first stage of a Service's walk: events out of etcd. Next: [`crate::etcd::cut`], then [`crate::state`], where `desired::envelope`
//! decodes and `desired::tracker` keeps.
//!
//! Everything is listed at one revision, then watched from the next, one member at a time. What breaks a watch decides what follows: a lost
//! connection is made anew, to the next member, and each watch goes on where it was; a compacted revision, another cluster, a revision that
//! went back or another history mean a new list, which is compared with what is known. Whatever happens, the state before stays in force
//! until then.

use crate::etcd::Change;
use crate::etcd::client::{Connector, Refusal, explain, limited, lists, request, watches};
use crate::etcd::cut::{Cut, Progress, Step};
use crate::etcd::guard;
use crate::etcd::list::{Listed, is_readable, list, without};
use crate::state::State;
use anyhow::{Context, Result};
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use turnpike_desired::object::Kind;
use turnpike_desired::registry::Part;
use turnpike_wire::config::ClusterMode;

/// A watch that is silent for this long is suspected; a read then tells whether the member lives.
const SILENCE: Duration = Duration::from_secs(9);
/// Waits between attempts to connect, once every member was tried.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often it is tried whether what could not be read can be.
const DENIED_RETRY: Duration = Duration::from_secs(30);

/// What is needed to go on after a break.
struct Position {
    cluster: u64,
    cut: Cut,
    /// Prefixes that are watched, in the order of their watches.
    watched: Vec<String>,
    denied: Vec<Part>,
    /// A key and the revision it was written at: in another history it is not.
    witness: Option<(Vec<u8>, i64)>,
}

/// Why a session ended.
enum End {
    /// The connection; go on from here.
    Lost(anyhow::Error),
    /// History; list anew.
    Relist(String),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Compacted => Self::Relist("history was compacted while it was read".into()),
            Refusal::Denied(text) => Self::Lost(anyhow::Error::msg(text)),
            Refusal::Other(error) => Self::Lost(error),
        }
    }
}

/// Follows etcd for ever.
pub async fn follow(connector: Connector, state: Arc<State>) {
    tokio::spawn(guard::remember(state.clone()));
    let mut position: Option<Position> = None;
    let mut backoff = BACKOFF.0;
    // Not every gateway of a fleet begins with the first member.
    let mut member = usize::from(random());
    let mut tried = 0;
    loop {
        match session(&connector, member, &state, &mut position).await {
            (End::Relist(reason), _) => {
                warn!("listing everything anew: {reason}");
                state.etcd(|etcd| {
                    etcd.relists += 1;
                    etcd.state = "connecting".into();
                });
                position = None;
            }
            (End::Lost(error), followed) => {
                let member_name = format!("etcd at {}", connector.member(member));
                let text = format!("{error:#}");
                // An error of the connection names the member by itself.
                let text =
                    if text.starts_with(&member_name) { text } else { format!("{member_name}: {text}") };
                state.etcd(|etcd| {
                    if followed {
                        etcd.reconnects += 1;
                    }
                    etcd.state = "disconnected".into();
                    if etcd.last_error.as_ref() != Some(&text) {
                        warn!("{text}; what was known stays in force");
                    }
                    etcd.last_error = Some(text.clone());
                });
                if followed {
                    (backoff, tried) = (BACKOFF.0, 0);
                }
                member = member.wrapping_add(1);
                tried += 1;
                let wait = if tried < connector.endpoints().len() { BACKOFF.0 / 4 } else { backoff };
                // A little randomness, so that the gateways of a fleet do not all come at once.
                tokio::time::sleep(wait + wait * u32::from(random()) / 512).await;
                if tried >= connector.endpoints().len() {
                    (backoff, tried) = ((backoff * 2).min(BACKOFF.1), 0);
                }
                if let Some(position) = &mut position {
                    // What other watches were to confirm is not kept for ever.
                    position.take_overdue(&state);
                }
            }
        }
    }
}

fn random() -> u8 {
    uuid::Uuid::new_v4().as_bytes()[0]
}

/// One connection, from connecting until it breaks. Also says whether it came as far as following.
async fn session(
    connector: &Connector,
    member: usize,
    state: &State,
    position: &mut Option<Position>,
) -> (End, bool) {
    let (mut stream, client) = match open(connector, member, state, position).await {
        Ok(opened) => opened,
        Err(end) => return (end, false),
    };
    let Some(position) = position else { return (End::Relist("nothing was listed".into()), false) };
    info!(revision = position.cut.revision(), member = connector.member(member), "following etcd");
    (run(&mut stream, &client, state, position).await, true)
}

/// Connects, lists if need be, and watches.
async fn open(
    connector: &Connector,
    member: usize,
    state: &State,
    position: &mut Option<Position>,
) -> Result<(WatchStream, Client), End> {
    let mut client = connector.connect_to_member(member).await.map_err(End::Lost)?;
    let version = match request(client.status()).await {
        Ok(status) => status.version().to_owned(),
        // A proxy that has no such answer, or a user who may not ask.
        Err(_) => String::new(),
    };
    if let Some(known) = &position
        && let Some(reason) = break_in_history(&client, state, known).await?
    {
        return Err(End::Relist(reason));
    }
    let position = match position {
        Some(known) => known,
        None => {
            let listed = list(&client, state.registry()).await?;
            state.replace(&listed);
            position.insert(Position::listed(state, &listed))
        }
    };
    let stream = position.watch(&client).await.map_err(End::Lost)?;
    position.cut.opened(Progress::of_version(&version), Instant::now());
    state.heard();
    state.etcd(|etcd| {
        etcd.state = "connected".into();
        etcd.last_error = None;
        etcd.member = format!("{} (etcd {version})", connector.member(member));
        etcd.warnings = position.denied.iter().map(|part| without(state.registry(), *part)).collect();
    });
    Ok((stream, client))
}

/// Why watches cannot go on from `known` in this etcd, if they cannot. A read is asked of the leader; the answers of a watch may come from a
/// member that lags behind, and say nothing about that.
async fn break_in_history(client: &Client, state: &State, known: &Position) -> Result<Option<String>, End> {
    let mut kv = lists(client);
    let services = state.registry().list_prefix(Kind::Service);
    let answer = request(kv.get(services, Some(GetOptions::new().with_count_only()))).await?;
    let header = answer.header().context("etcd answered without a header").map_err(End::Lost)?;
    if header.cluster_id() != known.cluster {
        return Ok(Some("this is another etcd cluster".into()));
    }
    if header.revision() < known.cut.revision() {
        let (from, to) = (known.cut.revision(), header.revision());
        return Ok(Some(format!("etcd went back from revision {from} to {to}")));
    }
    let Some((key, revision)) = &known.witness else { return Ok(None) };
    let answer = request(kv.get(key.clone(), Some(GetOptions::new().with_keys_only()))).await?;
    if answer.kvs().first().is_some_and(|kv| kv.mod_revision() == *revision) {
        return Ok(None);
    }
    // It was written again or deleted since; then it is there at its revision.
    let then = GetOptions::new().with_keys_only().with_revision(*revision);
    match request(kv.get(key.clone(), Some(then))).await {
        Ok(answer) if answer.kvs().first().is_some_and(|kv| kv.mod_revision() == *revision) => Ok(None),
        Ok(_) => Ok(Some(format!("etcd was restored: its revision {revision} is not the one that was seen"))),
        Err(Refusal::Compacted) => Ok(Some(format!("history up to revision {revision} is gone"))),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Takes what the watches bring until they break.
async fn run(stream: &mut WatchStream, client: &Client, state: &State, position: &mut Position) -> End {
    let mut heard = Instant::now();
    let mut denied_due = heard + DENIED_RETRY;
    loop {
        let now = Instant::now();
        match position.cut.next(now) {
            Step::Take => position.take(state, now),
            Step::Ask => {
                if let Err(error) = stream.request_progress().await {
                    return End::Lost(explain(error));
                }
                position.cut.asked(now);
            }
            Step::Wait(until) => {
                let until = tokio::time::Instant::from_std(until);
                if let Ok(message) = tokio::time::timeout_at(until, stream.message()).await {
                    match message {
                        Ok(Some(response)) => {
                            heard = Instant::now();
                            state.heard();
                            if let Err(end) = position.hear(&response, heard) {
                                return end;
                            }
                        }
                        Ok(None) => return End::Lost(anyhow::anyhow!("etcd closed the watch")),
                        Err(error) => return End::Lost(explain(error)),
                    }
                }
            }
        }
        if now.saturating_duration_since(heard) > SILENCE {
            if position.cut.has_answered() {
                return End::Lost(anyhow::anyhow!("the watch has been silent for {SILENCE:?}"));
            }
            // Some servers answer no question about progress, or none before something has happened.
            match break_in_history(client, state, position).await {
                Ok(None) => (heard, _) = (Instant::now(), state.heard()),
                Ok(Some(reason)) => return End::Relist(reason),
                Err(end) => return end,
            }
        }
        if now >= denied_due {
            denied_due = now + DENIED_RETRY;
            for part in position.denied.clone() {
                if is_readable(client, state.registry(), part).await {
                    return End::Relist(format!("{} may be read now", state.registry().part_prefix(part)));
                }
            }
        }
    }
}

/// What to watch. In standalone mode one transaction writes objects of several kinds, so one watch has them all: etcd never splits a
/// revision over two answers of one watch. A kube-apiserver writes one object at a time and keeps much else under the prefix.
fn watched(state: &State, denied: &[Part]) -> Vec<String> {
    match state.config.cluster.mode {
        ClusterMode::Standalone => {
            vec![format!("/{}/", state.config.cluster.registry_prefix.trim_matches('/')).replace("//", "/")]
        }
        ClusterMode::Kubernetes => {
            let readable = Part::ALL.into_iter().filter(|part| !denied.contains(part));
            readable.map(|part| state.registry().part_prefix(part)).collect()
        }
    }
}

impl Position {
    fn listed(state: &State, listed: &Listed) -> Self {
        let watched = watched(state, &listed.denied);
        let lines = listed.parts.iter().flat_map(|(_, objects)| objects);
        let youngest = lines.max_by_key(|change| change.revision);
        Self {
            cluster: listed.cluster,
            cut: Cut::listed(watched.len(), listed.revision),
            watched,
            denied: listed.denied.clone(),
            witness: youngest.map(|change| (change.key.clone(), change.revision)),
        }
    }

    /// One stream with all watches. They require a leader, as every request of ours: a member that is cut off from it ends them.
    async fn watch(&self, client: &Client) -> Result<WatchStream> {
        let mut stream: Option<WatchStream> = None;
        for (prefix, start) in self.watched.iter().zip(self.cut.starts()) {
            let options =
                Some(WatchOptions::new().with_prefix().with_start_revision(start).with_progress_notify());
            match &mut stream {
                None => {
                    let mut client = watches(client);
                    let opened = limited(client.watch(prefix.as_str(), options)).await;
                    stream = Some(opened.context("cannot watch")?);
                }
                Some(stream) => {
                    stream.watch(prefix.as_str(), options).await.map_err(explain).context("cannot watch")?;
                }
            }
        }
        stream.context("nothing to watch")
    }

    /// Takes one answer of the server to the cut.
    fn hear(&mut self, response: &WatchResponse, now: Instant) -> Result<(), End> {
        if response.compact_revision() > 0 {
            let revision = response.compact_revision();
            return Err(End::Relist(format!("history up to revision {revision} is gone")));
        }
        if response.canceled() {
            let reason = response.cancel_reason();
            if reason.contains("permission denied") {
                return Err(End::Relist(format!("what may be read has changed: {reason}")));
            }
            return Err(End::Lost(anyhow::anyhow!("etcd ended the watch: {reason}")));
        }
        let Some(header) = response.header() else { return Ok(()) };
        if header.cluster_id() != self.cluster {
            return Err(End::Relist("this is another etcd cluster".into()));
        }
        if response.events().is_empty() {
            if !response.created() {
                self.cut.answer(response.watch_id(), header.revision(), now);
            }
            return Ok(());
        }
        let changes = response.events().iter().filter_map(|event| {
            let kv = event.kv()?;
            let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
            Some(Change { key: kv.key().to_vec(), value, revision: kv.mod_revision() })
        });
        self.cut.bring(response.watch_id(), changes, now);
        Ok(())
    }

    /// Makes what is whole the state.
    fn take(&mut self, state: &State, now: Instant) {
        let taken = self.cut.take(now);
        for change in &taken.changes {
            match (&change.value, &self.witness) {
                (Some(_), _) => self.witness = Some((change.key.clone(), change.revision)),
                (None, Some((key, _))) if *key == change.key => self.witness = None,
                (None, _) => {}
            }
        }
        if taken.is_forced {
            state.etcd(|etcd| etcd.cuts_forced += 1);
        }
        state.change(&taken.changes, taken.revision);
    }

    /// The same while there is no connection.
    fn take_overdue(&mut self, state: &State) {
        let now = Instant::now();
        if self.cut.next(now) == Step::Take {
            self.take(state, now);
        }
    }
}
