//! Waits that one worker alone reports: of an honest origin, and of a hostile worker.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::concurrency::waits::ALONE;

const HONEST: [SessionId; 3] = [SessionId(11), SessionId(12), SessionId(13)];
const REPORTER: SessionId = SessionId(20);

/// Three honest workers that want more connections than they have, once a second.
struct Simulated {
    pace: Pace,
    start: Instant,
    now: Instant,
    said: BTreeMap<SessionId, Observation>,
    /// Until then the origin answers every request of the honest workers in this way.
    refuses_until: Instant,
    answer: Refuses,
    /// Seconds in which the workers but the witness of a trial were held back.
    held: u64,
    /// Requests that were refused.
    refused: u64,
}

/// How the origin does not serve a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Refuses {
    /// With `Retry-After`.
    WithWait,
    /// 503 without it.
    WithoutWait,
    /// It closes the connection.
    Cut,
    /// It never answers.
    Hang,
}

impl Simulated {
    fn new() -> Self {
        let now = Instant::now();
        let ceilings = Ceilings { connections: Some(9), bytes_per_second: None };
        let said = HONEST.map(|id| (id, Observation { wanted: 5, ..Observation::default() })).into();
        let pace = Pace::new(ceilings, now);
        let mut held =
            Self { pace, start: now, now, said, refuses_until: now, answer: Refuses::WithWait, held: 0, refused: 0 };
        held.second();
        held.second();
        held
    }

    /// The origin asks a session to wait.
    fn refused(&mut self, id: SessionId, seconds: u64) {
        let said = self.said.entry(id).or_insert(Observation { wanted: 1, ..Observation::default() });
        said.refusals += 1;
        let wait = Some(Duration::from_secs(seconds));
        self.pace.observed(id, &Observation { retry_after: wait, ..*said }, self.now);
    }

    /// Each honest worker that may ask sends a request, and says what became of it.
    fn second(&mut self) {
        let held = HONEST.map(|id| self.is_quiet(id));
        self.held += u64::from(held.iter().filter(|is_held| **is_held).count() > 1);
        for id in HONEST {
            let budget = self.pace.budget(id, self.now);
            let may_ask = budget.quiet.is_zero() && budget.connections > self.said[&id].open;
            let is_refused = may_ask && self.now < self.refuses_until;
            let said = self.said.get_mut(&id).unwrap();
            said.seen = budget.version;
            said.requests += u64::from(may_ask);
            said.received += if may_ask && !is_refused { 1000 } else { 0 };
            if is_refused {
                self.refused += 1;
                match self.answer {
                    Refuses::WithWait => {}
                    Refuses::WithoutWait => said.refusals += 1,
                    Refuses::Cut => said.cuts += 1,
                    Refuses::Hang => said.open += 1,
                }
            } else if self.now >= self.refuses_until {
                said.open = 0;
            }
            let said = *said;
            if is_refused && self.answer == Refuses::WithWait {
                self.refused(id, (self.refuses_until - self.now).as_secs());
            } else {
                self.pace.observed(id, &said, self.now);
            }
        }
        self.now += Duration::from_secs(1);
        self.pace.tick(self.now);
    }

    fn pass(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.second());
    }

    fn is_quiet(&self, id: SessionId) -> bool {
        !self.pace.budget(id, self.now).quiet.is_zero()
    }

    fn quiet(&self) -> [bool; 3] {
        HONEST.map(|id| self.is_quiet(id))
    }
}

#[test]
fn a_long_wait_of_an_honest_origin_is_kept_by_all_and_costs_one_request() {
    let mut held = Simulated::new();
    held.refuses_until = held.now + Duration::from_mins(15);
    held.refused(REPORTER, 900);
    held.pass(890);
    assert_eq!((held.refused, held.held), (1, 890), "one worker has asked");
    assert_eq!(held.quiet(), [true; 3]);
    held.pass(15);
    assert_eq!(held.quiet(), [false; 3]);
}

#[test]
fn a_wait_that_several_workers_report_is_kept_without_a_request() {
    let mut held = Simulated::new();
    held.refuses_until = held.now + Duration::from_mins(15);
    held.refused(REPORTER, 900);
    held.refused(HONEST[1], 900);
    held.pass(890);
    assert_eq!((held.refused, held.held), (0, 890));
}

#[test]
fn waits_of_a_minute_that_come_now_and_then_are_kept_without_a_request() {
    let mut held = Simulated::new();
    for _ in 0..20 {
        held.refuses_until = held.now + Duration::from_secs(59);
        held.refused(REPORTER, 59);
        held.pass(660);
    }
    assert_eq!((held.refused, held.held), (0, 20 * 59));
}

