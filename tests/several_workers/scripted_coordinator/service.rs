//! The gRPC service of the scripted coordinator.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use proto::coordinator_server::Coordinator;
use tonic::{Request, Response, Status};

use super::{Acquires, BudgetStream, State, lock};
use crate::answer_changes::AnswerChanges;

/// Answers as the test has set, and records the calls.
pub(super) struct ScriptedService(pub(super) Arc<State>);

impl ScriptedService {
    fn has_news(&self) -> bool {
        let answers = lock(&self.0.answers);
        !answers.leases.is_empty() || answers.job_done || answers.changes.acquire.is_some()
    }

    fn status() -> proto::JobStatus {
        proto::JobStatus {
            total: 1,
            ..proto::JobStatus::default()
        }
    }

    fn counts(&self) -> proto::JobStatus {
        let success = lock(&self.0.answers).settled;
        proto::JobStatus {
            success,
            done: success == 1,
            ..Self::status()
        }
    }
}

#[tonic::async_trait]
impl Coordinator for ScriptedService {
    type WatchStream = std::pin::Pin<
        Box<
            dyn tonic::codegen::tokio_stream::Stream<Item = Result<proto::JobStatus, Status>>
                + Send,
        >,
    >;
    type PaceStream = std::pin::Pin<
        Box<dyn tonic::codegen::tokio_stream::Stream<Item = Result<proto::Budget, Status>> + Send>,
    >;

    async fn register(
        &self,
        request: Request<proto::RegisterRequest>,
    ) -> Result<Response<proto::RegisterReply>, Status> {
        lock(&self.0.calls).registrations.push(request.into_inner());
        let answers = lock(&self.0.answers).clone();
        let ttl = u64::try_from(answers.ttl.as_millis()).expect("the time fits into 64 bits");
        if let Some(words) = answers.changes.refusal {
            return Err(Status::invalid_argument(words));
        }
        let reply = proto::RegisterReply {
            session_id: answers.session,
            epoch: answers.epoch,
            ttl_ms: ttl,
            renew_ms: ttl / 3,
            job: Some(proto::JobOptions {
                run_id: format!("{:032x}", answers.run),
                ..self.0.job.clone()
            }),
            needs_inventory: answers.needs_inventory,
            status: Some(self.counts()),
            ..proto::RegisterReply::default()
        };
        Ok(Response::new(AnswerChanges::apply(
            answers.changes.register.as_ref(),
            reply,
        )))
    }

    async fn renew(
        &self,
        _: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::RenewReply>, Status> {
        lock(&self.0.calls).renewals += 1;
        let answers = lock(&self.0.answers).clone();
        let reply = proto::RenewReply {
            epoch: answers.renewals_epoch.unwrap_or(answers.epoch),
            directive: answers.directive.into(),
            ..proto::RenewReply::default()
        };
        Ok(Response::new(AnswerChanges::apply(
            answers.changes.renew.as_ref(),
            reply,
        )))
    }

    async fn acquire(
        &self,
        request: Request<proto::AcquireRequest>,
    ) -> Result<Response<proto::AcquireReply>, Status> {
        lock(&self.0.calls).acquires += 1;
        while lock(&self.0.answers).acquires == Acquires::Held {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A long poll of at most 0.5 s.
        for _ in 0..50 {
            if self.has_news() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut answers = lock(&self.0.answers);
        let leases = answers.leases.pop().into_iter().collect();
        let is_current = request.get_ref().session_id == answers.session;
        let directive = if is_current {
            proto::Directive::Continue
        } else {
            proto::Directive::Reregister
        };
        let reply = proto::AcquireReply {
            leases,
            directive: directive.into(),
            status: Some(proto::JobStatus {
                done: answers.job_done,
                ..Self::status()
            }),
            ..proto::AcquireReply::default()
        };
        Ok(Response::new(AnswerChanges::apply(
            answers.changes.acquire.as_ref(),
            reply,
        )))
    }

    async fn report(
        &self,
        request: Request<proto::ReportRequest>,
    ) -> Result<Response<proto::ReportReply>, Status> {
        let request = request.into_inner();
        let status = self.counts();
        let mut recorded = lock(&self.0.calls);
        let mut answers = lock(&self.0.answers);
        if answers.refuses_reports {
            return Err(Status::invalid_argument("these are no results"));
        }
        if answers.failing_reports > 0 {
            answers.failing_reports -= 1;
            return Err(Status::unavailable("not now"));
        }
        let settles = answers.unsettled_reports == 0;
        answers.unsettled_reports = answers.unsettled_reports.saturating_sub(1);
        let acked = request
            .results
            .iter()
            .filter(|_| settles)
            .map(|result| result.wnid.clone())
            .collect();
        let acquires = recorded.acquires;
        recorded.reports.push((acquires, request));
        let directive = proto::Directive::Continue.into();
        let reply = proto::ReportReply {
            acked,
            directive,
            status: Some(status),
            ..proto::ReportReply::default()
        };
        Ok(Response::new(AnswerChanges::apply(
            answers.changes.report.as_ref(),
            reply,
        )))
    }

    async fn leave(
        &self,
        request: Request<proto::LeaveRequest>,
    ) -> Result<Response<proto::LeaveReply>, Status> {
        lock(&self.0.calls)
            .leave_requests
            .push(request.into_inner());
        Ok(Response::new(proto::LeaveReply {}))
    }

    async fn watch(
        &self,
        _: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(
            "this coordinator has no watch stream",
        ))
    }

    async fn pace(
        &self,
        observations: Request<tonic::Streaming<proto::Observation>>,
    ) -> Result<Response<Self::PaceStream>, Status> {
        match lock(&self.0.answers).budget_stream {
            BudgetStream::Unknown => {
                return Err(Status::unimplemented(
                    "this coordinator has no budget stream",
                ));
            }
            BudgetStream::Broken => return Err(Status::unavailable("not now")),
            BudgetStream::Silent | BudgetStream::Budget(_) => {}
        }
        let stream = Budgets {
            state: Arc::clone(&self.0),
            observations: observations.into_inner(),
            sent: None,
        };
        Ok(Response::new(Box::pin(stream::try_unfold(
            stream,
            Budgets::next,
        ))))
    }
}

/// One budget stream.
struct Budgets {
    state: Arc<State>,
    observations: tonic::Streaming<proto::Observation>,
    /// The last budget sent.
    sent: Option<proto::Budget>,
}

impl Budgets {
    async fn next(mut self) -> Result<Option<(proto::Budget, Self)>, Status> {
        loop {
            tokio::select! {
                observed = self.observations.message() => match observed? {
                    Some(observation) => lock(&self.state.calls).observations.push(observation),
                    None => return Ok(None),
                },
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            let answer = lock(&self.state.answers).budget_stream;
            match answer {
                BudgetStream::Unknown => return Ok(None),
                BudgetStream::Broken => return Err(Status::permission_denied("not any more")),
                BudgetStream::Budget(budget) if self.sent != Some(budget) => {
                    self.sent = Some(budget);
                    return Ok(Some((budget, self)));
                }
                BudgetStream::Budget(_) | BudgetStream::Silent => {}
            }
        }
    }
}
