//! The etcd source when its connection breaks again and again while it catches up: nothing may be left out.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::etcd::Etcd;
use bed::{ControlPlane, wait};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use turnpike_wire::admin::Status;

/// Objects of each of two kinds; etcd hands a watch at most 1000 revisions at once, so each needs two answers.
const EACH: usize = 1_500;
/// Bytes that a connection may bring more than the one before.
const STEP_BYTES: usize = 60_000;

/// A proxy whose connections break once they have brought `budget` bytes.
fn stingy(target: SocketAddr, budget: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for inside in listener.incoming().flatten() {
            let Ok(outside) = TcpStream::connect(target) else { continue };
            let (mut asks, mut asked) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut asks, &mut asked);
                let _ = asked.shutdown(Shutdown::Both);
            });
            let budget = budget.clone();
            thread::spawn(move || bring(outside, inside, &budget));
        }
    });
    address
}

fn bring(mut from: TcpStream, mut to: TcpStream, budget: &AtomicUsize) {
    let mut brought = 0;
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        brought += count;
        if brought > budget.load(Ordering::Relaxed) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn watches_that_are_unequally_far_when_the_connection_breaks_lose_nothing() {
    let etcd = Etcd::start();
    let budget = Arc::new(AtomicUsize::new(usize::MAX));
    let address = stingy(etcd.address(), budget.clone());
    let more = format!("[cluster]\nmode = \"kubernetes\"\n[etcd]\nendpoints = [\"http://{address}\"]\n");
    let turnpike = ControlPlane::connected(&more);

    // Cut off while others write Services and slices in turn. Values that are no objects are counted by their keys.
    budget.store(0, Ordering::Relaxed);
    etcd.with(async |client| client.put("/registry/pods/x/nudge", "-", None).await.unwrap());
    wait("the cut", || turnpike.status().etcd.state == "disconnected");
    let filler = "-".repeat(150);
    etcd.with(async |client| {
        for i in 0..EACH {
            client.put(format!("/registry/services/specs/x/s{i}"), filler.as_str(), None).await.unwrap();
            client.put(format!("/registry/endpointslices/x/e{i}"), filler.as_str(), None).await.unwrap();
        }
    });

    // They were written in turn, so that in a whole view there is at most one more of the first kind.
    let count = |status: &Status, kind: &str| {
        status.objects.skipped.iter().filter(|skipped| skipped.key.contains(kind)).count()
    };
    for step in 1..=30 {
        budget.store(step * STEP_BYTES, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(400));
        let status = turnpike.status();
        let (services, slices) = (count(&status, "/specs/"), count(&status, "/endpointslices/"));
        let is_whole = services == slices || services == slices + 1;
        assert!(is_whole || status.etcd.cuts_forced > 0, "{services} Services and {slices} slices");
    }
    let breaks = turnpike.status().etcd.reconnects;
    assert!(breaks >= 3, "the connection broke only {breaks} times; this test shows nothing");
    let seen = |kind: &str| count(&turnpike.status(), kind);
    budget.store(usize::MAX, Ordering::Relaxed);
    wait("everything", || (seen("/specs/"), seen("/endpointslices/")) == (EACH, EACH));
    assert_eq!(turnpike.status().etcd.relists, 0, "only the watches may have brought it");
}
