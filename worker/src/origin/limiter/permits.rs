//! `Permits`: admission of requests in order of priority, up to the budget of connections; and
//! which changes the coordinator needs to receive at once. No I/O, no clock.
//!
//! Invariant: no request is admitted while the number of open connections is at or above the
//! budget.

use std::collections::VecDeque;

/// The order in which waiting requests are admitted; first in, first out within one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Continues a transfer. First, because the bytes received so far have no use without the rest.
    GoingOn,
    /// Any other request that a class needs.
    New,
    /// A part of a tar that is already being streamed. Last, because its bytes arrive without this
    /// request too.
    Part,
}

/// Identifies a request that waits or was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// The queues of waiting requests and the counts of open connections. `Call` notifies a waiting
/// request of its admission.
#[derive(Debug)]
pub(super) struct Permits<Call> {
    /// The budget.
    pub(super) limit: u32,
    /// Connections that are in use by a request.
    pub(super) open: u32,
    /// Connections that receive a body.
    pub(super) flowing: u32,
    waiting: [VecDeque<(Ticket, Call)>; 3],
    last: Ticket,
    /// The demand (`wanted`) in the last report.
    reported_wanted: u32,
    /// The budget was lowered, and the coordinator has no report yet that it is respected.
    must_report_lowering: bool,
    /// Since the last report a request failed or was refused, or enough bytes for a throughput
    /// estimate were received.
    is_report_requested: bool,
}

impl<Call> Default for Permits<Call> {
    fn default() -> Self {
        Self {
            limit: 0,
            open: 0,
            flowing: 0,
            waiting: [const { VecDeque::new() }; 3],
            last: Ticket(0),
            reported_wanted: 0,
            must_report_lowering: false,
            is_report_requested: false,
        }
    }
}

impl<Call> Permits<Call> {
    /// Number of waiting requests.
    pub(super) fn waiting(&self) -> u32 {
        let waiting = self.waiting.iter().map(VecDeque::len).sum::<usize>();
        u32::try_from(waiting).unwrap_or(u32::MAX)
    }

    /// The demand: connections that this process could use now, the open ones included.
    pub(super) fn wanted(&self) -> u32 {
        self.open.saturating_add(self.waiting())
    }

