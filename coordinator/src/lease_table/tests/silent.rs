//! A worker that holds classes and receives no bytes of them.

use super::*;

/// Time without a byte before a class is taken for the first time.
const PATIENCE: Duration = Duration::from_secs(150);

/// A table, its clock, and the leases that each worker lists in its heartbeats.
struct Fleet {
    table: LeaseTable,
    now: Instant,
    seconds: u64,
    named: Vec<(SessionId, Vec<ReportedLease>)>,
}

impl Fleet {
    /// Workers with so many slots each, on one storage, so that there are no speculative attempts.
    fn new<const COUNT: usize>(
        classes: u32,
        workers: [(&str, u32); COUNT],
    ) -> (Self, [SessionId; COUNT]) {
        let now = Instant::now();
        let mut table = table(classes).expecting_bytes_within(PATIENCE);
        table.look_for_stragglers(false, now);
        let ids = workers.map(|(name, slots)| {
            let storage = "shared".to_owned();
            let worker_info = WorkerInfo {
                worker: name.to_owned(),
                instance: name.into(),
                slots,
                storage,
                ..WorkerInfo::default()
            };
            table.register(&worker_info, &[], now).unwrap().session
        });
        (
            Self {
                table,
                now,
                seconds: 0,
                named: ids.map(|id| (id, Vec::new())).to_vec(),
            },
            ids,
        )
    }

    /// Acquires leases for a worker, which lists them with this offset and length from now on.
    fn acquire(&mut self, id: SessionId, max: usize, bytes: u64, length: u64) -> Vec<Lease> {
        let leases = acquire(&mut self.table, id, max, self.now).unwrap();
        check(&self.table);
        let (_, named) = self
            .named
            .iter_mut()
            .find(|(worker, _)| *worker == id)
            .unwrap();
        named.extend(leases.iter().map(|lease| reported(*lease, bytes, length)));
        leases
    }

    /// Records that the worker has completed other classes, so it may take more than one class at
    /// once.
    fn mark_proven(&mut self, id: SessionId) {
        self.table
            .sessions
            .by_id
            .get_mut(&id)
            .unwrap()
            .settled
            .success = 1000;
    }

    /// Lets seconds pass, in which all workers renew. `is_paused`: no worker may send requests to
    /// the origin.
    fn pass(&mut self, seconds: u64, is_paused: bool) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.seconds += 1;
            if self.seconds.is_multiple_of(10) {
                for (id, named) in &mut self.named {
                    let received = named.iter().map(|held| held.bytes).sum();
                    let dropped = self
                        .table
                        .renew(*id, named, received, self.now)
                        .unwrap()
                        .drop;
                    named.retain(|held| !dropped.contains(&held.lease));
                }
            }
            assert_eq!(self.table.tick(self.now), []);
            self.table.look_for_stragglers(is_paused, self.now);
        }
        check(&self.table);
    }

    /// How long a worker that calls `Acquire` every second waits for a grant, and the granted
    /// leases.
    fn wait_for_grant(&mut self, id: SessionId, max: usize) -> (Duration, Vec<Lease>) {
        let begun = self.now;
        for _ in 0..100_000 {
            let leases = self.acquire(id, max, 0, 0);
            if !leases.is_empty() {
                return (self.now - begun, leases);
            }
            self.pass(1, false);
        }
        panic!("the worker gets nothing");
    }
}

#[test]
fn all_classes_of_a_worker_that_receives_no_bytes_go_to_an_idle_worker() {
    let (mut fleet, [hostile, honest]) = Fleet::new(1000, [("hostile", 1000), ("honest", 10)]);
    assert_eq!(fleet.acquire(hostile, 1000, 0, 0).len(), 1000);
    assert_eq!(fleet.acquire(honest, 10, 0, 0), []);
    let wake_ups = fleet.table.wake_ups();
    let (waited, mut leases) = fleet.wait_for_grant(honest, 10);
    assert_eq!(
        (waited, leases.len()),
        (PATIENCE, 1),
        "only one, because it has completed none"
    );
    assert!(
        fleet.table.wake_ups() > wake_ups,
        "a waiting Acquire call is woken"
    );
    let is_silent = |notice: &LeaseNotice| matches!(notice, LeaseNotice::Silent { worker, .. } if worker == "hostile");
    assert!(fleet.table.take_notices().iter().all(is_silent));
    let mut settled = 0;
    while !leases.is_empty() {
        for lease in leases {
            assert_eq!(
                fleet
                    .table
                    .report(honest, lease, &good(), fleet.now, LONGEST_DELAY),
                ReportVerdict::Settled
            );
            settled += 1;
        }
        leases = fleet.acquire(honest, 10, 0, 0);
    }
    assert_eq!(
        (settled, fleet.table.status().success),
        (1000, 1000),
        "without further waits"
    );
}

