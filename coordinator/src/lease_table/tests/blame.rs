//! Attribution of failures to a class, a worker or the origin.

use super::*;
use crate::lease_table::breaker::{MAX_WAIT, MAX_WAIT_NEVER_ANSWERED, OPENS_AT, PROBE_EVERY};

const LONG: Duration = Duration::from_mins(6);

/// Lets time pass and renews the sessions meanwhile.
fn pass(table: &mut LeaseTable, sessions: &[SessionId], time: Duration, now: &mut Instant) {
    let end = *now + time;
    while *now < end {
        *now = end.min(*now + TTL);
        for id in sessions {
            let held: Vec<ReportedLease> = table.sessions.by_id[id]
                .leases
                .keys()
                .map(|position| &table.classes[*position])
                .map(|class| {
                    reported(
                        Lease {
                            wnid: class.wnid,
                            token: class.token.unwrap(),
                        },
                        0,
                        0,
                    )
                })
                .collect();
            table.renew(*id, &held, 0, *now).unwrap();
        }
        assert_eq!(table.tick(*now), []);
    }
}

/// Fails `count` classes one after the other, each as soon as it is granted. Returns the verdicts.
fn fail(
    table: &mut LeaseTable,
    id: SessionId,
    count: usize,
    suspect: Suspect,
    now: Instant,
) -> Vec<ReportVerdict> {
    let fail_one = |_| {
        let lease = acquire(table, id, 1, now).unwrap()[0];
        table.report(id, lease, &failure_caused_by(suspect), now, LONGEST_DELAY)
    };
    (0..count).map(fail_one).collect()
}

#[test]
fn a_class_that_one_worker_fails_is_tried_by_another_before_it_has_failed() {
    for suspect in [Suspect::Origin, Suspect::WorkerHost] {
        let mut now = Instant::now();
        let mut table = table(1);
        let one = session(&mut table, "one", now);
        let other = session(&mut table, "other", now);
        assert_eq!(
            fail(&mut table, one, 1, suspect, now),
            [ReportVerdict::Retried]
        );
        assert_eq!(
            acquire(&mut table, other, 1, now).unwrap(),
            [],
            "the retry is delayed"
        );
        pass(&mut table, &[one, other], Duration::from_secs(2), &mut now);
        assert_eq!(
            acquire(&mut table, one, 1, now).unwrap(),
            [],
            "the worker that failed it does not get it again"
        );
        let lease = acquire(&mut table, other, 1, now).unwrap()[0];
        check(&table);
        assert_eq!(
            table.report(
                other,
                lease,
                &failure_caused_by(suspect),
                now,
                LONGEST_DELAY
            ),
            match suspect {
                // The last class of the job: no answer of the origin can decide it any more.
                Suspect::Origin => ReportVerdict::Doubted,
                _ => ReportVerdict::Settled,
            }
        );
        assert_eq!(table.status().failed, 1);
        check(&table);
    }
}

/// A class that needs more space than a worker has.
fn lacks_space() -> Outcome {
    Outcome::Failed(Failure::new(FailureKind::StorageError, "not enough space").lacking_space())
}

