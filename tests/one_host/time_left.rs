//! The remaining time: shown while data arrives, and not shown while the origin stalls.

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    origin::Origin,
};

/// The remaining time in the last progress line.
fn last_shown(stderr: &str) -> Option<&str> {
    stderr
        .lines()
        .rev()
        .find_map(|line| line.strip_suffix(" left")?.rsplit(", ").next())
}

#[test]
fn a_remaining_time_is_shown_while_data_arrives_and_none_while_the_origin_stalls() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=4).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 10, 9_000..11_000, 1));
    }
    // The last class stalls after the others are complete.
    origin
        .script_of(&wnids[3])
        .expect("the class is served")
        .script([Answer::stall_at(20_000)]);
    origin.limit_total_rate(20_000);
    let args = ["--delete-tar", "--workers", "1", "--durability", "process"];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args);
    let mut running = job.start();
    running.wait_until("a time is shown", |running| {
        last_shown(&running.stderr())
            .is_some_and(|time| time != "--:--")
            .then_some(())
    });
    running.wait_until(
        "three classes are complete, and no time is shown",
        |running| {
            let stderr = running.stderr();
            (stderr.contains("3 done, of 4 classes") && last_shown(&stderr) == Some("--:--"))
                .then_some(())
        },
    );
    origin.limit_total_rate(0);
    origin.end_stalls();
    job.assert_ended(&running.wait(), 0, Table::of(4, 0, 0));
}