#[test]
fn the_time_before_a_class_is_taken_doubles_with_each_worker() {
    let (mut fleet, ids) = Fleet::new(1, [("one", 1), ("other", 1)]);
    fleet.acquire(ids[0], 1, 0, 0);
    let waits: Vec<u64> = (1..6)
        .map(|round| fleet.wait_for_grant(ids[round % 2], 1).0.as_secs())
        .collect();
    assert_eq!(waits, [150, 300, 600, 1200, 2400]);
    assert_eq!(
        (fleet.table.status().leased, fleet.table.take_given_up()),
        (1, vec![])
    );
}

#[test]
fn no_class_is_taken_without_an_idle_worker_or_while_requests_are_paused() {
    let (mut fleet, [one]) = Fleet::new(10, [("one", 10)]);
    fleet.acquire(one, 10, 0, 0);
    fleet.pass(7000, false);
    assert_eq!(
        (fleet.table.take_notices(), fleet.named[0].1.len()),
        (vec![], 10),
        "there is no other worker"
    );
    let (mut fleet, [one, other]) = Fleet::new(30, [("one", 10), ("other", 10)]);
    fleet.acquire(one, 10, 0, 0);
    fleet.pass(200, false);
    assert_eq!(
        numbers(&fleet.acquire(other, 10, 0, 0))[0],
        "11",
        "other classes are pending"
    );
    let (mut fleet, [one, other]) = Fleet::new(10, [("one", 10), ("other", 10)]);
    fleet.acquire(one, 10, 0, 0);
    fleet.pass(1000, true);
    fleet.pass(149, false);
    fleet.mark_proven(other);
    assert_eq!(
        fleet.acquire(other, 10, 0, 0),
        [],
        "a pause of a thousand seconds does not count"
    );
    fleet.pass(1, false);
    assert_eq!(fleet.acquire(other, 10, 0, 0).len(), 10);
}

/// Bytes that are received a second time are at most three percent of the completed bytes, as for
/// speculative attempts.
#[test]
fn received_bytes_are_discarded_only_within_the_budget_of_attempts() {
    for (completed, bytes, length, taken) in [
        (0, 0, 0, 1),
        (0, 1, 0, 0),
        (1000, 30, 0, 1),
        (1000, 31, 0, 0),
        (1000, 5, 5, 0),
        (1000, 30, u64::MAX, 1),
    ] {
        let (mut fleet, [one, other]) = Fleet::new(2, [("one", 1), ("other", 1)]);
        fleet.acquire(one, 1, bytes, length);
        for lease in fleet.acquire(other, 1, 0, 0) {
            let outcome = Outcome::Success(Published {
                files: 1,
                bytes: completed,
            });
            fleet
                .table
                .report(other, lease, &outcome, fleet.now, LONGEST_DELAY);
        }
        fleet.pass(170, false);
        assert_eq!(
            fleet.acquire(other, 1, 0, 0).len(),
            taken,
            "{bytes} of {length} bytes, {completed} completed"
        );
    }
}

#[test]
fn a_class_whose_bytes_are_being_received_is_never_taken() {
    let (mut fleet, [one, other]) = Fleet::new(1, [("one", 1), ("other", 1)]);
    fleet.acquire(one, 1, 0, 0);
    for _ in 0..100 {
        fleet.pass(149, false);
        fleet.named[0].1[0].bytes += 1;
        fleet.pass(10, false);
        assert_eq!(fleet.acquire(other, 1, 0, 0), []);
    }
}

#[test]
fn two_workers_that_receive_nothing_do_not_withhold_a_class_from_a_third() {
    let (mut fleet, [hostile, accomplice, honest]) =
        Fleet::new(1, [("hostile", 1), ("accomplice", 1), ("honest", 1)]);
    let lease = fleet.acquire(hostile, 1, 0, 0)[0];
    let (waited, _) = fleet.wait_for_grant(accomplice, 1);
    assert_eq!(waited, PATIENCE);
    let (waited, taken) = fleet.wait_for_grant(honest, 1);
    assert_eq!((waited, taken[0].wnid), (PATIENCE * 2, lease.wnid));
}

/// With one connection for all classes, a class may wait much longer than [`PATIENCE`].
#[test]
fn a_class_that_waits_for_a_connection_is_not_taken_while_its_worker_receives_others() {
    let (mut fleet, [one, other]) = Fleet::new(10, [("one", 10), ("other", 10)]);
    fleet.acquire(one, 10, 0, 0);
    for _ in 0..100 {
        fleet.named[0].1[0].bytes += 1000;
        fleet.pass(140, false);
        assert_eq!(fleet.acquire(other, 10, 0, 0), []);
    }
    fleet.pass(160, false);
    assert_eq!(
        fleet.acquire(other, 10, 0, 0).len(),
        1,
        "no bytes of any class are received any more"
    );
}

