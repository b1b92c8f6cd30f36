//! What reaches the dataplane through the real rings, in whatever order either side dies and returns.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::dataplane::Dataplane;
use bed::{ControlPlane, PATIENCE, pod, service, standalone, wait};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use turnpike_wire::admin::Resource;
use turnpike_wire::event::Event;

fn web() -> Vec<serde_json::Value> {
    vec![
        service("web", "LoadBalancer"),
        pod("web-1", "web", "10.244.0.11"),
        pod("web-2", "web", "10.244.0.12"),
    ]
}

/// Lets the dataplane work until something holds.
#[track_caller]
fn until(dataplane: &mut Dataplane, what: &str, mut holds: impl FnMut(&Dataplane) -> bool) {
    wait(what, || {
        dataplane.turn();
        holds(dataplane)
    });
}

/// Lets the dataplane work until it has adopted what etcd holds, and compares it with what people are shown.
#[track_caller]
fn converges(turnpike: &ControlPlane, dataplane: &mut Dataplane) {
    until(dataplane, "adoption", |_| {
        let status = turnpike.status();
        let d = &status.dataplane;
        d.state == "serving"
            && d.adopted_generation > 0
            && d.adopted_generation == d.published_generation
            && d.adopted_revision >= status.etcd.revision
    });
    let shown: BTreeSet<String> = turnpike
        .get(Resource::Frontends)
        .iter()
        .map(|f| {
            format!("{} {}:{}", f["protocol"].as_str().unwrap(), f["address"].as_str().unwrap(), f["port"])
        })
        .collect();
    let told: BTreeSet<String> = dataplane.tables.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(told, shown);
    let fleet = dataplane.tables.fleet.expect("the fleet's settings are part of every snapshot");
    assert_eq!(fleet.node_ports, (30000, 32767));
    assert_ne!(fleet.maglev_key, [0, 0]);
}

#[test]
fn a_dataplane_gets_a_snapshot_and_then_only_what_changes() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    assert_eq!(turnpike.status().dataplane.state, "absent");
    turnpike.apply(web());
    let mut dataplane = Dataplane::start(turnpike.folder());
    converges(&turnpike, &mut dataplane);
    assert_eq!(dataplane.snapshots, 1);
    assert_eq!(dataplane.backend_addresses(), ["10.244.0.11".into(), "10.244.0.12".into()].into());

    turnpike.apply(vec![pod("web-2", "web", "10.244.0.99")]);
    converges(&turnpike, &mut dataplane);
    let status = turnpike.status().dataplane;
    assert_eq!((dataplane.snapshots, status.snapshots), (1, 1));
    assert!(status.last_adoption_us.is_some());
    assert_eq!(status.pid, Some(std::process::id()));
    assert_eq!(dataplane.backend_addresses(), ["10.244.0.11".into(), "10.244.0.99".into()].into());

    turnpike.delete("Service", "web", false).unwrap();
    converges(&turnpike, &mut dataplane);
    assert!(dataplane.tables.services.is_empty() && dataplane.tables.frontends.is_empty());
}

#[test]
fn change_after_change_is_adopted() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    let mut dataplane = Dataplane::start(turnpike.folder());
    turnpike.apply(web());
    converges(&turnpike, &mut dataplane);
    for number in 0..10 {
        let address = format!("10.244.1.{}", number + 1);
        turnpike.apply(vec![pod("web-1", "web", &address)]);
        until(&mut dataplane, "the new address", |d| d.backend_addresses().contains(&address));
    }
}

#[test]
fn either_side_may_die_and_return() {
    let mut turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    turnpike.apply(web());
    let mut dataplane = Dataplane::start(turnpike.folder());
    converges(&turnpike, &mut dataplane);
    let before = dataplane.tables.clone();

    turnpike.kill();
    dataplane.turn();
    assert_eq!(dataplane.tables, before);
    turnpike.start();
    until(&mut dataplane, "a snapshot of the new control plane", |d| d.snapshots == 2);
    converges(&turnpike, &mut dataplane);
    assert_eq!(dataplane.tables, before, "the same state, the fleet's key included");

    drop(dataplane);
    wait("the loss", || turnpike.status().dataplane.state != "serving");
    turnpike.apply(vec![pod("web-3", "web", "10.244.0.13")]);
    let mut successor = Dataplane::start(turnpike.folder());
    converges(&turnpike, &mut successor);
    assert_eq!(successor.snapshots, 1);
    assert_eq!(successor.backend_addresses().len(), 3);
}

