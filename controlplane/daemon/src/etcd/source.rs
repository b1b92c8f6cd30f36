//! The first stage of a Service's walk: events out of etcd. Next: `desired::envelope` decodes, `desired::tracker` keeps.
//!
//! Everything is listed at one revision, then watched from the next. What breaks a watch decides what follows: a lost connection is made anew
//! and the watch goes on where it was; a compacted revision, another cluster or a revision that went back mean a new list, which is compared
//! with what is known. Whatever happens, the state before stays in force until then.

use crate::etcd::client::{Connector, explain, limited, lists, watches};
use crate::state::{Fresh, State};
use anyhow::{Context, Result, bail};
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use turnpike_desired::object::Kind;
use turnpike_wire::config::ClusterMode;

/// Objects of one page of a list.
const PAGE: i64 = 1_000;
/// How long further events are waited for, to be taken together.
const GATHER: Duration = Duration::from_millis(1);
/// How long the first of them may wait for the others.
const GATHER_LIMIT: Duration = Duration::from_millis(5);
/// How often the watch is asked how far it is; silence for three times as long ends the connection.
const PROGRESS: Duration = Duration::from_secs(3);
/// Waits between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// etcd key.
    pub key: Vec<u8>,
    /// New value; none: deleted.
    pub value: Option<Vec<u8>>,
    /// etcd revision of the change.
    pub revision: i64,
}

/// Most watches of a stream.
const WATCHES_MAX: usize = Kind::ALL.len();

/// What a stream needs to go on.
#[derive(Clone, Copy, Debug)]
struct Position {
    cluster: u64,
    /// The youngest revision of all that was seen.
    revision: i64,
    /// How far each watch is, in the order of [`watched`]. One may be far ahead of another while a stream catches up: only of its own events
    /// has a watch left none out.
    reached: [i64; WATCHES_MAX],
}

impl Position {
    const fn listed(cluster: u64, revision: i64) -> Self {
        Self { cluster, revision, reached: [revision; WATCHES_MAX] }
    }

    /// How far the watch of this id is. etcd counts the watches of a stream from 0 in the order they were asked for.
    fn reached(&mut self, watch: i64) -> Option<&mut i64> {
        usize::try_from(watch).ok().and_then(|watch| self.reached.get_mut(watch))
    }
}

/// Why a watch ended.
enum End {
    /// The connection; go on from here.
    Lost(anyhow::Error),
    /// History; list anew.
    Relist(String),
}

