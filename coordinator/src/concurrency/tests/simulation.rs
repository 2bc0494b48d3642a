//! Tests of the concurrency controller against simulated origins: workers with slots, classes and
//! message delays, in simulated time.

use std::collections::VecDeque;

use super::*;

mod causes;
mod overloads;
mod refusals;
mod wait_probes;
mod waits;
mod worker;

const STEP: Duration = Duration::from_millis(2);
const LATENCY: Duration = Duration::from_millis(4);
const RETRY_AFTER: Duration = Duration::from_secs(2);
const MB: f64 = 1e6;

/// The behaviour of a simulated origin.
#[derive(Debug, Clone, Copy)]
struct SimulatedOrigin {
    /// Bytes per second over all connections.
    total: f64,
    /// Bytes per second of one connection.
    each: f64,
    /// With more transfers than this the origin closes all of them and answers no request for 1 s.
    breaks_above: u32,
    /// With more transfers than this it answers 429 with `Retry-After: 2`.
    refuses_above: u32,
    /// Each request fails once per this many bytes.
    cuts_every: f64,
    /// After this time the origin serves any number of connections at ten times the rate.
    recovers: Duration,
    /// Time from a request to the first byte of its body.
    latency: Duration,
    /// TCP slow start with this round-trip time.
    rtt: Option<Duration>,
    /// Every request of the first worker fails.
    first_always_fails: bool,
    /// The first worker's network closes each transfer once per this many bytes.
    first_cuts_every: f64,
    /// The first bytes of the job, which arrive at 400 MB/s before the rates above apply.
    initial_burst: f64,
    /// Refuses a class this many times with `Retry-After: 2`: `(number of the class, times)`.
    refuses_classes: &'static [(usize, u32)],
    /// Refuses one in this many requests with `Retry-After: 2`; 0: none.
    refuses_each: u64,
}

const UNLIMITED: SimulatedOrigin = SimulatedOrigin {
    total: f64::INFINITY,
    each: f64::INFINITY,
    breaks_above: u32::MAX,
    refuses_above: u32::MAX,
    cuts_every: f64::INFINITY,
    recovers: Duration::MAX,
    latency: LATENCY,
    rtt: None,
    first_always_fails: false,
    first_cuts_every: f64::INFINITY,
    initial_burst: 0.0,
    refuses_classes: &[],
    refuses_each: 0,
};

/// image-net.org as seen from another continent: 450 ms to the first byte, and slow start.
const FAR: SimulatedOrigin = SimulatedOrigin {
    latency: Duration::from_millis(450),
    rtt: Some(Duration::from_millis(150)),
    each: 2.0 * MB,
    ..UNLIMITED
};

impl SimulatedOrigin {
    /// Whether the origin refuses this request. `answers` counts its responses, this one included.
    fn refuses(&self, transfer: &Transfer, answers: u64) -> bool {
        let mut classes = self.refuses_classes.iter();
        let is_refused_class =
            classes.any(|(class, times)| *class == transfer.class && transfer.refused < *times);
        is_refused_class || (self.refuses_each > 0 && answers.is_multiple_of(self.refuses_each))
    }

    fn cuts_every_of(&self, worker: &SimulatedWorker) -> f64 {
        if worker.id == SessionId(0) {
            self.cuts_every.min(self.first_cuts_every)
        } else {
            self.cuts_every
        }
    }
}

/// The state of a simulated transfer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TransferState {
    /// Waits for a connection, at least until this instant.
    Waiting(Instant),
    /// Waits for the first byte, which arrives at this instant.
    Opening(Instant),
    Flowing,
}

/// The download of one class.
#[derive(Debug)]
struct Transfer {
    class: usize,
    left: f64,
    until_cut: f64,
    /// Time of the first byte.
    flows_since: Instant,
    tries: u32,
    refused: u32,
    state: TransferState,
}

/// A simulated worker.
#[derive(Debug)]
struct SimulatedWorker {
    id: SessionId,
    transfers: VecDeque<Transfer>,
    budget: Budget,
    pause_until: Instant,
    counted: Observation,
    reported_at: Instant,
    is_urgent: bool,
}

/// The result of a simulated job.
#[derive(Debug)]
struct RunResult {
    seconds: f64,
    requests: u64,
    overloads: u64,
    most_open: u32,
    /// The limit at the end.
    limit: u32,
    /// Requests that were sent after a refusal was reported and before its `Retry-After` had
    /// passed.
    sent_too_early: u64,
}

/// The parameters of a simulated job.
struct JobSetup {
    origin: SimulatedOrigin,
    workers: u64,
    slots: usize,
    classes: usize,
    size: f64,
    ceilings: Ceilings,
}

impl JobSetup {
    fn new(origin: SimulatedOrigin) -> Self {
        Self {
            origin,
            workers: 1,
            slots: 20,
            classes: 200,
            size: MB,
            ceilings: Ceilings::default(),
        }
    }

