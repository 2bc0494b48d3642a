//! An origin that asks one worker to wait has asked all of them.

use std::time::Duration;

use tests::{answer::Answer, wait::wait_for};

use super::Setting;

/// How long the news may travel.
const NEWS: Duration = Duration::from_millis(250);
const WAIT: Duration = Duration::from_secs(5);

#[test]
fn after_a_wait_that_one_of_four_workers_is_asked_for_none_of_them_asks_for_so_long() {
    let setting = Setting::new(120, 15_000..20_000, &[]);
    let (origin, wnids) = (&setting.origin, setting.tars.iter().map(|(wnid, _)| wnid));
    // A quarter of a second each, so that somebody asks all the time.
    origin.limit_rate(400_000);
    let coordinator = setting.job.start_coordinator();
    let workers = setting.start_workers(&coordinator, 4, 2);
    wait_for("all are at work", Duration::from_secs(30), || origin.most_transfers() >= 4);
    let next = wnids.filter(|wnid| origin.gets(wnid).is_empty()).nth(40).expect("some are left").clone();
    origin.script_of(&next).expect("it is served").script([Answer::too_many_requests(WAIT.as_secs())]);
    setting.finish(coordinator, workers);
    let refused = origin.gets(&next).iter().find(|request| request.status == 429).expect("it was refused").at;
    let requests = setting.origin.all_requests();
    let after = requests.iter().filter_map(|request| request.at.checked_duration_since(refused));
    let (early, under_way): (Vec<Duration>, _) =
        after.filter(|after| !after.is_zero() && *after < WAIT).partition(|after| *after >= NEWS);
    println!("asked before the news had come, so long after the refusal: {under_way:?}");
    assert!(early.is_empty(), "asked so long after the refusal: {early:?}");
    assert!(requests.iter().any(|request| request.at > refused + WAIT), "nobody asked afterwards");
}
