//! Refusals after the first responses: detects whether the origin refuses every class from some
//! time on, because a login has expired. Pure.
//!
//! A missing class is recognized by its status: 404 and 410 never count here. A class that is
//! refused in another way stays pending until a class is served that was granted after the first
//! refusal; then it has failed. If [`STREAK`] classes are refused alike before that, only
//! [`SAMPLE`] classes are requested, which are spread over the rest of the list: some origins
//! respond with 403 for missing classes, and these can be neighbours in the list. If the sample is
//! refused alike too, the job ends and none of its classes has failed. There is no such check if
//! nine times as many classes are complete as are left, as at the start.
//!
//! Classes that were granted before the first refusal are no evidence: a running download continues
//! after its login has expired. Only workers that have completed a class in their session count, if
//! there are any, and one of several does not decide for all ([`MAX_WITNESSES`]).

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    time::Duration,
};

use shared::{
    ids::{LeaseToken, SessionId},
    outcome::Failure,
    refusal::Refusal,
    refused_sample::{BYTES_OF_A_TAR, OriginRefuses, SAMPLE},
};
use tokio::time::Instant;

use super::{
    LeaseTable, ReportVerdict, State,
    first_answers::{FirstAnswers, MOSTLY_COMPLETE, next_of},
    sessions::Session,
};

/// Consecutive classes that are refused alike before a sample is requested. With a smaller number
/// grants would wait for responses wherever single classes are refused.
pub(super) const STREAK: usize = 5;
/// The required number of consecutive refusals doubles after each sample that was served, at most
/// this many times.
const MAX_DOUBLINGS: u32 = 6;
/// The sample counts as refused if it is refused to more than half of the workers, or to this many
/// of them.
const MAX_WITNESSES: usize = 5;
/// A sample that is not decided after this time ends without a result.
pub(super) const LONGEST_SAMPLE: Duration = Duration::from_mins(1);

/// The refusals since the last class that was served.
#[derive(Debug, Default)]
pub(super) struct LaterAnswers {
    /// Number of samples that were not refused.
    served: u32,
    streak: Option<Streak>,
}

/// Consecutive classes that were refused alike.
#[derive(Debug)]
struct Streak {
    /// The token of the last grant before the first of them was refused.
    refused_after: LeaseToken,
    refused: BTreeMap<usize, Failure>,
    sample: Option<Sample>,
}

/// A sample of the rest of the list.
#[derive(Debug)]
struct Sample {
    /// The token of the last grant before the sample.
    begun_after: LeaseToken,
    until: Instant,
    /// Classes that were not granted yet.
    rest: VecDeque<usize>,
    /// Classes that were granted since and refused, each with the worker's session.
    refused: BTreeMap<usize, SessionId>,
    /// Number of classes that one worker may request.
    per_worker: usize,
}

impl LaterAnswers {
    /// The classes that are pending because they were refused.
    pub(super) fn refused(&self) -> impl Iterator<Item = usize> {
        let streak = self.streak.iter();
        streak.flat_map(|streak| streak.refused.keys().copied())
    }
}

impl LeaseTable {
    /// Handles a refusal after the first responses.
    pub(super) fn later_refusal(
        &mut self,
        id: SessionId,
        position: usize,
        (refusal, failure): (Refusal, &Failure),
        now: Instant,
    ) -> ReportVerdict {
        let is_evidence = self.is_evidence(id);
        let may_begin = self.is_enough_left();
        let later = &mut self.later_answers;
        if refusal.is_missing()
            || self.failed_before.contains(&position)
            || (later.streak.is_none() && !may_begin)
        {
            return ReportVerdict::Settled;
        }
        let streak = later.streak.get_or_insert_with(|| Streak {
            refused_after: self.last_token,
            refused: BTreeMap::new(),
            sample: None,
        });
        let first = streak.refused.values().find_map(|failure| failure.refusal);
        if first.is_some_and(|first| !first.may_have_the_cause_of(refusal)) {
            self.end_streak();
            return ReportVerdict::Settled;
        }
        streak.refused.insert(position, failure.clone());
        if let Some(sample) = &mut streak.sample {
            if is_evidence && self.classes[position].token > Some(sample.begun_after) {
                sample.refused.insert(position, id);
            }
            if sample.refused.len() >= SAMPLE {
                let refuses = OriginRefuses::of(streak.refused.values(), true);
                later.streak = None;
                self.first_answers = refuses.map_or(FirstAnswers::Over, FirstAnswers::Refused);
            }
        } else if streak.refused.len() >= STREAK << later.served.min(MAX_DOUBLINGS)
            && !self.begin_later_sample(now)
        {
            // The rest is too short for a sample.
            self.end_streak();
            return ReportVerdict::Settled;
        }
        self.keep_pending(position)
    }

