//! Who is to blame: a class, a worker, or the origin.

use super::*;
use crate::lease_table::breaker::{OPENS_AT, PATIENCE, PATIENCE_WITH_A_STRANGER, PROBE_EVERY};

const LONG: Duration = Duration::from_mins(6);

/// Keeps sessions alive while time passes.
fn pass(table: &mut LeaseTable, sessions: &[SessionId], time: Duration, now: &mut Instant) {
    let end = *now + time;
    while *now < end {
        *now = end.min(*now + TTL);
        for id in sessions {
            let held: Vec<Held> = table.sessions.by_id[id]
                .leases
                .keys()
                .map(|position| &table.classes[*position])
                .map(|class| Held {
                    lease: Lease { wnid: class.wnid, token: class.token.unwrap() },
                    bytes: 0,
                    length: 0,
                    is_local: false,
                })
                .collect();
            table.renew(*id, &held, 0, *now).unwrap();
        }
        assert_eq!(table.tick(*now), []);
    }
}

/// Fails `count` classes one after the other, each as soon as it is granted; gives the verdicts.
fn fail(table: &mut LeaseTable, id: SessionId, count: usize, suspect: Suspect, now: Instant) -> Vec<Verdict> {
    let fail_one = |_| {
        let lease = acquire(table, id, 1, now).unwrap()[0];
        table.report(id, lease, &blames(suspect), now, 1.0)
    };
    (0..count).map(fail_one).collect()
}

