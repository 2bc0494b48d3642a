//! An origin that rejects every class in the same way, because of a wrong path or a missing login:
//! the job ends within seconds, after few requests, and records no class as failed. A job with only
//! some missing classes runs to its end.

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    fleet::fixed_address,
    log::lines_with,
    origin::Origin,
    tls_front::{Certificate, TlsFront},
};
use tokio::time::Instant;

use super::error_messages::RawServer;

fn wnids(count: u64) -> Vec<String> {
    (1..=count).map(|number| format!("n{number:08}")).collect()
}

/// Classes of one small image each.
fn tars(count: u64) -> Vec<(String, Vec<u8>)> {
    (1..)
        .zip(wnids(count))
        .map(|(seed, wnid)| (wnid.clone(), images(&wnid, 1, 500..900, seed)))
        .collect()
}

/// Rejections by an origin, each with texts that the error message must contain.
fn rejections() -> [(Option<Answer>, &'static [&'static str]); 5] {
    [
        (
            None,
            &[
                "404 Client Error: Not Found for url: http",
                "check the path in --url",
            ],
        ),
        (
            Some(Answer::status(403)),
            &["403 Client Error", "--header-file", "--url"],
        ),
        (
            Some(Answer::status(401)),
            &["401 Client Error", "--header-file", "Authorization:"],
        ),
        (
            Some(Answer::html()),
            &["looks like an HTML page", "--header-file"],
        ),
        (
            Some(Answer::redirect("ftp://login.test/")),
            &["redirect to a URL of the scheme ftp", "--header-file"],
        ),
    ]
}

#[test]
fn a_list_of_5000_rejected_classes_ends_within_five_seconds_and_25_requests() {
    let wnids = wnids(5000);
    for (answer, words) in rejections() {
        let origin = Origin::start();
        if let Some(answer) = answer {
            for wnid in &wnids {
                origin.class(wnid, Vec::new()).forever(answer.clone());
            }
        }
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin)
            .args(["--delete-tar"]);
        let started = Instant::now();
        let finished = job.run();
        let took = started.elapsed();
        let address = format!("http://{}", origin.address());
        job.assert_could_not_run(
            &finished,
            &[words, &[address.as_str(), "from all over the list"]].concat(),
        );
        let requests = origin.all_requests().len();
        assert!((20..=25).contains(&requests), "{requests} requests");
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(job.failures(), [] as [String; 0], "none of them has failed");
        let lines = ["WARN", "error: "]
            .map(|word| lines_with(&finished.stderr, &[word]).len())
            .iter()
            .sum::<usize>();
        assert_eq!(
            lines, 1,
            "one line, not one for each class: {}",
            finished.stderr
        );
    }
}

/// A redirect to a login page takes two requests for each class; a redirect loop is detected at its
/// first request.
#[test]
fn redirects_count_as_requests() {
    let wnids = wnids(5000);
    for (location, words) in [
        ("/login", ["404 Client Error", "--url"]),
        ("", ["redirect loop", "--header-file"]),
    ] {
        let origin = Origin::start();
        for wnid in &wnids {
            let location = if location.is_empty() {
                format!("/{wnid}.tar")
            } else {
                format!("{location}?next={wnid}")
            };
            origin
                .class(wnid, Vec::new())
                .forever(Answer::redirect(&location));
        }
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin)
            .args(["--delete-tar"]);
        job.assert_could_not_run(&job.run(), &words);
        let requests = origin.all_requests().len();
        assert!((20..=25).contains(&requests), "{requests} requests");
        assert_eq!(job.failures(), [] as [String; 0], "none of them has failed");
    }
}

#[test]
fn an_invalid_certificate_and_a_wrong_scheme_end_the_job_too() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Certificate::Valid);
    let wnids = wnids(200);
    let server = RawServer::start(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let plain = format!("https://{}", server.address);
    for (url, words) in [
        (
            front.url(),
            [
                "no authority that is trusted here has signed it",
                "--cacert",
            ],
        ),
        (plain, ["answers without TLS", "check http:// or https://"]),
    ] {
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .url(&url)
            .args(["--delete-tar"]);
        let finished = job.run();
        job.assert_could_not_run(&finished, &[&words[..], &[url.as_str()]].concat());
        for jargon in [
            "UnknownIssuer",
            "InvalidContentType",
            "OtherError",
            "invalid peer certificate",
        ] {
            assert!(!finished.stderr.contains(jargon), "{}", finished.stderr);
        }
    }
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn a_job_whose_first_twenty_classes_are_missing_runs_to_its_end() {
    let origin = Origin::start();
    let tars = tars(60);
    for (wnid, tar) in &tars[20..] {
        origin.class(wnid, tar.clone());
    }
    let job = Job::new()
        .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
        .origin(&origin)
        .args(["--delete-tar"]);
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(40, 0, 20));
    assert_eq!(job.failures().len(), 20);
    assert_eq!(origin.all_requests().len(), 60, "one question a class");
    // One line for the cause, one with the count, and the summary.
    let told = lines_with(&finished.stderr, &["404 Client Error"]);
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(
        told[1].contains("19 more classes failed: HTTPError: 404 Client Error"),
        "{told:#?}"
    );
    let log = job.log();
    let logged = lines_with(&log, &[" failed: HTTPError: 404 Client Error"]).len();
    assert!(logged >= 20, "the log has a line for each class: {log}");

    // The next run asks for the same ones again, which says nothing of the origin.
    for (wnid, _) in &tars[30..] {
        std::fs::remove_dir_all(job.class_folder(wnid)).expect("the class is complete");
        origin.class(wnid, Vec::new()).forever(Answer::status(404));
    }
    std::fs::remove_file(job.target_path().join(".imagenet_downloader.ledger"))
        .expect("the ledger exists");
    job.assert_could_not_run(&job.run(), &["check the path in --url"]);
}

