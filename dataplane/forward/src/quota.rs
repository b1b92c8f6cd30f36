//! How many flows each client has, so that none takes what all share: RFC 6888 REQ-4 and REQ-5.
//!
//! A [`Subscriber`] is an IPv4 address, or the first 64 bits of an IPv6 address, since whoever has one address of such a network has all of
//! them (RFC 6177). A table of fixed size counts the live flows of each. An entry keeps its whole subscriber, and where it may lie depends on a
//! keyed hash: nobody is ever counted with somebody else, by chance or on purpose.
//!
//! An entry lies in one of two cache lines. If both are full of others, the one with the fewest flows gives way, and its flows are no longer
//! counted. So counts are exact for as long as there is room, up to half of [`SUBSCRIBERS_MAX`] clients at least; beyond, a count may be too low and never is too high: a client may get more
//! than its quota when there are very many, and none is refused for what others do. Who has many flows is forgotten last, so a flood from
//! invented addresses does not hide one from a real one.

use crate::address::Address;
use crate::cpu;
use crate::hash::{Secret, scale};
use crate::limits::SUBSCRIBERS_MAX;

/// Entries of a bucket.
const ENTRIES: usize = 5;
/// Tells this hash of a subscriber from all others under the same secret.
const PURPOSE: u64 = 0x7175_6f74_6100;
/// First 32 bits of the subscribers that are IPv4 addresses: as IPv6 they were groups, and no group sends.
const V4: u64 = 0xffff_0000 << 32;

/// Whose flows are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Subscriber(u64);

impl Subscriber {
    /// The one with this address.
    #[inline]
    #[must_use]
    pub const fn of(address: Address) -> Self {
        match address.as_v4() {
            Some(address) => Self(V4 | address as u64),
            None => Self((address.bits() >> 64) as u64),
        }
    }
}

/// The counts of one worker, and the quota.
#[derive(Debug)]
pub struct Quota {
    buckets: Box<[Bucket]>,
    /// Most flows of one subscriber.
    limit: u32,
    secret: Secret,
    forgotten: u64,
}

