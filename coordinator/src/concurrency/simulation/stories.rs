//! Behaviour of the concurrency controller with each kind of origin.

use super::*;

fn ceiling(connections: u32) -> Ceilings {
    Ceilings {
        connections: Some(connections),
        bytes_per_second: None,
    }
}

/// Seconds with the best fixed number of connections.
fn best(job: &JobSetup, highest: u32) -> f64 {
    let apply = (1..=highest).map(|connections| {
        JobSetup {
            ceilings: ceiling(connections),
            ..*job
        }
        .run()
        .seconds
    });
    apply.fold(f64::INFINITY, f64::min)
}

#[test]
fn an_origin_with_a_total_rate_is_never_overloaded() {
    for breaks_above in [3, 5, 8] {
        for workers in [1, 4] {
            let origin = SimulatedOrigin {
                total: 8.0 * MB,
                breaks_above,
                ..UNLIMITED
            };
            let job = JobSetup {
                workers,
                classes: 100,
                ..JobSetup::new(origin)
            };
            let result = job.run();
            let best = best(&job, breaks_above);
            assert_eq!(
                (result.overloads, result.requests),
                (0, 100),
                "{workers} workers, {breaks_above}: {result:?}"
            );
            assert!(
                best / result.seconds > 0.95,
                "{workers} workers, {breaks_above}: {best} s and {result:?}"
            );
        }
    }
}

#[test]
fn an_origin_that_fails_under_two_connections_gets_one() {
    for breaks_above in [1, 2] {
        let origin = SimulatedOrigin {
            total: 8.0 * MB,
            breaks_above,
            ..UNLIMITED
        };
        let job = JobSetup {
            classes: 100,
            ..JobSetup::new(origin)
        };
        let result = job.run();
        let best = best(&job, breaks_above);
        assert!(
            result.overloads == 1 && result.limit <= breaks_above,
            "{result:?}"
        );
        assert!(best / result.seconds > 0.85, "{best} s and {result:?}");
    }
}

#[test]
fn an_origin_with_a_rate_per_connection_gets_all_connections() {
    for each in [1.0, 20.0] {
        for workers in [1, 4] {
            let origin = SimulatedOrigin {
                each: each * MB,
                ..UNLIMITED
            };
            let job = JobSetup {
                workers,
                slots: 20 / as_usize(workers),
                classes: 160,
                size: each * MB,
                ..JobSetup::new(origin)
            };
            let result = job.run();
            let unlimited = JobSetup {
                ceilings: ceiling(20),
                ..job
            }
            .run();
            assert!(
                result.limit == 20 && unlimited.seconds / result.seconds > 0.95,
                "{unlimited:?} and {result:?}"
            );
        }
    }
}

fn as_usize(workers: u64) -> usize {
    usize::try_from(workers).unwrap()
}

#[test]
fn a_connection_limit_is_found_with_at_most_three_overloads() {
    for breaks_above in [3, 5, 8] {
        let origin = SimulatedOrigin {
            each: MB,
            breaks_above,
            ..UNLIMITED
        };
        let result = JobSetup {
            classes: 200,
            ..JobSetup::new(origin)
        }
        .run();
        assert!(
            result.overloads <= 3 && result.limit == breaks_above,
            "{breaks_above}: {result:?}"
        );
        assert!(
            200.0 / f64::from(breaks_above) / result.seconds > 0.8,
            "{breaks_above}: {result:?}"
        );
    }
}

#[test]
fn a_fast_origin_that_has_failed_is_raised_in_small_steps() {
    for (workers, slots) in [(1, 20), (4, 5)] {
        let origin = SimulatedOrigin {
            total: 700.0 * MB,
            breaks_above: 12,
            ..UNLIMITED
        };
        let job = JobSetup {
            workers,
            slots,
            size: 60.0 * MB,
            ..JobSetup::new(origin)
        };
        let result = job.run();
        let best = best(&job, 12);
        assert!(
            result.overloads <= 2 && best / result.seconds > 0.9,
            "{workers} workers: {best} s and {result:?}"
        );
    }
}

#[test]
fn an_origin_that_refuses_is_used_up_to_its_limit() {
    for refuses_above in [3, 8] {
        let origin = SimulatedOrigin {
            each: MB,
            refuses_above,
            ..UNLIMITED
        };
        let result = JobSetup {
            workers: 4,
            slots: 5,
            classes: 200,
            ..JobSetup::new(origin)
        }
        .run();
        assert!(
            result.most_open <= 20 && result.requests < 230,
            "{refuses_above}: {result:?}"
        );
        assert!(
            200.0 / f64::from(refuses_above) / result.seconds > 0.75,
            "{refuses_above}: {result:?}"
        );
    }
}