#[test]
fn classes_that_were_already_missing_do_not_end_the_next_run() {
    let origin = Origin::start();
    let tars = tars(50);
    origin.class(&tars[49].0, tars[49].1.clone());
    let job = Job::new()
        .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 1, Table::of(1, 0, 49));
    job.assert_ended(&job.run(), 1, Table::of(0, 1, 49));
    assert_eq!(job.failures().len(), 49);
}

/// A list that is too short for an early end: the summary names the flags to check.
#[test]
fn the_summary_of_a_short_rejected_list_names_the_flags_to_check() {
    for (answer, words) in rejections() {
        let origin = Origin::start();
        let wnids = wnids(7);
        if let Some(answer) = answer {
            for wnid in &wnids {
                origin.class(wnid, Vec::new()).forever(answer.clone());
            }
        }
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin)
            .args(["--delete-tar"]);
        let finished = job.run();
        job.assert_ended(&finished, 1, Table::of(0, 0, 7));
        let summary = finished
            .stderr
            .lines()
            .find(|line| line.starts_with("failed: 7 "))
            .expect("a summary");
        let (_, advice) = summary
            .split_once("failed_downloads.log. ")
            .expect("advice");
        for flag in words
            .iter()
            .filter(|word| word.starts_with("--") || word.contains(" --"))
        {
            assert!(advice.contains(flag), "{summary}");
        }
    }
}

/// One served class shows that the URL and the login are right.
#[test]
fn a_short_list_of_which_some_classes_are_missing_gets_no_advice() {
    let origin = Origin::start();
    let tars = tars(7);
    origin.class(&tars[3].0, tars[3].1.clone());
    let job = Job::new()
        .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
        .origin(&origin)
        .args(["--delete-tar"]);
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(1, 0, 6));
    assert!(!finished.stderr.contains("--url"), "{}", finished.stderr);
}

/// A run that is rejected at once has no results for the classes that failed in the previous run.
#[test]
fn a_rejected_run_keeps_the_failure_log_of_the_previous_run() {
    let origin = Origin::start();
    let tars = tars(40);
    for (wnid, tar) in &tars[2..] {
        origin.class(wnid, tar.clone());
    }
    let job = Job::new()
        .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 1, Table::of(38, 0, 2));
    let failures = job.failures();
    assert_eq!(failures.len(), 2);

    let elsewhere = Origin::start();
    let job = job.url(&elsewhere.url());
    for (wnid, _) in &tars {
        std::fs::remove_dir_all(job.class_folder(wnid)).unwrap_or_default();
    }
    for _ in 0..2 {
        job.assert_could_not_run(&job.run(), &["check the path in --url"]);
        assert_eq!(job.failures(), failures);
    }
    for (wnid, tar) in &tars[1..] {
        elsewhere.class(wnid, tar.clone());
    }
    job.assert_ended(&job.run(), 1, Table::of(39, 0, 1));
    let failures = job.failures();
    assert!(
        failures.len() == 1 && failures[0].starts_with(&tars[0].0),
        "{failures:?}"
    );
}

/// The worker prints once why the coordinator ended, and that it waits.
#[track_caller]
fn assert_says_why_its_coordinator_ended(stderr: &str) {
    let lines = lines_with(stderr, &["has ended: failed to get any class from http://"]);
    assert!(
        lines.len() == 1 && lines[0].contains("WARN") && lines[0].contains("403 Client Error"),
        "the worker prints once why the coordinator ended: {stderr}"
    );
    assert!(
        lines[0].contains("--header-file") && lines[0].contains("waits for the next"),
        "{lines:?}"
    );
}

/// Workers wait for the next start of the coordinator, and then use its login.
#[test]
fn waiting_workers_continue_with_the_login_of_the_next_coordinator() {
    let origin = Origin::start();
    let tars = tars(60);
    for (wnid, _) in &tars {
        origin.class(wnid, Vec::new()).forever(Answer::status(403));
    }
    let address = fixed_address();
    let job = Job::new()
        .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator_at(address);
    let url = format!("http://{address}");
    let mut workers =
        ["w1", "w2"].map(|name| job.start_worker_at(&url, name, 4, job.target_path()));
    job.assert_could_not_run(&coordinator.wait(), &["403 Client Error", "--header-file"]);
    for worker in &mut workers {
        worker.wait_until("it has lost its coordinator", |worker| {
            worker
                .stderr()
                .contains(", trying again until 20")
                .then_some(())
        });
    }
    let requests = origin.all_requests().len();
    assert!(
        (20..=25).contains(&requests),
        "{requests} requests of both workers"
    );

    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    origin.forget_requests();
    let login = job.folder().join("login");
    std::fs::write(&login, "Cookie: session=fresh\n").expect("the folder is writable");
    let login = login.to_str().expect("a plain path").to_owned();
    let job = job.args(["--delete-tar", "--header-file", &login, "--insecure"]);
    let coordinator = job.start_coordinator_at(address);
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_says_why_its_coordinator_ended(&finished.stderr);
    }
    job.assert_ended(&coordinator.wait(), 0, Table::of(60, 0, 0));
    let with_login =
        |request: &tests::origin::Request| request.header("cookie") == Some("session=fresh");
    assert!(
        origin.all_requests().iter().all(with_login),
        "{:#?}",
        origin.all_requests()
    );
}
