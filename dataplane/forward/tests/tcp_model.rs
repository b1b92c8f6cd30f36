//! Random segments, in place and out of place, through a worker and through a model of TCP tracking that is written for reading: after each,
//! both know the same. A longer run by command: `PROPTEST_CASES=40000 cargo test -p turnpike-forward --test tcp_model`.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::VIP;
use harness::services::{DNAT, Port};
use harness::talk::{Side, Talk};
use harness::tcp_model::Model;
use proptest::prelude::*;
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Midstream, Protocol, Tracking, Treatment};

/// A number of a segment, told by what the model thinks is expected there.
#[derive(Clone, Copy, Debug)]
enum Number {
    Expected(i32),
    /// At the end of the window, beside it by so much.
    Edge(i32),
    Anything(u32),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Say { side: Side, flags: u8, sequence: Number, acknowledgement: Number, window: u16, scale: Option<u8> },
    WaitS(u32),
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        6 => Just(Number::Expected(0)),
        2 => (-3i32..2_000).prop_map(Number::Expected),
        2 => prop::sample::select(vec![-1, -65_535, -65_536, -65_537, 65_535, 65_536, 65_537, 300_000, i32::MIN, i32::MAX])
            .prop_map(Number::Expected),
        2 => (-2i32..=2).prop_map(Number::Edge),
        1 => prop::sample::select(vec![0x1000_0000, 0x1000_0001, 0x1400_0000, 0x9000_0000, 0x9100_0000])
            .prop_map(Number::Anything),
        1 => any::<u32>().prop_map(Number::Anything),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let side = prop::sample::select(vec![Side::Client, Side::Backend]);
    let flags = prop_oneof![
        12 => Just(ACK),
        2 => Just(ACK | PSH),
        4 => Just(SYN),
        6 => Just(SYN | ACK),
        4 => Just(FIN | ACK),
        2 => Just(RST),
        2 => Just(RST | ACK),
        1 => 0u8..64,
    ];
    let window = prop_oneof![Just(0u16), Just(1_000), Just(u16::MAX), any::<u16>()];
    let scale = prop::option::of(0u8..=14);
    let say = (side, flags, number(), number(), window, scale).prop_map(
        |(side, flags, sequence, acknowledgement, window, scale)| Step::Say {
            side,
            flags,
            sequence,
            acknowledgement,
            window,
            scale: scale.filter(|_| flags & SYN != 0),
        },
    );
    let wait = prop::sample::select(vec![1u32, 100, 230, 260, 7_000, 7_460]);
    prop_oneof![24 => say, 1 => wait.prop_map(Step::WaitS)]
}

/// A life to begin with, for most lives made of random segments end before they begin.
fn beginning() -> impl Strategy<Value = Vec<Step>> {
    (prop::option::of(0u8..=14), prop::option::of(0u8..=14), any::<u32>(), any::<u32>(), 0usize..=3).prop_map(
        |(client, backend, first, second, len)| {
            let say = |side, flags, sequence, acknowledgement, scale| Step::Say {
                side,
                flags,
                sequence,
                acknowledgement,
                window: 5_000,
                scale,
            };
            let here = Number::Expected(0);
            let mut steps = vec![
                say(Side::Client, SYN, Number::Anything(first), Number::Anything(0), client),
                say(
                    Side::Backend,
                    SYN | ACK,
                    Number::Anything(second),
                    Number::Anything(first.wrapping_add(1)),
                    backend,
                ),
                say(Side::Client, ACK, here, here, None),
            ];
            steps.truncate(len);
            steps
        },
    )
}

fn value(number: Number, model: Option<&mut Model>, side: Side) -> u32 {
    let wants = model.map(|model| *model.wants(side)).unwrap_or_default();
    match number {
        Number::Expected(offset) => wants.next.wrapping_add_signed(offset),
        Number::Edge(offset) => {
            let edge = u32::from(wants.window) << wants.scale.unwrap_or(0);
            wants.next.wrapping_add(edge).wrapping_add_signed(offset)
        }
        Number::Anything(value) => value,
    }
}

/// Steps through both; panics where they differ.
fn run(steps: &[Step], midstream: Midstream, treatment: Treatment) {
    let service = Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"])
        .with(VIP, LoadBalancer, treatment, treatment)
        .tracked(Tracking { midstream, ..Tracking::default() });
    let mut talk = Talk::with(&service);
    let mut model: Option<Model> = None;
    let mut alive_ms = 0;
    for (i, &step) in steps.iter().enumerate() {
        let (side, segment) = match step {
            Step::WaitS(seconds) => {
                talk.wait_s(seconds);
                if let Some(known) = model {
                    let (idle_ms, limit_ms) = (talk.bed.now_ms - alive_ms, known.may_idle_s() * 1_000);
                    let is_live = talk.live() == 1;
                    assert!(is_live || idle_ms > limit_ms, "step {i}: {known:?} ended after {idle_ms} ms");
                    assert!(
                        !is_live || idle_ms <= limit_ms + 16_000,
                        "step {i}: {known:?} after {idle_ms} ms"
                    );
                    model = model.filter(|_| is_live);
                }
                continue;
            }
            Step::Say { side, flags, sequence, acknowledgement, window, scale } => {
                let sequence = value(sequence, model.as_mut(), side.other());
                let acknowledgement = value(acknowledgement, model.as_mut(), side);
                (side, Segment { sequence, acknowledgement, flags, window, scale })
            }
        };
        if side == Side::Backend && talk.backend.is_none() {
            continue;
        }
        let asks = segment.flags & (SYN | ACK | RST | FIN) == SYN;
        if side == Side::Client && asks {
            model = model.filter(|m| !m.gives_way());
        }
        let (was_known, counted) = match &mut model {
            Some(known) => (true, known.see(side, &segment)),
            None if side == Side::Client => {
                model = Model::open(&segment, midstream == Midstream::Forward);
                // A segment that opened the flow is then looked at like any other.
                (false, model.as_mut().is_some_and(|known| known.see(side, &segment)))
            }
            None => (false, false),
        };
        let seen = talk.say(side, &segment, b"");
        let what = format!("step {i}: {side:?} {segment:?} {model:?} {seen:?}");
        assert_eq!(seen.state.map(|state| state.name()), model.map(|known| known.state), "{what}");
        assert_eq!(seen.delta.contains_key("forwarded"), model.is_some(), "{what}");
        assert_eq!(seen.delta.contains_key("flows_opened"), model.is_some() && !was_known, "{what}");
        assert_eq!(seen.refreshed, model.is_some() && (counted || !was_known), "{what}");
        assert_eq!(seen.delta.contains_key("tcp_ignored"), model.is_some() && !counted, "{what}");
        if seen.refreshed {
            alive_ms = talk.bed.now_ms;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn a_worker_and_the_model_know_the_same(
        first in beginning(),
        steps in prop::collection::vec(step(), 1..60),
        midstream in prop::sample::select(vec![Midstream::Reset, Midstream::Drop, Midstream::Forward]),
        keeps_address: bool,
    ) {
        let steps: Vec<Step> = first.into_iter().chain(steps).collect();
        run(&steps, midstream, if keeps_address { DNAT } else { Treatment::FORWARD });
    }
}