    /// Sets the budget. Connections above a lower budget stay open until their requests end.
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.must_report_lowering = limit < self.limit
            || limit < self.open
            || (self.must_report_lowering && limit == self.limit);
        self.limit = limit;
    }

    /// Puts a request at the end of its queue.
    pub(super) fn ask(&mut self, priority: Priority, call: Call) -> Ticket {
        self.last.0 += 1;
        self.waiting[priority as usize].push_back((self.last, call));
        self.last
    }

    /// Admits the next request if the budget allows one more; its connection counts as open from
    /// now on.
    pub(super) fn admit(&mut self) -> Option<Call> {
        if self.open >= self.limit {
            return None;
        }
        let (_, call) = self.waiting.iter_mut().find_map(VecDeque::pop_front)?;
        self.open += 1;
        Some(call)
    }

    /// Removes a request: it no longer waits, or its connection is no longer in use. `was_flowing`:
    /// the connection received a body.
    pub(super) fn remove(&mut self, ticket: Ticket, was_flowing: bool) {
        let before = self.waiting();
        for queue in &mut self.waiting {
            queue.retain(|(waiting, _)| *waiting != ticket);
        }
        if self.waiting() == before {
            self.release(was_flowing);
        }
    }

    /// Records that an open connection receives a body.
    pub(super) fn flows(&mut self) {
        self.flowing += 1;
    }

    fn release(&mut self, was_flowing: bool) {
        self.open -= 1;
        self.flowing -= u32::from(was_flowing);
    }

    /// Records that a request failed or was refused, or that enough bytes for a throughput estimate
    /// were received.
    pub(super) fn request_report(&mut self) {
        self.is_report_requested = true;
    }

    /// Whether there is a change that the coordinator needs to receive at once.
    pub(super) fn needs_report(&self) -> bool {
        let wanted = self.wanted();
        let wants_more =
            wanted > self.reported_wanted && (self.reported_wanted == 0 || wanted > self.limit);
        self.is_report_requested
            || wants_more
            || (self.must_report_lowering && self.open <= self.limit)
    }

    /// Records that the current state was reported to the coordinator.
    pub(super) fn mark_reported(&mut self) {
        self.reported_wanted = self.wanted();
        self.is_report_requested = false;
        self.must_report_lowering &= self.open > self.limit;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Permits for at most `limit` connections at once.
    fn limited_to<Call>(limit: u32) -> Permits<Call> {
        Permits {
            limit,
            ..Permits::default()
        }
    }

    /// Admits as many requests as possible; returns their names.
    fn admitted(permits: &mut Permits<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| permits.admit()).collect()
    }

    #[test]
    fn requests_are_admitted_in_order_and_continued_transfers_before_new_ones() {
        let mut permits = limited_to(1);
        for (priority, name) in [
            (Priority::New, "new 1"),
            (Priority::GoingOn, "going on 1"),
            (Priority::New, "new 2"),
            (Priority::GoingOn, "going on 2"),
        ] {
            permits.ask(priority, name);
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.extend(admitted(&mut permits));
            permits.release(false);
        }
        assert_eq!(order, ["going on 1", "going on 2", "new 1", "new 2"]);
    }

    #[test]
    fn a_lower_budget_closes_no_connection_and_admits_no_request() {
        let mut permits = limited_to(3);
        for name in ["a", "b", "c", "d"] {
            permits.ask(Priority::New, name);
        }
        assert_eq!(admitted(&mut permits), ["a", "b", "c"]);
        permits.mark_reported();
        permits.set_limit(1);
        assert_eq!(
            (permits.open, permits.wanted(), permits.needs_report()),
            (3, 4, false)
        );
        permits.release(false);
        assert!(admitted(&mut permits).is_empty() && !permits.needs_report());
        permits.release(false);
        assert!(admitted(&mut permits).is_empty());
        assert!(
            permits.needs_report(),
            "the coordinator can allocate the two connections to another worker"
        );
        permits.mark_reported();
        assert!(!permits.needs_report());
        permits.release(false);
        assert_eq!(admitted(&mut permits), ["d"]);
    }

    #[test]
    fn a_lower_budget_that_is_already_respected_is_reported_at_once() {
        let mut permits = limited_to::<()>(3);
        permits.set_limit(2);
        assert!(permits.needs_report());
        permits.mark_reported();
        permits.set_limit(3);
        assert!(!permits.needs_report(), "a higher budget needs no report");
    }

    #[test]
    fn a_higher_demand_is_reported_at_once_if_a_larger_budget_could_help() {
        let mut permits = limited_to(2);
        permits.ask(Priority::New, "a");
        assert!(permits.needs_report(), "the first demand");
        permits.mark_reported();
        admitted(&mut permits);
        permits.ask(Priority::New, "b");
        assert!(!permits.needs_report(), "the budget suffices");
        permits.ask(Priority::New, "c");
        assert!(permits.needs_report());
        permits.mark_reported();
        permits.request_report();
        assert!(permits.needs_report());
        permits.mark_reported();
        assert!(!permits.needs_report());
    }

    #[test]
    fn a_withdrawn_request_leaves_the_queue_or_frees_its_connection() {
        let mut permits = limited_to(1);
        let [a, b, _] = ["a", "b", "c"].map(|name| permits.ask(Priority::New, name));
        assert_eq!(admitted(&mut permits), ["a"]);
        permits.remove(b, false);
        assert_eq!(permits.wanted(), 2);
        permits.remove(a, false);
        assert_eq!(admitted(&mut permits), ["c"]);
        assert_eq!((permits.open, permits.waiting()), (1, 0));
    }

    proptest! {
        /// After any sequence of operations, no request is admitted above the budget and none waits
        /// below it.
        #[test]
        fn the_budget_is_never_exceeded(steps in prop::collection::vec((0_u8..5, 0_u32..6), 1..200)) {
            let mut permits = limited_to(0);
            for (step, number) in steps {
                match step {
                    0 | 1 => drop(permits.ask([Priority::GoingOn, Priority::New][number as usize % 2], ())),
                    2 => permits.set_limit(number),
                    3 if permits.open > 0 => permits.release(false),
                    4 if permits.waiting() > 0 => {
                        let ticket = permits.waiting.iter().flatten().next().map(|(ticket, ())| *ticket);
                        permits.remove(ticket.unwrap(), false);
                    }
                    _ => permits.mark_reported(),
                }
                let before = permits.open;
                while permits.admit().is_some() {}
                prop_assert!(permits.open == before || permits.open <= permits.limit);
                prop_assert!(permits.waiting() == 0 || permits.open >= permits.limit);
            }
        }
    }
}
