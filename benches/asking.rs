//! Somebody who asks all the time how many flows there are, as `turnpike plan` does and others that count flows.

use anyhow::{Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use turnpike_forward::census::Census;
use turnpike_forward::mailbox::Shared;

/// How often it is looked whether everybody has answered.
const PAUSE: Duration = Duration::from_micros(200);

/// Asks one question after the other until `stop`, from `core`. A question that is open then is left to its workers.
pub fn ask(shared: &Shared, core: u16, stop: &AtomicBool) -> Result<()> {
    static QUESTION: AtomicU64 = AtomicU64::new(1);
    capsule::pin_to_core(core)?;
    let mut asked: Vec<Arc<Census>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // What no worker holds any more is freed here, as the control thread does it.
        asked.retain(|census| Arc::strong_count(census) > 1);
        let census = Census::new(QUESTION.fetch_add(1, Ordering::Relaxed), shared.gateway.workers());
        asked.push(census.clone());
        shared.ask(Some(census.clone()));
        while !census.is_done() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
        }
        ensure!(!census.is_done() || census.flows() > 0, "no flow was counted");
    }
    shared.ask(None);
    Ok(())
}
