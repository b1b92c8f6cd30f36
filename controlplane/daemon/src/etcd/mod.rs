//! Where the cluster's state is: the connection, the private etcd, and the source of events.

pub mod client;
pub mod private;
pub mod source;
