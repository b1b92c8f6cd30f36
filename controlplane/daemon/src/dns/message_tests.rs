use super::super::answer::Answer;
use super::{HEADER_BYTES, Incoming, Question, Transport, UDP_BYTES_MAX, read};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

fn query(name: &str) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn edns(bytes: u16, version: u8) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(bytes).set_version(version).set_dnssec_ok(true);
    edns
}

fn question(message: &Message, transport: Transport) -> Question {
    match read(&message.to_vec().unwrap(), transport) {
        Incoming::Question(question) => *question,
        other => panic!("{other:?}"),
    }
}

fn fault(bytes: &[u8]) -> (ResponseCode, Message) {
    match read(bytes, Transport::Udp) {
        Incoming::Fault(code, answer) => {
            assert!(answer.len() <= bytes.len().max(HEADER_BYTES), "{code} of {} bytes", answer.len());
            let message = Message::from_vec(&answer).unwrap();
            // BADVERS and BADSIG are the same number.
            assert_eq!(u16::from(message.response_code), u16::from(code));
            assert_eq!(message.message_type, MessageType::Response);
            (code, message)
        }
        other => panic!("{other:?}"),
    }
}

fn many(count: u32) -> Answer {
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    let record = |n: u32| Record::from_rdata(name.clone(), 5, RData::A(A((0x0AF4_0000 + n).into())));
    Answer {
        is_authoritative: true,
        answers: (0..count).map(record).collect(),
        ..Answer::code(ResponseCode::NoError)
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let mut answer = query("a.example.");
    answer.metadata.message_type = MessageType::Response;
    let bytes = answer.to_vec().unwrap();
    assert_eq!(read(&bytes, Transport::Udp), Incoming::Ignore, "an answer");
    for length in 0..HEADER_BYTES {
        assert_eq!(read(&query("a.example.").to_vec().unwrap()[..length], Transport::Udp), Incoming::Ignore);
    }
}

#[test]
fn faults_are_named() {
    let mut status = query("a.example.");
    status.metadata.op_code = OpCode::Status;
    assert_eq!(fault(&status.to_vec().unwrap()).0, ResponseCode::NotImp);
    for op_code in [OpCode::Notify, OpCode::Update, OpCode::Unknown(9)] {
        status.metadata.op_code = op_code;
        let (code, message) = fault(&status.to_vec().unwrap());
        assert_eq!((code, message.metadata.op_code, message.metadata.id), (ResponseCode::NotImp, op_code, 7));
    }
    let good = query("a.example.").to_vec().unwrap();
    for questions in [0, 2, u8::MAX] {
        let mut bytes = good.clone();
        bytes[5] = questions;
        assert_eq!(fault(&bytes).0, ResponseCode::FormErr, "{questions} questions");
    }
    for length in HEADER_BYTES..good.len() {
        assert_eq!(fault(&good[..length]).0, ResponseCode::FormErr, "cut at {length}");
    }
    for (place, what) in [(7, "answers"), (9, "authorities"), (11, "additionals")] {
        let mut bytes = good.clone();
        bytes[place] = 1;
        let (code, message) = fault(&bytes);
        assert_eq!((code, message.queries.len()), (ResponseCode::FormErr, 1), "{what} that are not there");
    }
}

#[test]
fn names_that_run_in_circles_or_are_too_long_are_faults() {
    let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let tail = [0, 1, 0, 1];
    let label = [&[63][..], &[b'x'; 63]].concat();
    let long = [label.as_slice(), &label, &label, &label, &[0]].concat();
    let most = [label.as_slice(), &label, &label, &[61], &[b'y'; 61], &[0]].concat();
    let rows: [(&str, &[u8], bool); 7] = [
        ("a pointer to itself", &[0xC0, 12], false),
        ("a pointer forward", &[0xC0, 40], false),
        ("a label of a kind that is not used", &[0x41, b'a', 0], false),
        ("a label that goes beyond the end", &[63, b'a'], false),
        ("257 bytes", &long, false),
        ("255 bytes", &most, true),
        ("the root", &[0], true),
    ];
    for (what, name, is_good) in rows {
        let bytes = [&header[..], name, &tail].concat();
        match read(&bytes, Transport::Udp) {
            Incoming::Question(_) => assert!(is_good, "{what}"),
            Incoming::Fault(code, _) => assert!(!is_good && code == ResponseCode::FormErr, "{what}: {code}"),
            Incoming::Ignore => panic!("{what}"),
        }
    }
}

#[test]
fn a_later_edns_is_told_the_version_that_is_spoken() {
    let mut message = query("a.example.");
    message.set_edns(edns(4096, 1));
    let (code, answer) = fault(&message.to_vec().unwrap());
    assert_eq!(code, ResponseCode::BADVERS);
    assert_eq!(answer.edns.map(|e| (e.version(), e.max_payload())), Some((0, UDP_BYTES_MAX)));
    assert_eq!(answer.queries, message.queries);
}

#[test]
fn edns_is_one_record_of_the_root_at_the_end() {
    let opt = |owner: &[u8]| [owner, &[0, 41, 4, 208, 0, 0, 0, 0, 0, 0]].concat();
    let message = query("a.example.").to_vec().unwrap();
    let with = |place: usize, count: u8, records: &[Vec<u8>]| {
        let mut bytes = message.clone();
        bytes[place] = count;
        bytes.extend(records.concat());
        bytes
    };
    let good = with(11, 1, &[opt(&[0])]);
    assert!(matches!(read(&good, Transport::Udp), Incoming::Question(q) if q.edns.is_some()));
    for bytes in
        [with(11, 2, &[opt(&[0]), opt(&[0])]), with(11, 1, &[opt(&[1, b'a', 0])]), with(7, 1, &[opt(&[0])])]
    {
        assert_eq!(fault(&bytes).0, ResponseCode::FormErr);
    }
}

#[test]
fn answers_say_back_what_they_must() {
    let mut message = query("DB.shop.svc.Cluster.local.");
    message.metadata.checking_disabled = true;
    message.set_edns(edns(4096, 0));
    let question = question(&message, Transport::Udp);
    let (bytes, cut) = question.write(&many(3), true).unwrap();
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(!cut && answer.authoritative && answer.recursion_available && !answer.authentic_data);
    assert!(answer.metadata.recursion_desired && answer.metadata.checking_disabled);
    assert_eq!((answer.metadata.id, answer.answers.len()), (7, 3));
    assert!(answer.queries[0].name().eq_case(message.queries[0].name()), "the case is kept");
    let edns = answer.edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.max_payload() == UDP_BYTES_MAX);
    assert!(!question.write(&many(3), false).unwrap().0.is_empty());
    let plain = self::question(&query("a.example."), Transport::Udp).write(&many(1), false).unwrap().0;
    assert!(
        Message::from_vec(&plain).unwrap().edns.is_none(),
        "who does not speak EDNS is not answered in it"
    );
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    for (size, most) in
        [(None, 512), (Some(0), 512), (Some(700), 700), (Some(1232), 1232), (Some(65_535), 1232)]
    {
        let mut message = query("db.shop.svc.cluster.local.");
        if let Some(size) = size {
            message.set_edns(edns(size, 0));
        }
        let asked = question(&message, Transport::Udp);
        assert_eq!(asked.bytes_max(), most);
        let (bytes, cut) = asked.write(&many(200), false).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(cut && answer.truncation && bytes.len() <= most, "{size:?}: {} bytes", bytes.len());
        assert!(bytes.len() > most - 32, "{size:?}: as many as fit, {} of {most} bytes", bytes.len());
        assert_eq!(answer.edns.is_some(), size.is_some());
        let over_tcp = question(&message, Transport::Tcp).write(&many(200), false).unwrap();
        assert!(!over_tcp.1 && Message::from_vec(&over_tcp.0).unwrap().answers.len() == 200);
    }
    let (bytes, cut) = question(&query("a.example."), Transport::Tcp).write(&many(9_000), false).unwrap();
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(cut && answer.truncation && answer.answers.len() > 1_500, "{}", answer.answers.len());
}

