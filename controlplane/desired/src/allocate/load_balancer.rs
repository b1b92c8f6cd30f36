//! Load-balancer addresses from the pools: asked for or chosen, one of each family, shared where both sides want it.
//!
//! A Service that asks for an address it cannot have is refused. One that asks for none and finds the pools empty is taken all the same:
//! it has its other faces, says in a condition of its status that it waits, and gets the first address that becomes free.

use super::{Choice, Shortage, list, nth, size};
use crate::desired::Family;
use crate::k8s::{Condition, LoadBalancerIngress, Service};
use crate::object::ObjectKey;
use crate::words::{ADDRESS_POOL_ANNOTATION, LOAD_BALANCER_IPS_ANNOTATION, SHARING_KEY_ANNOTATION};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_wire::config::Pool;

/// Type of the condition that a Service has while it waits for a load-balancer address.
pub const ADDRESS_CONDITION: &str = "turnpike.dev/AddressAssigned";
/// Its reason.
const EXHAUSTED: &str = "PoolsExhausted";

/// Who has an address, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) service: ObjectKey,
    sharing: Option<String>,
    ports: BTreeSet<(String, i32)>,
}

/// The key under which a Service shares its load-balancer addresses; none: it does not.
#[must_use]
pub fn sharing_key(service: &Service) -> Option<&str> {
    let key = service.metadata.annotations.get(SHARING_KEY_ANNOTATION)?;
    Some(key.as_str()).filter(|key| !key.is_empty())
}

