//! An origin with one line for all, that breaks every transfer as soon as more than so many are open, and then answers nobody
//! for a second. How many it stands, nobody is told.

use std::time::Duration;

use super::Setting;

const CLASSES: u64 = 60;
const TOTAL_RATE: u64 = 6_000_000;
const MOST_OVERLOADS: u64 = 5;
const SILENCE: Duration = Duration::from_secs(1);

/// How the job is done.
#[derive(Debug, Clone, Copy)]
enum With {
    OneProcess,
    FourWorkers,
}

/// Downloads from an origin that stands so many transfers; says what that took.
#[track_caller]
fn downloads(most: usize, with: With) -> String {
    let args: &[&str] = if let With::OneProcess = with { &["--workers", "20"] } else { &[] };
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
    let (requests, overloads) = (setting.origin.all_requests().len() as u64, setting.origin.overloads());
    let told = format!("{with:?}, {most} transfers: {requests} requests for {CLASSES} classes, {overloads} overloads");
    assert!(requests * 2 <= CLASSES * 3 && overloads <= MOST_OVERLOADS, "{told}");
    told
}

#[test]
fn an_origin_that_breaks_above_three_transfers_is_found_out_with_few_requests() {
    println!("{}", downloads(3, With::OneProcess));
}

#[test]
fn so_is_one_that_breaks_above_five() {
    println!("{}", downloads(5, With::OneProcess));
}

#[test]
fn so_is_one_that_breaks_above_eight() {
    println!("{}", downloads(8, With::OneProcess));
}

#[test]
fn four_workers_find_out_together_what_breaks_above_three() {
    println!("{}", downloads(3, With::FourWorkers));
}

#[test]
fn four_workers_find_out_together_what_breaks_above_five() {
    println!("{}", downloads(5, With::FourWorkers));
}

#[test]
fn four_workers_find_out_together_what_breaks_above_eight() {
    println!("{}", downloads(8, With::FourWorkers));
}
