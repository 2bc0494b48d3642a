//! Distinguishes an origin that fails under too many connections from one whose connections fail
//! regardless of how many are open. No I/O, no clock.
//!
//! An overload has one of two signs: a burst (at least half of the open connections fail within
//! [`BURST_WINDOW`]) or a steady series of failures. The real server has shown bursts: 20 groups of 8
//! to 15 failures within seconds while 15 connections were open, and none while 5 were. Failures of
//! one worker's network or of one class are no overload: if several workers have connections, at
//! least two must report failures. Failures that also happen with a single connection do not depend
//! on the number of connections; they are then ignored for a while. A failure here is a request
//! whose connection broke or did not come about (a cut).

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use shared::ids::SessionId;
use tokio::time::Instant;

/// Failures within this time form one burst.
const BURST_WINDOW: Duration = Duration::from_millis(500);
/// Window for steady failures. At least [`STEADY_CUTS`] failures in it, and at least as many as
/// there are open connections, are an overload. A single bad class does not reach that number: it
/// is retried at most five times by default.
const STEADY_WINDOW: Duration = Duration::from_secs(5);
const STEADY_CUTS: u64 = 12;
/// This many failures with a single connection within [`STEADY_WINDOW`] show that the number of
/// connections is not the cause.
const INDEPENDENT_CUTS: u64 = 3;
/// Time for which failures are then ignored.
const IGNORE_CUTS_FOR: Duration = Duration::from_mins(1);

/// The result of evaluating failed requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Diagnosis {
    /// No conclusion.
    None,
    /// Too many connections.
    Overload {
        /// Connections that were open when the overload began.
        open: u32,
    },
    /// Connections fail regardless of how many are open.
    Independent,
}

/// Failed requests of one worker since its last report.
#[derive(Debug, Clone, Copy)]
pub(super) struct CutReport {
    pub(super) at: Instant,
    pub(super) worker: SessionId,
    pub(super) cuts: u64,
    /// Open connections of all workers before the failures.
    pub(super) open: u32,
    /// Workers with open connections.
    pub(super) workers: usize,
}

/// Detects overloads from the failed requests of the last seconds.
#[derive(Debug, Default)]
pub(super) struct OverloadDetector {
    /// Reports with failures within the last [`STEADY_WINDOW`].
    reports: VecDeque<CutReport>,
    ignored_until: Option<Instant>,
}

impl OverloadDetector {
    /// Evaluates a worker's report. `limit`: connections that are allowed.
    pub(super) fn record_report(&mut self, report: CutReport, limit: u32) -> Diagnosis {
        let now = report.at;
        self.reports
            .retain(|report| now - report.at <= STEADY_WINDOW);
        if report.cuts == 0 || self.ignored_until.is_some_and(|until| now < until) {
            return Diagnosis::None;
        }
        self.reports.push_back(report);
        let (steady, _, steady_workers) = self.cuts(now, STEADY_WINDOW);
        if limit == 1 {
            if steady < INDEPENDENT_CUTS {
                return Diagnosis::None;
            }
            self.ignored_until = Some(now + IGNORE_CUTS_FOR);
            self.reset();
            return Diagnosis::Independent;
        }
        let (burst, most, burst_workers) = self.cuts(now, BURST_WINDOW);
        let enough = report.workers.min(2);
        let is_burst =
            burst >= 2 && burst.saturating_mul(2) >= u64::from(most) && burst_workers >= enough;
        let is_steady = steady >= STEADY_CUTS.max(report.open.into()) && steady_workers >= enough;
        if !is_burst && !is_steady {
            return Diagnosis::None;
        }
        // Connections that opened and failed between two reports were open as well.
        let open = most.max(u32::try_from(burst).unwrap_or(limit)).min(limit);
        Diagnosis::Overload { open }
    }

    /// Failures within `time`, the most connections that were open, and the number of workers that
    /// reported failures.
    fn cuts(&self, now: Instant, time: Duration) -> (u64, u32, usize) {
        let recent = || self.reports.iter().filter(|report| now - report.at <= time);
        let workers: BTreeSet<SessionId> = recent().map(|report| report.worker).collect();
        (
            recent().fold(0, |cuts, report| report.cuts.saturating_add(cuts)),
            recent().map(|report| report.open).max().unwrap_or(0),
            workers.len(),
        )
    }

    /// Discards all failures.
    pub(super) fn reset(&mut self) {
        self.reports.clear();
    }
}
