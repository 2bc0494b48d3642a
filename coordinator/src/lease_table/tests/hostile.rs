//! What a worker that follows the protocol but lies can do at most: each attack and its bound.

use proptest::{collection::vec, prelude::*};
use shared::outcome::Suspect;

use super::*;
use crate::lease_table::{
    breaker::OPENS_AT,
    inventories::ALL_INVENTORIES_TIMEOUT,
    sessions::{FORMER, MOST_SESSIONS},
};

/// Registers a worker with so many slots, on a storage of its own.
fn worker(table: &mut LeaseTable, name: &str, slots: u32, now: Instant) -> SessionId {
    let worker_info = WorkerInfo {
        worker: name.to_owned(),
        instance: name.into(),
        slots,
        ..WorkerInfo::default()
    };
    table.register(&worker_info, &[], now).unwrap().session
}

/// Tokens are sequential, so a few guesses find the token of another worker.
#[test]
fn a_failure_is_accepted_only_from_the_session_that_holds_the_lease() {
    let now = Instant::now();
    let mut table = table(40);
    let honest = worker(&mut table, "honest", 20, now);
    let hostile = worker(&mut table, "hostile", 20, now);
    let leases = acquire(&mut table, honest, 20, now).unwrap();
    let mut tries = 0;
    for lease in &leases {
        for guess in 0..100 {
            let guessed = Lease {
                wnid: lease.wnid,
                token: LeaseToken((1 << 32) + guess),
            };
            for suspect in [Suspect::Class, Suspect::Origin, Suspect::WorkerHost] {
                tries += 1;
                assert_eq!(
                    table.report(
                        hostile,
                        guessed,
                        &failure_caused_by(suspect),
                        now,
                        LONGEST_DELAY
                    ),
                    ReportVerdict::Stale
                );
            }
            assert_eq!(
                report(&mut table, guessed, &bad()),
                ReportVerdict::Stale,
                "a session that does not exist"
            );
        }
    }
    assert_eq!(
        (tries, table.status().failed, table.status().leased),
        (6000, 0, 20)
    );
    assert_eq!(
        table.report(honest, leases[0], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    check(&table);
}

/// A worker whose session has expired registers again with the classes that it holds. Another
/// worker that lists the same tokens is granted nothing.
#[test]
fn an_expired_lease_is_restored_only_to_the_worker_that_had_it() {
    let mut now = Instant::now();
    let mut table = table(2);
    let honest = worker(&mut table, "honest", 2, now);
    let leases = acquire(&mut table, honest, 2, now).unwrap();
    now += TTL + EXPIRY_MARGIN;
    table.tick(now);
    let worker_info = WorkerInfo {
        worker: "hostile".to_owned(),
        instance: vec![9],
        slots: 2,
        ..WorkerInfo::default()
    };
    let registered = table
        .register(&worker_info, &as_reported(&leases), now)
        .unwrap();
    assert_eq!(registered.drop, leases);
    assert_eq!(
        table.report(registered.session, leases[0], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Stale
    );
    let again = register(&mut table, "honest", b"honest", &leases, now).unwrap();
    assert_eq!((again.drop, table.status().leased), (vec![], 2));
    check(&table);
}

#[test]
fn a_worker_holds_no_more_classes_than_it_has_slots() {
    let now = Instant::now();
    let mut table = table(5000);
    let hostile = worker(&mut table, "hostile", 10, now);
    let mut granted = Vec::new();
    for max in [4096, 4096, 1] {
        granted.extend(acquire(&mut table, hostile, max, now).unwrap());
        assert_eq!((granted.len(), table.status().leased), (10, 10));
    }
    let wake_ups = table.wake_ups();
    assert_eq!(
        table.report(hostile, granted[0], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert!(
        table.wake_ups() > wake_ups,
        "a waiting Acquire call is woken"
    );
    assert_eq!(acquire(&mut table, hostile, 4096, now).unwrap().len(), 1);
    let wake_ups = table.wake_ups();
    assert_eq!(
        table.report(hostile, granted[1], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(
        table.report(hostile, granted[2], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(table.wake_ups(), wake_ups + 1, "one Acquire call waited");
    check(&table);
}

#[test]
fn only_tokens_of_a_former_epoch_restore_leases_and_no_more_than_the_slots() {
    let now = Instant::now();
    // Token 1 for all classes, then a different token for each.
    let named = |before: u64| {
        let token = |number| LeaseToken(if before == 0 { 1 } else { before + number });
        let leases = wnids(4096).into_iter().zip(1..);
        leases
            .map(|(wnid, number)| {
                reported(
                    Lease {
                        wnid,
                        token: token(number),
                    },
                    0,
                    0,
                )
            })
            .collect()
    };
    let claims = [
        (0, 0),
        (2 << 32, 0),
        (3 << 32, 0),
        (u64::MAX - 5000, 0),
        (1 << 32, 10),
    ];
    for (before, taken) in claims {
        let named: Vec<ReportedLease> = named(before);
        let mut table = LeaseTable::new(&wnids(4096), 0, 2, TTL);
        let worker_info = WorkerInfo {
            worker: "hostile".to_owned(),
            instance: vec![1],
            slots: 10,
            ..WorkerInfo::default()
        };
        let registered = table.register(&worker_info, &named, now).unwrap();
        assert_eq!(
            (registered.drop.len(), table.status().leased),
            (4096 - taken, taken as u64)
        );
        let renewed = table.renew(registered.session, &named, 0, now).unwrap();
        assert_eq!(
            (renewed.drop.len(), table.status().leased),
            (4096 - taken, taken as u64)
        );
        check(&table);
    }
}

#[test]
fn storages_that_register_one_after_the_other_delay_the_first_grant_by_a_bounded_time() {
    let mut now = Instant::now();
    let mut table = table(5);
    let honest = session(&mut table, "honest", now);
    let mut waited = Duration::ZERO;
    for number in 0.. {
        let storage = format!("storage {number}");
        let worker_info = WorkerInfo {
            worker: storage.clone(),
            instance: storage.clone().into(),
            storage,
            slots: MANY,
            ..WorkerInfo::default()
        };
        table.register(&worker_info, &[], now).unwrap();
        if !acquire(&mut table, honest, 1, now).unwrap().is_empty() {
            break;
        }
        let wake_ups = table.wake_ups();
        now += Duration::from_secs(5);
        waited += Duration::from_secs(5);
        table.renew(honest, &[], 0, now).unwrap();
        table.tick(now);
        assert!(
            waited < ALL_INVENTORIES_TIMEOUT || table.wake_ups() > wake_ups,
            "waiting workers are woken"
        );
        assert!(waited <= ALL_INVENTORIES_TIMEOUT, "{waited:?}");
    }
    assert_eq!(waited, ALL_INVENTORIES_TIMEOUT);
    check(&table);
}

/// Each failure is reported by a new process; half of the processes leave before the next one
/// registers.
#[test]
fn failures_under_new_names_do_not_open_the_breaker() {
    for has_succeeded in [true, false] {
        let now = Instant::now();
        let mut table = table(100);
        let honest = worker(&mut table, "honest", 4, now);
        let leases = acquire(&mut table, honest, 4, now).unwrap();
        if has_succeeded {
            table.report(honest, leases[0], &good(), now, LONGEST_DELAY);
        }
        for number in 0..3 * OPENS_AT {
            let hostile = worker(&mut table, &format!("hostile {number}"), 1, now);
            let Some(lease) = acquire(&mut table, hostile, 1, now)
                .unwrap()
                .first()
                .copied()
            else {
                break;
            };
            table.report(
                hostile,
                lease,
                &failure_caused_by(Suspect::Origin),
                now,
                LONGEST_DELAY,
            );
            if number % 2 == 0 {
                table.leave(hostile).unwrap();
            }
            assert_eq!(table.phase(), Phase::Running, "after {number}");
            check(&table);
        }
        assert!(
            !acquire(&mut table, honest, 1, now).unwrap().is_empty() || table.status().leased >= 4
        );
    }
}

#[test]
fn an_origin_that_fails_every_worker_opens_the_breaker_also_after_successes_of_all_workers() {
    let now = Instant::now();
    let mut table = table(100);
    let ids: Vec<SessionId> = (0..5)
        .map(|number| worker(&mut table, &number.to_string(), 4, now))
        .collect();
    let mut leases = Vec::new();
    for id in &ids {
        let [first, rest @ ..] = &acquire(&mut table, *id, 4, now).unwrap()[..] else {
            panic!("there are classes")
        };
        table.report(*id, *first, &good(), now, LONGEST_DELAY);
        leases.extend(rest.iter().map(|lease| (*id, *lease)));
    }
    for (id, lease) in leases {
        table.report(
            id,
            lease,
            &failure_caused_by(Suspect::Origin),
            now,
            LONGEST_DELAY,
        );
        check(&table);
    }
    assert_eq!(
        (table.phase(), table.status().failed),
        (Phase::OriginPaused, 0)
    );
}

/// The budget of speculative attempts is a share of the completed bytes, which only the report of a
/// lease holder adds to.
#[test]
fn a_success_without_a_lease_adds_no_attempt_budget_and_does_not_close_the_breaker() {
    let mut now = Instant::now();
    let mut table = table(40);
    let one = worker(&mut table, "one", 20, now);
    for lease in acquire(&mut table, one, OPENS_AT, now).unwrap() {
        table.report(
            one,
            lease,
            &failure_caused_by(Suspect::Origin),
            now,
            LONGEST_DELAY,
        );
    }
    assert_eq!(table.phase(), Phase::OriginPaused);
    now += Duration::from_secs(1);
    let hostile = worker(&mut table, "hostile", 1, now);
    let token = LeaseToken((1 << 32) + 1000);
    let there = Outcome::Success(Published {
        files: 1,
        bytes: u64::MAX,
    });
    assert_eq!(
        table.report(
            hostile,
            Lease {
                wnid: wnids(40)[39],
                token
            },
            &there,
            now,
            LONGEST_DELAY
        ),
        ReportVerdict::Settled
    );
    assert_eq!(
        (
            table.phase(),
            (table.attempts.charged, table.attempts.completed)
        ),
        (Phase::OriginPaused, (0, 0))
    );
    check(&table);
}

const PROCESSES: usize = 2 * MOST_SESSIONS;

#[test]
fn the_state_of_ended_processes_is_bounded() {
    let mut now = Instant::now();
    let mut table = table(1);
    for number in 0..PROCESSES {
        let name = format!("worker {number}");
        let worker_info = WorkerInfo {
            worker: name.clone(),
            instance: name.clone().into(),
            storage: name.clone(),
            ..WorkerInfo::default()
        };
        let id = table.register(&worker_info, &[], now).unwrap().session;
        renew(&mut table, id, &[], 1, now).unwrap();
        acquire(&mut table, id, 0, now).unwrap();
        now += Duration::from_millis(1);
        table.leave(id).unwrap();
    }
    let [received, storages] = [
        table.received.values().count(),
        table.inventories.requested.values().count(),
    ];
    let most = MOST_SESSIONS + FORMER;
    assert_eq!((received, storages), (most, FORMER));
    assert_eq!(
        table.status().received_bytes,
        PROCESSES as u64,
        "received bytes stay counted"
    );
}

#[test]
fn sessions_are_bounded_and_an_idle_one_is_evicted_for_a_new_one() {
    let now = Instant::now();
    let mut table = table(3);
    let honest = worker(&mut table, "honest", 2, now);
    acquire(&mut table, honest, 2, now).unwrap();
    for number in 0..MOST_SESSIONS + 10 {
        worker(
            &mut table,
            &format!("hostile {number}"),
            1,
            now + Duration::from_millis(number as u64),
        );
        assert!(table.sessions.by_id.len() <= MOST_SESSIONS);
    }
    assert_eq!(
        table.check_session(honest),
        Ok(()),
        "a session with leases is not evicted"
    );
    assert_eq!(table.status().leased, 2);
    check(&table);
}

/// The next call of a hostile worker, under one of its names.
#[derive(Debug, Clone)]
enum Call {
    /// Renews its session if it has one, then registers again; lists classes of other workers under
    /// guessed tokens.
    Register {
        token: u64,
    },
    Acquire {
        max: usize,
    },
    Fail {
        class: usize,
        token: u64,
        suspect: Suspect,
    },
    Leave,
}

fn call() -> impl Strategy<Value = Call> {
    let token = prop_oneof![
        0..4_u64,
        (1_u64 << 32)..(1 << 32) + 80,
        (2_u64 << 32)..(2 << 32) + 80
    ];
    let suspect = prop_oneof![
        Just(Suspect::Class),
        Just(Suspect::Origin),
        Just(Suspect::WorkerHost)
    ];
    prop_oneof![
        2 => token.clone().prop_map(|token| Call::Register { token }),
        2 => (0..5000_usize).prop_map(|max| Call::Acquire { max }),
        6 => (0..60_usize, token, suspect).prop_map(|(class, token, suspect)| Call::Fail { class, token, suspect }),
        1 => Just(Call::Leave),
    ]
}

/// Number of slots of the hostile worker under each of its names.
const SLOTS: u32 = 3;

proptest! {
    #[test]
    fn no_sequence_of_calls_of_one_worker_takes_a_lease_from_another(calls in vec((0..20_u8, call()), 1..200)) {
        let mut now = Instant::now();
        let mut table = LeaseTable::new(&wnids(60), 0, 2, TTL);
        let honest = worker(&mut table, "honest", 8, now);
        let leases = acquire(&mut table, honest, 8, now).unwrap();
        let mut received = 0;
        for (name, call) in calls {
            now += Duration::from_millis(200);
            received += 1;
            let worker_info =
                WorkerInfo { worker: format!("hostile {name}"), instance: vec![name], slots: SLOTS, ..WorkerInfo::default() };
            let id = table.sessions.by_worker.get(&worker_info.worker).copied();
            match (call, id) {
                (Call::Register { token }, id) => {
                    let named = wnids(60).into_iter().zip(token..).map(|(wnid, token)| {
                        let lease = Lease { wnid, token: LeaseToken(token) };
                        reported(lease, 0, 0)
                    });
                    let named: Vec<ReportedLease> = named.collect();
                    if let Some(id) = id {
                        table.renew(id, &named, 0, now).unwrap();
                    }
                    table.register(&worker_info, &named, now).unwrap();
                }
                (Call::Acquire { max }, Some(id)) => drop(acquire(&mut table, id, max, now).unwrap()),
                (Call::Fail { class, token, suspect }, id) => {
                    let lease = Lease { wnid: wnids(60)[class], token: LeaseToken(token) };
                    table.report(id.unwrap_or(SessionId(0)), lease, &failure_caused_by(suspect), now, LONGEST_DELAY);
                }
                (Call::Leave, Some(id)) => drop(table.leave(id).unwrap()),
                (Call::Acquire { .. } | Call::Leave, None) => {}
            }
            table.tick(now);
            prop_assert_eq!(renew(&mut table, honest, &leases, received, now), Ok(vec![]));
            prop_assert_eq!(table.sessions.by_id[&honest].leases.len(), 8);
            prop_assert_ne!(table.phase(), Phase::OriginPaused);
            check(&table);
        }
        for lease in leases {
            prop_assert_eq!(table.report(honest, lease, &good(), now, LONGEST_DELAY), ReportVerdict::Settled);
        }
        prop_assert_eq!(table.status().success, 8);
    }
}
