//! The service `Admin` for status commands and tools. The auth layer decides which callers are
//! allowed.

use proto::admin_server::Admin;
use tonic::{Request, Response, Status};

use crate::{
    dispatcher::Retried,
    fleet::{Fleet, Phase, WorkerState, WorkerView},
    rpc::{
        conversions::{at_most, milliseconds, shown, wnid},
        service::{CoordinatorService, Reply},
    },
    wording::first_names,
};

pub(crate) mod client;
mod wire;

impl CoordinatorService {
    async fn fleet(&self) -> Result<Fleet, Status> {
        let mut fleet = self.dispatcher.fleet().await?;
        if self.shutdown.drain.is_cancelled() && fleet.phase != Phase::Done {
            fleet.phase = Phase::Stopping;
        }
        Ok(fleet)
    }
}

#[tonic::async_trait]
impl Admin for CoordinatorService {
    async fn get_fleet(&self, _: Request<proto::GetFleetRequest>) -> Reply<proto::Fleet> {
        let fleet = self.fleet().await?;
        let fleet = wire::fleet(fleet, &self.job.run_id, self.terms.epoch);
        Ok(Response::new(fleet))
    }

    async fn list_classes(
        &self,
        request: Request<proto::ListClassesRequest>,
    ) -> Reply<proto::ListClassesReply> {
        let request = request.into_inner();
        let state = request.state().into();
        let after = (!request.after.is_empty()).then(|| wnid(&request.after));
        let page = self.dispatcher.classes(state, after.transpose()?).await?;
        Ok(Response::new(page.into()))
    }

    async fn retry_failed(
        &self,
        request: Request<proto::RetryFailedRequest>,
    ) -> Reply<proto::RetryFailedReply> {
        let named = at_most(request.into_inner().wnids)?;
        let wnids = named.iter().map(|text| wnid(text));
        let wnids = wnids.collect::<Result<_, _>>()?;
        let Retried {
            classes,
            invalid_rows,
        } = self.dispatcher.retry_failed(wnids).await?;
        Ok(Response::new(proto::RetryFailedReply {
            retried: classes,
            invalid_rows,
        }))
    }

    async fn drain_worker(
        &self,
        request: Request<proto::DrainWorkerRequest>,
    ) -> Reply<proto::DrainWorkerReply> {
        let name = request.into_inner().worker_name;
        if self.dispatcher.drain_worker(name.clone()).await? {
            return Ok(Response::new(proto::DrainWorkerReply {}));
        }
        let mut workers = self.fleet().await?.workers;
        workers.retain(|worker| worker.state != WorkerState::Lost);
        let known = known(&workers);
        Err(Status::not_found(format!(
            "there is no worker {}; {known}",
            shown(&name)
        )))
    }

    async fn resume(&self, _: Request<proto::ResumeRequest>) -> Reply<proto::ResumeReply> {
        let left_ms = milliseconds(self.dispatcher.resume().await?);
        Ok(Response::new(proto::ResumeReply { left_ms }))
    }
}

/// The registered workers, for a message.
fn known(workers: &[WorkerView]) -> String {
    if workers.is_empty() {
        return "no worker is there now".to_owned();
    }
    let names = workers.iter().map(|worker| worker.name.as_str());
    format!("these are there: {}", first_names(names))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::{Wnid, protocol::MAX_BATCH, shutdown::Shutdown};
    use tokio::{task::JoinSet, time::Instant};

    use super::*;
    use crate::{
        concurrency::{Ceilings, ConcurrencyController},
        dispatcher::Dispatcher,
        lease_table::LeaseTable,
        ledger::Writer,
        rpc::service::{ClassTraces, LeaseTerms, tests::job},
    };

    fn service(tasks: &mut JoinSet<()>) -> CoordinatorService {
        let wnids: Vec<Wnid> = (1..=2)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect();
        let table = LeaseTable::new(&wnids, 1, 7, Duration::from_secs(30));
        let ledger = Writer::to_nowhere(tasks);
        let (owner, dispatcher) = Dispatcher::new(
            table,
            ConcurrencyController::new(Ceilings::default(), Instant::now()),
            ledger,
        );
        tasks.spawn(owner.run());
        CoordinatorService {
            dispatcher,
            job: job(),
            terms: LeaseTerms {
                epoch: 7,
                ttl: Duration::from_secs(30),
            },
            traces: ClassTraces::default(),
            shutdown: Shutdown::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_fleet_has_run_epoch_and_phase() {
        let mut tasks = JoinSet::new();
        let service = service(&mut tasks);
        let get_fleet = async || {
            service
                .get_fleet(Request::new(proto::GetFleetRequest {}))
                .await
                .unwrap()
                .into_inner()
        };
        let fleet = get_fleet().await;
        assert_eq!(
            (fleet.run_id.as_str(), fleet.epoch, fleet.phase()),
            ("run", 7, proto::Phase::WaitingForWorkers)
        );
        assert_eq!(
            fleet.job.map(|job| (job.total, job.failed, job.pending)),
            Some((3, 1, 2))
        );
        service.shutdown.drain.cancel();
        assert_eq!(get_fleet().await.phase(), proto::Phase::Stopping);
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_requests_are_refused_with_a_message() {
        let mut tasks = JoinSet::new();
        let service = service(&mut tasks);
        let retry = |wnids: Vec<String>| {
            service.retry_failed(Request::new(proto::RetryFailedRequest { wnids }))
        };
        let refused = retry(vec!["cat".to_owned()]).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(
            refused.message().starts_with("\"cat\" is not a WordNet id"),
            "{refused}"
        );
        let refused = retry(vec!["n00000001".to_owned(); MAX_BATCH + 1])
            .await
            .unwrap_err();
        assert_eq!(
            refused.message(),
            "a message may name 4096 classes, this one 4097"
        );
        let refused = retry(vec!["n00000001".to_owned(), "n00000009".to_owned()])
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (
                tonic::Code::NotFound,
                "n00000009 is not in the list of this job"
            )
        );
        let all = retry(vec![]).await.unwrap().into_inner();
        assert_eq!(
            (all.retried, all.invalid_rows),
            (0, 1),
            "only an invalid row has failed"
        );

        let worker_name = "x\u{1b}".to_owned();
        let unknown = service
            .drain_worker(Request::new(proto::DrainWorkerRequest { worker_name }))
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);
        assert_eq!(
            unknown.message(),
            "there is no worker x\\u{1b}; no worker is there now"
        );
    }

    #[test]
    fn a_message_names_at_most_twenty_workers() {
        let named = |count: usize| {
            let worker = |number| WorkerView {
                name: format!("w{number}"),
                ..wire::tests::worker()
            };
            known(&(1..=count).map(worker).collect::<Vec<_>>())
        };
        assert_eq!(named(2), "these are there: w1, w2");
        assert!(
            named(23).ends_with(", w19, w20 and 3 more"),
            "{}",
            named(23)
        );
    }
}
