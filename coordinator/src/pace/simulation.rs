//! The pace against origins of several kinds, in simulated time: workers with slots, classes, a way for messages.

use std::collections::VecDeque;

use super::*;

const STEP: Duration = Duration::from_millis(2);
const LATENCY: Duration = Duration::from_millis(4);
const RETRY_AFTER: Duration = Duration::from_secs(2);
const MB: f64 = 1e6;

/// How an origin behaves.
#[derive(Debug, Clone, Copy)]
struct Origin {
    /// Bytes per second over all connections.
    total: f64,
    /// Bytes per second and connection.
    each: f64,
    /// With more transfers than that it breaks all of them, and answers nobody for a second.
    breaks_above: u32,
    /// With more transfers than that it answers 429 with `Retry-After: 2`.
    refuses_above: u32,
    /// Every request breaks once in so many bytes.
    cuts_every: f64,
    /// From then on it bears everything and is ten times faster.
    recovers: Duration,
    /// From a request to the first byte of its body.
    latency: Duration,
    /// Slow start with this round trip.
    rtt: Option<Duration>,
    /// Every request of the first worker fails.
    first_is_deaf: bool,
    /// The line of the first worker breaks every transfer once in so many bytes.
    first_cuts_every: f64,
}

const BOUNDLESS: Origin = Origin {
    total: f64::INFINITY,
    each: f64::INFINITY,
    breaks_above: u32::MAX,
    refuses_above: u32::MAX,
    cuts_every: f64::INFINITY,
    recovers: Duration::MAX,
    latency: LATENCY,
    rtt: None,
    first_is_deaf: false,
    first_cuts_every: f64::INFINITY,
};

impl Origin {
    fn cuts_every_of(&self, worker: &Worker) -> f64 {
        if worker.id == SessionId(0) { self.cuts_every.min(self.first_cuts_every) } else { self.cuts_every }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// For a connection; not before then.
    Waiting(Instant),
    /// Until the first byte.
    Opening(Instant),
    Flowing,
}

#[derive(Debug)]
struct Transfer {
    left: f64,
    until_cut: f64,
    /// Since its first byte.
    flows_since: Instant,
    tries: u32,
    state: State,
}

#[derive(Debug)]
struct Worker {
    id: SessionId,
    transfers: VecDeque<Transfer>,
    budget: Budget,
    quiet_until: Instant,
    counted: Observation,
    said: Instant,
    is_urgent: bool,
}

/// What came of a job.
#[derive(Debug)]
struct Ran {
    seconds: f64,
    requests: u64,
    overloads: u64,
    most_open: u32,
    /// At the end.
    limit: u32,
    /// Requests after a refusal was told and before its time had passed.
    asked_in_vain: u64,
}

struct Job {
    origin: Origin,
    workers: u64,
    slots: usize,
    classes: usize,
    size: f64,
    ceilings: Ceilings,
}

impl Job {
    fn new(origin: Origin) -> Self {
        Self { origin, workers: 1, slots: 20, classes: 200, size: MB, ceilings: Ceilings::default() }
    }

    fn run(&self) -> Ran {
        let start = Instant::now();
        let mut world = World::new(self, start);
        while world.done < self.classes {
            world.step(self.slots, self.size);
            assert!(world.now - start < Duration::from_hours(1), "the job does not end");
        }
        world.ran.seconds = (world.now - start).as_secs_f64();
        world.ran.limit = world.pace.status(world.now).limit;
        world.ran
    }
}

struct World {
    origin: Origin,
    pace: Pace,
    workers: Vec<Worker>,
    start: Instant,
    now: Instant,
    silent_until: Instant,
    refused_until: Option<(Instant, Instant)>,
    left: usize,
    done: usize,
    ran: Ran,
}

impl World {
    fn new(job: &Job, start: Instant) -> Self {
        Self {
            origin: job.origin,
            pace: Pace::new(job.ceilings, start),
            workers: (0..job.workers).map(|number| Worker::new(number, start)).collect(),
            start,
            now: start,
            silent_until: start,
            refused_until: None,
            left: job.classes,
            done: 0,
            ran: Ran { seconds: 0.0, requests: 0, overloads: 0, most_open: 0, limit: 0, asked_in_vain: 0 },
        }
    }

