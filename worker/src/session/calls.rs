//! The `Register`, `Acquire` and `Report` calls in flight to the coordinator: at most one of each
//! kind. After failed calls of a kind the next one is delayed by a growing backoff. Heartbeats and
//! streams have tasks of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use shared::{backoff::Backoff, ids::SessionId};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::session::coordinator_client::{Answer, CallError, CoordinatorClient};

/// Delay of a call after failures. The cap is short, because a coordinator that was restarted waits
/// for its workers for a limited time only.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(250),
    cap: Duration::from_secs(5),
};
/// After this time without an answer the worker assumes that the coordinator does not come back.
const LONGEST_OUTAGE: Duration = Duration::from_hours(24);
/// How long a stopping worker waits for the release of its leases.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// Number of consecutive calls of a kind that failed: without an answer, or with one that the
    /// worker cannot use.
    failures: BTreeMap<Kind, u32>,
    /// The kinds whose last call was not answered. An outage lasts while there are any.
    unanswered: BTreeSet<Kind>,
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
            failures: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            last_answer: Instant::now(),
            was_answered: false,
        }
    }

    /// The client that the calls use, for other calls on the same connection.
    pub(crate) fn client(&self) -> CoordinatorClient {
        self.client.clone()
    }

    /// Whether results cannot be reported now: the last call to register or to report has failed.
    pub(crate) fn cannot_report(&self) -> bool {
        self.failures.contains_key(&Kind::Register) || self.failures.contains_key(&Kind::Report)
    }

    /// Records an answer that the worker can use: the next call of the kind is not delayed.
    pub(crate) fn record_success(&mut self, kind: Kind) {
        self.failures.remove(&kind);
    }

    /// Records a call that has failed: the next one of the kind is delayed.
    pub(crate) fn record_failure(&mut self, kind: Kind) {
        let failures = self.failures.entry(kind).or_default();
        *failures = failures.saturating_add(1);
    }

    /// Starts a call after a delay, unless one of the kind is in flight.
    pub(crate) fn begin<Call>(
        &mut self,
        kind: Kind,
        delay: Duration,
        call: impl FnOnce(CoordinatorClient) -> Call,
    ) where
        Call: Future<Output = Result<Answer, CallError>> + Send + 'static,
    {
        if self.in_flight.contains(&kind) {
            return;
        }
        self.in_flight.push(kind);
        let delay = self.failures.get(&kind).map_or(delay, |failures| {
            delay.max(RECONNECT.delay(failures - 1, rand::random()))
        });
        let call = call(self.client.clone());
        self.tasks.spawn(async move {
            // A sleep of zero would still last until the next tick of the timer, one millisecond.
            if !delay.is_zero() {
                sleep(delay).await;
            }
            (kind, call.await)
        });
    }

    /// The next answer; `None` when nothing is in flight. Cancel safe.
    ///
    /// # Errors
    /// Why the coordinator refused, if repeating the call cannot change that.
    pub(crate) async fn next(&mut self) -> Option<Result<Answer, String>> {
        let (kind, answer) = self.tasks.join_next().await?.expect("calls do not panic");
        self.in_flight.retain(|in_flight| *in_flight != kind);
        let why = match answer {
            Ok(answer) => {
                self.unanswered.remove(&kind);
                self.was_answered = true;
                self.last_answer = Instant::now();
                return Some(Ok(answer));
            }
            Err(CallError::Refused(why)) => {
                self.record_failure(kind);
                return Some(Err(why));
            }
            // A worker that was authenticated before waits until its token or certificate is
            // replaced.
            Err(CallError::Denied(why)) if !self.was_answered => return Some(Err(why)),
            Err(CallError::Denied(why) | CallError::Unreachable(why)) => why,
        };
        let left = LONGEST_OUTAGE.saturating_sub(self.last_answer.elapsed());
        if left.is_zero() {
            return Some(Err(format!(
                "no answer for {} hours ({why}); start the worker again when the coordinator is back",
                LONGEST_OUTAGE.as_secs() / 3600
            )));
        }
        if self.begins_outage(kind) {
            let end = humantime::format_rfc3339_seconds(SystemTime::now() + left);
            tracing::warn!(
                "no answer from {}, trying again until {end}: {why}",
                self.client.end()
            );
        }
        self.record_failure(kind);
        Some(Ok(Answer::Unanswered))
    }

    /// Notes that a call was not answered. Returns whether an outage begins, which is logged once.
    fn begins_outage(&mut self, kind: Kind) -> bool {
        let is_first = self.unanswered.is_empty();
        self.unanswered.insert(kind);
        is_first
    }

    /// Ends the session and releases unfinished classes; waits for a short time only.
    pub(crate) async fn leave(&mut self, session: SessionId, reason: &str) {
        self.tasks.shutdown().await;
        let left = timeout(LEAVE_TIMEOUT, self.client.leave(session, reason)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::info!(
                "could not say goodbye to the coordinator; the leases run out by themselves"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::connect::Connector;
    use tokio::sync::mpsc;

    use super::*;
    use crate::lease_clock::LeaseClock;

    #[tokio::test]
    async fn an_outage_that_begins_after_an_unusable_answer_is_logged_once() {
        let connector = Connector::InProcess(mpsc::channel(1).0);
        let clock = Arc::new(LeaseClock::of_this_host());
        let mut calls = Calls::new(CoordinatorClient::new(&connector, clock));
        calls.record_failure(Kind::Report);
        assert!(calls.begins_outage(Kind::Report));
        calls.record_failure(Kind::Report);
        assert!(!calls.begins_outage(Kind::Report) && !calls.begins_outage(Kind::Acquire));
    }
}
