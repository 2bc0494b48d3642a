//! A restarted coordinator: which leases its workers keep, and which workers it waits for.

use super::*;

/// A table of epoch 2, and leases that a coordinator of epoch 1 granted.
fn restarted(count: u32, workers: &[&str], now: Instant) -> (LeaseTable, Vec<Lease>) {
    let mut before = table(count);
    let one = session(&mut before, "one", now);
    let leases = acquire(&mut before, one, usize::MAX, now).unwrap();
    let mut after = LeaseTable::new(&wnids(count), 0, 2, TTL);
    after.recover(
        workers.iter().map(|worker| ((*worker).to_owned(), TTL)),
        now,
    );
    (after, leases)
}

#[test]
fn workers_that_register_again_keep_their_leases_and_no_other_worker_gets_them() {
    let mut now = Instant::now();
    let (mut table, leases) = restarted(4, &["one", "other"], now);
    let stranger = session(&mut table, "stranger", now);
    assert_eq!(
        acquire(&mut table, stranger, 9, now).unwrap(),
        [],
        "the holders have not registered yet"
    );
    assert_eq!(table.phase(), Phase::Recovering);
    now += Duration::from_secs(1);
    let one = register(&mut table, "one", b"one", &leases[..2], now).unwrap();
    assert_eq!(one.drop, []);
    let wake_ups = table.wake_ups();
    register(&mut table, "other", b"other", &[], now).unwrap();
    assert!(
        table.wake_ups() > wake_ups,
        "waiting workers are woken at once"
    );
    assert_eq!(
        numbers(&acquire(&mut table, stranger, 9, now).unwrap()),
        ["3", "4"]
    );
    assert_eq!(
        table.report(one.session, leases[0], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Settled,
        "under the old token"
    );
    assert_eq!(
        renew(&mut table, one.session, &leases[1..2], 0, now),
        Ok(vec![])
    );
    check(&table);
}

#[test]
fn a_worker_that_does_not_register_again_is_waited_for_until_its_leases_expire() {
    let mut now = Instant::now();
    let (mut table, _) = restarted(2, &["gone"], now);
    let other = session(&mut table, "other", now);
    let last_second = Duration::from_secs(1);
    now += TTL + EXPIRY_MARGIN.saturating_sub(last_second);
    table.renew(other, &[], 0, now).unwrap();
    table.tick(now);
    assert_eq!(acquire(&mut table, other, 9, now).unwrap(), []);
    now += last_second;
    table.tick(now);
    assert_eq!(
        table.take_notices(),
        [LeaseNotice::NotReturned("gone".to_owned())]
    );
    assert_eq!(acquire(&mut table, other, 9, now).unwrap().len(), 2);
}

/// A coordinator with `--lease-ttl 30s` follows one whose workers have a time to live of five
/// minutes.
#[test]
fn workers_with_a_longer_time_to_live_are_waited_for_until_it_ends() {
    let mut now = Instant::now();
    let (mut table, leases) = restarted(2, &[], now);
    let told = Duration::from_mins(5);
    table.recover([("one".to_owned(), told), ("gone".to_owned(), TTL)], now);
    let other = session(&mut table, "other", now);
    let mut pass = |table: &mut LeaseTable, span: Duration| {
        let end = now + span;
        while now < end {
            now = end.min(now + TTL);
            table.renew(other, &[], 0, now).unwrap();
            table.tick(now);
        }
        now
    };
    let before = pass(&mut table, told);
    assert_eq!(acquire(&mut table, other, 9, before).unwrap(), []);
    let one = register(&mut table, "one", b"one", &leases[..1], before).unwrap();
    assert_eq!(one.drop, [], "it registers again within its time to live");
    let after = pass(&mut table, EXPIRY_MARGIN);
    assert_eq!(
        numbers(&acquire(&mut table, other, 9, after).unwrap()),
        ["2"]
    );
    check(&table);
}

#[test]
fn of_two_workers_that_list_the_same_class_one_gets_it() {
    let now = Instant::now();
    let (mut table, leases) = restarted(1, &["one", "other"], now);
    let one = register(&mut table, "one", b"one", &leases, now).unwrap();
    let other = register(&mut table, "other", b"other", &leases, now).unwrap();
    assert_eq!((one.drop, other.drop), (vec![], leases));
    check(&table);
}

#[test]
fn results_kept_while_the_coordinator_was_down_are_accepted_without_a_lease() {
    let now = Instant::now();
    let (mut table, leases) = restarted(2, &["one"], now);
    let one = register(&mut table, "one", b"one", &[], now)
        .unwrap()
        .session;
    assert_eq!(
        table.report(one, leases[0], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(
        table.report(one, leases[1], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Stale,
        "a failure needs a lease"
    );
    assert_eq!(acquire(&mut table, one, 9, now).unwrap().len(), 1);
}

#[test]
fn an_origin_that_answered_before_the_restart_is_waited_for_longer() {
    let mut now = Instant::now();
    let mut table = LeaseTable::new(&wnids(40), 0, 2, TTL);
    table.restore(wnids(1)[0], &good());
    let one = session(&mut table, "one", now);
    for _ in 0..12 {
        let lease = acquire(&mut table, one, 1, now).unwrap()[0];
        table.report(
            one,
            lease,
            &failure_caused_by(Suspect::Origin),
            now,
            LONGEST_DELAY,
        );
    }
    for _ in 0..29 {
        now += TTL;
        table.renew(one, &[], 0, now).unwrap();
        now += TTL;
        table.renew(one, &[], 0, now).unwrap();
        let probe = table.acquire(one, 1, now).unwrap().leases[0];
        assert_eq!(
            table.report(
                one,
                probe,
                &failure_caused_by(Suspect::Origin),
                now,
                LONGEST_DELAY
            ),
            ReportVerdict::Excused
        );
    }
    check(&table);
}

#[test]
fn expected_workers_are_waited_for_also_when_the_job_is_done() {
    let mut now = Instant::now();
    let (mut table, leases) = restarted(1, &["one"], now);
    table.restore(leases[0].wnid, &good());
    assert_eq!((table.phase(), table.heard_of(TTL, now)), (Phase::Done, 1));
    now += Duration::from_secs(1);
    let one = session(&mut table, "one", now);
    assert_eq!(table.heard_of(TTL, now), 1);
    table.leave(one).unwrap();
    assert_eq!(table.heard_of(TTL, now), 0);
}

#[test]
fn without_workers_to_wait_for_leasing_begins_at_once() {
    let now = Instant::now();
    let (mut table, _) = restarted(1, &[], now);
    assert_eq!(table.phase(), Phase::WaitingForWorkers);
    let one = session(&mut table, "one", now);
    assert_eq!(acquire(&mut table, one, 1, now).unwrap().len(), 1);
}

/// The cursor never passes a class that a worker of the previous coordinator holds.
#[test]
fn a_class_that_failed_after_a_restart_is_not_granted_before_its_delay_is_over() {
    for suspect in [Suspect::WorkerHost, Suspect::Origin] {
        let mut now = Instant::now();
        let (mut table, leases) = restarted(2, &["one"], now);
        let one = register(&mut table, "one", b"one", &leases[..1], now)
            .unwrap()
            .session;
        let other = session(&mut table, "other", now);
        assert_eq!(
            table.report(
                one,
                leases[0],
                &failure_caused_by(suspect),
                now,
                LONGEST_DELAY
            ),
            ReportVerdict::Retried
        );
        check(&table);
        assert_eq!(
            numbers(&acquire(&mut table, other, 9, now).unwrap()),
            ["2"],
            "{suspect:?}"
        );
        now += Duration::from_secs(2);
        table.tick(now);
        assert_eq!(
            numbers(&acquire(&mut table, other, 9, now).unwrap()),
            ["1"],
            "{suspect:?}"
        );
        check(&table);
    }
}

#[test]
fn a_class_whose_failure_is_in_doubt_after_a_restart_is_not_granted_before_the_origin_answers() {
    let now = Instant::now();
    let (mut table, leases) = restarted(3, &["one"], now);
    let one = register(&mut table, "one", b"one", &leases[..1], now)
        .unwrap()
        .session;
    assert_eq!(
        table.report(
            one,
            leases[0],
            &failure_caused_by(Suspect::Origin),
            now,
            LONGEST_DELAY
        ),
        ReportVerdict::Doubted
    );
    check(&table);
    let granted = acquire(&mut table, one, 9, now).unwrap();
    assert_eq!(numbers(&granted), ["2", "3"]);
    assert_eq!(
        table.report(one, granted[0], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(
        (table.status().failed, table.status().leased),
        (1, 1),
        "the origin answers: the class has failed"
    );
    check(&table);
}

/// The heartbeat was sent before the failure was reported, and is received after it.
#[test]
fn a_late_heartbeat_does_not_restore_a_lease_that_its_worker_has_failed() {
    let now = Instant::now();
    let (mut table, leases) = restarted(2, &["one"], now);
    let one = register(&mut table, "one", b"one", &leases[..1], now)
        .unwrap()
        .session;
    session(&mut table, "other", now);
    assert_eq!(
        table.report(
            one,
            leases[0],
            &failure_caused_by(Suspect::WorkerHost),
            now,
            LONGEST_DELAY
        ),
        ReportVerdict::Retried
    );
    assert_eq!(
        renew(&mut table, one, &leases[..1], 0, now),
        Ok(vec![leases[0].wnid])
    );
    assert_eq!((table.status().leased, table.status().pending), (0, 2));
    check(&table);
}

/// Two workers, one of which is dead. The other one does not wait for it to get classes that it
/// cannot hold.
#[test]
fn classes_that_were_never_granted_are_granted_at_once_and_the_others_when_the_wait_is_over() {
    let mut now = Instant::now();
    let (mut table, leases) = restarted(6, &[], now);
    table = table.granted_before(Mark::from(3));
    table.recover([("one".to_owned(), TTL), ("dead".to_owned(), TTL)], now);
    assert_eq!(table.expected().unwrap().workers, ["dead", "one"]);
    // A worker cannot hold a class that no former epoch granted.
    let one = register(&mut table, "one", b"one", &[leases[0], leases[4]], now).unwrap();
    assert_eq!(one.drop, [leases[4]]);
    assert_eq!(
        acquire(&mut table, one.session, 9, now).unwrap(),
        [],
        "the ledger has no mark for it yet"
    );
    let mark = table.take_mark().unwrap();
    let wake_ups = table.wake_ups();
    table.mark_is_durable(mark);
    assert!(
        table.wake_ups() > wake_ups,
        "waiting workers are woken at once"
    );
    let granted = acquire(&mut table, one.session, 2, now).unwrap();
    assert_eq!(numbers(&granted), ["4", "5"]);
    // A returned class that was granted before the restart is still held back.
    table.take_back(one.session, &[granted[1], leases[0]]);
    let more = acquire(&mut table, one.session, 9, now).unwrap();
    assert_eq!(numbers(&more), ["5", "6"]);
    check(&table);
    now += TTL;
    table
        .renew(
            one.session,
            &as_reported(&[granted[0], more[0], more[1]]),
            0,
            now,
        )
        .unwrap();
    assert_eq!(acquire(&mut table, one.session, 9, now).unwrap(), []);
    now += EXPIRY_MARGIN;
    table.tick(now);
    assert_eq!(table.expected(), None);
    assert_eq!(
        table.take_notices(),
        [LeaseNotice::NotReturned("dead".to_owned())]
    );
    check(&table);
    assert_eq!(
        numbers(&acquire(&mut table, one.session, 9, now).unwrap()),
        ["1", "2", "3"]
    );
    check(&table);
}

#[test]
fn a_drained_process_is_granted_nothing_after_a_restart_and_its_successor_is() {
    let now = Instant::now();
    let mut before = table(9);
    session(&mut before, "one", now);
    let told = Drain::Requested {
        worker: "one".to_owned(),
        instance: b"one".to_vec(),
    };
    assert_eq!(before.drain("one"), Some(vec![told]));
    let (mut table, _) = restarted(9, &["one"], now);
    table.restore_drains([("one".to_owned(), b"one".to_vec())]);
    let one = register(&mut table, "one", b"one", &[], now).unwrap();
    assert_eq!(
        (one.drain_over, shown(&mut table, now)[0].state),
        (None, crate::fleet::WorkerState::Draining)
    );
    let granted = table.acquire(one.session, 1, now).unwrap();
    assert_eq!((granted.leases.len(), granted.drain), (0, true));
    // Its session expires and it registers again: it is the same process.
    table.tick(now + TTL + EXPIRY_MARGIN);
    let one = register(&mut table, "one", b"one", &[], now)
        .unwrap()
        .session;
    assert!(table.renew(one, &[], 0, now).unwrap().drain);

    let successor = register(&mut table, "one", b"another", &[], now).unwrap();
    assert_eq!(
        successor.drain_over,
        Some(Drain::Over {
            worker: "one".to_owned()
        })
    );
    assert_eq!(
        acquire(&mut table, successor.session, 1, now)
            .unwrap()
            .len(),
        1
    );
    table.leave(successor.session).unwrap();
    assert_eq!(table.end_drain("one"), None);
}

/// The ledger of the coordinator that drained it is lost.
#[test]
fn a_process_that_reports_that_it_drains_is_granted_nothing() {
    let now = Instant::now();
    let mut table = table(1);
    let worker_info = WorkerInfo {
        worker: "one".to_owned(),
        instance: vec![1],
        slots: 1,
        draining: true,
        ..WorkerInfo::default()
    };
    let one = table.register(&worker_info, &[], now).unwrap().session;
    assert!(table.acquire(one, 1, now).unwrap().drain);
    assert_eq!(table.status().pending, 1);
}