    fn run(&self) -> RunResult {
        let start = Instant::now();
        let mut job_state = SimulatedJob::new(self, start);
        while job_state.done < self.classes {
            job_state.step(self.slots, self.size);
            assert!(
                job_state.now - start < Duration::from_hours(1),
                "the job does not end"
            );
        }
        job_state.result.seconds = (job_state.now - start).as_secs_f64();
        job_state.result.limit = job_state.controller.status(job_state.now).limit;
        job_state.result
    }
}

/// A simulated job in progress.
struct SimulatedJob {
    origin: SimulatedOrigin,
    controller: ConcurrencyController,
    workers: Vec<SimulatedWorker>,
    start: Instant,
    now: Instant,
    unresponsive_until: Instant,
    refused_until: Option<(Instant, Instant)>,
    classes: usize,
    left: usize,
    answers: u64,
    done: usize,
    result: RunResult,
}

impl SimulatedJob {
    fn new(job: &JobSetup, start: Instant) -> Self {
        Self {
            origin: job.origin,
            controller: ConcurrencyController::new(job.ceilings, start),
            workers: (0..job.workers)
                .map(|number| SimulatedWorker::new(number, start))
                .collect(),
            start,
            now: start,
            unresponsive_until: start,
            refused_until: None,
            classes: job.classes,
            left: job.classes,
            answers: 0,
            done: 0,
            result: RunResult {
                seconds: 0.0,
                requests: 0,
                overloads: 0,
                most_open: 0,
                limit: 0,
                sent_too_early: 0,
            },
        }
    }

    fn step(&mut self, slots: usize, size: f64) {
        self.now += STEP;
        let has_recovered = self.now - self.start >= self.origin.recovers;
        self.send_requests(slots, size);
        self.answer_requests(has_recovered);
        self.send_bodies(has_recovered);
        if (self.now - self.start).as_millis().is_multiple_of(1000) {
            self.controller.tick(self.now);
        }
        for worker in &mut self.workers {
            worker.apply(self.controller.budget(worker.id, self.now), self.now);
        }
    }

    /// The workers start classes and send requests.
    fn send_requests(&mut self, slots: usize, size: f64) {
        let now = self.now;
        let origin = self.origin;
        for worker in &mut self.workers {
            while worker.transfers.len() < slots && self.left > 0 {
                worker.transfers.push_back(Transfer {
                    class: self.classes - self.left,
                    left: size,
                    until_cut: origin.cuts_every_of(worker),
                    flows_since: now,
                    tries: 0,
                    refused: 0,
                    state: TransferState::Waiting(now),
                });
                self.left -= 1;
            }
            let sent = worker.send_requests(now, origin.latency);
            self.result.requests += sent;
            // The report of a refusal takes one or two steps to arrive.
            if self
                .refused_until
                .is_some_and(|(from, until)| now > from + STEP * 2 && now < until)
            {
                self.result.sent_too_early += sent;
            }
        }
    }

    /// The origin fails, refuses or serves the open requests.
    fn answer_requests(&mut self, has_recovered: bool) {
        let now = self.now;
        let origin = self.origin;
        let open: u32 = self.workers.iter().map(SimulatedWorker::open).sum();
        self.result.most_open = self.result.most_open.max(open);
        if open > origin.breaks_above && now >= self.unresponsive_until && !has_recovered {
            self.unresponsive_until = now + Duration::from_secs(1);
            self.result.overloads += 1;
            for worker in &mut self.workers {
                worker.fail_all(now);
            }
        }
        let allowed_transfers = if has_recovered {
            u32::MAX
        } else {
            origin.refuses_above
        };
        let mut capacity = allowed_transfers
            .saturating_sub(self.workers.iter().map(SimulatedWorker::flowing).sum());
        if origin.first_always_fails {
            self.workers[0].fail_requests(now);
        }
        for worker in &mut self.workers {
            if worker.receive_responses(
                now,
                self.unresponsive_until,
                &mut capacity,
                &origin,
                &mut self.answers,
            ) {
                self.refused_until = Some((now, now + RETRY_AFTER));
            }
        }
    }

    /// Bodies arrive, and the workers report.
    fn send_bodies(&mut self, has_recovered: bool) {
        let now = self.now;
        let origin = self.origin;
        let flowing: u32 = self.workers.iter().map(SimulatedWorker::flowing).sum();
        let faster = if has_recovered { 10.0 } else { 1.0 };
        let is_initial_burst = origin.initial_burst > 0.0;
        let each = if is_initial_burst {
            400.0 * MB / f64::from(flowing.max(1))
        } else {
            origin
                .each
                .min(origin.total / f64::from(flowing.max(1)))
                .min(400.0 * MB)
                * faster
        };
        self.origin.initial_burst -= each * STEP.as_secs_f64() * f64::from(flowing);
        for worker in &mut self.workers {
            let cuts_every = origin.cuts_every_of(worker);
            self.done += worker.receive(each * STEP.as_secs_f64(), cuts_every, origin.rtt, now);
            if worker.is_urgent
                || is_initial_burst
                || now - worker.reported_at >= worker.budget.observe_every
            {
                self.controller
                    .record_observation(worker.id, &worker.observation(now), now);
                worker.reported_at = now;
                worker.is_urgent = false;
            }
        }
    }
}

fn as_usize(workers: u64) -> usize {
    usize::try_from(workers).unwrap()
}
