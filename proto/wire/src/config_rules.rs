//! What makes a configuration work beyond its types: each rule names the setting, the value and the mend.

use crate::config::{ClusterMode, Config, ConfigError, Port, StaticRoute};
use crate::config_devices;
use crate::config_dsr;
use crate::limits::{PORTS_MAX, ROUTES_MAX, WORKERS_MAX};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// A rule that a configuration breaks.
pub(crate) struct Broken {
    setting: String,
    message: String,
}

impl Broken {
    pub(crate) fn new(setting: impl Into<String>, message: impl Into<String>) -> Self {
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

/// Longest packet that every host takes (RFC 791 section 3.1), in bytes: a port takes as much.
const MTU_LEAST: u16 = 576;
/// Least MTU of a link of IPv6 (RFC 8200 section 5), in bytes.
const IPV6_MTU_LEAST: u16 = 1_280;

fn mtu(port: &Port) -> Result<(), Broken> {
    match port.mtu {
        Some(mtu) if mtu < IPV6_MTU_LEAST && port.addresses.iter().any(|n| n.addr().is_ipv6()) => {
            Err(Broken::new(
                format!("dataplane.ports {:?}", port.name),
                format!(
                    "mtu = {mtu} is below {IPV6_MTU_LEAST}, the least that IPv6 can use; take its IPv6 addresses away, or raise it"
                ),
            ))
        }
        Some(mtu) if mtu < MTU_LEAST => Err(Broken::new(
            format!("dataplane.ports {:?}", port.name),
            format!("mtu = {mtu} is below {MTU_LEAST}; write what the link takes, e.g. 1500"),
        )),
        _ => Ok(()),
    }
}

/// Flow slots a worker can have.
const FLOWS: std::ops::RangeInclusive<u32> = 1_024..=67_108_864;

fn check(config: &Config) -> Result<(), Broken> {
    gateway(config)?;
    prefixes(config)?;
    networks(config)?;
    node_port_addresses(config)?;
    etcd(config)?;
    servers(config)?;
    dataplane(config)
}

fn node_port_addresses(config: &Config) -> Result<(), Broken> {
    let texts = &config.cluster.node_port_addresses;
    for text in texts {
        if text == "primary" && texts.len() == 1 || text.parse::<IpNet>().is_ok() {
            continue;
        }
        return Err(Broken::new(
            "cluster.node_port_addresses",
            format!("{text:?} is no network; write networks such as \"192.0.2.0/24\", or \"primary\" alone"),
        ));
    }
    Ok(())
}

/// What the control plane's own servers need.
fn servers(config: &Config) -> Result<(), Broken> {
    let class = &config.cluster.load_balancer_class;
    if class.is_empty() || class.contains(char::is_whitespace) {
        return Err(Broken::new(
            "cluster.load_balancer_class",
            format!("{class:?} names no class; write e.g. \"turnpike.dev/gateway\""),
        ));
    }
    let dns = &config.dns;
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    if dns.zone.len() > 253 || !dns.zone.trim_end_matches('.').split('.').all(label) {
        return Err(Broken::new(
            "dns.zone",
            format!("{:?} is no domain; write e.g. \"cluster.local\"", dns.zone),
        ));
    }
    if dns.ttl_s > 604_800 {
        return Err(Broken::new("dns.ttl_s", format!("{} is over a week (604800)", dns.ttl_s)));
    }
    for (setting, addresses) in [("dns.listen", &dns.listen), ("dns.upstream", &dns.upstream)] {
        if let Some(bad) = addresses.iter().find(|address| address.port() == 0) {
            return Err(Broken::new(setting, format!("{bad} has no port; write e.g. \"192.0.2.10:53\"")));
        }
    }
    if let Some(server) = dns.upstream.iter().find(|server| dns.listen.contains(server)) {
        return Err(Broken::new("dns.upstream", format!("{server} is this server itself; name another")));
    }
    Ok(())
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

/// The networks addresses are given out from, and the addresses that must lie in none of them.
fn networks(config: &Config) -> Result<(), Broken> {
    let given_out = given_out(config)?;
    for (at, (setting, network)) in given_out.iter().enumerate() {
        apart(setting, network, &given_out[..at])?;
    }
    for network in &config.cluster.pod_cidrs {
        unicast("cluster.pod_cidrs", network)?;
        apart("cluster.pod_cidrs", network, &given_out)?;
    }
    config.dataplane.dsr.check().map_err(|what| Broken::new(config_dsr::SOURCES, what))?;
    for network in &config.dataplane.dsr.sources {
        unicast(config_dsr::SOURCES, network)?;
        apart(config_dsr::SOURCES, network, &given_out)?;
    }
    let mut sources = BTreeSet::new();
    for address in &config.dataplane.snat.addresses {
        if !is_host(*address) || is_link_local(*address) {
            return Err(Broken::new("dataplane.snat.addresses", format!("{address} is no host's address")));
        }
        if !sources.insert(address) {
            return Err(Broken::new(
                "dataplane.snat.addresses",
                format!("{address} is there twice; write it once"),
            ));
        }
        outside("dataplane.snat.addresses", *address, &given_out)?;
    }
    for port in &config.dataplane.ports {
        let setting = format!("dataplane.ports {:?}", port.name);
        let own = port.addresses.iter().map(IpNet::addr);
        for address in own.chain(port.gateway.map(IpAddr::V4)).chain(port.gateway6.map(IpAddr::V6)) {
            outside(&setting, address, &given_out)?;
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

/// A setting and a network of it.
type Named = (String, IpNet);

/// Every network of addresses that Services get, with its setting.
fn given_out(config: &Config) -> Result<Vec<Named>, Broken> {
    let mut names = BTreeSet::new();
    let mut all: Vec<Named> =
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
    for (setting, network) in &all {
        unicast(setting, network)?;
    }
    Ok(all)
}

/// Refuses a network that shares an address with one of `others`.
fn apart(setting: &str, network: &IpNet, others: &[Named]) -> Result<(), Broken> {
    match others
        .iter()
        .find(|(_, other)| network.contains(&other.network()) || other.contains(&network.network()))
    {
        None => Ok(()),
        Some((other_setting, other)) => Err(Broken::new(
            setting,
            format!(
                "{network} overlaps {other} of {other_setting}; an address can belong to one of them only"
            ),
        )),
    }
}

/// Refuses an address that a Service could get.
fn outside(setting: &str, address: IpAddr, given_out: &[Named]) -> Result<(), Broken> {
    match given_out.iter().find(|(_, network)| network.contains(&address)) {
        None => Ok(()),
        Some((other, network)) => Err(Broken::new(
            setting,
            format!("{address} lies in {network} of {other}; take an address that no Service can get"),
        )),
    }
}

/// Refuses a network that holds addresses no host can have.
fn unicast(setting: &str, network: &IpNet) -> Result<(), Broken> {
    const NO_HOSTS: [&str; 7] =
        ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::1/128", "fe80::/10", "ff00::/8"];
    let overlaps = |reserved: &&&str| {
        reserved.parse::<IpNet>().is_ok_and(|reserved| {
            network.contains(&reserved.network()) || reserved.contains(&network.network())
        })
    };
    match NO_HOSTS.iter().find(overlaps) {
        None => Ok(()),
        Some(reserved) => Err(Broken::new(
            setting,
            format!(
                "{network} overlaps {reserved}, whose addresses no host can have; take a network of your own"
            ),
        )),
    }
}

fn etcd(config: &Config) -> Result<(), Broken> {
    let etcd = &config.etcd;
    for endpoint in &etcd.endpoints {
        let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        let is_member = |r: &str| !r.trim_end_matches('/').is_empty() && !r.contains(char::is_whitespace);
        if !rest.is_some_and(is_member) {
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
    if etcd.shrink_limit_percent > 100 {
        return Err(Broken::new(
            "etcd.shrink_limit_percent",
            format!("{} is not 0 to 100", etcd.shrink_limit_percent),
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
    if let Some(flows) = dataplane.ipv6_flows_per_worker.filter(|flows| !FLOWS.contains(flows)) {
        return Err(Broken::new(
            "dataplane.ipv6_flows_per_worker",
            format!("{flows} is not {} to {}", FLOWS.start(), FLOWS.end()),
        ));
    }
    if !FLOWS.contains(&dataplane.flows_per_worker) {
        return Err(Broken::new(
            "dataplane.flows_per_worker",
            format!("{} is not {} to {}", dataplane.flows_per_worker, FLOWS.start(), FLOWS.end()),
        ));
    }
    if let Some((setting, message)) = crate::config_snat::broken(config) {
        return Err(Broken::new(setting, message));
    }
    if !(16..=65_536).contains(&dataplane.memory_mb) {
        return Err(Broken::new(
            "dataplane.memory_mb",
            format!("{} is not 16 to 65536", dataplane.memory_mb),
        ));
    }
    if dataplane.ports.len() > PORTS_MAX {
        return Err(Broken::new(
            "dataplane.ports",
            format!("{} ports; there can be {PORTS_MAX}", dataplane.ports.len()),
        ));
    }
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let mut taps = BTreeSet::new();
    for port in &dataplane.ports {
        if port.name.is_empty() || !names.insert(&port.name) {
            return Err(Broken::new(
                "dataplane.ports.name",
                format!("{:?} is empty or there twice; give each port a name of its own", port.name),
            ));
        }
        port_rules(port)?;
        mtu(port)?;
        let setting = || format!("dataplane.ports {:?}", port.name);
        if let Some(tap) = port.exception.as_ref().filter(|tap| !taps.insert(*tap)) {
            return Err(Broken::new(
                setting(),
                format!("exception {tap:?} is another port's already; give each tap a name of its own"),
            ));
        }
        if let Some(twice) = port.addresses.iter().find(|network| !addresses.insert(network.addr())) {
            return Err(Broken::new(
                setting(),
                format!("{} is there twice; an address belongs to one port", twice.addr()),
            ));
        }
    }
    config_devices::check(&dataplane.ports)
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
    if let Some(tap) = port.exception.as_ref().filter(|tap| !is_interface_name(tap)) {
        return Err(Broken::new(
            setting,
            format!(
                "exception {tap:?} cannot name a network interface; use up to 15 letters, digits, '-', '_' and '.', e.g. \"tp-{}\"",
                port.name
            ),
        ));
    }
    if port.addresses.is_empty() {
        return Err(Broken::new(setting, "no address; write e.g. addresses = [\"192.0.2.1/24\"]"));
    }
    if let Some(own) = port.addresses.iter().find(|n| is_link_local(n.addr())) {
        return Err(Broken::new(
            setting,
            format!("{own} is link-local; leave it out, a port with another IPv6 address has one by itself"),
        ));
    }
    if let Some(bad) = port.addresses.iter().find(|n| !is_host(n.addr()) || is_network_itself(n)) {
        return Err(Broken::new(
            setting,
            format!(
                "{bad} is no host's address; write the gateway's own address with the length of its network"
            ),
        ));
    }
    if port.router_advertisements && port.gateway6.is_some() {
        return Err(Broken::new(
            setting,
            "gateway6 is set, and routers are listened to as well; leave gateway6 or router_advertisements out",
        ));
    }
    let next_hops = port.gateway.map(|gateway| ("gateway", gateway.into())).into_iter();
    let next_hops = next_hops.chain(port.gateway6.map(|gateway| ("gateway6", gateway.into())));
    let speaks_ipv6 = port.addresses.iter().any(|n| n.addr().is_ipv6());
    for (what, hop) in next_hops.chain(port.routes.iter().map(|route| ("route via", route.via))) {
        let is_neighbour = is_link_local(hop) && speaks_ipv6
            || port.addresses.iter().any(|n| n.contains(&hop) && n.addr() != hop)
                && !port.addresses.iter().any(|n| n.addr() == hop);
        if !is_neighbour {
            return Err(Broken::new(
                setting,
                format!(
                    "{what} {hop} is no neighbour on a network of this port; it must lie in one of its addresses' networks"
                ),
            ));
        }
    }
    routes(&setting, port)
}

fn routes(setting: &str, port: &Port) -> Result<(), Broken> {
    if port.routes.len() > ROUTES_MAX {
        let message = format!("{} routes; a port can have {ROUTES_MAX}", port.routes.len());
        return Err(Broken::new(setting, message));
    }
    let mut networks = BTreeSet::new();
    for StaticRoute { to, via } in &port.routes {
        if to.addr().is_ipv4() != via.is_ipv4() {
            let message =
                format!("route to {to} via {via}: they are of two IP families; name a next hop of the same");
            return Err(Broken::new(setting, message));
        }
        if to.addr() != to.network() {
            let message = format!("route to {to} has bits behind its prefix; write {}", to.trunc());
            return Err(Broken::new(setting, message));
        }
        if !networks.insert(*to) {
            return Err(Broken::new(
                setting,
                format!("route to {to} is there twice; a network has one next hop"),
            ));
        }
        if let Some(connected) = port.addresses.iter().find(|n| n.trunc() == *to) {
            let message =
                format!("route to {to}: that network is connected already, by {connected}; leave it out");
            return Err(Broken::new(setting, message));
        }
    }
    Ok(())
}

/// What the kernel takes for a name (IFNAMSIZ is 16 with the closing zero), without the characters that have a meaning to it or to shells.
fn is_interface_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=15).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['.', '-'])
}

fn is_host(address: IpAddr) -> bool {
    let is_reserved = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_reserved)
}

/// fe80::/10 (RFC 4291 section 2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether an address stands for its whole network: the first and last one of IPv4, the first one of IPv6 (RFC 4291 section 2.6.1). Of two hosts
/// alone on a link both are hosts (RFC 3021, RFC 6164).
fn is_network_itself(network: &IpNet) -> bool {
    let has_hosts_alone = network.prefix_len() + 1 >= network.max_prefix_len();
    let is_last_of_ipv4 = network.addr().is_ipv4() && network.addr() == network.broadcast();
    !has_hosts_alone && (network.addr() == network.network() || is_last_of_ipv4)
}

#[cfg(test)]
#[path = "config_rules_tests.rs"]
mod tests;
