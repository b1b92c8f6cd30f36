//! Addresses that are taken up are announced, twice each, and no others.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::{Bed, MAC, ROUTER_MAC};
use std::net::{Ipv4Addr, Ipv6Addr};
use turnpike_forward::limits::{ANNOUNCE_AGAIN_MS, ANNOUNCE_BUDGET, OLD_QUERIER_MS};
use turnpike_packet::arp::{Arp, Operation};
use turnpike_packet::io::Spread;
use turnpike_packet::{checksum, ethernet, ipv6};
use turnpike_wire::update::{FrontendKey, FrontendKind, Protocol, Update};

const BACKENDS: &[&str] = &["10.244.0.1:8080"];

impl Bed {
    /// The addresses announced within so many milliseconds, in order of the addresses; each as RFC 5227 wants it.
    fn announced(&mut self, ms: u32) -> Vec<String> {
        let mut addresses = Vec::new();
        for _ in 0..ms {
            self.now_ms += 1;
            self.turn();
            let sent = self.take();
            assert!(sent.len() <= ANNOUNCE_BUDGET, "{} frames in a millisecond", sent.len());
            for frame in sent {
                let arp = Arp::parse(&frame).unwrap();
                assert_eq!((&frame[..6], arp.operation), (&[0xff; 6][..], Operation::Request));
                assert_eq!((arp.sender_mac, arp.target_mac, arp.sender), (MAC, [0; 6], arp.target));
                addresses.push(arp.sender);
            }
        }
        addresses.sort_unstable();
        addresses.into_iter().map(|address| Ipv4Addr::from(address).to_string()).collect()
    }
}

#[test]
fn what_is_taken_up_is_announced_twice() {
    let mut bed = Bed::announcing();
    bed.shared.announce_all();
    assert_eq!(bed.announced(100), ["10.1.0.1", "192.0.2.1"]);
    assert_eq!(bed.announced(ANNOUNCE_AGAIN_MS), ["10.1.0.1", "192.0.2.1"], "again");
    assert!(bed.announced(2 * ANNOUNCE_AGAIN_MS).is_empty(), "and no more");

    bed.serve(BACKENDS);
    bed.know_router();
    assert_eq!(bed.announced(100), ["10.96.0.10", "203.0.113.80"]);
    assert_eq!(bed.announced(ANNOUNCE_AGAIN_MS), ["10.96.0.10", "203.0.113.80"]);
    bed.serve(&["10.244.0.1:8080", "10.244.0.2:8080"]);
    assert!(bed.announced(2 * ANNOUNCE_AGAIN_MS).is_empty(), "nothing new");
    assert_eq!(bed.counts()["arp_announcements"], 8);
}

#[test]
fn what_was_given_up_meanwhile_is_not_announced_again() {
    let mut bed = Bed::announcing();
    bed.serve(BACKENDS);
    bed.know_router();
    bed.announced(100);
    assert_eq!(bed.counts()["arp_announcements"], 2);
    let gone = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        Update::DropFrontend(FrontendKey { address: "203.0.113.80".parse().unwrap(), port: 80, protocol })
    });
    bed.commit(&gone);
    assert_eq!(bed.announced(ANNOUNCE_AGAIN_MS), ["10.96.0.10"]);
}

#[test]
fn a_link_that_comes_back_hears_of_every_address() {
    let mut bed = Bed::announcing();
    bed.serve(BACKENDS);
    bed.know_router();
    bed.announced(2 * ANNOUNCE_AGAIN_MS);
    bed.shared.announce_all();
    assert_eq!(bed.announced(100), ["10.1.0.1", "10.96.0.10", "192.0.2.1", "203.0.113.80"]);
}

#[test]
fn nothing_is_announced_unless_it_is_wanted() {
    let mut bed = Bed::new();
    bed.shared.announce_all();
    assert!(bed.announced(100).is_empty());
}

