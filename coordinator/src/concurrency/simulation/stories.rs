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

/// 25 classes of some seconds over eight connections.
fn short_job(origin: Origin, workers: u64) -> Job {
    Job { workers, slots: 8 / workers_as_slots(workers), classes: 25, size: 4.4 * MB, ..Job::new(origin) }
}

const NEAR: Origin = Origin { each: 0.9 * MB, ..BOUNDLESS };

/// An origin that refuses so many requests of each of these classes.
fn refusing(classes: impl IntoIterator<Item = usize>, times: u32, origin: Origin) -> Origin {
    Origin { refuses_classes: classes.into_iter().map(|class| (class, times)).collect::<Vec<_>>().leak(), ..origin }
}

#[test]
fn one_refusal_costs_its_wait_and_no_more() {
    for workers in [1, 4] {
        let healthy = short_job(NEAR, workers).run().seconds;
        for class in 0..25 {
            let ran = short_job(refusing([class], 1, NEAR), workers).run();
            assert!(ran.seconds < healthy + 3.0, "{workers} workers, class {class}: {healthy} s and {ran:?}");
            assert!(ran.requests == 26 && ran.most_open == 8, "{workers} workers, class {class}: {ran:?}");
        }
    }
}

#[test]
fn a_refusal_of_the_first_requests_does_not_hinder_the_slow_start() {
    for workers in [1, 4] {
        let healthy = short_job(NEAR, workers).run().seconds;
        for (classes, times) in [(0..1, 3), (0..2, 1), (0..8, 1)] {
            let ran = short_job(refusing(classes.clone(), times, NEAR), workers).run();
            let wait = f64::from(times) * 2.0 + 5.0;
            assert!(ran.seconds < healthy + wait, "{workers} workers, {classes:?}: {healthy} s and {ran:?}");
        }
    }
}

#[test]
fn classes_that_are_refused_again_and_again_slow_the_others_little() {
    for workers in [1, 4] {
        let healthy = short_job(NEAR, workers).run().seconds;
        for (classes, times) in [(9..10, 5), (9..11, 1), (8..16, 1), (24..25, 5)] {
            let ran = short_job(refusing(classes.clone(), times, NEAR), workers).run();
            let last = if classes.start == 24 { 2.0 * f64::from(times) } else { 0.0 };
            assert!(ran.seconds < healthy * 1.25 + last, "{workers} workers, {classes:?}: {healthy} s and {ran:?}");
        }
    }
}

#[test]
fn refusals_that_come_seldom_say_nothing_about_the_number_of_connections() {
    for workers in [1, 4] {
        let ran = Job { classes: 100, ..short_job(Origin { refuses_each: 20, ..NEAR }, workers) }.run();
        // Five waits, in which the transfers that are under way go on.
        let ideal = 100.0 * 4.4 / (8.0 * 0.9);
        assert!(ran.limit == 8 && ran.seconds < ideal + 5.0 * 2.0, "{workers} workers: {ideal} s and {ran:?}");
    }
}

#[test]
fn after_one_refusal_the_former_rate_is_back_within_seconds() {
    for (origin, size) in [(NEAR, 4.4), (NEAR, 40.0), (FAR, 40.0)] {
        for workers in [1, 4] {
            let job = Job { size: size * MB, classes: 1000, ..short_job(refusing([30], 1, origin), workers) };
            let mut world = World::new(&job, Instant::now());
            let received = |world: &World| world.workers.iter().map(|worker| worker.counted.received).sum::<u64>();
            let run = |world: &mut World, until: &dyn Fn(&World) -> bool| {
                while !until(world) {
                    world.step(job.slots, job.size);
                }
            };
            let rate = |world: &mut World, seconds: u64| {
                let (before, end) = (received(world), world.now + Duration::from_secs(seconds));
                run(world, &|world| world.now >= end);
                (received(world) - before) / seconds
            };
            let mut former = 0;
            while world.refused_until.is_none() {
                former = rate(&mut world, 2).max(former);
            }
            let (_, wait) = world.refused_until.unwrap();
            while world.now < wait + Duration::from_secs(3) {
                rate(&mut world, 1);
            }
            let back = rate(&mut world, 2);
            assert!(back * 10 >= former * 9, "{workers} workers, {size} MB: {back} of {former} bytes a second");
        }
    }
}

