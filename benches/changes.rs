//! Endpoints that come and go while packets pass: each change a transaction of its own, compiled and published by a thread of its own.

use crate::world::{BACKENDS, World};
use anyhow::{Context, Result, anyhow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use turnpike_forward::mailbox::Shared;
use turnpike_forward::service_table::Tables;
use turnpike_forward::stage::Staging;
use turnpike_wire::update::{Commit, Protocol, Update};

/// Changes a second.
pub const CHANGES_PER_SECOND: u32 = 5_000;
/// The thread looks at the clock so often, and makes up for what it has missed.
const PAUSE: Duration = Duration::from_micros(200);

/// Changes one Service after the other until `stop`, on `core`, and gives how many changes a second it was. Each Service's last backend goes,
/// and comes back with the next change.
pub fn change(
    world: &World,
    staging: &mut Staging,
    shared: &Shared,
    core: u16,
    stop: &AtomicBool,
) -> Result<f64> {
    capsule::pin_to_core(core)?;
    let started = Instant::now();
    let mut replaced: Vec<Arc<Tables>> = Vec::new();
    let mut changes = 0u32;
    // A backend that went comes back, whatever happens.
    while !stop.load(Ordering::Relaxed) || changes % 2 == 1 {
        let due = started.elapsed().as_secs_f64() * f64::from(CHANGES_PER_SECOND);
        if f64::from(changes) >= due && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
            continue;
        }
        let service = changes / 2 % world.services;
        let update = match changes % 2 {
            0 => world.drop_backend(service, Protocol::Tcp, BACKENDS - 1),
            _ => world.put_backend(service, Protocol::Tcp, BACKENDS - 1),
        };
        replaced.push(shared.publish(committed(staging, update)?));
        changes += 1;
        // What no worker holds any more is freed here, as the control thread does it.
        replaced.retain(|tables| Arc::strong_count(tables) > 1);
    }
    Ok(f64::from(changes) / started.elapsed().as_secs_f64())
}

/// The tables after one change.
fn committed(staging: &mut Staging, update: Update) -> Result<Arc<Tables>> {
    let generation = staging.tables().generation + 1;
    let commit = Commit { generation, revision: generation as i64, records: 1 };
    staging.take(update);
    let tables = staging.take(Update::Commit(commit)).context("a commit gave no tables")?;
    tables.map_err(|refusal| anyhow!("a change was refused: {refusal:?}"))
}
