//! What the control plane says, taken record by record: nothing of it is trusted, and after anything wrong only a full snapshot is heard.

use std::sync::Arc;
use turnpike_forward::service_table::Tables;
use turnpike_forward::stage::Staging;
use turnpike_wire::codec::decode_update;
use turnpike_wire::update::Update;

/// Records of a transaction that may take longer than the time between two heartbeats to compile.
const LONG_TRANSACTION_RECORDS: u64 = 4_096;

/// The dataplane's side of the conversation.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    staging: Staging,
    hearing: Hearing,
    tally: ConversationTally,
}

/// What is being listened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hearing {
    /// A new control plane: its first record must start a snapshot.
    #[default]
    Introduction,
    /// Anything.
    Everything,
    /// Something was wrong and was said so: whatever is no snapshot is passed over.
    Snapshot,
}

/// What has been heard so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConversationTally {
    pub(crate) control_planes: u64,
    pub(crate) records: u64,
    pub(crate) snapshots: u64,
    pub(crate) transactions: u64,
    pub(crate) refused_transactions: u64,
    pub(crate) undecodable_records: u64,
    pub(crate) ring_corruptions: u64,
}

/// What follows from a record.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing yet.
    Nothing,
    /// A transaction is complete: publish these.
    Tables(Arc<Tables>),
    /// How many flows are live? No part of a transaction, and fit to be asked at any time.
    Question(u64),
    /// A transaction was refused as a whole, and a snapshot is needed.
    Refused { generation: u64, reason: String },
    /// A snapshot is needed.
    Resync { reason: String },
}

impl Conversation {
    pub(crate) const fn tally(&self) -> &ConversationTally {
        &self.tally
    }

    /// Another control plane speaks from now on; what its predecessor left half said is forgotten.
    pub(crate) fn new_control_plane(&mut self) {
        self.tally.control_planes += 1;
        self.staging.new_control_plane();
        self.hearing = Hearing::Introduction;
    }

    /// The ring lost something.
    pub(crate) fn ring_corrupt(&mut self, reason: &str) -> Heard {
        self.tally.ring_corruptions += 1;
        self.complain(reason.to_owned())
    }

    /// Reads one record; where it is none, what follows from that.
    pub(crate) fn read(&mut self, record: &[u8]) -> Result<Update, Heard> {
        self.tally.records += 1;
        decode_update(record).map_err(|why| {
            self.tally.undecodable_records += 1;
            self.complain(why.to_string())
        })
    }

    /// Whether taking this may last: it compiles the tables of very many Services.
    pub(crate) fn lasts(&self, update: &Update) -> bool {
        matches!(update, Update::Commit(commit) if commit.records > LONG_TRANSACTION_RECORDS)
    }

    /// What follows from what was read.
    pub(crate) fn take(&mut self, update: Update) -> Heard {
        match (self.hearing, &update) {
            (_, Update::CountFlows { question }) => return Heard::Question(*question),
            (_, Update::Reset) => {
                self.tally.snapshots += 1;
                self.hearing = Hearing::Everything;
            }
            (Hearing::Everything, _) => {}
            (Hearing::Introduction, _) => {
                return self.complain("the control plane did not start with a snapshot".into());
            }
            (Hearing::Snapshot, _) => return Heard::Nothing,
        }
        let generation = if let Update::Commit(commit) = &update { commit.generation } else { 0 };
        match self.staging.take(update) {
            None => Heard::Nothing,
            Some(Ok(tables)) => {
                self.tally.transactions += 1;
                Heard::Tables(tables)
            }
            Some(Err(refusal)) => {
                self.tally.refused_transactions += 1;
                self.hearing = Hearing::Snapshot;
                Heard::Refused { generation, reason: refusal.to_string() }
            }
        }
    }

