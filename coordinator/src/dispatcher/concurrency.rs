//! The pace within the dispatcher: told of observations, sessions that end and the time; what it decides is published.

use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use shared::ids::SessionId;
use tokio::{sync::watch, time::Instant};

use crate::concurrency::{Budget, Notice, Observation, Pace, PaceStatus};

/// A wait that is longer is announced on the screen, with its end in UTC as in the log file; a shorter one only in the log.
const LONG_WAIT: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Pacing {
    pace: Pace,
    /// The pace's turn that was published last.
    turn: u64,
    budgets: watch::Sender<()>,
    status: watch::Sender<PaceStatus>,
    /// Scheme, host and port, for messages.
    origin: String,
}

impl Pacing {
    /// Also gives what is told whenever budgets may have changed, and how it stands.
    pub(super) fn new(pace: Pace) -> (Self, watch::Receiver<()>, watch::Receiver<PaceStatus>) {
        let (budgets, budgets_receiver) = watch::channel(());
        let (status, status_receiver) = watch::channel(pace.status(Instant::now()));
        let origin = "the origin".to_owned();
        (Self { turn: pace.turn(), pace, budgets, status, origin }, budgets_receiver, status_receiver)
    }

    /// Names the origin in messages.
    pub(super) fn telling_of(self, origin: String) -> Self {
        Self { origin, ..self }
    }

    /// A worker has said what it does; gives what it may do.
    pub(super) fn observed(&mut self, session: SessionId, observation: &Observation, now: Instant) -> Budget {
        self.pace.observed(session, observation, now);
        self.publish(now);
        self.pace.budget(session, now)
    }

    /// What a worker may do.
    pub(super) fn budget(&mut self, session: SessionId, now: Instant) -> Budget {
        self.pace.budget(session, now)
    }

    /// The session has ended, and so does its stream.
    pub(super) fn left(&mut self, session: SessionId, now: Instant) {
        self.pace.left(session, now);
        self.publish(now);
        self.budgets.send_replace(());
    }

    /// Ends the waits that the origin has asked for; gives what is left of the longest.
    pub(super) fn resume(&mut self, now: Instant) -> Duration {
        let left = self.pace.resume(now);
        self.publish(now);
        left
    }

    /// What the time brings.
    pub(super) fn tick(&mut self, now: Instant) {
        self.pace.tick(now);
        self.publish(now);
    }

    /// How the origin is treated now.
    pub(super) fn status(&self, now: Instant) -> PaceStatus {
        self.pace.status(now)
    }

    fn publish(&mut self, now: Instant) {
        for notice in self.pace.take_notices() {
            match notice {
                Notice::Refused { rest } if rest > LONG_WAIT => {
                    let end = format_rfc3339_seconds(SystemTime::now() + rest);
                    tracing::warn!("{notice} ({}), until {end}", self.origin);
                }
                notice => tracing::info!("{notice} ({})", self.origin),
            }
        }
        let status = self.pace.status(now);
        self.status.send_if_modified(|published| std::mem::replace(published, status) != status);
        let turn = self.pace.turn();
        if std::mem::replace(&mut self.turn, turn) != turn {
            self.budgets.send_replace(());
        }
    }
}
