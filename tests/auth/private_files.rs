//! Secrets on a host with several users: which programs receive a join token, which users can read
//! the files of secrets, and where secrets remain in memory.

use std::{
    fs::Permissions,
    io::{Read as _, Seek as _, SeekFrom},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use tests::{
    cluster::Job,
    log::{has_line, lines_with},
    running::Running,
    wait::wait_until,
};

use super::{Cluster, text};

/// The words between two strings.
pub(crate) fn between<'text>(text: &'text str, before: &str, after: &str) -> Vec<&'text str> {
    let found = text
        .split_once(before)
        .and_then(|(_, rest)| rest.split_once(after));
    let (words, _) =
        found.unwrap_or_else(|| panic!("nothing between {before:?} and {after:?} in {text}"));
    words.split_whitespace().collect()
}

/// A file of request headers, which the programs treat as secret.
pub(crate) fn header_file(job: &Job) -> String {
    let path = job.folder().join("headers");
    std::fs::write(&path, "X-Key: s3cr3t-h3ader\n").expect("the folder is ours");
    set_mode(&path, 0o600);
    text(&path)
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("the file is ours");
}

#[test]
fn a_join_token_is_sent_in_plaintext_to_this_machine_only_with_a_flag() {
    let cluster = Cluster::of(1);
    // A program of another user, at the address where the coordinator would listen.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let connect = format!("http://{}", listener.local_addr().expect("it is bound"));
    let tokens = ["worker.token", "admin.token"].map(|name| cluster.path(name));
    let [worker, admin] = tokens
        .each_ref()
        .map(|token| ["--connect", &connect, "--token-file", token]);
    let words = [
        "any user of this machine can listen",
        "give --connect https://",
        "--insecure",
    ];
    for _ in 0..5 {
        cluster
            .job
            .assert_could_not_run(&cluster.job.start_worker_with(worker).wait(), &words);
    }
    for command in [&["status"][..], &["retry"], &["drain", "w1"]] {
        let finished = cluster
            .job
            .start_with(command.iter().copied().chain(admin))
            .wait();
        cluster.job.assert_could_not_run(&finished, &words);
    }
    listener.set_nonblocking(true).expect("a plain listener");
    assert!(listener.accept().is_err(), "nothing was sent");

    listener.set_nonblocking(false).expect("a plain listener");
    let accepted = cluster
        .job
        .start_worker_with(worker.into_iter().chain(["--insecure"]));
    let (mut connection, _) = listener
        .accept()
        .expect("with the flag the worker connects");
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a valid time");
    assert!(
        connection.read(&mut [0; 24]).is_ok_and(|length| length > 0),
        "the worker sends data"
    );
    accepted.kill();
}

/// Starts the coordinator with the files of `init` and a header file.
fn start(cluster: &Cluster) -> Running {
    let csv = text(&cluster.job.folder().join("data.csv"));
    let files = ["server.pem", "server.key", "tokens"].map(|name| cluster.path(name));
    let [certificate, key, tokens] = &files;
    let headers = header_file_path(cluster);
    cluster.job.start_with([
        "--fname",
        &csv,
        "--target",
        ".",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--tls-cert",
        certificate,
        "--tls-key",
        key,
        "--token-file",
        tokens,
        "--header-file",
        &headers,
    ])
}

pub(crate) fn header_file_path(cluster: &Cluster) -> String {
    text(&cluster.job.folder().join("headers"))
}

/// Starts the coordinator, and returns what it prints before it listens.
fn output_at_start(cluster: &Cluster) -> String {
    let mut coordinator = start(cluster);
    coordinator.wait_until("it listens", |running| {
        running.stderr().contains("listening on ").then_some(())
    });
    let output = coordinator.stderr();
    coordinator.kill();
    output
}

#[test]
fn secret_files_that_every_user_can_read_cause_a_warning_and_writable_ones_are_rejected() {
    let cluster = Cluster::of(1);
    header_file(&cluster.job);
    let output = output_at_start(&cluster);
    assert!(!output.contains("every user"), "{output}");
    let headers = header_file_path(&cluster);
    for file in [cluster.path("tokens"), cluster.path("server.key"), headers] {
        let path = Path::new(&file);
        set_mode(path, 0o644);
        let output = output_at_start(&cluster);
        let lines = lines_with(&output, &["every user of this machine"]);
        let [line] = lines.as_slice() else {
            panic!("expected one line: {lines:?}")
        };
        assert!(
            line.contains("WARN") && line.contains(&format!("can read the secret in {file}")),
            "{line}"
        );
        let command = between(line, "run `", "`");
        let done = std::process::Command::new(command[0])
            .args(&command[1..])
            .status()
            .expect("chmod can be run");
        assert!(done.success(), "{command:?}");
        assert!(
            !output_at_start(&cluster).contains("every user"),
            "the suggested command is sufficient"
        );

        set_mode(path, 0o666);
        let refused = start(&cluster).wait();
        let words = [format!(
            "use {file}: every user of this machine can change it; run `chmod o-w {file}`"
        )];
        cluster
            .job
            .assert_could_not_run(&refused, &words.each_ref().map(String::as_str));
        set_mode(path, 0o600);
    }
    // A certificate is not secret, but it decides which server the workers trust.
    set_mode(&cluster.file("server.pem"), 0o646);
    cluster.job.assert_could_not_run(
        &start(&cluster).wait(),
        &["server.pem: every user of this machine can change it"],
    );
}

