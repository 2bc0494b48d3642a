//! What the pace makes of each kind of origin.

use super::*;

fn boundless(connections: u32) -> Ceilings {
    Ceilings { connections: Some(connections), bytes_per_second: None }
}

/// Seconds with the best number of connections, told beforehand.
fn best(job: &Job, highest: u32) -> f64 {
    let told = (1..=highest).map(|connections| Job { ceilings: boundless(connections), ..*job }.run().seconds);
    told.fold(f64::INFINITY, f64::min)
}

#[test]
fn an_origin_with_one_total_rate_is_never_broken_to_find_out() {
    for breaks_above in [3, 5, 8] {
        for workers in [1, 4] {
            let origin = Origin { total: 8.0 * MB, breaks_above, ..BOUNDLESS };
            let job = Job { workers, classes: 100, ..Job::new(origin) };
            let (ran, best) = (job.run(), best(&job, breaks_above));
            assert_eq!((ran.overloads, ran.requests), (0, 100), "{workers} workers, {breaks_above}: {ran:?}");
            assert!(best / ran.seconds > 0.95, "{workers} workers, {breaks_above}: {best} s and {ran:?}");
        }
    }
}

#[test]
fn an_origin_that_breaks_even_under_two_connections_is_left_with_one() {
    for breaks_above in [1, 2] {
        let origin = Origin { total: 8.0 * MB, breaks_above, ..BOUNDLESS };
        let job = Job { classes: 100, ..Job::new(origin) };
        let (ran, best) = (job.run(), best(&job, breaks_above));
        assert!(ran.overloads == 1 && ran.limit <= breaks_above, "{ran:?}");
        assert!(best / ran.seconds > 0.85, "{best} s and {ran:?}");
    }
}

#[test]
fn an_origin_with_a_limit_per_connection_is_soon_asked_with_all_that_there_is() {
    for each in [1.0, 20.0] {
        for workers in [1, 4] {
            let origin = Origin { each: each * MB, ..BOUNDLESS };
            let job = Job {
                workers,
                slots: 20 / workers_as_slots(workers),
                classes: 160,
                size: each * MB,
                ..Job::new(origin)
            };
            let (ran, unpaced) = (job.run(), Job { ceilings: boundless(20), ..job }.run());
            assert!(ran.limit == 20 && unpaced.seconds / ran.seconds > 0.95, "{unpaced:?} and {ran:?}");
        }
    }
}

fn workers_as_slots(workers: u64) -> usize {
    usize::try_from(workers).unwrap()
}

#[test]
fn a_limit_per_connection_and_a_wall_are_found_with_a_few_breaks() {
    for breaks_above in [3, 5, 8] {
        let origin = Origin { each: MB, breaks_above, ..BOUNDLESS };
        let ran = Job { classes: 200, ..Job::new(origin) }.run();
        assert!(ran.overloads <= 3 && ran.limit == breaks_above, "{breaks_above}: {ran:?}");
        assert!(200.0 / f64::from(breaks_above) / ran.seconds > 0.8, "{breaks_above}: {ran:?}");
    }
}

#[test]
fn a_fast_origin_that_has_broken_is_not_hurried() {
    for (workers, slots) in [(1, 20), (4, 5)] {
        let origin = Origin { total: 700.0 * MB, breaks_above: 12, ..BOUNDLESS };
        let job = Job { workers, slots, size: 60.0 * MB, ..Job::new(origin) };
        let (ran, best) = (job.run(), best(&job, 12));
        assert!(ran.overloads <= 2 && best / ran.seconds > 0.9, "{workers} workers: {best} s and {ran:?}");
    }
}

#[test]
fn an_origin_that_refuses_is_asked_for_what_it_gives() {
    for refuses_above in [3, 8] {
        let origin = Origin { each: MB, refuses_above, ..BOUNDLESS };
        let ran = Job { workers: 4, slots: 5, classes: 200, ..Job::new(origin) }.run();
        assert!(ran.most_open <= 20 && ran.requests < 230, "{refuses_above}: {ran:?}");
        assert!(200.0 / f64::from(refuses_above) / ran.seconds > 0.75, "{refuses_above}: {ran:?}");
    }
}

#[test]
fn nobody_asks_for_anything_while_the_origin_wants_to_be_left_alone() {
    let origin = Origin { each: MB, refuses_above: 3, ..BOUNDLESS };
    let ran = Job { workers: 4, slots: 5, classes: 40, ..Job::new(origin) }.run();
    assert_eq!(ran.asked_in_vain, 0, "{ran:?}");
}

#[test]
fn cuts_that_have_nothing_to_do_with_the_number_of_connections_are_put_up_with() {
    let origin = Origin { each: 2.0 * MB, cuts_every: 0.5 * MB, ..BOUNDLESS };
    let ran = Job { classes: 400, ..Job::new(origin) }.run();
    // Some seconds go by until that is clear.
    assert!(ran.limit == 20 && ran.seconds < 8.0 + ideal_with_pauses(&ran), "{ran:?}");
}

