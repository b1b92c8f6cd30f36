//! What makes a configuration work beyond its types: each rule names the setting, the value and the mend.

use crate::config::{ClusterMode, Config, ConfigError, Port};
use crate::limits::{PORTS_MAX, WORKERS_MAX};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// A rule that a configuration breaks.
pub(crate) struct Broken {
    setting: String,
    message: String,
}

impl Broken {
    fn new(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self { setting: setting.into(), message: message.into() }
    }

    /// The error for a file.
    pub(crate) fn at(self, path: &Path) -> ConfigError {
        ConfigError::Value { path: path.to_owned(), setting: self.setting, message: self.message }
    }
}

/// The first rule that is broken, if one is.
pub(crate) fn broken(config: &Config) -> Option<Broken> {
    check(config).err()
}

/// The first rule of a dataplane's configuration that is broken, if one is.
pub(crate) fn broken_dataplane(config: &Config) -> Option<Broken> {
    let dataplane = &config.dataplane;
    if dataplane.workers.is_empty() {
        return Some(Broken::new(
            "dataplane.workers",
            "no core is named; write the cores the workers may have, e.g. [1]",
        ));
    }
    if dataplane.ports.is_empty() {
        return Some(Broken::new(
            "dataplane.ports",
            "no port; write a section [[dataplane.ports]] with name, device and addresses",
        ));
    }
    if config.snat_addresses().is_empty() {
        return Some(Broken::new(
            "dataplane.snat.addresses",
            "no address for packets to backends; name one, or give the first port an address",
        ));
    }
    None
}

/// Flow slots a worker can have.
const FLOWS: std::ops::RangeInclusive<u32> = 1_024..=67_108_864;

fn check(config: &Config) -> Result<(), Broken> {
    gateway(config)?;
    prefixes(config)?;
    networks(config)?;
    etcd(config)?;
    dataplane(config)
}

fn gateway(config: &Config) -> Result<(), Broken> {
    let name = config.gateway_name();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) || name.starts_with('.') {
        return Err(Broken::new(
            "gateway.name",
            format!(
                "{name:?} cannot name files; use up to 63 letters, digits, '-', '_' and '.', not starting with '.'"
            ),
        ));
    }
    for (setting, folder) in [
        ("gateway.state_dir", &config.gateway.state_dir),
        ("gateway.run_dir", &config.gateway.run_dir),
        ("gateway.shm_dir", &config.gateway.shm_dir),
    ] {
        if !folder.is_absolute() {
            return Err(Broken::new(
                setting,
                format!("{} is no absolute path; start it with /", folder.display()),
            ));
        }
    }
    Ok(())
}

fn prefixes(config: &Config) -> Result<(), Broken> {
    let (registry, own) = (&config.cluster.registry_prefix, &config.cluster.turnpike_prefix);
    for (setting, prefix) in [("cluster.registry_prefix", registry), ("cluster.turnpike_prefix", own)] {
        if !prefix.starts_with('/') || prefix.ends_with('/') {
            return Err(Broken::new(
                setting,
                format!("{prefix:?} must start with / and not end with it, e.g. \"/registry\""),
            ));
        }
    }
    let below = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
    if below(registry, own) || below(own, registry) {
        return Err(Broken::new(
            "cluster.turnpike_prefix",
            format!(
                "{own:?} and cluster.registry_prefix {registry:?} lie within one another; keep them apart"
            ),
        ));
    }
    Ok(())
}

/// Every network of addresses that are given out, with its setting.
fn networks(config: &Config) -> Result<(), Broken> {
    let mut names = BTreeSet::new();
    let mut all: Vec<(String, IpNet)> =
        config.cluster.service_cidrs.iter().map(|n| ("cluster.service_cidrs".to_owned(), *n)).collect();
    for pool in &config.cluster.pools {
        if pool.name.is_empty() || !names.insert(&pool.name) {
            return Err(Broken::new(
                "cluster.pools.name",
                format!("{:?} is empty or there twice; give each pool a name of its own", pool.name),
            ));
        }
        if pool.addresses.is_empty() {
            return Err(Broken::new(
                format!("cluster.pools {:?}", pool.name),
                "no addresses; write at least one network, e.g. [\"203.0.113.0/24\"]",
            ));
        }
        all.extend(pool.addresses.iter().map(|n| (format!("cluster.pools {:?}", pool.name), *n)));
    }
    for (at, (setting, network)) in all.iter().enumerate() {
        for (other_setting, other) in &all[..at] {
            if network.contains(&other.network()) || other.contains(&network.network()) {
                return Err(Broken::new(
                    setting,
                    format!(
                        "{network} overlaps {other} of {other_setting}; an address can be given out by one of them only"
                    ),
                ));
            }
        }
    }
    let inside = |address: IpAddr| all.iter().find(|(_, n)| n.contains(&address));
    for address in &config.dataplane.snat.addresses {
        if !is_host(*address) {
            return Err(Broken::new("dataplane.snat.addresses", format!("{address} is no host's address")));
        }
        if let Some((setting, network)) = inside(IpAddr::V4(*address)) {
            return Err(Broken::new(
                "dataplane.snat.addresses",
                format!("{address} lies in {network} of {setting}; take an address that no Service can get"),
            ));
        }
    }
    if config.cluster.node_port_range.first < 1_024 {
        return Err(Broken::new(
            "cluster.node_port_range",
            format!("{} is a well-known port; start at 1024 or above", config.cluster.node_port_range.first),
        ));
    }
    Ok(())
}

