//! Watching real packets: what is told of each, that all else goes on as before, and that nothing is told when nobody looks.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::{Bed, CLIENT, VIP, answer_to, from, to};
use std::sync::Arc;
use turnpike_forward::limits::{WATCH_LEFT_MAX, WATCH_NOTES_MAX};
use turnpike_forward::neighbour::NextHop;
use turnpike_forward::track::State;
use turnpike_forward::verdict::Verdict;
use turnpike_forward::watch::{From, Note, Watch, tuple_of};
use turnpike_packet::io::Spread;
use turnpike_packet::tcp::flags::{ACK, SYN};
use turnpike_packet::{tcp, udp};
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::Protocol;

fn open(bed: &mut Bed, filter: &str, sample: u32) -> Arc<Watch> {
    let watch = Watch::new(filter.parse().unwrap(), sample, 2_000, bed.workers.len());
    bed.shared.open_watch(Some(watch.clone()));
    bed.now_ms += 1;
    bed.turn();
    watch
}

fn notes(bed: &Bed, watch: &Watch) -> Vec<Note> {
    let mut notes = Vec::new();
    for worker in 0..bed.workers.len() {
        while watch.next(worker, |note| notes.push(note.clone())) {}
    }
    notes
}

#[test]
fn each_packet_is_told_with_what_became_of_it() {
    let mut bed = Bed::new();
    let watch = open(&mut bed, "host 198.51.100.7 and port 80", 1);
    let syn = tcp::segment(&to(VIP), 1, 0, SYN, b"");
    let stray = tcp::segment(&from("198.51.100.7:5000", VIP), 1, 1, ACK, b"");
    let other = udp::datagram(&from("198.51.100.8:5000", VIP), b"?");
    let sent = bed.exchange(&[other, syn.clone(), stray.clone()]);
    assert_eq!(sent.len(), 3);
    let answer = tcp::segment(&answer_to(&sent[1]), 9, 2, SYN | ACK, b"");
    let back = bed.pass_through(&answer);
    let told = notes(&bed, &watch);
    assert_eq!(told.len(), 3);
    let opened = &told[0];
    assert_eq!((opened.from, &opened.came.bytes, opened.number), (From::Wire, &syn, 0));
    assert_eq!(opened.flow[0], None);
    let flow = opened.flow[1].unwrap();
    assert_eq!((flow.client, flow.state), (tuple_of(&syn).unwrap(), State::Opening));
    assert_eq!((opened.verdicts[..].to_vec(), opened.left.len()), (vec![Verdict::Forwarded], 1));
    assert_eq!(opened.left[0].bytes, sent[1], "what is told is what left");
    assert_eq!(opened.left_as(), Some(flow.reply.reversed()));
    let reset = &told[1];
    assert_eq!((reset.verdicts[..].to_vec(), reset.flow), (vec![Verdict::TcpNoFlow], [None; 2]));
    assert_eq!((&reset.came.bytes, &reset.left[0].bytes), (&stray, &sent[2]));
    // The answer has the client's address only behind its translation.
    let answered = &told[2];
    assert_eq!((&answered.came.bytes, &answered.left[0].bytes), (&answer, &back));
    assert_eq!(answered.flow[0].unwrap().client, flow.client);
    bed.shared.open_watch(None);
    bed.now_ms += 1;
    bed.turn();
    assert_eq!(Arc::strong_count(&watch), 1, "the worker has let it go");
    bed.pass_through(&syn);
    assert_eq!(notes(&bed, &watch).len(), 0);
}

#[test]
fn verdicts_and_services_are_filtered_by() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
    bed.put(&[
        Port::new("web", Protocol::Udp, &["10.244.0.1:53"])
            .on(VIP, LoadBalancer)
            .guarded(&["198.51.100.0/24"]),
        Port::new("other", Protocol::Udp, &["10.244.0.2:53"]).on("203.0.113.90:53", LoadBalancer),
    ]);
    bed.know_router();
    let frames = [
        udp::datagram(&to(VIP), b"in range"),
        udp::datagram(&from("192.0.3.1:5", VIP), b"out of range"),
        udp::datagram(&from(CLIENT, "203.0.113.90:53"), b"other"),
        udp::datagram(&from(CLIENT, "203.0.113.99:53"), b"nobody's"),
    ];
    let rows: [(&str, &[usize]); 5] = [
        ("dropped", &[1, 3]),
        ("verdict source_range", &[1]),
        ("service default/web", &[0, 1]),
        ("not service default/web", &[2, 3]),
        ("udp and not dropped and not service other", &[0]),
    ];
    for (filter, wanted) in rows {
        let watch = open(&mut bed, filter, 1);
        bed.exchange(&frames);
        let told: Vec<usize> = notes(&bed, &watch)
            .iter()
            .map(|note| frames.iter().position(|frame| *frame == note.came.bytes).unwrap())
            .collect();
        assert_eq!(told, wanted, "{filter}");
    }
}

