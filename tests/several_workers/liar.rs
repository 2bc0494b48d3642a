//! A worker does not trust its coordinator. With any answers from the coordinator, the worker
//! connects to no forbidden address, does not spin, panic or use unbounded memory, and prints no
//! control characters.

use std::{fs, net::Ipv4Addr, path::Path, thread, time::Duration};

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::Job,
    hosts::{Host, Network},
    memory,
    origin::Origin,
    running::Running,
    wait::wait_until,
};

use crate::{
    lies::{Lies, STEERS},
    scripted::{Pace, Scripted, lease},
};

const WNID: &str = "n00000001";
/// Time for which the worker is measured with each false answer.
const MEASURED: Duration = Duration::from_millis(1500);
/// Maximum number of calls of all kinds in that time: ten renewals and ten `Acquire` calls per
/// second, and some more.
const MAX_CALLS: usize = 60;
/// Maximum CPU time of a debug build that decodes 1 MB in each answer.
const MAX_CPU: Duration = Duration::from_millis(1200);
/// Maximum peak memory, in bytes.
const MAX_MEMORY: u64 = 128 << 20;
/// The expected behaviour of a worker after a false answer of its coordinator.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// The worker continues, within the limits.
    Continues,
    /// The worker ends with exit code 2 and one error message that contains this text.
    Ends(&'static str),
}
use Expected::{Continues, Ends};

fn headers(count: usize, bytes: usize) -> Lies {
    let header = move |number| proto::Header {
        name: format!("A{number}"),
        value: vec![b'b'; bytes],
    };
    Lies::in_the_job(move |job| job.headers = (0..count).map(header).collect())
}

fn status() -> proto::JobStatus {
    let most = u64::MAX;
    proto::JobStatus {
        total: most,
        success: most,
        skipped: most,
        failed: most,
        leased: most,
        pending: most,
        workers: u32::MAX,
        received_bytes: most,
        done: false,
        time_left_ms: Some(most),
    }
}

fn held(count: u64) -> Vec<proto::Held> {
    (0..count)
        .map(|token| proto::Held {
            token,
            ..proto::Held::default()
        })
        .collect()
}

fn wnids(count: u32) -> Vec<String> {
    (1..=count).map(|number| format!("n{number:08}")).collect()
}

/// False durations, epochs and sessions.
fn lies_about_the_session() -> Vec<(&'static str, Lies, Expected)> {
    vec![
        (
            "the longest renewal interval",
            Lies::in_registrations(|reply| reply.renew_ms = u64::MAX),
            Continues,
        ),
        (
            "a renewal interval of 0 ms",
            Lies::in_registrations(|reply| reply.renew_ms = 0),
            Continues,
        ),
        (
            "a renewal interval of 1 ms",
            Lies::in_registrations(|reply| reply.renew_ms = 1),
            Continues,
        ),
        (
            "the longest lease",
            Lies::in_registrations(|reply| reply.ttl_ms = u64::MAX),
            Continues,
        ),
        (
            "the longest lease and interval",
            Lies::in_registrations(|reply| (reply.ttl_ms, reply.renew_ms) = (u64::MAX, u64::MAX)),
            Continues,
        ),
        (
            "leases of 0 ms",
            Lies::in_registrations(|reply| reply.ttl_ms = 0),
            Ends("its leases live for 0 ms"),
        ),
        (
            "leases and interval of 0 ms",
            Lies::in_registrations(|reply| (reply.ttl_ms, reply.renew_ms) = (0, 0)),
            Ends("live for 0 ms"),
        ),
        (
            "leases of 1 ms",
            Lies::in_registrations(|reply| reply.ttl_ms = 1),
            Ends("its leases live for 1 ms"),
        ),
        (
            "epoch 0",
            Lies::in_registrations(|reply| reply.epoch = 0),
            Continues,
        ),
        (
            "the last epoch",
            Lies::in_registrations(|reply| reply.epoch = u32::MAX),
            Continues,
        ),
        (
            "session 0",
            Lies::in_registrations(|reply| reply.session_id = 0),
            Continues,
        ),
        (
            "the last session",
            Lies::in_registrations(|reply| reply.session_id = u64::MAX),
            Continues,
        ),
        (
            "no job",
            Lies::in_registrations(|reply| reply.job = None),
            Ends("sent no job"),
        ),
        (
            "counts that overflow",
            Lies::in_registrations(|reply| reply.status = Some(status())),
            Continues,
        ),
        (
            "drop leases that are not held",
            Lies::in_registrations(|reply| reply.drop_leases = held(80_000)),
            Continues,
        ),
        (
            "a rejection with control characters",
            Lies::refusal(STEERS),
            Ends("\\u{1b}[2J"),
        ),
        (
            "a long rejection",
            Lies::refusal(&"\u{9b}".repeat(2000)),
            Ends("\\u{9b}\\u{9b}"),
        ),
    ]
}

