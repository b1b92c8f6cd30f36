//! `[dataplane.dsr]`: what packets in packets look like from outside.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `[dataplane.dsr]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dsr {
    /// Networks, one of each family at most, that the outer packets' sources are taken from: each flow has one of its addresses, by its hash, so
    /// that the queues of a backend's NIC share the work. Routed to this gateway, and used by nobody else. Without one of a family, its outer
    /// packets come from the gateway's own address on the port they leave through.
    pub sources: Vec<IpNet>,
}

/// The setting by its name.
pub(crate) const SOURCES: &str = "dataplane.dsr.sources";

impl Dsr {
    /// The network of IPv4, or of IPv6.
    #[must_use]
    pub fn source(&self, is_ipv4: bool) -> Option<IpNet> {
        self.sources.iter().find(|network| network.addr().is_ipv4() == is_ipv4).copied()
    }

    /// What is wrong with it by itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (at, network) in self.sources.iter().enumerate() {
            if *network != network.trunc() {
                return Err(format!("{network} has bits behind its prefix; write {}", network.trunc()));
            }
            if self.sources[..at].iter().any(|other| other.addr().is_ipv4() == network.addr().is_ipv4()) {
                return Err(format!("{network} is a second network of its family; name one"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(networks: &[&str]) -> Dsr {
        Dsr { sources: networks.iter().map(|n| n.parse().unwrap()).collect() }
    }

    #[test]
    fn one_network_of_each_family() {
        let rows: [(&[&str], Option<&str>); 5] = [
            (&[], None),
            (&["198.18.0.0/16"], None),
            (&["198.18.0.0/16", "fd00:d5::/64"], None),
            (&["198.18.0.1/16"], Some("write 198.18.0.0/16")),
            (&["198.18.0.0/16", "198.19.0.0/16"], Some("198.19.0.0/16 is a second network")),
        ];
        for (networks, wrong) in rows {
            match (of(networks).check(), wrong) {
                (Ok(()), None) => {}
                (Err(said), Some(wrong)) => assert!(said.contains(wrong), "{said}"),
                other => panic!("{networks:?}: {other:?}"),
            }
        }
        let both = of(&["198.18.0.0/16", "fd00:d5::/64"]);
        assert_eq!(both.source(true), Some("198.18.0.0/16".parse().unwrap()));
        assert_eq!(both.source(false), Some("fd00:d5::/64".parse().unwrap()));
        assert_eq!(of(&[]).source(true), None);
    }
}
