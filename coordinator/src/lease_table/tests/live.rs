//! What is shown of workers between their heartbeats, and that it affects nothing else.

use std::time::UNIX_EPOCH;

use super::*;
use crate::fleet::{TransferStep, Transfers, WorkerState, WorkerView};

const SECOND: Duration = Duration::from_secs(1);

fn observe(table: &mut LeaseTable, id: SessionId, received_bytes: u64, now: Instant) {
    observe_transfers(table, id, received_bytes, Vec::new(), now);
}

fn observe_transfers(
    table: &mut LeaseTable,
    id: SessionId,
    received_bytes: u64,
    transfers: Vec<ReportedLease>,
    now: Instant,
) {
    let report = LiveReport {
        received_bytes,
        transfers,
        disk_free: None,
    };
    table.record_live(id, &report, now).unwrap();
    check(table);
}

/// The only worker.
fn only(table: &mut LeaseTable, now: Instant) -> WorkerView {
    let mut workers = shown(table, now);
    assert_eq!(workers.len(), 1);
    workers.remove(0)
}

fn state(table: &mut LeaseTable, now: Instant) -> WorkerState {
    let state = only(table, now).state;
    let counts = table.state_counts();
    for other in WorkerState::ALL {
        assert_eq!(counts.of(other), u32::from(other == state), "{other:?}");
    }
    state
}

#[test]
fn bytes_in_an_observation_are_shown_at_once_and_counted_once() {
    let now = Instant::now();
    let mut table = table(1);
    let id = session(&mut table, "w", now);
    let leases = acquire(&mut table, id, 1, now).unwrap();
    observe_transfers(
        &mut table,
        id,
        700,
        vec![reported(leases[0], 650, 900)],
        now,
    );
    assert_eq!(table.status().received_bytes, 700);
    assert_eq!(only(&mut table, now).received_bytes, 700);
    let listed = table.under_way(None, 1).classes.remove(0);
    assert_eq!((listed.bytes, listed.length), (650, 900));
    // The heartbeat was sent before the observation, and the session is lost later.
    renew(&mut table, id, &leases, 500, now).unwrap();
    renew(&mut table, id, &leases, 700, now).unwrap();
    table.leave(id).unwrap();
    let again = session(&mut table, "w", now);
    observe(&mut table, again, 800, now);
    table.record_call(again, 0, now).unwrap();
    assert_eq!(table.status().received_bytes, 800);
    check(&table);
}

/// The session ends as without observations.
#[test]
fn observations_renew_no_session() {
    let start = Instant::now();
    let mut table = table(1);
    let id = session(&mut table, "w", start);
    let leases = acquire(&mut table, id, 1, start).unwrap();
    let mut now = start;
    let ended = loop {
        now += SECOND;
        assert!(
            now - start < 2 * TTL,
            "an observation has renewed the session"
        );
        let ended = table.tick(now);
        if !ended.is_empty() {
            break ended;
        }
        let bytes = (now - start).as_secs();
        observe_transfers(
            &mut table,
            id,
            bytes,
            vec![reported(leases[0], bytes, 0)],
            now,
        );
    };
    assert_eq!((now - start, ended[0].returned), (TTL + EXPIRY_MARGIN, 1));
}

/// A worker whose observations claim progress and whose heartbeats do not.
#[test]
fn observations_are_no_progress_of_a_lease() {
    let mut now = Instant::now();
    let mut table = table(1);
    let id = session(&mut table, "w", now);
    let leases = acquire(&mut table, id, 1, now).unwrap();
    let mut bytes = 0;
    for _ in 0..STUCK.as_secs() / 10 - 1 {
        now += 10 * SECOND;
        bytes += 1_000_000;
        observe_transfers(
            &mut table,
            id,
            bytes,
            vec![reported(leases[0], bytes, 0)],
            now,
        );
        assert_eq!(renew(&mut table, id, &leases, 0, now), Ok(vec![]));
    }
    renew(&mut table, id, &leases, 0, now + 20 * SECOND).unwrap();
    assert_eq!(table.status().leased, 0, "the class was taken from it");
}

/// An observation that arrives before the heartbeat must not hide its progress.
#[test]
fn bytes_that_were_observed_before_are_progress_in_a_heartbeat() {
    let now = Instant::now();
    let mut table = table(1);
    let id = session(&mut table, "w", now);
    let later = now + SECOND;
    observe(&mut table, id, 900, later);
    assert_eq!(table.sessions.by_id[&id].last_received, now);
    renew(&mut table, id, &[], 900, later).unwrap();
    assert_eq!(table.sessions.by_id[&id].last_received, later);
}

#[test]
fn a_worker_is_silent_after_three_intervals_then_lost_and_active_when_it_is_back() {
    let start = Instant::now();
    let mut table = table(2);
    let id = session(&mut table, "w", start);
    acquire(&mut table, id, 1, start).unwrap();
    observe(&mut table, id, 10, start);
    let intervals = 6 * SECOND;
    assert_eq!(state(&mut table, start + intervals), WorkerState::Active);
    let now = start + intervals + Duration::from_millis(1);
    assert_eq!(state(&mut table, now), WorkerState::Silent);
    let time_of_day = |moment| UNIX_EPOCH + (moment - start);
    let (_, silent) = table
        .workers_after(None, 1, now, time_of_day, |_| None)
        .remove(0);
    assert_eq!(silent.since, UNIX_EPOCH, "since it was last heard of");
    assert_eq!((silent.leased, table.status().leased), (1, 1));
    observe(&mut table, id, 10, now);
    assert_eq!(state(&mut table, now), WorkerState::Active);
    assert_eq!(state(&mut table, now + 7 * SECOND), WorkerState::Silent);
    let lost = start + TTL + EXPIRY_MARGIN;
    assert_eq!(table.tick(lost).len(), 1);
    assert_eq!(state(&mut table, lost), WorkerState::Lost);
    let view = only(&mut table, lost + SECOND);
    assert_eq!((view.leased, view.received_bytes), (0, 10));
    assert_eq!(view.silent, lost + SECOND - now);
    session(&mut table, "w", lost);
    assert_eq!(state(&mut table, lost), WorkerState::Active);
}