/// False job options.
fn lies_about_the_job() -> Vec<(&'static str, Lies, Expected)> {
    vec![
        (
            "no timeout",
            Lies::in_the_job(|job| job.timeout_ms = 0),
            Continues,
        ),
        (
            "the longest timeout",
            Lies::in_the_job(|job| job.timeout_ms = u64::MAX),
            Continues,
        ),
        (
            "the most retries",
            Lies::in_the_job(|job| job.retries = u32::MAX),
            Continues,
        ),
        (
            "300 headers",
            headers(300, 1),
            Ends("its request headers are 300"),
        ),
        (
            "40,000 headers",
            headers(40_000, 1),
            Ends("its request headers are 40000"),
        ),
        (
            "long headers",
            headers(10, 90_000),
            Ends("its bytes of request headers are"),
        ),
        (
            "a header with control characters",
            Lies::in_the_job(|job| {
                job.headers = vec![proto::Header {
                    name: STEERS.to_owned(),
                    value: Vec::new(),
                }];
            }),
            Ends("use the request header \"\\u{1b}[2J"),
        ),
        (
            "900 kB of certificates",
            Lies::in_the_job(|job| job.ca_pem = vec![b'-'; 900_000]),
            Ends("its bytes of certificates"),
        ),
        (
            "an answer that is too long",
            Lies::in_the_job(|job| job.ca_pem = vec![b'-'; 3_000_000]),
            Continues,
        ),
        (
            "no URL",
            Lies::in_the_job(|job| job.url_template.clear()),
            Ends("it is no URL"),
        ),
        (
            "a file URL",
            Lies::in_the_job(|job| "file:///etc/passwd".clone_into(&mut job.url_template)),
            Ends("its scheme is file:"),
        ),
        (
            "a long URL",
            Lies::in_the_job(|job| job.url_template = format!("http://h/{}", "x".repeat(500_000))),
            Ends("bytes of URL"),
        ),
        (
            "a URL with control characters",
            Lies::in_the_job(|job| job.url_template = format!("http://{STEERS}/")),
            Ends("it is no URL"),
        ),
        (
            "a run id with control characters",
            Lies::in_the_job(|job| STEERS.clone_into(&mut job.run_id)),
            Ends("the id of its run"),
        ),
        (
            "a long run id",
            Lies::in_the_job(|job| job.run_id = "a".repeat(100_000)),
            Ends("the id of its run"),
        ),
    ]
}

/// False answers to renewals, `Acquire` calls and reports.
fn lies_in_answers() -> Vec<(&'static str, Lies, Expected)> {
    let again = |reply: &mut proto::AcquireReply| reply.leases = vec![lease(WNID, 5); 3];
    let odd = |reply: &mut proto::AcquireReply| {
        reply.leases = ["", "n1", STEERS, "n99999999999999"]
            .map(|wnid| lease(wnid, 1))
            .into();
    };
    let traced = |reply: &mut proto::AcquireReply| {
        let traceparent = STEERS.repeat(1000);
        reply.leases = vec![proto::Lease {
            traceparent,
            ..lease(WNID, u64::MAX)
        }];
    };
    let reregister = proto::Directive::Reregister;
    vec![
        (
            "drop 80,000 leases",
            Lies::in_renewals(|reply| reply.drop_leases = held(80_000)),
            Continues,
        ),
        (
            "always register again",
            Lies::in_renewals(move |reply| reply.directive = reregister.into()),
            Continues,
        ),
        (
            "register again after each grant",
            Lies::in_grants(move |reply| reply.directive = reregister.into()),
            Continues,
        ),
        (
            "an unknown directive",
            Lies::in_renewals(|reply| reply.directive = 99),
            Continues,
        ),
        ("the same lease again", Lies::in_grants(again), Continues),
        ("leases of invalid classes", Lies::in_grants(odd), Continues),
        (
            "50,000 leases of invalid classes",
            Lies::in_grants(|reply| reply.leases = vec![lease("", 1); 50_000]),
            Continues,
        ),
        (
            "a trace with control characters",
            Lies::in_grants(traced),
            Continues,
        ),
        (
            "counts of grants",
            Lies::in_grants(|reply| reply.status = Some(status())),
            Continues,
        ),
        (
            "settled 60,000 times",
            Lies::in_receipts(|reply| reply.acked = wnids(60_000)),
            Continues,
        ),
        (
            "counts of receipts",
            Lies::in_receipts(|reply| reply.status = Some(status())),
            Continues,
        ),
    ]
}