#[test]
fn what_was_not_asked_for_goes_first() {
    let message = query("db.shop.svc.cluster.local.");
    let mut answer = many(10);
    answer.additionals = many(100).answers;
    let (bytes, cut) = question(&message, Transport::Udp).write(&answer, false).unwrap();
    let message = Message::from_vec(&bytes).unwrap();
    assert!(!cut && !message.truncation);
    assert_eq!((message.answers.len(), message.additionals.len()), (10, 0));
}

#[test]
fn equal_records_take_turns_and_aliases_stay_first() {
    let mut first = std::collections::BTreeSet::new();
    for id in 0..20 {
        let mut message = query("db.shop.svc.cluster.local.");
        message.metadata.id = id;
        let mut answer = many(4);
        let alias = RData::CNAME(CNAME(Name::from_ascii("x.example.").unwrap()));
        answer.answers.insert(0, Record::from_rdata(Name::root(), 5, alias));
        let bytes = question(&message, Transport::Udp).write(&answer, false).unwrap().0;
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
        assert_eq!(answer.answers.len(), 5);
        first.insert(answer.answers[1].data.to_string());
    }
    assert_eq!(first.len(), 4);
}

/// Whatever comes, nothing panics and nothing comes back that is larger than it may be.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    for transport in [Transport::Udp, Transport::Tcp] {
        match read(bytes, transport) {
            Incoming::Ignore => {}
            Incoming::Fault(_, answer) => {
                // A pointer may stand for a name that is said back in full.
                prop_assert!(answer.len() <= bytes.len() + 255 && answer.len() <= 512);
                prop_assert!(answer[2] & 0x80 != 0, "it is an answer");
            }
            Incoming::Question(question) => {
                for answer in [many(0), many(1), many(300)] {
                    let (written, _) = question.write(&answer, true).unwrap();
                    prop_assert!(written.len() <= question.bytes_max());
                    prop_assert_eq!(&written[..2], &bytes[..2]);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        survives(&bytes)?;
    }

    #[test]
    fn damaged_questions_do_no_harm(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut message = query("_http._tcp.web.shop.svc.cluster.local.");
        message.set_edns(edns(1400, 0));
        let mut bytes = message.to_vec().unwrap();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let length = bytes.len();
        bytes.truncate(length - cut.index(length) / 4);
        bytes.extend(tail);
        survives(&bytes)?;
    }
}
