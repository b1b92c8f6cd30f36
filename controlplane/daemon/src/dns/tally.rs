//! How the DNS server is: its sockets, its upstream servers, and how often what happened. Read by the status and the metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use turnpike_wire::admin::{DnsPeer, DnsStatus};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Messages over UDP.
    QueriesUdp,
    /// Messages over TCP.
    QueriesTcp,
    /// Messages that must not be answered, or came while too many were worked on.
    Dropped,
    /// Answers with NOERROR.
    NoError,
    /// Answers with FORMERR.
    FormErr,
    /// Answers with SERVFAIL.
    ServFail,
    /// Answers with NXDOMAIN.
    NxDomain,
    /// Answers with NOTIMP.
    NotImp,
    /// Answers with REFUSED.
    Refused,
    /// Answers with another code.
    OtherCode,
    /// Answers that did not fit and say so.
    Truncated,
    /// Questions that went to an upstream server.
    Forwarded,
    /// Questions that no upstream server answered.
    ForwardFailed,
    /// TCP connections that were taken.
    Connections,
    /// TCP connections that were closed at once, since there were too many.
    ConnectionsRefused,
}

impl Count {
    /// All of them, with their names.
    pub const ALL: [(Self, &str); 15] = [
        (Self::QueriesUdp, "queries_udp"),
        (Self::QueriesTcp, "queries_tcp"),
        (Self::Dropped, "dropped"),
        (Self::NoError, "answers_noerror"),
        (Self::FormErr, "answers_formerr"),
        (Self::ServFail, "answers_servfail"),
        (Self::NxDomain, "answers_nxdomain"),
        (Self::NotImp, "answers_notimp"),
        (Self::Refused, "answers_refused"),
        (Self::OtherCode, "answers_other"),
        (Self::Truncated, "truncated"),
        (Self::Forwarded, "forwarded"),
        (Self::ForwardFailed, "forward_failed"),
        (Self::Connections, "tcp_connections"),
        (Self::ConnectionsRefused, "tcp_connections_refused"),
    ];
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [AtomicU64; Count::ALL.len()],
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    /// Revision, Services with names, addresses with names; none before the first complete view.
    names: Option<(i64, u64, u64)>,
    listeners: BTreeMap<(SocketAddr, &'static str), Condition>,
    upstream: BTreeMap<SocketAddr, Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    state: &'static str,
    error: Option<String>,
}

impl Tally {
    /// It happened once more.
    pub fn add(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The names are those of this revision.
    pub fn set_names(&self, revision: i64, services: usize, addresses: usize) {
        self.said().names = Some((revision, services as u64, addresses as u64));
    }

    /// A listener works, or why it does not. Says whether that is news.
    pub fn set_listener(&self, address: SocketAddr, transport: &'static str, error: Option<String>) -> bool {
        let state = if error.is_none() { "listening" } else { "failed" };
        let now = Condition { state, error };
        self.said().listeners.insert((address, transport), now.clone()) != Some(now)
    }

    /// An upstream server answers, or why it is not to be used. Says whether that is news.
    pub fn set_upstream(&self, address: SocketAddr, state: &'static str, error: Option<String>) -> bool {
        let now = Condition { state, error };
        self.said().upstream.insert(address, now).is_some_and(|old| old.state != state)
    }

    /// Everything, as people and scripts see it.
    #[must_use]
    pub fn status(&self, zone: &str) -> DnsStatus {
        let said = self.said();
        let peer = |address: &SocketAddr, transport: &str, condition: &Condition| DnsPeer {
            address: *address,
            transport: transport.to_owned(),
            state: condition.state.to_owned(),
            last_error: condition.error.clone(),
        };
        let (revision, services, addresses) = said.names.unwrap_or_default();
        DnsStatus {
            zone: zone.to_owned(),
            state: match (said.listeners.is_empty(), said.names) {
                (true, _) => "off",
                (false, None) => "waiting",
                (false, Some(_)) => "serving",
            }
            .into(),
            revision,
            services,
            addresses,
            listeners: said.listeners.iter().map(|((a, t), c)| peer(a, t, c)).collect(),
            upstream: said.upstream.iter().map(|(a, c)| peer(a, "", c)).collect(),
            counters: Count::ALL
                .into_iter()
                .map(|(count, name)| (name.to_owned(), self.counts[count as usize].load(Ordering::Relaxed)))
                .collect(),
        }
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        // Plain data that is replaced piece by piece: a panic elsewhere leaves nothing half done.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, Tally};
    use std::collections::BTreeSet;

    #[test]
    fn every_count_has_its_own_name_and_place() {
        let tally = Tally::default();
        for (index, (count, _)) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, index);
            (0..=index).for_each(|_| tally.add(count));
        }
        let counters = tally.status("z").counters;
        assert_eq!(counters.len(), Count::ALL.len());
        assert_eq!(counters.values().collect::<BTreeSet<_>>().len(), Count::ALL.len());
        assert_eq!(counters["queries_udp"], 1);
    }

    #[test]
    fn the_state_says_whether_names_are_known() {
        let tally = Tally::default();
        let listen = "127.0.0.1:53".parse().unwrap();
        assert_eq!(tally.status("z").state, "off");
        assert!(tally.set_listener(listen, "udp", Some("taken".into())));
        assert!(!tally.set_listener(listen, "udp", Some("taken".into())), "no news");
        assert_eq!(tally.status("z").state, "waiting");
        assert_eq!(tally.status("z").listeners[0].last_error.as_deref(), Some("taken"));
        assert!(tally.set_listener(listen, "udp", None));
        tally.set_names(7, 2, 3);
        let status = tally.status("cluster.local");
        assert_eq!((status.state.as_str(), status.revision), ("serving", 7));
        assert_eq!((status.services, status.addresses), (2, 3));
        assert_eq!(status.listeners[0].state, "listening");
    }
}
