//! An origin that is unavailable for a while delays the job and has no other effect (O8).

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
};

#[test]
fn an_unavailable_origin_fails_no_class_gets_few_requests_and_is_found_when_it_returns() {
    let origin = Origin::start();
    let tars: Vec<(String, Vec<u8>)> = (1..=40)
        .map(|number| format!("n{number:08}"))
        .map(|wnid| (wnid.clone(), images(&wnid, 2, 500..900, 1)))
        .collect();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone()).forever(Answer::status(503));
    }
    let wnids = tars.iter().map(|(wnid, _)| wnid.as_str());
    let args = ["--delete-tar", "--retries", "0", "--workers", "4"];
    let job = Job::new()
        .classes(wnids)
        .origin(&origin)
        .args(args)
        .deadline(Duration::from_mins(2));
    let mut running = job.start();
    running.wait_until("it logs that the origin does not answer", |running| {
        running
            .stderr()
            .contains("(HTTPError: 503 Server Error: Service Unavailable")
            .then_some(())
    });
    let during_outage = origin.all_requests().len();
    // Twelve failures in a row pause the job. In addition there are the requests in progress: a
    // slot may begin its next class before the coordinator has received the result of the last one.
    assert!(
        (12..=20).contains(&during_outage),
        "{during_outage} requests"
    );
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    let finished = running.wait();
    job.assert_ended(&finished, 0, Table::of(40, 0, 0));
    assert!(
        finished.stderr.contains("answers again"),
        "{}",
        finished.stderr
    );
    assert_eq!(job.failures(), [] as [String; 0]);
    for (wnid, tar) in &tars {
        assert_class_is(tar, &job.class_folder(wnid));
    }
    let answered = origin
        .all_requests()
        .iter()
        .filter(|request| request.status == 200)
        .count();
    assert_eq!(answered, 40);
}
