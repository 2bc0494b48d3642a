//! Speculative attempts at classes whose holders take too long.

use super::*;

/// Length of each tar in bytes.
const LENGTH: u64 = 1_000_000;
/// Classes that must be complete before the budget permits one speculative attempt.
const BEFORE: u32 = 80;

/// The end of a job: eighty classes are complete, at 100,000 bytes a second. `slow` holds the last
/// one, and no class is pending.
struct Tail {
    table: LeaseTable,
    now: Instant,
    slow: SessionId,
    quick: SessionId,
    lease: Lease,
    /// Whether no worker may send requests to the origin.
    is_paused: bool,
}

impl Tail {
    /// `storages`: of `quick` and of `slow`.
    fn on_storages(storages: [&str; 2]) -> Self {
        let mut now = Instant::now();
        let mut table = table(BEFORE + 1);
        let [quick, slow] =
            [("quick", storages[0]), ("slow", storages[1])].map(|(worker, storage)| {
                let worker_info = WorkerInfo {
                    worker: worker.to_owned(),
                    storage: storage.to_owned(),
                    slots: MANY,
                    ..WorkerInfo::default()
                };
                let id = table.register(&worker_info, &[], now).unwrap().session;
                acquire(&mut table, id, 0, now).unwrap();
                id
            });
        let leases = acquire(&mut table, quick, BEFORE as usize, now).unwrap();
        let lease = acquire(&mut table, slow, 1, now).unwrap()[0];
        now += Duration::from_secs(10);
        for lease in leases {
            let outcome = Outcome::Success(Published {
                files: 1,
                bytes: LENGTH,
            });
            assert_eq!(
                table.report(quick, lease, &outcome, now, 0.5),
                ReportVerdict::Settled
            );
        }
        let mut tail = Self {
            table,
            now,
            slow,
            quick,
            lease,
            is_paused: false,
        };
        tail.pass(&[0]);
        tail
    }

    /// For each offset, ten seconds pass, `slow` reports the offset, and `quick` renews its lease.
    fn pass(&mut self, positions: &[u64]) {
        let attempt = self.attempt();
        for bytes in positions {
            self.now += TTL / 3;
            let held = reported(self.lease, *bytes, LENGTH);
            assert_eq!(
                self.table
                    .renew(self.slow, &[held], 0, self.now)
                    .unwrap()
                    .drop,
                []
            );
            assert_eq!(
                renew(&mut self.table, self.quick, attempt.as_slice(), 0, self.now),
                Ok(vec![])
            );
            self.scan();
        }
    }

    fn scan(&mut self) {
        assert_eq!(self.table.tick(self.now), []);
        self.table.look_for_stragglers(self.is_paused, self.now);
        check(&self.table);
    }

    fn acquire(&mut self, id: SessionId) -> Vec<Lease> {
        let leases = acquire(&mut self.table, id, 9, self.now).unwrap();
        check(&self.table);
        leases
    }

    /// `slow` receives a thousand bytes a second, and `quick` is granted a speculative attempt.
    fn with_attempt(storages: [&str; 2]) -> (Self, Lease) {
        let mut tail = Self::on_storages(storages);
        tail.pass(&[10_000, 20_000]);
        let attempts = tail.acquire(tail.quick);
        assert_eq!(attempts.len(), 1, "{:?}", tail.table.attempts);
        assert!(attempts[0].wnid == tail.lease.wnid && attempts[0].token > tail.lease.token);
        tail.table.take_notices();
        (tail, attempts[0])
    }

    fn attempt(&self) -> Option<Lease> {
        self.table.attempts.of.values().next().map(|attempt| Lease {
            token: attempt.token,
            ..self.lease
        })
    }

    fn report(&mut self, id: SessionId, lease: Lease, outcome: &Outcome) -> ReportVerdict {
        let verdict = self.table.report(id, lease, outcome, self.now, 0.5);
        check(&self.table);
        verdict
    }

