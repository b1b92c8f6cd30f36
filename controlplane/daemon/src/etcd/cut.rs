//! When what several watches have brought is whole: the second stage of a Service's walk, after [`crate::etcd::source`].
//!
//! A Service and its slices are under two prefixes, hence come by two watches, one of which may be ahead. What they bring is kept until every
//! watch is known to have reached one revision, the cut, and is then taken together, so that what belongs together is seen together. A watch
//! has reached the revision of its own events and of word of its own progress; all of them have reached the revision that answers the question
//! for all, which is asked as soon as something has come. The answer is one round trip away, and that is what a lone change waits.
//!
//! Servers differ in what such an answer is worth ([`Progress`]). Whatever they do, nothing is kept for longer than [`HOLD`]: a view that is
//! uneven for a moment harms less than one that is old.
//!
//! Pure: time is passed in. Next: [`crate::state`].

use crate::etcd::Change;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Longest time that a change waits for the other watches.
pub const HOLD: Duration = Duration::from_secs(1);
/// The same with a server that has answered no question so far, after [`FORCED_MAX`] changes had to wait in vain.
const HOLD_UNANSWERED: Duration = Duration::from_millis(5);
/// See [`HOLD_UNANSWERED`].
const FORCED_MAX: u32 = 2;
/// How long an answer is waited for before the question is repeated: a server says nothing while a watch of its own is behind.
const REPEAT: Duration = Duration::from_millis(20);
/// Shortest time between two cuts that bring changes, so that a flood of them is taken in portions.
const SPACING: Duration = Duration::from_millis(2);
/// How often the question is asked when nothing happens, so that a quiet watch stays ahead of what etcd forgets.
pub const IDLE: Duration = Duration::from_secs(3);
/// How long a server of [`Progress::Loose`] may need until all watches of a new stream are level: it looks after those that are behind every
/// 100 ms.
const LEVELLING: Duration = Duration::from_millis(300);

/// What the answer to the question for all watches is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Comes when every watch has reached the revision, and behind all events up to it: etcd from 3.4.25 and 3.5.8.
    Exact,
    /// May overtake events that the server has not sent yet: etcd before. The second of two answers, asked for one after the other, counts for
    /// the revision of the first. It says when to take changes, never where to go on after a break.
    Loose,
}

impl Progress {
    /// What a server of this version does. Unknown ones are taken at their worst.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        match (next(), next(), next()) {
            (Some(3), Some(4), Some(25..)) | (Some(3), Some(5), Some(8..)) | (Some(3), Some(6..), _) => {
                Self::Exact
            }
            (Some(4..), _, _) => Self::Exact,
            _ => Self::Loose,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// [`Cut::take`].
    Take,
    /// Ask how far all watches are, and say so with [`Cut::asked`].
    Ask,
    /// Wait for a message, at most until then.
    Wait(Instant),
}

/// Changes that are taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// In the order of revisions, of each key the last one.
    pub changes: Vec<Change>,
    /// The revision they make the state of.
    pub revision: i64,
    /// Whether the other watches were waited for in vain.
    pub is_forced: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Cut {
    /// Everything up to here has been taken.
    taken: i64,
    /// How far each watch is for certain: where it goes on after a break.
    reached: Vec<i64>,
    /// What the watches have brought since, and when.
    kept: Vec<(Instant, Change)>,
    /// When changes were taken last.
    taken_at: Option<Instant>,
    stream: Stream,
}

/// What is known of the connection that is open now.
#[derive(Debug)]
struct Stream {
    progress: Progress,
    /// Answers of before count for nothing.
    level_at: Option<Instant>,
    asked_at: Option<Instant>,
    questions: u64,
    answers: u64,
    /// The first of two answers, and how many questions were asked before it came.
    first_answer: Option<(i64, u64)>,
    /// The revision that answers have brought.
    answered: i64,
    forced: u32,
}

impl Cut {
    /// Everything was listed at this revision and is followed by so many watches.
    #[must_use]
    pub fn listed(watches: usize, revision: i64) -> Self {
        Self {
            taken: revision,
            reached: vec![revision; watches],
            kept: Vec::new(),
            taken_at: None,
            stream: Stream::new(Progress::Loose, None),
        }
    }

    /// A stream with all watches was opened anew.
    pub fn opened(&mut self, progress: Progress, now: Instant) {
        let level_at = (progress == Progress::Loose).then(|| now + LEVELLING);
        self.stream = Stream::new(progress, level_at);
    }