/// Its heartbeats come every third of the time to live. In a large fleet observations are rarer.
#[test]
fn a_worker_is_silent_by_its_own_interval() {
    let now = Instant::now();
    let mut table = table(1);
    let id = session(&mut table, "w", now);
    assert_eq!(state(&mut table, now + TTL), WorkerState::Active);
    observe(&mut table, id, 0, now);
    table.set_observation_interval(4 * SECOND);
    assert_eq!(state(&mut table, now + 12 * SECOND), WorkerState::Active);
    table.set_observation_interval(SECOND);
    assert_eq!(state(&mut table, now + 12 * SECOND), WorkerState::Silent);
}

#[test]
fn the_last_hundred_lost_workers_are_shown() {
    let now = Instant::now();
    let mut table = table(1);
    for number in 0..103 {
        session(&mut table, &format!("w{number:03}"), now);
    }
    let late = now + TTL + EXPIRY_MARGIN;
    assert_eq!(table.tick(late).len(), 103);
    let names: Vec<_> = shown(&mut table, late)
        .into_iter()
        .map(|worker| worker.name)
        .collect();
    assert_eq!((names.len(), names[0].as_str()), (100, "w003"));
    assert_eq!(table.state_counts().of(WorkerState::Lost), 100);
}

#[test]
fn the_rate_follows_the_bytes_of_the_last_seconds() {
    let step = Duration::from_millis(250);
    let mut now = Instant::now();
    let mut table = table(1);
    let id = session(&mut table, "w", now);
    let mut bytes = 5_000_000;
    let mut pass = |table: &mut LeaseTable, seconds: u32, each: u64| {
        for _ in 0..seconds * 4 {
            now += step;
            bytes += each / 4;
            observe(table, id, bytes, now);
        }
        (only(table, now).bytes_per_second, now)
    };
    let (first, _) = pass(&mut table, 1, 1_000_000);
    assert!(
        (990_000..1_010_000).contains(&first),
        "bytes from before the session do not count: {first}"
    );
    let (steady, _) = pass(&mut table, 10, 1_000_000);
    assert!((990_000..1_010_000).contains(&steady), "{steady}");
    let (falling, _) = pass(&mut table, 5, 0);
    assert!((300_000..450_000).contains(&falling), "{falling}");
    let (idle, at) = pass(&mut table, 25, 0);
    assert!(idle < 10_000, "{idle}");
    let (_, at_speed) = pass(&mut table, 10, 1_000_000);
    assert!(at_speed > at);
    assert_eq!(only(&mut table, at_speed + 7 * SECOND).bytes_per_second, 0);
}

#[test]
fn transfers_are_listed_by_age_with_their_steps() {
    let now = Instant::now();
    let mut table = table(4);
    let id = session(&mut table, "w", now);
    let mut leases = acquire(&mut table, id, 1, now).unwrap();
    leases.extend(acquire(&mut table, id, 3, now + SECOND).unwrap());
    let local = |lease, bytes, length| ReportedLease {
        is_local: true,
        ..reported(lease, bytes, length)
    };
    let held = vec![
        local(leases[0], 900, 900),
        reported(leases[1], 5, 10),
        local(leases[2], 0, 0),
    ];
    observe_transfers(&mut table, id, 0, held, now + SECOND);
    let Transfers { total, first } = table.transfers(3);
    assert_eq!(total, 4);
    let listed: Vec<_> = first
        .iter()
        .map(|it| (it.wnid, it.bytes, it.length, it.step, it.attempt))
        .collect();
    assert_eq!(
        listed,
        [
            (wnid(1), 900, 900, TransferStep::Publish, 1),
            (wnid(2), 5, 10, TransferStep::Download, 1),
            (wnid(3), 0, 0, TransferStep::Local, 1),
        ]
    );
    assert_eq!(table.transfers(9).first.len(), 4);
}

/// A worker names a lease of another one, a class of no list, and more leases than its slots.
#[test]
fn an_observation_changes_only_leases_of_its_own_session() {
    let now = Instant::now();
    let mut table = table(2);
    let info = WorkerInfo {
        worker: "small".to_owned(),
        instance: b"small".to_vec(),
        slots: 1,
        ..WorkerInfo::default()
    };
    let small = table.register(&info, &[], now).unwrap().session;
    let other = session(&mut table, "other", now);
    let own = acquire(&mut table, small, 1, now).unwrap()[0];
    let foreign = acquire(&mut table, other, 1, now).unwrap()[0];
    let unknown = Lease {
        wnid: wnid(99),
        ..own
    };
    for lease in [foreign, unknown] {
        observe_transfers(&mut table, small, 0, vec![reported(lease, 7, 9)], now);
    }
    let both = vec![reported(own, 1, 9), reported(own, 2, 9)];
    observe_transfers(&mut table, small, 0, both, now);
    let bytes: Vec<_> = table.transfers(9).first.iter().map(|it| it.bytes).collect();
    assert_eq!(bytes, [1, 0]);
    let report = LiveReport::default();
    assert_eq!(
        table.record_live(SessionId(77), &report, now),
        Err(UnknownSession)
    );
}
