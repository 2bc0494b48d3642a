//! TLS certificates: an invalid one fails the class at once, with a clear message (O20).

use tests::{
    answer::Answer,
    archives::assert_class_is,
    cluster::{Job, Table},
    log::assert_lines,
    origin::Origin,
    tls_front::{Certificate, TlsFront, authority, self_signed},
};

use super::{QUICK, WNID, class};

fn run(certificate: Certificate, trusts_authority: bool) -> (Origin, Job, Option<i32>) {
    let origin = Origin::start();
    origin.class(WNID, class());
    let front = TlsFront::start(origin.address(), certificate);
    let authority = authority().to_str().expect("a plain path").to_owned();
    let trust = if trusts_authority {
        vec!["--cacert", &authority]
    } else {
        vec![]
    };
    let job = Job::new()
        .classes([WNID])
        .url(&front.url())
        .args(QUICK.into_iter().chain(trust));
    let finished = job.run();
    let table = if finished.code == Some(0) {
        Table::of(1, 0, 0)
    } else {
        Table::of(0, 0, 1)
    };
    job.assert_ended(&finished, finished.code.unwrap_or(-1), table);
    (origin, job, finished.code)
}

#[test]
fn a_configured_authority_is_trusted() {
    let (_origin, job, code) = run(Certificate::Valid, true);
    assert_eq!(code, Some(0), "{:?}", job.failures());
    assert_class_is(&class(), &job.class_folder(WNID));
}

#[test]
fn unknown_expired_and_foreign_certificates_are_rejected() {
    for (certificate, trusted) in [
        (Certificate::Valid, false),
        (Certificate::Expired, true),
        (Certificate::WrongName, true),
    ] {
        let (origin, job, code) = run(certificate, trusted);
        assert_eq!(code, Some(1), "{certificate:?}");
        let failure = job.failure_of(WNID);
        assert!(
            failure.starts_with("ConnectionError: certificate refused: "),
            "{failure}"
        );
        let log = job.log();
        assert!(!log.is_empty());
        assert_lines(&log, 0, &["trying again"]);
        assert_eq!(
            origin.all_requests().len(),
            0,
            "a server with an invalid certificate gets no request"
        );
    }
}

#[test]
fn plain_http_behind_https_is_a_connection_error() {
    let origin = Origin::start();
    origin.class(WNID, class());
    let job = Job::new()
        .classes([WNID])
        .url(&format!("https://{}", origin.address()));
    // A long timeout, so that a busy machine does not turn the error into a timeout.
    let job = job.args(["--retries", "0", "--timeout", "20s"]);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(
        job.failure_of(WNID).starts_with("ConnectionError: "),
        "{:?}",
        job.failures()
    );
}

#[test]
fn authorities_are_needed_only_for_https() {
    let origin = Origin::start();
    origin.class(WNID, class());
    let without = |url: &str| {
        let job = Job::new().classes([WNID]).url(url).args(QUICK);
        job.variable("SSL_CERT_FILE", "/nowhere")
            .variable("SSL_CERT_DIR", "/nowhere")
    };
    let job = without(&format!("http://{}", origin.address()));
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let job = without("https://127.0.0.1:9");
    job.assert_could_not_run(
        &job.run(),
        &["on a system without CA certificates give --cacert"],
    );
}

/// A job behind TLS that trusts the certificates in this bundle.
fn job_that_trusts(front: &TlsFront, bundle: impl AsRef<[u8]>) -> Job {
    let job = Job::new().classes([WNID]).url(&front.url());
    let path = job.folder().join("bundle.pem");
    std::fs::write(&path, bundle).expect("the folder is ours");
    let path = path.to_str().expect("a plain path").to_owned();
    job.args(QUICK.into_iter().chain(["--cacert", &path]))
}

/// As curl and wget do: a certificate of `openssl req -x509` claims to be a CA.
#[test]
fn a_self_signed_certificate_is_trusted_if_configured() {
    let origin = Origin::start();
    origin.class(WNID, class());
    let front = TlsFront::start(origin.address(), Certificate::SelfSigned);
    let named = std::fs::read(self_signed()).expect("the certificate is in the repository");
    let job = job_that_trusts(&front, named);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&class(), &job.class_folder(WNID));

    let other_name = format!(
        "https://localhost:{}",
        front.url().rsplit(':').next().expect("the URL has a port")
    );
    std::fs::remove_dir_all(job.class_folder(WNID)).expect("the class exists");
    let job = job.url(&other_name);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(
        job.failure_of(WNID).contains("certificate refused"),
        "{:?}",
        job.failures()
    );

    let authority = std::fs::read(authority()).expect("the certificate is in the repository");
    let job = job_that_trusts(&front, authority);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
}

#[test]
fn a_bundle_in_any_supported_encoding_is_used_and_others_are_rejected_with_a_message() {
    let origin = Origin::start();
    origin.class(WNID, class());
    let front = TlsFront::start(origin.address(), Certificate::Valid);
    let [authority, other] =
        [authority(), self_signed()].map(|path| std::fs::read_to_string(path).unwrap());
    for bundle in [
        format!("\u{feff}{authority}"),
        format!("{other}\n# the authority\n{authority}").replace('\n', "\r\n"),
        format!("{other}{authority}").replace('\n', "\r"),
        format!("{}{authority}", other.trim_end()),
    ] {
        let job = job_that_trusts(&front, bundle);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    }
    let requests = origin.all_requests().len();
    let trusted = authority.replace("CERTIFICATE-----", "TRUSTED CERTIFICATE-----");
    let job = job_that_trusts(&front, format!("{other}{trusted}"));
    job.assert_could_not_run(
        &job.run(),
        &["--cacert", "TRUSTED CERTIFICATE", "openssl x509"],
    );
    let job = job_that_trusts(&front, format!("{authority}{}", &other[..other.len() / 2]));
    job.assert_could_not_run(&job.run(), &["--cacert", "damaged"]);
    assert_eq!(origin.all_requests().len(), requests);
}

/// Without a length the end of the connection ends the body; without `close_notify` it may be a
/// truncation.
#[test]
fn a_connection_without_close_notify_is_complete_if_the_tar_ends_there() {
    for (answers, requests) in [
        (vec![Answer::plain().without_length()], 1),
        (vec![Answer::plain().chunked().hanging_up()], 1),
        (
            vec![
                Answer::cut_at(50_000).without_length(),
                Answer::plain().without_length(),
            ],
            2,
        ),
        // With chunked coding the end is known, so an earlier end is a cut.
        (vec![Answer::cut_at(50_000).chunked(), Answer::plain()], 2),
    ] {
        let origin = Origin::start();
        origin.class(WNID, class()).script(answers);
        let front = TlsFront::start_without_close_notify(origin.address(), Certificate::Valid);
        let job = job_that_trusts(&front, std::fs::read(authority()).unwrap());
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&class(), &job.class_folder(WNID));
        assert_eq!(
            origin.gets(WNID).len(),
            requests,
            "{:#?}",
            origin.gets(WNID)
        );
    }
}