    fn news(&mut self) -> Vec<AttemptEvent> {
        let news = |notice| {
            if let LeaseNotice::Attempt { news, .. } = notice {
                Some(news)
            } else {
                None
            }
        };
        self.table
            .take_notices()
            .into_iter()
            .filter_map(news)
            .collect()
    }

    fn renewed(&mut self, id: SessionId, lease: Lease) -> Vec<Wnid> {
        renew(&mut self.table, id, &[lease], 0, self.now).unwrap()
    }
}

#[test]
fn an_idle_worker_attempts_a_class_that_takes_too_long_and_the_first_to_publish_settles_it() {
    for attempt_is_first in [true, false] {
        let (mut tail, attempt) = Tail::with_attempt(["", ""]);
        assert_eq!(
            (tail.table.status().leased, tail.table.status().pending),
            (1, 0),
            "the class is counted once"
        );
        let shown = shown(&mut tail.table, tail.now);
        assert_eq!(
            shown.iter().map(|worker| worker.leased).collect::<Vec<_>>(),
            [1, 1],
            "both workers show a lease"
        );
        assert_eq!(
            tail.acquire(tail.quick),
            [],
            "a class has at most one attempt"
        );
        tail.pass(&[30_000]);
        let first @ (id, lease) = if attempt_is_first {
            (tail.quick, attempt)
        } else {
            (tail.slow, tail.lease)
        };
        let (other, late) = if attempt_is_first {
            (tail.slow, tail.lease)
        } else {
            (tail.quick, attempt)
        };
        assert_eq!(
            tail.report(id, lease, &good()),
            ReportVerdict::Settled,
            "{first:?}"
        );
        assert_eq!(
            tail.renewed(other, late),
            [late.wnid],
            "the other one drops its lease"
        );
        assert_eq!(
            tail.report(other, late, &good()),
            ReportVerdict::AlreadySettled
        );
        assert_eq!(
            tail.report(other, late, &bad()),
            ReportVerdict::AlreadySettled
        );
        assert_eq!(tail.table.status().success, u64::from(BEFORE) + 1);
        assert_eq!(
            tail.news(),
            [if attempt_is_first {
                AttemptEvent::Won
            } else {
                AttemptEvent::Late
            }]
        );
    }
}

#[test]
fn waiting_workers_are_woken_once_when_an_attempt_is_due() {
    let mut tail = Tail::on_storages(["a", "b"]);
    assert_eq!(tail.acquire(tail.quick), []);
    tail.pass(&[10_000]);
    let wake_ups = tail.table.wake_ups();
    assert_eq!(
        tail.acquire(tail.quick),
        [],
        "measured for only ten seconds"
    );
    tail.pass(&[20_000]);
    assert_eq!(tail.table.wake_ups(), wake_ups + 1);
    (0..5).for_each(|_| tail.scan());
    assert_eq!(tail.table.wake_ups(), wake_ups + 1);
    assert_eq!(
        tail.acquire(tail.slow),
        [],
        "the holder gets no second lease"
    );
    let newcomer = session(&mut tail.table, "newcomer", tail.now);
    let attempt = tail.acquire(newcomer);
    assert_eq!(attempt.len(), 1);
    tail.table.take_back(newcomer, &attempt);
    let wake_ups = tail.table.wake_ups();
    tail.scan();
    assert_eq!(
        tail.table.wake_ups(),
        wake_ups + 1,
        "the grant did not arrive, so the attempt is due again"
    );
    assert_eq!(tail.acquire(tail.quick).len(), 1);
}

