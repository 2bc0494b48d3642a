//! The concurrency controller within the dispatcher: observations, budgets and status.

use shared::ids::SessionId;
use tokio::time::Instant;

use super::Dispatcher;
use crate::{
    concurrency::{Budget, ConcurrencyStatus, Observation},
    lease_table::UnknownSession,
};

impl Dispatcher {
    /// Records a worker's observation and returns the worker's budget.
    pub(super) fn observed(
        &mut self,
        session: SessionId,
        observation: &Observation,
    ) -> Result<Budget, UnknownSession> {
        self.table.known(session)?;
        self.time_left.received(session, observation.received);
        self.table.has_received(session, observation.received);
        self.controller
            .observed(session, observation, Instant::now());
        self.budget(session)
    }

    pub(super) fn budget(&mut self, session: SessionId) -> Result<Budget, UnknownSession> {
        self.table.known(session)?;
        Ok(self.controller.budget(session, Instant::now()))
    }

    pub(super) fn concurrency_status(&self) -> ConcurrencyStatus {
        self.controller.status(Instant::now())
    }
}