    /// Whether a worker's refusals count: it has completed a class in its session, or no worker
    /// has.
    fn is_evidence(&self, id: SessionId) -> bool {
        let has_done_one = |session: &Session| session.last_success.is_some();
        let sessions = &self.sessions.by_id;
        sessions.get(&id).is_some_and(has_done_one) || !sessions.values().any(has_done_one)
    }

    /// Whether enough classes are left to distinguish missing classes from an origin that refuses
    /// all.
    fn is_enough_left(&self) -> bool {
        let there = self.status.success + self.status.skipped;
        let left = self.status.pending;
        left >= SAMPLE as u64 && there / (MOSTLY_COMPLETE as u64) < left
    }

    /// Begins a sample of the rest of the list. Returns whether the rest is long enough.
    fn begin_later_sample(&mut self, now: Instant) -> bool {
        let candidates = self.candidates(|state| state == State::Fresh);
        if candidates.len() < SAMPLE {
            return false;
        }
        let sessions = self.sessions.by_id.keys();
        let able = sessions.filter(|id| self.is_evidence(**id)).count();
        let witnesses = (able / 2 + 1).min(MAX_WITNESSES);
        let rest = self.draw_sample(&candidates);
        if let Some(streak) = &mut self.later_answers.streak {
            streak.sample = Some(Sample {
                begun_after: self.last_token,
                until: now + LONGEST_SAMPLE,
                rest,
                refused: BTreeMap::new(),
                per_worker: SAMPLE.div_ceil(witnesses),
            });
        }
        true
    }

    fn later_sample(&self) -> Option<&Sample> {
        self.later_answers.streak.as_ref()?.sample.as_ref()
    }

    /// The number of classes of a sample that a worker may be granted; unlimited while there is no
    /// sample.
    pub(super) fn room_in_later_sample(&self, id: SessionId) -> usize {
        let Some(sample) = self.later_sample() else {
            return usize::MAX;
        };
        if !self.is_evidence(id) {
            return 0;
        }
        let granted = |session: &Session| {
            let tokens = session.leases.keys().map(|at| self.classes[*at].token);
            let of_sample = tokens.filter(|token| *token > Some(sample.begun_after));
            of_sample.count()
        };
        let all: usize = self.sessions.by_id.values().map(granted).sum();
        let refused_to = sample.refused.values();
        let refused = refused_to.filter(|session| **session == id).count();
        let used = refused + self.sessions.by_id.get(&id).map_or(0, granted);
        SAMPLE
            .saturating_sub(all + sample.refused.len())
            .min(sample.per_worker.saturating_sub(used))
    }

    /// The next class of a sample.
    pub(super) fn next_of_later_sample(&mut self) -> ControlFlow<Option<usize>> {
        let streak = self.later_answers.streak.as_mut();
        match streak.and_then(|streak| streak.sample.as_mut()) {
            Some(sample) => next_of(&mut sample.rest, &self.classes, &self.high_water),
            None => ControlFlow::Continue(()),
        }
    }

    /// A class was served under this token. If it was granted after the first refusal, the origin
    /// refuses only some classes.
    pub(super) fn later_answer(&mut self, token: Option<LeaseToken>) {
        let streak = self.later_answers.streak.as_ref();
        if streak.is_some_and(|streak| token > Some(streak.refused_after)) {
            self.end_streak();
        }
    }

    /// Handles the positions in a worker's heartbeat.
    pub(super) fn later_bytes(&mut self, id: SessionId) {
        if self.later_answers.streak.is_none() {
            return;
        }
        let Some(session) = self.sessions.by_id.get(&id) else {
            return;
        };
        let grows = session.leases.iter().filter(|(_, held)| {
            // A class may start at the length of a partial file.
            let first = held
                .first
                .map(|(_, bytes)| bytes.saturating_add(BYTES_OF_A_TAR));
            !held.is_local && first.is_some_and(|least| held.bytes >= least)
        });
        let newest = grows
            .filter_map(|(position, _)| self.classes[*position].token)
            .max();
        self.later_answer(newest);
    }

    /// A sample that takes too long ends without a result.
    pub(super) fn check_later_sample(&mut self, now: Instant) {
        let sample = self.later_sample();
        if sample.is_some_and(|sample| now >= sample.until) {
            self.end_streak();
        }
    }

    /// The origin refuses only some classes: the consecutive ones have failed.
    pub(super) fn end_streak(&mut self) {
        let Some(streak) = self.later_answers.streak.take() else {
            return;
        };
        if streak.sample.is_some() {
            self.later_answers.served = self.later_answers.served.saturating_add(1);
            self.wake_ups += 1;
        }
        self.give_up_doubted(streak.refused);
    }
}