/// Groups that were reported within so many milliseconds, and by which type of report or record.
fn reported(bed: &mut Bed, ms: u32) -> Vec<(u8, String)> {
    let mut groups = Vec::new();
    for _ in 0..ms {
        bed.now_ms += 1;
        bed.turn();
        // What the control thread does all the time.
        bed.shared.report_memberships();
        for frame in bed.take() {
            let group = |at: usize| Ipv6Addr::from(*frame[at..].first_chunk::<16>().unwrap()).to_string();
            if frame[12..14] != [0x86, 0xdd] || frame[20] != 0 {
                continue;
            }
            assert_eq!((frame[21], &frame[22..24], &frame[6..12]), (1, &[0xfe, 0x80][..], &MAC[..]));
            match frame[62] {
                143 => groups.extend((70..frame.len()).step_by(20).map(|at| (frame[at], group(at + 4)))),
                kind => groups.push((kind, group(70))),
            }
        }
    }
    groups.sort();
    groups
}

/// Groups of the own address, the link-local address, the SNAT address and the VIP.
const GROUPS: [&str; 4] = ["ff02::1:ff00:1", "ff02::1:ff00:1", "ff02::1:ff00:1", "ff02::1:ff00:80"];

fn of(kind: u8) -> Vec<(u8, String)> {
    GROUPS.iter().map(|group| (kind, (*group).to_owned())).collect()
}

/// A router's question who listens, with this maximum response code and as many bytes as its version has.
fn query(code: u16, len: usize) -> Vec<u8> {
    let mut message = vec![130, 0, 0, 0];
    message.extend(code.to_be_bytes());
    message.resize(len, 0);
    let (router, all) = (0xfe80u128 << 112 | 0xfe, 0xff02u128 << 112 | 1);
    let sum = !checksum::transport_sum6(router, all, ipv6::ICMP, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet::header([0x33, 0x33, 0, 0, 0, 1], ROUTER_MAC, ethernet::IPV6).to_vec();
    frame.extend(ipv6::header(0, router, all, 8 + len).unwrap());
    frame[21] = 1;
    frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    frame.extend(message);
    frame
}

#[test]
fn rfc4861_7_2_1_groups_of_addresses_are_joined_and_reported() {
    let mut bed = Bed::dual(2, &Spread::Unknown, 1_500);
    bed.shared.announce_all();
    let own = ["ff02::1:ff00:1"; 3].map(|group| (4, group.to_owned()));
    assert_eq!(reported(&mut bed, 100), own);
    assert_eq!(reported(&mut bed, ANNOUNCE_AGAIN_MS), own, "again");
    assert!(reported(&mut bed, 20_000).is_empty(), "and no more unasked");
    bed.put(&[Port::new("six", Protocol::Tcp, &["[fd00::1]:80"])
        .on("[2001:db8:80::80]:80", FrontendKind::LoadBalancer)]);
    let vip = (4, "ff02::1:ff00:80".to_owned());
    assert!(reported(&mut bed, ANNOUNCE_AGAIN_MS + 100).iter().all(|group| *group == vip));
    assert_eq!(bed.counts()["listener_reports"], 4);

    // A querier is answered in time, however often it asks.
    let before = bed.counts();
    for _ in 0..100 {
        bed.nic.inject(&query(1_000, 28));
    }
    assert_eq!(reported(&mut bed, 1_100), of(2));
    let moved = |name: &str| bed.count(name) - before.get(name).copied().unwrap_or(0);
    assert_eq!((moved("ndp_handled"), moved("listener_reports")), (100, 1));
    // A query that breaks a rule is none.
    let mut bad = query(1_000, 28);
    bad[64] ^= 1;
    bed.nic.inject(&bad);
    assert!(reported(&mut bed, 1_100).is_empty());
    assert_eq!(bed.counts()["ndp_bad"], 1);

    // Where a querier of version 1 is about, reports are of that, one for each group, until it has been silent for long.
    bed.nic.inject(&query(1_000, 24));
    assert_eq!(reported(&mut bed, 1_100), of(131));
    bed.pass(OLD_QUERIER_MS);
    bed.know_router();
    bed.nic.inject(&query(1_000, 28));
    assert_eq!(reported(&mut bed, 1_100), of(2));
}
