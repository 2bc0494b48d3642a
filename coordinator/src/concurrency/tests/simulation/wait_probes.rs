//! Waits that only one worker reports: from a correct origin, and from a malicious worker.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::concurrency::waits::SOLE_PAUSE_LIMIT;

const CORRECT: [SessionId; 3] = [SessionId(11), SessionId(12), SessionId(13)];
const REPORTER: SessionId = SessionId(20);

/// Three correct workers that want more connections than they have; they send requests once per
/// second.
struct WaitSimulation {
    controller: ConcurrencyController,
    start: Instant,
    now: Instant,
    observations: BTreeMap<SessionId, Observation>,
    /// Until this instant the origin answers each request of the correct workers with `answer`.
    refuses_until: Instant,
    answer: Refuses,
    /// Seconds in which workers other than the prober were paused.
    paused_seconds: u64,
    /// Requests that were refused.
    refused: u64,
}

/// How the origin does not serve a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Refuses {
    /// 503 or 429 with `Retry-After`.
    WithWait,
    /// 503 without `Retry-After`.
    WithoutWait,
    /// The origin closes the connection.
    Cut,
    /// The origin never answers.
    Hang,
}

impl WaitSimulation {
    fn new() -> Self {
        let now = Instant::now();
        let ceilings = Ceilings {
            connections: Some(9),
            bytes_per_second: None,
        };
        let observations = CORRECT
            .map(|id| {
                (
                    id,
                    Observation {
                        wanted: 5,
                        ..Observation::default()
                    },
                )
            })
            .into();
        let controller = ConcurrencyController::new(ceilings, now);
        let mut simulated = Self {
            controller,
            start: now,
            now,
            observations,
            refuses_until: now,
            answer: Refuses::WithWait,
            paused_seconds: 0,
            refused: 0,
        };
        simulated.second();
        simulated.second();
        simulated
    }

    /// The origin asks a session to wait.
    fn refused(&mut self, id: SessionId, seconds: u64) {
        let observation = self.observations.entry(id).or_insert(Observation {
            wanted: 1,
            ..Observation::default()
        });
        observation.refusals += 1;
        let wait = Some(Duration::from_secs(seconds));
        self.controller.record_observation(
            id,
            &Observation {
                retry_after: wait,
                ..*observation
            },
            self.now,
        );
    }

    /// Each correct worker that may send a request sends one and reports its result.
    fn second(&mut self) {
        let paused = CORRECT.map(|id| self.is_paused(id));
        self.paused_seconds += u64::from(paused.iter().filter(|is_paused| **is_paused).count() > 1);
        for id in CORRECT {
            let budget = self.controller.budget(id, self.now);
            let may_ask =
                budget.pause.is_zero() && budget.connections > self.observations[&id].open;
            let is_refused = may_ask && self.now < self.refuses_until;
            let observation = self.observations.get_mut(&id).unwrap();
            observation.seen = budget.version;
            observation.requests += u64::from(may_ask);
            observation.received += if may_ask && !is_refused { 1000 } else { 0 };
            if is_refused {
                self.refused += 1;
                match self.answer {
                    Refuses::WithWait => {}
                    Refuses::WithoutWait => observation.refusals += 1,
                    Refuses::Cut => observation.cuts += 1,
                    Refuses::Hang => observation.open += 1,
                }
            } else if self.now >= self.refuses_until {
                observation.open = 0;
            }
            let observation = *observation;
            if is_refused && self.answer == Refuses::WithWait {
                self.refused(id, (self.refuses_until - self.now).as_secs());
            } else {
                self.controller
                    .record_observation(id, &observation, self.now);
            }
        }
        self.now += Duration::from_secs(1);
        self.controller.tick(self.now);
    }

    fn pass(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.second());
    }

    fn is_paused(&self, id: SessionId) -> bool {
        !self.controller.budget(id, self.now).pause.is_zero()
    }

    fn paused(&self) -> [bool; 3] {
        CORRECT.map(|id| self.is_paused(id))
    }
}

#[test]
fn a_long_wait_is_kept_by_all_workers_and_costs_one_probe() {
    let mut simulated = WaitSimulation::new();
    simulated.refuses_until = simulated.now + Duration::from_mins(15);
    simulated.refused(REPORTER, 900);
    simulated.pass(890);
    assert_eq!(
        (simulated.refused, simulated.paused_seconds),
        (1, 890),
        "one probe was sent"
    );
    assert_eq!(simulated.paused(), [true; 3]);
    simulated.pass(15);
    assert_eq!(simulated.paused(), [false; 3]);
}

#[test]
fn a_wait_that_several_workers_report_is_kept_without_a_probe() {
    let mut simulated = WaitSimulation::new();
    simulated.refuses_until = simulated.now + Duration::from_mins(15);
    simulated.refused(REPORTER, 900);
    simulated.refused(CORRECT[1], 900);
    simulated.pass(890);
    assert_eq!((simulated.refused, simulated.paused_seconds), (0, 890));
}

#[test]
fn occasional_waits_of_a_minute_are_kept_without_a_probe() {
    let mut simulated = WaitSimulation::new();
    for _ in 0..20 {
        simulated.refuses_until = simulated.now + Duration::from_secs(59);
        simulated.refused(REPORTER, 59);
        simulated.pass(660);
    }
    assert_eq!((simulated.refused, simulated.paused_seconds), (0, 20 * 59));
}

