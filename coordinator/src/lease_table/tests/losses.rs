//! Workers that are lost again and again: whether the class, or one worker, is to blame.

use super::*;

/// Registers a worker under a new name.
fn newcomer(table: &mut LeaseTable, name: &str, now: Instant) -> SessionId {
    let hello = Hello { worker: name.to_owned(), instance: name.into(), slots: 1, ..Hello::default() };
    table.register(&hello, &[], now).unwrap().session
}

/// The time after which a session that says nothing has ended, in which these ones renew.
fn pass(table: &mut LeaseTable, held: &[(SessionId, Vec<Held>)], now: &mut Instant) -> Vec<Ended> {
    let mut ended = Vec::new();
    for _ in 0..4 {
        *now += TTL / 3;
        for (id, held) in held {
            table.renew(*id, held, 0, *now).unwrap();
        }
        ended.extend(table.tick(*now));
        check(table);
    }
    ended
}

/// A worker that has done a class, if it is to have, and a class that comes next.
fn fleet(is_proven: bool, now: Instant) -> (LeaseTable, SessionId) {
    let mut table = table(2);
    let honest = session(&mut table, "honest", now);
    let done = acquire(&mut table, honest, 1, now).unwrap()[0];
    if is_proven {
        table.report(honest, done, &good(), now, 1.0);
    } else {
        table.report(honest, done, &bad(), now, 1.0);
    }
    (table, honest)
}

#[test]
fn no_worker_fails_a_class_by_vanishing_with_it_under_any_number_of_names() {
    let mut now = Instant::now();
    let (mut table, honest) = fleet(true, now);
    let mut granted = 0;
    for number in 0..1000 {
        let hostile = newcomer(&mut table, &format!("hostile {number}"), now);
        granted += acquire(&mut table, hostile, 1, now).unwrap().len();
        for ended in pass(&mut table, &[(honest, vec![])], &mut now) {
            assert_eq!(ended.given_up, []);
        }
    }
    // The first ten losses come one after the other; from then on one comes after each five minutes
    // in which no worker that has done a class wants it.
    assert!((10..=140).contains(&granted), "{granted}");
    let lease = acquire(&mut table, honest, 1, now).unwrap()[0];
    assert_eq!(table.report(honest, lease, &good(), now, 1.0), Verdict::Settled);
    check(&table);
}

#[test]
fn a_class_that_takes_every_worker_down_fails_also_beside_workers_that_have_done_others() {
    for healthy in [1_u32, 3, 20] {
        let mut now = Instant::now();
        let mut table = table(healthy + 1);
        let ids: Vec<SessionId> = (0..healthy).map(|number| session(&mut table, &number.to_string(), now)).collect();
        for id in &ids {
            let lease = acquire(&mut table, *id, 1, now).unwrap()[0];
            table.report(*id, lease, &good(), now, 1.0);
        }
        let (mut losses, mut alive) = (0, ids);
        while !table.status().is_done() {
            losses += 1;
            // One that is started again has done no class in its session.
            let id = alive.pop().unwrap_or_else(|| newcomer(&mut table, &format!("again {losses}"), now));
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
fn where_no_worker_has_done_a_class_ten_losses_are_enough_as_with_a_single_worker() {
    let mut now = Instant::now();
    let (mut table, honest) = fleet(false, now);
    for number in 1..=MAX_LOSSES {
        let other = newcomer(&mut table, &format!("other {number}"), now);
        acquire(&mut table, other, 1, now).unwrap();
        let ended = pass(&mut table, &[(honest, vec![])], &mut now);
        assert_eq!(ended[0].given_up.len(), usize::from(number == MAX_LOSSES), "{number}");
    }
}

/// Hosts that are taken away every hour, and a class that goes on at its checkpoint.
#[test]
fn a_class_that_comes_further_with_each_worker_is_not_given_up() {
    for (step, is_given_up) in [(64 << 10, false), (1000, true)] {
        let mut now = Instant::now();
        let mut table = table(1);
        for round in 1..=20_u64 {
            let id = newcomer(&mut table, &format!("host {round}"), now);
            let leases = acquire(&mut table, id, 1, now).unwrap();
            let held: Vec<Held> = leases
                .iter()
                .map(|lease| Held { lease: *lease, bytes: round * step, length: 4 << 20, is_local: false })
                .collect();
            table.renew(id, &held, 0, now).unwrap();
            pass(&mut table, &[], &mut now);
        }
        assert_eq!(table.status().is_done(), is_given_up, "{step} bytes");
        check(&table);
    }
}

/// A loss after the limit that is no more than a quick restart is not enough.
#[test]
fn a_suspect_outlives_one_restart_of_a_worker_that_has_done_a_class() {
    let mut now = Instant::now();
    let (mut table, honest) = fleet(true, now);
    let other = session(&mut table, "other", now);
    let named = [(honest, vec![]), (other, vec![])];
    for number in 0..MAX_LOSSES {
        let hostile = newcomer(&mut table, &format!("hostile {number}"), now);
        acquire(&mut table, hostile, 1, now).unwrap();
        pass(&mut table, &named, &mut now);
    }
    assert_eq!(acquire(&mut table, other, 1, now).unwrap(), [], "it has done no class");
    assert_eq!(acquire(&mut table, honest, 1, now).unwrap().len(), 1);
    let again = register(&mut table, "honest", b"again", &[], now).unwrap();
    assert_eq!(again.replaced.unwrap().given_up, []);
    let lease = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(table.report(other, lease, &good(), now, 1.0), Verdict::Settled);
    check(&table);
}
