//! The calls in flight to the coordinator: at most one of each kind. After failed calls of a kind
//! the next one is delayed by a growing backoff.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use shared::{backoff::Backoff, ids::SessionId};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    session::{
        coordinator_client::{
            Acquired, CallError, CoordinatorClient, Identity, Registration, Reported,
        },
        outbox::Outbox,
    },
    slots::Held,
};

/// A coordinator that was restarted waits for its workers for a limited time only.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(250),
    cap: Duration::from_secs(5),
};
/// After this time without an answer the worker assumes that the coordinator does not come back.
const LONGEST_OUTAGE: Duration = Duration::from_hours(24);
/// How long a stopping worker waits for the release of its leases.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The coordinator's answer to a call.
#[derive(Debug)]
pub(crate) enum Answer {
    Registered(Box<Registration>),
    /// The answer of this session, which may have ended by now.
    Acquired(SessionId, Acquired),
    /// As `Acquired`.
    Reported(SessionId, Reported),
    /// There was no answer; the call is repeated.
    Lost,
}

/// The coordinator refused, and repeating the call cannot change that.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Register,
    Acquire,
    Report,
}

/// The calls of one worker.
#[derive(Debug)]
pub(crate) struct Calls {
    client: CoordinatorClient,
    tasks: JoinSet<(Kind, Result<Answer, CallError>)>,
    in_flight: Vec<Kind>,
    /// Consecutive useless calls of a kind.
    lost: BTreeMap<Kind, u32>,
    last_answer: Instant,
    /// Whether any call was ever answered.
    was_answered: bool,
}

impl Calls {
    pub(crate) fn new(client: CoordinatorClient) -> Self {
        Self {
            client,
            tasks: JoinSet::new(),
            in_flight: Vec::new(),
            lost: BTreeMap::new(),
            last_answer: Instant::now(),
            was_answered: false,
        }
    }

    /// The client that the calls use, for other calls on the same connection.
    pub(crate) fn client(&self) -> CoordinatorClient {
        self.client.clone()
    }

    /// Whether results cannot be delivered now.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.lost.contains_key(&Kind::Register) || self.lost.contains_key(&Kind::Report)
    }

    /// Records a useful answer: the next call of the kind is not delayed.
    pub(crate) fn accept(&mut self, kind: Kind) {
        self.lost.remove(&kind);
    }

    /// Records a useless answer: the next call of the kind is delayed.
    pub(crate) fn disregard(&mut self, kind: Kind) {
        let lost = self.lost.entry(kind).or_default();
        *lost = lost.saturating_add(1);
    }

    /// Opens the session after a delay. `draining`: the worker is drained.
    pub(crate) fn register(
        &mut self,
        identity: &Identity,
        storage_id: String,
        held: Vec<Held>,
        draining: bool,
        pause: Duration,
    ) {
        let identity = identity.clone();
        self.begin(Kind::Register, pause, async move |mut client| {
            client
                .register(&identity, storage_id, &held, draining)
                .await
                .map(|answer| Answer::Registered(Box::new(answer)))
        });
    }

    /// Requests leases after a delay.
    pub(crate) fn acquire(
        &mut self,
        session: SessionId,
        max: usize,
        held: Vec<Held>,
        pause: Duration,
    ) {
        self.begin(Kind::Acquire, pause, async move |mut client| {
            client
                .acquire(session, max, &held)
                .await
                .map(|answer| Answer::Acquired(session, answer))
        });
    }

    /// Reports the oldest results. `requests`: the number of requests to the origin in this
    /// session.
    pub(crate) fn report(
        &mut self,
        identity: &Identity,
        session: SessionId,
        outbox: &mut Outbox,
        requests: u64,
    ) {
        if self.in_flight.contains(&Kind::Report) {
            return;
        }
        let identity = identity.clone();
        let results = outbox.batch().to_vec();
        self.begin(Kind::Report, Duration::ZERO, async move |mut client| {
            client
                .report(&identity, session, &results, requests)
                .await
                .map(|answer| Answer::Reported(session, answer))
        });
    }

    /// Starts a call, unless one of the kind is in flight.
    fn begin<Call>(
        &mut self,
        kind: Kind,
        pause: Duration,
        call: impl FnOnce(CoordinatorClient) -> Call,
    ) where
        Call: Future<Output = Result<Answer, CallError>> + Send + 'static,
    {
        if self.in_flight.contains(&kind) {
            return;
        }
        self.in_flight.push(kind);
        let pause = self.lost.get(&kind).map_or(pause, |lost| {
            pause.max(RECONNECT.delay(lost - 1, rand::random()))
        });
        let call = call(self.client.clone());
        self.tasks.spawn(async move {
            // A sleep of zero would still last until the next tick of the timer, one millisecond.
            if !pause.is_zero() {
                sleep(pause).await;
            }
            (kind, call.await)
        });
    }

    /// The next answer; `None` when nothing is in flight. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Answer, Refused>> {
        let (kind, answer) = self.tasks.join_next().await?.expect("calls do not panic");
        self.in_flight.retain(|in_flight| *in_flight != kind);
        Some(match answer {
            Ok(answer) => {
                self.was_answered = true;
                self.last_answer = Instant::now();
                Ok(answer)
            }
            Err(CallError::Refused(why)) => {
                self.disregard(kind);
                Err(Refused(why))
            }
            // A worker that was authenticated before waits until its token or certificate is
            // replaced.
            Err(CallError::Denied(why)) if !self.was_answered => Err(Refused(why)),
            Err(CallError::Denied(why) | CallError::Unreachable(why))
                if self.last_answer.elapsed() > LONGEST_OUTAGE =>
            {
                Err(Refused(format!(
                    "no answer for {} hours ({why}); start the worker again when the coordinator is back",
                    LONGEST_OUTAGE.as_secs() / 3600
                )))
            }
            Err(CallError::Denied(why) | CallError::Unreachable(why)) => {
                if self.lost.is_empty() {
                    let end = SystemTime::now()
                        + LONGEST_OUTAGE.saturating_sub(self.last_answer.elapsed());
                    let end = humantime::format_rfc3339_seconds(end);
                    tracing::warn!(
                        "no answer from {}, trying again until {end}: {why}",
                        self.client.end()
                    );
                }
                self.disregard(kind);
                Ok(Answer::Lost)
            }
        })
    }

    /// Ends the session and releases unfinished classes; waits for a short time only.
    pub(crate) async fn leave(&mut self, session: SessionId, reason: &str) {
        self.tasks.shutdown().await;
        if !matches!(
            timeout(LEAVE_TIMEOUT, self.client.leave(session, reason)).await,
            Ok(Ok(()))
        ) {
            tracing::info!(
                "could not say goodbye to the coordinator; the leases run out by themselves"
            );
        }
    }
}
