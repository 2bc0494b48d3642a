//! Configured limits that apply to all workers together.

use super::Fixture;

#[test]
fn three_workers_of_ten_slots_never_have_more_than_four_connections_together() {
    let fixture = Fixture::new(60, 15_000..20_000, &["--max-connections", "4"]);
    fixture.origin.limit_rate(400_000);
    let coordinator = fixture.job.start_coordinator();
    let workers = fixture.start_workers(&coordinator, 3, 10);
    fixture.finish(coordinator, workers);
    assert_eq!(fixture.origin.most_transfers(), 4);
    assert_eq!(
        fixture.origin.all_requests().len(),
        60,
        "one request per class"
    );
}

#[test]
fn three_workers_are_never_faster_than_the_rate_of_the_job() {
    const RATE: f64 = 1_000_000.0;
    let fixture = Fixture::new(60, 15_000..20_000, &["--max-rate", "1MB/s"]);
    let coordinator = fixture.job.start_coordinator();
    let workers = fixture.start_workers(&coordinator, 3, 10);
    fixture.finish(coordinator, workers);
    let first = fixture
        .origin
        .all_requests()
        .iter()
        .map(|request| request.at)
        .min()
        .expect("there were requests");
    let rate = f64::from(u32::try_from(fixture.origin.bytes_sent()).expect("the number fits"))
        / first.elapsed().as_secs_f64();
    assert!(rate <= RATE * 1.1, "{rate} bytes per second");
    assert!(
        rate > RATE / 10.0,
        "{rate} bytes per second: too slow to test the limit"
    );
}
