//! A login that expires in the middle of a run: the job ends within seconds, says so, and its classes
//! stay pending for the next run. Classes that are merely missing do not end a job.

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    origin::Origin,
    running::Running,
};

const CLASSES: u64 = 400;

/// A job whose origin answers like this from the moment on when some classes are there.
fn job_that_is_refused_from(answer: &Answer, origin: &Origin) -> (Job, Running, Vec<(String, Vec<u8>)>) {
    let wnids = (1..=CLASSES).map(|number| format!("n{number:08}"));
    let tars: Vec<(String, Vec<u8>)> =
        (1..).zip(wnids).map(|(seed, wnid)| (wnid.clone(), images(&wnid, 1, 500..900, seed))).collect();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    origin.limit_total_rate(300_000);
    let job = Job::new()
        .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
        .origin(origin)
        .args(["--delete-tar", "--workers", "4"])
        .deadline(Duration::from_mins(1));
    let mut running = job.start();
    running.wait_until("some classes are there", |_| {
        let there = tars.iter().filter(|(wnid, _)| job.class_folder(wnid).exists()).count();
        (there >= 20).then_some(())
    });
    for (wnid, _) in &tars {
        origin.script_of(wnid).expect("it is served").forever(answer.clone());
    }
    origin.limit_total_rate(0);
    (job, running, tars)
}

#[test]
fn a_login_that_expires_ends_the_job_and_the_next_run_goes_on() {
    for (answer, words) in [
        (Answer::status(401), ["401 Client Error", "--header-file"]),
        (Answer::html(), ["looks like an HTML page", "--header-file"]),
    ] {
        let origin = Origin::start();
        let (job, running, tars) = job_that_is_refused_from(&answer, &origin);
        let finished = running.wait();
        let sentence = ["failed to get any more classes from http://", "the same command goes on with them"];
        job.assert_could_not_run(&finished, &[&words[..], &sentence].concat());
        assert_eq!(job.failures(), [] as [String; 0], "none of them has failed");
        let asked = origin.all_requests().len();
        assert!(asked < tars.len(), "{asked} requests");

        for (wnid, tar) in &tars {
            origin.class(wnid, tar.clone());
        }
        job.assert_ended(&job.run(), 0, Table::of(CLASSES, 0, 0));
    }
}

#[test]
fn classes_that_are_missing_from_then_on_have_failed() {
    let origin = Origin::start();
    let (job, running, _) = job_that_is_refused_from(&Answer::status(404), &origin);
    let finished = running.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let table = Table::read(&finished.stdout);
    assert_eq!(job.failures().len(), usize::try_from(table.failed).expect("a number"));
    assert!(table.failed > 200, "{}", finished.stdout);
}
