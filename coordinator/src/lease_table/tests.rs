//! One test for each rule. `sequences` tests all rules together under random sequences of
//! operations.

use shared::{
    outcome::{Failure, FailureKind, Published, Suspect},
    refusal::Refusal,
};

use super::{losses::MAX_LOSSES, *};

mod attempts;
mod blame;
mod elsewhere;
mod first_answers;
mod hostile;
mod later_answers;
mod live;
mod losses;
mod recovery;
mod sequences;
mod silent;
mod storage;

const TTL: Duration = Duration::from_secs(30);
/// Slots of a worker if a test does not set them.
const MANY: u32 = 100_000;

fn wnid(number: u32) -> Wnid {
    format!("n{number:08}").parse().unwrap()
}

fn wnids(count: u32) -> Vec<Wnid> {
    (1..=count)
        .map(|number| format!("n{number:08}").parse().unwrap())
        .collect()
}

/// `random` of a report: the retry of the class is delayed as long as possible.
const LONGEST_DELAY: f64 = 1.0;
/// `random` of a report: the retry of the class is not delayed.
const NO_DELAY: f64 = 0.0;
/// A class without progress for this long is taken from its worker.
const STUCK: Duration = Duration::from_hours(2);

fn table(count: u32) -> LeaseTable {
    LeaseTable::new(&wnids(count), 0, 1, TTL).expecting_progress_within(STUCK)
}

fn good() -> Outcome {
    Outcome::Success(Published {
        files: 1,
        bytes: 10_240,
    })
}

fn bad() -> Outcome {
    Outcome::Failed(Failure::new(FailureKind::HttpError, "404 Client Error"))
}

fn refused(status: u16) -> Outcome {
    let failure = Failure::new(FailureKind::HttpError, format!("{status} Client Error"));
    Outcome::Failed(failure.refused(Refusal::Status(status)))
}

fn failure_caused_by(suspect: Suspect) -> Outcome {
    Outcome::Failed(Failure::new(FailureKind::HttpError, "503 Server Error").suspecting(suspect))
}

fn session(table: &mut LeaseTable, worker: &str, now: Instant) -> SessionId {
    register(table, worker, worker.as_bytes(), &[], now)
        .unwrap()
        .session
}

/// What a heartbeat says of a class that needs the origin.
fn reported(lease: Lease, bytes: u64, length: u64) -> ReportedLease {
    ReportedLease {
        lease,
        bytes,
        length,
        is_local: false,
    }
}

/// What a heartbeat says of classes of which no byte was received.
fn as_reported(leases: &[Lease]) -> Vec<ReportedLease> {
    leases.iter().map(|lease| reported(*lease, 0, 0)).collect()
}

fn register(
    table: &mut LeaseTable,
    worker: &str,
    instance: &[u8],
    leases: &[Lease],
    now: Instant,
) -> Result<Registered, Refused> {
    let worker_info = WorkerInfo {
        worker: worker.to_owned(),
        instance: instance.to_owned(),
        slots: MANY,
        ..WorkerInfo::default()
    };
    table.register(&worker_info, &as_reported(leases), now)
}

fn renew(
    table: &mut LeaseTable,
    id: SessionId,
    leases: &[Lease],
    received: u64,
    now: Instant,
) -> Result<Vec<Wnid>, UnknownSession> {
    table
        .renew(id, &as_reported(leases), received, now)
        .map(|renewed| wnids_of(&renewed.drop))
}

fn wnids_of(leases: &[Lease]) -> Vec<Wnid> {
    leases.iter().map(|lease| lease.wnid).collect()
}

fn acquire(
    table: &mut LeaseTable,
    id: SessionId,
    max: usize,
    now: Instant,
) -> Result<Vec<Lease>, UnknownSession> {
    table.acquire(id, max, now).map(|granted| granted.leases)
}

/// Reports from a session that does not exist.
fn report(table: &mut LeaseTable, lease: Lease, outcome: &Outcome) -> ReportVerdict {
    table.report(SessionId(0), lease, outcome, Instant::now(), LONGEST_DELAY)
}

fn numbers(leases: &[Lease]) -> Vec<String> {
    leases
        .iter()
        .map(|lease| {
            lease
                .wnid
                .to_string()
                .trim_start_matches(['n', '0'])
                .to_owned()
        })
        .collect()
}