#[test]
fn the_same_rules_apply_to_a_workers_files() {
    let cluster = Cluster::of(1);
    let token = cluster.path("worker.token");
    let args = ["--connect", "https://127.0.0.1:1", "--token-file", &token];
    set_mode(&cluster.file("worker.token"), 0o644);
    let mut worker = cluster.job.start_worker_with(args);
    let warning = format!(
        "every user of this machine can read the secret in {token}; run `chmod o= {token}`"
    );
    worker.wait_until("it warns", |worker| {
        worker.stderr().contains(&warning).then_some(())
    });
    worker.kill();
    let status = cluster
        .job
        .start_with(["status"].into_iter().chain(args))
        .wait();
    assert!(
        status.stderr.contains(&format!("warning: {warning}")),
        "{}",
        status.stderr
    );
    set_mode(&cluster.file("worker.token"), 0o622);
    let refused = cluster.job.start_worker_with(args).wait();
    cluster.job.assert_could_not_run(
        &refused,
        &["every user of this machine can change it; run `chmod o-w "],
    );
}

/// The soft limit on the size of a core dump.
fn core_limit(process: u32) -> Option<String> {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))?;
    line.split_whitespace().nth(4).map(str::to_owned)
}

#[test]
fn a_crash_leaves_no_core_dump_and_the_coordinators_memory_holds_no_token() {
    let cluster = Cluster::of(1);
    header_file(&cluster.job);
    let secrets = ["worker.token", "viewer.token", "admin.token"].map(|name| cluster.secret(name));
    // The test starts with an unlimited core size.
    let mut unlimited = std::process::Command::new("sh");
    let csv = text(&cluster.job.folder().join("data.csv"));
    let tokens = cluster.path("tokens");
    unlimited.args(["-c", "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$@\"", "sh"]);
    unlimited.arg(tests::programs::program("coordinator"));
    unlimited.args([
        "--fname",
        &csv,
        "--target",
        ".",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]);
    unlimited.args(["--token-file", &tokens]);
    let mut coordinator = cluster.job.start_program(unlimited);
    coordinator.wait_until("it listens", |running| {
        running.stderr().contains("listening on ").then_some(())
    });
    assert_eq!(core_limit(coordinator.id()).as_deref(), Some("0"));
    let Some(memory) = memory_of(coordinator.id()) else {
        println!("skipped: the memory of another process cannot be read here");
        return;
    };
    // The path of the token file is in memory, which shows that the search works.
    assert!(holds(&memory, tokens.as_bytes()));
    for secret in &secrets {
        let (_, random) = secret.rsplit_once('.').expect("a token has parts");
        assert!(
            !holds(&memory, random.as_bytes()),
            "a token is in the coordinator's memory"
        );
    }
    // A former token is not in memory either, after the file was replaced.
    let tokens = cluster.file("tokens");
    let former = "former-token-0123456789";
    std::fs::write(&tokens, format!("worker {former}\n")).expect("the folder is ours");
    let reloaded = || has_line(&cluster.job.log(), &["the new content is in use"]);
    assert!(
        wait_until(Duration::from_secs(20), || reloaded().then_some(())).is_some(),
        "the file is read again"
    );
    let memory = memory_of(coordinator.id()).expect("the memory was readable before");
    assert!(
        !holds(&memory, former.as_bytes()),
        "a token is in the coordinator's memory"
    );
    coordinator.kill();
}

fn holds(memory: &[Vec<u8>], wanted: &[u8]) -> bool {
    memory
        .iter()
        .any(|region| region.windows(wanted.len()).any(|found| found == wanted))
}

/// What a core dump would contain: all private writable memory of a process.
fn memory_of(process: u32) -> Option<Vec<Vec<u8>>> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    let mut file = std::fs::File::open(format!("/proc/{process}/mem")).ok()?;
    let regions = maps.lines().filter(|line| line.contains(" rw-p "));
    let read = regions.filter_map(|line| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let from = u64::from_str_radix(from, 16).ok()?;
        let length = u64::from_str_radix(to, 16).ok()?.checked_sub(from)?;
        file.seek(SeekFrom::Start(from)).ok()?;
        let mut bytes = Vec::new();
        // Reading ends at a guard page.
        drop(file.by_ref().take(length).read_to_end(&mut bytes));
        Some(bytes)
    });
    let regions: Vec<Vec<u8>> = read.collect();
    (!regions.is_empty()).then_some(regions)
}
