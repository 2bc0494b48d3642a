//! Invalid flags, and all forms of URLs (D9).

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
};

const WNID: &str = "n00000001";

#[test]
fn invalid_flags_are_rejected_by_name() {
    let origin = Origin::start();
    for (args, word) in [
        (&["--workers", "0"][..], "--workers"),
        (&["--workers=-1"], "--workers"),
        (&["--workers", "many"], "--workers"),
        (&["--timeout", "soon"], "--timeout"),
        (&["--timeout", "0s"], "--timeout"),
        (&["--retries=-1"], "--retries"),
        (&["--existing", "delete"], "--existing"),
        (&["--durability", "magic"], "--durability"),
        (&["--max-rate", "fast"], "--max-rate"),
        (&["--max-connections", "0"], "--max-connections"),
        (&["--lease-ttl", "0s"], "--lease-ttl"),
        (&["--http", "nowhere"], "--http"),
        (
            &["--http", "localhost:0"],
            "it takes an IP address and a port, like 127.0.0.1:8080",
        ),
        (
            &["--http", ":8080"],
            "it takes an IP address and a port, like 127.0.0.1:8080",
        ),
        (
            &["--listen", "foo:1"],
            "it takes an IP address and a port, like 127.0.0.1:8080",
        ),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let job = Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(args.iter().copied());
        job.assert_could_not_run(&job.run(), &[word]);
    }
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn a_boolean_variable_with_another_value_is_rejected() {
    let origin = Origin::start();
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .variable("IMAGENET_DELETE_TAR", "vielleicht");
    job.assert_could_not_run(
        &job.run(),
        &["'vielleicht' for '--delete-tar': it is neither yes nor no"],
    );
    let job = Job::new().variable("IMAGENET_JSON", "2");
    let status = job.start_with(["status"]).wait();
    job.assert_could_not_run(
        &status,
        &["'2' for '--json': it is neither yes nor no; give true or false"],
    );
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn files_named_by_flags_must_exist_and_be_valid() {
    let origin = Origin::start();
    let job = Job::new().classes([WNID]).origin(&origin);
    let junk = job.folder().join("junk");
    std::fs::write(&junk, "no header\nand no certificate\n").unwrap();
    let junk = junk.to_str().expect("a plain path").to_owned();
    let job = job.args(["--header-file", "/nowhere/headers"]);
    job.assert_could_not_run(&job.run(), &["/nowhere/headers"]);
    let job = job.args(["--header-file", &junk]);
    job.assert_could_not_run(&job.run(), &[&junk]);
    let job = job.args(["--cacert", "/nowhere/ca.pem"]);
    job.assert_could_not_run(&job.run(), &["/nowhere/ca.pem"]);
    let job = job.args(["--cacert", &junk]);
    job.assert_could_not_run(&job.run(), &[]);
}

#[test]
fn an_invalid_url_is_rejected() {
    for url in [
        "image-net.org/data",
        "",
        "ftp://127.0.0.1/",
        "file:///etc",
        "http://",
        "http://h/x?key=1",
        "http://{wnid}.h/",
        "http://h/{wind}.tar",
    ] {
        let job = Job::new().classes([WNID]).url(url);
        job.assert_could_not_run(&job.run(), &["url"]);
    }
}

#[test]
fn a_url_may_end_in_slashes_have_a_path_or_be_a_template() {
    let origin = Origin::start();
    let tar = images(WNID, 2, 100..900, 1);
    origin.class(WNID, tar.clone());
    for (tail, path) in [
        ("", "/n00000001.tar"),
        ("/", "/n00000001.tar"),
        ("/data/winter21_whole", "/data/winter21_whole/n00000001.tar"),
        ("/data//", "/data/n00000001.tar"),
        ("/get/{wnid}.tar?key=1", "/get/n00000001.tar?key=1"),
    ] {
        origin.forget_requests();
        let job = Job::new()
            .classes([WNID])
            .url(&format!("{}{tail}", origin.url()))
            .args(["--delete-tar"]);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(origin.gets(WNID)[0].path, path);
    }
}

#[test]
fn an_origin_may_have_an_ipv6_address() {
    let Ok(origin) = Origin::listen("[::1]:0") else {
        println!("skipped: this machine has no IPv6");
        return;
    };
    let tar = images(WNID, 2, 100..900, 1);
    origin.class(WNID, tar.clone());
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
}

#[test]
fn credentials_in_a_url_are_used_and_never_shown() {
    let origin = Origin::start();
    origin.class(WNID, images(WNID, 2, 100..900, 1));
    let url = origin.url().replace("http://", "http://user:s3cr3t@");
    let job = Job::new()
        .classes([WNID, "n99999999"])
        .url(&url)
        .args(["--delete-tar"]);
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(1, 0, 1));
    // Base64 of `user:s3cr3t`.
    assert_eq!(
        origin.gets(WNID)[0].header("authorization"),
        Some("Basic dXNlcjpzM2NyM3Q=")
    );
    let read =
        |name: &str| std::fs::read_to_string(job.target_path().join(name)).unwrap_or_default();
    let manifest = read("n00000001/.manifest.json");
    for text in [
        read("imagenet_downloader.log"),
        read("failed_downloads.log"),
        manifest,
        finished.stderr,
    ] {
        assert!(
            !text.contains("s3cr3t") && !text.contains("dXNlcjpzM2NyM3Q"),
            "{text}"
        );
    }
}

#[test]
fn a_worker_without_connect_is_an_error() {
    let job = Job::new();
    job.assert_could_not_run(&job.start_worker_with([]).wait(), &["--connect"]);
    job.assert_could_not_run(
        &job.start_worker_with(["--connect", "nonsense"]).wait(),
        &["connect"],
    );
}