/// The workers as observers see them.
fn shown(table: &mut LeaseTable, now: Instant) -> Vec<crate::fleet::WorkerView> {
    table.update_states(now);
    let time_of_day = |_| std::time::UNIX_EPOCH;
    let sessions = table.workers_after(None, usize::MAX, now, time_of_day, |_| None);
    let lost = table.lost_workers(now, time_of_day);
    let mut workers: Vec<_> = sessions.into_iter().map(|(_, view)| view).collect();
    workers.extend(lost);
    workers.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    workers
}

/// Checks the invariants that hold after each step.
fn check(table: &LeaseTable) {
    let mut folded = JobStatus {
        total: table.status.total,
        ..JobStatus::default()
    };
    for class in &table.classes {
        *class.state.counter(&mut folded) += 1;
    }
    folded.failed += table.status.total - table.classes.len() as u64;
    folded.workers = u32::try_from(table.sessions.by_id.len()).unwrap();
    // Except for the bytes of processes that were removed from the map, which only one test has.
    folded.received_bytes = table.received.values().map(|received| received.shown).sum();
    assert_eq!(table.status, folded);
    assert_eq!(
        folded.settled() + folded.leased + folded.pending,
        folded.total
    );
    let held: usize = table
        .sessions
        .by_id
        .values()
        .map(|session| session.leases.len())
        .sum();
    assert_eq!(held as u64, folded.leased);
    for (id, session) in &table.sessions.by_id {
        let attempts = table.attempted_by(*id).len();
        assert!(
            session.leases.len() + attempts <= session.worker_info.slots as usize,
            "{session:?}"
        );
    }
    let slots = table
        .sessions
        .by_id
        .values()
        .map(|session| u64::from(session.worker_info.slots));
    assert_eq!(table.sessions.slots, slots.sum::<u64>());
    assert!(
        table
            .lost_by
            .keys()
            .all(|position| matches!(table.classes[*position].state, State::Queued(_)))
    );
    check_pending(table);
    assert_eq!(table.sessions.by_worker.len(), table.sessions.by_id.len());
    check_attempts(table);
}

/// Each pending class is in exactly one of the collections, the one that its state names.
fn check_pending(table: &LeaseTable) {
    let of = |wanted: fn(&State) -> bool| {
        let classes = table
            .classes
            .iter()
            .enumerate()
            .filter(move |(_, class)| wanted(&class.state));
        classes.map(|(position, _)| position).collect::<Vec<_>>()
    };
    let queued: Vec<usize> = table.returned.values().copied().collect();
    let by_key =
        |(key, position): (&u64, &usize)| table.classes[*position].state == State::Queued(*key);
    assert!(table.returned.iter().all(by_key), "{:?}", table.returned);
    assert_eq!(
        queued.len(),
        of(|state| matches!(state, State::Queued(_))).len()
    );
    let delayed: BTreeSet<usize> = table
        .delayed
        .iter()
        .map(|(_, position)| *position)
        .collect();
    assert_eq!(
        Vec::from_iter(delayed),
        of(|state| matches!(state, State::Delayed(_)))
    );
    let doubts = table.breaker.doubts.keys().copied();
    let mut doubted: Vec<usize> = doubts.chain(refused_classes(table)).collect();
    doubted.sort_unstable();
    if table.origin_refuses().is_none() {
        assert_eq!(doubted, of(|state| matches!(state, State::Doubted)));
    }
    assert_eq!(
        table.elsewhere.pending,
        of(|state| matches!(state, State::Elsewhere)).len()
    );
    let passed = |position: &usize| *position < table.fresh && !table.is_held_back(*position);
    assert!(!of(|state| matches!(state, State::Fresh)).iter().any(passed));
    for class in table
        .classes
        .iter()
        .filter(|class| matches!(class.state, State::Leased(_)))
    {
        assert!(class.token.is_some(), "{class:?}");
    }
}

/// Classes that are pending because the origin refused them.
fn refused_classes(table: &LeaseTable) -> Vec<usize> {
    let mut refused: Vec<usize> = match &table.first_answers {
        FirstAnswers::Checking(sample) => sample.refused.keys().copied().collect(),
        FirstAnswers::Over => table.later_answers.refused().collect(),
        FirstAnswers::Waiting | FirstAnswers::Refused(_) => Vec::new(),
    };
    refused.retain(|position| table.classes[*position].state == State::Doubted);
    refused
}

