//! Workers that are lost repeatedly: whether the class or one hostile worker causes the losses.

use super::*;

/// Registers a worker under a new name.
fn newcomer(table: &mut LeaseTable, name: &str, now: Instant) -> SessionId {
    let worker_info = WorkerInfo {
        worker: name.to_owned(),
        instance: name.into(),
        slots: 1,
        ..WorkerInfo::default()
    };
    table.register(&worker_info, &[], now).unwrap().session
}

/// Lets the time pass after which a session without heartbeats ends; the given sessions renew
/// meanwhile.
fn pass(table: &mut LeaseTable, held: &[(SessionId, Vec<ReportedLease>)], now: &mut Instant) {
    for _ in 0..4 {
        *now += TTL / 3;
        for (id, held) in held {
            table.renew(*id, held, 0, *now).unwrap();
        }
        table.tick(*now);
        check(table);
    }
}

/// A fleet with one worker, which has completed a class (`is_proven`) or failed it, and one pending
/// class.
fn fleet(is_proven: bool, now: Instant) -> (LeaseTable, SessionId) {
    let mut table = table(2);
    let honest = session(&mut table, "honest", now);
    let done = acquire(&mut table, honest, 1, now).unwrap()[0];
    if is_proven {
        table.report(honest, done, &good(), now, LONGEST_DELAY);
    } else {
        table.report(honest, done, &bad(), now, LONGEST_DELAY);
    }
    (table, honest)
}

#[test]
fn no_worker_fails_a_class_by_losing_it_under_any_number_of_names() {
    let mut now = Instant::now();
    let (mut table, honest) = fleet(true, now);
    let mut granted = 0;
    for number in 0..1000 {
        let hostile = newcomer(&mut table, &format!("hostile {number}"), now);
        granted += acquire(&mut table, hostile, 1, now).unwrap().len();
        pass(&mut table, &[(honest, vec![])], &mut now);
        assert_eq!(table.take_given_up(), []);
    }
    // The first ten losses follow each other directly. After that the class is granted to an
    // unproven worker only when no worker that has completed a class took it within five minutes.
    assert!((10..=140).contains(&granted), "{granted}");
    let lease = acquire(&mut table, honest, 1, now).unwrap()[0];
    assert_eq!(
        table.report(honest, lease, &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    check(&table);
}

#[test]
fn a_class_that_crashes_every_worker_fails_also_if_workers_have_completed_others() {
    for healthy in [1_u32, 3, 20] {
        let mut now = Instant::now();
        let mut table = table(healthy + 1);
        let ids: Vec<SessionId> = (0..healthy)
            .map(|number| session(&mut table, &number.to_string(), now))
            .collect();
        for id in &ids {
            let lease = acquire(&mut table, *id, 1, now).unwrap()[0];
            table.report(*id, lease, &good(), now, LONGEST_DELAY);
        }
        let mut losses = 0;
        let mut alive = ids;
        while !table.status().is_done() {
            losses += 1;
            // A restarted worker has completed no class in its session.
            let id = alive
                .pop()
                .unwrap_or_else(|| newcomer(&mut table, &format!("again {losses}"), now));
            acquire(&mut table, id, 1, now).unwrap();
            let others: Vec<_> = alive.iter().map(|id| (*id, vec![])).collect();
            pass(&mut table, &others, &mut now);
            assert!(losses <= MAX_LOSSES + 1, "{healthy}");
        }
        assert_eq!(table.status().failed, 1);
        check(&table);
    }
}

#[test]
fn ten_losses_fail_a_class_if_no_worker_has_completed_one() {
    let mut now = Instant::now();
    let (mut table, honest) = fleet(false, now);
    for number in 1..=MAX_LOSSES {
        let other = newcomer(&mut table, &format!("other {number}"), now);
        acquire(&mut table, other, 1, now).unwrap();
        pass(&mut table, &[(honest, vec![])], &mut now);
        assert_eq!(
            table.take_given_up().len(),
            usize::from(number == MAX_LOSSES),
            "{number}"
        );
    }
}

/// Hosts that are terminated every hour, and a class that resumes at its checkpoint.
#[test]
fn a_class_that_makes_progress_with_each_worker_does_not_fail() {
    for (step, is_given_up) in [(64 << 10, false), (1000, true)] {
        let mut now = Instant::now();
        let mut table = table(1);
        for round in 1..=20_u64 {
            let id = newcomer(&mut table, &format!("host {round}"), now);
            let leases = acquire(&mut table, id, 1, now).unwrap();
            let held: Vec<ReportedLease> = leases
                .iter()
                .map(|lease| reported(*lease, round * step, 4 << 20))
                .collect();
            table.renew(id, &held, 0, now).unwrap();
            pass(&mut table, &[], &mut now);
        }
        assert_eq!(table.status().is_done(), is_given_up, "{step} bytes");
        check(&table);
    }
}

/// A loss beyond the limit that only has the weight of a restart does not fail the class.
#[test]
fn a_suspect_survives_one_restart_of_a_worker_that_has_completed_a_class() {
    let mut now = Instant::now();
    let (mut table, honest) = fleet(true, now);
    let other = session(&mut table, "other", now);
    let named = [(honest, vec![]), (other, vec![])];
    for number in 0..MAX_LOSSES {
        let hostile = newcomer(&mut table, &format!("hostile {number}"), now);
        acquire(&mut table, hostile, 1, now).unwrap();
        pass(&mut table, &named, &mut now);
    }
    assert_eq!(
        acquire(&mut table, other, 1, now).unwrap(),
        [],
        "it has completed no class"
    );
    assert_eq!(acquire(&mut table, honest, 1, now).unwrap().len(), 1);
    let again = register(&mut table, "honest", b"again", &[], now).unwrap();
    assert!(again.replaced.is_some());
    assert_eq!(table.take_given_up(), []);
    let lease = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(
        table.report(other, lease, &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    check(&table);
}
