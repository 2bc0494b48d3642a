//! Which connections are closed, with explicit times.

use tokio::task::JoinSet;

use super::{limits::RESERVED_FILES, *};

fn connections() -> Arc<Connections> {
    Arc::new(Connections::new(Limits {
        pending: 100,
        observers: 4,
        workers: 8,
    }))
}

fn full(connections: &Arc<Connections>, now: Instant) -> Vec<ConnectionEntry> {
    (0..connections.limits.pending)
        .map(|_| connections.enter(now))
        .collect()
}

fn admitted(connections: &Arc<Connections>, role: Role, now: Instant) -> ConnectionEntry {
    let entry = connections.enter(now);
    entry.admit(role, &CancellationToken::new(), now);
    entry
}

fn is_closing(entry: &ConnectionEntry) -> bool {
    entry.close_token().is_cancelled()
}

#[test]
fn a_full_set_of_pending_connections_closes_the_oldest_after_a_second() {
    let connections = connections();
    let now = Instant::now();
    let mut entries = full(&connections, now);
    assert!(!connections.try_free_pending(now) && !is_closing(&entries[0]));
    let later = now + MIN_PENDING;
    assert!(!connections.try_free_pending(later));
    assert!(is_closing(&entries[0]) && !is_closing(&entries[1]));
    drop(entries.remove(0));
    assert!(connections.try_free_pending(later) && !is_closing(&entries[0]));
}

