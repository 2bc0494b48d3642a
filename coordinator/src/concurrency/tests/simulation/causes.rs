//! Each announced change of the limit names its cause.

use super::*;

/// The changes of the limit in a job, in their order, and the overloads as `None`.
fn changes(job: &JobSetup) -> Vec<(u32, Option<LimitCause>)> {
    let mut state = SimulatedJob::new(job, Instant::now());
    let mut changes = Vec::new();
    while state.done < job.classes {
        state.step(job.slots, job.size);
        for notice in state.controller.take_notices() {
            match notice {
                ConcurrencyNotice::Limit { limit, cause } => changes.push((limit, Some(cause))),
                ConcurrencyNotice::Overload { limit, .. } => changes.push((limit, None)),
                _ => {}
            }
        }
    }
    println!("{changes:?}");
    let first = (job.ceilings.connections.unwrap_or(1), None);
    let with_first = [vec![first], changes.clone()].concat();
    let pairs = with_first.iter().zip(&changes);
    let repeated = pairs
        .filter(|((before, _), (after, cause))| before == after && cause.is_some())
        .count();
    assert_eq!(repeated, 0, "only an overload may keep the limit");
    changes
}

#[test]
fn more_connections_that_are_not_faster_are_the_cause() {
    let origin = SimulatedOrigin {
        total: 20.0 * MB,
        each: 4.0 * MB,
        ..UNLIMITED
    };
    let changes = changes(&JobSetup::new(origin));
    let Some((limit, Some(LimitCause::NoGain { tried }))) = changes.first() else {
        panic!("{changes:?}");
    };
    assert!(limit < tried && *limit > 2, "{changes:?}");
}

#[test]
fn a_second_connection_that_is_not_faster_stays_for_the_pauses_of_the_first() {
    let origin = SimulatedOrigin {
        total: 10.0 * MB,
        ..UNLIMITED
    };
    let changes = changes(&JobSetup::new(origin));
    assert_eq!(
        changes.first(),
        Some(&(2, Some(LimitCause::SecondConnection)))
    );
}

#[test]
fn the_demand_of_the_workers_is_the_cause() {
    let origin = SimulatedOrigin {
        each: MB,
        ..UNLIMITED
    };
    let changes = changes(&JobSetup::new(origin));
    assert_eq!(changes.first(), Some(&(20, Some(LimitCause::Demand))));
}

#[test]
fn an_overload_is_announced_once() {
    let origin = SimulatedOrigin {
        each: MB,
        breaks_above: 5,
        ..UNLIMITED
    };
    let changes = changes(&JobSetup::new(origin));
    assert_eq!(changes, [(2, None), (5, None)]);
}

#[test]
fn refusals_are_the_cause() {
    let origin = SimulatedOrigin {
        each: MB,
        refuses_above: 3,
        ..UNLIMITED
    };
    let changes = changes(&JobSetup::new(origin));
    let refused = Some(LimitCause::Refused);
    assert_eq!(changes, [(4, refused), (3, refused)]);
}

#[test]
fn levels_that_have_failed_and_then_max_connections_are_the_cause() {
    let origin = SimulatedOrigin {
        each: MB,
        breaks_above: 3,
        recovers: Duration::from_secs(20),
        ..UNLIMITED
    };
    let changes = changes(&JobSetup {
        classes: 5_000,
        ceilings: Ceilings {
            connections: Some(4),
            ..Ceilings::default()
        },
        ..JobSetup::new(origin)
    });
    let bound = Some(LimitCause::UpperBound);
    let ceiling = Some(LimitCause::Ceiling);
    assert_eq!(changes, [(2, None), (3, bound), (4, ceiling)]);
}

#[test]
fn failures_at_any_number_are_the_cause_of_the_return() {
    let origin = SimulatedOrigin {
        each: MB,
        cuts_every: 0.2 * MB,
        ..UNLIMITED
    };
    let changes = changes(&JobSetup::new(origin));
    let causes: Vec<_> = changes.iter().filter_map(|(_, cause)| *cause).collect();
    assert!(causes.contains(&LimitCause::Independent), "{changes:?}");
}

/// No data arrives, and the workers want one connection more than they have.
#[test]
fn connections_that_receive_nothing_are_the_cause() {
    let start = Instant::now();
    let mut controller = ConcurrencyController::new(Ceilings::default(), start);
    for tenth in 0..40 {
        let open = controller.status(start).limit;
        let stalled = Observation {
            open,
            wanted: 2,
            requests: 2,
            ..Observation::default()
        };
        let now = start + Duration::from_millis(100) * tenth;
        controller.record_observation(SessionId(1), &stalled, now);
    }
    let cause = LimitCause::Stalled;
    let limited = ConcurrencyNotice::Limit { limit: 2, cause };
    assert_eq!(controller.take_notices(), [limited]);
}
