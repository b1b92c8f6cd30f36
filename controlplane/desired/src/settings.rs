//! What of the configuration the rules need.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_wire::config::{ClusterMode, Config, Pool, PortRange};

/// What [`crate::resolve`] needs to know about this gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where NodePorts answer: the addresses of the gateway's ports.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Those and the SNAT addresses: none of them can be a backend, a cluster or a load-balancer address.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Networks of the cluster addresses, as configured; those of ServiceCIDR objects come from the tracker.
    pub service_cidrs: Vec<IpNet>,
    /// Which load-balancer addresses may be answered.
    pub load_balancer_scope: LoadBalancerScope,
    /// The Kubernetes node this gateway acts as; empty: none.
    pub node_name: String,
    /// Its topology zone; empty: none.
    pub zone: String,
}

/// Which addresses of `status.loadBalancer` may be answered (CVE-2020-8554: whoever can write a status could take any address).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadBalancerScope {
    /// Those of the configured pools.
    Pools(Vec<IpNet>),
    /// Any that is no cluster address and not the gateway's own: an installation that trusts its API server's writers, with no pool set.
    Any,
}

impl Default for LoadBalancerScope {
    fn default() -> Self {
        Self::Pools(Vec::new())
    }
}

impl LoadBalancerScope {
    /// Whether `address` may be answered.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Pools(networks) => networks.iter().any(|network| network.contains(&address)),
        }
    }
}

impl Settings {
    /// The settings of a configuration. Load-balancer addresses are bound to the pools in standalone mode always, in Kubernetes mode if there is a pool.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let pools = &config.cluster.pools;
        let scope = if pools.is_empty() && config.cluster.mode == ClusterMode::Kubernetes {
            LoadBalancerScope::Any
        } else {
            LoadBalancerScope::Pools(pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect())
        };
        let ports: BTreeSet<IpAddr> = config.own_addresses().into_iter().collect();
        let snat = config.snat_addresses().into_iter().map(IpAddr::V4);
        Self {
            own_addresses: ports.iter().copied().chain(snat).collect(),
            node_port_addresses: ports,
            service_cidrs: config.cluster.service_cidrs.clone(),
            load_balancer_scope: scope,
            node_name: config.gateway.node_name.clone(),
            zone: config.gateway.zone.clone(),
        }
    }
}

/// What [`crate::validate`] and [`crate::allocate`] need to know about the cluster (standalone mode).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Networks of the cluster addresses.
    pub service_cidrs: Vec<IpNet>,
    /// NodePorts.
    pub node_port_range: PortRange,
    /// Pools of load-balancer addresses.
    pub pools: Vec<Pool>,
    /// The gateway's own addresses: never given to a Service.
    pub own_addresses: BTreeSet<IpAddr>,
}

impl Rules {
    /// The rules of a configuration.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self {
            service_cidrs: config.cluster.service_cidrs.clone(),
            node_port_range: config.cluster.node_port_range,
            pools: config.cluster.pools.clone(),
            own_addresses: Settings::from_config(config).own_addresses,
        }
    }
}
