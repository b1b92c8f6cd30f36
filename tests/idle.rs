//! Idle workers leave their cores to others, and nothing gets lost for it. Figures are `./scripts/bench idle`'s; here only what is far off fails.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use turnpike_tests::bed::{Lab, available};
use turnpike_tests::idleness::{Echo, shares};

/// A worker that rests is at a few percent of a core, one that does not at a hundred.
const FAR_OFF_PERCENT: f64 = 30.0;

fn idle_workers_rest(name: &str, workers: &str) {
    let lab = Lab::with_workers(name, workers).unwrap();
    lab.serve().unwrap();
    let echo = Echo::start(&lab).unwrap();
    // Whoever has handled packets rests soon.
    let trips = echo.ask(200, Duration::ZERO).unwrap();
    assert_eq!((trips.lost, trips.micros.len()), (0, 200));
    std::thread::sleep(Duration::from_millis(500));
    let shares = shares(&lab, Duration::from_secs(5)).unwrap();
    println!("{shares:?}");
    assert!(shares.iter().all(|share| share.percent < FAR_OFF_PERCENT), "{shares:?}");
    // And wakes for single packets, those that another worker has to be handed too.
    let trips = echo.ask(20, Duration::from_millis(200)).unwrap();
    println!("first packets: {:?} us", trips.micros);
    assert_eq!((trips.lost, trips.micros.len()), (0, 20));
}

#[test]
fn an_idle_worker_rests_and_wakes() {
    if available() {
        idle_workers_rest("t36", "[1]");
    }
}

#[test]
fn idle_workers_rest_and_wake_each_other() {
    if available() {
        idle_workers_rest("t37", "[0, 1]");
    }
}