#[test]
fn no_request_is_sent_before_retry_after_has_passed() {
    let origin = SimulatedOrigin {
        each: MB,
        refuses_above: 3,
        ..UNLIMITED
    };
    let result = JobSetup {
        workers: 4,
        slots: 5,
        classes: 40,
        ..JobSetup::new(origin)
    }
    .run();
    assert_eq!(result.sent_too_early, 0, "{result:?}");
}

#[test]
fn failures_independent_of_the_number_of_connections_do_not_lower_the_limit() {
    let origin = SimulatedOrigin {
        each: 2.0 * MB,
        cuts_every: 0.5 * MB,
        ..UNLIMITED
    };
    let result = JobSetup {
        classes: 400,
        ..JobSetup::new(origin)
    }
    .run();
    // The first seconds go by before the cause is known.
    assert!(
        result.limit == 20 && result.seconds < 8.0 + ideal_with_pauses(&result),
        "{result:?}"
    );
}

/// 400 MB over 20 connections with 2 MB/s each, and a pause of 0.25 s after each failure.
fn ideal_with_pauses(result: &RunResult) -> f64 {
    400.0 / 40.0 + f64::from(u32::try_from(result.requests - 400).unwrap()) * 0.25 / 20.0
}

#[test]
fn the_limit_rises_again_after_the_origin_recovers() {
    let origin = SimulatedOrigin {
        each: 2.0 * MB,
        breaks_above: 3,
        recovers: Duration::from_mins(1),
        ..UNLIMITED
    };
    let result = JobSetup {
        classes: 30_000,
        ..JobSetup::new(origin)
    }
    .run();
    assert!(result.limit > 12, "{result:?}");
}

#[test]
fn the_ceiling_holds_for_all_workers_together() {
    for connections in [1, 3, 7] {
        let origin = SimulatedOrigin {
            each: 5.0 * MB,
            cuts_every: 3.0 * MB,
            ..UNLIMITED
        };
        let job = JobSetup {
            workers: 5,
            slots: 4,
            classes: 150,
            ceilings: ceiling(connections),
            ..JobSetup::new(origin)
        };
        let result = job.run();
        assert_eq!(result.most_open, connections, "{result:?}");
    }
}

#[test]
fn an_origin_faster_than_the_client_gets_all_connections_immediately() {
    // One host receives at most this rate, regardless of the number of connections.
    let origin = SimulatedOrigin {
        total: 900.0 * MB,
        ..UNLIMITED
    };
    let job = JobSetup {
        slots: 10,
        classes: 14,
        size: 60.0 * MB,
        ..JobSetup::new(origin)
    };
    let result = job.run();
    let unlimited = JobSetup {
        ceilings: ceiling(10),
        ..job
    }
    .run();
    assert!(
        result.most_open == 10 && unlimited.seconds / result.seconds > 0.9,
        "{unlimited:?} and {result:?}"
    );
}

/// MB/s in the last of `minutes` minutes of a job that is longer.
fn rate_at_end(
    origin: SimulatedOrigin,
    workers: u64,
    slots: usize,
    size: f64,
    minutes: u64,
) -> f64 {
    let job = JobSetup {
        workers,
        slots,
        classes: 1_000_000,
        size: size * MB,
        ..JobSetup::new(origin)
    };
    let mut job_state = SimulatedJob::new(&job, Instant::now());
    let received = |job_state: &SimulatedJob| {
        job_state
            .workers
            .iter()
            .map(|worker| worker.counted.received)
            .sum::<u64>()
    };
    let mut before = 0;
    for minute in 1..=minutes {
        before = received(&job_state);
        while job_state.now - job_state.start < Duration::from_secs(60 * minute) {
            job_state.step(slots, job.size);
        }
    }
    f64::from(u32::try_from((received(&job_state) - before) / 1000).unwrap()) / 60e3
}

/// image-net.org as seen from another continent: 450 ms to the first byte, and slow start.
const FAR: SimulatedOrigin = SimulatedOrigin {
    latency: Duration::from_millis(450),
    rtt: Some(Duration::from_millis(150)),
    each: 2.0 * MB,
    ..UNLIMITED
};

#[test]
fn one_overload_does_not_limit_the_rest_of_the_job() {
    let near = SimulatedOrigin {
        each: 2.0 * MB,
        breaks_above: 3,
        recovers: Duration::from_secs(10),
        ..UNLIMITED
    };
    for (workers, slots) in [(1, 20), (4, 5)] {
        let rate = rate_at_end(near, workers, slots, 1000.0, 4);
        assert!(rate > 380.0, "{workers} x {slots}: {rate} of 400 MB/s");
    }
}

