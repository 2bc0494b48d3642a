//! The state of the job in words, for the times in which nothing moves. Pure.

use std::time::{Duration, SystemTime};

use super::snapshot::State;
use crate::{
    concurrency::ConcurrencyNotice,
    fleet::{LimitChange, LimitChanges, LiveView, Phase, unix_milliseconds},
};

/// The phase of a view, and why nothing moves. `{until}` in the sentence is the place of the time
/// `until_ms`, which the viewer's browser writes in its time zone.
pub(super) fn state(
    view: &LiveView,
    changes: &LimitChanges,
    is_stopping: bool,
    now: SystemTime,
) -> State {
    let phase = match view.fleet.phase {
        Phase::Done => Phase::Done,
        _ if is_stopping => Phase::Stopping,
        phase => phase,
    };
    let pause = view.fleet.origin.pause;
    let (sentence, left) = match phase {
        Phase::Recovering => recovering(view),
        Phase::WaitingForWorkers => ("waiting for workers".to_owned(), None),
        Phase::OriginPaused => (why_origin_paused(view), None),
        Phase::Running if !pause.is_zero() => (why_paused(changes), Some(pause)),
        Phase::Running | Phase::Done | Phase::Stopping => (String::new(), None),
    };
    State {
        phase,
        sentence,
        until_ms: left.map(|left| unix_milliseconds(now + left)),
        dry: false,
    }
}

fn recovering(view: &LiveView) -> (String, Option<Duration>) {
    let Some(recovery) = view.recovery else {
        return (String::new(), None);
    };
    let back = recovery.expected.saturating_sub(recovery.missing);
    let (workers, are) = match (recovery.expected, back) {
        (1, _) => ("worker", "is"),
        (_, 1) => ("workers", "is"),
        _ => ("workers", "are"),
    };
    let sentence = format!(
        "recovering: {back} of {} {workers} {are} back; classes of the others wait until {{until}}",
        recovery.expected
    );
    (sentence, Some(recovery.left))
}

/// The last failure is the newest cause; before any class has failed, only the workers know one.
fn why_origin_paused(view: &LiveView) -> String {
    let cause = view.outage.as_ref().or(view.first_failure.as_ref());
    let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    format!("the origin fails for all workers{cause}: one class at a time tries again")
}

/// Why no request is sent: the last notice that began a pause says it.
fn why_paused(changes: &LimitChanges) -> String {
    let reason = changes.iter().rev().find_map(|change| match change.notice {
        ConcurrencyNotice::Refused { .. } => {
            Some("the origin answered 429 or 503 and asked to wait".to_owned())
        }
        ConcurrencyNotice::Overload { open, .. } => {
            Some(format!("the origin broke {open} connections together"))
        }
        _ => None,
    });
    match reason {
        Some(reason) => format!("no requests until {{until}}: {reason}"),
        None => "no requests until {until}".to_owned(),
    }
}

/// The reason of a change of the limit, as one line.
pub(super) fn why_changed(change: &LimitChange) -> String {
    let LimitChange { before, limit, .. } = change;
    match &change.notice {
        ConcurrencyNotice::Limit { cause, .. } if limit != before => {
            format!("at most {limit} connections instead of {before}: {cause}")
        }
        notice => notice.to_string(),
    }
}
