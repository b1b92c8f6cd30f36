//! [`Networks`]: sets of addresses given as networks, for the rules that ask where a client is.

use crate::address::{Address, Family};
use ipnet::IpNet;

/// A set of addresses as sorted, disjoint intervals: a look takes as many steps as their number has bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// First and last address of each, no two touching.
    intervals: Box<[(u128, u128)]>,
}

impl Networks {
    /// The addresses of all these networks.
    #[must_use]
    pub fn of(networks: &[IpNet]) -> Self {
        let bits = |address: std::net::IpAddr| Address::from(address).bits();
        let mut found: Vec<_> = networks.iter().map(|n| (bits(n.network()), bits(n.broadcast()))).collect();
        found.sort_unstable();
        let mut intervals: Vec<(u128, u128)> = Vec::with_capacity(found.len());
        for (first, last) in found {
            match intervals.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => intervals.push((first, last)),
            }
        }
        Self { intervals: intervals.into() }
    }

    /// Whether an address is one of them.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: Address) -> bool {
        let address = address.bits();
        let after = self.intervals.partition_point(|&(first, _)| first <= address);
        after.checked_sub(1).is_some_and(|at| address <= self.intervals[at].1)
    }

    /// Whether there is an address of this family among them.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.intervals.iter().any(|&(first, _)| Address::v6(first).family() == family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn networks(texts: &[&str]) -> Networks {
        Networks::of(&texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn networks_that_touch_or_overlap_are_one_interval() {
        let merged =
            networks(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.3.0/24", "2001:db8::/32"]);
        assert_eq!(merged.intervals.len(), 3);
        let everything = networks(&["0.0.0.0/0", "255.255.255.255/32"]);
        assert_eq!(&*everything.intervals, [(Address::v4(0).bits(), Address::v4(u32::MAX).bits())]);
        let six = networks(&["2001:db8::/32", "::/128"]);
        assert!(six.contains(Address::v6(0x2001_0db8 << 96 | 7)) && six.contains(Address::v6(0)));
        assert!(!six.contains(Address::v6(0x2001_0db9 << 96)) && !six.contains(Address::v4(0)));
        assert!(six.has(Family::V6) && !six.has(Family::V4) && everything.has(Family::V4));
        assert!(!networks(&[]).has(Family::V4) && !networks(&[]).contains(Address::v4(0)));
    }

    proptest! {
        #[test]
        fn an_address_is_in_if_one_of_the_networks_has_it(
            rows in prop::collection::vec((any::<u32>(), 0u8..=32), 0..12),
            addresses in prop::collection::vec(any::<u32>(), 1..20),
            near in 0usize..12,
        ) {
            let nets: Vec<IpNet> = rows
                .iter()
                .map(|&(address, length)| ipnet::Ipv4Net::new(address.into(), length).unwrap().into())
                .collect();
            let set = Networks::of(&nets);
            let edge = rows.get(near).map_or(0, |r| r.0);
            for address in addresses.into_iter().chain([edge, edge.wrapping_sub(1), edge.wrapping_add(1), 0, u32::MAX]) {
                let wanted = nets.iter().any(|n| n.contains(&std::net::IpAddr::V4(Ipv4Addr::from(address))));
                prop_assert_eq!(set.contains(Address::v4(address)), wanted);
            }
        }
    }
}