/// Budgets with extreme limits of connections, rates and pauses.
fn budgets() -> Vec<proto::Budget> {
    let most = u64::MAX;
    let all = |number: u64, connections| proto::Budget {
        version: number,
        connections,
        bytes_per_second: number,
        pause_ms: number,
        observe_ms: number,
        resumed: 0,
    };
    vec![
        all(0, 0),
        all(1, 1),
        all(most, u32::MAX),
        proto::Budget {
            connections: 1,
            observe_ms: 0,
            bytes_per_second: 1,
            ..proto::Budget::default()
        },
        proto::Budget {
            connections: u32::MAX,
            bytes_per_second: most,
            ..proto::Budget::default()
        },
    ]
}

/// CPU time and peak memory of a process; `None` after its end.
fn cost(process: u32) -> Option<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<u64> = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .skip(11)
        .take(2)
        .map_while(|field| field.parse().ok())
        .collect();
    let peak = memory::of(process).ok()?.peak;
    // `USER_HZ` is 100 per second on Linux. A process that has ended has no memory.
    (peak > 0).then(|| (Duration::from_millis(fields.iter().sum::<u64>() * 10), peak))
}

fn calls(coordinator: &Scripted) -> usize {
    let calls = coordinator.told();
    calls.registrations.len() + calls.renewals + calls.acquires + calls.reports.len()
}

/// Panics if the text contains characters that a terminal interprets.
#[track_caller]
fn assert_printable(what: &str, text: &str) {
    let plain =
        |character: char| character == ' ' || character == '\n' || character.is_ascii_graphic();
    let is_interpreted = |character: &char| STEERS.contains(*character) && !plain(*character);
    let found: Vec<char> = text.chars().filter(is_interpreted).collect();
    assert!(found.is_empty(), "{what}: {found:?} in {text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("INFO forged")),
        "{what}: {text}"
    );
}

/// Runs one worker with false answers. The error lists the limits and expectations it violated.
fn try_lie(what: &str, lies: &Lies, pace: Pace, expected: Expected) -> Result<(), String> {
    let origin = Origin::start();
    origin.class(WNID, images(WNID, 10, 8000..12_000, 1));
    // Slow enough that the class is in progress for the whole measurement.
    origin.limit_rate(5000);
    let job = Job::new();
    let coordinator = Scripted::start(&origin);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().lies = lies.clone();
    coordinator.answers().pace = pace;
    let target = job.target_path().to_str().expect("a plain path");
    let args = [
        "--connect",
        &coordinator.url(),
        "--name",
        "w",
        "--workers",
        "2",
        "--target",
        target,
    ];
    let mut worker = job.start_worker_with(args);
    let process = worker.id();
    let ends = matches!(expected, Ends(_));
    let started = |worker: &mut Running| !worker.is_running() || calls(&coordinator) > 1;
    wait_until(Duration::from_secs(30), || {
        (started(&mut worker) || !ends).then_some(())
    });
    wait_until(Duration::from_secs(30), || {
        (!coordinator.told().registrations.is_empty()).then_some(())
    });
    let before = cost(process);
    let made = calls(&coordinator);
    // This sleep is the measured period; it does not wait for an event.
    thread::sleep(if ends { Duration::ZERO } else { MEASURED });
    let after = cost(process);
    let made = calls(&coordinator) - made;
    let mut wrong = Vec::new();
    if let (Some((cpu, _)), Some((later, peak))) = (before, after) {
        let busy = later.saturating_sub(cpu);
        if busy > MAX_CPU || made > MAX_CALLS || peak > MAX_MEMORY {
            wrong.push(format!("{busy:?} busy, {made} calls, {} MiB", peak >> 20));
        }
    }
    coordinator.answers().lies = Lies::default();
    coordinator.answers().job_done = true;
    let finished = worker.wait();
    let code = match expected {
        Continues => 0,
        Ends(_) => 2,
    };
    if finished.code != Some(code) || finished.stderr.contains("panicked") {
        wrong.push(format!("code {:?}: {}", finished.code, finished.stderr));
    }
    if let Ends(words) = expected
        && (!finished.stderr.contains(words) || finished.stderr.len() > 4000)
    {
        wrong.push(format!("no {words:?} in {}", finished.stderr));
    }
    assert_printable(what, &finished.stderr);
    let log = job.log_of("w");
    assert_printable(what, &log);
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{what}: {}", wrong.join("; ")))
    }
}

