//! When a wait is announced, and when it ends.

use super::*;

#[test]
fn a_wait_is_announced_once_and_again_when_it_becomes_longer() {
    let now = Instant::now();
    let mut controller = ConcurrencyController::new(Ceilings::default(), now);
    let mut refused = |worker: u64, refusals: u64, seconds: u64, after: u64| {
        let retry_after = Some(Duration::from_secs(seconds));
        let observation = Observation {
            refusals,
            retry_after,
            wanted: 1,
            ..Observation::default()
        };
        controller.record_observation(
            SessionId(worker),
            &observation,
            now + Duration::from_secs(after),
        );
        controller
            .take_notices()
            .into_iter()
            .filter(|notice| matches!(notice, ConcurrencyNotice::Refused { .. }))
            .collect::<Vec<_>>()
    };
    let rest = |seconds| {
        vec![ConcurrencyNotice::Refused {
            rest: Duration::from_secs(seconds),
        }]
    };
    assert_eq!(
        refused(0, 0, 100, 0),
        rest(100),
        "a wait from before the coordinator's start is announced"
    );
    assert_eq!(refused(0, 1, 99, 1), []);
    assert_eq!(refused(1, 0, 90, 2), []);
    assert_eq!(
        refused(1, 1, 100, 3),
        [],
        "an extension by a few seconds is the same wait"
    );
    assert_eq!(refused(1, 2, 300, 4), rest(300));
    assert_eq!(
        refused(0, 2, 2, 310),
        rest(2),
        "a short wait is announced after the longer one has passed"
    );
    assert_eq!(refused(1, 3, 2, 311), []);
}

/// Reports a `Retry-After` of `wait` seconds, or none.
fn report(
    controller: &mut ConcurrencyController,
    id: u64,
    refusals: u64,
    wait: Option<u64>,
    now: Instant,
) {
    let retry_after = wait.map(Duration::from_secs);
    controller.record_observation(
        SessionId(id),
        &Observation {
            wanted: 1,
            refusals,
            retry_after,
            ..Observation::default()
        },
        now,
    );
}

#[test]
fn a_wait_ends_when_the_only_worker_that_reported_it_leaves() {
    let mut now = Instant::now();
    let mut controller = ConcurrencyController::new(Ceilings::default(), now);
    for id in [1, 2, 3] {
        report(&mut controller, id, 0, None, now);
    }
    report(&mut controller, 1, 1, Some(900), now);
    report(&mut controller, 2, 1, Some(60), now);
    now += Duration::from_secs(1);
    assert_eq!(
        controller.budget(SessionId(3), now).pause,
        Duration::from_secs(899),
        "the wait holds for all workers"
    );
    let budget_generation = controller.budget_generation();
    controller.left(SessionId(1), now);
    assert!(
        controller.budget_generation() > budget_generation,
        "the other workers get new budgets"
    );
    assert_eq!(
        controller.budget(SessionId(3), now).pause,
        Duration::from_secs(59)
    );
    controller.left(SessionId(2), now);
    assert_eq!(controller.budget(SessionId(3), now).pause, Duration::ZERO);
    let lifted = controller
        .take_notices()
        .into_iter()
        .filter(|notice| matches!(notice, ConcurrencyNotice::EndedEarly { .. }));
    assert_eq!(lifted.count(), 2);
}

#[test]
fn an_ended_wait_comes_back_only_after_a_new_refusal() {
    let mut now = Instant::now();
    let mut controller = ConcurrencyController::new(Ceilings::default(), now);
    for id in [1, 2] {
        report(&mut controller, id, 0, None, now);
    }
    report(&mut controller, 1, 1, Some(900), now);
    now += Duration::from_secs(100);
    assert_eq!(controller.resume(now), Duration::from_secs(800));
    let budget = controller.budget(SessionId(2), now);
    assert_eq!((budget.pause, budget.resumed), (Duration::ZERO, 1));
    for second in 1..=100 {
        now += Duration::from_secs(1);
        report(&mut controller, 1, 1, Some(800 - second), now);
        assert_eq!(
            controller.status(now).pause,
            Duration::ZERO,
            "the repeated report of the ended wait is ignored"
        );
    }
    now += Duration::from_secs(1);
    report(&mut controller, 1, 2, Some(300), now);
    assert_eq!(
        controller.status(now).pause,
        Duration::from_mins(5),
        "a new refusal starts a wait"
    );
    assert_eq!(controller.resume(now), Duration::from_mins(5));
    assert_eq!(controller.resume(now), Duration::ZERO);
}
