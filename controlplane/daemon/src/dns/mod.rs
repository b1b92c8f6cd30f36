//! Names of Services: a DNS server of the Kubernetes DNS specification 1.1.0 (rule D1), on hickory's messages.
//!
//! A question's walk: [`server`] → [`message`] (bytes → question) → [`answer`] ([`zone`]: which node of the tree; [`index`]: what the cluster
//! has) → [`message`] (answer → bytes that fit) → [`server`]. Other names go on to [`upstream`]. The names' walk: `state` → [`touched`] →
//! [`follow`] → [`names`] → [`index`].
//!
//! It runs on a thread of its own: a flood of questions does not hold up what comes from etcd. The sockets' loops are our own, and not those of
//! hickory-server, because they bound what they take: questions at work, connections, and times.

pub mod answer;
pub mod follow;
pub mod index;
pub mod message;
pub mod names;
pub mod reverse;
pub mod tally;
pub mod touched;
pub mod zone;