    fn step(&mut self, slots: usize, size: f64) {
        self.now += STEP;
        let (now, origin) = (self.now, self.origin);
        let has_recovered = now - self.start >= origin.recovers;
        for worker in &mut self.workers {
            while worker.transfers.len() < slots && self.left > 0 {
                self.left -= 1;
                worker.transfers.push_back(Transfer {
                    left: size,
                    until_cut: origin.cuts_every_of(worker),
                    flows_since: now,
                    tries: 0,
                    state: State::Waiting(now),
                });
            }
            let asked = worker.ask(now, origin.latency);
            self.ran.requests += asked;
            // The news takes a step or two.
            if self.refused_until.is_some_and(|(from, until)| now > from + STEP * 2 && now < until) {
                self.ran.asked_in_vain += asked;
            }
        }
        let open: u32 = self.workers.iter().map(Worker::open).sum();
        self.ran.most_open = self.ran.most_open.max(open);
        if open > origin.breaks_above && now >= self.silent_until && !has_recovered {
            self.silent_until = now + Duration::from_secs(1);
            self.ran.overloads += 1;
            for worker in &mut self.workers {
                worker.break_all(now);
            }
        }
        let mut room = if has_recovered { u32::MAX } else { origin.refuses_above };
        if origin.first_is_deaf {
            self.workers[0].fails(now);
        }
        for worker in &mut self.workers {
            if worker.answered(now, self.silent_until, &mut room) {
                self.refused_until = Some((now, now + RETRY_AFTER));
            }
        }
        let flowing: u32 = self.workers.iter().map(Worker::flowing).sum();
        let faster = if has_recovered { 10.0 } else { 1.0 };
        let each = origin.each.min(origin.total / f64::from(flowing.max(1))).min(400.0 * MB) * faster;
        for worker in &mut self.workers {
            let cuts_every = origin.cuts_every_of(worker);
            self.done += worker.receive(each * STEP.as_secs_f64(), cuts_every, origin.rtt, now);
            if worker.is_urgent || now - worker.said >= worker.budget.observe_every {
                self.pace.observed(worker.id, &worker.observation(now), now);
                worker.said = now;
                worker.is_urgent = false;
            }
        }
        if (now - self.start).as_millis().is_multiple_of(1000) {
            self.pace.tick(now);
        }

        for worker in &mut self.workers {
            worker.told(self.pace.budget(worker.id, now), now);
        }
    }
}

impl Worker {
    fn new(number: u64, now: Instant) -> Self {
        let budget = Budget {
            version: 0,
            connections: 0,
            bytes_per_second: None,
            quiet: Duration::ZERO,
            observe_every: Duration::from_millis(100),
        };
        Self {
            id: SessionId(number),
            transfers: VecDeque::new(),
            budget,
            quiet_until: now,
            counted: Observation::default(),
            said: now,
            is_urgent: true,
        }
    }

    fn open(&self) -> u32 {
        self.count(|state| !matches!(state, State::Waiting(_)))
    }

    fn flowing(&self) -> u32 {
        self.count(|state| state == State::Flowing)
    }

    fn count(&self, is: impl Fn(State) -> bool) -> u32 {
        u32::try_from(self.transfers.iter().filter(|transfer| is(transfer.state)).count()).unwrap()
    }

    fn ask(&mut self, now: Instant, latency: Duration) -> u64 {
        let mut free = self.budget.connections.saturating_sub(self.open());
        let mut asked = 0;
        for transfer in &mut self.transfers {
            if free > 0 && now >= self.quiet_until && matches!(transfer.state, State::Waiting(at) if now >= at) {
                transfer.state = State::Opening(now + latency);
                (free, asked) = (free - 1, asked + 1);
            }
        }
        self.counted.requests += asked;
        asked
    }

    fn break_all(&mut self, now: Instant) {
        let mut broken = 0;
        for transfer in self.transfers.iter_mut().filter(|transfer| !matches!(transfer.state, State::Waiting(_))) {
            transfer.state = State::Waiting(now + Duration::from_millis(250));
            broken += 1;
        }
        self.counted.cuts += broken;
        self.is_urgent |= broken > 0;
    }

    fn fails(&mut self, now: Instant) {
        for transfer in &mut self.transfers {
            if matches!(transfer.state, State::Opening(at) if now >= at) {
                let pause = 500 << (transfer.tries % 6);
                transfer.tries += 1;
                transfer.state = State::Waiting(now + Duration::from_millis(pause / 2));
                self.counted.cuts += 1;
                self.is_urgent = true;
            }
        }
    }

    fn answered(&mut self, now: Instant, silent_until: Instant, room: &mut u32) -> bool {
        let mut refused = false;
        for transfer in &mut self.transfers {
            match transfer.state {
                State::Opening(at) if now >= at && now >= silent_until => {
                    if *room == 0 {
                        transfer.state = State::Waiting(now);
                        self.counted.refusals += 1;
                        refused = true;
                    } else {
                        *room -= 1;
                        transfer.state = State::Flowing;
                        transfer.flows_since = now;
                    }
                }
                State::Flowing => *room = room.saturating_sub(1),
                _ => {}
            }
        }
        if refused {
            self.quiet_until = self.quiet_until.max(now + RETRY_AFTER);
            self.is_urgent = true;
        }
        refused
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some bytes of a step")]
    fn receive(&mut self, bytes: f64, cuts_every: f64, rtt: Option<Duration>, now: Instant) -> usize {
        let before = self.transfers.len();
        for transfer in self.transfers.iter_mut().filter(|transfer| transfer.state == State::Flowing) {
            let bytes = rtt.map_or(bytes, |rtt| {
                let trips = (now - transfer.flows_since).as_secs_f64() / rtt.as_secs_f64();
                (14_600.0 * trips.min(30.0).exp2() / rtt.as_secs_f64() * STEP.as_secs_f64()).min(bytes)
            });
            transfer.left -= bytes;
            transfer.until_cut -= bytes;
            self.counted.received += bytes as u64;
            if transfer.until_cut <= 0.0 && transfer.left > 0.0 {
                (transfer.state, transfer.until_cut) = (State::Waiting(now + Duration::from_millis(250)), cuts_every);
                self.counted.cuts += 1;
                self.is_urgent = true;
            }
        }
        self.transfers.retain(|transfer| transfer.left > 0.0);
        before - self.transfers.len()
    }

    fn observation(&self, now: Instant) -> Observation {
        Observation {
            seen: self.budget.version,
            open: self.open(),
            flowing: self.flowing(),
            wanted: u32::try_from(self.transfers.len()).unwrap(),
            retry_after: (self.quiet_until > now && self.counted.refusals > 0).then(|| self.quiet_until - now),
            ..self.counted
        }
    }

    fn told(&mut self, budget: Budget, now: Instant) {
        if budget.version != self.budget.version {
            self.quiet_until = self.quiet_until.max(now + budget.quiet);
            self.is_urgent |= budget.connections < self.budget.connections;
            self.budget = budget;
        }
    }
}

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
