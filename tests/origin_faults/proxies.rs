//! Origins behind a forward proxy.

use tests::{
    answer::Answer,
    archives::assert_class_is,
    cluster::{Job, Table},
    forward_proxy::ForwardProxy,
    origin::Origin,
};

use super::{QUICK, WNID, class};

/// The user configures the proxy, so it may have a private address, unlike a redirect target.
#[test]
fn a_proxy_at_a_private_address_reaches_an_origin_whose_name_only_it_resolves() {
    let origin = Origin::start();
    for host in ["localhost", "127.0.0.1"] {
        origin.class(WNID, class()).script([Answer::cut_at(50_000)]);
        let authority = format!("origin.test:{}", origin.address().port());
        let proxy = ForwardProxy::start(&[(&authority, origin.address())]);
        let job = Job::new()
            .classes([WNID])
            .url(&format!("http://{authority}"))
            .args(QUICK);
        let job = job.variable("http_proxy", &format!("http://{host}:{}", proxy.port()));
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&class(), &job.class_folder(WNID));
        let request = format!("GET http://{authority}/{WNID}.tar HTTP/1.1");
        assert_eq!(proxy.request_lines(), [request.clone(), request], "{host}");
    }
    assert!(
        origin.gets(WNID)[1].start() > 0,
        "the download resumed through the proxy"
    );
}

/// Only the proxy resolves names, so a redirect is refused only if its host is a private address or
/// a name such as `localhost`.
#[test]
fn a_redirect_to_another_host_goes_through_the_proxy_without_the_origins_secrets() {
    let origin = Origin::start();
    let other = Origin::start();
    origin
        .class(WNID, class())
        .forever(Answer::redirect(&format!("http://cdn.test/{WNID}.tar")));
    other.class(WNID, class()).script([Answer::cut_at(50_000)]);
    let proxy = ForwardProxy::start(&[
        ("origin.test", origin.address()),
        ("cdn.test", other.address()),
    ]);
    let job = Job::new().classes([WNID]).url("http://origin.test");
    let secrets = job.folder().join("headers");
    std::fs::write(
        &secrets,
        "X-Token: s3cr3t\nCookie: session=s3cr3t\nAuthorization: s3cr3t\n",
    )
    .unwrap();
    let secrets = secrets.to_str().expect("a plain path").to_owned();
    let job = job.args(QUICK.into_iter().chain(["--header-file", &secrets]));
    let job = job.variable("http_proxy", &format!("http://127.0.0.1:{}", proxy.port()));
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&class(), &job.class_folder(WNID));
    assert_eq!(origin.gets(WNID)[0].header("x-token"), Some("s3cr3t"));
    for request in other.gets(WNID) {
        assert!(
            request
                .headers
                .iter()
                .all(|(_, value)| !value.contains("s3cr3t")),
            "{request:#?}"
        );
    }

    for host in [
        "localhost",
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
        "10.0.0.1",
    ] {
        origin
            .class(WNID, class())
            .forever(Answer::redirect(&format!("http://{host}/{WNID}.tar")));
        std::fs::remove_dir_all(job.class_folder(WNID)).ok();
        job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
        let failure = job.failure_of(WNID);
        assert!(
            failure.contains(&format!("redirect to another host refused: {host}")),
            "{failure}"
        );
        assert!(
            proxy
                .request_lines()
                .iter()
                .all(|line| !line.contains(host)),
            "{:#?}",
            proxy.request_lines()
        );
    }
}

#[test]
fn an_unusable_proxy_ends_the_program_before_the_first_class() {
    let origin = Origin::start();
    origin.class(WNID, class());
    for (variable, value, words) in [
        (
            "all_proxy",
            "socks5h://127.0.0.1:1080",
            "all_proxy: only http:// and https:// proxies are supported",
        ),
        (
            "HTTP_PROXY",
            "socks4://u:s3cr3t@h:1",
            "HTTP_PROXY: only http:// and https:// proxies are supported",
        ),
        (
            "http_proxy",
            "http://h:port",
            "http_proxy: its value is not of the form http://host:port",
        ),
    ] {
        let job = Job::new()
            .classes([WNID])
            .url("http://origin.test")
            .args(QUICK)
            .variable(variable, value);
        let finished = job.run();
        job.assert_could_not_run(&finished, &[words]);
        assert!(!finished.stderr.contains("s3cr3t"), "{}", finished.stderr);
        assert!(job.failures().is_empty(), "{:?}", job.failures());
        // A proxy setting that does not apply to the request is ignored.
        let job = Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(QUICK)
            .variable(variable, value);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    }
}

#[test]
fn a_cookie_for_tls_is_not_sent_in_plain() {
    let origin = Origin::start();
    let hop = Answer::redirect(&format!("/moved/{WNID}.tar"));
    let hop = hop
        .header("Set-Cookie", "tls=1; Path=/; Secure")
        .header("Set-Cookie", "plain=2; Path=/");
    origin.class(WNID, class()).script([hop]);
    let proxy = ForwardProxy::start(&[("origin.test", origin.address())]);
    let job = Job::new()
        .classes([WNID])
        .url("http://origin.test")
        .args(QUICK);
    let job = job.variable("http_proxy", &format!("http://127.0.0.1:{}", proxy.port()));
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_eq!(origin.gets(WNID)[1].header("cookie"), Some("plain=2"));
}
