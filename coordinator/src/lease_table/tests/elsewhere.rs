//! Classes that the ledger has as complete on a worker of the last run.

use super::*;

/// Four classes, of which the worker "there" had the first two.
fn setting(now: Instant, expected: &[&str]) -> LeaseTable {
    let mut table = table(4);
    for number in [1, 2] {
        table.was_complete_on(wnid(number), "there", false);
    }
    let expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    table.expect(&expected, now);
    check(&table);
    table
}

fn elsewhere(classes: usize, event: ElsewhereEvent) -> LeaseNotice {
    LeaseNotice::Elsewhere(ElsewhereNotice { classes, event })
}

fn absent(classes: usize) -> LeaseNotice {
    elsewhere(classes, ElsewhereEvent::Absent("there".to_owned()))
}

#[test]
fn classes_of_an_absent_worker_are_granted_last_and_reported_before() {
    let now = Instant::now();
    let mut table = setting(now, &[]);
    let other = session(&mut table, "other", now);
    assert_eq!(
        numbers(&acquire(&mut table, other, 4, now).unwrap()),
        ["3", "4"]
    );
    assert_eq!(table.take_notices(), []);
    let wake_ups = table.wake_ups();
    let later = now + super::super::elsewhere::JOIN_GRACE;
    table.tick(later);
    assert!(table.wake_ups() > wake_ups, "waiting workers are woken");
    assert_eq!(table.take_notices(), [absent(2)]);
    assert_eq!(
        numbers(&acquire(&mut table, other, 4, later).unwrap()),
        ["1", "2"]
    );
    assert_eq!(table.take_notices(), []);
    check(&table);
}

