//! The Unix socket of the CLI: one request a line, one reply a line.

use crate::etcd::client::Connector;
use crate::standalone::{apply, plan};
use crate::state::State;
use crate::view;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};
use turnpike_wire::admin::{LINE_BYTES_MAX, Reply, Request, Resource};

/// Conversations at the same time; more wait.
const CONVERSATIONS_MAX: usize = 64;
/// How long a request waits for etcd to be there and read.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Opens the socket, for its owner only. One that a killed control plane left is replaced, one that answers is not.
pub fn open(path: &Path) -> Result<UnixListener> {
    let folder = path.parent().context("the admin socket has no folder")?;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).with_context(|| {
        format!("cannot make {}; set gateway.run_dir to a folder that can be written", folder.display())
    })?;
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            bail!("{} is there and is no socket; remove it", path.display());
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!(
                "another control plane answers at {}; stop it, or give this gateway another gateway.run_dir",
                path.display()
            );
        }
        fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot open {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot close {} to others", path.display()))?;
    Ok(listener)
}

/// Answers for ever. `connector` comes once there is an etcd.
pub async fn serve(listener: UnixListener, state: Arc<State>, connector: watch::Receiver<Option<Connector>>) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (state, connector) = (state.clone(), connector.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &state, &connector).await {
                        debug!("a conversation ended: {error:#}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!("the admin socket: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    stream: UnixStream,
    state: &State,
    connector: &watch::Receiver<Option<Connector>>,
) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        if (&mut reader).take(limit).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let too_long = line.len() > LINE_BYTES_MAX;
        let reply = match serde_json::from_slice(&line) {
            _ if too_long => Reply::Error {
                message: format!("a request has at most {LINE_BYTES_MAX} bytes; send it in parts"),
            },
            Ok(request) => answer(request, state, connector.clone()).await,
            Err(error) => Reply::Error {
                message: format!(
                    "this is no request this control plane knows: {error}; run the same release of both programs"
                ),
            },
        };
        let mut bytes = serde_json::to_vec(&reply)?;
        bytes.push(b'\n');
        writer.write_all(&bytes).await?;
        if too_long {
            return Ok(());
        }
    }
}

async fn answer(request: Request, state: &State, connector: watch::Receiver<Option<Connector>>) -> Reply {
    let changed = match request {
        Request::AcceptView => {
            return state.accept_view().map_or_else(
                || Reply::Error {
                    message: "no view of etcd is held back; turnpike status shows how it is".into(),
                },
                Reply::Accepted,
            );
        }
        Request::Status => return Reply::Status(Box::new(view::status(state))),
        Request::Get { resource, namespace, name, client } => match ready_to_show(state, resource).await {
            Ok(()) => {
                return Reply::Items {
                    items: view::items(state, resource, namespace.as_deref(), name.as_deref(), client),
                };
            }
            Err(error) => Err(error),
        },
        Request::Plan { objects } => {
            let planned = match ready_to_change(state, connector).await {
                Ok(_) => plan::plan(state, &objects).await,
                Err(error) => Err(error),
            };
            return match planned {
                Ok(planned) => Reply::Planned(Box::new(planned)),
                Err(error) => Reply::Error { message: format!("{error:#}") },
            };
        }
        Request::Apply { objects, dry_run: true } => {
            ready_to_change(state, connector).await.and_then(|_| apply::dry_run(state, &objects))
        }
        Request::Apply { objects, dry_run: false } => match ready_to_change(state, connector).await {
            Ok(connector) => apply::apply(state, &connector, &objects).await,
            Err(error) => Err(error),
        },
        Request::Delete { objects, ignore_not_found } => match ready_to_change(state, connector).await {
            Ok(connector) => apply::delete(state, &connector, &objects, ignore_not_found).await,
            Err(error) => Err(error),
        },
    };
    match changed {
        Ok(results) => Reply::Changed { results },
        Err(error) => Reply::Error { message: format!("{error:#}") },
    }
}

/// Right after the start etcd may need a moment; later this is true at once.
async fn ready_to_change(
    state: &State,
    mut connector: watch::Receiver<Option<Connector>>,
) -> Result<Connector> {
    apply::only_standalone(state)?;
    let there = tokio::time::timeout(START_LIMIT, connector.wait_for(Option::is_some)).await;
    let there = there.ok().and_then(Result::ok).and_then(|connector| connector.clone());
    let connector = there.context("etcd is not there; turnpike status says why")?;
    if let Some(held) = state.etcd(|etcd| etcd.held_back.clone()) {
        bail!("nothing is changed while the view of etcd is held back: {}", held.reason);
    }
    read_once(state).await?;
    Ok(connector)
}

/// What comes from etcd is shown once it has been read: an empty list before would be a lie.
async fn ready_to_show(state: &State, resource: Resource) -> Result<()> {
    match resource {
        Resource::Gateways | Resource::Ports | Resource::Workers => Ok(()),
        _ => read_once(state).await,
    }
}

async fn read_once(state: &State) -> Result<()> {
    let mut revision = state.revision();
    let read = tokio::time::timeout(START_LIMIT, revision.wait_for(|revision| *revision > 0)).await;
    read.ok().and_then(Result::ok).map(drop).context("etcd has not been read yet; turnpike status says why")
}
