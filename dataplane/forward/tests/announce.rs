//! Addresses that are taken up are announced, twice each, and no others.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Bed, MAC};
use std::net::Ipv4Addr;
use turnpike_forward::limits::{ANNOUNCE_AGAIN_MS, ANNOUNCE_BUDGET};
use turnpike_packet::arp::{Arp, Operation};
use turnpike_wire::update::{FrontendKey, Protocol, Update};

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