#[test]
fn one_worker_with_a_bad_network_does_not_slow_the_others() {
    let origin = SimulatedOrigin {
        each: 2.0 * MB,
        first_cuts_every: 20.0 * MB,
        ..UNLIMITED
    };
    let rate = rate_at_end(origin, 10, 5, 100.0, 2);
    assert!(rate > 95.0, "{rate} of 100 MB/s");
    let origin = SimulatedOrigin {
        each: 2.0 * MB,
        first_always_fails: true,
        ..UNLIMITED
    };
    let rate = rate_at_end(origin, 4, 5, 100.0, 2);
    assert!(rate > 28.0, "{rate} of 30 MB/s");
}

#[test]
fn connections_are_measured_after_slow_start() {
    let rate = rate_at_end(
        SimulatedOrigin {
            breaks_above: 5,
            ..FAR
        },
        1,
        20,
        100.0,
        3,
    );
    assert!(rate > 9.0, "{rate} of 10 MB/s");
    let rate = rate_at_end(FAR, 10, 10, 100.0, 2);
    assert!(rate > 190.0, "{rate} of 200 MB/s");
}

#[test]
fn an_initial_burst_is_not_taken_for_the_rate() {
    for (breaks_above, initial_burst) in [(3, 1.5), (3, 3.0), (8, 6.0)] {
        for workers in [1, 4] {
            let origin = SimulatedOrigin {
                total: 8.0 * MB,
                breaks_above,
                initial_burst: initial_burst * MB,
                ..UNLIMITED
            };
            let result = JobSetup {
                workers,
                slots: 20 / as_usize(workers),
                classes: 100,
                ..JobSetup::new(origin)
            }
            .run();
            assert_eq!(
                (result.overloads, result.requests),
                (0, 100),
                "{workers} workers, {initial_burst} MB: {result:?}"
            );
        }
    }
}

/// 25 classes of some seconds each, over eight connections.
fn short_job(origin: SimulatedOrigin, workers: u64) -> JobSetup {
    JobSetup {
        workers,
        slots: 8 / as_usize(workers),
        classes: 25,
        size: 4.4 * MB,
        ..JobSetup::new(origin)
    }
}

const NEAR: SimulatedOrigin = SimulatedOrigin {
    each: 0.9 * MB,
    ..UNLIMITED
};

/// An origin that refuses each of `classes` `times` times.
fn refusing(
    classes: impl IntoIterator<Item = usize>,
    times: u32,
    origin: SimulatedOrigin,
) -> SimulatedOrigin {
    SimulatedOrigin {
        refuses_classes: classes
            .into_iter()
            .map(|class| (class, times))
            .collect::<Vec<_>>()
            .leak(),
        ..origin
    }
}

#[test]
fn one_refusal_costs_only_its_wait() {
    for workers in [1, 4] {
        let healthy = short_job(NEAR, workers).run().seconds;
        for class in 0..25 {
            let result = short_job(refusing([class], 1, NEAR), workers).run();
            assert!(
                result.seconds < healthy + 3.0,
                "{workers} workers, class {class}: {healthy} s and {result:?}"
            );
            assert!(
                result.requests == 26 && result.most_open == 8,
                "{workers} workers, class {class}: {result:?}"
            );
        }
    }
}

#[test]
fn refusals_of_the_first_requests_do_not_delay_the_ramp_up() {
    for workers in [1, 4] {
        let healthy = short_job(NEAR, workers).run().seconds;
        for (classes, times) in [(0..1, 3), (0..2, 1), (0..8, 1)] {
            let result = short_job(refusing(classes.clone(), times, NEAR), workers).run();
            let wait = f64::from(times) * 2.0 + 5.0;
            assert!(
                result.seconds < healthy + wait,
                "{workers} workers, {classes:?}: {healthy} s and {result:?}"
            );
        }
    }
}

#[test]
fn classes_that_are_refused_repeatedly_slow_the_others_little() {
    for workers in [1, 4] {
        let healthy = short_job(NEAR, workers).run().seconds;
        for (classes, times) in [(9..10, 5), (9..11, 1), (8..16, 1), (24..25, 5)] {
            let result = short_job(refusing(classes.clone(), times, NEAR), workers).run();
            let last = if classes.start == 24 {
                2.0 * f64::from(times)
            } else {
                0.0
            };
            assert!(
                result.seconds < healthy * 1.25 + last,
                "{workers} workers, {classes:?}: {healthy} s and {result:?}"
            );
        }
    }
}

#[test]
fn rare_refusals_do_not_lower_the_limit() {
    for workers in [1, 4] {
        let result = JobSetup {
            classes: 100,
            ..short_job(
                SimulatedOrigin {
                    refuses_each: 20,
                    ..NEAR
                },
                workers,
            )
        }
        .run();
        // Five waits, during which the transfers in progress go on.
        let ideal = 100.0 * 4.4 / (8.0 * 0.9);
        assert!(
            result.limit == 8 && result.seconds < ideal + 5.0 * 2.0,
            "{workers} workers: {ideal} s and {result:?}"
        );
    }
}

