//! A snapshot from the dispatcher's view. Pure.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    history::{Mark, Point},
    list::List,
    ranking, sentence,
    snapshot::{
        API, Classes, FailureGroup, Failures, History, Job, Origin, Snapshot, Transfer, Transfers,
    },
};
use crate::{
    concurrency::ConcurrencyStatus,
    fleet::{self, LimitChanges, LiveView, unix_milliseconds},
    version::VERSION,
};

/// What a snapshot has besides the dispatcher's view.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) run_id: &'a Arc<str>,
    pub(super) epoch: u32,
    pub(super) seq: u64,
    pub(super) now: SystemTime,
    pub(super) started: SystemTime,
    pub(super) ended: Option<SystemTime>,
    /// Lowest and highest time left.
    pub(super) time_left_range: Option<(Duration, Duration)>,
    pub(super) is_stopping: bool,
    pub(super) groups: &'a Arc<[FailureGroup]>,
    pub(super) changes: &'a LimitChanges,
    pub(super) points: Vec<Point>,
    pub(super) marks: Vec<Mark>,
    pub(super) list: &'a List,
    pub(super) command: &'a Arc<str>,
}

impl Snapshot {
    /// The snapshot of a view.
    pub(super) fn of(view: &LiveView, facts: Facts<'_>) -> Self {
        let state = sentence::state(view, facts.changes, facts.is_stopping, facts.now);
        Self {
            api: API,
            version: VERSION,
            run_id: Arc::clone(facts.run_id),
            epoch: facts.epoch,
            seq: facts.seq,
            at_ms: unix_milliseconds(facts.now),
            job: job(view, &facts),
            state,
            origin: origin(view, facts.now),
            workers: ranking::summarized(&view.fleet.workers),
            transfers: transfers(&view.transfers),
            failures: Failures {
                total: view
                    .fleet
                    .job
                    .failed
                    .saturating_sub(facts.list.invalid_rows),
                groups: Arc::clone(facts.groups),
                invalid_rows: facts.list.invalid_rows,
            },
            classes: Classes {
                wnids: Arc::clone(&facts.list.encoded),
                states: facts.list.with_invalid_rows(&view.letters),
            },
            history: History {
                points: facts.points,
                marks: facts.marks,
            },
            command: Arc::clone(facts.command),
        }
    }
}

fn job(view: &LiveView, facts: &Facts<'_>) -> Job {
    let status = &view.fleet.job;
    let left = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Job {
        total: status.total,
        success: status.success,
        skipped: status.skipped,
        failed: status.failed,
        leased: status.leased,
        pending: status.pending,
        received_bytes: status.received_bytes,
        time_left_ms: status.time_left.map(left),
        time_left_low_ms: facts.time_left_range.map(|(low, _)| left(low)),
        time_left_high_ms: facts.time_left_range.map(|(_, high)| left(high)),
        done: status.is_done(),
        started_at_ms: unix_milliseconds(facts.started),
        ended_at_ms: facts
            .ended
            .filter(|_| status.is_done())
            .map(unix_milliseconds),
    }
}

fn origin(view: &LiveView, now: SystemTime) -> Origin {
    let ConcurrencyStatus {
        open,
        limit,
        wanted,
        pause,
        bytes_per_second,
        requests,
        cuts,
        refusals,
        overloads,
    } = view.fleet.origin;
    Origin {
        limit,
        open,
        wanted,
        bytes_per_second,
        upper_bound: view.ceiling,
        requests,
        cuts,
        refusals,
        overloads,
        quiet_until_ms: (!pause.is_zero()).then(|| unix_milliseconds(now + pause)),
        first_failure: view.first_failure.clone(),
    }
}

fn transfers(transfers: &fleet::Transfers) -> Transfers {
    let shown = |transfer: &fleet::TransferView| Transfer {
        wnid: transfer.wnid.to_string(),
        worker: transfer.worker.clone(),
        bytes: transfer.bytes,
        length: transfer.length,
        step: transfer.step,
        attempt: transfer.attempt.into(),
    };
    Transfers {
        total: transfers.total,
        first: transfers.first.iter().map(shown).collect(),
    }
}
