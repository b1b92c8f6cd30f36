//! Tests of taking flows over, from tables that were left at any instant.

use super::super::tests::Aligned;
use super::*;
use crate::flow_key::{FlowKey, FlowKey6};
use crate::flow_table::{FlowTable, Session};
use crate::gateway::FlowRules;
use crate::quota::Subscriber;
use proptest::prelude::*;

const FLOWS: u32 = 200;
const SECRET: Secret = Secret::new([9, 8, 7, 6]);
const NOW: u32 = 5_000_000;
const NET: u32 = 0x0a00_0000;

fn keys(n: u32) -> (FlowKey, FlowKey) {
    let [client, vip, backend, own] = [NET + n, NET + 0x0001_0000, NET + 0x0002_0000, NET + 0x0003_0000];
    (FlowKey::new(6, client, vip, 1, 80), FlowKey::new(6, backend, own, 8080, n as u16))
}

/// A whole session, as `select` makes it.
fn session(n: u32) -> Session {
    let (forward, reply) = keys(n);
    let deltas = Deltas::both_ways(forward, reply);
    let mut session = Session::new(forward, reply);
    session.l3_delta = deltas.map(|delta| delta.l3);
    session.l4_delta = deltas.map(|delta| delta.l4);
    session.set_state(State::Established);
    session.last_seen = NOW - 1_000;
    session.next_hop = [3, 4];
    session
}

fn adopt(memory: &mut [u8]) -> (FlowTable<'_>, Adoption) {
    FlowTable::adopt(memory, FLOWS, SECRET, NOW, |_, [a, b]| Some([a + 10, b + 10])).unwrap()
}

#[test]
fn flows_live_on_and_ended_ones_do_not() {
    let mut memory = Aligned::new(FlowTable::<FlowKey>::memory_bytes(FLOWS));
    let mut table = FlowTable::<FlowKey>::new(memory.bytes(), FLOWS, SECRET).unwrap();
    let slots: Vec<_> = (1..=150).map(|n| table.insert(session(n)).unwrap()).collect();
    slots.iter().step_by(3).for_each(|&slot| table.remove(slot, NOW));
    let (table, adoption) = adopt(memory.bytes());
    assert_eq!(adoption, Adoption { kept: 100, torn: 0, astray: 0 });
    let rules = FlowRules { client_flows_max: 10, ..FlowRules::default() };
    let mut table = table.under(&rules);
    assert_eq!(table.live(), 100);
    for (at, n) in (1..=150).enumerate() {
        let (forward, reply) = keys(n);
        let found =
            [table.find(forward), table.find(reply)].map(|found| found.map(|c| (c.slot(), c.direction())));
        let lives = at % 3 != 0;
        let wanted = [(slots[at], 0), (slots[at], 1)].map(|place| lives.then_some(place));
        assert_eq!(found, wanted, "flow {n}");
        if lives {
            let kept = table.session(slots[at]);
            assert_eq!(
                (kept.next_hop, kept.last_seen, kept.state()),
                ([13, 14], NOW - 1_000, State::Established)
            );
        }
        let client = Subscriber::of(forward.source_address());
        assert_eq!(table.quota().flows(client), u32::from(lives), "counts of clients are right again");
    }
    let more = (1..=FLOWS + 1).map(|n| table.insert(session(1_000 + n))).take_while(Result::is_ok).count();
    assert_eq!(more, 100, "every free slot is on the list once");
}

#[test]
fn a_session_that_was_being_written_is_whole_or_not_there() {
    // What is stored whole: eight bytes and less. Whichever of them were written when the worker ended.
    let (old, new) = (free::<Session>(17), session(5));
    for (before, after) in [(old, new), (new, old)] {
        for written in 0..=255u32 {
            let mut memory = Aligned::new(FlowTable::<FlowKey>::memory_bytes(FLOWS));
            let table = FlowTable::<FlowKey>::new(memory.bytes(), FLOWS, SECRET).unwrap();
            table.sessions[0] = mixed(&before, &after, written);
            let (table, adoption) = adopt(memory.bytes());
            assert_eq!(table.live(), adoption.kept);
            for (_, kept) in table.iter() {
                assert_eq!((kept.keys, kept.l3_delta, kept.l4_delta), (new.keys, new.l3_delta, new.l4_delta));
            }
            let whole = if written == 255 { after } else { before };
            if written == 0 || written == 255 {
                let lives = whole.state() != State::Free;
                assert_eq!(adoption, Adoption { kept: u32::from(lives), torn: 0, astray: 0 });
            }
        }
    }
}