#[test]
fn what_one_worker_cannot_do_another_one_tries_before_it_has_failed() {
    for suspect in [Suspect::Origin, Suspect::Host] {
        let mut now = Instant::now();
        let mut table = table(1);
        let (one, other) = (session(&mut table, "one", now), session(&mut table, "other", now));
        assert_eq!(fail(&mut table, one, 1, suspect, now), [Verdict::Retried]);
        assert_eq!(acquire(&mut table, other, 1, now).unwrap(), [], "there is a pause first");
        pass(&mut table, &[one, other], Duration::from_secs(2), &mut now);
        assert_eq!(acquire(&mut table, one, 1, now).unwrap(), [], "who has failed it is not asked again");
        let lease = acquire(&mut table, other, 1, now).unwrap()[0];
        check(&table);
        assert_eq!(
            table.report(other, lease, &blames(suspect), now, 1.0),
            match suspect {
                // The last class of the job: nothing can show any more that it is the origin.
                Suspect::Origin => Verdict::Doubted,
                _ => Verdict::Settled,
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
fn a_class_without_space_is_offered_to_every_storage_and_no_worker_is_to_blame() {
    let now = Instant::now();
    let mut table = table(1);
    let workers: Vec<SessionId> = (1..=4).map(|number| session(&mut table, &format!("w{number}"), now)).collect();
    for worker in &workers[..3] {
        let lease = acquire(&mut table, *worker, 1, now).unwrap()[0];
        assert_eq!(table.report(*worker, lease, &lacks_space(), now, 1.0), Verdict::Retried);
        assert_eq!(acquire(&mut table, *worker, 1, now).unwrap(), [], "it has no more space than before");
        check(&table);
    }
    // The last one has space, and a failure of another kind is its first.
    let lease = acquire(&mut table, workers[3], 1, now).unwrap()[0];
    assert_eq!(table.report(workers[3], lease, &good(), now, 1.0), Verdict::Settled);
    assert_eq!((table.status().success, table.take_notices()), (1, Vec::new()));
}

#[test]
fn what_fits_nowhere_has_failed_after_a_bounded_number_of_offers() {
    for (count, offers) in [(1, 1), (3, 3), (20, trouble::OFFERS)] {
        let now = Instant::now();
        let mut table = table(1);
        let workers: Vec<SessionId> =
            (1..=count).map(|number| session(&mut table, &format!("w{number}"), now)).collect();
        let mut offered = 0;
        for worker in &workers {
            let Some(lease) = acquire(&mut table, *worker, 1, now).unwrap().first().copied() else { break };
            offered += 1;
            let verdict = table.report(*worker, lease, &lacks_space(), now, 1.0);
            assert_eq!(verdict, if offered == offers { Verdict::Settled } else { Verdict::Retried });
        }
        assert_eq!((offered, table.status().failed), (offers, 1));
    }
}

#[test]
fn a_class_that_lacked_space_elsewhere_has_all_its_tries_where_there_is_space() {
    let mut now = Instant::now();
    let mut table = table(1);
    let workers: Vec<SessionId> = (1..=5).map(|number| session(&mut table, &format!("w{number}"), now)).collect();
    for worker in &workers[..3] {
        let lease = acquire(&mut table, *worker, 1, now).unwrap()[0];
        table.report(*worker, lease, &lacks_space(), now, 1.0);
    }
    assert_eq!(fail(&mut table, workers[3], 1, Suspect::Host, now), [Verdict::Retried]);
    pass(&mut table, &workers, Duration::from_secs(2), &mut now);
    assert_eq!(fail(&mut table, workers[4], 1, Suspect::Host, now), [Verdict::Settled]);
}

#[test]
fn a_class_that_is_not_there_is_asked_for_by_one_worker_only() {
    let now = Instant::now();
    let mut table = table(1);
    let (one, _) = (session(&mut table, "one", now), session(&mut table, "other", now));
    assert_eq!(fail(&mut table, one, 1, Suspect::Class, now), [Verdict::Settled]);
}

#[test]
fn whoever_has_failed_a_class_gets_it_again_once_nobody_else_is_there() {
    let mut now = Instant::now();
    let mut table = table(1);
    let (one, other) = (session(&mut table, "one", now), session(&mut table, "other", now));
    fail(&mut table, one, 1, Suspect::Host, now);
    pass(&mut table, &[one, other], Duration::from_secs(2), &mut now);
    assert_eq!(acquire(&mut table, one, 1, now).unwrap(), []);
    table.leave(other).unwrap();
    assert_eq!(fail(&mut table, one, 1, Suspect::Host, now), [Verdict::Settled]);
}

#[test]
fn a_worker_that_fails_what_others_can_do_gets_nothing_for_a_while_and_no_class_fails_because_of_it() {
    let mut now = Instant::now();
    let mut table = table(40);
    let (bad, well) = (session(&mut table, "bad", now), session(&mut table, "well", now));
    for _ in 0..5 {
        assert_eq!(fail(&mut table, bad, 1, Suspect::Host, now), [Verdict::Retried]);
        let lease = acquire(&mut table, well, 1, now).unwrap()[0];
        assert_eq!(table.report(well, lease, &good(), now, 1.0), Verdict::Settled);
    }
    let notices = table.take_notices();
    assert!(matches!(&notices[..], [Notice::Quarantined { worker, .. }] if worker == "bad"), "{notices:?}");
    assert_eq!(acquire(&mut table, bad, 9, now).unwrap(), []);
    pass(&mut table, &[bad, well], Duration::from_mins(4), &mut now);
    assert_eq!(acquire(&mut table, bad, 9, now).unwrap(), []);
    let turn = table.turn();
    pass(&mut table, &[bad, well], Duration::from_mins(2), &mut now);
    assert!(table.turn() > turn, "those that wait are told");
    assert_eq!(acquire(&mut table, bad, 1, now).unwrap().len(), 1);
    for lease in acquire(&mut table, well, 99, now).unwrap() {
        table.report(well, lease, &good(), now, 1.0);
    }
    table.leave(bad).unwrap();
    for lease in acquire(&mut table, well, 99, now).unwrap() {
        table.report(well, lease, &good(), now, 1.0);
    }
    assert_eq!((table.status().success, table.status().failed), (40, 0));
    check(&table);
}

#[test]
fn the_only_worker_is_never_put_into_quarantine() {
    let now = Instant::now();
    let mut table = table(9);
    let one = session(&mut table, "one", now);
    assert_eq!(fail(&mut table, one, 9, Suspect::Host, now), [Verdict::Settled; 9]);
}

#[test]
fn a_class_that_always_fails_among_good_ones_fails_as_soon_as_that_is_clear() {
    let now = Instant::now();
    let mut table = table(3);
    let one = session(&mut table, "one", now);
    assert_eq!(fail(&mut table, one, 1, Suspect::Origin, now), [Verdict::Doubted]);
    assert_eq!((table.status().pending, table.status().failed), (3, 0));
    let lease = acquire(&mut table, one, 9, now).unwrap();
    assert_eq!(numbers(&lease), ["2", "3"], "it is not tried again meanwhile");
    table.report(one, lease[0], &good(), now, 1.0);
    assert_eq!((table.status().success, table.status().failed), (1, 1));
    let given_up = table.take_given_up();
    assert!(given_up.len() == 1 && given_up[0].0 == wnids(1)[0], "{given_up:?}");
    assert_eq!(given_up[0].1.to_string(), "HTTPError: 503 Server Error");
    check(&table);
}

#[test]
fn a_short_list_that_fails_altogether_ends() {
    let now = Instant::now();
    let mut table = table(3);
    let one = session(&mut table, "one", now);
    fail(&mut table, one, 3, Suspect::Origin, now);
    assert!(table.status().is_done());
    assert_eq!((table.status().failed, table.take_given_up().len()), (3, 3));
    check(&table);
}

#[test]
fn an_origin_that_is_away_costs_no_class_anything_and_is_asked_every_half_minute() {
    let mut now = Instant::now();
    let mut table = table(100);
    let one = session(&mut table, "one", now);
    let first = acquire(&mut table, one, 2, now).unwrap();
    table.report(one, first[0], &good(), now, 1.0);
    let verdicts = fail(&mut table, one, OPENS_AT, Suspect::Origin, now);
    assert_eq!(verdicts[..OPENS_AT - 1], [Verdict::Doubted; OPENS_AT - 1]);
    assert_eq!(verdicts[OPENS_AT - 1], Verdict::Excused);
    assert_eq!(table.phase(), Phase::OriginPaused);
    assert!(matches!(table.take_notices()[..], [Notice::OriginAway { waits: PATIENCE, .. }]));
    assert_eq!((table.status().failed, table.status().pending), (0, 98), "what was on its way still is");
    assert_eq!(table.report(one, first[1], &blames(Suspect::Origin), now, 1.0), Verdict::Excused);
    let mut probes = 0;
    for _ in 0..15 {
        for _ in 0..2 {
            assert_eq!(acquire(&mut table, one, 9, now).unwrap(), []);
            let turn = table.turn();
            pass(&mut table, &[one], PROBE_EVERY, &mut now);
            assert!(table.turn() > turn, "those that wait are told");
            let granted = table.acquire(one, 9, now).unwrap();
            assert!(granted.probe && granted.leases.len() == 1);
            probes += 1;
            assert_eq!(table.report(one, granted.leases[0], &blames(Suspect::Origin), now, 1.0), Verdict::Excused);
            check(&table);
        }
    }
    assert_eq!((probes, table.status().failed), (30, 0), "a quarter of an hour");
    pass(&mut table, &[one], PROBE_EVERY, &mut now);
    let probe = acquire(&mut table, one, 9, now).unwrap()[0];
    assert_eq!(table.take_notices(), [], "all the time nobody heard of it");
    table.report(one, probe, &good(), now, 1.0);
    assert_eq!(table.take_notices(), [Notice::OriginBack]);
    assert_eq!(table.phase(), Phase::Running);
    let rest = acquire(&mut table, one, 999, now).unwrap();
    assert_eq!(rest.len(), 98);
    for lease in rest {
        table.report(one, lease, &good(), now, 1.0);
    }
    assert_eq!((table.status().success, table.status().failed), (100, 0));
    check(&table);
}

#[test]
fn bytes_that_come_show_that_the_origin_is_back_before_a_large_class_is_done() {
    let mut now = Instant::now();
    let mut table = table(50);
    let one = session(&mut table, "one", now);
    fail(&mut table, one, OPENS_AT, Suspect::Origin, now);
    pass(&mut table, &[one], PROBE_EVERY, &mut now);
    let probe = acquire(&mut table, one, 9, now).unwrap();
    now += TTL / 3;
    table.renew(one, &held(&probe), 0, now).unwrap();
    assert_eq!(table.phase(), Phase::OriginPaused);
    table.renew(one, &held(&probe), 5, now).unwrap();
    assert_eq!(table.phase(), Phase::Running);
}

#[test]
fn an_origin_is_not_waited_for_for_ever() {
    for (has_answered, patience) in [(false, PATIENCE_WITH_A_STRANGER), (true, PATIENCE)] {
        let mut now = Instant::now();
        let mut table = table(20);
        let one = session(&mut table, "one", now);
        if has_answered {
            let lease = acquire(&mut table, one, 1, now).unwrap()[0];
            table.report(one, lease, &good(), now, 1.0);
        }
        fail(&mut table, one, OPENS_AT, Suspect::Origin, now);
        pass(&mut table, &[one], patience, &mut now);
        while !table.status().is_done() {
            let granted = table.acquire(one, 9, now).unwrap();
            assert!(granted.probe, "one attempt each is enough");
            assert_eq!(table.report(one, granted.leases[0], &blames(Suspect::Origin), now, 1.0), Verdict::Settled);
        }
        assert_eq!(table.status().failed, 20 - u64::from(has_answered));
    }
}

#[test]
fn a_class_that_does_not_get_on_goes_to_another_worker_although_its_worker_lives() {
    let mut now = Instant::now();
    let mut table = table(2);
    let (one, other) = (session(&mut table, "one", now), session(&mut table, "other", now));
    let leases = acquire(&mut table, one, 2, now).unwrap();
    for bytes in 1..242 {
        now += TTL;
        let held = [
            Held { lease: leases[0], bytes, length: 0, is_local: false },
            Held { lease: leases[1], bytes: 7, length: 0, is_local: false },
        ];
        table.renew(one, &held, 0, now).unwrap();
        table.renew(other, &[], 0, now).unwrap();
    }
    let wedged = Notice::Wedged { wnid: leases[1].wnid, worker: "one".to_owned() };
    assert_eq!(table.take_notices(), [wedged]);
    assert_eq!(acquire(&mut table, one, 2, now).unwrap(), []);
    let lease = acquire(&mut table, other, 2, now).unwrap()[0];
    assert_eq!(lease.wnid, leases[1].wnid);
    for bytes in 242..=484 {
        now += TTL;
        table.renew(one, &[Held { lease: leases[0], bytes, length: 0, is_local: false }], 0, now).unwrap();
        table.renew(other, &[Held { lease, bytes: 7, length: 0, is_local: false }], 0, now).unwrap();
    }
    let given_up = table.take_given_up();
    assert!(given_up.len() == 1 && given_up[0].0 == lease.wnid, "{given_up:?}");
    assert_eq!(given_up[0].1.to_string(), "Timeout: no progress for 2h, 2 times");
    check(&table);
}

/// `--timeout 24h`: each attempt may wait for a day. Or the origin asks for a quarter of an hour again and again.
#[test]
fn a_class_that_waits_no_longer_than_the_job_allows_is_not_taken_from_its_worker() {
    for (stuck_after, quiet) in [(Duration::from_hours(145), false), (STUCK, true)] {
        let mut now = Instant::now();
        let mut table = LeaseTable::new(&wnids(1), 0, 1, TTL).expecting_progress_within(stuck_after);
        let one = session(&mut table, "one", now);
        let leases = acquire(&mut table, one, 1, now).unwrap();
        for _ in 0..2880 {
            now += TTL;
            table.tick(now);
            table.look_for_stragglers(quiet, now);
            let held = Held { lease: leases[0], bytes: 7, length: 100_000, is_local: false };
            assert_eq!(table.renew(one, &[held], 0, now).unwrap().drop, []);
        }
        assert_eq!(table.take_notices(), []);
        assert_eq!(table.status().leased, 1);
    }
}

/// One session lets the origin be left alone for a moment, again and again.
#[test]
fn short_pauses_delay_the_end_of_a_lease_that_does_not_get_on_by_their_length_only() {
    let mut now = Instant::now();
    let mut table = table(1);
    let (one, other) = (session(&mut table, "one", now), session(&mut table, "other", now));
    let leases = acquire(&mut table, one, 1, now).unwrap();
    let held = Held { lease: leases[0], bytes: 7, length: 0, is_local: false };
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
        assert!(waited < 2 * STUCK, "it is never taken");
    }
    assert!(waited >= STUCK && waited <= STUCK * 11 / 10, "{waited:?}");
}

#[test]
fn a_class_that_waits_for_its_turn_at_the_origin_is_not_wedged_while_its_worker_receives_anything() {
    let mut now = Instant::now();
    let mut table = table(2);
    let one = session(&mut table, "one", now);
    let leases = acquire(&mut table, one, 2, now).unwrap();
    let mut renew = |bytes: u64, received: u64| {
        now += TTL;
        let held = [(leases[0], bytes), (leases[1], 0)].map(|(lease, bytes)| Held {
            lease,
            bytes,
            length: 0,
            is_local: false,
        });
        table.renew(one, &held, received, now).unwrap();
        table.take_notices()
    };
    // Three hours, in which one connection is the other class's.
    for bytes in 1..=360 {
        assert_eq!(renew(bytes, bytes), []);
    }
    // The connection breaks, and nothing comes any more.
    let wedged = |lease: Lease| Notice::Wedged { wnid: lease.wnid, worker: "one".to_owned() };
    for _ in 1..240 {
        assert_eq!(renew(360, 360), []);
    }
    assert_eq!(renew(360, 360), [wedged(leases[0]), wedged(leases[1])]);
    check(&table);
}

#[test]
fn a_worker_that_lives_and_asks_for_nothing_keeps_no_class_from_the_others() {
    let mut now = Instant::now();
    let mut table = table(1);
    let (one, idle) = (session(&mut table, "one", now), session(&mut table, "idle", now));
    assert_eq!(fail(&mut table, one, 1, Suspect::Host, now), [Verdict::Retried]);
    pass(&mut table, &[one, idle], Duration::from_mins(4), &mut now);
    assert_eq!(acquire(&mut table, one, 1, now).unwrap(), []);
    pass(&mut table, &[one, idle], Duration::from_mins(1), &mut now);
    assert_eq!(fail(&mut table, one, 1, Suspect::Host, now), [Verdict::Settled], "twice is enough");
}

#[test]
fn what_was_granted_before_the_trouble_says_nothing_of_the_origin_now() {
    let now = Instant::now();
    let mut table = table(30);
    let one = session(&mut table, "one", now);
    let older = acquire(&mut table, one, 2, now).unwrap();
    fail(&mut table, one, OPENS_AT - 1, Suspect::Origin, now);
    table.report(one, older[0], &good(), now, 1.0);
    assert_eq!(table.take_given_up(), [], "its bytes may be older than the first failure");
    fail(&mut table, one, 1, Suspect::Origin, now);
    table.report(one, older[1], &good(), now, 1.0);
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
        assert_eq!(table.report(one, *lease, &bad(), now, 1.0), Verdict::Settled);
    }
    assert_eq!(table.retry_failed(&[leases[1].wnid, wnids(4)[3]]), [leases[1].wnid]);
    assert_eq!(table.retry_failed(&[]), [leases[0].wnid, leases[2].wnid]);
    assert_eq!((table.status().failed, table.status().pending), (0, 4));
    assert_eq!(table.report(one, leases[0], &bad(), now, 1.0), Verdict::Stale, "the old news is not believed again");
    check(&table);
}

#[test]
fn a_worker_that_is_to_end_gets_nothing_more_and_keeps_what_it_has() {
    let now = Instant::now();
    let mut table = table(3);
    let one = session(&mut table, "one", now);
    let leases = acquire(&mut table, one, 1, now).unwrap();
    assert!(table.drain("one").is_some() && table.drain("other").is_none());
    assert!(table.acquire(one, 1, now).unwrap().drain);
    assert_eq!(table.renew(one, &held(&leases), 0, now).unwrap(), Renewed { drop: vec![], drain: true });
    assert_eq!(table.report(one, leases[0], &good(), now, 1.0), Verdict::Settled);
    assert_eq!(table.workers(now + LONG)[0].success, 1);
}

/// Its lease has run out, so it stands in the queue of returned classes until its worker has
/// registered again.
#[test]
fn a_class_in_doubt_is_granted_to_nobody_although_its_lease_had_run_out() {
    let (mut table, mut now) = (table(4), Instant::now());
    let first = session(&mut table, "first", now);
    let doubtful = acquire(&mut table, first, 4, now).unwrap()[0];
    now += TTL * 2;
    table.tick(now);
    let other = session(&mut table, "other", now);
    assert_eq!(table.report(other, doubtful, &blames(Suspect::Origin), now, 0.5), Verdict::Stale);
    assert_eq!(table.report(first, doubtful, &blames(Suspect::Origin), now, 0.5), Verdict::Stale);
    table.leave(other).unwrap();
    let second = register(&mut table, "first", b"first", &[doubtful], now).unwrap().session;
    assert_eq!(table.report(second, doubtful, &blames(Suspect::Origin), now, 0.5), Verdict::Doubted);
    check(&table);
    let others = acquire(&mut table, second, 4, now).unwrap();
    assert_eq!(numbers(&others), ["2", "3", "4"]);
    assert_eq!(table.report(second, others[0], &good(), now, 0.5), Verdict::Settled);
    assert!(matches!(&table.take_given_up()[..], [(wnid, _)] if *wnid == doubtful.wnid));
    check(&table);
}

/// Its first worker was alone, so no other worker could try it.
#[test]
fn a_class_in_doubt_is_tried_by_a_worker_that_came_later_before_it_has_failed() {
    let (mut table, mut now) = (table(3), Instant::now());
    let one = session(&mut table, "one", now);
    assert_eq!(fail(&mut table, one, 1, Suspect::Origin, now), [Verdict::Doubted]);
    let other = session(&mut table, "other", now);
    let lease = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(table.report(other, lease, &good(), now, 1.0), Verdict::Settled);
    assert_eq!((table.take_given_up().len(), table.status().pending), (0, 2));
    check(&table);
    assert_eq!(numbers(&acquire(&mut table, one, 1, now).unwrap()), ["3"], "it has failed the other one");
    let again = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(numbers(&[again]), ["1"]);
    assert_eq!(table.report(other, again, &blames(Suspect::Origin), now, 1.0), Verdict::Doubted, "twice");
    now += Duration::from_secs(1);
    table.leave(one).unwrap();
    let last = acquire(&mut table, other, 1, now).unwrap()[0];
    assert_eq!(table.report(other, last, &good(), now, 1.0), Verdict::Settled);
    assert_eq!((table.take_given_up().len(), table.status().failed), (1, 1));
    check(&table);
}