#[test]
fn after_one_refusal_the_former_rate_is_back_within_seconds() {
    for (origin, size) in [(NEAR, 4.4), (NEAR, 40.0), (FAR, 40.0)] {
        for workers in [1, 4] {
            let job = JobSetup {
                size: size * MB,
                classes: 1000,
                ..short_job(refusing([30], 1, origin), workers)
            };
            let mut job_state = SimulatedJob::new(&job, Instant::now());
            let received = |job_state: &SimulatedJob| {
                job_state
                    .workers
                    .iter()
                    .map(|worker| worker.counted.received)
                    .sum::<u64>()
            };
            let run = |job_state: &mut SimulatedJob, until: &dyn Fn(&SimulatedJob) -> bool| {
                while !until(job_state) {
                    job_state.step(job.slots, job.size);
                }
            };
            let rate = |job_state: &mut SimulatedJob, seconds: u64| {
                let before = received(job_state);
                let end = job_state.now + Duration::from_secs(seconds);
                run(job_state, &|job_state| job_state.now >= end);
                (received(job_state) - before) / seconds
            };
            let mut former = 0;
            while job_state.refused_until.is_none() {
                former = rate(&mut job_state, 2).max(former);
            }
            let (_, wait) = job_state.refused_until.unwrap();
            while job_state.now < wait + Duration::from_secs(3) {
                rate(&mut job_state, 1);
            }
            let back = rate(&mut job_state, 2);
            assert!(
                back * 10 >= former * 9,
                "{workers} workers, {size} MB: {back} of {former} bytes a second"
            );
        }
    }
}

#[test]
fn a_wait_is_announced_once_and_again_when_it_becomes_longer() {
    let now = Instant::now();
    let mut pace = ConcurrencyController::new(Ceilings::default(), now);
    let mut refused = |worker: u64, refusals: u64, seconds: u64, after: u64| {
        let retry_after = Some(Duration::from_secs(seconds));
        let observation = Observation {
            refusals,
            retry_after,
            wanted: 1,
            ..Observation::default()
        };
        pace.observed(
            SessionId(worker),
            &observation,
            now + Duration::from_secs(after),
        );
        pace.take_notices()
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
    pace: &mut ConcurrencyController,
    id: u64,
    refusals: u64,
    wait: Option<u64>,
    now: Instant,
) {
    let retry_after = wait.map(Duration::from_secs);
    pace.observed(
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
    let mut pace = ConcurrencyController::new(Ceilings::default(), now);
    for id in [1, 2, 3] {
        report(&mut pace, id, 0, None, now);
    }
    report(&mut pace, 1, 1, Some(900), now);
    report(&mut pace, 2, 1, Some(60), now);
    now += Duration::from_secs(1);
    assert_eq!(
        pace.budget(SessionId(3), now).quiet,
        Duration::from_secs(899),
        "the wait holds for all workers"
    );
    let turn = pace.turn();
    pace.left(SessionId(1), now);
    assert!(pace.turn() > turn, "the other workers get new budgets");
    assert_eq!(
        pace.budget(SessionId(3), now).quiet,
        Duration::from_secs(59)
    );
    pace.left(SessionId(2), now);
    assert_eq!(pace.budget(SessionId(3), now).quiet, Duration::ZERO);
    let lifted = pace
        .take_notices()
        .into_iter()
        .filter(|notice| matches!(notice, ConcurrencyNotice::EndedEarly { .. }));
    assert_eq!(lifted.count(), 2);
}

#[test]
fn an_ended_wait_comes_back_only_after_a_new_refusal() {
    let mut now = Instant::now();
    let mut pace = ConcurrencyController::new(Ceilings::default(), now);
    for id in [1, 2] {
        report(&mut pace, id, 0, None, now);
    }
    report(&mut pace, 1, 1, Some(900), now);
    now += Duration::from_secs(100);
    assert_eq!(pace.resume(now), Duration::from_secs(800));
    let budget = pace.budget(SessionId(2), now);
    assert_eq!((budget.quiet, budget.resumed), (Duration::ZERO, 1));
    for second in 1..=100 {
        now += Duration::from_secs(1);
        report(&mut pace, 1, 1, Some(800 - second), now);
        assert_eq!(
            pace.status(now).quiet,
            Duration::ZERO,
            "the repeated report of the ended wait is ignored"
        );
    }
    now += Duration::from_secs(1);
    report(&mut pace, 1, 2, Some(300), now);
    assert_eq!(
        pace.status(now).quiet,
        Duration::from_mins(5),
        "a new refusal starts a wait"
    );
    assert_eq!(pace.resume(now), Duration::from_mins(5));
    assert_eq!(pace.resume(now), Duration::ZERO);
}
