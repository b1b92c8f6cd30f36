//! `[dataplane.snat]`: which ports of a SNAT address are never used towards backends, and why.

use crate::config::{Config, PortRange, Snat};
use crate::limits::{
    EXCLUDED_PORT_RANGES_MAX, RESTING_PORTS_DEFAULT, RESTING_PORTS_MAX, SNAT_PORT_MIN, SNAT_PORTS_MIN,
    SNAT_REST_S_DEFAULT, SNAT_REST_S_MAX,
};

impl Default for Snat {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            excluded_ports: Vec::new(),
            rest_s: SNAT_REST_S_DEFAULT,
            resting_ports_max: RESTING_PORTS_DEFAULT,
        }
    }
}

impl PortRange {
    /// Whether a port lies in it.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl Config {
    /// The ports at which Turnpike itself listens on this host: DNS, health and metrics, in ascending order. The admin socket has none.
    #[must_use]
    pub fn listening_ports(&self) -> Vec<u16> {
        let one = self.health.listen.iter().chain(&self.metrics.listen);
        let mut ports: Vec<u16> = self.dns.listen.iter().chain(one).map(|address| address.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// How many ports SNAT may use on one of its addresses: neither well-known, nor NodePorts, nor excluded. On an address that the host's
    /// kernel has too, `kernel` are the ports that it gives its own connections; those and the ones that Turnpike listens at are left to it.
    #[must_use]
    pub fn snat_ports(&self, kernel: Option<PortRange>) -> usize {
        let listening = if kernel.is_some() { self.listening_ports() } else { Vec::new() };
        let left_out = |port: u16| {
            self.cluster.node_port_range.contains(port)
                || self.dataplane.snat.excluded_ports.iter().any(|range| range.contains(port))
                || kernel.is_some_and(|kernel| kernel.contains(port))
                || listening.contains(&port)
        };
        (SNAT_PORT_MIN..=u16::MAX).filter(|&port| !left_out(port)).count()
    }
}

/// The setting and the mend of the first rule that is broken, if one is.
pub(crate) fn broken(config: &Config) -> Option<(&'static str, String)> {
    let Snat { excluded_ports, rest_s, resting_ports_max, .. } = &config.dataplane.snat;
    if excluded_ports.len() > EXCLUDED_PORT_RANGES_MAX {
        let message = format!(
            "{} ranges; there can be {EXCLUDED_PORT_RANGES_MAX}, write wider ones",
            excluded_ports.len()
        );
        return Some(("dataplane.snat.excluded_ports", message));
    }
    let left = config.snat_ports(None);
    if left < SNAT_PORTS_MIN {
        let message = format!(
            "with cluster.node_port_range they leave {left} ports of each address; leave {SNAT_PORTS_MIN} or more"
        );
        return Some(("dataplane.snat.excluded_ports", message));
    }
    if *rest_s > SNAT_REST_S_MAX {
        return Some(("dataplane.snat.rest_s", format!("{rest_s} is not 0 to {SNAT_REST_S_MAX}")));
    }
    if *resting_ports_max > RESTING_PORTS_MAX {
        let message = format!("{resting_ports_max} is not 0 to {RESTING_PORTS_MAX}");
        return Some(("dataplane.snat.resting_ports_max", message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("t.toml")).map_err(|error| error.to_string())
    }

    fn snat(text: &str) -> Result<Config, String> {
        parse(&format!("[dataplane.snat]\n{text}\n"))
    }

    #[test]
    fn ports_are_those_above_the_well_known_ones_without_what_is_excluded() {
        let rows = [
            ("", 61_744),
            ("excluded_ports = [\"8472-8472\"]", 61_743),
            ("excluded_ports = [\"1-2023\", \"1024-1030\"]", 60_744),
            ("excluded_ports = [\"32000-32999\", \"61000-65535\"]", 61_744 - 232 - 4_536),
        ];
        for (text, ports) in rows {
            assert_eq!(snat(text).unwrap().snat_ports(None), ports, "{text}");
        }
    }

    #[test]
    fn the_kernel_keeps_the_ports_of_its_connections_and_of_our_servers() {
        let config =
            parse("[dns]\nlisten = [\"192.0.2.1:53\", \"192.0.2.1:5353\", \"192.0.2.2:5353\"]").unwrap();
        assert_eq!(config.listening_ports(), [53, 5_353, 9_464, 10_256]);
        let kernel = PortRange { first: 32_768, last: 60_999 };
        assert_eq!(config.snat_ports(Some(kernel)), 61_744 - 28_232 - 3);
        let silent = parse("[health]\nlisten = \"\"\n[metrics]\nlisten = \"\"\n").unwrap();
        assert!(silent.listening_ports().is_empty());
    }

    #[test]
    fn every_mistake_names_its_setting_and_the_mend() {
        let many = format!("excluded_ports = [{}]", "\"2000-2000\", ".repeat(65));
        let rows = [
            ("excluded_ports = [\"8472\"]", "write FIRST-LAST"),
            ("excluded_ports = [\"2-1\"]", "write FIRST-LAST"),
            (
                "excluded_ports = [\"1024-29999\", \"33000-65000\"]",
                "excluded_ports: with cluster.node_port_range they leave 767",
            ),
            (&many, "excluded_ports: 65 ranges; there can be 64"),
            ("rest_s = 3601", "dataplane.snat.rest_s: 3601 is not 0 to 3600"),
            (
                "resting_ports_max = 16777217",
                "dataplane.snat.resting_ports_max: 16777217 is not 0 to 16777216",
            ),
        ];
        for (text, needle) in rows {
            let said = snat(text).unwrap_err();
            assert!(said.contains(needle), "{needle:?} is not in {said:?}");
        }
        for text in ["rest_s = 0", "resting_ports_max = 0", "rest_s = 3600", "resting_ports_max = 16777216"] {
            assert_eq!(snat(text).err(), None, "{text}");
        }
    }
}
