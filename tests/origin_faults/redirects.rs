//! Where an origin may send us, and where not (O18, O19; S11, S13).

use tests::{
    answer::Answer,
    archives::assert_class_is,
    cluster::{Job, Table},
    origin::Origin,
};

use super::{QUICK, WNID, assert_fails_at_once, class};

/// Hops within the origin, the last of which leads to the tar.
fn job_behind_hops(origin: &Origin, hops: usize) -> Job {
    let script = (0..hops).map(|hop| Answer::redirect(&format!("/hop{hop}/{WNID}.tar")));
    origin.class(WNID, class()).script(script);
    Job::new().classes([WNID]).origin(origin).args(QUICK)
}

#[test]
fn five_hops_are_followed() {
    let origin = Origin::start();
    let job = job_behind_hops(&origin, 5);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&class(), &job.class_folder(WNID));
    assert_eq!(origin.gets(WNID).last().expect("there were requests").path, "/hop4/n00000001.tar");
}

#[test]
fn six_hops_and_loops_are_refused() {
    let origin = Origin::start();
    let job = job_behind_hops(&origin, 6);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    let failure = job.failure_of(WNID);
    assert!(failure.starts_with("HTTPError: ") && failure.contains("redirect"), "{failure}");
    assert_eq!(origin.gets(WNID).len(), 6);

    let origin = Origin::start();
    origin.class(WNID, class()).forever(Answer::redirect("/n00000001.tar"));
    let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(origin.gets(WNID).len() <= 6, "{:#?}", origin.gets(WNID));
}

#[test]
fn another_host_is_refused_named_and_never_asked() {
    let Ok(other) = Origin::listen("127.0.0.2:0") else {
        println!("skipped: 127.0.0.2 is no address of this machine");
        return;
    };
    other.class(WNID, class());
    let failure = assert_fails_at_once(Answer::redirect(&format!("{}/{WNID}.tar", other.url())), "HTTPError");
    assert!(failure.contains("127.0.0.2"), "{failure}");
    assert_eq!((other.all_requests().len(), other.most_connections()), (0, 0), "no packet went there");
}

#[test]
fn private_addresses_in_any_dress_are_refused() {
    for host in ["169.254.169.254", "10.0.0.1", "[::ffff:10.0.0.1]", "[::1]", "localhost", "0.0.0.0", "2130706434"] {
        let failure = assert_fails_at_once(Answer::redirect(&format!("http://{host}/{WNID}.tar")), "HTTPError");
        assert!(failure.contains("redirect"), "{host}: {failure}");
    }
    assert_fails_at_once(Answer::redirect("file:///etc/passwd"), "HTTPError");
}

#[test]
fn secret_headers_reach_the_origin_and_nobody_else() {
    let origin = Origin::start();
    // The same host, but another port is another server.
    let other = Origin::start();
    other.class(WNID, class());
    origin.class(WNID, class()).forever(Answer::redirect(&format!("{}/{WNID}.tar", other.url())));
    let job = Job::new().classes([WNID]).origin(&origin);
    let secrets = job.folder().join("headers");
    std::fs::write(&secrets, "Authorization: Bearer s3cr3t-t0ken\nCookie: session=s3cr3t-c00kie\n").unwrap();
    let secrets = secrets.to_str().expect("a plain path").to_owned();
    let job = job.args(QUICK.into_iter().chain(["--header-file", &secrets]));
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(0, 0, 1));
    let first = &origin.gets(WNID)[0];
    assert_eq!(first.header("authorization"), Some("Bearer s3cr3t-t0ken"));
    assert_eq!(first.header("cookie"), Some("session=s3cr3t-c00kie"));
    for request in other.all_requests() {
        assert!(request.headers.iter().all(|(_, value)| !value.contains("s3cr3t")), "{request:#?}");
    }
    let log = std::fs::read_to_string(job.target_path().join("imagenet_downloader.log")).unwrap();
    for text in [&log, &finished.stderr, &finished.stdout, &job.failures().concat()] {
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}