#[test]
fn a_worker_takes_one_class_at_a_time_until_it_has_completed_some() {
    let (mut fleet, [hostile, idle]) = Fleet::new(10, [("hostile", 10), ("idle", 10)]);
    fleet.acquire(hostile, 10, 0, 0);
    let (_, leases) = fleet.wait_for_grant(idle, 10);
    assert_eq!((leases.len(), fleet.acquire(idle, 10, 0, 0)), (1, vec![]));
    fleet.named[1].1[0].bytes = 1;
    fleet.pass(10, false);
    assert_eq!(
        fleet.acquire(idle, 10, 0, 0).len(),
        1,
        "bytes of the first one were received"
    );
    fleet
        .table
        .report(idle, leases[0], &good(), fleet.now, LONGEST_DELAY);
    fleet.named[1].1.remove(0);
    assert_eq!(
        (
            fleet.acquire(idle, 10, 0, 0).len(),
            fleet.acquire(idle, 10, 0, 0).len()
        ),
        (1, 0)
    );
}

#[test]
fn a_failure_report_of_the_worker_that_took_a_class_is_not_final() {
    for is_missing in [false, true] {
        let (mut fleet, [holder, taker]) = Fleet::new(1, [("holder", 1), ("taker", 1)]);
        fleet.acquire(holder, 1, 0, 0);
        let (_, leases) = fleet.wait_for_grant(taker, 1);
        fleet.pass(10, false);
        let verdict = fleet
            .table
            .report(taker, leases[0], &bad(), fleet.now, LONGEST_DELAY);
        fleet.named[1].1.clear();
        assert_eq!(
            (verdict, fleet.table.status().failed),
            (ReportVerdict::Retried, 0)
        );
        fleet.pass(10, false);
        assert_eq!(fleet.acquire(taker, 1, 0, 0), [], "another worker tries it");
        let lease = fleet.acquire(holder, 1, 0, 0)[0];
        let outcome = if is_missing { bad() } else { good() };
        assert_eq!(
            fleet
                .table
                .report(holder, lease, &outcome, fleet.now, LONGEST_DELAY),
            ReportVerdict::Settled
        );
        assert_eq!(fleet.table.status().failed, u64::from(is_missing));
    }
}

/// A taken class has failed with the report of its holder if no other worker may try it.
#[test]
fn a_taken_class_fails_with_the_report_of_the_only_worker_left() {
    let (mut fleet, [holder, taker]) = Fleet::new(1, [("holder", 1), ("taker", 1)]);
    fleet.acquire(holder, 1, 0, 0);
    let (_, leases) = fleet.wait_for_grant(taker, 1);
    fleet.table.leave(holder).unwrap();
    assert_eq!(
        fleet
            .table
            .report(taker, leases[0], &bad(), fleet.now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
}

/// A single session may cause repeated short pauses.
#[test]
fn short_pauses_delay_the_end_of_a_silent_lease_by_their_length_only() {
    let (mut fleet, [hostile, honest]) = Fleet::new(10, [("hostile", 10), ("honest", 10)]);
    fleet.acquire(hostile, 10, 0, 0);
    fleet.pass(138, false);
    fleet.pass(2, true);
    fleet.pass(11, false);
    assert_eq!(fleet.acquire(honest, 10, 0, 0), []);
    fleet.pass(1, false);
    assert_eq!(
        fleet.acquire(honest, 10, 0, 0).len(),
        1,
        "150 seconds and a pause of two"
    );
}

/// It reads a local tar, verifies an existing folder, or publishes a tar whose length is not known.
#[test]
fn a_class_that_needs_no_origin_is_not_taken() {
    for (bytes, length) in [(0, 0), (7, 0), (7, 9)] {
        let (mut fleet, [one, other]) = Fleet::new(2, [("one", 1), ("other", 1)]);
        fleet.acquire(one, 1, bytes, length);
        for lease in fleet.acquire(other, 1, 0, 0) {
            let outcome = Outcome::Success(Published {
                files: 1,
                bytes: 1000,
            });
            fleet
                .table
                .report(other, lease, &outcome, fleet.now, LONGEST_DELAY);
        }
        fleet.named[1].1.clear();
        fleet.named[0].1[0].is_local = true;
        fleet.pass(1000, false);
        assert_eq!(
            fleet.acquire(other, 1, 0, 0),
            [],
            "{bytes} of {length} bytes"
        );
        fleet.named[0].1[0].is_local = false;
        fleet.pass(10, false);
        assert_eq!(fleet.acquire(other, 1, 0, 0).len(), 1);
    }
}
