use super::{Change, Cut, FORCED_MAX, HOLD, IDLE, LEVELLING, Progress, SPACING, Step, Taken};
use std::time::{Duration, Instant};

const RTT: Duration = Duration::from_micros(500);

fn put(key: &str, revision: i64) -> Change {
    Change { key: key.into(), value: Some(b"value".to_vec()), revision }
}

fn opened(progress: Progress, watches: usize) -> (Cut, Instant) {
    let now = Instant::now();
    let mut cut = Cut::listed(watches, 10);
    cut.opened(progress, now);
    (cut, now + LEVELLING)
}

fn keys(taken: &Taken) -> Vec<(String, i64)> {
    let line = |change: &Change| (String::from_utf8_lossy(&change.key).into_owned(), change.revision);
    taken.changes.iter().map(line).collect()
}

#[test]
fn versions_are_told_apart() {
    let rows = [
        ("3.4.23", Progress::Loose),
        ("3.4.24", Progress::Loose),
        ("3.4.25", Progress::Exact),
        ("3.4.34+git", Progress::Exact),
        ("3.5.7", Progress::Loose),
        ("3.5.8", Progress::Exact),
        ("3.5.16", Progress::Exact),
        ("3.6.0-rc.1", Progress::Exact),
        ("3.6.4", Progress::Exact),
        ("4.0.0", Progress::Exact),
        ("3.3.27", Progress::Loose),
        ("", Progress::Loose),
        ("devel", Progress::Loose),
    ];
    for (version, progress) in rows {
        assert_eq!(Progress::of_version(version), progress, "{version}");
    }
}

#[test]
fn a_service_and_its_slice_are_taken_together_once_both_watches_are_level() {
    let (mut cut, now) = opened(Progress::Exact, 3);
    cut.bring(0, [put("service", 11)], now);
    assert_eq!(cut.next(now), Step::Ask, "at once");
    cut.asked(now);
    assert!(matches!(cut.next(now), Step::Wait(_)));
    // The other watch is behind the question and before the answer.
    cut.bring(1, [put("slice", 12)], now + RTT);
    assert!(matches!(cut.next(now + RTT), Step::Wait(_)), "one question at a time");
    cut.answer(-1, 12, now + RTT);
    assert_eq!(cut.next(now + RTT), Step::Take);
    let taken = cut.take(now + RTT);
    assert_eq!(keys(&taken), [("service".into(), 11), ("slice".into(), 12)]);
    assert_eq!((taken.revision, taken.is_forced), (12, false));
    assert_eq!(cut.starts().collect::<Vec<_>>(), [13, 13, 13], "a quiet watch goes on from the cut");
}

#[test]
fn what_is_behind_the_cut_waits_for_the_next() {
    let (mut cut, now) = opened(Progress::Exact, 2);
    cut.bring(0, [put("a", 11), put("a", 13), put("b", 14)], now);
    cut.answer(1, 11, now);
    assert_eq!(cut.next(now), Step::Take, "both watches have passed 11");
    let taken = cut.take(now);
    assert_eq!((keys(&taken), taken.revision), (vec![("a".into(), 11)], 11));
    cut.asked(now);
    cut.answer(-1, 14, now + RTT);
    assert_eq!(cut.next(now + RTT), Step::Wait(now + SPACING), "a flood is taken in portions");
    let taken = cut.take(now + SPACING);
    assert_eq!((keys(&taken), taken.revision), (vec![("a".into(), 13), ("b".into(), 14)], 14));
}

#[test]
fn of_each_key_the_last_change_is_taken() {
    let (mut cut, now) = opened(Progress::Exact, 2);
    let delete = Change { value: None, ..put("b", 15) };
    cut.bring(0, [put("a", 11), put("b", 12), put("a", 13)], now);
    cut.bring(1, [put("c", 14), delete.clone()], now);
    cut.answer(-1, 15, now);
    let taken = cut.take(now);
    assert_eq!(taken.changes, [put("a", 13), put("c", 14), delete]);
}

#[test]
fn a_lone_watch_asks_nothing() {
    for progress in [Progress::Exact, Progress::Loose] {
        let (mut cut, now) = opened(progress, 1);
        cut.bring(0, [put("service", 11), put("slice", 11)], now);
        assert_eq!(cut.next(now), Step::Take, "{progress:?}");
        assert_eq!(cut.take(now).changes.len(), 2);
        cut.bring(0, [put("slice", 12)], now);
        assert_eq!(cut.next(now), Step::Wait(now + SPACING));
    }
    // The answer of an old server may be ahead of what the watch has brought.
    let (mut cut, now) = opened(Progress::Loose, 1);
    for _ in 0..3 {
        cut.asked(now);
        cut.answer(-1, 99, now);
    }
    assert_eq!(cut.take(now).revision, 10);
}

#[test]
fn an_old_server_must_answer_twice() {
    let (mut cut, now) = opened(Progress::Loose, 2);
    cut.bring(0, [put("service", 11)], now);
    cut.asked(now);
    cut.answer(-1, 12, now);
    // The answer has overtaken an event that is up to it.
    assert_eq!(cut.next(now), Step::Ask);
    cut.asked(now);
    cut.bring(1, [put("slice", 12)], now + RTT);
    cut.answer(-1, 12, now + RTT);
    assert_eq!(cut.next(now + RTT), Step::Take);
    let taken = cut.take(now + RTT);
    assert_eq!((taken.changes.len(), taken.revision), (2, 12));
    // Where to go on is what each watch itself has brought.
    assert_eq!(cut.starts().collect::<Vec<_>>(), [12, 13]);
}

