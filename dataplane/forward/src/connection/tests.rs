use super::*;
use proptest::prelude::*;
use turnpike_packet::flight::Flight;
use turnpike_packet::tcp::flags::PSH;

fn session(state: State) -> Life {
    Life { state: state as u8, ..Life::default() }
}

fn segment(flags: u8, sequence: u32, acknowledgement: u32) -> Segment {
    Segment { sequence, acknowledgement, flags, window: 1_000, scale: None }
}

/// A session whose numbers are anything.
fn any_session() -> impl Strategy<Value = Life> {
    (1u8..=10, any::<[u32; 2]>(), any::<[u16; 2]>(), any::<[u8; 2]>(), any::<u8>()).prop_map(
        |(state, expected, windows, scales, detail)| {
            let scales = scales.map(|byte| if byte & SCALE_BITS > 15 { byte & !0x10 } else { byte });
            Life { expected, windows, scales, detail, ..session(State::from_byte(state)) }
        },
    )
}

/// A number that is often near another one.
fn near(number: u32) -> impl Strategy<Value = u32> {
    prop_oneof![
        (-70_000i32..70_000).prop_map(move |d| number.wrapping_add_signed(d)),
        (-2i32..=2).prop_map(move |d| number.wrapping_add_signed(d)),
        (0u32..32, -1i32..=1).prop_map(move |(bit, d)| number.wrapping_add(1 << bit).wrapping_add_signed(d)),
        any::<u32>(),
    ]
}

/// A session, a direction and a segment that may be of it.
fn any_step() -> impl Strategy<Value = (Life, usize, Segment)> {
    (any_session(), 0usize..2).prop_flat_map(|(session, direction)| {
        let (sequence, acknowledgement) =
            (near(session.expected[direction]), near(session.expected[direction ^ 1]));
        let scale = prop::option::of(0u8..=14);
        (sequence, acknowledgement, 0u8..64, any::<u16>(), scale).prop_map(
            move |(sequence, acknowledgement, flags, window, scale)| {
                let scale = scale.filter(|_| flags & SYN != 0);
                (session, direction, Segment { sequence, acknowledgement, flags, window, scale })
            },
        )
    })
}

fn bits(session: &Life) -> impl PartialEq + std::fmt::Debug + use<> {
    (session.expected, session.windows, session.scales, session.state, session.detail)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_048))]

    /// The fast path is the slow one, for less.
    #[test]
    fn what_passes_is_observed_alike((session, direction, mut segment) in any_step(), push: bool) {
        segment.flags = ACK | if push { PSH } else { 0 };
        segment.scale = None;
        let flight = Flight {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        };
        let frame = segment.frame(&flight, b"");
        let (mut fast, mut slow) = (session, session);
        let passed = passes(&mut fast, direction, frame.last_chunk().unwrap());
        let counted = observe(&mut slow, Direction::from_bit(direction), &segment);
        let is_open =
            matches!(session.state(), State::Established | State::ClientClosed | State::BackendClosed);
        if passed {
            prop_assert!(counted && is_open);
            prop_assert_eq!(bits(&fast), bits(&slow));
            prop_assert_eq!(fast.state, session.state);
        } else {
            prop_assert_eq!(bits(&fast), bits(&session));
            let found_back = counted && !fits(&session, direction, segment.sequence, segment.acknowledgement);
            prop_assert!(!is_open || !counted || found_back);
        }
    }

    /// Nothing panics, states stay states, a reset beside the window changes nothing, and a segment that does not count moves no state.
    #[test]
    fn any_segment_on_any_session((session, direction, segment) in any_step()) {
        let mut after = session;
        let counted = observe(&mut after, Direction::from_bit(direction), &segment);
        prop_assert_ne!(after.state(), State::Free);
        if !counted {
            prop_assert_eq!(after.state, session.state);
            prop_assert_eq!((after.expected, after.windows), (session.expected, session.windows));
            prop_assert_eq!(scales(&after), scales(&session));
        }
        let ahead = segment.sequence.wrapping_sub(session.expected[direction]);
        if segment.has(RST) && ahead > window(&session, direction) && session.state() != State::Opening {
            prop_assert!(!counted);
        }
        if segment.has(SYN) && !segment.has(RST) && session.state() == State::Established {
            prop_assert!(!counted);
        }
    }
}

#[test]
fn what_is_remembered_of_a_stray_leaves_the_scales_alone() {
    let mut session = session(State::Established);
    session.scales = [14, 9];
    for stray in 0..1 << 14 {
        set_stray(&mut session, stray);
        assert_eq!((super::stray(&session), scales(&session)), (stray, [14, 9]));
    }
}

#[test]
fn rfc7323_2_2_a_scale_holds_when_both_have_offered_one() {
    let rows = [
        (Some(7), Some(9), [9, 7]),
        (Some(7), None, [0, 0]),
        (None, None, [0, 0]),
        (Some(0), Some(0), [0, 0]),
        (None, Some(9), [9, 14]),
    ];
    for (client, backend, want) in rows {
        let mut session = session(State::Opening);
        let syn = Segment { scale: client, ..segment(SYN, 100, 0) };
        let answer = Segment { scale: backend, ..segment(SYN | ACK, 500, 101) };
        assert!(observe(&mut session, Direction::Forward, &syn));
        assert!(observe(&mut session, Direction::Reply, &answer));
        assert!(observe(&mut session, Direction::Forward, &segment(ACK, 101, 501)));
        assert_eq!((scales(&session), session.state()), (want, State::Established), "{client:?} {backend:?}");
        // The backend's window of 1,000 stood unscaled in its SYN.
        let offered = u32::from(session.windows[0]) << want[0];
        assert!((1_000..=1_000 + (1 << want[0])).contains(&offered), "{offered}");
    }
}
