//! How the worker processes the coordinator's answers.
//!
//! Invariant: an answer to a former session neither ends the current session nor stops classes that
//! are held in it. Leases are given up by their tokens.

use std::{sync::Arc, time::Duration};

use shared::{
    Wnid,
    ids::{LeaseToken, SessionId},
};
use tokio::time::Instant;

use super::{ACQUIRE_DELAY, RETRY_DELAY, SessionEnd, Worker};
use crate::{
    session::{
        calls::Kind,
        coordinator_client::{Answer, Directive, JobNews, Registration},
        error::WorkerError,
        heartbeat::{self, RenewalResult},
        inventory::Inventory,
    },
    slots::Lease,
};

impl Worker {
    pub(super) fn answered(&mut self, answer: Result<Answer, String>) {
        match answer {
            Ok(Answer::Registered(registration)) => self.registered(&registration),
            Ok(Answer::Acquired(session, leases, news)) => self.acquired(session, leases, news),
            Ok(Answer::Reported(session, acked, news)) => self.reported(session, &acked, news),
            Ok(Answer::Unanswered) => {}
            Err(why) => self.stop_on_fault(WorkerError::Refused(why)),
        }
    }

    pub(super) fn registered(&mut self, registration: &Registration) {
        self.registered_at = Some(Instant::now());
        // This includes the same run with other options, for example after a restart of the
        // coordinator with a login for the origin.
        if registration.job != self.context.job {
            // The outbox has results of the former run: a worker that leases these classes again
            // finds them published.
            self.outbox.clear();
            self.other_run = Some(registration.session.id);
            // A worker that is drained works for no other run either.
            return self.end(match self.ending {
                Some(SessionEnd::Drained) => SessionEnd::Drained,
                _ => SessionEnd::AnotherRun,
            });
        }
        let clock = &self.context.clock;
        if !clock.answered(
            registration.epoch,
            registration.sent,
            registration.session.ttl,
        ) {
            tracing::warn!(
                epoch = registration.epoch,
                "a coordinator of the past answered, looking for its successor"
            );
            return self.calls.record_failure(Kind::Register);
        }
        self.calls.record_success(Kind::Register);
        self.is_fenced = false;
        self.missed_heartbeats = 0;
        let session = registration.session;
        tracing::info!(session = session.id.0, "registered with the coordinator");
        self.session = Some(session);
        self.requests_before = self.progress.counters.requests_with_redirects();
        self.give_up(&registration.drop);
        if registration.job_done {
            self.apply_directive(Directive::JobDone);
        }
        if registration.needs_inventory && self.inventory.is_none() && self.ending.is_none() {
            match Inventory::start(Arc::clone(&self.context)) {
                Ok(inventory) => {
                    tracing::info!("reporting the classes that the target already has");
                    self.inventory = Some(inventory);
                }
                Err(error) => {
                    tracing::warn!(
                        "classes that are there are found one by one: failed to {error}"
                    );
                }
            }
        }
    }

    fn acquired(&mut self, session: SessionId, leases: Vec<Lease>, news: JobNews) {
        self.calls.record_success(Kind::Acquire);
        if !self.is_current(session) {
            // The granted leases were released with that session, or are released because the next
            // heartbeat does not name them.
            return;
        }
        let free = self.slots.free();
        // Leases that arrive too late or exceed the free slots are released: the next heartbeat
        // does not name them.
        if self.ending.is_none() && !self.context.clock.has_run_out() {
            for lease in leases {
                self.slots.start(lease).ok();
            }
        }
        // Leases of classes that are already in slots start nothing, so they do not count.
        self.pause = if self.slots.free() < free {
            Duration::ZERO
        } else {
            ACQUIRE_DELAY
        };
        self.apply(news);
    }

    fn reported(&mut self, session: SessionId, acked: &[Wnid], news: JobNews) {
        if self.outbox.acknowledge(acked) {
            self.calls.record_success(Kind::Report);
        } else {
            self.calls.record_failure(Kind::Report);
        }
        if self.is_current(session) {
            self.apply(news);
        }
    }

    pub(super) fn heartbeat_answered(&mut self, RenewalResult { session, renewed }: RenewalResult) {
        if !self.is_current(session) {
            return;
        }
        match renewed {
            Err(why) => {
                self.missed_heartbeats = self.missed_heartbeats.saturating_add(1);
                if self.missed_heartbeats >= heartbeat::TRIES {
                    // A coordinator that was restarted waits for its workers, so the worker tries
                    // to register before the next heartbeat is due.
                    self.session = None;
                }
                match self.missed_heartbeats {
                    1 => tracing::warn!("leases could not be renewed, trying again: {why}"),
                    missed => tracing::info!(missed, "leases could not be renewed: {why}"),
                }
            }
            Ok(renewed) => {
                let missed = std::mem::take(&mut self.missed_heartbeats);
                if missed > 0 {
                    tracing::info!(missed, "leases are renewed again");
                }
                self.give_up(&renewed.drop);
                self.apply_directive(renewed.directive);
            }
        }
    }

    /// Whether an answer is about the current session. An answer to a former session must not
    /// affect this one.
    fn is_current(&self, session: SessionId) -> bool {
        self.session.is_some_and(|current| current.id == session)
    }

    fn apply(&mut self, news: JobNews) {
        self.status = news.status;
        self.log_stop_reason(news.stop_reason);
        self.apply_directive(news.directive);
    }

    /// Logs why the coordinator ends although the job is not done, once for each reason. A
    /// coordinator in the same process logs it itself.
    fn log_stop_reason(&mut self, reason: String) {
        if reason.is_empty() || reason == self.stop_reason || self.counts.is_some() {
            return;
        }
        tracing::warn!(
            "the coordinator has ended: {reason}. This worker waits for the next coordinator"
        );
        self.stop_reason = reason;
    }

    fn apply_directive(&mut self, directive: Directive) {
        match directive {
            // The coordinator ends with the job, so the first answer that contains this may be the
            // last answer.
            Directive::JobDone if self.ending.is_none() => self.end(SessionEnd::JobDone),
            Directive::Drain if self.ending.is_none() => {
                tracing::info!("asked to end: finishing what is held, and nothing new");
                self.inventory = None;
                self.ending = Some(SessionEnd::Drained);
            }
            Directive::Continue | Directive::Drain | Directive::JobDone => {}
            Directive::Reregister => self.session = None,
            Directive::Stop => self.pause = RETRY_DELAY,
        }
    }

    fn give_up(&mut self, leases: &[LeaseToken]) {
        for token in leases {
            if let Some(wnid) = self.slots.stop(*token) {
                tracing::info!(%wnid, "the lease was lost, stopping at a checkpoint");
            }
        }
    }
}