#[test]
fn a_connection_that_is_slow_to_close_does_not_block_the_next_one() {
    let connections = connections();
    let now = Instant::now();
    let entries = full(&connections, now);
    let later = now + MIN_PENDING;
    assert!(!connections.try_free_pending(later) && !connections.try_free_pending(later));
    assert!(is_closing(&entries[1]) && !is_closing(&entries[2]));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_accepted_as_soon_as_another_one_closes() {
    let connections = connections();
    let now = Instant::now();
    let mut entries = full(&connections, now);
    let mut accepting = JoinSet::new();
    accepting.spawn({
        let connections = Arc::clone(&connections);
        async move { connections.wait_for_slot().await }
    });
    let between_two_polls = POLL_INTERVAL * 5 / 2;
    tokio::time::sleep(between_two_polls).await;
    assert!(accepting.try_join_next().is_none());
    drop(entries.pop());
    accepting.join_next().await.unwrap().unwrap();
    assert_eq!(now.elapsed(), between_two_polls);
}

#[test]
fn a_valid_credential_or_a_closed_connection_frees_a_place() {
    let connections = connections();
    let now = Instant::now();
    let mut entries = full(&connections, now);
    entries[5].admit(Role::Worker, &CancellationToken::new(), now);
    entries.truncate(99);
    let _more = [connections.enter(now), connections.enter(now)];
    assert!(!connections.try_free_pending(now));
    connections.sweep(now + AUTH_TIMEOUT);
    assert!(is_closing(&entries[0]) && !is_closing(&entries[5]));
    drop(entries);
    assert!(connections.try_free_pending(now));
}

#[test]
fn no_connection_is_pending_for_longer_than_the_auth_timeout() {
    let connections = connections();
    let now = Instant::now();
    let early = connections.enter(now);
    let late = connections.enter(now + Duration::from_secs(1));
    connections.sweep(now + AUTH_TIMEOUT);
    assert!(is_closing(&early) && !is_closing(&late));
}

#[test]
fn a_pending_connection_is_closed_when_it_exceeds_its_cost() {
    let connections = connections();
    let now = Instant::now();
    let [one, other] = [connections.enter(now), connections.enter(now)];
    one.charge(MAX_COST);
    assert!(!is_closing(&one));
    one.charge(1);
    assert!(is_closing(&one) && !is_closing(&other));
    one.charge(MAX_PENDING_COST);
    assert_eq!(
        connections.lock().pending_cost,
        0,
        "connections to be closed are not counted"
    );
}

#[test]
fn above_the_total_cost_the_oldest_costly_connection_is_closed() {
    let connections = connections();
    let now = Instant::now();
    let small = connections.enter(now);
    small.charge(1000);
    let each = MAX_COST / 2;
    let large: Vec<ConnectionEntry> = (0..MAX_PENDING_COST / each)
        .map(|number| {
            let entry = connections.enter(now + Duration::from_millis(number));
            entry.charge(each);
            entry
        })
        .collect();
    assert!(
        is_closing(&large[0]),
        "all of them together exceed the limit"
    );
    assert!(!is_closing(&small) && !large[1..].iter().any(is_closing));
    drop(large);
    assert_eq!(connections.lock().pending_cost, 1000);
    small.admit(Role::Worker, &CancellationToken::new(), now);
    assert_eq!(connections.lock().pending_cost, 0);
}

#[test]
fn too_many_observers_close_the_longest_idle_observer_and_no_worker() {
    let connections = connections();
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let workers: Vec<ConnectionEntry> = (0..8)
        .map(|_| admitted(&connections, Role::Worker, now))
        .collect();
    let roles = [Role::Viewer, Role::Admin, Role::Viewer, Role::Viewer];
    let observers: Vec<ConnectionEntry> = (1..)
        .zip(roles)
        .map(|(second, role)| admitted(&connections, role, at(second)))
        .collect();
    // The first observer has a call in progress; the second one had one recently.
    assert_eq!(observers[0].begin_call(at(10)), Ok(true));
    assert_eq!(observers[1].begin_call(at(20)), Ok(true));
    observers[1].end_call(at(21));
    let more = admitted(&connections, Role::Viewer, at(30));
    assert_eq!(
        observers.iter().map(is_closing).collect::<Vec<_>>(),
        [false, false, true, false]
    );
    let _one_more = admitted(&connections, Role::Viewer, at(31));
    assert_eq!(
        observers.iter().map(is_closing).collect::<Vec<_>>(),
        [false, false, true, true]
    );
    assert!(!is_closing(&more) && !workers.iter().any(is_closing));
    // A worker beyond the limit replaces a worker.
    let _ninth = admitted(&connections, Role::Worker, at(32));
    assert_eq!(workers.iter().filter(|entry| is_closing(entry)).count(), 1);
}

#[test]
fn a_connection_that_changes_its_role_counts_for_the_limit_of_the_new_one() {
    let connections = connections();
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let workers: Vec<ConnectionEntry> = (0..8)
        .map(|_| admitted(&connections, Role::Worker, now))
        .collect();
    let changed = admitted(&connections, Role::Viewer, later);
    changed.admit(Role::Worker, &CancellationToken::new(), later);
    let closing = || workers.iter().filter(|entry| is_closing(entry)).count();
    assert!(!is_closing(&changed) && closing() == 1);
    changed.admit(Role::Worker, &CancellationToken::new(), later);
    assert_eq!(closing(), 1, "the same role again");
}

#[test]
fn concurrent_calls_are_limited_for_observers_and_not_for_workers() {
    let connections = connections();
    let now = Instant::now();
    let [worker, viewer] =
        [Role::Worker, Role::Viewer].map(|role| admitted(&connections, role, now));
    let begin = |entry: &ConnectionEntry| {
        (0..=MAX_OBSERVER_CALLS)
            .map(|_| entry.begin_call(now))
            .collect::<Vec<_>>()
    };
    assert_eq!(begin(&worker), [Ok(true); 5]);
    let few = [Ok(true); MAX_OBSERVER_CALLS];
    assert_eq!(begin(&viewer), [&few[..], &[Err(TooManyCalls)]].concat());
    viewer.end_call(now);
    assert_eq!(viewer.begin_call(now), Ok(true));
    assert_eq!(connections.enter(now).begin_call(now), Ok(false));
}

#[test]
fn a_revoked_credential_makes_its_connection_pending_until_another_one_is_shown() {
    let connections = connections();
    let now = Instant::now();
    let old = CancellationToken::new();
    let new = CancellationToken::new();
    let entries = [
        connections.enter(now),
        connections.enter(now),
        connections.enter(now),
    ];
    for entry in &entries {
        entry.admit(Role::Worker, &old, now);
    }
    // The second connection has shown the new token already, the third one shows it in time.
    entries[1].admit(Role::Worker, &new, now);
    let later = now + Duration::from_hours(1);
    old.cancel();
    connections.sweep(later);
    assert_eq!(
        entries.each_ref().map(ConnectionEntry::is_pending),
        [true, false, true]
    );
    entries[2].admit(Role::Worker, &new, later);
    connections.sweep(later + AUTH_TIMEOUT);
    assert_eq!(entries.each_ref().map(is_closing), [true, false, false]);
}

#[test]
fn all_limits_together_stay_below_the_limit_on_open_files() {
    for files in [64, 256, 1024, 20_000, 1 << 20] {
        let Limits {
            pending,
            observers,
            workers,
        } = Limits::within(Some(files));
        assert!(
            pending > 0 && observers > 0 && workers > pending + observers,
            "{files}"
        );
        assert!(
            (pending + observers + workers) as u64 <= files.saturating_sub(RESERVED_FILES).max(16),
            "{files}"
        );
    }
    let limits = Limits::within(Some(20_000));
    assert_eq!(
        (limits.pending, limits.observers, limits.workers),
        (500, 128, 19_244)
    );
    assert_eq!(Limits::within(None).pending, 500);
}