#[test]
fn two_answers_to_questions_of_one_time_are_one() {
    let (mut cut, now) = opened(Progress::Loose, 2);
    cut.bring(0, [put("service", 11)], now);
    cut.asked(now);
    cut.asked(now);
    cut.answer(-1, 12, now);
    cut.answer(-1, 12, now);
    assert_eq!(cut.next(now), Step::Ask, "the second was asked for before the first came");
    cut.asked(now);
    cut.answer(-1, 13, now);
    assert_eq!(cut.next(now), Step::Take);
}

#[test]
fn a_watch_of_an_old_server_that_falls_behind_makes_the_others_wait() {
    let (mut cut, now) = opened(Progress::Loose, 2);
    cut.bring(0, [put("service", 20)], now);
    for _ in 0..2 {
        cut.asked(now);
        cut.answer(-1, 20, now);
    }
    assert_eq!(cut.take(now).revision, 20);
    cut.bring(1, [put("slice", 15)], now);
    assert_eq!(cut.next(now), Step::Wait(now + SPACING), "it is late enough");
    let taken = cut.take(now + SPACING);
    assert_eq!((keys(&taken), taken.revision), (vec![("slice".into(), 15)], 20));
    let now = now + SPACING;
    cut.bring(1, [put("slice", 21)], now);
    for _ in 0..4 {
        cut.asked(now);
        cut.answer(-1, 21, now);
    }
    assert!(matches!(cut.next(now), Step::Wait(until) if until > now + Duration::from_millis(200)));
}

#[test]
fn nothing_is_kept_for_ever() {
    let (mut cut, now) = opened(Progress::Exact, 2);
    for round in 0..FORCED_MAX {
        let revision = 11 + i64::from(round);
        let now = now + HOLD * 2 * round;
        cut.bring(0, [put("service", revision)], now);
        cut.asked(now);
        assert_ne!(cut.next(now + HOLD / 2), Step::Take);
        assert_eq!(cut.next(now + HOLD), Step::Take);
        let taken = cut.take(now + HOLD);
        assert_eq!((taken.changes.len(), taken.revision, taken.is_forced), (1, revision, true));
    }
    // A server that never answers, as some that only speak like etcd: then in the order of arrival.
    let now = now + HOLD * 10;
    cut.bring(0, [put("service", 20)], now);
    assert_eq!(cut.next(now + HOLD / 100), Step::Take);
    // One that does has the whole time again.
    cut.take(now + HOLD);
    cut.answer(-1, 20, now);
    cut.bring(0, [put("service", 21)], now + HOLD);
    assert_ne!(cut.next(now + HOLD + HOLD / 2), Step::Take);
    assert_eq!(cut.starts().collect::<Vec<_>>(), [22, 21], "what was forced moves no other watch");
}

#[test]
fn a_question_is_repeated_while_nothing_answers() {
    let (mut cut, now) = opened(Progress::Exact, 2);
    cut.bring(0, [put("service", 11)], now);
    let mut questions = 0;
    let mut at = now;
    while at < now + HOLD {
        match cut.next(at) {
            Step::Ask => {
                questions += 1;
                cut.asked(at);
            }
            Step::Wait(until) => {
                assert!(until > at);
                at = until;
            }
            Step::Take => break,
        }
    }
    assert_eq!(at, now + HOLD);
    assert!((20..=60).contains(&questions), "{questions}");
}

#[test]
fn when_nothing_happens_the_revision_moves_on_all_the_same() {
    let (mut cut, now) = opened(Progress::Exact, 3);
    assert_eq!(cut.next(now), Step::Ask);
    cut.asked(now);
    assert_eq!(cut.next(now), Step::Wait(now + IDLE));
    cut.answer(-1, 5_000, now);
    assert_eq!(cut.next(now), Step::Take);
    assert_eq!(cut.take(now), Taken { changes: Vec::new(), revision: 5_000, is_forced: false });
    assert_eq!(cut.next(now), Step::Wait(now + IDLE));
    assert_eq!(cut.next(now + IDLE), Step::Ask);
    assert_eq!(cut.starts().collect::<Vec<_>>(), [5_001; 3]);
}

#[test]
fn what_was_kept_when_a_stream_broke_is_not_lost_and_not_asked_for_again() {
    let (mut cut, now) = opened(Progress::Exact, 2);
    cut.bring(0, [put("service", 11)], now);
    cut.opened(Progress::Exact, now);
    assert_eq!(cut.starts().collect::<Vec<_>>(), [12, 11]);
    cut.bring(1, [put("slice", 12)], now);
    cut.asked(now);
    cut.answer(-1, 12, now);
    assert_eq!(cut.take(now).changes.len(), 2);
}

#[test]
fn answers_of_a_watch_that_was_never_asked_for_are_no_panic() {
    let (mut cut, now) = opened(Progress::Exact, 2);
    cut.bring(7, [put("x", 11)], now);
    cut.answer(i64::MAX, 12, now);
    cut.answer(i64::MIN, 0, now);
    assert_eq!(cut.starts().collect::<Vec<_>>(), [11, 11]);
}
