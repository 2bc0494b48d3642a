//! An origin with one shared link that resets all transfers as soon as more than a fixed number are
//! open, and then leaves requests unanswered for a second. The job is not configured with that
//! number.

use std::time::Duration;

use super::Fixture;

const CLASSES: u64 = 60;
const TOTAL_RATE: u64 = 6_000_000;
const MOST_OVERLOADS: u64 = 5;
const SILENCE: Duration = Duration::from_secs(1);

/// Which processes run the job.
#[derive(Debug, Clone, Copy)]
enum Processes {
    OneProcess,
    FourWorkers,
}

/// Downloads from an origin with this overload limit; returns a summary of the cost.
#[track_caller]
fn downloads(most: usize, processes: Processes) -> String {
    let args: &[&str] = if let Processes::OneProcess = processes {
        &["--workers", "20"]
    } else {
        &[]
    };
    let fixture = Fixture::new(CLASSES, 100_000..140_000, args);
    fixture.origin.limit_total_rate(TOTAL_RATE);
    fixture.origin.break_above(most, SILENCE);
    match processes {
        Processes::OneProcess => fixture.finish_in_one_process(),
        Processes::FourWorkers => {
            let coordinator = fixture.job.start_coordinator();
            let workers = fixture.start_workers(&coordinator, 4, 5);
            fixture.finish(coordinator, workers);
        }
    }
    let requests = fixture.origin.all_requests().len() as u64;
    let overloads = fixture.origin.overloads();
    let summary = format!(
        "{processes:?}, {most} transfers: {requests} requests for {CLASSES} classes, {overloads} \
         overloads"
    );
    assert!(
        requests * 2 <= CLASSES * 3 && overloads <= MOST_OVERLOADS,
        "{summary}"
    );
    summary
}

#[test]
fn one_process_finds_a_limit_of_three_transfers_with_few_requests() {
    println!("{}", downloads(3, Processes::OneProcess));
}

#[test]
fn one_process_finds_a_limit_of_five_transfers() {
    println!("{}", downloads(5, Processes::OneProcess));
}

#[test]
fn one_process_finds_a_limit_of_eight_transfers() {
    println!("{}", downloads(8, Processes::OneProcess));
}

#[test]
fn four_workers_find_a_limit_of_three_transfers_together() {
    println!("{}", downloads(3, Processes::FourWorkers));
}

#[test]
fn four_workers_find_a_limit_of_five_transfers_together() {
    println!("{}", downloads(5, Processes::FourWorkers));
}

#[test]
fn four_workers_find_a_limit_of_eight_transfers_together() {
    println!("{}", downloads(8, Processes::FourWorkers));
}