#[test]
fn complaints_are_answered_with_a_snapshot_and_shown() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    turnpike.apply(web());
    let mut dataplane = Dataplane::start(turnpike.folder());
    converges(&turnpike, &mut dataplane);

    dataplane.say(&Event::ResyncNeeded { reason: "lost the thread".into() });
    until(&mut dataplane, "a snapshot", |d| d.snapshots == 2);
    converges(&turnpike, &mut dataplane);
    assert_eq!(turnpike.status().dataplane.last_complaint.as_deref(), Some("lost the thread"));

    let generation = dataplane.commits.last().unwrap().generation;
    dataplane.say(&Event::Refused { generation, reason: "too many of them".into() });
    until(&mut dataplane, "a snapshot", |d| d.snapshots == 3);
    let status = turnpike.status().dataplane;
    assert_eq!((status.refused, status.snapshots), (1, 3));
    assert_eq!(status.last_complaint.as_deref(), Some("too many of them"));
}

#[test]
fn a_dataplane_that_refuses_everything_is_not_drowned_in_snapshots() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    turnpike.apply(web());
    let mut dataplane = Dataplane::start(turnpike.folder());
    dataplane.adopts = false;
    let start = Instant::now();
    let mut refused = 0;
    while refused < 4 {
        assert!(start.elapsed() < PATIENCE, "{refused} snapshots");
        dataplane.turn();
        for _ in refused..dataplane.commits.len() {
            let generation = dataplane.commits.last().unwrap().generation;
            dataplane.say(&Event::Refused { generation, reason: "no".into() });
        }
        refused = dataplane.commits.len();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(start.elapsed() >= Duration::from_millis(2_500), "{refused} snapshots in {:?}", start.elapsed());
}

#[test]
fn a_full_ring_holds_up_nobody_and_the_newest_state_arrives() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    let mut dataplane = Dataplane::start_with_ring(turnpike.folder(), 16 << 10);
    converges(&turnpike, &mut dataplane);
    // Far more than the ring holds. Nobody reads it; the dataplane lives.
    let count = 300;
    let beating = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (dataplane, beating) = (&dataplane, &beating);
        scope.spawn(move || {
            while beating.load(std::sync::atomic::Ordering::Relaxed) {
                dataplane.beat();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        turnpike.apply((0..count).map(|i| service(&format!("s{i}"), "ClusterIP")).collect());
        for round in 0..5 {
            turnpike.apply(vec![pod("p", "s7", &format!("10.244.0.{}", round + 1))]);
        }
        assert_eq!(turnpike.status().objects.services, count);
        beating.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    converges(&turnpike, &mut dataplane);
    assert_eq!(dataplane.tables.services.len() as u64, count);
    assert_eq!(dataplane.backend_addresses(), ["10.244.0.5".into()].into());
}

#[test]
fn a_second_control_plane_of_the_same_gateway_waits_and_says_why() {
    let first = ControlPlane::connected(&standalone("203.0.113.0/24"));
    let mut dataplane = Dataplane::start(first.folder());
    converges(&first, &mut dataplane);
    let mut second = ControlPlane::new(&standalone("203.0.113.0/24"));
    let file = second.folder().join("turnpike.toml");
    let shm = |control_plane: &ControlPlane| format!("shm_dir = \"{}\"", control_plane.folder().display());
    let text = std::fs::read_to_string(&file).unwrap().replace(&shm(&second), &shm(&first));
    std::fs::write(&file, text).unwrap();
    second.start();
    wait("the complaint", || second.status().dataplane.last_complaint.is_some());
    let complaint = second.status().dataplane.last_complaint.unwrap();
    assert!(complaint.contains("another control plane"), "{complaint}");
    first.apply(web());
    converges(&first, &mut dataplane);
    assert_eq!(dataplane.snapshots, 1);
}
