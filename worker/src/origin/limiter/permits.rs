//! `Permits`: who may have a connection, in what order, and what of it the coordinator should hear at once. Pure.
//!
//! Invariant: nobody is admitted while as many connections are open as the budget allows, or more.

use std::collections::VecDeque;

/// Who comes first when a connection is free; among equals, whoever came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// A transfer that goes on: what it has is of no use before the rest.
    GoingOn,
    /// Anything else that a class needs.
    New,
    /// A part of a tar that has a connection already: it comes in any case.
    Part,
}

/// Names a request that waits or is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// See the module. `Call` is how somebody who waits is called.
#[derive(Debug)]
pub(super) struct Permits<Call> {
    limit: u32,
    open: u32,
    flowing: u32,
    waiting: [VecDeque<(Ticket, Call)>; 3],
    last: Ticket,
    /// What was told last.
    told_wanted: u32,
    /// The budget was lowered, and nobody was told yet that it is kept to.
    owes_word: bool,
    /// Something broke or was refused since it was told last.
    in_trouble: bool,
    /// Much has come since then.
    has_plenty: bool,
}

impl<Call> Permits<Call> {
    /// So many connections at once.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            open: 0,
            flowing: 0,
            waiting: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            last: Ticket(0),
            told_wanted: 0,
            owes_word: false,
            in_trouble: false,
            has_plenty: false,
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Connections with a request on them.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Connections over which a body comes.
    pub(super) fn flowing(&self) -> u32 {
        self.flowing
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.iter().map(|queue| u32::try_from(queue.len()).unwrap_or(u32::MAX)).sum()
    }

    /// Connections that this process could use now, the open ones included. Whatever else could be begun belongs here.
    pub(super) fn wanted(&self) -> u32 {
        self.open.saturating_add(self.waiting())
    }

    /// Another budget. What is open beyond it stays open.
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.owes_word = limit < self.limit || limit < self.open || (self.owes_word && limit == self.limit);
        self.limit = limit;
    }

    /// A request comes to the end of its queue.
    pub(super) fn ask(&mut self, priority: Priority, call: Call) -> Ticket {
        self.last.0 += 1;
        self.waiting[priority as usize].push_back((self.last, call));
        self.last
    }

    /// Who is admitted now that somebody may be: it has a connection from now on.
    pub(super) fn admit(&mut self) -> Option<Call> {
        if self.open >= self.limit {
            return None;
        }
        let (_, call) = self.waiting.iter_mut().find_map(VecDeque::pop_front)?;
        self.open += 1;
        Some(call)
    }

    /// A request does not wait any more, or is not made although it was admitted.
    pub(super) fn withdraw(&mut self, ticket: Ticket) {
        let before = self.waiting();
        for queue in &mut self.waiting {
            queue.retain(|(waiting, _)| *waiting != ticket);
        }
        if self.waiting() == before {
            self.release(false);
        }
    }

    /// A body comes.
    pub(super) fn flows(&mut self) {
        self.flowing += 1;
    }

    /// A connection has no request on it any more.
    pub(super) fn release(&mut self, was_flowing: bool) {
        self.open -= 1;
        self.flowing -= u32::from(was_flowing);
    }

    /// A request broke or was refused.
    pub(super) fn trouble(&mut self) {
        self.in_trouble = true;
    }

    /// Enough has come to say how fast the origin is.
    pub(super) fn plenty(&mut self) {
        self.has_plenty = true;
    }

    /// Whether somebody waits for the word.
    pub(super) fn has_news(&self) -> bool {
        let wanted = self.wanted();
        let wants_more = wanted > self.told_wanted && (self.told_wanted == 0 || wanted > self.limit);
        self.in_trouble || self.has_plenty || wants_more || (self.owes_word && self.open <= self.limit)
    }

    /// The coordinator is told how it stands.
    pub(super) fn told(&mut self) {
        self.told_wanted = self.wanted();
        (self.in_trouble, self.has_plenty) = (false, false);
        self.owes_word &= self.open > self.limit;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Admits whoever may be, by name.
    fn admitted(permits: &mut Permits<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| permits.admit()).collect()
    }

    #[test]
    fn whoever_came_first_is_first_and_what_goes_on_is_before_what_is_new() {
        let mut permits = Permits::new(1);
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
    fn a_lower_budget_takes_nothing_away_and_lets_nobody_follow() {
        let mut permits = Permits::new(3);
        for name in ["a", "b", "c", "d"] {
            permits.ask(Priority::New, name);
        }
        assert_eq!(admitted(&mut permits), ["a", "b", "c"]);
        permits.told();
        permits.set_limit(1);
        assert_eq!((permits.open(), permits.wanted(), permits.has_news()), (3, 4, false));
        permits.release(false);
        assert!(admitted(&mut permits).is_empty() && !permits.has_news());
        permits.release(false);
        assert!(admitted(&mut permits).is_empty());
        assert!(permits.has_news(), "another worker may have the two");
        permits.told();
        assert!(!permits.has_news());
        permits.release(false);
        assert_eq!(admitted(&mut permits), ["d"]);
    }

    #[test]
    fn a_lower_budget_that_is_kept_to_already_is_told_at_once() {
        let mut permits = Permits::<()>::new(3);
        permits.set_limit(2);
        assert!(permits.has_news());
        permits.told();
        permits.set_limit(3);
        assert!(!permits.has_news(), "of a higher one there is no hurry");
    }

    #[test]
    fn more_is_asked_for_at_once_where_a_larger_budget_could_help() {
        let mut permits = Permits::new(2);
        permits.ask(Priority::New, "a");
        assert!(permits.has_news(), "from nothing");
        permits.told();
        admitted(&mut permits);
        permits.ask(Priority::New, "b");
        assert!(!permits.has_news(), "the budget suffices");
        permits.ask(Priority::New, "c");
        assert!(permits.has_news());
        permits.told();
        permits.trouble();
        assert!(permits.has_news());
        permits.told();
        assert!(!permits.has_news());
    }

    #[test]
    fn who_goes_away_leaves_its_place_or_its_connection() {
        let mut permits = Permits::new(1);
        let [a, b, _] = ["a", "b", "c"].map(|name| permits.ask(Priority::New, name));
        assert_eq!(admitted(&mut permits), ["a"]);
        permits.withdraw(b);
        assert_eq!(permits.wanted(), 2);
        permits.withdraw(a);
        assert_eq!(admitted(&mut permits), ["c"]);
        assert_eq!((permits.open(), permits.waiting()), (1, 0));
    }

    proptest! {
        /// Whatever happens, nobody is admitted above the budget, and nobody waits below it.
        #[test]
        fn the_budget_is_never_exceeded(steps in prop::collection::vec((0_u8..5, 0_u32..6), 1..200)) {
            let mut permits = Permits::new(0);
            for (step, number) in steps {
                match step {
                    0 | 1 => drop(permits.ask([Priority::GoingOn, Priority::New][number as usize % 2], ())),
                    2 => permits.set_limit(number),
                    3 if permits.open() > 0 => permits.release(false),
                    4 if permits.waiting() > 0 => {
                        let ticket = permits.waiting.iter().flatten().next().map(|(ticket, ())| *ticket);
                        permits.withdraw(ticket.unwrap());
                    }
                    _ => permits.told(),
                }
                let before = permits.open();
                while permits.admit().is_some() {}
                prop_assert!(permits.open() == before || permits.open() <= permits.limit());
                prop_assert!(permits.waiting() == 0 || permits.open() >= permits.limit());
            }
        }
    }
}
