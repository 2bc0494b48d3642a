//! The time left: told while bytes come, and not while none do.

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    origin::Origin,
};

/// What the job's last line says of the time left.
fn last_told(stderr: &str) -> Option<&str> {
    stderr.lines().rev().find_map(|line| line.strip_suffix(" left")?.rsplit(", ").next())
}

#[test]
fn a_time_is_told_while_bytes_come_and_none_while_the_origin_stands_still() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=4).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 10, 9_000..11_000, 1));
    }
    // The last class stands still after the others are there.
    origin.script_of(&wnids[3]).expect("it is served").script([Answer::stall_at(20_000)]);
    origin.limit_total_rate(20_000);
    let args = ["--delete-tar", "--workers", "1", "--durability", "process"];
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin).args(args);
    let mut running = job.start();
    running.wait_until("a time is told", |running| {
        last_told(&running.stderr()).is_some_and(|told| told != "--:--").then_some(())
    });
    running.wait_until("three classes are there, and no time is told", |running| {
        let said = running.stderr();
        (said.contains("3 done, of 4 classes") && last_told(&said) == Some("--:--")).then_some(())
    });
    origin.limit_total_rate(0);
    origin.end_stalls();
    job.assert_ended(&running.wait(), 0, Table::of(4, 0, 0));
}
