//! Divides the connections among the workers that want some. No I/O, no clock.
//!
//! Invariant: all workers together never have more connections open than the limit allowed when
//! they last received a budget. A connection that one worker must give up is assigned to another
//! worker only when the first has reported it closed, or when [`GRACE`] has passed without that
//! report. A worker that never reports thus keeps connections from the others for at most
//! [`GRACE`].

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;

use super::Observation;

/// Rotation period if there are fewer connections than workers.
const ROUND: Duration = Duration::from_secs(5);

/// Time for which a worker may report more open connections than its budget allows. In this time a
/// tar of 1.3 GB takes 11 MB/s, and one of the usual 110 MB takes 0.9 MB/s.
const GRACE: Duration = Duration::from_mins(2);

/// The allocations of all workers.
pub(super) type Allocations = BTreeMap<SessionId, Allocation>;

/// One worker's allocation, with its last report.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allocation {
    /// The last report.
    pub(super) last: Observation,
    /// Connections in the current budget.
    pub(super) connections: u32,
    /// Bytes per second in the current budget; `None`: no limit.
    pub(super) rate: Option<u64>,
    /// Version of the budget; increases with each change.
    pub(super) version: u64,
    /// The most connections in any budget since the version that the worker has acknowledged.
    most_since_acknowledged: u32,
    /// The most connections in any budget of this session.
    most_ever: u32,
    /// Since when the worker may have more connections open than its budget allows.
    excess_since: Option<Duration>,
}

impl Allocation {
    /// A new session. What its process counted before is not added to the totals.
    pub(super) fn of_new_session(observation: &Observation) -> Self {
        let last = Observation {
            open: 0,
            flowing: 0,
            wanted: 0,
            ..*observation
        };
        Self {
            last,
            version: observation.seen + 1,
            ..Self::default()
        }
    }

    /// Records a report and returns the previous one.
    pub(super) fn record(&mut self, observation: Observation) -> Observation {
        if observation.seen >= self.version {
            self.most_since_acknowledged = self.connections;
        }
        std::mem::replace(&mut self.last, observation)
    }

    /// Connections that the worker may have open, given the version that it has acknowledged.
    /// Connections beyond every budget of this session can only come from a former session; they
    /// are accepted up to the fair share.
    fn reserved(&self, fair: u32, now: Duration) -> u32 {
        match self.excess_since {
            Some(since) if now.saturating_sub(since) > GRACE => self.connections,
            _ => self.possible(fair),
        }
    }

    fn possible(&self, fair: u32) -> u32 {
        let open = self.last.open.min(self.most_ever.max(fair));
        self.most_since_acknowledged.max(self.connections).max(open)
    }

    fn note_excess(&mut self, fair: u32, now: Duration) {
        if self.possible(fair) > self.connections {
            self.excess_since.get_or_insert(now);
        } else {
            self.excess_since = None;
        }
    }

    fn assign(&mut self, connections: u32) {
        if self.connections != connections {
            self.connections = connections;
            self.most_since_acknowledged = self.most_since_acknowledged.max(connections);
            self.most_ever = self.most_ever.max(connections);
            self.version += 1;
        }
    }
}

/// Divides `limit` connections and `rate` among the workers. Returns whether any budget has
/// changed.
pub(super) fn divide(
    allocations: &mut Allocations,
    limit: u32,
    rate: Option<u64>,
    elapsed: Duration,
) -> bool {
    let versions =
        |allocations: &Allocations| -> u64 { allocations.values().map(|is| is.version).sum() };
    let before = versions(allocations);
    let fair = fair_parts(allocations, limit, elapsed);
    // Budgets that become smaller are set first; connections that are not in use go to the others.
    for (allocation, fair) in allocations.values_mut().zip(&fair) {
        allocation.assign(allocation.connections.min(*fair));
        allocation.note_excess(*fair, elapsed);
    }
    let reserved = allocations
        .values()
        .zip(&fair)
        .map(|(allocation, fair)| allocation.reserved(*fair, elapsed));
    let mut free = limit.saturating_sub(reserved.fold(0, u32::saturating_add));
    for (allocation, fair) in allocations.values_mut().zip(&fair) {
        let reserved = allocation.reserved(*fair, elapsed);
        let assigned = (*fair)
            .min(reserved.saturating_add(free))
            .max(allocation.connections);
        free -= assigned.saturating_sub(reserved);
        allocation.assign(assigned);
    }
    divide_rate(allocations, rate);
    versions(allocations) != before
}