/// A speculative attempt is of a class that another worker on another storage holds, has its own
/// token, and is within the budget.
fn check_attempts(table: &LeaseTable) {
    for (position, attempt) in &table.attempts.of {
        let class = &table.classes[*position];
        let State::Leased(holder) = class.state else {
            panic!("{class:?} has an attempt")
        };
        let [holder, second] =
            [holder, attempt.session].map(|id| &table.sessions.by_id[&id].worker_info);
        assert!(holder.worker != second.worker, "{class:?}");
        assert!(
            holder.storage.is_empty() || holder.storage != second.storage,
            "{class:?}"
        );
        assert!(
            class.token.unwrap() != attempt.token && attempt.token <= table.last_token,
            "{class:?} {attempt:?}"
        );
    }
    let Attempts {
        charged, completed, ..
    } = table.attempts;
    assert!(
        charged <= completed / 100 * 3 + 3,
        "attempts of {charged} bytes for {completed} completed ones"
    );
}

#[test]
fn leases_are_granted_in_list_order_and_returned_classes_first() {
    let now = Instant::now();
    let mut table = table(5);
    let one = session(&mut table, "one", now);
    let other = session(&mut table, "other", now);
    assert_eq!(
        numbers(&acquire(&mut table, one, 2, now).unwrap()),
        ["1", "2"]
    );
    assert_eq!(numbers(&acquire(&mut table, other, 1, now).unwrap()), ["3"]);
    table.leave(one).unwrap();
    assert_eq!(
        numbers(&acquire(&mut table, other, 3, now).unwrap()),
        ["1", "2", "4"]
    );
    check(&table);
}

#[test]
fn a_repeated_registration_returns_its_session_and_another_process_replaces_it() {
    let now = Instant::now();
    let mut table = table(3);
    let first = register(&mut table, "host", b"a", &[], now).unwrap();
    let leases = acquire(&mut table, first.session, 2, now).unwrap();
    assert_eq!(
        register(&mut table, "host", b"a", &leases, now).unwrap(),
        Registered {
            replaced: None,
            ..first
        }
    );
    let second = register(&mut table, "host", b"b", &[], now).unwrap();
    assert_eq!(
        second.replaced,
        Some(Ended {
            session: first.session,
            worker: "host".to_owned(),
            returned: 2,
        })
    );
    assert_eq!(
        renew(&mut table, first.session, &leases, 0, now),
        Err(UnknownSession)
    );
    assert_eq!(
        report(&mut table, leases[0], &bad()),
        ReportVerdict::Stale,
        "a process that was replaced is not believed"
    );
    assert_eq!(
        numbers(&acquire(&mut table, second.session, 9, now).unwrap()),
        ["1", "2", "3"]
    );
    check(&table);
}

#[test]
fn one_renewal_keeps_all_leases_and_without_renewals_they_are_released_after_the_margin() {
    let mut now = Instant::now();
    let mut table = table(2);
    let one = session(&mut table, "one", now);
    let leases = acquire(&mut table, one, 2, now).unwrap();
    now += TTL;
    assert_eq!(renew(&mut table, one, &leases, 7, now), Ok(vec![]));
    now += TTL + EXPIRY_MARGIN;
    assert_eq!(
        table.tick(now.checked_sub(Duration::from_millis(1)).unwrap()),
        []
    );
    assert_eq!(
        table.tick(now),
        [Ended {
            session: one,
            worker: "one".to_owned(),
            returned: 2,
        }]
    );
    assert_eq!(
        table.status().received_bytes,
        7,
        "received bytes stay counted"
    );
    check(&table);
}

