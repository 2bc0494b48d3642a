//! The pace against origins of several kinds, in simulated time: workers with slots, classes, a way for messages.

use std::collections::VecDeque;

use super::*;

mod stories;
mod trials;

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
    /// So many bytes come faster than anything, before the rates above hold.
    given_away: f64,
    /// Refuses so many requests of a class with `Retry-After: 2`, by the number of the class.
    refuses_classes: &'static [(usize, u32)],
    /// Refuses one of so many requests with `Retry-After: 2`; 0: none.
    refuses_each: u64,
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
    given_away: 0.0,
    refuses_classes: &[],
    refuses_each: 0,
};

impl Origin {
    /// Whether it refuses this request; `answers` counts those that it has answered, this one included.
    fn refuses(&self, transfer: &Transfer, answers: u64) -> bool {
        let mut classes = self.refuses_classes.iter();
        let is_refused_class = classes.any(|(class, times)| *class == transfer.class && transfer.refused < *times);
        is_refused_class || (self.refuses_each > 0 && answers.is_multiple_of(self.refuses_each))
    }

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
    class: usize,
    left: f64,
    until_cut: f64,
    /// Since its first byte.
    flows_since: Instant,
    tries: u32,
    refused: u32,
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
    classes: usize,
    left: usize,
    answers: u64,
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
            classes: job.classes,
            left: job.classes,
            answers: 0,
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
                worker.transfers.push_back(Transfer {
                    class: self.classes - self.left,
                    left: size,
                    until_cut: origin.cuts_every_of(worker),
                    flows_since: now,
                    tries: 0,
                    refused: 0,
                    state: State::Waiting(now),
                });
                self.left -= 1;
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
        let bears = if has_recovered { u32::MAX } else { origin.refuses_above };
        let mut room = bears.saturating_sub(self.workers.iter().map(Worker::flowing).sum());
        if origin.first_is_deaf {
            self.workers[0].fails(now);
        }
        for worker in &mut self.workers {
            if worker.answered(now, self.silent_until, &mut room, &origin, &mut self.answers) {
                self.refused_until = Some((now, now + RETRY_AFTER));
            }
        }
        let flowing: u32 = self.workers.iter().map(Worker::flowing).sum();
        let faster = if has_recovered { 10.0 } else { 1.0 };
        let is_given_away = origin.given_away > 0.0;
        let each = if is_given_away {
            400.0 * MB / f64::from(flowing.max(1))
        } else {
            origin.each.min(origin.total / f64::from(flowing.max(1))).min(400.0 * MB) * faster
        };
        self.origin.given_away -= each * STEP.as_secs_f64() * f64::from(flowing);
        for worker in &mut self.workers {
            let cuts_every = origin.cuts_every_of(worker);
            self.done += worker.receive(each * STEP.as_secs_f64(), cuts_every, origin.rtt, now);
            if worker.is_urgent || is_given_away || now - worker.said >= worker.budget.observe_every {
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
            resumed: 0,
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

    fn answered(
        &mut self,
        now: Instant,
        silent_until: Instant,
        room: &mut u32,
        origin: &Origin,
        answers: &mut u64,
    ) -> bool {
        let mut refused = false;
        for transfer in &mut self.transfers {
            match transfer.state {
                State::Opening(at) if now >= at && now >= silent_until => {
                    *answers += 1;
                    if *room == 0 || origin.refuses(transfer, *answers) {
                        transfer.refused += 1;
                        transfer.state = State::Waiting(now + RETRY_AFTER);
                        self.counted.refusals += 1;
                        refused = true;
                    } else {
                        *room -= 1;
                        transfer.state = State::Flowing;
                        transfer.flows_since = now;
                    }
                }
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
