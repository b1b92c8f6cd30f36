//! Why a Service cannot get what it needs, and the mend.

use crate::desired::Family;
use crate::object::ObjectKey;
use std::net::IpAddr;

/// A Service that cannot get what it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Service {service}: {reason}")]
pub struct AllocateError {
    /// Who asks.
    pub service: ObjectKey,
    /// Why not.
    pub reason: Shortage,
}

/// Why a Service cannot get what it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Someone else has the address.
    #[error("{field}: {address} is taken by Service {by}; choose another or leave it out")]
    AddressTaken {
        /// Which field asks for it.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// Who has it.
        by: ObjectKey,
    },
    /// Someone else has the NodePort.
    #[error("{}: {port} is taken by Service {by}; choose another or leave it out", port_field(*.index))]
    NodePortTaken {
        /// Which of its ports; none: that of the health check.
        index: Option<usize>,
        /// The NodePort.
        port: u16,
        /// Who has it.
        by: ObjectKey,
    },
    /// The wanted load-balancer address is of a family the Service does not have.
    #[error("{field}: {address} is of a family the Service does not have ({families}); see spec.ipFamilies")]
    OtherFamily {
        /// Which field asks for it.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// The families it has.
        families: String,
    },
    /// No cluster address is left.
    #[error("all {family} addresses of cluster.service_cidrs ({networks}) are taken; add a network there")]
    ClusterAddressesExhausted {
        /// Of which family.
        family: Family,
        /// The networks, or `none`.
        networks: String,
    },
    /// No NodePort is left.
    #[error("all {size} NodePorts of {first}-{last} are taken; widen cluster.node_port_range")]
    NodePortsExhausted {
        /// Size of the range.
        size: usize,
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
    /// No load-balancer address is left.
    #[error(
        "no free {family} load-balancer address: {pools}; add addresses to [[cluster.pools]] or delete a Service, and it is given one"
    )]
    PoolsExhausted {
        /// Of which family.
        family: Family,
        /// Each pool with its size and how much of it is taken.
        pools: String,
    },
    /// Another Service has the wanted load-balancer address and does not share it with this one.
    #[error("{field}: {address} is taken by Service {by}: {reason}")]
    NotShared {
        /// Which field asks for it.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// Who has it.
        by: ObjectKey,
        /// Why the two cannot share it, and the mend.
        reason: String,
    },
    /// The wanted load-balancer address is in no pool the Service may use.
    #[error("{field}: {address} is in none of the address pools {pools}; add it to [[cluster.pools]]")]
    OutsidePools {
        /// Which field asks for it.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// Names of the pools.
        pools: String,
    },
    /// The address belongs to the gateway.
    #[error("{field}: {address} is the gateway's own address; choose another")]
    OwnAddress {
        /// Which field asks for it.
        field: &'static str,
        /// The address.
        address: IpAddr,
    },
}

fn port_field(index: Option<usize>) -> String {
    index.map_or_else(
        || "spec.healthCheckNodePort".to_owned(),
        |index| format!("spec.ports[{index}].nodePort"),
    )
}