/// Max-min fairness: each worker gets an equal part, or what it wants if that is less. The
/// remainder rotates every [`ROUND`].
fn fair_parts(allocations: &Allocations, limit: u32, elapsed: Duration) -> Vec<u32> {
    let wanted: Vec<u32> = allocations.values().map(|is| is.last.wanted).collect();
    let mut parts = vec![0; wanted.len()];
    let mut left = limit;
    loop {
        let unsatisfied: Vec<usize> = (0..parts.len())
            .filter(|at| parts[*at] < wanted[*at])
            .collect();
        let count = u32::try_from(unsatisfied.len()).unwrap_or(u32::MAX);
        if count == 0 || left == 0 {
            return parts;
        }
        let each = left / count;
        if each == 0 {
            let round = usize::try_from(elapsed.as_secs() / ROUND.as_secs()).unwrap_or(0);
            for turn in 0..left as usize {
                parts[unsatisfied[(turn + round) % unsatisfied.len()]] += 1;
            }
            return parts;
        }
        for at in unsatisfied {
            let more = each.min(wanted[at] - parts[at]);
            parts[at] += more;
            left -= more;
        }
    }
}

/// Divides the rate in proportion to the connections. Each part is at least 1 byte per second,
/// because 0 means "no limit" in the protocol.
fn divide_rate(allocations: &mut Allocations, rate: Option<u64>) {
    let Some(rate) = rate else { return };
    let weight = |allocation: &Allocation| {
        let open = allocation.last.open.min(allocation.most_ever);
        u128::from(allocation.connections.max(open))
    };
    let all: u128 = allocations.values().map(weight).sum();
    for allocation in allocations.values_mut() {
        // A part is at most the rate, but the product may exceed 64 bits.
        let part = (u128::from(rate) * weight(allocation)).checked_div(all);
        let part = part.map_or(1, |part| u64::try_from(part).unwrap_or(rate).max(1));
        if allocation.rate != Some(part) {
            allocation.rate = Some(part);
            allocation.version += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A simulated worker whose messages arrive late.
    #[derive(Debug, Clone, Copy, Default)]
    struct RemoteWorker {
        allowed: u32,
        seen: u64,
        open: u32,
        wanted: u32,
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Receive(usize),
        Report(usize),
        Open(usize),
        Close(usize),
        Demand(usize, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let worker = 0..4_usize;
        prop_oneof![
            worker.clone().prop_map(Step::Receive),
            worker.clone().prop_map(Step::Report),
            worker.clone().prop_map(Step::Open),
            worker.clone().prop_map(Step::Close),
            (worker, 0..6_u32).prop_map(|(worker, wanted)| Step::Demand(worker, wanted)),
        ]
    }

    fn divided(allocations: &mut BTreeMap<SessionId, Allocation>, limit: u32, seconds: u64) {
        divide(allocations, limit, None, Duration::from_secs(seconds));
    }

    #[test]
    fn a_worker_with_false_reports_holds_connections_for_the_grace_period_only() {
        let misreporting = |open, seen| Observation {
            seen,
            open,
            wanted: 1000,
            ..Observation::default()
        };
        let correct = Observation {
            wanted: 10,
            ..Observation::default()
        };
        for open in [0, 1000] {
            let mut allocations = BTreeMap::from([(
                SessionId(0),
                Allocation::of_new_session(&misreporting(open, 0)),
            )]);
            allocations
                .get_mut(&SessionId(0))
                .unwrap()
                .record(misreporting(open, 0));
            divided(&mut allocations, 10, 0);
            assert_eq!(
                assigned(&allocations),
                [10],
                "open {open}: a single worker gets the whole limit"
            );
            let mut newcomer = Allocation::of_new_session(&correct);
            newcomer.record(correct);
            allocations.insert(SessionId(1), newcomer);
            divided(&mut allocations, 10, 1);
            assert_eq!(
                assigned(&allocations),
                [5, 0],
                "open {open}: the first worker has not acknowledged its smaller budget"
            );
            divided(&mut allocations, 10, 2 + GRACE.as_secs());
            assert_eq!(assigned(&allocations), [5, 5], "open {open}");
        }
        // For a worker that connects later, only the fair share is reserved.
        let mut allocations = wanting(&[10]);
        divided(&mut allocations, 10, 0);
        let allocation = allocations.get_mut(&SessionId(0)).unwrap();
        allocation.record(Observation {
            seen: allocation.version,
            open: 4,
            wanted: 10,
            ..Observation::default()
        });
        let mut late = Allocation::of_new_session(&misreporting(1000, 0));
        late.record(misreporting(1000, 0));
        allocations.insert(SessionId(1), late);
        divided(&mut allocations, 10, 1);
        assert_eq!(assigned(&allocations)[0], 5);
    }

    proptest! {
        #[test]
        fn the_limit_is_never_exceeded_when_messages_arrive_late(limit in 1..8_u32, steps in vec(step(), 0..300)) {
            let mut workers = [RemoteWorker::default(); 4];
            let mut allocations = BTreeMap::<SessionId, Allocation>::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Receive(at) => {
                        let assigned = allocations.get(&SessionId(at as u64)).copied().unwrap_or_default();
                        (workers[at].allowed, workers[at].seen) = (assigned.connections, assigned.version);
                    }
                    Step::Report(at) => {
                        let RemoteWorker { seen, open, wanted, .. } = workers[at];
                        let report = Observation { seen, open, wanted, ..Observation::default() };
                        let allocation = allocations.entry(SessionId(at as u64)).or_insert_with(|| Allocation::of_new_session(&report));
                        allocation.record(report);
                    }
                    Step::Open(at) if workers[at].open < workers[at].allowed => workers[at].open += 1,
                    Step::Open(_) => {}
                    Step::Close(at) => workers[at].open = workers[at].open.saturating_sub(1),
                    Step::Demand(at, wanted) => workers[at].wanted = wanted,
                }
                // The whole sequence is shorter than the grace period.
                divide(&mut allocations, limit, None, Duration::from_millis(number as u64));
                prop_assert!(workers.iter().map(|worker| worker.open).sum::<u32>() <= limit, "{workers:?} {allocations:?}");
            }
        }
    }

    fn wanting(wanted: &[u32]) -> BTreeMap<SessionId, Allocation> {
        let allocation = |wanted: &u32| {
            let report = Observation {
                wanted: *wanted,
                ..Observation::default()
            };
            let mut allocation = Allocation::of_new_session(&report);
            allocation.record(report);
            allocation
        };
        wanted
            .iter()
            .enumerate()
            .map(|(at, wanted)| (SessionId(at as u64), allocation(wanted)))
            .collect()
    }

    fn assigned(allocations: &BTreeMap<SessionId, Allocation>) -> Vec<u32> {
        allocations
            .values()
            .map(|allocation| allocation.connections)
            .collect()
    }

    #[test]
    fn each_worker_gets_an_equal_part_or_what_it_wants() {
        let mut allocations = wanting(&[10, 1, 0, 10]);
        divided(&mut allocations, 9, 0);
        assert_eq!(assigned(&allocations), [4, 1, 0, 4]);
        divided(&mut allocations, 100, 0);
        assert_eq!(assigned(&allocations), [10, 1, 0, 10]);
    }

    #[test]
    fn fewer_connections_than_workers_rotate() {
        let mut allocations = wanting(&[5, 5, 5]);
        let mut had = [false; 3];
        for round in 0..3 {
            divided(&mut allocations, 1, round * ROUND.as_secs());
            // Each worker reports that its former connections are closed.
            for allocation in allocations.values_mut() {
                allocation.record(Observation {
                    seen: allocation.version,
                    wanted: 5,
                    ..Observation::default()
                });
            }
            divided(&mut allocations, 1, round * ROUND.as_secs());
            let assigned = assigned(&allocations);
            assert_eq!(assigned.iter().sum::<u32>(), 1);
            had[assigned.iter().position(|assigned| *assigned == 1).unwrap()] = true;
        }
        assert_eq!(had, [true; 3]);
    }

    #[test]
    fn a_rate_is_divided_in_proportion_to_the_connections() {
        let mut allocations = wanting(&[3, 1]);
        divide(&mut allocations, 4, Some(4000), Duration::ZERO);
        let rates: Vec<_> = allocations
            .values()
            .map(|allocation| allocation.rate.unwrap())
            .collect();
        assert_eq!(rates, [3000, 1000]);
        let mut allocations = wanting(&[3, 0]);
        divide(&mut allocations, 4, Some(4000), Duration::ZERO);
        let rates: Vec<_> = allocations
            .values()
            .map(|allocation| allocation.rate.unwrap())
            .collect();
        assert_eq!(rates, [4000, 1], "0 would mean no limit");
        let mut allocations = wanting(&[3, 1]);
        divide(&mut allocations, 4, Some(u64::MAX), Duration::ZERO);
        let rates: Vec<_> = allocations
            .values()
            .map(|allocation| allocation.rate.unwrap())
            .collect();
        assert_eq!(rates, [u64::MAX / 4 * 3 + 2, u64::MAX / 4]);
    }
}