#[test]
fn no_attempt_is_granted_for_a_fast_transfer_or_on_the_same_storage() {
    let mut tail = Tail::on_storages(["", ""]);
    tail.pass(&[300_000, 600_000, 900_000]);
    assert_eq!(tail.acquire(tail.quick), [], "it completes soon");
    let mut tail = Tail::on_storages(["shared", "shared"]);
    tail.pass(&[10_000, 20_000, 30_000]);
    assert_eq!(
        tail.acquire(tail.quick),
        [],
        "an attempt on the same storage is of no use"
    );
    let other = session(&mut tail.table, "other", tail.now);
    tail.scan();
    assert_eq!(tail.acquire(tail.quick), []);
    assert_eq!(
        tail.acquire(other).len(),
        1,
        "a worker on another storage gets the attempt"
    );
}

#[test]
fn pending_classes_are_granted_before_attempts_and_a_drained_worker_gets_no_attempt() {
    let mut tail = Tail::on_storages(["", ""]);
    tail.pass(&[10_000, 20_000]);
    let done = tail.table.classes[0].wnid;
    tail.table.set(0, State::Failed);
    assert_eq!(tail.table.retry_failed(&[done]), [done]);
    tail.scan();
    assert_eq!(
        numbers(&tail.acquire(tail.quick)),
        ["1"],
        "no attempt is due while a class is pending"
    );
    tail.scan();
    tail.table.drain("quick");
    assert_eq!(tail.acquire(tail.quick), []);
}

#[test]
fn a_transfer_without_progress_gets_an_attempt_unless_requests_are_paused() {
    let mut tail = Tail::on_storages(["", ""]);
    tail.pass(&[600_000, 600_000, 600_000]);
    assert_eq!(
        tail.acquire(tail.quick),
        [],
        "no progress for only twenty seconds"
    );
    tail.pass(&[600_000]);
    assert_eq!(tail.acquire(tail.quick).len(), 1);
    let mut quiet = Tail::on_storages(["", ""]);
    quiet.pass(&[600_000, 600_000, 600_000]);
    quiet.is_paused = true;
    quiet.pass(&[600_000; 90]);
    quiet.is_paused = false;
    quiet.scan();
    assert_eq!(
        quiet.acquire(quiet.quick),
        [],
        "without pauses it made no progress for only twenty seconds"
    );
    quiet.pass(&[600_000]);
    assert_eq!(quiet.acquire(quiet.quick).len(), 1);
}

/// A single session may cause repeated short pauses.
#[test]
fn short_pauses_delay_an_attempt_by_their_length_only() {
    let mut tail = Tail::on_storages(["", ""]);
    tail.pass(&[600_000]);
    for _ in 0..2 {
        tail.pass(&[600_000]);
        tail.now += Duration::from_secs(2);
        tail.is_paused = true;
        tail.scan();
        tail.is_paused = false;
    }
    tail.pass(&[600_000]);
    assert_eq!(
        tail.acquire(tail.quick).len(),
        1,
        "no progress for thirty seconds and two pauses"
    );
}

/// Bytes that are received during a pause are measured at their actual speed.
#[test]
fn a_pause_does_not_make_a_slow_transfer_fast() {
    let mut tail = Tail::on_storages(["", ""]);
    tail.is_paused = true;
    tail.pass(&[10_000, 20_000, 30_000]);
    tail.is_paused = false;
    tail.scan();
    assert_eq!(tail.acquire(tail.quick).len(), 1);
}