fn etcd(config: &Config) -> Result<(), Broken> {
    let etcd = &config.etcd;
    for endpoint in &etcd.endpoints {
        let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        if rest.is_none_or(|r| r.trim_end_matches('/').is_empty()) {
            return Err(Broken::new(
                "etcd.endpoints",
                format!("{endpoint:?} is no URL; write e.g. \"https://etcd-1:2379\""),
            ));
        }
    }
    if etcd.cert_file.is_some() != etcd.key_file.is_some() {
        return Err(Broken::new(
            "etcd.cert_file",
            "a client certificate needs its key: set etcd.cert_file and etcd.key_file, or neither",
        ));
    }
    if etcd.user.is_some() != etcd.password_file.is_some() {
        return Err(Broken::new(
            "etcd.user",
            "a user needs a password: set etcd.user and etcd.password_file, or neither",
        ));
    }
    if etcd.endpoints.is_empty() && config.cluster.mode == ClusterMode::Kubernetes {
        return Err(Broken::new(
            "etcd.endpoints",
            "kubernetes mode reads the cluster's etcd; name its members",
        ));
    }
    Ok(())
}

fn dataplane(config: &Config) -> Result<(), Broken> {
    let dataplane = &config.dataplane;
    let mut cores = BTreeSet::new();
    if let Some(twice) = dataplane.workers.iter().find(|core| !cores.insert(**core)) {
        return Err(Broken::new(
            "dataplane.workers",
            format!("core {twice} is there twice; one core has one worker"),
        ));
    }
    if dataplane.workers.len() > WORKERS_MAX {
        return Err(Broken::new(
            "dataplane.workers",
            format!("{} workers; there can be {WORKERS_MAX}", dataplane.workers.len()),
        ));
    }
    if !FLOWS.contains(&dataplane.flows_per_worker) {
        return Err(Broken::new(
            "dataplane.flows_per_worker",
            format!("{} is not {} to {}", dataplane.flows_per_worker, FLOWS.start(), FLOWS.end()),
        ));
    }
    if !(32..=65_536).contains(&dataplane.memory_mb) {
        return Err(Broken::new(
            "dataplane.memory_mb",
            format!("{} is not 32 to 65536", dataplane.memory_mb),
        ));
    }
    if dataplane.ports.len() > PORTS_MAX {
        return Err(Broken::new(
            "dataplane.ports",
            format!("{} ports; there can be {PORTS_MAX}", dataplane.ports.len()),
        ));
    }
    let mut names = BTreeSet::new();
    for port in &dataplane.ports {
        if port.name.is_empty() || !names.insert(&port.name) {
            return Err(Broken::new(
                "dataplane.ports.name",
                format!("{:?} is empty or there twice; give each port a name of its own", port.name),
            ));
        }
        port_rules(port)?;
    }
    Ok(())
}