    /// The revision up to which everything has been taken.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.taken
    }

    /// The revision at which each watch goes on.
    pub fn starts(&self) -> impl Iterator<Item = i64> {
        self.reached.iter().map(|reached| reached + 1)
    }

    /// Whether the server has answered on this stream.
    #[must_use]
    pub const fn has_answered(&self) -> bool {
        self.stream.answers > 0
    }

    /// A watch has brought changes: all there are of it up to the last one's revision.
    pub fn bring(&mut self, watch: i64, changes: impl IntoIterator<Item = Change>, now: Instant) {
        for change in changes {
            let revision = change.revision;
            if revision <= self.taken && self.stream.progress == Progress::Loose {
                // This watch had fallen behind.
                self.stream.level_at = Some(now + LEVELLING);
            }
            self.kept.push((now, change));
            self.reach(watch, revision);
        }
    }

    /// The server says how far a watch is; -1 stands for all of them.
    pub fn answer(&mut self, watch: i64, revision: i64, now: Instant) {
        if watch >= 0 {
            return self.reach(watch, revision);
        }
        let stream = &mut self.stream;
        stream.answers += 1;
        match stream.progress {
            Progress::Exact => {
                stream.answered = stream.answered.max(revision);
                self.reached.iter_mut().for_each(|reached| *reached = revision.max(*reached));
            }
            Progress::Loose if stream.level_at.is_some_and(|level_at| now < level_at) => {
                stream.first_answer = None;
            }
            // A lone watch is whole by itself.
            Progress::Loose if self.reached.len() == 1 => {}
            Progress::Loose => match stream.first_answer {
                // It was asked for before the first one came.
                Some((_, questions)) if stream.answers <= questions => {}
                first => {
                    stream.answered = first.map_or(0, |(first, _)| first).max(stream.answered);
                    stream.first_answer = Some((revision, stream.questions));
                }
            },
        }
    }

    /// The question was asked.
    pub const fn asked(&mut self, now: Instant) {
        self.stream.asked_at = Some(now);
        self.stream.questions += 1;
    }

    /// What to do now. With one watch there is nothing to ask: etcd never splits a revision over two answers of a watch.
    #[must_use]
    pub fn next(&self, now: Instant) -> Step {
        let Some((since, _)) = self.kept.first() else { return self.next_idle(now) };
        let spaced = self.taken_at.map_or(now, |at| at + SPACING);
        if self.has_whole() {
            return if now >= spaced { Step::Take } else { Step::Wait(spaced) };
        }
        let overdue = *since + self.hold();
        if now >= overdue {
            return Step::Take;
        }
        let stream = &self.stream;
        let again = match stream.asked_at.filter(|_| stream.answers < stream.questions) {
            Some(asked) => asked + REPEAT,
            None => spaced.max(stream.level_at.unwrap_or(spaced)),
        };
        if now >= again { Step::Ask } else { Step::Wait(again.min(overdue)) }
    }

    /// Takes what is whole, or all there is if it has been kept for too long.
    pub fn take(&mut self, now: Instant) -> Taken {
        let level = self.level();
        let is_overdue = self.kept.first().is_some_and(|(since, _)| now >= *since + self.hold());
        let is_forced = is_overdue && !self.has_whole();
        let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition(|(_, change)| is_forced || change.revision <= level);
        self.kept = kept;
        if !taken.is_empty() {
            self.taken_at = Some(now);
        }
        self.stream.forced += u32::from(is_forced);
        let mut changes: Vec<Change> = taken.into_iter().map(|(_, change)| change).collect();
        // Watches come one after the other; together they are in the order of revisions.
        changes.sort_by_key(|change| change.revision);
        self.taken = changes.last().map_or(0, |last| last.revision).max(level).max(self.taken);
        Taken { changes: last_of_each(changes), revision: self.taken, is_forced }
    }

    /// The revision that all watches have reached.
    fn level(&self) -> i64 {
        self.reached.iter().copied().min().unwrap_or_default().max(self.stream.answered)
    }

    /// Whether some of what is kept is up to the revision that all watches have reached.
    fn has_whole(&self) -> bool {
        let level = self.level();
        self.kept.iter().any(|(_, change)| change.revision <= level)
    }

    const fn hold(&self) -> Duration {
        if self.stream.answers == 0 && self.stream.forced >= FORCED_MAX { HOLD_UNANSWERED } else { HOLD }
    }

    fn next_idle(&self, now: Instant) -> Step {
        if self.level() > self.taken {
            return Step::Take;
        }
        let due = self.stream.asked_at.map(|asked| asked + IDLE);
        match due {
            Some(due) if now < due => Step::Wait(due),
            _ => Step::Ask,
        }
    }

    /// etcd counts the watches of a stream from 0 in the order they were asked for.
    fn reach(&mut self, watch: i64, revision: i64) {
        let watch = usize::try_from(watch).ok();
        if let Some(reached) = watch.and_then(|watch| self.reached.get_mut(watch)) {
            *reached = revision.max(*reached);
        }
    }
}

impl Stream {
    const fn new(progress: Progress, level_at: Option<Instant>) -> Self {
        Self {
            progress,
            level_at,
            asked_at: None,
            questions: 0,
            answers: 0,
            first_answer: None,
            answered: 0,
            forced: 0,
        }
    }
}

/// Of each key the last change; what was before is history. `changes` are in the order of revisions.
fn last_of_each(changes: Vec<Change>) -> Vec<Change> {
    let mut last: HashMap<&[u8], usize> = HashMap::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        last.insert(&change.key, index);
    }
    let mut indices: Vec<usize> = last.into_values().collect();
    indices.sort_unstable();
    let mut indices = indices.into_iter().peekable();
    let is_last = |(index, change)| indices.next_if_eq(&index).map(|_| change);
    changes.into_iter().enumerate().filter_map(is_last).collect()
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
