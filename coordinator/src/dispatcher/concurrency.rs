//! The concurrency controller within the dispatcher: observations, budgets and status. An
//! observation is a worker's report on its connections to the origin. A budget is what the worker
//! may do there: connections, bytes per second and pauses.

use shared::ids::SessionId;
use tokio::time::Instant;

use super::Dispatcher;
use crate::{
    concurrency::{Budget, ConcurrencyStatus, Observation},
    lease_table::{LiveReport, UnknownSession},
};

impl Dispatcher {
    /// Records a worker's observation and returns the worker's budget.
    pub(super) fn record_observation(
        &mut self,
        session: SessionId,
        observation: &Observation,
        live: &LiveReport,
    ) -> Result<Budget, UnknownSession> {
        let lease_now = self.lease_now();
        self.table.record_live(session, live, lease_now)?;
        self.time_left.received(session, observation.received);
        self.table.record_received(session, observation.received);
        self.controller
            .record_observation(session, observation, Instant::now());
        self.table
            .set_observation_interval(self.controller.observation_interval());
        self.budget(session)
    }

    /// The current budget of a worker.
    pub(super) fn budget(&mut self, session: SessionId) -> Result<Budget, UnknownSession> {
        self.table.check_session(session)?;
        Ok(self.controller.budget(session, Instant::now()))
    }

    /// The state of the concurrency controller now.
    pub(super) fn concurrency_status(&self) -> ConcurrencyStatus {
        self.controller.status(Instant::now())
    }
}