fn port_rules(port: &Port) -> Result<(), Broken> {
    let setting = format!("dataplane.ports {:?}", port.name);
    let digit = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    let is_pci = port.device.contains(':')
        && port.device.split(',').next().is_some_and(|address| address.chars().all(digit));
    if !port.device.starts_with("net_") && !is_pci {
        return Err(Broken::new(
            setting,
            format!(
                "device {:?} is neither a DPDK device such as \"net_af_packet0,iface=eth1\" nor a PCI address such as \"0000:01:00.0\"",
                port.device
            ),
        ));
    }
    if port.addresses.is_empty() {
        return Err(Broken::new(setting, "no address; write e.g. addresses = [\"192.0.2.1/24\"]"));
    }
    if let Some(bad) = port.addresses.iter().find(|n| {
        !is_host(n.addr()) || n.prefix_len() < 31 && (n.addr() == n.network() || n.addr() == n.broadcast())
    }) {
        return Err(Broken::new(
            setting,
            format!(
                "{bad} is no host's address; write the gateway's own address with the length of its network"
            ),
        ));
    }
    if let Some(gateway) = port.gateway
        && (!port.addresses.iter().any(|n| n.contains(&gateway))
            || port.addresses.iter().any(|n| n.addr() == gateway))
    {
        return Err(Broken::new(
            setting,
            format!(
                "gateway {gateway} is no neighbour on a network of this port; it must lie in one of its addresses' networks"
            ),
        ));
    }
    Ok(())
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast()
        || address.octets()[0] == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../turnpike.example.toml");

    fn error(text: &str) -> String {
        let path = Path::new("/etc/t.toml");
        let parsed = Config::parse(text, path).and_then(|c| c.require_dataplane(path));
        parsed.expect_err(text).to_string()
    }

    #[test]
    fn the_example_works_and_says_the_defaults() {
        let path = Path::new("example");
        let example = Config::parse(GOOD, path).unwrap();
        example.require_dataplane(path).unwrap();
        let defaults = Config::default();
        assert_eq!(example.cluster.node_port_range, defaults.cluster.node_port_range);
        assert_eq!(example.gateway.state_dir, defaults.gateway.state_dir);
        assert_eq!(example.dataplane.flows_per_worker, defaults.dataplane.flows_per_worker);
        assert_eq!(example.dataplane.memory_mb, defaults.dataplane.memory_mb);
    }

    #[test]
    fn the_example_shows_every_setting() {
        let mut full = Config::parse(GOOD, Path::new("example")).unwrap();
        full.etcd.ca_file = Some("x".into());
        full.etcd.cert_file = Some("x".into());
        full.etcd.key_file = Some("x".into());
        full.etcd.user = Some("x".into());
        full.etcd.password_file = Some("x".into());
        let all = toml::to_string(&full).unwrap();
        for key in all.lines().filter_map(|l| l.split_once(" = ").map(|(key, _)| key)) {
            assert!(GOOD.contains(&format!("{key} = ")), "the example must show {key}");
        }
    }

    #[test]
    fn every_mistake_names_its_setting_and_the_mend() {
        let change = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            GOOD.replacen(from, to, 1)
        };
        let rows = [
            (change("workers = [1]", "workers = []"), "dataplane.workers"),
            (change("workers = [1]", "workers = [1, 1]"), "core 1 is there twice"),
            (change("workers = [1]", "wrokers = [1]"), "wrokers"),
            (change("workers = [1]", "workers = \"one\""), "line"),
            (change("name = \"gw-1\"", "name = \"a/b\""), "gateway.name"),
            (change("flows_per_worker = 1048576", "flows_per_worker = 7"), "dataplane.flows_per_worker: 7"),
            (change("203.0.113.0/24", "10.96.1.0/24"), "overlaps"),
            (change("203.0.113.0/24", "nonsense"), "line"),
            (change("gateway = \"192.0.2.254\"", "gateway = \"198.51.100.1\""), "gateway 198.51.100.1"),
            (change("192.0.2.1/24", "192.0.2.0/24"), "192.0.2.0/24"),
            (change("addresses = [\"10.1.0.1\"]", "addresses = [\"10.96.0.1\"]"), "10.96.0.1"),
            (change("device = \"net_af_packet0", "device = \"eth0"), "eth0"),
            (
                change("registry_prefix = \"/registry\"", "registry_prefix = \"registry/\""),
                "cluster.registry_prefix",
            ),
            (
                change("turnpike_prefix = \"/turnpike\"", "turnpike_prefix = \"/registry/x\""),
                "keep them apart",
            ),
            (change("mode = \"standalone\"", "mode = \"kubernetes\""), "etcd.endpoints"),
            (change("endpoints = []", "endpoints = [\"etcd:2379\"]"), "etcd:2379"),
            (change("endpoints = []", "endpoints = []\nuser = \"x\""), "etcd.password_file"),
            (change("endpoints = []", "endpoints = []\ncert_file = \"/x\""), "etcd.key_file"),
            (change("node_port_range = \"30000-32767\"", "node_port_range = \"9-7\""), "FIRST-LAST"),
            (
                change("node_port_range = \"30000-32767\"", "node_port_range = \"80-90\""),
                "cluster.node_port_range",
            ),
            (String::new(), "dataplane.workers"),
            ("[dataplane]\nworkers = [0]\n".into(), "dataplane.ports"),
        ];
        for (text, needle) in rows {
            let said = error(&text);
            assert!(
                said.contains(needle) && said.starts_with("/etc/t.toml"),
                "{needle:?} is not in {said:?}"
            );
        }
    }
}
