use std::time::{Duration, SystemTime};

use super::{
    super::sentence::{state, why_changed},
    fleets::BusyFleet,
};
use crate::{
    concurrency::{ConcurrencyNotice, LimitCause},
    fleet::{LimitChange, LimitChanges, LiveView, Phase, Recovery},
};

fn view(phase: Phase, pause: Duration) -> LiveView {
    let mut view = BusyFleet::new(3, 2, 0).view();
    view.fleet.phase = phase;
    view.fleet.origin.pause = pause;
    view
}

fn change(notice: ConcurrencyNotice, before: u32, limit: u32) -> LimitChange {
    LimitChange {
        at: SystemTime::UNIX_EPOCH,
        before,
        limit,
        notice,
    }
}

fn limited(limit: u32) -> ConcurrencyNotice {
    let cause = LimitCause::NoGain { tried: 16 };
    ConcurrencyNotice::Limit { limit, cause }
}

fn said(view: &LiveView, changes: &LimitChanges) -> (String, Option<u64>) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    let state = state(view, changes, false, now);
    (state.sentence, state.until_ms)
}

#[test]
fn a_state_in_which_nothing_moves_is_said_in_words() {
    let mut changes = LimitChanges::default();
    let pause = Duration::from_secs(20);
    let quiet = view(Phase::Running, pause);
    let unknown = "no requests until {until}".to_owned();
    assert_eq!(said(&quiet, &changes), (unknown, Some(120_000)));
    let open = 14;
    let rest = pause;
    changes.push(change(
        ConcurrencyNotice::Overload {
            open,
            limit: 8,
            rest,
        },
        14,
        8,
    ));
    changes.push(change(limited(9), 8, 9));
    let broken = "no requests until {until}: the origin broke 14 connections together";
    assert_eq!(said(&quiet, &changes).0, broken);
    changes.push(change(ConcurrencyNotice::Refused { rest }, 9, 9));
    let refused = "no requests until {until}: the origin answered 429 or 503 and asked to wait";
    assert_eq!(said(&quiet, &changes), (refused.to_owned(), Some(120_000)));
    let moving = view(Phase::Running, Duration::ZERO);
    assert_eq!(said(&moving, &changes), (String::new(), None));
    let waiting = view(Phase::WaitingForWorkers, pause);
    assert_eq!(said(&waiting, &changes).0, "waiting for workers");
}

#[test]
fn an_origin_that_fails_for_all_workers_is_said_with_its_cause() {
    let changes = LimitChanges::default();
    let mut view = view(Phase::OriginPaused, Duration::ZERO);
    let unknown = "the origin fails for all workers: one class at a time tries again";
    assert_eq!(said(&view, &changes), (unknown.to_owned(), None));
    view.first_failure = Some("no connection to http://o:80".to_owned());
    let first = "the origin fails for all workers (no connection to http://o:80): one class at a \
                 time tries again";
    assert_eq!(said(&view, &changes).0, first);
    view.outage = Some("Request timeout after 120s".to_owned());
    let last = "the origin fails for all workers (Request timeout after 120s): one class at a \
                time tries again";
    assert_eq!(said(&view, &changes).0, last);
}

#[test]
fn a_recovery_counts_the_workers_that_are_back() {
    let changes = LimitChanges::default();
    let recovering = |expected, missing| {
        let mut view = view(Phase::Recovering, Duration::ZERO);
        let left = Duration::from_secs(40);
        view.recovery = Some(Recovery {
            expected,
            missing,
            left,
        });
        said(&view, &changes)
    };
    let sentence = "recovering: 2 of 5 workers are back; classes of the others wait until {until}";
    assert_eq!(recovering(5, 3), (sentence.to_owned(), Some(140_000)));
    assert!(
        recovering(1, 1)
            .0
            .starts_with("recovering: 0 of 1 worker is back;")
    );
    assert!(
        recovering(5, 4)
            .0
            .starts_with("recovering: 1 of 5 workers is back;")
    );
}

#[test]
fn a_finished_job_is_done_also_while_the_program_stops() {
    let now = SystemTime::UNIX_EPOCH;
    let changes = LimitChanges::default();
    let phase =
        |phase, is_stopping| state(&view(phase, Duration::ZERO), &changes, is_stopping, now).phase;
    assert_eq!(phase(Phase::Done, true), Phase::Done);
    assert_eq!(phase(Phase::Running, true), Phase::Stopping);
    assert_eq!(phase(Phase::Running, false), Phase::Running);
}

#[test]
fn a_mark_says_from_where_the_limit_came() {
    let limit = |before, limit| why_changed(&change(limited(limit), before, limit));
    let up = "at most 8 connections instead of 2: 16 were not faster";
    assert_eq!(limit(2, 8), up);
    let same = "at most 8 connections to the origin: 16 were not faster";
    assert_eq!(limit(8, 8), same);
    let independent = why_changed(&change(ConcurrencyNotice::Independent, 1, 1));
    assert_eq!(independent, ConcurrencyNotice::Independent.to_string());
}

#[test]
fn changes_of_the_limit_are_bounded() {
    let mut changes = LimitChanges::default();
    for limit in 1..=250 {
        changes.push(change(limited(limit), limit - 1, limit));
    }
    assert_eq!(changes.iter().count(), 40);
    assert_eq!(changes.iter().next().map(|change| change.limit), Some(211));
    assert_eq!(changes.limit(), Some(250));
}