#[test]
fn an_expired_lease_is_resumed_unless_another_worker_was_granted_it() {
    let mut now = Instant::now();
    let mut table = table(2);
    let one = session(&mut table, "one", now);
    let leases = acquire(&mut table, one, 2, now).unwrap();
    now += TTL + EXPIRY_MARGIN;
    table.tick(now);
    let other = session(&mut table, "other", now);
    assert_eq!(numbers(&acquire(&mut table, other, 1, now).unwrap()), ["1"]);
    let again = register(&mut table, "one", b"one", &leases, now).unwrap();
    assert_eq!(again.drop, leases[..1]);
    assert_eq!(
        renew(&mut table, again.session, &leases, 0, now),
        Ok(vec![leases[0].wnid])
    );
    assert_eq!((table.status().leased, table.status().pending), (2, 0));
    assert_eq!(
        table.report(again.session, leases[0], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Stale
    );
    assert_eq!(
        table.report(again.session, leases[1], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    check(&table);
}

#[test]
fn a_success_is_accepted_from_any_session_and_is_final() {
    let now = Instant::now();
    let mut table = table(1);
    let one = session(&mut table, "one", now);
    let lease = acquire(&mut table, one, 1, now).unwrap()[0];
    let stranger = Lease {
        token: LeaseToken(3),
        ..lease
    };
    assert_eq!(report(&mut table, stranger, &bad()), ReportVerdict::Stale);
    assert_eq!(
        report(&mut table, stranger, &good()),
        ReportVerdict::Settled
    );
    assert_eq!(
        report(&mut table, stranger, &good()),
        ReportVerdict::AlreadySettled
    );
    assert_eq!(
        report(&mut table, lease, &bad()),
        ReportVerdict::AlreadySettled
    );
    assert_eq!(
        renew(&mut table, one, &[lease], 0, now),
        Ok(vec![lease.wnid])
    );
    assert_eq!(
        report(
            &mut table,
            Lease {
                wnid: wnids(2)[1],
                ..lease
            },
            &good()
        ),
        ReportVerdict::NotInList
    );
    assert_eq!(
        table.status(),
        JobStatus {
            total: 1,
            success: 1,
            workers: 1,
            ..JobStatus::default()
        }
    );
}

#[test]
fn a_later_success_corrects_a_failure() {
    let now = Instant::now();
    let mut table = table(1);
    let one = session(&mut table, "one", now);
    let lease = acquire(&mut table, one, 1, now).unwrap()[0];
    assert_eq!(
        table.report(one, lease, &bad(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(
        table.report(one, lease, &bad(), now, LONGEST_DELAY),
        ReportVerdict::AlreadySettled
    );
    assert_eq!(
        report(&mut table, lease, &Outcome::Skipped(Published::default())),
        ReportVerdict::Corrected
    );
    assert_eq!((table.status().failed, table.status().skipped), (0, 1));
}

#[test]
fn a_grant_that_was_lost_in_transit_is_returned_although_the_session_is_alive() {
    let mut now = Instant::now();
    let mut table = table(2);
    let one = session(&mut table, "one", now);
    let known = acquire(&mut table, one, 1, now).unwrap();
    let lost = acquire(&mut table, one, 1, now).unwrap();
    for _ in 0..2 {
        now += TTL / 3;
        assert_eq!(renew(&mut table, one, &known, 0, now), Ok(vec![]));
        assert_eq!(
            table.status().leased,
            2,
            "the grant or the result may still be in transit"
        );
    }
    now += TTL / 3;
    renew(&mut table, one, &known, 0, now).unwrap();
    assert_eq!((table.status().leased, table.status().pending), (1, 1));
    assert!(acquire(&mut table, one, 9, now).unwrap()[0].token > lost[0].token);
    table.take_back(one, &lost);
    assert_eq!(
        table.status().leased,
        2,
        "an older grant of the same class is not taken back"
    );
    table.take_back(one, &known);
    assert_eq!(table.status().pending, 1);
    check(&table);
}

#[test]
fn a_class_that_is_lost_ten_times_is_given_up() {
    let mut now = Instant::now();
    let mut table = table(1);
    for round in 1..=MAX_LOSSES {
        // Half of the losses are silence, half are a process that restarts after a while.
        let registered = register(&mut table, "host", &[round], &[], now).unwrap();
        assert_eq!(table.take_given_up(), []);
        assert_eq!(
            acquire(&mut table, registered.session, 1, now)
                .unwrap()
                .len(),
            1
        );
        now += TTL;
        if round % 2 == 0 {
            now += EXPIRY_MARGIN;
            table.tick(now);
            let given_up = table.take_given_up();
            assert_eq!(given_up.len(), usize::from(round == MAX_LOSSES));
        }
    }
    assert!(table.status().is_done());
    assert_eq!(table.status().failed, 1);
    check(&table);
}

#[test]
fn restarts_of_a_worker_count_little_for_its_classes_and_a_crash_at_each_start_still_ends() {
    let mut now = Instant::now();
    let mut table = table(1);
    let mut starts = 0;
    while !table.status().is_done() {
        starts += 1;
        // As fast as takeovers are allowed, with a worker that was heard of a moment ago each time.
        for _ in 0..2 {
            now += TTL / 3;
            if let Some(id) = table.sessions.by_worker.get("host").copied() {
                renew(&mut table, id, &[], 0, now).unwrap();
            }
        }
        let registered = register(&mut table, "host", &[starts], &[], now).unwrap();
        acquire(&mut table, registered.session, 1, now).unwrap();
    }
    assert_eq!(starts, MAX_LOSSES * super::losses::LOSS + 1);
    check(&table);
}

#[test]
fn two_live_processes_of_one_name_do_not_end_each_others_sessions() {
    let mut now = Instant::now();
    let mut table = table(2);
    let older = register(&mut table, "host", b"a", &[], now).unwrap();
    let leases = acquire(&mut table, older.session, 2, now).unwrap();
    let newer = register(&mut table, "host", b"b", &[], now).unwrap();
    let taken = acquire(&mut table, newer.session, 2, now).unwrap();
    // The older process is alive after all. With any instance id, the name is in use.
    for instance in [b"a", b"a", b"c"] {
        let refused = register(&mut table, "host", instance, &leases, now).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "two workers are called host; give each its own --name"
        );
        now += TTL;
        assert_eq!(
            renew(&mut table, newer.session, &taken, 0, now),
            Ok(vec![]),
            "the session that has it is not disturbed"
        );
        assert_eq!(table.status().leased, 2);
    }
    table.leave(newer.session).unwrap();
    assert_eq!(
        register(&mut table, "host", b"a", &[], now)
            .unwrap()
            .replaced,
        None,
        "a name without a session is free"
    );
    check(&table);
}

#[test]
fn a_name_is_taken_over_at_most_three_times_a_minute() {
    let mut now = Instant::now();
    let mut table = table(1);
    for process in 0..=3 {
        register(&mut table, "host", &[process], &[], now).unwrap();
        now += Duration::from_secs(5);
    }
    assert!(register(&mut table, "host", &[4], &[], now).is_err());
    register(&mut table, "other", &[5], &[], now).unwrap();
    now += Duration::from_secs(44);
    assert!(register(&mut table, "host", &[4], &[], now).is_err());
    now += Duration::from_secs(1);
    assert!(
        register(&mut table, "host", &[4], &[], now)
            .unwrap()
            .replaced
            .is_some()
    );
    check(&table);
}

#[test]
fn only_workers_that_were_heard_of_recently_are_waited_for() {
    let start = Instant::now();
    let mut table = table(1);
    let one = session(&mut table, "one", start);
    session(&mut table, "other", start);
    let span = TTL / 2;
    let now = start + span;
    renew(&mut table, one, &[], 0, now).unwrap();
    assert_eq!(table.heard_of(span, now), 2);
    assert_eq!(table.heard_of(span, now + Duration::from_millis(1)), 1);
    table.leave(one).unwrap();
    assert_eq!(table.heard_of(span, now + Duration::from_millis(1)), 0);
}

#[test]
fn rows_without_a_class_id_count_as_failed_from_the_start() {
    let status = LeaseTable::new(&wnids(2), 3, 1, TTL).status();
    assert_eq!((status.total, status.failed, status.pending), (5, 3, 2));
}

#[test]
fn a_class_costs_less_than_two_hundred_bytes() {
    // A hash map may have a capacity of twice its content and a half, and the queue may hold every
    // class.
    let index = 5 * size_of::<(Wnid, usize)>() / 2;
    assert!(size_of::<Class>() + index + 2 * size_of::<usize>() + 2 * 32 < 200);
}

#[test]
fn the_largest_reported_byte_counts_do_not_overflow() {
    let now = Instant::now();
    let mut table = table(1);
    for (worker, received) in [("one", u64::MAX), ("other", 1)] {
        let id = session(&mut table, worker, now);
        assert_eq!(renew(&mut table, id, &[], received, now), Ok(vec![]));
    }
    assert_eq!(table.status().received_bytes, u64::MAX);
}
