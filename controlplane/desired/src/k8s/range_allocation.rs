//! `v1.RangeAllocation`: the network of an old cluster's service addresses, from before there were ServiceCIDR objects.

use super::ObjectMeta;

/// `v1.RangeAllocation`. It is no API object: its metadata is empty, its key alone names it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RangeAllocation {
    /// Empty in storage.
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    /// A network, or `30000-32767` for NodePorts.
    #[prost(string, required, tag = "2")]
    pub range: String,
}