#[test]
fn a_class_without_space_is_offered_to_every_storage_and_counts_against_no_worker() {
    let now = Instant::now();
    let mut table = table(1);
    let workers: Vec<SessionId> = (1..=4)
        .map(|number| session(&mut table, &format!("w{number}"), now))
        .collect();
    for worker in &workers[..3] {
        let lease = acquire(&mut table, *worker, 1, now).unwrap()[0];
        assert_eq!(
            table.report(*worker, lease, &lacks_space(), now, LONGEST_DELAY),
            ReportVerdict::Retried
        );
        assert_eq!(
            acquire(&mut table, *worker, 1, now).unwrap(),
            [],
            "the worker still lacks space"
        );
        check(&table);
    }
    // The last worker has space.
    let lease = acquire(&mut table, workers[3], 1, now).unwrap()[0];
    assert_eq!(
        table.report(workers[3], lease, &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(
        (table.status().success, table.take_notices()),
        (1, Vec::new())
    );
}

#[test]
fn a_class_that_fits_on_no_storage_has_failed_after_a_bounded_number_of_offers() {
    for (count, offers) in [(1, 1), (3, 3), (20, class_failures::OFFERS)] {
        let now = Instant::now();
        let mut table = table(1);
        let workers: Vec<SessionId> = (1..=count)
            .map(|number| session(&mut table, &format!("w{number}"), now))
            .collect();
        let mut offered = 0;
        for worker in &workers {
            let Some(lease) = acquire(&mut table, *worker, 1, now)
                .unwrap()
                .first()
                .copied()
            else {
                break;
            };
            offered += 1;
            let verdict = table.report(*worker, lease, &lacks_space(), now, LONGEST_DELAY);
            assert_eq!(
                verdict,
                if offered == offers {
                    ReportVerdict::Settled
                } else {
                    ReportVerdict::Retried
                }
            );
        }
        assert_eq!((offered, table.status().failed), (offers, 1));
    }
}

#[test]
fn failures_for_lack_of_space_do_not_reduce_the_tries_on_other_workers() {
    let mut now = Instant::now();
    let mut table = table(1);
    let workers: Vec<SessionId> = (1..=5)
        .map(|number| session(&mut table, &format!("w{number}"), now))
        .collect();
    for worker in &workers[..3] {
        let lease = acquire(&mut table, *worker, 1, now).unwrap()[0];
        table.report(*worker, lease, &lacks_space(), now, LONGEST_DELAY);
    }
    assert_eq!(
        fail(&mut table, workers[3], 1, Suspect::WorkerHost, now),
        [ReportVerdict::Retried]
    );
    pass(&mut table, &workers, Duration::from_secs(2), &mut now);
    assert_eq!(
        fail(&mut table, workers[4], 1, Suspect::WorkerHost, now),
        [ReportVerdict::Settled]
    );
}

#[test]
fn a_class_that_the_origin_does_not_have_is_tried_by_one_worker_only() {
    let now = Instant::now();
    let mut table = table(1);
    let one = session(&mut table, "one", now);
    session(&mut table, "other", now);
    assert_eq!(
        fail(&mut table, one, 1, Suspect::Class, now),
        [ReportVerdict::Settled]
    );
}

#[test]
fn a_worker_gets_a_class_again_that_it_failed_if_there_is_no_other_worker() {
    let mut now = Instant::now();
    let mut table = table(1);
    let one = session(&mut table, "one", now);
    let other = session(&mut table, "other", now);
    fail(&mut table, one, 1, Suspect::WorkerHost, now);
    pass(&mut table, &[one, other], Duration::from_secs(2), &mut now);
    assert_eq!(acquire(&mut table, one, 1, now).unwrap(), []);
    table.leave(other).unwrap();
    assert_eq!(
        fail(&mut table, one, 1, Suspect::WorkerHost, now),
        [ReportVerdict::Settled]
    );
}

#[test]
fn a_worker_that_fails_classes_that_others_complete_is_quarantined_and_no_class_fails_because_of_it()
 {
    let mut now = Instant::now();
    let mut table = table(40);
    let bad = session(&mut table, "bad", now);
    let well = session(&mut table, "well", now);
    for _ in 0..5 {
        assert_eq!(
            fail(&mut table, bad, 1, Suspect::WorkerHost, now),
            [ReportVerdict::Retried]
        );
        let lease = acquire(&mut table, well, 1, now).unwrap()[0];
        assert_eq!(
            table.report(well, lease, &good(), now, LONGEST_DELAY),
            ReportVerdict::Settled
        );
    }
    let notices = table.take_notices();
    assert!(
        matches!(&notices[..], [LeaseNotice::Quarantined { worker, .. }] if worker == "bad"),
        "{notices:?}"
    );
    assert_eq!(acquire(&mut table, bad, 9, now).unwrap(), []);
    pass(&mut table, &[bad, well], Duration::from_mins(4), &mut now);
    assert_eq!(acquire(&mut table, bad, 9, now).unwrap(), []);
    let wake_ups = table.wake_ups();
    pass(&mut table, &[bad, well], Duration::from_mins(2), &mut now);
    assert!(table.wake_ups() > wake_ups, "waiting workers are woken");
    assert_eq!(acquire(&mut table, bad, 1, now).unwrap().len(), 1);
    for lease in acquire(&mut table, well, 99, now).unwrap() {
        table.report(well, lease, &good(), now, LONGEST_DELAY);
    }
    table.leave(bad).unwrap();
    for lease in acquire(&mut table, well, 99, now).unwrap() {
        table.report(well, lease, &good(), now, LONGEST_DELAY);
    }
    assert_eq!((table.status().success, table.status().failed), (40, 0));
    check(&table);
}

#[test]
fn the_only_worker_is_never_put_into_quarantine() {
    let now = Instant::now();
    let mut table = table(9);
    let one = session(&mut table, "one", now);
    assert_eq!(
        fail(&mut table, one, 9, Suspect::WorkerHost, now),
        [ReportVerdict::Settled; 9]
    );
}

#[test]
fn an_undecided_failure_becomes_final_when_another_class_succeeds() {
    let now = Instant::now();
    let mut table = table(3);
    let one = session(&mut table, "one", now);
    assert_eq!(
        fail(&mut table, one, 1, Suspect::Origin, now),
        [ReportVerdict::Doubted]
    );
    assert_eq!((table.status().pending, table.status().failed), (3, 0));
    let lease = acquire(&mut table, one, 9, now).unwrap();
    assert_eq!(
        numbers(&lease),
        ["2", "3"],
        "it is not tried again meanwhile"
    );
    table.report(one, lease[0], &good(), now, LONGEST_DELAY);
    assert_eq!((table.status().success, table.status().failed), (1, 1));
    let given_up = table.take_given_up();
    assert!(
        given_up.len() == 1 && given_up[0].0 == wnids(1)[0],
        "{given_up:?}"
    );
    assert_eq!(given_up[0].1.to_string(), "HTTPError: 503 Server Error");
    check(&table);
}

#[test]
fn a_job_with_a_short_list_ends_if_all_classes_fail() {
    let now = Instant::now();
    let mut table = table(3);
    let one = session(&mut table, "one", now);
    fail(&mut table, one, 3, Suspect::Origin, now);
    assert!(table.status().is_done());
    assert_eq!((table.status().failed, table.take_given_up().len()), (3, 3));
    check(&table);
}

/// Requests classes, is granted one as a probe, and fails it.
fn fail_probe(table: &mut LeaseTable, id: SessionId, now: Instant) {
    let granted = table.acquire(id, 9, now).unwrap();
    assert!(granted.probe && granted.leases.len() == 1);
    let failure = failure_caused_by(Suspect::Origin);
    assert_eq!(
        table.report(id, granted.leases[0], &failure, now, LONGEST_DELAY),
        ReportVerdict::Excused
    );
    check(table);
}

#[test]
fn no_class_fails_while_the_origin_is_unavailable_and_it_is_probed_every_half_minute() {
    let mut now = Instant::now();
    let mut table = table(100);
    let one = session(&mut table, "one", now);
    let first = acquire(&mut table, one, 2, now).unwrap();
    table.report(one, first[0], &good(), now, LONGEST_DELAY);
    let verdicts = fail(&mut table, one, OPENS_AT, Suspect::Origin, now);
    assert_eq!(
        verdicts[..OPENS_AT - 1],
        [ReportVerdict::Doubted; OPENS_AT - 1]
    );
    assert_eq!(verdicts[OPENS_AT - 1], ReportVerdict::Excused);
    assert_eq!(table.phase(), Phase::OriginPaused);
    assert!(matches!(
        table.take_notices()[..],
        [LeaseNotice::OriginUnavailable {
            waits: MAX_WAIT,
            ..
        }]
    ));
    assert_eq!(
        (table.status().failed, table.status().pending),
        (0, 98),
        "the lease that was granted before is kept"
    );
    assert_eq!(
        table.report(
            one,
            first[1],
            &failure_caused_by(Suspect::Origin),
            now,
            LONGEST_DELAY
        ),
        ReportVerdict::Excused
    );
    let mut probes = 0;
    for _ in 0..15 {
        for _ in 0..2 {
            assert_eq!(acquire(&mut table, one, 9, now).unwrap(), []);
            let wake_ups = table.wake_ups();
            pass(&mut table, &[one], PROBE_EVERY, &mut now);
            assert!(table.wake_ups() > wake_ups, "waiting workers are woken");
            fail_probe(&mut table, one, now);
            probes += 1;
        }
    }
    assert_eq!(
        (probes, table.status().failed),
        (30, 0),
        "a quarter of an hour"
    );
    pass(&mut table, &[one], PROBE_EVERY, &mut now);
    let probe = acquire(&mut table, one, 9, now).unwrap()[0];
    assert_eq!(
        table.take_notices(),
        [],
        "the origin has not answered meanwhile"
    );
    table.report(one, probe, &good(), now, LONGEST_DELAY);
    assert_eq!(table.take_notices(), [LeaseNotice::OriginAvailable]);
    assert_eq!(table.phase(), Phase::Running);
    let rest = acquire(&mut table, one, 999, now).unwrap();
    assert_eq!(rest.len(), 98);
    for lease in rest {
        table.report(one, lease, &good(), now, LONGEST_DELAY);
    }
    assert_eq!((table.status().success, table.status().failed), (100, 0));
    check(&table);
}

#[test]
fn received_bytes_close_the_breaker_before_a_large_class_is_complete() {
    let mut now = Instant::now();
    let mut table = table(50);
    let one = session(&mut table, "one", now);
    fail(&mut table, one, OPENS_AT, Suspect::Origin, now);
    pass(&mut table, &[one], PROBE_EVERY, &mut now);
    let probe = acquire(&mut table, one, 9, now).unwrap();
    now += TTL / 3;
    table.renew(one, &as_reported(&probe), 0, now).unwrap();
    assert_eq!(table.phase(), Phase::OriginPaused);
    table.renew(one, &as_reported(&probe), 5, now).unwrap();
    assert_eq!(table.phase(), Phase::Running);
}

#[test]
fn the_wait_for_an_origin_is_bounded() {
    for (has_answered, patience) in [(false, MAX_WAIT_NEVER_ANSWERED), (true, MAX_WAIT)] {
        let mut now = Instant::now();
        let mut table = table(20);
        let one = session(&mut table, "one", now);
        if has_answered {
            let lease = acquire(&mut table, one, 1, now).unwrap()[0];
            table.report(one, lease, &good(), now, LONGEST_DELAY);
        }
        fail(&mut table, one, OPENS_AT, Suspect::Origin, now);
        pass(&mut table, &[one], patience, &mut now);
        while !table.status().is_done() {
            let granted = table.acquire(one, 9, now).unwrap();
            assert!(granted.probe, "one attempt each is enough");
            assert_eq!(
                table.report(
                    one,
                    granted.leases[0],
                    &failure_caused_by(Suspect::Origin),
                    now,
                    LONGEST_DELAY
                ),
                ReportVerdict::Settled
            );
        }
        assert_eq!(table.status().failed, 20 - u64::from(has_answered));
    }
}

#[test]
fn a_class_without_progress_goes_to_another_worker_although_its_session_lives() {
    let mut now = Instant::now();
    let mut table = table(2);
    let one = session(&mut table, "one", now);
    let other = session(&mut table, "other", now);
    let leases = acquire(&mut table, one, 2, now).unwrap();
    for bytes in 1..242 {
        now += TTL;
        let held = [reported(leases[0], bytes, 0), reported(leases[1], 7, 0)];
        table.renew(one, &held, 0, now).unwrap();
        table.renew(other, &[], 0, now).unwrap();
    }
    let wedged = LeaseNotice::NoProgress {
        wnid: leases[1].wnid,
        worker: "one".to_owned(),
    };
    assert_eq!(table.take_notices(), [wedged]);
    assert_eq!(acquire(&mut table, one, 2, now).unwrap(), []);
    let lease = acquire(&mut table, other, 2, now).unwrap()[0];
    assert_eq!(lease.wnid, leases[1].wnid);
    for bytes in 242..=484 {
        now += TTL;
        table
            .renew(one, &[reported(leases[0], bytes, 0)], 0, now)
            .unwrap();
        table
            .renew(other, &[reported(lease, 7, 0)], 0, now)
            .unwrap();
    }
    let given_up = table.take_given_up();
    assert!(
        given_up.len() == 1 && given_up[0].0 == lease.wnid,
        "{given_up:?}"
    );
    assert_eq!(
        given_up[0].1.to_string(),
        "Timeout: no progress for 2h, 2 times"
    );
    check(&table);
}

/// `--timeout 24h` permits attempts that wait for a day. Or the origin requests waits of a quarter
/// of an hour repeatedly.
#[test]
fn a_class_that_waits_no_longer_than_the_job_permits_is_not_taken_from_its_worker() {
    for (stuck_after, is_paused) in [(Duration::from_hours(145), false), (STUCK, true)] {
        let mut now = Instant::now();
        let mut table =
            LeaseTable::new(&wnids(1), 0, 1, TTL).expecting_progress_within(stuck_after);
        let one = session(&mut table, "one", now);
        let leases = acquire(&mut table, one, 1, now).unwrap();
        for _ in 0..2880 {
            now += TTL;
            table.tick(now);
            table.look_for_stragglers(is_paused, now);
            let held = reported(leases[0], 7, 100_000);
            assert_eq!(table.renew(one, &[held], 0, now).unwrap().drop, []);
        }
        assert_eq!(table.take_notices(), []);
        assert_eq!(table.status().leased, 1);
    }
}

/// A single session may cause repeated short pauses.
#[test]
fn short_pauses_delay_the_end_of_a_lease_without_progress_by_their_length_only() {
    let mut now = Instant::now();
    let mut table = table(1);
    let one = session(&mut table, "one", now);
    let other = session(&mut table, "other", now);
    let leases = acquire(&mut table, one, 1, now).unwrap();
    let held = reported(leases[0], 7, 0);
    let mut waited = Duration::ZERO;
    while table.status().leased == 1 {
        for is_paused in [false, true] {
            let time = Duration::from_secs(if is_paused { 2 } else { 28 });
            now += time;
            waited += time;
            table.look_for_stragglers(is_paused, now);
        }
        table.renew(one, &[held], 0, now).unwrap();
        table.renew(other, &[], 0, now).unwrap();
        assert!(waited < 2 * STUCK, "the class is not taken from its worker");
    }
    assert!(waited >= STUCK && waited <= STUCK * 11 / 10, "{waited:?}");
}

#[test]
fn a_class_that_waits_for_a_connection_is_not_wedged_while_its_worker_receives_bytes() {
    let mut now = Instant::now();
    let mut table = table(2);
    let one = session(&mut table, "one", now);
    let leases = acquire(&mut table, one, 2, now).unwrap();
    let mut renew = |bytes: u64, received: u64| {
        now += TTL;
        let held =
            [(leases[0], bytes), (leases[1], 0)].map(|(lease, bytes)| reported(lease, bytes, 0));
        table.renew(one, &held, received, now).unwrap();
        table.take_notices()
    };
    // For three hours the other class uses the only connection.
    for bytes in 1..=360 {
        assert_eq!(renew(bytes, bytes), []);
    }
    // The connection breaks, and no more bytes are received.
    let wedged = |lease: Lease| LeaseNotice::NoProgress {
        wnid: lease.wnid,
        worker: "one".to_owned(),
    };
    for _ in 1..240 {
        assert_eq!(renew(360, 360), []);
    }
    assert_eq!(renew(360, 360), [wedged(leases[0]), wedged(leases[1])]);
    check(&table);
}

#[test]
fn an_idle_worker_that_acquires_nothing_does_not_block_a_retry_on_the_worker_that_failed() {
    let mut now = Instant::now();
    let mut table = table(1);
    let one = session(&mut table, "one", now);
    let idle = session(&mut table, "idle", now);
    assert_eq!(
        fail(&mut table, one, 1, Suspect::WorkerHost, now),
        [ReportVerdict::Retried]
    );
    pass(&mut table, &[one, idle], Duration::from_mins(4), &mut now);
    assert_eq!(acquire(&mut table, one, 1, now).unwrap(), []);
    pass(&mut table, &[one, idle], Duration::from_mins(1), &mut now);
    assert_eq!(
        fail(&mut table, one, 1, Suspect::WorkerHost, now),
        [ReportVerdict::Settled],
        "two failures are enough"
    );
}

#[test]
fn success_under_a_lease_from_before_the_failures_does_not_show_that_the_origin_answers() {
    let now = Instant::now();
    let mut table = table(30);
    let one = session(&mut table, "one", now);
    let older = acquire(&mut table, one, 2, now).unwrap();
    fail(&mut table, one, OPENS_AT - 1, Suspect::Origin, now);
    table.report(one, older[0], &good(), now, LONGEST_DELAY);
    assert_eq!(
        table.take_given_up(),
        [],
        "its bytes may be older than the first failure"
    );
    fail(&mut table, one, 1, Suspect::Origin, now);
    table.report(one, older[1], &good(), now, LONGEST_DELAY);
    assert_eq!(table.phase(), Phase::OriginPaused);
    assert_eq!((table.status().success, table.status().failed), (2, 0));
    check(&table);
}

#[test]
fn failed_classes_can_be_tried_again_all_or_some() {
    let now = Instant::now();
    let mut table = table(4);
    let one = session(&mut table, "one", now);
    let leases = acquire(&mut table, one, 3, now).unwrap();
    for lease in &leases {
        assert_eq!(
            table.report(one, *lease, &bad(), now, LONGEST_DELAY),
            ReportVerdict::Settled
        );
    }
    assert_eq!(
        table.retry_failed(&[leases[1].wnid, wnids(4)[3]]),
        [leases[1].wnid]
    );
    assert_eq!(table.retry_failed(&[]), [leases[0].wnid, leases[2].wnid]);
    assert_eq!((table.status().failed, table.status().pending), (0, 4));
    assert_eq!(
        table.report(one, leases[0], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Stale,
        "the old lease is no longer valid"
    );
    check(&table);
}

#[test]
fn a_drained_worker_is_granted_nothing_and_keeps_its_leases() {
    let now = Instant::now();
    let mut table = table(3);
    let one = session(&mut table, "one", now);
    let leases = acquire(&mut table, one, 1, now).unwrap();
    assert!(table.drain("one").is_some() && table.drain("other").is_none());
    assert!(table.acquire(one, 1, now).unwrap().drain);
    assert_eq!(
        table.renew(one, &as_reported(&leases), 0, now).unwrap(),
        Renewed {
            drop: vec![],
            drain: true
        }
    );
    assert_eq!(
        table.report(one, leases[0], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(shown(&mut table, now + LONG)[0].success, 1);
}

/// Its lease has expired, so the class is in the queue of returned classes until its worker
/// registers again.
#[test]
fn a_class_in_doubt_is_not_granted_although_its_lease_had_expired() {
    let mut table = table(4);
    let mut now = Instant::now();
    let first = session(&mut table, "first", now);
    let doubtful = acquire(&mut table, first, 4, now).unwrap()[0];
    now += TTL * 2;
    table.tick(now);
    let other = session(&mut table, "other", now);
    assert_eq!(
        table.report(
            other,
            doubtful,
            &failure_caused_by(Suspect::Origin),
            now,
            0.5
        ),
        ReportVerdict::Stale
    );
    assert_eq!(
        table.report(
            first,
            doubtful,
            &failure_caused_by(Suspect::Origin),
            now,
            0.5
        ),
        ReportVerdict::Stale
    );
    table.leave(other).unwrap();
    let second = register(&mut table, "first", b"first", &[doubtful], now)
        .unwrap()
        .session;
    assert_eq!(
        table.report(
            second,
            doubtful,
            &failure_caused_by(Suspect::Origin),
            now,
            0.5
        ),
        ReportVerdict::Doubted
    );
    check(&table);
    let others = acquire(&mut table, second, 4, now).unwrap();
    assert_eq!(numbers(&others), ["2", "3", "4"]);
    assert_eq!(
        table.report(second, others[0], &good(), now, 0.5),
        ReportVerdict::Settled
    );
    assert!(matches!(&table.take_given_up()[..], [(wnid, _)] if *wnid == doubtful.wnid));
    check(&table);
}

/// The first worker was the only one, so no other worker could try the class.
#[test]
fn a_class_in_doubt_is_tried_by_a_worker_that_came_later_before_it_has_failed() {
    let mut table = table(3);
    let mut now = Instant::now();
    let one = session(&mut table, "one", now);
    assert_eq!(
        fail(&mut table, one, 1, Suspect::Origin, now),
        [ReportVerdict::Doubted]
    );
    let other = session(&mut table, "other", now);
    let lease = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(
        table.report(other, lease, &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(
        (table.take_given_up().len(), table.status().pending),
        (0, 2)
    );
    check(&table);
    assert_eq!(
        numbers(&acquire(&mut table, one, 1, now).unwrap()),
        ["3"],
        "it failed the other class"
    );
    let again = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(numbers(&[again]), ["1"]);
    assert_eq!(
        table.report(
            other,
            again,
            &failure_caused_by(Suspect::Origin),
            now,
            LONGEST_DELAY
        ),
        ReportVerdict::Doubted,
        "the second failure"
    );
    now += Duration::from_secs(1);
    table.leave(one).unwrap();
    let last = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(
        table.report(other, last, &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!((table.take_given_up().len(), table.status().failed), (1, 1));
    check(&table);
}
