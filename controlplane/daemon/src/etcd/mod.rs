//! Where the cluster's state is: the connection, the private etcd, and the source of events.
//!
//! A Service's walk begins in [`source`], with the help of [`list`], and goes through [`cut`] and, after a list, [`guard`] into
//! [`crate::state`].

pub mod client;
pub mod cut;
pub mod guard;
pub mod list;
pub mod private;
pub mod source;

/// A change of one key, or one line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// etcd key.
    pub key: Vec<u8>,
    /// New value; none: deleted.
    pub value: Option<Vec<u8>>,
    /// etcd revision of the change.
    pub revision: i64,
}
