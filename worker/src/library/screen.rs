//! The screen of a batch: the lines of its downloads and of the batch, as the programs draw them.

use std::{future::pending, time::Duration};

use shared::{
    job::JobStatus,
    job_line::{JobLine, Screen},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Stats;
use crate::{observe::slot_lines::SlotLines, slots::Slots};

/// How often the lines are drawn, as by the worker.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// What is drawn of a batch; nothing on a silent screen.
pub(super) struct BatchScreen(Option<Lines>);

struct Lines {
    line: JobLine,
    slots: SlotLines,
    redraw: Interval,
}

impl BatchScreen {
    pub(super) fn new(screen: &Screen) -> Self {
        if matches!(screen, Screen::Silent) {
            return Self(None);
        }
        let mut redraw = interval(REDRAW_INTERVAL);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(Some(Lines {
            line: JobLine::new(screen),
            slots: SlotLines::default(),
            redraw,
        }))
    }

    /// Returns when the lines have to be drawn; never on a silent screen. Cancel safe.
    pub(super) async fn is_due(&mut self) {
        match &mut self.0 {
            Some(lines) => drop(lines.redraw.tick().await),
            None => pending().await,
        }
    }

    /// Draws the lines, or writes the plain line if one is due.
    pub(super) fn draw(&mut self, total: u64, stats: &Stats, slots: &Slots) {
        let Some(Lines {
            line, slots: lines, ..
        }) = &mut self.0
        else {
            return;
        };
        let leased = slots.held().len() as u64;
        let counts = JobStatus {
            total,
            success: stats.success,
            skipped: stats.skipped,
            failed: stats.failed,
            leased,
            pending: total.saturating_sub(stats.total() + leased),
            workers: 1,
            received_bytes: slots.received_bytes(),
            time_left: None,
        };
        let classes = slots.under_way();
        line.update(&counts, None, |room| {
            lines.lines(classes, Instant::now(), room)
        });
    }

    /// Removes the lines from a terminal.
    pub(super) fn finish(&self) {
        if let Some(lines) = &self.0 {
            lines.line.finish();
        }
    }
}