#[test]
fn a_worker_that_alone_repeats_a_wait_holds_the_others_for_a_minute_once() {
    for (wait, every) in [(900, 1), (900, 60), (900, 900), (60, 60), (60, 61), (30, 31), (2, 3)] {
        let mut held = Simulated::new();
        for _ in 0..7200 / every {
            held.refused(REPORTER, wait);
            held.pass(every);
        }
        assert!(held.held <= ALONE.as_secs() * 11 / 10, "{wait} s every {every} s: {} of 7200 s", held.held);
        assert_eq!(held.quiet(), [false; 3]);
        let own = held.pace.take_notices().into_iter().filter(|notice| *notice == Notice::Own).count();
        assert_eq!(own, 1);
    }
}

#[test]
fn the_only_worker_keeps_its_wait() {
    let now = Instant::now();
    let mut pace = Pace::new(Ceilings::default(), now);
    let said = Observation { wanted: 5, refusals: 1, ..Observation::default() };
    pace.observed(REPORTER, &Observation { refusals: 0, ..said }, now);
    pace.observed(REPORTER, &Observation { retry_after: Some(Duration::from_mins(15)), ..said }, now);
    for second in 1..890 {
        pace.tick(now + Duration::from_secs(second));
        assert!(!pace.budget(REPORTER, now + Duration::from_secs(second)).quiet.is_zero());
    }
}

/// The origin says how long to wait to one worker only, and serves no other either.
#[test]
fn a_wait_stays_while_no_other_worker_is_served() {
    for answer in [Refuses::WithoutWait, Refuses::Cut, Refuses::Hang] {
        let mut held = Simulated::new();
        held.answer = answer;
        held.refuses_until = held.now + Duration::from_mins(15);
        held.refused(REPORTER, 900);
        held.pass(890);
        assert_eq!(held.held, 890, "{answer:?}");
        assert!(held.refused <= 15, "{answer:?}: at most one request a minute, not {}", held.refused);
        assert_eq!(held.pace.take_notices().iter().filter(|notice| **notice == Notice::Own).count(), 0);
        held.pass(15);
        assert_eq!(held.quiet(), [false; 3]);
    }
}

/// A witness that was not served by chance does not keep the wait of a hostile worker.
#[test]
fn a_wait_is_tried_again_by_another_worker_after_a_minute() {
    for answer in [Refuses::WithoutWait, Refuses::Cut, Refuses::Hang] {
        let mut held = Simulated::new();
        held.answer = answer;
        held.refuses_until = held.now + Duration::from_secs(70);
        held.refused(REPORTER, 900);
        held.pass(170);
        assert_eq!((held.refused, held.quiet()), (1, [false; 3]), "{answer:?}");
        assert!(held.held <= 160, "{answer:?}: {}", held.held);
    }
}

/// A witness that sends nothing, and another one that leaves.
#[test]
fn each_worker_is_the_witness_in_its_turn() {
    let mut held = Simulated::new();
    held.refused(REPORTER, 900);
    let deaf = |held: &mut Simulated, seconds: u64| {
        for _ in 0..seconds {
            held.now += Duration::from_secs(1);
            held.pace.tick(held.now);
        }
    };
    deaf(&mut held, 65);
    let witnesses = |held: &Simulated| HONEST.into_iter().filter(|id| !held.is_quiet(*id)).collect::<Vec<_>>();
    assert_eq!(witnesses(&held), [HONEST[0]]);
    assert_eq!(held.pace.budget(HONEST[0], held.now).connections, 1);
    deaf(&mut held, 30);
    assert_eq!(witnesses(&held), [HONEST[1]]);
    held.pace.left(HONEST[1], held.now);
    deaf(&mut held, 1);
    assert_eq!(witnesses(&held), [HONEST[2]]);
    deaf(&mut held, 31);
    assert_eq!(witnesses(&held), [HONEST[0]], "and so on, until one is served");
}

proptest! {
    /// It comes again under a new name, as often as it likes, but under one at a time.
    #[test]
    fn no_sequence_of_one_workers_waits_holds_the_others_for_long(
        acts in vec((0..3_u8, 1..900_u64, 1..90_u64), 1..30),
    ) {
        let mut held = Simulated::new();
        let mut names = 100..;
        let mut id = SessionId(99);
        for (act, wait, pause) in acts {
            if act == 0 {
                held.pace.left(id, held.now);
                id = SessionId(names.next().unwrap());
            }
            held.refused(id, wait);
            held.pass(pause);
        }
        let most = ALONE.as_secs() + (held.now - held.start).as_secs() / 10 + 15;
        prop_assert!(held.held <= most, "{} s, and at most {most}", held.held);
    }
}