#[test]
fn all_goes_on_as_if_nobody_looked() {
    // The same packets with and without a watch leave the same frames in the same order, and the same counters.
    let mut beds = [Bed::new(), Bed::new()];
    let watch = open(&mut beds[1], "port 40000 or port 40003", 1);
    beds[0].now_ms += 1;
    let frames: Vec<Vec<u8>> = (0..600u16)
        .map(|n| {
            let client = format!("198.51.100.7:{}", 40_000 + n % 7);
            match n % 3 {
                0 => udp::datagram(&from(&client, VIP), &[n as u8; 40]),
                1 => tcp::segment(&from(&client, VIP), 1, 0, SYN, b""),
                _ => tcp::segment(&from(&client, VIP), 2, 1, ACK, b"data"),
            }
        })
        .collect();
    let [unseen, seen] = beds.each_mut().map(|bed| (bed.exchange(&frames), bed.counts()));
    assert_eq!(unseen, seen);
    let wanted = (0..600u16).filter(|n| matches!(n % 7, 0 | 3)).count();
    assert_eq!((notes(&beds[1], &watch).len(), watch.lost()), (wanted, 0));
}

#[test]
fn samples_losses_and_bounds_are_counted() {
    let mut bed = Bed::new();
    let watch = open(&mut bed, "udp", 10);
    let frames: Vec<Vec<u8>> = (0..100).map(|_| udp::datagram(&to(VIP), b"?")).collect();
    bed.exchange(&frames);
    assert_eq!((notes(&bed, &watch).len(), watch.lost()), (10, 0));
    let watch = open(&mut bed, "", 1);
    let many: Vec<Vec<u8>> = (0..WATCH_NOTES_MAX + 50).map(|_| udp::datagram(&to(VIP), b"?")).collect();
    assert_eq!(bed.exchange(&many).len(), many.len(), "who looks too slowly holds up nothing");
    assert_eq!((notes(&bed, &watch).len(), watch.lost()), (WATCH_NOTES_MAX, 50));
    bed.exchange(&frames);
    assert_eq!(notes(&bed, &watch).len(), 100, "notes go round");
    const { assert!(WATCH_LEFT_MAX >= 1) }
}

#[test]
fn a_frame_that_waits_for_its_next_hop_is_told_twice() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    bed.serve(&["10.244.0.1:8080"]);
    bed.take();
    let watch = open(&mut bed, "host 198.51.100.7", 1);
    let query = udp::datagram(&to(VIP), b"?");
    bed.nic.inject(&query);
    bed.turn();
    let told = notes(&bed, &watch);
    assert!(told.len() == 1 && told[0].verdicts.is_empty(), "{told:?}");
    let router = NextHop { port: 0, address: "192.0.2.254".parse::<std::net::IpAddr>().unwrap().into() };
    bed.shared.neighbours.learn(router, harness::ROUTER_MAC, bed.now_ms);
    bed.turn();
    let told = notes(&bed, &watch);
    assert_eq!((told.len(), told[0].from, &told[0].verdicts[..]), (1, From::Held, &[Verdict::Forwarded][..]));
    assert_eq!(bed.take().pop(), Some(told[0].left[0].bytes.clone()));
}

#[test]
fn workers_tell_of_frames_that_they_hand_over() {
    let mut bed = Bed::bare(2, &Spread::Unknown, 4_096);
    bed.serve(&["10.244.0.1:8080"]);
    bed.know_router();
    let watch = open(&mut bed, "udp", 1);
    let frames: Vec<Vec<u8>> =
        (0..40).map(|n| udp::datagram(&from(&format!("198.51.100.7:{}", 2_000 + n), VIP), b"?")).collect();
    bed.exchange(&frames);
    let told = notes(&bed, &watch);
    let handed = told.iter().filter(|note| note.verdicts[..] == [Verdict::HandedOff]).count();
    let taken = told.iter().filter(|note| note.from == From::Worker).count();
    assert!(handed > 0 && handed == taken, "{handed} handed over, {taken} taken");
    assert_eq!(told.len(), 40 + handed);
}