#[test]
fn a_single_worker_that_repeats_a_wait_pauses_the_others_for_one_minute() {
    for (wait, every) in [
        (900, 1),
        (900, 60),
        (900, 900),
        (60, 60),
        (60, 61),
        (30, 31),
        (2, 3),
    ] {
        let mut simulated = WaitSimulation::new();
        for _ in 0..7200 / every {
            simulated.refused(REPORTER, wait);
            simulated.pass(every);
        }
        assert!(
            simulated.paused_seconds <= SOLE_PAUSE_LIMIT.as_secs() * 11 / 10,
            "{wait} s every {every} s: {} of 7200 s",
            simulated.paused_seconds
        );
        assert_eq!(simulated.paused(), [false; 3]);
        let own = simulated
            .controller
            .take_notices()
            .into_iter()
            .filter(|notice| *notice == ConcurrencyNotice::OneWorkerOnly)
            .count();
        assert_eq!(own, 1);
    }
}

#[test]
fn the_only_worker_keeps_its_wait() {
    let now = Instant::now();
    let mut controller = ConcurrencyController::new(Ceilings::default(), now);
    let observation = Observation {
        wanted: 5,
        refusals: 1,
        ..Observation::default()
    };
    controller.record_observation(
        REPORTER,
        &Observation {
            refusals: 0,
            ..observation
        },
        now,
    );
    controller.record_observation(
        REPORTER,
        &Observation {
            retry_after: Some(Duration::from_mins(15)),
            ..observation
        },
        now,
    );
    for second in 1..890 {
        controller.tick(now + Duration::from_secs(second));
        assert!(
            !controller
                .budget(REPORTER, now + Duration::from_secs(second))
                .pause
                .is_zero()
        );
    }
}

/// The origin sends `Retry-After` to one worker only, and serves no other worker either.
#[test]
fn a_wait_stays_while_no_other_worker_is_served() {
    for answer in [Refuses::WithoutWait, Refuses::Cut, Refuses::Hang] {
        let mut simulated = WaitSimulation::new();
        simulated.answer = answer;
        simulated.refuses_until = simulated.now + Duration::from_mins(15);
        simulated.refused(REPORTER, 900);
        simulated.pass(890);
        assert_eq!(simulated.paused_seconds, 890, "{answer:?}");
        assert!(
            simulated.refused <= 15,
            "{answer:?}: at most one request a minute, not {}",
            simulated.refused
        );
        assert_eq!(
            simulated
                .controller
                .take_notices()
                .iter()
                .filter(|notice| **notice == ConcurrencyNotice::OneWorkerOnly)
                .count(),
            0
        );
        simulated.pass(15);
        assert_eq!(simulated.paused(), [false; 3]);
    }
}

/// A probe that fails by chance does not keep the wait of a malicious worker in force.
#[test]
fn another_worker_probes_the_wait_after_a_minute() {
    for answer in [Refuses::WithoutWait, Refuses::Cut, Refuses::Hang] {
        let mut simulated = WaitSimulation::new();
        simulated.answer = answer;
        simulated.refuses_until = simulated.now + Duration::from_secs(70);
        simulated.refused(REPORTER, 900);
        simulated.pass(170);
        assert_eq!(
            (simulated.refused, simulated.paused()),
            (1, [false; 3]),
            "{answer:?}"
        );
        assert!(
            simulated.paused_seconds <= 160,
            "{answer:?}: {}",
            simulated.paused_seconds
        );
    }
}

/// One prober sends no request, and another one leaves.
#[test]
fn the_workers_take_turns_as_prober() {
    let mut simulated = WaitSimulation::new();
    simulated.refused(REPORTER, 900);
    let without_requests = |simulated: &mut WaitSimulation, seconds: u64| {
        for _ in 0..seconds {
            simulated.now += Duration::from_secs(1);
            simulated.controller.tick(simulated.now);
        }
    };
    without_requests(&mut simulated, 65);
    let probers = |simulated: &WaitSimulation| {
        CORRECT
            .into_iter()
            .filter(|id| !simulated.is_paused(*id))
            .collect::<Vec<_>>()
    };
    assert_eq!(probers(&simulated), [CORRECT[0]]);
    assert_eq!(
        simulated
            .controller
            .budget(CORRECT[0], simulated.now)
            .connections,
        1
    );
    without_requests(&mut simulated, 30);
    assert_eq!(probers(&simulated), [CORRECT[1]]);
    simulated.controller.left(CORRECT[1], simulated.now);
    without_requests(&mut simulated, 1);
    assert_eq!(probers(&simulated), [CORRECT[2]]);
    without_requests(&mut simulated, 31);
    assert_eq!(
        probers(&simulated),
        [CORRECT[0]],
        "the turn returns to the first prober"
    );
}

proptest! {
    /// The worker registers under a new name as often as it likes, but uses one name at a time.
    #[test]
    fn no_sequence_of_one_workers_waits_pauses_the_others_for_long(
        acts in vec((0..3_u8, 1..900_u64, 1..90_u64), 1..30),
    ) {
        let mut simulated = WaitSimulation::new();
        let mut names = 100..;
        let mut id = SessionId(99);
        for (act, wait, pause) in acts {
            if act == 0 {
                simulated.controller.left(id, simulated.now);
                id = SessionId(names.next().unwrap());
            }
            simulated.refused(id, wait);
            simulated.pass(pause);
        }
        let refilled = (simulated.now - simulated.start).as_secs() / 10;
        let most = SOLE_PAUSE_LIMIT.as_secs() + refilled + 15;
        prop_assert!(simulated.paused_seconds <= most, "{} s, and at most {most}", simulated.paused_seconds);
    }
}