#[test]
fn reported_classes_of_a_joining_worker_are_skipped_and_the_rest_is_granted() {
    let now = Instant::now();
    let mut table = setting(now, &["there"]);
    let there = session(&mut table, "there", now);
    let skipped = Outcome::Skipped(Published::default());
    let unleased = Lease {
        wnid: wnid(1),
        token: LeaseToken(0),
    };
    assert_eq!(
        table.report(there, unleased, &skipped, now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    table.take_notices();
    // The classes that it does not have are granted first.
    assert_eq!(
        numbers(&acquire(&mut table, there, 2, now).unwrap()),
        ["2", "3"]
    );
    let not_there = elsewhere(1, ElsewhereEvent::NotThere("there".to_owned()));
    assert_eq!(table.take_notices(), [not_there]);
    check(&table);
}

#[test]
fn after_a_restart_a_worker_that_returns_with_leases_sends_its_inventory_and_delays_no_other_one() {
    let now = Instant::now();
    let mut table = LeaseTable::new(&wnids(6), 0, 2, TTL);
    for (number, worker) in [(1, "there"), (2, "there"), (3, "other")] {
        table.was_complete_on(wnid(number), worker, true);
    }
    let former = |number| {
        [Lease {
            wnid: wnid(number),
            token: LeaseToken::first(1).next(),
        }]
    };
    let other = register(&mut table, "other", b"other", &former(3), now).unwrap();
    assert!(
        !other.needs_inventory,
        "it holds the only class that the ledger has of it"
    );
    let there = register(&mut table, "there", b"there", &former(4), now).unwrap();
    assert!(there.needs_inventory && there.drop.is_empty());
    assert_eq!(
        numbers(&acquire(&mut table, other.session, 9, now).unwrap()),
        ["5", "6"]
    );
    // One class is complete, the other one needs a lease.
    let skipped = Outcome::Skipped(Published::default());
    let unleased = Lease {
        wnid: wnid(1),
        token: LeaseToken(0),
    };
    assert_eq!(
        table.report(there.session, unleased, &skipped, now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    table.needs_lease(there.session, wnid(2)).unwrap();
    assert!(
        !register(&mut table, "there", b"there", &former(4), now)
            .unwrap()
            .needs_inventory,
        "all classes are reported"
    );
    assert_eq!(
        numbers(&acquire(&mut table, there.session, 9, now).unwrap()),
        ["2"]
    );
    assert_eq!(
        table.take_notices(),
        [],
        "none of its classes is reported as missing"
    );
    check(&table);
}

#[test]
fn an_expected_worker_is_waited_for_until_a_deadline() {
    let now = Instant::now();
    let mut table = setting(now, &["there", "unknown", "there"]);
    let expected =
        |worker: &str, classes| elsewhere(classes, ElsewhereEvent::Expected(worker.to_owned()));
    assert_eq!(
        table.take_notices(),
        [expected("there", 2), expected("unknown", 0)]
    );
    let other = session(&mut table, "other", now);
    let held = acquire(&mut table, other, 4, now).unwrap();
    assert_eq!(numbers(&held), ["3", "4"]);
    let almost = now + JOIN_TIMEOUT - Duration::from_secs(1);
    renew(&mut table, other, &held, 0, almost).unwrap();
    table.tick(almost);
    assert_eq!(acquire(&mut table, other, 4, almost).unwrap(), []);
    assert_eq!(table.take_notices(), []);
    table.tick(now + JOIN_TIMEOUT);
    let not_joined = elsewhere(2, ElsewhereEvent::NotJoined("there".to_owned()));
    assert_eq!(table.take_notices(), [not_joined]);
    assert_eq!(
        numbers(&acquire(&mut table, other, 4, now + JOIN_TIMEOUT).unwrap()),
        ["1", "2"]
    );
    check(&table);
}

#[test]
fn a_skipped_class_is_pending_again_if_its_worker_does_not_have_it() {
    let now = Instant::now();
    for has_begun in [false, true] {
        let mut table = table(3);
        let skipped = Outcome::Skipped(Published::default());
        for number in [1, 2] {
            table.restore(wnid(number), &skipped);
            table.was_complete_on(wnid(number), "there", has_begun);
        }
        let there = session(&mut table, "there", now);
        let unleased = Lease {
            wnid: wnid(1),
            token: LeaseToken(0),
        };
        assert_eq!(
            table.report(there, unleased, &skipped, now, LONGEST_DELAY),
            ReportVerdict::AlreadySettled
        );
        let granted = numbers(&acquire(&mut table, there, 3, now).unwrap());
        // Classes that were confirmed to an earlier process of this run stay skipped.
        let (expected, forgotten) = if has_begun {
            (&["3"][..], vec![])
        } else {
            (&["2", "3"][..], vec![wnid(2)])
        };
        assert_eq!(granted, expected);
        assert_eq!(table.take_unsettled(), forgotten);
        check(&table);
    }
}

#[test]
fn a_complete_class_that_needs_a_lease_is_granted_to_its_storage_first_and_not_reported_as_missing()
{
    let now = Instant::now();
    for counts_as_skipped in [false, true] {
        let mut table = table(4);
        for number in [1, 2] {
            if counts_as_skipped {
                table.restore(wnid(number), &Outcome::Skipped(Published::default()));
            }
            table.was_complete_on(wnid(number), "there", false);
        }
        assert_eq!(
            table.needs_lease(SessionId(99), wnid(2)),
            Err(UnknownSession)
        );
        let worker_info = |worker: &str| WorkerInfo {
            worker: worker.to_owned(),
            instance: worker.into(),
            slots: 1,
            storage: format!("storage of {worker}"),
            ..WorkerInfo::default()
        };
        let [there, other] = ["there", "other"].map(|name| {
            table
                .register(&worker_info(name), &[], now)
                .unwrap()
                .session
        });
        acquire(&mut table, other, 0, now).unwrap();
        table.needs_lease(there, wnid(2)).unwrap();
        // A class that no earlier run had, and one that is in no list.
        table.needs_lease(there, wnid(3)).unwrap();
        table.needs_lease(there, wnid(9)).unwrap();
        table.take_notices();
        assert_eq!(numbers(&acquire(&mut table, there, 1, now).unwrap()), ["2"]);
        let not_there = elsewhere(1, ElsewhereEvent::NotThere("there".to_owned()));
        assert_eq!(table.take_notices(), [not_there], "the other one");
        assert_eq!(numbers(&acquire(&mut table, other, 1, now).unwrap()), ["1"]);
        let forgotten = if counts_as_skipped {
            vec![wnid(2), wnid(1)]
        } else {
            vec![]
        };
        assert_eq!(table.take_unsettled(), forgotten);
        check(&table);
    }
}