/// 400 MB over 20 connections with 2 MB/s each, and a pause of 0.25 s after each cut.
fn ideal_with_pauses(ran: &Ran) -> f64 {
    400.0 / 40.0 + f64::from(u32::try_from(ran.requests - 400).unwrap()) * 0.25 / 20.0
}

#[test]
fn an_origin_that_recovers_is_trusted_again() {
    let origin = Origin { each: 2.0 * MB, breaks_above: 3, recovers: Duration::from_mins(1), ..BOUNDLESS };
    let ran = Job { classes: 30_000, ..Job::new(origin) }.run();
    assert!(ran.limit > 12, "{ran:?}");
}

#[test]
fn the_ceiling_is_never_passed_by_all_workers_together() {
    for connections in [1, 3, 7] {
        let origin = Origin { each: 5.0 * MB, cuts_every: 3.0 * MB, ..BOUNDLESS };
        let job = Job { workers: 5, slots: 4, classes: 150, ceilings: boundless(connections), ..Job::new(origin) };
        let ran = job.run();
        assert_eq!(ran.most_open, connections, "{ran:?}");
    }
}

#[test]
fn an_origin_that_is_faster_than_we_are_gets_all_connections_at_once() {
    // The workers of one host take no more than that, however many connections they have.
    let origin = Origin { total: 900.0 * MB, ..BOUNDLESS };
    let job = Job { slots: 10, classes: 14, size: 60.0 * MB, ..Job::new(origin) };
    let (ran, unpaced) = (job.run(), Job { ceilings: boundless(10), ..job }.run());
    assert!(ran.most_open == 10 && unpaced.seconds / ran.seconds > 0.9, "{unpaced:?} and {ran:?}");
}

/// MB/s in the last of so many minutes of a job that is longer.
fn at_last(origin: Origin, workers: u64, slots: usize, size: f64, minutes: u64) -> f64 {
    let job = Job { workers, slots, classes: 1_000_000, size: size * MB, ..Job::new(origin) };
    let mut world = World::new(&job, Instant::now());
    let received = |world: &World| world.workers.iter().map(|worker| worker.counted.received).sum::<u64>();
    let mut before = 0;
    for minute in 1..=minutes {
        before = received(&world);
        while world.now - world.start < Duration::from_secs(60 * minute) {
            world.step(slots, job.size);
        }
    }
    f64::from(u32::try_from((received(&world) - before) / 1000).unwrap()) / 60e3
}

/// What image-net.org is from another continent: half a second to the first byte, and slow start.
const FAR: Origin =
    Origin { latency: Duration::from_millis(450), rtt: Some(Duration::from_millis(150)), each: 2.0 * MB, ..BOUNDLESS };

#[test]
fn one_overload_is_not_held_against_the_origin_for_the_rest_of_the_job() {
    let near = Origin { each: 2.0 * MB, breaks_above: 3, recovers: Duration::from_secs(10), ..BOUNDLESS };
    for (workers, slots) in [(1, 20), (4, 5)] {
        let rate = at_last(near, workers, slots, 1000.0, 4);
        assert!(rate > 380.0, "{workers} x {slots}: {rate} of 400 MB/s");
    }
}

#[test]
fn one_bad_line_slows_nobody_else() {
    let origin = Origin { each: 2.0 * MB, first_cuts_every: 20.0 * MB, ..BOUNDLESS };
    let rate = at_last(origin, 10, 5, 100.0, 2);
    assert!(rate > 95.0, "{rate} of 100 MB/s");
    let origin = Origin { each: 2.0 * MB, first_is_deaf: true, ..BOUNDLESS };
    let rate = at_last(origin, 4, 5, 100.0, 2);
    assert!(rate > 28.0, "{rate} of 30 MB/s");
}

#[test]
fn connections_that_begin_slowly_are_measured_when_they_are_at_their_speed() {
    let rate = at_last(Origin { breaks_above: 5, ..FAR }, 1, 20, 100.0, 3);
    assert!(rate > 9.0, "{rate} of 10 MB/s");
    let rate = at_last(FAR, 10, 10, 100.0, 2);
    assert!(rate > 190.0, "{rate} of 200 MB/s");
}

#[test]
fn what_an_origin_gives_away_at_first_is_not_its_speed() {
    for (breaks_above, given_away) in [(3, 1.5), (3, 3.0), (8, 6.0)] {
        for workers in [1, 4] {
            let origin = Origin { total: 8.0 * MB, breaks_above, given_away: given_away * MB, ..BOUNDLESS };
            let ran = Job { workers, slots: 20 / workers_as_slots(workers), classes: 100, ..Job::new(origin) }.run();
            assert_eq!((ran.overloads, ran.requests), (0, 100), "{workers} workers, {given_away} MB: {ran:?}");
        }
    }
}
