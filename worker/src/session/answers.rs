//! What a worker does with what its coordinator answers.
//!
//! Invariant: an answer about a former session neither ends the session of now nor stops what is held under it. Leases are
//! given up by their tokens.

use std::{collections::HashSet, sync::Arc, time::Duration};

use shared::ids::{LeaseToken, SessionId};
use tokio::time::Instant;

use super::{BREATH, Ended, PAUSE, Worker};
use crate::session::{
    calls::{Answer, Kind, Refused},
    coordinator_client::{Acquired, Directive, Registration, Reported},
    error::WorkerError,
    heartbeat::{self, RenewalResult, Session},
    inventory::Inventory,
};

impl Worker {
    pub(super) fn answered(&mut self, answer: Result<Answer, Refused>) {
        match answer {
            Ok(Answer::Registered(registration)) => self.registered(&registration),
            Ok(Answer::Acquired(session, acquired)) => self.acquired(session, acquired),
            Ok(Answer::Reported(session, reported)) => self.reported(session, &reported),
            Ok(Answer::Lost) => {}
            Err(Refused(why)) => self.cannot_go_on(WorkerError::Refused(why)),
        }
    }

    pub(super) fn registered(&mut self, registration: &Registration) {
        self.registered_at = Some(Instant::now());
        // Also the same run with other options, e.g. a coordinator that was started again with a login for the origin.
        if registration.job != self.context.job {
            // Results of the former run: a worker that leases these classes again finds them published.
            self.outbox.clear();
            self.other_run = Some(registration.session);
            // A worker that was told to end works for no other run either.
            let is_draining = self.ending == Some(Ended::Dismissed);
            return self.end(if is_draining { Ended::Dismissed } else { Ended::AnotherRun });
        }
        if !self.context.clock().answered(registration.epoch, registration.sent, registration.ttl) {
            tracing::warn!(epoch = registration.epoch, "a coordinator of the past answered, looking for its successor");
            return self.calls.disregard(Kind::Register);
        }
        self.calls.accept(Kind::Register);
        self.is_fenced = false;
        self.missed = 0;
        let Registration { session: id, ttl, renew, .. } = *registration;
        tracing::info!(session = id.0, "registered with the coordinator");
        self.session = Some(Session { id, ttl, renew });
        self.requests_before = self.progress.counters().requests_with_redirects();
        self.give_up(&registration.drop);
        self.hear_whether_it_is_done(registration.job_done);
        if registration.survey && self.survey.is_none() && self.ending.is_none() {
            match Inventory::start(Arc::clone(&self.context)) {
                Ok(survey) => {
                    tracing::info!("reporting the classes that the target already has");
                    self.survey = Some(survey);
                }
                Err(error) => tracing::warn!("classes that are there are found one by one: failed to {error}"),
            }
        }
    }

    fn acquired(&mut self, session: SessionId, acquired: Acquired) {
        self.calls.accept(Kind::Acquire);
        if !self.is_current(session) {
            // What it grants went back with that session, or goes back because the next list does not name it.
            return;
        }
        self.status = acquired.status;
        let free = self.slots.free();
        // What comes too late or is too much goes back: the next list of what is held does not name it.
        let too_late = self.ending.is_some() || self.session.is_none() || self.context.clock().has_run_out();
        if !too_late {
            for lease in acquired.leases {
                self.slots.start(lease).ok();
            }
        }
        // Leases whose classes are here already begin nothing, so they count as none.
        self.pause = if self.slots.free() < free { Duration::ZERO } else { BREATH };
        self.hear_whether_it_is_done(acquired.job_done && acquired.directive != Directive::Reregister);
        self.tell_stop_reason(acquired.stop_reason);
        self.obey(acquired.directive);
    }

    fn reported(&mut self, session: SessionId, reported: &Reported) {
        if self.outbox.acknowledge(&reported.acked) {
            self.calls.accept(Kind::Report);
        } else {
            self.calls.disregard(Kind::Report);
        }
        if self.is_current(session) {
            self.status = reported.status;
            self.hear_whether_it_is_done(reported.job_done && reported.directive != Directive::Reregister);
            self.tell_stop_reason(reported.stop_reason.clone());
            self.obey(reported.directive);
        }
    }

    pub(super) fn beat(&mut self, RenewalResult { session, renewed }: RenewalResult) {
        if !self.is_current(session) {
            return;
        }
        match renewed {
            Err(why) => {
                self.missed = self.missed.saturating_add(1);
                if self.missed >= heartbeat::TRIES {
                    // A coordinator that was started again waits for its workers, so a registration is tried sooner than
                    // the next renewal.
                    self.session = None;
                }
                if self.missed == 1 {
                    tracing::warn!("leases could not be renewed, trying again: {why}");
                } else {
                    tracing::info!(missed = self.missed, "leases could not be renewed: {why}");
                }
            }
            Ok(renewed) => {
                let missed = std::mem::take(&mut self.missed);
                if missed > 0 {
                    tracing::info!(missed, "leases are renewed again");
                }
                self.give_up(&renewed.drop);
                self.hear_whether_it_is_done(renewed.job_done && renewed.directive != Directive::Reregister);
                self.obey(renewed.directive);
            }
        }
    }

    /// Whether an answer is about the session of now. One about a former session says nothing of this one.
    fn is_current(&self, session: SessionId) -> bool {
        self.session.is_some_and(|current| current.id == session)
    }

    /// The coordinator ends with the job, so whichever answer says it first is the last that may come.
    fn hear_whether_it_is_done(&mut self, job_done: bool) {
        if job_done && self.ending.is_none() {
            self.end(Ended::JobDone);
        }
    }

    /// Says why the coordinator ends although the job is not done, once for each reason. A
    /// coordinator in the same process says it itself.
    fn tell_stop_reason(&mut self, reason: String) {
        if reason.is_empty() || reason == self.stop_reason || self.counts.is_some() {
            return;
        }
        tracing::warn!("the coordinator has ended: {reason}. This worker waits for the next coordinator");
        self.stop_reason = reason;
    }

    fn obey(&mut self, directive: Directive) {
        match directive {
            Directive::Drain if self.ending.is_none() => {
                tracing::info!("asked to end: finishing what is held, and nothing new");
                self.survey = None;
                self.ending = Some(Ended::Dismissed);
            }
            Directive::Continue | Directive::Drain => {}
            Directive::Reregister => self.session = None,
            Directive::Stop => self.pause = PAUSE,
        }
    }

    fn give_up(&mut self, leases: &[LeaseToken]) {
        if leases.is_empty() {
            return;
        }
        // The list may be long; what is held is bounded by the slots.
        let lost: HashSet<LeaseToken> = leases.iter().copied().collect();
        for held in self.slots.held() {
            if lost.contains(&held.lease.token)
                && let Some(wnid) = self.slots.stop(held.lease.token)
            {
                tracing::info!(%wnid, "the lease was lost, stopping at a checkpoint");
            }
        }
    }
}