/// `after` in the words that `written` names, `before` in the others.
fn mixed(before: &Session, after: &Session, written: u32) -> Session {
    use zerocopy::{FromBytes, IntoBytes};
    let mut bytes = [0; 64];
    bytes.copy_from_slice(before.as_bytes());
    for word in (0..8).filter(|word| written >> word & 1 != 0) {
        bytes[word * 8..][..8].copy_from_slice(&after.as_bytes()[word * 8..][..8]);
    }
    Session::read_from_bytes(&bytes).unwrap()
}

#[test]
fn what_this_build_would_not_write_is_left_out() {
    type Damage = fn(&mut Session);
    let rows: [(&str, Damage); 9] = [
        ("another checksum difference of addresses", |s| s.l3_delta[0] ^= 1),
        ("another checksum difference of ports", |s| s.l4_delta[1] ^= 1),
        ("a state of another protocol", |s| s.set_state(State::Udp)),
        ("keys of two protocols", |s| s.keys[1] = FlowKey::new(17, NET + 2, NET + 3, 8080, 5)),
        ("a protocol without ports", |s| s.keys = s.keys.map(|k| FlowKey::new(1, k.source(), NET, 1, 1))),
        ("a client that is no host", |s| s.keys[0] = FlowKey::new(6, 0, NET, 1, 80)),
        ("a backend that is no host", |s| s.keys[1] = FlowKey::new(6, u32::MAX, NET, 8080, 5)),
        ("prefaced and of one way", |s| {
            s.set_state(State::OneWay);
            s.preface();
        }),
        ("one that is there already", |s| *s = session(6)),
    ];
    for (what, spoil) in rows {
        let mut memory = Aligned::new(FlowTable::<FlowKey>::memory_bytes(FLOWS));
        let mut table = FlowTable::<FlowKey>::new(memory.bytes(), FLOWS, SECRET).unwrap();
        let spoilt = table.insert(session(5)).unwrap();
        table.insert(session(6)).unwrap();
        spoil(table.session_mut(spoilt));
        let (_, adoption) = adopt(memory.bytes());
        assert_eq!(adoption, Adoption { kept: 1, torn: 1, astray: 0 }, "{what}");
    }
}

#[test]
fn flows_that_no_way_leads_to_are_counted_apart_and_clocks_go_forwards() {
    let mut memory = Aligned::new(FlowTable::<FlowKey>::memory_bytes(FLOWS));
    let mut table = FlowTable::<FlowKey>::new(memory.bytes(), FLOWS, SECRET).unwrap();
    for n in 1..=3 {
        let mut session = session(n);
        session.last_seen = NOW + 40;
        table.insert(session).unwrap();
    }
    let way = |keys: &[FlowKey; 2], old| (keys[0] != self::keys(2).0).then_some(old);
    let (table, adoption) = FlowTable::adopt(memory.bytes(), FLOWS, SECRET, NOW, way).unwrap();
    assert_eq!(adoption, Adoption { kept: 2, torn: 0, astray: 1 });
    assert!(table.iter().all(|(_, session)| session.last_seen == NOW));
}

proptest! {
    #[test]
    fn any_bytes_make_a_table_that_works(bytes: Vec<u8>, seed: u64) {
        let mut memory = Aligned::new(FlowTable::<FlowKey6>::memory_bytes(FLOWS));
        let mut state = seed;
        for (at, byte) in memory.bytes().iter_mut().enumerate() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at as u64);
            *byte = bytes.get(at).copied().unwrap_or((state >> 56) as u8);
        }
        let (mut table, adoption) =
            FlowTable::<FlowKey6>::adopt(memory.bytes(), FLOWS, SECRET, NOW, |_, old| Some(old)).unwrap();
        prop_assert_eq!(table.live(), adoption.kept);
        let slots: Vec<usize> = table.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| table.remove(slot, NOW));
        prop_assert_eq!(table.live(), 0);
    }
}
