//! Redirects that are followed and redirects that are refused (O18, O19; S11, S13).

use tests::{
    answer::Answer,
    archives::assert_class_is,
    cluster::{Job, Table},
    log::assert_lines,
    origin::Origin,
};

use super::{QUICK, WNID, assert_arrives, assert_fails_at_once, class};

/// A job with redirects within the origin, the last of which leads to the tar.
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
    assert_eq!(
        origin.gets(WNID).last().expect("there were requests").path,
        "/hop4/n00000001.tar"
    );
}

#[test]
fn six_hops_and_loops_are_refused() {
    let origin = Origin::start();
    let job = job_behind_hops(&origin, 6);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    let failure = job.failure_of(WNID);
    assert!(
        failure.starts_with("HTTPError: ") && failure.contains("redirect"),
        "{failure}"
    );
    assert_eq!(origin.gets(WNID).len(), 6);

    let origin = Origin::start();
    origin
        .class(WNID, class())
        .forever(Answer::redirect("/n00000001.tar"));
    let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(origin.gets(WNID).len() <= 6, "{:#?}", origin.gets(WNID));
}

/// Private addresses outside the origin's own range.
#[test]
fn private_addresses_in_any_notation_are_refused() {
    for host in [
        "169.254.169.254",
        "10.0.0.1",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
        "[fd00::1]",
        "167772161",
    ] {
        let failure = assert_fails_at_once(
            Answer::redirect(&format!("http://{host}/{WNID}.tar")),
            "HTTPError",
        );
        assert!(
            failure.contains("redirect to another host refused: "),
            "{host}: {failure}"
        );
    }
    assert_fails_at_once(Answer::redirect("file:///etc/passwd"), "HTTPError");
    assert_fails_at_once(Answer::redirect("http://"), "HTTPError");
}

/// A job with secret headers, and with a user and a password in its URL.
fn job_with_secrets(origin: &Origin) -> Job {
    let url = format!("http://user:s3cr3t-p4ss@{}", origin.address());
    let job = Job::new().classes([WNID]).url(&url);
    let secrets = job.folder().join("headers");
    std::fs::write(
        &secrets,
        "X-Token: s3cr3t-t0ken\nCookie: session=s3cr3t-c00kie\n",
    )
    .expect("the folder is ours");
    let secrets = secrets.to_str().expect("a plain path").to_owned();
    job.args(QUICK.into_iter().chain(["--header-file", &secrets]))
}

/// Base64 of `user:s3cr3t-p4ss`.
const AUTHORIZATION: &str = "Basic dXNlcjpzM2NyM3QtcDRzcw==";

/// Another port is another server, and so is another host in the origin's own range.
#[test]
fn a_redirect_to_another_server_is_followed_without_the_origins_secrets() {
    for address in ["127.0.0.1:0", "127.0.0.2:0"] {
        let Ok(other) = Origin::listen(address) else {
            println!("skipped: {address} is no address of this machine");
            continue;
        };
        let origin = Origin::start();
        other.class(WNID, class()).script([Answer::cut_at(50_000)]);
        let there = Answer::redirect(&format!("{}/{WNID}.tar", other.url()))
            .header("Set-Cookie", "at-origin=1; Path=/");
        origin.class(WNID, class()).forever(there);
        let job = job_with_secrets(&origin);
        let finished = job.run();
        job.assert_ended(&finished, 0, Table::of(1, 0, 0));
        assert_class_is(&class(), &job.class_folder(WNID));

        for request in origin.gets(WNID) {
            assert_eq!(request.header("x-token"), Some("s3cr3t-t0ken"));
            assert_eq!(request.header("cookie"), Some("session=s3cr3t-c00kie"));
            assert_eq!(request.header("authorization"), Some(AUTHORIZATION));
        }
        let gets = other.gets(WNID);
        assert_eq!(
            (gets[0].start(), gets[1].start()),
            (0, 50_000),
            "the rest is requested through the same redirects"
        );
        for request in gets {
            let contains = |secret: &str| {
                request
                    .headers
                    .iter()
                    .any(|(_, value)| value.contains(secret))
            };
            assert!(!contains("s3cr3t") && !contains("Basic"), "{request:#?}");
            // Cookies ignore the port (RFC 6265, 8.5).
            assert_eq!(
                request.header("cookie"),
                (address == "127.0.0.1:0").then_some("at-origin=1")
            );
        }
        let log = job.log();
        assert!(!log.is_empty());
        for text in [&log, &finished.stderr, &finished.stdout] {
            assert_lines(text, 0, &["s3cr3t"]);
        }
    }
}