/// One cache line of counts.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    subscribers: [Subscriber; ENTRIES],
    /// Live flows of each; 0: the entry is free.
    flows: [u32; ENTRIES],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Quota {
    /// Nobody is counted, nobody is refused.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { buckets: Box::default(), limit: u32::MAX, secret: Secret::new([0; 4]), forgotten: 0 }
    }

    /// At most `limit` flows for each client, of a worker that holds `flows`; 0: as many as there is room for.
    #[must_use]
    pub fn new(limit: u32, flows: u32, secret: Secret) -> Self {
        if limit == 0 {
            return Self::unlimited();
        }
        let buckets = (flows as usize).clamp(ENTRIES, SUBSCRIBERS_MAX).div_ceil(ENTRIES);
        Self { buckets: vec![Bucket::default(); buckets].into(), limit, secret, forgotten: 0 }
    }

    /// Whether a client may have another flow.
    #[inline]
    #[must_use]
    pub fn admits(&self, subscriber: Subscriber) -> bool {
        self.flows(subscriber) < self.limit
    }

    /// Live flows that are counted for a client.
    #[inline]
    #[must_use]
    pub fn flows(&self, subscriber: Subscriber) -> u32 {
        self.entry(subscriber).map_or(0, |(bucket, entry)| self.buckets[bucket].flows[entry])
    }

    /// How many clients have been forgotten so far although they had flows, for lack of room.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A client has a flow more.
    pub fn opened(&mut self, subscriber: Subscriber) {
        if let Some((bucket, entry)) = self.entry(subscriber) {
            let flows = &mut self.buckets[bucket].flows[entry];
            *flows = flows.saturating_add(1);
        } else if let Some((bucket, entry)) = self.room(subscriber) {
            let bucket = &mut self.buckets[bucket];
            self.forgotten += u64::from(bucket.flows[entry] > 0);
            bucket.subscribers[entry] = subscriber;
            bucket.flows[entry] = 1;
        }
    }

    /// A client has a flow less.
    pub fn closed(&mut self, subscriber: Subscriber) {
        if let Some((bucket, entry)) = self.entry(subscriber) {
            self.buckets[bucket].flows[entry] -= 1;
        }
    }

    /// Asks for the cache lines of a client.
    pub fn prefetch(&self, subscriber: Subscriber) {
        for home in self.homes(subscriber).into_iter().flatten() {
            cpu::prefetch(&self.buckets, home);
        }
    }

    /// The two buckets a client's entry may lie in; none if nobody is counted.
    #[inline]
    fn homes(&self, subscriber: Subscriber) -> Option<[usize; 2]> {
        if self.buckets.is_empty() {
            return None;
        }
        let hash = self.secret.words(subscriber.0, PURPOSE);
        let home = |bits| scale(bits, self.buckets.len() as u32) as usize;
        Some([home(hash as u32), home((hash >> 32) as u32)])
    }

    /// Where a client's entry is, if it has one.
    #[inline]
    fn entry(&self, subscriber: Subscriber) -> Option<(usize, usize)> {
        self.homes(subscriber)?.into_iter().find_map(|home| {
            let Bucket { subscribers, flows } = &self.buckets[home];
            let entry = (0..ENTRIES).find(|&at| subscribers[at] == subscriber && flows[at] > 0)?;
            Some((home, entry))
        })
    }

    /// The entry with the fewest flows among those that a client without one may have: a free one if there is one, of two buckets with free
    /// ones the emptier.
    fn room(&self, subscriber: Subscriber) -> Option<(usize, usize)> {
        let [first, second] = self.homes(subscriber)?;
        let free = |home: usize| self.buckets[home].flows.iter().filter(|&&flows| flows == 0).count();
        let homes = if free(first) >= free(second) { [first, second] } else { [second, first] };
        let entries = homes.into_iter().flat_map(|home| (0..ENTRIES).map(move |entry| (home, entry)));
        entries.min_by_key(|&(home, entry)| self.buckets[home].flows[entry])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::IpAddr;

    const SECRET: Secret = Secret::new([1, 2, 3, 4]);

    const fn client(address: u32) -> Subscriber {
        Subscriber::of(Address::v4(address))
    }

    #[test]
    fn rfc6888_req4_a_client_gets_its_quota_and_no_more() {
        let mut quota = Quota::new(3, 1_024, SECRET);
        let (one, other) = (client(7), client(8));
        for flows in 0..3 {
            assert!(quota.admits(one));
            assert_eq!(quota.flows(one), flows);
            quota.opened(one);
        }
        assert!(!quota.admits(one) && quota.admits(other));
        quota.closed(one);
        assert!(quota.admits(one));
        (0..2).for_each(|_| quota.closed(one));
        assert_eq!(quota.flows(one), 0);
        quota.closed(one);
        assert_eq!((quota.flows(one), quota.forgotten()), (0, 0), "what was never counted");
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_no_ipv4_client() {
        let of = |text: &str| Subscriber::of(text.parse::<IpAddr>().unwrap().into());
        assert_eq!(of("2001:db8:0:1::7"), of("2001:db8:0:1:ffff::8"));
        assert_ne!(of("2001:db8:0:1::7"), of("2001:db8:0:2::7"));
        assert_ne!(of("198.51.100.7"), of("198.51.100.8"));
        // The one IPv6 network that is written alike is of groups.
        assert_eq!(of("198.51.100.7"), of("ffff:0:c633:6407::1"));
    }

    #[test]
    fn without_a_quota_nobody_is_counted() {
        let mut quota = Quota::new(0, 1_024, SECRET);
        let one = client(7);
        (0..100).for_each(|_| quota.opened(one));
        assert!(quota.admits(one) && quota.buckets.is_empty());
        quota.closed(one);
        assert_eq!((quota.flows(one), quota.forgotten()), (0, 0));
    }

    #[test]
    fn counts_are_exact_for_as_many_clients_as_there_is_room_for() {
        let mut quota = Quota::new(10, u32::MAX, SECRET);
        assert_eq!(quota.buckets.len(), SUBSCRIBERS_MAX.div_ceil(ENTRIES));
        let clients = SUBSCRIBERS_MAX as u32 / 2;
        for n in 0..clients * 2 {
            quota.opened(client(0xc633_0000 + n % clients));
        }
        assert_eq!(quota.forgotten(), 0, "half full");
        assert!((0..clients).all(|n| quota.flows(client(0xc633_0000 + n)) == 2));
    }

    #[test]
    fn a_flood_from_invented_addresses_hides_no_flood_from_a_real_one() {
        let mut quota = Quota::new(100, 5_000, SECRET);
        let flooder = client(7);
        for n in 0..100 {
            quota.opened(flooder);
            (0..500).for_each(|m| quota.opened(client(0x0a00_0000 + n * 500 + m)));
        }
        assert!(quota.forgotten() > 40_000, "{}", quota.forgotten());
        assert!(!quota.admits(flooder));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Against a plain map: exact while nobody was forgotten, and never too high.
        #[test]
        fn nobody_is_counted_for_others(
            flows in prop::sample::select(vec![5u32, 20, 600]),
            steps in prop::collection::vec((0u32..60, any::<bool>()), 1..2_000),
        ) {
            let mut quota = Quota::new(8, flows, SECRET);
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (n, opens) in steps {
                let (subscriber, live) = (client(n), model.entry(n).or_default());
                if opens {
                    quota.opened(subscriber);
                    *live += 1;
                } else if *live > 0 {
                    quota.closed(subscriber);
                    *live -= 1;
                }
                for (&n, live) in &model {
                    let counted = quota.flows(client(n));
                    prop_assert!(counted <= *live, "{counted} of {live}");
                    prop_assert!(quota.forgotten() > 0 || counted == *live, "{counted} of {live}");
                }
            }
        }
    }
}
