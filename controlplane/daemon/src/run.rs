//! Everything together: socket, etcd, source, controllers, publisher, until a signal comes.

use crate::etcd::client::Connector;
use crate::etcd::private::PrivateEtcd;
use crate::etcd::source;
use crate::standalone::{slices, waiting};
use crate::state::State;
use crate::{admin, fleet, publish, service_manager};
use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use turnpike_wire::config::{ClusterMode, Config};

/// Wait between attempts to read or make the fleet's key.
const FLEET_RETRY: Duration = Duration::from_millis(500);

/// Reads the files that the configuration names: certificates and passwords of etcd, the kubeconfig. Asks nobody.
pub async fn check(config: &Config) -> Result<()> {
    if !config.etcd.endpoints.is_empty() {
        Connector::new(&config.etcd)?;
    }
    if let Some(file) = &config.kubernetes.kubeconfig {
        crate::kubernetes::status::client(file, config.kubernetes.context.as_deref()).await?;
    }
    Ok(())
}

/// Runs until SIGINT or SIGTERM. Errors are those of the start; later ones are logged, shown in the status, and tried again.
pub async fn run(config: Config) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let socket = config.admin_socket();
    let state = Arc::new(State::new(config));
    let (connector, connected) = watch::channel(None);
    tokio::spawn(admin::serve(admin::open(&socket)?, state.clone(), connected));

    let (stop, stopping) = watch::channel(false);
    let started = tokio::select! {
        started = start(&state, stopping) => started,
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    };
    let Ok(Some((own_connector, keeper))) = started else {
        let _ = std::fs::remove_file(&socket);
        return started.map(drop);
    };
    connector.send_replace(Some(own_connector.clone()));
    let follower = tokio::spawn(source::follow(own_connector.clone(), state.clone()));
    tokio::spawn(share_fleet(own_connector.clone(), state.clone()));
    if state.config.cluster.mode == ClusterMode::Standalone {
        tokio::spawn(waiting::control(state.clone(), own_connector.clone()));
        tokio::spawn(slices::control(state.clone(), own_connector));
    } else {
        crate::kubernetes::start(&state, &own_connector).await?;
    }
    crate::dns::start(&state)?;
    crate::health::start(&state);
    crate::metrics::start(&state);
    crate::fill::start(&state);
    let end = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (state, end, runtime) = (state.clone(), end.clone(), tokio::runtime::Handle::current());
        std::thread::Builder::new()
            .name("publish".into())
            .spawn(move || publish::run(&state, &runtime, &end))
            .context("cannot start a thread")?
    };

    service_manager::ready();
    let wanted = tokio::select! {
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
        () = service_manager::keep_alive(|| !publisher.is_finished()) => false,
    };
    service_manager::stopping();
    info!("ending; the dataplane goes on with what it knows");
    end.store(true, Ordering::Relaxed);
    let _ = std::fs::remove_file(&socket);
    let _ = tokio::task::spawn_blocking(move || publisher.join()).await;
    // Not a loss worth a word: the private etcd ends next.
    follower.abort();
    stop.send_replace(true);
    if let Some(keeper) = keeper {
        let _ = keeper.await;
    }
    ensure!(
        wanted,
        "the thread that speaks with the dataplane ended unexpectedly; what is above says why. Start this program again"
    );
    Ok(())
}

type Started = (Connector, Option<tokio::task::JoinHandle<()>>);

/// The connection's settings, and the private etcd where none is configured.
async fn start(state: &Arc<State>, stopping: watch::Receiver<bool>) -> Result<Option<Started>> {
    let configured = &state.config.etcd;
    let started = if configured.endpoints.is_empty() {
        let etcd = PrivateEtcd::start(&state.config.gateway.state_dir).await?;
        let connector = Connector::new(&etcd.settings())?;
        state.etcd(|e| e.private = true);
        (connector, Some(tokio::spawn(etcd.look_after(stopping))))
    } else {
        (Connector::new(configured)?, None)
    };
    state.etcd(|e| e.endpoints = started.0.endpoints().to_vec());
    Ok(Some(started))
}

/// Reads or makes what the fleet shares, as often as it takes; again when etcd is another one or has gone back.
async fn share_fleet(connector: Connector, state: Arc<State>) {
    let key = state.own_key("fleet/maglev-key");
    let mut said = String::new();
    loop {
        let shared = async {
            let mut client = connector.connect().await?;
            fleet::read_or_make(&mut client, &key, state.config.cluster.node_port_range).await
        };
        match shared.await {
            Ok(fleet) => {
                said.clear();
                state.set_fleet(fleet);
                let relists = || state.etcd(|etcd| etcd.relists);
                let known = relists();
                while relists() == known {
                    tokio::time::sleep(FLEET_RETRY).await;
                }
                continue;
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != said {
                    warn!("{text}");
                    said = text;
                }
            }
        }
        tokio::time::sleep(FLEET_RETRY).await;
    }
}
