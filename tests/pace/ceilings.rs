//! Configured limits that apply to all workers together.

use super::Setting;

#[test]
fn three_workers_of_ten_slots_never_have_more_than_four_connections_together() {
    let setting = Setting::new(60, 15_000..20_000, &["--max-connections", "4"]);
    setting.origin.limit_rate(400_000);
    let coordinator = setting.job.start_coordinator();
    let workers = setting.start_workers(&coordinator, 3, 10);
    setting.finish(coordinator, workers);
    assert_eq!(setting.origin.most_transfers(), 4);
    assert_eq!(
        setting.origin.all_requests().len(),
        60,
        "one request per class"
    );
}

#[test]
fn three_workers_are_never_faster_than_the_rate_of_the_job() {
    const RATE: f64 = 1_000_000.0;
    let setting = Setting::new(60, 15_000..20_000, &["--max-rate", "1MB/s"]);
    let coordinator = setting.job.start_coordinator();
    let workers = setting.start_workers(&coordinator, 3, 10);
    setting.finish(coordinator, workers);
    let first = setting
        .origin
        .all_requests()
        .iter()
        .map(|request| request.at)
        .min()
        .expect("there were requests");
    let rate = f64::from(u32::try_from(setting.origin.bytes_sent()).expect("the number fits"))
        / first.elapsed().as_secs_f64();
    assert!(rate <= RATE * 1.1, "{rate} bytes per second");
    assert!(
        rate > RATE / 10.0,
        "{rate} bytes per second: too slow to test the limit"
    );
}
