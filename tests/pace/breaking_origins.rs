//! An origin with one shared link that resets all transfers as soon as more than a fixed number are
//! open, and then leaves requests unanswered for a second. The job is not configured with that
//! number.

use std::time::Duration;

use super::Setting;

const CLASSES: u64 = 60;
const TOTAL_RATE: u64 = 6_000_000;
const MOST_OVERLOADS: u64 = 5;
const SILENCE: Duration = Duration::from_secs(1);

/// Which processes run the job.
#[derive(Debug, Clone, Copy)]
enum With {
    OneProcess,
    FourWorkers,
}

/// Downloads from an origin with this overload limit; returns a summary of the cost.
#[track_caller]
fn downloads(most: usize, with: With) -> String {
    let args: &[&str] = if let With::OneProcess = with {
        &["--workers", "20"]
    } else {
        &[]
    };
    let setting = Setting::new(CLASSES, 100_000..140_000, args);
    setting.origin.limit_total_rate(TOTAL_RATE);
    setting.origin.break_above(most, SILENCE);
    match with {
        With::OneProcess => setting.finish_in_one_process(),
        With::FourWorkers => {
            let coordinator = setting.job.start_coordinator();
            let workers = setting.start_workers(&coordinator, 4, 5);
            setting.finish(coordinator, workers);
        }
    }
    let requests = setting.origin.all_requests().len() as u64;
    let overloads = setting.origin.overloads();
    let summary = format!(
        "{with:?}, {most} transfers: {requests} requests for {CLASSES} classes, {overloads} overloads"
    );
    assert!(
        requests * 2 <= CLASSES * 3 && overloads <= MOST_OVERLOADS,
        "{summary}"
    );
    summary
}

#[test]
fn one_process_finds_a_limit_of_three_transfers_with_few_requests() {
    println!("{}", downloads(3, With::OneProcess));
}

#[test]
fn one_process_finds_a_limit_of_five_transfers() {
    println!("{}", downloads(5, With::OneProcess));
}

#[test]
fn one_process_finds_a_limit_of_eight_transfers() {
    println!("{}", downloads(8, With::OneProcess));
}

#[test]
fn four_workers_find_a_limit_of_three_transfers_together() {
    println!("{}", downloads(3, With::FourWorkers));
}

#[test]
fn four_workers_find_a_limit_of_five_transfers_together() {
    println!("{}", downloads(5, With::FourWorkers));
}

#[test]
fn four_workers_find_a_limit_of_eight_transfers_together() {
    println!("{}", downloads(8, With::FourWorkers));
}
