//! Changes to the answers of a scripted coordinator, beyond what
//! [`crate::scripted_coordinator::Answers`] can express.

use std::{fmt, sync::Arc};

use proto::admin_server::Admin;
use tonic::{Request, Response, Status};

/// Moves the cursor, sets a title, reverses text, hides a part of it, and forges a line.
pub(crate) const CONTROL_CHARACTERS: &str = "\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\
     \u{202e}\u{61c}\u{ad}\u{200b}\u{2066}\u{feff}\u{e0041}\r\nINFO forged";

/// Changes an answer before it is sent.
type Change<Reply> = Arc<dyn Fn(&mut Reply) + Send + Sync>;

/// The changes to each kind of answer; none by default.
#[derive(Clone, Default)]
pub(crate) struct AnswerChanges {
    pub(crate) register: Option<Change<proto::RegisterReply>>,
    pub(crate) renew: Option<Change<proto::RenewReply>>,
    pub(crate) acquire: Option<Change<proto::AcquireReply>>,
    pub(crate) report: Option<Change<proto::ReportReply>>,
    /// Rejects registrations with this message.
    pub(crate) refusal: Option<String>,
}

impl fmt::Debug for AnswerChanges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AnswerChanges")
            .finish_non_exhaustive()
    }
}

impl AnswerChanges {
    pub(crate) fn in_registrations(
        change: impl Fn(&mut proto::RegisterReply) + Send + Sync + 'static,
    ) -> Self {
        Self {
            register: Some(Arc::new(change)),
            ..Self::default()
        }
    }

    pub(crate) fn in_renewals(
        change: impl Fn(&mut proto::RenewReply) + Send + Sync + 'static,
    ) -> Self {
        Self {
            renew: Some(Arc::new(change)),
            ..Self::default()
        }
    }

    pub(crate) fn in_grants(
        change: impl Fn(&mut proto::AcquireReply) + Send + Sync + 'static,
    ) -> Self {
        Self {
            acquire: Some(Arc::new(change)),
            ..Self::default()
        }
    }

    pub(crate) fn in_receipts(
        change: impl Fn(&mut proto::ReportReply) + Send + Sync + 'static,
    ) -> Self {
        Self {
            report: Some(Arc::new(change)),
            ..Self::default()
        }
    }

    /// Changes the job in the answers to registrations.
    pub(crate) fn in_the_job(
        change: impl Fn(&mut proto::JobOptions) + Send + Sync + 'static,
    ) -> Self {
        Self::in_registrations(move |reply| {
            change(reply.job.as_mut().expect("the reply has a job"));
        })
    }

    pub(crate) fn refusal(words: &str) -> Self {
        Self {
            refusal: Some(words.to_owned()),
            ..Self::default()
        }
    }

    /// The changed answer.
    pub(crate) fn apply<Reply>(change: Option<&Change<Reply>>, mut reply: Reply) -> Reply {
        if let Some(change) = change {
            change(&mut reply);
        }
        reply
    }
}

/// An admin service whose answers contain terminal escape sequences.
#[derive(Debug)]
pub(crate) struct AdminWithControlCharacters;

#[tonic::async_trait]
impl Admin for AdminWithControlCharacters {
    async fn get_fleet(
        &self,
        _: Request<proto::GetFleetRequest>,
    ) -> Result<Response<proto::Fleet>, Status> {
        let text = || CONTROL_CHARACTERS.to_owned();
        let worker = proto::WorkerStatus {
            name: text(),
            storage_id: text(),
            build: text(),
            ..proto::WorkerStatus::default()
        };
        let workers = vec![worker; 2];
        Ok(Response::new(proto::Fleet {
            run_id: text(),
            workers,
            ..proto::Fleet::default()
        }))
    }

    async fn list_classes(
        &self,
        _: Request<proto::ListClassesRequest>,
    ) -> Result<Response<proto::ListClassesReply>, Status> {
        let listed = proto::ListedClass {
            wnid: CONTROL_CHARACTERS.to_owned(),
            ..proto::ListedClass::default()
        };
        let held = proto::ListedClass {
            wnid: "n00000001".to_owned(),
            worker: CONTROL_CHARACTERS.to_owned(),
            ..proto::ListedClass::default()
        };
        Ok(Response::new(proto::ListClassesReply {
            classes: vec![listed, held],
            more: false,
        }))
    }

    async fn retry_failed(
        &self,
        _: Request<proto::RetryFailedRequest>,
    ) -> Result<Response<proto::RetryFailedReply>, Status> {
        Err(Status::failed_precondition(CONTROL_CHARACTERS))
    }

    async fn drain_worker(
        &self,
        _: Request<proto::DrainWorkerRequest>,
    ) -> Result<Response<proto::DrainWorkerReply>, Status> {
        Err(Status::not_found(CONTROL_CHARACTERS))
    }

    async fn resume(
        &self,
        _: Request<proto::ResumeRequest>,
    ) -> Result<Response<proto::ResumeReply>, Status> {
        Err(Status::unavailable(CONTROL_CHARACTERS))
    }
}
