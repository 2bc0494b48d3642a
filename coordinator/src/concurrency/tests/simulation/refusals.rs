//! Origins that refuse requests with `Retry-After`.

use super::*;

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
