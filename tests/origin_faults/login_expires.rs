//! A login that expires during a run: the job ends within seconds with an error that names the
//! cause, and its classes stay pending for the next run. Missing classes alone do not end a job.

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    origin::Origin,
    running::Running,
};

const CLASSES: u64 = 400;

/// Starts a job whose origin gives this answer to each request after 20 classes are complete.
fn start_job_rejected_later(
    answer: &Answer,
    origin: &Origin,
) -> (Job, Running, Vec<(String, Vec<u8>)>) {
    let wnids = (1..=CLASSES).map(|number| format!("n{number:08}"));
    let tars: Vec<(String, Vec<u8>)> = (1..)
        .zip(wnids)
        .map(|(seed, wnid)| (wnid.clone(), images(&wnid, 1, 500..900, seed)))
        .collect();
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
    running.wait_until("some classes are complete", |_| {
        let complete = tars
            .iter()
            .filter(|(wnid, _)| job.class_folder(wnid).exists())
            .count();
        (complete >= 20).then_some(())
    });
    for (wnid, _) in &tars {
        origin
            .script_of(wnid)
            .expect("the class is served")
            .forever(answer.clone());
    }
    origin.limit_total_rate(0);
    (job, running, tars)
}

#[test]
fn a_login_that_expires_ends_the_job_and_the_next_run_resumes() {
    for (answer, words) in [
        (Answer::status(401), ["401 Client Error", "--header-file"]),
        (Answer::html(), ["looks like an HTML page", "--header-file"]),
    ] {
        let origin = Origin::start();
        let (job, running, tars) = start_job_rejected_later(&answer, &origin);
        let finished = running.wait();
        let sentence = [
            "failed to get any more classes from http://",
            "the same command goes on with them",
        ];
        job.assert_could_not_run(&finished, &[&words[..], &sentence].concat());
        assert_eq!(job.failures(), [] as [String; 0], "no class has failed");
        let requests = origin.all_requests().len();
        assert!(requests < tars.len(), "{requests} requests");

        for (wnid, tar) in &tars {
            origin.class(wnid, tar.clone());
        }
        job.assert_ended(&job.run(), 0, Table::of(CLASSES, 0, 0));
    }
}

#[test]
fn classes_that_are_missing_later_fail_without_ending_the_job() {
    let origin = Origin::start();
    let (job, running, _) = start_job_rejected_later(&Answer::status(404), &origin);
    let finished = running.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let table = Table::read(&finished.stdout);
    assert_eq!(
        job.failures().len(),
        usize::try_from(table.failed).expect("the number fits")
    );
    assert!(table.failed > 200, "{}", finished.stdout);
}
