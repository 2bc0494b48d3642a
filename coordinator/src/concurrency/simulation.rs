//! Tests of the concurrency controller against simulated origins: workers with slots, classes and
//! message delays, in simulated time.

use std::collections::VecDeque;

use super::*;

mod stories;
mod wait_probes;

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
    quiet_until: Instant,
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
        job_state.result.limit = job_state.pace.status(job_state.now).limit;
        job_state.result
    }
}

/// A simulated job in progress.
struct SimulatedJob {
    origin: SimulatedOrigin,
    pace: ConcurrencyController,
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
            pace: ConcurrencyController::new(job.ceilings, start),
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
        let now = self.now;
        let origin = self.origin;
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
                self.pace.observed(worker.id, &worker.observation(now), now);
                worker.reported_at = now;
                worker.is_urgent = false;
            }
        }
        if (now - self.start).as_millis().is_multiple_of(1000) {
            self.pace.tick(now);
        }

        for worker in &mut self.workers {
            worker.apply(self.pace.budget(worker.id, now), now);
        }
    }
}

impl SimulatedWorker {
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
            reported_at: now,
            is_urgent: true,
        }
    }

    fn open(&self) -> u32 {
        self.count(|state| !matches!(state, TransferState::Waiting(_)))
    }

    fn flowing(&self) -> u32 {
        self.count(|state| state == TransferState::Flowing)
    }

    fn count(&self, is: impl Fn(TransferState) -> bool) -> u32 {
        u32::try_from(
            self.transfers
                .iter()
                .filter(|transfer| is(transfer.state))
                .count(),
        )
        .unwrap()
    }

    fn send_requests(&mut self, now: Instant, latency: Duration) -> u64 {
        let mut free = self.budget.connections.saturating_sub(self.open());
        let mut sent = 0;
        for transfer in &mut self.transfers {
            if free > 0
                && now >= self.quiet_until
                && matches!(transfer.state, TransferState::Waiting(at) if now >= at)
            {
                transfer.state = TransferState::Opening(now + latency);
                (free, sent) = (free - 1, sent + 1);
            }
        }
        self.counted.requests += sent;
        sent
    }

    fn fail_all(&mut self, now: Instant) {
        let mut broken = 0;
        for transfer in self
            .transfers
            .iter_mut()
            .filter(|transfer| !matches!(transfer.state, TransferState::Waiting(_)))
        {
            transfer.state = TransferState::Waiting(now + Duration::from_millis(250));
            broken += 1;
        }
        self.counted.cuts += broken;
        self.is_urgent |= broken > 0;
    }

    fn fail_requests(&mut self, now: Instant) {
        for transfer in &mut self.transfers {
            if matches!(transfer.state, TransferState::Opening(at) if now >= at) {
                let pause = 500 << (transfer.tries % 6);
                transfer.tries += 1;
                transfer.state = TransferState::Waiting(now + Duration::from_millis(pause / 2));
                self.counted.cuts += 1;
                self.is_urgent = true;
            }
        }
    }

    fn receive_responses(
        &mut self,
        now: Instant,
        unresponsive_until: Instant,
        capacity: &mut u32,
        origin: &SimulatedOrigin,
        answers: &mut u64,
    ) -> bool {
        let mut refused = false;
        for transfer in &mut self.transfers {
            match transfer.state {
                TransferState::Opening(at) if now >= at && now >= unresponsive_until => {
                    *answers += 1;
                    if *capacity == 0 || origin.refuses(transfer, *answers) {
                        transfer.refused += 1;
                        transfer.state = TransferState::Waiting(now + RETRY_AFTER);
                        self.counted.refusals += 1;
                        refused = true;
                    } else {
                        *capacity -= 1;
                        transfer.state = TransferState::Flowing;
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

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some bytes of a step"
    )]
    fn receive(
        &mut self,
        bytes: f64,
        cuts_every: f64,
        rtt: Option<Duration>,
        now: Instant,
    ) -> usize {
        let before = self.transfers.len();
        for transfer in self
            .transfers
            .iter_mut()
            .filter(|transfer| transfer.state == TransferState::Flowing)
        {
            let bytes = rtt.map_or(bytes, |rtt| {
                let trips = (now - transfer.flows_since).as_secs_f64() / rtt.as_secs_f64();
                (14_600.0 * trips.min(30.0).exp2() / rtt.as_secs_f64() * STEP.as_secs_f64())
                    .min(bytes)
            });
            transfer.left -= bytes;
            transfer.until_cut -= bytes;
            self.counted.received += bytes as u64;
            if transfer.until_cut <= 0.0 && transfer.left > 0.0 {
                (transfer.state, transfer.until_cut) = (
                    TransferState::Waiting(now + Duration::from_millis(250)),
                    cuts_every,
                );
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
            retry_after: (self.quiet_until > now && self.counted.refusals > 0)
                .then(|| self.quiet_until - now),
            ..self.counted
        }
    }

    fn apply(&mut self, budget: Budget, now: Instant) {
        if budget.version != self.budget.version {
            self.quiet_until = self.quiet_until.max(now + budget.quiet);
            self.is_urgent |= budget.connections < self.budget.connections;
            self.budget = budget;
        }
    }
}