/// Follows etcd for ever.
pub async fn follow(connector: Connector, state: Arc<State>) {
    let mut position: Option<Position> = None;
    let mut backoff = BACKOFF.0;
    loop {
        match session(&connector, &state, &mut position, &mut backoff).await {
            End::Relist(reason) => {
                warn!("listing everything anew: {reason}");
                state.etcd(|etcd| {
                    etcd.relists += 1;
                    etcd.state = "connecting".into();
                });
                position = None;
            }
            End::Lost(error) => {
                let text = format!("{error:#}");
                state.etcd(|etcd| {
                    if etcd.state == "connected" {
                        etcd.reconnects += 1;
                    }
                    etcd.state = "disconnected".into();
                    if etcd.last_error.as_ref() != Some(&text) {
                        warn!("{text}; what was known stays in force");
                    }
                    etcd.last_error = Some(text.clone());
                });
                // A little randomness, so that the gateways of a fleet do not all come at once.
                let jitter = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
                tokio::time::sleep(backoff + backoff * jitter / 512).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
    }
}

/// One connection, from connecting until it breaks.
async fn session(
    connector: &Connector,
    state: &State,
    position: &mut Option<Position>,
    backoff: &mut Duration,
) -> End {
    let client = match connector.connect().await {
        Ok(client) => client,
        Err(error) => return End::Lost(error),
    };
    let lost = |error: anyhow::Error| {
        End::Lost(error.context(format!("etcd at {}", connector.endpoints().join(", "))))
    };
    let start = match *position {
        Some(known) => match still_there(&client, state, known).await {
            Ok(None) => known,
            Ok(Some(reason)) => return End::Relist(reason),
            Err(error) => return lost(error),
        },
        None => match list(&client, state).await {
            Ok(listed) => *position.insert(listed),
            Err(error) => return lost(error),
        },
    };
    state.etcd(|etcd| {
        etcd.state = "connected".into();
        etcd.last_error = None;
    });
    *backoff = BACKOFF.0;
    info!(revision = start.revision, "following etcd");
    let mut watch = match open_watch(&client, state, start).await {
        Ok(watch) => watch,
        Err(error) => return lost(error),
    };
    loop {
        let responses = match gather(&mut watch).await {
            Ok(responses) => responses,
            Err(error) => return lost(error),
        };
        match take(&responses, state, position) {
            Ok(()) => {}
            Err(End::Lost(error)) => return lost(error),
            Err(end) => return end,
        }
    }
}

/// Why a watch cannot go on from `known` in this etcd, if it cannot. A read is asked of the leader; the answers of a watch may come from a
/// member that lags behind, and say nothing about that.
async fn still_there(client: &Client, state: &State, known: Position) -> Result<Option<String>> {
    let options = GetOptions::new().with_count_only();
    let service = state.registry().list_prefix(Kind::Service);
    let answer = limited(lists(client).get(service, Some(options))).await?;
    let header = answer.header().context("etcd answered without a header")?;
    Ok(if header.cluster_id() != known.cluster {
        Some("this is another etcd cluster".into())
    } else if header.revision() < known.revision {
        Some(format!("etcd went back from revision {} to {}", known.revision, header.revision()))
    } else {
        None
    })
}

/// Lists all kinds at one revision and makes that the state.
async fn list(client: &Client, state: &State) -> Result<Position> {
    let mut position: Option<Position> = None;
    let mut lists = lists(client);
    let mut fresh = Vec::new();
    for kind in Kind::ALL {
        let prefix = state.registry().list_prefix(kind).into_bytes();
        let end = etcd_end(&prefix);
        let mut objects = Vec::new();
        let mut from = prefix;
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            if let Some(known) = position {
                options = options.with_revision(known.revision);
            }
            let page = limited(lists.get(from.clone(), Some(options)))
                .await
                .with_context(|| format!("cannot list {kind:?}"))?;
            let header = page.header().context("etcd answered without a header")?;
            position.get_or_insert(Position::listed(header.cluster_id(), header.revision()));
            objects.extend(page.kvs().iter().map(|kv| Change {
                key: kv.key().to_vec(),
                value: Some(kv.value().to_vec()),
                revision: kv.mod_revision(),
            }));
            match page.kvs().last() {
                Some(last) if page.more() => from = [last.key(), &[0]].concat(),
                _ => break,
            }
        }
        fresh.push(Fresh { kind, objects });
    }
    let position = position.context("nothing was listed")?;
    state.replace(&fresh, position.revision);
    Ok(position)
}

/// What to watch. In standalone mode one transaction writes objects of several kinds, so one watch has them all: etcd never splits a
/// revision over two answers of one watch. A kube-apiserver writes one object at a time and keeps much else under the prefix.
fn watched(state: &State) -> Vec<String> {
    match state.config.cluster.mode {
        ClusterMode::Standalone => {
            vec![format!("/{}/", state.config.cluster.registry_prefix.trim_matches('/')).replace("//", "/")]
        }
        ClusterMode::Kubernetes => Kind::ALL.map(|kind| state.registry().list_prefix(kind)).into(),
    }
}

/// One stream with all watches.
async fn open_watch(client: &Client, state: &State, start: Position) -> Result<WatchStream> {
    let mut stream: Option<WatchStream> = None;
    for (prefix, reached) in watched(state).into_iter().zip(start.reached) {
        let options =
            Some(WatchOptions::new().with_prefix().with_start_revision(reached + 1).with_progress_notify());
        match &mut stream {
            None => {
                let opened = limited(watches(client).watch(prefix, options)).await;
                stream = Some(opened.context("cannot watch")?);
            }
            Some(stream) => stream.watch(prefix, options).await.map_err(explain).context("cannot watch")?,
        }
    }
    stream.context("nothing to watch")
}

/// The next response, and what follows it at once.
async fn gather(watch: &mut WatchStream) -> Result<Vec<WatchResponse>> {
    let mut responses = Vec::new();
    for silence in 0.. {
        match tokio::time::timeout(PROGRESS, watch.message()).await {
            Ok(message) => {
                responses.push(message.map_err(explain)?.context("etcd closed the watch")?);
                break;
            }
            Err(_) if silence >= 3 => bail!("etcd has been silent for {:?}", PROGRESS * silence),
            Err(_) => watch.request_progress().await.map_err(explain)?,
        }
    }
    let end = Instant::now() + GATHER_LIMIT;
    while Instant::now() < end {
        match tokio::time::timeout(GATHER, watch.message()).await {
            Ok(message) => responses.push(message.map_err(explain)?.context("etcd closed the watch")?),
            Err(_) => break,
        }
    }
    Ok(responses)
}

/// Takes the events of responses, all at once.
fn take(responses: &[WatchResponse], state: &State, position: &mut Option<Position>) -> Result<(), End> {
    let known = position.ok_or_else(|| End::Relist("nothing was listed".into()))?;
    let mut changes = Vec::new();
    let mut next = known;
    for response in responses {
        if response.compact_revision() > 0 {
            return Err(End::Relist(format!(
                "history up to revision {} is gone",
                response.compact_revision()
            )));
        }
        if response.canceled() {
            return Err(End::Lost(anyhow::anyhow!("etcd ended the watch: {}", response.cancel_reason())));
        }
        if response.header().is_some_and(|header| header.cluster_id() != known.cluster) {
            return Err(End::Relist("this is another etcd cluster".into()));
        }
        // Only word of a watch's own progress counts: etcd before 3.4.25 answers the question for all with a revision that events may still
        // be missing of (watch id -1).
        if response.events().is_empty()
            && !response.created()
            && let (Some(header), Some(reached)) = (response.header(), next.reached(response.watch_id()))
        {
            *reached = header.revision().max(*reached);
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            next.revision = next.revision.max(kv.mod_revision());
            if let Some(reached) = next.reached(response.watch_id()) {
                *reached = kv.mod_revision().max(*reached);
            }
            let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
            changes.push(Change { key: kv.key().to_vec(), value, revision: kv.mod_revision() });
        }
    }
    if !changes.is_empty() {
        // Watches of several kinds come one after the other; together they are in the order of revisions.
        changes.sort_by_key(|change| change.revision);
        state.change(&changes, next.revision);
    }
    *position = Some(next);
    Ok(())
}

/// The first key behind all keys with this prefix.
fn etcd_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // A list prefix ends with a slash, whose successor exists.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