#[test]
fn all_attempts_together_are_at_most_three_percent_of_the_completed_bytes() {
    let mut now = Instant::now();
    let mut table = table(100);
    let quick = session(&mut table, "quick", now);
    let slow = session(&mut table, "slow", now);
    let leases = acquire(&mut table, slow, 33, now).unwrap();
    let rest = acquire(&mut table, quick, 67, now).unwrap();
    now += TTL / 3;
    for lease in rest {
        table.report(
            quick,
            lease,
            &Outcome::Success(Published {
                files: 1,
                bytes: LENGTH,
            }),
            now,
            0.5,
        );
    }
    let part_way = |leases: &[Lease]| -> Vec<ReportedLease> {
        let part_way = |lease: &Lease| reported(*lease, 5, LENGTH + lease.token.0 % 2);
        leases.iter().map(part_way).collect()
    };
    for _ in 0..4 {
        now += TTL / 3;
        table.renew(slow, &part_way(&leases), 0, now).unwrap();
        table.renew(quick, &[], 0, now).unwrap();
        table.tick(now);
        table.look_for_stragglers(false, now);
    }
    let attempts = acquire(&mut table, quick, 9, now).unwrap();
    assert_eq!(attempts.len(), 2, "67 tars are complete");
    check(&table);
    for lease in attempts {
        table.report(
            quick,
            lease,
            &Outcome::Success(Published {
                files: 1,
                bytes: 33 * LENGTH,
            }),
            now,
            0.5,
        );
    }
    table.look_for_stragglers(false, now);
    assert_eq!(
        acquire(&mut table, quick, 9, now).unwrap().len(),
        1,
        "133 tars are complete"
    );
    check(&table);
}

#[test]
fn a_failure_of_an_attempt_ends_only_the_attempt() {
    let (mut tail, attempt) = Tail::with_attempt(["", ""]);
    assert_eq!(
        tail.report(tail.quick, attempt, &bad()),
        ReportVerdict::AttemptFailed
    );
    assert_eq!(tail.news(), [AttemptEvent::Failed]);
    assert_eq!(
        tail.report(tail.quick, attempt, &bad()),
        ReportVerdict::Stale
    );
    assert_eq!(tail.renewed(tail.quick, attempt), [attempt.wnid]);
    tail.pass(&[20_000; 4]);
    assert_eq!(
        tail.acquire(tail.quick),
        [],
        "a class gets no second attempt after a failed one"
    );
    assert_eq!(
        tail.report(tail.slow, tail.lease, &bad()),
        ReportVerdict::Settled
    );
}

#[test]
fn when_the_holder_fails_or_is_lost_the_lease_passes_to_the_attempt() {
    type End = fn(&mut Tail);
    let ends: [(&str, End); 4] = [
        ("it fails", |tail| {
            assert_eq!(
                tail.report(tail.slow, tail.lease, &bad()),
                ReportVerdict::Retried
            );
        }),
        ("the origin fails it", |tail| {
            assert_eq!(
                tail.report(tail.slow, tail.lease, &failure_caused_by(Suspect::Origin)),
                ReportVerdict::Retried
            );
        }),
        ("it leaves", |tail| {
            assert_eq!(tail.table.leave(tail.slow).unwrap().returned, 1);
        }),
        ("it is silent", |tail| {
            let attempt = tail.attempt();
            for _ in 0..5 {
                tail.now += TTL / 3;
                renew(&mut tail.table, tail.quick, attempt.as_slice(), 0, tail.now).unwrap();
            }
            assert_eq!(tail.table.tick(tail.now)[0].returned, 1);
        }),
    ];
    for (what, end) in ends {
        let (mut tail, attempt) = Tail::with_attempt(["", ""]);
        end(&mut tail);
        check(&tail.table);
        assert_eq!(tail.news(), [AttemptEvent::Promoted], "{what}");
        assert_eq!(
            (tail.table.status().leased, tail.table.status().pending),
            (1, 0),
            "{what}"
        );
        assert_eq!(tail.renewed(tail.quick, attempt), [], "{what}");
        assert_eq!(
            report(&mut tail.table, tail.lease, &bad()),
            ReportVerdict::Stale,
            "{what}: its token is no longer valid"
        );
        assert_eq!(
            tail.report(tail.quick, attempt, &bad()),
            ReportVerdict::Settled,
            "{what}"
        );
    }
}

