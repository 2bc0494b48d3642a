//! The number of connections for each kind of origin, and overloads.

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