#[test]
fn a_wait_is_announced_once_and_again_when_it_becomes_longer() {
    let now = Instant::now();
    let mut pace = Pace::new(Ceilings::default(), now);
    let mut refused = |worker: u64, refusals: u64, seconds: u64, after: u64| {
        let retry_after = Some(Duration::from_secs(seconds));
        let said = Observation { refusals, retry_after, wanted: 1, ..Observation::default() };
        pace.observed(SessionId(worker), &said, now + Duration::from_secs(after));
        pace.take_notices().into_iter().filter(|notice| matches!(notice, Notice::Refused { .. })).collect::<Vec<_>>()
    };
    let rest = |seconds| vec![Notice::Refused { rest: Duration::from_secs(seconds) }];
    assert_eq!(refused(0, 0, 100, 0), rest(100), "also when it was asked for before this coordinator began");
    assert_eq!(refused(0, 1, 99, 1), []);
    assert_eq!(refused(1, 0, 90, 2), []);
    assert_eq!(refused(1, 1, 100, 3), [], "some seconds more are the same wait");
    assert_eq!(refused(1, 2, 300, 4), rest(300));
    assert_eq!(refused(0, 2, 2, 310), rest(2), "a short one is for the log");
    assert_eq!(refused(1, 3, 2, 311), []);
}

/// Says that the origin has asked it to wait, or nothing of that.
fn says(pace: &mut Pace, id: u64, refusals: u64, wait: Option<u64>, now: Instant) {
    let retry_after = wait.map(Duration::from_secs);
    pace.observed(SessionId(id), &Observation { wanted: 1, refusals, retry_after, ..Observation::default() }, now);
}

#[test]
fn a_wait_that_one_worker_tells_ends_when_it_leaves_unless_another_was_told_the_same() {
    let mut now = Instant::now();
    let mut pace = Pace::new(Ceilings::default(), now);
    for id in [1, 2, 3] {
        says(&mut pace, id, 0, None, now);
    }
    says(&mut pace, 1, 1, Some(900), now);
    says(&mut pace, 2, 1, Some(60), now);
    now += Duration::from_secs(1);
    assert_eq!(pace.budget(SessionId(3), now).quiet, Duration::from_secs(899), "honoured by all");
    let turn = pace.turn();
    pace.left(SessionId(1), now);
    assert!(pace.turn() > turn, "the others are told");
    assert_eq!(pace.budget(SessionId(3), now).quiet, Duration::from_secs(59));
    pace.left(SessionId(2), now);
    assert_eq!(pace.budget(SessionId(3), now).quiet, Duration::ZERO);
    let lifted = pace.take_notices().into_iter().filter(|notice| matches!(notice, Notice::Lifted { .. }));
    assert_eq!(lifted.count(), 2);
}

#[test]
fn an_admin_ends_a_wait_and_only_a_new_refusal_brings_it_back() {
    let mut now = Instant::now();
    let mut pace = Pace::new(Ceilings::default(), now);
    for id in [1, 2] {
        says(&mut pace, id, 0, None, now);
    }
    says(&mut pace, 1, 1, Some(900), now);
    now += Duration::from_secs(100);
    assert_eq!(pace.resume(now), Duration::from_secs(800));
    let budget = pace.budget(SessionId(2), now);
    assert_eq!((budget.quiet, budget.resumed), (Duration::ZERO, 1));
    for second in 1..=100 {
        now += Duration::from_secs(1);
        says(&mut pace, 1, 1, Some(800 - second), now);
        assert_eq!(pace.status(now).quiet, Duration::ZERO, "what is left of the same wait");
    }
    now += Duration::from_secs(1);
    says(&mut pace, 1, 2, Some(300), now);
    assert_eq!(pace.status(now).quiet, Duration::from_mins(5), "it was refused again");
    assert_eq!(pace.resume(now), Duration::from_mins(5));
    assert_eq!(pace.resume(now), Duration::ZERO);
}