    /// Forgets the open transaction and asks for a snapshot, once.
    fn complain(&mut self, reason: String) -> Heard {
        self.staging.abandon();
        match std::mem::replace(&mut self.hearing, Hearing::Snapshot) {
            Hearing::Snapshot => Heard::Nothing,
            Hearing::Introduction | Hearing::Everything => Heard::Resync { reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_wire::codec::encode_update;
    use turnpike_wire::update::{Backend, BackendState, Commit, Service, ServiceKey, Tracking};

    fn bytes(update: &Update) -> Vec<u8> {
        let mut record = Vec::new();
        encode_update(update, &mut record).unwrap();
        record
    }

    fn service(name: &str) -> Update {
        Update::PutService(Service {
            key: ServiceKey(name.into()),
            affinity_timeout_s: 0,
            source_ranges: vec![],
            tracking: Tracking::default(),
            proxy_protocol: false,
        })
    }

    fn commit(generation: u64, records: u64) -> Update {
        Update::Commit(Commit { generation, revision: generation as i64, records })
    }

    impl Conversation {
        fn hear(&mut self, record: &[u8]) -> Heard {
            self.read(record).map_or_else(|heard| heard, |update| self.take(update))
        }
    }

    /// What each record leads to, in one letter: nothing, tables, refused, resync.
    fn hear_all(conversation: &mut Conversation, updates: &[Update]) -> String {
        let letter = |heard| match heard {
            Heard::Nothing => '.',
            Heard::Tables(_) => 'T',
            Heard::Question(_) => '?',
            Heard::Refused { .. } => 'R',
            Heard::Resync { .. } => '!',
        };
        updates.iter().map(|u| letter(conversation.hear(&bytes(u)))).collect()
    }

    fn orphan() -> Update {
        let address = "10.0.0.1:80".parse().unwrap();
        Update::PutBackend(
            ServiceKey("nobody".into()),
            Backend {
                address,
                weight: 1,
                state: BackendState::Ready,
                in_cluster_set: true,
                in_local_set: true,
                serving: true,
            },
        )
    }

    #[test]
    fn after_anything_wrong_only_a_snapshot_is_heard() {
        let snapshot = [Update::Reset, service("a"), commit(7, 2)];
        let rows: &[(&str, Vec<Update>, &str)] = &[
            ("a change of nobody", vec![orphan(), commit(8, 1), service("b"), commit(9, 1)], ".R.."),
            ("a lost record", vec![commit(8, 1), service("b")], "R."),
            ("a lost generation", vec![service("b"), commit(9, 1)], ".R"),
        ];
        for (name, then, wanted) in rows {
            let mut conversation = Conversation::default();
            conversation.new_control_plane();
            assert_eq!(hear_all(&mut conversation, &snapshot), "..T", "{name}");
            assert_eq!(hear_all(&mut conversation, then), *wanted, "{name}");
            assert_eq!(conversation.staging.tables().generation, 7, "{name}: the state before stays");
            let again = [Update::Reset, service("c"), commit(12, 2), service("d"), commit(13, 1)];
            assert_eq!(hear_all(&mut conversation, &again), "..T.T", "{name}: a snapshot heals");
        }
    }

    #[test]
    fn a_new_control_plane_must_introduce_itself_and_is_told_so_once() {
        let mut conversation = Conversation::default();
        conversation.new_control_plane();
        assert_eq!(hear_all(&mut conversation, &[service("a"), service("b"), commit(1, 2)]), "!..");
        assert_eq!(hear_all(&mut conversation, &[Update::Reset, service("a"), commit(2, 2)]), "..T");
        conversation.hear(&bytes(&service("half")));
        conversation.new_control_plane();
        assert_eq!(hear_all(&mut conversation, &[Update::Reset, service("a"), commit(1, 2)]), "..T");
        assert_eq!(conversation.staging.tables().services().count(), 1, "what was half said is forgotten");
    }

    #[test]
    fn questions_are_heard_at_any_time_and_are_part_of_nothing() {
        let question = || Update::CountFlows { question: 9 };
        let mut conversation = Conversation::default();
        conversation.new_control_plane();
        assert_eq!(hear_all(&mut conversation, &[question()]), "?");
        let asked =
            [Update::Reset, question(), service("a"), commit(1, 2), question(), service("b"), commit(2, 1)];
        assert_eq!(hear_all(&mut conversation, &asked), ".?.T?.T");
        assert_eq!(hear_all(&mut conversation, &[orphan(), commit(3, 1), question(), service("c")]), ".R?.");
        assert!(matches!(conversation.hear(&bytes(&question())), Heard::Question(9)));
    }

    #[test]
    fn bytes_that_are_no_record_cost_a_snapshot_and_nothing_else() {
        for junk in [&[][..], &[0], &[1, 255, 255, 255, 255, 255], &[9; 64], &[1; 5_000]] {
            let mut conversation = Conversation::default();
            conversation.new_control_plane();
            hear_all(&mut conversation, &[Update::Reset, service("a"), commit(1, 2), service("half")]);
            assert!(matches!(conversation.hear(junk), Heard::Resync { .. }), "{junk:?}");
            assert!(matches!(conversation.hear(junk), Heard::Nothing), "said once");
            assert_eq!(conversation.staging.tables().services().count(), 1);
            assert_eq!(conversation.tally().undecodable_records, 2);
        }
        let mut conversation = Conversation::default();
        conversation.new_control_plane();
        hear_all(&mut conversation, &[Update::Reset, service("a"), commit(1, 2)]);
        assert!(matches!(conversation.ring_corrupt("lost"), Heard::Resync { .. }));
        assert_eq!(hear_all(&mut conversation, &[service("b"), commit(2, 1)]), "..");
    }
}