#[test]
fn a_class_that_is_wedged_for_the_last_time_passes_to_its_attempt_and_has_not_failed() {
    let (mut tail, attempt) = Tail::with_attempt(["", ""]);
    let position = tail.table.index[&attempt.wnid];
    tail.table
        .class_failures
        .note(position, "worker another".to_owned(), false, tail.now);
    for bytes in 1..=2 * 360 {
        tail.now += TTL / 3;
        let held = [
            (tail.slow, tail.lease, 20_000),
            (tail.quick, attempt, bytes),
        ];
        for (id, lease, bytes) in held {
            tail.table
                .renew(id, &[reported(lease, bytes, LENGTH)], 0, tail.now)
                .unwrap();
        }
        assert_eq!(tail.attempt().is_none(), bytes == 2 * 360, "{bytes}");
    }
    check(&tail.table);
    assert_eq!(
        (tail.news(), tail.table.take_given_up()),
        (vec![AttemptEvent::Promoted], vec![])
    );
    assert_eq!(
        tail.report(tail.quick, attempt, &good()),
        ReportVerdict::Settled
    );
}

#[test]
fn a_holder_that_registers_again_after_the_attempt_took_over_drops_the_lease_and_its_success_still_counts()
 {
    let (mut tail, attempt) = Tail::with_attempt(["", ""]);
    for _ in 0..4 {
        tail.now += TTL / 3;
        renew(&mut tail.table, tail.quick, &[attempt], 0, tail.now).unwrap();
    }
    tail.now += TTL / 3;
    renew(&mut tail.table, tail.quick, &[attempt], 0, tail.now).unwrap();
    assert_eq!(tail.table.tick(tail.now).len(), 1);
    let back = register(&mut tail.table, "slow", b"", &[tail.lease], tail.now).unwrap();
    assert_eq!(back.drop, [tail.lease]);
    check(&tail.table);
    assert_eq!(
        tail.report(back.session, tail.lease, &good()),
        ReportVerdict::Settled
    );
    assert_eq!(tail.renewed(tail.quick, attempt), [attempt.wnid]);
}

#[test]
fn an_attempt_ends_when_its_worker_leaves_or_does_not_list_it_and_the_holder_continues() {
    let (mut tail, attempt) = Tail::with_attempt(["", ""]);
    tail.table.leave(tail.quick).unwrap();
    check(&tail.table);
    assert_eq!(tail.news(), [AttemptEvent::GivenBack]);
    tail.quick = session(&mut tail.table, "quick", tail.now);
    assert_eq!(
        tail.renewed(tail.quick, attempt),
        [attempt.wnid],
        "the attempt belonged to another session"
    );
    tail.scan();
    let attempt = tail.acquire(tail.quick)[0];
    for bytes in [30_000, 40_000, 50_000] {
        assert_eq!(tail.attempt(), Some(attempt));
        tail.now += TTL / 3;
        let held = reported(tail.lease, bytes, LENGTH);
        tail.table.renew(tail.slow, &[held], 0, tail.now).unwrap();
        renew(&mut tail.table, tail.quick, &[], 0, tail.now).unwrap();
    }
    assert_eq!(tail.attempt(), None, "the grant never reached the worker");
    assert_eq!(
        tail.report(tail.slow, tail.lease, &good()),
        ReportVerdict::Settled
    );
}

#[test]
fn after_a_restart_of_the_coordinator_one_of_two_workers_keeps_the_lease() {
    let (tail, attempt) = Tail::with_attempt(["", ""]);
    let mut table = LeaseTable::new(&wnids(BEFORE + 1), 0, 2, TTL);
    let holder = register(&mut table, "slow", b"", &[tail.lease], tail.now).unwrap();
    let other = register(&mut table, "quick", b"", &[attempt], tail.now).unwrap();
    assert_eq!((holder.drop, other.drop), (vec![], vec![attempt]));
    check(&table);
    assert_eq!(
        table.report(other.session, attempt, &good(), tail.now, 0.5),
        ReportVerdict::Settled,
        "a success is accepted without a lease"
    );
    assert_eq!(
        renew(&mut table, holder.session, &[tail.lease], 0, tail.now),
        Ok(vec![attempt.wnid])
    );
}
