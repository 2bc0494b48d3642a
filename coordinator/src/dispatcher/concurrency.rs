//! The concurrency controller within the dispatcher: passes observations, ended sessions and the
//! time to it, and publishes its decisions.

use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use shared::ids::SessionId;
use tokio::{sync::watch, time::Instant};

use crate::concurrency::{
    Budget, ConcurrencyController, ConcurrencyNotice, ConcurrencyStatus, Observation,
};

/// A longer wait is announced on the screen, with its end in UTC as in the log file; a shorter one
/// only in the log.
const LONG_WAIT: Duration = Duration::from_mins(1);

/// Feeds the concurrency controller and publishes its budgets, status and notices.
#[derive(Debug)]
pub(super) struct BudgetPublisher {
    pace: ConcurrencyController,
    /// The wake-up generation that was published last.
    turn: u64,
    budgets: watch::Sender<()>,
    status: watch::Sender<ConcurrencyStatus>,
    /// Scheme, host and port of the origin, for messages.
    origin: String,
}

impl BudgetPublisher {
    /// Also returns the receivers of two signals: that budgets may have changed, and the
    /// controller's status.
    pub(super) fn new(
        pace: ConcurrencyController,
    ) -> (
        Self,
        watch::Receiver<()>,
        watch::Receiver<ConcurrencyStatus>,
    ) {
        let (budgets, budgets_receiver) = watch::channel(());
        let (status, status_receiver) = watch::channel(pace.status(Instant::now()));
        let origin = "the origin".to_owned();
        (
            Self {
                turn: pace.turn(),
                pace,
                budgets,
                status,
                origin,
            },
            budgets_receiver,
            status_receiver,
        )
    }

    /// Sets the name of the origin in messages.
    pub(super) fn telling_of(self, origin: String) -> Self {
        Self { origin, ..self }
    }

    /// Records a worker's observation and returns the worker's budget.
    pub(super) fn observed(
        &mut self,
        session: SessionId,
        observation: &Observation,
        now: Instant,
    ) -> Budget {
        self.pace.observed(session, observation, now);
        self.publish(now);
        self.pace.budget(session, now)
    }

    /// The budget of a worker.
    pub(super) fn budget(&mut self, session: SessionId, now: Instant) -> Budget {
        self.pace.budget(session, now)
    }

    /// Removes an ended session. The notification lets its budget stream end.
    pub(super) fn left(&mut self, session: SessionId, now: Instant) {
        self.pace.left(session, now);
        self.publish(now);
        self.budgets.send_replace(());
    }

    /// Ends the waits that the origin requested. Returns the remaining time of the longest one.
    pub(super) fn resume(&mut self, now: Instant) -> Duration {
        let left = self.pace.resume(now);
        self.publish(now);
        left
    }

    /// Applies changes that are due at this time.
    pub(super) fn tick(&mut self, now: Instant) {
        self.pace.tick(now);
        self.publish(now);
    }

    /// The controller's current status.
    pub(super) fn status(&self, now: Instant) -> ConcurrencyStatus {
        self.pace.status(now)
    }

    fn publish(&mut self, now: Instant) {
        for notice in self.pace.take_notices() {
            match notice {
                ConcurrencyNotice::Refused { rest } if rest > LONG_WAIT => {
                    let end = format_rfc3339_seconds(SystemTime::now() + rest);
                    tracing::warn!("{notice} ({}), until {end}", self.origin);
                }
                notice => tracing::info!("{notice} ({})", self.origin),
            }
        }
        let status = self.pace.status(now);
        self.status
            .send_if_modified(|published| std::mem::replace(published, status) != status);
        let turn = self.pace.turn();
        if std::mem::replace(&mut self.turn, turn) != turn {
            self.budgets.send_replace(());
        }
    }
}