/// Runs one worker for each entry of `lies`, six at a time. Prints the number of entries and of
/// workers that passed.
#[track_caller]
#[expect(
    clippy::print_stdout,
    reason = "figures for the reader of the test output"
)]
fn try_all(kind: &str, lies: &[(&'static str, Lies, Expected)], paces: &[Pace]) {
    let mut wrong = Vec::new();
    for some in lies
        .iter()
        .zip(paces.iter().cycle())
        .collect::<Vec<_>>()
        .chunks(6)
    {
        let results: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|((what, lies, expected), pace)| {
                    scope.spawn(move || try_lie(what, lies, **pace, *expected))
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err("panicked".to_owned())))
                .collect()
        });
        wrong.extend(results.into_iter().filter_map(Result::err));
    }
    println!(
        "{kind}: {} false answers tried, {} passed",
        lies.len(),
        lies.len() - wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn false_session_data_does_not_make_a_worker_spin_panic_or_use_unbounded_memory() {
    try_all("session", &lies_about_the_session(), &[Pace::Unknown]);
}

#[test]
fn false_job_options_do_not_make_a_worker_spin_panic_or_use_unbounded_memory() {
    try_all("job", &lies_about_the_job(), &[Pace::Unknown]);
}

#[test]
fn false_answers_do_not_make_a_worker_spin_panic_or_use_unbounded_memory() {
    try_all("answers", &lies_in_answers(), &[Pace::Unknown]);
}

#[test]
fn no_budget_makes_a_worker_spin_panic_or_use_unbounded_memory() {
    let paces: Vec<Pace> = budgets().into_iter().map(Pace::Budget).collect();
    let lies: Vec<_> = paces
        .iter()
        .map(|_| ("a budget", Lies::default(), Continues))
        .collect();
    try_all("budgets", &lies, &paces);
}

#[test]
fn commands_print_no_terminal_control_characters_from_a_coordinator() {
    let job = Job::new();
    let coordinator = Scripted::start(&Origin::start());
    let url = coordinator.url();
    let mut tried = 0;
    for (words, code) in [
        (&["status"][..], 0),
        (&["status", "--json"], 0),
        (&["retry"], 2),
        (&["retry", WNID], 2),
        (&["drain", "w"], 2),
        (&["resume"], 2),
    ] {
        let finished = job
            .start_with(words.iter().copied().chain(["--connect", &url]))
            .wait();
        assert_eq!(
            finished.code,
            Some(code),
            "{words:?}: {} {}",
            finished.stdout,
            finished.stderr
        );
        for text in [&finished.stdout, &finished.stderr] {
            assert_printable(&format!("{words:?}"), text);
        }
        let text = if code == 0 {
            &finished.stdout
        } else {
            &finished.stderr
        };
        assert!(
            text.contains("u{1b}[2J"),
            "{words:?} prints the text of the coordinator escaped: {text}"
        );
        tried += 1;
    }
    println!("commands: {tried} tried, {tried} passed");
}

/// Starts a worker in the network namespace of a host.
fn worker_on(
    host: &Host,
    job: &Job,
    coordinator: &Scripted,
    target: &Path,
    flags: &[&str],
) -> Running {
    let connect = coordinator.url();
    let target = target.to_str().expect("a plain path");
    let always = [
        "--connect",
        &connect,
        "--name",
        "w",
        "--workers",
        "1",
        "--target",
        target,
    ];
    host.start_worker(job, always.into_iter().chain(flags.iter().copied()))
}

/// The metadata address, at which cloud providers serve credentials.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

#[test]
fn a_remote_coordinator_cannot_direct_a_worker_to_internal_addresses() {
    let Some((_network, [host, elsewhere])) = Network::of(["worker", "elsewhere"]) else {
        return;
    };
    host.add_address(METADATA);
    host.know(&format!(
        "{METADATA} metadata.test\n{} inside.test\n127.0.0.1 here.test\n",
        host.address
    ));
    let listen = |address: Ipv4Addr| {
        host.on(|| Origin::listen(&format!("{address}:0")))
            .expect("a free port")
    };
    let [metadata, inside, here] = [METADATA, host.address, Ipv4Addr::LOCALHOST].map(listen);
    for origin in [&metadata, &inside, &here] {
        origin.class(WNID, images(WNID, 10, 8000..12_000, 1));
    }
    let coordinator = elsewhere.on(|| Scripted::start_at(elsewhere.address, &inside));
    let never = "has a link-local or reserved address, which is never asked";
    let only_if_allowed = "start the worker with --allow-private-origin";
    let mut tried = 0;
    for (origin, hosts, words) in [
        (
            &metadata,
            &[
                "169.254.169.254",
                "2852039166",
                "[::ffff:a9fe:a9fe]",
                "metadata.test",
            ][..],
            never,
        ),
        (
            &inside,
            &["10.77.0.1", "[::ffff:10.77.0.1]", "inside.test"],
            only_if_allowed,
        ),
        (
            &here,
            &[
                "127.0.0.1",
                "localhost",
                "0x7f.1",
                "[::ffff:127.0.0.1]",
                "here.test",
            ],
            only_if_allowed,
        ),
    ] {
        for name in hosts {
            let url = format!("http://{name}:{}/{{wnid}}.tar", origin.address().port());
            coordinator.answers().lies =
                Lies::in_the_job(move |job| job.url_template.clone_from(&url));
            let flags = if words == never {
                &["--allow-private-origin"][..]
            } else {
                &[]
            };
            let job = Job::new();
            let finished = worker_on(&host, &job, &coordinator, job.target_path(), flags).wait();
            job.assert_could_not_run(&finished, &["failed to ask the origin: ", words]);
            assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
            assert_eq!(
                origin.most_connections(),
                0,
                "the worker connected to {name}"
            );
            tried += 1;
        }
    }
    assert!(
        coordinator
            .told()
            .farewells
            .iter()
            .all(|farewell| farewell.reason.contains("ask the origin"))
    );
    println!("addresses: {tried} tried, {tried} passed");
}

#[test]
fn a_worker_with_allow_private_origin_connects_to_it_and_follows_no_redirect_from_it() {
    let Some((_network, [host, elsewhere])) = Network::of(["worker", "elsewhere"]) else {
        return;
    };
    host.add_address(METADATA);
    host.know(&format!("{METADATA} metadata.test\n"));
    let listen = |address: Ipv4Addr| {
        host.on(|| Origin::listen(&format!("{address}:0")))
            .expect("a free port")
    };
    let [metadata, inside] = [METADATA, host.address].map(listen);
    let tar = images(WNID, 10, 8000..12_000, 1);
    metadata.class(WNID, tar.clone());
    inside.class(WNID, tar.clone());
    let port = metadata.address().port();
    for name in [
        "",
        "169.254.169.254",
        "metadata.test",
        "[::ffff:a9fe:a9fe]",
        "127.0.0.1",
    ] {
        if !name.is_empty() {
            let there = Answer::redirect(&format!("http://{name}:{port}/{WNID}.tar"));
            inside.class(WNID, tar.clone()).forever(there);
        }
        let job = Job::new();
        let coordinator = elsewhere.on(|| Scripted::start_at(elsewhere.address, &inside));
        coordinator.answers().leases = vec![lease(WNID, 5)];
        let worker = worker_on(
            &host,
            &job,
            &coordinator,
            job.target_path(),
            &["--allow-private-origin"],
        );
        coordinator.wait_for("the class is reported", |calls| !calls.reports.is_empty());
        coordinator.answers().job_done = true;
        assert_eq!(worker.wait().code, Some(0));
        match coordinator.told().results()[0]
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.kind.clone())
        {
            Some(proto::outcome::Kind::Success(_)) if name.is_empty() => {
                assert_class_is(&tar, &job.class_folder(WNID));
            }
            Some(proto::outcome::Kind::Failure(failure)) if !name.is_empty() => {
                assert!(
                    failure
                        .message
                        .starts_with("redirect to another host refused: "),
                    "{}",
                    failure.message
                );
            }
            other => panic!("{name:?}: {other:?}"),
        }
        assert_eq!(
            metadata.most_connections(),
            0,
            "the worker connected to {name}"
        );
    }
}
