//! What a coordinator shows on its terminal: the fleet, which it asks the dispatcher for once a
//! second, and the job's line. Without a terminal it never asks, and writes plain lines.

use std::{
    future::pending,
    pin::Pin,
    time::{Duration, SystemTime},
};

use shared::{
    job::JobStatus,
    job_line::{JobLine, Screen},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    dispatcher::{DispatchError, DispatcherHandle},
    fleet::Fleet,
    fleet_lines,
};

/// Interval between two requests for the fleet.
const FLEET_INTERVAL: Duration = Duration::from_secs(1);

type Answer = Pin<Box<dyn Future<Output = Result<Fleet, DispatchError>> + Send>>;

/// The lines of the fleet and of the job.
pub(super) struct FleetDisplay {
    line: JobLine,
    dispatcher: DispatcherHandle,
    has_block: bool,
    /// The fleet as last received.
    fleet: Option<Fleet>,
    /// The answer that is awaited.
    answer: Option<Answer>,
    next: Instant,
}

/// Receives the state of the fleet if it is shown. Cancel safe.
pub(super) async fn refresh(display: &mut Option<FleetDisplay>) {
    match display {
        Some(display) => display.refresh().await,
        None => pending().await,
    }
}

impl FleetDisplay {
    pub(super) fn new(screen: &Screen, dispatcher: DispatcherHandle) -> Self {
        Self {
            line: JobLine::new(screen),
            dispatcher,
            has_block: screen.has_block(),
            fleet: None,
            answer: None,
            next: Instant::now(),
        }
    }

    /// Receives the state of the fleet when that is due. Cancel safe.
    async fn refresh(&mut self) {
        if !self.has_block {
            return pending().await;
        }
        if self.answer.is_none() {
            sleep_until(self.next).await;
            self.next = Instant::now() + FLEET_INTERVAL;
            let dispatcher = self.dispatcher.clone();
            self.answer = Some(Box::pin(async move { dispatcher.fleet().await }));
        }
        if let Some(answer) = &mut self.answer {
            let fleet = answer.await;
            self.answer = None;
            // The end of the dispatcher ends the job elsewhere.
            self.fleet = fleet.ok().or_else(|| self.fleet.take());
        }
    }

    /// Draws the lines, or writes the plain line if one is due.
    pub(super) fn update(&mut self, status: &JobStatus) {
        let fleet = self.fleet.as_ref();
        let rate = self.dispatcher.concurrency_status().bytes_per_second;
        self.line.update(status, Some(rate), |room| {
            fleet.map_or_else(Vec::new, |fleet| {
                fleet_lines::lines(fleet, SystemTime::now(), room)
            })
        });
    }

    /// Removes the lines from the terminal.
    pub(super) fn finish(&self) {
        self.line.finish();
    }
}