/// Whether a Service waits for a load-balancer address.
#[must_use]
pub fn is_waiting(service: &Service) -> bool {
    service.status.conditions.iter().any(|condition| condition.r#type == ADDRESS_CONDITION)
}

impl Tenant {
    pub(super) fn of(service: &Service) -> Self {
        Self {
            service: ObjectKey::of(&service.metadata),
            sharing: sharing_key(service).map(str::to_owned),
            ports: service.spec.ports.iter().map(|port| (port.protocol.clone(), port.port)).collect(),
        }
    }

    /// Who keeps an address from everybody.
    pub(super) fn nobody() -> Self {
        Self { service: ObjectKey::new("", ""), sharing: None, ports: BTreeSet::new() }
    }

    /// Why the two cannot have one address, and the mend; none: they can.
    fn quarrel(&self, other: &Self) -> Option<String> {
        if self.sharing.is_none() || self.sharing != other.sharing {
            return Some(format!(
                "to share it, both need the same {SHARING_KEY_ANNOTATION}; or choose another, or leave it out"
            ));
        }
        let (protocol, port) = self.ports.intersection(&other.ports).next()?;
        Some(format!("both have port {port}/{protocol}, and only different ports can share an address"))
    }
}

/// An address that is asked for, and the field that does.
struct Asked {
    field: &'static str,
    address: IpAddr,
}

fn asked(service: &Service) -> Vec<Asked> {
    const ANNOTATION: &str = "metadata.annotations[turnpike.dev/load-balancer-ips]";
    let annotation = service.metadata.annotations.get(LOAD_BALANCER_IPS_ANNOTATION);
    let listed =
        annotation.into_iter().flat_map(|text| text.split(',')).map(|text| (ANNOTATION, text.trim()));
    let stated = [("spec.loadBalancerIP", service.spec.load_balancer_ip.as_str())];
    let mut asked: Vec<Asked> = Vec::new();
    for (field, text) in stated.into_iter().chain(listed) {
        if let Ok(address) = text.parse()
            && !asked.iter().any(|known| known.address == address)
        {
            asked.push(Asked { field, address });
        }
    }
    asked
}

impl Choice<'_> {
    pub(super) fn public_addresses(&self, service: &mut Service, errors: &mut Vec<Shortage>) {
        let had: Vec<IpAddr> =
            service.status.load_balancer.ingress.iter().filter_map(|i| i.ip.parse().ok()).collect();
        if !self.rules.load_balancer_class.is_ours(service) {
            service.status.load_balancer.ingress.clear();
            service.status.conditions.retain(|condition| condition.r#type != ADDRESS_CONDITION);
            return;
        }
        let named = service.metadata.annotations.get(ADDRESS_POOL_ANNOTATION);
        let pools: Vec<&Pool> =
            self.rules.pools.iter().filter(|pool| named.is_none_or(|named| *named == pool.name)).collect();
        let families: Vec<Family> =
            service.spec.ip_families.iter().filter_map(|name| Family::parse(name)).collect();
        let asked = asked(service);
        for Asked { field, address } in &asked {
            if !families.contains(&Family::of(*address)) {
                let families = list(&families);
                errors.push(Shortage::OtherFamily { field, address: *address, families });
            }
        }
        let tenant = Tenant::of(service);
        let (mut given, mut missing) = (Vec::new(), Vec::new());
        for family in families {
            let wanted = asked.iter().find(|asked| Family::of(asked.address) == family);
            let kept = had.iter().copied().find(|address| Family::of(*address) == family);
            let kept = kept.filter(|had| self.check_public(&tenant, "", *had, &pools).is_ok());
            match (wanted, kept) {
                (Some(Asked { field, address }), _) => {
                    match self.check_public(&tenant, field, *address, &pools) {
                        Ok(()) => given.push(*address),
                        Err(shortage) => errors.push(shortage),
                    }
                }
                (None, Some(had)) => given.push(had),
                (None, None) => match self.free_public(&tenant, family, &pools) {
                    Some(free) => given.push(free),
                    None => missing.push(family),
                },
            }
        }
        let ingress = given.iter().map(|address| LoadBalancerIngress {
            ip: address.to_string(),
            ip_mode: Some("VIP".into()),
            ..Default::default()
        });
        service.status.load_balancer.ingress = ingress.collect();
        // A family that no pool has is not waited for, unless it is the only one.
        missing.retain(|family| {
            given.is_empty() || pools.iter().any(|pool| of_family(pool, *family).next().is_some())
        });
        note(service, missing.first().map(|family| exhausted(*family, &pools)));
    }

    fn check_public(
        &self,
        tenant: &Tenant,
        field: &'static str,
        address: IpAddr,
        pools: &[&Pool],
    ) -> Result<(), Shortage> {
        if !pools.iter().flat_map(|pool| &pool.addresses).any(|network| network.contains(&address)) {
            let pools = list(pools.iter().map(|p| &p.name));
            return Err(Shortage::OutsidePools { field, address, pools });
        }
        if self.rules.own_addresses.contains(&address) {
            return Err(Shortage::OwnAddress { field, address });
        }
        for other in self.tenants(address) {
            if let Some(reason) = tenant.quarrel(other) {
                return Err(Shortage::NotShared { field, address, by: other.service.clone(), reason });
            }
        }
        Ok(())
    }

    fn tenants(&self, address: IpAddr) -> impl Iterator<Item = &super::Tenant> {
        let tenants = self.taken.public_addresses.get(&address);
        tenants.into_iter().flatten().filter(|tenant| tenant.service != *self.key)
    }

    /// An address that is shared already and may be shared with this Service too, else the first free one of the first pool that has one.
    fn free_public(&self, tenant: &Tenant, family: Family, pools: &[&Pool]) -> Option<IpAddr> {
        let is_good = |address: &IpAddr| self.check_public(tenant, "", *address, pools).is_ok();
        if tenant.sharing.is_some() {
            let shared = self.taken.public_addresses.keys().copied();
            let of_partners = shared.filter(|address| Family::of(*address) == family);
            let mut of_partners = of_partners.filter(|address| self.tenants(*address).next().is_some());
            if let Some(address) = of_partners.find(is_good) {
                return Some(address);
            }
        }
        let is_free = |address: &IpAddr| {
            self.tenants(*address).next().is_none() && !self.rules.own_addresses.contains(address)
        };
        let networks = pools.iter().flat_map(|pool| of_family(pool, family));
        networks
            .flat_map(|network| {
                let (first, end) = usable(network);
                (first..end).map(move |offset| nth(network, offset))
            })
            .find(is_free)
    }
}

fn of_family(pool: &Pool, family: Family) -> impl Iterator<Item = &IpNet> {
    pool.addresses.iter().filter(move |network| Family::of(network.addr()) == family)
}

/// The offsets of the addresses that are given without being asked for: not the network's own, and of IPv4 not the broadcast address.
fn usable(network: &IpNet) -> (u64, u64) {
    let size = size(network);
    match network {
        _ if size <= 2 => (0, size),
        IpNet::V4(_) => (1, size - 1),
        IpNet::V6(_) => (1, size),
    }
}

fn exhausted(family: Family, pools: &[&Pool]) -> Shortage {
    let told = pools.iter().map(|pool| {
        let addresses = of_family(pool, family).map(usable).map(|(first, end)| end - first);
        format!("pool {:?} has {} to give, none free", pool.name, addresses.fold(0, u64::saturating_add))
    });
    let pools = if pools.is_empty() { "there is no pool".into() } else { list(told) };
    Shortage::PoolsExhausted { family, pools }
}

/// Says in the Service's status that it waits, or no longer.
fn note(service: &mut Service, shortage: Option<Shortage>) {
    let conditions = &mut service.status.conditions;
    let Some(shortage) = shortage else {
        return conditions.retain(|condition| condition.r#type != ADDRESS_CONDITION);
    };
    let message = shortage.to_string();
    match conditions.iter_mut().find(|condition| condition.r#type == ADDRESS_CONDITION) {
        Some(condition) => condition.message = message,
        None => conditions.push(Condition {
            r#type: ADDRESS_CONDITION.into(),
            status: "False".into(),
            reason: EXHAUSTED.into(),
            message,
            ..Default::default()
        }),
    }
}
