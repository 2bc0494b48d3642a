//! Certificates: one that does not prove the origin ends the class at once, in clear words (O20).

use tests::{
    archives::assert_class_is,
    cluster::{Job, Table},
    origin::Origin,
    tls_front::{Certificate, TlsFront, authority},
};

use super::{QUICK, WNID, class};

fn run(certificate: Certificate, trusts_authority: bool) -> (Origin, Job, Option<i32>) {
    let origin = Origin::start();
    origin.class(WNID, class());
    let front = TlsFront::start(origin.address(), certificate);
    let authority = authority().to_str().expect("a plain path").to_owned();
    let trust = if trusts_authority { vec!["--cacert", &authority] } else { vec![] };
    let job = Job::new().classes([WNID]).url(&front.url()).args(QUICK.into_iter().chain(trust));
    let finished = job.run();
    let table = if finished.code == Some(0) { Table::of(1, 0, 0) } else { Table::of(0, 0, 1) };
    job.assert_ended(&finished, finished.code.unwrap_or(-1), table);
    (origin, job, finished.code)
}

#[test]
fn an_authority_of_ones_own_is_believed() {
    let (_origin, job, code) = run(Certificate::Valid, true);
    assert_eq!(code, Some(0), "{:?}", job.failures());
    assert_class_is(&class(), &job.class_folder(WNID));
}

#[test]
fn unknown_expired_and_foreign_certificates_are_refused() {
    for (certificate, trusted) in
        [(Certificate::Valid, false), (Certificate::Expired, true), (Certificate::WrongName, true)]
    {
        let (origin, job, code) = run(certificate, trusted);
        assert_eq!(code, Some(1), "{certificate:?}");
        let failure = job.failure_of(WNID);
        assert!(failure.starts_with("ConnectionError: certificate refused: "), "{failure}");
        let log = std::fs::read_to_string(job.target_path().join("imagenet_downloader.log")).expect("there is a log");
        assert!(!log.contains("trying again"), "it will not be better the next time: {log}");
        assert_eq!(origin.all_requests().len(), 0, "nothing is said to a server that did not prove itself");
    }
}

#[test]
fn plain_http_behind_https_is_a_connection_error() {
    let origin = Origin::start();
    origin.class(WNID, class());
    let job = Job::new().classes([WNID]).url(&format!("https://{}", origin.address()));
    // A busy machine must not make a timeout of it.
    let job = job.args(["--retries", "0", "--timeout", "20s"]);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(job.failure_of(WNID).starts_with("ConnectionError: "), "{:?}", job.failures());
}

#[test]
fn authorities_are_needed_for_https_alone() {
    let origin = Origin::start();
    origin.class(WNID, class());
    let without = |url: &str| {
        let job = Job::new().classes([WNID]).url(url).args(QUICK);
        job.variable("SSL_CERT_FILE", "/nowhere").variable("SSL_CERT_DIR", "/nowhere")
    };
    let job = without(&format!("http://{}", origin.address()));
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let job = without("https://127.0.0.1:9");
    job.assert_could_not_run(&job.run(), &["on a system without CA certificates give --cacert"]);
}