#[test]
fn a_redirect_within_the_origin_keeps_the_secrets() {
    let origin = Origin::start();
    let absolute = Answer::redirect(&format!("{}/moved/{WNID}.tar", origin.url()));
    origin
        .class(WNID, class())
        .script([Answer::redirect(&format!("/hop/{WNID}.tar")), absolute]);
    let job = job_with_secrets(&origin);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let gets = origin.gets(WNID);
    assert_eq!(gets.len(), 3);
    for request in gets {
        assert_eq!(
            request.header("x-token"),
            Some("s3cr3t-t0ken"),
            "{request:#?}"
        );
        assert_eq!(
            request.header("authorization"),
            Some(AUTHORIZATION),
            "{request:#?}"
        );
    }
}

/// Cookies are sent back by path and host, in addition to those of `--header-file`, and are
/// discarded after the request.
#[test]
fn a_cookie_of_a_redirect_comes_back_in_the_same_request() {
    let origin = Origin::start();
    let hop = Answer::redirect(&format!("/gate/{WNID}.tar"))
        .header("Set-Cookie", "pass=7; Path=/")
        .header("Set-Cookie", "gate=8; Path=/gate")
        .header("Set-Cookie", "elsewhere=9; Path=/elsewhere")
        .header("Set-Cookie", "foreign=11; Domain=other.test; Path=/")
        .header("Set-Cookie", "gone=12; Path=/; Max-Age=0")
        .header("Set-Cookie", "=; no cookie");
    let last = Answer::redirect(&format!("/{WNID}.tar")).header("Set-Cookie", "pass=70; Path=/");
    origin
        .class(WNID, class())
        .script([hop, last, Answer::cut_at(50_000)]);
    let job = job_with_secrets(&origin);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let cookies: Vec<Vec<String>> = origin
        .gets(WNID)
        .iter()
        .map(|get| {
            let mut cookies: Vec<_> = get
                .header("cookie")
                .unwrap_or_default()
                .split("; ")
                .map(str::to_owned)
                .collect();
            cookies.sort();
            cookies
        })
        .collect();
    let session = "session=s3cr3t-c00kie";
    assert_eq!(
        cookies,
        [
            &[session][..],
            &["gate=8", "pass=7", session],
            &["pass=70", session],
            &[session]
        ]
    );
}

#[test]
fn a_location_may_hold_spaces_letters_of_any_language_and_a_fragment() {
    for (location, path) in [
        ("/with space/n00000001.tar", "/with%20space/n00000001.tar"),
        (
            "/f\u{fc}r alle/n00000001.tar#part",
            "/f%C3%BCr%20alle/n00000001.tar",
        ),
        (
            "hop/n00000001.tar?a=\u{e9} b",
            "/hop/n00000001.tar?a=%C3%A9%20b",
        ),
        ("/[x]|^{y}/n00000001.tar", "/[x]|^%7By%7D/n00000001.tar"),
    ] {
        let gets = assert_arrives(&class(), [Answer::redirect(location)], &QUICK);
        let paths: Vec<&str> = gets.iter().map(|get| get.path.as_str()).collect();
        assert_eq!(paths, ["/n00000001.tar", path]);
    }
}
